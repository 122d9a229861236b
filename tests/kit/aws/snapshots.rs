//! EC2's actions on snapshots. A snapshot has a volume's bytes of the moment in which it is asked for, whenever it is
//! completed; it has no client token, so one that is asked for twice is there twice.

use std::sync::Arc;

use super::{
    blocks::Blocks,
    error::Refusal,
    fault::Fault,
    query::{Query, tag_field},
    volumes::write_tags,
    world::{Snapshot, SnapshotState, VolumeState, World},
    xml::Xml,
};

/// How many snapshots of a volume may be pending.
const PENDING: usize = 5;

/// What snapshots can be asked for by.
const FILTERS: &[&str] = &[
    "snapshot-id",
    "volume-id",
    "volume-size",
    "status",
    "description",
    "encrypted",
    "owner-id",
    "tag-key",
    "tag:",
];

impl Snapshot {
    fn field(&self, id: &str, name: &str) -> Vec<String> {
        vec![match name {
            "snapshot-id" => id.to_owned(),
            "volume-id" => self.volume.clone(),
            "volume-size" => self.size.to_string(),
            "status" => self.status().to_owned(),
            "description" => self.description.clone(),
            "encrypted" => self.encrypted.to_string(),
            "owner-id" => super::ACCOUNT.to_owned(),
            _ => return tag_field(&self.tags, name),
        }]
    }
}

impl World {
    pub(super) fn create_snapshot(
        &mut self,
        query: &Query,
        fault: Option<&Fault>,
        xml: &mut Xml,
    ) -> Result<(), Refusal> {
        let of = query.need("VolumeId")?;
        let tags = query.tags_for("snapshot")?;
        let volume = self.volume(of)?;
        if volume.state != VolumeState::Ready {
            return Err(Refusal::new(
                "IncorrectState",
                format!("{of} is in the '{}' state.", volume.status()),
            ));
        }
        let pending =
            self.snapshots.values().filter(|it| it.volume == of && it.status() == "pending").count();
        if pending >= PENDING {
            let why =
                format!("Maximum number of concurrent snapshots, {PENDING}, is reached for volume {of}");
            return Err(Refusal::new("ConcurrentSnapshotLimitExceeded", why));
        }
        let (size, bytes, encrypted) = (volume.size, volume.bytes(), volume.encrypted);
        let (key, lineage, file) = (volume.key.clone(), volume.lineage.clone(), Arc::clone(&volume.file));
        let id = self.id("snap");
        let name = self.file_name(&id);
        let frozen = self.ground.copy(&name, &file, bytes).unwrap();
        let now = self.now();
        let snapshot = Snapshot {
            volume: of.to_owned(),
            size,
            parent: None,
            lineage,
            tags,
            description: query.text("Description").unwrap_or_default().to_owned(),
            encrypted,
            key,
            started: now,
            state: SnapshotState::Pending(now + self.wait(), fault == Some(&Fault::FailsLater)),
            blocks: Arc::new(Blocks::of(frozen)),
        };
        self.write_snapshot(&id, &snapshot, xml);
        self.snapshots.insert(id, snapshot);
        Ok(())
    }

    pub(super) fn delete_snapshot(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let id = query.need("SnapshotId")?;
        self.snapshots.remove(id).ok_or_else(|| Refusal::no_snapshot(id))?;
        self.fast.retain(|(snapshot, _)| snapshot != id);
        xml.leaf("return", true);
        Ok(())
    }

    pub(super) fn describe_snapshots(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let ids = query.list("SnapshotId");
        if let Some(id) = ids.iter().find(|id| !id.starts_with("snap-")) {
            return Err(Refusal::value("snapshotId", id, "Expected: 'snap-...'."));
        }
        if let Some(id) = ids.iter().find(|id| !self.snapshots.contains_key(**id)) {
            return Err(Refusal::no_snapshot(id));
        }
        let page = query.page(1000, self.now())?;
        if !ids.is_empty() && page.is_asked_for() {
            let why = "The parameter snapshotIds cannot be used with the parameter maxResults";
            return Err(Refusal::new("InvalidParameterCombination", why));
        }
        let owners = query.list("Owner");
        let ours = owners.is_empty() || owners.iter().any(|owner| ["self", super::ACCOUNT].contains(owner));
        let filters = query.filters(FILTERS)?;
        let found = self.snapshots.iter().filter(|(id, snapshot)| {
            let wanted = ids.is_empty() || ids.contains(&id.as_str());
            ours && wanted && filters.pass(|name| snapshot.field(id, name))
        });
        let (page, token) = page.of(found.map(|(id, snapshot)| (id.clone(), snapshot)));
        xml.list("snapshotSet", page, |xml, (id, snapshot)| self.write_snapshot(&id, snapshot, xml));
        xml.maybe("nextToken", token);
        Ok(())
    }

