//! A backend in memory. It is honest and idempotent as the contract demands, and can be told to be slow, to
//! fail, or to lose its answers.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Notify, time::Instant};

use super::{
    Fuse,
    blocks::{Spent, Unfinished},
    reach::Reach,
};
use crate::{
    error::Error,
    model::{Bytes, CapacityRange, Connection, Fingerprint, Handle, Token},
    ports::{
        Extents, SnapshotReading, SnapshotWriting,
        backend::{
            Abilities, Attachments, Backend, Check, Create, Cut, Cutting, Description, Effect, Extras,
            Fencing, Grow, Growing, Health, Made, Origin, Page, Parameter, Pending, Polling, Room, Shot,
            Snapshots, Which,
        },
    },
};

/// What can be asked of a backend, for faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Create.
    Create,
    /// Delete.
    Delete,
    /// Grow.
    Grow,
    /// Modify.
    Modify,
    /// Attach.
    Attach,
    /// Detach.
    Detach,
    /// Cut a node off.
    Fence,
    /// Cut a snapshot.
    Cut,
    /// Delete a snapshot.
    DeleteSnapshot,
    /// Poll.
    Poll,
    /// Ask how volumes are.
    Health,
    /// Begin a snapshot that is written.
    Begin,
    /// Write blocks of it.
    Write,
    /// End the writing.
    Complete,
}

/// What goes wrong with one call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing happens, and this is said.
    Refuse(Error),
    /// It happens, and this is said.
    LoseAnswer(Error),
    /// It happens so many calls later.
    Pending(u32),
    /// Nobody hears of it, and it happens so much later, whoever is there then.
    Late(Duration),
    /// It never answers, and nothing happens.
    Hang,
    /// It is at work until somebody rings, and happens then.
    Until(Arc<Notify>),
}

/// Effects that are still to come true, and when.
#[derive(Default)]
struct Later(Vec<(Instant, Coming)>);

type Coming = Box<dyn FnOnce(&mut BackendWorld) + Send>;

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to come", self.0.len())
    }
}

#[derive(Clone, Debug)]
struct Thing {
    made: Made,
    bytes: Vec<u8>,
}

/// What the backend has; outlives the process.
#[derive(Debug, Default)]
pub struct BackendWorld {
    volumes: BTreeMap<Token, Thing>,
    /// Which nodes reach what.
    pub(super) reach: Reach,
    pub(super) snapshots: BTreeMap<Token, (Shot, Vec<u8>)>,
    /// Snapshots that are being written.
    pub(super) unfinished: BTreeMap<Token, Unfinished>,
    pub(super) spent: Spent,
    faults: BTreeMap<Verb, VecDeque<Fault>>,
    heard: BTreeMap<Verb, usize>,
    fingerprint: String,
    late: Later,
    ailing: BTreeMap<Token, Health>,
    /// What each copy under way found when it began, by the token of what it makes.
    copies: BTreeMap<Token, Vec<u8>>,
}

/// What a copy holds whose source was written while it was made.
const TORN: &[u8] = b"TORN";

impl BackendWorld {
    /// Lets come true what is due, or everything.
    pub fn come_true(&mut self, everything: bool) {
        let now = Instant::now();
        let (due, rest) =
            std::mem::take(&mut self.late.0).into_iter().partition(|(when, _)| everything || *when <= now);
        self.late.0 = rest;
        let due: Vec<(Instant, Coming)> = due;
        for (_, come) in due {
            come(self);
        }
    }

    /// Whether a volume or snapshot is a copy whose source was written while it was made.
    #[must_use]
    pub fn has_torn(&self) -> bool {
        let volumes = self.volumes.values().map(|thing| &thing.bytes);
        volumes.chain(self.snapshots.values().map(|(_, bytes)| bytes)).any(|bytes| bytes.starts_with(TORN))
    }

    /// The bytes of something, if there is such a thing.
    fn source(&self, origin: &Origin) -> Option<&Vec<u8>> {
        match origin {
            Origin::Volume(which) => self.volumes.get(&which.token).map(|thing| &thing.bytes),
            Origin::Snapshot(which) => self.snapshots.get(&which.token).map(|(_, bytes)| bytes),
        }
    }

    /// A copy begins, or goes on.
    fn copying(&mut self, of: &Origin, to: &Token) {
        if let Some(found) = self.source(of).cloned() {
            self.copies.entry(to.clone()).or_insert(found);
        }
    }

    /// A copy ends: what came of it.
    fn copied(&mut self, of: &Origin, to: &Token) -> Result<Vec<u8>, Error> {
        let now = self.source(of).cloned().ok_or_else(absent)?;
        Ok(match self.copies.remove(to) {
            Some(found) if found != now => TORN.to_vec(),
            _ => now,
        })
    }

