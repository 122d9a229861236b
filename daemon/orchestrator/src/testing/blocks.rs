//! Moving bytes, in memory: a machine that reads and writes what it connects, and a backend whose snapshots are had,
//! and made, by calls in blocks of four bytes.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes as Buffer;
use sha2::{Digest as _, Sha256};

use super::{
    FakeHost,
    backend::{BackendWorld, FakeBackend, Verb, absent},
    host::handle,
};
use crate::{
    error::Error,
    model::{Bytes, Connection, FsType, Handle},
    ports::{
        backend::{Effect, Shot, Which},
        blocks::{
            Begun, Blocks, Digest, Export, ExportPage, Place, Reach, SnapshotReading, SnapshotWriting,
            Writing,
        },
        extents::Extent,
    },
};

/// The size of a block.
const BLOCK: u64 = 4;

/// A snapshot that is being written.
#[derive(Clone, Debug)]
pub(super) struct Unfinished {
    bytes: Vec<u8>,
    size: Bytes,
    mark: String,
    /// The digests of its blocks, by their places.
    written: std::collections::BTreeMap<u64, Digest>,
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A piece of something that reads as zeroes beyond its end.
fn piece(bytes: &[u8], extent: Extent) -> Buffer {
    let (from, length) = (usize_of(extent.offset.0), usize_of(extent.length.0));
    let mut piece: Vec<u8> = bytes.iter().skip(from).take(length).copied().collect();
    piece.resize(length, 0);
    piece.into()
}

fn put(bytes: &mut Vec<u8>, offset: Bytes, block: &[u8]) {
    let from = usize_of(offset.0);
    if bytes.len() < from + block.len() {
        bytes.resize(from + block.len(), 0);
    }
    for (to, byte) in bytes.iter_mut().skip(from).zip(block) {
        *to = *byte;
    }
    // What was never written is no part of it, as a real volume's tail is none of its file.
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
}

#[async_trait]
impl Blocks for FakeHost {
    async fn read_blocks(&self, from: &Place, extents: Vec<Extent>) -> Result<Vec<Buffer>, Error> {
        self.fuse.pass().await;
        self.require_connected(from)?;
        self.bytes(&handle(&from.connection)?, |bytes| {
            Ok(extents.iter().map(|extent| piece(bytes, *extent)).collect())
        })
    }

    async fn write_blocks(&self, to: &Place, blocks: Vec<(Bytes, Buffer)>) -> Result<(), Error> {
        self.fuse.pass().await;
        self.require_connected(to)?;
        self.bytes(&handle(&to.connection)?, |bytes| {
            blocks.iter().for_each(|(offset, block)| put(bytes, *offset, block));
            Ok(())
        })?;
        self.fuse.pass().await;
        Ok(())
    }

    async fn copy_blocks(
        &self,
        from: &Place,
        to: &Place,
        extents: Vec<Extent>,
        skip_zeroes: bool,
    ) -> Result<Bytes, Error> {
        let read = self.read_blocks(from, extents.clone()).await?;
        let blocks = extents.iter().map(|extent| extent.offset).zip(read);
        let blocks: Vec<_> =
            blocks.filter(|(_, block)| !skip_zeroes || block.iter().any(|byte| *byte != 0)).collect();
        let bytes = blocks.iter().map(|(_, block)| block.len() as u64).sum();
        self.write_blocks(to, blocks).await?;
        Ok(Bytes(bytes))
    }

    async fn look_at_export(&self, path: &str) -> Result<Export, Error> {
        let world = self.world();
        let file = world.files.get(path).ok_or_else(absent)?;
        let length = Bytes(file.len() as u64);
        Ok(Export { size: length, fs: FsType::Ext4, directory: None, begin: Bytes(0), length })
    }

    async fn read_export(&self, path: &str, from: Bytes) -> Result<ExportPage, Error> {
        self.fuse.pass().await;
        let world = self.world();
        let file = world.files.get(path).ok_or_else(absent)?;
        let block = piece(file, Extent { offset: from, length: Bytes(BLOCK) });
        let next = from.0 + BLOCK;
        let next = (next < file.len() as u64).then_some(Bytes(next));
        Ok(ExportPage { blocks: vec![(from, block)], next })
    }

