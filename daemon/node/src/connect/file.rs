//! A file beneath a granted directory becomes a block device through a loop device over its descriptor. A
//! file that has been removed since is still found by its name and its volume, but not let go: as long as its
//! device stands its bytes can be copied out, and afterwards they cannot.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use kato_orchestrator::{
    Error,
    model::{Bytes, VolumeId},
};
use rustix::fs::{FileType, OFlags, fstat};

use super::{directory::open_beneath, open_device, size_of_device};
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

/// An error says that the mounted device is not over this file any more, or not over all of it.
pub(crate) fn require_same(volume: VolumeId, root: &Path, path: &Path, device: &Path) -> Result<(), Error> {
    let file = root.join(path);
    let Some(found) = loopdev::at(device)?.filter(|found| found.volume == Some(volume)) else {
        return Err(Error::unavailable(format!("{} is no device of this volume's", device.display())));
    };
    let there = match open_beneath(root, path, OFlags::PATH) {
        Ok(there) => there,
        Err(_) if found.is_orphan() => return Err(Error::unavailable(orphan(&file, device))),
        Err(error) => return Err(error),
    };
    let stat = fstat(&there).map_err(|error| failed(format_args!("look at {}", file.display()), error))?;
    if !found.is_over(&stat) {
        return Err(Error::unavailable(match found.is_orphan() {
            true => orphan(&file, device),
            false => format!(
                "{} stands over {}, and another file has the place {} now",
                device.display(),
                found.backing,
                file.display()
            ),
        }));
    }
    let size = size_of_device(&open_device(device)?)?;
    let length = u64::try_from(stat.st_size).unwrap_or_default();
    if length < size {
        return Err(Error::unavailable(format!(
            "{} was cut short: {} of {} are left",
            file.display(),
            Bytes(length),
            Bytes(size)
        )));
    }
    Ok(())
}

/// Lets the file go, unless its device is still mounted somewhere, or is the last that is left of it.
pub(crate) fn disconnect(volume: VolumeId, root: &Path, path: &Path) -> Result<(), Error> {
    let Some(device) = find(volume, path)? else { return Ok(()) };
    if loopdev::at(&device)?.is_some_and(|found| found.is_orphan()) {
        return Err(Error::in_use(orphan(&root.join(path), &device)));
    }
    holders::name_them(&device, loopdev::detach(&device))
}

/// The file has no name any more: freeing the device would end its bytes.
fn orphan(file: &Path, device: &Path) -> String {
    format!(
        "{file} was removed or replaced, and its bytes live on only in {device}: copy them out with \
         `cp --sparse=always {device} {file}`; once it is unmounted, `losetup -d {device}` gives them up",
        file = file.display(),
        device = device.display()
    )
}
