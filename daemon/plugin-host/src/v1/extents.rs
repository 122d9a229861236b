//! Where snapshots hold data and differ, as a component tells it, page by page.

use async_trait::async_trait;
use kato_orchestrator::{
    Error,
    model::Bytes,
    ports::{
        backend::Which,
        extents::{ExtentPage, Extents},
    },
};

use super::{Plugin, abi::kato::storage::types, call::Entered, convert, extra::ability, verify};

#[async_trait]
impl Extents for Plugin {
    async fn allocated(&self, snapshot: Which, size: Bytes, from: Bytes) -> Result<ExtentPage, Error> {
        let wire = convert::which_to_wire(&snapshot);
        let answer = self.read("extents.allocated", move |it: Entered<'_>| {
            Box::pin(async move {
                ability!(it.extents).call_allocated(it.store, it.configuration, &wire, from.0).await
            })
        });
        self.page("extents.allocated", answer.await?, size, from)
    }

    async fn changed(
        &self,
        base: Which,
        snapshot: Which,
        size: Bytes,
        from: Bytes,
    ) -> Result<ExtentPage, Error> {
        let (base, wire) = (convert::which_to_wire(&base), convert::which_to_wire(&snapshot));
        let answer = self.read("extents.changed", move |it: Entered<'_>| {
            Box::pin(async move {
                ability!(it.extents).call_changed(it.store, it.configuration, &base, &wire, from.0).await
            })
        });
        self.page("extents.changed", answer.await?, size, from)
    }
}

impl Plugin {
    fn page(
        &self,
        function: &'static str,
        wire: types::ExtentPage,
        size: Bytes,
        from: Bytes,
    ) -> Result<ExtentPage, Error> {
        let page = convert::extents_from_wire(wire);
        verify::extents(&page, size, from).map_err(self.lied(function))?;
        Ok(page)
    }
}
