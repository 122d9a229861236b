//! The contract of the commands: exit codes, what is printed where, and in which form.

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Read, Write},
    net::Shutdown,
    os::unix::net::UnixListener,
    process::{Child, ChildStdout, Stdio},
    thread,
};

use kato_tests::{daemon::Daemon, machine::Machine};
use serde_json::Value;

use super::{command, done, err, failed, kato, out, text};

fn json(output: &std::process::Output) -> Value {
    serde_json::from_str(&done(output)).unwrap()
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_64() {
    for words in [
        &["volume", "explode"][..],
        &["--output", "pdf", "volume", "ls"],
        &["volume", "create"],
        &["recover"],
        &["help", "nothing"],
        &["--timeout", "soon", "volume", "ls"],
    ] {
        let told = failed(&kato(words), 64);
        assert!(!told.is_empty(), "{words:?}");
    }
    done(&kato(&["--help"]));
    done(&kato(&["volume", "create", "--help"]));
    assert!(done(&kato(&["--version"])).starts_with("kato "));
    assert!(done(&kato(&["help", "exit-codes"])).contains("64  the command line"));
    assert!(done(&kato(&["help", "volume", "rm"])).contains("--forget"));
}

#[test]
fn a_daemon_that_is_not_there_ends_with_69_and_says_how_to_start_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let told = failed(&kato(&["--socket", text(&socket), "volume", "ls"]), 69);
    assert!(told.contains(text(&socket)) && told.contains("systemctl start kato"), "{told}");
    // A stale socket, behind which nobody listens any more.
    drop(UnixListener::bind(&socket).unwrap());
    failed(&kato(&["--socket", text(&socket), "volume", "ls"]), 69);
}

#[test]
fn a_daemon_that_dies_while_it_is_asked_and_one_that_is_no_daemon_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let answers = thread::spawn(move || {
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"] {
            let mut stream = listener.accept().unwrap().0;
            let mut asked = [0; 64];
            assert!(stream.read(&mut asked).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Both).ok();
        }
    });
    let cut = failed(&kato(&["--socket", text(&socket), "volume", "ls"]), 69);
    assert!(cut.contains("may or may not have been heard"), "{cut}");
    let strange = failed(&kato(&["--socket", text(&socket), "volume", "ls"]), 1);
    assert!(strange.contains("no Káto daemon"), "{strange}");
    answers.join().unwrap();
}

#[test]
fn completion_scripts_are_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = done(&kato(&["completion", shell]));
        assert!(script.contains("KATO_COMPLETE") && script.contains("kato"), "{shell}: {script}");
    }
    failed(&kato(&["completion", "cmd"]), 64);
}

#[test]
fn names_are_completed_from_the_daemon_and_nothing_is_when_it_is_away() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    for name in ["database", "data-2", "web"] {
        done(&daemon.kato(&["volume", "create", name]));
    }
    let complete = || {
        let script = "source <(\"$1\" completion bash); COMP_WORDS=(kato volume rm da); COMP_CWORD=3; COMP_TYPE=9; \
                      _clap_complete_kato kato da rm 2>/dev/null; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let binary = kato_tests::daemon::binary();
        let path = binary.parent().unwrap();
        let output = machine
            .command("bash")
            .args(["-c", script, "bash", text(&binary)])
            .env("PATH", format!("{}:/usr/bin:/bin", path.display()))
            .env("KATO_SOCKET", "/run/kato/admin.sock")
            .output()
            .unwrap();
        let mut words: Vec<String> = out(&output).lines().map(|line| line.trim().to_owned()).collect();
        words.retain(|word| !word.is_empty() && !word.starts_with('-'));
        words.sort();
        words
    };
    assert_eq!(complete(), ["data-2", "database"]);
    daemon.stop();
    assert_eq!(complete(), Vec::<String>::new());
}

