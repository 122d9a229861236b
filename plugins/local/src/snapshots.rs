//! The operations on snapshots. A snapshot is a thing of its own: it shares blocks with its volume where the
//! filesystem can, and neither needs the other to live.

use kato_plugin_sdk::{
    files::Files,
    snapshots::{CutAnswer, Deleting, Wish},
    types::{Cutting, Error, Snapshot, SnapshotPage, Which},
};

use crate::{
    api::{Folder, Thing},
    config::Config,
    convert, error,
    layout::{Meta, Place, Shelf},
    make::{self, New, Progress},
    volumes,
};

/// Cuts a snapshot.
pub(crate) fn cut<F: Files>(
    folder: &Folder<F>,
    config: &Config,
    wish: &Wish,
    resume: Option<&[u8]>,
) -> Result<CutAnswer, Error> {
    let place = Place::new(Shelf::Snapshots, &wish.token)?;
    convert::mark(&place, &wish.mark)?;
    if let Some((name, _)) = wish.parameters.first() {
        return Err(Error::invalid(format!("a snapshot has no parameter `{name}`: leave it out")));
    }
    let source = format!("{}/{}", Shelf::Volumes.one(), Place::of(Shelf::Volumes, &wish.volume)?.token);

    folder.known()?;
    if let Some(thing) = folder.find(&place)? {
        return match make::settle(folder, &place, resume)? {
            Progress::Done => there(&thing, &source),
            Progress::Pending(pending) => Ok(CutAnswer::Pending(pending)),
        };
    }
    let made = make::attempt(folder, &place, resume, |attempt| {
        let volume = folder.get(Shelf::Volumes, &wish.volume)?;
        volume.whole()?;
        let may_copy = volumes::holding(folder, config, &volume)? != Cutting::Instant;
        let meta = Meta {
            kind: volume.meta.kind,
            size: volume.size(),
            thin: true,
            source: Some(source.clone()),
            name: wish.name.clone(),
        };
        let (mark, source) = (&wish.mark, Some(&volume));
        let new = New { place: &place, meta: &meta, mark, source, may_copy, allocated: false };
        make::make(folder, &new, attempt)
    });
    match made? {
        Progress::Pending(pending) => Ok(CutAnswer::Pending(pending)),
        Progress::Done => {
            let thing = folder
                .find(&place)?
                .ok_or_else(|| Error::busy("the snapshot was deleted while it was made"))?;
            there(&thing, &source)
        }
    }
}

/// The answer to a cut whose snapshot is there.
fn there(thing: &Thing, source: &str) -> Result<CutAnswer, Error> {
    match thing.meta.source.as_deref() {
        Some(other) if other != source => {
            Err(error::other_wish(&thing.place, &format!("it is one of {other}")))
        }
        Some(_) => Ok(CutAnswer::Done(convert::snapshot(thing))),
        None => Err(error::broken(&thing.place, "its description (meta) cannot be read")),
    }
}

/// Deletes a snapshot, and whatever was half-made under its token.
pub(crate) fn delete<F: Files>(folder: &Folder<F>, which: &Which) -> Result<Deleting, Error> {
    let place = Place::of(Shelf::Snapshots, which)?;
    folder.known()?;
    match make::remove(folder, &place)? {
        Progress::Done => Ok(Deleting::Done),
        Progress::Pending(pending) => Ok(Deleting::Pending(pending)),
    }
}

/// Looks at snapshots.
pub(crate) fn inspect<F: Files>(folder: &Folder<F>, which: &[Which]) -> Result<Vec<Option<Snapshot>>, Error> {
    let things = folder.inspect(Shelf::Snapshots, which)?;
    Ok(things.iter().map(|thing| thing.as_ref().map(convert::snapshot)).collect())
}

/// A page of all snapshots.
pub(crate) fn list<F: Files>(folder: &Folder<F>, page: Option<&str>) -> Result<SnapshotPage, Error> {
    let (things, next) = folder.list(Shelf::Snapshots, page)?;
    Ok(SnapshotPage { items: things.iter().map(convert::snapshot).collect(), next })
}
