//! The API, as calls: a path and JSON that goes there and comes back. What changes nothing the second time is sent again
//! where its answer was lost; the rest is sent once, and whoever asked finds out by looking.
//!
//! There is no filter: a thing is found by its token by listing the project. Pages are counted, so a volume that goes
//! while they are read hides another, and a list of several pages is believed when it reads the same twice.

use std::{borrow::Borrow, collections::BTreeMap};

use kato_plugin_sdk::{
    http::{Client, Request, Response, Transport},
    types::{Error, ErrorKind, Which},
};
use serde_json::{Value, json};

use crate::{
    answers::{Attachment, Shot, Volume},
    config::Config,
    error::{self, Refusal},
    json::{at, items},
    marks::{self, Label, Notes},
};

/// What is told in full with a volume.
const INCLUDE: &str = "include=attachments.device,facility,snapshot_policies";
/// How many volumes are asked for on a page: as many as the API allows.
const PAGE: u32 = 1_000;
/// How often a list of several pages is read at most until it is believed.
const READS: u32 = 5;

/// The project at the API, for one call of the host's.
#[derive(Debug)]
pub(crate) struct Cloud<T> {
    client: Client<Paced<T>>,
    pub(crate) config: Config,
    /// When the call came, in milliseconds since 1970.
    pub(crate) now: u64,
}

impl<T: Transport> Cloud<T> {
    pub(crate) fn new(transport: T, config: Config, now: u64) -> Self {
        Self { client: Client::over(Paced { transport, now }), config, now }
    }

    /// Reads, or removes: both may be sent again.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Refusal> {
        self.ask(path, Request::get(self.url(path)))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value, Refusal> {
        self.ask(path, Request::new("DELETE", self.url(path)).idempotent())
    }

    /// Sets what is named, and so may be sent again as well.
    pub(crate) fn patch(&self, path: &str, body: &Value) -> Result<Value, Refusal> {
        let request = Request::new("PATCH", self.url(path)).idempotent();
        self.ask(path, request.body("application/json", body.to_string()))
    }

