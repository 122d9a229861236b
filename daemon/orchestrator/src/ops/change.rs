//! What growing and modifying have in common: a volume that is ready, a wish that is checked and recorded in one batch,
//! and a wait until it is fulfilled or taken back.

use std::sync::Arc;

use crate::{
    drivers::{Progress, Subject},
    error::{Error, Outcome},
    house::{House, Verdict},
    model::{Intent, Volume, VolumeRef, VolumeState},
    ops::{Context, VolumeView, mount::unknown},
    ports::store::Durability,
};

impl House {
    /// Records a wish about a volume that is ready, and waits for it. `wish` hears whether the volume is attached
    /// anywhere, and answers whether there is anything to do.
    pub(super) async fn change_ready(
        self: &Arc<Self>,
        ctx: &Context,
        which: &VolumeRef,
        mut wish: impl FnMut(&mut Volume, bool) -> Result<bool, Error> + Send,
        steps: &[&'static str],
        goal: impl FnMut(&Progress, Option<&Error>) -> Verdict<VolumeView> + Send,
    ) -> Result<Outcome<VolumeView>, Error> {
        let about = |error: Error| error.about(format!("volume {which}"));
        let id = self.ready_volume(ctx, which).await?;
        let now = self.now();
        let watcher = self.drivers.watch(Subject::Volume(id));
        let (family, changed) = self
            .journal
            .edit_family(id, Durability::Durable, |family, _| {
                let attached = !family.attachments.is_empty();
                let volume = family.volume.as_mut().filter(|volume| volume.state == VolumeState::Ready);
                let volume = volume.ok_or_else(|| unknown(which))?;
                let changed = wish(volume, attached)?;
                if changed {
                    volume.intent.get_or_insert_with(|| Intent::new(now));
                }
                Ok(changed)
            })
            .await
            .map_err(about)?;
        if !changed {
            return family.view().map(Outcome::Unchanged).ok_or_else(|| unknown(which));
        }
        self.settle(ctx, watcher, steps, goal).await.map(Outcome::Changed).map_err(about)
    }
}
