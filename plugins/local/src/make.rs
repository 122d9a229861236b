//! How a thing comes to be and how it goes, the same for volumes and snapshots. It is made under another name
//! and renamed when it is whole; it is renamed before it is removed. So nothing half-made or half-gone is ever
//! seen under its token, wherever the work is cut off, and whoever repeats the call finds the rest by the token
//! and goes on or begins anew. A repeated call may overlap with one that was given up and still runs: so every
//! attempt works in a place of its own, and takes away those of others.

use kato_plugin_sdk::{
    files::{Files, Piece},
    types::{Error, ErrorKind, Pending},
};

use crate::{
    api::{Folder, Thing, random},
    error,
    layout::{COMING, Kind, Meta, Place},
};

/// The `resume` of a copy under way, before the name of the attempt that is gone on with.
const COPYING: &str = "copying ";
/// How long the host waits between two slices of long work.
const SLICE_MS: u64 = 100;

/// A thing to be made.
#[derive(Debug)]
pub(crate) struct New<'a> {
    pub(crate) place: &'a Place,
    pub(crate) meta: &'a Meta,
    pub(crate) mark: &'a str,
    /// What its bytes are copied from; whether that is too much to copy was decided before.
    pub(crate) source: Option<&'a Thing>,
    /// Whether an image may be copied where its blocks cannot be shared. Not one that changes meanwhile: the host
    /// holds its source still for an instant only, if sharing was promised.
    pub(crate) may_copy: bool,
    /// Whether all blocks of an image are allocated, so that its owner never runs out of room.
    pub(crate) allocated: bool,
}

/// How far it got.
#[derive(Debug)]
pub(crate) enum Progress {
    Done,
    Pending(Pending),
}

fn pending(resume: &str, note: impl Into<String>) -> Progress {
    let resume = resume.as_bytes().to_vec();
    Progress::Pending(Pending { resume, retry_after_ms: SLICE_MS, note: note.into() })
}

/// An attempt at making a thing.
#[derive(Debug)]
pub(crate) struct Attempt {
    name: String,
    /// Whether it is one whose copy is gone on with.
    resumed: bool,
}

impl Attempt {
    fn of(resume: Option<&[u8]>) -> Self {
        let named = resume.and_then(|resume| std::str::from_utf8(resume).ok()?.strip_prefix(COPYING));
        match named.filter(|name| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            Some(name) => Self { name: name.to_owned(), resumed: true },
            None => Self { name: format!("{:016x}", random()), resumed: false },
        }
    }
}

/// Tries to make a thing: first nothing is left of other attempts, and after a refusal nothing is left of this
/// one. `work` answers whether it came to its end. Whatever can refuse belongs into it, the question for room
/// above all.
pub(crate) fn attempt<F: Files>(
    folder: &Folder<F>,
    place: &Place,
    resume: Option<&[u8]>,
    work: impl FnOnce(&Attempt) -> Result<bool, Error>,
) -> Result<Progress, Error> {
    let attempt = Attempt::of(resume);
    if !sweep(folder, place, attempt.resumed.then_some(&attempt))? {
        return Ok(pending("", "removing what an earlier attempt left"));
    }
    let refusal = match work(&attempt) {
        Ok(true) => return Ok(Progress::Done),
        Ok(false) => return Ok(pending(&format!("{COPYING}{}", attempt.name), "copying")),
        Err(refusal) => refusal,
    };
    match sweep(folder, place, None) {
        // What refuses ours may be another's that was made meanwhile: the room that it took, for one.
        Ok(true) if folder.find(place)?.is_some() => Ok(Progress::Done),
        Ok(true) => Err(refusal),
        Ok(false) => Ok(pending("", format!("removing a failed attempt: {}", refusal.message))),
        // Not final while something may be left: a later delete by token finds it.
        Err(error) => Err(Error::unavailable(format!("{}; moreover, {}", refusal.message, error.message))),
    }
}

/// The thing is there. A call that goes on may have come second, and then takes its own attempt away.
pub(crate) fn settle<F: Files>(
    folder: &Folder<F>,
    place: &Place,
    resume: Option<&[u8]>,
) -> Result<Progress, Error> {
    if resume.is_none() || sweep(folder, place, None)? {
        return Ok(Progress::Done);
    }
    Ok(pending("", "removing an attempt that came too late"))
}

