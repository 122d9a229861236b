//! What can be asked of the hall: one file per verb, one command struct per request. An op is *validate,
//! record the wish, wait*; it never drives. Both doors and the admin door call these and nothing else.

mod attach;
mod change;
pub(crate) mod copy;
mod create;
mod delete;
mod export;
mod extents;
mod find;
mod group;
mod grow;
mod measure;
mod modify;
pub(crate) mod mount;
mod node;
mod read;
mod refill;
mod repair;
pub(crate) mod room;
pub(crate) mod snapshot;
mod take_over;
pub(crate) mod unmount;

pub use self::node::NodeView;

use std::collections::{BTreeMap, BTreeSet};

use tokio_util::sync::CancellationToken;

use crate::{
    model::{
        Attachment, BackendName, Bytes, Caller, CapacityRange, ClassName, Connection, DataRoot, FsType,
        GroupId, GroupName, GroupRef, Handle, HolderId, Keeping, LostMount, Mount, NodeId, Publication,
        Purpose, Snapshot, SnapshotName, SnapshotRef, Target, Timestamp, Token, Volume, VolumeName,
        VolumeRef,
    },
    ports::{backend::Health, extents::ExtentPage, store::Entry},
};

/// Who asks and how long it waits. A request that is dropped drops nothing but its waiting.
#[derive(Clone, Debug)]
pub struct Context {
    /// For the log.
    pub request: String,
    /// Through which door: `docker`, `csi`, `admin`.
    pub door: &'static str,
    /// Until then an answer is of use.
    pub deadline: Timestamp,
    /// Cancelled when whoever asked has gone: then no answer is of use any more.
    pub abandoned: CancellationToken,
}

impl Context {
    /// A request of somebody who stays until the deadline.
    #[must_use]
    pub fn new(request: impl Into<String>, door: &'static str, deadline: Timestamp) -> Self {
        Self { request: request.into(), door, deadline, abandoned: CancellationToken::new() }
    }
}

/// Make a volume, or find the one that satisfies this.
#[derive(Clone, Debug)]
pub struct CreateVolume {
    /// What it is called.
    pub name: VolumeName,
    /// The recipe; nothing for the default class.
    pub class: Option<ClassName>,
    /// How large.
    pub size: CapacityRange,
    /// On top of the class's parameters.
    pub parameters: BTreeMap<String, String>,
    /// What it is to be a copy of.
    pub source: Option<SourceName>,
    /// Which filesystem, instead of the class's.
    pub fs: Option<FsType>,
    /// What a container gets, instead of the class's; each given part counts.
    pub root: RootWish,
    /// Where it has to be usable, the best place first; empty for where the daemon is.
    pub places: Vec<BTreeMap<String, String>>,
    /// Whose it is to end.
    pub keeping: Keeping,
    /// Whether several nodes are to use it at the same time.
    pub many: bool,
    /// What its owner writes on it.
    pub labels: BTreeMap<String, String>,
    /// Whether the caller's wish is complete: a repeat with other words is refused. Docker's implicit creates
    /// carry no options and find whatever is there.
    pub exact: bool,
}

impl CreateVolume {
    /// A wish for nothing but the name.
    #[must_use]
    pub fn named(name: VolumeName) -> Self {
        Self {
            name,
            class: None,
            size: CapacityRange::ANY,
            parameters: BTreeMap::new(),
            source: None,
            fs: None,
            root: RootWish::default(),
            places: Vec::new(),
            keeping: Keeping::Owned,
            many: false,
            labels: BTreeMap::new(),
            exact: false,
        }
    }
}

/// What a volume is to be a copy of, by the caller's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceName {
    /// A snapshot.
    Snapshot(SnapshotRef),
    /// A volume.
    Volume(VolumeRef),
    /// A file on this node that a snapshot was exported to.
    File(String),
}

/// Parts of a [`DataRoot`] that a caller wishes differently.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootWish {
    /// The directory; an empty one is the mount itself.
    pub directory: Option<String>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The mode.
    pub mode: Option<u32>,
}

