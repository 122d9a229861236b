//! What we claim, derived from the role, from how the door is set up, and from what the configured backends can do; never
//! written down by hand. Whatever one backend can is claimed, and a request that another cannot serve says so by name.
//!
//! Sidecars and kubelet ask once, when they start, so [`Claims::restarts`] tells which of them have to start again
//! after a change of the configuration.

use kato_orchestrator::{
    Catalog,
    ports::backend::{Abilities, Growing},
};

use crate::{
    config::{Config, Role},
    operation::Operation,
    protocol::{
        ControllerServiceCapability, GroupControllerServiceCapability, NodeServiceCapability,
        PluginCapability,
        controller_service_capability::{self as controller, rpc::Type as Controls},
        group_controller_service_capability::{self as group, rpc::Type as Groups},
        node_service_capability::{self as node, rpc::Type as Mounts},
        plugin_capability::{self as plugin, service::Type as Serves, volume_expansion::Type as Expands},
    },
};

/// What has to be claimed for an operation to be there.
#[derive(Clone, Copy, Debug)]
enum Claim {
    Serves(Serves),
    Controls(Controls),
    Groups(Groups),
    Mounts(Mounts),
}

/// What stands behind an operation; nothing where its service always has it.
fn claim_of(operation: Operation) -> Option<Claim> {
    use Claim::{Groups as Grouped, Mounts as Mounted, Serves as Served};
    let controlled = |claim| Some(Claim::Controls(claim));
    match operation {
        Operation::PluginName
        | Operation::PluginCapabilities
        | Operation::Probe
        | Operation::ValidateCapabilities
        | Operation::ControllerCapabilities
        | Operation::NodePublish
        | Operation::NodeUnpublish
        | Operation::NodeCapabilities
        | Operation::NodeName => None,
        // What was made before it was configured otherwise is taken down all the same.
        Operation::ControllerUnpublish
        | Operation::DeleteSnapshot
        | Operation::DeleteGroupSnapshot
        | Operation::NodeUnstage => None,
        Operation::CreateVolume | Operation::DeleteVolume => controlled(Controls::CreateDeleteVolume),
        Operation::ControllerPublish => controlled(Controls::PublishUnpublishVolume),
        Operation::ListVolumes => controlled(Controls::ListVolumes),
        Operation::ListVolumeHealth => controlled(Controls::ListVolumeHealth),
        Operation::GetVolumeHealth => controlled(Controls::GetVolumeHealth),
        Operation::GetCapacity => controlled(Controls::GetCapacity),
        Operation::CreateSnapshot => controlled(Controls::CreateDeleteSnapshot),
        Operation::ListSnapshots => controlled(Controls::ListSnapshots),
        Operation::GetSnapshot => controlled(Controls::GetSnapshot),
        Operation::ControllerExpand => controlled(Controls::ExpandVolume),
        Operation::GetVolume => controlled(Controls::GetVolume),
        Operation::ModifyVolume => controlled(Controls::ModifyVolume),
        Operation::GroupCapabilities => Some(Served(Serves::GroupControllerService)),
        Operation::CreateGroupSnapshot | Operation::GetGroupSnapshot => {
            Some(Grouped(Groups::CreateDeleteGetVolumeGroupSnapshot))
        }
        Operation::MetadataAllocated | Operation::MetadataDelta => {
            Some(Served(Serves::SnapshotMetadataService))
        }
        Operation::NodeStage => Some(Mounted(Mounts::StageUnstageVolume)),
        Operation::NodeStats => Some(Mounted(Mounts::GetVolumeStats)),
        Operation::NodeVolumeHealth => Some(Mounted(Mounts::GetVolumeHealth)),
        Operation::NodeStorageHealth => Some(Mounted(Mounts::GetStorageHealth)),
        Operation::NodeExpand => Some(Mounted(Mounts::ExpandVolume)),
    }
}

/// Everything that we claim, each once and in the order of the specification's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    services: Vec<Serves>,
    expansion: Option<Expands>,
    controller: Vec<Controls>,
    groups: Vec<Groups>,
    node: Vec<Mounts>,
}

impl Claims {
    /// What is claimed with these backends.
    #[must_use]
    pub fn of(config: &Config, catalog: &Catalog) -> Self {
        let backends =
            catalog.backends.values().map(|backend| backend.describe().abilities).collect::<Vec<_>>();
        Self::derive(config.role, config.stage, &backends)
    }

