//! EC2's actions on a volume's shape. It never shrinks, one modification follows another only when that has ended, and a
//! day has room for four. The new size is there as soon as the volume is being optimized.

use std::time::Duration;

use super::{
    error::Refusal,
    fault::Fault,
    query::Query,
    volumes::checked,
    world::{Modification, Shape, VolumeState, World},
    xml::Xml,
};

/// How many modifications a day has room for.
const A_DAY: usize = 4;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl World {
    pub(super) fn modify_volume(
        &mut self,
        query: &Query,
        fault: Option<&Fault>,
        xml: &mut Xml,
    ) -> Result<(), Refusal> {
        let id = query.need("VolumeId")?;
        let to = self.wished(id, query)?;
        let now = self.now();
        let (wait, long) = (self.wait() / 2, self.wait());
        let volume = self.volume_mut(id)?;
        if let Some(running) = volume.modification.as_ref().map(|modification| modification.state(now))
            && running != "completed"
        {
            let why = format!("Cannot modify volume {id} while it is in the modification state '{running}'.");
            return Err(Refusal::new("IncorrectModificationState", why));
        }
        volume.modified.retain(|moment| *moment + DAY > now);
        if volume.modified.len() >= A_DAY || fault == Some(&Fault::Cooldown) {
            let why = format!(
                "You've reached the maximum modification rate per volume limit. Wait at least 6 hours between \
                 modifications per EBS volume ({id})."
            );
            return Err(Refusal::new("VolumeModificationRateExceeded", why));
        }
        let from = volume.shape();
        let (optimizes, ends) = (now + wait, now + wait + long);
        let modification = Modification { from, to, begun: now, optimizes, ends, applied: false };
        volume.modified.push(now);
        volume.modification = Some(modification.clone());
        xml.inside("volumeModification", |xml| self.write_modification(id, &modification, xml));
        Ok(())
    }

    /// What a volume is to be like.
    fn wished(&self, id: &str, query: &Query) -> Result<Shape, Refusal> {
        let volume = self.volume(id)?;
        if volume.state != VolumeState::Ready {
            return Err(Refusal::new(
                "IncorrectState",
                format!("{id} is in the '{}' state.", volume.status()),
            ));
        }
        let names = ["Size", "VolumeType", "Iops", "Throughput", "MultiAttachEnabled"];
        if names.iter().all(|name| query.text(name).is_none()) {
            return Err(Refusal::new("InvalidParameterCombination", "Nothing is to be modified."));
        }
        let size = query.number("Size")?.unwrap_or(volume.size);
        if size < volume.size {
            let why = format!("New size cannot be smaller than existing size, {} GiB", volume.size);
            return Err(Refusal::new("InvalidParameterValue", why));
        }
        let kind = query.text("VolumeType").unwrap_or(&volume.kind).to_owned();
        let multi_attach =
            query.text("MultiAttachEnabled").map_or(volume.multi_attach, |wished| wished == "true");
        if multi_attach != volume.multi_attach && !volume.attachments.is_empty() {
            return Err(Refusal::new(
                "IncorrectState",
                format!("{id} has to be detached for this modification."),
            ));
        }
        // Another type begins with its own figures.
        let stays = kind == volume.kind;
        checked(Shape {
            size,
            iops: query.number("Iops")?.or_else(|| volume.iops.filter(|_| stays)),
            throughput: query.number("Throughput")?.or_else(|| volume.throughput.filter(|_| stays)),
            kind,
            multi_attach,
        })
    }

    pub(super) fn describe_modifications(&mut self, query: &Query, xml: &mut Xml) -> Result<(), Refusal> {
        let now = self.now();
        let state = |modification: &Modification| modification.state(now).to_owned();
        let known = ["volume-id", "modification-state"];
        let found = self.found_volumes(query, &known, |volume, id, name| match name {
            "volume-id" => vec![id.to_owned()],
            _ => volume.modification.iter().map(state).collect(),
        })?;
        for id in query.list("VolumeId") {
            if self.volume(id)?.modification.is_none() {
                let why = format!("Modification for volume '{id}' does not exist.");
                return Err(Refusal::new("InvalidVolumeModification.NotFound", why));
            }
        }
        let modified = found.into_iter().filter_map(|(id, volume)| Some((id, volume.modification.as_ref()?)));
        let (page, token) = query.page(500, now)?.of(modified);
        xml.list("volumeModificationSet", page, |xml, (id, modification)| {
            self.write_modification(&id, modification, xml);
        });
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn write_modification(&self, id: &str, modification: &Modification, xml: &mut Xml) {
        let Modification { from, to, begun, ends, .. } = modification;
        let now = self.now();
        let state = modification.state(now);
        let length = ends.saturating_sub(*begun).as_secs_f64().max(f64::EPSILON);
        let part = (now.saturating_sub(*begun).as_secs_f64() / length).min(1.0);
        xml.leaf("volumeId", id);
        xml.leaf("modificationState", state);
        for (prefix, shape) in [("target", to), ("original", from)] {
            xml.leaf(&format!("{prefix}Size"), shape.size);
            xml.maybe(&format!("{prefix}Iops"), shape.iops);
            xml.maybe(&format!("{prefix}Throughput"), shape.throughput);
            xml.leaf(&format!("{prefix}VolumeType"), &shape.kind);
            xml.leaf(&format!("{prefix}MultiAttachEnabled"), shape.multi_attach);
        }
        xml.leaf("progress", format!("{:.0}", if state == "completed" { 100.0 } else { 99.0 * part }));
        xml.leaf("startTime", self.clock.written(*begun));
        xml.maybe("endTime", (state == "completed").then(|| self.clock.written(*ends)));
    }
}
