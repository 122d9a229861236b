//! From a connection to something that can be mounted: one file per way. [`Way`] is what a worker is told,
//! because the model's `Connection` promises no stored form; a connection that has no way here is refused
//! with the reason. A new way is a variant, a file, and a row in [`Way::of`] and [`reasons`].
//!
//! Directories are connected in the daemon's own process (they are on the host's own disk and have to be
//! fast), everything else in a worker.

pub(crate) mod device;
pub(crate) mod directory;
pub(crate) mod file;
pub(crate) mod iscsi;
pub(crate) mod rbd;
mod served;

use std::{
    fs::File,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use kato_orchestrator::{
    Error,
    model::{Bytes, Connection, VolumeId},
};
use rustix::fs::{Mode, OFlags, SeekFrom};
use serde::{Deserialize, Serialize};

use crate::{Accounts, Config, RbdDriver, command::Programs, errno::failed};

/// A connection that a worker can make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// A file beneath a granted directory, through a loop device.
    File { root: PathBuf, path: PathBuf },
    /// A block device by an identity.
    Device(device::Device),
    /// An image in a Ceph pool.
    Rbd(Box<rbd::Image>),
    /// A unit behind iSCSI portals.
    Iscsi(Box<iscsi::Unit>),
}

/// What a way led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connected {
    /// The block device.
    pub(crate) path: PathBuf,
    /// How large it is.
    pub(crate) size: u64,
    /// Who this node is to the backend there.
    pub(crate) client: Option<String>,
}

impl Way {
    /// The way of a connection, or why there is none.
    pub(crate) fn of(connection: &Connection, config: &Config, accounts: &Accounts) -> Result<Self, Error> {
        match connection {
            Connection::Rbd { cluster, pool, namespace, image, snapshot } => {
                let ceph = accounts.ceph.get(cluster).cloned().ok_or_else(|| {
                    Error::precondition(format!(
                        "this node does not know who it is in the Ceph cluster of the backend {cluster}: its \
                         configuration needs that backend, with its grant"
                    ))
                })?;
                Ok(Self::Rbd(Box::new(rbd::Image {
                    ceph,
                    pool: pool.clone(),
                    namespace: namespace.clone(),
                    image: image.clone(),
                    snapshot: snapshot.clone(),
                    drivers: config.rbd.clone(),
                    servers: config.servers(),
                })))
            }
            Connection::File { root, path } => Ok(Self::File { root: root.into(), path: path.into() }),
            Connection::Device { identity, value } => {
                Ok(Self::Device(device::Device::new(identity, value, config)))
            }
            Connection::Directory { .. } => {
                Err(Error::precondition("a directory has no device: it can only be mounted"))
            }
            // A map is found by what it is over: what it is called is the host's multipath.conf's to say.
            Connection::Iscsi { backend, portals, iqn, lun, multipath: _, initiator } => {
                let chap = accounts.iscsi.get(backend).cloned().ok_or_else(|| {
                    Error::precondition(format!(
                        "this node does not know how the iSCSI targets of the backend {backend} are opened: its \
                         configuration needs that backend, with its grant"
                    ))
                })?;
                Ok(Self::Iscsi(Box::new(iscsi::Unit {
                    portals: portals.clone(),
                    iqn: iqn.clone(),
                    lun: *lun,
                    initiator: initiator.clone().unwrap_or_else(|| config.initiator.clone()),
                    chap,
                    site: iscsi::Site::of(config),
                })))
            }
            Connection::Nbd { .. } | Connection::Nfs { .. } => Err(Error::unsupported(format!(
                "this node has no connector for {}: {}",
                connection.kind(),
                absent(connection.kind())
            ))),
        }
    }

    /// Connects, or finds what is connected.
    pub(crate) fn connect(
        &self,
        volume: VolumeId,
        read_only: bool,
        programs: &Programs,
    ) -> Result<Connected, Error> {
        self.connect_whole(volume, read_only, Bytes(0), programs).map(|(connected, _)| connected)
    }

