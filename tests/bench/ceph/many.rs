//! Many volumes at once: created by the Docker door, against as many bare `rbd create` at once, in halves that take
//! turns. Almost all of it is programs of Ceph that start, connect and end, so the number of them is what counts; a
//! volume takes two where a bare image takes one, and the ratio says what is lost besides. Then all are deleted, which is
//! shown for its own sake.

use super::{Scene, hand::Image, volume};
use crate::{
    Effort, Fallible,
    clock::{Run, together},
    table::{Row, Table, ratio, time},
};

/// How many programs the plugin runs for each operation. The plugin's own tests hold these numbers, as
/// `an_image_takes_two_commands` in `plugins/rbd` does for create and delete.
const COMMANDS: &str = "create 2, delete 2, attach 2, detach 2, remark 2";

/// How often bare images and volumes take turns.
const TURNS: usize = 2;

pub(super) fn rows(scene: &Scene<'_>, effort: Effort, table: &mut Table) -> Fallible {
    // Everybody at once does the same share, so that nobody is alone at the end: 192 of each in all.
    let at_once = effort.of(16, 2);
    let count = at_once * effort.of(6, 1);
    let turns = || (0..TURNS).map(|turn| format!("many-{turn}"));

    let (mut ours, mut bare) = (Run::default(), Run::default());
    for turn in turns() {
        bare.add(together(
            at_once,
            count,
            |_| Ok(()),
            |(), piece| Image::create(scene, &format!("hand-{turn}-{piece}"), 64 << 20).map(drop),
        )?);
        ours.add(together(
            at_once,
            count,
            |_| scene.door(),
            |door, piece| door.create(&format!("{turn}-{piece}"), &volume("64MiB")),
        )?);
    }
    let row = both("create", at_once, &ours, &bare);
    let met = row.ratio.is_some_and(|ratio| ratio <= 2.2);
    table.row(&Row { aim: Some(("at most 2.2".to_owned(), met)), ..row });

    let (mut ours, mut bare) = (Run::default(), Run::default());
    for turn in turns() {
        bare.add(together(
            at_once,
            count,
            |_| Ok(()),
            |(), piece| Image::existing(scene, &format!("hand-{turn}-{piece}")).remove(),
        )?);
        ours.add(together(
            at_once,
            count,
            |_| scene.door(),
            |door, piece| door.remove(&format!("{turn}-{piece}")),
        )?);
    }
    table.row(&both("remove", at_once, &ours, &bare));
    if !scene.is_empty()? {
        return Err("images are left after all volumes were removed".into());
    }
    table.row(&Row {
        what: "programs of Ceph for each operation".to_owned(),
        ours: COMMANDS.to_owned(),
        yardstick: "bare create 1, rm 1".to_owned(),
        ..Row::default()
    });
    Ok(())
}

fn both(what: &str, at_once: usize, ours: &Run, bare: &Run) -> Row {
    let figures =
        |run: &Run| format!("{:.1}/s, {} (p99 {})", run.rate(), time(run.median()), time(run.p99()));
    Row {
        what: format!("{what} {} volumes of 64 MiB, {at_once} at once", ours.each.len()),
        ours: figures(ours),
        yardstick: format!("bare rbd {}", figures(bare)),
        ratio: ratio(ours.wall, bare.wall),
        aim: None,
    }
}
