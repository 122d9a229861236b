//! What takes minutes: dockerd's own patience, and ours beside it. Each test waits for real time to pass, so what
//! can be waited for together is, and the runner lets these run beside all others.

#![expect(clippy::disallowed_methods, reason = "measures how long a real dockerd waits")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use kato_orchestrator::testing::{Fault, Verb};
use kato_tests::{
    dockerd::Dockerd,
    machine::{Machine, until},
};
use serde_json::{Value, json};

use super::{
    inside::House,
    wire::{Plugin, Reply},
};

/// How long dockerd waits for a Mount.
const DOCKERDS: Duration = Duration::from_secs(120);

/// How a container fared.
struct Told {
    after: Duration,
    words: String,
}

/// Starts a container with a volume of this driver; it has to fail.
fn refused(dockerd: &Dockerd<'_>, driver: &str) -> Told {
    let begun = Instant::now();
    let volume = format!("{driver}-db:/vol");
    let words =
        ["run", "--rm", "--network", "none", "--volume-driver", driver, "-v", &volume, "busybox", "true"];
    let words = dockerd.docker(&words).unwrap_err();
    Told { after: begun.elapsed(), words }
}

async fn status(house: &House, name: &str) -> Value {
    house.call("Get", json!({"Name": name})).await["Volume"]["Status"].clone()
}

/// A driver whose mounts take so many seconds.
async fn slow_house(machine: &Machine, driver: &str, seconds: u32, our_patience: Option<u64>) -> House {
    let socket = machine.path(format!("/run/docker/plugins/{driver}.sock"));
    let house = House::at(&socket, |config| {
        if let Some(seconds) = our_patience {
            config.mount_seconds = seconds;
        }
    })
    .await;
    house.backend.lock().unwrap().fault(Verb::Attach, Fault::Pending(seconds / 2));
    house
}

/// Three drivers at once: ours, with a mount that is done after dockerd's patience; ours with a deadline of its
/// own beyond dockerd's; and one of the test's that never answers, to see what dockerd does by itself.
#[tokio::test(flavor = "multi_thread")]
async fn dockerd_waits_two_minutes_for_a_mount_and_whoever_gives_up_first_nothing_stays_held() {
    let machine = Machine::start();
    let kato = slow_house(&machine, "kato", 124, None).await;
    let late = slow_house(&machine, "late", 124, Some(200)).await;
    let (go, activate) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let answers = Arc::clone(&go);
    let silent =
        Plugin::serve(&machine.path("/run/docker/plugins/silent.sock"), move |operation, request| {
            match operation {
                "Get" => json!({"Volume": {"Name": request["Name"]}, "Err": ""}).into(),
                "Mount" => {
                    while !answers.load(Ordering::SeqCst) {
                        thread::sleep(Duration::from_millis(100));
                    }
                    Reply::Close
                }
                _ => json!({"Err": ""}).into(),
            }
        });
    let shakes = Arc::clone(&activate);
    Plugin::serve_with_handshake(
        &machine.path("/run/docker/plugins/mute.sock"),
        move || {
            while !shakes.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(100));
            }
        },
        |_, _| json!({"Err": "there is none"}).into(),
    );
    let dockerd = Dockerd::start(&machine);
    let (ours, theirs, unanswered, handshake) = thread::scope(|scope| {
        let mute = scope.spawn(|| {
            let begun = Instant::now();
            dockerd.docker(&["volume", "create", "-d", "mute", "db"]).unwrap_err();
            begun.elapsed()
        });
        let [ours, theirs, unanswered] = ["kato", "late", "silent"]
            .map(|driver| {
                scope.spawn({
                    let dockerd = &dockerd;
                    move || refused(dockerd, driver)
                })
            })
            .map(|told| told.join().unwrap());
        // Longer than any other deadline of dockerd's: this one has none.
        assert!(!mute.is_finished(), "the handshake has a deadline now");
        activate.store(true, Ordering::SeqCst);
        (ours, theirs, unanswered, mute.join().unwrap())
    });

    // Ours comes first, and is in words.
    let span = Duration::from_secs(108)..DOCKERDS;
    assert!(span.contains(&ours.after), "{:?}: {}", ours.after, ours.words);
    assert!(ours.words.contains("kato-db") && ours.words.contains("try again"), "{}", ours.words);
    for told in [&theirs, &unanswered] {
        assert!(told.after >= DOCKERDS - Duration::from_secs(1), "{:?}: {}", told.after, told.words);
        assert!(told.after < DOCKERDS + Duration::from_secs(15), "{:?}: {}", told.after, told.words);
    }
    assert!(handshake >= DOCKERDS - Duration::from_secs(1), "{handshake:?}");
    // dockerd asked once and never again: neither for the mount nor to undo it.
    assert_eq!((silent.ids("Mount").len(), silent.ids("Unmount").len()), (1, 0));
    go.store(true, Ordering::SeqCst);

    // The work went on, is nobody's, and is taken down.
    for (house, name) in [(&kato, "kato-db"), (&late, "late-db")] {
        let begun = Instant::now();
        while status(house, name).await["attachments"][0]["state"] != "attached" {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", status(house, name).await);
            assert_eq!(status(house, name).await["holders"], json!([]), "{name}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(status(house, name).await["holders"], json!([]), "{name}");
        while house.backend.lock().unwrap().attachments() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(90), "{}", status(house, name).await);
            house.hall.tidy().await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(house.call("Remove", json!({"Name": name})).await["Err"], "");
    }
    kato.close().await;
    late.close().await;
}

