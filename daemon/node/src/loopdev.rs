//! Loop devices over files, set up by ioctl on descriptors. Ours are found again by what the kernel says of
//! them, not by what we remember: the name in `lo_file_name` carries the volume's id, and the file's device
//! and inode tell which file it is.
//!
//! Taking one away needs care: LOOP_CLR_FD succeeds while another mount namespace still writes through the
//! device (it only marks it). Opening with O_EXCL gives EBUSY then, and that is the test. Other people's loop
//! devices are never opened, because opening one whose file stalls could stall us.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use kato_orchestrator::{Error, model::VolumeId};
use rustix::{
    fs::{Mode, OFlags, fstat, major, minor},
    io::Errno,
};

use crate::{
    errno::{failed, is},
    kernel::{self, LO_FLAGS_DIRECT_IO, LO_FLAGS_READ_ONLY, LoopStatus},
};

const PREFIX: &str = "kato:";
/// What the kernel appends to the path of a file that has none any more.
const REMOVED: &str = " (deleted)";

/// A loop device of ours.
#[derive(Debug)]
pub(crate) struct Loop {
    /// `/dev/loop3`.
    pub(crate) path: PathBuf,
    /// Whose it is.
    pub(crate) volume: Option<VolumeId>,
    /// What it is over, as the kernel spells it.
    pub(crate) backing: String,
    /// Whether it refuses writes.
    pub(crate) read_only: bool,
    device: u64,
    inode: u64,
}

impl Loop {
    /// Whether its file has no name any more.
    pub(crate) fn is_orphan(&self) -> bool {
        self.backing.ends_with(REMOVED)
    }

    /// Whether it is over this file.
    pub(crate) fn is_over(&self, file: &rustix::fs::Stat) -> bool {
        (self.device, self.inode) == (encoded(file.st_dev), file.st_ino)
    }
}

/// LOOP_GET_STATUS64 tells devices in the kernel's long encoding.
fn encoded(dev: u64) -> u64 {
    let (major, minor) = (u64::from(major(dev)), u64::from(minor(dev)));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The loop device over this open file, made if it is not there.
pub(crate) fn attach(volume: VolumeId, file: &File, read_only: bool) -> Result<PathBuf, Error> {
    let stat = fstat(file).map_err(|error| failed("look at the volume's file", error))?;
    let name = name_of(file)?;
    if let Some(found) = over(&name)?.into_iter().find(|device| device.is_over(&stat)) {
        if found.volume.is_some_and(|owner| owner != volume) {
            return Err(Error::precondition(format!(
                "the file is connected as {} for the volume with the id {}: two volumes must not share a file",
                found.path.display(),
                found.volume.map(|owner| owner.to_string()).unwrap_or_default(),
            )));
        }
        if found.read_only == read_only {
            return Ok(found.path);
        }
        detach(&found.path)?;
    }
    let control = open("/dev/loop-control", OFlags::RDWR)
        .map_err(|error| failed("open /dev/loop-control (the node needs the kernel's loop driver)", error))?;
    let mut status = LoopStatus::EMPTY;
    status.flags = LO_FLAGS_DIRECT_IO | if read_only { LO_FLAGS_READ_ONLY } else { 0 };
    let label = format!("{PREFIX}{volume}");
    for (to, from) in status.file_name.iter_mut().zip(label.bytes()) {
        *to = from;
    }
    // Somebody else may take the free one first.
    for _ in 0..64 {
        let number =
            kernel::loop_free(control.as_fd()).map_err(|error| failed("find a free loop device", error))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path, if read_only { OFlags::RDONLY } else { OFlags::RDWR }).map_err(|error| {
            failed(format_args!("open {} (in a container, mount the host's /dev)", path.display()), error)
        })?;
        // 512 bytes, so that what is made here mounts on every other node.
        match kernel::loop_configure(device.as_fd(), file.as_fd(), 512, status) {
            Ok(()) => return Ok(path),
            Err(error) if is(&error, Errno::BUSY) => {}
            Err(error) => {
                return Err(failed(format_args!("put {} over the volume's file", path.display()), error));
            }
        }
    }
    Err(Error::busy("others take every loop device that is free: try again"))
}

/// The loop devices over files of this name; only those are opened.
pub(crate) fn over(name: &str) -> Result<Vec<Loop>, Error> {
    let mut found = Vec::new();
    for (device, backing) in all()? {
        let file = backing.strip_suffix(REMOVED).unwrap_or(&backing);
        if Path::new(file).file_name().is_some_and(|last| last == name)
            && let Some(device) = read(device, backing)
        {
            found.push(device);
        }
    }
    Ok(found)
}

/// The loop device over the file of this path, by its name alone: also one whose file answers nobody any more, of which
/// the kernel tells nothing else.
pub(crate) fn over_path(path: &Path) -> Result<Option<PathBuf>, Error> {
    Ok(all()?.into_iter().find(|(_, backing)| Path::new(backing) == path).map(|(device, _)| device))
}

