//! What a restart of dockerd, or of the plugin alone, does to mounts and to what dockerd remembers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use kato_tests::{
    dockerd::Dockerd,
    machine::{Machine, until},
};
use serde_json::{Value, json};

use super::{
    super::wire::{Plugin, Reply},
    fine, mounted, place, run, volume, with_plugin,
};

const SOCKET: &str = "/run/docker/plugins/fake.sock";

/// Answers about a volume in one directory; `mood` 1 says that there is none, 2 closes the connection.
fn moody(path: String, mood: Arc<AtomicUsize>) -> impl Fn(&str, &Value) -> Reply + Send + Sync + 'static {
    move |operation, request| match (operation, mood.load(Ordering::SeqCst)) {
        (_, 2) => Reply::Close,
        ("Get", 1) => json!({"Err": "the store is away"}).into(),
        ("Get", _) => volume(request, &path),
        ("Mount", _) => mounted(&path),
        ("List", _) => json!({"Volumes": [{"Name": "db"}]}).into(),
        _ => fine(),
    }
}

fn moody_plugin(machine: &Machine) -> (Plugin, Dockerd<'_>, Arc<AtomicUsize>) {
    let mood = Arc::<AtomicUsize>::default();
    let (plugin, dockerd) = with_plugin(machine, moody(place(machine), Arc::clone(&mood)));
    (plugin, dockerd, mood)
}

fn runs(dockerd: &Dockerd<'_>, container: &str) -> bool {
    let state = dockerd.docker(&["inspect", "--format", "{{.State.Running}}", container]);
    state.as_deref() == Ok("true")
}

#[test]
fn a_dockerd_that_was_killed_mounts_again_under_the_same_id_and_unmounts_once() {
    let machine = Machine::start();
    let (plugin, mut dockerd, _) = moody_plugin(&machine);
    run(&dockerd, "-d --restart always --name c1 -v db:/vol", &["sleep", "600"]).unwrap();
    dockerd.kill();
    assert!(plugin.ids("Unmount").is_empty());
    dockerd.start_again();
    until("the container to be restarted", || runs(&dockerd, "c1").then_some(()));
    let mounts = plugin.ids("Mount");
    assert_eq!((mounts.len(), &mounts[0]), (2, &mounts[1]), "{mounts:?}");
    dockerd.docker(&["rm", "-f", "c1"]).unwrap();
    assert_eq!(plugin.ids("Unmount"), mounts[..1]);
}

#[test]
fn a_get_that_fails_at_the_stop_loses_the_unmount_and_the_next_start_takes_the_same_id() {
    let machine = Machine::start();
    let (plugin, dockerd, mood) = moody_plugin(&machine);
    run(&dockerd, "-d --name c1 -v db:/vol", &["sleep", "600"]).unwrap();
    mood.store(1, Ordering::SeqCst);
    dockerd.docker(&["stop", "c1"]).unwrap();
    assert!(plugin.ids("Unmount").is_empty());
    mood.store(0, Ordering::SeqCst);
    dockerd.docker(&["start", "c1"]).unwrap();
    dockerd.docker(&["stop", "c1"]).unwrap();
    let mounts = plugin.ids("Mount");
    assert_eq!((mounts.len(), &mounts[0]), (2, &mounts[1]), "{mounts:?}");
    assert_eq!(plugin.ids("Unmount"), mounts[..1]);
}

