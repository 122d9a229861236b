//! The folder of a store: who may be in it, what shape its content has, and what a cut-off start left there.
//!
//! ```text
//! <path>/lock       held by the process that has the store open; says which
//! <path>/FORMAT     which schema its records have; read before anything is touched
//! <path>/sled/      the engine's own
//! <path>/mark       the last commit that is durable (`tally.rs`)
//! <path>/seal       what the engine's files were when it was closed (`look.rs`)
//! <path>/sled.copy/ a copy of the engine, while it is looked at
//! <path>/reserve    room for the end (`reserve.rs`)
//! <path>/dumps/     dumps (`dump.rs`)
//! ```
//!
//! Whatever is made here is made under another name, synced and renamed: a power cut leaves all of it or none.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use kato_orchestrator::{Error, records::SCHEMA};
use rustix::fs::FlockOperation;

/// The engine's folder.
pub(crate) fn engine(store: &Path) -> PathBuf {
    store.join("sled")
}

/// Where the engine's folder is made, before it is renamed.
pub(crate) fn unborn(store: &Path) -> PathBuf {
    store.join("sled.new")
}

/// Where a copy of the engine is looked at.
pub(crate) fn copy(store: &Path) -> PathBuf {
    store.join("sled.copy")
}

/// What the engine's files were when it was closed.
pub(crate) fn seal(store: &Path) -> PathBuf {
    store.join("seal")
}

/// An error of the folder itself.
pub(crate) fn unusable(path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!(
        "the store needs {} and cannot use it ({error}): check the disk and the permissions",
        path.display()
    ))
    .caused_by(error)
}

/// The right to use a store, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Makes the folder if there is none and takes it for this process.
    pub(crate) fn take(store: &Path) -> Result<Self, Error> {
        let failed = |error| unusable(store, error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(store).map_err(failed)?;
        let path = store.join("lock");
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let holder = match file.read_to_string(&mut holder) {
                    Ok(_) if !holder.trim().is_empty() => format!("process {}", holder.trim()),
                    _ => "another process".to_owned(),
                };
                return Err(Error::unavailable(format!(
                    "the store at {} is in use by {holder}: stop that kato first, or give this one another path",
                    store.display()
                )));
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        // Only for people. A full disk is no reason not to start.
        let pid = format!("{}\n", std::process::id());
        let written =
            file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(pid.as_bytes()));
        if let Err(error) = written {
            tracing::warn!(store = %store.display(), %error, "the lock could not say who holds it");
        }
        Ok(Self { _file: file })
    }
}

/// The schema of the store's records, if there are any; one that a newer kato wrote is refused. Changes nothing.
pub(crate) fn check_format(store: &Path) -> Result<Option<u16>, Error> {
    let path = store.join("FORMAT");
    let text = match fs::read(&path) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(&path, error)),
    };
    let schema: u16 = text.trim().strip_prefix("kato schema ").and_then(|number| number.parse().ok()).ok_or_else(|| {
        Error::internal(format!(
            "{} says {:?} and should say `kato schema {SCHEMA}`: this is no store of kato's, or it is damaged; \
             restore it, or load the newest dump of {}/dumps into an empty folder",
            path.display(),
            text.trim(),
            store.display()
        ))
    })?;
    if schema > SCHEMA {
        return Err(Error::precondition(format!(
            "the store at {} has schema {schema} and this kato reads up to schema {SCHEMA}: start the newer kato \
             again, or load a dump of before the upgrade (see {}/dumps) into an empty folder; nothing was changed",
            store.display(),
            store.display()
        )));
    }
    Ok(Some(schema))
}

/// Says which schema the records have from now on.
pub(crate) fn write_format(store: &Path) -> Result<(), Error> {
    let path = store.join("FORMAT");
    let wanted = format!("kato schema {SCHEMA}\n");
    if fs::read_to_string(&path).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    let failed = |error| unusable(&path, error);
    let new = store.join("FORMAT.new");
    let mut file = File::create(&new).map_err(failed)?;
    file.write_all(wanted.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&new, &path).map_err(failed)?;
    sync_folder(store)
}

