//! Where the bytes of volumes and snapshots are: sparse files on a filesystem with reflinks, which lies in an image of its
//! own and is mounted nowhere, so that no machine of the kit can hold it. A reflink takes no time and holds writers up
//! while it is made; that is what makes the moment of a snapshot one moment, whoever writes. When the last descriptor is
//! closed, the filesystem and its image are gone.

use std::{
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::Path,
    process::Command,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, SeekFrom, ioctl_ficlone, openat, seek, unlinkat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    },
};

use super::loops::Loop;

/// A block of the EBS direct APIs.
pub(super) const BLOCK: u64 = 512 << 10;

/// How far the image may grow. It is sparse.
const ROOM: u64 = 512 << 30;

/// The filesystem.
#[derive(Debug)]
pub(super) struct Ground {
    root: OwnedFd,
    /// Its disk, which the kernel keeps as long as the filesystem needs it.
    _disk: Loop,
}

impl Ground {
    /// Makes one, with its image in this folder.
    pub(super) fn make(folder: &Path) -> Self {
        let path = folder.join("ground");
        let image = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .expect("an image for the volumes");
        image.set_len(ROOM).expect("an image that is sparse");
        let made = Command::new("mkfs.xfs")
            .args(["-q", "-K", "-m", "reflink=1", "-l", "size=64m"])
            .arg(&path)
            .output();
        let made = made.expect("mkfs.xfs starts: it is part of xfsprogs");
        assert!(made.status.success(), "mkfs.xfs: {}", String::from_utf8_lossy(&made.stderr));
        let disk = Loop::over(&image).expect("a loop device, which needs root");
        let root = mount(&disk).expect("an XFS with reflinks");
        // The image needs no name any more, and goes with whom it serves.
        std::fs::remove_file(&path).expect("an image that can be unlinked");
        Self { root, _disk: disk }
    }

    /// A new file of zeroes.
    pub(super) fn empty(&self, name: &str, size: u64) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = File::from(openat(&self.root, name, flags, Mode::RUSR | Mode::WUSR)?);
        // What is open is enough: a file lasts as long as somebody has it.
        unlinkat(&self.root, name, AtFlags::empty())?;
        file.set_len(size)?;
        Ok(file)
    }

    /// A new file with the bytes that this one has now, with zeroes behind them.
    pub(super) fn copy(&self, name: &str, from: &File, size: u64) -> io::Result<File> {
        let file = self.empty(name, 0)?;
        ioctl_ficlone(&file, from)?;
        if size > file.metadata()?.size() {
            file.set_len(size)?;
        }
        Ok(file)
    }
}

fn mount(disk: &Loop) -> io::Result<OwnedFd> {
    let config = fsopen("xfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&config, "source", disk.path())?;
    fsconfig_create(&config)?;
    Ok(fsmount(&config, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// The blocks in which something was written, in their order.
pub(super) fn allocated(file: &File) -> io::Result<Vec<u32>> {
    let mut blocks = Vec::new();
    let mut at = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(blocks),
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?;
        for index in start / BLOCK..at.div_ceil(BLOCK) {
            let index = u32::try_from(index).map_err(io::Error::other)?;
            if blocks.last() != Some(&index) {
                blocks.push(index);
            }
        }
    }
}

/// The bytes of a block.
pub(super) fn read_block(file: &File, index: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(BLOCK).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, u64::from(index) * BLOCK)?;
    Ok(bytes)
}

/// Whether a block has the same bytes in both.
pub(super) fn is_same(one: &File, other: &File, index: u32) -> io::Result<bool> {
    Ok(read_block(one, index)? == read_block(other, index)?)
}
