//! Units behind iSCSI, served by a real target in user space and connected by QEMU, which every kernel can: what is
//! written is there, whatever becomes of the target meanwhile, and what cannot be connected is told in time.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    net::TcpListener,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use kato_node::{Chap, IscsiDriver, LinuxHost, Secret};
use kato_orchestrator::{
    Error, Kind,
    model::{Bytes, Connection, FsType},
    ports::host::{
        Condition, Connections as _, Filesystems as _, Grown, MountedAt, Observations as _, Stray,
    },
};
use rustix::{
    fs::FallocateFlags,
    process::{Signal, kill_process},
};

use super::ground::{Disk, Ground, LARGE, Running, SMALL, command, retry, until};

const IQN: &str = "iqn.2026-01.com.example:tc:01:sn:00aa11bb22cc33dd";
const USER: &str = "kato";
const SECRET: &str = "a-canary-14-chr";

/// A target with one unit, which is a file.
struct Target {
    port: u16,
    control: PathBuf,
    file: PathBuf,
    process: Option<Running>,
}

impl Target {
    fn start(ground: &Ground, size: u64) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = ground.path("unit");
        File::create_new(&file).unwrap().set_len(size).unwrap();
        let mut target = Self { port, control: ground.path("tgt"), file, process: None };
        target.begin();
        target
    }

    fn portal(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it, with nothing or again: it remembers nothing. Who is let in comes last.
    fn begin(&mut self) {
        let mut tgtd = command("tgtd", &["-f", "--iscsi", &format!("portal={}", self.portal())]);
        tgtd.env("TGT_IPC_SOCKET", &self.control).stdout(std::process::Stdio::null());
        self.process =
            Some(Running(tgtd.stderr(std::process::Stdio::null()).spawn().expect("the package tgt")));
        assert!(retry(|| self.admin(&["--op", "show", "--mode", "sys"])), "tgtd does not answer");
        self.must(&["--op", "new", "--mode", "target", "--tid", "1", "--targetname", IQN]);
        self.add_unit();
        self.must(&["--op", "new", "--mode", "account", "--user", USER, "--password", SECRET]);
        self.must(&["--op", "bind", "--mode", "account", "--tid", "1", "--user", USER]);
        self.must(&["--op", "bind", "--mode", "target", "--tid", "1", "--initiator-address", "ALL"]);
    }

    fn end(&mut self) {
        self.process = None;
    }

    fn add_unit(&self) {
        let file = self.file.to_str().unwrap();
        self.must(&[
            "--op",
            "new",
            "--mode",
            "logicalunit",
            "--tid",
            "1",
            "--lun",
            "1",
            "--backing-store",
            file,
        ]);
    }

    fn remove_unit(&self) {
        self.must(&["--op", "delete", "--mode", "logicalunit", "--tid", "1", "--lun", "1"]);
    }

    fn grow(&self, size: u64) {
        File::options().write(true).open(&self.file).unwrap().set_len(size).unwrap();
        for change in ["online=0".to_owned(), format!("path={}", self.file.display()), "online=1".to_owned()]
        {
            let unit = ["--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", "1"];
            self.must(&[&unit[..], &["--params", &change]].concat());
        }
    }

    fn admin(&self, words: &[&str]) -> bool {
        let line = [&["--lld", "iscsi"], words].concat();
        command("tgtadm", &line).env("TGT_IPC_SOCKET", &self.control).output().unwrap().status.success()
    }

    fn must(&self, words: &[&str]) {
        assert!(self.admin(words), "tgtadm {words:?}");
    }

    /// What the unit holds, past everybody.
    fn bytes(&self, from: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(&self.file).unwrap().read_exact_at(&mut bytes, from).unwrap();
        bytes
    }
}

/// Has the nodes of this ground connect units by QEMU, with this secret.
fn opens_with(ground: &mut Ground, secret: &str) {
    let file = ground.path("secret");
    fs::write(&file, format!("{secret}\n")).unwrap();
    let chap = Chap { user: USER.into(), secret: Secret::File(file), mutual: None };
    ground.config.accounts.iscsi.insert("cloud".into(), Some(chap));
    ground.config.initiator = "iqn.2026-01.storage.kato:test".into();
    ground.config.iscsi = vec![IscsiDriver::Qemu];
}

fn unit(portals: &[&str], lun: u32) -> Disk {
    let connection = Connection::Iscsi {
        backend: "cloud".into(),
        portals: portals.iter().map(|portal| (*portal).to_owned()).collect(),
        iqn: IQN.into(),
        lun,
        multipath: None,
        initiator: None,
    };
    Disk { connection, ..Disk::at("/nowhere".into(), "unit") }
}

