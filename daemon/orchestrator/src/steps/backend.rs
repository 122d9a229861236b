//! Steps that a backend takes with a volume: create, delete, grow, modify. Who reaches it is in `attach.rs`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    error::{Error, Kind},
    family::Family,
    hold::{self, Copied, Copying, Holding},
    house::House,
    journal::Draft,
    mark::{Mark, is_class},
    model::{
        Buried, Bytes, Connection, Dependant, FsState, Intent, NodeId, SnapshotId, Source, Stage, Timestamp,
        Volume, VolumeId, VolumeState,
    },
    ops::copy::end_temporary,
    plan::Step,
    ports::{
        Backend,
        backend::{Create, Effect, Made, Origin, Pending, Verb, Which},
        store::Durability,
    },
    steps::{asked_later, fill, resume},
    tombstones::{self, Grave},
};

/// How a volume is named to its backend.
pub(crate) fn which(house: &House, volume: &Volume) -> Which {
    Which { token: volume.token(house.cluster), handle: volume.handle.clone() }
}

/// Whose "ask again" a step stands under, and about what; nothing for steps that no backend takes.
pub(super) fn under_way<'a>(
    family: &'a Family,
    volume: &'a Volume,
    step: &Step,
) -> Option<(Option<&'a Intent>, Verb, Option<String>)> {
    let own = volume.intent.as_ref();
    let attachments = |verb, node: &NodeId| {
        let intent = family.attachments.get(node).and_then(|one| one.intent.as_ref());
        Some((intent, verb, Some(node.as_str().to_owned())))
    };
    match step {
        // What is copied from elsewhere is asked about by itself.
        Step::Create if volume.filling.is_none() => Some((own, Verb::Create, None)),
        Step::Delete => Some((own, Verb::Delete, None)),
        Step::Grow => Some((own, Verb::Grow, None)),
        Step::Modify => Some((own, Verb::Modify, None)),
        Step::Attach(node) => attachments(Verb::Attach, node),
        Step::Fence(node) => attachments(Verb::Fence, node),
        Step::Detach(node) => attachments(Verb::Detach, node),
        Step::Create
        | Step::Fill
        | Step::LetGo
        | Step::TakeDownLost
        | Step::Format
        | Step::Mount
        | Step::Unmount
        | Step::GrowFilesystem
        | Step::Bind(_)
        | Step::Unbind(_) => None,
    }
}

pub(super) async fn create(house: &Arc<House>, volume: &Volume) -> Result<(), Error> {
    let raise = |volume: &mut Volume| {
        volume.generation = volume.generation.saturating_add(1);
        volume.intent.iter_mut().for_each(Intent::begin_anew);
    };
    if house.is_buried(&volume.token(house.cluster)).await? {
        return edit_volume(house, volume, Durability::Durable, raise).await;
    }
    if let Some(filling) = &volume.filling
        && let (Stage::Making, Some(seed)) = (filling.stage, &filling.seed)
    {
        return fill::begin(house, volume, filling, seed).await;
    }
    let backend = house.backend(&volume.backend).await?;
    match ask_for(house, volume, &backend).await {
        Ok(Copied::Done(made, held_still)) => match is_another(house, volume, &made) {
            Some(error) => refused(house, volume, error).await,
            None => record_made(house, volume, &backend, made, held_still).await,
        },
        Ok(Copied::Later(pending)) => later(house, volume, &pending, Durability::Durable).await,
        Ok(Copied::Unwanted) => Ok(()),
        Err(error) if error.token_burnt => edit_volume(house, volume, Durability::Durable, raise).await,
        // Of what was found before this wish nothing is made: that it is another is known for good.
        Err(error) if volume.handle.is_some() && error.kind == Kind::AlreadyExists => {
            refused(house, volume, error.settled()).await
        }
        Err(error) if error.is_final() => refused(house, volume, error).await,
        Err(error) => Err(error),
    }
}

