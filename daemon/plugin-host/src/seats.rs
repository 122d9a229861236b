//! Room for instances, which all backends share: the pool has so many and no more (`engine.rs`). Whoever fills it
//! with guests that wait would keep everybody else waiting too, so a part of it is kept back, of which each
//! backend can have one seat: its next call finds room however many the others have taken.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::engine::INSTANCES;

/// Seats of which each backend can have one.
const KEPT_BACK: u32 = 20;
/// Instances that are started to be tried, for which nobody takes a seat.
const TRIALS: u32 = 4;

/// The seats of the whole daemon.
#[derive(Clone, Debug)]
pub(crate) struct Seats {
    shared: Arc<Semaphore>,
    kept_back: Arc<Semaphore>,
    /// The right to one of those that are kept back.
    own: Arc<Semaphore>,
}

/// A seat, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    _taken: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
}

impl Seats {
    pub(crate) fn new() -> Self {
        let seats = |count: u32| Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(usize::MAX)));
        Self { shared: seats(INSTANCES - KEPT_BACK - TRIALS), kept_back: seats(KEPT_BACK), own: seats(1) }
    }

    /// The same seats as another backend has them.
    pub(crate) fn for_backend(&self) -> Self {
        Self { own: Arc::new(Semaphore::new(1)), ..self.clone() }
    }

    /// Waits for a seat: one of the many, or the backend's own.
    pub(crate) async fn take(&self) -> Result<Seat, AcquireError> {
        let shared =
            async { Ok(Seat { _taken: Arc::clone(&self.shared).acquire_owned().await?, _own: None }) };
        let own = async {
            let own = Arc::clone(&self.own).acquire_owned().await?;
            Ok(Seat { _taken: Arc::clone(&self.kept_back).acquire_owned().await?, _own: Some(own) })
        };
        tokio::select! {
            biased;
            seat = shared => seat,
            seat = own => seat,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn however_many_seats_are_taken_each_backend_finds_one() {
        let seats = Seats::new();
        let greedy = seats.for_backend();
        let taken: Vec<_> = std::iter::from_fn(|| greedy.take().now_or_never()).collect();
        assert_eq!(taken.len(), usize::try_from(INSTANCES - KEPT_BACK - TRIALS).unwrap() + 1);
        let others: Vec<_> = (1..KEPT_BACK).map(|_| seats.for_backend()).collect();
        let mut own: Vec<_> = others.iter().map(|other| other.take().now_or_never().unwrap()).collect();
        assert!(others.iter().all(|other| other.take().now_or_never().is_none()));
        own.pop();
        assert!(others.last().unwrap().take().now_or_never().is_some());
        drop(taken);
        assert!(others.iter().all(|other| other.take().now_or_never().is_some()));
    }
}
