//! The records that a mark stands for: what the mark says, with what the backend says now, on top of what a dump
//! remembers or, where there is none, of what the class says.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Catalog, Mark, SnapshotMark,
    error::Error,
    house::House,
    mark::is_class,
    model::{
        BackendName, CapacityRange, Class, ClassName, Connection, DataRoot, Filesystem, FsState, FsType,
        Intent, NodeId, Snapshot, SnapshotName, SnapshotState, Volume, VolumeName, VolumeState, Wanted,
    },
    ports::backend::{Made, Shot},
};

/// Where a record is made from.
pub(crate) struct Sources<'a> {
    pub(crate) house: &'a House,
    pub(crate) catalog: &'a Catalog,
    pub(crate) backend: &'a BackendName,
}

impl Sources<'_> {
    /// A volume's record. It is ready, whatever it was on its way to: no wish of its owner is carried out twice.
    pub(crate) fn volume(
        &self,
        mark: &Mark,
        made: &Made,
        name: VolumeName,
        remembered: Option<&Volume>,
    ) -> Volume {
        let class = self.class(&mark.class);
        let is_directory = made.connection.as_ref().is_some_and(Connection::is_directory);
        let parameters = made
            .parameters
            .clone()
            .or_else(|| remembered.map(|volume| volume.actual_parameters.clone()))
            .or_else(|| class.map(|class| class.parameters.clone()))
            .unwrap_or_default();
        let mut filesystem = match remembered {
            Some(volume) => volume.filesystem.clone(),
            None => filesystem(class, mark.fs, mark.directory.as_ref()),
        };
        let is_formatted = mark.formatted || is_directory || filesystem.state == FsState::Formatted;
        filesystem.state = if is_formatted { FsState::Formatted } else { FsState::Blank };
        Volume {
            id: mark.id,
            name,
            class: remembered.map_or_else(
                || class.map_or_else(|| mark.class.clone(), |class| class.name.clone()),
                |volume| volume.class.clone(),
            ),
            backend: self.backend.clone(),
            generation: mark.generation,
            made_as: None,
            wanted: Wanted {
                size: CapacityRange::at_least(made.size),
                parameters: parameters.clone(),
                places: Vec::new(),
            },
            actual: Some(made.size),
            actual_parameters: parameters,
            source: remembered.and_then(|volume| volume.source.clone()),
            filling: None,
            found: remembered.is_none(),
            held_still: remembered.and_then(|volume| volume.held_still),
            handle: Some(made.handle.clone()),
            connection: made.connection.clone(),
            topology: match self.catalog.backends.get(self.backend) {
                Some(backend) => self.house.places_of(&backend.describe().abilities, &made.topology),
                None => made.topology.clone(),
            },
            state: VolumeState::Ready,
            filesystem,
            dependants: BTreeSet::new(),
            keeping: remembered.map(|volume| volume.keeping).unwrap_or_default(),
            labels: remembered.map(|volume| volume.labels.clone()).unwrap_or_default(),
            created: remembered.map_or_else(|| self.house.now(), |volume| volume.created),
            intent: None,
        }
    }

    /// The node that what this backend has lies on.
    fn seat(&self) -> Option<NodeId> {
        let backend = self.catalog.backends.get(self.backend)?;
        backend.describe().abilities.node_bound.then(|| self.house.node().clone())
    }

    /// A snapshot's record. `of` is what its volume is called, if that is still there.
    pub(crate) fn snapshot(
        &self,
        mark: &SnapshotMark,
        shot: &Shot,
        name: SnapshotName,
        remembered: Option<&Snapshot>,
        of: Option<VolumeName>,
    ) -> Result<Snapshot, Error> {
        let class = self.class(&mark.class);
        let mut filesystem = match remembered {
            Some(snapshot) => snapshot.filesystem.clone(),
            None => filesystem(class, mark.fs, mark.directory.as_ref()),
        };
        filesystem.state = FsState::Formatted;
        let now = self.house.now();
        Ok(Snapshot {
            id: mark.id,
            name,
            volume: mark.volume,
            volume_name: match remembered.map(|snapshot| snapshot.volume_name.clone()).or(of) {
                Some(name) => name,
                None => VolumeName::parse(&format!("gone-{}", mark.volume))?,
            },
            volume_handle: shot.volume.clone(),
            class: remembered.map_or_else(
                || class.map_or_else(|| mark.class.clone(), |class| class.name.clone()),
                |snapshot| snapshot.class.clone(),
            ),
            backend: self.backend.clone(),
            seat: self.seat(),
            generation: mark.generation,
            // The token of a snapshot that was cut with others comes of the group's name, which is not known.
            made_as: shot.token.clone().filter(|_| mark.group.is_some()),
            group: mark.group.clone(),
            parameters: remembered.map(|snapshot| snapshot.parameters.clone()).unwrap_or_default(),
            size: shot.size,
            handle: Some(shot.handle.clone()),
            state: if shot.ready { SnapshotState::Ready } else { SnapshotState::Cut },
            filesystem,
            dependants: BTreeSet::new(),
            cut: shot.cut.or_else(|| remembered.and_then(|snapshot| snapshot.cut)),
            held_still: remembered.and_then(|snapshot| snapshot.held_still),
            created: remembered.map(|snapshot| snapshot.created).or(shot.cut).unwrap_or(now),
            labels: remembered.map(|snapshot| snapshot.labels.clone()).unwrap_or_default(),
            intent: (!shot.ready).then(|| Intent::new(now)),
        })
    }

    fn class(&self, marked: &ClassName) -> Option<&Class> {
        let mut all = self.catalog.classes.values();
        all.find(|class| is_class(marked, &class.name)).map(Arc::as_ref)
    }
}

fn filesystem(class: Option<&Class>, fs: FsType, directory: Option<&String>) -> Filesystem {
    Filesystem {
        fs,
        state: FsState::Blank,
        mount_options: class.map(|class| class.mount_options.clone()).unwrap_or_default(),
        root: DataRoot {
            directory: directory.cloned(),
            ..class.map(|class| class.root.clone()).unwrap_or_default()
        },
    }
}
