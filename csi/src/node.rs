//! The node: staging, publishing and what is known of a volume here.
//!
//! A stage is a holder of the volume like any other, called by the staging path; each publication is one more, called by
//! its target. So the volume stays mounted until the last of them is gone, whatever the order in which a caller takes
//! them back, and taking back needs no more than an id and a path. Where there is no controller (an empty
//! `publish_context`) the hall attaches as it does for Docker.

use std::sync::Arc;

use kato_orchestrator::{
    Error,
    model::{HolderId, Purpose, Target, VolumeName, VolumeRef},
    ops::{Access, Context, GrowVolume, Loan, Measure, MeasureVolume, MountVolume, Reach, UnmountVolume},
    ports::host::Usage,
};
use tonic::{Request, async_trait};

use crate::{
    capabilities::Claims,
    context::{self, EPHEMERAL},
    convert::{self, Capability, NodeNames},
    door::{Answer, Door},
    health,
    ids::named,
    nodes::Place,
    protocol::{
        NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
        NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetStorageHealthRequest,
        NodeGetStorageHealthResponse, NodeGetVolumeHealthRequest, NodeGetVolumeHealthResponse,
        NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest,
        NodePublishVolumeResponse, NodeStageVolumeRequest, NodeStageVolumeResponse,
        NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest,
        NodeUnstageVolumeResponse, Topology, VolumeUsage, node_server, volume_usage::Unit,
    },
};

/// The service.
pub(crate) struct Node {
    pub(crate) door: Arc<Door>,
}

