//! The machine that guests run on: wasmtime with a pooling allocator, a clock that makes guests yield, and
//! threads of their own, so that a looping guest delays no door of the daemon.
//!
//! Each call has a thread for as long as it takes ([`Engine::run`]). What the host does for a guest on a disk is
//! done there and then ([`Engine::for_guest`]): on a disk in order it is over in microseconds, and handing it to
//! another thread and back would cost more than the work; on a disk that stalls nobody waits but the call itself.
//!
//! Two limits are told apart. The *CPU budget* is what a guest may compute: [`Budget`] adds up the thread's CPU
//! time of every poll, without the greater work that the host did in it, so waiting for an answer costs nothing
//! and looping costs everything. The *wall deadline* is how long the whole call may take, waiting included. Epochs
//! only make a guest yield (every [`TICK`]), they never kill: counting them would charge a guest for its
//! neighbours' slices. Whoever computes for longer than a slice needs one of a few [`Shift`]s, so that many
//! looping guests together compute no more than two.
//!
//! The ticker thread sleeps while no guest runs, so an idle daemon does not tick. Which limits apply is
//! `limits.rs`; what runs is `v1/call.rs`.

use std::{
    cell::Cell,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use kato_orchestrator::Error;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};
use tokio_util::task::TaskTracker;
use wasmtime::PoolingAllocationConfig;

use crate::cache;

/// How often a running guest is made to yield.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// How many instances may live at once in the whole daemon.
pub(crate) const INSTANCES: u32 = 64;

/// How much of a guest's memory stays with its slot.
const KEPT: usize = 2 << 20;

/// How many guests may go on computing at once after their first slice.
const SHIFTS: usize = 2;

/// Threads for other things than calls: compiling, for one.
const OTHERS: usize = 8;

/// The most memory that any backend may be given.
pub(crate) const MEMORY_LIMIT: usize = 256 << 20;

/// wasmtime, the ticker and the guests' own runtime.
pub(crate) struct Engine {
    pub(crate) wasm: wasmtime::Engine,
    ticker: Arc<Ticker>,
    handle: runtime::Handle,
    guests: Option<runtime::Runtime>,
    tracker: TaskTracker,
    shifts: Arc<Semaphore>,
    /// What all guests together have computed, in nanoseconds.
    computed: Arc<AtomicU64>,
}

