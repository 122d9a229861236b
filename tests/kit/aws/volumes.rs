//! EC2's actions on volumes: what they may be like, how they are made once for one client token, found, tagged and taken
//! away. A token stays bound to what it made, whatever became of it: one that made a volume that is gone answers with
//! that volume for ever, which is nowhere to be found.

use std::{sync::Arc, time::Duration};

use super::{
    error::Refusal,
    fault::Fault,
    query::{Query, tag_field},
    world::{Attachment, Shape, SnapshotState, Tags, Token, Volume, VolumeState, World},
    xml::Xml,
};

/// What a type of volumes may be like.
struct Limits {
    name: &'static str,
    /// In GiB.
    sizes: (u64, u64),
    /// What it has, or may be told to have.
    iops: Option<(u64, u64)>,
    /// How many IOPS a GiB may have.
    ratio: u64,
    throughput: Option<(u64, u64)>,
    multi_attach: bool,
}

const TYPES: &[Limits] = &[
    Limits {
        name: "gp3",
        sizes: (1, 65_536),
        iops: Some((3000, 80_000)),
        ratio: 500,
        throughput: Some((125, 2000)),
        multi_attach: false,
    },
    Limits { name: "gp2", sizes: (1, 16_384), iops: None, ratio: 0, throughput: None, multi_attach: false },
    Limits {
        name: "io1",
        sizes: (4, 16_384),
        iops: Some((100, 64_000)),
        ratio: 50,
        throughput: None,
        multi_attach: true,
    },
    Limits {
        name: "io2",
        sizes: (4, 65_536),
        iops: Some((100, 256_000)),
        ratio: 1000,
        throughput: None,
        multi_attach: true,
    },
    Limits { name: "st1", sizes: (125, 16_384), iops: None, ratio: 0, throughput: None, multi_attach: false },
    Limits { name: "sc1", sizes: (125, 16_384), iops: None, ratio: 0, throughput: None, multi_attach: false },
    Limits {
        name: "standard",
        sizes: (1, 1024),
        iops: None,
        ratio: 0,
        throughput: None,
        multi_attach: false,
    },
];

/// What volumes can be asked for by.
const FILTERS: &[&str] = &[
    "volume-id",
    "availability-zone",
    "status",
    "size",
    "volume-type",
    "encrypted",
    "multi-attach-enabled",
    "snapshot-id",
    "attachment.instance-id",
    "attachment.device",
    "attachment.status",
    "tag-key",
    "tag:",
];

/// Whether there can be such a volume, with what it has where nothing is said.
pub(super) fn checked(mut shape: Shape) -> Result<Shape, Refusal> {
    let Some(limits) = TYPES.iter().find(|limits| limits.name == shape.kind) else {
        return Err(Refusal::value("volumeType", &shape.kind, "Unknown volume type."));
    };
    let (least, most) = limits.sizes;
    if !(least..=most).contains(&shape.size) {
        let why =
            format!("Volume of {}GiB is too small or too large for volume type {}", shape.size, limits.name);
        return Err(Refusal::new("InvalidParameterValue", why));
    }
    let unsupported = |parameter: &str| {
        let why = format!("The parameter {parameter} is not supported for {} volumes.", limits.name);
        Refusal::new("InvalidParameterCombination", why)
    };
    shape.iops = match (limits.iops, shape.iops) {
        (Some((least, _)), None) if limits.throughput.is_some() => Some(least),
        (Some(_), None) => return Err(Refusal::missing("iops")),
        (Some((least, most)), Some(iops)) if !(least..=most).contains(&iops) => {
            let why = format!("Volume iops of {iops} is not between {least} and {most}.");
            return Err(Refusal::new("InvalidParameterValue", why));
        }
        (Some((least, _)), Some(iops)) if iops > least.max(limits.ratio * shape.size) => {
            let why = format!(
                "Iops to volume size ratio of {iops}:{} is too high; maximum is {}",
                shape.size, limits.ratio
            );
            return Err(Refusal::new("InvalidParameterValue", why));
        }
        (Some(_), iops) => iops,
        (None, Some(_)) => return Err(unsupported("iops")),
        (None, None) => None,
    };
    shape.throughput = match (limits.throughput, shape.throughput) {
        (Some((least, _)), None) => Some(least),
        (Some((least, most)), Some(throughput)) if !(least..=most).contains(&throughput) => {
            let why = format!("Throughput (MiBps) of {throughput} is not between {least} and {most}.");
            return Err(Refusal::new("InvalidParameterValue", why));
        }
        (Some(_), Some(throughput)) if throughput * 4 > shape.iops.unwrap_or(0) => {
            return Err(Refusal::new(
                "InvalidParameterValue",
                "Throughput (MiBps) to iops ratio is too high; maximum is 0.25.",
            ));
        }
        (Some(_), throughput) => throughput,
        (None, Some(_)) => return Err(unsupported("throughput")),
        (None, None) => None,
    };
    if shape.multi_attach && !limits.multi_attach {
        return Err(unsupported("MultiAttachEnabled"));
    }
    Ok(shape)
}

