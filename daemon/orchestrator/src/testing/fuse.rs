//! Stops the process: once the fuse has blown, no port call ever returns. Every call passes the fuse twice,
//! before and after its effect, so that a run can be cut at each instant in turn.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the instants of a run and stops it at one of them.
#[derive(Debug)]
pub struct Fuse {
    passed: AtomicU64,
    blows_at: AtomicU64,
}

impl Default for Fuse {
    fn default() -> Self {
        Self { passed: AtomicU64::new(0), blows_at: AtomicU64::new(u64::MAX) }
    }
}

impl Fuse {
    /// A fuse that lets so many instants pass.
    #[must_use]
    pub fn after(instants: u64) -> Self {
        Self { passed: AtomicU64::new(0), blows_at: AtomicU64::new(instants) }
    }

    /// How many instants have passed.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }

    /// Whether the process is stopped.
    pub fn is_blown(&self) -> bool {
        self.passed() >= self.blows_at.load(Ordering::SeqCst)
    }

    /// One instant: returns, unless the process is stopped here or was before.
    pub async fn pass(&self) {
        let before = self.passed.fetch_add(1, Ordering::SeqCst);
        if before >= self.blows_at.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}
