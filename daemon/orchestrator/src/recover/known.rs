//! What is there already: what the records know, and what of ours stands on this node.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::Error,
    house::House,
    model::{BackendName, Handle, Snapshot, SnapshotId, SnapshotName, Volume, VolumeId, VolumeName},
    ports::host::Survey,
    records::{self, keys},
};

/// What the records know now.
#[derive(Default)]
pub(super) struct Known {
    pub(super) volumes: BTreeMap<VolumeId, VolumeName>,
    pub(super) volume_names: BTreeSet<VolumeName>,
    pub(super) handles: BTreeSet<(BackendName, Handle)>,
    pub(super) snapshots: BTreeSet<SnapshotId>,
    pub(super) snapshot_names: BTreeSet<SnapshotName>,
    pub(super) shots: BTreeSet<(BackendName, Handle)>,
}

impl Known {
    pub(super) async fn read(house: &House) -> Result<Self, Error> {
        let mut known = Self::default();
        for entry in house.journal.page(keys::VOLUME_NAMES, None, usize::MAX).await? {
            if let Some(volume) = house.journal.family(records::decode(&entry)?).await?.value.volume {
                known.know(&volume);
            }
        }
        for entry in house.journal.page(keys::SNAPSHOTS, None, usize::MAX).await? {
            let snapshot: Snapshot = records::decode(&entry)?;
            known.snapshots.insert(snapshot.id);
            known.shots.extend(snapshot.handle.map(|handle| (snapshot.backend, handle)));
            known.snapshot_names.insert(snapshot.name);
        }
        Ok(known)
    }

    pub(super) fn know(&mut self, volume: &Volume) {
        self.volumes.insert(volume.id, volume.name.clone());
        self.volume_names.insert(volume.name.clone());
        if let Some(handle) = &volume.handle {
            self.handles.insert((volume.backend.clone(), handle.clone()));
        }
    }
}

/// What stands on this node.
pub(super) struct Standing {
    /// Mounts whose place says whose they are.
    mounts: BTreeSet<VolumeId>,
    /// Mounts at places that are called by a name.
    named: BTreeSet<String>,
    devices: BTreeSet<VolumeId>,
    /// Those whose records say so by now.
    pub(super) kept: BTreeSet<VolumeId>,
}

impl Standing {
    pub(super) fn of(survey: Survey) -> Self {
        let mut standing = Self {
            mounts: BTreeSet::new(),
            named: BTreeSet::new(),
            devices: survey.devices.into_iter().filter_map(|(id, _, _)| id).collect(),
            kept: BTreeSet::new(),
        };
        for (id, path) in survey.mounts {
            match id {
                Some(id) => standing.mounts.insert(id),
                None => standing.named.insert(path.rsplit('/').next().unwrap_or_default().to_owned()),
            };
        }
        standing
    }

    pub(super) fn is_mounted(&self, volume: &Volume) -> bool {
        self.mounts.contains(&volume.id) || self.named.contains(volume.name.as_str())
    }

    pub(super) fn has(&self, volume: &Volume) -> bool {
        self.is_mounted(volume) || self.devices.contains(&volume.id)
    }

    /// The volumes that stand here and whose records were not written by this recovery.
    pub(super) fn not_kept(&self, volumes: &BTreeMap<VolumeId, VolumeName>) -> Vec<VolumeId> {
        let stands = |id: &VolumeId, name: &VolumeName| {
            self.mounts.contains(id) || self.devices.contains(id) || self.named.contains(name.as_str())
        };
        let all = volumes.iter().filter(|(id, name)| !self.kept.contains(id) && stands(id, name));
        all.map(|(id, _)| *id).collect()
    }
}
