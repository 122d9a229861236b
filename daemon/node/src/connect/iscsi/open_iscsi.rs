//! The kernel's own initiator, by open-iscsi: `iscsiadm` for what changes something, sysfs for what is there. It survives
//! everything but the kernel.
//!
//! Each volume has an interface record and sessions of its own, called by its id, with automatic scans off and only its
//! own unit looked for. So a session of ours has one user: logging out never takes away another volume's disk, and what
//! is whose is read off sysfs, without memory. A session that is lost is waited for without end; with several portals and
//! dm-multipath a path gives up after a while, and what happens without any is multipath.conf's to say
//! (`no_path_retry queue`).
//!
//! `iscsiadm` takes a secret only as a word of its command line, where everybody reads it; so secrets are written into its
//! records, which are root's alone and are removed with the session.
//!
//! No kernel that the tests run on has iscsi_tcp: this way is held against recorded trees and the program's command lines.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use kato_orchestrator::{Error, model::VolumeId};

use super::{Site, Unit};
use crate::{
    command::{Ended, Program, Programs},
    connect::device::{let_go, node_of},
    errno::failed,
};

/// How long a unit, or a map over its paths, may take to appear after the login.
const APPEARS: Duration = Duration::from_secs(8);
const TICK: Duration = Duration::from_millis(100);

/// How long a login may take at one of several portals, and at the only one, in seconds.
const LOGIN: [&str; 2] = ["5", "10"];

/// When a lost path is given up: never, or in seconds, where there are others.
const REPLACEMENT: [&str; 2] = ["15", "-1"];

/// Exit codes of `iscsiadm`: there is a session already, and there is nothing of that kind.
const SESSION_EXISTS: i32 = 15;
const NOTHING_FOUND: i32 = 21;

pub(super) fn usable(programs: &Programs, site: &Site) -> Result<(), String> {
    if !site.sys.join("class/iscsi_transport/tcp").exists() {
        return Err(
            "the kernel has no iscsi_tcp: load the module (`modprobe iscsi_tcp`), where it was built"
                .to_owned(),
        );
    }
    programs.find(Program::Iscsiadm).map(drop).map_err(|error| error.message)
}

/// Why several portals are not used at once.
pub(super) fn multipath(programs: &Programs, site: &Site) -> Result<(), String> {
    if !site.sys.join("module/dm_multipath").exists() {
        return Err("the kernel has no dm_multipath: load the module (`modprobe dm_multipath`)".to_owned());
    }
    programs.find(Program::Multipath).map(drop).map_err(|error| error.message)
}

/// What this volume's interface is called.
fn face(volume: VolumeId) -> String {
    format!("kato-{volume}")
}

/// A session of a volume's.
struct Session {
    /// Its folder beneath its host, where its disks are.
    folder: PathBuf,
    state: String,
}

fn sessions(site: &Site, volume: VolumeId) -> Vec<Session> {
    let is_ours = |entry: &PathBuf| told(&entry.join("ifacename")) == face(volume);
    let mut found: Vec<Session> = entries(&site.sys.join("class/iscsi_session"))
        .filter(is_ours)
        .filter_map(|entry| {
            let folder = fs::canonicalize(entry.join("device")).ok()?;
            Some(Session { folder, state: told(&entry.join("state")) })
        })
        .collect();
    found.sort_by(|a, b| a.folder.cmp(&b.folder));
    found
}

impl Session {
    /// The disks of this unit: `target3:0:0/3:0:0:1/block/sdb`.
    fn disks(&self, lun: u32) -> Vec<String> {
        let units = entries(&self.folder)
            .filter(|entry| called(entry).starts_with("target"))
            .flat_map(|target| entries(&target));
        let ours = units
            .filter(|unit| called(unit).rsplit_once(':').is_some_and(|(_, last)| last == lun.to_string()));
        ours.flat_map(|unit| entries(&unit.join("block"))).map(|disk| called(&disk)).collect()
    }

