//! The largest that the specification lets through, in both directions: the longest names in letters that would be a path,
//! a word of a shell or half a letter elsewhere, full maps, the longest ids and paths, and lists that are longer than one
//! answer may be. What lies beyond is `limits.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use kato_csi::protocol::{
    ControllerGetVolumeRequest, CreateVolumeGroupSnapshotRequest, GetSnapshotRequest, ListSnapshotsRequest,
    ListVolumesRequest, NodeGetVolumeStatsRequest, ValidateVolumeCapabilitiesRequest, Volume,
};
use kato_orchestrator::{
    model::{self, Handle, Snapshot, SnapshotId, SnapshotName, VolumeId, VolumeName},
    ports::store::{Batch, Durability, Store},
    records::{self, keys},
    testing::FakeBackend,
};
use prost_reflect::prost::Message as _;
use tonic::Code;

use super::{
    fakes::{Scene, attachment, code},
    ground::{House, publication, usual, wish},
};

/// The longest name.
const NAME: usize = 128;
/// The fullest map.
const MAP: usize = 4096;
/// The largest answer, which is less than what clients take.
const ANSWER: usize = 7 << 19;

/// Legal names of exactly the longest length, each of which is a trap for somebody.
fn names() -> Vec<String> {
    let odd = [
        "../../../../../etc/passwd",
        "/",
        "//",
        "..",
        ".",
        "a/b",
        "a\tb",
        "a\nb\r",
        "'; rm -rf / #",
        "\"$(reboot)\" `id` ${IFS}",
        "🦀🦀🦀",
        "👩‍👩‍👧‍👦",
        "عربي",
        "\u{202e}txt.exe",
        "\u{feff}bom",
        "e\u{301}",
        "\u{e9}",
        "ß",
        "SS",
        "İ",
        "%2e%2e%2f",
        "fake@here/img/x",
        "{\"json\": \"\\u0000\"}",
        " ",
        "\u{a0}",
        "\u{10ffff}",
    ];
    let filled = |text: &str| format!("{text}{}", "x".repeat(NAME - text.len()));
    let mut names: Vec<String> = odd.into_iter().map(filled).collect();
    // Such as differ in nothing but their last byte, or in what stands before it.
    names.extend(["ü".repeat(64), "🦀".repeat(32), "/".repeat(NAME), ".".repeat(NAME), " ".repeat(NAME)]);
    names.extend(["a", "b", "A", "/", "\t"].map(|last| format!("{}{last}", "y".repeat(NAME - 1))));
    assert!(names.iter().all(|name| name.len() == NAME));
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    names
}

