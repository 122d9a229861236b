//! What dockerd is like: the habits that the door is built around, each shown by a real dockerd and a plugin
//! of the test's own. When one of these fails, Docker has changed, and the door has to be thought over. How it
//! speaks is `peer/speech.rs`, what it mounts and when `peer/mounts.rs`, what a restart does `peer/restarts.rs`.

mod mounts;
mod restarts;
mod speech;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use kato_tests::{dockerd::Dockerd, machine::Machine};
use serde_json::{Value, json};

use super::wire::{Plugin, Reply};

/// A volume as dockerd likes it.
fn volume(request: &Value, path: &str) -> Reply {
    json!({"Volume": {"Name": request["Name"], "Mountpoint": path}, "Err": ""}).into()
}

fn fine() -> Reply {
    json!({"Err": ""}).into()
}

fn mounted(path: &str) -> Reply {
    json!({"Mountpoint": path, "Err": ""}).into()
}

/// A machine whose dockerd finds a plugin named `fake`.
fn with_plugin(
    machine: &Machine,
    answer: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static,
) -> (Plugin, Dockerd<'_>) {
    let plugin = Plugin::serve(&machine.path("/run/docker/plugins/fake.sock"), answer);
    (plugin, Dockerd::start(machine))
}

/// A container that runs these words, with these options before the image.
fn run(dockerd: &Dockerd<'_>, options: &str, words: &[&str]) -> Result<String, String> {
    let mut all = vec!["run", "--network", "none", "--stop-timeout", "1", "--volume-driver", "fake"];
    all.extend(options.split(' '));
    all.push(Dockerd::IMAGE);
    all.extend(words);
    dockerd.docker(&all)
}

/// A directory that a container can get.
fn place(machine: &Machine) -> String {
    let place = machine.folder().join("place");
    fs::create_dir_all(&place).unwrap();
    place.display().to_string()
}

#[test]
fn a_request_has_an_empty_host_no_content_type_and_null_for_options() {
    let machine = Machine::start();
    let path = place(&machine);
    let made = AtomicBool::new(false);
    let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" if made.load(Ordering::SeqCst) => volume(request, &path),
        "Get" => json!({"Err": "there is none"}).into(),
        "Create" => {
            made.store(true, Ordering::SeqCst);
            fine()
        }
        "Mount" => mounted(&path),
        _ => fine(),
    });
    dockerd
        .docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--volume-driver",
            "fake",
            "-v",
            "db:/data",
            "busybox",
            "true",
        ])
        .unwrap();
    let heard = plugin.heard();
    let create = heard.iter().find(|message| message.word() == "/VolumeDriver.Create").unwrap();
    assert!(create.line.starts_with("POST "));
    assert_eq!(create.header("host"), Some(""));
    assert_eq!(create.header("user-agent"), Some("Go-http-client/1.1"));
    assert_eq!(create.header("content-length"), Some(create.body.len().to_string().as_str()));
    assert_eq!(create.header("content-type"), None);
    assert_eq!(create.header("accept"), Some("application/vnd.docker.plugins.v1.2+json"));
    assert_eq!(create.json()["Opts"], Value::Null);
    assert!(create.body.ends_with(b"\n"));
    let operations = plugin.operations("db");
    assert_eq!(operations[..2], ["Get", "Create"], "{operations:?}");
    let mount = operations.iter().filter(|operation| *operation == "Mount").count();
    let unmount = operations.iter().filter(|operation| *operation == "Unmount").count();
    assert_eq!(mount, unmount, "{operations:?}");
}

#[test]
fn two_mounts_in_one_container_have_two_ids() {
    let machine = Machine::start();
    let path = place(&machine);
    let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" => volume(request, &path),
        "Mount" => mounted(&path),
        _ => fine(),
    });
    dockerd
        .docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--volume-driver",
            "fake",
            "-v",
            "db:/a",
            "-v",
            "db:/b",
            "busybox",
            "true",
        ])
        .unwrap();
    let ids = |operation: &str| {
        let mut ids: Vec<String> = plugin
            .heard()
            .iter()
            .filter(|message| message.word() == format!("/VolumeDriver.{operation}"))
            .map(|message| message.json()["ID"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    let mounts = ids("Mount");
    assert_eq!(mounts, ids("Unmount"));
    let mut different = mounts.clone();
    different.dedup();
    assert_eq!(different.len(), 2, "{mounts:?}");
}

#[test]
fn a_copy_out_of_a_running_container_mounts_again_under_the_same_id() {
    let machine = Machine::start();
    let path = place(&machine);
    fs::write(machine.folder().join("place/file"), "bytes").unwrap();
    let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" => volume(request, &path),
        "Mount" => mounted(&path),
        _ => fine(),
    });
    dockerd
        .docker(&[
            "run",
            "-d",
            "--name",
            "copied",
            "--network",
            "none",
            "--volume-driver",
            "fake",
            "-v",
            "db:/data",
            "busybox",
            "sleep",
            "600",
        ])
        .unwrap();
    let before = plugin.heard().len();
    dockerd
        .docker(&["cp", "copied:/data/file", &machine.folder().join("file").display().to_string()])
        .unwrap();
    let heard = plugin.heard();
    let ids = |operation: &str, from: usize| -> Vec<Value> {
        let messages = heard.iter().skip(from).filter(|message| message.word().ends_with(operation));
        messages.map(|message| message.json()["ID"].clone()).collect()
    };
    let container = ids(".Mount", 0).into_iter().nth_back(1).unwrap();
    assert_eq!(ids(".Mount", before), std::slice::from_ref(&container));
    assert_eq!(ids(".Unmount", before), [container]);
}

