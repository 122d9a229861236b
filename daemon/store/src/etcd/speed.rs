//! How fast the store is beside bare transactions of the same number and size: the same conditions and effects sent
//! without receipts, tasks and checks. It prints figures, judges nothing but that the work was done, and is run by hand:
//!
//! ```text
//! cargo test --release --package kato-store -- --ignored --nocapture speed
//! ```

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kato_orchestrator::ports::store::{Batch, Durability, Guard, Store as _};
use tokio::task::JoinSet;

use super::{
    EtcdConfig, EtcdStore,
    client::Client,
    draft::{Condition, Draft, Effect},
    wire::{Call as _, TxnRequest, TxnResponse, revision},
};

/// A record of a volume is about so long.
const RECORD: usize = 700;
/// How long each row takes.
const ROW: Duration = Duration::from_secs(4);

struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the yardstick is a program of its own")]
fn start(folder: &std::path::Path) -> (Member, String) {
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (client, peer) = (format!("http://127.0.0.1:{}", port()), format!("http://127.0.0.1:{}", port()));
    let child = Command::new("etcd")
        .args(["--name", "m", "--data-dir", folder.join("m").to_str().unwrap(), "--log-level", "error"])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("m={peer}"), "--logger", "zap"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (Member(child), client)
}

/// Runs so many at once for a while. Answers how many per second, and the median and the 99th percentile in microseconds.
async fn row<F, Fut>(at_once: u64, work: F) -> (f64, u128, u128)
where
    F: Fn(u64, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (work, done) = (Arc::new(work), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    #[expect(clippy::disallowed_methods, reason = "what is measured is real time")]
    let began = Instant::now();
    for worker in 0..at_once {
        let (work, done) = (work.clone(), done.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            let mut n = 0;
            while began.elapsed() < ROW {
                let before = began.elapsed();
                work(worker, n).await;
                times.push((began.elapsed() - before).as_micros());
                n += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
            times
        });
    }
    let mut times: Vec<u128> = tasks.join_all().await.into_iter().flatten().collect();
    let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    times.sort_unstable();
    (rate, times[times.len() / 2], times[times.len() * 99 / 100])
}

async fn bare_txn(client: &Client, draft: Draft) -> TxnResponse {
    client.send(0, TxnRequest::PATH, draft.written().unwrap().request, None).await.unwrap()
}

fn name(row: &str, worker: u64, n: u64) -> [String; 3] {
    ["v", "n/v", "w/v"].map(|kind| format!("{kind}/{row}-{worker:03}-{n:08}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, and takes a minute"]
async fn speed() {
    let folder = tempfile::tempdir().unwrap();
    let (_member, endpoint) = start(folder.path());
    let store = EtcdStore::open(EtcdConfig {
        endpoints: vec![endpoint],
        prefix: "kato/".to_owned(),
        tls: None,
        user: None,
        node: "speed".to_owned(),
        mark: folder.path().join("mark"),
        keep_history: Duration::ZERO,
        patience: Duration::from_secs(20),
    });
    let store = Arc::new(store.await.unwrap());
    println!(
        "{:>8} {:>22} {:>22} {:>6}",
        "at once", "bare /s, p50, p99 µs", "store /s, p50, p99 µs", "ratio"
    );
    for at_once in [1, 8, 64, 256] {
        // A create and a delete: two transactions, of three records each, the second guarded by what the first wrote.
        let (one, two) = (store.clone(), store.clone());
        let bare = row(at_once, move |worker, n| {
            let store = one.clone();
            async move {
                let names = name(&format!("bare{at_once}"), worker, n);
                let places = names.map(|name| store.room.layout.record(&name));
                let value: Vec<u8> = n.to_be_bytes().into_iter().cycle().take(RECORD).collect();
                let create = Draft {
                    conditions: places.iter().map(|place| Condition::Written(place.clone(), 0)).collect(),
                    effects: places
                        .iter()
                        .map(|place| Effect::Put(place.clone(), value.clone(), 0))
                        .collect(),
                };
                let client = &store.room.client;
                let made = bare_txn(client, create).await;
                assert!(made.succeeded);
                let at = revision(made.header.unwrap().revision);
                let delete = Draft {
                    conditions: places.iter().map(|place| Condition::Written(place.clone(), at)).collect(),
                    effects: places.iter().map(|place| Effect::Remove(place.clone())).collect(),
                };
                assert!(bare_txn(client, delete).await.succeeded);
            }
        });
        let bare = bare.await;
        let ours = row(at_once, move |worker, n| {
            let store = two.clone();
            async move {
                let names = name(&format!("store{at_once}"), worker, n);
                let value: Vec<u8> = n.to_be_bytes().into_iter().cycle().take(RECORD).collect();
                let create = Batch {
                    guards: names.iter().cloned().map(Guard::Absent).collect(),
                    puts: names.iter().map(|name| (name.clone(), value.clone())).collect(),
                    ..Batch::default()
                };
                let at = store.commit(create, Durability::Durable).await.unwrap();
                let delete = Batch {
                    guards: names.iter().map(|name| Guard::At(name.clone(), at)).collect(),
                    deletes: names.to_vec(),
                    ..Batch::default()
                };
                store.commit(delete, Durability::Durable).await.unwrap();
            }
        });
        let ours = ours.await;
        let told = |row: (f64, u128, u128)| format!("{:.0} {} {}", row.0 * 2.0, row.1 / 2, row.2 / 2);
        println!("{at_once:>8} {:>22} {:>22} {:>6.2}", told(bare), told(ours), ours.0 / bare.0);
    }
    assert!(store.scan("", None, 10).await.unwrap().is_empty(), "what was created was deleted");
}
