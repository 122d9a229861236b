//! Which machine a volume is attached to, and whether one can still write to it.
//!
//! EC2 answers at once and works for some seconds; how it stands is read from the volume. What does not end is taken back
//! and tried under another device name, because a name can stay taken on a machine for hours. A detachment that does not
//! end is forced only where the operator allows it and the machine is known to be stopped: forced on one that runs, what
//! that has not written yet is lost.

use kato_plugin_sdk::{
    attachments::{Attached, Attaching, Detaching},
    fencing::Fenced,
    http::Transport,
    log,
    types::{Error, ErrorKind, Node, Pending, Which},
};

use crate::{
    answers::{Attachment, Disk, Machine},
    api::{Call, Cloud},
    convert, devices,
    error::{
        self, DEVICE_IN_USE, INSTANCE_STATE, NO_ATTACHMENT, NO_INSTANCE, NO_VOLUME, Refusal, STATE, VALUE,
        VOLUME_IN_USE,
    },
    make::UNSEEN_MS,
    resume::{Doing, Work},
    tags,
};

/// How long an attachment or detachment takes at most, when nothing is wrong.
pub(crate) const STUCK_MS: u64 = 90_000;
/// How often we look whether one that is stuck can be helped.
pub(crate) const HELP_MS: u64 = 30_000;
/// How often another device name is tried in one call.
const TRIES: usize = 3;
/// How many names that failed are remembered.
const REMEMBERED: usize = 16;

/// What says that there may be nothing to detach. Whether it is on its way or was never there the volume says.
const NOTHING: [&str; 5] = [STATE, INSTANCE_STATE, NO_ATTACHMENT, NO_VOLUME, NO_INSTANCE];

/// Lets a machine reach a volume.
pub(crate) fn attach<T: Transport>(
    cloud: &Cloud<T>,
    which: &Which,
    node: &Node,
    work: Option<Work>,
) -> Result<Attaching, Error> {
    name_of(node)?;
    let id = cloud.id_of(which)?.ok_or_else(|| error::no_volume(&which.token))?;
    match work.filter(|work| work.id == id && matches!(work.doing, Doing::Attaching | Doing::Undoing)) {
        Some(work) => look(cloud, which, node, &work),
        None => begin(cloud, which, node, &Work::new(Doing::Attaching, &id, cloud.now)),
    }
}

/// Asks EC2 for it, under a name that is free.
fn begin<T: Transport>(
    cloud: &Cloud<T>,
    which: &Which,
    node: &Node,
    work: &Work,
) -> Result<Attaching, Error> {
    let who = name_of(node)?;
    let mut work = Work { doing: Doing::Attaching, since: cloud.now, last: cloud.now, ..work.clone() };
    let mut machine = running(cloud, who)?;
    let mut last = Error::busy("no name was tried");
    for _ in 0..TRIES {
        if machine.has(&work.id) {
            return look(cloud, which, node, &work);
        }
        let limit = cloud.config.attach_limit;
        if limit > 0 && machine.devices.len() as u64 >= limit {
            return Err(Error::exhausted(format!(
                "{who} has {} volumes, and the backend's `attach-limit` is {limit}: use another machine, or raise it",
                machine.devices.len()
            )));
        }
        let device =
            devices::choose(&work.id, &machine, &node.used_devices, &work.devices, &node.bad_devices);
        let Some(device) = device else {
            return Err(Error::exhausted(format!(
                "{who} has no device name left from /dev/xvdba to /dev/xvddz"
            )));
        };
        let call = Call::change("AttachVolume")
            .with("VolumeId", &work.id)
            .with("InstanceId", who)
            .with("Device", &device);
        work.devices.insert(0, device.clone());
        work.devices.truncate(REMEMBERED);
        match cloud.ask(&call) {
            Ok(element) => return going(cloud, &work, &Attachment::read(&element)),
            Err(refusal) if refusal.is(&[VALUE, DEVICE_IN_USE]) => {
                // The name was taken a moment ago, as a rule. What else may be wrong is so for every name.
                machine = running(cloud, who)?;
                last = refusal.error;
            }
            Err(refusal) if refusal.is(&[VOLUME_IN_USE, STATE]) => {
                return refused(cloud, which, node, &work, &refusal);
            }
            Err(refusal) if refusal.is(&[NO_VOLUME]) => return Err(error::no_volume(&which.token)),
            Err(refusal) => return Err(explained(refusal, who)),
        }
    }
    Err(last.while_at(format!("attaching {} to {who} under {TRIES} names, one after the other", work.id)))
}

/// The machine, if volumes can be attached to it.
fn running<T: Transport>(cloud: &Cloud<T>, who: &str) -> Result<Machine, Error> {
    let absent = || {
        Error::precondition(format!(
            "there is no machine {who} in {}: is it gone, or is this the node's name in another region?",
            cloud.config.region
        ))
    };
    let machine = cloud.machine(who)?.ok_or_else(absent)?;
    match machine.state.as_str() {
        "terminated" | "shutting-down" => Err(absent()),
        _ => Ok(machine),
    }
}

