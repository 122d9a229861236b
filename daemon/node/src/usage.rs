//! How full a mounted volume is. Asking may wait for the volume, so a worker does it.

use std::path::Path;

use kato_orchestrator::{Error, model::Bytes, ports::host::Usage};

use crate::errno::failed;

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
