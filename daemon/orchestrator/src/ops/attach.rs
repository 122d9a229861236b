//! Attach and detach, for callers that ask for it by itself, before and after they mount: a cluster's controller, which
//! then tells the node how the bytes are reached. Such an attachment stays until it is taken back, whoever mounts
//! and unmounts meanwhile.
//!
//! **Taking back** is the caller's decision, as it alone knows whether a node that does not answer is gone. To wait for
//! its unmount would keep a pod from ever starting elsewhere; to obey blindly would give two writers. So:
//!
//! - A node that answers lets go by itself. While somebody holds the volume there it is refused, and the holder named.
//!   This very node answers, and where records are shared every node whose lease lives.
//! - One that keeps its records here and has no mount by them is clean: it is detached.
//! - Any other may still write. Its mount is *lost*: it counts no more, and is that node's to take down. The node is
//!   fenced before it is detached, where the backend can prove that; else there is an ordinary detach, which the
//!   backend refuses as long as the volume is in use there, and until it is done nobody else gets the volume.
//! - Where the backend has no say at all (it neither attaches nor fences), nothing but the node's own unmount will do.
//!
//! Nothing is detached by force. A backend would have to prove that the machine is stopped, and one that can do that
//! can fence.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    drivers::{Progress, Sight, Subject},
    error::{Error, Kind, Outcome},
    family::Family,
    fellows::Presence,
    hall::Role,
    house::{House, Verdict},
    journal::{Change, contended},
    model::{
        Attachment, AttachmentState, Dependant, Fence, Hold, Intent, Node, NodeId, NodeState, Timestamp,
        Volume, VolumeId, VolumeState,
    },
    ops::{
        AttachVolume, AttachedVolume, Context, DetachVolume, NodeAddress, mount::unknown, unmount::take_down,
    },
    ports::{backend::Abilities, store::Durability},
    records::{self, keys},
    steps::backend::which,
};

/// What became of the wish when it was recorded.
enum Recorded {
    /// It is so already.
    Attached(Box<AttachedVolume>),
    /// It is on its way.
    Wait,
    /// An earlier one has to be gone first.
    Leaving,
}

impl House {
    pub(crate) async fn attach(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &AttachVolume,
    ) -> Result<Outcome<AttachedVolume>, Error> {
        let about = |error: Error| error.about(format!("volume {}", wish.volume));
        let node = &wish.node.id;
        for _ in 0..64 {
            let id = self.ready_volume(ctx, &wish.volume).await?;
            self.know(&wish.node).await.map_err(about)?;
            self.learn_attachments(id).await.map_err(about)?;
            let only = self.only_node(id).await.map_err(about)?;
            let watcher = self.drivers.watch(Subject::Volume(id));
            let now = self.now();
            let (_, recorded) = self
                .journal
                .edit_family(id, Durability::Durable, |family, _| record(family, wish, only, now))
                .await
                .map_err(about)?;
            match recorded {
                Recorded::Attached(attached) => return Ok(Outcome::Unchanged(*attached)),
                Recorded::Wait => {
                    let goal = |progress: &Progress, _: Option<&Error>| attached(progress, node);
                    let answer = self.settle(ctx, watcher, &["attach"], goal).await;
                    if let Err(error) = &answer
                        && error.is_final()
                    {
                        // Whoever hears that it is refused does not take it back.
                        self.withdraw_attachment(id, node).await.map_err(about)?;
                    }
                    return answer.map(Outcome::Changed).map_err(about);
                }
                Recorded::Leaving => {
                    let goal = |progress: &Progress, _: Option<&Error>| detached(progress, Some(node));
                    self.settle(ctx, watcher, &["unmount", "fence", "detach"], goal).await.map_err(about)?;
                }
            }
        }
        Err(about(contended()))
    }

    /// The one node that can have a volume, where it lies on one.
    async fn only_node(&self, id: VolumeId) -> Result<Option<&NodeId>, Error> {
        let Some(volume) = self.journal.family(id).await?.value.volume else { return Ok(None) };
        let abilities = self.catalog().backend(&volume.backend)?.describe().abilities;
        Ok(abilities.node_bound.then_some(self.node()))
    }

