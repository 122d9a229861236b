//! What the backend suite stands on: each subject is a backend in a world of its own, and a way to write and
//! read the bytes of its volumes as a node would. The `local` plugin runs as the component that the daemon
//! carries, on this machine's disk and on a filesystem with reflinks and project quotas in a loop device; `rbd` in a
//! cluster, `ebs` in the kit's model of Amazon's house and `packet` in that of Packet's; anybody else's comes with `cargo xtask conform` (`xtask/src/conform.rs`).

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use kato_orchestrator::{
    model::{BackendName, Bytes, Connection},
    ports::{
        Backend,
        backend::{Effect, Made, NodeFacts, Verb, Which},
    },
    testing::{self, BackendWorld, FakeBackend, Fuse},
};
use kato_plugin_host::{
    Addresses, Authoriser, AwsEndpoints, AwsGrant, BackendSpec, CephGrant, Config, ConnectionGrants, Grants,
    HttpGrant, IscsiGrant, Limits, PluginHost, SecretSource, embedded, inspect,
};
use kato_tests::{
    apart::{Apart, mounting},
    aws::{Aws, Fault, Instance, REGION, Site},
    ceph::Cluster,
    packet::{self, Device, Packet},
    tgt::LUN,
};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::{runtime::Handle, task::block_in_place};

use crate::packet::client::Initiator;

/// A backend to try.
pub(crate) struct Subject {
    pub(super) backend: Arc<dyn Backend>,
    /// How large volumes are asked for; zero for those that have no size.
    pub(super) size: Bytes,
    /// What is asked of them besides.
    pub(super) parameters: BTreeMap<String, String>,
    world: World,
}

/// Where the bytes are.
enum World {
    Memory(Arc<Mutex<BackendWorld>>),
    Folder(Folder),
    /// A namespace of a pool.
    Ceph(Arc<Cluster<'static>>, String),
    /// An account, and the instance that volumes are written and read on.
    Ebs(Box<Aws>, Instance),
    /// A project, and the device that volumes are written on.
    Packet(Box<Packet<'static>>, Device),
    /// Somebody else's, of which nothing is known but what it answers.
    Theirs {
        _temp: TempDir,
    },
}

/// What `cargo xtask conform` is told about a component.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct With {
    /// How large its volumes are to be, in bytes.
    size: u64,
    parameters: BTreeMap<String, String>,
    configuration: BTreeMap<String, String>,
    grants: Option<Grants>,
}

impl Default for With {
    fn default() -> Self {
        let (parameters, configuration) = (BTreeMap::new(), BTreeMap::new());
        Self { size: 8 << 20, parameters, configuration, grants: None }
    }
}

/// A folder of one test's own.
pub(super) struct Folder {
    /// What is granted to the plugin.
    pub(super) data: PathBuf,
    /// Unmounted before the folder that holds it goes.
    _disk: Option<Disk>,
    temp: TempDir,
}

impl Subject {
    pub(super) fn fake() -> Self {
        let world = Arc::new(Mutex::new(BackendWorld::default()));
        let backend = FakeBackend::new(world.clone(), Arc::new(Fuse::default()), false, Duration::ZERO);
        let size = Bytes(8 << 20);
        Self { backend: Arc::new(backend), size, parameters: BTreeMap::new(), world: World::Memory(world) }
    }

    pub(super) fn fake_polled() -> Self {
        let world = Arc::new(Mutex::new(BackendWorld::default()));
        let backend = FakeBackend::new(world.clone(), Arc::new(Fuse::default()), false, Duration::ZERO);
        let size = Bytes(8 << 20);
        let backend = Arc::new(backend.polled());
        Self { backend, size, parameters: BTreeMap::new(), world: World::Memory(world) }
    }

    /// Lets the next call of an effect take so many calls more.
    pub(super) fn hold_up(&self, verb: Verb, calls: u32) {
        match (&self.world, verb) {
            (World::Memory(world), Verb::Create) => {
                world.lock().unwrap().fault(testing::Verb::Create, testing::Fault::Pending(calls));
            }
            // It takes a while in any case, and a longer one until it is to be seen.
            (World::Ebs(aws, _), Verb::Create) => {
                aws.fault("CreateVolume", 1, Fault::NotFoundFor(Duration::from_secs(2)));
            }
            (World::Packet(packet, _), Verb::Create) => {
                let longer = packet::Fault::TakesAtLeast(Duration::from_secs(2));
                packet.fault(packet::Action::CreateVolume, 1, longer);
            }
            _ => panic!("nothing holds {verb:?} up here"),
        }
    }

