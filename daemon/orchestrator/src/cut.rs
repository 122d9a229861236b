//! Drives a snapshot: Creating → Cut → Ready → Deleting → (removed). Short enough to be its own plan.
//!
//! A snapshot is recorded as its volume's dependant before the first call, and let go when its moment is
//! fixed, unless the backend says that snapshots need their volume.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tracing::warn;

use crate::{
    drive::Turn,
    drivers::{Driver, Failed, Sight},
    error::{Error, Kind},
    hold::{self, Copied, Copying, Holding},
    house::House,
    journal,
    mark::SnapshotMark,
    model::{
        Buried, Dependant, Failure, Intent, Snapshot, SnapshotId, SnapshotState, Timestamp, Volume, VolumeId,
    },
    ports::{
        Backend,
        backend::{Cut, Effect, Pending, Shot, Snapshots, Standing, Verb, Which},
        store::Durability,
    },
    records::{Marker, keys},
    steps::{asked_later, backend::which, still_as},
    tombstones::{self, Grave},
};

/// Takes a snapshot's next step.
pub(crate) async fn one_turn(
    house: &Arc<House>,
    driver: &Driver,
    id: SnapshotId,
    turn: u64,
    hurry: bool,
) -> Result<Turn, Error> {
    let seen = house.journal.snapshot(id).await?.value;
    driver.report(turn, Sight::Snapshot(Arc::new(seen.clone())));
    // What was cut with others is deleted with them (`groups.rs`).
    let goes_with_others = |one: &Snapshot| one.state == SnapshotState::Deleting && one.group.is_some();
    let Some(snapshot) = seen.filter(|one| one.state != SnapshotState::Ready && !goes_with_others(one))
    else {
        return Ok(Turn::Rest);
    };
    let paused = snapshot.intent.as_ref().filter(|intent| intent.next_try > house.now());
    if let Some(intent) = paused.filter(|intent| !hurry || intent.resume.is_some()) {
        return Ok(Turn::Wait(intent.next_try));
    }
    let mark = house.journal.record::<Marker>(keys::work_snapshot(id)).await?.value;
    if !house.leads(mark.as_ref(), snapshot.seat.as_ref()) {
        return Ok(Turn::Rest);
    }
    let step = match snapshot.state {
        SnapshotState::Creating => "cut",
        SnapshotState::Cut => "ready",
        SnapshotState::Ready | SnapshotState::Deleting => "delete-snapshot",
    };
    let claim = house.ports.store.claim(&driver.subject.to_string()).await?;
    match journal::under(&*claim, take(house, &snapshot)).await {
        Ok(()) => driver.succeeded(step),
        Err(error) => {
            warn!(snapshot.id = %id, snapshot.name = %snapshot.name, step, error = %error, "a step failed");
            let attempts = journal::under(&*claim, fail(house, &snapshot, &error)).await?;
            driver.failed(step, Failed { turn, error, attempts });
        }
    }
    Ok(Turn::Again)
}

async fn take(house: &Arc<House>, snapshot: &Snapshot) -> Result<(), Error> {
    let backend = house.backend(&snapshot.backend).await?;
    let Some(ability) = backend.snapshots() else {
        return Err(Error::unsupported("its backend cannot make snapshots"));
    };
    let verb = match snapshot.state {
        SnapshotState::Creating => Some(Verb::Cut),
        SnapshotState::Cut => None,
        SnapshotState::Ready | SnapshotState::Deleting => Some(Verb::DeleteSnapshot),
    };
    if let Some(verb) = verb
        && let Standing::Still(pending) = house
            .standing(&snapshot.backend, snapshot.intent.as_ref(), verb, named(house, snapshot), None)
            .await?
    {
        return later(house, snapshot, &pending, still_as(snapshot.intent.as_ref(), &pending)).await;
    }
    match snapshot.state {
        SnapshotState::Creating => cut(house, snapshot, &backend, ability).await,
        SnapshotState::Cut => ready(house, snapshot, ability).await,
        SnapshotState::Ready | SnapshotState::Deleting => delete(house, snapshot, ability).await,
    }
}

fn named(house: &House, snapshot: &Snapshot) -> Which {
    Which { token: snapshot.token(house.cluster), handle: snapshot.handle.clone() }
}

