//! What dockerd mounts and unmounts, and when, and what it does with a path.

use std::{
    fs,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use kato_tests::{
    dockerd::Dockerd,
    machine::{Machine, until},
};
use serde_json::json;

use super::{super::wire::Plugin, fine, mounted, place, run, volume, with_plugin};

/// A plugin whose volumes are all one directory.
fn simple(machine: &Machine) -> (Plugin, Dockerd<'_>) {
    let path = place(machine);
    with_plugin(machine, move |operation, request| match operation {
        "Get" => volume(request, &path),
        "Mount" => mounted(&path),
        "List" => json!({"Volumes": []}).into(),
        _ => fine(),
    })
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

#[test]
fn each_start_of_a_container_mounts_and_unmounts_once_under_an_id_of_its_own() {
    let machine = Machine::start();
    let (plugin, dockerd) = simple(&machine);
    run(&dockerd, "-d --name c1 -v db:/vol", &["sleep", "600"]).unwrap();
    for _ in 0..2 {
        dockerd.docker(&["stop", "c1"]).unwrap();
        dockerd.docker(&["start", "c1"]).unwrap();
    }
    dockerd.docker(&["rm", "-f", "c1"]).unwrap();
    let (mounts, unmounts) = (plugin.ids("Mount"), plugin.ids("Unmount"));
    assert_eq!(mounts, unmounts);
    assert_eq!(mounts.len(), 3);
    assert!(
        mounts.iter().all(|id| id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())),
        "{mounts:?}"
    );
    let mut different = sorted(mounts);
    different.dedup();
    assert_eq!(different.len(), 3);
}

#[test]
fn the_content_of_an_image_is_copied_under_another_id_before_the_container_starts() {
    let machine = Machine::start();
    let (plugin, dockerd) = simple(&machine);
    dockerd
        .docker(&[
            "create",
            "--name",
            "c1",
            "--network",
            "none",
            "--volume-driver",
            "fake",
            "-v",
            "db:/seeded",
            "busybox",
            "true",
        ])
        .unwrap();
    assert_eq!(fs::read_to_string(machine.folder().join("place/from-image")).unwrap(), "seed\n");
    let (copy, back) = (plugin.ids("Mount"), plugin.ids("Unmount"));
    assert_eq!((copy.len(), &copy), (1, &back));
    dockerd.docker(&["start", "-a", "c1"]).unwrap();
    let mounts = plugin.ids("Mount");
    assert_eq!(mounts.len(), 2);
    assert_ne!(mounts[0], mounts[1]);
    until("the last unmount", || (plugin.ids("Unmount") == mounts).then_some(()));
    dockerd.docker(&["rm", "c1"]).unwrap();
}

#[test]
fn lost_and_found_keeps_an_image_from_being_copied() {
    let machine = Machine::start();
    let (_plugin, dockerd) = simple(&machine);
    fs::create_dir(machine.folder().join("place/lost+found")).unwrap();
    assert_eq!(run(&dockerd, "--rm -v db:/seeded", &["ls", "/seeded"]).as_deref(), Ok("lost+found"));
    fs::remove_dir(machine.folder().join("place/lost+found")).unwrap();
    assert_eq!(run(&dockerd, "--rm -v db:/seeded", &["ls", "/seeded"]).as_deref(), Ok("from-image"));
}

#[test]
fn a_copy_is_suppressed_by_nocopy() {
    let machine = Machine::start();
    let (_plugin, dockerd) = simple(&machine);
    let options = "--rm --mount type=volume,source=db,target=/seeded,volume-driver=fake,volume-nocopy";
    assert_eq!(run(&dockerd, options, &["ls", "/seeded"]).as_deref(), Ok(""));
}

#[test]
fn a_path_that_is_relative_or_missing_is_an_error_of_the_runtime_and_is_unmounted() {
    let machine = Machine::start();
    for path in ["place/relative", "/no/such/place"] {
        let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
            "Get" => volume(request, path),
            "Mount" => mounted(path),
            _ => fine(),
        });
        let options = "--rm --mount type=volume,source=db,target=/data,volume-driver=fake,volume-nocopy";
        run(&dockerd, options, &["true"]).unwrap_err();
        until("the unmount", || (!plugin.ids("Unmount").is_empty()).then_some(()));
        assert_eq!(plugin.ids("Mount"), plugin.ids("Unmount"), "{path}");
        plugin.close(&machine.path("/run/docker/plugins/fake.sock"));
        let mut dockerd = dockerd;
        dockerd.stop();
    }
}

