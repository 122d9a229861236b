//! `cargo xtask bench`: builds the daemon as people run it, and the measuring program (`tests/bench`), and runs
//! it. Every row is printed beside a yardstick that was taken in the same run, because figures of another hour or another
//! machine say nothing.

use clap::Args;

use crate::{
    peers,
    shell::{Fallible, Shell, run},
};

/// The arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Measure the profile that is shared with the tests: built sooner, but not what people run
    #[arg(long)]
    dev: bool,
    /// Rows to measure: raw, docker, csi, plugin, scale, data, ceph, ebs; all of them when none is named
    #[arg(value_name = "ROWS")]
    rows: Vec<String>,
}

impl Bench {
    pub(crate) fn run(&self, shell: &Shell) -> Fallible {
        shell.ensure_guest_target()?;
        let wants = |row: &str| self.rows.is_empty() || self.rows.iter().any(|wanted| wanted == row);
        let ceph = wants("ceph");
        peers::ensure_for(shell, if ceph { &["bench", "ceph"] } else { &["bench"] })?;
        let profile = if self.dev { "dev" } else { "release" };
        let rows: Vec<&str> = self.rows.iter().map(String::as_str).collect();
        if wants("ebs") {
            native(shell)?;
        }
        println!("measuring the {profile} profile");
        measure(shell, profile, &rows)
    }
}

/// Every row with the smallest numbers: that the bench works, not how fast the house is.
pub(crate) fn smoke(shell: &Shell) -> Fallible {
    measure(shell, "dev", &["--smoke"])
}

/// The program that the rows of EBS are held against: a workspace of its own, as nothing else needs Amazon's client.
pub(crate) const NATIVE: &str = "tests/native/Cargo.toml";

/// Builds it.
fn native(shell: &Shell) -> Fallible {
    let mut build = shell.cargo(&["build", "--locked", "--release", "--manifest-path", NATIVE]);
    run(build.args(["--target-dir", "target/native"]))
}

fn measure(shell: &Shell, profile: &str, arguments: &[&str]) -> Fallible {
    run(&mut shell.cargo(&["build", "--locked", "--workspace", "--profile", profile]))?;
    let mut bench = shell.cargo(&["bench", "--quiet", "--locked", "--workspace", "--profile", profile]);
    run(bench.args(["--bench", "volumes", "--"]).args(arguments))
}
