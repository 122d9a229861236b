//! Blocks on their way between EBS and the host, which sends the requests and keeps the bytes: reading names those that
//! fetch, writing those that send. What fails and may pass is asked for again, twice at most and by itself; what EBS
//! throttles goes back to the host, which knows how long to wait. It is only ever a success when it is all of it.

use kato_plugin_sdk::{
    http::Transport,
    log,
    transfers::{Outcome, Transfers},
    types::{Error, ErrorKind, Extent, Which},
};

use crate::{
    answers::Shot,
    api::Cloud,
    direct::{self, Listing, refused},
    error::{self, BLOCK_TOKEN, Refusal},
    snapshots::{self, is_of},
    tags,
};

/// How often a block is asked for at most.
const ROUNDS: u32 = 3;
/// The wait before the second time; it doubles.
const WAIT_MS: u64 = 300;
/// When to come again where EBS asks for fewer requests and does not say.
const THROTTLED_MS: u64 = 2_000;
/// How many blocks that nobody asked for are listed between two that somebody did, rather than listing twice.
const GAP: u64 = 500;

/// A block to be fetched.
#[derive(Clone, Debug)]
struct Wanted {
    index: u64,
    token: String,
}

/// Has the host fetch these extents. What EBS does not list reads as zeroes, and is not fetched.
pub(crate) fn read<T: Transport, W: Transfers>(
    cloud: &Cloud<T>,
    transfers: &W,
    snapshot: &Which,
    extents: &[Extent],
) -> Result<(), Error> {
    let asked = direct::blocks(extents)?;
    let id = id_of(cloud, snapshot)?;
    let wanted = list(cloud, &id, &asked)?;
    let fetch = |wanted: &[Wanted]| {
        let requests = wanted.iter().map(|one| cloud.fetching(&id, one.index, &one.token));
        transfers.fetch(requests.collect())
    };
    let renew = |left: Vec<Wanted>| {
        let indexes: Vec<_> = left.iter().map(|one| one.index).collect();
        let listed = list(cloud, &id, &indexes)?;
        if listed.len() == left.len() {
            return Ok(listed);
        }
        Err(Error::unavailable(format!(
            "EBS listed {} blocks of {id} before that it does not list now",
            left.len()
        )))
    };
    Ok(carry(cloud, "GetSnapshotBlock", wanted, fetch, renew)?)
}

/// Has the host send the blocks of these extents.
pub(crate) fn write<T: Transport, W: Transfers>(
    cloud: &Cloud<T>,
    transfers: &W,
    snapshot: &Which,
    extents: &[Extent],
) -> Result<(), Error> {
    let blocks = direct::blocks(extents)?;
    let id = id_of(cloud, snapshot)?;
    let send =
        |blocks: &[u64]| transfers.send(blocks.iter().map(|index| cloud.sending(&id, *index)).collect());
    carry(cloud, "PutSnapshotBlock", blocks, send, Ok)
        .or_else(|refusal| Err(closed(cloud, &snapshot.token, &id, refusal)?))
}

/// The id of a snapshot that is meant. A handle is not looked up each time: where it came from, it was.
pub(crate) fn id_of<T: Transport>(cloud: &Cloud<T>, snapshot: &Which) -> Result<String, Error> {
    match tags::id(snapshot, "snap", "snapshot")? {
        Some(id) => Ok(id.to_owned()),
        None => match snapshots::find(cloud, snapshot)? {
            Some(shot) => Ok(shot.id),
            None => Err(error::no_snapshot(&snapshot.token)),
        },
    }
}

/// What a refusal means for a snapshot that was to be open: it is not found, unless EC2 says that it is open.
pub(crate) fn closed<T: Transport>(
    cloud: &Cloud<T>,
    token: &str,
    id: &str,
    refusal: Refusal,
) -> Result<Error, Error> {
    let error = refusal.error;
    if !matches!(error.kind, ErrorKind::NotFound | ErrorKind::InvalidArgument | ErrorKind::Precondition) {
        return Ok(error);
    }
    Ok(match cloud.shots(&[id])?.first() {
        Some(shot) if shot.state != "pending" => not_open(cloud, token, shot)?,
        Some(_) if error.kind == ErrorKind::NotFound => {
            Error::unavailable(format!("EBS does not know the open snapshot {id} at the moment"))
                .detail(error.detail)
        }
        _ => error,
    })
}

