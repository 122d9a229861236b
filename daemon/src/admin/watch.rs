//! Watching a list: all that is there, then each that changes, one JSON object a line, until the watcher hangs up.
//! The records are read again now and then and compared with what was told, so a watcher sees where things stand
//! and not each step on the way. What a thing looks like is `convert.rs`'s to say.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::IntoResponse,
};
use futures_util::stream;
use kato_orchestrator::{Error, ops::ListPage};
use serde_json::{Value as Json, json};

use super::{
    convert, error,
    routes::{Answer, PAGE_LIMIT},
    server::Door,
};

/// How often a watcher looks for what is new.
const EVERY: Duration = Duration::from_millis(500);

/// What is watched.
#[derive(Clone, Copy, Debug)]
pub(super) enum Noun {
    Volume,
    Snapshot,
}

impl Noun {
    /// What an event calls the thing that it is about.
    fn name(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
        }
    }

    async fn page(self, door: &Door, after: Option<&str>) -> Result<ListPage<Json>, Error> {
        Ok(match self {
            Self::Volume => {
                let ListPage { items, next } = door.hall.list(after, PAGE_LIMIT).await?;
                let wire = |view| convert::volume_to_wire(view, door.hall.node());
                ListPage { items: items.iter().map(wire).collect(), next }
            }
            Self::Snapshot => {
                let ListPage { items, next } = door.hall.list_snapshots(after, PAGE_LIMIT).await?;
                ListPage { items: items.iter().map(convert::snapshot_to_wire).collect(), next }
            }
        })
    }
}

/// What a watcher was told: a number for each thing's whole view, by name.
struct Watcher {
    noun: Noun,
    seen: HashMap<String, u64>,
    ready: VecDeque<Json>,
    began: bool,
}

impl Watcher {
    /// Reads everything again and keeps what is new.
    async fn look(&mut self, door: &Door) -> Result<(), Error> {
        let noun = self.noun.name();
        let mut found = HashMap::with_capacity(self.seen.len());
        let mut after: Option<String> = None;
        loop {
            let ListPage { items, next } = self.noun.page(door, after.as_deref()).await?;
            for wire in items {
                let name = wire.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
                let print = fingerprint(&wire);
                if self.seen.get(&name) != Some(&print) {
                    self.ready.push_back(json!({ "event": "seen", noun: wire }));
                }
                found.insert(name, print);
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        for name in self.seen.keys().filter(|name| !found.contains_key(*name)) {
            self.ready.push_back(json!({ "event": "gone", noun: { "name": name } }));
        }
        self.seen = found;
        Ok(())
    }
}

fn fingerprint(wire: &Json) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(wire.to_string())
}

/// Watches all things of a noun.
pub(super) async fn watch(door: Arc<Door>, noun: Noun) -> Answer {
    let mut watcher = Watcher { noun, seen: HashMap::new(), ready: VecDeque::new(), began: false };
    watcher.look(&door).await?;
    let lines = stream::unfold((watcher, door), |(mut watcher, door)| async move {
        loop {
            if let Some(event) = watcher.ready.pop_front() {
                return Some((Ok::<_, Infallible>(Bytes::from(format!("{event}\n"))), (watcher, door)));
            }
            if !watcher.began {
                // An empty line, so that a watcher of an empty house knows that it is heard.
                watcher.began = true;
                return Some((Ok(Bytes::from_static(b"\n")), (watcher, door)));
            }
            tokio::select! {
                () = door.shutdown.cancelled() => return None,
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(error) = watcher.look(&door).await {
                let line = format!("{}\n", json!({ "event": "failed", "problem": error::to_wire(&error) }));
                tracing::warn!(%error, "a watcher could not be served");
                watcher.ready.clear();
                tokio::time::sleep(EVERY).await;
                return Some((Ok(Bytes::from(line)), (watcher, door)));
            }
        }
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response())
}
