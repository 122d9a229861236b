//! Backends against records, in both directions, volumes and snapshots.

use std::{collections::BTreeSet, sync::Arc};

use super::finding;
use crate::{
    Mark, SnapshotMark,
    error::Error,
    hall::Finding,
    house::House,
    mark::is_class,
    model::{
        BackendName, ClassName, ClusterId, Connection, Handle, Snapshot, SnapshotState, Volume, VolumeId,
        VolumeState,
    },
    ports::{
        Backend,
        backend::{Made, Shot, Snapshots},
        store::Durability,
    },
    records::{self, keys},
};

/// All volumes that a backend lists.
pub(crate) async fn all_of(backend: &Arc<dyn Backend>) -> Result<Vec<Made>, Error> {
    let mut all = Vec::new();
    let mut page = None;
    loop {
        let next = backend.list(page).await?;
        all.extend(next.items);
        match next.next {
            Some(token) => page = Some(token),
            None => return Ok(all),
        }
    }
}

/// All snapshots that it lists.
pub(crate) async fn shots_of(ability: &dyn Snapshots) -> Result<Vec<Shot>, Error> {
    let mut all = Vec::new();
    let mut page = None;
    loop {
        let next = ability.list_snapshots(page).await?;
        all.extend(next.items);
        match next.next {
            Some(token) => page = Some(token),
            None => return Ok(all),
        }
    }
}

/// What the backends list, as far as it tells whose something on this node may be.
#[derive(Debug, Default)]
pub(super) struct Listed {
    ids: BTreeSet<VolumeId>,
    names: BTreeSet<String>,
    places: BTreeSet<String>,
    /// Backends that could not be asked: what stands here may be of one of their volumes.
    pub(super) unheard: Vec<BackendName>,
}

impl Listed {
    fn take(&mut self, made: &Made, cluster: ClusterId) {
        if let Some(Connection::File { root, path } | Connection::Directory { root, path }) = &made.connection
        {
            self.places.insert(format!("{root}/{path}"));
        }
        if let Ok(mark) = Mark::decode(&made.mark)
            && mark.cluster == cluster
        {
            self.ids.insert(mark.id);
            self.names.extend(mark.name.map(|name| name.to_string()));
        }
    }

    /// Whether a backend has a volume with this id.
    pub(super) fn knows(&self, id: VolumeId) -> bool {
        self.ids.contains(&id)
    }

    /// Whether a backend has a volume of this name, as the last part of a path.
    pub(super) fn knows_place(&self, path: &str) -> bool {
        path.rsplit('/').next().is_some_and(|name| self.names.contains(name))
    }

    /// Whether this file is a backend's volume.
    pub(super) fn has(&self, file: &str) -> bool {
        self.places.contains(file)
    }
}

