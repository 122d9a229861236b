//! The node: the port `Host` on Linux. It brings a volume's bytes to this machine, puts a filesystem on what
//! is blank, mounts it once, binds it where holders want it, and looks at all of it. It knows no volume by its
//! records, no backend and no door: it is told what to do and looks before it acts, so every step can be
//! repeated.
//!
//! Begin with `host.rs`. What can stall happens in `work.rs`, in processes of their own; `worker.rs` tells why.

mod accounts;
mod config;
mod host;

mod local;
mod survey;
mod task;
mod work;
mod worker;

mod connect;
mod fuse;
mod loopdev;
mod qmp;
mod server;

mod bind;
mod blocks;
mod check;
mod format;
mod freeze;
mod group;
mod grow;
mod mount;
mod root;
mod signature;
mod stray;

mod health;
mod holders;
mod usage;

mod command;
mod errno;
pub mod export;
mod kernel;

pub use self::{
    accounts::{Accounts, Ceph, Chap, Secret},
    config::{Config, IscsiDriver, Layout, RbdDriver},
    connect::iscsi::name::{initiator_of, is_initiator},
    host::LinuxHost,
    worker::worker_main,
};
