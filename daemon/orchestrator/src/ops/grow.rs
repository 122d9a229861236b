//! Grow: record how large the volume is to be, wait until the backend and the filesystem are.

use std::sync::Arc;

use crate::{
    drivers::{Progress, Sight, Subject},
    error::{Error, Outcome},
    house::{House, Verdict},
    journal::contended,
    model::{Bytes, Connection, HolderId, Intent, Keeping, MountState, NodeId, Volume},
    ops::{Context, GrowVolume, Reach, VolumeView, mount::unknown},
    ports::{backend::Growing, store::Durability},
};

impl House {
    pub(crate) async fn grow(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &GrowVolume,
    ) -> Result<Outcome<VolumeView>, Error> {
        if let Reach::Node(holder) = &wish.reach {
            return self.grow_here(ctx, wish, holder).await;
        }
        let catalog = self.catalog();
        let record = |volume: &mut Volume, attached: bool| {
            let actual = volume.actual.unwrap_or_default();
            if wish.size.limit.is_some_and(|limit| limit < actual) {
                return Err(Error::out_of_range(format!(
                    "it has {actual} already, and volumes never shrink"
                )));
            }
            if wish.size.required <= actual {
                return Ok(false);
            }
            let class = catalog.class(Some(&volume.class)).ok();
            if let Some(most) =
                class.and_then(|class| class.max_size).filter(|most| wish.size.required > *most)
            {
                return Err(Error::out_of_range(format!("class {} allows at most {most}", volume.class)));
            }
            match catalog.backend(&volume.backend)?.describe().abilities.grow {
                None => {
                    return Err(Error::unsupported(format!(
                        "the backend {} cannot grow volumes",
                        volume.backend
                    )));
                }
                Some(Growing::Offline) if attached => {
                    return Err(Error::precondition(
                        "its backend grows volumes only while they are not in use: stop what uses it first",
                    ));
                }
                Some(_) => {}
            }
            if volume.wants_modify() {
                return Err(Error::busy(
                    "its parameters are being changed: try again when that is done, or failed",
                ));
            }
            volume.wanted.size = wish.size;
            // Another size is another wish: nothing that was said of the last one holds.
            volume.intent = None;
            Ok(true)
        };
        let goal = |progress: &Progress, failure: Option<&Error>| grown(progress, failure, wish);
        let steps: &[&str] = match wish.reach {
            Reach::Backend => &["grow"],
            Reach::Everywhere | Reach::Node(_) => &["grow", "grow-filesystem"],
        };
        self.change_ready(ctx, &wish.volume, record, steps, goal).await
    }

    /// Lets what this node has of a volume become as large as the volume is by now.
    async fn grow_here(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &GrowVolume,
        holder: &HolderId,
    ) -> Result<Outcome<VolumeView>, Error> {
        let about = |error: Error| error.about(format!("volume {}", wish.volume));
        let id = self.known_volume(&wish.volume).await?.ok_or_else(|| unknown(&wish.volume))?;
        let node = self.node().clone();
        let watcher = self.drivers.watch(Subject::Volume(id));
        self.journal
            .edit_family(id, Durability::Durable, |family, _| {
                if !family.publications.contains_key(&(node.clone(), holder.clone())) {
                    return Err(Error::not_found(format!("it is not at {holder} on this node")));
                }
                let mount = family.mounts.get_mut(&node).filter(|mount| mount.state == MountState::Mounted);
                let Some(mount) = mount else {
                    return Err(Error::not_found(
                        "it is not in use on this node, so there is nothing to grow here",
                    ));
                };
                let volume = family.volume.as_mut().ok_or_else(|| unknown(&wish.volume))?;
                let actual = volume.actual.unwrap_or_default();
                // Of what is borrowed the device tells how large it has become, and nobody else does.
                if volume.keeping != Keeping::Borrowed && wish.size.required > actual {
                    return Err(too_small(actual));
                }
                if !volume.connection.as_ref().is_some_and(Connection::is_directory) {
                    mount.fs_behind = true;
                    mount.intent = None;
                }
                Ok(())
            })
            .await
            .map_err(about)?;
        self.settle(ctx, watcher, &["grow", "grow-filesystem"], |progress, _| {
            grown_here(progress, wish, &node)
        })
        .await
        .map(Outcome::Changed)
        .map_err(about)
    }
}

fn too_small(actual: Bytes) -> Error {
    Error::out_of_range(format!("its device has {actual} and not that much: let the volume be grown first"))
}

/// The goal of growing what a node has: its filesystem is as large as the device, and that is large enough.
fn grown_here(progress: &Progress, wish: &GrowVolume, node: &NodeId) -> Verdict<VolumeView> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let (Some(volume), Some(mount)) = (&family.volume, family.mounts.get(node)) else {
        return Verdict::Answer(Err(Error::not_found("it was unmounted by somebody else meanwhile")));
    };
    if mount.fs_behind {
        return match &mount.intent {
            Some(intent) if intent.is_parked() => Verdict::Answer(Err(Error::precondition(
                "its filesystem is grown only while it is not mounted: stop what uses it, and the next mount does it",
            ))),
            _ => Verdict::Wait,
        };
    }
    let actual = volume.actual.unwrap_or_default();
    if actual < wish.size.required {
        return Verdict::Answer(Err(match volume.keeping {
            // It may have been grown elsewhere a moment ago.
            Keeping::Borrowed => Error::unavailable(format!(
                "its device shows {actual} so far: the size has not arrived on this node yet"
            )),
            Keeping::Owned | Keeping::Ephemeral => too_small(actual),
        }));
    }
    Verdict::Answer(family.view().ok_or_else(contended))
}

/// A grow's goal: the volume is large enough, and each mounted filesystem is too or waits for its unmount.
fn grown(progress: &Progress, failure: Option<&Error>, wish: &GrowVolume) -> Verdict<VolumeView> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let Some(volume) = &family.volume else {
        return Verdict::Answer(Err(Error::not_found("it was removed by somebody else meanwhile")));
    };
    if volume.actual.is_none_or(|actual| actual < wish.size.required) {
        if !volume.wants_growth() {
            // The wish was taken back.
            return Verdict::Answer(Err(failure.cloned().unwrap_or_else(contended)));
        }
        return Verdict::Wait;
    }
    if wish.reach == Reach::Backend {
        return Verdict::Answer(family.view().ok_or_else(contended));
    }
    let behind = family
        .mounts
        .values()
        .filter(|mount| !matches!(mount.state, MountState::Broken(_)))
        .any(|mount| mount.fs_behind && !mount.intent.as_ref().is_some_and(Intent::is_parked));
    if behind { Verdict::Wait } else { Verdict::Answer(family.view().ok_or_else(contended)) }
}
