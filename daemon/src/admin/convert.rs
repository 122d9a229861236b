//! Between the wire and the hall's words: JSON in, commands out; views in, JSON out. Names on the wire are
//! snake_case with the unit as the last word, absent things are left out, and a field once sent keeps its
//! meaning. Nothing here decides anything.

mod copies;
mod snapshots;

use std::{collections::BTreeMap, time::Duration};

use kato_orchestrator::{
    BackendView, Consultation, Error, Finding, Gauges,
    model::{
        Attachment, AttachmentState, Bytes, CapacityRange, Class, ClassName, Connection, DataRoot, Dependant,
        Fence, FsState, FsType, Intent, Keeping, LostMount, Mount, MountState, NodeId, NodeState,
        Publication, PublicationState, SnapshotName, Source, Target, VolumeName,
    },
    ops::{
        CreateVolume, GrowVolume, ModifyVolume, NodeView, Reach, RecoverRecords, RootWish, SourceName,
        VolumeView, Why,
    },
    ports::{
        backend::{Abilities, Blankness, Description, Growing, Health},
        host::Facts,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value as Json, json};

pub(crate) use self::copies::copy_from_wire;
use self::copies::filling_to_wire;
pub(crate) use self::snapshots::{
    cut_from_wire, group_from_wire, group_to_wire, piece_to_wire, snapshot_to_wire,
};

/// A size as people or programs write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    fn parse(&self) -> Result<Bytes, Error> {
        match self {
            Self::Bytes(0) => Err(Error::invalid("a size of zero is no size")),
            Self::Bytes(bytes) => Ok(Bytes(*bytes)),
            Self::Text(text) => Bytes::parse(text),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeWish {
    name: String,
    class: Option<String>,
    size: Option<Size>,
    limit: Option<Size>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    from_snapshot: Option<String>,
    from_volume: Option<String>,
    from_file: Option<String>,
    fs: Option<String>,
    data_root: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrowWish {
    size: Size,
    limit: Option<Size>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModifyWish {
    parameters: BTreeMap<String, String>,
}

fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid(format!("the body of the request is not what is expected: {error}")))
}

/// The wish for a volume.
pub(crate) fn create_from_wire(bytes: &[u8]) -> Result<CreateVolume, Error> {
    let wish: VolumeWish = body(bytes)?;
    let source = match (wish.from_snapshot, wish.from_volume, wish.from_file) {
        (None, None, None) => None,
        (Some(snapshot), None, None) => Some(SourceName::Snapshot(SnapshotName::parse(&snapshot)?.into())),
        (None, Some(volume), None) => Some(SourceName::Volume(VolumeName::parse(&volume)?.into())),
        (None, None, Some(path)) if path.starts_with('/') => Some(SourceName::File(path)),
        (None, None, Some(path)) => {
            return Err(Error::invalid(format!("the path {path:?} of a file has to begin with a slash")));
        }
        _ => {
            return Err(Error::invalid(
                "a volume is a copy of one thing: name a snapshot, a volume or a file",
            ));
        }
    };
    let mode = wish.mode.as_deref().map(|text| {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| Error::invalid(format!("{text:?} is not a mode: write it in octal, such as 0750")))
    });
    Ok(CreateVolume {
        name: VolumeName::parse(&wish.name)?,
        class: wish.class.as_deref().map(ClassName::parse).transpose()?,
        size: range(wish.size.as_ref(), wish.limit.as_ref())?,
        parameters: wish.parameters,
        source,
        fs: wish.fs.as_deref().map(FsType::parse).transpose()?,
        root: RootWish { directory: wish.data_root, uid: wish.uid, gid: wish.gid, mode: mode.transpose()? },
        places: Vec::new(),
        keeping: Keeping::Owned,
        many: false,
        labels: wish.labels,
        exact: true,
    })
}

/// The wish for growth of this volume.
pub(crate) fn grow_from_wire(name: VolumeName, bytes: &[u8]) -> Result<GrowVolume, Error> {
    let wish: GrowWish = body(bytes)?;
    Ok(GrowVolume {
        volume: name.into(),
        size: range(Some(&wish.size), wish.limit.as_ref())?,
        reach: Reach::Everywhere,
    })
}

/// The wish for other parameters of this volume.
pub(crate) fn modify_from_wire(name: VolumeName, bytes: &[u8]) -> Result<ModifyVolume, Error> {
    let ModifyWish { parameters } = body(bytes)?;
    Ok(ModifyVolume { volume: name.into(), parameters })
}

fn range(size: Option<&Size>, limit: Option<&Size>) -> Result<CapacityRange, Error> {
    let required = size.map(Size::parse).transpose()?.unwrap_or_default();
    let limit = limit.map(Size::parse).transpose()?;
    if limit.is_some_and(|limit| limit < required) {
        return Err(Error::invalid("the limit is smaller than the size"));
    }
    Ok(CapacityRange { required, limit })
}

/// Everything that the records say of a volume, as this node sees it.
pub(crate) fn volume_to_wire(view: &VolumeView, node: &NodeId) -> Json {
    let volume = &view.volume;
    let mut wire = json!({
        "name": volume.name.as_str(),
        "id": volume.id.to_string(),
        "state": volume.state.name(),
        "size_bytes": view.size().0,
        "class": volume.class.as_str(),
        "backend": volume.backend.as_str(),
        "fs": volume.filesystem.fs.name(),
        "fs_state": match volume.filesystem.state {
            FsState::Blank => "blank",
            FsState::Formatting => "formatting",
            FsState::Formatted => "formatted",
        },
        "parameters": volume.wanted.parameters,
        "labels": volume.labels,
        "created": volume.created.to_string(),
        "holders": view.publications.iter().map(holder_to_wire).collect::<Json>(),
    });
    let Some(map) = wire.as_object_mut() else { return wire };
    if volume.wants_growth() || volume.actual.is_none() {
        map.insert("wanted_bytes".to_owned(), volume.wanted.size.required.0.into());
    }
    if volume.wants_modify() {
        map.insert("actual_parameters".to_owned(), json!(volume.actual_parameters));
    }
    map.insert("data_root".to_owned(), root_to_wire(&volume.filesystem.root));
    put(
        map,
        "mount_options",
        (!volume.filesystem.mount_options.is_empty()).then(|| json!(volume.filesystem.mount_options)),
    );
    put(map, "path", view.path_on(node).map(Json::from));
    put(map, "source", volume.source.as_ref().map(source_to_wire));
    put(map, "copying", volume.filling.as_ref().map(filling_to_wire));
    put(map, "source_held_ms", volume.held_still.map(millis));
    put(map, "handle", volume.handle.as_ref().map(|handle| Json::from(handle.as_str())));
    put(map, "connection", volume.connection.as_ref().map(connection_to_wire));
    put(map, "topology", (!volume.topology.is_empty()).then(|| json!(volume.topology)));
    put(
        map,
        "dependants",
        (!volume.dependants.is_empty()).then(|| volume.dependants.iter().map(dependant_to_wire).collect()),
    );
    put(
        map,
        "attachments",
        (!view.attachments.is_empty()).then(|| view.attachments.iter().map(attachment_to_wire).collect()),
    );
    put(map, "health", health_to_wire(view, node));
    put(map, "complaint", view.complaint.as_ref().map(complaint_to_wire));
    put(map, "mounts", (!view.mounts.is_empty()).then(|| view.mounts.iter().map(mount_to_wire).collect()));
    put(map, "lost_mounts", (!view.lost.is_empty()).then(|| view.lost.iter().map(lost_to_wire).collect()));
    put(map, "intent", volume.intent.as_ref().map(intent_to_wire));
    wire
}

/// Whether the volume's mount on this node reaches its bytes; nothing where it is not mounted.
fn health_to_wire(view: &VolumeView, node: &NodeId) -> Option<Json> {
    match &view.mounts.iter().find(|mount| mount.node == *node)?.state {
        MountState::Mounted => Some(json!({ "condition": "well" })),
        MountState::Broken(why) => Some(json!({ "condition": "broken", "message": why })),
        MountState::Mounting | MountState::Unmounting => None,
    }
}

/// What a volume's backend complains of.
fn complaint_to_wire(complaint: &Health) -> Json {
    json!({ "reason": complaint.reason, "message": complaint.message, "severe": complaint.severe })
}

fn millis(time: Duration) -> Json {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).into()
}

