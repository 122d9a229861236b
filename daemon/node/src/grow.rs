//! Making a filesystem as large as its device. xfs grows mounted. ext4 grows mounted only for a process with
//! CAP_SYS_RESOURCE (the kernel says EPERM otherwise); then the next mount does it offline, by `e2fsck -f` and
//! `resize2fs`. Whether there is anything to do is always told by comparing the two sizes, never remembered.

use std::{ffi::OsStr, fs::File, io, os::fd::AsFd, path::Path};

use kato_orchestrator::{Error, ports::host::Grown};
use rustix::{
    fs::{Mode, OFlags, fstat, major, minor},
    io::Errno,
};

use crate::{
    check,
    command::{Program, Programs},
    connect::{device::node_of, open_device, size_of_device},
    errno::{failed, is},
    format, kernel,
    signature::{Ext, Signature},
};

/// Makes the filesystem that is mounted at a path as large as its device, whose node may be beneath this root.
pub(crate) fn mounted(path: &Path, dev: &Path) -> Result<Grown, Error> {
    let directory =
        File::open(path).map_err(|error| failed(format_args!("open {}", path.display()), error))?;
    let device = device_below(&directory, dev)?;
    grow_open(&directory, &device)
}

/// The same, with the mount and its device open.
pub(crate) fn grow_open(directory: &File, device: &Path) -> Result<Grown, Error> {
    let size = size_of_device(&open_device(device)?)?;
    match format::probe(device)? {
        Some(Signature::Xfs(_)) => grow_xfs(directory, device, size).map(|()| Grown::Done),
        Some(Signature::Ext(ext)) => grow_ext(directory, device, &ext, size),
        other => Err(Error::precondition(format!(
            "{} holds {}: only ext4 and xfs can be grown",
            device.display(),
            other.map_or("nothing that we know", |found| found.name())
        ))),
    }
}

/// Whether the filesystem that is mounted there is smaller than its device.
pub(crate) fn is_behind(directory: &File, device: &Path) -> Result<bool, Error> {
    let size = size_of_device(&open_device(device)?)?;
    Ok(match format::probe(device)? {
        Some(Signature::Xfs(_)) => {
            let (now, most, _) = xfs_sizes(directory, device, size)?;
            most > now
        }
        Some(Signature::Ext(ext)) => ext.blocks_on(size) > ext.blocks,
        Some(Signature::Foreign(_)) | None => false,
    })
}

/// Whether an ext filesystem is smaller than its device.
pub(crate) fn is_ext_behind(device: &Path, ext: &Ext) -> Result<bool, Error> {
    let size = size_of_device(&open_device(device)?)?;
    Ok(ext.blocks_on(size) > ext.blocks)
}

/// Grows an ext filesystem that nobody has mounted.
pub(crate) fn offline(device: &Path, programs: &Programs) -> Result<(), Error> {
    programs.find(Program::Resize2fs)?;
    check::ext(device, true, programs)?;
    let ended = programs.run(Program::Resize2fs, &[device.as_os_str() as &OsStr])?;
    if ended.code == Some(0) {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "the filesystem on {} could not be grown: {}",
        device.display(),
        ended.describe(Program::Resize2fs)
    ))
    .pending())
}

fn grow_xfs(directory: &File, device: &Path, size: u64) -> Result<(), Error> {
    let (now, most, percent) = xfs_sizes(directory, device, size)?;
    if most <= now {
        return Ok(());
    }
    kernel::xfs_grow(directory.as_fd(), most, percent)
        .map_err(|error| failed(format_args!("grow the xfs on {}", device.display()), error).pending())
}

/// Blocks now, blocks at the most, and the share of inodes that has to be told again.
fn xfs_sizes(directory: &File, device: &Path, size: u64) -> Result<(u64, u64, u32), Error> {
    let geometry = kernel::xfs_geometry(directory.as_fd())
        .map_err(|error| failed(format_args!("ask the xfs on {} for its size", device.display()), error))?;
    let xfs = crate::signature::XfsGeometry {
        block_size: u64::from(geometry.block_size.max(1)),
        blocks: geometry.data_blocks,
        group_blocks: u64::from(geometry.ag_blocks.max(1)),
    };
    Ok((xfs.blocks, xfs.blocks_on(size), geometry.inode_percent))
}

fn grow_ext(directory: &File, device: &Path, ext: &Ext, size: u64) -> Result<Grown, Error> {
    let most = ext.blocks_on(size);
    if most <= ext.blocks {
        return Ok(Grown::Done);
    }
    match kernel::ext4_resize(directory.as_fd(), most) {
        Ok(()) => Ok(Grown::Done),
        Err(error) if needs_unmount(&error) => Ok(Grown::NeedsUnmount),
        Err(error) => {
            Err(failed(format_args!("grow the ext filesystem on {}", device.display()), error).pending())
        }
    }
}

/// Not allowed to us, not possible in this layout, or not in this kernel: offline it works.
fn needs_unmount(error: &io::Error) -> bool {
    [Errno::PERM, Errno::OPNOTSUPP, Errno::NOTTY, Errno::ROFS].into_iter().any(|errno| is(error, errno))
}

/// The block device of the filesystem that is open.
fn device_below(directory: &File, dev: &Path) -> Result<std::path::PathBuf, Error> {
    let stat = fstat(directory).map_err(|error| failed("look at the mount", error))?;
    let numbers = (major(stat.st_dev), minor(stat.st_dev));
    let entry = format!("/sys/dev/block/{}:{}", numbers.0, numbers.1);
    let target = std::fs::canonicalize(&entry).map_err(|_| {
        Error::precondition("there is no block device below this mount: it is a directory of the host")
    })?;
    Ok(node_of(dev, target.file_name().unwrap_or_default(), numbers))
}

/// Opens the root of a mount that is nowhere yet.
pub(crate) fn open_root(mount: impl AsFd) -> Result<File, Error> {
    rustix::fs::openat(mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(|error| failed("open the root of the new mount", error))
}