    fn derive(role: Role, stage: bool, backends: &[Abilities]) -> Self {
        let some = |ability: fn(&Abilities) -> bool| backends.iter().any(ability);
        let (controls, mounts) = (role.controls(), role.mounts());
        let attachments = some(|abilities| abilities.attachments);
        // Whoever is asked to take a volume from a node can cut it off before somebody else gets the volume.
        let publishes = attachments || some(|abilities| abilities.fence);
        let snapshots = some(|abilities| abilities.snapshots);
        let health = some(|abilities| abilities.health);
        // Whoever only controls has no mount that it could hold still.
        let groups = controls && mounts && some(Abilities::cuts_groups);
        let grow = some(|abilities| abilities.grow.is_some());
        // OFFLINE says that what is published is never grown; so ONLINE has to be true of all that grow at all.
        let offline = some(|abilities| abilities.grow == Some(Growing::Offline));
        Self {
            services: claimed([
                (Serves::ControllerService, controls),
                // There always is a topology: the node itself is a part of it.
                (Serves::VolumeAccessibilityConstraints, true),
                (Serves::GroupControllerService, groups),
                (Serves::SnapshotMetadataService, controls && some(|abilities| abilities.extents)),
            ]),
            expansion: grow.then_some(if offline { Expands::Offline } else { Expands::Online }),
            controller: claimed([
                (Controls::CreateDeleteVolume, controls),
                (Controls::PublishUnpublishVolume, controls && publishes),
                (Controls::ListVolumes, controls),
                (Controls::GetCapacity, controls && some(|abilities| abilities.capacity)),
                (Controls::CreateDeleteSnapshot, controls && snapshots),
                (Controls::ListSnapshots, controls && snapshots),
                (Controls::CloneVolume, controls && some(|abilities| abilities.clone)),
                (Controls::PublishReadonly, controls && attachments),
                (Controls::ExpandVolume, controls && grow),
                (Controls::ListVolumesPublishedNodes, controls && attachments),
                (Controls::GetVolume, controls),
                (Controls::SingleNodeMultiWriter, controls),
                (Controls::ModifyVolume, controls && some(|abilities| abilities.modify)),
                (Controls::GetSnapshot, controls && snapshots),
                (Controls::GetVolumeHealth, controls && health),
                (Controls::ListVolumeHealth, controls && health),
            ]),
            groups: claimed([(Groups::CreateDeleteGetVolumeGroupSnapshot, groups)]),
            // VOLUME_MOUNT_GROUP is never claimed: kubelet would leave the group of every file to us, and no
            // filesystem of ours has an option for it.
            node: claimed([
                (Mounts::StageUnstageVolume, mounts && stage),
                (Mounts::GetVolumeStats, mounts),
                (Mounts::ExpandVolume, mounts && grow),
                (Mounts::SingleNodeMultiWriter, mounts),
                (Mounts::GetVolumeHealth, mounts),
                (Mounts::GetStorageHealth, mounts),
            ]),
        }
    }

