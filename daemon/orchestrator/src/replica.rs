//! What this node remembers of records that it shares: a copy on its own disk, for the time in which those cannot be
//! reached. Whoever only wants to look is answered from it, so that nobody forgets a volume because its records are away;
//! and it keeps what holders gave back meanwhile, until that can be written down for everybody.
//!
//! Nothing is decided by it. Whatever changes a record, or touches a backend or a mount, is agreed on with everybody else
//! first, and waits until that is possible. The copy follows what everybody writes (`follow.rs`), so it may be behind by a
//! moment; of a thing that it does not know nobody is told that there is none.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use tracing::{info, warn};

use crate::{
    error::{Error, Kind, Outcome},
    house::House,
    journal::{Change, Journal},
    model::{ClusterId, HolderId, Keeping, NodeId, Publication, PublicationState, Target, VolumeId},
    ops::{UnmountVolume, unmount::leave},
    ports::store::{Batch, Durability, Entry, Key, Store},
    records::keys,
};

/// How long whoever only looks waits for the records before it is answered from the copy.
const SOON: Duration = Duration::from_secs(2);

/// How many records are compared at once.
const PAGE: usize = 500;

/// Stands in a copy that is whole.
const WHOLE: &str = "copy/whole";

/// A copy of shared records, and whether those can be reached.
pub(crate) struct Replica {
    journal: Journal,
    store: Arc<dyn Store>,
    away: AtomicBool,
    rung: Notify,
}

/// Where a look ended.
pub(crate) enum Look<'a, T> {
    /// The records answered.
    Records(Result<T, Error>),
    /// They are away; what is remembered may help.
    Away(&'a Replica),
}

impl Replica {
    pub(crate) fn new(store: Arc<dyn Store>, node: NodeId) -> Self {
        let journal = Journal::new(Arc::clone(&store), node, false);
        Self { journal, store, away: AtomicBool::new(false), rung: Notify::new() }
    }

    /// What is remembered, to be read from.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Says that the records cannot be reached.
    pub(crate) fn lost_them(&self) {
        if !self.away.swap(true, Ordering::Relaxed) {
            warn!(
                "the records cannot be reached: this node answers from what it remembers, and takes nothing new"
            );
            self.rung.notify_one();
        }
    }

    /// Whether they cannot be reached, as far as is known.
    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Whether nothing is missing in the copy but what happened a moment ago. One that was cut off in the middle is none
    /// to mend anything from.
    pub(crate) async fn is_whole(&self) -> Result<bool, Error> {
        Ok(self.store.load(WHOLE).await?.is_some())
    }

    async fn set_whole(&self, whole: bool) -> Result<(), Error> {
        match whole {
            true => self.write(vec![(WHOLE.to_owned(), Vec::new())], Vec::new()).await,
            false => self.write(Vec::new(), vec![WHOLE.to_owned()]).await,
        }
    }

    /// Makes the copy what the records are now.
    pub(crate) async fn renew(&self, records: &dyn Store) -> Result<(), Error> {
        self.set_whole(false).await?;
        let mut after: Option<Key> = None;
        loop {
            let page = records.scan("", after.as_deref(), PAGE).await?;
            let end = page.last().filter(|_| page.len() == PAGE).map(|entry| entry.key.clone());
            let mut now: BTreeMap<Key, Vec<u8>> =
                page.into_iter().map(|entry| (entry.key, entry.value)).collect();
            let mut gone = Vec::new();
            for old in self.between(after.as_deref(), end.as_deref()).await? {
                match now.get(&old.key) {
                    Some(value) if *value == old.value => drop(now.remove(&old.key)),
                    Some(_) => {}
                    None => gone.push(old.key),
                }
            }
            self.write(now.into_iter().collect(), gone).await?;
            if end.is_none() {
                return self.set_whole(true).await;
            }
            after = end;
        }
    }

    /// What is remembered behind one key, up to another one or to the end.
    async fn between(&self, after: Option<&str>, end: Option<&str>) -> Result<Vec<Entry>, Error> {
        let mut found: Vec<Entry> = Vec::new();
        let mut from = after.map(str::to_owned);
        loop {
            let page = self.store.scan("", from.as_deref(), PAGE).await?;
            let full = page.len() == PAGE;
            from = page.last().map(|entry| entry.key.clone());
            let before = found.len() + page.len();
            let within = |entry: &Entry| end.is_none_or(|end| entry.key.as_str() <= end);
            found.extend(page.into_iter().take_while(within));
            if !full || found.len() < before {
                found.retain(|entry| !entry.key.starts_with(keys::OWED) && entry.key != WHOLE);
                return Ok(found);
            }
        }
    }

