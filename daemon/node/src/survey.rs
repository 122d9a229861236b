//! What of ours is on this node, whatever the records say; and what the node is. Mounts are told by where they
//! stand, loop devices by what they are over and by the volume's id that we wrote on them. Nothing is
//! remembered between two surveys.

use std::{fs, path::Path};

use kato_orchestrator::{
    Error,
    model::{Caller, VolumeId},
    ports::host::{Facts, Survey},
};

use crate::{Config, connect, errno::failed, holders, task::Answer};

/// Our mounts beneath these folders, with whether a whole filesystem is mounted there.
pub(crate) fn mounts(folders: &[std::path::PathBuf]) -> Result<Vec<Staged>, Error> {
    Ok(holders::our_mounts()?
        .into_iter()
        .filter(|entry| {
            entry.point.parent().is_some_and(|parent| folders.iter().any(|folder| folder == parent))
        })
        .map(|entry| Staged {
            volume: entry.point.file_name().and_then(|name| VolumeId::parse(name.to_str()?)),
            path: entry.point.display().to_string(),
            source: entry.source.clone(),
            is_whole: entry.root == "/" && entry.is_of_a_device(),
        })
        .collect())
}

/// A mount at one of our places.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) volume: Option<VolumeId>,
    pub(crate) path: String,
    pub(crate) source: String,
    /// A filesystem of a device, and no part of the host's.
    pub(crate) is_whole: bool,
}

/// Puts mounts and devices together. A place that is called by a name is known by its device.
pub(crate) fn join(mounts: Vec<Staged>, devices: Answer) -> Result<Survey, Error> {
    let Answer::Devices(devices) = devices else { return Err(devices.unexpected()) };
    let devices: Vec<(Option<VolumeId>, String, String)> = devices
        .into_iter()
        .map(|(volume, device, backing)| (volume.as_deref().and_then(VolumeId::parse), device, backing))
        .collect();
    let mounts = mounts
        .into_iter()
        .map(|mount| {
            let by_device =
                || devices.iter().find(|(_, device, _)| *device == mount.source).and_then(|found| found.0);
            (mount.volume.or_else(by_device), mount.path)
        })
        .collect();
    Ok(Survey { mounts, devices })
}

/// What this node is.
pub(crate) fn facts(config: &Config) -> Result<Facts, Error> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| failed("read the kernel's boot id", error))?;
    Ok(Facts {
        boot_id: boot_id.trim().to_owned(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        identities: Some(&config.initiator)
            .filter(|name| !name.is_empty())
            .map(|name| ("iscsi-initiator".to_owned(), name.clone()))
            .into_iter()
            .collect(),
        connectors: connect::reasons(config),
    })
}

/// Whether this very process still runs: its pid, and the moment it began. One that cannot be seen is alive.
pub(crate) fn is_alive(caller: &Caller) -> bool {
    if caller.pid == 0 {
        return true;
    }
    let process = Path::new("/proc").join(caller.pid.to_string());
    match fs::read_to_string(process.join("stat")) {
        Ok(stat) => started(&stat).is_none_or(|started| started == caller.started),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(_) => true,
    }
}

/// The 22nd field of `/proc/<pid>/stat`; the second is a name that may hold anything but ends at the last `)`.
fn started(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_pid_and_its_beginning() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let me = Caller { pid: std::process::id(), started: started(&stat).unwrap() };
        assert!(is_alive(&me));
        assert!(!is_alive(&Caller { started: me.started + 1, ..me }), "another process has the pid now");
        assert!(!is_alive(&Caller { pid: 0x3fff_ffff, started: 1 }));
        assert!(is_alive(&Caller { pid: 0, started: 1 }));
    }

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let stat =
            format!("7 (a) (b c) S {}", (4..30).map(|field| field.to_string()).collect::<Vec<_>>().join(" "));
        assert_eq!(started(&stat), Some(22));
    }
}
