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
    house::{House, Verdict, abandoned},
    model::{
        Attachment, AttachmentState, Caller, Connection, Dependant, Fence, FsState, Hold, HolderId, Intent,
        Keeping, Mount, MountState, NodeId, Publication, PublicationState, Purpose, Target, Timestamp,
        VolumeId, VolumeRef, VolumeState,
    },
    ops::{Context, CreateVolume, MountVolume, MountedVolume, unmount::take_down},
    ports::store::Durability,
};

/// The steps whose failures are a mount's.
const STEPS: [&str; 5] = ["take-down-lost", "attach", "format", "mount", "bind"];

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
        let about = |error: Error| error.about(format!("volume {}", wish.volume));
        self.require_arrival()?;
        self.pay().await?;
        let restarted = self.is_restarted(wish).await?;
        for _ in 0..64 {
            let id = self.volume_to_mount(ctx, wish).await?;
            self.receives().await.map_err(about)?;
            if !wish.access.many {
                self.take_over(ctx, id).await.map_err(about)?;
            }
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
                    // Whoever has hung up meanwhile is not told either.
                    let answer = if ctx.abandoned.is_cancelled() { Err(abandoned()) } else { answer };
                    if answer.is_err() {
                        self.withdraw(id, wish).await.map_err(about)?;
                    }
                    return answer.map(Outcome::Changed).map_err(about);
                }
                Recorded::Leaving => {
                    let node = self.node().clone();
                    self.settle(ctx, watcher, &["unmount", "unbind", "fence", "detach"], |progress, _| {
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
        let known = match &wish.access.loan {
            Some(loan) => Some(self.borrow(&wish.volume, loan).await?),
            None => self.find_volume(&wish.volume).await?,
        };
        if let Some(id) = known {
            let volume = self.journal.family(id).await?.value.volume;
            let brings = wish.implicit.as_ref().is_some_and(|create| create.keeping == Keeping::Ephemeral);
            if brings && volume.as_ref().is_some_and(|volume| volume.keeping != Keeping::Ephemeral) {
                return Err(Error::already_exists(
                    "a volume of that name exists that was not brought about like this: nobody gets it by naming it",
                )
                .about(format!("volume {}", wish.volume)));
            }
            let state = volume.map(|volume| volume.state);
            if matches!(state, Some(VolumeState::Ready | VolumeState::Lost)) {
                return Ok(id);
            }
            if state == Some(VolumeState::Creating) {
                return self.ready_volume(ctx, &wish.volume).await;
            }
        }
        match &wish.implicit {
            Some(create) => self.create(ctx, create).await.map(|outcome| outcome.into_inner().volume.id),
            None => Err(unknown(&wish.volume)),
        }
    }

    /// The volume of that name, once it is made.
    pub(crate) async fn ready_volume(
        self: &Arc<Self>,
        ctx: &Context,
        which: &VolumeRef,
    ) -> Result<VolumeId, Error> {
        let id = self.require_volume(which).await?;
        let volume = self.journal.family(id).await?.value.volume;
        let Some(volume) = volume.filter(|volume| volume.state == VolumeState::Creating) else {
            return Ok(id);
        };
        let wish = CreateVolume::named(volume.name);
        self.create(ctx, &wish).await.map(|outcome| outcome.into_inner().volume.id)
    }

    /// Whether the holder's id comes from another life of its caller than the one that we know it from. Then
    /// what that life held, it holds no more.
    async fn is_restarted(&self, wish: &MountVolume) -> Result<bool, Error> {
        let Some(caller) = wish.caller.as_ref().filter(|_| wish.counts) else { return Ok(false) };
        let Some(id) = self.known_volume(&wish.volume).await? else { return Ok(false) };
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
        fits(family, wish, node)?;
        if is_broken(family, node) {
            take_down(family, node, now);
            return Ok(Recorded::Leaving);
        }
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
        expect_filesystem(family, wish)?;
        stand_on(family, node, wish.read_only, &self.boot_id, now);
        lend(family, node, wish);
        if let Some(mount) = family.mounts.get_mut(node).filter(|mount| mount.state == MountState::Mounting) {
            mount.raw = wish.access.raw;
            mount.options.clone_from(&wish.access.options);
        }
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
                if !wish.counts && publication.state == PublicationState::Published {
                    // It does not count, and somebody was told before us or meanwhile.
                    return Ok(());
                }
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

pub(crate) fn unknown(which: &impl std::fmt::Display) -> Error {
    Error::not_found("there is no such volume: `kato volume ls` shows all").about(format!("volume {which}"))
}

/// Refuses what this volume cannot do now.
fn usable(family: &Family, wish: &MountVolume, node: &NodeId) -> Result<(), Error> {
    let Some(volume) = family.volume.as_ref() else { return Err(unknown(&wish.volume)) };
    match volume.state {
        VolumeState::Ready => {}
        VolumeState::Lost => {
            return Err(Error::precondition(
                "its backend says that it is gone: bring it back, or remove the record with `kato volume rm --forget`",
            ));
        }
        VolumeState::Creating | VolumeState::Deleting => return Err(unknown(&wish.volume)),
    }
    if let Some(seat) = volume.seat().filter(|seat| seat != node) {
        return Err(Error::precondition(format!("it lies on node {seat}, and no other can have it")));
    }
    if let Some(other) = family.attachments.keys().find(|other| *other != node && !wish.access.many) {
        return Err(Error::in_use(format!(
            "it is attached to node {other}: stop what uses it there first (`kato volume why {}` tells who)",
            volume.name
        )));
    }
    let Some(mount) = family.mounts.get(node) else { return Ok(()) };
    if let MountState::Broken(why) = &mount.state {
        // With nobody left it is taken down first, and then made again.
        return if family.is_going(node) { Ok(()) } else { Err(broken(family, why)) };
    }
    if mount.read_only && !wish.read_only {
        return Err(Error::in_use(format!(
            "it is mounted read-only for {}: stop those before it is written",
            family.holders_text()
        )));
    }
    Ok(())
}

/// Refuses a wish that does not fit to how others on this node have the volume, or that comes too early.
fn fits(family: &Family, wish: &MountVolume, node: &NodeId) -> Result<(), Error> {
    let access = &wish.access;
    let others = || family.holders(node).filter(|one| one.holder != wish.holder);
    if let Some(stage) = &access.staged_by {
        let staged = family.publications.get(&(node.clone(), stage.clone()));
        if staged.is_none_or(|one| one.purpose != Purpose::Stage || one.state == PublicationState::Leaving) {
            return Err(Error::precondition(format!(
                "it is not staged at {stage} on this node: stage it there first"
            )));
        }
    }
    if access.purpose == Purpose::Stage
        && let Some(other) = others().find(|one| one.purpose == Purpose::Stage)
    {
        still_leaving(other)?;
        return Err(Error::already_exists(format!(
            "it is staged at {} on this node: unstage it there before it is staged elsewhere",
            other.holder
        )));
    }
    if access.purpose == Purpose::Use && matches!(wish.target, Target::Path(_)) {
        let other = others().find(|one| one.purpose == Purpose::Use && (access.alone || one.alone));
        if let Some(other) = other {
            still_leaving(other)?;
            return Err(Error::precondition(format!(
                "it is published at {} on this node, and whoever has it wants it alone: unpublish it there first",
                other.holder
            )));
        }
    }
    let Some(mount) = family.mounts.get(node).filter(|mount| mount.state != MountState::Unmounting) else {
        return Ok(());
    };
    if family.holders(node).next().is_none() {
        return Ok(());
    }
    let shape = |raw| if raw { "as a device" } else { "with its filesystem" };
    if mount.raw != access.raw {
        return Err(Error::already_exists(format!(
            "it is in use on this node {}, and cannot be used {} beside that",
            shape(mount.raw),
            shape(access.raw)
        )));
    }
    if access.asks_for_options() && mount.options != access.options {
        return Err(Error::already_exists(format!(
            // Which ones is not told: callers may have secrets among them.
            "it is mounted on this node with other options, {} of them: unmount it first",
            mount.options.len()
        )));
    }
    Ok(())
}

/// Lets a wish wait for whoever is on the way out.
fn still_leaving(other: &Publication) -> Result<(), Error> {
    match other.state {
        PublicationState::Leaving => {
            Err(Error::busy(format!("it is being taken from {}: try again in a moment", other.holder)))
        }
        PublicationState::Publishing | PublicationState::Published => Ok(()),
    }
}

/// A volume that was never formatted gets the filesystem that its first user expects; another one has what it has.
fn expect_filesystem(family: &mut Family, wish: &MountVolume) -> Result<(), Error> {
    let (Some(volume), false) = (family.volume.as_mut(), wish.access.raw) else { return Ok(()) };
    let is_directory = volume.connection.as_ref().is_some_and(Connection::is_directory);
    let Some(fs) = wish.access.fs.filter(|fs| !is_directory && *fs != volume.filesystem.fs) else {
        return Ok(());
    };
    if volume.filesystem.state != FsState::Blank {
        return Err(Error::already_exists(format!(
            "it holds {}, and {fs} was asked for: leave the filesystem out, or copy the data to a new volume",
            volume.filesystem.fs
        )));
    }
    volume.filesystem.fs = fs;
    Ok(())
}

/// What another house has attached is attached by saying so.
fn lend(family: &mut Family, node: &NodeId, wish: &MountVolume) {
    let Some(loan) = &wish.access.loan else { return };
    if let Some(attachment) = family.attachments.get_mut(node)
        && attachment.state == AttachmentState::Attaching
    {
        attachment.connection = Some(loan.connection.clone());
        attachment.client.clone_from(&loan.client);
        attachment.state = AttachmentState::Attached;
        attachment.hold = Hold::Lent;
        attachment.intent = None;
    }
}

/// The refusal of a mount that does not reach its bytes any more, and is still held.
pub(crate) fn broken(family: &Family, why: &str) -> Error {
    let name = family.volume.as_ref().map(|volume| volume.name.to_string()).unwrap_or_default();
    Error::precondition(format!(
        "its mount is broken ({why}) and still held by {}: stop those and it is made again, or let \
         `kato volume repair --force {name}` take it from them",
        family.holders_text()
    ))
}

/// A holder that is known may ask again, with the same words.
fn same_wish(publication: &Publication, wish: &MountVolume) -> Result<(), Error> {
    let same = publication.target == wish.target
        && publication.read_only == wish.read_only
        && publication.purpose == wish.access.purpose
        && publication.group == wish.access.group
        && (publication.alone == wish.access.alone || publication.purpose == Purpose::Stage);
    if same {
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
        purpose: wish.access.purpose,
        alone: wish.access.alone,
        group: wish.access.group,
        state: PublicationState::Publishing,
        caller,
        since: now,
        doubtful_since: None,
        intent: Some(Intent::new(now)),
    }
}

/// Wishes for what a publication stands on, as far as it is not there, and turns around what is on its way down.
pub(crate) fn stand_on(family: &mut Family, node: &NodeId, read_only: bool, boot_id: &str, now: Timestamp) {
    attach(family, node, read_only, now);
    let Some(volume) = family.volume.as_ref() else { return };
    let mount = family.mounts.entry(node.clone()).or_insert_with(|| Mount {
        volume: volume.id,
        node: node.clone(),
        state: MountState::Mounting,
        boot_id: boot_id.to_owned(),
        path: None,
        device: None,
        read_only,
        raw: false,
        options: Vec::new(),
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

/// Wishes for a node to reach the volume, unless it does.
pub(crate) fn attach(family: &mut Family, node: &NodeId, read_only: bool, now: Timestamp) {
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
        hold: Hold::WithMount,
        fence: Fence::Unneeded,
        intent: Some(Intent::new(now)),
    });
    if attachment.fence == Fence::Unneeded
        && (connection.is_some() || attachment.state == AttachmentState::Detaching)
    {
        // What needs no attaching is attached by saying so. A detach only begins once the mount is gone, so
        // one that is wished beside a mount can be turned around; never one that was taken from this node.
        attachment.connection = connection.or_else(|| attachment.connection.take());
        attachment.state = AttachmentState::Attached;
        attachment.intent = None;
    }
}

/// Where a holder finds the data.
fn path(family: &Family, node: &NodeId, holder: &HolderId) -> Option<String> {
    let publication = family.publications.get(&(node.clone(), holder.clone()))?;
    match &publication.target {
        Target::Path(path) => Some(path.clone()),
        Target::Shared => {
            let mount = family.mounts.get(node)?;
            if mount.raw { mount.device.clone() } else { family.view()?.path_on(node) }
        }
    }
}

/// A mount's goal.
fn mounted(progress: &Progress, node: &NodeId, holder: &HolderId) -> Verdict<MountedVolume> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let Some(publication) = family.publications.get(&(node.clone(), holder.clone())) else {
        // Such as the same call before this one, whose caller hung up.
        return Verdict::Answer(Err(Error::busy(
            "the mount was taken back by somebody else while it was made: try again",
        )));
    };
    let Some(mount) = family.mounts.get(node) else { return Verdict::Wait };
    if let MountState::Broken(why) = &mount.state {
        return Verdict::Answer(Err(broken(family, why)));
    }
    if publication.state != PublicationState::Published || mount.state != MountState::Mounted {
        return Verdict::Wait;
    }
    path(family, node, holder).map_or(Verdict::Wait, |path| Verdict::Answer(Ok(MountedVolume { path })))
}

fn is_broken(family: &Family, node: &NodeId) -> bool {
    family.mounts.get(node).is_some_and(|mount| matches!(mount.state, MountState::Broken(_)))
}

fn has_left(progress: &Progress, node: &NodeId, holder: &HolderId) -> Verdict<()> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let leaving = family
        .publications
        .get(&(node.clone(), holder.clone()))
        .is_some_and(|publication| publication.state == PublicationState::Leaving);
    let detaching = family.attachments.get(node).is_some_and(|one| one.state == AttachmentState::Detaching);
    if leaving || is_broken(family, node) || (detaching && !family.mounts.contains_key(node)) {
        Verdict::Wait
    } else {
        Verdict::Answer(Ok(()))
    }
}
