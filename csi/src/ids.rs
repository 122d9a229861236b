//! What volumes and snapshots are called outside: `<backend>/<handle>`. The name of a backend has no slash, a handle may
//! have some. Nothing has to be looked up to understand such an id: a controller whose records are gone knows what is
//! meant, and so does another one.

use kato_orchestrator::{
    Error,
    model::{BackendName, Handle},
};

use crate::rules::TEXT_LIMIT;

/// A volume or a snapshot, as the outside calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ThingId {
    /// Where it lives.
    pub(crate) backend: BackendName,
    /// What it is called there.
    pub(crate) handle: Handle,
}

impl ThingId {
    /// What this id means. One that is none of ours is of nothing that we know: whether that is an error is for the call
    /// to say, because to delete what is unknown is to be done.
    pub(crate) fn from_wire(text: &str) -> Result<Self, Error> {
        let (backend, handle) = split(text)?;
        Ok(Self { backend, handle })
    }

    /// The id as text, if it is short enough to leave.
    pub(crate) fn to_wire(&self) -> Result<String, Error> {
        join(&self.backend, &self.handle)
    }
}

fn split(text: &str) -> Result<(BackendName, Handle), Error> {
    let (backend, handle) = text.split_once('/').ok_or_else(|| foreign(text))?;
    let backend = BackendName::parse(backend).map_err(|_| foreign(text))?;
    Ok((backend, Handle::parse(handle).map_err(|_| foreign(text))?))
}

fn join(backend: &BackendName, handle: &Handle) -> Result<String, Error> {
    if backend.as_str().contains('/') {
        return Err(Error::precondition(
            "a backend whose name has a slash cannot be reached by CSI: rename it",
        )
        .about(format!("backend {backend}")));
    }
    let text = format!("{backend}/{handle}");
    if text.len() > TEXT_LIMIT {
        return Err(Error::precondition(format!(
            "the id \"{text}\" has {} bytes, and CSI allows {TEXT_LIMIT}: give the backend a shorter name",
            text.len()
        ))
        .about(format!("backend {backend}")));
    }
    Ok(text)
}

fn foreign(text: &str) -> Error {
    Error::not_found("nothing of ours has such an id: ours are BACKEND/HANDLE").about(format!("id {text:?}"))
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::Kind;

    use super::*;

    fn id(backend: &str, handle: &str) -> ThingId {
        ThingId { backend: BackendName::parse(backend).unwrap(), handle: Handle::parse(handle).unwrap() }
    }

    #[test]
    fn an_id_is_read_as_it_was_written_whatever_the_handle() {
        for handle in ["vol-1", "a/b/c", "/", "//", "../..", "ü 🦀", "group/x", "a\tb", &"h".repeat(122)] {
            let written = id("local", handle);
            assert_eq!(ThingId::from_wire(&written.to_wire().unwrap()).unwrap(), written, "{handle}");
        }
    }

    #[test]
    fn what_is_not_ours_is_not_found() {
        let long = format!("{}/x", "b".repeat(64));
        for text in ["", "x", "/x", "x/", "a\0/x", "a/\u{7}", long.as_str()] {
            assert_eq!(ThingId::from_wire(text).unwrap_err().kind, Kind::NotFound, "{text:?}");
        }
    }

    #[test]
    fn no_id_that_is_too_long_or_ambiguous_leaves() {
        let long = id("local", &"h".repeat(123)).to_wire().unwrap_err();
        assert!(long.message.contains("129 bytes"), "{long}");
        assert!(id("a/b", "x").to_wire().is_err());
    }
}
