//! What has to be before a node gets a volume that another one has: one writer, at any time.
//!
//! - A node that is there and holds it keeps it: whoever asks elsewhere is refused, and told by whom.
//! - A node that is there and holds it for nobody lets it go, and the request waits for that.
//! - A node that stopped on purpose goes on writing what it has mounted: refused until it is back, or late.
//! - A node that is gone may still write. It is fenced, and its volume moves when its backend says that this is done; what
//!   no backend can cut off moves when a person made sure that the node is down, and not before.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    drivers::{Progress, Sight, Subject},
    error::Error,
    family::Family,
    fellows::Presence,
    house::{House, Verdict},
    model::{Hold, NodeId, VolumeId},
    ops::{Context, attach::Taking, unmount::take_down},
    ports::store::Durability,
};

/// The steps whose failures are a taking over's.
const STEPS: [&str; 3] = ["unmount", "fence", "detach"];

impl House {
    /// Waits until no other node has a volume; refuses where one keeps it. Where nothing is known of other nodes this is
    /// left to who mounts.
    pub(crate) async fn take_over(self: &Arc<Self>, ctx: &Context, id: VolumeId) -> Result<(), Error> {
        if self.fellows.is_none() {
            return Ok(());
        }
        let family = self.journal.family(id).await?.value;
        let Some(volume) = &family.volume else { return Ok(()) };
        let others: Vec<NodeId> =
            family.attachments.keys().filter(|node| *node != self.node()).cloned().collect();
        if others.is_empty() {
            return Ok(());
        }
        let abilities = self.catalog().backend(&volume.backend)?.describe().abilities;
        let watcher = self.drivers.watch(Subject::Volume(id));
        for node in &others {
            let presence = self.presence(node).await?;
            let now = self.now();
            let taking = Taking {
                node: Some(node),
                suspects: Vec::new(),
                recorded: BTreeSet::new(),
                answering: BTreeSet::new(),
                down: (presence == Presence::Down).then(|| node.clone()).into_iter().collect(),
                abilities,
                now,
            };
            self.journal
                .edit_family(id, Durability::Durable, |family, _| {
                    if !family.is_attached(node) {
                        return Ok(());
                    }
                    match presence {
                        Presence::There => {
                            kept(family, node)?;
                            take_down(family, node, now);
                        }
                        Presence::Away(until) => {
                            return Err(Error::in_use(format!(
                                "node {node} has it, whose daemon was stopped and means to be back by {until}: what is \
                                 mounted there goes on"
                            )));
                        }
                        Presence::Gone if !abilities.fence && !abilities.attachments => {
                            return Err(Error::precondition(format!(
                                "node {node} has it and is not heard, and nobody can cut it off: make sure that it is \
                                 down, and say so with `kato node confirm-down {node}`"
                            )));
                        }
                        Presence::Gone | Presence::Down => {
                            taking.take_back(family);
                        }
                        Presence::Unknown => {}
                    }
                    Ok(())
                })
                .await?;
        }
        let here = self.node().clone();
        self.settle(ctx, watcher, &STEPS, |progress, _| alone(progress, &here)).await.map_err(still_had)
    }
}

/// Refuses to take what a node that is there has in use.
fn kept(family: &Family, node: &NodeId) -> Result<(), Error> {
    if family.holders(node).next().is_some() {
        return Err(Error::in_use(format!(
            "node {node} has it in use for {}: stop that first",
            family.holders_text()
        )));
    }
    match family.attachments.get(node).map(|one| one.hold) {
        Some(Hold::Asked) => {
            Err(Error::in_use(format!("it is attached to node {node}: detach it there first")))
        }
        Some(Hold::WithMount | Hold::Lent) | None => Ok(()),
    }
}

/// Whether no other node has it.
fn alone(progress: &Progress, here: &NodeId) -> Verdict<()> {
    let Sight::Volume(family) = &progress.sight else { return Verdict::Wait };
    if family.attachments.keys().all(|node| node == here) { Verdict::Answer(Ok(())) } else { Verdict::Wait }
}

/// What a caller hears who waits for another node to let go, or to be cut off: it goes on, so no word of a step is the last
/// one.
fn still_had(error: Error) -> Error {
    error.pending()
}
