//! Who reaches the volumes of the backend in memory: the nodes that it let in, and those that use a volume now, let in or
//! not. A node that is still there when the next one comes is a second writer, and never forgotten. Where whoever is let in
//! is looked at, a node may come late and see that it has come too late: there it is one as soon as it writes.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::{BackendWorld, FakeBackend, Verb};
use crate::{
    error::Error,
    model::{Connection, Handle, Token},
    ports::backend::{Attached, Attachments, Effect, Fencing, NodeFacts, Which},
};

/// Which nodes reach what.
#[derive(Debug, Default)]
pub(super) struct Reach {
    attached: BTreeMap<Token, BTreeSet<String>>,
    /// Whether several nodes may have a volume at once.
    pub(super) shared: bool,
    /// Whether whoever is let in comes after all others have left, or were cut off.
    pub(super) looks: bool,
    /// Who uses what, by handle.
    users: BTreeSet<(String, String)>,
    /// Who has written to what, or has it mounted.
    writers: BTreeSet<(String, String)>,
    /// Who was cut off from what, and still has it.
    cut_off: BTreeSet<(String, String)>,
    /// Who was cut off, in order.
    fenced: Vec<String>,
    /// As which clients, where they were named.
    clients: Vec<String>,
    trespasses: Vec<String>,
}

impl Reach {
    /// A node begins to use a volume, as a client that nobody knew before.
    pub(super) fn enter(&mut self, handle: &str, node: &str) {
        let other = self.users.iter().find(|(of, by)| of == handle && by != node);
        if let Some((_, other)) = other.filter(|_| !self.shared && !self.looks) {
            self.trespasses.push(format!("{node} uses {handle} while {other} does"));
        }
        self.cut_off.remove(&pair(handle, node));
        self.users.insert(pair(handle, node));
    }

    /// A node that uses a volume writes to it, or is about to. One that was cut off is refused.
    pub(super) fn write(&mut self, handle: &str, node: &str) -> Result<(), Error> {
        if self.is_cut_off(handle, node) {
            return Err(Error::unavailable("the fake backend takes no write of this machine any more"));
        }
        let other = self.writers.iter().find(|(of, by)| of == handle && by != node);
        if let Some((_, other)) = other.filter(|_| !self.shared) {
            self.trespasses.push(format!("{node} writes to {handle} while {other} does"));
        }
        self.writers.insert(pair(handle, node));
        Ok(())
    }

    /// A node ends that.
    pub(super) fn leave(&mut self, handle: &str, node: &str) {
        self.users.remove(&pair(handle, node));
        self.writers.remove(&pair(handle, node));
        self.cut_off.remove(&pair(handle, node));
    }

    /// Whether a node that uses a volume was cut off from it.
    fn is_cut_off(&self, handle: &str, node: &str) -> bool {
        self.cut_off.contains(&pair(handle, node))
    }

    fn cut_off(&mut self, handle: &str, node: &str) {
        if self.users.remove(&pair(handle, node)) {
            self.cut_off.insert(pair(handle, node));
        }
        self.writers.remove(&pair(handle, node));
        self.fenced.push(node.to_owned());
    }
}

fn pair(handle: &str, node: &str) -> (String, String) {
    (handle.to_owned(), node.to_owned())
}

impl BackendWorld {
    /// How many volumes have a node that was let in.
    #[must_use]
    pub fn attachments(&self) -> usize {
        self.reach.attached.len()
    }

    /// Lets a machine go on using a volume, by its handle, whatever its daemon does.
    pub fn go_on(&mut self, handle: &Handle, node: &str) {
        self.reach.enter(handle.as_str(), node);
    }

    /// Stops a machine: it uses nothing any more.
    pub fn stop(&mut self, node: &str) {
        self.reach.users.retain(|(_, by)| by != node);
        self.reach.writers.retain(|(_, by)| by != node);
        self.reach.cut_off.retain(|(_, by)| by != node);
    }

    /// Which nodes were cut off from something, in order.
    #[must_use]
    pub fn fenced(&self) -> &[String] {
        &self.reach.fenced
    }

    /// Which clients were named when nodes were cut off, in order.
    #[must_use]
    pub fn fenced_clients(&self) -> &[String] {
        &self.reach.clients
    }

    /// When a node began to use what another one still used.
    #[must_use]
    pub fn trespasses(&self) -> &[String] {
        &self.reach.trespasses
    }
}

#[async_trait]
impl Attachments for FakeBackend {
    async fn attach(
        &self,
        which: Which,
        node: NodeFacts,
        _read_only: bool,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<Attached>, Error> {
        self.effect(Verb::Attach, resume, move |world| {
            let handle = world.handle(&which.token)?;
            let shared = world.reach.shared;
            let user = world.reach.users.iter().find(|(of, by)| of == handle.as_str() && *by != node.name);
            if let Some((_, user)) = user.filter(|_| world.reach.looks && !shared) {
                return Err(Error::in_use(format!("{user} uses it")).pending());
            }
            let attached = world.reach.attached.entry(which.token).or_default();
            if let Some(other) = attached.iter().find(|other| !shared && **other != node.name) {
                return Err(Error::in_use(format!("attached to {other}")));
            }
            attached.insert(node.name);
            let connection = Connection::File { root: "/fake".into(), path: handle.as_str().to_owned() };
            Ok(Attached { connection, client: None })
        })
        .await
    }

    async fn detach(
        &self,
        which: Which,
        node: NodeFacts,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<()>, Error> {
        self.effect(Verb::Detach, resume, move |world| {
            let Ok(handle) = world.handle(&which.token) else { return Ok(()) };
            if world.reach.users.contains(&pair(handle.as_str(), &node.name)) {
                return Err(Error::in_use(format!("{} uses it still", node.name)).pending());
            }
            if let Some(attached) = world.reach.attached.get_mut(&which.token) {
                attached.remove(&node.name);
                if attached.is_empty() {
                    world.reach.attached.remove(&which.token);
                }
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Fencing for FakeBackend {
    async fn fence(
        &self,
        which: Which,
        node: NodeFacts,
        clients: Vec<String>,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<()>, Error> {
        self.effect(Verb::Fence, resume, move |world| {
            world.reach.clients.extend(clients);
            if let Ok(handle) = world.handle(&which.token) {
                world.reach.cut_off(handle.as_str(), &node.name);
            }
            Ok(())
        })
        .await
    }
}
