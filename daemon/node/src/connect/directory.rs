//! Opening what lies beneath a granted directory: by descriptor, without following a symlink and without
//! leaving the grant, in one call of the kernel. Whoever got the descriptor never uses the path again, so a
//! directory that is swapped for a symlink afterwards changes nothing.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::{Component, Path},
};

use kato_orchestrator::Error;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::errno::failed;

/// Opens `path` beneath `root`.
pub(crate) fn open_beneath(root: &Path, path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    if !root.is_absolute() {
        return Err(Error::invalid(format!("the granted directory {} is no absolute path", root.display())));
    }
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || path.as_os_str().is_empty() {
        return Err(Error::invalid(format!(
            "the path {:?} beneath {} has to be relative and without ..",
            path,
            root.display()
        )));
    }
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| {
            failed(
                format_args!("open the granted directory {} (is its disk mounted?)", root.display()),
                error,
            )
        })?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    // A rename anywhere on the machine can make the kernel unsure whether we stayed beneath: it says EAGAIN.
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(&folder, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(opened) => return Ok(opened),
            Err(Errno::AGAIN) if tries < 100 => tries += 1,
            Err(error @ (Errno::LOOP | Errno::XDEV)) => {
                return Err(failed(
                    format_args!(
                        "refused {} beneath {}: a symlink in it leads elsewhere",
                        path.display(),
                        root.display()
                    ),
                    error,
                ));
            }
            Err(Errno::NOENT) => {
                return Err(Error::unavailable(format!(
                    "{} is not there: either its disk is not mounted, or somebody took the volume's bytes away",
                    root.join(path).display()
                )));
            }
            Err(error) => {
                return Err(failed(format_args!("open {}", root.join(path).display()), error));
            }
        }
    }
}

/// Opens a directory for mounting it.
pub(crate) fn open(root: &Path, path: &Path) -> Result<OwnedFd, Error> {
    open_beneath(root, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// Whether two descriptors are of one directory.
pub(crate) fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool, Error> {
    let look = |descriptor| {
        rustix::fs::fstat(descriptor).map_err(|error| failed("look at the volume's directory", error))
    };
    let (one, other) = (look(one)?, look(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}
