//! Steps that this node takes: format, mount, unmount, grow a filesystem, bind, unbind.

use std::sync::Arc;

use tracing::{info, warn};

use crate::{
    error::{Error, Kind},
    family::Family,
    house::House,
    mark::Mark,
    model::{
        AttachmentState, Bytes, CapacityRange, Connection, FsState, Hold, HolderId, Intent, Keeping,
        LostMount, Mount, MountState, NodeId, Publication, PublicationState, Target, Volume, VolumeState,
    },
    ops::unmount::take_down,
    ports::{
        host::{Bind, Device, Grown, MountWish, Prepare},
        store::Durability,
    },
    steps::backend::which,
};

/// How this node reaches the volume.
fn connection(house: &House, family: &Family) -> Result<Connection, Error> {
    family.attachments.get(house.node()).and_then(|attachment| attachment.connection.clone()).ok_or_else(
        || Error::internal("the volume is to be used on this node, but nothing says how it is reached"),
    )
}

/// Makes a filesystem. The mark and then the record say so before the first write, and the record says
/// Formatted before the first mount.
pub(super) async fn format(house: &Arc<House>, family: &Family, volume: &Volume) -> Result<(), Error> {
    match make_filesystem(house, family, volume).await {
        Err(error) if error.kind == Kind::NotFound => Err(missing(house, volume, error).await),
        other => other,
    }
}

async fn make_filesystem(house: &Arc<House>, family: &Family, volume: &Volume) -> Result<(), Error> {
    let connection = connection(house, family)?;
    let backend = house.backend(&volume.backend).await?;
    let resumed = volume.filesystem.state == FsState::Formatting;
    if !resumed && volume.keeping == Keeping::Borrowed && is_begun_by_the_mark(house, volume).await? {
        // Another node, or this one in an earlier life, has begun with it since whoever lent it looked.
        return set_filesystem(house, volume, FsState::Formatted).await;
    }
    is_still_ours(house, volume, &connection, false).await?;
    if !resumed {
        if backend.attachments().is_some() {
            // What is far away takes as long to reach as to mark.
            let host = &house.ports.host;
            let (marked, reached) =
                futures_util::join!(mark_begun(house, volume), host.connect(volume.id, &connection, false));
            marked?;
            // One that is not here, or not in its size, is not begun with: the record would let the next try take what
            // it finds for its own half.
            require_size(volume, &reached?)?;
        } else {
            mark_begun(house, volume).await?;
        }
        set_filesystem(house, volume, FsState::Formatting).await?;
    }
    let how = Prepare {
        fs: volume.filesystem.fs,
        blank: backend.describe().blank,
        resumed,
        size: volume.actual.unwrap_or_default(),
    };
    if let Err(error) = house.ports.host.format(volume.id, &connection, &how).await {
        if !resumed && error.kind == Kind::Precondition {
            // It was refused before the first write, because it is not blank. The next try has to see that too: one
            // that resumes is told to expect what a cut-off make leaves.
            set_filesystem(house, volume, FsState::Blank).await?;
        }
        return Err(error);
    }
    set_filesystem(house, volume, FsState::Formatted).await
}

