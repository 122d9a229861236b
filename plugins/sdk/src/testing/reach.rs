//! How far the calls of a component get that is cut off, and what somebody else does meanwhile: the same for every
//! stand-in of the host's.

use std::fmt;

use crate::types::Error;

/// Where the world ends: the n-th call from now (counted from one) and all after it answer `unavailable`.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// It did nothing.
    Before(u64),
    /// It did the first half of what it does, where it has halves.
    Within(u64),
    /// It did all, and nobody heard.
    After(u64),
}

/// What somebody else does just before a call.
pub(super) struct Meanwhile(pub(super) u64, pub(super) Box<dyn FnOnce()>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meanwhile({})", self.0)
    }
}

/// How far a call gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Nothing,
    Half,
    Unheard,
    All,
}

impl Reach {
    pub(super) fn of(cut: Option<Cut>, call: u64) -> Self {
        match cut {
            Some(Cut::Before(at) | Cut::Within(at) | Cut::After(at)) if call > at => Self::Nothing,
            Some(Cut::Before(at)) if call == at => Self::Nothing,
            Some(Cut::Within(at)) if call == at => Self::Half,
            Some(Cut::After(at)) if call == at => Self::Unheard,
            _ => Self::All,
        }
    }
}

pub(super) fn away() -> Error {
    Error::unavailable("the component was cut off")
}
