//! What stands between a node and the records: they can be away, answers can be lost, and a suspended machine asks nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kato_orchestrator::{
    Error, Keepsake,
    ports::{
        Store,
        store::{
            Batch, Changes, Claim, Durability, Entry, Guard, Revision,
            members::{Attendance, Lease, LeaseId, Members, Present},
        },
    },
    testing::Fuse,
};
use kato_store::MemoryStore;
use tokio::time::Instant;

/// One node's weather.
#[derive(Debug, Default)]
pub(super) struct Weather {
    /// The records cannot be reached.
    pub(super) away: AtomicBool,
    /// The answer of the next commit is lost.
    pub(super) loses: AtomicBool,
    /// What was read a moment ago is believed, and no guard is looked at: what a broken house would do.
    pub(super) unguarded: AtomicBool,
    /// What was read a moment ago.
    believed: Mutex<HashMap<String, (Instant, Vec<Entry>)>>,
}

/// How long a broken house believes what it read.
const BELIEF: Duration = Duration::from_secs(5);

/// A node's door to the records.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) store: MemoryStore,
    pub(super) fuse: Arc<Fuse>,
    pub(super) weather: Arc<Weather>,
}

impl Door {
    async fn pass(&self) -> Result<(), Error> {
        self.fuse.pass().await;
        match self.weather.away.load(Ordering::SeqCst) {
            true => Err(Error::unavailable("the records cannot be reached")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Door {
    async fn load(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.pass().await?;
        self.store.load(key).await
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        self.pass().await?;
        if !self.weather.unguarded.load(Ordering::SeqCst) || !prefix.starts_with("v/") {
            return self.store.scan(prefix, after, limit).await;
        }
        let page = format!("{prefix} {after:?} {limit}");
        if let Some((when, read)) = self.weather.believed.lock().unwrap().get(&page)
            && when.elapsed() < BELIEF
        {
            return Ok(read.clone());
        }
        let read = self.store.scan(prefix, after, limit).await?;
        self.weather.believed.lock().unwrap().insert(page, (Instant::now(), read.clone()));
        Ok(read)
    }

    async fn commit(&self, mut batch: Batch, durability: Durability) -> Result<Revision, Error> {
        self.pass().await?;
        if self.weather.unguarded.load(Ordering::SeqCst) {
            batch.guards.retain(|guard| matches!(guard, Guard::Absent(_)));
        }
        let answer = self.store.commit(batch, durability).await;
        if self.weather.loses.swap(false, Ordering::SeqCst) && answer.is_ok() {
            return Err(Error::unavailable("the answer was lost").pending());
        }
        self.pass().await.map_err(Error::pending)?;
        answer
    }

    async fn claim(&self, key: &str) -> Result<Box<dyn Claim>, Error> {
        self.pass().await?;
        self.store.claim(key).await
    }

    async fn watch_from(&self, prefix: &str, revision: Revision) -> Result<Changes, Error> {
        self.pass().await?;
        let changes = self.store.watch_from(prefix, revision).await;
        self.pass().await?;
        changes
    }

    async fn flush(&self) -> Result<(), Error> {
        self.pass().await?;
        self.store.flush().await
    }
}

#[async_trait]
impl Members for Door {
    async fn attend(&self, attendance: Attendance) -> Result<Box<dyn Lease>, Error> {
        self.pass().await?;
        self.store.attend(attendance).await
    }

    async fn present(&self) -> Result<Present, Error> {
        self.pass().await?;
        self.store.present().await
    }

    async fn changed_since(&self, revision: Revision) -> Result<Present, Error> {
        self.pass().await?;
        let present = self.store.changed_since(revision).await;
        self.pass().await?;
        present
    }

    async fn schema(&self) -> Result<u16, Error> {
        self.pass().await?;
        self.store.schema().await
    }

    async fn believe(&self, remembered: Vec<Entry>) -> Result<bool, Error> {
        self.pass().await?;
        self.store.believe(remembered).await
    }
}

/// A node's disk, as far as its lease is on it.
#[derive(Debug, Default)]
pub(super) struct Disk(Mutex<Option<LeaseId>>);

impl Disk {
    pub(super) fn kept(&self) -> Option<LeaseId> {
        *self.0.lock().unwrap()
    }
}

#[async_trait]
impl Keepsake for Disk {
    async fn lease(&self) -> Result<Option<LeaseId>, Error> {
        Ok(self.kept())
    }

    async fn keep(&self, lease: LeaseId) -> Result<(), Error> {
        *self.0.lock().unwrap() = Some(lease);
        Ok(())
    }
}
