//! A machine with a cluster, a daemon that has a class `ceph` in it, and what a test asks of the three. A second node is
//! a machine beside the first that reaches the same cluster.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kato_tests::{ceph::Cluster, daemon::Daemon, machine::Machine};
use serde_json::{Value, json};

use crate::docker::wire::Wire;

/// What both nodes of a test are told: they are one cluster of ours, with records of their own.
const HOUSE: &str = "[cluster]\nid = \"0123456789abcdef0123456789abcdef\"\n[node]\nservers = \"here\"\n\
                     idle-grace = \"1s\"\n[limits]\nwatch-every = \"1s\"\ntidy-every = \"1s\"\n\
                     [class.ceph]\nbackend = \"ceph\"\nfs = \"xfs\"\n";

/// What a daemon is told of a cluster.
pub(crate) fn sections(cluster: &Cluster<'_>) -> String {
    format!("{HOUSE}[backend.ceph]\nplugin = \"rbd\"\n{}", cluster.grants_toml("backend.ceph"))
}

/// A daemon on a machine that reaches a cluster.
pub(crate) struct Node<'m> {
    machine: &'m Machine,
    pub(crate) daemon: Daemon<'m>,
}

impl<'m> Node<'m> {
    pub(crate) fn start(machine: &'m Machine, cluster: &Cluster<'_>) -> Self {
        Self::start_with(machine, &sections(cluster))
    }

    /// One that is told more.
    pub(crate) fn start_with(machine: &'m Machine, sections: &str) -> Self {
        Self { machine, daemon: Daemon::start_with(machine, sections) }
    }

    /// One of several that share their records.
    pub(crate) fn start_called(machine: &'m Machine, name: &str, sections: &str) -> Self {
        Self { machine, daemon: Daemon::start_called(machine, name, sections) }
    }

    /// The Docker door.
    pub(crate) fn wire(&self) -> Wire {
        Wire(self.daemon.docker_socket())
    }

    /// Makes a volume.
    pub(crate) fn make(&self, name: &str, options: Value) {
        let mut options = options;
        options["class"] = json!("ceph");
        self.wire().done("Create", json!({ "Name": name, "Opts": options }));
    }

    /// Mounts one, and answers where that is seen from outside.
    pub(crate) fn take(&self, name: &str, holder: &str) -> PathBuf {
        let answer = self.wire().done("Mount", json!({ "Name": name, "ID": holder }));
        self.machine.path(Path::new(answer["Mountpoint"].as_str().unwrap()))
    }

    /// Gives it back.
    pub(crate) fn give(&self, name: &str, holder: &str) {
        self.wire().done("Unmount", json!({ "Name": name, "ID": holder }));
    }

    pub(crate) fn remove(&self, name: &str) {
        self.wire().done("Remove", json!({ "Name": name }));
    }

    /// Runs `kato` with these words: what it printed, or what it complained about.
    pub(crate) fn kato(&self, words: &str) -> Result<String, String> {
        let output = self.daemon.kato(&words.split(' ').collect::<Vec<_>>());
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    /// What `kato` says as JSON.
    pub(crate) fn told(&self, words: &str) -> Value {
        let text = self.kato(&format!("{words} -o json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The folders of servers of block devices that are there, by volume.
    pub(crate) fn servers(&self) -> Vec<PathBuf> {
        let folder = self.machine.path(self.machine.folder().join("kato/mnt/servers"));
        let volumes = fs::read_dir(folder).into_iter().flatten().flatten();
        volumes
            .flat_map(|volume| fs::read_dir(volume.path()).unwrap().flatten())
            .map(|one| one.path())
            .collect()
    }

    /// The only server's process, as its machine numbers it.
    pub(crate) fn server(&self) -> String {
        let servers = self.servers();
        let [only] = servers.as_slice() else { panic!("{servers:?}") };
        fs::read_to_string(only.join("pid")).unwrap().trim().to_owned()
    }

    /// Sends the only server a signal.
    pub(crate) fn signal_server(&self, signal: &str) {
        self.run(&format!("kill -{signal} {}", self.server()));
    }

    /// The only server's loop device, and which of that device's uses this is.
    pub(crate) fn device(&self) -> (String, String) {
        let servers = self.servers();
        let [only] = servers.as_slice() else { panic!("{servers:?}") };
        let written = fs::read_to_string(only.join("device")).unwrap();
        let (device, turn) = written.split_once(' ').unwrap();
        assert!(is_used(device, turn), "{written}");
        (device.to_owned(), turn.to_owned())
    }

    /// Runs a shell line on the machine.
    pub(crate) fn run(&self, line: &str) -> String {
        let output = self.machine.shell(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Nothing of any volume is left on the node.
    pub(crate) fn has_let_go(&self) {
        assert_eq!(self.servers(), [""; 0].map(PathBuf::from));
        let folder = self.machine.folder().join("kato");
        let loops = self.run("losetup -nO BACK-FILE || true");
        assert!(!loops.contains(&folder.display().to_string()), "{loops}");
        let mounts = self.run("cat /proc/mounts");
        assert!(!mounts.contains(&folder.display().to_string()), "{mounts}");
    }
}

/// Whether a loop device still has what it had in this use of it. The kernel tells its file's name to all namespaces.
pub(crate) fn is_used(device: &str, turn: &str) -> bool {
    let folder = Path::new("/sys/block").join(Path::new(device).file_name().unwrap());
    folder.join("loop/backing_file").exists()
        && fs::read_to_string(folder.join("diskseq")).unwrap().trim() == turn
}

/// Nothing of ours is left in the cluster's pool.
pub(crate) fn is_empty(cluster: &Cluster<'_>) {
    assert_eq!((cluster.images(), cluster.trash(), cluster.snapshots()), (vec![], vec![], vec![]));
}
