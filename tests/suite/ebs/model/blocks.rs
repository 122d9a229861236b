//! The EBS direct APIs: blocks that are put together become a snapshot, and a snapshot is read and compared as blocks.

use std::{fs::File, os::unix::fs::FileExt as _, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use kato_tests::{
    aws::{Aws, Fault, Site},
    machine::until,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Boto, ZONE, merge, text, volume};

const BLOCK: usize = 512 << 10;

fn start(boto: &mut Boto, more: Value) -> String {
    let mut given = json!({ "VolumeSize": 1, "Timeout": 10 });
    merge(&mut given, more);
    text(&boto.ebs("start_snapshot", given).unwrap()["SnapshotId"])
}

fn put(snapshot: &str, index: u32, bytes: &[u8]) -> Value {
    json!({
        "SnapshotId": snapshot, "BlockIndex": index, "BlockData": BASE64.encode(bytes), "DataLength": bytes.len(),
        "Checksum": BASE64.encode(Sha256::digest(bytes)), "ChecksumAlgorithm": "SHA256",
    })
}

/// Puts blocks of these letters, and answers the checksum over their checksums.
fn put_all(boto: &mut Boto, snapshot: &str, blocks: &[(u32, u8)]) -> String {
    let mut sum = Sha256::new();
    for (index, letter) in blocks {
        let bytes = vec![*letter; BLOCK];
        let said = boto.ebs("put_snapshot_block", put(snapshot, *index, &bytes)).unwrap();
        assert_eq!(text(&said["Checksum"]), BASE64.encode(Sha256::digest(&bytes)));
        sum.update(Sha256::digest(&bytes));
    }
    BASE64.encode(sum.finalize())
}

fn complete(aws: &Aws, boto: &mut Boto, snapshot: &str, count: usize, checksum: &str) {
    let given = json!({ "SnapshotId": snapshot, "ChangedBlocksCount": count, "Checksum": checksum,
                        "ChecksumAlgorithm": "SHA256", "ChecksumAggregationMethod": "LINEAR" });
    assert_eq!(boto.ebs("complete_snapshot", given.clone()).unwrap()["Status"], "pending");
    until("the snapshot to be completed", || {
        aws.snapshots().iter().any(|it| it.id == snapshot && it.state == "completed").then_some(())
    });
    assert_eq!(
        boto.ebs("complete_snapshot", given).unwrap()["Status"],
        "completed",
        "told again after a lost answer"
    );
}

/// Every block of a list, page by page; and how many pages were empty.
fn all(boto: &mut Boto, method: &str, name: &str, mut given: Value) -> (Vec<Value>, usize) {
    let (mut blocks, mut empty) = (Vec::new(), 0);
    loop {
        let page = boto.ebs(method, given.clone()).unwrap();
        assert_eq!(page["BlockSize"], BLOCK);
        let found = page[name].as_array().unwrap();
        empty += usize::from(found.is_empty() && !page["NextToken"].is_null());
        assert!(found.len() <= 100);
        blocks.extend(found.iter().cloned());
        let Some(token) = page["NextToken"].as_str() else { return (blocks, empty) };
        given["NextToken"] = token.into();
    }
}

fn reason(boto: &mut Boto, method: &str, given: Value) -> String {
    let no = boto.ebs(method, given).unwrap_err();
    assert_eq!((no.code.as_str(), no.status), ("ValidationException", 400), "{}", no.message);
    no.reason
}

#[test]
fn blocks_that_are_put_together_become_a_snapshot_and_a_volume() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let given = json!({ "VolumeSize": 1, "ClientToken": "copy", "Description": "of db" });
    let first = boto.ebs("start_snapshot", given.clone()).unwrap();
    assert_eq!(boto.ebs("start_snapshot", given.clone()).unwrap(), first);
    let mut other = given;
    merge(&mut other, json!({ "VolumeSize": 2 }));
    assert_eq!(boto.ebs("start_snapshot", other).unwrap_err().code, "ConflictException");
    let id = text(&first["SnapshotId"]);
    assert_eq!((&first["Status"], &first["BlockSize"]), (&json!("pending"), &json!(BLOCK)));
    assert_eq!(reason(&mut boto, "list_snapshot_blocks", json!({ "SnapshotId": id })), "INVALID_SNAPSHOT_ID");

    let sum = put_all(&mut boto, &id, &[(0, b'a'), (7, b'b'), (2047, 0)]);
    let wrong = {
        let mut wrong = put(&id, 1, &vec![b'c'; BLOCK]);
        wrong["Checksum"] = BASE64.encode([0; 32]).into();
        wrong
    };
    assert_eq!(reason(&mut boto, "put_snapshot_block", wrong), "INVALID_BLOCK");
    assert_eq!(
        reason(&mut boto, "put_snapshot_block", put(&id, 1, &[0; 512])),
        "INVALID_BLOCK",
        "always whole"
    );
    assert_eq!(
        reason(&mut boto, "put_snapshot_block", put(&id, 2048, &vec![0; BLOCK])),
        "INVALID_PARAMETER_VALUE"
    );
    let few = json!({ "SnapshotId": id, "ChangedBlocksCount": 2 });
    assert_eq!(reason(&mut boto, "complete_snapshot", few), "INVALID_PARAMETER_VALUE");
    let wrong = json!({ "SnapshotId": id, "ChangedBlocksCount": 3, "Checksum": BASE64.encode([0; 32]),
                        "ChecksumAlgorithm": "SHA256", "ChecksumAggregationMethod": "LINEAR" });
    assert_eq!(reason(&mut boto, "complete_snapshot", wrong), "INVALID_PARAMETER_VALUE");
    complete(&aws, &mut boto, &id, 3, &sum);
    assert_eq!(reason(&mut boto, "put_snapshot_block", put(&id, 1, &vec![0; BLOCK])), "INVALID_SNAPSHOT_ID");

    let (blocks, _) = all(&mut boto, "list_snapshot_blocks", "Blocks", json!({ "SnapshotId": id }));
    let indexes: Vec<_> = blocks.iter().map(|it| it["BlockIndex"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 7, 2047], "a block of zeroes that was put is a block");
    let get = |index: usize, token: &Value| json!({ "SnapshotId": id, "BlockIndex": indexes[index], "BlockToken": token });
    let block = boto.ebs("get_snapshot_block", get(1, &blocks[1]["BlockToken"])).unwrap();
    let bytes = BASE64.decode(text(&block["BlockData"])).unwrap();
    assert_eq!((bytes.len(), bytes[0], block["DataLength"].as_u64()), (BLOCK, b'b', Some(BLOCK as u64)));
    assert_eq!(text(&block["Checksum"]), BASE64.encode(Sha256::digest(&bytes)));
    assert_eq!(
        reason(&mut boto, "get_snapshot_block", get(0, &blocks[1]["BlockToken"])),
        "INVALID_BLOCK_TOKEN"
    );
    aws.pass_time(Duration::from_secs(8 * 24 * 3600));
    assert_eq!(
        reason(&mut boto, "get_snapshot_block", get(1, &blocks[1]["BlockToken"])),
        "INVALID_BLOCK_TOKEN",
        "old"
    );

    let copy = volume(&aws, &mut boto, json!({ "SnapshotId": id }));
    assert_eq!(
        (aws.read(&copy, 7 * BLOCK as u64, 1), aws.read(&copy, BLOCK as u64, 1)),
        (vec![b'b'], vec![0])
    );
}

