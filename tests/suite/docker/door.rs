//! What the door answers to bytes: every operation as dockerd, Podman and dvdcli ask for it, and everything
//! that nobody should send. The daemon is the real one; only dockerd is missing.

use std::{
    fs,
    io::{BufReader, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    thread,
};

use kato_tests::{daemon::Daemon, machine::Machine};
use serde_json::{Value, json};

use super::{
    holders, inspect, mount,
    wire::{self, Wire, request},
};

const ANONYMOUS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn err(answer: &Value) -> String {
    let words = answer["Err"].as_str().unwrap_or_default().to_owned();
    assert!(!words.is_empty(), "{answer}");
    words
}

#[test]
fn a_volume_goes_through_its_life() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);

    let none = wire.call("Get", json!({"Name": "db"}));
    assert!(err(&none).contains("db"), "{none}");
    assert_eq!(wire.done("List", json!({}))["Volumes"], json!([]));

    wire.done("Create", json!({"Name": "db", "Opts": null}));
    wire.done("Create", json!({"Name": "db", "Opts": {}}));
    let volume = inspect(&wire, "db");
    assert_eq!(volume["Name"], "db");
    let created = volume["CreatedAt"].as_str().unwrap();
    assert!(created.len() == 24 && created.ends_with('Z') && created.find('T') == Some(10), "{created}");
    assert_eq!(volume["Status"]["state"], "ready");
    assert_eq!(volume["Status"]["backend"], "local");
    assert_eq!(wire.done("List", json!({}))["Volumes"], json!([{"Name": "db"}]));
    assert_eq!(wire.done("Path", json!({"Name": "db"}))["Mountpoint"], "");

    let path = mount(&machine, &wire, json!({"Name": "db", "ID": "one"}));
    fs::write(path.join("file"), "bytes").unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "something stands in the way of Docker's copy-up");
    assert_eq!(machine.path(wire.done("Path", json!({"Name": "db"}))["Mountpoint"].as_str().unwrap()), path);
    assert_eq!(machine.path(inspect(&wire, "db")["Mountpoint"].as_str().unwrap()), path);

    let refused = err(&wire.call("Remove", json!({"Name": "db"})));
    assert!(refused.contains("one") && refused.contains("db"), "{refused}");

    wire.done("Unmount", json!({"Name": "db", "ID": "one"}));
    wire.done("Unmount", json!({"Name": "db", "ID": "one"}));
    wire.done("Unmount", json!({"Name": "db", "ID": "never seen"}));
    assert_eq!(holders(&wire, "db"), []);
    let path = mount(&machine, &wire, json!({"Name": "db", "ID": "two"}));
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "bytes");
    wire.done("Unmount", json!({"Name": "db", "ID": "two"}));

    wire.done("Remove", json!({"Name": "db"}));
    wire.done("Remove", json!({"Name": "db"}));
    wire.done("Unmount", json!({"Name": "db", "ID": "two"}));
    err(&wire.call("Get", json!({"Name": "db"})));
    assert_eq!(wire.done("List", json!({}))["Volumes"], json!([]));
}

#[test]
fn capabilities_and_activate_answer_at_once() {
    let machine = Machine::start();
    let daemon = Daemon::start_with(&machine, "[docker]\nscope = \"global\"\n");
    let wire = super::wire(&daemon);
    let activate = wire.ask("/Plugin.Activate", "").unwrap().unwrap();
    assert_eq!(activate.json()["Implements"], json!(["VolumeDriver"]));
    assert_eq!(wire.done("Capabilities", json!({}))["Capabilities"], json!({"Scope": "global"}));
    let answer = wire.ask("/VolumeDriver.Capabilities", "").unwrap().unwrap();
    assert_eq!(answer.json()["Err"], "");
}

#[test]
fn mounts_of_one_id_are_counted() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    let one = json!({"Name": "db", "ID": "one"});
    let path = mount(&machine, &wire, one.clone());
    assert_eq!(mount(&machine, &wire, one.clone()), path);
    assert_eq!(mount(&machine, &wire, json!({"Name": "db", "ID": "two"})), path);
    assert_eq!(holders(&wire, "db"), [("one".into(), 2), ("two".into(), 1)]);
    wire.done("Unmount", one.clone());
    assert_eq!(holders(&wire, "db"), [("one".into(), 1), ("two".into(), 1)]);
    fs::write(path.join("file"), "bytes").unwrap();
    wire.done("Unmount", one);
    assert_eq!(holders(&wire, "db"), [("two".into(), 1)]);
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "bytes");
    wire.done("Unmount", json!({"Name": "db", "ID": "two"}));
    assert_eq!(holders(&wire, "db"), []);
}

