//! Disks that a cloud attaches: found in trees of /dev and /sys as the host would have them, over loop devices that
//! play the disks.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use kato_orchestrator::{
    Kind,
    model::{Bytes, Connection, FsType},
    ports::host::{Condition, Connections as _, Filesystems as _, Grown, MountWish, Observations as _},
};
use rustix::fs::{CWD, FileType, Mode, major, makedev, minor, mknodat, stat};

use super::ground::{Disk, Ground, SMALL, run};

/// The disks of a Nitro host, in a folder of the ground.
struct Cloud {
    tree: PathBuf,
}

/// A disk that is attached.
struct Attached {
    /// The loop device that plays it.
    device: String,
    file: PathBuf,
}

impl Cloud {
    /// One with a disk of its own that is no volume; the node looks there from now on.
    fn over(ground: &mut Ground) -> Self {
        let cloud = Self { tree: ground.path("cloud") };
        for folder in ["sys/block", "sys/class/block", "sys/dev/block", "dev/disk/by-id"] {
            fs::create_dir_all(cloud.tree.join(folder)).unwrap();
        }
        ground.config.dev = cloud.tree.join("dev");
        ground.config.sys = cloud.tree.join("sys");
        cloud
    }

    /// Makes the bytes of a volume, and what is to play the disk.
    fn volume(ground: &Ground, name: &str, size: u64) -> Attached {
        let file = ground.path(name);
        fs::File::create_new(&file).unwrap().set_len(size).unwrap();
        let told = run("losetup", &["--show", "--find", file.to_str().unwrap()]);
        Attached { device: String::from_utf8(told.stdout).unwrap().trim().to_owned(), file }
    }

    /// Has a disk appear under this name, as the volume with this serial.
    fn attach(&self, disk: &Attached, name: &str, serial: &str) {
        let numbers = stat(disk.device.as_str()).unwrap().st_rdev;
        let (major, minor) = (major(numbers), minor(numbers));
        let entry = self.tree.join("sys/block").join(name);
        fs::create_dir_all(entry.join("device")).unwrap();
        fs::create_dir(entry.join("holders")).unwrap();
        for (place, text) in [
            ("dev", format!("{major}:{minor}\n")),
            ("device/model", format!("{:40}\n", "Amazon Elastic Block Store")),
            ("device/serial", format!("{serial:20}\n")),
        ] {
            fs::write(entry.join(place), text).unwrap();
        }
        self.show_size(disk, name);
        symlink(&entry, self.tree.join("sys/class/block").join(name)).unwrap();
        symlink(&entry, self.tree.join("sys/dev/block").join(format!("{major}:{minor}"))).unwrap();
        let node = self.tree.join("dev").join(name);
        mknodat(CWD, &node, FileType::BlockDevice, Mode::from_raw_mode(0o600), makedev(major, minor))
            .unwrap();
        let link = self.tree.join("dev/disk/by-id").join(format!("nvme-Amazon_Elastic_Block_Store_{serial}"));
        symlink(&node, link).unwrap();
    }

    /// Has sysfs tell the size that a disk has.
    fn show_size(&self, disk: &Attached, name: &str) {
        let sectors = fs::metadata(&disk.file).unwrap().len() / 512;
        fs::write(self.tree.join("sys/block").join(name).join("size"), format!("{sectors}\n")).unwrap();
    }

    /// Has a disk disappear.
    fn detach(&self, name: &str) {
        let entry = self.tree.join("sys/block").join(name);
        let numbers = fs::read_to_string(entry.join("dev")).unwrap();
        let serial = fs::read_to_string(entry.join("device/serial")).unwrap();
        let link = format!("nvme-Amazon_Elastic_Block_Store_{}", serial.trim());
        fs::remove_file(self.tree.join("dev/disk/by-id").join(link)).unwrap();
        fs::remove_file(self.tree.join("dev").join(name)).unwrap();
        fs::remove_file(self.tree.join("sys/dev/block").join(numbers.trim())).unwrap();
        fs::remove_file(self.tree.join("sys/class/block").join(name)).unwrap();
        fs::remove_dir_all(entry).unwrap();
    }
}