/// Between connecting and the first write: whether this node still has the volume, where others may have taken it for gone
/// and taken it away. Who it is to the backend is recorded with the answer.
///
/// Whoever takes a volume away records that first, and then looks who is connected. So either this node's answer comes before
/// that record, and then it is seen to be connected, and is cut off; or it comes after it, and then nothing is written.
async fn is_still_ours(
    house: &Arc<House>,
    volume: &Volume,
    connection: &Connection,
    read_only: bool,
) -> Result<(), Error> {
    if house.fellows.is_none() || volume.seat().is_some() {
        return Ok(());
    }
    let (host, node) = (&house.ports.host, house.node());
    let device = match host.connect(volume.id, connection, read_only).await {
        Ok(device) => device,
        Err(error) if error.kind == Kind::NotFound => return Err(missing(house, volume, error).await),
        Err(error) => return Err(error),
    };
    let (_, ours) = house
        .journal
        .edit_family(volume.id, Durability::Durable, |family, change| {
            let ours = family.mounts.contains_key(node) && !family.lost.contains_key(node);
            let attachment =
                family.attachments.get_mut(node).filter(|one| one.state == AttachmentState::Attached);
            let (Some(attachment), true) = (attachment, ours) else { return Ok(false) };
            if device.client.is_some() {
                attachment.client.clone_from(&device.client);
            }
            change.insist();
            Ok(true)
        })
        .await?;
    if ours {
        return Ok(());
    }
    host.disconnect(volume.id, connection).await?;
    Err(Error::busy("it was taken from this node while this node connected to it: try again"))
}

/// An error says that a device is smaller than its volume: it is not here yet, or it is another disk.
fn require_size(volume: &Volume, device: &Device) -> Result<(), Error> {
    match (device.size, volume.actual) {
        // A device has whole sectors.
        (Some(shown), Some(actual)) if shown.0 < actual.0 - actual.0 % 512 => {
            Err(Error::unavailable(format!(
                "{} shows {shown} so far, and the volume has {actual}: it has not arrived on this node yet, or it is another \
             disk",
                device.path
            )))
        }
        _ => Ok(()),
    }
}

/// Whether the mark at the backend says that there is, or may be, something on a volume.
async fn is_begun_by_the_mark(house: &House, volume: &Volume) -> Result<bool, Error> {
    let backend = house.backend(&volume.backend).await?;
    let found = backend.inspect(vec![which(house, volume)]).await?.into_iter().next().flatten();
    Ok(found.and_then(|made| Mark::decode(&made.mark).ok()).is_some_and(|mark| mark.formatted))
}

/// Marks at the backend that there is, or may be, something on a volume by now.
async fn mark_begun(house: &House, volume: &Volume) -> Result<(), Error> {
    let backend = house.backend(&volume.backend).await?;
    let mut marked = volume.clone();
    marked.filesystem.state = FsState::Formatting;
    match backend.remark(which(house, volume), Mark::of(&marked, house.cluster).encode()).await {
        Err(error) if error.kind != Kind::Unsupported => Err(error),
        _ => Ok(()),
    }
}

async fn set_filesystem(house: &House, volume: &Volume, state: FsState) -> Result<(), Error> {
    house
        .journal
        .edit_family(volume.id, Durability::Durable, |family, _| {
            if let Some(volume) = family.volume.as_mut() {
                volume.filesystem.state = state;
            }
            Ok(())
        })
        .await
        .map(drop)
}

pub(super) async fn mount(house: &Arc<House>, family: &Family, volume: &Volume) -> Result<(), Error> {
    let node = house.node();
    if family.mounts.get(node).is_some_and(|mount| mount.raw) {
        return open_raw(house, family, volume).await;
    }
    let mut options = volume.filesystem.mount_options.clone();
    options.extend(family.mounts.get(node).iter().flat_map(|mount| mount.options.iter().cloned()));
    let wish = MountWish {
        volume: volume.id,
        name: volume.name.as_str().to_owned(),
        connection: connection(house, family)?,
        options,
        read_only: family.mounts.get(node).is_some_and(|mount| mount.read_only),
        root: volume.filesystem.root.clone(),
        size: volume.actual.unwrap_or_default(),
    };
    is_still_ours(house, volume, &wish.connection, wish.read_only).await?;
    let mounted = match house.ports.host.mount(&wish).await {
        Ok(mounted) => mounted,
        Err(error) if error.kind == Kind::NotFound => return Err(missing(house, volume, error).await),
        Err(error) => return Err(error),
    };
    let durability = if mounted.device.client.is_some() { Durability::Durable } else { Durability::Lazy };
    house
        .journal
        .edit_family(volume.id, durability, |family, _| {
            if let Some(attachment) = family.attachments.get_mut(node)
                && mounted.device.client.is_some()
            {
                attachment.client = mounted.device.client.clone();
            }
            let Some(mount) = family.mounts.get_mut(node) else { return Ok(()) };
            mount.path = Some(mounted.path.clone());
            mount.device = Some(mounted.device.path.clone());
            mount.fs_behind = mounted.fs_behind;
            if mount.state != MountState::Mounting {
                return Ok(());
            }
            mount.state = MountState::Mounted;
            mount.intent = None;
            publish_shared(family, node);
            Ok(())
        })
        .await
        .map(drop)
}

