//! Houses with a CSI door: daemons in this process, with a real node and the plugin that the daemon carries, over a folder
//! of the test's own. Several houses over one ground are several hosts, or a controller and its nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kato_csi::protocol::{
    CapacityRange, CreateVolumeRequest, DeleteVolumeRequest, NodePublishVolumeRequest,
    NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, Volume, VolumeCapability,
    controller_client::ControllerClient,
    node_client::NodeClient,
    volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode},
};
use kato_node::LinuxHost;
use kato_orchestrator::{
    Catalog, Config, Error, Orchestrator, Ports, Role,
    model::{BackendName, Bytes, Class, ClassName, ClusterId, DataRoot, FsType, Handle, NodeId},
    ports::{
        Backend, Extents, Ids, Store,
        backend::{
            Abilities, Attached, Attachments, Check, Create, Cutting, Description, Effect, Extras, Fencing,
            Grow, Made, NodeFacts, Page, Snapshots, Which,
        },
    },
    testing::FakeClock,
};
use kato_store::MemoryStore;
use kato_tests::csi::CsiDoor;
use tokio::sync::watch;
use tonic::{Status, transport::Channel};

use crate::{backend::ground::load, host::ground::Ground};

pub(super) const MIB: i64 = 1 << 20;

/// What a house is to be.
pub(super) struct Plan<'g> {
    pub(super) ground: &'g Ground,
    pub(super) node: &'static str,
    pub(super) role: Role,
    /// Whether nodes have to be attached, and who is.
    pub(super) attached: Option<Reach>,
    /// What its backend calls it, if that is not its name.
    pub(super) called: Option<&'static str>,
    /// What its backend's slow work waits for.
    pub(super) gate: Gate,
    /// Whether its backend can do what every backend can, and nothing else.
    pub(super) bare: bool,
    pub(super) store: Arc<dyn Store>,
    pub(super) stage: bool,
}

/// Ids that no house of this process gave before: those of another life are others.
struct Fresh;

impl Ids for Fresh {
    fn next(&self) -> u128 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Which node each volume is attached to; the same for all houses of one ground.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach(Arc<Mutex<BTreeMap<Handle, String>>>, Arc<Mutex<Users>>);

/// Machines that use a volume, whatever anybody says of them.
#[derive(Debug, Default)]
pub(super) struct Users {
    /// Those that do.
    pub(super) active: BTreeSet<String>,
    /// Those that were cut off, in order.
    pub(super) fenced: Vec<String>,
    /// Whether the backend can cut any off; nothing where it knows no such thing.
    pub(super) fences: Option<Proof>,
}

/// How a backend cuts a machine off.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proof {
    /// It does, for sure.
    Sure,
    /// It cannot tell whether the machine still writes.
    Lacking,
}

impl Reach {
    /// Of a backend that cuts machines off.
    pub(super) fn fencing(proof: Proof) -> Self {
        let reach = Self::default();
        reach.users().fences = Some(proof);
        reach
    }

    pub(super) fn nodes(&self) -> Vec<String> {
        self.held().values().cloned().collect()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Handle, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn users(&self) -> MutexGuard<'_, Users> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What volumes are made behind, and marked as formatted; open unless somebody closes it.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<watch::Sender<bool>>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(true)))
    }
}

impl Gate {
    pub(super) fn set(&self, open: bool) {
        self.0.send_replace(open);
    }

    async fn pass(&self) {
        self.0.subscribe().wait_for(|open| *open).await.map(drop).unwrap();
    }
}

/// A daemon with its door.
pub(super) struct House {
    pub(super) hall: Arc<Orchestrator>,
    pub(super) door: CsiDoor,
    pub(super) clients: Clients,
}

/// Clients of its services, on one connection.
pub(super) struct Clients {
    pub(super) controller: ControllerClient<Channel>,
    pub(super) node: NodeClient<Channel>,
}

impl<'g> Plan<'g> {
    /// A daemon that does everything, on a host of its own.
    pub(super) fn all(ground: &'g Ground) -> Self {
        Self {
            ground,
            node: "here",
            role: Role::All,
            attached: None,
            called: None,
            gate: Gate::default(),
            bare: false,
            store: Arc::new(MemoryStore::new()),
            stage: true,
        }
    }

