//! Snapshot metadata: which blocks a snapshot has, and which differ between two. Nothing is served here yet.

use std::sync::Arc;

use kato_orchestrator::Error;
use tonic::{Request, async_trait};

use crate::{
    door::{Answer, Door, Messages},
    protocol::{
        GetMetadataAllocatedRequest, GetMetadataAllocatedResponse, GetMetadataDeltaRequest,
        GetMetadataDeltaResponse, snapshot_metadata_server,
    },
};

/// The service.
pub(crate) struct SnapshotMetadata {
    pub(crate) door: Arc<Door>,
}

#[async_trait]
impl snapshot_metadata_server::SnapshotMetadata for SnapshotMetadata {
    type GetMetadataAllocatedStream = Messages<GetMetadataAllocatedResponse>;

    type GetMetadataDeltaStream = Messages<GetMetadataDeltaResponse>;

    async fn get_metadata_allocated(
        &self,
        request: Request<GetMetadataAllocatedRequest>,
    ) -> Answer<Self::GetMetadataAllocatedStream> {
        self.door
            .stream(request, |_, _, _, _| async {
                Err(Error::unsupported("GetMetadataAllocated is not served yet"))
            })
            .await
    }

    async fn get_metadata_delta(
        &self,
        request: Request<GetMetadataDeltaRequest>,
    ) -> Answer<Self::GetMetadataDeltaStream> {
        self.door
            .stream(request, |_, _, _, _| async {
                Err(Error::unsupported("GetMetadataDelta is not served yet"))
            })
            .await
    }
}
