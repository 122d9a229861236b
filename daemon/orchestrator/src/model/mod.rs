//! What the house talks about: twelve types and the values they are made of. Nothing here does IO, knows a
//! wire format or promises a stored form (`records.rs` owns that). Read `volume.rs` first.

pub mod attachment;
pub mod backend;
pub mod class;
pub mod connection;
pub mod filling;
pub mod group;
pub mod ids;
pub mod intent;
pub mod mount;
pub mod node;
pub mod publication;
pub mod reference;
pub mod size;
pub mod snapshot;
pub mod time;
pub mod volume;

pub use self::{
    attachment::{Attachment, AttachmentState, Fence, Hold},
    backend::{BackendRecord, Fingerprint},
    class::{Class, DataRoot, FsType},
    connection::Connection,
    filling::{Filling, Seed, Since, Stage},
    group::{Group, GroupState, Member, Place},
    ids::{
        BackendName, ClassName, ClusterId, GroupId, GroupName, Handle, HolderId, NodeId, SnapshotId,
        SnapshotName, Token, VolumeId, VolumeName,
    },
    intent::{Failure, Intent},
    mount::{LostMount, Mount, MountState},
    node::{Node, NodeState},
    publication::{Caller, Publication, PublicationState, Purpose, Target},
    reference::{GroupRef, Reference, SnapshotRef, VolumeRef},
    size::{Bytes, CapacityRange},
    snapshot::{Snapshot, SnapshotState},
    time::Timestamp,
    volume::{
        Buried, Dependant, Filesystem, FsState, Keeping, Source, Tombstone, Volume, VolumeState, Wanted,
    },
};
