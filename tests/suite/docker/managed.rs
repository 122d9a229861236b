//! The daemon as a managed plugin, put together from the binary under test as `docker-plugin/managed/README.md`
//! says, run by a real dockerd, and upgraded from a registry.

#![expect(clippy::disallowed_methods, reason = "asks ldd which libraries belong to a program")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use kato_tests::{
    daemon,
    dockerd::Dockerd,
    machine::{Machine, Process, until},
};
use serde_json::{Value, json};

const PLUGIN: &str = "kato/volume";

/// What the daemon runs.
const PROGRAMS: [&str; 5] = ["mkfs.ext4", "mkfs.xfs", "e2fsck", "resize2fs", "xfs_repair"];

fn find(program: &str) -> PathBuf {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{program} is not installed"))
}

fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let told = Command::new("ldd").arg(program).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    told.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// Copies what a path leads to.
fn place(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

fn put_together(folder: &Path) {
    let rootfs = folder.join("rootfs");
    for made in ["run/docker/plugins", "var/lib/kato", "etc", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(rootfs.join(made)).unwrap();
    }
    place(&daemon::binary(), &rootfs.join("usr/bin/kato"));
    let mut files = libraries_of(&daemon::binary());
    for program in PROGRAMS.map(find) {
        files.extend(libraries_of(&program));
        files.push(program);
    }
    for file in files {
        place(&file, &rootfs.join(file.strip_prefix("/").unwrap()));
    }
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker-plugin/managed/config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(config).unwrap()).unwrap();
    ask_for_what_can_be_given(&mut config);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// A machine that was itself denied CAP_SYS_RESOURCE cannot give it on: there the plugin is run without it, and
/// would grow filesystems at their next mount only.
fn ask_for_what_can_be_given(config: &mut Value) {
    const SYS_RESOURCE: u64 = 1 << 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bounds = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim().to_owned();
    if u64::from_str_radix(&bounds, 16).unwrap() & SYS_RESOURCE == 0 {
        eprintln!("this machine has no CAP_SYS_RESOURCE to give: the plugin runs without it");
        let asked = config["linux"]["capabilities"].as_array_mut().unwrap();
        asked.retain(|capability| capability != "CAP_SYS_RESOURCE");
    }
}

/// Runs a line in a container that has a volume of the plugin.
fn run(dockerd: &Dockerd<'_>, plugin: &str, volume: &str, line: &str) -> Result<String, String> {
    let mount = format!("{volume}:/data");
    let place = ["run", "--rm", "--network", "none", "--volume-driver", plugin, "-v", &mount];
    dockerd.docker(&[&place[..], &[Dockerd::IMAGE, "sh", "-c", line]].concat())
}

/// Changes what the plugin says of itself.
fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let file = folder.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    change(&mut config);
    fs::write(file, config.to_string()).unwrap();
}

/// A registry of the test's own, which dockerd trusts because it is on loopback.
fn serve_registry(machine: &Machine) -> Process {
    let config = machine.folder().join("registry.yml");
    let words = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:5000\n",
        machine.folder().join("registry").display()
    );
    fs::write(&config, words).unwrap();
    let registry = machine.spawn(find("docker-registry"), "registry.log", |command| {
        command.arg("serve").arg(&config);
    });
    until("the registry to serve", || {
        let asked = machine.shell("curl -s http://127.0.0.1:5000/v2/");
        asked.status.success().then_some(())
    });
    registry
}

