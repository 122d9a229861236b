//! The door before a hall whose world is slow or away: what a real daemon meets too seldom to wait for it.
//! The door, the hall and the socket are the real ones; backend, node and clock are in memory.

use std::{
    io::{BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kato_docker_plugin::{Config, Passed, listen, serve};
use kato_orchestrator::{
    Catalog, Error, Orchestrator, Ports,
    model::{BackendName, Bytes, Class, ClassName, DataRoot, FsType, NodeId},
    ports::{
        Backend, Store,
        store::{Batch, Changes, Claim, Durability, Entry, Revision},
    },
    testing::{BackendWorld, FakeBackend, FakeClock, FakeHost, FakeIds, Fault, Fuse, HostWorld, Verb},
};
use kato_store::MemoryStore;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::wire::{Message, Wire};

/// A store that can be switched off.
struct Switched {
    inner: MemoryStore,
    away: Arc<AtomicBool>,
}

impl Switched {
    fn here(&self) -> Result<(), Error> {
        if self.away.load(Ordering::SeqCst) { Err(Error::unavailable("the store is away")) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for Switched {
    async fn load(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.here()?;
        self.inner.load(key).await
    }
    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        self.here()?;
        self.inner.scan(prefix, after, limit).await
    }
    async fn commit(&self, batch: Batch, durability: Durability) -> Result<Revision, Error> {
        self.here()?;
        self.inner.commit(batch, durability).await
    }
    async fn claim(&self, key: &str) -> Result<Box<dyn Claim>, Error> {
        self.here()?;
        self.inner.claim(key).await
    }
    async fn watch_from(&self, prefix: &str, revision: Revision) -> Result<Changes, Error> {
        self.inner.watch_from(prefix, revision).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.here()?;
        self.inner.flush().await
    }
}

/// A door with everything behind it.
pub(super) struct House {
    _folder: Option<TempDir>,
    socket: PathBuf,
    pub(super) hall: Arc<Orchestrator>,
    pub(super) backend: Arc<Mutex<BackendWorld>>,
    store_away: Arc<AtomicBool>,
    shutdown: CancellationToken,
    served: JoinSet<()>,
}

impl House {
    async fn open(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut house = Self::at(&folder.path().join("kato.sock"), change).await;
        house._folder = Some(folder);
        house
    }

    /// With its socket at this path.
    pub(super) async fn at(socket: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let (backend, fuse) = (Arc::<Mutex<BackendWorld>>::default(), Arc::<Fuse>::default());
        let store_away = Arc::<AtomicBool>::default();
        let ports = Ports {
            store: Arc::new(Switched { inner: MemoryStore::new(), away: Arc::clone(&store_away) }),
            host: Arc::new(FakeHost::new(
                Arc::<Mutex<HostWorld>>::default(),
                Arc::clone(&backend),
                Arc::clone(&fuse),
            )),
            clock: Arc::new(FakeClock::default()),
            ids: Arc::new(FakeIds::default()),
            sharing: None,
        };
        let fake = FakeBackend::new(Arc::clone(&backend), fuse, true, Duration::from_secs(60));
        let hall = kato_orchestrator::Config {
            node: NodeId::parse("here").unwrap(),
            role: kato_orchestrator::Role::All,
            cluster: None,
            topology: Default::default(),
            idle_grace: Duration::from_secs(1),
            reap_after: Duration::from_secs(600),
            names: Default::default(),
            freeze_limit: Duration::from_secs(10),
        };
        let orchestrator = Orchestrator::open(ports, catalog(Arc::new(fake)), hall).await.unwrap();
        let socket = socket.to_owned();
        let mut config = Config { socket: socket.clone(), ..Config::default() };
        change(&mut config);
        let listener = listen(&config.socket, &Passed::default(), "docker").unwrap();
        let shutdown = CancellationToken::new();
        let mut served = JoinSet::new();
        served.spawn(serve(listener, Arc::clone(&orchestrator), config, shutdown.clone()));
        Self { _folder: None, socket, hall: orchestrator, backend, store_away, shutdown, served }
    }

    /// Asks as dockerd does; nothing when the connection was closed instead.
    async fn ask(&self, operation: &str, body: Value) -> Option<Message> {
        let (wire, operation) = (Wire(self.socket.clone()), operation.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            wire.ask(&format!("/VolumeDriver.{operation}"), &body.to_string()).unwrap_or(None)
        });
        asked.await.unwrap()
    }

    pub(super) async fn call(&self, operation: &str, body: Value) -> Value {
        self.ask(operation, body).await.unwrap().json()
    }

    pub(super) async fn close(self) {
        self.shutdown.cancel();
        self.served.join_all().await;
    }
}

fn catalog(backend: Arc<dyn Backend>) -> Catalog {
    let class = ClassName::parse("fake").unwrap();
    let name = BackendName::parse("fake").unwrap();
    Catalog {
        classes: [(
            class.clone(),
            Arc::new(Class {
                name: class.clone(),
                backend: name.clone(),
                parameters: Default::default(),
                fs: FsType::Ext4,
                mount_options: Vec::new(),
                default_size: Bytes::GIB,
                max_size: None,
                root: DataRoot::default(),
                anonymous: false,
                retain: false,
                inline: false,
            }),
        )]
        .into(),
        backends: [(name, backend)].into(),
        broken: Default::default(),
        default_class: Some(class),
        anonymous_class: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_takes_too_long_is_withdrawn_and_the_next_finds_it_done() {
    let house = House::open(|config| config.mount_seconds = 1).await;
    assert_eq!(house.call("Create", json!({"Name": "db"})).await["Err"], "");
    house.backend.lock().unwrap().fault(Verb::Attach, Fault::Pending(2));
    let late = house.call("Mount", json!({"Name": "db", "ID": "one"})).await;
    assert!(late["Err"].as_str().unwrap().contains("try again"), "{late}");
    assert!(late.get("Mountpoint").is_none(), "{late}");
    let volume = house.call("Get", json!({"Name": "db"})).await;
    assert_eq!(volume["Volume"]["Status"]["holders"], json!([]), "{volume}");
    // dockerd sends no Unmount for it; the next container joins what is still under way.
    let mut tries = 0;
    let path = loop {
        let answer = house.call("Mount", json!({"Name": "db", "ID": "two"})).await;
        if answer["Err"] == "" {
            break answer["Mountpoint"].clone();
        }
        tries += 1;
        assert!(tries < 60, "{answer}");
    };
    assert!(path.as_str().unwrap().starts_with('/'));
    assert_eq!(house.backend.lock().unwrap().attachments(), 1);
    let volume = house.call("Get", json!({"Name": "db"})).await;
    assert_eq!(volume["Volume"]["Status"]["holders"], json!([{"holder": "two", "node": "here", "count": 1}]));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_cannot_look_is_not_answered() {
    let house = House::open(|_| ()).await;
    assert_eq!(house.call("Create", json!({"Name": "db"})).await["Err"], "");
    house.store_away.store(true, Ordering::SeqCst);
    assert_eq!(house.ask("Get", json!({"Name": "db"})).await, None, "dockerd would forget the volume");
    assert_eq!(house.ask("Get", json!({"Name": "never"})).await, None);
    for (operation, request) in [
        ("List", json!({})),
        ("Path", json!({"Name": "db"})),
        ("Mount", json!({"Name": "db", "ID": "one"})),
        ("Unmount", json!({"Name": "db", "ID": "one"})),
        ("Remove", json!({"Name": "db"})),
        ("Create", json!({"Name": "other"})),
    ] {
        let answer = house.call(operation, request).await;
        assert!(answer["Err"].as_str().unwrap().contains("away"), "{operation}: {answer}");
    }
    assert_eq!(house.call("Capabilities", json!({})).await["Err"], "");
    house.store_away.store(false, Ordering::SeqCst);
    assert_eq!(house.call("Get", json!({"Name": "db"})).await["Volume"]["Name"], "db");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_answer_while_the_backend_is_down() {
    let house = House::open(|config| config.mount_seconds = 1).await;
    assert_eq!(house.call("Create", json!({"Name": "db"})).await["Err"], "");
    for _ in 0..100 {
        let down = Fault::Refuse(Error::unavailable("the cloud is away").pending());
        house.backend.lock().unwrap().fault(Verb::Attach, down);
    }
    let answer = house.call("Mount", json!({"Name": "db", "ID": "one"})).await;
    assert!(answer["Err"].as_str().unwrap().contains("the cloud is away"), "{answer}");
    let volume = house.call("Get", json!({"Name": "db"})).await;
    assert_eq!(volume["Volume"]["Status"]["holders"], json!([]));
    assert_eq!(volume["Volume"]["Status"]["error"], "the cloud is away", "{volume}");
    assert_eq!(house.call("List", json!({})).await["Volumes"], json!([{"Name": "db"}]));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_answered_before_the_door_closes() {
    let house = House::open(|_| ()).await;
    house.backend.lock().unwrap().fault(Verb::Create, Fault::Pending(1));
    let wire = Wire(house.socket.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let mut stream = wire.connect().unwrap();
        stream
            .write_all(super::wire::request("/VolumeDriver.Create", "{\"Name\":\"db\"}").as_bytes())
            .unwrap();
        super::wire::read(&mut BufReader::new(stream)).unwrap().unwrap().json()
    });
    while house.call("List", json!({})).await["Volumes"] == json!([]) {}
    house.close().await;
    assert_eq!(asked.await.unwrap(), json!({"Err": ""}));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dribbles_is_cut_off_and_keeps_nobody_waiting() {
    let house = House::open(|config| config.request_seconds = 1).await;
    let wire = Wire(house.socket.clone());
    let idle = wire.connect().unwrap();
    let slow: Vec<_> = (0..64)
        .map(|number| {
            let mut stream = wire.connect().unwrap();
            let begun = if number % 2 == 0 {
                "POST /VolumeDriver.Li"
            } else {
                "POST /VolumeDriver.Create HTTP/1.1\r\nHost: \r\nContent-Length: 100\r\n\r\n{\"Name\""
            };
            stream.write_all(begun.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(house.call("List", json!({})).await["Err"], "");
    let cut_off = tokio::task::spawn_blocking(move || {
        for mut stream in slow {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        }
        // Who has said nothing may go on saying nothing: dockerd does so for days.
        let mut stream = &idle;
        stream.write_all(super::wire::request("/VolumeDriver.List", "{}").as_bytes()).unwrap();
        super::wire::read(&mut BufReader::new(idle)).unwrap().unwrap().json()
    });
    assert_eq!(cut_off.await.unwrap(), json!({"Volumes": [], "Err": ""}));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_in_the_middle_of_a_mount_holds_nothing_when_it_is_made() {
    let house = House::open(|_| ()).await;
    assert_eq!(house.call("Create", json!({"Name": "db"})).await["Err"], "");
    house.backend.lock().unwrap().fault(Verb::Attach, Fault::Pending(1));
    let wire = Wire(house.socket.clone());
    let mut stream = wire.connect().unwrap();
    let request = super::wire::request("/VolumeDriver.Mount", "{\"Name\":\"db\",\"ID\":\"one\"}");
    stream.write_all(request.as_bytes()).unwrap();
    // One that only says that it will say no more is still there to listen.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let patient = tokio::task::spawn_blocking(move || {
        super::wire::read(&mut BufReader::new(stream)).unwrap().unwrap().json()
    });
    assert_eq!(patient.await.unwrap()["Err"], "");
    assert_eq!(house.call("Unmount", json!({"Name": "db", "ID": "one"})).await["Err"], "");

    house.backend.lock().unwrap().fault(Verb::Attach, Fault::Pending(2));
    let mut stream = Wire(house.socket.clone()).connect().unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let status = async || house.call("Get", json!({"Name": "db"})).await["Volume"]["Status"].clone();
    while status().await["holders"] == json!([]) {}
    drop(stream);
    while status().await["holders"] != json!([]) {}
    while status().await["attachments"][0]["state"] != "attached" {}
    assert_eq!(status().await["holders"], json!([]));
    house.close().await;
}
