//! The hall's own words for the store: families and snapshots in, one guarded batch out.
//!
//! **Guards.** A [`Change`] guards every record that it changes at the revision that was read. That alone
//! does not exclude a publication that comes to exist between a delete's read and its commit; so a new
//! publication also guards the volume and the attachment and writes the Mount's record again, and whoever takes a mount
//! or an attachment down changes it: one of the two loses.
//!
//! **Work index.** `w/v/<id>` stands for every family with an unfinished wish, so that a start need not read
//! everything. Each wish writes it anew, and only a driver that came to rest removes it, guarded at the
//! revision that stood before the driver read the family: a wish that came in between keeps it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    error::{Error, Kind},
    family::Family,
    model::{
        Attachment, BackendName, Group, GroupId, GroupState, Handle, HolderId, LostMount, Mount, MountState,
        NodeId, Publication, Snapshot, SnapshotId, SnapshotName, SnapshotState, Volume, VolumeId, VolumeName,
        VolumeState,
    },
    ports::store::{Batch, Durability, Entry, Guard, Key, Revision, Store},
    records::{self, Marker, Record, keys},
};

/// How often a change is tried again because somebody else was faster.
const ATTEMPTS: usize = 64;

/// How many entries are read at once.
const PAGE: usize = 1_000;

/// How many records of a family, or of another short list, are read at once: nearly all are shorter, and stores
/// answer short pages at once.
const FAMILY_PAGE: usize = 16;

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
}

/// Changes to any number of records that happen together.
#[derive(Debug, Default)]
pub(crate) struct Change {
    guards: BTreeMap<Key, Option<Revision>>,
    puts: BTreeMap<Key, Vec<u8>>,
    deletes: BTreeSet<Key>,
    frees_space: bool,
}

impl Journal {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
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

