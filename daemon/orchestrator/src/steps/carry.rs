//! A copy that is under way (`fill.rs`): where the bytes come from and go to, which of them, and how they are moved.

use std::sync::Arc;

use bytes::Bytes as Buffer;
use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, digest::common::hazmat::SerializableState as _};

use super::fill::{hasher, known, named, named_seed, source, target, writing};
use crate::{
    error::Error,
    family::Family,
    house::House,
    model::{Bytes, Filling, Snapshot, Source, Volume, VolumeId},
    ports::{
        Backend,
        backend::{Blankness, Which},
        blocks::{Digest, Place, Reach},
        extents::{Extent, ExtentPage},
        store::Durability,
    },
};

/// How much is moved by one call. A multiple of every block size.
const BATCH: u64 = 8 << 20;

/// How many calls move bytes at the same time.
const AT_ONCE: usize = 3;

/// Where bytes come from.
enum Reads {
    Node(Place),
    Calls(Which),
    File(String),
}

/// Where they go to.
enum Writes {
    Node(Place),
    Seed(Which, u64),
}

/// A copy that is under way.
pub(super) struct Copying<'a> {
    house: &'a Arc<House>,
    told: Option<Told>,
    from: Reads,
    to: Writes,
    writes: Arc<dyn Backend>,
    /// What reads as zeroes before it is written.
    blank: bool,
}

/// The snapshot that is copied, what only a difference is one from, and who tells of them.
struct Told {
    source: Snapshot,
    base: Option<Snapshot>,
    backend: Arc<dyn Backend>,
}

/// What one call moves, and how far everything is in place when it has.
struct Batch {
    extents: Vec<Extent>,
    end: Bytes,
}

/// How far a batch came by itself.
enum Carried {
    /// All the way.
    There(Moved),
    /// To this node: so many bytes in blocks that are to be written.
    Blocks(u64, Vec<(Bytes, Buffer)>),
    /// Nowhere: the node copies it.
    Nothing,
}

/// What it moved.
#[derive(Default)]
struct Moved {
    bytes: u64,
    digests: Vec<Digest>,
}

