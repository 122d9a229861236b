//! Hears what other daemons write to records that are shared, and rings the drivers that it concerns: those of volumes
//! that this node has, or is to have; those that this node is asked to lead; and those that somebody here waits for.
//! What a daemon wrote itself is no news to it.

use std::sync::Arc;

use tracing::warn;

use crate::{
    drivers::Subject,
    error::{Error, Kind},
    house::House,
    model::{GroupId, SnapshotId, VolumeId},
    ports::store::{Entry, Key},
    records::{self, Marker, keys, keys::KeyKind},
};

/// Hears until the house stops.
pub(crate) async fn follow(house: Arc<House>) {
    let mut from = None;
    while !house.stopping.is_cancelled() {
        let heard = tokio::select! {
            heard = house.ports.store.watch_from("", from.unwrap_or_default()) => heard,
            () = house.stopping.cancelled() => return,
        };
        let done = match (heard, from) {
            (Ok(changes), Some(_)) => {
                from = Some(changes.next);
                remember(&house, &changes.events).await;
                changes.events.iter().try_for_each(|(key, entry)| hear(&house, key, entry.as_ref()))
            }
            (Ok(changes), None) => {
                from = Some(changes.next);
                renew(&house).await;
                house.ring_everything().await
            }
            (Err(error), _) if error.kind == Kind::OutOfRange => {
                from = None;
                Ok(())
            }
            (Err(error), _) => Err(error),
        };
        if let Err(error) = done {
            warn!(error = %error, "could not follow what others write, trying again");
            // What was missed is read anew.
            from = None;
            let pause = house.now().plus(House::pause(1));
            tokio::select! {
                () = house.ports.clock.sleep_until(pause) => {}
                () = house.stopping.cancelled() => {}
            }
        }
    }
}

/// Has this node remember everything as it is now. Its memory may fail it: then it is worse off when the records are away.
async fn renew(house: &House) {
    let Some(replica) = &house.replica else { return };
    if let Err(error) = replica.renew(&*house.ports.store).await {
        warn!(error = %error, "could not copy the records to this node's disk");
    }
}

/// Has it remember what happened.
async fn remember(house: &House, events: &[(Key, Option<Entry>)]) {
    let Some(replica) = &house.replica else { return };
    if let Err(error) = replica.follow(events, &*house.ports.store).await {
        warn!(error = %error, "could not copy a change of the records to this node's disk");
    }
}

/// Rings whom a change concerns.
fn hear(house: &Arc<House>, key: &str, entry: Option<&Entry>) -> Result<(), Error> {
    if entry.is_some_and(|entry| house.journal.is_own(entry.revision)) {
        return Ok(());
    }
    let mut words = key.split('/').skip(1);
    let (kind, id) = (KeyKind::of(key), words.next().unwrap_or_default());
    let subject = match kind {
        KeyKind::Volume
        | KeyKind::Attachment
        | KeyKind::Mount
        | KeyKind::LostMount
        | KeyKind::Publication => VolumeId::parse(id).map(Subject::Volume),
        KeyKind::WorkVolume => words.next().and_then(VolumeId::parse).map(Subject::Volume),
        KeyKind::Snapshot => SnapshotId::parse(id).map(Subject::Snapshot),
        KeyKind::WorkSnapshot => words.next().and_then(SnapshotId::parse).map(Subject::Snapshot),
        KeyKind::Group => GroupId::parse(id).map(Subject::Group),
        KeyKind::VolumeName
        | KeyKind::SnapshotName
        | KeyKind::GroupName
        | KeyKind::Place
        | KeyKind::Tombstone
        | KeyKind::Backend
        | KeyKind::Node
        | KeyKind::Cluster
        | KeyKind::NodeMount
        | KeyKind::VolumeHandle
        | KeyKind::SnapshotHandle
        | KeyKind::Handles
        | KeyKind::Unknown => None,
    };
    let Some(subject) = subject else { return Ok(()) };
    let concerns =
        house.drivers.is_known(subject) || of_node(key, kind) == Some(keys::segment(house.node().as_str()));
    let asked = match (kind, entry) {
        (KeyKind::WorkVolume | KeyKind::WorkSnapshot, Some(entry)) => {
            records::decode::<Marker>(entry)?.by.is_some_and(|by| by == *house.node())
        }
        _ => false,
    };
    if concerns || asked {
        house.ring(subject, false);
    }
    Ok(())
}

/// The node that a record is about, as it stands in the key.
fn of_node(key: &str, kind: KeyKind) -> Option<String> {
    match kind {
        KeyKind::Attachment | KeyKind::Mount | KeyKind::LostMount | KeyKind::Publication => {
            key.split('/').nth(3).map(str::to_owned)
        }
        _ => None,
    }
}

impl House {
    /// Rings everything that is unfinished and that this node has to do with.
    pub(crate) async fn ring_everything(self: &Arc<Self>) -> Result<(), Error> {
        self.ring_mounts().await?;
        self.ring_work().await?;
        self.drivers.all().into_iter().for_each(|subject| self.ring(subject, false));
        Ok(())
    }

    /// Rings the volumes that this node has, or has lost.
    pub(crate) async fn ring_mounts(self: &Arc<Self>) -> Result<(), Error> {
        for id in crate::reconcile::mounts_here(self).await? {
            self.ring(Subject::Volume(id), false);
        }
        Ok(())
    }

    /// Rings what is unfinished and led by this node, or by none that is there.
    pub(crate) async fn ring_work(self: &Arc<Self>) -> Result<(), Error> {
        for (segment, mark) in self.journal.marks(keys::WORK_VOLUMES).await? {
            if let Some(id) = VolumeId::parse(&segment).filter(|_| !self.is_lead_by_another(&mark)) {
                self.ring(Subject::Volume(id), false);
            }
        }
        for (segment, mark) in self.journal.marks(keys::WORK_SNAPSHOTS).await? {
            if let Some(id) = SnapshotId::parse(&segment).filter(|_| !self.is_lead_by_another(&mark)) {
                self.ring(Subject::Snapshot(id), false);
            }
        }
        for segment in self.journal.segments(keys::GROUPS).await? {
            if let Some(id) = GroupId::parse(&segment) {
                self.ring(Subject::Group(id), false);
            }
        }
        Ok(())
    }

    fn is_lead_by_another(&self, mark: &Marker) -> bool {
        mark.by.as_ref().is_some_and(|by| self.is_anothers(by))
    }
}
