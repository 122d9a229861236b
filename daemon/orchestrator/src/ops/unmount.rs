//! Unmount: the holder holds no more, durably, and what nobody holds is taken down. The goal is that the
//! holder's path is gone and its data synced; a device that somebody else still has stays connected and is
//! taken away later.

use std::sync::Arc;

use crate::{
    drivers::{Progress, Sight, Subject},
    error::{Error, Kind, Outcome},
    family::Family,
    house::{House, Verdict},
    model::{
        AttachmentState, Hold, HolderId, Intent, Keeping, MountState, NodeId, PublicationState, Target,
        Timestamp, VolumeId,
    },
    ops::{Context, DeleteVolume, UnmountVolume},
    ports::store::Durability,
    replica,
};

impl House {
    pub(crate) async fn unmount(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &UnmountVolume,
    ) -> Result<Outcome<()>, Error> {
        let given_back = self.unmount_now(ctx, wish).await;
        let (Err(error), Some(replica)) = (&given_back, &self.replica) else { return given_back };
        if replica::is_away(error) && self.records_answer().await.is_err() {
            let about = |error: Error| error.about(format!("volume {}", wish.volume));
            return self.owe(replica, wish).await.map_err(about);
        }
        given_back
    }

    async fn unmount_now(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &UnmountVolume,
    ) -> Result<Outcome<()>, Error> {
        let about = |error: Error| error.about(format!("volume {}", wish.volume));
        let Some(id) = self.known_volume(&wish.volume).await? else { return Ok(Outcome::Unchanged(())) };
        let outcome = self.give_back(ctx, id, wish).await.map_err(about)?;
        if self.ended_with_its_holder(id).await? {
            // It was made for this holder, and nobody else knows of it.
            return self.delete(ctx, &DeleteVolume { volume: wish.volume.clone(), forget: false }).await;
        }
        Ok(outcome)
    }

    /// Whether a volume was made for one holder and has none any more.
    async fn ended_with_its_holder(&self, id: VolumeId) -> Result<bool, Error> {
        let family = self.journal.family(id).await?.value;
        let ephemeral = family.volume.as_ref().is_some_and(|volume| volume.keeping == Keeping::Ephemeral);
        Ok(ephemeral && !family.is_held())
    }

    async fn give_back(
        self: &Arc<Self>,
        ctx: &Context,
        id: VolumeId,
        wish: &UnmountVolume,
    ) -> Result<Outcome<()>, Error> {
        let node = self.node().clone();
        let now = self.now();
        let watcher = self.drivers.watch(Subject::Volume(id));
        let (family, left) = self
            .journal
            .edit_family(id, Durability::Durable, |family, change| {
                change.frees_space();
                Ok(leave(family, &node, &wish.holder, wish.all, now))
            })
            .await?;
        // Whoever asks again after he hung up waits for the same end.
        if !left && !family.is_going(&node) {
            return Ok(Outcome::Unchanged(()));
        }
        let leaving = family
            .publications
            .get(&(node.clone(), wish.holder.clone()))
            .is_some_and(|publication| publication.state == PublicationState::Leaving);
        let going = family.is_going(&node);
        if !leaving && !going {
            return Ok(Outcome::Changed(()));
        }
        self.settle(ctx, watcher, &["unbind", "unmount"], |progress, failure| {
            left_now(progress, failure, &node, &wish.holder)
        })
        .await
        .map(Outcome::Changed)
    }
}

/// Takes one count, or all, from a holder; with the last holder the mount begins to go. False if it held nothing.
pub(crate) fn leave(
    family: &mut Family,
    node: &NodeId,
    holder: &HolderId,
    all: bool,
    now: Timestamp,
) -> bool {
    let key = (node.clone(), holder.clone());
    let Some(publication) = family.publications.get_mut(&key) else { return false };
    if publication.count > 1 && !all {
        publication.count -= 1;
        return true;
    }
    match publication.target {
        Target::Shared => {
            family.publications.remove(&key);
        }
        Target::Path(_) if publication.state != PublicationState::Leaving => {
            publication.state = PublicationState::Leaving;
            publication.intent = Some(Intent::new(now));
        }
        Target::Path(_) => {}
    }
    if family.holders(node).all(|one| one.state == PublicationState::Leaving) {
        take_down(family, node, now);
    }
    true
}

/// Lets a node's mount and attachment go. A broken mount stays broken until it is gone.
pub(crate) fn take_down(family: &mut Family, node: &NodeId, now: Timestamp) {
    let broken = family.mounts.get(node).is_some_and(|mount| matches!(mount.state, MountState::Broken(_)));
    if let Some(mount) = family.mounts.get_mut(node)
        && mount.state != MountState::Unmounting
    {
        mount.idle_since = None;
        if matches!(mount.state, MountState::Broken(_)) {
            mount.intent.get_or_insert_with(|| Intent::new(now));
        } else {
            mount.state = MountState::Unmounting;
            mount.intent = Some(Intent::new(now));
        }
    }
    if let Some(attachment) = family.attachments.get_mut(node)
        && attachment.state != AttachmentState::Detaching
        && attachment.hold != Hold::Asked
    {
        attachment.state = AttachmentState::Detaching;
        attachment.intent = Some(Intent::new(now));
        if broken {
            attachment.lost_its_client();
        }
    }
}

/// An unmount's goal: the mount is gone, somebody new has it, or it is busy elsewhere and goes later.
fn left_now(progress: &Progress, failure: Option<&Error>, node: &NodeId, holder: &HolderId) -> Verdict<()> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let bound = family
        .publications
        .get(&(node.clone(), holder.clone()))
        .is_some_and(|publication| publication.state == PublicationState::Leaving);
    if bound {
        return Verdict::Wait;
    }
    let going = family.is_going(node);
    let busy = failure.is_some_and(|error| error.kind == Kind::InUse);
    if !going || busy { Verdict::Answer(Ok(())) } else { Verdict::Wait }
}
