//! Between the messages of the wire and the commands of the hall. What a field may hold was checked before (`check.rs`);
//! here it gets its meaning. Nothing here does anything.

use std::{collections::BTreeMap, sync::Arc};

use kato_orchestrator::{
    Error, Kind,
    model::{
        BackendName, Bytes, CapacityRange, Class, ClassName, FsType, GroupName, GroupRef, Handle, Keeping,
        NodeId, Snapshot, SnapshotName, SnapshotRef, SnapshotState, Timestamp, VolumeName, VolumeRef,
    },
    ops::{
        Access, CreateGroup, CreateSnapshot, CreateVolume, DeleteGroup, NodeAddress, SourceName, VolumeView,
    },
};
use prost_types::Timestamp as WireTime;

use crate::{
    context,
    door::Door,
    ids::{ThingId, named},
    nodes::{self, NodeName},
    protocol::{
        self as wire, CapacityRange as WireRange, CreateSnapshotRequest, CreateVolumeGroupSnapshotRequest,
        CreateVolumeRequest, Topology, TopologyRequirement, VolumeCapability, VolumeContentSource,
        volume_capability::{AccessType, access_mode::Mode},
        volume_content_source,
    },
};

/// The word of a place that names a node.
const NODE: &str = "node";

/// The parameter that names the class.
const CLASS: &str = "class";

/// What Kubernetes adds to parameters, and what of it is for us.
const KUBERNETES: &str = "csi.storage.k8s.io/";
const FSTYPE: &str = "csi.storage.k8s.io/fstype";
const NOTES: [&str; 9] = [
    "csi.storage.k8s.io/pvc/name",
    "csi.storage.k8s.io/pvc/namespace",
    "csi.storage.k8s.io/pv/name",
    "csi.storage.k8s.io/volumesnapshot/name",
    "csi.storage.k8s.io/volumesnapshot/namespace",
    "csi.storage.k8s.io/volumesnapshotcontent/name",
    "csi.storage.k8s.io/volumegroupsnapshot/name",
    "csi.storage.k8s.io/volumegroupsnapshot/namespace",
    "csi.storage.k8s.io/volumegroupsnapshotcontent/name",
];

/// How a caller wants a volume.
#[derive(Clone, Debug)]
pub(crate) struct Capability {
    /// Whether it wants the device itself.
    pub(crate) raw: bool,
    /// The filesystem that it expects, if it says so.
    pub(crate) fs: Option<FsType>,
    /// Options of the mount.
    pub(crate) options: Vec<String>,
    /// The group that everything is to belong to.
    pub(crate) group: Option<u32>,
    /// Whether it only reads.
    pub(crate) read_only: bool,
    mode: Mode,
}

impl Capability {
    /// The one that a call cannot do without.
    pub(crate) fn required(capability: Option<&VolumeCapability>) -> Result<Self, Error> {
        let missing =
            || Error::invalid("it is missing: say how the volume is to be used").about("volume_capability");
        Self::from_wire(capability.ok_or_else(missing)?)
    }

    /// What a capability that was checked means.
    pub(crate) fn from_wire(capability: &VolumeCapability) -> Result<Self, Error> {
        let mode = capability.access_mode.as_ref().map_or(Mode::Unknown, |access| access.mode());
        let mut read = Self {
            raw: false,
            fs: None,
            options: Vec::new(),
            group: None,
            read_only: matches!(mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly),
            mode,
        };
        let Some(AccessType::Mount(mount)) = &capability.access_type else {
            read.raw = true;
            return Ok(read);
        };
        if !mount.fs_type.is_empty() {
            read.fs = Some(FsType::parse(&mount.fs_type).map_err(|error| error.about("fs_type"))?);
        }
        if !mount.volume_mount_group.is_empty() {
            let group = mount
                .volume_mount_group
                .parse()
                .map_err(|_| Error::invalid("it is not the number of a group").about("volume_mount_group"))?;
            read.group = Some(group);
        }
        for flag in mount.mount_flags.iter().flat_map(|flags| options(flags)) {
            match flag {
                "ro" => read.read_only = true,
                "" | "rw" => {}
                flag => read.options.push(flag.to_owned()),
            }
        }
        Ok(read)
    }

    /// Whether several nodes may have it at the same time.
    pub(crate) fn is_for_many_nodes(&self) -> bool {
        matches!(
            self.mode,
            Mode::MultiNodeReaderOnly | Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter
        )
    }

    /// Whether one path on a node excludes another.
    pub(crate) fn is_alone(&self) -> bool {
        !self.is_for_many_nodes() && self.mode != Mode::SingleNodeMultiWriter
    }

