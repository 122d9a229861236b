//! Amazon's side: EC2's volumes, attachments and snapshots, the EBS direct APIs, and the hypervisor that both are about.
//! A request is checked as AWS checks it, and what it does comes to pass as it does there: late, in states, once for one
//! client token, and sometimes not at all. What a node sees of it is real: an attached volume is a block device, a
//! snapshot has the bytes that the device had, and blocks that were put together become a volume.
//!
//! A request comes in at `server` and is believed by `sigv4`; what is due to go wrong is in `fault`. `volumes`, `attach`,
//! `modify`, `snapshots` and `instances` are EC2's actions, `direct` those of the EBS direct APIs; all of them change
//! `world`, in which time passes. Beneath are `ground`, where the bytes are, `loops`, and `tree`, which is what a node's
//! `/sys` and `/dev` look like.
//!
//! ```no_run
//! # use kato_tests::aws::{Aws, Fault};
//! let aws = Aws::start();
//! let node = aws.add_instance("eu-central-1a", "m5.large");
//! aws.fault("CreateVolume", 1, Fault::LostAnswer);
//! println!("{} {} {}", aws.endpoint(), node.id(), node.tree().display());
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a model that cannot do what it is for ends the test, in words; it has a clock and tasks of its own, and \
              JSON may be asked for what it lacks"
)]

mod attach;
mod blocks;
mod direct;
mod error;
mod fault;
mod ground;
mod instances;
mod loops;
mod modify;
mod query;
mod server;
mod sigv4;
mod snapshots;
mod tree;
mod volumes;
mod world;
mod xml;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use self::{fault::Fault, sigv4::Credentials};
use self::{
    fault::Faults,
    sigv4::{Doubt, Keys},
    tree::{Tree, serial_of},
    world::{KINDS, Node, NodeState, World},
};
use crate::{
    clock::Chance,
    http::{self, Request},
    machine::{Machine, until},
};

/// The region that there is.
pub const REGION: &str = "eu-central-1";

/// The account that there is.
pub const ACCOUNT: &str = "123456789012";

/// How often time does its part when nobody asks.
const BEAT: Duration = Duration::from_millis(10);

/// What a model is like.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// What its delays and its chance come from.
    pub seed: u64,
    /// How much of the delays of 2 to 10 s is waited: with 0.02, 40 to 200 ms.
    pub pace: f64,
}

impl Default for Site {
    fn default() -> Self {
        Self { seed: 1, pace: 0.02 }
    }
}

/// A running model.
#[derive(Debug)]
pub struct Aws {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Nothing only while it is dropped.
    runtime: Option<Runtime>,
    _folder: TempDir,
}

/// What requests and the test share.
#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    faults: Mutex<(Faults, Chance)>,
    keys: Mutex<Keys>,
    calls: Mutex<BTreeMap<String, u64>>,
    requests: AtomicU64,
}

