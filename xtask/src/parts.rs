//! What `cargo xtask test` is made of: its parts, in the order in which they run, with the minutes that each
//! may take on two quiet cores from a cold start. A part is either a stage (a cargo command or two) or a
//! module of the suite; stages run first, all chosen suites run last and together, so that the runner's
//! summary is the last word.

use crate::{
    bench,
    shell::{Failure, Fallible, GUEST_TARGET, Shell, run},
};

/// A piece of the tests that can be asked for by name.
#[derive(Debug)]
pub(crate) struct Part {
    /// What to type.
    pub(crate) name: &'static str,
    /// How long it may take, in minutes.
    pub(crate) budget: f64,
    /// What it tells.
    pub(crate) tells: &'static str,
    /// How it runs.
    pub(crate) kind: Kind,
}

/// How a part runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// As commands of its own, before the suites.
    Stage(fn(&Shell) -> Fallible),
    /// The tests beside the code, in the runner's one run.
    Unit,
    /// The suite's module of this name, in the runner's one run.
    Suite,
    /// The same, and what lies in this package's folder `tests`.
    SuiteAnd(&'static str),
}

/// Modules of the suite of which no two tests run side by side; `.config/nextest.toml` says why, and has them too.
pub(crate) const ONE_BY_ONE: &[&str] = &[
    "docker::",
    "host::",
    "cli::",
    "backend::",
    "csi::",
    "ceph::",
    "copies::",
    "ebs::",
    "packet::",
    "hosts::",
    "crash::kills",
    "deploy::image",
];

/// All parts.
pub(crate) const PARTS: &[Part] = &[
    Part { name: "check", budget: 6.0, tells: "format and lints, host and guests", kind: Kind::Stage(check) },
    Part {
        name: "build",
        budget: 9.0,
        tells: "the daemon, the guests, the test binaries",
        kind: Kind::Stage(build),
    },
    Part {
        name: "guests",
        budget: 0.5,
        tells: "the guests' own tests, on the host",
        kind: Kind::Stage(guests),
    },
    Part { name: "doc", budget: 2.0, tells: "examples of the published faces", kind: Kind::Stage(doc) },
    Part {
        name: "bench-smoke",
        budget: 1.0,
        tells: "every row of the bench once",
        kind: Kind::Stage(bench::smoke),
    },
    Part { name: "unit", budget: 0.5, tells: "tests beside the code", kind: Kind::Unit },
    Part { name: "hall", budget: 0.5, tells: "the operations over fakes", kind: Kind::Suite },
    Part {
        name: "store",
        budget: 3.0,
        tells: "one suite for every store, a real etcd, power cuts",
        kind: Kind::SuiteAnd("kato-store"),
    },
    Part { name: "host", budget: 1.0, tells: "real devices, filesystems and mounts", kind: Kind::Suite },
    Part { name: "backend", budget: 1.0, tells: "one suite for every backend", kind: Kind::Suite },
    Part { name: "sandbox", budget: 1.0, tells: "hostile guests", kind: Kind::Suite },
    Part { name: "docker", budget: 6.0, tells: "a real dockerd, and podman", kind: Kind::Suite },
    Part { name: "csi", budget: 3.0, tells: "the CSI door, by a real gRPC client", kind: Kind::Suite },
    Part { name: "ceph", budget: 4.0, tells: "a real Ceph cluster", kind: Kind::Suite },
    Part { name: "ebs", budget: 4.0, tells: "a model of Amazon EBS, by its own client", kind: Kind::Suite },
    Part { name: "packet", budget: 3.0, tells: "Packet's API over a real iSCSI target", kind: Kind::Suite },
    Part { name: "hosts", budget: 2.5, tells: "three hosts, a real etcd and a real Ceph", kind: Kind::Suite },
    Part { name: "copies", budget: 1.0, tells: "bytes between backends and files", kind: Kind::Suite },
    Part {
        name: "sim",
        budget: 4.5,
        tells: "many nodes, one set of records, all weathers",
        kind: Kind::Suite,
    },
    Part { name: "crash", budget: 1.0, tells: "kills at every port call", kind: Kind::Suite },
    Part { name: "cli", budget: 0.5, tells: "the command line against a daemon", kind: Kind::Suite },
    Part { name: "deploy", budget: 0.5, tells: "what orchestrators are told, the image", kind: Kind::Suite },
    Part { name: "tidy", budget: 0.25, tells: "the project's rules", kind: Kind::Suite },
];

