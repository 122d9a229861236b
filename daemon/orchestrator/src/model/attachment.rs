//! An attachment: the backend lets a node reach a volume. Attaching → Attached → Detaching → (removed). One that is
//! taken from a node that nobody knows to have let go is fenced on its way, where the backend can.

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
    /// Whether its node has to be cut off before it is let go.
    pub fence: Fence,
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

impl Attachment {
    /// What was this node's client there has ended without a word, and its backend may wait for it: whoever connects next
    /// waits less when it was cut off. Somebody else's attachment is somebody else's to look after.
    pub fn lost_its_client(&mut self) {
        if self.client.is_some() && self.fence == Fence::Unneeded && self.hold != Hold::Lent {
            self.fence = Fence::Wished;
        }
    }
}

/// Whether a node has to be cut off from a volume before its attachment is let go. In doubt it has to be: to cut off a
/// node that has let go is to find nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fence {
    /// It let go by itself, or its backend cannot cut anybody off.
    #[default]
    Unneeded,
    /// It was taken from a node that may still write.
    Wished,
    /// No write of that node reaches the volume any more. Recorded before the attachment is let go.
    Done,
    /// Its backend could not prove that. What is left is an ordinary detach, which a backend refuses as long as the
    /// volume is in use there.
    Unproven,
}

impl Fence {
    /// As people and programs read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unneeded => "unneeded",
            Self::Wished => "wished",
            Self::Done => "done",
            Self::Unproven => "unproven",
        }
    }
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
