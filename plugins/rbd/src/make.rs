//! How a volume comes to be: from nothing, from a snapshot, or from another volume.
//!
//! Its mark is written last, so an image with a mark of its own is whole. One without is told apart by what it
//! inherited: `rbd clone` copies the parent's metadata when the child hangs on its parent already, so a clone that
//! carries anybody's mark only has to be finished, and one that carries none was cut off before it hung safely, and is
//! made anew. A clone of a volume is a clone of a snapshot that exists just for that and goes right afterwards; Ceph keeps
//! what is left of it until the last clone is gone or flattened.

use kato_plugin_sdk::{
    commands::Commands,
    log,
    types::{CapacityRange, Error, Pending, Volume, Which},
    volumes::{Created, Origin},
};

use crate::{
    answers::Image,
    api::Pool,
    attachments,
    config::Parameters,
    convert,
    error::{self, ABSENT, THERE},
    marks::Mark,
    names::{self, Token},
    snapshots, trash,
};

/// How often it is tried again where somebody else is at the same.
const TRIES: usize = 3;
/// How many generations a clone may have above it before the mgr is asked to flatten it.
const DEEP: usize = 4;
/// How many before nobody gets it until that is done: every read of what was not written goes through all of them.
const TOO_DEEP: usize = 8;
/// When to look again whether it is flattened.
const FLATTENING_MS: u64 = 5_000;

/// A volume to be made.
#[derive(Debug)]
pub(crate) struct New<'a> {
    pub(crate) token: &'a Token,
    pub(crate) parameters: &'a Parameters,
    pub(crate) size: &'a CapacityRange,
    pub(crate) mark: Mark,
}

impl New<'_> {
    /// One that was made now.
    fn volume(&self, size: u64) -> Volume {
        convert::volume(self.token, size, self.parameters.trash_days, self.mark.text.clone(), Vec::new())
    }

    /// One that was there. What its mark says of a filesystem is truer than what is wished.
    fn found<C: Commands>(&self, pool: &Pool<C>, size: u64, mark: Option<Mark>) -> Result<Volume, Error> {
        let mark = mark.map_or_else(|| self.mark.text.clone(), |mark| mark.text);
        let attached = attachments::nodes(pool, self.token)?;
        Ok(convert::volume(self.token, size, self.parameters.trash_days, mark, attached))
    }

    fn doing(&self) -> String {
        format!("making the image {}", self.token)
    }
}

/// Makes one from nothing.
pub(crate) fn plain<C: Commands>(pool: &Pool<C>, new: &New<'_>) -> Result<Created, Error> {
    let size = pool.config.limits().choose(new.size)?;
    let (name, bytes) = (new.token.as_str(), size.to_string());
    let mut holes = vec![("image", name), ("size", bytes.as_str()), ("features", new.parameters.features)];
    let command = match new.parameters.data_pool.as_deref() {
        None => "rbd-create",
        Some(pool) => {
            holes.push(("data-pool", pool));
            "rbd-create-in"
        }
    };
    for _ in 0..TRIES {
        if pool.change(command, &holes, &[THERE], &new.doing())? == 0 {
            inscribe(pool, new, new.parameters.trash_days > 0)?;
            return Ok(Created::Done(new.volume(size)));
        }
        if let Some(image) = pool.image(name)? {
            let marks = pool.marks(name)?.unwrap_or_default();
            convert::satisfies(new, &image, &marks)?;
            let found = marks.of(name);
            if found.is_none() {
                inscribe(pool, new, marks.days() != new.parameters.trash_days)?;
            }
            return new.found(pool, image.size, found).map(Created::Done);
        }
        pool.remove(name, "removing a half-made image")?;
    }
    Err(somebody(new.token))
}

/// What is written on a volume, the mark last.
fn inscribe<C: Commands>(pool: &Pool<C>, new: &New<'_>, days: bool) -> Result<(), Error> {
    if days {
        pool.note(new.token, new.parameters.trash_days)?;
    }
    if pool.mark(new.token, &new.mark.spell(new.token.as_str()))? == ABSENT {
        return Err(Error::busy(format!("the volume {} was deleted while it was made", new.token)));
    }
    Ok(())
}

/// What a clone is made from.
#[derive(Debug)]
struct Source<'a> {
    origin: &'a Origin,
    /// Its volume, in the trash or not.
    image: Image,
    /// The name of the snapshot.
    cut: String,
}

impl<'a> Source<'a> {
    fn find<C: Commands>(pool: &Pool<C>, token: &Token, origin: &'a Origin) -> Result<Option<Self>, Error> {
        let (image, cut) = match origin {
            Origin::Volume(which) => (pool.image(Token::of_volume(which)?.as_str())?, token.origin()),
            Origin::Snapshot(which) => {
                let (cut, id) = snapshots::locate(pool, which)?;
                let image = id.map(|id| pool.image_by_id(&id)).transpose()?.flatten();
                (image, cut.to_string())
            }
        };
        Ok(image.map(|image| Self { origin, image, cut }))
    }

