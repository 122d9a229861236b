//! Finding what a caller means. A name is looked up; a handle is too, and where no record knows it, its backend is
//! asked and what it has gets records. So a caller that keeps handles is served by a daemon that has lost its
//! records, or that never had them: another replica, another node.
//!
//! Only what carries this cluster's mark is taken up. Its records say what the mark says and what the backend
//! says now; nothing is known of its holders, which is why a house that keeps records for good rebuilds them by
//! `kato recover`, and only asks here for what is missing.

use std::sync::Arc;

use crate::{
    Mark, SnapshotMark,
    error::{Error, Kind},
    hall::Role,
    house::House,
    journal::{Journal, contended},
    model::{
        BackendName, CapacityRange, ClusterId, FsState, Handle, Keeping, SnapshotId, SnapshotName,
        SnapshotRef, Token, Volume, VolumeId, VolumeName, VolumeRef, VolumeState, Wanted,
    },
    ops::{Loan, mount::unknown},
    ports::{
        backend::{Made, Shot},
        store::Durability,
    },
    records::keys,
    recover::Sources,
    steps::backend::which,
};

impl House {
    /// The volume that is meant, if the records know it.
    pub(crate) async fn known_volume(&self, which: &VolumeRef) -> Result<Option<VolumeId>, Error> {
        self.known_in(&self.journal, which).await
    }

    /// The same, if these records know it.
    pub(crate) async fn known_in(
        &self,
        journal: &Journal,
        which: &VolumeRef,
    ) -> Result<Option<VolumeId>, Error> {
        match which {
            VolumeRef::Name(name) => journal.volume_id(name).await,
            VolumeRef::Handle(backend, handle) => journal.volume_of_handle(backend, handle).await,
        }
    }

    /// The volume that is meant, taken up from its backend where no record knows it; nothing where there is none.
    pub(crate) async fn find_volume(self: &Arc<Self>, which: &VolumeRef) -> Result<Option<VolumeId>, Error> {
        for _ in 0..8 {
            if let Some(id) = self.known_volume(which).await? {
                return Ok(Some(id));
            }
            let VolumeRef::Handle(backend, handle) = which else { return Ok(None) };
            match self.take_up_volume(backend, handle).await {
                Err(error) if error.kind == Kind::Busy && error.is_final() => {}
                found => return found,
            }
        }
        Err(contended())
    }

    /// The same, where there has to be one.
    pub(crate) async fn require_volume(self: &Arc<Self>, which: &VolumeRef) -> Result<VolumeId, Error> {
        self.find_volume(which).await?.ok_or_else(|| unknown(which))
    }

    /// Learns from the mark at the backend that there is something on a volume by now. Where nodes keep records of their
    /// own, nobody else tells this house.
    pub(crate) async fn learn_filesystem(self: &Arc<Self>, id: VolumeId) -> Result<(), Error> {
        if self.config.role != Role::Controller {
            return Ok(());
        }
        let volume = self.journal.family(id).await?.value.volume;
        let Some(volume) =
            volume.filter(|one| one.filesystem.state != FsState::Formatted && one.handle.is_some())
        else {
            return Ok(());
        };
        let backend = self.backend(&volume.backend).await?;
        let found = backend.inspect(vec![which(self, &volume)]).await?.into_iter().next().flatten();
        if found.and_then(|made| Mark::decode(&made.mark).ok()).is_none_or(|mark| !mark.formatted) {
            return Ok(());
        }
        self.journal
            .edit_family(id, Durability::Lazy, |family, _| {
                if let Some(volume) = family.volume.as_mut() {
                    volume.filesystem.state = FsState::Formatted;
                }
                Ok(())
            })
            .await
            .map(drop)
    }

    async fn take_up_volume(
        self: &Arc<Self>,
        name: &BackendName,
        handle: &Handle,
    ) -> Result<Option<VolumeId>, Error> {
        let backend = self.backend(name).await?;
        let Some(made) = backend.find(vec![handle.clone()]).await?.into_iter().next().flatten() else {
            return Ok(None);
        };
        self.record_found(name, &made).await.map(Some)
    }

    /// Makes records of a volume that a backend has and no record knows.
    pub(crate) async fn record_found(
        self: &Arc<Self>,
        backend: &BackendName,
        made: &Made,
    ) -> Result<VolumeId, Error> {
        let subject = || format!("volume {backend}/{}", made.handle);
        let mark = Mark::decode(&made.mark).map_err(|_| strange().about(subject()))?;
        ours(mark.cluster, self.cluster).map_err(|error| error.about(subject()))?;
        let token = made.token.clone().ok_or_else(|| untold().about(subject()))?;
        if self.is_told(mark.id, &token, &made.handle).await? {
            return Ok(mark.id);
        }
        let name = match mark.name.clone() {
            Some(name) if self.journal.volume_id(&name).await?.is_none() => name,
            _ => VolumeName::parse(token.as_str())?,
        };
        let catalog = self.catalog();
        let mut volume =
            Sources { house: self, catalog: &catalog, backend }.volume(&mark, made, name.clone(), None);
        if self.journal.family(volume.id).await?.value.volume.is_some() {
            volume.id = VolumeId(self.ports.ids.next());
        }
        volume.keeping = if self.config.role.borrows() { Keeping::Borrowed } else { Keeping::Owned };
        volume.made_as = (volume.token(self.cluster) != token).then_some(token);
        let id = volume.id;
        self.journal
            .edit_family(id, Durability::Lazy, |family, change| {
                let name = keys::volume_name(&name);
                change.guard_absent(name.clone());
                change.guard_absent(keys::volume_handle(backend, &made.handle));
                change.put(name, &id);
                family.volume = Some(volume.clone());
                Ok(())
            })
            .await?;
        tracing::info!(volume.id = %id, volume.name = %name, backend = %backend, "took a volume up that no record knew");
        Ok(id)
    }

