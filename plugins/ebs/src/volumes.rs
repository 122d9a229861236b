//! The operations on volumes that are there. How one comes to be is `make.rs`, how it is changed `change.rs`.

use kato_plugin_sdk::{
    health::Condition,
    http::Transport,
    room::Room,
    types::{Error, Pair, Volume, VolumePage, Which},
    volumes::Deleted,
};

use crate::{
    answers::Disk,
    api::{Call, Cloud},
    config::Parameters,
    convert,
    error::{self, NO_VOLUME, STATE, VOLUME_IN_USE},
    tags::{self, MARK},
};

/// Deletes a volume. What EC2 calls `deleting` is gone for good, so nobody waits for its end.
pub(crate) fn delete<T: Transport>(cloud: &Cloud<T>, which: &Which) -> Result<Deleted, Error> {
    let disk = match tags::id(which, "vol", "volume")? {
        Some(id) => match cloud.find(which)? {
            // One that is not to be seen yet has to go as well, and EC2 itself knows whether it is there.
            None => return remove(cloud, id, None),
            found => found,
        },
        None => {
            let mut disks = cloud.disks_of(&[&which.token])?;
            disks.retain(Disk::is_there);
            if disks.len() > 1 {
                let ids: Vec<_> = disks.iter().map(|disk| disk.id.as_str()).collect();
                return Err(Error::precondition(format!(
                    "the volumes {} all carry the token {}: nobody can tell which of them is meant; take the tag \
                     kato-token from those that others made",
                    ids.join(", "),
                    which.token
                )));
            }
            disks.pop()
        }
    };
    match disk {
        Some(disk) => remove(cloud, &disk.id, Some(&disk)),
        None => Ok(Deleted::Done),
    }
}

fn remove<T: Transport>(cloud: &Cloud<T>, id: &str, disk: Option<&Disk>) -> Result<Deleted, Error> {
    let in_use = |disk: &Disk| {
        Error::in_use(format!("the volume {id} is attached to {}: detach it first", disk.holders("")))
    };
    if let Some(disk) = disk.filter(|disk| disk.held().next().is_some()) {
        return Err(in_use(disk));
    }
    match cloud.ask(&Call::change("DeleteVolume").idempotent().with("VolumeId", id)) {
        Ok(_) => Ok(Deleted::Done),
        Err(refusal) if refusal.is(&[NO_VOLUME]) => Ok(Deleted::Done),
        Err(refusal) if refusal.is(&[VOLUME_IN_USE, STATE]) => match cloud.disk(id)? {
            Some(disk) if disk.held().next().is_some() => Err(in_use(&disk)),
            Some(disk) if !disk.is_there() => Ok(Deleted::Done),
            _ => Err(Error::busy(format!(
                "the volume {id} cannot be deleted at this moment: {}",
                refusal.error.message
            ))),
        },
        Err(refusal) => Err(refusal.error),
    }
}

/// Looks at volumes.
pub(crate) fn inspect<T: Transport>(cloud: &Cloud<T>, which: &[Which]) -> Result<Vec<Option<Volume>>, Error> {
    let found = cloud.find_all(which)?;
    Ok(found.iter().map(|disk| disk.as_ref().map(|disk| convert::volume(disk, true))).collect())
}

/// A page of all volumes.
pub(crate) fn list<T: Transport>(cloud: &Cloud<T>, page: Option<&str>) -> Result<VolumePage, Error> {
    let (disks, next) = cloud.disk_page(page)?;
    let ours = disks.iter().filter(|disk| disk.is_there() && !disk.token().is_empty());
    Ok(VolumePage { items: ours.map(|disk| convert::volume(disk, true)).collect(), next })
}

/// Writes a new mark.
pub(crate) fn remark<T: Transport>(cloud: &Cloud<T>, which: &Which, mark: &str) -> Result<(), Error> {
    let disk = cloud.find(which)?.ok_or_else(|| error::no_volume(&which.token))?;
    if disk.mark() == mark {
        return Ok(());
    }
    let tag = [(MARK.to_owned(), mark.to_owned())];
    match cloud
        .ask(&Call::change("CreateTags").idempotent().list("ResourceId", &[&disk.id]).tags("Tag", &tag))
    {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.is(&[NO_VOLUME]) => Err(error::no_volume(&which.token)),
        Err(refusal) => Err(refusal.error),
    }
}

/// How volumes feel.
pub(crate) fn health<T: Transport>(cloud: &Cloud<T>, which: &[Which]) -> Result<Vec<Condition>, Error> {
    // Those that are not there have to be left out: the second look fails for all where one is unknown.
    let disks = cloud.find_all(which)?;
    let ids: Vec<_> = disks.iter().flatten().map(|disk| disk.id.as_str()).collect();
    let feelings = if ids.is_empty() { Vec::new() } else { cloud.feelings(&ids)? };
    let condition = |disk: &Option<Disk>| {
        let disk = disk.as_ref();
        let feeling = disk.and_then(|disk| feelings.iter().find(|feeling| feeling.volume == disk.id));
        convert::condition(disk, feeling)
    };
    Ok(disks.iter().map(condition).collect())
}

/// How large a volume of this type can be. What the account's quotas leave, another service knows.
pub(crate) fn room(parameters: &[Pair]) -> Result<Room, Error> {
    let parameters = Parameters::read(parameters)?;
    Ok(Room { available_bytes: parameters.kind.largest(), total_bytes: None })
}
