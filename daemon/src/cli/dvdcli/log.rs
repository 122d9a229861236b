//! What is told besides data, on standard error, in the lines that dvdcli writes there: `time=… level=… msg=…`.
//! Agents put them into their own logs and into what a failed task is told, and people have filters for them.

use std::io::{self, Write as _};

use kato_orchestrator::ports::Clock as _;

use crate::clock::SystemClock;

/// Writes one line.
pub(super) fn line(level: &str, message: &str, fields: &[(&str, &str)]) {
    let time = SystemClock.now().to_string();
    // Nobody is left to be told when this fails.
    drop(writeln!(io::stderr().lock(), "{}", formed(&time, level, message, fields)));
}

fn formed(time: &str, level: &str, message: &str, fields: &[(&str, &str)]) -> String {
    let first = [("time", time), ("level", level), ("msg", message)];
    let words: Vec<String> =
        first.iter().chain(fields).map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    words.join(" ")
}

/// A word as it is, anything else in quotes and on one line.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_whatever_the_driver_says() {
        assert_eq!(
            formed("2016-03-03T10:00:00Z", "error", "no\n\"such\" \u{1b}[2J", &[("volumeName", "db")]),
            "time=\"2016-03-03T10:00:00Z\" level=error msg=\"no\\n\\\"such\\\" \\u{1b}[2J\" volumeName=db"
        );
    }
}
