//! The speed of data: fio on a volume that the daemon mounted against fio on an image that was served and mounted by hand
//! with the same settings. Both stay mounted all the time and take turns, and the daemon is in no path of data, so the
//! ratio is 1 but for noise. Beside them stands what `rbd bench` does to a third image as large as fio's file, without a
//! cache as the server has none, so that the price of the filesystem, the loop device and FUSE can be told. The servers'
//! memory is looked at before and after.

use std::{fs, path::Path};

use serde_json::Value;

use super::{Scene, hand::Image, volume};
use crate::{
    Effort, Fallible,
    table::{Row, Table},
};

/// How large a file or image is that is worked on, all over.
const AREA: u64 = 256 << 20;

/// How large what is mounted is.
const ROOM: u64 = 512 << 20;

/// What is done to it.
struct Load {
    what: &'static str,
    /// As fio calls it, `rbd bench`'s type and pattern.
    ways: (&'static str, &'static str, &'static str),
    block: u64,
    depth: u64,
}

const fn load(
    what: &'static str,
    ways: (&'static str, &'static str, &'static str),
    block: u64,
    depth: u64,
) -> Load {
    Load { what, ways, block, depth }
}

const LOADS: [Load; 6] = [
    load("1 MiB sequential writes", ("write", "write", "seq"), 1 << 20, 1),
    load("1 MiB sequential reads", ("read", "read", "seq"), 1 << 20, 1),
    load("4 KiB random writes, depth 1", ("randwrite", "write", "rand"), 4 << 10, 1),
    load("4 KiB random writes, depth 16", ("randwrite", "write", "rand"), 4 << 10, 16),
    load("4 KiB random reads, depth 1", ("randread", "read", "rand"), 4 << 10, 1),
    load("4 KiB random reads, depth 16", ("randread", "read", "rand"), 4 << 10, 16),
];

pub(super) fn rows(scene: &Scene<'_>, effort: Effort, table: &mut Table) -> Fallible {
    scene.door()?.create("data", &volume(&format!("{}MiB", ROOM >> 20)))?;
    let ours = scene.door()?.mount("data", "bench")?;
    let server = our_server(scene)?;
    let image = Image::create(scene, "hand-data", ROOM)?;
    let mounted = image.mount()?;
    let (bare, bare_server) = (mounted.mount.display().to_string(), mounted.server()?);
    let third = Image::create(scene, "hand-bench", AREA)?;

    let idle = (memory(scene, &server)?, memory(scene, &bare_server)?);
    // What was never written is read without asking the disk.
    for place in [&ours, &bare] {
        fio(scene, place, &["--rw=write", "--bs=1M", "--iodepth=16"])?;
    }
    rbd_bench(&third, &load("", ("", "write", "seq"), 1 << 20, 16), AREA)?;
    for load in &LOADS {
        table.row(&measure(scene, effort, load, (&ours, &bare), &third)?);
    }
    let loaded = (memory(scene, &server)?, memory(scene, &bare_server)?);
    for (when, (ours, bare)) in [("idle", idle), ("after the load", loaded)] {
        table.row(&Row {
            what: format!("memory of a volume's server, {when}"),
            ours: format!("{ours:.1} MiB"),
            yardstick: format!("by hand {bare:.1} MiB"),
            ratio: (bare > 0.0).then(|| ours / bare),
            aim: None,
        });
    }

    mounted.unmount()?;
    image.remove()?;
    third.remove()?;
    scene.door()?.unmount("data", "bench")?;
    scene.door()?.remove("data")
}

fn measure(
    scene: &Scene<'_>,
    effort: Effort,
    load: &Load,
    (ours, bare): (&str, &str),
    third: &Image<'_>,
) -> Fallible<Row> {
    let words = [
        "--time_based".to_owned(),
        format!("--runtime={}", effort.of(2, 1)),
        format!("--rw={}", load.ways.0),
        format!("--bs={}", load.block),
        format!("--iodepth={}", load.depth),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // Whoever comes second finds the cluster warmer: they take turns. Four seconds for each in all.
    let turns = if effort.smoke { vec![true, false] } else { vec![true, false, false, true] };
    let count = u64::try_from(turns.len() / 2)?;
    let (mut by_us, mut by_hand) = (0, 0);
    for is_ours in turns {
        let (place, sum) = if is_ours { (ours, &mut by_us) } else { (bare, &mut by_hand) };
        *sum += fio(scene, place, &words)?;
    }
    let (by_us, by_hand) = (by_us / count, by_hand / count);
    // It has no clock to end by, so it gets what takes about four seconds if it is as fast, and ends in any case.
    let seconds = if effort.smoke { 1 } else { 4 };
    let direct = rbd_bench(third, load, by_hand * seconds)?;
    let (by_us, by_hand) = (mebibytes(by_us)?, mebibytes(by_hand)?);
    let ratio = (by_hand > 0.0).then(|| by_us / by_hand);
    Ok(Row {
        what: load.what.to_owned(),
        ours: format!("{by_us:.1} MiB/s"),
        yardstick: format!("by hand {by_hand:.1}, rbd bench {direct:.1} MiB/s"),
        ratio,
        aim: Some(("1.0, but for 10 %".to_owned(), ratio.is_some_and(|ratio| ratio >= 0.9))),
    })
}

/// Bytes in a second, past the page cache. Its work is done by threads, so that all of it ends when it is killed.
fn fio(scene: &Scene<'_>, place: &str, words: &[&str]) -> Fallible<u64> {
    // One whole path: a folder that is named behind a file is not for that file.
    let (file, size) = (format!("--filename={place}/bench"), format!("--size={AREA}"));
    let common = [
        "fio",
        "--name=bench",
        "--thread",
        "--ioengine=libaio",
        "--direct=1",
        "--output-format=json",
        &file,
        &size,
    ];
    let answer: Value = serde_json::from_str(&scene.run(&[&common, words].concat())?)?;
    let speed = |kind: &str| {
        answer.pointer(&format!("/jobs/0/{kind}/bw_bytes")).and_then(Value::as_u64).unwrap_or_default()
    };
    Ok(speed("read") + speed("write"))
}

/// MiB in a second, by its own count: starting and connecting is not in it.
fn rbd_bench(image: &Image<'_>, load: &Load, bytes: u64) -> Fallible<f64> {
    let (_, kind, pattern) = load.ways;
    // Enough for every thread to have some, and whole blocks.
    let blocks = (bytes / load.block).max(load.depth * 16);
    let said = image.rbd(&[
        "bench",
        &image.spec(),
        "--rbd_cache",
        "false",
        "--io-type",
        kind,
        "--io-pattern",
        pattern,
        "--io-size",
        &format!("{}B", load.block),
        "--io-threads",
        &load.depth.to_string(),
        "--io-total",
        &format!("{}B", blocks * load.block),
    ])?;
    let rate = said.rsplit("ops/sec:").next().and_then(|rest| rest.split_whitespace().next());
    let rate: f64 = rate.and_then(|rate| rate.parse().ok()).ok_or_else(|| format!("no rate in {said:?}"))?;
    Ok(rate * mebibytes(load.block)?)
}

fn mebibytes(bytes: u64) -> Fallible<f64> {
    Ok(f64::from(u32::try_from(bytes >> 10)?) / 1024.0)
}

/// Resident memory of a process of the machine, in MiB.
fn memory(scene: &Scene<'_>, process: &str) -> Fallible<f64> {
    let said = scene.shell(&format!("grep VmRSS: /proc/{process}/status"))?;
    let kib = said.split_whitespace().nth(1).ok_or("the kernel tells no VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// The process that serves the only volume that is mounted, as the machine numbers it.
fn our_server(scene: &Scene<'_>) -> Fallible<String> {
    let servers = scene.machine.path(scene.machine.folder().join("kato/mnt/servers"));
    for volume in fs::read_dir(servers)?.flatten() {
        for server in fs::read_dir(volume.path())?.flatten() {
            if let Some(process) = process_of(&server.path()) {
                return Ok(process);
            }
        }
    }
    Err("no volume has a server".into())
}

fn process_of(server: &Path) -> Option<String> {
    let process = fs::read_to_string(server.join("pid")).ok()?;
    Some(process.trim().to_owned())
}
