//! A volume is a named promise of storage.
//!
//! ```text
//!            wish recorded             backend: made
//! (nothing) ──────────────► Creating ────────────────► Ready   (grow, modify: wanted ≠ actual, still Ready)
//!                              │ refused and absent:     │ delete: nothing depends on it
//!                              │ record and name go      ▼
//!                              └─ delete, or refused ► Deleting ──► (record removed)
//!                                 but it may exist
//! ```
//!
//! A Ready volume whose backend says that it is absent is *Lost*: reported, never made anew, removed only
//! by a person. "In use" is no state: it is derived from [`Volume::dependants`], and whoever comes to depend
//! on a volume rewrites its record, so that a delete that overlaps loses the race.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    BackendName, Bytes, CapacityRange, ClassName, ClusterId, Connection, DataRoot, Filling, FsType, GroupId,
    Handle, Intent, NodeId, SnapshotId, Timestamp, Token, VolumeId, VolumeName,
};

/// A named promise of storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Ours, for ever.
    pub id: VolumeId,
    /// The caller's.
    pub name: VolumeName,
    /// The recipe it was made by.
    pub class: ClassName,
    /// Where it lives.
    pub backend: BackendName,
    /// Which attempt at this name it is: part of the creation token.
    pub generation: u32,
    /// The token that it was made with, where its name does not tell: one that was found by its handle, and whose
    /// mark had no room for its name, is called by it.
    pub made_as: Option<Token>,
    /// What the caller wants it to be.
    pub wanted: Wanted,
    /// What the backend says it is; nothing while it is not made.
    pub actual: Option<Bytes>,
    /// The backend's parameters that are in force; differs from `wanted.parameters` during a modify.
    pub actual_parameters: BTreeMap<String, String>,
    /// What it was copied from.
    pub source: Option<Source>,
    /// What is left to do, or to take down, of copying another backend's snapshot into it.
    pub filling: Option<Filling>,
    /// Whether its records were made from what its backend has: then they do not tell what was wished, and a create
    /// asks the backend again whether it is that.
    pub found: bool,
    /// For how long that was held still while it was copied; nothing where it did not have to be.
    pub held_still: Option<Duration>,
    /// How the backend calls it, once heard.
    pub handle: Option<Handle>,
    /// How any node reaches it, where that needs no attaching.
    pub connection: Option<Connection>,
    /// Where it may be used, as key and value; empty means everywhere.
    pub topology: BTreeMap<String, String>,
    /// Where it is in its life.
    pub state: VolumeState,
    /// What is on it.
    pub filesystem: Filesystem,
    /// What depends on it.
    pub dependants: BTreeSet<Dependant>,
    /// Whose it is to end.
    pub keeping: Keeping,
    /// What its owner wrote on it.
    pub labels: BTreeMap<String, String>,
    /// When it was wished for.
    pub created: Timestamp,
    /// The backend's part of the unfinished wish, if there is one.
    pub intent: Option<Intent>,
}

/// Whose it is to end a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeping {
    /// Whoever deletes it.
    #[default]
    Owned,
    /// It ends with its last holder: it was made for one.
    Ephemeral,
    /// Another house with the same cluster id looks after it: this record is what this node needs to have it mounted,
    /// and goes with its last mount. The volume stays.
    Borrowed,
}

/// What the caller wants a volume to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// How large.
    pub size: CapacityRange,
    /// The class's parameters with the caller's on top.
    pub parameters: BTreeMap<String, String>,
    /// Where it has to be usable, the best place first; empty for where the daemon is.
    pub places: Vec<BTreeMap<String, String>>,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// Wished for; the backend may or may not have it.
    Creating,
    /// The backend has it.
    Ready,
    /// To be gone; the backend may or may not have it.
    Deleting,
    /// The backend says that it is gone, and nobody here asked for that.
    Lost,
}

impl VolumeState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Creating, Self::Ready, Self::Deleting, Self::Lost];

    /// As people and programs read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Deleting => "deleting",
            Self::Lost => "lost",
        }
    }
}

/// What a volume was copied from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A snapshot.
    Snapshot(SnapshotId),
    /// Another volume.
    Volume(VolumeId),
    /// A file that a snapshot was exported to, on the node that makes it.
    File(String),
}

/// What is on a volume and what a container gets of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Which filesystem is made when it is blank. What is found there decides otherwise.
    pub fs: FsType,
    /// Whether one was made.
    pub state: FsState,
    /// Options of every mount.
    pub mount_options: Vec<String>,
    /// What a container gets.
    pub root: DataRoot,
}

/// Whether a filesystem was made. Each step is flushed before the next, and none is ever taken back, but for a
/// make that was refused before its first write: blank is then what it has to be shown to be again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsState {
    /// We created the volume without a source and nobody has touched it.
    Blank,
    /// mkfs may be anywhere between its first and last write; nobody has mounted it yet.
    Formatting,
    /// There is something on it that is never to be formatted again. Copies and adopted volumes are born so.
    Formatted,
}

/// What keeps a volume from being deleted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependant {
    /// A node that reaches it.
    Attachment(NodeId),
    /// A snapshot that is being cut, or that cannot live without it.
    Snapshot(SnapshotId),
    /// A group of snapshots that is being cut.
    Group(GroupId),
    /// A volume that is being copied from it, or that cannot live without it.
    Clone(VolumeId),
}

/// What a tombstone looks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Buried {
    /// A volume.
    #[default]
    Volume,
    /// A snapshot.
    Snapshot,
}

/// What is left of a thing whose create was never heard: until its backend has settled, its token is looked
/// for and what it finds is deleted. It has no name, so the name is free at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The thing's id, for the record's key. A snapshot's number is no volume's.
    pub id: VolumeId,
    /// What kind of thing.
    pub what: Buried,
    /// Where it may exist.
    pub backend: BackendName,
    /// How it would be found.
    pub token: Token,
    /// How it is called, if that was ever heard.
    pub handle: Option<Handle>,
    /// Until then it is looked for.
    pub until: Timestamp,
    /// How the looking goes.
    pub intent: Intent,
}

impl Volume {
    /// The word of a place that names the node itself.
    pub const SEAT: &str = "node";

    /// The node that it lies on, where its backend is a part of one: what is asked of that backend is asked there.
    #[must_use]
    pub fn seat(&self) -> Option<NodeId> {
        NodeId::parse(self.topology.get(Self::SEAT)?).ok()
    }

    /// How the backend finds it without a handle.
    #[must_use]
    pub fn token(&self, cluster: ClusterId) -> Token {
        match &self.made_as {
            Some(token) => token.clone(),
            None => Token::derive(cluster, "volume", self.name.as_str(), self.generation),
        }
    }

    /// Whether the backend still has to be told what is wanted.
    #[must_use]
    pub fn wants_growth(&self) -> bool {
        self.actual.is_some_and(|actual| actual < self.wanted.size.required)
    }

    /// Whether parameters still have to be changed at the backend.
    #[must_use]
    pub fn wants_modify(&self) -> bool {
        self.actual.is_some() && self.actual_parameters != self.wanted.parameters
    }
}
