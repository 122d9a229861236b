//! How the API says no: `{"errors": […]}`, or `{"error": …}` where it does not believe who asks. Two of the texts are known
//! to the letter, because clients compare them; the others are like what it may have said.

use serde_json::json;

use super::server::Answer;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// What the caller got wrong.
    pub(super) fn wrong(text: impl Into<String>) -> Self {
        Self::new(422, text)
    }

    pub(super) fn not_found() -> Self {
        Self::new(404, "Not found")
    }

    pub(super) fn not_allowed() -> Self {
        Self::new(403, "You are not authorized to view this resource")
    }

    pub(super) fn not_believed() -> Self {
        Self::new(401, "Invalid authentication token")
    }

    pub(super) fn too_many() -> Self {
        Self::new(429, "Too many requests: slow down")
    }

    pub(super) fn internal() -> Self {
        Self::new(500, "Oh snap, something went wrong!")
    }

    pub(super) fn in_use() -> Self {
        Self::wrong("Cannot detach since volume is actively being used on your server")
    }

    pub(super) fn already_attached() -> Self {
        Self::wrong("Instance is already attached to this volume")
    }

    pub(super) fn into_answer(self) -> Answer {
        let Self { status, text } = self;
        let body = if status == 401 { json!({ "error": text }) } else { json!({ "errors": [text] }) };
        Answer::json(status, &body)
    }
}
