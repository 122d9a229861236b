//! What goes wrong on command: each fault for the next calls of an action, or for some of them by chance.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::route::Action;
use crate::clock::Chance;

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is turned away, too many came; the header `X-RateLimit-Reset` says when there is room again. The next answer is
    /// a good one all the same.
    Throttled(Duration),
    /// The same, and `Retry-After` says so, too.
    ThrottledTold(Duration),
    /// It is answered with a 500 of the API's own, and nothing was done.
    ServerError,
    /// What stands before the API answers with this status and a page for people, and nothing was done.
    Proxy(u16),
    /// It is refused with this status and text, and nothing was done.
    Refused(u16, &'static str),
    /// It is never answered, and nothing was done.
    Silence,
    /// It is done, and the connection ends without an answer.
    LostAnswer,
    /// It is done, and what stands before the API answers with a 502.
    DoneButProxy,
    /// It is done, and answered with a 500 of the API's own.
    DoneButServerError,
    /// It is done, and answered this much later.
    Slow(Duration),
    /// `CreateVolume`, `Clone`: what it makes is not active before so long.
    TakesAtLeast(Duration),
    /// `CreateVolume`, `Clone`: what it makes never becomes active by itself.
    Stuck,
    /// `CreateVolume`, `Clone`, `Cut`: what it makes is not found for so long.
    NotFoundFor(Duration),
    /// `Attach`: neither the target nor the metadata service knows of it for so long.
    KnownAfter(Duration),
}

/// The faults that are to come.
#[derive(Debug, Default)]
pub(super) struct Faults {
    next: BTreeMap<Action, VecDeque<(u64, Fault)>>,
    by_chance: Vec<(Option<Action>, f64, Fault)>,
}

impl Faults {
    pub(super) fn next(&mut self, action: Action, calls: u64, fault: Fault) {
        self.next.entry(action).or_default().push_back((calls, fault));
    }

    pub(super) fn by_chance(&mut self, action: Option<Action>, probability: f64, fault: Fault) {
        self.by_chance.push((action, probability, fault));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many calls are still to fail.
    pub(super) fn left(&self, action: Action) -> u64 {
        self.next.get(&action).into_iter().flatten().map(|(calls, _)| calls).sum()
    }

    /// What goes wrong with this call, if anything.
    pub(super) fn take(&mut self, action: Action, chance: &mut Chance) -> Option<Fault> {
        if let Some(queue) = self.next.get_mut(&action)
            && let Some((calls, fault)) = queue.front_mut()
        {
            let fault = fault.clone();
            *calls -= 1;
            if *calls == 0 {
                queue.pop_front();
            }
            return Some(fault);
        }
        let named = self.by_chance.iter().filter(|(named, ..)| named.is_none_or(|named| named == action));
        named
            .into_iter()
            .find_map(|(_, probability, fault)| chance.happens(*probability).then(|| fault.clone()))
    }
}
