//! What breaks below a mount, with real filesystems: each way is told for what it is, and taking the mount down
//! and making it again mends what can be mended. Whoever had written before still has it.

use std::{fs, io::Read as _, path::Path};

use kato_node::LinuxHost;
use kato_orchestrator::{
    Kind,
    model::{Connection, FsType},
    ports::host::{Condition, Filesystems as _, MountedAt, Observations as _, Standing},
};
use rustix::mount::{UnmountFlags, unmount};

use super::ground::{Disk, Ground, LARGE, SMALL, run};

/// A formatted volume that is mounted, with a flushed file in it.
async fn standing(ground: &Ground, node: &LinuxHost, fs_type: FsType) -> (Disk, MountedAt) {
    let size = if fs_type == FsType::Xfs { LARGE } else { SMALL };
    let disk = ground.disk(fs_type.name(), size);
    disk.format(node, fs_type).await.unwrap();
    let mounted = disk.mount(node).await.unwrap();
    let file = format!("{}/file", mounted.data);
    fs::write(&file, "kept").unwrap();
    fs::File::open(&file).unwrap().sync_all().unwrap();
    assert_eq!(disk.health(node, &mounted.path).await, Condition::Well, "{fs_type}");
    (disk, mounted)
}

/// Takes it down and makes it again, as a repair does.
async fn remake(node: &LinuxHost, disk: &Disk) {
    disk.unmount(node).await.unwrap();
    let mounted = disk.mount(node).await.unwrap();
    assert_eq!(disk.health(node, &mounted.path).await, Condition::Well);
    assert_eq!(fs::read_to_string(format!("{}/file", mounted.data)).unwrap(), "kept");
    fs::write(format!("{}/more", mounted.data), "written").unwrap();
}

fn sysfs(mounted: &MountedAt) -> String {
    let device = Path::new(&mounted.device.path).file_name().unwrap().to_str().unwrap().to_owned();
    format!("/sys/fs/ext4/{device}")
}

#[tokio::test]
async fn a_filesystem_that_shut_itself_down_is_broken_until_it_is_made_again() {
    let ground = Ground::new();
    let node = ground.node().await;
    for fs_type in [FsType::Ext4, FsType::Xfs] {
        let (disk, mounted) = standing(&ground, &node, fs_type).await;
        run("xfs_io", &["-x", "-c", "shutdown", &mounted.path]);
        let why = disk.complaint(&node, &mounted.path).await;
        assert!(why.contains("shut itself down"), "{fs_type}: {why}");
        remake(&node, &disk).await;
        disk.unmount(&node).await.unwrap();
    }
    assert!(ground.loops().is_empty());
}

#[tokio::test]
async fn an_ext4_that_the_kernel_made_read_only_is_broken_until_it_is_checked() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    disk.format(&node, FsType::Ext4).await.unwrap();
    let mut wish = disk.wish();
    wish.options = vec!["errors=remount-ro".into()];
    let mounted = node.mount(&wish).await.unwrap();
    let file = format!("{}/file", mounted.data);
    fs::write(&file, "kept").unwrap();
    fs::File::open(&file).unwrap().sync_all().unwrap();
    fs::write(format!("{}/trigger_fs_error", sysfs(&mounted)), "an error of the test's").unwrap();
    fs::write(format!("{}/more", mounted.data), "refused").unwrap_err();
    let why = disk.complaint(&node, &mounted.path).await;
    assert!(why.contains("read-only"), "{why}");
    remake(&node, &disk).await;
}

#[tokio::test]
async fn an_error_that_the_kernel_noted_and_passed_over_is_told_until_it_is_checked() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, mounted) = standing(&ground, &node, FsType::Ext4).await;
    fs::write(format!("{}/trigger_fs_error", sysfs(&mounted)), "an error of the test's").unwrap();
    let why = disk.complaint(&node, &mounted.path).await;
    assert!(why.contains("1 errors"), "{why}");
    remake(&node, &disk).await;
}

#[tokio::test]
async fn a_filesystem_that_somebody_made_read_only_is_broken_and_one_that_was_wished_so_is_well() {
    let ground = Ground::new();
    let node = ground.node().await;
    for fs_type in [FsType::Ext4, FsType::Xfs] {
        let (disk, mounted) = standing(&ground, &node, fs_type).await;
        run("mount", &["-o", "remount,ro", &mounted.path]);
        let why = disk.complaint(&node, &mounted.path).await;
        assert!(why.contains("read-only"), "{fs_type}: {why}");
        let wished = Standing { read_only: true, ..disk.standing(&mounted.path) };
        assert_eq!(node.health(&wished).await.unwrap(), Condition::Well);
        remake(&node, &disk).await;
    }
}

#[tokio::test]
async fn a_file_that_was_cut_short_below_its_device_is_broken() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, mounted) = standing(&ground, &node, FsType::Ext4).await;
    disk.set_size(SMALL / 2);
    let why = disk.complaint(&node, &mounted.path).await;
    assert!(why.contains("cut short"), "{why}");
    disk.set_size(0);
    disk.complaint(&node, &mounted.path).await;
    disk.set_size(SMALL);
}

