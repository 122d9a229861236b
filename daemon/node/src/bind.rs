//! Paths of the callers' own into a volume: its directory bound to a directory, or its device to a file. The path is
//! the caller's, and what lies on the way to it may be somebody else's: its folder is found once, without any
//! link that leads out of where such paths may be, and from then on used by descriptor.
//!
//! What we made for a bind carries a mark of ours and goes with the bind; what was there before stays.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path as FsPath, PathBuf},
};

use kato_orchestrator::Error;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::MountAttrFlags,
};
use serde::{Deserialize, Serialize};

use crate::{
    connect::directory,
    errno::{failed, is},
    mount::{self, Options},
};

/// A path that somebody wants into a volume.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Path {
    /// The volume's directory, or its device.
    pub(crate) from: PathBuf,
    /// Where it is wanted.
    pub(crate) to: PathBuf,
    /// Whether nothing may be written through it.
    pub(crate) read_only: bool,
    /// Whether it is the device.
    pub(crate) device: bool,
    /// The group that everything beneath is given to first.
    pub(crate) group: Option<u32>,
    /// Where such paths may be; empty for anywhere.
    pub(crate) roots: Vec<PathBuf>,
}

impl Path {
    /// Binds, or finds it bound.
    pub(crate) fn make(&self) -> Result<(), Error> {
        let source = self.source()?;
        if let Some(group) = self.group.filter(|_| !self.device) {
            crate::group::give(source.as_fd(), group)?;
        }
        let place = Place::find(&self.to, &self.roots)?;
        let (point, is_fresh) = if self.device { place.file()? } else { place.directory()? };
        if is_fresh {
            mount::remember_place(&place.path())?;
        }
        if mount::is_mount_root(&mount::look(point.as_fd())?) {
            if !is_same(source.as_fd(), point.as_fd(), self.device)? {
                return Err(mount::occupied(&self.to));
            }
            return match self.device {
                true => Ok(()),
                false => mount::require_same_access(&point, self.read_only, &self.to),
            };
        }
        let attributes = match self.device {
            // A device that may not be opened is of no use.
            true if self.read_only => MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID,
            true => MountAttrFlags::MOUNT_ATTR_NOSUID,
            false => Options::parse(&[], self.read_only)?.attributes,
        };
        let tree = mount::clone_of(source.as_fd(), attributes)?;
        mount::place(tree.as_fd(), point.as_fd())
    }

    fn source(&self) -> Result<OwnedFd, Error> {
        if !self.device {
            return mount::open_folder(&self.from);
        }
        let what = |error| failed(format_args!("open {}", self.from.display()), error);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let device = rustix::fs::openat(CWD, &self.from, flags, Mode::empty()).map_err(what)?;
        let stat = rustix::fs::fstat(&device).map_err(what)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Err(Error::precondition(format!("{} is no block device", self.from.display())));
        }
        Ok(device)
    }

    /// Takes the bind away, and what we made for it. What stands there and is another's is left alone; so a path needs no roots
    /// here, and goes also when the roots are others by now, or when a link leads out of them.
    pub(crate) fn take_away(&self) -> Result<(), Error> {
        let folder = self.to.parent().map(FsPath::canonicalize);
        if let Some(Err(error)) = folder
            && [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].into_iter().any(|errno| is(&error, errno))
        {
            // Its folder is gone, and with it the bind.
            return Ok(());
        }
        let place = Place::find(&self.to, &[])?;
        match self.standing(&place) {
            Standing::Nothing => {}
            Standing::Ours => mount::take_down(&place.path())?,
            Standing::Others => return Ok(()),
            // It was bound within the roots, if at all; where nothing is mounted there is nothing to take down.
            Standing::Unknown if place.is_gone() => return Ok(()),
            Standing::Unknown => mount::take_down(&Place::find(&self.to, &self.roots)?.path())?,
        }
        place.clear()
    }

    /// Whose is what is mounted at a place. A filesystem that was shut down tells nothing of itself, and neither does a
    /// volume that is not mounted any more.
    fn standing(&self, place: &Place) -> Standing {
        let Ok(point) = place.open(OFlags::empty()) else { return Standing::Unknown };
        match mount::look(point.as_fd()) {
            Ok(stat) if !mount::is_mount_root(&stat) => return Standing::Nothing,
            Ok(_) => {}
            Err(_) => return Standing::Unknown,
        }
        if self.from.as_os_str().is_empty() {
            return Standing::Unknown;
        }
        let same = self.source().and_then(|source| is_same(source.as_fd(), point.as_fd(), self.device));
        match same {
            Ok(true) => Standing::Ours,
            Ok(false) => Standing::Others,
            Err(_) => Standing::Unknown,
        }
    }
}

