//! Fewer flushes where the filesystem keeps an order. ext4 with a journal and xfs make changes of names and
//! sizes durable in the order in which they were made, and a flush of anything takes along all that was changed
//! before. There, a thing that was written beside and renamed needs one flush: that of the directory it is
//! renamed in. The bytes of files are the exception: a size is only known to the journal when the blocks are
//! written out, so each file is *settled* first, which costs no commit of the journal.
//!
//! Every other filesystem gets a flush for each step.

use std::{os::fd::AsRawFd as _, path::Path};

use kato_orchestrator::Error;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{fstat, fstatfs, major, minor},
    io::Errno,
};

use super::beneath::{self, failed};

const EXT4: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;

/// Whether changes become durable in the order in which they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order(bool);

impl Order {
    /// What the filesystem of this directory does.
    pub(crate) fn of(directory: impl AsFd) -> Self {
        let kind = fstatfs(&directory).ok().and_then(|stat| u64::try_from(stat.f_type).ok());
        Self(match kind {
            Some(XFS) => true,
            Some(EXT4) => has_journal(directory),
            _ => false,
        })
    }

    /// Whether there is one.
    pub(crate) fn is_kept(self) -> bool {
        self.0
    }

    /// What was written to this new file comes before everything that is done next.
    pub(crate) fn settle(self, file: &OwnedFd, path: &str) -> Result<(), Error> {
        if self.0 { write_out(file).map_err(|error| failed(path, error)) } else { beneath::flush(file, path) }
    }

    /// What was changed in this directory comes before everything that is done next.
    pub(crate) fn before(self, directory: &OwnedFd, path: &str) -> Result<(), Error> {
        if self.0 { Ok(()) } else { beneath::flush(directory, path) }
    }

    /// After a rename from one directory into another: both changes are durable, and whatever came before.
    pub(crate) fn renamed(self, into: &OwnedFd, from: &OwnedFd, path: &str) -> Result<(), Error> {
        if self.0 { beneath::flush(into, path) } else { beneath::flush_both(into, from, path) }
    }
}

/// ext2, and ext4 without a journal, have the same number as ext4 with one; the kernel tells them apart by the
/// journal's thread.
fn has_journal(directory: impl AsFd) -> bool {
    let Ok(stat) = fstat(directory) else { return false };
    let device = format!("/sys/dev/block/{}:{}", major(stat.st_dev), minor(stat.st_dev));
    let Ok(target) = std::fs::read_link(device) else { return false };
    let Some(name) = target.file_name() else { return false };
    Path::new("/sys/fs/ext4").join(name).join("journal_task").exists()
}

/// Writes a file's pages to their blocks and waits for it: then the blocks are allocated and the size is part of
/// the journal's running transaction.
#[expect(unsafe_code, reason = "neither rustix nor std know this call")]
fn write_out(file: &OwnedFd) -> Result<(), Errno> {
    let flags =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open, and the call takes no pointers.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