/// dockerd at its start with a plugin that is away: it waits a quarter of a minute for each volume, one after the
/// other, and leaves containers down that were to run always. What it knew of the volumes it keeps.
#[test]
fn dockerd_waits_for_each_volume_of_a_plugin_that_is_away_and_gives_its_containers_up() {
    let machine = Machine::start();
    let path = machine.folder().join("place");
    std::fs::create_dir_all(&path).unwrap();
    let path = path.display().to_string();
    let socket = machine.path("/run/docker/plugins/fake.sock");
    let answer = move |operation: &str, request: &Value| -> Reply {
        match operation {
            "Get" => json!({"Volume": {"Name": request["Name"], "Mountpoint": path}, "Err": ""}).into(),
            "Mount" => json!({"Mountpoint": path, "Err": ""}).into(),
            "List" => json!({"Volumes": []}).into(),
            _ => json!({"Err": ""}).into(),
        }
    };
    let plugin = Plugin::serve(&socket, answer.clone());
    let mut dockerd = Dockerd::start(&machine);
    for name in ["one", "two"] {
        dockerd.docker(&["volume", "create", "-d", "fake", "--label", "kept=yes", name]).unwrap();
    }
    let words = "run -d --restart always --name c1 --network none -v one:/vol busybox sleep 600";
    dockerd.docker(&words.split(' ').collect::<Vec<_>>()).unwrap();
    dockerd.kill();
    plugin.close(&socket);
    // What a plugin leaves behind that was killed: a name at which nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let begun = Instant::now();
    dockerd.start_again();
    until("the container to be given up", || {
        let state = dockerd.docker(&["inspect", "--format", "{{.State.Status}}", "c1"]).ok()?;
        (state == "exited").then_some(())
    });
    assert!(begun.elapsed() >= Duration::from_secs(28), "{:?} for two volumes", begun.elapsed());
    std::fs::remove_file(&socket).unwrap();
    let _plugin = Plugin::serve(&socket, answer);
    for name in ["one", "two"] {
        let labels = dockerd.docker(&["volume", "inspect", "--format", "{{.Labels}}", name]);
        assert_eq!(labels.as_deref(), Ok("map[kept:yes]"));
    }
    let state = dockerd.docker(&["inspect", "--format", "{{.State.Status}}", "c1"]);
    assert_eq!(state.as_deref(), Ok("exited"), "nobody starts it again");
}
