//! Holding a volume still while a snapshot of it is cut or a copy of it is made.
//!
//! While it is held nobody here takes a step on it (the claims of the volume and of the volume on this node),
//! and where it is mounted its filesystem is frozen. A watchdog outside of this process thaws it after the
//! limit; [`Held::release`] then says so, and what was cut is thrown away. After a crash the start thaws every
//! mount of this node, so no record is needed.

use std::sync::Arc;

use crate::{
    drivers::Subject,
    error::Error,
    house::House,
    model::{MountState, VolumeId},
    ports::{backend::Cutting, store::Claim},
};

/// A volume that is held still.
pub(crate) struct Held {
    volume: VolumeId,
    frozen: Option<String>,
    _claims: [Box<dyn Claim>; 2],
}

/// Holds a volume as still as its backend needs it.
pub(crate) async fn still(house: &Arc<House>, volume: VolumeId, cutting: Cutting) -> Result<Held, Error> {
    let store = &house.ports.store;
    let subject = Subject::Volume(volume).to_string();
    let claims = [
        store.claim(&subject).await.map_err(Error::pending)?,
        store.claim(&format!("{subject}/{}", house.node())).await.map_err(Error::pending)?,
    ];
    let family = house.journal.family(volume).await.map_err(Error::pending)?.value;
    let name = family.volume.as_ref().map(|volume| volume.name.to_string()).unwrap_or_default();
    if cutting == Cutting::Unmounted && !(family.mounts.is_empty() && family.publications.is_empty()) {
        return Err(Error::precondition(format!(
            "it can only be copied while nobody has it mounted, and it is held by {}: stop those first, or use a class \
             whose volumes are images",
            family.holders_text()
        ))
        .about(format!("volume {name}")));
    }
    if let Some(other) = family.mounts.keys().find(|node| *node != house.node())
        && cutting == Cutting::Copy
    {
        return Err(Error::precondition(format!(
            "it is mounted on {other}: cut it there, or unmount it first"
        ))
        .about(format!("volume {name}")));
    }
    // What cannot be frozen may be written while it is copied.
    if let Some(MountState::Broken(why)) = family.mounts.get(house.node()).map(|mount| &mount.state)
        && cutting == Cutting::Copy
    {
        return Err(Error::precondition(format!(
            "its mount is broken ({why}), so it cannot be held still: repair it first"
        ))
        .about(format!("volume {name}")));
    }
    let path = family
        .mounts
        .get(house.node())
        .filter(|mount| mount.state == MountState::Mounted && !mount.read_only)
        .and_then(|mount| mount.path.clone());
    if let Some(path) = &path {
        house.ports.host.freeze(volume, path, house.config.freeze_limit).await.map_err(Error::pending)?;
    }
    Ok(Held { volume, frozen: path, _claims: claims })
}

impl Held {
    /// Lets the volume go. An error says that it did not stand still until now.
    pub(crate) async fn release(self, house: &House) -> Result<(), Error> {
        let Some(path) = &self.frozen else { return Ok(()) };
        if house.ports.host.thaw(self.volume, path).await.map_err(Error::pending)? {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "copying it took longer than the {} seconds that a filesystem may be held frozen, so somebody may have \
             written meanwhile: do it while the volume is not mounted, or raise node.freeze-limit",
            house.config.freeze_limit.as_secs()
        )))
    }
}