    /// The same, as the hall says it.
    pub(crate) fn access(&self) -> Access {
        Access {
            options: self.options.clone(),
            fs: self.fs,
            raw: self.raw,
            alone: self.is_alone(),
            many: self.is_for_many_nodes(),
            group: self.group,
            ..Access::default()
        }
    }
}

/// The single options of a flag, which may hold several with commas between them, but for those between quotes.
fn options(flags: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    flags.split(move |letter| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    })
}

/// Several capabilities that are wished of one volume.
pub(crate) fn capabilities_from_wire(all: &[VolumeCapability]) -> Result<Vec<Capability>, Error> {
    let read = all.iter().map(Capability::from_wire).collect::<Result<Vec<_>, _>>()?;
    let mut kinds = read.iter().filter_map(|capability| capability.fs);
    if let Some(first) = kinds.next()
        && let Some(other) = kinds.find(|fs| *fs != first)
    {
        return Err(Error::invalid(format!(
            "one volume cannot hold {first} and {other}: ask for one of them"
        )));
    }
    Ok(read)
}

/// How large; zero is what nobody asked for.
pub(crate) fn range_from_wire(range: Option<&WireRange>) -> CapacityRange {
    let bytes = |size: i64| Bytes(u64::try_from(size).unwrap_or_default());
    let Some(range) = range else { return CapacityRange::ANY };
    let limit = (range.limit_bytes > 0).then(|| bytes(range.limit_bytes));
    CapacityRange { required: bytes(range.required_bytes), limit }
}

/// The wish of a CreateVolume.
pub(crate) fn create_from_wire(door: &Door, request: &CreateVolumeRequest) -> Result<CreateVolume, Error> {
    let capabilities = capabilities_from_wire(&request.volume_capabilities)?;
    let mut parameters = request.parameters.clone();
    for (key, value) in &request.mutable_parameters {
        parameters.insert(key.clone(), value.clone());
    }
    let class = class_from_wire(&mut parameters)?;
    ThingId::require_room(door, &known_class(door, class.as_ref())?.backend)?;
    let (labels, fstype) = notes_from_wire(&mut parameters);
    let fs = capabilities.iter().find_map(|capability| capability.fs);
    let fs = match fs {
        Some(fs) => Some(fs),
        None => fstype.as_deref().map(FsType::parse).transpose().map_err(|error| error.about(FSTYPE))?,
    };
    let source =
        request.volume_content_source.as_ref().map(|source| source_from_wire(door, source)).transpose()?;
    Ok(CreateVolume {
        class,
        size: range_from_wire(request.capacity_range.as_ref()),
        parameters,
        // A copy has the filesystem of its source, and says so if it is another.
        fs,
        source,
        places: places_from_wire(door, request.accessibility_requirements.as_ref()),
        many: capabilities.iter().any(Capability::is_for_many_nodes),
        labels,
        exact: true,
        ..CreateVolume::named(VolumeName::parse(&request.name)?)
    })
}

/// The class that is meant. One that there is not is a wrong parameter, and no source that is gone.
pub(crate) fn known_class(door: &Door, name: Option<&ClassName>) -> Result<Arc<Class>, Error> {
    door.orchestrator.catalog().class(name).map_err(|error| match error.kind {
        Kind::NotFound => Error::invalid(error.message).about(error.subject),
        _ => error,
    })
}

/// The class that parameters name.
pub(crate) fn class_from_wire(parameters: &mut BTreeMap<String, String>) -> Result<Option<ClassName>, Error> {
    parameters.remove(CLASS).map(|class| ClassName::parse(&class)).transpose()
}

/// Takes what Kubernetes adds out of parameters: who a volume is for, to be written on it, and the filesystem.
pub(crate) fn notes_from_wire(
    parameters: &mut BTreeMap<String, String>,
) -> (BTreeMap<String, String>, Option<String>) {
    let fstype = parameters.remove(FSTYPE).filter(|text| !text.is_empty());
    let notes = NOTES.iter().filter_map(|key| parameters.remove_entry(*key)).collect();
    parameters.retain(|key, _| !key.starts_with(KUBERNETES));
    (notes, fstype)
}

fn source_from_wire(door: &Door, source: &VolumeContentSource) -> Result<SourceName, Error> {
    match &source.r#type {
        Some(volume_content_source::Type::Snapshot(snapshot)) => {
            snapshot_from_wire(door, &snapshot.snapshot_id).map(SourceName::Snapshot)
        }
        Some(volume_content_source::Type::Volume(volume)) => {
            volume_from_wire(door, &volume.volume_id).map(SourceName::Volume)
        }
        None => Err(Error::invalid("the source of the volume is missing: name a snapshot or a volume")),
    }
}

