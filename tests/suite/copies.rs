//! Bytes from one backend to another, and into files and back, by the daemon as it is shipped: what is copied is what was
//! there, a kill costs nothing, and nothing is left.

pub(crate) mod ground;

use std::fs;

use kato_tests::machine::{Machine, until};
use serde_json::json;

use self::ground::{Node, ROWS, fill, holds, noise, sync};

/// Two backends of images, each in a folder of its own.
fn sections(machine: &Machine) -> String {
    let folder = machine.folder().join("other");
    fs::create_dir_all(&folder).unwrap();
    format!(
        "[node]\nidle-grace = \"1s\"\n[limits]\ntidy-every = \"1s\"\n\
         [class.images]\nbackend = \"local\"\nfs = \"xfs\"\nparameters = {{ kind = \"image\" }}\n\
         [class.other]\nbackend = \"other\"\nfs = \"xfs\"\nparameters = {{ kind = \"image\" }}\n\
         [backend.other]\nplugin = \"local\"\n[backend.other.grants]\n\
         directories = {{ data = \"{}\" }}\nconnections = {{ file = true }}\n",
        folder.display()
    )
}

fn start(machine: &Machine) -> Node<'_> {
    Node::start_with(machine, &sections(machine), &[])
}

#[test]
fn a_copy_on_another_backend_is_what_its_source_was() {
    let machine = Machine::start();
    let node = start(&machine);
    node.kato("volume create db -c images -s 512MiB").unwrap();
    let data = node.take("db");
    fill(&data, 1);

    let copied = node.told("volume copy db copy --to-class other");
    assert_eq!((&copied["state"], &copied["backend"]), (&json!("ready"), &json!("other")));
    until("the copying to be over", || {
        node.told("volume inspect copy").get("copying").is_none().then_some(())
    });
    holds(&node.take("copy"), 1);
    until("what was cut for the copy to go with it", || node.names("snapshot").is_empty().then_some(()));
    // The same words find the same copy, and others another one's name.
    node.told("volume copy db copy --to-class other");
    let refusal = node.kato("volume copy copy db --to-class images").unwrap_err();
    assert!(refusal.contains("another name"), "{refusal}");

    // Only what has changed since: so nearly nothing.
    node.kato("volume copy db first --to-class other --keep").unwrap();
    fs::write(data.join("rows-5"), noise(ROWS, 99)).unwrap();
    sync(&data);
    let second = node.told("volume copy db second --to-class other --keep");
    assert_eq!(second["state"], "ready");
    let data = node.take("second");
    assert!(fs::read(data.join("rows-5")).unwrap() == noise(ROWS, 99));
    assert!(fs::read(data.join("rows-0")).unwrap() == noise(ROWS, 1));
    assert_eq!(node.names("snapshot").len(), 4, "one of each moment on each side");

    for name in ["copy", "db", "second"] {
        node.give(name);
    }
    node.remove_all();
    node.has_let_go();
}

#[test]
fn a_copy_goes_on_where_a_kill_stopped_it_and_goes_when_it_is_not_wanted() {
    let machine = Machine::start();
    let mut node = start(&machine);
    node.kato("volume create db -c images -s 512MiB").unwrap();
    fill(&node.take("db"), 7);
    for round in 0..3 {
        let name = format!("copy-{round}");
        node.kato(&format!("volume copy db {name} --to-class other --no-wait")).unwrap();
        node.daemon.kill();
        node.daemon.start_again();
        until("the copy to be whole", || {
            let copy = node.told(&format!("volume inspect {name}"));
            (copy["state"] == "ready" && copy.get("copying").is_none()).then_some(())
        });
        holds(&node.take(&name), 7);
        node.give(&name);
    }
    node.kato("volume copy db late --to-class other --no-wait").unwrap();
    node.kato("volume rm --yes late").unwrap();
    node.give("db");
    for name in node.names("volume") {
        until("a volume to be removed", || node.kato(&format!("volume rm --yes {name}")).ok());
    }
    until("the snapshots to be gone", || node.names("snapshot").is_empty().then_some(()));
    node.has_let_go();
}

#[test]
fn a_snapshot_is_a_file_and_a_volume_again() {
    let machine = Machine::start();
    let node = start(&machine);
    let folder = machine.folder().display().to_string();
    node.kato("volume create db -c images -s 512MiB").unwrap();
    fill(&node.take("db"), 3);
    node.kato("snapshot create db monday").unwrap();
    node.kato(&format!("snapshot export monday {folder}/monday.kato")).unwrap();
    let size = fs::metadata(machine.folder().join("monday.kato")).unwrap().len();
    assert!((18 << 20..64 << 20).contains(&size), "what holds nothing is not in it: {size}");
    let refusal = node.kato(&format!("snapshot export monday {folder}/monday.kato")).unwrap_err();
    assert!(refusal.contains("--force"), "{refusal}");

    let made = node.told(&format!("snapshot import {folder}/monday.kato again -c other"));
    assert_eq!(made["state"], "ready");
    holds(&node.take("again"), 3);
    node.give("again");

    // Through a pipe, and what is damaged makes nothing.
    let pipe = format!(
        "{kato} --config {folder}/kato.toml snapshot export monday - | {kato} --config {folder}/kato.toml snapshot \
         import - piped -c other",
        kato = kato_tests::daemon::binary().display()
    );
    let piped = machine.shell(&pipe);
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    holds(&node.take("piped"), 3);
    node.give("piped");
    let mut bytes = fs::read(machine.folder().join("monday.kato")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(machine.folder().join("bad.kato"), bytes).unwrap();
    let refusal = node.kato(&format!("snapshot import {folder}/bad.kato bad -c other")).unwrap_err();
    assert!(refusal.contains("damaged"), "{refusal}");
    until("nothing to be left of it", || node.kato("volume inspect bad").err());

    node.give("db");
    node.remove_all();
    node.has_let_go();
}