thread_local! {
    /// What the host has computed for the guest of this thread in this poll.
    static EXCUSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

impl Engine {
    pub(crate) fn new(cache_directory: Option<PathBuf>) -> Result<Self, Error> {
        let failed = |what: &str| {
            let what = format!("the plugin host could not be started: {what}");
            move |error: wasmtime::Error| Error::internal(what).caused_by(Fault(error))
        };
        let mut config = wasmtime::Config::new();
        config
            .epoch_interruption(true)
            .max_wasm_stack(512 << 10)
            .wasm_memory64(false)
            .wasm_relaxed_simd(false)
            .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable)
            .allocation_strategy(pool());
        if let Some(directory) = cache_directory {
            config.cache(Some(cache::open(&directory)?));
        }
        let wasm = wasmtime::Engine::new(&config)
            .map_err(failed("wasmtime refused its configuration (is the address space limited?)"))?;
        let guests = runtime::Builder::new_multi_thread()
            // They see to timers and connections; calls have threads of their own.
            .worker_threads(2)
            .max_blocking_threads(usize::try_from(INSTANCES).unwrap_or(usize::MAX).saturating_add(OTHERS))
            .thread_keep_alive(Duration::from_secs(10))
            .thread_name("kato-guest")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::internal("the plugin host could not start its threads").caused_by(error)
            })?;
        let ticker = Ticker::start(wasm.clone())?;
        Ok(Self {
            wasm,
            ticker,
            handle: guests.handle().clone(),
            guests: Some(guests),
            tracker: TaskTracker::new(),
            shifts: Arc::new(Semaphore::new(SHIFTS)),
            computed: Arc::default(),
        })
    }

    /// Runs a call of a guest on a thread that is its own until it ends. It goes on when nobody waits for it any
    /// more: an effect that has begun ends by its own limits and not by the patience of whoever asked.
    pub(crate) fn run<F>(&self, call: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (handle, tracked) = (self.handle.clone(), self.tracker.token());
        self.handle.spawn_blocking(move || {
            let _tracked = tracked;
            handle.block_on(call)
        })
    }

    /// Lets a guest's work compute for so long and no longer.
    pub(crate) fn budget<F: Future>(&self, budget: Duration, shift: &Arc<Shift>, work: F) -> Budget<F> {
        Budget {
            inner: Box::pin(work),
            left: budget,
            shift: Arc::clone(shift),
            computed: Arc::clone(&self.computed),
        }
    }

    /// A guest's place among those that go on computing.
    pub(crate) fn shift(&self) -> Arc<Shift> {
        Arc::new(Shift { shifts: Arc::clone(&self.shifts), held: Mutex::default() })
    }

    /// What all guests together have computed.
    pub(crate) fn computed(&self) -> Duration {
        Duration::from_nanos(self.computed.load(Ordering::Relaxed))
    }

    /// Runs something that blocks beside the guests.
    pub(crate) fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle.spawn_blocking(work)
    }

    /// Does something that the host owes a guest, on the guest's thread and not on its budget.
    pub(crate) fn for_guest<T>(work: impl FnOnce() -> T) -> T {
        let before = thread_cpu();
        let done = work();
        let spent = thread_cpu().saturating_sub(before);
        EXCUSED.set(EXCUSED.get().saturating_add(spent));
        done
    }

    /// Runs something on a thread of its own, for what changes the thread itself.
    pub(crate) async fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let handle = self.handle.clone();
        std::thread::Builder::new()
            .name("kato-once".into())
            .spawn(move || {
                let _entered = handle.enter();
                // Nobody waits any more if this fails.
                let _unheard = sender.send(work());
            })
            .map_err(|error| Error::unavailable("a thread could not be started").caused_by(error))?;
        receiver.await.map_err(|error| Error::internal("a thread ended without an answer").caused_by(error))
    }

    /// The clock ticks as long as this is held.
    pub(crate) fn running(&self) -> Running {
        self.ticker.run()
    }

    /// Waits until no guest runs.
    pub(crate) async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.ticker.stop();
        if let Some(guests) = self.guests.take() {
            guests.shutdown_background();
        }
    }
}

/// A pool of slots that is address space and no memory until it is used.
fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        // Pages that a guest used are wiped and kept, instead of being given back and asked for again.
        pool.pagemap_scan(wasmtime::Enabled::Yes).linear_memory_keep_resident(KEPT).table_keep_resident(KEPT);
    }
    pool.total_component_instances(INSTANCES)
        .total_core_instances(INSTANCES * 8)
        .total_memories(INSTANCES * 2)
        .total_tables(INSTANCES * 4)
        .total_stacks(INSTANCES)
        .max_memories_per_component(2)
        .max_tables_per_component(8)
        .max_core_instances_per_component(32)
        .max_memory_size(MEMORY_LIMIT);
    pool
}

/// Carries wasmtime's error as the source of one of ours.
#[derive(Debug)]
pub(crate) struct Fault(pub(crate) wasmtime::Error);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Fault {}

/// Moves the epoch while guests run.
struct Ticker {
    state: Mutex<Ticking>,
    changed: Condvar,
}

#[derive(Default)]
struct Ticking {
    guests: usize,
    stopped: bool,
}

impl Ticker {
    fn start(engine: wasmtime::Engine) -> Result<Arc<Self>, Error> {
        let ticker = Arc::new(Self { state: Mutex::default(), changed: Condvar::new() });
        let own = Arc::clone(&ticker);
        std::thread::Builder::new()
            .name("kato-ticker".into())
            .spawn(move || {
                while own.wait_for_guests() {
                    std::thread::sleep(TICK);
                    engine.increment_epoch();
                }
            })
            .map_err(|error| Error::internal("the plugin host could not start its clock").caused_by(error))?;
        Ok(ticker)
    }

