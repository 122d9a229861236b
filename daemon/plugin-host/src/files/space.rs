//! Sizes: how full a filesystem is, what a file takes, and making files as large as they should be.

use kato_orchestrator::Error;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, FallocateFlags, FileType, Mode, OFlags, fallocate, fchmod, fstat, fstatfs, fstatvfs,
        ftruncate, ioctl_ficlone, unlinkat,
    },
    io::Errno,
};

use super::{
    beneath::{self, OWN, failed},
    quota,
};

/// How full a filesystem is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) total: u64,
    pub(crate) available: u64,
}

/// What a filesystem can do.
#[derive(Clone, Debug)]
pub(crate) struct Filesystem {
    pub(crate) kind: String,
    pub(crate) reflink: bool,
    pub(crate) quota: bool,
}

/// How long a file is, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) length: u64,
    pub(crate) allocated: u64,
}

/// How full the filesystem is, for somebody without root's reserve.
pub(crate) fn room(root: impl AsFd) -> Result<Room, Error> {
    let stat = fstatvfs(root).map_err(|error| failed(".", error))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Room { total: bytes(stat.f_blocks), available: bytes(stat.f_bavail) })
}

/// What the filesystem can do. Whether blocks can be shared is tried, because only that tells (xfs may have
/// been made without).
pub(crate) fn filesystem(root: impl AsFd) -> Result<Filesystem, Error> {
    let stat = fstatfs(&root).map_err(|error| failed(".", error))?;
    let number = u64::try_from(stat.f_type).unwrap_or(0);
    let kind = match number {
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794c_7630 => "overlay".to_owned(),
        0x6969 => "nfs".to_owned(),
        0x2fc1_2fc1 => "zfs".to_owned(),
        other => format!("0x{other:x}"),
    };
    let place = beneath::itself(root)?;
    Ok(Filesystem { kind, reflink: shares(&place), quota: quota::available(&place) })
}

/// Whether two files in this directory can share a block.
pub(super) fn shares(place: &OwnedFd) -> bool {
    let names = [format!("{OWN}try-a-{}", std::process::id()), format!("{OWN}try-b-{}", std::process::id())];
    let shared = (|| {
        let [a, b] = &names;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
        let open = |name: &str| beneath::step(place, name, flags, Mode::from_raw_mode(0o600));
        let (a, b) = (open(a)?, open(b)?);
        rustix::io::pwrite(&a, &[1; 4096], 0)?;
        ioctl_ficlone(&b, &a)
    })();
    for name in &names {
        // What remains is empty, hidden, and used again by the next try.
        let _gone = unlinkat(place, name, AtFlags::empty());
    }
    shared.is_ok()
}

/// Makes a file at least this long, its blocks allocated unless `thin`, and flushes it.
pub(crate) fn allocate(root: impl AsFd, path: &str, length: u64, thin: bool) -> Result<(), Error> {
    let (place, name) = beneath::parent(root, path)?;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mode = Mode::from_raw_mode(0o600);
    let (file, made) = match beneath::step(&place, name, flags | OFlags::CREATE | OFlags::EXCL, mode) {
        Ok(file) => (file, true),
        Err(Errno::EXIST) => {
            (beneath::step(&place, name, flags, Mode::empty()).map_err(|error| failed(path, error))?, false)
        }
        Err(error) => return Err(failed(path, error)),
    };
    let stretched = stretch(&file, path, length, thin);
    if made {
        if stretched.is_err() {
            let _gone = unlinkat(&place, name, AtFlags::empty());
        } else {
            fchmod(&file, mode).map_err(|error| failed(path, error))?;
        }
    }
    stretched?;
    beneath::flush(&file, path)?;
    beneath::flush(&place, path)
}

fn stretch(file: &OwnedFd, path: &str, length: u64, thin: bool) -> Result<(), Error> {
    let stat = fstat(file).map_err(|error| failed(path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::precondition(format!("{path:?} is no regular file")));
    }
    let now = u64::try_from(stat.st_size).unwrap_or(0);
    if thin {
        return if now < length {
            ftruncate(file, length).map_err(|error| failed(path, error))
        } else {
            Ok(())
        };
    }
    if length == 0 {
        return Ok(());
    }
    // Over the whole length: holes of a file that was there are filled too.
    let allocated = loop {
        match fallocate(file, FallocateFlags::empty(), 0, length) {
            Err(Errno::INTR) => {}
            result => break result,
        }
    };
    if let Err(error) = allocated {
        if now < length {
            // Where there is no room the kernel may have made it longer already: it is as long as it was.
            ftruncate(file, now).map_err(|error| failed(path, error))?;
        }
        return Err(failed(path, error));
    }
    Ok(())
}

/// What a file takes.
pub(crate) fn taken(root: impl AsFd, path: &str) -> Result<Taken, Error> {
    let file = beneath::open(root, path, OFlags::PATH)?;
    let stat = fstat(&file).map_err(|error| failed(path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::precondition(format!("{path:?} is no regular file")));
    }
    Ok(Taken {
        length: u64::try_from(stat.st_size).unwrap_or(0),
        allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
    })
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::Kind;

    use super::*;

    #[test]
    fn a_file_is_made_as_long_as_asked_and_never_shorter() {
        let temp = tempfile::tempdir().unwrap();
        let root = beneath::plain(temp.path());
        allocate(&root, "thin", 1 << 20, true).unwrap();
        assert_eq!(taken(&root, "thin").unwrap(), Taken { length: 1 << 20, allocated: 0 });
        allocate(&root, "thick", 1 << 20, false).unwrap();
        assert!(taken(&root, "thick").unwrap().allocated >= 1 << 20);
        allocate(&root, "thick", 4096, false).unwrap();
        assert_eq!(taken(&root, "thick").unwrap().length, 1 << 20);
        assert_eq!(taken(&root, "none").unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn without_room_nothing_is_left_or_changed() {
        let temp = tempfile::tempdir().unwrap();
        let root = beneath::plain(temp.path());
        let far = room(&root).unwrap().total.saturating_mul(4).min(1 << 43);
        let error = allocate(&root, "f", far, false).unwrap_err();
        assert!(matches!(error.kind, Kind::Exhausted | Kind::OutOfRange), "{error}");
        assert!(!temp.path().join("f").exists());
        allocate(&root, "g", 4096, false).unwrap();
        allocate(&root, "g", far, false).unwrap_err();
        assert_eq!(taken(&root, "g").unwrap().length, 4096);
    }
}
