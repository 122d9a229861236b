//! The hypervisor: what attaching, growing and taking away are to a node, and what a snapshot has of a device's bytes.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    time::Duration,
};

use kato_tests::{
    aws::{Aws, Fault, Instance, Site},
    machine::{Machine, until},
};
use rustix::fs::OFlags;
use serde_json::json;

use super::{Boto, ZONE, attached, come, ids, state, text, volume};

/// Attaches and waits.
fn attach(aws: &Aws, boto: &mut Boto, volume: &str, node: &Instance, device: &str) {
    boto.ec2("attach_volume", given(volume, node, device)).unwrap();
    come(aws, || attached(aws, volume) == "attached");
}

fn given(volume: &str, node: &Instance, device: &str) -> serde_json::Value {
    json!({ "VolumeId": volume, "InstanceId": node.id(), "Device": device })
}

fn detach(aws: &Aws, boto: &mut Boto, volume: &str) {
    boto.ec2("detach_volume", json!({ "VolumeId": volume })).unwrap();
    come(aws, || state(aws, volume) == "available");
}

fn write(device: &Path, text: &str, offset: u64) {
    let file = File::options().write(true).open(device).unwrap();
    file.write_all_at(text.as_bytes(), offset).unwrap();
    file.sync_all().unwrap();
}

fn read(device: &Path, length: usize, offset: u64) -> String {
    let mut bytes = vec![0; length];
    File::open(device).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What sysfs says of a disk.
fn said(node: &Instance, disk: &str, file: &str) -> String {
    fs::read_to_string(node.sys().join("block").join(disk).join(file)).unwrap().trim().to_owned()
}

#[test]
fn an_attached_volume_is_a_device_as_nitro_shows_it_and_moves_with_its_bytes() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let (here, there) = (aws.add_instance(ZONE, "m5d.large"), aws.add_instance(ZONE, "m5.large"));
    let elsewhere = aws.add_instance("eu-central-1b", "m5.large");
    let (db, logs) = (volume(&aws, &mut boto, json!({})), volume(&aws, &mut boto, json!({})));

    let said_first = boto.ec2("attach_volume", given(&db, &here, "/dev/xvdba")).unwrap();
    assert_eq!(said_first["State"], "attaching");
    assert_eq!(
        boto.refused("attach_volume", given(&db, &here, "/dev/xvdbb")),
        "VolumeInUse",
        "not even here again"
    );
    assert_eq!(boto.refused("attach_volume", given(&db, &there, "/dev/xvdba")), "VolumeInUse");
    assert_eq!(boto.refused("attach_volume", given(&logs, &here, "/dev/xvdba")), "InvalidParameterValue");
    assert_eq!(boto.refused("attach_volume", given(&logs, &here, "/dev/nvme1n1")), "InvalidParameterValue");
    assert_eq!(
        boto.refused("attach_volume", given(&logs, &elsewhere, "/dev/xvdba")),
        "InvalidVolume.ZoneMismatch"
    );
    let nowhere = json!({ "VolumeId": logs, "InstanceId": "i-0", "Device": "/dev/xvdbc" });
    assert_eq!(boto.refused("attach_volume", nowhere), "InvalidInstanceID.NotFound");
    assert_eq!(boto.refused("delete_volume", json!({ "VolumeId": db })), "VolumeInUse");

    let device = here.wait_for(&db);
    until("the volume to be attached", || (attached(&aws, &db) == "attached").then_some(()));
    assert_eq!(device, here.dev().join("nvme2n1"), "the root and the instance store come first");
    assert!(fs::metadata(&device).unwrap().file_type().is_block_device());
    let serial = db.replace('-', "");
    let link = here.dev().join("disk/by-id").join(format!("nvme-Amazon_Elastic_Block_Store_{serial}"));
    assert_eq!(fs::canonicalize(&link).unwrap(), fs::canonicalize(&device).unwrap());
    assert_eq!(said(&here, "nvme2n1", "device/serial"), serial);
    assert_eq!(said(&here, "nvme2n1", "device/model"), "Amazon Elastic Block Store");
    assert_eq!(said(&here, "nvme2n1", "size"), (1_u64 << 21).to_string());
    assert_eq!(said(&here, "nvme1n1", "device/model"), "Amazon EC2 NVMe Instance Storage");
    let dev = said(&here, "nvme2n1", "dev");
    let by_number = here.sys().join("dev/block").join(&dev);
    assert_eq!(
        fs::canonicalize(by_number).unwrap(),
        fs::canonicalize(here.sys().join("class/block/nvme2n1")).unwrap()
    );
    assert_eq!(
        fs::canonicalize(here.sys().join("block/nvme2n1/subsystem")).unwrap(),
        here.sys().join("class/block")
    );
    assert!(here.sys().join("class/block/nvme0n1p1/partition").exists());

    write(&device, "rows", 4096);
    attach(&aws, &mut boto, &logs, &here, "/dev/xvdbb");
    assert_eq!(here.wait_for(&logs), here.dev().join("nvme3n1"));
    detach(&aws, &mut boto, &db);
    assert_eq!((here.device(&db), link.exists()), (None, false));
    attach(&aws, &mut boto, &db, &there, "/dev/xvdba");
    assert_eq!(read(&there.wait_for(&db), 4, 4096), "rows");
    assert_eq!(
        boto.refused("detach_volume", json!({ "VolumeId": db, "InstanceId": here.id() })),
        "InvalidAttachment.NotFound"
    );
    detach(&aws, &mut boto, &db);
    assert_eq!(boto.refused("detach_volume", json!({ "VolumeId": db })), "IncorrectState");

    // The lowest name that is free is another volume's now, and comes back in another order.
    detach(&aws, &mut boto, &logs);
    attach(&aws, &mut boto, &logs, &here, "/dev/xvdbb");
    assert_eq!(here.wait_for(&logs), here.dev().join("nvme2n1"));
}

