//! Carries out what `plan` says, one step at a time, until nothing is wished any more. No policy lives here.
//!
//! ```text
//!   read the records ──► plan ──► claim ──► read again ──► the step (a port call) ──► record what came of it
//!        ▲                │ wait, or rest                                                     │
//!        └────────────────┴───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A crash between any two arrows is harmless: the records still say what is wished, every port call finds
//! what an earlier one did, and what a step found is recorded lazily only where repeating it finds the same.
//! A failure is recorded in the intent of the record that it belongs to, with a pause before the next try.

use std::sync::Arc;

use tracing::{Instrument, debug, field::Empty, warn};

use crate::{
    cut,
    drivers::{Driver, Failed, Sight, Subject},
    error::{Error, Finality, Kind},
    family::Family,
    groups,
    house::House,
    journal,
    model::{Failure, Intent, Timestamp, VolumeId},
    plan::{self, Next, Role, Step},
    ports::store::Durability,
    records::{Marker, keys},
    steps,
};

/// What a driver does after a turn.
pub(crate) enum Turn {
    /// Begin the next.
    Again,
    /// Sleep until then, or until somebody rings.
    Wait(Timestamp),
    /// End, unless somebody rang meanwhile.
    Rest,
}

/// Takes turns until there is nothing more to do, or the house stops.
pub(crate) async fn until_rest(house: &Arc<House>, driver: &Driver) {
    while !house.stopping.is_cancelled() {
        let (turn, hurry) = driver.begin();
        let took = match driver.subject {
            Subject::Volume(id) => Box::pin(one_turn(house, driver, id, turn, hurry)).await,
            Subject::Snapshot(id) => cut::one_turn(house, driver, id, turn, hurry).await,
            Subject::Group(id) => groups::one_turn(house, driver, id, turn, hurry).await,
        };
        let pause = match took {
            Ok(Turn::Again) => continue,
            Ok(Turn::Wait(until)) => until,
            Ok(Turn::Rest) if house.drivers.retire(driver) => return,
            Ok(Turn::Rest) => continue,
            Err(error) => {
                warn!(subject = %driver.subject, error = %error, "could not read or write the records, trying again");
                driver.failed("records", Failed { turn, error, attempts: 1 });
                driver.report(turn, Sight::Nothing);
                house.now().plus(House::pause(1))
            }
        };
        tokio::select! {
            () = house.ports.clock.sleep_until(pause) => {}
            () = driver.rung() => {}
            () = house.stopping.cancelled() => {}
        }
    }
    house.drivers.gone(driver);
}

async fn one_turn(
    house: &Arc<House>,
    driver: &Driver,
    id: VolumeId,
    turn: u64,
    hurry: bool,
) -> Result<Turn, Error> {
    let mark = house.journal.record::<Marker>(keys::work_volume(id)).await?;
    let family = house.journal.family(id).await?.value;
    let next = decide(house, &family, hurry);
    let step = match next {
        Next::Step(step) => step,
        Next::Wait(until) => {
            driver.report(turn, Sight::Volume(Arc::new(family)));
            return Ok(Turn::Wait(until));
        }
        Next::Rest => {
            driver.succeeded("records");
            let unfinished = family.is_unfinished();
            driver.report(turn, Sight::Volume(Arc::new(family)));
            if !unfinished {
                match house.journal.rest(id, &mark).await {
                    // Somebody wished something since, and rings.
                    Err(error) if error.kind == Kind::Busy => return Ok(Turn::Again),
                    rested => rested?,
                }
            }
            return Ok(Turn::Rest);
        }
    };

    let by_anybody =
        !step.is_local() || (matches!(step, Step::Fill | Step::LetGo) && !family.is_attached(house.node()));
    if by_anybody && !house.leads_family(mark.value.as_ref(), &family) {
        // Whoever leads records how it goes, and that rings here.
        if let Some(failed) =
            intents(&family).find_map(|intent| Some((intent.attempts, intent.last_error.as_ref()?)))
        {
            driver.failed(step.name(), Failed { turn, error: failed.1.to_error(), attempts: failed.0 });
        }
        driver.report(turn, Sight::Volume(Arc::new(family)));
        return Ok(Turn::Rest);
    }

    let key = match step.is_local() {
        true => format!("{}/{}", Subject::Volume(id), house.node()),
        false => Subject::Volume(id).to_string(),
    };
    let claim = house.ports.store.claim(&key).await?;
    let family = house.journal.family(id).await?.value;
    if decide(house, &family, hurry) != Next::Step(step.clone()) {
        return Ok(Turn::Again);
    }

    let span = tracing::info_span!("step", step = step.name(), volume.id = %id, volume.name = Empty, backend = Empty);
    if let Some(volume) = &family.volume {
        span.record("volume.name", volume.name.as_str()).record("backend", volume.backend.as_str());
    }
    let started = house.now();
    let result = journal::under(&*claim, steps::take(house, &family, &step)).instrument(span.clone()).await;
    metrics::histogram!("kato_step_seconds", "step" => step.name())
        .record(house.now().since(started).as_secs_f64());
    match result {
        Ok(()) => {
            driver.succeeded(step.name());
            debug!(parent: &span, "took a step");
            Ok(Turn::Again)
        }
        Err(error) => {
            warn!(parent: &span, error = %error, kind = error.kind.name(), "a step failed");
            // Whoever lost its claim meanwhile has no say in what becomes of the wish.
            let (family, attempts) = journal::under(&*claim, fail(house, id, &step, &error)).await?;
            driver.failed(step.name(), Failed { turn, error, attempts });
            driver.report(turn, Sight::Volume(Arc::new(family)));
            Ok(Turn::Again)
        }
    }
}

