//! Steps that a backend takes: create, delete, grow, modify, attach, detach.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    error::{Error, Kind},
    family::Family,
    hold::{self, Copied, Copying},
    house::House,
    journal::Draft,
    mark::Mark,
    model::{
        Attachment, AttachmentState, Buried, Bytes, Connection, Dependant, FsState, Intent, NodeId,
        SnapshotId, Source, Timestamp, Volume, VolumeId, VolumeState,
    },
    plan::Step,
    ports::{
        Backend,
        backend::{Create, Cutting, Effect, Made, NodeFacts, Origin, Pending, Verb, Which},
        store::Durability,
    },
    steps::{asked_later, resume},
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
        Step::Create => Some((own, Verb::Create, None)),
        Step::Delete => Some((own, Verb::Delete, None)),
        Step::Grow => Some((own, Verb::Grow, None)),
        Step::Modify => Some((own, Verb::Modify, None)),
        Step::Attach(node) => attachments(Verb::Attach, node),
        Step::Detach(node) => attachments(Verb::Detach, node),
        Step::Format
        | Step::Mount
        | Step::Unmount
        | Step::GrowFilesystem
        | Step::Bind(_)
        | Step::Unbind(_) => None,
    }
}

pub(super) async fn create(house: &Arc<House>, volume: &Volume) -> Result<(), Error> {
    let raise = |volume: &mut Volume| volume.generation = volume.generation.saturating_add(1);
    if house.is_buried(&volume.token(house.cluster)).await? {
        return edit_volume(house, volume, Durability::Durable, raise).await;
    }
    let backend = house.backend(&volume.backend).await?;
    match ask_for(house, volume, &backend).await {
        Ok(Copied::Done(made, held_still)) => record_made(house, volume, &backend, made, held_still).await,
        Ok(Copied::Later(pending)) => later(house, volume, &pending, Durability::Durable).await,
        Ok(Copied::Unwanted) => Ok(()),
        Err(error) if error.token_burnt => edit_volume(house, volume, Durability::Durable, raise).await,
        Err(error) if error.is_final() => {
            // The caller hears of it, so it is taken back durably.
            if house.may_have_asked(volume.intent.as_ref()) {
                // An earlier try may have made something, or may still come true.
                let now = house.now();
                edit_volume(house, volume, Durability::Durable, |volume| {
                    volume.state = VolumeState::Deleting;
                    volume.intent = Some(Intent::new(now));
                })
                .await?;
            } else {
                forget(house, volume, None, Durability::Durable).await?;
            }
            Err(error)
        }
        Err(error) => Err(error),
    }
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
    hold::copy(house, *source, volume.intent.as_ref(), &Cloning { making: &wish, source: named }).await
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
            topology: match house.config.topology.is_empty() {
                true => Vec::new(),
                false => vec![house.config.topology.clone()],
            },
            resume,
        };
        self.backend.create(wish).await
    }
}

/// One that is made as a copy of another.
struct Cloning<'a> {
    making: &'a Making<'a>,
    source: &'a Which,
}

#[async_trait]
impl Copying for Cloning<'_> {
    type Made = Made;

    async fn how(&self) -> Result<Cutting, Error> {
        self.making.backend.clone_how(self.source.clone()).await
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
async fn later(
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
    })
}

/// The records that a change to a volume and its source touches.
fn with_source(volume: &Volume) -> (Vec<VolumeId>, Vec<SnapshotId>) {
    match &volume.source {
        Some(Source::Volume(source)) => (vec![volume.id, *source], Vec::new()),
        Some(Source::Snapshot(source)) => (vec![volume.id], vec![*source]),
        None => (vec![volume.id], Vec::new()),
    }
}

/// Lets a volume's source go.
fn release_source(draft: &mut Draft, volume: &Volume) {
    match &volume.source {
        Some(Source::Volume(source)) => {
            if let Some(source) = draft.family(*source).volume.as_mut() {
                source.dependants.remove(&Dependant::Clone(volume.id));
            }
        }
        Some(Source::Snapshot(source)) => {
            if let Some(source) = draft.snapshot(*source) {
                source.dependants.remove(&volume.id);
            }
        }
        None => {}
    }
}

/// Records that the volume is made, and that its source is free again where the backend does not need it.
async fn record_made(
    house: &House,
    volume: &Volume,
    backend: &Arc<dyn Backend>,
    made: Made,
    held_still: Option<Duration>,
) -> Result<(), Error> {
    let keeps_source = backend.describe().abilities.clone_needs_source;
    let (families, snapshots) = with_source(volume);
    // A copy that is made again would be one of a later moment.
    let durability = match volume.source {
        Some(Source::Volume(_)) => Durability::Durable,
        Some(Source::Snapshot(_)) | None => Durability::Lazy,
    };
    house
        .journal
        .edit(&families, &snapshots, durability, |draft, _| {
            apply_made(draft, volume, &made);
            if let Some(now) = draft.family(volume.id).volume.as_mut() {
                now.held_still = held_still;
            }
            if !keeps_source {
                release_source(draft, volume);
            }
            Ok(())
        })
        .await
        .map(drop)
}

