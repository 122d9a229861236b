//! The other daemons that share the records: who of them is there, and what that means for what they have.
//!
//! A node is *there* while its lease lives, whether its daemon does or not. One that is not there may still write to
//! whatever it has: it is gone for the records, not from the world. So nothing of it is given to anybody before its
//! backend has cut it off, or a person has made sure that it is down.
//!
//! Where nobody shares the records nothing is known of other nodes, and nothing is assumed.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    error::{Error, Kind},
    family::Family,
    follow, handles,
    house::House,
    model::{Node, NodeId, NodeState, Timestamp},
    ports::store::{
        Durability, Entry, Store,
        members::{Attendance, Lease, LeaseId, Members, Present},
    },
    reconcile,
    records::{self, Marker, keys},
};

/// How records are shared.
#[derive(Clone)]
pub struct Sharing {
    /// Who shares them.
    pub members: Arc<dyn Members>,
    /// Where the lease's id is kept for the next process.
    pub keepsake: Arc<dyn Keepsake>,
    /// How long a node is believed to live that is not heard.
    pub ttl: Duration,
    /// How long a node that stops on purpose may take to come back.
    pub away: Duration,
    /// Where this node keeps what it remembers of them: on its own disk.
    pub replica: Arc<dyn Store>,
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharing").field("ttl", &self.ttl).field("away", &self.away).finish_non_exhaustive()
    }
}

/// What a node keeps on its own disk, so that its next process is the same node for the others.
#[async_trait]
pub trait Keepsake: Send + Sync + 'static {
    /// The lease of the process before.
    async fn lease(&self) -> Result<Option<LeaseId>, Error>;

    /// Keeps a lease's id, durably.
    async fn keep(&self, lease: LeaseId) -> Result<(), Error>;
}

/// The others, and this node's place among them.
pub(crate) struct Fellows {
    sharing: Sharing,
    present: watch::Sender<Present>,
    /// Whether this node has begun to take up what its last life left. Before that nothing is done here.
    begun: AtomicBool,
    /// Nothing before this node has taken its place.
    lease: Mutex<Option<Arc<dyn Lease>>>,
}

/// Where a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Its lease lives: it lets go by itself.
    There,
    /// It stopped on purpose until then, and what it has mounted goes on.
    Away(Timestamp),
    /// Nobody hears it. It may still write.
    Gone,
    /// Nobody hears it, and a person made sure that it does not write.
    Down,
    /// Nobody here can tell.
    Unknown,
}

impl Fellows {
    /// Before anything is known of them.
    pub(crate) fn unknown(sharing: &Sharing) -> Self {
        let nobody = Present { members: Vec::new(), revision: 0 };
        Self {
            sharing: sharing.clone(),
            present: watch::Sender::new(nobody),
            begun: AtomicBool::new(false),
            lease: Mutex::default(),
        }
    }

    fn lease(&self) -> Option<Arc<dyn Lease>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has records believed that were set back.
    pub(crate) async fn believe(&self, remembered: Vec<Entry>) -> Result<bool, Error> {
        self.sharing.members.believe(remembered).await
    }

    /// Whether this node has begun to take up what its last life left.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    fn have(&self, lease: Arc<dyn Lease>) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

    /// Whether a node's lease lives.
    pub(crate) fn has(&self, node: &NodeId) -> bool {
        self.present.borrow().members.iter().any(|member| member.node == *node)
    }

    /// Whether a node is the one that looks after what nobody else does.
    pub(crate) fn is_steward(&self, node: &NodeId) -> bool {
        self.present.borrow().members.first().is_some_and(|first| first.node == *node)
    }
}

async fn attend(
    sharing: &Sharing,
    node: &NodeId,
    session: u64,
    last: Option<LeaseId>,
) -> Result<Arc<dyn Lease>, Error> {
    let attendance =
        Attendance { node: node.clone(), session, schema: records::SCHEMA, lease: last, ttl: sharing.ttl };
    let lease: Arc<dyn Lease> = Arc::from(sharing.members.attend(attendance).await?);
    sharing.keepsake.keep(lease.id()).await?;
    Ok(lease)
}

