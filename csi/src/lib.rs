//! Front door: the Container Storage Interface, version 1.13, for Kubernetes, Nomad, Mesos and Swarm.
//!
//! A call is decoded, checked against the specification's limits (`check.rs`), turned into one command of the hall, and
//! answered. This room knows one object, the [`kato_orchestrator::Orchestrator`]; no store, no backend, no mount.
//! `server.rs` is the way in, `door.rs` what every call goes through, then there is one file per service. What
//! leaves this room and comes back is in `ids.rs`, `nodes.rs` and `pages.rs`, and, sealed, `seal.rs`.

mod capabilities;
mod check;
mod config;
mod connection;
mod context;
mod controller;
mod convert;
mod door;
mod error;
mod flight;
mod groups;
mod health;
mod identity;
mod ids;
mod metric;
mod node;
mod nodes;
mod operation;
mod pages;
#[cfg(not(feature = "client"))]
mod protocol;
#[cfg(feature = "client")]
pub mod protocol;
mod rules;
mod seal;
mod server;
mod snapshot_metadata;
mod snapshots;
mod volumes;

pub use self::{
    capabilities::Claims,
    config::{Config, Role},
    seal::SealKey,
    server::serve,
};
