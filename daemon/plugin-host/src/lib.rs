//! The `Backend` port: storage backends as sandboxed WebAssembly components.
//!
//! [`PluginHost`] loads a component with the operator's configuration, grants and limits, and answers it as
//! an `Arc<dyn Backend>`; the rest of the house never learns what is behind it. Loading again replaces a
//! plugin under a running daemon: calls in flight end in the old one.
//!
//! A guest gets a fresh instance for every call and reaches the world only through the host functions in
//! `imports/`, each behind its grant. Read `grants.rs` for the threat, `v1/call.rs` for one call,
//! `v1/mod.rs` for what makes an answer final, `loader.rs` for what is refused at load. This room knows no
//! store, no node and no door.

pub mod embedded;

mod aws;
mod breaker;
mod bucket;
mod cache;
mod confine;
mod engine;
mod files;
mod grants;
mod guest;
mod imports;
mod limits;
mod loader;
mod manifest;
mod seats;
mod stray;
mod text;
mod v1;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use kato_orchestrator::{Error, model::BackendName, ports::Backend};

pub use self::{
    aws::AwsSigv4,
    grants::{
        Addresses, Authoriser, AwsEndpoints, AwsGrant, CephGrant, ChapGrant, CommandGrant, ConnectionGrants,
        Environment, Grants, HttpGrant, IscsiGrant, Power, ProxyGrant, Secret, SecretSource,
    },
    limits::Limits,
    manifest::{Asks, Inspection, Manifest, SECTION, inspect},
};

/// What the plugin host is given by the daemon.
#[derive(Clone)]
pub struct Config {
    /// Where compiled components are kept; nothing compiles them at every start.
    pub cache: Option<PathBuf>,
    /// How the daemon's environment is looked up, for credentials that come from there.
    pub environment: Environment,
}

impl Default for Config {
    fn default() -> Self {
        Self { cache: None, environment: Arc::new(|_| None) }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// A backend as it is configured.
#[derive(Clone)]
pub struct BackendSpec {
    /// What the operator calls it.
    pub name: BackendName,
    /// The component.
    pub component: Arc<[u8]>,
    /// What the plugin is told: name and value, without secrets.
    pub configuration: BTreeMap<String, String>,
    /// What it may do.
    pub grants: Grants,
    /// How much it may take.
    pub limits: Limits,
}

impl fmt::Debug for BackendSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendSpec")
            .field("name", &self.name)
            .field("bytes", &self.component.len())
            .finish_non_exhaustive()
    }
}

/// Loads plugins and runs them.
pub struct PluginHost {
    loader: loader::Loader,
}

impl fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginHost").finish_non_exhaustive()
    }
}

impl PluginHost {
    /// Starts the engine and the guests' threads.
    pub fn new(config: Config) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { loader: loader::Loader::new(config)? }))
    }

    /// Loads a component, tries it, asks it what it is, and answers it as a backend.
    pub async fn load(&self, spec: BackendSpec) -> Result<Arc<dyn Backend>, Error> {
        self.loader.load(spec).await
    }

    /// What all guests together have computed until now; waiting is not in it.
    #[must_use]
    pub fn computed(&self) -> Duration {
        self.loader.computed()
    }

    /// Waits until no guest is at work.
    pub async fn idle(&self) {
        self.loader.idle().await;
    }
}
