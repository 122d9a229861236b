//! The project's rules, as tests: which room may know which, how long a file may be, how things are called,
//! and that the contract with plugin authors does not change by accident. They look at manifests, at the text
//! of the sources and at nothing else, so they need no peer. A rule that is in the way is changed here, in
//! the open, together with the reason in ARCHITECTURE.md.
//!
//! `UPDATE_GOLDEN=1` rewrites the golden file of the contract after a deliberate change.

#![expect(
    clippy::disallowed_methods,
    reason = "asks cargo for the manifests and reads UPDATE_GOLDEN: neither is the house's business"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Our crates, and which of ours each may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("kato-orchestrator", &[]),
    ("kato-store", &["kato-orchestrator"]),
    ("kato-plugin-host", &["kato-orchestrator"]),
    ("kato-node", &["kato-orchestrator"]),
    ("kato-csi", &["kato-orchestrator"]),
    ("kato-docker-plugin", &["kato-orchestrator"]),
    (
        "kato",
        &[
            "kato-orchestrator",
            "kato-store",
            "kato-plugin-host",
            "kato-node",
            "kato-csi",
            "kato-docker-plugin",
        ],
    ),
    (
        "kato-tests",
        &[
            "kato",
            "kato-orchestrator",
            "kato-store",
            "kato-plugin-host",
            "kato-node",
            "kato-csi",
            "kato-docker-plugin",
        ],
    ),
    ("xtask", &[]),
];

/// Technologies, and the only rooms that may name them.
const TECHNOLOGIES: &[(&str, &[&str])] = &[
    ("aws-config", &["kato-plugin-host"]),
    ("aws-sigv4", &["kato-plugin-host"]),
    ("axum", &["kato", "kato-docker-plugin"]),
    ("etcd-client", &[]),
    ("hyper", &["kato", "kato-docker-plugin", "kato-plugin-host", "kato-tests"]),
    ("hyper-util", &["kato", "kato-docker-plugin", "kato-plugin-host", "kato-tests"]),
    ("prost", &["kato-csi", "kato-store", "kato-tests"]),
    ("prost-types", &["kato-csi"]),
    ("prost-reflect", &["kato-tests"]),
    ("protox", &["kato-csi", "kato-store", "kato-tests"]),
    ("rcgen", &["kato", "kato-tests"]),
    ("rustix", &["kato", "kato-docker-plugin", "kato-node", "kato-plugin-host", "kato-store", "kato-tests"]),
    ("sled", &["kato-store"]),
    ("tonic", &["kato-csi", "kato-store", "kato-tests"]),
    ("tonic-prost", &["kato-csi", "kato-store", "kato-tests"]),
    ("tonic-prost-build", &["kato-csi", "kato-store"]),
    ("wasmtime", &["kato-plugin-host"]),
    ("wasmtime-wasi", &["kato-plugin-host"]),
    ("wasmtime-wasi-http", &["kato-plugin-host"]),
];

/// What every backend's folder holds.
const PLUGIN_FILES: &[&str] = &[
    "plugin.toml",
    "README.md",
    "src/lib.rs",
    "src/config.rs",
    "src/api.rs",
    "src/convert.rs",
    "src/error.rs",
];

/// What every front door's folder holds, whatever its protocol.
const DOOR_FILES: &[&str] = &["src/lib.rs", "src/server.rs", "src/convert.rs", "src/error.rs"];

/// The longest file, in lines, without its tests.
const LONGEST_FILE: usize = 600;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("the tests stand in a folder of the repository").to_path_buf()
}

/// The packages of a workspace, without their dependencies' dependencies.
fn packages(manifest: &str) -> Vec<Value> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let answer = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(root().join(manifest))
        .output()
        .expect("cargo metadata starts");
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let metadata: Value = serde_json::from_slice(&answer.stdout).expect("cargo metadata answers JSON");
    metadata["packages"].as_array().expect("a list of packages").clone()
}

fn name_of(package: &Value) -> &str {
    package["name"].as_str().expect("a package has a name")
}

/// Direct dependencies of a package, those of its tests too.
fn dependencies(package: &Value) -> &[Value] {
    package["dependencies"].as_array().expect("a list of dependencies")
}

/// Every file of the repository whose name ends so, in a stable order.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository can be read").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else if name.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "there is no file that ends in {ending}");
    found
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The path as it is written in the repository.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The part of a source file that ships: everything before its tests.
fn without_tests(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap_or(source)
}