#[test]
fn an_upgrade_asks_for_what_the_plugin_may_and_keeps_every_volume() {
    const REMOTE: &str = "127.0.0.1:5000/kato/volume";
    let machine = Machine::start();
    let registry = serve_registry(&machine);
    let dockerd = Dockerd::start(&machine);
    let docker = |words: &str| dockerd.docker(&words.split(' ').collect::<Vec<_>>());
    let done = |words: &str| {
        docker(words).unwrap_or_else(|error| {
            panic!("docker {words}: {error}\n{}\n{}", dockerd.log(), registry.log());
        })
    };
    for tag in ["one", "two"] {
        let folder = machine.folder().join(tag);
        put_together(&folder);
        edit(&folder, |config| {
            config["description"] = tag.into();
            let reap = json!({ "name": "KATO__NODE__REAP_AFTER", "value": "2s", "settable": ["value"] });
            config["env"].as_array_mut().unwrap().push(reap);
        });
        done(&format!("plugin create {REMOTE}:{tag} {}", folder.display()));
        done(&format!("plugin push {REMOTE}:{tag}"));
        done(&format!("plugin rm {REMOTE}:{tag}"));
    }

    // Whoever installs it is asked first, for what the README explains and nothing else.
    let asked = dockerd.command().args(["plugin", "install", &format!("{REMOTE}:one")]).output().unwrap();
    let asked = String::from_utf8(asked.stdout).unwrap();
    let mut privileges: Vec<_> = asked.lines().filter_map(|line| line.strip_prefix(" - ")).collect();
    privileges.sort_unstable();
    let (capabilities, others): (Vec<_>, Vec<_>) =
        privileges.into_iter().partition(|line| line.starts_with("capabilities: "));
    assert_eq!(
        others,
        ["allow-all-devices: [true]", "host pid namespace: [true]", "mount: [/dev]", "network: [host]"],
        "{asked}"
    );
    assert!(capabilities.len() == 1 && capabilities[0].contains("CAP_SYS_ADMIN"), "{asked}");
    assert_eq!(done("plugin ls -q"), "", "it was installed although nobody agreed");

    done(&format!("plugin install --alias {PLUGIN} --grant-all-permissions {REMOTE}:one"));
    for class in ["default", "ext4"] {
        done(&format!("volume create -d {PLUGIN} -o class={class} -o size=64MiB {class}"));
        run(&dockerd, PLUGIN, class, "echo bytes > /data/file").unwrap();
    }
    done(&format!(
        "run -d --name holder --network none --volume-driver {PLUGIN} -v ext4:/data busybox sleep 600"
    ));
    assert!(docker("volume rm ext4").unwrap_err().contains("in use"));

    // The container ends while nobody is there to be told.
    done(&format!("plugin disable -f {PLUGIN}"));
    done("rm -f holder");
    done(&format!("plugin upgrade --grant-all-permissions --skip-remote-check {PLUGIN} {REMOTE}:two"));
    assert_eq!(done(&format!("plugin inspect -f {{{{.Config.Description}}}} {PLUGIN}")), "two");
    done(&format!("plugin enable {PLUGIN}"));
    for class in ["default", "ext4"] {
        assert_eq!(
            run(&dockerd, PLUGIN, class, "cat /data/file").as_deref(),
            Ok("bytes"),
            "{}",
            dockerd.log()
        );
    }
    // What it held is nobody's: the plugin sees the host's processes, and so that this one has ended.
    until("the lost holder to be reaped", || docker("volume rm ext4").ok());
    done("volume rm default");
    done(&format!("plugin disable {PLUGIN}"));
    done(&format!("plugin rm {PLUGIN}"));
}

