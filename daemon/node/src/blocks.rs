//! Moving bytes between devices, and between a device and the daemon. Past the page cache and with several pieces in
//! flight: what is copied is read once and written once, and would only push out what containers work with. What was
//! written is made to last by [`flush`], once for many writes.
//!
//! Zeroes are left out where the target is known to read so; they are looked for in pieces of 64 KiB.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kato_orchestrator::Error;
use rustix::fs::{Mode, OFlags};

use crate::{connect::size_of_device, errno::failed};

/// What one thread reads and writes at once.
const PIECE: u64 = 1 << 20;

/// How many threads copy.
const THREADS: usize = 4;

/// What reads and writes past the page cache begin and end at.
const ALIGNED: u64 = 4096;

/// How finely zeroes are looked for.
const GRAIN: usize = 64 << 10;

/// A device that is read or written past the page cache.
struct Device<'a> {
    path: &'a Path,
    file: File,
    size: u64,
}

impl<'a> Device<'a> {
    fn open(path: &'a Path, writes: bool) -> Result<Self, Error> {
        let access = if writes { OFlags::RDWR } else { OFlags::RDONLY };
        let file = rustix::fs::open(path, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed(format_args!("open {}", path.display()), error))?;
        let file = File::from(file);
        Ok(Self { path, size: size_of_device(&file)?, file })
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(into, offset).map_err(|error| {
            failed(format_args!("read {} bytes of {} at {offset}", into.len(), self.path.display()), error)
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, offset).map_err(|error| {
            failed(format_args!("write {} bytes to {} at {offset}", bytes.len(), self.path.display()), error)
        })
    }
}

/// Memory that a device reads into by itself.
struct Buffer {
    bytes: Vec<u8>,
    from: usize,
}

impl Buffer {
    fn of(length: u64) -> Self {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let align = usize::try_from(ALIGNED).unwrap_or(usize::MAX);
        let bytes = vec![0; length.saturating_add(align)];
        let from = bytes.as_ptr().align_offset(align).min(align);
        Self { bytes, from }
    }

    fn slice(&mut self, length: u64) -> &mut [u8] {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.bytes.get_mut(self.from..self.from.saturating_add(length)).unwrap_or_default()
    }
}

/// A part of a device, widened to what can be read past the page cache.
fn widen((offset, length): (u64, u64), size: u64) -> (u64, u64) {
    let from = offset / ALIGNED * ALIGNED;
    let to = offset.saturating_add(length);
    let to = to.checked_next_multiple_of(ALIGNED).unwrap_or(u64::MAX).min(size);
    (from, to.saturating_sub(from))
}

/// Parts of a device, each no longer than a piece.
fn pieces(extents: &[(u64, u64)], size: u64) -> Vec<(u64, u64)> {
    let mut pieces = Vec::new();
    for extent in extents {
        let (mut from, mut rest) = widen(*extent, size);
        while rest > 0 {
            let length = rest.min(PIECE);
            pieces.push((from, length));
            (from, rest) = (from.saturating_add(length), rest.saturating_sub(length));
        }
    }
    pieces
}

/// Reads parts of a device, one behind the other.
pub(crate) fn read(path: &Path, extents: &[(u64, u64)]) -> Result<Vec<u8>, Error> {
    let device = Device::open(path, false)?;
    let all: u64 = extents.iter().map(|(_, length)| length).sum();
    let mut bytes = Vec::with_capacity(usize::try_from(all).unwrap_or(0));
    let mut buffer = Buffer::of(PIECE + 2 * ALIGNED);
    for (offset, length) in extents {
        let (mut from, mut rest) = (*offset, *length);
        while rest > 0 {
            let length = rest.min(PIECE);
            // A snapshot may be of a volume that was no whole number of blocks: the rest of it is zeroes.
            let (at, wide) = widen((from, length.min(device.size.saturating_sub(from))), device.size);
            let slice = buffer.slice(wide);
            device.read(at, slice)?;
            let skip = usize::try_from(from.saturating_sub(at)).unwrap_or(usize::MAX);
            let wanted = usize::try_from(length).unwrap_or(usize::MAX);
            let end = bytes.len().saturating_add(wanted);
            bytes.extend(slice.iter().skip(skip).take(wanted));
            bytes.resize(end, 0);
            (from, rest) = (from.saturating_add(length), rest.saturating_sub(length));
        }
    }
    Ok(bytes)
}

/// Writes blocks that stand one behind the other in `bytes`.
pub(crate) fn write(path: &Path, blocks: &[(u64, u64)], mut bytes: &[u8]) -> Result<(), Error> {
    let device = Device::open(path, true)?;
    let mut cached = None;
    let mut buffer = Buffer::of(PIECE);
    for (offset, length) in blocks {
        let (block, rest) = bytes
            .split_at_checked(usize::try_from(*length).unwrap_or(usize::MAX))
            .ok_or_else(|| Error::internal("a worker was given fewer bytes than it is to write"))?;
        bytes = rest;
        let mut at = *offset;
        for piece in block.chunks(usize::try_from(PIECE).unwrap_or(usize::MAX)) {
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            if at % ALIGNED == 0 && length % ALIGNED == 0 {
                let slice = buffer.slice(length);
                slice.copy_from_slice(piece);
                device.write(at, slice)?;
            } else {
                let file = match &cached {
                    Some(file) => file,
                    None => cached.insert(open_cached(path)?),
                };
                file.write_all_at(piece, at)
                    .and_then(|()| file.sync_data())
                    .map_err(|error| failed(format_args!("write to {} at {at}", path.display()), error))?;
            }
            at = at.saturating_add(length);
        }
    }
    Ok(())
}

/// For an end that is no whole block.
fn open_cached(path: &Path) -> Result<File, Error> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(|error| failed(format_args!("open {}", path.display()), error))
}

