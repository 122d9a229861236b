//! How volumes and backends are. A controller tells what backends complain of and what they have lost, a node what it sees
//! of its own mounts. Each entry has a status and a reason for machines, and no two are the same.

use std::sync::Arc;

use kato_orchestrator::{
    Error,
    model::{MountState, VolumeId, VolumeState},
    ops::{Context, VolumeView},
};
use prost::Message as _;

use crate::{
    convert,
    door::Door,
    pages::{self, Filter, List},
    protocol::{
        ControllerGetVolumeHealthRequest, ControllerGetVolumeHealthResponse,
        ControllerListVolumeHealthRequest, ControllerListVolumeHealthResponse, NodeGetStorageHealthRequest,
        NodeGetStorageHealthResponse, NodeGetVolumeHealthRequest, NodeGetVolumeHealthResponse,
        StorageHealthErrorType, VolumeHealth, VolumeHealthErrorType,
        node_get_storage_health_response::StorageBackendHealth, volume_health::VolumeHealthEntry,
    },
    rules::TEXT_LIMIT,
    volumes::ANSWER_LIMIT,
};

/// How many volumes are read from the records at a time.
const PAGE: usize = 1000;

pub(crate) async fn get(
    door: Arc<Door>,
    _: Context,
    request: ControllerGetVolumeHealthRequest,
) -> Result<ControllerGetVolumeHealthResponse, Error> {
    let view = door.orchestrator.find(&convert::volume_from_wire(&door, &request.volume_id)?).await?;
    let volume_health = VolumeHealth { volume_id: request.volume_id, health_statuses: at_backend(&view) };
    Ok(ControllerGetVolumeHealthResponse { volume_health: Some(volume_health) })
}

pub(crate) async fn list(
    door: Arc<Door>,
    _: Context,
    request: ControllerListVolumeHealthRequest,
) -> Result<ControllerListVolumeHealthResponse, Error> {
    let token = pages::from_wire(List::VolumeHealth, Filter::default(), &request.starting_token)?;
    let mut after = token
        .map(|key| VolumeId::parse(&key).ok_or_else(|| Error::busy("the page token names no volume")))
        .transpose()?;
    let most = usize::try_from(request.max_entries).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
    let (mut entries, mut size) = (Vec::new(), 0);
    loop {
        let page = door.orchestrator.list_by_id(after, PAGE).await?;
        for view in page.items.iter().filter(|view| view.volume.handle.is_some()) {
            let Ok(volume_id) = convert::id_to_wire(view) else { continue };
            let entry = VolumeHealth { volume_id, health_statuses: at_backend(view) };
            size += entry.encoded_len() + 8;
            if size > ANSWER_LIMIT || entries.len() == most {
                let after = after.map(|id| id.to_string()).unwrap_or_default();
                let next_token = pages::to_wire(List::VolumeHealth, Filter::default(), &after)?;
                return Ok(ControllerListVolumeHealthResponse { entries, next_token });
            }
            entries.push(entry);
            after = Some(view.volume.id);
        }
        let Some(next) = page.next else {
            return Ok(ControllerListVolumeHealthResponse { entries, next_token: String::new() });
        };
        after = VolumeId::parse(&next);
    }
}

/// How a volume is at its backend.
fn at_backend(view: &VolumeView) -> Vec<VolumeHealthEntry> {
    let mut entries = Vec::new();
    if view.volume.state == VolumeState::Lost {
        entries.push(entry(
            VolumeHealthErrorType::DataLoss,
            "VolumeLost",
            "its backend says that it is gone".to_owned(),
        ));
    }
    if let Some(complaint) = &view.complaint {
        let status = match complaint.severe {
            true => VolumeHealthErrorType::Inaccessible,
            false => VolumeHealthErrorType::Degraded,
        };
        entries.push(entry(status, &complaint.reason, complaint.message.clone()));
    }
    entries
}

pub(crate) async fn of_volume_here(
    door: Arc<Door>,
    _: Context,
    request: NodeGetVolumeHealthRequest,
) -> Result<NodeGetVolumeHealthResponse, Error> {
    let view = door.orchestrator.find(&convert::here_from_wire(&request.volume_id)?).await?;
    let node = door.orchestrator.node();
    let mut health_statuses = Vec::new();
    match view.mounts.iter().find(|mount| mount.node == *node).map(|mount| &mount.state) {
        Some(MountState::Broken(why)) => {
            health_statuses.push(entry(VolumeHealthErrorType::Inaccessible, "MountBroken", why.clone()))
        }
        Some(MountState::Mounting | MountState::Mounted | MountState::Unmounting) => {}
        None => {
            return Err(Error::not_found("it is not in use on this node")
                .about(format!("volume {}", request.volume_id)));
        }
    }
    if let Some(stall) = door.orchestrator.stalled(view.volume.id) {
        health_statuses.push(entry(VolumeHealthErrorType::Inaccessible, "DeviceStalled", stall));
    }
    let volume_health = VolumeHealth { volume_id: request.volume_id, health_statuses };
    Ok(NodeGetVolumeHealthResponse { volume_health: Some(volume_health) })
}

pub(crate) async fn of_storage(
    door: Arc<Door>,
    _: Context,
    _: NodeGetStorageHealthRequest,
) -> Result<NodeGetStorageHealthResponse, Error> {
    let backends = door.orchestrator.backends().await?;
    let broken = backends.into_iter().filter_map(|backend| {
        let error = backend.found.err()?;
        Some(format!("backend {}: {}", backend.name, error.message))
    });
    let broken: Vec<_> = broken.collect();
    // Several of them are one entry: no two may have the same status and reason.
    let entry = (!broken.is_empty()).then(|| StorageBackendHealth {
        status: StorageHealthErrorType::StorageUnreachable.into(),
        reason: "BackendUnreachable".to_owned(),
        message: short(broken.join("; ")),
        volume_capability: None,
    });
    Ok(NodeGetStorageHealthResponse { backend_health: entry.into_iter().collect() })
}

fn entry(status: VolumeHealthErrorType, reason: &str, message: String) -> VolumeHealthEntry {
    VolumeHealthEntry { status: status.into(), reason: reason.to_owned(), message: short(message) }
}

/// A message that is short enough to leave.
fn short(mut message: String) -> String {
    if message.len() > TEXT_LIMIT {
        message.truncate(message.floor_char_boundary(TEXT_LIMIT - '…'.len_utf8()));
        message.push('…');
    }
    message
}
