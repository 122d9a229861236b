//! The last run of `test`, by cargo-nextest: one process per test, groups and time limits from
//! `.config/nextest.toml`. Its output goes through here only so that the table of budgets can be printed
//! before its summary instead of after it; the times come from the JUnit report that it writes.

use std::{
    fs,
    io::{BufRead as _, BufReader, IsTerminal as _},
    process::Stdio,
    time::Duration,
};

use crate::{
    parts::{Kind, PARTS, Part},
    shell::{Failure, Fallible, Shell, spelled},
    test::Took,
};

const REPORT: &str = "target/nextest/default/junit.xml";

/// Runs these parts, calls `table` when it knows what they took, and lets the runner have the last word.
pub(crate) fn run(shell: &Shell, parts: &[&Part], took: &mut Vec<Took>, table: impl Fn(&[Took])) -> Fallible {
    let filter = parts.iter().map(|part| filter_of(part)).collect::<Vec<_>>().join(" | ");
    let colour = if std::io::stdout().is_terminal() { "always" } else { "never" };
    let mut command = shell.cargo(&[
        "nextest",
        "run",
        "--locked",
        "--workspace",
        "--no-fail-fast",
        "--no-tests",
        "fail",
        "--color",
        colour,
        "-E",
        &filter,
    ]);
    println!("$ {}", spelled(&command));
    let report = shell.path(REPORT);
    if report.exists() {
        fs::remove_file(&report)
            .map_err(|error| Failure::because(format!("the old {} stays: {error}", report.display())))?;
    }
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::because(format!("cargo nextest does not start: {error}")))?;
    let mut last_words = Vec::new();
    if let Some(output) = child.stderr.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if last_words.is_empty() && !line.contains("Summary [") && !line.contains("Summary\u{1b}") {
                println!("{line}");
            } else {
                last_words.push(line);
            }
        }
    }
    let status =
        child.wait().map_err(|error| Failure::because(format!("cargo nextest was lost: {error}")))?;
    let report = fs::read_to_string(&report).unwrap_or_default();
    took.extend(parts.iter().filter_map(|part| took_of(part, &report)));
    table(took);
    let empty = parts.iter().filter(|part| took.iter().all(|took| took.part != part.name));
    let empty: Vec<_> = empty.map(|part| part.name).collect();
    if !empty.is_empty() {
        println!("without a single test, which is no success: {}\n", empty.join(", "));
    }
    for line in last_words {
        println!("{line}");
    }
    if status.success() && empty.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

/// Nextest's expression for a part. Every test is of one part and no other.
pub(crate) fn filter_of(part: &Part) -> String {
    let suite = format!("binary_id(kato-tests::suite) & test(/^{}::/)", part.name);
    match part.kind {
        Kind::Suite => format!("({suite})"),
        Kind::SuiteAnd(package) => format!("(({suite}) | binary_id(/^{package}::/))"),
        Kind::Unit | Kind::Stage(_) => {
            let others: Vec<_> =
                others().map(|package| format!(" & not binary_id(/^{package}::/)")).collect();
            format!("(not binary_id(kato-tests::suite){})", others.concat())
        }
    }
}

/// Packages whose folder `tests` belongs to a part of its own.
fn others() -> impl Iterator<Item = &'static str> {
    PARTS.iter().filter_map(|part| match part.kind {
        Kind::SuiteAnd(package) => Some(package),
        _ => None,
    })
}

fn lies_in(binary: &str, package: &str) -> bool {
    binary.strip_prefix(package).is_some_and(|rest| rest.starts_with("::"))
}

/// What the tests of a part took together, from the report; nothing when it had none.
fn took_of(part: &Part, report: &str) -> Option<Took> {
    let mut tests = 0;
    let mut seconds = 0.0;
    for case in report.split("<testcase ").skip(1) {
        let binary = attribute(case, "classname").unwrap_or_default();
        let name = attribute(case, "name").unwrap_or_default();
        let of_suite = binary == "kato-tests::suite";
        let of_module = of_suite && name.split("::").next() == Some(part.name);
        let ours = match part.kind {
            Kind::Suite => of_module,
            Kind::SuiteAnd(package) => of_module || lies_in(binary, package),
            Kind::Unit | Kind::Stage(_) => !of_suite && !others().any(|package| lies_in(binary, package)),
        };
        if ours {
            tests += 1;
            seconds += attribute(case, "time").and_then(|time| time.parse::<f64>().ok()).unwrap_or(0.0);
        }
    }
    (tests > 0).then(|| Took { part: part.name, time: Duration::from_secs_f64(seconds), tests: Some(tests) })
}

fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let head = element.split('>').next()?;
    let (_, rest) = head.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<testsuites><testsuite name="kato-tests::suite">
        <testcase name="hall::a" classname="kato-tests::suite" time="0.250"></testcase>
        <testcase name="hall::b" classname="kato-tests::suite" time="0.500"/>
        <testcase name="hallway::c" classname="kato-tests::suite" time="9"/></testsuite>
        <testcase name="store::e" classname="kato-tests::suite" time="0.5"/>
        <testcase name="frame::f" classname="kato-store" time="0.125"/>
        <testcase name="a_cut" classname="kato-store::power_cut" time="2"/>
        <testcase name="model::d" classname="kato-orchestrator" time="0.125"/></testsuites>"#;

    #[test]
    fn the_report_tells_what_each_part_took() {
        let of = |name: &str| {
            let part = PARTS.iter().find(|part| part.name == name)?;
            took_of(part, REPORT).map(|took| (took.tests, took.time.as_secs_f64()))
        };
        assert_eq!(of("hall"), Some((Some(2), 0.75)));
        assert_eq!(of("unit"), Some((Some(2), 0.25)));
        assert_eq!(of("store"), Some((Some(2), 2.5)), "the power cuts are of the store");
        assert_eq!(of("docker"), None);
    }
}
