//! Making snapshots out of bytes: EBS starts an empty one, or one that is equal to another; the host sends blocks to it;
//! EBS completes it when their number and the digest over their digests are what the host says.
//!
//! ```text
//! look ── open ──► it is the answer          StartSnapshot knows the client token too, while no look shows what it made
//!   ├── completed, or failed and deleted ──► token-burnt
//!   └── nothing ──► StartSnapshot ──► open ── blocks ──► CompleteSnapshot ──► pending ──┬─ completed ──► done
//!                                                                                       └─ failed, deleted ──► not-found
//! ```
//!
//! One that nobody writes or completes for three days fails. Whoever held it begins anew, under another token.

use kato_plugin_sdk::{
    http::Transport,
    snapshot_writing::{Begun, Completing, Wish},
    types::{Error, ErrorKind, Which},
};

use crate::{
    answers::Shot,
    api::Cloud,
    blocks::{closed, not_open},
    config::Parameters,
    convert,
    direct::{BLOCK, Start},
    extents::readable,
    kind::GIB,
    resume::{Doing, Work},
    snapshots::{self, description, is_of},
    tags,
};

/// How long a completion that EBS accepted is waited for before it is asked for again.
const ACCEPTED_MS: u64 = 60_000;
/// How long one that EBS refuses as wrong may be one that it has accepted before, and nobody heard.
const DOUBT_MS: u64 = 60_000;

/// Begins a snapshot.
pub(crate) fn begin<T: Transport>(cloud: &Cloud<T>, wish: &Wish) -> Result<Begun, Error> {
    let parameters = Parameters::read(&wish.parameters)?;
    let gib = wish.size_bytes.div_ceil(GIB).max(1);
    let shots = cloud.shots_of(&[&wish.token])?;
    let ours: Vec<_> = shots.iter().filter(|shot| is_of(shot, &wish.token)).collect();
    if let Some(open) = ours.iter().find(|shot| shot.state == "pending" && shot.gib == gib) {
        return Ok(begun(open.id.clone()));
    }
    // As every volume that failed: what is of no use goes with its token.
    for failed in ours.iter().filter(|shot| shot.state == "error") {
        snapshots::remove(cloud, &failed.id)?;
    }
    if let Some(Shot { id, state, gib, .. }) = ours.first() {
        return Err(burnt(&wish.token, &format!("the snapshot {id} of {gib} GiB has it, which is {state}")));
    }
    let parent = match &wish.base {
        Some(base) => Some(readable(base, snapshots::find(cloud, base)?)?.id),
        None => None,
    };
    let mut more = parameters.tags;
    more.extend(cloud.config.tags.iter().cloned());
    let started = cloud.start(&Start {
        token: &wish.token,
        description: description(&wish.token),
        gib,
        parent: parent.as_deref(),
        encrypted: parameters.encrypted,
        // What is not an ARN is for the volume: it is encrypted anew with its own key.
        key: Some(parameters.kms_key.as_str()).filter(|key| key.starts_with("arn:")),
        tags: &tags::of(&wish.token, &wish.mark, &wish.name, &more),
    });
    match started {
        Ok(started) if started.state == "pending" => Ok(begun(started.id)),
        Ok(started) => Err(burnt(&wish.token, &format!("{} is {}", started.id, started.state))),
        Err(refusal) if refusal.error.kind == ErrorKind::TokenBurnt => {
            Err(burnt(&wish.token, "EBS was asked for another snapshot with it"))
        }
        Err(refusal) => Err(refusal.error),
    }
}

fn begun(handle: String) -> Begun {
    Begun { handle, block_bytes: BLOCK }
}

fn burnt(token: &str, why: &str) -> Error {
    Error::token_burnt(format!("no snapshot can be begun with the token {token}: {why}"))
}

/// Ends the writing.
pub(crate) fn complete<T: Transport>(
    cloud: &Cloud<T>,
    snapshot: &Which,
    blocks: u64,
    digest: &[u8],
    work: Option<Work>,
) -> Result<Completing, Error> {
    let work = work.filter(|work| work.doing == Doing::Completing);
    if digest.len() != 32 {
        return Err(Error::invalid(format!("a digest of {} bytes is no SHA-256", digest.len())));
    }
    let shot = snapshots::find(cloud, snapshot)?;
    let token = snapshot.token.as_str();
    if let Some(done) = ended(cloud, token, shot.as_ref())? {
        return Ok(done);
    }
    let id = match &shot {
        Some(shot) => shot.id.clone(),
        // It may not be to be seen yet.
        None => crate::blocks::id_of(cloud, snapshot)?,
    };
    let pending = |work: &Work| {
        Ok(Completing::Pending(work.pending(cloud.now, format!("EBS makes {id} of what was written"))))
    };
    let accepted = work.as_ref().is_some_and(|work| work.last > 0);
    if let Some(work) = &work
        && accepted
        && cloud.now.saturating_sub(work.last) < ACCEPTED_MS
    {
        return pending(work);
    }
    let since = work.as_ref().map_or(cloud.now, |work| work.since);
    let asked = |last: u64| Work { since, last, ..Work::new(Doing::Completing, &id, cloud.now) };
    match cloud.complete(&id, blocks, digest) {
        Ok(state) => {
            let seen = if state == "pending" { None } else { snapshots::find(cloud, snapshot)? };
            ended(cloud, token, seen.as_ref())?.map_or_else(|| pending(&asked(cloud.now)), Ok)
        }
        Err(refusal) => {
            let wrong = matches!(refusal.error.kind, ErrorKind::InvalidArgument | ErrorKind::Precondition);
            let error = closed(cloud, token, &id, refusal)?;
            if !wrong {
                return Err(error);
            }
            // What was refused may have been completed by the request before, whose answer was lost.
            if let Some(done) = ended(cloud, token, snapshots::find(cloud, snapshot)?.as_ref())? {
                return Ok(done);
            }
            if accepted {
                return pending(&asked(cloud.now));
            }
            if cloud.now.saturating_sub(since) < DOUBT_MS {
                return pending(&asked(0));
            }
            Err(error.while_at(format!("completing the snapshot {id} with {blocks} blocks")))
        }
    }
}

/// The end of it, where it has come to one.
fn ended<T: Transport>(
    cloud: &Cloud<T>,
    token: &str,
    shot: Option<&Shot>,
) -> Result<Option<Completing>, Error> {
    match shot {
        Some(shot) if shot.state == "completed" => Ok(Some(Completing::Done(convert::snapshot(shot)))),
        Some(shot) if shot.state != "pending" => Err(not_open(cloud, token, shot)?),
        _ => Ok(None),
    }
}
