//! Two doors, one hall: the same story by Docker and by CSI leaves the same records.

use std::{collections::BTreeMap, fs, path::PathBuf};

use kato_docker_plugin::{Config, Passed, listen, serve};
use kato_orchestrator::model::{Connection, Timestamp, Volume, VolumeId, VolumeName};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ground::{House, Plan, usual, wish};
use crate::{docker::wire::Wire, host::ground::Ground};

/// What is the same in two lives: neither ids of the moment nor folders of the test.
fn record(mut volume: Volume) -> Volume {
    volume.id = VolumeId(0);
    volume.created = Timestamp(0);
    if let Some(Connection::File { root, .. } | Connection::Directory { root, .. }) = &mut volume.connection {
        root.clear();
    }
    volume
}

/// The records of the volume, with how many hold it and have it mounted.
async fn records(house: &House) -> (Volume, usize, usize, usize) {
    let view = house.hall.inspect(&VolumeName::parse("db").unwrap()).await.unwrap();
    let uses = view.publications.iter().filter(|one| one.purpose == Default::default()).count();
    (record(view.volume), uses, view.mounts.len(), view.attachments.len())
}

/// A door for Docker before the same kind of house.
struct Docker {
    house: House,
    wire: Wire,
    shutdown: CancellationToken,
    served: JoinSet<()>,
}

impl Docker {
    async fn open(ground: &Ground) -> Self {
        let house = Plan::all(ground).open().await;
        let config = Config { socket: ground.path("docker").join("kato.sock"), ..Config::default() };
        let listener = listen(&config.socket, &Passed::default(), "docker").unwrap();
        let (wire, shutdown) = (Wire(config.socket.clone()), CancellationToken::new());
        let mut served = JoinSet::new();
        served.spawn(serve(listener, house.hall.clone(), config, shutdown.clone()));
        Self { house, wire, shutdown, served }
    }

    async fn ask(&self, operation: &str, body: Value) -> Value {
        let (wire, path) = (Wire(self.wire.0.clone()), format!("/VolumeDriver.{operation}"));
        let asked =
            tokio::task::spawn_blocking(move || wire.ask(&path, &body.to_string()).unwrap().unwrap().json());
        let answer = asked.await.unwrap();
        assert_eq!(answer["Err"], "", "{operation}");
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_story_leaves_the_same_records_through_either_door() {
    let (ours, theirs) = (Ground::new(), Ground::new());
    let docker = Docker::open(&ours).await;
    let csi = Plan::all(&theirs).open().await;
    let (staged, pods) = (theirs.path("staged"), theirs.path("pods"));
    fs::create_dir_all(&staged).unwrap();
    fs::create_dir_all(&pods).unwrap();
    let targets: [PathBuf; 2] = [pods.join("one"), pods.join("two")];

    docker.ask("Create", json!({"Name": "db", "Opts": {"size": "64MiB", "fs": "ext4"}})).await;
    let volume = csi.create(wish("db", 64)).await.unwrap();
    assert_eq!(records(&docker.house).await, records(&csi).await);

    csi.stage(&volume, &staged, &usual(), &BTreeMap::new()).await.unwrap();
    for (holder, target) in ["one", "two"].into_iter().zip(&targets) {
        let mounted = docker.ask("Mount", json!({"Name": "db", "ID": holder})).await;
        csi.publish(&volume, &staged, target, &usual()).await.unwrap();
        for path in [PathBuf::from(mounted["Mountpoint"].as_str().unwrap()), target.clone()] {
            fs::write(path.join(holder), "text").unwrap();
            assert_eq!(fs::read_dir(path).unwrap().count(), if holder == "one" { 1 } else { 2 });
        }
        assert_eq!(records(&docker.house).await, records(&csi).await);
    }
    for (holder, target) in ["one", "two"].into_iter().zip(&targets) {
        docker.ask("Unmount", json!({"Name": "db", "ID": holder})).await;
        csi.unpublish(&volume.volume_id, target).await.unwrap();
        if holder == "two" {
            csi.unstage(&volume.volume_id, &staged).await.unwrap();
        }
        assert_eq!(records(&docker.house).await, records(&csi).await);
    }
    docker.ask("Remove", json!({"Name": "db"})).await;
    csi.delete(&volume.volume_id).await.unwrap();
    for house in [&docker.house, &csi] {
        assert!(house.hall.list(None, 10).await.unwrap().items.is_empty());
    }
    docker.shutdown.cancel();
    docker.served.join_all().await;
    docker.house.close().await;
    csi.close().await;
}