pub(super) async fn against_records(
    house: &Arc<House>,
    volumes: &[Volume],
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<Listed, Error> {
    let catalog = house.catalog();
    let mut all = Listed::default();
    for (name, backend) in &catalog.backends {
        // What is being made or removed meanwhile is compared with the records of after the list.
        let compared = match house.check(name, backend).await {
            Ok(_) => one(house, name, backend, volumes, fix, &mut all, findings).await,
            Err(error) => Err(Unheard::Backend(error)),
        };
        match compared {
            Ok(()) => {}
            Err(Unheard::Backend(error)) => {
                all.unheard.push(name.clone());
                findings.push(finding("unreachable", format!("backend {name}"), error.message, false));
            }
            Err(Unheard::Records(error)) => return Err(error),
        }
    }
    for (name, why) in &catalog.broken {
        all.unheard.push(name.clone());
        let message = format!("it cannot be used: {why}");
        findings.push(finding("unreachable", format!("backend {name}"), message, false));
    }
    Ok(all)
}

/// Whose failure it is.
enum Unheard {
    Backend(Error),
    Records(Error),
}

impl From<Error> for Unheard {
    fn from(error: Error) -> Self {
        Self::Records(error)
    }
}

async fn one(
    house: &Arc<House>,
    name: &BackendName,
    backend: &Arc<dyn Backend>,
    volumes: &[Volume],
    fix: bool,
    all: &mut Listed,
    findings: &mut Vec<Finding>,
) -> Result<(), Unheard> {
    let listed = all_of(backend).await.map_err(Unheard::Backend)?;
    let ours: BTreeSet<&Handle> = volumes
        .iter()
        .filter(|volume| volume.backend == *name)
        .filter_map(|volume| volume.handle.as_ref())
        .collect();
    let mut there = BTreeSet::new();
    for made in &listed {
        there.insert(&made.handle);
        all.take(made, house.cluster);
        match Mark::decode(&made.mark) {
            Ok(mark) if mark.cluster != house.cluster => {}
            Ok(mark) => {
                let known = ours.contains(&made.handle)
                    || house.journal.family(mark.id).await?.value.volume.is_some();
                if !known {
                    let called =
                        mark.name.map(|name| format!(", once the volume {name}")).unwrap_or_default();
                    let what = format!("{}{called}", made.size);
                    findings.push(match is_retained(house, &mark.class) {
                        true => retained(name, &made.handle, &what),
                        false => orphan(name, &made.handle, &what),
                    });
                }
            }
            Err(_) => findings.push(unmarked(name, &made.handle)),
        }
    }
    for volume in volumes.iter().filter(|volume| volume.backend == *name) {
        let Some(handle) = &volume.handle else { continue };
        match (there.contains(handle), volume.state) {
            (false, VolumeState::Ready | VolumeState::Lost) => lost(house, name, volume, findings).await?,
            (true, VolumeState::Lost) => found_again(house, volume, fix, findings).await?,
            (true | false, _) => {}
        }
    }
    match backend.snapshots() {
        Some(ability) => snapshots(house, name, ability, findings).await,
        None => Ok(()),
    }
}

fn orphan(backend: &BackendName, handle: &Handle, what: &str) -> Finding {
    finding(
        "orphan",
        format!("{backend}/{handle}"),
        format!("{what}: it is ours, and no record knows it. `kato recover --scan` takes it back"),
        false,
    )
}

/// Whether volumes of a class are kept when they are deleted.
fn is_retained(house: &House, marked: &ClassName) -> bool {
    house.catalog().classes.values().any(|class| class.retain && is_class(marked, &class.name))
}

fn retained(backend: &BackendName, handle: &Handle, what: &str) -> Finding {
    finding(
        "retained",
        format!("{backend}/{handle}"),
        format!(
            "{what}: it was deleted, and its class retains the data. `kato recover --scan` takes it back; remove it at \
             the backend when nobody needs it"
        ),
        false,
    )
}

fn unmarked(backend: &BackendName, handle: &Handle) -> Finding {
    finding(
        "unmarked",
        format!("{backend}/{handle}"),
        "it carries no mark of ours, or a damaged one: see whose it is, and remove it by hand".into(),
        false,
    )
}

async fn lost(
    house: &House,
    backend: &BackendName,
    volume: &Volume,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    // It may have been removed while the backend was listed.
    let now = house.journal.family(volume.id).await?.value.volume;
    if now.is_some_and(|now| matches!(now.state, VolumeState::Ready | VolumeState::Lost)) {
        findings.push(finding(
            "lost",
            format!("volume {}", volume.name),
            format!(
                "the backend {backend} does not have it any more: bring it back there, or remove the record with \
                 `kato volume rm --forget {}`",
                volume.name
            ),
            false,
        ));
    }
    Ok(())
}

async fn found_again(
    house: &House,
    volume: &Volume,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let mut found = finding(
        "found-again",
        format!("volume {}", volume.name),
        "it counts as lost, but its backend has it: it can be used again".into(),
        true,
    );
    if fix {
        house
            .journal
            .edit_family(volume.id, Durability::Durable, |family, _| {
                if let Some(volume) = family.volume.as_mut()
                    && volume.state == VolumeState::Lost
                {
                    volume.state = VolumeState::Ready;
                }
                Ok(())
            })
            .await?;
        found.fixed = true;
    }
    findings.push(found);
    Ok(())
}

async fn snapshots(
    house: &House,
    backend: &BackendName,
    ability: &dyn Snapshots,
    findings: &mut Vec<Finding>,
) -> Result<(), Unheard> {
    let before = records_of(house, backend).await?;
    let listed = shots_of(ability).await.map_err(Unheard::Backend)?;
    let handles: BTreeSet<&Handle> = before.iter().filter_map(|snapshot| snapshot.handle.as_ref()).collect();
    let mut there = BTreeSet::new();
    for shot in &listed {
        there.insert(&shot.handle);
        match SnapshotMark::decode(&shot.mark) {
            Ok(mark) if mark.cluster != house.cluster => {}
            Ok(mark) => {
                let known = handles.contains(&shot.handle)
                    || house.journal.snapshot(mark.id).await?.value.is_some()
                    || house.is_of_unfinished_group(&mark).await?;
                if !known {
                    let called = mark.name.map(|name| format!(", once the snapshot {name}"));
                    findings.push(orphan(
                        backend,
                        &shot.handle,
                        &format!("{}{}", shot.size, called.unwrap_or_default()),
                    ));
                }
            }
            Err(_) => findings.push(unmarked(backend, &shot.handle)),
        }
    }
    for snapshot in &before {
        let gone = snapshot.handle.as_ref().is_some_and(|handle| !there.contains(handle));
        if !gone || !matches!(snapshot.state, SnapshotState::Cut | SnapshotState::Ready) {
            continue;
        }
        let now = house.journal.snapshot(snapshot.id).await?.value;
        if now.is_some_and(|now| now.state != SnapshotState::Deleting) {
            findings.push(finding(
                "lost",
                format!("snapshot {}", snapshot.name),
                format!(
                    "the backend {backend} does not have it any more: bring it back there, or remove the record with \
                     `kato snapshot rm {}`",
                    snapshot.name
                ),
                false,
            ));
        }
    }
    Ok(())
}

async fn records_of(house: &House, backend: &BackendName) -> Result<Vec<Snapshot>, Error> {
    let mut all = Vec::new();
    for entry in house.journal.page(keys::SNAPSHOTS, None, usize::MAX).await? {
        let snapshot: Snapshot = records::decode(&entry)?;
        if snapshot.backend == *backend {
            all.push(snapshot);
        }
    }
    Ok(all)
}