    /// Tells the record of a volume what its backend calls it, where there is one that has not heard: that was recorded
    /// lazily, and the process died first. Answers whether there is.
    async fn is_told(&self, id: VolumeId, token: &Token, handle: &Handle) -> Result<bool, Error> {
        self.journal
            .edit_family(id, Durability::Lazy, |family, _| {
                let Some(volume) = family.volume.as_mut() else { return Ok(false) };
                if volume.handle.is_some() || volume.token(self.cluster) != *token {
                    return Ok(false);
                }
                volume.handle = Some(handle.clone());
                Ok(true)
            })
            .await
            .map(|(_, told)| told)
    }

    /// The volume of which another house tells, with a record of our own as long as this node has it.
    pub(crate) async fn borrow(self: &Arc<Self>, which: &VolumeRef, loan: &Loan) -> Result<VolumeId, Error> {
        let VolumeRef::Handle(backend, handle) = which else {
            return Err(Error::invalid("a volume that another house looks after is named by its handle"));
        };
        for _ in 0..8 {
            if let Some(id) = self.known_volume(which).await? {
                return Ok(id);
            }
            let taken = self.journal.volume_id(&loan.name).await?.is_some();
            let name = if taken { VolumeName::parse(loan.token.as_str())? } else { loan.name.clone() };
            let id = VolumeId(self.ports.ids.next());
            let mut volume = Volume {
                id,
                name: name.clone(),
                class: loan.class.clone(),
                backend: backend.clone(),
                generation: 0,
                made_as: None,
                wanted: Wanted { size: CapacityRange::at_least(loan.size), ..Wanted::default() },
                actual: Some(loan.size),
                actual_parameters: Default::default(),
                source: None,
                filling: None,
                found: true,
                held_still: None,
                handle: Some(handle.clone()),
                connection: None,
                topology: Default::default(),
                state: VolumeState::Ready,
                filesystem: loan.filesystem.clone(),
                dependants: Default::default(),
                keeping: Keeping::Borrowed,
                labels: Default::default(),
                created: self.now(),
                intent: None,
            };
            volume.made_as = (volume.token(self.cluster) != loan.token).then(|| loan.token.clone());
            let recorded = self
                .journal
                .edit_family(id, Durability::Lazy, |family, change| {
                    let name = keys::volume_name(&name);
                    change.guard_absent(name.clone());
                    change.guard_absent(keys::volume_handle(backend, handle));
                    change.put(name, &id);
                    family.volume = Some(volume.clone());
                    Ok(())
                })
                .await;
            match recorded {
                Err(error) if error.kind == Kind::Busy => {}
                other => return other.map(|_| id),
            }
        }
        Err(contended())
    }

    /// The snapshot that is meant, if the records know it.
    pub(crate) async fn known_snapshot(&self, which: &SnapshotRef) -> Result<Option<SnapshotId>, Error> {
        match which {
            SnapshotRef::Name(name) => self.journal.snapshot_id(name).await,
            SnapshotRef::Handle(backend, handle) => self.journal.snapshot_of_handle(backend, handle).await,
        }
    }

    /// The snapshot that is meant, taken up from its backend where no record knows it; nothing where there is none.
    pub(crate) async fn find_snapshot(
        self: &Arc<Self>,
        which: &SnapshotRef,
    ) -> Result<Option<SnapshotId>, Error> {
        for _ in 0..8 {
            if let Some(id) = self.known_snapshot(which).await? {
                return Ok(Some(id));
            }
            let SnapshotRef::Handle(name, handle) = which else { return Ok(None) };
            let backend = self.backend(name).await?;
            let Some(ability) = backend.snapshots() else { return Ok(None) };
            let found = ability.find_snapshots(vec![handle.clone()]).await?;
            let Some(shot) = found.into_iter().next().flatten() else { return Ok(None) };
            match self.record_shot(name, &shot).await {
                Err(error) if error.kind == Kind::Busy && error.is_final() => {}
                found => return found.map(Some),
            }
        }
        Err(contended())
    }