#[test]
fn a_request_that_was_cut_off_is_repeated_without_its_body() {
    let machine = Machine::start();
    let path = place(&machine);
    let gets = AtomicUsize::new(0);
    let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" if gets.fetch_add(1, Ordering::SeqCst) < 2 => Reply::Close,
        "Get" => volume(request, &path),
        _ => fine(),
    });
    let created = dockerd.docker(&["volume", "create", "-d", "fake", "db"]);
    assert!(plugin.heard().len() >= 3, "{created:?}");
    let bodies: Vec<usize> = plugin
        .heard()
        .iter()
        .filter(|message| message.word() == "/VolumeDriver.Get")
        .map(|message| message.body.len())
        .collect();
    assert!(bodies.windows(2).any(|pair| pair[0] > 0 && pair[1] == 0), "{bodies:?}");
}

#[test]
fn an_empty_answer_is_an_error_and_an_object_is_not() {
    let machine = Machine::start();
    let path = place(&machine);
    let removed = Arc::new(AtomicBool::new(false));
    let empty = Arc::clone(&removed);
    let (_plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" => volume(request, &path),
        "Remove" if empty.load(Ordering::SeqCst) => Reply::Body(200, "{}".into()),
        "Remove" => Reply::Body(200, String::new()),
        _ => fine(),
    });
    dockerd.docker(&["volume", "create", "-d", "fake", "db"]).unwrap();
    let error = dockerd.docker(&["volume", "rm", "db"]).unwrap_err();
    assert!(error.contains("EOF"), "{error}");
    removed.store(true, Ordering::SeqCst);
    dockerd.docker(&["volume", "rm", "db"]).unwrap();
}

#[test]
fn any_answer_to_get_but_a_volume_makes_dockerd_forget_and_a_closed_connection_does_not() {
    let machine = Machine::start();
    let path = place(&machine);
    let mood = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&mood);
    let (_plugin, dockerd) =
        with_plugin(&machine, move |operation, request| match (operation, now.load(Ordering::SeqCst)) {
            ("Get", 1) => Reply::Close,
            ("Get", 2) => Reply::Body(500, "the store is away".into()),
            ("Get", _) => volume(request, &path),
            ("List", _) => json!({"Volumes": [], "Err": ""}).into(),
            _ => fine(),
        });
    dockerd.docker(&["volume", "create", "-d", "fake", "--label", "kept=yes", "db"]).unwrap();
    let labels = || dockerd.docker(&["volume", "inspect", "--format", "{{.Labels}}", "db"]);
    assert_eq!(labels().as_deref(), Ok("map[kept:yes]"));
    mood.store(1, Ordering::SeqCst);
    labels().unwrap_err();
    mood.store(0, Ordering::SeqCst);
    assert_eq!(labels().as_deref(), Ok("map[kept:yes]"), "a closed connection was taken for an answer");
    mood.store(2, Ordering::SeqCst);
    labels().unwrap_err();
    mood.store(0, Ordering::SeqCst);
    dockerd.docker(&["volume", "create", "-d", "fake", "db"]).unwrap();
    assert_eq!(labels().as_deref(), Ok("map[]"), "an error was not taken for an answer");
}

#[test]
fn a_failed_mount_is_never_unmounted() {
    let machine = Machine::start();
    let path = place(&machine);
    let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" => volume(request, &path),
        "Mount" => json!({"Mountpoint": path, "Err": "no such luck"}).into(),
        _ => fine(),
    });
    let error = dockerd
        .docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--volume-driver",
            "fake",
            "-v",
            "db:/data",
            "busybox",
            "true",
        ])
        .unwrap_err();
    assert!(error.contains("no such luck"), "{error}");
    assert!(!plugin.operations("db").contains(&"Unmount".to_owned()));
}

#[test]
fn names_reach_the_plugin_unchecked() {
    let machine = Machine::start();
    let (plugin, dockerd) = with_plugin(&machine, |operation, _| match operation {
        "Get" => json!({"Err": "there is none"}).into(),
        "Create" => json!({"Err": "not this one"}).into(),
        _ => fine(),
    });
    let names = ["../../x", "a/b", "..", "with space", "vol:colon", &"x".repeat(300)];
    for name in names {
        dockerd.docker(&["volume", "create", "-d", "fake", "--name", name]).unwrap_err();
        dockerd.docker(&["volume", "create", "-d", "fake", name]).unwrap_err();
        assert!(plugin.operations(name).contains(&"Create".to_owned()), "{name}");
    }
}

#[test]
fn a_volume_that_is_found_is_not_created_again_whatever_is_wished() {
    let machine = Machine::start();
    let path = place(&machine);
    let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" => volume(request, &path),
        _ => fine(),
    });
    dockerd.docker(&["volume", "create", "-d", "fake", "-o", "size=1GiB", "db"]).unwrap();
    dockerd.docker(&["volume", "create", "-d", "fake", "-o", "size=2GiB", "db"]).unwrap();
    assert!(!plugin.operations("db").contains(&"Create".to_owned()));
}

#[test]
fn an_empty_mountpoint_gives_a_container_its_own_bundle() {
    let machine = Machine::start();
    let path = place(&machine);
    let (_plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" => volume(request, &path),
        "Mount" => mounted(""),
        _ => fine(),
    });
    let seen = dockerd.docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--mount",
        "type=volume,source=db,target=/data,volume-driver=fake,volume-nocopy",
        "busybox",
        "ls",
        "/data",
    ]);
    assert!(seen.as_ref().is_ok_and(|seen| seen.contains("config.json")), "{seen:?}");
}