impl Volume {
    pub(super) fn shape(&self) -> Shape {
        Shape {
            size: self.size,
            kind: self.kind.clone(),
            iops: self.iops,
            throughput: self.throughput,
            multi_attach: self.multi_attach,
        }
    }

    fn field(&self, id: &str, name: &str) -> Vec<String> {
        let attached = |of: fn(&Attachment) -> String| self.attachments.iter().map(of).collect();
        match name {
            "volume-id" => vec![id.to_owned()],
            "availability-zone" => vec![self.zone.clone()],
            "status" => vec![self.status().to_owned()],
            "size" => vec![self.size.to_string()],
            "volume-type" => vec![self.kind.clone()],
            "encrypted" => vec![self.encrypted.to_string()],
            "multi-attach-enabled" => vec![self.multi_attach.to_string()],
            "snapshot-id" => self.snapshot.iter().cloned().collect(),
            "attachment.instance-id" => attached(|attachment| attachment.instance.clone()),
            "attachment.device" => attached(|attachment| attachment.device.clone()),
            "attachment.status" => attached(|attachment| attachment.status().to_owned()),
            _ => tag_field(&self.tags, name),
        }
    }
}

impl World {
    pub(super) fn create_volume(&mut self, query: &Query, fault: Option<&Fault>) -> Result<String, Refusal> {
        let asked = query.asked();
        if let Some(token) = query.text("ClientToken")
            && let Some(known) = self.tokens.get(token)
        {
            if known.asked == asked {
                return Ok(known.answer.clone());
            }
            let why = format!(
                "The client token you have provided is associated with a resource which was created with other \
                 parameters: {token}"
            );
            return Err(Refusal::new("IdempotentParameterMismatch", why));
        }
        let (id, volume) = self.new_volume(query, fault)?;
        let mut xml = Xml::default();
        self.write_volume(&id, &volume, &mut xml);
        self.volumes.insert(id, volume);
        let answer = xml.into_text();
        if let Some(token) = query.text("ClientToken") {
            self.tokens.insert(token.to_owned(), Token { asked, answer: answer.clone() });
        }
        Ok(answer)
    }

