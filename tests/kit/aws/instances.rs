//! EC2's actions that tell of instances, their types and the zones. None changes anything.

use super::{
    error::Refusal,
    query::Query,
    volumes::write_tags,
    world::{KINDS, Kind, Node, NodeState, Tags, World},
    xml::Xml,
};

impl NodeState {
    fn code(self) -> u32 {
        match self {
            Self::Running => 16,
            Self::Terminated => 48,
            Self::Stopped => 80,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Terminated => "terminated",
            Self::Stopped => "stopped",
        }
    }
}

/// What instances can be asked for by.
const FILTERS: &[&str] =
    &["instance-id", "instance-state-name", "instance-state-code", "instance-type", "availability-zone"];

impl Node {
    fn field(&self, id: &str, name: &str) -> Vec<String> {
        vec![match name {
            "instance-id" => id.to_owned(),
            "instance-state-name" => self.state.name().to_owned(),
            "instance-state-code" => self.state.code().to_string(),
            "instance-type" => self.kind.name.to_owned(),
            _ => self.zone.clone(),
        }]
    }
}

impl World {
    /// The zones of the region.
    pub(super) fn zones(&self) -> impl Iterator<Item = String> {
        ["a", "b", "c"].into_iter().map(|letter| format!("{}{letter}", super::REGION))
    }

    /// The name of a zone that is the same for every account.
    pub(super) fn zone_id(&self, zone: &str) -> String {
        let place = self.zones().position(|known| known == zone).unwrap_or(0);
        format!("euc1-az{}", place + 1)
    }

