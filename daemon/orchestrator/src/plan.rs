//! What comes next: the whole policy of the house on one screen, without IO and without a clock of its own.
//!
//! ```text
//!  build up, from the bottom                      take down, from the top
//!
//!      publication  (bind, for paths of their own)      unbind
//!      mount        (format once, mount, grow fs)       unmount
//!      attachment   (attach)                            fence, detach
//!      volume       (create, fill, grow, modify)        let go, delete
//! ```
//!
//! Taking down has precedence. A step whose intent has to wait (a failure's pause, a backend that said
//! "ask later") is passed over for the next candidate that does not stand on it: a grow in its cool-down
//! keeps nobody from unmounting or deleting. Building up first finishes what it stands on: nothing is attached
//! while the volume is being created, nothing mounted before it is attached and formatted. A step on a node
//! is only planned for the node that we are.
//!
//! A volume that was taken from a node which may still write is fenced before it is detached, so that whoever gets it
//! next is the only writer. What such a node still has is lost to it: it takes that down before it makes it anew.

use crate::{
    family::Family,
    model::{
        AttachmentState, Fence, FsState, HolderId, Intent, MountState, NodeId, PublicationState, Stage,
        Target, Timestamp, Volume, VolumeState,
    },
    ports::backend::{Abilities, Growing},
};

/// One thing to do for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    TakeDownLost,
    Unbind(HolderId),
    Unmount,
    Fence(NodeId),
    Detach(NodeId),
    LetGo,
    Delete,
    Create,
    Fill,
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
            Self::TakeDownLost => "take-down-lost",
            Self::Unbind(_) => "unbind",
            Self::Unmount => "unmount",
            Self::Fence(_) => "fence",
            Self::Detach(_) => "detach",
            Self::LetGo => "let-go",
            Self::Delete => "delete",
            Self::Create => "create",
            Self::Fill => "fill",
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
            Self::TakeDownLost
            | Self::Unbind(_)
            | Self::Unmount
            | Self::LetGo
            | Self::Fill
            | Self::Format
            | Self::Mount
            | Self::GrowFilesystem
            | Self::Bind(_) => true,
            Self::Fence(_)
            | Self::Detach(_)
            | Self::Delete
            | Self::Create
            | Self::Grow
            | Self::Modify
            | Self::Attach(_) => false,
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
    if let Some(lost) = family.lost.get(role.node) {
        steps.push((Step::TakeDownLost, lost.intent.as_ref()));
    }
    for publication in family.holders(role.node).filter(|one| one.state == PublicationState::Leaving) {
        steps.push((Step::Unbind(publication.holder.clone()), publication.intent.as_ref()));
    }
    if let Some(mount) = family.mounts.get(role.node)
        && family.is_going(role.node)
        && family.holders(role.node).next().is_none()
    {
        steps.push((Step::Unmount, mount.intent.as_ref()));
    }
    let filling = family.volume.as_ref().and_then(|volume| volume.filling.as_ref());
    for (node, attachment) in &family.attachments {
        // What copied into the volume is disconnected first.
        if attachment.state == AttachmentState::Detaching
            && !family.mounts.contains_key(node)
            && filling.is_none()
        {
            let fences = attachment.fence == Fence::Wished && role.abilities.fence;
            let step = if fences { Step::Fence(node.clone()) } else { Step::Detach(node.clone()) };
            steps.push((step, attachment.intent.as_ref()));
        }
    }
    if let Some(volume) = &family.volume {
        let bare =
            family.attachments.is_empty() && family.mounts.is_empty() && family.publications.is_empty();
        if volume.filling.is_some() && volume.state != VolumeState::Creating {
            steps.push((Step::LetGo, volume.intent.as_ref()));
        } else if volume.state == VolumeState::Deleting && bare {
            steps.push((Step::Delete, volume.intent.as_ref()));
        }
    }
}

