//! Things that may still come to be although nobody wishes them any more: a create whose answer was never
//! heard may come true later, until its backend's *settle* time is over. A tombstone without a name looks for
//! the token until then, and deletes what it finds. Meanwhile nothing else is made under that token.

use crate::{
    error::Error,
    house::House,
    journal::Change,
    model::{BackendName, Buried, Handle, Intent, Timestamp, Token, Tombstone, VolumeId},
    ports::{
        backend::{Effect, Which},
        store::Durability,
    },
    records::keys,
    steps::asked_later,
};

/// What is buried, and for how long it is looked for.
pub(crate) struct Grave<'a> {
    pub(crate) id: VolumeId,
    pub(crate) what: Buried,
    pub(crate) backend: &'a BackendName,
    pub(crate) token: Token,
    pub(crate) handle: Option<Handle>,
    pub(crate) until: Timestamp,
}

/// Adds a tombstone to the change that removes the thing's record.
pub(crate) fn bury(change: &mut Change, grave: &Grave<'_>, now: Timestamp) {
    change.put(
        keys::tombstone(grave.id),
        &Tombstone {
            id: grave.id,
            what: grave.what,
            backend: grave.backend.clone(),
            token: grave.token.clone(),
            handle: grave.handle.clone(),
            until: grave.until,
            intent: Intent::new(now),
        },
    );
}

impl House {
    /// Whether a tombstone looks for this token: it would delete what we make.
    pub(crate) async fn is_buried(&self, token: &Token) -> Result<bool, Error> {
        let tombstones = self.journal.all::<Tombstone>(keys::TOMBSTONES).await?;
        Ok(tombstones.iter().any(|tombstone| tombstone.token == *token))
    }

    /// Whether the backend may have been asked for something in a call whose answer nobody heard. What an earlier
    /// life of the daemon asked was not always recorded.
    pub(crate) fn may_have_asked(&self, intent: Option<&Intent>) -> bool {
        intent.is_some_and(|intent| {
            intent.attempts > 0 || intent.resume.is_some() || intent.copying || intent.since < self.started
        })
    }
}

/// Deletes what a create that was never heard may have made.
pub(crate) async fn look_for(house: &House, tombstone: &Tombstone) -> Result<(), Error> {
    let backend = house.backend(&tombstone.backend).await?;
    let which = Which { token: tombstone.token.clone(), handle: tombstone.handle.clone() };
    let resume = tombstone.intent.resume.clone();
    let answer = match (tombstone.what, backend.snapshots()) {
        (Buried::Volume, _) => backend.delete(which, resume).await?,
        (Buried::Snapshot, Some(snapshots)) => snapshots.delete_snapshot(which, resume).await?,
        (Buried::Snapshot, None) => {
            return Err(Error::unsupported("its backend cannot delete snapshots any more"));
        }
    };
    let (now, key) = (house.now(), keys::tombstone(tombstone.id));
    let mut change = Change::default();
    change.frees_space();
    match answer {
        Effect::Pending(pending) => {
            let intent = asked_later(Some(&tombstone.intent), &pending, now);
            change.put(key, &Tombstone { intent, ..tombstone.clone() });
            house.journal.commit(change, Durability::Durable).await
        }
        Effect::Done(()) if now < tombstone.until => Ok(()),
        Effect::Done(()) => {
            change.delete(key);
            house.journal.commit(change, Durability::Lazy).await
        }
    }
}