#[test]
fn a_device_that_is_in_use_keeps_its_attachment_busy_until_it_is_taken_by_force() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let node = aws.add_instance(ZONE, "m5.large");
    let db = volume(&aws, &mut boto, json!({}));
    attach(&aws, &mut boto, &db, &node, "/dev/xvdba");
    let device = node.wait_for(&db);
    write(&device, "before", 0);

    // As a mounted filesystem has it.
    let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap();
    let user = File::options().read(true).write(true).custom_flags(exclusive).open(&device).unwrap();
    boto.ec2("detach_volume", json!({ "VolumeId": db })).unwrap();
    assert_eq!(boto.refused("detach_volume", json!({ "VolumeId": db })), "IncorrectState");
    until("the attachment to be busy", || (attached(&aws, &db) == "busy").then_some(()));
    assert!(device.exists());
    user.write_all_at(b"in use", 0).unwrap();
    user.sync_all().unwrap();
    boto.ec2("detach_volume", json!({ "VolumeId": db, "Force": true })).unwrap();
    until("the volume to be taken", || (state(&aws, &db) == "available").then_some(()));
    assert!(!device.exists());
    user.write_all_at(b"beyond", 0).unwrap();
    user.sync_all().unwrap();
    assert_eq!(aws.read(&db, 0, 6), b"in use", "what is written after that is lost");
    drop(user);

    // One that lets go lets the volume go.
    attach(&aws, &mut boto, &db, &node, "/dev/xvdba");
    let user = File::open(node.wait_for(&db)).unwrap();
    boto.ec2("detach_volume", json!({ "VolumeId": db })).unwrap();
    until("the attachment to be busy", || (attached(&aws, &db) == "busy").then_some(()));
    drop(user);
    until("the volume to be free", || (state(&aws, &db) == "available").then_some(()));

    // An instance that stands still has no devices, but its attachments.
    attach(&aws, &mut boto, &db, &node, "/dev/xvdba");
    let device = node.wait_for(&db);
    node.stop();
    assert!(!device.exists() && attached(&aws, &db) == "attached");
    node.start();
    assert!(node.wait_for(&db).exists());
    node.terminate();
    assert_eq!(state(&aws, &db), "available");
}

