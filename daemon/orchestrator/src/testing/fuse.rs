//! Stops the process: once the fuse has blown, no port call ever returns. Every call passes the fuse twice,
//! before and after its effect, so that a run can be cut at each instant in turn.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts the instants of a run and stops it at one of them.
#[derive(Debug)]
pub struct Fuse {
    passed: AtomicU64,
    blows_at: u64,
    blown: Notify,
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
        Self { passed: AtomicU64::new(0), blows_at: instants, blown: Notify::new() }
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

    /// One instant: returns, unless the process is stopped here or was before.
    pub async fn pass(&self) {
        let before = self.passed.fetch_add(1, Ordering::SeqCst);
        if before >= self.blows_at {
            self.blown.notify_one();
            std::future::pending::<()>().await;
        }
    }
}