    /// Lets the records of a controller agree with what a backend says of who has a volume.
    pub(crate) async fn learn_attachments(&self, id: VolumeId) -> Result<(), Error> {
        if self.config.role != Role::Controller {
            return Ok(());
        }
        let before = self.journal.family(id).await?.value;
        let Some(volume) = &before.volume else { return Ok(()) };
        let backend = self.backend(&volume.backend).await?;
        if !backend.describe().abilities.attachments {
            return Ok(());
        }
        let found = backend.inspect(vec![which(self, volume)]).await?.into_iter().next().flatten();
        match found.and_then(|made| made.attached) {
            Some(told) => self.agree(&before, &told).await,
            None => Ok(()),
        }
    }

    /// The same, once it is said. Another controller may have attached the volume or taken it away, and this one may have
    /// lost its records; what it is about itself is left alone.
    pub(crate) async fn agree(&self, before: &Family, told: &[String]) -> Result<(), Error> {
        let Some(volume) = &before.volume else { return Ok(()) };
        let told: BTreeSet<NodeId> = self.called(volume, told).await?.into_iter().collect();
        let gone: Vec<&NodeId> = (before.attachments.values())
            .filter(|one| one.state == AttachmentState::Attached && one.intent.is_none())
            .map(|one| &one.node)
            .filter(|node| !told.contains(*node) && !before.mounts.contains_key(*node))
            .collect();
        if gone.is_empty() && told.iter().all(|node| before.attachments.contains_key(node)) {
            return Ok(());
        }
        let now = self.now();
        let edit = self.journal.edit_family(before.id, Durability::Lazy, |family, change| {
            change.frees_space();
            for node in &told {
                suspect(family, node, now);
            }
            for node in &gone {
                if family.attachments.get(*node) == before.attachments.get(*node) {
                    family.attachments.remove(*node);
                    if let Some(volume) = family.volume.as_mut() {
                        volume.dependants.remove(&Dependant::Attachment((*node).clone()));
                    }
                }
            }
            Ok(())
        });
        edit.await.map(drop)
    }

    /// Takes an attachment back that its caller was refused; what the backend may have done meanwhile is undone.
    async fn withdraw_attachment(self: &Arc<Self>, id: VolumeId, node: &NodeId) -> Result<(), Error> {
        let now = self.now();
        self.journal
            .edit_family(id, Durability::Durable, |family, change| {
                change.frees_space();
                if let Some(one) = family.attachments.get_mut(node)
                    && one.state == AttachmentState::Attaching
                {
                    one.hold = Hold::WithMount;
                    one.state = AttachmentState::Detaching;
                    one.intent = Some(Intent::new(now));
                }
                Ok(())
            })
            .await?;
        self.ring(Subject::Volume(id), false);
        Ok(())
    }