/// The preferred places first, each once, in the words of `node.topology`.
fn places_from_wire(door: &Door, wish: Option<&TopologyRequirement>) -> Vec<BTreeMap<String, String>> {
    let mut places = Vec::new();
    let Some(wish) = wish else { return places };
    for place in wish.preferred.iter().chain(&wish.requisite) {
        let words = nodes::words_from_wire(&door.config, &place.segments);
        if !words.is_empty() && !places.contains(&words) {
            places.push(words);
        }
    }
    places
}

/// A place.
pub(crate) fn place_from_wire(door: &Door, place: Option<&Topology>) -> BTreeMap<String, String> {
    place.map(|place| nodes::words_from_wire(&door.config, &place.segments)).unwrap_or_default()
}

/// The volume that an id means; refused where it lies on another node.
pub(crate) fn volume_from_wire(door: &Door, id: &str) -> Result<VolumeRef, Error> {
    let id = ThingId::from_wire(id)?;
    id.require_here(door.orchestrator.node())?;
    Ok(VolumeRef::Handle(id.backend, id.handle))
}

/// The volume that an id means, wherever it lies: for taking back what is here of it.
pub(crate) fn anywhere_from_wire(id: &str) -> Result<VolumeRef, Error> {
    ThingId::from_wire(id).map(|id| VolumeRef::Handle(id.backend, id.handle))
}

/// The same, or the inline volume of that name: nobody else gave it one, so it is called by its id.
pub(crate) fn here_from_wire(id: &str) -> Result<VolumeRef, Error> {
    match named(anywhere_from_wire(id))? {
        Some(volume) => Ok(volume),
        None => Ok(VolumeName::parse(id)?.into()),
    }
}

/// The snapshot that an id means; refused where it lies on another node.
pub(crate) fn snapshot_from_wire(door: &Door, id: &str) -> Result<SnapshotRef, Error> {
    let id = ThingId::from_wire(id)?;
    id.require_here(door.orchestrator.node())?;
    Ok(SnapshotRef::Handle(id.backend, id.handle))
}

/// The node that an id means.
pub(crate) fn node_from_wire(id: &str) -> Result<NodeAddress, Error> {
    NodeName::from_wire(id).map(|node| NodeAddress { id: node.id, names: node.names })
}

/// The id of a volume, once its backend has said what it calls it.
pub(crate) fn id_to_wire(view: &VolumeView) -> Result<String, Error> {
    let handle = view
        .volume
        .handle
        .clone()
        .ok_or_else(|| Error::busy("its backend has not said yet what it calls the volume: try again"))?;
    let node = view.volume.topology.get(NODE).map(|node| NodeId::parse(node)).transpose()?;
    ThingId { backend: view.volume.backend.clone(), node, handle }.to_wire()
}

/// A volume.
pub(crate) fn volume_to_wire(door: &Door, view: &VolumeView) -> Result<wire::Volume, Error> {
    let id = id_to_wire(view)?;
    let segments: BTreeMap<String, String> = (view.volume.topology.iter())
        .map(|(word, value)| (format!("{}/{word}", door.config.name), value.clone()))
        .collect();
    Ok(wire::Volume {
        capacity_bytes: bytes_to_wire(view.size()),
        volume_context: context::of_volume(door, &id, &view.volume)?,
        volume_id: id,
        content_source: None,
        accessible_topology: if segments.is_empty() { Vec::new() } else { vec![Topology { segments }] },
    })
}

/// What nodes are called outside, by what the records know of them.
pub(crate) struct NodeNames(BTreeMap<NodeId, BTreeMap<BackendName, String>>);

impl NodeNames {
    pub(crate) async fn read(door: &Door) -> Result<Self, Error> {
        let nodes = door.orchestrator.nodes().await?;
        Ok(Self(nodes.into_iter().map(|node| (node.id, node.names)).collect()))
    }

    /// What a node answers to NodeGetInfo.
    pub(crate) fn of(&self, node: &NodeId) -> Result<String, Error> {
        NodeName { id: node.clone(), names: self.0.get(node).cloned().unwrap_or_default() }.to_wire()
    }

    /// Which nodes a volume is attached to.
    pub(crate) fn to_wire(&self, view: &VolumeView) -> Result<Vec<String>, Error> {
        view.attachments.iter().map(|one| self.of(&one.node)).collect()
    }
}

/// A number of bytes.
pub(crate) fn bytes_to_wire(bytes: Bytes) -> i64 {
    i64::try_from(bytes.0).unwrap_or(i64::MAX)
}