#[test]
fn a_volume_grows_in_states_and_never_shrinks() {
    let aws = Aws::start_with(Site { seed: 2, pace: 1.0 });
    let mut boto = Boto::of(&aws);
    let node = aws.add_instance(ZONE, "m5.large");
    let db = volume(&aws, &mut boto, json!({}));
    attach(&aws, &mut boto, &db, &node, "/dev/xvdba");
    let device = node.wait_for(&db);
    let size = |gib: u64| json!({ "VolumeId": db, "Size": gib });
    let no = json!({ "VolumeIds": [db] });
    assert_eq!(
        boto.refused("describe_volumes_modifications", no.clone()),
        "InvalidVolumeModification.NotFound"
    );
    let said_first = boto.ec2("modify_volume", size(2)).unwrap()["VolumeModification"].clone();
    assert_eq!(
        (&said_first["ModificationState"], &said_first["OriginalSize"]),
        (&json!("modifying"), &json!(1))
    );
    assert_eq!(boto.refused("modify_volume", size(3)), "IncorrectModificationState");
    come(&aws, || aws.volumes()[0].gib == 2);
    until("the node to see it", || {
        (said(&node, "nvme1n1", "size") == (2_u64 << 21).to_string()).then_some(())
    });
    let mut end = File::open(&device).unwrap();
    assert_eq!(std::io::Seek::seek(&mut end, std::io::SeekFrom::End(0)).unwrap(), 2 << 30);
    until("the modification to end", || {
        aws.pass_time(Duration::from_secs(1));
        let answer = boto.ec2("describe_volumes_modifications", no.clone()).unwrap();
        (answer["VolumesModifications"][0]["ModificationState"] == "completed").then_some(())
    });
    assert_eq!(boto.refused("modify_volume", size(1)), "InvalidParameterValue", "it never shrinks");
    for gib in 3..6 {
        boto.ec2("modify_volume", size(gib)).unwrap();
        aws.pass_time(Duration::from_secs(60));
    }
    assert_eq!(boto.refused("modify_volume", size(9)), "VolumeModificationRateExceeded", "four a day");
    aws.pass_time(Duration::from_secs(25 * 3600));
    boto.ec2("modify_volume", size(9)).unwrap();
    aws.pass_time(Duration::from_secs(60));
    aws.fault("ModifyVolume", 1, Fault::Cooldown);
    assert_eq!(boto.refused("modify_volume", size(10)), "VolumeModificationRateExceeded");
}

#[test]
fn a_snapshot_has_the_bytes_of_its_moment_and_becomes_a_volume() {
    // Slow enough for a snapshot to be pending for as long as it has to be.
    let aws = Aws::start_with(Site { seed: 3, pace: 10.0 });
    let mut boto = Boto::of(&aws);
    let node = aws.add_instance(ZONE, "m7i.large");
    let db = volume(&aws, &mut boto, json!({}));
    attach(&aws, &mut boto, &db, &node, "/dev/xvdba");
    let device = node.wait_for(&db);
    write(&device, "then", 1 << 20);
    let tags = json!([{ "ResourceType": "snapshot", "Tags": [{ "Key": "name", "Value": "nightly" }] }]);
    let snapshot = boto.ec2("create_snapshot", json!({ "VolumeId": db, "TagSpecifications": tags })).unwrap();
    let id = text(&snapshot["SnapshotId"]);
    write(&device, "now!", 1 << 20);
    assert_eq!(snapshot["State"], "pending");
    let from =
        json!({ "AvailabilityZone": "eu-central-1b", "SnapshotId": id, "Size": 2, "VolumeType": "gp3" });
    assert_eq!(boto.refused("create_volume", from.clone()), "IncorrectState");
    for _ in 0..4 {
        boto.ec2("create_snapshot", json!({ "VolumeId": db })).unwrap();
    }
    assert_eq!(boto.refused("create_snapshot", json!({ "VolumeId": db })), "ConcurrentSnapshotLimitExceeded");
    aws.pass_time(Duration::from_secs(100));
    assert!(aws.snapshots().iter().all(|it| it.state == "completed"));
    let found = json!({ "Filters": [{ "Name": "tag:name", "Values": ["nightly"] }], "OwnerIds": ["self"] });
    assert_eq!(
        ids(&boto.ec2("describe_snapshots", found).unwrap()["Snapshots"], "SnapshotId"),
        std::slice::from_ref(&id)
    );
    let page = boto.ec2("describe_snapshots", json!({ "MaxResults": 5 })).unwrap();
    assert_eq!((page["Snapshots"].as_array().unwrap().len(), page["NextToken"].is_null()), (5, true));
    let fast = json!({ "AvailabilityZones": ["eu-central-1b"], "SourceSnapshotIds": [id] });
    assert_eq!(
        boto.ec2("enable_fast_snapshot_restores", fast).unwrap()["Successful"][0]["State"],
        "enabling"
    );

    let small = json!({ "AvailabilityZone": ZONE, "SnapshotId": id, "Size": 1, "VolumeType": "io2" });
    assert_eq!(boto.refused("create_volume", small), "InvalidParameterValue", "too small for its type");
    let copy = text(&boto.ec2("create_volume", from).unwrap()["VolumeId"]);
    boto.ec2("delete_snapshot", json!({ "SnapshotId": id })).unwrap();
    assert_eq!(boto.refused("delete_snapshot", json!({ "SnapshotId": id })), "InvalidSnapshot.NotFound");
    assert_eq!(aws.read(&copy, 1 << 20, 4), b"then");
    assert_eq!(read(&device, 4, 1 << 20), "now!");
    assert_eq!(aws.volumes().iter().find(|it| it.id == copy).unwrap().gib, 2);
}

