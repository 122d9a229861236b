//! The real binary under CSI load, killed at random moments. Callers do what kubelet and the sidecars do: a connection for
//! each call, the same call again until it is answered, ids and paths alone where they take back. Whatever was acknowledged
//! is checked while it goes on and at the end; then everything is taken back, and nothing may be left.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kato_csi::protocol::{
    CapacityRange, ControllerExpandVolumeRequest, CreateSnapshotRequest, CreateVolumeRequest,
    DeleteSnapshotRequest, DeleteVolumeRequest, NodeExpandVolumeRequest, NodeStageVolumeRequest,
    NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, Volume, VolumeContentSource, volume_content_source,
};
use kato_tests::{csi::Caller, daemon::Daemon, machine::Machine};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

use super::ground::{MIB, grows_mounted_ext4, publication, usual, wish};
use crate::crash::kills::{Chance, kills, nothing_is_left};

/// How many callers there are.
const CALLERS: u64 = 4;

/// How many mebibytes a volume has at first, and at most.
const SIZE: i64 = 32;
const MOST: i64 = 64;

#[test]
fn kills_under_csi_load_lose_and_leak_nothing() {
    let machine = Machine::start();
    let mut daemon = Daemon::start_with(&machine, "[csi]\nenabled = true\n");
    let runtime = Runtime::new().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let mut chance = Chance(7);
    let pods: Vec<_> = (0..CALLERS)
        .map(|number| {
            let pod = Pod {
                socket: machine.path("/run/kato/csi.sock"),
                root: machine.path("/"),
                folder: machine.folder().join(format!("pods-{number}")),
                name: format!("pvc-{number}"),
                lives: 0,
                chance: Chance(100 + number),
                volume: None,
                size: SIZE,
                staged: false,
                targets: Vec::new(),
                lines: Vec::new(),
            };
            fs::create_dir_all(&pod.folder).unwrap();
            let over = Arc::clone(&over);
            runtime.spawn(pod.work(over))
        })
        .collect();
    for _ in 0..kills() {
        std::thread::sleep(Duration::from_millis(20 + chance.below(400)));
        daemon.kill();
        daemon.start_again();
    }
    over.store(true, Ordering::SeqCst);
    for pod in pods {
        runtime.block_on(async { pod.await.unwrap().end().await });
    }
    nothing_is_left(&machine, &daemon);
}

/// A pod with one volume.
struct Pod {
    socket: PathBuf,
    /// The machine's files, seen from outside.
    root: PathBuf,
    folder: PathBuf,
    name: String,
    /// How many volumes there were.
    lives: u64,
    chance: Chance,
    volume: Option<Volume>,
    size: i64,
    staged: bool,
    targets: Vec<PathBuf>,
    lines: Vec<String>,
}

