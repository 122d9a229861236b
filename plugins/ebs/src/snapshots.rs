//! Snapshots. A snapshot's moment is the one of the request, whoever writes meanwhile and however long EC2 copies
//! afterwards. There is no client token for them, so that it is cut once is ours to see to:
//!
//! ```text
//! look ── there ──► done
//!   └── nothing ──► pending: the host records that we are about to cut
//!                      ├─ asked again at once ──► CreateSnapshot ──► pending until it is seen ──► done
//!                      └─ later, so it may have been cut before, and not be seen yet:
//!                         look ── nothing ──► CreateSnapshot ──► pending for longer: of all that are seen by then the
//!                                                                oldest is the snapshot, and the others go
//! ```
//!
//! Nobody hears of a snapshot before it is to be seen: to whoever looks for it then, it would be gone.

use kato_plugin_sdk::{
    http::Transport,
    log,
    snapshots::{CutAnswer, Deleting, Wish},
    types::{Cutting, Error, Pending, Snapshot, SnapshotPage, Which},
};

use crate::{
    answers::Shot,
    api::{Call, Cloud},
    config, convert,
    error::{self, NO_SNAPSHOT, NO_VOLUME},
    make::{GONE_MS, UNSEEN_MS},
    resume::{Doing, Work},
    tags,
};

/// How soon the host asks again when it was told to do so at once, and nothing came between.
const AT_ONCE_MS: u64 = 600;
/// What is said while nobody can be sure.
const SURE: &str = "looking whether it was cut before: an answer was lost";

/// What stands in the description of a snapshot of ours. Its tags may be on others' copies.
pub(crate) fn description(token: &str) -> String {
    format!("Kato {token}")
}

pub(crate) fn is_of(shot: &Shot, token: &str) -> bool {
    shot.token() == token && shot.description == description(token)
}

/// The snapshot that is meant.
pub(crate) fn find<T: Transport>(cloud: &Cloud<T>, which: &Which) -> Result<Option<Shot>, Error> {
    Ok(find_all(cloud, std::slice::from_ref(which))?.into_iter().next().flatten())
}

pub(crate) fn find_all<T: Transport>(cloud: &Cloud<T>, which: &[Which]) -> Result<Vec<Option<Shot>>, Error> {
    if which.len() > 100 {
        return Err(error::too_many("snapshots", which.len()));
    }
    let mut ids = Vec::new();
    let mut tokens = Vec::new();
    for which in which {
        match tags::id(which, "snap", "snapshot")? {
            Some(id) => ids.push(id),
            None => tokens.push(which.token.as_str()),
        }
    }
    let by_id = cloud.shots(&ids)?;
    let by_token = cloud.shots_of(&tokens)?;
    which
        .iter()
        .map(|which| match &which.handle {
            Some(handle) => match by_id.iter().find(|shot| shot.id == *handle) {
                Some(shot) if shot.token() != which.token => {
                    Err(error::not_the_tokens("snapshot", &shot.id, &which.token))
                }
                found => Ok(found.cloned()),
            },
            None => Ok(by_token.iter().find(|shot| is_of(shot, &which.token)).cloned()),
        })
        .collect()
}

/// How a volume has to be held while it is cut: not at all, if it is there.
pub(crate) fn how<T: Transport>(cloud: &Cloud<T>, which: &Which) -> Result<Cutting, Error> {
    match cloud.find(which)? {
        Some(_) => Ok(Cutting::Instant),
        None => Err(error::no_volume(&which.token)),
    }
}

