//! Whose a disk is: one with partitions, one that something is built on, swap, and one that is mounted elsewhere
//! than where we mount are somebody else's, whatever a plugin says. A filesystem can be mounted twice, so without
//! this a plugin could give out the host's own.

use std::{fs, path::Path};

use kato_orchestrator::Error;

use super::{Site, disk::Disk};
use crate::holders::{self, Entry};

/// Where a volume of ours is mounted by nobody.
const SYSTEM: [&str; 6] = ["/", "/boot", "/boot/efi", "/usr", "/var", "/home"];

/// What this host uses its disks for.
pub(super) struct Uses {
    mounts: Vec<Entry>,
    /// `/proc/swaps`.
    swaps: String,
}

impl Uses {
    /// Right now.
    pub(super) fn now() -> Result<Self, Error> {
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        Ok(Self { mounts: holders::our_mounts()?, swaps })
    }

    /// As a host's files say.
    #[cfg(test)]
    pub(super) fn told(mounts: &str, swaps: &str) -> Self {
        Self { mounts: mounts.lines().filter_map(Entry::parse).collect(), swaps: swaps.to_owned() }
    }

    /// The mounts of a disk.
    pub(super) fn of(&self, disk: &Disk) -> impl Iterator<Item = &Entry> {
        let numbers = disk.numbers();
        self.mounts.iter().filter(move |mount| Some(mount.device) == numbers)
    }

    /// The mounts of whatever had this name when it was mounted.
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.mounts.iter().filter(move |mount| {
            mount.is_of_a_device() && Path::new(&mount.source).file_name().is_some_and(|last| last == name)
        })
    }

    fn is_swap(&self, disk: &Disk, path: &Path) -> bool {
        let usual = Path::new("/dev").join(&disk.name);
        self.swaps
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next().map(Path::new))
            .any(|swap| swap == path || swap == usual)
    }
}

/// Refuses what somebody else uses.
pub(super) fn refuse(disk: &Disk, path: &Path, uses: &Uses, site: &Site) -> Result<(), Error> {
    let refused =
        |why: String| Err(Error::precondition(format!("{} {why}: it is no volume of ours", path.display())));
    if disk.is_partition() {
        return refused("is a part of another disk".to_owned());
    }
    let partitions = disk.partitions();
    if !partitions.is_empty() {
        return refused(format!("has partitions ({})", partitions.join(", ")));
    }
    if let Some(holder) = disk.holders().first() {
        return refused(format!("is part of {holder}"));
    }
    if uses.is_swap(disk, path) {
        return refused("is swap".to_owned());
    }
    match foreign_mount(uses.of(disk).collect(), site) {
        Some(mount) => refused(format!("is mounted at {}", mount.point.display())),
        None => Ok(()),
    }
}

/// A mount that shows that a disk is not ours. Whoever has one of our volumes has it beside our own mount of it; where
/// somebody took that away by hand, the volume is mounted again when the last of them has gone.
fn foreign_mount<'a>(mounts: Vec<&'a Entry>, site: &Site) -> Option<&'a Entry> {
    if let Some(system) =
        mounts.iter().find(|mount| SYSTEM.iter().any(|place| mount.point == Path::new(place)))
    {
        return Some(system);
    }
    let is_at_a_place = |mount: &&Entry| site.places.iter().any(|folder| mount.point.starts_with(folder));
    if mounts.iter().any(is_at_a_place) { None } else { mounts.into_iter().next() }
}
