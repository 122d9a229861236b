//! What there is in the model: instances, volumes, snapshots, and what becomes of them as time passes. Requests change it
//! under a lock and `settle` lets time do its part, before every request and many times a second besides: a device comes
//! and goes whether anybody asks or not.
//!
//! ```text
//! attaching ──(2 to 10 s)──► attached ──DetachVolume──► detaching ──(2 to 10 s, and nobody has it open)──► gone
//! ```
//!
//! A device is shown some time between half of the wait and a little after its end, as hosts do. One that is mounted keeps
//! its attachment `busy` for as long as it is. What is taken by force goes with its bytes copied away first, so that
//! whoever still writes to it writes to nobody.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{
    Site,
    blocks::Blocks,
    error::Refusal,
    ground::Ground,
    loops::{Loop, Released},
    tree::Tree,
};
use crate::clock::{Chance, Clock, Moment};

/// A GiB, in which EBS counts.
pub(super) const GIB: u64 = 1 << 30;

pub(super) type Tags = BTreeMap<String, String>;

#[derive(Debug)]
pub(super) struct World {
    pub(super) site: Site,
    pub(super) folder: PathBuf,
    pub(super) ground: Ground,
    pub(super) clock: Clock,
    pub(super) chance: Chance,
    pub(super) instances: BTreeMap<String, Node>,
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) snapshots: BTreeMap<String, Snapshot>,
    /// What was asked for with a client token, and what came of it. It outlives what came of it.
    pub(super) tokens: HashMap<String, Token>,
    /// Where snapshots are restored fast: snapshot and zone.
    pub(super) fast: BTreeSet<(String, String)>,
    /// Loop devices that were let go and that somebody still has open.
    released: Vec<Released>,
    copies: u64,
}

#[derive(Debug)]
pub(super) struct Token {
    pub(super) asked: Vec<(String, String)>,
    pub(super) answer: String,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) zone: String,
    pub(super) kind: &'static Kind,
    pub(super) state: NodeState,
    pub(super) root: String,
    pub(super) launched: Moment,
    pub(super) tree: Tree,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeState {
    Running,
    Stopped,
    Terminated,
}

/// A type of instances.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) attachments: usize,
    /// Whether network interfaces and the instance store count as well.
    pub(super) shared: bool,
    pub(super) instance_store: bool,
}

/// The types that there are.
pub(super) const KINDS: &[Kind] = &[
    Kind { name: "t3.medium", attachments: 28, shared: true, instance_store: false },
    Kind { name: "m5.large", attachments: 28, shared: true, instance_store: false },
    Kind { name: "m5d.large", attachments: 28, shared: true, instance_store: true },
    Kind { name: "m7i.large", attachments: 32, shared: false, instance_store: false },
    Kind { name: "m7i.48xlarge", attachments: 128, shared: false, instance_store: false },
];

impl Kind {
    /// How many volumes can be attached besides the root disk.
    pub(super) fn room(&self) -> usize {
        // The root disk; of what is shared, also a network interface and the instance store.
        let taken = 1 + if self.shared { 1 + usize::from(self.instance_store) } else { 0 };
        self.attachments - taken
    }
}

#[derive(Debug)]
pub(super) struct Volume {
    pub(super) zone: String,
    /// In GiB.
    pub(super) size: u64,
    pub(super) kind: String,
    pub(super) iops: Option<u64>,
    pub(super) throughput: Option<u64>,
    pub(super) encrypted: bool,
    pub(super) key: Option<String>,
    pub(super) multi_attach: bool,
    pub(super) snapshot: Option<String>,
    pub(super) fast: bool,
    pub(super) tags: Tags,
    pub(super) created: Moment,
    /// From when on it is found.
    pub(super) seen: Moment,
    pub(super) state: VolumeState,
    pub(super) attachments: Vec<Attachment>,
    pub(super) modification: Option<Modification>,
    /// When it was modified.
    pub(super) modified: Vec<Moment>,
    pub(super) impaired: bool,
    pub(super) file: Arc<File>,
    /// What its bytes descend from.
    pub(super) lineage: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VolumeState {
    /// Until then, and then whether it fails.
    Creating(Moment, bool),
    Ready,
    Error,
    Deleting(Moment),
}

impl Volume {
    pub(super) fn status(&self) -> &'static str {
        match self.state {
            VolumeState::Creating(..) => "creating",
            VolumeState::Ready if self.attachments.is_empty() => "available",
            VolumeState::Ready => "in-use",
            VolumeState::Error => "error",
            VolumeState::Deleting(_) => "deleting",
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.size * GIB
    }
}

#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) instance: String,
    pub(super) device: String,
    pub(super) since: Moment,
    pub(super) phase: Phase,
    /// Whether it never goes on by itself.
    pub(super) stuck: bool,
    pub(super) disk: Option<Loop>,
    released: Option<Released>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Attaching { shown: Moment, until: Moment },
    Attached { shown: Moment },
    Detaching { until: Moment, force: bool, busy: bool },
}

