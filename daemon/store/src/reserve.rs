//! Room for the end: a file of really allocated blocks beside the store.
//!
//! sled cannot even be opened on a full disk, and a daemon whose journal takes no record can neither unmount
//! nor delete, which is what would make room. So as soon as the disk is nearly full the store takes only
//! batches that free space, and gives the reserve back to the disk bit by bit as these need it (all at once,
//! and whoever fills the disk would take it). When there is room again the reserve is taken again, and then
//! everything goes on.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use kato_orchestrator::{Error, model::Bytes};
use rustix::fs::FallocateFlags;

/// How much is given back at once.
const STEP: u64 = 4 << 20;

/// The reserve of one store.
#[derive(Debug)]
pub(crate) struct Reserve {
    store: PathBuf,
    file: File,
    wanted: u64,
    held: u64,
    low_water: u64,
    full: bool,
}

impl Reserve {
    /// Finds or begins the reserve of a store. On a full disk some of it is given up at once.
    pub(crate) fn open(store: &Path, wanted: Bytes, low_water: Bytes) -> Result<Self, Error> {
        let path = store.join("reserve");
        let failed = |error: io::Error| {
            Error::unavailable(format!("the reserve {} cannot be opened ({error})", path.display()))
                .caused_by(error)
        };
        let new = !path.exists();
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = opened.map_err(failed)?;
        let held = file.metadata().map_err(failed)?.len();
        let mut reserve = Self {
            store: store.to_owned(),
            file,
            wanted: wanted.0,
            held,
            low_water: low_water.0,
            full: false,
        };
        let free = reserve.free()?;
        // One that was given up and cannot be taken again says that the disk is as full as it was.
        reserve.full = free < reserve.low_water || (!new && held < reserve.wanted);
        if free < reserve.low_water {
            reserve.make_room()?;
        } else {
            reserve.take(free);
        }
        if new && reserve.held < reserve.wanted {
            tracing::warn!(store = %store.display(), free, "the disk has no room for the reserve");
        }
        Ok(reserve)
    }

    /// Whether a batch may be written now.
    pub(crate) fn admit(&mut self, frees_space: bool) -> Result<(), Error> {
        let free = self.free()?;
        if free < self.low_water {
            if !self.full {
                tracing::warn!(store = %self.store.display(), free, "the disk of the store is full");
            }
            self.full = true;
        } else if self.held < self.wanted || self.full {
            self.take(free);
        }
        if !self.full {
            return Ok(());
        }
        if !frees_space {
            return Err(self.full());
        }
        self.make_room()
    }

    /// What is said to whoever wants something new.
    pub(crate) fn full(&self) -> Error {
        Error::exhausted(format!(
            "the disk of {} is full ({} left): free some space there, for example old logs, images or dumps; \
             until then volumes can be deleted and unmounted, and nothing new is recorded",
            self.store.display(),
            Bytes(self.free().unwrap_or(0))
        ))
    }

    /// The disk was found full while writing.
    pub(crate) fn give_up(&mut self) -> Result<(), Error> {
        self.full = true;
        self.shrink(0)
    }

    /// Takes the reserve (again), where that leaves enough for others.
    fn take(&mut self, free: u64) {
        let missing = self.wanted.saturating_sub(self.held);
        if free < missing.saturating_add(self.low_water.saturating_mul(2)) {
            return;
        }
        match allocate(&self.file, self.held, missing) {
            Ok(()) => {
                self.held = self.held.max(self.wanted);
                if self.full {
                    tracing::info!(store = %self.store.display(), "the disk of the store has room again");
                }
                self.full = false;
            }
            Err(error) => {
                tracing::warn!(store = %self.store.display(), %error, "the reserve could not be taken");
                // What was allocated of it stays at no certain length.
                drop(self.file.set_len(self.held));
            }
        }
    }

    /// How many bytes the disk has left.
    pub(crate) fn free(&self) -> Result<u64, Error> {
        free(&self.store)
    }

    fn make_room(&mut self) -> Result<(), Error> {
        while self.held > 0 && self.free()? < self.low_water {
            self.shrink(self.held.saturating_sub(STEP))?;
        }
        Ok(())
    }

    fn shrink(&mut self, length: u64) -> Result<(), Error> {
        self.file.set_len(length).map_err(|error| {
            Error::unavailable(format!(
                "the reserve of {} cannot be given up ({error})",
                self.store.display()
            ))
        })?;
        self.held = length;
        Ok(())
    }
}

/// How many bytes the disk of a folder has left.
pub(crate) fn free(store: &Path) -> Result<u64, Error> {
    let disk = rustix::fs::statvfs(store).map_err(|errno| {
        Error::unavailable(format!(
            "the disk of {} cannot be asked for its free space ({errno})",
            store.display()
        ))
    })?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Gives a file blocks of its own.
fn allocate(mut file: &File, from: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, length) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP) => {
            io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
            io::copy(&mut io::Read::take(io::repeat(0xa5), length), &mut file)?;
            file.flush()
        }
        Err(errno) => Err(errno.into()),
    }
}
