//! A machine for one test: namespaces of its own for processes, mounts and the network, with an empty `/run`
//! and shared propagation as systemd leaves it. What runs in it sees the real kernel, the real disks and the
//! programs that are installed here, but no daemon of the host.
//!
//! When it is dropped its first process is killed, and the kernel ends every process and every mount that is
//! left in it, whatever the test did to them. Loop devices over its folder and control groups of its name are
//! taken away afterwards.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a peer that does not start ends the test, in words"
)]

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::apart;

/// What the first process of a machine does: it furnishes it, says so, and then reaps what is orphaned.
const INIT: &str = "mount --make-rshared / && mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/lock \
                    && ip link set lo up && : > \"$1\" && while :; do sleep 3600 & wait $!; done";

/// A machine of one test's own.
#[derive(Debug)]
pub struct Machine {
    folder: TempDir,
    first: Child,
    pid: u32,
}

impl Machine {
    /// Starts one.
    #[must_use]
    pub fn start() -> Self {
        let mut command = Command::new("unshare");
        command.arg("--net");
        Self::unshared(command)
    }

    /// Starts one that shares the network of another, as two nodes do that reach the same servers.
    #[must_use]
    pub fn start_beside(other: &Self) -> Self {
        let mut command = Command::new("nsenter");
        command.args(["--target", &other.pid.to_string(), "--net", "--", "unshare"]);
        Self::unshared(command)
    }

    fn unshared(mut unshare: Command) -> Self {
        let _apart = apart::beginning();
        let folder = tempfile::Builder::new().prefix("kato-machine-").tempdir().expect("a folder");
        let ready = folder.path().join("ready");
        let mut first = unshare
            .args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"])
            .args(["--propagation", "private", "--", "sh", "-c", INIT, "sh"])
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("machine.log")).unwrap())
            .spawn()
            .expect("unshare starts: it is part of util-linux, and needs root");
        until("the machine to be furnished", || {
            assert!(
                first.try_wait().unwrap().is_none(),
                "the machine ended while it was furnished: is this root?"
            );
            ready.exists().then_some(())
        });
        let pid = child_of(first.id()).expect("the machine's first process");
        Self { folder, first, pid }
    }

    /// Where servers are that are to be reached from linked machines: a machine has it from its first link on.
    pub const ADDRESS: &'static str = "10.98.0.1";

    /// Links another machine, which has a network of its own, to this one's by a cable. What listens here on
    /// [`Machine::ADDRESS`] is reached from there. A machine has one cable of each number.
    #[must_use]
    pub fn link(&self, there: &Self, number: u8) -> Cable {
        let (here, net) = (format!("cable{number}"), format!("10.99.{number}"));
        let run = |machine: &Self, line: &str| {
            let output = machine.shell(line);
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        };
        // The other end is handed over by the number of a process that all machines' networks can be named by.
        let made = Command::new("nsenter")
            .args(["--target", &self.pid.to_string(), "--net", "--", "ip", "link", "add", &here])
            .args(["type", "veth", "peer", "name", "cable", "netns", &there.pid.to_string()])
            .output()
            .expect("nsenter starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        run(self, &format!("ip addr replace {}/32 dev lo", Self::ADDRESS));
        run(self, &format!("ip addr add {net}.1/24 dev {here} && ip link set {here} up"));
        run(
            there,
            &format!(
                "ip addr add {net}.2/24 dev cable && ip link set cable up && ip route add {} via {net}.1",
                Self::ADDRESS
            ),
        );
        Cable { pid: self.pid, name: here }
    }

    /// The network, as a file that whatever is started outside can be put into.
    #[must_use]
    pub(crate) fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }

    /// A folder that has the same path inside and outside. What is mounted in it is seen inside only.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the machine is called, among those of other tests.
    #[must_use]
    pub fn name(&self) -> String {
        self.folder.path().file_name().unwrap().to_string_lossy().into_owned()
    }

    /// How a path of the inside is reached from the outside.
    #[must_use]
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        Path::new(&format!("/proc/{}/root", self.pid)).join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid.to_string(), "--pid", "--mount", "--net", "--"])
            .arg(program.as_ref())
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell line inside, to its end.
    #[must_use]
    pub fn shell(&self, line: &str) -> Output {
        self.command("sh").args(["-c", line]).output().expect("a shell")
    }

    /// Starts a program inside that goes on, with a log of its own. `dress` gives it arguments.
    #[must_use]
    pub fn spawn(&self, program: impl AsRef<Path>, log: &str, dress: impl FnOnce(&mut Command)) -> Process {
        let log = self.folder().join(log);
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = self.command(program.as_ref());
        dress(&mut command);
        let mut entry =
            command.stdout(file.try_clone().unwrap()).stderr(file).spawn().expect("nsenter starts");
        let pid = until("a program to start", || match entry.try_wait().unwrap() {
            None => child_of(entry.id()),
            Some(status) => panic!(
                "{} ended at once ({status}): {}",
                program.as_ref().display(),
                fs::read_to_string(&log).unwrap_or_default()
            ),
        });
        Process { entry, pid, log }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The kernel ends all others with the first.
        signal(self.pid, Signal::KILL);
        self.first.wait().ok();
        for device in loops_over(self.folder.path()) {
            Command::new("losetup").arg("-d").arg(device).output().ok();
        }
        remove_groups(Path::new("/sys/fs/cgroup"), &self.name());
    }
}

