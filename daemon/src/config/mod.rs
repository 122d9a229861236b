//! What the operator decides, from one TOML file, the pieces beside it, the environment and the command line.
//!
//! [`load`] reads all of them (`sources.rs`), checks every key (`keys.rs` lists them, `check.rs` checks) and
//! understands what they mean together (`convert.rs`); all mistakes are told at once. Nothing here makes or
//! changes anything: a configuration can be checked on another machine than the one that it is for.

mod backends;
mod check;
mod convert;
mod csi;
pub(crate) mod environment;
mod etcd;
mod keys;
mod mistakes;
pub(crate) mod print;
mod scope;
mod sources;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use kato_orchestrator::model::{BackendName, Class, ClassName, ClusterId, NodeId};

pub(crate) use self::{
    keys::span,
    mistakes::Mistakes,
    sources::Sources,
    tree::{Node, Origin, Value},
};

/// What was decided.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) folders: Folders,
    pub(crate) store: Store,
    pub(crate) node: NodeConfig,
    /// What several daemons without common records share.
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) docker: Docker,
    pub(crate) csi: Csi,
    pub(crate) admin: Admin,
    pub(crate) log: Log,
    pub(crate) limits: Limits,
    pub(crate) classes: BTreeMap<ClassName, Class>,
    pub(crate) default_class: Option<ClassName>,
    pub(crate) anonymous_class: Option<ClassName>,
    pub(crate) backends: BTreeMap<BackendName, Backend>,
    /// Everything that was written, for telling what a reload changed and for `kato config show`.
    pub(crate) written: Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folders {
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) require_mount: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) kind: StoreKind,
    pub(crate) dumps: usize,
    /// Where records in etcd are, if that is written: also records on their way may need it.
    pub(crate) etcd: Option<Etcd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Sled,
    Memory,
    Etcd,
}

/// Records in etcd, and where to find what proves who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Etcd {
    pub(crate) endpoints: Vec<String>,
    pub(crate) prefix: String,
    pub(crate) ca: Option<PathBuf>,
    /// The certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) user: Option<(String, kato_plugin_host::SecretSource)>,
    pub(crate) keep_history: Duration,
    pub(crate) patience: Duration,
    /// How long a host is believed to live that is not heard.
    pub(crate) lease: Duration,
    /// How long a host that stops on purpose may take to come back.
    pub(crate) away: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeConfig {
    pub(crate) id: NodeId,
    pub(crate) topology: BTreeMap<String, String>,
    pub(crate) names: BTreeMap<BackendName, String>,
    pub(crate) volumes: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) reap_after: Duration,
    pub(crate) idle_grace: Duration,
    pub(crate) freeze_limit: Duration,
    pub(crate) rbd: Vec<kato_node::RbdDriver>,
    pub(crate) iscsi: Vec<kato_node::IscsiDriver>,
    /// Nothing for the name that the host has, or gets.
    pub(crate) initiator: Option<String>,
    pub(crate) servers_here: bool,
    pub(crate) dev: PathBuf,
    pub(crate) sys: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Ids,
    Names,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Docker {
    pub(crate) enabled: bool,
    pub(crate) socket: PathBuf,
    pub(crate) global: bool,
    pub(crate) implicit: bool,
    pub(crate) engine: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Csi {
    pub(crate) enabled: bool,
    pub(crate) socket: PathBuf,
    pub(crate) role: kato_csi::Role,
    pub(crate) name: String,
    pub(crate) stage: bool,
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) wait: Duration,
    pub(crate) calls: usize,
    /// Where the key for seals is; nothing for one that is made in the data folder.
    pub(crate) seal: Option<kato_plugin_host::SecretSource>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admin {
    pub(crate) socket: PathBuf,
    pub(crate) mode: u32,
    pub(crate) group: Option<String>,
    pub(crate) tcp: Option<Tcp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub(crate) address: SocketAddr,
    pub(crate) token_file: PathBuf,
    pub(crate) hosts: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Auto,
    Json,
    Text,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) threads: Option<usize>,
    pub(crate) requests: usize,
    pub(crate) wait: Duration,
    pub(crate) tidy_every: Duration,
    pub(crate) watch_every: Duration,
}

/// A plugin with its configuration and its grants.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) plugin: Plugin,
    pub(crate) configuration: BTreeMap<String, String>,
    pub(crate) grants: kato_plugin_host::Grants,
    pub(crate) limits: kato_plugin_host::Limits,
}

/// Where a plugin's component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plugin {
    /// One of ours, by its name.
    Embedded(String),
    /// A file, used as it is at the moment of loading, unless it has to have a digest.
    File(PathBuf, Option<String>),
    /// An installed one, by the SHA-256 of its bytes in lower-case hex.
    Digest(String),
}

/// Reads everything that was written and understands it, or tells every mistake.
pub(crate) fn load(sources: &Sources) -> Result<Config, Mistakes> {
    let (written, mut mistakes) = sources.read();
    check::check(&written, &mut mistakes);
    let config = convert::config(written, &mut mistakes);
    // A line may be wrong for two reasons, but no reason is told twice; all in the order of the lines.
    mistakes.sort_by_key(|mistake| mistake.origin.order());
    let mut told = Vec::new();
    for mistake in mistakes {
        if !told.contains(&mistake) {
            told.push(mistake);
        }
    }
    match config {
        Some(config) if told.is_empty() => Ok(config),
        _ => Err(Mistakes(told)),
    }
}

impl Config {
    /// Takes the sections that are in force without a restart from another tree.
    pub(crate) fn take_live(&mut self, tree: &Node) {
        self.written.replace(tree, &["class", "backend", "catalog"]);
        let anonymous = tree.at(["docker", "anonymous"]);
        self.written.put(&["docker", "anonymous"], anonymous.cloned());
    }
}
