//! Drives a group of snapshots: Creating → its snapshots, all of them at one moment; or Deleting → nothing of it.
//!
//! ```text
//!   hold every volume, in the order of ids ──► cut one after the other ──► did all stand still until now?
//!        ▲                                                                   │ yes: one batch, and the wish is gone
//!        └────────────── no, or nobody saw: throw all away ◄─────────────────┘
//! ```
//!
//! A group that is cut has no record of its own, only its snapshots have. So there is no moment at which some of
//! it is there for anybody and some is not, whenever the process dies.
//!
//! **Order.** A group is cut from its first volume to its last and, when it is not believed, thrown away from the last
//! to the first; only a group that somebody deletes goes from the first on. Whoever has lost all records can so tell
//! what was never finished (its last is missing) from what is, and may have been told to somebody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::Mutex;
use tracing::warn;

use crate::{
    drive::Turn,
    drivers::{Driver, Failed, Sight, Subject},
    error::{Error, Kind},
    hold::{self, Copied, Copying, Holding},
    house::House,
    journal::{self, Change, Draft},
    mark::{SnapshotMark, kept_group},
    model::{
        Buried, Dependant, Failure, Group, GroupId, GroupState, Intent, Member, Place, Snapshot, SnapshotId,
        SnapshotState, Volume, VolumeId,
    },
    ports::{
        Backend,
        backend::{Cut, Cutting, Effect, Pending, Shot, Snapshots, Which},
        store::Durability,
    },
    records::{Marker, keys},
    steps::{asked_later, backend::which},
    tombstones::{self, Grave},
};

/// Takes a group's next step.
pub(crate) async fn one_turn(
    house: &Arc<House>,
    driver: &Driver,
    id: GroupId,
    turn: u64,
    hurry: bool,
) -> Result<Turn, Error> {
    let seen = house.journal.group(id).await?.value;
    driver.report(turn, Sight::Group(Arc::new(seen.clone())));
    let Some(group) = seen else { return Ok(Turn::Rest) };
    let paused = group.intent.next_try > house.now();
    if paused && !(hurry && group.intent.resume.is_none()) {
        return Ok(Turn::Wait(group.intent.next_try));
    }
    if !house.leads(Some(&Marker { by: group.seat.clone() }), None) {
        return Ok(Turn::Rest);
    }
    let step = match group.state {
        GroupState::Creating => "cut-group",
        GroupState::Deleting => "delete-group",
    };
    let claim = house.ports.store.claim(&driver.subject.to_string()).await?;
    match journal::under(&*claim, take(house, &group)).await {
        Ok(()) => driver.succeeded(step),
        Err(error) => {
            warn!(group.id = %id, group.name = %group.name, step, error = %error, "a step failed");
            let attempts = journal::under(&*claim, fail(house, &group, &error)).await?;
            driver.failed(step, Failed { turn, error, attempts });
        }
    }
    Ok(Turn::Again)
}

async fn take(house: &Arc<House>, group: &Group) -> Result<(), Error> {
    let backend = house.backend(&group.backend).await?;
    let Some(ability) = backend.snapshots() else {
        return Err(Error::unsupported("its backend cannot make snapshots"));
    };
    match group.state {
        GroupState::Creating => cut(house, group, &backend, ability).await,
        GroupState::Deleting => delete(house, group, &backend, ability).await,
    }
}

fn named(member: &Member) -> Which {
    Which { token: member.token.clone(), handle: member.handle.clone() }
}

/// The place of a member.
fn place(group: &Group, index: usize) -> Place {
    let small = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    Place {
        group: group.id,
        name: kept_group(&group.name),
        index: small(index),
        of: small(group.members.len()),
    }
}

async fn cut(
    house: &Arc<House>,
    group: &Group,
    backend: &Arc<dyn Backend>,
    ability: &dyn Snapshots,
) -> Result<(), Error> {
    let mut sources = Vec::with_capacity(group.members.len());
    for member in &group.members {
        if house.is_buried(&member.token).await? {
            return raise_generation(house, group).await;
        }
        let volume = house.journal.family(member.volume).await?.value.volume;
        sources.push(volume.ok_or_else(|| Error::not_found("a volume that it was to be cut from is gone"))?);
    }
    let mut planned = Vec::with_capacity(sources.len());
    for (index, source) in sources.iter().enumerate() {
        planned.push(snapshot(group, index, source)?);
    }
    let wish = Together { house, group, sources, planned, ability, progress: Mutex::default() };
    match hold::copy(house, Some(&group.intent), &wish).await {
        Ok(Copied::Done(shots, held_still)) => {
            record_cut(house, group, backend, wish.planned, &shots, held_still).await
        }
        Ok(Copied::Later(pending)) => later(house, group, &pending, Durability::Durable).await,
        Ok(Copied::Unwanted) => Ok(()),
        Err(error) if error.token_burnt => raise_generation(house, group).await,
        Err(error) => Err(error),
    }
}

