//! Copy: a volume's bytes at one moment, in a new volume of another class, on whatever backend that is. It is put
//! together of what there is: a snapshot of the source, and a volume that is made from it, which another backend fills
//! block by block (`steps/fill.rs`). The snapshot goes with the copying, unless both sides keep one: then the next copy
//! moves only what has changed since.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    drivers::{Sight, Subject},
    error::{Error, Outcome},
    house::{House, Verdict},
    model::{
        BackendName, Filling, Intent, Since, Snapshot, SnapshotId, SnapshotName, SnapshotRef, SnapshotState,
        Timestamp, VolumeName, VolumeRef, VolumeState,
    },
    ops::{Context, CopyVolume, CreateSnapshot, CreateVolume, SourceName, VolumeView, extents::is_kin},
    ports::{backend::Description, store::Durability},
    records::{self, keys},
};

/// What is written on a snapshot that was cut for one copy alone. It is deleted with the end of that.
pub(crate) const TEMPORARY: &str = "kato/temporary";

/// What is written on a snapshot that is kept on both sides: the name of the copy.
const KEPT: &str = "kato/kept-with";

/// What is written on a copy: the id of the volume that it is one of, so that whoever asks again is told of it.
const COPY: &str = "kato/copy-of";

/// What is written on a snapshot that has the same bytes as another one, elsewhere: that one's id.
pub(crate) const TWIN: &str = "kato/twin-of";

impl House {
    pub(crate) async fn copy(
        self: &Arc<Self>,
        ctx: &Context,
        wish: &CopyVolume,
    ) -> Result<Outcome<VolumeView>, Error> {
        let about = |error: Error| error.about(format!("volume {}", wish.name));
        let source = self.require_volume(&wish.source).await?;
        let source = self.journal.family(source).await?.value.volume;
        let source = source.ok_or_else(|| super::mount::unknown(&wish.source))?;
        let class = self.catalog().class(Some(&wish.class))?.clone();
        let mut create = CreateVolume {
            class: Some(wish.class.clone()),
            size: wish.size,
            parameters: wish.parameters.clone(),
            labels: wish.labels.clone(),
            exact: true,
            ..CreateVolume::named(wish.name.clone())
        };
        create.labels.insert(COPY.to_owned(), source.id.to_string());
        if let Some(id) = self.journal.volume_id(&wish.name).await?
            && let Some(volume) = self.journal.family(id).await?.value.volume
            && matches!(volume.state, VolumeState::Creating | VolumeState::Ready)
        {
            if volume.labels.get(COPY) != create.labels.get(COPY) || volume.class != wish.class {
                return Err(about(Error::already_exists(format!(
                    "it exists, of class {}, and is no copy of that volume: choose another name, or remove it",
                    volume.class
                ))));
            }
            self.ready_volume(ctx, &VolumeRef::Name(wish.name.clone())).await?;
            self.until_kept(ctx, wish).await.map_err(about)?;
            return self.inspect(&wish.name).await.map(Outcome::Unchanged);
        }
        if class.backend == source.backend {
            create.source = Some(SourceName::Volume(wish.source.clone()));
            return self.create(ctx, &create).await;
        }
        let about_snapshot = if wish.keep { "at" } else { "for" };
        let name = SnapshotName::parse(&format!("{}.{about_snapshot}.{}", source.name, wish.name));
        let name = name.map_err(|error| {
            about(Error::invalid(format!(
                "the snapshot that it is copied from would be called {}.{about_snapshot}.{}, which is no name \
                 ({}): choose a shorter name",
                source.name, wish.name, error.message
            )))
        })?;
        let what = if wish.keep { KEPT } else { TEMPORARY };
        let labels = BTreeMap::from([(what.to_owned(), wish.name.as_str().to_owned())]);
        let cut = CreateSnapshot {
            name: name.clone(),
            volume: wish.source.clone(),
            parameters: BTreeMap::new(),
            labels,
            until_ready: true,
        };
        let snapshot = self.create_snapshot(ctx, &cut).await?.into_inner();
        create.source = Some(SourceName::Snapshot(SnapshotRef::Name(name)));
        let made = match self.create(ctx, &create).await {
            Ok(made) => made,
            Err(error) => {
                if error.is_final() && !wish.keep {
                    self.drop_temporary(snapshot.id).await?;
                }
                return Err(error);
            }
        };
        self.until_kept(ctx, wish).await.map_err(about)?;
        Ok(made)
    }