#[test]
fn mounts_at_once_share_one_mount() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = &super::wire(&daemon);
    let ids: Vec<String> = (0..16).map(|number| format!("id-{number:02}")).collect();
    let mut paths: Vec<Value> = thread::scope(|scope| {
        let asked: Vec<_> = ids
            .iter()
            .map(|id| {
                scope.spawn(move || wire.done("Mount", json!({"Name": "db", "ID": id}))["Mountpoint"].clone())
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    paths.dedup();
    assert_eq!(paths.len(), 1, "{paths:?}");
    let held: Vec<String> = holders(wire, "db").into_iter().map(|(holder, _)| holder).collect();
    assert_eq!(held, ids);
    thread::scope(|scope| {
        for id in &ids {
            scope.spawn(move || wire.done("Unmount", json!({"Name": "db", "ID": id})));
        }
    });
    assert_eq!(holders(wire, "db"), []);
}

#[test]
fn callers_without_an_id_hold_once_however_often_they_mount() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    let path = mount(&machine, &wire, json!({"Name": "cluster-mongodb"}));
    fs::write(path.join("file"), "bytes").unwrap();
    assert_eq!(mount(&machine, &wire, json!({"Name": "cluster-mongodb"})), path);
    daemon.kill();
    daemon.start_again();
    let wire = super::wire(&daemon);
    assert_eq!(mount(&machine, &wire, json!({"Name": "cluster-mongodb", "ID": ""})), path);
    assert_eq!(holders(&wire, "cluster-mongodb").iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1]);
    wire.done("Unmount", json!({"Name": "cluster-mongodb"}));
    assert_eq!(holders(&wire, "cluster-mongodb"), []);
}

#[test]
fn nothing_is_never_a_name() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    for operation in ["Create", "Remove", "Mount", "Unmount", "Path"] {
        for body in [
            "",
            "\n",
            "{}",
            "null",
            "[",
            "{\"Name\":\"\"}",
            "{\"Name\":null}",
            "{\"Name\":3}",
            "\0\0",
            "\"db\"",
        ] {
            let answer = wire.ask(&format!("/VolumeDriver.{operation}"), body).unwrap().unwrap();
            err(&answer.json());
        }
    }
    assert_eq!(wire.done("List", json!({}))["Volumes"], json!([]));
    // A Get without a body is the repeat of one that was cut off: whatever were answered, dockerd would take
    // it for "there is no such volume".
    assert!(matches!(wire.ask("/VolumeDriver.Get", ""), Ok(None) | Err(_)));
    err(&wire.ask("/VolumeDriver.Get", "{\"Name\":\"\"}").unwrap().unwrap().json());
}

#[test]
fn names_that_are_no_names_are_refused_in_words() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    let long = "x".repeat(300);
    for name in ["..", "../../etc", "a/b", "/", ".", "with space", "vol:colon", "nul\0", "🦀", "-x", &long]
    {
        for operation in ["Create", "Mount", "Get", "Remove", "Path"] {
            let words = err(&wire.call(operation, json!({"Name": name, "ID": "one", "Opts": {}})));
            assert!(words.contains("name"), "{operation} {name:?}: {words}");
        }
    }
    assert_eq!(wire.done("List", json!({}))["Volumes"], json!([]));
    let longest = "x".repeat(128);
    wire.done("Create", json!({"Name": longest}));
    mount(&machine, &wire, json!({"Name": longest, "ID": "one"}));
}