    /// The tokens of what it has, volumes and snapshots.
    #[must_use]
    pub fn tokens(&self) -> Vec<Token> {
        self.volumes.keys().chain(self.snapshots.keys()).chain(self.unfinished.keys()).cloned().collect()
    }

    /// The handle of a volume.
    pub(super) fn handle(&self, token: &Token) -> Result<Handle, Error> {
        Ok(self.volumes.get(token).ok_or_else(absent)?.made.handle.clone())
    }

    /// The mark and the bytes of each snapshot.
    #[must_use]
    pub fn snapshots(&self) -> Vec<(String, Vec<u8>)> {
        self.snapshots.values().map(|(shot, bytes)| (shot.mark.clone(), bytes.clone())).collect()
    }

    /// Loses a snapshot, by its handle.
    pub fn lose_snapshot(&mut self, handle: &str) {
        self.snapshots.retain(|_, (shot, _)| shot.handle.as_str() != handle);
    }

    /// The bytes of a volume or a snapshot, by its handle.
    pub fn bytes(&mut self, handle: &str) -> Option<&mut Vec<u8>> {
        let volumes = self.volumes.values_mut().map(|thing| (&thing.made.handle, &mut thing.bytes));
        let snapshots = self.snapshots.values_mut().map(|(shot, bytes)| (&shot.handle, bytes));
        volumes.chain(snapshots).find(|(of, _)| of.as_str() == handle).map(|(_, bytes)| bytes)
    }

    /// The parameters of a volume, by its handle.
    #[must_use]
    pub fn parameters(&self, handle: &str) -> Option<&BTreeMap<String, String>> {
        let mut things = self.volumes.values();
        things.find(|thing| thing.made.handle.as_str() == handle)?.made.parameters.as_ref()
    }

    /// Lets a volume be unwell, or well again.
    pub fn ail(&mut self, token: &Token, health: Option<Health>) {
        match health {
            Some(health) => self.ailing.insert(token.clone(), health),
            None => self.ailing.remove(token),
        };
    }

    /// How often it was called.
    #[must_use]
    pub fn heard(&self, verb: Verb) -> usize {
        self.heard.get(&verb).copied().unwrap_or_default()
    }

    pub(super) fn hears(&mut self, verb: Verb) -> Option<Fault> {
        *self.heard.entry(verb).or_default() += 1;
        self.faults.get_mut(&verb).and_then(VecDeque::pop_front)
    }

    /// Lets the next call of a verb go wrong.
    pub fn fault(&mut self, verb: Verb, fault: Fault) {
        self.faults.entry(verb).or_default().push_back(fault);
    }

    /// Makes it another backend.
    pub fn become_another(&mut self, fingerprint: &str) {
        fingerprint.clone_into(&mut self.fingerprint);
    }

    /// Loses a volume or a snapshot behind everybody's back.
    pub fn lose(&mut self, token: &Token) {
        self.volumes.remove(token);
        self.snapshots.remove(token);
    }
}

/// A backend in memory.
#[derive(Clone, Debug)]
pub struct FakeBackend {
    world: Arc<Mutex<BackendWorld>>,
    pub(super) fuse: Arc<Fuse>,
    pub(super) description: Description,
    pub(super) cutting: Cutting,
    attaches: bool,
    pub(super) fences: bool,
    pub(super) polls: bool,
    pub(super) ripens: bool,
    pub(super) by_calls: bool,
}

impl FakeBackend {
    /// A backend over this world; with `attaches`, nodes have to be attached.
    #[must_use]
    pub fn new(world: Arc<Mutex<BackendWorld>>, fuse: Arc<Fuse>, attaches: bool, settle: Duration) -> Self {
        let abilities = Abilities {
            grow: Some(Growing::Online),
            attachments: attaches,
            snapshots: true,
            extents: true,
            snapshot_data: true,
            clone: true,
            modify: true,
            health: true,
            ..Abilities::default()
        };
        let description = Description {
            plugin: "fake".into(),
            size_step: Bytes(1),
            settle,
            parameters: vec![parameter("tier", true), parameter("zone", false)],
            abilities,
            ..Description::default()
        };
        let (fences, polls, ripens, by_calls) = (false, false, false, false);
        let cutting = Cutting::Instant;
        Self { world, fuse, description, cutting, attaches, fences, polls, ripens, by_calls }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, BackendWorld> {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.come_true(false);
        world
    }

    /// One effect: a fuse before it, a fuse after it, and whatever is to go wrong between.
    pub(super) async fn effect<T>(
        &self,
        verb: Verb,
        resume: Option<Vec<u8>>,
        act: impl FnOnce(&mut BackendWorld) -> Result<T, Error> + Send + 'static,
    ) -> Result<Effect<T>, Error> {
        self.fuse.pass().await;
        let fault = self.world().hears(verb);
        match &fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Until(bell)) => bell.notified().await,
            _ => {}
        }
        let answer = {
            let mut world = self.world();
            let left = resume.and_then(|resume| resume.first().copied()).unwrap_or(0);
            match fault {
                _ if left > 1 => Ok(later(left - 1)),
                Some(Fault::Refuse(error)) => Err(error),
                Some(Fault::LoseAnswer(error)) => act(&mut world).and(Err(error)),
                Some(Fault::Pending(calls)) => Ok(later(u8::try_from(calls).unwrap_or(u8::MAX))),
                Some(Fault::Late(after)) => {
                    world.late.0.push((Instant::now() + after, Box::new(move |world| drop(act(world)))));
                    Err(Error::timeout("no answer").pending())
                }
                Some(Fault::Hang | Fault::Until(_)) | None => act(&mut world).map(Effect::Done),
            }
        };
        self.fuse.pass().await;
        answer
    }
}

