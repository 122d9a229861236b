//! The ground that each test stands on: a folder of its own with a granted directory, a node, and volumes
//! made of sparse files or directories. Dropping it unmounts everything beneath the folder and frees every
//! loop device over a file in it, also while a test panics.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use kato_node::{Config, LinuxHost};
use kato_orchestrator::{
    Error,
    model::{Bytes, Connection, DataRoot, FsType, VolumeId},
    ports::{
        backend::Blankness,
        host::{Condition, Filesystems as _, MountWish, MountedAt, Observations as _, Prepare, Standing},
    },
};
use kato_tests::apart::{Apart, mounting};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;

/// Small enough to be quick, large enough for ext4.
pub(crate) const SMALL: u64 = 64 << 20;
/// Large enough for xfs.
pub(crate) const LARGE: u64 = 512 << 20;

/// A folder of the test's own, and how its nodes are configured.
pub(crate) struct Ground {
    folder: TempDir,
    pub(crate) config: Config,
    _apart: Apart,
}

/// A volume that is a file.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) id: VolumeId,
    pub(crate) path: PathBuf,
    pub(crate) connection: Connection,
}

impl Ground {
    /// A fresh one.
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "the host suite mounts filesystems: run it as root");
        let folder = tempfile::Builder::new().prefix("kato-host-").tempdir().unwrap();
        fs::create_dir(folder.path().join("granted")).unwrap();
        let mut config = Config::new(folder.path().join("node"), worker_line());
        config.granted = vec![folder.path().join("granted")];
        Self { folder, config, _apart: mounting() }
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The granted directory.
    pub(crate) fn granted(&self) -> PathBuf {
        self.path("granted")
    }

    /// A node that begins now. The mounts of an earlier one are still there.
    pub(crate) async fn node(&self) -> LinuxHost {
        LinuxHost::open(self.config.clone()).await.unwrap()
    }

    /// A volume that is a sparse file of zeroes.
    pub(crate) fn disk(&self, name: &str, size: u64) -> Disk {
        let path = self.granted().join(name);
        File::create_new(&path).unwrap().set_len(size).unwrap();
        Disk::at(self.granted(), name)
    }

    /// A volume that is a directory.
    pub(crate) fn directory(&self, name: &str) -> Disk {
        fs::create_dir(self.granted().join(name)).unwrap();
        let Disk { id, path, .. } = Disk::at(self.granted(), name);
        let root = self.granted().display().to_string();
        Disk { id, path, connection: Connection::Directory { root, path: name.to_owned() } }
    }

    /// The mounts beneath the folder, in the order in which they were made.
    pub(crate) fn mounts(&self) -> Vec<String> {
        mounts_beneath(self.folder.path())
    }

    /// Servers of block devices whose folders are in this one.
    pub(crate) fn servers(&self) -> Vec<Pid> {
        let folder = self.folder.path().to_str().unwrap();
        let is_ours = |pid: &Pid| {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            let program = line.split('\0').next().unwrap_or_default();
            program.ends_with("qemu-storage-daemon") && line.contains(folder)
        };
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
            .filter(is_ours)
            .collect()
    }

    /// Loop devices over files in the folder, in the manner of `/dev/loop3`.
    pub(crate) fn loops(&self) -> Vec<PathBuf> {
        loops_beneath(self.folder.path())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Only a test that failed leaves any; its target may be gone, and whatever is written would wait for it.
        for server in self.servers() {
            // One that ends by itself meanwhile is what is wanted.
            kill_process(server, Signal::KILL).ok();
        }
        // A loop device over what a server shows is only known by it as long as that is mounted.
        let shown = mounts_of("fuse");
        for mount in self.mounts().iter().rev().filter(|mount| !shown.contains(mount)) {
            // A worker that was abandoned may still look at it.
            let gone = retry(|| unmount(mount.as_str(), UnmountFlags::empty()).is_ok());
            if !gone {
                // A test has failed with a file open; what is not mounted any more is well.
                unmount(mount.as_str(), UnmountFlags::DETACH).ok();
            }
        }
        for device in self.loops() {
            run("losetup", &["-d", device.to_str().unwrap()]);
        }
        for mount in self.mounts().iter().rev() {
            unmount(mount.as_str(), UnmountFlags::DETACH).ok();
        }
    }
}

impl Disk {
    /// The volume that this file is.
    pub(crate) fn at(root: PathBuf, name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = VolumeId((u128::from(std::process::id()) << 64) | u128::from(number));
        let path = root.join(name);
        let root = root.display().to_string();
        Self { id, path, connection: Connection::File { root, path: name.to_owned() } }
    }

