//! Very many volumes: the pages of their list, creates beside them, and what memory all of it takes.

use std::{
    fs::{self, File},
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::fs::syncfs;

use super::{
    Scene,
    caller::{Caller, Kind},
    null::Null,
    warm,
};
use crate::{
    Fallible,
    clock::{Run, together},
    daemon::{Daemon, data_of},
    raw::figures,
    scale,
    table::{Row, Table, ratio},
};

/// How many entries a page has.
const PAGE: u32 = 1_000;

/// How many creates are under way at once.
const AT_ONCE: usize = 64;

pub(super) fn rows(scene: &Scene<'_>, table: &mut Table) -> Fallible {
    let count = u32::try_from(scene.effort.of(100_000, 100))?;
    let folder = scene.ground.folder("many")?;
    // A first life makes the folders.
    warm(&Daemon::start_with_csi(&folder)?)?;
    scale::fill(&data_of(&folder), count)?;
    name_them(&data_of(&folder).join("volumes/volumes"), count)?;
    let daemon = Daemon::start_with_csi(&folder)?;
    let first = daemon.memory()?;
    pages(scene, table, &daemon, count)?;
    creates(scene, table, &daemon, count)?;
    table.row(&memory("none", &scene.daemon, scene.first)?);
    table.row(&memory(&count.to_string(), &daemon, first)?);
    Ok(())
}

/// As many names in the backend's folder, because its directory grows with them; what is beneath each is of no concern
/// to others.
fn name_them(folder: &Path, count: u32) -> Fallible {
    for number in 0..count {
        fs::create_dir(folder.join(scale::token(number)))?;
    }
    Ok(syncfs(File::open(folder)?)?)
}

/// All pages, one after the other.
fn pages(scene: &Scene<'_>, table: &mut Table, daemon: &Daemon, count: u32) -> Fallible {
    let page = Caller::open(&daemon.csi())?.page(PAGE, "")?;
    let volume = page.entries.first().and_then(|entry| entry.volume.clone()).ok_or("nothing is listed")?;
    let null = Null::start(&scene.ground.folder("null-pages")?, volume, page.entries)?;
    let (mut ours, mut nothing) = (Run::default(), Run::default());
    for _ in 0..scene.rounds() {
        ours.add(walk(&daemon.csi(), count)?);
        nothing.add(walk(null.socket(), count)?);
    }
    table.row(&Row {
        what: format!("pages of {} of {count} volumes", PAGE.min(count)),
        ours: figures(&ours),
        yardstick: format!("null {}", figures(&nothing)),
        ratio: ratio(ours.median(), nothing.median()),
        aim: Some(("under 5 ms".to_owned(), ours.median() < Duration::from_millis(5))),
    });
    Ok(())
}

fn walk(socket: &Path, count: u32) -> Fallible<Run> {
    together(
        1,
        usize::try_from(count.div_ceil(PAGE))?,
        |_| Ok((Caller::open(socket)?, String::new())),
        |(caller, token), piece| {
            let page = caller.page(PAGE, token)?;
            let left = count - u32::try_from(piece)? * PAGE;
            if u32::try_from(page.entries.len())? != left.min(PAGE) {
                return Err(format!("{} entries are on page {piece}", page.entries.len()).into());
            }
            *token = page.next_token;
            Ok(())
        },
    )
}

/// Creates beside very many volumes, in turns with creates beside none.
fn creates(scene: &Scene<'_>, table: &mut Table, daemon: &Daemon, count: u32) -> Fallible {
    let each = scene.effort.of(640, 8);
    let at_once = AT_ONCE.min(each);
    let (mut full, mut empty) = (Run::default(), Run::default());
    for round in 0..scene.effort.of(5, 1) {
        let name = format!("beside-{round}");
        full.add(create(&daemon.csi(), at_once, each, &name)?);
        empty.add(create(&scene.daemon.csi(), at_once, each, &name)?);
    }
    let as_fast = full.wall.as_secs_f64() <= 1.1 * empty.wall.as_secs_f64();
    table.row(&Row {
        what: format!("create, {at_once} at once, beside {count}"),
        ours: figures(&full),
        yardstick: format!("beside none {}", figures(&empty)),
        ratio: ratio(full.wall, empty.wall),
        aim: Some(("as fast, within a tenth".to_owned(), as_fast)),
    });
    Ok(())
}

/// Only the creates are timed; what they made goes again.
fn create(socket: &Path, at_once: usize, count: usize, name: &str) -> Fallible<Run> {
    let made = Mutex::new(Vec::new());
    let run = together(
        at_once,
        count,
        |_| Caller::open(socket),
        |caller, piece| {
            let volume = caller.create(&format!("{name}-{piece}"), Kind::Directory)?;
            made.lock().unwrap_or_else(PoisonError::into_inner).push(volume);
            Ok(())
        },
    )?;
    let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    together(
        at_once,
        made.len(),
        |_| Caller::open(socket),
        |caller, piece| made.get(piece).map_or(Ok(()), |volume| caller.delete(volume)),
    )?;
    Ok(run)
}

/// The most that a daemon took for all that was asked of it.
fn memory(beside: &str, daemon: &Daemon, first: f64) -> Fallible<Row> {
    Ok(Row {
        what: format!("memory at most, beside {beside}"),
        ours: format!("{:.0} MiB", daemon.most_memory()?),
        yardstick: format!("when nothing was asked {first:.0} MiB"),
        ..Row::default()
    })
}
