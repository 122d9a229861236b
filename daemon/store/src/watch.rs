//! What happened lately, for those who watch. The history is short: a watcher that was away for longer is told
//! to read everything again.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use kato_orchestrator::{
    Error,
    ports::store::{Changes, Revision},
};
use tokio::sync::watch;

use crate::committer::Applied;

/// How many changed keys are remembered.
const EVENTS: usize = 4096;
/// How many bytes of them.
const BYTES: usize = 2 << 20;

/// The latest commits.
#[derive(Debug)]
pub(crate) struct History {
    recent: Mutex<Recent>,
    newest: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Recent {
    /// Everything after this revision is remembered.
    start: Revision,
    commits: VecDeque<Applied>,
    events: usize,
    bytes: usize,
}

impl std::fmt::Debug for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.events.len(), self.revision)
    }
}

impl History {
    /// A history that begins after this revision.
    pub(crate) fn new(start: Revision) -> Self {
        let recent = Recent { start, commits: VecDeque::new(), events: 0, bytes: 0 };
        Self { recent: Mutex::new(recent), newest: watch::Sender::new(start) }
    }

    /// Remembers commits and wakes who waits for them.
    pub(crate) fn push(&self, applied: Vec<Applied>) {
        let Some(newest) = applied.last().map(|last| last.revision) else { return };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for commit in applied {
            recent.events += commit.events.len();
            recent.bytes += bytes(&commit);
            recent.commits.push_back(commit);
        }
        while recent.events > EVENTS || recent.bytes > BYTES {
            let Some(oldest) = recent.commits.pop_front() else { break };
            recent.start = oldest.revision;
            recent.events -= oldest.events.len();
            recent.bytes -= bytes(&oldest);
        }
        drop(recent);
        self.newest.send_replace(newest);
    }

    /// Forgets everything: what comes after this revision is remembered, and what came before is not.
    pub(crate) fn begin_at(&self, start: Revision) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        *recent = Recent { start, commits: VecDeque::new(), events: 0, bytes: 0 };
        drop(recent);
        self.newest.send_replace(start);
    }

    /// Waits for changes beneath `prefix` after `revision`.
    pub(crate) async fn watch_from(&self, prefix: &str, revision: Revision) -> Result<Changes, Error> {
        let mut newest = self.newest.subscribe();
        if revision == 0 {
            let next = *newest.borrow();
            return Ok(Changes { events: Vec::new(), next });
        }
        let mut next = revision;
        loop {
            newest.mark_unchanged();
            let changes = self.since(prefix, next)?;
            if !changes.events.is_empty() {
                return Ok(changes);
            }
            next = changes.next;
            newest.changed().await.map_err(|closed| {
                Error::unavailable("the store was closed: start kato again").caused_by(closed)
            })?;
        }
    }

    fn since(&self, prefix: &str, revision: Revision) -> Result<Changes, Error> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if revision < recent.start {
            return Err(Error::out_of_range(format!(
                "the changes after revision {revision} are not remembered any more: read everything again"
            )));
        }
        let first = recent.commits.partition_point(|commit| commit.revision <= revision);
        let events = recent
            .commits
            .range(first..)
            .flat_map(|commit| &commit.events)
            .filter(|(key, _)| key.starts_with(prefix))
            .cloned()
            .collect();
        let next = recent.commits.back().map_or(revision, |last| last.revision.max(revision));
        Ok(Changes { events, next })
    }
}

fn bytes(commit: &Applied) -> usize {
    let size = |entry: &Option<_>| {
        entry.as_ref().map_or(0, |entry: &kato_orchestrator::ports::store::Entry| entry.value.len())
    };
    commit.events.iter().map(|(key, entry)| key.len() + size(entry)).sum()
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::{Kind, ports::store::Entry};

    use super::*;

    fn commit(revision: Revision, key: &str, size: usize) -> Applied {
        let key = key.to_owned();
        let entry = Entry { key: key.clone(), value: vec![0; size], revision };
        Applied { revision, events: vec![(key, Some(entry))] }
    }

    #[tokio::test]
    async fn a_watcher_that_was_away_too_long_is_told_so() {
        let history = History::new(5);
        assert_eq!(history.watch_from("", 4).await.unwrap_err().kind, Kind::OutOfRange);
        for revision in 6..16 {
            history.push(vec![commit(revision, "a", BYTES / 4)]);
        }
        assert_eq!(history.watch_from("", 6).await.unwrap_err().kind, Kind::OutOfRange);
        assert_eq!(history.watch_from("", 14).await.unwrap().next, 15);
    }

    #[tokio::test]
    async fn who_watches_across_a_gap_is_told_to_read_again() {
        let history = History::new(5);
        history.push(vec![commit(6, "a", 1)]);
        let waiting = history.watch_from("", 6);
        history.begin_at(9);
        assert_eq!(waiting.await.unwrap_err().kind, Kind::OutOfRange);
        history.push(vec![commit(10, "a", 1)]);
        assert_eq!(history.watch_from("", 9).await.unwrap().next, 10);
    }

    #[tokio::test]
    async fn revision_zero_asks_for_the_present() {
        let history = History::new(5);
        history.push(vec![commit(6, "a", 1)]);
        assert_eq!(history.watch_from("", 0).await.unwrap(), Changes { events: Vec::new(), next: 6 });
    }
}
