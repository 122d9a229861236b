//! How things are timed: the same work by N threads at once, each doing its share, until the count is done.

#![expect(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::Fallible;

/// How long a run lasts at most: what is not begun by then is not done.
const LONGEST: Duration = Duration::from_secs(120);

/// What a run took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// From the first start to the last end.
    pub(crate) wall: Duration,
    /// Every piece of work, sorted.
    pub(crate) each: Vec<Duration>,
}

impl Run {
    /// Takes up another run of the same work.
    pub(crate) fn add(&mut self, other: Self) {
        self.wall += other.wall;
        self.each.extend(other.each);
        self.each.sort();
    }

    /// Pieces of work in a second.
    pub(crate) fn rate(&self) -> f64 {
        let count = u32::try_from(self.each.len()).unwrap_or(u32::MAX);
        f64::from(count) / self.wall.as_secs_f64().max(1e-9)
    }

    /// What half of them stayed within.
    pub(crate) fn median(&self) -> Duration {
        self.each.get(self.each.len() / 2).copied().unwrap_or_default()
    }

    /// What 99 of 100 stayed within.
    pub(crate) fn p99(&self) -> Duration {
        self.each.get(self.each.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// Times `count` pieces of work done by `at_once` threads. Each thread makes its own tool (a connection, a
/// file) before the clock starts; `work` gets it with the number of the piece.
pub(crate) fn together<T, F, W>(at_once: usize, count: usize, tool: F, work: W) -> Fallible<Run>
where
    F: Fn(usize) -> Fallible<T> + Sync,
    W: Fn(&mut T, usize) -> Fallible + Sync,
{
    let ready = Barrier::new(at_once + 1);
    let share = count.div_ceil(at_once);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once)
            .map(|thread| {
                let (ready, tool, work) = (&ready, &tool, &work);
                scope.spawn(move || -> Result<Vec<Duration>, String> {
                    let made = tool(thread);
                    ready.wait();
                    let mut made = made.map_err(|error| error.to_string())?;
                    let mut each = Vec::with_capacity(share);
                    let begun = Instant::now();
                    for piece in (0..share).take_while(|_| begun.elapsed() < LONGEST) {
                        let start = Instant::now();
                        work(&mut made, thread * share + piece).map_err(|error| error.to_string())?;
                        each.push(start.elapsed());
                    }
                    Ok(each)
                })
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        let mut run = Run::default();
        for thread in threads {
            run.each.extend(thread.join().map_err(|_| "a thread of the bench panicked")??);
        }
        run.wall = start.elapsed();
        run.each.sort();
        Ok(run)
    })
}

/// Times one piece of work.
pub(crate) fn once<T>(work: impl FnOnce() -> Fallible<T>) -> Fallible<(T, Duration)> {
    let start = Instant::now();
    let made = work()?;
    Ok((made, start.elapsed()))
}