fn build_up<'a>(family: &'a Family, role: &Role<'a>, steps: &mut Candidates<'a>) {
    let Some(volume) = &family.volume else { return };
    match volume.state {
        VolumeState::Creating => return make(family, volume, role, steps),
        VolumeState::Deleting | VolumeState::Lost => return,
        // Nobody gets it while something of its copying is left.
        VolumeState::Ready if volume.filling.is_some() => return,
        VolumeState::Ready => {}
    }
    let attached = !family.attachments.is_empty();
    let growing = volume.wants_growth().then_some((Step::Grow, volume.intent.as_ref()));
    // A backend that grows offline and was asked already is at work on the volume: nobody gets it before the end.
    let at_work = volume.intent.as_ref().is_some_and(|intent| intent.resume.is_some());
    if let Some(grow) = growing
        && (role.abilities.grow == Some(Growing::Online) || at_work || !attached)
    {
        steps.push(grow);
        if at_work && role.abilities.grow != Some(Growing::Online) {
            return;
        }
    }
    if volume.wants_modify() {
        steps.push((Step::Modify, volume.intent.as_ref()));
    }
    for (node, attachment) in &family.attachments {
        if attachment.state == AttachmentState::Attaching {
            steps.push((Step::Attach(node.clone()), attachment.intent.as_ref()));
        }
    }
    if family.lost.contains_key(role.node) {
        return;
    }
    let attachment = family.attachments.get(role.node).filter(|one| one.state == AttachmentState::Attached);
    let (Some(attachment), Some(mount)) = (attachment, family.mounts.get(role.node)) else { return };
    let bare_device = !attachment.connection.as_ref().is_some_and(crate::model::Connection::is_directory);
    match mount.state {
        MountState::Mounting
            if bare_device && !mount.raw && volume.filesystem.state != FsState::Formatted =>
        {
            steps.push((Step::Format, mount.intent.as_ref()));
        }
        MountState::Mounting => steps.push((Step::Mount, mount.intent.as_ref())),
        MountState::Mounted | MountState::Broken(_) => {
            // Nobody new gets a broken mount; a bind that was recorded before it broke is finished.
            for publication in
                family.holders(role.node).filter(|one| one.state == PublicationState::Publishing)
            {
                if matches!(publication.target, Target::Path(_)) {
                    steps.push((Step::Bind(publication.holder.clone()), publication.intent.as_ref()));
                }
            }
            if mount.fs_behind && mount.state == MountState::Mounted {
                steps.push((Step::GrowFilesystem, mount.intent.as_ref()));
            }
        }
        MountState::Unmounting => {}
    }
}

