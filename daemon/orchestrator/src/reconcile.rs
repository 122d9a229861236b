//! The start, and the tidying while the house stands. Neither has a path of its own: both only correct
//! records and ring drivers.
//!
//! **Start.** Mounts of another boot are gone, whatever their records say: they and their holders are taken off.
//! Mounts of this boot that the machine does not show are made again for the holders that have them. What was taken
//! from this node while it did not answer is taken down. Every mount is thawed, in case a cut was cut short. All holders become doubtful, because the answer of each may
//! not have arrived.
//! Then every family on the work index gets its driver.
//!
//! **Tidying.** Mounts that nobody holds are taken down after a while. A doubtful holder is reaped when its path
//! has been in no other mount namespace for long enough; holders without an id never are, but for those that a
//! recovery found by what stood mounted, and knows nothing of. Tombstones look for
//! their token until their backend has settled.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use tracing::{info, warn};

use crate::{
    drivers::Subject,
    error::Error,
    house::House,
    journal::Journal,
    model::{
        AttachmentState, Hold, Intent, Mount, MountState, Node, NodeId, NodeState, Snapshot, Timestamp,
        Tombstone, VolumeId,
    },
    ops::{
        copy::TEMPORARY,
        unmount::{leave, take_down},
    },
    ports::store::Durability,
    records::{self, keys},
    tombstones,
};

/// Takes up what the last life left.
pub(crate) async fn start(house: &Arc<House>) -> Result<(), Error> {
    register(house).await?;
    // One stalled volume keeps nothing from starting: what cannot be seen now is taken for what the records say.
    let mounted: Option<BTreeSet<String>> = match house.ports.host.survey().await {
        Ok(survey) => {
            house.end_old_readings(&survey.devices).await?;
            Some(survey.mounts.into_iter().map(|(_, path)| path).collect())
        }
        Err(error) => {
            warn!(error = %error, "could not see what is mounted here, and went on from the records");
            None
        }
    };
    for id in mounts_here(house).await? {
        take_up(house, id, mounted.as_ref()).await?;
    }
    drop_temporaries(house).await?;
    house.ring_work().await
}

/// Has snapshots deleted that were cut for a copy whose wish was never recorded: whoever asked for it is gone.
async fn drop_temporaries(house: &Arc<House>) -> Result<(), Error> {
    let mut after = None;
    loop {
        let page = house.journal.page(keys::SNAPSHOTS, after.as_deref(), 1_000).await?;
        let full = page.len() == 1_000;
        after = page.last().map(|entry| entry.key.clone());
        for entry in &page {
            let snapshot: Snapshot = records::decode(entry)?;
            if snapshot.labels.contains_key(TEMPORARY) && snapshot.dependants.is_empty() {
                house.drop_temporary(snapshot.id).await?;
            }
        }
        if !full {
            return Ok(());
        }
    }
}

/// The number of the life that a node is to begin now.
pub(crate) async fn next_session(journal: &Journal, node: &NodeId) -> Result<u64, Error> {
    let known = journal.record::<Node>(keys::node(node)).await?.value;
    Ok(known.map_or(1, |node| node.session.saturating_add(1)))
}

/// Records this life of this node, and answers its number.
pub(crate) async fn register(house: &House) -> Result<u64, Error> {
    let key = keys::node(house.node());
    let seen = house.journal.record::<Node>(key.clone()).await?;
    let session = seen.value.as_ref().map_or(1, |node| node.session.saturating_add(1));
    let node = Node {
        id: house.node().clone(),
        boot_id: house.boot_id.clone(),
        session,
        topology: house.config.topology.clone(),
        names: house.config.names.clone(),
        state: NodeState::Live,
        drained: seen.value.as_ref().is_some_and(|node| node.drained),
        schema: records::SCHEMA,
        seen: house.now(),
    };
    let mut change = crate::journal::Change::default();
    change.touch(&seen, key, &node);
    change.frees_space();
    house.journal.commit(change, Durability::Lazy).await?;
    Ok(session)
}

/// The volumes that are mounted on this node by the records, or that it lost.
pub(crate) async fn mounts_here(house: &House) -> Result<Vec<VolumeId>, Error> {
    let segments = house.journal.segments(&keys::node_mounts(house.node())).await?;
    Ok(segments.iter().filter_map(|segment| VolumeId::parse(segment)).collect())
}

