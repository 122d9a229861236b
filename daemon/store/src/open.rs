//! Opening a store on sled, in an order in which nothing can go wrong twice: look at the schema, take the lock,
//! look whether the records are whole (`look.rs`); until here a store that is refused is as it was. Then see that
//! there is room, clear away what a cut-off start left, and only then let sled at its files. Records of an older
//! schema are dumped before anything is written in the new one. A new engine is made under another name and
//! renamed when it is whole.
//!
//! Each opening is an epoch: revisions and fencing tokens count from it, so that none is ever given twice.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use kato_orchestrator::{Error, ports::store::Revision, records::SCHEMA};

use crate::{
    Config,
    committer::REVISIONS_PER_EPOCH,
    dump, look,
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
    let schema = place::check_format(store)?;
    let lock = Lock::take(store)?;
    let engine = place::engine(store);
    let born = engine.exists();
    if born {
        look::look(config)?;
    } else if Mark::read(store)?.is_some() {
        return Err(damaged(store, "its folder sled is missing and held records"));
    }
    let mut reserve = Reserve::open(store, config.reserve, config.low_water)?;
    place::tidy(store)?;
    if !born {
        place::write_format(store)?;
        make(config, |_| Ok(()))?;
    }
    let older = schema.filter(|schema| born && *schema < SCHEMA);
    let begin = || {
        let opened = open_engine(config, &engine)?;
        let tally = verify(store, &opened)?;
        if let Some(older) = older {
            let dump = dump::keep_before_change(store, &opened, older)?;
            tracing::warn!(dump = %dump.display(), older, schema = SCHEMA, "the records move to a new schema");
        }
        place::write_format(store)?;
        let epoch = next_epoch(store, &opened)?;
        Ok((opened, tally, epoch))
    };
    let (opened, tally, epoch) = match begin() {
        Ok(begun) => begun,
        // What is free was too little after all: all of the reserve, and once more.
        Err(error) if reserve.free()? < config.low_water.0 => {
            tracing::warn!(store = %store.display(), %error, "the disk is full: the reserve is given up");
            reserve.give_up()?;
            place::tidy(store)?;
            begin()?
        }
        Err(error) => return Err(error),
    };
    let mark = Mark::open(store)?;
    let files = Files::open(&engine)?;
    Ok(Started { opened, files, reserve, lock, tally, mark, floor: epoch * REVISIONS_PER_EPOCH })
}

/// What the records add up to, if they are all there.
pub(crate) fn verify(store: &Path, opened: &Opened) -> Result<Tally, Error> {
    let tally = Tally::of(store, &opened.records)?;
    Mark::check(store, tally)?;
    Ok(tally)
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

/// The number of the last opening.
pub(crate) fn last_epoch(store: &Path, opened: &Opened) -> Result<u64, Error> {
    let failed = |error| unreadable(store, error);
    let tree = opened.db.open_tree("store").map_err(failed)?;
    match tree.get("epoch").map_err(failed)? {
        None => Ok(0),
        Some(bytes) => bytes
            .as_ref()
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| damaged(store, "the number of its last start is not readable")),
    }
}

/// Counts this opening.
fn next_epoch(store: &Path, opened: &Opened) -> Result<u64, Error> {
    let failed = |error| unreadable(store, error);
    let epoch = last_epoch(store, opened)? + 1;
    let tree = opened.db.open_tree("store").map_err(failed)?;
    tree.insert("epoch", &epoch.to_be_bytes()).map_err(failed)?;
    opened.db.flush().map_err(failed)?;
    Ok(epoch)
}
