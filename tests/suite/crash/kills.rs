//! The real binary under load, killed at random moments: two daemons side by side, each with sockets, records and
//! volumes of its own on one kernel and one loop table, either of which may be killed next. Clients create, mount
//! for several holders, write, read back, grow, copy, unmount and remove, and repeat a call whose answer they did
//! not hear, as dockerd does. Whatever was acknowledged is checked while it goes on and at the end; then everything
//! is removed, and nothing may be left: no folder, no mount, no loop device, no finding of the doctor.

#![expect(clippy::disallowed_methods, reason = "the number of kills comes from `cargo xtask soak`")]

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use kato_tests::{daemon::Daemon, machine::Machine};
use serde_json::{Value, json};

use crate::docker::wire::Wire;

/// How many daemons run side by side.
const DAEMONS: u64 = 2;

/// How many clients each of them has.
const CLIENTS: u64 = 3;

/// By how many MiB an image is made larger at a time, and up to how many.
const GROWTH: u64 = 8;
const MOST: u64 = 56;

#[test]
fn kills_under_load_lose_and_leak_no_directory() {
    killed_under_load(&json!({}), None, 1);
}

#[test]
fn kills_under_load_lose_and_leak_no_image() {
    killed_under_load(&json!({"class": "ext4", "size": "32MiB"}), Some(32), 2);
}

