//! The store suite: what the hall relies on, asked of every store in the same words. A new store adds a way to
//! be made to [`Subject`] and a line at the end.

#![expect(clippy::disallowed_methods, reason = "each test waits for the tasks that it starts")]

mod dumps;
mod limits;
mod members;
mod migrate;
mod moving;
mod secured;
mod set_back;
mod trouble;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kato_orchestrator::{
    Kind,
    model::Bytes,
    ports::store::{Batch, Claim, Durability, Entry, Guard, Key, Revision, Store, members::Members},
};
use kato_store::{Config, EtcdConfig, EtcdStore, MemoryStore, SledStore};
use kato_tests::etcd::Etcd;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// A store to try.
struct Subject {
    store: Arc<dyn Store>,
    members: Arc<dyn Members>,
    flushes: Box<dyn Fn() -> u64 + Send + Sync>,
    /// The same records for another node, or for the next process of the same; none where they are never shared.
    another: Option<Arc<dyn Members>>,
    another_store: Option<Arc<dyn Store>>,
    _folder: Option<TempDir>,
    _etcd: Option<Etcd>,
}

impl Subject {
    fn memory() -> Self {
        let store = MemoryStore::new();
        let counted = store.clone();
        let another = Arc::new(store.of_another_node());
        let store = Arc::new(store);
        Self {
            store: store.clone(),
            members: store,
            flushes: Box::new(move || counted.flushes()),
            another: Some(another.clone()),
            another_store: Some(another),
            _folder: None,
            _etcd: None,
        }
    }

    fn sled() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::at(folder.path().join("store"));
        config.reserve = Bytes::MIB;
        let store = Arc::new(SledStore::open(config).unwrap());
        let counted = store.clone();
        Self {
            store: store.clone(),
            members: store,
            flushes: Box::new(move || counted.flushes()),
            another: None,
            another_store: None,
            _folder: Some(folder),
            _etcd: None,
        }
    }

    /// Over a real etcd of one member. It flushes by itself, and nobody counts that.
    async fn etcd() -> Self {
        let etcd = Etcd::start();
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(EtcdStore::open(at(&etcd, &folder, "one")).await.unwrap());
        let another = Arc::new(EtcdStore::open(at(&etcd, &folder, "two")).await.unwrap());
        Self {
            store: store.clone(),
            members: store,
            flushes: Box::new(|| 0),
            another: Some(another.clone()),
            another_store: Some(another),
            _folder: Some(folder),
            _etcd: Some(etcd),
        }
    }

    async fn put(&self, key: &str, value: &str, durability: Durability) -> Revision {
        self.store.commit(put(key, value), durability).await.unwrap()
    }

    async fn value(&self, key: &str) -> Option<String> {
        let entry = self.store.load(key).await.unwrap()?;
        Some(String::from_utf8(entry.value).unwrap())
    }

    async fn keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Key> {
        let entries = self.store.scan(prefix, after, limit).await.unwrap();
        entries.into_iter().map(|entry| entry.key).collect()
    }
}

/// Where a node's records in this etcd are.
fn at(etcd: &Etcd, folder: &TempDir, node: &str) -> EtcdConfig {
    EtcdConfig {
        endpoints: etcd.endpoints(),
        prefix: "kato/".to_owned(),
        tls: None,
        user: None,
        node: node.to_owned(),
        mark: folder.path().join(node).join("etcd"),
        keep_history: Duration::ZERO,
        patience: Duration::from_secs(20),
    }
}

fn put(key: &str, value: &str) -> Batch {
    Batch { puts: vec![(key.to_owned(), value.as_bytes().to_vec())], ..Batch::default() }
}

fn delete(key: &str) -> Batch {
    Batch { deletes: vec![key.to_owned()], ..Batch::default() }
}

fn guarded(batch: Batch, guards: &[Guard]) -> Batch {
    Batch { guards: guards.to_vec(), ..batch }
}

/// Runs until nobody can go on.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

async fn what_was_put_is_loaded_with_its_revision(subject: Subject) {
    assert_eq!(subject.store.load("a").await.unwrap(), None);
    let one = subject.put("a", "1", Durability::Durable).await;
    let two = subject.put("a", "2", Durability::Lazy).await;
    assert!(two > one);
    let entry = subject.store.load("a").await.unwrap().unwrap();
    assert_eq!(entry, Entry { key: "a".into(), value: b"2".to_vec(), revision: two });
    subject.store.commit(delete("a"), Durability::Durable).await.unwrap();
    subject.store.commit(delete("a"), Durability::Durable).await.unwrap();
    assert_eq!(subject.value("a").await, None);
}