impl<'a> Copying<'a> {
    /// Makes last what this node has written.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        match &self.to {
            Writes::Node(place) => self.house.ports.host.flush_blocks(place).await,
            Writes::Seed(..) => Ok(()),
        }
    }

    pub(super) async fn open(
        house: &'a Arc<House>,
        family: &Family,
        volume: &Volume,
        filling: &Filling,
    ) -> Result<Self, Error> {
        let writes = house.backend(&volume.backend).await?;
        let host = &house.ports.host;
        let to = match &filling.seed {
            Some(seed) => Writes::Seed(named_seed(house, volume, seed), seed.block.0.max(1)),
            None => {
                let place = target(house, family, volume)
                    .ok_or_else(|| Error::busy("it is not attached to this node yet"))?;
                if place.connection.is_directory() {
                    return Err(Error::unsupported(
                        "what is to be made is a directory, and a copy needs blocks: name a class of images or disks",
                    ));
                }
                let device = host.connect(place.id, &place.connection, false).await?;
                introduce(house, volume, device.client).await?;
                Writes::Node(place)
            }
        };
        let (told, from) = match &volume.source {
            Some(Source::File(path)) => (None, Reads::File(path.clone())),
            _ => {
                let told = Told::open(house, volume, filling).await?;
                let which = named(house, &told.source);
                let from = match data(&told.backend, &told.source)?.reach(which.clone()).await? {
                    Reach::Calls(_) => Reads::Calls(which),
                    Reach::Node(connection) => {
                        let place = Place { id: VolumeId(told.source.id.0), connection, read_only: true };
                        host.connect(place.id, &place.connection, true).await?;
                        Reads::Node(place)
                    }
                };
                (Some(told), from)
            }
        };
        let blank = filling.since.is_none()
            && (filling.seed.is_some() || writes.describe().blank == Blankness::Zeroes);
        Ok(Self { house, told, from, to, writes, blank })
    }

    /// Copies what a page of extents tells of, or some of it when the time is over.
    pub(super) async fn page(&self, filling: &mut Filling, is_over: impl Fn() -> bool) -> Result<(), Error> {
        if let Reads::File(path) = &self.from {
            return self.read_on(path, filling).await;
        }
        let (extents, end) = self.look(filling).await?;
        let batches = self.batches(&extents, filling.at, end, filling.of);
        // Calls go on beside each other, and what a node writes one after the other.
        let mut moving = stream::iter(batches)
            .map(|batch| async move {
                let carried = self.carry(&batch).await;
                (batch, carried)
            })
            .buffered(AT_ONCE);
        while let Some((Batch { extents, end }, carried)) = moving.next().await {
            let moved = self.put_down(extents, carried?).await?;
            count(filling, end, &moved)?;
            if is_over() {
                return Ok(());
            }
        }
        filling.at = end;
        Ok(())
    }

    /// Goes on in a file. Places in it are what a copy counts by then.
    async fn read_on(&self, path: &str, filling: &mut Filling) -> Result<(), Error> {
        let page = self.house.ports.host.read_export(path, filling.at).await?;
        let carried = self.carry_blocks(page.blocks).await?;
        let moved = self.put_down(Vec::new(), carried).await?;
        count(filling, page.next.unwrap_or(filling.of), &moved)
    }

    /// What is to be copied from where the copy stands on, and up to where that is all.
    async fn look(&self, filling: &Filling) -> Result<(Vec<Extent>, Bytes), Error> {
        let block = self.block();
        let told = self.told.as_ref().ok_or_else(|| Error::internal("a file has no extents"))?;
        let ability = told.backend.extents().ok_or_else(|| {
            Error::unsupported(format!(
                "the backend {} does not tell which blocks its snapshots have",
                told.source.backend
            ))
        })?;
        let (source, of) = (named(self.house, &told.source), filling.of);
        let mut found = Vec::new();
        let mut from = filling.at;
        loop {
            let ExtentPage { extents, next } = match &told.base {
                None => ability.allocated(source.clone(), of, from).await?,
                Some(base) => ability.changed(named(self.house, base), source.clone(), of, from).await?,
            };
            found.extend(extents);
            // Blocks are written whole, so what lies in one that is not told of to its end waits for the next page.
            let end = match next {
                None => of,
                Some(next) => Bytes(next.0 / block * block),
            };
            match next {
                Some(next) if end <= filling.at => from = next,
                _ => return Ok((found, end)),
            }
        }
    }

    fn block(&self) -> u64 {
        match &self.to {
            Writes::Node(_) => 1,
            Writes::Seed(_, block) => *block,
        }
    }

    /// Puts extents together to calls: in whole blocks, none twice, and all of the place where nothing reads as zeroes by
    /// itself.
    fn batches(&self, extents: &[Extent], at: Bytes, end: Bytes, of: Bytes) -> Vec<Batch> {
        let block = self.block();
        let whole = [Extent { offset: at, length: Bytes(end.0.saturating_sub(at.0)) }];
        let whole_copy = self.told.as_ref().is_none_or(|told| told.base.is_none());
        let all = whole_copy && !self.blank && matches!(self.to, Writes::Node(_));
        let mut batches: Vec<Batch> = Vec::new();
        let (mut reached, mut room) = (at.0, 0_u64);
        for extent in if all { &whole[..] } else { extents } {
            let mut from = (extent.offset.0 / block * block).max(reached);
            let to = extent.offset.0.saturating_add(extent.length.0);
            let to = to.checked_next_multiple_of(block).unwrap_or(u64::MAX).min(end.0).min(of.0);
            while from < to {
                if room == 0 {
                    batches.push(Batch { extents: Vec::new(), end: Bytes(from) });
                    room = BATCH;
                }
                let length = room.min(to - from);
                if let Some(batch) = batches.last_mut() {
                    batch.extents.push(Extent { offset: Bytes(from), length: Bytes(length) });
                    batch.end = Bytes(from.saturating_add(length));
                }
                (from, room) = (from.saturating_add(length), room.saturating_sub(length));
                reached = from;
            }
        }
        batches
    }

    async fn carry(&self, batch: &Batch) -> Result<Carried, Error> {
        let host = &self.house.ports.host;
        let extents = batch.extents.clone();
        if let (Reads::Node(_), Writes::Node(_)) = (&self.from, &self.to) {
            return Ok(Carried::Nothing);
        }
        let read = match &self.from {
            Reads::Node(place) => {
                let buffers = host.read_blocks(place, extents).await?;
                batch.extents.iter().map(|extent| extent.offset).zip(buffers).collect()
            }
            Reads::Calls(which) => match &self.told {
                Some(told) => data(&told.backend, &told.source)?.read(which.clone(), extents).await?,
                None => Vec::new(),
            },
            Reads::File(_) => Vec::new(),
        };
        self.carry_blocks(read).await
    }

    async fn carry_blocks(&self, read: Vec<(Bytes, Buffer)>) -> Result<Carried, Error> {
        let read = read.into_iter();
        let blocks: Vec<(Bytes, Buffer)> = match &self.to {
            Writes::Node(_) => read.filter(|(_, bytes)| !self.blank || !is_zero(bytes)).collect(),
            Writes::Seed(_, block) => read
                .flat_map(|(offset, bytes)| cut(offset, &bytes, *block))
                .filter(|(_, bytes)| !self.blank || !is_zero(bytes))
                .collect(),
        };
        let bytes = blocks.iter().map(|(_, bytes)| u64::try_from(bytes.len()).unwrap_or(u64::MAX)).sum();
        match &self.to {
            Writes::Seed(which, _) if !blocks.is_empty() => {
                let digests = writing(&self.writes)?.write(which.clone(), blocks).await?;
                Ok(Carried::There(Moved { bytes, digests }))
            }
            Writes::Seed(..) => Ok(Carried::There(Moved::default())),
            Writes::Node(_) => Ok(Carried::Blocks(bytes, blocks)),
        }
    }

    async fn put_down(&self, extents: Vec<Extent>, carried: Carried) -> Result<Moved, Error> {
        let host = &self.house.ports.host;
        let bytes = match (carried, &self.from, &self.to) {
            (Carried::There(moved), ..) => return Ok(moved),
            (Carried::Nothing, Reads::Node(from), Writes::Node(to)) => {
                host.copy_blocks(from, to, extents, self.blank).await?.0
            }
            (Carried::Blocks(bytes, blocks), _, Writes::Node(to)) => {
                if !blocks.is_empty() {
                    host.write_blocks(to, blocks).await?;
                }
                bytes
            }
            (Carried::Nothing | Carried::Blocks(..), ..) => 0,
        };
        Ok(Moved { bytes, digests: Vec::new() })
    }
}

