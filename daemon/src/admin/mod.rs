//! The admin door: REST over a socket of our own, for `kato` itself, for scripts, and for Prometheus. Like the
//! other doors it translates and calls the hall; unlike them it also shows the house: plugins, configuration,
//! records. `server.rs` is the way in, `routes.rs` the table of what can be asked,
//! `watch.rs` what is told as it happens.

mod convert;
mod error;
mod routes;
mod server;
mod watch;

pub(crate) use self::server::{Door, Doorway, serve};
