//! The lease of this node: claims and presence are under it, and go with it.
//!
//! There is one at a time. Who attends has it under the node's name and keeps its id (`members.rs`); who claims
//! something without attending gets one that nobody has to know. It is kept up three times in its length. When etcd is
//! away it is tried on, even past its end: by the clock it is then *doubtful* (nothing remains of it), but only etcd's
//! own word makes it *lost*, for a new leader gives every lease its whole length again.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kato_orchestrator::{
    Error,
    ports::store::members::{Lease, LeaseId},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    Room,
    client::{Failed, jitter},
    error::{Cause, cause_of},
    wire::{
        DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, TxnRequest, op,
        request_op::Request,
    },
};
use crate::attendance::over;

/// How long a lease lives that nobody wished for.
const UNWISHED: Duration = Duration::from_secs(20);
/// How many keys are removed at once.
const REMOVED_AT_ONCE: usize = 100;

/// A lease for as long as it is kept up.
#[derive(Debug)]
pub(crate) struct Tenure {
    pub(crate) id: i64,
    ttl: Duration,
    /// Whether somebody is shown under it; then its end is somebody's business.
    attended: bool,
    until: Mutex<Instant>,
    over: watch::Sender<bool>,
    /// How many have it; nobody keeps up what nobody has.
    holders: AtomicUsize,
    stop: Notify,
}

impl Tenure {
    fn new(id: i64, ttl: Duration, from: Instant, attended: bool) -> Self {
        Self {
            id,
            ttl,
            attended,
            until: Mutex::new(from + ttl),
            over: watch::Sender::new(false),
            holders: AtomicUsize::new(0),
            stop: Notify::new(),
        }
    }

    /// What it is called outside.
    pub(crate) fn name(&self) -> LeaseId {
        LeaseId(u64::from_ne_bytes(self.id.to_ne_bytes()))
    }

    /// How much is left of it by this host's clock.
    pub(crate) fn remaining(&self) -> Duration {
        if self.is_over() {
            return Duration::ZERO;
        }
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.saturating_duration_since(Instant::now())
    }

    /// Whether etcd said that there is none any more.
    pub(crate) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Waits for that.
    pub(crate) async fn over(&self) {
        if self.over.subscribe().wait_for(|over| *over).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Notes that etcd said so.
    pub(crate) fn end(&self) {
        if !self.over.send_replace(true) && self.attended {
            tracing::warn!(lease = %self.name(), "the lease of this node ran out");
        }
    }

    fn extend(&self, from: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = from + self.ttl;
    }
}

/// The id of a lease as etcd has it.
pub(crate) fn number(lease: LeaseId) -> i64 {
    i64::from_ne_bytes(lease.0.to_ne_bytes())
}

impl Room {
    /// The lease that claims are made under now.
    pub(crate) async fn tenure(self: &Arc<Self>) -> Result<Arc<Tenure>, Error> {
        let mut current = self.tenure.lock().await;
        match current.as_ref() {
            Some(tenure) if !tenure.is_over() => return Ok(Arc::clone(tenure)),
            Some(tenure) if tenure.attended => {
                return Err(over(tenure.name()));
            }
            Some(_) | None => {}
        }
        let tenure = self.grant(UNWISHED, false).await?;
        *current = Some(Arc::clone(&tenure));
        Ok(tenure)
    }

    /// The lease that this node attends under: the one of the process before, if it lives, or a new one.
    pub(crate) async fn tenure_of(
        self: &Arc<Self>,
        last: Option<LeaseId>,
        ttl: Duration,
    ) -> Result<Arc<Tenure>, Error> {
        let mut current = self.tenure.lock().await;
        let ours = current.as_ref().filter(|tenure| tenure.attended && !tenure.is_over());
        if let Some(tenure) = ours.filter(|tenure| tenure.holders.load(Ordering::Relaxed) > 0) {
            return Ok(Arc::clone(tenure));
        }
        let taken_up = match ours.map(|tenure| tenure.name()).or(last) {
            Some(last) => self.take_up(number(last)).await?,
            None => None,
        };
        let tenure = match taken_up {
            Some(tenure) => tenure,
            None => self.grant(ttl, true).await?,
        };
        *current = Some(Arc::clone(&tenure));
        Ok(tenure)
    }

    async fn grant(self: &Arc<Self>, ttl: Duration, attended: bool) -> Result<Arc<Tenure>, Error> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let from = Instant::now();
        let answer = self.client.ask(&LeaseGrantRequest { ttl: seconds, id: 0 }).await?;
        let ttl = Duration::from_secs(u64::try_from(answer.ttl).unwrap_or(0));
        Ok(self.keep_up(Tenure::new(answer.id, ttl, from, attended)))
    }

