//! Outward: what went wrong becomes a status, by two tables. The first is the house's, by kind; the second has the few
//! calls for which the specification wants another code.
//!
//! **Finality.** A sidecar that hears INTERNAL, NOT_FOUND or anything else that is final may forget a volume that
//! exists, or will exist in a moment. So while it is unknown whether an effect happened (`Finality::Pending`) only codes leave
//! that mean "ask again": ABORTED where the work goes on, UNAVAILABLE where it cannot at present.

use kato_orchestrator::{Error, Kind, model::BackendName};
use tonic::{Code, Status};

use crate::operation::Operation;

/// The longest message, in bytes: it travels in a header, whose size a client limits.
const MESSAGE_LIMIT: usize = 2048;

/// Calls for which the specification wants another code than the first table.
const DEVIATIONS: &[(Operation, Kind, Code)] = &[
    // "Source incompatible or not supported", and whatever else of the wish no backend can do: the wish has to change.
    (Operation::CreateVolume, Kind::Unsupported, Code::InvalidArgument),
    // The resizer lets go of a request only after INVALID_ARGUMENT, OUT_OF_RANGE or NOT_FOUND.
    (Operation::ControllerExpand, Kind::Unsupported, Code::InvalidArgument),
    (Operation::ModifyVolume, Kind::Unsupported, Code::InvalidArgument),
    // "Exceeds capabilities".
    (Operation::NodeStage, Kind::Unsupported, Code::FailedPrecondition),
    (Operation::NodePublish, Kind::Unsupported, Code::FailedPrecondition),
    // "Volume in use", for a filesystem that cannot be grown while it is mounted.
    (Operation::NodeExpand, Kind::Unsupported, Code::FailedPrecondition),
    // Changed blocks are not tracked for this snapshot.
    (Operation::MetadataAllocated, Kind::Unsupported, Code::FailedPrecondition),
    (Operation::MetadataDelta, Kind::Unsupported, Code::FailedPrecondition),
];

/// What the caller is told. `request` finds the rest in the log.
pub(crate) fn to_wire(operation: Operation, error: &Error, request: &str) -> Status {
    Status::new(code(operation, error), message(error, request))
}

/// What is told who asks for what is not claimed: `missing`, by the specification's name. Backends that cannot be used at
/// present may be able to do it, and to have done it when it was asked before: then nothing final is said.
pub(crate) fn not_offered(operation: Operation, missing: &str, broken: &[&BackendName]) -> Status {
    if broken.is_empty() {
        return Status::unimplemented(format!(
            "{operation} is not offered here: {missing} is not claimed, because no configured backend can do it, or the \
             daemon's role or configuration leaves it out"
        ));
    }
    let broken: Vec<_> = broken.iter().map(|name| name.as_str()).collect();
    Status::unavailable(format!(
        "{operation} is not offered at present: {missing} is not claimed without the backends {}, which cannot be used: \
         `kato backend ls` tells why",
        broken.join(", ")
    ))
}

/// The code for an error of this operation.
fn code(operation: Operation, error: &Error) -> Code {
    if !error.is_final() {
        return unknown(error.kind);
    }
    let deviation = DEVIATIONS.iter().find(|(asked, kind, _)| (*asked, *kind) == (operation, error.kind));
    deviation.map_or_else(|| known(error.kind), |(_, _, code)| *code)
}

/// The code where it is known that nothing happened and nothing will.
fn known(kind: Kind) -> Code {
    match kind {
        Kind::InvalidArgument => Code::InvalidArgument,
        Kind::OutOfRange => Code::OutOfRange,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::InUse | Kind::Precondition => Code::FailedPrecondition,
        Kind::Busy => Code::Aborted,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Unavailable => Code::Unavailable,
        Kind::Timeout => Code::DeadlineExceeded,
        Kind::Internal => Code::Internal,
    }
}

/// The code where that is not known: never a final one.
fn unknown(kind: Kind) -> Code {
    match kind {
        Kind::Busy | Kind::Timeout => Code::Aborted,
        Kind::InvalidArgument
        | Kind::OutOfRange
        | Kind::NotFound
        | Kind::AlreadyExists
        | Kind::InUse
        | Kind::Precondition
        | Kind::Exhausted
        | Kind::PermissionDenied
        | Kind::Unsupported
        | Kind::Unavailable
        | Kind::Internal => Code::Unavailable,
    }
}

fn message(error: &Error, request: &str) -> String {
    let mut words = error.to_string();
    if words.trim().is_empty() {
        words = format!("it failed ({})", error.kind.name());
    }
    if words.len() > MESSAGE_LIMIT {
        words.truncate(words.floor_char_boundary(MESSAGE_LIMIT));
        words.push('…');
    }
    let advice = match (error.kind, error.retry_after) {
        (Kind::Internal, _) => format!("kato's log tells more under request {request}"),
        (Kind::Unavailable, Some(wait)) => format!("try again in {} s", wait.as_secs().max(1)),
        _ => return words,
    };
    format!("{words} ({advice})")
}

/// The status name that dashboards of CSI drivers filter by.
pub(crate) fn to_metric(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_may_have_happened_is_never_told_as_final() {
        for operation in Operation::ALL {
            for kind in Kind::ALL {
                let status = to_wire(*operation, &Error::new(kind, "it").pending(), "csi-1");
                let open = [Code::Aborted, Code::Unavailable, Code::DeadlineExceeded];
                assert!(open.contains(&status.code()), "{operation} {kind:?} {:?}", status.code());
            }
        }
        let late = Error::timeout("it goes on").pending();
        assert_eq!(to_wire(Operation::CreateVolume, &late, "csi-1").code(), Code::Aborted);
    }

    #[test]
    fn every_status_has_words_and_no_details() {
        for operation in Operation::ALL {
            for kind in Kind::ALL {
                for words in ["", " ", "it"] {
                    let status = to_wire(*operation, &Error::new(kind, words), "csi-1");
                    assert!(!status.message().trim().is_empty() && status.details().is_empty());
                    assert_ne!(status.code(), Code::Ok);
                    assert_ne!(status.code(), Code::Unknown);
                }
            }
        }
    }

    #[test]
    fn the_specification_decides_where_a_code_differs() {
        let unsupported = Error::unsupported("backend a cannot");
        assert_eq!(to_wire(Operation::GetSnapshot, &unsupported, "").code(), Code::Unimplemented);
        for (operation, kind, code) in DEVIATIONS {
            assert_eq!(to_wire(*operation, &Error::new(*kind, "it"), "").code(), *code);
            assert_ne!(known(*kind), *code, "{operation} {kind:?} deviates from nothing");
        }
    }

    #[test]
    fn a_long_message_is_cut_between_two_letters() {
        let status = to_wire(Operation::Probe, &Error::busy("ü".repeat(5000)), "csi-1");
        assert!(status.message().len() <= MESSAGE_LIMIT + 4);
    }

    #[test]
    fn a_bug_is_found_in_the_log_and_a_throttle_has_an_end() {
        let bug = to_wire(Operation::Probe, &Error::internal("the record is damaged"), "csi-7");
        assert!(bug.message().contains("csi-7"));
        let throttled = Error::unavailable("the cloud throttles").retry_after(Duration::from_millis(2500));
        assert!(to_wire(Operation::Probe, &throttled, "csi-7").message().ends_with("(try again in 2 s)"));
    }
}
