//! What is not ready, still needed or in use: snapshots whose backend is still at work on them, deletes that a backend
//! refuses because something depends on what is to go, and volumes that grow only while nobody has them. Whoever hears a
//! refusal finds everything as it was.

use std::{path::Path, sync::Arc};

use kato_csi::protocol::{
    CapacityRange, ControllerExpandVolumeRequest, CreateVolumeRequest, GetPluginCapabilitiesRequest,
    GetSnapshotRequest, ListSnapshotsRequest, Snapshot, Volume, VolumeContentSource,
    plugin_capability::{Type, volume_expansion::Type as Expands},
    volume_content_source::{self, SnapshotSource, VolumeSource},
};
use kato_orchestrator::{
    Error,
    testing::{FakeBackend, Fault, Verb},
};
use tokio::sync::Notify;
use tonic::{Code, Status};

use super::{
    fakes::{Scene, attachment, code, until},
    ground::{House, MIB, usual, wish},
};

/// A volume with something on it.
async fn used(house: &House, name: &str) -> Volume {
    let volume = house.create(wish(name, 64)).await.unwrap();
    house.use_once(&volume).await;
    volume
}

fn made_from(name: &str, source: volume_content_source::Type) -> CreateVolumeRequest {
    let volume_content_source = Some(VolumeContentSource { r#type: Some(source) });
    CreateVolumeRequest { volume_content_source, ..wish(name, 64) }
}

fn restored(name: &str, snapshot: &Snapshot) -> CreateVolumeRequest {
    let source = SnapshotSource { snapshot_id: snapshot.snapshot_id.clone() };
    made_from(name, volume_content_source::Type::Snapshot(source))
}

async fn get(house: &House, id: &str) -> Result<Snapshot, Status> {
    let request = GetSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    let answer = house.clients.controller.clone().get_snapshot(request).await?;
    Ok(answer.into_inner().snapshot.unwrap())
}

/// What is said of a snapshot: by the same call again, by itself, in the list of all and in that of its volume.
async fn told(house: &House, snapshot: &Snapshot) -> Vec<Snapshot> {
    let mut told = vec![
        house.cut("monday", &snapshot.source_volume_id).await.unwrap(),
        get(house, &snapshot.snapshot_id).await.unwrap(),
    ];
    let lists = [
        ListSnapshotsRequest::default(),
        ListSnapshotsRequest { snapshot_id: snapshot.snapshot_id.clone(), ..Default::default() },
        ListSnapshotsRequest { source_volume_id: snapshot.source_volume_id.clone(), ..Default::default() },
    ];
    for request in lists {
        let answer = house.clients.controller.clone().list_snapshots(request).await.unwrap().into_inner();
        assert_eq!(answer.entries.len(), 1);
        told.extend(answer.entries.into_iter().map(|entry| entry.snapshot.unwrap()));
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_told_as_unready_until_its_backend_is_done() {
    let scene = Scene::default();
    let house = scene.open(FakeBackend::ripening).await;
    let volume = used(&house, "db").await;
    let snapshot = house.cut("monday", &volume.volume_id).await.unwrap();
    assert!(!snapshot.ready_to_use && snapshot.creation_time.is_some(), "{snapshot:#?}");
    for again in told(&house, &snapshot).await {
        assert_eq!(again, snapshot);
    }

    // Nothing can be made from it yet, and nothing is left of who tried.
    let refused = house.create(restored("early", &snapshot)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("not ready"), "{refused:?}");
    assert_eq!((scene.has(), house.hall.list(None, 10).await.unwrap().items.len()), ([1, 1, 0], 1));
    assert_eq!(scene.world().heard(Verb::Create), 1);

    // Its moment is cut: what is written to its volume now is none of its business, and that may go on.
    house.use_once(&volume).await;
    scene.world().ripen();
    until("it is ready", async || get(&house, &snapshot.snapshot_id).await.unwrap().ready_to_use).await;
    let ready = Snapshot { ready_to_use: true, ..snapshot };
    for again in told(&house, &ready).await {
        assert_eq!(again, ready);
    }
    let copy = house.create(restored("early", &ready)).await.unwrap();
    assert_eq!(copy.content_source, restored("early", &ready).volume_content_source);
    assert_eq!((scene.has(), scene.world().heard(Verb::Cut)), ([2, 1, 0], 1));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unready_snapshot_is_deleted_like_any_other_and_kept_where_that_is_refused() {
    let scene = Scene::default();
    let house = scene.open(FakeBackend::ripening).await;
    let volume = used(&house, "db").await;
    let snapshot = house.cut("monday", &volume.volume_id).await.unwrap();
    scene.fault(Verb::DeleteSnapshot, Fault::Refuse(Error::in_use("it is being copied")));
    let refused = house.delete_snapshot(&snapshot.snapshot_id).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(get(&house, &snapshot.snapshot_id).await.unwrap(), snapshot);
    house.delete_snapshot(&snapshot.snapshot_id).await.unwrap();
    assert_eq!(code(&get(&house, &snapshot.snapshot_id).await), Code::NotFound);
    assert_eq!(scene.has(), [1, 0, 0]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_something_depends_on_is_not_deleted_and_is_as_good_as_before() {
    for refusal in [Error::in_use("a clone needs it"), Error::precondition("a clone needs it")] {
        let scene = Scene::default();
        let house = scene.open(|backend| backend).await;
        let volume = used(&house, "db").await;
        let snapshot = house.cut("monday", &volume.volume_id).await.unwrap();

        scene.fault(Verb::DeleteSnapshot, Fault::Refuse(refusal.clone()));
        let refused = house.delete_snapshot(&snapshot.snapshot_id).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("a clone needs it"), "{refused:?}");
        until("it is ready", async || get(&house, &snapshot.snapshot_id).await.unwrap().ready_to_use).await;
        house.create(restored("copy", &snapshot)).await.unwrap();

        scene.fault(Verb::Delete, Fault::Refuse(refusal));
        let refused = house.delete(&volume.volume_id).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("a clone needs it"), "{refused:?}");
        assert_eq!(house.create(wish("db", 64)).await.unwrap(), volume);
        house.attach(attachment(&volume, "here", usual())).await.unwrap();
        house.stage(&volume, Path::new("/fake/staged"), &usual(), &Default::default()).await.unwrap();
        assert_eq!(code(&house.delete(&volume.volume_id).await), Code::FailedPrecondition, "it is in use");
        house.unstage(&volume.volume_id, Path::new("/fake/staged")).await.unwrap();
        house.detach(&volume.volume_id, "here").await.unwrap();

        // It does not go by itself either, and what is told to go does.
        assert_eq!(scene.has(), [2, 1, 0]);
        house.delete(&volume.volume_id).await.unwrap();
        house.delete_snapshot(&snapshot.snapshot_id).await.unwrap();
        assert_eq!(scene.has(), [1, 0, 0]);
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_something_is_being_made_from_is_kept_until_that_is_made() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    let volume = used(&house, "db").await;
    let snapshot = house.cut("monday", &volume.volume_id).await.unwrap();
    let clone = VolumeSource { volume_id: volume.volume_id.clone() };
    let clone = made_from("clone", volume_content_source::Type::Volume(clone));
    for (request, heard) in [(restored("restored", &snapshot), 2), (clone, 3)] {
        let bell = Arc::<Notify>::default();
        scene.fault(Verb::Create, Fault::Until(Arc::clone(&bell)));
        let of_snapshot = request.name == "restored";
        let (made, ()) = tokio::join!(house.create(request), async {
            scene.until_heard(Verb::Create, heard).await;
            let refused = match of_snapshot {
                true => house.delete_snapshot(&snapshot.snapshot_id).await,
                false => house.delete(&volume.volume_id).await,
            };
            bell.notify_one();
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        });
        made.unwrap();
    }
    assert_eq!(scene.has(), [3, 1, 0]);
    house.delete_snapshot(&snapshot.snapshot_id).await.unwrap();
    house.delete(&volume.volume_id).await.unwrap();
    assert_eq!(scene.has(), [2, 0, 0]);
    house.close().await;
}

async fn expand(house: &House, volume: &Volume, mib: i64) -> Result<(i64, bool), Status> {
    let request = ControllerExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        capacity_range: Some(CapacityRange { required_bytes: mib * MIB, limit_bytes: 0 }),
        ..Default::default()
    };
    let grown = house.clients.controller.clone().controller_expand_volume(request).await?.into_inner();
    Ok((grown.capacity_bytes, grown.node_expansion_required))
}

async fn expansions(house: &House) -> Vec<Expands> {
    let mut identity = house.door.caller().await.identity();
    let told = identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap().into_inner();
    let kinds = told.capabilities.into_iter().filter_map(|capability| match capability.r#type {
        Some(Type::VolumeExpansion(expansion)) => Some(expansion.r#type()),
        _ => None,
    });
    kinds.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grows_offline_alone_grows_when_it_was_let_go() {
    let scene = Scene::default();
    let house = scene.open(FakeBackend::growing_offline).await;
    assert_eq!(expansions(&house).await, [Expands::Offline]);
    let volume = house.create(wish("db", 64)).await.unwrap();
    house.attach(attachment(&volume, "here", usual())).await.unwrap();
    for _ in 0..2 {
        let refused = expand(&house, &volume, 96).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("not in use"), "{refused:?}");
    }
    // What it has already it has, in use or not.
    assert_eq!(expand(&house, &volume, 64).await.unwrap(), (64 * MIB, true));
    house.detach(&volume.volume_id, "here").await.unwrap();
    assert_eq!(scene.world().heard(Verb::Grow), 0, "a refused wish was remembered");
    for _ in 0..2 {
        assert_eq!(expand(&house, &volume, 96).await.unwrap(), (96 * MIB, true));
    }
    assert_eq!(scene.world().heard(Verb::Grow), 1);
    house.attach(attachment(&volume, "here", usual())).await.unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grows_online_says_so_and_does() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    assert_eq!(expansions(&house).await, [Expands::Online]);
    let volume = house.create(wish("db", 64)).await.unwrap();
    house.attach(attachment(&volume, "here", usual())).await.unwrap();
    assert_eq!(expand(&house, &volume, 96).await.unwrap(), (96 * MIB, true));
    house.close().await;
}
