//! What the records must add up to, so that none can go missing unseen.
//!
//! sled takes a damaged place in its log for the place where a power cut stopped it, and drops what follows
//! without a word. So each batch also writes, in the same stroke, how many records there are and the sum of
//! their checksums: an opening adds them up again and finds every gap. A log that simply ends too early adds up
//! as well; therefore the revision of the last sync stands in a file beside it, written after the sync.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use kato_orchestrator::{Error, ports::store::Revision};

use crate::{place, sled::unreadable};

/// Where the tally stands among the records; no key of a record is empty.
pub(crate) const KEY: &str = "";

/// The records in two numbers, and the last commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) revision: Revision,
    count: u64,
    sum: u64,
}

impl Tally {
    /// A frame came.
    pub(crate) fn add(&mut self, frame: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(u64::from(crc32fast::hash(frame)));
    }

    /// A frame went.
    pub(crate) fn remove(&mut self, frame: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(u64::from(crc32fast::hash(frame)));
    }

    /// As it is kept.
    pub(crate) fn pack(self) -> Vec<u8> {
        let mut packed = Vec::with_capacity(28);
        for number in [self.revision, self.count, self.sum] {
            packed.extend_from_slice(&number.to_be_bytes());
        }
        let crc = crc32fast::hash(&packed);
        packed.extend_from_slice(&crc.to_be_bytes());
        packed
    }

    fn unpack(packed: &[u8]) -> Option<Self> {
        let (numbers, crc) = packed.split_at_checked(24)?;
        let number = |at: usize| Some(u64::from_be_bytes(numbers.get(at..at + 8)?.try_into().ok()?));
        let tally = Self { revision: number(0)?, count: number(8)?, sum: number(16)? };
        (crc == crc32fast::hash(numbers).to_be_bytes()).then_some(tally)
    }

    /// Adds up what there is.
    pub(crate) fn of(store: &Path, records: &sled::Tree) -> Result<Self, Error> {
        let (mut kept, mut found) = (Self::default(), Self::default());
        for item in records {
            let (key, value) = item.map_err(|error| unreadable(store, error))?;
            if key.is_empty() {
                kept = Self::unpack(&value)
                    .ok_or_else(|| damaged(store, "the tally of its records is not readable"))?;
            } else {
                found.add(&value);
            }
        }
        found.revision = kept.revision;
        if found != kept {
            return Err(damaged(
                store,
                &format!(
                    "it holds {} records that do not add up to the {} that it should hold",
                    found.count, kept.count
                ),
            ));
        }
        Ok(found)
    }
}

/// Where the revision of the last sync is kept, outside of sled.
#[derive(Debug)]
pub(crate) struct Mark(File);

impl Mark {
    /// Compares the last sync with what is there.
    pub(crate) fn check(store: &Path, tally: Tally) -> Result<(), Error> {
        match Self::read(store)? {
            Some(synced) if tally.revision < synced => Err(damaged(
                store,
                &format!("it ends with commit {} and commit {synced} was durable", tally.revision),
            )),
            _ => Ok(()),
        }
    }

    /// Opens it, for a store that was checked.
    pub(crate) fn open(store: &Path) -> Result<Self, Error> {
        let path = store.join("mark");
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        opened.map(Self).map_err(|error| place::unusable(&path, error))
    }

    /// Everything up to this commit is durable now. The mark itself need not be: an older one is true as well.
    pub(crate) fn set(&self, revision: Revision) -> io::Result<()> {
        let bytes = revision.to_be_bytes();
        let crc = crc32fast::hash(&bytes).to_be_bytes();
        self.0.write_all_at(&[bytes.as_slice(), crc.as_slice()].concat(), 0)
    }

    /// The revision of the last sync, if it is known.
    pub(crate) fn read(store: &Path) -> Result<Option<Revision>, Error> {
        let path = store.join("mark");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(place::unusable(&path, error)),
        };
        let (Some(revision), Some(crc)) = (bytes.first_chunk::<8>(), bytes.get(8..)) else { return Ok(None) };
        // A mark that a power cut tore says nothing.
        Ok((crc == crc32fast::hash(revision).to_be_bytes()).then(|| Revision::from_be_bytes(*revision)))
    }

    /// Forgets it, for a store that is made anew.
    pub(crate) fn remove(store: &Path) -> Result<(), Error> {
        let path = store.join("mark");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(place::unusable(&path, error)),
            _ => Ok(()),
        }
    }
}

/// The error of a store that misses something.
pub(crate) fn damaged(store: &Path, why: &str) -> Error {
    unreadable(store, sled::Error::ReportableBug(why.to_owned()))
}