/// Removes a folder of ours, if there is one.
pub(crate) fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unusable(folder, error)),
        _ => Ok(()),
    }
}

/// Removes what a cut-off start left: an engine that was never finished, a copy that was looked at, and what
/// stands in sled's way.
pub(crate) fn tidy(store: &Path) -> Result<(), Error> {
    remove(&unborn(store))?;
    remove(&copy(store))?;
    tidy_engine(&engine(store))
}

/// Removes snapshots of sled's that it would stumble over (it takes a half-written one for a whole one, and
/// gives up at one whose checksum fails, though they only shorten its start).
pub(crate) fn tidy_engine(engine: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(engine) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(engine, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| unusable(engine, error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("snap.") {
            continue;
        }
        let path = entry.path();
        if name.ends_with(".generating")
            || !is_whole_snapshot(&path).map_err(|error| unusable(&path, error))?
        {
            tracing::warn!(path = %path.display(), "removed an unfinished snapshot of the engine's");
            fs::remove_file(&path).map_err(|error| unusable(&path, error))?;
        }
    }
    Ok(())
}

/// sled ends a snapshot with its length (8 bytes) and the CRC-32 of what is before.
fn is_whole_snapshot(path: &Path) -> io::Result<bool> {
    let bytes = fs::read(path)?;
    let Some((content, trailer)) = bytes.len().checked_sub(12).and_then(|end| bytes.split_at_checked(end))
    else {
        return Ok(false);
    };
    let length = u64::try_from(content.len()).unwrap_or(u64::MAX).to_le_bytes();
    let crc = crc32fast::hash(content).to_le_bytes();
    Ok(!content.is_empty() && trailer == [length.as_slice(), crc.as_slice()].concat())
}

/// Waits until sled's threads have let go of an engine that this process closed a moment ago. Nobody else can
/// have it, for the store's lock is ours.
pub(crate) fn wait_for_engine(engine: &Path) -> Result<(), Error> {
    let path = engine.join("db");
    let failed = |error| unusable(&path, error);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for _ in 0..10_000 {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(std::time::Duration::from_millis(1)),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    Err(Error::unavailable(format!(
        "{} is in use by a program that is not kato: end that first",
        path.display()
    )))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| unusable(path, error))
}

/// Makes a folder and everything in it durable.
pub(crate) fn sync_tree(path: &Path) -> Result<(), Error> {
    let failed = |error| unusable(path, error);
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path()).and_then(|file| file.sync_all()).map_err(failed)?;
        }
    }
    sync_folder(path)
}

/// sled's files through descriptors of our own, because its flush waits for the writes and neither for the
/// disk's cache nor for the file's length.
#[derive(Debug)]
pub(crate) struct Files {
    db: File,
    blobs: PathBuf,
    known: HashSet<OsString>,
}

impl Files {
    /// Of an engine that is open. All that it has is durable then.
    pub(crate) fn open(engine: &Path) -> Result<Self, Error> {
        let path = engine.join("db");
        let db =
            OpenOptions::new().read(true).write(true).open(&path).map_err(|error| unusable(&path, error))?;
        sync_tree(engine)?;
        let mut files = Self { db, blobs: engine.join("blobs"), known: HashSet::new() };
        files.sync()?;
        Ok(files)
    }

    /// Makes everything durable that sled wrote.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.sync_blobs().and_then(|()| self.db.sync_data()).map_err(|error| {
            // What the kernel could not write it may have dropped: nothing that this process has is sure.
            Error::unavailable(format!(
                "the disk of the store failed ({error}): check the disk, then start kato again"
            ))
            .caused_by(error)
            .pending()
        })
    }

    /// Nodes that are too large for the log are files of their own; there are hardly ever any.
    fn sync_blobs(&mut self) -> io::Result<()> {
        let mut found = HashSet::new();
        for entry in fs::read_dir(&self.blobs)? {
            found.insert(entry?.file_name());
        }
        let new: Vec<_> = found.difference(&self.known).collect();
        for name in &new {
            match File::open(self.blobs.join(name)).and_then(|file| file.sync_all()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if !new.is_empty() {
            File::open(&self.blobs)?.sync_all()?;
        }
        self.known = found;
        Ok(())
    }
}
