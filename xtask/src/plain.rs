//! The last run of `test` where cargo-nextest is not installed: the same tests by cargo alone. Tests that must not
//! run side by side run one after the other here too; there is no report to take times from, and nothing ends a
//! test that hangs.

use std::{fs, process::Stdio};

use crate::{
    parts::{Kind, ONE_BY_ONE, Part},
    shell::{Failure, Fallible, Shell, run},
};

/// Runs these parts, all of them even if one fails.
pub(crate) fn run_all(shell: &Shell, parts: &[&Part]) -> Fallible {
    let mut failed = false;
    for arguments in plan(shell, parts)? {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let base = ["test", "--locked", "--workspace", "--no-fail-fast"];
        if let Err(Failure::Because(reason)) = run(shell.cargo(&base).args(&arguments)) {
            eprintln!("error: {reason}");
            failed = true;
        }
    }
    if failed { Err(Failure::Told) } else { Ok(()) }
}

/// What cargo is called with after `test --workspace`, once for each run.
fn plan(shell: &Shell, parts: &[&Part]) -> Fallible<Vec<Vec<String>>> {
    let mut runs = Vec::new();
    let mut tests = None;
    for part in parts {
        match part.kind {
            Kind::Unit => runs.push(vec!["--lib".to_owned(), "--bins".to_owned()]),
            Kind::SuiteAnd(package) => runs.push(targets_of(shell, package)?),
            Kind::Suite | Kind::Stage(_) => {}
        }
        if matches!(part.kind, Kind::Suite | Kind::SuiteAnd(_)) && tests.is_none() {
            tests = Some(suite(shell)?);
        }
    }
    let tests = tests.unwrap_or_default();
    let (mut together, mut one_by_one) = (Vec::new(), Vec::new());
    for part in parts.iter().filter(|part| matches!(part.kind, Kind::Suite | Kind::SuiteAnd(_))) {
        let module = format!("{}::", part.name);
        let ours: Vec<_> = tests.iter().filter(|test| test.starts_with(&module)).cloned().collect();
        if ours.is_empty() {
            return Err(Failure::because(format!(
                "{} has not a single test, which is no success",
                part.name
            )));
        }
        let (alone, others): (Vec<_>, Vec<_>) = ours.into_iter().partition(|test| is_alone(test));
        one_by_one.extend(alone);
        together.extend(others);
    }
    for (tests, more) in [(together, None), (one_by_one, Some("--test-threads=1"))] {
        if !tests.is_empty() {
            let words = ["--test", "suite", "--", "--exact"].into_iter().chain(more).map(str::to_owned);
            runs.push(words.chain(tests).collect());
        }
    }
    Ok(runs)
}

fn is_alone(test: &str) -> bool {
    ONE_BY_ONE.iter().any(|module| test.starts_with(module))
}

/// The files in a package's folder `tests`, as cargo is told of them.
fn targets_of(shell: &Shell, package: &str) -> Fallible<Vec<String>> {
    let folder = shell.path("daemon").join(package.trim_start_matches("kato-")).join("tests");
    let unreadable = |error| Failure::because(format!("{} cannot be read: {error}", folder.display()));
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if let Some(target) = name.to_string_lossy().strip_suffix(".rs") {
            targets.extend(["--test".to_owned(), target.to_owned()]);
        }
    }
    Ok(targets)
}

/// The names of all tests of the suite.
fn suite(shell: &Shell) -> Fallible<Vec<String>> {
    let mut list =
        shell.cargo(&["test", "--quiet", "--locked", "--workspace", "--test", "suite", "--", "--list"]);
    let answer = list
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::because(format!("cargo test does not start: {error}")))?;
    if !answer.status.success() {
        return Err(Failure::because("the tests of the suite could not be listed"));
    }
    let text = String::from_utf8_lossy(&answer.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::PARTS;

    #[test]
    fn every_test_of_every_part_is_run_and_the_delicate_ones_one_by_one() -> Result<(), String> {
        let shell = Shell::new().map_err(|_| "no shell")?;
        let store = targets_of(&shell, "kato-store").map_err(|_| "no tests of the store")?;
        for target in ["power_cut", "opening", "full_disk", "kill"] {
            assert!(store.iter().any(|word| word == target), "{store:?}");
        }
        assert!(PARTS.iter().any(|part| matches!(part.kind, Kind::SuiteAnd("kato-store"))));
        // Both runners agree on what stands alone.
        let nextest =
            fs::read_to_string(shell.path(".config/nextest.toml")).map_err(|error| error.to_string())?;
        assert!(
            nextest.contains(
                "test(/^(docker|host|cli|backend|csi|ceph|copies|ebs|packet|hosts)::|^crash::kills|^deploy::image/)"
            ),
            "{nextest}"
        );
        let alone = [
            "docker::",
            "host::",
            "cli::",
            "backend::",
            "csi::",
            "ceph::",
            "copies::",
            "ebs::",
            "packet::",
            "hosts::",
            "crash::kills",
            "deploy::image",
        ];
        assert_eq!(ONE_BY_ONE, alone);
        assert!(is_alone("host::growth::a") && !is_alone("hall::host::a") && !is_alone("crash::stories::a"));
        Ok(())
    }
}
