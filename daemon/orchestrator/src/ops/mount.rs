//! Mount: record that somebody holds the volume on this node, wait until it can, tell where.
//!
//! **A holder exists only if it was told.** A mount that ends with an error first withdraws its publication,
//! durably. Attach and mount then go on as nobody's, for the next holder to find done, or for `tidy` to take
//! down after a while.

use std::sync::Arc;

use tracing::warn;

use crate::{
    drivers::{Progress, Sight, Subject},
    error::{Error, Outcome},
    family::Family,
    house::{House, Verdict},
    model::{
        Attachment, AttachmentState, Caller, Dependant, HolderId, Intent, Mount, MountState, NodeId,
        Publication, PublicationState, Target, Timestamp, VolumeId, VolumeState,
    },
    ops::{Context, MountVolume, MountedVolume},
    ports::store::Durability,
};

/// The steps whose failures are a mount's.
const STEPS: [&str; 4] = ["attach", "format", "mount", "bind"];

/// What became of a wish when it was recorded.
enum Recorded {
    /// The holder holds already, with all that belongs to it.
    Holds(MountedVolume),
    /// It is on its way.
    Wait,
    /// Something that is going away has to be gone first.
    Leaving,
}

impl House {
    pub(crate) async fn mount(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &MountVolume,
    ) -> Result<Outcome<MountedVolume>, Error> {
        let about = |error: Error| error.about(format!("volume {}", wish.name));
        let restarted = self.is_restarted(wish).await?;
        for _ in 0..64 {
            let id = self.volume_to_mount(ctx, wish).await?;
            let watcher = self.drivers.watch(Subject::Volume(id));
            let now = self.now();
            let recorded = self
                .journal
                .edit_family(id, Durability::Durable, |family, _| {
                    self.record_holder(family, wish, restarted, now)
                })
                .await
                .map_err(about)?
                .1;
            match recorded {
                Recorded::Holds(mounted) => return Ok(Outcome::Unchanged(mounted)),
                Recorded::Wait => {
                    let node = self.node().clone();
                    let answer = self
                        .settle(ctx, watcher, &STEPS, |progress, _| mounted(progress, &node, &wish.holder))
                        .await;
                    if answer.is_err() {
                        self.withdraw(id, wish).await.map_err(about)?;
                    }
                    return answer.map(Outcome::Changed).map_err(about);
                }
                Recorded::Leaving => {
                    let node = self.node().clone();
                    self.settle(ctx, watcher, &["unmount", "unbind", "detach"], |progress, _| {
                        has_left(progress, &node, &wish.holder)
                    })
                    .await
                    .map_err(about)?;
                }
            }
        }
        Err(about(crate::journal::contended()))
    }

    /// The volume of that name, made if it may be, and ready.
    async fn volume_to_mount(self: &Arc<Self>, ctx: &Context, wish: &MountVolume) -> Result<VolumeId, Error> {
        if let Some(id) = self.journal.volume_id(&wish.name).await? {
            let state = self.journal.family(id).await?.value.volume.map(|volume| volume.state);
            if matches!(state, Some(VolumeState::Ready | VolumeState::Lost)) {
                return Ok(id);
            }
            if state == Some(VolumeState::Creating) {
                let wish = crate::ops::CreateVolume::named(wish.name.clone());
                return self.create(ctx, &wish).await.map(|outcome| outcome.into_inner().volume.id);
            }
        }
        match &wish.implicit {
            Some(create) => self.create(ctx, create).await.map(|outcome| outcome.into_inner().volume.id),
            None => Err(unknown(&wish.name)),
        }
    }

    /// Whether the holder's id comes from another life of its caller than the one that we know it from. Then
    /// what that life held, it holds no more.
    async fn is_restarted(&self, wish: &MountVolume) -> Result<bool, Error> {
        let Some(caller) = wish.caller.as_ref().filter(|_| wish.counts) else { return Ok(false) };
        let Some(id) = self.journal.volume_id(&wish.name).await? else { return Ok(false) };
        let family = self.journal.family(id).await?.value;
        let known = family.publications.get(&(self.node().clone(), wish.holder.clone()));
        match known.and_then(|publication| publication.caller.as_ref()) {
            Some(before) if before != caller => Ok(!self.ports.host.alive(before).await),
            _ => Ok(false),
        }
    }

