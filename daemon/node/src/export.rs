//! A snapshot as a file: what holds data in it, in the order of its place, each piece with a digest that goes on from the
//! one before, so that nothing can be missing, moved or changed without being seen. It is written and read from front
//! to back and can be a pipe; reading it can be gone on with at any piece.
//!
//! ```text
//! kato snapshot 1\n
//! {"size_bytes":1073741824,"fs":"ext4",…}\n       what it is of
//! digest                                          of the two lines
//! B offset(8) length(4) bytes digest              a piece; numbers are big-endian
//! E 0(8) 0(4) digest                              the end
//! ```
//!
//! A digest is the SHA-256 of the one before and of all that stands between the two. What is in no piece is zeroes.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read, Write},
    os::unix::fs::FileExt as _,
    path::Path,
};

use kato_orchestrator::Error;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{blocks::is_zero, errno::failed};

const MAGIC: &str = "kato snapshot 1\n";

/// The longest first lines.
const HEAD: usize = 64 << 10;

/// The longest piece.
const PIECE: usize = 1 << 20;

/// How finely zeroes are left out, and what pieces begin at: the largest block of any backend's.
const GRAIN: usize = 512 << 10;

type Sum = [u8; 32];

/// What a file is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// How large a volume made of it is at least.
    pub size_bytes: u64,
    /// The filesystem on it.
    pub fs: String,
    /// Which directory of that a container gets; nothing for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What the volume was called.
    #[serde(default)]
    pub volume: String,
    /// What the snapshot was called.
    #[serde(default)]
    pub snapshot: String,
    /// When it was cut.
    #[serde(default)]
    pub cut: String,
}

/// Writes a file.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    sum: Sum,
}

fn sum(before: &Sum, parts: &[&[u8]]) -> Sum {
    let mut hasher = Sha256::new();
    hasher.update(before);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

fn record(kind: u8, offset: u64, length: u32) -> [u8; 13] {
    let mut head = [0; 13];
    let (first, rest) = head.split_at_mut(1);
    first.copy_from_slice(&[kind]);
    let (place, size) = rest.split_at_mut(8);
    place.copy_from_slice(&offset.to_be_bytes());
    size.copy_from_slice(&length.to_be_bytes());
    head
}

impl<W: Write> Writer<W> {
    /// Begins one.
    pub fn begin(mut to: W, head: &Head) -> io::Result<Self> {
        let head = format!("{MAGIC}{}\n", serde_json::to_string(head)?);
        let sum = sum(&[0; 32], &[head.as_bytes()]);
        to.write_all(head.as_bytes())?;
        to.write_all(&sum)?;
        Ok(Self { to, sum })
    }

    /// Writes what is at a place, which is further on than all before. Zeroes are left out.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let grain = u64::try_from(GRAIN).map_err(io::Error::other)?;
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            // Up to the next whole grain, so that every piece but the first begins at one.
            let room = usize::try_from(grain - at % grain).map_err(io::Error::other)?;
            let (piece, after) = rest.split_at(room.min(rest.len()));
            if !is_zero(piece) {
                let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
                self.write(record(b'B', at, length), piece)?;
            }
            at = at.saturating_add(u64::try_from(piece.len()).map_err(io::Error::other)?);
            rest = after;
        }
        Ok(())
    }

    /// Ends it: without that it is not whole.
    pub fn end(mut self) -> io::Result<W> {
        self.write(record(b'E', 0, 0), &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn write(&mut self, head: [u8; 13], bytes: &[u8]) -> io::Result<()> {
        self.sum = sum(&self.sum, &[&head, bytes]);
        self.to.write_all(&head)?;
        self.to.write_all(bytes)?;
        self.to.write_all(&self.sum)
    }
}

/// Some of a file's pieces.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) pieces: Vec<(u64, u64)>,
    pub(crate) bytes: Vec<u8>,
    /// Where to go on in the file; nothing at the end.
    pub(crate) next: Option<u64>,
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::invalid(format!("the file {} cannot be used: {what}", path.display()))
}

fn open(path: &Path) -> Result<File, Error> {
    let file = File::open(path).map_err(|error| failed(format_args!("open {}", path.display()), error))?;
    let found = file.metadata().map_err(|error| failed(format_args!("look at {}", path.display()), error))?;
    if !found.is_file() {
        return Err(damaged(path, "it is no file that can be read more than once"));
    }
    Ok(file)
}

