//! `cargo xtask soak [PART]`: the suites that kill the daemon under load, with their full number of kills. The number
//! crosses to the suite as `KATO_TEST_KILLS`; without it the suite takes the small sample that `test` can afford.

use clap::Args;

use crate::{
    parts, peers,
    shell::{Failure, Fallible, Shell, find_program, run},
};

/// What is killed: what to type, where its tests are, and how many kills are many. Over a cluster what was killed is
/// waited for, so each takes longer there. What counts requests takes the number as well, for how many it counts.
const KILLED: [(&str, &str, u32); 7] = [
    ("crash", "crash::", 500),
    ("csi", "csi::kills::", 500),
    ("ceph", "ceph::kills::", 100),
    ("ebs", "ebs::kills::", 100),
    ("ebs", "ebs::calls::", 100),
    ("packet", "packet::kills::", 100),
    ("hosts", "hosts::failover::", 100),
];

/// The arguments of `soak`.
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// How many times to kill in each story [default: 500, with ceph, ebs, packet and hosts 100]
    #[arg(long)]
    kills: Option<u32>,
    /// What is killed; all of them when none is named
    #[arg(value_parser = ["crash", "csi", "ceph", "ebs", "packet", "hosts"])]
    part: Option<String>,
}

impl Soak {
    pub(crate) fn run(&self, shell: &Shell) -> Fallible {
        let runs = self.runs();
        shell.ensure_guest_target()?;
        let names: Vec<_> =
            KILLED.iter().filter(|(part, ..)| self.wants(part)).map(|(part, ..)| *part).collect();
        peers::ensure_for(shell, &names)?;
        parts::build(shell)?;
        let mut failed = false;
        for (kills, modules) in runs {
            let mut command = if find_program("cargo-nextest").is_some() {
                let filter = format!("binary_id(kato-tests::suite) & test(/^({})/)", modules.join("|"));
                let line = ["nextest", "run", "--locked", "--workspace", "--profile", "soak", "-E", &filter];
                shell.cargo(&line)
            } else {
                let line = ["test", "--locked", "--workspace", "--test", "suite", "--"];
                shell.cargo(&[&line[..], &modules].concat())
            };
            if let Err(Failure::Because(reason)) = run(command.env("KATO_TEST_KILLS", kills.to_string())) {
                eprintln!("error: {reason}");
                failed = true;
            }
        }
        if failed { Err(Failure::Told) } else { Ok(()) }
    }

    fn wants(&self, part: &str) -> bool {
        self.part.as_deref().is_none_or(|named| named == part)
    }

    /// Modules of the suite by their number of kills: what has the same number is one run.
    fn runs(&self) -> Vec<(u32, Vec<&'static str>)> {
        let mut runs: Vec<(u32, Vec<_>)> = Vec::new();
        for (_, module, usual) in KILLED.iter().filter(|(part, ..)| self.wants(part)) {
            let kills = self.kills.unwrap_or(*usual);
            match runs.iter_mut().find(|(number, _)| *number == kills) {
                Some((_, modules)) => modules.push(*module),
                None => runs.push((kills, vec![*module])),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_killed_equally_often_is_one_run() {
        let of = |kills, part: Option<&str>| Soak { kills, part: part.map(str::to_owned) }.runs();
        let clouds =
            vec!["ceph::kills::", "ebs::kills::", "ebs::calls::", "packet::kills::", "hosts::failover::"];
        assert_eq!(of(None, None), [(500, vec!["crash::", "csi::kills::"]), (100, clouds.clone())]);
        assert_eq!(of(Some(7), None), [(7, [vec!["crash::", "csi::kills::"], clouds].concat())]);
        assert_eq!(of(None, Some("ceph")), [(100, vec!["ceph::kills::"])]);
    }
}
