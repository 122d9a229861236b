//! The records are lost while containers run: `kato recover --scan` and `kato doctor`, with the real binary, real
//! mounts and loop devices, and a process in a mount namespace of its own that writes all the while.

use std::{fs, path::PathBuf};

use kato_tests::{
    daemon::Daemon,
    machine::{Machine, Process, until},
};
use serde_json::{Value, json};

use super::{done, err, failed, out, text};
use crate::docker::wire::Wire;

/// Doubtful holders are let go of within seconds here.
const IMPATIENT: &str = "[node]\nreap-after = \"2s\"\n[limits]\ntidy-every = \"500ms\"\n";

/// A volume of each kind, both mounted, one of them written to from another mount namespace.
struct Scene<'m> {
    machine: &'m Machine,
    daemon: Daemon<'m>,
    writer: Option<Process>,
    database: PathBuf,
}

impl<'m> Scene<'m> {
    fn set(machine: &'m Machine) -> Self {
        let daemon = Daemon::start_with(machine, IMPATIENT);
        done(
            &daemon.kato(&[
                "volume", "create", "db", "--class", "ext4", "--size", "64MiB", "--label", "team=web",
            ]),
        );
        done(&daemon.kato(&["volume", "create", "files"]));
        let wire = Wire(daemon.docker_socket());
        // Mounted once, so that there is a filesystem; then the records know of no mount.
        wire.done("Mount", json!({"Name": "db", "ID": "first"}));
        wire.done("Unmount", json!({"Name": "db", "ID": "first"}));
        done(&daemon.kato(&["snapshot", "create", "db", "empty"]));
        done(&daemon.kato(&["store", "dump", "--file", text(&machine.folder().join("before.jsonl"))]));
        let mut paths = ["db", "files"].map(|name| {
            let answer = wire.done("Mount", json!({"Name": name, "ID": "c0ffee"}));
            answer["Mountpoint"].as_str().unwrap().to_owned()
        });
        for path in &paths {
            fs::write(machine.path(path).join("rows"), "all of them").unwrap();
        }
        let path = std::mem::take(&mut paths[0]);
        // As a container has it: in a namespace of its own, at a place of its own.
        let line = format!(
            "mkdir /run/inside && mount --bind {path} /run/inside && cd /run/inside && i=0; \
             while :; do i=$((i+1)); echo $i >> log || exit 1; sync log || exit 1; sleep 0.02; done"
        );
        let writer = machine.spawn("unshare", "writer.log", |command| {
            command.args(["--mount", "--propagation", "slave", "sh", "-c", &line]);
        });
        let scene = Self { machine, daemon, writer: Some(writer), database: machine.path(&path) };
        scene.written_more();
        scene
    }

    /// Ends the daemon as a crash would, and loses all records but the dumps.
    fn lose_the_records(&mut self) {
        self.daemon.kill();
        let store = self.machine.folder().join("kato/store");
        for entry in fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.file_name().unwrap().to_str().unwrap() {
                "dumps" => {}
                _ if entry.is_dir() => fs::remove_dir_all(&entry).unwrap(),
                _ => fs::remove_file(&entry).unwrap(),
            }
        }
        self.daemon.start_again();
        assert_eq!(done(&self.daemon.kato(&["volume", "ls", "-q"])), "");
    }

    /// Waits until the writer has written something new, without an error.
    fn written_more(&self) {
        let lines = || fs::read_to_string(self.database.join("log")).unwrap_or_default().lines().count();
        let before = lines();
        until("the writer to write", || (lines() > before + 3).then_some(()));
    }

    /// What the doctor finds: codes and subjects, and whether each was mended.
    fn doctor(&self, words: &[&str]) -> Vec<(String, String, bool)> {
        let answer = self.daemon.kato(&[&["doctor", "-o", "json"], words].concat());
        let found: Vec<Value> = serde_json::from_str(&out(&answer)).unwrap();
        let left = found.iter().any(|finding| finding["fixed"] != true);
        assert_eq!(answer.status.code(), Some(if left { 6 } else { 0 }), "{}", err(&answer));
        assert!(
            err(&answer).contains("dockerd") && err(&answer).contains("cannot be reached"),
            "{}",
            err(&answer)
        );
        let word = |finding: &Value, word: &str| finding[word].as_str().unwrap().to_owned();
        let mut found: Vec<_> = found
            .iter()
            .map(|finding| (word(finding, "code"), word(finding, "subject"), finding["fixed"] == true))
            .collect();
        found.sort();
        found
    }

    fn sh(&self, line: &str) -> String {
        done(&self.machine.shell(line))
    }
}

