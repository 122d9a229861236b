//! The data root: the part of a mounted filesystem that a container gets. It is made once; owner and mode are
//! set when we make it and never again, as they belong to whoever runs in the container from then on. Where
//! the root is the mount itself, nobody can tell whether we made it, so a trusted attribute remembers that
//! it was set, and only an empty directory is touched at all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kato_orchestrator::{Error, model::DataRoot};
use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags},
    io::Errno,
};

use crate::errno::failed;

const MARKER: &str = "trusted.kato.root";
/// The mode of a directory whose owner is not set yet, which nobody would choose and no umask takes away; so
/// a crash never leaves one with the wrong owner.
const UNFINISHED: u32 = 0o1000;

/// Makes the data root in an open directory, where it is not there and may be.
pub(crate) fn make(mount: BorrowedFd<'_>, root: &DataRoot, read_only: bool) -> Result<(), Error> {
    let Some(name) = root.directory.as_deref() else {
        return if read_only { Ok(()) } else { own_once(mount, root) };
    };
    DataRoot::check_directory(name)?;
    let found = match open(mount, name) {
        Ok(found) if is_unfinished(&found)? => found,
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) if read_only => {
            return Err(Error::precondition(format!(
                "the volume has no directory {name:?}, and it is mounted read-only: mount it once read-write, \
                 or set the class's root to /"
            )));
        }
        Err(Errno::NOENT) => {
            let what = |error| failed(format_args!("make the data root {name:?}"), error);
            rustix::fs::mkdirat(mount, name, Mode::from_raw_mode(UNFINISHED)).map_err(what)?;
            open(mount, name).map_err(what)?
        }
        Err(error) => return Err(failed(format_args!("open the data root {name:?}"), error)),
    };
    own(found.as_fd(), root, 0o755)
}

/// Whether an earlier make of this directory was cut short.
fn is_unfinished(directory: &OwnedFd) -> Result<bool, Error> {
    let stat = rustix::fs::fstat(directory).map_err(|error| failed("look at the data root", error))?;
    Ok(stat.st_mode & 0o7777 == UNFINISHED)
}

fn open(mount: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(mount, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn own(directory: BorrowedFd<'_>, root: &DataRoot, mode: u32) -> Result<(), Error> {
    let (uid, gid) = (root.uid.map(Uid::from_raw), root.gid.map(Gid::from_raw));
    if uid.is_some() || gid.is_some() {
        rustix::fs::fchown(directory, uid, gid)
            .map_err(|error| failed("set the data root's owner", error))?;
    }
    // After the owner, because chown takes setgid bits away.
    rustix::fs::fchmod(directory, Mode::from_raw_mode(root.mode.unwrap_or(mode)))
        .map_err(|error| failed("set the data root's mode", error))
}

/// Sets owner and mode of a mount's own root, once, while it is empty.
fn own_once(mount: BorrowedFd<'_>, root: &DataRoot) -> Result<(), Error> {
    if root.uid.is_none() && root.gid.is_none() && root.mode.is_none() {
        return Ok(());
    }
    let readable = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(mount, ".", readable, Mode::empty())
        .map_err(|error| failed("open the volume's directory", error))?;
    if rustix::fs::fgetxattr(&directory, MARKER, &mut [0; 16]).is_ok() || !is_empty(&directory)? {
        return Ok(());
    }
    let stat = rustix::fs::statat(&directory, "", AtFlags::EMPTY_PATH)
        .map_err(|error| failed("look at the volume's directory", error))?;
    own(directory.as_fd(), root, stat.st_mode & 0o7777)?;
    match rustix::fs::fsetxattr(&directory, MARKER, b"1", XattrFlags::empty()) {
        // A filesystem without such attributes: then only being empty tells.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        Err(error) => Err(failed("remember that the data root has its owner", error)),
    }
}

fn is_empty(directory: &OwnedFd) -> Result<bool, Error> {
    let what = |error| failed("read the volume's directory", error);
    for entry in rustix::fs::Dir::read_from(directory).map_err(what)? {
        let entry = entry.map_err(what)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b".." | b"lost+found") {
            return Ok(false);
        }
    }
    Ok(true)
}
