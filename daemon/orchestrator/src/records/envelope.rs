//! What is wrapped around every record, so that no damage goes unseen:
//!
//! ```text
//! 0      2       4     5          9
//! │ "KR" │ schema│ tag │ checksum │ compact JSON …
//! ```
//!
//! Numbers are big-endian. The checksum (CRC-32) covers the key, the header before it and the payload, so a
//! flipped bit, a torn value and a value under another key's name are all found. This outer shape is the same
//! in every schema: the checksum is looked at first, the schema second, the payload last. Read `mod.rs` for
//! what is inside.

use super::SCHEMA;
use crate::error::Error;

const MAGIC: [u8; 2] = *b"KR";
const HEADER: usize = 9;

/// What was in an envelope.
pub(super) struct Opened<'a> {
    pub(super) schema: u16,
    pub(super) tag: u8,
    pub(super) payload: &'a [u8],
}

/// Wraps a payload that is to stand under this key.
pub(super) fn seal(key: &str, schema: u16, tag: u8, payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER + payload.len());
    value.extend_from_slice(&MAGIC);
    value.extend_from_slice(&schema.to_be_bytes());
    value.push(tag);
    value.extend_from_slice(&checksum(key, schema, tag, payload).to_be_bytes());
    value.extend_from_slice(payload);
    value
}

/// Unwraps a value, if it is whole and this program can read its schema.
pub(super) fn open<'a>(key: &str, value: &'a [u8]) -> Result<Opened<'a>, Error> {
    let &[m0, m1, s0, s1, tag, c0, c1, c2, c3, ref payload @ ..] = value else {
        return Err(damaged(key, "it is too short to be a record"));
    };
    if [m0, m1] != MAGIC {
        return Err(damaged(key, "it does not begin as a record does"));
    }
    let schema = u16::from_be_bytes([s0, s1]);
    if u32::from_be_bytes([c0, c1, c2, c3]) != checksum(key, schema, tag, payload) {
        return Err(damaged(key, "its checksum does not hold"));
    }
    check_schema(key, schema)?;
    Ok(Opened { schema, tag, payload })
}

/// Refuses a schema that is newer than this program.
pub(super) fn check_schema(key: &str, schema: u16) -> Result<(), Error> {
    if schema <= SCHEMA {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "the record was written in schema {schema} and this program reads up to schema {SCHEMA}: run the newer \
         kato that wrote it, or restore a dump of the older one"
    ))
    .about(key))
}

/// The error of a record that cannot be believed.
pub(super) fn damaged(key: &str, why: &str) -> Error {
    Error::internal(format!(
        "the record is damaged ({why}): stop the daemon, move `sled` and `mark` in its store away (not \
         `dumps`), start it again, and run `kato recover --scan`: it rebuilds the records from the dumps and the backends"
    ))
    .about(key)
}

fn checksum(key: &str, schema: u16, tag: u8, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&u64::try_from(key.len()).unwrap_or(u64::MAX).to_be_bytes());
    crc.update(key.as_bytes());
    crc.update(&MAGIC);
    crc.update(&schema.to_be_bytes());
    crc.update(&[tag]);
    crc.update(payload);
    crc.finalize()
}
