//! What is done now and then while the store is open: what is known is kept on disk, history that nobody needs is given
//! up, and a doubt is looked into.
//!
//! *History.* etcd remembers every value that a key ever had until it is told to compact; without that its database
//! grows until it takes nothing any more. Of all hosts one does it in each round: whoever is the first to write a key
//! anew. What is given up is what had happened a whole round before, so that a watch that was cut has that long to come
//! back. Whoever shares etcd with others that do it, or has started it with `--auto-compaction-retention`, switches it
//! off.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::Error;
use tokio::time::sleep;

use super::{
    EtcdConfig, Room,
    draft::{Condition, Draft, Effect},
    follow::present,
    known::Mark,
    receipts::Wrote,
    wire::{CompactionRequest, RangeRequest, revision, signed},
};

/// How often what is known is kept.
const KEPT_EVERY: Duration = Duration::from_secs(1);

/// Keeps what is known, once a second and at the end.
pub(crate) async fn keep_mark(room: Arc<Room>) {
    let mut last = None;
    loop {
        let closed = tokio::select! {
            () = room.closed.cancelled() => true,
            () = sleep(KEPT_EVERY) => false,
        };
        // Of one that was set back nothing is learnt any more, and what was known before is what finds it out again.
        if let Some(mark) = room.mark()
            && last.as_ref() != Some(&mark)
        {
            match mark.keep(&room.config.mark) {
                Ok(()) => last = Some(mark),
                Err(error) => tracing::warn!(%error, "what this node knows of etcd could not be kept"),
            }
        }
        if closed {
            return;
        }
    }
}

/// Looks whether the cluster was set back as soon as something looks like it.
pub(crate) async fn look_into_doubts(room: Arc<Room>) {
    loop {
        tokio::select! {
            () = room.closed.cancelled() => return,
            () = room.doubt.notified() => {}
        }
        // The answer is compared where it comes in.
        if let Err(error) = present(&room).await {
            tracing::debug!(%error, "a doubt about etcd was looked into");
        }
    }
}

/// Gives up history, a round at a time.
pub(crate) async fn compact(room: Arc<Room>, round: Duration) {
    let mut before = None;
    loop {
        let gone = async {
            let (now, won) = room.begin_round().await?;
            if let (true, Some(before)) = (won, before) {
                room.compact(before).await?;
            }
            Ok::<_, Error>(now)
        };
        match gone.await {
            Ok(now) => before = Some(now),
            Err(error) => tracing::warn!(%error, "history in etcd could not be given up; it is tried again"),
        }
        tokio::select! {
            () = room.closed.cancelled() => return,
            () = sleep(round) => {}
        }
    }
}

impl Room {
    /// What this node knows.
    pub(crate) fn mark(&self) -> Option<Mark> {
        let witness = self.receipts.witness();
        Some(Mark {
            cluster: self.client.known.cluster()?,
            house: self.house_id.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone(),
            revision: self.client.known.seen(),
            witness: witness.and_then(|(key, at)| Some((String::from_utf8(key).ok()?, at))),
        })
    }

    /// Writes the key of rounds anew. Answers the present, and whether nobody was faster.
    async fn begin_round(&self) -> Result<(u64, bool), Error> {
        let key = self.layout.compaction();
        let answer = self.client.ask(&RangeRequest { key: key.clone(), ..RangeRequest::default() }).await?;
        let now = answer.header.map_or(0, |header| revision(header.revision));
        let at = answer.kvs.first().map_or(0, |kv| revision(kv.mod_revision));
        let draft = Draft {
            conditions: vec![Condition::Written(key.clone(), at)],
            effects: vec![Effect::Put(key, now.to_string().into_bytes(), 0)],
        };
        Ok((now, matches!(self.write(&draft).await?, Wrote::Applied { .. })))
    }

    /// Gives up what is older than this.
    async fn compact(&self, before: u64) -> Result<(), Error> {
        let wish = CompactionRequest { revision: signed(before), physical: false };
        match self.client.ask(&wish).await {
            // Somebody else gave up more.
            Err(error) if error.kind == kato_orchestrator::Kind::OutOfRange => Ok(()),
            answer => answer.map(drop),
        }
    }
}

/// How long a round is; nothing if there are none.
pub(crate) fn round(config: &EtcdConfig) -> Option<Duration> {
    (!config.keep_history.is_zero()).then_some(config.keep_history)
}
