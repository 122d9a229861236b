//! Installing Debian's packages on a developer's machine, without asking and without starting what they bring: the
//! tests start their own servers, and one of the distribution's would stand in their way.
//!
//! QEMU is in pieces that must be of one version. A machine may have a newer `qemu-utils` from elsewhere, and then
//! nothing that belongs to Debian's QEMU can be installed beside it; so that piece is brought to the others' version.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use crate::shell::{Failure, Fallible, Shell, run};

/// What Debian's maintainer scripts ask before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Reads what there is to install.
pub(crate) fn update(shell: &Shell) -> Fallible {
    run(apt_get(shell).args(["update", "-qq"]))
}

/// Installs these packages in one go: all of them or none.
pub(crate) fn install(shell: &Shell, packages: &[&str]) -> Fallible {
    let mut install = apt_get(shell);
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages);
    if packages.iter().any(|package| package.starts_with("qemu-"))
        && let Some(version) = another_qemu(shell)
    {
        println!("qemu-utils is of another version than what it has to fit to: it becomes {version}");
        install.args(["--allow-downgrades", &format!("qemu-utils={version}")]);
    }
    let _quiet = Quiet::begin()?;
    run(&mut install)
}

fn apt_get(shell: &Shell) -> Command {
    let mut command = shell.command("apt-get");
    // Nobody answers, so nothing is asked; a mirror that says nothing and another apt are waited for, but not for ever.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_SUSPEND", "1");
    for option in [
        "Dpkg::Options::=--force-confdef",
        "Dpkg::Options::=--force-confold",
        "Dpkg::Use-Pty=0",
        "DPkg::Lock::Timeout=120",
        "Acquire::Retries=2",
        "Acquire::http::Timeout=60",
        "Acquire::https::Timeout=60",
    ] {
        command.args(["-o", option]);
    }
    command
}

/// The version that qemu-utils has to have, when it is installed in another one.
fn another_qemu(shell: &Shell) -> Option<String> {
    let policy = |package: &str| {
        let answer = shell.command("apt-cache").args(["policy", package]).env("LC_ALL", "C").output().ok()?;
        Some(String::from_utf8_lossy(&answer.stdout).into_owned())
    };
    fitting(&policy("qemu-utils")?, &policy("qemu-system-common")?)
}

/// The same, from what `apt-cache policy` says of both. A version that cannot be had is not asked for.
fn fitting(utils: &str, system: &str) -> Option<String> {
    let installed = said(utils, "Installed")?;
    let wanted = said(system, "Installed").or_else(|| said(system, "Candidate"))?;
    let can_be_had = utils.split_whitespace().any(|word| word == wanted);
    (installed != wanted && can_be_had).then(|| wanted.to_owned())
}

fn said<'a>(policy: &'a str, what: &str) -> Option<&'a str> {
    let line = policy.lines().find_map(|line| line.trim().strip_prefix(what)?.strip_prefix(':'))?;
    Some(line.trim()).filter(|version| *version != "(none)")
}

/// While it lives, no service is started. A machine that has a policy of its own keeps it.
struct Quiet {
    ours: bool,
}

impl Quiet {
    fn begin() -> Fallible<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        // It forbids nothing any more once this process is gone, should it be left behind.
        let text = format!("#!/bin/sh\n[ -e /proc/{} ] && exit 101\nexit 0\n", std::process::id());
        fs::write(POLICY, text)
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .map_err(|error| Failure::because(format!("{POLICY} cannot be written: {error}")))?;
        Ok(Self { ours: true })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("warning: {POLICY} stays, take it away: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_is_brought_to_one_version() {
        let debian = "qemu-system-common:\n  Installed: (none)\n  Candidate: 1:7.2+u18\n  Version table:\n";
        let newer = "qemu-utils:\n  Installed: 1:10.0.2\n  Candidate: 1:10.0.2\n  Version table:\n \
                     *** 1:10.0.2 100\n     1:7.2+u18 500\n";
        assert_eq!(fitting(newer, debian).as_deref(), Some("1:7.2+u18"));
        assert_eq!(fitting(&newer.replace("1:7.2+u18", "1:7.2+u15"), debian), None, "it cannot be had");
        assert_eq!(fitting(&newer.replace("1:10.0.2", "1:7.2+u18"), debian), None, "it fits");
        assert_eq!(fitting(&newer.replacen("1:10.0.2", "(none)", 1), debian), None, "it is not there");
        assert_eq!(fitting(newer, ""), None);
    }
}
