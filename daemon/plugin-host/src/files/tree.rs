//! Copies of files and trees that nobody can tell from the original: contents with their holes, owners,
//! modes, times, extended attributes, hard links, symlinks, fifos, sockets and devices. Blocks are shared
//! where the filesystem can.
//!
//! It follows no symlink and stays on its filesystem. The copy is made where nobody looks (`copies.rs`), so
//! it may fail half way.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    sync::atomic::{AtomicBool, Ordering},
};

use kato_orchestrator::{Error, Kind};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
        chownat, copy_file_range, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, ftruncate,
        futimens, ioctl_ficlone, linkat, mkdirat, mknodat, openat, readlinkat, seek, statat, symlinkat,
        syncfs, utimensat,
    },
    io::Errno,
};

use super::beneath::failed;

/// The deepest tree: one descriptor is held for each level.
const DEEPEST: usize = 200;
/// How much is copied between two looks at whether to go on.
const CHUNK: usize = 16 << 20;

/// A copy that can be told to stop.
pub(super) struct Copying<'a> {
    /// What it is called in errors.
    pub(super) path: &'a str,
    pub(super) stop: &'a AtomicBool,
}

impl Copying<'_> {
    fn failed(&self) -> impl Fn(Errno) -> Error {
        |error| failed(self.path, error)
    }

    fn go_on(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::busy(format!("{:?}: the copy was given up", self.path)));
        }
        Ok(())
    }

    /// Copies one file's contents. Without `may_copy` blocks have to be shared.
    pub(super) fn contents(&self, source: &OwnedFd, target: &OwnedFd, may_copy: bool) -> Result<(), Error> {
        match ioctl_ficlone(target, source) {
            Ok(()) => return Ok(()),
            Err(
                Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::PERM,
            ) if may_copy => {}
            Err(error) if may_copy => return Err(failed(self.path, error)),
            Err(error) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("{:?}: the filesystem cannot share blocks between files ({error})", self.path),
                ));
            }
        }
        let length = fstat(source).map_err(self.failed())?.st_size;
        let length = u64::try_from(length).unwrap_or(0);
        ftruncate(target, length).map_err(self.failed())?;
        let mut from = 0;
        while from < length {
            let start = match seek(source, SeekFrom::Data(from)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(error) => return Err(failed(self.path, error)),
            };
            let end = seek(source, SeekFrom::Hole(start)).map_err(self.failed())?.min(length);
            self.range(source, target, start, end)?;
            from = end;
        }
        Ok(())
    }

    fn range(&self, source: &OwnedFd, target: &OwnedFd, mut from: u64, end: u64) -> Result<(), Error> {
        let mut to = from;
        while from < end {
            self.go_on()?;
            let chunk = usize::try_from(end - from).unwrap_or(CHUNK).min(CHUNK);
            match copy_file_range(source, Some(&mut from), target, Some(&mut to), chunk) {
                // Somebody made it shorter meanwhile: the copy keeps the length that it had.
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    let copied = self.by_hand(source, target, from, chunk)?;
                    if copied == 0 {
                        return Ok(());
                    }
                    from += copied;
                    to = from;
                }
                Err(error) => return Err(failed(self.path, error)),
            }
        }
        Ok(())
    }

    fn by_hand(&self, source: &OwnedFd, target: &OwnedFd, from: u64, chunk: usize) -> Result<u64, Error> {
        let mut buffer = vec![0; chunk.min(1 << 20)];
        let read = rustix::io::pread(source, &mut buffer, from).map_err(self.failed())?;
        let mut rest = buffer.get(..read).unwrap_or_default();
        let mut at = from;
        while !rest.is_empty() {
            let written = rustix::io::pwrite(target, rest, at).map_err(self.failed())?;
            if written == 0 {
                return Err(failed(self.path, Errno::IO));
            }
            rest = rest.get(written..).unwrap_or_default();
            at += u64::try_from(written).unwrap_or(0);
        }
        Ok(at - from)
    }

    /// Copies a whole directory to a new name, and flushes it.
    pub(super) fn tree(&self, source: &OwnedFd, place: &OwnedFd, name: &str) -> Result<(), Error> {
        let stat = fstat(source).map_err(self.failed())?;
        mkdirat(place, name, Mode::RWXU).map_err(self.failed())?;
        let target = open(place, &cstring(name), OFlags::DIRECTORY).map_err(self.failed())?;
        let mut links = Links { top: &target, first: BTreeMap::new() };
        self.directory(source, &target, &stat, &mut links, &mut Vec::new())?;
        // One flush of the filesystem is cheaper than one for each of many files.
        syncfs(&target).map_err(self.failed())
    }

    fn directory(
        &self,
        source: &OwnedFd,
        target: &OwnedFd,
        stat: &Stat,
        links: &mut Links<'_>,
        above: &mut Vec<CString>,
    ) -> Result<(), Error> {
        if above.len() >= DEEPEST {
            return Err(Error::precondition(format!(
                "{:?}: the tree is deeper than {DEEPEST} levels",
                self.path
            )));
        }
        for entry in Dir::read_from(source).map_err(self.failed())? {
            self.go_on()?;
            let entry = entry.map_err(self.failed())?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                self.entry(source, target, name, stat.st_dev, links, above)?;
            }
        }
        // Last, because what is made in it changes its times and would inherit its default ACL.
        self.attributes(source, target, stat)
    }

    fn entry(
        &self,
        source: &OwnedFd,
        target: &OwnedFd,
        name: &CStr,
        device: u64,
        links: &mut Links<'_>,
        above: &mut Vec<CString>,
    ) -> Result<(), Error> {
        let failed = self.failed();
        let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&failed)?;
        if stat.st_dev != device {
            return Err(Error::in_use(format!(
                "{:?}: a filesystem is mounted in it; unmount it first",
                self.path
            )));
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory
            && stat.st_nlink > 1
            && links.link(&stat, target, name).map_err(&failed)?
        {
            return Ok(());
        }
        match kind {
            FileType::Directory => {
                let inner = open(source, name, OFlags::DIRECTORY).map_err(&failed)?;
                mkdirat(target, name, Mode::RWXU).map_err(&failed)?;
                let copy = open(target, name, OFlags::DIRECTORY).map_err(&failed)?;
                above.push(name.to_owned());
                self.directory(&inner, &copy, &stat, links, above)?;
                above.pop();
            }
            FileType::RegularFile => {
                let inner = open(source, name, OFlags::NONBLOCK).map_err(&failed)?;
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let copy = openat(target, name, flags, Mode::RUSR | Mode::WUSR).map_err(&failed)?;
                self.contents(&inner, &copy, true)?;
                self.attributes(&inner, &copy, &stat)?;
            }
            FileType::Symlink => {
                let text = readlinkat(source, name, Vec::new()).map_err(&failed)?;
                symlinkat(&text, target, name).map_err(&failed)?;
                of_name(target, name, &stat).map_err(&failed)?;
            }
            _ => {
                mknodat(target, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)
                    .map_err(&failed)?;
                of_name(target, name, &stat).map_err(&failed)?;
                rustix::fs::chmodat(target, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())
                    .map_err(&failed)?;
            }
        }
        if stat.st_nlink > 1 && kind != FileType::Directory {
            links.keep(&stat, above, name);
        }
        Ok(())
    }

    /// Owner, mode, extended attributes and times, in the order in which none takes another away: a change of
    /// owner clears the set-user bit and capabilities.
    pub(super) fn attributes(&self, source: &OwnedFd, target: &OwnedFd, stat: &Stat) -> Result<(), Error> {
        let failed = self.failed();
        fchown(target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
            .map_err(&failed)?;
        fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(&failed)?;
        extended(source, target).map_err(&failed)?;
        futimens(target, &times(stat)).map_err(&failed)
    }
}

