//! How a command ends: its exit code, which is a contract, and the words for a person: what happened, why, and
//! what to do next. A daemon's problem becomes one of these by its kind, in one table without a wildcard.

use std::{fmt, io, process::ExitCode};

use kato_orchestrator::{Error, Kind};
use serde_json::Value as Json;

/// The codes, for `kato help exit-codes`.
pub(crate) const CODES: &str = "\
Exit codes
  0   it is done, or was so already
  1   it failed, and none of the following says better why
  3   there is no such volume, snapshot, class, backend or plugin
  4   conflict: it exists and is something else, is in use, is busy, or is in the wrong state
  5   it is not done within the time, and goes on
  6   partly: some of what was asked is done, or the doctor found something
  64  the command line, or a value in it, makes no sense
  69  the daemon cannot be reached
  75  not now: the backend cannot be reached, or there is no room; try later
  77  not allowed
  78  the configuration has mistakes
These codes keep their meaning from release to release.";

/// An exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Failure = 1,
    NotFound = 3,
    Conflict = 4,
    Timeout = 5,
    Partial = 6,
    Usage = 64,
    Unreachable = 69,
    Later = 75,
    Permission = 77,
    Config = 78,
}

impl Exit {
    /// What a kind of error is to a script.
    pub(crate) fn of(kind: Kind) -> Self {
        match kind {
            Kind::InvalidArgument | Kind::OutOfRange => Self::Usage,
            Kind::NotFound => Self::NotFound,
            Kind::AlreadyExists | Kind::InUse | Kind::Precondition | Kind::Busy => Self::Conflict,
            Kind::Exhausted | Kind::Unavailable => Self::Later,
            Kind::PermissionDenied => Self::Permission,
            Kind::Timeout => Self::Timeout,
            Kind::Unsupported | Kind::Internal => Self::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed, for a person and for a script.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What happened; empty when there is nothing to say, as when the reader of a pipe has gone.
    pub(crate) what: String,
    /// What to do next; empty when nobody knows.
    pub(crate) next: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: String::new() }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// An exit code and not a word.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// What the daemon answered instead.
    pub(crate) fn of_problem(problem: &Json) -> Self {
        let text = |word: &str| problem.get(word).and_then(Json::as_str).unwrap_or_default();
        let kind = Kind::from_name(text("kind")).unwrap_or(Kind::Internal);
        let detail = match text("detail") {
            "" => "the daemon answered something that is no answer",
            detail => detail,
        };
        let what = match text("subject") {
            "" => detail.to_owned(),
            subject => format!("{subject}: {detail}"),
        };
        let under_way = problem.get("under_way").and_then(Json::as_bool).unwrap_or(false);
        let next = match kind {
            Kind::InUse => "see who holds it with `kato volume why NAME`",
            Kind::Timeout => "it goes on; see what it waits for with `kato volume why NAME`",
            Kind::Unavailable if under_way => {
                "it is tried again; see how it goes with `kato volume why NAME`"
            }
            Kind::Unavailable => "see `kato backend ls` and `kato doctor`",
            Kind::Busy => "try again in a moment",
            Kind::Internal => "the daemon's log says more",
            Kind::InvalidArgument
            | Kind::OutOfRange
            | Kind::NotFound
            | Kind::AlreadyExists
            | Kind::Precondition
            | Kind::Exhausted
            | Kind::PermissionDenied
            | Kind::Unsupported => "",
        };
        Self::new(Exit::of(kind), what).next(next)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(Exit::of(error.kind), error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // Whoever read our output has seen enough.
            return Self::silent(Exit::Ok);
        }
        Self::new(Exit::Failure, error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kato: {}", self.what)?;
        if !self.next.is_empty() {
            write!(f, "\n      {}", self.next)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented() {
        for exit in [
            Exit::Ok,
            Exit::Failure,
            Exit::NotFound,
            Exit::Conflict,
            Exit::Timeout,
            Exit::Partial,
            Exit::Usage,
            Exit::Unreachable,
            Exit::Later,
            Exit::Permission,
            Exit::Config,
        ] {
            let line = format!("\n  {:<3} ", exit as u8);
            assert!(CODES.contains(&line), "{exit:?}");
        }
    }

    #[test]
    fn a_problem_keeps_its_subject_and_its_words() {
        let problem = serde_json::json!({ "kind": "in-use", "subject": "volume db", "detail": "it is held" });
        let failure = Failure::of_problem(&problem);
        assert_eq!(failure.exit, Exit::Conflict);
        assert_eq!(failure.what, "volume db: it is held");
        assert!(failure.next.contains("why"));
    }
}
