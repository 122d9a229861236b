//! A publication: one holder's path into a mount, with its count. A holder exists only if it was told.

use super::{HolderId, Intent, NodeId, Timestamp, VolumeId};

/// One holder's path into a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Which volume.
    pub volume: VolumeId,
    /// On which node.
    pub node: NodeId,
    /// Who holds it.
    pub holder: HolderId,
    /// How often it was told minus how often it gave back. Holders without an id count to one.
    pub count: u32,
    /// Where it finds the data.
    pub target: Target,
    /// Whether it may only read.
    pub read_only: bool,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether nobody else may have a path of its own beside it.
    pub alone: bool,
    /// The group that everything on the volume is to belong to.
    pub group: Option<u32>,
    /// Where it is in its life.
    pub state: PublicationState,
    /// Which process asked, where the door can tell.
    pub caller: Option<Caller>,
    /// When it was first told.
    pub since: Timestamp,
    /// Since when the reaper believes that nobody is there any more.
    pub doubtful_since: Option<Timestamp>,
    /// The unfinished wish, if there is one.
    pub intent: Option<Intent>,
}

impl Publication {
    /// The holder of what stood mounted when its records were rebuilt: somebody, or nobody.
    pub const UNKNOWN: &str = "(unknown)";

    /// Whether nobody knows who it is.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.holder.as_str() == Self::UNKNOWN
    }
}

/// Where a holder finds the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// In the mount itself, shared with all who do so.
    Shared,
    /// At a path of its own choice, bound from the mount.
    Path(String),
}

/// What a publication is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody uses the volume.
    #[default]
    Use,
    /// The caller keeps the volume ready on this node, for uses to come.
    Stage,
}

/// Where a publication is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicationState {
    /// Wished for. After a restart its holder may or may not have been told: doubtful.
    Publishing,
    /// Its holder was told.
    Published,
    /// To be gone: its bind has to be undone.
    Leaving,
}

/// A process that asked: enough to know later whether it is the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Its process id, as seen over the socket; zero when it cannot be seen.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub started: u64,
}
