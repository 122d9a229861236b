//! Between the contract's words and EC2's.

use kato_plugin_sdk::{
    capacity::{self, spell},
    health::Condition,
    types::{Connection, Device, Error, Pair, Snapshot, Volume},
};

use crate::{
    answers::{Disk, Feeling, Shot},
    clock, error,
    kind::{GIB, Kind},
    make::New,
};

/// The words by which a place may name its zone.
const ZONE: &str = "zone";
const ZONES: [&str; 3] = [ZONE, "topology.kubernetes.io/zone", "topology.ebs.csi.aws.com/zone"];

/// The zone that a place lies in.
pub(crate) fn zone(place: &[Pair]) -> Option<&str> {
    ZONES.iter().find_map(|word| place.iter().find(|(name, _)| name == word).map(|(_, zone)| zone.as_str()))
}

/// Whether the volume that is there is what is wished for.
pub(crate) fn satisfies(new: &New<'_>, disk: &Disk) -> Result<(), Error> {
    let other = |why: String| Err(error::other_wish(new.token, &disk.id, &why));
    let asked = &new.parameters;
    if disk.snapshot != new.snapshot {
        return other(match disk.snapshot.as_str() {
            "" => "it was made from nothing".to_owned(),
            snapshot => format!("it was made from {snapshot}"),
        });
    }
    if disk.kind != asked.kind.name {
        return other(format!("its type is {}", disk.kind));
    }
    if !capacity::admits(new.size, disk.bytes()) {
        return other(format!("its size is {}", spell(disk.bytes())));
    }
    if asked.iops.is_some() && disk.iops.is_some() && disk.iops != asked.iops {
        return other(format!("it has {} iops", disk.iops.unwrap_or_default()));
    }
    if asked.throughput.is_some() && disk.throughput.is_some() && disk.throughput != asked.throughput {
        return other(format!("its throughput is {}", disk.throughput.unwrap_or_default()));
    }
    // Whoever asks for none may be given it by the account or the snapshot.
    if asked.encrypted == Some(true) && !disk.encrypted {
        return other("it is not encrypted".to_owned());
    }
    if asked.multi_attach != disk.multi_attach {
        return other(format!("multi-attach is {}", disk.multi_attach));
    }
    if !new.zones.is_empty() && !new.zones.contains(&disk.zone.as_str()) {
        return other(format!("it lies in {}", disk.zone));
    }
    Ok(())
}

/// A volume, as the host sees it. What is in force is told where nobody asked for something else.
pub(crate) fn volume(disk: &Disk, told: bool) -> Volume {
    Volume {
        handle: disk.id.clone(),
        size_bytes: disk.bytes(),
        mark: disk.mark().to_owned(),
        token: Some(disk.token().to_owned()).filter(|token| !token.is_empty()),
        connection: None,
        attached: Some(disk.held().map(|one| one.instance.clone()).collect()),
        topology: vec![(ZONE.to_owned(), disk.zone.clone())],
        parameters: told.then(|| parameters(disk)),
    }
}

fn parameters(disk: &Disk) -> Vec<Pair> {
    let kind = Kind::of(&disk.kind);
    let mut parameters = vec![("type".to_owned(), disk.kind.clone())];
    let mut tell =
        |name: &str, value: Option<String>| parameters.extend(value.map(|value| (name.to_owned(), value)));
    tell("iops", disk.iops.filter(|_| kind.is_some_and(Kind::takes_iops)).map(|iops| iops.to_string()));
    let throughput = disk.throughput.filter(|_| kind.is_some_and(Kind::takes_throughput));
    tell("throughput", throughput.map(|throughput| throughput.to_string()));
    tell("encrypted", disk.encrypted.then(|| "true".to_owned()));
    tell("kms-key", Some(disk.kms_key.clone()).filter(|key| !key.is_empty() && disk.encrypted));
    tell("multi-attach", disk.multi_attach.then(|| "true".to_owned()));
    parameters
}

/// How a node finds a volume: by its id in the serial number, or by the name where the machine shows it.
pub(crate) fn connection(volume: &str, device: &str) -> Connection {
    Connection::Device(Device { identity: "ebs".to_owned(), value: format!("{volume}:{device}") })
}

/// What EC2 calls the volume of a snapshot that is of none.
const NO_VOLUME: &str = "vol-ffffffff";

/// A snapshot, as the host sees it.
pub(crate) fn snapshot(shot: &Shot) -> Snapshot {
    Snapshot {
        handle: shot.id.clone(),
        volume: Some(shot.volume.clone()).filter(|volume| !volume.is_empty() && volume != NO_VOLUME),
        size_bytes: shot.gib.saturating_mul(GIB),
        cut_ms: clock::parse(&shot.started),
        ready: shot.state == "completed",
        mark: shot.mark().to_owned(),
        token: Some(shot.token().to_owned()).filter(|token| !token.is_empty()),
    }
}

/// How a volume feels, as the host sees it. EC2 says nothing of one that it has not looked at yet.
pub(crate) fn condition(disk: Option<&Disk>, feeling: Option<&Feeling>) -> Condition {
    let condition =
        |reason: &str, message: String, severe: bool| Condition { reason: reason.into(), message, severe };
    let Some(disk) = disk else { return condition("NotFound", "EC2 knows no such volume".to_owned(), true) };
    if disk.state == "error" {
        return condition("Error", format!("EC2 says that the volume {} is in error", disk.id), true);
    }
    let events = feeling.map(|feeling| feeling.events.join("; ")).unwrap_or_default();
    match feeling.map_or("ok", |feeling| feeling.status.as_str()) {
        "impaired" => condition(
            "Impaired",
            format!(
                "EC2 has stopped reads and writes of {} because its data may be inconsistent: {events}; check it, then \
                 call ec2:EnableVolumeIO",
                disk.id
            ),
            true,
        ),
        "warning" => {
            condition("Degraded", format!("{} is slower than it should be: {events}", disk.id), false)
        }
        _ => condition("", String::new(), false),
    }
}
