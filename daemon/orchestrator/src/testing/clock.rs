//! Time that a test owns: it is tokio's, which a paused runtime moves on as soon as everybody waits.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    model::Timestamp,
    ports::{Clock, Ids},
};

/// Tokio's time, counted from a fixed moment.
#[derive(Debug)]
pub struct FakeClock {
    zero: Instant,
    began: Timestamp,
}

const ZERO: u64 = 1_800_000_000_000;

impl Default for FakeClock {
    fn default() -> Self {
        Self::at(Timestamp(ZERO))
    }
}

impl FakeClock {
    /// One that shows this time now: a process that begins after another one has ended.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self { zero: Instant::now(), began: now }
    }
}

#[async_trait]
impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        self.began.plus(self.zero.elapsed())
    }

    async fn sleep_until(&self, when: Timestamp) {
        tokio::time::sleep(when.since(self.now())).await;
    }
}

/// Ids that count up.
#[derive(Debug, Default)]
pub struct FakeIds(AtomicU64);

impl Ids for FakeIds {
    fn next(&self) -> u128 {
        u128::from(self.0.fetch_add(1, Ordering::SeqCst)) + 1
    }
}
