//! The API's actions on volumes: which may be made, found, changed and deleted. It makes one for each request that it hears,
//! whatever else there is with the same description: nothing in it is unique but ids.

use std::{fs::File, time::Duration};

use serde_json::{Value, json};

use super::{
    asked::{Asked, Shape},
    error::Refusal,
    fault::Fault,
    server::Answer,
    snapshots::Wish,
    world::{Coming, FACILITIES, GIB, PLANS, Volume, World},
};
use crate::clock::Moment;

/// What a billing cycle can be.
const CYCLES: [&str; 4] = ["hourly", "daily", "monthly", "yearly"];

/// The code of a site that has storage, by its code or its id.
fn facility(named: &str) -> Result<&'static str, Refusal> {
    match FACILITIES.iter().find(|(id, code, ..)| *id == named || *code == named) {
        Some((_, code, _, true)) => Ok(code),
        Some((_, code, _, false)) => Err(Refusal::wrong(format!("Facility {code} does not offer storage"))),
        None => Err(Refusal::wrong(format!("Facility {named} is not a valid facility"))),
    }
}

/// The slug of a plan of volumes, by its slug or its id.
fn plan(named: &str) -> Result<&'static str, Refusal> {
    let found =
        PLANS.iter().find(|(id, slug, _, line)| *line == "storage" && (*id == named || *slug == named));
    let (_, slug, ..) =
        found.ok_or_else(|| Refusal::wrong(format!("Plan {named} is not a valid storage plan")))?;
    Ok(slug)
}

fn billing_cycle(named: &str) -> Result<String, Refusal> {
    if CYCLES.contains(&named) {
        return Ok(named.to_owned());
    }
    Err(Refusal::wrong(format!("Billing cycle {named} is not included in the list")))
}

impl World {
    fn size(&self, gib: u64) -> Result<u64, Refusal> {
        let (least, most) = (self.site.minimum, self.site.maximum);
        if (least..=most).contains(&gib) {
            return Ok(gib);
        }
        Err(Refusal::wrong(format!("Size must be between {least} and {most} GB")))
    }

    pub(super) fn create_volume(
        &mut self,
        project: &str,
        asked: &Asked,
        fault: Option<&Fault>,
    ) -> Result<Answer, Refusal> {
        self.project(project)?;
        let needed = |what: &str, said: Option<&str>| {
            said.map(str::to_owned).ok_or_else(|| Refusal::wrong(format!("{what} can't be blank")))
        };
        let facility = facility(&needed("Facility", asked.text(&["facility", "facility_id"]))?)?;
        let plan = plan(&needed("Plan", asked.text(&["plan", "plan_id"]))?)?;
        let size = asked.number("size")?.ok_or_else(|| Refusal::wrong("Size can't be blank"))?;
        let size = self.size(size)?;
        let policies: Result<Vec<_>, _> = asked.each("snapshot_policies")?.iter().map(Wish::of).collect();
        let policies = policies?;
        let billing_cycle = billing_cycle(asked.text(&["billing_cycle"]).unwrap_or("hourly"))?;
        let locked = asked.flag("locked")?.unwrap_or(false);
        let description = asked.text(&["description"]).map(str::to_owned);
        let customdata = asked.value("customdata").cloned().unwrap_or_else(|| json!({}));
        let file = self.zeroes(size);
        let volume = Volume {
            description,
            size,
            facility,
            plan,
            locked,
            billing_cycle,
            customdata,
            file,
            ..self.blank(fault)
        };
        let id = self.add_volume(volume);
        for policy in policies {
            self.add_policy(&id, policy);
        }
        Ok(Answer::json(201, &self.volume_json(&id, &asked.shape())))
    }

    /// One of which nothing is said yet.
    pub(super) fn blank(&mut self, fault: Option<&Fault>) -> Volume {
        let now = self.now();
        Volume {
            description: None,
            size: 0,
            facility: "",
            plan: "",
            locked: false,
            billing_cycle: String::new(),
            customdata: json!({}),
            created: now,
            updated: now,
            seen: self.seen(fault),
            coming: self.coming(fault),
            released: Moment::ZERO,
            iqn: self.iqn(),
            file: std::path::PathBuf::new(),
        }
    }

    /// Puts it behind a target of its own.
    pub(super) fn add_volume(&mut self, volume: Volume) -> String {
        self.units.add(&volume.iqn, &volume.file, volume.size * GIB);
        let id = self.id();
        self.volumes.insert(id.clone(), volume);
        id
    }

