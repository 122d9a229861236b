//! Where snapshots hold data and where they differ: an ability of backends, apart from the others because it changes
//! nothing, is asked page by page, and is of use to nobody but whoever copies snapshots elsewhere.

use async_trait::async_trait;

use super::backend::Which;
use crate::{error::Error, model::Bytes};

/// A part of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub offset: Bytes,
    /// How long it is, never nothing.
    pub length: Bytes,
}

/// Some of a snapshot's extents, ascending and without overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentPage {
    /// What is on it; it may be nothing although there is more.
    pub extents: Vec<Extent>,
    /// Ask from here for the next, which is further on than what was asked; nothing at the end.
    pub next: Option<Bytes>,
}

/// Telling where data is. No call names anything before the offset that it asks from, nor beyond the snapshot's size.
#[async_trait]
pub trait Extents: Send + Sync {
    /// Where a snapshot of this size holds data, from an offset on. Everything else reads as zeroes.
    async fn allocated(&self, snapshot: Which, size: Bytes, from: Bytes) -> Result<ExtentPage, Error>;

    /// Where it differs from another snapshot of the same volume, from an offset on; perhaps more, never less.
    async fn changed(
        &self,
        base: Which,
        snapshot: Which,
        size: Bytes,
        from: Bytes,
    ) -> Result<ExtentPage, Error>;
}
