//! The programs that the tests talk to, where Debian keeps them, and why they are wanted. What is there is
//! left alone; what is missing is installed where that is possible (`apt.rs`), and said aloud where it is not.

use std::{fs, path::Path};

use crate::{
    apt,
    parts::Part,
    python,
    shell::{Failure, Fallible, Shell, find_program, is_ci, is_root},
};

struct Peer {
    /// Its name; a path when it is no program. A folder of the path that differs between machines is `*`.
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
        parts: &["docker", "ceph", "ebs", "packet", "deploy", "bench-smoke", "bench"],
    },
    Peer {
        program: "docker",
        package: "docker-cli",
        why: "the tests type what a person would; newer Debians package it apart from the daemon",
        parts: &["docker", "ceph", "ebs", "packet", "deploy", "bench-smoke", "bench", "managed-plugin"],
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
        parts: &["docker", "sandbox", "store"],
    },
    Peer {
        program: "busybox",
        package: "busybox-static",
        why: "the only program inside the containers of the tests, so it must be static",
        parts: &["docker", "ceph", "ebs", "packet", "deploy", "bench-smoke", "bench"],
    },
    Peer {
        program: "ip",
        package: "iproute2",
        why: "each test has a network of its own",
        parts: &[
            "hosts",
            "docker",
            "cli",
            "crash",
            "sandbox",
            "csi",
            "ceph",
            "copies",
            "ebs",
            "packet",
            "deploy",
            "bench-smoke",
            "bench",
        ],
    },
    Peer {
        program: "mkfs.ext4",
        package: "e2fsprogs",
        why: "volumes with an ext4 filesystem",
        parts: &[
            "hosts",
            "host",
            "backend",
            "docker",
            "crash",
            "cli",
            "csi",
            "ceph",
            "copies",
            "ebs",
            "packet",
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
        parts: &[
            "hosts",
            "host",
            "backend",
            "docker",
            "crash",
            "cli",
            "csi",
            "ceph",
            "copies",
            "ebs",
            "packet",
            "deploy",
            "managed-plugin",
            "image",
        ],
    },
    Peer {
        program: "mkfs.btrfs",
        package: "btrfs-progs",
        why: "a filesystem on which images share their blocks with copies of them",
        parts: &["backend", "csi"],
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
        parts: &["cli", "docker", "ebs"],
    },
    Peer {
        program: "ceph-mon",
        package: "ceph-mon",
        why: "a cluster of one node has a monitor",
        parts: &["hosts", "ceph"],
    },
    Peer {
        program: "ceph-mgr",
        package: "ceph-mgr",
        why: "without a manager no quota of the cluster is ever reached",
        parts: &["hosts", "ceph"],
    },
    Peer {
        program: "ceph-osd",
        package: "ceph-osd",
        why: "the cluster's bytes are there",
        parts: &["hosts", "ceph"],
    },
    Peer {
        program: "rbd",
        package: "ceph-common",
        why: "the rbd component has it run, and the tests look over its shoulder with it",
        parts: &["hosts", "ceph"],
    },
    Peer {
        program: "rados",
        package: "ceph-common",
        why: "what lies in a pool beneath the images",
        parts: &["hosts", "ceph"],
    },
    Peer {
        program: "rbd-fuse",
        package: "rbd-fuse",
        why: "a look at the bytes of an image, past who serves it",
        parts: &["hosts", "ceph"],
    },
    Peer {
        program: "qemu-storage-daemon",
        package: "qemu-system-common",
        why: "serves images where the kernel has no rbd, and logical units where it has no iSCSI",
        parts: &["hosts", "ceph", "host", "packet"],
    },
    Peer {
        program: "/usr/lib/*/qemu/block-rbd.so",
        package: "qemu-block-extra",
        why: "is how it speaks to Ceph",
        parts: &["hosts", "ceph"],
    },
    Peer {
        program: "etcd",
        package: "etcd-server",
        why: "the store of several hosts is tested with a real one, of one member and of three",
        parts: &["hosts", "store"],
    },
    Peer {
        program: "etcdctl",
        package: "etcd-client",
        why: "sets an etcd back, fills it up and gives it users",
        parts: &["hosts", "store"],
    },
    Peer {
        program: "strace",
        package: "strace",
        why: "makes the disk of an etcd slow",
        parts: &["hosts", "store"],
    },
    Peer {
        program: "/usr/lib/*/qemu/block-iscsi.so",
        package: "qemu-block-extra",
        why: "is how it speaks iSCSI",
        parts: &["host", "packet"],
    },
    Peer {
        program: "qemu-io",
        package: "qemu-utils",
        why: "reads and writes a logical unit past who serves it",
        parts: &["packet"],
    },
    Peer {
        program: "tgtd",
        package: "tgt",
        why: "an iSCSI target in user space",
        parts: &["host", "packet"],
    },
    Peer { program: "fio", package: "fio", why: "the speed of data", parts: &["bench-smoke", "bench"] },
];