/// What a file is of, and where its pieces begin.
pub fn head(path: &Path) -> Result<(Head, u64), Error> {
    let mut lines = BufReader::new(open(path)?.take(u64::try_from(HEAD).unwrap_or(u64::MAX)));
    let read = |error| failed(format_args!("read {}", path.display()), error);
    let (mut magic, mut text) = (Vec::new(), Vec::new());
    lines.read_until(b'\n', &mut magic).map_err(read)?;
    if magic != MAGIC.as_bytes() {
        return Err(damaged(path, "it is no exported snapshot, or one of a newer version"));
    }
    lines.read_until(b'\n', &mut text).map_err(read)?;
    let mut told = [0; 32];
    lines.read_exact(&mut told).map_err(|_| damaged(path, "it is cut off"))?;
    let head = serde_json::from_slice(&text).map_err(|_| damaged(path, "its first lines are damaged"))?;
    if told != sum(&[0; 32], &[&magic, &text]) {
        return Err(damaged(path, "its first lines are damaged"));
    }
    let begin = magic.len().saturating_add(text.len()).saturating_add(told.len());
    Ok((head, u64::try_from(begin).unwrap_or(u64::MAX)))
}

/// Pieces from a place in the file on, about so many bytes of them.
pub(crate) fn page(path: &Path, from: u64, most: usize) -> Result<Page, Error> {
    let file = open(path)?;
    let cut_off = |_| damaged(path, "it is cut off: export it again");
    let before = from.checked_sub(32).ok_or_else(|| damaged(path, "no piece begins there"))?;
    let mut chain: Sum = [0; 32];
    file.read_exact_at(&mut chain, before).map_err(cut_off)?;
    let mut page = Page { pieces: Vec::new(), bytes: Vec::with_capacity(most), next: Some(from) };
    let mut at = from;
    while page.bytes.len() < most {
        let mut head = [0; 13];
        file.read_exact_at(&mut head, at).map_err(cut_off)?;
        let [kind, o1, o2, o3, o4, o5, o6, o7, o8, l1, l2, l3, l4] = head;
        let offset = u64::from_be_bytes([o1, o2, o3, o4, o5, o6, o7, o8]);
        let length = u32::from_be_bytes([l1, l2, l3, l4]);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > PIECE || !matches!(kind, b'B' | b'E') {
            return Err(damaged(path, "a piece of it is damaged"));
        }
        let mut bytes = vec![0; size];
        let data = at.saturating_add(13);
        file.read_exact_at(&mut bytes, data).map_err(cut_off)?;
        let end = data.saturating_add(u64::from(length));
        let mut told: Sum = [0; 32];
        file.read_exact_at(&mut told, end).map_err(cut_off)?;
        chain = sum(&chain, &[&head, &bytes]);
        if chain != told {
            return Err(damaged(path, &format!("the piece for the place {offset} is damaged")));
        }
        if kind == b'E' {
            page.next = None;
            return Ok(page);
        }
        page.pieces.push((offset, u64::from(length)));
        page.bytes.extend(bytes);
        at = end.saturating_add(32);
        page.next = Some(at);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn made() -> (tempfile::TempDir, std::path::PathBuf, Head) {
        let head = Head {
            size_bytes: 8 << 20,
            fs: "ext4".into(),
            directory: Some("data".into()),
            volume: "db".into(),
            snapshot: "monday".into(),
            cut: String::new(),
        };
        let mut writer = Writer::begin(Vec::new(), &head).unwrap();
        writer.put(0, &[1; 4096]).unwrap();
        writer.put(512 << 10, &vec![0; 1 << 20]).unwrap();
        writer.put(2 << 20, &vec![7; (1 << 20) + 5]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, writer.end().unwrap()).unwrap();
        (folder, path, head)
    }

    fn all(path: &Path) -> Result<Vec<(u64, u64)>, Error> {
        let (_, mut from) = head(path)?;
        let mut pieces = Vec::new();
        loop {
            let page = page(path, from, 1)?;
            pieces.extend(page.pieces);
            match page.next {
                Some(next) => from = next,
                None => return Ok(pieces),
            }
        }
    }

    #[test]
    fn what_is_written_is_read_from_any_piece_on() {
        let (_folder, path, wrote) = made();
        assert_eq!(head(&path).unwrap().0, wrote);
        assert_eq!(
            all(&path).unwrap(),
            [(0, 4096), (2 << 20, 512 << 10), ((2 << 20) + (512 << 10), 512 << 10), (3 << 20, 5)]
        );
    }

    #[test]
    fn a_flipped_bit_a_lost_piece_and_a_missing_end_are_seen() {
        let (_folder, path, _) = made();
        let whole = fs::read(&path).unwrap();
        let (_, begin) = head(&path).unwrap();
        for at in [3, 40, usize::try_from(begin).unwrap() + 100, whole.len() - 40] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(all(&path).is_err(), "at {at}");
        }
        fs::write(&path, &whole[..whole.len() - 45]).unwrap();
        assert!(all(&path).unwrap_err().message.contains("cut off"));
        let begin = usize::try_from(begin).unwrap();
        let mut bytes = whole;
        bytes.drain(begin..begin + 13 + 4096 + 32);
        fs::write(&path, bytes).unwrap();
        assert!(all(&path).is_err());
    }
}
