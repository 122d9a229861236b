//! etcd's limits: what the house writes at once is within them, and what is not is refused in words.

use kato_orchestrator::{
    Kind,
    ports::store::{Batch, Durability, Guard, Store as _},
};
use kato_store::EtcdStore;
use kato_tests::etcd::{Etcd, Wishes};

use super::{Subject, at, guarded, put};

/// As many records as a group of the largest size changes when it is cut: volumes, snapshots, names, places, handles and
/// marks of work for each of 24, and some of the group's own.
const OF_A_GROUP: usize = 24 * 7 + 3;
/// As many holders as a node may have of one volume, all let go of at once.
const HOLDERS: usize = 700;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_wishes_of_the_house_are_one_transaction() {
    let subject = Subject::etcd().await;
    let record = vec![b'x'; 900];
    let group = Batch {
        guards: (0..75).map(|n| Guard::Absent(format!("s/{n:03}"))).collect(),
        puts: (0..OF_A_GROUP).map(|n| (format!("s/{n:03}"), record.clone())).collect(),
        ..Batch::default()
    };
    let revision = subject.store.commit(group.clone(), Durability::Durable).await.unwrap();
    let written = subject.store.scan("s/", None, 1000).await.unwrap();
    assert_eq!(written.len(), OF_A_GROUP);
    assert!(written.iter().all(|entry| entry.revision == revision));
    let error = subject.store.commit(group, Durability::Durable).await.unwrap_err();
    assert!(error.kind == Kind::Busy && error.message.contains(" s/000 "), "{error}");

    let name = |n: usize| format!("v/1/p/node/{n:064}");
    for n in 0..HOLDERS / 100 {
        let puts = (n * 100..(n + 1) * 100).map(|n| (name(n), vec![b'h'; 300])).collect();
        subject.store.commit(Batch { puts, ..Batch::default() }, Durability::Durable).await.unwrap();
    }
    let held = subject.store.scan("v/1/p/", None, 1000).await.unwrap();
    let letting_go = Batch {
        guards: held.iter().map(|entry| Guard::At(entry.key.clone(), entry.revision)).collect(),
        deletes: held.iter().map(|entry| entry.key.clone()).collect(),
        ..Batch::default()
    };
    // One of all those guards is enough, wherever it is.
    for at in [0, HOLDERS / 2, HOLDERS - 1] {
        let mut wrong = letting_go.clone();
        wrong.guards[at] = Guard::At(name(at), 1);
        let error = subject.store.commit(wrong, Durability::Durable).await.unwrap_err();
        assert!(error.kind == Kind::Busy && error.message.contains(&format!(" {} ", name(at))), "{error}");
        assert_eq!(subject.keys("v/1/p/", None, 1000).await.len(), HOLDERS);
    }
    let claim = subject.store.claim("volume 1").await.unwrap();
    let letting_go = Batch { guards: [letting_go.guards, vec![claim.guard()]].concat(), ..letting_go };
    subject.store.commit(letting_go, Durability::Durable).await.unwrap();
    assert!(subject.keys("v/1/p/", None, 1000).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_beyond_etcds_limits_is_refused_with_the_limit() {
    let subject = Subject::etcd().await;
    let deletes = (0..5000).map(|n| format!("{n}")).collect();
    let error =
        subject.store.commit(Batch { deletes, ..Batch::default() }, Durability::Durable).await.unwrap_err();
    assert!(error.kind == Kind::OutOfRange && error.is_final(), "{error}");
    // A guard's key is no record, and may be many.
    let guards = (0..1500).map(|n| Guard::Absent(format!("{n}{}", "k".repeat(1500)))).collect::<Vec<_>>();
    let error = subject.store.commit(guarded(put("a", "1"), &guards), Durability::Durable).await.unwrap_err();
    assert!(error.kind == Kind::OutOfRange && error.message.contains("1568768"), "{error}");
    assert_eq!(subject.value("a").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_takes_less_than_usual_is_told_how_to_take_more() {
    let flags = vec!["--max-txn-ops=8".to_owned(), "--max-request-bytes=4096".to_owned()];
    let etcd = Etcd::start_with(Wishes { members: 1, flags, ..Wishes::default() });
    let folder = tempfile::tempdir().unwrap();
    let store = EtcdStore::open(at(&etcd, &folder, "one")).await.unwrap();
    for (puts, remedy) in [
        ((0..40).map(|n| (format!("{n}"), vec![1])).collect::<Vec<_>>(), "--max-txn-ops"),
        (vec![("a".to_owned(), vec![0; 8192])], "--max-request-bytes"),
    ] {
        let error = store.commit(Batch { puts, ..Batch::default() }, Durability::Durable).await.unwrap_err();
        assert!(error.kind == Kind::Precondition && error.message.contains(remedy), "{error}");
        assert!(error.is_final(), "{error}");
    }
    assert!(store.scan("", None, 10).await.unwrap().is_empty());
}