#[test]
fn a_volume_is_printed_as_a_table_as_json_as_yaml_and_as_a_name() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    assert_eq!(done(&daemon.kato(&["volume", "ls"])).lines().count(), 1);
    assert_eq!(done(&daemon.kato(&["volume", "ls", "--no-headers"])), "");
    assert_eq!(json(&daemon.kato(&["volume", "ls", "-o", "json"])), serde_json::json!([]));

    let create = ["volume", "create", "db", "--class", "ext4", "--size", "64MiB", "--label", "app=web"];
    assert_eq!(done(&daemon.kato(&create)), "db\n");
    assert_eq!(done(&daemon.kato(&create)), "db\n", "asking again finds it");
    let volume = json(&daemon.kato(&["volume", "inspect", "db", "-o", "json"]));
    assert_eq!(volume["name"], "db");
    assert_eq!(volume["state"], "ready");
    assert_eq!(volume["size_bytes"], 64 << 20);
    assert_eq!(volume["class"], "ext4");
    assert_eq!(volume["labels"]["app"], "web");
    assert_eq!(volume["holders"], serde_json::json!([]));
    for field in ["id", "created", "backend", "fs", "fs_state", "handle"] {
        assert!(volume[field].is_string(), "{field}: {volume}");
    }

    let table = done(&daemon.kato(&["volume", "ls"]));
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "STATE", "SIZE", "CLASS", "BACKEND", "HOLDERS", "CREATED"]);
    assert_eq!(lines[1][..6], ["db", "ready", "64MiB", "ext4", "local", "0"]);
    assert!(done(&daemon.kato(&["volume", "ls", "-o", "wide"])).contains("app=web"));
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q"])), "db\n");
    assert!(done(&daemon.kato(&["volume", "inspect", "db", "-o", "yaml"])).contains("\nname: db\n"));
    let listed = json(&daemon.kato(&["volume", "ls", "-o", "json", "--filter", "label=app=web"]));
    assert_eq!(listed, serde_json::json!([volume]));
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q", "--filter", "state=lost"])), "");
}

#[test]
fn every_failure_has_its_code_and_its_words() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    done(&daemon.kato(&["volume", "create", "db", "--class", "ext4", "--size", "64MiB"]));

    let missing = failed(&daemon.kato(&["volume", "inspect", "nope"]), 3);
    assert!(missing.contains("nope") && missing.contains("kato volume ls"), "{missing}");
    failed(&daemon.kato(&["volume", "rm", "nope"]), 3);
    failed(&daemon.kato(&["class", "inspect", "nope"]), 3);
    failed(&daemon.kato(&["backend", "inspect", "nope"]), 3);
    failed(&daemon.kato(&["plugin", "inspect", "nope"]), 3);
    done(&daemon.kato(&["volume", "rm", "nope", "--ignore-missing"]));

    let other = failed(&daemon.kato(&["volume", "create", "db", "--class", "ext4", "--size", "128MiB"]), 4);
    assert!(other.contains("db"), "{other}");
    failed(&daemon.kato(&["volume", "create", "x", "--size", "much"]), 64);
    failed(&daemon.kato(&["volume", "create", "x", "--label", "novalue"]), 64);
    failed(&daemon.kato(&["volume", "ls", "--filter", "colour=red"]), 64);

    let part = daemon.kato(&["volume", "inspect", "db", "nope", "-q"]);
    assert_eq!(part.status.code(), Some(6), "{}", err(&part));
    assert_eq!(out(&part), "db\n");
    assert!(err(&part).contains("nope"));

    assert_eq!(done(&daemon.kato(&["volume", "grow", "db", "96MiB"])), "db\n");
    let why = done(&daemon.kato(&["volume", "why", "db"]));
    assert!(why.starts_with("db is ready, 96MiB\n") && why.contains("Nobody holds it."), "{why}");
    assert_eq!(done(&daemon.kato(&["volume", "rm", "db"])), "db\n");
}

#[test]
fn names_that_are_no_path_and_no_word_go_there_and_back() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    for name in ["a/../b", "with space", "per%cent?#&", "ünïcode 🦀", "-dash"] {
        done(&daemon.kato(&["volume", "create", "--", name]));
        let volume = json(&daemon.kato(&["volume", "inspect", "-o", "json", "--", name]));
        assert_eq!(volume["name"], *name);
        done(&daemon.kato(&["volume", "rm", "--", name]));
    }
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q"])), "");
}

/// Somebody who watches a list until the test ends.
struct Watcher {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    noun: &'static str,
}

