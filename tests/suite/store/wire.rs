//! What became of a write whose answer was lost: a wire between the store and etcd is cut at any moment, with requests
//! that arrived and answers that did not, and every increment of a counter is counted once.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use kato_orchestrator::{
    Kind,
    ports::store::{Durability, Guard, Store},
};
use kato_store::{EtcdConfig, EtcdStore};
use kato_tests::etcd::Etcd;
use tokio::task::JoinSet;

use super::{at, guarded, put};

/// A wire that is cut when somebody says so.
pub(super) struct Wire {
    port: u16,
    lines: Arc<Mutex<Vec<TcpStream>>>,
    deaf: Arc<AtomicBool>,
    carried: Arc<AtomicU64>,
}

impl Wire {
    /// A wire to this address.
    pub(super) fn to(endpoint: &str) -> Self {
        let there = endpoint.rsplit_once('/').unwrap().1.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            lines: Arc::default(),
            deaf: Arc::default(),
            carried: Arc::default(),
        };
        let (lines, deaf, carried) = (wire.lines.clone(), wire.deaf.clone(), wire.carried.clone());
        thread::spawn(move || {
            for here in listener.incoming().flatten() {
                let Ok(there) = TcpStream::connect(&there) else { continue };
                let pair = || (here.try_clone().unwrap(), there.try_clone().unwrap());
                lines.lock().unwrap().extend([here.try_clone().unwrap(), there.try_clone().unwrap()]);
                let ((from, to), (back, answers)) = (pair(), pair());
                let (deaf, carried) = (deaf.clone(), carried.clone());
                thread::spawn(move || carry(from, to, &AtomicBool::new(false), &AtomicU64::new(0)));
                thread::spawn(move || carry(answers, back, &deaf, &carried));
            }
        });
        wire
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Cuts all that is connected now.
    pub(super) fn cut(&self) {
        for line in self.lines.lock().unwrap().drain(..) {
            drop(line.shutdown(Shutdown::Both));
        }
    }

    /// Swallows answers: requests still arrive.
    pub(super) fn swallow(&self, answers: bool) {
        self.deaf.store(answers, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, swallow: &AtomicBool, carried: &AtomicU64) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 {
            break;
        }
        carried.fetch_add(1, Ordering::Relaxed);
        if !swallow.load(Ordering::SeqCst) && to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}

/// Raises a counter so often, and answers how often it said that it had.
pub(super) async fn count(store: Arc<dyn Store>, key: String, times: u32) -> u32 {
    let mut done = 0;
    for _ in 0..times {
        let entry = store.load(&key).await.unwrap();
        let (guard, count) = match &entry {
            Some(entry) => {
                let count: u32 = String::from_utf8(entry.value.clone()).unwrap().parse().unwrap();
                (Guard::At(key.clone(), entry.revision), count)
            }
            None => (Guard::Absent(key.clone()), 0),
        };
        assert_eq!(count, done, "{key}: an increment was lost, or came twice");
        let batch = guarded(put(&key, &(count + 1).to_string()), &[guard]);
        match store.commit(batch, Durability::Durable).await {
            Ok(_) => done += 1,
            Err(error) => panic!("{key}: {error} ({:?})", error.kind),
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_happens_once_however_often_the_wire_is_cut() {
    let etcd = Etcd::start();
    let folder = tempfile::tempdir().unwrap();
    let wire = Wire::to(&etcd.endpoint(0));
    let config = EtcdConfig { endpoints: vec![wire.endpoint()], ..at(&etcd, &folder, "one") };
    let store: Arc<dyn Store> = Arc::new(EtcdStore::open(config).await.unwrap());
    let mut tasks = JoinSet::new();
    for worker in 0..8 {
        tasks.spawn(count(store.clone(), format!("counter/{worker}"), 60));
    }
    let mut cuts = 0;
    while !tasks.is_empty() {
        wire.swallow(true);
        tokio::time::sleep(Duration::from_millis(15)).await;
        wire.cut();
        wire.swallow(false);
        cuts += 1;
        tokio::time::sleep(Duration::from_millis(120)).await;
        while let Some(done) = tasks.try_join_next() {
            assert_eq!(done.unwrap(), 60);
        }
    }
    assert!(cuts >= 5, "only {cuts} cuts");
    for worker in 0..8 {
        let entry = store.load(&format!("counter/{worker}")).await.unwrap().unwrap();
        assert_eq!(entry.value, b"60", "counter {worker} after {cuts} cuts");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_nobody_can_find_out_is_called_unknown() {
    let etcd = Etcd::start();
    let folder = tempfile::tempdir().unwrap();
    let wire = Wire::to(&etcd.endpoint(0));
    let patience = Duration::from_secs(4);
    let config = EtcdConfig { endpoints: vec![wire.endpoint()], patience, ..at(&etcd, &folder, "one") };
    let store = EtcdStore::open(config).await.unwrap();
    store.commit(put("a", "1"), Durability::Durable).await.unwrap();
    wire.swallow(true);
    let began = std::time::Instant::now();
    let error = store.commit(put("a", "2"), Durability::Durable).await.unwrap_err();
    assert!(error.kind == Kind::Unavailable && !error.is_final(), "{error}");
    assert!(began.elapsed() < patience * 2, "{:?}", began.elapsed());
    wire.swallow(false);
    wire.cut();
    // It did happen, as it turns out.
    assert_eq!(store.load("a").await.unwrap().unwrap().value, b"2");
    store.commit(put("a", "3"), Durability::Durable).await.unwrap();
}