    pub(super) async fn open(self) -> House {
        let mut config = self.ground.config.clone();
        config.root = self.ground.path(self.node);
        let host = LinuxHost::open(config).await.unwrap();
        let ports = Ports {
            store: self.store,
            host: Arc::new(host),
            clock: Arc::new(FakeClock::default()),
            ids: Arc::new(Fresh),
            sharing: None,
        };
        let hall_config = Config {
            node: NodeId::parse(self.node).unwrap(),
            role: self.role,
            cluster: Some(ClusterId(7)),
            topology: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            idle_grace: Duration::from_secs(1),
            reap_after: Duration::from_secs(600),
            names: self
                .called
                .map(|name| (BackendName::parse("local").unwrap(), name.to_owned()))
                .into_iter()
                .collect(),
            freeze_limit: Duration::from_secs(10),
        };
        let inner = load(&self.ground.granted(), &[]).await;
        let backend = Arc::new(Around { inner, reach: self.attached, gate: self.gate, bare: self.bare });
        let hall = Orchestrator::open(ports, catalog(backend), hall_config).await.unwrap();
        let (role, stage) = (self.role, self.stage);
        let door = CsiDoor::open(Arc::clone(&hall), |config| {
            config.role = match role {
                Role::All => kato_csi::Role::All,
                Role::Controller => kato_csi::Role::Controller,
                Role::Node => kato_csi::Role::Node,
            };
            config.topology = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
            config.stage = stage;
        });
        let caller = door.caller().await;
        let clients = Clients { controller: caller.controller(), node: caller.node() };
        House { hall, door, clients }
    }
}

fn catalog(backend: Arc<dyn Backend>) -> Catalog {
    let name = BackendName::parse("local").unwrap();
    let class = |word: &str, fs, kind: &str, inline| {
        let name_of_class = ClassName::parse(word).unwrap();
        let parameters = match kind {
            "" => BTreeMap::new(),
            kind => BTreeMap::from([("kind".to_owned(), kind.to_owned())]),
        };
        let class = Class {
            name: name_of_class.clone(),
            backend: name.clone(),
            parameters,
            fs,
            mount_options: Vec::new(),
            default_size: Bytes(0),
            max_size: Some(Bytes(1 << 40)),
            root: DataRoot::default(),
            anonymous: false,
            retain: false,
            inline,
        };
        (name_of_class, Arc::new(class))
    };
    let default = ClassName::parse("default").unwrap();
    Catalog {
        classes: [
            class("default", FsType::Ext4, "image", false),
            class("xfs", FsType::Xfs, "image", false),
            class("folders", FsType::Ext4, "directory", false),
            class("pods", FsType::Ext4, "image", true),
        ]
        .into(),
        backends: [(name, backend)].into(),
        broken: BTreeMap::new(),
        default_class: Some(default),
        anonymous_class: None,
    }
}

/// The plugin's volumes, as another backend would have them: reached only by a node that is attached, made slowly, or with
/// nothing that could be done with them.
struct Around {
    inner: Arc<dyn Backend>,
    reach: Option<Reach>,
    gate: Gate,
    bare: bool,
}

impl Around {
    fn hide(&self, mut made: Made) -> Made {
        if let Some(reach) = &self.reach {
            made.connection = None;
            made.attached = Some(reach.held().get(&made.handle).cloned().into_iter().collect());
        }
        made
    }

    fn reach(&self) -> Result<&Reach, Error> {
        self.reach.as_ref().ok_or_else(|| Error::unsupported("every node reaches it"))
    }

    async fn look(&self, which: Which) -> Result<Option<Made>, Error> {
        Ok(self.inner.inspect(vec![which]).await?.into_iter().next().flatten())
    }
}

#[async_trait]
impl Backend for Around {
    fn describe(&self) -> Description {
        let mut description = self.inner.describe();
        let abilities = &mut description.abilities;
        if self.bare {
            *abilities = Abilities { node_bound: abilities.node_bound, ..Abilities::default() };
        }
        if self.reach.is_some() {
            abilities.attachments = true;
            abilities.fence = self.fencing().is_some();
            abilities.node_bound = false;
        }
        description
    }

