//! Userspace block servers: programs that bring an image to this node where the kernel cannot. Each serves one volume:
//! `qemu-storage-daemon` opens the image and shows it as a file through FUSE, and a loop device with direct IO makes
//! that a block device.
//!
//! A server belongs to the volume and not to the daemon: it has a session and a cgroup of its own (a systemd scope where
//! there is systemd), goes on when the daemon ends or is replaced, and is found again by what lies in its folder:
//!
//! ```text
//! servers/<volume>/<n>/served     what it serves, written before it is started
//! servers/<volume>/<n>/pid        its process, written by itself once it serves
//! servers/<volume>/<n>/q          where it hears us (`qmp.rs`)
//! servers/<volume>/<n>/<volume>   the image, as a file
//! servers/<volume>/<n>/device     the loop device over it, and which of that device's uses this is
//! ```
//!
//! A process is only believed to be ours when its command line names that folder: numbers are given to others. A server
//! that has ended cannot be mended below a mounted filesystem; the next one gets the next `<n>`, so nothing of it stands
//! at an old path. Its loop device stays when it ends, and goes with what is left of it: the kernel tells nothing of a
//! device over a file that answers nobody, not even its name when the server unmounted itself, so it is known by having
//! been written down.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use kato_orchestrator::{Error, model::VolumeId};
use rustix::{
    fs::{Mode, OFlags},
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    accounts::Plain,
    command::{Program, Programs},
    errno::failed,
    holders, loopdev,
    qmp::Monitor,
};

/// How long a server may take until it serves: its image opens at once, or its cluster is out of reach.
pub(crate) const START: Duration = Duration::from_secs(20);

/// How long one has to end by itself. Everything was written out before it is asked to.
const END: Duration = Duration::from_secs(10);

/// What a server calls the secret that it is handed.
pub(crate) const SECRET: &str = "secret";

/// Stands for a server's folder, which has a name only when it is started.
pub(crate) const FOLDER: &str = "{FOLDER}";

const TICK: Duration = Duration::from_millis(10);

/// A server, or what is left of one.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    volume: VolumeId,
}

/// Where this node's servers are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Their folder.
    pub(crate) folder: PathBuf,
    /// Whether they may live among the daemon's own processes, wherever those are.
    pub(crate) anywhere: bool,
}

/// What a server is to be started with.
#[derive(Debug)]
pub(crate) struct Serving {
    /// What it serves: another wish under the same volume is another server.
    pub(crate) what: String,
    /// Files of its own, by name, with [`FOLDER`] where that is to stand.
    pub(crate) files: Vec<(&'static str, String)>,
    /// What it is handed as [`SECRET`], through a pipe: no file and no command line has it.
    pub(crate) secret: Option<Plain>,
    /// The node of its block graph called `disk`, as `--blockdev` has it, with [`FOLDER`] too.
    pub(crate) blockdev: String,
    /// Whether it refuses writes.
    pub(crate) read_only: bool,
}

impl Server {
    /// The volume's latest server.
    pub(crate) fn latest(servers: &Path, volume: VolumeId) -> Result<Option<Self>, Error> {
        let latest = generations(servers, volume)?.into_iter().max();
        Ok(latest.map(|number| Self::of(servers, volume, number)))
    }

    fn of(servers: &Path, volume: VolumeId, number: u64) -> Self {
        Self { folder: servers.join(volume.to_string()).join(number.to_string()), volume }
    }

    /// Starts one and waits until it serves, for no longer than this.
    pub(crate) fn start(
        servers: &Place,
        volume: VolumeId,
        serving: &Serving,
        limit: Duration,
        programs: &Programs,
    ) -> Result<Self, Error> {
        servers.may_serve()?;
        let number = generations(&servers.folder, volume)?.into_iter().max().unwrap_or_default();
        let number = number.saturating_add(1);
        let server = Self::of(&servers.folder, volume, number);
        let what = |error| failed(format_args!("make {}", server.folder.display()), error);
        private_folder(&server.folder).map_err(what)?;
        let text = server.folder.display().to_string();
        for (name, content) in &serving.files {
            fs::write(server.folder.join(name), content.replace(FOLDER, &text)).map_err(what)?;
        }
        fs::write(server.folder.join("served"), &serving.what).map_err(what)?;
        fs::write(server.file(), "").map_err(what)?;
        let folder = &text;
        let (writable, at) = (if serving.read_only { "off" } else { "on" }, server.file());
        let blockdev = serving.blockdev.replace(FOLDER, &text);
        let mut line = vec![
            "--daemonize".to_owned(),
            "--pidfile".to_owned(),
            format!("{folder}/pid"),
            "--chardev".to_owned(),
            format!("socket,id=q,path={folder}/q,server=on,wait=off"),
            "--monitor".to_owned(),
            "chardev=q".to_owned(),
        ];
        if serving.secret.is_some() {
            line.extend(["--object".to_owned(), format!("secret,id={SECRET},file=/proc/self/fd/0")]);
        }
        line.extend([
            "--blockdev".to_owned(),
            blockdev.clone(),
            "--export".to_owned(),
            format!("type=fuse,id=out,node-name=disk,mountpoint={},writable={writable}", at.display()),
        ]);
        let unit = format!("kato-{volume}-{number}");
        let started =
            programs.start_server(Program::QemuStorageDaemon, &line, serving.secret.as_ref(), &unit, limit);
        match started {
            Ok(()) => {
                server.own_cgroup(&unit);
                Ok(server)
            }
            Err(mut error) => {
                server.give_up()?;
                // It repeats what it was told before it says what is wrong with that.
                error.message = error.message.replace(&format!("--blockdev {blockdev}: "), "");
                Err(error)
            }
        }
    }

