//! Which machine may reach a volume, and where its target is.
//!
//! The API lets a second machine in without a word, and two that write to one filesystem destroy it. So whoever attaches
//! looks first, and looks again after: two that came at once both see the other then, and whoever has just come goes.
//! Nobody is ever told the way while another machine has the volume.

use kato_plugin_sdk::{
    attachments::{Attached, Attaching, Detaching},
    fencing::Fenced,
    http::Transport,
    types::{Error, ErrorKind, Node, Which},
};
use serde_json::json;

use crate::{
    answers::{Access, Volume},
    api::Cloud,
    convert,
    json::{id, is_id, items, text},
    poll::{making, pending},
};

/// The states of a machine that nothing runs on.
const OFF: [&str; 4] = ["inactive", "off", "powered_off", "powered off"];
/// Those in which it will soon be off, or gone.
const GOING_OFF: [&str; 3] = ["powering_off", "powering off", "deprovisioning"];

/// Lets a machine reach a volume.
pub(crate) fn attach<T: Transport>(cloud: &Cloud<T>, which: &Which, node: &Node) -> Result<Attaching, Error> {
    let device = device(node)?;
    let mut volume = cloud.found(which)?;
    if !volume.is_active() {
        return Ok(Attaching::Pending(making(&volume.id, &volume.state)));
    }
    alone(&volume, device)?;
    if volume.access.is_none() && cloud.config.metadata.is_empty() {
        return Err(Error::precondition(format!(
            "the API does not tell the portals of {}: write `metadata-url` into the backend's configuration",
            volume.id
        )));
    }
    if volume.attached_to(device).is_none() {
        let path = format!("/storage/{}/attachments", volume.id);
        let came = match cloud.post(&path, &json!({ "device_id": device })) {
            Ok(_) => true,
            Err(refusal) if refusal.is_attached() => false,
            Err(refusal) if refusal.is(ErrorKind::NotFound) => {
                return Err(Error::precondition(format!(
                    "there is no machine {device}, or no volume {} any more ({})",
                    volume.id, refusal.error.message
                )));
            }
            Err(refusal) => return Err(refusal.error),
        };
        volume = cloud.found(which)?;
        if let Err(error) = alone(&volume, device) {
            if came {
                take(cloud, &volume, device)?;
            }
            return Err(error);
        }
    }
    let wait = |note: &str| Ok(Attaching::Pending(pending("attaching", format!("{} {note}", volume.id))));
    let Some(attachment) = volume.attached_to(device) else { return wait("is about to be attached") };
    let told = match &volume.access {
        Some(access) => Some((access.clone(), attachment.initiator.clone())),
        None => metadata(cloud, &volume, device)?,
    };
    let Some((access, initiator)) = told else {
        return wait("is attached, and the metadata service does not tell its portals yet");
    };
    let connection = convert::connection(&cloud.config, &volume.name, &access, &initiator);
    Ok(Attaching::Done(Attached { connection, client: None }))
}

/// Refuses where another machine has it.
fn alone(volume: &Volume, device: &str) -> Result<(), Error> {
    match volume.others(device) {
        None => Ok(()),
        Some(others) => {
            Err(Error::in_use(format!("the volume {} is attached to {others}: detach it there", volume.id)))
        }
    }
}

/// What the metadata service tells of a volume, and who the machine has to say that it is. It speaks of the machine that
/// asks, which has to be the one that is meant.
fn metadata<T: Transport>(
    cloud: &Cloud<T>,
    volume: &Volume,
    device: &str,
) -> Result<Option<(Access, String)>, Error> {
    let answer = cloud.get(&cloud.config.metadata)?;
    let here = id(&answer);
    if here != device {
        return Err(Error::precondition(format!(
            "the metadata service speaks of the machine {here:?}, and {} is attached to {device}: only the daemon of that \
             machine can ask for it",
            volume.id
        )));
    }
    let entry = items(&answer, "volumes").find(|entry| text(entry, "name") == volume.name);
    Ok(entry.and_then(Access::read).map(|access| (access, text(&answer, "iqn"))))
}

/// Ends a machine's attachments to a volume. False while it has a session.
fn take<T: Transport>(cloud: &Cloud<T>, volume: &Volume, device: &str) -> Result<bool, Error> {
    for attachment in volume.attachments.iter().filter(|one| one.device == device) {
        match cloud.delete(&format!("/storage/attachments/{}", attachment.id)) {
            Ok(_) => {}
            Err(refusal) if refusal.is(ErrorKind::NotFound) => {}
            Err(refusal) if refusal.is_in_use() => return Ok(false),
            Err(refusal) => return Err(refusal.error),
        }
    }
    Ok(true)
}

/// Ends that.
pub(crate) fn detach<T: Transport>(cloud: &Cloud<T>, which: &Which, node: &Node) -> Result<Detaching, Error> {
    let device = device(node)?;
    let attached = |volume: &Volume| volume.attached_to(device).is_some();
    let Some(volume) = cloud.find(which)?.filter(attached) else { return Ok(Detaching::Done) };
    let note = if !take(cloud, &volume, device)? {
        format!(
            "{} cannot be taken from {device}, which still has a session of it, or had one a moment ago",
            volume.id
        )
    } else if cloud.volume(&volume.id)?.is_some_and(|volume| attached(&volume)) {
        format!("{} is being taken from {device}", volume.id)
    } else {
        return Ok(Detaching::Done);
    };
    Ok(Detaching::Pending(pending("detaching", note)))
}

/// Cuts a machine off a volume, where that can be proven: nothing runs there, and the volume is taken away, so that it is
/// not there either when the machine is started again.
pub(crate) fn fence<T: Transport>(cloud: &Cloud<T>, which: &Which, node: &Node) -> Result<Fenced, Error> {
    let device = device(node)?;
    let Some(volume) = cloud.find(which)? else { return Ok(Fenced::Done) };
    let machine = match cloud.get(&format!("/devices/{device}")) {
        Err(refusal) if refusal.is(ErrorKind::NotFound) => return Ok(Fenced::Done),
        machine => machine?,
    };
    let has = items(&machine, "volumes").any(|one| id(one) == volume.id);
    // Both have to say so, as one of the two may be behind.
    if volume.attached_to(device).is_none() && !has {
        return Ok(Fenced::Done);
    }
    let state = text(&machine, "state");
    if OFF.contains(&state.as_str()) {
        take(cloud, &volume, device)?;
        let note = format!("{} is being taken from {device}, which is off", volume.id);
        return Ok(Fenced::Pending(pending("fencing", note)));
    }
    if GOING_OFF.contains(&state.as_str()) {
        return Ok(Fenced::Pending(pending("fencing", format!("{device} is {state}"))));
    }
    Err(Error::precondition(format!(
        "{} is attached to {device}, which is {state} and may still write: power that machine off or delete it, then this \
         goes on by itself",
        volume.id
    )))
}

/// What the cloud calls the machine.
fn device(node: &Node) -> Result<&str, Error> {
    if is_id(&node.name) {
        return Ok(&node.name);
    }
    Err(Error::invalid(format!(
        "the node {:?} is no machine of this cloud's: what this backend calls a node is the id of its device",
        node.name
    )))
}
