//! Bytes of another backend's snapshot on their way into a new volume.
//!
//! ```text
//!            onto the volume                            by way of a snapshot (a *seed*)
//! Making     the volume is made, blank or as its twin   a seed is begun
//! Copying    a node has both and copies                 blocks are read and sent
//! Copied     -                                          the seed is whole: the volume is made of it
//! ```
//!
//! The record is there from the wish on and outlives the copying: as long as it is, something may still be connected on
//! the node that copied, a seed may exist, and nobody else gets the volume. Letting go of all that removes it.

use super::{Bytes, Handle, SnapshotId};

/// How far a copy has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filling {
    /// Where it is.
    pub stage: Stage,
    /// Everything before this place is as in the source.
    pub at: Bytes,
    /// How large the source is.
    pub of: Bytes,
    /// How many bytes were written.
    pub moved: Bytes,
    /// Where only a difference is copied, what it is one from.
    pub since: Option<Since>,
    /// The snapshot at the volume's own backend that is written first, where volumes are filled so.
    pub seed: Option<Seed>,
    /// Whether the source was cut for this alone, and is deleted with it.
    pub temporary: bool,
    /// Whether a snapshot of the copy is cut before anybody gets it, so that it is the source's twin.
    pub keep: bool,
    /// That snapshot, once it is wished for.
    pub twin: Option<SnapshotId>,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What is to be written is being made.
    Making,
    /// It is written.
    Copying,
    /// Everything is written.
    Copied,
}

/// What a difference is one from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since {
    /// An earlier snapshot of the source's volume.
    pub base: SnapshotId,
    /// A snapshot at the target's backend with the same bytes.
    pub twin: SnapshotId,
}

/// A snapshot that is made of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Which attempt at it is: part of its token.
    pub generation: u32,
    /// How the backend calls it, once heard.
    pub handle: Option<Handle>,
    /// The size of its blocks.
    pub block: Bytes,
    /// How many were written.
    pub blocks: u64,
    /// The digest over their digests so far, as it can be gone on with; nothing before the first.
    pub digest: Option<Vec<u8>>,
}

impl Filling {
    /// One that is wished for.
    #[must_use]
    pub fn wished(of: Bytes, since: Option<Since>, by_seed: bool, temporary: bool) -> Self {
        Self {
            stage: Stage::Making,
            at: Bytes(0),
            of,
            moved: Bytes(0),
            since,
            seed: by_seed.then(Seed::none),
            temporary,
            keep: false,
            twin: None,
        }
    }
}

impl Seed {
    /// One that was not begun.
    #[must_use]
    pub fn none() -> Self {
        Self { generation: 0, handle: None, block: Bytes(0), blocks: 0, digest: None }
    }
}