    /// The component that `cargo xtask conform` was given; ours, where nobody was.
    pub(super) async fn theirs() -> Self {
        let component = match env::var_os("KATO_CONFORM_COMPONENT") {
            Some(path) => fs::read(path).unwrap(),
            None => embedded::component("local").unwrap().to_vec(),
        };
        let with = env::var_os("KATO_CONFORM_WITH").map(|path| fs::read_to_string(path).unwrap());
        let with: With = toml::from_str(&with.unwrap_or_default()).unwrap();
        let connections = ConnectionGrants { directory: true, file: true, ..ConnectionGrants::default() };
        let mut grants = with.grants.unwrap_or_else(|| Grants { connections, ..Grants::default() });
        let temp = tempfile::Builder::new().prefix("kato-backend-").tempdir().unwrap();
        for name in inspect(&component).unwrap().asks().directories {
            let folder = temp.path().join(&name);
            fs::create_dir(&folder).unwrap();
            grants.directories.entry(name).or_insert(folder);
        }
        let backend = start(BackendSpec {
            name: BackendName::parse("theirs").unwrap(),
            component: component.into(),
            configuration: with.configuration,
            grants,
            limits: Limits::default(),
        })
        .await;
        backend.check().await.unwrap();
        let world = World::Theirs { _temp: temp };
        Self { backend, size: Bytes(with.size), parameters: with.parameters, world }
    }

    pub(super) async fn directories() -> Self {
        Self::local(Folder::on_this_disk(), Bytes(0), &[]).await
    }

    pub(super) async fn images() -> Self {
        Self::local(Folder::on_this_disk(), Bytes(8 << 20), &[]).await
    }

    pub(super) async fn thin_images() -> Self {
        Self::local(Folder::on_this_disk(), Bytes(8 << 20), &[("thin", "true")]).await
    }

    pub(super) async fn images_on_xfs() -> Self {
        // Small ones: a hundred of them have to fit.
        Self::local(Folder::on_xfs(), Bytes(1 << 20), &[]).await
    }

    pub(super) async fn images_on_btrfs() -> Self {
        Self::local(Folder::on("btrfs", &[], ""), Bytes(1 << 20), &[("thin", "true")]).await
    }

    pub(super) async fn directories_on_btrfs() -> Self {
        Self::local(Folder::on("btrfs", &[], ""), Bytes(0), &[]).await
    }

    pub(super) async fn local(folder: Folder, size: Bytes, parameters: &[(&str, &str)]) -> Self {
        Self::within(folder, size, parameters, Limits::default()).await
    }

    /// The `local` plugin, held to other limits.
    pub(super) async fn within(
        folder: Folder,
        size: Bytes,
        parameters: &[(&str, &str)],
        limits: Limits,
    ) -> Self {
        let backend = load_within(&folder.data, &[], limits).await;
        backend.check().await.unwrap();
        let parameters = parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Self { backend, size, parameters, world: World::Folder(folder) }
    }

    /// The `rbd` plugin, in a namespace of its own.
    pub(crate) async fn images_in_ceph(cluster: &Arc<Cluster<'static>>, namespace: &str) -> Self {
        cluster.create_namespace(namespace);
        let ceph = CephGrant {
            user: cluster.user().to_owned(),
            keyring: cluster.keyring().to_owned(),
            conf: cluster.conf().to_owned(),
            pool: cluster.pool().to_owned(),
            namespace: namespace.to_owned(),
            data_pools: Vec::new(),
            uid: 65534,
            gid: 65534,
            programs: "/usr/bin".into(),
        };
        let backend = start(BackendSpec {
            name: BackendName::parse("ceph").unwrap(),
            component: embedded::component("rbd").unwrap().into(),
            configuration: BTreeMap::new(),
            grants: Grants { ceph: Some(ceph), ..Grants::default() },
            limits: Limits::default(),
        })
        .await;
        backend.check().await.unwrap();
        let world = World::Ceph(Arc::clone(cluster), namespace.to_owned());
        Self { backend, size: Bytes(8 << 20), parameters: BTreeMap::new(), world }
    }

