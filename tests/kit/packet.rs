//! Packet's side: the API of its block storage, as its clients knew it, over a real target. A request is checked as the API
//! checked it as far as anybody knows, every client's spelling of it is taken, and what it does comes to pass late, in
//! states, and sometimes not at all. What a node sees of it is real: a volume is a disk behind iSCSI portals from the moment
//! on at which it is made, and a machine is let in as long as the volume is attached to it.
//!
//! A request comes in at `server`, is read by `route` and `asked`, and what is due to go wrong is in `fault`. `volumes`,
//! `attachments` and `snapshots` are the API's actions; all of them change `world`, in which time passes, and `shown` is how
//! it looks. Beneath is the kit's `tgt`.
//!
//! Where nobody knows any more what the API did, the model does what is harder on its clients, and [`Site`] has the other
//! way: it lets a second machine in, refuses to grow or restore what is attached, lets nothing go for a while after its last
//! session, gives a clone its source's description, and lists in no order.
//!
//! ```no_run
//! # use kato_tests::packet::{Action, Fault, Packet};
//! let packet = Packet::start();
//! let node = packet.add_device("tst1", "node-a");
//! packet.fault(Action::CreateVolume, 1, Fault::LostAnswer);
//! println!("{} {} {}", packet.endpoint(), node.id(), node.metadata());
//! ```

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a model that cannot do what it is for ends the test, in words; it has a clock, tasks and programs of its own"
)]

mod asked;
mod attachments;
mod error;
mod fault;
mod route;
mod server;
mod shown;
mod snapshots;
mod volumes;
mod world;

use std::{
    collections::BTreeMap,
    fs::File,
    net::SocketAddr,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use self::{fault::Fault, route::Action};
use self::{
    fault::Faults,
    server::{Api, Metadata, Rate},
    world::World,
};
use crate::{
    clock::Chance,
    http,
    machine::{Machine, until},
    tgt::Target,
};

/// How every target's name begins.
pub const IQN_PREFIX: &str = "iqn.2013-05.com.daterainc:tc:01:sn:";

/// How often time does its part when nobody asks.
const BEAT: Duration = Duration::from_millis(10);

/// What a model is like.
#[derive(Clone, Debug)]
pub struct Site {
    /// What its delays and its chance come from.
    pub seed: u64,
    /// How much of the seconds that it takes is waited.
    pub pace: f64,
    /// Where there is a number, a volume becomes active after so many looks, and not in time.
    pub looks: Option<u32>,
    /// The least and the most that a volume may have, in GiB.
    pub minimum: u64,
    /// See `minimum`.
    pub maximum: u64,
    /// The most that a page can have.
    pub page: u64,
    /// How many requests are taken in how long.
    pub rate: (u64, Duration),
    /// Whether a second machine is refused.
    pub strict: bool,
    /// Whether a volume can be attached before it is active.
    pub attaches_early: bool,
    /// Whether one can grow that is attached.
    pub grows_attached: bool,
    /// Whether a volume says where its target is; else only the metadata service does.
    pub tells_access: bool,
    /// Whether snapshots are cut on request, and not only by policies.
    pub cuts_on_request: bool,
    /// Whether a detachment is answered with 204 and nothing, or with 200 and something.
    pub detach_says_nothing: bool,
    /// How long after an attachment the target and the metadata service know of it.
    pub attach_lag: Duration,
    /// How long after its last session a volume counts as used.
    pub detach_lag: Duration,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            seed: 1,
            pace: 0.02,
            looks: None,
            minimum: 1,
            maximum: 10_000,
            page: 1000,
            rate: (1_000_000, Duration::from_secs(3600)),
            strict: false,
            attaches_early: false,
            grows_attached: false,
            tells_access: true,
            cuts_on_request: true,
            detach_says_nothing: true,
            attach_lag: Duration::from_millis(100),
            detach_lag: Duration::from_millis(500),
        }
    }
}

