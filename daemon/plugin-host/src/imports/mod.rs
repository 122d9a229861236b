//! What guests can ask of the host: one file for each interface of `wit/v1/host.wit`, and one for requests
//! by `wasi:http`. Each looks at the grant first and answers a refusal in words; each notes what it refused,
//! so that the call's error can say it. Whatever blocks runs beside the guests' threads.

pub(crate) mod commands;
mod digests;
pub(crate) mod files;
pub(crate) mod http;
mod log;
pub(crate) mod transfers;

use kato_orchestrator::{Error, Kind};

use crate::{
    guest::{Guest, Reach},
    v1::{abi::kato::storage::types, error},
};

impl types::Host for Guest {}

impl Reach {
    /// An error for the guest. Refusals by a grant are noted.
    fn answer_error(&self, error: &Error) -> types::Error {
        if error.kind == Kind::PermissionDenied {
            self.notes.denied(error);
        }
        error::to_wire(error)
    }
}