/// Which use of a loop device this is: the kernel counts them. None if it is over nothing, or the kernel does not count.
pub(crate) fn turn(path: &Path) -> Option<u64> {
    let folder = Path::new("/sys/block").join(path.file_name()?);
    let is_over = folder.join("loop/backing_file").exists();
    fs::read_to_string(folder.join("diskseq")).ok().filter(|_| is_over)?.trim().parse().ok()
}

/// The loop device of this path, if it is over something.
pub(crate) fn at(path: &Path) -> Result<Option<Loop>, Error> {
    Ok(all()?
        .into_iter()
        .find(|(device, _)| device == path)
        .and_then(|(device, backing)| read(device, backing)))
}

/// The loop devices over files beneath these folders.
pub(crate) fn beneath(folders: &[PathBuf]) -> Result<Vec<Loop>, Error> {
    Ok(all()?
        .into_iter()
        .filter(|(_, backing)| folders.iter().any(|folder| Path::new(backing).starts_with(folder)))
        .filter_map(|(device, backing)| read(device, backing))
        .collect())
}

/// Every loop device that is over something. Reads sysfs only, which no stalled file can hold up.
fn all() -> Result<Vec<(PathBuf, String)>, Error> {
    let entries = fs::read_dir("/sys/block").map_err(|error| failed("read /sys/block", error))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("read /sys/block", error))?;
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| name.starts_with("loop"))
            && let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file"))
        {
            found.push((Path::new("/dev").join(name), backing.trim_end_matches('\n').to_owned()));
        }
    }
    Ok(found)
}

fn read(path: PathBuf, backing: String) -> Option<Loop> {
    let device = open(&path, OFlags::RDONLY).ok()?;
    // It may have gone since.
    let status = kernel::loop_status(device.as_fd()).ok()?;
    let label: Vec<u8> = status.file_name.iter().copied().take_while(|byte| *byte != 0).collect();
    let volume = std::str::from_utf8(&label)
        .ok()
        .and_then(|label| label.strip_prefix(PREFIX))
        .and_then(VolumeId::parse);
    Some(Loop {
        path,
        volume,
        backing,
        read_only: status.flags & LO_FLAGS_READ_ONLY != 0,
        device: status.device,
        inode: status.inode,
    })
}

/// Takes the file away from a loop device that nobody uses; `InUse` if somebody does.
pub(crate) fn detach(path: &Path) -> Result<(), Error> {
    let Some(device) = exclusive(path)? else { return Ok(()) };
    rustix::fs::fsync(&device)
        .map_err(|error| failed(format_args!("write out what {} still holds", path.display()), error))?;
    clear(path, &device)
}

/// The device, open for us alone; nothing if there is none.
fn exclusive(path: &Path) -> Result<Option<File>, Error> {
    match open(path, OFlags::RDONLY | OFlags::EXCL) {
        Ok(device) => Ok(Some(device)),
        Err(error) if is(&error, Errno::BUSY) => {
            Err(Error::in_use(format!("{} is still mounted somewhere", path.display())))
        }
        Err(error) if is(&error, Errno::NXIO) || is(&error, Errno::NOENT) => Ok(None),
        Err(error) => Err(failed(format_args!("open {}", path.display()), error)),
    }
}

fn clear(path: &Path, device: &File) -> Result<(), Error> {
    match kernel::loop_clear(device.as_fd()) {
        Ok(()) => Ok(()),
        Err(error) if is(&error, Errno::NXIO) => Ok(()),
        Err(error) => Err(failed(format_args!("free {}", path.display()), error)),
    }
}

/// Takes the file away from a loop device that nobody uses and whose file does not answer any more: there is nothing
/// to write out to. `InUse` if somebody has it.
pub(crate) fn abandon(path: &Path) -> Result<(), Error> {
    match exclusive(path)? {
        Some(device) => clear(path, &device),
        None => Ok(()),
    }
}

/// Makes a loop device as large as its file.
pub(crate) fn resize(path: &Path) -> Result<(), Error> {
    let device =
        open(path, OFlags::RDONLY).map_err(|error| failed(format_args!("open {}", path.display()), error))?;
    kernel::loop_set_capacity(device.as_fd())
        .map_err(|error| failed(format_args!("tell {} its new size", path.display()), error))
}

fn name_of(file: &File) -> Result<String, Error> {
    use std::os::fd::AsRawFd as _;
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(|error| failed("find the name of the volume's file", error))?;
    Ok(path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
}

fn open(path: impl AsRef<Path>, flags: OFlags) -> io::Result<File> {
    Ok(File::from(rustix::fs::open(path.as_ref(), flags | OFlags::CLOEXEC, Mode::empty())?))
}
