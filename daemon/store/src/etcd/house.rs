//! Whose records these are: one key that is there before the first record and says what the records are.
//!
//! ```text
//! {"house":"<32 hex digits>","schema":1,"state":"whole"}
//! ```
//!
//! *House* is made once and changes when the records are begun anew; nodes keep it on disk (`known.rs`). *Schema* is
//! the newest that a record may be in, so a program that cannot read it is turned away, and it is raised only while
//! everybody who is there can (`members.rs`). *State* says whether the records are all there: somebody who fills the
//! house from another store says *filling* first and *whole* at the end, and what was cut off in between is opened by
//! nobody. *left* says that the records have moved out, to where a person was told.

use kato_orchestrator::{Error, records::SCHEMA};
use serde_json::{Value, json};

use super::{
    Room,
    client::random,
    draft::{Condition, Draft, Effect},
    receipts::Wrote,
    wire::{RangeRequest, revision},
};

/// What the key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct House {
    pub(crate) id: String,
    pub(crate) schema: u16,
    pub(crate) state: State,
}

/// Whether its records are all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Whole,
    Filling,
    Left,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Filling => "filling",
            Self::Left => "left",
        }
    }
}

impl House {
    /// A new one.
    pub(crate) fn new(state: State) -> Self {
        Self { id: format!("{:016x}{:016x}", random(), random()), schema: SCHEMA, state }
    }

    fn text(&self) -> Vec<u8> {
        json!({ "house": self.id, "schema": self.schema, "state": self.state.name() })
            .to_string()
            .into_bytes()
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let state = value.get("state")?.as_str()?;
        let states = [State::Whole, State::Filling, State::Left];
        Some(Self {
            id: value.get("house")?.as_str()?.to_owned(),
            schema: value.get("schema")?.as_u64()?.try_into().ok()?,
            state: states.into_iter().find(|known| known.name() == state)?,
        })
    }

    /// Lets in who can use it.
    pub(crate) fn open(&self, prefix: &str) -> Result<(), Error> {
        if self.schema > SCHEMA {
            return Err(Error::precondition(format!(
                "the records in etcd beneath {prefix} have schema {} and this kato reads up to schema {SCHEMA}: start the \
                 newer kato again; nothing was changed",
                self.schema
            )));
        }
        match self.state {
            State::Whole => Ok(()),
            State::Filling => Err(Error::precondition(format!(
                "the records in etcd beneath {prefix} are not whole: somebody is filling them, or was cut off while at it. \
                 If nobody is, begin again with `kato store migrate --from sled --to etcd --anew`"
            ))),
            State::Left => Err(Error::precondition(format!(
                "the records in etcd beneath {prefix} have moved out, with `kato store migrate --to sled`: use the store \
                 that they moved to, or bring them back with `kato store migrate --from sled --to etcd --anew`"
            ))),
        }
    }
}

impl Room {
    /// What the key says, and when it was written.
    pub(crate) async fn house(&self) -> Result<Option<(House, u64)>, Error> {
        let look = RangeRequest { key: self.layout.house(), ..RangeRequest::default() };
        let answer = self.client.ask(&look).await?;
        let Some(found) = answer.kvs.first() else { return Ok(None) };
        let house = House::parse(&found.value).ok_or_else(|| {
            Error::internal(format!(
                "the key {} in etcd does not say whose records these are: something else lives there, or it is damaged; \
                 choose another store.etcd.prefix, or restore etcd",
                String::from_utf8_lossy(&self.layout.house())
            ))
        })?;
        Ok(Some((house, revision(found.mod_revision))))
    }

    /// Makes the key, where there is nothing at all.
    pub(crate) async fn found_house(&self, house: &House) -> Result<u64, Error> {
        let all = self.layout.everything();
        let look = RangeRequest {
            key: all.0.clone(),
            range_end: all.1.clone(),
            count_only: true,
            ..RangeRequest::default()
        };
        // Receipts are all that a process leaves before it founds something.
        let receipts = self.layout.all_receipts();
        let count = |range: (Vec<u8>, Vec<u8>)| {
            let look = RangeRequest { key: range.0, range_end: range.1, ..look.clone() };
            async move { self.client.ask(&look).await.map(|answer| answer.count) }
        };
        if count(all).await? > count(receipts).await? {
            return Err(Error::precondition(format!(
                "there are keys in etcd beneath {} that are no house of kato's: choose another store.etcd.prefix",
                self.prefix
            )));
        }
        self.write_house(house, 0, Vec::new()).await
    }

    /// Writes the key, if it still is as it was at this revision.
    pub(crate) async fn write_house(
        &self,
        house: &House,
        at: u64,
        conditions: Vec<Condition>,
    ) -> Result<u64, Error> {
        let key = self.layout.house();
        let draft = Draft {
            conditions: [vec![Condition::Written(key.clone(), at)], conditions].concat(),
            effects: vec![Effect::Put(key, house.text(), 0)],
        };
        match self.write(&draft).await? {
            Wrote::Applied { revision, .. } => Ok(revision),
            Wrote::Refused(_) => Err(Error::busy(
                "somebody else began or changed the records in etcd in the same moment: try again",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_house_is_read_as_it_was_written() {
        for state in [State::Whole, State::Filling, State::Left] {
            let house = House::new(state);
            assert_eq!(House::parse(&house.text()), Some(house.clone()));
            assert_eq!(house.open("kato/").is_ok(), state == State::Whole);
        }
        let newer = House { schema: SCHEMA + 1, ..House::new(State::Whole) };
        assert!(newer.open("kato/").unwrap_err().message.contains("newer kato"));
        assert_eq!(House::parse(b"{}"), None);
    }
}
