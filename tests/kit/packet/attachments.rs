//! Which machine may reach a volume, as the API and the metadata service have it. The API lets a second machine in without
//! a word; and it lets none go that has a session, or had one a moment ago, unless the machine is off.

use serde_json::{Value, json};

use super::{
    asked::Asked,
    error::Refusal,
    fault::Fault,
    server::Answer,
    world::{Attachment, World, session},
};
use crate::clock::Moment;

impl World {
    pub(super) fn attach(
        &mut self,
        id: &str,
        asked: &Asked,
        fault: Option<&Fault>,
    ) -> Result<Answer, Refusal> {
        let now = self.now();
        let volume = self.volume(id)?;
        let device_id = asked.text(&["device_id"]).ok_or_else(|| Refusal::wrong("Device can't be blank"))?;
        let device = self.devices.get(device_id).ok_or_else(Refusal::not_found)?;
        if device.facility != volume.facility {
            return Err(Refusal::wrong("Device and volume must be in the same facility"));
        }
        if !self.site.attaches_early && volume.state(now) != "active" {
            return Err(Refusal::wrong("Cannot attach a volume that is not active"));
        }
        if self.attachments_of(id).any(|(_, it)| it.device == device_id) {
            return Err(Refusal::already_attached());
        }
        if self.site.strict && self.attachments_of(id).next().is_some() {
            return Err(Refusal::wrong("Volume is already attached to another instance"));
        }
        let late = match fault {
            Some(Fault::KnownAfter(time)) => *time,
            _ => self.site.attach_lag,
        };
        let attachment = Attachment {
            volume: id.to_owned(),
            device: device_id.to_owned(),
            created: now,
            known: now + late,
            open: false,
            busy: Moment::ZERO,
        };
        let new = self.id();
        self.attachments.insert(new.clone(), attachment);
        self.settle();
        Ok(Answer::json(201, &self.attachment_json(&new, &asked.shape())))
    }

    pub(super) fn list_attachments(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        self.volume(id)?;
        let shape = asked.shape();
        let all: Vec<_> = self.attachments_of(id).map(|(id, _)| self.attachment_json(id, &shape)).collect();
        Ok(Answer::json(200, &json!({ "attachments": all })))
    }

    pub(super) fn get_attachment(&self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        self.attachments.get(id).ok_or_else(Refusal::not_found)?;
        Ok(Answer::json(200, &self.attachment_json(id, &asked.shape())))
    }

    pub(super) fn detach(&mut self, id: &str) -> Result<Answer, Refusal> {
        let attachment = self.attachments.get(id).ok_or_else(Refusal::not_found)?;
        let off = self.devices.get(&attachment.device).is_none_or(|device| device.state == "inactive");
        if !off && self.is_busy(id) {
            return Err(Refusal::in_use());
        }
        self.end_attachment(id);
        Ok(if self.site.detach_says_nothing { Answer::empty(204) } else { Answer::json(200, &json!({})) })
    }

    /// Whether its machine has a session of it, or had one a moment ago.
    fn is_busy(&mut self, id: &str) -> bool {
        let sessions = self.look();
        let now = self.now();
        let has = |it: &Attachment| {
            let session = session(&self.volumes, &self.devices, it);
            session.is_some_and(|session| sessions.contains(&session)) || now < it.busy
        };
        self.attachments.get(id).is_some_and(has)
    }

    pub(super) fn end_attachment(&mut self, id: &str) {
        self.shut(id);
        if let Some(attachment) = self.attachments.remove(id) {
            let lag = self.site.detach_lag;
            self.release(&attachment.volume, lag);
        }
    }

    pub(super) fn list_devices(&self, project: &str, asked: &Asked) -> Result<Answer, Refusal> {
        self.project(project)?;
        let ids: Vec<_> = self.devices.keys().cloned().collect();
        let (page, meta) = self.page(asked, &format!("/projects/{project}/devices"), &ids)?;
        let devices: Vec<_> = page.iter().map(|id| self.device_json(id)).collect();
        Ok(Answer::json(200, &json!({ "devices": devices, "meta": meta })))
    }

    pub(super) fn get_device(&self, id: &str) -> Result<Answer, Refusal> {
        self.devices.get(id).ok_or_else(Refusal::not_found)?;
        Ok(Answer::json(200, &self.device_json(id)))
    }

    pub(super) fn delete_device(&mut self, id: &str, asked: &Asked) -> Result<Answer, Refusal> {
        self.devices.get(id).ok_or_else(Refusal::not_found)?;
        let attached = self.attachments.values().any(|it| it.device == id);
        if attached && asked.flag("force_delete")? != Some(true) {
            return Err(Refusal::wrong("Cannot delete a device with attached volumes"));
        }
        self.power(id, "inactive");
        let own: Vec<_> =
            self.attachments.iter().filter(|(_, it)| it.device == id).map(|(id, _)| id.clone()).collect();
        for attachment in own {
            self.end_attachment(&attachment);
        }
        self.devices.remove(id);
        Ok(Answer::empty(204))
    }

    /// Lets a machine be in this state. One that is off has no sessions, and is let in nowhere until it runs.
    pub(super) fn power(&mut self, id: &str, state: &'static str) {
        self.devices.get_mut(id).expect("a device").state = state;
        if state != "inactive" {
            self.settle();
            return;
        }
        let own: Vec<_> =
            self.attachments.iter().filter(|(_, it)| it.device == id).map(|(id, _)| id.clone()).collect();
        for attachment in own {
            self.shut(&attachment);
            if let Some(it) = self.attachments.get(&attachment)
                && let Some(session) = session(&self.volumes, &self.devices, it)
            {
                self.units.end_session(&session);
            }
        }
    }

    /// What the metadata service tells a machine of itself.
    pub(super) fn metadata(&self, id: &str) -> Result<Value, Refusal> {
        let now = self.now();
        let device = self.devices.get(id).ok_or_else(Refusal::not_found)?;
        let known = self.attachments.values().filter(|it| it.device == id && it.known <= now);
        let told = |it: &Attachment| {
            let volume = self.volumes.get(&it.volume)?;
            Some(json!({
                "name": super::shown::name(&it.volume),
                "iqn": volume.iqn,
                "ips": self.ips,
                "capacity": { "size": volume.size.to_string(), "unit": "gb" },
            }))
        };
        let volumes: Vec<_> = known.filter_map(told).collect();
        Ok(json!({
            "id": id,
            "hostname": device.hostname,
            "iqn": device.iqn,
            "facility": device.facility,
            "plan": "baremetal_1",
            "volumes": volumes,
        }))
    }
}