    pub(super) fn enable_fast_restores(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let (zones, ids) = (query.list("AvailabilityZone"), query.list("SourceSnapshotId"));
        if zones.is_empty() || ids.is_empty() {
            return Err(Refusal::missing(if ids.is_empty() {
                "SourceSnapshotId"
            } else {
                "AvailabilityZone"
            }));
        }
        if let Some(zone) = zones.iter().find(|zone| !self.zones().any(|known| known == **zone)) {
            return Err(Refusal::new("InvalidZone.NotFound", format!("The zone '{zone}' does not exist.")));
        }
        let (known, unknown): (Vec<_>, Vec<_>) =
            ids.into_iter().partition(|id| self.snapshots.contains_key(*id));
        let pairs: Vec<_> = known.iter().flat_map(|id| zones.iter().map(move |zone| (*id, *zone))).collect();
        xml.list("successful", &pairs, |xml, (id, zone)| {
            xml.leaf("snapshotId", id);
            xml.leaf("availabilityZone", zone);
            xml.leaf("state", "enabling");
            xml.leaf("stateTransitionReason", "Client.UserInitiated");
            xml.leaf("ownerId", super::ACCOUNT);
            xml.leaf("enablingTime", self.clock.written(self.now()));
        });
        xml.list("unsuccessful", &unknown, |xml, id| {
            xml.leaf("snapshotId", id);
            xml.list("fastSnapshotRestoreStateErrorSet", &zones, |xml, zone| {
                xml.leaf("availabilityZone", zone);
                xml.inside("error", |xml| {
                    xml.leaf("code", "InvalidSnapshot.NotFound");
                    xml.leaf("message", format!("The snapshot '{id}' does not exist."));
                });
            });
        });
        self.fast.extend(pairs.into_iter().map(|(id, zone)| (id.to_owned(), zone.to_owned())));
        Ok(())
    }

    fn write_snapshot(&self, id: &str, snapshot: &Snapshot, xml: &mut Xml) {
        xml.leaf("snapshotId", id);
        xml.leaf("volumeId", &snapshot.volume);
        xml.leaf("status", snapshot.status());
        xml.maybe(
            "statusMessage",
            (snapshot.status() == "error").then_some("The snapshot was not completed in time."),
        );
        xml.leaf("startTime", self.clock.written(snapshot.started));
        if let SnapshotState::Completed(moment) = snapshot.state {
            xml.leaf("completionTime", self.clock.written(moment));
        }
        xml.leaf("progress", self.progress(snapshot));
        xml.leaf("ownerId", super::ACCOUNT);
        xml.leaf("volumeSize", snapshot.size);
        xml.leaf("description", &snapshot.description);
        xml.leaf("encrypted", snapshot.encrypted);
        xml.maybe("kmsKeyId", snapshot.key.as_ref());
        xml.leaf("storageTier", "standard");
        if !snapshot.tags.is_empty() {
            write_tags(&snapshot.tags, xml);
        }
    }

    fn progress(&self, snapshot: &Snapshot) -> String {
        let part = match snapshot.state {
            SnapshotState::Completed(_) => 1.0,
            SnapshotState::Pending(until, _) => {
                let length = until.saturating_sub(snapshot.started).as_secs_f64().max(f64::EPSILON);
                (self.now().saturating_sub(snapshot.started).as_secs_f64() / length).min(0.99)
            }
            SnapshotState::Open { .. } | SnapshotState::Error => 0.0,
        };
        format!("{:.0}%", part * 100.0)
    }
}
