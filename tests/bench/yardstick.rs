//! What the same work costs when nobody but the kernel is asked: the fewest system calls that make a
//! directory or an image, show it at a second place, take that away and remove it, each durable where the
//! daemon's answer promises durability; and the flushes of a journal that N writers share.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    fs::{CWD, FallocateFlags, fallocate},
    io::Errno,
    mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount},
};

use crate::{
    Fallible,
    daemon::{program, run},
};

/// What a record of a volume takes in the journal.
pub(crate) const RECORD: [u8; 700] = [b'k'; 700];

/// A plain directory that comes and goes, with nobody to see it.
pub(crate) fn directory(volumes: &Path, name: &str) -> Fallible {
    let volume = volumes.join(name);
    fs::create_dir(&volume)?;
    File::open(volumes)?.sync_all()?;
    fs::remove_dir(&volume)?;
    File::open(volumes)?.sync_all()?;
    Ok(())
}

/// One cycle of a plain directory: make, show, take away, remove.
pub(crate) fn directory_cycle(volumes: &Path, mounts: &Path, name: &str) -> Fallible {
    let (volume, target) = (volumes.join(name), mounts.join(name));
    fs::create_dir(&volume)?;
    File::open(volumes)?.sync_all()?;
    fs::create_dir(&target)?;
    show(&volume, &target)?;
    unmount(&target, UnmountFlags::NOFOLLOW)?;
    fs::remove_dir(&target)?;
    fs::remove_dir(&volume)?;
    File::open(volumes)?.sync_all()?;
    Ok(())
}

/// One cycle of an ext4 image: allocate, make the filesystem as the node makes it, mount it, show its data
/// directory, and all of it undone; durable where the daemon's answer promises it. Attaching has no safe system
/// call here, so it costs the start of a small program twice.
pub(crate) fn image_cycle(images: &Path, mounts: &Path, name: &str, bytes: u64) -> Fallible {
    let image = allocate(images, name, bytes)?;
    lend_image(&image, mounts, name, true)?;
    fs::remove_file(&image)?;
    File::open(images)?.sync_all()?;
    Ok(())
}

/// A new image.
pub(crate) fn allocate(images: &Path, name: &str, bytes: u64) -> Fallible<PathBuf> {
    let image = images.join(format!("{name}.img"));
    let file = OpenOptions::new().create_new(true).write(true).open(&image)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    file.sync_all()?;
    File::open(images)?.sync_all()?;
    Ok(image)
}

/// The node's part of it: an image is attached, gets its filesystem if it is blank, and is shown and taken away again.
pub(crate) fn lend_image(image: &Path, mounts: &Path, name: &str, blank: bool) -> Fallible {
    let (stage, target) = (mounts.join(format!("{name}.stage")), mounts.join(name));
    let device = attach(image)?;
    let device = device.trim();
    if blank {
        run(program("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"])
            .arg(device))?;
        File::open(image)?.sync_all()?;
    }
    fs::create_dir(&stage)?;
    fs::create_dir(&target)?;
    mount(device, &stage, "ext4", MountFlags::NOSUID | MountFlags::NODEV, None)?;
    if blank {
        fs::create_dir(stage.join("data"))?;
        File::open(&stage)?.sync_all()?;
    }
    show(&stage.join("data"), &target)?;
    take_away(&target)?;
    take_away(&stage)?;
    run(program("losetup").args(["-d", device]))?;
    fs::remove_dir(&target)?;
    fs::remove_dir(&stage)?;
    Ok(())
}

/// One after the other: two that find the same free device are not told so, and one of them sleeps before its next try.
fn attach(image: &Path) -> Fallible<String> {
    static FINDING: Mutex<()> = Mutex::new(());
    let _finding = FINDING.lock().unwrap_or_else(PoisonError::into_inner);
    run(program("losetup").args(["--find", "--show", "--direct-io=on"]).arg(image))
}

/// Unmounts. A program that another thread is starting has a copy of every descriptor until it begins.
fn take_away(place: &Path) -> Fallible {
    for _ in 0..200 {
        match unmount(place, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => thread::sleep(Duration::from_millis(1)),
            ended => return Ok(ended?),
        }
    }
    Err(format!("{} stays busy", place.display()).into())
}

fn show(from: &Path, to: &Path) -> Fallible {
    let tree = open_tree(CWD, from, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    move_mount(tree, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// A file to which many append: whoever comes first flushes for all who wait.
#[derive(Debug)]
pub(crate) struct Appender {
    file: File,
    state: Mutex<State>,
    flushed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Appends so far.
    written: u64,
    /// Appends that a flush covers.
    durable: u64,
    /// Whether somebody is flushing.
    flushing: bool,
}

impl Appender {
    pub(crate) fn make(path: &Path) -> Fallible<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file, state: Mutex::default(), flushed: Condvar::new() })
    }

    /// Appends and returns when it would survive a power cut.
    pub(crate) fn append(&self, bytes: &[u8]) -> Fallible {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (&self.file).write_all(bytes)?;
        state.written += 1;
        let mine = state.written;
        while state.durable < mine {
            if state.flushing {
                state = self.flushed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.flushing = true;
            let covers = state.written;
            drop(state);
            let flushed = self.file.sync_data();
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.flushing = false;
            state.durable = state.durable.max(if flushed.is_ok() { covers } else { 0 });
            self.flushed.notify_all();
            flushed?;
        }
        Ok(())
    }
}

/// Folders on the disk that is measured, removed at the end.
#[derive(Debug)]
pub(crate) struct Ground {
    folder: tempfile::TempDir,
}

impl Ground {
    /// Beside the build, not in /tmp: that may be memory.
    pub(crate) fn make() -> Fallible<Self> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        Ok(Self { folder: tempfile::Builder::new().prefix("bench-").tempdir_in(target.canonicalize()?)? })
    }

    pub(crate) fn folder(&self, name: &str) -> Fallible<PathBuf> {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

impl Drop for Ground {
    /// A daemon that ends leaves its mounts, as it should: here they would keep the folder from going.
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        let ours: Vec<_> = ours.filter(|path| path.starts_with(self.folder.path())).collect();
        for path in ours.iter().rev() {
            if let Err(error) = unmount(*path, UnmountFlags::DETACH) {
                println!("{} stays mounted: {error}", path.display());
            }
        }
        for block in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let file = fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
            if Path::new(file.trim()).starts_with(self.folder.path()) {
                let device = Path::new("/dev").join(block.file_name());
                if let Err(error) = run(program("losetup").arg("-d").arg(&device)) {
                    println!("{} stays attached: {error}", device.display());
                }
            }
        }
    }
}
