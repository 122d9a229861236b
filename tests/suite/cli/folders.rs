//! The data folder and the sockets: what is refused, with which words, and that a refusal changes nothing.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Output,
};

use kato_tests::{
    daemon::{Daemon, binary},
    machine::Machine,
};

use super::{done, err, failed, text};

/// Starts a daemon that is expected to end by itself.
fn refused(machine: &Machine, sections: &str) -> Output {
    let file = machine.folder().join("refused.toml");
    let folder = machine.folder().display();
    let config = format!(
        "[folders]\ndata = \"{folder}/kato\"\nrun = \"/run/other\"\n\
         [docker]\nsocket = \"/run/docker/plugins/other.sock\"\n{sections}"
    );
    fs::write(&file, config).unwrap();
    machine.command(binary()).args(["serve", "--config", text(&file)]).output().unwrap()
}

fn sh(machine: &Machine, line: &str) -> String {
    done(&machine.shell(line))
}

fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_second_daemon_over_the_same_folder_is_refused_and_told_who_has_it() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    done(&daemon.kato(&["volume", "create", "db"]));
    let told = refused(&machine, "");
    assert_eq!(told.status.code(), Some(4), "{}", err(&told));
    assert!(err(&told).contains("in use by process") && err(&told).contains("(kato)"), "{}", err(&told));
    assert!(!machine.path("/run/docker/plugins/other.sock").exists(), "no socket is touched before");
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q"])), "db\n");
}

#[test]
fn a_socket_that_is_served_is_not_taken_and_a_stale_one_is() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    let folder = machine.folder().display();
    let told = refused(&machine, "");
    assert_eq!(told.status.code(), Some(4));
    let file = machine.folder().join("same-socket.toml");
    let config = format!("[folders]\ndata = \"{folder}/second\"\nrun = \"/run/kato\"\n");
    fs::write(&file, config).unwrap();
    let second = machine.command(binary()).args(["serve", "--config", text(&file)]).output().unwrap();
    assert_eq!(second.status.code(), Some(4), "{}", err(&second));
    assert!(err(&second).contains("another process serves there"), "{}", err(&second));
    daemon.kill();
    daemon.start_again();
    done(&daemon.kato(&["volume", "ls"]));
}

#[test]
fn sockets_are_for_root_alone_or_for_the_group_that_is_named() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    let admin = machine.path("/run/kato/admin.sock");
    for socket in [&admin, &daemon.docker_socket()] {
        let found = fs::metadata(socket).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o600), "{}", socket.display());
    }
    daemon.stop();
    drop(daemon);
    let daemon = Daemon::start_with(&machine, "[admin]\ngroup = \"daemon\"\n");
    let found = fs::metadata(&admin).unwrap();
    assert_eq!((found.gid(), found.mode() & 0o777), (1, 0o660));
    drop(daemon);

    let machine = Machine::start();
    let told = refused(&machine, "[admin]\ngroup = \"no-such-group\"\n");
    assert!(err(&told).contains("no-such-group"), "{}", err(&told));
    sh(&machine, "mkdir -p /run/docker/plugins && chmod 0777 /run/docker/plugins");
    let told = refused(&machine, "");
    assert_eq!(told.status.code(), Some(77), "{}", err(&told));
    assert!(err(&told).contains("/run/docker/plugins") && err(&told).contains("0755"), "{}", err(&told));
    sh(&machine, "chmod 0755 /run/docker/plugins && chown daemon /run/docker/plugins");
    assert_eq!(refused(&machine, "").status.code(), Some(77));
}

#[test]
fn a_read_only_data_folder_ends_the_start_with_its_reason() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    daemon.stop();
    let folder = machine.folder().join("kato");
    let before = listing(&folder);
    let path = folder.display();
    sh(&machine, &format!("mount --bind {path} {path} && mount -o remount,bind,ro {path}"));
    let told = refused(&machine, "");
    assert_eq!(told.status.code(), Some(75), "{}", err(&told));
    assert!(err(&told).contains("read-only"), "{}", err(&told));
    assert_eq!(listing(&folder), before);
    sh(&machine, &format!("umount {path}"));
    daemon.start_again();
}

