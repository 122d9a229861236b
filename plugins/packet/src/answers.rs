//! What the API answers, as values. What is not needed here is not read, and what is not told is empty: which of it has to
//! be there, each operation knows.

use serde_json::Value;

use crate::{
    json::{self, at, id, is_id, items, number, text},
    marks::{Label, Notes},
};

/// A volume.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) id: String,
    /// The cloud's own name for it, by which the metadata service knows it.
    pub(crate) name: String,
    /// `queued`, `provisioning`, `active`; others are not known.
    pub(crate) state: String,
    pub(crate) gib: u64,
    /// Slug and id.
    pub(crate) plan: [String; 2],
    /// Code and id.
    pub(crate) facility: [String; 2],
    pub(crate) billing_cycle: String,
    pub(crate) locked: bool,
    /// When it was made, in a form that sorts.
    pub(crate) created: String,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) policies: Vec<Policy>,
    /// Where its target is, where the API tells.
    pub(crate) access: Option<Access>,
    pub(crate) description: String,
    /// What the description says, if it is one of ours: maybe of the volume that this is a clone of.
    pub(crate) label: Option<Label>,
    pub(crate) customdata: Value,
    pub(crate) notes: Notes,
}

/// That a machine may reach a volume.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) id: String,
    /// Empty where it is not told.
    pub(crate) device: String,
    /// Who the machine has to say that it is; empty where it is not told.
    pub(crate) initiator: String,
}

/// Where a volume's target is.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) ips: Vec<String>,
    pub(crate) iqn: String,
}

/// How often the cloud cuts snapshots by itself, and how many it keeps.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) id: String,
    /// Empty where it is not told.
    pub(crate) frequency: String,
    pub(crate) count: u64,
}

/// A snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Shot {
    pub(crate) id: String,
    pub(crate) status: String,
    /// Its name where one is cloned: seconds since 1970 with up to nine decimals.
    pub(crate) timestamp: String,
}

impl Volume {
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let id = id(value);
        let (plan, facility) = (at(value, "plan"), at(value, "facility"));
        let customdata = at(value, "customdata").clone();
        let description = text(value, "description");
        let name = Some(text(value, "name")).filter(|name| !name.is_empty());
        Some(Self {
            name: name.unwrap_or_else(|| format!("volume-{}", id.get(..8).unwrap_or(&id))),
            state: text(value, "state"),
            gib: at(value, "size").as_u64()?,
            plan: [text(plan, "slug"), json::id(plan)],
            facility: [text(facility, "code"), json::id(facility)],
            billing_cycle: text(value, "billing_cycle"),
            locked: *at(value, "locked") == true,
            created: text(value, "created_at"),
            attachments: items(value, "attachments").map(Attachment::read).collect(),
            policies: items(value, "snapshot_policies").map(Policy::read).collect(),
            access: Access::read(at(value, "access")),
            label: Label::read(&description),
            description,
            notes: Notes::of(&id, &customdata),
            customdata,
            id: Some(id).filter(|id| is_id(id))?,
        })
    }

    /// The creation token, if what is written on it is written for it: a clone may come with what was written for its
    /// source.
    pub(crate) fn token(&self) -> Option<&str> {
        let label = self.label.as_ref().filter(|label| label.id.is_empty() || label.id == self.id)?;
        Some(&label.token)
    }

    /// Whether it was made to its end: its id is in what is written on it.
    pub(crate) fn is_whole(&self) -> bool {
        self.label.as_ref().is_some_and(|label| label.id == self.id)
    }

    /// Whether it can be a clone of another that nobody wrote on yet.
    pub(crate) fn is_bare_clone(&self, source: &Self) -> bool {
        let bare = self.label.as_ref().map_or(self.description.is_empty(), |label| label.id == source.id);
        self.id != source.id && bare && self.plan == source.plan && self.facility == source.facility
    }

    pub(crate) fn is_active(&self) -> bool {
        self.state == "active"
    }

    /// The machines that have it, but for one; all for an empty name. Nothing where there are none.
    pub(crate) fn others(&self, device: &str) -> Option<String> {
        let others = self.attachments.iter().filter(|one| one.device != device || device.is_empty());
        let others: Vec<_> =
            others.map(|one| if one.device.is_empty() { "?" } else { &one.device }).collect();
        Some(others.join(", ")).filter(|others| !others.is_empty())
    }

    pub(crate) fn attached_to(&self, device: &str) -> Option<&Attachment> {
        self.attachments.iter().find(|one| one.device == device)
    }
}

impl Attachment {
    pub(crate) fn read(value: &Value) -> Self {
        let device = at(value, "device");
        Self { id: id(value), device: id(device), initiator: text(device, "iqn") }
    }
}

impl Access {
    /// The portals and the target, if both are told.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        let ips: Vec<_> = items(value, "ips").filter_map(Value::as_str).map(str::to_owned).collect();
        let iqn = text(value, "iqn");
        (!ips.is_empty() && !iqn.is_empty()).then_some(Self { ips, iqn })
    }
}

impl Policy {
    fn read(value: &Value) -> Self {
        let frequency = text(value, "snapshot_frequency");
        Self { id: id(value), frequency, count: number(value, "snapshot_count") }
    }

    /// As it is written in parameters.
    pub(crate) fn spell(&self) -> String {
        format!("{}:{}", self.frequency, self.count)
    }
}

impl Shot {
    pub(crate) fn read(value: &Value) -> Self {
        Self { id: id(value), status: text(value, "status"), timestamp: text(value, "timestamp") }
    }

    /// Its moment in a form that sorts.
    pub(crate) fn moment(&self) -> String {
        let (seconds, rest) = self.timestamp.split_once('.').unwrap_or((&self.timestamp, ""));
        format!("{seconds:0>12}.{rest:0<9}")
    }

    /// The same in milliseconds since 1970.
    pub(crate) fn moment_ms(&self) -> Option<u64> {
        let moment = self.moment().replace('.', "");
        Some(moment.parse::<u128>().ok()?.checked_div(1_000_000)?.try_into().unwrap_or(u64::MAX))
    }
}
