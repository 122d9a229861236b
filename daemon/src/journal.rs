//! The records as a whole: opening them as configured, moving them from one kind of store to the other, and writing all of them down, once a day without being
//! asked. Everything else about them is the hall's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kato_orchestrator::{
    Error,
    ops::Dump,
    ports::{
        Clock, Members, Store,
        store::{Entry, Key},
    },
    records::keys,
};
use kato_store::{EtcdConfig, EtcdStore, Hidden, MemoryStore, SledStore, Tls, User};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, StoreKind},
    secrets,
};

/// How old the newest dump becomes.
const DAY: Duration = Duration::from_secs(86_400);

/// After a start there is other work first.
const SETTLED: Duration = Duration::from_secs(30);

/// When a dump that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(300);

/// The journal of this daemon.
pub(crate) struct Journal {
    pub(crate) store: Arc<dyn Store>,
    /// Who shares it, where hosts do, and where this one keeps what it remembers of it.
    pub(crate) shared: Option<(Arc<dyn Members>, Arc<dyn Store>)>,
    folder: Option<PathBuf>,
    keep: usize,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Where the records of this configuration are.
pub(crate) fn place(config: &Config) -> kato_store::Config {
    kato_store::Config::at(config.folders.data.join("store"))
}

/// Where the records in etcd are, with what proves who we are.
pub(crate) fn etcd(config: &Config) -> Result<EtcdConfig, Error> {
    let written = config.store.etcd.as_ref().ok_or_else(|| {
        Error::precondition(
            "the configuration names no etcd: write store.etcd.endpoints, the members of etcd",
        )
    })?;
    let file = |path: &Path| {
        fs::read_to_string(path).map_err(|error| {
            Error::precondition(format!("{} cannot be read: {error}", path.display())).caused_by(error)
        })
    };
    let tls = match &written.ca {
        Some(ca) => {
            let identity = match &written.identity {
                Some((cert, key)) => Some((file(cert)?, Hidden(file(key)?))),
                None => None,
            };
            Some(Tls { ca: file(ca)?, identity })
        }
        None => None,
    };
    let user = match &written.user {
        Some((name, password)) => {
            let password = secrets::read(password).map_err(|error| error.about("store.etcd.password"))?;
            let password = String::from_utf8(password)
                .map_err(|_| Error::precondition("it is no text").about("store.etcd.password"))?;
            Some(User { name: name.clone(), password: Hidden(password) })
        }
        None => None,
    };
    Ok(EtcdConfig {
        endpoints: written.endpoints.clone(),
        prefix: written.prefix.clone(),
        tls,
        user,
        node: config.node.id.to_string(),
        mark: place(config).path.join("etcd"),
        keep_history: written.keep_history,
        patience: written.patience,
    })
}

impl Journal {
    /// Opens it.
    pub(crate) async fn open(config: &Config) -> Result<Self, Error> {
        let keep = config.store.dumps;
        Ok(match config.store.kind {
            StoreKind::Memory => {
                tracing::warn!("the records are kept in memory and end with this process");
                Self { store: Arc::new(MemoryStore::new()), shared: None, folder: None, keep: 0 }
            }
            StoreKind::Sled => {
                let place = place(config);
                let folder = Some(place.path.clone());
                Self { store: local(place).await?, shared: None, folder, keep }
            }
            StoreKind::Etcd => {
                let folder = Some(place(config).path);
                let replica = local(kato_store::Config::at(config.folders.data.join("replica"))).await?;
                let store = Arc::new(EtcdStore::open_in_time(etcd(config)?).await?);
                Self { store: store.clone(), shared: Some((store, replica)), folder, keep }
            }
        })
    }

    /// All records of this moment, as lines of JSON.
    pub(crate) async fn dump(&self) -> Result<Vec<u8>, Error> {
        let mut lines = Vec::new();
        kato_store::dump(&*self.store, &mut lines).await?;
        Ok(lines)
    }