/// A snapshot that nobody can write any more. One that failed is of no use, and nobody asks for its token again: it goes.
pub(crate) fn not_open<T: Transport>(cloud: &Cloud<T>, token: &str, shot: &Shot) -> Result<Error, Error> {
    let Shot { id, state, message, .. } = shot;
    if state == "error" && is_of(shot, token) {
        log::warn(format!("the snapshot {id} failed as it was written, and goes: {message}"));
        snapshots::remove(cloud, id)?;
    }
    let why = if message.is_empty() { String::new() } else { format!(" ({message})") };
    Ok(Error::not_found(format!(
        "the snapshot {id} is {state} and takes no blocks{why}: it has to be begun anew"
    )))
}

/// The blocks of these that are there, with the tokens that they are fetched by.
fn list<T: Transport>(cloud: &Cloud<T>, id: &str, asked: &[u64]) -> Result<Vec<Wanted>, Error> {
    let mut wanted = Vec::new();
    for run in asked.chunk_by(|one, next| next - one <= GAP) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let mut listing = Listing::of(cloud, id, *first, last - first + 1);
        while listing.from <= *last
            && let Some(blocks) = listing.page()?
        {
            for block in blocks.into_iter().filter(|block| run.binary_search(&block.index).is_ok()) {
                let index = block.index;
                let token = block.token.ok_or_else(|| {
                    Error::internal(format!("EBS lists the block {index} of {id} without its token"))
                })?;
                wanted.push(Wanted { index, token });
            }
        }
    }
    Ok(wanted)
}

/// Has blocks sent or fetched until all of them are, `renew`ing those whose tokens ended.
fn carry<T: Transport, B>(
    cloud: &Cloud<T>,
    action: &str,
    mut left: Vec<B>,
    send: impl Fn(&[B]) -> Result<Vec<Outcome>, Error>,
    renew: impl Fn(Vec<B>) -> Result<Vec<B>, Error>,
) -> Result<(), Refusal> {
    let mut wait = WAIT_MS;
    for round in 1.. {
        if left.is_empty() {
            break;
        }
        let asked = left.len();
        let outcomes = send(&left).map_err(Refusal::unclear)?;
        if outcomes.len() != asked {
            let text = format!("{} outcomes of {asked} requests were told", outcomes.len());
            return Err(Refusal::unclear(Error::internal(text)));
        }
        let mut failed = Vec::new();
        let (mut throttled, mut stale, mut worst) = (0, false, None);
        for (block, outcome) in left.into_iter().zip(outcomes) {
            if (200..300).contains(&outcome.status) {
                continue;
            }
            let mut refusal = refused(action, &outcome);
            match refusal.error.kind {
                ErrorKind::Throttled => {
                    throttled += 1;
                    refusal.error.retry_after_ms = Some(retry_after(&outcome).unwrap_or(THROTTLED_MS));
                }
                ErrorKind::Unavailable | ErrorKind::Busy => stale |= refusal.is(&[BLOCK_TOKEN]),
                _ => return Err(refusal),
            }
            if worst.is_none() || refusal.error.kind == ErrorKind::Throttled {
                worst = Some(refusal);
            }
            failed.push(block);
        }
        if let Some(mut refusal) = worst
            && (round == ROUNDS || throttled * 2 > asked)
        {
            let count = format!("{} of {asked} blocks", failed.len());
            refusal.error = refusal.error.while_at(count);
            return Err(refusal);
        }
        left = failed;
        if !left.is_empty() {
            cloud.wait(wait);
            wait *= 2;
        }
        if stale {
            left = renew(left).map_err(Refusal::unclear)?;
        }
    }
    Ok(())
}

/// When to come again, in whole seconds; a date is not worth a clock here.
fn retry_after(outcome: &Outcome) -> Option<u64> {
    let (_, text) = outcome.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after"))?;
    text.trim().parse::<u64>().ok().map(|seconds| seconds.saturating_mul(1000))
}
