//! Mounts by system call. A filesystem is first mounted nowhere, as a descriptor; its data root is made there;
//! then it is moved to its place in one step, so nobody ever sees it half made, and a failure on the way
//! leaves nothing behind. Options are parsed as libmount does, because the kernel refuses what only mount(8)
//! understands. `nosuid` and `nodev` are always set.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use kato_orchestrator::Error;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxAttributes, StatxFlags, XattrFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
        unmount,
    },
};

use crate::{errno::failed, holders, kernel};

const PLACE: &str = "trusted.kato.place";

/// Mount options, told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Those of the mount.
    pub(crate) attributes: MountAttrFlags,
    /// Those of the filesystem: a word, or a word with a value.
    pub(crate) filesystem: Vec<(String, Option<String>)>,
    /// Whether nothing may be written.
    pub(crate) read_only: bool,
}

impl Options {
    /// Reads options as people write them in fstab.
    pub(crate) fn parse(options: &[String], read_only: bool) -> Result<Self, Error> {
        let mut parsed = Self {
            attributes: MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
            filesystem: Vec::new(),
            read_only,
        };
        for option in options.iter().flat_map(|option| apart(option)) {
            parsed.take(option.trim())?;
        }
        if parsed.read_only {
            parsed.attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        Ok(parsed)
    }

    fn take(&mut self, option: &str) -> Result<(), Error> {
        let (name, value) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        match name {
            // What only mount(8), systemd or boot scripts understand, and what is so anyway.
            "" | "defaults" | "rw" | "auto" | "noauto" | "nofail" | "_netdev" | "user" | "nouser"
            | "users" | "owner" | "group" | "comment" | "exec" | "async" | "nosuid" | "nodev"
            | "symfollow" | "diratime" | "loud" | "iversion" | "noiversion" => {}
            _ if name.starts_with("x-") || name.starts_with("X-") => {}
            "ro" => self.read_only = true,
            "noexec" => self.attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "nosymfollow" => self.attributes |= MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
            "nodiratime" => self.attributes |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            "noatime" => self.access_times(MountAttrFlags::MOUNT_ATTR_NOATIME),
            "strictatime" => self.access_times(MountAttrFlags::MOUNT_ATTR_STRICTATIME),
            "relatime" | "atime" => self.access_times(MountAttrFlags::empty()),
            "suid" | "dev" => {
                return Err(Error::invalid(format!(
                    "the mount option {name} is not allowed: volumes are always mounted nosuid and nodev"
                )));
            }
            "bind" | "rbind" | "remount" | "move" | "loop" | "offset" | "sizelimit" | "shared"
            | "rshared" | "private" | "rprivate" | "slave" | "rslave" | "unbindable" | "runbindable" => {
                return Err(Error::invalid(format!(
                    "the mount option {name} is not for volumes: leave it out of the class"
                )));
            }
            _ => self.filesystem.push((name.to_owned(), value.map(str::to_owned))),
        }
        Ok(())
    }

    fn access_times(&mut self, times: MountAttrFlags) {
        self.attributes -= MountAttrFlags::MOUNT_ATTR__ATIME;
        self.attributes |= times;
    }
}

/// Options that stand in one text. A comma between quotes belongs to the value, as in `context="…:s0:c1,c2"`; the quotes are
/// for whoever reads options, and not the kernel's.
fn apart(text: &str) -> Vec<String> {
    let (mut options, mut option, mut quoted) = (Vec::new(), String::new(), false);
    for letter in text.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => options.push(std::mem::take(&mut option)),
            letter => option.push(letter),
        }
    }
    options.push(option);
    options
}

/// Mounts a block device nowhere yet. An error carries the kernel's own words.
pub(crate) fn filesystem(kind: &str, device: &Path, options: &Options) -> Result<OwnedFd, Error> {
    let what = format!("mount the {kind} of {}", device.display());
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| {
        if error == Errno::NODEV {
            Error::unsupported(format!("{what}: this kernel does not know {kind}"))
        } else {
            failed(&what, error)
        }
    })?;
    let context = File::from(context);
    let tell = |error: Errno, of: &str| {
        let mut error = failed(format_args!("{what}{of}"), error);
        let words = kernels_words(&context);
        if !words.is_empty() {
            error.message = format!("{} ({words})", error.message);
        }
        error
    };
    fsconfig_set_string(context.as_fd(), "source", device).map_err(|error| tell(error, ""))?;
    for (name, value) in &options.filesystem {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), name.as_str(), value.as_str()),
            None => fsconfig_set_flag(context.as_fd(), name.as_str()),
        }
        .map_err(|error| tell(error, &format!(" with the option {name}")))?;
    }
    if options.read_only {
        fsconfig_set_flag(context.as_fd(), "ro").map_err(|error| tell(error, " read-only"))?;
    }
    fsconfig_create(context.as_fd()).map_err(|error| tell(error, ""))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, options.attributes)
        .map_err(|error| tell(error, ""))
}