/// Takes a create back that is refused; durably, because the caller hears of it.
async fn refused(house: &Arc<House>, volume: &Volume, error: Error) -> Result<(), Error> {
    let now = house.now();
    if volume.handle.is_some() {
        // It was there before this wish and is not what is wished: it stays as it was found.
        edit_volume(house, volume, Durability::Durable, |volume| {
            volume.state = VolumeState::Ready;
            volume.found = true;
            volume.intent = None;
        })
        .await?;
    } else if error.kind != Kind::AlreadyExists && house.may_have_asked(volume.intent.as_ref()) {
        // An earlier try may have made something, or may still come true.
        edit_volume(house, volume, Durability::Durable, |volume| {
            volume.state = VolumeState::Deleting;
            volume.intent = Some(Intent::new(now));
        })
        .await?;
    } else {
        // What stands under the token and is not what is wished was made by somebody else's wish: it is not ours to
        // delete.
        forget(house, volume, None, Durability::Durable).await?;
        fill::ring_source(house, volume);
    }
    Err(error)
}

/// Why a volume that a create found under its token is another than is wished, as far as the backend cannot tell.
fn is_another(house: &House, volume: &Volume, made: &Made) -> Option<Error> {
    let mark = Mark::decode(&made.mark).ok().filter(|mark| mark.cluster == house.cluster)?;
    let differs = |what: &str, is: &dyn std::fmt::Display| {
        Some(Error::already_exists(format!(
            "it exists with another {what} ({is}): use that one, or remove it, or choose another name"
        )))
    };
    if !is_class(&mark.class, &volume.class) {
        return differs("class", &mark.class);
    }
    let has_filesystem = !made.connection.as_ref().is_some_and(Connection::is_directory);
    if has_filesystem && mark.fs != volume.filesystem.fs {
        return differs("filesystem", &mark.fs);
    }
    None
}

async fn ask_for(
    house: &Arc<House>,
    volume: &Volume,
    backend: &Arc<dyn Backend>,
) -> Result<Copied<Made>, Error> {
    let wish = Making { house, volume, backend, origin: origin(house, volume).await? };
    let (Some(Source::Volume(source)), Some(Origin::Volume(named))) = (&volume.source, &wish.origin) else {
        return Ok(match wish.ask(resume(volume.intent.as_ref())).await? {
            Effect::Done(made) => Copied::Done(made, None),
            Effect::Pending(pending) => Copied::Later(pending),
        });
    };
    let wish = Cloning { making: &wish, volume: *source, source: named };
    hold::copy(house, volume.intent.as_ref(), &wish).await
}

/// A volume that is being made.
struct Making<'a> {
    house: &'a House,
    volume: &'a Volume,
    backend: &'a Arc<dyn Backend>,
    origin: Option<Origin>,
}

impl Making<'_> {
    async fn ask(&self, resume: Option<Vec<u8>>) -> Result<Effect<Made>, Error> {
        let (house, volume) = (self.house, self.volume);
        let wish = Create {
            token: volume.token(house.cluster),
            mark: Mark::of(volume, house.cluster).encode(),
            name: volume.name.as_str().to_owned(),
            size: volume.wanted.size,
            parameters: volume.wanted.parameters.clone(),
            source: self.origin.clone(),
            topology: match (volume.wanted.places.is_empty(), house.config.topology.is_empty()) {
                (false, _) => volume.wanted.places.clone(),
                (true, true) => Vec::new(),
                (true, false) => vec![house.config.topology.clone()],
            },
            resume,
        };
        self.backend.create(wish).await
    }
}

/// One that is made as a copy of another.
struct Cloning<'a> {
    making: &'a Making<'a>,
    volume: VolumeId,
    source: &'a Which,
}