    /// The same for whoever is about to write to it or to mount it: it is refused while it is smaller than it has to be.
    pub(crate) fn connect_whole(
        &self,
        volume: VolumeId,
        read_only: bool,
        wanted: Bytes,
        programs: &Programs,
    ) -> Result<(Connected, File), Error> {
        let (path, held) = self.bring_whole(volume, read_only, wanted, programs)?;
        let (size, client) = (size_of_device(&held)?, self.client(volume, read_only, programs)?);
        Ok((Connected { path, size, client }, held))
    }

    /// The same, for whoever only wants the device. As long as it is held open, its name is no other disk's.
    pub(crate) fn bring_whole(
        &self,
        volume: VolumeId,
        read_only: bool,
        wanted: Bytes,
        programs: &Programs,
    ) -> Result<(PathBuf, File), Error> {
        let path = self.bring(volume, read_only, programs)?;
        let held = open_device(&path)?;
        if let Self::Device(device) = self {
            device.require_open(&held)?;
        }
        if size_of_device(&held)? < wanted.0 {
            // It may have been connected since before it grew.
            self.refresh(volume, &path, programs)?;
            require_size(&path, Bytes(size_of_device(&held)?), wanted)?;
        }
        Ok((path, held))
    }

    fn bring(&self, volume: VolumeId, read_only: bool, programs: &Programs) -> Result<PathBuf, Error> {
        match self {
            Self::File { root, path } => file::connect(volume, root, path, read_only),
            Self::Device(device) => device.wait(),
            Self::Rbd(image) => image.connect(volume, read_only, programs),
            Self::Iscsi(unit) => unit.connect(volume, read_only, programs),
        }
    }

    /// Who this node is to the backend of what is connected, as far as it has to be cut off by that.
    pub(crate) fn client(
        &self,
        volume: VolumeId,
        read_only: bool,
        programs: &Programs,
    ) -> Result<Option<String>, Error> {
        match self {
            // A session ends with its connection: who it was says nothing that a backend would wait for.
            Self::File { .. } | Self::Device(_) | Self::Iscsi(_) => Ok(None),
            Self::Rbd(image) => image.client(volume, read_only, programs),
        }
    }

    /// The device, if it is connected.
    pub(crate) fn find(&self, volume: VolumeId) -> Result<Option<PathBuf>, Error> {
        match self {
            Self::File { path, .. } => file::find(volume, path),
            Self::Device(device) => device.find().map(Some),
            Self::Rbd(image) => image.find(volume),
            Self::Iscsi(unit) => unit.find(volume),
        }
    }

    /// Where the device that is mounted can be read. An error says why it is not what this way leads to any more.
    pub(crate) fn still_leads_to(
        &self,
        volume: VolumeId,
        called: &Path,
        numbers: (u32, u32),
    ) -> Result<PathBuf, Error> {
        match self {
            Self::File { root, path } => file::require_same(volume, root, path, called)?,
            Self::Device(device) => return device.require_same(numbers),
            Self::Rbd(image) => image.still_leads_to(volume, called)?,
            Self::Iscsi(unit) => return unit.still_leads_to(volume, called, numbers),
        }
        Ok(called.to_owned())
    }

    /// An error says that something else was mounted than what was connected: a device that is found rather than made
    /// may have given its name to another one meanwhile.
    pub(crate) fn require_mounted(&self, mount: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
        let Self::Device(device) = self else { return Ok(()) };
        let stat = crate::mount::look(mount)?;
        device.require_same((stat.stx_dev_major, stat.stx_dev_minor)).map(drop).map_err(|mut error| {
            error.message = format!("{} changed while it was mounted: {}", path.display(), error.message);
            error
        })
    }