#[test]
fn lost_records_come_back_while_a_container_goes_on_writing() {
    let machine = Machine::start();
    let mut scene = Scene::set(&machine);
    scene.lose_the_records();
    scene.written_more();

    let codes: Vec<String> = scene.doctor(&["--fix"]).into_iter().map(|(code, ..)| code).collect();
    assert_eq!(codes, ["orphan", "orphan", "orphan", "stale-device", "stale-mount", "stale-mount"]);
    let rehearsed = scene.daemon.kato(&["recover", "--scan", "--dry-run"]);
    assert_eq!(done(&rehearsed).lines().count(), 4);
    assert!(err(&rehearsed).contains("2 volumes and 1 snapshot would be taken back"), "{}", err(&rehearsed));
    assert_eq!(done(&scene.daemon.kato(&["volume", "ls", "-q"])), "", "a rehearsal did something");

    let recovered = scene.daemon.kato(&["recover", "--scan", "-o", "json"]);
    let found: Vec<Value> = serde_json::from_str(&done(&recovered)).unwrap();
    assert_eq!(found.len(), 3);
    assert!(
        found.iter().all(|finding| finding["code"] == "recovered" && finding["fixed"] == true),
        "{found:?}"
    );
    assert!(err(&recovered).contains("backend local lists 2 volumes"), "{}", err(&recovered));
    assert!(err(&recovered).contains("2 volumes and 1 snapshot were taken back"), "{}", err(&recovered));
    assert_eq!(done(&scene.daemon.kato(&["recover", "--scan"])), "", "repeating it does nothing");

    let volume = done(&scene.daemon.kato(&["volume", "inspect", "db", "-o", "json"]));
    let volume: Value = serde_json::from_str(&volume).unwrap();
    assert_eq!(
        (&volume["class"], &volume["size_bytes"], &volume["state"]),
        (&json!("ext4"), &json!(64 << 20), &json!("ready"))
    );
    assert_eq!(done(&scene.daemon.kato(&["snapshot", "ls", "-q"])), "empty\n");
    until("the mounts to be found", || {
        let volumes = done(&scene.daemon.kato(&["volume", "ls", "-o", "json"]));
        (volumes.matches("\"mounted\"").count() == 2).then_some(())
    });
    assert_eq!(scene.doctor(&[]), []);

    // Nobody knows who it is, so nothing is deleted, and nothing taken from under anybody.
    let refused = failed(&scene.daemon.kato(&["volume", "rm", "db"]), 4);
    assert!(refused.contains("somebody unknown"), "{refused}");
    assert!(done(&scene.daemon.kato(&["volume", "why", "db"])).contains("records were rebuilt"));
    until("the other volume to be given back", || {
        done(&scene.daemon.kato(&["volume", "why", "files"])).contains("Nobody holds it").then_some(())
    });
    scene.written_more();
    assert!(done(&scene.daemon.kato(&["volume", "why", "db"])).contains("somebody unknown"));
    assert_eq!(fs::read_to_string(scene.database.join("rows")).unwrap(), "all of them");

    // A container that comes now gets the same data.
    let wire = Wire(scene.daemon.docker_socket());
    for name in ["db", "files"] {
        let answer = wire.done("Mount", json!({"Name": name, "ID": "later"}));
        let rows = machine.path(answer["Mountpoint"].as_str().unwrap()).join("rows");
        assert_eq!(fs::read_to_string(rows).unwrap(), "all of them");
        wire.done("Unmount", json!({"Name": name, "ID": "later"}));
    }
    scene.written_more();

    scene.writer.take().unwrap().kill();
    until("the container to be missed", || {
        done(&scene.daemon.kato(&["volume", "why", "db"])).contains("Nobody holds it").then_some(())
    });
    done(&scene.daemon.kato(&["snapshot", "rm", "empty"]));
    done(&scene.daemon.kato(&["volume", "rm", "db", "files"]));
    assert_eq!(scene.doctor(&[]), []);
    let loops = scene.sh("cat /sys/block/loop*/loop/backing_file 2>/dev/null || true");
    assert!(!loops.contains(text(machine.folder())), "a loop device was left: {loops}");
}

#[test]
fn a_dump_gives_labels_back_whether_it_was_kept_or_is_named() {
    let machine = Machine::start();
    let mut scene = Scene::set(&machine);
    let dump = machine.folder().join("named.jsonl");
    done(&scene.daemon.kato(&["store", "dump", "--file", text(&dump)]));
    let label = |scene: &Scene<'_>| {
        let volume = done(&scene.daemon.kato(&["volume", "inspect", "db", "-o", "json"]));
        serde_json::from_str::<Value>(&volume).unwrap()["labels"]["team"].clone()
    };

    scene.lose_the_records();
    let recovered = scene.daemon.kato(&["recover", "--scan", "--dump", text(&dump)]);
    assert_eq!(done(&recovered).lines().count(), 4, "{}", err(&recovered));
    assert_eq!(label(&scene), "web");
    let holders = done(&scene.daemon.kato(&["volume", "why", "db"]));
    assert!(holders.contains("c0ffee") && holders.contains("somebody unknown"), "{holders}");

    // The newest of the kept ones cannot be read: that is said, and the one before it is used.
    let kept = machine.folder().join("kato/store/dumps");
    fs::create_dir_all(&kept).unwrap();
    fs::copy(&dump, kept.join("kato-2026-01-01T00-00-00.000Z.jsonl")).unwrap();
    fs::write(kept.join("kato-2026-01-02T00-00-00.000Z.jsonl"), "{}\n").unwrap();
    scene.lose_the_records();
    let recovered = scene.daemon.kato(&["recover", "--scan"]);
    assert_eq!(done(&recovered).lines().count(), 4, "{}", err(&recovered));
    assert!(
        err(&recovered).contains("2026-01-02T00-00-00.000Z.jsonl was passed over"),
        "{}",
        err(&recovered)
    );
    assert_eq!(label(&scene), "web");
    scene.written_more();

    let missing = failed(&scene.daemon.kato(&["recover", "--scan", "--dump", "/nowhere"]), 3);
    assert!(missing.contains("/nowhere"), "{missing}");
    fs::write(&dump, "nonsense").unwrap();
    let refused = failed(&scene.daemon.kato(&["recover", "--scan", "--dump", text(&dump)]), 64);
    assert!(refused.contains("line 1"), "{refused}");
}

