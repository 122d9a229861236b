//! Bytes from this host to EBS and back, by the daemon as it is shipped: what is copied is what was there, no more than has
//! changed is moved again, and a kill costs nothing.

use std::{fs, thread, time::Duration};

use kato_tests::{
    aws::{Aws, Instance},
    machine::{Machine, until},
};

use super::ground::{ZONE, is_empty, start};
use crate::copies::ground::{Node, ROWS, fill, holds, noise, sync};

/// A block of EBS's.
const BLOCK: u64 = 512 << 10;

/// Nothing is left of anything.
fn is_over(node: &Node<'_>, aws: &Aws, instance: &Instance) {
    node.remove_all();
    node.has_let_go();
    is_empty(aws, &[instance]);
}

#[test]
fn a_copy_in_ebs_and_one_back_are_what_their_source_was() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let instance = aws.add_instance(ZONE, "m5.large");
    let node = start(&machine, &aws, &instance);
    node.kato("volume create db -c images -s 512MiB").unwrap();
    let data = node.take("db");
    fill(&data, 1);

    // There, and the next time only what has changed since.
    node.told("volume copy db first --to-class ebs --keep");
    node.is_copied("first");
    let (puts, rows) = (aws.calls("PutSnapshotBlock"), u64::try_from(6 * ROWS).unwrap());
    assert!(
        (rows / BLOCK..(512 << 20) / BLOCK).contains(&puts),
        "{puts} blocks of a volume that holds {rows} bytes"
    );
    fs::write(data.join("rows-5"), noise(ROWS, 99)).unwrap();
    sync(&data);
    // What is kept for the next time is kept when EC2 is done with it.
    until("both moments to be kept", || {
        let kept = node.told("snapshot ls");
        let kept = kept.as_array().unwrap();
        (kept.len() == 2 && kept.iter().all(|one| one["state"] == "ready")).then_some(())
    });
    aws.forget_calls();
    node.told("volume copy db second --to-class ebs --keep");
    node.is_copied("second");
    let again = aws.calls("PutSnapshotBlock");
    println!("{puts} blocks were put first, {again} after a sixth of the rows had changed");
    assert!(again >= 1 && again < puts / 2, "{again} of {puts} blocks");
    holds(&node.take("first"), 1);
    let data = node.take("second");
    assert!(fs::read(data.join("rows-5")).unwrap() == noise(ROWS, 99));
    assert!(fs::read(data.join("rows-0")).unwrap() == noise(ROWS, 1));
    for name in ["first", "second", "db"] {
        node.give(name);
    }

    // And back: by blocks, without attaching anything.
    aws.forget_calls();
    node.told("volume copy first back --to-class images");
    node.is_copied("back");
    holds(&node.take("back"), 1);
    assert_eq!(aws.calls("AttachVolume"), 0);
    assert!(aws.calls("GetSnapshotBlock") >= rows / BLOCK, "{:?}", aws.all_calls());
    node.give("back");
    is_over(&node, &aws, &instance);
}

#[test]
fn a_copy_to_ebs_or_back_goes_on_where_a_kill_stopped_it() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let instance = aws.add_instance(ZONE, "m5.large");
    let mut node = start(&machine, &aws, &instance);
    node.kato("volume create db -c images -s 512MiB").unwrap();
    fill(&node.take("db"), 7);
    node.give("db");
    let ways = [("db", "there", "ebs", "PutSnapshotBlock"), ("there", "back", "images", "GetSnapshotBlock")];
    for (source, copy, class, action) in ways {
        node.kato(&format!("volume copy {source} {copy} --to-class {class} --no-wait")).unwrap();
        // Once before anything is moved, as a rule, and once in the middle.
        node.daemon.kill();
        node.daemon.start_again();
        until("blocks to be moved", || (aws.calls(action) > 0).then_some(()));
        node.daemon.kill();
        thread::sleep(Duration::from_millis(100));
        node.daemon.start_again();
        node.is_copied(copy);
        holds(&node.take(copy), 7);
        node.give(copy);
    }
    // One that is not wanted any more goes with all that it began.
    node.kato("volume copy db late --to-class ebs --no-wait").unwrap();
    node.kato("volume rm --yes late").unwrap();
    is_over(&node, &aws, &instance);
}

#[test]
fn a_snapshot_in_ebs_is_a_file_and_a_volume_of_this_host() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let instance = aws.add_instance(ZONE, "m5.large");
    let node = start(&machine, &aws, &instance);
    let folder = machine.folder().display().to_string();
    node.kato("volume create db -c ebs -s 1GiB").unwrap();
    fill(&node.take("db"), 3);
    node.kato("snapshot create db monday").unwrap();
    node.give("db");
    node.kato(&format!("snapshot export monday {folder}/monday.kato")).unwrap();
    let size = fs::metadata(machine.folder().join("monday.kato")).unwrap().len();
    assert!((18 << 20..96 << 20).contains(&size), "what holds nothing is not in it: {size}");
    for (name, class) in [("near", "images"), ("far", "ebs")] {
        node.told(&format!("snapshot import {folder}/monday.kato {name} -c {class}"));
        node.is_copied(name);
        holds(&node.take(name), 3);
        node.give(name);
    }
    is_over(&node, &aws, &instance);
}
