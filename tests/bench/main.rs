//! What the house costs, each figure beside a yardstick that was taken in the same run on the same disk.
//! `cargo xtask bench` builds and runs it. One file per group of rows; `table.rs` is how they are shown,
//! `yardstick.rs` what the kernel alone would take.
//!
//! Arguments: names of groups (`raw`, `docker`, `csi`, `plugin`, `scale`, `data`, `ceph`, `ebs`; all by default), and `--smoke`
//! for the smallest numbers, which show that the bench works and say nothing about speed. `ceph` starts a cluster and
//! `ebs` needs a program of its own, so `--smoke` leaves them out unless they are named.

#![expect(clippy::print_stdout, reason = "a table on standard output is what it is for")]

mod table;

mod ceph;
mod csi;
mod data;
mod docker;
mod ebs;
mod plugin;
mod raw;
mod scale;

mod clock;
mod daemon;
mod door;
mod yardstick;

use std::{error::Error, process::ExitCode};

use self::{table::Table, yardstick::Ground};

type Fallible<T = ()> = Result<T, Box<dyn Error>>;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    smoke: bool,
}

impl Effort {
    /// This many, or a few.
    fn of(self, full: usize, smoke: usize) -> usize {
        if self.smoke { smoke } else { full }
    }
}

type Group = fn(&Ground, Effort, &mut Table) -> Fallible;

const GROUPS: [(&str, Group); 8] = [
    ("raw", raw::rows),
    ("docker", docker::rows),
    ("csi", csi::rows),
    ("plugin", plugin::rows),
    ("scale", scale::rows),
    ("data", data::rows),
    ("ceph", ceph::rows),
    ("ebs", ebs::rows),
];

/// The groups that take too long for a run that only shows that everything works.
const SLOW: [&str; 2] = ["ceph", "ebs"];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let effort = Effort { smoke: arguments.iter().any(|argument| argument == "--smoke") };
    let names: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    if let Some(unknown) = names.iter().find(|name| GROUPS.iter().all(|(group, _)| *group != name.as_str())) {
        println!("there is no group {unknown:?}: raw, docker, csi, plugin, scale, data, ceph, ebs");
        return ExitCode::FAILURE;
    }
    let mut table = Table::default();
    let mut whole = true;
    for (name, rows) in GROUPS {
        let named = names.iter().any(|wanted| *wanted == name);
        let by_itself = names.is_empty() && !(effort.smoke && SLOW.contains(&name));
        if !named && !by_itself {
            continue;
        }
        table.group(name);
        let done = Ground::make().and_then(|ground| rows(&ground, effort, &mut table));
        if let Err(error) = done {
            println!("{name} failed: {error}");
            whole = false;
        }
    }
    table.print_summary();
    if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
