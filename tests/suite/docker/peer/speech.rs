//! How dockerd speaks and what it understands.

#![expect(clippy::disallowed_methods, reason = "measures how long a real dockerd tries")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kato_tests::machine::Machine;
use serde_json::json;

use super::{super::wire::Reply, fine, mounted, place, run, volume, with_plugin};

#[test]
fn the_handshake_has_no_body_and_what_asks_for_nothing_an_object() {
    let machine = Machine::start();
    let (plugin, dockerd) = with_plugin(&machine, |operation, _| match operation {
        "List" => json!({"Volumes": []}).into(),
        "Get" => json!({"Err": "there is none"}).into(),
        _ => fine(),
    });
    dockerd.docker(&["volume", "create", "-d", "fake", "db"]).unwrap();
    dockerd.docker(&["volume", "ls"]).unwrap();
    let heard = plugin.heard_all();
    let body = |word: &str| {
        let message = heard.iter().find(|message| message.word() == word).unwrap();
        String::from_utf8(message.body.clone()).unwrap()
    };
    assert_eq!(body("/Plugin.Activate"), "");
    assert_eq!(body("/VolumeDriver.List"), "{}\n");
    assert_eq!(body("/VolumeDriver.Capabilities"), "{}\n");
}

#[test]
fn the_keys_of_an_answer_are_read_in_any_case_and_its_type_is_not() {
    let machine = Machine::start();
    let path = place(&machine);
    // The plugin of these tests says text/plain to everything.
    let (_plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" => json!({"vOLUME": {"nAME": request["Name"], "sTATUS": {"mood": "fine"}}, "eRR": ""}).into(),
        "Mount" => json!({"mOUNTPOINT": path, "eRR": ""}).into(),
        _ => fine(),
    });
    assert_eq!(run(&dockerd, "--rm -v db:/vol", &["ls", "/vol"]).as_deref(), Ok(""));
    let status = dockerd.docker(&["volume", "inspect", "--format", "{{.Status.mood}}", "db"]);
    assert_eq!(status.as_deref(), Ok("fine"));
}

#[test]
fn an_error_comes_as_err_as_a_status_or_as_plain_text_and_carries_the_operation() {
    let machine = Machine::start();
    let turn = AtomicUsize::new(0);
    let (_plugin, dockerd) = with_plugin(&machine, move |operation, _| match operation {
        "Create" => match turn.fetch_add(1, Ordering::SeqCst) {
            0 => json!({"Err": "no such luck"}).into(),
            1 => Reply::Body(500, json!({"Err": "no such luck"}).to_string()),
            _ => Reply::Body(500, "no such luck".into()),
        },
        _ => json!({"Err": "there is none"}).into(),
    });
    for turn in 0..3 {
        let error = dockerd.docker(&["volume", "create", "-d", "fake", "db"]).unwrap_err();
        assert!(error.contains("no such luck"), "{turn}: {error}");
        assert_eq!(error.contains("VolumeDriver.Create: "), turn > 0, "{turn}: {error}");
    }
}

#[test]
fn a_connection_that_breaks_is_tried_five_times_in_fifteen_seconds() {
    let machine = Machine::start();
    let (plugin, dockerd) = with_plugin(&machine, |operation, _| match operation {
        "Get" => Reply::Close,
        _ => fine(),
    });
    let before = Instant::now();
    dockerd.docker(&["volume", "inspect", "db"]).unwrap_err();
    let (took, gets) = (before.elapsed(), plugin.operations("db").len());
    // A connection that was kept and turns out to be closed is tried once more at once, without a wait.
    assert!((5..=10).contains(&gets), "{gets}");
    assert!(took >= Duration::from_secs(14) && took < Duration::from_secs(40), "{took:?}");
}

#[test]
fn options_come_from_a_create_or_from_a_mount_and_are_text() {
    let machine = Machine::start();
    let (path, made) = (place(&machine), Arc::<AtomicUsize>::default());
    let now = Arc::clone(&made);
    let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" if now.load(Ordering::SeqCst) == 0 => json!({"Err": "there is none"}).into(),
        "Get" => volume(request, &path),
        "Create" => {
            now.store(1, Ordering::SeqCst);
            fine()
        }
        "Mount" => mounted(&path),
        _ => fine(),
    });
    let options = |number: usize| {
        let heard = plugin.heard();
        let mut creates = heard.iter().filter(|message| message.word() == "/VolumeDriver.Create");
        creates.nth(number).unwrap().json()["Opts"].clone()
    };
    dockerd.docker(&["volume", "create", "-d", "fake", "-o", "size=1", "-o", "thin=true", "one"]).unwrap();
    assert_eq!(options(0), json!({"size": "1", "thin": "true"}));
    made.store(0, Ordering::SeqCst);
    let words = "--rm --mount type=volume,source=two,target=/x,volume-driver=fake,volume-opt=size=1";
    run(&dockerd, words, &["true"]).unwrap();
    assert_eq!(options(1), json!({"size": "1"}));
}

#[test]
fn read_only_is_never_told() {
    let machine = Machine::start();
    let path = place(&machine);
    let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" => volume(request, &path),
        "Mount" => mounted(&path),
        _ => fine(),
    });
    let said = run(&dockerd, "--rm -v db:/vol:ro", &["sh", "-c", "touch /vol/x || echo refused"]);
    assert_eq!(said.as_deref(), Ok("refused"));
    let heard = plugin.heard();
    let mount = heard.iter().find(|message| message.word() == "/VolumeDriver.Mount").unwrap().json();
    let words: Vec<&String> = mount.as_object().unwrap().keys().collect();
    assert_eq!(words, ["ID", "Name"]);
}

#[test]
fn everything_that_is_done_with_a_volume_begins_with_a_get() {
    let machine = Machine::start();
    let path = place(&machine);
    let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" => volume(request, &path),
        "Mount" => mounted(&path),
        "List" => json!({"Volumes": [{"Name": "db"}]}).into(),
        _ => fine(),
    });
    for words in [
        "volume create -d fake db",
        "volume inspect db",
        "create --name c1 --network none --stop-timeout 1 -v db:/vol busybox sleep 600",
        "start c1",
        "stop c1",
        "start c1",
        "rm -f c1",
        "run --rm --network none -v db:/vol busybox true",
        "volume rm db",
    ] {
        let before = plugin.operations("db").len();
        dockerd.docker(&words.split(' ').collect::<Vec<_>>()).unwrap();
        let said = plugin.operations("db").split_off(before);
        assert_eq!(said.first().map(String::as_str), Some("Get"), "{words}: {said:?}");
    }
}