fn put(map: &mut Map<String, Json>, word: &str, value: Option<Json>) {
    if let Some(value) = value {
        map.insert(word.to_owned(), value);
    }
}

fn root_to_wire(root: &DataRoot) -> Json {
    let mut map = Map::new();
    map.insert("directory".to_owned(), root.directory.as_deref().unwrap_or("/").into());
    put(&mut map, "uid", root.uid.map(Json::from));
    put(&mut map, "gid", root.gid.map(Json::from));
    put(&mut map, "mode", root.mode.map(|mode| format!("{mode:04o}").into()));
    Json::Object(map)
}

fn source_to_wire(source: &Source) -> Json {
    match source {
        Source::Snapshot(id) => json!({ "snapshot_id": id.to_string() }),
        Source::File(path) => json!({ "file": path }),
        Source::Volume(id) => json!({ "volume_id": id.to_string() }),
    }
}

fn dependant_to_wire(dependant: &Dependant) -> Json {
    match dependant {
        Dependant::Attachment(node) => json!({ "node": node.as_str() }),
        Dependant::Snapshot(id) => json!({ "snapshot_id": id.to_string() }),
        Dependant::Group(id) => json!({ "group_id": id.to_string() }),
        Dependant::Clone(id) => json!({ "volume_id": id.to_string() }),
    }
}

