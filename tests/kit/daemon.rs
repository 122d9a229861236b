//! The daemon itself, as it is shipped: the binary `kato` with a configuration of the test's own, inside of a
//! [`Machine`]. Its data is in the machine's folder and survives its end; its sockets are in the machine's
//! `/run`, where dockerd looks for them.

#![expect(clippy::expect_used, reason = "a daemon that does not start ends the test, in words")]

use std::{
    env, fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use crate::machine::{Machine, Process, until};

/// Where the Docker door is, inside of the machine.
const DOCKER_SOCKET: &str = "/run/docker/plugins/kato.sock";

/// A running daemon.
#[derive(Debug)]
pub struct Daemon<'m> {
    machine: &'m Machine,
    /// What its node is called.
    node: String,
    /// What it finds in its environment besides.
    environment: Vec<(String, String)>,
    process: Process,
}

impl<'m> Daemon<'m> {
    /// Starts one with nothing configured but its folders.
    #[must_use]
    pub fn start(machine: &'m Machine) -> Self {
        Self::start_with(machine, "")
    }

    /// Starts one with these further sections.
    #[must_use]
    pub fn start_with(machine: &'m Machine, sections: &str) -> Self {
        Self::start_in(machine, sections, &[])
    }

    /// The same with these variables in its environment, as long as it is started by this.
    #[must_use]
    pub fn start_in(machine: &'m Machine, sections: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_at(machine, "here", sections, environment)
    }

    /// Starts one whose node is called so, among others that share its records.
    #[must_use]
    pub fn start_called(machine: &'m Machine, node: &str, sections: &str) -> Self {
        Self::start_at(machine, node, sections, &[])
    }

    fn start_at(machine: &'m Machine, node: &str, sections: &str, environment: &[(&str, &str)]) -> Self {
        let folder = machine.folder().display();
        let config = format!("[folders]\ndata = \"{folder}/kato\"\nrun = \"/run/kato\"\n{sections}");
        fs::write(config_file(machine), config).expect("a configuration");
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let process = launch(machine, node, &environment);
        let mut this = Self { machine, node: node.to_owned(), environment, process };
        this.wait_until_ready();
        this
    }

    /// Where the Docker door is, seen from outside.
    #[must_use]
    pub fn docker_socket(&self) -> PathBuf {
        self.machine.path(DOCKER_SOCKET)
    }

    /// Runs `kato` with these words, as a person would.
    #[must_use]
    pub fn kato(&self, words: &[&str]) -> Output {
        kato(self.machine).args(words).output().expect("kato")
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its process, seen from outside.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end, and waits until it did.
    pub fn stop(&mut self) {
        let status = self.process.stop();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Starts it again over the same data, and waits until it serves.
    pub fn start_again(&mut self) {
        assert!(!self.process.runs(), "it has to end before it is started again");
        self.process = launch(self.machine, &self.node, &self.environment);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let socket = self.docker_socket();
        until("kato to serve", || {
            assert!(self.process.runs(), "kato ended: {}", self.process.log());
            is_served(&socket).then_some(())
        });
    }
}

/// The binary that was built with this test.
#[must_use]
pub fn binary() -> PathBuf {
    let test = env::current_exe().expect("the test's own path");
    let binary = test.ancestors().nth(2).expect("target/PROFILE").join("kato");
    assert!(binary.exists(), "{} is not there: run `cargo build -p kato` first", binary.display());
    binary
}

fn launch(machine: &Machine, node: &str, environment: &[(String, String)]) -> Process {
    machine.spawn(binary(), "kato.log", |command| {
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.args(["serve", "--set", &format!("node.id={node}"), "--config"]).arg(config_file(machine));
    })
}

fn kato(machine: &Machine) -> Command {
    let mut command = machine.command(binary());
    command.arg("--config").arg(config_file(machine));
    command
}

fn config_file(machine: &Machine) -> PathBuf {
    machine.folder().join("kato.toml")
}

fn is_served(socket: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer.contains("VolumeDriver"))
    };
    ask().unwrap_or(false)
}