fn parameter(name: &str, mutable: bool) -> Parameter {
    Parameter {
        name: name.into(),
        summary: format!("the {name} of a volume"),
        default: String::new(),
        shape: "text".into(),
        mutable,
    }
}

fn later<T>(calls: u8) -> Effect<T> {
    Effect::Pending(again(calls))
}

pub(super) fn again(calls: u8) -> Pending {
    Pending { resume: vec![calls], retry_after: Duration::from_secs(2), note: "at work".into() }
}

pub(super) fn absent() -> Error {
    Error::not_found("the fake backend has no such thing")
}

#[async_trait]
impl Backend for FakeBackend {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    async fn check(&self) -> Result<Check, Error> {
        self.fuse.pass().await;
        Ok(Check { fingerprint: Fingerprint(self.world().fingerprint.clone()), note: String::new() })
    }

    async fn create(&self, wish: Create) -> Result<Effect<Made>, Error> {
        let attaches = self.attaches;
        if let Some(origin) = wish.source.as_ref().filter(|_| self.cutting != Cutting::Instant) {
            self.world().copying(origin, &wish.token);
        }
        self.effect(Verb::Create, wish.resume.clone(), move |world| {
            if let Some(thing) = world.volumes.get(&wish.token) {
                return match wish.size.admits(thing.made.size) {
                    true => Ok(thing.made.clone()),
                    false => Err(Error::already_exists("another wish has this token")),
                };
            }
            let bytes = match &wish.source {
                None => Vec::new(),
                Some(origin) => world.copied(origin, &wish.token)?,
            };
            let handle = Handle::parse(&format!("img/{}", wish.token))?;
            let connection = Connection::File { root: "/fake".into(), path: handle.as_str().to_owned() };
            let made = Made {
                handle,
                size: wish.size.required.max(Bytes::MIB),
                mark: wish.mark,
                token: Some(wish.token.clone()),
                connection: (!attaches).then_some(connection),
                attached: None,
                topology: BTreeMap::new(),
                parameters: Some(wish.parameters),
            };
            world.volumes.insert(wish.token, Thing { made: made.clone(), bytes });
            Ok(made)
        })
        .await
    }

    async fn delete(&self, which: Which, resume: Option<Vec<u8>>) -> Result<Effect<()>, Error> {
        self.effect(Verb::Delete, resume, move |world| {
            world.volumes.remove(&which.token);
            world.copies.remove(&which.token);
            Ok(())
        })
        .await
    }

    async fn inspect(&self, which: Vec<Which>) -> Result<Vec<Option<Made>>, Error> {
        self.fuse.pass().await;
        let world = self.world();
        Ok(which
            .iter()
            .map(|which| world.volumes.get(&which.token).map(|thing| thing.made.clone()))
            .collect())
    }

    async fn list(&self, page: Option<String>) -> Result<Page<Made>, Error> {
        self.fuse.pass().await;
        let after = page.unwrap_or_default();
        let world = self.world();
        let rest = world.volumes.iter().filter(|(token, _)| token.as_str() > after.as_str());
        let items: Vec<Made> = rest.take(10).map(|(_, thing)| thing.made.clone()).collect();
        let last = items.last().and_then(|made| made.token.as_ref()).map(|token| token.as_str().to_owned());
        let next = if items.len() == 10 { last } else { None };
        Ok(Page { items, next })
    }

    async fn clone_how(&self, _: Which) -> Result<Cutting, Error> {
        Ok(self.cutting)
    }

    async fn remark(&self, which: Which, mark: String) -> Result<(), Error> {
        self.fuse.pass().await;
        self.world().volumes.get_mut(&which.token).ok_or_else(absent)?.made.mark = mark;
        self.fuse.pass().await;
        Ok(())
    }

    fn grow(&self) -> Option<&dyn Grow> {
        Some(self)
    }

