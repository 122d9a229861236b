//! The hall's own words for the store: families and snapshots in, one guarded batch out.
//!
//! **Guards.** A [`Change`] guards every record that it changes at the revision that was read. That alone
//! does not exclude a publication that comes to exist between a delete's read and its commit; so a new
//! publication also guards the volume and the attachment and writes the Mount's record again, and whoever takes a mount
//! or an attachment down changes it: one of the two loses.
//!
//! **Work index.** `w/v/<id>` stands for every family with an unfinished wish, so that a start need not read
//! everything. Each wish writes it anew, and only a driver that came to rest removes it, guarded at the
//! revision that stood before the driver read the family: a wish that came in between keeps it. Where several
//! daemons share the records, it names the one whose driver looks after what can be done anywhere.
//!
//! **Claims.** What is written while a step is taken is written under the step's claim ([`under`]): a node that
//! was paused for longer than its lease writes nothing late.

mod change;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

pub(crate) use self::change::Change;
use crate::{
    error::{Error, Kind},
    family::Family,
    model::{
        Attachment, BackendName, Group, GroupId, Handle, LostMount, Mount, NodeId, Publication, Snapshot,
        SnapshotId, SnapshotName, VolumeId, VolumeName,
    },
    ports::store::{Claim, Durability, Entry, Guard, Key, Revision, Store},
    records::{self, Marker, Record, keys},
};

/// How often a change is tried again because somebody else was faster.
const ATTEMPTS: usize = 64;

/// How many entries are read at once.
const PAGE: usize = 1_000;

/// How many records of a family, or of another short list, are read at once: nearly all are shorter, and stores
/// answer short pages at once.
const FAMILY_PAGE: usize = 16;

tokio::task_local! {
    /// The claim that what is written here and now is written under.
    static CLAIM: Guard;
}

/// Takes a step: everything that it commits is refused unless the claim is held still.
pub(crate) async fn under<T>(claim: &dyn Claim, step: impl Future<Output = T>) -> T {
    CLAIM.scope(claim.guard(), step).await
}

/// A value with the revisions that it was read at.
#[derive(Clone, Debug)]
pub(crate) struct Seen<T> {
    pub(crate) value: T,
    revisions: BTreeMap<Key, Revision>,
}

impl<T> Seen<T> {
    /// The revision that a record was read at; nothing if it was absent.
    fn revision(&self, key: &str) -> Option<Revision> {
        self.revisions.get(key).copied()
    }
}

/// The store, in the hall's words.
#[derive(Clone)]
pub(crate) struct Journal {
    store: Arc<dyn Store>,
    /// Who writes.
    node: NodeId,
    /// What was committed here, so that it is no news when it is heard of; nothing where nobody else writes.
    own: Option<Arc<Mutex<BTreeSet<Revision>>>>,
}

impl Journal {
    pub(crate) fn new(store: Arc<dyn Store>, node: NodeId, is_shared: bool) -> Self {
        Self { store, node, own: is_shared.then(Arc::default) }
    }

    /// Whether this is what was committed here; to be asked in the order of revisions.
    pub(crate) fn is_own(&self, revision: Revision) -> bool {
        let Some(own) = &self.own else { return false };
        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
        let found = own.contains(&revision);
        *own = own.split_off(&revision);
        found
    }