    /// Makes a record of a snapshot that a backend has and no record knows.
    pub(crate) async fn record_shot(
        self: &Arc<Self>,
        backend: &BackendName,
        shot: &Shot,
    ) -> Result<SnapshotId, Error> {
        let subject = || format!("snapshot {backend}/{}", shot.handle);
        let mark = SnapshotMark::decode(&shot.mark).map_err(|_| strange().about(subject()))?;
        ours(mark.cluster, self.cluster).map_err(|error| error.about(subject()))?;
        let token = shot.token.clone().ok_or_else(|| untold().about(subject()))?;
        if self.is_shot_told(mark.id, &token, &shot.handle).await? {
            return Ok(mark.id);
        }
        let name = match mark.name.clone() {
            Some(name) if self.journal.snapshot_id(&name).await?.is_none() => name,
            _ => SnapshotName::parse(token.as_str())?,
        };
        let of = self.journal.family(mark.volume).await?.value.volume.map(|volume| volume.name);
        let catalog = self.catalog();
        let sources = Sources { house: self, catalog: &catalog, backend };
        let mut snapshot = sources.snapshot(&mark, shot, name.clone(), None, of)?;
        if self.journal.snapshot(snapshot.id).await?.value.is_some() {
            snapshot.id = SnapshotId(self.ports.ids.next());
        }
        if snapshot.token(self.cluster) != token {
            snapshot.made_as = Some(token);
        }
        let id = snapshot.id;
        self.journal
            .edit_snapshot(id, Durability::Lazy, |record, change| {
                let name = keys::snapshot_name(&name);
                change.guard_absent(name.clone());
                change.guard_absent(keys::snapshot_handle(backend, &shot.handle));
                change.put(name, &id);
                *record = Some(snapshot.clone());
                Ok(())
            })
            .await?;
        tracing::info!(snapshot.id = %id, snapshot.name = %name, backend = %backend, "took a snapshot up that no record knew");
        Ok(id)
    }

    /// Tells the record of a snapshot what its backend calls it, as [`House::is_told`] does for volumes.
    async fn is_shot_told(&self, id: SnapshotId, token: &Token, handle: &Handle) -> Result<bool, Error> {
        self.journal
            .edit_snapshot(id, Durability::Lazy, |record, _| {
                let Some(snapshot) = record else { return Ok(false) };
                if snapshot.handle.is_some() || snapshot.token(self.cluster) != *token {
                    return Ok(false);
                }
                snapshot.handle = Some(handle.clone());
                Ok(true)
            })
            .await
            .map(|(_, told)| told)
    }

    /// Gives a volume that was taken up nameless its name back, now that a caller says it: its token is the name's.
    pub(crate) async fn recognise_volume(&self, name: &VolumeName) -> Result<bool, Error> {
        for generation in 0..GENERATIONS {
            let token = Token::derive(self.cluster, "volume", name.as_str(), generation);
            let Some(id) = self.journal.volume_id(&VolumeName::parse(token.as_str())?).await? else {
                continue;
            };
            let (_, known) = self
                .journal
                .edit_family(id, Durability::Lazy, |family, change| {
                    let Some(volume) =
                        family.volume.as_mut().filter(|one| one.made_as.as_ref() == Some(&token))
                    else {
                        return Ok(false);
                    };
                    let (before, after) = (keys::volume_name(&volume.name), keys::volume_name(name));
                    volume.name = name.clone();
                    volume.generation = generation;
                    volume.made_as = None;
                    change.guard_absent(after.clone());
                    change.delete(before);
                    change.put(after, &id);
                    Ok(true)
                })
                .await?;
            if known {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The same for a snapshot.
    pub(crate) async fn recognise_snapshot(&self, name: &SnapshotName) -> Result<bool, Error> {
        for generation in 0..GENERATIONS {
            let token = Token::derive(self.cluster, "snapshot", name.as_str(), generation);
            let Some(id) = self.journal.snapshot_id(&SnapshotName::parse(token.as_str())?).await? else {
                continue;
            };
            let (_, known) = self
                .journal
                .edit_snapshot(id, Durability::Lazy, |record, change| {
                    let Some(snapshot) = record.as_mut().filter(|one| one.made_as.as_ref() == Some(&token))
                    else {
                        return Ok(false);
                    };
                    let (before, after) = (keys::snapshot_name(&snapshot.name), keys::snapshot_name(name));
                    snapshot.name = name.clone();
                    snapshot.generation = generation;
                    snapshot.made_as = None;
                    change.guard_absent(after.clone());
                    change.delete(before);
                    change.put(after, &id);
                    Ok(true)
                })
                .await?;
            if known {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// So many attempts at a name are looked for: more than one is rare.
const GENERATIONS: u32 = 3;

fn ours(marked: ClusterId, cluster: ClusterId) -> Result<(), Error> {
    if marked == cluster {
        return Ok(());
    }
    Err(Error::permission_denied(format!(
        "it carries the mark of another cluster ({marked}; this is {cluster}), and nothing of another cluster's is touched"
    )))
}

fn strange() -> Error {
    Error::permission_denied(
        "it carries no mark of Káto's, so it was made by somebody else, and nothing of somebody else's is touched",
    )
}

fn untold() -> Error {
    Error::internal(
        "its plugin does not tell under which token it was made, so it cannot be named to the backend",
    )
}
