//! What EC2 answers, as values: volumes, their changes, snapshots, machines. Names are those of its service model; what
//! is not needed here is not read.

use std::collections::BTreeMap;

use crate::{
    tags::{MARK, TOKEN},
    xml::Element,
};

/// The states of an attachment in which a machine may reach the volume.
const HELD: [&str; 4] = ["attaching", "attached", "detaching", "busy"];

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) id: String,
    pub(crate) gib: u64,
    pub(crate) kind: String,
    pub(crate) iops: Option<u64>,
    pub(crate) throughput: Option<u64>,
    pub(crate) encrypted: bool,
    pub(crate) kms_key: String,
    pub(crate) multi_attach: bool,
    pub(crate) zone: String,
    /// `creating`, `available`, `in-use`, `deleting`, `deleted` or `error`.
    pub(crate) state: String,
    /// When it was made, in a form that sorts.
    pub(crate) made: String,
    /// The snapshot that it was made from, or nothing.
    pub(crate) snapshot: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) attachments: Vec<Attachment>,
}

/// That a volume is attached to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) instance: String,
    pub(crate) device: String,
    /// `attaching`, `attached`, `detaching`, `busy` or `detached`.
    pub(crate) state: String,
}

impl Disk {
    pub(crate) fn read(element: &Element) -> Option<Self> {
        Some(Self {
            id: element.text("volumeId")?.to_owned(),
            gib: element.number("size")?,
            kind: element.word("volumeType"),
            iops: element.number("iops"),
            throughput: element.number("throughput"),
            encrypted: element.flag("encrypted"),
            kms_key: element.word("kmsKeyId"),
            multi_attach: element.flag("multiAttachEnabled"),
            zone: element.word("availabilityZone"),
            state: element.text("status")?.to_owned(),
            made: element.word("createTime"),
            snapshot: element.word("snapshotId"),
            tags: tags(element),
            attachments: element.items("attachmentSet").map(Attachment::read).collect(),
        })
    }

    pub(crate) fn token(&self) -> &str {
        self.tags.get(TOKEN).map_or("", String::as_str)
    }

    pub(crate) fn mark(&self) -> &str {
        self.tags.get(MARK).map_or("", String::as_str)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.gib.saturating_mul(1 << 30)
    }

    /// Whether it is not on its way out.
    pub(crate) fn is_there(&self) -> bool {
        !matches!(self.state.as_str(), "deleting" | "deleted")
    }

    /// Whether it can be used, now or soon.
    pub(crate) fn is_good(&self) -> bool {
        self.is_there() && self.state != "error"
    }

    /// How it is attached to a machine, if it is.
    pub(crate) fn attached_to(&self, instance: &str) -> Option<&Attachment> {
        self.held().find(|one| one.instance == instance)
    }

    /// All that keep it.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Attachment> {
        self.attachments.iter().filter(|one| HELD.contains(&one.state.as_str()))
    }

    /// The machines that keep it, for a person.
    pub(crate) fn holders(&self, but: &str) -> String {
        let holders: Vec<_> =
            self.held().map(|one| one.instance.as_str()).filter(|instance| *instance != but).collect();
        holders.join(", ")
    }
}

impl Attachment {
    pub(crate) fn read(element: &Element) -> Self {
        Self {
            instance: element.word("instanceId"),
            device: element.word("device"),
            state: element.word("status"),
        }
    }
}

fn tags(element: &Element) -> BTreeMap<String, String> {
    element.items("tagSet").map(|tag| (tag.word("key"), tag.word("value"))).collect()
}

/// A change of a volume: the last one that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) volume: String,
    /// `modifying`, `optimizing`, `completed` or `failed`.
    pub(crate) state: String,
    /// Why it failed.
    pub(crate) message: String,
    pub(crate) progress: u64,
    pub(crate) gib: Option<u64>,
    pub(crate) kind: String,
    pub(crate) iops: Option<u64>,
    pub(crate) throughput: Option<u64>,
}

impl Change {
    pub(crate) fn read(element: &Element) -> Option<Self> {
        Some(Self {
            volume: element.text("volumeId")?.to_owned(),
            state: element.text("modificationState")?.to_owned(),
            message: element.word("statusMessage"),
            progress: element.number("progress").unwrap_or_default(),
            gib: element.number("targetSize"),
            kind: element.word("targetVolumeType"),
            iops: element.number("targetIops"),
            throughput: element.number("targetThroughput"),
        })
    }

    /// Whether it has taken effect: what is optimised can be used.
    pub(crate) fn is_in_effect(&self) -> bool {
        matches!(self.state.as_str(), "optimizing" | "completed")
    }
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shot {
    pub(crate) id: String,
    pub(crate) volume: String,
    pub(crate) gib: u64,
    /// `pending`, `completed`, `error`, `recoverable` or `recovering`.
    pub(crate) state: String,
    /// Why it failed.
    pub(crate) message: String,
    pub(crate) started: String,
    pub(crate) description: String,
    pub(crate) tags: BTreeMap<String, String>,
}

impl Shot {
    pub(crate) fn read(element: &Element) -> Option<Self> {
        Some(Self {
            id: element.text("snapshotId")?.to_owned(),
            volume: element.word("volumeId"),
            gib: element.number("volumeSize")?,
            state: element.text("status")?.to_owned(),
            message: element.word("statusMessage"),
            started: element.word("startTime"),
            description: element.word("description"),
            tags: tags(element),
        })
    }

    pub(crate) fn token(&self) -> &str {
        self.tags.get(TOKEN).map_or("", String::as_str)
    }

    pub(crate) fn mark(&self) -> &str {
        self.tags.get(MARK).map_or("", String::as_str)
    }

    /// Whether it was not deleted: the account's recycle bin may keep it for a while.
    pub(crate) fn is_there(&self) -> bool {
        self.state != "recoverable"
    }
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// `pending`, `running`, `shutting-down`, `terminated`, `stopping` or `stopped`.
    pub(crate) state: String,
    /// Its device names, and the volumes behind them.
    pub(crate) devices: Vec<(String, String)>,
}

impl Machine {
    /// The machines of a reservation.
    pub(crate) fn read(reservation: &Element) -> impl Iterator<Item = Self> {
        reservation.items("instancesSet").map(|element| Self {
            state: element.child("instanceState").map(|state| state.word("name")).unwrap_or_default(),
            devices: element
                .items("blockDeviceMapping")
                .map(|device| {
                    let volume = device.child("ebs").map(|ebs| ebs.word("volumeId")).unwrap_or_default();
                    (device.word("deviceName"), volume)
                })
                .collect(),
        })
    }

    pub(crate) fn has(&self, volume: &str) -> bool {
        self.devices.iter().any(|(_, one)| one == volume)
    }
}

/// How a volume feels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Feeling {
    pub(crate) volume: String,
    /// `ok`, `warning`, `impaired` or `insufficient-data`.
    pub(crate) status: String,
    /// What EC2 says to it.
    pub(crate) events: Vec<String>,
}

impl Feeling {
    pub(crate) fn read(element: &Element) -> Option<Self> {
        Some(Self {
            volume: element.text("volumeId")?.to_owned(),
            status: element.child("volumeStatus")?.text("status")?.to_owned(),
            events: element.items("eventsSet").map(|event| event.word("description")).collect(),
        })
    }
}
