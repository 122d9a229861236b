//! The one object behind every door.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use crate::{
    Catalog,
    error::{Error, Outcome},
    model::{BackendName, NodeId, Snapshot, SnapshotName, VolumeName},
    ops::{
        Context, CreateSnapshot, CreateVolume, DeleteSnapshot, DeleteVolume, GrowVolume, ListPage,
        MountVolume, MountedVolume, UnmountVolume, VolumeView, Why,
    },
    ports::{Clock, Host, Ids, Store},
};

/// The ports that the hall stands on.
#[derive(Clone)]
pub struct Ports {
    /// The journal.
    pub store: Arc<dyn Store>,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Fresh ids.
    pub ids: Arc<dyn Ids>,
}

/// What the operator decides for the hall.
#[derive(Clone, Debug)]
pub struct Config {
    /// What this host is called.
    pub node: NodeId,
    /// Where it is.
    pub topology: BTreeMap<String, String>,
    /// How long a mount that nobody holds is kept.
    pub idle_grace: Duration,
    /// How long a holder has to look dead before it is reaped.
    pub reap_after: Duration,
    /// How long a filesystem may be held frozen.
    pub freeze_limit: Duration,
}

/// The one object behind every door.
pub struct Orchestrator {
    ports: Ports,
    config: Config,
    catalog: RwLock<Arc<Catalog>>,
}

impl Orchestrator {
    /// Reads what is in the journal, takes up what was unfinished, and is ready.
    pub async fn open(ports: Ports, catalog: Catalog, config: Config) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self { ports, config, catalog: RwLock::new(Arc::new(catalog)) }))
    }

    /// Makes a volume, or finds the one that satisfies the wish.
    pub async fn create(&self, ctx: &Context, wish: CreateVolume) -> Result<Outcome<VolumeView>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Deletes a volume that nobody holds.
    pub async fn delete(&self, ctx: &Context, wish: DeleteVolume) -> Result<Outcome<()>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Gives a holder a path into a volume on this node.
    pub async fn mount(&self, ctx: &Context, wish: MountVolume) -> Result<Outcome<MountedVolume>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Takes a holder's path back.
    pub async fn unmount(&self, ctx: &Context, wish: UnmountVolume) -> Result<Outcome<()>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Makes a volume larger.
    pub async fn grow(&self, ctx: &Context, wish: GrowVolume) -> Result<Outcome<VolumeView>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Cuts a snapshot.
    pub async fn create_snapshot(
        &self,
        ctx: &Context,
        wish: CreateSnapshot,
    ) -> Result<Outcome<Snapshot>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Deletes a snapshot.
    pub async fn delete_snapshot(&self, ctx: &Context, wish: DeleteSnapshot) -> Result<Outcome<()>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// What the records say of a volume. Touches no backend.
    pub async fn inspect(&self, name: &VolumeName) -> Result<VolumeView, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// What the records say of all volumes, by pages in the order of names.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<ListPage<VolumeView>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// The names of all volumes, by pages: cheaper than [`Orchestrator::list`].
    pub async fn names(&self, after: Option<&str>, limit: usize) -> Result<ListPage<VolumeName>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// What the records say of a snapshot.
    pub async fn inspect_snapshot(&self, name: &SnapshotName) -> Result<Snapshot, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// What the records say of all snapshots.
    pub async fn list_snapshots(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage<Snapshot>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// What a volume waits for, and who holds it.
    pub async fn why(&self, name: &VolumeName) -> Result<Why, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// The configured backends: what they are, what they can do, and whether they can be used.
    pub async fn backends(&self) -> Result<Vec<BackendView>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// A person confirms that the backend under this name is to be believed, although it is another than before.
    pub async fn rebind(&self, backend: &BackendName) -> Result<BackendView, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Compares records, backends and this node, and with `fix` mends what can be mended safely.
    pub async fn doctor(&self, fix: bool) -> Result<Vec<Finding>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Rebuilds the records of volumes that a backend has and no record knows, from their marks.
    pub async fn recover(&self) -> Result<Vec<Finding>, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Takes down what is over: idle mounts, dead holders, settled tombstones. The daemon calls it every few seconds.
    pub async fn tidy(&self) -> Result<(), Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Numbers for the metrics page and for `kato node inspect`.
    pub async fn gauges(&self) -> Result<Gauges, Error> {
        Err(Error::internal("unbuilt"))
    }
    /// Lets the steps in flight end and starts no more. Touches no mount.
    pub async fn stop(&self) {}

    /// What this host is called.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.config.node
    }
    /// The machine, for reads that no record answers (usage, health).
    #[must_use]
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.ports.host
    }
    /// The time that deadlines are counted in.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.ports.clock
    }
    /// What is configured now.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }
    /// Takes a new configuration; work in flight ends as it began.
    pub fn set_catalog(&self, catalog: Catalog) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }
}

/// A backend as configured, remembered and found.
#[derive(Clone, Debug)]
pub struct BackendView {
    /// What the operator calls it.
    pub name: BackendName,
    /// What it says of itself; nothing when it could not be loaded.
    pub description: Option<crate::ports::backend::Description>,
    /// What it was when it was first used.
    pub bound: Option<crate::model::BackendRecord>,
    /// What it is now; an error says why it cannot be used.
    pub found: Result<crate::ports::backend::Check, Error>,
}

/// Something that does not fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A stable word: `orphan`, `lost`, `stale-mount`, `stale-device`, `unreachable`, `stuck`, `recovered`.
    pub code: &'static str,
    /// What it is about.
    pub subject: String,
    /// What does not fit, and what to do.
    pub message: String,
    /// Whether `--fix` would mend it.
    pub fixable: bool,
    /// Whether it was mended just now.
    pub fixed: bool,
}

/// Numbers of the house.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    /// Volumes by state name.
    pub volumes: BTreeMap<&'static str, u64>,
    /// Records with unfinished wishes.
    pub intents: u64,
    /// How long the oldest unfinished wish has waited.
    pub oldest_intent: Duration,
    /// Mounts on this node.
    pub mounts: u64,
    /// Tombstones.
    pub tombstones: u64,
}

impl fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator").field("config", &self.config).finish_non_exhaustive()
    }
}