    /// Does what happened to the records to the copy; one that missed something before is made anew.
    pub(crate) async fn follow(
        &self,
        events: &[(Key, Option<Entry>)],
        records: &dyn Store,
    ) -> Result<(), Error> {
        if !self.is_whole().await? {
            return self.renew(records).await;
        }
        let followed = self.apply(events).await;
        if followed.is_err() {
            self.set_whole(false).await?;
        }
        followed
    }

    async fn apply(&self, events: &[(Key, Option<Entry>)]) -> Result<(), Error> {
        let mut last = BTreeMap::new();
        last.extend(events.iter().map(|(key, entry)| (key.clone(), entry.as_ref())));
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for (key, entry) in last {
            match entry {
                Some(entry) => puts.push((key, entry.value.clone())),
                None => deletes.push(key),
            }
        }
        self.write(puts, deletes).await
    }

    async fn write(&self, mut puts: Vec<(Key, Vec<u8>)>, deletes: Vec<Key>) -> Result<(), Error> {
        /// What fits into a batch, whatever the values are.
        const MOST: usize = 4;
        /// And however long the keys are.
        const MOST_KEYS: usize = 100;
        for deletes in deletes.chunks(MOST_KEYS) {
            let batch = Batch { deletes: deletes.to_vec(), frees_space: true, ..Batch::default() };
            self.store.commit(batch, Durability::Lazy).await?;
        }
        while !puts.is_empty() {
            let rest = puts.split_off(puts.len().min(MOST));
            let batch = Batch { puts: std::mem::replace(&mut puts, rest), ..Batch::default() };
            self.store.commit(batch, Durability::Lazy).await?;
        }
        Ok(())
    }

    /// All that is remembered of the records.
    pub(crate) async fn all(&self) -> Result<Vec<Entry>, Error> {
        self.between(None, None).await
    }

    /// What was found in the copy. That it is not there does not say that it is not.
    pub(crate) fn recalled<T>(found: Result<T, Error>) -> Result<T, Error> {
        found.map_err(|error| match error.kind {
            Kind::NotFound => out_of_reach().about(error.subject),
            _ => error,
        })
    }
}

/// Whether an error of the records themselves says that they are of no use now: nobody answers, or what answers was set
/// back.
pub(crate) fn is_away(error: &Error) -> bool {
    matches!(error.kind, Kind::Unavailable | Kind::Precondition)
}

/// What whoever wants something is told while the records are away.
pub(crate) fn out_of_reach() -> Error {
    Error::unavailable(
        "the records cannot be reached, and this node does not remember it: see whether etcd is well",
    )
}

