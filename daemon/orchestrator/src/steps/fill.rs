//! Steps that copy another backend's snapshot into a volume that is being made (`model/filling.rs`).
//!
//! What is copied is told by the source's backend (where data is, or what changed since a snapshot of which the target's
//! backend has the same bytes). A zero is only left out of a full copy onto what this very wish has made and what reads
//! as zeroes; a difference is written as it is. One step copies for a moment and records how far it came, so that a
//! wish to delete turns it around, and a crash costs no more than that moment: the same bytes are written again.

use std::{sync::Arc, time::Duration};

use sha2::{
    Digest as _, Sha256,
    digest::common::hazmat::{SerializableState as _, SerializedState},
};

use tracing::warn;

use crate::{
    drivers::Subject,
    error::{Error, Kind, Retry},
    family::Family,
    house::House,
    journal::{Change, Draft},
    mark::SnapshotMark,
    model::{
        AttachmentState, Bytes, Dependant, Filling, Intent, Seed, Since, Snapshot, SnapshotId, SnapshotName,
        SnapshotState, Source, Stage, Timestamp, Token, Volume, VolumeId, VolumeRef, VolumeState,
    },
    ops::{CreateSnapshot, copy::TWIN, snapshot},
    ports::{
        Backend, SnapshotWriting,
        backend::{Effect, Origin, Pending, Which},
        blocks::{Digest, Place, Reach, Writing},
        store::Durability,
    },
    records::keys,
    steps::{
        backend::{edit_volume, later, release_source, with_source},
        carry::{Copying, data},
        resume,
    },
};

/// How long one step copies.
const WHILE: Duration = Duration::from_secs(2);

/// Begins the seed of a volume.
pub(super) async fn begin(
    house: &Arc<House>,
    volume: &Volume,
    filling: &Filling,
    seed: &Seed,
) -> Result<(), Error> {
    let backend = house.backend(&volume.backend).await?;
    let base = match filling.since {
        Some(since) => Some(named(house, &known(house, since.twin).await?)),
        None => None,
    };
    let token = seed_token(house, volume, seed);
    let mark = SnapshotMark {
        cluster: house.cluster,
        id: SnapshotId(volume.id.0),
        volume: volume.id,
        generation: seed.generation,
        group: None,
        fs: volume.filesystem.fs,
        directory: volume.filesystem.root.directory.clone(),
        class: volume.class.clone(),
        name: SnapshotName::parse(token.as_str()).ok(),
    };
    let wish = Writing {
        token,
        mark: mark.encode(),
        name: volume.name.as_str().to_owned(),
        size: volume.wanted.size.required,
        base,
        parameters: volume.wanted.parameters.clone(),
    };
    match writing(&backend)?.begin(wish).await {
        Ok(begun) => {
            edit_seed(house, volume, |filling, seed| {
                seed.handle = Some(begun.handle.clone());
                seed.block = begun.block;
                filling.stage = Stage::Copying;
            })
            .await
        }
        Err(error) if error.token_burnt => again(house, volume).await,
        Err(error) => Err(error),
    }
}

/// Begins a seed anew, after the one that cannot be gone on with is gone.
async fn again(house: &House, volume: &Volume) -> Result<(), Error> {
    let backend = house.backend(&volume.backend).await?;
    if let Some(seed) = volume.filling.as_ref().and_then(|filling| filling.seed.as_ref())
        && let Some(snapshots) = backend.snapshots()
        && let Effect::Pending(pending) =
            snapshots.delete_snapshot(named_seed(house, volume, seed), None).await?
    {
        return Err(
            Error::busy(format!("what was begun before is being deleted: {}", pending.note)).pending()
        );
    }
    edit_seed(house, volume, |filling, seed| {
        *seed = Seed { generation: seed.generation.saturating_add(1), ..Seed::none() };
        (filling.stage, filling.at) = (Stage::Making, Bytes(0));
    })
    .await
}

