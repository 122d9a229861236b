//! The CSI door over a socket of its own, before any hall, and the clients that sidecars have. What a client of theirs would not
//! say is sent as bare bytes.

#![expect(clippy::expect_used, reason = "a door that does not open ends the test, in words")]

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use kato_csi::{
    Config, SealKey,
    protocol::{
        controller_client::ControllerClient, group_controller_client::GroupControllerClient,
        identity_client::IdentityClient, node_client::NodeClient,
        snapshot_metadata_client::SnapshotMetadataClient,
    },
    serve,
};
use kato_orchestrator::Orchestrator;
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{self, Channel, Endpoint, Uri},
};
use tower::{ServiceExt as _, service_fn};

/// A door that is served.
#[derive(Debug)]
pub struct CsiDoor {
    folder: TempDir,
    shutdown: CancellationToken,
    served: JoinSet<()>,
}

impl CsiDoor {
    /// Opens one before this hall.
    #[must_use]
    pub fn open(hall: Arc<Orchestrator>, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("csi.sock")).expect("a socket");
        let mut config = Config::new(SealKey::new([7; 32]).expect("a key"));
        change(&mut config);
        let shutdown = CancellationToken::new();
        let mut served = JoinSet::new();
        served.spawn(serve(listener, hall, config, shutdown.clone()));
        Self { folder, shutdown, served }
    }

    /// Where it is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("csi.sock")
    }

    /// A caller with a connection of its own.
    pub async fn caller(&self) -> Caller {
        Caller::at(&self.socket()).await
    }

    /// Closes it, and waits until every call has ended.
    pub async fn close(self) {
        self.shutdown.cancel();
        self.served.join_all().await;
    }
}

/// Who calls, with one connection.
#[derive(Clone, Debug)]
pub struct Caller(Channel);

impl Caller {
    /// Connects to somebody who is surely there.
    pub async fn at(socket: &Path) -> Self {
        Self::reach(socket).await.expect("the door answers")
    }

    /// Connects, if somebody is there.
    pub async fn reach(socket: &Path) -> Result<Self, transport::Error> {
        let socket = socket.to_owned();
        let connect = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        // As much may be under way unread as with the clients that sidecars have.
        let window = 64 << 10;
        let endpoint = Endpoint::from_static("http://csi.sock")
            .initial_stream_window_size(window)
            .initial_connection_window_size(window);
        endpoint.connect_with_connector(connect).await.map(Self)
    }

    /// The service of this name.
    #[must_use]
    pub fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.0.clone())
    }

    /// The service of this name.
    #[must_use]
    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.0.clone())
    }

    /// The service of this name.
    #[must_use]
    pub fn groups(&self) -> GroupControllerClient<Channel> {
        GroupControllerClient::new(self.0.clone())
    }

    /// The service of this name.
    #[must_use]
    pub fn snapshot_metadata(&self) -> SnapshotMetadataClient<Channel> {
        SnapshotMetadataClient::new(self.0.clone())
    }

    /// The service of this name.
    #[must_use]
    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.0.clone())
    }

    /// Sends a message as bare bytes, and answers with one; for calls of which only the description is known.
    pub async fn ask(
        &self,
        path: &str,
        message: &[u8],
        deadline: Option<Duration>,
    ) -> Result<Vec<u8>, Status> {
        let mut client = Grpc::new(self.0.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(message.to_vec());
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        let path = PathAndQuery::try_from(path).expect("a path");
        client.unary(request, path, Bare).await.map(Response::into_inner)
    }

    /// Sends a message as bare bytes, and tells the status's number.
    pub async fn raw(&self, path: &str, message: &[u8]) -> i32 {
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
        body.extend(message);
        let request = http::Request::post(format!("http://csi.sock{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(Full::new(Bytes::from(body))))
            .expect("a request");
        let (head, body) = self.0.clone().oneshot(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a whole answer");
        let told = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
        let status = told.or_else(|| head.headers.get("grpc-status")).expect("a status");
        status.to_str().ok().and_then(|status| status.parse().ok()).expect("a number")
    }
}

/// Messages as they are on the wire.
#[derive(Clone, Copy, Debug)]
struct Bare;

impl Codec for Bare {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bare {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Bare {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}
