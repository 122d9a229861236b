//! Snapshots: cut one, or find the one that was; delete one that nothing depends on.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    drivers::{Progress, Sight, Subject},
    error::{Error, Kind, Outcome},
    house::{House, Verdict},
    journal::contended,
    model::{
        Dependant, Filesystem, Intent, Snapshot, SnapshotId, SnapshotRef, SnapshotState, Volume, VolumeRef,
        VolumeState,
    },
    ops::{Context, CreateSnapshot, DeleteSnapshot, create::holds_something, mount::unknown},
    ports::store::Durability,
    records::keys,
};

impl House {
    pub(crate) async fn create_snapshot(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &CreateSnapshot,
    ) -> Result<Outcome<Snapshot>, Error> {
        let about = |error: Error| error.about(format!("snapshot {}", wish.name));
        let goal = |until_ready| {
            move |progress: &Progress, failure: Option<&Error>| cut(progress, failure, until_ready)
        };
        for _ in 0..64 {
            if let Some(id) = self.journal.snapshot_id(&wish.name).await? {
                let Some(snapshot) = self.journal.snapshot(id).await?.value else { continue };
                if !is_of(&snapshot, &wish.volume) {
                    return Err(about(Error::already_exists(format!(
                        "it exists as a snapshot of the volume {}: choose another name",
                        snapshot.volume_name
                    ))));
                }
                let watcher = self.drivers.watch(Subject::Snapshot(id));
                match snapshot.state {
                    SnapshotState::Ready => return Ok(Outcome::Unchanged(snapshot)),
                    SnapshotState::Cut if !wish.until_ready => return Ok(Outcome::Unchanged(snapshot)),
                    SnapshotState::Deleting => {
                        self.settle(ctx, watcher, &["delete-snapshot"], gone).await.map_err(about)?;
                    }
                    SnapshotState::Creating | SnapshotState::Cut => {
                        let found =
                            self.settle(ctx, watcher, &["cut", "ready"], goal(wish.until_ready)).await;
                        return found.map(Outcome::Unchanged).map_err(about);
                    }
                }
                continue;
            }
            if self.recognise_snapshot(&wish.name).await? {
                continue;
            }
            let id = SnapshotId(self.ports.ids.next());
            let watcher = self.drivers.watch(Subject::Snapshot(id));
            match self.record_snapshot(id, wish).await {
                Ok(()) => {}
                Err(error) if error.kind == Kind::Busy => continue,
                Err(error) => return Err(about(error)),
            }
            let found = self.settle(ctx, watcher, &["cut", "ready"], goal(wish.until_ready)).await;
            return found.map(Outcome::Changed).map_err(about);
        }
        Err(about(contended()))
    }

    async fn record_snapshot(self: &Arc<Self>, id: SnapshotId, wish: &CreateSnapshot) -> Result<(), Error> {
        let source = self.require_volume(&wish.volume).await?;
        self.learn_filesystem(source).await?;
        let now = self.now();
        let catalog = self.catalog();
        self.journal
            .edit(&[source], &[id], Durability::Durable, |draft, change| {
                let family = draft.family(source);
                // Whoever writes to it holds it still: it is cut there.
                if let Some(writer) = family.mounts.keys().find(|node| self.is_anothers(node)) {
                    change.leave_to(writer.clone());
                }
                let volume =
                    draft.family(source).volume.as_mut().filter(|one| one.state == VolumeState::Ready);
                let volume = volume.ok_or_else(|| unknown(&wish.volume))?;
                if !catalog.backend(&volume.backend)?.describe().abilities.snapshots {
                    return Err(Error::unsupported(format!(
                        "the backend {} cannot make snapshots",
                        volume.backend
                    )));
                }
                holds_something(volume)?;
                volume.dependants.insert(Dependant::Snapshot(id));
                let name = keys::snapshot_name(&wish.name);
                change.guard_absent(name.clone());
                change.put(name, &id);
                *draft.snapshot(id) =
                    Some(record(id, wish, draft.family(source).volume.as_ref(), now).ok_or_else(contended)?);
                Ok(())
            })
            .await
            .map(drop)
    }

