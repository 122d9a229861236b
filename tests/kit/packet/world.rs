//! What there is in the model: machines, volumes, attachments, snapshots and policies, and what becomes of them as time
//! passes. Requests change it under a lock and `settle` lets time do its part, before every request and many times a second
//! besides: a policy cuts and a target lets somebody in whether anybody asks or not.
//!
//! ```text
//! queued ──► provisioning ──► active ──Attach──► its target lets the machine in, a moment later
//!                               │                    │
//!             DeleteVolume ◄────┴──── Detach ◄───────┴── no session, and none a moment ago
//! ```
//!
//! Every volume is a file behind a target of its own from the moment on at which it is made; nobody is let in who has it
//! not attached. Which machine has a session of it is the target's to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use super::{Site, error::Refusal, fault::Fault};
use crate::{
    clock::{Chance, Clock, Moment},
    tgt::{Session, Units},
};

/// A GiB. The API says GB and means this.
pub(super) const GIB: u64 = 1 << 30;

/// How often the target is asked who is logged in, when nobody needs to know at once.
const LOOK: Duration = Duration::from_millis(200);

/// A site that there is: its id, its code, its name, and whether it has storage.
pub(super) const FACILITIES: [(&str, &str, &str, bool); 3] = [
    ("77c1d3e0-3333-4444-8555-001122334455", "tst1", "Test Site 1", true),
    ("77c1d3e0-3333-4444-8555-001122334456", "tst2", "Test Site 2", true),
    ("77c1d3e0-3333-4444-8555-001122334457", "tst3", "Test Site 3", false),
];

/// A plan: its id, its slug, its name, and its line.
pub(super) const PLANS: [(&str, &str, &str, &str); 4] = [
    ("87728148-3155-4992-a730-8d1e6aca8a32", "storage_1", "Standard", "storage"),
    ("d6570cfb-38fa-4467-92b3-e45d059bb249", "storage_2", "Performance", "storage"),
    ("1f302828-c5aa-42e7-b219-d9c40b4e3483", "storage_snapshot", "Snapshot", "storage_snapshot"),
    ("6d1f1ffa-7912-4b78-b50d-88cc7c8ab40f", "baremetal_1", "Type 1", "baremetal"),
];

#[derive(Debug)]
pub(super) struct World {
    pub(super) site: Site,
    pub(super) project: String,
    pub(super) other_project: String,
    /// Addresses of the target's portals.
    pub(super) ips: [String; 2],
    pub(super) units: Arc<Units>,
    pub(super) clock: Clock,
    pub(super) chance: Chance,
    pub(super) devices: BTreeMap<String, Device>,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) attachments: BTreeMap<String, Attachment>,
    pub(super) snapshots: BTreeMap<String, Snapshot>,
    pub(super) policies: BTreeMap<String, Policy>,
    folder: PathBuf,
    files: u64,
    looked: Moment,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) hostname: String,
    pub(super) facility: &'static str,
    pub(super) iqn: String,
    /// `active`, `powering_off` or `inactive`.
    pub(super) state: &'static str,
}

#[derive(Debug)]
pub(super) struct Volume {
    pub(super) description: Option<String>,
    /// In GiB.
    pub(super) size: u64,
    pub(super) facility: &'static str,
    pub(super) plan: &'static str,
    pub(super) locked: bool,
    pub(super) billing_cycle: String,
    pub(super) customdata: Value,
    pub(super) created: Moment,
    pub(super) updated: Moment,
    /// From when on it is found.
    pub(super) seen: Moment,
    pub(super) coming: Coming,
    /// Until when it is still being let go after its last attachment.
    pub(super) released: Moment,
    pub(super) iqn: String,
    pub(super) file: PathBuf,
}

/// How a volume becomes active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// At these moments it is provisioned, and active.
    InTime(Moment, Moment),
    /// After so many looks.
    Looks(u32),
    /// Only on command.
    Never,
}