    /// The `ebs` plugin, in an account of its own.
    pub(crate) async fn volumes_of_ebs() -> Self {
        static HOST: OnceLock<Arc<PluginHost>> = OnceLock::new();
        let aws = Aws::start_with(Site { pace: 0.002, ..Site::default() });
        let instance = aws.add_instance("eu-central-1a", "m5.large");
        let keys = aws.credentials();
        let environment = move |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some(keys.access_key_id.clone()),
            "AWS_SECRET_ACCESS_KEY" => Some(keys.secret_access_key.clone()),
            _ => None,
        };
        let endpoint = Some(aws.endpoint());
        let grant = AwsGrant {
            region: REGION.to_owned(),
            profile: None,
            endpoints: AwsEndpoints { ec2: endpoint.clone(), ebs: endpoint },
            actions: Vec::new(),
            addresses: Addresses::Many(vec!["loopback".to_owned()]),
            proxy: None,
            ca: None,
        };
        let connections = ConnectionGrants { device: vec!["ebs".to_owned()], ..ConnectionGrants::default() };
        let spec = BackendSpec {
            name: BackendName::parse("ebs").unwrap(),
            component: embedded::component("ebs").unwrap().into(),
            configuration: BTreeMap::from([("zone".to_owned(), instance.zone().to_owned())]),
            grants: Grants { aws: Some(grant), connections, ..Grants::default() },
            limits: Limits::default(),
        };
        let config = Config { environment: Arc::new(environment), ..Config::default() };
        // Everybody's credentials are the same ones.
        let host = HOST.get_or_init(|| PluginHost::new(config).unwrap());
        let backend = host.load(spec).await.unwrap();
        backend.check().await.unwrap();
        let world = World::Ebs(Box::new(aws), instance);
        Self { backend, size: Bytes::GIB, parameters: BTreeMap::new(), world }
    }

    /// Attaches a volume to an instance, does something with its device, and detaches it.
    fn on_device<T>(&self, made: &Made, instance: &Instance, act: impl FnOnce(&Path) -> T) -> T {
        self.attached(made, instance.id(), |_| act(&instance.wait_for(made.handle.as_str())))
    }

    /// Attaches a volume to a node, does something with it, and detaches it.
    fn attached<T>(&self, made: &Made, node: &str, act: impl FnOnce(&Connection) -> T) -> T {
        let which = Which { token: made.token.clone().unwrap(), handle: Some(made.handle.clone()) };
        let node = NodeFacts { name: node.to_owned(), ..NodeFacts::default() };
        let attachments = self.backend.attachments().unwrap();
        let pause = || tokio::time::sleep(Duration::from_millis(5));
        block_in_place(|| {
            let attached = Handle::current().block_on(async {
                let mut resume = None;
                loop {
                    match attachments.attach(which.clone(), node.clone(), false, resume).await.unwrap() {
                        Effect::Done(attached) => return attached,
                        Effect::Pending(pending) => resume = Some(pending.resume),
                    }
                    pause().await;
                }
            });
            let done = act(&attached.connection);
            Handle::current().block_on(async {
                let mut resume = None;
                while let Effect::Pending(pending) =
                    attachments.detach(which.clone(), node.clone(), resume).await.unwrap()
                {
                    pause().await;
                    resume = Some(pending.resume);
                }
            });
            done
        })
    }

    /// The `packet` plugin, in a project of its own.
    pub(crate) async fn volumes_of_packet() -> Self {
        static HOST: OnceLock<Arc<PluginHost>> = OnceLock::new();
        let site = packet::Site {
            pace: 0.002,
            page: 10,
            attach_lag: Duration::ZERO,
            // Whoever deletes while it lasts is told to come again, which is the hall's to do.
            detach_lag: Duration::ZERO,
            ..packet::Site::default()
        };
        let packet = Packet::start_with(site);
        let device = packet.add_device("tst1", "node-a");
        let token = packet.token();
        let environment = move |name: &str| (name == "PACKET_TOKEN").then(|| token.clone());
        let grant = HttpGrant {
            url: packet.endpoint(),
            methods: Vec::new(),
            paths: Vec::new(),
            addresses: Addresses::Many(vec!["loopback".to_owned()]),
            authoriser: Some(Authoriser::Header {
                name: "X-Auth-Token".to_owned(),
                secret: SecretSource::Env("PACKET_TOKEN".to_owned()),
            }),
            proxy: None,
            ca: None,
        };
        let iscsi = IscsiGrant {
            portals: packet.target().portals().to_vec(),
            iqn_prefix: packet::IQN_PREFIX.to_owned(),
            chap: None,
        };
        let connections = ConnectionGrants { iscsi: Some(iscsi), ..ConnectionGrants::default() };
        let words = [
            ("base-url", packet.endpoint()),
            ("project", packet.project()),
            ("facility", device.facility().to_owned()),
            ("min-size", "1GiB".to_owned()),
            ("default-size", "1GiB".to_owned()),
            ("lun", LUN.to_string()),
        ];
        let spec = BackendSpec {
            name: BackendName::parse("packet").unwrap(),
            component: embedded::component("packet").unwrap().into(),
            configuration: words.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            grants: Grants { http: vec![grant], connections, ..Grants::default() },
            limits: Limits::default(),
        };
        let config = Config { environment: Arc::new(environment), ..Config::default() };
        // Everybody's token is the same one.
        let host = HOST.get_or_init(|| PluginHost::new(config).unwrap());
        let backend = host.load(spec).await.unwrap();
        backend.check().await.unwrap();
        let world = World::Packet(Box::new(packet), device);
        Self { backend, size: Bytes::GIB, parameters: BTreeMap::new(), world }
    }

