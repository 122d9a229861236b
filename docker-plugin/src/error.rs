//! Outward: what went wrong becomes `{"Err": "<what is wrong, what to do>"}`, or no answer at all.
//!
//! dockerd takes *any* answer to Get that is not a volume for "there is no such volume": it forgets its own
//! record, and a container that stops at that moment is never unmounted. Only a broken connection means "not
//! now". So a Get whose answer is not known is not answered.

use kato_orchestrator::{Error, Kind};

/// Why a request has no good answer.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The caller is told.
    Told(Error),
    /// The caller must not be told: the connection is closed instead.
    Silent(Error),
}

impl Refusal {
    pub(crate) fn error(&self) -> &Error {
        match self {
            Self::Told(error) | Self::Silent(error) => error,
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

/// A Get that found nothing is told so; one that could not look is not answered.
pub(crate) fn of_get(error: Error) -> Refusal {
    match error.kind {
        Kind::NotFound | Kind::InvalidArgument => Refusal::Told(error),
        Kind::OutOfRange
        | Kind::AlreadyExists
        | Kind::InUse
        | Kind::Precondition
        | Kind::Busy
        | Kind::Exhausted
        | Kind::PermissionDenied
        | Kind::Unsupported
        | Kind::Unavailable
        | Kind::Timeout
        | Kind::Internal => Refusal::Silent(error),
    }
}

/// The words for the person in front of docker.
pub(crate) fn to_wire(error: &Error, request: &str) -> String {
    let mut words = error.to_string();
    let advice = match error.kind {
        Kind::InvalidArgument
        | Kind::OutOfRange
        | Kind::NotFound
        | Kind::AlreadyExists
        | Kind::InUse
        | Kind::Precondition
        | Kind::PermissionDenied
        | Kind::Unsupported => String::new(),
        Kind::Busy => "try again in a moment".into(),
        Kind::Exhausted => "free some room or choose another class".into(),
        Kind::Unavailable => match error.retry_after {
            Some(wait) => format!("try again in {} s", wait.as_secs().max(1)),
            None => "try again when it can be reached".into(),
        },
        Kind::Timeout => "kato goes on with it: try again in a moment".into(),
        Kind::Internal => format!("kato's log tells more under request {request}"),
    };
    if !advice.is_empty() {
        words.push_str(if words.ends_with(['.', '!', '?']) { " (" } else { ". (" });
        words.push_str(&advice);
        words.push(')');
    }
    words
}

/// The status name that dashboards of CSI drivers filter by.
pub(crate) fn to_metric(kind: Option<Kind>) -> &'static str {
    match kind {
        None => "OK",
        Some(Kind::InvalidArgument) => "InvalidArgument",
        Some(Kind::OutOfRange) => "OutOfRange",
        Some(Kind::NotFound) => "NotFound",
        Some(Kind::AlreadyExists) => "AlreadyExists",
        Some(Kind::InUse | Kind::Precondition) => "FailedPrecondition",
        Some(Kind::Busy) => "Aborted",
        Some(Kind::Exhausted) => "ResourceExhausted",
        Some(Kind::PermissionDenied) => "PermissionDenied",
        Some(Kind::Unsupported) => "Unimplemented",
        Some(Kind::Unavailable) => "Unavailable",
        Some(Kind::Timeout) => "DeadlineExceeded",
        Some(Kind::Internal) => "Internal",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_error_names_the_thing_what_happened_and_what_to_do() {
        let busy = Error::busy("it is being deleted").about("volume db");
        assert_eq!(to_wire(&busy, "docker-1"), "volume db: it is being deleted. (try again in a moment)");
        let throttled = Error::unavailable("the cloud throttles").retry_after(Duration::from_millis(2500));
        assert_eq!(to_wire(&throttled, "docker-1"), "the cloud throttles. (try again in 2 s)");
        let bug = Error::internal("the record is damaged");
        assert!(to_wire(&bug, "docker-7").contains("docker-7"));
        let plain = Error::in_use("held by c0ffee: stop that container first").about("volume db");
        assert_eq!(to_wire(&plain, "docker-1"), "volume db: held by c0ffee: stop that container first");
    }

    #[test]
    fn a_get_is_answered_only_with_what_is_known() {
        for kind in Kind::ALL {
            let told = matches!(of_get(Error::new(kind, "x")), Refusal::Told(_));
            assert_eq!(told, matches!(kind, Kind::NotFound | Kind::InvalidArgument), "{kind:?}");
        }
    }

    #[test]
    fn no_answer_is_ever_an_empty_err() {
        for kind in Kind::ALL {
            assert!(!to_wire(&Error::new(kind, "it"), "docker-1").is_empty());
        }
    }
}
