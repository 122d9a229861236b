//! What can be asked, by the names that the wire and the log have for it.

use std::fmt;

macro_rules! operations {
    ($($operation:ident $service:ident $method:ident $word:literal),* $(,)?) => {
        /// What can be asked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Operation { $($operation),* }

        impl Operation {
            /// All of them, for tables and tests.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$operation),*];

            /// Where it is asked.
            pub(crate) fn path(self) -> &'static str {
                match self { $(Self::$operation => concat!("/csi.v1.", stringify!($service), "/", stringify!($method))),* }
            }

            /// What the log calls it.
            pub(crate) fn op(self) -> &'static str {
                match self { $(Self::$operation => $word),* }
            }
        }
    };
}

operations! {
    PluginName Identity GetPluginInfo "plugin-name",
    PluginCapabilities Identity GetPluginCapabilities "plugin-capabilities",
    Probe Identity Probe "probe",
    CreateVolume Controller CreateVolume "create-volume",
    DeleteVolume Controller DeleteVolume "delete-volume",
    ControllerPublish Controller ControllerPublishVolume "controller-publish",
    ControllerUnpublish Controller ControllerUnpublishVolume "controller-unpublish",
    ValidateCapabilities Controller ValidateVolumeCapabilities "validate-capabilities",
    ListVolumes Controller ListVolumes "list-volumes",
    ListVolumeHealth Controller ControllerListVolumeHealth "list-volume-health",
    GetVolumeHealth Controller ControllerGetVolumeHealth "get-volume-health",
    GetCapacity Controller GetCapacity "get-capacity",
    ControllerCapabilities Controller ControllerGetCapabilities "controller-capabilities",
    CreateSnapshot Controller CreateSnapshot "create-snapshot",
    DeleteSnapshot Controller DeleteSnapshot "delete-snapshot",
    ListSnapshots Controller ListSnapshots "list-snapshots",
    GetSnapshot Controller GetSnapshot "get-snapshot",
    ControllerExpand Controller ControllerExpandVolume "controller-expand",
    GetVolume Controller ControllerGetVolume "get-volume",
    ModifyVolume Controller ControllerModifyVolume "modify-volume",
    GroupCapabilities GroupController GroupControllerGetCapabilities "group-capabilities",
    CreateGroupSnapshot GroupController CreateVolumeGroupSnapshot "create-group-snapshot",
    DeleteGroupSnapshot GroupController DeleteVolumeGroupSnapshot "delete-group-snapshot",
    GetGroupSnapshot GroupController GetVolumeGroupSnapshot "get-group-snapshot",
    MetadataAllocated SnapshotMetadata GetMetadataAllocated "metadata-allocated",
    MetadataDelta SnapshotMetadata GetMetadataDelta "metadata-delta",
    NodeStage Node NodeStageVolume "node-stage",
    NodeUnstage Node NodeUnstageVolume "node-unstage",
    NodePublish Node NodePublishVolume "node-publish",
    NodeUnpublish Node NodeUnpublishVolume "node-unpublish",
    NodeStats Node NodeGetVolumeStats "node-stats",
    NodeVolumeHealth Node NodeGetVolumeHealth "node-volume-health",
    NodeStorageHealth Node NodeGetStorageHealth "node-storage-health",
    NodeExpand Node NodeExpandVolume "node-expand",
    NodeCapabilities Node NodeGetCapabilities "node-capabilities",
    NodeName Node NodeGetInfo "node-name",
}

impl Operation {
    /// Whether it is only asked who we are. That waits for nobody: a probe that stood in line behind slow calls would have
    /// us restarted.
    pub(crate) fn is_greeting(self) -> bool {
        matches!(
            self,
            Self::PluginName
                | Self::PluginCapabilities
                | Self::Probe
                | Self::ControllerCapabilities
                | Self::GroupCapabilities
                | Self::NodeCapabilities
                | Self::NodeName
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.op())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_operations_share_a_name() {
        let paths: BTreeSet<_> = Operation::ALL.iter().map(|operation| operation.path()).collect();
        let words: BTreeSet<_> = Operation::ALL.iter().map(|operation| operation.op()).collect();
        assert_eq!((paths.len(), words.len()), (Operation::ALL.len(), Operation::ALL.len()));
    }
}
