//! EC2's Query API, as calls: a form that is posted, and XML that comes back. Every look and every change is one request.
//! Nothing here signs: the host does, on the way out, for the region that it was granted for.
//!
//! Looks name what they look for by filters and not by ids: a filter passes over what is not there, an id that is unknown
//! fails the whole request. A look may be some seconds behind what was done; who draws conclusions from absence knows that.

use kato_plugin_sdk::{
    http::{Request, Response, Transport},
    types::{Error, ErrorKind, Which},
};

use crate::{
    answers::{Change, Disk, Feeling, Machine, Shot},
    config::Config,
    error::{self, Refusal},
    tags,
    xml::Element,
};

/// The version of the API.
const VERSION: &str = "2016-11-15";
/// How often a request is sent at most that does the same when it is sent twice.
const ATTEMPTS: u32 = 3;
/// The wait before the second time; it doubles.
const WAIT_MS: u64 = 200;
/// How many values one filter takes.
const VALUES: usize = 200;
/// How many things are asked for on a page.
const PAGE: &str = "500";
/// How many pages belong to one question at most.
const PAGES: usize = 100;

/// EC2 in the granted region, for one call of the host's.
#[derive(Debug)]
pub(crate) struct Cloud<T> {
    transport: T,
    pub(crate) config: Config,
    /// When the call came, in milliseconds since 1970.
    pub(crate) now: u64,
}

/// A request that is put together.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    action: &'static str,
    fields: Vec<(String, String)>,
    filters: usize,
    /// Whether sending it twice does what sending it once does.
    again: bool,
}

impl Call {
    /// One that only looks.
    pub(crate) fn look(action: &'static str) -> Self {
        Self { again: true, ..Self::change(action) }
    }

    /// One that changes something.
    pub(crate) fn change(action: &'static str) -> Self {
        let fields =
            vec![("Action".to_owned(), action.to_owned()), ("Version".to_owned(), VERSION.to_owned())];
        Self { action, fields, filters: 0, again: false }
    }

    /// The same, which may be sent again.
    pub(crate) fn idempotent(mut self) -> Self {
        self.again = true;
        self
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn with_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(crate) fn list(mut self, name: &str, values: &[&str]) -> Self {
        for (value, number) in values.iter().zip(1..) {
            self = self.with(&format!("{name}.{number}"), value);
        }
        self
    }

    pub(crate) fn filter(mut self, name: &str, values: &[&str]) -> Self {
        self.filters += 1;
        let filter = format!("Filter.{}", self.filters);
        self.with(&format!("{filter}.Name"), name).list(&format!("{filter}.Value"), values)
    }

    /// Tags on what is made.
    pub(crate) fn tagged(self, kind: &str, tags: &[(String, String)]) -> Self {
        self.with("TagSpecification.1.ResourceType", kind).tags("TagSpecification.1.Tag", tags)
    }

    pub(crate) fn tags(mut self, prefix: &str, tags: &[(String, String)]) -> Self {
        for ((key, value), number) in tags.iter().zip(1..) {
            self = self
                .with(&format!("{prefix}.{number}.Key"), key)
                .with(&format!("{prefix}.{number}.Value"), value);
        }
        self
    }
}

impl<T: Transport> Cloud<T> {
    pub(crate) fn new(transport: T, config: Config, now: u64) -> Self {
        Self { transport, config, now }
    }

    /// Sends a request, and again where that is safe. What asks for fewer requests gets none at once.
    pub(crate) fn ask(&self, call: &Call) -> Result<Element, Refusal> {
        let fields = call.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let request = Request::new("POST", format!("{}/", self.config.ec2)).form(fields);
        self.attempts(call.again, || self.once(call.action, &request))
    }

    /// Tries once, and again where that is safe and nobody knows what became of it.
    pub(crate) fn attempts<V>(
        &self,
        again: bool,
        once: impl Fn() -> Result<V, Refusal>,
    ) -> Result<V, Refusal> {
        let mut wait = WAIT_MS;
        for _ in 1..ATTEMPTS {
            match once() {
                Err(refusal) if again && refusal.is_unclear() => {
                    if refusal.error.kind != ErrorKind::Unavailable {
                        return Err(refusal);
                    }
                }
                answer => return answer,
            }
            self.wait(wait);
            wait *= 2;
        }
        once()
    }

    /// Waits a moment.
    pub(crate) fn wait(&self, ms: u64) {
        self.transport.wait(ms);
    }

    /// Sends a request as it is.
    pub(crate) fn send(&self, request: &Request) -> Result<Response, Refusal> {
        self.transport.send(request).map_err(Refusal::unclear)
    }

