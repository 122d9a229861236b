//! Where a file holds data, and where two files differ, a page at a time: what a backup has to read.
//!
//! **The map.** The filesystem is asked where a file's blocks lie (`FIEMAP`, which writes out first what is still in
//! memory); one that cannot say is asked where there is data at all (`SEEK_DATA`). A piece of the map is zeroes (a hole,
//! or blocks that were never written), a place on the disk, or somewhere.
//!
//! **The difference.** A place is only believed where the filesystem says that several files share it: then the same
//! place is the same data, because what is shared is never overwritten, only left. Everything else that is not zeroes on
//! both sides may differ: data that lies inside of the filesystem's own records, compressed data, data without a place
//! yet. Where blocks can be shared, what may differ is named as it is. Elsewhere no two files ever have a place in
//! common, and the bytes are compared.
//!
//! **Never too little.** Both files are snapshots, of which nobody writes; but a filesystem may move blocks about
//! (`btrfs balance`, `xfs_fsr`), and a place that was left and taken again between the two maps would look shared. So
//! the base's map is read before and after the other's, and where it is not the same, all of it may differ.

use std::ops::Range;

use kato_orchestrator::Error;
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{FileType, OFlags, SeekFrom, fstat, seek},
    io::{Errno, pread},
};

use super::{
    beneath::{self, failed},
    fiemap::{self, Extent, ROOM},
    space,
};

/// How many bytes of either file are compared in one call.
const COMPARED: u64 = 64 << 20;
/// How many are read at once.
const CHUNK: u64 = 256 << 10;
/// What is told apart where bytes are compared.
const BLOCK: u64 = 4096;

/// A page of extents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// Ascending, without overlap, none of them empty.
    pub(crate) extents: Vec<Range<u64>>,
    /// Where to go on.
    pub(crate) next: Option<u64>,
}

/// Where a file holds data, from an offset on.
pub(crate) fn data(root: impl AsFd, path: &str, from: u64) -> Result<Page, Error> {
    let (file, size) = opened(root, path)?;
    if from >= size {
        return Ok(Page::default());
    }
    let map = Map::read(&file, from..size).map_err(|error| failed(path, error))?;
    let mut page = Page { extents: Vec::new(), next: map.next(size) };
    for piece in map.pieces.iter().filter(|piece| piece.what != What::Zeroes) {
        page.add(piece.range.clone());
    }
    Ok(page)
}

/// Where a file differs from a base, from an offset on.
pub(crate) fn differences(root: impl AsFd, base: &str, path: &str, from: u64) -> Result<Page, Error> {
    let (old, old_size) = opened(&root, base)?;
    let (new, size) = opened(&root, path)?;
    if from >= size {
        return Ok(Page::default());
    }
    // From the middle of a block on as much of it is told as from its beginning on.
    let begin = from - from % BLOCK;
    let mapped = |file: &OwnedFd, name: &str, size: u64| {
        Map::read(file, begin..size).map_err(|error| failed(name, error))
    };
    // Beyond its end the base is zeroes, which a map says of what lies beyond it.
    let before = mapped(&old, base, old_size.max(begin))?;
    let map = mapped(&new, path, size)?;
    let again = mapped(&old, base, old_size.max(begin))?;
    let end = if before.end < old_size { map.end.min(before.end) } else { map.end };
    let moved = before != again;
    let mut page = Page { extents: Vec::new(), next: (end < size).then_some(end) };
    let mut doubtful = Vec::new();
    for piece in meet(&before, &map, end) {
        if moved || piece.what == What::Somewhere {
            doubtful.push(piece.range);
        }
    }
    let places = before.places && map.places;
    if places
        && !doubtful.is_empty()
        && (before.shares() || map.shares() || space::shares(&beneath::itself(&root)?))
    {
        doubtful.into_iter().for_each(|range| page.add(range));
        return Ok(page.cut(from));
    }
    let mut left = COMPARED;
    for range in doubtful {
        let stop = range.end.min(range.start.saturating_add(left));
        compare((&old, base), (&new, path), range.start..stop, &mut page)?;
        left -= stop - range.start;
        if stop < range.end {
            page.next = Some(stop);
            break;
        }
    }
    Ok(page.cut(from))
}

