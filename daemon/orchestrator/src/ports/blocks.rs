//! The bytes of snapshots, on their way from one backend to another or into a file. There are two ways to them: a
//! node connects a snapshot, or a new volume, and reads or writes there ([`Blocks`]); or the backend's own API has
//! them ([`SnapshotReading`], [`SnapshotWriting`]). Which one it is the backend says ([`Reach`]).

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes as Buffer;

use super::{
    backend::{Effect, Shot, Which},
    extents::Extent,
};
use crate::{
    error::Error,
    model::{Bytes, Connection, FsType, Handle, Token, VolumeId},
};

/// How many bytes are moved by one call, at most.
pub const AT_ONCE: Bytes = Bytes(32 << 20);

/// The SHA-256 of a block.
pub type Digest = [u8; 32];

/// How the bytes of a snapshot are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A node connects this, read-only.
    Node(Connection),
    /// By [`SnapshotReading::read`], in blocks of this size.
    Calls(Bytes),
}

/// The bytes of a backend's snapshots.
#[async_trait]
pub trait SnapshotReading: Send + Sync {
    /// How a node, or `read`, comes to them.
    async fn reach(&self, snapshot: Which) -> Result<Reach, Error>;

    /// The bytes of these extents, ascending, in pieces that leave nothing out; at most [`AT_ONCE`].
    async fn read(&self, snapshot: Which, extents: Vec<Extent>) -> Result<Vec<(Bytes, Buffer)>, Error>;
}

/// A snapshot to be made of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writing {
    /// Finds it again, whatever happens.
    pub token: Token,
    /// What our records say of it.
    pub mark: String,
    /// What its owner calls it.
    pub name: String,
    /// How large it is.
    pub size: Bytes,
    /// An earlier one that it is equal to, but for what is written.
    pub base: Option<Which>,
    /// What the volume is wished with that is made of it.
    pub parameters: BTreeMap<String, String>,
}

/// One that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// How the backend calls it.
    pub handle: Handle,
    /// The size of its blocks, which are written whole.
    pub block: Bytes,
}

/// Making snapshots of bytes.
#[async_trait]
pub trait SnapshotWriting: Send + Sync {
    /// Begins one, or finds the one that was begun with this token and is still open. One that cannot be gone on with
    /// burns its token.
    async fn begin(&self, wish: Writing) -> Result<Begun, Error>;

    /// Writes blocks; at most [`AT_ONCE`]. What was written is told by its digest.
    async fn write(&self, snapshot: Which, blocks: Vec<(Bytes, Buffer)>) -> Result<Vec<Digest>, Error>;

    /// Ends the writing: so many blocks, whose digests in the order of their offsets have this digest.
    async fn complete(
        &self,
        snapshot: Which,
        blocks: u64,
        digest: Digest,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<Shot>, Error>;
}

/// Moving bytes on this node. What is connected for it stays connected until it is disconnected.
#[async_trait]
pub trait Blocks: Send + Sync {
    /// Reads extents of what this connection leads to, in their order.
    async fn read_blocks(&self, from: &Place, extents: Vec<Extent>) -> Result<Vec<Buffer>, Error>;

    /// Writes blocks. They last when they were flushed.
    async fn write_blocks(&self, to: &Place, blocks: Vec<(Bytes, Buffer)>) -> Result<(), Error>;

    /// Copies extents from one place to another, and tells how much was written: zeroes may be left out where the target
    /// is known to read so.
    async fn copy_blocks(
        &self,
        from: &Place,
        to: &Place,
        extents: Vec<Extent>,
        skip_zeroes: bool,
    ) -> Result<Bytes, Error>;

    /// Makes what was written last.
    async fn flush_blocks(&self, to: &Place) -> Result<(), Error>;

    /// What a file is of that a snapshot was exported to.
    async fn look_at_export(&self, path: &str) -> Result<Export, Error>;

    /// Some of what is in such a file, from a place in it on.
    async fn read_export(&self, path: &str, from: Bytes) -> Result<ExportPage, Error>;
}

/// What an exported snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// How large a volume made of it is at least.
    pub size: Bytes,
    /// What is on it.
    pub fs: FsType,
    /// Which directory of that a container gets; nothing for all of it.
    pub directory: Option<String>,
    /// Where its blocks begin in the file, and how long that is.
    pub begin: Bytes,
    /// How long the file is.
    pub length: Bytes,
}

/// Some of an exported snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportPage {
    /// Its blocks, ascending; what is in none is zeroes.
    pub blocks: Vec<(Bytes, Buffer)>,
    /// Where to go on in the file; nothing at the end.
    pub next: Option<Bytes>,
}

/// Something that a node can connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Under which number it is connected: a volume's, or a snapshot's.
    pub id: VolumeId,
    /// How it is reached.
    pub connection: Connection,
    /// Whether it is only read.
    pub read_only: bool,
}
