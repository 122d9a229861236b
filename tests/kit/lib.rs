//! What the suites share: peers that are started for one test, and a daemon to test.

pub mod apart;
pub mod aws;
pub mod ceph;
pub mod csi;
pub mod daemon;
pub mod dockerd;
pub mod machine;
pub mod podman;