    /// Who has to start again to learn of the difference, because it asked for what we claim when it started.
    #[must_use]
    pub fn restarts(&self, now: &Self) -> Vec<&'static str> {
        let controls = |capability: Controls| {
            self.controller.contains(&capability) != now.controller.contains(&capability)
        };
        let serves = |service: Serves| self.services.contains(&service) != now.services.contains(&service);
        let services = serves(Serves::ControllerService) || serves(Serves::VolumeAccessibilityConstraints);
        let whom = [
            (
                "csi-provisioner",
                services
                    || controls(Controls::CreateDeleteVolume)
                    || controls(Controls::GetCapacity)
                    || controls(Controls::CloneVolume)
                    || controls(Controls::CreateDeleteSnapshot)
                    || controls(Controls::ModifyVolume)
                    || controls(Controls::PublishUnpublishVolume)
                    || controls(Controls::SingleNodeMultiWriter)
                    || self.node != now.node,
            ),
            (
                "csi-attacher",
                services
                    || controls(Controls::PublishUnpublishVolume)
                    || controls(Controls::PublishReadonly)
                    || controls(Controls::ListVolumes)
                    || controls(Controls::ListVolumesPublishedNodes)
                    || controls(Controls::SingleNodeMultiWriter),
            ),
            (
                "csi-resizer",
                services
                    || self.expansion != now.expansion
                    || controls(Controls::ExpandVolume)
                    || controls(Controls::ModifyVolume)
                    || self.node.contains(&Mounts::ExpandVolume) != now.node.contains(&Mounts::ExpandVolume),
            ),
            (
                "csi-snapshotter",
                controls(Controls::CreateDeleteSnapshot)
                    || controls(Controls::ListSnapshots)
                    || controls(Controls::GetSnapshot)
                    || self.groups != now.groups,
            ),
            ("csi-snapshot-metadata", serves(Serves::SnapshotMetadataService)),
            ("node-driver-registrar", services || self.node != now.node),
        ];
        claimed(whom)
    }

    /// What an operation would need that is not claimed, by the specification's name.
    pub(crate) fn missing(&self, operation: Operation) -> Option<&'static str> {
        let (claimed, name) = match claim_of(operation)? {
            Claim::Serves(claim) => (self.services.contains(&claim), claim.as_str_name()),
            Claim::Controls(claim) => (self.controller.contains(&claim), claim.as_str_name()),
            Claim::Groups(claim) => (self.groups.contains(&claim), claim.as_str_name()),
            Claim::Mounts(claim) => (self.node.contains(&claim), claim.as_str_name()),
        };
        (!claimed).then_some(name)
    }

    pub(crate) fn plugin_to_wire(&self) -> Vec<PluginCapability> {
        let services = self
            .services
            .iter()
            .map(|service| plugin::Type::Service(plugin::Service { r#type: (*service).into() }));
        let expansion = self.expansion.map(|expansion| {
            plugin::Type::VolumeExpansion(plugin::VolumeExpansion { r#type: expansion.into() })
        });
        services.chain(expansion).map(|claim| PluginCapability { r#type: Some(claim) }).collect()
    }

    pub(crate) fn controller_to_wire(&self) -> Vec<ControllerServiceCapability> {
        let claim = |claim: &Controls| controller::Type::Rpc(controller::Rpc { r#type: (*claim).into() });
        let claims = self.controller.iter().map(claim);
        claims.map(|claim| ControllerServiceCapability { r#type: Some(claim) }).collect()
    }

    pub(crate) fn groups_to_wire(&self) -> Vec<GroupControllerServiceCapability> {
        let claim = |claim: &Groups| group::Type::Rpc(group::Rpc { r#type: (*claim).into() });
        let claims = self.groups.iter().map(claim);
        claims.map(|claim| GroupControllerServiceCapability { r#type: Some(claim) }).collect()
    }

    pub(crate) fn node_to_wire(&self) -> Vec<NodeServiceCapability> {
        let claim = |claim: &Mounts| node::Type::Rpc(node::Rpc { r#type: (*claim).into() });
        self.node.iter().map(claim).map(|claim| NodeServiceCapability { r#type: Some(claim) }).collect()
    }
}

fn claimed<T, const N: usize>(all: [(T, bool); N]) -> Vec<T> {
    all.into_iter().filter_map(|(claim, holds)| holds.then_some(claim)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Abilities = Abilities {
        grow: None,
        attachments: false,
        fence: false,
        snapshots: false,
        clone: false,
        modify: false,
        groups: false,
        extents: false,
        snapshot_data: false,
        snapshot_writing: false,
        health: false,
        capacity: false,
        polling: false,
        snapshot_needs_volume: false,
        clone_needs_source: false,
        shared: false,
        node_bound: false,
    };

    fn claims(role: Role, stage: bool, backends: &[Abilities]) -> Claims {
        Claims::derive(role, stage, backends)
    }

    #[test]
    fn every_ability_adds_what_it_makes_possible_and_nothing_else() {
        use Controls::*;
        let least = claims(Role::All, true, &[NOTHING]);
        let always = [CreateDeleteVolume, ListVolumes, GetVolume, SingleNodeMultiWriter];
        assert_eq!(least.controller, always);
        let table: &[(Abilities, &[Controls])] = &[
            (
                Abilities { attachments: true, ..NOTHING },
                &[PublishUnpublishVolume, PublishReadonly, ListVolumesPublishedNodes],
            ),
            (Abilities { snapshots: true, ..NOTHING }, &[CreateDeleteSnapshot, ListSnapshots, GetSnapshot]),
            (Abilities { capacity: true, ..NOTHING }, &[GetCapacity]),
            (Abilities { clone: true, ..NOTHING }, &[CloneVolume]),
            (Abilities { grow: Some(Growing::Offline), ..NOTHING }, &[ExpandVolume]),
            (Abilities { modify: true, ..NOTHING }, &[ModifyVolume]),
            (Abilities { health: true, ..NOTHING }, &[GetVolumeHealth, ListVolumeHealth]),
            (Abilities { fence: true, ..NOTHING }, &[PublishUnpublishVolume]),
            (Abilities { polling: true, ..NOTHING }, &[]),
        ];
        for (abilities, added) in table {
            // That another backend cannot takes nothing away.
            let found = claims(Role::All, true, &[NOTHING, *abilities]).controller;
            let mut expected: Vec<_> = always.iter().chain(*added).copied().collect();
            expected.sort_by_key(|claim| i32::from(*claim));
            assert_eq!(found, expected, "{abilities:?}");
        }
    }

    #[test]
    fn the_order_is_that_of_the_numbers_and_each_is_claimed_once() {
        let everything = Abilities {
            grow: Some(Growing::Online),
            attachments: true,
            snapshots: true,
            clone: true,
            modify: true,
            groups: true,
            extents: true,
            snapshot_data: true,
            snapshot_writing: true,
            health: true,
            capacity: true,
            ..NOTHING
        };
        let all = claims(Role::All, true, &[everything, everything]);
        let numbers: Vec<_> = all.controller.iter().map(|claim| i32::from(*claim)).collect();
        assert_eq!(numbers, (1..=17).filter(|number| *number != 11).collect::<Vec<_>>());
        let numbers: Vec<_> = all.node.iter().map(|claim| i32::from(*claim)).collect();
        assert_eq!(numbers, [1, 2, 3, 5, 7, 8], "4 is gone and 6, VOLUME_MOUNT_GROUP, is never claimed");
        let numbers: Vec<_> = all.services.iter().map(|claim| i32::from(*claim)).collect();
        assert_eq!(numbers, [1, 2, 4]);
        assert_eq!(all.plugin_to_wire().len(), 4);
        assert_eq!(all.controller_to_wire().len(), 16);
        assert_eq!(all.node_to_wire().len(), 6);
    }

    #[test]
    fn a_role_claims_only_what_it_serves() {
        let backends = [Abilities { snapshots: true, attachments: true, ..NOTHING }];
        let controller = claims(Role::Controller, true, &backends);
        assert!(controller.node.is_empty() && controller.services.contains(&Serves::ControllerService));
        let node = claims(Role::Node, true, &backends);
        assert!(node.controller.is_empty());
        assert_eq!(node.services, [Serves::VolumeAccessibilityConstraints]);
        let unstaged = claims(Role::Node, false, &backends);
        assert!(!unstaged.node.contains(&Mounts::StageUnstageVolume));
    }

    #[test]
    fn what_is_not_claimed_is_missing_by_its_name() {
        let lists = [Abilities { extents: true, ..NOTHING }];
        let of = |role| claims(role, false, &lists);
        assert_eq!(of(Role::All).missing(Operation::MetadataDelta), None);
        assert_eq!(of(Role::Node).missing(Operation::MetadataDelta), Some("SNAPSHOT_METADATA_SERVICE"));
        assert_eq!(of(Role::All).missing(Operation::ControllerExpand), Some("EXPAND_VOLUME"));
        assert_eq!(of(Role::All).missing(Operation::NodeStage), Some("STAGE_UNSTAGE_VOLUME"));
        assert_eq!(of(Role::All).missing(Operation::NodeUnstage), None);
    }

    #[test]
    fn groups_are_cut_where_volumes_can_be_held_still_together() {
        let of = |abilities| claims(Role::All, true, &[NOTHING, abilities]).groups.len();
        assert_eq!(of(Abilities { snapshots: true, ..NOTHING }), 0);
        assert_eq!(of(Abilities { snapshots: true, node_bound: true, ..NOTHING }), 1);
        for role in [Role::Node, Role::Controller] {
            let bound = Abilities { snapshots: true, node_bound: true, ..NOTHING };
            assert!(claims(role, true, &[bound]).groups.is_empty());
        }
    }

    #[test]
    fn growth_is_online_only_if_all_that_grows_does_so() {
        let of = |backends: &[Option<Growing>]| {
            let backends: Vec<_> = backends.iter().map(|grow| Abilities { grow: *grow, ..NOTHING }).collect();
            claims(Role::All, true, &backends).expansion
        };
        assert_eq!(of(&[None]), None);
        assert_eq!(of(&[None, Some(Growing::Online)]), Some(Expands::Online));
        assert_eq!(of(&[Some(Growing::Offline), Some(Growing::Online)]), Some(Expands::Offline));
    }

    #[test]
    fn whoever_asked_for_what_has_changed_is_named() {
        let least = claims(Role::All, true, &[NOTHING]);
        assert!(least.restarts(&least).is_empty());
        let snapshots = claims(Role::All, true, &[Abilities { snapshots: true, ..NOTHING }]);
        assert!(least.restarts(&snapshots).contains(&"csi-snapshotter"));
        let blocks = claims(Role::All, true, &[Abilities { extents: true, ..NOTHING }]);
        assert_eq!(least.restarts(&blocks), ["csi-snapshot-metadata"]);
        let grow = claims(Role::All, true, &[Abilities { grow: Some(Growing::Online), ..NOTHING }]);
        assert!(least.restarts(&grow).contains(&"csi-resizer"));
        assert!(!least.restarts(&grow).contains(&"csi-attacher"));
    }
}
