//! Delete: refuse while somebody holds the volume or something depends on it, else turn everything around and
//! wait until it is gone. What is not there is deleted.

use std::sync::Arc;

use crate::{
    drivers::{Sight, Subject},
    error::{Error, Outcome},
    family::Family,
    house::{House, Verdict},
    model::{AttachmentState, Dependant, Hold, Intent, MountState, Timestamp, VolumeState},
    ops::{Context, DeleteVolume},
    ports::store::Durability,
};

impl House {
    pub(crate) async fn delete(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &DeleteVolume,
    ) -> Result<Outcome<()>, Error> {
        let about = |error: Error| error.about(format!("volume {}", wish.volume));
        let Some(id) = self.find_volume(&wish.volume).await? else { return Ok(Outcome::Unchanged(())) };
        self.prune_dependants(id).await?;
        self.learn_attachments(id).await.map_err(about)?;
        let now = self.now();
        let watcher = self.drivers.watch(Subject::Volume(id));
        let (_, there) = self
            .journal
            .edit_family(id, Durability::Durable, |family, change| {
                if family.volume.is_none() {
                    return Ok(false);
                }
                change.frees_space();
                free(family)?;
                match wish.forget {
                    true => forget(family)?,
                    false => turn_around(family, now),
                }
                Ok(true)
            })
            .await
            .map_err(about)?;
        if !there {
            return Ok(Outcome::Unchanged(()));
        }
        self.settle(ctx, watcher, &["unmount", "detach", "delete"], |progress, _| match &progress.sight {
            Sight::Volume(family) if family.volume.is_none() => Verdict::Answer(Ok(Outcome::Changed(()))),
            _ => Verdict::Wait,
        })
        .await
        .map_err(about)
    }

    /// Lets go of dependants that are gone themselves: a record is never trusted to have been cleaned up.
    async fn prune_dependants(&self, id: crate::model::VolumeId) -> Result<(), Error> {
        let Some(volume) = self.journal.family(id).await?.value.volume else { return Ok(()) };
        let mut gone = Vec::new();
        for dependant in &volume.dependants {
            let there = match dependant {
                Dependant::Attachment(_) => true,
                Dependant::Snapshot(id) => self.journal.snapshot(*id).await?.value.is_some(),
                Dependant::Group(id) => self.journal.group(*id).await?.value.is_some(),
                Dependant::Clone(id) => self.journal.family(*id).await?.value.volume.is_some(),
            };
            if !there {
                gone.push(dependant.clone());
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        self.journal
            .edit_family(id, Durability::Lazy, |family, change| {
                change.frees_space();
                if let Some(volume) = family.volume.as_mut() {
                    volume.dependants.retain(|dependant| !gone.contains(dependant));
                }
                Ok(())
            })
            .await
            .map(drop)
    }
}

/// Refuses while the volume is in use.
fn free(family: &Family) -> Result<(), Error> {
    if family.is_held() {
        return Err(Error::in_use(format!(
            "it is held by {}: stop what uses it first (`kato volume why` tells more)",
            family.holders_text()
        )));
    }
    let asked = family.attachments.values().find(|attachment| attachment.hold == Hold::Asked);
    if let Some(attachment) = asked {
        return Err(Error::in_use(format!(
            "it is attached to node {}, as somebody asked for: let that be taken back first",
            attachment.node
        )));
    }
    let copies: Vec<String> = family
        .copies()
        .map(|dependant| match dependant {
            Dependant::Snapshot(id) => format!("snapshot {id}"),
            Dependant::Group(id) => format!("group {id} of snapshots that is being cut"),
            Dependant::Clone(id) => format!("volume {id} that is made from it"),
            Dependant::Attachment(node) => format!("node {node}"),
        })
        .collect();
    if copies.is_empty() {
        return Ok(());
    }
    Err(Error::in_use(format!("{} depends on it: remove that first", copies.join(", "))))
}

fn turn_around(family: &mut Family, now: Timestamp) {
    for mount in family.mounts.values_mut() {
        mount.state = MountState::Unmounting;
        mount.intent = Some(Intent::new(now));
    }
    for attachment in family.attachments.values_mut() {
        if attachment.state != AttachmentState::Detaching {
            attachment.state = AttachmentState::Detaching;
            attachment.intent = Some(Intent::new(now));
        }
    }
    if let Some(volume) = family.volume.as_mut()
        && volume.state != VolumeState::Deleting
    {
        let attempts = volume.intent.as_ref().map_or(0, |intent| intent.attempts);
        volume.state = VolumeState::Deleting;
        volume.intent = Some(Intent { attempts, ..Intent::new(now) });
    }
}

/// Removes the records alone: a person has confirmed that there is nothing more to do.
fn forget(family: &mut Family) -> Result<(), Error> {
    if family.volume.as_ref().is_some_and(|volume| volume.state == VolumeState::Creating) {
        return Err(Error::precondition(
            "it is still being made: remove it without --forget, so that what its backend makes is deleted too",
        ));
    }
    if !family.mounts.is_empty() {
        return Err(Error::precondition(
            "it is still mounted here: unmount it before its record is forgotten",
        ));
    }
    family.attachments.clear();
    family.volume = None;
    Ok(())
}