impl Attachment {
    pub(super) fn new(instance: &str, device: &str, since: Moment, shown: Moment, until: Moment) -> Self {
        Self {
            instance: instance.to_owned(),
            device: device.to_owned(),
            since,
            phase: Phase::Attaching { shown, until },
            stuck: false,
            disk: None,
            released: None,
        }
    }

    pub(super) fn status(&self) -> &'static str {
        match self.phase {
            Phase::Attaching { .. } => "attaching",
            Phase::Attached { .. } => "attached",
            Phase::Detaching { busy: true, .. } => "busy",
            Phase::Detaching { .. } => "detaching",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Modification {
    pub(super) from: Shape,
    pub(super) to: Shape,
    pub(super) begun: Moment,
    pub(super) optimizes: Moment,
    pub(super) ends: Moment,
    /// Whether the volume is already as it is to be.
    pub(super) applied: bool,
}

/// What a modification changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) size: u64,
    pub(super) kind: String,
    pub(super) iops: Option<u64>,
    pub(super) throughput: Option<u64>,
    pub(super) multi_attach: bool,
}

impl Modification {
    pub(super) fn state(&self, now: Moment) -> &'static str {
        if !self.applied {
            "modifying"
        } else if now < self.ends {
            "optimizing"
        } else {
            "completed"
        }
    }
}

#[derive(Debug)]
pub(super) struct Snapshot {
    /// The volume; of blocks that were put, a volume that there never was.
    pub(super) volume: String,
    /// In GiB.
    pub(super) size: u64,
    pub(super) parent: Option<String>,
    pub(super) lineage: String,
    pub(super) tags: Tags,
    pub(super) description: String,
    pub(super) encrypted: bool,
    pub(super) key: Option<String>,
    pub(super) started: Moment,
    pub(super) state: SnapshotState,
    pub(super) blocks: Arc<Blocks>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SnapshotState {
    /// Blocks are being put; after this long without one it fails.
    Open {
        patience: Duration,
        last: Moment,
    },
    /// Until then, and then whether it fails.
    Pending(Moment, bool),
    Completed(Moment),
    Error,
}

impl Snapshot {
    pub(super) fn status(&self) -> &'static str {
        match self.state {
            SnapshotState::Open { .. } | SnapshotState::Pending(..) => "pending",
            SnapshotState::Completed(_) => "completed",
            SnapshotState::Error => "error",
        }
    }
}