#[test]
fn containers_that_outlive_dockerd_are_not_mounted_again_and_a_copy_out_of_one_takes_its_last_unmount() {
    let machine = Machine::start();
    let path = place(&machine);
    let plugin = Plugin::serve(&machine.path(SOCKET), moody(path, Arc::default()));
    let mut dockerd = Dockerd::start_with_live_restore(&machine);
    for name in ["plain", "copied"] {
        run(&dockerd, &format!("-d --name {name} -v db:/vol"), &["sleep", "600"]).unwrap();
    }
    let [plain, copied] = plugin.ids("Mount").try_into().unwrap();
    dockerd.kill();
    dockerd.start_again();
    assert_eq!(plugin.ids("Mount").len(), 2);
    dockerd.docker(&["stop", "plain"]).unwrap();
    assert_eq!(plugin.ids("Unmount"), std::slice::from_ref(&plain));
    let to = machine.folder().join("copy").display().to_string();
    dockerd.docker(&["cp", "copied:/vol", &to]).unwrap();
    let unmounts = plugin.ids("Unmount");
    dockerd.docker(&["stop", "copied"]).unwrap();
    let version = dockerd.docker(&["version", "--format", "{{.Server.Version}}"]).unwrap();
    if version.starts_with("20.") {
        assert_eq!(unmounts, [plain, copied], "the copy gave back what the container still has");
        assert_eq!(plugin.ids("Unmount"), unmounts, "and the stop gives back nothing");
    } else {
        // Later ones count what they find running.
        assert_eq!(plugin.ids("Unmount").last(), Some(&copied), "{version}");
    }
}

#[test]
fn a_planned_stop_unmounts_everything() {
    let machine = Machine::start();
    let (plugin, mut dockerd, _) = moody_plugin(&machine);
    for name in ["one", "two"] {
        run(&dockerd, &format!("-d --name {name} -v db:/vol"), &["sleep", "600"]).unwrap();
    }
    dockerd.stop();
    let (mut mounts, mut unmounts) = (plugin.ids("Mount"), plugin.ids("Unmount"));
    mounts.sort();
    unmounts.sort();
    assert_eq!(mounts, unmounts);
}

#[test]
fn a_start_of_dockerd_asks_for_every_volume_and_a_start_of_the_plugin_is_not_noticed() {
    let machine = Machine::start();
    let (plugin, mut dockerd, mood) = moody_plugin(&machine);
    for name in ["one", "two"] {
        dockerd.docker(&["volume", "create", "-d", "fake", name]).unwrap();
    }
    dockerd.stop();
    let before = plugin.heard_all().len();
    dockerd.start_again();
    let said: Vec<String> =
        plugin.heard_all().split_off(before).iter().map(|message| message.word().to_owned()).collect();
    for word in ["/Plugin.Activate", "/VolumeDriver.Capabilities"] {
        assert_eq!(said.iter().filter(|said| *said == word).count(), 1, "{said:?}");
    }
    let gets = said.iter().filter(|said| *said == "/VolumeDriver.Get").count();
    assert!(gets >= 2, "{said:?}");

    let socket = machine.path(SOCKET);
    plugin.close(&socket);
    let again = Plugin::serve(&socket, moody(place(&machine), mood));
    dockerd.docker(&["volume", "inspect", "one"]).unwrap();
    let said: Vec<String> = again.heard_all().iter().map(|message| message.word().to_owned()).collect();
    assert!(!said.contains(&"/Plugin.Activate".to_owned()), "{said:?}");
    assert!(said.contains(&"/VolumeDriver.Get".to_owned()), "{said:?}");
}

#[test]
fn a_volume_that_is_denied_while_dockerd_starts_is_dropped_and_its_containers_stay_down() {
    let machine = Machine::start();
    let (_plugin, mut dockerd, mood) = moody_plugin(&machine);
    dockerd.docker(&["volume", "create", "-d", "fake", "--label", "kept=yes", "db"]).unwrap();
    run(&dockerd, "-d --restart always --name c1 -v db:/vol", &["sleep", "600"]).unwrap();
    dockerd.kill();
    mood.store(1, Ordering::SeqCst);
    dockerd.start_again();
    let error = until("the container to be given up", || {
        let told =
            dockerd.docker(&["inspect", "--format", "{{.State.Status}} {{.State.Error}}", "c1"]).ok()?;
        told.starts_with("exited").then_some(told)
    });
    assert!(error.contains("no such volume") || error.contains("the store is away"), "{error}");
    mood.store(0, Ordering::SeqCst);
    let labels = dockerd.docker(&["volume", "inspect", "--format", "{{.Labels}}", "db"]);
    assert_ne!(labels.as_deref(), Ok("map[kept:yes]"), "what dockerd knew of it is gone");
    assert!(!runs(&dockerd, "c1"), "nobody starts it again");
}
