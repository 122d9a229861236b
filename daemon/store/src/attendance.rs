//! Who is there, for a store that has no peers: a list in memory, gone with the process. Its leases need no keeping
//! up, and run out when somebody says so: a suite that plays several hosts over one store in memory turns the time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kato_orchestrator::{
    Error,
    model::NodeId,
    ports::store::{
        Revision,
        members::{Attendance, Lease, LeaseId, Member, Present},
    },
    records::SCHEMA,
};
use tokio::sync::watch;

use crate::claims::Claims;

/// The list.
#[derive(Clone, Debug)]
pub(crate) struct Attendances {
    list: Arc<Mutex<List>>,
    newest: watch::Sender<Revision>,
    claims: Claims,
}

#[derive(Debug)]
struct List {
    members: BTreeMap<NodeId, Member>,
    /// How often it changed; moments of this list alone.
    revision: Revision,
    leases: u64,
    schema: u16,
}

impl Attendances {
    /// An empty list beside these claims.
    pub(crate) fn new(claims: Claims) -> Self {
        let list = List { members: BTreeMap::new(), revision: 1, leases: 0, schema: 1 };
        Self { list: Arc::new(Mutex::new(list)), newest: watch::Sender::new(1), claims }
    }

    /// Puts a node on the list, which may be there under a lease of its own already.
    pub(crate) fn attend(&self, wish: Attendance, own: Option<LeaseId>) -> Result<Kept, Error> {
        let mut list = self.list();
        if wish.schema < list.schema {
            return Err(too_old(&wish.node, wish.schema, list.schema));
        }
        let there = list.members.get(&wish.node).map(|there| there.lease);
        let lease = match there {
            Some(there) if own == Some(there) => there,
            Some(there) if wish.lease == Some(there) => {
                // What the process before had claimed ends with it.
                self.claims.lapse(there);
                there
            }
            Some(there) => return Err(taken(&wish.node, there)),
            None => {
                list.leases += 1;
                LeaseId(list.leases)
            }
        };
        list.revision += 1;
        let since = list.revision;
        let member =
            Member { node: wish.node.clone(), session: wish.session, schema: wish.schema, lease, since };
        list.members.insert(wish.node, member);
        drop(list);
        self.newest.send_replace(since);
        Ok(Kept { attendances: self.clone(), lease, ttl: wish.ttl })
    }

    /// The list as it is.
    pub(crate) fn present(&self) -> Present {
        let list = self.list();
        Present { members: list.members.values().cloned().collect(), revision: list.revision }
    }

    /// The list after the next change.
    pub(crate) async fn changed_since(&self, revision: Revision) -> Result<Present, Error> {
        let mut newest = self.newest.subscribe();
        newest.wait_for(|newest| *newest > revision).await.map_err(|closed| {
            Error::unavailable("the store was closed: start kato again").caused_by(closed)
        })?;
        Ok(self.present())
    }

    /// What all can read.
    pub(crate) fn schema(&self) -> u16 {
        let mut list = self.list();
        let lowest = list.members.values().map(|member| member.schema).min().unwrap_or(SCHEMA);
        list.schema = list.schema.max(lowest.min(SCHEMA));
        list.schema
    }

    /// A lease runs out.
    pub(crate) fn lapse(&self, lease: LeaseId) {
        let mut list = self.list();
        list.members.retain(|_, member| member.lease != lease);
        list.revision += 1;
        let newest = list.revision;
        drop(list);
        self.claims.lapse(lease);
        self.newest.send_replace(newest);
    }

    /// Whether claims may be made under a lease.
    pub(crate) fn check(&self, lease: Option<LeaseId>) -> Result<(), Error> {
        match lease.filter(|lease| !self.is_there(*lease)) {
            Some(lease) => Err(over(lease)),
            None => Ok(()),
        }
    }

    fn is_there(&self, lease: LeaseId) -> bool {
        self.list().members.values().any(|member| member.lease == lease)
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a node that cannot read what the others write.
pub(crate) fn too_old(node: &NodeId, reads: u16, written: u16) -> Error {
    Error::precondition(format!(
        "the records are in schema {written} and the kato of {node} reads up to schema {reads}: upgrade it, or load a \
         dump of before the upgrade of the others"
    ))
}

/// The error of a node whose name is somebody else's.
pub(crate) fn taken(node: &NodeId, lease: LeaseId) -> Error {
    Error::in_use(format!(
        "another daemon is there as node {node}, under lease {lease}: give each host a node.id of its own. If it is \
         the last process of this host, whose data folder was lost, wait until its lease has run out"
    ))
}

/// The error of a node that claims something after its lease.
pub(crate) fn over(lease: LeaseId) -> Error {
    Error::unavailable(format!(
        "the lease {lease} of this node ran out: it has to find out what became of it, and attend anew"
    ))
}

/// A lease of the list.
#[derive(Debug)]
pub(crate) struct Kept {
    attendances: Attendances,
    lease: LeaseId,
    ttl: Duration,
}

#[async_trait]
impl Lease for Kept {
    fn id(&self) -> LeaseId {
        self.lease
    }

    fn remaining(&self) -> Duration {
        if self.attendances.is_there(self.lease) { self.ttl } else { Duration::ZERO }
    }

    async fn lost(&self) {
        let mut newest = self.attendances.newest.subscribe();
        while self.attendances.is_there(self.lease) {
            if newest.changed().await.is_err() {
                return;
            }
        }
    }

    async fn give_up(&self) -> Result<(), Error> {
        self.attendances.lapse(self.lease);
        Ok(())
    }
}
