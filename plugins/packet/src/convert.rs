//! What the API answers, in the contract's words.

use kato_plugin_sdk::types::{Connection, Iscsi, Pair, Snapshot, Volume};

use crate::{
    answers::{self, Access, Shot},
    config::{Config, GIB},
    marks::{self, Note},
};

/// A volume, as the host sees it.
pub(crate) fn volume(config: &Config, volume: &answers::Volume) -> Volume {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let [plan, facility] = [&volume.plan, &volume.facility].map(told);
    let mut parameters = vec![pair("plan", plan), pair("billing-cycle", &volume.billing_cycle)];
    if !volume.policies.is_empty() && volume.policies.iter().all(|policy| !policy.frequency.is_empty()) {
        let policies: Vec<_> = volume.policies.iter().map(answers::Policy::spell).collect();
        parameters.push(pair("snapshot-policies", &policies.join(",")));
    }
    let attached = volume.attachments.iter().map(|one| one.device.clone());
    Volume {
        handle: volume.id.clone(),
        size_bytes: volume.gib.saturating_mul(GIB),
        mark: volume.label.as_ref().map(|label| label.mark.clone()).unwrap_or_default(),
        token: volume.token().map(str::to_owned),
        connection: None,
        attached: volume.attachments.iter().all(|one| !one.device.is_empty()).then(|| attached.collect()),
        topology: vec![pair("facility", facility), pair("project", &config.project)],
        parameters: Some(parameters),
    }
}

/// What people call a plan or a facility, if that is told, or else its id.
pub(crate) fn told([word, id]: &[String; 2]) -> &str {
    if word.is_empty() { id } else { word }
}

/// The facilities of the places that a volume may lie in, the best first.
pub(crate) fn facilities<'a>(config: &Config, places: &'a [Vec<Pair>]) -> Vec<&'a str> {
    let word =
        |place: &'a [Pair], name: &str| place.iter().find(|pair| pair.0 == name).map(|pair| pair.1.as_str());
    let here =
        places.iter().filter(|place| word(place, "project").is_none_or(|project| project == config.project));
    here.filter_map(|place| word(place, "facility")).collect()
}

/// How a node reaches a volume.
pub(crate) fn connection(config: &Config, name: &str, access: &Access, initiator: &str) -> Connection {
    let portal = |ip: &String| {
        if ip.contains(':') { format!("[{ip}]:{}", config.port) } else { format!("{ip}:{}", config.port) }
    };
    Connection::Iscsi(Iscsi {
        portals: access.ips.iter().map(portal).collect(),
        iqn: access.iqn.clone(),
        lun: config.lun,
        multipath: (access.ips.len() > 1).then(|| name.to_owned()),
        initiator: Some(initiator.to_owned()).filter(|name| !name.is_empty()),
    })
}

/// A snapshot of ours, as the host sees it.
pub(crate) fn snapshot(volume: &answers::Volume, shot: &Shot, note: &Note) -> Snapshot {
    Snapshot {
        handle: marks::snapshot_handle(volume, shot),
        volume: Some(volume.id.clone()),
        size_bytes: note.gib.saturating_mul(GIB),
        cut_ms: shot.moment_ms(),
        ready: shot.status == "available",
        mark: note.mark.clone(),
        token: Some(note.token.clone()),
    }
}
