//! What a field may hold: each rule of the specification, at its limit and beyond it.

use std::collections::BTreeMap;

use kato_csi::protocol::{
    CapacityRange, ControllerPublishVolumeRequest, CreateVolumeRequest, DeleteVolumeRequest,
    ListVolumesRequest, NodePublishVolumeRequest, NodeUnstageVolumeRequest,
    volume_capability::{AccessMode, AccessType, MountVolume},
};
use tonic::{Code, Status};

use super::{create, door, mounted};

fn words(key: &str, value: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

/// It was refused as written, and the words name the field.
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, field: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
    assert!(status.message().contains(field), "{field}: {status:?}");
    assert!(status.details().is_empty());
}

#[tokio::test]
async fn a_wish_for_a_volume_keeps_every_limit() {
    let door = door(|_| ()).await;
    let mut controller = door.caller().await.controller();
    let with = |change: &dyn Fn(&mut CreateVolumeRequest)| {
        let mut request = create("db");
        change(&mut request);
        request
    };
    let mode = |request: &mut CreateVolumeRequest, mode| {
        request.volume_capabilities[0].access_mode = Some(AccessMode { mode });
    };
    let mount = |request: &mut CreateVolumeRequest, mount| {
        request.volume_capabilities[0].access_type = Some(AccessType::Mount(mount));
    };
    let range = |required_bytes, limit_bytes| Some(CapacityRange { required_bytes, limit_bytes });
    let table: &[(&str, CreateVolumeRequest)] = &[
        ("name", with(&|request| request.name.clear())),
        ("name", with(&|request| request.name = "x".repeat(129))),
        ("name", with(&|request| request.name = "ü".repeat(65))),
        ("name", with(&|request| request.name = "a\u{8}".into())),
        ("name", with(&|request| request.name = "a\u{9f}".into())),
        ("volume_capabilities", with(&|request| request.volume_capabilities.clear())),
        (
            "volume_capabilities[0].access_mode",
            with(&|request| request.volume_capabilities[0].access_mode = None),
        ),
        (
            "volume_capabilities[0].access_type",
            with(&|request| request.volume_capabilities[0].access_type = None),
        ),
        ("volume_capabilities[0].access_mode.mode", with(&|request| mode(request, 0))),
        ("volume_capabilities[0].access_mode.mode", with(&|request| mode(request, 99))),
        (
            "mount_flags",
            with(&|request| {
                mount(request, MountVolume { mount_flags: vec!["x".repeat(2049); 2], ..Default::default() });
            }),
        ),
        (
            "fs_type",
            with(&|request| mount(request, MountVolume { fs_type: "x".repeat(129), ..Default::default() })),
        ),
        ("parameters", with(&|request| request.parameters = words("x", &"x".repeat(4096)))),
        ("mutable_parameters", with(&|request| request.mutable_parameters = words("x", &"x".repeat(4096)))),
        ("secrets", with(&|request| request.secrets = words("x", &"x".repeat(4096)))),
        ("secrets", with(&|request| request.secrets = words("a b", "hunter2"))),
        ("capacity_range", with(&|request| request.capacity_range = range(-1, 0))),
        ("capacity_range", with(&|request| request.capacity_range = range(0, -1))),
        ("capacity_range", with(&|request| request.capacity_range = range(2, 1))),
    ];
    for (field, request) in table {
        refused(controller.create_volume(request.clone()).await, field);
    }
    door.close().await;
}

#[tokio::test]
async fn ids_and_paths_keep_theirs() {
    let door = door(|config| config.roots = vec!["/pods".into()]).await;
    let caller = door.caller().await;
    let (mut controller, mut node) = (caller.controller(), caller.node());
    for id in [String::new(), "x".repeat(129)] {
        let request = DeleteVolumeRequest { volume_id: id, ..Default::default() };
        refused(controller.delete_volume(request).await, "volume_id");
    }
    for id in [String::new(), "n".repeat(257)] {
        let request = ControllerPublishVolumeRequest {
            volume_id: "fake/a".into(),
            node_id: id,
            volume_capability: Some(mounted()),
            ..Default::default()
        };
        refused(controller.controller_publish_volume(request).await, "node_id");
    }
    let long = format!("/pods/{}", "x/".repeat(2048));
    for path in ["", "relative", "/pods/../etc", "/pods/a\0b", &long, &format!("/pods/{}", "x".repeat(256))] {
        let publish = NodePublishVolumeRequest {
            volume_id: "fake/a".into(),
            target_path: path.into(),
            volume_capability: Some(mounted()),
            ..Default::default()
        };
        refused(node.node_publish_volume(publish).await, "target_path");
    }
    let unstage = NodeUnstageVolumeRequest { volume_id: "fake/a".into(), staging_target_path: "/etc".into() };
    refused(node.node_unstage_volume(unstage).await, "csi.roots");
    door.close().await;
}

#[tokio::test]
async fn a_list_is_begun_again_where_a_token_is_none() {
    let door = door(|_| ()).await;
    let mut controller = door.caller().await.controller();
    refused(
        controller.list_volumes(ListVolumesRequest { max_entries: -1, ..Default::default() }).await,
        "max_entries",
    );
    for token in ["x".to_owned(), "v00000000db".to_owned(), "t".repeat(129)] {
        let request = ListVolumesRequest { starting_token: token, ..Default::default() };
        assert_eq!(controller.list_volumes(request).await.unwrap_err().code(), Code::Aborted);
    }
    door.close().await;
}
