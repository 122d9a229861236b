//! What every host promises, the machine in memory as well as a Linux one: each promise runs on both, over
//! the port alone. The hall is proven against the machine in memory, so the two must not differ here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use kato_orchestrator::{
    Kind,
    model::{Bytes, CapacityRange, ClusterId, Connection, DataRoot, FsType, Token, VolumeId},
    ports::{
        Backend as _, Host,
        backend::{Blankness, Create, Effect},
        host::{Bind, MountWish, Prepare},
    },
    testing::{BackendWorld, FakeBackend, FakeHost, Fuse, HostWorld},
};

use super::ground::{Ground, SMALL};

/// A host, and a volume that it can connect.
struct Stage {
    host: Arc<dyn Host>,
    volume: VolumeId,
    connection: Connection,
    /// A path where something can be bound.
    target: String,
    /// Keeps what the host stands on.
    _ground: Option<Ground>,
}

impl Stage {
    async fn on_linux() -> Self {
        let ground = Ground::new();
        let disk = ground.disk("a", SMALL);
        Self {
            host: Arc::new(ground.node().await),
            volume: disk.id,
            connection: disk.connection,
            target: ground.path("target").display().to_string(),
            _ground: Some(ground),
        }
    }

    async fn in_memory() -> Self {
        let (backend, fuse) = (Arc::new(Mutex::new(BackendWorld::default())), Arc::new(Fuse::default()));
        let maker = FakeBackend::new(Arc::clone(&backend), Arc::clone(&fuse), false, Duration::ZERO);
        let wish = Create {
            token: Token::derive(ClusterId(1), "volume", "a", 1),
            mark: String::new(),
            name: "a".into(),
            size: CapacityRange::at_least(Bytes(SMALL)),
            parameters: BTreeMap::new(),
            source: None,
            topology: Vec::new(),
            resume: None,
        };
        let Effect::Done(made) = maker.create(wish).await.unwrap() else { panic!("the fake backend waits") };
        let (volume, mut machine) = (VolumeId(1), HostWorld::default());
        machine.show_size(volume, Some(Bytes(SMALL)));
        Self {
            host: Arc::new(FakeHost::new(Arc::new(Mutex::new(machine)), backend, fuse)),
            volume,
            connection: made.connection.unwrap(),
            target: "/fake/target".into(),
            _ground: None,
        }
    }

    async fn format(&self, resumed: bool) -> Result<(), kato_orchestrator::Error> {
        let how = Prepare { fs: FsType::Ext4, blank: Blankness::Zeroes, resumed, size: Bytes(0) };
        self.host.format(self.volume, &self.connection, &how).await
    }

    fn wish(&self) -> MountWish {
        MountWish {
            volume: self.volume,
            name: "a".into(),
            connection: self.connection.clone(),
            options: Vec::new(),
            read_only: false,
            root: DataRoot::default(),
            size: Bytes(0),
        }
    }

    async fn unmount(&self) -> Result<(), kato_orchestrator::Error> {
        self.host.unmount(self.volume, "a", &self.connection).await
    }
}

async fn a_repeated_mount_is_one_mount(stage: Stage) {
    stage.format(false).await.unwrap();
    let mounted = stage.host.mount(&stage.wish()).await.unwrap();
    assert_eq!(stage.host.mount(&stage.wish()).await.unwrap(), mounted);
    assert_eq!(mounted.data, format!("{}/data", mounted.path));
    let survey = stage.host.survey().await.unwrap();
    assert_eq!(survey.mounts, [(Some(stage.volume), mounted.path)]);
    assert_eq!(survey.devices.len(), 1);
    assert_eq!(survey.devices[0].1, mounted.device.path);
}

async fn a_repeated_unmount_leaves_nothing(stage: Stage) {
    stage.unmount().await.unwrap();
    stage.format(false).await.unwrap();
    stage.host.mount(&stage.wish()).await.unwrap();
    for _ in 0..2 {
        stage.unmount().await.unwrap();
        stage.host.disconnect(stage.volume, &stage.connection).await.unwrap();
    }
    let survey = stage.host.survey().await.unwrap();
    assert!(survey.mounts.is_empty() && survey.devices.is_empty(), "{survey:?}");
}