#[test]
fn two_snapshots_of_one_line_are_compared_and_others_are_not() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let node = aws.add_instance(ZONE, "m5.large");
    let db = volume(&aws, &mut boto, json!({}));
    boto.ec2("attach_volume", json!({ "VolumeId": db, "InstanceId": node.id(), "Device": "/dev/xvdba" }))
        .unwrap();
    let device = File::options().write(true).open(node.wait_for(&db)).unwrap();
    let write = |block: usize, letter: u8| {
        device.write_all_at(&[letter; 4096], (block * BLOCK) as u64).unwrap();
        device.sync_all().unwrap();
    };
    write(1, b'a');
    write(5, b'a');
    let snapshot = |boto: &mut Boto| {
        let id = text(&boto.ec2("create_snapshot", json!({ "VolumeId": db })).unwrap()["SnapshotId"]);
        aws.pass_time(Duration::from_secs(10));
        id
    };
    let first = snapshot(&mut boto);
    write(5, b'b');
    write(9, b'b');
    let second = snapshot(&mut boto);

    let changed = |boto: &mut Boto, first: &str, second: &str| {
        let given = json!({ "FirstSnapshotId": first, "SecondSnapshotId": second });
        let (blocks, _) = all(boto, "list_changed_blocks", "ChangedBlocks", given);
        let seen = blocks.iter().map(|it| {
            (
                it["BlockIndex"].as_u64().unwrap(),
                it["FirstBlockToken"].is_string(),
                it["SecondBlockToken"].is_string(),
            )
        });
        seen.collect::<Vec<_>>()
    };
    assert_eq!(changed(&mut boto, &first, &second), [(5, true, true), (9, false, true)]);
    assert_eq!(changed(&mut boto, &second, &first), [(5, true, true), (9, true, false)], "one that is gone");

    // One that is put together upon another has the other's blocks, and is of its line.
    let third = start(&mut boto, json!({ "ParentSnapshotId": second }));
    let sum = put_all(&mut boto, &third, &[(9, b'c'), (2, b'c')].map(|block| block));
    // In the order of their indexes, not of their writing.
    let right = {
        let sums = [2, 9].map(|_| Sha256::digest(vec![b'c'; BLOCK]));
        BASE64.encode(Sha256::digest(sums.concat()))
    };
    assert_eq!(sum, right, "both blocks are alike");
    complete(&aws, &mut boto, &third, 2, &right);
    assert_eq!(changed(&mut boto, &second, &third), [(2, false, true), (9, true, true)]);
    let (blocks, _) = all(&mut boto, "list_snapshot_blocks", "Blocks", json!({ "SnapshotId": third }));
    assert_eq!(blocks.iter().map(|it| it["BlockIndex"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 5, 9]);

    let other = start(&mut boto, json!({}));
    complete(&aws, &mut boto, &other, 0, &BASE64.encode(Sha256::digest([])));
    let unrelated = json!({ "FirstSnapshotId": first, "SecondSnapshotId": other });
    assert_eq!(reason(&mut boto, "list_changed_blocks", unrelated), "UNRELATED_SNAPSHOTS");
    let both = json!({ "VolumeSize": 1, "ParentSnapshotId": first, "Encrypted": true });
    assert_eq!(reason(&mut boto, "start_snapshot", both), "INVALID_PARAMETER_VALUE");
    let gone =
        boto.ebs("start_snapshot", json!({ "VolumeSize": 1, "ParentSnapshotId": "snap-0" })).unwrap_err();
    assert_eq!(
        (gone.code.as_str(), gone.reason.as_str(), gone.status),
        ("ResourceNotFoundException", "SNAPSHOT_NOT_FOUND", 404)
    );
}