#[async_trait]
impl node_server::Node for Node {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Answer<NodeStageVolumeResponse> {
        self.door.call(request, stage).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Answer<NodeUnstageVolumeResponse> {
        self.door.call(request, unstage).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Answer<NodePublishVolumeResponse> {
        self.door.call(request, publish).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Answer<NodeUnpublishVolumeResponse> {
        self.door.call(request, unpublish).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Answer<NodeGetVolumeStatsResponse> {
        self.door.call(request, stats).await
    }

    async fn node_get_volume_health(
        &self,
        request: Request<NodeGetVolumeHealthRequest>,
    ) -> Answer<NodeGetVolumeHealthResponse> {
        self.door.call(request, health::of_volume_here).await
    }

    async fn node_get_storage_health(
        &self,
        request: Request<NodeGetStorageHealthRequest>,
    ) -> Answer<NodeGetStorageHealthResponse> {
        self.door.call(request, health::of_storage).await
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Answer<NodeExpandVolumeResponse> {
        self.door.call(request, expand).await
    }

    async fn node_get_capabilities(
        &self,
        request: Request<NodeGetCapabilitiesRequest>,
    ) -> Answer<NodeGetCapabilitiesResponse> {
        self.door
            .call(request, |door, _, _| async move {
                let claims = Claims::of(&door.config, &door.orchestrator.catalog());
                Ok(NodeGetCapabilitiesResponse { capabilities: claims.node_to_wire() })
            })
            .await
    }

    async fn node_get_info(&self, request: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        self.door.call(request, who).await
    }
}

async fn stage(
    door: Arc<Door>,
    ctx: Context,
    request: NodeStageVolumeRequest,
) -> Result<NodeStageVolumeResponse, Error> {
    let capability = Capability::required(request.volume_capability.as_ref())?;
    let loan = context::loan(&door, &request.volume_id, &request.volume_context, &request.publish_context)?;
    let path = request.staging_target_path;
    let wish = MountVolume {
        // A device has nothing that could be seen at the path.
        target: if capability.raw { Target::Shared } else { Target::Path(path.clone()) },
        read_only: capability.read_only,
        access: Access { purpose: Purpose::Stage, alone: false, group: None, ..with(&capability, loan) },
        ..held(convert::volume_from_wire(&door, &request.volume_id)?, &path)?
    };
    door.orchestrator.mount(&ctx, wish).await?;
    Ok(NodeStageVolumeResponse {})
}

async fn unstage(
    door: Arc<Door>,
    ctx: Context,
    request: NodeUnstageVolumeRequest,
) -> Result<NodeUnstageVolumeResponse, Error> {
    if let Some(volume) = named(convert::anywhere_from_wire(&request.volume_id))? {
        let holder = HolderId::parse(&request.staging_target_path)?;
        door.orchestrator.unmount(&ctx, UnmountVolume { volume, holder, all: true }).await?;
    }
    Ok(NodeUnstageVolumeResponse {})
}

async fn publish(
    door: Arc<Door>,
    ctx: Context,
    request: NodePublishVolumeRequest,
) -> Result<NodePublishVolumeResponse, Error> {
    let capability = Capability::required(request.volume_capability.as_ref())?;
    let read_only = request.readonly || capability.read_only;
    let (id, path) = (&request.volume_id, &request.target_path);
    if request.volume_context.get(EPHEMERAL).is_some_and(|word| word == "true") {
        let create = convert::inline_from_wire(&door, id, &request.volume_context, capability.fs)?;
        let wish = MountVolume {
            target: Target::Path(path.clone()),
            read_only,
            access: with(&capability, None),
            implicit: Some(Box::new(create)),
            ..held(VolumeName::parse(id)?.into(), path)?
        };
        door.orchestrator.mount(&ctx, wish).await?;
        return Ok(NodePublishVolumeResponse {});
    }
    let loan = context::loan(&door, id, &request.volume_context, &request.publish_context)?;
    let staged_by = match (door.config.stage, request.staging_target_path.as_str()) {
        (false, _) => None,
        (true, "") => {
            return Err(Error::precondition(
                "it has to be staged on this node first: name the path where it is staged",
            )
            .about(format!("volume {id}")));
        }
        (true, path) => Some(HolderId::parse(path)?),
    };
    let wish = MountVolume {
        target: Target::Path(path.clone()),
        read_only,
        access: Access { staged_by, ..with(&capability, loan) },
        ..held(convert::volume_from_wire(&door, id)?, path)?
    };
    door.orchestrator.mount(&ctx, wish).await?;
    Ok(NodePublishVolumeResponse {})
}

async fn unpublish(
    door: Arc<Door>,
    ctx: Context,
    request: NodeUnpublishVolumeRequest,
) -> Result<NodeUnpublishVolumeResponse, Error> {
    let volume = convert::here_from_wire(&request.volume_id)?;
    let holder = HolderId::parse(&request.target_path)?;
    door.orchestrator.unmount(&ctx, UnmountVolume { volume, holder, all: true }).await?;
    Ok(NodeUnpublishVolumeResponse {})
}

/// A holder that does not count: to be told twice is to be told once.
fn held(volume: VolumeRef, path: &str) -> Result<MountVolume, Error> {
    Ok(MountVolume {
        volume,
        holder: HolderId::parse(path)?,
        counts: false,
        caller: None,
        target: Target::Shared,
        read_only: false,
        access: Access::default(),
        implicit: None,
    })
}

fn with(capability: &Capability, loan: Option<Loan>) -> Access {
    Access { loan: loan.map(Box::new), ..capability.access() }
}

async fn stats(
    door: Arc<Door>,
    _: Context,
    request: NodeGetVolumeStatsRequest,
) -> Result<NodeGetVolumeStatsResponse, Error> {
    let volume = convert::here_from_wire(&request.volume_id)?;
    let measure = door.orchestrator.measure(&MeasureVolume { volume, path: request.volume_path }).await?;
    let usage = match measure {
        Measure::Device(size) => vec![VolumeUsage {
            total: convert::bytes_to_wire(size),
            available: 0,
            used: 0,
            unit: Unit::Bytes.into(),
        }],
        Measure::Filesystem(usage) => filesystem(&usage),
    };
    Ok(NodeGetVolumeStatsResponse { usage })
}

fn filesystem(usage: &Usage) -> Vec<VolumeUsage> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let mut told = vec![VolumeUsage {
        total: convert::bytes_to_wire(usage.total),
        available: convert::bytes_to_wire(usage.available),
        used: convert::bytes_to_wire(usage.used),
        unit: Unit::Bytes.into(),
    }];
    // Some filesystems have no fixed number of inodes, and then there is nothing to tell.
    if usage.inodes > 0 {
        told.push(VolumeUsage {
            total: number(usage.inodes),
            available: number(usage.inodes.saturating_sub(usage.inodes_used)),
            used: number(usage.inodes_used),
            unit: Unit::Inodes.into(),
        });
    }
    told
}

async fn expand(
    door: Arc<Door>,
    ctx: Context,
    request: NodeExpandVolumeRequest,
) -> Result<NodeExpandVolumeResponse, Error> {
    let wish = GrowVolume {
        volume: convert::volume_from_wire(&door, &request.volume_id)?,
        size: convert::range_from_wire(request.capacity_range.as_ref()),
        reach: Reach::Node(HolderId::parse(&request.volume_path)?),
    };
    let view = door.orchestrator.grow(&ctx, wish).await?.into_inner();
    Ok(NodeExpandVolumeResponse { capacity_bytes: convert::bytes_to_wire(view.size()) })
}

async fn who(door: Arc<Door>, _: Context, _: NodeGetInfoRequest) -> Result<NodeGetInfoResponse, Error> {
    let id = door.orchestrator.node();
    let segments = Place::here(&door.config, id)?.segments().clone();
    Ok(NodeGetInfoResponse {
        node_id: NodeNames::read(&door).await?.of(id)?,
        // No backend tells how many volumes a node can have.
        max_volumes_per_node: 0,
        accessible_topology: Some(Topology { segments }),
    })
}