/// A running model.
#[derive(Debug)]
pub struct Packet<'m> {
    shared: Arc<Shared>,
    machine: Option<&'m Machine>,
    address: SocketAddr,
    /// Nothing only while it is dropped.
    runtime: Option<Runtime>,
    target: Target<'m>,
    _folder: TempDir,
}

/// What requests and the test share.
#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    faults: Mutex<(Faults, Chance)>,
    rate: Mutex<Rate>,
    token: Mutex<String>,
    calls: Mutex<BTreeMap<Action, u64>>,
    requests: AtomicU64,
}

impl<'m> Packet<'m> {
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
    /// ([`Machine::start_beside`]), and nowhere else.
    #[must_use]
    pub fn start_in(machine: &'m Machine) -> Self {
        Self::with(Site::default(), Some(machine))
    }

    /// The same with one like this.
    #[must_use]
    pub fn start_in_with(machine: &'m Machine, site: Site) -> Self {
        Self::with(site, Some(machine))
    }

    fn with(site: Site, machine: Option<&'m Machine>) -> Self {
        let folder = tempfile::Builder::new().prefix("kato-packet-").tempdir().expect("a folder");
        let target = machine.map_or_else(Target::start, Target::start_in);
        let ips = target.portals().map(|portal| portal.split(':').next().unwrap_or_default().to_owned());
        let (seed, rate) = (site.seed, site.rate);
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(site, folder.path(), Arc::clone(target.units()), ips)),
            faults: Mutex::new((Faults::default(), Chance::of_seed(seed ^ 0xFA))),
            rate: Mutex::new(Rate::new(rate)),
            token: Mutex::new("token-of-the-test-kit-1".to_owned()),
            calls: Mutex::default(),
            requests: AtomicU64::new(0),
        });
        let listener = http::listen(machine, ([127, 0, 0, 1], 0).into());
        let address = listener.local_addr().expect("an address");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("kato-packet")
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(http::serve(listener, Api(Arc::clone(&shared))));
        let of_time = Arc::downgrade(&shared);
        runtime.spawn(async move {
            let mut beat = tokio::time::interval(BEAT);
            loop {
                beat.tick().await;
                let Some(shared) = of_time.upgrade() else { break };
                shared.world().settle();
            }
        });
        Self { shared, machine, address, runtime: Some(runtime), target, _folder: folder }
    }

    /// Where the API is reached.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The project that the token is for.
    #[must_use]
    pub fn project(&self) -> String {
        self.shared.world().project.clone()
    }

    /// One that there is and that the token is not for.
    #[must_use]
    pub fn other_project(&self) -> String {
        self.shared.world().other_project.clone()
    }

    /// What has to be in the header `X-Auth-Token`.
    #[must_use]
    pub fn token(&self) -> String {
        held(&self.shared.token).clone()
    }

    /// Lets that be another one, and answers it.
    pub fn rotate_token(&self) -> String {
        let mut token = held(&self.shared.token);
        let number: u64 = token.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        *token = format!("token-of-the-test-kit-{}", number + 1);
        token.clone()
    }

    /// Takes so many requests in this time, from now on.
    pub fn set_rate(&self, rate: (u64, Duration)) {
        *self.shared.rate() = Rate::new(rate);
    }

    /// What is behind it.
    #[must_use]
    pub fn target(&self) -> &Target<'m> {
        &self.target
    }

    /// Adds a machine, which runs, at `tst1`, `tst2`, or `tst3`, which has no storage.
    #[must_use]
    pub fn add_device(&self, facility: &str, hostname: &str) -> Device {
        let mut world = self.shared.world();
        let known = world::FACILITIES.iter().find(|(_, code, ..)| *code == facility);
        let facility =
            known.map(|(_, code, ..)| *code).unwrap_or_else(|| panic!("there is no site {facility}"));
        let id = world.id();
        let iqn = format!("iqn.2019-03.net.packet:device.{}", id.get(..8).unwrap_or(&id));
        let device =
            world::Device { hostname: hostname.to_owned(), facility, iqn: iqn.clone(), state: "active" };
        world.devices.insert(id.clone(), device);
        drop(world);
        let listener = http::listen(self.machine, ([127, 0, 0, 1], 0).into());
        let metadata = format!("http://{}/metadata", listener.local_addr().expect("an address"));
        let service = Metadata { shared: Arc::clone(&self.shared), device: id.clone() };
        self.runtime.as_ref().expect("a runtime").spawn(http::serve(listener, service));
        Device { shared: Arc::clone(&self.shared), id, iqn, facility, metadata }
    }

    /// Lets this go wrong with the next calls of an action that no other fault is due for.
    pub fn fault(&self, action: Action, calls: u64, fault: Fault) {
        assert!(calls > 0, "a fault of no call");
        held(&self.shared.faults).0.next(action, calls, fault);
    }

    /// Lets this go wrong with some of the calls of an action, of every action for nothing, from now on.
    pub fn fault_by_chance(&self, action: Option<Action>, probability: f64, fault: Fault) {
        held(&self.shared.faults).0.by_chance(action, probability, fault);
    }

    /// How many faults are still to come for an action.
    #[must_use]
    pub fn faults_left(&self, action: Action) -> u64 {
        held(&self.shared.faults).0.left(action)
    }

    /// Lets nothing go wrong any more. What is stuck stays stuck.
    pub fn heal(&self) {
        held(&self.shared.faults).0.clear();
    }

    /// Lets volumes become active that were stuck on command.
    pub fn unstick(&self) {
        self.shared.world().unstick();
    }

    /// Lets time pass for the model: states, lags and policies.
    pub fn pass_time(&self, time: Duration) {
        let mut world = self.shared.world();
        world.clock.pass(time);
        world.settle();
    }

    /// How often an action was called, whatever was answered.
    #[must_use]
    pub fn calls(&self, action: Action) -> u64 {
        held(&self.shared.calls).get(&action).copied().unwrap_or(0)
    }

    /// How often each action was called.
    #[must_use]
    pub fn all_calls(&self) -> BTreeMap<Action, u64> {
        held(&self.shared.calls).clone()
    }

    /// Begins to count anew.
    pub fn forget_calls(&self) {
        held(&self.shared.calls).clear();
    }

    /// All volumes, also those that are not found yet.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        let mut world = self.shared.world();
        world.settle();
        let now = world.now();
        let seen = |(id, volume): (&String, &world::Volume)| Volume {
            id: id.clone(),
            description: volume.description.clone().unwrap_or_default(),
            gib: volume.size,
            plan: volume.plan,
            facility: volume.facility,
            state: volume.state(now),
            iqn: volume.iqn.clone(),
            devices: world.attachments_of(id).map(|(_, it)| it.device.clone()).collect(),
        };
        world.volumes.iter().map(seen).collect()
    }

    /// All snapshots, with the volumes that they are of, also those that policies cut.
    #[must_use]
    pub fn snapshots(&self) -> Vec<(String, String)> {
        let mut world = self.shared.world();
        world.settle();
        world.snapshots.iter().map(|(id, snapshot)| (id.clone(), snapshot.volume.clone())).collect()
    }

    /// Attaches a volume behind everybody's back.
    pub fn attach(&self, volume: &str, device: &Device) {
        let asked = asked::Asked::saying("device_id", &device.id);
        self.shared.world().attach(volume, &asked, None).expect("an attachment");
    }

    /// Ends all attachments of a volume behind everybody's back, and whatever sessions there are with them.
    pub fn detach(&self, volume: &str) {
        let mut world = self.shared.world();
        let own: Vec<_> = world.attachments_of(volume).map(|(id, _)| id.clone()).collect();
        let iqn = world.volumes.get(volume).map(|it| it.iqn.clone()).expect("a volume");
        for attachment in own {
            world.end_attachment(&attachment);
        }
        drop(world);
        self.target.end_sessions(&iqn);
    }

    /// Removes a volume behind everybody's back.
    pub fn lose(&self, volume: &str) {
        self.detach(volume);
        self.shared.world().drop_volume(volume);
    }

    /// Makes a volume that is nobody's of ours, and answers its id.
    #[must_use]
    pub fn make(&self, description: &str) -> String {
        let mut world = self.shared.world();
        let file = world.zeroes(1);
        let blank = world.blank(None);
        let volume = world::Volume {
            description: Some(description.to_owned()),
            size: 1,
            facility: "tst1",
            plan: "storage_1",
            billing_cycle: "hourly".to_owned(),
            coming: world::Coming::Looks(0),
            customdata: Value::Object(serde_json::Map::new()),
            file,
            ..blank
        };
        world.add_volume(volume)
    }

    /// Bytes of a volume or a snapshot as the target has them: what a node keeps to itself is not among them.
    #[must_use]
    pub fn read(&self, id: &str, offset: u64, length: usize) -> Vec<u8> {
        let path = self.shared.world().bytes_of(id).unwrap_or_else(|| panic!("there is no {id}"));
        let mut bytes = vec![0; length];
        let file = File::open(path).expect("the bytes of a volume");
        file.read_exact_at(&mut bytes, offset).expect("bytes of the volume");
        bytes
    }
}

