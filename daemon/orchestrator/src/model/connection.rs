//! How a node reaches the bytes of a volume. A plugin names it, the plugin host checks it against the
//! operator's grant, and the node makes it. Adding a way to connect adds a variant here, a shape in the
//! contract and a file under `node/connect/`.

/// How a node reaches the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// A directory beneath a granted directory of the host.
    Directory {
        /// The granted directory, an absolute path of the host's.
        root: String,
        /// The path beneath it, without `..` and without symlinks.
        path: String,
    },
    /// A file beneath a granted directory, whose bytes are the volume's.
    File {
        /// The granted directory, an absolute path of the host's.
        root: String,
        /// The path beneath it, without `..` and without symlinks.
        path: String,
    },
    /// A block device that appears on the node, found by an identity that outlives device names.
    Device {
        /// What kind of identity it is: `nvme-serial`, `wwid`, `virtio-serial`, `scsi-serial`, `by-id`.
        identity: String,
        /// The identity itself.
        value: String,
    },
    /// An image in a Ceph pool.
    Rbd {
        /// Whose grant says how the cluster is reached: a backend's name. Where the key lies differs from node to node.
        cluster: String,
        /// The pool.
        pool: String,
        /// The namespace, empty for the default one.
        namespace: String,
        /// The image.
        image: String,
        /// A snapshot of it, which is only read.
        snapshot: Option<String>,
    },
    /// A logical unit behind iSCSI portals.
    Iscsi {
        /// Whose grant has the account (CHAP) that opens the target: a backend's name. No secret is in a connection.
        backend: String,
        /// `address:port` of each portal; an IPv6 address is in brackets.
        portals: Vec<String>,
        /// The target's name.
        iqn: String,
        /// The logical unit.
        lun: u32,
        /// What to call the multipath map, if there is to be one.
        multipath: Option<String>,
        /// Who the node has to say that it is, where that is not its own name.
        initiator: Option<String>,
    },
    /// An export of an NBD server.
    Nbd {
        /// `host:port`, or the absolute path of a unix socket.
        server: String,
        /// The export's name.
        export: String,
    },
    /// A directory of an NFS server.
    Nfs {
        /// The server.
        server: String,
        /// The exported path.
        path: String,
        /// Mount options that the backend wants.
        options: Vec<String>,
    },
}

impl Connection {
    /// The kind's name, as it is spelt in the contract, in grants and for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "directory",
            Self::File { .. } => "file",
            Self::Device { .. } => "device",
            Self::Rbd { .. } => "rbd",
            Self::Iscsi { .. } => "iscsi",
            Self::Nbd { .. } => "nbd",
            Self::Nfs { .. } => "nfs",
        }
    }

    /// Whether the node finds a filesystem there already, so that it neither formats nor grows one.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. } | Self::Nfs { .. })
    }
}
