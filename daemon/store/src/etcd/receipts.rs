//! Writing, and knowing what was written.
//!
//! A leader that dies, a member that is too slow, a connection that is cut: each leaves whoever asked for a write
//! without an answer, and the write may have happened, may not, or may still be on its way. To say only "unknown" would
//! leave it to every caller to find out; so each write leaves a *receipt*. A receipt is a key of this process alone, its
//! slot, that the write puts, on the condition that it still is as the last write in this slot left it. Without an
//! answer one more write in the same slot settles it, on the same condition:
//!
//! ```text
//!   the slot is still as it was   →  it is voided: the first write has not happened, and never can any more
//!   it has the write's number     →  the write happened, at the revision of the slot
//! ```
//!
//! What was voided is written again, and the caller sees a delay. Only when nobody answers until the patience is at its
//! end the outcome stays unknown, and the error says so.
//!
//! The same condition keeps this process from writing to a store that was set back (`known.rs`): there its slots are
//! older, or not at all. A slot is therefore made before it is used.
//!
//! What removes records and writes none is let through by an etcd that is full, as long as nothing is put: then it goes
//! without a receipt, and a lost answer is an unknown outcome.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use kato_orchestrator::Error;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::{
    client::{Client, Failed, Pace, random},
    draft::{Condition, Draft, Effect, Written},
    error::{Cause, from_wire},
    layout::Layout,
    wire::{
        Call, KeyValue, RangeRequest, ResponseOp, TxnRequest, TxnResponse, op, request_op::Request,
        response_op::Response, revision,
    },
};
use crate::committer::Counters;

/// The slots of this process.
#[derive(Debug)]
pub(crate) struct Receipts {
    node: String,
    process: String,
    free: Mutex<Free>,
    pub(crate) counters: Counters,
}

#[derive(Debug, Default)]
struct Free {
    slots: Vec<Slot>,
    made: u64,
    /// The latest write of each slot, for the witness.
    latest: BTreeMap<u64, (u64, Vec<u8>)>,
}

/// A slot that is nobody else's.
#[derive(Debug)]
struct Slot {
    number: u64,
    key: Vec<u8>,
    /// When it was written last; 0 for a new one.
    at: u64,
    /// How often it was to be.
    count: u64,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wrote {
    /// It happened. The answers to its looks are missing when it was found out later.
    Applied { revision: u64, answers: Option<Vec<ResponseOp>> },
    /// It did not: this condition did not hold. Nothing if it is not known which.
    Refused(Option<usize>),
}

enum Settled {
    Applied(u64),
    Void,
}

impl Slot {
    /// What its next write puts.
    fn next(&mut self) -> Vec<u8> {
        self.count += 1;
        self.count.to_string().into_bytes()
    }

    fn condition(&self) -> Condition {
        Condition::Written(self.key.clone(), self.at)
    }

    fn put(&self, value: &[u8]) -> Effect {
        Effect::Put(self.key.clone(), value.to_vec(), 0)
    }
}

/// What settles a write.
const VOID: &[u8] = b"void";

impl Receipts {
    /// For a process of this node.
    pub(crate) fn new(node: &str) -> Self {
        let process = format!("{:016x}{:016x}", random(), random());
        Self { node: node.to_owned(), process, free: Mutex::default(), counters: Counters::default() }
    }

    /// The key that was written last, and when.
    pub(crate) fn witness(&self) -> Option<(Vec<u8>, u64)> {
        self.free().latest.values().max_by_key(|(at, _)| *at).map(|(at, key)| (key.clone(), *at))
    }

    /// Writes, or finds out that it was refused. An error that is not pending says that nothing was written.
    pub(crate) async fn write(
        &self,
        client: &Client,
        layout: &Layout,
        draft: &Draft,
        deadline: Instant,
    ) -> Result<Wrote, Error> {
        client.known.check()?;
        let mut slot = self.take(layout);
        let wrote = self.write_in(&mut slot, client, draft, deadline).await;
        // A slot whose last write is unknown is left alone: it may still change.
        if wrote.as_ref().map_or_else(Error::is_final, |_| true) {
            self.give(slot);
        }
        if matches!(wrote, Ok(Wrote::Applied { .. })) {
            self.counters.commits.fetch_add(1, Ordering::Relaxed);
        }
        wrote
    }

    async fn write_in(
        &self,
        slot: &mut Slot,
        client: &Client,
        draft: &Draft,
        deadline: Instant,
    ) -> Result<Wrote, Error> {
        let mut pace = Pace::new(deadline);
        loop {
            if slot.at == 0
                && let Err(error) = self.settle(slot, b"", client, deadline).await
            {
                let full = error.kind == kato_orchestrator::Kind::Exhausted;
                return if full && !draft.writes() {
                    bare(client, draft, deadline).await
                } else {
                    Err(error.settled())
                };
            }
            let number = slot.next();
            let written = draft.with(slot.condition(), slot.put(&number)).written()?;
            let member = client.current();
            let status = match timeout_at(deadline, client.attempt(member, &written.request)).await {
                Ok(Ok(answer)) => match self.read(slot, draft, &written, answer, client, deadline).await? {
                    Some(wrote) => return Ok(wrote),
                    None => {
                        pace.wait(Status::aborted("receipts were removed by another process of this node"))
                            .await?;
                        continue;
                    }
                },
                Ok(Err(Failed::Stranger(error))) => return Err(error.pending()),
                Ok(Err(Failed::Said(status))) => status,
                Err(_) => Status::deadline_exceeded("etcd did not answer in time"),
            };
            match Cause::of(&status) {
                Cause::FutureRevision if written.deep => {
                    return Ok(Wrote::Refused(broken(client, draft, deadline).await?));
                }
                Cause::NoSpace if !draft.writes() => return bare(client, draft, deadline).await,
                Cause::Lost => {
                    client.turn(member);
                    match self.settle(slot, &number, client, deadline).await? {
                        Settled::Applied(revision) => return Ok(Wrote::Applied { revision, answers: None }),
                        Settled::Void => pace.wait(status).await?,
                    }
                }
                cause if cause.mends_itself() => {
                    client.turn(member);
                    pace.wait(status).await?;
                }
                _ => return Err(from_wire(&status)),
            }
        }
    }

