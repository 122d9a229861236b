//! The bytes of a snapshot as blocks of 512 KiB. What was once asked of them is kept, because a snapshot does not change
//! any more: which blocks there are, what their checksums are, and in which two snapshots differ.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest as _, Sha256};

use super::ground::{BLOCK, allocated, is_same, read_block};

/// SHA-256 of a block.
pub(super) type Checksum = [u8; 32];

#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) file: Arc<File>,
    /// What was put, of a snapshot that is put together.
    put: Mutex<BTreeMap<u32, Checksum>>,
    checksums: Mutex<HashMap<u32, Checksum>>,
    allocated: Mutex<Option<Arc<Vec<u32>>>>,
    compared: Mutex<Vec<Comparison>>,
}

/// In which blocks one differs from an older one.
#[derive(Debug)]
struct Comparison {
    older: Arc<File>,
    changed: Arc<Vec<u32>>,
}

impl Blocks {
    pub(super) fn of(file: File) -> Self {
        Self {
            file: Arc::new(file),
            put: Mutex::default(),
            checksums: Mutex::default(),
            allocated: Mutex::default(),
            compared: Mutex::default(),
        }
    }

    /// Writes a block of a snapshot that is put together.
    pub(super) fn put(&self, index: u32, bytes: &[u8], checksum: Checksum) -> io::Result<()> {
        self.file.write_all_at(bytes, u64::from(index) * BLOCK)?;
        held(&self.put).insert(index, checksum);
        Ok(())
    }

    /// How many blocks were put, and the checksum over their checksums.
    pub(super) fn sum(&self) -> (usize, Checksum) {
        let put = held(&self.put);
        let mut sum = Sha256::new();
        put.values().for_each(|checksum| sum.update(checksum));
        (put.len(), sum.finalize().into())
    }

    /// The blocks that were ever written, in their order.
    pub(super) fn allocated(&self) -> io::Result<Arc<Vec<u32>>> {
        let mut known = held(&self.allocated);
        if known.is_none() {
            *known = Some(Arc::new(allocated(&self.file)?));
        }
        Ok(known.clone().unwrap_or_default())
    }

    /// A block and its checksum.
    pub(super) fn read(&self, index: u32) -> io::Result<(Vec<u8>, Checksum)> {
        let bytes = read_block(&self.file, index)?;
        let known =
            held(&self.checksums).get(&index).copied().or_else(|| held(&self.put).get(&index).copied());
        let checksum = known.unwrap_or_else(|| Sha256::digest(&bytes).into());
        held(&self.checksums).insert(index, checksum);
        Ok((bytes, checksum))
    }

    /// The blocks in which this one differs from an older one, in their order.
    pub(super) fn changed_since(&self, older: &Self) -> io::Result<Arc<Vec<u32>>> {
        let mut known = held(&self.compared);
        if let Some(found) = known.iter().find(|found| Arc::ptr_eq(&found.older, &older.file)) {
            return Ok(Arc::clone(&found.changed));
        }
        let (before, after) = (older.allocated()?, self.allocated()?);
        let mut both: Vec<u32> = before.iter().chain(after.iter()).copied().collect();
        both.sort_unstable();
        both.dedup();
        let mut changed = Vec::new();
        for index in both {
            let is_in = |blocks: &[u32]| blocks.binary_search(&index).is_ok();
            if !is_in(&before) || !is_in(&after) || !is_same(&older.file, &self.file, index)? {
                changed.push(index);
            }
        }
        let changed = Arc::new(changed);
        known.push(Comparison { older: Arc::clone(&older.file), changed: Arc::clone(&changed) });
        Ok(changed)
    }
}

/// A test that failed in another thread leaves things as they are.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