/// Parts that mount filesystems.
const NEEDS_ROOT: &[&str] = &[
    "hosts",
    "host",
    "backend",
    "docker",
    "crash",
    "cli",
    "csi",
    "ceph",
    "copies",
    "ebs",
    "packet",
    "deploy",
    "bench-smoke",
    "bench",
];

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
    python::ensure_for(shell, names)?;
    let look = || PEERS.iter().filter(|peer| wants(peer.parts) && !is_there(peer)).collect::<Vec<_>>();
    let mut missing = look();
    // A package that is brought to another version may take a program away that is another package's then.
    for _ in 0..2 {
        if missing.is_empty() {
            return Ok(());
        }
        if !install(shell, &missing)? {
            return Ok(());
        }
        missing = look();
    }
    if missing.is_empty() {
        return Ok(());
    }
    complain(&format!(
        "still missing: {}; the tests that need them will say so",
        packages_of(&missing).join(" ")
    ))
}

/// Installs what is missing. Says so, and answers false, where that cannot be done.
fn install(shell: &Shell, missing: &[&Peer]) -> Fallible<bool> {
    for peer in missing {
        println!("missing: {} ({}): {}", peer.program, peer.package, peer.why);
    }
    let packages = packages_of(missing);
    if find_program("apt-get").is_none() {
        let names = packages.join(" ");
        complain(&format!("this machine has no apt: install by hand what Debian calls {names}"))?;
        return Ok(false);
    }
    if !is_root() {
        complain(&format!("only root may install them: sudo apt-get install {}", packages.join(" ")))?;
        return Ok(false);
    }
    warn(apt::update(shell));
    // All at once is one look at what needs what; but one that fails shall not keep the others away.
    warn(apt::install(shell, &packages));
    let fallback = if packages.len() > 1 { packages } else { Vec::new() };
    for package in fallback {
        if missing.iter().any(|peer| peer.package == package && !is_there(peer)) {
            warn(apt::install(shell, &[package]));
        }
    }
    Ok(true)
}

/// Each once, in the order of the table.
fn packages_of(peers: &[&Peer]) -> Vec<&'static str> {
    let mut packages: Vec<_> = peers.iter().map(|peer| peer.package).collect();
    packages.dedup();
    packages
}

fn warn(done: Fallible) {
    if let Err(Failure::Because(reason)) = done {
        eprintln!("warning: {reason}");
    }
}

/// Whether it is there, and is the one that we mean: busybox has to be a static one.
fn is_there(peer: &Peer) -> bool {
    if peer.program.starts_with('/') {
        return is_file(peer.program);
    }
    let Some(path) = find_program(peer.program) else { return false };
    if peer.package != "busybox-static" {
        return true;
    }
    // A program that needs a loader names it; no static one does.
    fs::read(path).is_ok_and(|bytes| !bytes.windows(9).take(4096).any(|window| window == b"/ld-linux"))
}

/// Whether there is a file of this path, whatever folder stands for its `*`.
fn is_file(path: &str) -> bool {
    let Some((before, after)) = path.split_once("/*/") else { return Path::new(path).is_file() };
    fs::read_dir(before).into_iter().flatten().flatten().any(|entry| entry.path().join(after).is_file())
}

/// Says what is missing; where nothing may be left out, it is a failure.
pub(crate) fn complain(reason: &str) -> Fallible {
    if is_ci() {
        return Err(Failure::because(format!("{reason} (CI is set, so nothing is left out)")));
    }
    eprintln!("warning: {reason}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_whatever_the_architecture_is_called() {
        assert!(is_file("/proc/*/status") && is_file("/proc/self/status"));
        assert!(!is_file("/proc/*/nothing-of-this-name") && !is_file("/nowhere/*/status"));
    }

    #[test]
    fn a_package_of_two_programs_is_installed_once() {
        let ceph: Vec<_> = PEERS.iter().filter(|peer| peer.package == "ceph-common").collect();
        assert_eq!((ceph.len(), packages_of(&ceph)), (2, vec!["ceph-common"]));
    }
}
