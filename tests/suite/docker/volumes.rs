//! dockerd and the daemon together: what a person at the keyboard does.

use std::{fs, process::Stdio};

use kato_tests::{
    dockerd::Dockerd,
    machine::{Machine, until},
};
use serde_json::{Value, json};

use super::{Host, holders};

#[test]
fn a_volume_is_created_shown_and_removed() {
    let machine = Machine::start();
    let host = Host::start(&machine);
    assert_eq!(
        host.docker("volume create -d kato -o class=ext4 -o size=64MiB -o label.team=db db").as_deref(),
        Ok("db")
    );
    let shown = host.docker("volume inspect db").unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let volume = &shown[0];
    assert_eq!((&volume["Driver"], &volume["Scope"]), (&json!("kato"), &json!("local")));
    assert_eq!(volume["Status"]["class"], "ext4");
    assert_eq!(volume["Status"]["state"], "ready");
    assert_eq!(volume["Status"]["labels"], json!({"team": "db"}));
    assert!(volume["CreatedAt"].as_str().unwrap().starts_with("20"), "{volume}");
    assert_eq!(host.docker("volume ls -q -f driver=kato").as_deref(), Ok("db"));
    // Whoever names it later need not name the driver, and a clean-up takes nothing of ours.
    host.docker("run --rm --network none -v db:/data busybox touch /data/file").unwrap();
    assert_eq!(host.run("-v db:/data", "ls /data").as_deref(), Ok("file"));
    host.docker("volume prune -f").unwrap();
    assert_eq!(host.docker("volume ls -q").as_deref(), Ok("db"));
    host.docker("volume rm db").unwrap();
    assert_eq!(host.docker("volume ls -q").as_deref(), Ok(""));
    host.docker("volume inspect db").unwrap_err();
}

#[test]
fn a_container_finds_what_the_one_before_it_wrote() {
    let machine = Machine::start();
    let host = Host::start(&machine);
    for class in ["default", "ext4", "xfs"] {
        let size = if class == "xfs" { "320MiB" } else { "64MiB" };
        host.docker(&format!("volume create -d kato -o class={class} -o size={size} {class}-db")).unwrap();
        host.run(&format!("-v {class}-db:/data"), "echo bytes > /data/file && sync").unwrap();
        assert_eq!(
            host.run(&format!("-v {class}-db:/data"), "cat /data/file").as_deref(),
            Ok("bytes"),
            "{class}"
        );
        assert_eq!(holders(&host.wire, &format!("{class}-db")), [], "{class}");
    }
    // Nobody created this one before.
    host.run("-v new:/data", "echo bytes > /data/file").unwrap();
    assert_eq!(
        host.run("-v new:/data:ro", "cat /data/file; touch /data/x 2>/dev/null || echo ro").as_deref(),
        Ok("bytes\nro")
    );
    for name in ["default-db", "ext4-db", "xfs-db", "new"] {
        host.docker(&format!("volume rm {name}")).unwrap();
    }
}

#[test]
fn a_volume_is_mounted_twice_in_one_container() {
    let machine = Machine::start();
    let host = Host::start(&machine);
    let said = host.run("-v db:/a -v db:/b", "echo bytes > /a/file && cat /b/file");
    assert_eq!(said.as_deref(), Ok("bytes"));
    assert_eq!(holders(&host.wire, "db"), []);
}

#[test]
fn a_copy_out_of_a_running_container_leaves_its_volume_mounted() {
    let machine = Machine::start();
    let host = Host::start(&machine);
    host.start_container("writer", "-v db:/data", "echo bytes > /data/file; sleep 600");
    until("the writer to write", || host.docker("exec writer grep bytes /data/file").ok());
    let held = holders(&host.wire, "db");
    assert_eq!(held.len(), 1);
    for number in 0..3 {
        let copied = machine.folder().join(format!("copied-{number}"));
        host.dockerd.docker(&["cp", "writer:/data/file", &copied.display().to_string()]).unwrap();
        assert_eq!(fs::read_to_string(copied).unwrap(), "bytes\n");
        assert_eq!(holders(&host.wire, "db"), held);
    }
    host.docker("exec writer sh -c echo>/data/more").unwrap();
    host.docker("rm -f writer").unwrap();
    assert_eq!(holders(&host.wire, "db"), []);
    assert_eq!(host.run("-v db:/data", "ls /data").as_deref(), Ok("file\nmore"));
}