    fn once(&self, action: &str, request: &Request) -> Result<Element, Refusal> {
        let Response { status, body, .. } = self.send(request)?;
        let root = Element::read(&body);
        if (200..300).contains(&status) {
            return root.ok_or_else(|| Refusal::unclear(unread(action, &body)));
        }
        let said = root.as_ref().and_then(|root| root.child("Errors")?.child("Error"));
        let code = said.map(|said| said.word("Code")).unwrap_or_default();
        let message = said.map(|said| said.word("Message")).unwrap_or_default();
        let message = if message.is_empty() { format!("it answered {status}") } else { message };
        Err(Refusal::of(action, status, &code, &message))
    }

    /// All that a look finds, page by page.
    fn all<V>(&self, call: Call, list: &str, read: impl Fn(&Element) -> Option<V>) -> Result<Vec<V>, Error> {
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..PAGES {
            let answer = self.ask(&call.clone().with_some("NextToken", next))?;
            for item in answer.items(list) {
                found.push(read(item).ok_or_else(|| unread(call.action, format!("{item:?}").as_bytes()))?);
            }
            next = answer.text("nextToken").map(str::to_owned);
            if next.is_none() {
                return Ok(found);
            }
        }
        Err(Error::internal(format!("{} goes on for more than {PAGES} pages", call.action)))
    }

    /// One page of what a look finds, and the way to the next.
    fn page<V>(
        &self,
        call: Call,
        page: Option<&str>,
        list: &str,
        read: impl Fn(&Element) -> Option<V>,
    ) -> Result<(Vec<V>, Option<String>), Error> {
        let action = call.action;
        let answer = self.ask(&call.with("MaxResults", PAGE).with_some("NextToken", page))?;
        let found: Option<Vec<_>> = answer.items(list).map(read).collect();
        let found = found.ok_or_else(|| unread(action, b""))?;
        Ok((found, answer.text("nextToken").map(str::to_owned)))
    }

    /// What a filter of these values finds, in as many questions as it takes.
    fn by<V>(
        &self,
        action: &'static str,
        filter: &str,
        values: &[&str],
        list: &str,
        read: fn(&Element) -> Option<V>,
    ) -> Result<Vec<V>, Error> {
        let mut found = Vec::new();
        for some in values.chunks(VALUES) {
            found.extend(self.all(owned(Call::look(action)).filter(filter, some), list, read)?);
        }
        Ok(found)
    }

    /// The volumes with these ids that can be seen.
    pub(crate) fn disks(&self, ids: &[&str]) -> Result<Vec<Disk>, Error> {
        self.by("DescribeVolumes", "volume-id", ids, "volumeSet", Disk::read)
    }

    pub(crate) fn disk(&self, id: &str) -> Result<Option<Disk>, Error> {
        Ok(self.disks(&[id])?.into_iter().find(|disk| disk.id == id))
    }

    /// The volumes that carry these tokens: those that can be used first, then the older ones.
    pub(crate) fn disks_of(&self, tokens: &[&str]) -> Result<Vec<Disk>, Error> {
        let filter = format!("tag:{}", tags::TOKEN);
        let mut disks = self.by("DescribeVolumes", &filter, tokens, "volumeSet", Disk::read)?;
        disks.sort_by(|one, other| {
            let rank = |disk: &Disk| (!disk.is_good(), !disk.is_there());
            rank(one).cmp(&rank(other)).then_with(|| one.made.cmp(&other.made))
        });
        Ok(disks)
    }

    /// The volumes that are meant, in the order of the question: nothing for those that are not there.
    pub(crate) fn find_all(&self, which: &[Which]) -> Result<Vec<Option<Disk>>, Error> {
        if which.len() > 100 {
            return Err(error::too_many("volumes", which.len()));
        }
        let mut ids = Vec::new();
        let mut tokens = Vec::new();
        for which in which {
            match tags::id(which, "vol", "volume")? {
                Some(id) => ids.push(id),
                None => tokens.push(which.token.as_str()),
            }
        }
        let by_id = self.disks(&ids)?;
        let by_token = self.disks_of(&tokens)?;
        which
            .iter()
            .map(|which| {
                let found = match &which.handle {
                    Some(handle) => by_id.iter().find(|disk| disk.id == *handle),
                    None => by_token.iter().find(|disk| disk.token() == which.token),
                };
                let found = found.filter(|disk| disk.is_there());
                match found {
                    Some(disk) if disk.token() != which.token => {
                        Err(error::not_the_tokens("volume", &disk.id, &which.token))
                    }
                    found => Ok(found.cloned()),
                }
            })
            .collect()
    }

    pub(crate) fn find(&self, which: &Which) -> Result<Option<Disk>, Error> {
        Ok(self.find_all(std::slice::from_ref(which))?.into_iter().next().flatten())
    }