#[test]
fn docker_installs_and_runs_the_plugin_and_starts_it_again() {
    let machine = Machine::start();
    let folder = machine.folder().join("plugin");
    put_together(&folder);
    let mut dockerd = Dockerd::start(&machine);
    let docker = |dockerd: &Dockerd<'_>, words: &str| dockerd.docker(&words.split(' ').collect::<Vec<_>>());
    let run = |dockerd: &Dockerd<'_>, volume: &str, line: &str| run(dockerd, PLUGIN, volume, line);

    dockerd.docker(&["plugin", "create", PLUGIN, &folder.display().to_string()]).unwrap();
    docker(&dockerd, &format!("plugin set {PLUGIN} KATO__LOG__LEVEL=debug KATO__DOCKER__SCOPE=global"))
        .unwrap();
    docker(&dockerd, &format!("plugin enable {PLUGIN}"))
        .unwrap_or_else(|error| panic!("{error}: {}", dockerd.log()));
    let refused = docker(&dockerd, &format!("plugin set {PLUGIN} KATO__LOG__LEVEL=info")).unwrap_err();
    assert!(refused.contains("must be disabled") || refused.contains("disable"), "{refused}");
    for class in ["default", "ext4"] {
        let made =
            docker(&dockerd, &format!("volume create -d {PLUGIN} -o class={class} -o size=64MiB {class}"));
        assert_eq!(made.as_deref(), Ok(class), "{}", dockerd.log());
        run(&dockerd, class, "echo bytes > /data/file")
            .unwrap_or_else(|error| panic!("{error}: {}", dockerd.log()));
        assert_eq!(run(&dockerd, class, "cat /data/file").as_deref(), Ok("bytes"));
    }
    let scope = docker(&dockerd, "volume inspect --format {{.Scope}} ext4");
    assert_eq!(scope.as_deref(), Ok("global"));

    // A container that is copied from keeps its volume.
    let words = format!(
        "run -d --name holder --network none --volume-driver {PLUGIN} -v ext4:/data busybox sleep 600"
    );
    docker(&dockerd, &words).unwrap();
    docker(&dockerd, &format!("cp holder:/data/file {}", machine.folder().join("copied").display())).unwrap();
    assert_eq!(docker(&dockerd, "exec holder cat /data/file").as_deref(), Ok("bytes"));
    docker(&dockerd, "rm -f holder").unwrap();

    // The journal and the volumes outlive the plugin's process and dockerd's. Docker takes a plugin for used while
    // it knows a volume of it.
    docker(&dockerd, &format!("plugin disable {PLUGIN}")).unwrap_err();
    docker(&dockerd, &format!("plugin disable -f {PLUGIN}")).unwrap();
    docker(&dockerd, &format!("plugin enable {PLUGIN}")).unwrap();
    assert_eq!(run(&dockerd, "ext4", "cat /data/file").as_deref(), Ok("bytes"));
    dockerd.stop();
    dockerd.start_again();
    until("the plugin to serve again", || {
        (run(&dockerd, "ext4", "cat /data/file").ok()? == "bytes").then_some(())
    });
    assert_eq!(run(&dockerd, "default", "cat /data/file").as_deref(), Ok("bytes"));
    for volume in ["default", "ext4"] {
        docker(&dockerd, &format!("volume rm {volume}")).unwrap();
    }
    docker(&dockerd, &format!("plugin disable {PLUGIN}")).unwrap();
    docker(&dockerd, &format!("plugin rm {PLUGIN}")).unwrap();
}

/// What a person is asked to grant is what the plugin's page explains, row by row, and nothing else.
#[test]
fn every_privilege_that_is_asked_for_is_explained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker-plugin/managed");
    let config: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let page = fs::read_to_string(folder.join("README.md")).unwrap();
    let rows: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    let mut asked: Vec<String> = Vec::new();
    // The order in which Docker computes the privileges of a plugin.
    assert_eq!(config["network"]["type"], "host");
    asked.push("host network".into());
    assert_eq!((&config["ipchost"], &config["pidhost"]), (&Value::Null, &Value::Bool(true)));
    asked.push("host processes".into());
    for mount in config["mounts"].as_array().unwrap() {
        asked.push(format!("`{}`", mount["source"].as_str().unwrap()));
    }
    assert_eq!(
        (&config["linux"]["devices"], &config["linux"]["allowAllDevices"]),
        (&Value::Null, &Value::Bool(true))
    );
    asked.push("all devices".into());
    for capability in config["linux"]["capabilities"].as_array().unwrap() {
        asked.push(format!("`{}`", capability.as_str().unwrap()));
    }
    for privilege in &asked {
        assert!(
            rows.iter().any(|row| row.contains(privilege.as_str())),
            "{privilege} is in no row of {rows:?}"
        );
    }
    let explained = rows.iter().flat_map(|row| row.split(", ")).filter(|word| *word != "privilege");
    let explained: Vec<&str> = explained.filter(|word| !word.starts_with("---")).collect();
    assert_eq!(explained.len(), asked.len(), "{explained:?} are explained, and {asked:?} asked for");
}

