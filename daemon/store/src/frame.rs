//! How a value lies in sled: checksum, revision, value.
//!
//! ```text
//! 0          4          12
//! │ checksum │ revision │ value …
//! ```
//!
//! Numbers are big-endian; the checksum (CRC-32) covers the key too. sled checks what it reads from disk; this
//! check also finds what sled itself mixed up, and bits that flipped in memory.

use kato_orchestrator::{
    Error,
    ports::store::{Entry, Revision},
};

const HEADER: usize = 12;

/// A value as it is kept under its key.
pub(crate) fn pack(key: &str, revision: Revision, value: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + value.len());
    frame.extend_from_slice(&checksum(key, revision, value).to_be_bytes());
    frame.extend_from_slice(&revision.to_be_bytes());
    frame.extend_from_slice(value);
    frame
}

/// The entry of such a value.
pub(crate) fn unpack(key: &[u8], frame: &[u8]) -> Result<Entry, Error> {
    let name = || String::from_utf8_lossy(key).into_owned();
    let damaged = || {
        Error::internal(
            "the record is damaged on disk (its checksum does not hold): stop the daemon, move `sled` and \
             `mark` in its store away (not `dumps`), start it again, and run `kato recover --scan`: it rebuilds the \
             records from the dumps and the backends",
        )
        .about(name())
    };
    let &[c0, c1, c2, c3, r0, r1, r2, r3, r4, r5, r6, r7, ref value @ ..] = frame else {
        return Err(damaged());
    };
    let revision = Revision::from_be_bytes([r0, r1, r2, r3, r4, r5, r6, r7]);
    let key = std::str::from_utf8(key).map_err(|_| damaged())?;
    if u32::from_be_bytes([c0, c1, c2, c3]) != checksum(key, revision, value) {
        return Err(damaged());
    }
    Ok(Entry { key: key.to_owned(), value: value.to_vec(), revision })
}

fn checksum(key: &str, revision: Revision, value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&u64::try_from(key.len()).unwrap_or(u64::MAX).to_be_bytes());
    crc.update(key.as_bytes());
    crc.update(&revision.to_be_bytes());
    crc.update(value);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_a_wrong_key_are_noticed() {
        let frame = pack("v/1", 77, b"value");
        assert_eq!(unpack(b"v/1", &frame).unwrap().revision, 77);
        assert_eq!(unpack(b"v/2", &frame).unwrap_err().subject, "v/2");
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unpack(b"v/1", &damaged).unwrap_err().subject, "v/1", "bit {bit}");
        }
        for length in 0..frame.len() {
            assert!(unpack(b"v/1", &frame[..length]).is_err());
        }
    }
}
