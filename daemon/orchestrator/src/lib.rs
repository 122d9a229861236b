//! The hall: what a volume is, and how every wish about one is carried out.
//!
//! Two front doors and the admin door call [`Orchestrator`]; it records their wishes and waits. What comes
//! next for a volume is decided in one pure function (`plan`), executed by one driver per volume (`drive`)
//! through four ports, and picked up again after a crash by the same path (`reconcile`).
//!
//! This crate knows no transport, no store, no sandbox, no kernel and no wall clock. Read `model/volume.rs`,
//! then `plan.rs`, then `drive.rs`.

pub mod catalog;
pub mod error;
pub mod model;
pub mod ops;
pub mod ports;
pub mod records;
#[cfg(feature = "testing")]
pub mod testing;

mod census;
mod consult;
mod cut;
mod doctor;
mod drive;
mod drivers;
mod family;
mod fellows;
mod follow;
mod gauges;
mod groups;
mod hall;
mod handles;
mod hold;
mod house;
mod journal;
mod mark;
mod plan;
mod polls;
mod reconcile;
mod recover;
mod replica;
mod steps;
mod tombstones;
mod trust;
mod watch;

pub use self::{
    catalog::Catalog,
    consult::Consultation,
    error::{Error, Finality, Kind, Outcome, Retry},
    fellows::{Keepsake, Sharing},
    gauges::Gauges,
    hall::{BackendView, Config, Finding, Orchestrator, Ports, Role},
    mark::{Mark, SnapshotMark},
};
