//! How many there are of what, in which state, without reading all records each time somebody asks: everything is
//! counted once, and from then on what changed since the last question is applied. The store remembers the latest
//! changes only, so whoever asks seldom on a busy house has it counted anew.
//!
//! Kept is one small word for each volume, snapshot and mount, and nothing at all until the first question.

use std::collections::HashMap;

use crate::{
    error::{Error, Kind},
    house::House,
    model::{Mount, NodeId, Snapshot, SnapshotId, Volume, VolumeId},
    ports::store::{Entry, Revision, Store},
    records::{self, keys, keys::KeyKind},
};

/// How many entries are read at once.
const PAGE: usize = 1_000;

/// The state of everything, as of a revision.
#[derive(Debug, Default)]
pub(crate) struct Census {
    next: Revision,
    volumes: HashMap<VolumeId, &'static str>,
    snapshots: HashMap<SnapshotId, &'static str>,
    mounts: HashMap<VolumeId, &'static str>,
}

/// What a census counted.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) volumes: HashMap<&'static str, u64>,
    pub(crate) snapshots: HashMap<&'static str, u64>,
    pub(crate) mounts: HashMap<&'static str, u64>,
}

impl House {
    /// Counts volumes and snapshots, and the mounts of this node.
    pub(crate) async fn count(&self) -> Result<Count, Error> {
        let mut census = self.census.lock().await;
        census.catch_up(&*self.ports.store, self.node()).await?;
        Ok(Count {
            volumes: tally(census.volumes.values()),
            snapshots: tally(census.snapshots.values()),
            mounts: tally(census.mounts.values()),
        })
    }
}

fn tally<'a>(states: impl Iterator<Item = &'a &'static str>) -> HashMap<&'static str, u64> {
    let mut counts = HashMap::new();
    for state in states {
        *counts.entry(*state).or_default() += 1;
    }
    counts
}

impl Census {
    async fn catch_up(&mut self, store: &dyn Store, node: &NodeId) -> Result<(), Error> {
        if self.next == 0 {
            self.begin(store, node).await?;
        }
        loop {
            let changes = tokio::select! {
                biased;
                changes = store.watch_from("", self.next) => changes,
                () = std::future::ready(()) => return Ok(()),
            };
            match changes {
                Ok(changes) => {
                    for (key, entry) in &changes.events {
                        self.take(key, entry.as_ref(), node)?;
                    }
                    self.next = changes.next;
                }
                Err(error) if error.kind == Kind::OutOfRange => self.begin(store, node).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts everything. What changes meanwhile is applied afterwards, perhaps twice.
    async fn begin(&mut self, store: &dyn Store, node: &NodeId) -> Result<(), Error> {
        *self = Self::default();
        let next = store.watch_from("", 0).await?.next;
        for prefix in [keys::VOLUMES, keys::SNAPSHOTS] {
            let mut after: Option<String> = None;
            loop {
                let page = store.scan(prefix, after.as_deref(), PAGE).await?;
                for entry in &page {
                    self.take(&entry.key, Some(entry), node)?;
                }
                match page.last() {
                    Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
                    _ => break,
                }
            }
        }
        self.next = next;
        Ok(())
    }

    fn take(&mut self, key: &str, entry: Option<&Entry>, node: &NodeId) -> Result<(), Error> {
        let kind = KeyKind::of(key);
        let mut words = key.split('/').skip(1);
        let id = words.next().unwrap_or_default();
        match (kind, entry) {
            (KeyKind::Volume, Some(entry)) => {
                let volume: Volume = records::decode(entry)?;
                self.volumes.insert(volume.id, volume.state.name());
            }
            (KeyKind::Volume, None) => {
                VolumeId::parse(id).and_then(|id| self.volumes.remove(&id));
            }
            (KeyKind::Snapshot, Some(entry)) => {
                let snapshot: Snapshot = records::decode(entry)?;
                self.snapshots.insert(snapshot.id, snapshot.state.name());
            }
            (KeyKind::Snapshot, None) => {
                SnapshotId::parse(id).and_then(|id| self.snapshots.remove(&id));
            }
            (KeyKind::Mount, Some(entry)) => {
                let mount: Mount = records::decode(entry)?;
                if mount.node == *node {
                    self.mounts.insert(mount.volume, mount.state.name());
                }
            }
            (KeyKind::Mount, None) => {
                if let Some(id) = VolumeId::parse(id).filter(|id| keys::mount(*id, node) == key) {
                    self.mounts.remove(&id);
                }
            }
            (
                KeyKind::Attachment
                | KeyKind::LostMount
                | KeyKind::Publication
                | KeyKind::VolumeName
                | KeyKind::SnapshotName
                | KeyKind::Group
                | KeyKind::GroupName
                | KeyKind::Place
                | KeyKind::Tombstone
                | KeyKind::Backend
                | KeyKind::Node
                | KeyKind::Cluster
                | KeyKind::WorkVolume
                | KeyKind::WorkSnapshot
                | KeyKind::NodeMount
                | KeyKind::VolumeHandle
                | KeyKind::SnapshotHandle
                | KeyKind::Handles
                | KeyKind::Unknown,
                _,
            ) => {}
        }
        Ok(())
    }
}