#[test]
fn options_are_understood_or_refused() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    let create = |options: Value| wire.call("Create", json!({"Name": "db", "Opts": options}));
    for (options, words) in [
        (json!({"sise": "1GiB"}), "did you mean \"size\"?"),
        (json!({"colour": "red"}), "the options are size, class, fs"),
        (json!({"size": "ten"}), "10GiB"),
        (json!({"class": "gold"}), "gold"),
        (json!({"fs": "ntfs"}), "ext4"),
        (json!({"mode": "999"}), "octal"),
        (json!({"from": "db"}), "snapshot:NAME"),
        (json!({"from": "volume:nowhere"}), "nowhere"),
    ] {
        let refused = err(&create(options.clone()));
        assert!(refused.contains(words), "{options}: {refused}");
    }
    err(&wire.call("Get", json!({"Name": "db"})));

    let options = json!({"class": "ext4", "size": "64MiB", "mode": "0750", "uid": "1000", "gid": "1001",
                         "label.team": "db", "label": "env=prod"});
    assert_eq!(create(options.clone())["Err"], "");
    assert_eq!(create(options)["Err"], "");
    let volume = inspect(&wire, "db");
    assert_eq!(volume["Status"]["labels"], json!({"env": "prod", "team": "db"}));
    assert_eq!(volume["Status"]["class"], "ext4");
    assert!(volume["Status"]["size-bytes"].as_u64().unwrap() >= 64 << 20, "{volume}");
    let data = fs::metadata(mount(&machine, &wire, json!({"Name": "db", "ID": "one"}))).unwrap();
    assert_eq!((data.uid(), data.gid(), data.permissions().mode() & 0o7777), (1000, 1001, 0o750));

    // Another wish under the same name is told, a wish for nothing in particular finds what is there.
    err(&create(json!({"size": "128MiB", "class": "ext4"})));
    assert_eq!(create(json!({}))["Err"], "");
    wire.done("Unmount", json!({"Name": "db", "ID": "one"}));
}

#[test]
fn a_clean_filesystem_holds_nothing_that_stands_in_the_way() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    wire.done("Create", json!({"Name": "db", "Opts": {"class": "ext4", "size": "64MiB"}}));
    let path = mount(&machine, &wire, json!({"Name": "db", "ID": "one"}));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "lost+found blocks Docker's copy-up");
    wire.done("Unmount", json!({"Name": "db", "ID": "one"}));
}

#[test]
fn volumes_that_nobody_named_are_refused_unless_a_class_is_meant_for_them() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    let refused = err(&wire.call("Create", json!({"Name": ANONYMOUS, "Opts": null})));
    assert!(refused.contains("-v NAME:/path"), "{refused}");
    err(&wire.call("Mount", json!({"Name": ANONYMOUS, "ID": "one"})));
    assert_eq!(wire.done("List", json!({}))["Volumes"], json!([]));
    // Somebody who says what it is to be like has not forgotten it.
    wire.done("Create", json!({"Name": ANONYMOUS, "Opts": {"label": "kept=yes"}}));
    drop(daemon);

    let machine = Machine::start();
    let daemon = Daemon::start_with(
        &machine,
        "[docker]\nanonymous = \"scratch\"\n[class.scratch]\nbackend = \"local\"\n",
    );
    let wire = super::wire(&daemon);
    wire.done("Create", json!({"Name": ANONYMOUS, "Opts": null}));
    assert_eq!(inspect(&wire, ANONYMOUS)["Status"]["class"], "scratch");
}

#[test]
fn a_mount_makes_nothing_where_that_is_switched_off() {
    let machine = Machine::start();
    let daemon = Daemon::start_with(&machine, "[docker]\nimplicit = false\n");
    let wire = super::wire(&daemon);
    let refused = err(&wire.call("Mount", json!({"Name": "db", "ID": "one"})));
    assert!(refused.contains("db"), "{refused}");
    assert_eq!(wire.done("List", json!({}))["Volumes"], json!([]));
    wire.done("Create", json!({"Name": "db"}));
    mount(&machine, &wire, json!({"Name": "db", "ID": "one"}));
}