    /// The image as a file.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join(self.volume.to_string())
    }

    /// The block device over its file, made if it is not there.
    pub(crate) fn attach(&self, read_only: bool) -> Result<PathBuf, Error> {
        let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let path = self.file();
        let file = rustix::fs::open(&path, access | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed(format_args!("open {}", path.display()), error))?;
        let device = loopdev::attach(self.volume, &fs::File::from(file), read_only)?;
        if let Some(turn) = loopdev::turn(&device) {
            let written = fs::write(self.folder.join("device"), format!("{} {turn}", device.display()));
            written.map_err(|error| failed(format_args!("write into {}", self.folder.display()), error))?;
        }
        Ok(device)
    }

    /// The block device over its file, whether or not anybody serves that.
    pub(crate) fn device(&self) -> Result<Option<PathBuf>, Error> {
        let written = fs::read_to_string(self.folder.join("device")).unwrap_or_default();
        if let Some((device, turn)) = written.split_once(' ')
            && let device = Path::new(device)
            && turn.parse().is_ok_and(|turn| loopdev::turn(device) == Some(turn))
        {
            return Ok(Some(device.to_owned()));
        }
        loopdev::over_path(&self.file())
    }

    /// Whether it serves this.
    pub(crate) fn serves(&self, what: &str) -> bool {
        fs::read_to_string(self.folder.join("served")).is_ok_and(|served| served == what)
    }

    /// Its process, while it runs.
    pub(crate) fn process(&self) -> Option<Pid> {
        let written = fs::read_to_string(self.folder.join("pid")).ok();
        let written = written.and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = written {
            return self.is_ours(pid).then_some(pid);
        }
        // It was cut off before it wrote that down.
        let processes = fs::read_dir("/proc").ok()?;
        processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
            .find(|pid| self.is_ours(*pid))
    }

