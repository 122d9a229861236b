//! The records are away, or set back. Containers go on, nobody forgets a volume, nothing new begins; and all comes right
//! without a restart.

use kato_tests::machine::until;
use serde_json::{Value, json};

use super::ground::{Machines, Region, rows};
use crate::ceph::ground::is_empty;

/// How many hold a volume.
fn holders(told: &Value) -> usize {
    told["holders"].as_array().map_or(0, Vec::len)
}

#[test]
fn while_the_records_are_away_nobody_forgets_and_nothing_new_begins() {
    let machines = Machines::start();
    let mut region = Region::start(&machines);
    region.nodes[0].make("db", json!({"size": "512MiB"}));
    let data = region.try_take(0, "db", "stays").unwrap();
    region.try_take(0, "db", "leaves").unwrap();
    let acknowledged = machines.hosts[0].folder().join("acknowledged");
    let mut writer = region.write(0, &data.join("rows"), &acknowledged);

    // Whoever leads etcd dies, and nobody notices.
    let leader = region.etcd.leader();
    region.etcd.kill(leader);
    region.nodes[1].make("second", json!({"size": "512MiB"}));
    region.etcd.restart(leader);
    region.etcd.wait();

    // Without a majority.
    let (first, second) = (leader, (leader + 1) % 3);
    region.etcd.pause(first);
    region.etcd.pause(second);
    assert_eq!(region.get(0, "db")["Volume"]["Name"], "db");
    assert_eq!(region.get(1, "db")["Volume"]["Name"], "db", "each remembers what the others made");
    let path = region.nodes[0].wire().call("Path", json!({"Name": "db"}));
    assert!(path["Mountpoint"].as_str().is_some_and(|path| path.starts_with('/')), "{path}");
    let list = region.nodes[2].wire().call("List", json!({}));
    assert_eq!(list["Volumes"].as_array().unwrap().len(), 2, "{list}");
    // Of what it does not know nobody is told that there is none: the connection ends.
    let asked =
        region.nodes[0].wire().ask("/VolumeDriver.Get", "{\"Name\": \"nobody-knows\"}\n").ok().flatten();
    assert!(asked.is_none(), "a get of an unknown volume was answered");
    let refusal = region.try_take(1, "db", "x").unwrap_err();
    assert!(refusal.contains("etcd"), "it is told what is away: {refusal}");
    let why = region.nodes[0].kato("volume why db").unwrap();
    assert!(why.contains("cannot be reached"), "{why}");
    region.nodes[0].give("db", "leaves");

    // A daemon that starts meanwhile serves what it remembers, and has not forgotten what was given back.
    region.nodes[0].daemon.kill();
    region.nodes[0].daemon.start_again();
    assert_eq!(region.get(0, "db")["Volume"]["Name"], "db");
    assert!(writer.runs(), "the container went on");

    region.etcd.resume(first);
    region.etcd.resume(second);
    until("the records to be there", || {
        let inspected = region.nodes[1].kato("volume inspect db -o json").ok()?;
        let told: Value = serde_json::from_str(&inspected).unwrap();
        (holders(&told) == 1).then_some(())
    });
    writer.kill();
    let told = rows(&acknowledged);
    assert!(told > 0 && rows(&data.join("rows")) >= told);
    region.nodes[0].give("db", "stays");
    let taken = until("the volume to move", || region.try_take(2, "db", "x").ok());
    assert!(rows(&taken.join("rows")) >= told);
    region.nodes[2].give("db", "x");
    for volume in ["db", "second"] {
        until("a volume to go", || region.nodes[1].kato(&format!("volume rm --yes {volume}")).ok());
    }
    until("all to have let go", || region.nodes.iter().all(|node| node.servers().is_empty()).then_some(()));
    is_empty(&region.cluster);
}

#[test]
fn records_that_were_set_back_are_refused_until_a_person_says_what_to_believe() {
    let machines = Machines::start();
    let region = Region::start(&machines);
    region.nodes[0].make("old", json!({"size": "512MiB"}));
    region.etcd.snapshot("backup");
    region.nodes[0].make("new", json!({"size": "512MiB"}));
    let data = region.try_take(0, "new", "x").unwrap();
    std::fs::write(data.join("rows"), "1\n").unwrap();
    until("all to remember it", || {
        region.nodes.iter().all(|node| node.kato("volume inspect new").is_ok()).then_some(())
    });

    region.etcd.restore("backup", "restored");
    // The new one has a writer, of which these records know nothing: nobody else gets it.
    for host in [0, 1] {
        let refusal = until("the records to be refused", || {
            region.try_take(host, "old", "y").err().filter(|told| told.contains("recover --scan"))
        });
        assert!(refusal.contains("etcd"), "{refusal}");
        assert_eq!(region.get(host, "new")["Volume"]["Name"], "new");
    }
    for node in &region.nodes {
        let output = node.daemon.kato(&["recover", "--scan"]);
        let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(told.contains("remembers"), "{told}");
        println!("{told}");
    }
    let refusal = until("the second to know who has it", || {
        region.try_take(1, "new", "y").err().filter(|told| !told.contains("recover"))
    });
    assert!(refusal.contains("one"), "{refusal}");
    region.nodes[0].give("new", "x");
    let taken = until("it to be free", || region.try_take(1, "new", "y").ok());
    assert_eq!(rows(&taken.join("rows")), 1);
    region.nodes[1].give("new", "y");
    for volume in ["old", "new"] {
        until("a volume to go", || region.nodes[2].kato(&format!("volume rm --yes {volume}")).ok());
    }
    until("all to have let go", || region.nodes.iter().all(|node| node.servers().is_empty()).then_some(()));
    is_empty(&region.cluster);
}