    /// Writes as a node does that logs in, by the way that the plugin tells.
    fn write_at_packets(&self, made: &Made, packet: &Packet<'_>, device: &Device, bytes: &[u8]) {
        self.attached(made, device.id(), |connection| {
            let Connection::Iscsi { portals, iqn, initiator, .. } = connection else {
                panic!("nothing logs in to {connection:?}")
            };
            let row = tempfile::NamedTempFile::new().unwrap();
            fs::write(row.path(), [bytes, &vec![0; 512 - bytes.len()]].concat()).unwrap();
            device.wait_for(made.handle.as_str());
            let initiator = Initiator::named(initiator.as_deref().unwrap());
            let write = format!("write -s {} 0 512", row.path().display());
            initiator.on(&portals[0], iqn, &[&write, "flush"]).unwrap();
        });
        assert_eq!(packet.target().sessions(), []);
    }

    /// What is made where something of this name was deleted. EC2 lets a token make one volume for good, and it takes the
    /// plugin a minute to be sure of it, so the token is another one there, as it is for whoever asks the hall.
    pub(super) fn free_again(&self, name: &'static str) -> &'static str {
        if matches!(self.world, World::Ebs(..)) { "free again" } else { name }
    }

    /// So many that a list has several pages.
    pub(super) fn many(&self) -> usize {
        match &self.world {
            World::Ebs(..) => 510,
            // The API's own pages are smaller here.
            World::Packet(..) => 30,
            World::Ceph(..) => 34,
            World::Memory(_) | World::Folder(_) | World::Theirs { .. } => 110,
        }
    }

    pub(super) fn folder(&self) -> &Folder {
        match &self.world {
            World::Folder(folder) => folder,
            World::Memory(_)
            | World::Ceph(..)
            | World::Ebs(..)
            | World::Packet(..)
            | World::Theirs { .. } => {
                panic!("this backend has no folder of ours")
            }
        }
    }

    /// Writes as the volume's owner would.
    pub(super) fn write(&self, made: &Made, bytes: &[u8]) {
        if let World::Ceph(cluster, namespace) = &self.world {
            let padded = [bytes, &vec![0; 100 - bytes.len()]].concat();
            let hex: String = padded.iter().map(|byte| format!("{byte:02x}")).collect();
            cluster.touch(
                namespace,
                image(made),
                &format!("image.write(bytes.fromhex('{hex}'), 0); image.flush()"),
            );
            return;
        }
        if let World::Ebs(_, instance) = &self.world {
            return self.on_device(made, instance, |device| write_at_start(device, bytes));
        }
        if let World::Packet(packet, device) = &self.world {
            return self.write_at_packets(made, packet, device, bytes);
        }
        match (&self.world, made.connection.as_ref().unwrap()) {
            (World::Memory(world), _) => {
                *world.lock().unwrap().bytes(made.handle.as_str()).unwrap() = bytes.to_vec();
            }
            (_, Connection::Directory { root, path }) => {
                fs::write(Path::new(root).join(path).join("file"), bytes).unwrap();
            }
            (_, Connection::File { root, path }) => {
                let image = Path::new(root).join(path);
                write_at_start(&image, bytes);
                assert!(image.metadata().unwrap().len() >= made.size.0);
            }
            (_, other) => panic!("nothing writes to {other:?}"),
        }
    }

    /// What was written last.
    pub(super) fn read(&self, made: &Made) -> Vec<u8> {
        if let World::Ceph(cluster, namespace) = &self.world {
            let hex = cluster.touch(namespace, image(made), "print(image.read(0, 100).rstrip(b'\\0').hex())");
            let digits: Vec<char> = hex.trim().chars().collect();
            return digits
                .chunks(2)
                .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
                .collect();
        }
        if let World::Ebs(_, instance) = &self.world {
            return self.on_device(made, instance, read_at_start);
        }
        if let World::Packet(packet, _) = &self.world {
            return trimmed(packet.read(made.handle.as_str(), 0, 100));
        }
        match (&self.world, made.connection.as_ref().unwrap()) {
            (World::Memory(world), _) => world.lock().unwrap().bytes(made.handle.as_str()).unwrap().clone(),
            (_, Connection::Directory { root, path }) => {
                let tree = Path::new(root).join(path);
                assert!(tree.is_dir());
                fs::read(tree.join("file")).unwrap_or_default()
            }
            (_, Connection::File { root, path }) => read_at_start(&Path::new(root).join(path)),
            (_, other) => panic!("nothing reads from {other:?}"),
        }
    }

    /// What is left when everything was deleted: nothing, of which also no hidden part may remain.
    pub(super) fn left(&self) -> Vec<String> {
        match &self.world {
            World::Ceph(cluster, namespace) => cluster.left_in(namespace),
            World::Ebs(aws, _) => {
                let volumes = aws.volumes().into_iter().filter(|volume| volume.state != "deleting");
                let snapshots = aws.snapshots().into_iter().map(|shot| shot.id);
                volumes.map(|volume| volume.id).chain(snapshots).collect()
            }
            World::Packet(packet, _) => {
                let volumes = packet.volumes().into_iter().map(|volume| volume.id);
                volumes.chain(packet.snapshots().into_iter().map(|(id, _)| id)).collect()
            }
            World::Theirs { .. } => block_in_place(|| Handle::current().block_on(self.handles())),
            World::Memory(world) => {
                world.lock().unwrap().tokens().into_iter().map(|token| token.to_string()).collect()
            }
            World::Folder(folder) => ["volumes", "snapshots", "coming", ".kato-copies"]
                .into_iter()
                .flat_map(|shelf| fs::read_dir(folder.data.join(shelf)).into_iter().flatten())
                .map(|entry| entry.unwrap().path().display().to_string())
                .collect(),
        }
    }

    /// The handles of all that the backend says it has.
    async fn handles(&self) -> Vec<String> {
        let (mut handles, mut page) = (Vec::new(), None);
        loop {
            let found = self.backend.list(page).await.unwrap();
            handles.extend(found.items.iter().map(|made| made.handle.to_string()));
            page = found.next;
            if page.is_none() {
                break;
            }
        }
        while let Some(snapshots) = self.backend.snapshots() {
            let found = snapshots.list_snapshots(page).await.unwrap();
            handles.extend(found.items.iter().map(|shot| shot.handle.to_string()));
            page = found.next;
            if page.is_none() {
                break;
            }
        }
        handles
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left().is_empty()
    }
}

/// Writes where a volume begins, with a hundred zeroes after it.
fn write_at_start(volume: &Path, bytes: &[u8]) {
    let file = File::options().write(true).open(volume).unwrap();
    file.write_all_at(&[bytes, &[0; 100]].concat(), 0).unwrap();
    file.sync_all().unwrap();
}

/// What was written there.
fn read_at_start(volume: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 100];
    File::open(volume).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    trimmed(bytes)
}