    /// How large a clone is at least.
    fn size<C: Commands>(&self, pool: &Pool<C>) -> Result<u64, Error> {
        match self.origin {
            Origin::Volume(_) => Ok(self.image.size),
            Origin::Snapshot(which) => {
                let cuts = pool.cuts(&self.image.id)?.unwrap_or_default();
                let cut = cuts.iter().find(|cut| cut.live && cut.name == self.cut);
                cut.map(|cut| cut.size).ok_or_else(|| missing(self.origin, which))
            }
        }
    }
}

fn missing(origin: &Origin, which: &Which) -> Error {
    let what = match origin {
        Origin::Snapshot(_) => "snapshot",
        Origin::Volume(_) => "volume",
    };
    Error::not_found(format!("there is no {what} with the token {} to make a volume from", which.token))
}

/// How much of the volume is there.
enum Standing {
    Nothing,
    /// A clone that has to be finished.
    Hung(Image),
    Whole(Image, Mark),
}

/// Makes one from something.
pub(crate) fn copy<C: Commands>(pool: &Pool<C>, new: &New<'_>, origin: &Origin) -> Result<Created, Error> {
    let source = Source::find(pool, new.token, origin)?;
    for _ in 0..TRIES {
        match standing(pool, new, source.as_ref())? {
            Standing::Whole(image, mark) => {
                let volume = new.found(pool, image.size, Some(mark))?;
                return settle(pool, new, &image, volume, source.as_ref());
            }
            Standing::Hung(image) => return finish(pool, new, &image, source.as_ref()),
            Standing::Nothing => {}
        }
        let (Origin::Volume(which) | Origin::Snapshot(which)) = origin;
        let source = source.as_ref().ok_or_else(|| missing(origin, which))?;
        if new.size.limit_bytes.is_some() {
            size(pool, new, source.size(pool)?)?;
        }
        let made = match origin {
            Origin::Volume(which) => from_volume(pool, new, source, which)?,
            Origin::Snapshot(which) => from_snapshot(pool, new, source, which)?,
        };
        match pool.image(new.token.as_str())? {
            Some(image) if made => return finish(pool, new, &image, Some(source)),
            Some(_) => {}
            // What is there and cannot be looked at was cut off in its very beginning.
            None => drop(pool.remove(new.token.as_str(), "removing a half-made image")?),
        }
    }
    Err(somebody(new.token))
}

fn standing<C: Commands>(
    pool: &Pool<C>,
    new: &New<'_>,
    source: Option<&Source<'_>>,
) -> Result<Standing, Error> {
    let name = new.token.as_str();
    let Some(image) = pool.image(name)? else { return Ok(Standing::Nothing) };
    let marks = pool.marks(name)?.unwrap_or_default();
    if let Some(mark) = marks.of(name) {
        // A clone that was not grown yet has no mark of its own, so its size is what was wished for.
        convert::satisfies(new, &image, &marks)?;
        return Ok(Standing::Whole(image, mark));
    }
    if marks.any() {
        let other = match (&image.parent, source) {
            (Some(parent), Some(source)) => parent.id != source.image.id,
            _ => false,
        };
        if other {
            return Err(error::other_wish(new.token, "it was made from something else"));
        }
        return Ok(Standing::Hung(image));
    }
    if !image.untouched {
        return Err(Error::precondition(format!(
            "the image {name} carries no mark, and somebody wrote to it: nobody can tell whether it is a whole copy; \
             remove it by hand, or write its mark again with `kato recover`"
        )));
    }
    pool.remove(name, "removing a half-made clone")?;
    Ok(Standing::Nothing)
}

/// The size that it is to have, at least so much.
fn size<C: Commands>(pool: &Pool<C>, new: &New<'_>, least: u64) -> Result<u64, Error> {
    let range = CapacityRange { required_bytes: new.size.required_bytes.max(least), ..*new.size };
    if new.size.required_bytes <= least && new.size.limit_bytes.is_none_or(|limit| limit >= least) {
        return Ok(least);
    }
    pool.config.limits().choose(&range)
}

/// Clones; what is there already, or what the source lacks, is the caller's to see.
fn clone<C: Commands>(pool: &Pool<C>, new: &New<'_>, image: &str, cut: &str) -> Result<i32, Error> {
    let mut holes = vec![
        ("source", image),
        ("snapshot", cut),
        ("image", new.token.as_str()),
        ("features", new.parameters.features),
    ];
    let command = match new.parameters.data_pool.as_deref() {
        None => "rbd-clone",
        Some(pool) => {
            holes.push(("data-pool", pool));
            "rbd-clone-in"
        }
    };
    pool.change(command, &holes, &[THERE, ABSENT], &new.doing())
}

