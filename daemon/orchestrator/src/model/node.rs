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
    /// Which life it is in.
    pub state: NodeState,
    /// The newest schema of records that it can read.
    pub schema: u16,
    /// When its daemon last started.
    pub seen: Timestamp,
}

/// Which life a node is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// At work.
    Live,
    /// Being cut off from every backend.
    Fencing,
    /// Cut off.
    Fenced,
}
