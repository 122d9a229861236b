//! The daemon is killed at any moment while volumes of a real cluster are made, used, cut, copied and deleted; afterwards
//! images, trash, snapshots and servers agree with the records. A few kills here, a hundred with `cargo xtask soak ceph`.

#![expect(clippy::disallowed_methods, reason = "the number of kills comes from `cargo xtask soak`")]

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use kato_tests::{ceph::Cluster, machine::Machine, machine::until};
use serde_json::{Value, json};

use super::ground::{Node, is_empty};
use crate::docker::wire::Wire;

/// How many kills there are.
fn kills() -> u64 {
    std::env::var("KATO_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// One that has a life of its own: whatever fails is tried again, as dockerd's users would.
fn live(wire: &Wire, number: u64, over: &AtomicBool) {
    let say = |operation: &str, body: Value| {
        // A daemon that was killed answers nothing.
        let path = format!("/VolumeDriver.{operation}");
        let answer = wire.ask(&path, &format!("{body}\n")).ok().flatten();
        answer.is_some_and(|answer| answer.word() == "200")
    };
    let mut round = 0;
    while !over.load(Ordering::Relaxed) {
        let (name, copy) = (format!("v{number}-{}", round % 2), format!("c{number}"));
        say("Create", json!({"Name": name, "Opts": {"class": "ceph", "size": "320MiB"}}));
        if say("Mount", json!({"Name": name, "ID": "holder"})) {
            say("Unmount", json!({"Name": name, "ID": "holder"}));
        }
        say("Create", json!({"Name": copy, "Opts": {"class": "ceph", "from": format!("volume:{name}")}}));
        say("Remove", json!({"Name": name}));
        say("Remove", json!({"Name": copy}));
        round += 1;
    }
}

#[test]
fn nothing_is_lost_or_left_by_a_daemon_that_is_killed() {
    let machine = Machine::start();
    let cluster = Cluster::start_in(&machine);
    let mut node = Node::start(&machine, &cluster);
    node.make("kept", json!({"size": "512MiB"}));
    std::fs::write(node.take("kept", "for-good").join("rows"), "kept").unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..3 {
            let (wire, over) = (node.wire(), &over);
            scope.spawn(move || live(&wire, number, over));
        }
        for kill in 0..kills() {
            // Spread over what a round takes.
            thread::sleep(Duration::from_millis(200 + (kill * 617) % 2300));
            node.daemon.kill();
            node.daemon.start_again();
        }
        over.store(true, Ordering::Relaxed);
    });

    // What is wished is done, and then everything goes.
    let volumes = || -> Vec<String> {
        let all = node.told("volume ls");
        all.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    until("everything to be at rest", || {
        let all = node.told("volume ls");
        all.as_array().unwrap().iter().all(|one| one["state"] == "ready").then_some(())
    });
    for name in volumes().iter().filter(|name| *name != "kept") {
        until("a volume to go", || {
            node.wire().call("Unmount", json!({"Name": name, "ID": "holder"}));
            node.kato(&format!("volume rm {name}")).ok()
        });
    }
    until("all but one server to be gone", || (node.servers().len() == 1).then_some(()));
    let data = node.take("kept", "for-good");
    assert_eq!(std::fs::read_to_string(data.join("rows")).unwrap(), "kept");
    assert_eq!(cluster.images().len(), 1, "{:?} beside {:?}", cluster.images(), volumes());
    node.give("kept", "for-good");
    node.give("kept", "for-good");
    until("the last server to be gone", || node.servers().is_empty().then_some(()));
    node.remove("kept");
    node.has_let_go();
    is_empty(&cluster);
    let found = node.kato("doctor").unwrap();
    assert!(!found.contains("stray"), "{found}");
}
