//! The same through a real dockerd, by its API: with our driver and with its own `local` one, which flushes
//! nothing, so the ratio tells what a person feels and not what we cost.
//!
//! First `docker volume create` and `rm` alone. Then the whole life of a volume: create, mount, unmount, remove. A
//! container that runs takes a third of a second of runc and cgroups, which would hide the volume, so none runs
//! here: a container is made with the volume and asked for the state of one of its paths (what `docker cp` does
//! first), for which dockerd mounts its volumes and unmounts them again. What remains of dockerd's own work is the
//! same for each driver, and is measured with no volume at all, so that the volume's share can be told.

use kato_tests::{daemon::Daemon, dockerd::Dockerd, machine::Machine};
use serde_json::{Value, json};

use crate::{
    Effort, Fallible,
    clock::{Run, together},
    door::Line,
    raw::image,
    table::{Row, Table, ratio, time},
    yardstick::Ground,
};

pub(crate) fn rows(_: &Ground, effort: Effort, table: &mut Table) -> Fallible {
    let machine = Machine::start();
    let _daemon = Daemon::start_with(&machine, "[log]\nlevel = \"warn\"\n");
    let _dockerd = Dockerd::start(&machine);
    for at_once in [1, 8, 64] {
        let count = effort.of(if at_once == 1 { 50 } else { at_once * 10 }, at_once.min(8));
        let at_once = at_once.min(count);
        let ours = cycles(&machine, "kato", at_once, count)?;
        let local = cycles(&machine, "local", at_once, count)?;
        table.row(&Row {
            what: format!("docker volume create + rm, {at_once} at once"),
            ours: format!("{:.0}/s, {}", ours.rate(), time(ours.median())),
            yardstick: format!("local {:.0}/s, {}", local.rate(), time(local.median())),
            ratio: ratio(ours.wall, local.wall),
            aim: None,
        });
    }
    // The first container of all, and the first image, are not what is measured.
    for kind in [Kind::none(), Kind::of("local", json!({})), Kind::of("kato", image())] {
        lives(&machine, &kind, 2, 2)?;
    }
    for at_once in [1, 8, 64] {
        let count = effort.of(if at_once == 1 { 30 } else { at_once * 5 }, at_once.min(8));
        let at_once = at_once.min(count);
        let none = lives(&machine, &Kind::none(), at_once, count)?;
        let local = lives(&machine, &Kind::of("local", json!({})), at_once, count)?;
        let plain = lives(&machine, &Kind::of("kato", json!({})), at_once, count)?;
        table.row(&life("directory", at_once, &plain, &local, &none));
        let count = effort.of(if at_once == 1 { 8 } else { at_once * 2 }, at_once.min(4));
        let at_once = at_once.min(count);
        let image = lives(&machine, &Kind::of("kato", image()), at_once, count)?;
        table.row(&life("ext4 image", at_once, &image, &local, &none));
    }
    Ok(())
}

fn life(what: &str, at_once: usize, ours: &Run, local: &Run, none: &Run) -> Row {
    let share = |run: &Run| time(run.median().saturating_sub(none.median()));
    Row {
        what: format!("docker life of a volume, {what}, {at_once} at once"),
        ours: format!("{:.1}/s, volume's share {}", ours.rate(), share(ours)),
        yardstick: format!("local {:.1}/s, share {}", local.rate(), share(local)),
        ratio: (local.rate() > 0.0).then(|| local.rate() / ours.rate().max(1e-9)),
        aim: None,
    }
}

/// Which volume a container gets.
struct Kind {
    driver: Option<&'static str>,
    options: Value,
}

impl Kind {
    fn of(driver: &'static str, options: Value) -> Self {
        Self { driver: Some(driver), options }
    }

    fn none() -> Self {
        Self { driver: None, options: json!({}) }
    }
}

/// Lives of volumes, each with a container that never runs.
fn lives(machine: &Machine, kind: &Kind, at_once: usize, count: usize) -> Fallible<Run> {
    let socket = machine.folder().join("docker.sock");
    together(
        at_once,
        count,
        |_| Line::open(&socket),
        |line, piece| {
            let name = format!("life-{}-{at_once}-{piece}", kind.driver.unwrap_or("none"));
            let mut container = json!({ "Image": Dockerd::IMAGE, "Cmd": ["true"], "NetworkDisabled": true });
            if let (Some(driver), Some(container)) = (kind.driver, container.as_object_mut()) {
                let wish = json!({ "Name": name, "Driver": driver, "DriverOpts": kind.options });
                line.ask("POST", "/volumes/create", &wish.to_string())?;
                let mount = json!({ "Type": "volume", "Source": name, "Target": "/data", "VolumeOptions": { "NoCopy": true } });
                container.insert("HostConfig".to_owned(), json!({ "Mounts": [mount] }));
            }
            line.ask("POST", &format!("/containers/create?name={name}"), &container.to_string())?;
            line.ask("HEAD", &format!("/containers/{name}/archive?path=/data"), "")
                .or_else(|error| if kind.driver.is_none() { Ok(Vec::new()) } else { Err(error) })?;
            line.ask("DELETE", &format!("/containers/{name}"), "")?;
            if kind.driver.is_some() {
                line.ask("DELETE", &format!("/volumes/{name}"), "")?;
            }
            Ok(())
        },
    )
}

fn cycles(machine: &Machine, driver: &str, at_once: usize, count: usize) -> Fallible<Run> {
    let socket = machine.folder().join("docker.sock");
    together(
        at_once,
        count,
        |_| Line::open(&socket),
        |line, piece| {
            let name = format!("{driver}-{at_once}-{piece}");
            line.ask("POST", "/volumes/create", &json!({ "Name": name, "Driver": driver }).to_string())?;
            line.ask("DELETE", &format!("/volumes/{name}"), "").map(drop)
        },
    )
}