    /// A wish to mount it, with its data in `data`.
    pub(crate) fn wish(&self) -> MountWish {
        MountWish {
            volume: self.id,
            name: format!("volume-{:x}", self.id.0),
            connection: self.connection.clone(),
            options: Vec::new(),
            read_only: false,
            root: DataRoot::default(),
            size: Bytes(0),
        }
    }

    /// Formats it as new.
    pub(crate) async fn format(&self, node: &LinuxHost, fs: FsType) -> Result<(), Error> {
        let how = Prepare { fs, blank: Blankness::Zeroes, resumed: false, size: Bytes(0) };
        node.format(self.id, &self.connection, &how).await
    }

    /// Mounts it.
    pub(crate) async fn mount(&self, node: &LinuxHost) -> Result<MountedAt, Error> {
        node.mount(&self.wish()).await
    }

    /// How it ought to stand.
    pub(crate) fn standing(&self, path: &str) -> Standing {
        let (path, connection) = (path.to_owned(), self.connection.clone());
        Standing { volume: self.id, path, connection, read_only: false }
    }

    /// Whether it reaches its bytes.
    pub(crate) async fn health(&self, node: &LinuxHost, path: &str) -> Condition {
        node.health(&self.standing(path)).await.unwrap()
    }

    /// Why it does not.
    pub(crate) async fn complaint(&self, node: &LinuxHost, path: &str) -> String {
        // What the kernel notes of a filesystem it tells in its own time.
        for _ in 0..100 {
            if let Condition::Broken(why) = self.health(node, path).await {
                return why;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?} is not broken", self.health(node, path).await)
    }

    /// Unmounts it.
    pub(crate) async fn unmount(&self, node: &LinuxHost) -> Result<(), Error> {
        node.unmount(self.id, &self.wish().name, &self.connection).await
    }

    /// Writes into the file behind everybody's back.
    pub(crate) fn scribble(&self, offset: u64, bytes: &[u8]) {
        File::options().write(true).open(&self.path).unwrap().write_all_at(bytes, offset).unwrap();
    }

    /// Makes the file this large.
    pub(crate) fn set_size(&self, size: u64) {
        File::options().write(true).open(&self.path).unwrap().set_len(size).unwrap();
    }
}

/// Tries a few times what may be busy for a moment.
pub(crate) fn retry(mut act: impl FnMut() -> bool) -> bool {
    (0..100).any(|_| {
        let done = act();
        if !done {
            std::thread::sleep(Duration::from_millis(20));
        }
        done
    })
}

/// How this binary is started as a worker.
pub(crate) fn worker_line() -> Vec<OsString> {
    let mut line = vec![std::env::current_exe().unwrap().into_os_string()];
    line.extend(
        ["host::node_worker", "--exact", "--ignored", "--nocapture", "--test-threads=1"].map(OsString::from),
    );
    line
}

/// Runs a program that has to succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = command(program, arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A program that runs until this is dropped.
pub(crate) struct Running(pub(crate) Child);

/// Starts a program.
pub(crate) fn start(program: &str, arguments: &[&str]) -> Running {
    Running(command(program, arguments).stdout(Stdio::piped()).spawn().unwrap())
}

/// Starts a program and waits until it says `ready`.
pub(crate) fn start_and_hear(program: &str, arguments: &[&str]) -> Running {
    let mut running = start(program, arguments);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    running
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

/// A program that hears nothing.
#[expect(clippy::disallowed_methods, reason = "the suite prepares disks with the usual programs")]
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Tries until it is true, for a minute.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// Mount points beneath a folder, in the order in which they were made.
pub(crate) fn mounts_beneath(folder: &Path) -> Vec<String> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(folder))
        .map(str::to_owned)
        .collect()
}

/// The options of the mount at this path.
pub(crate) fn options_of(path: &str) -> String {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = text.lines().rfind(|line| line.split(' ').nth(4) == Some(path)).unwrap();
    line.to_owned()
}

/// The places of filesystems of a kind.
fn mounts_of(kind: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_of =
        |line: &&str| line.split(" - ").nth(1).is_some_and(|rest| rest.split(' ').next() == Some(kind));
    text.lines().filter(is_of).filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

fn loops_beneath(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path().join("loop/backing_file"))
                .is_ok_and(|file| Path::new(file.trim_end()).starts_with(folder))
        })
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect()
}
