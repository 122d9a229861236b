//! The wall clock and chance, as the hall's ports want them. The only place of the daemon that reads either.

use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    io::Read,
};

use async_trait::async_trait;
use kato_orchestrator::{
    Error,
    model::Timestamp,
    ports::{Clock, Ids},
};
use rustix::time::{ClockId, clock_gettime};

/// The kernel's clock.
#[derive(Debug)]
pub(crate) struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = clock_gettime(ClockId::Realtime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0);
        Timestamp(seconds.saturating_mul(1000).saturating_add(millis))
    }

    async fn sleep_until(&self, when: Timestamp) {
        // A wall clock may be set while we sleep: we look again at least once a minute.
        loop {
            let wait = when.since(self.now());
            if wait.is_zero() {
                return;
            }
            tokio::time::sleep(wait.min(std::time::Duration::from_secs(60))).await;
        }
    }
}

/// The kernel's chance.
#[derive(Debug)]
pub(crate) struct RandomIds(File);

impl RandomIds {
    pub(crate) fn new() -> Result<Self, Error> {
        File::open("/dev/urandom").map(Self).map_err(|error| {
            Error::unavailable(format!("/dev/urandom cannot be read: {error}")).caused_by(error)
        })
    }
}

impl Ids for RandomIds {
    fn next(&self) -> u128 {
        let mut bytes = [0_u8; 16];
        if (&self.0).read_exact(&mut bytes).is_ok() {
            return u128::from_be_bytes(bytes);
        }
        // It never fails once it is open. If it did, two hashes under keys that are new for every call and came
        // from the kernel as well are as good.
        let hash = || u128::from(RandomState::new().hash_one(bytes));
        (hash() << 64) | hash()
    }
}

/// What a log or a file is told of an id.
pub(crate) fn hex(id: u128) -> String {
    format!("{id:032x}")
}

/// Reads what [`hex`] wrote.
pub(crate) fn from_hex(text: &str) -> Result<u128, Error> {
    kato_orchestrator::model::ClusterId::parse(text)
        .map(|id| id.0)
        .ok_or_else(|| Error::invalid(format!("{text:?} is not an id of 32 hex digits")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_given_twice() {
        let source = RandomIds::new().unwrap();
        let ids: std::collections::BTreeSet<u128> = (0..1000).map(|_| source.next()).collect();
        assert_eq!(ids.len(), 1000);
    }

    #[tokio::test]
    async fn a_moment_that_is_past_is_not_waited_for() {
        SystemClock.sleep_until(Timestamp(0)).await;
        assert!(SystemClock.now() > Timestamp(1_700_000_000_000));
    }
}
