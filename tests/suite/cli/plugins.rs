//! Which component a backend is made of, and that nobody changes it behind the operator's back: a plugin is
//! pinned by the digest of its bytes, and those bytes are looked at again each time that they are loaded.

use std::{fs, path::PathBuf};

use kato_tests::{daemon::Daemon, machine::Machine};
use serde_json::Value;

use super::{done, failed, text};

/// The local plugin, saying that it is this version: another component, with another digest.
fn of_version(version: &[u8; 5]) -> Vec<u8> {
    let own = b"version = \"0.1.0\"";
    let mut component = kato_plugin_host::embedded::component("local").unwrap().to_vec();
    let places: Vec<_> =
        (0..component.len() - own.len()).filter(|&at| component[at..].starts_with(own)).collect();
    for at in &places {
        component[at + 11..at + 16].copy_from_slice(version);
    }
    assert!(!places.is_empty(), "the manifest says the version");
    component
}

fn json(output: &std::process::Output) -> Value {
    serde_json::from_str(&done(output)).unwrap()
}

/// Installs a component and answers its digest.
fn install(machine: &Machine, daemon: &Daemon<'_>, name: &str, bytes: &[u8]) -> String {
    let file = machine.folder().join(name);
    fs::write(&file, bytes).unwrap();
    done(&daemon.kato(&["plugin", "install", text(&file)]));
    let looked = json(&daemon.kato(&["plugin", "inspect", text(&file), "-o", "json"]));
    looked["digest"].as_str().unwrap().to_owned()
}

/// Why the backend is broken, if it is.
fn broken(daemon: &Daemon<'_>) -> Option<String> {
    let listed = json(&daemon.kato(&["backend", "ls", "-o", "json"]));
    let mine = listed.as_array().unwrap().iter().find(|backend| backend["name"] == "mine").unwrap().clone();
    (!mine["usable"].as_bool().unwrap()).then(|| mine["problem"].to_string())
}

#[test]
fn a_swapped_plugin_is_not_loaded_and_an_older_one_not_in_silence() {
    let machine = Machine::start();
    let data = machine.folder().join("mine");
    fs::create_dir(&data).unwrap();
    let mut daemon = Daemon::start(&machine);
    let config = machine.folder().join("kato.toml");
    let plain = fs::read_to_string(&config).unwrap();
    let made_of = |digest: &str| {
        let sections = format!(
            "[backend.mine]\nplugin = \"sha256:{digest}\"\n[backend.mine.grants]\n\
             directories = {{ data = \"{}\" }}\nconnections = {{ directory = true }}\n\
             [class.mine]\nbackend = \"mine\"\n",
            data.display()
        );
        fs::write(&config, plain.clone() + &sections).unwrap();
    };
    let (older, newer) = (of_version(b"0.2.0"), of_version(b"0.3.0"));
    let old = install(&machine, &daemon, "older.wasm", &older);
    let new = install(&machine, &daemon, "newer.wasm", &newer);
    assert_ne!(old, new);
    // Three of them have one name, so the name picks none.
    assert!(failed(&daemon.kato(&["plugin", "inspect", "local"]), 4).contains("digest"));

    made_of(&new);
    done(&daemon.kato(&["config", "reload"]));
    assert_eq!(broken(&daemon), None);
    done(&daemon.kato(&["volume", "create", "one", "--class", "mine"]));

    // The older one in the newer one's place. What runs was read before, and is what was looked at.
    let kept =
        |digest: &str| -> PathBuf { machine.folder().join("kato/plugins").join(format!("{digest}.wasm")) };
    fs::write(kept(&new), &older).unwrap();
    done(&daemon.kato(&["volume", "create", "two", "--class", "mine"]));
    daemon.stop();
    daemon.start_again();
    let why = broken(&daemon).expect("the swapped plugin was loaded");
    assert!(why.contains("is not what it was"), "{why}");
    // The others go on, and its own volumes are still known.
    done(&daemon.kato(&["volume", "create", "elsewhere"]));
    assert!(done(&daemon.kato(&["volume", "ls", "-q"])).contains("one"));
    let refused = failed(&daemon.kato(&["volume", "create", "three", "--class", "mine"]), 75);
    assert!(refused.contains("install it again"), "{refused}");
    // Installing it again puts it right.
    assert_eq!(install(&machine, &daemon, "newer.wasm", &newer), new);
    done(&daemon.kato(&["config", "reload"]));
    assert_eq!(broken(&daemon), None);
    done(&daemon.kato(&["volume", "create", "three", "--class", "mine"]));

    // The operator may go back to an older one, by saying so; the log says what that was.
    made_of(&old);
    done(&daemon.kato(&["config", "reload"]));
    assert_eq!(broken(&daemon), None);
    done(&daemon.kato(&["volume", "rm", "one", "two", "three"]));
    let log = daemon.log();
    let told = log.lines().find(|line| line.contains("an older version of a plugin took the place"));
    assert!(told.is_some_and(|line| line.contains("0.3.0") && line.contains("0.2.0")), "{told:?}");
}
