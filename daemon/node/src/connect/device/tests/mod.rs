//! Discovery over trees that look as those of real hosts do (`tree.rs`). What needs a device that can be opened is
//! in the suite (`host/disks.rs`).

mod tree;

use std::{fs, time::Duration};

use kato_orchestrator::Kind;

use self::tree::Tree;
use super::{Device, Disk, foreign, foreign::Uses, notes::Note, wait};

/// A Nitro host: its root disk, an instance store, two volumes.
const NITRO: &str = "
    nvme0n1 259:0 16777216 model=Amazon_Elastic_Block_Store serial=vol0aaaaaaaaaaaaaaaa part=nvme0n1p1 part=nvme0n1p128
    nvme1n1 259:3 146484375 model=Amazon_EC2_NVMe_Instance_Storage serial=AWS22A4B7C9D0E1F2A3
    nvme2n1 259:4 2097152 model=Amazon_Elastic_Block_Store serial=vol0bbbbbbbbbbbbbbbb
    nvme3n1 259:5 4194304 model=Amazon_Elastic_Block_Store serial=vol0cccccccccccccccc
    link nvme-Amazon_Elastic_Block_Store_vol0bbbbbbbbbbbbbbbb nvme2n1
    link nvme-Amazon_Elastic_Block_Store_vol0cccccccccccccccc nvme3n1
    link nvme-Amazon_Elastic_Block_Store_vol0aaaaaaaaaaaaaaaa-part1 nvme0n1p1
    link nvme-Amazon_EC2_NVMe_Instance_Storage_AWS22A4B7C9D0E1F2A3 nvme1n1
";

/// A Xen host whose root disk EC2 calls /dev/sda1, with two volumes.
const XEN: &str = "
    xvda 202:0 16777216 part=xvda1 seq=1
    xvdf 202:80 2097152 seq=2
    xvdba 202:13312 4194304 seq=3
";

const A: &str = "vol-0aaaaaaaaaaaaaaaa:/dev/xvdf";
const B: &str = "vol-0bbbbbbbbbbbbbbbb:/dev/xvdf";
const C: &str = "vol-0cccccccccccccccc:/dev/xvdba";

/// The name of the disk that is found, or why none is.
fn found(tree: &Tree, identity: &str, value: &str) -> Result<String, Kind> {
    let device = tree.device(identity, value);
    let disk = device.wanted().and_then(|wanted| device.search(&wanted));
    disk.map(|disk| disk.name).map_err(|error| error.kind)
}

fn ebs(tree: &Tree, value: &str) -> Result<String, Kind> {
    found(tree, "ebs", value)
}

/// What comes before a disk is opened, on a host with these mounts and swaps.
fn refusal(tree: &Tree, device: &Device, mounts: &str, swaps: &str) -> Option<(Kind, String)> {
    let wanted = device.wanted().unwrap();
    let disk = device.search(&wanted).unwrap();
    let uses = Uses::told(mounts, swaps);
    let path = tree.path("dev").join(&disk.name);
    let left = || match &wanted {
        super::Wanted::Ebs(volume) => volume.refuse_leftovers(&disk, &uses, &device.notes()),
        super::Wanted::Attribute { .. } | super::Wanted::Link(_) => Ok(()),
    };
    let outcome = foreign::refuse(&disk, &path, &uses, &device.site).and_then(|()| left());
    outcome.err().map(|error| (error.kind, error.message))
}

/// Notes that the disk that is found now is this volume's, as its use does.
fn take(tree: &Tree, value: &str) {
    let device = tree.device("ebs", value);
    let wanted = device.wanted().unwrap();
    let super::Wanted::Ebs(volume) = &wanted else { panic!("{value}") };
    volume.take(&device.search(&wanted).unwrap(), &device.notes()).unwrap();
}

