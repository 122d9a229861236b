//! What makes volumes. The only adapter is the plugin host; the shapes here mirror `wit/v1`, in the model's
//! words. Every effect is idempotent by its token, and answers [`Effect::Done`] or [`Effect::Pending`].
//!
//! **Finality.** An adapter answers a *final* error for an effect only when it knows that the effect did not
//! happen and will not. A trap, a deadline, a cut connection are always pending.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;

use crate::{
    error::Error,
    model::{Bytes, CapacityRange, Connection, Fingerprint, Handle, Timestamp, Token},
    ports::{Extents, SnapshotReading, SnapshotWriting},
};

/// What a backend says of itself, asked once when it is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The plugin's name.
    pub plugin: String,
    /// The plugin's version.
    pub version: String,
    /// What it is, in one sentence.
    pub summary: String,
    /// The smallest volume it makes.
    pub min_size: Bytes,
    /// The largest volume it makes; nothing if it knows no limit.
    pub max_size: Option<Bytes>,
    /// Sizes are multiples of this.
    pub size_step: Bytes,
    /// How long a create whose answer was lost may still come true.
    pub settle: Duration,
    /// Whether a new volume reads as zeroes.
    pub blank: Blankness,
    /// The parameters it takes.
    pub parameters: Vec<Parameter>,
    /// What it can do beyond volumes; derived from what the plugin exports, narrowed by what it says.
    pub abilities: Abilities,
}

/// What a new volume holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blankness {
    /// Zeroes: anything else means that it is not new.
    #[default]
    Zeroes,
    /// Anything: only a filesystem's signature means that it is not new.
    Anything,
}

/// A parameter of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// What it does, in one sentence.
    pub summary: String,
    /// What it is when it is not given.
    pub default: String,
    /// What it may be: `bool`, `integer`, `size`, `text`, or a list `one|two`.
    pub shape: String,
    /// Whether it can be changed on an existing volume.
    pub mutable: bool,
}

/// What a backend can do beyond volumes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Volumes can be grown.
    pub grow: Option<Growing>,
    /// Nodes have to be attached, and can be detached.
    pub attachments: bool,
    /// A node can be cut off for good.
    pub fence: bool,
    /// Volumes can be snapshot, and made from snapshots.
    pub snapshots: bool,
    /// Volumes can be made from volumes.
    pub clone: bool,
    /// Parameters can be changed.
    pub modify: bool,
    /// Several volumes can be snapshot at one moment.
    pub groups: bool,
    /// Where snapshots hold data, and differ, can be told.
    pub extents: bool,
    /// The bytes of snapshots can be had.
    pub snapshot_data: bool,
    /// Snapshots can be made of bytes.
    pub snapshot_writing: bool,
    /// It tells how a volume feels.
    pub health: bool,
    /// It tells how much room there is.
    pub capacity: bool,
    /// It can be asked about much pending work at once.
    pub polling: bool,
    /// Several nodes can use a volume at the same time.
    pub shared: bool,
    /// Its volumes lie on the daemon's own host and are used nowhere else.
    pub node_bound: bool,
    /// A snapshot keeps its volume from being deleted.
    pub snapshot_needs_volume: bool,
    /// A volume keeps the snapshot or volume that it was made from from being deleted.
    pub clone_needs_source: bool,
}

impl Abilities {
    /// Whether several volumes can be cut at one moment: by the backend itself, or because all who write to them are on
    /// this node, where they can be held still together.
    #[must_use]
    pub fn cuts_groups(&self) -> bool {
        self.snapshots && self.node_bound
    }
}

/// When a volume can be grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growing {
    /// While it is in use.
    Online,
    /// Only while no node is attached.
    Offline,
}

/// How a volume has to be held while a snapshot of it is cut, or while it is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cutting {
    /// At one instant: a filesystem that recovers from a power cut recovers from it.
    Instant,
    /// By copying: nobody may write while it is cut.
    Copy,
    /// By copying files: nobody may have it mounted.
    Unmounted,
}

