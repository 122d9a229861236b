//! The store on sled.
//!
//! *Durable.* sled's `flush` waits for its writes and no more: a power cut may still take them back. So a
//! durable group is flushed by sled and then synced by us through [`Files`]. sled believes that what it flushed
//! is durable, and says so in the header of each segment of its log: then it reuses the segments whose records
//! have moved, and at its next start looks for no gap before that point. Both are only safe if it is true, and
//! it is as long as less than a segment is written between two syncs. So segments are long (4 MiB), never more
//! than a 64th of one goes without a sync ([`window`]), and a batch is a 16th at most: sled writes some three
//! bytes of its own for each of ours. Records are short enough (32 KiB) that a node of sled's, which has up to
//! 16 of them, never takes a file of its own (a blob, of a quarter of a segment), for a lost one is overlooked.
//!
//! *Few writes.* Each batch that sled applies costs it two writes to the disk and a stampede of its threads. So
//! commits are gathered: a group becomes one batch of sled's, lazy commits wait in memory, where readers see
//! them, and go along with the next durable group, or after a moment; and of a key only the last word is
//! written. What has just come and gone again (the mark of a driver at work, most often) is never written.
//!
//! *Order.* One thread commits (see `committer.rs`). What readers see meanwhile is `view.rs`.
//!
//! *Full disk.* The reserve is given up before sled meets a full disk, as a rule. If somebody else was faster,
//! sled refuses everything until it is opened again: then the reserve is given up, the engine opened anew, and
//! the batch that it may not have taken is written again.
//!
//! *Trouble.* After a failed sync nothing that is in memory can be trusted, so the store refuses all commits
//! until kato is started again. sled answers some damage with a panic: it ends in an error here.
//!
//! Opening is in `open.rs`, the folder in `place.rs`, the form of a value in `frame.rs`.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use kato_orchestrator::{
    Error, Kind,
    ports::store::{
        Batch, Changes, Claim, Durability, Entry, Key, Revision, Store,
        members::{Attendance, Lease, LeaseId, Members, Present},
    },
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Config,
    attendance::Attendances,
    claims::Claims,
    committer::{Applied, Asked, Committer, Counters, Engine, Layer, layer, weight},
    frame, look, open,
    place::{self, Files, Lock},
    reserve::Reserve,
    tally::{self, Mark, Tally},
    view::View,
    watch::History,
};

/// How many batches one group has at most.
const GROUP: usize = 256;
/// How long lazy commits wait for somebody else's flush.
const LAZY_WAIT: Duration = Duration::from_millis(250);
/// Pages that are larger are read off the async threads.
const QUICK_PAGE: usize = 16;

/// A journal on disk.
pub struct SledStore {
    shared: Arc<Shared>,
    queue: Option<mpsc::Sender<Asked>>,
    thread: Option<JoinHandle<bool>>,
}

pub(crate) struct Shared {
    config: Config,
    view: RwLock<View>,
    claims: Claims,
    attendances: Attendances,
    /// What claims are made under, once somebody attends.
    lease: Mutex<Option<LeaseId>>,
    history: History,
    counters: Arc<Counters>,
    _lock: Lock,
}

/// The engine, open.
pub(crate) struct Opened {
    pub(crate) db: sled::Db,
    pub(crate) records: sled::Tree,
}

impl SledStore {
    /// Opens the store, or makes one where there is none. Blocks; for the start of the daemon.
    pub fn open(config: Config) -> Result<Self, Error> {
        let started = open::open(&config)?;
        let counters = Arc::new(Counters::default());
        let claims = Claims::new(started.floor);
        let shared = Arc::new(Shared {
            view: RwLock::new(View::over(started.opened)),
            attendances: Attendances::new(claims.clone()),
            lease: Mutex::default(),
            claims,
            history: History::new(started.floor),
            counters: counters.clone(),
            _lock: started.lock,
            config,
        });
        let committer = Committer::new(started.floor, counters);
        let desk = Desk {
            shared: shared.clone(),
            files: started.files,
            reserve: started.reserve,
            tally: started.tally,
            mark: started.mark,
            pending: Layer::default(),
            unsynced: None,
            newest: started.floor,
            weight: 0,
            broken: false,
            failed: None,
        };
        let (queue, asked) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("kato-store".to_owned())
            .spawn(move || run(committer, desk, &asked))
            .map_err(|error| Error::unavailable("the store cannot start its thread").caused_by(error))?;
        Ok(Self { shared, queue: Some(queue), thread: Some(thread) })
    }