    pub(super) fn describe_instances(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let ids = query.list("InstanceId");
        if let Some(id) = ids.iter().find(|id| !self.instances.contains_key(**id)) {
            return Err(Refusal::no_instance(id));
        }
        let page = query.page(1000, self.now())?;
        if !ids.is_empty() && page.is_asked_for() {
            let why = "The parameter instancesSet cannot be used with the parameter maxResults";
            return Err(Refusal::new("InvalidParameterCombination", why));
        }
        let filters = query.filters(FILTERS)?;
        let found = self.instances.iter().filter(|(id, node)| {
            let wanted = ids.is_empty() || ids.contains(&id.as_str());
            wanted && filters.pass(|name| node.field(id, name))
        });
        let (page, token) = page.of(found.map(|(id, node)| (id.clone(), node)));
        xml.list("reservationSet", page, |xml, (id, node)| {
            xml.leaf("reservationId", id.replacen("i-", "r-", 1));
            xml.leaf("ownerId", super::ACCOUNT);
            xml.inside("groupSet", |_| ());
            xml.list("instancesSet", [(id, node)], |xml, (id, node)| self.write_instance(&id, node, xml));
        });
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn write_instance(&self, id: &str, node: &Node, xml: &mut Xml) {
        xml.leaf("instanceId", id);
        xml.inside("instanceState", |xml| {
            xml.leaf("code", node.state.code());
            xml.leaf("name", node.state.name());
        });
        xml.leaf("instanceType", node.kind.name);
        xml.leaf("launchTime", self.clock.written(node.launched));
        xml.inside("placement", |xml| {
            xml.leaf("availabilityZone", &node.zone);
            xml.leaf("tenancy", "default");
        });
        xml.leaf("architecture", "x86_64");
        xml.leaf("rootDeviceType", "ebs");
        xml.leaf("rootDeviceName", "/dev/xvda");
        xml.leaf("virtualizationType", "hvm");
        xml.leaf("hypervisor", "xen");
        let root = ("/dev/xvda".to_owned(), node.root.clone(), "attached", node.launched, true);
        let attached = self
            .attached_to(id)
            .map(|(volume, it)| (it.device.clone(), volume.clone(), it.status(), it.since, false));
        let all = [root].into_iter().chain(attached).filter(|_| node.state != NodeState::Terminated);
        xml.list("blockDeviceMapping", all, |xml, (device, volume, status, since, goes)| {
            xml.leaf("deviceName", device);
            xml.inside("ebs", |xml| {
                xml.leaf("volumeId", volume);
                xml.leaf("status", status);
                xml.leaf("attachTime", self.clock.written(since));
                xml.leaf("deleteOnTermination", goes);
            });
        });
        xml.list("networkInterfaceSet", [()], |xml, ()| {
            xml.leaf("networkInterfaceId", id.replacen("i-", "eni-", 1));
            xml.leaf("status", "in-use");
        });
        write_tags(&Tags::new(), xml);
    }

    pub(super) fn describe_instance_types(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let names = query.list("InstanceType");
        if let Some(name) = names.iter().find(|name| KINDS.iter().all(|kind| kind.name != **name)) {
            let why = format!("The following supplied instance types do not exist: [{name}]");
            return Err(Refusal::new("InvalidInstanceType", why));
        }
        let filters = query.filters(&["instance-type"])?;
        let found = KINDS.iter().filter(|kind| {
            let wanted = names.is_empty() || names.contains(&kind.name);
            wanted && filters.pass(|_| vec![kind.name.to_owned()])
        });
        let mut found: Vec<_> = found.map(|kind| (kind.name.to_owned(), kind)).collect();
        found.sort_by(|one, other| one.0.cmp(&other.0));
        let (page, token) = query.page(100, self.now())?.of(found);
        xml.list("instanceTypeSet", page, |xml, (_, kind)| write_kind(kind, xml));
        xml.maybe("nextToken", token);
        Ok(())
    }

    pub(super) fn describe_zones(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let names = query.list("ZoneName");
        if let Some(name) = names.iter().find(|name| !self.zones().any(|zone| zone == **name)) {
            let why = format!("Invalid availability zone: [{name}]");
            return Err(Refusal::new("InvalidParameterValue", why));
        }
        let zones = self.zones().filter(|zone| names.is_empty() || names.contains(&zone.as_str()));
        xml.list("availabilityZoneInfo", zones, |xml, zone| {
            xml.leaf("zoneName", &zone);
            xml.leaf("zoneId", self.zone_id(&zone));
            xml.leaf("zoneState", "available");
            xml.leaf("regionName", super::REGION);
            xml.leaf("zoneType", "availability-zone");
            xml.leaf("optInStatus", "opt-in-not-required");
            xml.leaf("groupName", format!("{}-zg-1", super::REGION));
            xml.leaf("networkBorderGroup", super::REGION);
            xml.inside("messageSet", |_| ());
        });
        Ok(())
    }
}

fn write_kind(kind: &Kind, xml: &mut Xml) {
    xml.leaf("instanceType", kind.name);
    xml.leaf("currentGeneration", true);
    xml.leaf("hypervisor", "nitro");
    xml.leaf("bareMetal", false);
    xml.leaf("instanceStorageSupported", kind.instance_store);
    if kind.instance_store {
        xml.inside("instanceStorageInfo", |xml| {
            xml.leaf("totalSizeInGB", 75);
            xml.list("disks", [(75, 1, "ssd")], |xml, (size, count, what)| {
                xml.leaf("sizeInGB", size);
                xml.leaf("count", count);
                xml.leaf("type", what);
            });
            xml.leaf("nvmeSupport", "required");
            xml.leaf("encryptionSupport", "required");
        });
    }
    xml.inside("ebsInfo", |xml| {
        xml.leaf("ebsOptimizedSupport", "default");
        xml.leaf("encryptionSupport", "supported");
        xml.leaf("nvmeSupport", "required");
        xml.leaf("maximumEbsAttachments", kind.attachments);
        xml.leaf("attachmentLimitType", if kind.shared { "shared" } else { "dedicated" });
    });
    xml.inside("networkInfo", |xml| xml.leaf("maximumNetworkInterfaces", 3));
}
