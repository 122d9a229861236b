//! The store in memory: for tests, and for a controller whose records are a cache of what its backends say.
//!
//! It also models what a crash does to a journal. Commits since the last flush are kept apart, so that
//! [`MemoryStore::after_crash`] can answer the store as the next process would find it, with lazy commits
//! kept, dropped, or kept up to one of them; and it can stop committing at any commit, as a process does that
//! is killed there.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use async_trait::async_trait;
use kato_orchestrator::{
    Error,
    ports::store::{
        Batch, Changes, Claim, Durability, Entry, Key, Revision, Store,
        members::{Attendance, Lease, LeaseId, Members, Present},
    },
};
use tokio::sync::oneshot;

use crate::{
    attendance::Attendances,
    claims::Claims,
    committer::{Applied, Asked, Committer, Counters, Engine, REVISIONS_PER_EPOCH},
    watch::History,
};

/// What a crash does to commits that were lazy and not yet flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LazyFate {
    /// They had reached the disk.
    Kept,
    /// None had.
    Dropped,
    /// So many of them had, in their order.
    FirstKept(usize),
}

/// A journal in memory. A clone is the same node's; [`MemoryStore::of_another_node`] is somebody else's door to the same
/// records.
#[derive(Clone)]
pub struct MemoryStore {
    room: Arc<Room>,
    /// What this node's claims are made under, once it attends.
    lease: Arc<Mutex<Option<LeaseId>>>,
}

struct Room {
    queue: Mutex<Vec<Asked>>,
    desk: Mutex<Desk>,
    claims: Claims,
    attendances: Attendances,
    history: Arc<History>,
    counters: Arc<Counters>,
}

/// What is worked on one group at a time.
struct Desk {
    committer: Committer,
    journal: Journal,
}

struct Journal {
    /// What every reader sees.
    entries: BTreeMap<Key, Entry>,
    /// What a crash leaves in any case.
    durable: BTreeMap<Key, Entry>,
    /// What was committed since.
    tail: Vec<(Revision, Batch)>,
    history: Arc<History>,
    claims: Claims,
    counters: Arc<Counters>,
    stop: Option<Stop>,
    /// Those who are never answered.
    stalled: Vec<oneshot::Sender<Result<Revision, Error>>>,
}

#[derive(Clone, Copy)]
struct Stop {
    after: u64,
    silent: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::holding(BTreeMap::new(), REVISIONS_PER_EPOCH)
    }

    fn holding(entries: BTreeMap<Key, Entry>, last: Revision) -> Self {
        let history = Arc::new(History::new(last));
        let counters = Arc::new(Counters::default());
        let claims = Claims::new(last);
        let journal = Journal {
            durable: entries.clone(),
            entries,
            tail: Vec::new(),
            history: history.clone(),
            claims: claims.clone(),
            counters: counters.clone(),
            stop: None,
            stalled: Vec::new(),
        };
        let committer = Committer::new(last, counters.clone());
        Self {
            room: Arc::new(Room {
                queue: Mutex::default(),
                desk: Mutex::new(Desk { committer, journal }),
                attendances: Attendances::new(claims.clone()),
                claims,
                history,
                counters,
            }),
            lease: Arc::default(),
        }
    }

    /// The same records, for another node: with a lease and claims of its own.
    #[must_use]
    pub fn of_another_node(&self) -> Self {
        Self { room: self.room.clone(), lease: Arc::default() }
    }

    /// Lets a lease run out, as it does when its node is not heard for too long.
    pub fn lapse(&self, lease: LeaseId) {
        self.room.attendances.lapse(lease);
    }

    /// The store as the next process finds it when this one is killed now. This one goes on undisturbed, so
    /// that one run can be cut at many places.
    #[must_use]
    pub fn after_crash(&self, lazy: LazyFate) -> Self {
        let desk = self.room.desk();
        let kept = match lazy {
            LazyFate::Kept => usize::MAX,
            LazyFate::Dropped => 0,
            LazyFate::FirstKept(kept) => kept,
        };
        let mut entries = desk.journal.durable.clone();
        for (revision, batch) in desk.journal.tail.iter().take(kept) {
            apply(&mut entries, *revision, batch);
        }
        Self::holding(entries, (desk.committer.last() / REVISIONS_PER_EPOCH + 1) * REVISIONS_PER_EPOCH)
    }

    /// How many lazy commits a crash could take back now.
    #[must_use]
    pub fn lazy_tail(&self) -> usize {
        self.room.desk().journal.tail.len()
    }

    /// Refuses every commit after the next `n`, as a store does whose disk went away.
    pub fn fail_commits_after(&self, n: u64) {
        self.stop(n, false);
    }

    /// Neither carries out nor answers any commit after the next `n`: to whoever waits, the process stopped
    /// there.
    pub fn stall_commits_after(&self, n: u64) {
        self.stop(n, true);
    }

    fn stop(&self, n: u64, silent: bool) {
        let after = self.commits().saturating_add(n);
        self.room.desk().journal.stop = Some(Stop { after, silent });
    }

    /// How many batches were applied.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.room.counters.commits.load(Ordering::Relaxed)
    }

    /// How many flushes that took.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        self.room.counters.flushes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("entries", &self.room.desk().journal.entries.len()).finish()
    }
}

