//! What the kernel lets be said about a FUSE connection from outside: `fusectl`, a filesystem with a folder for each. It is
//! mounted where nobody sees it, as not every host has it at its usual place.

use std::{fs::File, io::Write as _, path::Path};

use kato_orchestrator::Error;
use rustix::{
    fs::{Mode, OFlags, minor, openat, stat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use crate::errno::failed;

/// Has the kernel ask the server of this file for one read or write at a time. The others wait in the kernel.
pub(crate) fn one_at_a_time(file: &Path) -> Result<(), Error> {
    let what = |error| failed(format_args!("have {} asked for one thing at a time", file.display()), error);
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC).map_err(what)?;
    fsconfig_create(&context).map_err(what)?;
    let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(what)?;
    // A connection is called by the number of its filesystem.
    let place = format!("{}/max_background", minor(stat(file).map_err(what)?.st_dev));
    let limit = openat(&tree, place, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(what)?;
    File::from(limit)
        .write_all(b"1")
        .map_err(|error| failed(format_args!("have {} asked for one thing at a time", file.display()), error))
}
