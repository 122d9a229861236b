//! From `docker volume create` to an empty pool, with a real dockerd and a real cluster; and a second node, with records
//! of its own, that wants what the first has.

use kato_tests::{ceph::Cluster, dockerd::Dockerd, machine::Machine, machine::until};
use serde_json::json;

use super::ground::{Node, is_empty};

#[test]
fn containers_keep_their_data_through_snapshots_copies_growth_and_a_second_node() {
    let machine = Machine::start();
    let cluster = Cluster::start_in(&machine);
    let node = Node::start(&machine, &cluster);
    let dockerd = Dockerd::start(&machine);
    let docker = |words: &str| dockerd.docker(&words.split(' ').collect::<Vec<_>>());
    let run = |volume: &str, line: &str| {
        let mount = format!("{volume}:/data");
        let words = ["run", "--rm", "--network", "none", "--volume-driver", "kato", "-v", &mount];
        dockerd.docker(&[&words[..], &[Dockerd::IMAGE, "sh", "-c", line]].concat()).unwrap()
    };

    docker("volume create -d kato -o class=ceph -o size=512MiB db").unwrap();
    run("db", "echo first > /data/rows && sync");
    assert_eq!(run("db", "cat /data/rows"), "first");

    // The moment of a snapshot is one of its own.
    node.kato("snapshot create db before").unwrap();
    run("db", "echo second > /data/rows && sync");
    docker("volume create -d kato -o class=ceph -o from=snapshot:before old").unwrap();
    docker("volume create -d kato -o class=ceph -o from=volume:db copy").unwrap();
    assert_eq!(
        (run("old", "cat /data/rows"), run("copy", "cat /data/rows")),
        ("first".into(), "second".into())
    );
    node.kato("group create both db copy").unwrap();

    // Growth reaches a container that goes on.
    let goes_on = "run -d --name writer --network none --volume-driver kato -v db:/data";
    docker(&format!("{goes_on} {} sleep 600", Dockerd::IMAGE)).unwrap();
    let room = || docker("exec writer df -k /data").unwrap();
    let kilobytes = |text: &str| {
        text.split_whitespace().find_map(|word| word.parse::<u64>().ok().filter(|n| *n > 1000)).unwrap()
    };
    let before = kilobytes(&room());
    node.kato("volume grow db 1GiB").unwrap();
    until("the container to have more room", || (kilobytes(&room()) > before + 400_000).then_some(()));

    // A second node has records of its own, and refuses what the first holds.
    let there = Machine::start_beside(&machine);
    let second = Node::start(&there, &cluster);
    second.make("db", json!({"size": "1GiB"}));
    let refusal = second.wire().refused("Mount", json!({"Name": "db", "ID": "second"}));
    assert!(refusal.contains("here"), "{refusal}");
    docker("rm -f writer").unwrap();
    until("the first to let go", || node.servers().is_empty().then_some(()));
    let taken = second.take("db", "second");
    assert_eq!(std::fs::read_to_string(taken.join("rows")).unwrap(), "second\n");
    let refusal = node.wire().refused("Mount", json!({"Name": "db", "ID": "first"}));
    assert!(
        refusal.contains("open") || refusal.contains("in use") || refusal.contains("attached"),
        "{refusal}"
    );
    second.give("db", "second");
    until("the second to let go", || second.servers().is_empty().then_some(()));

    // What others are copies of can be deleted, and goes with the last of them.
    node.remove("db");
    assert_eq!(run("old", "cat /data/rows"), "first");
    docker("volume create -d kato -o class=ceph -o from=snapshot:before late").unwrap();
    assert_eq!(run("late", "cat /data/rows"), "first");
    node.kato("group rm both").unwrap();
    node.kato("snapshot rm before").unwrap();
    for volume in ["late", "old", "copy"] {
        docker(&format!("volume rm {volume}")).unwrap();
    }
    node.has_let_go();
    second.has_let_go();
    is_empty(&cluster);
}
