//! Who keeps what: other mount namespaces, open files, restarts of the daemon.

use std::{fs, os::unix::fs::FileExt as _};

use kato_orchestrator::{
    Kind,
    model::{Caller, Connection, FsType},
    ports::host::{Bind, Connections as _, Filesystems as _, Observations as _, Stray},
};

use super::ground::{Ground, Running, SMALL, run, start, start_and_hear, until};

/// A process in a mount namespace of its own, which has its own copy of every mount that is there now.
fn elsewhere() -> Running {
    start_and_hear(
        "unshare",
        &["--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 1000"],
    )
}

#[tokio::test]
async fn a_holder_in_another_namespace_keeps_the_device_and_is_named() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    disk.format(&node, FsType::Ext4).await.unwrap();
    let mounted = disk.mount(&node).await.unwrap();
    assert_eq!(node.holders(disk.id, &mounted.path).await.unwrap(), Vec::<String>::new());
    let holder = elsewhere();
    // Its program is sh or sleep, whichever it is at by now.
    let name = format!("{} (s", holder.0.id());
    let found = node.holders(disk.id, &mounted.path).await.unwrap();
    assert!(found.iter().any(|holder| holder.starts_with(&name)), "{found:?}");
    for _ in 0..2 {
        let error = disk.unmount(&node).await.unwrap_err();
        assert_eq!(error.kind, Kind::InUse, "{error}");
        assert!(error.message.contains(&name), "{error}");
        assert!(!ground.mounts().contains(&mounted.path), "our own mount had to go");
        assert_eq!(ground.loops().len(), 1, "the device was taken away below a mount");
    }
    // The volume comes back while the other still has it, and shows the same bytes.
    let again = disk.mount(&node).await.unwrap();
    assert_eq!(again, mounted);
    disk.unmount(&node).await.unwrap_err();
    drop(holder);
    disk.unmount(&node).await.unwrap();
    assert!(ground.loops().is_empty());
    assert!(!fs::exists(&mounted.path).unwrap());
}

#[tokio::test]
async fn an_open_file_keeps_the_mount_and_its_process_is_named() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    disk.format(&node, FsType::Ext4).await.unwrap();
    let mounted = disk.mount(&node).await.unwrap();
    let file = fs::File::create(format!("{}/file", mounted.data)).unwrap();
    let error = disk.unmount(&node).await.unwrap_err();
    assert_eq!(error.kind, Kind::InUse);
    assert!(error.message.contains(&std::process::id().to_string()), "{error}");
    assert!(ground.mounts().contains(&mounted.path));
    drop(file);
    // Another test of this process may be starting a program just now, which has the file until it is run.
    until("the file to be closed", async || disk.unmount(&node).await.is_ok()).await;
}

#[tokio::test]
async fn a_bind_keeps_the_device_and_its_path_is_named() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    disk.format(&node, FsType::Ext4).await.unwrap();
    let mounted = disk.mount(&node).await.unwrap();
    let target = ground.path("target");
    let target = target.to_str().unwrap();
    node.bind(disk.id, &Bind::directory(&mounted.data, target, false)).await.unwrap();
    let error = disk.unmount(&node).await.unwrap_err();
    assert_eq!(error.kind, Kind::InUse);
    assert!(error.message.contains(target), "{error}");
    node.unbind(disk.id, &Bind::directory("", target, false)).await.unwrap();
    disk.unmount(&node).await.unwrap();
    assert!(ground.loops().is_empty());
}