impl Aws {
    /// Starts one on this machine.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Site::default(), None)
    }

    /// Starts one like this on this machine.
    #[must_use]
    pub fn start_with(site: Site) -> Self {
        Self::with(site, None)
    }

    /// Starts one that is reached inside of a machine, and of those that share its network
    /// ([`Machine::start_beside`]), and nowhere else. Trees and devices have the same paths inside and outside.
    #[must_use]
    pub fn start_in(machine: &Machine) -> Self {
        Self::with(Site::default(), Some(machine))
    }

    /// The same with one like this.
    #[must_use]
    pub fn start_in_with(machine: &Machine, site: Site) -> Self {
        Self::with(site, Some(machine))
    }

    fn with(site: Site, machine: Option<&Machine>) -> Self {
        let folder = tempfile::Builder::new().prefix("kato-aws-").tempdir().expect("a folder");
        let current = Credentials {
            access_key_id: "AKIAIOSFODNN7KATO001".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYKATOTEST01".to_owned(),
            session_token: None,
        };
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(site, folder.path().to_owned())),
            faults: Mutex::new((Faults::default(), Chance::of_seed(site.seed ^ 0xFA))),
            keys: Mutex::new(Keys { current, expired: Vec::new() }),
            calls: Mutex::default(),
            requests: AtomicU64::new(0),
        });
        let listener = http::listen(machine, ([127, 0, 0, 1], 0).into());
        let address = listener.local_addr().expect("an address");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("kato-aws")
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(http::serve(listener, server::Services(Arc::clone(&shared))));
        let of_time = Arc::downgrade(&shared);
        runtime.spawn(async move {
            let mut beat = tokio::time::interval(BEAT);
            loop {
                beat.tick().await;
                let Some(shared) = of_time.upgrade() else { break };
                shared.world().settle();
            }
        });
        Self { shared, address, runtime: Some(runtime), _folder: folder }
    }

    /// Where both services are reached.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Who may ask.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        held(&self.shared.keys).current.clone()
    }

    /// Lets the credentials expire, and answers those that are good from now on. They come with a session token.
    pub fn rotate_credentials(&self) -> Credentials {
        let mut keys = held(&self.shared.keys);
        let number = keys.expired.len() + 2;
        let new = Credentials {
            access_key_id: format!("ASIAIOSFODNN7KATO{number:03}"),
            secret_access_key: format!("wJalrXUtnFEMI/K7MDENG/bPxRfiCYKATOTEST{number:02}"),
            session_token: Some(format!("session-token-of-the-test-kit-{number}")),
        };
        let old = std::mem::replace(&mut keys.current, new.clone());
        keys.expired.push(old);
        new
    }

    /// Adds an instance, which runs. Its type is one of `t3.medium`, `m5.large`, `m5d.large` (which has an instance
    /// store), `m7i.large` and `m7i.48xlarge`.
    #[must_use]
    pub fn add_instance(&self, zone: &str, kind: &str) -> Instance {
        let mut world = self.shared.world();
        let kind = KINDS.iter().find(|known| known.name == kind).unwrap_or_else(|| panic!("no type {kind}"));
        assert!(world.zones().any(|known| known == zone), "there is no zone {zone}");
        let (id, root) = (world.id("i"), world.id("vol"));
        let folder = world.folder.join(&id);
        let tree = Tree::plant(folder.clone(), &root, kind.instance_store).expect("a tree of devices");
        let launched = world.now();
        let node = Node { zone: zone.to_owned(), kind, state: NodeState::Running, root, launched, tree };
        world.instances.insert(id.clone(), node);
        Instance { shared: Arc::clone(&self.shared), id, folder, zone: zone.to_owned() }
    }

    /// Lets this go wrong with the next calls of an action that no other fault is due for.
    pub fn fault(&self, action: &str, calls: u64, fault: Fault) {
        assert!(calls > 0, "a fault of no call");
        held(&self.shared.faults).0.next(action, calls, fault);
    }

    /// Lets this go wrong with some of the calls of an action, of every action for `*`, from now on.
    pub fn fault_by_chance(&self, action: &str, probability: f64, fault: Fault) {
        held(&self.shared.faults).0.by_chance(action, probability, fault);
    }

    /// How many faults are still to come for an action.
    #[must_use]
    pub fn faults_left(&self, action: &str) -> u64 {
        held(&self.shared.faults).0.left(action)
    }

    /// Lets nothing go wrong any more. What is stuck stays stuck.
    pub fn heal(&self) {
        held(&self.shared.faults).0.clear();
    }

    /// Lets attachments go on that were stuck on command.
    pub fn unstick(&self) {
        self.shared.world().unstick();
    }

    /// Lets time pass for the model: delays, cool-downs, tokens and the patience for a snapshot.
    pub fn pass_time(&self, time: Duration) {
        let mut world = self.shared.world();
        world.clock.pass(time);
        world.settle();
    }

    /// Whether a volume's status is told as impaired.
    pub fn impair(&self, volume: &str, impaired: bool) {
        self.shared.world().volumes.get_mut(volume).expect("a volume").impaired = impaired;
    }

    /// How often an action was called, whatever was answered.
    #[must_use]
    pub fn calls(&self, action: &str) -> u64 {
        held(&self.shared.calls).get(action).copied().unwrap_or(0)
    }

    /// How often each action was called.
    #[must_use]
    pub fn all_calls(&self) -> BTreeMap<String, u64> {
        held(&self.shared.calls).clone()
    }

    /// Begins to count anew.
    pub fn forget_calls(&self) {
        held(&self.shared.calls).clear();
    }

    /// All volumes, also those that are not found yet and those that are being deleted.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        let mut world = self.shared.world();
        world.settle();
        let seen = |(id, volume): (&String, &world::Volume)| Volume {
            id: id.clone(),
            zone: volume.zone.clone(),
            gib: volume.size,
            kind: volume.kind.clone(),
            state: volume.status().to_owned(),
            tags: volume.tags.clone(),
            attachments: volume
                .attachments
                .iter()
                .map(|it| (it.instance.clone(), it.device.clone(), it.status().to_owned()))
                .collect(),
        };
        world.volumes.iter().map(seen).collect()
    }

    /// All snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let mut world = self.shared.world();
        world.settle();
        let seen = |(id, snapshot): (&String, &world::Snapshot)| Snapshot {
            id: id.clone(),
            volume: snapshot.volume.clone(),
            gib: snapshot.size,
            state: snapshot.status().to_owned(),
            parent: snapshot.parent.clone(),
            tags: snapshot.tags.clone(),
        };
        world.snapshots.iter().map(seen).collect()
    }

    /// Bytes of a volume or a snapshot as AWS has them: what a node keeps to itself is not among them.
    #[must_use]
    pub fn read(&self, id: &str, offset: u64, length: usize) -> Vec<u8> {
        let file = {
            let world = self.shared.world();
            let of_volume = world.volumes.get(id).map(|volume| Arc::clone(&volume.file));
            let of_snapshot = || world.snapshots.get(id).map(|snapshot| Arc::clone(&snapshot.blocks.file));
            of_volume.or_else(of_snapshot).unwrap_or_else(|| panic!("there is no {id}"))
        };
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).expect("bytes of the volume");
        bytes
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        // A test may be in a runtime of its own, in which there is no waiting for another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        // An instance or a connection that is left keeps the world, but not the devices.
        let mut world = self.shared.world();
        let instances: Vec<_> = world.instances.keys().cloned().collect();
        for instance in instances {
            world.switch_off(&instance, NodeState::Terminated);
        }
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        held(&self.world)
    }

    fn count(&self, action: &str) {
        *held(&self.calls).entry(action.to_owned()).or_default() += 1;
    }

    fn fault_of(&self, action: &str, with_token: bool) -> Option<Fault> {
        let (faults, chance) = &mut *held(&self.faults);
        faults.take(action, with_token, chance)
    }

    fn verify(&self, request: &Request, service: &str) -> Result<(), Doubt> {
        // The signer's clock is this machine's, whatever time the model lets pass.
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
        held(&self.keys).verify(request, REGION, service, i64::try_from(now).unwrap_or(0))
    }

    fn request_id(&self) -> String {
        format!("00000000-0000-4000-8000-{:012x}", self.requests.fetch_add(1, Ordering::Relaxed))
    }
}