impl Watcher {
    fn start(machine: &Machine, noun: &'static str, further: &[&str]) -> Self {
        let mut process = machine
            .command(kato_tests::daemon::binary())
            .args(["--socket", "/run/kato/admin.sock", noun, "ls", "--watch", "-o", "json"])
            .args(further)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines, noun }
    }

    /// What happens next, and to what.
    fn next(&mut self) -> (String, String) {
        let event: Value = serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        (word(&event["event"]), word(&event[self.noun]["name"]))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_watcher_sees_what_is_there_and_what_comes_and_goes() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    done(&daemon.kato(&["volume", "create", "first"]));
    let mut watcher = Watcher::start(&machine, "volume", &[]);
    assert_eq!(watcher.next(), ("seen".into(), "first".into()));
    done(&daemon.kato(&["volume", "create", "second"]));
    assert_eq!(watcher.next(), ("seen".into(), "second".into()));
    done(&daemon.kato(&["volume", "rm", "first"]));
    loop {
        let event = watcher.next();
        if event == ("gone".into(), "first".into()) {
            break;
        }
        assert_eq!(event, ("seen".into(), "first".into()), "only its deleting may be seen before");
    }
}

#[test]
fn snapshots_are_watched_too_and_a_filter_says_which() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    // A name is a name, whatever it means elsewhere.
    for volume in ["watch", "web"] {
        done(&daemon.kato(&["volume", "create", volume]));
        done(&daemon.kato(&["snapshot", "create", volume, &format!("{volume}-1")]));
    }
    assert_eq!(json(&daemon.kato(&["volume", "inspect", "watch", "-o", "json"]))["name"], "watch");
    let mut watcher = Watcher::start(&machine, "snapshot", &["--filter", "volume=watch"]);
    assert_eq!(watcher.next(), ("seen".into(), "watch-1".into()));
    done(&daemon.kato(&["snapshot", "create", "web", "web-2"]));
    done(&daemon.kato(&["snapshot", "create", "watch", "watch-2"]));
    assert_eq!(
        watcher.next(),
        ("seen".into(), "watch-2".into()),
        "nobody asked for those of the other volume"
    );
    done(&daemon.kato(&["--yes", "snapshot", "rm", "watch-1"]));
    loop {
        match watcher.next() {
            (event, name) if name == "watch-1" && event == "gone" => break,
            (event, _) => assert_eq!(event, "seen", "only what it was on its way may be seen before"),
        }
    }
}

#[test]
fn what_is_configured_is_filtered_by_the_same_words_as_volumes_are() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let names = |words: &str| done(&daemon.kato(&words.split(' ').collect::<Vec<_>>()));
    assert_eq!(names("class ls -q --filter fs=xfs"), "xfs\n");
    assert_eq!(names("class ls -q --filter default=true --filter backend=local"), "default\n");
    assert_eq!(names("class ls -q -f name=e*"), "ext4\n");
    assert_eq!(names("backend ls -q --filter plugin=local --filter usable=true"), "local\n");
    assert_eq!(names("backend ls -q --filter ability=attachments"), "");
    assert_eq!(names("plugin ls -q --filter used-by=local"), "local\n");
    assert_eq!(names("plugin ls -q --filter origin=installed"), "");
    let told = failed(&daemon.kato(&["plugin", "ls", "--filter", "state=ready"]), 64);
    assert!(told.contains("name, origin, version"), "{told}");
}