#[test]
fn a_container_whose_start_fails_after_its_mount_is_unmounted() {
    let machine = Machine::start();
    let (plugin, dockerd) = simple(&machine);
    run(&dockerd, "--rm -v db:/vol", &["/no/such/program"]).unwrap_err();
    until("the unmount", || (!plugin.ids("Unmount").is_empty()).then_some(()));
    assert_eq!(plugin.ids("Mount"), plugin.ids("Unmount"));
}

#[test]
fn who_ends_docker_does_not_cancel_the_mount() {
    let machine = Machine::start();
    let (path, go) = (place(&machine), Arc::<AtomicBool>::default());
    let gate = Arc::clone(&go);
    let (plugin, dockerd) = with_plugin(&machine, move |operation, request| match operation {
        "Get" => volume(request, &path),
        "Mount" => {
            while !gate.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(10));
            }
            mounted(&path)
        }
        _ => fine(),
    });
    let words = "run -d --name c1 --network none --volume-driver fake -v db:/vol busybox sleep 600";
    let mut client: Child = dockerd.docker_later(&words.split(' ').collect::<Vec<_>>());
    until("the mount to be asked for", || (!plugin.ids("Mount").is_empty()).then_some(()));
    // As Ctrl-C does, which a runner that ignores it would hand on to docker.
    client.kill().unwrap();
    assert!(!client.wait().unwrap().success());
    go.store(true, Ordering::SeqCst);
    until("the container to run all the same", || {
        let state = dockerd.docker(&["inspect", "--format", "{{.State.Status}}", "c1"]).ok()?;
        (state == "running").then_some(())
    });
    dockerd.docker(&["rm", "-f", "c1"]).unwrap();
    assert_eq!(plugin.ids("Mount"), plugin.ids("Unmount"));
}

#[test]
fn a_volume_of_an_image_gets_a_name_that_nobody_knows_and_is_left_behind() {
    let machine = Machine::start();
    let path = place(&machine);
    let made = Arc::<std::sync::Mutex<Vec<String>>>::default();
    let known = Arc::clone(&made);
    let (_plugin, dockerd) = with_plugin(&machine, move |operation, request| {
        let name = request["Name"].as_str().unwrap_or_default().to_owned();
        let mut known = known.lock().unwrap();
        match operation {
            "Get" if known.contains(&name) => volume(request, &path),
            "Get" => json!({"Err": "there is none"}).into(),
            "Create" => {
                known.push(name);
                fine()
            }
            "Remove" => {
                known.retain(|other| *other != name);
                fine()
            }
            "Mount" => mounted(&path),
            "List" => {
                json!({"Volumes": known.iter().map(|name| json!({"Name": name})).collect::<Vec<_>>()}).into()
            }
            _ => fine(),
        }
    });
    dockerd.import_image("with-volume", &["VOLUME /data"]);
    let words = |options: &str| {
        let line = format!("run -d --name c1 --network none --volume-driver fake {options} sleep 600");
        dockerd.docker(&line.split(' ').collect::<Vec<_>>()).unwrap();
    };
    for options in ["with-volume", "-v /anywhere busybox"] {
        words(options);
        let name = made.lock().unwrap().first().cloned().unwrap();
        assert!(name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        dockerd.docker(&["rm", "-f", "c1"]).unwrap();
        assert_eq!(made.lock().unwrap().len(), 1, "{options}: removed although nobody said so");
        dockerd.docker(&["volume", "rm", &name]).unwrap();
        words(options);
        dockerd.docker(&["rm", "-f", "-v", "c1"]).unwrap();
        assert_eq!(made.lock().unwrap().len(), 0, "{options}");
    }
}

#[test]
fn a_volume_is_found_by_its_name_without_its_driver_and_no_clean_up_takes_it() {
    let machine = Machine::start();
    let (plugin, dockerd) = simple(&machine);
    dockerd.docker(&["volume", "create", "-d", "fake", "db"]).unwrap();
    dockerd.docker(&["run", "--rm", "--network", "none", "-v", "db:/vol", "busybox", "true"]).unwrap();
    assert_eq!(plugin.ids("Mount").len(), 1);
    dockerd.docker(&["volume", "prune", "-f"]).unwrap();
    assert!(!plugin.operations("db").contains(&"Remove".to_owned()));
    run(&dockerd, "-d --name c1 -v db:/vol", &["sleep", "600"]).unwrap();
    let error = dockerd.docker(&["volume", "rm", "db"]).unwrap_err();
    assert!(error.contains("in use"), "{error}");
    assert!(!plugin.operations("db").contains(&"Remove".to_owned()), "dockerd itself refuses");
    dockerd.docker(&["rm", "-f", "c1"]).unwrap();
}