#[async_trait]
impl Copying for Cloning<'_> {
    type Made = Made;

    async fn how(&self) -> Result<Vec<Holding>, Error> {
        let cutting = self.making.backend.clone_how(self.source.clone()).await?;
        Ok(vec![Holding { volume: self.volume, cutting }])
    }

    async fn ask(&self, resume: Option<Vec<u8>>) -> Result<Effect<Made>, Error> {
        self.making.ask(resume).await
    }

    async fn discard(&self, resume: Option<Vec<u8>>) -> Result<Effect<()>, Error> {
        let Making { house, volume, backend, .. } = self.making;
        backend.delete(which(house, volume), resume).await
    }

    async fn begin(&self) -> Result<(), Error> {
        let Making { house, volume, .. } = self.making;
        let now = house.now();
        edit_volume(house, volume, Durability::Durable, |volume| {
            volume.intent.get_or_insert_with(|| Intent::new(now)).copying = true;
        })
        .await
    }

    async fn goes_on(&self, pending: &Pending) -> Result<bool, Error> {
        let Making { house, volume, .. } = self.making;
        later(house, volume, pending, Durability::Lazy).await?;
        let now = house.journal.family(volume.id).await?.value.volume;
        Ok(now.is_some_and(|volume| volume.state == VolumeState::Creating))
    }
}

/// Records that the backend wants to be asked again.
pub(super) async fn later(
    house: &House,
    volume: &Volume,
    pending: &Pending,
    durability: Durability,
) -> Result<(), Error> {
    let now = house.now();
    edit_volume(house, volume, durability, |record| {
        // Another wish that came meanwhile is not asked with this one's words.
        if record.state == volume.state {
            record.intent = Some(asked_later(record.intent.as_ref(), pending, now));
        }
    })
    .await
}

/// What the volume is to be a copy of, in the backend's words.
async fn origin(house: &House, volume: &Volume) -> Result<Option<Origin>, Error> {
    let gone = |what: &str| Error::not_found(format!("the {what} that it was to be made from is gone"));
    if let Some(filling) = &volume.filling {
        return fill::origin(house, volume, filling).await;
    }
    Ok(match &volume.source {
        None => None,
        Some(Source::Snapshot(id)) => {
            let snapshot = house.journal.snapshot(*id).await?.value.ok_or_else(|| gone("snapshot"))?;
            Some(Origin::Snapshot(Which { token: snapshot.token(house.cluster), handle: snapshot.handle }))
        }
        Some(Source::Volume(id)) => {
            let source = house.journal.family(*id).await?.value.volume.ok_or_else(|| gone("volume"))?;
            Some(Origin::Volume(which(house, &source)))
        }
        // It is filled, and made of nothing.
        Some(Source::File(_)) => None,
    })
}

/// The records that a change to a volume and its source touches.
pub(super) fn with_source(volume: &Volume) -> (Vec<VolumeId>, Vec<SnapshotId>) {
    match &volume.source {
        Some(Source::Volume(source)) => (vec![volume.id, *source], Vec::new()),
        Some(Source::Snapshot(source)) => (vec![volume.id], vec![*source]),
        Some(Source::File(_)) | None => (vec![volume.id], Vec::new()),
    }
}

/// Lets a volume's source go; one that was cut for it alone goes with that.
pub(super) fn release_source(draft: &mut Draft, volume: &Volume, now: Timestamp) {
    match &volume.source {
        Some(Source::Volume(source)) => {
            if let Some(source) = draft.family(*source).volume.as_mut() {
                source.dependants.remove(&Dependant::Clone(volume.id));
            }
        }
        Some(Source::Snapshot(source)) => {
            if let Some(source) = draft.snapshot(*source) {
                source.dependants.remove(&volume.id);
                end_temporary(source, now);
            }
        }
        Some(Source::File(_)) | None => {}
    }
}

