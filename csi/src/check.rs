//! Which field keeps which rule, for every message of the wire, in both directions; and of each request what it asks,
//! beside what else it may not run, and which paths it names. A field that has no rule here does not compile, so
//! that none of a later version of the specification goes unchecked.

use prost::Message;

use crate::{
    flight::Key,
    operation::Operation,
    protocol::{self as wire, VolumeCapability, node_get_storage_health_response::StorageBackendHealth},
    rules::{
        Verdict, any, count, driver, each, flags, id, ids, map, mode, name, node, nodes, offset, optional,
        optional_node, optional_path, optional_size, path, range, required, secrets, segments, size, some,
        some_ids, text, token,
    },
};

/// A message that keeps the specification's limits, or tells which it does not keep.
pub(crate) trait Checked {
    /// Whether every field keeps its rule.
    fn check(&self) -> Verdict;
}

/// A request.
pub(crate) trait Asked: Checked + Message + Send + 'static {
    /// What it asks.
    const OPERATION: Operation;

    /// What no other operation may be at work on meanwhile.
    fn key(&self) -> Option<Key>;

    /// Which volume it is about, as far as it says so.
    fn volume(&self) -> Option<&str>;

    /// The places on this node that it names.
    fn paths(&self) -> Vec<&str>;
}

macro_rules! calls {
    ($($request:ident asks $operation:ident
        $(, alone on $key:ident($($part:ident),+))?
        $(, volume $volume:ident)?
        $(, at $($path:ident),+)?
    ;)*) => {$(
        impl Asked for wire::$request {
            const OPERATION: Operation = Operation::$operation;

            fn key(&self) -> Option<Key> {
                [$(Key::$key($(self.$part.clone()),+))?].into_iter().next()
            }

            fn volume(&self) -> Option<&str> {
                [$(self.$volume.as_str())?].into_iter().next()
            }

            fn paths(&self) -> Vec<&str> {
                vec![$($(self.$path.as_str()),+)?]
            }
        }
    )*};
}

calls! {
    GetPluginInfoRequest asks PluginName;
    GetPluginCapabilitiesRequest asks PluginCapabilities;
    ProbeRequest asks Probe;
    CreateVolumeRequest asks CreateVolume, alone on VolumeName(name);
    DeleteVolumeRequest asks DeleteVolume, alone on Volume(volume_id), volume volume_id;
    ControllerPublishVolumeRequest asks ControllerPublish, alone on Attachment(volume_id, node_id), volume volume_id;
    ControllerUnpublishVolumeRequest asks ControllerUnpublish, alone on Attachment(volume_id, node_id), volume volume_id;
    ValidateVolumeCapabilitiesRequest asks ValidateCapabilities, volume volume_id;
    ListVolumesRequest asks ListVolumes;
    ControllerListVolumeHealthRequest asks ListVolumeHealth;
    ControllerGetVolumeHealthRequest asks GetVolumeHealth, volume volume_id;
    GetCapacityRequest asks GetCapacity;
    ControllerGetCapabilitiesRequest asks ControllerCapabilities;
    CreateSnapshotRequest asks CreateSnapshot, alone on SnapshotName(name), volume source_volume_id;
    DeleteSnapshotRequest asks DeleteSnapshot, alone on Snapshot(snapshot_id);
    ListSnapshotsRequest asks ListSnapshots, volume source_volume_id;
    GetSnapshotRequest asks GetSnapshot;
    ControllerExpandVolumeRequest asks ControllerExpand, alone on Volume(volume_id), volume volume_id;
    ControllerGetVolumeRequest asks GetVolume, volume volume_id;
    ControllerModifyVolumeRequest asks ModifyVolume, alone on Volume(volume_id), volume volume_id;
    GroupControllerGetCapabilitiesRequest asks GroupCapabilities;
    CreateVolumeGroupSnapshotRequest asks CreateGroupSnapshot, alone on GroupName(name);
    DeleteVolumeGroupSnapshotRequest asks DeleteGroupSnapshot, alone on Group(group_snapshot_id);
    GetVolumeGroupSnapshotRequest asks GetGroupSnapshot;
    GetMetadataAllocatedRequest asks MetadataAllocated;
    GetMetadataDeltaRequest asks MetadataDelta;
    NodeStageVolumeRequest asks NodeStage, alone on Staged(volume_id), volume volume_id, at staging_target_path;
    NodeUnstageVolumeRequest asks NodeUnstage, alone on Staged(volume_id), volume volume_id, at staging_target_path;
    NodePublishVolumeRequest asks NodePublish, alone on Target(target_path), volume volume_id,
        at staging_target_path, target_path;
    NodeUnpublishVolumeRequest asks NodeUnpublish, alone on Target(target_path), volume volume_id, at target_path;
    NodeGetVolumeStatsRequest asks NodeStats, volume volume_id, at volume_path, staging_target_path;
    NodeGetVolumeHealthRequest asks NodeVolumeHealth, volume volume_id, at volume_publish_path, staging_target_path;
    NodeGetStorageHealthRequest asks NodeStorageHealth;
    NodeExpandVolumeRequest asks NodeExpand, alone on Staged(volume_id), volume volume_id,
        at volume_path, staging_target_path;
    NodeGetCapabilitiesRequest asks NodeCapabilities;
    NodeGetInfoRequest asks NodeName;
}

