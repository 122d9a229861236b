//! A controller whose records are lost at any moment, and nodes that share none with it: every rule holds, because the
//! backend is asked by token and handle, and what a node has to know is sealed into what its caller carries.

use std::{collections::BTreeMap, fs, sync::Arc};

use kato_csi::protocol::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerGetVolumeHealthRequest,
    ControllerGetVolumeRequest, ControllerModifyVolumeRequest, ControllerPublishVolumeRequest,
    ControllerUnpublishVolumeRequest, CreateSnapshotRequest, CreateVolumeRequest, DeleteSnapshotRequest,
    DeleteVolumeRequest, GetSnapshotRequest, ListSnapshotsRequest, ListVolumesRequest,
    NodeExpandVolumeRequest, Snapshot, ValidateVolumeCapabilitiesRequest, Volume, VolumeContentSource,
    volume_content_source::{self, SnapshotSource, VolumeSource},
};
use kato_orchestrator::Role;
use kato_store::MemoryStore;
use tonic::{Code, Status};

use super::ground::{House, MIB, Plan, Reach, grows_mounted_ext4, usual, wish};
use crate::host::ground::Ground;

/// A controller that has just lost everything it knew.
pub(super) async fn controller(ground: &Ground, reach: &Reach) -> House {
    let plan = Plan {
        node: "controller",
        role: Role::Controller,
        attached: Some(reach.clone()),
        ..Plan::all(ground)
    };
    plan.open().await
}

fn node<'g>(ground: &'g Ground, reach: &Reach, name: &'static str) -> Plan<'g> {
    Plan { node: name, role: Role::Node, attached: Some(reach.clone()), ..Plan::all(ground) }
}

pub(super) async fn attach(
    house: &House,
    volume: &Volume,
    node: &str,
) -> Result<BTreeMap<String, String>, Status> {
    let request = ControllerPublishVolumeRequest {
        volume_id: volume.volume_id.clone(),
        node_id: node.into(),
        volume_capability: Some(usual()),
        volume_context: volume.volume_context.clone(),
        ..Default::default()
    };
    let answer = house.clients.controller.clone().controller_publish_volume(request).await?;
    Ok(answer.into_inner().publish_context)
}

