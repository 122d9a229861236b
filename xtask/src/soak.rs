//! `cargo xtask soak [PART]`: the crash suite, and the CSI door's kills, with their full number of kills. The number crosses to the suite as
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
    /// What is killed; both when neither is named
    #[arg(value_parser = ["crash", "csi"])]
    part: Option<String>,
}

impl Soak {
    pub(crate) fn run(&self, shell: &Shell) -> Fallible {
        shell.ensure_guest_target()?;
        peers::ensure_for(shell, &["crash", "csi"])?;
        let (crash, csi) = ("crash::", "csi::kills::");
        let chosen = match self.part.as_deref() {
            Some("crash") => vec![crash],
            Some(_) => vec![csi],
            None => vec![crash, csi],
        };
        parts::build(shell)?;
        let mut command = if find_program("cargo-nextest").is_some() {
            let filter = format!("binary_id(kato-tests::suite) & test(/^({})/)", chosen.join("|"));
            shell.cargo(&["nextest", "run", "--locked", "--workspace", "--profile", "soak", "-E", &filter])
        } else {
            let line = ["test", "--locked", "--workspace", "--test", "suite", "--"];
            shell.cargo(&[&line[..], &chosen[..]].concat())
        };
        run(command.env("KATO_TEST_KILLS", self.kills.to_string()))
    }
}
