//! Zeroes that the kernel wishes for. A filesystem believes that a place is zero once it has punched it out, and writes
//! nothing there before somebody reads it.

use std::{fs, io::Write as _, path::Path};

use kato_tests::{ceph::Cluster, machine::Machine};
use serde_json::json;

use super::ground::{Node, is_empty};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

#[test]
fn what_is_wished_to_be_zero_is_zero_however_small_it_is() {
    let machine = Machine::start();
    let cluster = Cluster::start_in(&machine);
    let node = Node::start(&machine, &cluster);
    node.make("db", json!({"size": "512MiB"}));
    let data = node.take("db", "one");
    let mut file = fs::File::create(data.join("rows")).unwrap();
    file.write_all(&vec![0xAA; 16 << 20]).and_then(|()| file.sync_all()).unwrap();
    let inside = Path::new("/").join(data.strip_prefix(machine.path("/")).unwrap());
    let mut at = place(&node.run(&format!("filefrag -v -b4096 {}/rows", inside.display())));

    // Less than an object of the cluster, several, and what begins and ends within one.
    let (device, _) = node.device();
    let read = |at: u64, length: u64| {
        let blocks = format!("skip={} count={}", at / (4 * KIB), length / (4 * KIB));
        node.run(&format!(
            "dd if={device} bs=4k {blocks} iflag=direct status=none | od -An -v -tx1 | tr -d ' \\n'"
        ))
    };
    for length in [4 * KIB, 32 * KIB, 64 * KIB, MIB, 5 * MIB] {
        node.run(&format!("fallocate --punch-hole --offset {at} --length {length} {device}"));
        assert!(read(at, length).bytes().all(|digit| digit == b'0'), "{length} bytes at {at} are not zero");
        for beside in [at - 4 * KIB, at + length] {
            assert!(read(beside, 4 * KIB).bytes().all(|digit| digit == b'a'), "{beside} is beside {length}");
        }
        at += length + MIB;
    }

    drop(file);
    node.give("db", "one");
    node.remove("db");
    node.has_let_go();
    is_empty(&cluster);
}

/// Where on the device the first extent of a file lies, a block after its beginning: `0: 0.. 4095: 72.. 4167: 4096: …`.
/// All of it has to be in that one.
fn place(listing: &str) -> u64 {
    let first = listing.lines().find(|line| line.trim_start().starts_with("0:")).unwrap();
    let numbers: Vec<u64> = first
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    assert!(numbers[5] >= 3072, "the file is in pieces: {listing}");
    (numbers[3] + 1) * 4 * KIB
}
