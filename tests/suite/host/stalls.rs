//! What may hang: a device that does not answer, a frozen filesystem whose keeper died.

use std::{fs, path::Path, sync::Arc, time::Duration};

use kato_node::LinuxHost;
use kato_orchestrator::{
    Kind,
    model::{Bytes, FsType},
    ports::host::{Condition, Filesystems as _},
};
use rustix::process::{Pid, Signal, kill_process};

use super::ground::{Disk, Ground, LARGE, SMALL, until};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_does_not_answer_stalls_only_its_own_volume() {
    let mut ground = Ground::new();
    let patient = ground.node().await;
    // A filesystem in which another volume's file lies: frozen, it takes no write, so that a loop device over
    // the file waits in the kernel for ever.
    let below = ground.disk("below", LARGE);
    below.format(&patient, FsType::Ext4).await.unwrap();
    let mounted = below.mount(&patient).await.unwrap();
    let granted = Path::new(&mounted.data).to_owned();
    fs::File::create_new(granted.join("stalled")).unwrap().set_len(SMALL).unwrap();
    let stalled = Disk::at(granted, "stalled");
    patient.freeze(below.id, &mounted.path, LONG).await.unwrap();

    ground.config.patience = Duration::from_secs(2);
    ground.config.long_patience = Duration::from_secs(2);
    // The node thaws what an earlier daemon left frozen when it begins, so freeze again afterwards.
    let node = Arc::new(ground.node().await);
    patient.freeze(below.id, &mounted.path, LONG).await.unwrap();
    let error = stalled.format(&node, FsType::Ext4).await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{error}");
    assert!(!error.is_final(), "the make may go on: {error}");

    let healthy = ground.disk("healthy", SMALL);
    healthy.format(&node, FsType::Ext4).await.unwrap();
    healthy.mount(&node).await.unwrap();
    healthy.unmount(&node).await.unwrap();
    let error = stalled.mount(&node).await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{error}");

    assert!(patient.thaw(below.id, &mounted.path).await.unwrap());
    // The abandoned make is gone now, whatever it had written.
    until("the stalled volume to answer again", async || {
        use kato_orchestrator::ports::{backend::Blankness, host::Prepare};
        let how = Prepare { fs: FsType::Ext4, blank: Blankness::Zeroes, resumed: true, size: Bytes(0) };
        node.format(stalled.id, &stalled.connection, &how).await.is_ok()
    })
    .await;
    stalled.mount(&node).await.unwrap();
    stalled.unmount(&node).await.unwrap();
    below.unmount(&patient).await.unwrap();
}

/// A formatted volume that is mounted, and a file in it.
async fn mounted(ground: &Ground, node: &LinuxHost) -> (Disk, String, String) {
    let disk = ground.disk("a", SMALL);
    disk.format(node, FsType::Ext4).await.unwrap();
    let mounted = disk.mount(node).await.unwrap();
    (disk, mounted.path, format!("{}/file", mounted.data))
}

/// Writes in a thread of its own, as it may wait for ever.
async fn writes(file: &str) {
    let file = file.to_owned();
    let write = tokio::task::spawn_blocking(move || {
        fs::write(&file, "x").unwrap();
        fs::File::open(&file).unwrap().sync_all().unwrap();
    });
    tokio::time::timeout(Duration::from_secs(60), write)
        .await
        .expect("the filesystem is still frozen")
        .unwrap();
}

/// Children of this process, and theirs, that have this path open.
fn keepers(path: &str) -> Vec<u32> {
    let opened = |pid: u32| {
        fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|open| {
            open.flatten()
                .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(path)))
        })
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let mut pids: Vec<u32> = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.retain(|pid| *pid != std::process::id() && opened(*pid));
    // The holder starts the watchdog, so it is the older one.
    pids.sort_unstable();
    pids
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_holds_until_it_is_thawed_and_says_so() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, path, file) = mounted(&ground, &node).await;
    node.freeze(disk.id, &path, LONG).await.unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let writer = std::thread::spawn({
        let file = file.clone();
        move || {
            fs::write(file, "x").unwrap();
            sender.send(()).unwrap();
        }
    });
    assert_eq!(disk.health(&node, &path).await, Condition::Well);
    assert!(receiver.try_recv().is_err(), "a write came through");
    assert!(node.thaw(disk.id, &path).await.unwrap());
    receiver.recv_timeout(Duration::from_secs(60)).unwrap();
    writer.join().unwrap();
    assert!(!node.thaw(disk.id, &path).await.unwrap());
    assert!(keepers(&path).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_ends_at_its_limit_and_the_thaw_says_that_it_was_late() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, path, file) = mounted(&ground, &node).await;
    node.freeze(disk.id, &path, Duration::from_millis(300)).await.unwrap();
    writes(&file).await;
    assert!(!node.thaw(disk.id, &path).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_is_thawed_when_either_of_its_keepers_dies() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, path, file) = mounted(&ground, &node).await;
    for victim in [0, 1] {
        node.freeze(disk.id, &path, LONG).await.unwrap();
        let keepers = keepers(&path);
        assert_eq!(keepers.len(), 2, "a holder and a watchdog");
        kill(keepers[victim]);
        writes(&file).await;
        assert!(!node.thaw(disk.id, &path).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_is_thawed_when_the_daemon_ends() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, path, file) = mounted(&ground, &node).await;
    node.freeze(disk.id, &path, LONG).await.unwrap();
    drop(node);
    writes(&file).await;
    let next = ground.node().await;
    until("the keepers to be gone", async || disk.unmount(&next).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filesystem_that_was_left_frozen_is_thawed_at_the_start() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, path, file) = mounted(&ground, &node).await;
    super::ground::run("fsfreeze", &["--freeze", &path]);
    drop(node);
    let next = ground.node().await;
    writes(&file).await;
    disk.unmount(&next).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_volume_can_be_unmounted() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, path, _) = mounted(&ground, &node).await;
    node.freeze(disk.id, &path, LONG).await.unwrap();
    disk.unmount(&node).await.unwrap();
    assert!(ground.loops().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_when_nobody_waits_for_it() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    drop(tokio::time::timeout(Duration::ZERO, disk.format(&node, FsType::Ext4)).await);
    // Either it was made by the call that nobody heard, or it never began.
    until("the volume to be formatted once", async || match disk.format(&node, FsType::Ext4).await {
        Ok(()) => true,
        Err(error) => error.kind == Kind::Precondition && error.message.contains("ext"),
    })
    .await;
    disk.mount(&node).await.unwrap();
}
