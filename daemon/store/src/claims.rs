//! Claims of a store that has no peers: one queue for each key, in memory, gone with the process. Whoever
//! asked first is served first, and whoever stops waiting leaves the queue.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kato_orchestrator::ports::store::{Claim, Key, Revision};
use tokio::sync::OwnedMutexGuard;

type Queue = Arc<tokio::sync::Mutex<()>>;

/// All claims of one store.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    queues: Arc<Mutex<HashMap<Key, Queue>>>,
    token: Arc<AtomicU64>,
}

impl Claims {
    /// Tokens begin above `floor`, which rises with every start of the store.
    pub(crate) fn new(floor: Revision) -> Self {
        Self { queues: Arc::default(), token: Arc::new(AtomicU64::new(floor)) }
    }

    /// Waits for the key.
    pub(crate) async fn claim(&self, key: &str) -> Box<dyn Claim> {
        let queue = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            // Queues that nobody stands in are swept here, where their number can grow.
            if queues.len() >= 64 && queues.len().is_power_of_two() {
                queues.retain(|_, queue| Arc::strong_count(queue) > 1);
            }
            queues.entry(key.to_owned()).or_default().clone()
        };
        let turn = queue.lock_owned().await;
        let token = self.token.fetch_add(1, Ordering::Relaxed) + 1;
        Box::new(Held { claims: self.clone(), key: key.to_owned(), turn: Some(turn), token })
    }
}

struct Held {
    claims: Claims,
    key: Key,
    turn: Option<OwnedMutexGuard<()>>,
    token: u64,
}

impl Claim for Held {
    fn fencing_token(&self) -> u64 {
        self.token
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut queues = self.claims.queues.lock().unwrap_or_else(PoisonError::into_inner);
        self.turn = None;
        // Under the map's lock nobody can join, so one owner means that the map alone still has it.
        if queues.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_that_nobody_claims_takes_no_room() {
        let claims = Claims::new(0);
        let one = claims.claim("a").await;
        let waiting = claims.claim("a");
        assert_eq!(claims.queues.lock().unwrap().len(), 1);
        drop(one);
        drop(waiting.await);
        assert!(claims.queues.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_holds_up_nobody() {
        let claims = Claims::new(0);
        let one = claims.claim("a").await;
        let given_up = tokio::time::timeout(std::time::Duration::ZERO, claims.claim("a")).await;
        assert!(given_up.is_err());
        drop(one);
        let two = claims.claim("a").await;
        assert_eq!(two.fencing_token(), 2);
    }
}
