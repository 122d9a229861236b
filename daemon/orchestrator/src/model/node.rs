//! A node: a host of the cluster, what it is called in each backend, and which life it is in.

use std::collections::BTreeMap;

use super::{BackendName, NodeId, Timestamp};

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What the house calls it.
    pub id: NodeId,
    /// Which boot of it wrote this.
    pub boot_id: String,
    /// Rises each time its daemon starts.
    pub session: u64,
    /// Where it is, as key and value.
    pub topology: BTreeMap<String, String>,
    /// What each backend calls it.
    pub names: BTreeMap<BackendName, String>,
    /// What was last said of it.
    pub state: NodeState,
    /// Whether nothing new is to be mounted there.
    pub drained: bool,
    /// The newest schema of records that it can read.
    pub schema: u16,
    /// When its daemon last started.
    pub seen: Timestamp,
}

/// What was last said of a node. Whether its daemon is there its lease tells, and no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeState {
    /// It is at work, or was when it was last heard of.
    #[default]
    Live,
    /// Its daemon stopped on purpose and means to be back by then. What is mounted there stays mounted, and written.
    Away(Timestamp),
    /// A person made sure that it is down, or cut off. True of the session that stands beside it: the next start of its
    /// daemon is another life.
    Down,
}
