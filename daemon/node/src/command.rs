//! The only file that names programs. Each is looked for in the operator's folders, run without a shell, with
//! an empty environment and nothing to read; what it says is kept for people. It also starts our own
//! workers. Programs that touch a device are run by a worker, never by the daemon itself, and belong to the
//! worker's process group, so that they end with it.
#![expect(clippy::disallowed_methods, reason = "this is the file that starts programs")]

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use kato_orchestrator::Error;
use serde::{Deserialize, Serialize};
use tokio::process::Child;

use crate::accounts::Plain;

/// A program that we may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    MkfsExt4,
    MkfsXfs,
    E2fsck,
    Resize2fs,
    XfsRepair,
    Rbd,
    RbdNbd,
    Ceph,
    QemuStorageDaemon,
    Iscsiadm,
    Multipath,
    Multipathd,
    SystemdRun,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::MkfsExt4 => "mkfs.ext4",
            Self::MkfsXfs => "mkfs.xfs",
            Self::E2fsck => "e2fsck",
            Self::Resize2fs => "resize2fs",
            Self::XfsRepair => "xfs_repair",
            Self::Rbd => "rbd",
            Self::RbdNbd => "rbd-nbd",
            Self::Ceph => "ceph",
            Self::QemuStorageDaemon => "qemu-storage-daemon",
            Self::Iscsiadm => "iscsiadm",
            Self::Multipath => "multipath",
            Self::Multipathd => "multipathd",
            Self::SystemdRun => "systemd-run",
        }
    }

    /// The Debian package that has it.
    fn package(self) -> &'static str {
        match self {
            Self::MkfsExt4 | Self::E2fsck | Self::Resize2fs => "e2fsprogs",
            Self::MkfsXfs | Self::XfsRepair => "xfsprogs",
            Self::Rbd | Self::Ceph => "ceph-common",
            Self::RbdNbd => "rbd-nbd",
            Self::QemuStorageDaemon => "qemu-system-common",
            Self::Iscsiadm => "open-iscsi",
            Self::Multipath | Self::Multipathd => "multipath-tools",
            Self::SystemdRun => "systemd",
        }
    }
}

/// How programs are run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Programs {
    /// The folders where they are looked for.
    folders: Vec<PathBuf>,
    /// The lock that they keep as long as they run: their standard input, in which there is nothing.
    #[serde(skip)]
    lock: Option<Arc<File>>,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; nothing when a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) printed: String,
    /// What it said, on one line.
    pub(crate) words: String,
}

impl Programs {
    /// Programs of these folders.
    pub(crate) fn within(folders: Vec<PathBuf>) -> Self {
        Self { folders, lock: None }
    }

    /// Whatever runs from now on keeps this lock.
    pub(crate) fn keep(&mut self, lock: &Arc<File>) {
        self.lock = Some(Arc::clone(lock));
    }

    /// Where a program is, or which package would bring it.
    pub(crate) fn find(&self, program: Program) -> Result<PathBuf, Error> {
        self.folders
            .iter()
            .map(|folder| folder.join(program.name()))
            .find(|path| is_program(path))
            .ok_or_else(|| {
                Error::precondition(format!(
                    "the program {} is not installed on this node: install the package {}",
                    program.name(),
                    program.package()
                ))
            })
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, program: Program, arguments: &[&OsStr]) -> Result<Ended, Error> {
        let (path, mut command) = self.command(program)?;
        if let Some(lock) = &self.lock {
            let lock =
                lock.try_clone().map_err(|error| crate::errno::failed("keep the volume's lock", error))?;
            command.stdin(lock);
        }
        let output = command
            .args(arguments)
            .output()
            .map_err(|error| crate::errno::failed(format_args!("run {}", path.display()), error))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = said(&output.stdout);
        let complaints = said(&output.stderr);
        if !words.is_empty() && !complaints.is_empty() {
            words.push_str("; ");
        }
        words.push_str(&complaints);
        Ok(Ended { code: output.status.code(), printed, words })
    }