async fn all_puts_of_a_batch_have_its_revision(subject: Subject) {
    let batch = Batch {
        puts: (0..20).map(|n| (format!("k/{n:02}"), vec![n])).collect(),
        deletes: vec!["x".into()],
        ..Batch::default()
    };
    let revision = subject.store.commit(batch, Durability::Durable).await.unwrap();
    let entries = subject.store.scan("k/", None, 100).await.unwrap();
    assert_eq!(entries.len(), 20);
    assert!(entries.iter().all(|entry| entry.revision == revision));
}

async fn a_guard_that_does_not_hold_refuses_the_whole_batch(subject: Subject) {
    let one = subject.put("a", "1", Durability::Durable).await;
    let two = subject.put("a", "2", Durability::Lazy).await;
    let many = Batch {
        puts: vec![("a".into(), b"3".to_vec()), ("b".into(), b"3".to_vec())],
        deletes: vec!["a".into()],
        ..Batch::default()
    };
    for guard in [
        Guard::At("a".into(), one),
        Guard::At("a".into(), two + 1),
        Guard::Absent("a".into()),
        Guard::At("b".into(), one),
    ] {
        let key = match &guard {
            Guard::At(key, _) | Guard::Absent(key) | Guard::Claimed(key, _) => key.clone(),
        };
        for durability in [Durability::Durable, Durability::Lazy] {
            let good = Guard::At("a".into(), two);
            let batch = guarded(many.clone(), &[good, guard.clone()]);
            let error = subject.store.commit(batch, durability).await.unwrap_err();
            assert_eq!(error.kind, Kind::Busy, "{guard:?}: {error}");
            assert!(error.message.contains(&format!(" {key} ")), "{error}");
            assert!(error.is_final());
        }
    }
    assert_eq!(subject.value("a").await.as_deref(), Some("2"));
    assert_eq!(subject.value("b").await, None);
    let good = [Guard::At("a".into(), two), Guard::Absent("b".into())];
    subject.store.commit(guarded(many, &good), Durability::Durable).await.unwrap();
    assert_eq!(subject.value("b").await.as_deref(), Some("3"));
}

async fn of_those_who_guard_the_same_revision_one_wins(subject: Subject) {
    let start = subject.put("n", "0", Durability::Durable).await;
    let mut tasks = JoinSet::new();
    for n in 0..32 {
        let store = subject.store.clone();
        let durability = if n % 2 == 0 { Durability::Durable } else { Durability::Lazy };
        tasks.spawn(async move {
            let batch = guarded(put("n", &n.to_string()), &[Guard::At("n".into(), start)]);
            store.commit(batch, durability).await.map(|_| n)
        });
    }
    let answers = tasks.join_all().await;
    let winners: Vec<i32> = answers.iter().filter_map(|answer| answer.as_ref().ok()).copied().collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert_eq!(subject.value("n").await, Some(winners[0].to_string()));
}

async fn revisions_rise_with_every_commit(subject: Subject) {
    let mut tasks = JoinSet::new();
    for n in 0..50 {
        let store = subject.store.clone();
        tasks.spawn(async move { store.commit(put(&n.to_string(), "x"), Durability::Lazy).await.unwrap() });
    }
    let revisions: BTreeSet<Revision> = tasks.join_all().await.into_iter().collect();
    assert_eq!(revisions.len(), 50);
    assert!(subject.put("last", "x", Durability::Durable).await > *revisions.last().unwrap());
}

