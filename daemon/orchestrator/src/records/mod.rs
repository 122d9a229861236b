//! The stored form of the records: to write a thing down is to promise that it can be read again, so the
//! model itself promises nothing and everything that is promised stands here.
//!
//! A value is an [`envelope`] (magic, schema, kind, checksum over the key and all the rest) around compact
//! JSON. Fields are only ever added: a reader ignores what it does not know and fills in what is missing, so
//! the schema number rises only when an older reader would misunderstand. What is empty is not written.
//!
//! Nothing here knows how or where values are kept. The keys are made in [`keys`], dump and load are in
//! [`json`](self::json), each noun has its form in a file of its own.

pub mod keys;

mod envelope;
mod json;

mod cluster;
mod form;
mod group;
mod mount;
mod snapshot;
mod values;
mod volume;

use self::form::Stored;
pub use self::json::{from_json, to_json};
use crate::{
    error::Error,
    model::{
        Attachment, BackendRecord, ClusterId, Group, GroupId, LostMount, Mount, Node, NodeId, Publication,
        Snapshot, SnapshotId, Tombstone, Volume, VolumeId,
    },
    ports::store::Entry,
};

/// The schema that this program writes, and the newest that it can read.
pub const SCHEMA: u16 = 1;

/// Something that is kept.
pub trait Record: Stored {
    /// What it is called in dumps and reports.
    const KIND: &'static str;
    /// What it is called in its envelope; given once and never reused.
    const TAG: u8;
}

/// An index entry that says little more than that it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marker {
    /// Whose driver looks after it, where it stands for work.
    pub by: Option<NodeId>,
}

macro_rules! kinds {
    ($($tag:literal $kind:literal $record:ident),* $(,)?) => {
        $(impl Record for $record {
            const KIND: &'static str = $kind;
            const TAG: u8 = $tag;
        })*

        /// The name of a kind's tag.
        fn kind_of(tag: u8) -> Option<&'static str> {
            match tag { $($tag => Some($kind),)* _ => None }
        }

        /// The tag of a kind, after checking that the payload is one.
        fn check(kind: &str, record: &serde_json::Value) -> Option<Result<u8, serde_json::Error>> {
            match kind { $($kind => Some($record::read(record).map(|_| $tag)),)* _ => None }
        }
    };
}

kinds! {
    1 "volume" Volume,
    2 "snapshot" Snapshot,
    3 "attachment" Attachment,
    4 "mount" Mount,
    5 "publication" Publication,
    6 "tombstone" Tombstone,
    7 "node" Node,
    8 "backend" BackendRecord,
    9 "cluster" ClusterId,
    10 "volume-id" VolumeId,
    11 "snapshot-id" SnapshotId,
    12 "marker" Marker,
    13 "group" Group,
    14 "group-id" GroupId,
    15 "lost-mount" LostMount,
}

/// The value of a record that is to stand under this key, and under no other.
#[must_use]
pub fn encode<T: Record>(key: &str, record: &T) -> Vec<u8> {
    envelope::seal(key, SCHEMA, T::TAG, &form::to_bytes(record))
}

/// The record of an entry. A damaged one, or one that was moved here from another key, is an error that
/// names the key and the remedy; one of a newer schema is a `Precondition`.
pub fn decode<T: Record>(entry: &Entry) -> Result<T, Error> {
    let opened = envelope::open(&entry.key, &entry.value)?;
    if opened.tag != T::TAG {
        let found = kind_of(opened.tag).unwrap_or("record of an unknown kind");
        return Err(envelope::damaged(&entry.key, &format!("it is a {found} and should be a {}", T::KIND)));
    }
    form::from_bytes(opened.payload).map_err(|error| envelope::damaged(&entry.key, &error.to_string()))
}

#[cfg(test)]
mod tests;
