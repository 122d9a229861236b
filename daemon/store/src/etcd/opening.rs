//! Opening the records: whether they are the ones that this node knows, whose they are, what earlier processes of this
//! node left; and what a person decides about records that were set back. Where etcd is away at the start of a node that
//! had them open before, all of it is done later, and whoever asks waits for that.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kato_orchestrator::{
    Error, Kind,
    ports::store::{Entry, Key},
};
use tokio::sync::mpsc;

use super::{
    EtcdConfig, Room, Wanted, claims,
    draft::{Condition, Draft, Effect},
    follow,
    house::{House, State},
    known::{Mark, other_house, witness_gone},
    receipts::Wrote,
    tidy,
    wire::{RangeRequest, revision},
};

/// When records that could not be opened are tried again.
const OPENED_AGAIN: Duration = Duration::from_secs(1);

/// What is done before anybody is answered.
pub(super) struct Opening {
    pub(super) config: EtcdConfig,
    /// What was known of the cluster before.
    pub(super) mark: Option<Mark>,
    pub(super) given: Mutex<Option<mpsc::UnboundedReceiver<Vec<u8>>>>,
}

impl Opening {
    pub(super) async fn open(&self, room: &Arc<Room>, wanted: Wanted) -> Result<(), Error> {
        room.recognise(self.mark.as_ref()).await?;
        let house = room.enter(wanted, self.mark.as_ref()).await?;
        *room.house_id.lock().unwrap_or_else(PoisonError::into_inner) = house.id;
        // A witness of this process, known before those of the processes before go.
        room.write(&Draft::default()).await?;
        if let Some(mark) = room.mark() {
            mark.keep(&self.config.mark)?;
        }
        room.clear_away().await?;
        let now = follow::present(room).await?;
        room.records.begin_at(now);
        room.nodes.begin_at(now);
        room.position.send_replace(now);
        room.go(follow::follow(Arc::clone(room), now));
        if let Some(given) = self.given.lock().unwrap_or_else(PoisonError::into_inner).take() {
            room.tasks.spawn(claims::give_back(Arc::clone(room), given));
        }
        room.tasks.spawn(tidy::keep_mark(Arc::clone(room)));
        room.go(tidy::look_into_doubts(Arc::clone(room)));
        if let Some(round) = tidy::round(&self.config) {
            room.go(tidy::compact(Arc::clone(room), round));
        }
        room.opened.send_replace(true);
        Ok(())
    }

    /// Whether records that could not be opened may come right while the daemon runs: they were open before, and etcd is
    /// away, or a person has to decide what to believe.
    pub(super) fn may_come_right(&self, room: &Room, error: &Error) -> bool {
        self.mark.is_some() && (error.kind == Kind::Unavailable || room.client.known.check().is_err())
    }

    pub(super) async fn open_when_possible(mut self, room: &Arc<Room>) {
        loop {
            if let Err(refused) = room.client.known.check() {
                tracing::debug!(error = %refused, "waiting for somebody who says what to believe");
                room.believe_anew.notified().await;
                self.mark = None;
            }
            match self.open(room, Wanted::Records).await {
                Ok(()) => {
                    tracing::info!("the records in etcd are open");
                    return room.begun_anew.notify_one();
                }
                Err(error) => tracing::warn!(%error, "the records in etcd cannot be opened yet, trying on"),
            }
            tokio::time::sleep(OPENED_AGAIN).await;
        }
    }
}

