//! Opening a store on sled, in an order in which nothing can go wrong twice: look at the schema, take the lock,
//! clear away what a cut-off start left, see that there is room, and only then let sled at its files. A new
//! engine is made under another name and renamed when it is whole.
//!
//! Each opening is an epoch: revisions and fencing tokens count from it, so that none is ever given twice.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use kato_orchestrator::{Error, ports::store::Revision};

use crate::{
    Config,
    committer::REVISIONS_PER_EPOCH,
    place::{self, Files, Lock},
    reserve::Reserve,
    sled::{Opened, unreadable},
    tally::{Mark, Tally, damaged},
};

/// A store that was opened.
pub(crate) struct Started {
    pub(crate) opened: Opened,
    pub(crate) files: Files,
    pub(crate) reserve: Reserve,
    pub(crate) lock: Lock,
    pub(crate) tally: Tally,
    pub(crate) mark: Mark,
    pub(crate) floor: Revision,
}

/// Opens the store of this configuration.
pub(crate) fn open(config: &Config) -> Result<Started, Error> {
    let store = &config.path;
    place::check_format(store)?;
    let lock = Lock::take(store)?;
    let mut reserve = Reserve::open(store, config.reserve, config.low_water)?;
    place::tidy(store)?;
    place::write_format(store)?;
    let engine = place::engine(store);
    if !engine.exists() {
        if Mark::read(store)?.is_some() {
            return Err(damaged(store, "its folder sled is missing and held records"));
        }
        make(config, |_| Ok(()))?;
    }
    let (opened, epoch) = match open_engine(config, &engine).and_then(|opened| next_epoch(opened, store)) {
        Ok(opened) => opened,
        // What is free was too little after all: all of the reserve, and once more.
        Err(error) if reserve.free()? < config.low_water.0 => {
            tracing::warn!(store = %store.display(), %error, "the disk is full: the reserve is given up");
            reserve.give_up()?;
            place::tidy(store)?;
            open_engine(config, &engine).and_then(|opened| next_epoch(opened, store))?
        }
        Err(error) => return Err(error),
    };
    let tally = Tally::of(store, &opened.records)?;
    let mark = Mark::open(store, tally)?;
    let files = Files::open(&engine)?;
    Ok(Started { opened, files, reserve, lock, tally, mark, floor: epoch * REVISIONS_PER_EPOCH })
}

/// Makes a new engine, lets somebody fill it, and puts it in its place.
pub(crate) fn make(config: &Config, fill: impl FnOnce(&Opened) -> Result<(), Error>) -> Result<(), Error> {
    let store = &config.path;
    let unborn = place::unborn(store);
    Mark::remove(store)?;
    let opened = open_engine(config, &unborn)?;
    fill(&opened)?;
    opened.db.flush().map_err(|error| unreadable(store, error))?;
    drop(opened);
    place::sync_tree(&unborn)?;
    fs::rename(&unborn, place::engine(store)).map_err(|error| place::unusable(&unborn, error))?;
    place::sync_folder(store)
}

/// Lets sled open its files.
pub(crate) fn open_engine(config: &Config, engine: &Path) -> Result<Opened, Error> {
    place::wait_for_engine(engine)?;
    let sled = sled::Config::new()
        .path(engine)
        .cache_capacity(config.cache.0)
        .segment_size(config.segment)
        .flush_every_ms(None);
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = sled.open()?;
        let records = db.open_tree("records")?;
        Ok(Opened { db, records })
    }));
    match opened {
        Ok(opened) => opened.map_err(|error| unreadable(&config.path, error)),
        Err(_) => Err(unreadable(&config.path, sled::Error::ReportableBug("the engine panicked".to_owned()))),
    }
}

/// Counts this opening.
fn next_epoch(opened: Opened, store: &Path) -> Result<(Opened, u64), Error> {
    let failed = |error| unreadable(store, error);
    let tree = opened.db.open_tree("store").map_err(failed)?;
    let last = match tree.get("epoch").map_err(failed)? {
        None => 0,
        Some(bytes) => {
            let bytes: [u8; 8] = bytes.as_ref().try_into().map_err(|_| {
                failed(sled::Error::ReportableBug("the number of its last start is not readable".to_owned()))
            })?;
            u64::from_be_bytes(bytes)
        }
    };
    let epoch = last + 1;
    tree.insert("epoch", &epoch.to_be_bytes()).map_err(failed)?;
    opened.db.flush().map_err(failed)?;
    Ok((opened, epoch))
}
