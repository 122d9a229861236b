//! A town: a backend and a machine that outlive the process, a journal that outlives it as far as it was
//! durable, and the judge of what is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kato_orchestrator::{
    Catalog, Config, Error, Gauges, Orchestrator, Ports, Role,
    model::{
        BackendName, Bytes, Class, ClassName, ClusterId, DataRoot, FsType, HolderId, NodeId, Timestamp,
        Token, VolumeName,
    },
    ops::{Context, DeleteSnapshot, DeleteVolume, DetachVolume, Dump, UnmountVolume, VolumeView},
    ports::{
        Backend, Clock, Store,
        backend::Cutting,
        store::{Batch, Changes, Claim, Durability, Entry, Revision},
    },
    testing::{BackendWorld, FakeBackend, FakeClock, FakeHost, FakeIds, Fuse, HostWorld},
};
use kato_store::{LazyFate, MemoryStore};

use super::stories::{Story, groups};

const CLUSTER: ClusterId = ClusterId(0xc1);

/// What was answered with success, and must hold whatever happens then.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    pub(crate) volumes: BTreeSet<String>,
    pub(crate) deleted: BTreeSet<String>,
    pub(crate) snapshots: BTreeSet<String>,
    pub(crate) holders: BTreeSet<(String, String)>,
    pub(crate) released: BTreeSet<(String, String)>,
    /// What was written into a volume while it was mounted.
    pub(crate) written: BTreeMap<String, String>,
}

/// The hall as a story sees it.
pub(crate) struct Teller {
    pub(crate) hall: Arc<Orchestrator>,
    /// Another daemon over the same records, on a machine of its own.
    pub(crate) there: Option<Arc<Orchestrator>>,
    pub(crate) host: FakeHost,
    pub(crate) backend: Arc<Mutex<BackendWorld>>,
    /// The other backend.
    pub(crate) far: Arc<Mutex<BackendWorld>>,
    pub(crate) machine: Arc<Mutex<HostWorld>>,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) fuse: Arc<Fuse>,
    pub(crate) said: Arc<Mutex<Acknowledged>>,
}

impl Teller {
    pub(crate) fn context(&self) -> Context {
        Context::new("story", "test", self.clock.now().plus(Duration::from_secs(100)))
    }

    /// Notes what was answered: only what is said before the process stops counts.
    pub(crate) fn note(&self, what: impl FnOnce(&mut Acknowledged)) {
        if !self.fuse.is_blown() {
            what(&mut self.said.lock().unwrap());
        }
    }
}

pub(crate) struct Town {
    backend: Arc<Mutex<BackendWorld>>,
    /// Another backend, which the class `far` is of.
    far: Arc<Mutex<BackendWorld>>,
    host: Arc<Mutex<HostWorld>>,
    /// The machine of the other daemon.
    there: Arc<Mutex<HostWorld>>,
    store: MemoryStore,
    ids: Arc<FakeIds>,
    said: Arc<Mutex<Acknowledged>>,
    /// When the last process ended; nothing before the first.
    time: Mutex<Option<Timestamp>>,
    nature: Nature,
    rebooted: bool,
}

/// What kind of backend the town has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nature {
    /// Whether nodes have to be attached.
    pub(crate) attaches: bool,
    /// How it cuts snapshots and copies.
    pub(crate) cutting: Cutting,
    /// Whether it can be asked about much pending work at once.
    pub(crate) polls: bool,
    /// Whether its volumes lie on this host.
    pub(crate) bound: bool,
    /// Whether it can cut nodes off.
    pub(crate) fences: bool,
    /// Whether there is another daemon over the same records.
    pub(crate) neighbour: bool,
    /// Which backends have the bytes of their snapshots by calls alone: this one, and the other one.
    pub(crate) by_calls: (bool, bool),
}

impl Nature {
    pub(crate) const PLAIN: Self = Self {
        attaches: false,
        cutting: Cutting::Instant,
        polls: false,
        bound: false,
        fences: false,
        neighbour: false,
        by_calls: (false, false),
    };
}

impl Town {
    pub(crate) fn new(nature: Nature) -> Self {
        Self {
            backend: Arc::default(),
            far: Arc::default(),
            host: Arc::default(),
            there: Arc::default(),
            store: MemoryStore::new(),
            ids: Arc::default(),
            said: Arc::default(),
            time: Mutex::default(),
            nature,
            rebooted: false,
        }
    }

