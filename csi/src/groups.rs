//! The group controller: snapshots of several volumes at one moment, all of them or none. A group is called
//! `<backend>@<node>/<group>`, as everything is that leaves this room.

use std::{collections::BTreeSet, sync::Arc};

use kato_orchestrator::{
    Error,
    model::SnapshotState,
    ops::{Context, GroupView},
};
use tonic::{Request, async_trait};

use crate::{
    capabilities::Claims,
    convert,
    door::{Answer, Door},
    ids::{ThingId, named},
    protocol::{
        CreateVolumeGroupSnapshotRequest, CreateVolumeGroupSnapshotResponse,
        DeleteVolumeGroupSnapshotRequest, DeleteVolumeGroupSnapshotResponse, GetVolumeGroupSnapshotRequest,
        GetVolumeGroupSnapshotResponse, GroupControllerGetCapabilitiesRequest,
        GroupControllerGetCapabilitiesResponse, VolumeGroupSnapshot, group_controller_server,
    },
};

/// The service.
pub(crate) struct GroupController {
    pub(crate) door: Arc<Door>,
}

#[async_trait]
impl group_controller_server::GroupController for GroupController {
    async fn group_controller_get_capabilities(
        &self,
        request: Request<GroupControllerGetCapabilitiesRequest>,
    ) -> Answer<GroupControllerGetCapabilitiesResponse> {
        self.door
            .call(request, |door, _, _| async move {
                let claims = Claims::of(&door.config, &door.orchestrator.catalog());
                Ok(GroupControllerGetCapabilitiesResponse { capabilities: claims.groups_to_wire() })
            })
            .await
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<CreateVolumeGroupSnapshotRequest>,
    ) -> Answer<CreateVolumeGroupSnapshotResponse> {
        self.door.call(request, create).await
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<DeleteVolumeGroupSnapshotRequest>,
    ) -> Answer<DeleteVolumeGroupSnapshotResponse> {
        self.door.call(request, delete).await
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<GetVolumeGroupSnapshotRequest>,
    ) -> Answer<GetVolumeGroupSnapshotResponse> {
        self.door.call(request, get).await
    }
}

async fn create(
    door: Arc<Door>,
    ctx: Context,
    request: CreateVolumeGroupSnapshotRequest,
) -> Result<CreateVolumeGroupSnapshotResponse, Error> {
    let wish = convert::group_from_wire(&door, &request)?;
    let view = door.orchestrator.create_group(&ctx, wish).await?.into_inner();
    Ok(CreateVolumeGroupSnapshotResponse {
        group_snapshot: Some(to_wire(&door, &view).map_err(Error::pending)?),
    })
}

async fn delete(
    door: Arc<Door>,
    ctx: Context,
    request: DeleteVolumeGroupSnapshotRequest,
) -> Result<DeleteVolumeGroupSnapshotResponse, Error> {
    let wish = convert::group_gone_from_wire(&door, &request.group_snapshot_id, &request.snapshot_ids);
    if let Some(wish) = named(wish)? {
        door.orchestrator.delete_group(&ctx, wish).await?;
    }
    Ok(DeleteVolumeGroupSnapshotResponse {})
}

async fn get(
    door: Arc<Door>,
    _: Context,
    request: GetVolumeGroupSnapshotRequest,
) -> Result<GetVolumeGroupSnapshotResponse, Error> {
    let group = convert::group_id_from_wire(&door, &request.group_snapshot_id)?;
    let view = door.orchestrator.find_group(&group).await?;
    let answer = to_wire(&door, &view)?;
    let ids: BTreeSet<&String> = answer.snapshots.iter().map(|one| &one.snapshot_id).collect();
    if !request.snapshot_ids.is_empty() && ids != request.snapshot_ids.iter().collect() {
        let told = "it consists of other snapshots than those that are named: name all of them, or none";
        return Err(Error::invalid(told).about(format!("group {}", request.group_snapshot_id)));
    }
    Ok(GetVolumeGroupSnapshotResponse { group_snapshot: Some(answer) })
}

fn to_wire(door: &Door, view: &GroupView) -> Result<VolumeGroupSnapshot, Error> {
    let snapshots = view.snapshots.iter().map(|one| convert::snapshot_to_wire(door, one));
    let moment = view.snapshots.iter().map(|one| one.cut.unwrap_or(one.created)).min();
    Ok(VolumeGroupSnapshot {
        group_snapshot_id: ThingId::of_group(door, &view.backend, view.id)?.to_wire()?,
        snapshots: snapshots.collect::<Result<_, _>>()?,
        creation_time: moment.map(convert::time_to_wire),
        ready_to_use: view.snapshots.iter().all(|one| one.state == SnapshotState::Ready),
    })
}