/// Makes a volume. One that is a copy from another backend is made, or begun as a seed, then written, and a seed then
/// becomes a volume.
fn make<'a>(family: &'a Family, volume: &'a Volume, role: &Role<'a>, steps: &mut Candidates<'a>) {
    let copying = volume.filling.as_ref().filter(|filling| filling.stage == Stage::Copying);
    let Some(filling) = copying else { return steps.push((Step::Create, volume.intent.as_ref())) };
    if filling.seed.is_some() {
        return steps.push((Step::Fill, volume.intent.as_ref()));
    }
    match family.attachments.get(role.node) {
        Some(attachment) if attachment.state == AttachmentState::Attaching => {
            steps.push((Step::Attach(role.node.clone()), attachment.intent.as_ref()));
        }
        Some(_) => steps.push((Step::Fill, volume.intent.as_ref())),
        // It is another node that copies.
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::model::{
        Attachment, BackendName, Bytes, CapacityRange, ClassName, Connection, Filesystem, FsType, Mount,
        Publication, VolumeId, VolumeName, Wanted,
    };

    const NOW: Timestamp = Timestamp(1_000);

    fn node(text: &str) -> NodeId {
        NodeId::parse(text).unwrap()
    }

    fn role(here: &NodeId) -> Role<'_> {
        let abilities = Abilities { grow: Some(Growing::Online), ..Abilities::default() };
        Role { node: here, abilities, hurry: false }
    }

    /// A volume that is ready, formatted, an image, and used by nobody.
    fn family() -> Family {
        let id = VolumeId(1);
        let volume = Volume {
            id,
            name: VolumeName::parse("db").unwrap(),
            class: ClassName::parse("default").unwrap(),
            backend: BackendName::parse("local").unwrap(),
            generation: 0,
            made_as: None,
            wanted: Wanted {
                size: CapacityRange::at_least(Bytes(1)),
                parameters: BTreeMap::new(),
                places: Vec::new(),
            },
            actual: Some(Bytes(1)),
            actual_parameters: BTreeMap::new(),
            source: None,
            filling: None,
            found: false,
            held_still: None,
            handle: None,
            connection: None,
            topology: BTreeMap::new(),
            state: VolumeState::Ready,
            filesystem: Filesystem {
                fs: FsType::Ext4,
                state: FsState::Formatted,
                mount_options: Vec::new(),
                root: Default::default(),
            },
            dependants: BTreeSet::new(),
            keeping: Default::default(),
            labels: BTreeMap::new(),
            created: NOW,
            intent: None,
        };
        Family { volume: Some(volume), ..Family::none(id) }
    }

    fn volume(family: &mut Family) -> &mut Volume {
        family.volume.as_mut().unwrap()
    }

    fn attach(family: &mut Family, to: &str, state: AttachmentState) {
        let attachment = Attachment {
            volume: family.id,
            node: node(to),
            state,
            connection: Some(Connection::File { root: "/r".into(), path: "p".into() }),
            client: None,
            fencing_token: 0,
            read_only: false,
            hold: Default::default(),
            fence: Fence::Unneeded,
            intent: None,
        };
        family.attachments.insert(node(to), attachment);
    }

    fn mount(family: &mut Family, on: &str, state: MountState) {
        let mount = Mount {
            volume: family.id,
            node: node(on),
            state,
            boot_id: "b".into(),
            path: None,
            device: None,
            read_only: false,
            raw: false,
            options: Vec::new(),
            idle_since: None,
            fs_behind: false,
            intent: None,
        };
        family.mounts.insert(node(on), mount);
    }

    fn publish(family: &mut Family, state: PublicationState) {
        let holder = HolderId::parse("h").unwrap();
        let publication = Publication {
            volume: family.id,
            node: node("here"),
            holder: holder.clone(),
            count: 1,
            target: Target::Path("/pod".into()),
            read_only: false,
            purpose: Default::default(),
            alone: false,
            group: None,
            state,
            caller: None,
            since: NOW,
            doubtful_since: None,
            intent: None,
        };
        family.publications.insert((node("here"), holder), publication);
    }

    fn paused() -> Option<Intent> {
        Some(Intent { next_try: Timestamp(5_000), ..Intent::default() })
    }

    /// Records in, step out.
    #[track_caller]
    fn check(expected: Next, build: impl FnOnce(&mut Family)) {
        let mut family = family();
        build(&mut family);
        assert_eq!(next(&family, &role(&node("here")), NOW), expected, "{family:#?}");
    }

    #[test]
    fn nothing_wished_is_rest() {
        check(Next::Rest, |_| {});
    }

    #[test]
    fn building_up_goes_from_the_bottom() {
        check(Next::Step(Step::Create), |family| {
            volume(family).state = VolumeState::Creating;
            attach(family, "here", AttachmentState::Attaching);
        });
        check(Next::Step(Step::Attach(node("here"))), |family| {
            attach(family, "here", AttachmentState::Attaching);
            mount(family, "here", MountState::Mounting);
        });
        check(Next::Step(Step::Format), |family| {
            volume(family).filesystem.state = FsState::Formatting;
            attach(family, "here", AttachmentState::Attached);
            mount(family, "here", MountState::Mounting);
        });
        check(Next::Step(Step::Mount), |family| {
            attach(family, "here", AttachmentState::Attached);
            mount(family, "here", MountState::Mounting);
        });
        check(Next::Step(Step::Bind(HolderId::parse("h").unwrap())), |family| {
            attach(family, "here", AttachmentState::Attached);
            mount(family, "here", MountState::Mounted);
            publish(family, PublicationState::Publishing);
        });
    }

    #[test]
    fn a_directory_is_never_formatted() {
        check(Next::Step(Step::Mount), |family| {
            volume(family).filesystem.state = FsState::Blank;
            attach(family, "here", AttachmentState::Attached);
            let attachment = family.attachments.get_mut(&node("here")).unwrap();
            attachment.connection = Some(Connection::Directory { root: "/r".into(), path: "p".into() });
            mount(family, "here", MountState::Mounting);
        });
    }

    #[test]
    fn taking_down_goes_from_the_top() {
        let down = |family: &mut Family| {
            volume(family).state = VolumeState::Deleting;
            attach(family, "here", AttachmentState::Detaching);
            mount(family, "here", MountState::Unmounting);
        };
        check(Next::Step(Step::Unbind(HolderId::parse("h").unwrap())), |family| {
            down(family);
            publish(family, PublicationState::Leaving);
        });
        check(Next::Step(Step::Unmount), down);
        check(Next::Step(Step::Detach(node("here"))), |family| {
            down(family);
            family.mounts.clear();
        });
        check(Next::Step(Step::Delete), |family| volume(family).state = VolumeState::Deleting);
    }

    #[test]
    fn taking_down_has_precedence() {
        check(Next::Step(Step::Unmount), |family| {
            volume(family).wanted.size = CapacityRange::at_least(Bytes(9));
            attach(family, "here", AttachmentState::Detaching);
            mount(family, "here", MountState::Unmounting);
        });
    }

    #[test]
    fn a_paused_step_is_passed_over_and_waited_for_in_the_end() {
        check(Next::Step(Step::Mount), |family| {
            volume(family).wanted.size = CapacityRange::at_least(Bytes(9));
            volume(family).intent = paused();
            attach(family, "here", AttachmentState::Attached);
            mount(family, "here", MountState::Mounting);
        });
        check(Next::Wait(Timestamp(5_000)), |family| {
            volume(family).wanted.size = CapacityRange::at_least(Bytes(9));
            volume(family).intent = paused();
        });
    }

    #[test]
    fn hurry_cuts_a_pause_short_but_not_a_backend_that_said_later() {
        let mut family = family();
        volume(&mut family).state = VolumeState::Creating;
        volume(&mut family).intent = paused();
        let here = node("here");
        let role = Role { hurry: true, ..role(&here) };
        assert_eq!(next(&family, &role, NOW), Next::Step(Step::Create));
        volume(&mut family).intent.as_mut().unwrap().resume = Some(vec![1]);
        assert_eq!(next(&family, &role, NOW), Next::Wait(Timestamp(5_000)));
    }

    #[test]
    fn what_is_parked_is_neither_done_nor_waited_for() {
        check(Next::Rest, |family| {
            attach(family, "here", AttachmentState::Attached);
            mount(family, "here", MountState::Mounted);
            let mount = family.mounts.get_mut(&node("here")).unwrap();
            mount.fs_behind = true;
            mount.intent = Some(Intent { next_try: Intent::PARKED, ..Intent::default() });
        });
    }

    #[test]
    fn a_backend_that_grows_offline_waits_for_the_last_attachment() {
        let mut family = family();
        volume(&mut family).wanted.size = CapacityRange::at_least(Bytes(9));
        let here = node("here");
        let offline = Role {
            abilities: Abilities { grow: Some(Growing::Offline), ..Abilities::default() },
            ..role(&here)
        };
        assert_eq!(next(&family, &offline, NOW), Next::Step(Step::Grow));
        attach(&mut family, "here", AttachmentState::Attached);
        assert_eq!(next(&family, &offline, NOW), Next::Rest);
    }

    #[test]
    fn nobody_gets_a_volume_at_which_an_offline_grow_is_at_work() {
        let mut family = family();
        volume(&mut family).wanted.size = CapacityRange::at_least(Bytes(9));
        volume(&mut family).intent =
            Some(Intent { resume: Some(vec![1]), next_try: Timestamp(5_000), ..Intent::default() });
        attach(&mut family, "here", AttachmentState::Attached);
        mount(&mut family, "here", MountState::Mounting);
        let here = node("here");
        let abilities = Abilities { grow: Some(Growing::Offline), ..Abilities::default() };
        assert_eq!(next(&family, &Role { abilities, ..role(&here) }, NOW), Next::Wait(Timestamp(5_000)));
        assert_eq!(next(&family, &role(&here), NOW), Next::Step(Step::Mount));
        volume(&mut family).intent = None;
        assert_eq!(next(&family, &Role { abilities, ..role(&here) }, NOW), Next::Step(Step::Mount));
    }

    #[test]
    fn steps_on_another_node_are_left_to_it() {
        check(Next::Rest, |family| {
            attach(family, "there", AttachmentState::Attached);
            mount(family, "there", MountState::Mounting);
        });
        check(Next::Rest, |family| {
            attach(family, "there", AttachmentState::Detaching);
            mount(family, "there", MountState::Unmounting);
        });
    }

    #[test]
    fn a_node_that_may_still_write_is_cut_off_before_it_is_detached() {
        let mut family = family();
        attach(&mut family, "there", AttachmentState::Detaching);
        let here = node("here");
        let abilities = Abilities { fence: true, ..Abilities::default() };
        let able = Role { abilities, ..role(&here) };
        let (fence, detach) = (Step::Fence(node("there")), Step::Detach(node("there")));
        for (state, step) in [
            (Fence::Unneeded, &detach),
            (Fence::Wished, &fence),
            (Fence::Done, &detach),
            (Fence::Unproven, &detach),
        ] {
            family.attachments.get_mut(&node("there")).unwrap().fence = state;
            assert_eq!(next(&family, &able, NOW), Next::Step(step.clone()), "{state:?}");
            assert_eq!(next(&family, &role(&here), NOW), Next::Step(detach.clone()), "it cannot fence");
        }
    }

    #[test]
    fn a_node_takes_down_what_it_lost_before_it_makes_it_anew_and_leaves_others_alone() {
        let lost = |family: &mut Family, on: &str| {
            mount(family, on, MountState::Mounted);
            family.lose(&node(on), NOW);
        };
        check(Next::Step(Step::TakeDownLost), |family| {
            lost(family, "here");
            attach(family, "here", AttachmentState::Attached);
            mount(family, "here", MountState::Mounting);
        });
        check(Next::Wait(Timestamp(5_000)), |family| {
            lost(family, "here");
            family.lost.get_mut(&node("here")).unwrap().intent = paused();
            attach(family, "here", AttachmentState::Attached);
            mount(family, "here", MountState::Mounting);
        });
        check(Next::Step(Step::Mount), |family| {
            lost(family, "there");
            attach(family, "here", AttachmentState::Attached);
            mount(family, "here", MountState::Mounting);
        });
        check(Next::Step(Step::Delete), |family| {
            lost(family, "there");
            volume(family).state = VolumeState::Deleting;
        });
        check(Next::Step(Step::TakeDownLost), |family| {
            lost(family, "here");
            family.volume = None;
        });
        check(Next::Rest, |family| {
            lost(family, "there");
            family.volume = None;
        });
    }

    #[test]
    fn a_broken_mount_waits_for_its_last_holder_and_then_goes() {
        let broken = |family: &mut Family| {
            attach(family, "here", AttachmentState::Detaching);
            mount(family, "here", MountState::Broken("its device is gone".into()));
        };
        check(Next::Rest, |family| {
            broken(family);
            publish(family, PublicationState::Published);
        });
        check(Next::Step(Step::Unmount), broken);
    }

    #[test]
    fn a_lost_volume_is_only_taken_down() {
        check(Next::Rest, |family| {
            volume(family).state = VolumeState::Lost;
            attach(family, "here", AttachmentState::Attached);
            mount(family, "here", MountState::Mounting);
        });
    }
}