pub(super) async fn detach(house: &House, id: &str, node: &str) -> Result<(), Status> {
    let request =
        ControllerUnpublishVolumeRequest { volume_id: id.into(), node_id: node.into(), ..Default::default() };
    house.clients.controller.clone().controller_unpublish_volume(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_although_the_controller_forgets_everything_before_each_call() {
    let ground = Ground::new();
    let reach = Reach::default();
    let host = node(&ground, &reach, "node-1").open().await;
    let (staged, target) = (ground.path("staged"), ground.path("pods").join("one"));
    fs::create_dir_all(&staged).unwrap();
    fs::create_dir_all(target.parent().unwrap()).unwrap();

    let volume = controller(&ground, &reach).await.create(wish("pvc-1", 64)).await.unwrap();
    assert_eq!(controller(&ground, &reach).await.create(wish("pvc-1", 64)).await.unwrap(), volume);
    let refused = controller(&ground, &reach).await.create(wish("pvc-1", 128)).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    for text in ["first", "second"] {
        let context = attach(&controller(&ground, &reach).await, &volume, "node-1").await.unwrap();
        let again = attach(&controller(&ground, &reach).await, &volume, "node-1").await.unwrap();
        assert_eq!(again, context);
        let elsewhere = attach(&controller(&ground, &reach).await, &volume, "node-2").await.unwrap_err();
        assert_eq!(elsewhere.code(), Code::FailedPrecondition, "{elsewhere}");
        assert!(elsewhere.message().contains("node-1"), "{elsewhere}");
        let busy = controller(&ground, &reach).await.delete(&volume.volume_id).await.unwrap_err();
        assert_eq!(busy.code(), Code::FailedPrecondition, "{busy}");

        host.stage(&volume, &staged, &usual(), &context).await.unwrap();
        host.publish(&volume, &staged, &target, &usual()).await.unwrap();
        let before = fs::read_to_string(target.join("file")).unwrap_or_default();
        assert_eq!(before, if text == "first" { "" } else { "first" }, "it was formatted twice");
        fs::write(target.join("file"), text).unwrap();
        host.unpublish(&volume.volume_id, &target).await.unwrap();
        host.unstage(&volume.volume_id, &staged).await.unwrap();
        assert!(host.hall.list(None, 10).await.unwrap().items.is_empty(), "the node kept a record");
        for _ in 0..2 {
            detach(&controller(&ground, &reach).await, &volume.volume_id, "node-1").await.unwrap();
        }
        assert!(reach.nodes().is_empty());
    }
    let request = ControllerExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        capacity_range: Some(CapacityRange { required_bytes: 96 * MIB, limit_bytes: 0 }),
        ..Default::default()
    };
    for _ in 0..2 {
        let house = controller(&ground, &reach).await;
        let grown = house
            .clients
            .controller
            .clone()
            .controller_expand_volume(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (96 * MIB, true));
    }
    let cut = CreateSnapshotRequest {
        source_volume_id: volume.volume_id.clone(),
        name: "monday".into(),
        ..Default::default()
    };
    let mut snapshots = Vec::new();
    for _ in 0..2 {
        let house = controller(&ground, &reach).await;
        let made = house.clients.controller.clone().create_snapshot(cut.clone()).await.unwrap().into_inner();
        snapshots.push(made.snapshot.unwrap().snapshot_id);
    }
    assert_eq!(snapshots[0], snapshots[1]);
    for _ in 0..2 {
        controller(&ground, &reach).await.delete(&volume.volume_id).await.unwrap();
    }
    let listed = controller(&ground, &reach).await;
    let answer = listed.clients.controller.clone().list_volumes(ListVolumesRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().entries.len(), 0);
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_is_known_to_a_controller_that_knows_nothing() {
    let ground = Ground::new();
    let reach = Reach::default();
    let host = node(&ground, &reach, "node-1").open().await;
    let staged = ground.path("staged");
    fs::create_dir_all(&staged).unwrap();
    // Each call is the first that its controller hears of.
    macro_rules! ask {
        ($call:ident, $request:expr) => {{
            let house = controller(&ground, &reach).await;
            let answer = house.clients.controller.clone().$call($request).await.unwrap().into_inner();
            house.close().await;
            answer
        }};
    }
    let volume = ask!(create_volume, wish("pvc-1", 64)).volume.unwrap();
    let id = || volume.volume_id.clone();
    let context = attach(&controller(&ground, &reach).await, &volume, "node-1").await.unwrap();
    host.stage(&volume, &staged, &usual(), &context).await.unwrap();
    host.unstage(&id(), &staged).await.unwrap();
    detach(&controller(&ground, &reach).await, &id(), "node-1").await.unwrap();

    let request = ValidateVolumeCapabilitiesRequest {
        volume_id: id(),
        volume_context: volume.volume_context.clone(),
        volume_capabilities: vec![usual()],
        ..Default::default()
    };
    assert!(ask!(validate_volume_capabilities, request).confirmed.is_some());
    let request = ControllerGetVolumeRequest { volume_id: id() };
    assert_eq!(ask!(controller_get_volume, request).volume.unwrap(), volume);
    let listed = ask!(list_volumes, ListVolumesRequest::default()).entries;
    assert!(listed.len() == 1 && listed[0].volume.as_ref() == Some(&volume), "{listed:?}");
    let request = ControllerGetVolumeHealthRequest { volume_id: id(), ..Default::default() };
    assert!(ask!(controller_get_volume_health, request).volume_health.unwrap().health_statuses.is_empty());
    let thin = BTreeMap::from([("thin".to_owned(), "true".to_owned())]);
    let request =
        ControllerModifyVolumeRequest { volume_id: id(), mutable_parameters: thin, ..Default::default() };
    ask!(controller_modify_volume, request);

    let request = CreateSnapshotRequest {
        source_volume_id: id(),
        name: "monday".into(),
        ..CreateSnapshotRequest::default()
    };
    let snapshot = ask!(create_snapshot, request).snapshot.unwrap();
    let named = || snapshot.snapshot_id.clone();
    let request = GetSnapshotRequest { snapshot_id: named(), ..Default::default() };
    // This backend does not tell when it was cut, and who knew is gone.
    let timeless = |snapshot: Snapshot| Snapshot { creation_time: None, ..snapshot };
    assert_eq!(ask!(get_snapshot, request).snapshot.map(timeless), Some(timeless(snapshot.clone())));
    let request = ListSnapshotsRequest { source_volume_id: id(), ..Default::default() };
    let listed =
        ask!(list_snapshots, request).entries.into_iter().map(|entry| timeless(entry.snapshot.unwrap()));
    assert_eq!(listed.collect::<Vec<_>>(), [timeless(snapshot.clone())]);
    let from = |source| Some(VolumeContentSource { r#type: Some(source) });
    let sources = [
        volume_content_source::Type::Snapshot(SnapshotSource { snapshot_id: named() }),
        volume_content_source::Type::Volume(VolumeSource { volume_id: id() }),
    ];
    for (source, name) in sources.into_iter().zip(["restored", "copy"]) {
        let wish = CreateVolumeRequest { volume_content_source: from(source), ..wish(name, 64) };
        let made = ask!(create_volume, wish.clone()).volume.unwrap();
        assert_eq!(ask!(create_volume, wish.clone()).volume.unwrap(), made);
        if name == "restored" {
            let request = || DeleteSnapshotRequest { snapshot_id: named(), ..Default::default() };
            ask!(delete_snapshot, request());
            ask!(delete_snapshot, request());
        }
        let request = DeleteVolumeRequest { volume_id: made.volume_id, ..Default::default() };
        ask!(delete_volume, request);
    }
    ask!(delete_volume, DeleteVolumeRequest { volume_id: id(), ..Default::default() });
    assert!(ask!(list_volumes, ListVolumesRequest::default()).entries.is_empty());
    assert!(ask!(list_snapshots, ListSnapshotsRequest::default()).entries.is_empty());
    host.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_moves_between_nodes_and_grows_on_the_one_that_has_it() {
    let ground = Ground::new();
    let reach = Reach::default();
    let house = controller(&ground, &reach).await;
    let (one, two) =
        (node(&ground, &reach, "node-1").open().await, node(&ground, &reach, "node-2").open().await);
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    for (number, host) in [&one, &two].into_iter().enumerate() {
        let name = format!("node-{}", number + 1);
        let (staged, target) = (ground.path(&format!("staged-{name}")), ground.path(&name).join("pod"));
        fs::create_dir_all(&staged).unwrap();
        let context = attach(&house, &volume, &name).await.unwrap();
        host.stage(&volume, &staged, &usual(), &context).await.unwrap();
        host.publish(&volume, &staged, &target, &usual()).await.unwrap();
        let before = fs::read_to_string(target.join("file")).unwrap_or_default();
        assert_eq!(before, if number == 0 { "" } else { "node-1" });
        fs::write(target.join("file"), &name).unwrap();
        let size = (96 + 32 * i64::try_from(number).unwrap()) * MIB;
        let range = Some(CapacityRange { required_bytes: size, limit_bytes: 0 });
        let request = ControllerExpandVolumeRequest {
            volume_id: volume.volume_id.clone(),
            capacity_range: range,
            ..Default::default()
        };
        house.clients.controller.clone().controller_expand_volume(request).await.unwrap();
        let request = NodeExpandVolumeRequest {
            volume_id: volume.volume_id.clone(),
            volume_path: target.display().to_string(),
            capacity_range: range,
            ..Default::default()
        };
        // What has not arrived may still arrive, and is not believed before.
        let mut much = request.clone();
        much.capacity_range = Some(CapacityRange { required_bytes: 1 << 40, limit_bytes: 0 });
        let early = host.clients.node.clone().node_expand_volume(much).await.unwrap_err();
        let parked = early.code() == Code::FailedPrecondition && !grows_mounted_ext4();
        assert!(early.code() == Code::Unavailable || parked, "{early:?}");
        let grown = host.clients.node.clone().node_expand_volume(request).await;
        // Where the kernel grows no mounted ext4, the next mount does.
        match grown {
            Ok(grown) => assert_eq!(grown.into_inner().capacity_bytes, size),
            Err(status) => {
                assert!(status.code() == Code::FailedPrecondition && !grows_mounted_ext4(), "{status:?}");
            }
        }
        host.unpublish(&volume.volume_id, &target).await.unwrap();
        host.unstage(&volume.volume_id, &staged).await.unwrap();
        detach(&house, &volume.volume_id, &name).await.unwrap();
    }
    house.delete(&volume.volume_id).await.unwrap();
    for house in [house, one, two] {
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_carries_is_believed_only_as_it_was_given() {
    let ground = Ground::new();
    let reach = Reach::default();
    let house = controller(&ground, &reach).await;
    let host = node(&ground, &reach, "node-1").open().await;
    let (mine, other) =
        (house.create(wish("mine", 64)).await.unwrap(), house.create(wish("other", 64)).await.unwrap());
    let staged = ground.path("staged");
    fs::create_dir_all(&staged).unwrap();
    let context = attach(&house, &mine, "node-1").await.unwrap();
    let others = attach(&house, &other, "node-1").await.unwrap();
    let mut forged = context.clone();
    forged.insert("kato.storage/path".into(), others["kato.storage/path"].clone());
    let mut renamed = mine.clone();
    renamed.volume_context.insert("kato.storage/data-root".into(), "/".into());
    let mut bare = mine.clone();
    bare.volume_context.clear();
    for (volume, context) in [(&mine, &forged), (&mine, &others), (&renamed, &context), (&bare, &context)] {
        let refused = host.stage(volume, &staged, &usual(), context).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    assert!(ground.loops().is_empty() && host.hall.list(None, 10).await.unwrap().items.is_empty());
    // What others add on the way is none of our business.
    let mut added = mine.clone();
    added
        .volume_context
        .insert("storage.kubernetes.io/csiProvisionerIdentity".into(), "1-2-kato.storage".into());
    host.stage(&added, &staged, &usual(), &context).await.unwrap();
    host.close().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_at_once_make_one_volume() {
    let ground = Ground::new();
    let reach = Reach::default();
    let (one, two) = (controller(&ground, &reach).await, controller(&ground, &reach).await);
    for number in 0..8 {
        let name = format!("pvc-{number}");
        let (first, second) = tokio::join!(one.create(wish(&name, 8)), two.create(wish(&name, 8)));
        // One of them may be told to ask again, never that it failed.
        let answers: Vec<_> = [first, second].into_iter().collect::<Vec<_>>();
        for answer in &answers {
            if let Err(status) = answer {
                assert!(matches!(status.code(), Code::Aborted | Code::Unavailable), "{status}");
            }
        }
        let (first, second) =
            (one.create(wish(&name, 8)).await.unwrap(), two.create(wish(&name, 8)).await.unwrap());
        assert_eq!(first, second);
        let (first, second) = tokio::join!(one.delete(&first.volume_id), two.delete(&second.volume_id));
        for answer in [first, second] {
            assert!(
                answer.is_ok() || answer.as_ref().is_err_and(|status| status.code() != Code::Internal),
                "{answer:?}"
            );
        }
        one.delete(&second_id(&name, &two).await).await.unwrap();
    }
    let third = controller(&ground, &reach).await;
    let left = third.clients.controller.clone().list_volumes(ListVolumesRequest::default()).await.unwrap();
    assert_eq!(left.into_inner().entries.len(), 0, "a volume was leaked");
    for house in [one, two, third] {
        house.close().await;
    }
}

/// Which nodes a controller says that volumes are attached to.
async fn published(house: &House) -> Vec<Vec<String>> {
    let request = ListVolumesRequest::default();
    let listed = house.clients.controller.clone().list_volumes(request).await.unwrap().into_inner();
    listed.entries.into_iter().map(|entry| entry.status.unwrap().published_node_ids).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_by_turns_agree_on_who_has_a_volume() {
    let ground = Ground::new();
    let reach = Reach::default();
    let (one, two) = (controller(&ground, &reach).await, controller(&ground, &reach).await);
    let volume = one.create(wish("pvc-1", 8)).await.unwrap();
    let id = &volume.volume_id;
    let context = attach(&one, &volume, "node-1").await.unwrap();
    let fresh = controller(&ground, &reach).await;
    assert_eq!(published(&fresh).await, [["node-1"]], "it has never heard of the attachment");
    assert_eq!(attach(&fresh, &volume, "node-1").await.unwrap(), context);
    // What the other does in between is not forgotten, and not held against anybody.
    detach(&two, id, "node-1").await.unwrap();
    attach(&two, &volume, "node-2").await.unwrap();
    let refused = attach(&one, &volume, "node-1").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("node-2"), "{refused}");
    let busy = one.delete(id).await.unwrap_err();
    assert_eq!(busy.code(), Code::FailedPrecondition, "{busy}");
    detach(&two, id, "node-2").await.unwrap();
    attach(&one, &volume, "node-1").await.unwrap();
    detach(&two, id, "").await.unwrap();
    assert!(reach.nodes().is_empty());
    one.delete(id).await.unwrap();
    for house in [one, two, fresh] {
        house.close().await;
    }
}

/// The id that a name has now, made anew if it has to be.
async fn second_id(name: &str, house: &House) -> String {
    house.create(wish(name, 8)).await.unwrap().volume_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_controller_attaches_by_itself() {
    let ground = Ground::new();
    let reach = Reach::default();
    let store = Arc::new(MemoryStore::new());
    let house = Plan { attached: Some(reach.clone()), store, ..Plan::all(&ground) }.open().await;
    let volume = house.create(wish("task", 64)).await.unwrap();
    // Somebody wrote down the id alone, and calls the node with nothing else.
    let bare = Volume { volume_id: volume.volume_id.clone(), ..Volume::default() };
    let (staged, target) = (ground.path("staged"), ground.path("tasks").join("one"));
    fs::create_dir_all(&staged).unwrap();
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    house.stage(&bare, &staged, &usual(), &BTreeMap::new()).await.unwrap();
    assert_eq!(reach.nodes(), ["here"]);
    house.publish(&bare, &staged, &target, &usual()).await.unwrap();
    fs::write(target.join("file"), "text").unwrap();
    house.unpublish(&volume.volume_id, &target).await.unwrap();
    house.unstage(&volume.volume_id, &staged).await.unwrap();
    for _ in 0..100 {
        if reach.nodes().is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(reach.nodes().is_empty(), "it is still attached");
    house.delete(&volume.volume_id).await.unwrap();
    house.close().await;
}
