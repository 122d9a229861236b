//! A real etcd for one test: one member or three, on ports and in folders of its own, with certificates or users if they
//! are wanted. Members are killed, stopped, held still and started again by the test; the database can be made small, and
//! the whole be restored from a snapshot. All members end with the value, and with the test itself, however that ends:
//! they are in the process group of a shell that waits for our end of a pipe to go.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a peer that does not start, or does not answer as it should, ends the test, in words"
)]

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::machine::{Leash, Machine};

/// How long a member may take to answer after its start.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// Whether the programs are here.
#[must_use]
pub fn is_installed() -> bool {
    ["/usr/bin/etcd", "/usr/bin/etcdctl"].iter().all(|program| Path::new(program).exists())
}

/// How a cluster is made.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// How many members.
    pub members: usize,
    /// Whether members and clients prove who they are.
    pub tls: bool,
    /// How large the database may become; etcd's own limit when nothing is said.
    pub quota: Option<u64>,
    /// Further flags of each member.
    pub flags: Vec<String>,
    /// The network in which they are, as a file, and their address there; this machine's loopback when nothing is said.
    pub place: Option<(PathBuf, String)>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    tls: bool,
    flags: Vec<String>,
    place: Option<(PathBuf, String)>,
    token: Mutex<String>,
    leash: Leash,
    folder: TempDir,
}

#[derive(Debug)]
struct Member {
    client: u16,
    peer: u16,
    running: Mutex<Option<Child>>,
}

