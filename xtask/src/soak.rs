//! `cargo xtask soak`: the crash suite with its full number of kills. The number crosses to the suite as
//! `KATO_TEST_KILLS`; without it the suite takes the small sample that `test` can afford.

use clap::Args;

use crate::{
    parts, peers,
    shell::{Fallible, Shell, find_program, run},
};

/// The arguments of `soak`.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// How many times to kill in each story
    #[arg(long, default_value_t = 500)]
    kills: u32,
}

impl Soak {
    pub(crate) fn run(&self, shell: &Shell) -> Fallible {
        shell.ensure_guest_target()?;
        peers::ensure_for(shell, &["crash"])?;
        parts::build(shell)?;
        let mut command = if find_program("cargo-nextest").is_some() {
            let filter = "binary_id(kato-tests::suite) & test(/^crash::/)";
            shell.cargo(&["nextest", "run", "--locked", "--workspace", "--profile", "soak", "-E", filter])
        } else {
            shell.cargo(&["test", "--locked", "--workspace", "--test", "suite", "--", "crash::"])
        };
        run(command.env("KATO_TEST_KILLS", self.kills.to_string()))
    }
}
