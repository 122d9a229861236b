//! The journal: keys, values and revisions. The store knows nothing of what it keeps; `records.rs` does.
//!
//! One committer checks the guards of a batch against the newest revisions (lazy ones included), applies the
//! batch as a whole, makes it durable when it was asked to, and answers. Batches that wait together share one
//! flush. A batch is either applied or refused: after an error of kind `Busy` (a guard did not hold) nothing
//! of it happened; after any other error the outcome is unknown to the caller but the store is consistent.
//! A store that several hosts share finds out by itself what became of a commit whose answer was lost, and says
//! `Pending` only where it could not.
//!
//! **Claims** are the right to execute a step. On a shared store a claim lives as long as the lease of its node,
//! and a node may be paused for longer than that without noticing. So whoever writes under a claim puts
//! [`Claim::guard`] among the guards: the store compares it in the same stroke, and a late write is refused. Who
//! shares a store is in [`members`].

pub mod members;

use async_trait::async_trait;

use crate::error::Error;

/// A key: a path of plain ASCII words, as `records.rs` makes them. Ordered bytewise.
pub type Key = String;

/// How often a key was written; rises with every commit of the store and never repeats.
pub type Revision = u64;

/// A value as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: Vec<u8>,
    /// The commit that wrote it.
    pub revision: Revision,
}

/// What must still be true for a batch to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key stands at this revision.
    At(Key, Revision),
    /// There is no such key.
    Absent(Key),
    /// The claim of this key is still the one with this token. Only [`Claim::guard`] makes one, and calls the key as its
    /// store does. When it is not, the batch is refused as
    /// `Unavailable`, finally: reading again and trying again is of no use to a node that lost its claim.
    Claimed(Key, u64),
}

/// A change that happens whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// What must still be true.
    pub guards: Vec<Guard>,
    /// What is written.
    pub puts: Vec<(Key, Vec<u8>)>,
    /// What is removed; removing what is not there is fine.
    pub deletes: Vec<Key>,
    /// Whether it only frees space: such a batch is still taken when the disk is full.
    pub frees_space: bool,
}

/// When a commit is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it would survive a power cut, and with it every commit before it.
    Durable,
    /// When it is visible to every reader of this store. A crash may take it back, together with every later
    /// lazy one, but never out of order with a durable one.
    Lazy,
}

/// The right to execute a step, held until it is dropped, or until its node's lease ran out.
pub trait Claim: Send + Sync {
    /// Rises with every claim of the key: a step on another host can be told from a later one.
    fn fencing_token(&self) -> u64;

    /// What a batch carries that is written under this claim.
    fn guard(&self) -> Guard;

    /// Whether it is certainly held still, as far as this host's clock can tell: to be asked right before an
    /// effect outside of the store, which no guard protects. A false answer may be too careful.
    fn is_sure(&self) -> bool;
}

/// What happened to keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// Written entries, and `None` values for removed keys, in the order of their revisions.
    pub events: Vec<(Key, Option<Entry>)>,
    /// Watch again from here.
    pub next: Revision,
}

/// A journal of records.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry of a key, if there is one. A damaged one is an error that names the key.
    async fn load(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// At most `limit` entries whose keys start with `prefix` and come after `after`, in key order.
    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error>;

    /// Applies a batch. Answers the new revision, which all its puts now have.
    async fn commit(&self, batch: Batch, durability: Durability) -> Result<Revision, Error>;

    /// Waits for the right to execute a step on this key; whoever asked first is served first. Local stores keep
    /// claims in memory: they end with the process. Those of a shared store end with the lease of the node.
    async fn claim(&self, key: &str) -> Result<Box<dyn Claim>, Error>;

    /// Waits for changes beneath `prefix` after `revision`. Revision 0 asks for the present: it is answered at
    /// once, without events, and what is scanned after that has no gap to what is watched from there. A store
    /// that no longer has the changes answers `OutOfRange`: begin with the present and read everything again.
    async fn watch_from(&self, prefix: &str, revision: Revision) -> Result<Changes, Error>;

    /// Returns when everything that was committed before, by whomever, can be watched without waiting. A local
    /// store has nothing to wait for.
    async fn catch_up(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Makes every lazy commit durable.
    async fn flush(&self) -> Result<(), Error>;
}
