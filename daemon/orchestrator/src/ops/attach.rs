//! Attach and detach, for callers that ask for it by itself, before and after they mount: a cluster's controller, which
//! then tells the node how the bytes are reached. Such an attachment stays until it is taken back, whoever mounts
//! and unmounts meanwhile.
//!
//! Taking back is the caller's decision, as it alone knows whether a node that does not answer is gone. Only where
//! this very node still has the volume in use it is refused: then nobody needs to guess.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    drivers::{Progress, Sight, Subject},
    error::{Error, Kind, Outcome},
    family::Family,
    house::{House, Verdict},
    journal::{Change, contended},
    model::{
        Attachment, AttachmentState, Dependant, Hold, Intent, Node, NodeId, NodeState, Timestamp, VolumeId,
        VolumeState,
    },
    ops::{AttachVolume, AttachedVolume, Context, DetachVolume, NodeAddress, mount::unknown},
    ports::store::Durability,
    records::{self, keys},
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
            let watcher = self.drivers.watch(Subject::Volume(id));
            let now = self.now();
            let (_, recorded) = self
                .journal
                .edit_family(id, Durability::Durable, |family, _| record(family, wish, now))
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
                    self.settle(ctx, watcher, &["unmount", "detach"], goal).await.map_err(about)?;
                }
            }
        }
        Err(about(contended()))
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
        let Some(backend) = self.backend_of(id).await? else { return Ok(Outcome::Unchanged(())) };
        let attaches = backend.attachments().is_some();
        let node = wish.node.as_ref().map(|address| &address.id);
        let (here, now) = (self.node().clone(), self.now());
        let watcher = self.drivers.watch(Subject::Volume(id));
        let (_, going) = self
            .journal
            .edit_family(id, Durability::Durable, |family, change| {
                change.frees_space();
                in_use_here(family, &here, node)?;
                Ok(take_back(family, node, attaches, now))
            })
            .await
            .map_err(about)?;
        if !going {
            return Ok(Outcome::Unchanged(()));
        }
        let goal = |progress: &Progress, _: Option<&Error>| detached(progress, node);
        self.settle(ctx, watcher, &["unmount", "detach"], goal).await.map(Outcome::Changed).map_err(about)
    }

    async fn backend_of(&self, id: VolumeId) -> Result<Option<Arc<dyn crate::ports::Backend>>, Error> {
        match self.journal.family(id).await?.value.volume {
            Some(volume) => self.catalog().backend(&volume.backend).map(Some),
            None => Ok(None),
        }
    }
}

fn record(family: &mut Family, wish: &AttachVolume, now: Timestamp) -> Result<Recorded, Error> {
    let node = &wish.node.id;
    let Some(volume) = family.volume.as_mut() else { return Err(unknown(&wish.volume)) };
    match volume.state {
        VolumeState::Ready => {}
        VolumeState::Lost => {
            return Err(Error::precondition("its backend says that it is gone: bring it back, or delete it"));
        }
        VolumeState::Creating | VolumeState::Deleting => return Err(unknown(&wish.volume)),
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
            intent: (!ready).then(|| Intent::new(now)),
        };
        family.attachments.insert(node.clone(), attachment.clone());
        return Ok(answer(family, &attachment)
            .map_or(Recorded::Wait, |attached| Recorded::Attached(Box::new(attached))));
    };
    if attachment.state == AttachmentState::Detaching {
        return Ok(Recorded::Leaving);
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
        return Verdict::Answer(Err(Error::precondition(
            "it was detached by somebody else while it was attached",
        )));
    };
    answer(family, attachment).map_or(Verdict::Wait, |attached| Verdict::Answer(Ok(attached)))
}

/// Refuses to detach what this node has in use and would go on writing to.
fn in_use_here(family: &Family, here: &NodeId, node: Option<&NodeId>) -> Result<(), Error> {
    if node.is_some_and(|node| node != here) || family.holders(here).next().is_none() {
        return Ok(());
    }
    Err(Error::in_use(format!(
        "this node has it in use for {}: let that be unpublished and unstaged first",
        family.holders_text()
    )))
}

/// Lets attachments go; false if there is nothing to let go. What no record knows may be attached all the same: by
/// another daemon, or by this one before it lost its records. Then the backend is asked for it.
fn take_back(family: &mut Family, node: Option<&NodeId>, attaches: bool, now: Timestamp) -> bool {
    if let Some(node) = node
        && attaches
        && !family.attachments.contains_key(node)
        && let Some(volume) = family.volume.as_mut()
    {
        volume.dependants.insert(Dependant::Attachment(node.clone()));
        family.attachments.insert(
            node.clone(),
            Attachment {
                volume: family.id,
                node: node.clone(),
                state: AttachmentState::Attached,
                connection: None,
                client: None,
                fencing_token: now.0,
                read_only: false,
                hold: Hold::Asked,
                intent: None,
            },
        );
    }
    let mut going = false;
    for (of, attachment) in &mut family.attachments {
        if node.is_some_and(|node| node != of) {
            continue;
        }
        going = true;
        attachment.hold = Hold::WithMount;
        if attachment.state != AttachmentState::Detaching {
            attachment.state = AttachmentState::Detaching;
            attachment.intent = Some(Intent::new(now));
        }
    }
    let nodes: Vec<NodeId> =
        family.attachments.keys().filter(|of| node.is_none_or(|node| node == *of)).cloned().collect();
    for node in nodes {
        super::unmount::take_down(family, &node, now);
    }
    going
}

fn detached(progress: &Progress, node: Option<&NodeId>) -> Verdict<()> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    let stands = match node {
        Some(node) => family.attachments.contains_key(node),
        None => !family.attachments.is_empty(),
    };
    if stands { Verdict::Wait } else { Verdict::Answer(Ok(())) }
}
