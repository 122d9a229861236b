//! The way in: gRPC on a unix socket. Every call of kubelet's is a connection of its own, so accepting does nothing
//! else, and a connection that cannot be accepted for want of descriptors waits in the socket until there are some.
//!
//! Which services there are depends on the role alone, and never changes while the daemon lives. A method, a service or
//! a version of the protocol that is none of ours is UNIMPLEMENTED. What every call goes through is `door.rs`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use kato_orchestrator::Orchestrator;
use tokio::{
    net::{UnixListener, UnixStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{
    config::Config,
    controller::Controller,
    door::Door,
    groups::GroupController,
    identity::Identity,
    node::Node,
    protocol::{
        controller_server::ControllerServer, group_controller_server::GroupControllerServer,
        identity_server::IdentityServer, node_server::NodeServer,
        snapshot_metadata_server::SnapshotMetadataServer,
    },
    snapshot_metadata::SnapshotMetadata,
};

/// The largest request that is read.
const REQUEST_LIMIT: usize = 4 << 20;

/// How many calls one connection may have open. Those beyond what is worked on at once wait for a seat.
const STREAMS: u32 = 4096;

/// Serves until `shutdown`, then answers what was begun and returns.
pub async fn serve(
    listener: UnixListener,
    orchestrator: Arc<Orchestrator>,
    config: Config,
    shutdown: CancellationToken,
) {
    let role = config.role;
    let door = Arc::new(Door::new(orchestrator, config));
    let here = || Arc::clone(&door);
    // What the specification lets a caller send is larger than what tonic takes by itself, and no answer is cut.
    macro_rules! sized {
        ($server:ident($service:ident)) => {
            $server::new($service { door: here() }).max_decoding_message_size(REQUEST_LIMIT)
        };
    }
    let (controls, mounts) = (role.controls(), role.mounts());
    let served = Server::builder()
        .max_concurrent_streams(STREAMS)
        .add_service(sized!(IdentityServer(Identity)))
        .add_optional_service(controls.then(|| sized!(ControllerServer(Controller))))
        .add_optional_service(controls.then(|| sized!(GroupControllerServer(GroupController))))
        .add_optional_service(controls.then(|| sized!(SnapshotMetadataServer(SnapshotMetadata))))
        .add_optional_service(mounts.then(|| sized!(NodeServer(Node))))
        .serve_with_incoming_shutdown(incoming(listener), shutdown.cancelled())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the CSI door closed");
    }
    door.empty().await;
}

/// Every connection, for ever: a failure to accept is waited out and never told, because it would end the server.
fn incoming(listener: UnixListener) -> impl Stream<Item = Result<UnixStream, Infallible>> {
    stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(stream), listener)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
}
