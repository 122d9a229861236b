//! What goes wrong on command, as Amazon's own client is told of it.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use kato_tests::{
    aws::{Aws, Fault},
    machine::until,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Boto, ZONE, attached, state, text, volume};

#[test]
fn calls_fail_as_often_as_is_asked_and_then_no_more() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let all = json!({});
    aws.fault("DescribeVolumes", 2, Fault::Throttled);
    aws.fault("DescribeVolumes", 1, Fault::ServerError);
    aws.fault("DescribeVolumes", 1, Fault::Unavailable);
    aws.fault("DescribeVolumes", 1, Fault::Refused("UnauthorizedOperation", "You are not authorized."));
    aws.fault("DescribeVolumes", 1, Fault::ExpiredCredentials);
    let codes: Vec<_> = (0..6).map(|_| boto.ec2("describe_volumes", all.clone()).unwrap_err()).collect();
    let codes: Vec<_> = codes.iter().map(|no| (no.code.as_str(), no.status)).collect();
    let expected = [
        ("RequestLimitExceeded", 503),
        ("RequestLimitExceeded", 503),
        ("InternalError", 500),
        ("Unavailable", 503),
        ("UnauthorizedOperation", 400),
        ("RequestExpired", 400),
    ];
    assert_eq!(codes, expected);
    assert!(boto.ec2("describe_volumes", all.clone()).is_ok() && aws.faults_left("DescribeVolumes") == 0);

    boto.wait_for(1);
    aws.fault("DescribeVolumes", 1, Fault::Silence);
    let begun = Instant::now();
    assert!(boto.ec2("describe_volumes", all.clone()).unwrap_err().message.contains("timeout"));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    boto.wait_for(60);
    aws.fault("DescribeVolumes", 1, Fault::Slow(Duration::from_millis(500)));
    let begun = Instant::now();
    assert!(
        boto.ec2("describe_volumes", all.clone()).is_ok() && begun.elapsed() > Duration::from_millis(500)
    );

    aws.fault_by_chance("*", 0.5, Fault::Throttled);
    let failed = (0..60).filter(|_| boto.ec2("describe_volumes", all.clone()).is_err()).count();
    assert!((15..=45).contains(&failed), "{failed} of 60");
    aws.heal();
    assert!((0..20).all(|_| boto.ec2("describe_volumes", all.clone()).is_ok()));
    assert_eq!(aws.calls("DescribeVolumes"), 6 + 1 + 1 + 1 + 60 + 20);
    let no = {
        aws.fault("ListSnapshotBlocks", 1, Fault::Throttled);
        boto.ebs("list_snapshot_blocks", json!({ "SnapshotId": "snap-1" })).unwrap_err()
    };
    assert_eq!((no.code.as_str(), no.reason.as_str()), ("RequestThrottledException", "ACCOUNT_THROTTLED"));
}

#[test]
fn an_answer_is_lost_after_its_effect() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let given = json!({ "AvailabilityZone": ZONE, "Size": 1, "ClientToken": "db" });
    aws.fault("CreateVolume", 1, Fault::LostAnswer);
    aws.fault("CreateVolume", 1, Fault::DoneButServerError);
    let no = boto.ec2("create_volume", given.clone()).unwrap_err();
    assert_eq!(no.status, 0, "nothing was heard: {}", no.message);
    assert_eq!(aws.volumes().len(), 1, "but it was done");
    assert_eq!(boto.ec2("create_volume", given.clone()).unwrap_err().status, 500);
    let id = text(&boto.ec2("create_volume", given).unwrap()["VolumeId"]);
    assert_eq!((aws.volumes().len(), aws.volumes()[0].id.as_str()), (1, id.as_str()));
}

