//! The same through a real dockerd: `docker volume create` and `rm` by its API, with our driver and with its
//! own `local` one. dockerd asks a plugin several questions for each, and the local driver flushes nothing, so
//! the ratio tells what a person feels and not what we cost.

use kato_tests::{daemon::Daemon, dockerd::Dockerd, machine::Machine};
use serde_json::json;

use crate::{
    Effort, Fallible,
    clock::{Run, together},
    door::Line,
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
    Ok(())
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