    async fn check(&self) -> Result<Check, Error> {
        self.inner.check().await
    }

    async fn create(&self, wish: Create) -> Result<Effect<Made>, Error> {
        self.gate.pass().await;
        Ok(match self.inner.create(wish).await? {
            Effect::Done(made) => Effect::Done(self.hide(made)),
            Effect::Pending(pending) => Effect::Pending(pending),
        })
    }

    async fn delete(&self, which: Which, resume: Option<Vec<u8>>) -> Result<Effect<()>, Error> {
        if let Some(reach) = &self.reach
            && let Some(made) = self.look(which.clone()).await?
            && let Some(node) = reach.held().get(&made.handle)
        {
            return Err(Error::in_use(format!("it is attached to {node}")));
        }
        self.inner.delete(which, resume).await
    }

    async fn inspect(&self, which: Vec<Which>) -> Result<Vec<Option<Made>>, Error> {
        let found = self.inner.inspect(which).await?;
        Ok(found.into_iter().map(|made| made.map(|made| self.hide(made))).collect())
    }

    async fn list(&self, page: Option<String>) -> Result<Page<Made>, Error> {
        let Page { items, next } = self.inner.list(page).await?;
        Ok(Page { items: items.into_iter().map(|made| self.hide(made)).collect(), next })
    }

    async fn clone_how(&self, source: Which) -> Result<Cutting, Error> {
        self.inner.clone_how(source).await
    }

    async fn remark(&self, which: Which, mark: String) -> Result<(), Error> {
        self.gate.pass().await;
        self.inner.remark(which, mark).await
    }

    fn grow(&self) -> Option<&dyn Grow> {
        self.inner.grow().filter(|_| !self.bare)
    }

    fn attachments(&self) -> Option<&dyn Attachments> {
        self.reach.as_ref().map(|_| self as _)
    }

    fn fencing(&self) -> Option<&dyn Fencing> {
        self.reach.as_ref()?.users().fences.map(|_| self as _)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.inner.snapshots().filter(|_| !self.bare)
    }

    fn extents(&self) -> Option<&dyn Extents> {
        self.inner.extents().filter(|_| !self.bare)
    }

    fn extras(&self) -> Option<&dyn Extras> {
        self.inner.extras().filter(|_| !self.bare)
    }
}

#[async_trait]
impl Attachments for Around {
    async fn attach(
        &self,
        which: Which,
        node: NodeFacts,
        _: bool,
        _: Option<Vec<u8>>,
    ) -> Result<Effect<Attached>, Error> {
        let made = self.look(which).await?.ok_or_else(|| Error::not_found("there is no such volume"))?;
        let mut reach = self.reach()?.held();
        if let Some(other) = reach.get(&made.handle).filter(|other| **other != node.name) {
            return Err(Error::in_use(format!("it is attached to node {other}")));
        }
        reach.insert(made.handle, node.name);
        let connection = made.connection.ok_or_else(|| Error::internal("the plugin gave no connection"))?;
        Ok(Effect::Done(Attached { connection, client: None }))
    }

    async fn detach(&self, which: Which, node: NodeFacts, _: Option<Vec<u8>>) -> Result<Effect<()>, Error> {
        let reach = self.reach()?;
        if reach.users().active.contains(&node.name) {
            return Err(Error::in_use(format!("the machine {} has it in use", node.name)));
        }
        if let Some(made) = self.look(which).await? {
            let mut reach = reach.held();
            if reach.get(&made.handle) == Some(&node.name) {
                reach.remove(&made.handle);
            }
        }
        Ok(Effect::Done(()))
    }
}

#[async_trait]
impl Fencing for Around {
    async fn fence(
        &self,
        _: Which,
        node: NodeFacts,
        _: Vec<String>,
        _: Option<Vec<u8>>,
    ) -> Result<Effect<()>, Error> {
        let mut users = self.reach()?.users();
        match users.fences {
            Some(Proof::Sure) => {
                users.active.remove(&node.name);
                users.fenced.push(node.name);
                Ok(Effect::Done(()))
            }
            Some(Proof::Lacking) if !users.active.contains(&node.name) => Ok(Effect::Done(())),
            Some(Proof::Lacking) => Err(Error::precondition("the machine may still run")),
            None => Err(Error::unsupported("it cannot fence")),
        }
    }
}