    /// Starts a server that goes into the background by itself, and waits until it did. It does not
    /// keep the volume's lock: it outlives whatever is done for it. What it is handed it reads from its standard input.
    pub(crate) fn start_server(
        &self,
        program: Program,
        arguments: &[String],
        handed: Option<&Plain>,
        unit: &str,
        limit: Duration,
    ) -> Result<(), Error> {
        let (path, mut command) = match crate::server::has_systemd() {
            false => self.command(program)?,
            true => {
                let (_, mut command) = self.command(Program::SystemdRun)?;
                let path = self.find(program)?;
                command.args(["--scope", "--quiet", "--collect", "--unit", unit, "--"]).arg(&path);
                (path, command)
            }
        };
        let what = |error| crate::errno::failed(format_args!("start {}", path.display()), error);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).current_dir("/");
        if handed.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().map_err(what)?;
        if let (Some(handed), Some(mut pipe)) = (handed, child.stdin.take()) {
            match pipe.write_all(handed.expose().as_bytes()) {
                // It ended before it read, and says why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                outcome => outcome.map_err(what)?,
            }
        }
        let mut waited = Duration::ZERO;
        let tick = Duration::from_millis(5);
        let status = loop {
            match child.try_wait().map_err(what)? {
                Some(status) => break status,
                None if waited >= limit => {
                    child.kill().and_then(|()| child.wait()).map_err(what)?;
                    return Err(Error::unavailable(format!(
                        "{} did not serve within {} s: what it serves from does not answer",
                        program.name(),
                        limit.as_secs()
                    )));
                }
                None => std::thread::sleep(tick),
            }
            waited += tick;
        };
        if status.success() {
            return Ok(());
        }
        let mut complaints = Vec::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_end(&mut complaints).map_err(what)?;
        }
        Err(Error::unavailable(format!("{} could not serve: {}", program.name(), said(&complaints))))
    }

    /// A program without arguments.
    fn command(&self, program: Program) -> Result<(PathBuf, Command), Error> {
        let path = self.find(program)?;
        let search = std::env::join_paths(&self.folders).map_err(|error| {
            Error::invalid("a folder for programs has a colon in its name").caused_by(error)
        })?;
        let mut command = Command::new(&path);
        command.env_clear().env("PATH", search).env("LC_ALL", "C").stdin(Stdio::null());
        Ok((path, command))
    }
}

impl Ended {
    /// Its end in words, for an error.
    pub(crate) fn describe(&self, program: Program) -> String {
        let how = self.code.map_or_else(|| "was killed".into(), |code| format!("ended with {code}"));
        if self.words.is_empty() {
            format!("{} {how}", program.name())
        } else {
            format!("{} {how}: {}", program.name(), self.words)
        }
    }
}

/// Starts a worker that hears us on its standard input. It gets a process group of its own, so that a stop
/// of the daemon does not cut its work short, and so that it can be ended together with its programs.
pub(crate) fn start_worker(line: &[OsString]) -> io::Result<(Child, StdStream)> {
    let (ours, theirs) = StdStream::pair()?;
    let mut command = tokio::process::Command::from(worker_command(line, theirs)?);
    Ok((command.spawn()?, ours))
}

/// Starts a worker from within a worker.
pub(crate) fn start_watchdog(line: &[OsString]) -> io::Result<(std::process::Child, StdStream)> {
    let (ours, theirs) = StdStream::pair()?;
    Ok((worker_command(line, theirs)?.spawn()?, ours))
}

fn worker_command(line: &[OsString], theirs: StdStream) -> io::Result<Command> {
    use std::os::unix::process::CommandExt as _;
    let (program, arguments) =
        line.split_first().ok_or_else(|| io::Error::other("the worker's command line is empty"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .process_group(0);
    Ok(command)
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The last lines of what a program said, joined.
fn said(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(8);
    lines.get(from..).unwrap_or_default().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_its_package() {
        let error = Programs::within(vec!["/nowhere".into()]).find(Program::MkfsXfs).unwrap_err();
        assert!(error.message.contains("mkfs.xfs") && error.message.contains("xfsprogs"), "{error}");
    }
}
