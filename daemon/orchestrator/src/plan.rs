//! What comes next: the whole policy of the house on one screen, without IO and without a clock of its own.
//!
//! ```text
//!  build up, from the bottom                      take down, from the top
//!
//!      publication  (bind, for paths of their own)      unbind
//!      mount        (format once, mount, grow fs)       unmount
//!      attachment   (attach)                            detach
//!      volume       (create, grow, modify)              delete
//! ```
//!
//! Taking down has precedence. A step whose intent has to wait (a failure's pause, a backend that said
//! "ask later") is passed over for the next candidate that does not stand on it: a grow in its cool-down
//! keeps nobody from unmounting or deleting. Building up first finishes what it stands on: nothing is attached
//! while the volume is being created, nothing mounted before it is attached and formatted. A step on a node
//! is only planned for the node that we are.

use crate::{
    family::Family,
    model::{
        AttachmentState, FsState, HolderId, Intent, MountState, NodeId, PublicationState, Target, Timestamp,
        VolumeState,
    },
    ports::backend::{Abilities, Growing},
};

/// One thing to do for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Unbind(HolderId),
    Unmount,
    Detach(NodeId),
    Delete,
    Create,
    Grow,
    Modify,
    Attach(NodeId),
    Format,
    Mount,
    GrowFilesystem,
    Bind(HolderId),
}

impl Step {
    /// Its name in logs and metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Unbind(_) => "unbind",
            Self::Unmount => "unmount",
            Self::Detach(_) => "detach",
            Self::Delete => "delete",
            Self::Create => "create",
            Self::Grow => "grow",
            Self::Modify => "modify",
            Self::Attach(_) => "attach",
            Self::Format => "format",
            Self::Mount => "mount",
            Self::GrowFilesystem => "grow-filesystem",
            Self::Bind(_) => "bind",
        }
    }

    /// Whether it happens on this node rather than at the backend.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unbind(_)
            | Self::Unmount
            | Self::Format
            | Self::Mount
            | Self::GrowFilesystem
            | Self::Bind(_) => true,
            Self::Detach(_) | Self::Delete | Self::Create | Self::Grow | Self::Modify | Self::Attach(_) => {
                false
            }
        }
    }
}

/// What comes next for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This.
    Step(Step),
    /// Nothing before then.
    Wait(Timestamp),
    /// Nothing until somebody wishes something.
    Rest,
}

/// Who plans, and what it may plan.
#[derive(Clone, Debug)]
pub(crate) struct Role<'a> {
    /// The node that we are.
    pub(crate) node: &'a NodeId,
    /// What the volume's backend can do.
    pub(crate) abilities: Abilities,
    /// Somebody just asked: a pause after a failure is cut short, a backend's "ask later" is not.
    pub(crate) hurry: bool,
}

/// The next step from these records.
pub(crate) fn next(family: &Family, role: &Role<'_>, now: Timestamp) -> Next {
    let mut wait: Option<Timestamp> = None;
    for (step, intent) in candidates(family, role) {
        match intent {
            Some(intent) if intent.is_parked() => {}
            Some(intent) if intent.next_try > now && !(role.hurry && intent.resume.is_none()) => {
                wait = Some(wait.map_or(intent.next_try, |other| other.min(intent.next_try)));
            }
            _ => return Next::Step(step),
        }
    }
    wait.map_or(Next::Rest, Next::Wait)
}

/// Everything that could be done now, the most urgent first.
fn candidates<'a>(family: &'a Family, role: &Role<'a>) -> Vec<(Step, Option<&'a Intent>)> {
    let mut steps = Vec::new();
    take_down(family, role, &mut steps);
    build_up(family, role, &mut steps);
    steps
}

type Candidates<'a> = Vec<(Step, Option<&'a Intent>)>;

fn take_down<'a>(family: &'a Family, role: &Role<'a>, steps: &mut Candidates<'a>) {
    for publication in family.holders(role.node).filter(|one| one.state == PublicationState::Leaving) {
        steps.push((Step::Unbind(publication.holder.clone()), publication.intent.as_ref()));
    }
    if let Some(mount) = family.mounts.get(role.node) {
        if mount.state == MountState::Unmounting && family.holders(role.node).next().is_none() {
            steps.push((Step::Unmount, mount.intent.as_ref()));
        }
    }
    for (node, attachment) in &family.attachments {
        if attachment.state == AttachmentState::Detaching && !family.mounts.contains_key(node) {
            steps.push((Step::Detach(node.clone()), attachment.intent.as_ref()));
        }
    }
    if let Some(volume) = &family.volume {
        let bare =
            family.attachments.is_empty() && family.mounts.is_empty() && family.publications.is_empty();
        if volume.state == VolumeState::Deleting && bare {
            steps.push((Step::Delete, volume.intent.as_ref()));
        }
    }
}

fn build_up<'a>(family: &'a Family, role: &Role<'a>, steps: &mut Candidates<'a>) {
    let Some(volume) = &family.volume else { return };
    match volume.state {
        VolumeState::Creating => return steps.push((Step::Create, volume.intent.as_ref())),
        VolumeState::Deleting | VolumeState::Lost => return,
        VolumeState::Ready => {}
    }
    let attached = !family.attachments.is_empty();
    if volume.wants_growth() && (role.abilities.grow == Some(Growing::Online) || !attached) {
        steps.push((Step::Grow, volume.intent.as_ref()));
    }
    if volume.wants_modify() {
        steps.push((Step::Modify, volume.intent.as_ref()));
    }
    for (node, attachment) in &family.attachments {
        if attachment.state == AttachmentState::Attaching {
            steps.push((Step::Attach(node.clone()), attachment.intent.as_ref()));
        }
    }
    let attachment = family.attachments.get(role.node).filter(|one| one.state == AttachmentState::Attached);
    let (Some(attachment), Some(mount)) = (attachment, family.mounts.get(role.node)) else { return };
    let bare_device = !attachment.connection.as_ref().is_some_and(crate::model::Connection::is_directory);
    match mount.state {
        MountState::Mounting if bare_device && volume.filesystem.state != FsState::Formatted => {
            steps.push((Step::Format, mount.intent.as_ref()));
        }
        MountState::Mounting => steps.push((Step::Mount, mount.intent.as_ref())),
        MountState::Mounted => {
            for publication in
                family.holders(role.node).filter(|one| one.state == PublicationState::Publishing)
            {
                if matches!(publication.target, Target::Path(_)) {
                    steps.push((Step::Bind(publication.holder.clone()), publication.intent.as_ref()));
                }
            }
            if mount.fs_behind {
                steps.push((Step::GrowFilesystem, mount.intent.as_ref()));
            }
        }
        MountState::Unmounting | MountState::Broken(_) => {}
    }
}