/// True if it was cloned now.
fn from_volume<C: Commands>(
    pool: &Pool<C>,
    new: &New<'_>,
    source: &Source<'_>,
    which: &Which,
) -> Result<bool, Error> {
    let gone = || missing(source.origin, which);
    let holes = [("image", source.image.name.as_str()), ("snapshot", source.cut.as_str())];
    // One that is there was cut for an earlier try of the same.
    if pool.change("rbd-snapshot", &holes, &[THERE, ABSENT], "cutting the volume that is copied")? == ABSENT {
        return Err(gone());
    }
    match clone(pool, new, &source.image.name, &source.cut)? {
        ABSENT => Err(gone()),
        THERE => {
            // Somebody did the same meanwhile, and may have taken away what it was cloned from before we cut it anew.
            trash::remove_cut(pool, &source.image.id, &source.cut)?;
            Ok(false)
        }
        _ => Ok(true),
    }
}

/// True if it was cloned now. A snapshot in the trash is taken out of it for that moment.
fn from_snapshot<C: Commands>(
    pool: &Pool<C>,
    new: &New<'_>,
    source: &Source<'_>,
    which: &Which,
) -> Result<bool, Error> {
    let Source { image, cut, .. } = source;
    let made = clone(pool, new, &image.name, cut)?;
    if made != ABSENT {
        return Ok(made == 0);
    }
    source.size(pool)?;
    let name = names::gone(&image.id);
    for _ in 0..TRIES {
        let holes = [("id", image.id.as_str()), ("image", name.as_str())];
        let doing = format!("taking the volume of the snapshot {} out of the trash", which.token);
        // Not in the trash, or there is one of this name: somebody else took it out for the same.
        pool.change("rbd-restore", &holes, &[ABSENT, THERE], &doing)?;
        let made = clone(pool, new, &name, cut);
        trash::put_back(pool, &image.id)?;
        let made = made?;
        if made != ABSENT {
            return Ok(made == 0);
        }
    }
    Err(somebody(new.token))
}

/// Finishes a clone.
fn finish<C: Commands>(
    pool: &Pool<C>,
    new: &New<'_>,
    image: &Image,
    source: Option<&Source<'_>>,
) -> Result<Created, Error> {
    if let Some(parent) = &image.parent {
        if parent.snapshot == new.token.origin() {
            trash::remove_cut(pool, &parent.id, &parent.snapshot)?;
        }
        if names::is_gone(&parent.image) && !parent.trash {
            trash::put_back(pool, &parent.id)?;
        }
    }
    let size = match size(pool, new, image.size) {
        Ok(size) => size,
        Err(refusal) => {
            pool.remove(new.token.as_str(), "removing a clone of the wrong size")?;
            return Err(refusal);
        }
    };
    if size > image.size {
        pool.resize(new.token, size)?;
    }
    // It inherited its parent's days.
    inscribe(pool, new, true)?;
    settle(pool, new, image, new.volume(size), source)
}

/// The answer for a clone that is whole, unless it has too many generations above it.
fn settle<C: Commands>(
    pool: &Pool<C>,
    new: &New<'_>,
    image: &Image,
    volume: Volume,
    source: Option<&Source<'_>>,
) -> Result<Created, Error> {
    let depth = depth(pool, image, source)?;
    let mut said = String::new();
    if depth > DEEP {
        let holes = [("image", new.token.as_str())];
        if let Err(error) = pool.change("ceph-flatten", &holes, &[], "asking the mgr to flatten a clone") {
            log::warn(&error.message);
            said = format!(" ({})", error.message);
        }
    }
    if depth >= TOO_DEEP {
        return Ok(Created::Pending(Pending {
            resume: b"flattening".to_vec(),
            retry_after_ms: FLATTENING_MS,
            note: format!("waiting for flatten: {depth} generations lie above it{said}"),
        }));
    }
    Ok(Created::Done(volume))
}

/// How many generations lie above an image, as far as it matters.
fn depth<C: Commands>(pool: &Pool<C>, image: &Image, source: Option<&Source<'_>>) -> Result<usize, Error> {
    let mut depth = 0;
    let mut parent = image.parent.clone();
    while let Some(above) = parent {
        depth += 1;
        // What lies in another pool is none of ours, and no line of ours can look at it.
        let elsewhere = above.pool != pool.config.pool || above.namespace != pool.config.namespace;
        if depth > TOO_DEEP || elsewhere {
            break;
        }
        parent = match source.filter(|source| source.image.id == above.id) {
            Some(source) => source.image.parent.clone(),
            None => pool.image_by_id(&above.id)?.and_then(|image| image.parent),
        };
    }
    Ok(depth)
}

fn somebody(token: &Token) -> Error {
    Error::busy(format!("somebody else is at work on the image {token}, or on what it is made from"))
}
