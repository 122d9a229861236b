//! A block device that appears on the node, found by an identity that outlives device names: sysfs is
//! searched for it, the device is opened, and the identity is read again from what was opened, as a name may
//! have passed to another disk in between. A device is refused when it is somebody else's (`foreign.rs`): a
//! plugin that names the root disk gets nothing.
//!
//! A disk may come some seconds after whoever attached it says so. It is waited for a while (`wait.rs`), and
//! then the answer is that it is not here yet, so that the hall asks again. `disk.rs` is what sysfs says,
//! `ebs.rs` an identity that is answered differently from host to host, `notes.rs` what is remembered of disks
//! that have nothing but a name.

mod disk;
mod ebs;
mod foreign;
mod notes;
#[cfg(test)]
mod tests;
mod wait;

use std::{
    ffi::OsStr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use kato_orchestrator::{Error, Kind};
use rustix::fs::{fstat, major, makedev, minor};
use serde::{Deserialize, Serialize};

use self::{disk::Disk, notes::Notes};
use crate::{Config, errno::failed, holders};

/// How long a disk is waited for at the most.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A device that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    identity: String,
    value: String,
    site: Site,
}

/// Where devices are looked for, and what there is ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Site {
    /// The device nodes, `/dev` as the host has it.
    dev: PathBuf,
    /// `/sys` as the host has it.
    sys: PathBuf,
    /// The folders whose mounts are ours.
    places: Vec<PathBuf>,
    /// The folder of what is remembered of disks.
    notes: PathBuf,
    /// How long a disk is waited for.
    patience: Duration,
}

