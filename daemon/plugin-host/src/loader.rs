//! From bytes to a backend. What can be known to be wrong is refused here and named, so that it does not
//! come up in the middle of somebody's wish: an import that this host does not have, an interface of another
//! shape, an ability that the manifest promises and the component lacks, a configuration that the plugin
//! rejects. Two backends with the same component share its code.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use kato_orchestrator::{Error, model::BackendName, ports::Backend};
use wasmtime::{
    Store,
    component::{Component, HasData, HasSelf, Linker, ResourceTable},
};
use wasmtime_wasi::{
    WasiView,
    cli::{WasiCli, WasiCliView},
    clocks::{WasiClocks, WasiClocksView},
    filesystem::{WasiFilesystem, WasiFilesystemView},
    p2::bindings as wasi,
    random::WasiRandom,
};

use crate::{
    BackendSpec, Config,
    engine::{Engine, Fault},
    files::turns::Turns,
    grants::{AwsGrant, CephGrant, Environment, Powers},
    guest::{Ground, Guest, Notes},
    imports::{files::Copies, http::Client},
    manifest::{self, Inspection},
    seats::Seats,
    stray::Strays,
    v1::{
        Plugin, abi,
        abilities::Abilities,
        call::{Caller, Loaded, slice},
    },
};

/// The version of the contract's package that this host has.
const CONTRACT: &str = "kato:storage@1.0.0";

/// Loads components.
pub(crate) struct Loader {
    engine: Arc<Engine>,
    linker: Linker<Guest>,
    environment: Environment,
    seats: Seats,
    copies: Arc<Copies>,
    turns: Arc<Turns>,
    /// By backend, because a backend that is loaded again meets what its earlier self left behind.
    strays: Mutex<BTreeMap<BackendName, Arc<Strays>>>,
    /// Code by digest, as long as a backend uses it.
    loaded: Mutex<BTreeMap<String, Weak<Loaded>>>,
}

