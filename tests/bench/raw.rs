//! The whole life of a volume through the Docker door (create, mount, unmount, remove), spoken raw, against
//! the bare system calls of the same work with the same number of flushes.

use std::{fs, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};

use crate::{
    Effort, Fallible,
    clock::{Run, together},
    daemon::{Daemon, program, run},
    door::Door,
    table::{Row, Table, ratio, time},
    yardstick::{Appender, Ground, directory_cycle},
};

/// What a record of a volume takes in the journal.
const RECORD: [u8; 700] = [b'k'; 700];

pub(crate) fn rows(ground: &Ground, effort: Effort, table: &mut Table) -> Fallible {
    let daemon = Daemon::start(&ground.folder("daemon")?)?;
    // The first use of everything (plugin compiled, folders made) is not what is measured.
    cycle(&mut daemon.door()?, "warm", &json!({}))?;
    let flushes = flushes_of_a_cycle(&daemon, effort)?;
    for at_once in [1, 8, 64] {
        plain(&daemon, ground, effort, table, at_once, flushes)?;
    }
    for at_once in [1, 8, 64] {
        images(&daemon, ground, effort, table, at_once)?;
    }
    Ok(())
}

/// How often the journal is flushed for one cycle when nobody shares.
fn flushes_of_a_cycle(daemon: &Daemon, effort: Effort) -> Fallible<usize> {
    let count = effort.of(20, 2);
    let before = daemon.flushes()?;
    let mut door = daemon.door()?;
    for number in 0..count {
        cycle(&mut door, &format!("flush-{number}"), &json!({}))?;
    }
    let each = (daemon.flushes()? - before) / f64::from(u32::try_from(count)?);
    Ok((0..100)
        .find(|whole| f64::from(*whole) + 0.5 > each)
        .and_then(|whole| usize::try_from(whole).ok())
        .unwrap_or(100))
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

fn images(daemon: &Daemon, ground: &Ground, effort: Effort, table: &mut Table, at_once: usize) -> Fallible {
    let count = effort.of(
        match at_once {
            1 => 10,
            8 => 32,
            _ => 64,
        },
        at_once.min(4),
    );
    let at_once = at_once.min(count);
    let options = json!({ "class": "ext4", "size": "64MiB" });
    let ours = through_the_door(daemon, at_once, count, &format!("ext4-{at_once}"), &options)?;
    let folder = ground.folder("images")?;
    let bare = together(at_once, count, |_| Ok(()), |(), piece| image_cycle(&folder, piece))?;
    table.row(&Row {
        what: format!("ext4 image cycle, {at_once} at once"),
        ours: figures(&ours),
        yardstick: format!("by hand {}", figures(&bare)),
        ratio: ratio(ours.wall, bare.wall),
        aim: None,
    });
    Ok(())
}

/// What a person would type for the same: a sparse file, a filesystem, a loop mount, and all of it undone.
fn image_cycle(folder: &Path, piece: usize) -> Fallible {
    let (image, target) = (folder.join(format!("{piece}.img")), folder.join(format!("{piece}")));
    fs::File::create(&image)?.set_len(64 << 20)?;
    run(program("mkfs.ext4").arg("-q").arg("-F").arg(&image))?;
    fs::create_dir(&target)?;
    run(program("mount").args(["-o", "loop,nosuid,nodev"]).arg(&image).arg(&target))?;
    run(program("umount").arg(&target))?;
    fs::remove_dir(&target)?;
    fs::remove_file(&image)?;
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

fn figures(run: &Run) -> String {
    format!("{:.0}/s, {} (p99 {})", run.rate(), time(run.median()), time(run.p99()))
}