/// How a volume is wanted: with a filesystem, and in this mode.
pub(super) fn mounted(fs: &str, mode: Mode) -> VolumeCapability {
    let mount = MountVolume { fs_type: fs.into(), ..MountVolume::default() };
    capability(AccessType::Mount(mount), mode)
}

/// The same as a device.
pub(super) fn device(mode: Mode) -> VolumeCapability {
    capability(AccessType::Block(BlockVolume {}), mode)
}

fn capability(access: AccessType, mode: Mode) -> VolumeCapability {
    VolumeCapability { access_type: Some(access), access_mode: Some(AccessMode { mode: mode.into() }) }
}

/// What Kubernetes asks for a ReadWriteOnce claim.
pub(super) fn usual() -> VolumeCapability {
    mounted("ext4", Mode::SingleNodeMultiWriter)
}

/// A wish for so many mebibytes.
pub(super) fn wish(name: &str, mib: i64) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(CapacityRange { required_bytes: mib * MIB, limit_bytes: 0 }),
        volume_capabilities: vec![usual()],
        ..CreateVolumeRequest::default()
    }
}

impl House {
    pub(super) async fn create(&self, wish: CreateVolumeRequest) -> Result<Volume, Status> {
        let answer = self.clients.controller.clone().create_volume(wish).await?;
        Ok(answer.into_inner().volume.unwrap())
    }

    pub(super) async fn delete(&self, id: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest { volume_id: id.into(), ..DeleteVolumeRequest::default() };
        self.clients.controller.clone().delete_volume(request).await.map(drop)
    }

    pub(super) async fn stage(
        &self,
        volume: &Volume,
        path: &Path,
        capability: &VolumeCapability,
        publish_context: &BTreeMap<String, String>,
    ) -> Result<(), Status> {
        let request = NodeStageVolumeRequest {
            volume_id: volume.volume_id.clone(),
            publish_context: publish_context.clone(),
            staging_target_path: path.display().to_string(),
            volume_capability: Some(capability.clone()),
            volume_context: volume.volume_context.clone(),
            ..NodeStageVolumeRequest::default()
        };
        self.clients.node.clone().node_stage_volume(request).await.map(drop)
    }

    pub(super) async fn publish(
        &self,
        volume: &Volume,
        staged: &Path,
        target: &Path,
        capability: &VolumeCapability,
    ) -> Result<(), Status> {
        let request = publication(volume, staged, target, capability);
        self.clients.node.clone().node_publish_volume(request).await.map(drop)
    }

    pub(super) async fn unpublish(&self, id: &str, target: &Path) -> Result<(), Status> {
        let request =
            NodeUnpublishVolumeRequest { volume_id: id.into(), target_path: target.display().to_string() };
        self.clients.node.clone().node_unpublish_volume(request).await.map(drop)
    }

    pub(super) async fn unstage(&self, id: &str, path: &Path) -> Result<(), Status> {
        let request = NodeUnstageVolumeRequest {
            volume_id: id.into(),
            staging_target_path: path.display().to_string(),
        };
        self.clients.node.clone().node_unstage_volume(request).await.map(drop)
    }

    pub(super) async fn close(self) {
        self.door.close().await;
        self.hall.stop(Duration::from_secs(1)).await;
    }
}

/// Whether the kernel grows a mounted ext4 for us: it wants CAP_SYS_RESOURCE, which not every machine has to give.
pub(super) fn grows_mounted_ext4() -> bool {
    const SYS_RESOURCE: u64 = 1 << 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    u64::from_str_radix(mask, 16).unwrap() & SYS_RESOURCE != 0
}

/// The request of a publication.
pub(super) fn publication(
    volume: &Volume,
    staged: &Path,
    target: &Path,
    capability: &VolumeCapability,
) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: volume.volume_id.clone(),
        staging_target_path: staged.display().to_string(),
        target_path: target.display().to_string(),
        volume_capability: Some(capability.clone()),
        volume_context: volume.volume_context.clone(),
        ..NodePublishVolumeRequest::default()
    }
}
