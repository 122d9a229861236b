//! Bytes of volumes on their way between this host and EBS, against a plain program with Amazon's own client and nothing of
//! ours, with the same blocks, the same model of AWS and the same disk, in turns; and from one local backend to another
//! against `cp`. What is copied is a snapshot, so that both sides begin with bytes that hold still.
//!
//! Throughput is what a person waits for: ours has everything in it that makes the bytes a volume (records, the volume
//! in EC2 made from what was put, its seed taken away again), the program's has the bytes. CPU is what is used by the
//! daemon, its workers and `kato`, and by the program; the model's is nobody's. `ebs/hand.rs` is everything by hand.

mod hand;

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    thread,
    time::Duration,
};

use kato_tests::{
    aws::{Aws, Instance, REGION},
    daemon::Daemon,
    machine::Machine,
};
use serde_json::Value;

use self::hand::{Cost, Native, cost_of_children, measured};
use crate::{
    Effort, Fallible,
    door::Door,
    table::{Row, Table},
    yardstick::Ground,
};

const ZONE: &str = "eu-central-1a";

const MIB: usize = 1 << 20;

/// A machine in Amazon's house, and its daemon.
struct Scene<'m> {
    machine: &'m Machine,
    aws: &'m Aws,
    daemon: Daemon<'m>,
    native: Native,
}

