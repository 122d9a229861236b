//! How the tasks run programs: from the root of the repository, echoed, and stopped at the first failure.
//!
//! The environment that `cargo run` gave to this program is taken out again before cargo is called, so that
//! build scripts see what they would see from a plain shell and nothing is built twice.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Why a task ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The program that failed has already said why, and its words shall be the last.
    Told,
    /// This is why.
    Because(String),
}

impl Failure {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Self::Because(reason.into())
    }
}

pub(crate) type Fallible<T = ()> = Result<T, Failure>;

/// The guests' workspaces: each is built for wasm32-wasip2 and stands outside the main workspace.
const GUEST_WORKSPACES: [&str; 2] = ["plugins", "tests/guests"];

/// Where the guests are built: the same folder for every task and for the plugin host's build script.
pub(crate) const GUEST_TARGET: &str = "target/plugins";

/// The repository, and how to run programs in it.
#[derive(Debug)]
pub(crate) struct Shell {
    root: PathBuf,
}

impl Shell {
    pub(crate) fn new() -> Fallible<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let root = match manifest.as_deref().and_then(Path::parent) {
            Some(root) => root.to_path_buf(),
            None => env::current_dir()
                .map_err(|error| Failure::because(format!("there is no current folder: {error}")))?,
        };
        Ok(Self { root })
    }

    /// A path of the repository.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// A program in the root of the repository.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        for (key, _) in env::vars_os() {
            let key = key.to_string_lossy();
            if key.starts_with("CARGO_PKG_")
                || key.starts_with("CARGO_MANIFEST_")
                || key.starts_with("CARGO_BIN_")
            {
                command.env_remove(&*key);
            }
        }
        command
    }

    /// Cargo, the one that runs us.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut command = self.command(&cargo);
        command.args(arguments);
        command
    }

    /// The guests' workspaces that there are, as paths of their manifests.
    pub(crate) fn guest_manifests(&self) -> Vec<String> {
        GUEST_WORKSPACES
            .iter()
            .map(|folder| format!("{folder}/Cargo.toml"))
            .filter(|manifest| self.path(manifest).is_file())
            .collect()
    }

    /// Makes sure that guests can be built. The toolchain file names the target, but where rustup does not
    /// install what is missing by itself the build would fail much later, with E0463.
    pub(crate) fn ensure_guest_target(&self) -> Fallible {
        let installed = self
            .command("rustc")
            .args(["--print", "target-libdir", "--target", "wasm32-wasip2"])
            .output()
            .ok()
            .filter(|answer| answer.status.success())
            .map(|answer| PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()));
        if installed.is_some_and(|folder| folder.is_dir()) {
            return Ok(());
        }
        if find_program("rustup").is_none() {
            return Err(Failure::because(
                "the Rust target wasm32-wasip2 is missing and there is no rustup to fetch it: \
                 install the target's standard library with the package manager that rustc came from",
            ));
        }
        run(self.command("rustup").args(["target", "add", "wasm32-wasip2"]))
    }
}

/// Runs a program to its end, its output being ours.
pub(crate) fn run(command: &mut Command) -> Fallible {
    println!("$ {}", spelled(command));
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::because(format!("`{}` failed: {status}", spelled(command)))),
        Err(error) => Err(Failure::because(format!("`{}` does not start: {error}", spelled(command)))),
    }
}

/// The command as a person would type it.
pub(crate) fn spelled(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line =
        program.file_name().unwrap_or_else(|| command.get_program()).to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        line.push(' ');
        if argument.contains([' ', '(', '&', '|', '*', '^']) {
            line.push('\'');
            line.push_str(&argument);
            line.push('\'');
        } else {
            line.push_str(&argument);
        }
    }
    line
}

/// Where a program is, looking also where root's programs live.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Whether we are root: only root mounts.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|of_us| of_us.uid() == 0)
}

/// Whether a missing peer is a failure rather than a remark.
pub(crate) fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// What something took.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_spelled_as_it_would_be_typed() {
        let mut command = Command::new("/opt/bin/cargo");
        command.args(["nextest", "run", "-E", "test(/^hall::/)"]);
        assert_eq!(spelled(&command), "cargo nextest run -E 'test(/^hall::/)'");
    }
}