    fn new_volume(&mut self, query: &Query, fault: Option<&Fault>) -> Result<(String, Volume), Refusal> {
        let zone = query.need("AvailabilityZone")?.to_owned();
        if !self.zones().any(|known| known == zone) {
            let why = format!("The zone '{zone}' does not exist.");
            return Err(Refusal::new("InvalidZone.NotFound", why));
        }
        let tags = query.tags_for("volume")?;
        let asked_size = query.number("Size")?;
        let snapshot = query.text("SnapshotId").map(str::to_owned);
        let from = snapshot.as_deref().map(|id| self.restorable(id)).transpose()?;
        let size = asked_size
            .or_else(|| from.as_ref().map(|from| from.size))
            .ok_or_else(|| Refusal::missing("size/snapshot"))?;
        if let Some(from) = &from
            && size < from.size
        {
            let why = format!(
                "The size of a volume must be greater than or equal to the snapshot's, {} GiB",
                from.size
            );
            return Err(Refusal::new("InvalidParameterValue", why));
        }
        let shape = checked(Shape {
            size,
            kind: query.text("VolumeType").unwrap_or("gp2").to_owned(),
            iops: query.number("Iops")?,
            throughput: query.number("Throughput")?,
            multi_attach: query.flag("MultiAttachEnabled"),
        })?;
        let key = query.text("KmsKeyId").map(str::to_owned);
        if key.is_some() && !query.flag("Encrypted") && from.as_ref().is_none_or(|from| !from.encrypted) {
            return Err(Refusal::new(
                "InvalidParameterDependency",
                "The parameter KmsKeyId requires the parameter Encrypted to be set.",
            ));
        }
        let id = self.id("vol");
        let name = self.file_name(&id);
        let bytes = size * super::world::GIB;
        let file = match &from {
            Some(from) => self.ground.copy(&name, &from.file, bytes),
            None => self.ground.empty(&name, bytes),
        };
        let now = self.now();
        let unseen = if let Some(Fault::NotFoundFor(time)) = fault { *time } else { Duration::ZERO };
        let until = now + self.wait() / 4;
        let fast =
            snapshot.as_ref().is_some_and(|snapshot| self.fast.contains(&(snapshot.clone(), zone.clone())));
        let volume = Volume {
            zone,
            size,
            kind: shape.kind,
            iops: shape.iops,
            throughput: shape.throughput,
            encrypted: query.flag("Encrypted") || from.as_ref().is_some_and(|from| from.encrypted),
            key: key.or_else(|| from.as_ref().and_then(|from| from.key.clone())),
            multi_attach: shape.multi_attach,
            fast,
            tags,
            created: now,
            seen: now + unseen,
            state: VolumeState::Creating(until, fault == Some(&Fault::FailsLater)),
            attachments: Vec::new(),
            modification: None,
            modified: Vec::new(),
            impaired: false,
            file: Arc::new(file.unwrap()),
            lineage: from.map_or_else(|| id.clone(), |from| from.lineage),
            snapshot,
        };
        Ok((id, volume))
    }

    fn restorable(&self, id: &str) -> Result<Source, Refusal> {
        let snapshot = self.snapshots.get(id).ok_or_else(|| Refusal::no_snapshot(id))?;
        if !matches!(snapshot.state, SnapshotState::Completed(_)) {
            return Err(Refusal::new(
                "IncorrectState",
                format!("Snapshot is in invalid state - {}", snapshot.status()),
            ));
        }
        Ok(Source {
            size: snapshot.size,
            encrypted: snapshot.encrypted,
            key: snapshot.key.clone(),
            lineage: snapshot.lineage.clone(),
            file: Arc::clone(&snapshot.blocks.file),
        })
    }

    pub(super) fn delete_volume(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let id = query.need("VolumeId")?;
        let until = self.now() + self.wait() / 8;
        let volume = self.volume_mut(id)?;
        if let Some(attachment) = volume.attachments.first() {
            let why = format!("Volume {id} is currently attached to {}", attachment.instance);
            return Err(Refusal::new("VolumeInUse", why));
        }
        match volume.state {
            VolumeState::Deleting(_) => return Err(Refusal::no_volume(&[id])),
            VolumeState::Creating(..) => {
                return Err(Refusal::new(
                    "IncorrectState",
                    format!("The volume '{id}' is in the 'creating' state."),
                ));
            }
            VolumeState::Ready | VolumeState::Error => volume.state = VolumeState::Deleting(until),
        }
        xml.leaf("return", true);
        Ok(())
    }

    pub(super) fn describe_volumes(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let found = self.found_volumes(query, FILTERS, |volume, id, name| volume.field(id, name))?;
        let page = query.page(500, self.now())?;
        let (page, token) = page.of(found);
        xml.list("volumeSet", page, |xml, (id, volume)| self.write_volume(&id, volume, xml));
        xml.maybe("nextToken", token);
        Ok(())
    }

