//! Who else has a filesystem mounted: mountinfo of every mount namespace, read once per namespace. That takes
//! milliseconds on a busy host, so it is done only to name a holder that the kernel has already reported, or
//! when the hall asks. A namespace is told as the pid and name of its first process.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use kato_orchestrator::Error;
use rustix::fs::{major, minor};

use crate::errno::failed;

/// A line of mountinfo, as far as anybody here asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its number in its namespace.
    id: u64,
    /// The number of the mount that it stands on.
    below: u64,
    /// Major and minor number of the filesystem.
    pub(crate) device: (u32, u32),
    /// Which directory of it.
    pub(crate) root: String,
    /// Where it stands.
    pub(crate) point: PathBuf,
    /// Options of the mount.
    pub(crate) options: String,
    /// The groups that mounts spread in: `shared:5`, `master:5`.
    pub(crate) groups: Vec<String>,
    /// Which filesystem.
    pub(crate) kind: String,
    /// What it was mounted from.
    pub(crate) source: String,
}

impl Entry {
    /// Reads one line; the fields are those of proc(5).
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ');
        let (id, below) = (left.next()?.parse().ok()?, left.next()?.parse().ok()?);
        let (major, minor) = left.next()?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let (root, point, options) =
            (unescape(left.next()?), unescape(left.next()?), left.next()?.to_owned());
        let groups = left.map(str::to_owned).collect();
        let mut right = right.split(' ');
        let (kind, source) = (right.next()?.to_owned(), unescape(right.next()?));
        Some(Self { id, below, device, root, point: point.into(), options, groups, kind, source })
    }

    /// Whether a block device is behind it, whatever its node is called: what has none counts from major zero.
    pub(crate) fn is_of_a_device(&self) -> bool {
        self.device.0 != 0
    }

    /// What it is, for an error.
    pub(crate) fn describe(&self) -> String {
        if self.root == "/" {
            format!("{} ({})", self.source, self.kind)
        } else {
            format!("{} of {} ({})", self.root, self.source, self.kind)
        }
    }

    fn group(&self) -> Option<&str> {
        self.groups.iter().find_map(|group| group.strip_prefix("shared:"))
    }

    /// Where it stands, whatever its namespace calls that: a directory of the filesystem beneath.
    fn place(&self, mounts: &[Self]) -> Option<((u32, u32), PathBuf)> {
        let below = mounts.iter().find(|mount| mount.id == self.below)?;
        let within = self.point.strip_prefix(&below.point).ok()?;
        Some((below.device, Path::new(&below.root).join(within)))
    }

    /// Whether this is what the kernel spread from one of our mounts to the same place of another namespace: such a
    /// copy goes when ours goes, so it holds nothing. Its path need not be ours: a container may have the host's root
    /// somewhere, and dockerd has what a managed plugin mounts beneath a folder of its own.
    fn is_copy_of(&self, ours: &Self, theirs: &[Self], place: Option<&((u32, u32), PathBuf)>) -> bool {
        let spread = ours.group().is_some_and(|group| {
            self.groups.iter().any(|mine| mine.rsplit_once(':').is_some_and(|(_, number)| number == group))
        });
        spread && place.is_some() && self.place(theirs).as_ref() == place
    }
}

/// The mounts of our own namespace.
pub(crate) fn our_mounts() -> Result<Vec<Entry>, Error> {
    let text = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| failed("read /proc/self/mountinfo", error))?;
    Ok(text.lines().filter_map(Entry::parse).collect())
}

/// What stands at a path in our namespace: the last one mounted there.
pub(crate) fn at(path: &Path) -> Result<Option<Entry>, Error> {
    Ok(our_mounts()?.into_iter().rfind(|entry| entry.point == path))
}

/// Those who hold what is mounted at this path, in other namespaces.
pub(crate) fn of_mount(path: &Path) -> Result<Vec<String>, Error> {
    let mounts = our_mounts()?;
    let Some(ours) = mounts.iter().rfind(|entry| entry.point == path) else { return Ok(Vec::new()) };
    let place = ours.place(&mounts);
    let holds = |entry: &Entry, theirs: &[Entry]| {
        entry.device == ours.device
            && Path::new(&entry.root).starts_with(&ours.root)
            && !entry.is_copy_of(ours, theirs, place.as_ref())
    };
    let found = namespaces()?;
    let holding = found.iter().filter(|other| other.mounts.iter().any(|entry| holds(entry, &other.mounts)));
    Ok(holding.map(|other| called(other.pid)).collect())
}

