//! One call into a guest: a slot, a fresh instance, the two clocks, and a judgement of how it ended. What is
//! called and what its answer means is the caller's; that a fault leaves the outcome open is decided here
//! and nowhere else.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use kato_orchestrator::{Error, Kind};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use wasmtime::{
    Store, Trap, UpdateDeadline,
    component::{Instance, InstancePre},
};
use wasmtime_wasi::I32Exit;

use super::{abi::kato::storage::types, abilities::Abilities, error};
use crate::{
    breaker::Breaker,
    bucket::Bucket,
    engine::{Fault, Shift, Spent},
    guest::{self, Ground, Guest, Notes},
    limits::Exceeded,
    seats::{Seat, Seats},
};

/// How long after its deadline a call is waited for that cannot be stopped.
const GRACE: Duration = Duration::from_millis(500);

/// Whether a call changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Effect,
    Read,
}

/// A component that is ready to be instantiated.
pub(crate) struct Loaded {
    pub(crate) pre: InstancePre<Guest>,
    pub(crate) abilities: Abilities,
}

/// What a call has in its hands once the instance stands.
pub(crate) struct Entered<'a> {
    pub(crate) store: &'a mut Store<Guest>,
    pub(crate) instance: &'a Instance,
    pub(crate) abilities: &'a Abilities,
    pub(crate) configuration: &'a types::Configuration,
}

/// What a guest's function answers.
pub(crate) type Answer<T> = wasmtime::Result<Result<T, types::Error>>;

/// Makes a guest end its slice now and then, the first one after a whole tick.
pub(crate) fn slice(store: &mut Store<Guest>, shift: &Arc<Shift>) {
    let shift = Arc::clone(shift);
    store.set_epoch_deadline(2);
    store.epoch_deadline_callback(move |_| {
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(Arc::clone(&shift).next())))
    });
}

/// How a call failed.
pub(crate) enum Failure {
    /// The guest answered an error.
    Refused(types::Error, Arc<Notes>),
    /// It gave no answer that can be believed. Its outcome is open.
    Broke(Error),
}

/// Calls the guests of one backend.
pub(crate) struct Caller {
    pub(crate) ground: Arc<Ground>,
    pub(crate) loaded: Arc<Loaded>,
    configuration: types::Configuration,
    effects: Lane,
    reads: Lane,
    seats: Seats,
    breaker: Breaker,
}

/// The slots and the pace of one class of calls.
struct Lane {
    slots: Arc<Semaphore>,
    bucket: Bucket,
}

impl Lane {
    fn new(slots: u32) -> Self {
        let slots = usize::try_from(slots.max(1)).unwrap_or(1);
        Self { slots: Arc::new(Semaphore::new(slots)), bucket: Bucket::default() }
    }
}

impl Caller {
    pub(crate) fn new(
        ground: Arc<Ground>,
        loaded: Arc<Loaded>,
        configuration: types::Configuration,
        seats: Seats,
    ) -> Self {
        let (effects, reads) = (Lane::new(ground.limits.calls), Lane::new(ground.limits.reads));
        Self { ground, loaded, configuration, effects, reads, seats, breaker: Breaker::default() }
    }

    /// Calls a function of a fresh instance.
    pub(crate) async fn call<T, F>(
        self: &Arc<Self>,
        function: &'static str,
        class: Class,
        run: F,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(Entered<'a>) -> BoxFuture<'a, Answer<T>> + Send + 'static,
    {
        let permits = self.admit(function, class).await.map_err(Failure::Broke)?;
        let caller = Arc::clone(self);
        let (_waiting, working) = self.ground.strays.begin();
        let task = self.ground.engine.run(async move {
            let outcome = caller.perform(function, run).await;
            drop((permits, working));
            outcome
        });
        let outcome = match timeout(self.ground.limits.wall().saturating_add(GRACE), task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panicked)) => Err(Failure::Broke(
                Error::internal("the plugin host failed during the call").caused_by(panicked).pending(),
            )),
            // It is in the middle of something for the guest that does not end.
            Err(_) => Err(self.overdue(&format!(
                "it did not answer within {} ms, its limit (`wall_ms`), because a disk does not answer; its work \
                 goes on",
                self.ground.limits.wall_ms
            ))),
        };
        let lane = self.lane(class);
        match &outcome {
            Ok(_) => {
                self.breaker.answered();
                lane.bucket.taken();
            }
            Err(Failure::Refused(error, _)) => {
                self.breaker.answered();
                if error.kind == types::ErrorKind::Throttled {
                    lane.bucket.throttled(error::pause(error.retry_after_ms));
                } else {
                    lane.bucket.taken();
                }
            }
            Err(Failure::Broke(error)) => self.broke(function, error),
        }
        outcome
    }

    /// The plugin gave an answer that cannot be true: counted like a crash. The outcome is open.
    pub(crate) fn lied(&self, function: &'static str, what: impl Into<String>) -> Error {
        let error = self.fault(Kind::Internal, &format!("it answered nonsense: {}", what.into()));
        self.broke(function, &error);
        error
    }

    fn broke(&self, function: &'static str, error: &Error) {
        tracing::warn!(backend = %self.ground.backend, function, error = %error, "a plugin call broke");
        self.breaker.broke(&error.message);
    }

