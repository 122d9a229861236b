//! The daemon is killed at any moment while volumes at Packet's are made, used, cut and deleted; afterwards the project agrees
//! with the records. A few kills here, a hundred with `cargo xtask soak packet`.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use kato_tests::{
    daemon::binary,
    machine::{Machine, until},
    packet::Packet,
};
use serde_json::{Value, json};

use super::ground::{FACILITY, is_empty, start};
use crate::docker::wire::Wire;

/// How many kills there are.
fn kills() -> u64 {
    std::env::var("KATO_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

/// One that has a life of its own: whatever fails is tried again, as dockerd's users would.
fn live(machine: &Machine, wire: &Wire, number: u64, over: &AtomicBool) {
    let say = |operation: &str, body: Value| {
        // A daemon that was killed answers nothing.
        let answer = wire.ask(&format!("/VolumeDriver.{operation}"), &format!("{body}\n")).ok().flatten();
        answer.is_some_and(|answer| answer.word() == "200")
    };
    let kato = |words: &str| {
        let line =
            format!("{} --config {}/kato.toml --timeout 15s", binary().display(), machine.folder().display());
        machine.shell(&format!("{line} {words}")).status.success()
    };
    let mut round = 0;
    while !over.load(Ordering::Relaxed) {
        let (name, cut, copy) =
            (format!("v{number}-{}", round % 2), format!("s{number}"), format!("c{number}"));
        say("Create", json!({"Name": name, "Opts": {"class": "packet", "size": "1GiB"}}));
        if say("Mount", json!({"Name": name, "ID": "one"})) {
            say("Unmount", json!({"Name": name, "ID": "one"}));
        }
        kato(&format!("snapshot create {name} {cut}"));
        say("Create", json!({"Name": copy, "Opts": {"class": "packet", "from": format!("snapshot:{cut}")}}));
        kato(&format!("snapshot rm --yes {cut}"));
        say("Remove", json!({"Name": name}));
        say("Remove", json!({"Name": copy}));
        round += 1;
    }
}

#[test]
fn nothing_is_lost_or_left_by_a_daemon_that_is_killed() {
    let machine = Machine::start();
    let packet = Packet::start_in(&machine);
    let device = packet.add_device(FACILITY, "node-a");
    let mut node = start(&machine, &packet, &device);
    node.kato("volume create kept -c packet -s 1GiB").unwrap();
    fs::write(node.take("kept").join("rows"), "kept").unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..3 {
            let (wire, over, machine) = (node.wire(), &over, &machine);
            scope.spawn(move || live(machine, &wire, number, over));
        }
        for kill in 0..kills() {
            // Spread over what a round takes.
            thread::sleep(Duration::from_millis(700 + (kill * 1861) % 4300));
            node.daemon.kill();
            node.daemon.start_again();
        }
        over.store(true, Ordering::Relaxed);
    });

    // What is wished is done, and then the project has what the records have.
    until("everything to be at rest", || {
        let all = node.told("volume ls");
        all.as_array().unwrap().iter().all(|one| one["state"] == "ready").then_some(())
    });
    for name in node.names("volume").iter().filter(|name| *name != "kept") {
        node.wire().call("Unmount", json!({"Name": name, "ID": "one"}));
    }
    until("the project to agree with the records", || {
        let counts = [packet.volumes().len(), packet.snapshots().len()];
        let attached = packet.volumes().iter().filter(|volume| !volume.devices.is_empty()).count();
        let known = ["volume", "snapshot"].map(|noun| node.names(noun).len());
        (counts == known && attached == 1).then_some(())
    });
    assert_eq!(fs::read_to_string(node.take("kept").join("rows")).unwrap(), "kept");
    // Held twice by the same, it is given back once for each.
    node.give("kept");
    node.give("kept");
    node.remove_all();
    is_empty(&packet, &[&node]);
}
