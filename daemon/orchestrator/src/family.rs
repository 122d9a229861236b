//! Everything that the records say of one volume: what `plan` decides on, what a wish changes, what a
//! waiting request looks at. Families are read whole (one scan), changed as plain values, and written as the
//! difference; see `journal.rs`.

use std::collections::BTreeMap;

use crate::{
    model::{
        Attachment, AttachmentState, Dependant, HolderId, Intent, Keeping, LostMount, Mount, MountState,
        NodeId, Publication, PublicationState, Timestamp, Volume, VolumeId, VolumeState,
    },
    ops::VolumeView,
};

/// Everything that the records say of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) id: VolumeId,
    pub(crate) volume: Option<Volume>,
    pub(crate) attachments: BTreeMap<NodeId, Attachment>,
    pub(crate) mounts: BTreeMap<NodeId, Mount>,
    pub(crate) publications: BTreeMap<(NodeId, HolderId), Publication>,
    /// What nodes may still have of the volume that was taken from them. It outlives the volume.
    pub(crate) lost: BTreeMap<NodeId, LostMount>,
}

impl Family {
    /// The family of a volume of which there is no record.
    pub(crate) fn none(id: VolumeId) -> Self {
        Self {
            id,
            volume: None,
            attachments: BTreeMap::new(),
            mounts: BTreeMap::new(),
            publications: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }

    /// The node that the volume lies on, where its backend is a part of one: what is asked of that backend is asked there.
    pub(crate) fn seat(&self) -> Option<NodeId> {
        self.volume.as_ref().and_then(Volume::seat)
    }

    /// Who holds the volume on a node.
    pub(crate) fn holders<'a>(&'a self, node: &'a NodeId) -> impl Iterator<Item = &'a Publication> {
        self.publications.values().filter(move |publication| publication.node == *node)
    }

    /// Whether a node's mount is on its way down: wished to be, or broken and held by nobody. A broken one
    /// keeps its state until it is gone, so that nobody turns it around.
    pub(crate) fn is_going(&self, node: &NodeId) -> bool {
        self.mounts.get(node).is_some_and(|mount| match mount.state {
            MountState::Unmounting => true,
            MountState::Broken(_) => self.holders(node).next().is_none(),
            MountState::Mounting | MountState::Mounted => false,
        })
    }

    /// Whether a node has a mount of the volume, or may have a lost one.
    pub(crate) fn has_on(&self, node: &NodeId) -> bool {
        self.mounts.contains_key(node) || self.lost.contains_key(node)
    }

    /// Whether a node has the volume mounted, well or broken, and nobody has begun to take it down.
    pub(crate) fn stands(&self, node: &NodeId) -> bool {
        self.mounts
            .get(node)
            .is_some_and(|mount| matches!(mount.state, MountState::Mounted | MountState::Broken(_)))
            && self.attachments.get(node).is_some_and(|one| one.state == AttachmentState::Attached)
    }

    /// Whether the volume is attached to a node, or on its way there or back.
    pub(crate) fn is_attached(&self, node: &NodeId) -> bool {
        self.attachments.contains_key(node)
    }

    /// Whether anybody holds the volume anywhere.
    pub(crate) fn is_held(&self) -> bool {
        !self.publications.is_empty()
    }

    /// The holders, for a message.
    pub(crate) fn holders_text(&self) -> String {
        self.publications
            .values()
            .map(|publication| match publication.is_unknown() {
                true => format!("somebody unknown on {}", publication.node),
                false => format!("{} on {}", publication.holder, publication.node),
            })
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// What other than attachments keeps the volume from being deleted.
    pub(crate) fn copies(&self) -> impl Iterator<Item = &Dependant> {
        self.volume
            .iter()
            .flat_map(|volume| &volume.dependants)
            .filter(|dependant| !matches!(dependant, Dependant::Attachment(_)))
    }

    /// Removes what a volume keeps of an attachment, with the attachment; and with the last one the record of a volume
    /// that somebody else looks after.
    pub(crate) fn drop_attachment(&mut self, node: &NodeId) {
        self.attachments.remove(node);
        if let Some(volume) = &mut self.volume {
            volume.dependants.remove(&Dependant::Attachment(node.clone()));
        }
        let bare = self.attachments.is_empty() && self.mounts.is_empty() && self.publications.is_empty();
        if bare && self.volume.as_ref().is_some_and(|volume| volume.keeping == Keeping::Borrowed) {
            self.volume = None;
        }
    }

    /// Gives up a node's mount, with all who hold it there: from now on only that node has to do with it.
    pub(crate) fn lose(&mut self, node: &NodeId, now: Timestamp) {
        let Some(mount) = self.mounts.remove(node) else { return };
        let keys: Vec<_> = self.publications.keys().filter(|(of, _)| of == node).cloned().collect();
        let holders =
            keys.into_iter().filter_map(|key| Some((key.1.clone(), self.publications.remove(&key)?)));
        let holders: BTreeMap<_, _> = holders.collect();
        if let Some(before) = self.lost.get_mut(node) {
            // The node has to take that one down before it makes another: of this one there is nothing yet.
            return before.holders.extend(holders);
        }
        let Some(volume) = &self.volume else { return };
        let attachment = self.attachments.get(node);
        let lost = LostMount {
            name: volume.name.clone(),
            connection: attachment
                .and_then(|one| one.connection.clone())
                .or_else(|| volume.connection.clone()),
            mount,
            holders,
            since: now,
            intent: Some(Intent::new(now)),
        };
        self.lost.insert(node.clone(), lost);
    }

    /// A node that may still write what it has lost, because it was not cut off or detached yet.
    pub(crate) fn lost_and_attached(&self) -> Option<&NodeId> {
        self.lost.keys().find(|node| self.attachments.contains_key(*node))
    }

    /// Whether some record is on its way somewhere: such a family has a driver.
    pub(crate) fn is_unfinished(&self) -> bool {
        let volume = self.volume.as_ref().is_some_and(|volume| {
            matches!(volume.state, VolumeState::Creating | VolumeState::Deleting)
                || volume.wants_growth()
                || volume.wants_modify()
                || volume.filling.is_some()
        });
        volume
            || self.attachments.values().any(|attachment| attachment.state != AttachmentState::Attached)
            || self.mounts.iter().any(|(node, mount)| match mount.state {
                MountState::Mounted => {
                    mount.fs_behind && !mount.intent.as_ref().is_some_and(Intent::is_parked)
                }
                MountState::Broken(_) => self.is_going(node),
                MountState::Mounting | MountState::Unmounting => true,
            })
            || self.publications.values().any(|publication| publication.state != PublicationState::Published)
    }

    /// The same, for doors.
    pub(crate) fn view(&self) -> Option<VolumeView> {
        Some(VolumeView {
            volume: self.volume.clone()?,
            attachments: self.attachments.values().cloned().collect(),
            mounts: self.mounts.values().cloned().collect(),
            publications: self.publications.values().cloned().collect(),
            lost: self.lost.values().cloned().collect(),
            complaint: None,
        })
    }
}
