//! The words about snapshots, and about groups of them.

use std::collections::BTreeMap;

use kato_orchestrator::{
    Error,
    model::{GroupName, Snapshot, SnapshotName, SnapshotState, VolumeName},
    ops::{CreateGroup, CreateSnapshot, GroupView, SnapshotPiece},
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{body, intent_to_wire, millis, put};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupWish {
    name: String,
    volumes: Vec<String>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotWish {
    name: String,
    volume: String,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default = "yes")]
    until_ready: bool,
}

fn yes() -> bool {
    true
}

/// What stands before the bytes of a piece of a snapshot.
pub(crate) fn piece_to_wire(piece: &SnapshotPiece) -> Json {
    let snapshot = &piece.snapshot;
    let blocks: Vec<_> = piece.blocks.iter().map(|(offset, bytes)| json!([offset.0, bytes.len()])).collect();
    json!({
        "size_bytes": snapshot.size.0,
        "fs": snapshot.filesystem.fs.name(),
        "directory": snapshot.filesystem.root.directory,
        "volume": snapshot.volume_name.as_str(),
        "snapshot": snapshot.name.as_str(),
        "cut": snapshot.cut.map(|cut| cut.to_string()),
        "blocks": blocks,
        "next_bytes": piece.next.map(|next| next.0),
    })
}

/// The wish for a group of snapshots.
pub(crate) fn group_from_wire(bytes: &[u8]) -> Result<CreateGroup, Error> {
    let wish: GroupWish = body(bytes)?;
    let volumes = wish.volumes.iter().map(|volume| VolumeName::parse(volume).map(Into::into));
    Ok(CreateGroup {
        name: GroupName::parse(&wish.name)?,
        volumes: volumes.collect::<Result<_, _>>()?,
        parameters: wish.parameters,
        labels: wish.labels,
    })
}

/// The wish for a snapshot.
pub(crate) fn cut_from_wire(bytes: &[u8]) -> Result<CreateSnapshot, Error> {
    let wish: SnapshotWish = body(bytes)?;
    Ok(CreateSnapshot {
        name: SnapshotName::parse(&wish.name)?,
        volume: VolumeName::parse(&wish.volume)?.into(),
        parameters: wish.parameters,
        labels: wish.labels,
        until_ready: wish.until_ready,
    })
}

/// What the records say of a group of snapshots.
pub(crate) fn group_to_wire(view: &GroupView) -> Json {
    let ready = view.snapshots.iter().all(|one| one.state == SnapshotState::Ready);
    let moment = view.snapshots.iter().map(|one| one.cut.unwrap_or(one.created)).min();
    json!({
        "name": view.name.as_str(),
        "id": view.id.to_string(),
        "state": match (view.snapshots.len() < view.of, ready) {
            (true, _) => "incomplete",
            (false, true) => "ready",
            (false, false) => "cut",
        },
        "backend": view.backend.as_str(),
        "cut": moment.map(|moment| moment.to_string()),
        "members": view.of,
        "size_bytes": view.snapshots.iter().map(|one| one.size.0).sum::<u64>(),
        "snapshots": view.snapshots.iter().map(snapshot_to_wire).collect::<Json>(),
    })
}

/// What the records say of a snapshot.
pub(crate) fn snapshot_to_wire(snapshot: &Snapshot) -> Json {
    let mut wire = json!({
        "name": snapshot.name.as_str(),
        "id": snapshot.id.to_string(),
        "state": snapshot.state.name(),
        "volume": snapshot.volume_name.as_str(),
        "volume_id": snapshot.volume.to_string(),
        "class": snapshot.class.as_str(),
        "backend": snapshot.backend.as_str(),
        "size_bytes": snapshot.size.0,
        "labels": snapshot.labels,
        "created": snapshot.created.to_string(),
    });
    if let Some(map) = wire.as_object_mut() {
        put(map, "cut", snapshot.cut.map(|moment| moment.to_string().into()));
        put(map, "source_held_ms", snapshot.held_still.map(millis));
        put(map, "group_id", snapshot.group.as_ref().map(|place| place.group.to_string().into()));
        put(map, "handle", snapshot.handle.as_ref().map(|handle| handle.as_str().into()));
        put(map, "parameters", (!snapshot.parameters.is_empty()).then(|| json!(snapshot.parameters)));
        let clones = (!snapshot.dependants.is_empty())
            .then(|| snapshot.dependants.iter().map(|id| Json::from(id.to_string())).collect());
        put(map, "dependants", clones);
        put(map, "intent", snapshot.intent.as_ref().map(intent_to_wire));
    }
    wire
}