#[test]
fn a_device_is_found_by_what_sysfs_says_of_it() {
    let tree = Tree::of(
        "nvme1n1 259:1 2048 serial=vol0abc
         vdb 252:16 2048 own=serial:data-1
         sda 8:0 2048 own=device/vpd_pg80:\0@\0\u{4}ABCD own=device/wwid:naa.5000c500a1b2c3d4
         link scsi-ABCD sda",
    );
    assert_eq!(found(&tree, "nvme-serial", "vol-0abc"), Ok("nvme1n1".into()));
    assert_eq!(found(&tree, "virtio-serial", "data-1"), Ok("vdb".into()));
    assert_eq!(found(&tree, "scsi-serial", "ABCD"), Ok("sda".into()));
    assert_eq!(found(&tree, "wwid", "naa.5000c500a1b2c3d4"), Ok("sda".into()));
    assert_eq!(found(&tree, "by-id", "scsi-ABCD"), Ok("sda".into()));
    assert_eq!(found(&tree, "virtio-serial", "other"), Err(Kind::Unavailable));
    assert_eq!(found(&tree, "by-name", "sda"), Err(Kind::InvalidArgument));
    assert_eq!(found(&tree, "by-id", "../sda"), Err(Kind::InvalidArgument));
}

#[test]
fn on_nitro_a_volume_is_the_disk_with_its_serial() {
    let tree = Tree::of(NITRO);
    assert_eq!(ebs(&tree, B), Ok("nvme2n1".into()));
    assert_eq!(ebs(&tree, C), Ok("nvme3n1".into()));
    assert_eq!(ebs(&tree, "vol-0dddddddddddddddd:/dev/xvdba"), Err(Kind::Unavailable));
}

#[test]
fn a_volume_is_found_after_the_disks_were_counted_anew() {
    let tree = Tree::of(NITRO);
    tree.remove("nvme2n1");
    tree.remove("nvme3n1");
    tree.add(
        "nvme2n1 259:6 4194304 model=Amazon_Elastic_Block_Store serial=vol0cccccccccccccccc
         nvme3n1 259:7 2097152 model=Amazon_Elastic_Block_Store serial=vol0bbbbbbbbbbbbbbbb",
    );
    // udev's links still lead to where the disks were.
    assert_eq!(ebs(&tree, B), Ok("nvme3n1".into()));
    assert_eq!(ebs(&tree, C), Ok("nvme2n1".into()));
}

#[test]
fn a_link_is_not_needed_and_not_believed() {
    let tree = Tree::of(NITRO);
    let link = tree.path("dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0bbbbbbbbbbbbbbbb");
    fs::remove_file(&link).unwrap();
    assert_eq!(ebs(&tree, B), Ok("nvme2n1".into()));
    std::os::unix::fs::symlink("../../nvme1n1", &link).unwrap();
    assert_eq!(ebs(&tree, B), Ok("nvme2n1".into()));
    // A link whose volume has gone leads to whatever has the name.
    tree.remove("nvme3n1");
    tree.add("nvme3n1 259:8 8388608 model=Amazon_Elastic_Block_Store serial=vol0dddddddddddddddd");
    assert_eq!(ebs(&tree, C), Err(Kind::Unavailable));
}

#[test]
fn an_instance_store_is_never_taken_whatever_it_claims() {
    let tree = Tree::of(
        "nvme0n1 259:0 2048 model=Amazon_EC2_NVMe_Instance_Storage serial=vol0bbbbbbbbbbbbbbbb
         nvme1n1 259:1 2048 model=Amazon_Elastic_Block_Store serial=vol0cccccccccccccccc",
    );
    assert_eq!(ebs(&tree, B), Err(Kind::Unavailable));
    assert_eq!(ebs(&tree, C), Ok("nvme1n1".into()));
}

#[test]
fn on_nitro_no_name_is_asked_for() {
    let tree = Tree::of(NITRO);
    tree.add("xvdf 202:80 2097152");
    assert_eq!(ebs(&tree, "vol-0dddddddddddddddd:/dev/xvdf"), Err(Kind::Unavailable));
    // Nor where only the root disk is of that kind yet.
    let tree = Tree::of(
        "nvme0n1 259:0 2048 model=Amazon_Elastic_Block_Store serial=vol0aaaaaaaaaaaaaaaa
         xvdf 202:80 2097152",
    );
    assert_eq!(ebs(&tree, B), Err(Kind::Unavailable));
}

