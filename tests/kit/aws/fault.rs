//! What goes wrong on command: each fault for the next calls of an action, or for some of them by chance.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::clock::Chance;

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is turned away: too many calls.
    Throttled,
    /// It is answered with a 500, and nothing was done.
    ServerError,
    /// It is answered with a 503, and nothing was done.
    Unavailable,
    /// It is refused with this code and message, and nothing was done.
    Refused(&'static str, &'static str),
    /// It is never answered, and nothing was done.
    Silence,
    /// It is done, and the connection ends without an answer.
    LostAnswer,
    /// It is done, and answered with a 500.
    DoneButServerError,
    /// It is done, and answered this much later.
    Slow(Duration),
    /// The credentials are told to be expired.
    ExpiredCredentials,
    /// `ListSnapshotBlocks`, `ListChangedBlocks`, `GetSnapshotBlock` and the lists of EC2: the token is told to be
    /// expired. A call without a token has to wait for its turn.
    ExpiredToken,
    /// `CreateVolume`: what it makes is not found for so long.
    NotFoundFor(Duration),
    /// `CreateVolume`, `CreateSnapshot` and `CompleteSnapshot`: what it makes ends in the state `error`.
    FailsLater,
    /// `ModifyVolume`: the volume was modified too often.
    Cooldown,
    /// `AttachVolume`, `DetachVolume`: it begins, and never ends by itself.
    Stuck,
    /// `GetSnapshotBlock`: a byte of the block is another. `PutSnapshotBlock`: the checksum is told to be wrong.
    WrongChecksum,
}

/// The faults that are to come.
#[derive(Debug, Default)]
pub(super) struct Faults {
    next: BTreeMap<String, VecDeque<(u64, Fault)>>,
    by_chance: Vec<(String, f64, Fault)>,
}

impl Faults {
    pub(super) fn next(&mut self, action: &str, calls: u64, fault: Fault) {
        self.next.entry(action.to_owned()).or_default().push_back((calls, fault));
    }

    pub(super) fn by_chance(&mut self, action: &str, probability: f64, fault: Fault) {
        self.by_chance.push((action.to_owned(), probability, fault));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many calls are still to fail.
    pub(super) fn left(&self, action: &str) -> u64 {
        self.next.get(action).into_iter().flatten().map(|(calls, _)| calls).sum()
    }

    /// What goes wrong with this call, if anything.
    pub(super) fn take(&mut self, action: &str, with_token: bool, chance: &mut Chance) -> Option<Fault> {
        let fits = |fault: &Fault| *fault != Fault::ExpiredToken || with_token;
        if let Some(queue) = self.next.get_mut(action)
            && let Some((calls, fault)) = queue.front_mut()
            && fits(fault)
        {
            let fault = fault.clone();
            *calls -= 1;
            if *calls == 0 {
                queue.pop_front();
            }
            return Some(fault);
        }
        let named = self.by_chance.iter().filter(|(named, ..)| named == action || named == "*");
        named
            .filter(|(_, _, fault)| fits(fault))
            .find_map(|(_, probability, fault)| chance.happens(*probability).then(|| fault.clone()))
    }
}
