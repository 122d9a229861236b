//! `cargo xtask test [PART…]`: everything, or the parts that are named. The stages run first, each beside its
//! budget; the unit tests and suites run last, in one run of one runner, whose summary ends the output.

use std::time::Duration;

use clap::Args;

use crate::{
    nextest,
    parts::{self, Kind, PARTS, Part},
    peers, plain,
    shell::{Fallible, Shell, find_program, timed},
};

/// The arguments of `test`.
#[derive(Debug, Args)]
#[command(after_help = parts_help())]
pub(crate) struct Test {
    /// Parts to run; all of them when none is named
    #[arg(value_name = "PART")]
    parts: Vec<String>,
}

/// How long a part took, for the table.
pub(crate) struct Took {
    pub(crate) part: &'static str,
    pub(crate) time: Duration,
    pub(crate) tests: Option<usize>,
}

impl Test {
    pub(crate) fn run(&self, shell: &Shell) -> Fallible {
        let parts = parts::chosen(&self.parts)?;
        shell.ensure_guest_target()?;
        peers::ensure(shell, &parts)?;
        let mut took = Vec::new();
        for part in &parts {
            if let Kind::Stage(stage) = part.kind {
                println!("\n== {}: {} (budget {})", part.name, part.tells, minutes(part.budget));
                let (done, time) = timed(|| stage(shell));
                println!("== {} took {}", part.name, clock(time));
                done?;
                took.push(Took { part: part.name, time, tests: None });
            }
        }
        let suites: Vec<_> =
            parts.iter().copied().filter(|part| !matches!(part.kind, Kind::Stage(_))).collect();
        if suites.is_empty() {
            print_table(&parts, &took);
            return Ok(());
        }
        if took.iter().all(|took| took.part != "build") {
            // Suites start the daemon: it must be the one of this checkout.
            parts::build(shell)?;
        }
        println!("\n== {}", suites.iter().map(|part| part.name).collect::<Vec<_>>().join(", "));
        if find_program("cargo-nextest").is_some() {
            nextest::run(shell, &suites, &mut took, |took| print_table(&parts, took))
        } else {
            print_table(&parts, &took);
            plain::run_all(shell, &suites)
        }
    }
}

/// `cargo xtask check`.
pub(crate) fn check(shell: &Shell) -> Fallible {
    shell.ensure_guest_target()?;
    parts::check(shell)
}

/// Every chosen part beside its budget.
fn print_table(parts: &[&Part], took: &[Took]) {
    println!("\n{:<12} {:>8} {:>9} {:>6}", "part", "budget", "took", "tests");
    for part in parts {
        let line = took.iter().find(|took| took.part == part.name);
        let time = line.map_or_else(|| "-".to_owned(), |took| clock(took.time));
        let tests =
            line.and_then(|took| took.tests).map_or_else(|| "-".to_owned(), |tests| tests.to_string());
        let over = line.is_some_and(|took| took.time.as_secs_f64() > part.budget * 60.0);
        let remark = if over { "  over budget" } else { "" };
        println!("{:<12} {:>8} {time:>9} {tests:>6}{remark}", part.name, minutes(part.budget));
    }
    let budget: f64 = parts.iter().map(|part| part.budget).sum();
    let time: Duration = took.iter().map(|took| took.time).sum();
    println!("{:<12} {:>8} {:>9}\n", "together", minutes(budget), clock(time));
}

fn minutes(minutes: f64) -> String {
    format!("{minutes} min")
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 60.0 { format!("{seconds:.1} s") } else { format!("{:.1} min", seconds / 60.0) }
}

fn parts_help() -> String {
    let lines: Vec<_> = PARTS
        .iter()
        .map(|part| format!("  {:<12} {:>8}  {}", part.name, minutes(part.budget), part.tells))
        .collect();
    format!("Parts, with their budgets:\n{}", lines.join("\n"))
}