pub(crate) fn kills() -> u32 {
    std::env::var("KATO_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// `size` is how many MiB the volumes have, where they are images.
fn killed_under_load(options: &Value, size: Option<u64>, seed: u64) {
    let machines: Vec<Machine> = (0..DAEMONS).map(|_| Machine::start()).collect();
    let mut daemons: Vec<Daemon<'_>> = machines.iter().map(Daemon::start).collect();
    let over = AtomicBool::new(false);
    let mut chance = Chance(seed);

    let clients = thread::scope(|scope| {
        let clients: Vec<_> = (0..DAEMONS * CLIENTS)
            .map(|number| {
                let home = usize::try_from(number / CLIENTS).unwrap();
                let client = Client {
                    docker: Wire(daemons[home].docker_socket()),
                    admin: Wire(machines[home].path("/run/kato/admin.sock")),
                    root: machines[home].path("/"),
                    options,
                    size,
                    chance: Chance(seed * 1_000 + number),
                    mounts: 0,
                    volumes: (0..3).map(|volume| Volume::new(format!("v-{number}-{volume}"), size)).collect(),
                };
                let over = &over;
                scope.spawn(move || client.work(over))
            })
            .collect();
        for _ in 0..kills() {
            thread::sleep(Duration::from_millis(20 + chance.below(400)));
            let daemon = &mut daemons[usize::try_from(chance.below(DAEMONS)).unwrap()];
            daemon.kill();
            daemon.start_again();
        }
        over.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    for mut client in clients {
        client.end();
    }
    for (machine, daemon) in machines.iter().zip(&daemons) {
        nothing_is_left(machine, daemon);
    }
}

pub(crate) fn nothing_is_left(machine: &Machine, daemon: &Daemon<'_>) {
    let findings = daemon.kato(&["doctor", "-o", "json"]);
    let findings: Value = serde_json::from_slice(&findings.stdout).unwrap();
    assert_eq!(findings, json!([]), "the doctor found something");
    let volumes = machine.folder().join("kato/volumes/volumes");
    let left: Vec<_> = fs::read_dir(volumes).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "left in the backend: {left:?}");
    let mounts = machine.shell("grep -c /mounts/ /proc/self/mountinfo");
    let mounts = String::from_utf8_lossy(&mounts.stdout).trim().to_owned();
    assert!(matches!(mounts.as_str(), "0" | "1"), "{mounts} mounts are left (one is the folder's own)");
    let folder = machine.folder().display().to_string();
    let loops =
        String::from_utf8(machine.shell("cat /sys/block/loop*/loop/backing_file 2>/dev/null; true").stdout)
            .unwrap();
    assert!(!loops.contains(&folder), "loop devices are left: {loops}");
}

/// One volume, as its client knows it.
#[derive(Debug)]
struct Volume {
    name: String,
    exists: bool,
    /// How many MiB it has at least, where it is an image.
    size: Option<u64>,
    /// Who holds it. No ID is used twice, as dockerd's are not.
    holders: Vec<String>,
    /// Where it is mounted, seen from outside.
    path: Option<PathBuf>,
    lines: Vec<String>,
}

impl Volume {
    fn new(name: String, size: Option<u64>) -> Self {
        Self { name, exists: false, size, holders: Vec::new(), path: None, lines: Vec::new() }
    }
}

struct Client<'a> {
    docker: Wire,
    admin: Wire,
    root: PathBuf,
    options: &'a Value,
    size: Option<u64>,
    chance: Chance,
    /// How many mounts it has asked for.
    mounts: u64,
    volumes: Vec<Volume>,
}

impl Client<'_> {
    fn work(mut self, over: &AtomicBool) -> Self {
        while !over.load(Ordering::SeqCst) {
            let index = usize::try_from(self.chance.below(self.volumes.len() as u64)).unwrap();
            let mut volume = std::mem::replace(&mut self.volumes[index], Volume::new(String::new(), None));
            self.step(&mut volume);
            self.volumes[index] = volume;
        }
        self
    }

    fn step(&mut self, volume: &mut Volume) {
        match (volume.exists, volume.holders.len(), self.chance.below(6)) {
            (false, ..) => self.create(volume),
            (true, 0, 0) => self.remove(volume),
            (true, _, 1) if volume.size.is_some_and(|size| size < MOST) => self.grow(volume),
            (true, 0, _) | (true, 1, 2) => self.mount(volume),
            (true, _, 0) => self.unmount(volume),
            (true, _, 3) if volume.size.is_some() => self.copy(volume),
            (true, ..) => write(volume, self.chance.below(u64::MAX)),
        }
    }

    /// Asks the Docker door.
    fn ask(&self, operation: &str, body: &Value) -> Value {
        let answer = until_answered(&self.docker, &format!("/VolumeDriver.{operation}"), body);
        assert_eq!(answer["Err"], "", "{operation} {body}");
        answer
    }

    fn create(&self, volume: &mut Volume) {
        self.ask("Create", &json!({"Name": volume.name, "Opts": self.options}));
        volume.exists = true;
        volume.size = self.size;
    }

    fn remove(&self, volume: &mut Volume) {
        self.ask("Remove", &json!({"Name": volume.name}));
        volume.exists = false;
        volume.lines.clear();
    }

    /// Gives a volume one holder more.
    fn mount(&mut self, volume: &mut Volume) {
        self.mounts += 1;
        let holder = format!("{}-{}", volume.name, self.mounts);
        let answer = self.ask("Mount", &json!({"Name": volume.name, "ID": holder}));
        let inside = answer["Mountpoint"].as_str().unwrap();
        let path = self.root.join(inside.trim_start_matches('/'));
        check(volume, &path);
        volume.path = Some(path);
        volume.holders.push(holder);
    }

    /// Makes a volume larger, mounted or not: its filesystem follows at once or with the next mount.
    fn grow(&self, volume: &mut Volume) {
        let size = volume.size.unwrap_or_default() + GROWTH;
        let path = format!("/v1/volumes/{}/grow", volume.name);
        let grown = until_answered(&self.admin, &path, &json!({"size": format!("{size}MiB")}));
        assert!(grown["size_bytes"].as_u64() >= Some(size << 20), "{grown}");
        volume.size = Some(size);
    }

    /// Copies a volume while it is mounted, and finds in the copy what was synced before.
    fn copy(&mut self, volume: &Volume) {
        let mut copy = Volume::new(format!("{}-copy", volume.name), None);
        copy.lines.clone_from(&volume.lines);
        let options = json!({"from": format!("volume:{}", volume.name), "class": "ext4"});
        self.ask("Create", &json!({"Name": copy.name, "Opts": options}));
        self.mount(&mut copy);
        self.unmount(&mut copy);
        self.remove(&mut copy);
    }

    /// Takes a volume from one of its holders; the others keep it.
    fn unmount(&mut self, volume: &mut Volume) {
        let index = usize::try_from(self.chance.below(volume.holders.len() as u64)).unwrap();
        let holder = volume.holders.swap_remove(index);
        // A mount whose answer was cut off was asked for twice and counts twice.
        for _ in 0..10 {
            self.ask("Unmount", &json!({"Name": volume.name, "ID": holder}));
            let left = self.holders(&volume.name);
            if !left.contains(&holder) {
                assert_eq!(left, volume.holders.iter().cloned().collect(), "the holders of {}", volume.name);
                if left.is_empty() {
                    volume.path = None;
                }
                return;
            }
        }
        panic!("{} keeps its holder {holder}", volume.name);
    }

    /// Who holds a volume, as `docker volume inspect` tells it.
    fn holders(&self, name: &str) -> BTreeSet<String> {
        let answer = self.ask("Get", &json!({"Name": name}));
        let holders = answer["Volume"]["Status"]["holders"].as_array().cloned().unwrap_or_default();
        holders.iter().map(|one| one["holder"].as_str().unwrap().to_owned()).collect()
    }

    /// Looks at everything once more, and removes it.
    fn end(&mut self) {
        let mut volumes = std::mem::take(&mut self.volumes);
        for volume in volumes.iter_mut().filter(|volume| volume.exists) {
            if let Some(path) = volume.path.clone() {
                check(volume, &path);
            }
            while !volume.holders.is_empty() {
                self.unmount(volume);
            }
            // Mounted anew, with whatever growth it still waited for.
            self.mount(volume);
            if let (Some(size), Some(path)) = (volume.size, &volume.path) {
                let seen = rustix::fs::statvfs(path).unwrap();
                let seen = seen.f_blocks * seen.f_frsize;
                // A filesystem so small needs up to a quarter for itself; without its last growth it is smaller.
                assert!(seen > (size << 20) / 4 * 3, "{} of {size} MiB has {seen} bytes", volume.name);
            }
            self.unmount(volume);
            self.remove(volume);
        }
    }
}

/// Asks until there is an answer, as dockerd repeats what was cut off.
fn until_answered(wire: &Wire, path: &str, body: &Value) -> Value {
    for _ in 0..600 {
        match wire.ask(path, &body.to_string()) {
            Ok(Some(answer)) if matches!(answer.word(), "200" | "500") => return answer.json(),
            _ => thread::sleep(Duration::from_millis(50)),
        }
    }
    panic!("{path} {body} was not answered in thirty seconds");
}

fn write(volume: &mut Volume, word: u64) {
    let Some(path) = &volume.path else { return };
    let line = format!("{} {word}", volume.lines.len());
    let mut file = OpenOptions::new().create(true).append(true).open(path.join("log")).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
    file.sync_all().unwrap();
    volume.lines.push(line);
}

/// Every line that was synced is there, and no other.
fn check(volume: &Volume, path: &Path) {
    let text = fs::read_to_string(path.join("log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, volume.lines, "{}", volume.name);
}

/// Chance from a seed.
#[derive(Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}
