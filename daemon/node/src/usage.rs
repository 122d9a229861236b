//! How full a mounted volume is, and whether it still reaches its bytes. Both may wait for the volume, so a
//! worker does them. Health is a small read past every cache: a filesystem whose device is gone goes on
//! answering from memory for a long time.

use std::{fs::File, os::unix::fs::FileExt as _, path::Path};

use kato_orchestrator::{Error, model::Bytes, ports::host::Usage};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};

use crate::{errno::failed, format, grow, holders, signature::Signature};

/// Direct reads are of whole blocks, into memory that begins at one.
const BLOCK: usize = 4096;

/// How full it is.
pub(crate) fn of(path: &Path) -> Result<Usage, Error> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|error| failed(format_args!("ask {} how full it is", path.display()), error))?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(stat.f_frsize));
    Ok(Usage {
        total: bytes(stat.f_blocks),
        used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        available: bytes(stat.f_bavail),
        inodes: stat.f_files,
        inodes_used: stat.f_files.saturating_sub(stat.f_ffree),
    })
}

/// Whether it still reaches its bytes; an error says why not.
pub(crate) fn health(path: &Path) -> Result<(), Error> {
    let gone = |what: &str| Error::unavailable(format!("{}: {what}", path.display()));
    // An xfs that has shut itself down refuses this, and so does a server that has gone.
    let directory =
        File::open(path).map_err(|error| failed(format_args!("open {}", path.display()), error))?;
    let stat = rustix::fs::fstatvfs(&directory)
        .map_err(|error| failed(format_args!("look at {}", path.display()), error))?;
    let Some(entry) = holders::at(path)? else {
        return Err(gone("nothing is mounted there any more"));
    };
    if entry.root != "/" || !entry.source.starts_with('/') {
        return Ok(());
    }
    let device = grow::device_below(&directory)?;
    read_past_caches(&device)?;
    let wants_writing = entry.options.split(',').any(|option| option == "rw");
    if wants_writing && stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(gone(
            "the kernel has made it read-only after an error; free it and mount it again to repair it",
        ));
    }
    match format::probe(&device)? {
        Some(Signature::Ext(ext)) if ext.errors > 0 => Err(gone(&format!(
            "the kernel has noted {} errors in its ext filesystem; free it and mount it again to repair it",
            ext.errors
        ))),
        Some(Signature::Ext(_) | Signature::Xfs(_)) => Ok(()),
        Some(Signature::Foreign(name)) => Err(gone(&format!("its device now holds {name}"))),
        None => Err(gone("its device does not hold a filesystem any more")),
    }
}

fn read_past_caches(device: &Path) -> Result<(), Error> {
    let what = || format!("read {}", device.display());
    let direct = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let open =
        File::from(rustix::fs::open(device, direct, Mode::empty()).map_err(|error| failed(what(), error))?);
    let mut memory = vec![0; BLOCK * 2];
    let from = memory.as_ptr().align_offset(BLOCK);
    let block = memory.get_mut(from..from + BLOCK).unwrap_or_default();
    open.read_exact_at(block, 0).map_err(|error| failed(what(), error))
}
