//! A house whose records are what it has heard of so far, and which may lose them at any moment, fills them again from what
//! its backends list: before it first says that it is ready, and before it lists, if that was a while ago. Other
//! daemons make and delete volumes meanwhile, so what a backend does not have any more goes, too.
//!
//! Nothing of this is for a house that keeps its records for good: there they are the truth, and only a person says
//! that they are to be made again.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tracing::warn;

use crate::{
    error::{Error, Kind},
    hall::Role,
    house::House,
    model::{BackendName, Handle, VolumeState},
    ports::{Backend, backend::Page, store::Durability},
    steps::backend::which,
};

/// For so long a list is believed.
const BELIEVED: Duration = Duration::from_secs(30);

/// How many records are looked at in one go.
const PAGE: usize = 500;

impl House {
    /// Fills the records, unless they were filled lately, or are kept for good.
    pub(crate) async fn refill(self: &Arc<Self>) -> Result<(), Error> {
        if self.config.role != Role::Controller {
            return Ok(());
        }
        let mut filled = self.filled.lock().await;
        let now = self.now();
        if filled.is_some_and(|when| now.since(when) < BELIEVED) {
            return Ok(());
        }
        let mut failed = None;
        for name in self.catalog().backends.keys() {
            if let Err(error) = self.refill_from(name).await {
                warn!(backend = %name, error = %error, "could not ask a backend what it has");
                failed.get_or_insert(error);
            }
        }
        // A list with holes would be taken for what there is.
        match failed {
            Some(error) => Err(error),
            None => {
                *filled = Some(now);
                Ok(())
            }
        }
    }

    async fn refill_from(self: &Arc<Self>, name: &BackendName) -> Result<(), Error> {
        let backend = self.backend(name).await?;
        let mut listed = BTreeSet::new();
        let mut page = None;
        loop {
            let Page { items, next } = backend.list(page).await?;
            for made in items {
                listed.insert(made.handle.clone());
                let id = match self.journal.volume_of_handle(name, &made.handle).await? {
                    Some(id) => Some(id),
                    None => forgive(self.record_found(name, &made).await)?,
                };
                if let (Some(id), Some(told)) = (id, &made.attached) {
                    self.agree(&self.journal.family(id).await?.value, told).await?;
                }
            }
            if next.is_none() {
                break;
            }
            page = next;
        }
        self.drop_what_is_gone(name, &backend, &listed).await?;
        let Some(ability) = backend.snapshots() else { return Ok(()) };
        let mut page = None;
        loop {
            let Page { items, next } = ability.list_snapshots(page).await?;
            for shot in items {
                if self.journal.snapshot_of_handle(name, &shot.handle).await?.is_none() {
                    forgive(self.record_shot(name, &shot).await)?;
                }
            }
            if next.is_none() {
                return Ok(());
            }
            page = next;
        }
    }

    /// Drops the records of volumes that somebody else has deleted. What was not listed is asked for once more: it may
    /// have been made since.
    async fn drop_what_is_gone(
        self: &Arc<Self>,
        name: &BackendName,
        backend: &Arc<dyn Backend>,
        listed: &BTreeSet<Handle>,
    ) -> Result<(), Error> {
        let mut after = None;
        loop {
            let (families, more) = self.journal.families(after.take(), PAGE).await?;
            after = families.last().map(|family| crate::records::keys::end_of_volume(family.id));
            let gone = families.into_iter().filter_map(|family| family.volume).filter(|volume| {
                volume.backend == *name
                    && volume.state == VolumeState::Ready
                    && volume.handle.as_ref().is_some_and(|handle| !listed.contains(handle))
            });
            for volume in gone {
                let found = backend.inspect(vec![which(self, &volume)]).await?;
                if found.into_iter().flatten().next().is_some() {
                    continue;
                }
                self.journal
                    .edit_family(volume.id, Durability::Lazy, |family, change| {
                        change.frees_space();
                        let wished = family.is_unfinished() || !family.attachments.is_empty();
                        if !wished && family.mounts.is_empty() && family.publications.is_empty() {
                            family.volume = None;
                        }
                        Ok(())
                    })
                    .await?;
            }
            if !more {
                return Ok(());
            }
        }
    }
}

/// What is not ours, or is recorded by somebody else at this moment, is passed over.
fn forgive<T>(recorded: Result<T, Error>) -> Result<Option<T>, Error> {
    match recorded {
        Ok(recorded) => Ok(Some(recorded)),
        Err(error) if matches!(error.kind, Kind::PermissionDenied | Kind::Busy) => Ok(None),
        Err(error) => Err(error),
    }
}