    fn wait_for_guests(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.guests == 0 && !state.stopped {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopped
    }

    fn run(self: &Arc<Self>) -> Running {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.guests += 1;
        if state.guests == 1 {
            self.changed.notify_one();
        }
        Running(Arc::clone(self))
    }

    fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.changed.notify_one();
    }
}

/// A guest that runs.
pub(crate) struct Running(Arc<Ticker>);

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.guests = state.guests.saturating_sub(1);
    }
}

/// The right to go on computing after a slice, given back whenever a guest waits for something.
pub(crate) struct Shift {
    shifts: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Shift {
    /// Ends a slice and waits for the next.
    pub(crate) async fn next(self: Arc<Self>) {
        // The budget looks at what was spent, and takes the last one back.
        tokio::task::yield_now().await;
        if let Ok(permit) = Arc::clone(&self.shifts).acquire_owned().await {
            *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        }
    }

    fn give_back(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The CPU budget of a call was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spent;

/// A future that may only compute for so long.
pub(crate) struct Budget<F> {
    inner: Pin<Box<F>>,
    left: Duration,
    shift: Arc<Shift>,
    computed: Arc<AtomicU64>,
}

impl<F: Future> Future for Budget<F> {
    type Output = Result<F::Output, Spent>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        EXCUSED.set(Duration::ZERO);
        let before = thread_cpu();
        let result = self.inner.as_mut().poll(cx);
        let spent = thread_cpu().saturating_sub(before).saturating_sub(EXCUSED.take());
        self.shift.give_back();
        self.computed.fetch_add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.left = self.left.saturating_sub(spent);
        match result {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending if self.left.is_zero() => Poll::Ready(Err(Spent)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The CPU time of this thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_costs_no_budget_and_computing_does() {
        let engine = Engine::new(None).unwrap();
        let shift = engine.shift();
        engine.handle.block_on(async {
            let waiting = tokio::time::sleep(Duration::from_millis(30));
            assert_eq!(engine.budget(Duration::from_millis(20), &shift, waiting).await, Ok(()));
            let looping = async {
                loop {
                    Arc::clone(&shift).next().await;
                }
            };
            assert_eq!(engine.budget(Duration::from_millis(20), &shift, looping).await, Err(Spent));
            assert!(engine.computed() >= Duration::from_millis(20));
        });
    }

    #[test]
    fn what_the_host_does_for_a_guest_costs_no_budget() {
        let engine = Engine::new(None).unwrap();
        engine.handle.block_on(async {
            let work = async {
                for _ in 0..3 {
                    Engine::for_guest(|| {
                        let before = thread_cpu();
                        while thread_cpu() < before + Duration::from_millis(20) {}
                    });
                    tokio::task::yield_now().await;
                }
            };
            assert_eq!(engine.budget(Duration::from_millis(20), &engine.shift(), work).await, Ok(()));
            assert!(engine.computed() < Duration::from_millis(20));
        });
    }

    #[test]
    fn no_more_than_two_guests_go_on_computing_and_whoever_waits_is_none_of_them() {
        let engine = Engine::new(None).unwrap();
        engine.handle.block_on(async {
            let shifts: Vec<_> = (0..3).map(|_| engine.shift()).collect();
            let [one, other, third] = shifts.as_slice() else { unreachable!() };
            Arc::clone(one).next().await;
            Arc::clone(other).next().await;
            let waits = tokio::time::timeout(Duration::from_millis(10), Arc::clone(third).next());
            assert!(waits.await.is_err());
            // Its guest waits for an answer now.
            let waiting = tokio::time::sleep(Duration::from_millis(10));
            engine.budget(Duration::from_secs(1), one, waiting).await.unwrap();
            tokio::time::timeout(Duration::from_secs(10), Arc::clone(third).next()).await.unwrap();
        });
    }

    #[test]
    fn the_clock_stands_still_without_guests() {
        let engine = Engine::new(None).unwrap();
        {
            let _running = engine.running();
            assert_eq!(engine.ticker.state.lock().unwrap().guests, 1);
        }
        assert_eq!(engine.ticker.state.lock().unwrap().guests, 0);
    }
}
