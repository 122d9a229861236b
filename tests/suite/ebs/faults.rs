//! Amazon's own faults: requests that are turned away, that fail, that are never answered or whose answers are lost, and
//! work of its own that does not end. Nothing is made twice or left, nobody waits past his deadline, and whoever asks why
//! is told in words. Where EC2 has to come round, everything goes on by itself when it does.

#![expect(
    clippy::disallowed_methods,
    reason = "a deadline of seconds is looked at as a person would, by the clock"
)]

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use kato_tests::{
    aws::{Aws, Fault},
    machine::{Machine, until},
};
use serde_json::json;

use super::ground::{ZONE, is_detached, is_empty, only, start, write_profile};

/// Longer than any deadline below, and shorter than for ever.
const SOON: Duration = Duration::from_secs(60);

/// What goes wrong with how many calls, while eight volumes live: each more often than a single life needs the call.
const PLAGUES: &[(&str, u64, Fault)] = &[
    ("CreateVolume", 2, Fault::LostAnswer),
    ("CreateVolume", 2, Fault::Throttled),
    ("CreateVolume", 1, Fault::ServerError),
    ("CreateVolume", 1, Fault::DoneButServerError),
    ("CreateVolume", 2, Fault::NotFoundFor(Duration::from_secs(3))),
    ("CreateVolume", 1, Fault::FailsLater),
    ("AttachVolume", 2, Fault::LostAnswer),
    ("AttachVolume", 1, Fault::Throttled),
    ("AttachVolume", 1, Fault::DoneButServerError),
    ("DetachVolume", 2, Fault::LostAnswer),
    ("DetachVolume", 1, Fault::Unavailable),
    ("CreateSnapshot", 2, Fault::LostAnswer),
    ("CreateSnapshot", 1, Fault::DoneButServerError),
    ("CreateSnapshot", 1, Fault::Throttled),
    ("DescribeVolumes", 3, Fault::Throttled),
    ("DescribeVolumes", 2, Fault::ServerError),
    ("DescribeInstances", 1, Fault::Unavailable),
    ("DescribeSnapshots", 1, Fault::ServerError),
    ("DeleteVolume", 2, Fault::LostAnswer),
    ("DeleteVolume", 1, Fault::ServerError),
    ("DeleteSnapshot", 2, Fault::LostAnswer),
    ("DeleteSnapshot", 1, Fault::Throttled),
];

/// How many volumes live at once.
const LIVES: usize = 8;

/// The tokens that things carry, of which each is of one thing.
fn distinct(tokens: impl Iterator<Item = String>) -> usize {
    let all: Vec<_> = tokens.collect();
    let distinct: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!(all.len(), distinct.len(), "two of one token: {all:?}");
    all.len()
}

/// All of them at once do this, each with its name.
fn each(of: &(impl Fn(String) + Sync)) {
    thread::scope(|scope| {
        for number in 0..LIVES {
            scope.spawn(move || of(format!("v{number}")));
        }
    });
}

#[test]
fn whatever_is_refused_or_lost_makes_one_of_each_and_leaves_nothing() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let instance = aws.add_instance(ZONE, "m7i.large");
    let node = start(&machine, &aws, &instance);
    for (action, calls, fault) in PLAGUES {
        aws.fault(action, *calls, fault.clone());
    }
    let mount = |name: &str| {
        until("a mount", || {
            let answer = node.wire().call("Mount", json!({ "Name": name, "ID": "one" }));
            answer["Mountpoint"].as_str().filter(|path| !path.is_empty()).map(|path| machine.path(path))
        })
    };
    each(&|name: String| {
        node.at_last(&format!("volume create {name} -c ebs -s 1GiB"));
        let data = mount(&name);
        fs::write(data.join("rows"), &name).unwrap();
        node.at_last(&format!("snapshot create {name} of-{name}"));
        node.give(&name);
    });
    is_detached(&aws);
    let there = |state: &str| state != "deleting" && state != "error";
    let volumes = aws.volumes().into_iter().filter(|volume| there(&volume.state));
    assert_eq!(distinct(volumes.map(|volume| volume.tags["kato-token"].clone())), LIVES);
    // A second one of a lost answer goes before anybody hears of the first.
    assert_eq!(distinct(aws.snapshots().into_iter().map(|shot| shot.tags["kato-token"].clone())), LIVES);

    each(&|name: String| {
        assert_eq!(fs::read_to_string(mount(&name).join("rows")).unwrap(), name);
        node.give(&name);
        node.at_last(&format!("snapshot rm --yes of-{name}"));
        node.at_last(&format!("volume rm --yes {name}"));
    });
    for (action, ..) in PLAGUES {
        assert_eq!(aws.faults_left(action), 0, "{action} was not called often enough");
    }
    node.has_let_go();
    is_empty(&aws, &[&instance]);
}

// What takes a minute each is waited for together.
#[test]
fn nobody_waits_past_his_deadline_for_what_takes_a_minute_to_come_right() {
    thread::scope(|scope| {
        scope.spawn(a_volume_fails_and_its_end_is_not_heard_of);
        scope.spawn(an_answer_never_comes);
        scope.spawn(credentials_expire_and_new_ones_are_found);
    });
}

fn an_answer_never_comes() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let instance = aws.add_instance(ZONE, "m5.large");
    let node = start(&machine, &aws, &instance);
    aws.fault("CreateVolume", 1, Fault::Silence);
    let begun = Instant::now();
    let refusal = node.kato("volume create late -c ebs -s 1GiB --timeout 5s").unwrap_err();
    assert!(begun.elapsed() < SOON && refusal.contains("late"), "{refusal}");
    // Others have nothing to do with it.
    node.kato("volume create near -c ebs -s 1GiB --timeout 40s").unwrap();
    until("the create to end by itself", || {
        (node.told("volume inspect late")["state"] == "ready").then_some(())
    });
    assert_eq!(distinct(aws.volumes().into_iter().map(|volume| volume.tags["kato-token"].clone())), 2);
    node.remove_all();
    is_empty(&aws, &[&instance]);
}

