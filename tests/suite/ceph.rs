//! What needs a real Ceph: the cluster of the kit itself, here; `backend`, the suite that every backend is asked;
//! `docker`, from a container to an empty pool; `servers`, the userspace way, and `zeroes` that are asked of it;
//! `faults`, of the cluster and of whoever else uses it; `kills`, of the daemon. A cluster takes seconds to start and
//! each test runs in a process of its own, so there are few of them and each is a long story.

mod backend;
mod copies;
mod docker;
mod faults;
pub(crate) mod ground;
mod kills;
mod servers;
mod zeroes;

use std::{fs, os::unix::fs::MetadataExt as _};

use kato_tests::ceph::Cluster;

#[test]
fn the_cluster_of_the_kit_makes_an_image_and_refuses_a_wrong_key() {
    let cluster = Cluster::start();
    let user = cluster.as_user();
    user.rbd(&["create", "db", "--size", "64M"]).unwrap();
    assert_eq!(user.rbd(&["ls"]).unwrap(), "db");
    user.rbd(&["snap", "create", "db@before"]).unwrap();
    assert_eq!(
        (cluster.images(), cluster.snapshots()),
        (vec!["db".to_owned()], vec!["db@before".to_owned()])
    );
    assert!(cluster.watchers("db").is_empty() && cluster.blocklist().is_empty());

    // The user has this pool and no other.
    cluster.create_pool("other");
    assert!(user.rbd(&["create", "other/db", "--size", "64M"]).unwrap_err().contains("not permitted"));

    let refusal = cluster.client(cluster.user(), cluster.wrong_keyring()).rbd(&["ls"]).unwrap_err();
    assert!(refusal.contains("Permission denied"), "it is refused, not left to wait: {refusal}");
    let key = fs::metadata(cluster.keyring()).unwrap();
    assert_eq!((key.uid(), key.mode() & 0o777), (65_534, 0o400));

    user.rbd(&["snap", "rm", "db@before"]).unwrap();
    user.rbd(&["rm", "db"]).unwrap();
    assert!(cluster.images().is_empty() && cluster.snapshots().is_empty() && cluster.trash().is_empty());
}