    fn record_holder(
        &self,
        family: &mut Family,
        wish: &MountVolume,
        restarted: bool,
        now: Timestamp,
    ) -> Result<Recorded, Error> {
        let node = self.node();
        usable(family, wish, node)?;
        if family.attachments.get(node).is_some_and(|one| one.state == AttachmentState::Detaching)
            && !family.mounts.contains_key(node)
        {
            return Ok(Recorded::Leaving);
        }
        let key = (node.clone(), wish.holder.clone());
        match family.publications.get_mut(&key) {
            Some(publication) if publication.state == PublicationState::Leaving => {
                return Ok(Recorded::Leaving);
            }
            Some(publication) => {
                same_wish(publication, wish)?;
                count(publication, wish, restarted);
            }
            None => {
                let publication = publication(family, wish, node, now);
                family.publications.insert(key.clone(), publication);
            }
        }
        stand_on(family, node, wish.read_only, &self.boot_id, now);
        let ready = family.mounts.get(node).is_some_and(|mount| mount.state == MountState::Mounted);
        let Some(publication) = family.publications.get_mut(&key) else { return Ok(Recorded::Wait) };
        if ready && publication.target == Target::Shared {
            publication.state = PublicationState::Published;
            publication.intent = None;
        }
        if publication.state != PublicationState::Published || !ready {
            return Ok(Recorded::Wait);
        }
        Ok(path(family, node, &wish.holder)
            .map_or(Recorded::Wait, |path| Recorded::Holds(MountedVolume { path })))
    }

    /// Takes back what a mount recorded that is answered with an error.
    async fn withdraw(self: &Arc<Self>, id: VolumeId, wish: &MountVolume) -> Result<(), Error> {
        let node = self.node().clone();
        let now = self.now();
        let key = (node.clone(), wish.holder.clone());
        let withdrawn = self
            .journal
            .edit_family(id, Durability::Durable, |family, change| {
                change.frees_space();
                let Some(publication) = family.publications.get_mut(&key) else { return Ok(()) };
                if publication.count > 1 {
                    publication.count -= 1;
                } else if publication.target == Target::Shared {
                    family.publications.remove(&key);
                } else {
                    publication.state = PublicationState::Leaving;
                    publication.intent = Some(Intent::new(now));
                }
                let nobody = family.holders(&node).next().is_none();
                if let Some(mount) = family.mounts.get_mut(&node).filter(|_| nobody) {
                    mount.idle_since = Some(now);
                }
                Ok(())
            })
            .await;
        if let Err(error) = &withdrawn {
            warn!(volume.id = %id, holder = %wish.holder, error = %error, "could not withdraw a holder that was not told");
        }
        self.ring(Subject::Volume(id), false);
        withdrawn.map(drop)
    }
}

pub(crate) fn unknown(name: &crate::model::VolumeName) -> Error {
    Error::not_found("there is no such volume: `kato volume ls` shows all").about(format!("volume {name}"))
}

/// Refuses what this volume cannot do now.
fn usable(family: &Family, wish: &MountVolume, node: &NodeId) -> Result<(), Error> {
    let Some(volume) = family.volume.as_ref() else { return Err(unknown(&wish.name)) };
    match volume.state {
        VolumeState::Ready => {}
        VolumeState::Lost => {
            return Err(Error::precondition(
                "its backend says that it is gone: bring it back, or remove the record with `kato volume rm --forget`",
            ));
        }
        VolumeState::Creating | VolumeState::Deleting => return Err(unknown(&wish.name)),
    }
    if let Some(other) = family.attachments.keys().find(|other| *other != node) {
        return Err(Error::in_use(format!(
            "it is attached to node {other}: stop what uses it there first (`kato volume why {}` tells who)",
            wish.name
        )));
    }
    let Some(mount) = family.mounts.get(node) else { return Ok(()) };
    if let MountState::Broken(why) = &mount.state {
        return Err(Error::precondition(format!(
            "it is cut off from its bytes ({why}) and still held by {}: stop those, then it is repaired",
            family.holders_text()
        )));
    }
    if mount.read_only && !wish.read_only {
        return Err(Error::in_use(format!(
            "it is mounted read-only for {}: stop those before it is written",
            family.holders_text()
        )));
    }
    Ok(())
}

