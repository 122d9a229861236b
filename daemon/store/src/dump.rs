//! All records as lines of JSON, for people, for backups and for moving house.
//!
//! ```text
//! {"key":"v/…","schema":1,"kind":"volume","record":{…}}     a record
//! {"key":"v/…","deleted":true}                             it went while the dump was written
//! {"end":true,"lines":2,"sha256":"…"}                      the last line, over all bytes before it
//! ```
//!
//! A dump is written by pages while the daemon works, and what changed meanwhile follows: of a key's lines the
//! last one counts, so a dump holds exactly the records of one moment. One that was cut off has no last line
//! and is refused. A dump holds what the records hold: names and handles, and never a secret.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use kato_orchestrator::{
    Error,
    model::Timestamp,
    ports::store::{Batch, Key, Store},
    records::{SCHEMA, from_json, to_json},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    Config,
    committer::{BATCH_LIMIT, REVISIONS_PER_EPOCH, layer, weight},
    frame, open,
    place::{self, Lock},
    reserve::Reserve,
    sled::{Opened, packed, tallied, unreadable},
    tally::Tally,
};

/// How many records are read at once.
const PAGE: usize = 256;

/// Writes all records of one moment. Answers how many lines there are.
pub async fn dump(store: &dyn Store, out: impl Write + Send) -> Result<u64, Error> {
    let mut lines = Lines { out, digest: Sha256::new(), count: 0 };
    let mut next = store.watch_from("", 0).await?.next;
    let mut after: Option<Key> = None;
    loop {
        let page = store.scan("", after.as_deref(), PAGE).await?;
        for entry in &page {
            lines.write(&to_json(entry)?)?;
        }
        next = meanwhile(store, next, &mut lines).await?;
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
            _ => break,
        }
    }
    // The changes of a shared store take their time to come in.
    store.catch_up().await?;
    meanwhile(store, next, &mut lines).await?;
    lines.end()
}

/// Writes what changed after this revision, without waiting for more.
async fn meanwhile(store: &dyn Store, from: u64, lines: &mut Lines<impl Write>) -> Result<u64, Error> {
    let changes = tokio::select! {
        biased;
        changes = store.watch_from("", from) => changes.map_err(|error| {
            Error::busy("so much changed while the dump was written that it could not keep up: try again")
                .caused_by(error)
        })?,
        () = std::future::ready(()) => return Ok(from),
    };
    for (key, entry) in &changes.events {
        match entry {
            Some(entry) => lines.write(&to_json(entry)?)?,
            None => lines.write(&json!({ "key": key, "deleted": true }))?,
        }
    }
    Ok(changes.next)
}

struct Lines<W> {
    out: W,
    digest: Sha256,
    count: u64,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, line: &Value) -> Result<(), Error> {
        let line = format!("{line}\n");
        self.digest.update(line.as_bytes());
        self.count += 1;
        self.out.write_all(line.as_bytes()).map_err(unwritable)
    }

    fn end(mut self) -> Result<u64, Error> {
        let end = json!({ "end": true, "lines": self.count, "sha256": hex(self.digest) });
        writeln!(self.out, "{end}").and_then(|()| self.out.flush()).map_err(unwritable)?;
        Ok(self.count)
    }
}