impl RootWish {
    /// The class's root with these parts on top.
    #[must_use]
    pub fn over(&self, class: &DataRoot) -> DataRoot {
        DataRoot {
            directory: match self.directory.as_deref() {
                Some("" | "/") => None,
                Some(directory) => Some(directory.to_owned()),
                None => class.directory.clone(),
            },
            uid: self.uid.or(class.uid),
            gid: self.gid.or(class.gid),
            mode: self.mode.or(class.mode),
        }
    }
}

/// Delete a volume that nobody holds and nothing depends on.
#[derive(Clone, Debug)]
pub struct DeleteVolume {
    /// Which.
    pub volume: VolumeRef,
    /// A person confirms that the backend's volume is gone or not ours to delete: forget the record alone.
    pub forget: bool,
}

/// Give a holder a path into a volume on this node.
#[derive(Clone, Debug)]
pub struct MountVolume {
    /// Which.
    pub volume: VolumeRef,
    /// Who holds it.
    pub holder: HolderId,
    /// Whether each further mount of the same holder counts, as Docker's do; holders without an id do not.
    pub counts: bool,
    /// Which process asks.
    pub caller: Option<Caller>,
    /// Where it wants the data.
    pub target: Target,
    /// Whether it may only read.
    pub read_only: bool,
    /// In which way it wants it.
    pub access: Access,
    /// Make the volume if there is none.
    pub implicit: Option<Box<CreateVolume>>,
}

/// In which way a holder wants a volume. The default is Docker's: whatever the volume is, shared with all.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// What it is for.
    pub purpose: Purpose,
    /// The holder that keeps the volume ready here: without it the wish comes too early.
    pub staged_by: Option<HolderId>,
    /// Options of the mount, on top of the volume's own.
    pub options: Vec<String>,
    /// Which filesystem the caller expects.
    pub fs: Option<FsType>,
    /// Whether it wants the device itself and no filesystem.
    pub raw: bool,
    /// Whether nobody else may have a path of its own beside it.
    pub alone: bool,
    /// Whether other nodes may have it at the same time.
    pub many: bool,
    /// The group that everything on it is to belong to.
    pub group: Option<u32>,
    /// What another house tells of a volume that it looks after.
    pub loan: Option<Box<Loan>>,
}

impl Access {
    /// Whether the options are the caller's to choose: who only joins what is there takes it as it is.
    pub(crate) fn asks_for_options(&self) -> bool {
        self.purpose == Purpose::Stage || self.staged_by.is_some() || !self.options.is_empty()
    }
}

/// What another house tells of a volume that it looks after and has attached to this node: enough to have it mounted
/// without asking the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loan {
    /// How the node reaches it.
    pub connection: Connection,
    /// Who the node is to the backend, where that is known before it connects.
    pub client: Option<String>,
    /// What it is called.
    pub name: VolumeName,
    /// What it was made with.
    pub token: Token,
    /// Its class.
    pub class: ClassName,
    /// How large it is.
    pub size: Bytes,
    /// What is on it.
    pub filesystem: crate::model::Filesystem,
}

/// Where a holder finds the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    /// The path.
    pub path: String,
}

/// Take a holder's path back. A holder or a volume that is unknown holds nothing: done.
#[derive(Clone, Debug)]
pub struct UnmountVolume {
    /// Which.
    pub volume: VolumeRef,
    /// Who held it.
    pub holder: HolderId,
    /// Whether to take back all of the holder's counts at once.
    pub all: bool,
}

/// Make a volume larger.
#[derive(Clone, Debug)]
pub struct GrowVolume {
    /// Which.
    pub volume: VolumeRef,
    /// How large.
    pub size: CapacityRange,
    /// How far to wait for it.
    pub reach: Reach,
}

/// How far the growth of a volume goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Until every mounted filesystem has grown too, or waits for its unmount.
    #[default]
    Everywhere,
    /// Until the backend has grown it: whoever has it mounted is told by somebody else.
    Backend,
    /// On this node alone, for whoever has it there: the backend has grown it, or does.
    Node(HolderId),
}

/// Let a node reach a volume, until that is taken back.
#[derive(Clone, Debug)]
pub struct AttachVolume {
    /// Which.
    pub volume: VolumeRef,
    /// Which node.
    pub node: NodeAddress,
    /// Whether it may only read there.
    pub read_only: bool,
    /// Whether other nodes may reach it at the same time.
    pub many: bool,
}

