//! The kernel's own words for where a file's blocks lie: `linux/fiemap.h`, and the ioctl that speaks them. What they mean
//! is `extents.rs`.

use std::ops::Range;

use rustix::{
    fd::{AsRawFd as _, OwnedFd},
    io::Errno,
};

/// How many extents are told at once.
pub(super) const ROOM: usize = 2048;

const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;
/// Write out first what is still in memory.
const SYNC: u32 = 1;

const LAST: u32 = 0x1;
const UNWRITTEN: u32 = 0x800;
/// Blocks of an older layout, put together for the answer.
const MERGED: u32 = 0x1000;
const SHARED: u32 = 0x2000;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` with room behind it.
#[repr(C)]
struct Question {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; ROOM],
}

impl Extent {
    #[cfg(test)]
    pub(super) fn new(logical: u64, physical: u64, length: u64, flags: u32) -> Self {
        Self { logical, physical, length, flags, ..Self::default() }
    }

    /// Which part of the file it is.
    pub(super) fn range(&self) -> Range<u64> {
        self.logical..self.logical.saturating_add(self.length)
    }

    pub(super) fn is_last(&self) -> bool {
        self.flags & LAST != 0
    }

    /// Whether its blocks were taken and never written.
    pub(super) fn is_unwritten(&self) -> bool {
        self.flags & !(LAST | MERGED | SHARED) == UNWRITTEN
    }

    /// Where it lies, if it is plain data that other files share. Of everything else the kernel says more than this
    /// by further flags.
    pub(super) fn shared(&self) -> Option<u64> {
        (self.flags & !(LAST | MERGED) == SHARED && self.physical != 0).then_some(self.physical)
    }
}

/// What lies in a part of a file: all of it, or as much as there is room for.
#[expect(unsafe_code, reason = "neither rustix nor std know this ioctl")]
pub(super) fn extents(file: &OwnedFd, part: Range<u64>) -> Result<Vec<Extent>, Errno> {
    if part.is_empty() {
        return Ok(Vec::new());
    }
    let mut question = Box::new(Question {
        start: part.start,
        length: part.end - part.start,
        flags: SYNC,
        mapped: 0,
        count: u32::try_from(ROOM).unwrap_or(0),
        reserved: 0,
        extents: [Extent::default(); ROOM],
    });
    // SAFETY: the descriptor is open, and the kernel writes one `struct fiemap` and at most as many extents behind it
    // as `count` says, which is how many there is room for.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut *question) };
    if result != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    let mapped = usize::try_from(question.mapped).unwrap_or(ROOM);
    Ok(question.extents.iter().take(mapped).copied().collect())
}
