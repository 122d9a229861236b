//! The container image and the plugin for Swarm, put together by the developer's tasks from the binary under test, and
//! taken by a real dockerd.

#![expect(clippy::disallowed_methods, reason = "runs the developer's tasks")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use kato_tests::{daemon, dockerd::Dockerd, machine::Machine};

/// Runs a developer's task over the binary under test.
fn task(words: &[&str], out: &Path) {
    let xtask = daemon::binary().with_file_name("xtask");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(xtask);
    command.current_dir(&root).env_remove("CARGO_MANIFEST_DIR").args(words);
    let done = command.arg("--binary").arg(daemon::binary()).arg("--out").arg(out).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn image(machine: &Machine, name: &str) -> PathBuf {
    let out = machine.folder().join(name);
    task(&["image", "--tag", "kato:under-test"], &out);
    out
}

#[test]
fn the_image_is_loaded_without_a_registry_and_runs_what_the_daemon_needs() {
    let machine = Machine::start();
    let file = image(&machine, "kato.tar");
    let dockerd = Dockerd::start(&machine);
    dockerd.docker(&["load", "-i", file.to_str().unwrap()]).unwrap();
    let run = |entry: &str, words: &[&str]| {
        let place = ["run", "--rm", "--network", "none", "--entrypoint", entry, "kato:under-test"];
        // These programs tell their version on either stream.
        let told = dockerd.command().args(place).args(words).output().unwrap();
        assert!(told.status.success(), "{entry}: {}", String::from_utf8_lossy(&told.stderr));
        String::from_utf8([told.stdout, told.stderr].concat()).unwrap()
    };
    let entrypoint =
        dockerd.docker(&["run", "--rm", "--network", "none", "kato:under-test", "--version"]).unwrap();
    assert!(entrypoint.starts_with("kato "), "{entrypoint}");
    assert!(run("mkfs.ext4", &["-V"]).contains("mke2fs"));
    assert!(run("mkfs.xfs", &["-V"]).contains("mkfs.xfs"));
    assert!(run("e2fsck", &["-V"]).contains("e2fsck"));
    assert!(run("xfs_repair", &["-V"]).contains("xfs_repair"));
}

#[test]
fn the_same_files_make_the_same_image() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let out = folder.path().join(name);
        task(&["image"], &out);
        let bytes = fs::read(&out).unwrap();
        fs::remove_file(&out).unwrap();
        bytes
    };
    // Not compared by assert_eq: nobody wants to read two images.
    assert!(make("one.tar") == make("two.tar"), "two images of the same files differ");
}

#[test]
fn docker_takes_the_plugin_for_cluster_volumes() {
    let machine = Machine::start();
    let folder = machine.folder().join("plugin");
    task(&["managed-plugin", "--csi", "--no-create"], &folder);
    let dockerd = Dockerd::start(&machine);
    dockerd.docker(&["plugin", "create", "kato/csi", folder.to_str().unwrap()]).unwrap();
    let types =
        dockerd.docker(&["plugin", "inspect", "-f", "{{json .Config.Interface.Types}}", "kato/csi"]).unwrap();
    assert!(types.contains("csicontroller") && types.contains("csinode"), "{types}");
    let mount =
        dockerd.docker(&["plugin", "inspect", "-f", "{{.Config.PropagatedMount}}", "kato/csi"]).unwrap();
    assert_eq!(mount, "/data/published");
}
