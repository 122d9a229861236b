//! Steps that a backend takes with a volume and a node: attach, fence, detach.

use std::sync::Arc;

use tracing::{info, warn};

use crate::{
    error::{Error, Kind},
    family::Family,
    house::House,
    model::{Attachment, AttachmentState, Fence, Hold, Intent, Node, NodeId, Volume},
    ports::{
        backend::{Effect, NodeFacts},
        store::Durability,
    },
    records::keys,
    steps::{asked_later, backend::which, node::missing, resume},
};

/// What the backend is told of a node.
async fn node_facts(
    house: &House,
    family: &Family,
    volume: &Volume,
    node: &NodeId,
) -> Result<NodeFacts, Error> {
    let used = family.mounts.get(node).and_then(|mount| mount.device.clone());
    let known = house.journal.record::<Node>(keys::node(node)).await?.value;
    let name = known.and_then(|known| known.names.get(&volume.backend).cloned());
    let client = family.attachments.get(node).and_then(|attachment| attachment.client.clone());
    // What another node is called so is that node's to say, and it does not come this far.
    let own = house.identities.iter().filter(|_| node == house.node()).cloned();
    Ok(NodeFacts {
        name: name.unwrap_or_else(|| node.as_str().to_owned()),
        identities: own.chain(client.map(|client| ("client".to_owned(), client))).collect(),
        used_devices: used.into_iter().collect(),
        ..NodeFacts::default()
    })
}

pub(super) async fn attach(
    house: &Arc<House>,
    family: &Family,
    volume: &Volume,
    node: &NodeId,
) -> Result<(), Error> {
    let backend = house.backend(&volume.backend).await?;
    let attachment = family.attachments.get(node);
    let answer = match (backend.attachments(), &volume.connection) {
        (Some(attachments), _) => {
            let read_only = attachment.is_some_and(|one| one.read_only);
            let resume = resume(attachment.and_then(|one| one.intent.as_ref()));
            let facts = node_facts(house, family, volume, node).await?;
            match attachments.attach(which(house, volume), facts, read_only, resume).await {
                Ok(answer) => answer,
                Err(error) if error.kind == Kind::NotFound && error.is_final() => {
                    let mut told = missing(house, volume, error).await;
                    if told.kind == Kind::Precondition {
                        // Whoever asks for what is lost asks for what is not there.
                        told.kind = Kind::NotFound;
                    }
                    return Err(told);
                }
                Err(error) => return Err(error),
            }
        }
        (None, Some(connection)) => {
            Effect::Done(crate::ports::backend::Attached { connection: connection.clone(), client: None })
        }
        (None, None) => {
            return Err(Error::internal(
                "its backend neither attaches volumes nor says how they are reached",
            ));
        }
    };
    let now = house.now();
    edit_attachment(house, volume, node, Durability::Durable, |one| match &answer {
        Effect::Done(attached) => {
            one.connection = Some(attached.connection.clone());
            one.client = attached.client.clone();
            if one.state == AttachmentState::Attaching {
                one.state = AttachmentState::Attached;
                one.intent = None;
            }
        }
        Effect::Pending(pending) if one.state == AttachmentState::Attaching => {
            one.intent = Some(asked_later(one.intent.as_ref(), pending, now));
        }
        Effect::Pending(_) => {}
    })
    .await
}

/// Cuts a node off from a volume that was taken from it. That it is cut off is durable before the volume is let go.
pub(super) async fn fence(
    house: &Arc<House>,
    family: &Family,
    volume: &Volume,
    node: &NodeId,
) -> Result<(), Error> {
    let backend = house.backend(&volume.backend).await?;
    let (Some(attachment), Some(fencing)) = (family.attachments.get(node), backend.fencing()) else {
        return Err(Error::internal("a node is to be cut off, and its backend cannot"));
    };
    let facts = node_facts(house, family, volume, node).await?;
    let clients = attachment.client.clone().into_iter().collect();
    let resume = resume(attachment.intent.as_ref());
    let answer = fencing.fence(which(house, volume), facts, clients, resume).await;
    let now = house.now();
    let (fence, note) = match answer {
        Ok(Effect::Done(())) => (Fence::Done, None),
        // What this node had has ended, or it would not have let go: there is nobody to wait for.
        Ok(Effect::Pending(pending)) if node == house.node() => (Fence::Done, Some(pending.note)),
        Ok(Effect::Pending(pending)) => {
            return edit_attachment(house, volume, node, Durability::Durable, |one| {
                one.intent = Some(asked_later(one.intent.as_ref(), &pending, now));
            })
            .await;
        }
        // Nobody writes to what is not there.
        Err(error) if error.kind == Kind::NotFound && error.is_final() => (Fence::Done, None),
        // A backend that attaches says itself whether the node has let go. One that does not would say nothing.
        Err(error)
            if matches!(error.kind, Kind::Precondition | Kind::Unsupported)
                && backend.attachments().is_some() =>
        {
            warn!(volume.id = %volume.id, node.id = %node, error = %error, "could not cut a node off, and went on with an ordinary detach");
            (Fence::Unproven, Some(format!("{node} could not be cut off: {}", error.message)))
        }
        Err(error) => return Err(error),
    };
    if fence == Fence::Done {
        info!(volume.id = %volume.id, volume.name = %volume.name, node.id = %node, "cut a node off from a volume that was taken from it");
    }
    edit_attachment(house, volume, node, Durability::Durable, |one| {
        one.fence = fence;
        one.intent = Some(Intent { note: note.clone(), ..Intent::new(now) });
    })
    .await
}

pub(super) async fn detach(
    house: &Arc<House>,
    family: &Family,
    volume: &Volume,
    node: &NodeId,
) -> Result<(), Error> {
    let lent = family.attachments.get(node).is_some_and(|one| one.hold == Hold::Lent);
    if lent {
        // Whoever attached it detaches it.
        return let_go(house, volume, node).await;
    }
    let backend = house.backend(&volume.backend).await?;
    if let Some(attachments) = backend.attachments() {
        let facts = node_facts(house, family, volume, node).await?;
        let resume = resume(family.attachments.get(node).and_then(|one| one.intent.as_ref()));
        let answer = attachments.detach(which(house, volume), facts, resume).await;
        let now = house.now();
        match answer {
            Ok(Effect::Done(())) => {}
            Ok(Effect::Pending(pending)) => {
                return edit_attachment(house, volume, node, Durability::Durable, |one| {
                    if one.state == AttachmentState::Detaching {
                        one.intent = Some(asked_later(one.intent.as_ref(), &pending, now));
                    }
                })
                .await;
            }
            Err(error) if error.kind == Kind::NotFound && error.is_final() => {}
            Err(error) => return Err(error),
        }
    }
    let_go(house, volume, node).await
}

/// Takes an attachment that is over off the records.
async fn let_go(house: &House, volume: &Volume, node: &NodeId) -> Result<(), Error> {
    house
        .journal
        .edit_family(volume.id, Durability::Lazy, |family, _| {
            if family.attachments.get(node).is_some_and(|one| one.state == AttachmentState::Detaching) {
                family.drop_attachment(node);
            }
            Ok(())
        })
        .await
        .map(drop)
}

async fn edit_attachment(
    house: &House,
    volume: &Volume,
    node: &NodeId,
    durability: Durability,
    mut edit: impl FnMut(&mut Attachment) + Send,
) -> Result<(), Error> {
    house
        .journal
        .edit_family(volume.id, durability, |family, _| {
            if let Some(attachment) = family.attachments.get_mut(node) {
                edit(attachment);
            }
            Ok(())
        })
        .await
        .map(drop)
}
