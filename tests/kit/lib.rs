//! What the suites share: peers that are started for one test, and a daemon to test.

pub mod apart;
pub mod aws;
pub mod ceph;
mod clock;
pub mod csi;
pub mod daemon;
pub mod dockerd;
pub mod etcd;
mod http;
pub mod machine;
pub mod packet;
pub mod podman;
pub mod tgt;
