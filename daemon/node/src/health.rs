//! Whether a mount still reaches its bytes. What went wrong below a filesystem shows in different places, and
//! none of them tells all, so each is asked, from the cheap ones to the device itself:
//!
//! | what happened | where it shows |
//! | --- | --- |
//! | somebody unmounted it | nothing is mounted at its place |
//! | xfs shut itself down | every call answers EIO |
//! | ext4 shut down, or took itself read-only | the words `shutdown`, `emergency_ro` among its options |
//! | the filesystem below a directory became read-only | statvfs |
//! | the file behind a loop device was removed, replaced or cut short | sysfs, and the file's own place |
//! | the device vanished, or another one has its identity | sysfs |
//! | the server of an image ended | its process |
//! | the device answers no more, or with errors | a small read past every cache |
//! | the kernel noted errors in the filesystem | its superblock |
//!
//! A filesystem whose device is gone goes on answering from memory for a long time, so a worker reads from the
//! device itself; a read that does not come back is the daemon's to notice. Directories have no device: a thread
//! of the daemon looks at them.

use std::{
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    path::{Path, PathBuf},
};

use kato_orchestrator::{Error, Kind, model::VolumeId, ports::host::Condition};
use rustix::{
    fs::{Mode, OFlags, StatVfsMountFlags, major, minor},
    io::Errno,
};

use crate::{
    connect::{Way, directory},
    errno::failed,
    format, mount,
    signature::Signature,
};

/// Direct reads are of whole blocks, into memory that begins at one.
const BLOCK: usize = 4096;

/// What ends a look: a finding, or that nobody could look.
enum End {
    Found(Condition),
    Failed(Error),
}

impl End {
    fn broken(why: impl Into<String>) -> Self {
        Self::Found(Condition::Broken(why.into()))
    }

    fn outcome(self) -> Result<Condition, Error> {
        match self {
            Self::Found(condition) => Ok(condition),
            Self::Failed(error) => Err(error),
        }
    }
}

/// An error of a look is a finding, unless it tells of this process or of its powers.
impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error.kind {
            Kind::Unavailable | Kind::Precondition | Kind::NotFound => Self::broken(error.message),
            Kind::InvalidArgument
            | Kind::OutOfRange
            | Kind::AlreadyExists
            | Kind::InUse
            | Kind::Busy
            | Kind::Exhausted
            | Kind::PermissionDenied
            | Kind::Unsupported
            | Kind::Timeout
            | Kind::Internal => Self::Failed(error),
        }
    }
}

/// Of a volume with a device.
pub(crate) fn of_device(
    volume: VolumeId,
    way: &Way,
    path: &Path,
    read_only: bool,
) -> Result<Condition, Error> {
    look_at_device(volume, way, path, read_only).map_or_else(End::outcome, |()| Ok(Condition::Well))
}

/// Of a directory beneath a granted one.
pub(crate) fn of_directory(
    root: &Path,
    beneath: &Path,
    path: &Path,
    read_only: bool,
) -> Result<Condition, Error> {
    look_at_directory(root, beneath, path, read_only).map_or_else(End::outcome, |()| Ok(Condition::Well))
}

fn look_at_directory(root: &Path, beneath: &Path, path: &Path, read_only: bool) -> Result<(), End> {
    let point = open_place(path)?;
    let source = directory::open(root, beneath)?;
    if !directory::is_same(source.as_fd(), point.as_fd())? {
        return Err(End::broken(format!(
            "{} is another directory than the one that is mounted: its disk was mounted anew, or it was replaced",
            root.join(beneath).display()
        )));
    }
    require_writable(&point, read_only, path)
}

fn look_at_device(volume: VolumeId, way: &Way, path: &Path, read_only: bool) -> Result<(), End> {
    let point = open_place(path)?;
    let stat = rustix::fs::fstat(&point)
        .map_err(|error| failed(format_args!("look at {}", path.display()), error))?;
    let numbers = (major(stat.st_dev), minor(stat.st_dev));
    let called = device_of(numbers)?;
    let device = way.still_leads_to(volume, &called, numbers)?;
    require_alive(&called)?;
    require_writable(&point, read_only, path)?;
    read_past_caches(&device)?;
    match format::probe(&device)? {
        Some(Signature::Ext(ext)) if ext.errors > 0 => {
            Err(End::broken(format!("the kernel has noted {} errors in its ext filesystem", ext.errors)))
        }
        Some(Signature::Ext(_) | Signature::Xfs(_)) => Ok(()),
        Some(Signature::Foreign(name)) => Err(End::broken(format!("its device now holds {name}"))),
        None => Err(End::broken("its device does not hold a filesystem any more")),
    }
}

/// Opens the root of the mount. A filesystem that has shut itself down refuses that, some of them.
fn open_place(path: &Path) -> Result<File, End> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let point = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(point) => File::from(point),
        Err(Errno::NOENT) => return Err(End::Found(Condition::Missing)),
        Err(Errno::IO) => return Err(End::broken("its filesystem has shut itself down after an error")),
        Err(error) => return Err(failed(format_args!("open {}", path.display()), error).into()),
    };
    if mount::is_mount_root(&mount::look(point.as_fd())?) {
        Ok(point)
    } else {
        Err(End::Found(Condition::Missing))
    }
}

/// The block device of these numbers.
fn device_of((major, minor): (u32, u32)) -> Result<PathBuf, End> {
    let target = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))
        .map_err(|_| End::broken("its device has vanished from this node"))?;
    Ok(Path::new("/dev").join(target.file_name().unwrap_or_default()))
}

/// An ext4 that met an error says so among its options; statvfs does not, since Linux 6.15.
fn require_alive(device: &Path) -> Result<(), End> {
    let name = device.file_name().unwrap_or_default();
    let options =
        fs::read_to_string(Path::new("/proc/fs/ext4").join(name).join("options")).unwrap_or_default();
    let says = |word: &str| options.lines().any(|option| option == word);
    if says("shutdown") {
        return Err(End::broken("its filesystem has shut itself down after an error"));
    }
    if says("emergency_ro") {
        return Err(End::broken("the kernel has made its filesystem read-only after an error"));
    }
    Ok(())
}

fn require_writable(point: &File, read_only: bool, path: &Path) -> Result<(), End> {
    let stat = rustix::fs::fstatvfs(point)
        .map_err(|error| failed(format_args!("look at {}", path.display()), error))?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) && !read_only {
        return Err(End::broken("its filesystem has become read-only, after an error or by somebody's hand"));
    }
    Ok(())
}

/// Whether a device gives its first block.
pub(crate) fn answers(device: &Path) -> bool {
    read_past_caches(device).is_ok()
}

fn read_past_caches(device: &Path) -> Result<(), End> {
    let what = || format!("read {}", device.display());
    let direct = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let open =
        File::from(rustix::fs::open(device, direct, Mode::empty()).map_err(|error| failed(what(), error))?);
    let mut memory = vec![0; BLOCK * 2];
    let from = memory.as_ptr().align_offset(BLOCK);
    let block = memory.get_mut(from..from + BLOCK).unwrap_or_default();
    open.read_exact_at(block, 0).map_err(|error| failed(what(), error).into())
}