/// Take that back.
#[derive(Clone, Debug)]
pub struct DetachVolume {
    /// Which.
    pub volume: VolumeRef,
    /// From which node; nothing for all.
    pub node: Option<NodeAddress>,
}

/// A node, and what backends call it where that is something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node.
    pub id: NodeId,
    /// What backends call it.
    pub names: BTreeMap<BackendName, String>,
}

/// A volume that a node reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedVolume {
    /// The volume.
    pub volume: Volume,
    /// How the node reaches it.
    pub attachment: Attachment,
}

/// Tell how much room there is.
#[derive(Clone, Debug, Default)]
pub struct AskRoom {
    /// For volumes of this class; nothing for the default one.
    pub class: Option<ClassName>,
    /// On top of the class's parameters.
    pub parameters: BTreeMap<String, String>,
    /// Where they have to be usable; empty for anywhere.
    pub place: BTreeMap<String, String>,
}

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomView {
    /// In all.
    pub available: Bytes,
    /// The smallest volume.
    pub min: Bytes,
    /// The largest volume; nothing where there is no limit.
    pub max: Option<Bytes>,
}

/// Tell how full a volume is, for whoever has it at a path.
#[derive(Clone, Debug)]
pub struct MeasureVolume {
    /// Which.
    pub volume: VolumeRef,
    /// Where its holder has it, or where it is staged.
    pub path: String,
}

/// How full a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// What is on its filesystem.
    Filesystem(crate::ports::host::Usage),
    /// How large the device is.
    Device(Bytes),
}

/// Change parameters of a volume.
#[derive(Clone, Debug)]
pub struct ModifyVolume {
    /// Which.
    pub volume: VolumeRef,
    /// What is to change; what is not named stays.
    pub parameters: BTreeMap<String, String>,
}

/// Take a broken mount of this node down and make it again.
#[derive(Clone, Debug)]
pub struct RepairVolume {
    /// Which.
    pub name: VolumeName,
    /// Also where somebody still holds it: whoever does loses it.
    pub force: bool,
}

/// Cut a snapshot of a volume, or find the one that was.
#[derive(Clone, Debug)]
pub struct CreateSnapshot {
    /// What it is called.
    pub name: SnapshotName,
    /// Whose bytes.
    pub volume: VolumeRef,
    /// What the backend is told.
    pub parameters: BTreeMap<String, String>,
    /// What its owner writes on it.
    pub labels: BTreeMap<String, String>,
    /// Whether to wait until volumes can be made from it, or only until its moment is fixed.
    pub until_ready: bool,
}

/// Copy a volume, as it is at one moment, into a new one of another class.
#[derive(Clone, Debug)]
pub struct CopyVolume {
    /// Which.
    pub source: VolumeRef,
    /// What the copy is called.
    pub name: VolumeName,
    /// By which recipe it is made.
    pub class: ClassName,
    /// How large; as large as the source where nothing is said.
    pub size: CapacityRange,
    /// On top of the class's parameters.
    pub parameters: BTreeMap<String, String>,
    /// What its owner writes on it.
    pub labels: BTreeMap<String, String>,
    /// Whether both sides keep a snapshot of this moment, so that the next copy moves only what has changed.
    pub keep: bool,
}

/// Read what a snapshot holds, a page at a time.
#[derive(Clone, Debug)]
pub struct ReadSnapshot {
    /// Which.
    pub snapshot: SnapshotRef,
    /// From where on.
    pub from: Bytes,
}

/// Some of what a snapshot holds.
#[derive(Clone, Debug)]
pub struct SnapshotPiece {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its bytes, ascending; what is in none of them is zeroes.
    pub blocks: Vec<(Bytes, bytes::Bytes)>,
    /// Where to go on; nothing at the end.
    pub next: Option<Bytes>,
}

/// Delete a snapshot that nothing depends on.
#[derive(Clone, Debug)]
pub struct DeleteSnapshot {
    /// Which.
    pub snapshot: SnapshotRef,
}

/// Cut snapshots of several volumes at one moment, all of them or none, or find those that were.
#[derive(Clone, Debug)]
pub struct CreateGroup {
    /// What the group is called.
    pub name: GroupName,
    /// Whose bytes; in one backend, each once.
    pub volumes: Vec<VolumeRef>,
    /// What the backend is told.
    pub parameters: BTreeMap<String, String>,
    /// What its owner writes on each snapshot.
    pub labels: BTreeMap<String, String>,
}