    async fn flush_blocks(&self, to: &Place) -> Result<(), Error> {
        self.fuse.pass().await;
        self.require_connected(to)
    }
}

impl FakeBackend {
    /// The same, with snapshots whose bytes are had, and written, by calls alone.
    #[must_use]
    pub fn by_calls(mut self) -> Self {
        self.by_calls = true;
        self.description.abilities.snapshot_writing = true;
        self
    }
}

impl BackendWorld {
    /// Ends the time that a snapshot may take to be written.
    pub fn expire(&mut self) {
        self.unfinished.clear();
    }
}

#[async_trait]
impl SnapshotReading for FakeBackend {
    async fn reach(&self, snapshot: Which) -> Result<Reach, Error> {
        self.fuse.pass().await;
        let world = self.world();
        let (shot, _) = world.snapshots.get(&snapshot.token).ok_or_else(absent)?;
        Ok(match self.by_calls {
            true => Reach::Calls(Bytes(BLOCK)),
            false => {
                Reach::Node(Connection::File { root: "/fake".into(), path: shot.handle.as_str().to_owned() })
            }
        })
    }

    async fn read(&self, snapshot: Which, extents: Vec<Extent>) -> Result<Vec<(Bytes, Buffer)>, Error> {
        self.fuse.pass().await;
        let world = self.world();
        let (_, bytes) = world.snapshots.get(&snapshot.token).ok_or_else(absent)?;
        Ok(extents.iter().map(|extent| (extent.offset, piece(bytes, *extent))).collect())
    }
}

#[async_trait]
impl SnapshotWriting for FakeBackend {
    async fn begin(&self, wish: Writing) -> Result<Begun, Error> {
        let token = wish.token.clone();
        let begun = Begun { handle: Handle::parse(&format!("w-{token}"))?, block: Bytes(BLOCK) };
        let answer = begun.clone();
        let effect = self.effect(Verb::Begin, None, move |world| {
            if world.snapshots.contains_key(&token) || world.spent.contains(&token) {
                let mut error = Error::precondition("it was begun before and is not open any more");
                error.token_burnt = true;
                return Err(error);
            }
            let base = match &wish.base {
                Some(base) => world.snapshots.get(&base.token).ok_or_else(absent)?.1.clone(),
                None => Vec::new(),
            };
            let fresh = Unfinished {
                bytes: base,
                size: wish.size,
                mark: wish.mark.clone(),
                written: Default::default(),
            };
            world.unfinished.entry(token.clone()).or_insert(fresh);
            Ok(answer)
        });
        match effect.await? {
            Effect::Done(begun) => Ok(begun),
            Effect::Pending(_) => Err(Error::unavailable("ask again").pending()),
        }
    }

    async fn write(&self, snapshot: Which, blocks: Vec<(Bytes, Buffer)>) -> Result<Vec<Digest>, Error> {
        let digests: Vec<Digest> = blocks.iter().map(|(_, block)| Sha256::digest(block).into()).collect();
        let known = digests.clone();
        let effect = self.effect(Verb::Write, None, move |world| {
            let spent = !world.unfinished.contains_key(&snapshot.token);
            if spent {
                world.spent.insert(snapshot.token.clone());
            }
            let open = world.unfinished.get_mut(&snapshot.token).ok_or_else(absent)?;
            for ((offset, block), digest) in blocks.iter().zip(&known) {
                if offset.0 % BLOCK != 0 || block.len() as u64 != BLOCK {
                    return Err(Error::invalid("blocks are whole"));
                }
                put(&mut open.bytes, *offset, block);
                open.written.insert(offset.0, *digest);
            }
            Ok(())
        });
        match effect.await? {
            Effect::Done(()) => Ok(digests),
            Effect::Pending(_) => Err(Error::unavailable("ask again").pending()),
        }
    }

    async fn complete(
        &self,
        snapshot: Which,
        blocks: u64,
        digest: Digest,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<Shot>, Error> {
        self.effect(Verb::Complete, resume, move |world| {
            if let Some((shot, _)) = world.snapshots.get(&snapshot.token) {
                return Ok(shot.clone());
            }
            let open = world.unfinished.get(&snapshot.token).ok_or_else(absent)?;
            let mut all = Sha256::new();
            open.written.values().for_each(|digest| all.update(digest));
            if blocks != open.written.len() as u64 || digest != Digest::from(all.finalize()) {
                return Err(Error::invalid(format!(
                    "{blocks} blocks were counted, and {} written, or others than were told",
                    open.written.len()
                )));
            }
            let shot = Shot {
                handle: Handle::parse(&format!("w-{}", snapshot.token))?,
                volume: None,
                size: open.size,
                cut: None,
                ready: true,
                mark: open.mark.clone(),
                token: Some(snapshot.token.clone()),
            };
            let bytes = open.bytes.clone();
            world.unfinished.remove(&snapshot.token);
            world.snapshots.insert(snapshot.token.clone(), (shot.clone(), bytes));
            Ok(shot)
        })
        .await
    }
}

/// The tokens of snapshots that were begun and cannot be gone on with.
pub(super) type Spent = BTreeSet<crate::model::Token>;