    /// What the records were once: the dump that a person names, else all that are kept, the newest first. One
    /// that cannot be read is told and passed over.
    pub(crate) async fn dumps(&self, named: Option<String>) -> Result<(Vec<Dump>, Vec<String>), Error> {
        let folder = self.folder.clone();
        let read = tokio::task::spawn_blocking(move || match (named, folder) {
            (Some(lines), _) => {
                let records = kato_store::read_dump(lines.as_bytes())?;
                Ok((vec![remembered("that you named".to_owned(), records)], Vec::new()))
            }
            (None, Some(folder)) => kept(&folder),
            (None, None) => Ok((Vec::new(), Vec::new())),
        });
        read.await.map_err(|error| Error::internal("reading the dumps was cut short").caused_by(error))?
    }

    /// Writes a dump beside the store as soon as the newest is a day old, whoever wrote that one, and soon again if
    /// it cannot be written. Ends with the daemon; at once where no dumps are kept.
    pub(crate) async fn keep_dumps(&self, clock: &dyn Clock, shutdown: &CancellationToken) {
        let Some(folder) = self.folder.as_deref().filter(|_| self.keep > 0) else { return };
        let mut due = clock.now().plus(SETTLED);
        // One of the future, from before the clock was set back, says nothing.
        if let Some(newest) = kato_store::newest_dump(folder).filter(|newest| *newest <= clock.now()) {
            due = due.max(newest.plus(DAY));
        }
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = clock.sleep_until(due) => {}
            }
            let now = clock.now();
            due = match kato_store::keep_dump(Arc::clone(&self.store), folder, now, self.keep).await {
                Ok(path) => {
                    tracing::info!(path = %path.display(), "a dump of the records was written");
                    now.plus(DAY)
                }
                Err(error) => {
                    tracing::error!(%error, again_at = %now.plus(AGAIN), "no dump of the records could be written");
                    now.plus(AGAIN)
                }
            };
        }
    }
}

/// Records on this host's disk.
async fn local(place: kato_store::Config) -> Result<Arc<dyn Store>, Error> {
    let opened = tokio::task::spawn_blocking(move || SledStore::open(place)).await;
    let opened =
        opened.map_err(|error| Error::internal("opening the records was cut short").caused_by(error))?;
    Ok(Arc::new(opened?))
}

/// All dumps beside the store. Of a record that several have only the newest is kept.
fn kept(folder: &Path) -> Result<(Vec<Dump>, Vec<String>), Error> {
    let (mut dumps, mut notes) = (Vec::new(), Vec::new());
    let mut seen: BTreeSet<Key> = BTreeSet::new();
    for path in kato_store::kept_dumps(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let records = File::open(&path)
            .map_err(|error| Error::unavailable(format!("it cannot be opened: {error}")))
            .and_then(|file| kato_store::read_dump(BufReader::new(file)));
        match records {
            Ok(mut records) => {
                records.retain(|key, _| !seen.contains(key) || *key == keys::cluster());
                seen.extend(records.keys().cloned());
                dumps.push(remembered(name, records));
            }
            Err(error) => notes.push(format!("the dump {name} was passed over: {}", error.message)),
        }
    }
    Ok((dumps, notes))
}

