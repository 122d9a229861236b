//! The one order of all commits of a store, whatever keeps the bytes.
//!
//! All batches that wait at one moment are a group: each one's guards are checked against the newest revisions
//! (those of the group and lazy ones included), it is written, and when one of the group asked for it the
//! whole group is made durable with one flush. Only then does any reader see it: a reader that acted on a
//! record which a power cut then takes back would have acted without a record. Answers come last.
//!
//! This file knows no disk: [`Engine`] is implemented by `memory.rs` and `sled.rs`. etcd has an order of its own.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use kato_orchestrator::{
    Error,
    ports::store::{Batch, Durability, Entry, Guard, Key, Revision},
};
use tokio::sync::oneshot;

/// The longest key.
const KEY_LIMIT: usize = 2048;
/// The longest value. `sled.rs` says what depends on it.
const VALUE_LIMIT: usize = 32 << 10;
/// The largest batch; the same.
pub(crate) const BATCH_LIMIT: usize = 256 << 10;
/// A store that is opened for the n-th time counts its revisions from n times this, so that none is ever given
/// twice, not even for a lazy commit that a crash took back.
pub(crate) const REVISIONS_PER_EPOCH: Revision = 1 << 40;

/// A commit that waits.
pub(crate) struct Asked {
    pub(crate) batch: Batch,
    pub(crate) durability: Durability,
    pub(crate) answer: oneshot::Sender<Result<Revision, Error>>,
}

/// What one commit did, as watchers see it.
pub(crate) struct Applied {
    pub(crate) revision: Revision,
    pub(crate) events: Vec<(Key, Option<Entry>)>,
}

/// Where the bytes go.
pub(crate) trait Engine {
    /// The newest revision of a key, seen by readers or not.
    fn revision_of(&mut self, key: &str) -> Result<Option<Revision>, Error>;

    /// Whether a key is claimed with this token.
    fn is_claimed(&self, key: &str, token: u64) -> bool;

    /// Refuses a batch for which there is no room.
    fn admit(&mut self, batch: &Batch) -> Result<(), Error>;

    /// Writes a batch, unseen by readers: its deletes, then its puts.
    fn write(&mut self, revision: Revision, batch: &Batch) -> Result<(), Error>;

    /// Makes everything durable that was written.
    fn sync(&mut self) -> Result<(), Error>;

    /// Shows readers and watchers, in one moment, all that was written.
    fn publish(&mut self, applied: Vec<Applied>);
}

/// Counts what the store did, for tests and metrics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) flushes: AtomicU64,
}

/// Gives revisions and carries out groups.
#[derive(Debug)]
pub(crate) struct Committer {
    last: Revision,
    /// Of groups that could not be made durable yet; they may still become so.
    unpublished: Vec<Applied>,
    counters: Arc<Counters>,
}

impl Committer {
    pub(crate) fn new(last: Revision, counters: Arc<Counters>) -> Self {
        Self { last, unpublished: Vec::new(), counters }
    }

    /// The newest revision.
    pub(crate) fn last(&self) -> Revision {
        self.last
    }

    /// Carries out a group.
    pub(crate) fn serve(&mut self, engine: &mut impl Engine, group: Vec<Asked>) {
        metrics::histogram!("kato_journal_batch_size").record(u32::try_from(group.len()).unwrap_or(u32::MAX));
        let mut written = Vec::with_capacity(group.len());
        let mut applied = std::mem::take(&mut self.unpublished);
        // What could not be made durable when it had to be is shown to nobody before it is.
        let mut durable = !applied.is_empty();
        for asked in group {
            match self.write(engine, &asked.batch) {
                Ok(revision) => {
                    durable |= asked.durability == Durability::Durable;
                    let events: Vec<_> = layer(revision, asked.batch).into_iter().collect();
                    if !events.is_empty() {
                        applied.push(Applied { revision, events });
                    }
                    written.push((revision, asked.answer));
                }
                Err(error) => drop(asked.answer.send(Err(error))),
            }
        }
        let outcome = if durable { self.sync(engine) } else { Ok(()) };
        match outcome {
            Ok(()) => engine.publish(applied),
            Err(_) => self.unpublished = applied,
        }
        for (revision, answer) in written {
            // Whoever does not wait any more does not hear it.
            drop(answer.send(outcome.clone().map(|()| revision)));
        }
    }

    fn write(&mut self, engine: &mut impl Engine, batch: &Batch) -> Result<Revision, Error> {
        check(batch)?;
        engine.admit(batch)?;
        for guard in &batch.guards {
            let (key, wanted) = match guard {
                Guard::At(key, revision) => (key, Some(*revision)),
                Guard::Absent(key) => (key, None),
                Guard::Claimed(key, token) if engine.is_claimed(key, *token) => continue,
                Guard::Claimed(key, _) => return Err(claim_lost(key)),
            };
            if engine.revision_of(key)? != wanted {
                return Err(changed(key));
            }
        }
        let revision = self.last + 1;
        // Given even if the write fails, for nobody knows how far it came.
        self.last = revision;
        engine.write(revision, batch)?;
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        Ok(revision)
    }

    fn sync(&self, engine: &mut impl Engine) -> Result<(), Error> {
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        engine.sync()
    }
}

/// The error of a batch whose guard did not hold.
pub(crate) fn changed(key: &str) -> Error {
    Error::busy(format!("the record {key} was changed by another request in the meantime: try again"))
}

/// The error of a batch whose writer is not the claimant any more.
pub(crate) fn claim_lost(key: &str) -> Error {
    Error::unavailable(format!(
        "the claim of {key} ended before this was written, because its node was not heard for longer than its lease: \
         nothing was written, and whoever has the claim now goes on"
    ))
}

/// What cannot be kept is refused before anything happens.
pub(crate) fn check(batch: &Batch) -> Result<(), Error> {
    let keys = batch.puts.iter().map(|(key, _)| key).chain(&batch.deletes);
    for key in keys {
        if key.is_empty() || key.len() > KEY_LIMIT || !key.is_ascii() {
            return Err(Error::internal(format!(
                "the key {key:?} is not one to {KEY_LIMIT} bytes of plain ASCII: this is a bug, please report it"
            )));
        }
    }
    if let Some((key, value)) = batch.puts.iter().find(|(_, value)| value.len() > VALUE_LIMIT) {
        return Err(Error::out_of_range(format!(
            "the record {key} would take {} bytes and at most {VALUE_LIMIT} are allowed: use fewer or shorter \
             labels and parameters",
            value.len()
        )));
    }
    if weight(batch) > BATCH_LIMIT {
        return Err(Error::out_of_range(format!(
            "{} records of one change take more than {BATCH_LIMIT} bytes: change fewer at a time",
            batch.puts.len()
        )));
    }
    Ok(())
}

/// About how many bytes a batch adds to a journal.
pub(crate) fn weight(batch: &Batch) -> usize {
    let puts: usize = batch.puts.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
    let deletes: usize = batch.deletes.iter().map(|key| key.len() + 64).sum();
    puts + deletes
}

/// What happened to keys in the end; nothing stands for one that went.
pub(crate) type Layer = BTreeMap<Key, Option<Entry>>;

/// What a batch does to each of its keys in the end: deletes come before puts, and the last put counts.
pub(crate) fn layer(revision: Revision, batch: Batch) -> Layer {
    let mut layer: Layer = batch.deletes.into_iter().map(|key| (key, None)).collect();
    for (key, value) in batch.puts {
        layer.insert(key.clone(), Some(Entry { key, value, revision }));
    }
    layer
}
