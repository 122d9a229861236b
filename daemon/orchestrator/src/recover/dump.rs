//! What dumps remember. Each is of one moment, the newest up to a day ago, so they are believed about what does not
//! change by itself (names, labels, classes), and about everything else only where nobody who is here now says
//! otherwise. The newest that has a record counts: one that was taken after the records were lost has few. What is
//! *expected* to be there is only what the newest that knows anything knows: who asks an older one misses
//! everything that was deleted since.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::Error,
    house::House,
    model::{Attachment, ClusterId, HolderId, Mount, Publication, Snapshot, SnapshotId, Volume, VolumeId},
    ops::Dump,
    records::{self, keys, keys::KeyKind},
};

/// What dumps remember.
#[derive(Default)]
pub(super) struct Remembered {
    pub(super) volumes: BTreeMap<VolumeId, Volume>,
    pub(super) snapshots: BTreeMap<SnapshotId, Snapshot>,
    /// Of this node.
    pub(super) attachments: BTreeMap<VolumeId, Attachment>,
    /// Of this node.
    pub(super) mounts: BTreeMap<VolumeId, Mount>,
    /// Of this node.
    pub(super) holders: BTreeMap<(VolumeId, HolderId), Publication>,
    /// What the newest dump that knows anything knows.
    pub(super) expected: BTreeSet<u128>,
}

impl Remembered {
    /// Takes what a dump knows that no newer one did. It has to be one of our own records.
    pub(super) fn take(&mut self, dump: &Dump, house: &House) -> Result<(), Error> {
        let cluster = dump.records.iter().find(|entry| entry.key == keys::cluster());
        let cluster: Option<ClusterId> = cluster.map(records::decode).transpose()?;
        if cluster != Some(house.cluster) {
            return Err(Error::precondition(match cluster {
                Some(other) => format!("it is one of cluster {other}, and this is cluster {}", house.cluster),
                None => "it does not say whose records it holds".to_owned(),
            }));
        }
        let is_first = self.expected.is_empty();
        for entry in &dump.records {
            match KeyKind::of(&entry.key) {
                KeyKind::Volume => {
                    let volume: Volume = records::decode(entry)?;
                    self.expected.extend(is_first.then_some(volume.id.0));
                    self.volumes.entry(volume.id).or_insert(volume);
                }
                KeyKind::Snapshot => {
                    let snapshot: Snapshot = records::decode(entry)?;
                    self.expected.extend(is_first.then_some(snapshot.id.0));
                    self.snapshots.entry(snapshot.id).or_insert(snapshot);
                }
                KeyKind::Attachment => {
                    let attachment: Attachment = records::decode(entry)?;
                    if attachment.node == *house.node() {
                        self.attachments.entry(attachment.volume).or_insert(attachment);
                    }
                }
                KeyKind::Mount => {
                    let mount: Mount = records::decode(entry)?;
                    if mount.node == *house.node() {
                        self.mounts.entry(mount.volume).or_insert(mount);
                    }
                }
                KeyKind::Publication => {
                    let publication: Publication = records::decode(entry)?;
                    if publication.node == *house.node() {
                        let key = (publication.volume, publication.holder.clone());
                        self.holders.entry(key).or_insert(publication);
                    }
                }
                // What still stands of a lost mount is seen, and belongs to nobody. A wish to cut or delete a group is not
                // carried out twice. Names and indexes follow from the records; nodes and backends say themselves what
                // they are; and a tombstone's token may have come to mean something alive since.
                KeyKind::LostMount
                | KeyKind::Group
                | KeyKind::VolumeName
                | KeyKind::SnapshotName
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
                | KeyKind::Unknown => {}
            }
        }
        Ok(())
    }
}