/// A volume of EBS, as the node is told of it.
fn volume(id: &str) -> Disk {
    let connection = Connection::Device { identity: "ebs".into(), value: format!("vol-{id}:/dev/xvdba") };
    Disk { connection, ..Disk::at("/nowhere".into(), id) }
}

fn wish(disk: &Disk, size: u64) -> MountWish {
    MountWish { size: Bytes(size), ..disk.wish() }
}

#[tokio::test]
async fn an_attached_disk_is_found_mounted_grown_and_let_go() {
    let mut ground = Ground::new();
    let cloud = Cloud::over(&mut ground);
    let node = ground.node().await;
    let (disk, other) = (Cloud::volume(&ground, "a", SMALL), Cloud::volume(&ground, "b", SMALL));
    cloud.attach(&other, "nvme0n1", "vol0bbbbbbbb");
    cloud.attach(&disk, "nvme1n1", "vol0aaaaaaaa");
    let a = volume("0aaaaaaaa");
    let nothing_mounted = ground.mounts();
    a.format(&node, FsType::Ext4).await.unwrap();
    let mounted = node.mount(&wish(&a, SMALL)).await.unwrap();
    assert_eq!(mounted.device.path, cloud.tree.join("dev/nvme1n1").display().to_string());
    assert_eq!(mounted.device.size, Some(Bytes(SMALL)));
    fs::write(format!("{}/file", mounted.data), "kept").unwrap();
    assert_eq!(node.mount(&wish(&a, SMALL)).await.unwrap(), mounted);
    assert_eq!(a.health(&node, &mounted.path).await, Condition::Well);
    // A whole filesystem is held still, wherever its node is.
    node.freeze(a.id, &mounted.path, Duration::from_secs(600)).await.unwrap();
    assert!(node.thaw(a.id, &mounted.path).await.unwrap());

    let before = node.usage(&mounted.path).await.unwrap().total.0;
    fs::File::options().write(true).open(&disk.file).unwrap().set_len(4 * SMALL).unwrap();
    let error = node.rescan(a.id, &a.connection, Bytes(4 * SMALL)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    run("losetup", &["-c", &disk.device]);
    cloud.show_size(&disk, "nvme1n1");
    assert_eq!(node.rescan(a.id, &a.connection, Bytes(4 * SMALL)).await.unwrap(), Bytes(4 * SMALL));
    if node.grow(a.id, &mounted.path).await.unwrap() == Grown::NeedsUnmount {
        a.unmount(&node).await.unwrap();
        node.mount(&wish(&a, 4 * SMALL)).await.unwrap();
    }
    assert!(node.usage(&mounted.path).await.unwrap().total.0 > before + 2 * SMALL);
    a.unmount(&node).await.unwrap();
    a.unmount(&node).await.unwrap();
    assert_eq!(ground.mounts(), nothing_mounted);

    // Counted anew, the names are the other way round.
    cloud.detach("nvme0n1");
    cloud.detach("nvme1n1");
    node.disconnect(a.id, &a.connection).await.unwrap();
    cloud.attach(&other, "nvme1n1", "vol0bbbbbbbb");
    cloud.attach(&disk, "nvme0n1", "vol0aaaaaaaa");
    let mounted = node.mount(&wish(&a, 4 * SMALL)).await.unwrap();
    assert_eq!(fs::read(format!("{}/file", mounted.data)).unwrap(), b"kept");
    assert_eq!(mounted.device.path, cloud.tree.join("dev/nvme0n1").display().to_string());
    a.unmount(&node).await.unwrap();
    run("losetup", &["-d", &disk.device]);
    assert!(!ground.loops().iter().any(|device| device == Path::new(&disk.device)), "it was not let go");
}

#[tokio::test]
async fn a_disk_that_comes_late_is_waited_for() {
    let mut ground = Ground::new();
    let cloud = Cloud::over(&mut ground);
    let node = ground.node().await;
    let disk = Cloud::volume(&ground, "a", SMALL);
    let a = volume("0aaaaaaaa");
    let late = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        cloud.attach(&disk, "nvme1n1", "vol0aaaaaaaa");
    };
    let (connected, ()) = tokio::join!(node.connect(a.id, &a.connection, false), late);
    let device = connected.unwrap();
    assert_eq!(device.size, Some(Bytes(SMALL)));
    assert!(fs::metadata(&device.path).unwrap().file_type().is_block_device());
}

