//! The operations on snapshots. One has its creation token for a name, and belongs to an image that may be in the trash
//! by now, so it is named by the image's id. A host that never heard that id makes us look through everything.

use std::collections::BTreeMap;

use kato_plugin_sdk::{
    commands::Commands,
    snapshots::{CutAnswer, Deleting, Wish},
    types::{Error, Snapshot, SnapshotPage, Which},
};

use crate::{
    answers::Cut,
    api::Pool,
    convert,
    error::{self, ABSENT, THERE},
    marks::{self, Marks},
    names::{self, Token},
    trash,
};

/// How many images are looked at for one page.
const PAGE: usize = 16;
/// How the page tokens begin that stand for a place in the trash; no image's name has a slash.
const TRASH: &str = "trash/";

/// Cuts a snapshot.
pub(crate) fn cut<C: Commands>(pool: &Pool<C>, wish: &Wish) -> Result<CutAnswer, Error> {
    let token = Token::parse(&wish.token)?;
    marks::check(&token, &wish.mark)?;
    if let Some((name, _)) = wish.parameters.first() {
        return Err(Error::invalid(format!("a snapshot has no parameter `{name}`: leave it out")));
    }
    let volume = Token::of_volume(&wish.volume)?;
    let (name, doing) = (volume.as_str(), format!("cutting the volume {volume}"));
    let holes = [("image", name), ("snapshot", token.as_str())];
    let there = match pool.change("rbd-snapshot", &holes, &[THERE, ABSENT], &doing)? {
        ABSENT => return Err(error::no_volume(&volume)),
        ended => ended == THERE,
    };
    let mark = marks::of_snapshot(&token, &wish.mark);
    let holes = [("image", name), ("snapshot", token.as_str()), ("mark", &mark)];
    let marked = pool.change("rbd-mark-snapshot", &holes, &[ABSENT], "marking the snapshot")?;
    let deleted = || Error::busy(format!("the volume {volume} was deleted while it was cut"));
    if marked == ABSENT {
        return Err(deleted());
    }
    let image = pool.image(name)?.ok_or_else(deleted)?;
    let mut size = image.size;
    if there {
        // The volume may have grown since.
        let cuts = pool.cuts(&image.id)?.unwrap_or_default();
        size = find(&cuts, token.as_str()).map(|cut| cut.size).ok_or_else(deleted)?;
    }
    let cut = Cut { name: token.to_string(), size, live: true };
    let handle = wish.volume.handle.clone().unwrap_or_else(|| name.to_owned());
    Ok(CutAnswer::Done(convert::snapshot(&image.id, &cut, Some(handle), wish.mark.clone())))
}

pub(crate) fn find<'a>(cuts: &'a [Cut], token: &str) -> Option<&'a Cut> {
    cuts.iter().find(|cut| cut.live && cut.name == token)
}

/// The token of the snapshot that is meant, and the id of its image, if any has such a snapshot. A handle is believed.
pub(crate) fn locate<C: Commands>(pool: &Pool<C>, which: &Which) -> Result<(Token, Option<String>), Error> {
    let (token, id) = Token::of_snapshot(which)?;
    if let Some(id) = id {
        return Ok((token, Some(id.to_owned())));
    }
    let all = pool.all()?;
    if let Some(found) = all.into_iter().find(|one| one.snapshot.as_deref() == Some(token.as_str())) {
        return Ok((token, Some(found.id)));
    }
    for trashed in pool.trash()? {
        let ours = names::is_ours(&trashed.name) || names::is_gone(&trashed.name);
        if ours && find(&pool.cuts(&trashed.id)?.unwrap_or_default(), token.as_str()).is_some() {
            return Ok((token, Some(trashed.id)));
        }
    }
    Ok((token, None))
}

/// Deletes a snapshot.
pub(crate) fn delete<C: Commands>(pool: &Pool<C>, which: &Which) -> Result<Deleting, Error> {
    let (token, id) = locate(pool, which)?;
    let Some(id) = id else { return Ok(Deleting::Done) };
    let Some(image) = pool.image_by_id(&id)? else { return Ok(Deleting::Done) };
    // The mark first: a snapshot that is gone is not found by its token any more.
    let holes = [("image", image.name.as_str()), ("snapshot", token.as_str())];
    let unmarked = pool.change("rbd-unmark-snapshot", &holes, &[ABSENT], "unmarking the snapshot")?;
    trash::remove_cut(pool, &id, token.as_str())?;
    if names::is_gone(&image.name) {
        trash::put_back(pool, &id)?;
    }
    // Either it had no mark, or its image is in the trash and may have waited for this.
    if unmarked == ABSENT || names::is_gone(&image.name) {
        trash::sweep(pool, Some(&id));
    }
    Ok(Deleting::Done)
}

