//! What is under way, by what it is about. The specification wants a second, different call for the same thing to be
//! answered ABORTED at once instead of standing in line until its caller gives up. The very same call again, which
//! is what a sidecar does after its own deadline, joins: the hall lets both share one answer.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use kato_orchestrator::Error;
use sha2::{Digest, Sha256};

use crate::operation::Operation;

/// What a call is about. Two calls about the same thing exclude each other unless they are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// A volume, by its id.
    Volume(String),
    /// A volume to be made, by its name.
    VolumeName(String),
    /// A snapshot, by its id.
    Snapshot(String),
    /// A snapshot to be cut, by its name.
    SnapshotName(String),
    /// A group of snapshots, by its id.
    Group(String),
    /// A group of snapshots to be cut, by its name.
    GroupName(String),
    /// A volume and a node that is to reach it: several nodes may come and go at once.
    Attachment(String, String),
    /// A volume as it is mounted on this node.
    Staged(String),
    /// A place on this node.
    Target(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(id) => write!(f, "volume {id}"),
            Self::VolumeName(name) => write!(f, "volume {name}"),
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
            Self::SnapshotName(name) => write!(f, "snapshot {name}"),
            Self::Group(id) => write!(f, "group snapshot {id}"),
            Self::GroupName(name) => write!(f, "group snapshot {name}"),
            Self::Attachment(volume, node) => write!(f, "volume {volume} on node {node:?}"),
            Self::Staged(volume) => write!(f, "volume {volume}"),
            Self::Target(path) => write!(f, "target {path}"),
        }
    }
}

/// Whether two calls are the same: the operation, and a digest, because a request has secrets to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Likeness(Operation, [u8; 32]);

impl Likeness {
    /// Of a request in its encoded form.
    pub(crate) fn of(operation: Operation, encoded: &[u8]) -> Self {
        Self(operation, Sha256::digest(encoded).into())
    }
}

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Key, Flying>>);

#[derive(Debug)]
struct Flying {
    likeness: Likeness,
    calls: usize,
}

impl Flights {
    /// Takes off, beside equal calls only.
    pub(crate) fn begin(self: &Arc<Self>, key: Key, likeness: Likeness) -> Result<Flight, Error> {
        let mut flying = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = flying.entry(key.clone()).or_insert(Flying { likeness, calls: 0 });
        if found.likeness != likeness {
            let under_way = found.likeness.0;
            return Err(Error::busy(format!("{under_way} is at work on it: try again when that has ended"))
                .about(key.to_string()));
        }
        found.calls += 1;
        Ok(Flight { flights: Arc::clone(self), key })
    }
}

/// A call that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    flights: Arc<Flights>,
    key: Key,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut flying = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = flying.get_mut(&self.key) {
            found.calls -= 1;
            if found.calls == 0 {
                flying.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::Kind;

    use super::*;

    fn volume() -> Key {
        Key::Volume("local/a".into())
    }

    #[test]
    fn another_call_for_the_same_thing_is_turned_away_until_the_last_has_ended() {
        let flights = Arc::<Flights>::default();
        let first = flights.begin(volume(), Likeness::of(Operation::NodeStage, b"1")).unwrap();
        let joined = flights.begin(volume(), Likeness::of(Operation::NodeStage, b"1")).unwrap();
        for other in [Likeness::of(Operation::NodeStage, b"2"), Likeness::of(Operation::NodeUnstage, b"1")] {
            let refused = flights.begin(volume(), other).unwrap_err();
            assert_eq!(refused.kind, Kind::Busy);
            assert!(refused.to_string().contains("local/a") && refused.message.contains("node-stage"));
        }
        drop(first);
        assert!(flights.begin(volume(), Likeness::of(Operation::NodeUnstage, b"1")).is_err());
        drop(joined);
        assert!(flights.begin(volume(), Likeness::of(Operation::NodeUnstage, b"1")).is_ok());
        assert!(flights.0.lock().unwrap().is_empty(), "what has landed is forgotten");
    }

    #[test]
    fn an_id_and_a_name_that_look_alike_are_two_things() {
        let flights = Arc::<Flights>::default();
        let _by_id = flights.begin(volume(), Likeness::of(Operation::DeleteVolume, b"")).unwrap();
        let name = Key::VolumeName("local/a".into());
        assert!(flights.begin(name, Likeness::of(Operation::CreateVolume, b"")).is_ok());
    }
}
