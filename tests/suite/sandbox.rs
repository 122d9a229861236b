//! Hostile, broken and lying plugins: each is refused with an error of its own, and none costs its
//! neighbours anything. The guests are in `tests/guests`; what they do is chosen by the key `behave` of their
//! configuration. `limits.rs` is about what a guest takes, `bombs.rs` about what it takes before it is called,
//! `raw.rs` about attacks below the language, `pace.rs` about how fast and how many at once, `lies.rs` about what
//! it answers, `attaching.rs` about the devices that it names, `polling.rs` about asking it about much at once, `grants.rs` about what it reaches for,
//! `requests.rs` and `rebinding.rs` about the network, `answers.rs` about what comes from there, `leaks.rs` about
//! credentials, `aws.rs` about signatures, `ways.rs` about what the operator gives to both.

mod answers;
mod attaching;
mod aws;
mod bombs;
mod grants;
mod leaks;
mod lies;
mod limits;
mod pace;
mod polling;
mod raw;
mod rebinding;
mod requests;
mod ways;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

use kato_orchestrator::{
    Error,
    model::{BackendName, Bytes, CapacityRange, Token},
    ports::{
        Backend,
        backend::{Create, Effect, Made, Which},
    },
};
use kato_plugin_host::{BackendSpec, Config, Grants, Limits, PluginHost};

/// The hostile component, built once by the first test that needs it.
#[expect(clippy::disallowed_methods, reason = "the guests are built by cargo")]
pub(crate) fn component() -> Arc<[u8]> {
    static BUILT: OnceLock<Arc<[u8]>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests");
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests");
        let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        cargo.current_dir(&folder);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_") && text != "CARGO_HOME"
                || text.starts_with("RUSTC")
                || text.contains("RUSTFLAGS")
            {
                cargo.env_remove(&name);
            }
        }
        let built = cargo
            .args(["build", "--release", "--locked", "--target", "wasm32-wasip2", "--target-dir"])
            .arg(&target)
            .status()
            .expect("cargo has to be there to build the hostile guest");
        assert!(built.success(), "the hostile guest does not build: see cargo's words above");
        std::fs::read(target.join("wasm32-wasip2/release/kato_guest_hostile.wasm")).unwrap().into()
    });
    Arc::clone(built)
}

/// A host with backends on it, and a directory that they are granted.
struct Sandbox {
    host: Arc<PluginHost>,
    temp: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Self {
        Self::with_environment(&[])
    }

    fn with_environment(variables: &'static [(&'static str, &'static str)]) -> Self {
        let find =
            |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        let host =
            PluginHost::new(Config { cache: Some(code_cache()), environment: Arc::new(find) }).unwrap();
        Self { host, temp: tempfile::tempdir().unwrap() }
    }

    /// The granted directory.
    fn data(&self) -> PathBuf {
        let data = self.temp.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        data
    }

    async fn load(
        &self,
        name: &str,
        behave: &[(&str, &str)],
        grants: &str,
        limits: Limits,
    ) -> Result<Arc<dyn Backend>, Error> {
        self.load_component(name, component(), behave, grants, limits).await
    }

    async fn load_component(
        &self,
        name: &str,
        component: Arc<[u8]>,
        behave: &[(&str, &str)],
        grants: &str,
        limits: Limits,
    ) -> Result<Arc<dyn Backend>, Error> {
        let configuration: BTreeMap<_, _> =
            behave.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut grants: Grants = toml::from_str(grants).unwrap();
        grants.directories.insert("data".into(), self.data());
        let name = BackendName::parse(name).unwrap();
        self.host.load(BackendSpec { name, component, configuration, grants, limits }).await
    }

    /// A hostile backend without further grants.
    async fn hostile(&self, behave: &str) -> Arc<dyn Backend> {
        self.load("hostile", &[("behave", behave)], "", quick()).await.unwrap()
    }

    /// What a hostile backend with these grants and this argument answers to a create.
    async fn attack(&self, behave: &str, argument: &str, grants: &str) -> Result<Made, Error> {
        let behave = [("behave", behave), ("argument", argument)];
        create(&*self.load("hostile", &behave, grants, quick()).await.unwrap()).await
    }