fn assert_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}\n  {}", offences.join("\n  "));
}

#[test]
fn arrows_point_inward() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    let packages = packages("Cargo.toml");
    let mut offences = Vec::new();
    for package in &packages {
        let name = name_of(package);
        let Some(allowed) = allowed.get(name) else {
            offences
                .push(format!("{name} is a new crate: give it a row here and a reason in ARCHITECTURE.md"));
            continue;
        };
        for dependency in dependencies(package) {
            let to = name_of(dependency);
            if !dependency["path"].is_null() && !allowed.contains(to) {
                offences.push(format!("{name} -> {to}"));
            }
        }
    }
    assert_eq!(packages.len(), ARROWS.len(), "a crate of the table is gone");
    assert_none("an arrow that is not on the map:", &offences);
}

#[test]
fn technologies_stay_in_their_rooms() {
    let mut offences = Vec::new();
    for package in packages("Cargo.toml") {
        for dependency in dependencies(&package) {
            for (technology, rooms) in TECHNOLOGIES {
                if name_of(dependency) == *technology && !rooms.contains(&name_of(&package)) {
                    offences.push(format!("{} sees {technology}", name_of(&package)));
                }
            }
        }
    }
    assert_none("a technology outside the rooms that may name it:", &offences);
}

#[test]
fn the_hall_does_no_io_and_reads_no_clock() {
    let mut offences = Vec::new();
    for package in packages("Cargo.toml").iter().filter(|package| name_of(package) == "kato-orchestrator") {
        for dependency in dependencies(package).iter().filter(|dependency| name_of(dependency) == "tokio") {
            let features = dependency["features"].as_array().expect("a list of features");
            for feature in features.iter().filter_map(Value::as_str) {
                if matches!(feature, "full" | "fs" | "net" | "process" | "io-std" | "signal") {
                    offences.push(format!("the hall asks for tokio's {feature}"));
                }
            }
        }
    }
    let banned = [
        "std::fs",
        "std::net",
        "std::process",
        "std::env",
        "tokio::fs",
        "tokio::net",
        "tokio::process",
        "tokio::time",
        "Instant::now",
        "SystemTime::now",
    ];
    for path in files(".rs").iter().filter(|path| shown(path).starts_with("daemon/orchestrator/src/")) {
        // The fakes stand outside of the hall: their clock is tokio's, which a test turns.
        if shown(path).starts_with("daemon/orchestrator/src/testing/") {
            continue;
        }
        let source = text(path);
        for word in banned {
            if without_tests(&source).contains(word) {
                offences.push(format!("{} says {word}", shown(path)));
            }
        }
    }
    assert_none("the hall reaches outside:", &offences);
}

#[test]
fn guests_see_the_sdk_alone() {
    let mut offences = Vec::new();
    for package in packages("plugins/Cargo.toml") {
        for dependency in dependencies(&package).iter().filter(|dependency| !dependency["path"].is_null()) {
            if name_of(dependency) != "kato-plugin-sdk" {
                offences.push(format!("{} -> {}", name_of(&package), name_of(dependency)));
            }
        }
    }
    assert_none("a guest that sees more than the SDK:", &offences);
}

#[test]
fn every_package_takes_our_lints_and_our_licence() {
    let mut offences = Vec::new();
    for manifest in ["Cargo.toml", "plugins/Cargo.toml"] {
        for package in packages(manifest) {
            let name = name_of(&package);
            if package["license"].as_str() != Some("Apache-2.0") {
                offences.push(format!("{name} names no licence"));
            }
            let path = package["manifest_path"].as_str().expect("a package has a manifest");
            if !text(Path::new(path)).contains("[lints]\nworkspace = true") {
                offences.push(format!("{name} does not take the workspace's lints"));
            }
        }
    }
    assert_none("a package out of line:", &offences);
    let licence = text(&root().join("LICENSE"));
    assert_eq!(
        hex(&Sha256::digest(licence.as_bytes())),
        "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
        "LICENSE is the Apache License 2.0 to the letter"
    );
}

#[test]
fn the_toolchain_is_pinned_exactly() {
    let toolchain = text(&root().join("rust-toolchain.toml"));
    let channel = toolchain
        .lines()
        .find_map(|line| line.strip_prefix("channel = \""))
        .expect("rust-toolchain.toml names a channel")
        .trim_end_matches('"');
    let numbers: Vec<_> = channel.split('.').map(str::parse::<u32>).collect();
    assert!(numbers.len() == 3 && numbers.iter().all(Result::is_ok), "{channel} upgrades people's machines");
    assert!(toolchain.contains("wasm32-wasip2"), "without the guests' target a first build fails late");
}

