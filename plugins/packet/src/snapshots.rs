//! Snapshots. The API cuts one on request and does not say which it is, and its policies cut others meanwhile, which are
//! nobody's business here. A snapshot has no name either, so which of a volume's are ours, and for whom, is noted on the
//! volume (`marks.rs`).
//!
//! ```text
//! look ── noted ──► done
//!   └── not ──► note that one is cut, and the moment of the newest ──► POST ──► look: exactly one is newer ──► noted, done
//!                                                                                 └── anything else ──► pending:
//!     without policies    the oldest that is newer is ours; if there is none for a while, it is cut again
//!     with policies       nobody can tell: what is newer is left alone and told, and another one is cut
//! ```
//!
//! A snapshot that was taken for ours and is a policy's would vanish when its policy's count is full. One that is left
//! alone only takes room.

use kato_plugin_sdk::{
    http::Transport,
    log,
    snapshots::{CutAnswer, Deleting, Wish},
    types::{Error, ErrorKind, Snapshot, SnapshotPage, Which},
};
use serde_json::json;

use crate::{
    answers::{Shot, Volume},
    api::Cloud,
    convert, error,
    marks::{self, Doing, Note, Notes},
    poll::pending,
    volumes,
};

/// The volumes whose snapshots are told on a page: each is a request.
const PAGE: usize = 20;

/// Cuts a snapshot.
pub(crate) fn cut<T: Transport>(cloud: &Cloud<T>, wish: &Wish) -> Result<CutAnswer, Error> {
    let token = &wish.token;
    if let Some((name, _)) = wish.parameters.first() {
        return Err(Error::invalid(format!("`{name}` is unknown: snapshots have no parameters here")));
    }
    let all = cloud.volumes()?;
    let volume = volumes::pick(&all, &wish.volume)?.ok_or_else(|| error::no_volume(&wish.volume.token))?;
    if let Some((of, shot, note)) = noted(cloud, &all, token)? {
        if of.id != volume.id {
            return Err(error::other_wish(
                token,
                &marks::snapshot_handle(of, &shot),
                "it is of another volume",
            ));
        }
        return Ok(CutAnswer::Done(convert::snapshot(of, &shot, &note)));
    }
    let turn = match volume.notes.turn(token, cloud.now) {
        Ok(turn) => turn,
        Err(pending) => return Ok(CutAnswer::Pending(pending)),
    };
    let wait = |note: String| Ok(CutAnswer::Pending(pending("cutting", note)));
    let mut shots = cloud.shots(&volume.id)?;
    if let Some(doing) = turn {
        let newer = newer(&shots, doing);
        let lost = "looking for the snapshot that was cut: an answer was lost";
        match newer.first() {
            Some(_) if !volume.policies.is_empty() => told(volume, &newer),
            Some(one) => {
                told(volume, newer.get(1..).unwrap_or_default());
                return claim(cloud, wish, volume, &shots, one);
            }
            None if doing.may_come(cloud.now) => return wait(lost.to_owned()),
            None => {}
        }
    }
    let before = shots.last().map(Shot::moment).unwrap_or_default();
    let doing = Doing { token: token.clone(), before, at: cloud.now };
    cloud.note(volume, &Notes { doing: Some(doing.clone()), ..volume.notes.clone() })?;
    let refused = match cloud.post(&format!("/storage/{}/snapshots", volume.id), &json!({})) {
        Ok(_) => {
            shots = cloud.shots(&volume.id)?;
            return match newer(&shots, &doing).as_slice() {
                [one] => claim(cloud, wish, volume, &shots, one),
                _ => wait("looking for the snapshot that was cut".to_owned()),
            };
        }
        Err(refusal) if refusal.is_unclear() => return wait(refusal.error.message),
        Err(refusal) if refusal.is(ErrorKind::NotFound) || refusal.is(ErrorKind::Unsupported) => {
            Error::unsupported(
                "this cloud cuts no snapshots on request, only by policies: set the parameter `snapshot-policies`",
            )
            .detail(refusal.error.message)
        }
        Err(refusal) => refusal.error,
    };
    cloud.note(volume, &Notes { doing: None, ..volume.notes.clone() })?;
    Err(refused)
}

/// The snapshots that came to be since one was asked for, the oldest first.
fn newer<'a>(shots: &'a [Shot], doing: &Doing) -> Vec<&'a Shot> {
    shots.iter().filter(|shot| shot.moment() > doing.before).collect()
}

/// Says which snapshots nobody knows the owner of.
fn told(volume: &Volume, shots: &[&Shot]) {
    for shot in shots {
        log::warn(format!(
            "the snapshot {} of {} was cut by a policy, or twice, and is left alone: look whether anybody needs it",
            shot.id, volume.id
        ));
    }
}