/// Connects a volume whose holders get the device itself. From then on it holds whatever they write, and is never
/// formatted: mark first, then the record, then the device.
async fn open_raw(house: &Arc<House>, family: &Family, volume: &Volume) -> Result<(), Error> {
    let (node, connection) = (house.node(), connection(house, family)?);
    if connection.is_directory() {
        return Err(Error::precondition("it is a directory, which has no device: use it with a mount"));
    }
    if volume.filesystem.state != FsState::Formatted {
        mark_begun(house, volume).await?;
        set_filesystem(house, volume, FsState::Formatted).await?;
    }
    let read_only = family.mounts.get(node).is_some_and(|mount| mount.read_only);
    let device = match house.ports.host.connect(volume.id, &connection, read_only).await {
        Ok(device) => device,
        Err(error) if error.kind == Kind::NotFound => return Err(missing(house, volume, error).await),
        Err(error) => return Err(error),
    };
    require_size(volume, &device)?;
    is_still_ours(house, volume, &connection, read_only).await?;
    house
        .journal
        .edit_family(volume.id, Durability::Durable, |family, _| {
            if let Some(attachment) = family.attachments.get_mut(node)
                && device.client.is_some()
            {
                attachment.client.clone_from(&device.client);
            }
            let Some(mount) = family.mounts.get_mut(node) else { return Ok(()) };
            mount.device = Some(device.path.clone());
            if mount.state != MountState::Mounting {
                return Ok(());
            }
            mount.state = MountState::Mounted;
            mount.intent = None;
            publish_shared(family, node);
            Ok(())
        })
        .await
        .map(drop)
}

/// Whoever shares what is there by now is told.
fn publish_shared(family: &mut Family, node: &NodeId) {
    for publication in family.publications.values_mut().filter(|one| one.node == *node) {
        if publication.state == PublicationState::Publishing && publication.target == Target::Shared {
            publication.state = PublicationState::Published;
            publication.intent = None;
        }
    }
}

/// The node did not find the bytes. If the backend, being the one we know, says so too, the volume is lost.
pub(super) async fn missing(house: &Arc<House>, volume: &Volume, error: Error) -> Error {
    house.trusted.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&volume.backend);
    let backend = match house.backend(&volume.backend).await {
        Ok(backend) => backend,
        Err(unknown) => return unknown,
    };
    match backend.inspect(vec![which(house, volume)]).await.map(|found| found.into_iter().next().flatten()) {
        Ok(None) => {
            let lost = house
                .journal
                .edit_family(volume.id, Durability::Durable, |family, _| {
                    if let Some(volume) = family.volume.as_mut()
                        && volume.state == VolumeState::Ready
                    {
                        volume.state = VolumeState::Lost;
                    }
                    Ok(())
                })
                .await;
            if let Err(error) = lost {
                return error;
            }
            Error::precondition(format!(
                "the backend says that this volume is gone ({error}). It is kept as lost and never made anew: bring it \
                 back, or remove the record with `kato volume rm --forget`"
            ))
            .about(format!("volume {}", volume.name))
        }
        Ok(Some(_)) => error,
        Err(unknown) => unknown,
    }
}

