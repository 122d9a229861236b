//! The API's own faults: requests that are turned away, that fail, that are never answered or whose answers are lost, and
//! work of its own that does not end. Nothing is made twice or left, nobody waits past his deadline, and whoever asks why is
//! told in words. Where the API has to come round, everything goes on by itself when it does.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use kato_tests::{
    machine::{Machine, until},
    packet::{Action, Fault, Packet, Site},
};
use serde_json::json;

use super::ground::{FACILITY, is_detached, is_empty, only, start, write_secret};

/// Longer than any deadline below, and shorter than for ever.
const SOON: Duration = Duration::from_secs(60);

/// What goes wrong with how many calls, while some volumes live: each more often than a single life needs the call.
const PLAGUES: &[(Action, u64, Fault)] = &[
    (Action::CreateVolume, 2, Fault::LostAnswer),
    (Action::CreateVolume, 1, Fault::Throttled(Duration::from_secs(2))),
    (Action::CreateVolume, 1, Fault::DoneButProxy),
    (Action::CreateVolume, 1, Fault::DoneButServerError),
    (Action::CreateVolume, 1, Fault::NotFoundFor(Duration::from_secs(3))),
    (Action::CreateVolume, 1, Fault::TakesAtLeast(Duration::from_secs(6))),
    (Action::Attach, 2, Fault::LostAnswer),
    (Action::Attach, 1, Fault::ThrottledTold(Duration::from_secs(1))),
    (Action::Attach, 1, Fault::KnownAfter(Duration::from_secs(3))),
    (Action::Attach, 1, Fault::DoneButProxy),
    (Action::Detach, 2, Fault::LostAnswer),
    (Action::Detach, 1, Fault::Proxy(503)),
    (Action::Cut, 2, Fault::LostAnswer),
    (Action::Cut, 1, Fault::DoneButServerError),
    (Action::Cut, 1, Fault::NotFoundFor(Duration::from_secs(2))),
    (Action::ListSnapshots, 1, Fault::Throttled(Duration::from_secs(1))),
    (Action::ListVolumes, 2, Fault::Throttled(Duration::from_secs(1))),
    (Action::ListVolumes, 1, Fault::Proxy(502)),
    (Action::ListVolumes, 1, Fault::ServerError),
    (Action::UpdateVolume, 1, Fault::LostAnswer),
    (Action::UpdateVolume, 1, Fault::ServerError),
    (Action::DeleteVolume, 2, Fault::LostAnswer),
    (Action::DeleteVolume, 1, Fault::ServerError),
    (Action::DeleteSnapshot, 1, Fault::LostAnswer),
    (Action::DeleteSnapshot, 1, Fault::Throttled(Duration::from_secs(1))),
];

/// How many volumes live at once.
const LIVES: usize = 6;

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
    let packet = Packet::start_in(&machine);
    let device = packet.add_device(FACILITY, "node-a");
    let node = start(&machine, &packet, &device);
    for (action, calls, fault) in PLAGUES {
        packet.fault(*action, *calls, fault.clone());
    }
    let mount = |name: &str| {
        until("a mount", || {
            let answer = node.wire().call("Mount", json!({ "Name": name, "ID": "one" }));
            answer["Mountpoint"].as_str().filter(|path| !path.is_empty()).map(|path| machine.path(path))
        })
    };
    each(&|name: String| {
        node.at_last(&format!("volume create {name} -c packet -s 1GiB"));
        let data = mount(&name);
        fs::write(data.join("rows"), &name).unwrap();
        node.at_last(&format!("snapshot create {name} of-{name}"));
        node.give(&name);
    });
    is_detached(&packet);
    until("what was made twice to be gone", || (packet.volumes().len() == LIVES).then_some(()));
    assert_eq!(packet.snapshots().len(), LIVES, "{:?}", packet.snapshots());
    let distinct: BTreeSet<_> = packet.volumes().into_iter().map(|volume| volume.description).collect();
    assert_eq!(distinct.len(), LIVES, "{distinct:?}");

    each(&|name: String| {
        assert_eq!(fs::read_to_string(mount(&name).join("rows")).unwrap(), name);
        node.give(&name);
        node.at_last(&format!("snapshot rm --yes of-{name}"));
        node.at_last(&format!("volume rm --yes {name}"));
    });
    for (action, ..) in PLAGUES {
        assert_eq!(packet.faults_left(*action), 0, "{action:?} was not called often enough");
    }
    is_empty(&packet, &[&node]);
}

// What takes a while each is waited for together.
#[test]
fn nobody_waits_past_his_deadline_for_what_takes_long_to_come_right() {
    thread::scope(|scope| {
        scope.spawn(an_answer_never_comes_and_a_volume_never_becomes_active);
        scope.spawn(the_token_is_replaced);
        scope.spawn(there_is_no_room_for_more_requests);
    });
}

