//! A region: nodes with their daemons, one backend, one set of records; what happens there, and the judge of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use kato_orchestrator::{
    Config, Error, Orchestrator, Ports, Role, Sharing,
    model::{ClusterId, NodeId, SnapshotName, Target, VolumeId},
    ops::{
        Access, Context, CreateSnapshot, CreateVolume, DeleteSnapshot, DeleteVolume, MountVolume,
        UnmountVolume,
    },
    ports::Clock,
    testing::{BackendWorld, FakeBackend, FakeClock, FakeHost, FakeIds, Fault, Fuse, HostWorld, Verb},
};
use kato_store::MemoryStore;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    dice::Dice,
    weather::{Disk, Door, Weather},
};
use crate::crash::town::{catalog, holder, name};

/// How long a node is believed to live that is not heard.
const TTL: Duration = Duration::from_secs(10);
/// How many things happen in a run.
const STEPS: usize = 60;

/// Whether the house is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// It is.
    Kept,
    /// What it commits is applied whatever was written meanwhile.
    Unguarded,
}

/// A machine with its daemon.
struct Node {
    name: &'static str,
    machine: Arc<Mutex<HostWorld>>,
    fuse: Arc<Fuse>,
    weather: Arc<Weather>,
    disk: Arc<Disk>,
    /// What it remembers of the records, on its disk.
    memory: Arc<MemoryStore>,
    host: FakeHost,
    hall: Option<Arc<Orchestrator>>,
    /// What is asked of it and not answered yet.
    requests: JoinSet<()>,
    /// Since when the records do not hear it.
    silent: Option<Instant>,
    /// Why its daemon did not start.
    why: String,
}

/// What was answered with success.
#[derive(Debug, Default)]
struct Said {
    /// Volumes by their names.
    made: BTreeMap<String, VolumeId>,
    /// What was deleted, or may have been.
    deleted: BTreeSet<VolumeId>,
    /// Names of which a delete is under way, perhaps of what is not there yet.
    leaving: BTreeSet<String>,
    snapshots: BTreeSet<String>,
    /// Snapshots of which a delete was begun.
    going: BTreeSet<String>,
    /// What was written to a volume.
    written: BTreeMap<VolumeId, Vec<String>>,
}

impl Said {
    /// A volume was told to be there.
    fn made(&mut self, name: String, id: VolumeId) {
        if self.leaving.contains(&name) {
            self.deleted.insert(id);
        }
        self.made.insert(name, id);
    }
}

struct Region {
    dice: Dice,
    backend: Arc<Mutex<BackendWorld>>,
    store: MemoryStore,
    ids: Arc<FakeIds>,
    clock: Arc<FakeClock>,
    nodes: Vec<Node>,
    said: Arc<Mutex<Said>>,
    fences: bool,
    count: usize,
}

/// Plays one seed.
pub(super) fn run(seed: u64, rules: Rules) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut region = Region::new(seed, rules);
        let story = async {
            for node in 0..region.nodes.len() {
                region.start(node).await;
            }
            for _ in 0..STEPS {
                region.step().await;
                region.look()?;
            }
            region.clear_up().await?;
            region.judge().await
        };
        tokio::select! {
            told = story => told,
            () = sleep(Duration::from_secs(7 * 86_400)) => Err("it does not come to an end".to_owned()),
        }
    })
}

