//! The userspace way: a server that brings an image to the node. It outlives the daemon, passes flushes on, and when it
//! is lost nothing that was flushed is.

use std::{fs, io::Write as _, path::Path};

use kato_tests::{ceph::Cluster, machine::Machine, machine::until};
use serde_json::{Value, json};

use super::ground::{Node, is_empty, is_used};

/// Writes and flushes; whether that reached the disk.
fn write(file: &Path, text: &str) -> bool {
    let written = fs::File::create(file).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.is_ok()
}

/// How many flushes librbd has counted.
fn flushes(node: &Node<'_>) -> u64 {
    let servers = node.servers();
    let socket = servers[0].join("asok");
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.write_all(b"{\"prefix\": \"perf dump\"}\0").unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).unwrap();
    let counters: Value = serde_json::from_slice(&answer[4..]).unwrap();
    let images = counters.as_object().unwrap().iter().filter(|(name, _)| name.starts_with("librbd-"));
    images.map(|(_, image)| image["flush"].as_u64().unwrap()).sum()
}

fn state(node: &Node<'_>) -> String {
    node.told("volume inspect db")["mounts"][0]["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn what_was_flushed_outlives_the_daemon_and_every_end_of_a_server() {
    let machine = Machine::start();
    let cluster = Cluster::start_in(&machine);
    let mut node = Node::start(&machine, &cluster);
    let ways = node.kato("node inspect").unwrap();
    assert!(ways.contains("rbd by qemu") && ways.contains("modprobe rbd"), "{ways}");
    node.make("db", json!({"size": "512MiB"}));
    let data = node.take("db", "one");

    // A flush of the filesystem's is one of librbd's.
    let before = flushes(&node);
    for number in 0..5 {
        assert!(write(&data.join("rows"), &format!("flushed {number}")));
    }
    assert!(flushes(&node) >= before + 5, "{before} and then {}", flushes(&node));

    // The daemon's end is nothing to it, and its next life finds it.
    let server = node.server();
    node.daemon.kill();
    assert!(write(&data.join("rows"), "without a daemon"));
    node.daemon.start_again();
    assert_eq!(node.server(), server);
    let client = node.told("volume inspect db")["attachments"][0]["client"].as_str().unwrap().to_owned();
    let image = cluster.images().remove(0);
    assert_eq!(cluster.watchers(&image), std::slice::from_ref(&client));

    let mut lost = vec![client];
    let mut devices = Vec::new();
    for end in ["KILL", "TERM", "blocklisted"] {
        devices.push(node.device());
        let text = format!("before it was {end}");
        assert!(write(&data.join("rows"), &text));
        match end {
            "blocklisted" => {
                cluster.ceph(&["osd", "blocklist", "add", lost.last().unwrap(), "3600"]).unwrap();
            }
            signal => node.signal_server(signal),
        }
        until("the mount to be seen broken", || (state(&node) == "broken").then_some(()));
        assert!(!write(&data.join("more"), "into nothing"), "{end}");
        let refusal = node.wire().refused("Mount", json!({"Name": "db", "ID": "two"}));
        assert!(refusal.contains("one"), "the holder is named: {refusal}");
        let why = node.kato("volume why db").unwrap();
        assert!(why.contains("broken"), "{why}");

        // Nothing is unmounted under a holder, until somebody insists.
        node.kato("volume repair db --force").unwrap();
        assert_eq!(fs::read_to_string(node.take("db", "one").join("rows")).unwrap(), text);
        let entries = cluster.ceph_json(&["osd", "blocklist", "ls"]).unwrap();
        for client in &lost {
            let until = entries.as_array().unwrap().iter().find(|entry| entry["addr"] == client.as_str());
            let year = until.unwrap_or_else(|| panic!("{client} is not shut out"))["until"].as_str().unwrap();
            // An entry by somebody's hand keeps its own end.
            let by_hand = end == "blocklisted" && lost.last() == Some(client);
            assert!(by_hand || year >= "2036", "{client} is shut out until {year}");
        }
        let next = cluster.watchers(&image);
        assert!(next.len() == 1 && !lost.contains(&next[0]), "{next:?} came as another client than {lost:?}");
        lost.extend(next);
    }
    devices.push(node.device());
    node.give("db", "one");
    until("the mount to be taken down", || node.servers().is_empty().then_some(()));
    for (device, turn) in devices {
        assert!(!is_used(&device, &turn), "{device} was left behind by the server that had it");
    }
    node.remove("db");
    node.has_let_go();
    is_empty(&cluster);
}
