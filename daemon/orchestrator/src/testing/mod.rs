//! The ports without the world: a backend, a machine and a clock in memory, and a fuse that stops the process
//! between any two of their instants. The worlds outlive the "process", as real ones do; what the suites prove
//! of the hall they prove against these.

mod backend;
mod blocks;
mod clock;
mod extents;
mod fuse;
mod host;
mod natures;
mod polling;
mod reach;

pub use self::{
    backend::{BackendWorld, FakeBackend, Fault, Verb},
    clock::{FakeClock, FakeIds},
    fuse::Fuse,
    host::{FakeHost, HostWorld},
};