    /// The id of a volume that is meant: its handle, or what its token finds.
    pub(crate) fn id_of(&self, which: &Which) -> Result<Option<String>, Error> {
        match tags::id(which, "vol", "volume")? {
            Some(id) => Ok(Some(id.to_owned())),
            None => Ok(self.find(which)?.map(|disk| disk.id)),
        }
    }

    /// A page of all volumes that carry a token.
    pub(crate) fn disk_page(&self, page: Option<&str>) -> Result<(Vec<Disk>, Option<String>), Error> {
        let call = Call::look("DescribeVolumes").filter("tag-key", &[tags::TOKEN]);
        self.page(call, page, "volumeSet", Disk::read)
    }

    /// The last changes of these volumes.
    pub(crate) fn changes(&self, ids: &[&str]) -> Result<Vec<Change>, Error> {
        self.by("DescribeVolumesModifications", "volume-id", ids, "volumeModificationSet", Change::read)
    }

    pub(crate) fn last_change(&self, id: &str) -> Result<Option<Change>, Error> {
        Ok(self.changes(&[id])?.into_iter().find(|change| change.volume == id))
    }

    /// The snapshots with these ids that can be seen.
    pub(crate) fn shots(&self, ids: &[&str]) -> Result<Vec<Shot>, Error> {
        let mut shots = self.by("DescribeSnapshots", "snapshot-id", ids, "snapshotSet", Shot::read)?;
        shots.retain(Shot::is_there);
        Ok(shots)
    }

    /// The snapshots that carry these tokens, the oldest first.
    pub(crate) fn shots_of(&self, tokens: &[&str]) -> Result<Vec<Shot>, Error> {
        let filter = format!("tag:{}", tags::TOKEN);
        let mut shots = self.by("DescribeSnapshots", &filter, tokens, "snapshotSet", Shot::read)?;
        shots.retain(Shot::is_there);
        shots.sort_by(|one, other| one.started.cmp(&other.started));
        Ok(shots)
    }

    /// A page of all snapshots that carry a token.
    pub(crate) fn shot_page(&self, page: Option<&str>) -> Result<(Vec<Shot>, Option<String>), Error> {
        let call = owned(Call::look("DescribeSnapshots")).filter("tag-key", &[tags::TOKEN]);
        self.page(call, page, "snapshotSet", Shot::read)
    }

    /// A machine; nothing where there is none of this id, or has been none for an hour.
    pub(crate) fn machine(&self, id: &str) -> Result<Option<Machine>, Error> {
        let call = Call::look("DescribeInstances").filter("instance-id", &[id]);
        let found = self.all(call, "reservationSet", |element| Some(Machine::read(element).next()))?;
        Ok(found.into_iter().flatten().next())
    }

    /// How these volumes feel. All of them have to be there.
    pub(crate) fn feelings(&self, ids: &[&str]) -> Result<Vec<Feeling>, Error> {
        // The only look of these that has no filter for ids, so it fails as a whole where one went meanwhile.
        let busy = |error: Error| match error.kind {
            ErrorKind::NotFound => Error::busy(error.message).detail(error.detail),
            _ => error,
        };
        self.all(Call::look("DescribeVolumeStatus").list("VolumeId", ids), "volumeStatusSet", Feeling::read)
            .map_err(busy)
    }

    /// The number of the account, read off something that belongs to it.
    pub(crate) fn account(&self) -> Result<Option<String>, Error> {
        let ours = owned(Call::look("DescribeSnapshots")).filter("tag-key", &[tags::TOKEN]);
        match self.owner(Call::look("DescribeInstances"), "reservationSet")? {
            None => self.owner(ours, "snapshotSet"),
            account => Ok(account),
        }
    }

    /// Whose the first thing is that a look finds. A page may be empty, and another follow.
    fn owner(&self, call: Call, list: &str) -> Result<Option<String>, Error> {
        let mut next: Option<String> = None;
        for _ in 0..PAGES {
            let answer = self.ask(&call.clone().with("MaxResults", 5).with_some("NextToken", next))?;
            let owner = answer.items(list).map(|item| item.word("ownerId")).find(|owner| !owner.is_empty());
            next = answer.text("nextToken").map(str::to_owned);
            if owner.is_some() || next.is_none() {
                return Ok(owner);
            }
        }
        Ok(None)
    }
}

/// The same look, at what belongs to the account: everybody sees the snapshots that are public.
fn owned(call: Call) -> Call {
    if call.action == "DescribeSnapshots" { call.with("Owner.1", "self") } else { call }
}

fn unread(action: &str, answer: &[u8]) -> Error {
    let start = answer.get(..300).unwrap_or(answer);
    Error::internal(format!("EC2's answer to {action} cannot be read: is the endpoint one of EC2's?"))
        .detail(String::from_utf8_lossy(start).into_owned())
}