    /// How many batches were applied since it was opened.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.shared.counters.commits.load(Ordering::Relaxed)
    }

    /// How many flushes that took.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.shared.counters.flushes.load(Ordering::Relaxed)
    }

    /// Every record that is damaged, with what is wrong with it. Blocks, and reads everything.
    #[must_use]
    pub fn damage(&self) -> Vec<(Key, Error)> {
        let view = self.shared.view.read().unwrap_or_else(PoisonError::into_inner);
        let Some(opened) = view.opened() else { return Vec::new() };
        let mut damage = Vec::new();
        for item in &opened.records {
            match item {
                Ok((key, value)) if !key.is_empty() => {
                    if let Err(error) = frame::unpack(&key, &value) {
                        damage.push((String::from_utf8_lossy(&key).into_owned(), error));
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    damage.push((String::new(), unreadable(&self.shared.config.path, error)));
                    break;
                }
            }
        }
        damage
    }
}

impl SledStore {
    async fn page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        if limit <= QUICK_PAGE {
            return self.shared.scan(prefix, after, limit);
        }
        let shared = self.shared.clone();
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        tokio::task::spawn_blocking(move || shared.scan(&prefix, after.as_deref(), limit))
            .await
            .unwrap_or_else(|error| Err(Error::internal("reading the store was cut off").caused_by(error)))
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.queue = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(true)) => {
                self.shared.view.write().unwrap_or_else(PoisonError::into_inner).close();
                look::seal(&self.shared.config.path);
            }
            Some(Err(_)) => tracing::error!("the store's thread panicked"),
            Some(Ok(false)) | None => {}
        }
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore").field("path", &self.shared.config.path).finish()
    }
}

/// How many bytes may be written without a sync.
fn window(config: &Config) -> usize {
    config.segment / 64
}

/// The store's thread. Answers whether everything is durable at its end.
fn run(mut committer: Committer, mut desk: Desk, asked: &mpsc::Receiver<Asked>) -> bool {
    let window = window(&desk.shared.config);
    loop {
        let first = if desk.weight == 0 {
            asked.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        } else {
            asked.recv_timeout(LAZY_WAIT)
        };
        let mut group = match first {
            Ok(first) => vec![first],
            Err(mpsc::RecvTimeoutError::Timeout) => Vec::new(),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        };
        let mut heavy: usize = group.iter().map(|asked| weight(&asked.batch)).sum();
        while group.len() < GROUP && heavy < window {
            let Ok(next) = asked.try_recv() else { break };
            heavy += weight(&next.batch);
            group.push(next);
        }
        let idle = group.is_empty();
        let carried = catch_unwind(AssertUnwindSafe(|| {
            if idle {
                if let Err(error) = desk.sync() {
                    tracing::error!(%error, "lazy commits could not be made durable");
                }
            } else {
                committer.serve(&mut desk, group);
            }
        }));
        if carried.is_err() {
            desk.failed.get_or_insert_with(|| {
                Error::internal("the store's engine panicked (see the log): start kato again, and report it")
                    .pending()
            });
        }
    }
    if desk.weight > 0
        && let Err(error) = catch_unwind(AssertUnwindSafe(|| desk.sync()))
            .unwrap_or_else(|_| Err(Error::internal("the engine panicked")))
    {
        tracing::error!(%error, "lazy commits could not be made durable at the end");
    }
    desk.weight == 0 && !desk.broken && desk.failed.is_none()
}

/// What the store's thread works with.
struct Desk {
    shared: Arc<Shared>,
    files: Files,
    reserve: Reserve,
    /// What the group at work has written: newer than anything, and unseen.
    pending: Layer,
    /// The batch that sled was given since the last sync, with what the records add up to then: to be written
    /// again should the engine have to be opened again.
    unsynced: Option<(Layer, Tally)>,
    /// The newest revision that was written.
    newest: Revision,
    /// What the records of sled add up to.
    tally: Tally,
    mark: Mark,
    /// About how many bytes are not synced yet.
    weight: usize,
    /// Whether the engine met a full disk and has to be opened again.
    broken: bool,
    failed: Option<Error>,
}

impl Desk {
    fn check(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Does something with the engine. If it met a full disk, it is opened again first.
    fn with_room<T>(&mut self, act: impl Fn(&Opened) -> Result<T, sled::Error>) -> Result<T, Error> {
        self.check()?;
        if !self.broken {
            match self.shared.with(&act) {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(sled::Error::Io(error))) if is_full(&error) => {
                    tracing::warn!(store = %self.shared.config.path.display(), %error, "the engine met a full disk");
                }
                Ok(Err(error)) => {
                    let error = unwritable(&self.shared.config.path, &error);
                    self.failed = Some(error.clone());
                    return Err(error);
                }
                // It could not be opened again the last time.
                Err(_) => {}
            }
        }
        self.broken = true;
        self.reserve.give_up()?;
        self.start_again().map_err(|error| {
            tracing::error!(%error, "the engine could not be opened again");
            self.reserve.full().pending()
        })?;
        self.broken = false;
        self.shared.with(act)?.map_err(|error| unwritable(&self.shared.config.path, &error))
    }

