//! What the host's files answer, in the words of this backend. A missing file is not a missing volume: only
//! the code that knows what it looked for may say `not-found`, so everything else that comes from below
//! becomes one of the kinds that mean "not now" or "look here".

use kato_plugin_sdk::types::{Error, ErrorKind};

use crate::layout::{Place, Shelf};

/// An error of the host's files while we did this.
pub(crate) fn at(doing: impl std::fmt::Display) -> impl FnOnce(Error) -> Error {
    move |mut error| {
        error.kind = match error.kind {
            // Somebody else changed the same place meanwhile.
            ErrorKind::NotFound | ErrorKind::AlreadyExists => ErrorKind::Busy,
            ErrorKind::InvalidArgument | ErrorKind::OutOfRange | ErrorKind::Precondition => {
                ErrorKind::Internal
            }
            kind @ (ErrorKind::InUse
            | ErrorKind::Busy
            | ErrorKind::Exhausted
            | ErrorKind::PermissionDenied
            | ErrorKind::Unsupported
            | ErrorKind::Unavailable
            | ErrorKind::Throttled
            | ErrorKind::TokenBurnt
            | ErrorKind::Internal) => kind,
        };
        error.while_at(doing)
    }
}

/// The data folder is not the one we know, or not there.
pub(crate) fn no_marker() -> Error {
    Error::unavailable(format!(
        "the data folder carries no marker ({}): it is not mounted, or it is another folder; mount it, nothing is \
         changed meanwhile",
        crate::layout::MARKER
    ))
}

/// There are things and no marker.
pub(crate) fn marker_lost() -> Error {
    Error::unavailable(format!(
        "the data folder holds volumes or snapshots, but its marker {} is gone: put it back from a backup, or write \
         a new one by hand (`kato-local 1 <32 hex digits>`) and confirm with `kato backend rebind`",
        crate::layout::MARKER
    ))
}

/// The marker is not one of ours.
pub(crate) fn marker_broken() -> Error {
    Error::internal(format!(
        "the data folder's marker {} cannot be read: it has to be `kato-local 1 <32 hex digits>`",
        crate::layout::MARKER
    ))
}

pub(crate) fn not_found(place: &Place) -> Error {
    Error::not_found(format!("there is no {} with the token {}", place.shelf.one(), place.token))
}

pub(crate) fn other_wish(place: &Place, why: &str) -> Error {
    Error::already_exists(format!(
        "there is a {} with the token {} already, and it is another one: {why}",
        place.shelf.one(),
        place.token
    ))
}

/// Something that is none of ours lies where a thing has to be.
pub(crate) fn in_the_way(place: &Place) -> Error {
    Error::internal(format!(
        "something that is no {} lies at {}: move it away",
        place.shelf.one(),
        place.path()
    ))
}

/// The place is taken, and not by a thing: by somebody who is at work there, most likely.
pub(crate) fn occupied(place: &Place) -> Error {
    Error::busy(format!(
        "somebody else is at work on {}; should this go on, something that is no {} lies there: move it away",
        place.path(),
        place.shelf.one()
    ))
}

/// The bytes are gone, or not all there.
pub(crate) fn broken(place: &Place, what: &str) -> Error {
    Error::precondition(format!(
        "the {} {} is broken: {what}; restore it from a backup, or delete it",
        place.shelf.one(),
        place.path()
    ))
}

/// A page or question of the wrong size.
pub(crate) fn too_many(shelf: Shelf, asked: usize) -> Error {
    Error::invalid(format!("{asked} {} are asked for at once: 100 are allowed", shelf.path()))
}
