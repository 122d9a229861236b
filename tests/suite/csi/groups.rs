//! Groups of snapshots over the wire, against real filesystems: a database that writes to two volumes in order finds both as
//! they were at one moment; all or nothing; found again by whoever has lost all records.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use kato_csi::protocol::{
    CreateVolumeGroupSnapshotRequest, DeleteSnapshotRequest, DeleteVolumeGroupSnapshotRequest,
    GetVolumeGroupSnapshotRequest, GroupControllerGetCapabilitiesRequest, ListSnapshotsRequest, Volume,
    VolumeContentSource, VolumeGroupSnapshot, volume_capability::access_mode::Mode, volume_content_source,
};
use kato_store::MemoryStore;
use tonic::{Code, Status};

use super::ground::{House, Plan, device, usual, wish};
use crate::host::ground::Ground;

async fn cut(house: &House, name: &str, of: &[&Volume]) -> Result<VolumeGroupSnapshot, Status> {
    let request = CreateVolumeGroupSnapshotRequest {
        name: name.into(),
        source_volume_ids: of.iter().map(|volume| volume.volume_id.clone()).collect(),
        ..Default::default()
    };
    let mut groups = house.door.caller().await.groups();
    Ok(groups.create_volume_group_snapshot(request).await?.into_inner().group_snapshot.unwrap())
}

async fn get(house: &House, id: &str, snapshots: &[String]) -> Result<VolumeGroupSnapshot, Status> {
    let request = GetVolumeGroupSnapshotRequest {
        group_snapshot_id: id.into(),
        snapshot_ids: snapshots.to_vec(),
        ..Default::default()
    };
    let mut groups = house.door.caller().await.groups();
    Ok(groups.get_volume_group_snapshot(request).await?.into_inner().group_snapshot.unwrap())
}

async fn delete(house: &House, id: &str, snapshots: &[String]) -> Result<(), Status> {
    let request = DeleteVolumeGroupSnapshotRequest {
        group_snapshot_id: id.into(),
        snapshot_ids: snapshots.to_vec(),
        ..Default::default()
    };
    house.door.caller().await.groups().delete_volume_group_snapshot(request).await.map(drop)
}

fn members(group: &VolumeGroupSnapshot) -> Vec<String> {
    group.snapshots.iter().map(|snapshot| snapshot.snapshot_id.clone()).collect()
}

/// A volume that somebody has at a path.
async fn mount(ground: &Ground, house: &House, volume: &Volume) -> PathBuf {
    let word = volume.volume_id.replace('/', "-");
    let (staged, pods) = (ground.path(&format!("staged-{word}")), ground.path("pods"));
    fs::create_dir_all(&staged).unwrap();
    fs::create_dir_all(&pods).unwrap();
    let target = pods.join(&word);
    house.stage(volume, &staged, &usual(), &BTreeMap::new()).await.unwrap();
    house.publish(volume, &staged, &target, &usual()).await.unwrap();
    target
}

async fn unmount(ground: &Ground, house: &House, volume: &Volume, target: &Path) {
    house.unpublish(&volume.volume_id, target).await.unwrap();
    let staged = ground.path(&format!("staged-{}", volume.volume_id.replace('/', "-")));
    house.unstage(&volume.volume_id, &staged).await.unwrap();
}