/// A member's snapshot as its record will be.
fn snapshot(group: &Group, index: usize, source: &Volume) -> Result<Snapshot, Error> {
    let member = group.members.get(index).ok_or_else(|| Error::internal("a group has lost a member"))?;
    let place = place(group, index);
    Ok(Snapshot {
        id: member.snapshot,
        name: place.snapshot_name()?,
        volume: source.id,
        volume_name: source.name.clone(),
        volume_handle: source.handle.clone(),
        class: source.class.clone(),
        backend: group.backend.clone(),
        seat: source.seat(),
        generation: 0,
        made_as: Some(member.token.clone()),
        group: Some(place),
        parameters: group.parameters.clone(),
        size: source.actual.unwrap_or_default(),
        handle: None,
        state: SnapshotState::Creating,
        filesystem: source.filesystem.clone(),
        dependants: Default::default(),
        cut: None,
        held_still: None,
        created: group.created,
        labels: group.labels.clone(),
        intent: None,
    })
}

async fn raise_generation(house: &House, group: &Group) -> Result<(), Error> {
    let mut handles = BTreeMap::new();
    for member in &group.members {
        let volume = house.journal.family(member.volume).await?.value.volume;
        handles.extend(volume.and_then(|volume| volume.handle).map(|handle| (member.volume, handle)));
    }
    edit(house, group, Durability::Durable, |now| {
        now.generation = now.generation.saturating_add(1);
        now.intent.begin_anew();
        for member in &mut now.members {
            if let Some(handle) = handles.get(&member.volume) {
                member.token = Group::token(house.cluster, &now.name, handle, now.generation);
            }
        }
    })
    .await
}

/// A group that is being cut.
struct Together<'a> {
    house: &'a House,
    group: &'a Group,
    sources: Vec<Volume>,
    planned: Vec<Snapshot>,
    ability: &'a dyn Snapshots,
    progress: Mutex<Progress>,
}

/// How far it is.
#[derive(Default)]
struct Progress {
    cut: Vec<Shot>,
    discarded: usize,
}

#[async_trait]
impl Copying for Together<'_> {
    type Made = Vec<Shot>;

    async fn how(&self) -> Result<Vec<Holding>, Error> {
        let mut all = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            let about = |error: Error| error.about(format!("volume {}", source.name));
            let cutting = match self.ability.how(which(self.house, source)).await.map_err(about)? {
                // One after the other, instants are several moments.
                Cutting::Instant if self.sources.len() > 1 => Cutting::Copy,
                cutting => cutting,
            };
            all.push(Holding { volume: source.id, cutting });
        }
        Ok(all)
    }

    async fn ask(&self, mut resume: Option<Vec<u8>>) -> Result<Effect<Vec<Shot>>, Error> {
        let mut progress = self.progress.lock().await;
        while let (Some(planned), Some(source)) =
            (self.planned.get(progress.cut.len()), self.sources.get(progress.cut.len()))
        {
            let wish = Cut {
                token: planned.token(self.house.cluster),
                mark: SnapshotMark::of(planned, self.house.cluster).encode(),
                name: planned.name.as_str().to_owned(),
                volume: which(self.house, source),
                parameters: self.group.parameters.clone(),
                resume: resume.take(),
            };
            let shot = match self.ability.cut(wish).await {
                Ok(Effect::Done(shot)) => shot,
                Ok(Effect::Pending(pending)) => return Ok(Effect::Pending(pending)),
                Err(error) => return Err(error.about(format!("volume {}", source.name))),
            };
            if SnapshotMark::decode(&shot.mark).is_ok_and(|mark| mark.group != planned.group) {
                self.begin().await?;
                let late =
                    "a snapshot of an attempt that nobody remembers is in the way: it is thrown away first";
                return Err(Error::busy(late).pending());
            }
            progress.cut.push(shot);
        }
        Ok(Effect::Done(progress.cut.clone()))
    }

    async fn discard(&self, mut resume: Option<Vec<u8>>) -> Result<Effect<()>, Error> {
        let mut progress = self.progress.lock().await;
        progress.cut.clear();
        for member in self.group.members.iter().rev().skip(progress.discarded) {
            match self.ability.delete_snapshot(named(member), resume.take()).await? {
                Effect::Done(()) => progress.discarded += 1,
                Effect::Pending(pending) => return Ok(Effect::Pending(pending)),
            }
        }
        progress.discarded = 0;
        Ok(Effect::Done(()))
    }

    async fn begin(&self) -> Result<(), Error> {
        edit(self.house, self.group, Durability::Durable, |group| group.intent.copying = true).await
    }

    async fn goes_on(&self, pending: &Pending) -> Result<bool, Error> {
        later(self.house, self.group, pending, Durability::Lazy).await?;
        let now = self.house.journal.group(self.group.id).await?.value;
        Ok(now.is_some_and(|group| group.state == GroupState::Creating))
    }
}