    /// The volumes that are asked for, by their ids or by what they are like. One id that is of nothing spoils it all.
    pub(super) fn found_volumes<'w>(
        &'w self,
        query: &Query,
        known: &[&str],
        field: impl Fn(&Volume, &str, &str) -> Vec<String>,
    ) -> Result<Vec<(String, &'w Volume)>, Refusal> {
        let ids = query.list("VolumeId");
        if let Some(id) = ids.iter().find(|id| !id.starts_with("vol-")) {
            return Err(Refusal::value("volumeId", id, "Expected: 'vol-...'."));
        }
        if !ids.is_empty() && query.page(500, self.now())?.is_asked_for() {
            let why = "The parameter volumeIds cannot be used with the parameter maxResults";
            return Err(Refusal::new("InvalidParameterCombination", why));
        }
        let unknown: Vec<_> = ids.iter().copied().filter(|id| self.volume(id).is_err()).collect();
        if !unknown.is_empty() {
            return Err(Refusal::no_volume(&unknown));
        }
        let filters = query.filters(known)?;
        let now = self.now();
        let found = self.volumes.iter().filter(|(id, volume)| {
            let wanted = ids.is_empty() || ids.contains(&id.as_str());
            wanted && volume.seen <= now && filters.pass(|name| field(volume, id, name))
        });
        Ok(found.map(|(id, volume)| (id.clone(), volume)).collect())
    }

    pub(super) fn describe_volume_status(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let known = ["volume-status.status", "availability-zone", "volume-id"];
        let found = self.found_volumes(query, &known, |volume, id, name| match name {
            "volume-status.status" => vec![health(volume).to_owned()],
            _ => volume.field(id, name),
        })?;
        let page = query.page(1000, self.now())?;
        let (page, token) = page.of(found);
        xml.list("volumeStatusSet", page, |xml, (id, volume)| {
            xml.leaf("volumeId", id);
            xml.leaf("availabilityZone", &volume.zone);
            xml.inside("volumeStatus", |xml| {
                xml.leaf("status", health(volume));
                xml.list("details", [("io-enabled", "passed", "failed")], |xml, (name, good, bad)| {
                    xml.leaf("name", name);
                    xml.leaf("status", if volume.impaired { bad } else { good });
                });
            });
            xml.inside("eventsSet", |_| ());
            xml.inside("actionsSet", |_| ());
        });
        xml.maybe("nextToken", token);
        Ok(())
    }

    pub(super) fn create_tags(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let tags = query.tags("Tag")?;
        let ids = query.list("ResourceId");
        for id in &ids {
            if id.starts_with("snap-") {
                self.snapshots.get(*id).ok_or_else(|| Refusal::no_snapshot(id))?;
            } else {
                self.volume(id)?;
            }
        }
        for id in ids {
            let of_volume = self.volumes.get_mut(id).map(|volume| &mut volume.tags);
            let of_snapshot = self.snapshots.get_mut(id).map(|snapshot| &mut snapshot.tags);
            if let Some(of_it) = of_volume.or(of_snapshot) {
                of_it.extend(tags.clone());
            }
        }
        xml.leaf("return", true);
        Ok(())
    }

    fn write_volume(&self, id: &str, volume: &Volume, xml: &mut Xml) {
        xml.leaf("volumeId", id);
        xml.leaf("size", volume.size);
        xml.leaf("snapshotId", volume.snapshot.as_deref().unwrap_or_default());
        xml.leaf("availabilityZone", &volume.zone);
        xml.leaf("availabilityZoneId", self.zone_id(&volume.zone));
        xml.leaf("status", volume.status());
        xml.leaf("createTime", self.clock.written(volume.created));
        xml.leaf("volumeType", &volume.kind);
        xml.maybe("iops", volume.iops);
        xml.maybe("throughput", volume.throughput);
        xml.leaf("encrypted", volume.encrypted);
        xml.maybe("kmsKeyId", volume.key.as_ref());
        xml.leaf("multiAttachEnabled", volume.multi_attach);
        if volume.fast {
            xml.leaf("fastRestored", true);
        }
        xml.list("attachmentSet", &volume.attachments, |xml, attachment| {
            self.write_attachment(id, attachment, xml)
        });
        if !volume.tags.is_empty() {
            write_tags(&volume.tags, xml);
        }
    }
}

/// What a volume can be made from.
struct Source {
    size: u64,
    encrypted: bool,
    key: Option<String>,
    lineage: String,
    file: Arc<std::fs::File>,
}

fn health(volume: &Volume) -> &'static str {
    match volume.state {
        VolumeState::Creating(..) => "insufficient-data",
        _ if volume.impaired => "impaired",
        _ => "ok",
    }
}

pub(super) fn write_tags(tags: &Tags, xml: &mut Xml) {
    xml.list("tagSet", tags, |xml, (key, value)| {
        xml.leaf("key", key);
        xml.leaf("value", value);
    });
}