fn number(folder: &Path) -> u64 {
    let bytes = fs::read(folder.join("number")).unwrap();
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// Writes ever larger numbers, to the first and only then to the second, each to the disk.
fn write_in_order(first: &Path, second: &Path, over: Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    let open = |folder: &Path| {
        let file = fs::File::create(folder.join("number")).unwrap();
        file.write_all_at(&0_u64.to_le_bytes(), 0).unwrap();
        file.sync_all().unwrap();
        file
    };
    let files = [open(first), open(second)];
    thread::spawn(move || {
        let mut number = 0_u64;
        while !over.load(Ordering::SeqCst) {
            number += 1;
            for file in &files {
                file.write_all_at(&number.to_le_bytes(), 0).unwrap();
                file.sync_data().unwrap();
            }
        }
        number
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_in_order_is_in_order_in_every_group() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let mut groups = house.door.caller().await.groups();
    let claims = groups.group_controller_get_capabilities(GroupControllerGetCapabilitiesRequest {}).await;
    assert_eq!(claims.unwrap().into_inner().capabilities.len(), 1);
    let (data, log) =
        (house.create(wish("data", 16)).await.unwrap(), house.create(wish("log", 16)).await.unwrap());
    let (at_data, at_log) = (mount(&ground, &house, &data).await, mount(&ground, &house, &log).await);
    let over = Arc::<AtomicBool>::default();
    let writer = write_in_order(&at_log, &at_data, Arc::clone(&over));
    let mut last = 0;
    for round in 0..4 {
        let name = format!("group-{round}");
        let group = cut(&house, &name, &[&data, &log]).await.unwrap();
        assert!(group.ready_to_use && group.creation_time.is_some());
        assert_eq!(cut(&house, &name, &[&log, &data]).await.unwrap(), group);
        let mut found = Vec::new();
        for volume in [&log, &data] {
            let snapshot =
                group.snapshots.iter().find(|one| one.source_volume_id == volume.volume_id).unwrap();
            assert_eq!(snapshot.group_snapshot_id, group.group_snapshot_id);
            let source = volume_content_source::SnapshotSource { snapshot_id: snapshot.snapshot_id.clone() };
            let mut copy = wish(&format!("copy-{}", found.len()), 16);
            copy.volume_content_source =
                Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Snapshot(source)) });
            let copy = house.create(copy).await.unwrap();
            let target = mount(&ground, &house, &copy).await;
            found.push(number(&target));
            unmount(&ground, &house, &copy, &target).await;
            house.delete(&copy.volume_id).await.unwrap();
        }
        let (first, second) = (found[0], found[1]);
        assert!(first == second || first == second + 1, "the log was at {first} and the data at {second}");
        assert!(second >= last, "a group of an earlier moment");
        last = second;
        delete(&house, &group.group_snapshot_id, &members(&group)).await.unwrap();
    }
    over.store(true, Ordering::SeqCst);
    let written = writer.join().unwrap();
    assert!(written > last && last > 0, "nobody wrote: {written} after {last}");
    unmount(&ground, &house, &data, &at_data).await;
    unmount(&ground, &house, &log, &at_log).await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_found_told_and_deleted_as_a_whole_even_by_a_house_without_records() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let (data, log) =
        (house.create(wish("data", 16)).await.unwrap(), house.create(wish("log", 16)).await.unwrap());
    for volume in [&data, &log] {
        let target = mount(&ground, &house, volume).await;
        unmount(&ground, &house, volume, &target).await;
    }
    let group = cut(&house, "nightly", &[&data, &log]).await.unwrap();
    let id = group.group_snapshot_id.clone();
    for others in [&[&data][..], &[&data, &log, &log]] {
        let refused = cut(&house, "nightly", others).await.unwrap_err();
        let expected = if others.len() == 1 { Code::AlreadyExists } else { Code::InvalidArgument };
        assert_eq!(refused.code(), expected, "{refused}");
    }
    house.close().await;
    // Nothing was written down, and everything is understood.
    let house = Plan { store: Arc::new(MemoryStore::new()), ..Plan::all(&ground) }.open().await;
    assert_eq!(members(&get(&house, &id, &members(&group)).await.unwrap()), members(&group));
    assert_eq!(members(&cut(&house, "nightly", &[&log, &data]).await.unwrap()), members(&group));
    let listed =
        house.clients.controller.clone().list_snapshots(ListSnapshotsRequest::default()).await.unwrap();
    let listed =
        listed.into_inner().entries.into_iter().map(|entry| entry.snapshot.unwrap().group_snapshot_id);
    assert_eq!(listed.collect::<Vec<_>>(), [id.clone(), id.clone()]);
    let one = DeleteSnapshotRequest { snapshot_id: members(&group)[0].clone(), ..Default::default() };
    let refused = house.clients.controller.clone().delete_snapshot(one).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let part = &members(&group)[..1];
    assert_eq!(get(&house, &id, part).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(delete(&house, &id, part).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(delete(&house, &id, &["nothing".into()]).await.unwrap_err().code(), Code::InvalidArgument);
    // Its volumes may go first.
    house.delete(&data.volume_id).await.unwrap();
    house.close().await;
    let house = Plan { store: Arc::new(MemoryStore::new()), ..Plan::all(&ground) }.open().await;
    for _ in 0..2 {
        delete(&house, &id, &[]).await.unwrap();
    }
    for unknown in
        [id.as_str(), "nothing", "local@here/img/kato-b", "local@elsewhere/00000000000000000000000000000001"]
    {
        let expected = if unknown.contains("elsewhere") { Code::FailedPrecondition } else { Code::NotFound };
        assert_eq!(get(&house, unknown, &[]).await.unwrap_err().code(), expected, "{unknown}");
    }
    let listed =
        house.clients.controller.clone().list_snapshots(ListSnapshotsRequest::default()).await.unwrap();
    assert!(listed.into_inner().entries.is_empty());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_a_member_that_cannot_be_held_still_is_refused_and_leaves_nothing() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let (data, raw) = (house.create(wish("data", 16)).await.unwrap(), {
        let mut bare = wish("raw", 16);
        bare.volume_capabilities = vec![device(Mode::SingleNodeWriter)];
        house.create(bare).await.unwrap()
    });
    let target = mount(&ground, &house, &data).await;
    unmount(&ground, &house, &data, &target).await;
    let (staged, node) = (ground.path("staged-raw"), ground.path("pods").join("device"));
    fs::create_dir_all(&staged).unwrap();
    house.stage(&raw, &staged, &device(Mode::SingleNodeWriter), &BTreeMap::new()).await.unwrap();
    house.publish(&raw, &staged, &node, &device(Mode::SingleNodeWriter)).await.unwrap();
    let refused = cut(&house, "nightly", &[&data, &raw]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    house.unpublish(&raw.volume_id, &node).await.unwrap();
    house.unstage(&raw.volume_id, &staged).await.unwrap();
    let listed =
        house.clients.controller.clone().list_snapshots(ListSnapshotsRequest::default()).await.unwrap();
    assert!(listed.into_inner().entries.is_empty());
    assert_eq!(cut(&house, "nightly", &[&data, &raw]).await.unwrap().snapshots.len(), 2);
    assert_eq!(cut(&house, "of-nobody", &[]).await.unwrap_err().code(), Code::InvalidArgument);
    house.close().await;
}
