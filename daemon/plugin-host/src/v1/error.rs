//! The table from a guest's error to ours, and when it is final. A guest's word alone is never enough: what
//! it refused may have happened all the same (a request that was cut after it arrived, a bug), and a caller
//! who hears a final refusal forgets the volume. So an effect's refusal starts as pending, and becomes final
//! only when a fresh instance looked and found that it is so (`v1/mod.rs`).

use std::time::Duration;

use kato_orchestrator::{Error, Kind};

use super::abi::kato::storage::types::{self, ErrorKind};
use crate::{grants::credentials::Secrets, guest::Notes, limits};

/// Whether a kind of refusal can be final at all. The others say that nothing is known, or that it passes.
pub(crate) fn refuses(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::InvalidArgument
        | ErrorKind::OutOfRange
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::InUse
        | ErrorKind::Precondition
        | ErrorKind::Exhausted
        | ErrorKind::PermissionDenied
        | ErrorKind::Unsupported
        | ErrorKind::TokenBurnt => true,
        ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::Throttled | ErrorKind::Internal => false,
    }
}

fn kind(kind: ErrorKind) -> Kind {
    match kind {
        ErrorKind::InvalidArgument => Kind::InvalidArgument,
        ErrorKind::OutOfRange => Kind::OutOfRange,
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::AlreadyExists => Kind::AlreadyExists,
        ErrorKind::InUse => Kind::InUse,
        ErrorKind::Precondition | ErrorKind::TokenBurnt => Kind::Precondition,
        ErrorKind::Busy => Kind::Busy,
        ErrorKind::Exhausted => Kind::Exhausted,
        ErrorKind::PermissionDenied => Kind::PermissionDenied,
        ErrorKind::Unsupported => Kind::Unsupported,
        ErrorKind::Unavailable | ErrorKind::Throttled => Kind::Unavailable,
        ErrorKind::Internal => Kind::Internal,
    }
}

/// How long the other side asked to be left alone.
pub(crate) fn pause(milliseconds: Option<u64>) -> Option<Duration> {
    milliseconds.map(|wait| Duration::from_millis(wait).min(limits::PATIENCE))
}

/// A guest's error as ours, pending. What the host denied during the call explains an error better than the
/// guest can, to whom a denied request may look like a reset connection.
pub(crate) fn from_wire(error: types::Error, notes: &Notes, secrets: &Secrets) -> Error {
    let said = secrets.line(&error.message, limits::TEXT);
    let said = if said.is_empty() { "the plugin gave no reason".to_owned() } else { said };
    // A denial quotes what the guest tried.
    let denial = notes.denial().map(|denial| secrets.line(&denial.message, limits::TEXT));
    let mut ours = match denial {
        Some(denial) if !said.contains(&denial) => {
            Error::permission_denied(format!("{denial} (the plugin says: {said})"))
        }
        Some(_) => Error::permission_denied(said),
        None => Error::new(kind(error.kind), said),
    };
    if error.kind == ErrorKind::TokenBurnt {
        ours = ours.token_burnt();
    }
    if let Some(wait) = pause(error.retry_after_ms) {
        ours = ours.retry_after(wait);
    }
    let detail = secrets.line(&error.detail, limits::TEXT);
    if !detail.is_empty() {
        ours = ours.caused_by(Detail(detail));
    }
    ours.pending()
}

/// What the backend said, for the log.
#[derive(Debug)]
struct Detail(String);

impl std::fmt::Display for Detail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Detail {}

/// One of our errors for a guest: what a host function answers.
pub(crate) fn to_wire(error: &Error) -> types::Error {
    let kind = match error.kind {
        Kind::InvalidArgument => ErrorKind::InvalidArgument,
        Kind::OutOfRange => ErrorKind::OutOfRange,
        Kind::NotFound => ErrorKind::NotFound,
        Kind::AlreadyExists => ErrorKind::AlreadyExists,
        Kind::InUse => ErrorKind::InUse,
        Kind::Precondition => ErrorKind::Precondition,
        Kind::Busy => ErrorKind::Busy,
        Kind::Exhausted => ErrorKind::Exhausted,
        Kind::PermissionDenied => ErrorKind::PermissionDenied,
        Kind::Unsupported => ErrorKind::Unsupported,
        Kind::Unavailable | Kind::Timeout => ErrorKind::Unavailable,
        Kind::Internal => ErrorKind::Internal,
    };
    let retry_after_ms = error.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    types::Error { kind, message: error.message.clone(), detail: String::new(), retry_after_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(kind: ErrorKind, message: &str) -> types::Error {
        types::Error { kind, message: message.into(), detail: "x".into(), retry_after_ms: Some(u64::MAX) }
    }

    #[test]
    fn every_guest_error_starts_as_pending() {
        for kind in
            [ErrorKind::InvalidArgument, ErrorKind::Exhausted, ErrorKind::Internal, ErrorKind::TokenBurnt]
        {
            let ours = from_wire(wire(kind, "no"), &Notes::default(), &Secrets::default());
            assert!(!ours.is_final() && ours.token_burnt == (kind == ErrorKind::TokenBurnt));
            assert_eq!(ours.retry_after, Some(limits::PATIENCE));
        }
    }

    #[test]
    fn a_denial_by_the_host_explains_the_guests_error() {
        let notes = Notes::default();
        notes.denied(&Error::permission_denied("GET http://x is refused"));
        let ours =
            from_wire(wire(ErrorKind::Unavailable, "connection\u{1b}[2J reset"), &notes, &Secrets::default());
        assert_eq!(ours.kind, Kind::PermissionDenied);
        assert_eq!(ours.message, "GET http://x is refused (the plugin says: connection[2J reset)");
    }
}
