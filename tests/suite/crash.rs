//! The hall against stops: for each story the process is stopped before and after every port call, with lazy
//! records kept, dropped, or kept in part. After the restart everything converges: what was acknowledged is
//! there, and nothing is in the backend or on the machine without a record.
//!
//! A process that stops is a runtime that is dropped while its port calls hang; the worlds behind the fakes
//! go on. `town.rs` builds and judges, `stories/` tells what is done in the words of `telling.rs`; the real binary
//! is killed in `kills.rs`.

pub(crate) mod kills;
mod stories;
pub(crate) mod telling;
pub(crate) mod town;

use kato_store::LazyFate;

use self::{stories::Story, town::Town};

/// Runs a story cut at every instant, with every fate of the lazy records.
fn cut_everywhere(story: &Story) {
    let instants = Town::new(story.nature).run(story, None);
    assert!(instants > 4, "{} passes only {instants} instants: it does nothing", story.name);
    for cut in 0..instants {
        for fate in [LazyFate::Kept, LazyFate::Dropped, LazyFate::FirstKept(1)] {
            let mut town = Town::new(story.nature);
            town.run(story, Some(cut));
            town.crash(fate);
            town.converges(&format!("{} cut at {cut} of {instants}, lazy {fate:?}", story.name));
        }
    }
}

/// The same, with the machine rebooted at the cut.
fn reboot_everywhere(story: &Story) {
    let instants = Town::new(story.nature).run(story, None);
    for cut in 0..instants {
        let mut town = Town::new(story.nature);
        town.run(story, Some(cut));
        town.crash(LazyFate::Dropped);
        town.reboot();
        town.converges(&format!("{} with a reboot at {cut} of {instants}", story.name));
    }
}

/// The same, with a second cut in the middle of the recovery.
fn cut_twice(story: &Story) {
    let instants = Town::new(story.nature).run(story, None);
    for cut in 0..instants {
        for again in [1, 2, 3, 5, 8, 13] {
            let mut town = Town::new(story.nature);
            town.run(story, Some(cut));
            town.crash(LazyFate::Dropped);
            town.recover_cut(again);
            town.crash(LazyFate::Kept);
            town.converges(&format!("{} cut at {cut}, its recovery at {again}", story.name));
        }
    }
}
