//! Checking a filesystem before it is mounted. One that was unmounted in order is mounted at once. An ext
//! that was not is given to `e2fsck -p`, which replays the journal and mends what is safe to mend; xfs mends
//! itself while mounting. What cannot be mended is mounted by nobody, and the error is the program's words:
//! a repair that guesses is a person's decision.

use std::path::Path;

use kato_orchestrator::{Error, Kind};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::{
    command::{Ended, Program, Programs},
    errno::failed,
    format,
    signature::Ext,
};

/// Whether somebody has the device mounted, or holds it otherwise: then nothing may be done beneath it.
pub(crate) fn is_in_use(device: &Path) -> Result<bool, Error> {
    match rustix::fs::open(device, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(false),
        Err(Errno::BUSY) => Ok(true),
        Err(error) => Err(failed(format_args!("open {}", device.display()), error)),
    }
}

/// Whether an ext filesystem has to be checked before it is mounted.
pub(crate) fn needs_check(ext: &Ext) -> bool {
    !ext.clean || ext.needs_recovery || ext.errors > 0
}

/// Mends what is safe to mend. `thoroughly` looks at everything, as a grow demands.
pub(crate) fn ext(device: &Path, thoroughly: bool, programs: &Programs) -> Result<(), Error> {
    let program = Program::E2fsck;
    let mut arguments = vec![std::ffi::OsStr::new("-p")];
    if thoroughly {
        arguments.push(std::ffi::OsStr::new("-f"));
    }
    arguments.push(device.as_os_str());
    let ended = programs.run(program, &arguments)?;
    match ended.code {
        // Clean, mended, mended and would like a restart (which is for root filesystems).
        Some(0..=3) => Ok(()),
        Some(code) if code & 4 != 0 => Err(damaged(device, "e2fsck -f", program, &ended)),
        // It could not even begin. Where the device is free and can be read, that is the filesystem's fault.
        Some(8) if !is_in_use(device)? && format::probe(device).is_ok() => {
            Err(damaged(device, "e2fsck -f", program, &ended))
        }
        _ => Err(Error::unavailable(format!(
            "{} could not be checked: {}",
            device.display(),
            ended.describe(program)
        ))),
    }
}

/// What to say of an xfs that the kernel refused to mount: its own words, and what a look without touching
/// finds.
pub(crate) fn explain_xfs(device: &Path, refusal: Error, programs: &Programs) -> Error {
    if refusal.kind != Kind::Precondition && refusal.kind != Kind::Unavailable {
        return refusal;
    }
    let program = Program::XfsRepair;
    match programs.run(program, &[std::ffi::OsStr::new("-n"), device.as_os_str()]) {
        Ok(ended) if ended.code != Some(0) => {
            let mut error = damaged(device, "xfs_repair", program, &ended);
            error.message = format!("{}; {}", refusal.message, error.message);
            error
        }
        Ok(_) | Err(_) => refusal,
    }
}

fn damaged(device: &Path, remedy: &str, program: Program, ended: &Ended) -> Error {
    Error::precondition(format!(
        "the filesystem on {} is damaged and is not mounted; repair it by hand with `{remedy} {}` after a copy \
         of it was made: {}",
        device.display(),
        device.display(),
        ended.describe(program)
    ))
}