/// Notes a snapshot as ours, and forgets those that are gone.
fn claim<T: Transport>(
    cloud: &Cloud<T>,
    wish: &Wish,
    volume: &Volume,
    shots: &[Shot],
    shot: &Shot,
) -> Result<CutAnswer, Error> {
    let note = Note { token: wish.token.clone(), mark: wish.mark.clone(), gib: volume.gib };
    let mut snapshots = volume.notes.snapshots.clone();
    snapshots.retain(|id, _| shots.iter().any(|shot| shot.id == *id));
    snapshots.insert(shot.id.clone(), note.clone());
    cloud.note(volume, &Notes { doing: None, snapshots })?;
    Ok(CutAnswer::Done(convert::snapshot(volume, shot, &note)))
}

/// The snapshot of a token, with its volume and what was noted of it.
fn noted<'a, T: Transport>(
    cloud: &Cloud<T>,
    all: &'a [Volume],
    token: &str,
) -> Result<Option<(&'a Volume, Shot, Note)>, Error> {
    for volume in all {
        for (id, note) in volume.notes.snapshots.iter().filter(|(_, note)| note.token == token) {
            if let Some(shot) = cloud.shots(&volume.id)?.into_iter().find(|shot| shot.id == *id) {
                return Ok(Some((volume, shot, note.clone())));
            }
        }
    }
    Ok(None)
}

/// The snapshot that is meant. Others' are never meant.
fn find<'a, T: Transport>(
    cloud: &Cloud<T>,
    all: &'a [Volume],
    which: &Which,
) -> Result<Option<(&'a Volume, Shot, Note)>, Error> {
    let Some((volume, id)) = marks::snapshot_ids(which)? else { return noted(cloud, all, &which.token) };
    let Some(volume) = all.iter().find(|one| one.id == volume) else { return Ok(None) };
    let Some(shot) = cloud.shots(&volume.id)?.into_iter().find(|shot| shot.id == id) else { return Ok(None) };
    match volume.notes.snapshots.get(id) {
        Some(note) if note.token == which.token => Ok(Some((volume, shot, note.clone()))),
        _ => Err(error::not_the_tokens("snapshot", id, &which.token)),
    }
}

/// The same, where it has to be there.
pub(crate) fn found<'a, T: Transport>(
    cloud: &Cloud<T>,
    all: &'a [Volume],
    which: &Which,
) -> Result<(&'a Volume, Shot, Note), Error> {
    find(cloud, all, which)?
        .ok_or_else(|| Error::not_found(format!("there is no snapshot with the token {}", which.token)))
}

/// Deletes a snapshot, or what a cut that nobody heard of has left.
pub(crate) fn delete<T: Transport>(cloud: &Cloud<T>, which: &Which) -> Result<Deleting, Error> {
    let all = cloud.volumes()?;
    if let Some((volume, shot, _)) = find(cloud, &all, which)? {
        remove(cloud, volume, &shot)?;
    }
    for volume in &all {
        let Some(doing) = volume.notes.doing_for(&which.token) else { continue };
        let shots = cloud.shots(&volume.id)?;
        match newer(&shots, doing).as_slice() {
            [one] if volume.policies.is_empty() => remove(cloud, volume, one)?,
            // It may still come, and is found by whoever asks again.
            [] if doing.may_come(cloud.now) => continue,
            several => told(volume, several),
        }
        cloud.note(volume, &Notes { doing: None, ..volume.notes.clone() })?;
    }
    Ok(Deleting::Done)
}

fn remove<T: Transport>(cloud: &Cloud<T>, volume: &Volume, shot: &Shot) -> Result<(), Error> {
    match cloud.delete(&format!("/storage/{}/snapshots/{}", volume.id, shot.id)) {
        Err(refusal) if !refusal.is(ErrorKind::NotFound) => Err(refusal.error),
        _ => Ok(()),
    }
}

/// Looks at snapshots.
pub(crate) fn inspect<T: Transport>(
    cloud: &Cloud<T>,
    which: &[Which],
) -> Result<Vec<Option<Snapshot>>, Error> {
    let all = cloud.volumes()?;
    let told = |which| {
        let found = find(cloud, &all, which)?;
        Ok(found.map(|(volume, shot, note)| convert::snapshot(volume, &shot, &note)))
    };
    which.iter().map(told).collect()
}

/// A page of all snapshots that are ours.
pub(crate) fn list<T: Transport>(cloud: &Cloud<T>, page: Option<&str>) -> Result<SnapshotPage, Error> {
    let mut all = cloud.volumes()?;
    all.retain(|volume| !volume.notes.snapshots.is_empty());
    let (some, next) = volumes::paged(&all, page, PAGE);
    let mut items = Vec::new();
    for volume in some {
        for shot in cloud.shots(&volume.id)? {
            if let Some(note) = volume.notes.snapshots.get(&shot.id) {
                items.push(convert::snapshot(volume, &shot, note));
            }
        }
    }
    Ok(SnapshotPage { items, next })
}
