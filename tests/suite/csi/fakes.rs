//! Houses over fakes, for what a real backend would not do when it is asked to: a backend in memory that fails as it is told,
//! shared by the houses of one scene, and a door before each.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use kato_csi::{
    Config,
    protocol::{
        ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest, CreateSnapshotRequest,
        DeleteSnapshotRequest, Snapshot, Volume, VolumeCapability,
    },
};
use kato_orchestrator::{
    Role,
    testing::{BackendWorld, FakeBackend, FakeIds, Fault, Verb},
};
use kato_store::MemoryStore;
use kato_tests::csi::CsiDoor;
use tonic::{Code, Status};

use super::{
    ground::{Clients, House, usual},
    hall_of,
};

/// Where houses stand: what their backend has, and what one of them is.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) world: Arc<Mutex<BackendWorld>>,
    pub(super) store: MemoryStore,
    pub(super) ids: Arc<FakeIds>,
    pub(super) node: &'static str,
    pub(super) role: Role,
}

impl Default for Scene {
    fn default() -> Self {
        Self {
            world: Arc::default(),
            store: MemoryStore::new(),
            ids: Arc::default(),
            node: "here",
            role: Role::All,
        }
    }
}

impl Scene {
    /// Another house of the scene, with records of its own.
    pub(super) fn beside(&self, node: &'static str, role: Role) -> Self {
        Self { store: MemoryStore::new(), node, role, ..self.clone() }
    }

    /// A house with a door of its role, over a backend that is changed like this.
    pub(super) async fn open(&self, change: impl FnOnce(FakeBackend) -> FakeBackend) -> House {
        let hall = hall_of(self, change).await;
        let role = match self.role {
            Role::All => kato_csi::Role::All,
            Role::Controller => kato_csi::Role::Controller,
            Role::Node => kato_csi::Role::Node,
        };
        let door = CsiDoor::open(Arc::clone(&hall), |config| config.role = role);
        let clients = clients(&door).await;
        House { hall, door, clients }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, BackendWorld> {
        self.world.lock().unwrap()
    }

    /// Lets the next call of a verb go wrong.
    pub(super) fn fault(&self, verb: Verb, fault: Fault) {
        self.world().fault(verb, fault);
    }

    /// How many volumes, snapshots and attached volumes the backend has.
    pub(super) fn has(&self) -> [usize; 3] {
        let world = self.world();
        let snapshots = world.snapshots().len();
        [world.tokens().len() - snapshots, snapshots, world.attachments()]
    }

    /// Waits until the backend has heard of a verb so often.
    pub(super) async fn until_heard(&self, verb: Verb, times: usize) {
        until("the backend is asked", async || self.world().heard(verb) >= times).await;
    }
}

async fn clients(door: &CsiDoor) -> Clients {
    let caller = door.caller().await;
    Clients { controller: caller.controller(), node: caller.node() }
}

/// The same house behind another door.
pub(super) async fn behind(house: House, change: impl FnOnce(&mut Config)) -> House {
    let House { hall, door, clients: before } = house;
    drop(before);
    door.close().await;
    let door = CsiDoor::open(Arc::clone(&hall), change);
    let clients = clients(&door).await;
    House { hall, door, clients }
}

/// Tries until it is so. That it never is ends the test, and nothing else is made of the time.
pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// Whether whoever hears this asks again, and forgets nothing.
pub(super) fn is_open(status: &Status) -> bool {
    matches!(status.code(), Code::Aborted | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

/// How a call was answered.
pub(super) fn code<T>(answer: &Result<T, Status>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}

/// How a volume is to be attached.
pub(super) fn attachment(
    volume: &Volume,
    node: &str,
    capability: VolumeCapability,
) -> ControllerPublishVolumeRequest {
    ControllerPublishVolumeRequest {
        volume_id: volume.volume_id.clone(),
        node_id: node.into(),
        volume_capability: Some(capability),
        volume_context: volume.volume_context.clone(),
        ..Default::default()
    }
}

impl House {
    pub(super) async fn attach(
        &self,
        request: ControllerPublishVolumeRequest,
    ) -> Result<std::collections::BTreeMap<String, String>, Status> {
        let answer = self.clients.controller.clone().controller_publish_volume(request).await?;
        Ok(answer.into_inner().publish_context)
    }

    pub(super) async fn detach(&self, id: &str, node: &str) -> Result<(), Status> {
        let request = ControllerUnpublishVolumeRequest {
            volume_id: id.into(),
            node_id: node.into(),
            ..Default::default()
        };
        self.clients.controller.clone().controller_unpublish_volume(request).await.map(drop)
    }

    pub(super) async fn cut(&self, name: &str, of: &str) -> Result<Snapshot, Status> {
        let request =
            CreateSnapshotRequest { source_volume_id: of.into(), name: name.into(), ..Default::default() };
        let answer = self.clients.controller.clone().create_snapshot(request).await?;
        Ok(answer.into_inner().snapshot.unwrap())
    }

    pub(super) async fn delete_snapshot(&self, id: &str) -> Result<(), Status> {
        let request = DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
        self.clients.controller.clone().delete_snapshot(request).await.map(drop)
    }

    /// Has a volume mounted once on a machine in memory, so that there is something on it.
    pub(super) async fn use_once(&self, volume: &Volume) {
        let path = std::path::Path::new("/fake/staged");
        self.stage(volume, path, &usual(), &Default::default()).await.unwrap();
        self.unstage(&volume.volume_id, path).await.unwrap();
        let unattached = async || {
            let view = self.hall.list(None, 100).await.unwrap().items;
            view.iter().all(|view| view.attachments.is_empty())
        };
        until("it is let go", unattached).await;
    }
}
