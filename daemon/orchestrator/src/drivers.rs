//! Who drives what, and how requests wait. Each volume (and each snapshot, and each group of them) with unfinished wishes has one
//! driver; requests never drive, they watch.
//!
//! A driver works in *turns*. Each turn begins with a number, then reads the records, takes at most one step
//! and reports what it saw. A request notes which turn had begun when its wish was committed and believes
//! only later ones, so that it never mistakes yesterday's state for the answer to its wish.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, watch};

use crate::{
    error::Error,
    family::Family,
    model::{Group, GroupId, Snapshot, SnapshotId, VolumeId},
};

/// What is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Volume(VolumeId),
    Snapshot(SnapshotId),
    Group(GroupId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(id) => write!(f, "volume/{id}"),
            Self::Snapshot(id) => write!(f, "snapshot/{id}"),
            Self::Group(id) => write!(f, "group/{id}"),
        }
    }
}

/// What a driver saw in a turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Which turn.
    pub(crate) turn: u64,
    /// What the records said.
    pub(crate) sight: Sight,
    /// What steps failed with that have not succeeded since, by the step's name.
    pub(crate) failures: Arc<HashMap<&'static str, Failed>>,
}

/// A step that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    /// In which turn.
    pub(crate) turn: u64,
    /// With what.
    pub(crate) error: Error,
    /// How often in a row.
    pub(crate) attempts: u32,
}

/// What the records said.
#[derive(Clone, Debug, Default)]
pub(crate) enum Sight {
    #[default]
    Nothing,
    Volume(Arc<Family>),
    Snapshot(Arc<Option<Snapshot>>),
    Group(Arc<Option<Group>>),
}

/// One driver.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) subject: Subject,
    progress: watch::Sender<Progress>,
    failures: Mutex<Arc<HashMap<&'static str, Failed>>>,
    turns: AtomicU64,
    woken: AtomicBool,
    hurry: AtomicBool,
    running: AtomicBool,
    bell: Notify,
}

/// All drivers.
#[derive(Debug, Default)]
pub(crate) struct Drivers {
    all: Mutex<HashMap<Subject, Arc<Driver>>>,
}

/// A request that waits for a driver.
#[derive(Debug)]
pub(crate) struct Watcher {
    drivers: Arc<Drivers>,
    driver: Arc<Driver>,
    receiver: Option<watch::Receiver<Progress>>,
    since: u64,
}

impl Driver {
    fn new(subject: Subject) -> Self {
        Self {
            subject,
            progress: watch::Sender::new(Progress::default()),
            failures: Mutex::default(),
            turns: AtomicU64::new(0),
            woken: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            running: AtomicBool::new(false),
            bell: Notify::new(),
        }
    }

    /// Begins a turn. Answers its number and whether somebody just asked.
    pub(crate) fn begin(&self) -> (u64, bool) {
        self.woken.store(false, Ordering::SeqCst);
        let hurry = self.hurry.swap(false, Ordering::SeqCst);
        (self.turns.fetch_add(1, Ordering::SeqCst) + 1, hurry)
    }

    /// Reports what a turn saw.
    pub(crate) fn report(&self, turn: u64, sight: Sight) {
        let failures = Arc::clone(&self.failures.lock().unwrap_or_else(PoisonError::into_inner));
        self.progress.send_replace(Progress { turn, sight, failures });
    }

    /// Notes that a step failed.
    pub(crate) fn failed(&self, step: &'static str, failed: Failed) {
        Arc::make_mut(&mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner))
            .insert(step, failed);
    }

    /// Notes that a step succeeded.
    pub(crate) fn succeeded(&self, step: &'static str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.contains_key(step) {
            Arc::make_mut(&mut *failures).remove(step);
        }
    }

    /// Returns when somebody rings.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }
}

impl Drivers {
    /// Watches a subject; to be called before the wish is committed.
    pub(crate) fn watch(self: &Arc<Self>, subject: Subject) -> Watcher {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let driver = Arc::clone(all.entry(subject).or_insert_with(|| Arc::new(Driver::new(subject))));
        let receiver = Some(driver.progress.subscribe());
        let since = driver.turns.load(Ordering::SeqCst);
        Watcher { drivers: Arc::clone(self), driver, receiver, since }
    }

    /// Rings a subject's driver. Answers it if it has to be started.
    pub(crate) fn ring(&self, subject: Subject, hurry: bool) -> Option<Arc<Driver>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let driver = all.entry(subject).or_insert_with(|| Arc::new(Driver::new(subject)));
        driver.woken.store(true, Ordering::SeqCst);
        if hurry {
            driver.hurry.store(true, Ordering::SeqCst);
        }
        if driver.running.swap(true, Ordering::SeqCst) {
            driver.bell.notify_one();
            None
        } else {
            Some(Arc::clone(driver))
        }
    }

    /// Whether somebody waits for a subject, or drives it.
    pub(crate) fn is_known(&self, subject: Subject) -> bool {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&subject)
    }

    /// Everything that somebody waits for, or drives.
    pub(crate) fn all(&self) -> Vec<Subject> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Lets a driver that has nothing to do end; false if somebody rang meanwhile.
    pub(crate) fn retire(&self, driver: &Driver) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if driver.woken.load(Ordering::SeqCst) {
            return false;
        }
        driver.running.store(false, Ordering::SeqCst);
        if driver.progress.receiver_count() == 0 {
            all.remove(&driver.subject);
        }
        true
    }

    /// Notes that a driver has ended whatever it was doing.
    pub(crate) fn gone(&self, driver: &Driver) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&driver.subject);
    }

    fn leave(&self, driver: &Driver) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if !driver.running.load(Ordering::SeqCst) && driver.progress.receiver_count() == 0 {
            all.remove(&driver.subject);
        }
    }
}

impl Watcher {
    /// What is watched.
    pub(crate) fn subject(&self) -> Subject {
        self.driver.subject
    }

    /// Notes that the wish is committed now: only turns that begin later count.
    pub(crate) fn committed(&mut self) {
        self.since = self.driver.turns.load(Ordering::SeqCst);
    }

    /// What one of these steps failed with since the wish was committed.
    pub(crate) fn failure<'a>(&self, progress: &'a Progress, steps: &[&'static str]) -> Option<&'a Failed> {
        steps.iter().filter_map(|step| progress.failures.get(step)).find(|failed| failed.turn > self.since)
    }

    /// The next report of a turn that counts.
    pub(crate) async fn next(&mut self) -> Result<Progress, Error> {
        let ended = || Error::unavailable("the daemon is stopping: try again when it is back").pending();
        let receiver = self.receiver.as_mut().ok_or_else(ended)?;
        loop {
            {
                let progress = receiver.borrow_and_update();
                if progress.turn > self.since {
                    return Ok(progress.clone());
                }
            }
            receiver.changed().await.map_err(|_| ended())?;
        }
    }

    /// Waits for the report after the one that was just seen.
    pub(crate) async fn changed(&mut self) -> Result<(), Error> {
        let ended = || Error::unavailable("the daemon is stopping: try again when it is back").pending();
        self.receiver.as_mut().ok_or_else(ended)?.changed().await.map_err(|_| ended())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.receiver = None;
        self.drivers.leave(&self.driver);
    }
}