    /// Commits a change; `Busy` says that somebody else was faster and nothing happened.
    pub(crate) async fn commit(&self, change: Change, durability: Durability) -> Result<(), Error> {
        if change.puts.is_empty() && change.deletes.is_empty() {
            return Ok(());
        }
        self.store.commit(change.into_batch(), durability).await.map(drop)
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
            let mut change = Change::default();
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

impl Change {
    /// The difference between a family as it was read and as it is to be.
    pub(crate) fn family(&mut self, seen: &Seen<Family>, now: &Family) {
        let (was, id) = (&seen.value, now.id);
        self.one(seen, keys::volume(id), was.volume.as_ref(), now.volume.as_ref());
        if was.volume.is_some()
            && now.volume.is_none()
            && let Some(volume) = &was.volume
        {
            self.deletes.insert(keys::volume_name(&volume.name));
        }
        let handle = |volume: &Option<Volume>| {
            let volume = volume.as_ref()?;
            volume.handle.as_ref().map(|handle| keys::volume_handle(&volume.backend, handle))
        };
        self.index(handle(&was.volume), handle(&now.volume), &id);
        let nodes: BTreeSet<&NodeId> = was
            .attachments
            .keys()
            .chain(now.attachments.keys())
            .chain(was.mounts.keys())
            .chain(now.mounts.keys())
            .chain(was.lost.keys())
            .chain(now.lost.keys())
            .collect();
        for node in nodes {
            self.one(seen, keys::attachment(id, node), was.attachments.get(node), now.attachments.get(node));
            self.one(seen, keys::mount(id, node), was.mounts.get(node), now.mounts.get(node));
            self.one(seen, keys::lost_mount(id, node), was.lost.get(node), now.lost.get(node));
            match (was.has_on(node), now.has_on(node)) {
                (false, true) => self.put(keys::node_mount(node, id), &Marker),
                (true, false) => self.delete(keys::node_mount(node, id)),
                _ => {}
            }
        }
        let holders: BTreeSet<&(NodeId, HolderId)> =
            was.publications.keys().chain(now.publications.keys()).collect();
        for pair in holders {
            let key = keys::publication(id, &pair.0, &pair.1);
            let (before, after) = (was.publications.get(pair), now.publications.get(pair));
            self.one(seen, key, before, after);
            if before.is_none() && after.is_some() {
                self.guard(seen, keys::volume(id));
                self.guard(seen, keys::attachment(id, &pair.0));
                if let Some(mount) = now.mounts.get(&pair.0) {
                    self.touch(seen, keys::mount(id, &pair.0), mount);
                }
            }
        }
        if was != now {
            if now.is_unfinished() {
                self.put(keys::work_volume(id), &Marker);
            }
            self.frees_space |= frees_space(was, now);
        }
    }

    /// The difference between a snapshot's record as it was read and as it is to be.
    pub(crate) fn snapshot(&mut self, id: SnapshotId, seen: &Seen<Option<Snapshot>>, now: Option<&Snapshot>) {
        self.one(seen, keys::snapshot(id), seen.value.as_ref(), now);
        if let (Some(was), None) = (&seen.value, now) {
            self.deletes.insert(keys::snapshot_name(&was.name));
            self.frees_space = true;
        }
        let handle = |snapshot: Option<&Snapshot>| {
            let snapshot = snapshot?;
            snapshot.handle.as_ref().map(|handle| keys::snapshot_handle(&snapshot.backend, handle))
        };
        self.index(handle(seen.value.as_ref()), handle(now), &id);
        let place = |snapshot: Option<&Snapshot>| snapshot?.group.as_ref().map(keys::place);
        self.index(place(seen.value.as_ref()), place(now), &id);
        if let Some(place) = now.filter(|_| seen.value.is_none()).and_then(|now| now.group.as_ref()) {
            self.put(keys::group_name(&place.name), &place.group);
        }
        if seen.value.as_ref() == now {
            return;
        }
        match now.map(|snapshot| snapshot.state) {
            Some(SnapshotState::Creating | SnapshotState::Cut | SnapshotState::Deleting) => {
                self.put(keys::work_snapshot(id), &Marker);
            }
            Some(SnapshotState::Ready) | None => self.delete(keys::work_snapshot(id)),
        }
        self.frees_space |= now.is_some_and(|snapshot| snapshot.state == SnapshotState::Deleting);
    }

    /// The difference between what is wished of a group as it was read and as it is to be.
    fn group(&mut self, id: GroupId, seen: &Seen<Option<Group>>, now: Option<&Group>) {
        self.one(seen, keys::group(id), seen.value.as_ref(), now);
        self.frees_space |= now.is_some_and(|group| group.state == GroupState::Deleting);
    }

    /// Moves a thing's entry in an index.
    fn index<T: Record>(&mut self, was: Option<Key>, now: Option<Key>, thing: &T) {
        if was == now {
            return;
        }
        if let Some(key) = was {
            self.delete(key);
        }
        if let Some(key) = now {
            self.put(key, thing);
        }
    }

    /// Lets the change fail unless this record is as it was read, although it is not changed.
    pub(crate) fn guard<T>(&mut self, seen: &Seen<T>, key: Key) {
        let revision = seen.revision(&key);
        self.guards.insert(key, revision);
    }

    /// Lets the change fail unless there is no such record.
    pub(crate) fn guard_absent(&mut self, key: Key) {
        self.guards.insert(key, None);
    }

    /// Writes a record again although it did not change, so that whoever read it before loses.
    pub(crate) fn touch<T, R: Record>(&mut self, seen: &Seen<T>, key: Key, record: &R) {
        self.guard(seen, key.clone());
        self.put(key, record);
    }

    /// Writes a record.
    pub(crate) fn put<T: Record>(&mut self, key: Key, record: &T) {
        let value = records::encode(&key, record);
        self.deletes.remove(&key);
        self.puts.insert(key, value);
    }

    /// Removes a record.
    pub(crate) fn delete(&mut self, key: Key) {
        self.puts.remove(&key);
        self.deletes.insert(key);
    }

    /// Says that the change only frees space, so that a full disk takes it.
    pub(crate) fn frees_space(&mut self) {
        self.frees_space = true;
    }

    fn one<T, R: Record + PartialEq>(&mut self, seen: &Seen<T>, key: Key, was: Option<&R>, now: Option<&R>) {
        if was == now {
            return;
        }
        self.guard(seen, key.clone());
        match now {
            Some(record) => self.put(key, record),
            None => self.delete(key),
        }
    }

    fn into_batch(self) -> Batch {
        Batch {
            guards: self
                .guards
                .into_iter()
                .map(|(key, revision)| match revision {
                    Some(revision) => Guard::At(key, revision),
                    None => Guard::Absent(key),
                })
                .collect(),
            puts: self.puts.into_iter().collect(),
            deletes: self.deletes.into_iter().collect(),
            frees_space: self.frees_space,
        }
    }
}

/// Whether a change of a family only takes things down: a full disk takes such changes still.
fn frees_space(was: &Family, now: &Family) -> bool {
    let fewer = now.publications.len() < was.publications.len()
        || now.mounts.len() < was.mounts.len()
        || now.attachments.len() < was.attachments.len()
        || now.lost.len() < was.lost.len()
        || (was.volume.is_some() && now.volume.is_none());
    let leaving = now.volume.as_ref().is_some_and(|volume| volume.state == VolumeState::Deleting)
        || now.mounts.values().any(|mount| mount.state == MountState::Unmounting)
        || now.publications.iter().any(|(key, publication)| {
            was.publications.get(key).is_some_and(|before| before.count > publication.count)
        });
    fewer || leaving
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
