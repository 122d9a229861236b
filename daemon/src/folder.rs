//! The data folder, and the question whether it is the one that we know.
//!
//! Whoever keeps the folder on a disk of its own has, on the day the disk is missing, an empty folder of the
//! same name. A daemon that takes it for a new one answers "no such volume" to everything, and Docker forgets
//! every volume it had. So the folder carries an id (`<data>/id`), and a witness beside it (`/var/lib/kato.id`
//! for `/var/lib/kato`), on the filesystem that the disk is mounted over, remembers which id was there. An empty
//! folder with a witness, or a folder of another id, ends the start, and nothing is changed.
//!
//! The lock (`<data>/lock`) belongs to this process for as long as it lives. The store has a lock of its own;
//! this one is taken before any socket is touched.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use kato_orchestrator::{Error, ports::Ids};
use rustix::fs::{FlockOperation, StatVfsMountFlags, flock, statvfs};

use crate::{clock, config::Folders};

/// How long the lock of a daemon that ended is waited for, and how often it is tried meanwhile.
const LAST_BREATHS: u32 = 250;
const BREATH: Duration = Duration::from_millis(20);

/// The data folder, ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// What it is.
    pub(crate) id: u128,
    _lock: File,
}

impl Folder {
    /// Takes the id of records that were made elsewhere and are to live here from now on.
    pub(crate) fn adopt(&mut self, id: u128) -> Result<(), Error> {
        write_id(&self.path.join("id"), id).map_err(|error| unusable(&self.path, error))?;
        self.id = id;
        if let Err(error) = write_id(&witness(&self.path), id) {
            tracing::info!(%error, "no witness of the data folder was kept");
        }
        Ok(())
    }

    /// Looks at the folder, and takes it if it is the one we know or a new one. Makes what is missing only when
    /// that is certain.
    pub(crate) fn take(folders: &Folders, ids: &dyn Ids) -> Result<Self, Error> {
        let path = folders.data.as_path();
        let about = |error: Error| error.about(format!("data folder {}", path.display()));
        let found = look(path).map_err(about)?;
        if folders.require_mount {
            require_mount(path).map_err(about)?;
        }
        let witness = read_id(&witness(path)).map_err(about)?;
        let id = recognise(path, &found, witness).map_err(about)?;
        if matches!(found, Found::Nothing) {
            make(path).map_err(about)?;
        }
        check_access(path).map_err(about)?;
        let lock = lock(path).map_err(about)?;
        let id = match id {
            Some(id) => id,
            None => {
                let id = ids.next();
                write_id(&path.join("id"), id).map_err(|error| about(unusable(path, error)))?;
                id
            }
        };
        if witness != Some(id)
            && let Err(error) = write_id(&self::witness(path), id)
        {
            // A folder whose parent cannot be written, as in a managed plugin, does without.
            tracing::info!(path = %self::witness(path).display(), %error, "no witness of the data folder was kept");
        }
        Ok(Self { path: path.to_owned(), id, _lock: lock })
    }
}

/// Where the folder's id is remembered when the folder itself is away.
pub(crate) fn witness(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".id");
    path.with_file_name(name)
}

/// What is at the folder's place.
enum Found {
    Nothing,
    Empty,
    /// Something, but nothing that is ours.
    Foreign,
    /// Records, but no id.
    Unnamed,
    Ours(u128),
}

fn look(path: &Path) -> Result<Found, Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(Error::precondition("something that is no folder is there: move it away"));
        }
        Err(error) => return Err(unusable(path, error)),
    };
    if let Some(id) = read_id(&path.join("id"))? {
        return Ok(Found::Ours(id));
    }
    let mut found = Found::Empty;
    for entry in entries {
        let name = entry.map_err(|error| unusable(path, error))?.file_name();
        if name == "store" {
            return Ok(Found::Unnamed);
        }
        // What mkfs leaves, and what a start that was cut short before the id was written may have left.
        if name != "lost+found" && name != "lock" {
            found = Found::Foreign;
        }
    }
    Ok(found)
}

