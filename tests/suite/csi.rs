//! The CSI suite: what the specification asks of a driver, and what its callers do, by real gRPC over a real socket.
//! `ground.rs` makes houses: the `local` plugin as the daemon carries it, a real node with loop devices, and doors of any
//! role. The rest is by theme: `volumes.rs` what a controller is asked, `nodes.rs` staging and publishing, `growth.rs`,
//! `snapshots.rs`, and `lost.rs` what holds while a controller's records are lost at any moment.

mod ground;
mod growth;
mod lost;
mod nodes;
mod snapshots;
mod volumes;
