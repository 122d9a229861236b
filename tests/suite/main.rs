//! The behaviour suites, one binary. `cargo xtask test NAME` runs the modules of a part.

mod backend;
mod crash;
mod docker;
mod hall;
mod host;
mod sandbox;
mod store;
mod tidy;
