//! A daemon to measure: the `kato` of the same build, in folders of its own, with nothing in it but what its
//! own defaults put there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Fallible,
    clock::once,
    door::{Door, Line},
};

/// A running daemon; it is asked to end when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    folder: PathBuf,
    /// From the start of the program to its first answer.
    pub(crate) start_up: Duration,
}

impl Daemon {
    /// Starts one on this folder and waits for its first answer.
    pub(crate) fn start(folder: &Path) -> Fallible<Self> {
        Self::start_with(folder, "")
    }

    /// Starts one with its CSI door open. What waits there waits longer than usual, so that it is timed to its end.
    pub(crate) fn start_with_csi(folder: &Path) -> Fallible<Self> {
        Self::start_with(
            folder,
            &format!("[csi]\nenabled = true\nsocket = {:?}\nwait = \"60s\"\n", csi_of(folder)),
        )
    }

    fn start_with(folder: &Path, sections: &str) -> Fallible<Self> {
        let config = configure(folder, &socket_of(folder), sections)?;
        let log = fs::File::create(folder.join("log"))?;
        let mut child = spawn(
            program(&binary()?.to_string_lossy()).arg("serve").arg("--config").arg(&config).stderr(log),
        )?;
        let (answered, start_up) = once(|| {
            for _ in 0..60_000 {
                if Door::open(&socket_of(folder)).and_then(|mut door| door.list()).is_ok() {
                    return Ok(true);
                }
                if child.try_wait()?.is_some() {
                    return Ok(false);
                }
                thread::sleep(Duration::from_millis(2));
            }
            Ok(false)
        })?;
        let daemon = Self { child, folder: folder.to_path_buf(), start_up };
        if answered { Ok(daemon) } else { Err(format!("the daemon did not start: {}", daemon.log()).into()) }
    }

    pub(crate) fn door(&self) -> Fallible<Door> {
        Door::open(&self.socket())
    }

    /// Where the Docker door is.
    pub(crate) fn socket(&self) -> PathBuf {
        socket_of(&self.folder)
    }

    /// Where the CSI door is, if it is open.
    pub(crate) fn csi(&self) -> PathBuf {
        csi_of(&self.folder)
    }

    /// How often the journal is flushed for one piece of work when nobody shares.
    pub(crate) fn flushes_of(
        &self,
        count: usize,
        mut work: impl FnMut(usize) -> Fallible,
    ) -> Fallible<usize> {
        let before = self.flushes()?;
        for number in 0..count {
            work(number)?;
        }
        let each = (self.flushes()? - before) / f64::from(u32::try_from(count)?);
        Ok((0..100)
            .find(|whole| f64::from(*whole) + 0.5 > each)
            .and_then(|whole| usize::try_from(whole).ok())
            .unwrap_or(100))
    }

    /// How often the journal was flushed so far, from the metrics page.
    fn flushes(&self) -> Fallible<f64> {
        let page = Line::open(&self.folder.join("run/admin.sock"))?.ask("GET", "/metrics", "")?;
        let page = String::from_utf8_lossy(&page);
        let line = page.lines().find(|line| line.starts_with("kato_journal_fsync_seconds_count"));
        let value =
            line.and_then(|line| line.rsplit(' ').next()).ok_or("no flush is counted in the metrics")?;
        Ok(value.parse()?)
    }

    /// Resident memory in MiB.
    pub(crate) fn memory(&self) -> Fallible<f64> {
        self.mebibytes("VmRSS:")
    }

    /// The most that it ever was.
    pub(crate) fn most_memory(&self) -> Fallible<f64> {
        self.mebibytes("VmHWM:")
    }

    fn mebibytes(&self, what: &str) -> Fallible<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(what));
        let line = line.ok_or_else(|| format!("the kernel tells no {what}"))?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let asked = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        if asked {
            // Its own end is bounded; a bench that hangs here would hide a daemon that does not stop.
            drop(self.child.wait());
        }
    }
}

/// Writes a configuration with everything in this folder, and answers where it is.
fn configure(folder: &Path, socket: &Path, sections: &str) -> Fallible<PathBuf> {
    let run = folder.join("run");
    fs::create_dir_all(&run)?;
    let config = folder.join("config.toml");
    fs::write(
        &config,
        format!(
            "[folders]\ndata = {:?}\nrun = {run:?}\n[docker]\nsocket = {socket:?}\n[node]\nid = \"bench\"\n\
             idle-grace = \"0s\"\n[log]\nlevel = \"warn\"\n{sections}",
            data_of(folder),
        ),
    )?;
    Ok(config)
}

/// The folder of the daemon's journal and volumes.
pub(crate) fn data_of(folder: &Path) -> PathBuf {
    folder.join("data")
}

fn socket_of(folder: &Path) -> PathBuf {
    folder.join("run/kato.sock")
}

fn csi_of(folder: &Path) -> PathBuf {
    folder.join("run/csi.sock")
}

/// `kato` lies beside the folder of test binaries that we run from.
fn binary() -> Fallible<PathBuf> {
    let us = std::env::current_exe()?;
    let binary = us.ancestors().nth(2).ok_or("we are nowhere")?.join("kato");
    if binary.is_file() { Ok(binary) } else { Err(format!("{} is not built", binary.display()).into()) }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the bench starts the daemon and the programs it is held against"
)]
pub(crate) fn program(name: &str) -> Command {
    Command::new(name)
}

fn spawn(command: &mut Command) -> Fallible<Child> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?)
}

/// Runs a program to its end; its standard output is the answer.
pub(crate) fn run(command: &mut Command) -> Fallible<String> {
    let answer = command.stdin(Stdio::null()).output()?;
    if !answer.status.success() {
        let said = String::from_utf8_lossy(&answer.stderr);
        return Err(format!("{:?} failed: {said}", command.get_program()).into());
    }
    Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
}
