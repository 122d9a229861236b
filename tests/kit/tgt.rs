//! A real iSCSI target for one test: Debian's `tgtd`, which is a process like any other, on two portals of its own and with
//! a control socket in a folder of its own. Its units are sparse files. `Target::start` has it on this machine's loopback,
//! `Target::start_in` inside of a [`Machine`], for nodes that live there; all methods take `&self`, so that the threads of
//! a story share one.
//!
//! What there is to be had is written down in `tgt/units.rs` and not only told to tgtd, which forgets everything when it is
//! killed: when it is started again it hears it all anew, and who is let in comes last. An initiator that returns between
//! the two would see a target without a disk, and give up.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a peer that does not start, or does not do as it should, ends the test, in words"
)]

mod units;

use std::{
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tempfile::TempDir;

pub(crate) use self::units::Units;
pub use self::units::{Account, Session};
use crate::{
    http,
    machine::{Leash, Machine, Process, until},
};

/// Which unit a disk is at its target. The first is tgt's own: a controller.
pub const LUN: u32 = 1;

/// Where targets listen.
const PORT: u16 = 3260;

/// A running target.
#[derive(Debug)]
pub struct Target<'m> {
    machine: Option<&'m Machine>,
    portals: [SocketAddr; 2],
    units: Arc<Units>,
    process: Mutex<Process>,
    leash: Option<Leash>,
    folder: TempDir,
}

impl<'m> Target<'m> {
    /// Starts one on this machine.
    #[must_use]
    pub fn start() -> Self {
        Self::with(None)
    }

    /// Starts one that is reached inside of a machine, and of those that share its network ([`Machine::start_beside`]).
    #[must_use]
    pub fn start_in(machine: &'m Machine) -> Self {
        Self::with(Some(machine))
    }

    fn with(machine: Option<&'m Machine>) -> Self {
        let folder = tempfile::Builder::new().prefix("kato-tgt-").tempdir().unwrap();
        let leash = machine.is_none().then(Leash::hold);
        let portals = free_portals(machine);
        let units = Arc::new(Units::new(folder.path()));
        let process = Mutex::new(launch(machine, leash.as_ref(), &folder, &portals, &units));
        let this = Self { machine, portals, units, process, leash, folder };
        this.wait_until_ready();
        this
    }

    /// Where it listens, as `address:port`: two addresses of the loopback.
    #[must_use]
    pub fn portals(&self) -> [String; 2] {
        self.portals.map(|portal| portal.to_string())
    }

    /// What it has for its initiators.
    pub(crate) fn units(&self) -> &Arc<Units> {
        &self.units
    }

    /// Who is logged in, as tgtd has it.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        self.units.sessions()
    }

    /// Demands this account of whoever logs in from now on; none of nobody. With `mutual` the target proves itself, too.
    pub fn demand(&self, account: Option<&Account>, mutual: Option<&Account>) {
        self.units.demand(account, mutual);
    }

    /// Ends it at once, as a power cut does: what was not flushed may be lost, and it forgets who was logged in.
    pub fn kill(&self) {
        self.units.is_gone();
        self.process().kill();
    }

    /// Starts it again, with all that it had.
    pub fn start_again(&self) {
        let mut process = self.process();
        assert!(!process.runs(), "it has to end before it is started again");
        *process = launch(self.machine, self.leash.as_ref(), &self.folder, &self.portals, &self.units);
        drop(process);
        self.wait_until_ready();
    }

    /// Lets it stand still: connections to it are taken, and hear nothing.
    pub fn freeze(&self) {
        self.units.is_deaf();
        self.process().freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process().thaw();
        self.units.is_there();
    }

    /// Takes the disk of a target away, and leaves the target. Whoever has it open is not asked.
    pub fn lose_disk(&self, iqn: &str) {
        self.units.change(iqn, |unit| unit.disk = false);
    }

    /// Gives it back.
    pub fn find_disk(&self, iqn: &str) {
        self.units.change(iqn, |unit| unit.disk = true);
    }

    /// Ends all connections to a target. Whoever is let in may come again.
    pub fn end_sessions(&self, iqn: &str) {
        self.units.end_sessions(iqn);
    }

    /// Listens no more at one of its portals.
    pub fn close_portal(&self, number: usize) {
        self.units.admin(&["--mode", "portal", "--op", "delete", "--param", &self.portal(number)]).unwrap();
    }

    /// Listens there again.
    pub fn open_portal(&self, number: usize) {
        self.units.admin(&["--mode", "portal", "--op", "new", "--param", &self.portal(number)]).unwrap();
    }

    /// Lets one of its portals be one that takes connections and says nothing, for as long as the answer lives.
    pub fn mute_portal(&self, number: usize) -> Mute<'_, 'm> {
        self.close_portal(number);
        let listener = Some(http::listen(self.machine, self.portals[number]));
        Mute { target: self, number, listener }
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process().log()
    }

    fn portal(&self, number: usize) -> String {
        format!("portal={}", self.portals[number])
    }

    /// A test that failed in another thread leaves the process as it is.
    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_ready(&self) {
        until("tgtd to be asked", || {
            let runs = self.process().runs();
            assert!(runs, "tgtd ended: {}", self.log());
            self.units.answers().then_some(())
        });
        let pid = self.process().pid();
        self.units.is_new(pid);
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        self.units.is_gone();
        self.process().kill();
    }
}

/// A portal that takes connections and says nothing. Dropped, it is the target's again.
#[derive(Debug)]
pub struct Mute<'t, 'm> {
    target: &'t Target<'m>,
    number: usize,
    listener: Option<TcpListener>,
}

impl Drop for Mute<'_, '_> {
    fn drop(&mut self) {
        self.listener = None;
        // A test that failed need not have a target any more that listens.
        if !std::thread::panicking() {
            self.target.open_portal(self.number);
        }
    }
}

fn launch(
    machine: Option<&Machine>,
    leash: Option<&Leash>,
    folder: &TempDir,
    portals: &[SocketAddr; 2],
    units: &Units,
) -> Process {
    let [one, other] = portals;
    let dress = |command: &mut Command| {
        command.args(["-f", "--iscsi", &format!("portal={one},portal={other}")]);
        units.dress(command);
    };
    match machine {
        Some(machine) => machine.spawn("tgtd", "tgtd.log", dress),
        None => {
            let mut command = Command::new("tgtd");
            dress(&mut command);
            if let Some(leash) = leash {
                leash.bind(&mut command);
            }
            Process::start(&mut command, &folder.path().join("tgtd.log"))
        }
    }
}

/// Two addresses of the loopback that no other target has: they are as good as two networks, and leave the port what it
/// is everywhere.
fn free_portals(machine: Option<&Machine>) -> [SocketAddr; 2] {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        // Processes that begin together begin to look in different places.
        let number = std::process::id().wrapping_mul(131).wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let [_, _, high, low] = number.to_be_bytes();
        let portals = [101, 102].map(|net| SocketAddr::from(([127, net, high, low], PORT)));
        if machine.is_some() || portals.iter().all(|portal| TcpListener::bind(portal).is_ok()) {
            return portals;
        }
    }
    panic!("no two addresses of the loopback have their port {PORT} free")
}
