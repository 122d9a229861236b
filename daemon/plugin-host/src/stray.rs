//! Calls that outlive whoever waits for them. A guest can be stopped at its deadline, but not while a thread does
//! something for it on a disk that stalls. When such work ends, long after, it must not meet what a later call made
//! under the same name: a late removal would remove a new volume. So a backend's next effect waits until no stray
//! is left.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

const RUNNING: u8 = 0;
const ABANDONED: u8 = 1;
const DONE: u8 = 2;

/// The stray calls of one backend.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    count: AtomicUsize,
    gone: Notify,
}

/// The side that waits: dropped before the work is done, it leaves a stray.
#[derive(Debug)]
pub(crate) struct Waiting(Shared);

/// The side that works: dropped when it is done.
#[derive(Debug)]
pub(crate) struct Working(Shared);

#[derive(Clone, Debug)]
struct Shared {
    strays: Arc<Strays>,
    state: Arc<AtomicU8>,
}

impl Strays {
    /// Begins a call.
    pub(crate) fn begin(self: &Arc<Self>) -> (Waiting, Working) {
        let shared = Shared { strays: Arc::clone(self), state: Arc::new(AtomicU8::new(RUNNING)) };
        (Waiting(shared.clone()), Working(shared))
    }

    /// Returns when no stray work is left.
    pub(crate) async fn ended(&self) {
        loop {
            let gone = self.gone.notified();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            gone.await;
        }
    }

    fn one_less(&self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        self.gone.notify_waiters();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Shared { strays, state } = &self.0;
        // Counted first, so that the work cannot end uncounted in between.
        strays.count.fetch_add(1, Ordering::SeqCst);
        if state.compare_exchange(RUNNING, ABANDONED, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            strays.one_less();
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.0.state.swap(DONE, Ordering::SeqCst) == ABANDONED {
            self.0.strays.one_less();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn work_that_was_waited_for_is_no_stray() {
        let strays = Arc::new(Strays::default());
        let (waiting, working) = strays.begin();
        assert!(strays.ended().now_or_never().is_some(), "running work is not stray");
        drop(working);
        drop(waiting);
        assert!(strays.ended().now_or_never().is_some());
    }

    #[tokio::test]
    async fn work_that_was_abandoned_holds_the_next_effect_until_it_ends() {
        let strays = Arc::new(Strays::default());
        let (waiting, working) = strays.begin();
        drop(waiting);
        assert!(strays.ended().now_or_never().is_none());
        let (ended, ()) = tokio::join!(strays.ended().map(|()| true), async { drop(working) });
        assert!(ended);
    }
}
