//! Giving everything on a volume to a group, for callers whose containers do not run as root: each directory and file
//! gets the group and what its owner may do, and directories hand the group on to what is made in them. A volume
//! whose root has it already was given before, and is not walked again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kato_orchestrator::Error;
use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags},
    io::Errno,
};

use crate::errno::failed;

/// What the group may do on files, and on directories, whose group everything in them inherits.
const FILE: u32 = 0o660;
const DIRECTORY: u32 = 0o2770;

/// How deep a tree is followed.
const DEPTH: usize = 256;

/// Gives what is in an open directory to a group; the directory itself last, so that it tells that all is done.
pub(crate) fn give(root: BorrowedFd<'_>, group: u32) -> Result<(), Error> {
    let readable = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(root, ".", readable, Mode::empty())
        .map_err(|error| failed("open the volume's directory", error))?;
    let stat = rustix::fs::fstat(&root).map_err(|error| failed("look at the volume's directory", error))?;
    if stat.st_gid == group && stat.st_mode & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    beneath(&root, group, 0)?;
    own(root.as_fd(), group, DIRECTORY)
}

fn beneath(directory: &OwnedFd, group: u32, depth: usize) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(Error::precondition(
            "its directories lie too deep to be given to a group: leave the group out",
        ));
    }
    let what = |error| failed("read the volume's directories", error);
    for entry in Dir::read_from(directory).map_err(what)? {
        let entry = entry.map_err(what)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Whoever uses the volume already may take it away meanwhile.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(what(error)),
        };
        let mode = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => DIRECTORY,
            FileType::RegularFile => FILE,
            // Links have no rights, and sockets and pipes belong to whoever made them.
            _ => continue,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT | Errno::LOOP) => continue,
            Err(error) => return Err(what(error)),
        };
        if mode == DIRECTORY {
            beneath(&opened, group, depth + 1)?;
        }
        own(opened.as_fd(), group, mode)?;
    }
    Ok(())
}

fn own(thing: BorrowedFd<'_>, group: u32, mode: u32) -> Result<(), Error> {
    let what = |error| failed("give the volume's files to the group", error);
    let stat = rustix::fs::fstat(thing).map_err(what)?;
    rustix::fs::fchown(thing, None, Some(Gid::from_raw(group))).map_err(what)?;
    // After the owner, because chown takes setgid bits away. An executable stays one, for the group too.
    let executable = if mode == FILE && stat.st_mode & 0o100 != 0 { 0o010 } else { 0 };
    rustix::fs::fchmod(thing, Mode::from_raw_mode((stat.st_mode & 0o7777) | mode | executable)).map_err(what)
}