/// Delete all snapshots of a group that nothing depends on.
#[derive(Clone, Debug)]
pub struct DeleteGroup {
    /// Which.
    pub group: GroupRef,
    /// What the caller takes it to consist of; empty where the caller does not say.
    pub members: BTreeSet<Handle>,
}

/// Snapshots that were cut at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// Which group.
    pub id: GroupId,
    /// What it is called, or the head of the name's digest where it is too long to be kept.
    pub name: GroupName,
    /// Where it lives.
    pub backend: BackendName,
    /// How many snapshots it consists of.
    pub of: usize,
    /// Those that are there, in the order of their volumes' ids: all of them, unless it is being deleted or was broken.
    pub snapshots: Vec<Snapshot>,
}

/// Tell where a snapshot holds data, or where it differs from another one of the same volume.
#[derive(Clone, Debug)]
pub struct ListExtents {
    /// Which.
    pub snapshot: SnapshotRef,
    /// What it is compared with; nothing for all that it holds.
    pub base: Option<SnapshotRef>,
    /// From which byte on.
    pub from: Bytes,
}

/// Some of a snapshot's extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentsView {
    /// How large the snapshot is.
    pub size: Bytes,
    /// A page of them.
    pub page: ExtentPage,
}

/// Make records again for what is ours and no record knows.
#[derive(Clone, Debug, Default)]
pub struct RecoverRecords {
    /// What the records were once, the newest first.
    pub dumps: Vec<Dump>,
    /// Names of things whose mark has no room for them.
    pub names: Vec<String>,
    /// Only tell what would be done.
    pub dry_run: bool,
}

/// Records as they were once.
#[derive(Clone, Debug)]
pub struct Dump {
    /// What people call it.
    pub name: String,
    /// All of them; their revisions mean nothing.
    pub records: Vec<Entry>,
}

/// Compare what there is with what the records say.
#[derive(Clone, Debug, Default)]
pub struct ExamineHouse {
    /// Mend what can be mended safely.
    pub fix: bool,
    /// What others on this host say that they have.
    pub neighbours: Vec<Neighbour>,
}

/// A volume of another driver that the same people use by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// What it is called.
    pub name: VolumeName,
    /// Whose it is.
    pub driver: String,
}

/// Everything that the records say of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeView {
    /// The volume.
    pub volume: Volume,
    /// The nodes that reach it.
    pub attachments: Vec<Attachment>,
    /// The nodes that have it mounted.
    pub mounts: Vec<Mount>,
    /// Who holds it.
    pub publications: Vec<Publication>,
    /// What nodes may still have of it although it was taken from them.
    pub lost: Vec<LostMount>,
    /// What its backend complained of lately; told where a volume is read, not in the answer to a wish.
    pub complaint: Option<Health>,
}

impl VolumeView {
    /// How large it is, or is to be.
    #[must_use]
    pub fn size(&self) -> Bytes {
        self.volume.actual.unwrap_or(self.volume.wanted.size.required)
    }

    /// Where its data is on this node, if it is mounted.
    #[must_use]
    pub fn path_on(&self, node: &NodeId) -> Option<String> {
        let mount = self.mounts.iter().find(|mount| mount.node == *node)?;
        let path = mount.path.as_deref()?;
        Some(match &self.volume.filesystem.root.directory {
            Some(directory) if !directory.is_empty() => format!("{path}/{directory}"),
            _ => path.to_owned(),
        })
    }
}

/// What a volume waits for and who holds it, as facts for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// The volume.
    pub view: VolumeView,
    /// What it waits for, the most important first; empty when it waits for nothing.
    pub waits: Vec<String>,
    /// Who holds it; empty when nobody does.
    pub holders: Vec<String>,
    /// What its backend complains of.
    pub ails: Vec<String>,
    /// What keeps it from being deleted.
    pub keeps: Vec<String>,
}

/// A page of a list in the order of names.
#[derive(Clone, Debug, Default)]
pub struct ListPage<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Ask with this for the next; nothing at the end.
    pub next: Option<String>,
}

/// A page of snapshots.
pub type SnapshotPage = ListPage<Snapshot>;
