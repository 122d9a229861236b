//! Blocks that the host moves between the backend's API and itself, many at once: a backend names requests, and the
//! bytes never pass through it. Only within `snapshot_data.read` and `snapshot_writing.write`.
//!
//! Logic that is to be tested takes [`Transfers`]; in a component that is [`Granted`].

use crate::{types::Error, worlds::transfers::kato::storage::transfers};

pub use transfers::{Fetching, Outcome, Sending};

/// What can be done with blocks.
pub trait Transfers {
    /// Fetches all of these; the outcomes are in the order of the requests. An outcome with the status zero had no
    /// answer, or bytes that were damaged on their way: it may be asked for again.
    fn fetch(&self, requests: Vec<Fetching>) -> Result<Vec<Outcome>, Error>;

    /// Sends all of these, in the same way.
    fn send(&self, requests: Vec<Sending>) -> Result<Vec<Outcome>, Error>;
}

/// Through the host.
#[derive(Clone, Copy, Debug)]
pub struct Granted;

impl Transfers for Granted {
    fn fetch(&self, requests: Vec<Fetching>) -> Result<Vec<Outcome>, Error> {
        transfers::fetch(&requests)
    }

    fn send(&self, requests: Vec<Sending>) -> Result<Vec<Outcome>, Error> {
        transfers::send(&requests)
    }
}