async fn take_up(house: &Arc<House>, id: VolumeId, mounted: Option<&BTreeSet<String>>) -> Result<(), Error> {
    let node = house.node().clone();
    let family = house.journal.family(id).await?.value;
    if family.lost.contains_key(&node) {
        house.ring(Subject::Volume(id), false);
    }
    let Some(mount) = family.mounts.get(&node) else { return Ok(()) };
    let same_boot = mount.boot_id == house.boot_id;
    let shown = mount.path.as_ref().is_some_and(|path| mounted.is_none_or(|mounted| mounted.contains(path)));
    if same_boot
        && shown
        && mount.state == MountState::Mounted
        && let Some(path) = &mount.path
        && let Err(error) = house.ports.host.thaw(id, path).await
    {
        // Its watchdog has thawed it, or will; its next cut finds out.
        warn!(volume.id = %id, error = %error, "could not see to it that a volume is not frozen");
    }
    let now = house.now();
    house
        .journal
        .edit_family(id, Durability::Durable, |family, change| {
            change.frees_space();
            if !same_boot {
                family.publications.retain(|(of, _), _| *of != node);
                family.mounts.remove(&node);
                if let Some(attachment) = family.attachments.get_mut(&node)
                    && attachment.hold != Hold::Asked
                {
                    attachment.state = AttachmentState::Detaching;
                    attachment.intent = Some(Intent::new(now));
                    attachment.lost_its_client();
                }
                return Ok(());
            }
            let stands = family.stands(&node);
            let Some(mount) = family.mounts.get_mut(&node) else { return Ok(()) };
            if stands && !shown {
                mount.state = MountState::Mounting;
                mount.intent = Some(Intent::new(now));
            }
            // Nobody knows whose answer arrived. Those who were told have the path, and are seen to have it. The
            // time of doubt begins anew, because nobody has looked meanwhile.
            for publication in family.publications.values_mut().filter(|one| one.node == node) {
                if publication.caller.is_some() || publication.doubtful_since.is_some() {
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
    house.end_readings(house.now()).await;
    let here = mounts_here(house).await?;
    house.seen_elsewhere.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| here.contains(id));
    for id in here {
        if let Err(error) = tidy_mount(house, id).await {
            warn!(volume.id = %id, error = %error, "could not tidy a mount, trying again later");
        }
    }
    if !house.is_steward() {
        return Ok(());
    }
    for tombstone in house.journal.all::<Tombstone>(keys::TOMBSTONES).await? {
        if let Err(error) = tombstones::look_for(house, &tombstone).await {
            warn!(volume.id = %tombstone.id, backend = %tombstone.backend, error = %error, "could not look for what a lost create may have made");
        }
    }
    Ok(())
}

async fn tidy_mount(house: &Arc<House>, id: VolumeId) -> Result<(), Error> {
    let node = house.node().clone();
    let family = house.journal.family(id).await?.value;
    if family.lost.contains_key(&node) {
        house.ring(Subject::Volume(id), false);
    }
    let Some(mount) = family.mounts.get(&node) else { return Ok(()) };
    let now = house.now();
    let held = family.holders(&node).next().is_some();
    if matches!(mount.state, MountState::Broken(_)) && !held {
        house.ring(Subject::Volume(id), false);
        return Ok(());
    }
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
            // Whoever cannot see a caller's process sees its mounts no better: nothing shows that it is gone.
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
    let alone = family.holders(&node).count() == 1;
    let seen = {
        let mut seen = house.seen_elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        if !elsewhere.is_empty() {
            seen.insert(id, now);
        }
        seen.get(&id).copied()
    };
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
                    // Somebody has it. The only holder whose process we know is who that is; of others nobody can
                    // tell, and the time of doubt counts from when they all are gone.
                    if alone && publication.caller.is_some() {
                        publication.doubtful_since = None;
                    }
                    continue;
                }
                let since = *publication.doubtful_since.get_or_insert(now);
                if now.since(seen.map_or(since, |seen| seen.max(since))) >= limit {
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
