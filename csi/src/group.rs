//! The group controller: snapshots of several volumes at one moment. Nothing is served here yet.

use std::sync::Arc;

use kato_orchestrator::Error;
use tonic::{Request, async_trait};

use crate::{
    door::{Answer, Door},
    protocol::{
        CreateVolumeGroupSnapshotRequest, CreateVolumeGroupSnapshotResponse,
        DeleteVolumeGroupSnapshotRequest, DeleteVolumeGroupSnapshotResponse, GetVolumeGroupSnapshotRequest,
        GetVolumeGroupSnapshotResponse, GroupControllerGetCapabilitiesRequest,
        GroupControllerGetCapabilitiesResponse, group_controller_server,
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
            .call(request, |_, _, _| async {
                Err(Error::unsupported("GroupControllerGetCapabilities is not served yet"))
            })
            .await
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<CreateVolumeGroupSnapshotRequest>,
    ) -> Answer<CreateVolumeGroupSnapshotResponse> {
        self.door
            .call(request, |_, _, _| async {
                Err(Error::unsupported("CreateVolumeGroupSnapshot is not served yet"))
            })
            .await
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<DeleteVolumeGroupSnapshotRequest>,
    ) -> Answer<DeleteVolumeGroupSnapshotResponse> {
        self.door
            .call(request, |_, _, _| async {
                Err(Error::unsupported("DeleteVolumeGroupSnapshot is not served yet"))
            })
            .await
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<GetVolumeGroupSnapshotRequest>,
    ) -> Answer<GetVolumeGroupSnapshotResponse> {
        self.door
            .call(request, |_, _, _| async {
                Err(Error::unsupported("GetVolumeGroupSnapshot is not served yet"))
            })
            .await
    }
}
