//! Volumes as copies of volumes and of snapshots.
//!
//! A clone cannot be given a token as it is made, and it may begin with what is written on its source. So that one is
//! about to be made is noted on the source first, with the clones of it that nobody has written on by then. The one that
//! there is more later is ours, and gets its token. Until it is what is wished (larger, of another plan: `make.rs`) it
//! carries no id. One source makes one at a time.
//!
//! ```text
//! look ── noted ──► one more is there ──► token ──► no note ──► pending, and then as any other
//!   │         └──── none is, for a while ──┐
//!   └── not noted ──────────────────► note ──► POST ─┬─ answered ──► token ──► no note ──► pending
//!                                                    └─ lost ──► pending, from the top
//! ```

use kato_plugin_sdk::{
    http::Transport,
    types::{CapacityRange, Error},
    volumes::{Created, Origin, Wish},
};
use serde_json::json;

use crate::{
    answers::Volume,
    api::Cloud,
    config::GIB,
    convert, error,
    json::id,
    marks::{Doing, Label, Notes},
    poll::{making, pending},
    snapshots, volumes,
};

/// Asks for a copy of a volume, as it is or as a snapshot of it is.
pub(crate) fn ask<T: Transport>(
    cloud: &Cloud<T>,
    wish: &Wish,
    places: &[&str],
    all: &[Volume],
    origin: &Origin,
) -> Result<Created, Error> {
    let (source, gib, timestamp) = match origin {
        Origin::Volume(which) => {
            let source = volumes::pick(all, which)?.ok_or_else(|| error::no_volume(&which.token))?;
            (source, source.gib, None)
        }
        Origin::Snapshot(which) => {
            let (source, shot, note) = snapshots::found(cloud, all, which)?;
            (source, note.gib, Some(shot.timestamp))
        }
    };
    let label = Label::new(&wish.token, &wish.mark, &wish.name);
    match source.notes.turn(&wish.token, cloud.now) {
        Err(pending) => return Ok(Created::Pending(pending)),
        Ok(None) => {}
        Ok(Some(doing)) => match newer(source, all, doing).as_slice() {
            [] if doing.may_come(cloud.now) => return lost(source),
            [] => {}
            [one] => return named(cloud, source, &one.id, &label),
            [one, other, ..] => {
                return Err(Error::busy(format!(
                    "the volumes {} and {} are clones of {}, and nobody can tell which is the one that was asked for \
                     here: write a description on the other",
                    one.id, other.id, source.id
                )));
            }
        },
    }
    possible(cloud, wish, places, source, gib)?;
    let bare = all.iter().filter(|one| one.is_bare_clone(source)).map(|one| one.id.as_str());
    let before = bare.collect::<Vec<_>>().join(" ");
    let doing = Doing { token: wish.token.clone(), before, at: cloud.now };
    cloud.note(source, &Notes { doing: Some(doing), ..source.notes.clone() })?;
    // Who passes over the moment would copy the volume as it is now: it is told in both ways that are known.
    let mut path = format!("/storage/{}/clone", source.id);
    let mut body = json!({});
    if let Some(timestamp) = timestamp {
        path.push_str(&format!("?snapshot_timestamp={timestamp}"));
        body = json!({ "snapshot_timestamp": timestamp });
    }
    match cloud.post(&path, &body) {
        Ok(answer) if Volume::read(&answer).is_some() => named(cloud, source, &id(&answer), &label),
        // Whatever it says, it may have made one.
        Ok(_) => lost(source),
        Err(refusal) if refusal.is_unclear() => lost(source),
        Err(refusal) => {
            cloud.note(source, &Notes { doing: None, ..source.notes.clone() })?;
            Err(refusal.error)
        }
    }
}

/// Whether a clone of this can be what is wished.
fn possible<T>(
    cloud: &Cloud<T>,
    wish: &Wish,
    places: &[&str],
    source: &Volume,
    gib: u64,
) -> Result<(), Error> {
    if !source.is_whole() {
        return Err(Error::busy(format!("the volume {} is still being made", source.id)));
    }
    if !source.facility.iter().any(|word| places.contains(&word.as_str())) {
        return Err(Error::precondition(format!(
            "the volume {} lies in {}, as a clone of it would, and not in {}",
            source.id,
            convert::told(&source.facility),
            places.join(" or ")
        )));
    }
    let required_bytes = wish.size.required_bytes.max(gib.saturating_mul(GIB));
    cloud.config.sizes.choose(&CapacityRange { required_bytes, ..wish.size })?;
    Ok(())
}

fn lost(source: &Volume) -> Result<Created, Error> {
    let note = format!("looking whether there is a clone of {}: an answer was lost", source.id);
    Ok(Created::Pending(pending("cloning", note)))
}

/// Writes on a clone that it is ours, and lets others have their turn.
fn named<T: Transport>(
    cloud: &Cloud<T>,
    source: &Volume,
    clone: &str,
    label: &Label,
) -> Result<Created, Error> {
    cloud.label(clone, label)?;
    cloud.note(source, &Notes { doing: None, ..source.notes.clone() })?;
    Ok(Created::Pending(making(clone, "being made")))
}

/// The clones of a volume that came to be since one was asked for.
pub(crate) fn newer<'a>(source: &Volume, all: &'a [Volume], doing: &Doing) -> Vec<&'a Volume> {
    all.iter().filter(|one| one.is_bare_clone(source) && !doing.before.contains(&one.id)).collect()
}

/// Takes the note away that a clone is being made.
pub(crate) fn forget<T: Transport>(cloud: &Cloud<T>, all: &[Volume], token: &str) -> Result<(), Error> {
    for source in all.iter().filter(|one| one.notes.doing_for(token).is_some()) {
        cloud.note(source, &Notes { doing: None, ..source.notes.clone() })?;
    }
    Ok(())
}
