//! What a power cut leaves of sled's files, and that the store opens on it with every durable batch.
//!
//! After each durable commit the files are what the disk certainly has. A cut in the middle of the next one
//! leaves these, and of what was written since any part in any order: pages of 4 KiB that are old, new, torn
//! at a sector or, in a file that grew, zero; blobs that are missing, empty, cut off or whole; removed ones
//! that are back. Each such folder is opened, and must hold what the store held after some commit between
//! the two, whole. Segments are tiny here, so that sled reuses them all the time; what is written is smaller in
//! proportion, as the limits of the committer make it. A few cuts meet the sizes that are shipped.

#![cfg(test)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use kato_orchestrator::{
    model::Bytes,
    ports::store::{Batch, Durability, Key, Store},
};
use kato_store::{Config, SledStore};

type Records = BTreeMap<Key, Vec<u8>>;
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A small generator of numbers, so that a run can be repeated from its seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// Stands for a store as it is shipped, reserve and all.
const SHIPPED: usize = 0;

fn config(folder: &Path, segment: usize) -> Config {
    let mut config = Config::at(folder);
    if segment == SHIPPED {
        return config;
    }
    config.reserve = Bytes(0);
    config.segment = segment;
    config
}

fn read_files(folder: &Path) -> Files {
    fn walk(folder: &Path, root: &Path, files: &mut Files) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, files);
            } else {
                files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut files = Files::new();
    walk(folder, folder, &mut files);
    files
}

fn write_files(folder: &Path, files: &Files) {
    drop(fs::remove_dir_all(folder));
    fs::create_dir_all(folder.join("sled/blobs")).unwrap();
    for (path, bytes) in files {
        fs::write(folder.join(path), bytes).unwrap();
    }
}

/// Of a file that was written over: any of its pages, and any of its lengths.
fn torn(old: &[u8], new: &[u8], dice: &mut Dice) -> Vec<u8> {
    let grown = new.len() > old.len();
    let length = if dice.throw(2) == 0 { old.len() } else { new.len() };
    let mut left = vec![0; old.len().max(new.len())];
    left[..old.len()].copy_from_slice(old);
    for start in (0..new.len()).step_by(4096) {
        let end = (start + 4096).min(new.len());
        match dice.throw(4) {
            0 | 1 => left[start..end].copy_from_slice(&new[start..end]),
            2 => {
                let end = (start + 512 * (1 + dice.throw(7))).min(end);
                left[start..end].copy_from_slice(&new[start..end]);
            }
            _ if grown && start >= old.len() => left[start..end].fill(0),
            _ => {}
        }
    }
    left.truncate(length);
    left
}

fn cut(old: &Files, new: &Files, dice: &mut Dice) -> Files {
    let mut left = old.clone();
    // The mark is written after the sync, so it is old for as long as anything is.
    for (path, bytes) in new.iter().filter(|(path, _)| *path != Path::new("mark")) {
        match old.get(path) {
            Some(before) if before == bytes => {}
            Some(before) => drop(left.insert(path.clone(), torn(before, bytes, dice))),
            None => match dice.throw(4) {
                0 => {}
                1 => drop(left.insert(path.clone(), Vec::new())),
                2 => drop(left.insert(path.clone(), bytes[..dice.throw(bytes.len() + 1)].to_vec())),
                _ => drop(left.insert(path.clone(), bytes.clone())),
            },
        }
    }
    for path in old.keys().filter(|path| !new.contains_key(*path)) {
        if dice.throw(2) == 0 {
            left.remove(path);
        }
    }
    left
}

