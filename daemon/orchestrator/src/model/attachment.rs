//! An attachment: the backend lets a node reach a volume. Attaching → Attached → Detaching → (removed).

use super::{Connection, Intent, NodeId, VolumeId};

/// The backend lets a node reach a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Which volume.
    pub volume: VolumeId,
    /// Which node.
    pub node: NodeId,
    /// Where it is in its life.
    pub state: AttachmentState,
    /// How the node reaches it, once attached.
    pub connection: Option<Connection>,
    /// Who the node is to the backend, for fencing it: recorded from the moment of connecting.
    pub client: Option<String>,
    /// Rises with every attachment of the volume, so that an old writer can be told from a new one.
    pub fencing_token: u64,
    /// Whether it may only be read there.
    pub read_only: bool,
    /// Who lets it go.
    pub hold: Hold,
    /// The unfinished wish, if there is one.
    pub intent: Option<Intent>,
}

/// Who lets an attachment go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// It goes with the node's mount.
    #[default]
    WithMount,
    /// A caller asked for it by itself, and it stays until the caller takes it back.
    Asked,
    /// Somebody else attached it and will detach it; here it is only known, for as long as it is mounted.
    Lent,
}

/// Where an attachment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachmentState {
    /// Wished for.
    Attaching,
    /// The node can connect.
    Attached,
    /// To be gone.
    Detaching,
}