impl Volume {
    pub(super) fn state(&self, now: Moment) -> &'static str {
        match self.coming {
            Coming::InTime(begins, _) if now < begins => "queued",
            Coming::InTime(_, ends) if now < ends => "provisioning",
            Coming::InTime(..) | Coming::Looks(0) => "active",
            Coming::Looks(1) | Coming::Never => "provisioning",
            Coming::Looks(_) => "queued",
        }
    }
}

#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) volume: String,
    pub(super) device: String,
    pub(super) created: Moment,
    /// From when on the target and the metadata service know of it.
    pub(super) known: Moment,
    /// Whether the target lets the machine in.
    pub(super) open: bool,
    /// Until when the machine counts as one that uses it.
    pub(super) busy: Moment,
}

#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) volume: String,
    /// The policy that cut it, if one did.
    pub(super) policy: Option<String>,
    pub(super) cut: Moment,
    pub(super) seen: Moment,
    /// In GiB.
    pub(super) size: u64,
    pub(super) file: PathBuf,
}

#[derive(Debug)]
pub(super) struct Policy {
    pub(super) volume: String,
    pub(super) frequency: &'static str,
    pub(super) count: u64,
    pub(super) created: Moment,
    pub(super) updated: Moment,
    /// When it cuts next.
    pub(super) next: Moment,
}

