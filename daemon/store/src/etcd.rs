//! The store on etcd: one set of records for several hosts.
//!
//! *One stroke.* A batch is one transaction: its guards are conditions on the revisions that etcd itself gives, and its
//! puts and deletes happen together or not at all (`draft.rs`). What etcd has answered survives the loss of a minority of
//! its members, so a lazy commit is as durable as any other.
//!
//! *No answer is no unknown outcome.* What became of a write whose answer was lost is found out before anybody is told
//! (`receipts.rs`).
//!
//! *One writer.* Claims are tickets under the lease of their node (`claims.rs`, `lease.rs`); a batch that carries a
//! claim's guard is refused when the claim is gone. Who is there is in `members.rs`.
//!
//! *Reads* are linearizable: they go through the leader, and see everything that was answered before, to whomever.
//! Without a majority there are none: an old answer would be taken for the present. A scan is of one moment, however
//! many pages it takes.
//!
//! *Changes* come in by one watch (`follow.rs`), and are read from a history in memory, as those of the other stores.
//!
//! *Trouble.* A member that is away is left for another (`client.rs`); without any, everything waits for as long as the
//! caller's patience and then answers *unavailable*. A full etcd takes what only removes records. Nothing of all that
//! needs a restart. An etcd that was set back is refused (`known.rs`), and records that are not whole, or of others, are
//! not opened (`house.rs`).

mod claims;
mod client;
mod draft;
mod error;
mod follow;
mod house;
mod known;
mod layout;
mod lease;
mod members;
mod opening;
mod receipts;
#[cfg(test)]
mod speed;
mod tidy;
mod wire;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kato_orchestrator::{
    Error, Kind,
    ports::store::{Batch, Changes, Claim, Durability, Entry, Guard, Revision, Store},
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    client::Client,
    draft::{Condition, Draft, Effect},
    house::State,
    known::{Known, Mark},
    layout::Layout,
    lease::Tenure,
    opening::Opening,
    receipts::{Receipts, Wrote},
    wire::RangeRequest,
};
use crate::{
    claims::Claims,
    committer::{changed, check, claim_lost, layer},
    watch::History,
};

/// How many entries are read at once.
const PAGE: usize = 1_000;

/// A text that nobody prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Who we are to etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub name: String,
    /// The password.
    pub password: Hidden,
}

/// Whom to believe, and how we prove who we are; in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Whose signature a member's certificate needs.
    pub ca: String,
    /// Our own certificate and its key, where etcd wants one.
    pub identity: Option<(String, Hidden)>,
}

/// Where records in etcd are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// The members: `http://10.0.0.1:2379`, or https with [`EtcdConfig::tls`].
    pub endpoints: Vec<String>,
    /// What all keys begin with.
    pub prefix: String,
    /// How members are believed.
    pub tls: Option<Tls>,
    /// Who we are, where etcd has users.
    pub user: Option<User>,
    /// What this node is called; no other has the same.
    pub node: String,
    /// The file in which what this node knows of the cluster is kept.
    pub mark: PathBuf,
    /// How much of history is kept; nothing when somebody else sees to that.
    pub keep_history: Duration,
    /// How long a call waits for an etcd that does not answer.
    pub patience: Duration,
}

/// Records in etcd.
pub struct EtcdStore {
    room: Arc<Room>,
}

/// What everybody in here shares.
pub(crate) struct Room {
    prefix: String,
    layout: Layout,
    client: Client,
    node: String,
    house_id: Mutex<String>,
    config: EtcdConfig,
    receipts: Receipts,
    /// What happened to records, and to nodes.
    records: History,
    nodes: History,
    /// How far history has come in.
    position: watch::Sender<Revision>,
    local_claims: Claims,
    tenure: tokio::sync::Mutex<Option<Arc<Tenure>>>,
    given_back: mpsc::UnboundedSender<Vec<u8>>,
    /// Rung when the cluster looks as if it had been set back.
    doubt: Notify,
    /// Rung when a person has decided to believe what is there, and when that has begun.
    believe_anew: Notify,
    begun_anew: Notify,
    opened: watch::Sender<bool>,
    tasks: TaskTracker,
    closed: CancellationToken,
}

/// What a store that is opened may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Whole records, or nothing yet.
    Records,
    /// Nothing, or what was not finished or has left: a place to fill.
    Place {
        /// Whether what was not finished may be thrown away.
        anew: bool,
    },
}

impl EtcdStore {
    /// Opens the records, or begins them where there are none.
    pub async fn open(config: EtcdConfig) -> Result<Self, Error> {
        Self::begin(config, Wanted::Records).await
    }

    /// Opens a place for records from elsewhere: nobody opens it before [`EtcdStore::filled`]. It has to be empty. What
    /// was cut off in between, and what has moved out, is thrown away when it is to begin `anew`.
    pub async fn open_to_fill(config: EtcdConfig, anew: bool) -> Result<Self, Error> {
        Self::begin(config, Wanted::Place { anew }).await
    }

