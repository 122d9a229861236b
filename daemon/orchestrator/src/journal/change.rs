//! A change to the records: what is different from what was read, as one batch with its guards.

use std::collections::{BTreeMap, BTreeSet};

use super::Seen;
use crate::{
    family::Family,
    model::{
        Group, GroupId, GroupState, HolderId, MountState, NodeId, Snapshot, SnapshotId, SnapshotState,
        Volume, VolumeState,
    },
    ports::store::{Batch, Guard, Key, Revision},
    records::{self, Marker, Record, keys},
};

/// Changes to any number of records that happen together.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(super) guards: BTreeMap<Key, Option<Revision>>,
    pub(super) puts: BTreeMap<Key, Vec<u8>>,
    pub(super) deletes: BTreeSet<Key>,
    pub(super) frees_space: bool,
    pub(super) insists: bool,
    pub(super) by: Option<NodeId>,
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
                (false, true) => self.put(keys::node_mount(node, id), &Marker::default()),
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
        if self.insists {
            seen.revisions.keys().for_each(|key| self.guard(seen, key.clone()));
        }
        if was != now || self.insists {
            if now.is_unfinished() {
                let by = now.seat().or_else(|| self.by.clone());
                self.put(keys::work_volume(id), &Marker { by });
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
                self.put(
                    keys::work_snapshot(id),
                    &Marker { by: now.and_then(|now| now.seat.clone()).or_else(|| self.by.clone()) },
                );
            }
            Some(SnapshotState::Ready) | None => self.delete(keys::work_snapshot(id)),
        }
        self.frees_space |= now.is_some_and(|snapshot| snapshot.state == SnapshotState::Deleting);
    }

    /// The difference between what is wished of a group as it was read and as it is to be.
    pub(super) fn group(&mut self, id: GroupId, seen: &Seen<Option<Group>>, now: Option<&Group>) {
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

    /// Commits even where nothing changes, so that whoever shares the records agrees that all of it is still as it was
    /// read.
    pub(crate) fn insist(&mut self) {
        self.insists = true;
    }

    /// Has another node's driver look after the wish.
    pub(crate) fn leave_to(&mut self, node: NodeId) {
        self.by = Some(node);
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

    pub(super) fn into_batch(self) -> Batch {
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
