//! What becomes of containers and of their volumes when dockerd, the daemon, or both end in the middle.

use std::fs;

use kato_tests::machine::{Machine, until};
use serde_json::json;

use super::{Host, holders};

/// Writes lines, each of them flushed to the disk before the next, and ends when one could not be. What it says last is
/// moved into place: whoever stops it at any moment finds a whole number there.
const WRITER: &str = "n=0; while :; do n=$((n+1)); \
                      echo $n | dd of=/data/log oflag=append conv=notrunc,fsync 2>/dev/null || exit 9; \
                      echo $n > /data/next && mv /data/next /data/last || exit 8; done";

/// A daemon that believes soon that a holder is gone.
const IMPATIENT: &str = "[node]\nreap-after = \"1s\"\n[limits]\ntidy-every = \"1s\"\n";

/// How many lines the writer has written, as another container sees it.
fn written(host: &Host<'_>, writer: &str) -> u64 {
    let last = host.docker(&format!("exec {writer} cat /data/last")).unwrap_or_default();
    last.trim().parse().unwrap_or(0)
}

/// Waits until the writer has written this many lines more.
fn wait_for_lines(host: &Host<'_>, writer: &str, more: u64) -> u64 {
    let target = written(host, writer) + more;
    until("the writer to write", || Some(written(host, writer)).filter(|lines| *lines >= target))
}

fn state(host: &Host<'_>, container: &str) -> String {
    host.docker(&format!("inspect --format {{{{.State.Status}}}}:{{{{.State.ExitCode}}}} {container}"))
        .unwrap()
}

#[test]
fn a_writer_does_not_notice_that_the_daemon_was_killed_and_started_again() {
    let machine = Machine::start();
    for class in ["default", "ext4"] {
        let mut host = Host::start(&machine);
        host.docker(&format!("volume create -d kato -o class={class} -o size=64MiB db")).unwrap();
        host.start_container("writer", "-v db:/data", WRITER);
        wait_for_lines(&host, "writer", 20);
        for _ in 0..3 {
            host.daemon.kill();
            wait_for_lines(&host, "writer", 20);
            host.daemon.start_again();
            wait_for_lines(&host, "writer", 20);
            assert_eq!(state(&host, "writer"), "running:0", "{class}");
            assert_eq!(holders(&host.wire, "db").len(), 1, "{class}");
        }
        host.docker("stop -t 0 writer").unwrap();
        assert_eq!(state(&host, "writer"), "exited:137", "{class}");
        assert_eq!(holders(&host.wire, "db"), [], "{class}");
        // Every line that was flushed is there, in order and once.
        let lines = host.run("-v db:/data", "cat /data/log; echo last $(cat /data/last)").unwrap();
        let (lines, last) = lines.split_once("last ").unwrap();
        let last: u64 = last.trim().parse().unwrap();
        let lines: Vec<u64> = lines.lines().map(|line| line.parse().unwrap()).collect();
        assert!(lines.len() as u64 >= last, "{class}: {} lines of {last}", lines.len());
        assert!(lines.iter().zip(1..).all(|(line, number)| *line == number), "{class}");
        host.docker("rm writer").unwrap();
        host.docker("volume rm db").unwrap();
        host.dockerd.stop();
        host.daemon.stop();
    }
}

#[test]
fn a_planned_stop_of_the_daemon_touches_no_mount() {
    let machine = Machine::start();
    let mut host = Host::start(&machine);
    host.start_container("writer", "-v db:/data", WRITER);
    wait_for_lines(&host, "writer", 5);
    host.daemon.stop();
    wait_for_lines(&host, "writer", 20);
    host.daemon.start_again();
    wait_for_lines(&host, "writer", 5);
    host.docker("rm -f writer").unwrap();
    assert_eq!(holders(&host.wire, "db"), []);
}