/// The id that the folder has, or nothing if it is to get one.
fn recognise(path: &Path, found: &Found, witness: Option<u128>) -> Result<Option<u128>, Error> {
    let witness_path = self::witness(path);
    let witness_path = witness_path.display();
    match (found, witness) {
        (Found::Ours(id), None) => Ok(Some(*id)),
        (Found::Ours(id), Some(witness)) if *id == witness => Ok(Some(*id)),
        (Found::Ours(id), Some(witness)) => Err(Error::precondition(format!(
            "another one was there before: this is {}, the last was {}. Mount the right disk; if this one is to be \
             used from now on, remove {witness_path}",
            clock::hex(*id),
            clock::hex(witness)
        ))),
        (Found::Unnamed, _) => Err(Error::precondition(format!(
            "there are records in it, but the file {}/id that says whose is missing: restore it from a backup, or \
             write the id that {witness_path} holds into it",
            path.display()
        ))),
        (Found::Nothing | Found::Empty | Found::Foreign, Some(witness)) => Err(Error::precondition(format!(
            "it holds no records, but data folder {} was here before: its disk is probably not mounted. Mount it; \
             if you really want to begin anew, remove {witness_path}",
            clock::hex(witness)
        ))),
        (Found::Nothing | Found::Empty | Found::Foreign, None) => Ok(None),
    }
}

fn require_mount(path: &Path) -> Result<(), Error> {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    let parent = path.parent().unwrap_or(path);
    match (device(path), device(parent)) {
        (Ok(own), Ok(above)) if own != above => Ok(()),
        (Ok(_), Ok(_)) | (Err(_), _) | (_, Err(_)) => Err(Error::precondition(
            "folders.require-mount is set, but it is on no filesystem of its own: mount its disk, then start again",
        )),
    }
}

fn make(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| unusable(path, error))
}

/// Whether the folder can be written, and by nobody else.
fn check_access(path: &Path) -> Result<(), Error> {
    let read_only = statvfs(path).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    if read_only {
        return Err(Error::unavailable(
            "it is on a filesystem that is mounted read-only, perhaps after an error of its disk: see `dmesg`, repair \
             the filesystem and mount it for writing",
        ));
    }
    let found = fs::metadata(path).map_err(|error| unusable(path, error))?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own && found.uid() != 0 {
        return Err(Error::permission_denied(format!(
            "it belongs to user {}, who could change every record: `chown {own} {}`",
            found.uid(),
            path.display()
        )));
    }
    if found.mode() & 0o022 != 0 {
        return Err(Error::permission_denied(format!(
            "others may write to it (mode {:04o}), and could change every record: `chmod 0700 {}`",
            found.mode() & 0o7777,
            path.display()
        )));
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, Error> {
    let place = path.join("lock");
    let opened =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(&place);
    let mut file = opened.map_err(|error| unusable(path, error))?;
    let mut patience = LAST_BREATHS;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = Holder::of(&mut file);
                if !holder.is_gone() || patience == 0 {
                    return Err(Error::busy(format!(
                        "it is in use by {holder}: stop that daemon first, or give this one a folder of its own"
                    )));
                }
            }
            Err(error) => return Err(unusable(path, error.into())),
        }
        patience -= 1;
        thread::sleep(BREATH);
    }
    // Only for people; a full disk is no reason not to start.
    let written =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = written {
        tracing::warn!(%error, "the lock of the data folder could not say who holds it");
    }
    Ok(file)
}

/// Who holds the lock, as the lock itself says.
struct Holder(Option<u32>);

impl Holder {
    fn of(file: &mut File) -> Self {
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        Self(read.ok().and_then(|_| text.trim().parse().ok()))
    }

    fn name(&self) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/comm", self.0?)).ok()
    }

    /// Whether it has ended. A process that it was just starting has its files, and so the lock, for another
    /// moment: until it becomes the program that it was meant to be.
    fn is_gone(&self) -> bool {
        self.0.is_some() && self.name().is_none()
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.name()) {
            (Some(pid), Some(name)) => write!(f, "process {pid} ({})", name.trim()),
            (Some(pid), None) => write!(f, "process {pid}"),
            (None, _) => f.write_str("another process"),
        }
    }
}

