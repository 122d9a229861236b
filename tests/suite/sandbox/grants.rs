//! What a guest reaches for: files beside its directory, connections to what is not its own, commands that
//! were not granted. (Requests are in `requests.rs`.)

use std::{os::unix::fs::symlink, path::Path};

use kato_orchestrator::{Kind, model::Connection, ports::backend::Effect};
use kato_plugin_host::{Grants, Limits};

use super::{Sandbox, assert_open, assert_told, create, quick, token, wish};

/// A directory beside the granted one, that no attack may touch.
fn secret(sandbox: &Sandbox) -> std::path::PathBuf {
    let secret = sandbox.data().parent().unwrap().join("secret");
    std::fs::create_dir_all(&secret).unwrap();
    std::fs::write(secret.join("key"), "hush").unwrap();
    symlink(&secret, sandbox.data().join("away")).unwrap();
    symlink("image", sandbox.data().join("near")).unwrap();
    std::fs::write(sandbox.data().join("image"), "x").unwrap();
    std::fs::create_dir_all(sandbox.data().join("volume")).unwrap();
    secret
}

fn is_untouched(secret: &Path) -> bool {
    std::fs::read(secret.join("key")).is_ok_and(|key| key == b"hush")
        && std::fs::read_dir(secret).is_ok_and(|entries| entries.count() == 1)
}

/// Paths that lead out, are spelt oddly, or hide.
const BAD: [&str; 14] = [
    "../secret/key",
    "volume/../../secret/key",
    "/etc/passwd",
    "//etc/passwd",
    "away/key",
    "away",
    "near",
    "image/",
    "./image",
    "volume//x",
    "",
    ".",
    "key\0",
    ".kato-copies/x",
];

