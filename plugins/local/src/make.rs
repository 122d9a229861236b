//! How a thing comes to be and how it goes, the same for volumes and snapshots. It is made under another name
//! and renamed when it is whole; it is renamed before it is removed. So nothing half-made or half-gone is ever
//! seen under its token, wherever the work is cut off, and whoever repeats the call finds the rest by the token
//! and goes on or begins anew.

use kato_plugin_sdk::{
    files::{Files, Piece},
    types::{Error, ErrorKind, Pending},
};

use crate::{
    api::{Folder, Thing},
    error,
    layout::{Kind, Meta, Place},
};

/// The `resume` of a copy under way: what was made so far is gone on with.
const COPYING: &[u8] = b"copying";
/// The `resume` of a removal of what was half-made.
const SWEEPING: &[u8] = b"sweeping";
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
    /// Whether all blocks of an image are allocated, so that its owner never runs out of room.
    pub(crate) allocated: bool,
}

/// How far it got.
#[derive(Debug)]
pub(crate) enum Progress {
    Done,
    Pending(Pending),
}

fn pending(resume: &[u8], note: impl Into<String>) -> Progress {
    Progress::Pending(Pending { resume: resume.to_vec(), retry_after_ms: SLICE_MS, note: note.into() })
}

/// Tries to make a thing: first nothing is left of an earlier attempt (unless it is a copy that is gone on
/// with), and after a refusal nothing is left of this one. `work` is told whether to go on, and answers whether
/// it came to its end. Whatever can refuse belongs into it, the question for room above all.
pub(crate) fn attempt<F: Files>(
    folder: &Folder<F>,
    place: &Place,
    resume: Option<&[u8]>,
    work: impl FnOnce(bool) -> Result<bool, Error>,
) -> Result<Progress, Error> {
    let copying = resume == Some(COPYING);
    if !copying && !sweep(folder, place)? {
        return Ok(pending(SWEEPING, "removing what an earlier attempt left"));
    }
    let refusal = match work(copying) {
        Ok(true) => return Ok(Progress::Done),
        Ok(false) => return Ok(pending(COPYING, "copying")),
        Err(refusal) => refusal,
    };
    match sweep(folder, place) {
        Ok(true) => Err(refusal),
        Ok(false) => Ok(pending(SWEEPING, format!("removing a failed attempt: {}", refusal.message))),
        // Not final while something may be left: a later delete by token finds it.
        Err(error) => Err(Error::unavailable(format!("{}; moreover, {}", refusal.message, error.message))),
    }
}

/// Makes a thing where nothing is half-made, or goes on with a copy; false while that is under way. True means
/// that there is one under its token; whether it is ours or that of somebody who did the same at the same time,
/// the caller has to see.
pub(crate) fn make<F: Files>(folder: &Folder<F>, new: &New<'_>, copying: bool) -> Result<bool, Error> {
    if new.meta.kind == Kind::Directory && new.source.is_none() && new.meta.size == 0 {
        // The everyday case is one call.
        let answer = folder.0.assemble(&new.place.path(), &new.place.coming(), &pieces(new));
        return placed(folder, new.place, answer);
    }
    build(folder, new, copying)
}

/// Removes a thing and whatever was half-made or half-gone under its token.
pub(crate) fn remove<F: Files>(folder: &Folder<F>, place: &Place) -> Result<Progress, Error> {
    // What is coming first: were it renamed into its place meanwhile, the discard finds it there.
    let doing = || format!("removing the {} {}", place.shelf.one(), place.token);
    let done = sweep(folder, place)?
        && folder.0.discard(&place.path(), &place.going()).map_err(error::at(doing()))?;
    Ok(if done { Progress::Done } else { pending(b"", "removing files") })
}

fn sweep<F: Files>(folder: &Folder<F>, place: &Place) -> Result<bool, Error> {
    folder.0.remove_tree(&place.coming()).map_err(error::at("removing what an earlier attempt left"))
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
            Some(_) => sweep(folder, place),
            None => Err(error::in_the_way(place)),
        },
        Err(error) => Err(error::at("putting it into its place")(error)),
    }
}

/// Makes anything else step by step; false while a copy is under way.
fn build<F: Files>(folder: &Folder<F>, new: &New<'_>, copying: bool) -> Result<bool, Error> {
    let (files, place, meta) = (&folder.0, new.place, new.meta);
    let coming = place.coming();
    let content = format!("{coming}/{}", meta.kind.content());
    files.make_directory(&coming).map_err(error::at("making a directory"))?;

    let copied = match new.source {
        None => Ok(true),
        Some(source) => {
            let from = source.place.content(source.meta.kind);
            match meta.kind {
                Kind::Image => files.clone_file(&from, &content, true),
                Kind::Directory => files.copy_tree(&from, &content),
            }
        }
    };
    match copied {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        // A copy that was whole when the call was cut off.
        Err(error) if copying && error.kind == ErrorKind::AlreadyExists => {}
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
