//! Granted directories: a name for the plugin, an absolute path for us. What must never be handed out is
//! refused here, when the configuration is read; how paths beneath are resolved is `files/beneath.rs`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kato_orchestrator::Error;

use super::denied;

/// Directories of the system, that no plugin is ever given.
const SYSTEM: [&str; 14] = [
    "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys",
    "/usr", "/var",
];
/// Of these, nothing beneath either.
const SYSTEM_TREES: [&str; 10] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr"];

/// The directories that a plugin can use.
#[derive(Debug, Default)]
pub(crate) struct Directories(BTreeMap<String, PathBuf>);

impl Directories {
    pub(crate) fn new(
        asks: &[String],
        grants: &BTreeMap<String, PathBuf>,
        mistake: &mut impl FnMut(Error),
    ) -> Self {
        let mut directories = BTreeMap::new();
        for (name, path) in grants {
            match grantable(path) {
                Ok(()) if asks.contains(name) => {
                    directories.insert(name.clone(), path.clone());
                }
                Ok(()) => {}
                Err(error) => mistake(error),
            }
        }
        Self(directories)
    }

    /// The path behind a name.
    pub(crate) fn path(&self, name: &str) -> Result<&Path, Error> {
        self.0.get(name).map(PathBuf::as_path).ok_or_else(|| {
            denied(format!(
                "the directory {name:?} is not granted: grant it to this backend (and the plugin's manifest \
                 has to ask for it)"
            ))
        })
    }
}

/// Whether this may be granted at all. Symlinks on the way are followed: the operator wrote the path.
fn grantable(path: &Path) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::invalid(format!("the directory {path:?} cannot be granted: {why}")));
    if !path.is_absolute() {
        return refuse("give an absolute path");
    }
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if real == Path::new("/") || real.components().any(|part| part.as_os_str() == "..") {
        return refuse("it is the root of the system's disk");
    }
    if SYSTEM.iter().any(|system| real == Path::new(system))
        || SYSTEM_TREES.iter().any(|system| real.starts_with(system))
    {
        return refuse("it belongs to the system; use a directory of its own, such as /var/lib/kato/volumes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_and_the_system_are_never_granted() {
        let temp = tempfile::tempdir().unwrap();
        let link = temp.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        for bad in ["/", "//", "/..", "/etc", "/etc/kato", "/dev/shm", "/var", "/proc/self", "data", ""] {
            assert!(grantable(Path::new(bad)).is_err(), "{bad}");
        }
        assert!(grantable(&link).is_err());
        assert!(grantable(temp.path()).is_ok());
        assert!(grantable(Path::new("/var/lib/kato/volumes")).is_ok());
    }

    #[test]
    fn what_is_not_asked_for_is_not_given() {
        let temp = tempfile::tempdir().unwrap();
        let grants = BTreeMap::from([("data".to_owned(), temp.path().to_owned())]);
        let none = Directories::new(&[], &grants, &mut |error| panic!("{error}"));
        assert!(none.path("data").is_err());
        let some = Directories::new(&["data".into()], &grants, &mut |error| panic!("{error}"));
        assert_eq!(some.path("data").unwrap(), temp.path());
    }
}
