//! Opening: who may, what is refused without being touched, what is cleared away, and what damage looks like.

#![cfg(test)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use kato_orchestrator::{
    Kind,
    model::{Bytes, VolumeId, VolumeName},
    ports::store::{Batch, Durability, Entry, Store},
    records::{SCHEMA, encode, keys},
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

/// A small generator of numbers, so that a run can be repeated from its seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// Opens a damaged store: whatever is read is what was written, or an error that names the record or the store;
/// a store that is refused is as it was. Answers how the damage was noticed, if it was.
async fn meet_damage(config: &Config, records: usize, what: &str) -> Option<&'static str> {
    let before = everything(&config.path);
    let names_the_place = |error: &kato_orchestrator::Error| {
        for words in [config.path.to_str().unwrap(), "dumps"] {
            assert!(error.message.contains(words), "{what}: {error}");
        }
    };
    let store = match SledStore::open(config.clone()) {
        Ok(store) => store,
        Err(error) => {
            names_the_place(&error);
            assert!(everything(&config.path) == before, "{what}: a store that was refused was touched");
            return Some("refused");
        }
    };
    let mut noticed = None;
    for n in 0..records {
        let key = format!("k/{n:03}");
        match store.load(&key).await {
            Ok(Some(entry)) => {
                assert_eq!(entry.value, key.repeat(20).into_bytes(), "{what}: {key} is served")
            }
            Ok(None) => panic!("{what}: {key} is missing, and nobody noticed"),
            Err(error) => {
                if error.subject != key {
                    names_the_place(&error);
                }
                noticed = Some("noticed");
            }
        }
    }
    noticed
}

#[tokio::test]
async fn every_flipped_bit_is_harmless_or_named_and_a_refused_store_is_as_it_was() {
    let folder =
        tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let config = config(&folder);
    // As a planned end leaves it, and as a kill does.
    for killed in [false, true] {
        fill(&config, 200).await;
        if killed {
            fs::remove_file(config.path.join("seal")).unwrap();
        }
        let whole = everything(&config.path);
        let mut dice = Dice(24);
        let mut seen = BTreeMap::new();
        for (victim, bytes) in &whole {
            let name = victim.strip_prefix(&config.path).unwrap().display().to_string();
            if bytes.is_empty() || ["lock", "reserve"].contains(&name.as_str()) {
                continue;
            }
            let samples = if name == "sled/db" { 250 } else { bytes.len().min(12) };
            for sample in 0..samples {
                // Spread over the whole file, each at a place of its stretch that nobody chose.
                let stretch = bytes.len() / samples;
                let place = (sample * stretch + dice.throw(stretch)).min(bytes.len() - 1);
                let bit = dice.throw(8);
                fs::remove_dir_all(&config.path).unwrap();
                fs::create_dir_all(config.path.join("sled/blobs")).unwrap();
                for (path, bytes) in &whole {
                    let mut bytes = bytes.clone();
                    if path == victim {
                        bytes[place] ^= 1 << bit;
                    }
                    fs::write(path, bytes).unwrap();
                }
                let what = format!("bit {bit} of byte {place} of {name} (killed: {killed})");
                let outcome = meet_damage(&config, 200, &what).await;
                *seen.entry((name.clone(), outcome)).or_insert(0) += 1;
            }
        }
        // What is damaged in the middle of the log is noticed; at its end there is room that nobody needs.
        let refused = seen.get(&("sled/db".to_owned(), Some("refused"))).copied().unwrap_or(0);
        assert!(refused > 50, "{seen:?}");
        fs::remove_dir_all(&config.path).unwrap();
    }
}

#[tokio::test]
async fn large_damage_is_an_error_that_names_the_place_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    fill(&config, 200).await;
    let whole = everything(&config.path);
    let db = config.path.join("sled/db");
    let mut refused = 0;
    for place in (0..fs::metadata(&db).unwrap().len()).step_by(16 << 10) {
        let file = fs::OpenOptions::new().write(true).open(&db).unwrap();
        file.write_all_at(&[0x55; 600], place).unwrap();
        let outcome = meet_damage(&config, 200, &format!("600 bytes at {place}")).await;
        refused += usize::from(outcome == Some("refused"));
        fs::remove_dir_all(&config.path).unwrap();
        fs::create_dir_all(config.path.join("sled/blobs")).unwrap();
        for (path, bytes) in &whole {
            fs::write(path, bytes).unwrap();
        }
    }
    assert!(refused > 5, "{refused}");
    drop(SledStore::open(config).unwrap());
}

