//! Who the door says it is, in each role.

use std::sync::Arc;

use kato_csi::{
    Role,
    protocol::{
        ControllerGetCapabilitiesRequest, ControllerModifyVolumeRequest, CreateSnapshotRequest,
        DeleteSnapshotRequest, GetPluginCapabilitiesRequest, GetPluginInfoRequest,
        NodeGetCapabilitiesRequest, NodeGetStorageHealthRequest, ProbeRequest,
    },
};
use kato_orchestrator::{Catalog, model::BackendName};
use kato_tests::{
    csi::{Caller, CsiDoor},
    daemon::Daemon,
    machine::Machine,
};
use tonic::Code;

use super::{create, door, hall};

#[tokio::test]
async fn it_has_a_name_a_version_and_is_ready() {
    let door = door(|config| config.name = "csi.example.com".into()).await;
    let mut identity = door.caller().await.identity();
    let name = identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(name.name, "csi.example.com");
    assert!(!name.vendor_version.is_empty());
    let probe = identity.probe(ProbeRequest {}).await.unwrap().into_inner();
    assert_eq!(probe.ready, Some(true));
    door.close().await;
}

#[tokio::test]
async fn a_role_serves_its_services_and_no_other() {
    for (role, controls, mounts) in
        [(Role::All, true, true), (Role::Controller, true, false), (Role::Node, false, true)]
    {
        let door = door(|config| config.role = role).await;
        let caller = door.caller().await;
        let code = |served: bool| if served { Code::Ok } else { Code::Unimplemented };
        let controller =
            caller.controller().controller_get_capabilities(ControllerGetCapabilitiesRequest {}).await;
        let node = caller.node().node_get_capabilities(NodeGetCapabilitiesRequest {}).await;
        assert_eq!(controller.err().map_or(Code::Ok, |status| status.code()), code(controls), "{role:?}");
        assert_eq!(node.err().map_or(Code::Ok, |status| status.code()), code(mounts), "{role:?}");
        let plugin =
            caller.identity().get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap();
        assert!(!plugin.into_inner().capabilities.is_empty());
        door.close().await;
    }
}

#[tokio::test]
async fn what_is_missed_for_want_of_a_backend_is_not_refused_for_good() {
    let (hall, _) = hall().await;
    let door = CsiDoor::open(Arc::clone(&hall), |_| ());
    let caller = door.caller().await;
    let volume = caller.controller().create_volume(create("db")).await.unwrap().into_inner().volume.unwrap();
    let cut = CreateSnapshotRequest {
        name: "monday".into(),
        source_volume_id: volume.volume_id.clone(),
        ..Default::default()
    };
    let catalog = hall.catalog();
    let away = |names: &[&str]| {
        let why = |name: &&str| (BackendName::parse(name).unwrap(), "its file is gone".to_owned());
        let broken = names.iter().map(why).collect();
        Catalog { backends: Default::default(), broken, ..(*catalog).clone() }
    };
    hall.set_catalog(away(&["fake", "other"]));
    let refused = caller.controller().create_snapshot(cut.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(
        refused.message().contains("CREATE_DELETE_SNAPSHOT") && refused.message().contains("fake"),
        "{refused}"
    );
    let gone = DeleteSnapshotRequest { snapshot_id: "fake/snap".into(), ..Default::default() };
    let refused = caller.controller().delete_snapshot(gone).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // Both are told, as one entry.
    let health = caller.node().node_get_storage_health(NodeGetStorageHealthRequest::default()).await.unwrap();
    let entries = health.into_inner().backend_health;
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert!(entries[0].message.contains("fake") && entries[0].message.contains("other"), "{entries:?}");
    // Nobody is configured who could.
    hall.set_catalog(away(&[]));
    let refused = caller.controller().create_snapshot(cut).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
    door.close().await;
}

#[tokio::test]
async fn parameters_are_changed_all_or_none() {
    let (hall, world) = hall().await;
    let door = CsiDoor::open(hall, |_| ());
    let mut controller = door.caller().await.controller();
    let volume = controller.create_volume(create("db")).await.unwrap().into_inner().volume.unwrap();
    let modify = |parameters: &[(&str, &str)]| {
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let request = ControllerModifyVolumeRequest {
            volume_id: volume.volume_id.clone(),
            mutable_parameters: parameters.collect(),
            ..Default::default()
        };
        let mut controller = controller.clone();
        async move { controller.controller_modify_volume(request).await.map(drop) }
    };
    let handle = volume.volume_id.trim_start_matches("fake/").to_owned();
    let is = || world.lock().unwrap().parameters(&handle).cloned().unwrap_or_default();
    modify(&[("tier", "gold")]).await.unwrap();
    assert_eq!(is().get("tier").map(String::as_str), Some("gold"));
    for (name, value) in [("zone", "b"), ("colour", "red")] {
        let refused = modify(&[("tier", "silver"), (name, value)]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(name), "{refused}");
        assert_eq!(is().get("tier").map(String::as_str), Some("gold"));
    }
    door.close().await;
}

#[test]
fn the_shipped_program_answers_where_it_is_told_to() {
    let machine = Machine::start();
    let daemon = Daemon::start_with(&machine, "[csi]\nenabled = true\n");
    let socket = machine.path("/run/kato/csi.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let name = runtime.block_on(async {
        let mut identity = Caller::at(&socket).await.identity();
        identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner().name
    });
    assert_eq!(name, "kato.storage");
    drop(daemon);
}
