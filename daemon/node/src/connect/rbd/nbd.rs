//! The kernel's network block device with Ceph's own server, `rbd-nbd`: for kernels that have nbd and no rbd, and for
//! images with features that the kernel's client does not know. The server is a process of its own and outlives the
//! daemon; when it ends, its device ends.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kato_orchestrator::{Error, model::VolumeId};

use super::Image;
use crate::{
    command::{Program, Programs},
    server,
};

pub(super) fn usable(programs: &Programs) -> Result<(), String> {
    if !Path::new("/sys/block/nbd0").exists() {
        return Err("the kernel has no nbd: load the module (`modprobe nbd`), where it was built".to_owned());
    }
    programs.find(Program::RbdNbd).map(drop).map_err(|error| error.message)
}

/// It serves the data, so it gets no limits: it waits for its cluster.
pub(super) fn connect(
    image: &Image,
    volume: VolumeId,
    read_only: bool,
    programs: &Programs,
) -> Result<PathBuf, Error> {
    let mut line = image.identity();
    line.extend(["map".to_owned(), image.spec()]);
    line.push(if read_only { "--read-only" } else { "--exclusive" }.to_owned());
    programs.start_server(Program::RbdNbd, &line, None, &format!("kato-{volume}-nbd"), server::START)?;
    find(image).ok_or_else(|| {
        Error::unavailable(format!("the image {} was mapped and is not to be seen", image.spec()))
    })
}

/// The device whose server has the image on its command line.
pub(super) fn find(image: &Image) -> Option<PathBuf> {
    let spec = image.spec();
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| name.starts_with("nbd"))?;
        let process = fs::read_to_string(entry.path().join("pid")).ok()?;
        let line = fs::read(format!("/proc/{}/cmdline", process.trim())).ok()?;
        line.split(|byte| *byte == 0)
            .any(|word| word == spec.as_bytes())
            .then(|| Path::new("/dev").join(name))
    })
}