#[test]
fn every_file_says_what_it_is_for() {
    let offences: Vec<_> = files(".rs")
        .iter()
        .filter(|path| {
            let source = text(path);
            let header: usize = source
                .lines()
                .skip_while(|line| line.starts_with("#!"))
                .take_while(|line| line.starts_with("//!"))
                .map(str::len)
                .sum();
            // A short file may say what it is for in a sentence.
            header < if source.lines().count() < 150 { 24 } else { 40 }
        })
        .map(|path| shown(path))
        .collect();
    assert_none("a file without a header (`//!`, two to ten sentences):", &offences);
}

#[test]
fn files_are_short() {
    let offences: Vec<_> = files(".rs")
        .iter()
        .filter(|path| !shown(path).starts_with("tests/suite/"))
        .filter_map(|path| {
            let lines = without_tests(&text(path)).lines().count();
            (lines > LONGEST_FILE).then(|| format!("{}: {lines} lines", shown(path)))
        })
        .collect();
    assert_none(&format!("a file of more than {LONGEST_FILE} lines without its tests:"), &offences);
}

#[test]
fn no_file_is_a_drawer() {
    let drawers = ["utils", "util", "common", "helpers", "helper", "misc", "types", "base"];
    let offences: Vec<_> = files(".rs")
        .iter()
        .filter(|path| {
            let of_name = |name: Option<&std::ffi::OsStr>| {
                name.is_some_and(|name| drawers.contains(&name.to_string_lossy().as_ref()))
            };
            of_name(path.file_stem()) || of_name(path.parent().and_then(Path::file_name))
        })
        .map(|path| shown(path))
        .collect();
    assert_none("a file that could hold anything:", &offences);
}

#[test]
fn type_names_have_no_empty_words() {
    // "Data" may lead, because a data root is a thing of ours; at the end it says nothing.
    let anywhere = ["Manager", "Helper", "Helpers", "Util", "Utils", "Common", "Base", "Impl", "Info"];
    let mut offences = Vec::new();
    for path in files(".rs") {
        let source = text(&path);
        // What is indented is named by somebody else's trait.
        for line in source.lines().filter(|line| !line.starts_with(' ')) {
            let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
            let (Some("struct" | "enum" | "trait" | "type" | "union"), Some(rest)) =
                (words.next(), words.next())
            else {
                continue;
            };
            let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
            let words = words_of(&name);
            if words.iter().any(|word| anywhere.contains(&word.as_str()))
                || words.last().is_some_and(|word| word == "Data")
            {
                offences.push(format!("{}: {name}", shown(&path)));
            }
        }
    }
    assert_none("a type whose name says nothing:", &offences);
}

/// `MountInfo` is `Mount` and `Info`.
fn words_of(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for letter in name.chars() {
        match words.last_mut() {
            Some(word) if !letter.is_ascii_uppercase() => word.push(letter),
            _ => words.push(letter.to_string()),
        }
    }
    words
}

