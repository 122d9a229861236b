//! A backend whose guests keep failing is left alone for a while: calls fail at once with the reason, and
//! one call at a time tries whether it is over. Only faults of the plugin count (traps, limits, lies,
//! deadlines), never what it answers: a cloud that refuses is not a plugin that breaks.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kato_orchestrator::Error;
use tokio::time::Instant;

/// Faults in a row that open it.
const FAULTS: u32 = 5;
/// How long it stays open at first; it doubles with every trial that fails.
const FIRST: Duration = Duration::from_secs(2);
/// How long it stays open at most.
const LONGEST: Duration = Duration::from_secs(60);

/// The breaker of one backend.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    faults: u32,
    last: String,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    trial: bool,
}

impl Breaker {
    /// Whether a call may go ahead.
    pub(crate) fn admit(&self) -> Result<(), Error> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Result<(), Error> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let Some(open) = &mut state.open else { return Ok(()) };
        if now >= open.until && !open.trial {
            open.trial = true;
            return Ok(());
        }
        let wait = open.until.saturating_duration_since(now).max(Duration::from_millis(100));
        Err(Error::unavailable(format!(
            "the plugin failed {} times in a row and is left alone for {:.1} s more; the last time: {}",
            state.faults,
            wait.as_secs_f64(),
            state.last
        ))
        .pending()
        .retry_after(wait))
    }

    /// The plugin answered, whatever it was.
    pub(crate) fn answered(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.faults = 0;
        state.open = None;
    }

    /// The plugin broke.
    pub(crate) fn broke(&self, why: &str) {
        self.broke_at(why, Instant::now());
    }

    fn broke_at(&self, why: &str, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.faults = state.faults.saturating_add(1);
        state.last = why.to_owned();
        if state.faults >= FAULTS {
            let pause = state.open.as_ref().map_or(FIRST, |open| (open.pause * 2).min(LONGEST));
            state.open = Some(Open { until: now + pause, pause, trial: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_faults_in_a_row_and_lets_one_trial_through() {
        let breaker = Breaker::default();
        let start = Instant::now();
        for _ in 1..FAULTS {
            breaker.broke_at("it trapped", start);
        }
        breaker.answered();
        for _ in 0..FAULTS {
            breaker.admit_at(start).unwrap();
            breaker.broke_at("it trapped", start);
        }
        let refused = breaker.admit_at(start).unwrap_err();
        assert!(refused.message.contains("it trapped") && refused.retry_after == Some(FIRST), "{refused}");
        breaker.admit_at(start + FIRST).unwrap();
        breaker.admit_at(start + FIRST).unwrap_err();
        breaker.broke_at("again", start + FIRST);
        breaker.admit_at(start + FIRST * 2).unwrap_err();
        breaker.admit_at(start + FIRST * 3).unwrap();
        breaker.answered();
        breaker.admit_at(start).unwrap();
        breaker.admit_at(start).unwrap();
    }
}
