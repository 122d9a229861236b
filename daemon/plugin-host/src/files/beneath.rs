//! How a path is opened beneath a granted directory: by the kernel, in one step (`openat2` with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`), so that nothing can be swapped between a check and its use. The
//! text is checked first, for clear errors and because a trailing slash or an empty part has no meaning here.
//!
//! Every other function of this room works on descriptors that came from here, and on single names.

use std::path::Path;

use kato_orchestrator::{Error, Kind};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, ResolveFlags, fstat, fsync, open as open_plain, openat2},
    io::Errno,
};

/// Names that begin so are this room's own, and no guest sees or makes them.
pub(crate) const OWN: &str = ".kato-";

/// The longest path.
const LONGEST: usize = 1024;

/// Opens a granted directory. Symlinks on the way there are the operator's, and followed.
pub(crate) fn root(path: &Path) -> Result<OwnedFd, Error> {
    open_plain(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        Error::unavailable(format!("the granted directory {} cannot be opened: {error}", path.display()))
            .caused_by(error)
    })
}

/// Whether a path is relative, plain and short.
pub(crate) fn check(path: &str) -> Result<(), Error> {
    let refuse = |why: &str| {
        let shown: String = path.chars().take(200).collect();
        Err(Error::permission_denied(format!("the path {shown:?} is refused: {why}")))
    };
    if path.is_empty() {
        return refuse("it is empty");
    }
    if path.len() > LONGEST {
        return refuse("it is too long");
    }
    if path.contains('\0') {
        return refuse("it contains a NUL");
    }
    if path.starts_with('/') {
        return refuse("it is absolute; give one relative to the granted directory");
    }
    if path.ends_with('/') {
        return refuse("it ends with a slash");
    }
    for part in path.split('/') {
        match part {
            "" => return refuse("it contains an empty part"),
            "." | ".." => return refuse("it contains `.` or `..`"),
            own if own.starts_with(OWN) => return refuse("names that begin with .kato- are the host's own"),
            long if long.len() > 255 => return refuse("a part of it is too long"),
            _ => {}
        }
    }
    Ok(())
}

/// Opens a path beneath a granted directory.
pub(crate) fn open(root: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Error> {
    create(root, path, flags, Mode::empty())
}

/// Opens a path beneath a granted directory, with the mode of what is made.
pub(crate) fn create(root: impl AsFd, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Error> {
    check(path)?;
    step(root, path, flags, mode).map_err(|error| failed(path, error))
}

/// The same without looking at the text, for paths that this room made up.
pub(crate) fn step(root: impl AsFd, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        // EAGAIN: something was renamed on the way while the kernel looked; it asks to be asked again.
        match openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens the directory that a path's last name is in, and that name.
pub(crate) fn parent(root: impl AsFd, path: &str) -> Result<(OwnedFd, &str), Error> {
    check(path)?;
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let opened = step(root, directory, flags, Mode::empty()).map_err(|error| failed(path, error))?;
    Ok((opened, name))
}

/// Opens a granted directory itself for reading and flushing.
pub(crate) fn itself(root: impl AsFd) -> Result<OwnedFd, Error> {
    step(root, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).map_err(|error| failed(".", error))
}

/// Flushes what a descriptor stands for.
pub(crate) fn flush(file: impl AsFd, path: &str) -> Result<(), Error> {
    fsync(file).map_err(|error| failed(path, error))
}

/// Flushes two directories; once where they are the same one.
pub(crate) fn flush_both(one: &OwnedFd, other: &OwnedFd, path: &str) -> Result<(), Error> {
    let of = |file: &OwnedFd| {
        fstat(file).map(|stat| (stat.st_dev, stat.st_ino)).map_err(|error| failed(path, error))
    };
    flush(one, path)?;
    if of(one)? == of(other)? { Ok(()) } else { flush(other, path) }
}

/// The error of a file operation on this path.
pub(crate) fn failed(path: &str, error: Errno) -> Error {
    let shown: String = path.chars().take(200).collect();
    let (kind, what) = match error {
        Errno::NOENT => (Kind::NotFound, "it does not exist"),
        Errno::EXIST | Errno::NOTEMPTY => (Kind::AlreadyExists, "it exists already"),
        Errno::LOOP | Errno::XDEV => {
            (Kind::PermissionDenied, "it leads through a symlink or out of the granted directory")
        }
        Errno::NOTDIR => (Kind::Precondition, "a part of it is no directory"),
        Errno::ISDIR => (Kind::Precondition, "it is a directory"),
        Errno::NOSPC | Errno::DQUOT => (Kind::Exhausted, "there is no room left"),
        Errno::FBIG => (Kind::OutOfRange, "the filesystem cannot hold a file of that size"),
        Errno::BUSY | Errno::TXTBSY => (Kind::InUse, "it is in use"),
        Errno::OPNOTSUPP | Errno::NOSYS => (Kind::Unsupported, "the filesystem cannot do that"),
        Errno::ACCESS | Errno::PERM => (Kind::PermissionDenied, "the daemon may not do that"),
        Errno::ROFS => (Kind::Unavailable, "the filesystem is read-only"),
        Errno::NAMETOOLONG | Errno::INVAL => (Kind::InvalidArgument, "it does not suit the filesystem"),
        _ => (Kind::Unavailable, "the filesystem failed"),
    };
    Error::new(kind, format!("{shown:?}: {what} ({error})")).caused_by(error)
}

/// Opens a directory of the system's by its path: only for tests and for the daemon's own folders.
#[cfg(test)]
pub(crate) fn plain(path: &Path) -> OwnedFd {
    open_plain(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_opened_however_it_is_spelt() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("in")).unwrap();
        std::fs::write(temp.path().join("in/file"), "x").unwrap();
        std::fs::write(temp.path().join("secret"), "x").unwrap();
        let inside = temp.path().join("in");
        std::os::unix::fs::symlink("../secret", inside.join("up")).unwrap();
        std::os::unix::fs::symlink("/etc", inside.join("away")).unwrap();
        std::os::unix::fs::symlink("file", inside.join("near")).unwrap();
        let root = plain(&inside);
        open(&root, "file", OFlags::RDONLY).unwrap();
        for bad in [
            "../secret",
            "/etc/passwd",
            "up",
            "away/passwd",
            "near",
            "file/",
            "./file",
            "in//file",
            "",
            "a\0",
            ".kato-x",
            "x/../file",
        ] {
            let error = open(&root, bad, OFlags::RDONLY).unwrap_err();
            assert!(matches!(error.kind, Kind::PermissionDenied), "{bad:?}: {error}");
        }
    }
}