    /// Everything that the records say of a volume.
    pub(crate) async fn family(&self, id: VolumeId) -> Result<Seen<Family>, Error> {
        let root = keys::volume(id);
        let mut family = Family::none(id);
        let mut revisions = BTreeMap::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.scan(&root, after.as_deref(), FAMILY_PAGE).await?;
            let full = page.len() == FAMILY_PAGE;
            after = page.last().map(|entry| entry.key.clone());
            for entry in page {
                revisions.insert(entry.key.clone(), entry.revision);
                sort_in(&mut family, &root, &entry)?;
            }
            if !full {
                return Ok(Seen { value: family, revisions });
            }
        }
    }

    /// The families of volumes whose keys come after this one, at most so many; and whether there are more.
    pub(crate) async fn families(
        &self,
        mut after: Option<Key>,
        limit: usize,
    ) -> Result<(Vec<Family>, bool), Error> {
        let mut families: Vec<Family> = Vec::new();
        loop {
            // Most families are one record; one more tells whether there is more.
            let wanted = limit.saturating_sub(families.len()).saturating_add(1).clamp(16, PAGE);
            let page = self.store.scan(keys::VOLUMES, after.as_deref(), wanted).await?;
            for entry in &page {
                let Some(id) = keys::volume_of(&entry.key) else { continue };
                if families.last().is_none_or(|family| family.id != id) {
                    if families.len() == limit {
                        return Ok((families, true));
                    }
                    families.push(Family::none(id));
                }
                if let Some(family) = families.last_mut() {
                    sort_in(family, &keys::volume(id), entry)?;
                }
            }
            if page.len() < wanted {
                return Ok((families, false));
            }
            after = page.last().map(|entry| entry.key.clone());
        }
    }

    /// The record of a snapshot, if there is one.
    pub(crate) async fn snapshot(&self, id: SnapshotId) -> Result<Seen<Option<Snapshot>>, Error> {
        self.record(keys::snapshot(id)).await
    }

    /// What is wished of a group, if anything is.
    pub(crate) async fn group(&self, id: GroupId) -> Result<Seen<Option<Group>>, Error> {
        self.record(keys::group(id)).await
    }

    /// The snapshots of a group that are cut, in their order.
    pub(crate) async fn members(&self, id: GroupId) -> Result<Vec<Snapshot>, Error> {
        let mut members = Vec::new();
        for snapshot in self.all::<SnapshotId>(&keys::places(id)).await? {
            members.extend(self.snapshot(snapshot).await?.value);
        }
        Ok(members)
    }

    /// Any single record, if it is there.
    pub(crate) async fn record<T: Record>(&self, key: Key) -> Result<Seen<Option<T>>, Error> {
        let entry = self.store.load(&key).await?;
        let mut revisions = BTreeMap::new();
        let value = match &entry {
            Some(entry) => {
                revisions.insert(key, entry.revision);
                Some(records::decode(entry)?)
            }
            None => None,
        };
        Ok(Seen { value, revisions })
    }

    /// The volume of that name.
    pub(crate) async fn volume_id(&self, name: &VolumeName) -> Result<Option<VolumeId>, Error> {
        Ok(self.record::<VolumeId>(keys::volume_name(name)).await?.value)
    }

    /// The snapshot of that name.
    pub(crate) async fn snapshot_id(&self, name: &SnapshotName) -> Result<Option<SnapshotId>, Error> {
        Ok(self.record::<SnapshotId>(keys::snapshot_name(name)).await?.value)
    }

    /// The volume that this backend calls so.
    pub(crate) async fn volume_of_handle(
        &self,
        backend: &BackendName,
        handle: &Handle,
    ) -> Result<Option<VolumeId>, Error> {
        Ok(self.record::<VolumeId>(keys::volume_handle(backend, handle)).await?.value)
    }

    /// The snapshot that this backend calls so.
    pub(crate) async fn snapshot_of_handle(
        &self,
        backend: &BackendName,
        handle: &Handle,
    ) -> Result<Option<SnapshotId>, Error> {
        Ok(self.record::<SnapshotId>(keys::snapshot_handle(backend, handle)).await?.value)
    }

    /// A page of entries beneath a prefix.
    pub(crate) async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        self.store.scan(prefix, after, limit).await
    }

    /// All records beneath a prefix. For those that are few by their nature: small pages are read without leaving
    /// the thread.
    pub(crate) async fn all<T: Record>(&self, prefix: &str) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.scan(prefix, after.as_deref(), FAMILY_PAGE).await?;
            for entry in &page {
                all.push(records::decode(entry)?);
            }
            if page.len() < FAMILY_PAGE {
                return Ok(all);
            }
            after = page.last().map(|entry| entry.key.clone());
        }
    }

    /// All keys beneath a prefix, without the prefix. For indexes, which are short by their nature.
    pub(crate) async fn segments(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut all = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.scan(prefix, after.as_deref(), PAGE).await?;
            let full = page.len() == PAGE;
            after = page.last().map(|entry| entry.key.clone());
            all.extend(page.iter().filter_map(|entry| entry.key.strip_prefix(prefix)).map(str::to_owned));
            if !full {
                return Ok(all);
            }
        }
    }

    /// All marks beneath a prefix, with what they mark.
    pub(crate) async fn marks(&self, prefix: &str) -> Result<Vec<(String, Marker)>, Error> {
        let mut all = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let page = self.store.scan(prefix, after.as_deref(), PAGE).await?;
            for entry in &page {
                if let Some(segment) = entry.key.strip_prefix(prefix) {
                    all.push((segment.to_owned(), records::decode(entry)?));
                }
            }
            if page.len() < PAGE {
                return Ok(all);
            }
            after = page.last().map(|entry| entry.key.clone());
        }
    }

    /// Commits a change; `Busy` says that somebody else was faster and nothing happened.
    pub(crate) async fn commit(&self, change: Change, durability: Durability) -> Result<(), Error> {
        if change.puts.is_empty() && change.deletes.is_empty() {
            return Ok(());
        }
        let mut batch = change.into_batch();
        batch.guards.extend(CLAIM.try_with(Clone::clone));
        let revision = self.store.commit(batch, durability).await?;
        if let Some(own) = &self.own {
            own.lock().unwrap_or_else(PoisonError::into_inner).insert(revision);
        }
        Ok(())
    }

    /// Takes a family off the work index, unless somebody wished something since the mark was read.
    pub(crate) async fn rest(&self, id: VolumeId, mark: &Seen<Option<Marker>>) -> Result<(), Error> {
        if mark.value.is_none() {
            return Ok(());
        }
        let key = keys::work_volume(id);
        let mut change = Change::default();
        change.guard(mark, key.clone());
        change.delete(key);
        change.frees_space();
        self.commit(change, Durability::Lazy).await
    }

    /// Reads families and snapshots, lets `edit` change them, and commits the difference as one batch; again
    /// from the start if somebody else was faster. `edit` may refuse, and may add other records to the change.
    pub(crate) async fn edit<T>(
        &self,
        volumes: &[VolumeId],
        snapshots: &[SnapshotId],
        durability: Durability,
        edit: impl FnMut(&mut Draft, &mut Change) -> Result<T, Error> + Send,
    ) -> Result<(Draft, T), Error> {
        self.edit_all(volumes, snapshots, None, durability, edit).await
    }

    /// The same for a group of snapshots, with whatever of volumes and snapshots changes with it.
    pub(crate) async fn edit_group<T>(
        &self,
        id: GroupId,
        volumes: &[VolumeId],
        snapshots: &[SnapshotId],
        durability: Durability,
        edit: impl FnMut(&mut Draft, &mut Change) -> Result<T, Error> + Send,
    ) -> Result<(Draft, T), Error> {
        self.edit_all(volumes, snapshots, Some(id), durability, edit).await
    }

    async fn edit_all<T>(
        &self,
        volumes: &[VolumeId],
        snapshots: &[SnapshotId],
        group: Option<GroupId>,
        durability: Durability,
        mut edit: impl FnMut(&mut Draft, &mut Change) -> Result<T, Error> + Send,
    ) -> Result<(Draft, T), Error> {
        for _ in 0..ATTEMPTS {
            let mut seen_families = Vec::with_capacity(volumes.len());
            let mut seen_snapshots = Vec::with_capacity(snapshots.len());
            let mut draft = Draft::default();
            let seen_group = match group {
                Some(id) => Some(self.group(id).await?),
                None => None,
            };
            draft.group = seen_group.as_ref().and_then(|seen| seen.value.clone());
            for id in volumes {
                let seen = self.family(*id).await?;
                draft.families.insert(*id, seen.value.clone());
                seen_families.push(seen);
            }
            for id in snapshots {
                let seen = self.snapshot(*id).await?;
                draft.snapshots.insert(*id, seen.value.clone());
                seen_snapshots.push((*id, seen));
            }
            let mut change = Change { by: Some(self.node.clone()), ..Change::default() };
            let value = edit(&mut draft, &mut change)?;
            for seen in &seen_families {
                change.family(seen, draft.family(seen.value.id));
            }
            for (id, seen) in &seen_snapshots {
                change.snapshot(*id, seen, draft.snapshot(*id).as_ref());
            }
            if let (Some(id), Some(seen)) = (group, &seen_group) {
                change.group(id, seen, draft.group.as_ref());
            }
            match self.commit(change, durability).await {
                Ok(()) => return Ok((draft, value)),
                Err(error) if error.kind == Kind::Busy => {}
                Err(error) => return Err(error),
            }
        }
        Err(contended())
    }

    /// The same for one family.
    pub(crate) async fn edit_family<T>(
        &self,
        id: VolumeId,
        durability: Durability,
        mut edit: impl FnMut(&mut Family, &mut Change) -> Result<T, Error> + Send,
    ) -> Result<(Family, T), Error> {
        let (mut draft, value) =
            self.edit(&[id], &[], durability, |draft, change| edit(draft.family(id), change)).await?;
        Ok((std::mem::replace(draft.family(id), Family::none(id)), value))
    }

    /// The same for one snapshot's record.
    pub(crate) async fn edit_snapshot<T>(
        &self,
        id: SnapshotId,
        durability: Durability,
        mut edit: impl FnMut(&mut Option<Snapshot>, &mut Change) -> Result<T, Error> + Send,
    ) -> Result<(Option<Snapshot>, T), Error> {
        let (mut draft, value) =
            self.edit(&[], &[id], durability, |draft, change| edit(draft.snapshot(id), change)).await?;
        Ok((draft.snapshot(id).take(), value))
    }
}