/// What the filesystem said while it was mounted: `e xfs: …` for each message.
fn kernels_words(mut context: &File) -> String {
    let mut words = Vec::new();
    let mut message = [0; 1024];
    while let Ok(length @ 1..) = context.read(&mut message) {
        let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default()).into_owned();
        words.push(text.trim_start_matches(['e', 'w', 'i', ' ']).trim_end().to_owned());
    }
    words.join("; ")
}

/// A second mount, nowhere yet, of what is open.
pub(crate) fn clone_of(directory: BorrowedFd<'_>, attributes: MountAttrFlags) -> Result<OwnedFd, Error> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree =
        open_tree(directory, "", flags).map_err(|error| failed("bind the volume's directory", error))?;
    kernel::mount_setattr(tree.as_fd(), attributes)
        .map_err(|error| failed("set the options of the mount", error))?;
    Ok(tree)
}

/// Moves a mount to its place, which is open.
pub(crate) fn place(mount: BorrowedFd<'_>, point: BorrowedFd<'_>) -> Result<(), Error> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", point, "", flags).map_err(|error| failed("put the mount in its place", error))
}

/// Opens a place where something can be mounted, making the directory if its parent is there. Says whether
/// it made it.
pub(crate) fn open_place(path: &Path) -> Result<(OwnedFd, bool), Error> {
    let made = match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(failed(format_args!("make the directory {}", path.display()), error)),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| failed(format_args!("open the directory {}", path.display()), error))?;
    Ok((opened, made))
}

/// What is known of an open place without waiting for any disk.
pub(crate) fn look(place: BorrowedFd<'_>) -> Result<Statx, Error> {
    rustix::fs::statx(place, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::INO)
        .map_err(|error| failed("look at the place of the mount", error))
}

/// Whether something is mounted there.
pub(crate) fn is_mount_root(stat: &Statx) -> bool {
    stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
}

/// Refuses a mount that is there already, but may be written where it should not, or the other way round.
pub(crate) fn require_same_access(mount: impl AsFd, read_only: bool, path: &Path) -> Result<(), Error> {
    let stat = rustix::fs::fstatvfs(mount)
        .map_err(|error| failed(format_args!("look at {}", path.display()), error))?;
    let is_read_only = stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    if is_read_only == read_only {
        return Ok(());
    }
    let (is, wanted) = if is_read_only { ("read-only", "read-write") } else { ("read-write", "read-only") };
    Err(Error::precondition(format!(
        "{} is mounted {is} and wanted {wanted}: unmount it everywhere on this node first",
        path.display()
    )))
}

/// The refusal of a place where something else stands.
pub(crate) fn occupied(path: &Path) -> Error {
    let what =
        holders::at(path).ok().flatten().map_or_else(|| "something else".into(), |entry| entry.describe());
    Error::precondition(format!(
        "{} is taken: {what} is mounted there, and it is not this volume; unmount it by hand when nobody needs it",
        path.display()
    ))
}

/// Unmounts what stands at a path, all layers of it. What is not mounted is unmounted. An open file below
/// makes it `InUse`, with the holders named.
pub(crate) fn take_down(path: &Path) -> Result<(), Error> {
    let (mut layers, mut tries) = (0, 0);
    while layers < 16 {
        match unmount(path, UnmountFlags::NOFOLLOW) {
            Ok(()) => layers += 1,
            // Not mounted, or not there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            // A process that is being started has a copy of every descriptor, ours of this very mount too,
            // until it begins its program.
            Err(Errno::BUSY) if tries < 20 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(Errno::BUSY) => return Err(still_used(path)?),
            Err(error) => return Err(failed(format_args!("unmount {}", path.display()), error)),
        }
    }
    Err(occupied(path))
}

/// Who keeps a mount from being unmounted.
fn still_used(path: &Path) -> Result<Error, Error> {
    let mut found = holders::with_open_files(path);
    let below = holders::our_mounts()?
        .into_iter()
        .filter(|entry| entry.point.starts_with(path) && entry.point != path);
    found.extend(below.map(|entry| format!("the mount at {}", entry.point.display())));
    Ok(Error::in_use(holders::in_use(&format!("{} cannot be unmounted yet", path.display()), &found)))
}

