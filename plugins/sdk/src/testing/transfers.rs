//! Blocks in memory: a test says what stands in for the backend's server, and which bytes are asked for or to be written.
//! It keeps the host's rules: a request lies within what was asked for, bytes come once, what has another length or
//! digest than was told is no success.
//!
//! ```
//! use std::{cell::RefCell, rc::Rc};
//!
//! use kato_plugin_sdk::{
//!     testing::{Answered, Arrived, MemoryTransfers, Server},
//!     transfers::{Fetching, Transfers},
//! };
//!
//! #[derive(Debug)]
//! struct Sevens;
//!
//! impl Server for Sevens {
//!     fn answer(&mut self, _: &Arrived) -> Option<Answered> {
//!         Some(Answered { status: 200, headers: Vec::new(), body: vec![7; 4] })
//!     }
//! }
//!
//! let transfers = MemoryTransfers::reading(Rc::new(RefCell::new(Sevens)), &[(8, 4)]);
//! let request = |offset_bytes| Fetching {
//!     url: "https://x/7".into(),
//!     headers: Vec::new(),
//!     offset_bytes,
//!     length_bytes: 4,
//!     digest_header: None,
//! };
//! assert_eq!(transfers.fetch(vec![request(8)]).unwrap()[0].status, 200);
//! assert_eq!(transfers.bytes()[&8], [7; 4]);
//! assert!(transfers.fetch(vec![request(8)]).is_err(), "those bytes came already");
//! assert!(transfers.fetch(vec![request(12)]).is_err(), "nobody asked for those");
//! ```

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use crate::{
    digests::base64,
    transfers::{Fetching, Outcome, Sending, Transfers},
    types::{Error, Pair},
};

/// A request, as a server gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// `GET` for what is fetched.
    pub method: String,
    /// All of it.
    pub url: String,
    /// Those of the component, and the digest's.
    pub headers: Vec<Pair>,
    /// The bytes that are sent.
    pub body: Vec<u8>,
}

impl Arrived {
    /// The first header of this name, however it is written.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: Vec<Pair>,
    /// All of it.
    pub body: Vec<u8>,
}

/// What stands in for the backend's server.
pub trait Server {
    /// Answers a request; nothing for an answer that is lost.
    fn answer(&mut self, arrived: &Arrived) -> Option<Answered>;
}

/// What stands in for SHA-256: components pass digests on, and never make one of blocks.
#[must_use]
pub fn stand_in_digest(bytes: &[u8]) -> [u8; 32] {
    let mut state = 0xcbf2_9ce4_8422_2325_u128 ^ bytes.len() as u128;
    for part in bytes.chunks(16) {
        let word = <[u8; 16]>::try_from(part).unwrap_or_else(|_short| {
            let mut word = [0; 16];
            word.iter_mut().zip(part).for_each(|(to, byte)| *to = *byte);
            word
        });
        state =
            (state ^ u128::from_be_bytes(word)).wrapping_mul(0x0100_0000_0000_0000_0000_013b).rotate_left(47);
    }
    let mut digest = [0; 32];
    for (half, factor) in digest.chunks_mut(16).zip([3_u128, 5]) {
        half.copy_from_slice(&state.wrapping_mul(factor).to_be_bytes());
    }
    digest
}

/// Blocks in memory.
pub struct MemoryTransfers {
    server: Rc<RefCell<dyn Server>>,
    /// What may be moved: offsets and lengths.
    asked: Vec<(u64, u64)>,
    /// What is sent, or came.
    bytes: RefCell<BTreeMap<u64, Vec<u8>>>,
    reading: bool,
    requests: RefCell<Vec<usize>>,
}