/// A ground, a target and a unit of it.
fn stand(size: u64) -> (Ground, Target, Disk) {
    let mut ground = Ground::new();
    opens_with(&mut ground, SECRET);
    let target = Target::start(&ground, size);
    let disk = unit(&[&target.portal()], 1);
    (ground, target, disk)
}

async fn mounted(node: &LinuxHost, disk: &Disk, fs: FsType) -> MountedAt {
    disk.format(node, fs).await.unwrap();
    disk.mount(node).await.unwrap()
}

/// Files, and the seeds of what they hold.
type Written = Vec<(PathBuf, u64)>;

/// Writes whole files with a flush each, over and over, until it is told to stop: what each file holds now.
struct Writers {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<std::io::Result<Written>>>,
}

impl Writers {
    fn start(folder: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let write = |thread: u64| {
            let (over, folder) = (Arc::clone(&over), PathBuf::from(folder));
            std::thread::spawn(move || {
                let mut written = Vec::new();
                for turn in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let (path, seed) = (folder.join(format!("{thread}-{}", turn % 8)), thread << 32 | turn);
                    let mut file = File::create(&path)?;
                    file.write_all(&noise(seed, 300_000))?;
                    file.sync_all()?;
                    written.retain(|(other, _)| *other != path);
                    written.push((path, seed));
                }
                Ok(written)
            })
        };
        Self { threads: (0..4).map(write).collect(), over }
    }

    /// What they have written; an error that one of them met fails.
    fn end(self) -> Written {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap().unwrap()).collect()
    }
}

/// Bytes that are the same for the same seed, and for no other.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

fn require_written(written: &[(PathBuf, u64)]) {
    assert!(!written.is_empty());
    for (path, seed) in written {
        assert!(
            fs::read(path).unwrap() == noise(*seed, 300_000),
            "{} is not what was written",
            path.display()
        );
    }
}