    /// Goes on with a lease of an earlier process. What that process had claimed ends: it does not live any more.
    async fn take_up(self: &Arc<Self>, id: i64) -> Result<Option<Arc<Tenure>>, Error> {
        let answer = self.client.ask(&LeaseTimeToLiveRequest { id, keys: true }).await?;
        if answer.ttl <= 0 {
            return Ok(None);
        }
        let queues = self.layout.queues();
        let claims: Vec<_> = answer.keys.into_iter().filter(|key| key.starts_with(&queues)).collect();
        self.remove(&claims).await?;
        let from = Instant::now();
        let ttl = Duration::from_secs(u64::try_from(answer.granted_ttl).unwrap_or(0));
        let tenure = Tenure::new(id, ttl, from, true);
        // What it has left may be short.
        Ok(if self.renew(&tenure).await { Some(self.keep_up(tenure)) } else { None })
    }

    /// Removes keys that are nobody else's.
    pub(crate) async fn remove(&self, keys: &[Vec<u8>]) -> Result<(), Error> {
        for keys in keys.chunks(REMOVED_AT_ONCE) {
            let gone = |key: &Vec<u8>| {
                op(Request::RequestDeleteRange(DeleteRangeRequest {
                    key: key.clone(),
                    range_end: Vec::new(),
                }))
            };
            let request = TxnRequest { success: keys.iter().map(gone).collect(), ..TxnRequest::default() };
            self.client.ask(&request).await?;
        }
        Ok(())
    }

    fn keep_up(self: &Arc<Self>, tenure: Tenure) -> Arc<Tenure> {
        let tenure = Arc::new(tenure);
        let (room, kept) = (Arc::clone(self), Arc::clone(&tenure));
        self.tasks.spawn(async move {
            let third = kept.ttl / 3;
            while !kept.is_over() {
                tokio::select! {
                    () = room.closed.cancelled() => return,
                    () = kept.stop.notified() => return,
                    () = sleep(third) => {}
                }
                tokio::select! {
                    () = room.closed.cancelled() => return,
                    _ = room.renew(&kept) => {}
                }
            }
        });
        tenure
    }

    /// Tries until etcd says yes or no.
    async fn renew(&self, tenure: &Tenure) -> bool {
        let mut pause = Duration::from_millis(50);
        loop {
            let (member, from) = (self.client.current(), Instant::now());
            // A third of its length is what each try may take; the next member may be quicker.
            let answer = timeout(
                (tenure.ttl / 3).max(Duration::from_secs(1)),
                self.client.keep_alive(member, tenure.id),
            );
            match answer.await {
                Ok(Ok(answer)) if answer.ttl > 0 => {
                    tenure.extend(from);
                    return true;
                }
                Ok(Ok(_)) => break,
                Ok(Err(Failed::Said(status))) if Cause::of(&status) == Cause::NoLease => break,
                Ok(Err(Failed::Said(status))) => {
                    tracing::debug!(%status, "the lease could not be kept up");
                    self.client.turn(member);
                }
                Ok(Err(Failed::Stranger(_))) => {}
                Err(_) => self.client.turn(member),
            }
            sleep(pause.mul_f64(0.5 + jitter())).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        tenure.end();
        false
    }

    /// Gives a lease up.
    pub(crate) async fn revoke(&self, tenure: &Tenure) -> Result<(), Error> {
        tenure.stop.notify_one();
        let revoked = self.client.ask(&LeaseRevokeRequest { id: tenure.id }).await;
        match revoked {
            // It ran out before.
            Err(error) if cause_of(&error) == Some(Cause::NoLease) => {}
            revoked => drop(revoked?),
        }
        tenure.end();
        Ok(())
    }
}

/// The lease of a node that attends.
pub(crate) struct Attending {
    room: Arc<Room>,
    pub(crate) tenure: Arc<Tenure>,
}

impl Attending {
    pub(crate) fn new(room: &Arc<Room>, tenure: Arc<Tenure>) -> Self {
        tenure.holders.fetch_add(1, Ordering::Relaxed);
        Self { room: Arc::clone(room), tenure }
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        if self.tenure.holders.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.tenure.stop.notify_one();
        }
    }
}

#[async_trait]
impl Lease for Attending {
    fn id(&self) -> LeaseId {
        self.tenure.name()
    }

    fn remaining(&self) -> Duration {
        self.tenure.remaining()
    }

    async fn lost(&self) {
        self.tenure.over().await;
    }

    async fn give_up(&self) -> Result<(), Error> {
        self.room.revoke(&self.tenure).await
    }
}
