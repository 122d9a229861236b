//! A process that is killed at any moment, in a commit or in an opening, leaves a store that opens and holds
//! everything that was answered as durable. The process is this test again, told by its environment to write.

#![cfg(test)]
#![expect(
    clippy::disallowed_methods,
    reason = "starts itself again as the process that is killed, and tells it through its environment"
)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use kato_orchestrator::{
    model::Bytes,
    ports::store::{Batch, Durability, Store},
};
use kato_store::{Config, SledStore};

const FOLDER: &str = "KATO_STORE_KILL_TEST";

fn config(folder: &Path) -> Config {
    let mut config = Config::at(folder);
    config.reserve = Bytes(0);
    // Short segments are reused soon.
    config.segment = 64 << 10;
    config
}

/// Opens the store, says so, and commits until it is killed: says each number before it is written, and after.
#[tokio::test]
async fn the_process_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let store = SledStore::open(config(Path::new(&folder))).unwrap();
    let last = store.load("last").await.unwrap();
    let mut number: u64 = last.map_or(0, |entry| String::from_utf8(entry.value).unwrap().parse().unwrap());
    let mut out = std::io::stdout();
    writeln!(out, "open {number}").unwrap();
    loop {
        number += 1;
        let value = number.to_string().into_bytes();
        let puts = vec![
            ("last".to_owned(), value.clone()),
            (format!("k/{:03}", number % 500), [value.clone(), vec![0; 200]].concat()),
            (format!("twin/{:03}", number % 500), value),
        ];
        let durability = if number.is_multiple_of(3) { Durability::Durable } else { Durability::Lazy };
        store.commit(Batch { puts, ..Batch::default() }, durability).await.unwrap();
        if durability == Durability::Durable {
            writeln!(out, "done {number}").unwrap();
        }
    }
}

/// Starts the process, kills it after a while, and answers the last number that it said was durable.
fn start_and_kill(folder: &Path, after: Duration) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let lines = said.lines().map_while(Result::ok);
        lines.filter_map(|line| line.strip_prefix("done ").and_then(|number| number.parse().ok())).last()
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

async fn check(folder: &Path, at_least: u64) -> u64 {
    let store = SledStore::open(config(folder)).unwrap();
    let entries = store.scan("", None, usize::MAX).await.unwrap();
    let values: BTreeMap<String, String> = entries
        .into_iter()
        .map(|entry| (entry.key, String::from_utf8(entry.value).unwrap().replace('\0', "")))
        .collect();
    let last: u64 = values.get("last").map_or(0, |value| value.parse().unwrap());
    assert!(last >= at_least, "{at_least} was durable and {last} is the last");
    for number in last.saturating_sub(499).max(1)..=last {
        for key in [format!("k/{:03}", number % 500), format!("twin/{:03}", number % 500)] {
            assert_eq!(values.get(&key), Some(&number.to_string()), "{key} of {last}");
        }
    }
    last
}

#[tokio::test]
async fn a_killed_process_loses_no_durable_commit() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut last = 0;
    for trial in 0..25 {
        // From the first instruction of the opening to well into the commits.
        let after = Duration::from_micros(1_000 + 2_377 * trial);
        let said = start_and_kill(&store, after);
        last = check(&store, said.unwrap_or(last).max(last)).await;
    }
    let said = start_and_kill(&store, Duration::from_millis(500));
    assert!(said.is_some_and(|said| said > last), "the process commits at all");
}

#[tokio::test]
async fn a_process_killed_while_it_opens_a_large_store_leaves_it_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = SledStore::open(config(&path)).unwrap();
    for page in 0..100u32 {
        let puts = (0..100).map(|n| (format!("k/{page:03}{n:03}"), vec![b'x'; 100])).collect();
        store.commit(Batch { puts, ..Batch::default() }, Durability::Lazy).await.unwrap();
    }
    drop(store);
    let began = std::time::Instant::now();
    drop(SledStore::open(config(&path)).unwrap());
    let whole = began.elapsed();
    for trial in 1..=15 {
        start_and_kill(&path, whole * trial / 10);
        let store = SledStore::open(config(&path)).unwrap();
        assert_eq!(
            store.scan("k/", None, usize::MAX).await.unwrap().iter().filter(|e| e.key.len() == 8).count(),
            10_000
        );
    }
}