macro_rules! rules {
    ($($message:path { $($field:ident: $rule:expr),* $(,)? })*) => {$(
        impl Checked for $message {
            fn check(&self) -> Verdict {
                let Self { $($field: _),* } = self;
                $($rule(&self.$field).map_err(|fault| fault.within(stringify!($field)))?;)*
                Ok(())
            }
        }
    )*};
}

rules! {
    wire::GetPluginInfoRequest {}
    wire::GetPluginCapabilitiesRequest {}
    wire::ProbeRequest {}
    wire::ControllerGetCapabilitiesRequest {}
    wire::GroupControllerGetCapabilitiesRequest {}
    wire::NodeGetCapabilitiesRequest {}
    wire::NodeGetInfoRequest {}
    wire::CreateVolumeRequest {
        name: name, capacity_range: optional, volume_capabilities: some, parameters: map, secrets: secrets,
        volume_content_source: optional, accessibility_requirements: optional, mutable_parameters: map,
    }
    wire::DeleteVolumeRequest { volume_id: id, secrets: secrets }
    wire::ControllerPublishVolumeRequest {
        volume_id: id, node_id: node, volume_capability: required, readonly: any, secrets: secrets,
        volume_context: map,
    }
    wire::ControllerUnpublishVolumeRequest { volume_id: id, node_id: optional_node, secrets: secrets }
    wire::ValidateVolumeCapabilitiesRequest {
        volume_id: id, volume_context: map, volume_capabilities: some, parameters: map, secrets: secrets,
        mutable_parameters: map,
    }
    wire::ListVolumesRequest { max_entries: count, starting_token: token }
    wire::ControllerListVolumeHealthRequest { max_entries: count, starting_token: token, secrets: secrets }
    wire::ControllerGetVolumeHealthRequest { volume_id: id, secrets: secrets }
    wire::GetCapacityRequest { volume_capabilities: each, parameters: map, accessible_topology: optional }
    wire::CreateSnapshotRequest {
        source_volume_id: id, name: name, secrets: secrets, parameters: map,
        accessibility_requirements: optional,
    }
    wire::DeleteSnapshotRequest { snapshot_id: id, secrets: secrets }
    wire::ListSnapshotsRequest {
        max_entries: count, starting_token: token, source_volume_id: text, snapshot_id: text, secrets: secrets,
    }
    wire::GetSnapshotRequest { snapshot_id: id, secrets: secrets }
    wire::ControllerExpandVolumeRequest {
        volume_id: id, capacity_range: required, secrets: secrets, volume_capability: optional,
    }
    wire::ControllerGetVolumeRequest { volume_id: id }
    wire::ControllerModifyVolumeRequest { volume_id: id, secrets: secrets, mutable_parameters: map }
    wire::CreateVolumeGroupSnapshotRequest {
        name: name, source_volume_ids: some_ids, secrets: secrets, parameters: map,
    }
    wire::DeleteVolumeGroupSnapshotRequest { group_snapshot_id: id, snapshot_ids: ids, secrets: secrets }
    wire::GetVolumeGroupSnapshotRequest { group_snapshot_id: id, snapshot_ids: ids, secrets: secrets }
    wire::GetMetadataAllocatedRequest {
        snapshot_id: id, starting_offset: offset, max_results: count, secrets: secrets,
    }
    wire::GetMetadataDeltaRequest {
        base_snapshot_id: id, target_snapshot_id: id, starting_offset: offset, max_results: count,
        secrets: secrets,
    }
    wire::NodeStageVolumeRequest {
        volume_id: id, publish_context: map, staging_target_path: path, volume_capability: required,
        secrets: secrets, volume_context: map,
    }
    wire::NodeUnstageVolumeRequest { volume_id: id, staging_target_path: path }
    wire::NodePublishVolumeRequest {
        volume_id: id, publish_context: map, staging_target_path: optional_path, target_path: path,
        volume_capability: required, readonly: any, secrets: secrets, volume_context: map,
    }
    wire::NodeUnpublishVolumeRequest { volume_id: id, target_path: path }
    wire::NodeGetVolumeStatsRequest { volume_id: id, volume_path: path, staging_target_path: optional_path }
    wire::NodeGetVolumeHealthRequest {
        volume_id: id, volume_publish_path: optional_path, staging_target_path: optional_path,
    }
    wire::NodeGetStorageHealthRequest { secrets: secrets }
    wire::NodeExpandVolumeRequest {
        volume_id: id, volume_path: path, capacity_range: optional, staging_target_path: optional_path,
        volume_capability: optional, secrets: secrets,
    }
}

