//! The configuration as a person writes it, without any daemon.

use std::{fs, path::Path};

use super::{command, done, failed, kato, text};

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    fs::read_to_string(&path).unwrap_or_default()
}

#[test]
fn every_mistake_is_told_at_once_with_its_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::create_dir(folder.path().join("conf.d")).unwrap();
    fs::write(&file, "[node]\nidd = \"a\"\n\n[docker]\nscope = \"globl\"\nimplicit = \"yes\"\n").unwrap();
    let piece = folder.path().join("conf.d/10-classes.toml");
    fs::write(&piece, "[class.fast]\nbackend = \"locl\"\ndefault-size = \"10 apples\"\n[csi]\nx = 1\n")
        .unwrap();
    let output = command(&["config", "check", "--config", text(&file), "--set", "log.level=loud"])
        .env("KATO__STORE__KIND", "etcd")
        .output()
        .unwrap();
    let told = failed(&output, 78);
    let (main, piece) = (text(&file), text(&piece));
    for line in [
        format!("{main}:2: node.idd: there is no such key; did you mean \"id\"?"),
        format!("{main}:5: docker.scope: \"globl\" is none of auto, local, global; did you mean \"global\"?"),
        format!("{main}:6: docker.implicit: this has to be true or false, not text"),
        format!("{piece}:2: class.fast.backend: there is no backend \"locl\"; did you mean \"local\"?"),
        format!("{piece}:5: csi.x: there is no such key"),
        "store.kind: \"etcd\" needs store.etcd.endpoints".to_owned(),
        "command line --set log.level=loud: log.level".to_owned(),
    ] {
        assert!(told.contains(&line), "{line}\nis not in\n{told}");
    }
    assert!(told.contains(&format!("{piece}:3: class.fast.default-size")), "{told}");
    assert!(told.starts_with("kato: the configuration has 8 mistakes:"), "{told}");

    // The daemon refuses it with the same words, and so does every command that needs to know it.
    let serve = command(&["serve", "--config", text(&file), "--set", "log.level=loud"])
        .env("KATO__STORE__KIND", "etcd")
        .output()
        .unwrap();
    assert_eq!(failed(&serve, 78), told);
}

#[test]
fn a_file_that_is_named_has_to_be_there_and_the_usual_one_need_not() {
    let told = failed(&kato(&["config", "check", "--config", "/nowhere/config.toml"]), 78);
    assert!(told.contains("/nowhere/config.toml") && told.contains("cannot be read"), "{told}");
    if !Path::new("/etc/kato").exists() {
        assert_eq!(done(&kato(&["config", "check"])), "The configuration has no mistakes.\n");
    }
}

#[test]
fn the_default_file_and_the_schema_are_golden() {
    for (words, name) in
        [(["config", "default"], "config.default.toml"), (["config", "schema"], "config.schema.json")]
    {
        let now = done(&kato(&words));
        assert!(
            now == golden(name),
            "run `kato {} > tests/golden/{name}` and look at the change",
            words.join(" ")
        );
    }
}

#[test]
fn the_golden_default_file_is_a_configuration_that_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, golden("config.default.toml")).unwrap();
    assert_eq!(done(&kato(&["config", "show", "--config", text(&file)])), "");
    let effective = ["config", "show", "--effective", "-o", "json", "--config"];
    let with = done(&kato(&[&effective[..], &[text(&file)]].concat()));
    fs::write(&file, "").unwrap();
    assert_eq!(with, done(&kato(&[&effective[..], &[text(&file)]].concat())));
}

#[test]
fn what_is_in_force_is_shown_with_its_place_and_can_be_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, "[node]\nid = \"a\"\n").unwrap();
    let output = command(&["config", "show", "--effective", "--config", text(&file)])
        .env("KATO__NODE__REAP_AFTER", "3m")
        .output()
        .unwrap();
    let shown = done(&output);
    assert!(shown.contains(&format!("id = \"a\"  # {}:2\n", text(&file))), "{shown}");
    assert!(shown.contains("reap-after = \"3m\"  # environment KATO__NODE__REAP_AFTER\n"), "{shown}");
    assert!(shown.contains("idle-grace = \"30s\"  # default\n"), "{shown}");
    fs::write(&file, &shown).unwrap();
    assert_eq!(
        done(&kato(&["config", "check", "--config", text(&file)])),
        "The configuration has no mistakes.\n"
    );
}
