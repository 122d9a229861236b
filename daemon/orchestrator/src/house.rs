//! What the ops and the drivers share: the ports, the configuration, the drivers, and the two things that
//! every request does: *settle* (wait for its goal) and *ring* (wake the driver).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    Catalog,
    census::Census,
    consult::Complaints,
    drivers::{Drivers, Progress, Subject, Watcher},
    error::{Error, Kind, Retry},
    fellows::Fellows,
    hall::{Config, Ports},
    journal::Journal,
    model::{BackendName, ClusterId, NodeId, SnapshotId, Timestamp, VolumeId},
    ops::Context,
    polls::Polls,
    ports::blocks::Place,
    replica::Replica,
    trust::LastCheck,
    watch::Stalls,
};

/// After so many failures in a row a request stops waiting for a step whose failure promises nothing better.
const PATIENCE: u32 = 3;

/// What the ops and the drivers share.
pub(crate) struct House {
    pub(crate) ports: Ports,
    pub(crate) config: Config,
    pub(crate) journal: Journal,
    pub(crate) drivers: Arc<Drivers>,
    pub(crate) cluster: ClusterId,
    pub(crate) boot_id: String,
    /// Who else this node is, for backends that let nodes in by such names.
    pub(crate) identities: Vec<(String, String)>,
    /// When this life of the daemon began.
    pub(crate) started: Timestamp,
    pub(crate) catalog: RwLock<Arc<Catalog>>,
    /// When each backend was last found to be the one we know.
    pub(crate) trusted: Mutex<HashMap<BackendName, Timestamp>>,
    /// The checks that are under way, or were lately.
    pub(crate) checks: Mutex<HashMap<BackendName, Arc<LastCheck>>>,
    /// Which volumes of this node do not answer now.
    pub(crate) stalls: Stalls,
    /// What backends complained of.
    pub(crate) complaints: Complaints,
    /// What was counted when somebody asked last.
    pub(crate) census: tokio::sync::Mutex<Census>,
    pub(crate) polls: Polls,
    /// The other daemons that share the records, where any do.
    pub(crate) fellows: Option<Fellows>,
    /// What this node remembers of such records.
    pub(crate) replica: Option<Replica>,
    /// When the records were last filled from what the backends have, where they are not kept for good.
    pub(crate) filled: tokio::sync::Mutex<Option<Timestamp>>,
    /// When other mount namespaces were last seen to have a volume that a doubtful holder has.
    pub(crate) seen_elsewhere: Mutex<HashMap<VolumeId, Timestamp>>,
    /// Snapshots that are read by somebody outside, and when they were last.
    pub(crate) readings: Mutex<HashMap<SnapshotId, (Timestamp, Place)>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stopping: CancellationToken,
    /// Cancelled when a stop has waited long enough for what is in flight.
    pub(crate) abandoning: CancellationToken,
}

/// What a request makes of a report.
pub(crate) enum Verdict<T> {
    /// That is the answer.
    Answer(Result<T, Error>),
    /// Not yet.
    Wait,
}

impl House {
    pub(crate) fn node(&self) -> &NodeId {
        &self.config.node
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.ports.clock.now()
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes a subject's driver, and starts it if it sleeps.
    pub(crate) fn ring(self: &Arc<Self>, subject: Subject, hurry: bool) {
        let has_begun = self.fellows.as_ref().is_none_or(Fellows::has_begun);
        if self.stopping.is_cancelled() || !has_begun {
            return;
        }
        if let Some(driver) = self.drivers.ring(subject, hurry) {
            let house = Arc::clone(self);
            self.spawn(async move { crate::drive::until_rest(&house, &driver).await });
        }
    }

    /// Begins work of the house. A stop that loses its patience drops it between two instructions, as a crash does: the
    /// records say what is wished, and each call can be repeated.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let abandoning = self.abandoning.clone();
        self.tasks.spawn(async move {
            if abandoning.run_until_cancelled(work).await.is_none() {
                warn!("a step did not end in time and is left for the next start");
            }
        });
    }

    /// Waits until a report satisfies the request, one of its steps failed in a way that waiting does not mend,
    /// or its deadline is over.
    pub(crate) async fn settle<T>(
        self: &Arc<Self>,
        ctx: &Context,
        mut watcher: Watcher,
        steps: &[&'static str],
        mut judge: impl FnMut(&Progress, Option<&Error>) -> Verdict<T> + Send,
    ) -> Result<T, Error> {
        watcher.committed();
        self.ring(watcher.subject(), true);
        let mut last: Option<Error> = None;
        loop {
            let progress = tokio::select! {
                progress = watcher.next() => progress?,
                () = self.ports.clock.sleep_until(ctx.deadline) => return Err(late(last)),
                () = ctx.abandoned.cancelled() => return Err(abandoned()),
                () = self.stopping.cancelled() => return Err(stopping()),
            };
            let failed = watcher.failure(&progress, steps);
            if let Verdict::Answer(answer) = judge(&progress, failed.map(|failed| &failed.error)) {
                return answer;
            }
            if let Some(failed) = failed {
                if is_for_the_caller(&failed.error, failed.attempts) {
                    return Err(failed.error.clone());
                }
                last = Some(failed.error.clone());
            }
            tokio::select! {
                changed = watcher.changed() => changed?,
                () = self.ports.clock.sleep_until(ctx.deadline) => return Err(late(last)),
                () = ctx.abandoned.cancelled() => return Err(abandoned()),
                () = self.stopping.cancelled() => return Err(stopping()),
            }
        }
    }

    /// How long to pause after so many failures in a row: half a second, doubling up to a minute.
    pub(crate) fn pause(attempts: u32) -> Duration {
        Duration::from_millis(500)
            .saturating_mul(1 << attempts.saturating_sub(1).min(7))
            .min(Duration::from_secs(60))
    }
}

/// Whether waiting on would be of no use to the caller.
fn is_for_the_caller(failure: &Error, attempts: u32) -> bool {
    match failure.kind.retry() {
        Retry::Never => failure.is_final() || attempts >= PATIENCE,
        Retry::AfterChange => true,
        Retry::Later => failure.kind == Kind::Exhausted,
        Retry::Soon => false,
    }
}

fn late(last: Option<Error>) -> Error {
    let why = last.map_or_else(String::new, |error| format!(" The last try said: {error}."));
    Error::timeout(format!(
        "it took longer than the caller waits; the work goes on in the background.{why} `kato volume why` tells more"
    ))
    .pending()
}

/// For the log: nobody is there to hear it.
pub(crate) fn abandoned() -> Error {
    Error::timeout("whoever asked has hung up; the work goes on in the background").pending()
}

fn stopping() -> Error {
    Error::unavailable("the daemon is stopping: try again when it is back").pending()
}
