//! What sysfs says of a whole disk. It is read each time it is asked for: a disk is an entry, and what the
//! entry says is true of the moment.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kato_orchestrator::Error;

use crate::errno::failed;

/// A block device as sysfs has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// What the kernel calls it.
    pub(super) name: String,
    /// Its own folder, with every link followed: another disk of its name has another one, or another appearance.
    entry: PathBuf,
    appearance: String,
}

impl Disk {
    /// Every disk of this host, without partitions.
    pub(super) fn all(sys: &Path) -> Result<Vec<Self>, Error> {
        let folder = sys.join("block");
        let entries = fs::read_dir(&folder).map_err(|error| {
            Error::internal(format!("the devices of this node cannot be listed in {}", folder.display()))
                .caused_by(error)
        })?;
        Ok(entries
            .flatten()
            .filter_map(|entry| Self::at(&entry.path()).ok())
            // One path of several to a namespace; the namespace itself is listed, too.
            .filter(|disk| disk.text("hidden").as_deref() != Some("1"))
            .collect())
    }

    /// The disk, or the partition, of this name.
    pub(super) fn named(sys: &Path, name: &str) -> Result<Option<Self>, Error> {
        match Self::at(&sys.join("class/block").join(name)) {
            Ok(disk) => Ok(Some(disk)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(format_args!("find {name} in sysfs"), error)),
        }
    }

    /// The disk of these numbers.
    pub(super) fn of_numbers(sys: &Path, major: u32, minor: u32) -> Result<Self, Error> {
        let numbers = format!("{major}:{minor}");
        Self::at(&sys.join("dev/block").join(&numbers))
            .map_err(|error| failed(format_args!("find the block device {numbers} in sysfs"), error))
    }

    fn at(link: &Path) -> std::io::Result<Self> {
        let entry = fs::canonicalize(link)?;
        let name = entry.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let appearance = appearance(&entry)?;
        Ok(Self { name, entry, appearance })
    }

    /// What one of its files says, without the blanks around it; nothing for a file that is missing or empty.
    pub(super) fn text(&self, place: &str) -> Option<String> {
        fs::read(self.entry.join(place)).ok().as_deref().and_then(plain)
    }

    /// Its major and minor number.
    pub(super) fn numbers(&self) -> Option<(u32, u32)> {
        let text = self.text("dev")?;
        let (major, minor) = text.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// How large it is.
    pub(super) fn size(&self) -> Option<u64> {
        self.text("size")?.parse::<u64>().ok()?.checked_mul(512)
    }

    /// What tells it from every other disk that had its name since the machine began.
    pub(super) fn appearance(&self) -> &str {
        &self.appearance
    }

    /// Whether it is a part of another disk.
    pub(super) fn is_partition(&self) -> bool {
        self.entry.join("partition").exists()
    }

    /// The partitions on it.
    pub(super) fn partitions(&self) -> Vec<String> {
        names(&self.entry).filter(|name| self.entry.join(name).join("partition").exists()).collect()
    }

    /// What is built on it.
    pub(super) fn holders(&self) -> Vec<String> {
        names(&self.entry.join("holders")).collect()
    }

    /// Whether it has this identity.
    pub(super) fn has(&self, identity: &str, value: &str) -> bool {
        self.values(identity).iter().any(|found| same(found, value))
    }

    fn values(&self, identity: &str) -> Vec<String> {
        match identity {
            "nvme-serial" if self.name.starts_with("nvme") => {
                self.text("device/serial").into_iter().collect()
            }
            "virtio-serial" => self.text("serial").into_iter().collect(),
            "wwid" => ["wwid", "device/wwid"].iter().filter_map(|place| self.text(place)).collect(),
            // Page 0x80 has four bytes of header.
            "scsi-serial" => fs::read(self.entry.join("device/vpd_pg80"))
                .ok()
                .and_then(|page| page.get(4..).and_then(plain))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// Since Linux 5.15 the kernel counts the disks that appear; before, each had at least a folder of its own.
fn appearance(entry: &Path) -> std::io::Result<String> {
    use std::os::unix::fs::MetadataExt as _;
    if let Some(number) = fs::read(entry.join("diskseq")).ok().as_deref().and_then(plain) {
        return Ok(format!("disk-{number}"));
    }
    Ok(format!("entry-{}", fs::metadata(entry)?.ino()))
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
}

fn plain(raw: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(raw).trim_matches(['\0', ' ', '\n']).to_owned();
    (!text.is_empty()).then_some(text)
}

/// EBS shows `vol-0abc` as the serial `vol0abc`; nothing else that matters differs by a dash.
fn same(found: &str, wanted: &str) -> bool {
    found == wanted || found.replace('-', "") == wanted.replace('-', "")
}