/// Writes on a directory that we made it, so that it goes when its mount goes and no other directory does.
pub(crate) fn remember_place(path: &Path) -> Result<(), Error> {
    match rustix::fs::lsetxattr(path, PLACE, b"1", XattrFlags::empty()) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(failed(format_args!("remember that we made {}", path.display()), error)),
    }
}

/// Whether we made this directory; where that cannot be written on one, it counts as ours.
pub(crate) fn is_ours(path: &Path) -> bool {
    matches!(rustix::fs::lgetxattr(path, PLACE, &mut [0; 16]), Ok(_) | Err(Errno::OPNOTSUPP))
}

/// Removes the directory of a place. What somebody wrote there while nothing was mounted stays.
pub(crate) fn remove_place(path: &Path) -> Result<(), Error> {
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => {
            tracing::warn!(path = %path.display(), "kept the place of a mount because it is not empty");
            Ok(())
        }
        Err(error) => Err(failed(format_args!("remove the directory {}", path.display()), error)),
    }
}

/// Makes the folder of all our mounts, and sees to it that what is mounted in it spreads: a dockerd or a
/// container that has this folder as a slave sees volumes come and go.
pub(crate) fn prepare_folder(folder: &Path) -> Result<(), Error> {
    let what = |error: Errno| failed(format_args!("prepare {}", folder.display()), error);
    if !folder.exists() {
        std::fs::create_dir_all(folder)
            .map_err(|error| failed(format_args!("make {}", folder.display()), error))?;
        // Whoever may reach a volume is decided by its data root; nobody needs the list.
        rustix::fs::chmod(folder, Mode::from_raw_mode(0o711)).map_err(what)?;
    }
    let real =
        folder.canonicalize().map_err(|error| failed(format_args!("find {}", folder.display()), error))?;
    let mounts = holders::our_mounts()?;
    // The longest path, and of several mounts at one place the last, which lies on top.
    let around = mounts
        .iter()
        .filter(|entry| real.starts_with(&entry.point))
        .max_by_key(|entry| entry.point.as_os_str().len());
    if around.is_some_and(|entry| entry.groups.iter().any(|group| group.starts_with("shared:"))) {
        return Ok(());
    }
    if around.is_none_or(|entry| entry.point != real) {
        rustix::mount::mount_bind(&real, &real).map_err(what)?;
    }
    rustix::mount::mount_change(&real, rustix::mount::MountPropagationFlags::SHARED).map_err(what)
}

/// Opens a directory of ours for looking and mounting.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd, Error> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(format_args!("open {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<Options, Error> {
        Options::parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>(), false)
    }

    #[test]
    fn what_only_fstab_understands_never_reaches_the_kernel() {
        let options =
            parse(&["defaults,_netdev,nofail", "x-systemd.automount", "noatime", "data=ordered", "discard"]);
        let options = options.unwrap();
        assert_eq!(
            options.filesystem,
            [("data".to_owned(), Some("ordered".to_owned())), ("discard".to_owned(), None)]
        );
        assert!(options.attributes.contains(MountAttrFlags::MOUNT_ATTR_NOATIME));
        assert!(!options.read_only);
    }

    #[test]
    fn a_quoted_value_keeps_its_commas() {
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let options = parse(&[&format!("context=\"{label}\",noatime"), "discard"]).unwrap();
        let expected = [("context".to_owned(), Some(label.to_owned())), ("discard".to_owned(), None)];
        assert_eq!(options.filesystem, expected);
    }

    #[test]
    fn nosuid_and_nodev_are_always_set_and_their_opposites_refused() {
        let always = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        assert!(parse(&["exec", "rw"]).unwrap().attributes.contains(always));
        for option in ["suid", "dev", "bind", "remount", "loop"] {
            assert!(parse(&[option]).unwrap_err().message.contains(option));
        }
    }

    #[test]
    fn the_last_word_on_access_times_wins() {
        let attributes = parse(&["noatime", "strictatime"]).unwrap().attributes;
        assert!(attributes.contains(MountAttrFlags::MOUNT_ATTR_STRICTATIME));
        assert!(!attributes.contains(MountAttrFlags::MOUNT_ATTR_NOATIME));
        assert!(parse(&["ro"]).unwrap().attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY));
    }
}
