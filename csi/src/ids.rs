//! What volumes and snapshots are called outside: `<backend>/<handle>`, or `<backend>@<node>/<handle>` where they lie on
//! one node. The name of a backend has no slash, a handle may have some. Nothing has to be looked up to understand such an
//! id: a controller whose records are gone knows what is meant, and so does another one.
//!
//! The node is a part of the id because the daemon of another node would look into its own folder, find nothing, and
//! take what it was to delete for deleted.

use kato_orchestrator::{
    Error, Kind,
    model::{BackendName, GroupId, Handle, NodeId},
};

use crate::{door::Door, nodes, rules::TEXT_LIMIT};

/// How long handles are at most, of all backends that we know.
const HANDLE_ROOM: usize = 48;

/// A volume or a snapshot, as the outside calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ThingId {
    /// Where it lives.
    pub(crate) backend: BackendName,
    /// The node that it lies on, if it lies on one.
    pub(crate) node: Option<NodeId>,
    /// What it is called there.
    pub(crate) handle: Handle,
}

impl ThingId {
    /// What this id means. One that is none of ours is of nothing that we know: whether that is an error is for the call
    /// to say, because to delete what is unknown is to be done.
    pub(crate) fn from_wire(text: &str) -> Result<Self, Error> {
        let (place, handle) = text.split_once('/').ok_or_else(|| foreign(text))?;
        let (backend, node) = match place.split_once('@') {
            None => (place, None),
            Some((backend, node)) => {
                let node = nodes::decode(node).and_then(|node| NodeId::parse(&node).ok());
                (backend, Some(node.ok_or_else(|| foreign(text))?))
            }
        };
        let backend = BackendName::parse(backend).map_err(|_| foreign(text))?;
        Ok(Self { backend, node, handle: Handle::parse(handle).map_err(|_| foreign(text))? })
    }

    /// What a thing of this backend is called, with its node where it lies on one.
    pub(crate) fn of(door: &Door, backend: &BackendName, handle: Handle) -> Result<Self, Error> {
        let abilities = door.orchestrator.catalog().backend(backend)?.describe().abilities;
        let node = abilities.node_bound.then(|| door.orchestrator.node().clone());
        Ok(Self { backend: backend.clone(), node, handle })
    }

    /// Refuses a backend whose things would be called by more than an id can hold, before any is made.
    pub(crate) fn require_room(door: &Door, backend: &BackendName) -> Result<(), Error> {
        Self::of(door, backend, Handle::parse(&"h".repeat(HANDLE_ROOM))?)?.to_wire().map(drop)
    }

    /// The same for a group of snapshots.
    pub(crate) fn of_group(door: &Door, backend: &BackendName, group: GroupId) -> Result<Self, Error> {
        Self::of(door, backend, Handle::parse(&group.to_string())?)
    }

    /// The group of snapshots that this is called by.
    pub(crate) fn group(&self) -> Result<GroupId, Error> {
        GroupId::parse(self.handle.as_str()).ok_or_else(|| foreign(self.handle.as_str()))
    }

    /// Refuses what lies on another node than this one.
    pub(crate) fn require_here(&self, here: &NodeId) -> Result<(), Error> {
        match &self.node {
            Some(node) if node != here => Err(Error::precondition(format!(
                "it lies on node {node}, and this is the daemon of node {here}: ask that one"
            ))
            .about(format!("{}/{}", self.backend, self.handle))),
            _ => Ok(()),
        }
    }

    /// The id as text, if it is short enough to leave.
    pub(crate) fn to_wire(&self) -> Result<String, Error> {
        let Self { backend, node, handle } = self;
        let about = |error: Error| error.about(format!("backend {backend}"));
        if backend.as_str().contains(['/', '@']) {
            let reason = "a backend whose name has a slash or an @ cannot be reached by CSI: rename it";
            return Err(about(Error::precondition(reason)));
        }
        let text = match node {
            None => format!("{backend}/{handle}"),
            Some(node) => format!("{backend}@{}/{handle}", nodes::encode(node.as_str()).replace('/', "%2F")),
        };
        match text.len() <= TEXT_LIMIT {
            true => Ok(text),
            false => Err(about(Error::precondition(format!(
                "the id \"{text}\" has {} bytes, and CSI allows {TEXT_LIMIT}: give the backend, or the node, a shorter name",
                text.len()
            )))),
        }
    }
}

/// What is meant, or nothing where that is no name of ours.
pub(crate) fn named<T>(meant: Result<T, Error>) -> Result<Option<T>, Error> {
    match meant {
        Ok(thing) => Ok(Some(thing)),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn foreign(text: &str) -> Error {
    Error::not_found("nothing of ours has such an id: ours are BACKEND/HANDLE or BACKEND@NODE/HANDLE")
        .about(format!("id {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(backend: &str, handle: &str) -> ThingId {
        let (backend, handle) = (BackendName::parse(backend).unwrap(), Handle::parse(handle).unwrap());
        ThingId { backend, node: None, handle }
    }

    #[test]
    fn an_id_is_read_as_it_was_written_whatever_the_handle() {
        for handle in ["vol-1", "a/b/c", "/", "//", "../..", "ü 🦀", "group/x", "a\tb", &"h".repeat(122)] {
            let written = id("local", handle);
            assert_eq!(ThingId::from_wire(&written.to_wire().unwrap()).unwrap(), written, "{handle}");
        }
        for node in ["node-1", "a/b@c", "ü"] {
            let written = ThingId { node: Some(NodeId::parse(node).unwrap()), ..id("local", "img/x@y") };
            assert_eq!(ThingId::from_wire(&written.to_wire().unwrap()).unwrap(), written, "{node}");
            assert!(written.require_here(&NodeId::parse("other").unwrap()).is_err());
            assert!(written.require_here(&NodeId::parse(node).unwrap()).is_ok());
        }
    }

    #[test]
    fn what_is_not_ours_is_not_found() {
        let long = format!("{}/x", "b".repeat(64));
        for text in ["", "x", "/x", "x/", "a\0/x", "a/\u{7}", "a@/x", "a@%/x", "@n/x", long.as_str()] {
            assert_eq!(ThingId::from_wire(text).unwrap_err().kind, Kind::NotFound, "{text:?}");
        }
    }

    #[test]
    fn no_id_that_is_too_long_or_ambiguous_leaves() {
        let long = id("local", &"h".repeat(123)).to_wire().unwrap_err();
        assert!(long.message.contains("129 bytes"), "{long}");
        assert!(id("a/b", "x").to_wire().is_err() && id("a@b", "x").to_wire().is_err());
    }
}
