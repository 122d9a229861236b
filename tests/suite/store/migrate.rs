//! Records that move between a host's disk and etcd: all of them or none, and only into a place that is empty.

use std::sync::Arc;

use kato_orchestrator::{
    Kind,
    model::Bytes,
    ports::store::{Batch, Durability, Store},
};
use kato_store::{Config, EtcdStore, MemoryStore, SledStore, into_etcd, into_sled};
use kato_tests::etcd::Etcd;

use super::at;

async fn filled(records: usize) -> MemoryStore {
    let store = MemoryStore::new();
    for n in 0..records {
        // Some of any length, and of any bytes.
        let value = (0..(n * 37) % 3000).map(|byte| u8::try_from((byte * n) % 256).unwrap()).collect();
        let batch = Batch { puts: vec![(format!("v/{n:05}"), value)], ..Batch::default() };
        store.commit(batch, Durability::Lazy).await.unwrap();
    }
    let batch = Batch { puts: vec![("long".into(), vec![7; 32 << 10])], ..Batch::default() };
    store.commit(batch, Durability::Lazy).await.unwrap();
    store
}

async fn content(store: &dyn Store) -> Vec<(String, Vec<u8>)> {
    let entries = store.scan("", None, usize::MAX).await.unwrap();
    entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_moved_there_and_back_is_what_it_was() {
    let (etcd, folder) = (Etcd::start(), tempfile::tempdir().unwrap());
    let store = filled(1500).await;
    let count = into_etcd(&store, at(&etcd, &folder, "one"), false).await.unwrap();
    assert_eq!(count, 1501);
    let shared = EtcdStore::open(at(&etcd, &folder, "one")).await.unwrap();
    assert_eq!(content(&shared).await, content(&store).await);
    let config = Config { reserve: Bytes(0), ..Config::at(folder.path().join("store")) };
    assert_eq!(into_sled(&shared, &config).await.unwrap(), 1501);
    shared.left().await.unwrap();
    shared.close().await;
    let back = SledStore::open(config.clone()).unwrap();
    assert_eq!(content(&back).await, content(&store).await);
    drop(back);
    // A store with records is nowhere to move to, and one that was left is opened by nobody.
    let error = into_sled(&store, &config).await.unwrap_err();
    assert!(error.kind == Kind::Precondition && error.message.contains("has records"), "{error}");
    let error = EtcdStore::open(at(&etcd, &folder, "two")).await.unwrap_err();
    assert!(error.kind == Kind::Precondition && error.message.contains("moved out"), "{error}");
    let error = into_etcd(&store, at(&etcd, &folder, "two"), false).await.unwrap_err();
    assert!(error.message.contains("--anew"), "{error}");
    into_etcd(&store, at(&etcd, &folder, "three"), true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_was_cut_off_is_opened_by_nobody_and_begun_again() {
    let (etcd, folder) = (Etcd::start(), tempfile::tempdir().unwrap());
    let store = filled(300).await;
    let half = EtcdStore::open_to_fill(at(&etcd, &folder, "one"), false).await.unwrap();
    let batch = Batch { puts: vec![("v/stray".into(), vec![1])], ..Batch::default() };
    half.commit(batch, Durability::Durable).await.unwrap();
    std::mem::forget(half);
    for refused in [
        EtcdStore::open(at(&etcd, &folder, "two")).await.map(drop),
        into_etcd(&store, at(&etcd, &folder, "three"), false).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(error.kind == Kind::Precondition && error.message.contains("not whole"), "{error}");
    }
    into_etcd(&store, at(&etcd, &folder, "four"), true).await.unwrap();
    let shared = EtcdStore::open(at(&etcd, &folder, "five")).await.unwrap();
    assert_eq!(content(&shared).await, content(&store).await);
    // Whole records are thrown away for no word.
    let error = into_etcd(&store, at(&etcd, &folder, "six"), true).await.unwrap_err();
    assert!(error.kind == Kind::Precondition && error.message.contains("301 records"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_house_may_be_filled_and_an_empty_store_moved() {
    let (etcd, folder) = (Etcd::start(), tempfile::tempdir().unwrap());
    EtcdStore::open(at(&etcd, &folder, "one")).await.unwrap().close().await;
    assert_eq!(into_etcd(&MemoryStore::new(), at(&etcd, &folder, "two"), false).await.unwrap(), 0);
    let shared = Arc::new(EtcdStore::open(at(&etcd, &folder, "two")).await.unwrap());
    assert!(content(&*shared).await.is_empty());
}
