//! What lies in a cluster's folder, and which ports are its own. Clients and servers have files of their own: what a
//! client reads (`ceph.conf`) is what an operator would hand out and nothing else, so that nothing works in a test only
//! because of it. All keys are there before the monitor is, which takes them in when it is made; asking it for each
//! would double the time of a start.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    net::TcpListener,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::USER;

/// How large the disk is. It is a sparse file: what is not written takes nothing.
pub(super) const BYTES: u64 = 4 << 30;

/// Who reads a user's key: what is not trusted runs as nobody.
const NOBODY: u32 = 65_534;

/// The first port that a cluster may have. All are below those that Linux gives out by itself.
const FIRST: u16 = 12_000;

/// How many ports a cluster has: two of the monitor, one that is only held, and some for the others.
const WIDTH: u16 = 64;

/// How many clusters there may be at a time.
const MOST: u16 = 256;

/// Powers of those who have a key from the start.
const ENTITIES: [(&str, &[(&str, &str)]); 5] = [
    ("mon.", &[("mon", "allow *")]),
    ("client.admin", &[("mon", "allow *"), ("osd", "allow *"), ("mgr", "allow *")]),
    ("mgr.x", &[("mon", "allow profile mgr"), ("osd", "allow *")]),
    ("osd.0", &[("mon", "allow profile osd"), ("mgr", "allow profile osd"), ("osd", "allow *")]),
    (
        "client.kato",
        &[("mon", "profile rbd"), ("osd", "profile rbd pool=kato"), ("mgr", "profile rbd pool=kato")],
    ),
];

/// A cluster's folder.
#[derive(Debug)]
pub(super) struct Site {
    folder: TempDir,
    ports: Ports,
    address: &'static str,
    pub(super) fsid: String,
    pub(super) osd_uuid: String,
    pub(super) conf: PathBuf,
    pub(super) keyring: PathBuf,
    pub(super) wrong_keyring: PathBuf,
}

impl Site {
    /// A new folder, and ports that nobody has. In a machine nobody else has any.
    pub(super) fn choose(address: &'static str, in_machine: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("kato-ceph-").tempdir().expect("a folder");
        // Whoever is to read the key has to get there.
        open_to(folder.path(), 0o755);
        let path = |name: &str| folder.path().join(name);
        Self {
            ports: if in_machine { Ports { first: FIRST, _held: None } } else { Ports::take() },
            address,
            fsid: uuid(),
            osd_uuid: uuid(),
            conf: path("ceph.conf"),
            keyring: path(&format!("client.{USER}.keyring")),
            wrong_keyring: path("wrong.keyring"),
            folder,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the servers read.
    pub(super) fn servers_conf(&self) -> PathBuf {
        self.path("servers.conf")
    }

    /// Where the monitor listens, in both of its protocols.
    pub(super) fn monitors(&self) -> String {
        let (first, address) = (self.ports.first, self.address);
        format!("[v2:{address}:{first},v1:{address}:{}]", first + 1)
    }

    /// Writes all files, with keys from where they are made.
    pub(super) fn furnish(&self, bytes: u64, key: impl Fn() -> String) {
        for name in ["mon", "mgr", "osd", "run", "log"] {
            fs::create_dir(self.path(name)).expect("a folder");
        }
        let everybody = format!("[global]\nfsid = {}\nmon_host = {}\n", self.fsid, self.monitors());
        fs::write(&self.conf, &everybody).expect("a configuration");
        open_to(&self.conf, 0o644);
        fs::write(self.servers_conf(), everybody + &self.of_servers(bytes)).expect("a configuration");
        let mut first = String::new();
        for (entity, powers) in ENTITIES {
            let key = key();
            let text = format!("[{entity}]\n\tkey = {key}\n");
            first.push_str(&text);
            for (kind, power) in powers {
                writeln!(first, "\tcaps {kind} = \"{power}\"").expect("a string takes everything");
            }
            write_keyring(&self.path(&format!("{entity}.keyring")), &text);
        }
        write_keyring(&self.path("first.keyring"), &first);
        write_keyring(&self.wrong_keyring, &format!("[client.{USER}]\n\tkey = {}\n", key()));
        hand_out(&self.keyring);
        hand_out(&self.wrong_keyring);
    }

    /// One copy of everything, few placement groups, and nothing that happens by itself while a test looks. A server that
    /// a test held still for minutes must not take that for a fault of its own, and end.
    fn of_servers(&self, bytes: u64) -> String {
        let folder = self.folder.path().display();
        let (Ports { first, .. }, address) = (&self.ports, self.address);
        format!(
            "public_addr = {address}
cluster_addr = {address}
ms_bind_port_min = {}
ms_bind_port_max = {}
auth_allow_insecure_global_id_reclaim = false
keyring = {folder}/$name.keyring
admin_socket = {folder}/run/$name.asok
log_file = {folder}/log/$name.log
run_dir = {folder}/run
crash_dir = {folder}/log
mon_data = {folder}/mon
mgr_data = {folder}/mgr
osd_data = {folder}/osd
paxos_propose_interval = 0.05
mon_data_avail_warn = 2
mon_data_avail_crit = 1
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_warn_on_pool_no_redundancy = false
mgr_initial_modules =
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_objectstore = bluestore
osd_fast_shutdown = true
osd_memory_target = 939524096
osd_op_thread_suicide_timeout = 0
osd_recovery_thread_suicide_timeout = 0
osd_command_thread_suicide_timeout = 0
osd_scrub_min_interval = 31536000
osd_scrub_max_interval = 31536000
osd_deep_scrub_interval = 31536000
bluestore_block_size = {bytes}
",
            first + 3,
            first + WIDTH - 1,
        )
    }
}

/// Ports in a row. The third is held as long as the cluster lives, which is what keeps two clusters from having the
/// same: servers come and go.
#[derive(Debug)]
struct Ports {
    first: u16,
    _held: Option<TcpListener>,
}

impl Ports {
    fn take() -> Self {
        // Processes that begin together begin to look in different places.
        let begin = u16::try_from(std::process::id() % u32::from(MOST)).expect("a small number");
        (0..MOST)
            .map(|step| FIRST + (begin + step) % MOST * WIDTH)
            .find_map(|first| {
                let held = listen(first + 2)?;
                let free = (first..first + WIDTH)
                    .filter(|port| *port != first + 2)
                    .all(|port| listen(port).is_some());
                free.then_some(Self { first, _held: Some(held) })
            })
            .expect("ports that nobody has")
    }
}

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).ok()
}

/// Writes a key that nobody but us reads.
pub(super) fn write_keyring(path: &Path, text: &str) {
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o400).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a keyring");
}

/// Gives a key to who is not root; root reads it all the same.
pub(super) fn hand_out(keyring: &Path) {
    chown(keyring, Some(NOBODY), Some(NOBODY)).expect("root gives files away: is this root?");
}

fn open_to(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a uuid").trim_end().to_owned()
}
