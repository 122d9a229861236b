//! One function per step: call a port, record what came of it. Steps at the backend are in `backend.rs`, steps
//! on this node in `node.rs`.

mod attach;
pub(crate) mod backend;
mod carry;
mod fill;
mod node;

use std::sync::Arc;

use crate::{
    drive::intent_of,
    error::{Error, Kind},
    family::Family,
    house::House,
    model::{CapacityRange, Intent, Keeping, Timestamp, Volume, VolumeId, VolumeState},
    plan::Step,
    ports::{
        backend::{Pending, Standing},
        store::Durability,
    },
};

/// Takes a step, unless its backend said "ask again" and says now that it is not over yet.
pub(crate) async fn take(house: &Arc<House>, family: &Family, step: &Step) -> Result<(), Error> {
    let Some(volume) = &family.volume else { return node::take_down_lost(house, family).await };
    let _counted = InFlight::begin(step, volume);
    if let Some((intent, verb, node)) = backend::under_way(family, volume, step)
        && let Standing::Still(pending) =
            house.standing(&volume.backend, intent, verb, backend::which(house, volume), node).await?
    {
        return still(house, volume.id, step, intent, &pending).await;
    }
    execute(house, family, volume, step).await
}

async fn execute(house: &Arc<House>, family: &Family, volume: &Volume, step: &Step) -> Result<(), Error> {
    match step {
        Step::Create => backend::create(house, volume).await,
        Step::Fill => fill::fill(house, family, volume).await,
        Step::LetGo => fill::let_go(house, family, volume).await,
        Step::Delete => backend::delete(house, volume).await,
        Step::Grow => backend::grow(house, volume).await,
        Step::Modify => backend::modify(house, volume).await,
        Step::Attach(node) => attach::attach(house, family, volume, node).await,
        Step::Fence(node) => attach::fence(house, family, volume, node).await,
        Step::Detach(node) => attach::detach(house, family, volume, node).await,
        Step::TakeDownLost => node::take_down_lost(house, family).await,
        Step::Format => node::format(house, family, volume).await,
        Step::Mount => node::mount(house, family, volume).await,
        Step::Unmount => node::unmount(house, family, volume).await,
        Step::GrowFilesystem => node::grow_filesystem(house, family, volume).await,
        Step::Bind(holder) => node::bind(house, family, volume, holder).await,
        Step::Unbind(holder) => node::unbind(house, family, volume, holder).await,
    }
}

/// A step that is being taken, for the metrics.
struct InFlight(metrics::Gauge);

impl InFlight {
    fn begin(step: &Step, volume: &Volume) -> Self {
        let backend = volume.backend.as_str().to_owned();
        let gauge = metrics::gauge!("kato_ops_inflight", "op" => step.name(), "backend" => backend);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Records that a step's work is still under way, unless something else is wished by now.
async fn still(
    house: &House,
    volume: VolumeId,
    step: &Step,
    asked: Option<&Intent>,
    pending: &Pending,
) -> Result<(), Error> {
    let now = house.now();
    house
        .journal
        .edit_family(volume, still_as(asked, pending), |family, _| {
            if let Some(intent) = intent_of(house, family, step)
                && resume(intent.as_ref()) == resume(asked)
            {
                *intent = Some(asked_later(intent.as_ref(), pending, now));
            }
            Ok(())
        })
        .await
        .map(drop)
}

/// How a backend's "still" is recorded: what it wants to hear is durable already when it is the same as before.
pub(crate) fn still_as(asked: Option<&Intent>, pending: &Pending) -> Durability {
    match asked.and_then(|intent| intent.resume.as_ref()) == Some(&pending.resume) {
        true => Durability::Lazy,
        false => Durability::Durable,
    }
}

/// Takes a wish back that was refused for good; false where the wish stays.
pub(crate) fn take_back(family: &mut Family, step: &Step, kind: Kind) -> bool {
    let Some(volume) = family.volume.as_mut() else { return false };
    match step {
        Step::Grow => {
            volume.wanted.size = CapacityRange::at_least(volume.actual.unwrap_or_default());
            volume.intent = None;
            true
        }
        Step::Modify => {
            volume.wanted.parameters = volume.actual_parameters.clone();
            volume.intent = None;
            true
        }
        // Whoever heard that it is in use may use it on: it must not go when it is free one day. What was never whole,
        // and what goes with its holder, is deleted all the same.
        Step::Delete => {
            let kept = volume.actual.is_some() && volume.keeping != Keeping::Ephemeral;
            if kept && kind.is_refusal() {
                volume.state = VolumeState::Ready;
                volume.intent = None;
                return true;
            }
            false
        }
        _ => false,
    }
}

/// An intent whose backend said "ask again".
pub(crate) fn asked_later(intent: Option<&Intent>, pending: &Pending, now: Timestamp) -> Intent {
    let mut intent = intent.cloned().unwrap_or_else(|| Intent::new(now));
    intent.resume = Some(pending.resume.clone());
    intent.note = Some(pending.note.clone());
    intent.next_try = now.plus(pending.retry_after);
    intent.attempts = 0;
    intent.last_error = None;
    intent
}

/// What a backend wants to hear again.
fn resume(intent: Option<&Intent>) -> Option<Vec<u8>> {
    intent.and_then(|intent| intent.resume.clone())
}
