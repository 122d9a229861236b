//! Project quotas: a directory tree gets a project of its own, and the project a limit. ext4 (mounted with
//! `prjquota`) and xfs (`pquota`) have them; elsewhere a limit cannot be promised, and is refused.
//!
//! The project's number is kept by the filesystem itself, on the directory. A new one is derived from the
//! directory's path and taken only if nothing is counted under it.

use std::{
    ffi::c_void,
    sync::{Mutex, PoisonError},
};

use kato_orchestrator::Error;
use rustix::{
    fd::{AsFd, AsRawFd as _, OwnedFd},
    fs::{Dir, FileType, Mode, OFlags, openat},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::beneath::{self, failed};

const PROJECT: u32 = 2;
const GET_QUOTA: u32 = 0x80_0007;
const SET_QUOTA: u32 = 0x80_0008;
const BLOCK_LIMITS: u32 = 1;
const PROJECT_INHERIT: u32 = 0x200;
/// The deepest tree that is put into a project.
const DEEPEST: usize = 200;

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    reserved: [u8; 8],
}

/// `struct if_dqblk` of linux/quota.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// Whether trees can be limited here.
pub(crate) fn available(place: &OwnedFd) -> bool {
    get_limits(place, 0).is_ok()
}

/// Limits a tree to so many bytes; zero takes the limit away.
pub(crate) fn set(root: impl AsFd, path: &str, bytes: u64) -> Result<(), Error> {
    // One at a time, so that no two trees choose the same new project.
    static CHOOSING: Mutex<()> = Mutex::new(());
    let _choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
    let tree = beneath::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    if !available(&tree) {
        return Err(Error::unsupported(format!(
            "{path:?}: the filesystem has no project quota: mount it with prjquota (ext4, made with `-O \
             project,quota`) or pquota (xfs)"
        )));
    }
    let failed = |error| failed(path, error);
    let attributes = get_attributes(&tree).map_err(failed)?;
    let project = match attributes.project {
        0 if bytes == 0 => return Ok(()),
        0 => choose(&tree, path).map_err(failed)?,
        own => own,
    };
    set_limit(&tree, project, bytes).map_err(failed)?;
    enter(&tree, project, 0, path)
}

/// A project that nothing is counted under.
fn choose(place: &OwnedFd, path: &str) -> Result<u32, Errno> {
    let digest = Sha256::digest(path.as_bytes());
    let start = digest.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    for step in 0..1000_u32 {
        let project = 0x4000_0000 | (start.wrapping_add(step) & 0x3fff_ffff);
        match get_limits(place, project) {
            Ok(limits) if limits.space == 0 && limits.inodes == 0 && limits.block_hard == 0 => {
                return Ok(project);
            }
            Ok(_) => {}
            Err(Errno::NOENT) => return Ok(project),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::NOSPC)
}

/// Puts a tree into a project: what is made in it later inherits that.
fn enter(place: &OwnedFd, project: u32, depth: usize, path: &str) -> Result<(), Error> {
    let failed = |error| failed(path, error);
    if depth > DEEPEST {
        return Err(Error::precondition(format!("{path:?}: the tree is deeper than {DEEPEST} levels")));
    }
    join(place, project, PROJECT_INHERIT).map_err(failed)?;
    for entry in Dir::read_from(place).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match entry.file_type() {
            FileType::Directory => {
                let inner = openat(place, name, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
                enter(&inner, project, depth + 1, path)?;
            }
            FileType::RegularFile => {
                let file = openat(place, name, flags, Mode::empty()).map_err(failed)?;
                join(&file, project, 0).map_err(failed)?;
            }
            // Others take no room.
            _ => {}
        }
    }
    Ok(())
}

fn join(file: &OwnedFd, project: u32, flag: u32) -> Result<(), Errno> {
    let mut attributes = get_attributes(file)?;
    if attributes.project == project && attributes.flags & flag == flag {
        return Ok(());
    }
    attributes.project = project;
    attributes.flags |= flag;
    set_attributes(file, &attributes)
}

fn set_limit(place: &OwnedFd, project: u32, bytes: u64) -> Result<(), Errno> {
    let mut limits =
        Limits { block_hard: bytes.div_ceil(1024), block_soft: 0, valid: BLOCK_LIMITS, ..Limits::default() };
    quotactl(place, SET_QUOTA, project, &mut limits)
}

fn get_limits(place: &OwnedFd, project: u32) -> Result<Limits, Errno> {
    let mut limits = Limits::default();
    quotactl(place, GET_QUOTA, project, &mut limits)?;
    Ok(limits)
}

#[expect(unsafe_code, reason = "neither rustix nor std know project quotas")]
fn quotactl(place: &OwnedFd, command: u32, project: u32, limits: &mut Limits) -> Result<(), Errno> {
    let limits: *mut Limits = limits;
    // SAFETY: the descriptor is open, and the structure is the one that both commands read or write.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            place.as_raw_fd(),
            (command << 8) | PROJECT,
            project,
            limits.cast::<c_void>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

#[expect(unsafe_code, reason = "neither rustix nor std know this ioctl")]
fn get_attributes(file: &OwnedFd) -> Result<Attributes, Errno> {
    const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
    let mut attributes = Attributes::default();
    // SAFETY: the descriptor is open, and the kernel writes one `struct fsxattr`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) };
    if result == 0 { Ok(attributes) } else { Err(last_error()) }
}

#[expect(unsafe_code, reason = "neither rustix nor std know this ioctl")]
fn set_attributes(file: &OwnedFd, attributes: &Attributes) -> Result<(), Errno> {
    const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
    let attributes: *const Attributes = attributes;
    // SAFETY: the descriptor is open, and the kernel reads one `struct fsxattr`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, attributes) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::Kind;

    use super::*;

    #[test]
    fn a_limit_holds_or_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("v")).unwrap();
        let root = beneath::plain(temp.path());
        let place = beneath::itself(&root).unwrap();
        if available(&place) {
            set(&root, "v", 1 << 20).unwrap();
            assert!(std::fs::write(temp.path().join("v/f"), vec![1; 2 << 20]).is_err());
            set(&root, "v", 0).unwrap();
            std::fs::write(temp.path().join("v/f"), vec![1; 2 << 20]).unwrap();
        } else {
            assert_eq!(set(&root, "v", 1 << 20).unwrap_err().kind, Kind::Unsupported);
        }
    }
}
