//! Reading what a snapshot holds, page by page, by whoever writes it into a file. A read: nothing is recorded. What a page
//! makes this node connect stays so for the next one, and goes when nobody has asked for a while (`tidy`), or with the
//! next start.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tracing::warn;

use crate::{
    error::Error,
    house::House,
    model::{Bytes, Snapshot, SnapshotId, SnapshotState, Timestamp, VolumeId},
    ops::{ReadSnapshot, SnapshotPiece},
    ports::{
        backend::Which,
        blocks::{Place, Reach},
        extents::Extent,
        host::Stray,
    },
};

/// How much one page holds, about.
const PAGE: u64 = 8 << 20;

/// What pieces begin at: the largest block of any backend's.
const GRAIN: u64 = 512 << 10;

/// How long a snapshot stays connected that nobody reads.
const KEPT: Duration = Duration::from_secs(30);

impl House {
    pub(crate) async fn read_snapshot(self: &Arc<Self>, wish: &ReadSnapshot) -> Result<SnapshotPiece, Error> {
        let about = |error: Error| error.about(format!("snapshot {}", wish.snapshot));
        let snapshot = self.inspect_snapshot(&wish.snapshot).await?;
        if snapshot.state != SnapshotState::Ready {
            return Err(about(Error::precondition("it is not ready: ask again when it is")));
        }
        if wish.from > snapshot.size {
            return Err(about(Error::out_of_range(format!("it is only {} large", snapshot.size))));
        }
        self.piece(snapshot, wish.from).await.map_err(about)
    }

    async fn piece(self: &Arc<Self>, snapshot: Snapshot, from: Bytes) -> Result<SnapshotPiece, Error> {
        let backend = self.backend(&snapshot.backend).await?;
        let (Some(told), Some(data)) = (backend.extents(), backend.snapshot_data()) else {
            return Err(Error::unsupported(format!(
                "the backend {} does not give out its snapshots' bytes",
                snapshot.backend
            )));
        };
        let which = Which { token: snapshot.token(self.cluster), handle: snapshot.handle.clone() };
        let page = told.allocated(which.clone(), snapshot.size, from).await?;
        let end = page.next.map_or(snapshot.size, |next| Bytes((next.0 / GRAIN * GRAIN).max(from.0)));
        let (extents, next) = part(&page.extents, from.0, end.0, snapshot.size.0);
        // A page of which nothing could be told yet leads on all the same.
        let next =
            if next <= from.0 && extents.is_empty() { page.next.map_or(next, |next| next.0) } else { next };
        let blocks = match data.reach(which.clone()).await? {
            _ if extents.is_empty() => Vec::new(),
            Reach::Calls(_) => data.read(which, extents).await?,
            Reach::Node(connection) => {
                let place = Place { id: VolumeId(snapshot.id.0), connection, read_only: true };
                self.note_reading(snapshot.id, &place);
                self.ports.host.connect(place.id, &place.connection, true).await?;
                let offsets: Vec<Bytes> = extents.iter().map(|extent| extent.offset).collect();
                offsets.into_iter().zip(self.ports.host.read_blocks(&place, extents).await?).collect()
            }
        };
        let next = (next < snapshot.size.0).then_some(Bytes(next));
        Ok(SnapshotPiece { snapshot, blocks, next })
    }

    fn note_reading(&self, id: SnapshotId, place: &Place) {
        let now = self.now();
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (now, place.clone()));
    }

    /// Disconnects a snapshot that is to go, whoever reads it.
    pub(crate) async fn end_reading(&self, id: SnapshotId) -> Result<(), Error> {
        let read = self.readings.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        match read {
            Some((_, place)) => self.ports.host.disconnect(place.id, &place.connection).await,
            None => Ok(()),
        }
    }

    /// Disconnects snapshots that nobody has read for a while.
    pub(crate) async fn end_readings(&self, now: Timestamp) {
        let over: Vec<(SnapshotId, Place)> = {
            let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
            let over = readings.extract_if(|_, (when, _)| now.since(*when) >= KEPT);
            over.map(|(id, (_, place))| (id, place)).collect()
        };
        for (id, place) in over {
            if let Err(error) = self.ports.host.disconnect(place.id, &place.connection).await {
                warn!(snapshot.id = %id, error = %error, "a snapshot that was read stays connected, and is tried again");
                let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
                readings.entry(id).or_insert((now, place));
            }
        }
    }

    /// Takes down what an earlier life of the daemon had connected to read a snapshot. Who copies one connects it again.
    pub(crate) async fn end_old_readings(
        &self,
        devices: &[(Option<VolumeId>, String, String)],
    ) -> Result<(), Error> {
        let mut known = BTreeSet::new();
        for (id, device, _) in devices {
            let Some(id) = id.filter(|id| known.insert(*id)) else { continue };
            let is_one = self.journal.family(id).await?.value.volume.is_none()
                && self.journal.snapshot(SnapshotId(id.0)).await?.value.is_some();
            if is_one
                && let Err(error) =
                    self.ports.host.remove_stray(Some(id), &Stray::Device(device.clone())).await
            {
                warn!(device, error = %error, "a snapshot that was read stays connected");
            }
        }
        Ok(())
    }
}

/// About a page of extents, in whole grains, none twice; and up to where that is all.
fn part(extents: &[Extent], from: u64, end: u64, size: u64) -> (Vec<Extent>, u64) {
    let (mut taken, mut room, mut reached) = (Vec::new(), PAGE, from);
    for extent in extents {
        let mut at = (extent.offset.0 / GRAIN * GRAIN).max(reached);
        let to = extent.offset.0.saturating_add(extent.length.0);
        let to = to.checked_next_multiple_of(GRAIN).unwrap_or(u64::MAX).min(end).min(size);
        while at < to {
            if room == 0 {
                return (taken, at);
            }
            let length = room.min(to - at);
            taken.push(Extent { offset: Bytes(at), length: Bytes(length) });
            (at, room) = (at.saturating_add(length), room.saturating_sub(length));
            reached = at;
        }
    }
    (taken, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(extents: &[(u64, u64)], from: u64, end: u64, size: u64) -> (Vec<(u64, u64)>, u64) {
        let extents: Vec<_> = extents
            .iter()
            .map(|(at, length)| Extent { offset: Bytes(*at), length: Bytes(*length) })
            .collect();
        let (taken, next) = part(&extents, from, end, size);
        (taken.iter().map(|one| (one.offset.0, one.length.0)).collect(), next)
    }

    #[test]
    fn pieces_are_whole_grains_and_none_is_told_twice() {
        let grain = GRAIN;
        assert_eq!(told(&[(5, 1), (9, 1)], 0, 4 * grain, 4 * grain), (vec![(0, grain)], 4 * grain));
        assert_eq!(told(&[(grain - 1, 2)], 0, 2 * grain, 2 * grain), (vec![(0, 2 * grain)], 2 * grain));
        assert_eq!(told(&[(3 * grain, 9)], 0, 4 * grain, 3 * grain + 9), (vec![(3 * grain, 9)], 4 * grain));
        let (taken, next) = told(&[(0, 3 * PAGE)], 0, 3 * PAGE, 3 * PAGE);
        assert_eq!((taken, next), (vec![(0, PAGE)], PAGE));
    }
}