/// Records that the volume is made, and that its source is free again where the backend does not need it.
async fn record_made(
    house: &Arc<House>,
    volume: &Volume,
    backend: &Arc<dyn Backend>,
    made: Made,
    held_still: Option<Duration>,
) -> Result<(), Error> {
    let abilities = backend.describe().abilities;
    let keeps_source = abilities.clone_needs_source;
    let places = house.places_of(&abilities, &made.topology);
    let now = house.now();
    let twin = match volume.filling.as_ref().is_some_and(|filling| filling.stage == Stage::Copied) {
        true => fill::twin(house, volume).await?,
        false => None,
    };
    let (families, mut snapshots) = with_source(volume);
    snapshots.extend(twin.iter().map(|twin| twin.0));
    // A copy that is made again would be one of a later moment.
    let durability = match volume.source {
        Some(Source::Volume(_)) => Durability::Durable,
        Some(Source::Snapshot(_) | Source::File(_)) | None => Durability::Lazy,
    };
    house
        .journal
        .edit(&families, &snapshots, durability, |draft, change| {
            apply_made(draft, volume, &made, &places);
            fill::record_twin(draft, change, volume, twin.as_ref(), now);
            if let Some(record) = draft.family(volume.id).volume.as_mut() {
                record.held_still = held_still;
            }
            if !keeps_source && volume.filling.is_none() {
                release_source(draft, volume, now);
            }
            // A copy from another backend is written on this node next.
            let family = draft.family(volume.id);
            let copies = family.volume.as_ref().is_some_and(|volume| volume.state == VolumeState::Creating);
            if copies {
                crate::ops::mount::attach(family, house.node(), false, now);
            }
            Ok(())
        })
        .await?;
    fill::ring_twin(house, twin.as_ref());
    Ok(())
}

fn apply_made(draft: &mut Draft, volume: &Volume, made: &Made, places: &BTreeMap<String, String>) {
    let Some(now) = draft.family(volume.id).volume.as_mut() else { return };
    now.handle = Some(made.handle.clone());
    now.actual = Some(made.size);
    now.actual_parameters = made.parameters.clone().unwrap_or_else(|| volume.wanted.parameters.clone());
    now.wanted.parameters = now.actual_parameters.clone();
    now.connection = made.connection.clone();
    now.topology.clone_from(places);
    now.found = false;
    if now.source.is_some() || made.connection.as_ref().is_some_and(Connection::is_directory) {
        now.filesystem.state = FsState::Formatted;
    }
    // Its token found one that was there before, of a life whose records were lost: what is on it is kept.
    if let Some(before) = Mark::decode(&made.mark).ok().filter(|mark| mark.formatted) {
        now.filesystem.state = FsState::Formatted;
        now.filesystem.fs = before.fs;
        now.filesystem.root.directory = before.directory;
    }
    if now.state == VolumeState::Creating {
        now.intent = None;
        match now.filling.as_mut().filter(|filling| filling.stage == Stage::Making) {
            Some(filling) => filling.stage = Stage::Copying,
            None => now.state = VolumeState::Ready,
        }
    }
}

pub(super) async fn delete(house: &Arc<House>, volume: &Volume) -> Result<(), Error> {
    let catalog = house.catalog();
    let retain = catalog.classes.get(&volume.class).is_some_and(|class| class.retain);
    if retain && volume.handle.is_some() {
        return forget(house, volume, None, Durability::Lazy).await;
    }
    let backend = house.backend(&volume.backend).await?;
    if volume.handle.is_none() && is_of_another_life(house, volume, &backend).await? {
        return forget(house, volume, None, Durability::Lazy).await;
    }
    match backend.delete(which(house, volume), resume(volume.intent.as_ref())).await? {
        Effect::Pending(pending) => later(house, volume, &pending, Durability::Durable).await,
        Effect::Done(()) => {
            let settle = backend.describe().settle;
            let unheard = volume.handle.is_none() && !settle.is_zero();
            forget(house, volume, unheard.then(|| house.now().plus(settle)), Durability::Lazy).await
        }
    }
}

