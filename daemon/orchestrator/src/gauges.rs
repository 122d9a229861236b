//! Numbers of the house, for the metrics page and for `kato node inspect`.

use std::{collections::HashMap, time::Duration};

use crate::{
    drive,
    error::Error,
    house::House,
    model::{GroupId, MountState, SnapshotId, SnapshotState, VolumeId, VolumeState},
    records::keys,
};

/// Numbers of the house. What has states is counted by them, each with its name, whether there are any or not.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Volumes.
    pub volumes: [(&'static str, u64); 4],
    /// Snapshots.
    pub snapshots: [(&'static str, u64); 4],
    /// Mounts on this node.
    pub mounts: [(&'static str, u64); 4],
    /// Records with unfinished wishes.
    pub intents: u64,
    /// How long the oldest unfinished wish has waited.
    pub oldest_intent: Duration,
    /// Mounts on this node whose device does not answer now.
    pub mounts_stalled: u64,
    /// Volumes that their backend complains of.
    pub volumes_unwell: u64,
    /// Tombstones.
    pub tombstones: u64,
}

impl Gauges {
    /// How many there are in all.
    #[must_use]
    pub fn sum(states: &[(&'static str, u64)]) -> u64 {
        states.iter().map(|(_, count)| count).sum()
    }

    /// How many mounts do not reach their bytes any more.
    #[must_use]
    pub fn broken(&self) -> u64 {
        let broken = MountState::Broken(String::new()).name();
        self.mounts.iter().filter(|(state, _)| *state == broken).map(|(_, count)| count).sum()
    }
}

impl House {
    /// All of them.
    pub(crate) async fn gauges(&self) -> Result<Gauges, Error> {
        let journal = &self.journal;
        let (unfinished, now) = (journal.segments(keys::WORK_VOLUMES).await?, self.now());
        let mut oldest = Duration::ZERO;
        for id in unfinished.iter().filter_map(|segment| VolumeId::parse(segment)) {
            let family = journal.family(id).await?.value;
            oldest =
                drive::intents(&family).map(|intent| now.since(intent.since)).fold(oldest, Duration::max);
        }
        let unfinished_snapshots = journal.segments(keys::WORK_SNAPSHOTS).await?;
        for id in unfinished_snapshots.iter().filter_map(|segment| SnapshotId::parse(segment)) {
            let intent = journal.snapshot(id).await?.value.and_then(|snapshot| snapshot.intent);
            oldest = oldest.max(intent.map_or(Duration::ZERO, |intent| now.since(intent.since)));
        }
        let unfinished_groups = journal.segments(keys::GROUPS).await?;
        for id in unfinished_groups.iter().filter_map(|segment| GroupId::parse(segment)) {
            let group = journal.group(id).await?.value;
            oldest = oldest.max(group.map_or(Duration::ZERO, |group| now.since(group.intent.since)));
        }
        let count = self.count().await?;
        let of = |counts: &HashMap<&'static str, u64>, name: &'static str| {
            (name, counts.get(name).copied().unwrap_or_default())
        };
        Ok(Gauges {
            volumes: VolumeState::ALL.map(|state| of(&count.volumes, state.name())),
            snapshots: SnapshotState::ALL.map(|state| of(&count.snapshots, state.name())),
            mounts: MountState::NAMES.map(|name| of(&count.mounts, name)),
            intents: (unfinished.len() + unfinished_snapshots.len() + unfinished_groups.len()) as u64,
            oldest_intent: oldest,
            mounts_stalled: self.stalls.count() as u64,
            volumes_unwell: self.complaints.count() as u64,
            tombstones: journal.segments(keys::TOMBSTONES).await?.len() as u64,
        })
    }
}
