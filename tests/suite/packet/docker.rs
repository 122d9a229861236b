//! From `docker volume create` to an empty project, with a real dockerd; and a second node, with records of its own, that
//! wants what the first has.

use kato_tests::{
    dockerd::Dockerd,
    machine::{Machine, until},
    packet::{Packet, Site},
};
use serde_json::json;

use super::ground::{FACILITY, Way, is_detached, is_empty, sections, start, start_with};

#[test]
fn containers_keep_their_data_through_snapshots_copies_growth_and_a_second_node() {
    let machine = Machine::start();
    let packet = Packet::start_in(&machine);
    let here = packet.add_device(FACILITY, "node-a");
    let node = start(&machine, &packet, &here);
    let dockerd = Dockerd::start(&machine);
    let docker = |words: &str| dockerd.docker(&words.split(' ').collect::<Vec<_>>());
    let run = |volume: &str, line: &str| {
        let mount = format!("{volume}:/data");
        let words = ["run", "--rm", "--network", "none", "--volume-driver", "kato", "-v", &mount];
        dockerd.docker(&[&words[..], &[Dockerd::IMAGE, "sh", "-c", line]].concat()).unwrap()
    };

    docker("volume create -d kato -o class=packet -o size=1GiB db").unwrap();
    run("db", "echo first > /data/rows && sync");
    assert_eq!(run("db", "cat /data/rows"), "first");

    // The moment of a snapshot is one of its own.
    node.kato("snapshot create db before").unwrap();
    run("db", "echo second > /data/rows && sync");
    docker("volume create -d kato -o class=packet -o from=snapshot:before old").unwrap();
    docker("volume create -d kato -o class=packet -o from=volume:db copy").unwrap();
    let rows = ["old", "copy", "db"].map(|volume| run(volume, "cat /data/rows"));
    assert_eq!(rows, ["first", "second", "second"]);

    // It grows only while it is detached, and says so; whoever mounts it next has the room.
    let goes_on = "run -d --name writer --network none --volume-driver kato -v db:/data";
    docker(&format!("{goes_on} {} sleep 600", Dockerd::IMAGE)).unwrap();
    let kilobytes = |text: &str| {
        text.split_whitespace().find_map(|word| word.parse::<u64>().ok().filter(|n| *n > 1000)).unwrap()
    };
    let before = kilobytes(&docker("exec writer df -k /data").unwrap());
    let refusal = node.kato("volume grow db 2GiB").unwrap_err();
    assert!(refusal.contains("use") || refusal.contains("mounted"), "{refusal}");
    docker("exec writer sh -c cat</data/rows").ok();
    docker("rm -f writer").unwrap();
    is_detached(&packet);
    node.at_last("volume grow db 2GiB");
    assert!(kilobytes(&run("db", "df -k /data")) > before + 900_000);
    is_detached(&packet);

    // A second node has records of its own, and refuses what the first holds.
    docker(&format!("{goes_on} {} sleep 600", Dockerd::IMAGE)).unwrap();
    let machine_there = Machine::start_beside(&machine);
    let there = packet.add_device(FACILITY, "node-b");
    // It asks the metadata service where things are.
    let second = start_with(&machine_there, &sections(&machine_there, &packet, &there, Way::Metadata));
    second.wire().done("Create", json!({ "Name": "db", "Opts": { "class": "packet", "size": "2GiB" } }));
    let refusal = second.wire().refused("Mount", json!({ "Name": "db", "ID": "second" }));
    assert!(refusal.contains(here.id()), "who has it is named: {refusal}");
    docker("rm -f writer").unwrap();
    is_detached(&packet);
    let taken = second.take("db");
    assert_eq!(std::fs::read_to_string(taken.join("rows")).unwrap(), "second\n");
    std::fs::write(taken.join("rows"), "third\n").unwrap();
    let refusal = node.wire().refused("Mount", json!({ "Name": "db", "ID": "first" }));
    assert!(refusal.contains(there.id()), "who has it is named: {refusal}");
    second.give("db");
    is_detached(&packet);
    assert_eq!(run("db", "cat /data/rows"), "third", "and back again");
    is_detached(&packet);

    // Snapshots may go with their volume, so they go first.
    docker("volume rm db").unwrap_err();
    node.kato("snapshot rm --yes before").unwrap();
    second.kato("volume rm --yes --forget db").unwrap();
    for volume in ["db", "old", "copy"] {
        docker(&format!("volume rm {volume}")).unwrap();
    }
    is_empty(&packet, &[&node, &second]);
}

/// A cloud that grows what is attached needs nobody to let go.
#[test]
fn growth_reaches_a_mount_where_the_cloud_lets_it() {
    let machine = Machine::start();
    let packet = Packet::start_in_with(&machine, Site { grows_attached: true, ..Site::default() });
    let here = packet.add_device(FACILITY, "node-a");
    let told =
        sections(&machine, &packet, &here, Way::Access).replace("lun =", "grows-attached = \"true\"\nlun =");
    let node = start_with(&machine, &told);
    node.kato("volume create db -c packet -s 1GiB").unwrap();
    let data = node.take("db");
    let room = || {
        let room = rustix::fs::statvfs(&data).unwrap();
        room.f_blocks * room.f_frsize
    };
    let before = room();
    node.at_last("volume grow db 2GiB");
    until("the filesystem to have grown", || (room() > before + (900 << 20)).then_some(()));
    node.give("db");
    node.remove_all();
    is_empty(&packet, &[&node]);
}
