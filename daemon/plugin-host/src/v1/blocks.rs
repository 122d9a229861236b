//! The bytes of snapshots, as a component has the host move them (`imports/transfers.rs`).

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes as Buffer;
use kato_orchestrator::{
    Error,
    model::Bytes,
    ports::{
        SnapshotReading, SnapshotWriting,
        backend::{Effect, Shot, Which},
        blocks::{Begun, Digest, Reach, Writing},
        extents::Extent,
    },
};

use super::{
    Found, Plugin,
    abi::{
        exports::kato::storage::{snapshot_data, snapshot_writing},
        kato::storage::types,
    },
    call::Entered,
    convert::{self, Lie},
    extra::ability,
    verify,
};
use crate::imports::transfers::Freight;

/// The sizes that a block may have.
const BLOCKS: std::ops::RangeInclusive<u32> = 512..=8 << 20;

fn block(bytes: u32) -> Result<Bytes, Lie> {
    match BLOCKS.contains(&bytes) && bytes.is_power_of_two() {
        true => Ok(Bytes(u64::from(bytes))),
        false => Err(format!("its blocks have {bytes} bytes: a power of two from 512 to 8 MiB is possible")),
    }
}

fn extents_to_wire(extents: &[Extent]) -> Vec<types::Extent> {
    let wire =
        |extent: &Extent| types::Extent { offset_bytes: extent.offset.0, length_bytes: extent.length.0 };
    extents.iter().map(wire).collect()
}

#[async_trait]
impl SnapshotReading for Plugin {
    async fn reach(&self, snapshot: Which) -> Result<Reach, Error> {
        let wire = convert::which_to_wire(&snapshot);
        let (granted, answer) = self
            .read("snapshot-data.reach", move |it: Entered<'_>| {
                Box::pin(async move {
                    let answer = ability!(it.snapshot_data)
                        .call_reach(&mut *it.store, it.configuration, &wire)
                        .await?;
                    let ground = &it.store.data().reach.ground;
                    Ok(answer.map(|reach| match &reach {
                        snapshot_data::Way::Node(connection) => (super::reachable(ground, connection), reach),
                        snapshot_data::Way::Calls(_) => (Ok(()), reach),
                    }))
                })
            })
            .await?;
        let lied = self.lied("snapshot-data.reach");
        match answer {
            snapshot_data::Way::Calls(bytes) => block(bytes).map(Reach::Calls).map_err(lied),
            snapshot_data::Way::Node(wire) => {
                let connection =
                    convert::connection_from_wire(wire, &self.caller.ground.powers).map_err(lied)?;
                granted.map_err(|error| self.unconnectable(error))?;
                Ok(Reach::Node(connection))
            }
        }
    }

    async fn read(&self, snapshot: Which, extents: Vec<Extent>) -> Result<Vec<(Bytes, Buffer)>, Error> {
        let wire = convert::which_to_wire(&snapshot);
        let wanted = extents_to_wire(&extents);
        let freight = Arc::new(Freight::In { wanted: extents, came: Mutex::default() });
        let carried = Arc::clone(&freight);
        self.read("snapshot-data.read", move |it: Entered<'_>| {
            Box::pin(async move {
                it.store.data_mut().reach.freight = Some(carried);
                ability!(it.snapshot_data).call_read(it.store, it.configuration, &wire, &wanted).await
            })
        })
        .await?;
        Ok(freight.unloaded().into_iter().map(|(offset, bytes)| (Bytes(offset), bytes)).collect())
    }
}

#[async_trait]
impl SnapshotWriting for Plugin {
    async fn begin(&self, wish: Writing) -> Result<Begun, Error> {
        let wire = snapshot_writing::Wish {
            token: wish.token.as_str().to_owned(),
            mark: wish.mark.clone(),
            name: wish.name.clone(),
            size_bytes: wish.size.0,
            base: wish.base.as_ref().map(convert::which_to_wire),
            parameters: convert::pairs(&wish.parameters),
        };
        let begun = self
            .effect(
                "snapshot-writing.begin",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.snapshot_writing).call_begin(it.store, it.configuration, &wire).await
                    })
                },
                async { self.absent_snapshot(&wish.token, &wish.mark).await },
            )
            .await?;
        let lied = self.lied("snapshot-writing.begin");
        let handle = convert::handle(&begun.handle, self.secrets()).map_err(&lied)?;
        Ok(Begun { handle, block: block(begun.block_bytes).map_err(lied)? })
    }

    async fn write(&self, snapshot: Which, blocks: Vec<(Bytes, Buffer)>) -> Result<Vec<Digest>, Error> {
        let wire = convert::which_to_wire(&snapshot);
        let length = |bytes: &Buffer| Bytes(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let extents: Vec<Extent> =
            blocks.iter().map(|(offset, bytes)| Extent { offset: *offset, length: length(bytes) }).collect();
        let extents = extents_to_wire(&extents);
        let blocks = blocks.into_iter().map(|(offset, bytes)| (offset.0, bytes)).collect();
        let freight = Arc::new(Freight::Out { blocks, arrived: Mutex::default() });
        let carried = Arc::clone(&freight);
        self.effect(
            "snapshot-writing.write",
            move |it: Entered<'_>| {
                Box::pin(async move {
                    it.store.data_mut().reach.freight = Some(carried);
                    ability!(it.snapshot_writing)
                        .call_write(it.store, it.configuration, &wire, &extents)
                        .await
                })
            },
            async { Found::Perhaps },
        )
        .await?;
        let missing = "it says that all blocks were written, and one was never sent";
        freight.digests().ok_or_else(|| self.caller.lied("snapshot-writing.write", missing))
    }

    async fn complete(
        &self,
        snapshot: Which,
        blocks: u64,
        digest: Digest,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<Shot>, Error> {
        let wire = convert::which_to_wire(&snapshot);
        let answer = self
            .effect(
                "snapshot-writing.complete",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.snapshot_writing)
                            .call_complete(
                                it.store,
                                it.configuration,
                                &wire,
                                blocks,
                                &digest,
                                resume.as_deref(),
                            )
                            .await
                    })
                },
                async { Found::Perhaps },
            )
            .await?;
        let lied = self.lied("snapshot-writing.complete");
        match answer {
            snapshot_writing::Completing::Pending(pending) => {
                convert::pending_from_wire(pending, self.secrets()).map(Effect::Pending).map_err(lied)
            }
            snapshot_writing::Completing::Done(shot) => {
                let shot = convert::snapshot_from_wire(shot, self.secrets()).map_err(&lied)?;
                verify::found(&shot, &snapshot).map_err(lied)?;
                Ok(Effect::Done(shot))
            }
        }
    }
}