impl Loader {
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        let engine = Arc::new(Engine::new(config.cache)?);
        let linker = link(&engine).map_err(|error| {
            Error::internal("the plugin host could not offer its functions").caused_by(Fault(error))
        })?;
        Ok(Self {
            engine,
            linker,
            environment: config.environment,
            seats: Seats::new(),
            copies: Arc::default(),
            turns: Arc::default(),
            strays: Mutex::default(),
            loaded: Mutex::default(),
        })
    }

    pub(crate) async fn load(&self, spec: BackendSpec) -> Result<Arc<dyn Backend>, Error> {
        let subject = format!("backend {}", spec.name);
        self.open(spec)
            .await
            .map_err(|error| if error.subject.is_empty() { error.about(subject) } else { error })
    }

    pub(crate) fn computed(&self) -> std::time::Duration {
        self.engine.computed()
    }

    pub(crate) async fn idle(&self) {
        self.engine.idle().await;
    }

    async fn open(&self, spec: BackendSpec) -> Result<Arc<dyn Backend>, Error> {
        let found = manifest::inspect(&spec.component)?;
        self.promises(&spec, &found)?;
        let powers = Powers::new(spec.name.as_str(), &found.asks(), &spec.grants, &self.environment)?;
        let strays = {
            let mut all = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(spec.name.clone()).or_default())
        };
        let ground = Arc::new(Ground {
            backend: spec.name.clone(),
            engine: Arc::clone(&self.engine),
            client: Client::new(&powers.http)?,
            copies: Arc::clone(&self.copies),
            turns: Arc::clone(&self.turns),
            strays,
            powers,
            limits: spec.limits.clone(),
        });
        let loaded = self.code(&spec, &found, &ground).await?;
        let configuration = configuration(&spec)?;
        let caller = Caller::new(ground, loaded, configuration, self.seats.for_backend());
        let plugin = Plugin::open(caller).await?;
        Ok(Arc::new(plugin))
    }

    /// Compares what the manifest promises with what the component has.
    fn promises(&self, spec: &BackendSpec, found: &Inspection) -> Result<(), Error> {
        let forgotten = found.forgotten();
        if !forgotten.is_empty() {
            return Err(Error::invalid(format!(
                "the plugin's manifest offers {} but the component does not export it: list it in the \
                 author's `export!`",
                forgotten.join(", ")
            )));
        }
        let unusable = found.unusable();
        if !unusable.is_empty() {
            return Err(Error::invalid(format!(
                "the plugin's manifest asks for {}, which the component has no way to use (it does not import \
                 that): grant nothing to it before its author says what that is for",
                unusable.join(" and ")
            )));
        }
        if found.manifest.is_none() {
            tracing::warn!(backend = %spec.name, "a plugin carries no manifest, so it asks for nothing and gets nothing");
        }
        for unknown in &found.unknown {
            tracing::warn!(backend = %spec.name, export = %unknown, "a plugin exports an interface that this host does not know");
        }
        Ok(())
    }

    /// The component's code, compiled and tried.
    async fn code(
        &self,
        spec: &BackendSpec,
        found: &Inspection,
        ground: &Arc<Ground>,
    ) -> Result<Arc<Loaded>, Error> {
        let known = self.known().get(&found.digest).and_then(Weak::upgrade);
        if let Some(known) = known {
            return Ok(known);
        }
        let (wasm, bytes) = (self.engine.wasm.clone(), Arc::clone(&spec.component));
        let compiled = self.engine.block(move || Component::new(&wasm, &bytes)).await;
        let component = compiled
            .map_err(|error| Error::internal("compiling the component failed").caused_by(error))?
            .map_err(|error| {
                Error::invalid(format!("the component cannot be compiled: {}", error.root_cause()))
                    .caused_by(Fault(error))
            })?;
        self.imports(&component, found)?;
        let pre = self.linker.instantiate_pre(&component).map_err(|error| {
            Error::invalid(format!(
                "the component needs something that this host ({CONTRACT}) does not have: {error:#}"
            ))
        })?;
        let loaded = Arc::new(Loaded { abilities: Abilities::of(&pre)?, pre });
        self.try_out(&loaded, ground).await?;
        let mut known = self.known();
        known.retain(|_, code| code.strong_count() > 0);
        known.insert(found.digest.clone(), Arc::downgrade(&loaded));
        Ok(loaded)
    }

    /// Names every import that this host does not have, and not only the first.
    fn imports(&self, component: &Component, found: &Inspection) -> Result<(), Error> {
        let mut missing = Vec::new();
        for (name, _item) in component.component_type().imports(&self.engine.wasm) {
            let interface = name.split_once('@').map_or(name, |(interface, _version)| interface);
            let contract = interface.strip_prefix("kato:storage/");
            let known = match contract {
                Some(ours) => ["types", "log", "files", "commands", "digests", "transfers"].contains(&ours),
                None => WASI.contains(&interface),
            };
            if !known {
                missing.push(name.to_owned());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let why = if missing.iter().any(|name| name.starts_with("wasi:sockets/")) {
            " (guests get no sockets: send requests by wasi:http)"
        } else {
            ""
        };
        let version = found.manifest.as_ref().map_or("", |manifest| manifest.version.as_str());
        Err(Error::invalid(format!(
            "the plugin {version} needs {}, which this host ({}, {CONTRACT}) does not have{why}: use a newer \
             host or an older plugin",
            missing.join(", "),
            env!("CARGO_PKG_VERSION"),
        )))
    }

    /// One trial instance, with every offered interface loaded, because only that checks their types.
    async fn try_out(&self, loaded: &Arc<Loaded>, ground: &Arc<Ground>) -> Result<(), Error> {
        let (loaded, ground, engine) = (Arc::clone(loaded), Arc::clone(ground), Arc::clone(&self.engine));
        let wall = ground.limits.wall();
        let trial = self.engine.run(async move {
            let _running = engine.running();
            let mut store = Store::new(&engine.wasm, Guest::new(&ground, &Arc::new(Notes::default())));
            store.limiter(|guest| &mut guest.ceiling);
            let shift = engine.shift();
            slice(&mut store, &shift);
            let failed = |error: wasmtime::Error| {
                Error::invalid(format!("the component cannot be started: {}", error.root_cause()))
                    .caused_by(Fault(error))
            };
            let instance = tokio::time::timeout(
                wall,
                engine.budget(ground.limits.cpu(), &shift, loaded.pre.instantiate_async(&mut store)),
            )
            .await
            .map_err(|_late| Error::invalid("the component cannot be started: it takes too long"))?
            .map_err(|_spent| Error::invalid("the component cannot be started: it computes for too long"))?
            .map_err(failed)?;
            loaded.abilities.try_all(&mut store, &instance)
        });
        trial.await.map_err(|error| Error::internal("trying the component failed").caused_by(error))?
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Weak<Loaded>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a guest gets of WASI: what a program of a usual language cannot start without. Its filesystem has no
/// directory, its environment no variable, and there are no sockets; requests go out by `wasi:http`, behind
/// the grants.
const WASI: [&str; 23] = [
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:clocks/wall-clock",
    "wasi:clocks/monotonic-clock",
    "wasi:random/random",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:filesystem/types",
    "wasi:filesystem/preopens",
    "wasi:http/types",
    "wasi:http/outgoing-handler",
    "wasi:clocks/types",
];

/// Says that the functions of `wasi:io` work on a guest's table of resources.
struct Table;

impl HasData for Table {
    type Data<'a> = &'a mut ResourceTable;
}

/// What the guest is told: the operator's words, and what it has to know of its grants. A word in both would be two
/// truths.
fn configuration(spec: &BackendSpec) -> Result<Vec<(String, String)>, Error> {
    let mut words = spec.configuration.clone();
    let ceph = spec.grants.ceph.iter().flat_map(CephGrant::told).map(|told| ("Ceph pool", told));
    let aws = spec.grants.aws.iter().flat_map(AwsGrant::told).map(|told| ("region of AWS", told));
    for (what, (word, value)) in ceph.chain(aws) {
        if words.insert(word.clone(), value).is_some() {
            return Err(Error::invalid(format!(
                "its configuration has `{word}`, which the grant of its {what} says: leave it out"
            )));
        }
    }
    Ok(words.into_iter().collect())
}

fn link(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(&engine.wasm);
    let l = &mut linker;
    wasi::io::error::add_to_linker::<Guest, Table>(l, |guest| guest.ctx().table)?;
    wasi::io::poll::add_to_linker::<Guest, Table>(l, |guest| guest.ctx().table)?;
    wasi::io::streams::add_to_linker::<Guest, Table>(l, |guest| guest.ctx().table)?;
    wasi::clocks::wall_clock::add_to_linker::<Guest, WasiClocks>(l, Guest::clocks)?;
    wasi::clocks::monotonic_clock::add_to_linker::<Guest, WasiClocks>(l, Guest::clocks)?;
    wasi::random::random::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.ctx().ctx.random())?;
    wasi::random::insecure::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.ctx().ctx.random())?;
    wasi::random::insecure_seed::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.ctx().ctx.random())?;
    wasi::cli::environment::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    wasi::cli::exit::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    wasi::cli::stdin::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    wasi::cli::stdout::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    wasi::cli::stderr::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    wasi::cli::terminal_input::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    wasi::cli::terminal_output::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    wasi::cli::terminal_stdin::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    wasi::cli::terminal_stdout::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    wasi::cli::terminal_stderr::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    wasi::filesystem::types::add_to_linker::<Guest, WasiFilesystem>(l, Guest::filesystem)?;
    wasi::filesystem::preopens::add_to_linker::<Guest, WasiFilesystem>(l, Guest::filesystem)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(l)?;
    abi::kato::storage::log::add_to_linker::<Guest, HasSelf<Guest>>(l, |guest| guest)?;
    abi::kato::storage::files::add_to_linker::<Guest, HasSelf<Guest>>(l, |guest| guest)?;
    abi::kato::storage::commands::add_to_linker::<Guest, HasSelf<Guest>>(l, |guest| guest)?;
    abi::kato::storage::transfers::add_to_linker::<Guest, HasSelf<Guest>>(l, |guest| guest)?;
    abi::kato::storage::digests::add_to_linker::<Guest, HasSelf<Guest>>(l, |guest| guest)?;
    Ok(linker)
}
