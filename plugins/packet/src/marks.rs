//! What is written at the cloud, so that nothing has to be remembered here. There is no idempotency key and no tag: a
//! volume has a description and `customdata`, a snapshot nothing.
//!
//! ```text
//! description   {"name":"db","kato":"kato-1f0c","mark":"k1:…","id":"5a0f3c71-…"}
//!                what its owner calls it, the creation token, what the host wrote; and its own id, once it is made to its end
//! customdata    {"kato":{"id":"5a0f3c71-…","doing":{…},"snapshots":{"1d2c3b4a-…":{…}}}}
//!                the volume that it is written for; the copy of it that is being made; which of its snapshots are ours
//! ```
//!
//! A clone may begin with what is written on its source, as nobody says that it does not. That is why the ids are there:
//! what names another volume was written for that one. And what is being made carries its token without an id, so that a
//! second one of the same token, of a request whose answer was lost, can be told from one that somebody has.

use std::collections::BTreeMap;

use kato_plugin_sdk::types::{Error, Pending, Which};
use serde_json::{Value, json};

use crate::{
    answers::{Shot, Volume},
    error,
    json::{at, is_id, number, text},
    poll,
};

/// The longest name that is written.
const NAME: usize = 64;
/// How long a request that was lost may still come true.
pub(crate) const SETTLE_MS: u64 = 20_000;
/// When a copy is given up that nobody asks about any more.
const STALE_MS: u64 = 3_600_000;

/// What a volume's description says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) token: String,
    pub(crate) mark: String,
    pub(crate) name: String,
    /// Empty while it is being made.
    pub(crate) id: String,
}

impl Label {
    pub(crate) fn new(token: &str, mark: &str, name: &str) -> Self {
        let name = name.chars().take(NAME).collect();
        Self { token: token.to_owned(), mark: mark.to_owned(), name, id: String::new() }
    }

    pub(crate) fn read(description: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(description).ok()?;
        let token = Some(text(&value, "kato")).filter(|token| !token.is_empty())?;
        Some(Self { token, mark: text(&value, "mark"), name: text(&value, "name"), id: text(&value, "id") })
    }

    pub(crate) fn spell(&self) -> String {
        let Self { token, mark, name, id } = self;
        json!({ "name": name, "kato": token, "mark": mark, "id": id }).to_string()
    }
}

/// What a volume's customdata says of its copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    pub(crate) doing: Option<Doing>,
    /// By their ids.
    pub(crate) snapshots: BTreeMap<String, Note>,
}

/// A copy that was or is about to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Doing {
    /// Of the clone or the snapshot.
    pub(crate) token: String,
    /// What was there before and so is another: the ids of clones that nobody wrote on, or the moment of the newest
    /// snapshot.
    pub(crate) before: String,
    /// When it was asked for, in milliseconds since 1970.
    pub(crate) at: u64,
}

/// A snapshot of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) token: String,
    pub(crate) mark: String,
    /// How large the volume was.
    pub(crate) gib: u64,
}

impl Doing {
    /// Whether what was asked for may still come to be, although nobody sees it.
    pub(crate) fn may_come(&self, now: u64) -> bool {
        now < self.at.saturating_add(SETTLE_MS)
    }
}

impl Notes {
    /// Those on a volume, unless they were written for another.
    pub(crate) fn of(id: &str, customdata: &Value) -> Self {
        let kato = at(customdata, "kato");
        if text(kato, "id") != id {
            return Self::default();
        }
        let doing = at(kato, "doing");
        let doing = doing.is_object().then(|| Doing {
            token: text(doing, "token"),
            before: text(doing, "before"),
            at: number(doing, "at"),
        });
        let note = |value: &Value| Note {
            token: text(value, "token"),
            mark: text(value, "mark"),
            gib: number(value, "gib"),
        };
        let snapshots = at(kato, "snapshots").as_object().into_iter().flatten();
        Self { doing, snapshots: snapshots.map(|(id, value)| (id.clone(), note(value))).collect() }
    }

    /// The customdata with these in it. What others wrote there stays.
    pub(crate) fn within(&self, volume: &Volume) -> Value {
        let doing = self.doing.as_ref();
        let doing = doing.map(|one| json!({ "token": one.token, "before": one.before, "at": one.at }));
        let note = |note: &Note| json!({ "token": note.token, "mark": note.mark, "gib": note.gib });
        let snapshots: BTreeMap<_, _> = self.snapshots.iter().map(|(id, one)| (id, note(one))).collect();
        let mut all = volume.customdata.as_object().cloned().unwrap_or_default();
        all.insert("kato".into(), json!({ "id": volume.id, "doing": doing, "snapshots": snapshots }));
        Value::Object(all)
    }

    /// The copy that is being made for a token.
    pub(crate) fn doing_for(&self, token: &str) -> Option<&Doing> {
        self.doing.as_ref().filter(|doing| doing.token == token)
    }

    /// The same; `pending` where it is another's turn.
    pub(crate) fn turn(&self, token: &str, now: u64) -> Result<Option<&Doing>, Pending> {
        match &self.doing {
            Some(doing) if doing.token == token => Ok(Some(doing)),
            Some(other) if now < other.at.saturating_add(STALE_MS) => {
                Err(poll::pending("waiting", format!("waiting for another copy of it ({})", other.token)))
            }
            _ => Ok(None),
        }
    }
}

/// The id in a volume's handle, if there is one.
pub(crate) fn volume_id(which: &Which) -> Result<Option<&str>, Error> {
    match which.handle.as_deref() {
        Some(handle) if !is_id(handle) => Err(error::not_the_tokens("volume", handle, &which.token)),
        handle => Ok(handle),
    }
}

/// The handle of a snapshot: its volume's id and its own.
pub(crate) fn snapshot_handle(volume: &Volume, shot: &Shot) -> String {
    format!("{}/{}", volume.id, shot.id)
}

/// The two ids in a snapshot's handle, if there is one.
pub(crate) fn snapshot_ids(which: &Which) -> Result<Option<(&str, &str)>, Error> {
    let Some(handle) = which.handle.as_deref() else { return Ok(None) };
    match handle.split_once('/') {
        Some((volume, id)) if is_id(volume) && is_id(id) => Ok(Some((volume, id))),
        _ => Err(error::not_the_tokens("snapshot", handle, &which.token)),
    }
}