fn nothing_is_left(ground: &Ground) {
    assert_eq!(ground.servers(), []);
    assert!(ground.loops().is_empty());
    let left = fs::read_dir(ground.path("node/servers")).map(|left| left.count()).unwrap_or_default();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_is_formatted_mounted_grown_and_let_go() {
    let (ground, target, disk) = stand(LARGE);
    let node = ground.node().await;
    let place = mounted(&node, &disk, FsType::Xfs).await;
    assert_eq!(place.device.size, Some(Bytes(LARGE)));
    assert_eq!(place.device.client, None);
    fs::write(format!("{}/file", place.data), noise(1, 3_000_000)).unwrap();
    assert_eq!(disk.health(&node, &place.path).await, Condition::Well);
    let devices = node.survey().await.unwrap().devices;
    assert!(devices.iter().any(|(whose, device, _)| *whose == Some(disk.id) && *device == place.device.path));
    drop(node);

    // The next daemon finds it where it stands, and it grows under its filesystem.
    let node = ground.node().await;
    assert_eq!(disk.mount(&node).await.unwrap(), place);
    target.grow(2 * LARGE);
    assert_eq!(node.rescan(disk.id, &disk.connection, Bytes(2 * LARGE)).await.unwrap(), Bytes(2 * LARGE));
    assert_eq!(node.grow(disk.id, &place.path).await.unwrap(), Grown::Done);
    assert!(node.usage(&place.path).await.unwrap().total.0 > LARGE + LARGE / 2);
    let error = node.rescan(disk.id, &disk.connection, Bytes(3 * LARGE)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    disk.unmount(&node).await.unwrap();
    disk.unmount(&node).await.unwrap();
    nothing_is_left(&ground);

    let place = disk.mount(&node).await.unwrap();
    assert!(fs::read(format!("{}/file", place.data)).unwrap() == noise(1, 3_000_000));
    disk.unmount(&node).await.unwrap();
    nothing_is_left(&ground);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_an_account_is_nowhere_to_be_seen() {
    let (ground, _target, disk) = stand(SMALL);
    let node = ground.node().await;
    let place = mounted(&node, &disk, FsType::Ext4).await;
    let servers = ground.servers();
    assert_eq!(servers.len(), 1);
    for part in ["cmdline", "environ"] {
        let told = fs::read(format!("/proc/{}/{part}", servers[0].as_raw_nonzero())).unwrap();
        assert!(!String::from_utf8_lossy(&told).contains(SECRET), "{part}");
    }
    // Sockets cannot be read, and what can holds the target's name and not the secret.
    let node_folder = ground.path("node");
    let holds = |text: &str| {
        let told = command("grep", &["-rl", text, node_folder.to_str().unwrap()]).output().unwrap();
        String::from_utf8(told.stdout).unwrap()
    };
    assert!(holds(IQN).ends_with("/served\n"));
    assert_eq!(holds(SECRET), "");
    assert!(!format!("{:?} {place:?}", ground.config).contains(SECRET));
    disk.unmount(&node).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_goes_away_is_waited_for_and_told() {
    let (ground, mut target, disk) = stand(LARGE);
    let node = ground.node().await;
    let place = mounted(&node, &disk, FsType::Xfs).await;
    let writers = Writers::start(&place.data);
    tokio::time::sleep(Duration::from_secs(1)).await;
    target.end();
    let standing = disk.standing(&place.path);
    until("the lost session to be told", async || node.health(&standing).await.is_err()).await;
    // It is told at once, without a worker that waits for the device.
    let looked = tokio::time::timeout(Duration::from_secs(5), node.health(&standing)).await;
    let told = looked.expect("a look that waits for the device").unwrap_err();
    assert_eq!(told.kind, Kind::Timeout, "{told}");
    assert!(told.message.contains(&target.portal()) && told.message.contains(IQN), "{told}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(writers.threads.iter().all(|thread| !thread.is_finished()), "a writer met an error");
    target.begin();
    until("the session to come back", async || {
        node.health(&standing).await.is_ok_and(|found| found == Condition::Well)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let written = writers.end();
    require_written(&written);
    disk.unmount(&node).await.unwrap();
    disk.mount(&node).await.unwrap();
    require_written(&written);
    disk.unmount(&node).await.unwrap();
    nothing_is_left(&ground);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_at_the_same_time_do_not_become_one_another() {
    let (ground, target, disk) = stand(SMALL);
    let node = ground.node().await;
    let device = node.connect(disk.id, &disk.connection, false).await.unwrap().path;
    let blocks = SMALL / 4096;
    let write = |first: u64| {
        let device = device.clone();
        std::thread::spawn(move || {
            let file = File::options().write(true).custom_flags(libc_direct()).open(device).unwrap();
            let mut memory = vec![0; 8192];
            let from = memory.as_ptr().align_offset(4096);
            for block in (first..blocks).step_by(16) {
                memory[from..from + 4096].copy_from_slice(&noise(block + 1, 4096));
                file.write_all_at(&memory[from..from + 4096], block * 4096).unwrap();
            }
            file.sync_all().unwrap();
        })
    };
    let threads: Vec<_> = (0..16).map(write).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for block in 0..blocks {
        assert!(target.bytes(block * 4096, 4096) == noise(block + 1, 4096), "block {block} is another one's");
    }
    node.disconnect(disk.id, &disk.connection).await.unwrap();
    nothing_is_left(&ground);
}

fn libc_direct() -> i32 {
    i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeroes_are_written_and_not_promised() {
    let (ground, target, disk) = stand(SMALL);
    let node = ground.node().await;
    let device = node.connect(disk.id, &disk.connection, false).await.unwrap().path;
    let mut file = File::options().read(true).write(true).open(&device).unwrap();
    file.write_all(&[0xa5; 4 << 20]).unwrap();
    file.sync_all().unwrap();
    assert_eq!(target.bytes(1 << 20, 1), [0xa5]);
    // A filesystem that finds its wish for zeroes refused writes them; one that finds it granted believes it.
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for (at, flags) in [(1 << 20, hole), (2 << 20, FallocateFlags::ZERO_RANGE)] {
        let granted = rustix::fs::fallocate(&file, flags, at, 65536).is_ok();
        file.sync_all().unwrap();
        let is_zero = target.bytes(at, 65536).iter().all(|byte| *byte == 0);
        assert_eq!(granted, is_zero, "{flags:?}");
    }
    // What the kernel answers itself is what is there.
    let mut seen = vec![1; 65536];
    file.seek(SeekFrom::Start(2 << 20)).unwrap();
    file.read_exact(&mut seen).unwrap();
    assert!(seen == target.bytes(2 << 20, 65536));
    drop(file);
    node.disconnect(disk.id, &disk.connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_connected_is_told_in_time_and_leaves_nothing() {
    let (mut ground, target, disk) = stand(SMALL);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let says_nothing = silent.local_addr().unwrap().to_string();
    let nobody = { TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string() };
    let node = ground.node().await;
    for (what, disk, names) in [
        ("nobody listens", unit(&[&nobody], 1), nobody.as_str()),
        ("no such unit", unit(&[&target.portal()], 7), "the unit 7"),
        ("silence", unit(&[&says_nothing, &nobody], 1), says_nothing.as_str()),
    ] {
        let connected = node.connect(disk.id, &disk.connection, false);
        let connected = tokio::time::timeout(Duration::from_secs(20), connected).await;
        let error = connected.unwrap_or_else(|_| panic!("{what}: it is not told")).unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable, "{what}: {error}");
        assert!(error.message.contains(names) && error.message.contains(IQN), "{what}: {error}");
        nothing_is_left(&ground);
    }
    drop(node);
    opens_with(&mut ground, "another-secret");
    let node = ground.node().await;
    let error = node.connect(disk.id, &disk.connection, false).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains("with the account kato"), "{error}");
    assert!(!error.message.contains("another-secret"), "{error}");
    nothing_is_left(&ground);

    let (mut mutual, account) = (ground.config.accounts.iscsi["cloud"].clone().unwrap(), "target".to_owned());
    mutual.mutual = Some(Box::new(Chap { user: account, secret: mutual.secret.clone(), mutual: None }));
    ground.config.accounts.iscsi.insert("cloud".into(), Some(mutual));
    let node = ground.node().await;
    let error = node.connect(disk.id, &disk.connection, false).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(error.message.contains("chap.mutual"), "{error}");

    ground.config.accounts.iscsi.clear();
    let error: Error = ground.node().await.connect(disk.id, &disk.connection, false).await.unwrap_err();
    assert_eq!(error.kind, Kind::Precondition);
    assert!(error.message.contains("the backend cloud"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_portal_that_lets_us_in_is_used() {
    let (ground, target, _) = stand(SMALL);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let disk = unit(&[&silent.local_addr().unwrap().to_string(), &target.portal()], 1);
    let node = ground.node().await;
    let place = mounted(&node, &disk, FsType::Ext4).await;
    assert_eq!(disk.health(&node, &place.path).await, Condition::Well);
    disk.unmount(&node).await.unwrap();
    let facts = node.facts().await.unwrap();
    assert!(
        facts
            .identities
            .contains(&("iscsi-initiator".to_owned(), "iqn.2026-01.storage.kato:test".to_owned()))
    );
    let told = facts.connectors;
    let find = |name: &str| told.iter().find(|(way, _)| way == name).unwrap().1.clone();
    assert_eq!(find("iscsi by qemu"), Ok(()));
    assert!(find("iscsi by open-iscsi").unwrap_err().contains("node.iscsi"));
    assert!(find("iscsi multipath").unwrap_err().contains("the first that answers"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_breaks_its_mount_until_it_is_made_again() {
    let (ground, _target, disk) = stand(SMALL);
    let node = ground.node().await;
    let place = mounted(&node, &disk, FsType::Ext4).await;
    let file = format!("{}/file", place.data);
    fs::write(&file, noise(2, 100_000)).unwrap();
    File::open(&file).unwrap().sync_all().unwrap();
    for server in ground.servers() {
        kill_process(server, Signal::KILL).unwrap();
    }
    // It takes its time to end, and what it showed is gone by then.
    until("the end of the server to be told", async || {
        disk.complaint(&node, &place.path).await.contains("has ended")
    })
    .await;
    disk.unmount(&node).await.unwrap();
    nothing_is_left(&ground);
    let place = disk.mount(&node).await.unwrap();
    assert!(fs::read(format!("{}/file", place.data)).unwrap() == noise(2, 100_000));
    disk.unmount(&node).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_vanishes_breaks_its_mount_and_comes_back_whole() {
    let (ground, target, disk) = stand(SMALL);
    let node = ground.node().await;
    let place = mounted(&node, &disk, FsType::Ext4).await;
    let file = format!("{}/file", place.data);
    fs::write(&file, noise(3, 100_000)).unwrap();
    File::open(&file).unwrap().sync_all().unwrap();
    target.remove_unit();
    let why = disk.complaint(&node, &place.path).await;
    assert!(!why.is_empty());
    disk.unmount(&node).await.unwrap();
    let error = disk.mount(&node).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    target.add_unit();
    let place = disk.mount(&node).await.unwrap();
    assert!(fs::read(format!("{}/file", place.data)).unwrap() == noise(3, 100_000));
    disk.unmount(&node).await.unwrap();
    nothing_is_left(&ground);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_is_listed_and_taken_down() {
    let (ground, _target, disk) = stand(SMALL);
    let node = ground.node().await;
    let device = node.connect(disk.id, &disk.connection, false).await.unwrap().path;
    drop(node);
    let node = ground.node().await;
    let found = node.survey().await.unwrap().devices;
    let ours = found.iter().find(|(whose, ..)| *whose == Some(disk.id)).unwrap();
    assert_eq!(ours.1, device);
    assert!(Path::new(&ours.2).starts_with(ground.path("node/servers")), "{ours:?}");
    node.remove_stray(Some(disk.id), &Stray::Device(device)).await.unwrap();
    nothing_is_left(&ground);
}
