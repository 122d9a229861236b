//! Runs a granted command line for a guest: without a shell, as a user without powers, with `no_new_privs`,
//! an empty environment, no standard input, the root directory for its own, a read-only file system without
//! volumes (`confine.rs`), and in a process group that dies with the deadline or with the call. What may be run
//! at all is `grants/commands.rs`.
//!
//! A command that was killed, or ended by a signal, may have done its work: the call is noted as uncertain,
//! so that no refusal of the guest's is final.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use kato_orchestrator::Error;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Child,
    time::timeout,
};

use crate::{
    confine,
    grants::commands::Line,
    guest::{Guest, Reach},
    v1::abi::kato::storage::{
        commands::{Host, Output},
        types,
    },
};

/// The most that is read of each of a command's outputs.
const LARGEST: u64 = 8 << 20;

impl Host for Guest {
    async fn run(&mut self, name: String, holes: Vec<(String, String)>) -> Result<Output, types::Error> {
        self.reach.run(&name, &holes).await.map_err(|error| self.reach.answer_error(&error))
    }
}

impl Reach {
    async fn run(&self, name: &str, holes: &[(String, String)]) -> Result<Output, Error> {
        let line = self.ground.powers.commands.line(name)?;
        self.execute(name, line, line.fill(holes)?).await
    }

    async fn execute(&self, name: &str, line: &Line, arguments: Vec<String>) -> Result<Output, Error> {
        let program = line.program.clone();
        let (uid, gid, writable) = (line.grant.uid, line.grant.gid, line.grant.writable);
        let started = self.ground.engine.thread(move || {
            if !writable {
                confine::this_thread(&program).map_err(Unstarted::Unconfined)?;
            }
            start(&program, &arguments, uid, gid).map_err(Unstarted::Failed)
        });
        let child = started.await?.map_err(|unstarted| unstarted.told(name, &line.program))?;
        let mut group = Group::of(child);
        let limit = Duration::from_millis(line.grant.timeout_ms.max(1));
        let ended = timeout(limit, group.end()).await;
        let (status, stdout, stderr) = match ended {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => {
                self.notes.uncertain();
                return Err(Error::unavailable(format!("the command {name:?} was killed: {error}")).pending());
            }
            Err(_late) => {
                self.notes.uncertain();
                return Err(Error::unavailable(format!(
                    "the command {name:?} did not end within {} ms and was killed",
                    line.grant.timeout_ms
                ))
                .pending());
            }
        };
        group.ended();
        let Some(code) = status.code() else {
            self.notes.uncertain();
            return Err(Error::unavailable(format!(
                "the command {name:?} was ended by signal {}",
                status.signal().unwrap_or_default()
            ))
            .pending());
        };
        Ok(Output { status: code, stdout: text(stdout), stderr: text(stderr) })
    }
}

/// Why a command was not started.
enum Unstarted {
    Unconfined(io::Error),
    Failed(io::Error),
}

impl Unstarted {
    fn told(self, name: &str, program: &Path) -> Error {
        let program = program.display();
        match self {
            Self::Unconfined(error) if error.kind() == io::ErrorKind::NotFound => {
                Error::unavailable(format!("the command {name:?} ({program}) could not be started: {error}"))
                    .caused_by(error)
            }
            Self::Unconfined(error) => Error::permission_denied(format!(
                "the command {name:?} ({program}) was not run, because it could not be given a read-only file system \
                 ({error}): run the daemon with CAP_SYS_ADMIN, or grant the command `writable = true` if it may \
                 write to this host"
            ))
            .caused_by(error),
            Self::Failed(error) => {
                Error::unavailable(format!("the command {name:?} ({program}) could not be started: {error}"))
                    .caused_by(error)
            }
        }
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Starts the command from a thread that has given up new privileges: the child inherits that, and the rest
/// of the daemon does not.
fn start(program: &Path, arguments: &[String], uid: u32, gid: u32) -> io::Result<Child> {
    rustix::thread::set_no_new_privs(true)?;
    #[expect(clippy::disallowed_methods, reason = "the operator's grant names the program, nobody else does")]
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if rustix::process::geteuid().is_root() {
        // With a new uid and no groups given, the standard library drops root's supplementary groups.
        command.uid(uid).gid(gid);
    }
    command.spawn()
}

/// A command and all that it started.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    fn of(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self { child, id }
    }

    async fn end(&mut self) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), std::io::Error> {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let (stdout, stderr) = tokio::try_join!(all(stdout), all(stderr))?;
        Ok((self.child.wait().await?, stdout, stderr))
    }

    /// Its leader was waited for: the id may belong to somebody else soon.
    fn ended(&mut self) {
        self.kill();
        self.id = None;
    }

    fn kill(&self) {
        if let Some(id) = self.id {
            // It may be gone already; then there is nothing to kill.
            let _gone = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn all(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(LARGEST + 1).read_to_end(&mut bytes).await?;
    }
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LARGEST {
        return Err(std::io::Error::other("it wrote more than 8 MiB"));
    }
    Ok(bytes)
}
