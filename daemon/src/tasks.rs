//! What the daemon does without being asked: tidy up, look after the mounts, keep dumps (`journal.rs`), fold the
//! numbers, tell systemd that it lives. Each is a loop that ends with the daemon and that no failure ends before.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{Orchestrator, ports::Clock};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Limits, journal::Journal, systemd::Notifier, telemetry::Metrics};

const FOLD: Duration = Duration::from_secs(5);

/// Who does all of it, and until when.
pub(crate) struct Chores<'a> {
    pub(crate) tasks: &'a TaskTracker,
    pub(crate) shutdown: &'a CancellationToken,
}

impl Chores<'_> {
    /// Takes down what is over.
    pub(crate) fn tidy(&self, hall: &Arc<Orchestrator>, limits: &Limits) {
        let hall = Arc::clone(hall);
        self.every(limits.tidy_every, limits.tidy_every, move || {
            let hall = Arc::clone(&hall);
            async move {
                if let Err(error) = hall.tidy().await {
                    tracing::warn!(%error, "could not tidy up, and will try again");
                }
            }
        });
    }

    /// Looks after the mounts.
    pub(crate) fn watch(&self, hall: &Arc<Orchestrator>, limits: &Limits) {
        let hall = Arc::clone(hall);
        self.every(limits.watch_every, limits.watch_every, move || {
            let hall = Arc::clone(&hall);
            async move {
                if let Err(error) = hall.watch().await {
                    tracing::warn!(%error, "could not look after the mounts, and will try again");
                }
            }
        });
    }

    /// Asks the backends how their volumes are. One that hangs keeps nobody from looking after the mounts.
    pub(crate) fn consult(&self, hall: &Arc<Orchestrator>, limits: &Limits) {
        let hall = Arc::clone(hall);
        self.every(limits.watch_every, limits.watch_every, move || {
            let hall = Arc::clone(&hall);
            async move {
                if let Err(error) = hall.consult().await {
                    tracing::warn!(%error, "could not ask how the volumes are, and will try again");
                }
            }
        });
    }

    /// Keeps a dump of the records that is no older than a day.
    pub(crate) fn dump(&self, journal: &Arc<Journal>, clock: &Arc<dyn Clock>) {
        let (journal, clock, shutdown) = (Arc::clone(journal), Arc::clone(clock), self.shutdown.clone());
        self.tasks.spawn(async move { journal.keep_dumps(&*clock, &shutdown).await });
    }

    /// Folds what the histograms have kept.
    pub(crate) fn fold(&self, metrics: &Metrics) {
        let metrics = metrics.clone();
        self.every(FOLD, FOLD, move || {
            metrics.upkeep();
            std::future::ready(())
        });
    }

    /// Tells systemd that we live, from a task of the threads that serve: when those are stuck, it hears of it.
    pub(crate) fn beat(&self, notifier: &Arc<Notifier>) {
        if let Some(beat) = notifier.beat() {
            let notifier = Arc::clone(notifier);
            self.every(Duration::ZERO, beat, move || {
                notifier.say("WATCHDOG=1");
                std::future::ready(())
            });
        }
    }

    fn every<F: Future<Output = ()> + Send>(
        &self,
        first: Duration,
        period: Duration,
        work: impl Fn() -> F + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let mut ticks = interval_at(Instant::now() + first, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                work().await;
            }
        });
    }
}
