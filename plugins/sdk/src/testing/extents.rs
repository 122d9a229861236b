//! Where the files in memory hold data, and where two of them differ: block by block, in pages of two extents, so that
//! whoever asks has to go on asking.

use super::{Node, State};
use crate::types::{Error, Extent, ExtentPage};

/// What is told apart.
const BLOCK: usize = 4096;
/// How many extents a page has.
const PAGE: usize = 2;

impl State {
    /// What lies at the beginning of a file, and how long it is.
    pub(super) fn file(&self, path: &str) -> Result<(&[u8], u64), Error> {
        match self.nodes.get(path) {
            Some(Node::File { content, length, .. }) => Ok((content, *length)),
            _ => Err(Error::not_found(format!("{path} is no file"))),
        }
    }
}

/// The blocks of a file that differ from those of a base; zeroes follow both.
pub(super) fn page(base: &[u8], (content, length): (&[u8], u64), from: u64) -> ExtentPage {
    let block = |bytes: &[u8], number: usize| {
        let mut block = [0; BLOCK];
        let found = bytes.chunks(BLOCK).nth(number).unwrap_or_default();
        block.iter_mut().zip(found).for_each(|(to, byte)| *to = *byte);
        block
    };
    let mut page = ExtentPage { extents: Vec::new(), next_bytes: None };
    for number in 0..base.len().max(content.len()).div_ceil(BLOCK) {
        let begin = (number * BLOCK) as u64;
        let (start, end) = (begin.max(from), (begin + BLOCK as u64).min(length));
        if start >= end || block(base, number) == block(content, number) {
            continue;
        }
        let full = page.extents.len() == PAGE;
        match page.extents.last_mut() {
            Some(last) if last.offset_bytes + last.length_bytes == start => last.length_bytes += end - start,
            _ if full => {
                page.next_bytes = Some(start);
                break;
            }
            _ => page.extents.push(Extent { offset_bytes: start, length_bytes: end - start }),
        }
    }
    page
}
