//! Snapshots of several volumes at one moment. Once they are cut a group *is* its snapshots, each of which knows its
//! [`Place`]; a [`Group`] is only the wish to cut it, or to delete it, and goes when that is done.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::{
    BackendName, ClusterId, GroupId, GroupName, Handle, Intent, NodeId, SnapshotId, SnapshotName, Timestamp,
    Token, VolumeId,
};

/// A group of snapshots that is to be cut, or to be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Ours.
    pub id: GroupId,
    /// The caller's.
    pub name: GroupName,
    /// Where all of it lives.
    pub backend: BackendName,
    /// The node whose daemon cuts it, and holds its volumes still meanwhile.
    pub seat: Option<NodeId>,
    /// Which attempt at this name it is: part of the creation tokens.
    pub generation: u32,
    /// What it consists of, in the order of the volumes' ids; while it is being deleted, what is left of it.
    pub members: Vec<Member>,
    /// Which of both is wished.
    pub state: GroupState,
    /// What the backend is told of each member.
    pub parameters: BTreeMap<String, String>,
    /// What its owner writes on each member.
    pub labels: BTreeMap<String, String>,
    /// When it was wished for.
    pub created: Timestamp,
    /// How the wish goes.
    pub intent: Intent,
}

/// Which of both is wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// All of it is to be cut.
    Creating,
    /// All of it is to be gone.
    Deleting,
}

/// A snapshot of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Whose bytes.
    pub volume: VolumeId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// How the backend finds it without a handle.
    pub token: Token,
    /// How the backend calls it, once heard.
    pub handle: Option<Handle>,
}

/// A snapshot's place in its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The group.
    pub group: GroupId,
    /// What it is called, as far as a mark has room for it: see [`crate::SnapshotMark`].
    pub name: String,
    /// Which of the group it is, from zero on, in the order of the volumes' ids.
    pub index: u8,
    /// How many they are.
    pub of: u8,
}

impl Group {
    /// The most that one group may have: everything about it is recorded in one batch, and a store may take no more
    /// than 128 records at once.
    pub const MOST: usize = 24;

    /// The creation token of a volume's snapshot in a group of this name.
    #[must_use]
    pub fn token(cluster: ClusterId, name: &GroupName, volume: &Handle, generation: u32) -> Token {
        Token::derive(cluster, "group", &format!("{name}\0{volume}"), generation)
    }
}

impl Place {
    /// The snapshot's id, which needs no room in its mark.
    #[must_use]
    pub fn snapshot(&self) -> SnapshotId {
        let mut hash = Sha256::new();
        hash.update(b"kato-member-1\0");
        hash.update(self.group.0.to_be_bytes());
        hash.update([self.index]);
        SnapshotId(hash.finalize().iter().take(16).fold(0, |id, byte| (id << 8) | u128::from(*byte)))
    }

    /// What the snapshot is called.
    pub fn snapshot_name(&self) -> Result<SnapshotName, crate::Error> {
        SnapshotName::parse(&format!("group-{}-{}", self.group, self.index.saturating_add(1)))
    }
}