fn unwritable(error: std::io::Error) -> Error {
    Error::unavailable(format!("the dump cannot be written ({error}): is there room?")).caused_by(error)
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a store of a dump, in a folder that has none yet or an empty one. Nothing is there until everything
/// is. Answers how many records it has. Blocks.
pub fn load(config: &Config, lines: impl BufRead) -> Result<u64, Error> {
    let store = &config.path;
    place::check_format(store)?;
    let _lock = Lock::take(store)?;
    let _reserve = Reserve::open(store, config.reserve, config.low_water)?;
    place::tidy(store)?;
    clear_empty(config)?;
    place::write_format(store)?;
    let mut count = 0;
    let made = open::make(config, |opened| {
        count = fill(config, opened, lines)?;
        Ok(())
    });
    if made.is_err() {
        place::tidy(store)?;
    }
    made.map(|()| count)
}

/// Makes room for a new engine where there is none, or one without a record; one with records is refused.
pub(crate) fn clear_empty(config: &Config) -> Result<(), Error> {
    let store = &config.path;
    let engine = place::engine(store);
    if engine.exists() {
        let opened = open::open_engine(config, &engine)?;
        if opened.records.iter().keys().any(|key| !key.is_ok_and(|key| key.is_empty())) {
            return Err(Error::precondition(format!(
                "the store at {} has records: load a dump into an empty folder, or move the folder sled in it away \
                 first",
                store.display()
            )));
        }
        drop(opened);
        place::wait_for_engine(&engine)?;
        fs::remove_dir_all(&engine).map_err(|error| place::unusable(&engine, error))?;
    }
    Ok(())
}

fn fill(config: &Config, opened: &Opened, lines: impl BufRead) -> Result<u64, Error> {
    let mut filling = Filling::new(config, opened);
    read(lines, |key, value| match value {
        Some(value) => filling.put(key, value),
        None => filling.delete(key),
    })?;
    filling.end()?;
    let mut count = 0;
    for item in &opened.records {
        let (key, value) = item.map_err(|error| unreadable(&config.path, error))?;
        if !key.is_empty() {
            frame::unpack(&key, &value)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Writes records into a new engine, many at once.
pub(crate) struct Filling<'a> {
    config: &'a Config,
    opened: &'a Opened,
    batch: Batch,
    revision: u64,
    tally: Tally,
}

impl<'a> Filling<'a> {
    pub(crate) fn new(config: &'a Config, opened: &'a Opened) -> Self {
        Self {
            config,
            opened,
            batch: Batch::default(),
            revision: REVISIONS_PER_EPOCH,
            tally: Tally::default(),
        }
    }

    pub(crate) fn put(&mut self, key: Key, value: Vec<u8>) -> Result<(), Error> {
        self.batch.puts.push((key, value));
        if self.batch.puts.len() >= PAGE || weight(&self.batch) > BATCH_LIMIT {
            self.commit()?;
        }
        Ok(())
    }

    fn delete(&mut self, key: Key) -> Result<(), Error> {
        // Deletes come first in a batch, and what was put before is to go.
        self.commit()?;
        self.batch.deletes.push(key);
        Ok(())
    }

    pub(crate) fn end(mut self) -> Result<(), Error> {
        self.commit()?;
        let failed = |error| unreadable(&self.config.path, error);
        let tree = self.opened.db.open_tree("store").map_err(failed)?;
        tree.insert("epoch", &1u64.to_be_bytes()).map_err(failed)?;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Error> {
        let failed = |error| unreadable(&self.config.path, error);
        self.revision += 1;
        let layer = layer(self.revision, std::mem::take(&mut self.batch));
        self.tally = tallied(self.opened, self.tally, self.revision, &layer).map_err(failed)?;
        self.opened.records.apply_batch(packed(&layer, self.tally)).map_err(failed)
    }
}

/// Reads back what an engine has, and checks each record.
pub(crate) fn read_records(config: &Config, opened: &Opened) -> Result<BTreeMap<Key, Vec<u8>>, Error> {
    let mut records = BTreeMap::new();
    for item in &opened.records {
        let (key, value) = item.map_err(|error| unreadable(&config.path, error))?;
        if !key.is_empty() {
            let entry = frame::unpack(&key, &value)?;
            records.insert(entry.key, entry.value);
        }
    }
    Ok(records)
}

/// Reads a dump to its last line and checks that it is whole.
fn read(
    mut lines: impl BufRead,
    mut each: impl FnMut(Key, Option<Vec<u8>>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut digest = Sha256::new();
    let mut count = 0u64;
    let mut text = String::new();
    loop {
        text.clear();
        let length = lines.read_line(&mut text).map_err(|error| {
            Error::invalid(format!("line {} of the dump cannot be read ({error})", count + 1))
        })?;
        if length == 0 {
            return Err(Error::invalid(format!(
                "the dump ends after {count} lines without its last line: it was cut off, take another one"
            )));
        }
        let line: Value = serde_json::from_str(&text).map_err(|error| {
            Error::invalid(format!("line {} of the dump is no JSON ({error})", count + 1))
        })?;
        if line.get("end").is_some() {
            let whole = line.get("lines").and_then(Value::as_u64) == Some(count)
                && line.get("sha256").and_then(Value::as_str) == Some(hex(digest).as_str());
            if !whole {
                return Err(Error::invalid(format!(
                    "the {count} lines of the dump are not what its last line says: it was changed or damaged, \
                     take another one"
                )));
            }
            return Ok(());
        }
        digest.update(text.as_bytes());
        count += 1;
        let deleted = line.get("deleted").and_then(Value::as_bool) == Some(true);
        match line.get("key").and_then(Value::as_str) {
            Some(key) if deleted => each(key.to_owned(), None)?,
            _ => {
                let (key, value) = from_json(&line)?;
                each(key, Some(value))?;
            }
        }
    }
}

/// All records that a dump holds, in the order of their keys. One that is not whole is an error.
pub fn read_dump(lines: impl BufRead) -> Result<BTreeMap<Key, Vec<u8>>, Error> {
    let mut records = BTreeMap::new();
    read(lines, |key, value| {
        match value {
            Some(value) => records.insert(key, value),
            None => records.remove(&key),
        };
        Ok(())
    })?;
    Ok(records)
}

/// The dumps in `<folder>/dumps`, the newest first.
pub fn kept_dumps(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let dumps = folder.join("dumps");
    if !dumps.exists() {
        return Ok(Vec::new());
    }
    Ok(listed(&dumps)?.into_values().rev().collect())
}

/// Writes a dump into `<folder>/dumps`, whole or not at all, and removes all but the newest `keep`. Answers
/// where it is.
pub async fn keep_dump(
    store: Arc<dyn Store>,
    folder: &Path,
    now: Timestamp,
    keep: usize,
) -> Result<PathBuf, Error> {
    let folder = folder.to_owned();
    let runtime = tokio::runtime::Handle::current();
    let written = tokio::task::spawn_blocking(move || {
        let path = put_down(&folder, &name_of(now), |out| runtime.block_on(dump(&*store, out)))?;
        prune(&folder.join(FOLDER), keep.max(1))?;
        Ok(path)
    });
    written
        .await
        .unwrap_or_else(|error| Err(Error::internal("writing the dump was cut off").caused_by(error)))
}

/// Writes a dump of records that are about to be written in another schema. It is kept until a person removes
/// it. Where it cannot be written nothing may go on.
pub(crate) fn keep_before_change(store: &Path, opened: &Opened, older: u16) -> Result<PathBuf, Error> {
    let name = format!("before-schema-{SCHEMA}.jsonl");
    put_down(store, &name, |out| {
        let mut lines = Lines { out, digest: Sha256::new(), count: 0 };
        for item in &opened.records {
            let (key, value) = item.map_err(|error| unreadable(store, error))?;
            if !key.is_empty() {
                lines.write(&to_json(&frame::unpack(&key, &value)?)?)?;
            }
        }
        lines.end()
    })
    .map_err(|error| {
        Error::precondition(format!(
            "the store at {} has schema {older} and this kato writes schema {SCHEMA}: before that it keeps a dump, \
             which cannot be written ({error}); mend that, or start the older kato again; nothing was changed",
            store.display()
        ))
        .caused_by(error)
    })
}

/// When the newest of the dumps was written, as their names tell; nothing if there is none.
#[must_use]
pub fn newest_dump(folder: &Path) -> Option<Timestamp> {
    let entries = fs::read_dir(folder.join(FOLDER)).ok()?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| moment_of(&name)).max()
}

/// Where dumps are.
const FOLDER: &str = "dumps";

fn name_of(moment: Timestamp) -> String {
    format!("kato-{}.jsonl", moment.to_string().replace(':', "-"))
}

/// The moment that a dump is named after. A name that nobody here gave has none.
fn moment_of(name: &str) -> Option<Timestamp> {
    let (date, time) = name.strip_prefix("kato-")?.strip_suffix(".jsonl")?.split_once('T')?;
    Timestamp::parse(&format!("{date}T{}", time.replace('-', ":")))
}

/// Writes a file among the dumps, whole or not at all.
fn put_down(
    folder: &Path,
    name: &str,
    write: impl FnOnce(BufWriter<&mut File>) -> Result<u64, Error>,
) -> Result<PathBuf, Error> {
    let dumps = folder.join(FOLDER);
    fs::create_dir_all(&dumps).map_err(|error| place::unusable(&dumps, error))?;
    let (path, new) = (dumps.join(name), dumps.join("new"));
    let failed = |error| place::unusable(&new, error);
    let mut file = File::create(&new).map_err(failed)?;
    let written = write(BufWriter::new(&mut file)).and_then(|_| file.sync_all().map_err(failed));
    if let Err(error) = written {
        // What there is of it takes room that may be short, and is of no use.
        drop(fs::remove_file(&new));
        return Err(error);
    }
    fs::rename(&new, &path).map_err(failed)?;
    place::sync_folder(&dumps)?;
    Ok(path)
}

/// Their names sort by their age.
fn listed(dumps: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let failed = |error| place::unusable(dumps, error);
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(dumps).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("kato-") && name.ends_with(".jsonl") {
            names.insert(name, entry.path());
        }
    }
    Ok(names)
}

fn prune(dumps: &Path, keep: usize) -> Result<(), Error> {
    let names = listed(dumps)?;
    let surplus = names.len().saturating_sub(keep);
    for path in names.into_values().take(surplus) {
        fs::remove_file(&path).map_err(|error| place::unusable(dumps, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::{
        Kind,
        model::{BackendName, BackendRecord, Fingerprint, VolumeId, VolumeName},
        ports::store::{Durability, Entry},
        records::{Record, encode, keys},
    };

    use super::*;
    use crate::{MemoryStore, SledStore};

    fn small(folder: &tempfile::TempDir) -> Config {
        Config { reserve: kato_orchestrator::model::Bytes(0), ..Config::at(folder.path().join("store")) }
    }

    async fn put<T: Record>(store: &dyn Store, key: Key, record: &T) {
        let value = encode(&key, record);
        let batch = Batch { puts: vec![(key, value)], ..Batch::default() };
        store.commit(batch, Durability::Lazy).await.unwrap();
    }

    async fn filled(records: u32) -> MemoryStore {
        let store = MemoryStore::new();
        for n in 0..records {
            let name = VolumeName::parse(&format!("db {n}")).unwrap();
            put(&store, keys::volume_name(&name), &VolumeId(n.into())).await;
        }
        store
    }

    async fn content(store: &dyn Store) -> Vec<(Key, Vec<u8>)> {
        let entries = store.scan("", None, usize::MAX).await.unwrap();
        entries.into_iter().map(|Entry { key, value, .. }| (key, value)).collect()
    }

    async fn dumped(store: &dyn Store) -> String {
        let mut out = Vec::new();
        dump(store, &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn what_was_dumped_is_loaded() {
        let store = filled(700).await;
        let folder = tempfile::tempdir().unwrap();
        let config = small(&folder);
        assert_eq!(load(&config, dumped(&store).await.as_bytes()).unwrap(), 700);
        let loaded = SledStore::open(config).unwrap();
        assert_eq!(content(&loaded).await, content(&store).await);
        assert_eq!(dumped(&loaded).await, dumped(&store).await);
    }

    #[tokio::test]
    async fn a_dump_is_read_back_without_a_store_and_the_newest_comes_first() {
        let store = Arc::new(filled(300).await);
        let read = read_dump(dumped(&*store).await.as_bytes()).unwrap();
        assert_eq!(read.into_iter().collect::<Vec<_>>(), content(&*store).await);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(kept_dumps(folder.path()).unwrap(), Vec::<PathBuf>::new());
        let mut made = Vec::new();
        for day in 1..4 {
            let kept = keep_dump(
                Arc::clone(&store) as Arc<dyn Store>,
                folder.path(),
                Timestamp(day * 86_400_000),
                9,
            );
            made.push(kept.await.unwrap());
        }
        made.reverse();
        assert_eq!(kept_dumps(folder.path()).unwrap(), made);
    }

    #[tokio::test]
    async fn an_empty_store_is_dumped_and_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let dump = dumped(&MemoryStore::new()).await;
        assert_eq!(load(&small(&folder), dump.as_bytes()).unwrap(), 0);
    }

    /// Changes the store after each of its pages.
    struct Restless(MemoryStore);

    #[async_trait::async_trait]
    impl Store for Restless {
        async fn load(&self, key: &str) -> Result<Option<Entry>, Error> {
            self.0.load(key).await
        }
        async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
            let page = self.0.scan(prefix, after, limit).await?;
            if let (Some(first), Some(last)) = (page.first(), page.last()) {
                let deletes = vec![first.key.clone()];
                let again = VolumeName::parse(&format!("again {}", last.revision)).unwrap();
                put(&self.0, keys::volume_name(&again), &VolumeId(5)).await;
                put(&self.0, last.key.clone(), &VolumeId(6)).await;
                self.0.commit(Batch { deletes, ..Batch::default() }, Durability::Lazy).await?;
                put(&self.0, first.key.clone(), &VolumeId(7)).await;
                let deletes = vec![page[1].key.clone(), first.key.clone()];
                self.0.commit(Batch { deletes, ..Batch::default() }, Durability::Lazy).await?;
            }
            Ok(page)
        }
        async fn commit(&self, batch: Batch, durability: Durability) -> Result<u64, Error> {
            self.0.commit(batch, durability).await
        }
        async fn claim(&self, key: &str) -> Result<Box<dyn kato_orchestrator::ports::store::Claim>, Error> {
            self.0.claim(key).await
        }
        async fn watch_from(
            &self,
            prefix: &str,
            revision: u64,
        ) -> Result<kato_orchestrator::ports::store::Changes, Error> {
            self.0.watch_from(prefix, revision).await
        }
        async fn flush(&self) -> Result<(), Error> {
            self.0.flush().await
        }
    }

    #[tokio::test]
    async fn a_dump_of_a_busy_store_is_of_one_moment() {
        let store = Restless(filled(1000).await);
        let folder = tempfile::tempdir().unwrap();
        let config = small(&folder);
        let dump = dumped(&store).await;
        load(&config, dump.as_bytes()).unwrap();
        assert_eq!(content(&SledStore::open(config).unwrap()).await, content(&store.0).await);
    }

    #[tokio::test]
    async fn a_dump_that_was_cut_off_or_changed_is_refused_and_leaves_nothing() {
        let store = filled(20).await;
        let whole = dumped(&store).await;
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        let mut bad: Vec<String> = (0..lines.len()).map(|kept| lines[..kept].concat()).collect();
        bad.push(whole.chars().take(whole.len() - 20).collect());
        bad.push([&lines[..3], &lines[4..]].concat().concat());
        bad.push(whole.replacen("00001", "00002", 1));
        let folder = tempfile::tempdir().unwrap();
        let config = small(&folder);
        for (n, dump) in bad.iter().enumerate() {
            let error = load(&config, dump.as_bytes()).unwrap_err();
            assert_eq!(error.kind, Kind::InvalidArgument, "{n}: {error}");
        }
        assert_eq!(load(&config, whole.as_bytes()).unwrap(), 20);
    }

    #[tokio::test]
    async fn a_dump_is_loaded_into_an_empty_store_only() {
        let folder = tempfile::tempdir().unwrap();
        let config = small(&folder);
        let dump = dumped(&filled(3).await).await;
        drop(SledStore::open(config.clone()).unwrap());
        load(&config, dump.as_bytes()).unwrap();
        let error = load(&config, dump.as_bytes()).unwrap_err();
        assert_eq!(error.kind, Kind::Precondition);
        let _open = SledStore::open(config.clone()).unwrap();
        assert_eq!(load(&config, dump.as_bytes()).unwrap_err().kind, Kind::Unavailable);
    }

    #[tokio::test]
    async fn a_damaged_record_stops_the_dump_with_its_key() {
        let store = filled(3).await;
        let batch = Batch { puts: vec![("n/v/bad".into(), b"rubbish".to_vec())], ..Batch::default() };
        store.commit(batch, Durability::Lazy).await.unwrap();
        let error = dump(&store, Vec::new()).await.unwrap_err();
        assert_eq!((error.kind, error.subject.as_str()), (Kind::Internal, "n/v/bad"));
    }

    #[tokio::test]
    async fn the_newest_dumps_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(filled(5).await);
        let name = BackendName::parse("ebs").unwrap();
        let backend = BackendRecord {
            name: name.clone(),
            fingerprint: Fingerprint("f".into()),
            plugin: "ebs".into(),
            bound: Timestamp(0),
        };
        put(&*store, keys::backend(&name), &backend).await;
        let mut last = PathBuf::new();
        for day in 0..5 {
            last = keep_dump(store.clone(), folder.path(), Timestamp(day * 86_400_000), 2).await.unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(folder.path().join("dumps")).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        assert_eq!(names.len(), 2);
        assert_eq!(names[1], last);
        assert!(last.ends_with("dumps/kato-1970-01-05T00-00-00.000Z.jsonl"), "{last:?}");
        let config = small(&folder);
        let dump = File::open(&last).unwrap();
        assert_eq!(load(&config, std::io::BufReader::new(dump)).unwrap(), 6);
    }
}