    /// Remembers what backends call a node, where the caller tells.
    async fn know(&self, address: &NodeAddress) -> Result<(), Error> {
        if address.id == *self.node() && address.names.is_empty() {
            return Ok(());
        }
        let key = keys::node(&address.id);
        let seen = self.journal.record::<Node>(key.clone()).await?;
        if seen.value.as_ref().is_some_and(|known| known.names == address.names) {
            return Ok(());
        }
        let node = match seen.value.clone() {
            Some(known) => Node { names: address.names.clone(), ..known },
            None => Node {
                id: address.id.clone(),
                boot_id: String::new(),
                session: 0,
                topology: BTreeMap::new(),
                names: address.names.clone(),
                state: NodeState::Live,
                drained: false,
                schema: records::SCHEMA,
                seen: self.now(),
            },
        };
        let mut change = Change::default();
        change.touch(&seen, key, &node);
        match self.journal.commit(change, Durability::Lazy).await {
            // Somebody else wrote it at the same moment, and says the same.
            Err(error) if error.kind == Kind::Busy => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn detach(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &DetachVolume,
    ) -> Result<Outcome<()>, Error> {
        let about = |error: Error| error.about(format!("volume {}", wish.volume));
        let Some(id) = self.find_volume(&wish.volume).await? else { return Ok(Outcome::Unchanged(())) };
        if let Some(address) = &wish.node {
            self.know(address).await.map_err(about)?;
        }
        let family = self.journal.family(id).await?.value;
        let Some(volume) = &family.volume else { return Ok(Outcome::Unchanged(())) };
        let abilities = self.catalog().backend(&volume.backend)?.describe().abilities;
        let node = wish.node.as_ref().map(|address| &address.id);
        let suspects = match node {
            Some(node) if abilities.attachments || abilities.fence => vec![node.clone()],
            None if abilities.attachments => self.attached_to(volume).await.map_err(about)?,
            Some(_) | None => Vec::new(),
        };
        let recorded =
            self.recorded(suspects.iter().chain(family.attachments.keys())).await.map_err(about)?;
        let (answering, down) = self.standing_of(family.attachments.keys()).await.map_err(about)?;
        let taking = Taking { node, suspects, recorded, answering, down, abilities, now: self.now() };
        let watcher = self.drivers.watch(Subject::Volume(id));
        let (_, going) = self
            .journal
            .edit_family(id, Durability::Durable, |family, change| {
                change.frees_space();
                taking.in_use(family)?;
                Ok(taking.take_back(family))
            })
            .await
            .map_err(about)?;
        if !going {
            return Ok(Outcome::Unchanged(()));
        }
        let goal = |progress: &Progress, _: Option<&Error>| detached(progress, node);
        let answer = self.settle(ctx, watcher, &["unmount", "fence", "detach"], goal).await;
        answer.map(Outcome::Changed).map_err(lasting).map_err(about)
    }

    /// Which of these nodes are known to be there and to let go by themselves, and of which somebody made sure that they
    /// are down. A controller is no node, whatever it is called.
    async fn standing_of(
        &self,
        nodes: impl Iterator<Item = &NodeId> + Send,
    ) -> Result<(BTreeSet<NodeId>, BTreeSet<NodeId>), Error> {
        let (mut answering, mut down) = (BTreeSet::new(), BTreeSet::new());
        for node in nodes.filter(|node| self.is_a_node() || *node != self.node()) {
            match self.presence(node).await? {
                Presence::There => answering.insert(node.clone()),
                Presence::Down => down.insert(node.clone()),
                Presence::Away(_) | Presence::Gone | Presence::Unknown => false,
            };
        }
        Ok((answering, down))
    }

    /// Whether this daemon mounts anything.
    fn is_a_node(&self) -> bool {
        self.config.role != Role::Controller
    }

    /// Which of these nodes keep their records here, so that nothing is mounted there of which none says so. All
    /// others are only known by what a caller called them.
    async fn recorded(&self, nodes: impl Iterator<Item = &NodeId> + Send) -> Result<BTreeSet<NodeId>, Error> {
        let mut recorded = BTreeSet::new();
        for node in nodes {
            let known = self.journal.record::<Node>(keys::node(node)).await?.value;
            let lives = known.is_some_and(|known| known.session > 0);
            if lives && (node != self.node() || self.is_a_node()) {
                recorded.insert(node.clone());
            }
        }
        Ok(recorded)
    }

    /// The nodes that a volume is attached to by what its backend says, where it says so.
    async fn attached_to(&self, volume: &Volume) -> Result<Vec<NodeId>, Error> {
        let backend = self.backend(&volume.backend).await?;
        let found = backend.inspect(vec![which(self, volume)]).await?.into_iter().next().flatten();
        let Some(made) = found else { return Ok(Vec::new()) };
        let Some(names) = made.attached else {
            return match self.config.role {
                Role::All | Role::Node => Ok(Vec::new()),
                Role::Controller => Err(Error::precondition(format!(
                    "the backend {} does not tell which nodes it is attached to, so it has to be taken from each by name",
                    volume.backend
                ))),
            };
        };
        self.called(volume, &names).await
    }

    /// The nodes that a volume's backend calls by these names.
    async fn called(&self, volume: &Volume, names: &[String]) -> Result<Vec<NodeId>, Error> {
        let known = self.journal.all::<Node>(keys::NODES).await?;
        let called = |name: &String| {
            let node = known.iter().find(|node| node.names.get(&volume.backend) == Some(name));
            node.map_or_else(|| NodeId::parse(name), |node| Ok(node.id.clone()))
        };
        names.iter().map(called).collect()
    }
}

fn record(
    family: &mut Family,
    wish: &AttachVolume,
    only: Option<&NodeId>,
    now: Timestamp,
) -> Result<Recorded, Error> {
    let node = &wish.node.id;
    let Some(volume) = family.volume.as_mut() else { return Err(unknown(&wish.volume)) };
    match volume.state {
        VolumeState::Ready => {}
        VolumeState::Lost => {
            return Err(Error::precondition("its backend says that it is gone: bring it back, or delete it"));
        }
        VolumeState::Creating | VolumeState::Deleting => return Err(unknown(&wish.volume)),
    }
    if let Some(only) = only.filter(|only| *only != node) {
        return Err(Error::precondition(format!("it lies on node {only}, and no other can have it")));
    }
    if let Some(other) = family.attachments.keys().find(|other| *other != node && !wish.many) {
        return Err(Error::in_use(format!("it is attached to node {other}: detach it there first")));
    }
    let Some(attachment) = family.attachments.get_mut(node) else {
        volume.dependants.insert(Dependant::Attachment(node.clone()));
        let connection = volume.connection.clone();
        let ready = connection.is_some();
        let attachment = Attachment {
            volume: volume.id,
            node: node.clone(),
            state: if ready { AttachmentState::Attached } else { AttachmentState::Attaching },
            connection,
            client: None,
            fencing_token: now.0,
            read_only: wish.read_only,
            hold: Hold::Asked,
            fence: Fence::Unneeded,
            intent: (!ready).then(|| Intent::new(now)),
        };
        family.attachments.insert(node.clone(), attachment.clone());
        return Ok(answer(family, &attachment)
            .map_or(Recorded::Wait, |attached| Recorded::Attached(Box::new(attached))));
    };
    if attachment.state == AttachmentState::Detaching {
        return Ok(Recorded::Leaving);
    }
    if attachment.state == AttachmentState::Attached && attachment.connection.is_none() {
        // Nobody here has asked for it yet: how it is reached is still to be heard.
        attachment.state = AttachmentState::Attaching;
        attachment.read_only = wish.read_only;
        attachment.intent = Some(Intent::new(now));
    }
    if attachment.read_only != wish.read_only {
        let (is, wanted) =
            if attachment.read_only { ("read-only", "read-write") } else { ("read-write", "read-only") };
        return Err(Error::already_exists(format!(
            "it is attached to node {node} {is} and wanted {wanted}: detach it there first"
        )));
    }
    attachment.hold = Hold::Asked;
    let attachment = attachment.clone();
    Ok(answer(family, &attachment).map_or(Recorded::Wait, |attached| Recorded::Attached(Box::new(attached))))
}

/// What the caller of an attachment hears, once it is attached.
fn answer(family: &Family, attachment: &Attachment) -> Option<AttachedVolume> {
    (attachment.state == AttachmentState::Attached && attachment.connection.is_some())
        .then(|| Some(AttachedVolume { volume: family.volume.clone()?, attachment: attachment.clone() }))
        .flatten()
}

fn attached(progress: &Progress, node: &NodeId) -> Verdict<AttachedVolume> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let Some(attachment) = family.attachments.get(node) else {
        // Whoever did may have been the same caller, who had given up.
        return Verdict::Answer(Err(Error::busy(
            "it was detached by somebody else while it was attached: try again",
        )));
    };
    answer(family, attachment).map_or(Verdict::Wait, |attached| Verdict::Answer(Ok(attached)))
}

/// Taking a volume back from a node, or from all.
pub(crate) struct Taking<'a> {
    pub(crate) node: Option<&'a NodeId>,
    /// Those that may be attached although no record says so: by another daemon, or by this one before it lost its
    /// records. Their backend is asked for them.
    pub(crate) suspects: Vec<NodeId>,
    /// Those that keep their records here.
    pub(crate) recorded: BTreeSet<NodeId>,
    /// Those that let go by themselves.
    pub(crate) answering: BTreeSet<NodeId>,
    /// Those of which a person made sure that they do not write.
    pub(crate) down: BTreeSet<NodeId>,
    pub(crate) abilities: Abilities,
    pub(crate) now: Timestamp,
}