#[test]
fn a_volume_is_not_found_for_a_while_and_another_ends_in_error() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    aws.fault("CreateVolume", 1, Fault::NotFoundFor(Duration::from_secs(3)));
    aws.fault("CreateVolume", 1, Fault::FailsLater);
    let given = json!({ "AvailabilityZone": ZONE, "Size": 1 });
    let id = text(&boto.ec2("create_volume", given.clone()).unwrap()["VolumeId"]);
    let one = json!({ "VolumeIds": [id] });
    assert_eq!(boto.refused("describe_volumes", one.clone()), "InvalidVolume.NotFound");
    assert_eq!(boto.ec2("describe_volumes", json!({})).unwrap()["Volumes"], json!([]));
    assert_eq!(aws.volumes().len(), 1, "it is there");
    aws.pass_time(Duration::from_secs(3));
    assert!(boto.ec2("describe_volumes", one).is_ok());
    let failed = text(&boto.ec2("create_volume", given).unwrap()["VolumeId"]);
    until("the volume to fail", || (state(&aws, &failed) == "error").then_some(()));
    boto.ec2("delete_volume", json!({ "VolumeId": failed })).unwrap();
    aws.impair(&id, true);
    let said = boto.ec2("describe_volume_status", json!({ "VolumeIds": [id] })).unwrap();
    assert_eq!(said["VolumeStatuses"][0]["VolumeStatus"]["Status"], "impaired");
}

#[test]
fn attachments_stick_until_they_are_told_to_go_on() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let node = aws.add_instance(ZONE, "m5.large");
    let db = volume(&aws, &mut boto, json!({}));
    let attach = json!({ "VolumeId": db, "InstanceId": node.id(), "Device": "/dev/xvdba" });
    let detach = |force: bool| json!({ "VolumeId": db, "Force": force });
    let free = || until("the volume to be free", || (state(&aws, &db) == "available").then_some(()));

    aws.fault("AttachVolume", 1, Fault::Stuck);
    boto.ec2("attach_volume", attach.clone()).unwrap();
    aws.pass_time(Duration::from_secs(3600));
    assert_eq!((attached(&aws, &db).as_str(), node.device(&db)), ("attaching", None));
    aws.unstick();
    until("the volume to be attached", || (attached(&aws, &db) == "attached").then_some(()));
    aws.fault("DetachVolume", 1, Fault::Stuck);
    boto.ec2("detach_volume", detach(false)).unwrap();
    aws.pass_time(Duration::from_secs(3600));
    assert_eq!(attached(&aws, &db), "detaching");
    assert_eq!(boto.refused("detach_volume", detach(false)), "IncorrectState");
    boto.ec2("detach_volume", detach(true)).unwrap();
    free();

    // What sticks at the beginning can be given up.
    aws.fault("AttachVolume", 1, Fault::Stuck);
    boto.ec2("attach_volume", attach).unwrap();
    boto.ec2("detach_volume", detach(false)).unwrap();
    free();
}

#[test]
fn a_block_comes_with_the_checksum_of_another() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let id = text(&boto.ebs("start_snapshot", json!({ "VolumeSize": 1 })).unwrap()["SnapshotId"]);
    let bytes = vec![b'a'; 512 << 10];
    let put = json!({ "SnapshotId": id, "BlockIndex": 3, "BlockData": BASE64.encode(&bytes), "DataLength": bytes.len(),
                      "Checksum": BASE64.encode(Sha256::digest(&bytes)), "ChecksumAlgorithm": "SHA256" });
    aws.fault("PutSnapshotBlock", 1, Fault::WrongChecksum);
    assert_eq!(boto.ebs("put_snapshot_block", put.clone()).unwrap_err().reason, "INVALID_BLOCK");
    boto.ebs("put_snapshot_block", put).unwrap();
    aws.fault("CompleteSnapshot", 1, Fault::LostAnswer);
    let complete = json!({ "SnapshotId": id, "ChangedBlocksCount": 1 });
    assert_eq!(boto.ebs("complete_snapshot", complete.clone()).unwrap_err().status, 0);
    boto.ebs("complete_snapshot", complete).unwrap();
    aws.pass_time(Duration::from_secs(10));
    let blocks = loop {
        let page = boto.ebs("list_snapshot_blocks", json!({ "SnapshotId": id })).unwrap();
        if page["Blocks"] != json!([]) {
            break page["Blocks"].clone();
        }
    };
    let get = json!({ "SnapshotId": id, "BlockIndex": 3, "BlockToken": blocks[0]["BlockToken"] });
    aws.fault("GetSnapshotBlock", 1, Fault::WrongChecksum);
    let mut is_right = || {
        let block = boto.ebs("get_snapshot_block", get.clone()).unwrap();
        let bytes = BASE64.decode(text(&block["BlockData"])).unwrap();
        text(&block["Checksum"]) == BASE64.encode(Sha256::digest(bytes))
    };
    assert_eq!((is_right(), is_right()), (false, true));
}
