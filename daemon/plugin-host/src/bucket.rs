//! How fast a backend may be called. There is no limit until its cloud says "fewer": then the rate is halved
//! from what it was, nothing is sent before the time that it named, and every answer that is no refusal
//! lets the rate rise again until the limit is gone. One bucket for calls that change something, one for
//! calls that only read, because clouds count them apart.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Calls a second below which no throttling takes it.
const SLOWEST: f64 = 0.2;
/// Calls a second above which the limit is gone.
const FASTEST: f64 = 200.0;

/// The bucket of one backend and class of call.
#[derive(Debug, Default)]
pub(crate) struct Bucket(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Calls a second; nothing for no limit.
    rate: Option<f64>,
    /// When the next call may start.
    next: Option<Instant>,
    /// What was done lately: when the count began, and the count.
    window: Option<(Instant, u32)>,
}

impl Bucket {
    /// Waits for its turn.
    pub(crate) async fn turn(&self) {
        let now = Instant::now();
        let when = self.reserve(now);
        if when > now {
            tokio::time::sleep_until(when).await;
        }
    }

    fn reserve(&self, now: Instant) -> Instant {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.count(now);
        let when = state.next.unwrap_or(now).max(now);
        state.next = state.rate.map(|rate| when + Duration::from_secs_f64(1.0 / rate));
        when
    }

    /// The cloud took the call: a little faster.
    pub(crate) fn taken(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.rate = state.rate.map(|rate| rate + (rate * 0.1).max(0.5)).filter(|rate| *rate < FASTEST);
        if state.rate.is_none() {
            state.next = None;
        }
    }

    /// The cloud asked for fewer calls, and perhaps for a pause.
    pub(crate) fn throttled(&self, pause: Option<Duration>) {
        self.throttled_at(pause, Instant::now());
    }

    fn throttled_at(&self, pause: Option<Duration>, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = state.rate.unwrap_or_else(|| state.recent(now));
        let rate = (rate / 2.0).clamp(SLOWEST, FASTEST / 2.0);
        state.rate = Some(rate);
        let until = now + pause.unwrap_or_else(|| Duration::from_secs_f64(1.0 / rate));
        state.next = Some(state.next.map_or(until, |next| next.max(until)));
    }
}

impl State {
    fn count(&mut self, now: Instant) {
        match &mut self.window {
            Some((since, count)) if now.duration_since(*since) < Duration::from_secs(10) => *count += 1,
            window => *window = Some((now, 1)),
        }
    }

    /// Calls a second of late.
    fn recent(&self, now: Instant) -> f64 {
        self.window
            .map_or(1.0, |(since, count)| f64::from(count) / now.duration_since(since).as_secs_f64().max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_slows_down_and_success_speeds_up_again() {
        let bucket = Bucket::default();
        let start = Instant::now();
        assert!((0..100).all(|_| bucket.reserve(start) == start));
        let pause = Duration::from_secs(3);
        bucket.throttled_at(Some(pause), start);
        assert_eq!(bucket.reserve(start), start + pause);
        // A hundred calls in that second were too many; fifty may be right.
        assert_eq!(bucket.reserve(start), start + pause + Duration::from_millis(20));
        bucket.throttled_at(None, start);
        let first = bucket.reserve(start);
        assert_eq!(bucket.reserve(start), first + Duration::from_millis(40));
        for _ in 0..200 {
            bucket.taken();
        }
        assert!((0..100).all(|_| bucket.reserve(start) == start));
    }
}