    /// A neighbour on the same host still answers, and correctly.
    async fn neighbour_is_well(&self) {
        let neighbour =
            self.load("neighbour", &[("behave", "honest"), ("present", "yes")], "", quick()).await.unwrap();
        let made = create(&*neighbour).await.unwrap();
        assert_eq!((made.handle.as_str(), made.size), ("vol-token-1", Bytes(1 << 20)));
        let found =
            neighbour.inspect(vec![Which { token: token(), handle: Some(made.handle) }]).await.unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].is_some());
    }
}

/// Compiled guests are shared by the processes that run the tests.
fn code_cache() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest-code");
    match rustix::fs::mkdir(&target, rustix::fs::Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => target,
        Err(error) => panic!("{}: {error}", target.display()),
    }
}

/// Limits that a test meets soon.
fn quick() -> Limits {
    Limits { cpu_ms: 300, wall_ms: 10_000, ..Limits::default() }
}

fn token() -> Token {
    Token::parse("token-1").unwrap()
}

fn wish(token: Token) -> Create {
    Create {
        token,
        mark: "mark".into(),
        name: "db".into(),
        size: CapacityRange { required: Bytes(1 << 20), limit: Some(Bytes(1 << 21)) },
        parameters: BTreeMap::new(),
        source: None,
        topology: Vec::new(),
        resume: None,
    }
}

async fn create(backend: &dyn Backend) -> Result<Made, Error> {
    match backend.create(wish(token())).await? {
        Effect::Done(made) => Ok(made),
        Effect::Pending(pending) => panic!("it is pending: {pending:?}"),
    }
}

/// Every fault of a plugin leaves the outcome open: the caller must not forget the volume.
fn assert_open(error: &Error, words: &[&str]) {
    assert!(!error.is_final(), "{error} is final");
    assert_told(error, words);
}

/// An error that a person can act on.
fn assert_told(error: &Error, words: &[&str]) {
    assert!(error.subject == "backend hostile", "{error}");
    for word in words {
        assert!(error.message.contains(word), "{error} does not say {word:?}");
    }
    assert!(!error.message.contains(['\u{1b}', '\n', '\r']), "{error:?} carries control characters");
}

#[tokio::test]
async fn an_honest_backend_is_told_apart_from_a_hostile_one() {
    let sandbox = Sandbox::new();
    sandbox.neighbour_is_well().await;
    let backend = sandbox.hostile("honest").await;
    let description = backend.describe();
    assert_eq!(description.plugin, "hostile");
    assert!(description.abilities.snapshots && description.abilities.grow.is_some());
    assert!(!description.abilities.clone, "it is described and not exported");
    assert!(description.abilities.attachments && !description.abilities.health);
    assert_eq!(backend.check().await.unwrap().fingerprint.0, "the hostile one");
    assert_eq!(backend.list(None).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_component_says_what_it_is_without_running() {
    let found = kato_plugin_host::inspect(&component()).unwrap();
    assert_eq!(found.manifest.as_ref().unwrap().name, "hostile");
    assert_eq!(found.offers, ["attachments", "extents", "grow", "modify", "polling", "snapshots"]);
    assert!(found.forgotten().is_empty() && found.unknown.is_empty());
    assert!(found.imports.iter().any(|import| import.starts_with("kato:storage/files@1.")));
    assert!(!found.imports.iter().any(|import| import.starts_with("wasi:sockets/")));
}

#[tokio::test]
async fn a_mistaken_configuration_is_refused_at_load() {
    let sandbox = Sandbox::new();
    let loaded = sandbox.load("hostile", &[("behave", "mistaken")], "", quick()).await;
    let error = loaded.map(|_| ()).unwrap_err();
    assert!(error.message.contains("`region` is missing"), "{error}");
}

#[tokio::test]
async fn a_plugin_is_replaced_while_its_calls_run() {
    let sandbox = Sandbox::new();
    let before = sandbox.hostile("honest").await;
    let (after, made) = tokio::join!(sandbox.hostile("small"), create(&*before));
    made.unwrap();
    assert!(create(&*after).await.is_err());
    create(&*before).await.unwrap();
}
