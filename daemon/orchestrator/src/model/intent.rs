//! The one unfinished wish on a record: what is wanted is the record's state; the intent says how the
//! getting there goes.

use super::Timestamp;
use crate::error::{Error, Finality, Kind};

/// How the work towards a record's state goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// When it was wished.
    pub since: Timestamp,
    /// How often a step failed since the last that did not.
    pub attempts: u32,
    /// What the last failure said.
    pub last_error: Option<Failure>,
    /// Not before then is the next step tried.
    pub next_try: Timestamp,
    /// What the backend wants to hear when it is asked again about work that it answered `pending`. At most
    /// four KiB.
    pub resume: Option<Vec<u8>>,
    /// What the backend said that it is doing.
    pub note: Option<String>,
    /// Whether a copy was begun while its source was held still. Who finds this did not see the copy end: its
    /// source may have moved meanwhile, and what there is of it is thrown away.
    pub copying: bool,
}

/// An error as a record keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: Kind,
    /// Whether the effect is known not to have happened.
    pub finality: Finality,
    /// What happened and what to do next.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

impl Intent {
    /// The `next_try` of work that waits for something else to change, not for time to pass.
    pub const PARKED: Timestamp = Timestamp(u64::MAX);

    /// Whether it waits for something else to change.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.next_try == Self::PARKED
    }

    /// A wish of this moment.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { since: now, ..Self::default() }
    }

    /// Forgets the work that the backend has under way: what it said of one token is of no use for the next.
    pub fn begin_anew(&mut self) {
        (self.resume, self.note) = (None, None);
    }
}

impl Failure {
    /// Keeps an error.
    #[must_use]
    pub fn of(error: &Error, at: Timestamp) -> Self {
        Self { kind: error.kind, finality: error.finality, message: error.message.clone(), at }
    }

    /// The error again, for whoever asks.
    #[must_use]
    pub fn to_error(&self) -> Error {
        let error = Error::new(self.kind, self.message.clone());
        match self.finality {
            Finality::Final => error,
            Finality::Pending => error.pending(),
        }
    }
}
