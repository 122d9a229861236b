//! Whether the kit's target is one: who is let in and who is not, what of it outlives its end, and that it misbehaves on
//! command as targets do.

use std::{process::Stdio, thread, time::Duration};

use kato_tests::{
    machine::until,
    packet::{Device, IQN_PREFIX, Packet, Site, Volume},
    tgt::{Account, Session},
};

use super::client::Initiator;

/// A volume that is attached to a device which the target lets in.
fn attached(packet: &Packet<'_>) -> (Volume, Device, Initiator) {
    let device = packet.add_device("tst1", "node-a");
    let id = packet.make("of nobody");
    packet.attach(&id, &device);
    device.wait_for(&id);
    let volume = packet.volumes().into_iter().find(|volume| volume.id == id).unwrap();
    let initiator = Initiator::named(device.iqn());
    (volume, device, initiator)
}

#[test]
fn a_volume_is_a_disk_for_whom_it_is_attached_to_and_for_nobody_else() {
    let packet = Packet::start();
    let (volume, device, initiator) = attached(&packet);
    assert!(volume.iqn.starts_with(IQN_PREFIX), "{volume:?}");
    for (portal, pattern) in packet.target().portals().iter().zip(["0x41", "0x42"]) {
        let write = format!("write -P {pattern} 1M 64k");
        let read = format!("read -P {pattern} 1M 64k");
        initiator.on(portal, &volume.iqn, &[&write, "flush", &read]).unwrap();
    }
    assert_eq!(packet.read(&volume.id, 1 << 20, 3), b"BBB");

    let [portal, _] = packet.target().portals();
    let stranger = Initiator::named("iqn.2019-03.net.packet:device.stranger");
    let refusal = stranger.on(&portal, &volume.iqn, &["read 0 512"]).unwrap_err();
    assert!(refusal.contains("Target not found"), "{refusal}");
    device.power_off();
    let refusal = initiator.on(&portal, &volume.iqn, &["read 0 512"]).unwrap_err();
    assert!(refusal.contains("Target not found"), "{refusal}");
    device.power_on();
    device.wait_for(&volume.id);
    initiator.on(&portal, &volume.iqn, &["read -P 0x42 1M 64k"]).unwrap();
    packet.lose(&volume.id);
    let refusal = initiator.on(&portal, &volume.iqn, &["read 0 512"]).unwrap_err();
    assert!(refusal.contains("Failed to connect"), "{refusal}");
    assert_eq!(packet.target().sessions(), []);
}

#[test]
fn an_account_is_asked_for_and_a_wrong_secret_is_refused() {
    let packet = Packet::start();
    let (volume, _device, initiator) = attached(&packet);
    let [portal, _] = packet.target().portals();
    let account = Account { user: "kato".to_owned(), secret: "a secret of 16 b".to_owned() };
    packet.target().demand(Some(&account), None);
    let with = |account: Option<Account>| Initiator { account, ..initiator.clone() };
    let wrong = Account { secret: "another secret16".to_owned(), ..account.clone() };
    for account in [None, Some(wrong)] {
        let refusal = with(account).on(&portal, &volume.iqn, &["read 0 512"]).unwrap_err();
        assert!(refusal.contains("Authentication failure"), "{refusal}");
    }
    with(Some(account.clone())).on(&portal, &volume.iqn, &["read 0 512"]).unwrap();
    // It is asked for after a new start, too.
    packet.target().kill();
    packet.target().start_again();
    initiator.on(&portal, &volume.iqn, &["read 0 512"]).unwrap_err();
    with(Some(account)).on(&portal, &volume.iqn, &["read 0 512"]).unwrap();
    packet.target().demand(None, None);
    initiator.on(&portal, &volume.iqn, &["read 0 512"]).unwrap();
}