#[tokio::test]
async fn no_path_leads_out_of_the_granted_directory() {
    let sandbox = Sandbox::new();
    let secret = secret(&sandbox);
    for behave in ["write", "read", "rename", "copy", "remove", "assemble"] {
        for path in BAD {
            // Replacing or removing a symlink itself touches nothing outside, and is the plugin's right.
            let own = matches!(path, "away" | "near");
            if own && matches!(behave, "write" | "rename" | "remove")
                || behave == "assemble" && !path.contains('.')
            {
                continue;
            }
            let error = sandbox.attack(behave, path, "").await.map(|_| ()).unwrap_err();
            assert_told(&error, &[]);
            assert_eq!(error.kind, Kind::PermissionDenied, "{behave} {path:?}: {error}");
            assert!(is_untouched(&secret), "{behave} {path:?}");
        }
    }
    sandbox.attack("write", "volume/x", "").await.unwrap();
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn wasi_gives_neither_files_nor_variables() {
    let sandbox = Sandbox::new();
    let error = sandbox.attack("wasi-files", "", "").await.map(|_| ()).unwrap_err();
    assert!(error.message.contains("wasi gave Err") && error.message.contains("and 0"), "{error}");
}

#[tokio::test]
async fn what_was_not_granted_or_not_asked_for_is_refused_by_name() {
    let sandbox = Sandbox::new();
    for (argument, name) in [("asked", "other"), ("unasked", "nowhere")] {
        let error = sandbox.attack("grant", argument, "").await.map(|_| ()).unwrap_err();
        assert_told(&error, &[name, "not granted"]);
        assert_eq!(error.kind, Kind::PermissionDenied);
    }
    // Granted, but the manifest does not ask for it.
    let grants = format!("directories = {{ nowhere = {:?} }}", sandbox.data());
    let error = sandbox.attack("grant", "unasked", &grants).await.map(|_| ()).unwrap_err();
    assert_told(&error, &["nowhere", "manifest"]);
}

#[tokio::test]
async fn the_root_of_the_disk_is_never_granted() {
    let sandbox = Sandbox::new();
    for path in ["/", "/etc", "/dev", "/var"] {
        let mut grants = Grants::default();
        grants.directories.insert("other".into(), path.into());
        let spec = kato_plugin_host::BackendSpec {
            name: kato_orchestrator::model::BackendName::parse("hostile").unwrap(),
            component: super::component(),
            configuration: std::collections::BTreeMap::new(),
            grants,
            limits: Limits::default(),
        };
        let error = sandbox.host.load(spec).await.map(|_| ()).unwrap_err();
        assert!(error.message.contains("cannot be granted"), "{path}: {error}");
    }
}

#[tokio::test]
async fn connections_lead_nowhere_but_where_they_are_granted() {
    let sandbox = Sandbox::new();
    let secret = secret(&sandbox);
    let grants = "connections = { directory = true, file = true, device = [\"wwid\"], nbd = [\"h:1\"], nfs = [\"h:/x\"] }";
    let made = sandbox.attack("directory", "volume", grants).await.unwrap();
    let root = sandbox.data().to_str().unwrap().to_owned();
    assert_eq!(made.connection, Some(Connection::Directory { root, path: "volume".into() }));
    sandbox.attack("file", "image", grants).await.unwrap();
    for (behave, argument) in [
        ("directory", "/"),
        ("directory", "."),
        ("directory", "away"),
        ("directory", "volume/"),
        ("directory", "volume/.."),
        ("directory", "image"),
        ("directory", "missing"),
        ("directory", "../secret"),
        ("file", "near"),
        ("file", "away/key"),
        ("file", "volume"),
        ("file", "/dev/vda"),
        ("device", "by-id sda"),
        ("device", "wwid ../../dev/vda"),
        ("device", "wwid "),
        ("nbd", "other:1"),
        ("nbd", "/run/docker.sock"),
        ("nfs", "h:/y"),
        ("nfs", "h:/x/../y"),
        ("nfs", "h:/x"),
    ] {
        let error = sandbox.attack(behave, argument, grants).await.map(|_| ()).unwrap_err();
        assert_open(&error, &[]);
        assert!(
            matches!(error.kind, Kind::PermissionDenied | Kind::NotFound),
            "{behave} {argument}: {error}"
        );
    }
    // Without a grant even the honest answer is refused.
    let error = sandbox.attack("directory", "volume", "").await.map(|_| ()).unwrap_err();
    assert_open(&error, &["kind directory", "not granted"]);
    assert!(is_untouched(&secret));
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn a_symlink_that_is_made_later_leads_nowhere_either() {
    let sandbox = Sandbox::new();
    let secret = secret(&sandbox);
    let behave = [("behave", "directory"), ("argument", "volume"), ("present", "yes")];
    let backend =
        sandbox.load("hostile", &behave, "connections = { directory = true }", quick()).await.unwrap();
    assert!(matches!(backend.create(wish(token())).await.unwrap(), Effect::Done(_)));
    std::fs::remove_dir(sandbox.data().join("volume")).unwrap();
    symlink(&secret, sandbox.data().join("volume")).unwrap();
    let error = create(&*backend).await.unwrap_err();
    assert_open(&error, &["symlink"]);
    assert_eq!(error.kind, Kind::PermissionDenied);
}

const COMMANDS: &str = "[commands]\necho = { line = \"/bin/echo made {image} {bytes} {mode:a|b}\" }\n\
     sleep = { line = \"/bin/sleep {int}\", timeout_ms = 300 }\n\
     flood = { line = \"/usr/bin/yes {word}\", timeout_ms = 20000 }\n\
     who = { line = \"/usr/bin/env sh -c {image}\" }";

#[tokio::test]
async fn only_granted_command_lines_are_run() {
    let sandbox = Sandbox::new();
    let said = |error: kato_orchestrator::Error| error.message;
    let good =
        sandbox.attack("command", "echo image=v-1;bytes=10;mode=a", COMMANDS).await.map(|_| ()).unwrap_err();
    assert_eq!(said(good), "0 made v-1 10 a");
    for argument in [
        "rm x=1",
        "echo image=--log-file;bytes=10;mode=a",
        "echo image=a/../b;bytes=10;mode=a",
        "echo image=v-1 --conf=/x;bytes=10;mode=a",
        "echo image=v-1;bytes=1e9;mode=a",
        "echo image=v-1;bytes=10;mode=c",
        "echo image=v-1;bytes=10;mode=a;more=x",
        "echo image=v-1;bytes=10",
    ] {
        let error = sandbox.attack("command", argument, COMMANDS).await.map(|_| ()).unwrap_err();
        assert_told(&error, &[]);
        assert_eq!(error.kind, Kind::PermissionDenied, "{argument}: {error}");
    }
    let error = sandbox.attack("command", "echo image=v;bytes=1;mode=a", "").await.map(|_| ()).unwrap_err();
    assert_told(&error, &["\"echo\"", "not granted"]);
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn a_command_runs_without_powers_and_dies_with_its_deadline() {
    let sandbox = Sandbox::new();
    let said = |error: kato_orchestrator::Error| error.message;
    let identity = sandbox.attack("command", "who image=id", COMMANDS).await.map(|_| ()).unwrap_err();
    if rustix::process::geteuid().is_root() {
        let identity = said(identity);
        assert!(identity.contains("uid=65534") && identity.contains("gid=65534"), "{identity}");
        assert!(!identity.contains("0(root)"), "{identity}");
    }
    let variables = said(sandbox.attack("command", "who image=env", COMMANDS).await.map(|_| ()).unwrap_err());
    assert!(!variables.contains("HOME=") && !variables.contains("CARGO"), "{variables}");
    let late = sandbox.attack("command", "sleep int=600", COMMANDS).await.map(|_| ()).unwrap_err();
    assert_open(&late, &["\"sleep\"", "within 300 ms"]);
    let flood = sandbox.attack("command", "flood word=x", COMMANDS).await.map(|_| ()).unwrap_err();
    assert_open(&flood, &["more than 8 MiB"]);
    sandbox.neighbour_is_well().await;
}
