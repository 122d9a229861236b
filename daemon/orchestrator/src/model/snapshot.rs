//! A snapshot is a volume's bytes at one moment. Creating → Cut → Ready → Deleting: from Cut on the moment
//! is fixed and the volume may be written again, from Ready on volumes can be made from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    BackendName, Bytes, ClassName, ClusterId, Filesystem, Handle, Intent, NodeId, Place, SnapshotId,
    SnapshotName, Timestamp, Token, VolumeId, VolumeName,
};

/// A volume's bytes at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Ours, for ever.
    pub id: SnapshotId,
    /// The caller's.
    pub name: SnapshotName,
    /// Whose bytes.
    pub volume: VolumeId,
    /// What that volume was called then; it may be gone.
    pub volume_name: VolumeName,
    /// What its backend called that volume.
    pub volume_handle: Option<Handle>,
    /// What that volume was made by, for volumes made from the snapshot.
    pub class: ClassName,
    /// Where it lives.
    pub backend: BackendName,
    /// The node that it lies on, where its backend is a part of one.
    pub seat: Option<NodeId>,
    /// Which attempt at this name it is: part of the creation token.
    pub generation: u32,
    /// The token that it was cut with, where its name does not tell.
    pub made_as: Option<Token>,
    /// Its place in the group that it was cut with.
    pub group: Option<Place>,
    /// What the backend is told.
    pub parameters: BTreeMap<String, String>,
    /// How large a volume made from it is at least.
    pub size: Bytes,
    /// How the backend calls it, once heard.
    pub handle: Option<Handle>,
    /// Where it is in its life.
    pub state: SnapshotState,
    /// What is on it, so that a volume made from it is never formatted.
    pub filesystem: Filesystem,
    /// Volumes that are being made from it, or cannot live without it.
    pub dependants: BTreeSet<VolumeId>,
    /// When the moment was.
    pub cut: Option<Timestamp>,
    /// For how long the volume was held still while it was copied; nothing where it did not have to be.
    pub held_still: Option<Duration>,
    /// When it was wished for.
    pub created: Timestamp,
    /// What its owner wrote on it.
    pub labels: BTreeMap<String, String>,
    /// The unfinished wish, if there is one.
    pub intent: Option<Intent>,
}

/// Where a snapshot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// Wished for.
    Creating,
    /// The moment is fixed; the backend is still at work.
    Cut,
    /// Volumes can be made from it.
    Ready,
    /// To be gone.
    Deleting,
}

impl SnapshotState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Creating, Self::Cut, Self::Ready, Self::Deleting];

    /// As people and programs read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Cut => "cut",
            Self::Ready => "ready",
            Self::Deleting => "deleting",
        }
    }
}

impl Snapshot {
    /// How the backend finds it without a handle.
    #[must_use]
    pub fn token(&self, cluster: ClusterId) -> Token {
        match &self.made_as {
            Some(token) => token.clone(),
            None => Token::derive(cluster, "snapshot", self.name.as_str(), self.generation),
        }
    }
}
