//! The records as a whole: opening them as configured, and writing all of them down. Everything else about
//! them is the hall's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
};

use kato_orchestrator::{
    Error,
    model::Timestamp,
    ops::Dump,
    ports::{
        Store,
        store::{Entry, Key},
    },
    records::keys,
};
use kato_store::{MemoryStore, SledStore};

use crate::config::{Config, StoreKind};

/// The journal of this daemon.
pub(crate) struct Journal {
    pub(crate) store: Arc<dyn Store>,
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

impl Journal {
    /// Opens it. Blocks.
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let keep = config.store.dumps;
        Ok(match config.store.kind {
            StoreKind::Memory => {
                tracing::warn!("the records are kept in memory and end with this process");
                Self { store: Arc::new(MemoryStore::new()), folder: None, keep: 0 }
            }
            StoreKind::Sled => {
                let place = place(config);
                let folder = Some(place.path.clone());
                Self { store: Arc::new(SledStore::open(place)?), folder, keep }
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

    /// Writes a dump beside the store, if dumps are kept.
    pub(crate) async fn keep_dump(&self, now: Timestamp) -> Result<Option<PathBuf>, Error> {
        match &self.folder {
            Some(folder) if self.keep > 0 => {
                kato_store::keep_dump(Arc::clone(&self.store), folder, now, self.keep).await.map(Some)
            }
            _ => Ok(None),
        }
    }
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
