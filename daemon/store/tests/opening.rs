//! Opening: who may, what is refused without being touched, what is cleared away, and what damage looks like.

#![cfg(test)]

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use kato_orchestrator::{
    Kind,
    model::Bytes,
    ports::store::{Batch, Durability, Store},
    records::SCHEMA,
};
use kato_store::{Config, SledStore};

fn config(folder: &tempfile::TempDir) -> Config {
    let mut config = Config::at(folder.path().join("a/b/store"));
    config.reserve = Bytes::MIB;
    config.segment = 32 << 10;
    config
}

fn put(key: &str) -> Batch {
    Batch { puts: vec![(key.to_owned(), key.repeat(20).into_bytes())], ..Batch::default() }
}

async fn fill(config: &Config, records: usize) {
    let store = SledStore::open(config.clone()).unwrap();
    for n in 0..records {
        store.commit(put(&format!("k/{n:03}")), Durability::Lazy).await.unwrap();
    }
}

fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn lazy_commits_survive_a_planned_stop() {
    let folder = tempfile::tempdir().unwrap();
    fill(&config(&folder), 100).await;
    let store = SledStore::open(config(&folder)).unwrap();
    assert_eq!(store.scan("k/", None, 1000).await.unwrap().len(), 100);
    assert!(store.damage().is_empty());
}

#[tokio::test]
async fn revisions_and_fencing_tokens_rise_over_every_opening() {
    let folder = tempfile::tempdir().unwrap();
    let (mut revision, mut token) = (0, 0);
    for n in 0..4 {
        let store = SledStore::open(config(&folder)).unwrap();
        let next = store.commit(put(&n.to_string()), Durability::Durable).await.unwrap();
        let claim = store.claim("k").await.unwrap();
        assert!(next > revision && claim.fencing_token() > token);
        (revision, token) = (next, claim.fencing_token());
    }
    let store = SledStore::open(config(&folder)).unwrap();
    let changes = store.watch_from("", revision).await.unwrap_err();
    assert_eq!(changes.kind, Kind::OutOfRange, "what was before the opening is not remembered");
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let _first = SledStore::open(config(&folder)).unwrap();
    let error = SledStore::open(config(&folder)).unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains(&format!("process {}", std::process::id())), "{error}");
}

#[tokio::test]
async fn a_newer_store_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    fill(&config(&folder), 10).await;
    let path = config(&folder).path;
    fs::write(path.join("FORMAT"), format!("kato schema {}\n", SCHEMA + 1)).unwrap();
    let before = everything(&path);
    let error = SledStore::open(config(&folder)).unwrap_err();
    assert_eq!(error.kind, Kind::Precondition);
    for words in [format!("schema {}", SCHEMA + 1), format!("schema {SCHEMA}:"), "dumps".into()] {
        assert!(error.message.contains(&words), "{error}");
    }
    assert_eq!(everything(&path), before);
    fs::write(path.join("FORMAT"), "hello").unwrap();
    assert_eq!(SledStore::open(config(&folder)).unwrap_err().kind, Kind::Internal);
    fs::write(path.join("FORMAT"), format!("kato schema {SCHEMA}\n")).unwrap();
    SledStore::open(config(&folder)).unwrap();
}

#[tokio::test]
async fn what_a_cut_off_start_left_is_cleared_away() {
    let folder = tempfile::tempdir().unwrap();
    fill(&config(&folder), 50).await;
    let path = config(&folder).path;
    fs::create_dir_all(path.join("sled.new/blobs")).unwrap();
    fs::write(path.join("sled.new/db"), "rubbish").unwrap();
    fs::write(path.join("sled/snap.7FFFFFFFFFFFFFFF.generating"), "half").unwrap();
    fs::write(path.join("sled/snap.7FFFFFFFFFFFFFFE"), "a snapshot whose content never came").unwrap();
    let store = SledStore::open(config(&folder)).unwrap();
    assert_eq!(store.scan("k/", None, 1000).await.unwrap().len(), 50);
    assert!(!path.join("sled.new").exists());
    assert!(!path.join("sled/snap.7FFFFFFFFFFFFFFF.generating").exists());
}

#[tokio::test]
async fn records_that_are_gone_are_missed() {
    let folder = tempfile::tempdir().unwrap();
    fill(&config(&folder), 50).await;
    let path = config(&folder).path;
    fs::rename(path.join("sled"), path.join("elsewhere")).unwrap();
    let error = SledStore::open(config(&folder)).unwrap_err();
    assert_eq!(error.kind, Kind::Internal);
    assert!(error.message.contains("sled is missing"), "{error}");
    fs::rename(path.join("elsewhere"), path.join("sled")).unwrap();
    SledStore::open(config(&folder)).unwrap();
}

#[tokio::test]
async fn an_older_copy_of_the_records_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    fill(&config(&folder), 50).await;
    let path = config(&folder).path;
    let old = everything(&path.join("sled"));
    fill(&config(&folder), 51).await;
    fs::remove_dir_all(path.join("sled")).unwrap();
    fs::create_dir_all(path.join("sled/blobs")).unwrap();
    for (path, bytes) in old {
        fs::write(path, bytes).unwrap();
    }
    let error = SledStore::open(config(&folder)).unwrap_err();
    assert_eq!(error.kind, Kind::Internal);
    assert!(error.message.contains("was durable"), "{error}");
}

#[tokio::test]
async fn damage_is_an_error_that_names_the_place_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    fill(&config(&folder), 200).await;
    let path = config(&folder).path;
    let db = path.join("sled/db");
    let whole = fs::read(&db).unwrap();
    let (mut refused, mut noticed) = (0, 0);
    for place in (0..whole.len()).step_by(whole.len() / 40) {
        let file = fs::OpenOptions::new().write(true).open(&db).unwrap();
        file.write_all_at(&vec![0x55; 600.min(whole.len() - place)], place.try_into().unwrap()).unwrap();
        match SledStore::open(config(&folder)) {
            Err(error) => {
                assert!(error.message.contains(path.to_str().unwrap()), "{error}");
                assert!(error.message.contains("kato recover --scan"), "{error}");
                assert!(error.message.contains("dumps"), "{error}");
                refused += 1;
            }
            Ok(store) => {
                // Whatever is read is what was written, or an error.
                for n in 0..200 {
                    let key = format!("k/{n:03}");
                    match store.load(&key).await {
                        Ok(Some(entry)) => assert_eq!(entry.value, key.repeat(20).into_bytes()),
                        Ok(None) => panic!("{key} is missing, and nobody noticed (damage at {place})"),
                        Err(_) => noticed += 1,
                    }
                }
            }
        }
        fs::remove_dir_all(path.join("sled")).unwrap();
        fs::remove_file(path.join("mark")).unwrap();
        fill(&config(&folder), 200).await;
    }
    assert!(refused + noticed > 0, "no damage was noticed at all");
}
