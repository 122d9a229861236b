//! What a person meets when something is wrong: a size that makes no sense, a data folder that is full, a program
//! that is missing, clients that send too slowly or too much, a stop while somebody waits. Each is told in words
//! that name the thing and the remedy, and leaves nothing half-made behind.

use std::{
    fs,
    io::{BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::Duration,
};

use kato_tests::{
    daemon::Daemon,
    machine::{Machine, until},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{done, err, failed};
use crate::docker::wire::{self, Wire};

/// Sizes that nobody can have, and a word of why.
const SIZES: [(&str, &str); 6] = [
    ("0", "is zero"),
    ("-1", "-1"),
    ("-5GiB", "-5GiB"),
    ("1EiB", "1EiB"),
    ("2PiB", "largest allowed"),
    ("lots", "10GiB"),
];

fn door(daemon: &Daemon<'_>) -> Wire {
    Wire(daemon.docker_socket())
}

fn refused(answer: &Value) -> String {
    let words = answer["Err"].as_str().unwrap_or_default().to_owned();
    assert!(!words.is_empty(), "{answer}");
    words
}

/// Nothing is kept mounted for whoever may come again.
const AT_ONCE: &str = "[node]\nidle-grace = \"0s\"\n";

/// What the backend keeps, what is mounted beneath the data folder, and what loop devices stand on it.
fn world(machine: &Machine) -> Vec<String> {
    let data = machine.folder().join("kato").display().to_string();
    let line = format!(
        "cd {data}/volumes && find . -mindepth 1 ! -name .kato-copies | sort; grep -o '{data}/mnt[^ ]*' /proc/self/mounts | sort; \
         cat /sys/block/loop*/loop/backing_file 2>/dev/null | grep '^{data}' | sort; ls {data}/mnt"
    );
    super::out(&machine.shell(&line)).lines().map(str::to_owned).collect()
}

fn all_is_well(daemon: &Daemon<'_>) {
    assert_eq!(done(&daemon.kato(&["doctor"])), "Everything fits together.\n");
}

#[test]
fn sizes_that_nobody_can_have_are_refused_at_both_doors_and_leave_nothing() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = door(&daemon);
    done(&daemon.kato(&["volume", "create", "grown", "--class", "ext4", "--size", "64MiB"]));
    let before = world(&machine);
    for (size, why) in SIZES {
        let options = json!({ "class": "ext4", "size": size });
        let words = refused(&wire.call("Create", json!({ "Name": "db", "Opts": options })));
        assert!(words.contains(size) && words.contains(why), "{size}: {words}");
        let flag = format!("--size={size}");
        for told in [
            failed(&daemon.kato(&["volume", "create", "db", "--class", "ext4", &flag]), 64),
            failed(&daemon.kato(&["volume", "grow", "grown", "--", size]), 64),
        ] {
            assert!(told.contains(size) && told.contains(why), "{size}: {told}");
        }
    }
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q"])), "grown\n");
    assert_eq!(world(&machine), before);
    all_is_well(&daemon);
}

/// Gives the machine a data folder on a small disk of its own.
fn small_disk(machine: &Machine, mebibytes: u32) {
    let data = machine.folder().join("kato").display().to_string();
    done(
        &machine.shell(&format!(
            "mkdir -m 700 {data} && mount -t tmpfs -o mode=700,size={mebibytes}m tmpfs {data}"
        )),
    );
}

/// Takes all that is left of it.
fn fill(machine: &Machine) {
    let data = machine.folder().join("kato").display().to_string();
    let ended = machine.shell(&format!("cat /dev/zero > {data}/ballast"));
    assert!(err(&ended).contains("No space left"), "{}", err(&ended));
}

#[test]
fn a_full_data_folder_refuses_what_needs_room_and_leaves_nothing_half_made() {
    let machine = Machine::start();
    small_disk(&machine, 320);
    let daemon = Daemon::start_with(&machine, AT_ONCE);
    let wire = door(&daemon);
    done(&daemon.kato(&["volume", "create", "db"]));
    let path =
        wire.done("Mount", json!({ "Name": "db", "ID": "one" }))["Mountpoint"].as_str().unwrap().to_owned();
    done(&machine.shell(&format!("head -c 150M /dev/zero > {path}/large")));
    wire.done("Unmount", json!({ "Name": "db", "ID": "one" }));
    until("the mount to be taken down", || {
        (!world(&machine).iter().any(|line| line.contains("/mnt/"))).then_some(())
    });
    let before = world(&machine);
    let tell_of_room = |words: &str, name: &str| {
        assert!(
            words.contains(name)
                && (words.contains("full") || words.contains("room") || words.contains("space")),
            "{words}"
        );
    };
    // An image that does not fit.
    let options = json!({ "class": "ext4", "size": "1GiB" });
    tell_of_room(&refused(&wire.call("Create", json!({ "Name": "image", "Opts": options }))), "image");
    tell_of_room(
        &failed(&daemon.kato(&["volume", "create", "image", "--class", "ext4", "--size", "1GiB"]), 75),
        "image",
    );
    // A copy that does not fit.
    tell_of_room(&failed(&daemon.kato(&["volume", "create", "copy", "--from-volume", "db"]), 75), "copy");
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q"])), "db\n");
    assert_eq!(world(&machine), before);
    all_is_well(&daemon);

    // Somebody takes all that is left: nothing new is recorded, and what is there can go.
    let data = machine.folder().join("kato").display().to_string();
    fill(&machine);
    tell_of_room(&failed(&daemon.kato(&["volume", "create", "new"]), 75), "new");
    tell_of_room(&refused(&wire.call("Create", json!({ "Name": "new", "Opts": {} }))), "new");
    assert_eq!(world(&machine), before);
    done(&daemon.kato(&["volume", "rm", "db"]));
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q"])), "");
    done(&machine.shell(&format!("rm {data}/ballast")));
    done(&daemon.kato(&["volume", "create", "new"]));
    all_is_well(&daemon);
}

#[test]
fn a_filesystem_that_finds_no_room_is_not_mounted_and_goes_without_a_trace() {
    let machine = Machine::start();
    small_disk(&machine, 200);
    let thin = "[class.thin]\nbackend = \"local\"\nparameters = { kind = \"image\", thin = \"true\" }\n";
    let daemon = Daemon::start_with(&machine, &format!("{AT_ONCE}{thin}"));
    let wire = door(&daemon);
    done(&daemon.kato(&["volume", "create", "first"]));
    let before = world(&machine);
    let made = daemon.kato(&["volume", "create", "thin", "--class", "thin", "--size", "64MiB"]);
    assert!(made.status.success(), "{}", err(&made));
    let data = machine.folder().join("kato").display().to_string();
    fill(&machine);
    let words = refused(&wire.call("Mount", json!({ "Name": "thin", "ID": "one" })));
    assert!(words.contains("thin"), "{words}");
    done(&machine.shell(&format!("rm {data}/ballast")));
    let path =
        wire.done("Mount", json!({ "Name": "thin", "ID": "one" }))["Mountpoint"].as_str().unwrap().to_owned();
    done(&machine.shell(&format!("echo bytes > {path}/file && sync {path}/file")));
    wire.done("Unmount", json!({ "Name": "thin", "ID": "one" }));
    done(&daemon.kato(&["volume", "rm", "thin"]));
    assert_eq!(world(&machine), before);
    all_is_well(&daemon);
}

#[test]
fn a_missing_mkfs_is_named_with_its_package_and_leaves_the_volume_for_later() {
    let machine = Machine::start();
    let folder = machine.folder().display().to_string();
    done(&machine.shell(&format!(
        "mkdir {folder}/sbin && cp -a /usr/sbin/. {folder}/sbin && rm -f {folder}/sbin/mkfs.ext4 {folder}/sbin/mke2fs \
         && mount --bind {folder}/sbin /usr/sbin"
    )));
    let daemon = Daemon::start_with(&machine, AT_ONCE);
    let wire = door(&daemon);
    let made = daemon.kato(&["volume", "create", "db", "--class", "ext4", "--size", "64MiB"]);
    assert!(made.status.success(), "{}", err(&made));
    let before = world(&machine);
    let words = refused(&wire.call("Mount", json!({ "Name": "db", "ID": "one" })));
    for word in ["db", "mkfs.ext4", "e2fsprogs"] {
        assert!(words.contains(word), "{words}");
    }
    until("the device to be taken away", || (world(&machine) == before).then_some(()));
    let held = wire.done("Get", json!({ "Name": "db" }))["Volume"]["Status"]["holders"].clone();
    assert_eq!(held, json!([]), "who was told of a failure holds nothing");
    all_is_well(&daemon);
    done(&machine.shell("umount /usr/sbin"));
    wire.done("Mount", json!({ "Name": "db", "ID": "one" }));
    wire.done("Unmount", json!({ "Name": "db", "ID": "one" }));
}

fn admin(machine: &Machine) -> UnixStream {
    let stream = UnixStream::connect(machine.path("/run/kato/admin.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

#[test]
fn whoever_sends_slowly_keeps_nobody_out_of_the_admin_door() {
    let machine = Machine::start();
    let daemon = Daemon::start_with(&machine, "[limits]\nrequests = 2\n");
    let mut slow = Vec::new();
    for number in 0..20 {
        let mut stream = admin(&machine);
        let head = match number % 3 {
            0 => "POST /v1/volumes HTTP/1.1\r\nHost: kato\r\nContent-Le",
            1 => "POST /v1/volumes HTTP/1.1\r\nHost: kato\r\nContent-Length: 100\r\n\r\n{\"name\"",
            _ => "POST /v1/plugins HTTP/1.1\r\nHost: kato\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        };
        stream.write_all(head.as_bytes()).unwrap();
        slow.push(stream);
    }
    done(&daemon.kato(&["volume", "create", "db"]));
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q"])), "db\n");
    let answer = |number: usize| wire::read(&mut BufReader::new(slow[number].try_clone().unwrap()));
    // Who does not send the rest is not waited for.
    let late = answer(1).unwrap().unwrap();
    assert_eq!(late.word(), "400", "{late:?}");
    assert!(late.json()["detail"].as_str().unwrap().contains("did not arrive within 10 s"), "{late:?}");
    // Components are large, and two of them may come at once, whichever are heard first: the other four were told
    // so by now, and those two are still waited for.
    let answers = (2..20).step_by(3).map(|number| {
        slow[number].set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        answer(number)
    });
    let refused = answers.filter(|answer| matches!(answer, Ok(Some(answer)) if answer.word() == "503"));
    assert_eq!(refused.count(), 4);
}

#[test]
fn a_gigabyte_is_refused_at_the_admin_door_and_never_kept() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let peak = || -> u64 {
        let status =
            fs::read_to_string(Path::new("/proc").join(daemon.pid().to_string()).join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    };
    done(&daemon.kato(&["volume", "ls"]));
    let before = peak();
    for path in ["/v1/volumes", "/v1/plugins", "/v1/config/reload"] {
        // What says how long it is is refused before it is sent.
        let mut stream = admin(&machine);
        stream
            .write_all(
                format!("POST {path} HTTP/1.1\r\nHost: kato\r\nContent-Length: 1073741824\r\n\r\n")
                    .as_bytes(),
            )
            .unwrap();
        let answer = wire::read(&mut BufReader::new(stream)).unwrap().unwrap();
        assert_eq!(answer.word(), "422", "{path}: {answer:?}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("is larger than"), "{answer:?}");
    }
    // What does not say is read to the limit and no further: the connection ends long before the gigabyte does.
    let mut stream = admin(&machine);
    stream
        .write_all(b"POST /v1/volumes HTTP/1.1\r\nHost: kato\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    let sent = (0..1024).find(|_| match stream.write_all(&chunk) {
        Ok(()) => false,
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => true,
        Err(error) => panic!("{error}"),
    });
    assert!(sent.is_some_and(|sent| sent < 64), "{sent:?} MiB were taken");
    assert!(peak() - before < 32 << 10, "{before} KiB grew to {} KiB", peak());
    done(&daemon.kato(&["volume", "create", "db"]));
}

#[test]
fn a_stop_tells_whoever_waits_and_does_not_wait_with_them() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    let wire = door(&daemon);
    done(&daemon.kato(&["volume", "create", "before"]));
    // The backend's folder is away: what needs it is tried again until its caller gives up, in two minutes.
    let volumes = machine.folder().join("kato/volumes");
    fs::rename(&volumes, machine.folder().join("away")).unwrap();
    let asked = thread::spawn(move || {
        let begun = Instant::now();
        let request = wire::request("/VolumeDriver.Mount", "{\"Name\":\"db\",\"ID\":\"one\"}");
        (wire.say(request.as_bytes()), begun.elapsed())
    });
    until("the wish to be recorded", || {
        done(&daemon.kato(&["volume", "ls", "-q"])).contains("db").then_some(())
    });
    let begun = Instant::now();
    daemon.stop();
    let stopped = begun.elapsed();
    assert!(stopped < Duration::from_secs(15), "the stop took {stopped:?}: {}", daemon.log());
    let (answer, waited) = asked.join().unwrap();
    assert!(waited < Duration::from_secs(60), "it waited for {waited:?}");
    let words = refused(&answer.unwrap().expect("an answer").json());
    assert!(words.contains("stopping") && words.contains("db"), "{words}");
    // The wish is not forgotten.
    fs::rename(machine.folder().join("away"), &volumes).unwrap();
    daemon.start_again();
    let wire = door(&daemon);
    wire.done("Mount", json!({ "Name": "db", "ID": "one" }));
    wire.done("Unmount", json!({ "Name": "db", "ID": "one" }));
}

#[test]
fn a_stop_does_not_wait_for_a_plugin_that_hangs_in_the_middle_of_its_work() {
    let machine = Machine::start();
    let file = machine.folder().join("hostile.wasm");
    fs::write(&file, crate::sandbox::component()).unwrap();
    let sections = format!(
        "[backend.slow]\nplugin = \"{}\"\n[backend.slow.configuration]\nbehave = \"wait\"\n\
         [backend.slow.grants]\ndirectories = {{ data = \"{}\" }}\n[backend.slow.limits]\nwall = \"2m\"\n\
         [class.slow]\nbackend = \"slow\"\n",
        file.display(),
        machine.folder().display()
    );
    let mut daemon = Daemon::start_with(&machine, &sections);
    let wire = door(&daemon);
    let asked = thread::spawn(move || {
        let body = json!({ "Name": "db", "Opts": { "class": "slow" } }).to_string();
        wire.ask("/VolumeDriver.Create", &body).unwrap().expect("an answer").json()
    });
    until("the plugin to be at work", || {
        let page = machine.shell("curl -s --unix-socket /run/kato/admin.sock http://kato/metrics");
        let asked =
            |line: &str| ["kato_plugin_calls_total", "slow", "create"].iter().all(|word| line.contains(word));
        super::out(&page).lines().any(asked).then_some(())
    });
    let begun = Instant::now();
    daemon.stop();
    let stopped = begun.elapsed();
    assert!(stopped < Duration::from_secs(10), "the stop took {stopped:?}: {}", daemon.log());
    assert!(daemon.log().contains("left for the next start"), "{}", daemon.log());
    assert!(refused(&asked.join().unwrap()).contains("stopping"));
    // The wish is not forgotten, and can be taken back.
    daemon.start_again();
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q"])), "db\n");
}
