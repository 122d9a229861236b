//! Growth: the device, then its filesystem, mounted where the kernel lets us and at the next mount where not.

use std::{fs, os::unix::fs::MetadataExt as _};

use kato_orchestrator::{
    Kind,
    model::{Bytes, FsType},
    ports::host::{Connections as _, Filesystems as _, Grown, Observations as _},
};

use super::ground::{Disk, Ground, LARGE, SMALL, retry, run};

#[tokio::test]
async fn an_xfs_grows_while_it_is_mounted() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", LARGE);
    disk.format(&node, FsType::Xfs).await.unwrap();
    let mounted = disk.mount(&node).await.unwrap();
    let before = node.usage(&mounted.path).await.unwrap().total;
    disk.set_size(2 * LARGE);
    assert_eq!(node.rescan(disk.id, &disk.connection, Bytes(2 * LARGE)).await.unwrap(), Bytes(2 * LARGE));
    assert!(disk.mount(&node).await.unwrap().fs_behind);
    assert_eq!(node.grow(disk.id, &mounted.path).await.unwrap(), Grown::Done);
    assert_eq!(node.grow(disk.id, &mounted.path).await.unwrap(), Grown::Done);
    assert!(node.usage(&mounted.path).await.unwrap().total.0 > before.0 + LARGE / 2);
    assert!(!disk.mount(&node).await.unwrap().fs_behind);
}

#[tokio::test]
async fn an_ext4_grows_at_the_next_mount_where_it_may_not_grow_at_once() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    disk.format(&node, FsType::Ext4).await.unwrap();
    let mounted = disk.mount(&node).await.unwrap();
    fs::write(format!("{}/file", mounted.data), "kept").unwrap();
    let before = node.usage(&mounted.path).await.unwrap().total;
    disk.set_size(4 * SMALL);
    node.rescan(disk.id, &disk.connection, Bytes(4 * SMALL)).await.unwrap();
    if node.grow(disk.id, &mounted.path).await.unwrap() == Grown::NeedsUnmount {
        assert!(disk.mount(&node).await.unwrap().fs_behind);
        assert_eq!(node.usage(&mounted.path).await.unwrap().total, before);
        disk.unmount(&node).await.unwrap();
        assert!(!disk.mount(&node).await.unwrap().fs_behind);
    }
    assert!(node.usage(&mounted.path).await.unwrap().total.0 > before.0 + 2 * SMALL);
    assert_eq!(fs::read(format!("{}/file", mounted.data)).unwrap(), b"kept");
}

#[tokio::test]
async fn a_filesystem_that_is_behind_is_grown_by_its_mount() {
    let ground = Ground::new();
    let node = ground.node().await;
    for (fs_type, size) in [(FsType::Ext4, SMALL), (FsType::Xfs, LARGE)] {
        let disk = ground.disk(fs_type.name(), size);
        disk.format(&node, fs_type).await.unwrap();
        node.disconnect(disk.id, &disk.connection).await.unwrap();
        disk.set_size(2 * size);
        let mounted = disk.mount(&node).await.unwrap();
        assert!(!mounted.fs_behind, "{fs_type}");
        assert_eq!(mounted.device.size, Some(Bytes(2 * size)));
        assert!(node.usage(&mounted.path).await.unwrap().total.0 > size + size / 2, "{fs_type}");
    }
}

#[tokio::test]
async fn a_size_that_has_not_arrived_is_not_called_arrived() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    node.connect(disk.id, &disk.connection, false).await.unwrap();
    let error = node.rescan(disk.id, &disk.connection, Bytes(2 * SMALL)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn two_copies_of_one_xfs_are_mounted_side_by_side() {
    let ground = Ground::new();
    let node = ground.node().await;
    let first = ground.disk("a", LARGE);
    first.format(&node, FsType::Xfs).await.unwrap();
    node.disconnect(first.id, &first.connection).await.unwrap();
    let second = Disk::at(ground.granted(), "b");
    run("cp", &["--sparse=always", first.path.to_str().unwrap(), second.path.to_str().unwrap()]);
    let (one, other) = (first.mount(&node).await.unwrap(), second.mount(&node).await.unwrap());
    fs::write(format!("{}/file", one.data), "one").unwrap();
    assert!(!fs::exists(format!("{}/file", other.data)).unwrap());
}

#[tokio::test]
async fn what_is_trimmed_in_a_volume_is_given_back_by_its_file() {
    let ground = Ground::new();
    let node = ground.node().await;
    for (fs_type, size) in [(FsType::Ext4, SMALL), (FsType::Xfs, LARGE)] {
        let disk = ground.disk(fs_type.name(), size);
        disk.format(&node, fs_type).await.unwrap();
        let mut wish = disk.wish();
        wish.options = vec!["discard".into()];
        let mounted = node.mount(&wish).await.unwrap();
        let taken = || fs::metadata(&disk.path).unwrap().blocks() * 512;
        let file = format!("{}/file", mounted.data);
        let before = taken();
        fs::write(&file, vec![7; 32 << 20]).unwrap();
        fs::File::open(&file).unwrap().sync_all().unwrap();
        // A filesystem may give back a little of its own meanwhile.
        assert!(taken() >= before + (31 << 20), "{fs_type}: {before}, {}", taken());
        fs::remove_file(&file).unwrap();
        // Xfs frees the blocks of a removed file in its own time.
        let given_back = retry(|| {
            run("sync", &["-f", &mounted.data]);
            run("fstrim", &[&mounted.path]);
            taken() < before + (8 << 20)
        });
        assert!(given_back, "{fs_type}: {before}, {}", taken());
        disk.unmount(&node).await.unwrap();
    }
}
