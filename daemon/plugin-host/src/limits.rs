//! How much a backend's guests may take: memory, computing, time, room in answers, calls at once. A limit is
//! a number of the operator's with a default that suits a control plane; whoever exceeds one gets an error
//! that names it. What happens to a backend that keeps exceeding them is `breaker.rs`; how fast it may be
//! called when its cloud throttles is `bucket.rs`.

use std::time::Duration;

use serde::Deserialize;
use wasmtime::ResourceLimiter;

use crate::engine::MEMORY_LIMIT;

/// The longest handle in bytes, as the contract says.
pub(crate) const HANDLE: usize = 100;
/// The longest `resume` in bytes, as the contract says.
pub(crate) const RESUME: usize = 4096;
/// The longest mark in bytes, as the contract says.
pub(crate) const MARK: usize = 200;
/// The longest token in bytes.
pub(crate) const TOKEN: usize = 64;
/// The longest text for people, in bytes; longer ones are cut.
pub(crate) const TEXT: usize = 1000;
/// The longest page token in bytes.
pub(crate) const PAGE: usize = 1024;
/// The most items on a page.
pub(crate) const ITEMS: usize = 10_000;
/// The most things that are inspected in one call, as the contract says.
pub(crate) const BATCH: usize = 100;
/// The most keys of a topology, and parameters of a volume or a class.
pub(crate) const PAIRS: usize = 100;
/// The longest key, value or short text of any other kind, in bytes.
pub(crate) const WORD: usize = 1000;
/// The longest time that a guest may ask to be left alone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3600);

/// How much a backend's guests may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of one instance, in MiB; at most 256.
    pub memory_mib: u32,
    /// Computing in one call, in milliseconds; waiting costs none of it.
    pub cpu_ms: u64,
    /// The whole of one call, in milliseconds, waiting included.
    pub wall_ms: u64,
    /// Calls at once that change something.
    pub calls: u32,
    /// Calls at once that only read: they have slots of their own.
    pub reads: u32,
    /// The largest answer or argument of a call, in MiB.
    pub answer_mib: u32,
    /// The largest body of an HTTP response, in MiB.
    pub response_mib: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_mib: 64,
            cpu_ms: 2_000,
            wall_ms: 120_000,
            calls: 12,
            reads: 6,
            answer_mib: 32,
            response_mib: 32,
        }
    }
}

impl Limits {
    pub(crate) fn memory(&self) -> usize {
        (mebibytes(self.memory_mib)).clamp(1 << 20, MEMORY_LIMIT)
    }

    pub(crate) fn answer(&self) -> usize {
        mebibytes(self.answer_mib).clamp(64 << 10, 1 << 30)
    }

    pub(crate) fn response(&self) -> usize {
        mebibytes(self.response_mib).clamp(64 << 10, 1 << 30)
    }

    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_millis(self.cpu_ms.max(1))
    }

    pub(crate) fn wall(&self) -> Duration {
        Duration::from_millis(self.wall_ms.max(1))
    }
}

fn mebibytes(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(1 << 20)
}

/// A limit that a guest ran into: it ends the call, and says so in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded(pub(crate) String);

impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Exceeded {}

/// Watches over one instance's memories and tables. Asking for more ends the call at once: a guest that was
/// refused memory would only abort with less to say.
pub(crate) struct Ceiling {
    memory: usize,
}

impl Ceiling {
    /// Elements of all tables: function pointers, of which a large component has some ten thousand.
    const TABLE: usize = 100_000;

    pub(crate) fn new(limits: &Limits) -> Self {
        Self { memory: limits.memory() }
    }
}

impl ResourceLimiter for Ceiling {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.memory {
            return Err(Exceeded(format!(
                "the plugin asked for {} MiB of memory, and its limit is {} MiB",
                desired >> 20,
                self.memory >> 20
            ))
            .into());
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > Self::TABLE {
            return Err(Exceeded(format!(
                "the plugin asked for a table of {desired} elements, and the limit is {}",
                Self::TABLE
            ))
            .into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        32
    }

    fn tables(&self) -> usize {
        8
    }

    fn memories(&self) -> usize {
        2
    }
}
