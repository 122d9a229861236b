//! The start, and the tidying while the house stands. Neither has a path of its own: both only correct
//! records and ring drivers.
//!
//! **Start.** Mounts of another boot are gone, whatever their records say: they and their holders are taken off.
//! Mounts of this boot that the machine does not show are made again for the holders that have them. Every
//! mount is thawed, in case a cut was cut short. Holders whose answer may not have arrived become doubtful.
//! Then every family on the work index gets its driver.
//!
//! **Tidying.** Mounts that nobody holds are taken down after a while. A doubtful holder is reaped when its path
//! has been in no other mount namespace for long enough; holders without an id never are, but for those that a
//! recovery found by what stood mounted, and knows nothing of. Tombstones look for
//! their token until their backend has settled.

use std::{collections::BTreeSet, sync::Arc};

use tracing::{info, warn};

use crate::{
    drivers::Subject,
    error::Error,
    house::House,
    model::{
        AttachmentState, Caller, Intent, Mount, MountState, Node, NodeState, PublicationState, SnapshotId,
        Timestamp, Tombstone, VolumeId,
    },
    ops::unmount::{leave, take_down},
    ports::{
        backend::{Effect, Which},
        store::Durability,
    },
    records::{self, keys},
};

/// Takes up what the last life left.
pub(crate) async fn start(house: &Arc<House>) -> Result<(), Error> {
    register(house).await?;
    let survey = house.ports.host.survey().await?;
    let mounted: BTreeSet<String> = survey.mounts.into_iter().map(|(_, path)| path).collect();
    for id in mounts_here(house).await? {
        take_up(house, id, &mounted).await?;
    }
    for segment in house.journal.segments(keys::WORK_VOLUMES).await? {
        if let Some(id) = VolumeId::parse(&segment) {
            house.ring(Subject::Volume(id), false);
        }
    }
    for segment in house.journal.segments(keys::WORK_SNAPSHOTS).await? {
        if let Some(id) = SnapshotId::parse(&segment) {
            house.ring(Subject::Snapshot(id), false);
        }
    }
    Ok(())
}

/// Records this life of this node.
async fn register(house: &House) -> Result<(), Error> {
    let key = keys::node(house.node());
    let seen = house.journal.record::<Node>(key.clone()).await?;
    let node = Node {
        id: house.node().clone(),
        boot_id: house.boot_id.clone(),
        session: seen.value.as_ref().map_or(1, |node| node.session.saturating_add(1)),
        topology: house.config.topology.clone(),
        names: seen.value.as_ref().map(|node| node.names.clone()).unwrap_or_default(),
        state: NodeState::Live,
        schema: records::SCHEMA,
        seen: house.now(),
    };
    let mut change = crate::journal::Change::default();
    change.touch(&seen, key, &node);
    change.frees_space();
    house.journal.commit(change, Durability::Lazy).await
}

/// The volumes that are mounted on this node by the records.
pub(crate) async fn mounts_here(house: &House) -> Result<Vec<VolumeId>, Error> {
    let segments = house.journal.segments(&keys::node_mounts(house.node())).await?;
    Ok(segments.iter().filter_map(|segment| VolumeId::parse(segment)).collect())
}

async fn take_up(house: &Arc<House>, id: VolumeId, mounted: &BTreeSet<String>) -> Result<(), Error> {
    let node = house.node().clone();
    let family = house.journal.family(id).await?.value;
    let Some(mount) = family.mounts.get(&node) else { return Ok(()) };
    let same_boot = mount.boot_id == house.boot_id;
    let shown = mount.path.as_ref().is_some_and(|path| mounted.contains(path));
    if same_boot
        && shown
        && mount.state == MountState::Mounted
        && let Some(path) = &mount.path
    {
        house.ports.host.thaw(id, path).await?;
    }
    let mut silent: Vec<Caller> = Vec::new();
    for caller in family.holders(&node).filter_map(|one| one.caller.clone()) {
        if !house.ports.host.alive(&caller).await {
            silent.push(caller);
        }
    }
    let now = house.now();
    house
        .journal
        .edit_family(id, Durability::Durable, |family, change| {
            change.frees_space();
            if !same_boot {
                family.publications.retain(|(of, _), _| *of != node);
                family.mounts.remove(&node);
                if let Some(attachment) = family.attachments.get_mut(&node) {
                    attachment.state = AttachmentState::Detaching;
                    attachment.intent = Some(Intent::new(now));
                }
                return Ok(());
            }
            let Some(mount) = family.mounts.get_mut(&node) else { return Ok(()) };
            if mount.state == MountState::Mounted && !shown {
                mount.state = MountState::Mounting;
                mount.intent = Some(Intent::new(now));
            }
            for publication in family.publications.values_mut().filter(|one| one.node == node) {
                let untold = publication.state == PublicationState::Publishing;
                let gone = publication.caller.as_ref().is_some_and(|caller| silent.contains(caller));
                if publication.caller.is_some() && (untold || gone) && publication.doubtful_since.is_none() {
                    publication.doubtful_since = Some(now);
                }
            }
            Ok(())
        })
        .await?;
    if !same_boot {
        info!(volume.id = %id, "took a mount of an earlier boot off the records");
        house.ring(Subject::Volume(id), false);
    }
    Ok(())
}