/// The parts of these names, in the order of the table; all of them when nothing is named.
pub(crate) fn chosen(names: &[String]) -> Fallible<Vec<&'static Part>> {
    if let Some(unknown) = names.iter().find(|name| PARTS.iter().all(|part| part.name != name.as_str())) {
        let known: Vec<_> = PARTS.iter().map(|part| part.name).collect();
        return Err(Failure::because(format!(
            "there is no part called {unknown:?}: the parts are {}",
            known.join(", ")
        )));
    }
    Ok(PARTS.iter().filter(|part| names.is_empty() || names.iter().any(|name| name == part.name)).collect())
}

/// Format and lints. One selection of packages everywhere, so that features are resolved once and
/// dependencies are built once.
pub(crate) fn check(shell: &Shell) -> Fallible {
    run(&mut shell.cargo(&["fmt", "--all", "--check"]))?;
    let apart = shell.guest_manifests();
    for manifest in apart.iter().map(String::as_str).chain([bench::NATIVE]) {
        run(&mut shell.cargo(&["fmt", "--all", "--check", "--manifest-path", manifest]))?;
    }
    run(&mut shell.cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    for manifest in shell.guest_manifests() {
        run(&mut shell.cargo(&[
            "clippy",
            "--locked",
            "--workspace",
            "--manifest-path",
            &manifest,
            "--target",
            "wasm32-wasip2",
            "--target-dir",
            GUEST_TARGET,
            "--",
            "-D",
            "warnings",
        ]))?;
    }
    if crate::shell::find_program("cargo-deny").is_some() {
        run(&mut shell.cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]))?;
    }
    Ok(())
}

/// The daemon (the suites start it), with the guests embedded, and the test binaries.
pub(crate) fn build(shell: &Shell) -> Fallible {
    run(&mut shell.cargo(&["build", "--locked", "--workspace"]))?;
    run(&mut shell.cargo(&["test", "--quiet", "--locked", "--workspace", "--no-run"]))
}

/// The guests' conversions and clients are plain Rust: their tests run on the host. The hostile guests of the
/// sandbox suite have none; that suite is their test.
fn guests(shell: &Shell) -> Fallible {
    run(&mut shell.cargo(&[
        "test",
        "--quiet",
        "--locked",
        "--workspace",
        "--lib",
        "--manifest-path",
        "plugins/Cargo.toml",
        "--target-dir",
        GUEST_TARGET,
    ]))
}

/// Doc tests exist on the two published faces only.
fn doc(shell: &Shell) -> Fallible {
    run(&mut shell.cargo(&["test", "--quiet", "--locked", "--doc", "--package", "kato-orchestrator"]))?;
    run(&mut shell.cargo(&[
        "test",
        "--quiet",
        "--locked",
        "--doc",
        "--package",
        "kato-plugin-sdk",
        "--manifest-path",
        "plugins/Cargo.toml",
        "--target-dir",
        GUEST_TARGET,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_named_is_everything_and_names_keep_the_order_of_the_table() {
        let all = chosen(&[]).map(|parts| parts.len()).unwrap_or(0);
        assert_eq!(all, PARTS.len());
        let some = chosen(&["tidy".to_owned(), "hall".to_owned()]).unwrap_or_default();
        assert_eq!(some.iter().map(|part| part.name).collect::<Vec<_>>(), ["hall", "tidy"]);
        assert!(
            matches!(chosen(&["hal".to_owned()]), Err(Failure::Because(reason)) if reason.contains("hall"))
        );
    }
}
