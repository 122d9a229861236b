//! A class is a recipe: which backend, which parameters, which filesystem, how large, and what a container
//! finds in it. Classes are the operator's configuration, not records.

use std::{collections::BTreeMap, fmt};

use super::{BackendName, Bytes, ClassName};
use crate::error::Error;

/// A named recipe for volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// What the operator calls it.
    pub name: ClassName,
    /// Where its volumes live.
    pub backend: BackendName,
    /// What the backend is told for each of its volumes.
    pub parameters: BTreeMap<String, String>,
    /// What is made on a blank device; nothing is made on a directory.
    pub fs: FsType,
    /// Options of every mount.
    pub mount_options: Vec<String>,
    /// What a volume gets whose caller names no size; zero lets the backend choose.
    pub default_size: Bytes,
    /// The largest that a caller may ask for.
    pub max_size: Option<Bytes>,
    /// What a container finds.
    pub root: DataRoot,
    /// How volumes with 64 hex digits for a name (Docker's anonymous ones) are taken.
    pub anonymous: bool,
    /// Whether deleting a volume deletes its data, or keeps the backend's volume and forgets ours.
    pub retain: bool,
    /// Whether a container may bring volumes of it about that live and die with the container.
    pub inline: bool,
}

/// A filesystem that the node can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsType {
    /// The default.
    Ext4,
    /// For large files, and for cloning where it lives on a reflinking host.
    Xfs,
}

impl FsType {
    /// Its name for mkfs, mount and people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The smallest device that it can be made on.
    #[must_use]
    pub fn least(self) -> Bytes {
        match self {
            Self::Ext4 => Bytes(1 << 20),
            // What mkfs.xfs refuses to go below.
            Self::Xfs => Bytes(300 << 20),
        }
    }

    /// The filesystem of that name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            other => Err(Error::invalid(format!("the filesystem {other:?} is unknown: use ext4 or xfs"))),
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The part of a mounted filesystem that a container gets, and who owns it. Owner and mode are set once,
/// when the directory is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataRoot {
    /// The directory beneath the mount, or nothing for the mount itself. `data` on filesystems that we
    /// make, because `lost+found` stands in the way of Docker's copy-up and of databases.
    pub directory: Option<String>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// Its mode, as in `0o755`.
    pub mode: Option<u32>,
}

impl DataRoot {
    /// Refuses what is not the plain name of a directory.
    pub fn check_directory(name: &str) -> Result<(), Error> {
        let plain = !matches!(name, "" | "." | "..") && name.len() <= 255;
        if plain && !name.contains('/') && !name.chars().any(char::is_control) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the data root {name:?} is not the name of a directory: write a plain name such as data, or / for the whole \
             filesystem"
        )))
    }
}

impl Default for DataRoot {
    fn default() -> Self {
        Self { directory: Some("data".into()), uid: None, gid: None, mode: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_root_is_one_plain_name() {
        assert!(DataRoot::check_directory("data").is_ok());
        for name in ["", ".", "..", "a/b", "/", "../x", "a\0b", &"x".repeat(256)] {
            assert!(DataRoot::check_directory(name).is_err(), "{name:?}");
        }
    }
}