#[test]
fn two_instances_share_what_is_made_for_it_and_a_type_has_room_for_so_many() {
    let aws = Aws::start_with(Site { seed: 5, pace: 0.001 });
    let mut boto = Boto::of(&aws);
    let (here, there) = (aws.add_instance(ZONE, "m5d.large"), aws.add_instance(ZONE, "m5d.large"));
    let shared = json!({ "VolumeType": "io2", "Size": 4, "Iops": 100, "MultiAttachEnabled": true });
    let shared = volume(&aws, &mut boto, shared);
    attach(&aws, &mut boto, &shared, &here, "/dev/xvdba");
    boto.ec2("attach_volume", given(&shared, &there, "/dev/xvdba")).unwrap();
    write(&here.wait_for(&shared), "rows", 0);
    assert_eq!(read(&there.wait_for(&shared), 4, 0), "rows");
    assert_eq!(boto.refused("detach_volume", json!({ "VolumeId": shared })), "InvalidParameterCombination");

    // 28, of which the root disk, a network interface and the instance store have three.
    for letter in 'b'..='y' {
        let more = volume(&aws, &mut boto, json!({}));
        boto.ec2("attach_volume", given(&more, &here, &format!("/dev/xvdb{letter}"))).unwrap();
    }
    let more = volume(&aws, &mut boto, json!({}));
    assert_eq!(boto.refused("attach_volume", given(&more, &here, "/dev/xvdca")), "AttachmentLimitExceeded");
}

#[test]
fn it_is_reached_inside_of_a_machine_and_nothing_of_it_stays() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let ask =
        |aws: &Aws| machine.shell(&format!("curl -s -o /dev/null -w '%{{http_code}}' {}", aws.endpoint()));
    assert_eq!(String::from_utf8_lossy(&ask(&aws).stdout), "400");
    assert!(
        std::net::TcpStream::connect(aws.endpoint().trim_start_matches("http://")).is_err(),
        "nowhere else"
    );
    drop(aws);

    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let node = aws.add_instance(ZONE, "m5.large");
    let db = volume(&aws, &mut boto, json!({}));
    attach(&aws, &mut boto, &db, &node, "/dev/xvdba");
    let device = node.wait_for(&db);
    let tree = node.tree().to_owned();
    let inside = machine.shell(&format!("dd if={} bs=512 count=1 of=/dev/null", device.display()));
    assert!(inside.status.success(), "a machine that began before sees the device");
    let number = said(&node, "nvme1n1", "dev");
    let over = format!("/sys/dev/block/{number}/loop/backing_file");
    let named = fs::read_to_string(&over).unwrap();
    assert!(named.contains(&db));
    drop((node, aws));
    assert!(!tree.exists());
    until("the loop device to be gone", || {
        (fs::read_to_string(&over).ok().as_ref() != Some(&named)).then_some(())
    });
}