#[test]
fn on_xen_a_volume_is_the_disk_of_its_name() {
    let tree = Tree::of(XEN);
    assert_eq!(ebs(&tree, B), Ok("xvdf".into()));
    assert_eq!(ebs(&tree, "vol-0bbbbbbbbbbbbbbbb:/dev/sdf"), Ok("xvdf".into()));
    assert_eq!(ebs(&tree, C), Ok("xvdba".into()));
    assert_eq!(ebs(&tree, "vol-0bbbbbbbbbbbbbbbb:/dev/xvdg"), Err(Kind::Unavailable));
    // A Xen host may have an instance store by NVMe.
    tree.add("nvme0n1 259:0 2048 model=Amazon_EC2_NVMe_Instance_Storage serial=AWS22A4B7C9D0E1F2A3");
    assert_eq!(ebs(&tree, B), Ok("xvdf".into()));
    // The root disk has no name that a volume could be attached under.
    for root in ["sda", "sda1", "xvda", "xvda1", "nvme0n1"] {
        assert_eq!(ebs(&tree, &format!("vol-0bbbbbbbbbbbbbbbb:/dev/{root}")), Err(Kind::InvalidArgument));
    }
}

#[test]
fn two_disks_of_one_identity_are_both_left_alone() {
    let tree = Tree::of(NITRO);
    tree.add("nvme4n1 259:9 2097152 model=Amazon_Elastic_Block_Store serial=vol0bbbbbbbbbbbbbbbb");
    let device = tree.device("ebs", B);
    let error = device.search(&device.wanted().unwrap()).unwrap_err();
    assert_eq!(error.kind, Kind::Precondition);
    assert!(error.message.contains("nvme2n1") && error.message.contains("nvme4n1"), "{error}");
}

#[test]
fn a_path_of_several_to_one_disk_is_not_another_disk() {
    let tree = Tree::of(NITRO);
    tree.add(
        "nvme2c2n1 259:10 2097152 model=Amazon_Elastic_Block_Store serial=vol0bbbbbbbbbbbbbbbb own=hidden:1",
    );
    assert_eq!(ebs(&tree, B), Ok("nvme2n1".into()));
}

#[test]
fn what_somebody_else_uses_is_refused() {
    let tree = Tree::of(NITRO);
    let refused = |identity: &str, value: &str, mounts: &str, swaps: &str| {
        let (kind, why) = refusal(&tree, &tree.device(identity, value), mounts, swaps)?;
        assert_eq!(kind, Kind::Precondition, "{why}");
        Some(why)
    };
    assert_eq!(refused("ebs", B, "", ""), None);
    let why = refused("ebs", "vol-0aaaaaaaaaaaaaaaa:/dev/xvdb", "", "").unwrap();
    assert!(why.contains("partitions"), "{why}");
    let part = "nvme-Amazon_Elastic_Block_Store_vol0aaaaaaaaaaaaaaaa-part1";
    let why = refused("by-id", part, "", "").unwrap();
    assert!(why.contains("part of another disk"), "{why}");
    for place in ["/", "/srv/data", "/var/lib/kubelet/plugins/another/globalmount"] {
        let mount = format!("40 1 259:4 / {place} rw shared:1 - ext4 /dev/nvme2n1 rw");
        let why = refused("ebs", B, &mount, "").unwrap();
        assert!(why.contains(place), "{why}");
    }
    for swap in ["/dev/nvme2n1", &format!("{}/nvme2n1", tree.path("dev").display())] {
        let swaps = format!("Filename Type Size Used Priority\n{swap} partition 1048572 0 -2\n");
        let why = refused("ebs", B, "", &swaps).unwrap();
        assert!(why.contains("swap"), "{why}");
    }
    tree.add_file("nvme2n1", "holders/dm-0", "");
    let why = refused("ebs", B, "", "").unwrap();
    assert!(why.contains("dm-0"), "{why}");
}