#[test]
fn whoever_writes_waits_for_a_target_that_is_killed_and_finds_it_again() {
    let packet = Packet::start();
    let (volume, device, initiator) = attached(&packet);
    let [portal, _] = packet.target().portals();
    let write = "write -P 0x43 0 256k";
    let mut command = initiator.command(&portal, &volume.iqn, &["sleep 1500", write, "flush", "sleep 1000"]);
    let writer = thread::spawn(move || command.output().unwrap());
    let session = Session { target: volume.iqn.clone(), initiator: device.iqn().to_owned() };
    until("a session", || (packet.target().sessions() == [session.clone()]).then_some(()));
    packet.target().kill();
    thread::sleep(Duration::from_secs(2));
    packet.target().start_again();
    until("the session to return", || (packet.target().sessions() == [session.clone()]).then_some(()));
    until("the write to arrive", || (packet.read(&volume.id, 1000, 4) == b"CCCC").then_some(()));
    let done = writer.join().unwrap();
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && printed.contains("wrote 262144/262144"), "{done:?}");
    until("the session to end", || packet.target().sessions().is_empty().then_some(()));
}

#[test]
fn a_disk_grows_under_a_session_vanishes_and_comes_back() {
    let packet = Packet::start_with(Site { grows_attached: true, ..Site::default() });
    let (volume, device, initiator) = attached(&packet);
    let client = super::client::Client::of(&packet);
    let [portal, other] = packet.target().portals();
    let mut command = initiator.command(&portal, &volume.iqn, &["sleep 4000"]);
    let holder = thread::spawn(move || command.output().unwrap());
    until("a session", || (packet.target().sessions().len() == 1).then_some(()));
    let path = format!("/storage/{}", volume.id);
    client.patch(&path, serde_json::json!({ "size": 2 })).with(200);
    let end = (2_u64 << 30) - 512;
    initiator.on(&other, &volume.iqn, &[&format!("write -P 0x44 {end} 512"), "flush"]).unwrap();
    assert_eq!(packet.read(&volume.id, end, 2), b"DD");

    packet.target().lose_disk(&volume.iqn);
    let refusal = initiator.on(&other, &volume.iqn, &["read 0 512"]).unwrap_err();
    assert!(refusal.contains("LOGICAL_UNIT_NOT_SUPPORTED"), "{refusal}");
    packet.target().find_disk(&volume.iqn);
    initiator.on(&other, &volume.iqn, &[&format!("read -P 0x44 {end} 512")]).unwrap();

    // Whoever has a session is not let go by the API, and is by force.
    packet.target().end_sessions(&volume.iqn);
    holder.join().unwrap();
    device.power_off();
    packet.detach(&volume.id);
}

#[test]
fn one_portal_may_be_closed_or_mute_while_the_other_serves() {
    let packet = Packet::start();
    let (volume, _device, initiator) = attached(&packet);
    let [one, other] = packet.target().portals();
    let read = ["read 0 512"];
    packet.target().close_portal(0);
    let refusal = initiator.on(&one, &volume.iqn, &read).unwrap_err();
    assert!(refusal.contains("Failed to connect"), "{refusal}");
    initiator.on(&other, &volume.iqn, &read).unwrap();
    packet.target().open_portal(0);
    initiator.on(&one, &volume.iqn, &read).unwrap();

    let mute = packet.target().mute_portal(1);
    let mut hangs = initiator.command(&other, &volume.iqn, &read);
    let mut hangs = hangs.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    initiator.on(&one, &volume.iqn, &read).unwrap();
    thread::sleep(Duration::from_secs(1));
    assert!(hangs.try_wait().unwrap().is_none(), "it was told something");
    drop(mute);
    hangs.wait().unwrap();
    initiator.on(&other, &volume.iqn, &read).unwrap();

    // One that stands still is mute on all.
    packet.target().freeze();
    let asleep = packet.volumes();
    assert_eq!(asleep.len(), 1, "the API is another machine");
    packet.target().thaw();
    initiator.on(&one, &volume.iqn, &read).unwrap();
}

#[test]
fn nothing_of_a_target_outlives_it() {
    let packet = Packet::start();
    let (volume, ..) = attached(&packet);
    let [portal, _] = packet.target().portals();
    drop(packet);
    let refusal = Initiator::named("iqn.x:a").on(&portal, &volume.iqn, &["read 0 512"]).unwrap_err();
    assert!(refusal.contains("Failed to connect"), "{refusal}");
}