#[test]
fn what_stands_without_a_record_is_taken_down_only_when_nobody_has_it() {
    let machine = Machine::start();
    let mut scene = Scene::set(&machine);
    // The records of before the mounts: the volumes are known, and nothing of their mounts.
    let dump = machine.folder().join("before.jsonl");
    scene.daemon.kill();
    fs::rename(machine.folder().join("kato/store"), machine.folder().join("old-store")).unwrap();
    done(&scene.daemon.kato(&["store", "load", text(&dump)]));
    scene.daemon.start_again();

    let found = scene.doctor(&["--fix"]);
    let mended: Vec<(&str, bool)> = found.iter().map(|(code, _, mended)| (code.as_str(), *mended)).collect();
    // The container has the one, with its device; nobody has the other.
    assert_eq!(mended.iter().filter(|(_, mended)| *mended).collect::<Vec<_>>(), [&("stale-mount", true)]);
    assert_eq!(mended.len(), 3, "{found:?}");
    scene.written_more();
    scene.writer.take().unwrap().kill();
    until("the other to be all that is left", || (scene.doctor(&[]).len() == 2).then_some(()));
    let found = scene.doctor(&["--fix"]);
    assert!(found.len() == 2 && found.iter().all(|(_, _, mended)| *mended), "{found:?}");
    until("what stood to be taken down", || scene.doctor(&[]).is_empty().then_some(()));
    assert_eq!(scene.sh("grep -c /mnt/mounts/ /proc/self/mountinfo || true").trim(), "0");
    done(&scene.daemon.kato(&["volume", "ls"]));
}

#[test]
fn what_neither_a_record_nor_a_backend_knows_is_taken_down_by_the_doctor_with_a_warning_first() {
    let machine = Machine::start();
    let mut scene = Scene::set(&machine);
    scene.lose_the_records();
    // The backend does not find its volumes any more, whose files are still there.
    let volumes = machine.folder().join("kato/volumes/volumes");
    scene.sh(&format!("cd {} && mkdir ../strange && mv * ../strange", text(&volumes)));
    let standing = |scene: &Scene<'_>| {
        let found = scene.doctor(&[]).into_iter().filter(|(code, ..)| code.starts_with("stale"));
        found.map(|(code, ..)| code).collect::<Vec<_>>()
    };
    assert_eq!(standing(&scene), ["stale-device", "stale-mount", "stale-mount"]);
    let warned = out(&scene.daemon.kato(&["doctor"]));
    assert!(
        warned.contains("no backend knows it either") && warned.contains("--fix takes it down"),
        "{warned}"
    );

    let mended: Vec<_> = scene.doctor(&["--fix"]).into_iter().filter(|(.., mended)| *mended).collect();
    assert!(matches!(&mended[..], [(code, ..)] if code == "stale-mount"), "{mended:?}");
    assert_eq!(standing(&scene), ["stale-device", "stale-mount"], "the container has the other");
    scene.written_more();

    scene.writer.take().unwrap().kill();
    until("the container to be gone", || {
        scene.doctor(&["--fix"]);
        standing(&scene).is_empty().then_some(())
    });
    assert_eq!(scene.sh("grep -c /mnt/mounts/ /proc/self/mountinfo || true").trim(), "0");
    let loops = scene.sh("cat /sys/block/loop*/loop/backing_file 2>/dev/null || true");
    assert!(!loops.contains(text(machine.folder())), "a loop device was left: {loops}");
    // Their bytes are where they were, and with them the records come back.
    scene.sh(&format!("cd {} && mv ../strange/* . && rmdir ../strange", text(&volumes)));
    done(&scene.daemon.kato(&["recover", "--scan"]));
    let wire = Wire(scene.daemon.docker_socket());
    for name in ["db", "files"] {
        let answer = wire.done("Mount", json!({"Name": name, "ID": "later"}));
        let rows = machine.path(answer["Mountpoint"].as_str().unwrap()).join("rows");
        assert_eq!(fs::read_to_string(rows).unwrap(), "all of them");
        wire.done("Unmount", json!({"Name": name, "ID": "later"}));
    }
}
