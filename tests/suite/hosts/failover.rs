//! A host is cut off in the middle of writing, and what it had moves to another one, when it was shut out of Ceph and not
//! before. It comes back, finds out, and takes down by itself what it had. A few rounds here, a hundred with
//! `cargo xtask soak hosts`.

#![expect(
    clippy::disallowed_methods,
    reason = "how long a move takes is told, and the number of rounds asked for"
)]

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use kato_tests::machine::until;
use serde_json::json;

use super::ground::{LEASE, Machines, NAMES, Region, rows};
use crate::{ceph::ground::is_empty, crash::kills::Chance};

/// How many rounds there are.
fn rounds() -> u64 {
    std::env::var("KATO_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

#[test]
fn what_was_acknowledged_moves_to_another_host_and_the_lost_one_writes_nothing() {
    let machines = Machines::start();
    let mut region = Region::start(&machines);
    let mut chance = Chance(7);
    region.nodes[0].make("db", json!({"size": "512MiB"}));
    let mut slowest = Duration::ZERO;
    for round in 0..rounds() {
        let host = |number: u64| usize::try_from(number % 3).unwrap();
        let (lost, heir) = (host(round), host(round + 1 + chance.below(2)));
        let holder = format!("round-{round}");
        let data = until("the volume to be free", || region.try_take(lost, "db", &holder).ok());
        let (file, acknowledged) =
            (format!("rows-{round}"), machines.hosts[lost].folder().join("acknowledged"));
        fs::write(&acknowledged, "").unwrap();
        let mut writer = region.write(lost, &data.join(&file), &acknowledged);
        thread::sleep(Duration::from_millis(300 + chance.below(1_500)));

        // Who is there keeps what it has, and is named.
        let refusal = region.try_take(heir, "db", "heir").unwrap_err();
        assert!(refusal.contains(NAMES[lost]) && refusal.contains(&holder), "{refusal}");

        let client = region.nodes[lost].told("volume inspect db")["attachments"][0]["client"].clone();
        let cut = Instant::now();
        machines.cables[lost].pull();
        let killed = chance.below(2) == 0;
        if killed {
            thread::sleep(Duration::from_millis(chance.below(LEASE * 1_500)));
            region.nodes[lost].daemon.kill();
        }
        let taken = until("the volume to move", || match region.try_take(heir, "db", "heir") {
            Ok(path) => Some(path),
            Err(_) => {
                thread::sleep(Duration::from_millis(100));
                None
            }
        });
        slowest = slowest.max(cut.elapsed());
        let told = rows(&acknowledged);
        let there = rows(&taken.join(&file));
        assert!(told > 0 && there >= told, "{told} rows were acknowledged, and {there} are there");
        let blocked = region.cluster.blocklist();
        let client = client.as_str().unwrap();
        assert!(blocked.iter().any(|entry| entry.contains(client)), "{client} is not among {blocked:?}");

        // It is back, and writes nothing: not even what it had begun.
        machines.cables[lost].plug();
        if killed {
            region.nodes[lost].daemon.start_again();
        }
        until("the lost host to be there", || (region.state_of(lost, heir) == "there").then_some(()));
        until("its writer to hear of it", || (!writer.runs()).then_some(()));
        until("it to have taken down what it had", || region.nodes[lost].servers().is_empty().then_some(()));
        assert_eq!(rows(&taken.join(&file)), there, "a row was written after the volume had moved");
        region.nodes[heir].give("db", "heir");
    }
    println!(
        "{} rounds; the slowest move took {slowest:.1?} with a lease of {LEASE} s; all that was acknowledged was there",
        rounds()
    );
    until("all to have let go", || region.nodes.iter().all(|node| node.servers().is_empty()).then_some(()));
    region.nodes[0].remove("db");
    region.nodes.iter().for_each(|node| node.has_let_go());
    is_empty(&region.cluster);
}

#[test]
fn a_host_that_is_drained_takes_nothing_new_and_one_that_cannot_be_fenced_is_a_persons_to_judge() {
    let machines = Machines::start();
    let region = Region::start(&machines);
    region.nodes[0].make("db", json!({"size": "512MiB"}));
    region.nodes[1].kato("node drain two").unwrap();
    let refusal = region.try_take(1, "db", "x").unwrap_err();
    assert!(refusal.contains("drained") && refusal.contains("undrain"), "{refusal}");
    region.nodes[2].kato("node undrain two").unwrap();
    region.try_take(1, "db", "x").unwrap();
    let table = region.nodes[0].kato("node ls").unwrap();
    for word in ["one", "two", "three", "here", "there"] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
    // A living one is nobody's to bury.
    let refusal = region.nodes[0].kato("node confirm-down two").unwrap_err();
    assert!(refusal.contains("lease lives"), "{refusal}");

    // What lies on a host's own disk goes nowhere without it.
    let wire = region.nodes[2].wire();
    wire.done("Create", json!({"Name": "near", "Opts": {"class": "default"}}));
    region.try_take(2, "near", "x").unwrap();
    let refusal = region.try_take(0, "near", "y").unwrap_err();
    assert!(refusal.contains("three"), "{refusal}");
    machines.cables[2].pull();
    until("the third to be gone", || (region.state_of(2, 0) == "gone").then_some(()));
    let refusal = region.try_take(0, "near", "y").unwrap_err();
    assert!(refusal.contains("three"), "{refusal}");
    region.nodes[0].kato("node confirm-down three").unwrap();
    assert_eq!(region.state_of(2, 0), "down");
    machines.cables[2].plug();
    until("the third to be there again", || (region.state_of(2, 0) == "there").then_some(()));

    region.nodes[1].give("db", "x");
    until("the third to have its own", || region.try_take(2, "near", "z").ok());
    for holder in ["x", "z"] {
        region.nodes[2].give("near", holder);
    }
    for volume in ["db", "near"] {
        until("a volume to go", || region.nodes[2].kato(&format!("volume rm --yes {volume}")).ok());
    }
    until("all to have let go", || region.nodes.iter().all(|node| node.servers().is_empty()).then_some(()));
    is_empty(&region.cluster);
}
