//! The records as a whole: opening them as configured, and writing all of them down. Everything else about
//! them is the hall's.

use std::{path::PathBuf, sync::Arc};

use kato_orchestrator::{Error, model::Timestamp, ports::Store};
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
