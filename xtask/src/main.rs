//! Every developer task, as `cargo xtask …`; `cargo xtask --help` is the table of contents.
//!
//! One file per task, over `shell.rs` (how programs are run) and `parts.rs` (what `test` is made of, with
//! budgets). Nothing here ships: it may print, start programs and read the environment, which the house may
//! not. Read `parts.rs` first.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a developer's tool: it prints, runs cargo and apt, and times what it ran; none of it ships"
)]

mod apt;
mod bench;
mod conform;
mod image;
mod managed_plugin;
mod nextest;
mod parts;
mod peers;
mod plain;
mod python;
mod rootfs;
mod shell;
mod soak;
mod test;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::shell::{Failure, Shell};

/// Developer tasks of Káto storage.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build everything in release and run the daemon on this machine, Docker door included
    Up(up::Up),
    /// Everything: format, lints, build, unit and doc tests, suites. CI runs this and nothing else
    Test(test::Test),
    /// The fast half of `test` for the editor loop: format and lints, for the host and for the guests
    Check,
    /// The suites that kill, with their full number of kills
    Soak(soak::Soak),
    /// Ask anybody's component what the backend suite asks of ours
    Conform(conform::Conform),
    /// Measure against yardsticks taken in the same run
    Bench(bench::Bench),
    /// Build the managed Docker plugin (root file system and config.json) and create it in dockerd
    ManagedPlugin(managed_plugin::ManagedPlugin),
    /// Build the container image as a file, without a registry
    Image(image::Image),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = Shell::new().and_then(|shell| match cli.task {
        Task::Up(task) => task.run(&shell),
        Task::Test(task) => task.run(&shell),
        Task::Check => test::check(&shell),
        Task::Soak(task) => task.run(&shell),
        Task::Conform(task) => task.run(&shell),
        Task::Bench(task) => task.run(&shell),
        Task::ManagedPlugin(task) => task.run(&shell),
        Task::Image(task) => task.run(&shell),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Because(reason)) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}