#[test]
fn long_lists_come_in_pages_of_which_some_are_empty() {
    let aws = Aws::start_with(Site { seed: 2, pace: 0.001 });
    let mut boto = Boto::of(&aws);
    let node = aws.add_instance(ZONE, "m5.large");
    let db = volume(&aws, &mut boto, json!({ "Size": 2 }));
    boto.ec2("attach_volume", json!({ "VolumeId": db, "InstanceId": node.id(), "Device": "/dev/xvdba" }))
        .unwrap();
    let device = File::options().write(true).open(node.wait_for(&db)).unwrap();
    for block in (0..4096).step_by(2) {
        device.write_all_at(b"x", block * BLOCK as u64).unwrap();
    }
    device.sync_all().unwrap();
    let id = text(&boto.ec2("create_snapshot", json!({ "VolumeId": db })).unwrap()["SnapshotId"]);
    aws.pass_time(Duration::from_secs(10));
    let given = json!({ "SnapshotId": id, "MaxResults": 100 });
    let (blocks, empty) = all(&mut boto, "list_snapshot_blocks", "Blocks", given);
    let indexes: Vec<_> = blocks.iter().map(|it| it["BlockIndex"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (0..4096).step_by(2).collect::<Vec<_>>());
    assert!(empty > 0, "an empty page with a successor came by");

    let given = json!({ "SnapshotId": id, "MaxResults": 100, "StartingBlockIndex": 4001 });
    let (blocks, _) = all(&mut boto, "list_snapshot_blocks", "Blocks", given);
    assert_eq!((blocks.len(), blocks[0]["BlockIndex"].as_u64()), (47, Some(4002)), "listed on from there");
    aws.fault("ListSnapshotBlocks", 1, Fault::ExpiredToken);
    let first = boto.ebs("list_snapshot_blocks", json!({ "SnapshotId": id, "MaxResults": 100 })).unwrap();
    let next = json!({ "SnapshotId": id, "MaxResults": 100, "NextToken": first["NextToken"] });
    assert_eq!(reason(&mut boto, "list_snapshot_blocks", next), "INVALID_PAGE_TOKEN");
    for (name, value) in [("MaxResults", 99), ("MaxResults", 10_001)] {
        let mut given = json!({ "SnapshotId": id });
        given[name] = value.into();
        let no = boto.ebs("list_snapshot_blocks", given).unwrap_err();
        assert!(no.reason == "INVALID_PARAMETER_VALUE" || no.message.contains("valid"), "{no:?}");
    }
}

#[test]
fn a_snapshot_that_nobody_completes_fails() {
    let aws = Aws::start();
    let mut boto = Boto::of(&aws);
    let id = start(&mut boto, json!({}));
    aws.pass_time(Duration::from_secs(9 * 60));
    put_all(&mut boto, &id, &[(0, b'a')]);
    aws.pass_time(Duration::from_secs(9 * 60));
    assert_eq!(aws.snapshots()[0].state, "pending", "the last block begins its time anew");
    aws.pass_time(Duration::from_secs(60));
    assert_eq!(aws.snapshots()[0].state, "error");
    assert_eq!(reason(&mut boto, "put_snapshot_block", put(&id, 1, &vec![0; BLOCK])), "INVALID_SNAPSHOT_ID");
    let given = json!({ "SnapshotId": id, "ChangedBlocksCount": 1 });
    assert_eq!(reason(&mut boto, "complete_snapshot", given), "INVALID_SNAPSHOT_ID");
    boto.ec2("delete_snapshot", json!({ "SnapshotId": id })).unwrap();
}