/// What links two machines.
#[derive(Debug)]
pub struct Cable {
    pid: u32,
    name: String,
}

impl Cable {
    /// Pulls it out: nothing passes in either direction, and nobody is told.
    pub fn pull(&self) {
        self.set("down");
    }

    /// Plugs it in again.
    pub fn plug(&self) {
        self.set("up");
    }

    fn set(&self, state: &str) {
        let set = Command::new("nsenter")
            .args(["--target", &self.pid.to_string(), "--net", "--"])
            .args(["ip", "link", "set", &self.name, state])
            .output()
            .expect("nsenter starts");
        assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    }
}

/// A program that runs inside of a machine, or beside the test.
#[derive(Debug)]
pub struct Process {
    entry: Child,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts a program that goes on beside the test, with a log of its own.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log");
        let said = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn();
        let entry = said.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self { pid: entry.id(), entry, log: log.to_owned() }
    }

    /// Its number as it is seen from outside.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.entry.try_wait().unwrap().is_none()
    }

    /// Lets it stand still.
    pub fn freeze(&self) {
        signal(self.pid, Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        signal(self.pid, Signal::CONT);
    }

    /// Ends it at once, and waits until it is gone.
    pub fn kill(&mut self) {
        // Its number may be somebody else's after its end.
        if !self.runs() {
            return;
        }
        signal(self.pid, Signal::KILL);
        until("a program to be gone", || {
            // `nsenter` stands still itself as soon as it sees that what it entered with does.
            signal(self.entry.id(), Signal::CONT);
            self.entry.try_wait().unwrap()
        });
    }

    /// Asks it to end, and waits until it did.
    pub fn stop(&mut self) -> ExitStatus {
        signal(self.pid, Signal::TERM);
        until("a program to stop", || self.entry.try_wait().unwrap())
    }
}

/// A shell that leads a process group, and ends all of it when we are gone, however that came about.
#[derive(Debug)]
pub(crate) struct Leash(Child);

impl Leash {
    pub(crate) fn hold() -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "read -r _; kill -KILL 0"]).stdin(Stdio::piped());
        shell.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Self(shell.spawn().expect("a shell"))
    }

    /// Lets what is started by this command be in the group.
    pub(crate) fn bind(&self, command: &mut Command) {
        command.process_group(i32::try_from(self.0.id()).unwrap());
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Waits for something that has to come, for a minute and a half at most.
pub fn until<T>(what: &str, mut come: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = come() {
            return value;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // One that is gone already is what was wanted.
        kill_process(pid, signal).ok();
    }
}

fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}

/// Loop devices whose files are in this folder.
fn loops_over(folder: &Path) -> Vec<PathBuf> {
    let blocks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    blocks
        .filter(|block| {
            fs::read_to_string(block.path().join("loop/backing_file"))
                .is_ok_and(|file| Path::new(file.trim_end()).starts_with(folder))
        })
        .map(|block| Path::new("/dev").join(block.file_name()))
        .collect()
}

/// Control groups of this name: directly beneath the root, or beneath each controller of version 1.
fn remove_groups(root: &Path, name: &str) {
    let controllers = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for group in controllers.chain([root.to_owned()]).map(|controller| controller.join(name)) {
        remove_group(&group).ok();
    }
}

fn remove_group(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