/// Without the zeroes at the end.
fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end);
    bytes
}

/// The image that a volume is.
fn image(made: &Made) -> &str {
    made.token.as_ref().unwrap().as_str()
}

/// The `local` plugin over this folder.
pub(crate) async fn load(data: &Path, configuration: &[(&str, &str)]) -> Arc<dyn Backend> {
    load_within(data, configuration, Limits::default()).await
}

async fn load_within(data: &Path, configuration: &[(&str, &str)], limits: Limits) -> Arc<dyn Backend> {
    let connections = ConnectionGrants { directory: true, file: true, ..ConnectionGrants::default() };
    let directories = BTreeMap::from([("data".to_owned(), data.to_owned())]);
    let configuration = configuration.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let spec = BackendSpec {
        name: BackendName::parse("local").unwrap(),
        component: embedded::component("local").unwrap().into(),
        configuration,
        grants: Grants { directories, connections, ..Grants::default() },
        limits,
    };
    start(spec).await
}

async fn start(spec: BackendSpec) -> Arc<dyn Backend> {
    static HOST: OnceLock<Arc<PluginHost>> = OnceLock::new();
    HOST.get_or_init(|| PluginHost::new(Config::default()).unwrap()).load(spec).await.unwrap()
}

impl Folder {
    pub(super) fn on_this_disk() -> Self {
        let temp = tempfile::Builder::new().prefix("kato-backend-").tempdir().unwrap();
        let data = temp.path().join("data");
        fs::create_dir(&data).unwrap();
        Self { data, _disk: None, temp }
    }

