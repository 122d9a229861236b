//! Copies between images in Ceph and images in files: a server reads the snapshot and another one writes the new image,
//! and both are gone afterwards.

use std::fs;

use kato_tests::{ceph::Cluster, machine::Machine, machine::until};
use serde_json::json;

use super::ground::{Node, is_empty, sections};
use crate::copies::ground::{fill, holds};

#[test]
fn a_volume_moves_into_the_cluster_and_out_of_it() {
    let machine = Machine::start();
    let cluster = Cluster::start_in(&machine);
    let images = "[class.images]\nbackend = \"local\"\nfs = \"xfs\"\nparameters = { kind = \"image\" }\n";
    let node = Node::start_with(&machine, &(sections(&cluster) + images));
    node.wire().done("Create", json!({"Name": "db", "Opts": {"class": "images", "size": "512MiB"}}));
    fill(&node.take("db", "one"), 1);

    node.kato("volume copy db in-ceph --to-class ceph").unwrap();
    until("the copying to be over", || {
        node.told("volume inspect in-ceph").get("copying").is_none().then_some(())
    });
    until("its server to be gone", || node.servers().is_empty().then_some(()));
    let data = node.take("in-ceph", "one");
    holds(&data, 1);

    // Out again, from under a writer, and then only what has changed.
    node.kato("volume copy in-ceph first --to-class images --keep").unwrap();
    fs::write(data.join("more"), vec![7; 5 << 20]).unwrap();
    rustix::fs::syncfs(fs::File::open(&data).unwrap()).unwrap();
    node.kato("volume copy in-ceph second --to-class images").unwrap();
    let data = node.take("second", "one");
    holds(&data, 1);
    assert!(fs::read(data.join("more")).unwrap() == vec![7; 5 << 20]);
    let file = machine.folder().join("out.kato");
    node.kato(&format!("snapshot export in-ceph.at.first {}", file.display())).unwrap();
    node.kato(&format!("snapshot import {} third -c ceph", file.display())).unwrap();
    holds(&node.take("third", "one"), 1);

    for (name, holder) in [("db", "one"), ("in-ceph", "one"), ("second", "one"), ("third", "one")] {
        node.give(name, holder);
    }
    for name in ["in-ceph.at.first", "first.twin"] {
        until("a snapshot to be removed", || node.kato(&format!("snapshot rm --yes {name}")).ok());
    }
    for name in ["db", "in-ceph", "first", "second", "third"] {
        until("a volume to be removed", || node.kato(&format!("volume rm --yes {name}")).ok());
    }
    until("the last server to be gone", || node.servers().is_empty().then_some(()));
    node.has_let_go();
    is_empty(&cluster);
}
