//! What the operator decides for the node: where mounts stand, which directories are granted, where devices and
//! programs are found, and how patient we are. It is plain values; the daemon reads them from its own configuration.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use kato_orchestrator::model::VolumeId;
use serde::{Deserialize, Serialize};

use crate::{Accounts, server::Place};

/// What the operator decides for the node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's own folder: `mounts` and `locks` are made in it.
    pub root: PathBuf,
    /// How the places of mounted volumes are called.
    pub layout: Layout,
    /// The directories that backends were granted: loop devices over files beneath them are ours.
    pub granted: Vec<PathBuf>,
    /// Where callers may want paths of their own into volumes; empty for anywhere.
    pub roots: Vec<PathBuf>,
    /// The command line that ends in [`crate::worker_main`], such as `/usr/bin/kato node-worker`.
    pub worker: Vec<OsString>,
    /// Where mkfs and its like are looked for.
    pub programs: Vec<PathBuf>,
    /// Who this node is at its backends.
    pub accounts: Accounts,
    /// The ways to connect an image of Ceph that are tried, in this order.
    pub rbd: Vec<RbdDriver>,
    /// The ways to connect a unit behind iSCSI portals that are tried, in this order.
    pub iscsi: Vec<IscsiDriver>,
    /// What this node is called among initiators of iSCSI.
    pub initiator: String,
    /// Where open-iscsi keeps its records; distributions differ.
    pub iscsi_records: Vec<PathBuf>,
    /// Where the host's device nodes are, for finding devices: `/dev`, but for a container that has them elsewhere.
    pub dev: PathBuf,
    /// Where the host's sysfs is, for the same.
    pub sys: PathBuf,
    /// Whether servers of block devices may run in a process namespace that is not the host's.
    pub servers_anywhere: bool,
    /// How long a call to the kernel about one device may take.
    pub patience: Duration,
    /// How long a program that reads a whole device (mkfs, fsck) may take.
    pub long_patience: Duration,
    /// How many workers may be busy at once.
    pub workers: usize,
}

/// A way to make a block device of an image in Ceph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RbdDriver {
    /// The kernel's own client.
    Krbd,
    /// The kernel's network block device, with Ceph's server.
    Nbd,
    /// A server of QEMU's, behind FUSE and a loop device.
    Qemu,
}

/// A way to make a block device of a unit behind iSCSI portals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IscsiDriver {
    /// The kernel's own initiator.
    OpenIscsi,
    /// A server of QEMU's, behind FUSE and a loop device.
    Qemu,
}

/// How the places of mounted volumes are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `<root>/mounts/<volume id>`.
    Ids,
    /// `<this folder>/<volume name>` for names that are safe in a path, as REX-Ray has it; by id for others.
    Names(PathBuf),
}

impl Config {
    /// The defaults, for this folder and this worker.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, worker: Vec<OsString>) -> Self {
        Self {
            root: root.into(),
            layout: Layout::Ids,
            granted: Vec::new(),
            roots: Vec::new(),
            worker,
            programs: ["/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
                .map(PathBuf::from)
                .to_vec(),
            accounts: Accounts::default(),
            rbd: RbdDriver::ALL.to_vec(),
            iscsi: IscsiDriver::ALL.to_vec(),
            initiator: String::new(),
            iscsi_records: ["/etc/iscsi", "/var/lib/iscsi"].map(PathBuf::from).to_vec(),
            dev: "/dev".into(),
            sys: "/sys".into(),
            servers_anywhere: false,
            patience: Duration::from_secs(30),
            long_patience: Duration::from_secs(3600),
            workers: 64,
        }
    }

    /// The folder of all staging mounts.
    pub(crate) fn mounts(&self) -> PathBuf {
        match &self.layout {
            Layout::Ids => self.root.join("mounts"),
            Layout::Names(folder) => folder.clone(),
        }
    }

    /// The folders whose mounts are ours: those of today's layout, and of the other.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        vec![self.mounts(), self.root.join("mounts")]
    }

    /// Where userspace servers have their folders.
    pub(crate) fn servers(&self) -> Place {
        Place { folder: self.root.join("servers"), anywhere: self.servers_anywhere }
    }

    /// What a volume's place is called beneath it.
    pub(crate) fn segment(&self, volume: VolumeId, name: &str) -> String {
        match &self.layout {
            Layout::Names(_) if is_safe_segment(name) => name.to_owned(),
            Layout::Names(_) | Layout::Ids => volume.to_string(),
        }
    }
}

/// Whether a caller's name can stand in a path and is nobody's id.
fn is_safe_segment(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && VolumeId::parse(name).is_none()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@' | b'+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_paths_only_where_they_are_safe() {
        let mut config = Config::new("/r", Vec::new());
        let id = VolumeId(7);
        assert_eq!(config.segment(id, "db"), id.to_string());
        config.layout = Layout::Names("/v".into());
        assert_eq!(config.segment(id, "db-1.x"), "db-1.x");
        for odd in ["", ".", "..", "../x", "a/b", ".hidden", "a b", "a\n", &VolumeId(8).to_string()] {
            assert_eq!(config.segment(id, odd), id.to_string(), "{odd:?}");
        }
    }
}
