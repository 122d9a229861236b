//! `cargo xtask conform FILE`: asks anybody's component what the backend suite asks of ours. The file and what
//! else is to be known about it cross to the suite as `KATO_CONFORM_COMPONENT` and `KATO_CONFORM_WITH`; without
//! them the suite asks our own component by the same road.

use std::{fs, path::PathBuf};

use clap::Args;

use crate::{
    parts, peers,
    shell::{Failure, Fallible, Shell, find_program, run},
};

/// The arguments of `conform`.
#[derive(Debug, Args)]
pub(crate) struct Conform {
    /// The component
    component: PathBuf,
    /// A TOML file: what it is told and granted (`configuration`, `grants`), which volumes to ask for (`size`,
    /// in bytes, and `parameters`). What is not written is usual: a new folder for every directory that it asks
    /// for, connections to what is in there, volumes of 8 MiB
    #[arg(long)]
    with: Option<PathBuf>,
}

impl Conform {
    pub(crate) fn run(&self, shell: &Shell) -> Fallible {
        let found = |path: &PathBuf| {
            fs::canonicalize(path)
                .map_err(|error| Failure::because(format!("{} cannot be read: {error}", path.display())))
        };
        let component = found(&self.component)?;
        let with = self.with.as_ref().map(found).transpose()?;
        shell.ensure_guest_target()?;
        peers::ensure_for(shell, &["backend"])?;
        parts::build(shell)?;
        let mut command = if find_program("cargo-nextest").is_some() {
            let filter = "binary_id(kato-tests::suite) & test(/^backend::theirs::/)";
            shell.cargo(&["nextest", "run", "--locked", "--workspace", "--no-fail-fast", "-E", filter])
        } else {
            let filter = ["--", "backend::theirs::", "--test-threads=1"];
            shell.cargo(&[&["test", "--locked", "--workspace", "--test", "suite"][..], &filter].concat())
        };
        command.env("KATO_CONFORM_COMPONENT", component);
        if let Some(with) = with {
            command.env("KATO_CONFORM_WITH", with);
        }
        run(&mut command)
    }
}