    /// Makes something: sent once.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Refusal> {
        let request = Request::new("POST", self.url(path));
        self.ask(path, request.body("application/json", body.to_string()))
    }

    fn url(&self, path: &str) -> String {
        // What the metadata service is asked for is a whole address.
        if path.contains("://") { path.to_owned() } else { format!("{}{path}", self.config.base) }
    }

    fn ask(&self, path: &str, request: Request) -> Result<Value, Refusal> {
        let method = request.method.clone();
        let response =
            self.client.send(&request.header("accept", "application/json")).map_err(Refusal::unclear)?;
        if !(200..300).contains(&response.status) {
            return Err(Refusal::of(&method, path, &response));
        }
        if response.body.is_empty() {
            return Ok(Value::Null);
        }
        let json = if error::is_json(&response) { serde_json::from_slice(&response.body).ok() } else { None };
        json.ok_or_else(|| {
            Refusal::unclear(Error::unavailable(format!("the answer to {method} {path} is not JSON")))
        })
    }

    /// All volumes of the project, ours and others', in the order of their ids.
    pub(crate) fn volumes(&self) -> Result<Vec<Volume>, Error> {
        let mut last = Vec::new();
        for _ in 0..READS {
            let (volumes, pages) = self.pages()?;
            let ids: Vec<_> = volumes.keys().cloned().collect();
            if pages == 1 || ids == last {
                return Ok(volumes.into_values().collect());
            }
            last = ids;
        }
        Err(Error::busy("the project's volumes come and go faster than they can be listed"))
    }

    fn pages(&self) -> Result<(BTreeMap<String, Volume>, u32), Error> {
        let mut volumes = BTreeMap::new();
        let mut page = 1;
        loop {
            let path =
                format!("/projects/{}/storage?{INCLUDE}&per_page={PAGE}&page={page}", self.config.project);
            let answer = self.get(&path)?;
            let list =
                at(&answer, "volumes").as_array().ok_or_else(|| error::unread("the list of volumes"))?;
            let before = volumes.len();
            for value in list {
                let volume = Volume::read(value).ok_or_else(|| error::unread("a volume of the list"))?;
                volumes.insert(volume.id.clone(), volume);
            }
            if at(at(&answer, "meta"), "next").is_null() {
                return Ok((volumes, page));
            }
            if volumes.len() == before {
                return Err(error::unread("a list of volumes whose pages never end"));
            }
            page += 1;
        }
    }

    /// A volume, by its id.
    pub(crate) fn volume(&self, id: &str) -> Result<Option<Volume>, Error> {
        let path = format!("/storage/{id}");
        let answer = match self.get(&format!("{path}?{INCLUDE}")) {
            Err(refusal) if refusal.is(ErrorKind::NotFound) => return Ok(None),
            answer => answer?,
        };
        let mut volume = Volume::read(&answer).ok_or_else(|| error::unread("a volume"))?;
        if volume.attachments.iter().any(|one| one.device.is_empty()) {
            let answer = self.get(&format!("{path}/attachments"))?;
            volume.attachments = items(&answer, "attachments").map(Attachment::read).collect();
        }
        Ok(Some(volume))
    }

    /// The volume that is meant.
    pub(crate) fn find(&self, which: &Which) -> Result<Option<Volume>, Error> {
        match marks::volume_id(which)? {
            Some(id) => checked(self.volume(id)?, which),
            None => match of_token(&self.volumes()?, &which.token).first() {
                Some(volume) => checked(self.volume(&volume.id)?, which),
                None => Ok(None),
            },
        }
    }

    /// The same, where it has to be there.
    pub(crate) fn found(&self, which: &Which) -> Result<Volume, Error> {
        self.find(which)?.ok_or_else(|| error::no_volume(&which.token))
    }

    /// The snapshots of a volume, whoever cut them, the oldest first.
    pub(crate) fn shots(&self, volume: &str) -> Result<Vec<Shot>, Error> {
        let answer = match self.get(&format!("/storage/{volume}/snapshots")) {
            Err(refusal) if refusal.is(ErrorKind::NotFound) => return Ok(Vec::new()),
            answer => answer?,
        };
        let list =
            at(&answer, "snapshots").as_array().ok_or_else(|| error::unread("the list of snapshots"))?;
        let mut shots: Vec<_> = list.iter().map(Shot::read).collect();
        shots.sort_by_key(Shot::moment);
        Ok(shots)
    }

    /// Writes a label on a volume.
    pub(crate) fn label(&self, id: &str, label: &Label) -> Result<(), Error> {
        self.patch(&format!("/storage/{id}"), &json!({ "description": label.spell() }))?;
        Ok(())
    }

    /// Writes notes on a volume, and believes that only when it sees them: not every server keeps them.
    pub(crate) fn note(&self, volume: &Volume, notes: &Notes) -> Result<(), Error> {
        let answer =
            self.patch(&format!("/storage/{}", volume.id), &json!({ "customdata": notes.within(volume) }))?;
        let seen = match Volume::read(&answer) {
            None => self.volume(&volume.id)?,
            seen => seen,
        };
        if seen.is_some_and(|seen| seen.notes == *notes) {
            return Ok(());
        }
        Err(Error::unsupported(
            "this cloud keeps no `customdata` on volumes, without which no clone or snapshot can be made safely",
        ))
    }
}

/// A volume that was found by its handle, if its token is the one that was told.
pub(crate) fn checked<V: Borrow<Volume>>(volume: Option<V>, which: &Which) -> Result<Option<V>, Error> {
    match volume.as_ref().map(Borrow::borrow) {
        Some(volume) if volume.token() != Some(&which.token) => {
            Err(error::not_the_tokens("volume", &volume.id, &which.token))
        }
        _ => Ok(volume),
    }
}

/// The volumes of a token. The first one counts: it was made to its end, or else is the oldest.
pub(crate) fn of_token<'a>(volumes: &'a [Volume], token: &str) -> Vec<&'a Volume> {
    let mut found: Vec<_> = volumes.iter().filter(|volume| volume.token() == Some(token)).collect();
    found.sort_by_key(|volume| (!volume.is_whole(), &volume.created, &volume.id));
    found
}

/// A transport that says in `retry-after` what this API says in a header of its own.
#[derive(Debug)]
struct Paced<T> {
    transport: T,
    now: u64,
}

impl<T: Transport> Transport for Paced<T> {
    fn send(&self, request: &Request) -> Result<Response, Error> {
        let mut response = self.transport.send(request)?;
        let reset = response.header("x-ratelimit-reset").and_then(|text| text.trim().parse::<u64>().ok());
        let unsaid = response.status == 429 && response.header("retry-after").is_none();
        if let Some(reset) = reset.filter(|_| unsaid) {
            let seconds = reset.saturating_sub(self.now / 1_000).max(1);
            response.headers.push(("retry-after".to_owned(), seconds.to_string()));
        }
        Ok(response)
    }

    fn wait(&self, ms: u64) {
        self.transport.wait(ms);
    }
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a component has no other clock than WASI's")]
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
