//! The target's own faults: what carries the bytes is killed and comes back, does not believe us, has lost a disk, or takes
//! connections and says nothing. Whoever writes waits and hears of no error, whoever mounts hears within his deadline what is
//! wrong, and everything goes on by itself when the target does.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use kato_tests::{
    machine::{Machine, until},
    packet::{Packet, Site},
    tgt::Account,
};
use serde_json::json;

use super::ground::{
    FACILITY, Way, is_detached, is_empty, only, sections, start, start_with, with_account, write_secret,
};
use crate::copies::ground::{Node, noise};

/// Longer than any deadline below, and shorter than for ever.
const SOON: Duration = Duration::from_secs(60);

/// How many bytes are written at once.
const ROW: usize = 64 << 10;

/// Writes rows until it is over, each flushed and then counted: what is counted is there for good.
fn write_rows(data: &Path, over: &AtomicBool, written: &AtomicU64) {
    let mut file = File::create(data.join("rows")).unwrap();
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        file.write_all(&noise(ROW, number + 1)).and_then(|()| file.sync_data()).unwrap();
        number += 1;
        written.store(number, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(5));
    }
}

/// All rows that were counted are what they were.
fn has_rows(data: &Path, written: u64) {
    let found = fs::read(data.join("rows")).unwrap();
    assert!(found.len() >= ROW * usize::try_from(written).unwrap(), "{} bytes, {written} rows", found.len());
    for (number, row) in (0..written).zip(found.chunks(ROW)) {
        assert!(row == noise(ROW, number + 1), "row {number} is not what it was");
    }
}

fn why(node: &Node<'_>) -> String {
    node.kato("volume why db").unwrap()
}

