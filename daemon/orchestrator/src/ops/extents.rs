//! Where a snapshot holds data, and where two of one volume differ: a read that asks the backend, a page at a time.
//! Whoever asks for the pages names the snapshots each time, so that a daemon that forgot everything in between goes on.

use std::sync::Arc;

use crate::{
    error::Error,
    house::House,
    model::{Snapshot, SnapshotRef, SnapshotState},
    ops::{ExtentsView, ListExtents},
    ports::backend::Which,
};

impl House {
    pub(crate) async fn extents(self: &Arc<Self>, wish: &ListExtents) -> Result<ExtentsView, Error> {
        let snapshot = self.readable(&wish.snapshot).await?;
        let base = match &wish.base {
            Some(base) => Some(self.readable(base).await?),
            None => None,
        };
        let about = |error: Error| error.about(format!("snapshot {}", wish.snapshot));
        if let Some(base) = base.as_ref().filter(|base| !is_kin(base, &snapshot)) {
            return Err(about(Error::invalid(format!(
                "it is one of the volume {}, and the base {} is one of {}: name two snapshots of one volume",
                snapshot.volume_name, base.name, base.volume_name
            ))));
        }
        let (size, from) = (snapshot.size, wish.from);
        if from > size {
            return Err(about(Error::out_of_range(format!(
                "it is {size} large, and {from} lies beyond its end"
            ))));
        }
        let backend = self.backend(&snapshot.backend).await?;
        let Some(ability) = backend.extents() else {
            return Err(about(Error::unsupported(format!(
                "the backend {} does not tell which blocks its snapshots have",
                snapshot.backend
            ))));
        };
        let named = |one: &Snapshot| Which { token: one.token(self.cluster), handle: one.handle.clone() };
        let page = match &base {
            None => ability.allocated(named(&snapshot), size, from).await,
            Some(base) => ability.changed(named(base), named(&snapshot), size, from).await,
        };
        page.map(|page| ExtentsView { size, page }).map_err(about)
    }

    /// A snapshot whose bytes are fixed and there.
    async fn readable(self: &Arc<Self>, which: &SnapshotRef) -> Result<Snapshot, Error> {
        let snapshot = self.inspect_snapshot(which).await?;
        let about = |error: Error| error.about(format!("snapshot {which}"));
        match snapshot.state {
            SnapshotState::Ready => Ok(snapshot),
            SnapshotState::Creating | SnapshotState::Cut => {
                Err(about(Error::precondition("it is not ready yet: ask again when it is")))
            }
            SnapshotState::Deleting => Err(about(Error::not_found("it is being deleted"))),
        }
    }
}

/// Whether two snapshots are of one volume. Records that were made anew may know that volume by another id.
pub(super) fn is_kin(one: &Snapshot, other: &Snapshot) -> bool {
    let handle = one.volume_handle.is_some() && one.volume_handle == other.volume_handle;
    one.backend == other.backend && (one.volume == other.volume || handle)
}
