//! Where snapshots hold data and where they differ, as EBS lists it: block by block, put together to extents here. A page
//! ends when it is full, or has taken so many requests that whoever waits should hear something; the next one lists again
//! from there, because EBS' own tokens of pages do not last.

use kato_plugin_sdk::{
    http::Transport,
    snapshot_data::Way,
    types::{Error, Extent, ExtentPage, Which},
};

use crate::{
    answers::Shot,
    api::Cloud,
    direct::{BLOCK, BLOCK_BYTES, Listing, MOST},
    error,
    kind::GIB,
    snapshots,
};

/// How many extents a page has.
const EXTENTS: usize = 10_000;
/// How many of EBS' pages are put together to one.
const PAGES: usize = 10;
/// When to ask again for a snapshot that is not ready.
const READY_MS: u64 = 5_000;

/// How the bytes are reached: nobody attaches a snapshot.
pub(crate) fn reach<T: Transport>(cloud: &Cloud<T>, snapshot: &Which) -> Result<Way, Error> {
    match snapshots::find(cloud, snapshot)? {
        Some(_) => Ok(Way::Calls(BLOCK)),
        None => Err(error::no_snapshot(&snapshot.token)),
    }
}

/// Where the snapshot holds data.
pub(crate) fn allocated<T: Transport>(
    cloud: &Cloud<T>,
    snapshot: &Which,
    from: u64,
) -> Result<ExtentPage, Error> {
    let shot = readable(snapshot, snapshots::find(cloud, snapshot)?)?;
    page(Listing::of(cloud, &shot.id, from / BLOCK_BYTES, MOST), &shot, from)
}

/// Where it differs from another one: in blocks that only one of them has, too.
pub(crate) fn changed<T: Transport>(
    cloud: &Cloud<T>,
    base: &Which,
    snapshot: &Which,
    from: u64,
) -> Result<ExtentPage, Error> {
    let mut found = snapshots::find_all(cloud, &[base.clone(), snapshot.clone()])?.into_iter();
    let base = readable(base, found.next().flatten())?;
    let shot = readable(snapshot, found.next().flatten())?;
    if base.id == shot.id {
        return Ok(ExtentPage { extents: Vec::new(), next_bytes: None });
    }
    page(Listing::since(cloud, &base.id, &shot.id, from / BLOCK_BYTES), &shot, from)
}

/// A snapshot whose blocks can be read.
pub(crate) fn readable(which: &Which, found: Option<Shot>) -> Result<Shot, Error> {
    let shot = found.ok_or_else(|| error::no_snapshot(&which.token))?;
    match shot.state.as_str() {
        "completed" => Ok(shot),
        "error" => Err(Error::precondition(format!(
            "the snapshot {} failed and can never be read: delete it ({})",
            shot.id, shot.message
        ))),
        state => {
            let text =
                format!("the snapshot {} is {state}: EBS lets it be read when it is completed", shot.id);
            Err(Error::busy(text).retry_after_ms(READY_MS))
        }
    }
}

fn page<T: Transport>(mut listing: Listing<'_, T>, shot: &Shot, from: u64) -> Result<ExtentPage, Error> {
    let size = shot.gib.saturating_mul(GIB);
    let mut extents: Vec<Extent> = Vec::new();
    let mut pages = 0;
    while from < size
        && let Some(blocks) = listing.page()?
    {
        for block in blocks {
            let begin = block.index * BLOCK_BYTES;
            let (start, end) = (begin.max(from), (begin + BLOCK_BYTES).min(size));
            if start >= end {
                continue;
            }
            let full = extents.len() == EXTENTS;
            match extents.last_mut() {
                Some(last) if last.offset_bytes + last.length_bytes == start => {
                    last.length_bytes += end - start;
                }
                _ if full => return Ok(ExtentPage { extents, next_bytes: Some(start) }),
                _ => extents.push(Extent { offset_bytes: start, length_bytes: end - start }),
            }
        }
        pages += 1;
        // While nothing was listed there is no place to go on from.
        if pages >= PAGES && !extents.is_empty() && !listing.over {
            let next = listing.from * BLOCK_BYTES;
            return Ok(ExtentPage { extents, next_bytes: Some(next).filter(|next| *next < size) });
        }
    }
    Ok(ExtentPage { extents, next_bytes: None })
}