    pub(super) fn list_volumes(&mut self, project: &str, asked: &Asked) -> Result<Answer, Refusal> {
        self.project(project)?;
        let now = self.now();
        let ids: Vec<_> =
            self.volumes.iter().filter(|(_, volume)| volume.seen <= now).map(|(id, _)| id.clone()).collect();
        let shape = asked.shape();
        let (page, meta) = self.page(asked, &format!("/projects/{project}/storage"), &ids)?;
        let volumes: Vec<_> = page.iter().map(|id| self.looked_at(id, &shape)).collect();
        Ok(Answer::json(200, &json!({ "volumes": volumes, "meta": meta })))
    }

    pub(super) fn get_volume(&mut self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        self.volume(id)?;
        Ok(Answer::json(200, &self.looked_at(id, &asked.shape())))
    }

    /// How it looks; a look counts where states come by looks.
    fn looked_at(&mut self, id: &str, shape: &Shape) -> Value {
        let seen = self.volume_json(id, shape);
        if let Some(Volume { coming: Coming::Looks(left), .. }) = self.volumes.get_mut(id) {
            *left = left.saturating_sub(1);
        }
        seen
    }

    pub(super) fn update_volume(&mut self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        let now = self.now();
        let attached = self.attachments_of(id).next().is_some();
        let volume = self.volume(id)?;
        let locked = asked.flag("locked")?;
        if volume.locked && locked != Some(false) {
            return Err(Refusal::wrong("Cannot update a locked volume"));
        }
        let size = asked.number("size")?.filter(|size| *size != volume.size);
        if let Some(size) = size {
            if size < volume.size {
                return Err(Refusal::wrong("Size must be greater than the current size"));
            }
            if attached && !self.site.grows_attached {
                return Err(Refusal::wrong("Cannot resize a volume while it is attached"));
            }
            self.size(size)?;
        }
        let plan = asked.text(&["plan", "plan_id"]).map(plan).transpose()?;
        let billing_cycle = asked.text(&["billing_cycle"]).map(billing_cycle).transpose()?;
        let volume = self.volume_mut(id)?;
        volume.plan = plan.unwrap_or(volume.plan);
        volume.billing_cycle = billing_cycle.unwrap_or_else(|| volume.billing_cycle.clone());
        volume.locked = locked.unwrap_or(volume.locked);
        if let Some(description) = asked.text(&["description"]) {
            volume.description = Some(description.to_owned());
        }
        if let Some(customdata) = asked.value("customdata") {
            volume.customdata = customdata.clone();
        }
        volume.updated = now;
        if let Some(size) = size {
            volume.size = size;
            let file = File::options().write(true).open(&volume.file);
            file.and_then(|file| file.set_len(size * GIB)).expect("a volume that can grow");
            let iqn = volume.iqn.clone();
            self.units.change(&iqn, |unit| unit.bytes = size * GIB);
        }
        Ok(Answer::json(200, &self.volume_json(id, &asked.shape())))
    }

    pub(super) fn delete_volume(&mut self, id: &str) -> Result<Answer, Refusal> {
        let now = self.now();
        let attached = self.attachments_of(id).next().is_some();
        let volume = self.volume(id)?;
        if volume.locked {
            return Err(Refusal::wrong("Cannot delete a locked volume"));
        }
        if attached {
            return Err(Refusal::wrong("Cannot delete a volume that is attached"));
        }
        if now < volume.released {
            return Err(Refusal::wrong("Cannot delete a volume that is still being detached"));
        }
        self.drop_volume(id);
        Ok(Answer::empty(204))
    }

    /// Takes it away, with its snapshots and policies.
    pub(super) fn drop_volume(&mut self, id: &str) {
        let Some(volume) = self.volumes.remove(id) else { return };
        self.units.remove(&volume.iqn);
        Self::forget_file(&volume.file);
        self.policies.retain(|_, policy| policy.volume != id);
        self.snapshots.retain(|_, snapshot| {
            if snapshot.volume == id {
                Self::forget_file(&snapshot.file);
            }
            snapshot.volume != id
        });
    }

    pub(super) fn get_customdata(&self, id: &str) -> Result<Answer, Refusal> {
        Ok(Answer::json(200, &self.volume(id)?.customdata))
    }

    /// What became of a volume. Which words it had for that is not known, so it tells of nothing.
    pub(super) fn list_events(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        self.volume(id)?;
        let (_, meta) = self.page(asked, &format!("/volumes/{id}/events"), &[])?;
        Ok(Answer::json(200, &json!({ "events": [], "meta": meta })))
    }

    /// Keeps whoever deletes a volume waiting for as long as it is being let go.
    pub(super) fn release(&mut self, id: &str, lag: Duration) {
        let until = self.now() + lag;
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.released = until;
        }
    }
}