#[tokio::test]
async fn a_file_that_was_removed_lives_on_in_its_device_and_is_not_let_go() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, mounted) = standing(&ground, &node, FsType::Ext4).await;
    fs::remove_file(&disk.path).unwrap();
    let why = disk.complaint(&node, &mounted.path).await;
    assert!(why.contains("was removed") && why.contains(&mounted.device.path), "{why}");
    for _ in 0..2 {
        let refusal = disk.unmount(&node).await.unwrap_err();
        assert_eq!(refusal.kind, Kind::InUse, "{refusal}");
        assert!(refusal.message.contains("cp --sparse=always"), "{refusal}");
    }
    assert!(!ground.mounts().contains(&mounted.path), "it is unmounted all the same");
    // What the words say is what helps.
    run("cp", &["--sparse=always", &mounted.device.path, disk.path.to_str().unwrap()]);
    run("losetup", &["-d", &mounted.device.path]);
    disk.unmount(&node).await.unwrap();
    remake(&node, &disk).await;
}

#[tokio::test]
async fn a_file_that_was_replaced_is_another_volume() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, mounted) = standing(&ground, &node, FsType::Ext4).await;
    let aside = disk.path.with_extension("aside");
    fs::rename(&disk.path, &aside).unwrap();
    fs::File::create_new(&disk.path).unwrap().set_len(SMALL).unwrap();
    let why = disk.complaint(&node, &mounted.path).await;
    assert!(why.contains("another file has the place"), "{why}");
    fs::rename(&aside, &disk.path).unwrap();
    assert_eq!(disk.health(&node, &mounted.path).await, Condition::Well);
}

#[tokio::test]
async fn a_device_that_does_not_hold_the_filesystem_any_more_is_broken() {
    let ground = Ground::new();
    let node = ground.node().await;
    // Xfs keeps its superblock to itself; an ext4 would write its own over the damage.
    let (disk, mounted) = standing(&ground, &node, FsType::Xfs).await;
    let mut begin = [0; 512];
    fs::File::open(&disk.path).unwrap().read_exact(&mut begin).unwrap();
    for (bytes, words) in [(&[0xff; 512][..], "does not hold"), (b"LUKS\xba\xbe", "LUKS")] {
        disk.scribble(0, bytes);
        run("blockdev", &["--flushbufs", &mounted.device.path]);
        let why = disk.complaint(&node, &mounted.path).await;
        assert!(why.contains(words), "{why}");
    }
    disk.scribble(0, &begin);
    run("blockdev", &["--flushbufs", &mounted.device.path]);
    assert_eq!(disk.health(&node, &mounted.path).await, Condition::Well);
}

#[tokio::test]
async fn a_mount_that_somebody_took_away_is_missing() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, mounted) = standing(&ground, &node, FsType::Ext4).await;
    unmount(mounted.path.as_str(), UnmountFlags::empty()).unwrap();
    assert_eq!(disk.health(&node, &mounted.path).await, Condition::Missing);
    fs::remove_dir(&mounted.path).unwrap();
    assert_eq!(disk.health(&node, &mounted.path).await, Condition::Missing);
    let again = disk.mount(&node).await.unwrap();
    assert_eq!(disk.health(&node, &again.path).await, Condition::Well);
}

#[tokio::test]
async fn a_device_whose_identity_is_nowhere_has_vanished() {
    let ground = Ground::new();
    let node = ground.node().await;
    let (disk, mounted) = standing(&ground, &node, FsType::Ext4).await;
    // No disk of this machine can be pulled out; but none has this serial number either.
    let connection = Connection::Device { identity: "nvme-serial".into(), value: "vol-pulled-out".into() };
    let pulled = Standing { connection, ..disk.standing(&mounted.path) };
    let Condition::Broken(why) = node.health(&pulled).await.unwrap() else { panic!("it is said to be well") };
    assert!(why.contains("vol-pulled-out"), "{why}");
}

#[tokio::test]
async fn a_directory_is_well_while_it_is_the_one_that_was_mounted() {
    let ground = Ground::new();
    let node = ground.node().await;
    let volume = ground.directory("a");
    let mounted = volume.mount(&node).await.unwrap();
    assert_eq!(volume.health(&node, &mounted.path).await, Condition::Well);
    let aside = volume.path.with_extension("aside");
    fs::rename(&volume.path, &aside).unwrap();
    let why = volume.complaint(&node, &mounted.path).await;
    assert!(why.contains("is not there"), "{why}");
    fs::create_dir(&volume.path).unwrap();
    let why = volume.complaint(&node, &mounted.path).await;
    assert!(why.contains("another directory"), "{why}");
    fs::remove_dir(&volume.path).unwrap();
    fs::rename(&aside, &volume.path).unwrap();
    assert_eq!(volume.health(&node, &mounted.path).await, Condition::Well);
    run("mount", &["-o", "remount,bind,ro", &mounted.path]);
    assert!(volume.complaint(&node, &mounted.path).await.contains("read-only"));
    unmount(mounted.path.as_str(), UnmountFlags::empty()).unwrap();
    assert_eq!(volume.health(&node, &mounted.path).await, Condition::Missing);
}