impl Page {
    /// Without what lies before an offset.
    fn cut(mut self, from: u64) -> Self {
        self.extents.retain(|range| range.end > from);
        if let Some(first) = self.extents.first_mut() {
            first.start = first.start.max(from);
        }
        self
    }

    /// Adds what lies behind all that is there.
    fn add(&mut self, range: Range<u64>) {
        match self.extents.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => self.extents.push(range),
        }
    }
}

/// A file for reading, and how long it is.
fn opened(root: impl AsFd, path: &str) -> Result<(OwnedFd, u64), Error> {
    // NONBLOCK: a fifo in its place must not hold the thread.
    let file = beneath::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let stat = fstat(&file).map_err(|error| failed(path, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::precondition(format!("{path:?} is no regular file")));
    }
    Ok((file, u64::try_from(stat.st_size).unwrap_or(0)))
}

/// What a piece of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Zeroes,
    /// Data at this place of the disk, which it shares with other files.
    Shared(u64),
    Somewhere,
}

impl What {
    fn of(extent: &Extent) -> Self {
        match extent.shared() {
            _ if extent.is_unwritten() => Self::Zeroes,
            Some(place) => Self::Shared(place),
            None => Self::Somewhere,
        }
    }

    /// What it is so many bytes further on.
    fn after(self, bytes: u64) -> Self {
        match self {
            Self::Shared(place) => Self::Shared(place.wrapping_add(bytes)),
            other => other,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    range: Range<u64>,
    what: What,
}

/// What a part of a file is, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Map {
    pieces: Vec<Piece>,
    /// How far it goes.
    end: u64,
    /// Whether it tells places.
    places: bool,
}

impl Map {
    fn read(file: &OwnedFd, part: Range<u64>) -> Result<Self, Errno> {
        match fiemap::extents(file, part.clone()) {
            Ok(found) => Ok(Self::of(&found, part)),
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS) => Self::sought(file, part),
            Err(error) => Err(error),
        }
    }

    /// Of what the filesystem says, which is the whole of the part unless it is as much as was asked for.
    fn of(found: &[Extent], part: Range<u64>) -> Self {
        let mut map = Self { pieces: Vec::new(), end: part.start, places: true };
        for extent in found {
            let range = extent.range();
            let (start, end) = (range.start.max(map.end), range.end.min(part.end));
            if start >= end {
                continue;
            }
            map.add(start, What::Zeroes);
            map.add(end, What::of(extent).after(start - range.start));
        }
        if found.len() < ROOM || found.iter().any(Extent::is_last) {
            map.add(part.end, What::Zeroes);
        }
        map
    }

    /// Of where there is data.
    fn sought(file: &OwnedFd, part: Range<u64>) -> Result<Self, Errno> {
        let mut map = Self { pieces: Vec::new(), end: part.start, places: false };
        while map.end < part.end && map.pieces.len() < ROOM {
            let start = match seek(file, SeekFrom::Data(map.end)) {
                Ok(start) => start.min(part.end),
                Err(Errno::NXIO) => part.end,
                Err(error) => return Err(error),
            };
            map.add(start, What::Zeroes);
            if start < part.end {
                let end = seek(file, SeekFrom::Hole(start))?;
                map.add(end.clamp(start + 1, part.end), What::Somewhere);
            }
        }
        Ok(map)
    }

    fn add(&mut self, end: u64, what: What) {
        if end > self.end {
            self.pieces.push(Piece { range: self.end..end, what });
            self.end = end;
        }
    }

    fn next(&self, size: u64) -> Option<u64> {
        (self.end < size).then_some(self.end)
    }

