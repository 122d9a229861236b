//! The machine under our feet: devices, filesystems, mounts. The hall names what it wants; the node looks
//! before it acts, so repeating a step is free. Paths that the node makes up are its own affair.
//!
//! Four traits, because no trait here has more than ten methods: [`Connections`] brings the bytes to the
//! node, [`Filesystems`] makes and mounts what is on them, [`Blocks`] moves them, [`Observations`] only looks.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    error::Error,
    model::{Bytes, Caller, Connection, DataRoot, FsType, VolumeId},
    ports::{backend::Blankness, blocks::Blocks},
};

/// The machine under our feet.
pub trait Host: Connections + Filesystems + Blocks + Observations + 'static {}

impl<T: Connections + Filesystems + Blocks + Observations + 'static> Host for T {}

/// What a connection became on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// A block device such as `/dev/loop3`, or the directory itself.
    pub path: String,
    /// How large it is; nothing for directories.
    pub size: Option<Bytes>,
    /// Who this node is to the backend there, for fencing.
    pub client: Option<String>,
}

/// How a filesystem is to be found or made on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// Which filesystem is made.
    pub fs: FsType,
    /// What the backend says of new volumes.
    pub blank: Blankness,
    /// Whether a make was begun before and may have been cut short: what is found then is not data.
    pub resumed: bool,
    /// How large the volume is; zero where nobody knows.
    pub size: Bytes,
}

/// How a volume is to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountWish {
    /// Which.
    pub volume: VolumeId,
    /// What it is called, where paths are to carry names.
    pub name: String,
    /// How it is reached.
    pub connection: Connection,
    /// Options of the filesystem.
    pub options: Vec<String>,
    /// Whether it may only be read.
    pub read_only: bool,
    /// What a container gets of it; made, owned and moded if it is not there and may be.
    pub root: DataRoot,
    /// How large the volume is; zero where nobody knows.
    pub size: Bytes,
}

/// A volume that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedAt {
    /// Where the filesystem is.
    pub path: String,
    /// Where the part is that a container gets.
    pub data: String,
    /// What it was connected as.
    pub device: Device,
    /// Whether the filesystem is smaller than its device.
    pub fs_behind: bool,
}

/// A path of somebody's own into a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// The mounted volume's data, or its device.
    pub from: String,
    /// Where it is wanted. Its parent is there; the last part is made if it is not, and taken away again with the bind.
    pub to: String,
    /// Whether nothing may be written through it.
    pub read_only: bool,
    /// Whether it is the device, which is bound to a file.
    pub device: bool,
    /// The group that everything beneath is given to first.
    pub group: Option<u32>,
}

impl Bind {
    /// Of a mounted volume's data.
    #[must_use]
    pub fn directory(from: &str, to: &str, read_only: bool) -> Self {
        Self { from: from.to_owned(), to: to.to_owned(), read_only, ..Self::default() }
    }
}

/// Something of ours that stands on this node and that nobody knows any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stray {
    /// A mount at one of our places.
    Mount(String),
    /// A device over something in a granted directory.
    Device(String),
}

/// How a filesystem came out of a grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grown {
    /// As large as its device.
    Done,
    /// This kernel refuses while it is mounted; the next mount does it.
    NeedsUnmount,
}

/// Bringing bytes to the node.
#[async_trait]
pub trait Connections: Send + Sync {
    /// Connects, or finds what is connected already.
    async fn connect(
        &self,
        volume: VolumeId,
        connection: &Connection,
        read_only: bool,
    ) -> Result<Device, Error>;

    /// Ends that, unless somebody still has it: then `InUse`, with the holder named. What is not connected is
    /// disconnected.
    async fn disconnect(&self, volume: VolumeId, connection: &Connection) -> Result<(), Error>;

    /// Makes the device as large as its bytes have become.
    async fn rescan(&self, volume: VolumeId, connection: &Connection, size: Bytes) -> Result<Bytes, Error>;
}

/// Making and mounting what is on the bytes.
#[async_trait]
pub trait Filesystems: Send + Sync {
    /// Makes a filesystem on a connected volume that is blank. What is not blank is refused as
    /// `Precondition`; an IO error is not blank. A device that is smaller than the volume is refused as `Unavailable`: it is
    /// not here yet, or is another disk.
    async fn format(&self, volume: VolumeId, connection: &Connection, how: &Prepare) -> Result<(), Error>;