async fn cut(
    house: &Arc<House>,
    snapshot: &Snapshot,
    backend: &Arc<dyn Backend>,
    ability: &dyn Snapshots,
) -> Result<(), Error> {
    if house.is_buried(&snapshot.token(house.cluster)).await? {
        return raise_generation(house, snapshot).await;
    }
    let source = house.journal.family(snapshot.volume).await?.value.volume;
    let source = source.ok_or_else(|| Error::not_found("the volume that it was to be cut from is gone"))?;
    let asked = house.now();
    let wish = Cutting { house, snapshot, source: &source, ability };
    match hold::copy(house, snapshot.intent.as_ref(), &wish).await {
        Ok(Copied::Done(shot, held_still)) => {
            let cut = shot.cut.unwrap_or(asked);
            record_cut(house, snapshot, backend, &Shot { cut: Some(cut), ..shot }, held_still).await
        }
        Ok(Copied::Later(pending)) => later(house, snapshot, &pending, Durability::Durable).await,
        Ok(Copied::Unwanted) => Ok(()),
        Err(error) if error.token_burnt => raise_generation(house, snapshot).await,
        Err(error) => Err(error),
    }
}

async fn raise_generation(house: &House, snapshot: &Snapshot) -> Result<(), Error> {
    edit(house, snapshot, Durability::Durable, |record| {
        record.generation = record.generation.saturating_add(1);
        record.intent.iter_mut().for_each(Intent::begin_anew);
    })
    .await
}

/// A snapshot that is being cut.
struct Cutting<'a> {
    house: &'a House,
    snapshot: &'a Snapshot,
    source: &'a Volume,
    ability: &'a dyn Snapshots,
}

#[async_trait]
impl Copying for Cutting<'_> {
    type Made = Shot;

    async fn how(&self) -> Result<Vec<Holding>, Error> {
        let cutting = self.ability.how(which(self.house, self.source)).await?;
        Ok(vec![Holding { volume: self.source.id, cutting }])
    }

    async fn ask(&self, resume: Option<Vec<u8>>) -> Result<Effect<Shot>, Error> {
        let wish = Cut {
            token: self.snapshot.token(self.house.cluster),
            mark: SnapshotMark::of(self.snapshot, self.house.cluster).encode(),
            name: self.snapshot.name.as_str().to_owned(),
            volume: which(self.house, self.source),
            parameters: self.snapshot.parameters.clone(),
            resume,
        };
        self.ability.cut(wish).await
    }

    async fn discard(&self, resume: Option<Vec<u8>>) -> Result<Effect<()>, Error> {
        self.ability.delete_snapshot(named(self.house, self.snapshot), resume).await
    }

    async fn begin(&self) -> Result<(), Error> {
        let now = self.house.now();
        edit(self.house, self.snapshot, Durability::Durable, |record| {
            record.intent.get_or_insert_with(|| Intent::new(now)).copying = true;
        })
        .await
    }

    async fn goes_on(&self, pending: &Pending) -> Result<bool, Error> {
        later(self.house, self.snapshot, pending, Durability::Lazy).await?;
        let now = self.house.journal.snapshot(self.snapshot.id).await?.value;
        Ok(now.is_some_and(|snapshot| snapshot.state == SnapshotState::Creating))
    }
}

async fn record_cut(
    house: &House,
    snapshot: &Snapshot,
    backend: &Arc<dyn Backend>,
    shot: &Shot,
    held_still: Option<Duration>,
) -> Result<(), Error> {
    let keeps_volume = backend.describe().abilities.snapshot_needs_volume;
    house
        .journal
        .edit(&[snapshot.volume], &[snapshot.id], Durability::Durable, |draft, _| {
            if let Some(now) = draft.snapshot(snapshot.id) {
                now.handle = Some(shot.handle.clone());
                now.size = shot.size;
                now.cut = shot.cut;
                now.held_still = held_still;
                if now.state == SnapshotState::Creating {
                    now.state = if shot.ready { SnapshotState::Ready } else { SnapshotState::Cut };
                    now.intent = None;
                }
            }
            if let Some(volume) = draft.family(snapshot.volume).volume.as_mut()
                && !keeps_volume
            {
                volume.dependants.remove(&Dependant::Snapshot(snapshot.id));
            }
            Ok(())
        })
        .await
        .map(drop)
}

async fn ready(house: &House, snapshot: &Snapshot, ability: &dyn Snapshots) -> Result<(), Error> {
    let found = ability.inspect_snapshots(vec![named(house, snapshot)]).await?.into_iter().next().flatten();
    let Some(shot) = found else {
        return Err(Error::internal("the backend has lost this snapshot: delete it and cut another"));
    };
    if !shot.ready {
        let pending = Pending {
            retry_after: House::pause(3),
            note: "the backend is still at work".into(),
            ..Pending::default()
        };
        return later(house, snapshot, &pending, Durability::Durable).await;
    }
    edit(house, snapshot, Durability::Durable, |now| {
        now.size = shot.size;
        if now.state == SnapshotState::Cut {
            now.state = SnapshotState::Ready;
            now.intent = None;
        }
    })
    .await
}