    /// What an answer says. Nothing when the slot was not as it was thought to be, and it has to be tried again.
    async fn read(
        &self,
        slot: &mut Slot,
        draft: &Draft,
        written: &Written,
        answer: TxnResponse,
        client: &Client,
        deadline: Instant,
    ) -> Result<Option<Wrote>, Error> {
        let now = answer.header.as_ref().map_or(0, |header| revision(header.revision));
        if answer.succeeded {
            slot.at = now;
            let answers = (!written.deep).then(|| answer.responses.into_iter().skip(1).collect());
            return Ok(Some(Wrote::Applied { revision: now, answers }));
        }
        let mut looks = answer.responses.iter().map(found);
        let here = looks.next().unwrap_or_default();
        if !slot.condition().holds(here) {
            // Somebody tidied up behind a process of the same name: it did not know that this one lives.
            slot.at = here.first().map_or(0, |found| revision(found.mod_revision));
            return Ok(None);
        }
        if written.deep {
            return Ok(Some(Wrote::Refused(broken(client, draft, deadline).await?)));
        }
        let broken =
            draft.conditions.iter().zip(looks).position(|(condition, found)| !condition.holds(found));
        Ok(Some(Wrote::Refused(broken)))
    }

    /// Finds out whether the write of this number happened, and sees to it that it does not any more if it did not.
    async fn settle(
        &self,
        slot: &mut Slot,
        number: &[u8],
        client: &Client,
        deadline: Instant,
    ) -> Result<Settled, Error> {
        let unknown = |error: Error| {
            let mut unknown = Error::unavailable(format!(
                "etcd was asked to write and did not tell whether it did ({})",
                error.message
            ));
            unknown.kind = error.kind;
            unknown.caused_by(error).pending()
        };
        let look = RangeRequest { key: slot.key.clone(), ..RangeRequest::default() };
        let mut request = Draft::default().with(slot.condition(), slot.put(VOID)).written()?.request;
        request.failure = vec![op(Request::RequestRange(look))];
        let answer: TxnResponse = client.ask_until(&request, deadline).await.map_err(unknown)?;
        let now = answer.header.as_ref().map_or(0, |header| revision(header.revision));
        if answer.succeeded {
            slot.at = now;
            return Ok(Settled::Void);
        }
        match answer.responses.iter().map(found).next().unwrap_or_default() {
            // An earlier try to settle it did, and its answer was lost.
            [found] if found.value == VOID => {
                slot.at = revision(found.mod_revision);
                Ok(Settled::Void)
            }
            [found] if found.value == number => {
                slot.at = revision(found.mod_revision);
                Ok(Settled::Applied(slot.at))
            }
            _ => Err(unknown(Error::unavailable("its receipt was removed by another process of this node"))),
        }
    }

    fn take(&self, layout: &Layout) -> Slot {
        let mut free = self.free();
        free.slots.pop().unwrap_or_else(|| {
            free.made += 1;
            let number = free.made;
            Slot { number, key: layout.receipt(&self.node, &self.process, number), at: 0, count: 0 }
        })
    }

    fn give(&self, slot: Slot) {
        let mut free = self.free();
        free.latest.insert(slot.number, (slot.at, slot.key.clone()));
        free.slots.push(slot);
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes without a receipt.
async fn bare(client: &Client, draft: &Draft, deadline: Instant) -> Result<Wrote, Error> {
    let written = draft.written()?;
    match timeout_at(deadline, client.attempt(client.current(), &written.request)).await {
        Ok(Ok(answer)) if answer.succeeded => {
            let now = answer.header.as_ref().map_or(0, |header| revision(header.revision));
            Ok(Wrote::Applied { revision: now, answers: None })
        }
        Ok(Ok(_)) => Ok(Wrote::Refused(broken(client, draft, deadline).await?)),
        Ok(Err(Failed::Stranger(error))) => Err(error.pending()),
        Ok(Err(Failed::Said(status))) => match Cause::of(&status) {
            Cause::FutureRevision if written.deep => {
                Ok(Wrote::Refused(broken(client, draft, deadline).await?))
            }
            Cause::Lost => Err(from_wire(&status).pending()),
            _ => Err(from_wire(&status)),
        },
        Err(_) => Err(Error::unavailable("etcd did not answer in time").pending()),
    }
}

/// Which condition does not hold, if it can still be seen.
async fn broken(client: &Client, draft: &Draft, deadline: Instant) -> Result<Option<usize>, Error> {
    let mut at = 0;
    for look in draft.looks() {
        let answer: <TxnRequest as Call>::Answer = client.ask_until(&look, deadline).await?;
        for response in &answer.responses {
            if draft.conditions.get(at).is_some_and(|condition| !condition.holds(found(response))) {
                return Ok(Some(at));
            }
            at += 1;
        }
    }
    Ok(None)
}

/// What a look found.
pub(crate) fn found(response: &ResponseOp) -> &[KeyValue] {
    match &response.response {
        Some(Response::ResponseRange(range)) => &range.kvs,
        _ => &[],
    }
}
