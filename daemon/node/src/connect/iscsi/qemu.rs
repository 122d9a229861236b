//! The way that needs no module of the kernel's: QEMU logs in with libiscsi (`served.rs`). When the session is lost,
//! libiscsi connects again for ever and sends what was not answered once more, as long as QEMU's `timeout` is left alone:
//! it would hold for data too. The login has none either, so it is under a deadline of ours.
//!
//! What the FUSE export does to data (`served.rs`) is kept from happening here:
//!
//! - libiscsi sends a write's bytes from where they were heard. So the kernel asks for one read or write at a time
//!   (`fuse.rs`).
//! - Many units do nothing for a discard. So discards are answered with "no such call", by QEMU's own means for injecting
//!   errors: the kernel then writes its zeroes, as on a disk that never heard of discards, and `fstrim` is told so.
//!
//! The account's secret goes through a pipe, and is on no command line and in no file.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use kato_orchestrator::{Error, Kind, model::VolumeId};
use serde_json::json;

use super::Unit;
use crate::{
    accounts::Plain,
    command::Programs,
    connect::served::{self, Served},
    fuse,
    server::{Place, SECRET, START, Server, Serving},
};

/// A portal that serves does so at once; several share the time of one, and none gets less than this.
const LEAST: Duration = Duration::from_secs(4);

/// ENOSYS.
const NO_SUCH_CALL: i32 = 38;

pub(super) fn usable(programs: &Programs, servers: &Place) -> Result<(), String> {
    served::usable("iscsi", programs, servers)
}

fn served(unit: &Unit, volume: VolumeId) -> Served<'_> {
    Served::new(&unit.site.servers, volume, unit.to_string())
}

pub(super) fn connect(
    unit: &Unit,
    volume: VolumeId,
    read_only: bool,
    programs: &Programs,
) -> Result<PathBuf, Error> {
    let served = served(unit, volume);
    let secret = unit.chap.as_ref().map(|chap| chap.secret.read()).transpose()?;
    let wish = |portal: &String| serving(unit, portal, secret.clone(), read_only);
    let wishes: Vec<Serving> = unit.portals.iter().map(wish).collect();
    let server = match served.kept(&wishes)? {
        Some(server) => server,
        None => first(unit, &served, &wishes, programs)?,
    };
    fuse::one_at_a_time(&server.file())?;
    server.attach(read_only)
}

/// A server of the first portal that lets us in.
fn first(unit: &Unit, served: &Served<'_>, wishes: &[Serving], programs: &Programs) -> Result<Server, Error> {
    let many = u32::try_from(wishes.len().max(1)).unwrap_or(u32::MAX);
    let limit = (START / many).max(LEAST);
    let mut refusals = Vec::new();
    for (portal, wish) in unit.portals.iter().zip(wishes) {
        match served.start(wish, limit, programs) {
            Ok(server) => {
                if many > 1 {
                    tracing::warn!(
                        %unit,
                        portal,
                        "a unit with several portals was connected by one of them: QEMU knows no multipath"
                    );
                }
                return Ok(server);
            }
            Err(error) if error.kind == Kind::Unavailable => {
                refusals.push(format!("by the portal {portal}, {}", error.message));
            }
            Err(error) => return Err(error),
        }
    }
    let who = unit.chap.as_ref().map(|chap| format!(" with the account {}", chap.user)).unwrap_or_default();
    Err(Error::unavailable(format!(
        "{unit} was not connected: {}. See whether that portal can be reached from here, and whether its target lets in {}{who}",
        refusals.join("; "),
        unit.initiator
    )))
}

fn serving(unit: &Unit, portal: &str, secret: Option<Plain>, read_only: bool) -> Serving {
    let mut image = json!({
        "driver": "iscsi",
        "node-name": "unit",
        "transport": "tcp",
        "portal": portal,
        "target": unit.iqn,
        "lun": unit.lun,
        "initiator-name": unit.initiator,
        "cache": { "direct": true },
        "read-only": read_only,
    });
    if let (Some(chap), Some(image)) = (&unit.chap, image.as_object_mut()) {
        image.insert("user".into(), chap.user.clone().into());
        image.insert("password-secret".into(), SECRET.into());
    }
    let disk = json!({
        "driver": "blkdebug",
        "node-name": "disk",
        "discard": "unmap",
        "read-only": read_only,
        "inject-error": [{ "event": "none", "iotype": "discard", "errno": NO_SUCH_CALL }],
        "image": image,
    });
    Serving {
        what: what(unit, portal, read_only),
        files: Vec::new(),
        secret,
        blockdev: disk.to_string(),
        read_only,
    }
}

