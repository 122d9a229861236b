//! What a target has for its initiators: a unit for each target, whose disk is a file, and who is let in. It is written down
//! here as it is wished, beside what tgtd was told of it; telling it the difference is all that is ever done. So it makes
//! none whether tgtd runs, stands still, or has just been started with nothing: what is wished meanwhile is told later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::Signal;

use super::LUN;
use crate::{
    dockerd::told,
    machine::{signal, until},
};

/// Whoever logs in with it is believed.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub user: String,
    /// The secret, of 12 characters or more: RFC 7143 has none that are shorter, and 16 at most work everywhere.
    pub secret: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({})", self.user)
    }
}

/// Somebody who is logged in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session {
    /// Where.
    pub target: String,
    /// Who.
    pub initiator: String,
}

/// A target with its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) file: PathBuf,
    /// How large the file is by now. Whoever changes it changes the file first.
    pub(crate) bytes: u64,
    /// Whether there is the disk at all.
    pub(crate) disk: bool,
    /// The initiators that are let in.
    pub(crate) admitted: BTreeSet<String>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Units {
    socket: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Whether there is somebody to be told.
    hears: bool,
    /// Who that is.
    pid: u32,
    next: u32,
    units: BTreeMap<String, Known>,
    /// Targets that are there and shall not be.
    going: Vec<u32>,
    /// Who has to say who he is, and how the target says who it is.
    accounts: [Option<Account>; 2],
    /// What it was last said of who is logged in.
    sessions: Vec<Session>,
}

#[derive(Debug)]
struct Known {
    number: u32,
    wished: Unit,
    /// What tgtd has been told.
    told: Option<Unit>,
}

impl Units {
    pub(super) fn new(folder: &Path) -> Self {
        Self { socket: folder.join("control"), held: Mutex::default() }
    }

    /// Makes a target with a disk, which nobody may use.
    pub(crate) fn add(&self, iqn: &str, file: &Path, bytes: u64) {
        let mut held = self.held();
        held.next += 1;
        let wished = Unit { file: file.to_owned(), bytes, disk: true, admitted: BTreeSet::new() };
        let known = Known { number: held.next, wished, told: None };
        held.units.insert(iqn.to_owned(), known);
        self.tell(&mut held);
    }

    /// Takes a target away, whoever uses it.
    pub(crate) fn remove(&self, iqn: &str) {
        let mut held = self.held();
        let known = held.units.remove(iqn);
        held.going.extend(known.filter(|known| known.told.is_some()).map(|known| known.number));
        self.tell(&mut held);
    }

    /// Makes a target another one.
    pub(crate) fn change(&self, iqn: &str, change: impl FnOnce(&mut Unit)) {
        let mut held = self.held();
        change(&mut held.units.get_mut(iqn).unwrap_or_else(|| panic!("there is no target {iqn}")).wished);
        self.tell(&mut held);
    }

    /// Does this while nothing is written: tgtd stands still for so long, and hears nothing of it.
    pub(crate) fn at_one_moment<T>(&self, act: impl FnOnce() -> T) -> T {
        let held = self.held();
        let still = held.hears.then(|| Still::begin(held.pid));
        let done = act();
        drop((still, held));
        done
    }

    pub(super) fn demand(&self, account: Option<&Account>, mutual: Option<&Account>) {
        let mut held = self.held();
        assert!(held.hears, "a target that cannot be told demands nothing");
        let before = std::mem::replace(&mut held.accounts, [account.cloned(), mutual.cloned()]);
        for account in before.iter().flatten() {
            self.must(&["--mode", "account", "--op", "delete", "--user", &account.user]);
        }
        self.tell_accounts(&held.accounts);
        for known in held.units.values().filter(|known| known.told.is_some()) {
            self.bind_accounts(known.number, &held.accounts);
        }
    }

