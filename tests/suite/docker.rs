//! The Docker door: what dockerd is like (`peer`), what the door answers to bytes (`door`) and before a slow
//! world (`inside`), and the two together, from `docker volume create` to a crash of either (`volumes`, `restarts`,
//! `managed`, `neighbours`), what takes minutes (`patience`), those who speak to it besides dockerd (`callers`), and our own
//! program in the place of one of them (`dvdcli`).

mod callers;
mod door;
mod dvdcli;
mod inside;
mod managed;
mod neighbours;
mod patience;
mod peer;
mod restarts;
mod volumes;
pub(crate) mod wire;

use std::path::{Path, PathBuf};

use kato_tests::{daemon::Daemon, dockerd::Dockerd, machine::Machine};
use serde_json::{Value, json};

use self::wire::Wire;

/// The daemon's Docker door, without a dockerd.
fn wire(daemon: &Daemon<'_>) -> Wire {
    Wire(daemon.docker_socket())
}

/// What `docker volume inspect` would show of a volume.
fn inspect(wire: &Wire, name: &str) -> Value {
    wire.done("Get", json!({"Name": name}))["Volume"].clone()
}

/// Who holds a volume, as holder and count.
fn holders(wire: &Wire, name: &str) -> Vec<(String, u64)> {
    let volume = inspect(wire, name);
    let holders = volume["Status"]["holders"].as_array().unwrap();
    let mut holders: Vec<(String, u64)> = holders
        .iter()
        .map(|holder| (holder["holder"].as_str().unwrap().to_owned(), holder["count"].as_u64().unwrap()))
        .collect();
    holders.sort();
    holders
}

/// Mounts and answers where, seen from outside of the machine.
fn mount(machine: &Machine, wire: &Wire, request: Value) -> PathBuf {
    let answer = wire.done("Mount", request);
    let path = answer["Mountpoint"].as_str().unwrap();
    assert!(path.starts_with('/'), "{answer}");
    let seen = machine.path(Path::new(path));
    assert!(seen.is_dir(), "{answer}");
    seen
}

/// A machine with both of them.
struct Host<'m> {
    dockerd: Dockerd<'m>,
    wire: Wire,
    daemon: Daemon<'m>,
}

impl<'m> Host<'m> {
    fn start(machine: &'m Machine) -> Self {
        Self::start_with(machine, "")
    }

    fn start_with(machine: &'m Machine, sections: &str) -> Self {
        let daemon = Daemon::start_with(machine, sections);
        let wire = wire(&daemon);
        Self { dockerd: Dockerd::start(machine), wire, daemon }
    }

    fn start_with_live_restore(machine: &'m Machine) -> Self {
        Self::start_with_live_restore_and(machine, "")
    }

    fn start_with_live_restore_and(machine: &'m Machine, sections: &str) -> Self {
        let daemon = Daemon::start_with(machine, sections);
        let wire = wire(&daemon);
        Self { dockerd: Dockerd::start_with_live_restore(machine), wire, daemon }
    }

    /// Runs docker with these words.
    fn docker(&self, words: &str) -> Result<String, String> {
        self.dockerd.docker(&words.split(' ').collect::<Vec<_>>())
    }

    /// Runs a shell line in a container that ends, with these options before the image.
    fn run(&self, options: &str, line: &str) -> Result<String, String> {
        let mut words = vec!["run", "--rm", "--network", "none", "--volume-driver", "kato"];
        words.extend(options.split(' '));
        words.extend([Dockerd::IMAGE, "sh", "-c", line]);
        self.dockerd.docker(&words)
    }

    /// Starts a container that goes on, with these options before the image.
    fn start_container(&self, name: &str, options: &str, line: &str) {
        let mut words = vec!["run", "-d", "--name", name, "--network", "none", "--volume-driver", "kato"];
        words.extend(["--stop-timeout", "1"]);
        words.extend(options.split(' '));
        words.extend([Dockerd::IMAGE, "sh", "-c", line]);
        self.dockerd.docker(&words).unwrap();
    }
}