    /// Takes the device away; `InUse` if somebody has it.
    pub(crate) fn disconnect(&self, volume: VolumeId, programs: &Programs) -> Result<(), Error> {
        match self {
            Self::File { root, path } => file::disconnect(volume, root, path),
            Self::Device(device) => device.release(),
            Self::Rbd(image) => image.disconnect(volume, programs),
            Self::Iscsi(unit) => unit.disconnect(volume, programs),
        }
    }

    /// Makes the device as large as its bytes have become.
    pub(crate) fn rescan(
        &self,
        volume: VolumeId,
        wanted: Bytes,
        programs: &Programs,
    ) -> Result<Bytes, Error> {
        let path = self.bring(volume, false, programs)?;
        self.refresh(volume, &path, programs)?;
        let size = Bytes(size_of_device(&open_device(&path)?)?);
        require_size(&path, size, wanted)?;
        Ok(size)
    }

    /// Has a connected device take the size that its bytes have.
    fn refresh(&self, volume: VolumeId, path: &Path, programs: &Programs) -> Result<(), Error> {
        match self {
            Self::File { .. } => crate::loopdev::resize(path),
            Self::Device(device) => device.rescan(path),
            Self::Rbd(image) => image.rescan(volume, path, programs),
            Self::Iscsi(unit) => unit.rescan(volume, path, programs),
        }
    }
}

/// Ways of connecting that work on this node, and why the others do not.
pub(crate) fn reasons(config: &Config) -> Vec<(String, Result<(), String>)> {
    let loops = if Path::new("/dev/loop-control").exists() {
        Ok(())
    } else {
        Err("/dev/loop-control is missing: load the kernel module loop, or mount the host's /dev".to_owned())
    };
    let mut found =
        vec![("directory".to_owned(), Ok(())), ("file".to_owned(), loops), ("device".to_owned(), Ok(()))];
    let programs = Programs::within(config.programs.clone());
    found.extend(RbdDriver::ALL.map(|driver| {
        let usable = match config.rbd.contains(&driver) {
            true => driver.usable(&programs, &config.servers()),
            false => Err("the configuration leaves it out (`node.rbd`)".to_owned()),
        };
        (format!("rbd by {}", driver.name()), usable)
    }));
    found.extend(iscsi::reasons(config));
    found.extend(["nbd", "nfs"].map(|kind| (kind.to_owned(), Err(absent(kind)))));
    found
}

fn absent(kind: &str) -> String {
    format!("this version cannot connect {kind}; use directory, file, device, rbd or iscsi")
}

/// An error says that a device is smaller than its volume. A device has whole sectors.
fn require_size(path: &Path, shown: Bytes, wanted: Bytes) -> Result<(), Error> {
    if shown.0 >= wanted.0 - wanted.0 % 512 {
        return Ok(());
    }
    Err(Error::unavailable(format!(
        "{} shows {shown} so far, and {wanted} is expected: the size has not arrived on this node yet, or it is \
         another disk",
        path.display()
    )))
}

/// Whether the kernel refuses writes to this device.
fn is_read_only(device: &Path) -> bool {
    let name = device.file_name().unwrap_or_default();
    std::fs::read_to_string(Path::new("/sys/block").join(name).join("ro"))
        .is_ok_and(|text| text.trim() == "1")
}

/// Opens a block device for reading, and nothing but a block device.
pub(crate) fn open_device(path: &Path) -> Result<File, Error> {
    let device = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(format_args!("open {}", path.display()), error))?;
    let stat = rustix::fs::fstat(&device)
        .map_err(|error| failed(format_args!("look at {}", path.display()), error))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::BlockDevice {
        return Err(Error::precondition(format!("{} is no block device", path.display())));
    }
    Ok(File::from(device))
}

/// How large an open block device is.
pub(crate) fn size_of_device(device: &File) -> Result<u64, Error> {
    rustix::fs::seek(device, SeekFrom::End(0)).map_err(|error| failed("find the size of the device", error))
}
