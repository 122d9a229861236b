//! Staging and publishing on a real node: loop devices, ext4, xfs, directories and devices themselves.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use kato_csi::protocol::{
    ListVolumesRequest, NodeGetInfoRequest, NodeGetVolumeHealthRequest, NodeGetVolumeStatsRequest, Volume,
    VolumeUsage,
    volume_capability::{AccessType, access_mode::Mode},
    volume_usage::Unit,
};
use tonic::{Code, Status};

use super::{
    ground::{House, MIB, Plan, Reach, device, mounted, publication, usual, wish},
    lost::{attach, controller, detach},
};
use crate::host::ground::Ground;

const NOTHING: BTreeMap<String, String> = BTreeMap::new();

/// A folder of a caller's, as kubelet makes them before it calls.
fn folder(ground: &Ground, name: &str) -> PathBuf {
    let path = ground.path(name);
    fs::create_dir_all(&path).unwrap();
    path
}

fn code(answer: Result<(), Status>) -> Code {
    answer.map_or_else(|status| status.code(), |()| Code::Ok)
}

async fn stats(house: &House, volume: &Volume, path: &Path) -> Result<Vec<VolumeUsage>, Status> {
    let request = NodeGetVolumeStatsRequest {
        volume_id: volume.volume_id.clone(),
        volume_path: path.display().to_string(),
        ..NodeGetVolumeStatsRequest::default()
    };
    Ok(house.clients.node.clone().node_get_volume_stats(request).await?.into_inner().usage)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_lives_as_a_pod_uses_it_and_leaves_nothing() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    assert_eq!(volume.capacity_bytes, 64 * MIB);
    assert!(volume.volume_id.starts_with("local@here/"), "{}", volume.volume_id);
    let (staged, pods) = (folder(&ground, "staged"), folder(&ground, "pods"));
    let (one, two) = (pods.join("one"), pods.join("two"));
    for _ in 0..2 {
        house.stage(&volume, &staged, &usual(), &NOTHING).await.unwrap();
    }
    for _ in 0..2 {
        house.publish(&volume, &staged, &one, &usual()).await.unwrap();
    }
    fs::write(one.join("file"), "text").unwrap();
    house.publish(&volume, &staged, &two, &usual()).await.unwrap();
    assert_eq!(fs::read_to_string(two.join("file")).unwrap(), "text");
    assert!(!one.join("lost+found").exists());

    let usage = stats(&house, &volume, &one).await.unwrap();
    let of = |unit: Unit| usage.iter().find(|usage| usage.unit == i32::from(unit)).unwrap();
    let (bytes, inodes) = (of(Unit::Bytes), of(Unit::Inodes));
    assert!(bytes.total > 40 * MIB && bytes.total <= 64 * MIB && bytes.used + bytes.available <= bytes.total);
    assert!(inodes.total > 100 && inodes.used >= 11 && inodes.used + inodes.available == inodes.total);

    house.unpublish(&volume.volume_id, &one).await.unwrap();
    assert!(!one.exists());
    assert_eq!(fs::read_to_string(two.join("file")).unwrap(), "text");
    assert_eq!(code(house.delete(&volume.volume_id).await), Code::FailedPrecondition);
    for _ in 0..2 {
        house.unpublish(&volume.volume_id, &two).await.unwrap();
    }
    for _ in 0..2 {
        house.unstage(&volume.volume_id, &staged).await.unwrap();
    }
    assert!(staged.exists() && fs::read_dir(&staged).unwrap().next().is_none());
    for _ in 0..2 {
        house.delete(&volume.volume_id).await.unwrap();
    }
    assert_eq!(
        (ground.mounts(), ground.loops()),
        (vec![ground.path("here/mounts").display().to_string()], vec![])
    );
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_handed_over_as_it_is_and_never_formatted() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let raw = device(Mode::SingleNodeMultiWriter);
    let mut request = wish("raw", 16);
    request.volume_capabilities = vec![raw.clone()];
    let volume = house.create(request).await.unwrap();
    let (staged, pods) = (folder(&ground, "staged"), folder(&ground, "pods"));
    let target = pods.join("device");
    house.stage(&volume, &staged, &raw, &NOTHING).await.unwrap();
    for _ in 0..2 {
        house.publish(&volume, &staged, &target, &raw).await.unwrap();
    }
    assert!(fs::metadata(&target).unwrap().file_type().is_block_device());
    File::options().write(true).open(&target).unwrap().write_all_at(b"mine", 4096).unwrap();
    let usage = stats(&house, &volume, &target).await.unwrap();
    assert_eq!((usage.len(), usage[0].total), (1, 16 * MIB));
    let mounted_beside = house.publish(&volume, &staged, &pods.join("mount"), &usual()).await;
    assert_eq!(code(mounted_beside), Code::AlreadyExists);

    house.unpublish(&volume.volume_id, &target).await.unwrap();
    assert!(!target.exists());
    house.unstage(&volume.volume_id, &staged).await.unwrap();
    assert_eq!(ground.loops(), Vec::<PathBuf>::new());
    // What is on it is somebody's, whatever it looks like.
    let refused = house.stage(&volume, &staged, &usual(), &NOTHING).await.unwrap_err();
    assert!(refused.message().contains("no filesystem"), "{refused}");
    house.unstage(&volume.volume_id, &staged).await.unwrap();
    house.stage(&volume, &staged, &raw, &NOTHING).await.unwrap();
    house.publish(&volume, &staged, &target, &raw).await.unwrap();
    let mut found = [0; 4];
    File::open(&target).unwrap().read_exact_at(&mut found, 4096).unwrap();
    assert_eq!(&found, b"mine");
    house.unpublish(&volume.volume_id, &target).await.unwrap();
    house.unstage(&volume.volume_id, &staged).await.unwrap();
    house.delete(&volume.volume_id).await.unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_once_is_told_again_and_what_differs_is_refused() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    let (staged, pods) = (folder(&ground, "staged"), folder(&ground, "pods"));
    let target = pods.join("one");

    let early = house.publish(&volume, &staged, &target, &usual()).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition, "{early}");
    let mut unstaged = publication(&volume, &staged, &target, &usual());
    unstaged.staging_target_path = String::new();
    let unstaged = house.clients.node.clone().node_publish_volume(unstaged).await.unwrap_err();
    assert_eq!(unstaged.code(), Code::FailedPrecondition, "{unstaged}");

    house.stage(&volume, &staged, &usual(), &NOTHING).await.unwrap();
    let mut other = usual();
    if let Some(AccessType::Mount(mount)) = &mut other.access_type {
        mount.mount_flags = vec!["noatime".into()];
    }
    assert_eq!(code(house.stage(&volume, &staged, &other, &NOTHING).await), Code::AlreadyExists);
    let elsewhere = folder(&ground, "elsewhere");
    assert_eq!(code(house.stage(&volume, &elsewhere, &usual(), &NOTHING).await), Code::AlreadyExists);
    assert_eq!(
        code(house.stage(&volume, &staged, &device(Mode::SingleNodeWriter), &NOTHING).await),
        Code::AlreadyExists
    );
    let xfs = house.stage(&volume, &staged, &mounted("xfs", Mode::SingleNodeMultiWriter), &NOTHING).await;
    assert_eq!(code(xfs), Code::AlreadyExists);

    house.publish(&volume, &staged, &target, &usual()).await.unwrap();
    let mut read_only = publication(&volume, &staged, &target, &usual());
    read_only.readonly = true;
    let refused = house.clients.node.clone().node_publish_volume(read_only).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    // Whoever wants it alone gets no path beside another, and nobody gets one beside him.
    let alone = mounted("ext4", Mode::SingleNodeSingleWriter);
    assert_eq!(
        code(house.publish(&volume, &staged, &pods.join("two"), &alone).await),
        Code::FailedPrecondition
    );
    house.unpublish(&volume.volume_id, &target).await.unwrap();
    house.publish(&volume, &staged, &target, &alone).await.unwrap();
    assert_eq!(
        code(house.publish(&volume, &staged, &pods.join("two"), &usual()).await),
        Code::FailedPrecondition
    );
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_only_be_read_cannot_be_written() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    let (staged, pods) = (folder(&ground, "staged"), folder(&ground, "pods"));
    let (writer, reader) = (pods.join("writer"), pods.join("reader"));
    house.stage(&volume, &staged, &usual(), &NOTHING).await.unwrap();
    house.publish(&volume, &staged, &writer, &usual()).await.unwrap();
    let mut read_only = publication(&volume, &staged, &reader, &usual());
    read_only.readonly = true;
    house.clients.node.clone().node_publish_volume(read_only).await.unwrap();
    fs::write(writer.join("file"), "text").unwrap();
    assert_eq!(fs::read_to_string(reader.join("file")).unwrap(), "text");
    assert_eq!(
        fs::write(reader.join("file"), "no").unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    for target in [&writer, &reader] {
        house.unpublish(&volume.volume_id, target).await.unwrap();
    }
    house.unstage(&volume.volume_id, &staged).await.unwrap();

    let only = mounted("ext4", Mode::SingleNodeReaderOnly);
    house.stage(&volume, &staged, &only, &NOTHING).await.unwrap();
    house.publish(&volume, &staged, &reader, &only).await.unwrap();
    assert!(fs::write(reader.join("file"), "no").is_err());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_reach_the_mount_and_what_only_fstab_knows_does_not() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    let (staged, pods) = (folder(&ground, "staged"), folder(&ground, "pods"));
    let mut flags = usual();
    if let Some(AccessType::Mount(mount)) = &mut flags.access_type {
        mount.mount_flags =
            ["noexec", "_netdev,nofail", "x-systemd.automount", "commit=7"].map(str::to_owned).into();
    }
    house.stage(&volume, &staged, &flags, &NOTHING).await.unwrap();
    house.publish(&volume, &staged, &pods.join("one"), &flags).await.unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = mounts.lines().find(|line| line.contains("here/mounts/")).unwrap();
    assert!(ours.contains("noexec") && ours.contains("commit=7") && ours.contains("nosuid"), "{ours}");
    let flagged = |flag: &str| {
        let mut capability = usual();
        if let Some(AccessType::Mount(mount)) = &mut capability.access_type {
            mount.mount_flags = vec![flag.into()];
        }
        capability
    };
    // Whatever a caller has among its options is told to nobody else.
    let others = house.publish(&volume, &staged, &pods.join("two"), &flagged("noatime")).await.unwrap_err();
    assert_eq!(others.code(), Code::AlreadyExists, "{others}");
    assert!(!others.message().contains("commit"), "{others}");
    let wrong = flagged("suid");
    let other = house.create(wish("pvc-2", 64)).await.unwrap();
    let refused = house.stage(&other, &folder(&ground, "staged2"), &wrong, &NOTHING).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_gets_everything_and_hands_it_on() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    let (staged, pods) = (folder(&ground, "staged"), folder(&ground, "pods"));
    let (one, two) = (pods.join("one"), pods.join("two"));
    house.stage(&volume, &staged, &usual(), &NOTHING).await.unwrap();
    house.publish(&volume, &staged, &one, &usual()).await.unwrap();
    fs::create_dir(one.join("deep")).unwrap();
    fs::write(one.join("deep/file"), "text").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", one.join("link")).unwrap();
    let before = fs::metadata("/etc/hostname").unwrap().gid();
    let mut grouped = usual();
    if let Some(AccessType::Mount(mount)) = &mut grouped.access_type {
        mount.volume_mount_group = "4711".into();
    }
    house.publish(&volume, &staged, &two, &grouped).await.unwrap();
    let at = |path: &str| fs::metadata(two.join(path)).unwrap();
    for (path, mode) in [("", 0o2770), ("deep", 0o2770), ("deep/file", 0o660)] {
        assert_eq!((at(path).gid(), at(path).mode() & mode), (4711, mode), "{path:?}");
    }
    assert_eq!(fs::metadata("/etc/hostname").unwrap().gid(), before, "a link was followed");
    fs::write(two.join("deep/new"), "text").unwrap();
    assert_eq!(at("deep/new").gid(), 4711);
    // Another group at the same place is another wish.
    assert_eq!(code(house.publish(&volume, &staged, &two, &usual()).await), Code::AlreadyExists);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_and_an_xfs_are_published_like_anything_else() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    for (class, fs_type, mib) in [("folders", "", 0), ("xfs", "xfs", 320)] {
        let mut request = wish(class, mib);
        request.parameters = BTreeMap::from([("class".to_owned(), class.to_owned())]);
        let capability = mounted(fs_type, Mode::SingleNodeMultiWriter);
        request.volume_capabilities = vec![capability.clone()];
        let volume = house.create(request).await.unwrap();
        let (staged, pods) = (folder(&ground, &format!("{class}-staged")), folder(&ground, "pods"));
        let target = pods.join(class);
        house.stage(&volume, &staged, &capability, &NOTHING).await.unwrap();
        house.publish(&volume, &staged, &target, &capability).await.unwrap();
        fs::write(target.join("file"), class).unwrap();
        assert!(!stats(&house, &volume, &target).await.unwrap().is_empty());
        if class == "folders" {
            let raw = device(Mode::SingleNodeWriter);
            assert_eq!(code(house.stage(&volume, &staged, &raw, &NOTHING).await), Code::AlreadyExists);
        }
        house.unpublish(&volume.volume_id, &target).await.unwrap();
        house.unstage(&volume.volume_id, &staged).await.unwrap();
        if class == "folders" {
            let raw = device(Mode::SingleNodeWriter);
            assert_eq!(code(house.stage(&volume, &staged, &raw, &NOTHING).await), Code::FailedPrecondition);
            house.unstage(&volume.volume_id, &staged).await.unwrap();
        }
        house.delete(&volume.volume_id).await.unwrap();
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_is_gone_already_and_has_no_stats() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    let (staged, pods) = (folder(&ground, "staged"), folder(&ground, "pods"));
    for id in ["local/image/kato-aaaaaaaaaaaaaaaaaaaaaaaaaa", "no such thing", volume.volume_id.as_str()] {
        house.unpublish(id, &pods.join("one")).await.unwrap();
        house.unstage(id, &staged).await.unwrap();
    }
    house.stage(&volume, &staged, &usual(), &NOTHING).await.unwrap();
    assert_eq!(stats(&house, &volume, &pods.join("one")).await.unwrap_err().code(), Code::NotFound);
    let mut other = volume.clone();
    other.volume_id = "local/image/kato-aaaaaaaaaaaaaaaaaaaaaaaaaa".into();
    // What was sealed for one volume is no word about another.
    assert_eq!(
        code(house.stage(&other, &folder(&ground, "s2"), &usual(), &NOTHING).await),
        Code::InvalidArgument
    );
    other.volume_context.clear();
    assert_eq!(stats(&house, &other, &staged).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(code(house.stage(&other, &folder(&ground, "s2"), &usual(), &NOTHING).await), Code::NotFound);
    let health = NodeGetVolumeHealthRequest { volume_id: volume.volume_id.clone(), ..Default::default() };
    let health = house.clients.node.clone().node_get_volume_health(health).await.unwrap().into_inner();
    assert_eq!(health.volume_health.unwrap().health_statuses, vec![]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inline_volume_lives_and_dies_with_its_pod_in_classes_that_allow_it() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let pods = folder(&ground, "pods");
    let id = format!("csi-{}", "ab".repeat(32));
    let inline = |class: &str| {
        let mut volume = Volume { volume_id: id.clone(), ..Volume::default() };
        volume.volume_context = [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.name", "web-0"),
            ("class", class),
            ("size", "32MiB"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        volume
    };
    let mut request = publication(&inline("default"), Path::new("/"), &pods.join("one"), &usual());
    request.staging_target_path = String::new();
    let refused = house.clients.node.clone().node_publish_volume(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(!pods.join("one").exists());

    // Whoever names somebody else's volume does not get it.
    house.create(wish("payroll", 8)).await.unwrap();
    let mut stolen = inline("pods");
    stolen.volume_id = "payroll".into();
    let mut request = publication(&stolen, Path::new("/"), &pods.join("one"), &usual());
    request.staging_target_path = String::new();
    let refused = house.clients.node.clone().node_publish_volume(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
    assert!(!pods.join("one").exists());
    let theirs = house.create(wish("payroll", 8)).await.unwrap();
    house.delete(&theirs.volume_id).await.unwrap();

    let mut request = publication(&inline("pods"), Path::new("/"), &pods.join("one"), &usual());
    request.staging_target_path = String::new();
    for _ in 0..2 {
        house.clients.node.clone().node_publish_volume(request.clone()).await.unwrap();
    }
    fs::write(pods.join("one/file"), "text").unwrap();
    assert!(!stats(&house, &inline("pods"), &pods.join("one")).await.unwrap().is_empty());
    assert_eq!(ground.loops().len(), 1);
    for _ in 0..2 {
        house.unpublish(&id, &pods.join("one")).await.unwrap();
    }
    assert!(!pods.join("one").exists() && ground.loops().is_empty());
    assert!(house.hall.list(None, 10).await.unwrap().items.is_empty(), "the volume was leaked");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_what_its_backends_call_it() {
    let ground = Ground::new();
    let reach = Reach::default();
    let plan = Plan { attached: Some(reach.clone()), called: Some("i-0123"), ..Plan::all(&ground) };
    let house = plan.open().await;
    let node = house.clients.node.clone().node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(node.node_id, "here,local=i-0123");
    let volume = house.create(wish("pvc-1", 8)).await.unwrap();
    // A controller knows it from the id alone, and says it so.
    let above = controller(&ground, &reach).await;
    attach(&above, &volume, &node.node_id).await.unwrap();
    assert_eq!(reach.nodes(), ["i-0123"]);
    let listed = above.clients.controller.clone().list_volumes(ListVolumesRequest::default()).await.unwrap();
    let status = listed.into_inner().entries.pop().unwrap().status.unwrap();
    assert_eq!(status.published_node_ids, [node.node_id.as_str()]);
    let elsewhere = attach(&above, &volume, "there").await.unwrap_err();
    assert!(elsewhere.message().contains("node here"), "{elsewhere}");
    detach(&above, &volume.volume_id, &node.node_id).await.unwrap();
    assert!(reach.nodes().is_empty());
    above.close().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_who_and_where_it_is() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let node = house.clients.node.clone().node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(node.node_id, "here");
    let place = node.accessible_topology.unwrap().segments;
    assert_eq!(place["kato.storage/node"], "here");
    assert_eq!(place["kato.storage/zone"], "a");
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    assert_eq!(volume.accessible_topology[0].segments["kato.storage/node"], "here");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_staging_a_publication_does_it_all() {
    let ground = Ground::new();
    let house = Plan { stage: false, ..Plan::all(&ground) }.open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    let target = folder(&ground, "published").join("one");
    let mut request = publication(&volume, Path::new("/"), &target, &mounted("", Mode::SingleNodeWriter));
    request.staging_target_path = String::new();
    house.clients.node.clone().node_publish_volume(request).await.unwrap();
    fs::write(target.join("file"), "text").unwrap();
    house.unpublish(&volume.volume_id, &target).await.unwrap();
    assert!(ground.loops().is_empty());
    house.delete(&volume.volume_id).await.unwrap();
    house.close().await;
}
