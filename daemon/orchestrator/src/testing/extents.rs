//! Where the snapshots of the backend in memory hold data: every byte for itself, in pages of two extents, so that
//! whoever asks has to go on asking.

use async_trait::async_trait;

use super::backend::{FakeBackend, absent};
use crate::{
    error::Error,
    model::Bytes,
    ports::{
        backend::Which,
        extents::{Extent, ExtentPage, Extents},
    },
};

/// How many extents a page has.
const PAGE: usize = 2;

#[async_trait]
impl Extents for FakeBackend {
    async fn allocated(&self, snapshot: Which, size: Bytes, from: Bytes) -> Result<ExtentPage, Error> {
        self.differing(None, &snapshot, size, from).await
    }

    async fn changed(
        &self,
        base: Which,
        snapshot: Which,
        size: Bytes,
        from: Bytes,
    ) -> Result<ExtentPage, Error> {
        self.differing(Some(&base), &snapshot, size, from).await
    }
}

impl FakeBackend {
    async fn differing(
        &self,
        base: Option<&Which>,
        snapshot: &Which,
        size: Bytes,
        from: Bytes,
    ) -> Result<ExtentPage, Error> {
        self.fuse.pass().await;
        let world = self.world();
        let bytes =
            |which: &Which| world.snapshots.get(&which.token).map(|(_, bytes)| bytes).ok_or_else(absent);
        let (old, new) = (base.map(bytes).transpose()?, bytes(snapshot)?);
        let byte = |bytes: &[u8], at: u64| {
            usize::try_from(at).ok().and_then(|at| bytes.get(at).copied()).unwrap_or(0)
        };
        let length = old.map_or(0, Vec::len).max(new.len()) as u64;
        let mut page = ExtentPage::default();
        for at in from.0..length.min(size.0) {
            if byte(old.map_or(&[], Vec::as_slice), at) == byte(new, at) {
                continue;
            }
            let full = page.extents.len() == PAGE;
            match page.extents.last_mut() {
                Some(last) if last.offset.0 + last.length.0 == at => last.length.0 += 1,
                _ if full => {
                    page.next = Some(Bytes(at));
                    break;
                }
                _ => page.extents.push(Extent { offset: Bytes(at), length: Bytes(1) }),
            }
        }
        Ok(page)
    }
}