    /// The same for a node that has had these records open before, and has to start although etcd is away, or was set
    /// back: then they are opened as soon as that is possible, and nobody is answered before.
    pub async fn open_in_time(config: EtcdConfig) -> Result<Self, Error> {
        let (store, opening) = Self::prepare(config)?;
        match opening.open(&store.room, Wanted::Records).await {
            Err(error) if opening.may_come_right(&store.room, &error) => {
                tracing::warn!(%error, "the records in etcd cannot be opened yet");
                let room = Arc::clone(&store.room);
                store.room.go(async move { opening.open_when_possible(&room).await });
            }
            opened => opened?,
        }
        Ok(store)
    }

    async fn begin(config: EtcdConfig, wanted: Wanted) -> Result<Self, Error> {
        let (store, opening) = Self::prepare(config)?;
        opening.open(&store.room, wanted).await?;
        Ok(store)
    }

    fn prepare(config: EtcdConfig) -> Result<(Self, Opening), Error> {
        let layout = Layout::new(&config.prefix)?;
        let mark = Mark::read(&config.mark)?;
        let client = Client::new(&config, Known::of(mark.as_ref()), layout.house())?;
        let (given_back, given) = mpsc::unbounded_channel();
        let room = Arc::new(Room {
            prefix: config.prefix.clone(),
            layout,
            client,
            receipts: Receipts::new(&config.node),
            node: config.node.clone(),
            house_id: Mutex::new(mark.as_ref().map(|mark| mark.house.clone()).unwrap_or_default()),
            config: config.clone(),
            records: History::new(0),
            nodes: History::new(0),
            position: watch::Sender::new(0),
            local_claims: Claims::new(0),
            tenure: tokio::sync::Mutex::default(),
            given_back,
            doubt: Notify::new(),
            believe_anew: Notify::new(),
            begun_anew: Notify::new(),
            opened: watch::Sender::new(false),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        });
        // Dropped, it closes everything, should the rest fail.
        let opening = Opening { config, mark, given: Mutex::new(Some(given)) };
        Ok((Self { room }, opening))
    }

    /// Takes what is in etcd now for the truth, for a node whose start was refused because etcd was set back. The first
    /// one makes it what it remembers, and a new house of it, so that every other node is told too, whatever was written
    /// meanwhile; they join what they find. Answers whether this was the first.
    pub async fn accept(config: EtcdConfig, remembered: Vec<Entry>) -> Result<bool, Error> {
        let known = Mark::read(&config.mark)?.map(|mark| mark.house);
        // Opened as if nothing were known.
        let aside = config.mark.with_extension("aside");
        Mark::remove(&aside)?;
        let store =
            Self::begin(EtcdConfig { mark: aside.clone(), ..config.clone() }, Wanted::Records).await?;
        let first = store.room.accept(known.as_deref(), remembered, &config.mark).await;
        store.close().await;
        Mark::remove(&aside)?;
        first
    }

    /// The same for a node whose daemon runs: it goes on with what is there then.
    pub async fn accept_here(&self, remembered: Vec<Entry>) -> Result<bool, Error> {
        let room = &self.room;
        let first = Self::accept(room.config.clone(), remembered).await?;
        if let Some(mark) = Mark::read(&room.config.mark)? {
            *room.house_id.lock().unwrap_or_else(PoisonError::into_inner) = mark.house;
        }
        room.client.known.forget();
        room.believe_anew.notify_one();
        let begun = tokio::time::timeout_at(room.client.deadline(), room.begun_anew.notified());
        begun.await.map_err(|_| Error::unavailable("etcd did not answer in time"))?;
        Ok(first)
    }

    /// Says that a place is filled: from now on it is opened by everybody.
    pub async fn filled(&self) -> Result<(), Error> {
        self.room.change_state(State::Filling, State::Whole).await
    }

    /// Says that the records have moved out: nobody opens them any more.
    pub async fn left(&self) -> Result<(), Error> {
        self.room.change_state(State::Whole, State::Left).await
    }

    /// How many transactions have written something.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.room.receipts.counters.commits.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Ends all that goes on beside, and waits for it. Dropping it does the same without waiting.
    pub async fn close(self) {
        self.room.closed.cancel();
        self.room.tasks.close();
        self.room.tasks.wait().await;
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.room.closed.cancel();
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("prefix", &self.room.prefix).finish_non_exhaustive()
    }
}