fn remembered(name: String, records: BTreeMap<Key, Vec<u8>>) -> Dump {
    let records = records.into_iter().map(|(key, value)| Entry { key, value, revision: 0 }).collect();
    Dump { name, records }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Mutex};

    use kato_orchestrator::model::Timestamp;

    use super::*;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    /// A clock on which nobody waits: who sleeps until a moment makes it come. It notes when that was, what dumps
    /// there were then, and ends everything after so many sleeps.
    struct Sleeper {
        now: Mutex<Timestamp>,
        slept: Mutex<Vec<(u64, usize)>>,
        folder: PathBuf,
        /// What stands in the way of a dump until the sleep of this number.
        mended: usize,
        sleeps: usize,
        shutdown: CancellationToken,
    }

    fn dumps(folder: &Path) -> usize {
        fs::read_dir(folder.join("dumps")).map_or(0, Iterator::count)
    }

    #[async_trait::async_trait]
    impl Clock for Sleeper {
        fn now(&self) -> Timestamp {
            *self.now.lock().unwrap()
        }

        async fn sleep_until(&self, when: Timestamp) {
            let number = {
                let mut slept = self.slept.lock().unwrap();
                slept.push((when.since(START).as_secs(), dumps(&self.folder)));
                slept.len()
            };
            if number == self.sleeps {
                self.shutdown.cancel();
                std::future::pending::<()>().await;
            }
            if number == self.mended {
                fs::remove_file(self.folder.join("dumps")).unwrap();
            }
            *self.now.lock().unwrap() = when.max(self.now());
        }
    }

    fn journal(folder: &Path, keep: usize) -> Journal {
        Journal { store: Arc::new(MemoryStore::new()), shared: None, folder: Some(folder.to_owned()), keep }
    }

    /// Lets a daemon that starts at this moment sleep so often, and tells when each sleep was to end, in seconds,
    /// and how many dumps there were before it.
    async fn run(folder: &Path, start: Timestamp, mended: usize, sleeps: usize) -> Vec<(u64, usize)> {
        let shutdown = CancellationToken::new();
        let sleeper = Sleeper {
            now: Mutex::new(start),
            slept: Mutex::default(),
            folder: folder.to_owned(),
            mended,
            sleeps,
            shutdown: shutdown.clone(),
        };
        let journal = journal(folder, 3);
        journal.keep_dumps(&sleeper, &shutdown).await;
        sleeper.slept.into_inner().unwrap()
    }

    const HOUR: u64 = 3_600;

    #[tokio::test]
    async fn a_dump_is_written_as_soon_as_the_newest_is_a_day_old_over_all_starts() {
        let folder = tempfile::tempdir().unwrap();
        let later = |hours: u64| START.plus(Duration::from_secs(hours * HOUR));
        let first = run(folder.path(), START, 0, 3).await;
        assert_eq!(first, [(30, 0), (30 + 24 * HOUR, 1), (30 + 48 * HOUR, 2)]);
        // Started again and again, it writes none before its time, and the one that is due at its time.
        for hours in [25, 30, 40] {
            assert_eq!(run(folder.path(), later(hours), 0, 1).await, [(30 + 48 * HOUR, 2)], "{hours}");
        }
        assert_eq!(run(folder.path(), later(47), 0, 2).await, [(30 + 48 * HOUR, 2), (30 + 72 * HOUR, 3)]);
        // After a week of rest the first is written at once, and the oldest goes.
        let rested = run(folder.path(), later(300), 0, 2).await;
        assert_eq!(rested, [(30 + 300 * HOUR, 3), (30 + 324 * HOUR, 3)]);
    }

    #[tokio::test]
    async fn a_dump_that_fails_is_tried_again_soon() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("dumps"), "in the way").unwrap();
        let slept = run(folder.path(), START, 3, 4).await;
        let ends: Vec<u64> = slept.iter().map(|(end, _)| *end).collect();
        assert_eq!(ends, [30, 330, 630, 630 + 24 * HOUR]);
        assert_eq!(dumps(folder.path()), 1);
    }

    #[tokio::test]
    async fn a_dump_of_the_future_keeps_none_back() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), START.plus(DAY * 100), 0, 2).await;
        assert_eq!(
            run(folder.path(), START, 0, 3).await,
            [(30, 1), (30 + 24 * HOUR, 2), (30 + 48 * HOUR, 3)]
        );
    }

    #[tokio::test]
    async fn no_dumps_are_written_where_none_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(folder.path(), 0);
        journal.keep_dumps(&crate::clock::SystemClock, &CancellationToken::new()).await;
        assert_eq!(dumps(folder.path()), 0);
    }
}