impl Drop for Packet<'_> {
    fn drop(&mut self) {
        // A test may be in a runtime of its own, in which there is no waiting for another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        // A connection that is left keeps the world; its target is told nothing any more.
        drop(self.shared.world());
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        held(&self.world)
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        held(&self.rate)
    }

    fn count(&self, action: Action) {
        *held(&self.calls).entry(action).or_default() += 1;
    }

    fn fault_of(&self, action: Action) -> Option<Fault> {
        let (faults, chance) = &mut *held(&self.faults);
        faults.take(action, chance)
    }

    fn believes(&self, token: Option<&str>) -> bool {
        token == Some(held(&self.token).as_str())
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
    /// What the API calls it.
    pub id: String,
    /// What clients wrote on it.
    pub description: String,
    /// Its size.
    pub gib: u64,
    /// Its plan's slug.
    pub plan: &'static str,
    /// Its site's code.
    pub facility: &'static str,
    /// `queued`, `provisioning` or `active`.
    pub state: &'static str,
    /// Its target's name.
    pub iqn: String,
    /// The machines that it is attached to.
    pub devices: Vec<String>,
}

/// A machine at Packet's.
#[derive(Clone, Debug)]
pub struct Device {
    shared: Arc<Shared>,
    id: String,
    iqn: String,
    facility: &'static str,
    metadata: String,
}

impl Device {
    /// What the API calls it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Who it has to say that it is when it logs in.
    #[must_use]
    pub fn iqn(&self) -> &str {
        &self.iqn
    }

    /// The code of its site.
    #[must_use]
    pub fn facility(&self) -> &str {
        self.facility
    }

    /// Where it finds the metadata service, which knows it by this.
    #[must_use]
    pub fn metadata(&self) -> &str {
        &self.metadata
    }

    /// Switches it off: its sessions are gone, its attachments stay.
    pub fn power_off(&self) {
        self.shared.world().power(&self.id, "inactive");
    }

    /// Lets it run again.
    pub fn power_on(&self) {
        self.shared.world().power(&self.id, "active");
    }

    /// Waits until its volume's target lets it in.
    pub fn wait_for(&self, volume: &str) {
        until("the target to let a machine in", || {
            let world = self.shared.world();
            let open = world.attachments_of(volume).any(|(_, it)| it.device == self.id && it.open);
            open.then_some(())
        });
    }
}