impl Region {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut dice = Dice::new(seed);
        // Few nodes meet each other most; some runs have many.
        let many = if dice.percent(90) { 3 + dice.of(3) } else { 6 + dice.of(45) };
        let backend = Arc::<Mutex<BackendWorld>>::default();
        let nodes: Vec<Node> = (0..many).map(|index| Node::new(index, &backend, rules)).collect();
        nodes.iter().for_each(|node| node.fuse.paced(dice.next()));
        let fences = dice.percent(80);
        Self {
            dice,
            backend,
            store: MemoryStore::new(),
            ids: Arc::default(),
            clock: Arc::default(),
            nodes,
            said: Arc::default(),
            fences,
            count: 0,
        }
    }

    /// Starts a node's daemon, and waits for it a moment.
    async fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.hall.is_some() {
            return;
        }
        let door = Door {
            store: self.store.of_another_node(),
            fuse: Arc::clone(&node.fuse),
            weather: Arc::clone(&node.weather),
        };
        let fake = FakeBackend::new(
            Arc::clone(&self.backend),
            Arc::clone(&node.fuse),
            true,
            Duration::from_secs(30),
        )
        .looking();
        let fake = Arc::new(if self.fences { fake.fencing() } else { fake });
        let ports = Ports {
            store: Arc::new(door.clone()),
            host: Arc::new(node.host.clone()),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            ids: Arc::clone(&self.ids) as _,
            sharing: Some(Sharing {
                members: Arc::new(door),
                keepsake: Arc::clone(&node.disk) as _,
                replica: Arc::clone(&node.memory) as _,
                ttl: TTL,
                away: Duration::from_secs(60),
            }),
        };
        let config = Config {
            node: NodeId::parse(node.name).unwrap(),
            role: Role::All,
            cluster: Some(ClusterId(0xc1)),
            topology: BTreeMap::new(),
            idle_grace: Duration::from_secs(5),
            reap_after: Duration::from_secs(600),
            names: BTreeMap::new(),
            freeze_limit: Duration::from_secs(10),
        };
        let opened = Orchestrator::open(ports, catalog(fake.clone(), fake), config);
        tokio::select! {
            opened = opened => match opened {
                Ok(hall) => node.hall = Some(hall),
                Err(error) => node.why = error.to_string(),
            },
            // It is suspended, or hears nothing: somebody starts it again later.
            () = sleep(Duration::from_secs(10)) => "it takes too long".clone_into(&mut node.why),
        }
        if node.hall.is_some() {
            node.silent = None;
        }
    }

    /// Ends a node's daemon as a crash does.
    async fn kill(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.requests.abort_all();
        while node.requests.join_next().await.is_some() {}
        if let Some(hall) = node.hall.take() {
            hall.stop(Duration::ZERO).await;
        }
        node.machine.lock().unwrap().thaw_all();
        node.silent.get_or_insert_with(Instant::now);
    }

    /// Something happens, and then some time passes.
    async fn step(&mut self) {
        let index = self.dice.of(self.nodes.len());
        match self.dice.of(100) {
            0..=29 => self.mount(index),
            30..=41 => self.unmount(index),
            42..=49 => self.write(),
            50..=53 => self.make(index),
            54..=55 => self.remove(index),
            56..=57 => self.cut(index),
            58 => self.remove_snapshot(index),
            59..=62 => self.kill(index).await,
            63..=74 => self.start(index).await,
            75..=76 => self.reboot(index).await,
            77..=80 => self.suspend(index),
            81..=87 => self.resume(index),
            88..=90 => self.part(index),
            91..=96 => self.mend(index),
            97 => self.nodes[index].weather.loses.store(true, Ordering::SeqCst),
            98 => {
                let verbs = [Verb::Attach, Verb::Detach, Verb::Create, Verb::Fence, Verb::Cut];
                let verb = verbs[self.dice.of(verbs.len())];
                let fault = match self.dice.of(3) {
                    0 => Fault::LoseAnswer(Error::unavailable("the answer was lost").pending()),
                    1 => Fault::Refuse(Error::unavailable("not now").pending()),
                    _ => Fault::Pending(2),
                };
                self.backend.lock().unwrap().fault(verb, fault);
            }
            _ => {
                if let Some(hall) = self.nodes[index].hall.clone() {
                    hall.say_away().await;
                    self.kill(index).await;
                }
            }
        }
        let pause = match self.dice.of(4) {
            0 => 0,
            1 => self.dice.of(300),
            2 => self.dice.of(3_000),
            _ => self.dice.of(12_000),
        };
        self.pass(Duration::from_millis(pause as u64)).await;
    }

    /// Lets time pass. Leases of nodes that are not heard for too long run out.
    async fn pass(&mut self, mut pause: Duration) {
        loop {
            let slice = pause.min(Duration::from_secs(1));
            sleep(slice).await;
            for node in &mut self.nodes {
                if node.silent.is_some_and(|since| since.elapsed() >= TTL)
                    && let Some(lease) = node.disk.kept()
                {
                    self.store.lapse(lease);
                }
                if let Some(hall) = node.hall.clone().filter(|_| node.silent.is_none()) {
                    node.requests.spawn(async move { drop(hall.tidy().await) });
                }
            }
            pause = pause.saturating_sub(slice);
            if pause.is_zero() {
                return;
            }
        }
    }

    fn context(&self) -> Context {
        Context::new("sim", "test", self.clock.now().plus(Duration::from_secs(40)))
    }

    fn volume(&mut self) -> String {
        format!("v{}", self.dice.of(3))
    }

    /// Asks a node's daemon, if there is one.
    fn ask<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        index: usize,
        ask: impl FnOnce(Arc<Orchestrator>, Context, Arc<Mutex<Said>>) -> F,
    ) {
        let (context, said) = (self.context(), Arc::clone(&self.said));
        let node = &mut self.nodes[index];
        if let Some(hall) = node.hall.clone() {
            node.requests.spawn(ask(hall, context, said));
        }
    }

    fn make(&mut self, index: usize) {
        let volume = self.volume();
        self.ask(index, |hall, context, said| async move {
            if let Ok(made) = hall.create(&context, CreateVolume::named(name(&volume))).await {
                said.lock().unwrap().made(volume, made.into_inner().volume.id);
            }
        });
    }

    fn mount(&mut self, index: usize) {
        let (volume, by) = (self.volume(), format!("h{}", self.dice.of(2)));
        self.ask(index, |hall, context, said| async move {
            let wish = MountVolume {
                volume: name(&volume).into(),
                access: Access::default(),
                holder: holder(&by),
                counts: true,
                caller: None,
                target: Target::Shared,
                read_only: false,
                implicit: Some(Box::new(CreateVolume::named(name(&volume)))),
            };
            if hall.mount(&context, wish).await.is_ok()
                && let Ok(view) = hall.inspect(&name(&volume)).await
            {
                said.lock().unwrap().made(volume, view.volume.id);
            }
        });
    }

    fn unmount(&mut self, index: usize) {
        let (volume, by) = (self.volume(), format!("h{}", self.dice.of(2)));
        self.ask(index, |hall, context, _| async move {
            let wish = UnmountVolume { volume: name(&volume).into(), holder: holder(&by), all: true };
            drop(hall.unmount(&context, wish).await);
        });
    }

    fn remove(&mut self, index: usize) {
        let volume = self.volume();
        let id = self.said.lock().unwrap().made.get(&volume).copied();
        // From now on nobody can say that it has to be there.
        self.said.lock().unwrap().deleted.extend(id);
        self.said.lock().unwrap().leaving.insert(volume.clone());
        self.ask(index, |hall, context, said| async move {
            let wish = DeleteVolume { volume: name(&volume).into(), forget: false };
            if hall.delete(&context, wish).await.is_ok() {
                said.lock().unwrap().leaving.remove(&volume);
            }
        });
    }

    fn cut(&mut self, index: usize) {
        let (volume, snapshot) = (self.volume(), format!("s{}", self.count));
        self.count += 1;
        self.ask(index, |hall, context, said| async move {
            let wish = CreateSnapshot {
                name: SnapshotName::parse(&snapshot).unwrap(),
                volume: name(&volume).into(),
                parameters: BTreeMap::new(),
                labels: BTreeMap::new(),
                until_ready: true,
            };
            if hall.create_snapshot(&context, wish).await.is_ok() {
                said.lock().unwrap().snapshots.insert(snapshot);
            }
        });
    }

    fn remove_snapshot(&mut self, index: usize) {
        let Some(snapshot) = self.said.lock().unwrap().snapshots.first().cloned() else { return };
        self.said.lock().unwrap().going.insert(snapshot.clone());
        self.ask(index, |hall, context, _| async move {
            let wish = DeleteSnapshot { snapshot: SnapshotName::parse(&snapshot).unwrap().into() };
            drop(hall.delete_snapshot(&context, wish).await);
        });
    }

    /// Containers write wherever something is mounted, on machines that run.
    fn write(&mut self) {
        for node in &self.nodes {
            if node.fuse.is_held() {
                continue;
            }
            let mounts = node.machine.lock().unwrap().mounts();
            for volume in mounts {
                self.count += 1;
                let text = format!("<{}:{}>", node.name, self.count);
                if node.host.write(volume, &text).is_ok() {
                    self.said.lock().unwrap().written.entry(volume).or_default().push(text);
                }
            }
        }
    }

    async fn reboot(&mut self, index: usize) {
        self.kill(index).await;
        let node = &mut self.nodes[index];
        node.fuse.hold(false);
        node.machine.lock().unwrap().reboot();
        self.backend.lock().unwrap().stop(node.name);
    }

    fn suspend(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.fuse.hold(true);
        node.silent.get_or_insert_with(Instant::now);
    }

    fn resume(&mut self, index: usize) {
        self.nodes[index].fuse.hold(false);
        self.heard(index);
    }

    fn part(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.weather.away.store(true, Ordering::SeqCst);
        node.silent.get_or_insert_with(Instant::now);
    }

    fn mend(&mut self, index: usize) {
        self.nodes[index].weather.away.store(false, Ordering::SeqCst);
        self.heard(index);
    }

    fn heard(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.hall.is_some() && !node.fuse.is_held() && !node.weather.away.load(Ordering::SeqCst) {
            node.silent = None;
        }
    }

    /// What may never be.
    fn look(&self) -> Result<(), String> {
        match self.backend.lock().unwrap().trespasses() {
            [] => Ok(()),
            trespasses => Err(format!("two writers: {trespasses:?}")),
        }
    }

    /// The weather becomes fine, and stays so.
    async fn clear_up(&mut self) -> Result<(), String> {
        self.backend.lock().unwrap().come_true(true);
        for index in 0..self.nodes.len() {
            self.resume(index);
            self.mend(index);
            self.nodes[index].weather.loses.store(false, Ordering::SeqCst);
        }
        for _ in 0..4 {
            for index in 0..self.nodes.len() {
                self.start(index).await;
            }
            self.pass(Duration::from_secs(30)).await;
            self.look()?;
        }
        match self.nodes.iter().find(|node| node.hall.is_none()) {
            Some(node) => Err(format!("{} does not start again: {}", node.name, node.why)),
            None => Ok(()),
        }
    }

    async fn judge(&mut self) -> Result<(), String> {
        let first = self.nodes[0].hall.clone().unwrap();
        let told = |error: Error| error.to_string();
        let views = first.list(None, 100).await.map_err(told)?.items;
        let snapshots: Vec<String> = {
            let said = self.said.lock().unwrap();
            let there: BTreeSet<VolumeId> = views.iter().map(|view| view.volume.id).collect();
            for (name, id) in &said.made {
                if !said.deleted.contains(id) && !there.contains(id) {
                    return Err(format!("the volume {name} is lost"));
                }
            }
            for view in &views {
                let Some(handle) = &view.volume.handle else { continue };
                let mut backend = self.backend.lock().unwrap();
                let bytes = backend.bytes(handle.as_str()).cloned().unwrap_or_default();
                let bytes = String::from_utf8(bytes).unwrap();
                let written = said.written.get(&view.volume.id).into_iter().flatten();
                if let Some(text) = written.into_iter().find(|text| !bytes.contains(*text)) {
                    return Err(format!("{text} was written to {} and is gone: {bytes}", view.volume.name));
                }
            }
            said.snapshots.difference(&said.going).cloned().collect()
        };
        for snapshot in snapshots {
            let name = SnapshotName::parse(&snapshot).unwrap();
            first.inspect_snapshot(&name).await.map_err(told)?;
        }
        self.end_all().await
    }

    /// Everything can be taken down, and then there is nothing.
    async fn end_all(&mut self) -> Result<(), String> {
        let first = self.nodes[0].hall.clone().unwrap();
        for _ in 0..4 {
            let views = first.list(None, 100).await.map_err(|error| error.to_string())?.items;
            for node in &self.nodes {
                let hall = node.hall.clone().unwrap();
                for view in &views {
                    let here = view.publications.iter().filter(|one| one.node.as_str() == node.name);
                    for publication in here {
                        let volume = view.volume.name.clone().into();
                        let wish = UnmountVolume { volume, holder: publication.holder.clone(), all: true };
                        drop(hall.unmount(&self.context(), wish).await);
                    }
                }
            }
            let snapshots = first.list_snapshots(None, 1_000).await.map_err(|error| error.to_string())?.items;
            for snapshot in snapshots {
                let wish = DeleteSnapshot { snapshot: snapshot.name.into() };
                drop(first.delete_snapshot(&self.context(), wish).await);
            }
            for view in views {
                let wish = DeleteVolume { volume: view.volume.name.into(), forget: false };
                drop(first.delete(&self.context(), wish).await);
            }
            self.pass(Duration::from_secs(40)).await;
            self.look()?;
        }
        let left = first.list(None, 10).await.map_err(|error| error.to_string())?.items;
        if !left.is_empty() {
            return Err(format!("cannot be removed: {left:#?}"));
        }
        let gauges = first.gauges().await.map_err(|error| error.to_string())?;
        if gauges.intents != 0 || gauges.tombstones != 0 {
            return Err(format!("work is left over: {gauges:?}"));
        }
        let tokens = self.backend.lock().unwrap().tokens();
        if !tokens.is_empty() {
            return Err(format!("left in the backend: {tokens:?}"));
        }
        match self.nodes.iter().find(|node| !node.machine.lock().unwrap().connected().is_empty()) {
            Some(node) => Err(format!("something is left connected on {}", node.name)),
            None => Ok(()),
        }
    }
}

impl Node {
    fn new(index: usize, backend: &Arc<Mutex<BackendWorld>>, rules: Rules) -> Self {
        let name: &'static str = Box::leak(format!("n{index}").into_boxed_str());
        let (machine, fuse) = (Arc::<Mutex<HostWorld>>::default(), Arc::<Fuse>::default());
        machine.lock().unwrap().tell_clients();
        let weather = Weather::default();
        weather.unguarded.store(rules == Rules::Unguarded, Ordering::SeqCst);
        let host = FakeHost::new(Arc::clone(&machine), Arc::clone(backend), Arc::clone(&fuse)).called(name);
        Self {
            name,
            machine,
            fuse,
            weather: Arc::new(weather),
            disk: Arc::default(),
            memory: Arc::default(),
            host,
            hall: None,
            requests: JoinSet::new(),
            silent: None,
            why: String::new(),
        }
    }
}