    fn is_ours(&self, pid: Pid) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let pidfile = format!("{}/pid", self.folder.display());
        // One that has ended and was not waited for has no command line.
        line.split(|byte| *byte == 0).any(|word| word == pidfile.as_bytes())
    }

    /// Has its image be as large as this, which is never less than it is.
    pub(crate) fn resize(&self, size: u64) -> Result<(), Error> {
        let mut monitor = Monitor::open(&self.folder.join("q"))?;
        monitor.ask("block_resize", json!({ "node-name": "disk", "size": size })).map(drop)
    }

    /// Has it ask what it serves for its size anew, and tells that. To be resized to what it is is no change, but a look.
    pub(crate) fn refresh(&self) -> Result<u64, Error> {
        let mut monitor = Monitor::open(&self.folder.join("q"))?;
        let size = |monitor: &mut Monitor| {
            let nodes = monitor.ask("query-named-block-nodes", json!({ "flat": true }))?;
            let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
            let disk = nodes.iter().find(|node| node.get("node-name").is_some_and(|name| name == "disk"));
            disk.and_then(|disk| disk.pointer("/image/virtual-size")?.as_u64())
                .ok_or_else(|| Error::internal("the server does not tell how large its image is"))
        };
        let before = size(&mut monitor)?;
        monitor.ask("block_resize", json!({ "node-name": "disk", "size": before }))?;
        size(&mut monitor)
    }

    /// Ends it and what is left of it, when nobody uses its device any more and everything is written out.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        let process = self.process();
        if let Some(device) = self.device()? {
            let gone = match process {
                Some(_) => loopdev::detach(&device),
                None => loopdev::abandon(&device),
            };
            holders::name_them(&device, gone)?;
        }
        if let Some(pid) = process {
            let asked = Monitor::open(&self.folder.join("q"))
                .and_then(|mut monitor| monitor.ask("quit", json!({})).map(drop));
            if asked.is_err() || !self.ends_within(END) {
                self.kill(pid)?;
            }
        }
        self.clear()
    }

    /// Ends one that does not reach its image any more: it has nothing to say, and there is nothing to write out to.
    pub(crate) fn give_up(&self) -> Result<(), Error> {
        if let Some(device) = self.device()? {
            holders::name_them(&device, loopdev::abandon(&device))?;
        }
        if let Some(pid) = self.process() {
            self.kill(pid)?;
        }
        self.clear()
    }

    fn kill(&self, pid: Pid) -> Result<(), Error> {
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(failed("end a server", error)),
        }
        if self.ends_within(END) {
            return Ok(());
        }
        Err(Error::timeout(format!(
            "the server of this volume (process {}) was ended and is still there: it waits in the kernel",
            pid.as_raw_nonzero()
        ))
        .pending())
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let mut waited = Duration::ZERO;
        while self.process().is_some() {
            if waited >= limit {
                return false;
            }
            sleep(TICK);
            waited += TICK;
        }
        true
    }

    /// Takes away what a server that has ended left: a mount that answers nobody, and its folder.
    fn clear(&self) -> Result<(), Error> {
        match unmount(self.file(), UnmountFlags::DETACH) {
            Ok(()) => {}
            // Nothing is mounted there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed(format_args!("unmount {}", self.file().display()), error)),
        }
        let gone = |outcome: std::io::Result<()>| match outcome {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| failed(format_args!("remove {}", self.folder.display()), error)),
        };
        gone(fs::remove_dir_all(&self.folder))?;
        if let Some(number) = self.folder.file_name().and_then(|name| name.to_str()) {
            // A cgroup that is not there, or not empty yet, holds nothing up.
            let _left = cgroup(&format!("kato-{}-{number}", self.volume)).map(fs::remove_dir);
        }
        if let Some(parent) = self.folder.parent() {
            // Another one may be there.
            let _left = fs::remove_dir(parent);
        }
        Ok(())
    }

    /// Without systemd a server would be in the daemon's cgroup, and end when that is emptied.
    fn own_cgroup(&self, unit: &str) {
        let Some(pid) = self.process().filter(|_| !has_systemd()) else { return };
        let Some(folder) = cgroup(unit) else { return };
        let moved = fs::create_dir_all(&folder)
            .and_then(|()| fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs")))
            .and_then(|mut processes| processes.write_all(pid.as_raw_nonzero().to_string().as_bytes()));
        if let Err(error) = moved {
            tracing::debug!(unit, %error, "a server stays in the daemon's cgroup");
        }
    }
}

/// All that is left of this volume's servers.
pub(crate) fn all(servers: &Path, volume: VolumeId) -> Result<Vec<Server>, Error> {
    let numbers = generations(servers, volume)?;
    Ok(numbers.into_iter().map(|number| Server::of(servers, volume, number)).collect())
}

/// The volumes that have a server, or had one.
pub(crate) fn volumes(servers: &Path) -> Result<Vec<VolumeId>, Error> {
    let names = names(servers)?;
    Ok(names.iter().filter_map(|name| VolumeId::parse(name)).collect())
}

fn generations(servers: &Path, volume: VolumeId) -> Result<Vec<u64>, Error> {
    let names = names(&servers.join(volume.to_string()))?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

fn names(folder: &Path) -> Result<Vec<String>, Error> {
    match fs::read_dir(folder) {
        Ok(entries) => {
            Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(format_args!("read {}", folder.display()), error)),
    }
}

/// For root alone: the image is a file in it.
fn private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A cgroup of this name, where the kernel's unified tree is.
fn cgroup(unit: &str) -> Option<PathBuf> {
    let trees = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    trees.into_iter().find(|tree| tree.join("cgroup.procs").exists()).map(|tree| tree.join(unit))
}

/// Whether systemd looks after this machine.
pub(crate) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

impl Place {
    /// In a container a server would end with it, and take the volume from whoever has it elsewhere on the host.
    pub(crate) fn may_serve(&self) -> Result<(), Error> {
        /// The kernel's number of the first namespace of processes.
        const FIRST: &str = "pid:[4026531836]";
        let is_host =
            fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace.as_os_str() == FIRST);
        if is_host || self.anywhere {
            return Ok(());
        }
        Err(Error::precondition(
            "the daemon has a process namespace of its own, as in a container, and a server that it starts would end \
             with it: run it on the host, or say `node.servers = \"here\"` where that namespace outlives every volume",
        ))
    }
}
