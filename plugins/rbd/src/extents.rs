//! Where snapshots hold data and where they differ, as `rbd diff` tells it: in whole objects, which is what the image's
//! map of objects knows without looking into any. It answers all of it at once, so a page is a part of that answer. An
//! image of so many objects that the host cuts the answer off is told as one extent: more may be named than there is.

use kato_plugin_sdk::{
    commands::Commands,
    snapshot_data::Way,
    types::{Error, Extent, ExtentPage, Which},
};
use serde_json::Value;

use crate::{
    answers::Image,
    api::Pool,
    convert,
    error::{self, ABSENT},
    names::{self, Token},
    snapshots::{find, locate},
};

/// How many extents a page has.
const PAGE: usize = 10_000;

/// From so many bytes on an answer may have been cut off.
const CUT_OFF: usize = 8 << 20;

/// A snapshot with its image.
struct Found {
    token: Token,
    image: Image,
    size: u64,
}

fn look<C: Commands>(pool: &Pool<C>, which: &Which) -> Result<Found, Error> {
    let (token, id) = locate(pool, which)?;
    let absent = || Error::not_found(format!("there is no snapshot {token}"));
    let id = id.ok_or_else(absent)?;
    let image = pool.image_by_id(&id)?.ok_or_else(absent)?;
    let cuts = pool.cuts(&id)?.ok_or_else(absent)?;
    let size = find(&cuts, token.as_str()).ok_or_else(absent)?.size;
    if names::is_gone(&image.name) || pool.image(&image.name)?.is_none_or(|there| there.id != id) {
        return Err(Error::precondition(format!(
            "the volume of the snapshot {token} was deleted, and its image lies in the trash, where nobody can read it: \
             make a volume of the snapshot, and read that"
        )));
    }
    Ok(Found { token, image, size })
}

/// How a node comes to the bytes.
pub(crate) fn reach<C: Commands>(pool: &Pool<C>, snapshot: &Which) -> Result<Way, Error> {
    let found = look(pool, snapshot)?;
    Ok(Way::Node(convert::snapshot_connection(&pool.config, &found.image.name, &found.token)))
}

/// Where the snapshot holds data.
pub(crate) fn allocated<C: Commands>(
    pool: &Pool<C>,
    snapshot: &Which,
    from: u64,
) -> Result<ExtentPage, Error> {
    let found = look(pool, snapshot)?;
    let holes = [("image", found.image.name.as_str()), ("snapshot", found.token.as_str())];
    page(pool, "rbd-diff", &holes, found.size, from, true)
}

/// Where it differs from an earlier one.
pub(crate) fn changed<C: Commands>(
    pool: &Pool<C>,
    base: &Which,
    snapshot: &Which,
    from: u64,
) -> Result<ExtentPage, Error> {
    let (before, found) = (look(pool, base)?, look(pool, snapshot)?);
    if before.image.id != found.image.id {
        return Err(Error::invalid(format!(
            "the snapshots {} and {} are of two volumes",
            before.token, found.token
        )));
    }
    let image = found.image.name.as_str();
    let holes = [("image", image), ("base", before.token.as_str()), ("snapshot", found.token.as_str())];
    page(pool, "rbd-diff-since", &holes, found.size, from, false)
}

fn page<C: Commands>(
    pool: &Pool<C>,
    command: &'static str,
    holes: &[(&str, &str)],
    size: u64,
    from: u64,
    only_there: bool,
) -> Result<ExtentPage, Error> {
    let ended = pool.run(command, holes)?;
    match ended.errno {
        0 => {}
        ABSENT => return Err(Error::not_found("the snapshot was deleted meanwhile")),
        _ => return Err(ended.error("asking where a snapshot holds data")),
    }
    let told = match serde_json::from_str::<Value>(&ended.stdout) {
        Ok(told) => read(&told, size, from, only_there),
        Err(_) if ended.stdout.len() >= CUT_OFF => Some(vec![(from, size)]),
        Err(_) => None,
    };
    let extents = told.ok_or_else(|| error::unread(command, &ended.stdout))?;
    let next = extents.get(PAGE).map(|(from, _)| *from);
    let extents = extents.into_iter().take(PAGE).filter(|(from, to)| from < to);
    let extents = extents.map(|(from, to)| Extent { offset_bytes: from, length_bytes: to - from }).collect();
    Ok(ExtentPage { extents, next_bytes: next })
}

/// The extents from an offset on, those that touch put together. What was there and is no more has changed too.
fn read(told: &Value, size: u64, from: u64, only_there: bool) -> Option<Vec<(u64, u64)>> {
    let mut extents: Vec<(u64, u64)> = Vec::new();
    for one in told.as_array()? {
        let (offset, length) = (one.get("offset")?.as_u64()?, one.get("length")?.as_u64()?);
        let exists = match one.get("exists")? {
            Value::Bool(exists) => *exists,
            word => word.as_str()? == "true",
        };
        let (start, end) = (offset.max(from), offset.saturating_add(length).min(size));
        if start >= end || (only_there && !exists) {
            continue;
        }
        match extents.last_mut() {
            Some((_, last)) if *last == start => *last = end,
            _ => extents.push((start, end)),
        }
    }
    Some(extents)
}