/// The answer to an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<T> {
    /// It is so.
    Done(T),
    /// It is under way: ask again.
    Pending(Pending),
}

/// Work under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// What the backend wants to hear when it is asked again; at most four KiB.
    pub resume: Vec<u8>,
    /// When to ask again.
    pub retry_after: Duration,
    /// What is going on, for people.
    pub note: String,
}

/// How a thing is named to its backend: by handle where we have heard it, by token otherwise, and by both
/// where we can, so that the backend can check that they agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Which {
    /// The creation token.
    pub token: Token,
    /// The handle, once heard.
    pub handle: Option<Handle>,
}

/// A volume to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Finds it again, whatever happens.
    pub token: Token,
    /// What our records say of it, to be kept with it: see [`crate::model`]. At most 200 bytes.
    pub mark: String,
    /// What its owner calls it, for people who look at the backend.
    pub name: String,
    /// How large.
    pub size: CapacityRange,
    /// The class's parameters with the caller's on top.
    pub parameters: BTreeMap<String, String>,
    /// What it is a copy of.
    pub source: Option<Origin>,
    /// Where it has to be usable, the best place first; empty means anywhere.
    pub topology: Vec<BTreeMap<String, String>>,
    /// What was answered when this was asked before.
    pub resume: Option<Vec<u8>>,
}

/// What a volume is a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A snapshot.
    Snapshot(Which),
    /// A volume.
    Volume(Which),
}

/// A volume as its backend sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// How the backend calls it.
    pub handle: Handle,
    /// How large it is.
    pub size: Bytes,
    /// What we wrote on it; empty when it carries no mark of ours.
    pub mark: String,
    /// Its creation token, where the backend keeps it.
    pub token: Option<Token>,
    /// How any node reaches it, where that needs no attaching.
    pub connection: Option<Connection>,
    /// The nodes that it is attached to, by the backend's names for them; nothing where the backend does not tell.
    pub attached: Option<Vec<String>>,
    /// Where it may be used.
    pub topology: BTreeMap<String, String>,
    /// The parameters in force, where the backend tells.
    pub parameters: Option<BTreeMap<String, String>>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Ask with this for the next; nothing at the end.
    pub next: Option<String>,
}

/// What a backend is, and whether it can be used now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is.
    pub fingerprint: Fingerprint,
    /// What a person should know, empty when all is well.
    pub note: String,
}

/// A snapshot as its backend sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shot {
    /// How the backend calls it.
    pub handle: Handle,
    /// How it calls the volume that it is of, where it tells.
    pub volume: Option<Handle>,
    /// How large a volume made from it is at least.
    pub size: Bytes,
    /// When its moment was, if the backend knows better than we.
    pub cut: Option<Timestamp>,
    /// Whether volumes can be made from it yet.
    pub ready: bool,
    /// What we wrote on it.
    pub mark: String,
    /// Its creation token, where the backend keeps it.
    pub token: Option<Token>,
}

/// A snapshot to be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Finds it again, whatever happens.
    pub token: Token,
    /// What our records say of it.
    pub mark: String,
    /// What its owner calls it.
    pub name: String,
    /// Whose bytes.
    pub volume: Which,
    /// What the caller wants of it.
    pub parameters: BTreeMap<String, String>,
    /// What was answered when this was asked before.
    pub resume: Option<Vec<u8>>,
}

