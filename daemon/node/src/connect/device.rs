//! A block device that appears on the node, found by an identity that outlives device names: sysfs is
//! searched for it, the device is opened, and the identity is read again from what was opened, as a name may
//! have passed to another disk in between. A device is refused when it, or a part of it, is swap or holds a
//! filesystem that is not mounted beneath our own folder: a plugin that names the root disk gets nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kato_orchestrator::{Error, Kind};
use rustix::fs::{fstat, major, minor};

use crate::{errno::failed, holders};

/// The device of this identity, checked.
pub(crate) fn find(identity: &str, value: &str) -> Result<PathBuf, Error> {
    let name = search(Path::new("/sys/block"), Path::new("/dev/disk/by-id"), identity, value)?;
    let path = Path::new("/dev").join(&name);
    // Before it is even opened, and of the very disk that is opened then.
    let entry = sysfs_entry(&Path::new("/sys/class/block").join(&name), &path)?;
    refuse_foreign_use(&path, &entry)?;
    let device = super::open_device(&path)?;
    let stat = fstat(&device).map_err(|error| failed(format_args!("look at {}", path.display()), error))?;
    let numbers = format!("{}:{}", major(stat.st_rdev), minor(stat.st_rdev));
    let opened = sysfs_entry(&Path::new("/sys/dev/block").join(&numbers), &path)?;
    let is_same = identity == "by-id" || values(&opened, identity).iter().any(|found| same(found, value));
    if !is_same || opened != entry {
        return Err(Error::unavailable(format!(
            "{} is not the device {identity} {value} any more: it changed while it was opened",
            path.display()
        )));
    }
    Ok(path)
}

/// An error says that the mounted device is not the one of this identity any more.
pub(crate) fn require_same(identity: &str, value: &str, mounted: &Path) -> Result<(), Error> {
    let name = search(Path::new("/sys/block"), Path::new("/dev/disk/by-id"), identity, value)?;
    if mounted.file_name().is_some_and(|mounted| mounted == name.as_str()) {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "{} is mounted, and the device {identity} {value} is /dev/{name} now: it went away and came back",
        mounted.display()
    )))
}

fn sysfs_entry(link: &Path, path: &Path) -> Result<PathBuf, Error> {
    fs::canonicalize(link).map_err(|error| failed(format_args!("find {} in sysfs", path.display()), error))
}

/// Says who still has the device; there is nothing to take away on our side.
pub(crate) fn release(identity: &str, value: &str) -> Result<(), Error> {
    let name = match search(Path::new("/sys/block"), Path::new("/dev/disk/by-id"), identity, value) {
        Ok(name) => name,
        // It is not on this node any more.
        Err(error) if error.kind == Kind::Unavailable => return Ok(()),
        Err(error) => return Err(error),
    };
    let_go(&Path::new("/dev").join(name))
}

/// Writes out what a device still holds, unless somebody has it.
pub(crate) fn let_go(path: &Path) -> Result<(), Error> {
    holders::name_them(path, exclusive(path))
}

fn exclusive(path: &Path) -> Result<(), Error> {
    use rustix::fs::{Mode, OFlags};
    match rustix::fs::open(path, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty()) {
        Ok(device) => rustix::fs::fsync(&device)
            .map_err(|error| failed(format_args!("write out what {} still holds", path.display()), error)),
        Err(rustix::io::Errno::BUSY) => {
            Err(Error::in_use(format!("{} is still mounted somewhere", path.display())))
        }
        Err(rustix::io::Errno::NXIO | rustix::io::Errno::NOENT | rustix::io::Errno::NODEV) => Ok(()),
        Err(error) => Err(failed(format_args!("open {}", path.display()), error)),
    }
}

/// Asks a SCSI disk for its size again; the other kinds tell by themselves.
pub(crate) fn rescan(path: &Path) -> Result<(), Error> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let trigger = Path::new("/sys/block").join(name).join("device/rescan");
    if trigger.exists() {
        fs::write(&trigger, "1")
            .map_err(|error| failed(format_args!("ask {} for its size", path.display()), error))?;
    }
    Ok(())
}

/// The kernel's name of the one device of this identity.
fn search(sys: &Path, by_id: &Path, identity: &str, value: &str) -> Result<String, Error> {
    if value.is_empty() || value.contains('/') || value.starts_with('.') {
        return Err(Error::invalid(format!("the device identity {value:?} is not one")));
    }
    if identity == "by-id" {
        let link = by_id.join(value);
        let target = fs::canonicalize(&link).map_err(|_| absent(identity, value))?;
        return target
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .ok_or_else(|| absent(identity, value));
    }
    if !matches!(identity, "nvme-serial" | "wwid" | "virtio-serial" | "scsi-serial") {
        return Err(Error::invalid(format!(
            "the kind of identity {identity:?} is unknown: use nvme-serial, wwid, virtio-serial, scsi-serial or by-id"
        )));
    }
    let entries = fs::read_dir(sys).map_err(|error| {
        Error::internal(format!("the devices of this node cannot be listed in {}", sys.display()))
            .caused_by(error)
    })?;
    let mut found: Vec<String> = entries
        .flatten()
        .filter(|entry| values(&entry.path(), identity).iter().any(|found| same(found, value)))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(name), true) => Ok(name),
        (Some(name), false) => Err(Error::precondition(format!(
            "several devices claim the {identity} {value}: {name}, {}; none of them is touched",
            found.join(", ")
        ))),
        (None, _) => Err(absent(identity, value)),
    }
}

