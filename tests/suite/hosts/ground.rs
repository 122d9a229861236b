//! The region, and what a test asks of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kato_tests::{
    ceph::Cluster,
    etcd::Etcd,
    machine::{Cable, Machine, Process},
};
use serde_json::{Value, json};

use crate::ceph::ground::Node;

/// How long a host is believed to live that is not heard.
pub(super) const LEASE: u64 = 5;

/// What the hosts are called.
pub(super) const NAMES: [&str; 3] = ["one", "two", "three"];

/// The machines, before anything runs on them.
pub(super) struct Machines {
    pub(super) middle: Machine,
    pub(super) hosts: [Machine; 3],
    pub(super) cables: [Cable; 3],
}

impl Machines {
    pub(super) fn start() -> Self {
        let middle = Machine::start();
        let hosts = NAMES.map(|_| Machine::start());
        let cable = |number: u8| middle.link(&hosts[usize::from(number)], number);
        let cables = [cable(0), cable(1), cable(2)];
        Self { middle, hosts, cables }
    }
}

/// A region where everything runs.
pub(super) struct Region<'m> {
    machines: &'m Machines,
    pub(super) etcd: Etcd,
    pub(super) cluster: Cluster<'m>,
    pub(super) nodes: Vec<Node<'m>>,
}

impl<'m> Region<'m> {
    pub(super) fn start(machines: &'m Machines) -> Self {
        let etcd = Etcd::start_three_in(&machines.middle);
        let cluster = Cluster::start_in_the_middle(&machines.middle);
        let sections = sections(&etcd, &cluster);
        let start = |number: usize| Node::start_called(&machines.hosts[number], NAMES[number], &sections);
        let nodes = (0..NAMES.len()).map(start).collect();
        Self { machines, etcd, cluster, nodes }
    }

    /// Where a host is, as the others see it.
    pub(super) fn state_of(&self, host: usize, seen_by: usize) -> String {
        let nodes = self.nodes[seen_by].told("node ls");
        let known = nodes.as_array().unwrap().iter().find(|node| node["name"] == NAMES[host]);
        known.map_or_else(|| "unknown".to_owned(), |node| node["state"].as_str().unwrap().to_owned())
    }

    /// Mounts where that is possible now.
    pub(super) fn try_take(&self, host: usize, volume: &str, holder: &str) -> Result<PathBuf, String> {
        let answer = self.nodes[host].wire().call("Mount", json!({ "Name": volume, "ID": holder }));
        match answer["Err"].as_str() {
            None | Some("") => {
                Ok(self.machines.hosts[host].path(Path::new(answer["Mountpoint"].as_str().unwrap())))
            }
            Some(error) => Err(error.to_owned()),
        }
    }

    /// Begins to write rows to a volume that a host has: each is flushed before it is acknowledged.
    pub(super) fn write(&self, host: usize, rows: &Path, acknowledged: &Path) -> Process {
        let root = self.machines.hosts[host].path("/");
        let inside = Path::new("/").join(rows.strip_prefix(root).unwrap());
        let line = format!(
            "i=0; while i=$((i + 1)); do echo $i >> {rows} && sync {rows} && echo $i >> {acknowledged} || exit 1; \
             sleep 0.01; done",
            rows = inside.display(),
            acknowledged = acknowledged.display()
        );
        self.machines.hosts[host].spawn("/bin/sh", "writer.log", |command| {
            command.args(["-c", &line]);
        })
    }

    /// What a host's daemon answers to a request that only looks.
    pub(super) fn get(&self, host: usize, volume: &str) -> Value {
        self.nodes[host].wire().call("Get", json!({ "Name": volume }))
    }
}

/// What all hosts are told.
fn sections(etcd: &Etcd, cluster: &Cluster<'_>) -> String {
    format!(
        "[cluster]\nid = \"0123456789abcdef0123456789abcdef\"\n\
         [store]\nkind = \"etcd\"\n[store.etcd]\nendpoints = {:?}\nlease = \"{LEASE}s\"\npatience = \"5s\"\n\
         [node]\nservers = \"here\"\nidle-grace = \"1s\"\n[limits]\nwatch-every = \"1s\"\ntidy-every = \"1s\"\n\
         [class.ceph]\nbackend = \"ceph\"\nfs = \"xfs\"\n[backend.ceph]\nplugin = \"rbd\"\n{}",
        etcd.endpoints(),
        cluster.grants_toml("backend.ceph")
    )
}

/// The rows of a file: whole ones, from the first on, without a gap.
pub(super) fn rows(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut last = 0;
    for (number, line) in (1..).zip(whole.lines()) {
        assert_eq!(line, number.to_string(), "row {number} of {}", file.display());
        last = number;
    }
    last
}
