//! The cluster's own faults: control answers within its deadline and says what is wrong, data waits, and everything
//! goes on by itself when the cluster is back.

#![expect(
    clippy::disallowed_methods,
    reason = "a deadline of minutes is looked at as a person would, by the clock"
)]

use std::{
    fs,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

use kato_tests::{
    ceph::{Cluster, Server},
    machine::{Machine, until},
};
use serde_json::json;

use super::ground::{Node, is_empty, sections};

/// Longer than any command of the plugin's may take, and shorter than for ever.
const SOON: Duration = Duration::from_secs(120);

/// A server that stands still, until this is dropped: whatever a test finds, nobody waits for it for ever.
struct Frozen<'c>(&'c Cluster<'c>, Server);

impl<'c> Frozen<'c> {
    fn begin(cluster: &'c Cluster<'c>, server: Server) -> Self {
        cluster.freeze(server);
        Self(cluster, server)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw(self.1);
    }
}

#[test]
fn data_waits_for_a_cluster_that_stands_still_and_control_says_so() {
    let machine = Machine::start();
    let cluster = Cluster::start_in(&machine);
    let mut node = Node::start(&machine, &cluster);
    node.make("db", json!({"size": "512MiB"}));
    let data = node.take("db", "one");

    // In the middle of a write. The writer waits and hears of nothing.
    let frozen = Frozen::begin(&cluster, Server::Osd);
    let writer = thread::spawn(move || {
        let begun = Instant::now();
        let mut file = fs::File::create(data.join("rows")).unwrap();
        file.write_all(&[7; 1 << 20]).and_then(|()| file.sync_all()).unwrap();
        begun.elapsed()
    });
    until("the stall to be told", || {
        node.kato("volume why db").unwrap().contains("does not answer").then_some(())
    });
    // Other volumes have nothing to do with it, and the daemon can be started again.
    node.daemon.kill();
    node.daemon.start_again();
    node.wire().done("Create", json!({"Name": "near", "Opts": {"class": "default"}}));
    node.take("near", "one");
    let begun = Instant::now();
    let refusal = node.kato("volume create late -c ceph -s 512MiB --timeout 30s").unwrap_err();
    assert!(begun.elapsed() < SOON && refusal.contains("late"), "{refusal}");
    let why = node.kato("volume why late").unwrap();
    assert!(why.contains("15 s") || why.contains("answer"), "{why}");
    drop(frozen);
    let waited = writer.join().unwrap();
    assert!(waited > Duration::from_secs(5), "it did not wait: {waited:?}");
    until("the create to end by itself", || node.kato("volume ls").unwrap().contains("late").then_some(()));
    until("the stall to be over", || {
        (!node.kato("volume why db").unwrap().contains("does not answer")).then_some(())
    });

    // Without a monitor what is open goes on.
    let frozen = Frozen::begin(&cluster, Server::Mon);
    let data = node.take("db", "one");
    fs::write(data.join("more"), "rows").unwrap();
    let begun = Instant::now();
    node.kato("volume create mute -c ceph -s 512MiB --timeout 20s").unwrap_err();
    assert!(begun.elapsed() < SOON);
    drop(frozen);
    until("the create to end by itself", || {
        node.told("volume inspect mute")["state"].as_str().filter(|state| *state == "ready").map(drop)
    });

    node.give("db", "one");
    node.give("db", "one");
    node.give("near", "one");
    for volume in ["db", "near", "late", "mute"] {
        until("a volume to be removed", || node.kato(&format!("volume rm {volume}")).ok());
    }
    node.has_let_go();
    is_empty(&cluster);
}

#[test]
fn what_was_done_behind_our_back_is_named_and_loses_nothing() {
    let machine = Machine::start();
    let cluster = Cluster::start_in(&machine);
    let wrong = sections(&cluster)
        + "[backend.stranger]\nplugin = \"rbd\"\n"
        + &cluster.client(cluster.user(), cluster.wrong_keyring()).grants_toml("backend.stranger")
        + "[class.stranger]\nbackend = \"stranger\"\n[backend.lost]\nplugin = \"rbd\"\n"
        + &cluster.grants_toml("backend.lost").replace("pool = \"kato\"", "pool = \"nowhere\"")
        + "[class.lost]\nbackend = \"lost\"\n";
    let node = Node::start_with(&machine, &wrong);

    // A wrong key and a wrong pool say so, and what to do.
    for (class, word) in [("stranger", "key"), ("lost", "nowhere")] {
        let begun = Instant::now();
        let refusal =
            node.kato(&format!("volume create of-{class} -c {class} -s 512MiB --timeout 20s")).unwrap_err();
        assert!(begun.elapsed() < SOON && refusal.contains(word), "{class}: {refusal}");
    }

    // Somebody else has it open: then nobody of ours gets it.
    node.make("db", json!({"size": "512MiB"}));
    let image = cluster.images().remove(0);
    let mut stranger = machine.spawn("/usr/bin/python3", "stranger.log", |command| {
        command.args(["-c", &cluster.script("", &image, "time.sleep(600)")]);
    });
    until("the stranger to watch", || (!cluster.watchers(&image).is_empty()).then_some(()));
    let refusal = node.wire().refused("Mount", json!({"Name": "db", "ID": "one"}));
    assert!(refusal.contains("127.0.0.1:0/"), "who has it is named: {refusal}");
    stranger.stop();
    until("the stranger to be gone", || cluster.watchers(&image).is_empty().then_some(()));

    // Grown by hand: the next mount has it all.
    cluster.rbd(&["resize", &image, "--size", "1G"]).unwrap();
    let data = node.take("db", "one");
    let room = rustix::fs::statvfs(&data).unwrap();
    assert!(room.f_blocks * room.f_frsize > 900 << 20, "{} blocks", room.f_blocks);
    assert_eq!(cluster.rbd_json(&["info", &image]).unwrap()["size"], 1 << 30, "nothing cuts it");
    node.give("db", "one");
    until("the mount to be taken down", || node.servers().is_empty().then_some(()));

    // A pool that is full takes no more, and says so.
    cluster.set_quota(cluster.pool(), 1);
    until("the quota to be seen", || {
        let status = cluster.ceph(&["health", "detail"]).unwrap_or_default();
        (status.contains("POOL_FULL") || status.contains("full")).then_some(())
    });
    let refusal = node.kato("volume create full -c ceph -s 512MiB --timeout 40s").unwrap_err();
    let why = node.kato("volume why full").unwrap_or_default();
    assert!(format!("{refusal}{why}").contains("full"), "{refusal} {why}");
    cluster.set_quota(cluster.pool(), 0);
    until("the pool to take something again", || {
        node.kato("volume create full -c ceph -s 512MiB --timeout 20s").ok()
    });

    // Gone behind our back: it is lost, never made anew, and a person decides.
    cluster.rbd(&["rm", &image]).unwrap();
    let refusal = node.wire().refused("Mount", json!({"Name": "db", "ID": "two"}));
    assert!(refusal.contains("kept as lost"), "{refusal}");
    assert!(!cluster.images().contains(&image));
    node.kato("volume rm full").unwrap();
    until("nobody to have what is lost", || node.kato("volume rm --forget db").ok());
    node.has_let_go();
    is_empty(&cluster);
}