/// A holder that is known may ask again, with the same words.
fn same_wish(publication: &Publication, wish: &MountVolume) -> Result<(), Error> {
    if publication.target == wish.target && publication.read_only == wish.read_only {
        return Ok(());
    }
    Err(Error::already_exists(format!("the holder {} has it already, in another way", wish.holder)))
}

/// Counts a holder that is told again.
fn count(publication: &mut Publication, wish: &MountVolume, restarted: bool) {
    publication.count = match (wish.counts, restarted) {
        (true, false) => publication.count.saturating_add(1),
        _ => 1,
    };
    publication.caller = wish.caller.clone().or_else(|| publication.caller.clone());
    publication.doubtful_since = None;
}

fn publication(family: &Family, wish: &MountVolume, node: &NodeId, now: Timestamp) -> Publication {
    let caller: Option<Caller> = wish.caller.clone().filter(|_| wish.counts);
    Publication {
        volume: family.id,
        node: node.clone(),
        holder: wish.holder.clone(),
        count: 1,
        target: wish.target.clone(),
        read_only: wish.read_only,
        state: PublicationState::Publishing,
        caller,
        since: now,
        doubtful_since: None,
        intent: Some(Intent::new(now)),
    }
}

/// Wishes for what a publication stands on, as far as it is not there, and turns around what is on its way down.
pub(crate) fn stand_on(family: &mut Family, node: &NodeId, read_only: bool, boot_id: &str, now: Timestamp) {
    let Some(volume) = family.volume.as_mut() else { return };
    volume.dependants.insert(Dependant::Attachment(node.clone()));
    let connection = volume.connection.clone();
    let attachment = family.attachments.entry(node.clone()).or_insert_with(|| Attachment {
        volume: volume.id,
        node: node.clone(),
        state: AttachmentState::Attaching,
        connection: None,
        client: None,
        fencing_token: now.0,
        read_only,
        intent: Some(Intent::new(now)),
    });
    if connection.is_some() || attachment.state == AttachmentState::Detaching {
        // What needs no attaching is attached by saying so. A detach only begins once the mount is gone, so
        // one that is wished beside a mount can be turned around.
        attachment.connection = connection.or_else(|| attachment.connection.take());
        attachment.state = AttachmentState::Attached;
        attachment.intent = None;
    }
    let mount = family.mounts.entry(node.clone()).or_insert_with(|| Mount {
        volume: volume.id,
        node: node.clone(),
        state: MountState::Mounting,
        boot_id: boot_id.to_owned(),
        path: None,
        device: None,
        read_only,
        idle_since: None,
        fs_behind: false,
        intent: Some(Intent::new(now)),
    });
    mount.idle_since = None;
    match mount.state {
        MountState::Unmounting | MountState::Mounting => {
            mount.state = MountState::Mounting;
            mount.intent = Some(Intent::new(now));
        }
        MountState::Mounted | MountState::Broken(_) => {}
    }
}

/// Where a holder finds the data.
fn path(family: &Family, node: &NodeId, holder: &HolderId) -> Option<String> {
    let publication = family.publications.get(&(node.clone(), holder.clone()))?;
    match &publication.target {
        Target::Path(path) => Some(path.clone()),
        Target::Shared => family.view()?.path_on(node),
    }
}

/// A mount's goal.
fn mounted(progress: &Progress, node: &NodeId, holder: &HolderId) -> Verdict<MountedVolume> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let Some(publication) = family.publications.get(&(node.clone(), holder.clone())) else {
        return Verdict::Answer(Err(Error::precondition(
            "the mount was taken back by somebody else while it was made",
        )));
    };
    let ready = family.mounts.get(node).is_some_and(|mount| mount.state == MountState::Mounted);
    if publication.state != PublicationState::Published || !ready {
        return Verdict::Wait;
    }
    path(family, node, holder).map_or(Verdict::Wait, |path| Verdict::Answer(Ok(MountedVolume { path })))
}

fn has_left(progress: &Progress, node: &NodeId, holder: &HolderId) -> Verdict<()> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let leaving = family
        .publications
        .get(&(node.clone(), holder.clone()))
        .is_some_and(|publication| publication.state == PublicationState::Leaving);
    let detaching = family.attachments.get(node).is_some_and(|one| one.state == AttachmentState::Detaching);
    if leaving || (detaching && !family.mounts.contains_key(node)) {
        Verdict::Wait
    } else {
        Verdict::Answer(Ok(()))
    }
}