/// A test that failed in another thread leaves things as they are.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A volume, as it looks from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What AWS calls it.
    pub id: String,
    /// Where it is.
    pub zone: String,
    /// Its size.
    pub gib: u64,
    /// Its type.
    pub kind: String,
    /// `creating`, `available`, `in-use`, `deleting` or `error`.
    pub state: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Instance, device name, and `attaching`, `attached`, `detaching` or `busy`.
    pub attachments: Vec<(String, String, String)>,
}

/// A snapshot, as it looks from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What AWS calls it.
    pub id: String,
    /// The volume that it is of; `vol-ffffffff` when its blocks were put.
    pub volume: String,
    /// The volume's size.
    pub gib: u64,
    /// `pending`, `completed` or `error`.
    pub state: String,
    /// What it was put together upon.
    pub parent: Option<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// A node in Amazon's house.
#[derive(Clone, Debug)]
pub struct Instance {
    shared: Arc<Shared>,
    id: String,
    folder: PathBuf,
    zone: String,
}

impl Instance {
    /// What AWS calls it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The folder with its `sys` and `dev`.
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.folder
    }

    /// What it has for `/sys`.
    #[must_use]
    pub fn sys(&self) -> PathBuf {
        self.folder.join("sys")
    }

    /// What it has for `/dev`.
    #[must_use]
    pub fn dev(&self) -> PathBuf {
        self.folder.join("dev")
    }

    /// The names of its disks with their serial numbers, also of those that are no volumes.
    #[must_use]
    pub fn disks(&self) -> Vec<(String, String)> {
        self.shared.world().instances.get(&self.id).expect("an instance").tree.disks()
    }

    /// The block device of a volume, if it is shown.
    #[must_use]
    pub fn device(&self, volume: &str) -> Option<PathBuf> {
        let serial = serial_of(volume);
        let name = self.disks().into_iter().find(|(_, of)| *of == serial)?.0;
        Some(self.dev().join(name))
    }

    /// Waits until a volume's device is shown.
    #[must_use]
    pub fn wait_for(&self, volume: &str) -> PathBuf {
        until("the hypervisor to show a device", || self.device(volume))
    }

    /// Lets it stand still: its devices are gone, its attachments stay.
    pub fn stop(&self) {
        self.shared.world().switch_off(&self.id, NodeState::Stopped);
    }

    /// Lets it run again. Its devices come back, and maybe under other names.
    pub fn start(&self) {
        let mut world = self.shared.world();
        let node = world.instances.get_mut(&self.id).expect("an instance");
        assert_eq!(node.state, NodeState::Stopped, "only what stands still can be started");
        node.state = NodeState::Running;
        world.settle();
    }

    /// Ends it for good: nothing is attached to it any more.
    pub fn terminate(&self) {
        self.shared.world().switch_off(&self.id, NodeState::Terminated);
    }
}