/// Those who hold a directory that stood at `place`: a mount of it, or of something in it, in another namespace.
/// A namespace that was copied with our mount at its place holds nothing; one that has it elsewhere does. The
/// path beneath the grant carries the volume's token, which nothing else has; so it need not be opened.
pub(crate) fn of_directory(namespaces: &[Namespace], path: &Path, place: &Path) -> Vec<String> {
    let place = place.strip_prefix("/").unwrap_or(place);
    let holds = |entry: &Entry| runs_through(Path::new(&entry.root), path) && !entry.point.ends_with(place);
    namespaces
        .iter()
        .filter(|namespace| namespace.mounts.iter().any(holds))
        .map(|namespace| called(namespace.pid))
        .collect()
}

/// Whether a path has these parts, one after the other, somewhere in it.
fn runs_through(path: &Path, parts: &Path) -> bool {
    path.ancestors().any(|above| above.ends_with(parts))
}

/// Those who hold a block device: as `pid (program)` in other namespaces, as paths in ours.
pub(crate) fn of_device(device: &Path) -> Result<Vec<String>, Error> {
    let stat = rustix::fs::stat(device)
        .map_err(|error| failed(format_args!("look at {}", device.display()), error))?;
    let numbers = (major(stat.st_rdev), minor(stat.st_rdev));
    let mut found: Vec<String> = our_mounts()?
        .into_iter()
        .filter(|entry| entry.device == numbers)
        .map(|entry| format!("the mount at {}", entry.point.display()))
        .collect();
    found.extend(others(|entry| entry.device == numbers)?);
    Ok(found)
}

/// Adds to an `InUse` who it is.
pub(crate) fn name_them(device: &Path, outcome: Result<(), Error>) -> Result<(), Error> {
    outcome.map_err(|mut error| {
        if error.kind == kato_orchestrator::Kind::InUse {
            error.message = in_use(&error.message, &of_device(device).unwrap_or_default());
        }
        error
    })
}

/// A sentence about holders.
pub(crate) fn in_use(what: &str, holders: &[String]) -> String {
    if holders.is_empty() {
        format!("{what}; no holder can be seen from here, it may be another container's")
    } else {
        format!("{what}: held by {}", holders.join(", "))
    }
}

/// Processes of our own namespace with a file, a working directory or a root beneath a path.
pub(crate) fn with_open_files(path: &Path) -> Vec<String> {
    let Ok(ours) = fs::read_link("/proc/self/ns/mnt") else { return Vec::new() };
    let mut found = Vec::new();
    for pid in pids() {
        let process = PathBuf::from(format!("/proc/{pid}"));
        if fs::read_link(process.join("ns/mnt")).is_ok_and(|theirs| theirs == ours)
            && has_open(&process, path)
        {
            found.push(called(pid));
        }
    }
    found
}

fn has_open(process: &Path, path: &Path) -> bool {
    let leads_there = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(path));
    ["cwd", "root", "exe"].iter().any(|name| leads_there(&process.join(name)))
        || fs::read_dir(process.join("fd"))
            .is_ok_and(|open| open.flatten().any(|entry| leads_there(&entry.path())))
        || fs::read_to_string(process.join("maps")).is_ok_and(|maps| {
            maps.lines()
                .filter_map(|line| line.split_once('/'))
                .any(|(_, file)| Path::new("/").join(file).starts_with(path))
        })
}

/// Another mount namespace, as its first process sees it.
#[derive(Debug)]
pub(crate) struct Namespace {
    pid: u32,
    mounts: Vec<Entry>,
}

/// The first process of each other namespace that has a fitting mount.
fn others(fits: impl Fn(&Entry) -> bool) -> Result<Vec<String>, Error> {
    let fitting = namespaces()?.into_iter().filter(|namespace| namespace.mounts.iter().any(&fits));
    Ok(fitting.map(|namespace| called(namespace.pid)).collect())
}

