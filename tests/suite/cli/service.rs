//! What systemd is to the daemon: who starts it, hands it its sockets, hears how it is, and stops it.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use kato_tests::{
    daemon::{Daemon, binary},
    machine::{Machine, until},
};

use rustix::fs::XattrFlags;
use serde_json::json;

use super::{done, err, out, text};
use crate::docker::wire::Wire;

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/units")
}

#[test]
fn the_units_hide_no_mount_and_tie_no_knot_with_docker() {
    let unit = fs::read_to_string(units().join("kato.service")).unwrap();
    let settings: Vec<(&str, &str)> =
        unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect();
    let all = |key: &str| {
        settings.iter().filter(|(known, _)| *known == key).map(|(_, value)| *value).collect::<Vec<_>>()
    };
    for hides in [
        "PrivateTmp",
        "PrivateDevices",
        "PrivateMounts",
        "ProtectSystem",
        "ProtectHome",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
        "BindPaths",
        "BindReadOnlyPaths",
        "TemporaryFileSystem",
        "RootDirectory",
        "RootImage",
        "MountImages",
        "DynamicUser",
        "PrivateUsers",
        "MountFlags",
        "BindsTo",
        "PartOf",
        "LogNamespace",
    ] {
        assert_eq!(all(hides), Vec::<&str>::new(), "{hides}");
    }
    assert_eq!(all("Type"), ["notify"]);
    assert_eq!(all("KillMode"), ["process"]);
    assert_eq!(all("Before"), ["docker.service"]);
    assert_eq!(all("StateDirectoryMode"), ["0700"]);
    assert!(all("CapabilityBoundingSet")[0].contains("CAP_SYS_ADMIN"));
    assert!(all("CapabilityBoundingSet")[0].contains("CAP_SYS_RESOURCE"));
}

#[test]
fn the_capabilities_of_the_unit_are_enough_for_everything_that_is_copied() {
    let unit = fs::read_to_string(units().join("kato.service")).unwrap();
    let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let kept: Vec<String> =
        set.split_whitespace().map(|name| name.replace("CAP_", "+").to_lowercase()).collect();
    let machine = Machine::start();
    let config = machine.folder().join("kato.toml");
    let folder = machine.folder().display().to_string();
    fs::write(&config, format!("[folders]\ndata = \"{folder}/kato\"\n")).unwrap();
    let bounds = format!("-all,{}", kept.join(","));
    let mut process = machine.spawn("setpriv", "kato.log", |command| {
        command.args(["--bounding-set", &bounds, text(&binary()), "serve", "--config", text(&config)]);
    });
    let kato = |words: &str| done(&machine.shell(&format!("{} {words}", text(&binary()))));
    until("kato to serve", || machine.path("/run/docker/plugins/kato.sock").exists().then_some(()));
    let wire = Wire(machine.path("/run/docker/plugins/kato.sock"));
    let mount = |name: &str| {
        let answer = wire.done("Mount", json!({ "Name": name, "ID": "one" }));
        machine.path(answer["Mountpoint"].as_str().unwrap())
    };
    kato("volume create db --uid 70 --gid 70 --mode 0750");
    let path = mount("db");
    // A program that may bind low ports, as `setcap cap_net_bind_service+ep` makes one.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let noted = |path: &Path, name: &str| {
        let mut value = [0; 64];
        rustix::fs::getxattr(path, name, &mut value).map(|length| value[..length].to_vec())
    };
    let program = path.join("program");
    fs::write(&program, "bytes").unwrap();
    rustix::fs::setxattr(&program, "security.capability", &capability, XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&program, "trusted.note", b"kept", XattrFlags::empty()).unwrap();
    std::os::unix::fs::chown(&path, Some(70), Some(70)).unwrap();
    done(&machine.shell(&format!(
        "cd {0} && mknod null c 1 3 && mkfifo fifo && install -m 4755 -o 70 -g 71 /dev/null setuid",
        path.strip_prefix(machine.path("/")).map(|inside| format!("/{}", inside.display())).unwrap()
    )));
    wire.done("Unmount", json!({ "Name": "db", "ID": "one" }));
    kato("volume create copy --from-volume db");
    let copy = mount("copy");
    assert_eq!(noted(&copy.join("program"), "security.capability").unwrap(), capability);
    assert_eq!(noted(&copy.join("program"), "trusted.note").unwrap(), b"kept");
    let found = |name: &str| fs::symlink_metadata(copy.join(name)).unwrap();
    assert_eq!(
        (found("setuid").uid(), found("setuid").gid(), found("setuid").mode() & 0o7777),
        (70, 71, 0o4755)
    );
    assert!(found("null").file_type().is_char_device() && found("fifo").file_type().is_fifo());
    wire.done("Unmount", json!({ "Name": "copy", "ID": "one" }));
    for class in ["ext4", "xfs"] {
        kato(&format!("volume create {class} --class {class} --size 320MiB --uid 70 --mode 0700"));
        let path = mount(class);
        fs::write(path.join("file"), "bytes").unwrap();
        wire.done("Unmount", json!({ "Name": class, "ID": "one" }));
    }
    kato("doctor");
    assert!(process.stop().success(), "{}", process.log());
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    let machine = Machine::start();
    if machine.shell("command -v systemd-analyze").stdout.is_empty() {
        eprintln!("NOT TRIED: systemd-analyze is not installed");
        assert!(std::env::var_os("CI").is_none(), "CI has to have systemd-analyze");
        return;
    }
    // The program is where the unit expects it once it is installed; here it is put into the unit instead.
    let folder = machine.folder().join("units");
    fs::create_dir(&folder).unwrap();
    let service = fs::read_to_string(units().join("kato.service")).unwrap();
    fs::write(folder.join("kato.service"), service.replace("/usr/bin/kato", text(&binary()))).unwrap();
    fs::copy(units().join("kato-docker.socket"), folder.join("kato-docker.socket")).unwrap();
    let verified = machine
        .shell(&format!("systemd-analyze verify {0}/kato.service {0}/kato-docker.socket", folder.display()));
    assert_eq!((err(&verified), out(&verified)), (String::new(), String::new()));
}

