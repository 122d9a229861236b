//! What the daemon does without being asked: tidy up, look after the mounts, write a dump a day, fold the numbers, tell systemd that it
//! lives. Each is a loop that ends with the daemon and that no failure ends before.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{Orchestrator, ports::Clock};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Limits, journal::Journal, systemd::Notifier, telemetry::Metrics};

const DAY: Duration = Duration::from_secs(86_400);
const FOLD: Duration = Duration::from_secs(5);

/// A daemon that is started again and again would push out the dumps of better days.
const SETTLED: Duration = Duration::from_secs(600);

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

    /// Writes a dump of the records each day.
    pub(crate) fn dump(&self, journal: &Arc<Journal>, clock: &Arc<dyn Clock>) {
        let (journal, clock) = (Arc::clone(journal), Arc::clone(clock));
        self.every(SETTLED, DAY, move || {
            let (journal, clock) = (Arc::clone(&journal), Arc::clone(&clock));
            async move {
                match journal.keep_dump(clock.now()).await {
                    Ok(Some(path)) => {
                        tracing::info!(path = %path.display(), "a dump of the records was written")
                    }
                    Ok(None) => {}
                    Err(error) => tracing::error!(%error, "no dump of the records could be written"),
                }
            }
        });
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