/// Calls until it is answered: what was cut off is called again, and so is what is not known yet.
macro_rules! until_answered {
    ($pod:expr, $service:ident.$method:ident($request:expr)) => {{
        let request = $request;
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(tries < 600, "{} was not answered", stringify!($method));
            if let Ok(caller) = Caller::reach(&$pod.socket).await {
                match caller.$service().$method(request.clone()).await {
                    Ok(answer) => break answer.into_inner(),
                    Err(status) if is_open(&status) => {}
                    Err(status) => panic!("{} {request:?}: {status:?}", stringify!($method)),
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }};
}

/// Whether the same call is to be made again: a driver may say so, and a broken connection says nothing else. What broke off
/// was told by nobody: its status has a cause on this side of the wire, which one that was sent never has. A driver that
/// says UNKNOWN is taken at its word.
fn is_open(status: &Status) -> bool {
    let broke_off = std::error::Error::source(status).is_some();
    broke_off
        || matches!(
            status.code(),
            Code::Aborted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
        )
}

impl Pod {
    async fn work(mut self, over: Arc<AtomicBool>) -> Self {
        while !over.load(Ordering::SeqCst) {
            match (&self.volume, self.targets.len(), self.chance.below(8)) {
                (None, ..) => self.create().await,
                (Some(_), 0, 0) => self.delete().await,
                (Some(_), 0, _) | (Some(_), 1, 1) => self.publish().await,
                (Some(_), _, 0) => self.unpublish().await,
                (Some(_), _, 2) if self.size < MOST => self.grow().await,
                (Some(_), _, 3) => self.restore().await,
                (Some(_), ..) => self.write(),
            }
        }
        self
    }

    fn id(&self) -> String {
        self.volume.as_ref().unwrap().volume_id.clone()
    }

    fn staging(&self) -> PathBuf {
        self.folder.join("staged")
    }

    async fn make(&self, request: CreateVolumeRequest) -> Volume {
        until_answered!(self, controller.create_volume(request)).volume.unwrap()
    }

    async fn create(&mut self) {
        self.lives += 1;
        self.size = SIZE;
        self.volume = Some(self.make(wish(&format!("{}-{}", self.name, self.lives), SIZE)).await);
    }

    async fn stage(&self, volume: &Volume, path: &Path) {
        fs::create_dir_all(path).unwrap();
        let request = NodeStageVolumeRequest {
            volume_id: volume.volume_id.clone(),
            staging_target_path: path.display().to_string(),
            volume_capability: Some(usual()),
            volume_context: volume.volume_context.clone(),
            publish_context: BTreeMap::new(),
            ..NodeStageVolumeRequest::default()
        };
        until_answered!(self, node.node_stage_volume(request));
    }

    async fn publish(&mut self) {
        let volume = self.volume.clone().unwrap();
        if !self.staged {
            self.stage(&volume, &self.staging()).await;
            self.staged = true;
        }
        let target = self.folder.join(format!("target-{}", self.chance.below(1 << 30)));
        let request = publication(&volume, &self.staging(), &target, &usual());
        until_answered!(self, node.node_publish_volume(request));
        self.check(&target);
        self.targets.push(target);
    }

    async fn unpublish(&mut self) {
        let target = self.targets.pop().unwrap();
        self.take(&self.id(), &target).await;
        if self.targets.is_empty() {
            self.unstage(&self.id(), &self.staging()).await;
            self.staged = false;
        }
    }

    async fn take(&self, id: &str, target: &Path) {
        let request =
            NodeUnpublishVolumeRequest { volume_id: id.into(), target_path: target.display().to_string() };
        until_answered!(self, node.node_unpublish_volume(request));
        assert!(!self.seen(target).exists(), "{} is still there", target.display());
    }

    async fn unstage(&self, id: &str, path: &Path) {
        let request = NodeUnstageVolumeRequest {
            volume_id: id.into(),
            staging_target_path: path.display().to_string(),
        };
        until_answered!(self, node.node_unstage_volume(request));
    }

    async fn remove(&self, id: &str) {
        let request = DeleteVolumeRequest { volume_id: id.into(), ..DeleteVolumeRequest::default() };
        until_answered!(self, controller.delete_volume(request));
    }

    async fn delete(&mut self) {
        self.remove(&self.id()).await;
        self.volume = None;
        self.lines.clear();
    }

    async fn grow(&mut self) {
        self.size += 8;
        let range = Some(CapacityRange { required_bytes: self.size * MIB, limit_bytes: 0 });
        let request = ControllerExpandVolumeRequest {
            volume_id: self.id(),
            capacity_range: range,
            ..ControllerExpandVolumeRequest::default()
        };
        let grown = until_answered!(self, controller.controller_expand_volume(request));
        assert_eq!(grown.capacity_bytes, self.size * MIB);
        let request = NodeExpandVolumeRequest {
            volume_id: self.id(),
            volume_path: self.targets[0].display().to_string(),
            capacity_range: range,
            ..NodeExpandVolumeRequest::default()
        };
        if grows_mounted_ext4() {
            until_answered!(self, node.node_expand_volume(request));
        }
    }

    /// Cuts a snapshot while the volume is written to, and finds in a volume made from it what was synced before.
    async fn restore(&mut self) {
        self.lives += 1;
        let word = format!("{}-{}", self.name, self.lives);
        let request = CreateSnapshotRequest {
            source_volume_id: self.id(),
            name: format!("snap-{word}"),
            ..CreateSnapshotRequest::default()
        };
        let snapshot = until_answered!(self, controller.create_snapshot(request)).snapshot.unwrap();
        let source = volume_content_source::SnapshotSource { snapshot_id: snapshot.snapshot_id.clone() };
        let mut request = wish(&word, self.size);
        request.volume_content_source =
            Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Snapshot(source)) });
        let copy = self.make(request).await;
        let (staged, target) = (self.folder.join("restored"), self.folder.join("restored-target"));
        self.stage(&copy, &staged).await;
        until_answered!(self, node.node_publish_volume(publication(&copy, &staged, &target, &usual())));
        self.check(&target);
        self.take(&copy.volume_id, &target).await;
        self.unstage(&copy.volume_id, &staged).await;
        self.remove(&copy.volume_id).await;
        let request =
            DeleteSnapshotRequest { snapshot_id: snapshot.snapshot_id, ..DeleteSnapshotRequest::default() };
        until_answered!(self, controller.delete_snapshot(request));
    }

    /// A path of the machine's, seen from outside.
    fn seen(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap())
    }

    fn write(&mut self) {
        let line = format!("{} {}", self.lines.len(), self.chance.below(u64::MAX));
        let path = self.seen(&self.targets[0]).join("log");
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
        file.sync_all().unwrap();
        self.lines.push(line);
    }

    /// Every line that was synced is there, and no other.
    fn check(&self, target: &Path) {
        let text = fs::read_to_string(self.seen(target).join("log")).unwrap_or_default();
        assert_eq!(text.lines().collect::<Vec<_>>(), self.lines, "{}", self.name);
    }

    /// Looks at everything once more, and takes it back.
    async fn end(mut self) {
        if self.volume.is_none() {
            return;
        }
        if self.targets.is_empty() {
            self.publish().await;
        }
        for target in &self.targets {
            self.check(target);
        }
        while !self.targets.is_empty() {
            self.unpublish().await;
        }
        self.delete().await;
    }
}
