//! Front door: the Docker volume plugin (API version 1), as dockerd, Podman and dvdcli really speak it.
//!
//! A request is read as raw bytes, turned into one command of the hall, and answered with a JSON object. This
//! room knows one object, the [`kato_orchestrator::Orchestrator`]; no store, no backend, no mount. `server.rs`
//! is the way in, `handlers.rs` the table of what can be asked, `options.rs` what `docker volume create -o`
//! may say, `engine.rs` the one question that we ask dockerd. `managed/` packs the same daemon as a managed plugin.

mod config;
mod convert;
mod engine;
mod error;
mod handlers;
mod metric;
mod options;
mod protocol;
mod server;
mod socket;

pub use self::{
    config::{Config, Scope},
    engine::neighbours,
    server::serve,
    socket::{Passed, listen, listen_anywhere},
};