impl Scene<'_> {
    fn kato(&self, words: &str) -> Fallible<String> {
        let output = self.daemon.kato(&words.split(' ').collect::<Vec<_>>());
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        Err(format!("kato {words}: {}", String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Makes a volume from a snapshot of another backend's, and waits until all of it is there.
    fn carry(&self, snapshot: &str, class: &str, name: &str) -> Fallible {
        self.kato(&format!("volume create {name} -c {class} --from-snapshot {snapshot}"))?;
        // Whoever asks without a pause is counted as ours.
        while self.inspect("volume", name)?.get("copying").is_some() {
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn inspect(&self, noun: &str, name: &str) -> Fallible<Value> {
        Ok(serde_json::from_str(&self.kato(&format!("{noun} inspect {name} -o json"))?)?)
    }

    fn remove(&self, noun: &str, name: &str) -> Fallible {
        self.kato(&format!("{noun} rm --yes {name}")).map(drop)
    }

    /// What it costs the daemon and all that it starts.
    fn ours(&self, work: impl FnOnce() -> Fallible) -> Fallible<Cost> {
        measured(|| Ok(hand::cpu_of(self.daemon.pid())? + cost_of_children()?), work)
    }
}

/// What the daemon is told.
fn sections(machine: &Machine, aws: &Aws, instance: &Instance) -> Fallible<String> {
    let (id, endpoint) = (instance.id(), aws.endpoint());
    let (dev, sys) = (instance.dev(), instance.sys());
    let other = machine.folder().join("other");
    fs::create_dir_all(&other)?;
    Ok(format!(
        "[cluster]\nid = \"0123456789abcdef0123456789abcdef\"\n[log]\nlevel = \"warn\"\n\
         [class.ebs]\nbackend = \"ebs\"\nfs = \"xfs\"\n\
         [class.images]\nbackend = \"local\"\nfs = \"xfs\"\nparameters = {{ kind = \"image\" }}\n\
         [class.other]\nbackend = \"other\"\nfs = \"xfs\"\nparameters = {{ kind = \"image\" }}\n\
         [backend.other]\nplugin = \"local\"\n[backend.other.grants]\n\
         directories = {{ data = {other:?} }}\nconnections = {{ file = true }}\n\
         [node]\nidle-grace = \"0s\"\ndev = {dev:?}\nsys = {sys:?}\nnames = {{ ebs = {id:?} }}\n\
         topology = {{ zone = \"{ZONE}\" }}\n[backend.ebs]\nplugin = \"ebs\"\n[backend.ebs.grants]\n\
         connections = {{ device = [\"ebs\"] }}\n[backend.ebs.grants.aws]\nregion = \"{REGION}\"\n\
         endpoints = {{ ec2 = {endpoint:?}, ebs = {endpoint:?} }}\naddresses = [\"loopback\"]\n"
    ))
}

pub(crate) fn rows(_: &Ground, effort: Effort, table: &mut Table) -> Fallible {
    let native = Native::find()?;
    let machine = Machine::start();
    let aws = Aws::start_in(&machine);
    let instance = aws.add_instance(ZONE, "m7i.large");
    let keys = aws.credentials();
    let environment = [
        ("AWS_ACCESS_KEY_ID", keys.access_key_id.as_str()),
        ("AWS_SECRET_ACCESS_KEY", keys.secret_access_key.as_str()),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let daemon = Daemon::start_in(&machine, &sections(&machine, &aws, &instance)?, &environment);
    let scene = Scene { machine: &machine, aws: &aws, daemon, native };
    let data = effort.of(512, 32) * MIB;
    let rounds = effort.of(4, 1);

    scene.kato("volume create db -c images -s 1GiB")?;
    fill(&scene, "db", data)?;
    scene.kato("snapshot create db moment")?;
    let image = image_of_snapshot(&machine.folder().join("kato"))?;

    let out = in_turns(rounds, |round| there(&scene, round), || put(&scene, &image))?;
    show(table, "local to EBS", data, &out);

    scene.carry("moment", "ebs", "far")?;
    scene.kato("snapshot create far distant")?;
    let handle = scene.inspect("snapshot", "distant")?;
    let handle =
        handle.get("handle").and_then(Value::as_str).ok_or("a snapshot without a handle")?.to_owned();
    let back = in_turns(rounds, |round| here(&scene, round, "distant", "images"), || get(&scene, &handle))?;
    show(table, "EBS to local", data, &back);

    let across = in_turns(rounds, |round| here(&scene, round, "moment", "other"), || copy(&scene, &image))?;
    show(table, "local to local", data, &across);

    for (noun, name) in [("snapshot", "distant"), ("snapshot", "moment"), ("volume", "far"), ("volume", "db")]
    {
        scene.remove(noun, name)?;
    }
    Ok(())
}

/// What both sides cost, round by round.
type Costs = (Vec<Cost>, Vec<Cost>);

/// Whoever comes second finds the disk's own caches warmer: they take turns. The first round of both, in which the plugin
/// is compiled and folders are made, does not count.
fn in_turns(
    rounds: usize,
    mut ours: impl FnMut(usize) -> Fallible<Cost>,
    mut theirs: impl FnMut() -> Fallible<Cost>,
) -> Fallible<Costs> {
    let mut costs = Costs::default();
    ours(rounds)?;
    theirs()?;
    for round in 0..rounds {
        if round % 2 == 0 {
            costs.0.push(ours(round)?);
            costs.1.push(theirs()?);
        } else {
            costs.1.push(theirs()?);
            costs.0.push(ours(round)?);
        }
    }
    Ok(costs)
}

fn show(table: &mut Table, what: &str, data: usize, (ours, theirs): &Costs) {
    #[expect(clippy::cast_precision_loss, reason = "a size for a person to read")]
    let mib = data as f64 / MIB as f64;
    let by_whom = if what == "local to local" { "cp" } else { "native" };
    let (our_wall, their_wall) = (median(ours, |cost| cost.wall), median(theirs, |cost| cost.wall));
    let speed = their_wall / our_wall;
    table.row(&Row {
        what: format!("{what}, {mib:.0} MiB of noise in 1 GiB"),
        ours: format!("{:.0} MiB/s", mib / our_wall),
        yardstick: format!("{by_whom} {:.0} MiB/s", mib / their_wall),
        ratio: Some(speed),
        aim: Some(("0.9 or more".to_owned(), speed >= 0.9)),
    });
    let (our_cpu, their_cpu) = (median(ours, |cost| cost.cpu), median(theirs, |cost| cost.cpu));
    let thrift = their_cpu / our_cpu;
    table.row(&Row {
        what: "  bytes for one CPU-second".to_owned(),
        ours: format!("{:.2} CPU-s/GiB", our_cpu * 1024.0 / mib),
        yardstick: format!("{by_whom} {:.2} CPU-s/GiB", their_cpu * 1024.0 / mib),
        ratio: Some(thrift),
        aim: Some(("0.9 or more".to_owned(), thrift >= 0.9)),
    });
}

fn there(scene: &Scene<'_>, round: usize) -> Fallible<Cost> {
    let name = format!("there-{round}");
    hand::forget_caches()?;
    let cost = scene.ours(|| scene.carry("moment", "ebs", &name))?;
    scene.remove("volume", &name)?;
    Ok(cost)
}

fn here(scene: &Scene<'_>, round: usize, snapshot: &str, class: &str) -> Fallible<Cost> {
    let name = format!("{snapshot}-{class}-{round}");
    hand::forget_caches()?;
    let cost = scene.ours(|| scene.carry(snapshot, class, &name))?;
    scene.remove("volume", &name)?;
    Ok(cost)
}

fn put(scene: &Scene<'_>, image: &Path) -> Fallible<Cost> {
    hand::forget_caches()?;
    measured(cost_of_children, || scene.native.put(scene.machine, scene.aws, image))
}

fn get(scene: &Scene<'_>, snapshot: &str) -> Fallible<Cost> {
    let target = scene.machine.folder().join("fetched");
    hand::forget_caches()?;
    let cost = measured(cost_of_children, || scene.native.get(scene.machine, scene.aws, snapshot, &target))?;
    fs::remove_file(target)?;
    Ok(cost)
}

fn copy(scene: &Scene<'_>, image: &Path) -> Fallible<Cost> {
    let target = scene.machine.folder().join("copied");
    hand::forget_caches()?;
    let cost = measured(cost_of_children, || hand::copy(image, &target))?;
    fs::remove_file(target)?;
    Ok(cost)
}

fn median(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    let mut all: Vec<_> = costs.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Writes something into a volume that no compression and no search for zeroes gets away with.
fn fill(scene: &Scene<'_>, volume: &str, bytes: usize) -> Fallible {
    let mut door = Door::open(&scene.daemon.docker_socket())?;
    let place = scene.machine.path(door.mount(volume, "bench")?);
    let mut file = File::create(place.join("rows"))?;
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut piece = vec![0_u8; MIB];
    for _ in 0..bytes / MIB {
        for word in piece.chunks_exact_mut(8) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            word.copy_from_slice(&seed.to_le_bytes());
        }
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    drop(file);
    door.unmount(volume, "bench")
}

/// The only snapshot's image, beneath the daemon's folder.
fn image_of_snapshot(folder: &Path) -> Fallible<std::path::PathBuf> {
    let mut left = vec![folder.to_path_buf()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                left.push(path);
            } else if path.ends_with("image") && path.components().any(|part| part.as_os_str() == "snapshots")
            {
                return Ok(path);
            }
        }
    }
    Err("the snapshot's image is not where it was looked for".into())
}
