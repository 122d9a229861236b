//! Python's packages for the tests, in a virtual environment beneath `target/`, so that the machine's own Python stays as
//! it is. The list is pinned and lies with the tests; what was installed is written beside it, so a run that finds the same
//! list asks nobody.

use std::{fs, path::Path};

use crate::{
    apt, peers,
    shell::{Failure, Fallible, Shell, run},
};

/// The parts that speak by Python, and what they need.
const LISTS: &[(&str, &str)] = &[("ebs", "tests/suite/ebs/requirements.txt")];

/// Where it is put.
const HOME: &str = "target/python";

/// Installs what the parts of these names need. What cannot be had is said aloud, and again by the tests that miss it.
pub(crate) fn ensure_for(shell: &Shell, names: &[&str]) -> Fallible {
    for (_, list) in LISTS.iter().filter(|(part, _)| names.contains(part)) {
        if let Err(Failure::Because(reason)) = ensure(shell, &shell.path(list)) {
            peers::complain(&format!("Python's packages of {list} are not there: {reason}"))?;
        }
    }
    Ok(())
}

fn ensure(shell: &Shell, list: &Path) -> Fallible {
    let because =
        |what: &str, error: std::io::Error| Failure::because(format!("{}: {what}: {error}", list.display()));
    let wanted = fs::read_to_string(list).map_err(|error| because("it cannot be read", error))?;
    let home = shell.path(HOME);
    let installed = home.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|has| has == wanted) {
        return Ok(());
    }
    if home.exists() {
        fs::remove_dir_all(&home).map_err(|error| because("what is outdated stays", error))?;
    }
    if make(shell).is_err() {
        // Debian has the module for virtual environments in a package of its own.
        apt::update(shell)?;
        apt::install(shell, &["python3", "python3-venv"])?;
        make(shell)?;
    }
    let mut pip = shell.command(&format!("{}/bin/python", home.display()));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--requirement",
    ]);
    run(pip.arg(list))?;
    fs::write(&installed, wanted).map_err(|error| because("what was installed cannot be noted", error))
}

fn make(shell: &Shell) -> Fallible {
    run(shell.command("python3").args(["-m", "venv", "--clear", HOME]))
}