impl House {
    /// Where a node is, as far as its lease and the records tell.
    pub(crate) async fn presence(&self, node: &NodeId) -> Result<Presence, Error> {
        let Some(fellows) = &self.fellows else {
            return Ok(if node == self.node() { Presence::There } else { Presence::Unknown });
        };
        if node == self.node() || fellows.has(node) {
            return Ok(Presence::There);
        }
        Ok(match self.journal.record::<Node>(keys::node(node)).await?.value.map(|known| known.state) {
            Some(NodeState::Away(until)) if self.now() < until => Presence::Away(until),
            Some(NodeState::Down) => Presence::Down,
            Some(NodeState::Live | NodeState::Away(_)) => Presence::Gone,
            None => Presence::Unknown,
        })
    }

    /// Whether what can be done anywhere for this wish is done by this node: it is its own, or of one that is gone, and
    /// then it is one node's to do. What lies on a node is done there.
    pub(crate) fn leads(&self, mark: Option<&Marker>, seat: Option<&NodeId>) -> bool {
        let Some(fellows) = &self.fellows else { return true };
        if let Some(seat) = seat {
            return seat == self.node();
        }
        match mark.and_then(|mark| mark.by.as_ref()) {
            Some(by) if by == self.node() => true,
            Some(by) if fellows.has(by) => false,
            Some(_) | None => fellows.is_steward(self.node()),
        }
    }