/// Makes the records of all snapshots, in the batch that ends the wish.
async fn record_cut(
    house: &Arc<House>,
    group: &Group,
    backend: &Arc<dyn Backend>,
    planned: Vec<Snapshot>,
    shots: &[Shot],
    held_still: Option<Duration>,
) -> Result<(), Error> {
    let keeps_volume = backend.describe().abilities.snapshot_needs_volume;
    let now = house.now();
    let cut: Vec<Snapshot> = planned
        .into_iter()
        .zip(shots)
        .map(|(snapshot, shot)| Snapshot {
            handle: Some(shot.handle.clone()),
            size: shot.size,
            cut: Some(shot.cut.unwrap_or(now)),
            held_still,
            state: if shot.ready { SnapshotState::Ready } else { SnapshotState::Cut },
            intent: (!shot.ready).then(|| Intent::new(now)),
            ..snapshot
        })
        .collect();
    let (volumes, snapshots) = touched(group);
    house
        .journal
        .edit_group(group.id, &volumes, &snapshots, Durability::Durable, |draft, change| {
            match draft.group.as_mut() {
                Some(wish) if wish.state == GroupState::Creating => {}
                // What is to be gone by now is deleted by what it is called.
                Some(wish) => {
                    for (member, snapshot) in wish.members.iter_mut().zip(&cut) {
                        member.handle = snapshot.handle.clone();
                    }
                    return Ok(());
                }
                None => return Ok(()),
            }
            draft.group = None;
            for snapshot in &cut {
                change.put(keys::snapshot_name(&snapshot.name), &snapshot.id);
                let volume = draft.family(snapshot.volume).volume.as_mut();
                if let Some(volume) = volume {
                    volume.dependants.remove(&Dependant::Group(group.id));
                    if keeps_volume {
                        volume.dependants.insert(Dependant::Snapshot(snapshot.id));
                    }
                }
                *draft.snapshot(snapshot.id) = Some(snapshot.clone());
            }
            Ok(())
        })
        .await?;
    for snapshot in cut.iter().filter(|snapshot| snapshot.state != SnapshotState::Ready) {
        house.ring(Subject::Snapshot(snapshot.id), false);
    }
    Ok(())
}

/// Deletes the first that is left.
async fn delete(
    house: &House,
    group: &Group,
    backend: &Arc<dyn Backend>,
    ability: &dyn Snapshots,
) -> Result<(), Error> {
    let Some(member) = group.members.first() else { return forget(house, group, Durability::Lazy).await };
    if member.handle.is_none() {
        // Reversing a cut that was never heard must not take away what another attempt has made.
        let found = ability.inspect_snapshots(vec![named(member)]).await.map_err(Error::pending)?;
        let mark = found.into_iter().next().flatten().and_then(|shot| SnapshotMark::decode(&shot.mark).ok());
        if mark.is_some_and(|mark| mark.id != member.snapshot) {
            return drop_first(house, group, member, None).await;
        }
    }
    house.end_reading(member.snapshot).await?;
    match ability.delete_snapshot(named(member), group.intent.resume.clone()).await? {
        Effect::Pending(pending) => later(house, group, &pending, Durability::Durable).await,
        Effect::Done(()) => {
            let settle = backend.describe().settle;
            let unheard = member.handle.is_none() && !settle.is_zero();
            drop_first(house, group, member, unheard.then_some(settle)).await
        }
    }
}

/// Removes the records of a snapshot that is gone; leaves a tombstone where a cut may still come true.
async fn drop_first(
    house: &House,
    group: &Group,
    member: &Member,
    settle: Option<Duration>,
) -> Result<(), Error> {
    let now = house.now();
    house
        .journal
        .edit_group(group.id, &[member.volume], &[member.snapshot], Durability::Lazy, |draft, change| {
            change.frees_space();
            if let Some(group) = draft.group.as_mut() {
                group.members.retain(|one| one != member);
                group.intent = Intent::new(now);
            }
            *draft.snapshot(member.snapshot) = None;
            let_go(draft, group.id, member);
            if let Some(settle) = settle {
                let grave = Grave {
                    id: VolumeId(member.snapshot.0),
                    what: Buried::Snapshot,
                    backend: &group.backend,
                    token: member.token.clone(),
                    handle: None,
                    until: now.plus(settle),
                };
                tombstones::bury(change, &grave, now);
            }
            Ok(())
        })
        .await
        .map(drop)
}

