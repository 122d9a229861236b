//! Requests to AWS, signed on their way out (Signature Version 4). A guest writes its request as if it needed no
//! credential; after the grants have allowed it, the host decides what of it may be signed (`allow.rs`), gets the
//! credentials of the daemon (`keys.rs` keeps them fresh, `chain.rs` finds them, `errands.rs` is the network that they
//! are fetched by), and signs (`sign.rs`). Region and service are the operator's, never the guest's: a signature for
//! one is worth nothing to another.
//!
//! What a signature covers is what the server acts on: method, host, path, query, the headers that have a meaning to
//! AWS, and the body. EC2 reads its `Action` from the body, so that is read here too, and more strictly than any
//! server would: what two readers could understand in two ways is refused.

mod allow;
mod chain;
mod errands;
mod keys;
mod sign;

use bytes::Bytes;
use http::{HeaderName, request::Parts};
use kato_orchestrator::Error;
use serde::Deserialize;

pub(crate) use self::{
    chain::{Chain, domain},
    keys::Keys,
};
use crate::grants::{
    credentials::{Secret, Secrets},
    way::Way,
};

/// Signs requests for one service in one region.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsSigv4 {
    /// The service's name in signatures: `ec2`, `ebs`.
    pub service: String,
    /// The region.
    pub region: String,
    /// Whose credentials of the shared files; without one, what the standard chain finds.
    #[serde(default)]
    pub profile: Option<String>,
    /// For services of the Query protocol the `Action`s that are signed; none given allows all.
    #[serde(default)]
    pub actions: Vec<String>,
}

/// Headers that are the signer's alone.
const OWN: [HeaderName; 3] = [
    http::header::AUTHORIZATION,
    HeaderName::from_static("x-amz-date"),
    HeaderName::from_static("x-amz-security-token"),
];

impl AwsSigv4 {
    /// The headers that it sets, which no guest may set.
    pub(crate) fn headers(&self) -> Result<Vec<HeaderName>, Error> {
        for (word, value) in [("service", &self.service), ("region", &self.region)] {
            if !is_name(value) {
                return Err(Error::invalid(format!(
                    "the authoriser's {word} {value:?} is none: it takes lower-case letters, digits and dashes"
                )));
            }
        }
        if let Some(action) = self.actions.iter().find(|action| !is_action(action)) {
            return Err(Error::invalid(format!("{action:?} is no Action: it takes letters and digits")));
        }
        Ok(OWN.to_vec())
    }

    /// Whether this request may be signed.
    pub(crate) fn allow(&self, request: &Parts, body: &Bytes) -> Result<(), Error> {
        allow::payload(self, request, body).map(drop)
    }

    /// Signs the request; the signature, so that it can be struck out of the answer.
    pub(crate) async fn sign(
        &self,
        request: &mut Parts,
        body: &Bytes,
        secrets: &Secrets,
        way: &Way,
    ) -> Result<Secret, Error> {
        let payload = allow::payload(self, request, body)?;
        let keys = secrets.aws_keys(self, way)?;
        let credentials = keys.get().await?;
        sign::sign(self, request, payload, &credentials, keys.now())
    }
}

/// Whether a text can be the name of a region or of a service.
pub(crate) fn is_name(text: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=40).contains(&text.len()) && text.bytes().all(safe) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether a text can be the name of an action.
pub(crate) fn is_action(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
