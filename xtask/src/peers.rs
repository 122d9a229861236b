//! The programs that the tests talk to, where Debian keeps them, and why they are wanted. What is there is
//! left alone; what is missing is installed where that is possible, and said aloud where it is not.

use std::fs;

use crate::{
    parts::Part,
    shell::{Failure, Fallible, Shell, find_program, is_ci, is_root, run},
};

struct Peer {
    program: &'static str,
    package: &'static str,
    why: &'static str,
    parts: &'static [&'static str],
}

const PEERS: &[Peer] = &[
    Peer {
        program: "dockerd",
        package: "docker.io",
        why: "the Docker door is tested by a real dockerd",
        parts: &["docker", "deploy", "bench-smoke", "bench"],
    },
    Peer {
        program: "docker",
        package: "docker-cli",
        why: "the tests type what a person would; newer Debians package it apart from the daemon",
        parts: &["docker", "deploy", "bench-smoke", "bench", "managed-plugin"],
    },
    Peer {
        program: "podman",
        package: "podman",
        why: "the other one who speaks Docker's protocol for volumes",
        parts: &["docker"],
    },
    Peer {
        program: "docker-registry",
        package: "docker-registry",
        why: "the managed plugin is pushed to it, installed from it and upgraded by it",
        parts: &["docker"],
    },
    Peer {
        program: "socat",
        package: "socat",
        why: "brings a dockerd that comes by TLS to the door",
        parts: &["docker"],
    },
    Peer {
        program: "openssl",
        package: "openssl",
        why: "makes the certificates that servers prove themselves with",
        parts: &["docker", "sandbox"],
    },
    Peer {
        program: "busybox",
        package: "busybox-static",
        why: "the only program inside the containers of the tests, so it must be static",
        parts: &["docker", "deploy", "bench-smoke", "bench"],
    },
    Peer {
        program: "ip",
        package: "iproute2",
        why: "each test has a network of its own",
        parts: &["docker", "cli", "crash", "sandbox", "csi", "deploy", "bench-smoke", "bench"],
    },
    Peer {
        program: "mkfs.ext4",
        package: "e2fsprogs",
        why: "volumes with an ext4 filesystem",
        parts: &[
            "host",
            "docker",
            "crash",
            "cli",
            "csi",
            "deploy",
            "bench-smoke",
            "bench",
            "managed-plugin",
            "image",
        ],
    },
    Peer {
        program: "mkfs.xfs",
        package: "xfsprogs",
        why: "volumes with an xfs filesystem",
        parts: &["host", "docker", "crash", "cli", "csi", "deploy", "managed-plugin", "image"],
    },
    Peer {
        program: "systemd-analyze",
        package: "systemd",
        why: "checks the units, and starts the daemon by its socket",
        parts: &["cli"],
    },
    Peer {
        program: "curl",
        package: "curl",
        why: "asks the admin door as a person would",
        parts: &["cli", "docker"],
    },
    Peer { program: "fio", package: "fio", why: "the speed of data", parts: &["bench-smoke", "bench"] },
];

/// Parts that mount filesystems.
const NEEDS_ROOT: &[&str] = &["host", "docker", "crash", "cli", "csi", "deploy", "bench-smoke", "bench"];

/// Installs what these parts need and this machine lacks.
pub(crate) fn ensure(shell: &Shell, parts: &[&Part]) -> Fallible {
    let names: Vec<_> = parts.iter().map(|part| part.name).collect();
    ensure_for(shell, &names)
}

/// The same for names that need not be parts of the tests.
pub(crate) fn ensure_for(shell: &Shell, names: &[&str]) -> Fallible {
    let wants = |parts: &[&str]| parts.iter().any(|part| names.contains(part));
    if wants(NEEDS_ROOT) && !is_root() {
        complain(
            "some of these tests mount filesystems, which only root may do: run `sudo -E cargo xtask …`",
        )?;
    }
    let missing: Vec<_> = PEERS.iter().filter(|peer| wants(peer.parts) && !is_there(peer)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for peer in &missing {
        println!("missing: {} ({}): {}", peer.program, peer.package, peer.why);
    }
    let packages: Vec<_> = missing.iter().map(|peer| peer.package).collect();
    if find_program("apt-get").is_none() {
        return complain(&format!(
            "this machine has no apt: install by hand what Debian calls {}",
            packages.join(" ")
        ));
    }
    if !is_root() {
        return complain(&format!("only root may install them: sudo apt-get install {}", packages.join(" ")));
    }
    let mut update = shell.command("apt-get");
    if let Err(Failure::Because(reason)) =
        run(update.args(["update", "-qq"]).env("DEBIAN_FRONTEND", "noninteractive"))
    {
        eprintln!("warning: {reason}");
    }
    for peer in &missing {
        // An earlier package may have brought it, and one that fails shall not keep the others away.
        if !is_there(peer)
            && let Err(Failure::Because(reason)) = install(shell, peer.package)
        {
            eprintln!("warning: {reason}");
        }
    }
    let still: Vec<_> = missing.iter().filter(|peer| !is_there(peer)).map(|peer| peer.package).collect();
    if still.is_empty() {
        return Ok(());
    }
    complain(&format!("still missing: {}; the tests that need them will say so", still.join(" ")))
}

fn install(shell: &Shell, package: &str) -> Fallible {
    let mut install = shell.command("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends", package]);
    run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether the program is there, and is the one that we mean: busybox has to be a static one.
fn is_there(peer: &Peer) -> bool {
    let Some(path) = find_program(peer.program) else { return false };
    if peer.package != "busybox-static" {
        return true;
    }
    // A program that needs a loader names it; no static one does.
    fs::read(path).is_ok_and(|bytes| !bytes.windows(9).take(4096).any(|window| window == b"/ld-linux"))
}

fn complain(reason: &str) -> Fallible {
    if is_ci() {
        return Err(Failure::because(format!("{reason} (CI is set, so nothing is left out)")));
    }
    eprintln!("warning: {reason}");
    Ok(())
}