// What requests and answers are made of.
rules! {
    VolumeCapability { access_mode: required, access_type: required }
    wire::volume_capability::AccessMode { mode: mode }
    wire::volume_capability::BlockVolume {}
    wire::volume_capability::MountVolume { fs_type: text, mount_flags: flags, volume_mount_group: text }
    wire::VolumeContentSource { r#type: required }
    wire::volume_content_source::SnapshotSource { snapshot_id: id }
    wire::volume_content_source::VolumeSource { volume_id: id }
    wire::TopologyRequirement { requisite: each, preferred: each }
    wire::Topology { segments: segments }
    wire::Volume {
        capacity_bytes: size, volume_id: id, volume_context: map, content_source: optional,
        accessible_topology: each,
    }
    wire::Snapshot {
        size_bytes: size, snapshot_id: id, source_volume_id: id, creation_time: any, ready_to_use: any,
        group_snapshot_id: text, accessible_topology: each,
    }
    wire::VolumeGroupSnapshot { group_snapshot_id: id, snapshots: each, creation_time: any, ready_to_use: any }
    wire::VolumeHealth { volume_id: id, health_statuses: each }
    wire::volume_health::VolumeHealthEntry { status: any, reason: id, message: text }
    wire::VolumeUsage { available: size, total: size, used: size, unit: any }
    wire::BlockMetadata { byte_offset: offset, size_bytes: size }
    wire::list_volumes_response::Entry { volume: required, status: optional }
    wire::list_volumes_response::VolumeStatus { published_node_ids: nodes }
    wire::controller_get_volume_response::VolumeStatus { published_node_ids: nodes }
    wire::list_snapshots_response::Entry { snapshot: required }
    wire::validate_volume_capabilities_response::Confirmed {
        volume_context: map, volume_capabilities: each, parameters: map, mutable_parameters: map,
    }
    StorageBackendHealth { status: any, reason: id, message: text, volume_capability: optional }
}

impl Checked for wire::CapacityRange {
    fn check(&self) -> Verdict {
        let Self { required_bytes, limit_bytes } = self;
        range(*required_bytes, *limit_bytes)
    }
}

impl Checked for wire::volume_capability::AccessType {
    fn check(&self) -> Verdict {
        match self {
            Self::Block(block) => block.check(),
            Self::Mount(mount) => mount.check(),
        }
    }
}

impl Checked for wire::volume_content_source::Type {
    fn check(&self) -> Verdict {
        match self {
            Self::Snapshot(snapshot) => snapshot.check(),
            Self::Volume(volume) => volume.check(),
        }
    }
}

// What leaves: a token or an id that is too long is a fault of ours, and stays here.
rules! {
    wire::GetPluginInfoResponse { name: driver, vendor_version: text, manifest: map }
    wire::GetPluginCapabilitiesResponse { capabilities: any }
    wire::ProbeResponse { ready: any }
    wire::CreateVolumeResponse { volume: required }
    wire::DeleteVolumeResponse {}
    wire::ControllerPublishVolumeResponse { publish_context: map }
    wire::ControllerUnpublishVolumeResponse {}
    wire::ValidateVolumeCapabilitiesResponse { confirmed: optional, message: any }
    wire::ListVolumesResponse { entries: each, next_token: text }
    wire::ControllerListVolumeHealthResponse { entries: each, next_token: text }
    wire::ControllerGetVolumeHealthResponse { volume_health: required }
    wire::ControllerGetVolumeResponse { volume: required, status: required }
    wire::ControllerModifyVolumeResponse {}
    wire::GetCapacityResponse {
        available_capacity: size, maximum_volume_size: optional_size, minimum_volume_size: optional_size,
    }
    wire::ControllerGetCapabilitiesResponse { capabilities: any }
    wire::CreateSnapshotResponse { snapshot: required }
    wire::DeleteSnapshotResponse {}
    wire::ListSnapshotsResponse { entries: each, next_token: text }
    wire::GetSnapshotResponse { snapshot: required }
    wire::ControllerExpandVolumeResponse { capacity_bytes: size, node_expansion_required: any }
    wire::GroupControllerGetCapabilitiesResponse { capabilities: any }
    wire::CreateVolumeGroupSnapshotResponse { group_snapshot: required }
    wire::DeleteVolumeGroupSnapshotResponse {}
    wire::GetVolumeGroupSnapshotResponse { group_snapshot: required }
    wire::GetMetadataAllocatedResponse {
        block_metadata_type: any, volume_capacity_bytes: size, block_metadata: each,
    }
    wire::GetMetadataDeltaResponse {
        block_metadata_type: any, volume_capacity_bytes: size, block_metadata: each,
    }
    wire::NodeStageVolumeResponse {}
    wire::NodeUnstageVolumeResponse {}
    wire::NodePublishVolumeResponse {}
    wire::NodeUnpublishVolumeResponse {}
    wire::NodeGetVolumeStatsResponse { usage: each }
    wire::NodeGetVolumeHealthResponse { volume_health: required }
    wire::NodeGetStorageHealthResponse { backend_health: each }
    wire::NodeExpandVolumeResponse { capacity_bytes: size }
    wire::NodeGetCapabilitiesResponse { capabilities: any }
    wire::NodeGetInfoResponse { node_id: node, max_volumes_per_node: size, accessible_topology: optional }
}