#[test]
fn a_disk_that_is_mounted_at_our_place_is_ours_wherever_else_it_is_seen() {
    let tree = Tree::of(NITRO);
    let mounts = "40 1 259:4 / /our/mounts/7 rw shared:1 - ext4 /dev/nvme2n1 rw\n\
                  41 1 259:4 /data /var/lib/kubelet/pods/1/mount rw shared:1 - ext4 /dev/nvme2n1 rw";
    assert_eq!(refusal(&tree, &tree.device("ebs", B), mounts, ""), None);
}

#[test]
fn on_xen_the_last_volumes_disk_is_not_the_next_ones() {
    for seq in [Some((2, 4)), None] {
        let line = |number: Option<u32>| {
            let seq = number.map_or_else(String::new, |number| format!("seq={number}"));
            format!("xvdf 202:80 2097152 {seq}")
        };
        let tree = Tree::of(&line(seq.map(|(first, _)| first)));
        let (last, next) = (tree.device("ebs", A), tree.device("ebs", B));
        assert_eq!(refusal(&tree, &last, "", ""), None);
        take(&tree, A);
        assert_eq!(refusal(&tree, &last, "", ""), None, "its own disk stays its own");
        let (kind, why) = refusal(&tree, &next, "", "").unwrap();
        assert_eq!(kind, Kind::Unavailable);
        assert!(why.contains("vol-0aaaaaaaaaaaaaaaa") && why.contains("xvdf"), "{why}");
        // It goes, and another disk comes under its name.
        tree.remove("xvdf");
        assert_eq!(ebs(&tree, B), Err(Kind::Unavailable));
        tree.add(&line(seq.map(|(_, second)| second)));
        assert_eq!(refusal(&tree, &next, "", ""), None);
        take(&tree, B);
        assert_eq!(refusal(&tree, &last, "", "").unwrap().0, Kind::Unavailable);
    }
}

#[test]
fn on_xen_a_name_is_not_free_while_something_of_the_last_disk_is_left() {
    let tree = Tree::of("xvdf 202:80 2097152 seq=2");
    take(&tree, A);
    tree.remove("xvdf");
    tree.add("xvdf 202:80 2097152 seq=4");
    let next = tree.device("ebs", B);
    // Its superblock lives on as long as it is mounted, and has the numbers that the new disk has.
    let mount = "40 1 202:80 / /our/mounts/7 rw - ext4 /dev/xvdf rw";
    let (kind, why) = refusal(&tree, &next, mount, "").unwrap();
    assert_eq!(kind, Kind::Unavailable);
    assert!(why.contains("/our/mounts/7"), "{why}");
    // It may also have had others.
    let mount = "40 1 202:81 / /our/mounts/7 rw - ext4 /dev/xvdf rw";
    assert_eq!(refusal(&tree, &next, mount, "").unwrap().0, Kind::Unavailable);
    // Taken away, and kept by whoever has it open.
    tree.add_file("xvdf", "device/state", "Closing\n");
    let (kind, why) = refusal(&tree, &next, "", "").unwrap();
    assert_eq!(kind, Kind::Unavailable);
    assert!(why.contains("closing"), "{why}");
    tree.add_file("xvdf", "device/state", "Connected\n");
    assert_eq!(refusal(&tree, &next, "", ""), None);
}

#[test]
fn on_xen_a_disk_that_went_and_came_is_not_the_one_that_is_mounted() {
    let tree = Tree::of("xvdf 202:80 2097152 seq=2");
    take(&tree, A);
    let device = tree.device("ebs", A);
    assert_eq!(device.require_same((202, 80)).unwrap(), tree.path("dev/xvdf"));
    assert_eq!(device.require_same((202, 64)).unwrap_err().kind, Kind::Unavailable);
    tree.remove("xvdf");
    tree.add("xvdf 202:80 2097152 seq=4");
    let error = device.require_same((202, 80)).unwrap_err();
    assert!(error.kind == Kind::Unavailable && error.message.contains("went away"), "{error}");
}