impl Taking<'_> {
    fn is_meant(&self, node: &NodeId) -> bool {
        self.node.is_none_or(|meant| meant == node)
    }

    /// Refuses to take from a node what it has in use, where it is there to be asked.
    fn in_use(&self, family: &Family) -> Result<(), Error> {
        let mut holders = family.publications.values();
        match holders.find(|one| self.is_meant(&one.node) && self.answering.contains(&one.node)) {
            None => Ok(()),
            Some(one) => Err(Error::in_use(format!(
                "node {} has it in use for {}: let that be unpublished and unstaged first",
                one.node,
                family.holders_text()
            ))),
        }
    }

    /// Lets attachments go; false if there is nothing to let go.
    pub(crate) fn take_back(&self, family: &mut Family) -> bool {
        for node in &self.suspects {
            suspect(family, node, self.now);
        }
        let nodes: Vec<NodeId> =
            family.attachments.keys().filter(|node| self.is_meant(node)).cloned().collect();
        for node in &nodes {
            let (stands, lost) = (family.mounts.contains_key(node), family.lost.contains_key(node));
            let clean = self.recorded.contains(node) && !stands && !lost;
            let has_a_say = self.abilities.attachments || self.abilities.fence;
            if let Some(attachment) = family.attachments.get_mut(node) {
                self.let_go(attachment, clean);
            }
            let lets_go = self.answering.contains(node) || !has_a_say;
            if lets_go && !self.down.contains(node) {
                take_down(family, node, self.now);
            } else {
                family.lose(node, self.now);
            }
        }
        !nodes.is_empty()
    }

    fn let_go(&self, attachment: &mut Attachment, clean: bool) {
        attachment.hold = Hold::WithMount;
        if attachment.state != AttachmentState::Detaching {
            attachment.state = AttachmentState::Detaching;
            attachment.intent = Some(Intent::new(self.now));
        }
        // What could not be proven before is asked again with each wish, as somebody may have stopped the machine;
        // not while the backend is at work on a detach.
        let at_work = attachment.intent.as_ref().is_some_and(|intent| intent.resume.is_some());
        let asks = match attachment.fence {
            Fence::Unneeded | Fence::Unproven => !at_work,
            Fence::Wished | Fence::Done => false,
        };
        if self.down.contains(&attachment.node) {
            attachment.fence = Fence::Done;
        } else if self.abilities.fence && !clean && !self.answering.contains(&attachment.node) && asks {
            attachment.fence = Fence::Wished;
        }
    }
}