/// Copies parts of a device to another one, and tells how much was written.
pub(crate) fn copy(from: &Path, to: &Path, extents: &[(u64, u64)], skip_zeroes: bool) -> Result<u64, Error> {
    let (from, to) = (Device::open(from, false)?, Device::open(to, true)?);
    let todo = Mutex::new(pieces(extents, from.size.min(to.size)).into_iter());
    let (written, next) = (AtomicU64::new(0), || todo.lock().unwrap_or_else(PoisonError::into_inner).next());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut buffer = Buffer::of(PIECE);
                    while let Some((offset, length)) = next() {
                        let bytes = buffer.slice(length);
                        from.read(offset, bytes)?;
                        let count = put(&to, offset, bytes, skip_zeroes)?;
                        written.fetch_add(count, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::internal("a thread that copied failed")))
        })
    })?;
    Ok(written.into_inner())
}

/// Writes a piece, without the zeroes in it where they need not be; what was written.
fn put(to: &Device<'_>, offset: u64, bytes: &[u8], skip_zeroes: bool) -> Result<u64, Error> {
    if !skip_zeroes {
        to.write(offset, bytes)?;
        return Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }
    let (mut written, mut at) = (0_u64, 0_usize);
    let mut begin = None;
    let mut grains = bytes.chunks(GRAIN);
    loop {
        let grain = grains.next();
        match (grain.is_some_and(|grain| !is_zero(grain)), begin) {
            (true, None) => begin = Some(at),
            (false, Some(from)) => {
                let run = bytes.get(from..at).unwrap_or_default();
                to.write(offset.saturating_add(u64::try_from(from).unwrap_or(u64::MAX)), run)?;
                written = written.saturating_add(u64::try_from(run.len()).unwrap_or(u64::MAX));
                begin = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
        match grain {
            Some(grain) => at = at.saturating_add(grain.len()),
            None => return Ok(written),
        }
    }
}

/// Makes what was written last.
pub(crate) fn flush(path: &Path) -> Result<(), Error> {
    open_cached(path)?
        .sync_data()
        .map_err(|error| failed(format_args!("write out what {} still holds", path.display()), error))
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    match bytes.split_first_chunk::<16>() {
        Some((head, _)) => *head == [0; 16] && bytes.get(..bytes.len().saturating_sub(16)) == bytes.get(16..),
        None => bytes.iter().all(|byte| *byte == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_widened_and_never_beyond_the_end() {
        assert_eq!(widen((5000, 10), 1 << 20), (4096, 4096));
        assert_eq!(widen((4096, 8192), 1 << 20), (4096, 8192));
        assert_eq!(widen((4090, 10), 4608), (0, 4608));
        assert_eq!(pieces(&[(0, PIECE + 1)], 1 << 30), [(0, PIECE), (PIECE, 4096)]);
    }

    #[test]
    fn zeroes_are_told_from_what_ends_otherwise() {
        let mut bytes = vec![0; 100];
        assert!(is_zero(&bytes) && is_zero(&[]));
        bytes[99] = 1;
        assert!(!is_zero(&bytes) && !is_zero(&[0, 1]));
    }
}
