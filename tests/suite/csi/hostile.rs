//! What callers and pods may try on a node: links that lead out of the folders where paths may be, calls about one volume
//! in any order at once, crowds, and callers that hang up in the middle. Nothing is mounted where it may not be, nobody
//! hears of a bug, and whoever asks once more, or takes everything back, finds it in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kato_csi::protocol::{
    CreateVolumeRequest, DeleteVolumeRequest, Volume, VolumeCapability, volume_capability::access_mode::Mode,
};
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Status};

use super::{
    fakes::{Scene, behind, code, is_open},
    ground::{House, Plan, device, usual, wish},
};
use crate::{
    crash::kills::Chance,
    host::ground::{Ground, retry},
};

const NOTHING: BTreeMap<String, String> = BTreeMap::new();

fn folder(ground: &Ground, name: &str) -> PathBuf {
    let path = ground.path(name);
    fs::create_dir_all(&path).unwrap();
    path
}

/// Nothing is left but the node's own folder of mounts.
fn is_clean(ground: &Ground) {
    assert_eq!(ground.mounts(), [ground.path("here/mounts").display().to_string()]);
    // A program that is being started has a copy of every descriptor for a moment, and with it the device.
    assert!(retry(|| ground.loops().is_empty()), "{:?}", ground.loops());
}