/// Looks at snapshots.
pub(crate) fn inspect<C: Commands>(pool: &Pool<C>, which: &[Which]) -> Result<Vec<Option<Snapshot>>, Error> {
    if which.len() > 100 {
        return Err(error::too_many("snapshots", which.len()));
    }
    let mut images: BTreeMap<String, Option<Looked>> = BTreeMap::new();
    let mut seen = Vec::with_capacity(which.len());
    for which in which {
        let (token, id) = locate(pool, which)?;
        let Some(id) = id else {
            seen.push(None);
            continue;
        };
        if !images.contains_key(&id) {
            images.insert(id.clone(), look(pool, &id)?);
        }
        seen.push(images.get(&id).and_then(Option::as_ref).and_then(|(volume, cuts, marks)| {
            let cut = find(cuts, token.as_str())?;
            let mark = marks.snapshot(token.as_str()).unwrap_or_default();
            Some(convert::snapshot(&id, cut, volume.clone(), mark))
        }));
    }
    Ok(seen)
}

/// An image with the handle of the volume that it is, its snapshots and its marks.
type Looked = (Option<String>, Vec<Cut>, Marks);

fn look<C: Commands>(pool: &Pool<C>, id: &str) -> Result<Option<Looked>, Error> {
    let Some(image) = pool.image_by_id(id)? else { return Ok(None) };
    let (Some(cuts), Some(marks)) = (pool.cuts(id)?, pool.marks_by_id(id)?) else { return Ok(None) };
    Ok(Some((volume_of(&image.name, &marks), cuts, marks)))
}

/// The handle of the volume that an image is, if it is one.
fn volume_of(name: &str, marks: &Marks) -> Option<String> {
    let own = marks.of(name).is_some();
    (own || names::is_ours(name)).then(|| names::volume_handle(name, if own { marks.days() } else { 0 }))
}

/// A page of all snapshots: first those of images that are there, in the order of their names, then those of images in
/// the trash, in the order of their ids.
pub(crate) fn list<C: Commands>(pool: &Pool<C>, page: Option<&str>) -> Result<SnapshotPage, Error> {
    let ours = |name: &str| names::is_ours(name) || names::is_gone(name);
    let mut items = Vec::new();
    let buried = page.and_then(|page| page.strip_prefix(TRASH));
    if buried.is_none() {
        let names = pool.names()?;
        let mut names = names.iter().filter(|name| page.is_none_or(|page| name.as_str() > page));
        let mut last = None;
        for name in names.by_ref().take(PAGE) {
            if let Some(image) = pool.image(name)?.filter(|image| image.snapshots > 0) {
                items.extend(of(pool, &image.id, name, pool.marks(name)?)?);
            }
            last = Some(name.clone());
        }
        let next = match last.filter(|_| names.next().is_some()) {
            Some(last) => Some(last),
            None => pool.trash()?.iter().any(|one| ours(&one.name)).then(|| TRASH.to_owned()),
        };
        return Ok(SnapshotPage { items, next });
    }
    let trash = pool.trash()?;
    let mut rest =
        trash.iter().filter(|one| ours(&one.name) && buried.is_none_or(|buried| one.id.as_str() > buried));
    let mut last = None;
    for trashed in rest.by_ref().take(PAGE) {
        items.extend(of(pool, &trashed.id, &trashed.name, pool.marks_by_id(&trashed.id)?)?);
        last = Some(format!("{TRASH}{}", trashed.id));
    }
    let next = last.filter(|_| rest.next().is_some());
    Ok(SnapshotPage { items, next })
}

/// The snapshots of an image that are ours: those that carry a mark or are called as only the house calls them.
fn of<C: Commands>(
    pool: &Pool<C>,
    id: &str,
    name: &str,
    marks: Option<Marks>,
) -> Result<Vec<Snapshot>, Error> {
    let (Some(cuts), Some(marks)) = (pool.cuts(id)?, marks) else { return Ok(Vec::new()) };
    let volume = volume_of(name, &marks);
    let told = cuts.iter().filter(|cut| cut.live).filter_map(|cut| {
        let mark = marks.snapshot(&cut.name);
        let ours = Token::parse(&cut.name).is_ok() && (mark.is_some() || names::is_ours(&cut.name));
        ours.then(|| convert::snapshot(id, cut, volume.clone(), mark.unwrap_or_default()))
    });
    Ok(told.collect())
}
