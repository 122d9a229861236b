//! Stops the process: once the fuse has blown, no port call ever returns. Every call passes the fuse twice,
//! before and after its effect, so that a run can be cut at each instant in turn. It can also be held for a while, as a
//! machine is that was suspended, or whose daemon gets no turn.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::{Notify, watch};

/// Counts the instants of a run and stops it at one of them.
#[derive(Debug)]
pub struct Fuse {
    passed: AtomicU64,
    blows_at: u64,
    blown: Notify,
    held: watch::Sender<bool>,
    /// From what follows how long the next instant takes; zero while none takes any time.
    pace: AtomicU64,
}

impl Default for Fuse {
    fn default() -> Self {
        Self::after(u64::MAX)
    }
}

impl Fuse {
    /// A fuse that lets so many instants pass.
    #[must_use]
    pub fn after(instants: u64) -> Self {
        Self {
            passed: AtomicU64::new(0),
            blows_at: instants,
            blown: Notify::new(),
            held: watch::Sender::new(false),
            pace: AtomicU64::new(0),
        }
    }

    /// How many instants have passed.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Whether the process is stopped.
    pub fn is_blown(&self) -> bool {
        self.passed() >= self.blows_at
    }

    /// Returns when the process is stopped.
    pub async fn blown(&self) {
        self.blown.notified().await;
    }

    /// Lets instants take time, as follows from a seed: most a few milliseconds, some a second and more.
    pub fn paced(&self, seed: u64) {
        self.pace.store(seed | 1, Ordering::SeqCst);
    }

    /// How long the next instant takes.
    fn next_pace(&self) -> Duration {
        let mut pace = self.pace.load(Ordering::SeqCst);
        if pace == 0 {
            return Duration::ZERO;
        }
        pace ^= pace << 13;
        pace ^= pace >> 7;
        pace ^= pace << 17;
        self.pace.store(pace, Ordering::SeqCst);
        Duration::from_millis(if pace.is_multiple_of(32) { pace / 32 % 3_000 } else { pace / 32 % 12 })
    }

    /// Holds everything at its next instant, or lets it go on.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Whether everything is held.
    pub fn is_held(&self) -> bool {
        *self.held.borrow()
    }

    /// One instant: returns, unless the process is stopped here or was before.
    pub async fn pass(&self) {
        let before = self.passed.fetch_add(1, Ordering::SeqCst);
        if before >= self.blows_at {
            self.blown.notify_one();
            std::future::pending::<()>().await;
        }
        let pace = self.next_pace();
        if !pace.is_zero() {
            tokio::time::sleep(pace).await;
        }
        if self.is_held() {
            let mut held = self.held.subscribe();
            // The sender is ours: it does not go before us.
            let _gone = held.wait_for(|held| !held).await.is_err();
        }
    }
}