/// Whether what stands under a volume's token was made for another record than this one, whose create was never
/// heard: records that were lost knew it, or another daemon's do. Reversing our create must not take it away.
async fn is_of_another_life(
    house: &House,
    volume: &Volume,
    backend: &Arc<dyn Backend>,
) -> Result<bool, Error> {
    let found = backend.inspect(vec![which(house, volume)]).await.map_err(Error::pending)?;
    let mark = found.into_iter().next().flatten().and_then(|made| Mark::decode(&made.mark).ok());
    Ok(mark.is_some_and(|mark| mark.id != volume.id))
}

/// Removes the record and what stands for it; leaves a tombstone where a create may still come true.
async fn forget(
    house: &House,
    volume: &Volume,
    tombstone_until: Option<Timestamp>,
    durability: Durability,
) -> Result<(), Error> {
    let now = house.now();
    let (families, snapshots) = with_source(volume);
    house
        .journal
        .edit(&families, &snapshots, durability, |draft, change| {
            release_source(draft, volume, now);
            draft.family(volume.id).volume = None;
            change.frees_space();
            if let Some(until) = tombstone_until {
                let grave = Grave {
                    id: volume.id,
                    what: Buried::Volume,
                    backend: &volume.backend,
                    token: volume.token(house.cluster),
                    handle: volume.handle.clone(),
                    until,
                };
                tombstones::bury(change, &grave, house.now());
            }
            Ok(())
        })
        .await
        .map(drop)
}

pub(super) async fn grow(house: &Arc<House>, volume: &Volume) -> Result<(), Error> {
    let backend = house.backend(&volume.backend).await?;
    let Some(grow) = backend.grow() else {
        return Err(Error::unsupported(
            "its backend cannot grow volumes: make a larger one from a snapshot or a clone",
        ));
    };
    match grow.grow(which(house, volume), volume.wanted.size, resume(volume.intent.as_ref())).await? {
        Effect::Done(size) => record_grown(house, volume, size).await,
        Effect::Pending(pending) => later(house, volume, &pending, Durability::Durable).await,
    }
}

async fn record_grown(house: &House, volume: &Volume, size: Bytes) -> Result<(), Error> {
    house
        .journal
        .edit_family(volume.id, Durability::Lazy, |family, _| {
            let Some(volume) = family.volume.as_mut() else { return Ok(()) };
            volume.actual = Some(size);
            volume.intent = None;
            if !volume.connection.as_ref().is_some_and(Connection::is_directory) {
                for mount in family.mounts.values_mut() {
                    mount.fs_behind = true;
                    mount.intent = None;
                }
            }
            Ok(())
        })
        .await
        .map(drop)
}

pub(super) async fn modify(house: &Arc<House>, volume: &Volume) -> Result<(), Error> {
    let backend = house.backend(&volume.backend).await?;
    let Some(extras) = backend.extras() else {
        return Err(Error::unsupported("its backend cannot change the parameters of existing volumes"));
    };
    let wanted = volume.wanted.parameters.clone();
    let changed = wanted.iter().filter(|(name, value)| volume.actual_parameters.get(*name) != Some(*value));
    let changed = changed.map(|(name, value)| (name.clone(), value.clone())).collect();
    let now = house.now();
    let answer = extras.modify(which(house, volume), changed, resume(volume.intent.as_ref())).await?;
    edit_volume(house, volume, Durability::Durable, |volume| match &answer {
        Effect::Done(()) => {
            volume.actual_parameters = wanted.clone();
            volume.intent = None;
        }
        Effect::Pending(pending) if volume.state == VolumeState::Ready => {
            volume.intent = Some(asked_later(volume.intent.as_ref(), pending, now));
        }
        Effect::Pending(_) => {}
    })
    .await
}

pub(super) async fn edit_volume(
    house: &House,
    volume: &Volume,
    durability: Durability,
    mut edit: impl FnMut(&mut Volume) + Send,
) -> Result<(), Error> {
    let id = volume.id;
    house
        .journal
        .edit_family(id, durability, |family, _| {
            if let Some(volume) = family.volume.as_mut() {
                edit(volume);
            }
            Ok(())
        })
        .await
        .map(drop)
}