    /// Waits until the copy is its source's twin for good, where it is to be one: nobody gets it before.
    async fn until_kept(self: &Arc<Self>, ctx: &Context, wish: &CopyVolume) -> Result<(), Error> {
        let Some(id) = self.journal.volume_id(&wish.name).await?.filter(|_| wish.keep) else { return Ok(()) };
        let watcher = self.drivers.watch(Subject::Volume(id));
        self.settle(ctx, watcher, &["let-go"], |progress, _| match &progress.sight {
            Sight::Volume(family) if family.volume.as_ref().is_none_or(|volume| volume.filling.is_none()) => {
                Verdict::Answer(Ok(()))
            }
            _ => Verdict::Wait,
        })
        .await
    }

    /// Has a snapshot deleted that was cut for a copy alone, if nothing is made from it.
    pub(crate) async fn drop_temporary(self: &Arc<Self>, id: SnapshotId) -> Result<(), Error> {
        let now = self.now();
        let (snapshot, ()) = self
            .journal
            .edit_snapshot(id, Durability::Durable, |snapshot, change| {
                change.frees_space();
                if let Some(snapshot) = snapshot {
                    end_temporary(snapshot, now);
                }
                Ok(())
            })
            .await?;
        if snapshot.is_some() {
            self.ring(Subject::Snapshot(id), false);
        }
        Ok(())
    }

    /// What is to be done for a volume that is made from a snapshot of another backend.
    pub(crate) async fn filling(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        target: &BackendName,
        description: &Description,
        name: &VolumeName,
    ) -> Result<Filling, Error> {
        let from = self.catalog().backend(&snapshot.backend)?.describe().abilities;
        if !from.snapshot_data || !from.extents {
            return Err(Error::unsupported(format!(
                "the backend {} does not give out its snapshots' bytes: name a class of that backend",
                snapshot.backend
            )));
        }
        let since = self.since(snapshot, target).await?;
        let by_seed = description.abilities.snapshot_writing;
        let temporary = snapshot.labels.contains_key(TEMPORARY);
        let keep = snapshot.labels.get(KEPT).is_some_and(|kept| kept == name.as_str());
        Ok(Filling { keep, ..Filling::wished(snapshot.size, since, by_seed, temporary) })
    }

    /// The latest snapshot of the same volume of which the target's backend has a twin.
    async fn since(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        target: &BackendName,
    ) -> Result<Option<Since>, Error> {
        let mut best: Option<(Option<Timestamp>, Since)> = None;
        let mut after = None;
        loop {
            let page = self.journal.page(keys::SNAPSHOTS, after.as_deref(), 1_000).await?;
            let full = page.len() == 1_000;
            after = page.last().map(|entry| entry.key.clone());
            for entry in &page {
                let twin: Snapshot = records::decode(entry)?;
                let of = twin.labels.get(TWIN).and_then(|id| SnapshotId::parse(id));
                let Some(of) = of.filter(|_| twin.backend == *target && twin.state == SnapshotState::Ready)
                else {
                    continue;
                };
                let Some(base) = self.journal.snapshot(of).await?.value else { continue };
                let usable = base.state == SnapshotState::Ready
                    && is_kin(&base, snapshot)
                    && base.size <= snapshot.size
                    && base.id != snapshot.id;
                if usable && best.as_ref().is_none_or(|(cut, _)| *cut < base.cut) {
                    best = Some((base.cut, Since { base: base.id, twin: twin.id }));
                }
            }
            if !full {
                return Ok(best.map(|(_, since)| since));
            }
        }
    }
}

/// Wishes for the end of a snapshot that was cut for a copy alone, if nothing is made from it.
pub(crate) fn end_temporary(snapshot: &mut Snapshot, now: Timestamp) {
    let unused = snapshot.state != SnapshotState::Deleting && snapshot.dependants.is_empty();
    if unused && snapshot.labels.contains_key(TEMPORARY) {
        snapshot.state = SnapshotState::Deleting;
        snapshot.intent = Some(Intent::new(now));
    }
}