    pub(super) fn on_xfs() -> Self {
        Self::on("xfs", &["-m", "reflink=1"], "")
    }

    /// On a new filesystem of this kind.
    pub(super) fn on(kind: &str, make: &[&str], options: &str) -> Self {
        Self::try_on(kind, make, options).unwrap_or_else(|| {
            panic!("no {kind} could be mounted: this suite needs root, loop devices and mkfs.{kind}")
        })
    }

    /// The folder as a power cut at this moment would leave it: what its filesystem has sent to its disk and no more,
    /// mounted anew. For folders that were made with [`Folder::on`].
    pub(super) fn after_a_power_cut(&self, kind: &str) -> Self {
        let temp = tempfile::Builder::new().prefix("kato-backend-").tempdir().unwrap();
        let (data, image) = (temp.path().join("data"), temp.path().join("disk"));
        fs::create_dir(&data).unwrap();
        assert!(run("cp", &["--sparse=always"], &[&self.temp.path().join("disk"), &image]));
        let options = if kind == "xfs" { "loop,nouuid" } else { "loop" };
        assert!(run("mount", &["-t", kind, "-o", options], &[&image, &data]));
        Self { _disk: Some(Disk { at: data.clone(), _apart: mounting() }), data, temp }
    }

    /// Lets nobody write to its filesystem until the answer is dropped, as a disk that stalls. For folders that were
    /// made with [`Folder::on`].
    pub(super) fn stall(&self) -> Stalled<'_> {
        assert!(run("fsfreeze", &["--freeze"], &[&self.data]));
        Stalled(self)
    }

    /// Where directories can be limited: not every kernel was built for that.
    pub(super) fn with_quotas() -> Option<Self> {
        let ext4 = ["-O", "project,quota", "-E", "quotatype=prjquota"];
        Self::try_on("ext4", &ext4, ",prjquota").or_else(|| Self::try_on("xfs", &[], ",prjquota"))
    }

    fn try_on(kind: &str, make: &[&str], options: &str) -> Option<Self> {
        let apart = mounting();
        let temp = tempfile::Builder::new().prefix("kato-backend-").tempdir().unwrap();
        let (data, image) = (temp.path().join("data"), temp.path().join("disk"));
        fs::create_dir(&data).unwrap();
        File::create(&image).unwrap().set_len(1 << 30).unwrap();
        let made = run("mkfs", &[&["-t", kind, "-q"], make].concat(), &[&image])
            && run("mount", &["-t", kind, "-o", &format!("loop{options}")], &[&image, &data]);
        made.then(|| Self { _disk: Some(Disk { at: data.clone(), _apart: apart }), data, temp })
    }
}

/// A folder whose filesystem stalls.
pub(super) struct Stalled<'a>(&'a Folder);

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        assert!(run("fsfreeze", &["--unfreeze"], &[&self.0.data]));
    }
}

/// A filesystem in a file, mounted through a loop device.
struct Disk {
    at: PathBuf,
    _apart: Apart,
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A thread of the plugin host may still be at work in it for a moment.
        let gone = (0..50).any(|_| {
            let gone = run("umount", &[], &[&self.at]);
            if !gone {
                std::thread::sleep(Duration::from_millis(100));
            }
            gone
        });
        // A failed test has more to say, and leaves nothing behind either.
        if !gone {
            run("umount", &["--lazy"], &[&self.at]);
        }
        assert!(gone || std::thread::panicking(), "{} could not be unmounted", self.at.display());
    }
}

#[expect(clippy::disallowed_methods, reason = "the suite brings its own disks")]
fn run(program: &str, words: &[&str], paths: &[&Path]) -> bool {
    let Ok(output) = Command::new(program).args(words).args(paths).output() else { return false };
    std::io::stderr().write_all(&output.stderr).unwrap();
    output.status.success()
}
