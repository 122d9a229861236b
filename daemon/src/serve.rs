//! The daemon, from top to bottom: configuration, log, data folder, sockets, records, plugins, node, hall,
//! doors. Sockets are bound early and answered late: whoever connects while we start is kept waiting, because
//! Docker takes an error for "no such volume" and forgets it.
//!
//! The end is a stop, not a tidying: doors close, whoever waits is told, steps in flight end or are left to the next
//! start, records are flushed. No mount is touched, so containers go on and the next process finds everything as it was.

use std::{ffi::OsString, io, sync::Arc, time::Duration};

use kato_node::LinuxHost;
use kato_orchestrator::{
    Error, Orchestrator, Ports, Sharing,
    model::ClusterId,
    ports::{Clock, Ids},
};
use kato_plugin_host::PluginHost;
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, Door, Doorway},
    catalog::{self, Loader},
    cli::{Exit, Failure},
    clock::{RandomIds, SystemClock},
    config::{Config, Csi, Layout, Sources, StoreKind, environment, environment::Service, load},
    csi,
    folder::Folder,
    journal::Journal,
    lease::LeaseFile,
    plugins::Plugins,
    reload::Reloader,
    systemd::Notifier,
    tasks::Chores,
    telemetry,
};

/// How long requests in flight have to end by themselves, before all that wait are told that the daemon stops.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// How long steps in flight have to end. A backend that hangs is not waited for: its call is dropped, as a crash would
/// drop it, and the next start repeats it.
const STEP_PATIENCE: Duration = Duration::from_secs(3);

/// How long the whole stop may take before the records are flushed and the process ends.
const STOP_PATIENCE: Duration = Duration::from_secs(6);

/// The most threads that are of use to a daemon that mostly waits.
const MOST_THREADS: usize = 8;

/// Runs the daemon until it is told to stop.
pub(crate) fn run(sources: &Sources) -> Result<(), Failure> {
    let config = load(sources).map_err(|mistakes| Failure::new(Exit::Config, mistakes.to_string()))?;
    telemetry::log(&config.log);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = Builder::new_multi_thread()
        .worker_threads(config.limits.threads.unwrap_or_else(|| cores.min(MOST_THREADS)))
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve(sources.clone(), config));
    // What still hangs in the kernel is none of our business any more.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended.map_err(|error| {
        tracing::error!(%error, "the daemon ended");
        Failure::silent(Exit::of(error.kind))
    })
}

async fn serve(sources: Sources, config: Config) -> Result<(), Error> {
    let service = Service::here();
    let notifier = Arc::new(Notifier::of(&service));
    let signals = Signals::listen()?;
    let metrics = telemetry::Metrics::start()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ids: Arc<dyn Ids> = Arc::new(RandomIds::new()?);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), node.id = %config.node.id, "the daemon starts");

    notifier.say("STATUS=Looking at the data folder");
    let folder = Folder::take(&config.folders, &*ids)?;
    let docker = match config.docker.enabled {
        true => Some(kato_docker_plugin::listen(&config.docker.socket, &service.passed, "docker")?),
        false => None,
    };
    let csi = match config.csi.enabled {
        true => Some((
            kato_docker_plugin::listen_anywhere(&config.csi.socket, &service.passed, "csi")?,
            csi::door(&config, &folder.path, &*ids)?,
        )),
        false => None,
    };
    let doorway = Doorway::bind(&config.admin, &service.passed).await?;

    notifier.say("STATUS=Opening the records");
    let journal = Arc::new(Journal::open(&config).await?);

    notifier.say("STATUS=Loading the plugins");
    let plugins = Arc::new(Plugins::in_folder(&folder.path));
    let sandbox = PluginHost::new(kato_plugin_host::Config {
        cache: Some(folder.path.join("cache")),
        environment: Arc::new(environment::secret),
    })?;
    let loader = Loader::new(Arc::clone(&sandbox), Arc::clone(&plugins));
    let catalog = loader.catalog(&config, None).await;

    notifier.say("STATUS=Looking at the node");
    let host = Arc::new(LinuxHost::open(node(&config)?).await?);
    let knows = Arc::clone(&host);

    notifier.say("STATUS=Taking up what was unfinished");
    let sharing = sharing(&config, &journal, &folder);
    let ports = Ports { store: Arc::clone(&journal.store), host, clock: Arc::clone(&clock), ids, sharing };
    let hall = Orchestrator::open(ports, catalog, hall(&config, &folder)).await?;

    hall.refill().await?;

    let shutdown = CancellationToken::new();
    let doors = TaskTracker::new();
    let reloader = Arc::new(Reloader::new(
        sources,
        loader,
        Arc::clone(&hall),
        config.clone(),
        knows,
        csi.as_ref().map(|(_, door)| door.clone()),
    ));
    if let Some(listener) = docker {
        let served = kato_docker_plugin::serve(listener, Arc::clone(&hall), door(&config), shutdown.clone());
        doors.spawn(served);
    }
    if let Some((listener, door)) = csi {
        doors.spawn(kato_csi::serve(listener, Arc::clone(&hall), door, shutdown.clone()));
    }
    let entry = Door {
        hall: Arc::clone(&hall),
        clock: Arc::clone(&clock),
        topology: config.node.topology.clone(),
        journal: Arc::clone(&journal),
        plugins,
        reloader: Arc::clone(&reloader),
        metrics: metrics.clone(),
        engine: config.docker.engine.clone(),
        driver: door(&config).driver(),
        wait: config.limits.wait,
        requests: config.limits.requests,
        shutdown: shutdown.clone(),
    };
    doors.spawn(admin::serve(doorway, Arc::new(entry)));
    let chores = TaskTracker::new();
    let work = Chores { tasks: &chores, shutdown: &shutdown };
    work.tidy(&hall, &config.limits);
    work.watch(&hall, &config.limits);
    work.consult(&hall, &config.limits);
    work.dump(&journal, &clock);
    work.fold(&metrics);
    work.beat(&notifier);

    notifier.say("READY=1\nSTATUS=Serving");
    tracing::info!(folder.id = %crate::clock::hex(folder.id), "the daemon serves");
    signals.wait(&reloader, &notifier).await;

    notifier.say("STOPPING=1\nSTATUS=Letting work in flight end");
    tracing::info!("the daemon stops; mounts stay as they are");
    shutdown.cancel();
    doors.close();
    chores.close();
    let orderly = async {
        // A request may wait for a backend that is away, for as long as its caller does. It is told, not waited
        // for; what is about to end may end.
        let told = tokio::time::timeout(LAST_MOMENT, doors.wait()).await;
        hall.say_away().await;
        hall.stop(STEP_PATIENCE).await;
        if told.is_err() {
            doors.wait().await;
        }
        chores.wait().await;
        sandbox.idle().await;
    };
    if tokio::time::timeout(STOP_PATIENCE, orderly).await.is_err() {
        tracing::warn!("some work did not end in time; the next start takes it up");
    }
    journal.store.flush().await?;
    tracing::info!("the daemon ended");
    Ok(())
}