    /// Connects, checks and repairs, grows offline where the filesystem is behind, and mounts; or finds it
    /// mounted. A device that is smaller than the volume is refused as by [`Filesystems::format`].
    async fn mount(&self, wish: &MountWish) -> Result<MountedAt, Error>;

    /// Unmounts and disconnects. What is not mounted is unmounted. While somebody else has the filesystem
    /// mounted, it is unmounted here, left connected, and `InUse` names the holder.
    async fn unmount(&self, volume: VolumeId, name: &str, connection: &Connection) -> Result<(), Error>;

    /// Takes down what stands here without a record. It is refused as `InUse` while anybody has it: an open file,
    /// another mount, another mount namespace; and where it holds the last bytes of a file that was removed. What
    /// is not ours is refused, and what is gone is taken down.
    async fn remove_stray(&self, volume: Option<VolumeId>, stray: &Stray) -> Result<(), Error>;

    /// Binds a mounted volume's data, or its device, to a path of the caller's choice.
    async fn bind(&self, volume: VolumeId, bind: &Bind) -> Result<(), Error>;

    /// Takes such a bind away, and the path where we made it. What stands there and is not this volume's stays, as far as
    /// `from` tells what is; it is empty where nobody knows any more.
    async fn unbind(&self, volume: VolumeId, bind: &Bind) -> Result<(), Error>;

    /// Holds all writes, until [`Filesystems::thaw`] or at most this long.
    async fn freeze(&self, volume: VolumeId, path: &str, at_most: Duration) -> Result<(), Error>;

    /// Lets them go on, and answers whether they were held until now: false says that the limit ran out, or
    /// that nothing was frozen.
    async fn thaw(&self, volume: VolumeId, path: &str) -> Result<bool, Error>;

    /// Makes a mounted filesystem as large as its device.
    async fn grow(&self, volume: VolumeId, path: &str) -> Result<Grown, Error>;
}

/// What this node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// The host's name.
    pub hostname: String,
    /// Who else it is, for backends that let nodes in by such names: `iscsi-initiator`.
    pub identities: Vec<(String, String)>,
    /// Ways of connecting that work here, and why the others do not.
    pub connectors: Vec<(String, Result<(), String>)>,
}

/// What of ours is on this node, whatever the records say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Our staging mounts: whose, and where.
    pub mounts: Vec<(Option<VolumeId>, String)>,
    /// Our devices: whose, which, and over what.
    pub devices: Vec<(Option<VolumeId>, String, String)>,
}

/// A mount of ours, as it ought to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whose.
    pub volume: VolumeId,
    /// Where.
    pub path: String,
    /// What is behind it.
    pub connection: Connection,
    /// Whether it may only be read.
    pub read_only: bool,
}

/// What a look at a mount found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It reaches its bytes.
    Well,
    /// Nothing is mounted at its path any more: making it again is safe whoever still has it elsewhere.
    Missing,
    /// It does not any more, for this reason: whoever has it open reads old pages or errors, and only taking it
    /// down and making it again helps.
    Broken(String),
}

/// How full a mounted volume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In all.
    pub total: Bytes,
    /// In use.
    pub used: Bytes,
    /// For the unprivileged.
    pub available: Bytes,
    /// Inodes in all; zero where the filesystem has no fixed number.
    pub inodes: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

/// Looking, without touching.
#[async_trait]
pub trait Observations: Send + Sync {
    /// What this node is.
    async fn facts(&self) -> Result<Facts, Error>;

    /// What of ours is here.
    async fn survey(&self) -> Result<Survey, Error>;

    /// How full a mounted volume is. Only this filesystem can make it wait.
    async fn usage(&self, path: &str) -> Result<Usage, Error>;

    /// Whether a mount still reaches its bytes. An error says that nobody could look; `Timeout` is a device
    /// that does not answer now and may yet.
    async fn health(&self, mount: &Standing) -> Result<Condition, Error>;

    /// Mount namespaces other than ours that have this mount, as `pid (program)`.
    async fn holders(&self, volume: VolumeId, path: &str) -> Result<Vec<String>, Error>;

    /// Whether this very process still runs. One whose pid cannot be seen is alive.
    async fn alive(&self, caller: &Caller) -> bool;
}