impl Room {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out whatever waits.
    fn serve(&self) {
        let mut desk = self.desk();
        let group = std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        if group.is_empty() {
            return;
        }
        let Desk { committer, journal } = &mut *desk;
        let (group, stalled) = journal.split(group);
        journal.stalled.extend(stalled);
        if !group.is_empty() {
            committer.serve(journal, group);
        }
    }
}

/// A commit happens even if whoever asked for it stops waiting.
struct Pushed<'a>(&'a Room);

impl Drop for Pushed<'_> {
    fn drop(&mut self) {
        self.0.serve();
    }
}

impl Journal {
    /// Those of a group that are carried out, and those who hear nothing.
    fn split(&self, mut group: Vec<Asked>) -> (Vec<Asked>, Vec<oneshot::Sender<Result<Revision, Error>>>) {
        let Some(Stop { after, silent: true }) = self.stop else { return (group, Vec::new()) };
        let left = after.saturating_sub(self.counters.commits.load(Ordering::Relaxed));
        let stalled = group.split_off(group.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        (group, stalled.into_iter().map(|asked| asked.answer).collect())
    }
}

impl Engine for Journal {
    fn revision_of(&mut self, key: &str) -> Result<Option<Revision>, Error> {
        Ok(self.entries.get(key).map(|entry| entry.revision))
    }

    fn is_claimed(&self, key: &str, token: u64) -> bool {
        self.claims.is_held(key, token)
    }

    fn admit(&mut self, _batch: &Batch) -> Result<(), Error> {
        let commits = self.counters.commits.load(Ordering::Relaxed);
        if self.stop.is_some_and(|stop| commits >= stop.after) {
            return Err(Error::unavailable("the store in memory was told to stop here").pending());
        }
        Ok(())
    }

    fn write(&mut self, revision: Revision, batch: &Batch) -> Result<(), Error> {
        // A group is served under the desk's lock, so no reader is here before it is published.
        apply(&mut self.entries, revision, batch);
        self.tail.push((revision, Batch { guards: Vec::new(), ..batch.clone() }));
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        for (revision, batch) in std::mem::take(&mut self.tail) {
            apply(&mut self.durable, revision, &batch);
        }
        Ok(())
    }