pub(super) async fn unmount(house: &Arc<House>, family: &Family, volume: &Volume) -> Result<(), Error> {
    let node = house.node();
    let raw = family.mounts.get(node).is_some_and(|mount| mount.raw);
    match connection(house, family) {
        Ok(connection) if raw => house.ports.host.disconnect(volume.id, &connection).await?,
        Ok(connection) => house.ports.host.unmount(volume.id, volume.name.as_str(), &connection).await?,
        Err(_) => {}
    }
    let backend = house.catalog().backends.get(&volume.backend).cloned();
    let now = house.now();
    let has_to_detach = backend.is_none_or(|backend| backend.attachments().is_some());
    house
        .journal
        .edit_family(volume.id, Durability::Lazy, |family, _| {
            if !family.is_going(node) {
                return Ok(());
            }
            // Whoever left last may have left it broken: then it is attached afresh, too.
            take_down(family, node, now);
            family.mounts.remove(node);
            let leaves =
                family.attachments.get(node).is_some_and(|one| one.state == AttachmentState::Detaching);
            let lent = family.attachments.get(node).is_some_and(|one| one.hold == Hold::Lent);
            if leaves && (lent || !has_to_detach) {
                family.drop_attachment(node);
            }
            Ok(())
        })
        .await
        .map(drop)
}

/// Takes down what this node still has of a volume that was taken from it, and maybe deleted since. Whoever has it in a
/// mount namespace of its own keeps it from going, and then it is tried again.
pub(super) async fn take_down_lost(house: &Arc<House>, family: &Family) -> Result<(), Error> {
    let (node, id) = (house.node(), family.id);
    let Some(lost) = family.lost.get(node) else { return Ok(()) };
    // Of another boot nothing stands.
    if lost.mount.boot_id == house.boot_id {
        let host = &house.ports.host;
        for holder in lost.holders.values() {
            if let Target::Path(path) = &holder.target {
                host.unbind(id, &Bind { device: lost.mount.raw, ..Bind::directory("", path, false) }).await?;
            }
        }
        match &lost.connection {
            Some(connection) if lost.mount.raw => host.disconnect(id, connection).await?,
            Some(connection) => host.unmount(id, &place_of(house, family, lost).await?, connection).await?,
            // Nobody ever told how the volume is reached.
            None => {}
        }
    }
    house
        .journal
        .edit_family(id, Durability::Lazy, |family, change| {
            change.frees_space();
            family.lost.remove(node);
            Ok(())
        })
        .await?;
    info!(volume.id = %id, volume.name = %lost.name, "took down what was left of a volume that was taken from this node");
    Ok(())
}

/// By which name a lost mount's place goes. The name of a volume that is gone may be another's by now, and its place too:
/// then it is called by its id, and nothing is unmounted but what surely was its own.
async fn place_of(house: &House, family: &Family, lost: &LostMount) -> Result<String, Error> {
    let (id, name) = (family.id, &lost.name);
    if family.volume.is_none() {
        let survey = house.ports.host.survey().await?;
        let there = survey.mounts.iter().find(|(_, path)| lost.mount.path.as_ref() == Some(path));
        let is_ours = match there.and_then(|(of, _)| *of) {
            Some(of) => of == id,
            None => house.journal.volume_id(name).await?.is_none(),
        };
        if !is_ours {
            return Ok(id.to_string());
        }
    }
    Ok(name.as_str().to_owned())
}