fn connection_to_wire(connection: &Connection) -> Json {
    let place = match connection {
        Connection::Directory { root, path } | Connection::File { root, path } => format!("{root}/{path}"),
        Connection::Device { identity, value } => format!("{identity}:{value}"),
        Connection::Rbd { pool, namespace, image, snapshot, .. } => {
            let namespace = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
            let snapshot = snapshot.as_ref().map(|name| format!("@{name}")).unwrap_or_default();
            format!("{pool}/{namespace}{image}{snapshot}")
        }
        Connection::Iscsi { iqn, lun, .. } => format!("{iqn}:{lun}"),
        Connection::Nbd { server, export } => format!("{server}/{export}"),
        Connection::Nfs { server, path, .. } => format!("{server}:{path}"),
    };
    json!({ "kind": connection.kind(), "place": place })
}

fn attachment_to_wire(attachment: &Attachment) -> Json {
    let mut wire = json!({
        "node": attachment.node.as_str(),
        "state": match attachment.state {
            AttachmentState::Attaching => "attaching",
            AttachmentState::Attached => "attached",
            AttachmentState::Detaching => "detaching",
        },
        "read_only": attachment.read_only,
    });
    if let Some(map) = wire.as_object_mut() {
        put(map, "connection", attachment.connection.as_ref().map(connection_to_wire));
        put(map, "client", attachment.client.as_deref().map(Json::from));
        put(map, "fence", (attachment.fence != Fence::Unneeded).then(|| attachment.fence.name().into()));
        put(map, "intent", attachment.intent.as_ref().map(intent_to_wire));
    }
    wire
}

fn mount_to_wire(mount: &Mount) -> Json {
    let mut wire = json!({
        "node": mount.node.as_str(),
        "state": mount.state.name(),
        "read_only": mount.read_only,
    });
    if let Some(map) = wire.as_object_mut() {
        if let MountState::Broken(why) = &mount.state {
            map.insert("broken".to_owned(), why.as_str().into());
        }
        put(map, "path", mount.path.as_deref().map(Json::from));
        put(map, "device", mount.device.as_deref().map(Json::from));
        put(map, "idle_since", mount.idle_since.map(|moment| moment.to_string().into()));
        put(map, "intent", mount.intent.as_ref().map(intent_to_wire));
    }
    wire
}

/// What a node may still have of a volume that was taken from it.
fn lost_to_wire(lost: &LostMount) -> Json {
    let mut wire = json!({
        "node": lost.mount.node.as_str(),
        "since": lost.since.to_string(),
        "holders": lost.holders.values().map(holder_to_wire).collect::<Json>(),
    });
    if let Some(map) = wire.as_object_mut() {
        put(map, "path", lost.mount.path.as_deref().map(Json::from));
        put(map, "device", lost.mount.device.as_deref().map(Json::from));
        put(map, "intent", lost.intent.as_ref().map(intent_to_wire));
    }
    wire
}

fn holder_to_wire(publication: &Publication) -> Json {
    let mut wire = json!({
        "holder": publication.holder.as_str(),
        "node": publication.node.as_str(),
        "count": publication.count,
        "read_only": publication.read_only,
        "state": match publication.state {
            PublicationState::Publishing => "publishing",
            PublicationState::Published => "published",
            PublicationState::Leaving => "leaving",
        },
        "since": publication.since.to_string(),
    });
    if let Some(map) = wire.as_object_mut() {
        if let Target::Path(path) = &publication.target {
            map.insert("target".to_owned(), path.as_str().into());
        }
        put(map, "pid", publication.caller.as_ref().map(|caller| caller.pid.into()));
        put(map, "doubtful_since", publication.doubtful_since.map(|moment| moment.to_string().into()));
    }
    wire
}