    /// Refuses what is new as long as this node has not taken up what its last life left here.
    pub(crate) fn require_arrival(&self) -> Result<(), Error> {
        match &self.fellows {
            Some(fellows) if fellows.lease().is_none() => Err(Error::unavailable(
                "this node has not taken its place among those that share its records yet: try again in a moment",
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a family's next step is led by this node.
    pub(crate) fn leads_family(&self, mark: Option<&Marker>, family: &Family) -> bool {
        self.fellows.is_none() || self.leads(mark, family.seat().as_ref())
    }

    /// Whether what is nobody's is looked after by this node.
    pub(crate) fn is_steward(&self) -> bool {
        self.fellows.as_ref().is_none_or(|fellows| fellows.is_steward(self.node()))
    }

    /// Whether this is the work of another node that is there to do it.
    pub(crate) fn is_anothers(&self, by: &NodeId) -> bool {
        by != self.node() && self.fellows.as_ref().is_some_and(|fellows| fellows.has(by))
    }

    /// Hears who comes and goes. What one that is gone has wished is looked after by whoever is the steward then.
    pub(crate) async fn mind_the_others(self: Arc<Self>) {
        let Some(fellows) = &self.fellows else { return };
        loop {
            let known = fellows.present.borrow().revision;
            let present = tokio::select! {
                present = fellows.sharing.members.changed_since(known) => present,
                () = self.stopping.cancelled() => return,
            };
            match present {
                Ok(present) => {
                    let gone = left(&fellows.present.borrow(), &present);
                    fellows.present.send_replace(present);
                    for node in &gone {
                        warn!(node.id = %node, "a node is not heard any more");
                    }
                    if !gone.is_empty()
                        && let Err(error) = self.ring_work().await
                    {
                        warn!(error = %error, "could not look for what a node left undone, trying again later");
                    }
                }
                Err(error) => {
                    warn!(error = %error, "could not hear which nodes are there, trying again");
                    self.pause_for(Self::pause(1)).await;
                }
            }
        }
    }

    /// Takes this node's place among the others, before anything is done, and then up what the last life left. The lease's
    /// id is on the disk before anybody is told of it.
    pub(crate) async fn arrive(self: &Arc<Self>) -> Result<(), Error> {
        let mut place = None;
        if let Some(fellows) = &self.fellows {
            let last = fellows.sharing.keepsake.lease().await?;
            let session = reconcile::next_session(&self.journal, self.node()).await?;
            place = Some(attend(&fellows.sharing, self.node(), session, last).await?);
            fellows.present.send_replace(fellows.sharing.members.present().await?);
            fellows.begun.store(true, Ordering::Relaxed);
        }
        handles::fill(&self.journal).await?;
        reconcile::start(self).await?;
        if let (Some(fellows), Some(lease)) = (&self.fellows, place) {
            fellows.have(lease);
            self.spawn(follow::follow(Arc::clone(self)));
        }
        Ok(())
    }

    /// Keeps this node's place. A lease that ran out is not taken up again: the others may have taken from this node what
    /// it has, so it first finds out, and takes that down, and then goes on as another member.
    pub(crate) async fn keep_my_place(self: Arc<Self>) {
        let Some(fellows) = &self.fellows else { return };
        loop {
            let lease = fellows.lease();
            if let Some(lease) = &lease {
                tokio::select! {
                    () = lease.lost() => {}
                    () = self.stopping.cancelled() => return,
                }
                warn!("this node's lease ran out: the others take it for gone, and may have cut it off");
            }
            let mut attempts = 0;
            while let Err(error) = match lease {
                Some(_) => self.return_among(fellows).await,
                None => self.arrive().await,
            } {
                attempts += 1;
                warn!(error = %error, "could not take this node's place again, trying on");
                self.pause_for(Self::pause(attempts)).await;
                if self.stopping.is_cancelled() {
                    return;
                }
            }
            info!("this node is there again");
        }
    }

    async fn return_among(self: &Arc<Self>, fellows: &Fellows) -> Result<(), Error> {
        let session = reconcile::register(self).await?;
        fellows.have(attend(&fellows.sharing, self.node(), session, None).await?);
        // What was taken from this node rings here: it is taken down before anything is mounted anew.
        self.ring_mounts().await?;
        self.ring_work().await
    }

    /// Says that this node stops on purpose. What cannot be said in time is found out: its lease runs out.
    pub(crate) async fn say_away(&self) {
        let Some(fellows) = &self.fellows else { return };
        let until = self.now().plus(fellows.sharing.away);
        let said =
            self.edit_node(self.node(), Durability::Durable, |node| node.state = NodeState::Away(until));
        tokio::select! {
            said = said => {
                if let Err(error) = said {
                    warn!(error = %error, "could not say that this node stops for a while");
                }
            }
            () = self.ports.clock.sleep_until(self.now().plus(Duration::from_secs(1))) => {}
        }
    }

    /// Changes a node's record; `NotFound` where there is none.
    pub(crate) async fn edit_node(
        &self,
        id: &NodeId,
        durability: Durability,
        mut edit: impl FnMut(&mut Node) + Send,
    ) -> Result<Node, Error> {
        let key = keys::node(id);
        for _ in 0..64 {
            let seen = self.journal.record::<Node>(key.clone()).await?;
            let Some(mut node) = seen.value.clone() else {
                return Err(Error::not_found("there is no such node: `kato node ls` shows all")
                    .about(format!("node {id}")));
            };
            edit(&mut node);
            let mut change = crate::journal::Change::default();
            change.touch(&seen, key.clone(), &node);
            change.frees_space();
            match self.journal.commit(change, durability).await {
                Err(error) if error.kind == Kind::Busy => {}
                other => return other.map(|()| node),
            }
        }
        Err(crate::journal::contended())
    }

    pub(crate) async fn pause_for(&self, pause: Duration) {
        tokio::select! {
            () = self.ports.clock.sleep_until(self.now().plus(pause)) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

/// Who was there and is no more.
fn left(before: &Present, now: &Present) -> Vec<NodeId> {
    let nodes = before.members.iter().map(|member| &member.node);
    nodes.filter(|node| now.members.iter().all(|member| member.node != **node)).cloned().collect()
}