async fn a_format_is_for_blank_volumes(stage: Stage) {
    assert_eq!(stage.host.mount(&stage.wish()).await.unwrap_err().kind, Kind::Precondition);
    stage.format(false).await.unwrap();
    assert_eq!(stage.format(false).await.unwrap_err().kind, Kind::Precondition);
    stage.format(true).await.unwrap();
    stage.host.mount(&stage.wish()).await.unwrap();
}

async fn a_repeated_connect_is_one_device(stage: Stage) {
    let device = stage.host.connect(stage.volume, &stage.connection, false).await.unwrap();
    assert_eq!(stage.host.connect(stage.volume, &stage.connection, false).await.unwrap(), device);
    assert_eq!(stage.host.survey().await.unwrap().devices.len(), 1);
    stage.host.disconnect(stage.volume, &stage.connection).await.unwrap();
    assert!(stage.host.survey().await.unwrap().devices.is_empty());
}

async fn a_bound_volume_is_in_use_until_it_is_unbound(stage: Stage) {
    stage.format(false).await.unwrap();
    let mounted = stage.host.mount(&stage.wish()).await.unwrap();
    for _ in 0..2 {
        stage.host.bind(stage.volume, &Bind::directory(&mounted.data, &stage.target, false)).await.unwrap();
    }
    assert_eq!(stage.unmount().await.unwrap_err().kind, Kind::InUse);
    for _ in 0..2 {
        stage.host.unbind(stage.volume, &Bind::directory("", &stage.target, false)).await.unwrap();
    }
    stage.unmount().await.unwrap();
}

async fn a_thaw_says_whether_it_was_frozen_until_now(stage: Stage) {
    stage.format(false).await.unwrap();
    let path = stage.host.mount(&stage.wish()).await.unwrap().path;
    assert!(!stage.host.thaw(stage.volume, &path).await.unwrap());
    stage.host.freeze(stage.volume, &path, Duration::from_secs(600)).await.unwrap();
    stage.host.freeze(stage.volume, &path, Duration::from_secs(600)).await.unwrap();
    assert!(stage.host.thaw(stage.volume, &path).await.unwrap());
    assert!(!stage.host.thaw(stage.volume, &path).await.unwrap());
}

async fn a_device_that_is_smaller_than_its_volume_is_not_touched(stage: Stage) {
    let larger = Bytes(2 * SMALL);
    let how = Prepare { fs: FsType::Ext4, blank: Blankness::Zeroes, resumed: false, size: larger };
    let error = stage.host.format(stage.volume, &stage.connection, &how).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    // It is as blank as before.
    stage.format(false).await.unwrap();
    let error = stage.host.mount(&MountWish { size: larger, ..stage.wish() }).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert_eq!(stage.host.survey().await.unwrap().mounts, []);
    stage.host.mount(&MountWish { size: Bytes(SMALL), ..stage.wish() }).await.unwrap();
}

async fn a_connection_of_an_unknown_kind_is_unsupported(stage: Stage) {
    let mut wish = stage.wish();
    wish.connection = Connection::Nbd { server: "host:10809".into(), export: "x".into() };
    let error = stage.host.mount(&wish).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(error.message.contains("nbd"), "{error}");
}

macro_rules! promises {
    ($($promise:ident),* $(,)?) => { $(
        mod $promise {
            use super::Stage;

            #[tokio::test]
            async fn on_linux() {
                super::$promise(Stage::on_linux().await).await;
            }

            #[tokio::test]
            async fn in_memory() {
                super::$promise(Stage::in_memory().await).await;
            }
        }
    )* };
}

promises! {
    a_repeated_mount_is_one_mount,
    a_repeated_unmount_leaves_nothing,
    a_format_is_for_blank_volumes,
    a_repeated_connect_is_one_device,
    a_bound_volume_is_in_use_until_it_is_unbound,
    a_thaw_says_whether_it_was_frozen_until_now,
    a_device_that_is_smaller_than_its_volume_is_not_touched,
    a_connection_of_an_unknown_kind_is_unsupported,
}