#[tokio::test]
async fn a_disk_that_is_not_here_is_unavailable_and_let_go() {
    let mut ground = Ground::new();
    ground.config.patience = Duration::from_secs(3);
    Cloud::over(&mut ground);
    let node = ground.node().await;
    let a = volume("0aaaaaaaa");
    let error = node.connect(a.id, &a.connection, false).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains("vol-0aaaaaaaa") && error.message.contains("not appeared yet"), "{error}");
    a.unmount(&node).await.unwrap();
}

#[tokio::test]
async fn a_node_that_leads_to_another_disk_is_not_taken() {
    let mut ground = Ground::new();
    ground.config.patience = Duration::from_secs(3);
    let cloud = Cloud::over(&mut ground);
    let node = ground.node().await;
    let (disk, other) = (Cloud::volume(&ground, "a", SMALL), Cloud::volume(&ground, "b", SMALL));
    cloud.attach(&disk, "nvme1n1", "vol0aaaaaaaa");
    cloud.attach(&other, "nvme2n1", "vol0bbbbbbbb");
    // sysfs says nvme1n1, and the node of that name opens the other disk.
    let (mine, others) = (cloud.tree.join("dev/nvme1n1"), cloud.tree.join("dev/nvme2n1"));
    fs::rename(&others, &mine).unwrap();
    let a = volume("0aaaaaaaa");
    let error = a.format(&node, FsType::Ext4).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains("changed while it was opened"), "{error}");
    for file in [&disk.file, &other.file] {
        assert!(fs::read(file).unwrap().iter().all(|byte| *byte == 0), "something was written");
    }
}

#[tokio::test]
async fn a_disk_that_is_swapped_beneath_its_mount_breaks_it() {
    let mut ground = Ground::new();
    let cloud = Cloud::over(&mut ground);
    let node = ground.node().await;
    let (disk, other) = (Cloud::volume(&ground, "a", SMALL), Cloud::volume(&ground, "b", SMALL));
    cloud.attach(&disk, "nvme1n1", "vol0aaaaaaaa");
    let a = volume("0aaaaaaaa");
    a.format(&node, FsType::Ext4).await.unwrap();
    let mounted = node.mount(&wish(&a, SMALL)).await.unwrap();
    cloud.detach("nvme1n1");
    let why = a.complaint(&node, &mounted.path).await;
    assert!(why.contains("not attached here"), "{why}");
    cloud.attach(&other, "nvme1n1", "vol0aaaaaaaa");
    let why = a.complaint(&node, &mounted.path).await;
    assert!(why.contains("went away and came back"), "{why}");
    let error = node.mount(&wish(&a, SMALL)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Precondition, "{error}");
}

#[tokio::test]
async fn a_disk_that_somebody_else_has_mounted_is_refused() {
    let mut ground = Ground::new();
    let cloud = Cloud::over(&mut ground);
    let node = ground.node().await;
    let disk = Cloud::volume(&ground, "a", SMALL);
    run("mkfs.ext4", &["-q", &disk.device]);
    let elsewhere = ground.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    run("mount", &[&disk.device, elsewhere.to_str().unwrap()]);
    cloud.attach(&disk, "nvme1n1", "vol0aaaaaaaa");
    let a = volume("0aaaaaaaa");
    let error = node.mount(&wish(&a, SMALL)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Precondition);
    assert!(error.message.contains("elsewhere") && error.message.contains("no volume of ours"), "{error}");
    run("umount", &[elsewhere.to_str().unwrap()]);
    node.mount(&wish(&a, SMALL)).await.unwrap();
    a.unmount(&node).await.unwrap();
}