impl std::fmt::Debug for MemoryTransfers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryTransfers").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl MemoryTransfers {
    /// Where the bytes of these extents are asked for, offset and length each.
    #[must_use]
    pub fn reading(server: Rc<RefCell<dyn Server>>, asked: &[(u64, u64)]) -> Self {
        Self {
            server,
            asked: asked.to_vec(),
            bytes: RefCell::default(),
            reading: true,
            requests: RefCell::default(),
        }
    }

    /// Where these bytes are to be written.
    #[must_use]
    pub fn writing(server: Rc<RefCell<dyn Server>>, bytes: BTreeMap<u64, Vec<u8>>) -> Self {
        let asked = bytes.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64)).collect();
        Self { asked, bytes: RefCell::new(bytes), reading: false, ..Self::reading(server, &[]) }
    }

    /// What came, by its offset.
    #[must_use]
    pub fn bytes(&self) -> BTreeMap<u64, Vec<u8>> {
        self.bytes.borrow().clone()
    }

    /// How many requests each call had.
    #[must_use]
    pub fn requests(&self) -> Vec<usize> {
        self.requests.borrow().clone()
    }

    /// Refuses the call as the host does where one of its requests is not for what was asked.
    fn check(&self, reading: bool, parts: impl Iterator<Item = (u64, u32)>) -> Result<(), Error> {
        if reading != self.reading {
            return Err(Error::permission_denied("blocks go the other way in this call"));
        }
        let mut count = 0;
        for (offset, length) in parts {
            let end = offset.saturating_add(u64::from(length));
            let within = |(from, long): &(u64, u64)| offset >= *from && end <= from.saturating_add(*long);
            if length == 0 || !self.asked.iter().any(within) {
                return Err(Error::invalid(format!("nobody asked for the {length} bytes at {offset}")));
            }
            let bytes = self.bytes.borrow();
            let came = |(from, bytes): (&u64, &Vec<u8>)| *from < end && from + bytes.len() as u64 > offset;
            if reading && bytes.iter().any(came) {
                return Err(Error::invalid(format!("the {length} bytes at {offset} came already")));
            }
            count += 1;
        }
        self.requests.borrow_mut().push(count);
        Ok(())
    }

    fn ask(&self, arrived: &Arrived) -> Option<Answered> {
        self.server.borrow_mut().answer(arrived)
    }

    fn part(&self, offset: u64, length: u32) -> Vec<u8> {
        let bytes = self.bytes.borrow();
        let (from, held) = bytes.range(..=offset).next_back().map_or((offset, &[][..]), |(at, b)| (*at, b));
        let skip = usize::try_from(offset - from).unwrap_or(usize::MAX);
        held.iter().skip(skip).take(length as usize).copied().collect()
    }
}

fn lost() -> Outcome {
    Outcome { status: 0, headers: Vec::new(), body: Vec::new() }
}

impl Transfers for MemoryTransfers {
    fn fetch(&self, requests: Vec<Fetching>) -> Result<Vec<Outcome>, Error> {
        self.check(true, requests.iter().map(|one| (one.offset_bytes, one.length_bytes)))?;
        let fetch = |one: Fetching| {
            let arrived =
                Arrived { method: "GET".into(), url: one.url, headers: one.headers, body: Vec::new() };
            let Some(Answered { status, headers, body }) = self.ask(&arrived) else { return lost() };
            if !(200..300).contains(&status) {
                return Outcome { status, headers, body };
            }
            let digest = one.digest_header.and_then(|name| {
                let header = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name));
                header.map(|(_, value)| value.clone())
            });
            let damaged = digest.is_some_and(|digest| digest != base64(&stand_in_digest(&body)));
            if damaged || body.len() != one.length_bytes as usize {
                return lost();
            }
            self.bytes.borrow_mut().insert(one.offset_bytes, body);
            Outcome { status, headers, body: Vec::new() }
        };
        Ok(requests.into_iter().map(fetch).collect())
    }

    fn send(&self, requests: Vec<Sending>) -> Result<Vec<Outcome>, Error> {
        self.check(false, requests.iter().map(|one| (one.offset_bytes, one.length_bytes)))?;
        let send = |mut one: Sending| {
            let body = self.part(one.offset_bytes, one.length_bytes);
            one.headers.extend(one.digest_header.map(|name| (name, base64(&stand_in_digest(&body)))));
            let arrived = Arrived { method: one.method, url: one.url, headers: one.headers, body };
            let answered = self.ask(&arrived);
            answered.map_or_else(lost, |Answered { status, headers, body }| Outcome { status, headers, body })
        };
        Ok(requests.into_iter().map(send).collect())
    }
}