#[test]
fn systemd_hears_when_the_daemon_is_ready_lives_and_stops() {
    let machine = Machine::start();
    let ear = UnixDatagram::bind(machine.folder().join("notify")).unwrap();
    ear.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let config = machine.folder().join("kato.toml");
    let folder = machine.folder().display();
    fs::write(&config, format!("[folders]\ndata = \"{folder}/kato\"\n")).unwrap();
    let mut process = machine.spawn(binary(), "kato.log", |command| {
        command.args(["serve", "--config", text(&config)]);
        command.env("NOTIFY_SOCKET", machine.folder().join("notify")).env("WATCHDOG_USEC", "400000");
    });
    let hear = |words: &str| {
        let mut heard = [0; 256];
        loop {
            let length =
                ear.recv(&mut heard).unwrap_or_else(|error| panic!("{words} was never heard: {error}"));
            if heard[..length].windows(words.len()).any(|window| window == words.as_bytes()) {
                return;
            }
        }
    };
    hear("READY=1");
    assert!(
        machine.path("/run/kato/admin.sock").exists()
            && machine.path("/run/docker/plugins/kato.sock").exists()
    );
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    let stopped = process.stop();
    hear("STOPPING=1");
    assert!(stopped.success(), "{}", process.log());
}

#[test]
fn a_socket_that_systemd_made_is_served_and_stays() {
    let machine = Machine::start();
    if machine.shell("command -v systemd-socket-activate").stdout.is_empty() {
        eprintln!("NOT TRIED: systemd-socket-activate is not installed");
        assert!(std::env::var_os("CI").is_none(), "CI has to have systemd-socket-activate");
        return;
    }
    let config = machine.folder().join("kato.toml");
    let folder = machine.folder().display();
    let socket = machine.folder().join("made-by-systemd.sock");
    // The configured place is another, so that only the passed socket can be the one that answers.
    fs::write(
        &config,
        format!("[folders]\ndata = \"{folder}/kato\"\n[docker]\nsocket = \"/run/nobody/kato.sock\"\n"),
    )
    .unwrap();
    let mut process = machine.spawn("systemd-socket-activate", "activate.log", |command| {
        command.args(["--listen", text(&socket), "--fdname=docker"]);
        command.arg(binary()).args(["serve", "--config", text(&config)]);
    });
    let answer = until("the passed socket to answer", || {
        let mut stream = UnixStream::connect(&socket).ok()?;
        stream.write_all(b"POST /Plugin.Activate HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    });
    assert!(answer.contains("VolumeDriver"), "{answer}");
    assert!(!machine.path("/run/nobody/kato.sock").exists());
    assert!(process.stop().success(), "{}", process.log());
    assert!(socket.exists(), "who made it takes it away");
}

#[test]
fn a_hangup_reads_the_configuration_again() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let config = machine.folder().join("kato.toml");
    fs::write(&config, fs::read_to_string(&config).unwrap() + "[class.later]\n").unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until("the new class", || {
        done(&daemon.kato(&["class", "ls", "-q"])).lines().any(|class| class == "later").then_some(())
    });
}

#[test]
fn a_stop_ends_well_and_the_next_start_knows_everything() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    done(&daemon.kato(&["volume", "create", "db", "--label", "a=b"]));
    let before = done(&daemon.kato(&["volume", "inspect", "db", "-o", "json"]));
    daemon.stop();
    assert!(machine.folder().join("kato/store/seal").exists(), "a planned stop closes the records");
    daemon.start_again();
    assert_eq!(done(&daemon.kato(&["volume", "inspect", "db", "-o", "json"])), before);
    daemon.kill();
    daemon.start_again();
    assert_eq!(done(&daemon.kato(&["volume", "inspect", "db", "-o", "json"])), before);
}

#[test]
fn the_metrics_have_the_names_and_buckets_that_dashboards_know() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    done(&daemon.kato(&["volume", "create", "db"]));
    let page = done(&machine.shell("curl -sf --unix-socket /run/kato/admin.sock http://kato/metrics"));
    for line in [
        "kato_volumes{state=\"ready\"} 1",
        "kato_volumes{state=\"lost\"} 0",
        "kato_intents_open 0",
        "kato_info{version=",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
    let series: Vec<&str> =
        page.lines().filter(|line| line.starts_with("csi_plugin_operations_seconds_bucket")).collect();
    for bucket in ["0.1", "0.25", "0.5", "1", "2.5", "5", "10", "15", "25", "50", "120", "300", "600", "+Inf"]
    {
        assert!(series.iter().any(|line| line.contains(&format!("le=\"{bucket}\""))), "{bucket}: {series:?}");
    }
    assert!(
        page.contains("kato_admin_requests_seconds_bucket{method=\"POST\",path=\"/v1/volumes\""),
        "{page}"
    );
    assert_eq!(
        done(&machine.shell("curl -sf --unix-socket /run/kato/admin.sock http://kato/healthz")),
        "ok\n"
    );
}

#[test]
fn over_tcp_only_the_token_opens_the_door() {
    let machine = Machine::start();
    let token = machine.folder().join("token");
    fs::write(&token, "a-token-that-is-long-enough").unwrap();
    done(&machine.shell(&format!("chmod 0600 {}", token.display())));
    let sections = format!("[admin]\ntcp = \"127.0.0.1:7878\"\ntoken-file = \"{}\"\n", token.display());
    let daemon = Daemon::start_with(&machine, &sections);
    let ask = |words: &str| {
        out(&machine.shell(&format!("curl -s -w ' %{{http_code}}' {words} http://127.0.0.1:7878/v1/names")))
    };
    let bearer = "-H 'Authorization: Bearer a-token-that-is-long-enough'";
    assert_eq!(ask(bearer), "{\"items\":[]} 200");
    for words in [
        String::new(),
        "-H 'Authorization: Bearer a-token-that-is-long-enougi'".to_owned(),
        format!("{bearer} -H 'Host: evil.example'"),
        format!("{bearer} -H 'Origin: https://evil.example'"),
    ] {
        assert!(ask(&words).ends_with(" 403"), "{words}");
    }
    assert!(!daemon.log().contains("a-token-that"), "{}", daemon.log());
}
