//! Our program in dvdcli's place, run as a Mesos agent's `docker/volume` isolator runs dvdcli: every word an
//! argument, nothing to read, and of the answer the exit code, standard output without its blanks, and standard error when
//! it failed. dvdcli itself can no longer be had; what it asks of a driver is checked against a driver of
//! the test's, byte for byte where a driver would notice.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use kato_tests::{
    daemon::{Daemon, binary},
    machine::Machine,
};
use serde_json::{Value, json};

use super::{
    holders,
    wire::{Plugin, Reply},
};

/// An agent that found dvdcli.
struct Agent<'m> {
    machine: &'m Machine,
    program: PathBuf,
    before: &'static [&'static str],
}

impl<'m> Agent<'m> {
    /// It found a link of that name.
    fn by_link(machine: &'m Machine) -> Self {
        let program = machine.folder().join("dvdcli");
        symlink(binary(), &program).unwrap();
        Self { machine, program, before: &[] }
    }

    /// A script of the operator's stands between.
    fn by_word(machine: &'m Machine) -> Self {
        Self { machine, program: binary(), before: &["dvdcli"] }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.machine.command(&self.program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(self.before).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What a task gets to see: the path, or why there is none.
    fn mount(&self, driver: &str, name: &str, options: &[(&str, &str)]) -> Result<String, String> {
        let mut words =
            vec!["mount".to_owned(), format!("--volumedriver={driver}"), format!("--volumename={name}")];
        words.extend(options.iter().map(|(key, value)| format!("--volumeopts={key}={value}")));
        self.answer(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn unmount(&self, driver: &str, name: &str) -> Result<(), String> {
        self.verb("unmount", driver, name).map(|told| assert_eq!(told, ""))
    }

    fn verb(&self, verb: &str, driver: &str, name: &str) -> Result<String, String> {
        self.answer(&[verb, &format!("--volumedriver={driver}"), &format!("--volumename={name}")])
    }

    fn answer(&self, words: &[&str]) -> Result<String, String> {
        read(&self.run(words))
    }
}

/// What an agent makes of an end.
fn read(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    if output.status.success() {
        return Ok(text(&output.stdout).trim().to_owned());
    }
    assert_eq!(text(&output.stdout), "", "what failed has no data");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    Err(text(&output.stderr))
}

#[test]
fn an_agent_mounts_at_every_start_of_a_task_and_unmounts_once() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    for (agent, name) in [(Agent::by_link(&machine), "cluster-mongodb"), (Agent::by_word(&machine), "other")]
    {
        let path = agent.mount("kato", name, &[("size", "1"), ("newFsType", "ext4")]).unwrap();
        assert!(Path::new(&path).is_absolute() && machine.path(&path).is_dir(), "{path}");
        fs::write(machine.path(&path).join("file"), "bytes").unwrap();
        // Options are for the making alone, and each task says them again.
        for _ in 0..2 {
            assert_eq!(agent.mount("kato", name, &[("size", "1")]).as_deref(), Ok(path.as_str()));
        }
        daemon.kill();
        daemon.start_again();
        assert_eq!(agent.mount("kato", name, &[]).as_deref(), Ok(path.as_str()));
        let counts: Vec<u64> = holders(&wire, name).iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [1]);
        assert_eq!(agent.verb("path", "kato", name).as_deref(), Ok(path.as_str()));
        assert_eq!(agent.verb("get", "kato", name).as_deref(), Ok(name));
        assert_eq!(agent.answer(&["list", "--volumedriver=kato"]).as_deref(), Ok(name));
        // A task of Mesos never pulls the disk from under a container of Docker.
        wire.done("Mount", json!({"Name": name, "ID": "c0ffee"}));
        agent.unmount("kato", name).unwrap();
        assert_eq!(holders(&wire, name), [("c0ffee".to_owned(), 1)]);
        assert!(machine.path(&path).join("file").exists());
        wire.done("Unmount", json!({"Name": name, "ID": "c0ffee"}));
        // An agent that restarts gives back what its dead tasks had, whether or not it did so before it died; it keeps
        // asking until it hears that it is done, also for what somebody removed meanwhile.
        agent.unmount("kato", name).unwrap();
        assert_eq!(agent.verb("path", "kato", name).as_deref(), Ok(""));
        agent.verb("remove", "kato", name).unwrap();
        let output = agent.run(&["unmount", "--volumedriver=kato", &format!("--volumename={name}")]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("nothing to unmount"), "{told}");
        let gone = agent.verb("get", "kato", name).unwrap_err();
        assert!(gone.contains("level=error") && gone.contains(name), "{gone}");
    }
}

#[test]
fn what_goes_wrong_is_told_on_standard_error_and_nothing_is_left_over() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let wire = super::wire(&daemon);
    let agent = Agent::by_link(&machine);
    let refused = agent.mount("kato", "db", &[("size", "lots")]).unwrap_err();
    assert!(refused.contains("10GiB"), "{refused}");
    let refused = agent.mount("kato", "db", &[("sise", "1")]).unwrap_err();
    assert!(refused.contains("did you mean"), "{refused}");
    let explicit = |word: &str| {
        agent.answer(&["mount", "--volumedriver", "kato", "--volumename", "db", word]).map_err(|told| {
            assert!(told.contains("db"), "{told}");
        })
    };
    assert_eq!(explicit("--explicitcreate=true"), Err(()));
    assert_eq!(explicit("--explicitcreate"), Err(()));
    for (words, told) in [
        (&["mount", "--volumename=db"][..], "volumedriver"),
        (&["mount", "--volumedriver=kato"], "volumename"),
        (&["mount", "--volumedriver=kato", "--volumename=db", "--volumeopts=size"], "KEY=VALUE"),
        (&["mount", "--volumedriver=kato", "--volumename=../db"], "not allowed"),
    ] {
        let words = agent.answer(words).unwrap_err();
        assert!(words.contains(told), "{words}");
    }
    assert_eq!(wire.done("List", json!({}))["Volumes"], json!([]));

    // Two options in one word, and one with a second sign of equality.
    let create = "--volumeopts=size=64MiB,class=ext4";
    let made =
        agent.run(&["create", "--volumedriver=kato", "--volumename=db", create, "--volumeopts=label=a=b"]);
    assert_eq!(read(&made).as_deref(), Ok(""));
    assert!(String::from_utf8_lossy(&made.stderr).contains("msg=db"));
    assert_eq!(super::inspect(&wire, "db")["Status"]["labels"], json!({"a": "b"}));
    assert_eq!(holders(&wire, "db"), []);
    assert!(explicit("--explicitcreate").unwrap().starts_with('/'));
    agent.verb("remove", "kato", "db").unwrap_err();
    agent.unmount("kato", "db").unwrap();
    agent.verb("remove", "kato", "db").unwrap();
}

#[test]
fn it_explains_itself_and_refuses_what_dvdcli_does_not_know() {
    let machine = Machine::start();
    let link = Agent::by_link(&machine);
    for agent in [&link, &Agent::by_word(&machine)] {
        let version = agent.answer(&["version"]).unwrap();
        let titles: Vec<&str> = version.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(titles, ["Binary", "SemVer", "OsArch", "Branch", "Commit", "Formed"]);
        assert!(version.contains("\nSemVer: 0.2.1"), "{version}");
        for words in [&["help"][..], &["--help"], &["help", "mount"], &["unmount", "--help"]] {
            assert!(agent.answer(words).unwrap().contains("--volumedriver"), "{words:?}");
        }
        for words in [&["attach"][..], &["mount", "--containerid=x"], &["mount", "db"], &["help", "attach"]] {
            let output = agent.run(words);
            assert_eq!((output.status.code(), output.stdout.len()), (Some(64), 0), "{words:?}");
            assert!(!output.stderr.is_empty(), "{words:?}");
        }
    }
    let bare = link.run(&[]);
    assert_eq!((bare.status.code(), bare.stdout.len()), (Some(0), 0));
    assert!(String::from_utf8_lossy(&bare.stderr).contains("unmount"));
}

#[test]
fn its_words_and_the_names_of_volumes_are_completed_under_its_own_name() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    assert!(daemon.kato(&["volume", "create", "database"]).status.success());
    let agent = Agent::by_link(&machine);
    let complete = |words: &str, last: &str| {
        let script = format!(
            "source <(\"$1\" completion bash); COMP_WORDS=(dvdcli {words} {last}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             COMP_TYPE=9; _clap_complete_dvdcli dvdcli {last} dvdcli 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = machine
            .command("bash")
            .args(["-c", &script, "bash"])
            .arg(binary())
            .env("PATH", format!("{}:/usr/bin:/bin", agent.program.parent().unwrap().display()))
            .env("KATO_SOCKET", "/run/kato/admin.sock")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete("", "unm"), "unmount");
    assert_eq!(complete("mount --volumename", "da"), "database");
}

/// A driver with one volume, whose mount is there once it was asked for.
fn fake(machine: &Machine, path: &str, volume: &'static str) -> Plugin {
    Plugin::serve(&machine.path(path), move |operation, request| {
        if operation != "List" && request["Name"] != volume {
            return Reply::Body(500, json!({"Err": "there is none"}).to_string());
        }
        match operation {
            "Get" => json!({"Volume": {"Name": volume}, "Err": ""}).into(),
            "List" => json!({"Volumes": [{"Name": volume}], "Err": ""}).into(),
            "Mount" | "Path" => json!({"Mountpoint": format!("/mnt/{volume}"), "Err": ""}).into(),
            _ => json!({"Err": ""}).into(),
        }
    })
}

/// What a driver was asked, in order.
fn asked(plugin: &Plugin) -> Vec<(String, Value)> {
    plugin.heard_all().iter().map(|message| (message.word().to_owned(), message.json())).collect()
}

#[test]
fn a_driver_hears_what_it_heard_from_dvdcli() {
    let machine = Machine::start();
    let there = fake(&machine, "/run/docker/plugins/there.sock", "db");
    let agent = Agent::by_link(&machine);
    let name = json!({"Name": "db"});
    let step = |operation: &str| (format!("/VolumeDriver.{operation}"), name.clone());
    let handshake = ("/Plugin.Activate".to_owned(), Value::Null);
    assert_eq!(agent.mount("there", "db", &[("size", "5")]).as_deref(), Ok("/mnt/db"));
    assert_eq!(agent.verb("path", "there", "db").as_deref(), Ok("/mnt/db"));
    agent.unmount("there", "db").unwrap();
    agent.verb("remove", "there", "db").unwrap();
    assert_eq!(agent.answer(&["list", "--volumedriver=there"]).as_deref(), Ok("db"));
    let expected = [
        &[handshake.clone(), step("Get"), step("Mount")][..],
        &[handshake.clone(), step("Get"), step("Path")],
        &[handshake.clone(), step("Get"), step("Unmount")],
        &[handshake.clone(), step("Get"), step("Remove")],
        &[handshake.clone(), ("/VolumeDriver.List".to_owned(), json!({}))],
    ];
    assert_eq!(asked(&there), expected.concat());
    for message in there.heard_all() {
        assert!(message.line.starts_with("POST ") && message.line.ends_with(" HTTP/1.1"), "{message:?}");
        assert_eq!(message.header("accept"), Some("application/vnd.docker.plugins.v1.2+json"));
    }

    // A volume that is not there is made with its options, and mounted; one that can not be made is not.
    let made = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&made);
    let absent =
        Plugin::serve(&machine.path("/run/docker/plugins/absent.sock"), move |operation, request| {
            match (operation, request["Name"].as_str()) {
                ("Get", _) => json!({"Volume": null}).into(),
                ("Create", Some("full")) => json!({"Err": "there is no room"}).into(),
                ("Create", _) => {
                    seen.fetch_add(1, Ordering::SeqCst);
                    json!({}).into()
                }
                ("Mount", Some("nowhere")) => json!({"Mountpoint": "", "Err": ""}).into(),
                ("Mount", _) => json!({"mountpoint": "/mnt/new"}).into(),
                _ => Reply::Body(404, "404 page not found".to_owned()),
            }
        });
    let options = [("size", "5"), ("a", "b,c=d")];
    assert_eq!(agent.mount("absent", "db", &options).as_deref(), Ok("/mnt/new"));
    let create = json!({"Name": "db", "Opts": {"size": "5", "a": "b", "c": "d"}});
    let expected = [handshake, step("Get"), ("/VolumeDriver.Create".to_owned(), create), step("Mount")];
    assert_eq!(asked(&absent), expected);
    assert!(agent.mount("absent", "full", &[]).unwrap_err().contains("there is no room"));
    assert_eq!(absent.operations("full"), ["Get", "Create"]);
    // Whatever stood here an agent would bind into the task.
    assert!(agent.mount("absent", "nowhere", &[]).unwrap_err().contains("no path"));
    assert_eq!(made.load(Ordering::SeqCst), 2);
    // Only the driver knows whether there is something to unmount; this one does not even know the question.
    assert!(agent.unmount("absent", "db").unwrap_err().contains("404"));
}