#[test]
fn a_note_is_true_of_one_boot() {
    let tree = Tree::of(XEN);
    take(&tree, A);
    let notes = tree.device("ebs", A).notes();
    let note = Note { appearance: "disk-2".into(), volume: "vol-0aaaaaaaaaaaaaaaa".into() };
    assert_eq!(notes.of("xvdf").unwrap(), Some(note));
    assert_eq!(notes.of("xvdba").unwrap(), None);
    let file = tree.path("notes/xvdf");
    let text = fs::read_to_string(&file).unwrap();
    let (_, rest) = text.split_once(' ').unwrap();
    fs::write(&file, format!("9f1c54f2-0000-4000-8000-000000000000 {rest}")).unwrap();
    assert_eq!(notes.of("xvdf").unwrap(), None);
    assert_eq!(refusal(&tree, &tree.device("ebs", B), "", ""), None);
}

#[test]
fn what_changed_between_the_search_and_the_open_is_not_taken() {
    let tree = Tree::of(NITRO);
    let device = tree.device("ebs", B);
    let wanted = device.wanted().unwrap();
    let searched = device.search(&wanted).unwrap();
    let opened = |minor| Disk::of_numbers(&tree.path("sys"), 259, minor).unwrap();
    device.require_unchanged(&wanted, &searched, &opened(4)).unwrap();
    // The node leads to another disk by now.
    for other in [0, 3, 5] {
        let error = device.require_unchanged(&wanted, &searched, &opened(other)).unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable, "{other}");
    }
    // The same place, and another serial.
    tree.add_file("nvme2n1", "device/serial", "vol0dddddddddddddddd\n");
    let error = device.require_unchanged(&wanted, &searched, &opened(4)).unwrap_err();
    assert!(error.kind == Kind::Unavailable && error.message.contains("changed"), "{error}");
    // The same name, numbers and serial, and yet another disk.
    let tree = Tree::of("xvdf 202:80 2097152 seq=2");
    let device = tree.device("ebs", A);
    let wanted = device.wanted().unwrap();
    let searched = device.search(&wanted).unwrap();
    tree.remove("xvdf");
    tree.add("xvdf 202:80 2097152 seq=4");
    let opened = Disk::of_numbers(&tree.path("sys"), 202, 80).unwrap();
    assert!(device.require_unchanged(&wanted, &searched, &opened).is_err());
}

#[test]
fn a_disk_that_appears_late_is_waited_for() {
    let tree = Tree::of(NITRO);
    tree.remove("nvme2n1");
    let device = tree.device("ebs", B);
    let wanted = device.wanted().unwrap();
    let folders = [tree.path("dev"), tree.path("dev/disk/by-id")];
    let (mut looks, patience) = (0, Duration::from_secs(60));
    let disk = std::thread::scope(|scope| {
        wait::until(&folders, patience, || {
            looks += 1;
            if looks == 2 {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(50));
                    tree.add(
                        "nvme4n1 259:6 2097152 model=Amazon_Elastic_Block_Store serial=vol0bbbbbbbbbbbbbbbb",
                    );
                });
            }
            device.search(&wanted)
        })
    });
    assert_eq!(disk.unwrap().name, "nvme4n1");
    assert!(looks > 2, "it was there after {looks} looks");
}

#[test]
fn a_disk_that_does_not_come_is_not_here_yet() {
    let tree = Tree::of(XEN);
    let device = tree.device("ebs", "vol-0bbbbbbbbbbbbbbbb:/dev/xvdz");
    let error = device.wait().unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(
        error.message.contains("vol-0bbbbbbbbbbbbbbbb") && error.message.contains("not appeared yet"),
        "{error}"
    );
}
