//! A real Ceph of one node for one test: a monitor, a manager and an OSD over a sparse file, with one pool (`kato`) and
//! one user of it (`client.kato`), in a folder and on ports of its own. `Cluster::start` has it on this machine's
//! loopback, where a house of the suite's own process reaches it, `Cluster::start_in` inside of a [`Machine`], for a
//! daemon that runs there. A start takes seconds, so a test of a cluster should be a long story; all methods take `&self`,
//! so that the threads of a story share one.
//!
//! Programs of Ceph wait for ever for a server that does not answer. Each that is run here is killed after 30 seconds,
//! and says so. All servers are killed when the cluster is dropped, and also when the test itself is killed: they are
//! in the process group of a shell (`Leash`) that waits for our end of a pipe to go.
//!
//! `ceph/site.rs` is what lies in the folder, `ceph/held.rs` what a test asks of the pool.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a peer that does not start, or does not answer as it should, ends the test, in words"
)]

mod held;
mod site;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::{net::UnixStream, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;

use self::site::Site;
use crate::{
    dockerd::told,
    machine::{Leash, Machine, Process, until},
};

/// The pool that everybody means who names none.
const POOL: &str = "kato";

/// Who may use it, without the `client.` before it.
const USER: &str = "kato";

/// How long a program of Ceph may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A server of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// The monitor: who is in, who may, where things are.
    Mon,
    /// The manager: statistics, and with them what a quota is compared with.
    Mgr,
    /// Where the bytes are.
    Osd,
}

impl Server {
    fn program(self) -> &'static str {
        match self {
            Self::Mon => "ceph-mon",
            Self::Mgr => "ceph-mgr",
            Self::Osd => "ceph-osd",
        }
    }

    /// What it is called among its kind.
    fn id(self) -> &'static str {
        match self {
            Self::Mon => "a",
            Self::Mgr => "x",
            Self::Osd => "0",
        }
    }

    /// What it is called by all others.
    fn name(self) -> &'static str {
        match self {
            Self::Mon => "mon.a",
            Self::Mgr => "mgr.x",
            Self::Osd => "osd.0",
        }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster<'m> {
    machine: Option<&'m Machine>,
    servers: Mutex<BTreeMap<Server, Process>>,
    leash: Option<Leash>,
    site: Site,
}

impl<'m> Cluster<'m> {
    /// Starts one on this machine.
    #[must_use]
    pub fn start() -> Self {
        Self::with(None, site::BYTES)
    }

    /// Starts one whose disk has this many bytes.
    #[must_use]
    pub fn start_with_disk(bytes: u64) -> Self {
        Self::with(None, bytes)
    }

    /// Starts one inside of a machine, and of those that share its network ([`Machine::start_beside`]). There can be
    /// no other in there. Paths are the same inside and outside.
    #[must_use]
    pub fn start_in(machine: &'m Machine) -> Self {
        Self::with(Some(machine), site::BYTES)
    }

    /// The same at [`Machine::ADDRESS`], for machines that are linked to this one.
    #[must_use]
    pub fn start_in_the_middle(machine: &'m Machine) -> Self {
        Self::at(Machine::ADDRESS, Some(machine), site::BYTES)
    }

    fn with(machine: Option<&'m Machine>, bytes: u64) -> Self {
        Self::at("127.0.0.1", machine, bytes)
    }

    fn at(address: &'static str, machine: Option<&'m Machine>, bytes: u64) -> Self {
        let leash = machine.is_none().then(Leash::hold);
        let site = Site::choose(address, machine.is_some());
        let this = Self { machine, servers: Mutex::default(), leash, site };
        this.site.furnish(bytes, || this.key());
        this.make();
        this
    }

    /// From a furnished folder to a pool that can be used. What does not need the other runs beside it.
    fn make(&self) {
        let monmap = self.site.path("monmap");
        self.must(
            self.program("monmaptool")
                .args(["--create", "--fsid", &self.site.fsid, "--addv", "a"])
                .arg(self.site.monitors())
                .arg(&monmap),
        );
        let mkfs = |server: Server| {
            let mut command = self.program(server.program());
            // In the foreground, or it would leave the group that it is to end with.
            command.args(["-f", "--mkfs", "--id", server.id(), "--conf"]).arg(self.site.servers_conf());
            command.arg("--monmap").arg(&monmap);
            command
        };
        let mut disk = mkfs(Server::Osd);
        disk.args(["--osd-uuid", &self.site.osd_uuid]).stdin(Stdio::null()).stdout(Stdio::null());
        self.bind(&mut disk);
        let disk = disk.stderr(Stdio::piped()).spawn().expect("ceph-osd starts");
        self.must(mkfs(Server::Mon).arg("--keyring").arg(self.site.path("first.keyring")));
        self.start_server(Server::Mon);
        self.launch(Server::Mgr);
        self.ceph(&["osd", "new", &self.site.osd_uuid]).unwrap();
        told(&disk.wait_with_output().unwrap())
            .unwrap_or_else(|error| panic!("the disk cannot be made: {error}"));
        self.start_server(Server::Osd);
        self.create_pool(POOL);
        self.wait_for(Server::Mgr);
    }

