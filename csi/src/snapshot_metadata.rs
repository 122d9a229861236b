//! Snapshot metadata: which blocks a snapshot has, and which differ between two, for whoever backs volumes up. Blocks are of
//! any length, ascend, and begin where the caller says, in the middle of one too; so whoever was cut off goes on where
//! the last block ended. Nothing is remembered in between.

use std::sync::Arc;

use kato_orchestrator::{
    Error,
    model::Bytes,
    ops::{ExtentsView, ListExtents},
    ports::extents::Extent,
};
use tonic::{Request, async_trait};

use crate::{
    check::Checked,
    convert,
    door::{Answer, Door, Messages, Outlet},
    protocol::{
        BlockMetadata, BlockMetadataType, GetMetadataAllocatedRequest, GetMetadataAllocatedResponse,
        GetMetadataDeltaRequest, GetMetadataDeltaResponse, snapshot_metadata_server,
    },
};

/// The most blocks in a message, however many the caller would take: some 90 KB.
const BLOCKS: usize = 4096;

/// The service.
pub(crate) struct SnapshotMetadata {
    pub(crate) door: Arc<Door>,
}

#[async_trait]
impl snapshot_metadata_server::SnapshotMetadata for SnapshotMetadata {
    type GetMetadataAllocatedStream = Messages<GetMetadataAllocatedResponse>;

    type GetMetadataDeltaStream = Messages<GetMetadataDeltaResponse>;

    async fn get_metadata_allocated(
        &self,
        request: Request<GetMetadataAllocatedRequest>,
    ) -> Answer<Self::GetMetadataAllocatedStream> {
        self.door.stream(request, allocated).await
    }

    async fn get_metadata_delta(
        &self,
        request: Request<GetMetadataDeltaRequest>,
    ) -> Answer<Self::GetMetadataDeltaStream> {
        self.door.stream(request, delta).await
    }
}

async fn allocated(
    door: Arc<Door>,
    request: GetMetadataAllocatedRequest,
    outlet: Outlet<GetMetadataAllocatedResponse>,
) -> Result<(), Error> {
    let snapshot = convert::snapshot_from_wire(&door, &request.snapshot_id)?;
    let wish = ListExtents { snapshot, base: None, from: offset(request.starting_offset) };
    tell(&door, wish, request.max_results, &outlet).await
}

async fn delta(
    door: Arc<Door>,
    request: GetMetadataDeltaRequest,
    outlet: Outlet<GetMetadataDeltaResponse>,
) -> Result<(), Error> {
    let base = convert::snapshot_from_wire(&door, &request.base_snapshot_id)?;
    let snapshot = convert::snapshot_from_wire(&door, &request.target_snapshot_id)?;
    let wish = ListExtents { snapshot, base: Some(base), from: offset(request.starting_offset) };
    tell(&door, wish, request.max_results, &outlet).await
}

/// Tells all that there is, at most so many blocks in a message; zero is as many as we like. Where there is nothing, one
/// message says at least how large the volume is.
async fn tell<A: Blocks>(
    door: &Door,
    mut wish: ListExtents,
    most: i32,
    outlet: &Outlet<A>,
) -> Result<(), Error> {
    let most = usize::try_from(most).ok().filter(|most| *most > 0).map_or(BLOCKS, |most| most.min(BLOCKS));
    let mut silent = true;
    loop {
        let ExtentsView { size, page } = door.orchestrator.extents(&wish).await?;
        for some in page.extents.chunks(most) {
            outlet.send(A::of(size, some)).await?;
            silent = false;
        }
        match page.next {
            Some(next) => wish.from = next,
            None if silent => return outlet.send(A::of(size, &[])).await,
            None => return Ok(()),
        }
    }
}

/// A message that names blocks.
trait Blocks: Checked {
    /// Of a volume of this size.
    fn of(size: Bytes, extents: &[Extent]) -> Self;
}

macro_rules! blocks {
    ($($message:ident),*) => {$(
        impl Blocks for $message {
            fn of(size: Bytes, extents: &[Extent]) -> Self {
                Self {
                    block_metadata_type: BlockMetadataType::VariableLength.into(),
                    volume_capacity_bytes: convert::bytes_to_wire(size),
                    block_metadata: extents.iter().map(block).collect(),
                }
            }
        }
    )*};
}

blocks!(GetMetadataAllocatedResponse, GetMetadataDeltaResponse);

fn block(extent: &Extent) -> BlockMetadata {
    let (byte_offset, size_bytes) =
        (convert::bytes_to_wire(extent.offset), convert::bytes_to_wire(extent.length));
    BlockMetadata { byte_offset, size_bytes }
}

/// One below zero was refused before.
fn offset(offset: i64) -> Bytes {
    Bytes(u64::try_from(offset).unwrap_or_default())
}