impl Room {
    /// Does something beside, until it is closed.
    fn go(&self, work: impl Future<Output = ()> + Send + 'static) {
        let closed = self.closed.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                () = work => {}
            }
        });
    }

    async fn write(&self, draft: &Draft) -> Result<Wrote, Error> {
        self.receipts.write(&self.client, &self.layout, draft, self.client.deadline()).await
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, Error> {
        if batch.guards.is_empty() && batch.puts.is_empty() && batch.deletes.is_empty() {
            return follow::present(self).await;
        }
        let conditions = batch.guards.iter().map(|guard| match guard {
            Guard::At(key, at) => Condition::Written(self.layout.record(key), *at),
            Guard::Absent(key) => Condition::Written(self.layout.record(key), 0),
            Guard::Claimed(name, number) => Condition::Created(self.layout.ticket(name), *number),
        });
        let conditions = conditions.collect();
        let guards = batch.guards.clone();
        let effects = layer(0, batch).into_iter().map(|(key, entry)| {
            let place = self.layout.record(&key);
            match entry {
                Some(entry) => Effect::Put(place, entry.value, 0),
                None => Effect::Remove(place),
            }
        });
        let draft = Draft { conditions, effects: effects.collect() };
        match self.write(&draft).await? {
            Wrote::Applied { revision, .. } => Ok(revision),
            Wrote::Refused(at) => Err(match at.and_then(|at| guards.get(at)) {
                Some(Guard::At(key, _) | Guard::Absent(key)) => changed(key),
                Some(Guard::Claimed(name, _)) => claim_lost(name.split('\0').next().unwrap_or_default()),
                None => changed("that one of its guards is about"),
            }),
        }
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        let (mut key, range_end) = self.layout.records(prefix, after);
        let mut entries: Vec<Entry> = Vec::new();
        let mut moment = 0;
        while entries.len() < limit {
            let page = limit.saturating_sub(entries.len()).min(PAGE);
            let look = RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit: i64::try_from(page).unwrap_or(i64::MAX),
                revision: moment,
                ..RangeRequest::default()
            };
            let answer = match self.client.ask(&look).await {
                // The moment of the first page was given up while the others were read: all of it again.
                Err(error) if error.kind == Kind::OutOfRange && moment > 0 => {
                    (key, moment) = (self.layout.records(prefix, after).0, 0);
                    entries.clear();
                    continue;
                }
                answer => answer?,
            };
            if moment == 0 {
                moment = answer.header.map_or(0, |header| header.revision);
            }
            if let Some(last) = answer.kvs.last() {
                key = [last.key.as_slice(), &[0]].concat();
            }
            let found = answer.kvs.into_iter();
            entries.extend(found.filter_map(|kv| Some(follow::entry(self.layout.key(&kv.key)?, kv))));
            if !answer.more {
                break;
            }
        }
        Ok(entries)
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn load(&self, key: &str) -> Result<Option<Entry>, Error> {
        if key.is_empty() {
            return Ok(None);
        }
        self.room.is_open().await?;
        let look = RangeRequest { key: self.room.layout.record(key), ..RangeRequest::default() };
        let found = self.room.client.ask(&look).await?.kvs.into_iter().next();
        Ok(found.map(|kv| follow::entry(key.to_owned(), kv)))
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        self.room.is_open().await?;
        self.room.scan(prefix, after, limit).await
    }

    async fn commit(&self, batch: Batch, _: Durability) -> Result<Revision, Error> {
        check(&batch)?;
        self.room.is_open().await?;
        let began = tokio::time::Instant::now();
        let room = Arc::clone(&self.room);
        // A task of its own: whoever stops waiting does not cut it off in the middle.
        let committed = self.room.tasks.spawn(async move { room.commit(batch).await });
        let outcome = committed.await.unwrap_or_else(|cut| {
            Err(Error::unavailable("the store was closed: start kato again").caused_by(cut).pending())
        });
        metrics::histogram!("kato_journal_commit_seconds").record(began.elapsed());
        outcome
    }

    async fn claim(&self, key: &str) -> Result<Box<dyn Claim>, Error> {
        self.room.is_open().await?;
        Ok(Box::new(self.room.claim(key).await?))
    }

    async fn watch_from(&self, prefix: &str, revision: Revision) -> Result<Changes, Error> {
        self.room.is_open().await?;
        if revision == 0 {
            let next = self.room.client.known.seen().max(*self.room.position.borrow());
            return Ok(Changes { events: Vec::new(), next });
        }
        self.room.records.watch_from(prefix, revision).await
    }

    async fn catch_up(&self) -> Result<(), Error> {
        self.room.is_open().await?;
        self.room.catch_up().await
    }

    async fn flush(&self) -> Result<(), Error> {
        // Whatever was answered is durable.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_prints_a_password() {
        let user = User { name: "kato".into(), password: Hidden("hunter2".into()) };
        let tls = Tls { ca: "ca".into(), identity: Some(("cert".into(), Hidden("hunter2".into()))) };
        let told = format!("{user:?} {tls:?}");
        assert!(!told.contains("hunter2") && told.contains("kato"), "{told}");
    }
}