/// Asks until it is answered with success; meanwhile nothing is told that would end it.
async fn until_done<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, Status>) -> T {
    for _ in 0..600 {
        match ask().await {
            Ok(answer) => return answer,
            Err(status) => assert!(is_open(&status), "{what}: {status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} was not answered")
}

/// A daemon whose callers may name paths in one folder alone, and that folder.
async fn fenced_in(ground: &mut Ground) -> (House, PathBuf) {
    let allowed = folder(ground, "kubelet");
    ground.config.roots = vec![allowed.clone()];
    let house = Plan::all(ground).open().await;
    (behind(house, |config| config.roots = vec![allowed.clone()]).await, allowed)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_link_leads_a_mount_out_of_the_allowed_folders() {
    let mut ground = Ground::new();
    let (house, allowed) = fenced_in(&mut ground).await;
    let outside = folder(&ground, "outside");
    fs::create_dir(outside.join("there")).unwrap();
    File::create_new(outside.join("file")).unwrap();
    let before = || -> BTreeSet<_> {
        fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    };
    let there = before();
    // A folder on the way, and places that are links themselves: to a folder, to a file, to nothing, and around.
    for (link, to) in [
        ("way", outside.clone()),
        ("folder", outside.join("there")),
        ("file", outside.join("file")),
        ("nothing", outside.join("nothing")),
        ("around", allowed.join("around")),
    ] {
        symlink(to, allowed.join(link)).unwrap();
    }
    // One that only looks as if it led out is followed.
    fs::create_dir(allowed.join("real")).unwrap();
    symlink(allowed.join("real"), allowed.join("inside")).unwrap();

    let raw = device(Mode::SingleNodeMultiWriter);
    let make = async |name: String, capability: &VolumeCapability| {
        let volume_capabilities = vec![capability.clone()];
        house.create(CreateVolumeRequest { volume_capabilities, ..wish(&name, 16) }).await.unwrap()
    };
    let refused = |what: &str, path: &Path, answer: Result<(), Status>| {
        let expected =
            [Code::PermissionDenied, Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound];
        assert!(expected.contains(&code(&answer)), "{what} {}: {answer:?}", path.display());
        assert_eq!(before(), there, "{what} {}", path.display());
        assert!(!ground.mounts().iter().any(|mount| Path::new(mount).starts_with(&outside)));
    };
    for (number, path) in
        ["way/new", "way/there", "folder", "file", "nothing", "around", "around/new"].iter().enumerate()
    {
        let path = allowed.join(path);
        let volume = make(format!("staged-{number}"), &usual()).await;
        refused("stage", &path, house.stage(&volume, &path, &usual(), &NOTHING).await);
        // Whoever was refused can go elsewhere, and take everything back.
        let elsewhere = folder(&ground, &format!("kubelet/elsewhere-{number}"));
        until_done("stage", async || house.stage(&volume, &elsewhere, &usual(), &NOTHING).await).await;
        for path in [&path, &elsewhere] {
            until_done("unstage", async || house.unstage(&volume.volume_id, path).await).await;
        }
        house.delete(&volume.volume_id).await.unwrap();
        for (what, capability) in [("a mount", usual()), ("a device", raw.clone())] {
            let volume = make(format!("{what}-{number}"), &capability).await;
            let staged = folder(&ground, &format!("kubelet/{what}-{number}"));
            house.stage(&volume, &staged, &capability, &NOTHING).await.unwrap();
            refused(what, &path, house.publish(&volume, &staged, &path, &capability).await);
            until_done("unpublish", async || house.unpublish(&volume.volume_id, &path).await).await;
            until_done("unstage", async || house.unstage(&volume.volume_id, &staged).await).await;
            house.delete(&volume.volume_id).await.unwrap();
        }
    }
    assert_eq!(fs::read_dir(outside.join("there")).unwrap().count(), 0);
    assert_eq!(fs::metadata(outside.join("file")).unwrap().len(), 0);

    let volume = make("inside".into(), &usual()).await;
    let (staged, target) = (folder(&ground, "kubelet/staged"), allowed.join("inside/one"));
    house.stage(&volume, &staged, &usual(), &NOTHING).await.unwrap();
    house.publish(&volume, &staged, &target, &usual()).await.unwrap();
    fs::write(allowed.join("real/one/file"), "text").unwrap();
    house.unpublish(&volume.volume_id, &target).await.unwrap();
    assert!(!allowed.join("real/one").exists());
    house.unstage(&volume.volume_id, &staged).await.unwrap();
    house.delete(&volume.volume_id).await.unwrap();
    is_clean(&ground);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_or_takes_down_what_another_has_at_a_place() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let (one, two) =
        (house.create(wish("one", 16)).await.unwrap(), house.create(wish("two", 16)).await.unwrap());
    let (staged, other, target) =
        (folder(&ground, "staged"), folder(&ground, "other"), folder(&ground, "pods").join("target"));
    house.stage(&one, &staged, &usual(), &NOTHING).await.unwrap();
    house.stage(&two, &other, &usual(), &NOTHING).await.unwrap();
    house.publish(&one, &staged, &target, &usual()).await.unwrap();
    fs::write(target.join("file"), "one").unwrap();
    let refused = house.publish(&two, &other, &target, &usual()).await.unwrap_err();
    assert!(matches!(refused.code(), Code::FailedPrecondition | Code::AlreadyExists), "{refused}");
    let whole = || assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "one");
    whole();
    until_done("unpublish", async || house.unpublish(&two.volume_id, &target).await).await;
    until_done("unstage", async || house.unstage(&two.volume_id, &other).await).await;
    house.delete(&two.volume_id).await.unwrap();
    whole();
    house.unpublish(&one.volume_id, &target).await.unwrap();
    house.unstage(&one.volume_id, &staged).await.unwrap();
    assert!(!target.exists());
    is_clean(&ground);
    house.close().await;
}

/// Calls about one volume, in an order that nobody chose. Answers those that were refused.
async fn rush(house: Arc<House>, volume: Volume, folder: PathBuf, mut chance: Chance) -> Vec<Status> {
    let (staged, targets) = (folder.join("staged"), [folder.join("one"), folder.join("two")]);
    let (id, mut refused) = (&volume.volume_id, Vec::new());
    for _ in 0..25 {
        let target = &targets[usize::try_from(chance.below(2)).unwrap()];
        let answer = match chance.below(5) {
            0 | 1 => house.stage(&volume, &staged, &usual(), &NOTHING).await,
            2 => house.unstage(id, &staged).await,
            3 => house.publish(&volume, &staged, target, &usual()).await,
            _ => house.unpublish(id, target).await,
        };
        refused.extend(answer.err());
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_about_one_volume_in_any_order_at_once_leave_nothing_that_cannot_be_taken_back() {
    let ground = Ground::new();
    let house = Arc::new(Plan::all(&ground).open().await);
    let volume = house.create(wish("db", 16)).await.unwrap();
    let pods = folder(&ground, "pods");
    fs::create_dir(pods.join("staged")).unwrap();
    let mut callers = JoinSet::new();
    for number in 0..8 {
        callers.spawn(rush(Arc::clone(&house), volume.clone(), pods.clone(), Chance(number + 1)));
    }
    let mut answered = 200;
    for status in callers.join_all().await.into_iter().flatten() {
        assert!(
            matches!(status.code(), Code::Aborted | Code::FailedPrecondition | Code::Unavailable),
            "{status:?}"
        );
        answered -= 1;
    }
    assert!(answered > 0, "nobody got through");
    for target in ["one", "two"] {
        let target = pods.join(target);
        until_done("unpublish", async || house.unpublish(&volume.volume_id, &target).await).await;
        assert!(!target.exists());
    }
    let staged = pods.join("staged");
    until_done("unstage", async || house.unstage(&volume.volume_id, &staged).await).await;
    is_clean(&ground);
    assert!(house.hall.list(None, 10).await.unwrap().items.remove(0).publications.is_empty());
    until_done("delete", async || house.delete(&volume.volume_id).await).await;
    Arc::into_inner(house).unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_volumes_are_made_and_deleted_at_once_over_fifty_connections() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    let house = behind(house, |config| config.wait = Duration::from_secs(600)).await;
    let mut connections = Vec::new();
    for _ in 0..50 {
        connections.push(house.door.caller().await);
    }
    let mut made = JoinSet::new();
    for number in 0..1000 {
        let mut controller = connections[number % 50].controller();
        made.spawn(async move { controller.create_volume(wish(&format!("v{number}"), 1)).await });
    }
    let ids: BTreeSet<String> = (made.join_all().await.into_iter())
        .map(|answer| answer.unwrap().into_inner().volume.unwrap().volume_id)
        .collect();
    assert_eq!((ids.len(), scene.has()), (1000, [1000, 0, 0]));
    // All of them go while half of their names are made anew.
    let (mut gone, mut anew) = (JoinSet::new(), JoinSet::new());
    for (number, volume_id) in ids.into_iter().enumerate() {
        let request = DeleteVolumeRequest { volume_id, ..Default::default() };
        let mut controller = connections[number % 50].controller();
        gone.spawn(async move { controller.delete_volume(request).await });
        if number % 2 == 0 {
            let mut controller = connections[(number + 25) % 50].controller();
            anew.spawn(async move { controller.create_volume(wish(&format!("v{number}"), 1)).await });
        }
    }
    for answer in gone.join_all().await {
        answer.unwrap();
    }
    for answer in anew.join_all().await {
        answer.unwrap();
    }
    let left = house.hall.list(None, 10_000).await.unwrap().items;
    assert_eq!(scene.has(), [left.len(), 0, 0], "the records and the backend differ");
    for name in left {
        assert!(name.volume.handle.is_some() && name.volume.intent.is_none(), "{:#?}", name.volume);
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_up_and_asks_again_is_served() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("db", 16)).await.unwrap();
    let pods = folder(&ground, "pods");
    let (staged, target) = (pods.join("staged"), pods.join("one"));
    fs::create_dir(&staged).unwrap();
    let mut hung_up = 0;
    for round in 0..16_u64 {
        let patience = Duration::from_millis(round * round / 2);
        let stage = async || house.stage(&volume, &staged, &usual(), &NOTHING).await;
        hung_up += u32::from(timeout(patience, stage()).await.is_err());
        until_done("stage", stage).await;
        let publish = async || house.publish(&volume, &staged, &target, &usual()).await;
        hung_up += u32::from(timeout(patience, publish()).await.is_err());
        until_done("publish", publish).await;
        let number = round.to_string();
        fs::write(target.join("file"), &number).unwrap();
        let cut = async || house.cut(&number, &volume.volume_id).await;
        hung_up += u32::from(timeout(patience, cut()).await.is_err());
        let snapshot = until_done("cut", cut).await;
        assert_eq!(snapshot.source_volume_id, volume.volume_id);
        let unpublish = async || house.unpublish(&volume.volume_id, &target).await;
        hung_up += u32::from(timeout(patience, unpublish()).await.is_err());
        until_done("unpublish", unpublish).await;
        assert!(!target.exists());
        let unstage = async || house.unstage(&volume.volume_id, &staged).await;
        hung_up += u32::from(timeout(patience, unstage()).await.is_err());
        until_done("unstage", unstage).await;
        is_clean(&ground);
    }
    assert!(hung_up > 4, "nobody hung up");
    let snapshots = house.hall.list_snapshots(None, 100).await.unwrap().items;
    assert_eq!(snapshots.len(), 16, "one for each name");
    until_done("delete", async || house.delete(&volume.volume_id).await).await;
    house.close().await;
}