    /// Has the kernel look for this unit, and for no other of the target's.
    fn look_for(&self, lun: u32, site: &Site) -> Result<(), Error> {
        let host = self.folder.parent().map(called).unwrap_or_default();
        let scan = site.sys.join("class/scsi_host").join(host).join("scan");
        fs::write(&scan, format!("- - {lun}"))
            .map_err(|error| failed(format_args!("write to {}", scan.display()), error))
    }
}

fn disks(unit: &Unit, volume: VolumeId) -> Vec<String> {
    sessions(&unit.site, volume).iter().flat_map(|session| session.disks(unit.lun)).collect()
}

/// The multipath map over a disk, as the kernel calls it.
fn map_over(site: &Site, disk: &str) -> Option<String> {
    let block = site.sys.join("block");
    entries(&block.join(disk).join("holders"))
        .map(|holder| called(&holder))
        .find(|holder| told(&block.join(holder).join("dm/uuid")).starts_with("mpath-"))
}

pub(super) fn find(unit: &Unit, volume: VolumeId) -> Option<PathBuf> {
    let disks = disks(unit, volume);
    let name = disks.iter().find_map(|disk| map_over(&unit.site, disk)).or_else(|| disks.first().cloned())?;
    let numbers = told(&unit.site.sys.join("block").join(&name).join("dev"));
    let (major, minor) = numbers.split_once(':')?;
    Some(node_of(&unit.site.dev, OsStr::new(&name), (major.parse().ok()?, minor.parse().ok()?)))
}

/// An error says that no session is there, or that none has its connection.
pub(super) fn require_session(unit: &Unit, volume: VolumeId) -> Result<(), Error> {
    let sessions = sessions(&unit.site, volume);
    if sessions.iter().any(|session| session.state == "LOGGED_IN") {
        return Ok(());
    }
    let states: Vec<&str> = sessions.iter().map(|session| session.state.as_str()).collect();
    Err(unit.waits(&format!("its sessions are {}", states.join(", "))))
}

pub(super) fn connect(unit: &Unit, volume: VolumeId, programs: &Programs) -> Result<PathBuf, Error> {
    let with_paths = unit.portals.len() > 1 && multipath(programs, &unit.site).is_ok();
    let outcome = log_in(unit, volume, with_paths, programs).and_then(|()| {
        let disks = appear(unit, volume, with_paths)?;
        if with_paths { gather(unit, volume, &disks, programs) } else { Ok(()) }
    });
    if let Err(error) = outcome {
        // What is half connected would be found, and believed to be whole.
        clear(unit, volume, programs)?;
        return Err(error);
    }
    find(unit, volume)
        .ok_or_else(|| Error::unavailable(format!("{unit} was connected and is not to be seen")))
}

/// Logs in by the first portal that lets us in; by all of them where paths are gathered.
fn log_in(unit: &Unit, volume: VolumeId, with_paths: bool, programs: &Programs) -> Result<(), Error> {
    let face = face(volume);
    let iface = ["--mode", "iface", "--interface", &face];
    run(programs, &[&iface[..], &["--op", "new"]].concat(), &[])?;
    let name = ["--op", "update", "--name", "iface.initiatorname", "--value", &unit.initiator];
    run(programs, &[&iface[..], &name].concat(), &[])?;
    let (mut refusals, mut is_in) = (Vec::new(), false);
    for portal in &unit.portals {
        match log_in_by(unit, portal, &face, with_paths, programs) {
            Ok(()) => is_in = true,
            Err(error) => refusals.push(format!("by the portal {portal}, {}", error.message)),
        }
        if is_in && !with_paths {
            break;
        }
    }
    let refusals = refusals.join("; ");
    match (is_in, refusals.is_empty()) {
        (true, true) => {}
        (true, false) => tracing::warn!(%unit, refusals, "a unit is connected by fewer portals than it has"),
        (false, _) => return Err(Error::unavailable(format!("{unit} was not connected: {refusals}"))),
    }
    if unit.portals.len() > 1 && !with_paths {
        tracing::warn!(%unit, "a unit with several portals was connected by one of them: there is no dm-multipath");
    }
    Ok(())
}

