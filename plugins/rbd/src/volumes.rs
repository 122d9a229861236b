//! The operations on volumes. A volume is an image that has the creation token for its name; how one comes to be is
//! `make.rs`, how it leaves by way of the trash `trash.rs`.

use kato_plugin_sdk::{
    capacity::spell,
    commands::Commands,
    grow::Grown,
    log,
    room::Room,
    types::{CapacityRange, Cutting, Error, ErrorKind, Pair, Pending, Volume, VolumePage, Which},
    volumes::{Created, Deleted, Wish},
};

use crate::{
    answers::Parent,
    api::Pool,
    attachments,
    config::{Parameters, STEP},
    convert::{self, UNKNOWN},
    error::{self, ABSENT, HOLDS_SNAPSHOTS, WATCHED},
    make::{self, New},
    marks::{self, Mark},
    names::{self, Token},
    trash,
};

/// How many images are looked at for one page.
const PAGE: usize = 16;
/// An image of more objects is removed out of the trash, in slices: the whole would take longer than a command may.
const MANY: u64 = 25_000;
/// How long the host waits between two slices.
const SLICE_MS: u64 = 1_000;

/// Makes a volume.
pub(crate) fn create<C: Commands>(pool: &Pool<C>, wish: &Wish) -> Result<Created, Error> {
    let token = Token::parse(&wish.token)?;
    marks::check(&token, &wish.mark)?;
    let parameters = Parameters::read(&pool.config, &wish.parameters)?;
    let mark = Mark { source: marks::source(wish.source.as_ref()), text: wish.mark.clone() };
    let new = New { token: &token, parameters: &parameters, size: &wish.size, mark };
    match &wish.source {
        None => make::plain(pool, &new),
        Some(origin) => make::copy(pool, &new, origin),
    }
}

/// Deletes a volume, and whatever was half-made under its token.
pub(crate) fn delete<C: Commands>(
    pool: &Pool<C>,
    which: &Which,
    resume: Option<&[u8]>,
) -> Result<Deleted, Error> {
    let token = Token::of_volume(which)?;
    let name = token.as_str();
    if let Some(id) =
        resume.and_then(|resume| std::str::from_utf8(resume).ok()).filter(|id| names::is_word(id))
    {
        return slice(pool, id);
    }
    let Some(image) = pool.image(name)? else {
        pool.remove(name, &format!("removing what is left of the image {token}"))?;
        trash::tidy(pool, &token);
        trash::sweep(pool, None);
        return Ok(Deleted::Done);
    };
    let days = names::days(which);
    if days == 0 && image.snapshots == 0 && image.objects <= MANY {
        let fine = [ABSENT, WATCHED, HOLDS_SNAPSHOTS];
        match pool.change("rbd-remove", &[("image", name)], &fine, &format!("removing the image {token}"))? {
            WATCHED => {
                return Err(held(pool, &token)?
                    .unwrap_or_else(|| Error::busy(format!("the image {token} was open a moment ago"))));
            }
            HOLDS_SNAPSHOTS => {}
            _ => {
                leave(pool, &token, image.parent.as_ref(), false);
                return Ok(Deleted::Done);
            }
        }
    }
    // The trash takes what is in use as well.
    if let Some(held) = held(pool, &token)? {
        return Err(held);
    }
    trash::bury(pool, name, days)?;
    if days == 0 && image.snapshots == 0 && image.objects > MANY {
        return Ok(slices(&image.id, "removing the objects of the image"));
    }
    if days == 0
        && let Err(error) = trash::clear(pool, &image.id)
    {
        trash::postponed(&error);
    }
    leave(pool, &token, image.parent.as_ref(), days > 0);
    Ok(Deleted::Done)
}

/// What this volume hung on may be free now, or was made for it alone.
fn leave<C: Commands>(pool: &Pool<C>, token: &Token, parent: Option<&Parent>, sweep: bool) {
    let Some(parent) = parent else {
        if sweep {
            trash::sweep(pool, None);
        }
        return;
    };
    let left = if parent.snapshot == token.origin() {
        trash::remove_cut(pool, &parent.id, &parent.snapshot).map(drop)
    } else {
        Ok(())
    };
    let gone = names::is_gone(&parent.image) && !parent.trash;
    let left = left.and_then(|()| if gone { trash::put_back(pool, &parent.id) } else { Ok(()) });
    if let Err(error) = left {
        trash::postponed(&error);
    }
    if sweep || gone || parent.trash {
        trash::sweep(pool, Some(&parent.id));
    }
}

/// Goes on with the removal of a large image.
fn slice<C: Commands>(pool: &Pool<C>, id: &str) -> Result<Deleted, Error> {
    match trash::purge(pool, id) {
        Ok(_) => {
            trash::sweep(pool, None);
            Ok(Deleted::Done)
        }
        // It was killed at its deadline: what it removed is removed.
        Err(error) if error.kind == ErrorKind::Unavailable => Ok(slices(id, &error.message)),
        Err(error) => Err(error),
    }
}

fn slices(id: &str, note: &str) -> Deleted {
    Deleted::Pending(Pending {
        resume: id.as_bytes().to_vec(),
        retry_after_ms: SLICE_MS,
        note: note.to_owned(),
    })
}