#[test]
fn lists_are_filtered_and_a_wait_is_watched_to_its_end() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    for name in ["db", "web"] {
        done(&daemon.kato(&["volume", "create", name]));
        done(&daemon.kato(&[
            "snapshot",
            "create",
            name,
            &format!("{name}-1"),
            "--label",
            &format!("of={name}"),
        ]));
    }
    let snapshots = |filters: &[&str]| done(&daemon.kato(&[&["snapshot", "ls", "-q"], filters].concat()));
    assert_eq!(snapshots(&[]), "db-1\nweb-1\n");
    assert_eq!(snapshots(&["--filter", "volume=db"]), "db-1\n");
    assert_eq!(snapshots(&["--filter", "name=w*", "--filter", "state=ready"]), "web-1\n");
    assert_eq!(snapshots(&["--filter", "label=of=db", "--filter", "name=w*"]), "");
    let told = failed(&daemon.kato(&["snapshot", "ls", "--filter", "used=true"]), 64);
    assert!(told.contains("state, volume, class"), "{told}");
    assert_eq!(done(&daemon.kato(&["node", "ls", "-q"])), "here\n");
    assert!(done(&daemon.kato(&["node", "ls"])).starts_with("NAME"));
    let watched = done(&daemon.kato(&["volume", "why", "db", "--watch"]));
    assert_eq!(watched.matches("It waits for nothing.").count(), 1, "{watched}");
    failed(&daemon.kato(&["volume", "why", "nobody", "--watch"]), 3);
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let mut child =
        command(&["config", "default"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(told, "");
}

#[test]
fn a_plugin_is_installed_used_and_kept_while_a_backend_is_made_of_it() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    let file = machine.folder().join("mine.wasm");
    let mut component = kato_plugin_host::embedded::component("local").unwrap().to_vec();
    // A custom section more makes another component of it, with another digest.
    component.extend_from_slice(&[0, 5, 4, b'm', b'i', b'n', b'e']);
    fs::write(&file, &component).unwrap();

    let looked = json(&daemon.kato(&["plugin", "inspect", text(&file), "-o", "json"]));
    let digest = looked["digest"].as_str().unwrap().to_owned();
    assert_eq!(looked["asks"]["directories"], serde_json::json!(["data"]));
    done(&daemon.kato(&["plugin", "install", text(&file)]));
    done(&daemon.kato(&["plugin", "install", text(&file)]));
    let listed = json(&daemon.kato(&["plugin", "ls", "-o", "json"]));
    let installed: Vec<&Value> =
        listed.as_array().unwrap().iter().filter(|plugin| plugin["origin"] == "installed").collect();
    assert_eq!(installed.len(), 1);
    assert_eq!(installed[0]["digest"], digest.as_str());

    let data = machine.folder().join("mine");
    fs::create_dir(&data).unwrap();
    let sections = format!(
        "[backend.mine]\nplugin = \"sha256:{digest}\"\n[backend.mine.grants]\ndirectories = {{ data = \"{}\" }}\n\
         connections = {{ directory = true }}\n[class.mine]\nbackend = \"mine\"\n",
        data.display()
    );
    append(&machine, &sections);
    let told = done(&daemon.kato(&["config", "reload"]));
    assert!(told.contains("class.mine.backend is in force"), "{told}");
    done(&daemon.kato(&["volume", "create", "in-mine", "--class", "mine"]));
    assert!(fs::read_dir(&data).unwrap().next().is_some(), "the volume is in the granted folder");
    let shown = json(&daemon.kato(&["plugin", "inspect", &digest, "-o", "json"]));
    assert_eq!(shown["used_by"], serde_json::json!(["mine"]));
    let powers = shown["powers"]["mine"].as_array().unwrap();
    let power = |name: &str| powers.iter().find(|power| power["name"] == name).unwrap().clone();
    assert_eq!(power("data")["effective"], true);
    assert_eq!(power("file")["effective"], false);
    let refused = failed(&daemon.kato(&["plugin", "remove", &digest]), 4);
    assert!(refused.contains("mine"), "{refused}");

    daemon.stop();
    daemon.start_again();
    done(&daemon.kato(&["volume", "rm", "in-mine"]));
    let not = machine.folder().join("not.wasm");
    fs::write(&not, "#!/bin/sh").unwrap();
    failed(&daemon.kato(&["plugin", "install", text(&not)]), 64);
}

#[test]
fn a_reload_takes_classes_and_tells_what_needs_a_restart_and_mistakes_change_nothing() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    assert_eq!(done(&daemon.kato(&["config", "reload"])), "Nothing has changed.\n");
    append(&machine, "[limits]\nwait = \"1m\"\n[class.fast]\ndefault-size = \"2GiB\"\n");
    let told = done(&daemon.kato(&["config", "reload"]));
    assert!(told.contains("class.fast.default-size is in force"), "{told}");
    assert!(told.contains("limits.wait has changed and needs a restart"), "{told}");
    assert!(done(&daemon.kato(&["class", "ls", "-q"])).contains("fast\n"));
    let again = done(&daemon.kato(&["config", "reload"]));
    assert!(again.contains("limits.wait") && !again.contains("class.fast"), "{again}");

    append(&machine, "[class.broken]\nbackend = \"nowhere\"\n");
    let refused = daemon.kato(&["--socket", "/run/kato/admin.sock", "config", "reload"]);
    assert!(failed(&refused, 64).contains("nowhere"), "{}", err(&refused));
    let classes = daemon.kato(&["--socket", "/run/kato/admin.sock", "class", "ls", "-q"]);
    assert!(!done(&classes).contains("broken"));
}

/// Writes more into the daemon's configuration.
fn append(machine: &Machine, sections: &str) {
    let file = machine.folder().join("kato.toml");
    let config = fs::read_to_string(&file).unwrap() + sections;
    fs::write(file, config).unwrap();
}