#[test]
fn whoever_writes_waits_for_a_target_that_is_killed_and_hears_of_no_error() {
    let machine = Machine::start();
    let packet = Packet::start_in(&machine);
    let device = packet.add_device(FACILITY, "node-a");
    let mut node = start(&machine, &packet, &device);
    node.kato("volume create db -c packet -s 1GiB").unwrap();
    let data = node.take("db");
    let (over, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let row = || written.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let writer = scope.spawn(|| write_rows(&data, &over, &written));
        for round in 0..3 {
            let before = row();
            until("rows to be written", || (row() > before + 20).then_some(()));
            packet.target().kill();
            // What is on its way may still be counted; then nothing is.
            thread::sleep(Duration::from_secs(1));
            let stalled = row();
            until("the stall to be told", || why(&node).contains("does not answer").then_some(()));
            if round == 1 {
                // Its daemon's end is nothing to it.
                node.daemon.kill();
                node.daemon.start_again();
            }
            assert_eq!(row(), stalled, "it was not waited for");
            assert!(!writer.is_finished());
            packet.target().start_again();
            until("the writer to go on", || (row() > stalled + 20).then_some(()));
            until("the stall to be over", || (!why(&node).contains("does not answer")).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
    has_rows(&data, row());
    node.give("db");
    // A second mount gives it back twice, and nothing of it comes from this host's memory.
    is_detached(&packet);
    has_rows(&node.take("db"), row());
    node.give("db");
    is_detached(&packet);
    node.remove_all();
    is_empty(&packet, &[&node]);
}

/// Lets somebody mount it while something is in the way: what that is can be read long before he has waited in vain, and
/// when it is gone he gets what he waits for.
fn waits_for<'m>(node: &Node<'m>, told: impl Fn(&str) -> bool + Sync, heal: impl FnOnce()) -> PathBuf {
    thread::scope(|scope| {
        let begun = Instant::now();
        let mount = scope.spawn(|| node.take("db"));
        until("the reason to be told", || told(&why(node)).then_some(()));
        assert!(begun.elapsed() < SOON && !mount.is_finished());
        heal();
        mount.join().unwrap()
    })
}

#[test]
fn a_target_that_asks_who_comes_believes_the_right_secret_and_no_other() {
    let machine = Machine::start();
    let packet = Packet::start_in(&machine);
    let device = packet.add_device(FACILITY, "node-a");
    let account = Account { user: "kato".to_owned(), secret: "right secret 016".to_owned() };
    let wrong = Account { secret: "wrong secret 016".to_owned(), ..account.clone() };
    packet.target().demand(Some(&account), None);
    let told = sections(&machine, &packet, &device, Way::Access);
    let node = start_with(&machine, &with_account(&machine, &told, &wrong));
    node.kato("volume create db -c packet -s 1GiB").unwrap();
    let is_named = |text: &str| text.contains("Authentication failure") && text.contains("account kato");
    // Whoever waits in vain hears of it before dockerd gives up, which is after two minutes.
    let begun = Instant::now();
    let refusal = node.wire().refused("Mount", json!({ "Name": "db", "ID": "one" }));
    assert!(begun.elapsed() < SOON * 2 && is_named(&refusal), "{refusal}");
    let before = why(&node);
    // The file is read anew each time.
    let data = waits_for(&node, is_named, || drop(write_secret(&machine, "chap", &account.secret)));
    fs::write(data.join("rows"), "rows").unwrap();
    let seen = machine.shell("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ").stdout;
    let said = node.daemon.log() + &refusal + &before + &node.kato("store dump").unwrap();
    let said = said + &String::from_utf8_lossy(&seen);
    assert!(
        !said.contains(&account.secret) && !said.contains(&wrong.secret),
        "a secret is nowhere to be read"
    );
    node.give("db");
    is_detached(&packet);
    node.remove_all();
    is_empty(&packet, &[&node]);
}

/// The way that works here cannot have a target prove who it is, and does not pretend to.
#[test]
fn mutual_proof_is_refused_where_nobody_could_ask_for_it() {
    let machine = Machine::start();
    let packet = Packet::start_in(&machine);
    let device = packet.add_device(FACILITY, "node-a");
    let [account, mutual] = [("kato", "right secret 016"), ("target", "other secret 016")]
        .map(|(user, secret)| Account { user: user.to_owned(), secret: secret.to_owned() });
    packet.target().demand(Some(&account), Some(&mutual));
    let told = sections(&machine, &packet, &device, Way::Access);
    let told = with_account(&machine, &told, &account).replace("[node]\n", "[node]\niscsi = [\"qemu\"]\n");
    let proof = write_secret(&machine, "mutual", &mutual.secret);
    let told = format!(
        "{told}[backend.packet.grants.connections.iscsi.chap.mutual]\nuser = \"target\"\nsecret.file = {proof:?}\n"
    );
    let node = start_with(&machine, &told);
    node.kato("volume create db -c packet -s 1GiB").unwrap();
    let begun = Instant::now();
    let refusal = node.wire().refused("Mount", json!({ "Name": "db", "ID": "one" }));
    assert!(begun.elapsed() < SOON && refusal.contains("mutual"), "{refusal}");
    is_detached(&packet);
    node.remove_all();
    is_empty(&packet, &[&node]);
}

#[test]
fn a_disk_that_is_gone_and_portals_that_say_nothing_are_told_within_the_deadline() {
    let machine = Machine::start();
    let packet = Packet::start_in(&machine);
    let device = packet.add_device(FACILITY, "node-a");
    let node = start(&machine, &packet, &device);
    node.kato("volume create db -c packet -s 1GiB").unwrap();
    let iqn = only(&packet).iqn;
    packet.target().lose_disk(&iqn);
    let is_gone = |text: &str| text.contains(&iqn) && text.contains("LOGICAL_UNIT_NOT_SUPPORTED");
    let data = waits_for(&node, is_gone, || packet.target().find_disk(&iqn));
    fs::write(data.join("rows"), "rows").unwrap();
    node.give("db");
    is_detached(&packet);

    // One portal that says nothing is passed over.
    for number in 0..2 {
        let mute = packet.target().mute_portal(number);
        assert_eq!(fs::read_to_string(node.take("db").join("rows")).unwrap(), "rows");
        node.give("db");
        is_detached(&packet);
        drop(mute);
    }
    // Nobody says anything.
    packet.target().freeze();
    let [one, other] = packet.target().portals();
    let is_mute = |text: &str| text.contains(&one) && text.contains(&other);
    let data = waits_for(&node, is_mute, || packet.target().thaw());
    assert_eq!(fs::read_to_string(data.join("rows")).unwrap(), "rows");
    node.give("db");
    is_detached(&packet);
    node.remove_all();
    is_empty(&packet, &[&node]);
}

#[test]
fn a_disk_that_is_lost_under_a_mount_is_told_and_found_again() {
    let machine = Machine::start();
    let packet = Packet::start_in_with(&machine, Site { grows_attached: true, ..Site::default() });
    let device = packet.add_device(FACILITY, "node-a");
    let node = start(&machine, &packet, &device);
    node.kato("volume create db -c packet -s 1GiB").unwrap();
    let data = node.take("db");
    fs::write(data.join("rows"), "rows").unwrap();
    File::open(data.join("rows")).unwrap().sync_all().unwrap();
    let iqn = only(&packet).iqn;
    // A session that is cut comes back by itself.
    packet.target().end_sessions(&iqn);
    fs::write(data.join("more"), "more").unwrap();
    File::open(data.join("more")).unwrap().sync_all().unwrap();

    packet.target().lose_disk(&iqn);
    let broken = until("the loss to be told", || {
        let state = node.told("volume inspect db")["mounts"][0]["state"].as_str().map(str::to_owned);
        // Only who asks it for something hears that it is gone.
        fs::write(data.join("lost"), "lost").and_then(|()| File::open(data.join("lost"))?.sync_all()).ok();
        state.filter(|state| state != "mounted")
    });
    assert!(!broken.is_empty());
    packet.target().find_disk(&iqn);
    node.kato("volume repair db --force").unwrap();
    let data = node.take("db");
    assert_eq!(fs::read_to_string(data.join("rows")).unwrap(), "rows");
    assert_eq!(fs::read_to_string(data.join("more")).unwrap(), "more");
    node.give("db");
    node.give("db");
    is_detached(&packet);
    node.remove_all();
    is_empty(&packet, &[&node]);
}