async fn content(store: &dyn Store) -> Records {
    let entries = store.scan("", None, usize::MAX).await.unwrap();
    entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

/// Some puts and deletes, mostly of keys that are there.
fn some_batch(dice: &mut Dice, round: usize, largest: usize) -> Batch {
    let key = |dice: &mut Dice| format!("k/{:03}", dice.throw(60));
    let mut batch = Batch::default();
    for _ in 0..1 + dice.throw(4) {
        let size = if dice.throw(10) == 0 { dice.throw(largest) } else { dice.throw(120) };
        let filler = u8::try_from(round % 251).unwrap();
        batch.puts.push((key(dice), [round.to_string().into_bytes(), vec![filler; size]].concat()));
    }
    for _ in 0..dice.throw(3) {
        batch.deletes.push(key(dice));
    }
    batch
}

fn apply(records: &mut Records, batch: &Batch) {
    for key in &batch.deletes {
        records.remove(key);
    }
    records.extend(batch.puts.iter().cloned());
}

/// How many segments of the log had another header before.
fn reused_segments(old: &Files, new: &Files, segment: usize) -> usize {
    let segment = if segment == SHIPPED { Config::at("").segment } else { segment };
    let headers = |files: &Files| -> Vec<Vec<u8>> {
        let db = files.get(Path::new("sled/db")).unwrap();
        db.chunks(segment).filter(|chunk| chunk.len() >= 20).map(|chunk| chunk[..20].to_vec()).collect()
    };
    let pairs = headers(old).into_iter().zip(headers(new));
    pairs.filter(|(old, new)| old != new && old.iter().any(|byte| *byte != 0)).count()
}

struct Trial {
    seed: u64,
    segment: usize,
    largest: usize,
    rounds: usize,
    between: usize,
    cuts: usize,
}

/// Answers how many folders were opened, and how often a segment was reused.
async fn every_cut_opens(trial: &Trial) -> (usize, usize) {
    let room =
        tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let (live, dead) = (room.path().join("live"), room.path().join("dead"));
    let mut dice = Dice(trial.seed);
    let mut records = Records::new();
    let (mut opened, mut reused) = (0, 0);
    let mut store = SledStore::open(config(&live, trial.segment)).unwrap();
    for round in 0..trial.rounds {
        if dice.throw(40) == 0 {
            drop(store);
            store = SledStore::open(config(&live, trial.segment)).unwrap();
            assert_eq!(content(&store).await, records);
        }
        let before = read_files(&live);
        // Commits that are not cut, so that the log comes round.
        for _ in 0..trial.between {
            let batch = some_batch(&mut dice, round, trial.largest);
            apply(&mut records, &batch);
            store.commit(batch, Durability::Durable).await.unwrap();
        }
        let sure = read_files(&live);
        // What it holds after each commit since the last durable one.
        let mut states = vec![records.clone()];
        let lazy = dice.throw(3);
        for n in 0..=lazy {
            let batch = some_batch(&mut dice, round, trial.largest);
            apply(&mut records, &batch);
            let durability = if n == lazy { Durability::Durable } else { Durability::Lazy };
            store.commit(batch, durability).await.unwrap();
            states.push(records.clone());
        }
        let now = read_files(&live);
        reused += reused_segments(&before, &now, trial.segment);
        for number in 0..trial.cuts {
            let left = match number {
                0 => now.clone(),
                1 => sure.clone(),
                _ => cut(&sure, &now, &mut dice),
            };
            write_files(&dead, &left);
            let place = format!("seed {} round {round} cut {number}", trial.seed);
            let found = match SledStore::open(config(&dead, trial.segment)) {
                Ok(found) => found,
                Err(error) => panic!("{place}: {error}"),
            };
            let held = content(&found).await;
            assert!(states.contains(&held), "{place}: holds what it never held");
            if number == 0 {
                assert_eq!(held, records, "{place}: lost what was durable");
            }
            if number + 1 == trial.cuts {
                // It goes on from there, and opens once more.
                let mut held = held;
                let batch = some_batch(&mut dice, round, trial.largest);
                apply(&mut held, &batch);
                found.commit(batch, Durability::Durable).await.unwrap();
                drop(found);
                let again = SledStore::open(config(&dead, trial.segment)).unwrap();
                assert_eq!(content(&again).await, held, "{place}: lost what was durable after the cut");
            }
            opened += 1;
        }
    }
    (opened, reused)
}

#[tokio::test]
async fn every_power_cut_in_a_commit_leaves_every_durable_batch() {
    let mut reused = 0;
    for (seed, segment, largest, rounds, between) in [
        (1, 64 << 10, 500, 100, 20),
        (2, 32 << 10, 200, 200, 20),
        (3, 32 << 10, 200, 200, 3),
        (4, 128 << 10, 1000, 100, 10),
    ] {
        let trial = Trial { seed, segment, largest, rounds, between, cuts: 4 };
        let (opened, again) = every_cut_opens(&trial).await;
        assert_eq!(opened, rounds * 4);
        reused += again;
    }
    assert!(reused > 0, "the log never came round");
}

#[tokio::test]
async fn every_power_cut_in_a_commit_of_a_store_as_it_is_shipped_leaves_every_durable_batch() {
    let trial = Trial { seed: 5, segment: SHIPPED, largest: 20_000, rounds: 6, between: 40, cuts: 3 };
    let (opened, _) = every_cut_opens(&trial).await;
    assert_eq!(opened, 18);
}

/// An opening writes a snapshot of sled's, gives it its name, removes the one before, and counts itself.
#[tokio::test]
async fn every_power_cut_in_an_opening_leaves_every_durable_batch() {
    every_cut_off_opening_is_survived(64 << 10, 25).await;
}

#[tokio::test]
async fn every_power_cut_in_an_opening_of_a_store_as_it_is_shipped_leaves_every_durable_batch() {
    every_cut_off_opening_is_survived(SHIPPED, 2).await;
}

async fn every_cut_off_opening_is_survived(segment: usize, rounds: usize) {
    let room = tempfile::tempdir().unwrap();
    let (live, dead) = (room.path().join("live"), room.path().join("dead"));
    let mut dice = Dice(9);
    let mut records = Records::new();
    for round in 0..rounds {
        let store = SledStore::open(config(&live, segment)).unwrap();
        for _ in 0..20 {
            let batch = some_batch(&mut dice, round, 300);
            apply(&mut records, &batch);
            store.commit(batch, Durability::Durable).await.unwrap();
        }
        // What a killed process leaves, and what the opening after that makes of it.
        let before = read_files(&live);
        drop(store);
        write_files(&dead, &before);
        drop(SledStore::open(config(&dead, segment)).unwrap());
        let after = read_files(&dead);
        let is_snapshot = |path: &Path| path.to_string_lossy().contains("snap.");
        for number in 0..8 {
            let mut left = before.clone();
            let (old, new): (Vec<_>, Vec<_>) = (
                before.iter().filter(|(path, _)| is_snapshot(path)).collect(),
                after.iter().filter(|(path, _)| is_snapshot(path)).collect(),
            );
            for (path, bytes) in &new {
                let unfinished = PathBuf::from(format!("{}.generating", path.display()));
                match number {
                    0 => {}
                    1 => drop(left.insert(unfinished, bytes[..dice.throw(bytes.len())].to_vec())),
                    2 => drop(left.insert(unfinished, (*bytes).clone())),
                    // The new name came before the content, as some file systems have it.
                    3 => drop(left.insert((*path).clone(), bytes[..dice.throw(bytes.len())].to_vec())),
                    _ => drop(left.insert((*path).clone(), (*bytes).clone())),
                }
            }
            if number >= 5 {
                for (path, _) in old.iter().filter(|(path, _)| !after.contains_key(*path)) {
                    left.remove(*path);
                }
            }
            if number >= 6 {
                let path = Path::new("sled/db");
                let db = torn(&before[path], &after[path], &mut dice);
                left.insert(path.to_owned(), if number == 6 { after[path].clone() } else { db });
            }
            write_files(&dead, &left);
            let place = format!("round {round} cut {number}");
            let found =
                SledStore::open(config(&dead, segment)).unwrap_or_else(|error| panic!("{place}: {error}"));
            assert_eq!(content(&found).await, records, "{place}");
        }
    }
}