fn log_in_by(
    unit: &Unit,
    portal: &str,
    face: &str,
    with_paths: bool,
    programs: &Programs,
) -> Result<(), Error> {
    let discovery = ["--mode", "discovery", "--type", "sendtargets", "--portal", portal, "--interface", face];
    run(programs, &discovery, &[])?;
    let node = ["--mode", "node", "--targetname", &unit.iqn, "--portal", portal, "--interface", face];
    let only = usize::from(!with_paths);
    let [several, one] = LOGIN;
    let mut settings = vec![
        ("node.startup", "manual"),
        ("node.session.scan", "manual"),
        ("node.session.initial_login_retry_max", "1"),
        ("node.conn[0].timeo.login_timeout", if unit.portals.len() > 1 { several } else { one }),
        ("node.session.timeo.replacement_timeout", REPLACEMENT.get(only).copied().unwrap_or("-1")),
        ("node.session.auth.authmethod", if unit.chap.is_some() { "CHAP" } else { "None" }),
    ];
    let mutual = unit.chap.as_ref().and_then(|chap| chap.mutual.as_deref());
    let accounts = [("", unit.chap.as_ref()), ("_in", mutual)];
    let users = accounts.map(|(way, chap)| (format!("node.session.auth.username{way}"), chap));
    settings
        .extend(users.iter().filter_map(|(word, chap)| Some((word.as_str(), chap.as_ref()?.user.as_str()))));
    for (name, value) in settings {
        run(programs, &[&node[..], &["--op", "update", "--name", name, "--value", value]].concat(), &[])?;
    }
    for (way, chap) in accounts {
        if let Some(chap) = chap {
            write_secret(
                unit,
                face,
                &format!("node.session.auth.password{way}"),
                chap.secret.read()?.expose(),
            )?;
        }
    }
    run(programs, &[&node[..], &["--login"]].concat(), &[SESSION_EXISTS])
}