    fn publish(&mut self, applied: Vec<Applied>) {
        self.history.push(applied);
    }
}

fn apply(entries: &mut BTreeMap<Key, Entry>, revision: Revision, batch: &Batch) {
    for key in &batch.deletes {
        entries.remove(key);
    }
    for (key, value) in &batch.puts {
        entries.insert(key.clone(), Entry { key: key.clone(), value: value.clone(), revision });
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&self, key: &str) -> Result<Option<Entry>, Error> {
        Ok(self.room.desk().journal.entries.get(key).cloned())
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let desk = self.room.desk();
        let entries = desk.journal.entries.range::<str, _>((from, Bound::Unbounded));
        Ok(entries
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn commit(&self, batch: Batch, durability: Durability) -> Result<Revision, Error> {
        let (answer, mut heard) = oneshot::channel();
        self.room.queue.lock().unwrap_or_else(PoisonError::into_inner).push(Asked {
            batch,
            durability,
            answer,
        });
        let pushed = Pushed(&self.room);
        // Others may join the group, and the first of them to come back carries it out.
        tokio::task::yield_now().await;
        if let Ok(outcome) = heard.try_recv() {
            std::mem::forget(pushed);
            return outcome;
        }
        drop(pushed);
        heard.await.unwrap_or_else(|closed| {
            Err(Error::internal("the store forgot a commit").caused_by(closed).pending())
        })
    }

    async fn claim(&self, key: &str) -> Result<Box<dyn Claim>, Error> {
        let lease = *self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        self.room.attendances.check(lease)?;
        Ok(Box::new(self.room.claims.claim(key, lease).await))
    }

    async fn watch_from(&self, prefix: &str, revision: Revision) -> Result<Changes, Error> {
        self.room.history.watch_from(prefix, revision).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.commit(Batch::default(), Durability::Durable).await.map(|_| ())
    }
}

#[async_trait]
impl Members for MemoryStore {
    async fn attend(&self, attendance: Attendance) -> Result<Box<dyn Lease>, Error> {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.room.attendances.attend(attendance, *lease)?;
        *lease = Some(kept.id());
        Ok(Box::new(kept))
    }

    async fn present(&self) -> Result<Present, Error> {
        Ok(self.room.attendances.present())
    }

    async fn changed_since(&self, revision: Revision) -> Result<Present, Error> {
        self.room.attendances.changed_since(revision).await
    }

    async fn schema(&self) -> Result<u16, Error> {
        Ok(self.room.attendances.schema())
    }

    async fn believe(&self, _: Vec<Entry>) -> Result<bool, Error> {
        // Nothing sets it back, so nothing was refused.
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> Batch {
        Batch { puts: vec![(key.to_owned(), vec![1])], ..Batch::default() }
    }

    async fn keys(store: &MemoryStore) -> Vec<Key> {
        store.scan("", None, usize::MAX).await.unwrap().into_iter().map(|entry| entry.key).collect()
    }

    #[tokio::test]
    async fn a_crash_takes_back_lazy_commits_in_their_order_and_no_durable_one() {
        let store = MemoryStore::new();
        store.commit(put("a"), Durability::Lazy).await.unwrap();
        store.commit(put("b"), Durability::Durable).await.unwrap();
        store.commit(put("c"), Durability::Lazy).await.unwrap();
        store
            .commit(Batch { deletes: vec!["a".into()], ..Batch::default() }, Durability::Lazy)
            .await
            .unwrap();
        let last = store.commit(put("d"), Durability::Lazy).await.unwrap();
        assert_eq!(store.lazy_tail(), 3);
        for (fate, left) in [
            (LazyFate::Kept, vec!["b", "c", "d"]),
            (LazyFate::Dropped, vec!["a", "b"]),
            (LazyFate::FirstKept(1), vec!["a", "b", "c"]),
            (LazyFate::FirstKept(2), vec!["b", "c"]),
        ] {
            let next = store.after_crash(fate);
            assert_eq!(keys(&next).await, left, "{fate:?}");
            assert!(next.commit(put("e"), Durability::Lazy).await.unwrap() > last, "revisions never repeat");
        }
        store.flush().await.unwrap();
        assert_eq!(keys(&store.after_crash(LazyFate::Dropped)).await, ["b", "c", "d"]);
    }

    #[tokio::test]
    async fn a_stopped_store_applies_nothing_more() {
        let store = MemoryStore::new();
        store.fail_commits_after(1);
        store.commit(put("a"), Durability::Durable).await.unwrap();
        assert!(!store.commit(put("b"), Durability::Durable).await.unwrap_err().is_final());
        assert_eq!(keys(&store.after_crash(LazyFate::Kept)).await, ["a"]);

        let store = MemoryStore::new();
        store.stall_commits_after(1);
        store.commit(put("a"), Durability::Durable).await.unwrap();
        let stalled = store.commit(put("b"), Durability::Durable);
        assert!(tokio::time::timeout(std::time::Duration::ZERO, stalled).await.is_err());
        assert_eq!(keys(&store).await, ["a"]);
    }

    #[tokio::test]
    async fn a_commit_whose_caller_went_away_happens_all_the_same() {
        let store = MemoryStore::new();
        tokio::select! {
            biased;
            _ = store.commit(put("a"), Durability::Durable) => panic!("answered at once"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(keys(&store.after_crash(LazyFate::Dropped)).await, ["a"]);
    }
}
