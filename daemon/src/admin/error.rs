//! The hall's error as an HTTP problem (RFC 9457). One row per kind and no wildcard: a new kind does not
//! compile until somebody has said what it is here. Where a command line's exit code follows from a kind is
//! `cli/exit.rs`.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use kato_orchestrator::{Error, Finality, Kind};
use serde_json::{Value as Json, json};

/// A problem on its way out.
#[derive(Debug)]
pub(crate) struct Problem(pub(crate) Error);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

/// The status of a kind, and a title that never changes.
pub(crate) fn row(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::InvalidArgument => (StatusCode::BAD_REQUEST, "The request makes no sense as written"),
        Kind::OutOfRange => (StatusCode::UNPROCESSABLE_ENTITY, "The value is outside of what is allowed"),
        Kind::NotFound => (StatusCode::NOT_FOUND, "There is no such thing"),
        Kind::AlreadyExists => (StatusCode::CONFLICT, "It exists, and is something else"),
        Kind::InUse => (StatusCode::CONFLICT, "Somebody holds it"),
        Kind::Precondition => (StatusCode::CONFLICT, "It cannot be done in this state"),
        Kind::Busy => (StatusCode::CONFLICT, "Something else is being done to it"),
        Kind::Exhausted => (StatusCode::INSUFFICIENT_STORAGE, "There is no room"),
        Kind::PermissionDenied => (StatusCode::FORBIDDEN, "It is not allowed"),
        Kind::Unsupported => (StatusCode::NOT_IMPLEMENTED, "This backend cannot do it"),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "It cannot be reached now"),
        Kind::Timeout => (StatusCode::GATEWAY_TIMEOUT, "It is not done yet"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Something is wrong with the daemon"),
    }
}

/// The problem's body. The cause, which may name what is nobody's business, stays in the log.
pub(crate) fn to_wire(error: &Error) -> Json {
    let (status, title) = row(error.kind);
    let mut body = json!({
        "type": format!("urn:kato:problem:{}", error.kind.name()),
        "title": title,
        "status": status.as_u16(),
        "kind": error.kind.name(),
        "detail": error.message,
        "under_way": matches!(error.finality, Finality::Pending),
    });
    if let Some(body) = body.as_object_mut() {
        if !error.subject.is_empty() {
            body.insert("subject".to_owned(), error.subject.clone().into());
        }
        if let Some(wait) = error.retry_after {
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            body.insert("retry_after_ms".to_owned(), millis.into());
        }
    }
    body
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, _) = row(self.0.kind);
        let mut response = Response::new(Body::from(to_wire(&self.0).to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let waits = matches!(self.0.kind, Kind::Busy | Kind::Unavailable) || self.0.retry_after.is_some();
        if waits {
            let seconds = self.0.retry_after.map_or(1, |wait| wait.as_secs().max(1));
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_an_error_on_the_wire() {
        for kind in Kind::ALL {
            let wire = to_wire(&Error::new(kind, "why").about("volume x"));
            assert!(row(kind).0.as_u16() >= 400, "{kind:?}");
            assert_eq!(wire["kind"], kind.name());
            assert_eq!(wire["subject"], "volume x");
        }
    }

    #[test]
    fn causes_stay_inside() {
        let error = Error::internal("broken").caused_by(std::io::Error::other("hunter2"));
        assert!(!to_wire(&error).to_string().contains("hunter2"));
    }
}
