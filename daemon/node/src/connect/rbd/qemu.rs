//! The way that needs no module of the kernel's: `qemu-storage-daemon` opens the image with librbd and shows it as a file
//! through FUSE, which a loop device with direct IO makes a block device (`server.rs`, `loopdev.rs`). Flushes go all the
//! way: one of the mounted filesystem's is one of librbd's.
//!
//! The server reads a configuration of its own: the cluster's, with our key and without limits on the data path. It also
//! opens librbd's admin socket there, for whoever wants to see its counters. Two things in it keep data whole:
//!
//! - The kernel's wish for zeroes arrives as a discard, and librbd leaves out what is less than an object of one, unless
//!   it is told to skip nothing.
//! - A server may hear its next request into the memory of the last one, so what is written has to be copied at once.
//!   librbd does, unless somebody asks it not to.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use super::Image;
use crate::{
    command::{Program, Programs},
    connect::{open_device, size_of_device},
    errno::failed,
    loopdev,
    server::{self, FOLDER, Place, Server, Serving},
};
use kato_orchestrator::{Error, Kind, model::VolumeId};

/// How long the kernel may believe in a file's old size: FUSE's answers are kept for a second.
const STALE: Duration = Duration::from_secs(5);

pub(super) fn usable(programs: &Programs, servers: &Place) -> Result<(), String> {
    programs.find(Program::QemuStorageDaemon).map_err(|error| error.message)?;
    programs.find(Program::Rbd).map_err(|error| error.message)?;
    if !has_driver() {
        return Err("QEMU's driver for rbd is not installed: install the package qemu-block-extra".to_owned());
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

/// Debian has the driver in a package of its own; elsewhere it may be part of the program.
fn has_driver() -> bool {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let modules: Vec<PathBuf> =
        folders.map(|entry| entry.path().join("qemu")).filter(|path| path.is_dir()).collect();
    modules.is_empty() || modules.iter().any(|folder| folder.join("block-rbd.so").exists())
}

pub(super) fn connect(
    image: &Image,
    volume: VolumeId,
    read_only: bool,
    programs: &Programs,
) -> Result<PathBuf, Error> {
    let serving = serving(image, read_only)?;
    let kept = Server::latest(&image.servers.folder, volume)?
        .filter(|server| server.process().is_some() && server.serves(&serving.what));
    let server = match kept {
        Some(server) => server,
        None => {
            clear(image, volume)?;
            Server::start(&image.servers, volume, &serving, programs)
                // The program's own words say little of an image that is not there.
                .map_err(|error| image.size(programs).err().unwrap_or(error))?
        }
    };
    server.attach(read_only)
}

fn serving(image: &Image, read_only: bool) -> Result<Serving, Error> {
    let ceph = &image.ceph;
    let conf = fs::read_to_string(&ceph.conf)
        .map_err(|error| failed(format_args!("read {}", ceph.conf.display()), error))?;
    let ours = format!(
        "\n\n[client.{}]\nkeyring = {}\nlog_file = /dev/null\nadmin_socket = {FOLDER}/asok\n\
         rados_osd_op_timeout = 0\nrados_mon_op_timeout = 0\n\
         rbd_skip_partial_discard = false\nrbd_disable_zero_copy_writes = true\n",
        ceph.user,
        ceph.keyring.display()
    );
    let namespace = match image.namespace.as_str() {
        "" => String::new(),
        namespace => format!(",namespace={namespace}"),
    };
    let access = if read_only { ",read-only=on" } else { "" };
    let snapshot = image.snapshot.as_ref().map(|name| format!(",snapshot={name}")).unwrap_or_default();
    Ok(Serving {
        what: format!("{} as {}{access}\n", image.spec(), ceph.user),
        files: vec![("ceph.conf", conf + &ours)],
        blockdev: format!(
            "driver=rbd,node-name=disk,pool={}{namespace},image={}{snapshot},user={},conf={FOLDER}/ceph.conf,cache.direct=on,\
             discard=unmap{access}",
            image.pool, image.image, ceph.user
        ),
        read_only,
    })
}

pub(super) fn find(image: &Image, volume: VolumeId) -> Result<Option<PathBuf>, Error> {
    match Server::latest(&image.servers.folder, volume)? {
        Some(server) => server.device(),
        None => Ok(None),
    }
}

pub(super) fn require_alive(image: &Image, volume: VolumeId, device: &Path) -> Result<(), Error> {
    let ended = || {
        Error::unavailable(format!(
            "the server of the image {} has ended, and {} reaches nothing any more",
            image.spec(),
            device.display()
        ))
    };
    let server = Server::latest(&image.servers.folder, volume)?.ok_or_else(ended)?;
    server.process().map(drop).ok_or_else(ended)
}

/// The device goes first, when nobody uses it: then everything was written out, and the server may end.
pub(super) fn disconnect(image: &Image, volume: VolumeId, device: &Path) -> Result<(), Error> {
    let outcome = clear(image, volume);
    match (outcome, Server::latest(&image.servers.folder, volume)?) {
        // It answers, with errors: it was shut out of its cluster, for good.
        (Err(error), Some(server)) if error.kind == Kind::Unavailable && !crate::health::answers(device) => {
            tracing::warn!(device = %device.display(), %error, "gave up a device that was cut off");
            server.give_up()?;
            clear(image, volume)
        }
        (outcome, _) => outcome,
    }
}

/// Ends whatever serves this volume, and the devices over that.
pub(super) fn clear(image: &Image, volume: VolumeId) -> Result<(), Error> {
    server::all(&image.servers.folder, volume)?.iter().try_for_each(Server::stop)
}

/// The image's own size is what counts: whoever asked for one may not know of a larger one, and a server that is told a
/// smaller one cuts the image.
pub(super) fn rescan(
    image: &Image,
    volume: VolumeId,
    device: &Path,
    programs: &Programs,
) -> Result<(), Error> {
    let size = image.size(programs)?;
    let shown = || size_of_device(&open_device(device)?);
    if shown()? >= size.0 {
        return Ok(());
    }
    let server = Server::latest(&image.servers.folder, volume)?
        .ok_or_else(|| Error::unavailable(format!("the image {} has no server here", image.spec())))?;
    server.resize(size.0)?;
    let (mut waited, tick) = (Duration::ZERO, Duration::from_millis(100));
    loop {
        loopdev::resize(device)?;
        if shown()? >= size.0 || waited >= STALE {
            return Ok(());
        }
        sleep(tick);
        waited += tick;
    }
}
