//! The host suite: what the port `Host` promises, held against a real kernel. `ground.rs` gives each test a
//! folder, a node and volumes, and takes every mount and loop device away again, however the test ends. The
//! rest is by theme: `promises.rs` what every host does (the hall's fake too), `formats.rs` what is never
//! written over, `growth.rs`, `holders.rs` who keeps what, `health.rs` what breaks below a mount, `stalls.rs` what may hang,
//! `disks.rs` what a cloud attaches, `units.rs` and `initiators.rs` what is behind iSCSI, and `directories.rs`.
//!
//! Needs root and the kernel's loop driver.

mod directories;
mod disks;
mod formats;
pub(crate) mod ground;
mod growth;
mod health;
mod holders;
mod initiators;
mod promises;
mod stalls;
mod units;

/// The worker of the nodes that this suite makes: they start this very binary with `--ignored` and this name.
#[test]
#[ignore = "is a worker process: the suite starts it itself"]
fn node_worker() {
    let code = kato_node::worker_main();
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
}
