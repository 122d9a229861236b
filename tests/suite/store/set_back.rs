//! An etcd that was restored from a backup: it is found out by those that run and by those that start, whatever it looks
//! like by then, and believed again only after somebody said so on each node.

use std::time::{Duration, Instant};

use kato_orchestrator::{
    Error, Kind,
    ports::store::{Durability, Store as _},
};
use kato_store::{EtcdConfig, EtcdStore};
use kato_tests::etcd::Etcd;
use tempfile::TempDir;

use super::{at, put};

struct Ground {
    etcd: Etcd,
    folder: TempDir,
}

impl Ground {
    /// An etcd that was backed up, and went on.
    async fn with_a_backup() -> (Self, EtcdStore, EtcdStore) {
        let ground = Self { etcd: Etcd::start(), folder: tempfile::tempdir().unwrap() };
        let (one, two) = (ground.open("one").await.unwrap(), ground.open("two").await.unwrap());
        one.commit(put("a", "before"), Durability::Durable).await.unwrap();
        ground.etcd.snapshot("backup");
        for n in 0..30 {
            one.commit(put("a", &n.to_string()), Durability::Durable).await.unwrap();
            two.commit(put("b", &n.to_string()), Durability::Durable).await.unwrap();
        }
        (ground, one, two)
    }

    fn config(&self, node: &str) -> EtcdConfig {
        EtcdConfig { patience: Duration::from_secs(10), ..at(&self.etcd, &self.folder, node) }
    }

    async fn open(&self, node: &str) -> Result<EtcdStore, Error> {
        EtcdStore::open(self.config(node)).await
    }
}

fn is_refusal(error: &Error) {
    assert_eq!(error.kind, Kind::Precondition, "{error}");
    assert!(error.message.contains("kato recover --scan"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_runs_and_who_starts_refuses_an_etcd_that_was_set_back_until_each_was_told() {
    let (ground, one, two) = Ground::with_a_backup().await;
    ground.etcd.restore("backup", "first");
    // Not one write of those that run gets there.
    let error = one.commit(put("late", "1"), Durability::Durable).await.unwrap_err();
    is_refusal(&error);
    is_refusal(&one.load("a").await.unwrap_err());
    two.close().await;
    is_refusal(&ground.open("two").await.unwrap_err());
    assert_eq!(ground.etcd.ctl(&["get", "--print-value-only", "kato/r/late"]).trim(), "");
    assert_eq!(ground.etcd.ctl(&["get", "--print-value-only", "kato/r/a"]).trim(), "before");
    one.close().await;
    is_refusal(&ground.open("one").await.unwrap_err());

    assert!(
        EtcdStore::accept(ground.config("one"), Vec::new()).await.unwrap(),
        "the first begins a new house"
    );
    let one = ground.open("one").await.unwrap();
    for n in 0..100 {
        one.commit(put("c", &n.to_string()), Durability::Durable).await.unwrap();
    }
    // By now it is further than the other node ever was, and that one is told all the same.
    is_refusal(&ground.open("two").await.unwrap_err());
    assert!(!EtcdStore::accept(ground.config("two"), Vec::new()).await.unwrap(), "the second joins it");
    let two = ground.open("two").await.unwrap();
    assert_eq!(two.load("c").await.unwrap().unwrap().value, b"99");
    one.commit(put("c", "100"), Durability::Durable).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_was_set_back_and_has_gone_on_since_is_found_out_by_what_it_lacks() {
    let (ground, one, two) = Ground::with_a_backup().await;
    one.close().await;
    two.close().await;
    ground.etcd.restore("backup", "first");
    for n in 0..300 {
        ground.etcd.ctl(&["put", "others/key", &n.to_string()]);
    }
    let error = ground.open("one").await.unwrap_err();
    is_refusal(&error);
    assert!(error.message.contains("lacks"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_is_found_out_while_it_is_watched() {
    let (ground, one, two) = Ground::with_a_backup().await;
    drop(two);
    ground.etcd.restore("backup", "second");
    // Nobody asks for anything: the watch alone finds it.
    let until = Instant::now() + Duration::from_secs(20);
    tokio::time::sleep(Duration::from_secs(2)).await;
    loop {
        let error = one.load("a").await.unwrap_err();
        if error.kind == Kind::Precondition {
            is_refusal(&error);
            assert!(error.message.contains("cluster"), "{error}");
            break;
        }
        assert!(Instant::now() < until, "{error}");
    }
    // It goes on without a start, once it was told to.
    assert!(one.accept_here(Vec::new()).await.unwrap());
    assert_eq!(one.load("a").await.unwrap().unwrap().value, b"before");
    one.commit(put("a", "after"), Durability::Durable).await.unwrap();
    drop(one.claim("volume 1").await.unwrap());
    one.catch_up().await.unwrap();
    let from = one.watch_from("", 0).await.unwrap().next;
    one.commit(put("a", "later"), Durability::Durable).await.unwrap();
    let changes = tokio::time::timeout(Duration::from_secs(20), one.watch_from("", from)).await.unwrap();
    assert_eq!(changes.unwrap().events.len(), 1);
    one.close().await;
    ground.open("one").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_after_a_crash_or_a_plain_restart_of_etcd_is_no_reason_to_refuse() {
    let (ground, one, two) = Ground::with_a_backup().await;
    // As after a kill: nothing is closed in order.
    std::mem::forget((one, two));
    ground.etcd.kill(0);
    ground.etcd.restart(0);
    ground.etcd.wait();
    for _ in 0..3 {
        let one = ground.open("one").await.unwrap();
        one.commit(put("a", "again"), Durability::Durable).await.unwrap();
        drop(one);
    }
}
