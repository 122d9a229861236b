//! A CSI driver that does nothing: the same protocol code as the door's, on a socket of the same kind, with the door's
//! own answers given back at once. What remains is what gRPC itself costs on this machine.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::stream;
use kato_csi::protocol::{
    controller_server::{Controller, ControllerServer},
    list_volumes_response::Entry,
    node_server::{Node, NodeServer},
    *,
};
use tokio::{
    net::{UnixListener, UnixStream},
    runtime::Runtime,
};
use tonic::{Request, Response, Status, async_trait, transport::Server};

use crate::Fallible;

/// A null server; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Null {
    socket: PathBuf,
    _runtime: Runtime,
}

impl Null {
    /// Starts one that makes this volume of every wish, and lists these entries on every page.
    pub(crate) fn start(folder: &Path, volume: Volume, page: Vec<Entry>) -> Fallible<Self> {
        let socket = folder.join("null.sock");
        let runtime = Runtime::new()?;
        let incoming = {
            let _inside = runtime.enter();
            incoming(UnixListener::bind(&socket)?)
        };
        let answers = Answers(Arc::new((volume, page)));
        runtime.spawn(
            Server::builder()
                .add_service(ControllerServer::new(answers.clone()))
                .add_service(NodeServer::new(answers))
                .serve_with_incoming(incoming),
        );
        Ok(Self { socket, _runtime: runtime })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

fn incoming(listener: UnixListener) -> impl stream::Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    })
}

/// What it answers.
#[derive(Clone, Debug)]
struct Answers(Arc<(Volume, Vec<Entry>)>);

impl Answers {
    fn made(&self) -> CreateVolumeResponse {
        CreateVolumeResponse { volume: Some(self.0.0.clone()) }
    }

    fn listed(&self) -> ListVolumesResponse {
        ListVolumesResponse { entries: self.0.1.clone(), next_token: "next".to_owned() }
    }
}

/// A service: what it is asked and what it answers, or that nobody asks that here.
macro_rules! service {
    ($service:ident { $($asked:ident($question:ty) -> $answer:ty = $with:expr;)* } $($never:ident($other:ty) -> $none:ty;)*) => {
        #[async_trait]
        impl $service for Answers {
            $(async fn $asked(&self, _: Request<$question>) -> Result<Response<$answer>, Status> {
                let with: fn(&Self) -> $answer = $with;
                Ok(Response::new(with(self)))
            })*
            $(async fn $never(&self, _: Request<$other>) -> Result<Response<$none>, Status> {
                Err(Status::unimplemented("nobody asks this here"))
            })*
        }
    };
}

service! {
    Controller {
        create_volume(CreateVolumeRequest) -> CreateVolumeResponse = Self::made;
        delete_volume(DeleteVolumeRequest) -> DeleteVolumeResponse = |_| DeleteVolumeResponse {};
        list_volumes(ListVolumesRequest) -> ListVolumesResponse = Self::listed;
    }
    controller_publish_volume(ControllerPublishVolumeRequest) -> ControllerPublishVolumeResponse;
    controller_unpublish_volume(ControllerUnpublishVolumeRequest) -> ControllerUnpublishVolumeResponse;
    validate_volume_capabilities(ValidateVolumeCapabilitiesRequest) -> ValidateVolumeCapabilitiesResponse;
    controller_list_volume_health(ControllerListVolumeHealthRequest) -> ControllerListVolumeHealthResponse;
    controller_get_volume_health(ControllerGetVolumeHealthRequest) -> ControllerGetVolumeHealthResponse;
    get_capacity(GetCapacityRequest) -> GetCapacityResponse;
    controller_get_capabilities(ControllerGetCapabilitiesRequest) -> ControllerGetCapabilitiesResponse;
    create_snapshot(CreateSnapshotRequest) -> CreateSnapshotResponse;
    delete_snapshot(DeleteSnapshotRequest) -> DeleteSnapshotResponse;
    list_snapshots(ListSnapshotsRequest) -> ListSnapshotsResponse;
    get_snapshot(GetSnapshotRequest) -> GetSnapshotResponse;
    controller_expand_volume(ControllerExpandVolumeRequest) -> ControllerExpandVolumeResponse;
    controller_get_volume(ControllerGetVolumeRequest) -> ControllerGetVolumeResponse;
    controller_modify_volume(ControllerModifyVolumeRequest) -> ControllerModifyVolumeResponse;
}

service! {
    Node {
        node_stage_volume(NodeStageVolumeRequest) -> NodeStageVolumeResponse = |_| NodeStageVolumeResponse {};
        node_unstage_volume(NodeUnstageVolumeRequest) -> NodeUnstageVolumeResponse = |_| NodeUnstageVolumeResponse {};
        node_publish_volume(NodePublishVolumeRequest) -> NodePublishVolumeResponse = |_| NodePublishVolumeResponse {};
        node_unpublish_volume(NodeUnpublishVolumeRequest) -> NodeUnpublishVolumeResponse = |_| NodeUnpublishVolumeResponse {};
    }
    node_get_volume_stats(NodeGetVolumeStatsRequest) -> NodeGetVolumeStatsResponse;
    node_get_volume_health(NodeGetVolumeHealthRequest) -> NodeGetVolumeHealthResponse;
    node_get_storage_health(NodeGetStorageHealthRequest) -> NodeGetStorageHealthResponse;
    node_expand_volume(NodeExpandVolumeRequest) -> NodeExpandVolumeResponse;
    node_get_capabilities(NodeGetCapabilitiesRequest) -> NodeGetCapabilitiesResponse;
    node_get_info(NodeGetInfoRequest) -> NodeGetInfoResponse;
}
