//! Volumes in a real Ceph of one node, each figure beside what a person with a shell would need for the same: `rbd`, the
//! same storage server, a loop device and a filesystem, by hand, on the same machine, in the same cluster and as the same
//! user of it. The cluster is small and shares its cores with everybody, so only ratios mean anything, and what is
//! compared takes turns.
//!
//! This file is the whole life of a volume. `ceph/many.rs` is many at once, `ceph/data.rs` the speed of data and the
//! memory that a server takes, `ceph/hand.rs` everything by hand. All calls end: those by hand are killed when they take
//! too long, and a door's answer is waited for only so long.

mod data;
mod hand;
mod many;

use std::time::Duration;

use kato_tests::{ceph::Cluster, daemon::Daemon, machine::Machine};
use serde_json::{Value, json};

use self::hand::Image;
use crate::{
    Effort, Fallible,
    clock::once,
    daemon::run,
    door::Door,
    table::{Row, Table, ratio, time},
    yardstick::Ground,
};

/// What the daemon is told besides its backend. A mount goes with its last holder, as it does by hand.
const HOUSE: &str = "[cluster]\nid = \"0123456789abcdef0123456789abcdef\"\n[node]\nservers = \"here\"\n\
                     idle-grace = \"0s\"\n[log]\nlevel = \"warn\"\n[class.ceph]\nbackend = \"ceph\"\n\
                     fs = \"ext4\"\n[backend.ceph]\nplugin = \"rbd\"\n";

/// What a life consists of.
const PHASES: [&str; 4] = ["create", "mount", "unmount", "remove"];

/// How long each part of a life took.
type Life = [Duration; PHASES.len()];

/// A machine with a cluster, and a daemon that has a class `ceph` in it.
struct Scene<'m> {
    machine: &'m Machine,
    cluster: &'m Cluster<'m>,
    daemon: Daemon<'m>,
}

impl Scene<'_> {
    fn door(&self) -> Fallible<Door> {
        Door::open(&self.daemon.docker_socket())
    }

    /// Runs a shell line on the machine, for a minute at most: then its whole process group is killed.
    fn shell(&self, line: &str) -> Fallible<String> {
        self.run(&["sh", "-c", line])
    }

    /// The same for one program.
    fn run(&self, words: &[&str]) -> Fallible<String> {
        run(self.machine.command("timeout").args(["--signal=KILL", "60"]).args(words))
    }

    /// Whether the pool holds no image.
    fn is_empty(&self) -> Fallible<bool> {
        Ok(self.cluster.rbd_json(&["ls"])?.as_array().is_some_and(Vec::is_empty))
    }
}

pub(crate) fn rows(_: &Ground, effort: Effort, table: &mut Table) -> Fallible {
    let machine = Machine::start();
    let cluster = Cluster::start_in(&machine);
    let sections = format!("{HOUSE}{}", cluster.grants_toml("backend.ceph"));
    let daemon = Daemon::start_with(&machine, &sections);
    let scene = Scene { machine: &machine, cluster: &cluster, daemon };
    lives(&scene, effort, table)?;
    many::rows(&scene, effort, table)?;
    data::rows(&scene, effort, table)
}

/// A volume of the class.
fn volume(size: &str) -> Value {
    json!({ "class": "ceph", "size": size })
}

fn lives(scene: &Scene<'_>, effort: Effort, table: &mut Table) -> Fallible {
    // The first use of everything (plugin compiled, folders made, caches of the disk) is not what is measured.
    by_hand(scene, "warm")?;
    by_the_door(scene, "warm")?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..effort.of(8, 1) {
        let name = format!("life-{round}");
        // Whoever comes second finds the cluster warmer: they take turns.
        if round % 2 == 0 {
            bare.push(by_hand(scene, &name)?);
            ours.push(by_the_door(scene, &name)?);
        } else {
            ours.push(by_the_door(scene, &name)?);
            bare.push(by_hand(scene, &name)?);
        }
    }
    let whole = |lives: &[Life]| median(lives.iter().map(|life| life.iter().sum()));
    let of_all = ratio(whole(&ours), whole(&bare));
    table.row(&Row {
        what: "life of a volume, 1 GiB, ext4".to_owned(),
        ours: time(whole(&ours)),
        yardstick: format!("by hand {}", time(whole(&bare))),
        ratio: of_all,
        aim: Some(("less than 1.10".to_owned(), of_all.is_some_and(|ratio| ratio < 1.1))),
    });
    for (number, phase) in PHASES.iter().enumerate() {
        let part = |lives: &[Life]| median(lives.iter().filter_map(|life| life.get(number).copied()));
        table.row(&Row {
            what: format!("  of which {phase}"),
            ours: time(part(&ours)),
            yardstick: format!("by hand {}", time(part(&bare))),
            ratio: ratio(part(&ours), part(&bare)),
            aim: None,
        });
    }
    Ok(())
}

/// One life without anything of ours.
fn by_hand(scene: &Scene<'_>, name: &str) -> Fallible<Life> {
    let (image, create) = once(|| Image::create(scene, &format!("hand-{name}"), 1 << 30))?;
    let (mounted, mount) = once(|| image.mount())?;
    let ((), unmount) = once(|| mounted.unmount())?;
    let ((), remove) = once(|| image.remove())?;
    Ok([create, mount, unmount, remove])
}

/// One life by the Docker door. What an unmount leaves to be taken down later is waited for by the remove.
fn by_the_door(scene: &Scene<'_>, name: &str) -> Fallible<Life> {
    let mut door = scene.door()?;
    let ((), create) = once(|| door.create(name, &volume("1GiB")))?;
    let (_, mount) = once(|| door.mount(name, "bench"))?;
    let ((), unmount) = once(|| door.unmount(name, "bench"))?;
    let ((), remove) = once(|| door.remove(name))?;
    // The answer promises that the image is gone. Looking costs a program's start, which counts only if it is not.
    let (looks, late) = once(|| looks_until_empty(scene))?;
    Ok([create, mount, unmount, if looks > 1 { remove + late } else { remove }])
}

/// How often it was looked until the pool was empty.
fn looks_until_empty(scene: &Scene<'_>) -> Fallible<usize> {
    for look in 1..200 {
        if scene.is_empty()? {
            return Ok(look);
        }
    }
    Err("an image is still there long after its volume was removed".into())
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