#[test]
fn any_driver_is_found_where_docker_looks_and_ours_where_it_is_configured() {
    let machine = Machine::start();
    // Beside the machine's own folder of plugins, which only this machine sees.
    let furnished = machine.shell("mount -t tmpfs tmpfs /etc/docker && mkdir -p /etc/docker/plugins /run/x");
    assert!(furnished.status.success(), "{}", String::from_utf8_lossy(&furnished.stderr));
    let agent = Agent::by_link(&machine);
    let spec =
        |name: &str, text: &str| fs::write(machine.path("/etc/docker/plugins").join(name), text).unwrap();
    let plain = fake(&machine, "/run/docker/plugins/plain.sock", "of-plain");
    fake(&machine, "/run/docker/plugins/folder/folder.sock", "of-folder");
    fake(&machine, "/run/x/unix.sock", "of-unix");
    spec("unix.spec", "unix:///run/x/unix.sock\n");
    spec("json.json", r#"{"Name": "ignored", "Addr": "unix:///run/x/unix.sock"}"#);
    let _socat = machine.spawn("socat", "socat.log", |command| {
        command.args(["TCP-LISTEN:7000,bind=127.0.0.1,reuseaddr,fork", "UNIX-CONNECT:/run/x/unix.sock"]);
    });
    spec("tcp.spec", "tcp://127.0.0.1:7000");
    // A socket comes before a file.
    spec("plain.spec", "unix:///run/x/unix.sock");
    for (driver, volume) in [
        ("plain", "of-plain"),
        ("folder", "of-folder"),
        ("unix", "of-unix"),
        ("json", "of-unix"),
        ("tcp", "of-unix"),
    ] {
        let list = agent.answer(&["list", &format!("--volumedriver={driver}")]);
        assert_eq!(list.as_deref(), Ok(volume), "{driver}");
    }
    assert_eq!(plain.operations(""), ["List"]);
    spec("secret.spec", "https://127.0.0.1:7000");
    let refused = agent.answer(&["list", "--volumedriver=secret"]).unwrap_err();
    assert!(refused.contains("TLS") && refused.contains("secret.spec"), "{refused}");

    // Ours, by the file that the agent's environment names, by a variable, and by a flag.
    fake(&machine, "/run/x/kato.sock", "of-ours");
    let file = machine.folder().join("elsewhere.toml");
    fs::write(&file, "[docker]\nsocket = \"/run/x/kato.sock\"\n").unwrap();
    let list = ["list", "--volumedriver=kato"];
    let by_file = agent.command(&list).env("KATO_CONFIG", &file).output().unwrap();
    let by_variable = agent.command(&list).env("KATO__DOCKER__SOCKET", "/run/x/kato.sock").output().unwrap();
    let mut words = vec!["--set", "docker.socket=/run/x/kato.sock", "dvdcli"];
    words.extend(list);
    let by_flag = machine.command(binary()).args(words).output().unwrap();
    for output in [by_file, by_variable, by_flag] {
        assert_eq!(read(&output).as_deref(), Ok("of-ours"));
    }
}

#[test]
fn a_driver_that_is_away_is_waited_for_and_never_taken_for_one_without_the_volume() {
    let machine = Machine::start();
    let agent = Agent::by_link(&machine);
    let mount = |driver: &str| {
        let words = ["mount", &format!("--volumedriver={driver}"), "--volumename=db"];
        agent.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mute = Plugin::serve(&machine.path("/run/docker/plugins/mute.sock"), |_, _| Reply::Close);
    let closed = AtomicUsize::new(0);
    let clumsy = Plugin::serve(&machine.path("/run/docker/plugins/clumsy.sock"), move |operation, _| {
        match operation {
            "Get" => json!({"Volume": {"Name": "db"}}).into(),
            // It is killed and started again over the first.
            _ if closed.fetch_add(1, Ordering::SeqCst) == 0 => Reply::Close,
            _ => json!({"Mountpoint": "/mnt/db"}).into(),
        }
    });
    // All at once: each waits for what does not come.
    let waiting = ["never", "mute", "late", "clumsy"].map(mount);
    thread::sleep(Duration::from_millis(1500));
    let late = fake(&machine, "/run/docker/plugins/late.sock", "db");
    let [never, mute_told, late_told, clumsy_told] =
        waiting.map(|child| read(&child.wait_with_output().unwrap()));
    assert_eq!(late_told.as_deref(), Ok("/mnt/db"));
    assert_eq!(late.operations("db"), ["Get", "Mount"]);
    // What is asked again is asked whole.
    assert_eq!(clumsy_told.as_deref(), Ok("/mnt/db"));
    assert_eq!(clumsy.operations("db"), ["Get", "Mount", "Mount"]);
    let never = never.unwrap_err();
    assert!(never.contains("/run/docker/plugins/never.sock") && never.contains("trying again"), "{never}");
    let told = mute_told.unwrap_err();
    assert!(told.contains("did not answer"), "{told}");
    assert_eq!(mute.operations("db"), ["Get"; 5], "a volume may be there, so none is made");
}