fn intent_to_wire(intent: &Intent) -> Json {
    let mut wire = json!({
        "since": intent.since.to_string(),
        "attempts": intent.attempts,
    });
    if let Some(map) = wire.as_object_mut() {
        put(map, "next_try", (!intent.is_parked()).then(|| intent.next_try.to_string().into()));
        put(map, "note", intent.note.as_deref().map(Json::from));
        let failure = intent.last_error.as_ref();
        put(
            map,
            "last_error",
            failure.map(|failure| {
                json!({ "kind": failure.kind.name(), "message": failure.message, "at": failure.at.to_string() })
            }),
        );
    }
    wire
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoverWish {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    names: Vec<String>,
    dump: Option<String>,
}

/// A recovery, and the dump that it is to use instead of those that are kept.
pub(crate) fn recover_from_wire(bytes: &[u8]) -> Result<(RecoverRecords, Option<String>), Error> {
    let RecoverWish { dry_run, names, dump } = body(bytes)?;
    Ok((RecoverRecords { dumps: Vec::new(), names, dry_run }, dump))
}

/// What a volume waits for and who holds it.
pub(crate) fn why_to_wire(why: &Why, node: &NodeId) -> Json {
    json!({
        "volume": volume_to_wire(&why.view, node),
        "waits": why.waits,
        "holders": why.holders,
        "ails": why.ails,
        "keeps": why.keeps,
    })
}

/// A class as configured.
pub(crate) fn class_to_wire(class: &Class, is_default: bool) -> Json {
    let mut wire = json!({
        "name": class.name.as_str(),
        "backend": class.backend.as_str(),
        "default": is_default,
        "parameters": class.parameters,
        "fs": class.fs.name(),
        "mount_options": class.mount_options,
        "data_root": root_to_wire(&class.root),
        "anonymous": class.anonymous,
        "retain": class.retain,
        "inline": class.inline,
    });
    if let Some(map) = wire.as_object_mut() {
        put(map, "default_size_bytes", (class.default_size.0 > 0).then(|| class.default_size.0.into()));
        put(map, "max_size_bytes", class.max_size.map(|size| size.0.into()));
    }
    wire
}

/// A backend as configured, remembered and found.
pub(crate) fn backend_to_wire(view: &BackendView) -> Json {
    let mut wire = json!({ "name": view.name.as_str(), "usable": view.found.is_ok() });
    let Some(map) = wire.as_object_mut() else { return wire };
    match &view.found {
        Ok(check) => {
            map.insert("fingerprint".to_owned(), check.fingerprint.0.as_str().into());
            put(map, "note", (!check.note.is_empty()).then(|| check.note.as_str().into()));
        }
        Err(error) => {
            map.insert("problem".to_owned(), super::error::to_wire(error));
        }
    }
    if let Some(bound) = &view.bound {
        map.insert(
            "bound".to_owned(),
            json!({
                "fingerprint": bound.fingerprint.0,
                "plugin": bound.plugin,
                "since": bound.bound.to_string(),
            }),
        );
    }
    put(map, "health", view.said.as_ref().map(consultation_to_wire));
    put(map, "plugin", view.description.as_ref().map(description_to_wire));
    wire
}

/// How a backend's volumes are: how many it complains of, and the first of them.
fn consultation_to_wire(said: &Consultation) -> Json {
    let mut wire = json!({ "complaints": said.complaints.len() });
    let Some(map) = wire.as_object_mut() else { return wire };
    match &said.heard {
        Ok(when) => map.insert("heard".to_owned(), when.to_string().into()),
        Err(why) => map.insert("problem".to_owned(), why.as_str().into()),
    };
    let first = said.complaints.iter().take(20).map(|(name, complaint)| {
        json!({
            "volume": name.as_str(),
            "reason": complaint.reason,
            "message": complaint.message,
            "severe": complaint.severe,
        })
    });
    put(map, "volumes", (!said.complaints.is_empty()).then(|| first.collect()));
    wire
}

/// What a plugin says of itself.
pub(crate) fn description_to_wire(description: &Description) -> Json {
    let parameters = description.parameters.iter().map(|parameter| {
        json!({
            "name": parameter.name,
            "summary": parameter.summary,
            "default": parameter.default,
            "shape": parameter.shape,
            "mutable": parameter.mutable,
        })
    });
    let mut wire = json!({
        "name": description.plugin,
        "version": description.version,
        "summary": description.summary,
        "min_size_bytes": description.min_size.0,
        "size_step_bytes": description.size_step.0,
        "blank": match description.blank {
            Blankness::Zeroes => "zeroes",
            Blankness::Anything => "anything",
        },
        "parameters": parameters.collect::<Json>(),
        "abilities": abilities_to_wire(&description.abilities),
    });
    if let Some(map) = wire.as_object_mut() {
        put(map, "max_size_bytes", description.max_size.map(|size| size.0.into()));
    }
    wire
}

fn abilities_to_wire(abilities: &Abilities) -> Json {
    let grow = match abilities.grow {
        Some(Growing::Online) => Some("grow"),
        Some(Growing::Offline) => Some("grow-offline"),
        None => None,
    };
    let others = [
        (abilities.attachments, "attachments"),
        (abilities.fence, "fence"),
        (abilities.snapshots, "snapshots"),
        (abilities.clone, "clone"),
        (abilities.modify, "modify"),
        (abilities.groups, "groups"),
        (abilities.extents, "extents"),
        (abilities.snapshot_data, "snapshot-data"),
        (abilities.snapshot_writing, "snapshot-writing"),
        (abilities.health, "health"),
        (abilities.capacity, "capacity"),
        (abilities.polling, "polling"),
    ];
    let others = others.into_iter().filter(|(able, _)| *able).map(|(_, name)| name);
    grow.into_iter().chain(others).collect()
}

/// Something that does not fit together.
pub(crate) fn finding_to_wire(finding: &Finding) -> Json {
    json!({
        "code": finding.code,
        "subject": finding.subject,
        "message": finding.message,
        "fixable": finding.fixable,
        "fixed": finding.fixed,
    })
}

/// This node: what it is, and how much it has to do.
pub(crate) fn node_to_wire(
    id: &NodeId,
    topology: &BTreeMap<String, String>,
    facts: &Facts,
    gauges: &Gauges,
) -> Json {
    let connectors = facts.connectors.iter().map(|(name, works)| match works {
        Ok(()) => json!({ "name": name, "works": true }),
        Err(why) => json!({ "name": name, "works": false, "why": why }),
    });
    json!({
        "id": id.as_str(),
        "hostname": facts.hostname,
        "boot_id": facts.boot_id,
        "topology": topology,
        "version": env!("CARGO_PKG_VERSION"),
        "connectors": connectors.collect::<Json>(),
        "volumes": Gauges::sum(&gauges.volumes),
        "snapshots": Gauges::sum(&gauges.snapshots),
        "mounts": Gauges::sum(&gauges.mounts),
        "mounts_broken": gauges.broken(),
        "mounts_stalled": gauges.mounts_stalled,
        "volumes_unwell": gauges.volumes_unwell,
        "intents": gauges.intents,
        "oldest_intent_ms": millis(gauges.oldest_intent),
        "tombstones": gauges.tombstones,
    })
}

/// A node of the cluster, and who holds what there.
pub(crate) fn node_view_to_wire(view: &NodeView) -> Json {
    let mut wire = json!({
        "name": view.node.id.as_str(),
        "state": view.presence,
        "drained": view.node.drained,
        "session": view.node.session,
        "topology": view.node.topology,
        "names": view.node.names.iter().map(|(backend, name)| (backend.as_str(), name)).collect::<BTreeMap<_, _>>(),
        "schema": view.node.schema,
        "since_ms": view.node.seen.0,
        "mounts": view.mounts,
        "mounts_lost": view.lost,
        "holders": view.holders,
    });
    if let (NodeState::Away(until), Some(map)) = (view.node.state, wire.as_object_mut()) {
        map.insert("away_until_ms".to_owned(), json!(until.0));
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_with_an_unknown_word_is_refused_by_that_word() {
        let error = create_from_wire(br#"{"name":"db","sise":"1GiB"}"#).unwrap_err();
        assert!(error.message.contains("sise"), "{error}");
    }

    #[test]
    fn sizes_come_as_numbers_and_as_words() {
        for text in [r#"{"name":"db","size":1073741824}"#, r#"{"name":"db","size":"1GiB"}"#] {
            assert_eq!(create_from_wire(text.as_bytes()).unwrap().size.required, Bytes::GIB);
        }
        assert!(create_from_wire(br#"{"name":"db","size":0}"#).is_err());
        assert!(create_from_wire(br#"{"name":"db","size":2,"limit":1}"#).is_err());
    }

    #[test]
    fn a_copy_has_one_source() {
        assert!(create_from_wire(br#"{"name":"a","from_snapshot":"s","from_volume":"v"}"#).is_err());
        let wish = create_from_wire(br#"{"name":"a","from_volume":"v"}"#).unwrap();
        assert!(matches!(wish.source, Some(SourceName::Volume(_))));
    }
}