    /// The file that tells where the monitor is, as everybody may read it.
    #[must_use]
    pub fn conf(&self) -> &Path {
        &self.site.conf
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &str {
        POOL
    }

    /// Who may use the pool and nothing else.
    #[must_use]
    pub fn user(&self) -> &str {
        USER
    }

    /// The user's key, readable for root and for uid 65534.
    #[must_use]
    pub fn keyring(&self) -> &Path {
        &self.site.keyring
    }

    /// A keyring of the same user with a key that was never the user's.
    #[must_use]
    pub fn wrong_keyring(&self) -> &Path {
        &self.site.wrong_keyring
    }

    /// Who may do everything.
    #[must_use]
    pub fn admin(&self) -> Client<'_> {
        Client { cluster: self, name: "admin".to_owned(), keyring: self.site.path("client.admin.keyring") }
    }

    /// The user.
    #[must_use]
    pub fn as_user(&self) -> Client<'_> {
        self.client(USER, self.keyring())
    }

    /// Whoever comes with this name and this keyring.
    #[must_use]
    pub fn client(&self, name: &str, keyring: &Path) -> Client<'_> {
        Client { cluster: self, name: name.to_owned(), keyring: keyring.to_owned() }
    }

    /// Makes a user with these powers, as `("osd", "profile rbd-read-only pool=kato")`.
    #[must_use]
    pub fn add_user(&self, name: &str, powers: &[(&str, &str)]) -> Client<'_> {
        let entity = format!("client.{name}");
        let powers = powers.iter().flat_map(|(kind, power)| [*kind, *power]);
        let words: Vec<_> = ["auth", "get-or-create", &entity].into_iter().chain(powers).collect();
        let text = self.ceph(&words).unwrap();
        let keyring = self.site.path(&format!("{entity}.keyring"));
        site::write_keyring(&keyring, &format!("{text}\n"));
        site::hand_out(&keyring);
        self.client(name, &keyring)
    }

    /// Runs `rbd` as the administrator, in the pool where none is named.
    pub fn rbd(&self, words: &[&str]) -> Result<String, String> {
        self.admin().rbd(words)
    }

    /// Runs `rados` as the administrator, in the pool where none is named.
    pub fn rados(&self, words: &[&str]) -> Result<String, String> {
        self.admin().rados(words)
    }

    /// Runs `ceph` as the administrator.
    pub fn ceph(&self, words: &[&str]) -> Result<String, String> {
        self.admin().ceph(words)
    }

    /// What the configuration of a backend says of the user, as `[PREFIX.grants.ceph]`.
    #[must_use]
    pub fn grants_toml(&self, prefix: &str) -> String {
        self.as_user().grants_toml(prefix)
    }

    /// Lets a server stand still: it keeps its connections and answers nothing.
    pub fn freeze(&self, server: Server) {
        self.process(server, |process| process.freeze());
    }

    /// Lets it go on.
    pub fn thaw(&self, server: Server) {
        self.process(server, |process| process.thaw());
    }

    /// Ends a server at once, as a power cut does.
    pub fn kill(&self, server: Server) {
        self.process(server, Process::kill);
    }

    /// Starts a server again that was killed, and waits until it does its work.
    pub fn start_server(&self, server: Server) {
        self.launch(server);
        self.wait_for(server);
    }

    /// What a server has said so far.
    #[must_use]
    pub fn log(&self, server: Server) -> String {
        let file = self.site.path(&format!("log/{}.log", server.name()));
        self.process(server, |process| process.log()) + &fs::read_to_string(file).unwrap_or_default()
    }

    fn process<T>(&self, server: Server, act: impl FnOnce(&mut Process) -> T) -> T {
        act(self.servers().get_mut(&server).expect("a server that was started"))
    }

    /// A test that failed in another thread leaves the processes as they are.
    fn servers(&self) -> MutexGuard<'_, BTreeMap<Server, Process>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn launch(&self, server: Server) {
        let mut servers = self.servers();
        assert!(
            servers.get_mut(&server).is_none_or(|process| !process.runs()),
            "{} has to end before it is started again",
            server.name()
        );
        let dress = |command: &mut Command| {
            command.args(["-f", "--id", server.id(), "--conf"]).arg(self.site.servers_conf());
            bare(command);
        };
        let log = format!("{}.out", server.name());
        let process = match self.machine {
            Some(machine) => machine.spawn(server.program(), &log, dress),
            None => {
                let mut command = Command::new(server.program());
                dress(&mut command);
                self.bind(&mut command);
                Process::start(&mut command, &self.site.path(&format!("log/{log}")))
            }
        };
        servers.insert(server, process);
    }

    /// Lets what is started outlive no test. In a machine it does not anyway.
    fn bind(&self, command: &mut Command) {
        if let Some(leash) = &self.leash {
            leash.bind(command);
        }
    }

    fn wait_for(&self, server: Server) {
        let socket = self.site.path(&format!("run/{}.asok", server.name()));
        until(&format!("{} to do its work", server.name()), || {
            let (runs, log) = self.process(server, |process| (process.runs(), process.log()));
            assert!(runs, "{} ended: {log}", server.name());
            match server {
                Server::Mon => ask(&socket, "mon_status").is_some_and(|said| said["state"] == "leader"),
                Server::Osd => ask(&socket, "status").is_some_and(|said| said["state"] == "active"),
                // Only the one that is in charge knows this.
                Server::Mgr => ask(&socket, "mgr_status").is_some(),
            }
            .then_some(())
        });
    }

    /// A new key. Only Ceph's own program knows what one looks like.
    fn key(&self) -> String {
        self.must(self.program("ceph-authtool").arg("--gen-print-key"))
    }

    /// Runs Ceph's own bindings, which come with its programs.
    fn python(&self, program: &str) -> Result<String, String> {
        told(&self.program("/usr/bin/python3").args(["-c", program]).output().unwrap())
    }

    fn must(&self, command: &mut Command) -> String {
        told(&command.output().unwrap()).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// A program with a limit, where the cluster is.
    fn program(&self, name: &str) -> Command {
        let timeout = Path::new("timeout");
        let mut command =
            self.machine.map_or_else(|| Command::new(timeout), |machine| machine.command(timeout));
        command.args(["--foreground", "--signal=KILL", &LIMIT.as_secs().to_string(), name]);
        command.stdin(Stdio::null());
        bare(&mut command);
        command
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for process in self.servers().values_mut() {
            process.kill();
        }
    }
}