#[test]
fn an_upgrade_brings_new_files_and_keeps_every_volume() {
    let machine = Machine::start();
    let folder = machine.folder().join("plugin");
    put_together(&folder);
    let dockerd = Dockerd::start(&machine);
    let docker = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        dockerd.docker(&words).unwrap_or_else(|error| panic!("{words:?}: {error}: {}", dockerd.log()))
    };
    let run = |line: &str| {
        let words = ["run", "--rm", "--network", "none", "--volume-driver", PLUGIN, "-v", "kept:/data"];
        let words = [&words[..], &[Dockerd::IMAGE, "sh", "-c", line]].concat();
        dockerd.docker(&words).unwrap_or_else(|error| panic!("{line}: {error}: {}", dockerd.log()))
    };
    dockerd.docker(&["plugin", "create", PLUGIN, &folder.display().to_string()]).unwrap();
    docker(&format!("plugin enable {PLUGIN}"));
    let id = docker(&format!("plugin inspect --format {{{{.Id}}}} {PLUGIN}"));
    // What the person was asked for is what it runs with.
    let granted = docker(&format!(
        "plugin inspect --format {{{{.Config.PidHost}}}},{{{{.Config.Network.Type}}}},{{{{.Config.Linux.AllowAllDevices}}}} {PLUGIN}"
    ));
    assert_eq!(granted, "true,host,true");
    docker(&format!("volume create -d {PLUGIN} -o class=ext4 -o size=64MiB kept"));
    run("echo bytes > /data/file");

    // It sees the host's processes, so a holder is known by dockerd's, and can be missed when that is gone.
    docker(&format!(
        "run -d --name holder --network none --volume-driver {PLUGIN} -v kept:/data busybox sleep 600"
    ));
    let socket = format!("/run/docker/plugins/{id}/admin.sock");
    let mut command = machine.command(daemon::binary());
    let seen =
        command.args(["--socket", &socket, "volume", "inspect", "kept", "-o", "json"]).output().unwrap();
    let volume: Value = serde_json::from_slice(&seen.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&seen.stderr)));
    assert!(volume["holders"][0]["pid"].as_u64().is_some_and(|pid| pid > 0), "{volume}");
    docker("rm -f holder");

    // `docker plugin upgrade` takes the new files from a registry, and there is none here. What it does to the plugin's
    // folder is done by hand: another rootfs in the place of the old one, and nothing else touched.
    docker(&format!("plugin disable -f {PLUGIN}"));
    let home = machine.folder().join("docker/plugins").join(&id);
    let [new, old] = [home.join("rootfs"), machine.folder().join("old-rootfs")];
    let (from, release) = (folder.join("rootfs"), new.join("etc/kato"));
    let line = format!(
        "mv {new} {old} && cp -a {from} {new} && mkdir -p {release} && \
         printf '[class.newer]\\nbackend = \"local\"\\nfs = \"xfs\"\\n' > {release}/config.toml",
        new = new.display(),
        old = old.display(),
        from = from.display(),
        release = release.display()
    );
    let replaced = machine.shell(&line);
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
    docker(&format!("plugin enable {PLUGIN}"));
    assert_eq!(run("cat /data/file"), "bytes");
    docker(&format!("volume create -d {PLUGIN} -o class=newer -o size=320MiB made-by-the-newer"));
    for volume in ["kept", "made-by-the-newer"] {
        docker(&format!("volume rm {volume}"));
    }
    docker(&format!("plugin disable {PLUGIN}"));
    docker(&format!("plugin rm {PLUGIN}"));
}
