//! The API's refusals in the contract's words: one table from how it answered to our kinds. What a refusal means for one
//! call (not found for a delete) its caller says; everything that it did not expect comes here.
//!
//! The API has no codes, only statuses and sentences. Two sentences are known, and named here and nowhere else. And not all
//! that answers is the API: a proxy before it has pages and statuses of its own. An answer that is not JSON says nothing of
//! any volume, and "not found" is believed only from the API itself, which numbers its requests.

use kato_plugin_sdk::{
    http::Response,
    types::{Error, ErrorKind},
};
use serde_json::Value;

use crate::json::at;

/// A request that was refused, or of which nobody knows what became.
#[derive(Debug)]
pub(crate) struct Refusal {
    said: String,
    pub(crate) error: Error,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

/// The table: what a status says to a method, and what a person can do.
fn kind(method: &str, status: u16) -> (ErrorKind, &'static str) {
    match (method, status) {
        (_, 401) => (ErrorKind::PermissionDenied, ": check the token that the grant's authoriser adds"),
        (_, 403) => (ErrorKind::PermissionDenied, ": give the token's owner access to the project"),
        (_, 404) => (ErrorKind::NotFound, ""),
        (_, 405) => (ErrorKind::Unsupported, ""),
        (_, 429) => (ErrorKind::Throttled, ""),
        // What is asked to go and may not yet is attached or still being released.
        ("DELETE", 422) | (_, 409) => (ErrorKind::Busy, ""),
        (_, 400 | 422) => (ErrorKind::InvalidArgument, ""),
        (_, 402..=499) => (ErrorKind::Internal, ""),
        _ => (ErrorKind::Unavailable, ""),
    }
}

impl Refusal {
    /// One without an answer that says anything.
    pub(crate) fn unclear(error: Error) -> Self {
        Self { said: String::new(), error }
    }

    /// What was answered to a request.
    pub(crate) fn of(method: &str, path: &str, response: &Response) -> Self {
        let status = response.status;
        let body = if is_json(response) { serde_json::from_slice(&response.body).ok() } else { None };
        let said = body.as_ref().and_then(sentences);
        // Whoever says that it does not do such a thing is right about itself.
        let said = said.or_else(|| (status == 405).then(|| "it does not do that".to_owned()));
        let own = said.is_some()
            && (status != 404 || response.header("x-request-id").is_some_and(|id| !id.is_empty()));
        let path = path.split('?').next().unwrap_or(path);
        let Some(said) = said.filter(|_| own) else {
            let text =
                format!("{method} {path} was answered {status} by something that is not the storage API");
            let start = response.body.get(..300).unwrap_or(&response.body);
            return Self::unclear(Error::unavailable(text).detail(String::from_utf8_lossy(start)));
        };
        let (kind, advice) = kind(method, status);
        let text = format!("the storage API refuses {method} {path}: {said}{advice}");
        Self { error: Error::new(kind, text).detail(format!("HTTP {status}")), said }
    }

    pub(crate) fn is(&self, kind: ErrorKind) -> bool {
        self.error.kind == kind
    }

    /// Whether it may have been carried out.
    pub(crate) fn is_unclear(&self) -> bool {
        self.is(ErrorKind::Unavailable)
    }

    /// Whether the machine still has a session of it.
    pub(crate) fn is_in_use(&self) -> bool {
        self.said.contains("actively being used")
    }

    /// Whether that machine has it already.
    pub(crate) fn is_attached(&self) -> bool {
        self.said.contains("already attached")
    }
}

pub(crate) fn is_json(response: &Response) -> bool {
    response.header("content-type").is_some_and(|kind| kind.starts_with("application/json"))
}

/// What is said in `{"errors": ["…"]}` or `{"error": "…"}`; nothing where it is neither.
fn sentences(body: &Value) -> Option<String> {
    let said = match at(body, "errors").as_array() {
        Some(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "),
        None => at(body, "error").as_str()?.to_owned(),
    };
    Some(said.chars().take(500).collect())
}

pub(crate) fn no_volume(token: &str) -> Error {
    Error::not_found(format!("there is no volume with the token {token}"))
}

/// A handle and a token that do not belong together.
pub(crate) fn not_the_tokens(what: &str, handle: &str, token: &str) -> Error {
    Error::precondition(format!(
        "the {what} {handle:?} is not the one with the token {token}: what is written on its volume says otherwise"
    ))
}

/// The token is taken by something with another wish.
pub(crate) fn other_wish(token: &str, id: &str, why: &str) -> Error {
    Error::already_exists(format!("{id} has the token {token} and is not what is asked for: {why}"))
}

/// An answer that is none of the API's.
pub(crate) fn unread(what: &str) -> Error {
    Error::internal(format!("{what} cannot be read: is `base-url` that of the storage API?"))
}