/// Lets a member's volume go.
fn let_go(draft: &mut Draft, group: GroupId, member: &Member) {
    if let Some(volume) = draft.family(member.volume).volume.as_mut() {
        volume.dependants.remove(&Dependant::Group(group));
        volume.dependants.remove(&Dependant::Snapshot(member.snapshot));
    }
}

/// Removes the wish, and what the group is called.
async fn forget(house: &House, group: &Group, durability: Durability) -> Result<(), Error> {
    let name = keys::group_name(&kept_group(&group.name));
    let named = house.journal.record::<GroupId>(name.clone()).await?.value == Some(group.id);
    let (volumes, _) = touched(group);
    house
        .journal
        .edit_group(group.id, &volumes, &[], durability, |draft, change: &mut Change| {
            change.frees_space();
            draft.group = None;
            for member in &group.members {
                let_go(draft, group.id, member);
            }
            if named {
                change.delete(name.clone());
            }
            Ok(())
        })
        .await
        .map(drop)
}

fn touched(group: &Group) -> (Vec<VolumeId>, Vec<SnapshotId>) {
    group.members.iter().map(|member| (member.volume, member.snapshot)).unzip()
}

/// Records that a step failed. A refusal of the cut takes the wish back, durably, because the caller hears of it;
/// what was cut by then is deleted first.
async fn fail(house: &Arc<House>, group: &Group, error: &Error) -> Result<u32, Error> {
    let now = house.now();
    let refused = group.state == GroupState::Creating && error.is_final() && error.kind != Kind::Busy;
    // The refusal may have come after the beginning that this very step recorded.
    let current = house.journal.group(group.id).await?.value;
    let asked = current.as_ref().is_some_and(|group| house.may_have_asked(Some(&group.intent)));
    if refused && !asked {
        forget(house, group, Durability::Durable).await?;
        return Ok(1);
    }
    if group.state == GroupState::Deleting && error.is_final() && error.kind.is_refusal() {
        // Whoever heard that something needs it may use it on, unless a part of it is gone already.
        let members = house.journal.members(group.id).await?;
        let whole = members
            .first()
            .and_then(|one| one.group.as_ref())
            .is_some_and(|place| members.len() == usize::from(place.of));
        if whole {
            keep(house, group).await?;
            return Ok(1);
        }
    }
    let mut attempts = 1;
    edit(house, group, Durability::Durable, |wish| {
        if refused {
            wish.state = GroupState::Deleting;
            wish.intent = Intent::new(now);
            return;
        }
        wish.intent.attempts = wish.intent.attempts.saturating_add(1);
        attempts = wish.intent.attempts;
        wish.intent.last_error = Some(Failure::of(error, now));
        wish.intent.next_try = now.plus(error.retry_after.unwrap_or_else(|| House::pause(attempts)));
    })
    .await?;
    Ok(attempts)
}

/// Takes back the wish that a whole group be gone.
async fn keep(house: &Arc<House>, group: &Group) -> Result<(), Error> {
    let (now, (_, snapshots)) = (house.now(), touched(group));
    house
        .journal
        .edit_group(group.id, &[], &snapshots, Durability::Durable, |draft, _| {
            draft.group = None;
            for id in &snapshots {
                if let Some(snapshot) = draft.snapshot(*id) {
                    snapshot.state = SnapshotState::Cut;
                    snapshot.intent = Some(Intent::new(now));
                }
            }
            Ok(())
        })
        .await?;
    for id in snapshots {
        house.ring(Subject::Snapshot(id), false);
    }
    Ok(())
}

async fn later(house: &House, group: &Group, pending: &Pending, durability: Durability) -> Result<(), Error> {
    let now = house.now();
    edit(house, group, durability, |wish| wish.intent = asked_later(Some(&wish.intent), pending, now)).await
}

/// Changes what is wished, unless something else is by now.
async fn edit(
    house: &House,
    group: &Group,
    durability: Durability,
    mut edit: impl FnMut(&mut Group) + Send,
) -> Result<(), Error> {
    house
        .journal
        .edit_group(group.id, &[], &[], durability, |draft, _| {
            if let Some(wish) = draft.group.as_mut().filter(|wish| wish.state == group.state) {
                edit(wish);
            }
            Ok(())
        })
        .await
        .map(drop)
}