#[test]
fn nothing_is_left_to_be_done_later() {
    let marks =
        [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut offences = Vec::new();
    for path in files(".rs") {
        for (number, line) in text(&path).lines().enumerate() {
            let open_todo = line.contains(concat!("TO", "DO")) && !line.contains(concat!("TO", "DO(#"));
            if open_todo || marks.iter().any(|mark| line.contains(mark)) {
                offences.push(format!("{}:{}", shown(&path), number + 1));
            }
        }
    }
    assert_none("a promise without a number:", &offences);
}

#[test]
fn no_path_of_a_build_machine() {
    let paths = [
        concat!("/wo", "rk/main"),
        concat!("/wo", "rk/shared"),
        concat!("/ho", "me/"),
        concat!("/ro", "ot/."),
        concat!("bash", "_jobs"),
    ];
    let mut offences = Vec::new();
    for ending in [".rs", ".toml", ".md", ".wit", ".json", ".service", ".socket"] {
        let found = if ending.starts_with(".s") { find_units(ending) } else { files(ending) };
        for path in found {
            let source = text(&path);
            offences.extend(
                paths
                    .iter()
                    .filter(|word| source.contains(**word))
                    .map(|word| format!("{}: {word}", shown(&path))),
            );
        }
    }
    assert_none("a path of somebody's machine:", &offences);
}

#[test]
fn doors_are_alike() {
    let mut offences = Vec::new();
    for door in ["docker-plugin", "csi"] {
        let folder = root().join(door);
        let furnished = fs::read_dir(folder.join("src")).expect("a door has sources").count() > 1;
        if furnished {
            offences.extend(
                DOOR_FILES
                    .iter()
                    .filter(|file| !folder.join(file).is_file())
                    .map(|file| format!("{door}/{file}")),
            );
        } else {
            // A door that is not there yet must not be handed out as one.
            let lib = text(&folder.join("src/lib.rs"));
            assert!(!lib.contains("pub fn"), "{door} has code but not the files of a door");
        }
        for path in files(".rs").iter().filter(|path| shown(path).starts_with(&format!("{door}/src/"))) {
            let source = text(path);
            if !path.ends_with("server.rs") && without_tests(&source).contains("std::fs") {
                offences.push(format!("{} looks at files: only the server knows its socket", shown(path)));
            }
        }
    }
    assert_none("the doors differ:", &offences);
}

#[test]
fn plugins_are_alike() {
    let mut offences = Vec::new();
    let mut seen = 0;
    for package in packages("plugins/Cargo.toml") {
        let manifest = package["manifest_path"].as_str().expect("a package has a manifest");
        let folder = Path::new(manifest).parent().expect("a manifest is in a folder");
        if name_of(&package) == "kato-plugin-sdk" {
            continue;
        }
        seen += 1;
        offences.extend(
            PLUGIN_FILES
                .iter()
                .map(|file| folder.join(file))
                .filter(|path| !path.is_file())
                .map(|path| shown(&path)),
        );
    }
    assert!(seen > 0, "there is no plugin");
    assert_none("a plugin lacks a file that every plugin has:", &offences);
}

#[test]
fn the_contract_changes_only_on_purpose() {
    let golden = root().join("tests/golden/wit-v1.sha256");
    let mut lines = String::new();
    for path in files(".wit").iter().filter(|path| shown(path).starts_with("wit/v1/")) {
        lines.push_str(&format!("{}  {}\n", hex(&Sha256::digest(text(path).as_bytes())), shown(path)));
    }
    assert!(!lines.is_empty(), "wit/v1 is empty");
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &lines).expect("the golden file can be written");
    }
    assert_eq!(
        text(&golden),
        lines,
        "the contract with plugin authors is another than was agreed on: a shape that was released never changes, \
         only interfaces are added. If that is so, run this test with UPDATE_GOLDEN=1"
    );
}

#[test]
fn units_let_mounts_live() {
    let mut offences = Vec::new();
    let services = find_units(".service");
    assert!(!services.is_empty(), "there is no systemd unit");
    for path in services {
        let unit = text(&path);
        let lines: Vec<_> = unit.lines().map(str::trim).collect();
        for needed in ["Before=docker.service", "KillMode=process", "Type=notify"] {
            if !lines.contains(&needed) {
                offences.push(format!("{} lacks {needed}", shown(&path)));
            }
        }
        // Each of these gives the daemon a mount namespace of its own: its mounts would be seen by no container.
        for private in [
            "PrivateMounts",
            "PrivateTmp",
            "PrivateDevices",
            "ProtectSystem",
            "ProtectHome",
            "ProtectKernelTunables",
            "ProtectKernelModules",
            "ProtectKernelLogs",
            "ProtectControlGroups",
            "ReadOnlyPaths",
            "InaccessiblePaths",
            "BindPaths",
            "TemporaryFileSystem",
            "RootDirectory",
            "RootImage",
            "DynamicUser",
            "MountFlags=private",
            "MountFlags=slave",
            "BindsTo",
            "PartOf",
        ] {
            if lines.iter().any(|line| line.starts_with(private) && !line.ends_with("=no")) {
                offences.push(format!("{} says {private}", shown(&path)));
            }
        }
    }
    assert_none("a unit under which volumes are lost to containers:", &offences);
}

/// systemd's units in the repository; there may be none.
fn find_units(ending: &str) -> Vec<PathBuf> {
    ["daemon", "docker-plugin"]
        .iter()
        .flat_map(|room| walk(&root().join(room)))
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() { found.extend(walk(&entry.path())) } else { found.push(entry.path()) }
    }
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