/// How the records are shared, where they are.
fn sharing(config: &Config, journal: &Journal, folder: &Folder) -> Option<Sharing> {
    let ((members, replica), etcd) = (journal.shared.clone()?, config.store.etcd.as_ref()?);
    Some(Sharing {
        members,
        replica,
        keepsake: Arc::new(LeaseFile::beneath(&folder.path)),
        ttl: etcd.lease,
        away: etcd.away,
    })
}

/// What the hall is told.
fn hall(config: &Config, folder: &Folder) -> kato_orchestrator::Config {
    kato_orchestrator::Config {
        node: config.node.id.clone(),
        role: role(&config.csi),
        // What is written wins: a controller and its nodes are one cluster, and each has a folder of its own. Hosts that
        // share their records find there which one they are.
        cluster: match config.store.kind {
            StoreKind::Etcd => config.cluster,
            StoreKind::Sled | StoreKind::Memory => Some(config.cluster.unwrap_or(ClusterId(folder.id))),
        },
        topology: config.node.topology.clone(),
        names: config.node.names.clone(),
        idle_grace: config.node.idle_grace,
        reap_after: config.node.reap_after,
        freeze_limit: config.node.freeze_limit,
    }
}

/// What the hall's records are of. Only a daemon that CSI alone speaks to, in a part of it, is less than everything.
fn role(csi: &Csi) -> kato_orchestrator::Role {
    match csi.role {
        kato_csi::Role::Controller if csi.enabled => kato_orchestrator::Role::Controller,
        kato_csi::Role::Node if csi.enabled => kato_orchestrator::Role::Node,
        kato_csi::Role::All | kato_csi::Role::Controller | kato_csi::Role::Node => {
            kato_orchestrator::Role::All
        }
    }
}

/// What the node is told. Its workers are this very program, even after the file was replaced by a newer one.
fn node(config: &Config) -> Result<kato_node::Config, Error> {
    let this = std::env::current_exe()
        .map_err(|error| Error::internal("this program does not know where it is").caused_by(error))?;
    let this = if this.exists() { this.into_os_string() } else { OsString::from("/proc/self/exe") };
    let worker = vec![this, OsString::from("node-worker")];
    let mut node = match config.node.layout {
        Layout::Ids => kato_node::Config::new(&config.node.volumes, worker),
        Layout::Names => {
            let mut node = kato_node::Config::new(config.folders.data.join("node"), worker);
            node.layout = kato_node::Layout::Names(config.node.volumes.clone());
            node
        }
    };
    node.granted = catalog::granted(config).into_iter().collect();
    node.roots.clone_from(&config.csi.roots);
    node.accounts = catalog::accounts(config);
    node.rbd.clone_from(&config.node.rbd);
    node.iscsi.clone_from(&config.node.iscsi);
    node.initiator = match &config.node.initiator {
        Some(name) => name.clone(),
        None => kato_node::initiator_of(config.node.id.as_str())?,
    };
    node.dev.clone_from(&config.node.dev);
    node.sys.clone_from(&config.node.sys);
    node.servers_anywhere = config.node.servers_here;
    Ok(node)
}

/// What the Docker door is told.
fn door(config: &Config) -> kato_docker_plugin::Config {
    kato_docker_plugin::Config {
        socket: config.docker.socket.clone(),
        scope: match config.docker.global {
            true => kato_docker_plugin::Scope::Global,
            false => kato_docker_plugin::Scope::Local,
        },
        implicit: config.docker.implicit,
        ..kato_docker_plugin::Config::default()
    }
}

/// What the daemon is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let heard = |kind| {
            signal(kind)
                .map_err(|error: io::Error| Error::internal("signals cannot be heard").caused_by(error))
        };
        Ok(Self {
            terminate: heard(SignalKind::terminate())?,
            interrupt: heard(SignalKind::interrupt())?,
            reload: heard(SignalKind::hangup())?,
        })
    }

    /// Returns when the daemon is to stop, and reloads until then.
    async fn wait(mut self, reloader: &Reloader, notifier: &Notifier) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reload.recv() => {}
            }
            notifier.say("STATUS=Reading the configuration again");
            match reloader.reload().await {
                Ok(_) => notifier.say("STATUS=Serving"),
                Err(error) => {
                    tracing::error!(%error, "the configuration was not taken");
                    notifier.say("STATUS=Serving; the last change of the configuration has mistakes");
                }
            }
        }
    }
}