impl Room {
    /// Waits until the records are open, for as long as a caller does.
    pub(super) async fn is_open(&self) -> Result<(), Error> {
        let mut opened = self.opened.subscribe();
        if *opened.borrow() {
            return Ok(());
        }
        self.client.known.check()?;
        match tokio::time::timeout_at(self.client.deadline(), opened.wait_for(|opened| *opened)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::unavailable(
                "the records in etcd are not open yet: see whether a majority of its members is there",
            )),
        }
    }

    /// Whether the cluster is the one that this node knows.
    async fn recognise(&self, mark: Option<&Mark>) -> Result<(), Error> {
        // Its answer is compared with what is known.
        follow::present(self).await.map_err(|error| self.hinted(error))?;
        if let Some((key, written)) = mark.and_then(|mark| mark.witness.as_ref()) {
            let look = RangeRequest { key: key.clone().into_bytes(), ..RangeRequest::default() };
            let found = self.client.ask(&look).await?;
            if found.kvs.first().map_or(0, |found| revision(found.mod_revision)) < *written {
                return Err(self.client.known.refuse(witness_gone(*written)));
            }
        }
        Ok(())
    }

    /// Whose records these are, and whether they are what is wanted.
    async fn enter(&self, wanted: Wanted, mark: Option<&Mark>) -> Result<House, Error> {
        let found = self.house().await?;
        if let (Wanted::Records, Some(mark), Some((house, _))) = (wanted, mark, &found)
            && mark.house != house.id
        {
            return Err(self.client.known.refuse(other_house(&mark.house, &house.id)));
        }
        match (wanted, found) {
            (Wanted::Records, Some((house, _))) => {
                house.open(&self.prefix)?;
                Ok(house)
            }
            (Wanted::Records, None) => self.found(State::Whole).await,
            (Wanted::Place { .. }, None) => self.found(State::Filling).await,
            (Wanted::Place { anew: false }, Some((house, _))) if house.state != State::Whole => {
                house.open(&self.prefix)?;
                Ok(house)
            }
            (Wanted::Place { .. }, Some((house, at))) => {
                let (key, range_end) = self.layout.records("", None);
                let look = RangeRequest {
                    key: key.clone(),
                    range_end: range_end.clone(),
                    count_only: true,
                    ..RangeRequest::default()
                };
                let records = self.client.ask(&look).await?.count;
                if house.state == State::Whole && records > 0 {
                    return Err(Error::precondition(format!(
                        "there are {records} records in etcd beneath {} already: choose another store.etcd.prefix, or \
                         remove them by hand when nobody needs them",
                        self.prefix
                    )));
                }
                let begun = House::new(State::Filling);
                let draft = Draft {
                    conditions: vec![Condition::Written(self.layout.house(), at)],
                    effects: vec![Effect::RemoveAll(key, range_end)],
                };
                if let Wrote::Refused(_) = self.write(&draft).await? {
                    return Err(Error::busy(
                        "somebody else changed the records in etcd in the same moment: try again",
                    ));
                }
                self.write_house(&begun, at, Vec::new()).await?;
                Ok(begun)
            }
        }
    }

    pub(super) async fn accept(
        &self,
        known: Option<&str>,
        remembered: Vec<Entry>,
        mark: &std::path::Path,
    ) -> Result<bool, Error> {
        let (mut house, at) = self.house().await?.ok_or_else(|| {
            Error::precondition("there are no records in etcd beneath this prefix: start without any, then run `kato recover --scan`")
        })?;
        let first = known == Some(house.id.as_str());
        if first {
            // Nobody else believes them before they belong to another house.
            self.restore(remembered).await?;
            house.id = House::new(State::Whole).id;
            self.write_house(&house, at, Vec::new()).await?;
        }
        self.write(&Draft::default()).await?;
        house.id.clone_into(&mut self.house_id.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(known) = self.mark() {
            known.keep(mark)?;
        }
        Ok(first)
    }

    /// Makes the records what is remembered of them; where nothing is, they stay.
    async fn restore(&self, remembered: Vec<Entry>) -> Result<(), Error> {
        /// What fits into one transaction.
        const AT_ONCE: usize = 32;
        if remembered.is_empty() {
            return Ok(());
        }
        let mut changes = Vec::new();
        let mut there: BTreeMap<Key, Vec<u8>> = self
            .scan("", None, usize::MAX)
            .await?
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect();
        for Entry { key, value, .. } in remembered {
            if there.remove(&key).as_ref() != Some(&value) {
                changes.push(Effect::Put(self.layout.record(&key), value, 0));
            }
        }
        changes.extend(there.into_keys().map(|key| Effect::Remove(self.layout.record(&key))));
        while !changes.is_empty() {
            let rest = changes.split_off(changes.len().min(AT_ONCE));
            let effects = std::mem::replace(&mut changes, rest);
            self.write(&Draft { conditions: Vec::new(), effects }).await?;
        }
        Ok(())
    }

    async fn found(&self, state: State) -> Result<House, Error> {
        let house = House::new(state);
        match self.found_house(&house).await {
            Ok(_) => Ok(house),
            // Several hosts begin at once.
            Err(error) if error.kind == Kind::Busy && state == State::Whole => {
                let (house, _) = self.house().await?.ok_or(error)?;
                house.open(&self.prefix)?;
                Ok(house)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn change_state(&self, from: State, to: State) -> Result<(), Error> {
        let found = self.house().await?.filter(|(house, _)| house.state == from);
        let (house, at) = found.ok_or_else(|| {
            Error::precondition(
                "the records in etcd were changed by somebody else meanwhile: look at them again",
            )
        })?;
        self.write_house(&House { state: to, ..house }, at, Vec::new()).await.map(drop)
    }

    /// Removes what earlier processes of this node left: one has ended before the next may begin.
    async fn clear_away(&self) -> Result<(), Error> {
        let (key, range_end) = self.layout.receipts(&self.node);
        let own = self.receipts.witness().map(|(key, _)| key);
        let look = RangeRequest { key, range_end, keys_only: true, ..RangeRequest::default() };
        let answer = self.client.ask(&look).await?;
        let process =
            own.and_then(|key| Some(key.get(..key.iter().rposition(|byte| *byte == b'/')?)?.to_vec()));
        let theirs = |key: &Vec<u8>| process.as_ref().is_none_or(|process| !key.starts_with(process));
        let mut old: Vec<_> = answer.kvs.into_iter().map(|kv| kv.key).filter(theirs).collect();
        let (key, range_end) = self.layout.all_queues();
        let answer = self.client.ask(&RangeRequest { key, range_end, ..RangeRequest::default() }).await?;
        old.extend(answer.kvs.into_iter().filter(|kv| kv.value == self.node.as_bytes()).map(|kv| kv.key));
        self.remove(&old).await
    }

    /// What nobody says who ends a connection because he wants to know who is there.
    fn hinted(&self, mut error: Error) -> Error {
        let is_nameless = self.config.tls.as_ref().is_some_and(|tls| tls.identity.is_none());
        if is_nameless && error.kind == Kind::Unavailable {
            error
                .message
                .push_str("; a member that wants a certificate of this node needs store.etcd.tls.cert");
        }
        error
    }
}