fn length(map: &BTreeMap<String, String>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// A map with a value that fills it to the last byte.
fn full(key: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), "v".repeat(MAP - key.len()))].into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_names_are_as_many_volumes_whatever_is_in_them() {
    let scene = Scene::default();
    let house = scene.open(FakeBackend::bound).await;
    let names = names();
    let mut ids = BTreeMap::new();
    for name in &names {
        let volume =
            house.create(wish(name, 64)).await.unwrap_or_else(|status| panic!("{name:?}: {status:?}"));
        assert!(volume.volume_id.len() <= NAME && volume.volume_id.is_ascii(), "{:?}", volume.volume_id);
        assert!(length(&volume.volume_context) <= MAP, "{name:?}: {:?}", volume.volume_context);
        assert_eq!(house.create(wish(name, 64)).await.unwrap(), volume, "{name:?}");
        assert!(ids.insert(volume.volume_id.clone(), name).is_none(), "{name:?} is another one's volume");
        // What goes out is understood when it comes back.
        let confirmed = ValidateVolumeCapabilitiesRequest {
            volume_id: volume.volume_id,
            volume_context: volume.volume_context,
            volume_capabilities: vec![usual()],
            ..Default::default()
        };
        let confirmed =
            house.clients.controller.clone().validate_volume_capabilities(confirmed).await.unwrap();
        assert!(confirmed.into_inner().confirmed.is_some(), "{name:?}");
    }
    assert_eq!(scene.has(), [names.len(), 0, 0]);
    for id in ids.keys() {
        house.delete(id).await.unwrap();
    }
    assert_eq!(scene.has(), [0, 0, 0]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_names_are_as_many_snapshots_and_groups() {
    let scene = Scene::default();
    let house = scene.open(FakeBackend::bound).await;
    let volume = house.create(wish("db", 64)).await.unwrap();
    house.use_once(&volume).await;
    let names = names();
    let mut ids = BTreeSet::new();
    for name in &names {
        let snapshot =
            house.cut(name, &volume.volume_id).await.unwrap_or_else(|status| panic!("{name:?}: {status:?}"));
        assert!(snapshot.snapshot_id.len() <= NAME && snapshot.snapshot_id.is_ascii(), "{snapshot:?}");
        assert_eq!(house.cut(name, &volume.volume_id).await.unwrap(), snapshot, "{name:?}");
        assert!(ids.insert(snapshot.snapshot_id), "{name:?} is another one's snapshot");

        let request = CreateVolumeGroupSnapshotRequest {
            name: name.clone(),
            source_volume_ids: vec![volume.volume_id.clone()],
            ..Default::default()
        };
        let mut groups = house.door.caller().await.groups();
        let group = groups.create_volume_group_snapshot(request.clone()).await;
        let group = group
            .unwrap_or_else(|status| panic!("{name:?}: {status:?}"))
            .into_inner()
            .group_snapshot
            .unwrap();
        assert!(group.group_snapshot_id.len() <= NAME && group.group_snapshot_id.is_ascii(), "{group:?}");
        let again = groups.create_volume_group_snapshot(request).await.unwrap().into_inner();
        assert_eq!(again.group_snapshot.unwrap(), group, "{name:?}");
        assert!(ids.insert(group.group_snapshot_id), "{name:?} is another one's group");
        assert!(ids.insert(group.snapshots[0].snapshot_id.clone()), "{name:?} has another one's member");
    }
    assert_eq!((ids.len(), scene.has()), (3 * names.len(), [1, 2 * names.len(), 0]));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_map_is_let_through_in_every_field_that_has_one() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    let mut request = wish("db", 64);
    request.parameters = full("csi.storage.k8s.io/pvc/name");
    request.secrets = full("password");
    request.mutable_parameters = full("tier");
    let volume = house.create(request.clone()).await.unwrap();
    assert_eq!(house.create(request).await.unwrap(), volume);
    assert!(length(&volume.volume_context) <= MAP);
    let handle = volume.volume_id.trim_start_matches("fake/");
    assert_eq!(scene.world().parameters(handle).unwrap()["tier"].len(), MAP - "tier".len());

    // What others added on the way may fill what we left.
    let mut filled = volume.clone();
    let rest = MAP - length(&filled.volume_context);
    filled.volume_context.insert("x".into(), "v".repeat(rest - 1));
    assert_eq!(length(&filled.volume_context), MAP);
    house.attach(attachment(&filled, "here", usual())).await.unwrap();
    let staged = Path::new("/fake/staged");
    house.stage(&filled, staged, &usual(), &BTreeMap::new()).await.unwrap();
    filled.volume_context.insert("x".into(), "v".repeat(rest));
    let refused = house.stage(&filled, staged, &usual(), &BTreeMap::new()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_ids_are_looked_up_and_found_to_be_nobody_s() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    let volume = house.create(wish("db", 64)).await.unwrap();
    let mut controller = house.clients.controller.clone();
    let longest = |prefix: &str| format!("{prefix}{}", "n".repeat(NAME - prefix.len()));
    for id in [longest("fake/"), longest(""), longest("fake/../../"), "🦀".repeat(32)] {
        assert_eq!(id.len(), NAME);
        let request = ControllerGetVolumeRequest { volume_id: id.clone() };
        assert_eq!(code(&controller.controller_get_volume(request).await), Code::NotFound, "{id}");
        let request = GetSnapshotRequest { snapshot_id: id.clone(), ..Default::default() };
        assert_eq!(code(&controller.get_snapshot(request).await), Code::NotFound, "{id}");
        let unknown = Volume { volume_id: id.clone(), ..Volume::default() };
        assert_eq!(code(&house.attach(attachment(&unknown, "here", usual())).await), Code::NotFound, "{id}");
        house.detach(&id, "here").await.unwrap();
        house.unpublish(&id, Path::new("/fake/pods/one")).await.unwrap();
        house.unstage(&id, Path::new("/fake/staged")).await.unwrap();
        house.delete(&id).await.unwrap();
        house.delete_snapshot(&id).await.unwrap();
    }
    // A backend that is configured no more may have it: nobody can say that it is gone.
    let elsewhere = longest("nobody/");
    for answer in [house.delete(&elsewhere).await, house.delete_snapshot(&elsewhere).await] {
        assert_eq!(code(&answer), Code::Unavailable, "{answer:?}");
    }
    let longest = "n".repeat(256);
    assert_eq!(code(&house.attach(attachment(&volume, &longest, usual())).await), Code::NotFound);
    house.detach(&volume.volume_id, &longest).await.unwrap();
    // One that we could have written ourselves.
    let ours = format!("node-1,fake={}", "n".repeat(256 - "node-1,fake=".len()));
    house.attach(attachment(&volume, &ours, usual())).await.unwrap();
    assert_eq!(scene.has(), [1, 0, 1]);
    house.detach(&volume.volume_id, &ours).await.unwrap();
    assert_eq!(scene.has(), [1, 0, 0]);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_paths_are_places_like_any_other() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    let volume = house.create(wish("db", 64)).await.unwrap();
    let long = |root: &str| {
        let rest = 4095 - root.len() - 15 * 256;
        format!("{root}{}/{}", format!("/{}", "p".repeat(255)).repeat(15), "p".repeat(rest - 1))
    };
    let (staged, one, two) = (long("/fake/staged"), long("/fake/pods/one"), long("/fake/pods/two"));
    let (staged, one, two) = (Path::new(&staged), Path::new(&one), Path::new(&two));
    assert!([staged, one, two].iter().all(|path| path.as_os_str().len() == 4095));
    for _ in 0..2 {
        house.stage(&volume, staged, &usual(), &BTreeMap::new()).await.unwrap();
        for target in [one, two] {
            house.publish(&volume, staged, target, &usual()).await.unwrap();
        }
    }
    let mut other = publication(&volume, staged, two, &usual());
    other.readonly = true;
    let mut node = house.clients.node.clone();
    assert_eq!(code(&node.node_publish_volume(other).await), Code::AlreadyExists);
    let stats = NodeGetVolumeStatsRequest {
        volume_id: volume.volume_id.clone(),
        volume_path: one.display().to_string(),
        staging_target_path: staged.display().to_string(),
    };
    node.node_get_volume_stats(stats).await.unwrap();
    for target in [one, two] {
        house.unpublish(&volume.volume_id, target).await.unwrap();
    }
    house.unstage(&volume.volume_id, staged).await.unwrap();
    assert!(house.hall.list(None, 10).await.unwrap().items.remove(0).publications.is_empty());
    house.close().await;
}

/// How many there are in a list.
const MANY: u32 = 20_000;

/// The longest name of a node that is a place, too. It is a part of every id that lies there.
const NODE: &str = "node-of-the-longest-name-that-a-label-of-kubernetes-may-have-12";

/// A house with one volume, which has something on it.
async fn crowded() -> (Scene, House, Volume) {
    assert_eq!(NODE.len(), 63);
    let scene = Scene { node: NODE, ..Scene::default() };
    let house = scene.open(FakeBackend::bound).await;
    let volume = house.create(wish("0", 64)).await.unwrap();
    house.use_once(&volume).await;
    (scene, house, volume)
}

/// Writes so many records beside the one that the hall made.
async fn write(scene: &Scene, records: impl Fn(u32) -> [(String, Vec<u8>); 3]) {
    for first in (1..MANY).step_by(50) {
        let puts = (first..MANY.min(first + 50)).flat_map(&records).collect();
        scene.store.commit(Batch { puts, ..Batch::default() }, Durability::Durable).await.unwrap();
    }
}

/// A handle as long as this one, with a number at its end.
fn numbered(handle: Option<&Handle>, number: u32) -> Handle {
    let text = handle.unwrap().as_str();
    Handle::parse(&format!("{}{number:05}", text.split_at(text.len() - 5).0)).unwrap()
}

fn like_volume(one: &model::Volume, number: u32) -> [(String, Vec<u8>); 3] {
    let id = VolumeId(one.id.0 + 1000 * u128::from(number));
    let handle = numbered(one.handle.as_ref(), number);
    let name = VolumeName::parse(&number.to_string()).unwrap();
    let index = |key: String| (key.clone(), records::encode(&key, &id));
    let (by_name, by_handle) = (keys::volume_name(&name), keys::volume_handle(&one.backend, &handle));
    let (key, volume) = (keys::volume(id), model::Volume { id, name, handle: Some(handle), ..one.clone() });
    [index(by_name), index(by_handle), (key.clone(), records::encode(&key, &volume))]
}

fn like_snapshot(one: &Snapshot, number: u32) -> [(String, Vec<u8>); 3] {
    let id = SnapshotId(one.id.0 + 1000 * u128::from(number));
    let handle = numbered(one.handle.as_ref(), number);
    let name = SnapshotName::parse(&number.to_string()).unwrap();
    let index = |key: String| (key.clone(), records::encode(&key, &id));
    let (by_name, by_handle) = (keys::snapshot_name(&name), keys::snapshot_handle(&one.backend, &handle));
    let (key, snapshot) = (keys::snapshot(id), Snapshot { id, name, handle: Some(handle), ..one.clone() });
    [index(by_name), index(by_handle), (key.clone(), records::encode(&key, &snapshot))]
}

/// Reads a list from its beginning to its end: each answer is small enough, the first one is no smaller than it has to be,
/// and nothing is told twice. `page` tells how large the answer to a token is, the ids in it, and the next token.
async fn told_once(page: impl AsyncFn(String) -> (usize, Vec<String>, String)) -> usize {
    let (mut seen, mut token, mut answers) = (BTreeSet::new(), String::new(), 0);
    loop {
        let (size, ids, next) = page(token).await;
        assert!(size < ANSWER && next.len() <= NAME, "{size} bytes, {next}");
        answers += 1;
        assert!(answers > 1 || size > ANSWER / 2 && !next.is_empty(), "{size} bytes, {next:?}");
        for id in ids {
            assert!(id.len() <= NAME && seen.insert(id.clone()), "{id} is told twice");
        }
        if next.is_empty() {
            return seen.len();
        }
        token = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_volumes_than_an_answer_holds_are_told_in_several_and_each_once() {
    let (scene, house, _) = crowded().await;
    let one = house.hall.list(None, 10).await.unwrap().items.remove(0).volume;
    write(&scene, |number| like_volume(&one, number)).await;
    let told = told_once(async |starting_token| {
        let request = ListVolumesRequest { max_entries: 0, starting_token };
        let answer = house.clients.controller.clone().list_volumes(request).await.unwrap().into_inner();
        let (size, next) = (answer.encoded_len(), answer.next_token);
        (size, answer.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect(), next)
    });
    assert_eq!(told.await, usize::try_from(MANY).unwrap());
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_snapshots_than_an_answer_holds_are_told_in_several_and_each_once() {
    let (scene, house, volume) = crowded().await;
    house.cut("0", &volume.volume_id).await.unwrap();
    let one = house.hall.list_snapshots(None, 10).await.unwrap().items.remove(0);
    write(&scene, |number| like_snapshot(&one, number)).await;
    for source_volume_id in ["", &volume.volume_id] {
        let told = told_once(async |starting_token| {
            let source_volume_id = source_volume_id.to_owned();
            let request = ListSnapshotsRequest { starting_token, source_volume_id, ..Default::default() };
            let answer = house.clients.controller.clone().list_snapshots(request).await.unwrap().into_inner();
            let (size, next) = (answer.encoded_len(), answer.next_token);
            let ids = answer.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id);
            (size, ids.collect(), next)
        });
        assert_eq!(told.await, usize::try_from(MANY).unwrap());
    }
    house.close().await;
}