/// Where the first name of each file with several names was put.
struct Links<'a> {
    top: &'a OwnedFd,
    first: BTreeMap<u64, (Vec<CString>, CString)>,
}

impl Links<'_> {
    fn keep(&mut self, stat: &Stat, above: &[CString], name: &CStr) {
        self.first.entry(stat.st_ino).or_insert_with(|| (above.to_vec(), name.to_owned()));
    }

    /// Gives a file that was copied already one more name.
    fn link(&self, stat: &Stat, target: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
        let Some((above, first)) = self.first.get(&stat.st_ino) else { return Ok(false) };
        let mut place = open(self.top, c".", OFlags::DIRECTORY)?;
        for step in above {
            place = open(&place, step, OFlags::DIRECTORY)?;
        }
        linkat(&place, first.as_c_str(), target, name, AtFlags::empty())?;
        Ok(true)
    }
}

fn open(place: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(place, name, flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn cstring(name: &str) -> CString {
    // Names with a NUL were refused long before.
    CString::new(name).unwrap_or_default()
}

fn of_name(target: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(target, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(stat: &Stat) -> Timestamps {
    let moment =
        |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps {
        last_access: moment(stat.st_atime, stat.st_atime_nsec),
        last_modification: moment(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn extended(source: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let mut names = vec![0; 64 << 10];
    let length = match flistxattr(source, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error),
    };
    names.truncate(length);
    let mut value = vec![0; 64 << 10];
    for name in names.split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(|_no_nul| Errno::IO)?;
        let length = match fgetxattr(source, name, &mut value) {
            Ok(length) => length,
            // Gone meanwhile, or nothing of the file's own.
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error),
        };
        fsetxattr(target, name, value.get(..length).unwrap_or_default(), XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::{super::beneath, *};

    #[test]
    fn a_copy_has_everything_that_the_original_has() {
        let temp = tempfile::tempdir().unwrap();
        let source = temp.path().join("a");
        std::fs::create_dir_all(source.join("d/e")).unwrap();
        std::fs::write(source.join("d/e/file"), "hello").unwrap();
        std::fs::hard_link(source.join("d/e/file"), source.join("also")).unwrap();
        std::os::unix::fs::symlink("../../nowhere", source.join("d/link")).unwrap();
        let sparse = std::fs::File::create(source.join("sparse")).unwrap();
        sparse.set_len(8 << 20).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"end", 4 << 20).unwrap();
        std::fs::set_permissions(source.join("d"), std::fs::Permissions::from_mode(0o1750)).unwrap();
        let root = beneath::plain(temp.path());
        mknodat(&root, "a/fifo", FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        let file = std::fs::File::open(source.join("also")).unwrap();
        let noted = fsetxattr(&file, "user.note", b"kept", XattrFlags::empty()).is_ok();
        let old = Timestamps {
            last_access: Timespec { tv_sec: 1, tv_nsec: 2 },
            last_modification: Timespec { tv_sec: 3, tv_nsec: 4 },
        };
        futimens(&file, &old).unwrap();
        utimensat(&root, "a/d", &old, AtFlags::empty()).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(source.join("also"), Some(1234), Some(4321)).unwrap();
        }
        let stop = AtomicBool::new(false);
        let from = beneath::open(&root, "a", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        let place = beneath::itself(&root).unwrap();
        Copying { path: "a", stop: &stop }.tree(&from, &place, "b").unwrap();
        let copy = temp.path().join("b");
        for name in ["also", "d", "d/e", "d/e/file", "d/link", "fifo", "sparse"] {
            let (one, two) =
                (source.join(name).symlink_metadata().unwrap(), copy.join(name).symlink_metadata().unwrap());
            let facts = |m: &std::fs::Metadata| {
                let length = if m.is_dir() { 0 } else { m.len() };
                (m.mode(), m.uid(), m.gid(), length, m.mtime(), m.mtime_nsec(), m.nlink())
            };
            assert_eq!(facts(&one), facts(&two), "{name}");
        }
        assert_eq!(std::fs::read(copy.join("d/e/file")).unwrap(), b"hello");
        assert_eq!(
            copy.join("also").metadata().unwrap().ino(),
            copy.join("d/e/file").metadata().unwrap().ino()
        );
        assert_eq!(std::fs::read_link(copy.join("d/link")).unwrap().to_str(), Some("../../nowhere"));
        assert!(copy.join("sparse").metadata().unwrap().blocks() * 512 < 1 << 20);
        assert_eq!(
            std::fs::read(source.join("sparse")).unwrap(),
            std::fs::read(copy.join("sparse")).unwrap()
        );
        if noted {
            let mut value = [0; 16];
            let file = std::fs::File::open(copy.join("also")).unwrap();
            let length = fgetxattr(&file, "user.note", &mut value).unwrap();
            assert_eq!(&value[..length], b"kept");
        }
    }
}
