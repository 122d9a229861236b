//! What the operator decides for this door. The daemon reads it from its own configuration, section `[csi]`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::seal::SealKey;

/// What the operator decides for the CSI door.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which services are served here.
    pub role: Role,
    /// What the driver is called: a domain name of at most 63 bytes, the prefix of topology keys.
    pub name: String,
    /// Which version we say we are.
    pub version: String,
    /// Where this host is, as key and value; the node itself is always a part of it.
    pub topology: BTreeMap<String, String>,
    /// Whether volumes are staged before they are published. Swarm's way is without.
    pub stage: bool,
    /// Folders under which staging and target paths have to lie; anywhere when there is none.
    pub roots: Vec<PathBuf>,
    /// How long a call waits for its wish before it answers that it is under way.
    pub wait: Duration,
    /// How many calls are worked on at once; the others wait.
    pub calls: usize,
    /// What contexts are sealed with.
    pub seal: SealKey,
}

/// Which services are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// All of them.
    #[default]
    All,
    /// What can be done from anywhere.
    Controller,
    /// What has to be done on the node.
    Node,
}

impl Config {
    /// The usual decisions.
    #[must_use]
    pub fn new(seal: SealKey) -> Self {
        Self {
            role: Role::All,
            name: "kato.storage".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            topology: BTreeMap::new(),
            stage: true,
            roots: Vec::new(),
            wait: Duration::from_secs(8),
            calls: 256,
            seal,
        }
    }
}

impl Role {
    /// Whether the controller's services are served.
    #[must_use]
    pub fn controls(self) -> bool {
        match self {
            Self::All | Self::Controller => true,
            Self::Node => false,
        }
    }

    /// Whether the node's service is served.
    #[must_use]
    pub fn mounts(self) -> bool {
        match self {
            Self::All | Self::Node => true,
            Self::Controller => false,
        }
    }
}