/// Cuts a snapshot.
pub(crate) fn cut<T: Transport>(
    cloud: &Cloud<T>,
    wish: &Wish,
    work: Option<Work>,
) -> Result<CutAnswer, Error> {
    config::fast_restore(&wish.parameters)?;
    let work = work.filter(|work| work.doing == Doing::Cutting);
    match &work {
        Some(work) if work.id.is_empty() && cloud.now.saturating_sub(work.since) < AT_ONCE_MS => {
            return ask(cloud, wish, work, true);
        }
        Some(work) if !work.id.is_empty() && cloud.now.saturating_sub(work.since) < UNSEEN_MS => {
            return Ok(CutAnswer::Pending(work.pending(cloud.now, format!("{}: {SURE}", work.id))));
        }
        _ => {}
    }
    let shots = cloud.shots_of(&[&wish.token])?;
    let (failed, good): (Vec<_>, Vec<_>) =
        shots.iter().filter(|shot| is_of(shot, &wish.token)).partition(|shot| shot.state == "error");
    if let Some(shot) = good.first() {
        let volume = tags::id(&wish.volume, "vol", "volume")?;
        if volume.is_some_and(|volume| volume != shot.volume) {
            let text =
                format!("the snapshot {} has the token {} and is of {}", shot.id, wish.token, shot.volume);
            return Err(Error::already_exists(text));
        }
        if work.is_some() {
            for twin in good.iter().skip(1) {
                log::warn(format!("{} was cut twice: {} is the second one and goes", shot.id, twin.id));
                remove(cloud, &twin.id)?;
            }
        }
        return done(cloud, wish, shot);
    }
    for shot in failed {
        log::warn(format!("the snapshot {} failed: {} is cut anew", shot.id, wish.token));
        remove(cloud, &shot.id)?;
    }
    match work {
        Some(work) if work.id.is_empty() => ask(cloud, wish, &work, false),
        Some(work) if cloud.now.saturating_sub(work.last) < GONE_MS => {
            Ok(CutAnswer::Pending(work.pending(cloud.now, format!("{} is not to be seen yet", work.id))))
        }
        lost => {
            // Whatever is not seen, EC2 itself knows whether it has it.
            if let Some(lost) = lost {
                remove(cloud, &lost.id)?;
            }
            let work = Work::new(Doing::Cutting, "", cloud.now);
            Ok(CutAnswer::Pending(Pending {
                retry_after_ms: 0,
                ..work.pending(cloud.now, "about to be cut")
            }))
        }
    }
}

/// Asks for it. Sure is who knows that nobody asked before.
fn ask<T: Transport>(cloud: &Cloud<T>, wish: &Wish, work: &Work, sure: bool) -> Result<CutAnswer, Error> {
    let id = cloud.id_of(&wish.volume)?.ok_or_else(|| error::no_volume(&wish.volume.token))?;
    let tags = tags::of(&wish.token, &wish.mark, &wish.name, &cloud.config.tags);
    let call = Call::change("CreateSnapshot")
        .with("VolumeId", &id)
        .with("Description", description(&wish.token))
        .tagged("snapshot", &tags);
    match cloud.ask(&call) {
        Ok(element) => {
            let shot = Shot::read(&element)
                .ok_or_else(|| Error::internal("EC2's answer to CreateSnapshot cannot be read"))?;
            let mut work = Work::new(Doing::Cutting, &shot.id, cloud.now);
            if !sure {
                return Ok(CutAnswer::Pending(work.pending(cloud.now, format!("{}: {SURE}", shot.id))));
            }
            match cloud.shots(&[&shot.id]).unwrap_or_default().first() {
                Some(seen) => done(cloud, wish, seen),
                None => {
                    // There are no others to wait for.
                    work.since = cloud.now.saturating_sub(UNSEEN_MS);
                    Ok(CutAnswer::Pending(
                        work.pending(cloud.now, format!("{} is not to be seen yet", shot.id)),
                    ))
                }
            }
        }
        Err(refusal) if refusal.is(&[NO_VOLUME]) => Err(error::no_volume(&wish.volume.token)),
        Err(refusal) if refusal.is_unclear() => {
            let work = Work { last: cloud.now, ..work.clone() };
            Ok(CutAnswer::Pending(work.pending(cloud.now, refusal.error.message)))
        }
        Err(refusal) => Err(refusal.error),
    }
}