fn explained(refusal: Refusal, who: &str) -> Error {
    match refusal.error.kind {
        ErrorKind::Exhausted => refusal.error.while_at(format!("attaching to {who}")),
        ErrorKind::NotFound => Error::precondition(refusal.error.message).detail(refusal.error.detail),
        _ => refusal.error,
    }
}

/// EC2 says that the volume's state forbids it. What that state is, the volume says.
fn refused<T: Transport>(
    cloud: &Cloud<T>,
    which: &Which,
    node: &Node,
    work: &Work,
    refusal: &Refusal,
) -> Result<Attaching, Error> {
    let who = name_of(node)?;
    let disk = cloud.disk(&work.id)?.ok_or_else(|| error::no_volume(&which.token))?;
    if disk.attached_to(who).is_some() {
        return stands(cloud, which, node, work, &disk);
    }
    let others = disk.holders(who);
    if others.is_empty() {
        return Err(Error::busy(format!(
            "the volume {} is {} and cannot be attached now: {}",
            disk.id, disk.state, refusal.error.message
        )));
    }
    let leaving = disk.held().all(|one| matches!(one.state.as_str(), "detaching" | "busy"));
    Err(Error::in_use(format!(
        "the volume {} is {} {others}{}",
        disk.id,
        if leaving { "still being detached from" } else { "attached to" },
        if leaving { "" } else { ": detach it there first" }
    )))
}

/// How it stands with an attachment that was asked for.
fn look<T: Transport>(cloud: &Cloud<T>, which: &Which, node: &Node, work: &Work) -> Result<Attaching, Error> {
    let disk = cloud.disk(&work.id)?.ok_or_else(|| error::no_volume(&which.token))?;
    stands(cloud, which, node, work, &disk)
}

fn stands<T: Transport>(
    cloud: &Cloud<T>,
    which: &Which,
    node: &Node,
    work: &Work,
    disk: &Disk,
) -> Result<Attaching, Error> {
    let who = name_of(node)?;
    if disk.token() != which.token {
        // It is attached by our doing, and to nobody's use.
        if work.doing == Doing::Attaching && disk.attached_to(who).is_some() {
            take(cloud, &disk.id, who, false)?;
        }
        return Err(error::not_the_tokens("volume", &disk.id, &which.token));
    }
    let waited = cloud.now.saturating_sub(work.since);
    match disk.attached_to(who) {
        None if work.doing == Doing::Undoing => begin(cloud, which, node, work),
        None if !disk.multi_attach && disk.held().next().is_some() => {
            Err(Error::in_use(format!("the volume {} is attached to {}", disk.id, disk.holders(who))))
        }
        None if waited < UNSEEN_MS => {
            let note = format!("{} is about to be attached to {who}", disk.id);
            Ok(Attaching::Pending(work.pending(cloud.now, note)))
        }
        None => begin(cloud, which, node, work),
        Some(one) if one.state == "attaching" && waited >= STUCK_MS && work.doing == Doing::Attaching => {
            log::warn(format!(
                "{} has been attaching to {who} as {} for {} s: it is taken back and tried under another name",
                disk.id,
                one.device,
                waited / 1000
            ));
            take(cloud, &disk.id, who, false)?;
            let mut work = Work { doing: Doing::Undoing, last: cloud.now, ..work.clone() };
            if !work.devices.contains(&one.device) {
                work.devices.insert(0, one.device.clone());
            }
            let note =
                format!("attaching {} to {who} as {} did not end and is taken back", disk.id, one.device);
            Ok(Attaching::Pending(work.pending(cloud.now, note)))
        }
        Some(one) => going(cloud, work, one),
    }
}

/// What the state of an attachment means for who wants it.
fn going<T: Transport>(cloud: &Cloud<T>, work: &Work, one: &Attachment) -> Result<Attaching, Error> {
    let Attachment { instance, device, state } = one;
    if state == "attached" && work.doing == Doing::Attaching {
        let connection = convert::connection(&work.id, device);
        return Ok(Attaching::Done(Attached { connection, client: None }));
    }
    let note = match state.as_str() {
        "attaching" => format!("{} is attaching to {instance} as {device}", work.id),
        "busy" => {
            format!("{} is being detached from {instance}, and something there still has it open", work.id)
        }
        _ => format!("{} is {state} at {instance}", work.id),
    };
    Ok(Attaching::Pending(work.pending(cloud.now, note)))
}

/// Ends an attachment. True if EC2 works on it; where it does not, the volume says how it stands.
fn take<T: Transport>(cloud: &Cloud<T>, id: &str, who: &str, force: bool) -> Result<bool, Error> {
    let call = Call::change("DetachVolume")
        .with("VolumeId", id)
        .with("InstanceId", who)
        .with_some("Force", force.then_some(true));
    match cloud.ask(&call) {
        Ok(element) => Ok(Attachment::read(&element).state != "detached"),
        Err(refusal) if refusal.is(&NOTHING) => Ok(false),
        Err(refusal) => Err(refusal.error),
    }
}