#[test]
fn containers_that_died_with_dockerd_hold_nothing_in_the_end() {
    let machine = Machine::start();
    let mut host = Host::start(&machine);
    host.start_container("always", "--restart always -v kept:/data", WRITER);
    host.start_container("once", "-v left:/data", WRITER);
    until("the first line", || host.docker("exec always cat /data/last").ok());
    host.dockerd.kill();
    host.dockerd.start_again();
    // Mounted again under the same ID by another life of dockerd: counted once.
    until("the container to be restarted", || (state(&host, "always") == "running:0").then_some(()));
    until("the restart to be told", || (holders(&host.wire, "kept").len() == 1).then_some(()));
    assert_eq!(holders(&host.wire, "kept")[0].1, 1);
    host.docker("rm -f always").unwrap();
    assert_eq!(holders(&host.wire, "kept"), []);
    host.docker("start once").unwrap();
    host.docker("rm -f once").unwrap();
    assert_eq!(holders(&host.wire, "left"), []);
    for volume in ["kept", "left"] {
        host.docker(&format!("volume rm {volume}")).unwrap();
    }
}

#[test]
fn the_hold_of_a_container_that_died_with_dockerd_and_never_came_back_is_reaped() {
    let machine = Machine::start();
    let mut host = Host::start_with(&machine, IMPATIENT);
    host.docker("volume create -d kato -o class=ext4 -o size=64MiB db").unwrap();
    host.start_container("gone", "-v db:/data", WRITER);
    host.start_container("stays", "-v other:/data", "sleep 600");
    until("the first line", || host.docker("exec gone cat /data/last").ok());
    host.dockerd.kill();
    host.dockerd.start_again();
    host.docker("rm -f gone").unwrap();
    host.docker("start stays").unwrap();
    until("the hold to be taken back", || holders(&host.wire, "db").is_empty().then_some(()));
    host.docker("volume rm db").unwrap();
    assert_eq!(holders(&host.wire, "other").len(), 1, "a hold that is in use was taken back");
    host.docker("exec stays touch /data/file").unwrap();
    host.docker("rm -f stays").unwrap();
}

#[test]
fn containers_that_outlive_dockerd_keep_their_volumes() {
    let machine = Machine::start();
    let mut host = Host::start_with_live_restore(&machine);
    host.start_container("writer", "-v db:/data", WRITER);
    let before = wait_for_lines(&host, "writer", 5);
    let held = holders(&host.wire, "db");
    host.dockerd.kill();
    assert_eq!(holders(&host.wire, "db"), held);
    host.dockerd.start_again();
    assert!(wait_for_lines(&host, "writer", 5) > before);
    assert_eq!(state(&host, "writer"), "running:0");
    host.docker("stop -t 0 writer").unwrap();
    assert_eq!(holders(&host.wire, "db"), []);
    host.docker("start writer").unwrap();
    wait_for_lines(&host, "writer", 5);
    host.docker("rm -f writer").unwrap();
    assert_eq!(holders(&host.wire, "db"), []);
}

#[test]
fn a_copy_out_of_a_container_that_outlived_dockerd_does_not_take_its_volume_away() {
    let machine = Machine::start();
    let mut host = Host::start_with_live_restore(&machine);
    for class in ["default", "ext4"] {
        host.docker(&format!("volume create -d kato -o class={class} -o size=64MiB {class}")).unwrap();
        host.start_container(&format!("{class}-writer"), &format!("-v {class}:/data"), WRITER);
    }
    host.dockerd.kill();
    host.dockerd.start_again();
    for class in ["default", "ext4"] {
        let writer = format!("{class}-writer");
        wait_for_lines(&host, &writer, 5);
        let copied = machine.folder().join(class);
        let from = format!("{writer}:/data/log");
        host.dockerd.docker(&["cp", &from, &copied.display().to_string()]).unwrap();
        assert!(fs::read_to_string(&copied).unwrap().starts_with("1\n"));
        // dockerd 20.10 has given back the only hold here. The container still has the mount, and its bytes count.
        wait_for_lines(&host, &writer, 10);
        assert_eq!(state(&host, &writer), "running:0");
        let last = written(&host, &writer);
        host.docker(&format!("rm -f {writer}")).unwrap();
        let lines = host.run(&format!("-v {class}:/data"), "wc -l < /data/log").unwrap();
        assert!(lines.parse::<u64>().unwrap() >= last, "{lines} of {last}");
        assert_eq!(holders(&host.wire, class), []);
        until("the volume to be free", || host.docker(&format!("volume rm {class}")).ok());
    }
}

