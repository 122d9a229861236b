//! `cargo xtask up`: from a fresh machine to a running daemon. Builds in release, says what to type next, and
//! then becomes `kato serve`, so that Ctrl-C and the exit code are the daemon's own.

use std::{os::unix::process::CommandExt as _, path::PathBuf};

use clap::Args;

use crate::shell::{Failure, Fallible, Shell, is_root, run};

/// The arguments of `up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where the daemon keeps its records and its volumes [default: target/up]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Arguments for `kato serve`
    #[arg(last = true)]
    serve: Vec<String>,
}

impl Up {
    pub(crate) fn run(&self, shell: &Shell) -> Fallible {
        if !is_root() {
            return Err(Failure::because(
                "the daemon mounts filesystems, which only root may do: run `sudo -E env \"PATH=$PATH\" cargo xtask up`",
            ));
        }
        shell.ensure_guest_target()?;
        run(&mut shell.cargo(&["build", "--locked", "--release", "--package", "kato"]))?;
        let data = self.data.clone().unwrap_or_else(|| shell.path("target/up"));
        std::fs::create_dir_all(&data)
            .map_err(|error| Failure::because(format!("{} cannot be made: {error}", data.display())))?;
        let mut serve = shell.command(&shell.path("target/release/kato").to_string_lossy());
        serve.arg("serve").arg("--set").arg(format!("folders.data={}", data.display())).args(&self.serve);
        println!(
            "\nKáto keeps everything in {}. When it says that it serves, type in another terminal:\n",
            data.display()
        );
        println!("  docker volume create --driver kato db");
        println!(
            "  docker run --rm -v db:/data --volume-driver kato alpine sh -c 'date >> /data/log; cat /data/log'"
        );
        println!("  {} volume ls\n", shell.path("target/release/kato").display());
        Err(Failure::because(format!("kato does not start: {}", serve.exec())))
    }
}