#[test]
fn every_way_to_ask_wrongly_has_an_answer_in_json() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    for (bytes, status) in [
        ("GET /VolumeDriver.List HTTP/1.1\r\nHost: \r\n\r\n", "405"),
        ("POST /VolumeDriver.Nothing HTTP/1.1\r\nHost: \r\n\r\n", "404"),
        ("POST / HTTP/1.1\r\nHost: \r\n\r\n", "404"),
        ("POST /VolumeDriver.List/../x HTTP/1.1\r\nHost: evil.example\r\n\r\n", "404"),
    ] {
        let answer = wire.say(bytes.as_bytes()).unwrap().unwrap();
        assert_eq!(answer.word(), status, "{bytes}");
        err(&answer.json());
    }
    // Whoever reaches the socket is root; dockerd's Host is empty, and others write what they like.
    for host in ["", "kato", "evil.example", "plugin.moby.localhost", "[::1]:1"] {
        let bytes =
            format!("POST /VolumeDriver.List HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{{}}");
        let answer = wire.say(bytes.as_bytes()).unwrap().unwrap();
        assert_eq!((answer.word(), &answer.json()["Err"]), ("200", &json!("")), "{host:?}");
    }
    for extra in [
        "Content-Type: text/plain\r\n",
        "Content-Type: application/json\r\n",
        "Accept-Encoding: gzip\r\n",
        "",
    ] {
        let asked =
            format!("POST /VolumeDriver.List HTTP/1.1\r\nHost: \r\nContent-Length: 2\r\n{extra}\r\n{{}}");
        let answer = wire.say(asked.as_bytes()).unwrap().unwrap();
        assert_eq!(answer.json(), json!({"Volumes": [], "Err": ""}), "{extra}");
    }
    let chunked = "POST /VolumeDriver.Create HTTP/1.1\r\nHost: \r\nTransfer-Encoding: chunked\r\n\r\n\
                   d\r\n{\"Name\":\"db\"}\r\n0\r\n\r\n";
    assert_eq!(wire.say(chunked.as_bytes()).unwrap().unwrap().json(), json!({"Err": ""}));
}

#[test]
fn a_connection_is_kept_for_many_requests() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let stream = super::wire(&daemon).connect().unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    for number in 0..50 {
        let body = json!({"Name": format!("volume-{number}"), "Opts": null}).to_string();
        writer.write_all(request("/VolumeDriver.Create", &body).as_bytes()).unwrap();
        assert_eq!(wire::read(&mut reader).unwrap().unwrap().json(), json!({"Err": ""}));
    }
    writer.write_all(request("/VolumeDriver.List", "{}").as_bytes()).unwrap();
    let listed = wire::read(&mut reader).unwrap().unwrap().json();
    assert_eq!(listed["Volumes"].as_array().unwrap().len(), 50);
}

#[test]
fn a_gigabyte_is_refused_unread() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    let head = "POST /VolumeDriver.Create HTTP/1.1\r\nHost: \r\nContent-Length: 1073741824\r\n\r\n";
    let answer = wire.say(head.as_bytes()).unwrap().unwrap();
    assert_eq!(answer.word(), "413");
    assert!(err(&answer.json()).contains("1048576"));

    // One that does not say how much will come is cut off at the same size.
    let mut stream = wire.connect().unwrap();
    let mut writer = stream.try_clone().unwrap();
    writer
        .write_all(b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: \r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
    let sent = (0..16_384).take_while(|_| writer.write_all(&chunk).is_ok()).count();
    assert!(sent < 1000, "{sent} chunks of 64 KiB were taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    assert!(answer.is_empty() || answer.contains("413"), "{answer}");
    wire.done("List", json!({}));
}

#[test]
fn the_socket_is_roots_and_only_one_daemon_has_it() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    let socket = daemon.docker_socket();
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    daemon.kill();
    assert!(Wire(socket.clone()).connect().is_err());
    daemon.start_again();
    Wire(socket).done("List", json!({}));
}

#[test]
fn every_request_is_measured_under_the_names_that_dashboards_know() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    mount(&machine, &wire, json!({"Name": "db", "ID": "one"}));
    err(&wire.call("Remove", json!({"Name": "db"})));
    let admin = Wire(machine.path("/run/kato/admin.sock"));
    let mut stream = admin.connect().unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    for (method, status) in [("Mount", "OK"), ("Remove", "FailedPrecondition")] {
        let found = page.lines().any(|line| {
            line.starts_with("csi_plugin_operations_seconds_bucket{")
                && line.contains("driver_name=\"kato\"")
                && line.contains(&format!("method_name=\"/VolumeDriver.{method}\""))
                && line.contains(&format!("grpc_status_code=\"{status}\""))
                && line.contains("le=\"600\"")
                && line.ends_with(" 1")
        });
        assert!(found, "{method} {status}: {page}");
    }
}
