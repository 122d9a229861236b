//! What becomes of the store while etcd is in trouble: it says so, within its patience, and goes on by itself
//! afterwards. The same store is used from the first line of each story to the last.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kato_orchestrator::{
    Error, Kind,
    model::NodeId,
    ports::store::{
        Batch, Durability, Guard, Store,
        members::{Attendance, Members as _},
    },
    records::SCHEMA,
};
use kato_store::{EtcdConfig, EtcdStore};
use kato_tests::etcd::{Etcd, Wishes};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{at, delete, guarded, put, wire::count};

struct Ground {
    etcd: Etcd,
    folder: TempDir,
}

impl Ground {
    fn of(members: usize) -> Self {
        let etcd = Etcd::start_with(Wishes { members, ..Wishes::default() });
        Self { etcd, folder: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, node: &str, patience: u64) -> EtcdStore {
        EtcdStore::open(self.config(node, patience)).await.unwrap()
    }

    fn config(&self, node: &str, patience: u64) -> EtcdConfig {
        EtcdConfig { patience: Duration::from_secs(patience), ..at(&self.etcd, &self.folder, node) }
    }
}

fn attendance(name: &str, ttl: u64) -> Attendance {
    let node = NodeId::parse(name).unwrap();
    Attendance { node, session: 1, schema: SCHEMA, lease: None, ttl: Duration::from_secs(ttl) }
}

/// Tries until it works, and tells how long that took.
async fn recovers<T>(mut attempt: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let until = Instant::now() + Duration::from_secs(45);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < until, "it does not recover: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_only_wait_while_the_leader_is_killed_or_held_still() {
    let ground = Ground::of(3);
    let store: Arc<dyn Store> = Arc::new(ground.open("one", 30).await);
    for (round, hold) in [false, true, false].into_iter().enumerate() {
        let mut tasks = JoinSet::new();
        for worker in 0..8 {
            tasks.spawn(count(store.clone(), format!("counter/{round}/{worker}"), 80));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let leader = ground.etcd.leader();
        if hold {
            ground.etcd.pause(leader);
        } else {
            ground.etcd.kill(leader);
        }
        let done = tokio::time::timeout(Duration::from_secs(60), tasks.join_all()).await.unwrap();
        assert_eq!(done, [80; 8], "round {round}");
        if hold {
            ground.etcd.resume(leader);
        } else {
            ground.etcd.restart(leader);
        }
        ground.etcd.wait();
    }
    for entry in store.scan("counter/", None, 100).await.unwrap() {
        assert_eq!(entry.value, b"80", "{}", entry.key);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_answered_and_with_one_everything_again() {
    let ground = Ground::of(3);
    let store = ground.open("one", 3).await;
    store.commit(put("a", "1"), Durability::Durable).await.unwrap();
    let mut next = store.watch_from("", 0).await.unwrap().next;
    for member in [0, 2] {
        ground.etcd.kill(member);
    }
    let began = Instant::now();
    let error = store.commit(put("a", "2"), Durability::Durable).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    let error = store.load("a").await.unwrap_err();
    assert!(
        error.kind == Kind::Unavailable && error.message.contains("etcd"),
        "an old answer is none: {error}"
    );
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    for member in [0, 2] {
        ground.etcd.restart(member);
    }
    let revision = recovers(async || store.commit(put("b", "3"), Durability::Durable).await).await;
    // What was unknown became known, and whoever watches hears of all of it.
    let a = store.load("a").await.unwrap().unwrap();
    assert!(a.value == b"1" || a.value == b"2");
    while next < revision {
        let changes =
            tokio::time::timeout(Duration::from_secs(30), store.watch_from("", next)).await.unwrap();
        next = changes.unwrap().next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_missed_what_was_compacted_is_told_to_read_again() {
    let ground = Ground::of(3);
    let alone = EtcdConfig { endpoints: vec![ground.etcd.endpoint(0)], ..ground.config("one", 20) };
    let cut_off = EtcdStore::open(alone).await.unwrap();
    let others = EtcdConfig { endpoints: ground.etcd.endpoints().split_off(1), ..ground.config("two", 20) };
    let others = EtcdStore::open(others).await.unwrap();
    others.commit(put("v/0", "0"), Durability::Durable).await.unwrap();
    cut_off.catch_up().await.unwrap();
    let from = cut_off.watch_from("v/", 0).await.unwrap().next;

    // A short absence is made up for.
    ground.etcd.kill(0);
    others.commit(put("v/1", "1"), Durability::Durable).await.unwrap();
    ground.etcd.restart(0);
    let changes =
        tokio::time::timeout(Duration::from_secs(30), cut_off.watch_from("v/", from)).await.unwrap();
    let changes = changes.unwrap();
    assert_eq!(changes.events.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["v/1"]);

    // After a long one there is a gap, which is told and not passed over.
    ground.etcd.kill(0);
    others.commit(put("v/2", "2"), Durability::Durable).await.unwrap();
    let last = others.commit(put("v/3", "3"), Durability::Durable).await.unwrap();
    let compacted = ground.etcd.try_ctl_at(1, &["compaction", &last.to_string()]);
    assert!(compacted.is_ok(), "{compacted:?}");
    let waiting = cut_off.watch_from("v/", changes.next);
    ground.etcd.restart(0);
    let error = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap_err();
    assert_eq!(error.kind, Kind::OutOfRange, "{error}");
    let next = cut_off.watch_from("v/", 0).await.unwrap().next;
    assert_eq!(cut_off.scan("v/", None, 10).await.unwrap().len(), 4);
    others.commit(put("v/4", "4"), Durability::Durable).await.unwrap();
    let changes =
        tokio::time::timeout(Duration::from_secs(30), cut_off.watch_from("v/", next)).await.unwrap();
    assert!(changes.unwrap().events.iter().any(|(key, _)| key == "v/4"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_database_takes_what_removes_and_everything_after_room_was_made() {
    let etcd = Etcd::start_with(Wishes { members: 1, quota: Some(4 << 20), ..Wishes::default() });
    let folder = tempfile::tempdir().unwrap();
    let store = EtcdStore::open(at(&etcd, &folder, "one")).await.unwrap();
    let large = "x".repeat(30_000);
    let mut written = Vec::new();
    let error = loop {
        let key = format!("k/{:03}", written.len());
        match store.commit(put(&key, &large), Durability::Durable).await {
            Ok(revision) => written.push((key, revision)),
            Err(error) => break error,
        }
        assert!(written.len() < 1000, "it never fills");
    };
    assert_eq!(error.kind, Kind::Exhausted, "{error}");
    assert!(error.is_final() && error.message.contains("alarm disarm"), "{error}");
    assert!(etcd.ctl(&["alarm", "list"]).contains("NOSPACE"));
    // Reads go on, and so does what only removes.
    assert_eq!(store.scan("k/", None, 1000).await.unwrap().len(), written.len());
    let (key, revision) = written[0].clone();
    let mut removing = guarded(delete(&key), &[Guard::At(key.clone(), revision)]);
    removing.frees_space = true;
    store.commit(removing.clone(), Durability::Durable).await.unwrap();
    let error = store.commit(removing, Durability::Durable).await.unwrap_err();
    assert_eq!(error.kind, Kind::Busy, "its guard counts all the same: {error}");
    for (key, _) in written.drain(1..) {
        store.commit(delete(&key), Durability::Durable).await.unwrap();
    }
    let error = store.commit(put("a", "1"), Durability::Durable).await.unwrap_err();
    assert_eq!(error.kind, Kind::Exhausted, "nobody has made room yet: {error}");
    // What an operator does about it.
    let now = store.commit(Batch::default(), Durability::Durable).await.unwrap();
    etcd.ctl(&["compaction", &now.to_string()]);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["alarm", "disarm"]);
    recovers(async || store.commit(put("a", "1"), Durability::Durable).await).await;
    drop(store.claim("volume 1").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_makes_everything_slow_and_nothing_wrong() {
    let ground = Ground::of(1);
    let store: Arc<dyn Store> = Arc::new(ground.open("one", 30).await);
    let slow = ground.etcd.slow_disk(0, Duration::from_millis(1500));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for worker in 0..8 {
        tasks.spawn(count(store.clone(), format!("counter/{worker}"), 2));
    }
    assert_eq!(tasks.join_all().await, [2; 8]);
    assert!(began.elapsed() > Duration::from_secs(3), "the disk was not slow: {:?}", began.elapsed());
    drop(slow);
    let began = Instant::now();
    assert_eq!(count(store.clone(), "counter/fast".to_owned(), 20).await, 20);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_longer_than_its_lease_writes_nothing_late() {
    let ground = Ground::of(3);
    let alone = EtcdConfig { endpoints: vec![ground.etcd.endpoint(0)], ..ground.config("one", 20) };
    let away = EtcdStore::open(alone).await.unwrap();
    let others = EtcdConfig { endpoints: ground.etcd.endpoints().split_off(1), ..ground.config("two", 20) };
    let others = EtcdStore::open(others).await.unwrap();
    let lease = away.attend(attendance("one", 3)).await.unwrap();
    let _theirs = others.attend(attendance("two", 30)).await.unwrap();
    let claim = away.claim("volume 1").await.unwrap();
    let under_claim = |value: &str| guarded(put("a", value), &[claim.guard()]);
    away.commit(under_claim("1"), Durability::Durable).await.unwrap();
    // For a while it is kept up, longer than it lives by itself.
    let since = others.present().await.unwrap().revision;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(claim.is_sure() && others.present().await.unwrap().members.len() == 2);

    ground.etcd.pause(0);
    let present = tokio::time::timeout(Duration::from_secs(30), others.changed_since(since)).await.unwrap();
    assert_eq!(present.unwrap().members.len(), 1, "the others see it go");
    let next =
        tokio::time::timeout(Duration::from_secs(30), others.claim("volume 1")).await.unwrap().unwrap();
    assert!(next.fencing_token() > claim.fencing_token());
    assert!(!claim.is_sure() && lease.remaining().is_zero(), "by its own clock it knows better than to act");
    others.commit(guarded(put("a", "2"), &[next.guard()]), Durability::Durable).await.unwrap();

    ground.etcd.resume(0);
    tokio::time::timeout(Duration::from_secs(30), lease.lost()).await.unwrap();
    let error = away.commit(under_claim("3"), Durability::Durable).await.unwrap_err();
    assert!(error.kind == Kind::Unavailable && error.is_final(), "{error}");
    assert_eq!(away.load("a").await.unwrap().unwrap().value, b"2");
    let anew = away.attend(attendance("one", 3)).await.unwrap();
    assert_ne!(anew.id(), lease.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_waiting_for_a_claim_leaves_nothing_behind() {
    let ground = Ground::of(1);
    let (one, two) = (Arc::new(ground.open("one", 20).await), Arc::new(ground.open("two", 20).await));
    let held = one.claim("volume 1").await.unwrap();
    for _ in 0..20 {
        let waiting = two.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { waiting.claim("volume 1").await.map(|_| ()) });
        tokio::time::sleep(Duration::from_millis(8)).await;
        tasks.shutdown().await;
    }
    drop(held);
    let again = tokio::time::timeout(Duration::from_secs(5), one.claim("volume 1")).await.unwrap().unwrap();
    drop(again);
    drop(tokio::time::timeout(Duration::from_secs(5), two.claim("volume 1")).await.unwrap().unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let left = ground.etcd.ctl(&["get", "--prefix", "--keys-only", "kato/c/"]);
    assert_eq!(left.trim(), "", "no ticket is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_given_up_by_one_node_in_each_round() {
    let ground = Ground::of(1);
    let short =
        |node: &str| EtcdConfig { keep_history: Duration::from_millis(400), ..ground.config(node, 20) };
    let one = EtcdStore::open(short("one")).await.unwrap();
    let _two = EtcdStore::open(short("two")).await.unwrap();
    let first = one.commit(put("a", "1"), Durability::Durable).await.unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let last = one.commit(put("a", "2"), Durability::Durable).await.unwrap();
        match ground.etcd.try_ctl(&["get", "--rev", &first.to_string(), "kato/r/a"]) {
            Err(said) if said.contains("compacted") => break,
            answer => assert!(Instant::now() < until, "at revision {last}: {answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(one.load("a").await.unwrap().unwrap().value, b"2");
    let from = one.watch_from("", 0).await.unwrap().next;
    one.commit(put("b", "1"), Durability::Durable).await.unwrap();
    let changes = tokio::time::timeout(Duration::from_secs(10), one.watch_from("", from)).await.unwrap();
    assert_eq!(changes.unwrap().events.len(), 1, "the watch goes on");
}