    pub(crate) fn sessions(&self) -> Vec<Session> {
        let mut held = self.held();
        if held.hears {
            held.sessions = sessions(&self.must(&["--mode", "target", "--op", "show"]));
        }
        held.sessions.clone()
    }

    pub(super) fn end_sessions(&self, iqn: &str) {
        let held = self.held();
        let known = held.units.get(iqn).filter(|_| held.hears);
        known.into_iter().for_each(|known| self.end_connections(known.number, None));
    }

    /// Ends one session, if there is somebody who can.
    pub(crate) fn end_session(&self, session: &Session) {
        let held = self.held();
        let known = held.units.get(&session.target).filter(|_| held.hears);
        known.into_iter().for_each(|known| self.end_connections(known.number, Some(&session.initiator)));
    }

    /// There is nobody any more, and whoever was logged in is not.
    pub(super) fn is_gone(&self) {
        let mut held = self.held();
        held.hears = false;
        held.sessions.clear();
    }

    /// There is somebody, who hears nothing.
    pub(super) fn is_deaf(&self) {
        self.held().hears = false;
    }

    /// There is somebody who hears again.
    pub(super) fn is_there(&self) {
        let mut held = self.held();
        held.hears = true;
        self.tell(&mut held);
    }

    /// There is somebody who knows of nothing.
    pub(super) fn is_new(&self, pid: u32) {
        let mut held = self.held();
        held.hears = true;
        held.pid = pid;
        held.going.clear();
        held.units.values_mut().for_each(|known| known.told = None);
        self.tell_accounts(&held.accounts);
        self.tell(&mut held);
    }

    /// Whether there is somebody.
    pub(super) fn answers(&self) -> bool {
        self.admin(&["--mode", "target", "--op", "show"]).is_ok()
    }

    /// Tells a program of tgt's where the other is.
    pub(super) fn dress(&self, command: &mut Command) {
        command.env("TGT_IPC_SOCKET", &self.socket);
    }

    /// Runs tgt's own administration.
    pub(super) fn admin(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("tgtadm");
        command.args(["--lld", "iscsi"]).args(words);
        self.dress(&mut command);
        told(&command.output().expect("tgtadm starts: install the package tgt"))
    }

    fn must(&self, words: &[&str]) -> String {
        self.admin(words).unwrap_or_else(|error| panic!("tgtadm {}: {error}", words.join(" ")))
    }

    /// Tells what has not been told.
    fn tell(&self, held: &mut Held) {
        if !held.hears {
            return;
        }
        for number in std::mem::take(&mut held.going) {
            self.end_connections(number, None);
            self.must(&["--mode", "target", "--op", "delete", "--force", "--tid", &number.to_string()]);
        }
        for (iqn, known) in &mut held.units {
            if known.told.as_ref() != Some(&known.wished) {
                self.tell_of(iqn, known, &held.accounts);
            }
        }
    }

    /// Makes a unit what it is wished to be. Who is let in comes last.
    fn tell_of(&self, iqn: &str, known: &mut Known, accounts: &[Option<Account>; 2]) {
        let Known { number, wished, told } = known;
        let tid = number.to_string();
        let target = |op: &str, words: &[&str]| {
            self.must(&[&["--mode", "target", "--op", op, "--tid", &tid], words].concat());
        };
        let lun = LUN.to_string();
        let disk = |op: &str, words: &[&str]| {
            self.must(
                &[&["--mode", "logicalunit", "--op", op, "--tid", &tid, "--lun", &lun], words].concat(),
            );
        };
        let set = |what: String| disk("update", &["--params", &what]);
        let file = wished.file.display().to_string();
        let (had, admitted) = match told.take() {
            None => {
                target("new", &["--targetname", iqn]);
                self.bind_accounts(*number, accounts);
                (None, BTreeSet::new())
            }
            Some(told) => (told.disk.then_some((told.file, told.bytes)), told.admitted),
        };
        match (had, wished.disk) {
            (None, true) => {
                disk("new", &["--backing-store", &file]);
                // It is the same disk, whenever and by whomever it is looked at.
                let serial = iqn.rsplit(':').next().unwrap_or(iqn);
                set(format!("vendor_id=DATERA,product_id=IBLOCK,scsi_sn={serial},scsi_id={serial}"));
            }
            (Some(_), false) => disk("delete", &[]),
            (Some(had), true) if had != (wished.file.clone(), wished.bytes) => {
                set("online=0".to_owned());
                set(format!("path={file}"));
                set("online=1".to_owned());
            }
            (Some(_), true) | (None, false) => {}
        }
        for name in admitted.difference(&wished.admitted) {
            target("unbind", &["--initiator-name", name]);
        }
        for name in wished.admitted.difference(&admitted) {
            target("bind", &["--initiator-name", name]);
        }
        *told = Some(wished.clone());
    }