/// Makes a thing where nothing is half-made, or goes on with a copy; false while that is under way. True means
/// that there is one under its token; whether it is ours or that of somebody who did the same at the same time,
/// the caller has to see.
pub(crate) fn make<F: Files>(folder: &Folder<F>, new: &New<'_>, attempt: &Attempt) -> Result<bool, Error> {
    if new.meta.kind == Kind::Directory && new.source.is_none() && new.meta.size == 0 {
        // The everyday case is one call.
        let assemble =
            || folder.0.assemble(&new.place.path(), &new.place.coming(&attempt.name), &pieces(new));
        let answer = match assemble() {
            Err(error) if error.kind == ErrorKind::NotFound => {
                folder.0.make_directory(COMING).map_err(error::at("making a directory"))?;
                assemble()
            }
            answer => answer,
        };
        return placed(folder, new.place, answer);
    }
    build(folder, new, attempt)
}

/// Removes a thing and whatever was half-made or half-gone under its token.
pub(crate) fn remove<F: Files>(folder: &Folder<F>, place: &Place) -> Result<Progress, Error> {
    // What is coming first: were it renamed into its place meanwhile, the discard finds it there.
    let doing = || format!("removing the {} {}", place.shelf.one(), place.token);
    let done = sweep(folder, place, None)?
        && folder.0.discard(&place.path(), &place.going()).map_err(error::at(doing()))?;
    Ok(if done { Progress::Done } else { pending("", "removing files") })
}

/// Removes what attempts at this thing have left, except for one; false while there is more. Looking for it
/// costs no flush, and most often there is nothing.
fn sweep<F: Files>(folder: &Folder<F>, place: &Place, except: Option<&Attempt>) -> Result<bool, Error> {
    let doing = || "removing what an earlier attempt left";
    let prefix = place.attempts();
    let names = folder.0.names(COMING, Some(&prefix), 10).map_err(error::at(doing()))?;
    for attempt in names.iter().map_while(|name| name.strip_prefix(&prefix)) {
        if except.is_none_or(|except| except.name != attempt)
            && !folder.0.remove_tree(&place.coming(attempt)).map_err(error::at(doing()))?
        {
            return Ok(false);
        }
    }
    // Ten at once are never there; should they be, the next call sees to the rest.
    Ok(names.len() < 10 || !names.last().is_some_and(|name| name.starts_with(&prefix)))
}

fn pieces(new: &New<'_>) -> [(String, Piece); 3] {
    [
        (new.meta.kind.content().to_owned(), Piece::Directory),
        ("meta".to_owned(), Piece::Content(new.meta.encode())),
        ("mark".to_owned(), Piece::Content(new.mark.as_bytes().to_vec())),
    ]
}

/// Whether the thing is in its place: put there now, or by somebody else meanwhile.
fn placed<F: Files>(folder: &Folder<F>, place: &Place, answer: Result<(), Error>) -> Result<bool, Error> {
    match answer {
        Ok(()) => Ok(true),
        Err(error) if error.kind == ErrorKind::AlreadyExists => match folder.find(place)? {
            Some(_) => sweep(folder, place, None),
            None => Err(error::occupied(place)),
        },
        Err(error) => Err(error::at("putting it into its place")(error)),
    }
}

/// Makes anything else step by step; false while a copy is under way.
fn build<F: Files>(folder: &Folder<F>, new: &New<'_>, attempt: &Attempt) -> Result<bool, Error> {
    let (files, place, meta) = (&folder.0, new.place, new.meta);
    let coming = place.coming(&attempt.name);
    let content = format!("{coming}/{}", meta.kind.content());
    files.make_directory(&coming).map_err(error::at("making a directory"))?;

    let copied = match new.source {
        None => Ok(true),
        Some(source) => {
            let from = source.place.content(source.meta.kind);
            match meta.kind {
                Kind::Image => files.clone_file(&from, &content, new.may_copy),
                Kind::Directory => files.copy_tree(&from, &content),
            }
        }
    };
    match copied {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        // A copy that was whole when the call was cut off.
        Err(error) if attempt.resumed && error.kind == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error::at("copying the source")(error)),
    }

    match meta.kind {
        Kind::Image => {
            let length = new.source.map_or(0, Thing::size);
            if new.source.is_none() || new.allocated || meta.size > length {
                files
                    .allocate(&content, meta.size, !new.allocated)
                    .map_err(error::at("allocating the image"))?;
            }
        }
        Kind::Directory => {
            if new.source.is_none() {
                files.make_directory(&content).map_err(error::at("making a directory"))?;
            }
            if meta.size > 0 {
                files.set_quota(&content, meta.size).map_err(error::at("limiting the directory"))?;
            }
        }
    }
    files.write(&format!("{coming}/meta"), &meta.encode()).map_err(error::at("describing it"))?;
    files.write(&format!("{coming}/mark"), new.mark.as_bytes()).map_err(error::at("marking it"))?;
    placed(folder, place, files.rename(&coming, &place.path()))
}
