//! Time and chance come from outside, so that the whole house can be simulated from a seed.

use async_trait::async_trait;

use crate::model::Timestamp;

/// The wall clock and the waiting.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;

    /// Returns at `when`, at once if it is past.
    async fn sleep_until(&self, when: Timestamp);
}

/// Fresh ids.
pub trait Ids: Send + Sync + 'static {
    /// A number that was never given before.
    fn next(&self) -> u128;
}
