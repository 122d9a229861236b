//! How a caller says which thing it means: by the name that it gave itself, or by what the backend calls it.
//! A cluster's scheduler keeps the second one, because it outlives our records.

use std::fmt;

use super::{BackendName, GroupId, GroupName, Handle, SnapshotName, VolumeName};

/// Which volume is meant.
pub type VolumeRef = Reference<VolumeName>;

/// Which snapshot is meant.
pub type SnapshotRef = Reference<SnapshotName>;

/// Which thing is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference<N> {
    /// The one of this name.
    Name(N),
    /// The one that this backend calls so, whether we have heard of it or not.
    Handle(BackendName, Handle),
}

/// A group of snapshots, by the caller's name for it or by ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRef {
    /// The one of this name.
    Name(GroupName),
    /// The one of this id, in the backend where it lives, whether we have heard of it or not.
    Id(BackendName, GroupId),
}

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Id(_, id) => id.fmt(f),
        }
    }
}

impl<N> From<N> for Reference<N> {
    fn from(name: N) -> Self {
        Self::Name(name)
    }
}

impl<N: fmt::Display> fmt::Display for Reference<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Handle(backend, handle) => write!(f, "{backend}/{handle}"),
        }
    }
}