/// A kind of identity, and what it says.
enum Wanted<'a> {
    /// Something that sysfs says of the disk.
    Attribute { identity: &'a str, value: &'a str },
    /// A link that udev made.
    Link(&'a str),
    /// A volume of EBS.
    Ebs(ebs::Volume<'a>),
}

impl Device {
    /// The device of this identity, on this node.
    pub(crate) fn new(identity: &str, value: &str, config: &Config) -> Self {
        let site = Site {
            dev: config.dev.clone(),
            sys: config.sys.clone(),
            places: config.folders(),
            notes: config.root.join("devices"),
            // The lock of the volume and the work itself need their part of a worker's time.
            patience: (config.patience / 3).min(LONGEST_WAIT),
        };
        Self { identity: identity.to_owned(), value: value.to_owned(), site }
    }

    /// The device, checked; waited for while it is not here.
    pub(crate) fn wait(&self) -> Result<PathBuf, Error> {
        let folders = [self.site.dev.clone(), self.site.by_id()];
        wait::until(&folders, self.site.patience, || self.find())
    }

    /// The device, checked, if it is here now.
    pub(crate) fn find(&self) -> Result<PathBuf, Error> {
        let wanted = self.wanted()?;
        let disk = self.search(&wanted)?;
        let path = self.site.dev.join(&disk.name);
        // Before it is even opened, and of the very disk that is opened then.
        let uses = foreign::Uses::now()?;
        foreign::refuse(&disk, &path, &uses, &self.site)?;
        if let Wanted::Ebs(volume) = &wanted {
            volume.refuse_leftovers(&disk, &uses, &self.notes())?;
        }
        let device = super::open_device(&path)?;
        let stat =
            fstat(&device).map_err(|error| failed(format_args!("look at {}", path.display()), error))?;
        let opened = Disk::of_numbers(&self.site.sys, major(stat.st_rdev), minor(stat.st_rdev))?;
        self.require_unchanged(&wanted, &disk, &opened)?;
        let size = super::size_of_device(&device)?;
        if size == 0 || opened.size().is_some_and(|told| told != size) {
            return Err(Error::unavailable(format!(
                "{} does not have its size yet: it is only appearing, or is growing just now",
                path.display()
            )));
        }
        if let Wanted::Ebs(volume) = &wanted {
            volume.take(&opened, &self.notes())?;
        }
        Ok(path)
    }

    /// The device that was found before, as this node has it. An error says that it is not the one of this identity any
    /// more.
    pub(crate) fn require_same(&self, before: (u32, u32)) -> Result<PathBuf, Error> {
        let wanted = self.wanted()?;
        let disk = self.search(&wanted)?;
        let path = self.site.dev.join(&disk.name);
        let is_another = match &wanted {
            Wanted::Ebs(volume) => volume.is_another(&disk, &self.notes())?,
            Wanted::Attribute { .. } | Wanted::Link(_) => false,
        };
        if disk.numbers() == Some(before) && !is_another {
            return Ok(path);
        }
        Err(Error::unavailable(format!(
            "the block device {}:{} was found before, and the device {} is {} now: it went away and came back",
            before.0,
            before.1,
            self.called(),
            path.display()
        )))
    }

    /// An error says that what is open is not the device of this identity.
    pub(crate) fn require_open(&self, device: impl AsFd) -> Result<(), Error> {
        let stat = fstat(device).map_err(|error| failed("look at a device", error))?;
        self.require_same((major(stat.st_rdev), minor(stat.st_rdev))).map(drop)
    }

    /// Says who still has the device; there is nothing to take away on our side.
    pub(crate) fn release(&self) -> Result<(), Error> {
        let wanted = self.wanted()?;
        let disk = match self.search(&wanted) {
            Ok(disk) => disk,
            // It is not on this node any more.
            Err(error) if error.kind == Kind::Unavailable => return Ok(()),
            Err(error) => return Err(error),
        };
        // A disk that came under its name since is none of its business.
        if let Wanted::Ebs(volume) = &wanted
            && volume.is_another(&disk, &self.notes())?
        {
            return Ok(());
        }
        let_go(&self.site.dev.join(&disk.name))
    }

    /// Asks a SCSI disk for its size again; the other kinds tell by themselves.
    pub(crate) fn rescan(&self, path: &Path) -> Result<(), Error> {
        let Some(name) = path.file_name() else { return Ok(()) };
        let trigger = self.site.sys.join("block").join(name).join("device/rescan");
        if trigger.exists() {
            std::fs::write(&trigger, "1")
                .map_err(|error| failed(format_args!("ask {} for its size", path.display()), error))?;
        }
        Ok(())
    }

    fn wanted(&self) -> Result<Wanted<'_>, Error> {
        let (identity, value) = (self.identity.as_str(), self.value.as_str());
        if identity == "ebs" {
            return ebs::Volume::parse(value).map(Wanted::Ebs);
        }
        if value.is_empty() || value.contains('/') || value.starts_with('.') {
            return Err(Error::invalid(format!("the device identity {value:?} is not one")));
        }
        match identity {
            "by-id" => Ok(Wanted::Link(value)),
            "nvme-serial" | "wwid" | "virtio-serial" | "scsi-serial" => {
                Ok(Wanted::Attribute { identity, value })
            }
            _ => Err(Error::invalid(format!(
                "the kind of identity {identity:?} is unknown: use nvme-serial, wwid, virtio-serial, \
                 scsi-serial, by-id or ebs"
            ))),
        }
    }

    /// The one disk of this identity.
    fn search(&self, wanted: &Wanted<'_>) -> Result<Disk, Error> {
        let sys = &self.site.sys;
        match wanted {
            Wanted::Link(link) => {
                let target =
                    std::fs::canonicalize(self.site.by_id().join(link)).map_err(|_| self.absent())?;
                let name = target.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
                Disk::named(sys, &name)?.ok_or_else(|| self.absent())
            }
            Wanted::Attribute { identity, value } => {
                let mut disks = Disk::all(sys)?;
                disks.retain(|disk| disk.has(identity, value));
                self.only(disks)
            }
            Wanted::Ebs(volume) => self.only(volume.among(Disk::all(sys)?)),
        }
    }

    fn only(&self, mut found: Vec<Disk>) -> Result<Disk, Error> {
        match (found.pop(), found.is_empty()) {
            (Some(disk), true) => Ok(disk),
            (Some(disk), false) => {
                let others: Vec<&str> = found.iter().map(|other| other.name.as_str()).collect();
                Err(Error::precondition(format!(
                    "several devices claim the {}: {}, {}; none of them is touched",
                    self.called(),
                    disk.name,
                    others.join(", ")
                )))
            }
            (None, _) => Err(self.absent()),
        }
    }

    /// Whether what was opened is what was found.
    fn require_unchanged(&self, wanted: &Wanted<'_>, found: &Disk, opened: &Disk) -> Result<(), Error> {
        let is_it = match wanted {
            Wanted::Attribute { identity, value } => opened.has(identity, value),
            Wanted::Ebs(volume) => volume.is(opened),
            Wanted::Link(_) => true,
        };
        if is_it && opened == found {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "{} is not the device {} any more: it changed while it was opened",
            self.site.dev.join(&found.name).display(),
            self.called()
        )))
    }

    fn absent(&self) -> Error {
        Error::unavailable(format!(
            "no device on this node has the {}: it is not attached here, or has not appeared yet",
            self.called()
        ))
    }

    fn called(&self) -> String {
        format!("{} {}", self.identity, self.value)
    }

    fn notes(&self) -> Notes {
        Notes::within(self.site.notes.clone())
    }
}

impl Site {
    fn by_id(&self) -> PathBuf {
        self.dev.join("disk/by-id")
    }
}

/// Where this process can open a block device that the kernel calls by this name: where the host's devices are
/// said to be, and else where devices always are.
pub(crate) fn node_of(dev: &Path, name: &OsStr, numbers: (u32, u32)) -> PathBuf {
    let told = dev.join(name);
    match rustix::fs::stat(&told) {
        Ok(stat) if stat.st_rdev == makedev(numbers.0, numbers.1) => told,
        Ok(_) | Err(_) => Path::new("/dev").join(name),
    }
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
