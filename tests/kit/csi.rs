//! The CSI door, in this process and over a real socket, and clients for everything that it serves. What is behind the
//! door is the test's own.

#![expect(clippy::expect_used, reason = "a door that does not open ends the test, in words")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper_util::rt::TokioIo;
use kato_csi::{
    Config, SealKey,
    protocol::{
        controller_client::ControllerClient, group_controller_client::GroupControllerClient,
        identity_client::IdentityClient, node_client::NodeClient,
        snapshot_metadata_client::SnapshotMetadataClient,
    },
};
use kato_orchestrator::Orchestrator;
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// The largest answer that clients of Go take.
const ANSWER_LIMIT: usize = 4 << 20;

/// An open door.
#[derive(Debug)]
pub struct Door {
    folder: TempDir,
    shutdown: CancellationToken,
    served: JoinSet<()>,
}

/// A client for each service.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Who is there.
    pub identity: IdentityClient<Channel>,
    /// Volumes and snapshots.
    pub controller: ControllerClient<Channel>,
    /// Groups of snapshots.
    pub group: GroupControllerClient<Channel>,
    /// What happens on the node.
    pub node: NodeClient<Channel>,
    /// Blocks of snapshots.
    pub metadata: SnapshotMetadataClient<Channel>,
}

impl Door {
    /// Opens it.
    #[must_use]
    pub fn open(hall: Arc<Orchestrator>, config: Config) -> Self {
        let folder = tempfile::Builder::new().prefix("kato-csi-").tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("csi.sock")).expect("a socket");
        let shutdown = CancellationToken::new();
        let mut served = JoinSet::new();
        served.spawn(kato_csi::serve(listener, hall, config, shutdown.clone()));
        Self { folder, shutdown, served }
    }

    /// Where it is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("csi.sock")
    }

    /// Clients on one new connection.
    pub async fn clients(&self) -> Clients {
        Clients::at(&self.socket()).await
    }

    /// Closes it, after what was begun has ended.
    pub async fn close(self) {
        self.shutdown.cancel();
        self.served.join_all().await;
    }
}

impl Clients {
    /// Clients on one new connection to a socket.
    pub async fn at(socket: &Path) -> Self {
        let channel = connect(socket).await;
        macro_rules! client {
            ($client:ident) => {
                $client::new(channel.clone()).max_decoding_message_size(ANSWER_LIMIT)
            };
        }
        Self {
            identity: client!(IdentityClient),
            controller: client!(ControllerClient),
            group: client!(GroupControllerClient),
            node: client!(NodeClient),
            metadata: client!(SnapshotMetadataClient),
        }
    }
}

/// A new connection to a socket.
pub async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://csi");
    endpoint.connect_with_connector(connector).await.expect("a connection")
}

/// The usual configuration, with a key that every door of the tests has.
#[must_use]
pub fn config() -> Config {
    Config::new(SealKey::new([7; 32]).expect("a key"))
}
