//! How both services say no. EC2 writes XML with a code; the EBS direct APIs write JSON with a reason, and the error's
//! name in a header.

use super::{server::Answer, xml::Xml};

/// A refusal of EC2's.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
}

impl Refusal {
    /// What a client did wrong.
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { status: 400, code: code.to_owned(), message: message.into() }
    }

    pub(super) fn with_status(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, ..Self::new(code, message) }
    }

    /// A volume, or several, that there are not.
    pub(super) fn no_volume(ids: &[&str]) -> Self {
        let text = match ids {
            [id] => format!("The volume '{id}' does not exist."),
            ids => format!("The volumes '{}' do not exist.", ids.join(", ")),
        };
        Self::new("InvalidVolume.NotFound", text)
    }

    pub(super) fn no_snapshot(id: &str) -> Self {
        Self::new("InvalidSnapshot.NotFound", format!("The snapshot '{id}' does not exist."))
    }

    pub(super) fn no_instance(id: &str) -> Self {
        Self::new("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
    }

    /// A value that cannot be.
    pub(super) fn value(parameter: &str, value: impl ToString, why: &str) -> Self {
        let value = value.to_string();
        Self::new(
            "InvalidParameterValue",
            format!("Value ({value}) for parameter {parameter} is invalid. {why}"),
        )
    }

    pub(super) fn missing(parameter: &str) -> Self {
        Self::new("MissingParameter", format!("The request must contain the parameter {parameter}"))
    }

    pub(super) fn into_answer(self, request: &str) -> Answer {
        let mut xml = Xml::default();
        xml.inside("Response", |xml| {
            xml.inside("Errors", |xml| {
                xml.inside("Error", |xml| {
                    xml.leaf("Code", &self.code);
                    xml.leaf("Message", &self.message);
                });
            });
            xml.leaf("RequestID", request);
        });
        Answer::xml(self.status, &xml.into_text())
    }
}

/// A refusal of the EBS direct APIs'.
#[derive(Clone, Debug)]
pub(super) struct Exception {
    pub(super) status: u16,
    pub(super) name: String,
    pub(super) reason: Option<&'static str>,
    pub(super) message: String,
}

impl Exception {
    pub(super) fn new(status: u16, name: &str, message: impl Into<String>) -> Self {
        Self { status, name: name.to_owned(), reason: None, message: message.into() }
    }

    /// What a client did wrong.
    pub(super) fn validation(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason: Some(reason), ..Self::new(400, "ValidationException", message) }
    }

    pub(super) fn no_snapshot(id: &str) -> Self {
        let message = format!("The snapshot {id} does not exist.");
        Self { reason: Some("SNAPSHOT_NOT_FOUND"), ..Self::new(404, "ResourceNotFoundException", message) }
    }

    pub(super) fn throttled() -> Self {
        let message =
            "The number of API requests has exceeded the maximum allowed API request throttling limit.";
        Self { reason: Some("ACCOUNT_THROTTLED"), ..Self::new(400, "RequestThrottledException", message) }
    }

    pub(super) fn internal(message: impl ToString) -> Self {
        Self::new(500, "InternalServerException", message.to_string())
    }

    pub(super) fn into_answer(self) -> Answer {
        let mut body = serde_json::json!({ "Message": self.message });
        if let Some(reason) = self.reason {
            body["Reason"] = reason.into();
        }
        let mut answer = Answer::json(self.status, &body);
        answer.headers.push(("x-amzn-errortype", self.name));
        answer
    }
}