/// The wish of a CreateSnapshot.
pub(crate) fn cut_from_wire(door: &Door, request: &CreateSnapshotRequest) -> Result<CreateSnapshot, Error> {
    let mut parameters = request.parameters.clone();
    let (labels, _) = notes_from_wire(&mut parameters);
    Ok(CreateSnapshot {
        name: SnapshotName::parse(&request.name)?,
        volume: volume_from_wire(door, &request.source_volume_id)?,
        parameters,
        labels,
        until_ready: false,
    })
}

/// A snapshot.
pub(crate) fn snapshot_to_wire(door: &Door, snapshot: &Snapshot) -> Result<wire::Snapshot, Error> {
    let about = |error: Error| error.about(format!("snapshot {}", snapshot.name));
    let handle = snapshot.handle.clone().ok_or_else(|| {
        about(Error::busy("its backend has not said yet what it calls the snapshot: try again"))
    })?;
    let volume = snapshot
        .volume_handle
        .clone()
        .ok_or_else(|| about(Error::internal("nothing tells any more which volume it is of")))?;
    let snapshot_id = ThingId::of(door, &snapshot.backend, handle)?;
    let id = |handle| ThingId { handle, ..snapshot_id.clone() }.to_wire();
    let group = snapshot.group.as_ref().map(|place| id(Handle::parse(&place.group.to_string())?));
    Ok(wire::Snapshot {
        size_bytes: bytes_to_wire(snapshot.size),
        snapshot_id: snapshot_id.to_wire()?,
        source_volume_id: id(volume)?,
        creation_time: Some(time_to_wire(snapshot.cut.unwrap_or(snapshot.created))),
        ready_to_use: snapshot.state == SnapshotState::Ready,
        group_snapshot_id: group.transpose()?.unwrap_or_default(),
        accessible_topology: Vec::new(),
    })
}

pub(crate) fn time_to_wire(time: Timestamp) -> WireTime {
    let millis = time.0;
    WireTime {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or_default(),
    }
}

/// The wish of a CreateVolumeGroupSnapshot.
pub(crate) fn group_from_wire(
    door: &Door,
    request: &CreateVolumeGroupSnapshotRequest,
) -> Result<CreateGroup, Error> {
    let mut parameters = request.parameters.clone();
    let (labels, _) = notes_from_wire(&mut parameters);
    let volumes = request.source_volume_ids.iter().map(|id| volume_from_wire(door, id));
    Ok(CreateGroup {
        name: GroupName::parse(&request.name)?,
        volumes: volumes.collect::<Result<_, _>>()?,
        parameters,
        labels,
    })
}

/// The group that is meant.
pub(crate) fn group_id_from_wire(door: &Door, id: &str) -> Result<GroupRef, Error> {
    let id = ThingId::from_wire(id)?;
    let group = id.group()?;
    id.require_here(door.orchestrator.node())?;
    Ok(GroupRef::Id(id.backend, group))
}

/// The wish of a DeleteVolumeGroupSnapshot.
pub(crate) fn group_gone_from_wire(door: &Door, id: &str, members: &[String]) -> Result<DeleteGroup, Error> {
    let group = group_id_from_wire(door, id)?;
    let handle = |id: &String| match ThingId::from_wire(id) {
        Ok(id) => Ok(id.handle),
        Err(error) => Err(Error::invalid("what is none of ours is in no group of ours").about(error.subject)),
    };
    let members = members.iter().map(handle).collect::<Result<_, _>>()?;
    Ok(DeleteGroup { group, members })
}

/// The wish of an inline volume, which a pod brings about: its class has to allow that.
pub(crate) fn inline_from_wire(
    door: &Door,
    id: &str,
    context: &BTreeMap<String, String>,
    fs: Option<FsType>,
) -> Result<CreateVolume, Error> {
    let mut parameters = context.clone();
    parameters.retain(|key, _| !key.starts_with("storage.kubernetes.io/"));
    let class = class_from_wire(&mut parameters)?;
    let size = parameters.remove("size").map(|size| Bytes::parse(&size)).transpose()?;
    let (labels, fstype) = notes_from_wire(&mut parameters);
    let class = known_class(door, class.as_ref())?;
    if !class.inline {
        return Err(Error::permission_denied(format!(
            "the class {} gives no volumes to pods that bring them about themselves: claim a volume of it, or set \
             class.{}.inline",
            class.name, class.name
        )));
    }
    let fs = match fs {
        Some(fs) => Some(fs),
        None => fstype.as_deref().map(FsType::parse).transpose()?,
    };
    Ok(CreateVolume {
        class: Some(class.name.clone()),
        size: size.map_or(CapacityRange::ANY, CapacityRange::at_least),
        parameters,
        fs,
        keeping: Keeping::Ephemeral,
        labels,
        exact: false,
        ..CreateVolume::named(VolumeName::parse(id)?)
    })
}
