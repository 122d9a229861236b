//! A look at the records before anything of them is touched.
//!
//! sled mends while it opens: it cuts off whatever follows a damaged place, and by then it is too late to
//! refuse. So a store is opened only when it is known to be whole: either its last end was planned and left a
//! *seal*, the lengths and checksums of the engine's files, and they still are what the seal says; or a copy of
//! the engine was opened, and its records add up. A copy shares its blocks with the original where the
//! filesystem can; elsewhere it costs what the journal weighs, and only after a crash.
//!
//! A seal is about content, so one of yesterday does no harm: it does not fit any more.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use kato_orchestrator::Error;

use crate::{
    Config, open,
    place::{self, unusable},
    reserve,
};

/// Refuses an engine whose records do not add up. Whatever it says, the store stays as it was.
pub(crate) fn look(config: &Config) -> Result<(), Error> {
    let (store, engine) = (&config.path, place::engine(&config.path));
    // Nobody writes while it is read and copied.
    place::wait_for_engine(&engine)?;
    if fits(store, &engine) {
        return Ok(());
    }
    let copy = place::copy(store);
    place::remove(&copy)?;
    let failed = |error| unusable(&engine, error);
    let needed = weight(&engine).map_err(failed)?.saturating_mul(2).saturating_add(2 * config.low_water.0);
    if reserve::free(store)? < needed {
        tracing::warn!(
            store = %store.display(),
            "the disk has no room for a look at a copy of the records: they are opened without one"
        );
        return Ok(());
    }
    let looked = duplicate(&engine, &copy).map_err(failed).and_then(|()| {
        place::tidy_engine(&copy)?;
        let opened = open::open_engine(config, &copy)?;
        open::verify(store, &opened)?;
        open::last_epoch(store, &opened).map(drop)
    });
    // It is cleared away at the next start, should sled's threads still be at it.
    if let Err(error) = place::wait_for_engine(&copy).and_then(|()| place::remove(&copy)) {
        tracing::warn!(%error, "the copy that was looked at stays for now");
    }
    match looked {
        Err(error) if reserve::free(store)? < config.low_water.0 => {
            tracing::warn!(store = %store.display(), %error, "the disk was full before the look had ended");
            Ok(())
        }
        looked => looked,
    }
}

/// Leaves a seal on an engine that was closed. One that cannot be left costs the next start a copy.
pub(crate) fn seal(store: &Path) {
    let sealed = place::wait_for_engine(&place::engine(store)).and_then(|()| {
        let seal = place::seal(store);
        summary(&place::engine(store))
            .and_then(|summary| fs::write(&seal, summary))
            .map_err(|error| unusable(&seal, error))
    });
    if let Err(error) = sealed {
        tracing::warn!(%error, "the records could not be sealed");
    }
}

fn fits(store: &Path, engine: &Path) -> bool {
    let Ok(seal) = fs::read_to_string(place::seal(store)) else { return false };
    summary(engine).is_ok_and(|summary| summary == seal)
}

/// A line for each file: what it is called, its length and its CRC-32.
fn summary(engine: &Path) -> io::Result<String> {
    let mut lines = Vec::new();
    each_file(engine, &mut |path| {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        let (mut crc, mut length) = (crc32fast::Hasher::new(), 0u64);
        loop {
            let read = file.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            crc.update(bytes);
            length += bytes.len() as u64;
        }
        let name = path.strip_prefix(engine).unwrap_or(path);
        lines.push(format!("{} {length} {:08x}\n", name.display(), crc.finalize()));
        Ok(())
    })?;
    lines.sort();
    Ok(lines.concat())
}

/// How many bytes the engine takes on disk.
fn weight(engine: &Path) -> io::Result<u64> {
    let mut bytes = 0u64;
    each_file(engine, &mut |path| {
        bytes = bytes.saturating_add(fs::metadata(path)?.blocks().saturating_mul(512));
        Ok(())
    })?;
    Ok(bytes)
}

fn each_file(folder: &Path, act: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each_file(&entry.path(), act)?;
        } else {
            act(&entry.path())?;
        }
    }
    Ok(())
}

fn duplicate(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            duplicate(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