    /// Runs a story in a process of its own, to its end or until it is cut. Answers how many instants passed.
    pub(super) fn run(&self, story: &Story, cut: Option<u64>) -> u64 {
        let fuse = Arc::new(cut.map_or_else(Fuse::default, Fuse::after));
        self.process(Arc::clone(&fuse), |teller| async move { (story.tell)(teller).await });
        fuse.passed()
    }

    /// Starts a process that only recovers, and cuts it.
    pub(crate) fn recover_cut(&self, cut: u64) {
        self.process(Arc::new(Fuse::after(cut)), |_| async {
            tokio::time::sleep(Duration::from_secs(60)).await;
        });
    }

    /// What the next process finds. Containers write on while there is none.
    pub(crate) fn crash(&mut self, fate: LazyFate) {
        self.store = self.store.after_crash(fate);
        // What a backend was still to do it has done when the next process begins.
        self.backend.lock().unwrap().come_true(true);
        self.far.lock().unwrap().come_true(true);
        let mut host = self.host.lock().unwrap();
        host.thaw_all();
        for handle in host.mounted() {
            if let Some(bytes) = self.backend.lock().unwrap().bytes(&handle) {
                bytes.extend_from_slice(b"~");
            }
        }
    }

    /// Loses the whole journal.
    pub(crate) fn lose_records(&mut self) {
        self.store = MemoryStore::new();
    }

    pub(crate) fn reboot(&mut self) {
        self.host.lock().unwrap().reboot();
        self.backend.lock().unwrap().stop("here");
        self.far.lock().unwrap().stop("here");
        self.rebooted = true;
    }

    /// A life without an end from outside.
    pub(crate) fn live<F: Future<Output = ()>>(&self, life: impl FnOnce(Arc<Teller>) -> F) {
        self.process(Arc::default(), life);
    }

    /// A life that is cut, unless it ends before. Answers whether it was.
    pub(crate) fn cut_short<F: Future<Output = ()>>(
        &self,
        cut: u64,
        life: impl FnOnce(Arc<Teller>) -> F,
    ) -> bool {
        let fuse = Arc::new(Fuse::after(cut));
        self.process(Arc::clone(&fuse), life);
        fuse.is_blown()
    }

    /// All records of this moment, as a dump has them.
    pub(crate) fn dump(&self) -> Dump {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let records = runtime.block_on(self.store.scan("", None, usize::MAX)).unwrap();
        Dump { name: "of the test".into(), records }
    }

    /// What the backend has.
    pub(crate) fn backend(&self) -> &Mutex<BackendWorld> {
        &self.backend
    }

    /// The machine of the other daemon.
    pub(crate) fn machine_there(&self) -> &Mutex<HostWorld> {
        &self.there
    }

    /// The machine behind the fake.
    pub(crate) fn machine(&self) -> &Mutex<HostWorld> {
        &self.host
    }