pub(super) async fn grow_filesystem(
    house: &Arc<House>,
    family: &Family,
    volume: &Volume,
) -> Result<(), Error> {
    let node = house.node();
    let connection = connection(house, family)?;
    let path = family.mounts.get(node).and_then(|mount| mount.path.clone()).unwrap_or_default();
    let host = &house.ports.host;
    let size = host.rescan(volume.id, &connection, volume.actual.unwrap_or_default()).await?;
    if volume.keeping == Keeping::Borrowed && volume.actual != Some(size) {
        learn_size(house, volume, size).await?;
    }
    let raw = family.mounts.get(node).is_some_and(|mount| mount.raw);
    let grown = if raw { Grown::Done } else { host.grow(volume.id, &path).await? };
    let now = house.now();
    edit_mount(house, volume, |mount| match grown {
        Grown::Done => {
            mount.fs_behind = false;
            mount.intent = None;
        }
        Grown::NeedsUnmount => {
            mount.fs_behind = true;
            let mut intent = Intent::new(now);
            intent.next_try = Intent::PARKED;
            intent.note =
                Some("this kernel grows the filesystem only unmounted: the next mount does it".into());
            mount.intent = Some(intent);
        }
    })
    .await
}

/// Whoever looks after a borrowed volume does not tell this house how large it has become.
async fn learn_size(house: &House, volume: &Volume, size: Bytes) -> Result<(), Error> {
    let record = house.journal.edit_family(volume.id, Durability::Lazy, |family, _| {
        if let Some(volume) = family.volume.as_mut() {
            volume.actual = Some(size);
            volume.wanted.size = CapacityRange::at_least(size);
        }
        Ok(())
    });
    record.await.map(drop)
}

async fn edit_mount(
    house: &House,
    volume: &Volume,
    mut edit: impl FnMut(&mut Mount) + Send,
) -> Result<(), Error> {
    house
        .journal
        .edit_family(volume.id, Durability::Lazy, |family, _| {
            if let Some(mount) = family.mounts.get_mut(house.node()) {
                edit(mount);
            }
            Ok(())
        })
        .await
        .map(drop)
}

/// What is bound for a publication, as far as the volume is still mounted; nothing where no path was asked for.
fn bound(house: &House, family: &Family, publication: &Publication) -> Option<Bind> {
    let Target::Path(to) = &publication.target else { return None };
    let mount = family.mounts.get(house.node());
    let from = mount.and_then(|mount| match mount.raw {
        true => mount.device.clone(),
        false => family.view().and_then(|view| view.path_on(house.node())),
    });
    Some(Bind {
        from: from.unwrap_or_default(),
        to: to.clone(),
        read_only: publication.read_only,
        device: mount.is_some_and(|mount| mount.raw),
        group: publication.group,
    })
}

pub(super) async fn bind(
    house: &Arc<House>,
    family: &Family,
    volume: &Volume,
    holder: &HolderId,
) -> Result<(), Error> {
    let key = (house.node().clone(), holder.clone());
    let Some(publication) = family.publications.get(&key) else { return Ok(()) };
    if !family.mounts.contains_key(house.node()) {
        return Ok(());
    }
    if let Some(bind) = bound(house, family, publication) {
        house.ports.host.bind(volume.id, &bind).await?;
    }
    house
        .journal
        .edit_family(volume.id, Durability::Lazy, |family, _| {
            if let Some(publication) = family.publications.get_mut(&key)
                && publication.state == PublicationState::Publishing
            {
                publication.state = PublicationState::Published;
                publication.intent = None;
            }
            Ok(())
        })
        .await
        .map(drop)
}

pub(super) async fn unbind(
    house: &Arc<House>,
    family: &Family,
    volume: &Volume,
    holder: &HolderId,
) -> Result<(), Error> {
    let key = (house.node().clone(), holder.clone());
    let Some(publication) = family.publications.get(&key) else { return Ok(()) };
    if let Some(bind) = bound(house, family, publication)
        && let Err(error) = house.ports.host.unbind(volume.id, &bind).await
    {
        warn!(volume.id = %volume.id, holder = %holder, error = %error, "could not take a bind away");
        return Err(error);
    }
    house
        .journal
        .edit_family(volume.id, Durability::Lazy, |family, _| {
            if family.publications.get(&key).is_some_and(|one| one.state == PublicationState::Leaving) {
                family.publications.remove(&key);
            }
            Ok(())
        })
        .await
        .map(drop)
}