    pub(crate) async fn delete_snapshot(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &DeleteSnapshot,
    ) -> Result<Outcome<()>, Error> {
        let about = |error: Error| error.about(format!("snapshot {}", wish.snapshot));
        let Some(id) = self.find_snapshot(&wish.snapshot).await? else { return Ok(Outcome::Unchanged(())) };
        let now = self.now();
        let watcher = self.drivers.watch(Subject::Snapshot(id));
        let made_from_it = self.living_copies(id).await?;
        let (snapshot, ()) = self
            .journal
            .edit_snapshot(id, Durability::Durable, |snapshot, change| {
                change.frees_space();
                let Some(snapshot) = snapshot else { return Ok(()) };
                if let Some(place) = &snapshot.group {
                    return Err(Error::invalid(format!(
                        "it was cut together with others, as the group {}, and goes with them: `kato group rm` does \
                         that",
                        place.group
                    )));
                }
                snapshot.dependants.retain(|volume| made_from_it.contains(volume));
                if let Some(volume) = snapshot.dependants.first() {
                    return Err(Error::in_use(format!(
                        "the volume {volume} is made from it: remove that first"
                    )));
                }
                if snapshot.state != SnapshotState::Deleting {
                    snapshot.state = SnapshotState::Deleting;
                    snapshot.intent = Some(Intent::new(now));
                }
                Ok(())
            })
            .await
            .map_err(about)?;
        if snapshot.is_none() {
            return Ok(Outcome::Unchanged(()));
        }
        self.settle(ctx, watcher, &["delete-snapshot"], gone).await.map(Outcome::Changed).map_err(about)
    }

    /// The volumes that depend on a snapshot and still exist.
    pub(crate) async fn living_copies(
        &self,
        id: SnapshotId,
    ) -> Result<BTreeSet<crate::model::VolumeId>, Error> {
        let mut living = BTreeSet::new();
        for volume in
            self.journal.snapshot(id).await?.value.map(|snapshot| snapshot.dependants).unwrap_or_default()
        {
            if self.journal.family(volume).await?.value.volume.is_some() {
                living.insert(volume);
            }
        }
        Ok(living)
    }

    pub(crate) async fn inspect_snapshot(self: &Arc<Self>, which: &SnapshotRef) -> Result<Snapshot, Error> {
        let unknown = || {
            Error::not_found("there is no such snapshot: `kato snapshot ls` shows all")
                .about(format!("snapshot {which}"))
        };
        let id = self.find_snapshot(which).await?.ok_or_else(unknown)?;
        self.journal.snapshot(id).await?.value.ok_or_else(unknown)
    }
}

/// Whether a snapshot is one of this volume, which may be gone.
fn is_of(snapshot: &Snapshot, volume: &VolumeRef) -> bool {
    match volume {
        VolumeRef::Name(name) => snapshot.volume_name == *name,
        VolumeRef::Handle(backend, handle) => {
            snapshot.backend == *backend && snapshot.volume_handle.as_ref() == Some(handle)
        }
    }
}

pub(crate) fn record(
    id: SnapshotId,
    wish: &CreateSnapshot,
    volume: Option<&Volume>,
    now: crate::model::Timestamp,
) -> Option<Snapshot> {
    let volume = volume?;
    Some(Snapshot {
        id,
        name: wish.name.clone(),
        volume: volume.id,
        volume_name: volume.name.clone(),
        volume_handle: volume.handle.clone(),
        class: volume.class.clone(),
        backend: volume.backend.clone(),
        seat: volume.seat(),
        generation: 0,
        made_as: None,
        group: None,
        parameters: wish.parameters.clone(),
        size: volume.actual.unwrap_or_default(),
        handle: None,
        state: SnapshotState::Creating,
        filesystem: Filesystem { ..volume.filesystem.clone() },
        dependants: BTreeSet::new(),
        cut: None,
        held_still: None,
        created: now,
        labels: wish.labels.clone(),
        intent: Some(Intent::new(now)),
    })
}

/// A cut's goal: its moment is fixed, or volumes can be made from it.
fn cut(progress: &Progress, failure: Option<&Error>, until_ready: bool) -> Verdict<Snapshot> {
    let Sight::Snapshot(snapshot) = &progress.sight else { return Verdict::Wait };
    match snapshot.as_ref() {
        Some(snapshot) => match snapshot.state {
            SnapshotState::Ready => Verdict::Answer(Ok(snapshot.clone())),
            SnapshotState::Cut if !until_ready => Verdict::Answer(Ok(snapshot.clone())),
            SnapshotState::Creating | SnapshotState::Cut => Verdict::Wait,
            SnapshotState::Deleting => Verdict::Answer(Err(failure.cloned().unwrap_or_else(removed))),
        },
        None => Verdict::Answer(Err(failure.cloned().unwrap_or_else(removed))),
    }
}

fn gone(progress: &Progress, _: Option<&Error>) -> Verdict<()> {
    match &progress.sight {
        Sight::Snapshot(snapshot) if snapshot.is_none() => Verdict::Answer(Ok(())),
        _ => Verdict::Wait,
    }
}

fn removed() -> Error {
    Error::precondition("it was removed by somebody else while it was being cut")
}
