//! An etcd that wants to know who comes: certificates of both sides, and users with their rights.

use std::{fs, time::Duration};

use kato_orchestrator::{
    Kind,
    ports::store::{Durability, Store as _},
};
use kato_store::{EtcdConfig, EtcdStore, Hidden, Tls, User};
use kato_tests::etcd::{Etcd, Wishes};

use super::{at, put};

fn tls(etcd: &Etcd) -> Tls {
    let read = |name: &str| fs::read_to_string(etcd.file(name)).unwrap();
    Tls { ca: read("ca.pem"), identity: Some((read("client.pem"), Hidden(read("client.key")))) }
}

fn user(name: &str, password: &str) -> Option<User> {
    Some(User { name: name.to_owned(), password: Hidden(password.to_owned()) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_prove_who_they_are() {
    let etcd = Etcd::start_with(Wishes { members: 1, tls: true, ..Wishes::default() });
    let folder = tempfile::tempdir().unwrap();
    let config = |tls: Tls| EtcdConfig {
        tls: Some(tls),
        patience: Duration::from_secs(3),
        ..at(&etcd, &folder, "one")
    };
    let store = EtcdStore::open(config(tls(&etcd))).await.unwrap();
    store.commit(put("a", "1"), Durability::Durable).await.unwrap();
    drop(store.claim("volume 1").await.unwrap());
    assert_eq!(store.load("a").await.unwrap().unwrap().value, b"1");

    let nameless = Tls { identity: None, ..tls(&etcd) };
    let other = Etcd::start_with(Wishes { members: 1, tls: true, ..Wishes::default() });
    let believing_another = Tls { ca: fs::read_to_string(other.file("ca.pem")).unwrap(), ..tls(&etcd) };
    for wrong in [nameless, believing_another] {
        let error = EtcdStore::open(config(wrong)).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable, "{error}");
        assert!(error.message.contains("ertificate"), "it is told what is wrong: {error}");
        assert!(!error.to_string().contains("PRIVATE"), "{error}");
    }
    let rubbish = Tls { ca: "no certificate".to_owned(), identity: None };
    assert!(EtcdStore::open(config(rubbish)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_a_prefix_and_comes_back_when_its_pass_is_forgotten() {
    let etcd = Etcd::start();
    etcd.with_users("kato", "correct horse", "kato/");
    let folder = tempfile::tempdir().unwrap();
    let config = |user| EtcdConfig { user, patience: Duration::from_secs(10), ..at(&etcd, &folder, "one") };
    let store = EtcdStore::open(config(user("kato", "correct horse"))).await.unwrap();
    store.commit(put("a", "1"), Durability::Durable).await.unwrap();
    let claim = store.claim("volume 1").await.unwrap();
    let from = store.watch_from("", 0).await.unwrap().next;

    // A member that starts again knows nobody's pass.
    etcd.kill(0);
    etcd.restart(0);
    etcd.wait();
    store.commit(put("a", "2"), Durability::Durable).await.unwrap();
    let changes = tokio::time::timeout(Duration::from_secs(20), store.watch_from("", from)).await.unwrap();
    assert_eq!(changes.unwrap().events.len(), 1);
    drop(claim);

    for (user, told) in [
        (user("kato", "wrong"), "store.etcd.password"),
        (user("nobody", "correct horse"), "store.etcd.user"),
        (None, "store.etcd.user"),
    ] {
        let error = EtcdStore::open(config(user)).await.unwrap_err();
        assert!(error.kind == Kind::PermissionDenied && error.message.contains(told), "{error}");
        assert!(!error.to_string().contains("correct horse"), "{error}");
    }
    let elsewhere = EtcdConfig { prefix: "others/".to_owned(), ..config(user("kato", "correct horse")) };
    let error = EtcdStore::open(elsewhere).await.unwrap_err();
    assert!(error.kind == Kind::PermissionDenied && error.message.contains("readwrite"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn houses_of_different_prefixes_share_a_cluster_and_nothing_else() {
    let etcd = Etcd::start();
    let folder = tempfile::tempdir().unwrap();
    let config = |prefix: &str| EtcdConfig {
        prefix: prefix.to_owned(),
        mark: folder.path().join(prefix.replace('/', "-")),
        ..at(&etcd, &folder, "one")
    };
    let one = EtcdStore::open(config("house/1/")).await.unwrap();
    let ten = EtcdStore::open(config("house/10")).await.unwrap();
    one.commit(put("a", "1"), Durability::Durable).await.unwrap();
    ten.commit(put("a", "10"), Durability::Durable).await.unwrap();
    let (_claim, _other) = (one.claim("volume 1").await.unwrap(), ten.claim("volume 1").await.unwrap());
    assert_eq!(one.load("a").await.unwrap().unwrap().value, b"1");
    assert_eq!(ten.scan("", None, 10).await.unwrap().len(), 1);
    etcd.ctl(&["put", "strange/key", "x"]);
    let error = EtcdStore::open(config("strange")).await.unwrap_err();
    assert!(
        error.kind == Kind::Precondition && error.message.contains("another store.etcd.prefix"),
        "{error}"
    );
}