    /// Opens the engine again after it met a full disk, and writes again what may not have reached it.
    fn start_again(&mut self) -> Result<(), Error> {
        let path = &self.shared.config.path;
        let mut view = self.shared.view.write().unwrap_or_else(PoisonError::into_inner);
        view.close();
        place::tidy(path)?;
        let opened = open::open_engine(&self.shared.config, &place::engine(path))?;
        self.files = Files::open(&place::engine(path))?;
        if let Some((layer, tally)) = &self.unsynced {
            opened.records.apply_batch(packed(layer, *tally)).map_err(|error| unwritable(path, &error))?;
        }
        opened.db.flush().map_err(|error| unwritable(path, &error))?;
        view.reopen(opened);
        Ok(())
    }

    /// Gives sled everything that it does not have yet, as one batch.
    fn hand_over(&mut self) -> Result<(), Error> {
        let layer = self.shared.view.read().unwrap_or_else(PoisonError::into_inner).unwritten(&self.pending);
        let (before, newest) = (self.tally, self.newest);
        // Also sees to it that the engine is open, with all that it was given before.
        let tally = self.with_room(|opened| tallied(opened, before, newest, &layer))?;
        let batch = packed(&layer, tally);
        {
            let mut view = self.shared.view.write().unwrap_or_else(PoisonError::into_inner);
            view.hide(&self.shared.config.path, &self.pending)?;
        }
        self.unsynced = Some((layer, tally));
        self.tally = tally;
        self.with_room(|opened| opened.records.apply_batch(batch.clone()))
    }
}

impl Engine for Desk {
    fn revision_of(&mut self, key: &str) -> Result<Option<Revision>, Error> {
        if let Some(entry) = self.pending.get(key) {
            return Ok(entry.as_ref().map(|entry| entry.revision));
        }
        if let Some(revision) = self.shared.view.read().unwrap_or_else(PoisonError::into_inner).fresh(key) {
            return Ok(revision);
        }
        match self.with_room(|opened| opened.records.get(key))? {
            Some(value) => frame::unpack(key.as_bytes(), &value).map(|entry| Some(entry.revision)),
            None => Ok(None),
        }
    }

    fn is_claimed(&self, key: &str, token: u64) -> bool {
        self.shared.claims.is_held(key, token)
    }

    fn admit(&mut self, batch: &Batch) -> Result<(), Error> {
        self.check()?;
        let nothing = batch.puts.is_empty() && batch.deletes.is_empty();
        self.reserve.admit(batch.frees_space || nothing)
    }

    fn write(&mut self, revision: Revision, batch: &Batch) -> Result<(), Error> {
        let weight = weight(batch);
        if self.weight > 0 && self.weight + weight > window(&self.shared.config) {
            self.sync()?;
        }
        self.pending.extend(layer(revision, Batch { guards: Vec::new(), ..batch.clone() }));
        self.newest = revision;
        self.weight += weight;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.check()?;
        if self.weight == 0 {
            // Readers ask for a flush when the engine failed them.
            return self.with_room(|opened| opened.records.contains_key(tally::KEY).map(drop));
        }
        let began = Instant::now();
        self.hand_over()?;
        self.with_room(|opened| opened.db.flush().map(drop))?;
        self.files.sync().inspect_err(|error| self.failed = Some(error.clone()))?;
        metrics::histogram!("kato_journal_fsync_seconds").record(began.elapsed());
        self.shared.view.write().unwrap_or_else(PoisonError::into_inner).written();
        self.pending.clear();
        self.unsynced = None;
        self.weight = 0;
        if let Err(error) = self.mark.set(self.tally.revision) {
            tracing::warn!(%error, "the last sync could not be noted");
        }
        Ok(())
    }

    fn publish(&mut self, applied: Vec<Applied>) {
        let mut view = self.shared.view.write().unwrap_or_else(PoisonError::into_inner);
        view.publish(std::mem::take(&mut self.pending));
        self.shared.history.push(applied);
    }
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&Opened) -> T) -> Result<T, Error> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.opened().map(act).ok_or_else(|| closed(&self.config.path))
    }

    fn load(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).load(&self.config.path, key)
    }

    fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).scan(&self.config.path, prefix, after, limit)
    }
}

