//! What the ways have in common that need no module of the kernel's: `qemu-storage-daemon` opens the image with a driver
//! of its own and shows it as a file through FUSE, which a loop device with direct IO makes a block device (`server.rs`,
//! `loopdev.rs`). Each way says what is to be opened; how a server is found again, looked at, grown and let go is the same.
//!
//! Each way has to answer for two habits of QEMU's FUSE export (7.2 as Debian has it, and others), which cost data where a
//! driver does not make up for them:
//!
//! - *One request overwrites another.* It hears the next request while the last one waits, into the same memory. Whoever
//!   sends a write's bytes from there later sends the other's.
//! - *Zeroes are not written.* The kernel's wish for zeroes arrives as a hole, the export makes that a discard, and a
//!   discard may do nothing; the kernel is told that it was done.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use kato_orchestrator::{Error, Kind, model::VolumeId};

use super::{open_device, size_of_device};
use crate::{
    command::{Program, Programs},
    loopdev,
    server::{self, Place, Server, Serving},
};

/// How long the kernel may believe in a file's old size: FUSE's answers are kept for a second.
const STALE: Duration = Duration::from_secs(5);

/// Why this node cannot serve what one of QEMU's drivers opens.
pub(crate) fn usable(driver: &str, programs: &Programs, servers: &Place) -> Result<(), String> {
    programs.find(Program::QemuStorageDaemon).map_err(|error| error.message)?;
    if !has_driver(driver) {
        return Err(format!(
            "QEMU's driver for {driver} is not installed: install the package qemu-block-extra"
        ));
    }
    for (device, module) in [("/dev/fuse", "fuse"), ("/dev/loop-control", "loop")] {
        if !Path::new(device).exists() {
            return Err(format!(
                "{device} is missing: load the kernel's module {module}, or give the container the host's /dev"
            ));
        }
    }
    servers.may_serve().map_err(|error| error.message)
}

/// Debian has the drivers in a package of their own; elsewhere they may be part of the program.
fn has_driver(driver: &str) -> bool {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let modules: Vec<PathBuf> =
        folders.map(|entry| entry.path().join("qemu")).filter(|path| path.is_dir()).collect();
    let module = format!("block-{driver}.so");
    modules.is_empty() || modules.iter().any(|folder| folder.join(&module).exists())
}

/// A volume that is served, or may be.
#[derive(Debug)]
pub(crate) struct Served<'a> {
    servers: &'a Place,
    volume: VolumeId,
    /// What it is to people: "the image rbd/a".
    what: String,
}

impl<'a> Served<'a> {
    pub(crate) fn new(servers: &'a Place, volume: VolumeId, what: String) -> Self {
        Self { servers, volume, what }
    }

    /// The server that is there and serves one of these. Any other is ended.
    pub(crate) fn kept(&self, wishes: &[Serving]) -> Result<Option<Server>, Error> {
        let kept = Server::latest(&self.servers.folder, self.volume)?.filter(|server| {
            server.process().is_some() && wishes.iter().any(|wish| server.serves(&wish.what))
        });
        if kept.is_none() {
            self.clear()?;
        }
        Ok(kept)
    }

    /// Starts a server.
    pub(crate) fn start(
        &self,
        wish: &Serving,
        limit: Duration,
        programs: &Programs,
    ) -> Result<Server, Error> {
        Server::start(self.servers, self.volume, wish, limit, programs)
    }

    pub(crate) fn find(&self) -> Result<Option<PathBuf>, Error> {
        match Server::latest(&self.servers.folder, self.volume)? {
            Some(server) => server.device(),
            None => Ok(None),
        }
    }

    /// The server behind a device. An error says that it has ended.
    pub(crate) fn require_alive(&self, device: &Path) -> Result<Server, Error> {
        Server::latest(&self.servers.folder, self.volume)?
            .filter(|server| server.process().is_some())
            .ok_or_else(|| {
                Error::unavailable(format!(
                    "the server of {} has ended, and {} reaches nothing any more",
                    self.what,
                    device.display()
                ))
            })
    }

    /// The device goes first, when nobody uses it: then everything was written out, and the server may end.
    pub(crate) fn disconnect(&self, device: &Path) -> Result<(), Error> {
        let outcome = self.clear();
        match (outcome, Server::latest(&self.servers.folder, self.volume)?) {
            // It answers, with errors: it was shut out of what it serves, for good.
            (Err(error), Some(server))
                if error.kind == Kind::Unavailable && !crate::health::answers(device) =>
            {
                tracing::warn!(device = %device.display(), %error, "gave up a device that was cut off");
                server.give_up()?;
                self.clear()
            }
            (outcome, _) => outcome,
        }
    }

    /// Ends whatever serves this volume, and the devices over that.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        server::all(&self.servers.folder, self.volume)?.iter().try_for_each(Server::stop)
    }

    /// The volume's server, for a change of what it serves.
    pub(crate) fn server(&self) -> Result<Server, Error> {
        Server::latest(&self.servers.folder, self.volume)?
            .ok_or_else(|| Error::unavailable(format!("{} has no server here", self.what)))
    }

    /// Has the device take the size that its server has come to show.
    pub(crate) fn resize(&self, device: &Path, size: u64) -> Result<(), Error> {
        let (mut waited, tick) = (Duration::ZERO, Duration::from_millis(100));
        loop {
            loopdev::resize(device)?;
            if shown(device)? >= size || waited >= STALE {
                return Ok(());
            }
            sleep(tick);
            waited += tick;
        }
    }
}

/// How large a device is.
pub(crate) fn shown(device: &Path) -> Result<u64, Error> {
    size_of_device(&open_device(device)?)
}