async fn delete(house: &House, snapshot: &Snapshot, ability: &dyn Snapshots) -> Result<(), Error> {
    house.end_reading(snapshot.id).await?;
    if snapshot.handle.is_none() {
        // Reversing a cut that was never heard must not take away what another record's cut has made.
        let found = ability.inspect_snapshots(vec![named(house, snapshot)]).await.map_err(Error::pending)?;
        let mark = found.into_iter().next().flatten().and_then(|shot| SnapshotMark::decode(&shot.mark).ok());
        if mark.is_some_and(|mark| mark.id != snapshot.id) {
            return forget(house, snapshot, None, Durability::Lazy).await;
        }
    }
    let resume = snapshot.intent.as_ref().and_then(|intent| intent.resume.clone());
    match ability.delete_snapshot(named(house, snapshot), resume).await? {
        Effect::Pending(pending) => later(house, snapshot, &pending, Durability::Durable).await,
        Effect::Done(()) => {
            let settle = house.backend(&snapshot.backend).await?.describe().settle;
            let unheard = snapshot.handle.is_none() && !settle.is_zero();
            let until = unheard.then(|| house.now().plus(settle));
            forget(house, snapshot, until, Durability::Lazy).await
        }
    }
}

/// Removes the record, and lets the volume go; leaves a tombstone where a cut may still come true.
async fn forget(
    house: &House,
    snapshot: &Snapshot,
    tombstone_until: Option<Timestamp>,
    durability: Durability,
) -> Result<(), Error> {
    house
        .journal
        .edit(&[snapshot.volume], &[snapshot.id], durability, |draft, change| {
            *draft.snapshot(snapshot.id) = None;
            if let Some(volume) = draft.family(snapshot.volume).volume.as_mut() {
                volume.dependants.remove(&Dependant::Snapshot(snapshot.id));
            }
            change.frees_space();
            if let Some(until) = tombstone_until {
                let grave = Grave {
                    id: VolumeId(snapshot.id.0),
                    what: Buried::Snapshot,
                    backend: &snapshot.backend,
                    token: snapshot.token(house.cluster),
                    handle: snapshot.handle.clone(),
                    until,
                };
                tombstones::bury(change, &grave, house.now());
            }
            Ok(())
        })
        .await
        .map(drop)
}

/// Records that a step failed. A refusal of the cut takes the wish back, durably, because the caller hears of it;
/// what an earlier try may have cut is deleted first.
async fn fail(house: &House, snapshot: &Snapshot, error: &Error) -> Result<u32, Error> {
    let now = house.now();
    if snapshot.state == SnapshotState::Creating && error.is_final() && error.kind != Kind::Busy {
        // What stands under the token and is not what is wished was cut by somebody else's wish.
        if error.kind == Kind::AlreadyExists || !house.may_have_asked(snapshot.intent.as_ref()) {
            forget(house, snapshot, None, Durability::Durable).await?;
            return Ok(1);
        }
        edit(house, snapshot, Durability::Durable, |record| {
            record.state = SnapshotState::Deleting;
            record.intent = Some(Intent::new(now));
        })
        .await?;
        return Ok(1);
    }
    if snapshot.state == SnapshotState::Deleting
        && snapshot.cut.is_some()
        && error.is_final()
        && error.kind.is_refusal()
    {
        // Whoever heard that something needs it may use it on: it must not go when nothing does one day.
        edit(house, snapshot, Durability::Durable, |record| {
            record.state = SnapshotState::Cut;
            record.intent = Some(Intent::new(now));
        })
        .await?;
        return Ok(1);
    }
    let mut attempts = 0;
    edit(house, snapshot, Durability::Durable, |record| {
        let mut intent = record.intent.take().unwrap_or_else(|| Intent::new(now));
        intent.attempts = intent.attempts.saturating_add(1);
        intent.last_error = Some(Failure::of(error, now));
        intent.next_try = now.plus(error.retry_after.unwrap_or_else(|| House::pause(intent.attempts)));
        attempts = intent.attempts;
        record.intent = Some(intent);
    })
    .await?;
    Ok(attempts)
}

async fn later(
    house: &House,
    snapshot: &Snapshot,
    pending: &Pending,
    durability: Durability,
) -> Result<(), Error> {
    let now = house.now();
    edit(house, snapshot, durability, |record| {
        // Another wish that came meanwhile is not asked with this one's words.
        if record.state == snapshot.state {
            record.intent = Some(asked_later(record.intent.as_ref(), pending, now));
        }
    })
    .await
}

async fn edit(
    house: &House,
    snapshot: &Snapshot,
    durability: Durability,
    mut edit: impl FnMut(&mut Snapshot) + Send,
) -> Result<(), Error> {
    house
        .journal
        .edit_snapshot(snapshot.id, durability, |record, _| {
            if let Some(record) = record {
                edit(record);
            }
            Ok(())
        })
        .await
        .map(drop)
}
