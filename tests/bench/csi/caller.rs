//! Who calls a CSI driver: a gRPC client with a connection of its own, one call after the other, as one worker of a
//! sidecar's or kubelet itself. It waits for each answer on its own thread, so that it is timed like everything else.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use kato_csi::protocol::{
    CapacityRange, CreateVolumeRequest, DeleteVolumeRequest, ListVolumesRequest, ListVolumesResponse,
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    Volume, VolumeCapability,
    controller_client::ControllerClient,
    node_client::NodeClient,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
};
use tokio::runtime::{Builder, Runtime};
use tonic::{Request, transport::Channel};

use crate::Fallible;

/// How long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How large a volume with a filesystem of its own is.
pub(crate) const SIZE: u32 = 64 << 20;

/// What kind of volume is wished for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Directory,
    Ext4,
}

/// Somebody who calls.
#[derive(Debug)]
pub(crate) struct Caller {
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
    runtime: Runtime,
}

/// Where a volume is to be seen.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) staging: PathBuf,
    pub(crate) target: PathBuf,
}

impl Places {
    /// As kubelet prepares them: the staging folder is there, the target is not.
    pub(crate) fn prepare(folder: &Path, name: &str) -> Fallible<Self> {
        let staging = folder.join(format!("{name}.stage"));
        fs::create_dir_all(&staging)?;
        Ok(Self { staging, target: folder.join(name) })
    }
}

impl Caller {
    pub(crate) fn open(socket: &Path) -> Fallible<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let caller = runtime.block_on(kato_tests::csi::Caller::reach(socket))?;
        Ok(Self { controller: caller.controller(), node: caller.node(), runtime })
    }

    pub(crate) fn create(&mut self, name: &str, kind: Kind) -> Fallible<Volume> {
        let mut wish = CreateVolumeRequest {
            name: name.to_owned(),
            volume_capabilities: vec![used_as(kind)],
            ..CreateVolumeRequest::default()
        };
        if let Kind::Ext4 = kind {
            wish.parameters = BTreeMap::from([("class".to_owned(), "ext4".to_owned())]);
            wish.capacity_range = Some(CapacityRange { required_bytes: SIZE.into(), limit_bytes: 0 });
        }
        let answer = self.runtime.block_on(self.controller.create_volume(within(wish)))?.into_inner();
        Ok(answer.volume.ok_or("a volume was made that is none")?)
    }

    pub(crate) fn delete(&mut self, volume: &Volume) -> Fallible {
        let wish =
            DeleteVolumeRequest { volume_id: volume.volume_id.clone(), ..DeleteVolumeRequest::default() };
        self.runtime.block_on(self.controller.delete_volume(within(wish)))?;
        Ok(())
    }

    /// A page of all volumes, with so many entries.
    pub(crate) fn page(&mut self, entries: u32, token: &str) -> Fallible<ListVolumesResponse> {
        let wish =
            ListVolumesRequest { max_entries: i32::try_from(entries)?, starting_token: token.to_owned() };
        Ok(self.runtime.block_on(self.controller.list_volumes(within(wish)))?.into_inner())
    }

    /// What a pod's start and end ask of the node.
    pub(crate) fn lend(&mut self, volume: &Volume, places: &Places) -> Fallible {
        let Places { staging, target } = places;
        let (id, context) = (volume.volume_id.clone(), volume.volume_context.clone());
        let (staging, target) = (staging.display().to_string(), target.display().to_string());
        let capability = Some(used_as(Kind::Ext4));
        self.runtime.block_on(async {
            self.node
                .node_stage_volume(within(NodeStageVolumeRequest {
                    volume_id: id.clone(),
                    staging_target_path: staging.clone(),
                    volume_capability: capability.clone(),
                    volume_context: context.clone(),
                    ..NodeStageVolumeRequest::default()
                }))
                .await?;
            self.node
                .node_publish_volume(within(NodePublishVolumeRequest {
                    volume_id: id.clone(),
                    staging_target_path: staging.clone(),
                    target_path: target.clone(),
                    volume_capability: capability,
                    volume_context: context,
                    ..NodePublishVolumeRequest::default()
                }))
                .await?;
            let unpublish = NodeUnpublishVolumeRequest { volume_id: id.clone(), target_path: target };
            self.node.node_unpublish_volume(within(unpublish)).await?;
            let unstage = NodeUnstageVolumeRequest { volume_id: id, staging_target_path: staging };
            self.node.node_unstage_volume(within(unstage)).await?;
            Ok(())
        })
    }
}

fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

fn used_as(kind: Kind) -> VolumeCapability {
    let fs_type = match kind {
        Kind::Directory => String::new(),
        Kind::Ext4 => "ext4".to_owned(),
    };
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume { fs_type, ..MountVolume::default() })),
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
    }
}