fn absent(identity: &str, value: &str) -> Error {
    Error::unavailable(format!(
        "no device on this node has the {identity} {value}: it is not attached here, or has not appeared yet"
    ))
}

/// What sysfs says of a disk, as the kind of identity wants it.
fn values(disk: &Path, identity: &str) -> Vec<String> {
    let places: &[&str] = match identity {
        "nvme-serial" => &["device/serial"],
        "virtio-serial" => &["serial"],
        "wwid" => &["wwid", "device/wwid"],
        "scsi-serial" => &["device/vpd_pg80"],
        _ => &[],
    };
    let name = disk.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if identity == "nvme-serial" && !name.starts_with("nvme") {
        return Vec::new();
    }
    places
        .iter()
        .filter_map(|place| fs::read(disk.join(place)).ok())
        // Page 0x80 has four bytes of header.
        .map(|raw| if identity == "scsi-serial" { raw.get(4..).unwrap_or_default().to_vec() } else { raw })
        .map(|raw| String::from_utf8_lossy(&raw).trim_matches(['\0', ' ', '\n']).to_owned())
        .filter(|text| !text.is_empty())
        .collect()
}

/// EBS shows `vol-0abc` as the serial `vol0abc`; nothing else that matters differs by a dash.
fn same(found: &str, wanted: &str) -> bool {
    found == wanted || found.replace('-', "") == wanted.replace('-', "")
}

/// Refuses what somebody else uses: mounted other than by us, swap, or with partitions of that kind.
fn refuse_foreign_use(path: &Path, entry: &Path) -> Result<(), Error> {
    let mut parts = vec![entry.to_owned()];
    parts.extend(
        fs::read_dir(entry)
            .into_iter()
            .flatten()
            .flatten()
            .map(|part| part.path())
            .filter(|part| part.join("partition").exists()),
    );
    if parts.len() > 1 {
        return Err(Error::precondition(format!(
            "{} has partitions: it is no volume of ours",
            path.display()
        )));
    }
    let holding = fs::read_dir(entry.join("holders")).into_iter().flatten().flatten().next();
    if let Some(holder) = holding {
        return Err(Error::precondition(format!(
            "{} is part of {}: it is no volume of ours",
            path.display(),
            holder.file_name().to_string_lossy()
        )));
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .any(|swap| Path::new(swap) == path)
    {
        return Err(Error::precondition(format!("{} is swap: it is no volume of ours", path.display())));
    }
    let numbers = fs::read_to_string(entry.join("dev")).unwrap_or_default();
    let system = ["/", "/boot", "/boot/efi", "/usr", "/var", "/home"];
    let at_home = holders::our_mounts()?
        .into_iter()
        .filter(|mount| format!("{}:{}", mount.device.0, mount.device.1) == numbers.trim())
        .find(|mount| system.iter().any(|place| mount.point == Path::new(place)));
    match at_home {
        Some(mount) => Err(Error::precondition(format!(
            "{} is mounted at {}: it is a disk of this host's, and no volume of ours",
            path.display(),
            mount.point.display()
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(sys: &Path, name: &str, place: &str, value: &str) {
        let file = sys.join(name).join(place);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, value).unwrap();
    }

    #[test]
    fn a_device_is_found_by_what_sysfs_says_of_it() {
        let sys = tempfile::tempdir().unwrap();
        disk(sys.path(), "nvme1n1", "device/serial", "vol0abc              \n");
        disk(sys.path(), "vdb", "serial", "data-1\n");
        disk(sys.path(), "sda", "device/vpd_pg80", "\0@\0\u{4}ABCD");
        let found =
            |identity, value| search(sys.path(), sys.path(), identity, value).map_err(|error| error.kind);
        assert_eq!(found("nvme-serial", "vol-0abc"), Ok("nvme1n1".into()));
        assert_eq!(found("virtio-serial", "data-1"), Ok("vdb".into()));
        assert_eq!(found("scsi-serial", "ABCD"), Ok("sda".into()));
        assert_eq!(found("virtio-serial", "other"), Err(Kind::Unavailable));
        assert_eq!(found("by-name", "sda"), Err(Kind::InvalidArgument));
        assert_eq!(found("by-id", "../sda"), Err(Kind::InvalidArgument));
    }

    #[test]
    fn two_devices_of_one_identity_are_both_left_alone() {
        let sys = tempfile::tempdir().unwrap();
        disk(sys.path(), "vdb", "serial", "twin");
        disk(sys.path(), "vdc", "serial", "twin");
        let error = search(sys.path(), sys.path(), "virtio-serial", "twin").unwrap_err();
        assert!(error.message.contains("vdb") && error.message.contains("vdc"), "{error}");
    }
}