/// Whether it is gone is only known for sure after a while; then another is made, once, under another token.
fn a_volume_fails_and_its_end_is_not_heard_of() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let instance = aws.add_instance(ZONE, "m5.large");
    let node = start(&machine, &aws, &instance);
    aws.fault("CreateVolume", 1, Fault::FailsLater);
    aws.fault("DeleteVolume", 2, Fault::LostAnswer);
    aws.fault("DeleteVolume", 1, Fault::ServerError);
    let begun = Instant::now();
    let refusal = node.kato("volume create db -c ebs -s 1GiB --timeout 10s").unwrap_err();
    assert!(begun.elapsed() < SOON && refusal.contains("db"), "{refusal}");
    until("another to be made", || (node.told("volume inspect db")["state"] == "ready").then_some(()));
    assert_eq!(aws.calls("CreateVolume"), 2);
    only(&aws);
    node.remove_all();
    is_empty(&aws, &[&instance]);
}

fn credentials_expire_and_new_ones_are_found() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let instance = aws.add_instance(ZONE, "m5.large");
    let node = start(&machine, &aws, &instance);
    node.kato("volume create before -c ebs -s 1GiB").unwrap();
    let new = aws.rotate_credentials();
    let begun = Instant::now();
    let refusal = node.kato("volume create db -c ebs -s 1GiB --timeout 10s").unwrap_err();
    assert!(begun.elapsed() < SOON, "{refusal}");
    let why = node.kato("volume why db").unwrap();
    assert!(why.contains("credentials") && why.contains("expired"), "{why}");
    assert!(!why.contains(&aws.credentials().secret_access_key), "{why}");
    write_profile(&machine, &new);
    until("the new credentials to be found", || {
        (node.told("volume inspect db")["state"] == "ready").then_some(())
    });
    assert!(!node.daemon.log().contains(&new.secret_access_key));
    node.remove_all();
    is_empty(&aws, &[&instance]);
}

#[test]
fn a_change_that_comes_too_early_is_told_with_when_it_is_tried_again() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let instance = aws.add_instance(ZONE, "m5.large");
    let node = start(&machine, &aws, &instance);
    node.kato("volume create db -c ebs -s 1GiB").unwrap();
    let data = node.take("db");
    aws.fault("ModifyVolume", 1, Fault::Cooldown);
    let begun = Instant::now();
    let refusal = node.kato("volume grow db 2GiB --timeout 5s").unwrap_err();
    assert!(begun.elapsed() < SOON, "{refusal}");
    let why = node.kato("volume why db").unwrap();
    assert!(why.contains("too often"), "{why}");
    // It is used as before, and whoever knows that the time has passed says it again.
    fs::write(data.join("rows"), "rows").unwrap();
    aws.pass_time(Duration::from_secs(7 * 3600));
    node.at_last("volume grow db 2GiB --timeout 20s");
    assert_eq!(aws.volumes()[0].gib, 2);
    until("the filesystem to have grown", || {
        let room = rustix::fs::statvfs(&data).unwrap();
        (room.f_blocks * room.f_frsize > 1800 << 20).then_some(())
    });
    node.give("db");
    node.remove_all();
    node.has_let_go();
    is_empty(&aws, &[&instance]);
}

#[test]
fn an_attachment_that_is_stuck_is_told_and_holds_up_nobody_else() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let here = aws.add_instance(ZONE, "m5.large");
    let node = start(&machine, &aws, &here);
    node.kato("volume create db -c ebs -s 1GiB").unwrap();
    let id = only(&aws);
    aws.fault("AttachVolume", 1, Fault::Stuck);
    let why = || node.kato("volume why db").unwrap();
    let data = thread::scope(|scope| {
        let mount = scope.spawn(|| node.take("db"));
        until("the attaching to be told", || {
            let why = why();
            (why.contains(&id) && why.contains("attaching")).then_some(())
        });
        node.kato("volume create near -c ebs -s 1GiB").unwrap();
        node.take("near");
        node.give("near");
        until("the other one to be detached", || {
            (aws.volumes().iter().filter(|volume| !volume.attachments.is_empty()).count() == 1).then_some(())
        });
        aws.unstick();
        mount.join().unwrap()
    });
    fs::write(data.join("rows"), "rows").unwrap();

    // The same on the way out: nobody else gets it, and is told who has it.
    aws.fault("DetachVolume", 1, Fault::Stuck);
    node.give("db");
    until("the detaching to be told", || why().contains("detached").then_some(()));
    let machine_there = Machine::start_beside(&machine);
    let there = aws.add_instance(ZONE, "m5.large");
    let second = start(&machine_there, &aws, &there);
    second.kato("volume create db -c ebs -s 1GiB").unwrap();
    let refusal = second.wire().refused("Mount", json!({ "Name": "db", "ID": "one" }));
    assert!(refusal.contains(here.id()), "{refusal}");
    aws.unstick();
    is_detached(&aws);
    assert_eq!(fs::read_to_string(second.take("db").join("rows")).unwrap(), "rows");
    second.give("db");
    is_detached(&aws);
    node.remove_all();
    second.kato("volume rm --yes --forget db").unwrap();
    for node in [&node, &second] {
        node.has_let_go();
    }
    is_empty(&aws, &[&here, &there]);
}
