//! Those who speak the protocol besides dockerd next door: podman, and a dockerd that comes by TLS.

use std::fs;

use kato_tests::{
    daemon::Daemon,
    dockerd::Dockerd,
    machine::{Machine, until},
    podman::Podman,
};
use serde_json::{Value, json};

use super::holders;

#[test]
fn podman_makes_uses_and_removes_volumes() {
    let machine = Machine::start();
    let daemon = Daemon::start_with(&machine, "[node]\nreap-after = \"1s\"\n[limits]\ntidy-every = \"1s\"\n");
    let (wire, podman) = (super::wire(&daemon), Podman::prepare(&machine));
    podman
        .podman(&["volume", "create", "--driver", "kato", "-o", "class=ext4", "-o", "size=64MiB", "db"])
        .unwrap();
    assert_eq!(
        podman.podman(&["volume", "ls", "--format", "{{.Driver}} {{.Name}}"]).as_deref(),
        Ok("kato db")
    );
    let told = podman.podman(&["volume", "inspect", "db"]).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told[0]["Driver"], &told[0]["Status"]["class"]), (&json!("kato"), &json!("ext4")));
    assert_eq!(podman.run("--rm -v db:/data", "echo bytes > /data/file; ls /data").as_deref(), Ok("file"));
    assert_eq!(holders(&wire, "db"), []);

    // Two containers share podman's one mount of a volume, and it is given back with the last of them. Whoever
    // asked for it ended at once; the container still has it, so it is not reaped.
    podman.run("-d --name one -v db:/data", "sleep 600").unwrap();
    podman.run("-d --name two -v db:/data", "sleep 600").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert_eq!(holders(&wire, "db").len(), 1);
    let copied = machine.folder().join("copied");
    podman.podman(&["cp", "one:/data/file", &copied.display().to_string()]).unwrap();
    assert_eq!(fs::read_to_string(copied).unwrap(), "bytes\n");
    podman.podman(&["volume", "rm", "db"]).unwrap_err();
    podman.podman(&["rm", "-f", "-t", "0", "one"]).unwrap();
    assert_eq!(podman.podman(&["exec", "two", "cat", "/data/file"]).as_deref(), Ok("bytes"));
    assert_eq!(holders(&wire, "db").len(), 1);
    podman.podman(&["rm", "-f", "-t", "0", "two"]).unwrap();
    assert_eq!(holders(&wire, "db"), []);

    let refused =
        podman.podman(&["volume", "create", "--driver", "kato", "-o", "sise=1GiB", "other"]).unwrap_err();
    assert!(refused.contains("did you mean"), "{refused}");
    assert_eq!(podman.podman(&["volume", "ls", "-q"]).as_deref(), Ok("db"), "podman took a refusal for done");
    podman.podman(&["volume", "rm", "db"]).unwrap();
    assert_eq!(podman.podman(&["volume", "ls", "-q"]).as_deref(), Ok(""));
    assert_eq!(wire.done("List", json!({}))["Volumes"], json!([]));
}

#[test]
fn a_dockerd_that_comes_by_tls_proves_who_it_is_and_gets_its_volumes() {
    let machine = Machine::start();
    let daemon = Daemon::start(&machine);
    let keys = machine.folder().join("keys");
    fs::create_dir(&keys).unwrap();
    let done = |line: &str| {
        let told = machine.shell(&format!("cd {} && {line}", keys.display()));
        assert!(told.status.success(), "{line}: {}", String::from_utf8_lossy(&told.stderr));
    };
    let key = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    for (name, subject) in [("server", "/CN=localhost"), ("client", "/CN=client")] {
        done(&format!(
            "{key} -keyout {name}.key -out {name}.pem -subj {subject} -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
        ));
        done(&format!("cat {name}.key {name}.pem > {name}.both"));
    }
    let _socat = machine.spawn("socat", "socat.log", |command| {
        let keys = keys.display();
        command
            .arg(format!(
                "OPENSSL-LISTEN:7443,bind=127.0.0.1,reuseaddr,fork,cert={keys}/server.both,cafile={keys}/client.pem,verify=1"
            ))
            .arg("UNIX-CONNECT:/run/docker/plugins/kato.sock");
    });
    // Beside the machine's own folder of plugins, which only this machine sees.
    done("mount -t tmpfs tmpfs /etc/docker && mkdir /etc/docker/plugins");
    let spec = |client: &str| {
        let keys = keys.display();
        json!({
            "Name": "ignored",
            "Addr": "https://127.0.0.1:7443",
            "TLSConfig": {
                "InsecureSkipVerify": false,
                "CAFile": format!("{keys}/server.pem"),
                "CertFile": format!("{keys}/{client}.pem"),
                "KeyFile": format!("{keys}/{client}.key"),
            }
        })
        .to_string()
    };
    fs::write(machine.path("/etc/docker/plugins/remote.json"), spec("client")).unwrap();
    // Whoever is not known at the other end gets nowhere.
    fs::write(machine.path("/etc/docker/plugins/stranger.json"), spec("server")).unwrap();
    let dockerd = Dockerd::start(&machine);
    let docker = |words: &str| dockerd.docker(&words.split(' ').collect::<Vec<_>>());
    docker("volume create -d remote -o size=64MiB -o class=ext4 db").unwrap();
    docker("run --rm --network none --volume-driver remote -v db:/data busybox touch /data/file").unwrap();
    let seen = docker("run --rm --network none -v db:/data busybox ls /data");
    assert_eq!(seen.as_deref(), Ok("file"));
    assert_eq!(holders(&super::wire(&daemon), "db"), []);
    docker("volume rm db").unwrap();
    let mut refused = dockerd.docker_later(&["volume", "create", "-d", "stranger", "db"]);
    until("the stranger to be refused", || refused.try_wait().unwrap().filter(|status| !status.success()));
}