    fn shares(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece.what, What::Shared(_)))
    }
}

/// What two maps say together, up to an end: zeroes where both do, a place where it is the same, and somewhere where
/// they may differ.
fn meet(one: &Map, other: &Map, end: u64) -> Vec<Piece> {
    let mut met = Vec::new();
    let mut ones = one.pieces.iter().peekable();
    for piece in &other.pieces {
        let mut at = piece.range.start;
        while at < piece.range.end.min(end) {
            while ones.peek().is_some_and(|one| one.range.end <= at) {
                ones.next();
            }
            let beside = ones.peek();
            let stop = beside.map_or(u64::MAX, |one| one.range.end).min(piece.range.end).min(end);
            let here = |piece: &Piece| piece.what.after(at - piece.range.start);
            let (one, other) = (beside.map_or(What::Zeroes, |one| here(one)), here(piece));
            let what = if one == other { one } else { What::Somewhere };
            met.push(Piece { range: at..stop, what });
            at = stop;
        }
    }
    met
}

/// Adds the blocks of a range in which two files differ.
fn compare(
    base: (&OwnedFd, &str),
    file: (&OwnedFd, &str),
    range: Range<u64>,
    page: &mut Page,
) -> Result<(), Error> {
    let mut at = range.start;
    let (mut old, mut new) = (Vec::new(), Vec::new());
    while at < range.end {
        let end = range.end.min(at + CHUNK - at % CHUNK);
        fill(base, at..end, &mut old)?;
        fill(file, at..end, &mut new)?;
        if old == new {
            at = end;
            continue;
        }
        let (mut old, mut new) = (old.as_slice(), new.as_slice());
        while at < end {
            let stop = end.min(at + BLOCK - at % BLOCK);
            let length = usize::try_from(stop - at).unwrap_or(usize::MAX);
            let (Some((before, old_rest)), Some((after, new_rest))) =
                (old.split_at_checked(length), new.split_at_checked(length))
            else {
                break;
            };
            if before != after {
                page.add(at..stop);
            }
            (old, new, at) = (old_rest, new_rest, stop);
        }
    }
    Ok(())
}

