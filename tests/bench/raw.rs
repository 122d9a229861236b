//! The whole life of a volume through the Docker door (create, mount, unmount, remove), spoken raw, against
//! the bare system calls of the same work with the same number of flushes.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use crate::{
    Effort, Fallible,
    clock::{Run, together},
    daemon::Daemon,
    door::Door,
    table::{Row, Table, ratio, time},
    yardstick::{Appender, Ground, RECORD, directory_cycle, image_cycle},
};

pub(crate) fn rows(ground: &Ground, effort: Effort, table: &mut Table) -> Fallible {
    let daemon = Daemon::start(&ground.folder("daemon")?)?;
    // The first use of everything (plugin compiled, folders made) is not what is measured.
    cycle(&mut daemon.door()?, "warm", &json!({}))?;
    let flushes_of = |count, options: &Value| {
        let mut door = daemon.door()?;
        daemon.flushes_of(count, |number| cycle(&mut door, &format!("flush-{number}"), options))
    };
    let flushes = flushes_of(effort.of(20, 2), &json!({}))?;
    for at_once in [1, 8, 64] {
        plain(&daemon, ground, effort, table, at_once, flushes)?;
    }
    let flushes = flushes_of(effort.of(5, 1), &image())?;
    for at_once in [1, 8, 64] {
        images(&daemon, ground, effort, table, at_once, flushes)?;
    }
    Ok(())
}

fn plain(
    daemon: &Daemon,
    ground: &Ground,
    effort: Effort,
    table: &mut Table,
    at_once: usize,
    flushes: usize,
) -> Fallible {
    let count = effort.of(if at_once == 1 { 100 } else { 640.max(at_once * 20) }, at_once);
    let ours = through_the_door(daemon, at_once, count, &format!("plain-{at_once}"), &json!({}))?;
    let (volumes, mounts) = (ground.folder("bare/volumes")?, ground.folder("bare/mounts")?);
    let journal = Arc::new(Appender::make(&ground.folder("bare")?.join("journal"))?);
    let bare = together(
        at_once,
        count,
        |_| Ok(Arc::clone(&journal)),
        |journal, piece| {
            for _ in 0..flushes {
                journal.append(&RECORD)?;
            }
            directory_cycle(&volumes, &mounts, &piece.to_string())
        },
    )?;
    let aim = match at_once {
        1 => Some(("bare + 1 ms".to_owned(), ours.median() <= bare.median() + Duration::from_millis(1))),
        64 => Some(("1000 cycles/s".to_owned(), ours.rate() >= 1000.0)),
        _ => None,
    };
    table.row(&Row {
        what: format!("directory cycle, {at_once} at once, {flushes} flushes"),
        ours: figures(&ours),
        yardstick: format!("bare {}", figures(&bare)),
        ratio: ratio(ours.wall, bare.wall),
        aim,
    });
    Ok(())
}

/// What makes a volume an ext4 image.
pub(crate) fn image() -> Value {
    json!({ "class": "ext4", "size": "64MiB" })
}

fn images(
    daemon: &Daemon,
    ground: &Ground,
    effort: Effort,
    table: &mut Table,
    at_once: usize,
    flushes: usize,
) -> Fallible {
    let count = effort.of(
        match at_once {
            1 => 10,
            8 => 32,
            _ => 64,
        },
        at_once.min(4),
    );
    let at_once = at_once.min(count);
    let ours = through_the_door(daemon, at_once, count, &format!("ext4-{at_once}"), &image())?;
    let (images, mounts) = (ground.folder("bare/images")?, ground.folder("bare/stages")?);
    let journal = Arc::new(Appender::make(&ground.folder("bare")?.join("journal"))?);
    let bare = together(
        at_once,
        count,
        |_| Ok(Arc::clone(&journal)),
        |journal, piece| {
            for _ in 0..flushes {
                journal.append(&RECORD)?;
            }
            image_cycle(&images, &mounts, &piece.to_string(), 64 << 20)
        },
    )?;
    table.row(&Row {
        what: format!("ext4 image cycle, {at_once} at once, {flushes} flushes"),
        ours: figures(&ours),
        yardstick: format!("bare {}", figures(&bare)),
        ratio: ratio(ours.wall, bare.wall),
        aim: None,
    });
    Ok(())
}

fn through_the_door(
    daemon: &Daemon,
    at_once: usize,
    count: usize,
    name: &str,
    options: &Value,
) -> Fallible<Run> {
    together(
        at_once,
        count,
        |_| daemon.door(),
        |door, piece| cycle(door, &format!("{name}-{piece}"), options),
    )
}

fn cycle(door: &mut Door, name: &str, options: &Value) -> Fallible {
    let id = format!("{name}-holder");
    door.create(name, options)?;
    door.mount(name, &id)?;
    door.unmount(name, &id)?;
    door.remove(name)
}

/// How often in a second, and how long each.
pub(crate) fn figures(run: &Run) -> String {
    format!("{:.0}/s, {} (p99 {})", run.rate(), time(run.median()), time(run.p99()))
}