/// Why an image cannot go, if somebody has it open.
fn held<C: Commands>(pool: &Pool<C>, token: &Token) -> Result<Option<Error>, Error> {
    let watchers = pool.watchers(token.as_str())?.unwrap_or_default();
    if watchers.is_empty() {
        return Ok(None);
    }
    let strangers = attachments::strangers(pool, watchers, &[])?;
    Ok(Some(if strangers.addresses.is_empty() {
        Error::busy(format!("the cluster itself is at work on the image {token}, flattening it for one"))
    } else {
        Error::in_use(format!(
            "the image {token} is open at {}: close it there",
            strangers.addresses.join(", ")
        ))
    }))
}

/// Looks at volumes.
pub(crate) fn inspect<C: Commands>(pool: &Pool<C>, which: &[Which]) -> Result<Vec<Option<Volume>>, Error> {
    if which.len() > 100 {
        return Err(error::too_many("volumes", which.len()));
    }
    which
        .iter()
        .map(|which| {
            let seen = see(pool, &Token::of_volume(which)?)?;
            // A handle that was given is the thing's own, whatever has been lost of its metadata.
            Ok(seen.map(|seen| match &which.handle {
                Some(handle) => Volume { handle: handle.clone(), ..seen },
                None => seen,
            }))
        })
        .collect()
}

/// A volume with all that is told of it.
fn see<C: Commands>(pool: &Pool<C>, token: &Token) -> Result<Option<Volume>, Error> {
    let name = token.as_str();
    let Some(image) = pool.image(name)? else { return Ok(None) };
    let Some(marks) = pool.marks(name)? else { return Ok(None) };
    let attached = attachments::nodes(pool, token)?;
    let own = marks.of(name);
    // The days of one without a mark of its own may be its parent's.
    let days = if own.is_some() { marks.days() } else { 0 };
    let mark = own.map(|mark| mark.text).unwrap_or_default();
    Ok(Some(convert::volume(token, image.size, days, mark, attached)))
}

/// A page of all volumes.
pub(crate) fn list<C: Commands>(pool: &Pool<C>, page: Option<&str>) -> Result<VolumePage, Error> {
    let names = pool.names()?;
    let mut tokens = names
        .iter()
        .filter(|name| page.is_none_or(|page| name.as_str() > page))
        .filter_map(|name| Token::parse(name).ok());
    let mut items = Vec::new();
    let mut last = None;
    for token in tokens.by_ref().take(PAGE) {
        let name = token.as_str();
        let ours = names::is_ours(name) || pool.marks(name)?.is_some_and(|marks| marks.of(name).is_some());
        if ours {
            items.extend(see(pool, &token)?);
        }
        last = Some(token.to_string());
    }
    let next = last.filter(|_| tokens.next().is_some());
    Ok(VolumePage { items, next })
}

/// Writes a new mark.
pub(crate) fn remark<C: Commands>(pool: &Pool<C>, which: &Which, text: &str) -> Result<(), Error> {
    let token = Token::of_volume(which)?;
    marks::check(&token, text)?;
    let absent = || error::no_volume(&token);
    let marks = pool.marks(token.as_str())?.ok_or_else(absent)?;
    let own = marks.of(token.as_str());
    if own.as_ref().is_some_and(|own| own.text == text) {
        return Ok(());
    }
    let source = own.map_or_else(|| UNKNOWN.to_owned(), |own| own.source);
    let mark = Mark { source, text: text.to_owned() };
    match pool.mark(&token, &mark.spell(token.as_str()))? {
        ABSENT => Err(absent()),
        _ => Ok(()),
    }
}

/// Makes a volume larger; the answer is its size then.
pub(crate) fn grow<C: Commands>(
    pool: &Pool<C>,
    which: &Which,
    asked: &CapacityRange,
) -> Result<Grown, Error> {
    let token = Token::of_volume(which)?;
    let image = pool.image(token.as_str())?.ok_or_else(|| error::no_volume(&token))?;
    let size = if asked.required_bytes <= image.size {
        image.size
    } else {
        asked.required_bytes.checked_next_multiple_of(STEP).unwrap_or(u64::MAX)
    };
    if let Some(limit) = asked.limit_bytes.filter(|limit| size > *limit) {
        return Err(Error::out_of_range(format!(
            "the volume {token} would be {} large, and {} is the limit that was given",
            spell(size),
            spell(limit)
        )));
    }
    if size > image.size {
        pool.resize(&token, size)?;
        log::info(format!("the image {token} was grown to {}", spell(size)));
    }
    Ok(Grown::Done(size))
}

/// How a volume has to be held while it is cut or copied: not at all, if it is there.
pub(crate) fn how<C: Commands>(pool: &Pool<C>, which: &Which) -> Result<Cutting, Error> {
    let token = Token::of_volume(which)?;
    match pool.image(token.as_str())? {
        Some(_) => Ok(Cutting::Instant),
        None => Err(error::no_volume(&token)),
    }
}

/// How much room there is for volumes with these parameters.
pub(crate) fn room<C: Commands>(pool: &Pool<C>, parameters: &[Pair]) -> Result<Room, Error> {
    let parameters = Parameters::read(&pool.config, parameters)?;
    let name = parameters.data_pool.unwrap_or_else(|| pool.config.pool.clone());
    let fill = pool.fill(&name)?.ok_or_else(|| {
        Error::unavailable(format!("the cluster has no pool {name}: make it, or correct the grant"))
    })?;
    Ok(Room {
        available_bytes: fill.available,
        total_bytes: Some(fill.stored.saturating_add(fill.available)),
    })
}
