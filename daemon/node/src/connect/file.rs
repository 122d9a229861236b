//! A file beneath a granted directory becomes a block device through a loop device over its descriptor. A
//! file that has been deleted since is still found by its name and its volume, so that it can be let go.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use kato_orchestrator::{Error, model::VolumeId};
use rustix::fs::{FileType, OFlags, fstat};

use super::directory::open_beneath;
use crate::{errno::failed, holders, loopdev};

/// The loop device over this file, made if it is not there.
pub(crate) fn connect(volume: VolumeId, root: &Path, path: &Path, read_only: bool) -> Result<PathBuf, Error> {
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let file = File::from(open_beneath(root, path, access | OFlags::NONBLOCK)?);
    let stat = fstat(&file).map_err(|error| failed(format_args!("look at {}", path.display()), error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::precondition(format!("{} is no regular file", root.join(path).display())));
    }
    if stat.st_size < 512 {
        return Err(Error::precondition(format!("{} is empty", root.join(path).display())));
    }
    loopdev::attach(volume, &file, read_only)
}

/// The volume's loop device, if it has one.
pub(crate) fn find(volume: VolumeId, path: &Path) -> Result<Option<PathBuf>, Error> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let found = loopdev::over(&name)?.into_iter().find(|device| device.volume == Some(volume));
    Ok(found.map(|device| device.path))
}

/// Lets the file go, unless its device is still mounted somewhere.
pub(crate) fn disconnect(volume: VolumeId, path: &Path) -> Result<(), Error> {
    let Some(device) = find(volume, path)? else { return Ok(()) };
    holders::name_them(&device, loopdev::detach(&device))
}
