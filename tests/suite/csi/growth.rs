//! Growing: the controller grows the volume, the node the device and the filesystem, by either path, and a repeat of each
//! is answered as the first was.

use std::{collections::BTreeMap, fs, path::Path};

use kato_csi::protocol::{
    CapacityRange, ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, NodeExpandVolumeRequest,
    Volume, volume_capability::access_mode::Mode,
};
use tonic::{Code, Status};

use super::ground::{House, MIB, Plan, device, mounted, usual, wish};
use crate::host::ground::Ground;

async fn grow(house: &House, volume: &Volume, mib: i64) -> Result<ControllerExpandVolumeResponse, Status> {
    let request = ControllerExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        capacity_range: Some(CapacityRange { required_bytes: mib * MIB, limit_bytes: 0 }),
        ..ControllerExpandVolumeRequest::default()
    };
    Ok(house.clients.controller.clone().controller_expand_volume(request).await?.into_inner())
}

async fn grow_here(house: &House, volume: &Volume, path: &Path, mib: i64) -> Result<i64, Status> {
    let request = NodeExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        volume_path: path.display().to_string(),
        capacity_range: (mib > 0).then_some(CapacityRange { required_bytes: mib * MIB, limit_bytes: 0 }),
        ..NodeExpandVolumeRequest::default()
    };
    Ok(house.clients.node.clone().node_expand_volume(request).await?.into_inner().capacity_bytes)
}

fn room(path: &Path) -> i64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    i64::try_from(stat.f_blocks * stat.f_frsize).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_xfs_grows_by_either_path_and_a_repeat_says_the_same() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let xfs = mounted("xfs", Mode::SingleNodeMultiWriter);
    let mut request = wish("pvc-1", 320);
    request.parameters = BTreeMap::from([("class".to_owned(), "xfs".to_owned())]);
    request.volume_capabilities = vec![xfs.clone()];
    let volume = house.create(request).await.unwrap();
    let (staged, target) = (ground.path("staged"), ground.path("pods").join("one"));
    fs::create_dir_all(&staged).unwrap();
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    house.stage(&volume, &staged, &xfs, &BTreeMap::new()).await.unwrap();
    house.publish(&volume, &staged, &target, &xfs).await.unwrap();
    for (path, mib) in [(&target, 400), (&staged, 480)] {
        for _ in 0..2 {
            let grown = grow(&house, &volume, mib).await.unwrap();
            assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (mib * MIB, true));
        }
        for _ in 0..2 {
            assert_eq!(grow_here(&house, &volume, path, mib).await.unwrap(), mib * MIB);
        }
        assert!(room(&target) > (mib - 80) * MIB, "{} of {mib} MiB", room(&target));
    }
    assert_eq!(grow_here(&house, &volume, &target, 0).await.unwrap(), 480 * MIB);
    // More than there is, is not recorded as there.
    let more = grow_here(&house, &volume, &target, 1 << 20).await.unwrap_err();
    assert_eq!(more.code(), Code::OutOfRange, "{more}");
    assert_eq!(grow_here(&house, &volume, &target, 480).await.unwrap(), 480 * MIB);
    let elsewhere = grow_here(&house, &volume, Path::new("/nowhere"), 480).await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::NotFound, "{elsewhere}");
    let much = grow(&house, &volume, 2 << 20).await.unwrap_err();
    assert_eq!(much.code(), Code::OutOfRange, "{much}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_in_use_is_larger_at_once_and_what_is_not_in_use_later() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let raw = device(Mode::SingleNodeMultiWriter);
    let mut request = wish("raw", 16);
    request.volume_capabilities = vec![raw.clone()];
    let volume = house.create(request).await.unwrap();
    let (staged, target) = (ground.path("staged"), ground.path("pods").join("one"));
    fs::create_dir_all(&staged).unwrap();
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    house.stage(&volume, &staged, &raw, &BTreeMap::new()).await.unwrap();
    house.publish(&volume, &staged, &target, &raw).await.unwrap();
    assert!(grow(&house, &volume, 32).await.unwrap().node_expansion_required);
    grow_here(&house, &volume, &target, 32).await.unwrap();
    let mut device = fs::File::open(&target).unwrap();
    assert_eq!(std::io::Seek::seek(&mut device, std::io::SeekFrom::End(0)).unwrap(), 32 << 20);
    drop(device);

    let idle = house.create(wish("idle", 64)).await.unwrap();
    grow(&house, &idle, 96).await.unwrap();
    assert_eq!(grow_here(&house, &idle, &staged, 96).await.unwrap_err().code(), Code::NotFound);
    let (staged, target) = (ground.path("staged-2"), ground.path("pods").join("two"));
    fs::create_dir_all(&staged).unwrap();
    house.stage(&idle, &staged, &usual(), &BTreeMap::new()).await.unwrap();
    house.publish(&idle, &staged, &target, &usual()).await.unwrap();
    assert!(room(&target) > 70 * MIB, "{}", room(&target));
    let unknown = Volume { volume_id: "local/image/kato-b".into(), ..Volume::default() };
    assert_eq!(grow(&house, &unknown, 1).await.unwrap_err().code(), Code::NotFound);
    house.close().await;
}