/// What the volume itself is made of.
pub(super) async fn origin(
    house: &House,
    volume: &Volume,
    filling: &Filling,
) -> Result<Option<Origin>, Error> {
    if let Some(seed) = &filling.seed {
        return Ok(Some(Origin::Snapshot(named_seed(house, volume, seed))));
    }
    Ok(match filling.since {
        Some(since) => Some(Origin::Snapshot(named(house, &known(house, since.twin).await?))),
        None => None,
    })
}

/// Copies for a while.
pub(super) async fn fill(house: &Arc<House>, family: &Family, volume: &Volume) -> Result<(), Error> {
    let Some(before) = &volume.filling else { return Ok(()) };
    let mut filling = before.clone();
    let outcome = copy(house, family, volume, &mut filling).await;
    if filling != *before {
        edit_volume(house, volume, Durability::Lazy, |record| {
            if record.state == VolumeState::Creating && record.filling.as_ref() == Some(before) {
                record.filling = Some(filling.clone());
                if outcome.is_ok() {
                    record.intent = record.intent.take().filter(|intent| intent.resume.is_some());
                }
            }
        })
        .await?;
    }
    match outcome {
        Ok(()) if filling.at < filling.of => Ok(()),
        Ok(()) if filling.seed.is_some() => complete(house, volume, &filling).await,
        Ok(()) => copied(house, volume).await,
        // It was not open to be written any more.
        Err(error) if filling.seed.is_some() && error.kind == Kind::NotFound => again(house, volume).await,
        Err(error) if error.is_final() && error.kind.retry() == Retry::Never => {
            let now = house.now();
            edit_volume(house, volume, Durability::Durable, |record| {
                record.state = VolumeState::Deleting;
                record.intent = Some(Intent::new(now));
            })
            .await?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

async fn copy(
    house: &Arc<House>,
    family: &Family,
    volume: &Volume,
    filling: &mut Filling,
) -> Result<(), Error> {
    let until = house.now().plus(WHILE);
    let copying = Copying::open(house, family, volume, filling).await?;
    let before = filling.clone();
    let mut outcome = Ok(());
    while outcome.is_ok() && filling.at < filling.of && (filling.at == before.at || house.now() < until) {
        outcome = copying.page(filling, || house.now() >= until).await;
    }
    // How far it came is only recorded of what lasts.
    if *filling != before
        && let Err(error) = copying.flush().await
    {
        *filling = before;
        return Err(error);
    }
    outcome
}

/// The volume is what its source was.
async fn copied(house: &Arc<House>, volume: &Volume) -> Result<(), Error> {
    let now = house.now();
    let twin = twin(house, volume).await?;
    let snapshots: Vec<SnapshotId> = twin.iter().map(|twin| twin.0).collect();
    house
        .journal
        .edit(&[volume.id], &snapshots, Durability::Durable, |draft, change| {
            let Some(record) = draft.family(volume.id).volume.as_mut() else { return Ok(()) };
            if let Some(filling) = record.filling.as_mut().filter(|_| record.state == VolumeState::Creating) {
                filling.stage = Stage::Copied;
                record.state = VolumeState::Ready;
                record.intent = Some(Intent::new(now));
                record_twin(draft, change, volume, twin.as_ref(), now);
            }
            Ok(())
        })
        .await?;
    ring_twin(house, twin.as_ref());
    Ok(())
}

/// A snapshot of the copy that is to be its source's twin, and what it is called; nothing where none is wished.
pub(super) async fn twin(house: &House, volume: &Volume) -> Result<Option<Twin>, Error> {
    if !volume.filling.as_ref().is_some_and(|filling| filling.keep) {
        return Ok(None);
    }
    let Ok(name) = SnapshotName::parse(&format!("{}.twin", volume.name)) else { return Ok(None) };
    if house.journal.snapshot_id(&name).await?.is_some() {
        warn!(volume.id = %volume.id, snapshot.name = %name, "a snapshot of that name is there: the copy gets no twin");
        return Ok(None);
    }
    Ok(Some((SnapshotId(house.ports.ids.next()), name)))
}

pub(super) type Twin = (SnapshotId, SnapshotName);

/// Wishes for it, in the batch that says that the copy is whole: nobody gets the volume before it is cut.
pub(super) fn record_twin(
    draft: &mut Draft,
    change: &mut Change,
    volume: &Volume,
    twin: Option<&Twin>,
    now: Timestamp,
) {
    let (Some((id, name)), Some(Source::Snapshot(source))) = (twin, &volume.source) else { return };
    let wish = CreateSnapshot {
        name: name.clone(),
        volume: VolumeRef::Name(volume.name.clone()),
        parameters: Default::default(),
        labels: [(TWIN.to_owned(), source.to_string())].into(),
        until_ready: false,
    };
    let Some(record) = draft.family(volume.id).volume.as_mut() else { return };
    record.dependants.insert(Dependant::Snapshot(*id));
    if let Some(filling) = record.filling.as_mut() {
        filling.twin = Some(*id);
    }
    let key = keys::snapshot_name(name);
    change.guard_absent(key.clone());
    change.put(key, id);
    let snapshot = snapshot::record(*id, &wish, draft.family(volume.id).volume.as_ref(), now);
    *draft.snapshot(*id) = snapshot;
}

pub(super) fn ring_twin(house: &Arc<House>, twin: Option<&Twin>) {
    if let Some((id, _)) = twin {
        house.ring(Subject::Snapshot(*id), false);
    }
}

/// Ends a seed, from which the volume is made then.
async fn complete(house: &House, volume: &Volume, filling: &Filling) -> Result<(), Error> {
    let Some(seed) = &filling.seed else { return Ok(()) };
    let backend = house.backend(&volume.backend).await?;
    let digest: Digest = hasher(seed)?.finalize().into();
    let which = named_seed(house, volume, seed);
    let answer =
        writing(&backend)?.complete(which, seed.blocks, digest, resume(volume.intent.as_ref())).await;
    match answer {
        Ok(Effect::Done(shot)) if shot.ready => {
            let now = house.now();
            edit_volume(house, volume, Durability::Durable, |record| {
                if let Some(filling) = record.filling.as_mut() {
                    filling.stage = Stage::Copied;
                    record.intent = Some(Intent::new(now));
                }
            })
            .await
        }
        Ok(Effect::Done(_)) => {
            let note = "its backend makes a snapshot of what was written".to_owned();
            let pending = Pending { retry_after: House::pause(3), note, ..Pending::default() };
            later(house, volume, &pending, Durability::Durable).await
        }
        Ok(Effect::Pending(pending)) => later(house, volume, &pending, Durability::Durable).await,
        Err(error) if error.kind == Kind::NotFound => again(house, volume).await,
        Err(error) => Err(error),
    }
}

/// Takes down what a copy leaves: what is connected on this node, the seed, and a source that was cut for it.
pub(super) async fn let_go(house: &Arc<House>, family: &Family, volume: &Volume) -> Result<(), Error> {
    let Some(filling) = &volume.filling else { return Ok(()) };
    if let Some(twin) = filling.twin
        && let Some(twin) = house.journal.snapshot(twin).await?.value
        && twin.state == SnapshotState::Creating
    {
        return Err(Error::busy(format!("its snapshot {} is being cut", twin.name)).pending());
    }
    let backend = house.backend(&volume.backend).await?;
    match &filling.seed {
        Some(seed) => {
            if let Some(snapshots) = backend.snapshots() {
                let which = named_seed(house, volume, seed);
                let answer = snapshots.delete_snapshot(which, resume(volume.intent.as_ref())).await?;
                if let Effect::Pending(pending) = answer {
                    return later(house, volume, &pending, Durability::Durable).await;
                }
            }
        }
        None => {
            if let Some(place) = target(house, family, volume) {
                house.ports.host.disconnect(place.id, &place.connection).await?;
            }
        }
    }
    if filling.stage != Stage::Making
        && let Some(source) = source(house, volume).await?
        && let backend = house.backend(&source.backend).await?
        && let Reach::Node(connection) = data(&backend, &source)?.reach(named(house, &source)).await?
    {
        house.ports.host.disconnect(VolumeId(source.id.0), &connection).await?;
    }
    let now = house.now();
    let keeps_source = filling.since.is_some() && backend.describe().abilities.clone_needs_source;
    let (families, mut snapshots) = with_source(volume);
    snapshots.extend(filling.since.into_iter().flat_map(|Since { base, twin }| [base, twin]));
    house
        .journal
        .edit(&families, &snapshots, Durability::Durable, |draft, change| {
            change.frees_space();
            release_source(draft, volume, now);
            for lent in filling.since.iter().flat_map(|since| {
                [Some(since.base), Some(since.twin).filter(|_| !keeps_source)].into_iter().flatten()
            }) {
                if let Some(lent) = draft.snapshot(lent) {
                    lent.dependants.remove(&volume.id);
                }
            }
            let family = draft.family(volume.id);
            if let Some(attachment) = family.attachments.get_mut(house.node())
                && family.mounts.is_empty()
                && attachment.state != AttachmentState::Detaching
            {
                attachment.state = AttachmentState::Detaching;
                attachment.intent = Some(Intent::new(now));
            }
            if let Some(record) = family.volume.as_mut() {
                record.filling = None;
                record.intent = (record.state == VolumeState::Deleting).then(|| Intent::new(now));
            }
            Ok(())
        })
        .await?;
    ring_source(house, volume);
    Ok(())
}

/// Wakes whoever deletes a source that was cut for this volume alone.
pub(super) fn ring_source(house: &Arc<House>, volume: &Volume) {
    if let Some(Source::Snapshot(source)) = volume.source
        && volume.filling.as_ref().is_some_and(|filling| filling.temporary)
    {
        house.ring(Subject::Snapshot(source), false);
    }
}

fn seed_token(house: &House, volume: &Volume, seed: &Seed) -> Token {
    Token::derive(house.cluster, "seed", &volume.id.to_string(), seed.generation)
}

pub(super) fn named_seed(house: &House, volume: &Volume, seed: &Seed) -> Which {
    Which { token: seed_token(house, volume, seed), handle: seed.handle.clone() }
}

pub(super) fn named(house: &House, snapshot: &Snapshot) -> Which {
    Which { token: snapshot.token(house.cluster), handle: snapshot.handle.clone() }
}

pub(super) async fn known(house: &House, id: SnapshotId) -> Result<Snapshot, Error> {
    let gone = || Error::not_found("a snapshot that it was to be made from is gone");
    house.journal.snapshot(id).await?.value.ok_or_else(gone)
}

pub(super) async fn source(house: &House, volume: &Volume) -> Result<Option<Snapshot>, Error> {
    match &volume.source {
        Some(Source::Snapshot(id)) => Ok(house.journal.snapshot(*id).await?.value),
        _ => Ok(None),
    }
}

pub(super) fn writing(backend: &Arc<dyn Backend>) -> Result<&dyn SnapshotWriting, Error> {
    backend.snapshot_writing().ok_or_else(|| Error::unsupported("its backend makes no snapshots of bytes"))
}

/// The volume as this node reaches it.
pub(super) fn target(house: &House, family: &Family, volume: &Volume) -> Option<Place> {
    let attachment = family.attachments.get(house.node())?;
    Some(Place { id: volume.id, connection: attachment.connection.clone()?, read_only: false })
}

async fn edit_seed(
    house: &House,
    volume: &Volume,
    mut edit: impl FnMut(&mut Filling, &mut Seed) + Send,
) -> Result<(), Error> {
    edit_volume(house, volume, Durability::Durable, |record| {
        let Some(filling) = record.filling.as_mut() else { return };
        let Some(mut seed) = filling.seed.take() else { return };
        edit(filling, &mut seed);
        filling.seed = Some(seed);
        if record.state == VolumeState::Creating {
            record.intent = None;
        }
    })
    .await
}

pub(super) fn hasher(seed: &Seed) -> Result<Sha256, Error> {
    let broken = || Error::internal("the record of how far a copy has come is damaged: delete the volume");
    match &seed.digest {
        None => Ok(Sha256::new()),
        Some(bytes) => {
            let state = SerializedState::<Sha256>::try_from(bytes.as_slice()).map_err(|_| broken())?;
            Sha256::deserialize(&state).map_err(|_| broken())
        }
    }
}
