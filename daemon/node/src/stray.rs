//! Taking down what stands here although no record says so: a mount in our folder, a loop device over a file in a
//! granted directory. Nobody answers for it any more, so it is looked at more closely than an unmount of ours: whoever
//! has it in any way keeps it. Whether nobody knows it is for the hall to say (`doctor/`).

use std::path::{Path, PathBuf};

use kato_orchestrator::{Error, model::VolumeId};

use crate::{
    holders, loopdev, mount,
    server::{self, Server},
};

/// Unmounts one of our places.
pub(crate) fn unmount(folders: &[PathBuf], path: &Path) -> Result<(), Error> {
    if !path.parent().is_some_and(|parent| folders.iter().any(|folder| folder == parent)) {
        return Err(Error::precondition(format!("{} is no place of ours", path.display())));
    }
    let Some(stands) = holders::at(path)? else { return Ok(()) };
    let mut found = holders::of_mount(path)?;
    let elsewhere_here = holders::our_mounts()?.into_iter().filter(|entry| {
        entry.point != path
            && entry.device == stands.device
            && Path::new(&entry.root).starts_with(&stands.root)
    });
    found.extend(elsewhere_here.map(|entry| format!("the mount at {}", entry.point.display())));
    if !found.is_empty() {
        return Err(Error::in_use(holders::in_use(&format!("{} is in use", path.display()), &found)));
    }
    mount::take_down(path)?;
    mount::remove_place(path)
}

/// Devices that we made, and servers of devices: whose, where, and over what.
pub(crate) fn devices(
    granted: &[PathBuf],
    servers: &Path,
) -> Result<Vec<(Option<String>, String, String)>, Error> {
    let mut found: Vec<_> = loopdev::beneath(granted)?
        .into_iter()
        .map(|device| {
            let volume = device.volume.map(|volume| volume.to_string());
            (volume, device.path.display().to_string(), device.backing)
        })
        .collect();
    for volume in server::volumes(servers)? {
        let whose = Some(volume.to_string());
        let (mut kept, folder) = (false, servers.join(volume.to_string()));
        for server in server::all(servers, volume)? {
            if let Some(device) = server.device()? {
                kept = true;
                found.push((
                    whose.clone(),
                    device.display().to_string(),
                    server.file().display().to_string(),
                ));
            }
        }
        if !kept {
            found.push((whose, folder.display().to_string(), "a server without a device".to_owned()));
        }
    }
    Ok(found)
}

/// Frees a loop device, or ends a server with the device that it has.
pub(crate) fn free(granted: &[PathBuf], servers: &Path, path: &Path) -> Result<(), Error> {
    if let Some(volume) = path.strip_prefix(servers).ok().and_then(|name| VolumeId::parse(name.to_str()?)) {
        return server::all(servers, volume)?.iter().try_for_each(Server::stop);
    }
    for volume in server::volumes(servers)? {
        for server in server::all(servers, volume)? {
            if server.device()?.is_some_and(|device| device == path) {
                return server.stop();
            }
        }
    }
    let Some(found) = loopdev::beneath(granted)?.into_iter().find(|device| device.path == path) else {
        return match loopdev::at(path)? {
            None => Ok(()),
            Some(other) => Err(Error::precondition(format!(
                "{} stands over {}, which is in no granted directory",
                path.display(),
                other.backing
            ))),
        };
    };
    if found.is_orphan() {
        return Err(Error::in_use(format!(
            "the file behind {device} was removed, and its bytes live on only there: copy them out if anybody needs \
             them; `losetup -d {device}` gives them up",
            device = path.display()
        )));
    }
    holders::name_them(path, loopdev::detach(path))
}
