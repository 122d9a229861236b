//! Moving house: all records from one store into another, byte for byte, and compared at the end. Nobody opens the new
//! one before everything is there: an etcd that is being filled says so (`etcd/house.rs`), and a store on sled is made
//! under another name. Nothing is removed from the old one, and both have to be in nobody else's use meanwhile.

use std::{collections::BTreeMap, fs};

use kato_orchestrator::{
    Error,
    ports::store::{Batch, Durability, Entry, Guard, Key, Store},
};

use crate::{
    Config, EtcdConfig, EtcdStore,
    committer::{BATCH_LIMIT, weight},
    dump, open,
    place::{self, Lock},
    reserve::Reserve,
};

/// How many records go over at once: what etcd takes in a transaction.
const AT_ONCE: usize = 100;
/// How many are read at once.
const PAGE: usize = 1_000;

/// Puts records into an etcd that has none. Answers how many there are.
pub async fn into_etcd(from: &dyn Store, config: EtcdConfig, anew: bool) -> Result<u64, Error> {
    let records = all(from).await?;
    let to = EtcdStore::open_to_fill(config, anew).await?;
    let filled = fill(&to, &records).await;
    if filled.is_ok() {
        to.filled().await?;
    }
    to.close().await;
    filled.map(|()| records.len() as u64)
}

async fn fill(to: &EtcdStore, records: &BTreeMap<Key, Vec<u8>>) -> Result<(), Error> {
    let mut batch = Batch::default();
    for (key, value) in records {
        batch.guards.push(Guard::Absent(key.clone()));
        batch.puts.push((key.clone(), value.clone()));
        // The next one may be as long as any.
        if batch.puts.len() == AT_ONCE || weight(&batch) > BATCH_LIMIT / 2 {
            to.commit(std::mem::take(&mut batch), Durability::Durable).await?;
        }
    }
    if !batch.puts.is_empty() {
        to.commit(batch, Durability::Durable).await?;
    }
    compare(records, &all(to).await?)
}

/// Puts records into a store on sled that has none. Answers how many there are.
pub async fn into_sled(from: &dyn Store, config: &Config) -> Result<u64, Error> {
    let records = all(from).await?;
    let config = config.clone();
    let made = tokio::task::spawn_blocking(move || make(&config, &records));
    made.await.unwrap_or_else(|cut| Err(Error::internal("making the store was cut off").caused_by(cut)))
}

fn make(config: &Config, records: &BTreeMap<Key, Vec<u8>>) -> Result<u64, Error> {
    let store = &config.path;
    place::check_format(store)?;
    let _lock = Lock::take(store)?;
    let _reserve = Reserve::open(store, config.reserve, config.low_water)?;
    place::tidy(store)?;
    dump::clear_empty(config)?;
    place::write_format(store)?;
    let made = open::make(config, |opened| {
        let mut filling = dump::Filling::new(config, opened);
        for (key, value) in records {
            filling.put(key.clone(), value.clone())?;
        }
        filling.end()?;
        compare(records, &dump::read_records(config, opened)?)
    });
    if made.is_err() {
        place::tidy(store)?;
        // What was refused leaves no folder that looks like a store.
        drop(fs::remove_file(store.join("FORMAT")));
    }
    made.map(|()| records.len() as u64)
}

async fn all(store: &dyn Store) -> Result<BTreeMap<Key, Vec<u8>>, Error> {
    let mut records = BTreeMap::new();
    let mut after: Option<Key> = None;
    loop {
        let page = store.scan("", after.as_deref(), PAGE).await?;
        let full = page.len() == PAGE;
        after = page.last().map(|entry| entry.key.clone());
        records.extend(page.into_iter().map(|Entry { key, value, .. }| (key, value)));
        if !full {
            return Ok(records);
        }
    }
}

/// Whether everything went over, and nothing else is there.
fn compare(from: &BTreeMap<Key, Vec<u8>>, to: &BTreeMap<Key, Vec<u8>>) -> Result<(), Error> {
    let missing = from.iter().find(|(key, value)| to.get(*key) != Some(value)).map(|(key, _)| key);
    match missing.or_else(|| to.keys().find(|key| !from.contains_key(*key))) {
        None => Ok(()),
        Some(key) => Err(Error::internal(format!(
            "the record {key} is not the same in the new store as in the old one: the new one is not used; try again, \
             and report it if it happens again"
        ))),
    }
}
