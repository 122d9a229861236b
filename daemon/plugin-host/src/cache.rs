//! Compiled components on disk, so that a start does not compile them again. wasmtime's own cache does the
//! work: the key is a digest of the component and of everything that shapes the code (version, processor,
//! settings), files appear by rename, and a torn one is compiled again.
//!
//! What is in there is machine code that the daemon will run: whoever can write the folder owns the daemon.
//! So the folder belongs to this user alone (0700), and one that others could have written is refused.

use std::path::Path;

use kato_orchestrator::Error;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};
use wasmtime::{Cache, CacheConfig};

use crate::engine::Fault;

/// The cache in this folder, which is made if need be.
pub(crate) fn open(directory: &Path) -> Result<Cache, Error> {
    own(directory)?;
    let mut config = CacheConfig::new();
    config.with_directory(directory).with_files_total_size_soft_limit(512 << 20);
    Cache::new(config).map_err(|error| {
        Error::internal(format!("the code cache {} could not be opened", directory.display()))
            .caused_by(Fault(error))
    })
}

fn own(directory: &Path) -> Result<(), Error> {
    let failed = |what: &str, error: rustix::io::Errno| {
        Error::internal(format!("the code cache {} could not be {what}: {error}", directory.display()))
            .caused_by(error)
    };
    match mkdirat(CWD, directory, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(failed("made", error)),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = openat(CWD, directory, flags, Mode::empty()).map_err(|error| failed("opened", error))?;
    let stat = fstat(&opened).map_err(|error| failed("looked at", error))?;
    let foreign = stat.st_uid != rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || foreign || stat.st_mode & 0o077 != 0 {
        return Err(Error::permission_denied(format!(
            "the code cache {} is not ours alone (owner {}, mode {:o}), and whoever can write there runs code \
             in this daemon: remove it, or make it ours with mode 0700",
            directory.display(),
            stat.st_uid,
            stat.st_mode & 0o7777,
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("code");
        open(&directory).unwrap();
        assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o770)).unwrap();
        assert!(open(&directory).unwrap_err().message.contains("not ours alone"));
        let link = temp.path().join("link");
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        assert!(open(&link).is_err());
    }
}