impl Etcd {
    /// One member.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Wishes { members: 1, ..Wishes::default() })
    }

    /// Three members.
    #[must_use]
    pub fn start_three() -> Self {
        Self::start_with(Wishes { members: 3, ..Wishes::default() })
    }

    /// Three members in a machine, at [`Machine::ADDRESS`] of those that are linked to it.
    #[must_use]
    pub fn start_three_in(machine: &Machine) -> Self {
        let place = Some((machine.network(), Machine::ADDRESS.to_owned()));
        Self::start_with(Wishes { members: 3, place, ..Wishes::default() })
    }

    /// As it is wished.
    #[must_use]
    pub fn start_with(wishes: Wishes) -> Self {
        assert!(
            is_installed(),
            "etcd is missing: `cargo xtask test store` installs it, as etcd-server and etcd-client"
        );
        let folder = tempfile::tempdir().expect("a folder");
        if wishes.tls {
            certificates(folder.path());
        }
        let mut flags = wishes.flags;
        flags.extend(wishes.quota.map(|quota| format!("--quota-backend-bytes={quota}")));
        let ports = free_ports(wishes.members * 2);
        let members = ports
            .chunks(2)
            .map(|ports| Member { client: ports[0], peer: ports[1], running: Mutex::default() })
            .collect();
        let token = Mutex::new("first".to_owned());
        let (tls, place, leash) = (wishes.tls, wishes.place, Leash::hold());
        let etcd = Self { members, tls, flags, place, token, leash, folder };
        for member in 0..etcd.members.len() {
            etcd.launch(member, "new");
        }
        etcd.wait();
        etcd
    }

    /// What clients write for the members.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|member| self.endpoint(member)).collect()
    }

    /// What clients write for one of them.
    #[must_use]
    pub fn endpoint(&self, member: usize) -> String {
        self.url(self.members[member].client)
    }

    fn url(&self, port: u16) -> String {
        let address = self.place.as_ref().map_or("127.0.0.1", |(_, address)| address);
        format!("{}://{address}:{port}", self.scheme())
    }

    /// A program of etcd's, where the members are.
    fn program(&self, path: &str) -> Command {
        let Some((network, _)) = &self.place else { return Command::new(path) };
        // It becomes the program, with the same number.
        let mut enter = Command::new("nsenter");
        enter.arg(format!("--net={}", network.display())).args(["--", path]);
        enter
    }

    /// A file of the cluster's: `ca.pem`, `client.pem`, `client.key`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How many members there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Kills a member, as a power cut does.
    pub fn kill(&self, member: usize) {
        if let Some(mut child) = self.members[member].running.lock().unwrap().take() {
            child.kill().expect("a member can be killed");
            child.wait().expect("a killed member ends");
        }
    }

    /// Starts a member that was killed.
    pub fn restart(&self, member: usize) {
        self.launch(member, "existing");
    }

    /// Holds a member still: it keeps its connections and says nothing.
    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::STOP);
    }

    /// Lets a member go on.
    pub fn resume(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    /// Which member leads.
    #[must_use]
    pub fn leader(&self) -> usize {
        let until = Instant::now() + STARTS_WITHIN;
        loop {
            for member in 0..self.members.len() {
                let status = self.try_ctl_at(member, &["endpoint", "status", "--write-out=fields"]);
                let Ok(status) = status else { continue };
                let field = |name: &str| {
                    let line = status.lines().find(|line| line.starts_with(&format!("\"{name}\" :")));
                    line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
                };
                if field("Leader").is_some_and(|leader| leader != "0" && Some(leader) == field("MemberID")) {
                    return member;
                }
            }
            assert!(Instant::now() < until, "no member of etcd leads");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs `etcdctl` against all members, as root of etcd where there are users.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap_or_else(|said| panic!("etcdctl {arguments:?}: {said}"))
    }

    /// The same, which may fail.
    pub fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        self.run(&self.endpoints().join(","), arguments)
    }

    /// The same against one member.
    pub fn try_ctl_at(&self, member: usize, arguments: &[&str]) -> Result<String, String> {
        self.run(&self.endpoint(member), arguments)
    }

    /// Gives etcd a root and a user who may do everything beneath a prefix.
    pub fn with_users(&self, user: &str, password: &str, prefix: &str) {
        self.ctl(&["user", "add", "root:root-of-etcd"]);
        self.ctl(&["user", "grant-role", "root", "root"]);
        self.ctl(&["user", "add", &format!("{user}:{password}")]);
        self.ctl(&["role", "add", "house"]);
        self.ctl(&["role", "grant-permission", "house", "--prefix=true", "readwrite", prefix]);
        self.ctl(&["user", "grant-role", user, "house"]);
        self.ctl(&["auth", "enable"]);
    }

    /// Keeps a snapshot of a member.
    pub fn snapshot(&self, name: &str) {
        let path = self.file(name);
        self.try_ctl_at(0, &["snapshot", "save", path.to_str().unwrap()]).expect("a snapshot is kept");
    }

    /// Sets the whole cluster back to a snapshot: as the same cluster, or as one of another name.
    pub fn restore(&self, name: &str, token: &str) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
        *self.token.lock().unwrap() = token.to_owned();
        for (member, place) in self.members.iter().enumerate() {
            let folder = self.data(member);
            fs::remove_dir_all(&folder).expect("a member's folder can be removed");
            let peer = self.url(place.peer);
            let restored = self
                .program("/usr/bin/etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore", self.file(name).to_str().unwrap()])
                .args(["--name", &format!("m{member}")])
                .args(["--initial-cluster", &self.peers()])
                .args(["--initial-cluster-token", token])
                .args(["--initial-advertise-peer-urls", &peer])
                .args(["--data-dir", folder.to_str().unwrap()])
                .output()
                .expect("etcdctl starts");
            assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        }
        for member in 0..self.members.len() {
            self.launch(member, "existing");
        }
        self.wait();
    }

    /// Waits until every running member answers with a leader.
    pub fn wait(&self) {
        let until = Instant::now() + STARTS_WITHIN;
        for member in 0..self.members.len() {
            if self.members[member].running.lock().unwrap().is_none() {
                continue;
            }
            while let Err(said) = self.try_ctl_at(member, &["get", "nothing"]) {
                // With users nobody reads without a pass, and who says so has a leader.
                if said.contains("user name is empty") {
                    break;
                }
                assert!(
                    Instant::now() < until,
                    "member {member} of etcd does not answer: {said}\n{}",
                    self.log(member)
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// The end of what a member logged.
    #[must_use]
    pub fn log(&self, member: usize) -> String {
        let text = fs::read_to_string(self.file(&format!("m{member}.log"))).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    fn data(&self, member: usize) -> PathBuf {
        self.file(&format!("m{member}"))
    }

    fn peers(&self) -> String {
        let peer = |(member, place): (usize, &Member)| format!("m{member}={}", self.url(place.peer));
        self.members.iter().enumerate().map(peer).collect::<Vec<_>>().join(",")
    }

    fn launch(&self, member: usize, state: &str) {
        let place = &self.members[member];
        let log =
            File::options().create(true).append(true).open(self.file(&format!("m{member}.log"))).unwrap();
        let client = self.endpoint(member);
        let peer = self.url(place.peer);
        let mut command = self.program("/usr/bin/etcd");
        command
            .env_clear()
            .args(["--name", &format!("m{member}")])
            .args(["--data-dir", self.data(member).to_str().unwrap()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.peers()])
            .args(["--initial-cluster-token", &self.token.lock().unwrap()])
            .args(["--initial-cluster-state", state])
            .args(["--log-level", "warn", "--logger", "zap", "--log-outputs", "stderr"])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if self.tls {
            let file = |name: &str| self.file(name).to_str().unwrap().to_owned();
            for kind in ["", "peer-"] {
                command.args([format!("--{kind}cert-file"), file("server.pem")]);
                command.args([format!("--{kind}key-file"), file("server.key")]);
                command.args([format!("--{kind}trusted-ca-file"), file("ca.pem")]);
                command.arg(format!("--{kind}client-cert-auth"));
            }
        }
        self.leash.bind(&mut command);
        let child = command.spawn().expect("etcd starts");
        *place.running.lock().unwrap() = Some(child);
    }

    fn signal(&self, member: usize, signal: Signal) {
        let running = self.members[member].running.lock().unwrap();
        let child = running.as_ref().expect("the member runs");
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).expect("the member can be signalled");
    }

    fn run(&self, endpoints: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.program("/usr/bin/etcdctl");
        command
            .env_clear()
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", endpoints, "--dial-timeout=2s", "--command-timeout=5s"])
            .args(arguments);
        if self.tls {
            command.arg("--cacert").arg(self.file("ca.pem"));
            command.arg("--cert").arg(self.file("client.pem"));
            command.arg("--key").arg(self.file("client.key"));
        }
        let answer = command.output().expect("etcdctl starts");
        if answer.status.success() {
            Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&answer.stderr).into_owned())
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
    }
}

/// Ports that nobody listens on. They are all held until the last is known, so none is given twice.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    held.iter().map(|listener| listener.local_addr().expect("an address").port()).collect()
}

/// What makes an authority, a certificate for members and one for clients.
const CERTIFY: &str = r#"
new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $new -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
for who in server client; do
    openssl req $new -subj /CN=$who -keyout $who.key -out $who.csr
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1
extendedKeyUsage=serverAuth,clientAuth
' > extensions
    openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out $who.pem
done
"#;

fn certificates(folder: &Path) {
    let made = Command::new("sh").args(["-ec", CERTIFY]).current_dir(folder).output().expect("a shell");
    assert!(made.status.success(), "openssl makes certificates: {}", String::from_utf8_lossy(&made.stderr));
}

/// A member's disk, slow until this is dropped.
#[derive(Debug)]
pub struct SlowDisk(Child);

impl Etcd {
    /// Makes each flush of a member's take so much longer, as a disk does that is at its end.
    #[must_use]
    pub fn slow_disk(&self, member: usize, each: Duration) -> SlowDisk {
        let running = self.members[member].running.lock().unwrap();
        let pid = running.as_ref().expect("the member runs").id();
        let inject = format!("inject=fdatasync,fsync:delay_enter={}", each.as_micros());
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-qq",
            "-e",
            "trace=fdatasync,fsync",
            "-e",
            &inject,
            "-o",
            "/dev/null",
            "-p",
            &pid.to_string(),
        ]);
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let slow =
            SlowDisk(strace.spawn().expect("strace slows the disk down: Debian's package of this name"));
        // It is at work as soon as somebody traces the member.
        let until = Instant::now() + Duration::from_secs(10);
        let traced = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        while !traced() {
            assert!(Instant::now() < until, "strace does not get hold of etcd: is it allowed to trace here?");
            std::thread::sleep(Duration::from_millis(20));
        }
        slow
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // Asked, and not killed: it lets go of whom it holds.
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(0));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).ok();
        }
        self.0.wait().ok();
    }
}