impl Told {
    async fn open(house: &House, volume: &Volume, filling: &Filling) -> Result<Self, Error> {
        let gone = || Error::not_found("the snapshot that it was to be made from is gone");
        let source = source(house, volume).await?.ok_or_else(gone)?;
        let base = match filling.since {
            Some(since) => Some(known(house, since.base).await?),
            None => None,
        };
        let backend = house.backend(&source.backend).await?;
        Ok(Self { source, base, backend })
    }
}

/// Counts what is in place.
fn count(filling: &mut Filling, at: Bytes, moved: &Moved) -> Result<(), Error> {
    filling.at = at;
    filling.moved = Bytes(filling.moved.0.saturating_add(moved.bytes));
    if let Some(seed) = filling.seed.as_mut().filter(|_| !moved.digests.is_empty()) {
        let mut hasher = hasher(seed)?;
        moved.digests.iter().for_each(|digest| hasher.update(digest));
        seed.digest = Some(hasher.serialize().to_vec());
        seed.blocks = seed.blocks.saturating_add(u64::try_from(moved.digests.len()).unwrap_or(u64::MAX));
    }
    Ok(())
}

pub(super) fn data<'a>(
    backend: &'a Arc<dyn Backend>,
    source: &Snapshot,
) -> Result<&'a dyn crate::ports::SnapshotReading, Error> {
    backend.snapshot_data().ok_or_else(|| {
        Error::unsupported(format!("the backend {} does not give out its snapshots' bytes", source.backend))
    })
}

/// Records who this node is to the backend before it writes, so that it can be cut off.
async fn introduce(house: &House, volume: &Volume, client: Option<String>) -> Result<(), Error> {
    let node = house.node();
    let known = house.journal.family(volume.id).await?.value;
    if known.attachments.get(node).is_none_or(|attachment| attachment.client == client) {
        return Ok(());
    }
    house
        .journal
        .edit_family(volume.id, Durability::Durable, |family, _| {
            if let Some(attachment) = family.attachments.get_mut(node) {
                attachment.client.clone_from(&client);
            }
            Ok(())
        })
        .await
        .map(drop)
}

/// Whole blocks of a piece, the last one filled up with zeroes.
fn cut(offset: Bytes, bytes: &Buffer, block: u64) -> Vec<(Bytes, Buffer)> {
    let size = usize::try_from(block).unwrap_or(usize::MAX);
    let mut blocks = Vec::new();
    let (mut at, mut rest) = (offset.0, bytes.clone());
    while !rest.is_empty() {
        let mut piece = rest.split_to(size.min(rest.len()));
        if piece.len() < size {
            let mut padded = piece.to_vec();
            padded.resize(size, 0);
            piece = Buffer::from(padded);
        }
        blocks.push((Bytes(at), piece));
        at = at.saturating_add(block);
    }
    blocks
}

/// Whether there is nothing but zeroes. Long runs are compared with themselves, which takes the processor's widest way.
fn is_zero(bytes: &[u8]) -> bool {
    match bytes.split_first_chunk::<16>() {
        Some((head, _)) => *head == [0; 16] && bytes.get(..bytes.len() - 16) == bytes.get(16..),
        None => bytes.iter().all(|byte| *byte == 0),
    }
}