/// What a server serves, as it is written beside it.
fn what(unit: &Unit, portal: &str, read_only: bool) -> String {
    let user = unit.chap.as_ref().map(|chap| format!(", {}", chap.user)).unwrap_or_default();
    let access = if read_only { ", read-only" } else { "" };
    format!("{unit} by {portal} as {}{user}{access}\n", unit.initiator)
}

pub(super) fn find(unit: &Unit, volume: VolumeId) -> Result<Option<PathBuf>, Error> {
    served(unit, volume).find()
}

pub(super) fn require_alive(unit: &Unit, volume: VolumeId, device: &Path) -> Result<Server, Error> {
    served(unit, volume).require_alive(device)
}

/// An error says that its server has ended, or has no session and tries for one.
pub(super) fn require_session(unit: &Unit, volume: VolumeId, device: &Path) -> Result<(), Error> {
    let server = require_alive(unit, volume, device)?;
    match server.process() {
        Some(pid) if !is_connected(Path::new("/proc").join(pid.as_raw_nonzero().to_string()).as_path()) => {
            let is_of =
                |portal: &&String| [true, false].iter().any(|ro| server.serves(&what(unit, portal, *ro)));
            let portal = unit.portals.iter().find(is_of);
            Err(unit
                .waits(&portal.map_or_else(|| "its portal".to_owned(), |portal| format!("portal {portal}"))))
        }
        _ => Ok(()),
    }
}

/// Whether a process has a connection by TCP. A server has one, to its portal; while libiscsi tries again there is none,
/// or one that is not made yet.
fn is_connected(process: &Path) -> bool {
    let Ok(open) = fs::read_dir(process.join("fd")) else { return true };
    let sockets: BTreeSet<String> = open
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    /// In the kernel's tables: the fourth word is the state, and the tenth the socket's number.
    const ESTABLISHED: &str = "01";
    ["net/tcp", "net/tcp6"].iter().any(|table| {
        let table = fs::read_to_string(process.join(table)).unwrap_or_default();
        table.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(3) == Some(&ESTABLISHED) && words.get(9).is_some_and(|socket| sockets.contains(*socket))
        })
    })
}

pub(super) fn disconnect(unit: &Unit, volume: VolumeId, device: &Path) -> Result<(), Error> {
    served(unit, volume).disconnect(device)
}

/// Ends whatever serves this volume, and the devices over that.
pub(super) fn clear(unit: &Unit, volume: VolumeId) -> Result<(), Error> {
    served(unit, volume).clear()
}

/// The unit says how large it is; a server only has to ask again.
pub(super) fn rescan(unit: &Unit, volume: VolumeId, device: &Path) -> Result<(), Error> {
    let served = served(unit, volume);
    let size = served.server()?.refresh()?;
    if served::shown(device)? >= size {
        return Ok(());
    }
    served.resize(device, size)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Lines as Linux 6.18 has them: a listener of somebody's, and the two ends of a connection on this host.
    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0100007F:83A4 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11699 1 0 100 0 0 10 0\n   \
        1: 0100007F:83A4 0100007F:D710 01 00000000:00000000 02:0002B34E 00000000     0        0 14538 2 0 20 4 31 18 -1\n   \
        2: 0100007F:D710 0100007F:83A4 01 00000000:00000000 02:00000000 00000000     0        0 14537 2 0 20 4 30 18 -1\n   \
        3: 0100007F:D712 0100007F:83A4 02 00000000:00000000 02:00000000 00000000     0        0 14539 2 0 20 4 30 18 -1\n   \
        4: 0100007F:D714 0100007F:83A4 08 00000000:00000000 02:00000000 00000000     0        0 14540 2 0 20 4 30 18 -1\n";

    #[test]
    fn a_session_is_a_connection_that_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let process = |name: &str, sockets: &[u32]| {
            let process = folder.path().join(name);
            fs::create_dir_all(process.join("fd")).unwrap();
            fs::create_dir_all(process.join("net")).unwrap();
            fs::write(process.join("net/tcp"), TABLE).unwrap();
            symlink("/dev/fuse", process.join("fd/0")).unwrap();
            for (number, socket) in sockets.iter().enumerate() {
                symlink(format!("socket:[{socket}]"), process.join(format!("fd/{}", number + 3))).unwrap();
            }
            process
        };
        assert!(is_connected(&process("well", &[1, 14537])));
        assert!(!is_connected(&process("none", &[1])));
        assert!(!is_connected(&process("trying", &[1, 14539])));
        assert!(!is_connected(&process("hung-up", &[14540])));
        assert!(is_connected(&folder.path().join("unseen")), "what cannot be seen is no finding");
    }
}