#[test]
fn the_hold_of_a_container_that_outlived_dockerd_is_not_reaped() {
    let machine = Machine::start();
    let mut host = Host::start_with_live_restore_and(&machine, IMPATIENT);
    host.docker("volume create -d kato -o class=ext4 -o size=64MiB db").unwrap();
    host.start_container("writer", "-v db:/data", WRITER);
    host.start_container("ends", "-v other:/data", "sleep 600");
    let held = holders(&host.wire, "db");
    let pid = host.docker("inspect --format {{.State.Pid}} ends").unwrap();
    host.dockerd.kill();
    // Both were asked for by a dockerd that is dead. Only one of them is still in use: when the other one is taken
    // back, this one had every reason to be.
    assert!(machine.shell(&format!("kill -9 {pid}")).status.success());
    until("the other hold to be taken back", || holders(&host.wire, "other").is_empty().then_some(()));
    assert_eq!(holders(&host.wire, "db"), held);
    host.dockerd.start_again();
    wait_for_lines(&host, "writer", 5);
    host.docker("rm -f writer").unwrap();
    assert_eq!(holders(&host.wire, "db"), []);
}

#[test]
fn a_planned_stop_of_dockerd_gives_every_volume_back() {
    let machine = Machine::start();
    let mut host = Host::start(&machine);
    host.start_container("writer", "-v db:/data", "sleep 600");
    host.dockerd.stop();
    assert_eq!(holders(&host.wire, "db"), []);
    host.dockerd.start_again();
    host.docker("start writer").unwrap();
    assert_eq!(holders(&host.wire, "db").len(), 1);
    host.docker("rm -f writer").unwrap();
}

#[test]
fn a_dockerd_that_started_without_the_daemon_finds_its_volumes_later() {
    let machine = Machine::start();
    let mut host = Host::start(&machine);
    host.docker("volume create -d kato --label kept=yes db").unwrap();
    host.start_container("user", "-v db:/data", "echo bytes > /data/file; sleep 600");
    host.dockerd.stop();
    host.daemon.stop();
    host.dockerd.start_again();
    host.daemon.start_again();
    let labels = host.docker("volume inspect --format {{.Labels}} db");
    assert_eq!(labels.as_deref(), Ok("map[kept:yes]"));
    host.docker("start user").unwrap();
    assert_eq!(host.docker("exec user cat /data/file").as_deref(), Ok("bytes"));
    host.docker("rm -f user").unwrap();
    assert_eq!(holders(&host.wire, "db"), []);
}

#[test]
fn a_daemon_that_is_away_for_a_moment_is_waited_for() {
    let machine = Machine::start();
    let mut host = Host::start(&machine);
    host.docker("volume create -d kato --label kept=yes db").unwrap();
    host.daemon.kill();
    let mut later = host.dockerd.command();
    later.args(["volume", "inspect", "--format", "{{.Labels}}", "db"]);
    let asked = later.stdout(std::process::Stdio::piped()).spawn().unwrap();
    host.daemon.start_again();
    let answer = asked.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "map[kept:yes]");
}

#[test]
fn nothing_is_lost_when_both_are_killed() {
    let machine = Machine::start();
    let mut host = Host::start(&machine);
    host.start_container("writer", "--restart always -v db:/data", WRITER);
    wait_for_lines(&host, "writer", 10);
    host.daemon.kill();
    host.dockerd.kill();
    host.daemon.start_again();
    host.dockerd.start_again();
    until("the container to be restarted", || (state(&host, "writer") == "running:0").then_some(()));
    assert!(wait_for_lines(&host, "writer", 5) > 5);
    host.docker("rm -f writer").unwrap();
    assert_eq!(holders(&host.wire, "db"), []);
    assert_eq!(host.run("-v db:/data", "head -n 1 /data/log").as_deref(), Ok("1"));
    assert_eq!(host.wire.done("List", json!({}))["Volumes"], json!([{"Name": "db"}]));
}
