//! What the daemon does without being asked: tidy up, write a dump a day, fold the numbers, tell systemd that it
//! lives. Each is a loop that ends with the daemon and that no failure ends before.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{Orchestrator, ports::Clock};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Limits, journal::Journal, systemd::Notifier, telemetry::Metrics};

const DAY: Duration = Duration::from_secs(86_400);

/// Starts all of it.
pub(crate) fn start(
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
    hall: &Arc<Orchestrator>,
    journal: &Arc<Journal>,
    clock: &Arc<dyn Clock>,
    notifier: &Arc<Notifier>,
    metrics: &Metrics,
    limits: &Limits,
) {
    let tidier = Arc::clone(hall);
    every(tasks, shutdown, limits.tidy_every, move || {
        let hall = Arc::clone(&tidier);
        async move {
            if let Err(error) = hall.tidy().await {
                tracing::warn!(%error, "could not tidy up, and will try again");
            }
        }
    });
    let (writer, time) = (Arc::clone(journal), Arc::clone(clock));
    every(tasks, shutdown, DAY, move || {
        let (journal, clock) = (Arc::clone(&writer), Arc::clone(&time));
        async move {
            match journal.keep_dump(clock.now()).await {
                Ok(Some(path)) => tracing::info!(path = %path.display(), "a dump of the records was written"),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "no dump of the records could be written"),
            }
        }
    });
    let numbers = metrics.clone();
    every(tasks, shutdown, Duration::from_secs(5), move || {
        numbers.upkeep();
        std::future::ready(())
    });
    if let Some(beat) = notifier.beat() {
        let notifier = Arc::clone(notifier);
        // Told by a task of the same threads that serve: when those are stuck, systemd hears it.
        every(tasks, shutdown, beat, move || {
            notifier.say("WATCHDOG=1");
            std::future::ready(())
        });
    }
}

fn every<F: Future<Output = ()> + Send>(
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
    period: Duration,
    work: impl Fn() -> F + Send + 'static,
) {
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let mut ticks = interval(period);
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