#[test]
fn an_unmounted_data_folder_ends_the_start_and_loses_nothing() {
    let machine = Machine::start();
    let folder = machine.folder().join("kato");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    let path = folder.display();
    sh(&machine, &format!("mkdir {path}.disk && chmod 700 {path}.disk && mount --bind {path}.disk {path}"));
    let mut daemon = Daemon::start(&machine);
    done(&daemon.kato(&["volume", "create", "db"]));
    daemon.stop();

    // What is mounted in it by the node goes with it, as it does when the host starts without the disk.
    sh(&machine, &format!("umount -l {path}"));
    let told = refused(&machine, "");
    assert_eq!(told.status.code(), Some(4), "{}", err(&told));
    assert!(err(&told).contains("not mounted") && err(&told).contains("kato.id"), "{}", err(&told));
    assert_eq!(listing(&folder), Vec::<PathBuf>::new());

    sh(&machine, &format!("mount --bind {path}.disk {path}"));
    daemon.start_again();
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q"])), "db\n");
    daemon.stop();
}

#[test]
fn a_folder_that_has_to_be_a_mount_and_is_none_is_not_even_made() {
    let machine = Machine::start();
    let file = machine.folder().join("mount.toml");
    let folder = machine.folder().join("kato");
    let config = format!("[folders]\ndata = \"{}\"\nrequire-mount = true\n", folder.display());
    fs::write(&file, config).unwrap();
    let told = machine.command(binary()).args(["serve", "--config", text(&file)]).output().unwrap();
    assert_eq!(told.status.code(), Some(4), "{}", err(&told));
    assert!(err(&told).contains("require-mount"), "{}", err(&told));
    assert!(!folder.exists());
}

#[test]
fn records_are_dumped_and_loaded_with_and_without_a_daemon() {
    let machine = Machine::start();
    let mut daemon = Daemon::start(&machine);
    for name in ["one", "two"] {
        done(&daemon.kato(&["volume", "create", name, "--label", "kept=yes"]));
    }
    let running = done(&daemon.kato(&["store", "dump"]));
    assert!(running.lines().last().unwrap().contains("\"end\":true"));
    let busy = failed(&daemon.kato(&["store", "load", "/dev/null"]), 4);
    assert!(busy.contains("in use by process"), "{busy}");
    daemon.stop();

    let dump = machine.folder().join("dump.jsonl");
    let volumes = |lines: &str| {
        lines
            .lines()
            .filter(|line| line.contains("\"kind\":\"volume\""))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    done(&daemon.kato(&["store", "dump", "--file", text(&dump)]));
    let stopped = fs::read_to_string(&dump).unwrap();
    assert_eq!(volumes(&stopped), volumes(&running));
    assert_eq!(volumes(&stopped).len(), 2);
    let full = failed(&daemon.kato(&["store", "load", text(&dump)]), 4);
    assert!(full.contains("has records"), "{full}");

    fs::rename(machine.folder().join("kato/store"), machine.folder().join("old-store")).unwrap();
    done(&daemon.kato(&["store", "load", text(&dump)]));
    daemon.start_again();
    assert_eq!(done(&daemon.kato(&["volume", "ls", "-q"])), "one\ntwo\n");
    daemon.stop();

    // Somewhere else, in a folder that was never used.
    let elsewhere = machine.folder().join("elsewhere.toml");
    let folder = machine.folder().join("elsewhere");
    fs::write(&elsewhere, format!("[folders]\ndata = \"{}\"\nrun = \"/run/elsewhere\"\n", folder.display()))
        .unwrap();
    let load = machine
        .command(binary())
        .args(["--config", text(&elsewhere), "store", "load", text(&dump)])
        .output()
        .unwrap();
    done(&load);
    let id = |folder: &Path| fs::read_to_string(folder.join("id")).unwrap();
    assert_eq!(id(&folder), id(&machine.folder().join("kato")), "the records say whose they are");
}
