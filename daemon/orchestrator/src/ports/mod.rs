//! The four ports through which the hall reaches the world. Each has real adapters outside and a fake in
//! `testing/`, and every adapter of a port passes the same behaviour suite.

pub mod backend;
pub mod blocks;
pub mod clock;
pub mod extents;
pub mod host;
pub mod store;

pub use self::{
    backend::Backend,
    blocks::{Blocks, SnapshotReading, SnapshotWriting},
    clock::{Clock, Ids},
    extents::Extents,
    host::Host,
    store::{Store, members::Members},
};