#[tokio::test]
async fn a_store_that_is_refused_is_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    fill(&config, 200).await;
    let path = &config.path;
    let refuse = |kind: Kind| {
        let before = everything(path);
        assert_eq!(SledStore::open(config.clone()).unwrap_err().kind, kind);
        assert!(everything(path) == before, "{kind:?}");
    };
    // Damaged, so that sled would cut off what follows.
    let db = path.join("sled/db");
    let whole = fs::read(&db).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&db).unwrap();
    file.write_all_at(&[0x55; 600], 20_000).unwrap();
    refuse(Kind::Internal);
    // Damaged, and of an older schema, and without its reserve.
    fs::write(path.join("FORMAT"), "kato schema 0\n").unwrap();
    fs::remove_file(path.join("reserve")).unwrap();
    refuse(Kind::Internal);
    fs::write(path.join("FORMAT"), format!("kato schema {SCHEMA}\n")).unwrap();
    fs::write(&db, &whole).unwrap();
    // Without its engine.
    fs::rename(path.join("sled"), path.join("elsewhere")).unwrap();
    refuse(Kind::Internal);
    fs::rename(path.join("elsewhere"), path.join("sled")).unwrap();
    // Newer.
    fs::write(path.join("FORMAT"), format!("kato schema {}\n", SCHEMA + 1)).unwrap();
    refuse(Kind::Precondition);
    fs::write(path.join("FORMAT"), format!("kato schema {SCHEMA}\n")).unwrap();
    // In use.
    let open = SledStore::open(config.clone()).unwrap();
    refuse(Kind::Unavailable);
    drop(open);
    let open = SledStore::open(config.clone()).unwrap();
    assert_eq!(open.scan("k/", None, 1000).await.unwrap().len(), 200);
}

/// A record as a kato of schema 0 would have written it.
fn older(key: &str, value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    value[2..4].copy_from_slice(&[0, 0]);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&u64::try_from(key.len()).unwrap().to_be_bytes());
    crc.update(key.as_bytes());
    crc.update(&value[..5]);
    crc.update(&value[9..]);
    value[5..9].copy_from_slice(&crc.finalize().to_be_bytes());
    value
}

#[tokio::test]
async fn records_of_an_older_schema_are_dumped_before_anything_is_written_in_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    let store = SledStore::open(config.clone()).unwrap();
    let mut batch = Batch::default();
    for n in 0..300 {
        let key = keys::volume_name(&VolumeName::parse(&format!("db-{n:03}")).unwrap());
        let value = older(&key, &encode(&key, &VolumeId(n)));
        batch.puts.push((key, value));
    }
    store.commit(batch, Durability::Durable).await.unwrap();
    let records = store.scan("", None, 1000).await.unwrap();
    drop(store);
    let path = &config.path;
    let (format, dump) = (path.join("FORMAT"), path.join(format!("dumps/before-schema-{SCHEMA}.jsonl")));
    fs::write(&format, "kato schema 0\n").unwrap();

    // Where no dump can be written the store stays what it is.
    fs::write(path.join("dumps"), "in the way").unwrap();
    let error = SledStore::open(config.clone()).unwrap_err();
    assert_eq!(error.kind, Kind::Precondition, "{error}");
    for words in [path.to_str().unwrap(), "schema 0", "dumps", "older kato"] {
        assert!(error.message.contains(words), "{error}");
    }
    assert_eq!(fs::read_to_string(&format).unwrap(), "kato schema 0\n");
    fs::remove_file(path.join("dumps")).unwrap();

    let store = SledStore::open(config.clone()).unwrap();
    assert_eq!(fs::read_to_string(&format).unwrap(), format!("kato schema {SCHEMA}\n"));
    let kept = store.scan("", None, 1000).await.unwrap();
    assert_eq!(kept.len(), records.len());
    drop(store);
    let old = Config { path: folder.path().join("old"), ..config.clone() };
    let lines = fs::read(&dump).unwrap();
    assert_eq!(kato_store::load(&old, lines.as_slice()).unwrap(), 300);
    let loaded = SledStore::open(old).unwrap().scan("", None, 1000).await.unwrap();
    let content = |entries: &[Entry]| -> Vec<_> {
        entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect()
    };
    assert_eq!(content(&loaded), content(&records), "the dump is what there was before");

    // A store of today has nothing to be afraid of.
    fs::remove_file(&dump).unwrap();
    drop(SledStore::open(config).unwrap());
    assert!(!dump.exists());
}

#[tokio::test]
async fn a_record_that_cannot_be_dumped_keeps_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder);
    // These are no records that a dump could show.
    fill(&config, 3).await;
    let format = config.path.join("FORMAT");
    fs::write(&format, "kato schema 0\n").unwrap();
    assert_eq!(SledStore::open(config.clone()).unwrap_err().kind, Kind::Precondition);
    assert_eq!(fs::read_to_string(&format).unwrap(), "kato schema 0\n");
    assert!(!config.path.join("dumps/new").exists());
}
