//! Claims of a store that has no peers: one queue for each key, in memory, gone with the process. Whoever
//! asked first is served first, and whoever stops waiting leaves the queue.
//!
//! A claim may also be made under a lease (`attendance.rs`) and ends with it, though its holder lives: then the
//! next in the queue has the key, and the holder's token is refused from that moment on.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kato_orchestrator::ports::store::{Claim, Guard, Key, Revision, members::LeaseId};
use tokio::sync::OwnedMutexGuard;

type Queue = Arc<tokio::sync::Mutex<()>>;

/// All claims of one store.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    desk: Arc<Mutex<Desk>>,
    token: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Desk {
    queues: HashMap<Key, Queue>,
    holders: HashMap<Key, Holder>,
}

#[derive(Debug)]
struct Holder {
    token: u64,
    lease: Option<LeaseId>,
    _turn: OwnedMutexGuard<()>,
}

impl Claims {
    /// Tokens begin above `floor`, which rises with every start of the store.
    pub(crate) fn new(floor: Revision) -> Self {
        Self { desk: Arc::default(), token: Arc::new(AtomicU64::new(floor)) }
    }

    /// Waits for the key.
    pub(crate) async fn claim(&self, key: &str, lease: Option<LeaseId>) -> Held {
        let queue = {
            let mut desk = self.desk();
            let queues = &mut desk.queues;
            // Queues that nobody stands in are swept here, where their number can grow.
            if queues.len() >= 64 && queues.len().is_power_of_two() {
                queues.retain(|_, queue| Arc::strong_count(queue) > 1);
            }
            queues.entry(key.to_owned()).or_default().clone()
        };
        let turn = queue.lock_owned().await;
        let token = self.token.fetch_add(1, Ordering::Relaxed) + 1;
        self.desk().holders.insert(key.to_owned(), Holder { token, lease, _turn: turn });
        Held { claims: self.clone(), key: key.to_owned(), token }
    }

    /// Whether the key is claimed with this token.
    pub(crate) fn is_held(&self, key: &str, token: u64) -> bool {
        self.desk().holders.get(key).is_some_and(|holder| holder.token == token)
    }

    /// Ends all claims under a lease.
    pub(crate) fn lapse(&self, lease: LeaseId) {
        self.desk().holders.retain(|_, holder| holder.lease != Some(lease));
    }

    fn release(&self, key: &str, token: u64) {
        let mut desk = self.desk();
        if desk.holders.get(key).is_some_and(|holder| holder.token == token) {
            desk.holders.remove(key);
        }
        // Under the desk's lock nobody can join, so one owner means that the map alone still has it.
        if desk.queues.get(key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            desk.queues.remove(key);
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A claim of one key.
#[derive(Debug)]
pub(crate) struct Held {
    claims: Claims,
    key: Key,
    token: u64,
}

impl Claim for Held {
    fn fencing_token(&self) -> u64 {
        self.token
    }

    fn guard(&self) -> Guard {
        Guard::Claimed(self.key.clone(), self.token)
    }

    fn is_sure(&self) -> bool {
        self.claims.is_held(&self.key, self.token)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.claims.release(&self.key, self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_that_nobody_claims_takes_no_room() {
        let claims = Claims::new(0);
        let one = claims.claim("a", None).await;
        let waiting = claims.claim("a", None);
        assert_eq!(claims.desk().queues.len(), 1);
        drop(one);
        drop(waiting.await);
        assert!(claims.desk().queues.is_empty() && claims.desk().holders.is_empty());
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_holds_up_nobody() {
        let claims = Claims::new(0);
        let one = claims.claim("a", None).await;
        let given_up = tokio::time::timeout(std::time::Duration::ZERO, claims.claim("a", None)).await;
        assert!(given_up.is_err());
        drop(one);
        let two = claims.claim("a", None).await;
        assert_eq!(two.fencing_token(), 2);
    }

    #[tokio::test]
    async fn a_claim_ends_with_its_lease_and_its_holder_ends_nobody_elses() {
        let claims = Claims::new(0);
        let paused = claims.claim("a", Some(LeaseId(1))).await;
        let other = claims.claim("b", Some(LeaseId(2))).await;
        claims.lapse(LeaseId(1));
        let next = claims.claim("a", Some(LeaseId(2))).await;
        assert!(!paused.is_sure() && next.is_sure() && other.is_sure());
        drop(paused);
        assert!(next.is_sure());
        assert!(tokio::time::timeout(std::time::Duration::ZERO, claims.claim("a", None)).await.is_err());
    }
}
