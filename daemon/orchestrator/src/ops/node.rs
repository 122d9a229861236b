//! What a person decides about nodes: that nothing new goes there, and that one is surely down.

use std::sync::Arc;

use crate::{
    error::{Error, Outcome},
    fellows::Presence,
    house::House,
    model::{Node, NodeId, NodeState, VolumeId},
    ports::store::Durability,
    records::keys,
};

/// A node, and what a person wants to know of it at night.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// What the records say.
    pub node: Node,
    /// A stable word: `here`, `there`, `away`, `gone`, `down`, `unknown`.
    pub presence: &'static str,
    /// How many volumes it has mounted.
    pub mounts: u64,
    /// How many were taken from it, and are still to be taken down there.
    pub lost: u64,
    /// Who holds volumes there, as `volume: holders`.
    pub holders: Vec<String>,
}

impl House {
    /// What is known of all nodes.
    pub(crate) async fn node_views(&self) -> Result<Vec<NodeView>, Error> {
        let mut views = Vec::new();
        for node in self.journal.all::<Node>(keys::NODES).await? {
            views.push(self.node_view(node).await?);
        }
        Ok(views)
    }

    async fn node_view(&self, node: Node) -> Result<NodeView, Error> {
        let presence = match self.presence(&node.id).await? {
            Presence::There if node.id == *self.node() => "here",
            Presence::There => "there",
            Presence::Away(_) => "away",
            Presence::Gone => "gone",
            Presence::Down => "down",
            Presence::Unknown => "unknown",
        };
        let mut view = NodeView { node, presence, mounts: 0, lost: 0, holders: Vec::new() };
        let segments = self.journal.segments(&keys::node_mounts(&view.node.id)).await?;
        for id in segments.iter().filter_map(|segment| VolumeId::parse(segment)) {
            let family = self.journal.family(id).await?.value;
            view.mounts += u64::from(family.mounts.contains_key(&view.node.id));
            view.lost += u64::from(family.lost.contains_key(&view.node.id));
            let holders: Vec<String> =
                family.holders(&view.node.id).map(|publication| publication.holder.to_string()).collect();
            if let (Some(volume), false) = (&family.volume, holders.is_empty()) {
                view.holders.push(format!("{}: {}", volume.name, holders.join(", ")));
            }
        }
        Ok(view)
    }

    /// Lets nothing new be mounted on a node, or lets it again.
    pub(crate) async fn drain(&self, id: &NodeId, drained: bool) -> Result<Outcome<NodeView>, Error> {
        let mut before = drained;
        let node = self.edit_node(id, Durability::Durable, |node| {
            before = node.drained;
            node.drained = drained;
        });
        let view = self.node_view(node.await?).await?;
        Ok(if before == drained { Outcome::Unchanged(view) } else { Outcome::Changed(view) })
    }

    /// A person made sure that a node is down, or that nothing of it reaches any backend: what it has is anybody's.
    pub(crate) async fn confirm_down(self: &Arc<Self>, id: &NodeId) -> Result<Outcome<NodeView>, Error> {
        let about = |error: Error| error.about(format!("node {id}"));
        match self.presence(id).await? {
            Presence::There => {
                return Err(about(Error::precondition(
                    "it is there: its lease lives, and it writes what it has. Stop its machine first, and wait until its \
                     lease has run out",
                )));
            }
            Presence::Down | Presence::Gone | Presence::Away(_) | Presence::Unknown => {}
        }
        let mut before = NodeState::Down;
        let node = self.edit_node(id, Durability::Durable, |node| {
            before = node.state;
            node.state = NodeState::Down;
        });
        let view = self.node_view(node.await?).await?;
        Ok(if before == NodeState::Down { Outcome::Unchanged(view) } else { Outcome::Changed(view) })
    }

    /// Refuses what is new on a node that is being drained.
    pub(crate) async fn receives(&self) -> Result<(), Error> {
        if self.fellows.is_none() {
            return Ok(());
        }
        let here = self.journal.record::<Node>(keys::node(self.node())).await?.value;
        match here {
            Some(node) if node.drained => Err(Error::precondition(format!(
                "node {} is being drained and takes nothing new: mount it elsewhere, or `kato node undrain {}`",
                self.node(),
                self.node()
            ))),
            _ => Ok(()),
        }
    }
}