/// Takes down what is over.
pub(crate) async fn tidy(house: &Arc<House>) -> Result<(), Error> {
    for id in mounts_here(house).await? {
        if let Err(error) = tidy_mount(house, id).await {
            warn!(volume.id = %id, error = %error, "could not tidy a mount, trying again later");
        }
    }
    for entry in house.journal.page(keys::TOMBSTONES, None, 1_000).await? {
        let tombstone: Tombstone = records::decode(&entry)?;
        if let Err(error) = look_for(house, &tombstone).await {
            warn!(volume.id = %tombstone.id, backend = %tombstone.backend, error = %error, "could not look for what a lost create may have made");
        }
    }
    Ok(())
}

async fn tidy_mount(house: &Arc<House>, id: VolumeId) -> Result<(), Error> {
    let node = house.node().clone();
    let family = house.journal.family(id).await?.value;
    let Some(mount) = family.mounts.get(&node) else { return Ok(()) };
    let now = house.now();
    let held = family.holders(&node).next().is_some();
    if !held && mount.state != MountState::Unmounting {
        let idle = now.since(mount.idle_since.unwrap_or(now));
        if mount.idle_since.is_none() || idle >= house.config.idle_grace {
            return idle_on(house, id, mount.idle_since.is_some(), now).await;
        }
        return Ok(());
    }
    doubt(house, id, &family, mount, now).await
}

/// Notes that nobody holds a mount, or takes it down.
async fn idle_on(house: &Arc<House>, id: VolumeId, over: bool, now: Timestamp) -> Result<(), Error> {
    let node = house.node().clone();
    house
        .journal
        .edit_family(id, Durability::Durable, |family, change| {
            change.frees_space();
            if family.holders(&node).next().is_some() {
                return Ok(());
            }
            match family.mounts.get_mut(&node) {
                Some(_) if over => take_down(family, &node, now),
                Some(mount) => mount.idle_since = Some(now),
                None => {}
            }
            Ok(())
        })
        .await?;
    house.ring(Subject::Volume(id), false);
    Ok(())
}

/// Looks after holders that may be gone.
async fn doubt(
    house: &Arc<House>,
    id: VolumeId,
    family: &crate::family::Family,
    mount: &Mount,
    now: Timestamp,
) -> Result<(), Error> {
    let node = house.node().clone();
    let mut dead = Vec::new();
    for publication in family.holders(&node) {
        let may_be_gone = match &publication.caller {
            Some(caller) if caller.pid == 0 => false,
            Some(caller) => publication.doubtful_since.is_some() || !house.ports.host.alive(caller).await,
            // Only a recovery doubts a holder that has no process: it does not know who that was.
            None => publication.doubtful_since.is_some(),
        };
        if may_be_gone {
            dead.push(publication.holder.clone());
        }
    }
    if dead.is_empty() {
        return Ok(());
    }
    let path = mount.path.clone().unwrap_or_default();
    let elsewhere = house.ports.host.holders(id, &path).await?;
    let limit = house.config.reap_after;
    let (_, reaped) = house
        .journal
        .edit_family(id, Durability::Durable, |family, change| {
            change.frees_space();
            let mut reaped = Vec::new();
            for holder in &dead {
                let Some(publication) = family.publications.get_mut(&(node.clone(), holder.clone())) else {
                    continue;
                };
                if !elsewhere.is_empty() {
                    // Somebody has it: the doubt begins anew when they are gone.
                    publication.doubtful_since = publication.doubtful_since.map(|_| now);
                    continue;
                }
                let since = *publication.doubtful_since.get_or_insert(now);
                if now.since(since) >= limit {
                    reaped.push(holder.clone());
                }
            }
            for holder in &reaped {
                leave(family, &node, holder, true, now);
            }
            Ok(reaped)
        })
        .await?;
    for holder in reaped {
        warn!(volume.id = %id, holder = %holder, "reaped a holder: its process is gone and nobody else has its path");
        house.ring(Subject::Volume(id), false);
    }
    Ok(())
}

/// Deletes what a create that was never heard may have made.
async fn look_for(house: &House, tombstone: &Tombstone) -> Result<(), Error> {
    let backend = house.backend(&tombstone.backend).await?;
    let which = Which { token: tombstone.token.clone(), handle: tombstone.handle.clone() };
    let resume = tombstone.intent.resume.clone();
    if let Effect::Pending(_) = backend.delete(which, resume).await? {
        return Ok(());
    }
    if house.now() < tombstone.until {
        return Ok(());
    }
    let mut change = crate::journal::Change::default();
    change.delete(keys::tombstone(tombstone.id));
    change.frees_space();
    house.journal.commit(change, Durability::Lazy).await
}
