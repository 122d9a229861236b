//! Takes trees away, a slice of time at once, so that a call with a deadline can remove what takes minutes.
//! It never crosses into a filesystem that is mounted in the tree, follows no symlink, and holds a few
//! descriptors however deep the tree is: what lies too deep is first moved up.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use kato_orchestrator::{Error, Kind};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, fstat, renameat_with, unlinkat},
    io::Errno,
};
use tokio::time::Instant;

use super::{
    beneath::{self, OWN, failed},
    order::Order,
};

/// How long one call works.
pub(crate) const SLICE: Duration = Duration::from_millis(200);
/// How many directories are open at once.
const DEEPEST: usize = 60;
/// How many deep directories were moved up.
static MOVED: AtomicU64 = AtomicU64::new(0);

/// Removes a file or a tree. False means call again; what is not there is removed.
pub(crate) fn tree(root: impl AsFd, path: &str) -> Result<bool, Error> {
    let until = Instant::now() + SLICE;
    match beneath::parent(&root, path) {
        Ok((place, name)) => {
            let gone = entry(&place, name, path, until)?;
            if gone {
                beneath::flush(&place, path)?;
            }
            Ok(gone)
        }
        Err(error) if error.kind == Kind::NotFound => {
            // Its parent is not there either: what has to be flushed is the nearest one that is.
            let mut above = path;
            while let Some((nearer, _)) = above.rsplit_once('/') {
                above = nearer;
                if let Ok(place) = beneath::open(&root, above, OFlags::RDONLY | OFlags::DIRECTORY) {
                    return beneath::flush(&place, path).map(|()| true);
                }
            }
            beneath::itself(root).and_then(|root| beneath::flush(&root, path)).map(|()| true)
        }
        Err(error) => Err(error),
    }
}

/// Removes a tree by way of another name, so that nobody sees it half gone.
pub(crate) fn discard(root: impl AsFd, path: &str, by: &str) -> Result<bool, Error> {
    beneath::check(path)?;
    beneath::check(by)?;
    // What an earlier call left there goes first; its removal is flushed with ours.
    match beneath::parent(&root, by) {
        Ok((place, name)) if !entry(&place, name, by, Instant::now() + SLICE)? => return Ok(false),
        Err(error) if error.kind != Kind::NotFound => return Err(error),
        _ => {}
    }
    let (from, old) = match beneath::parent(&root, path) {
        Ok(found) => found,
        Err(error) if error.kind == Kind::NotFound => return tree(&root, path),
        Err(error) => return Err(error),
    };
    let (into, new) = beneath::parent(&root, by)?;
    match renameat_with(&from, old, &into, new, RenameFlags::NOREPLACE) {
        Ok(()) => {
            let order = Order::of(&into);
            if !order.is_kept() {
                beneath::flush_both(&into, &from, by)?;
            }
            tree(&root, by)
        }
        Err(Errno::NOENT) => beneath::flush_both(&into, &from, path).map(|()| true),
        Err(error) => Err(failed(path, error)),
    }
}

/// Removes what we just made ourselves, however long it takes.
pub(crate) fn now(place: &OwnedFd, name: &str) -> Result<(), Error> {
    while !entry(place, name, name, Instant::now() + SLICE)? {}
    beneath::flush(place, name)
}

/// Removes one entry of a directory.
fn entry(place: &OwnedFd, name: &str, path: &str, until: Instant) -> Result<bool, Error> {
    match unlinkat(place, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        // Linux says EISDIR for a directory, POSIX EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(failed(path, error)),
    }
    match unlinkat(place, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(error) => return Err(failed(path, error)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let top = beneath::step(place, name, flags, Mode::empty()).map_err(|error| failed(path, error))?;
    let device = fstat(&top).map_err(|error| failed(path, error))?.st_dev;
    if !(Walk { top: &top, device, path, until }).empty(&top, 0)? {
        return Ok(false);
    }
    match unlinkat(place, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // Somebody put something there, or deep things were moved up: another round.
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(failed(path, error)),
    }
}

struct Walk<'a> {
    top: &'a OwnedFd,
    device: u64,
    path: &'a str,
    until: Instant,
}

impl Walk<'_> {
    /// Empties a directory. False means that the time is over.
    fn empty(&self, place: &OwnedFd, depth: usize) -> Result<bool, Error> {
        let path = self.path;
        let failed = |error| failed(path, error);
        let listed = Dir::read_from(place).map_err(failed)?;
        for found in listed {
            if Instant::now() >= self.until {
                return Ok(false);
            }
            let found = found.map_err(failed)?;
            let name = found.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match unlinkat(place, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(failed(error)),
            }
            match unlinkat(place, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
            if depth >= DEEPEST {
                // An earlier round, or process, may have left this name: then the next one is tried.
                let up = format!("{OWN}deep-{}", MOVED.fetch_add(1, Ordering::Relaxed));
                match renameat_with(place, name, self.top, up.as_str(), RenameFlags::NOREPLACE) {
                    Ok(()) => continue,
                    Err(Errno::EXIST | Errno::NOTEMPTY) => return Ok(false),
                    Err(error) => return Err(failed(error)),
                }
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(place, name, flags, Mode::empty()).map_err(failed)?;
            if fstat(&inner).map_err(failed)?.st_dev != self.device {
                return Err(Error::in_use(format!(
                    "{path:?}: a filesystem is mounted in it; unmount it first"
                )));
            }
            if !self.empty(&inner, depth + 1)? {
                return Ok(false);
            }
            match unlinkat(place, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(mut once: impl FnMut() -> Result<bool, Error>) {
        for _ in 0..1000 {
            if once().unwrap() {
                return;
            }
        }
        panic!("it never ended");
    }

    #[test]
    fn deep_and_wide_trees_go_and_symlinks_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("keep"), "x").unwrap();
        let tree_path = temp.path().join("root/tree");
        let mut deep = tree_path.clone();
        for _ in 0..200 {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("f"), "x").unwrap();
        for number in 0..100 {
            std::fs::write(tree_path.join(format!("f{number}")), "x").unwrap();
        }
        std::os::unix::fs::symlink(temp.path(), tree_path.join("link")).unwrap();
        let root = beneath::plain(&temp.path().join("root"));
        rounds(|| tree(&root, "tree"));
        assert!(!tree_path.exists() && temp.path().join("keep").exists());
        assert!(tree(&root, "tree").unwrap() && tree(&root, "no/such/tree").unwrap());
    }

    #[test]
    fn discarding_also_removes_what_an_earlier_one_left() {
        let temp = tempfile::tempdir().unwrap();
        let root = beneath::plain(temp.path());
        for path in ["v/data", "trash/old"] {
            std::fs::create_dir_all(temp.path().join(path)).unwrap();
        }
        rounds(|| discard(&root, "v", "trash"));
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        rounds(|| discard(&root, "v", "trash"));
    }
}