impl House {
    /// Looks at the records; says that they are away when no answer comes soon.
    pub(crate) async fn look<T: Send>(
        &self,
        look: impl Future<Output = Result<T, Error>> + Send,
    ) -> Look<'_, T> {
        let Some(replica) = &self.replica else { return Look::Records(look.await) };
        if replica.is_away() {
            return Look::Away(replica);
        }
        let clock = &self.ports.clock;
        tokio::select! {
            biased;
            found = look => match found {
                Err(error) if is_away(&error) => {}
                found => return Look::Records(found),
            },
            () = clock.sleep_until(clock.now().plus(SOON)) => {}
        }
        replica.lost_them();
        Look::Away(replica)
    }

    /// Whether the records answer.
    pub(crate) async fn records_answer(&self) -> Result<(), Error> {
        match self.look(self.journal.record::<ClusterId>(keys::cluster())).await {
            Look::Records(found) => found.map(drop),
            Look::Away(_) => Err(out_of_reach()),
        }
    }

    /// Notes that a holder has given a volume back, for the time when that can be written down. A path of the holder's own
    /// has to be gone before it is told so, which needs the records.
    pub(crate) async fn owe(&self, replica: &Replica, wish: &UnmountVolume) -> Result<Outcome<()>, Error> {
        let memory = &replica.journal;
        let id = self.known_in(memory, &wish.volume).await?.ok_or_else(out_of_reach)?;
        let key = keys::owed(id, &wish.holder);
        let family = memory.family(id).await?.value;
        let noted = memory.record::<Publication>(key.clone()).await?;
        let held = noted
            .value
            .clone()
            .or_else(|| family.publications.get(&(self.node().clone(), wish.holder.clone())).cloned());
        let Some(mut publication) = held.filter(|publication| publication.count > 0) else {
            return Ok(Outcome::Unchanged(()));
        };
        let ends_with_it = family.volume.is_some_and(|volume| volume.keeping == Keeping::Ephemeral);
        if publication.target != Target::Shared || ends_with_it {
            return Err(out_of_reach());
        }
        publication.count = if wish.all { 0 } else { publication.count.saturating_sub(1) };
        let mut change = Change::default();
        change.touch(&noted, key, &publication);
        change.frees_space();
        memory.commit(change, Durability::Durable).await?;
        info!(volume.id = %id, holder = %wish.holder, "a volume was given back, which the records hear of when they can be reached");
        Ok(Outcome::Changed(()))
    }

    /// Writes down what was given back while the records were away.
    pub(crate) async fn pay(self: &Arc<Self>) -> Result<(), Error> {
        let Some(replica) = &self.replica else { return Ok(()) };
        for owed in replica.journal.all::<Publication>(keys::OWED).await? {
            self.give_back_late(owed.volume, &owed).await?;
            let mut change = Change::default();
            change.delete(keys::owed(owed.volume, &owed.holder));
            change.frees_space();
            replica.journal.commit(change, Durability::Durable).await?;
        }
        Ok(())
    }

    async fn give_back_late(self: &Arc<Self>, id: VolumeId, owed: &Publication) -> Result<(), Error> {
        let (node, now) = (self.node().clone(), self.now());
        let key: (NodeId, HolderId) = (node.clone(), owed.holder.clone());
        self.journal
            .edit_family(id, Durability::Durable, |family, change| {
                change.frees_space();
                // What it took since then, after all had been taken from it, is not what it gave back.
                while family.publications.get(&key).is_some_and(|held| {
                    held.since == owed.since
                        && held.count > owed.count
                        && held.state != PublicationState::Leaving
                }) {
                    leave(family, &node, &owed.holder, owed.count == 0, now);
                }
                Ok(())
            })
            .await?;
        self.ring(crate::drivers::Subject::Volume(id), false);
        Ok(())
    }

    /// Takes records for the truth that were set back, now that a person has decided so, with all that this node remembers
    /// if it is the first. Answers what came of it, where they were refused at all.
    pub(crate) async fn believe(&self, dry_run: bool) -> Result<Option<String>, Error> {
        let (Some(fellows), Some(replica)) = (&self.fellows, &self.replica) else { return Ok(None) };
        match self.journal.record::<ClusterId>(keys::cluster()).await {
            Err(refusal) if refusal.kind == Kind::Precondition && dry_run => return Err(refusal),
            Err(refusal) if refusal.kind == Kind::Precondition => {}
            known => return known.map(|_| None),
        }
        let whole = replica.is_whole().await?;
        let remembered = if whole { replica.all().await? } else { Vec::new() };
        let count = remembered.len();
        Ok(Some(if fellows.believe(remembered).await? {
            match whole {
                true => format!("etcd was made what this node remembers: {count} records"),
                false => "what this node remembers is not whole, so etcd is taken as it is".to_owned(),
            }
        } else {
            "another node has made etcd what it remembers; this one joins it".to_owned()
        }))
    }

    /// Waits for records that are away, and does then what is owed.
    pub(crate) async fn await_records(self: Arc<Self>) {
        let Some(replica) = &self.replica else { return };
        while !self.stopping.is_cancelled() {
            if !replica.is_away() {
                match self.pay().await {
                    Ok(()) => {
                        tokio::select! {
                            () = replica.rung.notified() => {}
                            () = self.stopping.cancelled() => {}
                        }
                    }
                    Err(error) if is_away(&error) => replica.lost_them(),
                    Err(error) => {
                        warn!(error = %error, "could not write down what was given back while the records were away");
                        self.pause_for(House::pause(3)).await;
                    }
                }
                continue;
            }
            match self.journal.record::<ClusterId>(keys::cluster()).await {
                Ok(_) => {
                    replica.away.store(false, Ordering::Relaxed);
                    info!("the records can be reached again");
                }
                Err(_) => self.pause_for(House::pause(2)).await,
            }
        }
    }
}