fn read_id(path: &Path) -> Result<Option<u128>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => clock::from_hex(text.trim()).map(Some).map_err(|_| {
            Error::precondition(format!("{} does not hold an id: restore it from a backup", path.display()))
        }),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(unusable(path, error)),
    }
}

/// Writes an id so that a power cut leaves all of it or none.
fn write_id(path: &Path, id: u128) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    writeln!(file, "{}", clock::hex(id))?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

fn unusable(path: &Path, error: io::Error) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "mount its filesystem for writing",
        io::ErrorKind::PermissionDenied => "run as root",
        io::ErrorKind::StorageFull => "make room",
        _ => "check the disk",
    };
    Error::unavailable(format!("{} cannot be used ({error}): {remedy}", path.display())).caused_by(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clock::RandomIds;

    fn take(folders: &Folders) -> Result<Folder, Error> {
        Folder::take(folders, &RandomIds::new()?)
    }

    fn folders(path: PathBuf) -> Folders {
        Folders { data: path, run: PathBuf::from("/run"), require_mount: false }
    }

    #[test]
    fn a_folder_keeps_its_id_and_one_owner_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let folders = folders(place.path().join("kato"));
        let first = take(&folders).unwrap();
        let refused = take(&folders).unwrap_err();
        assert!(refused.message.contains(&format!("process {}", std::process::id())), "{refused}");
        let id = first.id;
        drop(first);
        assert_eq!(take(&folders).unwrap().id, id);
    }

    #[test]
    fn the_lock_of_a_daemon_that_ended_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let folders = folders(place.path().join("kato"));
        let first = take(&folders).unwrap();
        // No process has this number: it is larger than any may have.
        fs::write(folders.data.join("lock"), "4194305\n").unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| take(&folders));
            thread::sleep(BREATH * 5);
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn an_unmounted_folder_ends_the_start_and_stays_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let folders = folders(place.path().join("kato"));
        drop(take(&folders).unwrap());
        fs::rename(&folders.data, place.path().join("disk")).unwrap();
        fs::create_dir(&folders.data).unwrap();
        let error = take(&folders).unwrap_err();
        assert!(error.message.contains("not mounted") && error.message.contains("kato.id"), "{error}");
        assert_eq!(fs::read_dir(&folders.data).unwrap().count(), 0);

        fs::remove_dir(&folders.data).unwrap();
        fs::rename(place.path().join("disk"), &folders.data).unwrap();
        take(&folders).unwrap();
    }

    #[test]
    fn another_folder_is_not_taken_for_the_old_one() {
        let place = tempfile::tempdir().unwrap();
        let folders = folders(place.path().join("kato"));
        drop(take(&folders).unwrap());
        fs::write(folders.data.join("id"), format!("{}\n", clock::hex(7))).unwrap();
        assert!(take(&folders).unwrap_err().message.contains("another one"));
        fs::remove_file(witness(&folders.data)).unwrap();
        assert_eq!(take(&folders).unwrap().id, 7);
    }

    #[test]
    fn records_without_an_id_and_folders_of_others_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let folders = folders(place.path().join("kato"));
        fs::create_dir_all(folders.data.join("store")).unwrap();
        assert!(take(&folders).unwrap_err().message.contains("whose is missing"));
        fs::remove_dir(folders.data.join("store")).unwrap();
        fs::set_permissions(&folders.data, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(take(&folders).unwrap_err().message.contains("0777"));
    }

    #[test]
    fn a_folder_that_has_to_be_a_mount_is_one() {
        let place = tempfile::tempdir().unwrap();
        let folders = Folders { require_mount: true, ..folders(place.path().join("kato")) };
        assert!(take(&folders).unwrap_err().message.contains("require-mount"));
        assert!(!folders.data.exists());
    }
}