/// Ends that.
pub(crate) fn detach<T: Transport>(
    cloud: &Cloud<T>,
    which: &Which,
    node: &Node,
    work: Option<Work>,
) -> Result<Detaching, Error> {
    let who = name_of(node)?;
    let Some(id) = cloud.id_of(which)? else { return Ok(Detaching::Done) };
    let work = work.filter(|work| work.id == id && matches!(work.doing, Doing::Detaching | Doing::Forcing));
    let (mut work, begun) = match work {
        Some(work) => (work, true),
        None => (Work::new(Doing::Detaching, &id, cloud.now), false),
    };
    if !begun && take(cloud, &id, who, false)? {
        let note = format!("{id} is being detached from {who}");
        return Ok(Detaching::Pending(work.pending(cloud.now, note)));
    }
    let Some(disk) = cloud.disk(&id)? else { return Ok(Detaching::Done) };
    let Some(one) = disk.attached_to(who) else { return Ok(Detaching::Done) };
    let idle = cloud.now.saturating_sub(work.last);
    let note = match one.state.as_str() {
        // What we asked for may not be seen yet, or it was attached again.
        "attached" | "attaching" if begun && idle >= UNSEEN_MS => {
            take(cloud, &id, who, false)?;
            work.last = cloud.now;
            format!("{id} is being detached from {who}")
        }
        "detaching" | "busy" if cloud.now.saturating_sub(work.since) >= STUCK_MS && idle >= HELP_MS => {
            work.last = cloud.now;
            help(cloud, &mut work, who)?
        }
        "busy" => format!("{id} is being detached from {who}, where something still has it open"),
        _ => format!("{id} is being detached from {who}"),
    };
    Ok(Detaching::Pending(work.pending(cloud.now, note)))
}

/// What can be done for a detachment that does not end, and what a person is told.
fn help<T: Transport>(cloud: &Cloud<T>, work: &mut Work, who: &str) -> Result<String, Error> {
    let waited = cloud.now.saturating_sub(work.since) / 1000;
    let stuck = format!("{} has been detaching from {who} for {waited} s", work.id);
    let down = cloud.machine(who)?.is_some_and(|machine| is_down(&machine));
    if !down {
        return Ok(format!("{stuck}: unmount what is mounted there by hand, or stop that machine"));
    }
    if !cloud.config.force {
        return Ok(format!(
            "{stuck}, and that machine is stopped: `aws ec2 detach-volume --force --volume-id {}` frees it, as does \
             forced-detach = \"stopped\" in the backend's configuration",
            work.id
        ));
    }
    log::warn(format!("{stuck}, and that machine is stopped: it is forced"));
    take(cloud, &work.id, who, true)?;
    work.doing = Doing::Forcing;
    Ok(format!("{stuck}, and is forced: that machine is stopped"))
}

/// Whether nothing runs on it.
fn is_down(machine: &Machine) -> bool {
    matches!(machine.state.as_str(), "stopped" | "terminated")
}

/// Cuts a machine off a volume, where that can be proven: it is not attached there, or nothing runs there and it is
/// taken away, so that it is not there either when the machine is started again.
pub(crate) fn fence<T: Transport>(cloud: &Cloud<T>, which: &Which, node: &Node) -> Result<Fenced, Error> {
    let who = name_of(node)?;
    let Some(disk) = cloud.find(which)? else { return Ok(Fenced::Done) };
    let held = disk.attached_to(who);
    let machine = cloud.machine(who)?;
    // One of the two may be behind what was done: both have to say that it is not attached.
    if held.is_none() && machine.as_ref().is_none_or(|machine| !machine.has(&disk.id)) {
        return Ok(Fenced::Done);
    }
    let state = machine.as_ref().map_or("unknown", |machine| machine.state.as_str());
    let pending =
        |note: String| -> Pending { Work::new(Doing::Fencing, &disk.id, cloud.now).pending(cloud.now, note) };
    match state {
        "terminated" => Ok(Fenced::Done),
        "stopped" => {
            let stuck = held.is_some_and(|one| matches!(one.state.as_str(), "detaching" | "busy"));
            take(cloud, &disk.id, who, stuck && cloud.config.force)?;
            Ok(Fenced::Pending(pending(format!("{} is being taken from {who}, which is stopped", disk.id))))
        }
        "stopping" | "shutting-down" => Ok(Fenced::Pending(pending(format!("{who} is {state}")))),
        _ => Err(Error::precondition(format!(
            "{} is attached to {who}, which is {state} and may still write: stop or terminate that machine, then this \
             goes on by itself",
            disk.id
        ))),
    }
}

/// What EC2 calls the machine.
fn name_of(node: &Node) -> Result<&str, Error> {
    if tags::is_id(&node.name, "i") {
        return Ok(&node.name);
    }
    Err(Error::invalid(format!(
        "the node {:?} is no machine of EC2's: what this backend calls a node is its instance id, such as \
         i-0123456789abcdef0",
        node.name
    )))
}