/// What makes volumes. A backend always has these; the rest are abilities of their own.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What it says of itself.
    fn describe(&self) -> Description;

    /// What it is, and whether it can be used now.
    async fn check(&self) -> Result<Check, Error>;

    /// Makes a volume. Repeating it with the same token finds the same volume; with another wish under the
    /// same token it is refused as `AlreadyExists`.
    async fn create(&self, wish: Create) -> Result<Effect<Made>, Error>;

    /// Deletes a volume. One that is not there is deleted.
    async fn delete(&self, which: Which, resume: Option<Vec<u8>>) -> Result<Effect<()>, Error>;

    /// Looks at volumes; nothing for one that is not there. Answers in the order of the question.
    async fn inspect(&self, which: Vec<Which>) -> Result<Vec<Option<Made>>, Error>;

    /// All volumes that carry a token, ours and others', by pages.
    async fn list(&self, page: Option<String>) -> Result<Page<Made>, Error>;

    /// Looks for volumes by their handles alone, for whoever never heard their tokens; nothing for one that is not
    /// there. Answers in the order of the question, and each with its token.
    async fn find(&self, handles: Vec<Handle>) -> Result<Vec<Option<Made>>, Error> {
        let mut found: Vec<Option<Made>> = handles.iter().map(|_| None).collect();
        let mut page = None;
        loop {
            let Page { items, next } = self.list(page).await?;
            for made in items {
                for (handle, place) in handles.iter().zip(&mut found) {
                    if made.handle == *handle {
                        *place = Some(made.clone());
                    }
                }
            }
            if next.is_none() || found.iter().all(Option::is_some) {
                return Ok(found);
            }
            page = next;
        }
    }

    /// How this volume has to be held while it is copied; an error says why it cannot be.
    async fn clone_how(&self, source: Which) -> Result<Cutting, Error>;

    /// Writes a new mark on a volume.
    async fn remark(&self, which: Which, mark: String) -> Result<(), Error>;

    /// Growing, if it can.
    fn grow(&self) -> Option<&dyn Grow> {
        None
    }

    /// Attaching, if it has to.
    fn attachments(&self) -> Option<&dyn Attachments> {
        None
    }

    /// Cutting nodes off, if it can.
    fn fencing(&self) -> Option<&dyn Fencing> {
        None
    }

    /// Snapshots, if it can.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// Where snapshots hold data, if it can tell.
    fn extents(&self) -> Option<&dyn Extents> {
        None
    }

    /// The bytes of snapshots, if they can be had.
    fn snapshot_data(&self) -> Option<&dyn SnapshotReading> {
        None
    }

    /// Making snapshots of bytes, if it can.
    fn snapshot_writing(&self) -> Option<&dyn SnapshotWriting> {
        None
    }

    /// The rest: modify, health, capacity, each if it can.
    fn extras(&self) -> Option<&dyn Extras> {
        None
    }

    /// Asking about much pending work at once, if it can.
    fn polling(&self) -> Option<&dyn Polling> {
        None
    }
}

/// Growing volumes.
#[async_trait]
pub trait Grow: Send + Sync {
    /// Makes a volume at least as large as the range says. One that is large enough already is grown.
    async fn grow(
        &self,
        which: Which,
        size: CapacityRange,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<Bytes>, Error>;
}

/// What a backend answers about an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// How the node reaches the volume.
    pub connection: Connection,
    /// Who the node is to the backend, where that is known already.
    pub client: Option<String>,
}

/// What the records know of a node that is to be attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// What the backend calls the node.
    pub name: String,
    /// Who else it is, for backends that let nodes in by such names.
    pub identities: Vec<(String, String)>,
    /// Device names in use there.
    pub used_devices: Vec<String>,
    /// Device names that lately failed there.
    pub bad_devices: Vec<String>,
}