    /// One life of the daemon: a runtime that is dropped with everything in it.
    fn process<F: Future<Output = ()>>(&self, fuse: Arc<Fuse>, life: impl FnOnce(Arc<Teller>) -> F) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let before = *self.time.lock().unwrap();
            let clock = Arc::new(before.map_or_else(FakeClock::default, FakeClock::at));
            let life = async {
                let teller = self.open(Arc::clone(&fuse), Arc::clone(&clock)).await.unwrap();
                life(Arc::new(teller)).await;
            };
            tokio::select! {
                () = fuse.blown() => {}
                () = life => {}
                () = tokio::time::sleep(Duration::from_secs(86_400)) => panic!("the story does not end"),
            }
            *self.time.lock().unwrap() = Some(clock.now().plus(Duration::from_secs(1)));
        });
    }

    async fn open(&self, fuse: Arc<Fuse>, clock: Arc<FakeClock>) -> Result<Teller, Error> {
        let host = FakeHost::new(Arc::clone(&self.host), Arc::clone(&self.backend), Arc::clone(&fuse));
        let hall = self.hall("here", host.clone(), &fuse, &clock).await?;
        let there = match self.nature.neighbour {
            true => Some(self.neighbour(&fuse, &clock).await?),
            false => None,
        };
        Ok(Teller {
            hall,
            there,
            host,
            backend: Arc::clone(&self.backend),
            far: Arc::clone(&self.far),
            machine: Arc::clone(&self.host),
            clock,
            fuse,
            said: Arc::clone(&self.said),
        })
    }

    /// The other daemon, in another life of it each time.
    pub(crate) async fn neighbour(
        &self,
        fuse: &Arc<Fuse>,
        clock: &Arc<FakeClock>,
    ) -> Result<Arc<Orchestrator>, Error> {
        let host = FakeHost::new(Arc::clone(&self.there), Arc::clone(&self.backend), Arc::clone(fuse));
        self.hall("there", host.called("there"), fuse, clock).await
    }

    async fn hall(
        &self,
        node: &str,
        host: FakeHost,
        fuse: &Arc<Fuse>,
        clock: &Arc<FakeClock>,
    ) -> Result<Arc<Orchestrator>, Error> {
        let settle = Duration::from_secs(30);
        let Nature { attaches, cutting, polls, bound, fences, by_calls, .. } = self.nature;
        let mut fake = FakeBackend::new(Arc::clone(&self.backend), Arc::clone(fuse), attaches, settle);
        let mut far = FakeBackend::new(Arc::clone(&self.far), Arc::clone(fuse), attaches, settle);
        if by_calls.0 {
            fake = fake.by_calls();
        }
        if by_calls.1 {
            far = far.by_calls();
        }
        if polls {
            fake = fake.polled();
        }
        if fences {
            fake = fake.fencing();
        }
        if bound {
            fake = fake.bound();
        }
        let ports = Ports {
            store: Arc::new(FusedStore { store: self.store.clone(), fuse: Arc::clone(fuse) }),
            host: Arc::new(host.beside(Arc::clone(&self.far))),
            clock: Arc::clone(clock) as Arc<dyn Clock>,
            ids: Arc::clone(&self.ids) as _,
            sharing: None,
        };
        let config = Config { node: NodeId::parse(node).unwrap(), ..config() };
        Orchestrator::open(ports, catalog(Arc::new(fake.cutting(cutting)), Arc::new(far)), config).await
    }

    /// Starts the daemon again, gives it an hour, and judges; then ends every life by hand and judges again.
    pub(crate) fn converges(&self, what: &str) {
        // A machine of which nothing is known, and that nobody cuts off, ends at some time.
        self.backend.lock().unwrap().stop("far");
        self.process(Arc::default(), |teller| async move {
            for _ in 0..180 {
                teller.hall.tidy().await.unwrap();
                teller.hall.watch().await.unwrap();
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
            self.judge(&teller, what).await;
            self.end_all(&teller, what).await;
        });
    }

    async fn judge(&self, teller: &Teller, what: &str) {
        let gauges = teller.hall.gauges().await.unwrap();
        assert_eq!(gauges.intents, 0, "{what}: work is left over");
        assert_eq!(gauges.tombstones, 0, "{what}: a tombstone is left over");
        let views = teller.hall.list(None, 1_000).await.unwrap().items;
        let snapshots = teller.hall.list_snapshots(None, 1_000).await.unwrap().items;

        let said = self.said.lock().unwrap();
        let names: BTreeSet<&str> = views.iter().map(|view| view.volume.name.as_str()).collect();
        for volume in said.volumes.difference(&said.deleted) {
            assert!(names.contains(volume.as_str()), "{what}: the acknowledged volume {volume} is lost");
        }
        for volume in &said.deleted {
            assert!(!names.contains(volume.as_str()), "{what}: the deleted volume {volume} is back");
        }
        for name in &said.snapshots {
            assert!(
                snapshots.iter().any(|one| one.name.as_str() == name),
                "{what}: the acknowledged snapshot {name} is lost"
            );
        }

        let mut known: Vec<Token> = views.iter().map(|view| view.volume.token(CLUSTER)).collect();
        known.extend(snapshots.iter().map(|snapshot| snapshot.token(CLUSTER)));
        known.sort();
        self.backend.lock().unwrap().come_true(true);
        self.far.lock().unwrap().come_true(true);
        let mut there = self.backend.lock().unwrap().tokens();
        there.extend(self.far.lock().unwrap().tokens());
        there.sort();
        assert_eq!(known, there, "{what}: records and backend differ");

        assert!(!self.backend.lock().unwrap().has_torn(), "{what}: a copy was made of a source that moved");
        groups::judge(&self.backend.lock().unwrap(), &snapshots, what);
        let trespasses = self.backend.lock().unwrap().trespasses().to_vec();
        assert!(trespasses.is_empty(), "{what}: two writers: {trespasses:?}");
        let near = |view: &&VolumeView| view.volume.backend.as_str() == "fake";
        for volume in views.iter().filter(near).map(|view| &view.volume) {
            let backend = self.backend.lock().unwrap();
            let there = volume.handle.as_ref().and_then(|handle| backend.parameters(handle.as_str()));
            if let Some(there) = there {
                assert_eq!(&volume.actual_parameters, there, "{what}: records and parameters differ");
            }
        }

        let host = self.host.lock().unwrap();
        let mounted: Vec<_> =
            views.iter().filter(|view| !view.mounts.is_empty()).map(|view| view.volume.id).collect();
        let sorted = |mut ids: Vec<kato_orchestrator::model::VolumeId>| {
            ids.sort();
            ids
        };
        let lost = views.iter().flat_map(|view| &view.lost).find(|lost| lost.mount.node.as_str() == "here");
        assert!(lost.is_none(), "{what}: a lost mount is left over: {lost:#?}");
        let raw = |view: &&VolumeView| view.mounts.iter().any(|mount| mount.raw);
        let raw: Vec<_> = views.iter().filter(raw).map(|view| view.volume.id).collect();
        let with_filesystem = mounted.iter().copied().filter(|id| !raw.contains(id)).collect();
        assert_eq!(sorted(with_filesystem), sorted(host.mounts()), "{what}: records and mounts differ");
        assert_eq!(sorted(mounted), sorted(host.connected()), "{what}: records and devices differ");
        assert!(!host.is_frozen(), "{what}: something is left frozen");
        let attached = views.iter().filter(|view| !view.attachments.is_empty()).count();
        if self.nature.attaches {
            assert_eq!(
                attached,
                self.backend.lock().unwrap().attachments() + self.far.lock().unwrap().attachments(),
                "{what}: records and attachments differ"
            );
        }
        let bound: BTreeSet<String> = views
            .iter()
            .flat_map(|view| &view.publications)
            .filter_map(|one| match &one.target {
                kato_orchestrator::model::Target::Path(path) => Some(path.clone()),
                kato_orchestrator::model::Target::Shared => None,
            })
            .collect();
        assert_eq!(bound.into_iter().collect::<Vec<_>>(), host.binds(), "{what}: records and binds differ");
        drop(host);

        for (volume, holder) in said.holders.difference(&said.released).filter(|_| !self.rebooted) {
            let view = views.iter().find(|view| view.volume.name.as_str() == volume).unwrap();
            assert!(
                view.publications.iter().any(|one| one.holder.as_str() == holder),
                "{what}: {holder} was told that it holds {volume}, and does not"
            );
        }
        for view in &views {
            let told = |holder: &str| {
                let key = (view.volume.name.as_str().to_owned(), holder.to_owned());
                said.holders.contains(&key) && !said.released.contains(&key)
            };
            // Beside a container that has the volume nobody can tell who else has not.
            let called = view.publications.iter().filter(|one| one.caller.is_some());
            let holders: Vec<_> = called.map(|one| one.holder.as_str()).collect();
            assert!(
                holders.is_empty() || holders.iter().any(|holder| told(holder)),
                "{what}: {holders:?} hold {} for ever, and none of them was told",
                view.volume.name
            );
        }
        for (volume, text) in &said.written {
            let Some(view) = views.iter().find(|view| view.volume.name.as_str() == volume) else { continue };
            let handle = view.volume.handle.clone().unwrap();
            let mut backend = match near(&view) {
                true => self.backend.lock().unwrap(),
                false => self.far.lock().unwrap(),
            };
            let bytes = String::from_utf8(backend.bytes(handle.as_str()).unwrap().clone()).unwrap();
            assert!(
                bytes.contains(text.as_str()),
                "{what}: {text:?} was written to {volume} and is gone: {bytes:?}"
            );
        }
    }

    /// Whatever is left can be taken down, and then there is nothing.
    async fn end_all(&self, teller: &Teller, what: &str) {
        self.host.lock().unwrap().end_containers();
        for _ in 0..3 {
            for view in teller.hall.list(None, 1_000).await.unwrap().items {
                for publication in &view.publications {
                    let wish = UnmountVolume {
                        volume: view.volume.name.clone().into(),
                        holder: publication.holder.clone(),
                        all: true,
                    };
                    teller
                        .hall
                        .unmount(&teller.context(), wish)
                        .await
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                }
            }
            for view in teller.hall.list(None, 1_000).await.unwrap().items {
                let wish = DetachVolume { volume: view.volume.name.into(), node: None };
                drop(teller.hall.detach(&teller.context(), wish).await);
            }
            groups::end_all(teller).await;
            for snapshot in teller.hall.list_snapshots(None, 1_000).await.unwrap().items {
                let wish = DeleteSnapshot { snapshot: snapshot.name.into() };
                drop(teller.hall.delete_snapshot(&teller.context(), wish).await);
            }
            for view in teller.hall.list(None, 1_000).await.unwrap().items {
                let wish = DeleteVolume { volume: view.volume.name.into(), forget: false };
                drop(teller.hall.delete(&teller.context(), wish).await);
            }
        }
        tokio::time::sleep(Duration::from_secs(300)).await;
        let left = teller.hall.list(None, 10).await.unwrap().items;
        assert!(left.is_empty(), "{what}: cannot be removed: {left:#?}");
        assert!(self.backend.lock().unwrap().tokens().is_empty(), "{what}: something is left in the backend");
        assert!(
            self.far.lock().unwrap().tokens().is_empty(),
            "{what}: something is left in the other backend"
        );
        assert!(self.host.lock().unwrap().connected().is_empty(), "{what}: something is left connected");
        let left = teller.hall.gauges().await.unwrap();
        assert_eq!(left.intents, 0, "{what}");
        for states in [left.volumes, left.snapshots, left.mounts] {
            assert_eq!(Gauges::sum(&states), 0, "{what}: {states:?}");
        }
    }
}

