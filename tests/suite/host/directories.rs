//! Directory volumes: mounted in the node's own process, opened beneath a grant without trusting a path.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kato_node::{Layout, LinuxHost};
use kato_orchestrator::{
    Kind,
    model::{Connection, DataRoot},
    ports::host::{Bind, Condition, Connections as _, Filesystems as _, Observations as _},
};

use super::ground::{Ground, options_of, run, start_and_hear, until};

#[tokio::test]
async fn a_directory_is_mounted_once_and_its_data_root_owned_once() {
    let ground = Ground::new();
    let node = ground.node().await;
    let volume = ground.directory("a");
    let before = ground.mounts().len();
    let mut wish = volume.wish();
    wish.root =
        DataRoot { directory: Some("data".into()), uid: Some(999), gid: Some(998), mode: Some(0o750) };
    let mounted = node.mount(&wish).await.unwrap();
    assert_eq!(node.mount(&wish).await.unwrap(), mounted);
    assert_eq!(ground.mounts().len(), before + 1);
    let data = fs::metadata(&mounted.data).unwrap();
    assert_eq!((data.uid(), data.gid(), data.permissions().mode() & 0o7777), (999, 998, 0o750));
    assert_eq!(mounted.data, format!("{}/data", mounted.path));

    // The container's own choice is not undone by the next mount.
    fs::set_permissions(&mounted.data, fs::Permissions::from_mode(0o700)).unwrap();
    volume.unmount(&node).await.unwrap();
    volume.unmount(&node).await.unwrap();
    assert_eq!(ground.mounts().len(), before);
    assert!(!fs::exists(&mounted.path).unwrap());
    let again = node.mount(&wish).await.unwrap();
    assert_eq!(fs::metadata(again.data).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[tokio::test]
async fn a_mount_is_always_nosuid_and_nodev_and_takes_its_options() {
    let ground = Ground::new();
    let node = ground.node().await;
    let volume = ground.directory("a");
    let mut wish = volume.wish();
    wish.options = vec!["noatime,_netdev".into(), "noexec".into(), "x-systemd.requires=x".into()];
    let mounted = node.mount(&wish).await.unwrap();
    let options = options_of(&mounted.path);
    for option in ["nosuid", "nodev", "noatime", "noexec"] {
        assert!(options.contains(option), "{option} is missing in {options}");
    }
    volume.unmount(&node).await.unwrap();
    wish.options = vec!["discard".into()];
    let error = node.mount(&wish).await.unwrap_err();
    assert_eq!(error.kind, Kind::InvalidArgument);
    assert!(error.message.contains("discard"), "{error}");
}

#[tokio::test]
async fn the_own_root_of_a_directory_gets_its_owner_once_and_only_while_it_is_empty() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (fresh, used) = (ground.directory("fresh"), ground.directory("used"));
    fs::write(used.path.join("file"), "x").unwrap();
    for (volume, uid) in [(&fresh, 70), (&used, 0)] {
        let mut wish = volume.wish();
        wish.root = DataRoot { directory: None, uid: Some(70), gid: None, mode: None };
        let mounted = node.mount(&wish).await.unwrap();
        assert_eq!(mounted.data, mounted.path);
        assert_eq!(fs::metadata(&mounted.data).unwrap().uid(), uid);
    }
    std::os::unix::fs::chown(&fresh.path, Some(71), None).unwrap();
    fresh.unmount(&node).await.unwrap();
    let mut wish = fresh.wish();
    wish.root = DataRoot { directory: None, uid: Some(70), gid: None, mode: None };
    node.mount(&wish).await.unwrap();
    assert_eq!(fs::metadata(&fresh.path).unwrap().uid(), 71, "the container's chown was undone");
}

#[tokio::test]
async fn a_data_root_whose_make_was_cut_short_is_finished_by_the_next_mount() {
    let ground = Ground::new();
    let node = ground.node().await;
    let volume = ground.directory("a");
    let data = volume.path.join("data");
    fs::create_dir(&data).unwrap();
    // What is there between the directory and its owner.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o1000)).unwrap();
    let mut wish = volume.wish();
    wish.root.uid = Some(70);
    node.mount(&wish).await.unwrap();
    let found = fs::metadata(&data).unwrap();
    assert_eq!((found.uid(), found.permissions().mode() & 0o7777), (70, 0o755));
}

#[tokio::test]
async fn a_container_that_still_has_a_directory_is_named() {
    let ground = Ground::new();
    let node = ground.node().await;
    let volume = ground.directory("a");
    let mounted = volume.mount(&node).await.unwrap();
    let inside = ground.path("inside");
    fs::create_dir(&inside).unwrap();
    // As a container runtime does: a bind somewhere else, in a namespace of its own, and no other copy.
    let script = format!(
        "mount --bind {data} {inside} && umount {place} && echo ready && exec sleep 1000",
        data = mounted.data,
        inside = inside.display(),
        place = mounted.path
    );
    let holder = start_and_hear("unshare", &["--mount", "--propagation", "private", "sh", "-c", &script]);
    let found = node.holders(volume.id, &mounted.path).await.unwrap();
    assert!(found.iter().any(|name| name.starts_with(&format!("{} (", holder.0.id()))), "{found:?}");
    // It keeps its files, but not our mount; and the directory is not given up for deletion while it has them.
    let refusal = volume.unmount(&node).await.unwrap_err();
    assert_eq!(refusal.kind, Kind::InUse);
    assert!(refusal.message.contains(&holder.0.id().to_string()), "{refusal}");
    assert!(!fs::exists(&mounted.path).unwrap(), "our own mount is gone");
    drop(holder);
    volume.unmount(&node).await.unwrap();
}

#[tokio::test]
async fn read_only_is_read_only_and_the_two_do_not_mix() {
    let ground = Ground::new();
    let node = ground.node().await;
    let volume = ground.directory("a");
    let mut wish = volume.wish();
    wish.read_only = true;
    let mounted = node.mount(&wish).await.unwrap();
    assert!(fs::write(format!("{}/x", mounted.data), "x").is_err());
    let error = volume.mount(&node).await.unwrap_err();
    assert_eq!(error.kind, Kind::Precondition);
    assert!(error.message.contains("read-only"), "{error}");
}

#[tokio::test]
async fn no_path_leads_out_of_the_grant() {
    let ground = Ground::new();
    let node = ground.node().await;
    fs::create_dir_all(ground.path("outside/secret")).unwrap();
    symlink(ground.path("outside"), ground.granted().join("link")).unwrap();
    let mut volume = ground.directory("a");
    let root = ground.granted().display().to_string();
    for path in ["link", "link/secret", "..", "../outside", "a/../../outside", "/etc", "", "."] {
        volume.connection = Connection::Directory { root: root.clone(), path: path.into() };
        let error = volume.mount(&node).await.unwrap_err();
        assert!(matches!(error.kind, Kind::InvalidArgument | Kind::Precondition), "{path}: {error}");
        let file = Connection::File { root: root.clone(), path: path.into() };
        assert!(node.connect(volume.id, &file, false).await.is_err(), "{path}");
    }
    assert!(ground.loops().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_swapped_for_a_symlink_never_shows_what_is_behind_it() {
    let ground = Ground::new();
    let node = ground.node().await;
    let volume = ground.directory("a");
    fs::write(volume.path.join("mine"), "").unwrap();
    let outside = ground.path("outside");
    fs::create_dir(&outside).unwrap();
    let (real, aside) = (volume.path.clone(), ground.granted().join("aside"));
    let is_over = Arc::new(AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (is_over, outside) = (Arc::clone(&is_over), outside.clone());
        move || {
            while !is_over.load(Ordering::Relaxed) {
                fs::rename(&real, &aside).unwrap();
                symlink(&outside, &real).unwrap();
                fs::remove_file(&real).unwrap();
                fs::rename(&aside, &real).unwrap();
                std::thread::yield_now();
            }
        }
    });
    let mut wish = volume.wish();
    wish.root.directory = None;
    let (mut mounted, mut refused) = (0, 0);
    until("mounts that won against the swap and mounts that lost", async || {
        match node.mount(&wish).await {
            Ok(at) => {
                mounted += 1;
                assert!(fs::exists(format!("{}/mine", at.path)).unwrap(), "something else is mounted");
            }
            Err(_) => refused += 1,
        }
        volume.unmount(&node).await.unwrap();
        mounted > 100 && refused > 10
    })
    .await;
    is_over.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
}

#[tokio::test]
async fn a_grant_whose_disk_is_not_mounted_is_unavailable_and_can_still_be_left() {
    let ground = Ground::new();
    let node = ground.node().await;
    let volume = ground.directory("a");
    volume.mount(&node).await.unwrap();
    fs::rename(ground.granted(), ground.path("elsewhere")).unwrap();
    let other = ground.path("elsewhere/a");
    assert!(fs::exists(other).unwrap());
    volume.unmount(&node).await.unwrap();
    let error = volume.mount(&node).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    fs::create_dir(ground.granted()).unwrap();
    let error = volume.mount(&node).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(error.message.contains("not mounted"), "{error}");
}

#[tokio::test]
async fn a_place_that_is_taken_by_something_else_is_named() {
    let ground = Ground::new();
    let node = ground.node().await;
    let volume = ground.directory("a");
    let place = ground.config.root.join("mounts").join(volume.id.to_string());
    fs::create_dir(&place).unwrap();
    run("mount", &["-t", "tmpfs", "strange", place.to_str().unwrap()]);
    let error = volume.mount(&node).await.unwrap_err();
    assert_eq!(error.kind, Kind::Precondition);
    assert!(error.message.contains("strange (tmpfs)"), "{error}");
}

#[tokio::test]
async fn names_stand_in_paths_where_the_operator_wants_it() {
    let mut ground = Ground::new();
    ground.config.layout = Layout::Names(ground.path("volumes"));
    let node = ground.node().await;
    let (nice, odd) = (ground.directory("a"), ground.directory("b"));
    let mut wish = nice.wish();
    wish.name = "db".into();
    let mounted = node.mount(&wish).await.unwrap();
    assert_eq!(mounted.data, ground.path("volumes/db/data").display().to_string());
    let mut wish = odd.wish();
    wish.name = "../../etc".into();
    let mounted = node.mount(&wish).await.unwrap();
    assert_eq!(mounted.path, ground.path("volumes").join(odd.id.to_string()).display().to_string());
    node.unmount(nice.id, "db", &nice.connection).await.unwrap();
    node.unmount(odd.id, "../../etc", &odd.connection).await.unwrap();
    assert_eq!(fs::read_dir(ground.path("volumes")).unwrap().count(), 0);
}

#[tokio::test]
async fn binds_are_made_once_and_taken_away_with_their_path() {
    let ground = Ground::new();
    let volume = ground.directory("a");
    // A node that mounted it, and one that began later and has to ask.
    let first: LinuxHost = ground.node().await;
    let mounted = volume.mount(&first).await.unwrap();
    for node in [first, ground.node().await] {
        let target = ground.path("target");
        let target = target.to_str().unwrap();
        let before = ground.mounts().len();
        node.bind(volume.id, &Bind::directory(&mounted.data, target, true)).await.unwrap();
        node.bind(volume.id, &Bind::directory(&mounted.data, target, true)).await.unwrap();
        assert_eq!(ground.mounts().len(), before + 1);
        assert!(fs::write(format!("{target}/x"), "x").is_err(), "it was to be read-only");
        fs::write(format!("{}/y", mounted.data), "y").unwrap();
        assert_eq!(fs::read(format!("{target}/y")).unwrap(), b"y");
        let error = node.bind(volume.id, &Bind::directory(&mounted.path, target, true)).await.unwrap_err();
        assert_eq!(error.kind, Kind::Precondition, "{error}");
        node.unbind(volume.id, &Bind::directory("", target, false)).await.unwrap();
        node.unbind(volume.id, &Bind::directory("", target, false)).await.unwrap();
        assert!(!fs::exists(target).unwrap());
        // A directory that was there before stays.
        let own = ground.path("own");
        fs::create_dir_all(&own).unwrap();
        node.bind(volume.id, &Bind::directory(&mounted.data, own.to_str().unwrap(), false)).await.unwrap();
        node.unbind(volume.id, &Bind::directory("", own.to_str().unwrap(), false)).await.unwrap();
        assert!(fs::exists(&own).unwrap());
    }
}

#[tokio::test]
async fn a_directory_is_never_frozen_because_the_host_would_stop() {
    let ground = Ground::new();
    let node = ground.node().await;
    let volume = ground.directory("a");
    let mounted = volume.mount(&node).await.unwrap();
    let limit = std::time::Duration::from_millis(200);
    let error = node.freeze(volume.id, &mounted.path, limit).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
    assert!(!node.thaw(volume.id, &mounted.path).await.unwrap());
    assert_eq!(volume.health(&node, &mounted.path).await, Condition::Well);
    assert!(node.usage(&mounted.path).await.unwrap().total.0 > 0);
}
