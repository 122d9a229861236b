//! The way that needs no module of the kernel's: QEMU opens the image with librbd (`served.rs`). Flushes go all the way:
//! one of the mounted filesystem's is one of librbd's.
//!
//! The server reads a configuration of its own: the cluster's, with our key and without limits on the data path. It also
//! opens librbd's admin socket there, for whoever wants to see its counters. Two things in it keep data whole:
//!
//! - The kernel's wish for zeroes arrives as a discard (`served.rs`), and librbd leaves out what is less than an object of
//!   one, unless it is told to skip nothing.
//! - A server may hear its next request into the memory of the last one, so what is written has to be copied at once.
//!   librbd does, unless somebody asks it not to.

use std::{
    fs,
    path::{Path, PathBuf},
    slice,
};

use kato_orchestrator::{Error, model::VolumeId};

use super::Image;
use crate::{
    command::{Program, Programs},
    connect::served::{self, Served},
    errno::failed,
    server::{FOLDER, Place, START, Serving},
};

pub(super) fn usable(programs: &Programs, servers: &Place) -> Result<(), String> {
    programs.find(Program::Rbd).map_err(|error| error.message)?;
    served::usable("rbd", programs, servers)
}

fn served(image: &Image, volume: VolumeId) -> Served<'_> {
    Served::new(&image.servers, volume, format!("the image {}", image.spec()))
}

pub(super) fn connect(
    image: &Image,
    volume: VolumeId,
    read_only: bool,
    programs: &Programs,
) -> Result<PathBuf, Error> {
    let (served, serving) = (served(image, volume), serving(image, read_only)?);
    let server = match served.kept(slice::from_ref(&serving))? {
        Some(server) => server,
        None => served
            .start(&serving, START, programs)
            // The program's own words say little of an image that is not there.
            .map_err(|error| image.size(programs).err().unwrap_or(error))?,
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
        secret: None,
        blockdev: format!(
            "driver=rbd,node-name=disk,pool={}{namespace},image={}{snapshot},user={},conf={FOLDER}/ceph.conf,cache.direct=on,\
             discard=unmap{access}",
            image.pool, image.image, ceph.user
        ),
        read_only,
    })
}

pub(super) fn find(image: &Image, volume: VolumeId) -> Result<Option<PathBuf>, Error> {
    served(image, volume).find()
}

pub(super) fn require_alive(image: &Image, volume: VolumeId, device: &Path) -> Result<(), Error> {
    served(image, volume).require_alive(device).map(drop)
}

pub(super) fn disconnect(image: &Image, volume: VolumeId, device: &Path) -> Result<(), Error> {
    served(image, volume).disconnect(device)
}

/// Ends whatever serves this volume, and the devices over that.
pub(super) fn clear(image: &Image, volume: VolumeId) -> Result<(), Error> {
    served(image, volume).clear()
}

/// The image's own size is what counts: whoever asked for one may not know of a larger one, and a server that is told a
/// smaller one cuts the image.
pub(super) fn rescan(
    image: &Image,
    volume: VolumeId,
    device: &Path,
    programs: &Programs,
) -> Result<(), Error> {
    let size = image.size(programs)?.0;
    if served::shown(device)? >= size {
        return Ok(());
    }
    let served = served(image, volume);
    served.server()?.resize(size)?;
    served.resize(device, size)
}
