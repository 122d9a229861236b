//! How things look to who asks: what is referred to is told in full where that is asked for and as `{"href": …}` where it is
//! not, lists have pages and say where the others are, and no list has an order that anybody could rely on.

#![expect(clippy::indexing_slicing, reason = "what is made here has these fields")]

use serde_json::{Value, json};

use super::{
    asked::{Asked, Shape},
    error::Refusal,
    world::{FACILITIES, PLANS, Snapshot, World},
};
use crate::clock::Moment;

/// How many things are on a page by itself.
const PAGE: u64 = 10;

/// How many pages there can be.
const PAGES: u64 = 100_000;

/// The name that the server gives a volume: clients know it from the metadata service alone.
pub(super) fn name(id: &str) -> String {
    format!("volume-{}", id.get(..8).unwrap_or(id))
}

fn href(path: &str, id: &str) -> Value {
    json!({ "href": format!("{path}/{id}") })
}

pub(super) fn facility_json(code: &str) -> Value {
    let Some((id, code, name, storage)) = FACILITIES.iter().find(|(_, known, ..)| *known == code) else {
        return Value::Null;
    };
    let features = if *storage { json!(["baremetal", "storage"]) } else { json!(["baremetal"]) };
    json!({
        "id": id, "name": name, "code": code, "features": features, "address": null,
        "href": format!("/facilities/{id}"),
    })
}

pub(super) fn plan_json(slug: &str) -> Value {
    let Some((id, slug, name, line)) = PLANS.iter().find(|(_, known, ..)| *known == slug) else {
        return Value::Null;
    };
    json!({
        "id": id, "slug": slug, "name": name, "line": line, "description": "TBD", "specs": {}, "available_in": [],
        "pricing": { "hour": 0.000104 }, "href": format!("/plans/{id}"),
    })
}

impl World {
    /// A moment as most fields have it: whole seconds.
    fn date(&self, moment: Moment) -> String {
        let written = self.clock.written(moment);
        written.split('.').next().map(|seconds| format!("{seconds}Z")).unwrap_or(written)
    }

    pub(super) fn volume_json(&self, id: &str, shape: &Shape) -> Value {
        let Some(volume) = self.volumes.get(id) else { return Value::Null };
        let full = |told: Value, shape: bool| if shape { told } else { json!({ "href": told["href"] }) };
        let attachments = self.attachments_of(id).map(|(id, _)| match shape.has("attachments") {
            true => self.attachment_json(id, &shape.within("attachments")),
            false => href("/storage/attachments", id),
        });
        let policies = self.policies.iter().filter(|(_, policy)| policy.volume == id);
        let policies = policies.map(|(id, _)| full(self.policy_json(id), shape.has("snapshot_policies")));
        let mut told = json!({
            "id": id,
            "name": name(id),
            "description": volume.description,
            "size": volume.size,
            "locked": volume.locked,
            "billing_cycle": volume.billing_cycle,
            "state": volume.state(self.now()),
            "created_at": self.date(volume.created),
            "updated_at": self.date(volume.updated),
            "project": self.project_json(shape.has("project")),
            "facility": full(facility_json(volume.facility), shape.has("facility")),
            "snapshot_policies": policies.collect::<Vec<_>>(),
            "attachments": attachments.collect::<Vec<_>>(),
            "plan": full(plan_json(volume.plan), shape.keeps("plan")),
            "customdata": volume.customdata,
            "href": format!("/storage/{id}"),
        });
        if self.site.tells_access {
            told["access"] = json!({ "ips": self.ips, "iqn": volume.iqn });
        }
        told
    }

    fn project_json(&self, full: bool) -> Value {
        let mut told = href("/projects", &self.project);
        if full {
            told["id"] = json!(self.project);
            told["name"] = json!("kato");
        }
        told
    }

    pub(super) fn attachment_json(&self, id: &str, shape: &Shape) -> Value {
        let Some(attachment) = self.attachments.get(id) else { return Value::Null };
        let volume = match shape.has("volume") {
            true => self.volume_json(&attachment.volume, &shape.within("volume")),
            false => href("/storage", &attachment.volume),
        };
        let device = match shape.has("device") {
            true => self.device_json(&attachment.device),
            false => href("/devices", &attachment.device),
        };
        json!({
            "id": id, "created_at": self.date(attachment.created), "volume": volume, "device": device,
            "href": format!("/storage/attachments/{id}"),
        })
    }

    pub(super) fn device_json(&self, id: &str) -> Value {
        let Some(device) = self.devices.get(id) else { return Value::Null };
        let own = self.attachments.values().filter(|it| it.device == id);
        json!({
            "id": id,
            "short_id": id.get(..8),
            "hostname": device.hostname,
            "state": device.state,
            "iqn": device.iqn,
            "volumes": own.map(|it| href("/storage", &it.volume)).collect::<Vec<_>>(),
            "facility": facility_json(device.facility),
            "project": self.project_json(false),
            "href": format!("/devices/{id}"),
        })
    }

    pub(super) fn snapshot_json(&self, id: &str, snapshot: &Snapshot) -> Value {
        json!({
            "id": id,
            "status": "available",
            "timestamp": self.timestamp(snapshot.cut),
            "created_at": self.clock.written(snapshot.cut),
            "volume": href("/storage", &snapshot.volume),
        })
    }

    pub(super) fn policy_json(&self, id: &str) -> Value {
        let Some(policy) = self.policies.get(id) else { return Value::Null };
        json!({
            "id": id,
            "snapshot_frequency": policy.frequency,
            "snapshot_count": policy.count,
            "created_at": self.date(policy.created),
            "updated_at": self.date(policy.updated),
            "volume": href("/storage", &policy.volume),
            "href": format!("/storage/snapshot-policies/{id}"),
        })
    }

    /// The page that is asked for, and where the others are.
    pub(super) fn page(
        &self,
        asked: &Asked,
        path: &str,
        all: &[String],
    ) -> Result<(Vec<String>, Value), Refusal> {
        let page = asked.number("page")?.unwrap_or(1).clamp(1, PAGES);
        let size = asked.number("per_page")?.unwrap_or(PAGE).clamp(1, self.site.page);
        let total = u64::try_from(all.len()).unwrap_or(u64::MAX);
        let last = total.div_ceil(size).max(1);
        let at = |page: u64| json!({ "href": format!("{path}?page={page}") });
        let beside = |page: u64| if (1..=last).contains(&page) { at(page) } else { Value::Null };
        let meta = json!({
            "first": at(1),
            "previous": beside(page - 1),
            "self": at(page),
            "next": beside(page + 1),
            "last": at(last),
            "total": total,
            "current_page": page,
            "last_page": last,
        });
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let some = all.iter().skip(number((page - 1).saturating_mul(size))).take(number(size));
        Ok((some.cloned().collect(), meta))
    }
}
