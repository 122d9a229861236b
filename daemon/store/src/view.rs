//! What readers see of the store on sled, layer upon layer.
//!
//! ```text
//!   pending   what the group at work has written: seen by nobody (the store's thread has it, `sled.rs`)
//!   hidden    instead of what sled has been given and is not durable yet: as it was before
//!   fresh     lazy commits that sled does not have yet
//!   sled      the rest
//! ```
//!
//! A reader that acted on a record which a power cut then takes back would have acted without a record. So
//! what must be durable is given to sled behind *hidden* and shown when it is synced; what may be lost is shown
//! at once.

use std::{collections::BTreeMap, ops::Bound, path::Path};

use kato_orchestrator::{
    Error,
    ports::store::{Entry, Revision},
};

use crate::{
    committer::Layer,
    frame,
    sled::{Opened, closed, unreadable},
};

/// What readers see.
pub(crate) struct View {
    /// Nothing only while it is opened again.
    opened: Option<Opened>,
    fresh: Layer,
    hidden: Layer,
}

impl View {
    /// A view of an engine that was just opened.
    pub(crate) fn over(opened: Opened) -> Self {
        Self { opened: Some(opened), fresh: Layer::default(), hidden: Layer::default() }
    }

    /// The engine, unless it is being opened again.
    pub(crate) fn opened(&self) -> Option<&Opened> {
        self.opened.as_ref()
    }

    /// Closes the engine.
    pub(crate) fn close(&mut self) {
        self.opened = None;
    }

    /// Takes one that was opened again.
    pub(crate) fn reopen(&mut self, opened: Opened) {
        self.opened = Some(opened);
    }

    /// The revision of a key that sled does not have yet. Nothing if sled knows better.
    pub(crate) fn fresh(&self, key: &str) -> Option<Option<Revision>> {
        let entry = self.fresh.get(key)?;
        Some(entry.as_ref().map(|entry| entry.revision))
    }

    /// What sled does not have yet, with these on top.
    pub(crate) fn unwritten(&self, pending: &Layer) -> Layer {
        let mut layer = self.fresh.clone();
        layer.extend(pending.iter().map(|(key, entry)| (key.clone(), entry.clone())));
        layer
    }

    /// Keeps what readers are to see of these keys until they are published.
    pub(crate) fn hide(&mut self, path: &Path, pending: &Layer) -> Result<(), Error> {
        for key in pending.keys() {
            if self.hidden.contains_key(key) {
                continue;
            }
            let seen = match self.load(path, key) {
                // A damaged record is replaced or removed all the same; readers see nothing meanwhile.
                Err(error) if !error.subject.is_empty() => None,
                seen => seen?,
            };
            self.hidden.insert(key.clone(), seen);
        }
        Ok(())
    }

    /// Sled has everything now.
    pub(crate) fn written(&mut self) {
        self.fresh.clear();
    }

    /// Shows what was written, and these, which sled does not have.
    pub(crate) fn publish(&mut self, pending: Layer) {
        self.hidden.clear();
        self.fresh.extend(pending);
    }

    /// One entry.
    pub(crate) fn load(&self, path: &Path, key: &str) -> Result<Option<Entry>, Error> {
        if let Some(seen) = self.hidden.get(key).or_else(|| self.fresh.get(key)) {
            return Ok(seen.clone());
        }
        let opened = self.opened.as_ref().ok_or_else(|| closed(path))?;
        match opened.records.get(key).map_err(|error| unreadable(path, error))? {
            Some(value) => frame::unpack(key.as_bytes(), &value).map(Some),
            None => Ok(None),
        }
    }

    /// The first entries beneath a prefix, after a key.
    pub(crate) fn scan(
        &self,
        path: &Path,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let opened = self.opened.as_ref().ok_or_else(|| closed(path))?;
        let mut entries = Vec::new();
        for item in opened.records.range::<&str, _>((from, Bound::Unbounded)) {
            if entries.len() >= limit {
                break;
            }
            let (key, value) = item.map_err(|error| unreadable(path, error))?;
            if key.is_empty() {
                continue;
            }
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            let above = |key| self.hidden.contains_key(key) || self.fresh.contains_key(key);
            if std::str::from_utf8(&key).is_ok_and(above) {
                continue;
            }
            entries.push(frame::unpack(&key, &value)?);
        }
        // The first `limit` of all layers are among the first `limit` of the lowest and all of the others.
        let mut above: BTreeMap<&str, &Option<Entry>> = BTreeMap::new();
        for layer in [&self.fresh, &self.hidden] {
            let beneath = layer.range::<str, _>((from, Bound::Unbounded));
            let beneath = beneath.take_while(|(key, _)| key.starts_with(prefix));
            above.extend(beneath.map(|(key, seen)| (key.as_str(), seen)));
        }
        if !above.is_empty() {
            entries.extend(above.into_values().filter_map(Clone::clone));
            entries.sort_unstable_by(|one, other| one.key.cmp(&other.key));
            entries.truncate(limit);
        }
        Ok(entries)
    }
}
