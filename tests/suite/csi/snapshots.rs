//! Snapshots and copies: cut once, found again, listed, restored into something larger, and deleted after their volume.

use std::{collections::BTreeMap, fs, path::PathBuf};

use kato_csi::protocol::{
    CreateSnapshotRequest, DeleteSnapshotRequest, GetSnapshotRequest, ListSnapshotsRequest, Snapshot, Volume,
    VolumeContentSource, volume_content_source,
};
use tonic::{Code, Status};

use super::ground::{House, MIB, Plan, usual, wish};
use crate::host::ground::Ground;

async fn cut(house: &House, name: &str, of: &str) -> Result<Snapshot, Status> {
    let request =
        CreateSnapshotRequest { source_volume_id: of.into(), name: name.into(), ..Default::default() };
    Ok(house.clients.controller.clone().create_snapshot(request).await?.into_inner().snapshot.unwrap())
}

async fn list(house: &House, request: ListSnapshotsRequest) -> Result<(Vec<String>, String), Status> {
    let answer = house.clients.controller.clone().list_snapshots(request).await?.into_inner();
    let ids = answer.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect();
    Ok((ids, answer.next_token))
}

async fn delete(house: &House, id: &str) -> Result<(), Status> {
    let request = DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    house.clients.controller.clone().delete_snapshot(request).await.map(drop)
}

/// Has a volume mounted, with this text in a file; answers what was there before.
async fn use_it(ground: &Ground, house: &House, volume: &Volume, text: &str) -> Option<String> {
    let word = volume.volume_id.replace('/', "-");
    let (staged, pods) = (ground.path(&format!("staged-{word}")), ground.path("pods"));
    fs::create_dir_all(&staged).unwrap();
    fs::create_dir_all(&pods).unwrap();
    let target: PathBuf = pods.join(&word);
    house.stage(volume, &staged, &usual(), &BTreeMap::new()).await.unwrap();
    house.publish(volume, &staged, &target, &usual()).await.unwrap();
    let before = fs::read_to_string(target.join("file")).ok();
    fs::write(target.join("file"), text).unwrap();
    let room = rustix::fs::statvfs(&target).unwrap();
    assert!(i64::try_from(room.f_blocks * room.f_frsize).unwrap() > volume.capacity_bytes * 3 / 5);
    house.unpublish(&volume.volume_id, &target).await.unwrap();
    house.unstage(&volume.volume_id, &staged).await.unwrap();
    before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_cut_once_and_gives_larger_volumes_after_its_own_is_gone() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    let empty = cut(&house, "early", &volume.volume_id).await.unwrap_err();
    assert_eq!(empty.code(), Code::FailedPrecondition, "{empty}");
    use_it(&ground, &house, &volume, "monday").await;
    let monday = cut(&house, "monday", &volume.volume_id).await.unwrap();
    assert_eq!((monday.size_bytes, monday.source_volume_id.as_str()), (64 * MIB, volume.volume_id.as_str()));
    assert!(monday.ready_to_use && monday.creation_time.is_some() && monday.group_snapshot_id.is_empty());
    assert_eq!(use_it(&ground, &house, &volume, "tuesday").await.as_deref(), Some("monday"));
    assert_eq!(cut(&house, "monday", &volume.volume_id).await.unwrap(), monday);

    let other = house.create(wish("pvc-2", 64)).await.unwrap();
    use_it(&ground, &house, &other, "other").await;
    assert_eq!(cut(&house, "monday", &other.volume_id).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(cut(&house, "never", "local/image/kato-b").await.unwrap_err().code(), Code::NotFound);

    house.delete(&volume.volume_id).await.unwrap();
    let restore = |mib: i64| {
        let source = volume_content_source::SnapshotSource { snapshot_id: monday.snapshot_id.clone() };
        let mut request = wish("restored", mib);
        request.volume_content_source =
            Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Snapshot(source)) });
        request
    };
    assert_eq!(house.create(restore(32)).await.unwrap_err().code(), Code::OutOfRange);
    let restored = house.create(restore(96)).await.unwrap();
    assert_eq!(restored.content_source, restore(96).volume_content_source);
    assert_eq!(house.create(restore(96)).await.unwrap(), restored);
    assert_eq!(house.create(wish("restored", 96)).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(use_it(&ground, &house, &restored, "restored").await.as_deref(), Some("monday"));

    let mut copy = wish("copy", 128);
    let source = volume_content_source::VolumeSource { volume_id: restored.volume_id.clone() };
    copy.volume_content_source =
        Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Volume(source)) });
    let copy = house.create(copy).await.unwrap();
    assert_eq!(use_it(&ground, &house, &copy, "copy").await.as_deref(), Some("restored"));

    for id in [&monday.snapshot_id, &monday.snapshot_id, &"nothing".to_owned()] {
        delete(&house, id).await.unwrap();
    }
    let gone = GetSnapshotRequest { snapshot_id: monday.snapshot_id.clone(), ..Default::default() };
    assert_eq!(house.clients.controller.clone().get_snapshot(gone).await.unwrap_err().code(), Code::NotFound);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_listed_by_volume_by_id_and_by_pages() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let (one, two) =
        (house.create(wish("one", 8)).await.unwrap(), house.create(wish("two", 8)).await.unwrap());
    for volume in [&one, &two] {
        use_it(&ground, &house, volume, "text").await;
    }
    let mut of_one = Vec::new();
    for name in ["a", "b", "c"] {
        of_one.push(cut(&house, name, &one.volume_id).await.unwrap().snapshot_id);
    }
    let of_two = cut(&house, "d", &two.volume_id).await.unwrap().snapshot_id;
    let all = list(&house, ListSnapshotsRequest::default()).await.unwrap().0;
    assert_eq!(all.len(), 4);
    let by_volume = |max_entries, starting_token: &str| ListSnapshotsRequest {
        source_volume_id: one.volume_id.clone(),
        max_entries,
        starting_token: starting_token.into(),
        ..Default::default()
    };
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let (ids, next) = list(&house, by_volume(1, &token)).await.unwrap();
        assert_eq!(ids.len(), 1);
        seen.extend(ids);
        if next.is_empty() {
            break;
        }
        token = next;
    }
    seen.sort();
    of_one.sort();
    assert_eq!(seen, of_one);
    let wrong = ListSnapshotsRequest { starting_token: token, ..Default::default() };
    assert_eq!(list(&house, wrong).await.unwrap_err().code(), Code::Aborted, "a token of another list");
    let by_id = |id: &str| ListSnapshotsRequest { snapshot_id: id.into(), ..Default::default() };
    assert_eq!(list(&house, by_id(&of_two)).await.unwrap().0, std::slice::from_ref(&of_two));
    for unknown in ["nothing", "local/image/kato-b"] {
        assert_eq!(list(&house, by_id(unknown)).await.unwrap(), (vec![], String::new()));
    }
    house.close().await;
}