/// All mount namespaces but ours.
pub(crate) fn namespaces() -> Result<Vec<Namespace>, Error> {
    let mut seen = BTreeSet::new();
    seen.insert(
        fs::read_link("/proc/self/ns/mnt").map_err(|error| failed("look at our mount namespace", error))?,
    );
    let mut found = Vec::new();
    for pid in pids() {
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        if !seen.insert(namespace) {
            continue;
        }
        // It may have ended since.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/mountinfo")) else { continue };
        found.push(Namespace { pid, mounts: text.lines().filter_map(Entry::parse).collect() });
    }
    Ok(found)
}

fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

fn called(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} ({})", name.trim_end())
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'\\'
            && let [a @ b'0'..=b'7', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = tail
        {
            bytes.push((a - b'0').wrapping_mul(64).wrapping_add((b - b'0') * 8).wrapping_add(c - b'0'));
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        r"36 35 98:0 /mnt1 /m\040nt2 rw,noatime shared:7 master:1 - ext3 /dev/root rw,errors=continue";

    #[test]
    fn a_line_of_mountinfo_is_read_with_its_escapes() {
        let entry = Entry::parse(LINE).unwrap();
        assert_eq!((entry.device, entry.root.as_str()), ((98, 0), "/mnt1"));
        assert_eq!(entry.point, Path::new("/m nt2"));
        assert_eq!(entry.groups, ["shared:7", "master:1"]);
        assert_eq!(entry.describe(), "/mnt1 of /dev/root (ext3)");
    }

    fn mounts(lines: &[&str]) -> Vec<Entry> {
        lines.iter().map(|line| Entry::parse(line).unwrap()).collect()
    }

    #[test]
    fn what_the_kernel_spread_to_the_same_place_is_no_holder_but_a_bind_elsewhere_is() {
        let own = mounts(&[
            "35 1 8:1 / / rw shared:1 - ext4 /dev/sda rw",
            "36 35 98:0 / /mnt/v rw shared:7 - ext4 /dev/loop0 rw",
        ]);
        let place = own[1].place(&own);
        let is_copy = |lines: &[&str]| {
            let theirs = mounts(lines);
            theirs[1].is_copy_of(&own[1], &theirs, place.as_ref())
        };
        let root = "50 1 8:1 / / rw master:1 - ext4 /dev/sda rw";
        assert!(is_copy(&[root, "51 50 98:0 / /mnt/v rw master:7 - ext4 /dev/loop0 rw"]));
        assert!(!is_copy(&[root, "51 50 98:0 / /mnt/v rw - ext4 /dev/loop0 rw"]), "it would outlive ours");
        assert!(!is_copy(&[root, "51 50 98:0 / /data rw master:7 - ext4 /dev/loop0 rw"]));
        // The host's root, or a folder of it, elsewhere.
        let host = "50 1 8:1 / /host rw master:1 - ext4 /dev/sda rw";
        assert!(is_copy(&[host, "51 50 98:0 / /host/mnt/v rw master:7 - ext4 /dev/loop0 rw"]));
        let folder = "50 1 8:1 /mnt /propagated rw shared:1 - ext4 /dev/sda rw";
        assert!(is_copy(&[folder, "51 50 98:0 / /propagated/v rw shared:7 - ext4 /dev/loop0 rw"]));
        // A container's own filesystem beneath it, whatever the place is called.
        let container = "50 1 0:40 / / rw - overlay overlay rw";
        assert!(!is_copy(&[container, "51 50 98:0 / /mnt/v rw master:7 - ext4 /dev/loop0 rw"]));
    }

    #[test]
    fn a_directory_is_found_by_the_end_of_its_path_and_what_is_in_it() {
        let parts = Path::new("volumes/a/tree");
        for root in ["/srv/volumes/a/tree", "/volumes/a/tree/data", "/volumes/a/tree"] {
            assert!(runs_through(Path::new(root), parts), "{root}");
        }
        for root in ["/srv/volumes/a", "/volumes/aa/tree", "/volumes/b/tree", "/"] {
            assert!(!runs_through(Path::new(root), parts), "{root}");
        }
    }
}
