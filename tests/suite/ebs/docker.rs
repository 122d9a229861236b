//! From `docker volume create` to an empty account, with a real dockerd; and a second node, with records of its own, that
//! wants what the first has.

use kato_tests::{
    aws::Aws,
    dockerd::Dockerd,
    machine::{Machine, until},
};
use serde_json::json;

use super::ground::{ZONE, is_detached, is_empty, start};

#[test]
fn containers_keep_their_data_through_snapshots_copies_growth_and_a_second_node() {
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let here = aws.add_instance(ZONE, "m5.large");
    let node = start(&machine, &aws, &here);
    let dockerd = Dockerd::start(&machine);
    let docker = |words: &str| dockerd.docker(&words.split(' ').collect::<Vec<_>>());
    let run = |volume: &str, line: &str| {
        let mount = format!("{volume}:/data");
        let words = ["run", "--rm", "--network", "none", "--volume-driver", "kato", "-v", &mount];
        dockerd.docker(&[&words[..], &[Dockerd::IMAGE, "sh", "-c", line]].concat()).unwrap()
    };

    docker("volume create -d kato -o class=ebs -o size=1GiB db").unwrap();
    run("db", "echo first > /data/rows && sync");
    assert_eq!(run("db", "cat /data/rows"), "first");

    // The moment of a snapshot is one of its own, and a copy of a volume is one by way of a snapshot.
    node.kato("snapshot create db before").unwrap();
    run("db", "echo second > /data/rows && sync");
    docker("volume create -d kato -o class=ebs -o from=snapshot:before old").unwrap();
    assert_eq!(
        (run("old", "cat /data/rows"), run("db", "cat /data/rows")),
        ("first".into(), "second".into())
    );

    // Growth reaches a container that goes on.
    let goes_on = "run -d --name writer --network none --volume-driver kato -v db:/data";
    docker(&format!("{goes_on} {} sleep 600", Dockerd::IMAGE)).unwrap();
    let room = || docker("exec writer df -k /data").unwrap();
    let kilobytes = |text: &str| {
        text.split_whitespace().find_map(|word| word.parse::<u64>().ok().filter(|n| *n > 1000)).unwrap()
    };
    let before = kilobytes(&room());
    node.kato("volume grow db 2GiB").unwrap();
    until("the container to have more room", || (kilobytes(&room()) > before + 900_000).then_some(()));

    // A second node has records of its own, and refuses what the first holds.
    let machine_there = Machine::start_beside(&machine);
    let there = aws.add_instance(ZONE, "m7i.large");
    let second = start(&machine_there, &aws, &there);
    second.wire().done("Create", json!({ "Name": "db", "Opts": { "class": "ebs", "size": "2GiB" } }));
    let refusal = second.wire().refused("Mount", json!({ "Name": "db", "ID": "second" }));
    assert!(refusal.contains(here.id()), "who has it is named: {refusal}");
    docker("rm -f writer").unwrap();
    is_detached(&aws);
    let taken = second.take("db");
    assert_eq!(std::fs::read_to_string(taken.join("rows")).unwrap(), "second\n");
    std::fs::write(taken.join("rows"), "third\n").unwrap();
    let refusal = node.wire().refused("Mount", json!({ "Name": "db", "ID": "first" }));
    assert!(refusal.contains(there.id()), "who has it is named: {refusal}");
    second.give("db");
    is_detached(&aws);
    assert_eq!(run("db", "cat /data/rows"), "third", "and back again");

    // What others are copies of can be deleted at any time.
    docker("volume rm db").unwrap();
    second.kato("volume rm --yes --forget db").unwrap();
    node.kato("snapshot rm before").unwrap();
    assert_eq!(run("old", "cat /data/rows"), "first");
    docker("volume rm old").unwrap();
    for node in [&node, &second] {
        node.has_let_go();
    }
    is_empty(&aws, &[&here, &there]);
}
