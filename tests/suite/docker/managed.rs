//! The daemon as a managed plugin, put together from the binary under test as `docker-plugin/managed/README.md`
//! says, and run by a real dockerd.

#![expect(clippy::disallowed_methods, reason = "asks ldd which libraries belong to a program")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use kato_tests::{
    daemon,
    dockerd::Dockerd,
    machine::{Machine, until},
};
use serde_json::Value;

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

#[test]
fn docker_installs_and_runs_the_plugin_and_starts_it_again() {
    let machine = Machine::start();
    let folder = machine.folder().join("plugin");
    put_together(&folder);
    let mut dockerd = Dockerd::start(&machine);
    let docker = |dockerd: &Dockerd<'_>, words: &str| dockerd.docker(&words.split(' ').collect::<Vec<_>>());
    let run = |dockerd: &Dockerd<'_>, volume: &str, line: &str| {
        let mount = format!("{volume}:/data");
        dockerd.docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--volume-driver",
            PLUGIN,
            "-v",
            &mount,
            Dockerd::IMAGE,
            "sh",
            "-c",
            line,
        ])
    };

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