#[test]
fn what_the_image_has_is_copied_into_an_empty_volume() {
    let machine = Machine::start();
    let host = Host::start(&machine);
    for class in ["default", "ext4"] {
        host.docker(&format!("volume create -d kato -o class={class} -o size=64MiB {class}")).unwrap();
        let found =
            host.run(&format!("-v {class}:/seeded"), "cat /seeded/from-image && rm /seeded/from-image");
        assert_eq!(found.as_deref(), Ok("seed"), "{class}");
        host.docker(&format!("volume create -d kato -o class={class} -o size=64MiB {class}-bare")).unwrap();
        let found = host.run(
            &format!("--mount type=volume,source={class}-bare,target=/seeded,volume-nocopy"),
            "ls /seeded",
        );
        assert_eq!(found.as_deref(), Ok(""), "{class}");
        assert_eq!(holders(&host.wire, class), []);
    }
}

#[test]
fn a_container_that_does_not_start_holds_nothing() {
    let machine = Machine::start();
    let host = Host::start(&machine);
    let words = "run --rm --network none --volume-driver kato -v db:/data busybox /no/such/program";
    let error = host.docker(words).unwrap_err();
    assert!(error.contains("/no/such/program"), "{error}");
    assert_eq!(holders(&host.wire, "db"), []);
    host.docker("volume rm db").unwrap();
}

#[test]
fn a_person_reads_why_a_wish_was_refused() {
    let machine = Machine::start();
    let host = Host::start(&machine);
    for (words, reason) in [
        ("volume create -d kato -o sise=1GiB db", "did you mean \"size\"?"),
        ("volume create -d kato -o size=lots db", "10GiB"),
        ("volume create -d kato -o class=gold db", "gold"),
        ("volume create -d kato a/b", "letters, digits"),
        ("volume create -d kato ..", "letters, digits"),
        ("volume create -d kato vol:colon", "letters, digits"),
        ("run --rm --network none --volume-driver kato -v /data busybox true", "-v NAME:/path"),
    ] {
        let error = host.docker(words).unwrap_err();
        assert!(error.contains(reason), "{words}: {error}");
    }
    host.dockerd.import_image("with-volume", &["VOLUME /data"]);
    let error = host.docker("run --rm --network none --volume-driver kato with-volume true").unwrap_err();
    assert!(error.contains("-v NAME:/path"), "{error}");
    assert_eq!(host.docker("volume ls -q").as_deref(), Ok(""));
}

#[test]
fn volumes_that_nobody_named_live_in_the_class_that_is_meant_for_them() {
    let machine = Machine::start();
    let host = Host::start_with(
        &machine,
        "[docker]\nanonymous = \"scratch\"\n[class.scratch]\nbackend = \"local\"\n",
    );
    host.dockerd.import_image("with-volume", &["VOLUME /data"]);
    let words = "run -d --name c1 --network none --volume-driver kato with-volume sleep 600";
    host.docker(words).unwrap();
    let name = host.docker("volume ls -q").unwrap();
    assert_eq!(name.len(), 64, "{name}");
    assert_eq!(super::inspect(&host.wire, &name)["Status"]["class"], "scratch");
    host.docker("rm -f -v c1").unwrap();
    assert_eq!(host.docker("volume ls -q").as_deref(), Ok(""));
}

#[test]
fn a_volume_that_is_held_is_not_removed() {
    let machine = Machine::start();
    let host = Host::start(&machine);
    host.start_container("holder", "-v db:/data", "sleep 600");
    let error = host.docker("volume rm db").unwrap_err();
    assert!(error.contains("in use"), "{error}");
    // dockerd forgets a volume that is removed by force: we do not.
    let answer = host.wire.call("Remove", json!({"Name": "db"}));
    assert!(answer["Err"].as_str().unwrap().contains("db"), "{answer}");
    host.docker("exec holder touch /data/file").unwrap();
    host.docker("rm -f holder").unwrap();
    host.docker("volume rm db").unwrap();
}

#[test]
fn many_containers_at_once_share_a_volume() {
    let machine = Machine::start();
    let host = Host::start(&machine);
    let started: Vec<_> = (0..8)
        .map(|number| {
            let line = format!("echo {number} > /data/{number}");
            let mut command = host.dockerd.command();
            command.args(["run", "--rm", "--network", "none", "--volume-driver", "kato", "-v", "db:/data"]);
            command.args([Dockerd::IMAGE, "sh", "-c", &line]).stdout(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    for mut container in started {
        assert!(container.wait().unwrap().success());
    }
    assert_eq!(holders(&host.wire, "db"), []);
    assert_eq!(host.run("-v db:/data", "cat /data/* | wc -l").as_deref(), Ok("8"));
}