/// The moment is fixed. Fast restore is a convenience, and a snapshot without it is one.
fn done<T: Transport>(cloud: &Cloud<T>, wish: &Wish, shot: &Shot) -> Result<CutAnswer, Error> {
    if config::fast_restore(&wish.parameters)?
        && let Err(error) = restore_fast_at_home(cloud, shot)
    {
        log::warn(format!("the snapshot {} is not kept ready for fast restore: {}", shot.id, error.message));
    }
    Ok(CutAnswer::Done(convert::snapshot(shot)))
}

fn restore_fast_at_home<T: Transport>(cloud: &Cloud<T>, shot: &Shot) -> Result<(), Error> {
    match cloud.disk(&shot.volume)? {
        Some(disk) => restore_fast(cloud, &shot.id, &disk.zone),
        None => Err(error::no_volume(shot.token())),
    }
}

/// Has a snapshot kept ready in a zone. Idempotent; it takes an hour for a TiB, and costs until somebody ends it.
pub(crate) fn restore_fast<T: Transport>(cloud: &Cloud<T>, id: &str, zone: &str) -> Result<(), Error> {
    let call = Call::change("EnableFastSnapshotRestores")
        .idempotent()
        .list("AvailabilityZone", &[zone])
        .list("SourceSnapshotId", &[id]);
    let answer = cloud.ask(&call)?;
    let refused =
        answer.items("unsuccessful").flat_map(|item| item.items("fastSnapshotRestoreStateErrorSet"));
    match refused.filter_map(|item| item.child("error")).next() {
        Some(said) => Err(Error::exhausted(format!(
            "the snapshot {id} cannot be kept ready for fast restore in {zone}: {} ({})",
            said.word("message"),
            said.word("code")
        ))),
        None => Ok(()),
    }
}

/// Deletes a snapshot, and another one of its token if there is one.
pub(crate) fn delete<T: Transport>(cloud: &Cloud<T>, which: &Which) -> Result<Deleting, Error> {
    let named = tags::id(which, "snap", "snapshot")?;
    if let Some(id) = named {
        // Refuses one of another token. One that is not to be seen yet has to go as well.
        find(cloud, which)?;
        remove(cloud, id)?;
    }
    for shot in cloud.shots_of(&[&which.token])? {
        if is_of(&shot, &which.token) && named != Some(shot.id.as_str()) {
            remove(cloud, &shot.id)?;
        }
    }
    Ok(Deleting::Done)
}

pub(crate) fn remove<T: Transport>(cloud: &Cloud<T>, id: &str) -> Result<(), Error> {
    match cloud.ask(&Call::change("DeleteSnapshot").idempotent().with("SnapshotId", id)) {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.is(&[NO_SNAPSHOT]) => Ok(()),
        Err(refusal) => Err(refusal.error.while_at(format!("deleting the snapshot {id}"))),
    }
}

/// Looks at snapshots.
pub(crate) fn inspect<T: Transport>(
    cloud: &Cloud<T>,
    which: &[Which],
) -> Result<Vec<Option<Snapshot>>, Error> {
    let found = find_all(cloud, which)?;
    for shot in found.iter().flatten().filter(|shot| shot.state == "error") {
        log::error(format!("the snapshot {} failed and will never be ready: delete it", shot.id));
    }
    Ok(found.iter().map(|shot| shot.as_ref().map(convert::snapshot)).collect())
}

/// A page of all snapshots.
pub(crate) fn list<T: Transport>(cloud: &Cloud<T>, page: Option<&str>) -> Result<SnapshotPage, Error> {
    let (shots, next) = cloud.shot_page(page)?;
    let ours = shots.iter().filter(|shot| is_of(shot, shot.token()));
    Ok(SnapshotPage { items: ours.map(convert::snapshot).collect(), next })
}
