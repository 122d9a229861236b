//! Claims: for each key a queue in etcd, of tickets under the leases of who stands there.
//!
//! A ticket is drawn by putting a key; etcd gives it the revision of that moment, so the queue has one order for all
//! hosts, and the lowest number is whose turn it is. That number is the fencing token: it is the revision since which
//! the ticket has been there, so "this ticket, with this number, is still there" is one condition of a transaction, and
//! a node that was paused past its lease cannot write late.
//!
//! Those of one process stand in a queue of their own first (`claims.rs` of the local stores): one of them at a time
//! draws a ticket. A ticket is drawn and given back by tasks of the house, so that who stops waiting leaves none behind
//! that keeps everybody else out.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use kato_orchestrator::{
    Error,
    ports::store::{Claim, Guard, Key},
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    Room,
    draft::{Draft, Effect},
    error::{Cause, cause_of},
    lease::Tenure,
    receipts::{Wrote, found},
    wire::{
        RangeRequest, TxnRequest, op,
        range_request::{SortOrder, SortTarget},
        request_op::Request,
        revision, signed,
    },
};
use crate::claims::Held;

/// How many tickets are given back at once.
const GIVEN_BACK_AT_ONCE: usize = 64;

/// A claim of one key.
pub(crate) struct Claimed {
    ticket: Ticket,
    /// The place at the head of this process's own queue.
    _turn: Held,
}

/// A place in a queue, given back in the end.
struct Ticket {
    room: Arc<Room>,
    key: Vec<u8>,
    /// What is claimed and the ticket's name, as the guard has it.
    name: Key,
    /// Since when; the fencing token.
    number: u64,
    tenure: Arc<Tenure>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // It fails when the store was closed: then the ticket goes with its lease.
        drop(self.room.given_back.send(std::mem::take(&mut self.key)));
    }
}

impl Claim for Claimed {
    fn fencing_token(&self) -> u64 {
        self.ticket.number
    }

    fn guard(&self) -> Guard {
        Guard::Claimed(self.ticket.name.clone(), self.ticket.number)
    }

    fn is_sure(&self) -> bool {
        !self.ticket.tenure.remaining().is_zero()
    }
}

impl Room {
    /// Waits for a key.
    pub(crate) async fn claim(self: &Arc<Self>, key: &str) -> Result<Claimed, Error> {
        loop {
            let turn = self.local_claims.claim(key, None).await;
            let (room, queue) = (Arc::clone(self), key.to_owned());
            // A task of its own, so that it ends even if nobody waits any more.
            let drawn = self.tasks.spawn(async move { room.draw(&queue).await });
            let (ticket, first) = drawn.await.map_err(|cut| {
                Error::unavailable("the store was closed: start kato again").caused_by(cut)
            })??;
            if first || self.reach_the_head(key, &ticket).await? {
                return Ok(Claimed { ticket, _turn: turn });
            }
            // The lease ran out while it stood there.
        }
    }

    /// Draws a ticket. Says whether it is the first of its queue.
    async fn draw(self: &Arc<Self>, key: &str) -> Result<(Ticket, bool), Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let tenure = self.tenure().await?;
        let name = format!("{}.{}", tenure.name(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{key}\0{name}");
        let place = self.layout.ticket(&name);
        let (from, end) = self.layout.queue(key);
        let first = RangeRequest {
            key: from,
            range_end: end,
            limit: 1,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            keys_only: true,
            ..RangeRequest::default()
        };
        let draft = Draft {
            conditions: Vec::new(),
            effects: vec![
                Effect::Put(place.clone(), self.node.clone().into_bytes(), tenure.id),
                Effect::Look(Box::new(first)),
            ],
        };
        match self.write(&draft).await {
            Ok(Wrote::Applied { revision: number, answers }) => {
                let ticket = Ticket { room: Arc::clone(self), key: place, name, number, tenure };
                let first =
                    answers.as_deref().and_then(|answers| answers.get(1)).map(found).unwrap_or_default();
                let is_first = first.first().is_some_and(|first| first.key == ticket.key);
                Ok((ticket, is_first))
            }
            Ok(Wrote::Refused(_)) => Err(Error::internal("etcd refused what has no condition")),
            Err(error) => {
                if cause_of(&error) == Some(Cause::NoLease) {
                    tenure.end();
                } else if !error.is_final() {
                    // It may come to be there yet.
                    drop(self.given_back.send(place));
                }
                Err(error)
            }
        }
    }

    /// Waits until a ticket is the first of its queue. False if it is not there any more.
    async fn reach_the_head(&self, key: &str, ticket: &Ticket) -> Result<bool, Error> {
        let (from, end) = self.layout.queue(key);
        let before = RangeRequest {
            key: from,
            range_end: end,
            limit: 1,
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Create.into(),
            max_create_revision: signed(ticket.number.saturating_sub(1)),
            ..RangeRequest::default()
        };
        let ours = RangeRequest { key: ticket.key.clone(), ..RangeRequest::default() };
        let looks = [ours, before].map(|look| op(Request::RequestRange(look)));
        let look = TxnRequest { success: looks.to_vec(), ..TxnRequest::default() };
        loop {
            let answer = self.client.ask(&look).await?;
            let mut answers = answer.responses.iter().map(found);
            if answers.next().unwrap_or_default().is_empty() {
                return Ok(false);
            }
            let Some([before, ..]) = answers.next() else { return Ok(true) };
            let now = answer.header.as_ref().map_or(0, |header| revision(header.revision));
            self.await_gone(before.key.clone(), now).await?;
        }
    }
}

/// Gives tickets back for as long as the store is open, many at once.
pub(crate) async fn give_back(room: Arc<Room>, mut given_back: mpsc::UnboundedReceiver<Vec<u8>>) {
    let mut keys = Vec::new();
    loop {
        let closed = tokio::select! {
            biased;
            _ = given_back.recv_many(&mut keys, GIVEN_BACK_AT_ONCE) => false,
            () = room.closed.cancelled() => true,
        };
        if closed {
            given_back.close();
            while let Ok(key) = given_back.try_recv() {
                keys.push(key);
            }
            // A moment, and no more: they go with the lease.
            drop(timeout(std::time::Duration::from_secs(1), room.remove(&keys)).await);
            return;
        }
        keys.retain(|key| !key.is_empty());
        while !keys.is_empty() {
            let gone = tokio::select! {
                gone = room.remove(&keys) => gone,
                () = room.closed.cancelled() => return,
            };
            match gone {
                Ok(()) => keys.clear(),
                Err(error) => {
                    tracing::debug!(%error, "claims could not be given back yet");
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                }
            }
        }
    }
}