#[tokio::test]
async fn the_end_of_a_daemon_touches_no_mount_and_the_next_one_finds_all() {
    let ground = Ground::new();
    let (disk, directory) = (ground.disk("a", SMALL), ground.directory("b"));
    let first = ground.node().await;
    disk.format(&first, FsType::Ext4).await.unwrap();
    let mounted = disk.mount(&first).await.unwrap();
    let other = directory.mount(&first).await.unwrap();
    let file = fs::File::create(format!("{}/file", mounted.data)).unwrap();
    drop(first);
    let next = ground.node().await;
    file.write_all_at(b"still here", 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let survey = next.survey().await.unwrap();
    assert!(survey.mounts.contains(&(Some(disk.id), mounted.path.clone())), "{survey:?}");
    assert!(survey.mounts.contains(&(Some(directory.id), other.path.clone())), "{survey:?}");
    let device = (Some(disk.id), mounted.device.path.clone(), disk.path.display().to_string());
    assert_eq!(survey.devices, [device]);
    assert_eq!(disk.mount(&next).await.unwrap(), mounted);
    until("the file to be closed", async || disk.unmount(&next).await.is_ok()).await;
    directory.unmount(&next).await.unwrap();
    let survey = next.survey().await.unwrap();
    assert!(survey.mounts.is_empty() && survey.devices.is_empty(), "{survey:?}");
}

#[tokio::test]
async fn a_worker_that_outlived_its_daemon_keeps_everybody_else_away_from_its_volume() {
    use rustix::fs::{FlockOperation, flock};
    let mut ground = Ground::new();
    ground.config.patience = std::time::Duration::from_secs(1);
    let node = ground.node().await;
    let (disk, other) = (ground.disk("a", SMALL), ground.disk("b", SMALL));
    // The lock of the volume, as an earlier worker or its mkfs would still hold it.
    let lock = fs::File::create(ground.config.root.join("locks").join(disk.id.to_string())).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let error = disk.format(&node, FsType::Ext4).await.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout, "{error}");
    assert!(ground.loops().is_empty());
    other.format(&node, FsType::Ext4).await.unwrap();
    drop(lock);
    until("the lock to be free", async || disk.format(&node, FsType::Ext4).await.is_ok()).await;
    assert_eq!(fs::read_dir(ground.config.root.join("locks")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_worker_that_dies_at_work_is_replaced_and_its_programs_end_with_it() {
    let mut ground = Ground::new();
    let programs = ground.path("programs");
    fs::create_dir(&programs).unwrap();
    let mkfs = programs.join("mkfs.ext4");
    fs::write(&mkfs, "#!/bin/sh\nkill -9 $PPID\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&mkfs, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    ground.config.programs.insert(0, programs);
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    let error = disk.format(&node, FsType::Ext4).await.unwrap_err();
    assert!(!error.is_final(), "{error}");
    assert!(error.message.contains("worker"), "{error}");
    fs::remove_file(&mkfs).unwrap();
    disk.format(&node, FsType::Ext4).await.unwrap();
}

#[tokio::test]
async fn a_read_only_volume_is_connected_read_only_and_written_again_later() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    disk.format(&node, FsType::Ext4).await.unwrap();
    let mut wish = disk.wish();
    wish.read_only = true;
    let error = node.mount(&wish).await.unwrap_err();
    assert_eq!(error.kind, Kind::Precondition);
    assert!(error.message.contains("data") && error.message.contains("once read-write"), "{error}");
    let mounted = disk.mount(&node).await.unwrap();
    fs::write(format!("{}/file", mounted.data), "kept").unwrap();
    assert_eq!(node.mount(&wish).await.unwrap_err().kind, Kind::Precondition);
    disk.unmount(&node).await.unwrap();
    let mounted = node.mount(&wish).await.unwrap();
    assert!(fs::write(format!("{}/x", mounted.data), "x").is_err());
    assert_eq!(fs::read(format!("{}/file", mounted.data)).unwrap(), b"kept");
    disk.unmount(&node).await.unwrap();
    let mounted = disk.mount(&node).await.unwrap();
    fs::write(format!("{}/x", mounted.data), "x").unwrap();
}

#[tokio::test]
async fn other_peoples_loop_devices_are_left_alone() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    run("losetup", &["-f", disk.path.to_str().unwrap()]);
    node.disconnect(disk.id, &disk.connection).await.unwrap();
    assert_eq!(ground.loops().len(), 1);
    let survey = node.survey().await.unwrap();
    assert_eq!(survey.devices.len(), 1);
    assert_eq!(survey.devices[0].0, None);
}

#[tokio::test]
async fn two_volumes_never_share_one_file() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    node.connect(disk.id, &disk.connection, false).await.unwrap();
    let thief = super::ground::Disk::at(ground.granted(), "a");
    let error = node.connect(thief.id, &thief.connection, false).await.unwrap_err();
    assert_eq!(error.kind, Kind::Precondition, "{error}");
    assert!(error.message.contains(&disk.id.to_string()), "{error}");
}

#[tokio::test]
async fn a_connection_that_this_node_cannot_make_is_refused_with_the_reason() {
    let ground = Ground::new();
    let node = ground.node().await;
    let mut disk = ground.disk("a", SMALL);
    disk.connection = Connection::Nbd { server: "host:10809".into(), export: "x".into() };
    let error = disk.mount(&node).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(error.message.contains("nbd"), "{error}");
    let facts = node.facts().await.unwrap();
    let reason = facts.connectors.iter().find(|(kind, _)| kind == "nbd").unwrap();
    assert!(reason.1.is_err());
    assert!(facts.connectors.contains(&("directory".into(), Ok(()))));
    assert!(!facts.boot_id.is_empty() && !facts.hostname.is_empty());
}

#[tokio::test]
async fn the_disk_of_the_host_is_never_a_volume() {
    let ground = Ground::new();
    let node = ground.node().await;
    let mut disk = ground.disk("a", SMALL);
    let Some((identity, value)) = root_disk() else {
        eprintln!("SKIPPED: the root disk of this machine has no identity that could be asked for");
        return;
    };
    disk.connection = Connection::Device { identity, value };
    let error = disk.mount(&node).await.unwrap_err();
    assert_eq!(error.kind, Kind::Precondition, "{error}");
    assert!(error.message.contains("no volume of ours"), "{error}");
}

fn root_disk() -> Option<(String, String)> {
    let places = [("virtio-serial", "serial"), ("nvme-serial", "device/serial"), ("wwid", "wwid")];
    let root = fs::metadata("/").unwrap();
    let numbers = std::os::unix::fs::MetadataExt::dev(&root);
    let entry = format!("/sys/dev/block/{}:{}", rustix::fs::major(numbers), rustix::fs::minor(numbers));
    let mut disk = fs::canonicalize(entry).ok()?;
    if disk.join("partition").exists() {
        disk.pop();
    }
    places.into_iter().find_map(|(identity, place)| {
        let value = fs::read_to_string(disk.join(place)).ok()?.trim().to_owned();
        (!value.is_empty()).then(|| (identity.to_owned(), value))
    })
}

#[tokio::test]
async fn a_process_is_alive_only_while_it_is_the_same() {
    let ground = Ground::new();
    let node = ground.node().await;
    let running = start("sleep", &["1000"]);
    let stat = fs::read_to_string(format!("/proc/{}/stat", running.0.id())).unwrap();
    let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    let caller = Caller { pid: running.0.id(), started };
    assert!(node.alive(&caller).await);
    assert!(!node.alive(&Caller { started: started + 1, ..caller }).await);
    drop(running);
    assert!(!node.alive(&caller).await);
    assert!(node.alive(&Caller { pid: 0, started: 0 }).await);
}

#[tokio::test]
async fn what_nobody_knows_goes_only_when_nobody_has_it() {
    let ground = Ground::new();
    let node = ground.node().await;
    let disk = ground.disk("a", SMALL);
    disk.format(&node, FsType::Ext4).await.unwrap();
    let mounted = disk.mount(&node).await.unwrap();
    fs::write(format!("{}/file", mounted.data), "kept").unwrap();
    let [mount, device] = [Stray::Mount(mounted.path.clone()), Stray::Device(mounted.device.path.clone())];
    let refused = async |stray: &Stray, why: &str| {
        let error = node.remove_stray(Some(disk.id), stray).await.unwrap_err();
        assert!(error.kind == Kind::InUse && error.message.contains(why), "{stray:?} {why}: {error}");
        assert!(ground.mounts().contains(&mounted.path), "{why}");
        assert_eq!(ground.loops().len(), 1, "{why}");
    };
    refused(&device, &mounted.path).await;

    let holder = elsewhere();
    refused(&mount, &format!("{} (s", holder.0.id())).await;
    drop(holder);
    let target = ground.path("target");
    let target = target.to_str().unwrap();
    node.bind(disk.id, &Bind::directory(&mounted.data, target, false)).await.unwrap();
    refused(&mount, target).await;
    node.unbind(disk.id, &Bind::directory("", target, false)).await.unwrap();
    let file = fs::File::open(format!("{}/file", mounted.data)).unwrap();
    refused(&mount, &std::process::id().to_string()).await;
    drop(file);

    // Another test of this process may be starting a program just now, which has the file until it is run.
    until("the mount to go", async || node.remove_stray(Some(disk.id), &mount).await.is_ok()).await;
    assert!(!ground.mounts().contains(&mounted.path) && !fs::exists(&mounted.path).unwrap());
    for _ in 0..2 {
        node.remove_stray(None, &device).await.unwrap();
        node.remove_stray(None, &mount).await.unwrap();
        assert!(ground.loops().is_empty());
    }
    let mounted = disk.mount(&node).await.unwrap();
    assert_eq!(fs::read(format!("{}/file", mounted.data)).unwrap(), b"kept");
    disk.unmount(&node).await.unwrap();
}

#[tokio::test]
async fn a_stray_directory_goes_and_what_is_in_it_stays() {
    let ground = Ground::new();
    let node = ground.node().await;
    let directory = ground.directory("d");
    let mounted = directory.mount(&node).await.unwrap();
    fs::write(format!("{}/file", mounted.data), "kept").unwrap();
    let stray = Stray::Mount(mounted.path.clone());
    let holder = elsewhere();
    assert_eq!(node.remove_stray(Some(directory.id), &stray).await.unwrap_err().kind, Kind::InUse);
    drop(holder);
    until("the mount to go", async || node.remove_stray(Some(directory.id), &stray).await.is_ok()).await;
    assert!(!ground.mounts().contains(&mounted.path));
    let mounted = directory.mount(&node).await.unwrap();
    assert_eq!(fs::read(format!("{}/file", mounted.data)).unwrap(), b"kept");
    directory.unmount(&node).await.unwrap();
}

#[tokio::test]
async fn what_is_not_ours_is_no_stray_and_the_last_bytes_of_a_file_are_kept() {
    let ground = Ground::new();
    let node = ground.node().await;
    let foreign = ground.path("foreign");
    fs::create_dir(&foreign).unwrap();
    run("mount", &["-t", "tmpfs", "tmpfs", foreign.to_str().unwrap()]);
    let image = ground.path("image");
    fs::File::create(&image).unwrap().set_len(SMALL).unwrap();
    run("losetup", &["--find", image.to_str().unwrap()]);
    let theirs = ground.loops().remove(0);
    let (mount, device) =
        (Stray::Mount(foreign.display().to_string()), Stray::Device(theirs.display().to_string()));
    for stray in [&mount, &device, &Stray::Mount("/proc".into()), &Stray::Device("/etc/passwd".into())] {
        match node.remove_stray(None, stray).await {
            Err(error) => assert_eq!(error.kind, Kind::Precondition, "{stray:?}: {error}"),
            // What is no loop device has nothing to free.
            Ok(()) => assert_eq!(stray, &Stray::Device("/etc/passwd".into())),
        }
    }
    assert!(ground.mounts().contains(&foreign.display().to_string()));
    assert_eq!(ground.loops(), std::slice::from_ref(&theirs));

    let disk = ground.disk("a", SMALL);
    let connected = node.connect(disk.id, &disk.connection, false).await.unwrap();
    fs::remove_file(&disk.path).unwrap();
    let error = node.remove_stray(Some(disk.id), &Stray::Device(connected.path.clone())).await.unwrap_err();
    assert!(error.kind == Kind::InUse && error.message.contains("live on only there"), "{error}");
    run("losetup", &["-d", &connected.path]);
}