fn apply_made(draft: &mut Draft, volume: &Volume, made: &Made) {
    let Some(now) = draft.family(volume.id).volume.as_mut() else { return };
    now.handle = Some(made.handle.clone());
    now.actual = Some(made.size);
    now.actual_parameters = made.parameters.clone().unwrap_or_else(|| volume.wanted.parameters.clone());
    now.wanted.parameters = now.actual_parameters.clone();
    now.connection = made.connection.clone();
    now.topology = made.topology.clone();
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
        now.state = VolumeState::Ready;
        now.intent = None;
    }
}

pub(super) async fn delete(house: &Arc<House>, volume: &Volume) -> Result<(), Error> {
    let catalog = house.catalog();
    let retain = catalog.classes.get(&volume.class).is_some_and(|class| class.retain);
    if retain && volume.handle.is_some() {
        return forget(house, volume, None, Durability::Lazy).await;
    }
    let backend = house.backend(&volume.backend).await?;
    match backend.delete(which(house, volume), resume(volume.intent.as_ref())).await? {
        Effect::Pending(pending) => later(house, volume, &pending, Durability::Durable).await,
        Effect::Done(()) => {
            let settle = backend.describe().settle;
            let unheard = volume.handle.is_none() && !settle.is_zero();
            forget(house, volume, unheard.then(|| house.now().plus(settle)), Durability::Lazy).await
        }
    }
}

/// Removes the record and what stands for it; leaves a tombstone where a create may still come true.
async fn forget(
    house: &House,
    volume: &Volume,
    tombstone_until: Option<Timestamp>,
    durability: Durability,
) -> Result<(), Error> {
    let (families, snapshots) = with_source(volume);
    house
        .journal
        .edit(&families, &snapshots, durability, |draft, change| {
            release_source(draft, volume);
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

/// What the backend is told of a node.
fn node_facts(family: &Family, node: &NodeId) -> NodeFacts {
    let used = family.mounts.get(node).and_then(|mount| mount.device.clone());
    NodeFacts {
        name: node.as_str().to_owned(),
        used_devices: used.into_iter().collect(),
        ..NodeFacts::default()
    }
}

pub(super) async fn attach(
    house: &Arc<House>,
    family: &Family,
    volume: &Volume,
    node: &NodeId,
) -> Result<(), Error> {
    let backend = house.backend(&volume.backend).await?;
    let attachment = family.attachments.get(node);
    let answer = match (backend.attachments(), &volume.connection) {
        (Some(attachments), _) => {
            let read_only = attachment.is_some_and(|one| one.read_only);
            let resume = resume(attachment.and_then(|one| one.intent.as_ref()));
            attachments.attach(which(house, volume), node_facts(family, node), read_only, resume).await?
        }
        (None, Some(connection)) => {
            Effect::Done(crate::ports::backend::Attached { connection: connection.clone(), client: None })
        }
        (None, None) => {
            return Err(Error::internal(
                "its backend neither attaches volumes nor says how they are reached",
            ));
        }
    };
    let now = house.now();
    edit_attachment(house, volume, node, Durability::Durable, |one| match &answer {
        Effect::Done(attached) => {
            one.connection = Some(attached.connection.clone());
            one.client = attached.client.clone();
            if one.state == AttachmentState::Attaching {
                one.state = AttachmentState::Attached;
                one.intent = None;
            }
        }
        Effect::Pending(pending) if one.state == AttachmentState::Attaching => {
            one.intent = Some(asked_later(one.intent.as_ref(), pending, now));
        }
        Effect::Pending(_) => {}
    })
    .await
}

pub(super) async fn detach(
    house: &Arc<House>,
    family: &Family,
    volume: &Volume,
    node: &NodeId,
) -> Result<(), Error> {
    let backend = house.backend(&volume.backend).await?;
    if let Some(attachments) = backend.attachments() {
        let resume = resume(family.attachments.get(node).and_then(|one| one.intent.as_ref()));
        let answer = attachments.detach(which(house, volume), node_facts(family, node), resume).await;
        let now = house.now();
        match answer {
            Ok(Effect::Done(())) => {}
            Ok(Effect::Pending(pending)) => {
                return edit_attachment(house, volume, node, Durability::Durable, |one| {
                    if one.state == AttachmentState::Detaching {
                        one.intent = Some(asked_later(one.intent.as_ref(), &pending, now));
                    }
                })
                .await;
            }
            Err(error) if error.kind == Kind::NotFound && error.is_final() => {}
            Err(error) => return Err(error),
        }
    }
    house
        .journal
        .edit_family(volume.id, Durability::Lazy, |family, _| {
            if family.attachments.get(node).is_some_and(|one| one.state == AttachmentState::Detaching) {
                family.drop_attachment(node);
            }
            Ok(())
        })
        .await
        .map(drop)
}

async fn edit_volume(
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

async fn edit_attachment(
    house: &House,
    volume: &Volume,
    node: &NodeId,
    durability: Durability,
    mut edit: impl FnMut(&mut Attachment) + Send,
) -> Result<(), Error> {
    house
        .journal
        .edit_family(volume.id, durability, |family, _| {
            if let Some(attachment) = family.attachments.get_mut(node) {
                edit(attachment);
            }
            Ok(())
        })
        .await
        .map(drop)
}
