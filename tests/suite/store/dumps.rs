//! A dump of a shared store, while other hosts change it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kato_orchestrator::{
    model::{VolumeId, VolumeName},
    ports::store::{Batch, Durability, Store},
    records::{self, keys},
};
use kato_store::{dump, read_dump};

use super::Subject;

fn record(name: &str, id: u128) -> (String, Vec<u8>) {
    let key = keys::volume_name(&VolumeName::parse(name).unwrap());
    let value = records::encode(&key, &VolumeId(id));
    (key, value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_is_of_one_moment_while_others_write() {
    let subject = Subject::etcd().await;
    for n in 0..6u128 {
        let puts = (0..100).map(|m| record(&format!("still {:04}", n * 100 + m), 0)).collect();
        subject.store.commit(Batch { puts, ..Batch::default() }, Durability::Durable).await.unwrap();
    }
    // Two records at the two ends of the keys, that always say the same.
    let both = |n: u128| Batch { puts: vec![record("a first", n), record("z last", n)], ..Batch::default() };
    subject.store.commit(both(0), Durability::Durable).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (other, stopped) = (subject.another_store.clone().unwrap(), stop.clone());
    let writer = tokio::task::spawn(async move {
        let mut n = 0;
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            other.commit(both(n), Durability::Durable).await.unwrap();
        }
        n
    });
    for _ in 0..15 {
        let mut lines = Vec::new();
        dump(&*subject.store as &dyn Store, &mut lines).await.unwrap();
        let dumped: BTreeMap<_, _> = read_dump(&lines[..]).unwrap();
        assert_eq!(dumped.len(), 602);
        let says = |name: &str| {
            let (key, _) = record(name, 0);
            let value = dumped[&key].clone();
            records::decode::<VolumeId>(&kato_orchestrator::ports::store::Entry { key, value, revision: 0 })
                .unwrap()
        };
        assert_eq!(says("a first"), says("z last"));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 15, "nobody wrote");
}