async fn counters_lose_no_increment(subject: Subject) {
    let mut tasks = JoinSet::new();
    for worker in 0..8 {
        let store = subject.store.clone();
        tasks.spawn(async move {
            let mut done = 0;
            while done < 25 {
                let found = store.load("counter").await.unwrap();
                let (count, guard) = match &found {
                    Some(entry) => (
                        String::from_utf8(entry.value.clone()).unwrap().parse::<u32>().unwrap(),
                        Guard::At("counter".into(), entry.revision),
                    ),
                    None => (0, Guard::Absent("counter".into())),
                };
                let durability =
                    if (worker + done) % 3 == 0 { Durability::Lazy } else { Durability::Durable };
                let batch = guarded(put("counter", &(count + 1).to_string()), &[guard]);
                match store.commit(batch, durability).await {
                    Ok(_) => done += 1,
                    Err(error) => assert_eq!(error.kind, Kind::Busy),
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(subject.value("counter").await.as_deref(), Some("200"));
}

async fn a_scan_answers_pages_in_key_order_beneath_its_prefix(subject: Subject) {
    for key in ["v/2", "v/1", "v/10", "v/1/a", "v", "w/1", "u", "v/", "v0"] {
        subject.put(key, key, Durability::Lazy).await;
    }
    assert_eq!(subject.keys("v/", None, 100).await, ["v/", "v/1", "v/1/a", "v/10", "v/2"]);
    assert_eq!(subject.keys("v/", None, 2).await, ["v/", "v/1"]);
    assert_eq!(subject.keys("v/", Some("v/1"), 2).await, ["v/1/a", "v/10"]);
    assert_eq!(subject.keys("v/", Some("v/2"), 2).await, [""; 0]);
    assert_eq!(subject.keys("v/", Some("a"), 1).await, ["v/"]);
    assert_eq!(subject.keys("v/", Some("z"), 1).await, [""; 0]);
    assert_eq!(subject.keys("v/1", None, 100).await, ["v/1", "v/1/a", "v/10"]);
    assert_eq!(subject.keys("", None, 100).await.len(), 9);
    assert_eq!(subject.keys("", None, 0).await, [""; 0]);
}

async fn pages_go_on_where_they_were_whatever_is_deleted_meanwhile(subject: Subject) {
    for n in 0..100 {
        subject.put(&format!("k/{n:03}"), "x", Durability::Lazy).await;
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = subject.keys("k/", after.as_deref(), 7).await;
        let Some(last) = page.last().cloned() else { break };
        seen.extend(page);
        // The very record where the page ended, one that was seen, and one that is still to come.
        let n: usize = last.get(2..5).unwrap().parse().unwrap();
        for gone in [n, n.saturating_sub(3), n + 2] {
            subject.store.commit(delete(&format!("k/{gone:03}")), Durability::Lazy).await.unwrap();
        }
        subject.put(&format!("k/{:03}-new", n), "x", Durability::Durable).await;
        after = Some(last);
    }
    let sorted: Vec<Key> = seen.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    assert_eq!(seen, sorted, "in order, and none twice");
    let kept: Vec<Key> = subject.keys("k/", None, 1000).await;
    let missed: Vec<&Key> = kept.iter().filter(|key| !seen.contains(key)).collect();
    assert_eq!(missed, [""; 0], "what was there all the time was seen");
}

async fn readers_see_a_batch_whole_or_not_at_all(subject: Subject) {
    let mut writers = JoinSet::new();
    for writer in 0..2 {
        let store = subject.store.clone();
        writers.spawn(async move {
            for n in 0..50 {
                let value = format!("{writer}-{n}").into_bytes();
                let puts = ["p/a", "p/m", "p/z"].map(|key| (key.to_owned(), value.clone())).to_vec();
                let durability = if n % 2 == 0 { Durability::Durable } else { Durability::Lazy };
                store.commit(Batch { puts, ..Batch::default() }, durability).await.unwrap();
            }
        });
    }
    let store = subject.store.clone();
    let mut readers = tokio::task::JoinSet::new();
    readers.spawn(async move {
        let mut seen = BTreeSet::new();
        for _ in 0..500 {
            let entries = store.scan("p/", None, 10).await.unwrap();
            let values: BTreeSet<Vec<u8>> = entries.iter().map(|entry| entry.value.clone()).collect();
            assert!(values.len() <= 1, "{entries:?}");
            assert!(entries.is_empty() || entries.len() == 3, "{entries:?}");
            seen.extend(values);
            tokio::task::yield_now().await;
        }
    });
    writers.join_all().await;
    readers.join_all().await;
}

async fn lazy_commits_are_visible_at_once_and_in_order_with_durable_ones(subject: Subject) {
    let mut last = 0;
    for n in 0..200 {
        let durability = if n % 10 == 9 { Durability::Durable } else { Durability::Lazy };
        let revision = subject.put("a", &n.to_string(), durability).await;
        assert!(revision > last);
        last = revision;
        assert_eq!(subject.value("a").await, Some(n.to_string()));
    }
    let flushes = (subject.flushes)();
    assert!(flushes <= 40, "lazy commits wait for nobody's flush: {flushes}");
}

async fn committers_that_wait_together_share_flushes(subject: Subject) {
    let before = (subject.flushes)();
    let mut tasks = JoinSet::new();
    for worker in 0..64 {
        let store = subject.store.clone();
        tasks.spawn(async move {
            for n in 0..16 {
                store.commit(put(&format!("{worker}/{n}"), "x"), Durability::Durable).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let flushes = (subject.flushes)() - before;
    assert_eq!(subject.keys("", None, 2000).await.len(), 1024);
    assert!(flushes <= 512, "1024 durable commits took {flushes} flushes");
}

async fn a_claim_excludes_others_and_serves_them_in_their_order(subject: Subject) {
    let first = subject.store.claim("v/1").await.unwrap();
    let other = subject.store.claim("v/2").await.unwrap();
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for n in 0..10 {
        let (store, order) = (subject.store.clone(), order.clone());
        tasks.spawn(async move {
            let claim = store.claim("v/1").await.unwrap();
            order.lock().unwrap().push((n, claim.fencing_token()));
            tokio::task::yield_now().await;
        });
        // Who asks first is to be known, on a runtime with several threads too.
        settle().await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(*order.lock().unwrap(), [], "the key is taken");
    let token = first.fencing_token();
    drop(other);
    drop(first);
    tasks.join_all().await;
    let order = order.lock().unwrap().clone();
    let tokens: BTreeSet<u64> = order.iter().map(|(_, token)| *token).collect();
    assert_eq!(order.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert!(order.iter().map(|(_, token)| *token).is_sorted(), "{order:?}");
    assert_eq!(tokens.len(), 10);
    assert!(tokens.iter().all(|later| *later > token));
}

async fn a_claimant_that_gives_up_leaves_the_queue(subject: Subject) {
    let held = subject.store.claim("a").await.unwrap();
    let mut tasks = JoinSet::new();
    let store = subject.store.clone();
    tasks.spawn(async move { store.claim("a").await.unwrap() });
    settle().await;
    tasks.shutdown().await;
    drop(held);
    let again: Box<dyn Claim> = subject.store.claim("a").await.unwrap();
    assert!(again.fencing_token() > 0);
}

async fn what_is_written_under_a_claim_that_is_gone_is_refused(subject: Subject) {
    let claim = subject.store.claim("volume 1").await.unwrap();
    assert!(claim.is_sure());
    let guard = claim.guard();
    subject
        .store
        .commit(guarded(put("a", "1"), std::slice::from_ref(&guard)), Durability::Durable)
        .await
        .unwrap();
    let mixed = [Guard::Absent("b".into()), guard.clone()];
    subject.store.commit(guarded(put("b", "1"), &mixed), Durability::Durable).await.unwrap();
    let error = subject.store.commit(guarded(put("b", "2"), &mixed), Durability::Durable).await.unwrap_err();
    assert_eq!(error.kind, Kind::Busy, "the claim is there, and a record is not as it was: {error}");
    drop(claim);
    // Somebody else's is no better.
    let next = subject.store.claim("volume 1").await.unwrap();
    let late = guarded(put("a", "2"), &[guard]);
    let error = subject.store.commit(late, Durability::Durable).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(error.is_final() && error.message.contains("claim of volume 1 "), "{error}");
    assert_eq!(subject.value("a").await.as_deref(), Some("1"));
    subject.store.commit(guarded(put("a", "3"), &[next.guard()]), Durability::Durable).await.unwrap();
}

async fn claims_of_many_keys_hold_up_nobody(subject: Subject) {
    let mut tasks = JoinSet::new();
    for worker in 0..64 {
        let store = subject.store.clone();
        tasks.spawn(async move {
            for n in 0..4 {
                let claim = store.claim(&format!("volume {}", (worker + n) % 48)).await.unwrap();
                let batch = guarded(put(&format!("k/{worker}"), &n.to_string()), &[claim.guard()]);
                store.commit(batch, Durability::Durable).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(subject.keys("k/", None, 100).await.len(), 64);
}

async fn what_was_committed_can_be_watched_without_waiting(subject: Subject) {
    let mut next = subject.store.watch_from("", 0).await.unwrap().next;
    for n in 0..20 {
        let last = subject.put(&format!("k/{n}"), "x", Durability::Durable).await;
        subject.store.catch_up().await.unwrap();
        let changes = tokio::time::timeout(Duration::ZERO, subject.store.watch_from("k/", next));
        next = changes.await.expect("it is there").unwrap().next;
        assert_eq!(next, last);
    }
}

async fn a_watcher_sees_every_change_beneath_its_prefix_once(subject: Subject) {
    let from = subject.put("v/0", "old", Durability::Durable).await;
    let store = subject.store.clone();
    let watcher = tokio::task::spawn(async move {
        let (mut seen, mut next) = (Vec::new(), from);
        while seen.len() < 101 {
            let changes = store.watch_from("v/", next).await.unwrap();
            assert!(!changes.events.is_empty() && changes.next > next);
            next = changes.next;
            seen.extend(changes.events);
        }
        seen
    });
    let mut writers = JoinSet::new();
    for n in 0..100 {
        let store = subject.store.clone();
        let durability = if n % 3 == 0 { Durability::Durable } else { Durability::Lazy };
        writers.spawn(async move {
            store.commit(put(&format!("v/{n}"), "new"), durability).await.unwrap();
            store.commit(put(&format!("w/{n}"), "new"), durability).await.unwrap();
        });
    }
    writers.join_all().await;
    let gone = subject.store.commit(delete("v/0"), Durability::Durable).await.unwrap();
    let seen = watcher.await.unwrap();
    let keys: BTreeSet<&Key> = seen.iter().map(|(key, _)| key).collect();
    assert_eq!((seen.len(), keys.len()), (101, 100));
    let revisions: Vec<Revision> =
        seen.iter().map(|(_, entry)| entry.as_ref().map_or(gone, |entry| entry.revision)).collect();
    assert!(revisions.is_sorted(), "in the order of their revisions");
    assert_eq!(seen.last().unwrap(), &("v/0".to_owned(), None));
}

async fn a_watch_from_nothing_begins_with_the_present(subject: Subject) {
    subject.put("a", "1", Durability::Durable).await;
    let present = subject.store.watch_from("", 0).await.unwrap();
    assert_eq!(present.events, []);
    let revision = subject.put("b", "2", Durability::Lazy).await;
    let changes = subject.store.watch_from("", present.next).await.unwrap();
    let expected = Entry { key: "b".into(), value: b"2".to_vec(), revision };
    assert_eq!(changes.events, [("b".to_owned(), Some(expected))]);
    assert_eq!(changes.next, revision);
}

async fn a_watcher_and_a_scan_leave_no_gap(subject: Subject) {
    let store = subject.store.clone();
    let writer = tokio::task::spawn(async move {
        for n in 0..300 {
            let durability = if n % 4 == 0 { Durability::Durable } else { Durability::Lazy };
            store.commit(put(&format!("k/{}", n % 50), &n.to_string()), durability).await.unwrap();
        }
        store.commit(put("k/end", "end"), Durability::Durable).await.unwrap();
    });
    let mut next = subject.store.watch_from("k/", 0).await.unwrap().next;
    let mut copy: BTreeMap<Key, Entry> = BTreeMap::new();
    for entry in subject.store.scan("k/", None, 1000).await.unwrap() {
        copy.insert(entry.key.clone(), entry);
    }
    while !copy.contains_key("k/end") {
        let changes = subject.store.watch_from("k/", next).await.unwrap();
        next = changes.next;
        for (key, entry) in changes.events {
            match entry {
                Some(entry) if copy.get(&key).is_none_or(|old| old.revision <= entry.revision) => {
                    copy.insert(key, entry);
                }
                Some(_) => {}
                None => drop(copy.remove(&key)),
            }
        }
    }
    writer.await.unwrap();
    let real = subject.store.scan("k/", None, 1000).await.unwrap();
    assert_eq!(copy.into_values().collect::<Vec<_>>(), real);
}

async fn what_is_too_large_or_no_key_is_refused_before_anything_happens(subject: Subject) {
    for (key, size, kind) in [
        ("", 1, Kind::Internal),
        ("ü", 1, Kind::Internal),
        (&*"k".repeat(3000), 1, Kind::Internal),
        ("k", 1 << 20, Kind::OutOfRange),
    ] {
        let batch = Batch {
            puts: vec![("good".into(), vec![1]), (key.to_owned(), vec![0; size])],
            ..Batch::default()
        };
        let error = subject.store.commit(batch, Durability::Durable).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
    let batch =
        Batch { puts: (0..100).map(|n| (format!("k/{n}"), vec![0; 10_000])).collect(), ..Batch::default() };
    let error = subject.store.commit(batch, Durability::Durable).await.unwrap_err();
    assert_eq!(error.kind, Kind::OutOfRange);
    assert_eq!(subject.keys("", None, 10).await, [""; 0]);
}

async fn large_records_come_back(subject: Subject) {
    let value =
        |n: usize| (0..32_000).map(|byte| u8::try_from((byte * n) % 251).unwrap()).collect::<Vec<u8>>();
    for n in 0..40 {
        let batch = Batch { puts: vec![(format!("k/{n:02}"), value(n))], ..Batch::default() };
        subject.store.commit(batch, Durability::Durable).await.unwrap();
    }
    for (n, entry) in subject.store.scan("k/", None, 100).await.unwrap().iter().enumerate() {
        assert_eq!(entry.value, value(n));
    }
}

async fn an_empty_batch_and_a_flush_are_answered(subject: Subject) {
    let one = subject.store.commit(Batch::default(), Durability::Durable).await.unwrap();
    subject.store.flush().await.unwrap();
    let two = subject.put("a", "1", Durability::Lazy).await;
    assert!(two > one);
    subject.store.flush().await.unwrap();
}

async fn the_last_put_of_a_key_counts_and_deletes_come_first(subject: Subject) {
    let from = subject.put("a", "0", Durability::Durable).await;
    let batch = Batch {
        puts: vec![("a".into(), b"1".to_vec()), ("a".into(), b"2".to_vec())],
        deletes: vec!["a".into()],
        ..Batch::default()
    };
    let revision = subject.store.commit(batch, Durability::Durable).await.unwrap();
    assert_eq!(subject.value("a").await.as_deref(), Some("2"));
    let changes = subject.store.watch_from("a", from).await.unwrap();
    let expected = Entry { key: "a".into(), value: b"2".to_vec(), revision };
    assert_eq!(changes.events, [("a".to_owned(), Some(expected))]);
}

macro_rules! asked_of_every_store {
    ($($fact:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $fact() { super::$fact(super::Subject::memory()).await; })*
        }
        mod memory_on_many_threads {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $fact() { super::$fact(super::Subject::memory()).await; })*
        }
        mod sled {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fact() { super::$fact(super::Subject::sled()).await; })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fact() { super::$fact(super::Subject::etcd().await).await; })*
        }
    };
}

asked_of_every_store! {
    what_was_put_is_loaded_with_its_revision,
    all_puts_of_a_batch_have_its_revision,
    a_guard_that_does_not_hold_refuses_the_whole_batch,
    of_those_who_guard_the_same_revision_one_wins,
    revisions_rise_with_every_commit,
    counters_lose_no_increment,
    a_scan_answers_pages_in_key_order_beneath_its_prefix,
    pages_go_on_where_they_were_whatever_is_deleted_meanwhile,
    readers_see_a_batch_whole_or_not_at_all,
    lazy_commits_are_visible_at_once_and_in_order_with_durable_ones,
    committers_that_wait_together_share_flushes,
    a_claim_excludes_others_and_serves_them_in_their_order,
    a_claimant_that_gives_up_leaves_the_queue,
    what_is_written_under_a_claim_that_is_gone_is_refused,
    claims_of_many_keys_hold_up_nobody,
    what_was_committed_can_be_watched_without_waiting,
    a_watcher_sees_every_change_beneath_its_prefix_once,
    a_watch_from_nothing_begins_with_the_present,
    a_watcher_and_a_scan_leave_no_gap,
    what_is_too_large_or_no_key_is_refused_before_anything_happens,
    large_records_come_back,
    an_empty_batch_and_a_flush_are_answered,
    the_last_put_of_a_key_counts_and_deletes_come_first,
}
