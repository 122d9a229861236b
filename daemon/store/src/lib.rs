//! The journal: the orchestrator's `Store` port over memory and over sled.
//!
//! `committer.rs` is the one order in which both commit; `memory.rs` also models crashes for the suites.
//!
//! Nothing here knows what a record means: values come sealed and leave sealed.

mod memory;

mod claims;
mod committer;
mod watch;

pub use self::memory::{LazyFate, MemoryStore};