/// Letting nodes reach volumes.
#[async_trait]
pub trait Attachments: Send + Sync {
    /// Lets a node reach a volume.
    async fn attach(
        &self,
        which: Which,
        node: NodeFacts,
        read_only: bool,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<Attached>, Error>;

    /// Ends that. A node that is not attached is detached.
    async fn detach(
        &self,
        which: Which,
        node: NodeFacts,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<()>, Error>;
}

/// Cutting a node off, so that its volumes may move although it does not answer.
#[async_trait]
pub trait Fencing: Send + Sync {
    /// Cuts a node off a volume: the clients of it that are named, and whichever others of it use the volume now. Where
    /// nobody does it is cut off. `Precondition` where that cannot be proven.
    async fn fence(
        &self,
        which: Which,
        node: NodeFacts,
        clients: Vec<String>,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<()>, Error>;
}

/// Cutting and deleting snapshots.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// How this volume has to be held while it is cut; an error says why it cannot be.
    async fn how(&self, volume: Which) -> Result<Cutting, Error>;

    /// Cuts a snapshot. `Done` with `ready` false says that the moment is fixed and the volume may be written
    /// again; it is then asked for by [`Snapshots::inspect_snapshots`] until it is ready.
    async fn cut(&self, wish: Cut) -> Result<Effect<Shot>, Error>;

    /// Deletes a snapshot. One that is not there is deleted.
    async fn delete_snapshot(&self, which: Which, resume: Option<Vec<u8>>) -> Result<Effect<()>, Error>;

    /// Looks at snapshots; nothing for one that is not there.
    async fn inspect_snapshots(&self, which: Vec<Which>) -> Result<Vec<Option<Shot>>, Error>;

    /// All snapshots that carry a token, by pages.
    async fn list_snapshots(&self, page: Option<String>) -> Result<Page<Shot>, Error>;

    /// Looks for snapshots by their handles alone, as [`Backend::find`] does for volumes.
    async fn find_snapshots(&self, handles: Vec<Handle>) -> Result<Vec<Option<Shot>>, Error> {
        let mut found: Vec<Option<Shot>> = handles.iter().map(|_| None).collect();
        let mut page = None;
        loop {
            let Page { items, next } = self.list_snapshots(page).await?;
            for shot in items {
                for (handle, place) in handles.iter().zip(&mut found) {
                    if shot.handle == *handle {
                        *place = Some(shot.clone());
                    }
                }
            }
            if next.is_none() || found.iter().all(Option::is_some) {
                return Ok(found);
            }
            page = next;
        }
    }
}

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// For new volumes.
    pub available: Bytes,
    /// In all, where it is known.
    pub total: Option<Bytes>,
}

/// How a volume feels, in the backend's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// CamelCase, for machines; empty when all is well.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Whether data is out of reach or lost.
    pub severe: bool,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = if self.severe { ", data may be out of reach" } else { "" };
        write!(f, "its backend says {}{weight}: {}", self.reason, self.message)
    }
}

/// Smaller abilities, each of which a backend may lack (it then answers `Unsupported`).
#[async_trait]
pub trait Extras: Send + Sync {
    /// Changes the named parameters and no others.
    async fn modify(
        &self,
        which: Which,
        parameters: BTreeMap<String, String>,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<()>, Error>;

    /// How much room there is for volumes with these parameters.
    async fn room(&self, parameters: BTreeMap<String, String>) -> Result<Room, Error>;

    /// How volumes feel.
    async fn health(&self, which: Vec<Which>) -> Result<Vec<Health>, Error>;
}

/// Which effect answered [`Effect::Pending`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// [`Backend::create`].
    Create,
    /// [`Backend::delete`].
    Delete,
    /// [`Grow::grow`].
    Grow,
    /// [`Extras::modify`].
    Modify,
    /// [`Attachments::attach`].
    Attach,
    /// [`Attachments::detach`].
    Detach,
    /// [`Fencing::fence`].
    Fence,
    /// [`Snapshots::cut`].
    Cut,
    /// [`Snapshots::delete_snapshot`].
    DeleteSnapshot,
}

/// Work that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// What was asked for.
    pub verb: Verb,
    /// About what.
    pub which: Which,
    /// About which node.
    pub node: Option<String>,
    /// What was answered last.
    pub resume: Vec<u8>,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Still under way: ask again later.
    Still(Pending),
    /// The effect is to be asked itself, which tells what came of it.
    Ready,
}

/// Asking about much at once.
#[async_trait]
pub trait Polling: Send + Sync {
    /// How these stand, in the order of the question. Changes nothing.
    async fn poll(&self, askings: Vec<Asking>) -> Result<Vec<Standing>, Error>;
}