/// Whose is what is mounted somewhere.
enum Standing {
    /// Nothing is.
    Nothing,
    /// The volume, or its device.
    Ours,
    /// Somebody else's.
    Others,
    /// Nobody can tell.
    Unknown,
}

/// Whether two descriptors are of one directory, or of one device.
fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>, device: bool) -> Result<bool, Error> {
    if !device {
        return directory::is_same(one, other);
    }
    let look = |descriptor| {
        rustix::fs::fstat(descriptor).map_err(|error| failed("look at the volume's device", error))
    };
    let (one, other) = (look(one)?, look(other)?);
    Ok(FileType::from_raw_mode(other.st_mode) == FileType::BlockDevice && one.st_rdev == other.st_rdev)
}

/// Where a path is wanted: its folder, open, and its last part.
struct Place {
    folder: File,
    real: PathBuf,
    name: OsString,
    /// As the caller says it, for people.
    told: PathBuf,
}

impl Place {
    /// Finds the folder of a path. What links lead there has to end where such paths may be.
    fn find(path: &FsPath, roots: &[PathBuf]) -> Result<Self, Error> {
        let nameless =
            || Error::invalid(format!("{} names nothing in a folder: give another path", path.display()));
        let (folder, name) = (path.parent().ok_or_else(nameless)?, path.file_name().ok_or_else(nameless)?);
        let real = folder
            .canonicalize()
            .map_err(|error| failed(format_args!("find the folder of {}", path.display()), error))?;
        let allowed = |root: &PathBuf| root.canonicalize().is_ok_and(|root| real.starts_with(root));
        if !roots.is_empty() && !roots.iter().any(allowed) {
            return Err(Error::permission_denied(format!(
                "{} is in {}, which is outside of the folders that csi.roots allows",
                path.display(),
                real.display()
            )));
        }
        // By now nothing on the way is a link; what becomes one meanwhile is refused.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat2(CWD, &real, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
            .map_err(|error| failed(format_args!("open {}", real.display()), error))?;
        Ok(Self { folder: File::from(folder), real, name: name.to_owned(), told: path.to_owned() })
    }

    /// The path without links, as the kernel tells it of what is mounted there.
    fn path(&self) -> PathBuf {
        self.real.join(&self.name)
    }

    /// Whether there is nothing of that name.
    fn is_gone(&self) -> bool {
        let found = rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        matches!(found, Err(Errno::NOENT))
    }

    /// Removes what we made there, once nothing is mounted on it.
    fn clear(&self) -> Result<(), Error> {
        let here = self.path();
        if !mount::is_ours(&here) {
            return Ok(());
        }
        match rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => return mount::remove_place(&here),
                FileType::RegularFile => {}
                // We make nothing else.
                _ => return Ok(()),
            },
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed(format_args!("look at {}", self.told.display()), error)),
        }
        match rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(format_args!("remove {}", self.told.display()), error)),
        }
    }

    /// Opens the directory, making it if it is not there. Says whether it made it.
    fn directory(&self) -> Result<(OwnedFd, bool), Error> {
        let made = match rustix::fs::mkdirat(&self.folder, &self.name, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => {
                return Err(failed(format_args!("make the directory {}", self.told.display()), error));
            }
        };
        self.open(OFlags::DIRECTORY).map(|opened| (opened, made))
    }

    /// Opens the file, making it if it is not there. Says whether it made it.
    fn file(&self) -> Result<(OwnedFd, bool), Error> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let made = match rustix::fs::openat(&self.folder, &self.name, flags, Mode::from_raw_mode(0o600)) {
            Ok(_) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed(format_args!("make the file {}", self.told.display()), error)),
        };
        let opened = self.open(OFlags::empty())?;
        let stat = rustix::fs::fstat(&opened)
            .map_err(|error| failed(format_args!("look at {}", self.told.display()), error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::BlockDevice => Ok((opened, made)),
            _ => Err(Error::precondition(format!(
                "{} is no file that a device could be bound to",
                self.told.display()
            ))),
        }
    }

    fn open(&self, more: OFlags) -> Result<OwnedFd, Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        let name: &OsStr = &self.name;
        rustix::fs::openat(&self.folder, name, flags, Mode::empty())
            .map_err(|error| failed(format_args!("open {}", self.told.display()), error))
    }
}
