//! `kato`: one program that is the daemon (`kato serve`), its command line, and the short-lived child in which
//! the node touches devices. This file only chooses: `serve.rs` is the daemon from top to bottom, `cli/` the
//! command line, `config/` what both are told.

mod cli;
mod serve;

mod admin;
mod config;

mod catalog;
mod clock;
mod csi;
mod deploy;
mod folder;
mod journal;
mod lease;
mod plugins;
mod reload;
mod secrets;
mod systemd;
mod tasks;
mod telemetry;
mod yaml;

use std::process::ExitCode;

use crate::cli::{Exit, Task};

fn main() -> ExitCode {
    match cli::run() {
        Task::Done(exit) => exit.into(),
        Task::Worker => kato_node::worker_main(),
        Task::Serve(sources) => match serve::run(&sources) {
            Ok(()) => Exit::Ok.into(),
            Err(failure) => cli::told(&failure).into(),
        },
    }
}