    fn attachments(&self) -> Option<&dyn Attachments> {
        self.attaches.then_some(self as &dyn Attachments)
    }

    fn fencing(&self) -> Option<&dyn Fencing> {
        self.fences.then_some(self as &dyn Fencing)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn extents(&self) -> Option<&dyn Extents> {
        self.description.abilities.extents.then_some(self as &dyn Extents)
    }

    fn snapshot_data(&self) -> Option<&dyn SnapshotReading> {
        self.description.abilities.snapshot_data.then_some(self as &dyn SnapshotReading)
    }

    fn snapshot_writing(&self) -> Option<&dyn SnapshotWriting> {
        self.description.abilities.snapshot_writing.then_some(self as &dyn SnapshotWriting)
    }

    fn extras(&self) -> Option<&dyn Extras> {
        Some(self)
    }

    fn polling(&self) -> Option<&dyn Polling> {
        self.polls.then_some(self as &dyn Polling)
    }
}

#[async_trait]
impl Extras for FakeBackend {
    async fn modify(
        &self,
        which: Which,
        parameters: BTreeMap<String, String>,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<()>, Error> {
        self.effect(Verb::Modify, resume, move |world| {
            let made = &mut world.volumes.get_mut(&which.token).ok_or_else(absent)?.made;
            made.parameters.get_or_insert_default().extend(parameters);
            Ok(())
        })
        .await
    }

    async fn room(&self, _: BTreeMap<String, String>) -> Result<Room, Error> {
        Err(Error::unsupported("the fake backend has no end"))
    }

    async fn health(&self, which: Vec<Which>) -> Result<Vec<Health>, Error> {
        self.fuse.pass().await;
        let fault = self.world().hears(Verb::Health);
        match fault {
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Refuse(error) | Fault::LoseAnswer(error)) => return Err(error),
            Some(Fault::Pending(_) | Fault::Late(_) | Fault::Until(_)) | None => {}
        }
        let world = self.world();
        let well = || Health { reason: String::new(), message: String::new(), severe: false };
        Ok(which.iter().map(|which| world.ailing.get(&which.token).cloned().unwrap_or_else(well)).collect())
    }
}

#[async_trait]
impl Grow for FakeBackend {
    async fn grow(
        &self,
        which: Which,
        size: CapacityRange,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<Bytes>, Error> {
        self.effect(Verb::Grow, resume, move |world| {
            let made = &mut world.volumes.get_mut(&which.token).ok_or_else(absent)?.made;
            made.size = made.size.max(size.required);
            Ok(made.size)
        })
        .await
    }
}

#[async_trait]
impl Snapshots for FakeBackend {
    async fn how(&self, _: Which) -> Result<Cutting, Error> {
        Ok(self.cutting)
    }

    async fn cut(&self, wish: Cut) -> Result<Effect<Shot>, Error> {
        if self.cutting != Cutting::Instant {
            self.world().copying(&Origin::Volume(wish.volume.clone()), &wish.token);
        }
        let ready = !self.ripens;
        self.effect(Verb::Cut, wish.resume.clone(), move |world| {
            if let Some((shot, _)) = world.snapshots.get(&wish.token) {
                return Ok(shot.clone());
            }
            let size = world.volumes.get(&wish.volume.token).ok_or_else(absent)?.made.size;
            let source = wish.volume.token.clone();
            let bytes = world.copied(&Origin::Volume(wish.volume), &wish.token)?;
            let shot = Shot {
                handle: Handle::parse(&format!("snap/{}", wish.token))?,
                volume: world.volumes.get(&source).map(|thing| thing.made.handle.clone()),
                size,
                cut: None,
                ready,
                mark: wish.mark,
                token: Some(wish.token.clone()),
            };
            world.snapshots.insert(wish.token, (shot.clone(), bytes));
            Ok(shot)
        })
        .await
    }

    async fn delete_snapshot(&self, which: Which, resume: Option<Vec<u8>>) -> Result<Effect<()>, Error> {
        self.effect(Verb::DeleteSnapshot, resume, move |world| {
            world.snapshots.remove(&which.token);
            world.unfinished.remove(&which.token);
            world.copies.remove(&which.token);
            Ok(())
        })
        .await
    }

    async fn inspect_snapshots(&self, which: Vec<Which>) -> Result<Vec<Option<Shot>>, Error> {
        self.fuse.pass().await;
        let world = self.world();
        Ok(which
            .iter()
            .map(|which| world.snapshots.get(&which.token).map(|(shot, _)| shot.clone()))
            .collect())
    }

    async fn list_snapshots(&self, _: Option<String>) -> Result<Page<Shot>, Error> {
        self.fuse.pass().await;
        Ok(Page {
            items: self.world().snapshots.values().map(|(shot, _)| shot.clone()).collect(),
            next: None,
        })
    }
}