/// Somebody who speaks to the cluster.
#[derive(Clone, Debug)]
pub struct Client<'c> {
    cluster: &'c Cluster<'c>,
    name: String,
    keyring: PathBuf,
}

impl Client<'_> {
    /// The keyring.
    #[must_use]
    pub fn keyring(&self) -> &Path {
        &self.keyring
    }

    /// Runs `rbd`, in the pool where none is named.
    pub fn rbd(&self, words: &[&str]) -> Result<String, String> {
        self.run("rbd", &[&["--rbd-default-pool", POOL], words].concat())
    }

    /// Runs `rados`, in the pool where none is named.
    pub fn rados(&self, words: &[&str]) -> Result<String, String> {
        self.run("rados", &[&["--pool", POOL], words].concat())
    }

    /// Runs `ceph`.
    pub fn ceph(&self, words: &[&str]) -> Result<String, String> {
        self.run("ceph", words)
    }

    /// What the configuration of a backend says of it, as `[PREFIX.grants.ceph]`.
    #[must_use]
    pub fn grants_toml(&self, prefix: &str) -> String {
        let dot = if prefix.is_empty() { "" } else { "." };
        format!(
            "[{prefix}{dot}grants.ceph]\nuser = \"{}\"\nkeyring = \"{}\"\nconf = \"{}\"\npool = \"{POOL}\"\n",
            self.name,
            self.keyring.display(),
            self.cluster.conf().display()
        )
    }

    fn run(&self, program: &str, words: &[&str]) -> Result<String, String> {
        let mut command = self.cluster.program(program);
        command
            .arg("--conf")
            .arg(self.cluster.conf())
            .args(["--id", &self.name, "--keyring"])
            .arg(&self.keyring);
        let answer = command.args(words).output().unwrap();
        // `timeout` ends like what it ended, or says so by this number.
        if answer.status.signal() == Some(9) || answer.status.code() == Some(137) {
            return Err(format!(
                "{program} {words:?} did not end within {} s and was killed",
                LIMIT.as_secs()
            ));
        }
        told(&answer)
    }
}

/// Without what this machine may say of a cluster of its own.
fn bare(command: &mut Command) {
    for key in ["CEPH_ARGS", "CEPH_CONF", "CEPH_KEYRING"] {
        command.env_remove(key);
    }
}

/// What a server says of itself at its own socket: asked like this it costs nothing, while `ceph` takes half a second to
/// begin. Nothing when it is not there yet, or stands still.
fn ask(socket: &Path, question: &str) -> Option<Value> {
    let answer = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{{\"prefix\":\"{question}\"}}\0").as_bytes())?;
        // Four bytes say how long the answer is; it ends with the connection.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok::<_, io::Error>(answer.get(4..).map(<[u8]>::to_vec).unwrap_or_default())
    };
    serde_json::from_slice(&answer().ok()?).ok()
}