/// What sled takes for a layer, with the tally of all.
pub(crate) fn packed(layer: &Layer, tally: Tally) -> sled::Batch {
    let mut packed = sled::Batch::default();
    for (key, entry) in layer {
        match entry {
            Some(entry) => packed.insert(key.as_bytes(), frame::pack(key, entry.revision, &entry.value)),
            None => packed.remove(key.as_bytes()),
        }
    }
    packed.insert(tally::KEY, tally.pack());
    packed
}

/// What the records add up to after a layer whose newest revision is this.
pub(crate) fn tallied(
    opened: &Opened,
    mut tally: Tally,
    newest: Revision,
    layer: &Layer,
) -> Result<Tally, sled::Error> {
    for (key, entry) in layer {
        if let Some(old) = opened.records.get(key)? {
            tally.remove(&old);
        }
        if let Some(entry) = entry {
            tally.add(&frame::pack(key, entry.revision, &entry.value));
        }
    }
    tally.revision = newest;
    Ok(tally)
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn unwritable(path: &Path, error: &sled::Error) -> Error {
    Error::unavailable(format!(
        "the store at {} cannot be written ({error}): check its disk, then start kato again",
        path.display()
    ))
    .pending()
}

/// sled's errors of reading, and of opening.
pub(crate) fn unreadable(path: &Path, error: sled::Error) -> Error {
    let remedy = "move `sled` and `mark` in it away (not `dumps`), start kato again, and run `kato recover --scan`: it rebuilds \
         the records from the dumps and the backends";
    match error {
        sled::Error::Io(error) => Error::unavailable(format!(
            "the store at {} cannot be read ({error}): check its disk, then start kato again",
            path.display()
        ))
        .caused_by(error),
        error => Error::internal(format!("the store at {} is damaged ({error}): {remedy}", path.display()))
            .caused_by(error),
    }
}

pub(crate) fn closed(path: &Path) -> Error {
    Error::unavailable(format!(
        "the store at {} is being opened again: check that its disk is not full",
        path.display()
    ))
}

#[async_trait]
impl Store for SledStore {
    async fn load(&self, key: &str) -> Result<Option<Entry>, Error> {
        if key.is_empty() {
            return Ok(None);
        }
        match self.shared.load(key) {
            // It may have met a full disk: then the store's thread opens it again.
            Err(error) if error.kind == Kind::Unavailable => {
                self.flush().await?;
                self.shared.load(key)
            }
            answer => answer,
        }
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        match self.page(prefix, after, limit).await {
            Err(error) if error.kind == Kind::Unavailable => {
                self.flush().await?;
                self.page(prefix, after, limit).await
            }
            answer => answer,
        }
    }

    async fn commit(&self, batch: Batch, durability: Durability) -> Result<Revision, Error> {
        let began = Instant::now();
        let (answer, heard) = oneshot::channel();
        let gone = || Error::unavailable("the store was closed: start kato again").pending();
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        queue.send(Asked { batch, durability, answer }).map_err(|_| gone())?;
        let outcome = heard.await.unwrap_or_else(|_| Err(gone()));
        metrics::histogram!("kato_journal_commit_seconds").record(began.elapsed());
        outcome
    }

    async fn claim(&self, key: &str) -> Result<Box<dyn Claim>, Error> {
        let lease = *self.shared.lease.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.attendances.check(lease)?;
        Ok(Box::new(self.shared.claims.claim(key, lease).await))
    }

    async fn watch_from(&self, prefix: &str, revision: Revision) -> Result<Changes, Error> {
        self.shared.history.watch_from(prefix, revision).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.commit(Batch::default(), Durability::Durable).await.map(|_| ())
    }
}

/// Nobody else shares it: whoever attends is alone, and stays for as long as the process.
#[async_trait]
impl Members for SledStore {
    async fn attend(&self, attendance: Attendance) -> Result<Box<dyn Lease>, Error> {
        let mut lease = self.shared.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.shared.attendances.attend(attendance, *lease)?;
        *lease = Some(kept.id());
        Ok(Box::new(kept))
    }

    async fn present(&self) -> Result<Present, Error> {
        Ok(self.shared.attendances.present())
    }

    async fn changed_since(&self, revision: Revision) -> Result<Present, Error> {
        self.shared.attendances.changed_since(revision).await
    }

    async fn schema(&self) -> Result<u16, Error> {
        Ok(self.shared.attendances.schema())
    }

    async fn believe(&self, _: Vec<Entry>) -> Result<bool, Error> {
        // Whoever sets a disk back sets back all that there is.
        Ok(false)
    }
}
