//! The indexes by which a thing is found by what its backend calls it. Every change of a record keeps them
//! (`journal.rs`); a store of an earlier release, or one that was loaded from its dump, has none and gets them here.

use crate::{
    error::Error,
    journal::{Change, Journal},
    model::{Snapshot, Volume},
    ports::store::Durability,
    records::{self, Marker, keys, keys::KeyKind},
};

/// How many records are read, and entries written, at once.
const PAGE: usize = 500;

/// Makes the indexes, unless they are there.
pub(crate) async fn fill(journal: &Journal) -> Result<(), Error> {
    if journal.record::<Marker>(keys::handles()).await?.value.is_some() {
        return Ok(());
    }
    for prefix in [keys::VOLUMES, keys::SNAPSHOTS] {
        let mut after = None;
        loop {
            let page = journal.page(prefix, after.as_deref(), PAGE).await?;
            let mut change = Change::default();
            for entry in &page {
                match KeyKind::of(&entry.key) {
                    KeyKind::Volume => {
                        let volume: Volume = records::decode(entry)?;
                        if let Some(handle) = &volume.handle {
                            change.put(keys::volume_handle(&volume.backend, handle), &volume.id);
                        }
                    }
                    KeyKind::Snapshot => {
                        let snapshot: Snapshot = records::decode(entry)?;
                        if let Some(handle) = &snapshot.handle {
                            change.put(keys::snapshot_handle(&snapshot.backend, handle), &snapshot.id);
                        }
                    }
                    _ => {}
                }
            }
            journal.commit(change, Durability::Lazy).await?;
            if page.len() < PAGE {
                break;
            }
            after = page.last().map(|entry| entry.key.clone());
        }
    }
    let mut change = Change::default();
    change.put(keys::handles(), &Marker::default());
    journal.commit(change, Durability::Durable).await
}