/// Puts a secret into the records of this interface: `nodes/<target>/<address>,<port>,<group>/<interface>`.
fn write_secret(unit: &Unit, face: &str, word: &str, secret: &str) -> Result<(), Error> {
    let targets = unit.site.records.iter().map(|records| records.join("nodes").join(&unit.iqn));
    let records: Vec<PathBuf> = targets
        .flat_map(|target| entries(&target))
        .map(|portal| portal.join(face))
        .filter(|record| record.is_file())
        .collect();
    if records.is_empty() {
        return Err(Error::precondition(format!(
            "open-iscsi keeps its records at no place that is known ({:?}): the secret of {unit} cannot be told it",
            unit.site.records
        )));
    }
    for record in records {
        let what = |error| failed(format_args!("write into {}", record.display()), error);
        let text = fs::read_to_string(&record).map_err(what)?;
        let is_other =
            |line: &&str| !line.starts_with(&format!("{word} =")) && !line.starts_with("# END RECORD");
        let kept: Vec<&str> = text.lines().filter(is_other).collect();
        let new = record.with_extension("kato-new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(what)?;
        writeln!(file, "{}\n{word} = {secret}\n# END RECORD", kept.join("\n")).map_err(what)?;
        fs::rename(&new, &record).map_err(what)?;
    }
    Ok(())
}

/// Waits for the unit's disks, one for each session where paths are gathered.
fn appear(unit: &Unit, volume: VolumeId, with_paths: bool) -> Result<Vec<String>, Error> {
    let sessions = sessions(&unit.site, volume);
    sessions.iter().try_for_each(|session| session.look_for(unit.lun, &unit.site))?;
    let wanted = if with_paths { sessions.len() } else { 1 };
    wait_for(|| Some(disks(unit, volume)).filter(|found| found.len() >= wanted.max(1))).ok_or_else(|| {
        Error::unavailable(format!(
            "{unit} did not appear: the target lets in {}, and shows it no such unit",
            unit.initiator
        ))
    })
}

/// Has multipathd make a map over the unit's paths.
fn gather(unit: &Unit, volume: VolumeId, disks: &[String], programs: &Programs) -> Result<(), Error> {
    let Some(first) = disks.first() else { return Ok(()) };
    let node = unit.site.dev.join(first);
    // It is told that this is meant to be a map; whether a path may be part of one is its configuration's to say.
    for words in [&[OsStr::new("-a"), node.as_os_str()][..], &[node.as_os_str()]] {
        let ended = programs.run(Program::Multipath, words)?;
        if ended.code != Some(0) {
            tracing::warn!(%unit, said = ended.describe(Program::Multipath), "multipath does not take a path");
        }
    }
    wait_for(|| disks.iter().find_map(|disk| map_over(&unit.site, disk))).map(drop).ok_or_else(|| {
        Error::unavailable(format!(
            "no multipath map appeared over the paths of {unit} ({}; volume {volume}): see `multipath -ll` and its \
             blacklist, or name one portal only",
            disks.join(", ")
        ))
    })
}

/// The unit's disks take its size, then the map over them.
pub(super) fn rescan(unit: &Unit, volume: VolumeId, device: &Path, programs: &Programs) -> Result<(), Error> {
    let block = unit.site.sys.join("block");
    for disk in disks(unit, volume) {
        let rescan = block.join(&disk).join("device/rescan");
        fs::write(&rescan, "1")
            .map_err(|error| failed(format_args!("write to {}", rescan.display()), error))?;
    }
    let name = told(&block.join(called(device)).join("dm/name"));
    if name.is_empty() {
        return Ok(());
    }
    let ended = programs.run(Program::Multipathd, &["resize", "map", &name].map(OsStr::new))?;
    match ended.code {
        Some(0) => Ok(()),
        _ => Err(Error::unavailable(format!("{name} did not grow: {}", ended.describe(Program::Multipathd)))),
    }
}

/// The map goes before its paths: one that waits for paths would hold up whatever looks at it.
pub(super) fn disconnect(
    unit: &Unit,
    volume: VolumeId,
    device: &Path,
    programs: &Programs,
) -> Result<(), Error> {
    let_go(device)?;
    let name = told(&unit.site.sys.join("block").join(called(device)).join("dm/name"));
    if !name.is_empty() {
        let ended = programs.run(Program::Multipath, &["-f", &name].map(OsStr::new))?;
        if ended.code != Some(0) {
            return Err(Error::in_use(format!(
                "{name} was not taken down: {}",
                ended.describe(Program::Multipath)
            )));
        }
    }
    clear(unit, volume, programs)
}

/// Logs out what of this volume is logged in, and removes its records. A host without open-iscsi has none.
pub(super) fn clear(unit: &Unit, volume: VolumeId, programs: &Programs) -> Result<(), Error> {
    let face = face(volume);
    let record = |records: &PathBuf| records.join("ifaces").join(&face).exists();
    if sessions(&unit.site, volume).is_empty() && !unit.site.records.iter().any(record) {
        return Ok(());
    }
    let node = ["--mode", "node", "--interface", &face];
    run(programs, &[&node[..], &["--logout"]].concat(), &[NOTHING_FOUND])?;
    run(programs, &[&node[..], &["--op", "delete"]].concat(), &[NOTHING_FOUND])?;
    run(programs, &["--mode", "iface", "--interface", &face, "--op", "delete"], &[NOTHING_FOUND])
}

/// Runs `iscsiadm`, which may also end with one of these.
fn run(programs: &Programs, words: &[&str], fine: &[i32]) -> Result<(), Error> {
    let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    let ended: Ended = programs.run(Program::Iscsiadm, &words)?;
    match ended.code {
        Some(code) if code == 0 || fine.contains(&code) => Ok(()),
        _ => Err(Error::unavailable(ended.describe(Program::Iscsiadm))),
    }
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let mut waited = Duration::ZERO;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if waited >= APPEARS {
            return None;
        }
        sleep(TICK);
        waited += TICK;
    }
}

fn told(file: &Path) -> String {
    fs::read_to_string(file).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found.into_iter()
}

fn called(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
