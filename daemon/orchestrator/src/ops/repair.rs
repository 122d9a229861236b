//! Repair: take a broken mount of this node down and make it again, which checks and mends the filesystem on
//! its way. A mount that is held is only taken from its holders when the caller insists; what a container
//! still has mounted in its own namespace keeps the device even then, and the answer names it.
//!
//! Two wishes, one after the other. A crash between them leaves a volume that is not mounted, and the next
//! mount of anybody makes it again just the same.

use std::sync::Arc;

use crate::{
    drivers::{Progress, Sight, Subject},
    error::{Error, Outcome},
    family::Family,
    house::{House, Verdict},
    journal::contended,
    model::{MountState, NodeId, Timestamp, VolumeState},
    ops::{
        Context, RepairVolume, VolumeView,
        mount::{broken, stand_on, unknown},
        unmount::{leave, take_down},
    },
    ports::store::Durability,
};

/// What became of the wish when it was recorded.
enum Recorded {
    /// There is nothing broken, or not any more.
    Well,
    /// What is broken has to be gone first.
    Going,
    /// It is being made.
    Making,
}

impl House {
    pub(crate) async fn repair(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &RepairVolume,
    ) -> Result<Outcome<VolumeView>, Error> {
        let about = |error: Error| error.about(format!("volume {}", wish.name));
        let id = self.journal.volume_id(&wish.name).await?.ok_or_else(|| unknown(&wish.name))?;
        let node = self.node().clone();
        let mut took_down = false;
        for _ in 0..64 {
            let now = self.now();
            let watcher = self.drivers.watch(Subject::Volume(id));
            let (family, recorded) = self
                .journal
                .edit_family(id, Durability::Durable, |family, _| {
                    record(family, wish, &node, &self.boot_id, took_down, now)
                })
                .await
                .map_err(about)?;
            let view = || family.view().ok_or_else(|| unknown(&wish.name));
            match recorded {
                Recorded::Well if took_down => return view().map(Outcome::Changed),
                Recorded::Well => return view().map(Outcome::Unchanged),
                Recorded::Going => {
                    self.settle(ctx, watcher, &["unbind", "unmount", "detach"], |progress, _| {
                        gone(progress, &node)
                    })
                    .await
                    .map_err(about)?;
                    took_down = true;
                }
                Recorded::Making => {
                    return self
                        .settle(ctx, watcher, &["attach", "format", "mount"], |progress, _| {
                            made(progress, &node)
                        })
                        .await
                        .map(Outcome::Changed)
                        .map_err(about);
                }
            }
        }
        Err(about(contended()))
    }
}

fn record(
    family: &mut Family,
    wish: &RepairVolume,
    node: &NodeId,
    boot_id: &str,
    took_down: bool,
    now: Timestamp,
) -> Result<Recorded, Error> {
    if family.volume.as_ref().is_none_or(|volume| volume.state != VolumeState::Ready) {
        return Err(unknown(&wish.name));
    }
    match family.mounts.get(node).map(|mount| mount.state.clone()) {
        Some(MountState::Broken(why)) => {
            if !family.is_going(node) && !wish.force {
                return Err(broken(family, &why));
            }
            let holders: Vec<_> = family.holders(node).map(|one| one.holder.clone()).collect();
            for holder in &holders {
                leave(family, node, holder, true, now);
            }
            take_down(family, node, now);
            Ok(Recorded::Going)
        }
        Some(MountState::Unmounting) => Ok(Recorded::Going),
        Some(MountState::Mounting) => Ok(Recorded::Making),
        Some(MountState::Mounted) => Ok(Recorded::Well),
        None if !took_down => Ok(Recorded::Well),
        None => {
            stand_on(family, node, false, boot_id, now);
            if let Some(mount) = family.mounts.get_mut(node) {
                // Nobody's, until somebody wants it or it has been idle for long enough.
                mount.idle_since = Some(now);
            }
            Ok(Recorded::Making)
        }
    }
}

/// The broken mount and its attachment are gone, or somebody new has made them again.
fn gone(progress: &Progress, node: &NodeId) -> Verdict<()> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let stands = family
        .mounts
        .get(node)
        .is_some_and(|mount| matches!(mount.state, MountState::Mounting | MountState::Mounted));
    if stands || (!family.mounts.contains_key(node) && !family.attachments.contains_key(node)) {
        return Verdict::Answer(Ok(()));
    }
    Verdict::Wait
}

fn made(progress: &Progress, node: &NodeId) -> Verdict<VolumeView> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    match family.mounts.get(node).map(|mount| &mount.state) {
        Some(MountState::Mounted) => Verdict::Answer(family.view().ok_or_else(contended)),
        Some(MountState::Broken(why)) => {
            Verdict::Answer(Err(Error::precondition(format!("it broke again as soon as it was made: {why}"))))
        }
        Some(MountState::Mounting) => Verdict::Wait,
        // It was made, and as nobody wanted it it is taken down again: what was broken is gone.
        Some(MountState::Unmounting) | None => Verdict::Answer(family.view().ok_or_else(contended)),
    }
}