impl World {
    pub(super) fn new(site: Site, folder: &Path, units: Arc<Units>, ips: [String; 2]) -> Self {
        let mut chance = Chance::of_seed(site.seed);
        Self {
            project: uuid(&mut chance),
            other_project: uuid(&mut chance),
            site,
            ips,
            units,
            clock: Clock::start(),
            chance,
            devices: BTreeMap::new(),
            volumes: BTreeMap::new(),
            attachments: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            policies: BTreeMap::new(),
            folder: folder.to_owned(),
            files: 0,
            looked: Moment::ZERO,
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    pub(super) fn id(&mut self) -> String {
        uuid(&mut self.chance)
    }

    /// A new target's name.
    pub(super) fn iqn(&mut self) -> String {
        format!("{}{:016x}", super::IQN_PREFIX, self.chance.number())
    }

    /// A wait of some seconds, by the site's pace.
    pub(super) fn wait(&mut self, seconds: std::ops::Range<f64>) -> Duration {
        self.chance.between(seconds).mul_f64(self.site.pace)
    }

    /// How a volume that is asked for now becomes active.
    pub(super) fn coming(&mut self, fault: Option<&Fault>) -> Coming {
        let now = self.now();
        let begins = now + self.wait(0.5..3.0);
        let ends = begins + self.wait(1.0..6.0);
        match (fault, self.site.looks) {
            (Some(Fault::Stuck), _) => Coming::Never,
            (Some(Fault::TakesAtLeast(time)), _) => Coming::InTime(now + *time / 2, now + *time),
            (_, Some(looks)) => Coming::Looks(looks),
            (_, None) => Coming::InTime(begins, ends),
        }
    }

    /// From when on what is made now is found.
    pub(super) fn seen(&self, fault: Option<&Fault>) -> Moment {
        self.now() + if let Some(Fault::NotFoundFor(time)) = fault { *time } else { Duration::ZERO }
    }

    /// A file for the bytes of a volume or a snapshot.
    pub(super) fn new_file(&mut self) -> PathBuf {
        self.files += 1;
        self.folder.join(format!("bytes-{}", self.files))
    }

    /// A file of so many zeroes.
    pub(super) fn zeroes(&mut self, gib: u64) -> PathBuf {
        let path = self.new_file();
        File::create_new(&path).and_then(|file| file.set_len(gib * GIB)).expect("room for a volume");
        path
    }

    /// A file with the bytes that this one has at this moment, whoever writes to it.
    pub(super) fn copy(&mut self, from: &Path, gib: u64) -> PathBuf {
        let path = self.new_file();
        let mut copy = Command::new("cp");
        copy.args(["--sparse=always", "--reflink=auto"]).arg(from).arg(&path);
        let done = self.units.at_one_moment(|| copy.output().expect("cp starts"));
        assert!(done.status.success(), "{copy:?}: {}", String::from_utf8_lossy(&done.stderr));
        File::options().write(true).open(&path).and_then(|file| file.set_len(gib * GIB)).expect("a copy");
        path
    }

    /// The only project that the token is for.
    pub(super) fn project(&self, id: &str) -> Result<(), Refusal> {
        if id == self.project {
            Ok(())
        } else if id == self.other_project {
            Err(Refusal::not_allowed())
        } else {
            Err(Refusal::not_found())
        }
    }

    /// A volume that is found.
    pub(super) fn volume(&self, id: &str) -> Result<&Volume, Refusal> {
        let now = self.now();
        self.volumes.get(id).filter(|volume| volume.seen <= now).ok_or_else(Refusal::not_found)
    }

    pub(super) fn volume_mut(&mut self, id: &str) -> Result<&mut Volume, Refusal> {
        let now = self.now();
        self.volumes.get_mut(id).filter(|volume| volume.seen <= now).ok_or_else(Refusal::not_found)
    }

    pub(super) fn attachments_of(&self, volume: &str) -> impl Iterator<Item = (&String, &Attachment)> {
        self.attachments.iter().filter(move |(_, it)| it.volume == volume)
    }

    /// Lets time do its part.
    pub(super) fn settle(&mut self) {
        let now = self.now();
        self.settle_attachments(now);
        self.settle_policies(now);
        if now >= self.looked + LOOK && !self.attachments.is_empty() && !self.site.detach_lag.is_zero() {
            self.look();
        }
    }

    /// Looks who has a session.
    pub(super) fn look(&mut self) -> BTreeSet<Session> {
        let sessions: BTreeSet<_> = self.units.sessions().into_iter().collect();
        self.looked = self.now();
        let until = self.looked + self.site.detach_lag;
        for attachment in self.attachments.values_mut() {
            if session(&self.volumes, &self.devices, attachment).is_some_and(|it| sessions.contains(&it)) {
                attachment.busy = until;
            }
        }
        sessions
    }

    fn settle_attachments(&mut self, now: Moment) {
        for attachment in self.attachments.values_mut().filter(|it| !it.open && it.known <= now) {
            let Some(device) = self.devices.get(&attachment.device) else { continue };
            let Some(volume) = self.volumes.get(&attachment.volume) else { continue };
            if device.state != "inactive" {
                self.units.change(&volume.iqn, |unit| _ = unit.admitted.insert(device.iqn.clone()));
                attachment.open = true;
            }
        }
    }

    /// Lets a machine in no more. It keeps what session it has.
    pub(super) fn shut(&mut self, id: &str) {
        let Some(attachment) = self.attachments.get_mut(id).filter(|attachment| attachment.open) else {
            return;
        };
        attachment.open = false;
        if let Some(Session { target, initiator }) = session(&self.volumes, &self.devices, attachment) {
            self.units.change(&target, |unit| _ = unit.admitted.remove(&initiator));
        }
    }

    /// What was stuck on command goes on.
    pub(super) fn unstick(&mut self) {
        for volume in self.volumes.values_mut().filter(|volume| volume.coming == Coming::Never) {
            volume.coming = Coming::Looks(0);
        }
    }

    pub(super) fn forget_file(path: &Path) {
        fs::remove_file(path).expect("a file of the model's");
    }
}

/// The session that a machine has of a volume, if it has one.
pub(super) fn session(
    volumes: &BTreeMap<String, Volume>,
    devices: &BTreeMap<String, Device>,
    attachment: &Attachment,
) -> Option<Session> {
    let target = volumes.get(&attachment.volume)?.iqn.clone();
    let initiator = devices.get(&attachment.device)?.iqn.clone();
    Some(Session { target, initiator })
}

/// An id as they all are, which no list is in the order of.
pub(super) fn uuid(chance: &mut Chance) -> String {
    let (high, low) = (chance.number(), chance.number());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        (low >> 48) & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}
