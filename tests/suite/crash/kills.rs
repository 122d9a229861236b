//! The real binary under load, killed at random moments. Clients create, mount, write, read back, unmount and
//! remove through the Docker door, and repeat a call whose answer they did not hear, as dockerd does. Whatever
//! was acknowledged is checked while it goes on and at the end; then everything is removed, and nothing may be
//! left: no folder, no mount, no loop device, no finding of the doctor.

#![expect(clippy::disallowed_methods, reason = "the number of kills comes from `cargo xtask soak`")]

use std::{
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

/// How many clients work at once.
const CLIENTS: u64 = 6;

#[test]
fn kills_under_load_lose_and_leak_no_directory() {
    killed_under_load(&json!({}), 1);
}

#[test]
fn kills_under_load_lose_and_leak_no_image() {
    killed_under_load(&json!({"class": "ext4", "size": "32MiB"}), 2);
}

fn kills() -> u32 {
    std::env::var("KATO_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

fn killed_under_load(options: &Value, seed: u64) {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    let wire = Wire(daemon.docker_socket());
    let over = AtomicBool::new(false);
    let mut chance = Chance(seed);

    let clients = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let client = Client {
                    wire: wire.clone(),
                    root: machine.path("/"),
                    options,
                    chance: Chance(seed * 1_000 + number),
                    volumes: (0..3).map(|volume| Volume::new(format!("v-{number}-{volume}"))).collect(),
                };
                let over = &over;
                scope.spawn(move || client.work(over))
            })
            .collect();
        for _ in 0..kills() {
            thread::sleep(Duration::from_millis(20 + chance.below(400)));
            daemon.kill();
            daemon.start_again();
        }
        over.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    for mut client in clients {
        client.end();
    }

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
    /// Where it is mounted, seen from outside.
    path: Option<PathBuf>,
    lines: Vec<String>,
}

impl Volume {
    fn new(name: String) -> Self {
        Self { name, exists: false, path: None, lines: Vec::new() }
    }
}

struct Client<'a> {
    wire: Wire,
    root: PathBuf,
    options: &'a Value,
    chance: Chance,
    volumes: Vec<Volume>,
}

impl Client<'_> {
    fn work(mut self, over: &AtomicBool) -> Self {
        while !over.load(Ordering::SeqCst) {
            let index = usize::try_from(self.chance.below(self.volumes.len() as u64)).unwrap();
            let mut volume = std::mem::replace(&mut self.volumes[index], Volume::new(String::new()));
            self.step(&mut volume);
            self.volumes[index] = volume;
        }
        self
    }

    fn step(&mut self, volume: &mut Volume) {
        match (volume.exists, volume.path.is_some(), self.chance.below(4)) {
            (false, ..) => self.create(volume),
            (true, false, 0) => self.remove(volume),
            (true, false, _) => self.mount(volume),
            (true, true, 0) => self.unmount(volume),
            (true, true, 1) if self.options["class"] == "ext4" => self.copy(volume),
            (true, true, _) => write(volume, self.chance.below(u64::MAX)),
        }
    }

    /// Asks until there is an answer, as dockerd repeats what was cut off.
    fn ask(&self, operation: &str, body: &Value) -> Value {
        for _ in 0..600 {
            match self.wire.ask(&format!("/VolumeDriver.{operation}"), &body.to_string()) {
                Ok(Some(answer)) if matches!(answer.word(), "200" | "500") => {
                    let answer = answer.json();
                    assert_eq!(answer["Err"], "", "{operation} {body}");
                    return answer;
                }
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
        panic!("{operation} {body} was not answered in thirty seconds");
    }

    fn create(&self, volume: &mut Volume) {
        self.ask("Create", &json!({"Name": volume.name, "Opts": self.options}));
        volume.exists = true;
    }

    fn remove(&self, volume: &mut Volume) {
        self.ask("Remove", &json!({"Name": volume.name}));
        volume.exists = false;
        volume.lines.clear();
    }

    fn mount(&self, volume: &mut Volume) {
        let answer = self.ask("Mount", &json!({"Name": volume.name, "ID": "client"}));
        let inside = answer["Mountpoint"].as_str().unwrap();
        let path = self.root.join(inside.trim_start_matches('/'));
        check(volume, &path);
        volume.path = Some(path);
    }

    /// Copies a volume while it is mounted, and finds in the copy what was synced before.
    fn copy(&self, volume: &Volume) {
        let mut copy = Volume::new(format!("{}-copy", volume.name));
        copy.lines.clone_from(&volume.lines);
        let options = json!({"from": format!("volume:{}", volume.name), "class": "ext4"});
        self.ask("Create", &json!({"Name": copy.name, "Opts": options}));
        self.mount(&mut copy);
        self.unmount(&mut copy);
        self.remove(&mut copy);
    }

    fn unmount(&self, volume: &mut Volume) {
        // A mount whose answer was cut off was asked for twice and counts twice.
        for _ in 0..10 {
            self.ask("Unmount", &json!({"Name": volume.name, "ID": "client"}));
            let answer = self.ask("Get", &json!({"Name": volume.name}));
            if answer["Volume"]["Status"]["holders"].as_array().is_none_or(Vec::is_empty) {
                volume.path = None;
                return;
            }
        }
        panic!("{} keeps its holder", volume.name);
    }

    /// Looks at everything once more, and removes it.
    fn end(&mut self) {
        let mut volumes = std::mem::take(&mut self.volumes);
        for volume in volumes.iter_mut().filter(|volume| volume.exists) {
            if volume.path.is_none() {
                self.mount(volume);
            }
            if let Some(path) = volume.path.clone() {
                check(volume, &path);
            }
            self.unmount(volume);
            self.remove(volume);
        }
    }
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
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}
