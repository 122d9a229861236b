//! The file system that a granted command sees: the system's own directories, read-only, and nothing else that
//! is mounted. A program of somebody else's, run with words that a stranger chose, can so neither leave
//! anything behind on this host nor look at a volume.
//!
//! It is made by giving the thread that starts the command a mount namespace of its own. There every mount of
//! the system ([`SYSTEM`], and whatever holds the program) is remounted read-only, and every other is detached:
//! volumes, data folders, `/run` with its sockets, `/home` where that is a file system of its own. (A directory
//! of the root's own file system stays visible, as far as its mode lets the command's user look.) The daemon's
//! namespace is untouched: mounts come in from it, and what is unmounted there goes here too where the host
//! shares its mounts, so that a command that runs keeps no volume busy.
//!
//! **Where this cannot be had** (a daemon without CAP_SYS_ADMIN, a kernel that refuses) the command is refused
//! and the error says so; the operator may grant it `writable = true` and knows what that means. In a user
//! namespace mounts of the outside are locked together and cannot be detached: those stay visible, read-only.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_change, mount_remount, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

/// What a program of the system needs to run at all.
const SYSTEM: [&str; 11] =
    ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr", "/etc", "/opt", "/dev", "/proc", "/sys"];

/// Confines this thread, and with it what it starts. The thread must be one that ends soon after.
pub(crate) fn this_thread(program: &Path) -> io::Result<()> {
    #[expect(unsafe_code, reason = "only a table of descriptors that is unshared is unsafe")]
    // SAFETY: the new namespace is one of mounts; descriptors stay shared with the other threads.
    unsafe {
        unshare_unsafe(UnshareFlags::NEWNS)?;
    }
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let mounts = mounts(&std::fs::read_to_string("/proc/thread-self/mountinfo")?);
    let program = std::fs::canonicalize(program)?;
    let holder =
        mounts.iter().filter(|at| program.starts_with(at)).max_by_key(|at| at.as_os_str().len()).cloned();
    let mut gone: Vec<&PathBuf> = Vec::new();
    for at in &mounts {
        if gone.iter().any(|parent| at.starts_with(parent)) {
            continue;
        }
        let system = at == Path::new("/") || SYSTEM.iter().any(|system| at.starts_with(system));
        let kept = system || holder.as_ref().is_some_and(|holder| holder.starts_with(at));
        if !kept && unmount(at, UnmountFlags::DETACH).is_ok() {
            gone.push(at);
            continue;
        }
        match read_only(at) {
            // It went meanwhile, or lies below one that was mounted over it: nobody can reach it either.
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) if at != Path::new("/") => {}
            other => other?,
        }
    }
    Ok(())
}

/// Remounts what is mounted there, with the flags that it has.
fn read_only(at: &Path) -> rustix::io::Result<()> {
    let has = statvfs(at)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (flag, same) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if has.contains(flag) {
            flags |= same;
        }
    }
    mount_remount(at, flags, "")
}

/// Where something is mounted, in the order of mounting.
fn mounts(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(plain).collect()
}

/// A path without mountinfo's octal escapes.
fn plain(escaped: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let text = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                    30 22 0:24 / /srv/with\\040space\\134 rw - tmpfs tmpfs rw\n";
        assert_eq!(mounts(text), [PathBuf::from("/"), PathBuf::from("/srv/with space\\")]);
    }
}