/// Reads a range; what lies beyond the end is zeroes.
fn fill((file, path): (&OwnedFd, &str), range: Range<u64>, bytes: &mut Vec<u8>) -> Result<(), Error> {
    bytes.clear();
    bytes.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match pread(file, rest, range.start + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(path, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::FileExt as _};

    use kato_orchestrator::Kind;

    use super::*;

    const KIB: u64 = 1024;

    fn shared(at: u64, place: u64, length: u64) -> Extent {
        Extent::new(at, place, length, 0x2000)
    }

    fn map(extents: &[Extent], size: u64) -> Map {
        Map::of(extents, 0..size)
    }

    /// All pages together, each asked for where the last one ended.
    fn all(ask: impl Fn(u64) -> Page, from: u64) -> Vec<Range<u64>> {
        let (mut all, mut at) = (Page::default(), from);
        loop {
            let page = ask(at);
            page.extents.into_iter().for_each(|range| all.add(range));
            let Some(next) = page.next else { return all.extents };
            assert!(next > at);
            at = next;
        }
    }

    #[test]
    fn holes_and_blocks_that_were_never_written_are_zeroes() {
        let extents = [
            Extent::new(4096, 1 << 20, 4096, 0),
            Extent::new(8192, 2 << 20, 4096, 0x800),
            Extent::new(16384, 3 << 20, 8192, 0x2001),
        ];
        let map = map(&extents, 20000);
        let told: Vec<_> = map.pieces.iter().map(|piece| (piece.range.clone(), piece.what)).collect();
        assert_eq!(
            told,
            [
                (0..4096, What::Zeroes),
                (4096..8192, What::Somewhere),
                (8192..12288, What::Zeroes),
                (12288..16384, What::Zeroes),
                (16384..20000, What::Shared(3 << 20)),
            ]
        );
    }

    #[test]
    fn a_map_from_the_middle_of_an_extent_knows_the_place_there() {
        let map = Map::of(&[shared(0, 1 << 20, 1 << 16)], 5000..40000);
        assert_eq!(map.pieces, [Piece { range: 5000..40000, what: What::Shared((1 << 20) + 5000) }]);
    }

    #[test]
    fn an_answer_as_long_as_there_is_room_for_goes_no_further_than_it_says() {
        let extents: Vec<_> = (0..ROOM as u64).map(|number| Extent::new(number * 8192, 1, 4096, 0)).collect();
        let end = (ROOM as u64 - 1) * 8192 + 4096;
        assert_eq!(map(&extents, 1 << 30).next(1 << 30), Some(end));
        assert_eq!(map(&extents[1..], 1 << 30).next(1 << 30), None);
    }

    #[test]
    fn only_the_same_shared_place_is_the_same_data() {
        let size = 64 * KIB;
        let differing = |one: &[Extent], other: &[Extent]| {
            let mut page = Page::default();
            for piece in meet(&map(one, size), &map(other, size), size) {
                if piece.what == What::Somewhere {
                    page.add(piece.range);
                }
            }
            page.extents.into_iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        let base = [shared(0, 1 << 20, 32 * KIB)];
        assert!(differing(&base, &base).is_empty());
        // The same blocks, told as two extents.
        let split = [shared(0, 1 << 20, 12 * KIB), shared(12 * KIB, (1 << 20) + 12 * KIB, 20 * KIB)];
        assert!(differing(&base, &split).is_empty());
        let rewritten = [
            shared(0, 1 << 20, 8 * KIB),
            Extent::new(8 * KIB, 7 << 20, 4 * KIB, 0),
            shared(12 * KIB, (1 << 20) + 12 * KIB, 20 * KIB),
        ];
        assert_eq!(differing(&base, &rewritten), [(8 * KIB, 12 * KIB)]);
        assert_eq!(differing(&base, &[]), [(0, 32 * KIB)], "a hole in place of data");
        assert_eq!(differing(&[], &base), [(0, 32 * KIB)], "data in place of a hole");
        // Inline, encoded, without a place yet, unknown, and a place that nobody shares: nothing is known of them.
        for flags in [0x2200, 0x2008, 0x2004, 0x2002, 0] {
            let doubtful = [Extent::new(0, 1 << 20, 4 * KIB, flags)];
            assert_eq!(differing(&doubtful, &doubtful), [(0, 4 * KIB)], "{flags:x}");
        }
        let unwritten = [Extent::new(0, 1 << 20, 4 * KIB, 0x800)];
        assert!(differing(&unwritten, &[]).is_empty());
        // Moved by one block: every place is another one.
        assert_eq!(differing(&base, &[shared(0, (1 << 20) + 4096, 32 * KIB)]), [(0, 32 * KIB)]);
    }

    #[test]
    fn data_is_found_from_any_offset_on() {
        let temp = tempfile::tempdir().unwrap();
        let root = beneath::plain(temp.path());
        let file = fs::File::create_new(temp.path().join("f")).unwrap();
        file.set_len(1 << 30).unwrap();
        for block in [0, 5, 6, 100_000] {
            file.write_all_at(&[7; 4096], block * 4096).unwrap();
        }
        let found = all(|from| data(&root, "f", from).unwrap(), 0);
        for block in [0, 5, 6, 100_000] {
            let at = block * 4096..(block + 1) * 4096;
            assert!(found.iter().any(|range| range.start <= at.start && at.end <= range.end), "{found:?}");
        }
        let taken: u64 = found.iter().map(|range| range.end - range.start).sum();
        assert!(taken < 1 << 20, "{taken} bytes are told to be data");
        let middle = all(|from| data(&root, "f", from).unwrap(), 6 * 4096 + 10);
        assert_eq!(middle[0].start, 6 * 4096 + 10);
        assert_eq!(data(&root, "f", 1 << 30).unwrap(), Page::default());
        assert_eq!(data(&root, "f", u64::MAX).unwrap(), Page::default());
        assert_eq!(data(&root, "none", 0).unwrap_err().kind, Kind::NotFound);
        assert_eq!(data(&root, "../f", 0).unwrap_err().kind, Kind::PermissionDenied);
        fs::create_dir(temp.path().join("d")).unwrap();
        assert_eq!(data(&root, "d", 0).unwrap_err().kind, Kind::Precondition);
    }

    #[test]
    fn the_blocks_of_two_files_that_differ_are_told_whatever_lies_beneath() {
        let temp = tempfile::tempdir().unwrap();
        let root = beneath::plain(temp.path());
        let (base, file) = (temp.path().join("base"), temp.path().join("file"));
        let size = 160 << 20;
        let of = |path: &std::path::Path, size: u64| {
            let file = fs::File::create_new(path).unwrap();
            file.set_len(size).unwrap();
            file.write_all_at(&vec![1; 70 << 20], 0).unwrap();
            file.write_all_at(&vec![2; 1 << 20], 80 << 20).unwrap();
            file
        };
        of(&base, size);
        let file = of(&file, size + (1 << 20));
        // One byte, the last one of a page that is compared, zeroes in place of data and data in place of zeroes, and
        // what lies beyond the base.
        let changes =
            [(10_000, 9, 1), (64 << 20, 9, 4096), (80 << 20, 0, 4096), (90 << 20, 3, 5000), (size, 4, 4096)];
        for (at, byte, length) in changes {
            file.write_all_at(&vec![byte; length], at).unwrap();
        }
        let ask = |from| differences(&root, "base", "file", from).unwrap();
        let found = all(ask, 0);
        let mut copy = fs::read(&base).unwrap();
        copy.resize(usize::try_from(size).unwrap() + (1 << 20), 0);
        let target = fs::read(temp.path().join("file")).unwrap();
        for range in &found {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            copy[range.clone()].copy_from_slice(&target[range]);
        }
        assert!(copy == target, "a block that differs was not told: {found:?}");
        assert!(!all(ask, 10_000).is_empty() && all(ask, (90 << 20) + 8192)[0].start >= size);
        assert!(all(|from| differences(&root, "base", "base", from).unwrap(), 0).is_empty());
    }

    #[test]
    fn bytes_are_compared_block_by_block_and_only_so_many_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let root = beneath::plain(temp.path());
        let made = |name: &str, bytes: &[u8]| {
            fs::write(temp.path().join(name), bytes).unwrap();
            opened(&root, name).unwrap().0
        };
        let mut bytes = vec![5; 600 << 10];
        let old = made("old", &bytes);
        bytes[4095] = 6;
        bytes[300 << 10] = 6;
        let new = made("new", &bytes);
        let mut page = Page::default();
        compare((&old, "old"), (&new, "new"), 100..600 << 10, &mut page).unwrap();
        assert_eq!(page.extents, [100..4096, 300 << 10..304 << 10]);
        // Zeroes follow the end.
        let mut page = Page::default();
        compare((&old, "old"), (&new, "new"), 600 << 10..700 << 10, &mut page).unwrap();
        assert!(page.extents.is_empty());
    }

    #[test]
    fn where_there_is_data_is_known_without_a_map_too() {
        let temp = tempfile::tempdir().unwrap();
        let file = fs::File::create_new(temp.path().join("f")).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[7; 4096], 512 << 10).unwrap();
        let map = Map::sought(&file.into(), 0..1 << 20).unwrap();
        let data: Vec<_> = map.pieces.iter().filter(|piece| piece.what == What::Somewhere).collect();
        assert_eq!(map.end, 1 << 20);
        assert!(data.iter().any(|piece| piece.range.contains(&(512 << 10))), "{map:?}");
    }
}
