//! The journal: the orchestrator's `Store` port over memory, over sled and over etcd.
//!
//! `committer.rs` is the one order in which memory and sled commit; `memory.rs` also models crashes for the suites;
//! `sled.rs` says what it takes to be durable, `tally.rs` how a gap is found, `look.rs` how a store is refused
//! without being touched. Read these, then `open.rs`. `etcd.rs` is the store of several hosts; `migrate.rs` moves
//! records between it and a host's own.
//!
//! Nothing here knows what a record means: values come sealed and leave sealed, and a dump shows what is in
//! them without looking.

use std::path::PathBuf;

use kato_orchestrator::model::Bytes;

mod dump;
mod etcd;
mod memory;
mod migrate;
mod sled;

mod attendance;
mod claims;
mod committer;
mod frame;
mod look;
mod open;
mod place;
mod reserve;
mod tally;
mod view;
mod watch;

pub use self::{
    dump::{dump, keep_dump, kept_dumps, load, newest_dump, read_dump},
    etcd::{EtcdConfig, EtcdStore, Hidden, Tls, User},
    memory::{LazyFate, MemoryStore},
    migrate::{into_etcd, into_sled},
    sled::SledStore,
};

/// Where a store is and what it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its folder; made if there is none.
    pub path: PathBuf,
    /// How much of the disk is kept back for the day it is full.
    pub reserve: Bytes,
    /// With less than this left the disk counts as full.
    pub low_water: Bytes,
    /// How much memory the engine may take for what it has read.
    pub cache: Bytes,
    /// How long a segment of the engine's log is, for ever: the tests' are short, so that they are reused soon.
    #[doc(hidden)]
    pub segment: usize,
}

impl Config {
    /// A store in this folder.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            reserve: Bytes(64 << 20),
            low_water: Bytes(8 << 20),
            cache: Bytes(4 << 20),
            segment: 4 << 20,
        }
    }
}
