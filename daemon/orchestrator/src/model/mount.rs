//! A mount: a node has connected, formatted and mounted a volume once, at one staging path, for all its
//! holders. Mounting → Mounted → Unmounting → (removed); a mount whose server died below it is Broken, and one whose
//! volume was taken from its node is lost: it is a mount no more, but for that node, which takes down what is left.

use std::collections::BTreeMap;

use super::{Connection, HolderId, Intent, NodeId, Publication, Timestamp, VolumeId, VolumeName};

/// A node has a volume mounted, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which volume.
    pub volume: VolumeId,
    /// Which node.
    pub node: NodeId,
    /// Where it is in its life.
    pub state: MountState,
    /// Which boot of the node it belongs to: after another boot it is gone, whatever its state.
    pub boot_id: String,
    /// Where it is mounted; made up by the node.
    pub path: Option<String>,
    /// What the node connected it as (`/dev/loop3`), for people and for taking it away.
    pub device: Option<String>,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Whether its holders get the device itself: then it is connected and nothing is mounted.
    pub raw: bool,
    /// Options of this mount, on top of the volume's own.
    pub options: Vec<String>,
    /// Since when nobody holds it; it is taken down after a while.
    pub idle_since: Option<Timestamp>,
    /// Whether the filesystem is known to be smaller than its device: grown at the next chance.
    pub fs_behind: bool,
    /// The unfinished wish, if there is one.
    pub intent: Option<Intent>,
}

/// What a node may still have of a volume that was taken from it while it did not answer. It holds nothing: the volume
/// is used elsewhere, changed and deleted as if it were not there. Its node takes it down before it uses the volume again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostMount {
    /// What the volume was called: it may be gone by now.
    pub name: VolumeName,
    /// How the node reached it.
    pub connection: Option<Connection>,
    /// The mount as it was.
    pub mount: Mount,
    /// Who held it there.
    pub holders: BTreeMap<HolderId, Publication>,
    /// When it was taken from the node.
    pub since: Timestamp,
    /// How the taking down goes.
    pub intent: Option<Intent>,
}

/// Where a mount is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountState {
    /// Wished for.
    Mounting,
    /// Holders can use it.
    Mounted,
    /// Cut off from its bytes; holders keep it until they leave. Says why.
    Broken(String),
    /// To be gone.
    Unmounting,
}

impl MountState {
    /// The names of all of them.
    pub const NAMES: [&str; 4] = ["mounting", "mounted", "broken", "unmounting"];

    /// As people and programs read it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mounting => "mounting",
            Self::Mounted => "mounted",
            Self::Broken(_) => "broken",
            Self::Unmounting => "unmounting",
        }
    }
}
