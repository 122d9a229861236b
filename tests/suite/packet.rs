//! What needs Packet's block storage, of which the kit has a model over a real iSCSI target: `model` and `target` ask that
//! whether it is what it pretends to be; `backend`, the suite that every backend is asked; `docker`, from a container to an
//! empty project; `faults`, of the API's; `data`, of the target's; `kills`, of the daemon.

#![expect(
    clippy::disallowed_methods,
    reason = "starts an initiator that is nobody's of ours, measures how long an answer takes, and takes the number of kills \
              from `cargo xtask soak`"
)]

mod backend;
pub(crate) mod client;
mod data;
mod docker;
mod faults;
mod ground;
mod kills;
mod model;
mod target;