fn an_answer_never_comes_and_a_volume_never_becomes_active() {
    let machine = Machine::start();
    let packet = Packet::start_in(&machine);
    let device = packet.add_device(FACILITY, "node-a");
    let node = start(&machine, &packet, &device);
    packet.fault(Action::CreateVolume, 1, Fault::Silence);
    let begun = Instant::now();
    let refusal = node.kato("volume create late -c packet -s 1GiB --timeout 5s").unwrap_err();
    assert!(begun.elapsed() < SOON && refusal.contains("late"), "{refusal}");
    packet.fault(Action::CreateVolume, 1, Fault::Stuck);
    let refusal = node.kato("volume create stuck -c packet -s 1GiB --timeout 8s").unwrap_err();
    assert!(begun.elapsed() < SOON && refusal.contains("stuck"), "{refusal}");
    let why = node.kato("volume why stuck").unwrap();
    assert!(why.contains("provisioning"), "{why}");
    // Others have nothing to do with it.
    node.kato("volume create near -c packet -s 1GiB --timeout 30s").unwrap();
    packet.unstick();
    for name in ["late", "stuck"] {
        until("the create to end by itself", || {
            (node.told(&format!("volume inspect {name}"))["state"] == "ready").then_some(())
        });
    }
    assert_eq!(packet.volumes().len(), 3);
    node.remove_all();
    is_empty(&packet, &[&node]);
}

fn the_token_is_replaced() {
    let machine = Machine::start();
    let packet = Packet::start_in(&machine);
    let device = packet.add_device(FACILITY, "node-a");
    let node = start(&machine, &packet, &device);
    let old = packet.token();
    let new = packet.rotate_token();
    let begun = Instant::now();
    let refusal = node.kato("volume create db -c packet -s 1GiB --timeout 10s").unwrap_err();
    assert!(begun.elapsed() < SOON && refusal.contains("token"), "{refusal}");
    write_secret(&machine, "token", &new);
    until("the new token to be found", || node.kato("volume create db -c packet -s 1GiB --timeout 10s").ok());
    let said = node.daemon.log() + &refusal + &node.kato("store dump").unwrap();
    assert!(!said.contains(&new) && !said.contains(&old), "a token is nowhere to be read");
    only(&packet);
    node.remove_all();
    is_empty(&packet, &[&node]);
}

/// Whoever is told when there is room again comes then, and not before.
fn there_is_no_room_for_more_requests() {
    let machine = Machine::start();
    let site = Site { rate: (12, Duration::from_secs(6)), ..Site::default() };
    let packet = Packet::start_in_with(&machine, site);
    let device = packet.add_device(FACILITY, "node-a");
    let node = start(&machine, &packet, &device);
    for name in ["one", "two", "three"] {
        node.at_last(&format!("volume create {name} -c packet -s 1GiB"));
    }
    assert_eq!(packet.volumes().len(), 3);
    node.remove_all();
    // Whoever looks for what is left finds it out at once.
    packet.set_rate(Site::default().rate);
    is_empty(&packet, &[&node]);
}

/// Nothing in the API is unique but ids, so whoever asks again without having looked for long enough makes a second one.
#[test]
fn what_is_to_be_seen_late_is_made_once() {
    let machine = Machine::start();
    let packet = Packet::start_in(&machine);
    let device = packet.add_device(FACILITY, "node-a");
    let node = start(&machine, &packet, &device);
    packet.fault(Action::CreateVolume, 1, Fault::NotFoundFor(Duration::from_secs(7)));
    node.kato("volume create db -c packet -s 1GiB").unwrap();
    // Of what was never mounted there is nothing to be cut.
    node.take("db");
    node.give("db");
    is_detached(&packet);
    packet.fault(Action::Cut, 1, Fault::NotFoundFor(Duration::from_secs(5)));
    node.at_last("snapshot create db s");
    packet.fault(Action::Clone, 1, Fault::NotFoundFor(Duration::from_secs(5)));
    node.at_last("volume create copy -c packet --from-snapshot s");
    let made = [Action::CreateVolume, Action::Cut, Action::Clone].map(|action| packet.calls(action));
    assert_eq!(made, [1, 1, 1]);
    assert_eq!((packet.volumes().len(), packet.snapshots().len()), (2, 1));
    node.remove_all();
    is_empty(&packet, &[&node]);
}

#[test]
fn what_was_done_behind_our_back_is_named_and_loses_nothing() {
    let machine = Machine::start();
    let packet = Packet::start_in(&machine);
    let [here, stranger] = ["node-a", "stranger"].map(|name| packet.add_device(FACILITY, name));
    let node = start(&machine, &packet, &here);
    // What is others' is left alone, whatever is written on it.
    let others = packet.make("of somebody else");
    node.kato("volume create db -c packet -s 1GiB").unwrap();
    let id = packet.volumes().into_iter().find(|volume| volume.id != others).unwrap().id;
    packet.attach(&id, &stranger);
    let refusal = node.wire().refused("Mount", json!({ "Name": "db", "ID": "one" }));
    assert!(refusal.contains(stranger.id()), "who has it is named: {refusal}");
    packet.detach(&id);
    fs::write(node.take("db").join("rows"), "rows").unwrap();
    node.give("db");
    is_detached(&packet);

    // Gone behind our back: it is lost, never made anew, and a person decides.
    packet.lose(&id);
    let refusal = node.wire().refused("Mount", json!({ "Name": "db", "ID": "two" }));
    assert!(refusal.contains("lost"), "{refusal}");
    assert_eq!(only(&packet).id, others);
    until("nobody to have what is lost", || node.kato("volume rm --yes --forget db").ok());
    packet.lose(&others);
    is_empty(&packet, &[&node]);
}