    fn lane(&self, class: Class) -> &Lane {
        match class {
            Class::Effect => &self.effects,
            Class::Read => &self.reads,
        }
    }

    /// Waits for the backend's turn and for slots, within the time of a call.
    async fn admit(
        &self,
        function: &'static str,
        class: Class,
    ) -> Result<(OwnedSemaphorePermit, Seat), Error> {
        self.breaker.admit().map_err(|error| error.about(self.subject()))?;
        let lane = self.lane(class);
        let waiting = async {
            if class == Class::Effect {
                self.ground.strays.ended().await;
            }
            lane.bucket.turn().await;
            let slot = Arc::clone(&lane.slots).acquire_owned().await?;
            Ok::<_, tokio::sync::AcquireError>((slot, self.seats.take().await?))
        };
        match timeout(self.ground.limits.wall(), waiting).await {
            Ok(Ok(permits)) => Ok(permits),
            Ok(Err(_)) | Err(_) => Err(Error::busy(format!(
                "{} other calls kept {function} waiting for {:.0} s: the backend is slow, or `calls` of its limits is too low",
                self.ground.limits.calls,
                self.ground.limits.wall().as_secs_f64()
            ))
            .about(self.subject())
            .pending()),
        }
    }

    async fn perform<T, F>(&self, function: &'static str, run: F) -> Result<T, Failure>
    where
        F: for<'a> FnOnce(Entered<'a>) -> BoxFuture<'a, Answer<T>> + Send,
    {
        let started = Instant::now();
        let backend = self.ground.backend.as_str().to_owned();
        metrics::counter!("kato_plugin_calls_total", "backend" => backend.clone(), "function" => function)
            .increment(1);
        let limits = &self.ground.limits;
        let notes = Arc::new(Notes::default());
        let _running = self.ground.engine.running();
        let mut store = Store::new(&self.ground.engine.wasm, Guest::new(&self.ground, &notes));
        store.limiter(|guest| &mut guest.ceiling);
        store.set_hostcall_fuel(limits.answer());
        let shift = self.ground.engine.shift();
        slice(&mut store, &shift);
        let work = async {
            let instance = self.loaded.pre.instantiate_async(&mut store).await?;
            let (abilities, configuration) = (&self.loaded.abilities, &self.configuration);
            run(Entered { store: &mut store, instance: &instance, abilities, configuration }).await
        };
        let outcome = timeout(limits.wall(), self.ground.engine.budget(limits.cpu(), &shift, work)).await;
        drop(store);
        metrics::histogram!("kato_plugin_call_seconds", "backend" => backend.clone(), "function" => function)
            .record(started.elapsed().as_secs_f64());
        match outcome {
            Ok(Ok(Ok(Ok(answer)))) => Ok(answer),
            Ok(Ok(Ok(Err(error)))) => Err(Failure::Refused(error, notes)),
            Ok(Ok(Err(trap))) => {
                metrics::counter!("kato_plugin_traps_total", "backend" => backend.clone()).increment(1);
                Err(Failure::Broke(self.trapped(trap, &notes)))
            }
            Ok(Err(Spent)) => Err(self.overdue(&format!(
                "it computed for more than {} ms, its limit (`cpu_ms`), and was stopped",
                limits.cpu_ms
            ))),
            Err(_) => Err(self.overdue(&format!(
                "it did not answer within {} ms, its limit (`wall_ms`), and was stopped",
                limits.wall_ms
            ))),
        }
    }

    /// A call took more time than it may.
    fn overdue(&self, what: &str) -> Failure {
        metrics::counter!("kato_plugin_timeouts_total", "backend" => self.ground.backend.as_str().to_owned())
            .increment(1);
        Failure::Broke(self.fault(Kind::Timeout, what))
    }

    /// What a trap means for a person. Its outcome is open: what the guest did before may stand.
    fn trapped(&self, trap: wasmtime::Error, notes: &Notes) -> Error {
        let why = if let Some(limit) = trap.downcast_ref::<Exceeded>() {
            limit.0.clone()
        } else if let Some(exit) = trap.downcast_ref::<I32Exit>() {
            format!("it called exit({})", exit.0)
        } else {
            match trap.downcast_ref::<Trap>() {
                Some(Trap::StackOverflow) => "it recursed until its stack was full".to_owned(),
                Some(Trap::MemoryOutOfBounds) => {
                    "it reached outside of its memory (which a full stack of its language also does)"
                        .to_owned()
                }
                Some(Trap::UnreachableCodeReached) => {
                    let printed = self.ground.powers.secrets.line(&notes.printed(), 300);
                    if printed.is_empty() {
                        "it aborted".to_owned()
                    } else {
                        format!("it panicked: {printed}")
                    }
                }
                Some(trap) => format!("it trapped: {trap}"),
                None => guest::stopped(&trap),
            }
        };
        self.fault(Kind::Internal, &why).caused_by(Fault(trap))
    }

    fn fault(&self, kind: Kind, what: &str) -> Error {
        Error::new(kind, format!("the plugin failed: {what}")).about(self.subject()).pending()
    }

    pub(crate) fn subject(&self) -> String {
        format!("backend {}", self.ground.backend)
    }
}
