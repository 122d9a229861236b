//! Small files, names and directories: each change is whole or not there, also after a power cut.

use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicU64, Ordering},
};

use kato_orchestrator::{Error, Kind};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, fchmod, fstat, mkdirat, renameat, renameat_with,
        unlinkat,
    },
    io::Errno,
};

use super::{
    beneath::{self, OWN, failed},
    order::Order,
    remove,
};

/// The largest small file.
pub(crate) const SMALL: usize = 64 << 10;
/// The most names in one answer.
const NAMES: u32 = 10_000;

/// What a directory is made with.
pub(crate) enum Piece {
    Directory,
    Content(Vec<u8>),
}

/// Makes a directory with mode 0755 and its parents. One that is there is made.
pub(crate) fn make_directory(root: impl AsFd, path: &str) -> Result<(), Error> {
    beneath::check(path)?;
    let mut place = beneath::itself(root)?;
    for name in path.split('/') {
        place = directory(&place, name, path)?;
    }
    Ok(())
}

/// A directory of this name in this place, made if it is not there.
fn directory(place: &OwnedFd, name: &str, path: &str) -> Result<OwnedFd, Error> {
    let made = match mkdirat(place, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(failed(path, error)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let opened = beneath::step(place, name, flags, Mode::empty()).map_err(|error| failed(path, error))?;
    if made {
        // The daemon's umask took bits away.
        fchmod(&opened, Mode::from_raw_mode(0o755)).map_err(|error| failed(path, error))?;
        beneath::flush(&opened, path)?;
    }
    // Also where it was there already: whoever made it may not have lived to flush it.
    beneath::flush(place, path)?;
    Ok(opened)
}

/// Renames, and flushes both directories.
pub(crate) fn rename(root: impl AsFd, source: &str, to: &str) -> Result<(), Error> {
    let (from, old) = beneath::parent(&root, source)?;
    let (into, new) = beneath::parent(&root, to)?;
    renameat_with(&from, old, &into, new, RenameFlags::NOREPLACE).map_err(|error| match error {
        Errno::EXIST | Errno::NOTEMPTY => failed(to, error),
        _ => failed(source, error),
    })?;
    Order::of(&into).renamed(&into, &from, to)
}

/// Writes a small file as a whole: written beside, flushed, renamed.
pub(crate) fn write(root: impl AsFd, path: &str, content: &[u8]) -> Result<(), Error> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    small(path, content.len())?;
    let (place, name) = beneath::parent(root, path)?;
    let beside = format!("{OWN}new-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let written = file(&place, &beside, path, content)
        .and_then(|()| renameat(&place, &beside, &place, name).map_err(|error| failed(path, error)));
    if written.is_err() {
        // It may not have come into being; what remains of it is hidden and goes with the directory.
        let _gone = unlinkat(&place, &beside, AtFlags::empty());
    }
    written?;
    beneath::flush(&place, path)
}

/// A new file with this content, flushed; its name is not.
fn file(place: &OwnedFd, name: &str, path: &str, content: &[u8]) -> Result<(), Error> {
    beneath::flush(new_file(place, name, path, content)?, path)
}

/// A new file with this content, not flushed.
fn new_file(place: &OwnedFd, name: &str, path: &str, content: &[u8]) -> Result<OwnedFd, Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let opened =
        beneath::step(place, name, flags, Mode::from_raw_mode(0o600)).map_err(|error| failed(path, error))?;
    let mut file = std::fs::File::from(opened);
    file.write_all(content).map_err(|error| of_std(path, &error))?;
    Ok(file.into())
}

fn small(path: &str, length: usize) -> Result<(), Error> {
    if length > SMALL {
        return Err(Error::out_of_range(format!(
            "{path:?}: {length} bytes are too many for a small file (64 KiB)"
        )));
    }
    Ok(())
}

fn of_std(path: &str, error: &std::io::Error) -> Error {
    failed(path, Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// Reads a small file; nothing if there is none.
pub(crate) fn read(root: impl AsFd, path: &str) -> Result<Option<Vec<u8>>, Error> {
    // NONBLOCK: a fifo in its place must not hold the thread.
    let opened = match beneath::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(opened) => opened,
        Err(error) if error.kind == Kind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = fstat(&opened).map_err(|error| failed(path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::precondition(format!("{path:?} is no regular file")));
    }
    let mut content = Vec::new();
    let limit = u64::try_from(SMALL).unwrap_or(u64::MAX) + 1;
    std::fs::File::from(opened)
        .take(limit)
        .read_to_end(&mut content)
        .map_err(|error| of_std(path, &error))?;
    small(path, content.len())?;
    Ok(Some(content))
}

/// The names in a directory after `after`, sorted. `.` is the granted directory itself.
pub(crate) fn names(
    root: impl AsFd,
    path: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<String>, Error> {
    let opened = if matches!(path, "" | ".") {
        beneath::itself(root)
    } else {
        beneath::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind == Kind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in Dir::new(opened).map_err(|error| failed(path, error))? {
        let entry = entry.map_err(|error| failed(path, error))?;
        // A name that is no text was not made by a plugin.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name != "." && name != ".." && !name.starts_with(OWN) && after.is_none_or(|after| name > after) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    names.truncate(usize::try_from(limit.min(NAMES)).unwrap_or(0));
    Ok(names)
}

/// Makes a directory with its entries in one stroke.
pub(crate) fn assemble(root: impl AsFd, to: &str, by: &str, pieces: &[(String, Piece)]) -> Result<(), Error> {
    let (target, name) = beneath::parent(&root, to)?;
    match rustix::fs::statat(&target, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Err(failed(to, Errno::EXIST)),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(failed(to, error)),
    }
    let (place, beside) = beneath::parent(&root, by)?;
    let order = Order::of(&target);
    mkdirat(&place, beside, Mode::from_raw_mode(0o755)).map_err(|error| failed(by, error))?;
    let assembled = fill(order, &place, beside, by, pieces).and_then(|()| {
        renameat_with(&place, beside, &target, name, RenameFlags::NOREPLACE)
            .map_err(|error| failed(to, error))
    });
    if let Err(error) = assembled {
        // Nothing of it stays; if that fails too, `discard` takes it away.
        let _left = remove::now(&place, beside);
        return Err(error);
    }
    order.renamed(&target, &place, to)
}

/// Makes all pieces first and flushes them then: a filesystem with a journal commits them together with the
/// first flush, and finds the others done.
fn fill(
    order: Order,
    place: &OwnedFd,
    name: &str,
    path: &str,
    pieces: &[(String, Piece)],
) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let inside = beneath::step(place, name, flags, Mode::empty()).map_err(|error| failed(path, error))?;
    fchmod(&inside, Mode::from_raw_mode(0o755)).map_err(|error| failed(path, error))?;
    let mut made = Vec::with_capacity(pieces.len());
    for (name, piece) in pieces {
        let (place, last) = beneath::parent(&inside, name)?;
        made.push(match piece {
            Piece::Directory => new_directory(&place, last, name)?,
            Piece::Content(content) => {
                small(name, content.len())?;
                new_file(&place, last, name, content)?
            }
        });
    }
    // The directories of nested pieces are pieces themselves, or `inside`.
    for (made, (name, piece)) in made.iter().zip(pieces) {
        match piece {
            Piece::Directory => order.before(made, name)?,
            Piece::Content(_) => order.settle(made, name)?,
        }
    }
    order.before(&inside, path)
}

/// A new directory, not flushed.
fn new_directory(place: &OwnedFd, name: &str, path: &str) -> Result<OwnedFd, Error> {
    mkdirat(place, name, Mode::from_raw_mode(0o755)).map_err(|error| failed(path, error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let opened = beneath::step(place, name, flags, Mode::empty()).map_err(|error| failed(path, error))?;
    // The daemon's umask took bits away.
    fchmod(&opened, Mode::from_raw_mode(0o755)).map_err(|error| failed(path, error))?;
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_written_read_and_listed() {
        let temp = tempfile::tempdir().unwrap();
        let root = beneath::plain(temp.path());
        make_directory(&root, "a/b").unwrap();
        make_directory(&root, "a/b").unwrap();
        assert_eq!(read(&root, "a/b/f").unwrap(), None);
        write(&root, "a/b/f", b"one").unwrap();
        write(&root, "a/b/f", b"two").unwrap();
        assert_eq!(read(&root, "a/b/f").unwrap().unwrap(), b"two");
        assert_eq!(write(&root, "missing/f", b"x").unwrap_err().kind, Kind::NotFound);
        assert_eq!(write(&root, "a/big", &vec![0; SMALL + 1]).unwrap_err().kind, Kind::OutOfRange);
        for name in ["c", "a", "b"] {
            write(&root, &format!("a/b/{name}"), b"").unwrap();
        }
        assert_eq!(names(&root, "a/b", None, 10).unwrap(), ["a", "b", "c", "f"]);
        assert_eq!(names(&root, "a/b", Some("a"), 2).unwrap(), ["b", "c"]);
        assert_eq!(names(&root, "nowhere", None, 10).unwrap(), Vec::<String>::new());
        assert_eq!(names(&root, ".", None, 10).unwrap(), ["a"]);
    }

    #[test]
    fn renaming_onto_something_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let root = beneath::plain(temp.path());
        write(&root, "x", b"1").unwrap();
        write(&root, "y", b"2").unwrap();
        assert_eq!(rename(&root, "x", "y").unwrap_err().kind, Kind::AlreadyExists);
        assert_eq!(rename(&root, "z", "w").unwrap_err().kind, Kind::NotFound);
        rename(&root, "x", "z").unwrap();
        assert_eq!(names(&root, ".", None, 10).unwrap(), ["y", "z"]);
    }

    #[test]
    fn a_directory_appears_with_all_its_entries_or_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        let root = beneath::plain(temp.path());
        let pieces =
            [("data".to_owned(), Piece::Directory), ("mark".to_owned(), Piece::Content(b"m".to_vec()))];
        assemble(&root, "v", ".v", &pieces).unwrap();
        assert_eq!(names(&root, "v", None, 10).unwrap(), ["data", "mark"]);
        assert_eq!(assemble(&root, "v", ".v", &pieces).unwrap_err().kind, Kind::AlreadyExists);
        let bad = [("ok".to_owned(), Piece::Directory), ("../up".to_owned(), Piece::Directory)];
        assemble(&root, "w", ".w", &bad).unwrap_err();
        assert_eq!(names(&root, ".", None, 10).unwrap(), ["v"]);
    }

    #[test]
    fn a_fifo_in_place_of_a_file_does_not_hold_the_thread() {
        let temp = tempfile::tempdir().unwrap();
        let root = beneath::plain(temp.path());
        rustix::fs::mknodat(&root, "fifo", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(read(&root, "fifo").unwrap_err().kind, Kind::Precondition);
    }
}
