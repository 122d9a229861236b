//! Making a filesystem, and never over data. A device is blank when it has no signature that anybody knows
//! *and* reads as zeroes wherever we look: in the first and last MiB, where superblocks have their copies, and
//! at places spread over the rest. What cannot be read is not blank.
//!
//! mkfs that was killed leaves blocks without a signature (measured: every time before its end), so blankness
//! cannot be proven afterwards. `Prepare::resumed` says that the record was Formatting: then blocks are
//! expected, and only what we would not have made ourselves is refused, as is anything that was ever mounted.

use std::{fs::File, os::fd::AsFd, os::unix::fs::FileExt as _, path::Path};

use kato_orchestrator::{
    Error,
    model::{Bytes, FsType},
};
use rustix::{
    fs::{Advice, Mode, OFlags},
    io::Errno,
};

use crate::{
    command::{Program, Programs},
    connect::{open_device, size_of_device},
    errno::failed,
    signature::{Signature, WINDOW, Xfs, identify},
};

/// How much is looked at where a copy of a superblock may be.
const PEEK: u64 = 64 << 10;
/// How much is looked at of a log: its first mount writes right behind what mkfs wrote.
const LOG_PEEK: u64 = 1 << 20;
/// mkfs.xfs refuses less.
const XFS_MINIMUM: u64 = 300 << 20;

/// What is known of a device that is to get a filesystem.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) fs: FsType,
    /// Whether the backend says that new volumes are zeroes.
    pub(crate) zeroes: bool,
    /// Whether an earlier make may have been cut short.
    pub(crate) resumed: bool,
}

/// What a device says it holds.
pub(crate) fn probe(device: &Path) -> Result<Option<Signature>, Error> {
    let open = open_device(device)?;
    let size = size_of_device(&open)?;
    let (head, tail) = ends(&open, size)?;
    Ok(identify(&head, &tail))
}

/// Makes a filesystem on a device that is blank.
pub(crate) fn make(device: &Path, wish: Wish, programs: &Programs) -> Result<(), Error> {
    let program = match wish.fs {
        FsType::Ext4 => Program::MkfsExt4,
        FsType::Xfs => Program::MkfsXfs,
    };
    programs.find(program)?;
    let size = require_blank(device, wish)?;
    if wish.fs == FsType::Xfs && size < XFS_MINIMUM {
        return Err(Error::out_of_range(format!(
            "the volume is {}: an xfs needs at least {}; make it larger, or use a class with ext4",
            Bytes(size),
            Bytes(XFS_MINIMUM)
        )));
    }
    let device_argument = device.as_os_str();
    let ended = match wish.fs {
        // Nothing is discarded, as a new volume holds nothing; no blocks are kept for root, as root has no
        // use for them on a volume.
        FsType::Ext4 => programs.run(
            program,
            &["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"]
                .map(std::ffi::OsStr::new)
                .into_iter()
                .chain([device_argument])
                .collect::<Vec<_>>(),
        )?,
        FsType::Xfs => programs.run(
            program,
            &["-q", "-f", "-K"]
                .map(std::ffi::OsStr::new)
                .into_iter()
                .chain([device_argument])
                .collect::<Vec<_>>(),
        )?,
    };
    if ended.code != Some(0) {
        // It may have written: the next attempt has to know, and the record says so.
        return Err(Error::unavailable(format!(
            "{} on {}: {}",
            wish.fs,
            device.display(),
            ended.describe(program)
        ))
        .pending());
    }
    flush(device)
}

/// Refuses a device that is not blank, with what is on it. Answers its size.
fn require_blank(device: &Path, wish: Wish) -> Result<u64, Error> {
    let open = open_exclusively(device)?;
    // What some earlier owner of this device's name left in the page cache is not what is on the disk.
    rustix::fs::fadvise(&open, 0, None, Advice::DontNeed)
        .map_err(|error| failed(format_args!("read {} afresh", device.display()), error))?;
    let size = size_of_device(&open)?;
    let (head, tail) = ends(&open, size)?;
    match identify(&head, &tail) {
        Some(found) if wish.resumed && found.is_made_by(wish.fs) => {
            let was_mounted = match &found {
                Signature::Ext(ext) => ext.was_mounted,
                Signature::Xfs(xfs) => was_mounted(&open, size, xfs)?,
                Signature::Foreign(_) => true,
            };
            if was_mounted {
                return Err(not_blank(device, &format!("{} that has been mounted before", found.name())));
            }
        }
        Some(found) => return Err(not_blank(device, found.name())),
        None if wish.resumed || !wish.zeroes => {}
        None => {
            let dirty = !is_zero(&head) || !is_zero(&tail) || !places_are_zero(&open, size)?;
            if dirty {
                return Err(not_blank(
                    device,
                    "bytes that no filesystem we know begins with, although its backend says that new volumes \
                     are zeroes",
                ));
            }
        }
    }
    Ok(size)
}

/// Whether a whole xfs was ever mounted. Its superblock does not say so; its log does, and one whose log is not
/// here is not ours.
fn was_mounted(device: &File, size: u64, xfs: &Xfs) -> Result<bool, Error> {
    if xfs.is_half_made {
        return Ok(false);
    }
    let Some(log) = xfs.log.filter(|log| log.begin < size) else { return Ok(true) };
    let first = read(device, log.begin, LOG_PEEK.min(log.length).min(size - log.begin))?;
    Ok(!log.is_fresh(&first))
}

fn not_blank(device: &Path, what: &str) -> Error {
    Error::precondition(format!(
        "{} is not formatted because it holds {what}: if that is no data of anybody's, wipe it by hand; if it is, \
         import the volume instead",
        device.display()
    ))
}

fn open_exclusively(device: &Path) -> Result<File, Error> {
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(device, flags, Mode::empty()).map(File::from).map_err(|error| match error {
        Errno::BUSY => Error::in_use(format!("{} is in use: it is not formatted", device.display())),
        error => failed(format_args!("open {}", device.display()), error),
    })
}

/// The first and last bytes.
fn ends(device: &File, size: u64) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let window = size.min(u64::try_from(WINDOW).unwrap_or(u64::MAX));
    // The head has to reach the farthest signature of the table.
    let head = read(device, 0, size.min(window * 4))?;
    let tail = read(device, size - window, window)?;
    Ok((head, tail))
}

/// Whether it is zero where superblocks keep their copies, and at places spread over the device.
fn places_are_zero(device: &File, size: u64) -> Result<bool, Error> {
    let group = 128 << 20;
    let copies = [1, 3, 5, 7, 9, 25, 27, 49].map(|number: u64| number * group);
    let fixed = [4 << 20, 8 << 20, 64 << 20, 256 << 30];
    let spread = (1..64).map(|part| size / 64 * part / 4096 * 4096);
    for offset in copies.into_iter().chain(fixed).chain(spread).filter(|offset| *offset < size) {
        if !is_zero(&read(device, offset, PEEK.min(size - offset))?) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read(device: &File, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
    let length =
        usize::try_from(length).map_err(|error| Error::internal("a read is too long").caused_by(error))?;
    let mut bytes = vec![0; length];
    device.read_exact_at(&mut bytes, offset).map_err(|error| {
        failed(format_args!("read the device at {offset} (so it is not known to be blank)"), error)
    })?;
    Ok(bytes)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Makes what was made durable, before anybody records it.
fn flush(device: &Path) -> Result<(), Error> {
    let open = open_device(device)?;
    rustix::fs::fsync(open.as_fd()).map_err(|error| {
        failed(format_args!("write the new filesystem out to {}", device.display()), error).pending()
    })
}