pub(crate) fn name(text: &str) -> VolumeName {
    VolumeName::parse(text).unwrap()
}

pub(crate) fn holder(text: &str) -> HolderId {
    HolderId::parse(text).unwrap()
}

pub(crate) fn catalog(backend: Arc<dyn Backend>, far: Arc<dyn Backend>) -> Catalog {
    let class = |name| ClassName::parse(name).unwrap();
    let backends = [("fake", backend), ("far", far)];
    let backends = backends.map(|(name, backend)| (BackendName::parse(name).unwrap(), backend));
    let classes = [("default", "fake"), ("far", "far")];
    let classes = classes.map(|(name, backend)| (class(name), Arc::new(recipe(class(name), backend))));
    Catalog {
        classes: BTreeMap::from(classes),
        backends: BTreeMap::from(backends),
        default_class: Some(class("default")),
        ..Catalog::default()
    }
}

fn recipe(name: ClassName, backend: &str) -> Class {
    Class {
        name,
        backend: BackendName::parse(backend).unwrap(),
        parameters: BTreeMap::new(),
        fs: FsType::Ext4,
        mount_options: Vec::new(),
        default_size: Bytes::GIB,
        max_size: None,
        root: DataRoot::default(),
        anonymous: false,
        retain: false,
        inline: false,
    }
}

fn config() -> Config {
    Config {
        node: NodeId::parse("here").unwrap(),
        role: Role::All,
        cluster: Some(CLUSTER),
        topology: BTreeMap::new(),
        idle_grace: Duration::from_secs(60),
        reap_after: Duration::from_secs(600),
        names: BTreeMap::new(),
        freeze_limit: Duration::from_secs(10),
    }
}

/// The memory store behind the fuse.
struct FusedStore {
    store: MemoryStore,
    fuse: Arc<Fuse>,
}

#[async_trait]
impl Store for FusedStore {
    async fn load(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.store.load(key).await
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        self.store.scan(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch, durability: Durability) -> Result<Revision, Error> {
        self.fuse.pass().await;
        let answer = self.store.commit(batch, durability).await;
        self.fuse.pass().await;
        answer
    }

    async fn claim(&self, key: &str) -> Result<Box<dyn Claim>, Error> {
        self.store.claim(key).await
    }

    async fn watch_from(&self, prefix: &str, revision: Revision) -> Result<Changes, Error> {
        self.store.watch_from(prefix, revision).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.store.flush().await
    }
}