fn decide(house: &House, family: &Family, hurry: bool) -> Next {
    let abilities = family
        .volume
        .as_ref()
        .and_then(|volume| {
            house.catalog().backends.get(&volume.backend).map(|backend| backend.describe().abilities)
        })
        .unwrap_or_default();
    plan::next(family, &Role { node: house.node(), abilities, hurry }, house.now())
}

/// The intent that tells how a step goes.
pub(crate) fn intent_of<'a>(
    house: &House,
    family: &'a mut Family,
    step: &Step,
) -> Option<&'a mut Option<Intent>> {
    match step {
        Step::Create | Step::Fill | Step::LetGo | Step::Delete | Step::Grow | Step::Modify => {
            family.volume.as_mut().map(|volume| &mut volume.intent)
        }
        Step::Attach(node) | Step::Fence(node) | Step::Detach(node) => {
            family.attachments.get_mut(node).map(|one| &mut one.intent)
        }
        Step::Format | Step::Mount | Step::Unmount | Step::GrowFilesystem => {
            family.mounts.get_mut(house.node()).map(|one| &mut one.intent)
        }
        Step::TakeDownLost => family.lost.get_mut(house.node()).map(|one| &mut one.intent),
        Step::Bind(holder) | Step::Unbind(holder) => {
            family.publications.get_mut(&(house.node().clone(), holder.clone())).map(|one| &mut one.intent)
        }
    }
}

/// Records that a step failed, and takes back what a final refusal takes back.
async fn fail(house: &Arc<House>, id: VolumeId, step: &Step, error: &Error) -> Result<(Family, u32), Error> {
    let now = house.now();
    let refused = error.finality == Finality::Final;
    // A wish that is taken back is one that the caller hears is refused: it must not come back.
    let durability = match step {
        Step::Grow | Step::Modify | Step::Delete if refused => Durability::Durable,
        _ => Durability::Lazy,
    };
    house
        .journal
        .edit_family(id, durability, |family, change| {
            if refused && steps::take_back(family, step, error.kind) {
                change.frees_space();
                return Ok(1);
            }
            let Some(intent) = intent_of(house, family, step) else { return Ok(1) };
            let mut went = intent.take().unwrap_or_else(|| Intent::new(now));
            went.attempts = went.attempts.saturating_add(1);
            went.last_error = Some(Failure::of(error, now));
            went.next_try = now.plus(error.retry_after.unwrap_or_else(|| House::pause(went.attempts)));
            let attempts = went.attempts;
            *intent = Some(went);
            change.frees_space();
            Ok(attempts)
        })
        .await
}

/// All unfinished wishes of a family.
pub(crate) fn intents(family: &Family) -> impl Iterator<Item = &Intent> {
    family
        .volume
        .iter()
        .filter_map(|volume| volume.intent.as_ref())
        .chain(family.attachments.values().filter_map(|one| one.intent.as_ref()))
        .chain(family.mounts.values().filter_map(|one| one.intent.as_ref()))
        .chain(family.publications.values().filter_map(|one| one.intent.as_ref()))
        .chain(family.lost.values().filter_map(|one| one.intent.as_ref()))
}