/// Records that a node may have a volume, although no wish here tells of it.
fn suspect(family: &mut Family, node: &NodeId, now: Timestamp) {
    let Some(volume) = family.volume.as_mut().filter(|_| !family.attachments.contains_key(node)) else {
        return;
    };
    volume.dependants.insert(Dependant::Attachment(node.clone()));
    let attachment = Attachment {
        volume: volume.id,
        node: node.clone(),
        state: AttachmentState::Attached,
        connection: None,
        client: None,
        fencing_token: now.0,
        read_only: false,
        hold: Hold::Asked,
        fence: Fence::Unneeded,
        intent: None,
    };
    family.attachments.insert(node.clone(), attachment);
}

/// What a caller hears of a detach that is recorded: it goes on, so no word of a step is the last one.
fn lasting(error: Error) -> Error {
    match error.kind {
        Kind::InUse | Kind::Precondition => {
            let words =
                format!("it is not let go yet, and nobody else gets it before that: {}", error.message);
            Error::busy(words).pending()
        }
        _ => error.pending(),
    }
}

fn detached(progress: &Progress, node: Option<&NodeId>) -> Verdict<()> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let stands = match node {
        Some(node) => family.attachments.contains_key(node),
        None => !family.attachments.is_empty(),
    };
    if stands { Verdict::Wait } else { Verdict::Answer(Ok(())) }
}