/// Records as they are to be.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    families: BTreeMap<VolumeId, Family>,
    snapshots: BTreeMap<SnapshotId, Option<Snapshot>>,
    /// What is wished of the group, where one was read.
    pub(crate) group: Option<Group>,
}

impl Draft {
    /// A volume's family; of one that was not read, an empty one, which is not written either.
    pub(crate) fn family(&mut self, id: VolumeId) -> &mut Family {
        self.families.entry(id).or_insert_with(|| Family::none(id))
    }

    /// A snapshot's record.
    pub(crate) fn snapshot(&mut self, id: SnapshotId) -> &mut Option<Snapshot> {
        self.snapshots.entry(id).or_default()
    }
}

/// What is answered when a record was rewritten by others each time we tried.
pub(crate) fn contended() -> Error {
    Error::busy("other requests keep changing this volume's records: try again in a moment")
}

fn sort_in(family: &mut Family, root: &str, entry: &Entry) -> Result<(), Error> {
    let rest = entry.key.strip_prefix(root).unwrap_or_default();
    if rest.is_empty() {
        family.volume = Some(records::decode(entry)?);
    } else if rest.starts_with("/a/") {
        let attachment: Attachment = records::decode(entry)?;
        family.attachments.insert(attachment.node.clone(), attachment);
    } else if rest.starts_with("/m/") {
        let mount: Mount = records::decode(entry)?;
        family.mounts.insert(mount.node.clone(), mount);
    } else if rest.starts_with("/l/") {
        let lost: LostMount = records::decode(entry)?;
        family.lost.insert(lost.mount.node.clone(), lost);
    } else if rest.starts_with("/p/") {
        let publication: Publication = records::decode(entry)?;
        family.publications.insert((publication.node.clone(), publication.holder.clone()), publication);
    }
    Ok(())
}