impl World {
    pub(super) fn new(site: Site, folder: PathBuf) -> Self {
        Self {
            ground: Ground::make(&folder),
            folder,
            clock: Clock::start(),
            chance: Chance::of_seed(site.seed),
            site,
            instances: BTreeMap::new(),
            volumes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            tokens: HashMap::new(),
            fast: BTreeSet::new(),
            released: Vec::new(),
            copies: 0,
        }
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// An id as AWS's.
    pub(super) fn id(&mut self, prefix: &str) -> String {
        format!("{prefix}-0{:016x}", self.chance.number())
    }

    /// A wait of 2 to 10 s, by the site's pace.
    pub(super) fn wait(&mut self) -> Duration {
        self.chance.between(2.0..10.0).mul_f64(self.site.pace)
    }

    /// A name for a further file of a volume or a snapshot.
    pub(super) fn file_name(&mut self, id: &str) -> String {
        self.copies += 1;
        format!("{id}.{}", self.copies)
    }

    /// A volume that is found.
    pub(super) fn volume(&self, id: &str) -> Result<&Volume, Refusal> {
        let now = self.now();
        let found = self.volumes.get(id).filter(|volume| volume.seen <= now);
        found.ok_or_else(|| Refusal::no_volume(&[id]))
    }

    pub(super) fn volume_mut(&mut self, id: &str) -> Result<&mut Volume, Refusal> {
        self.volume(id)?;
        self.volumes.get_mut(id).ok_or_else(|| Refusal::no_volume(&[id]))
    }

    /// The attachments of an instance, each with its volume's id.
    pub(super) fn attached_to(&self, instance: &str) -> impl Iterator<Item = (&String, &Attachment)> {
        self.volumes
            .iter()
            .flat_map(|(id, volume)| volume.attachments.iter().map(move |attachment| (id, attachment)))
            .filter(move |(_, attachment)| attachment.instance == instance)
    }

    /// Lets time do its part.
    pub(super) fn settle(&mut self) {
        let now = self.now();
        self.released.retain(|released| !released.is_gone());
        self.settle_snapshots(now);
        let ids: Vec<_> = self.volumes.keys().cloned().collect();
        for id in ids {
            let Some(mut volume) = self.volumes.remove(&id) else { continue };
            if matches!(volume.state, VolumeState::Deleting(until) if until <= now) {
                continue;
            }
            self.settle_volume(&id, &mut volume, now);
            self.volumes.insert(id, volume);
        }
    }

    fn settle_snapshots(&mut self, now: Moment) {
        for snapshot in self.snapshots.values_mut() {
            snapshot.state = match snapshot.state {
                SnapshotState::Open { patience, last } if last + patience <= now => SnapshotState::Error,
                SnapshotState::Pending(until, true) if until <= now => SnapshotState::Error,
                SnapshotState::Pending(until, false) if until <= now => SnapshotState::Completed(until),
                as_it_is => as_it_is,
            };
        }
    }

    fn settle_volume(&mut self, id: &str, volume: &mut Volume, now: Moment) {
        if let VolumeState::Creating(until, fails) = volume.state
            && until <= now
        {
            volume.state = if fails { VolumeState::Error } else { VolumeState::Ready };
        }
        if let Some(modification) = volume.modification.as_mut()
            && !modification.applied
            && modification.optimizes <= now
        {
            modification.applied = true;
            let Shape { size, kind, iops, throughput, multi_attach } = modification.to.clone();
            (volume.size, volume.kind, volume.iops) = (size, kind, iops);
            (volume.throughput, volume.multi_attach) = (throughput, multi_attach);
            self.resize(id, volume);
        }
        let attachments = std::mem::take(&mut volume.attachments);
        for mut attachment in attachments {
            if self.settle_attachment(id, volume, &mut attachment, now) {
                volume.attachments.push(attachment);
            }
        }
    }

    fn resize(&mut self, id: &str, volume: &Volume) {
        volume.file.set_len(volume.bytes()).unwrap();
        for attachment in &volume.attachments {
            let Some(disk) = &attachment.disk else { continue };
            disk.grow().unwrap();
            if let Some(node) = self.instances.get(&attachment.instance) {
                node.tree.resize_volume(id, volume.bytes()).unwrap();
            }
        }
    }

    /// Answers whether it is still there.
    fn settle_attachment(&mut self, id: &str, volume: &mut Volume, it: &mut Attachment, now: Moment) -> bool {
        match it.phase {
            Phase::Attaching { .. } if it.stuck => {}
            Phase::Attaching { shown, until } => {
                if shown <= now {
                    self.show(id, volume, it);
                }
                if until <= now {
                    it.phase = Phase::Attached { shown };
                }
            }
            Phase::Attached { shown } if shown <= now => self.show(id, volume, it),
            Phase::Attached { .. } => {}
            Phase::Detaching { until, .. } if now < until => {}
            Phase::Detaching { force: true, .. } => {
                self.take_by_force(id, volume, it);
                return false;
            }
            Phase::Detaching { .. } if it.stuck => {}
            Phase::Detaching { until, force, .. } => {
                if it.disk.as_ref().is_some_and(Loop::is_taken) {
                    it.phase = Phase::Detaching { until, force, busy: true };
                    return true;
                }
                if let Some(disk) = it.disk.take() {
                    self.hide(id, it);
                    it.released = Some(disk.release());
                }
                // One that reads it past every lock still holds it.
                let busy = it.released.as_ref().is_some_and(|released| !released.is_gone());
                it.phase = Phase::Detaching { until, force, busy };
                return busy;
            }
        }
        true
    }

    fn show(&mut self, id: &str, volume: &Volume, it: &mut Attachment) {
        let Some(node) = self.instances.get_mut(&it.instance) else { return };
        if it.disk.is_some() || node.state != NodeState::Running {
            return;
        }
        let disk = Loop::over(&volume.file).unwrap();
        node.tree.show_volume(id, &disk.dev().unwrap(), volume.bytes()).unwrap();
        it.disk = Some(disk);
    }

    fn hide(&mut self, id: &str, it: &Attachment) {
        if let Some(node) = self.instances.get_mut(&it.instance) {
            node.tree.hide_volume(id).unwrap();
        }
    }

    /// Takes a device away whoever has it open. What he writes from now on reaches the volume no more, unless the volume
    /// is made to be shared: then the others go on with the same bytes.
    pub(super) fn take_by_force(&mut self, id: &str, volume: &mut Volume, it: &mut Attachment) {
        self.hide(id, it);
        let released = it.disk.take().map(Loop::release).or_else(|| it.released.take());
        let Some(released) = released.filter(|released| !released.is_gone()) else { return };
        if !volume.multi_attach {
            let name = self.file_name(id);
            volume.file = Arc::new(self.ground.copy(&name, &volume.file, volume.bytes()).unwrap());
        }
        self.released.push(released);
    }

    /// Ends an instance, or lets it stand still: its devices are gone at once.
    pub(super) fn switch_off(&mut self, instance: &str, state: NodeState) {
        let ids: Vec<_> = self.attached_to(instance).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let Some(mut volume) = self.volumes.remove(&id) else { continue };
            let attachments = std::mem::take(&mut volume.attachments);
            for mut attachment in attachments {
                if attachment.instance == instance {
                    self.take_by_force(&id, &mut volume, &mut attachment);
                }
                let leaving = matches!(attachment.phase, Phase::Detaching { .. });
                if attachment.instance != instance || (state == NodeState::Stopped && !leaving) {
                    volume.attachments.push(attachment);
                }
            }
            self.volumes.insert(id, volume);
        }
        if let Some(node) = self.instances.get_mut(instance) {
            node.state = state;
        }
    }
}