    fn tell_accounts(&self, accounts: &[Option<Account>; 2]) {
        for Account { user, secret } in accounts.iter().flatten() {
            self.must(&["--mode", "account", "--op", "new", "--user", user, "--password", secret]);
        }
    }

    fn bind_accounts(&self, number: u32, accounts: &[Option<Account>; 2]) {
        for (account, way) in accounts.iter().zip([&[][..], &["--outgoing"]]) {
            let Some(Account { user, .. }) = account else { continue };
            let tid = number.to_string();
            self.must(&[&["--mode", "account", "--op", "bind", "--tid", &tid, "--user", user], way].concat());
        }
    }

    /// Ends the connections to a target, of one initiator where one is named.
    fn end_connections(&self, number: u32, of: Option<&str>) {
        let tid = number.to_string();
        let listed = self.must(&["--mode", "conn", "--op", "show", "--tid", &tid]);
        let (mut session, mut connection) = ("", "");
        for line in listed.lines().map(str::trim) {
            match line.split_once(": ") {
                Some(("Session", number)) => session = number,
                Some(("Connection", number)) => connection = number,
                Some(("Initiator", name)) if of.is_none_or(|of| of == name) => {
                    // One that has just ended by itself is what was wanted.
                    let named = ["--tid", &tid, "--sid", session, "--cid", connection];
                    self.admin(&[&["--mode", "conn", "--op", "delete"], &named[..]].concat()).ok();
                }
                _ => {}
            }
        }
    }

    /// A test that failed in another thread leaves things as they are.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is logged in where, from what tgt shows of its targets.
fn sessions(shown: &str) -> Vec<Session> {
    let mut target = "";
    let mut sessions = Vec::new();
    for line in shown.lines() {
        if let Some((_, iqn)) = line.strip_prefix("Target ").and_then(|rest| rest.split_once(": ")) {
            target = iqn;
        } else if let Some(name) = line.trim().strip_prefix("Initiator: ") {
            let initiator = name.split(' ').next().unwrap_or(name).to_owned();
            sessions.push(Session { target: target.to_owned(), initiator });
        }
    }
    sessions
}

/// A process that stands still, with all of its threads.
struct Still(u32);

impl Still {
    fn begin(pid: u32) -> Self {
        signal(pid, Signal::STOP);
        let this = Self(pid);
        until("tgtd to stand still", || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            let stands = |stat: String| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'));
            threads
                .flatten()
                .all(|thread| fs::read_to_string(thread.path().join("stat")).is_ok_and(stands))
                .then_some(())
        });
        this
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_logged_in_is_read_from_what_tgt_shows() {
        let shown = "Target 1: iqn.x:a\n    I_T nexus information:\n        I_T nexus: 3\n            \
                     Initiator: iqn.x:one alias: node-a\n            Connection: 0\nTarget 2: iqn.x:b\n";
        let one = Session { target: "iqn.x:a".to_owned(), initiator: "iqn.x:one".to_owned() };
        assert_eq!(sessions(shown), [one]);
    }
}
