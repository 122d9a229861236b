//! The CSI door by a real gRPC client over a real socket: who it says it is (`identity`), what a field may hold (`limits`),
//! and what a caller may do to the wire (`wire`), before a hall whose backend, node and clock are in memory.
//!
//! What becomes of the calls is tried on houses of `ground.rs`: the `local` plugin as the daemon carries it, a real node
//! with loop devices, and doors of any role: `volumes` is what a controller is asked, `nodes` staging and publishing, then
//! `growth`, `snapshots`, `groups`, `metadata`, which blocks snapshots have, `fencing`, volumes that are taken from nodes,
//! `lost`, what holds while a controller's records are lost at any moment, `replay`, what real callers do, and
//! `conformance`, everything that the protocol has, once. `kills` kills the shipped program under load, `parity` tells one
//! story through both doors. `described` knows the protocol by its description. `hostile` is what a caller may try on a node.
//!
//! Houses of `fakes.rs` stand over backends that do as they are told: `finality` is what is said while nobody knows,
//! `publishing` who gets a volume beside whom, `unready` what is not ready, refused or in use, `bounds` the largest of all.

mod bounds;
mod conformance;
mod described;
mod fakes;
mod fencing;
mod finality;
mod ground;
mod groups;
mod growth;
mod hostile;
mod identity;
mod kills;
mod limits;
mod lost;
mod metadata;
mod nodes;
mod parity;
mod publishing;
mod replay;
mod snapshots;
mod unready;
mod volumes;
mod wire;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use kato_csi::{
    Config,
    protocol::{
        CreateVolumeRequest, VolumeCapability,
        volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
    },
};
use kato_orchestrator::{
    Catalog, Orchestrator, Ports,
    model::{BackendName, Bytes, Class, ClassName, ClusterId, DataRoot, FsType, NodeId},
    testing::{BackendWorld, FakeBackend, FakeClock, FakeHost, Fuse, HostWorld},
};
use kato_tests::csi::CsiDoor;

use self::fakes::Scene;

/// A hall over fakes, and what its backend holds.
async fn hall() -> (Arc<Orchestrator>, Arc<Mutex<BackendWorld>>) {
    hall_over(|backend| backend).await
}

/// The same, over a backend that is changed like this.
async fn hall_over(
    change: impl FnOnce(FakeBackend) -> FakeBackend,
) -> (Arc<Orchestrator>, Arc<Mutex<BackendWorld>>) {
    let scene = Scene::default();
    (hall_of(&scene, change).await, scene.world)
}

/// The same, as a scene has it.
async fn hall_of(scene: &Scene, change: impl FnOnce(FakeBackend) -> FakeBackend) -> Arc<Orchestrator> {
    let (world, fuse) = (Arc::clone(&scene.world), Arc::<Fuse>::default());
    let host = FakeHost::new(Arc::<Mutex<HostWorld>>::default(), Arc::clone(&world), Arc::clone(&fuse));
    let ports = Ports {
        store: Arc::new(scene.store.clone()),
        host: Arc::new(host.called(scene.node)),
        clock: Arc::new(FakeClock::default()),
        ids: Arc::clone(&scene.ids) as _,
        sharing: None,
    };
    let config = kato_orchestrator::Config {
        node: NodeId::parse(scene.node).unwrap(),
        role: scene.role,
        cluster: Some(ClusterId(7)),
        topology: Default::default(),
        idle_grace: Duration::from_secs(1),
        reap_after: Duration::from_secs(600),
        names: Default::default(),
        freeze_limit: Duration::from_secs(10),
    };
    let fake = change(FakeBackend::new(world, fuse, true, Duration::from_secs(60)));
    let (class, backend) = (ClassName::parse("fake").unwrap(), BackendName::parse("fake").unwrap());
    let recipe = Class {
        name: class.clone(),
        backend: backend.clone(),
        parameters: Default::default(),
        fs: FsType::Ext4,
        mount_options: Vec::new(),
        default_size: Bytes::GIB,
        max_size: None,
        root: DataRoot::default(),
        anonymous: false,
        retain: false,
        inline: false,
    };
    let catalog = Catalog {
        classes: [(class.clone(), Arc::new(recipe))].into(),
        backends: [(backend, Arc::new(fake) as _)].into(),
        broken: Default::default(),
        default_class: Some(class),
        anonymous_class: None,
    };
    Orchestrator::open(ports, catalog, config).await.unwrap()
}

async fn door(change: impl FnOnce(&mut Config)) -> CsiDoor {
    CsiDoor::open(hall().await.0, change)
}

fn mounted() -> VolumeCapability {
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume { fs_type: "ext4".into(), ..Default::default() })),
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
    }
}

fn create(name: &str) -> CreateVolumeRequest {
    CreateVolumeRequest { name: name.into(), volume_capabilities: vec![mounted()], ..Default::default() }
}
