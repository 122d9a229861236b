//! The one object behind every door: what it stands on, what can be asked of it, and what it tells. No verb is
//! carried out here: each has a file in `ops/`, and what comes of a wish is `plan.rs` and `drive.rs`.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Catalog,
    consult::{self, Consultation},
    doctor,
    error::{Error, Outcome},
    fellows::{Fellows, Sharing},
    gauges::Gauges,
    house::House,
    journal::{Change, Journal},
    model::{
        BackendName, BackendRecord, ClusterId, GroupRef, Node, NodeId, Snapshot, SnapshotId, SnapshotName,
        SnapshotRef, VolumeId, VolumeName, VolumeRef,
    },
    ops::{
        AskRoom, AttachVolume, AttachedVolume, Context, CopyVolume, CreateGroup, CreateSnapshot,
        CreateVolume, DeleteGroup, DeleteSnapshot, DeleteVolume, DetachVolume, ExamineHouse, ExtentsView,
        GroupView, GrowVolume, ListExtents, ListPage, Measure, MeasureVolume, ModifyVolume, MountVolume,
        MountedVolume, NodeView, ReadSnapshot, RecoverRecords, RepairVolume, RoomView, SnapshotPiece,
        UnmountVolume, VolumeView, Why,
    },
    ports::{
        Clock, Host, Ids, Store,
        backend::{Check, Description},
        host::Facts,
        store::Durability,
    },
    reconcile,
    records::keys,
    recover,
    replica::{Replica, is_away},
    watch,
};

/// The ports that the hall stands on.
#[derive(Clone)]
pub struct Ports {
    /// The journal.
    pub store: Arc<dyn Store>,
    /// The machine.
    pub host: Arc<dyn Host>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Fresh ids.
    pub ids: Arc<dyn Ids>,
    /// How the records are shared with other daemons; nothing where they are this one's alone.
    pub sharing: Option<Sharing>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

/// What of the work a daemon does, where several share it without sharing their records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// All of it.
    #[default]
    All,
    /// What can be done anywhere: volumes, snapshots, attachments. Its records are what it has heard of so far.
    Controller,
    /// What is done on this node. Volumes are looked after by somebody else.
    Node,
}

impl Role {
    /// Whether volumes that no record knows are somebody else's to look after.
    #[must_use]
    pub fn borrows(self) -> bool {
        self == Self::Node
    }
}

/// What the operator decides for the hall.
#[derive(Clone, Debug)]
pub struct Config {
    /// What this host is called.
    pub node: NodeId,
    /// What of the work is done here.
    pub role: Role,
    /// The id that the data folder remembers, so that a lost journal does not make our volumes strangers.
    pub cluster: Option<ClusterId>,
    /// Where it is.
    pub topology: BTreeMap<String, String>,
    /// What backends call it, where that is something else.
    pub names: BTreeMap<BackendName, String>,
    /// How long a mount that nobody holds is kept.
    pub idle_grace: Duration,
    /// How long a holder has to look dead before it is reaped.
    pub reap_after: Duration,
    /// How long a filesystem may be held frozen.
    pub freeze_limit: Duration,
}

/// The one object behind every door.
pub struct Orchestrator {
    house: Arc<House>,
}

impl Orchestrator {
    /// Reads what is in the journal, takes up what was unfinished, and is ready.
    pub async fn open(ports: Ports, catalog: Catalog, config: Config) -> Result<Arc<Self>, Error> {
        let journal = Journal::new(Arc::clone(&ports.store), config.node.clone(), ports.sharing.is_some());
        let fellows = ports.sharing.as_ref().map(Fellows::unknown);
        let replica = ports
            .sharing
            .as_ref()
            .map(|sharing| Replica::new(Arc::clone(&sharing.replica), config.node.clone()));
        let known = match (journal.record(keys::cluster()).await, &replica) {
            (Err(error), Some(replica)) if is_away(&error) => {
                replica.lost_them();
                Some(replica.journal().record(keys::cluster()).await?.value.ok_or(error)?)
            }
            (known, _) => known?.value,
        };
        let cluster = cluster(known, &journal, &ports, &config).await?;
        let Facts { boot_id, identities, .. } = ports.host.facts().await?;
        let started = ports.clock.now();
        let house = Arc::new(House {
            ports,
            config,
            journal,
            drivers: Arc::default(),
            cluster,
            boot_id,
            identities,
            started,
            catalog: RwLock::new(Arc::new(catalog)),
            trusted: Mutex::default(),
            checks: Mutex::default(),
            seen_elsewhere: Mutex::default(),
            readings: Mutex::default(),
            stalls: Default::default(),
            complaints: Default::default(),
            census: tokio::sync::Mutex::default(),
            polls: Default::default(),
            fellows,
            replica,
            filled: Default::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            abandoning: CancellationToken::new(),
        });
        // Where the records are away it arrives later, and says until then what it remembers.
        let away = || house.replica.as_ref().is_some_and(Replica::is_away);
        if !away() {
            match (house.arrive().await, &house.replica) {
                (Err(error), Some(replica)) if is_away(&error) => replica.lost_them(),
                (arrived, _) => arrived?,
            }
        }
        if house.fellows.is_some() {
            house.spawn(Arc::clone(&house).mind_the_others());
            house.spawn(Arc::clone(&house).keep_my_place());
            house.spawn(Arc::clone(&house).await_records());
        }
        Ok(Arc::new(Self { house }))
    }

    /// Makes a volume, or finds the one that satisfies the wish.
    pub async fn create(&self, ctx: &Context, wish: CreateVolume) -> Result<Outcome<VolumeView>, Error> {
        self.house.create(ctx, &wish).await
    }

    /// Deletes a volume that nobody holds.
    pub async fn delete(&self, ctx: &Context, wish: DeleteVolume) -> Result<Outcome<()>, Error> {
        self.house.delete(ctx, &wish).await
    }

    /// Gives a holder a path into a volume on this node.
    pub async fn mount(&self, ctx: &Context, wish: MountVolume) -> Result<Outcome<MountedVolume>, Error> {
        self.house.mount(ctx, &wish).await
    }

    /// Takes a holder's path back.
    pub async fn unmount(&self, ctx: &Context, wish: UnmountVolume) -> Result<Outcome<()>, Error> {
        self.house.unmount(ctx, &wish).await
    }

    /// Lets a node reach a volume until that is taken back.
    pub async fn attach(&self, ctx: &Context, wish: AttachVolume) -> Result<Outcome<AttachedVolume>, Error> {
        self.house.attach(ctx, &wish).await
    }

    /// Takes that back.
    pub async fn detach(&self, ctx: &Context, wish: DetachVolume) -> Result<Outcome<()>, Error> {
        self.house.detach(ctx, &wish).await
    }

    /// How much room there is for volumes of a class.
    pub async fn room(&self, wish: &AskRoom) -> Result<RoomView, Error> {
        self.house.room(wish).await
    }

    /// Fills the records from what the backends have, where they are not kept for good. The daemon calls it before it says
    /// that it is ready.
    pub async fn refill(&self) -> Result<(), Error> {
        self.house.refill().await
    }

    /// How full a volume is that somebody has at a path on this node.
    pub async fn measure(&self, wish: &MeasureVolume) -> Result<Measure, Error> {
        self.house.measure(wish).await
    }

    /// Makes a volume larger.
    pub async fn grow(&self, ctx: &Context, wish: GrowVolume) -> Result<Outcome<VolumeView>, Error> {
        self.house.grow(ctx, &wish).await
    }

    /// Changes parameters of a volume.
    pub async fn modify(&self, ctx: &Context, wish: ModifyVolume) -> Result<Outcome<VolumeView>, Error> {
        self.house.modify(ctx, &wish).await
    }

    /// Takes a broken mount of this node down and makes it again.
    pub async fn repair(&self, ctx: &Context, wish: RepairVolume) -> Result<Outcome<VolumeView>, Error> {
        self.house.repair(ctx, &wish).await
    }

    /// Copies a volume into a new one of another class.
    pub async fn copy(&self, ctx: &Context, wish: CopyVolume) -> Result<Outcome<VolumeView>, Error> {
        self.house.copy(ctx, &wish).await
    }

    /// Cuts a snapshot.
    pub async fn create_snapshot(
        &self,
        ctx: &Context,
        wish: CreateSnapshot,
    ) -> Result<Outcome<Snapshot>, Error> {
        self.house.create_snapshot(ctx, &wish).await
    }

    /// Reads a page of what a snapshot holds.
    pub async fn read_snapshot(&self, wish: &ReadSnapshot) -> Result<SnapshotPiece, Error> {
        self.house.read_snapshot(wish).await
    }

    /// Deletes a snapshot.
    pub async fn delete_snapshot(&self, ctx: &Context, wish: DeleteSnapshot) -> Result<Outcome<()>, Error> {
        self.house.delete_snapshot(ctx, &wish).await
    }

    /// Cuts snapshots of several volumes at one moment.
    pub async fn create_group(&self, ctx: &Context, wish: CreateGroup) -> Result<Outcome<GroupView>, Error> {
        self.house.create_group(ctx, &wish).await
    }

    /// Deletes all snapshots of a group.
    pub async fn delete_group(&self, ctx: &Context, wish: DeleteGroup) -> Result<Outcome<()>, Error> {
        self.house.delete_group(ctx, &wish).await
    }

    /// What a group consists of; its backend is asked where no record knows it.
    pub async fn find_group(&self, which: &GroupRef) -> Result<GroupView, Error> {
        self.house.find_group(which).await
    }

    /// What the records say of all groups that are cut, by pages in the order of names.
    pub async fn list_groups(&self, after: Option<&str>, limit: usize) -> Result<ListPage<GroupView>, Error> {
        self.house.list_groups(after, limit).await
    }

    /// Where a snapshot holds data, or differs from another one: a page, from an offset on.
    pub async fn extents(&self, wish: &ListExtents) -> Result<ExtentsView, Error> {
        self.house.extents(wish).await
    }

    /// What the records say of a volume. Touches no backend.
    pub async fn inspect(&self, name: &VolumeName) -> Result<VolumeView, Error> {
        self.house.inspect(name).await
    }

    /// What the records say of all volumes, by pages in the order of names.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<ListPage<VolumeView>, Error> {
        self.house.list(after, limit).await
    }

    /// What a volume is, found by its name or by what its backend calls it; that one is asked where no record knows it.
    pub async fn find(&self, which: &VolumeRef) -> Result<VolumeView, Error> {
        self.house.find(which).await
    }

    /// What the records say of all volumes, by pages in the order of ids: the cheapest way through all of them, and
    /// the same whichever daemon of a cluster is asked.
    pub async fn list_by_id(
        &self,
        after: Option<VolumeId>,
        limit: usize,
    ) -> Result<ListPage<VolumeView>, Error> {
        self.house.list_by_id(after, limit).await
    }

    /// What the records say of all snapshots, by pages in the order of ids.
    pub async fn list_snapshots_by_id(
        &self,
        after: Option<SnapshotId>,
        limit: usize,
    ) -> Result<ListPage<Snapshot>, Error> {
        self.house.list_snapshots_by_id(after, limit).await
    }

    /// The names of all volumes, by pages: cheaper than [`Orchestrator::list`].
    pub async fn names(&self, after: Option<&str>, limit: usize) -> Result<ListPage<VolumeName>, Error> {
        self.house.names(after, limit).await
    }

    /// What the records say of a snapshot.
    pub async fn inspect_snapshot(&self, name: &SnapshotName) -> Result<Snapshot, Error> {
        self.house.inspect_snapshot(&SnapshotRef::Name(name.clone())).await
    }

    /// The same, by its name or by what its backend calls it; that one is asked where no record knows it.
    pub async fn find_snapshot(&self, which: &SnapshotRef) -> Result<Snapshot, Error> {
        self.house.inspect_snapshot(which).await
    }

    /// What the records say of all snapshots.
    pub async fn list_snapshots(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListPage<Snapshot>, Error> {
        self.house.list_snapshots(after, limit).await
    }

    /// What a volume waits for, and who holds it.
    pub async fn why(&self, name: &VolumeName) -> Result<Why, Error> {
        self.house.why(name).await
    }

    /// The configured backends: what they are, what they can do, and whether they can be used.
    pub async fn backends(&self) -> Result<Vec<BackendView>, Error> {
        let catalog = self.catalog();
        let mut views = Vec::new();
        for (name, backend) in &catalog.backends {
            let found = self.house.check(name, backend).await;
            views.push(self.backend_view(name, Some(backend.describe()), found).await?);
        }
        for (name, why) in &catalog.broken {
            let found = Err(Error::unavailable(why.clone()).about(format!("backend {name}")));
            views.push(self.backend_view(name, None, found).await?);
        }
        views.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(views)
    }

    async fn backend_view(
        &self,
        name: &BackendName,
        description: Option<Description>,
        found: Result<Check, Error>,
    ) -> Result<BackendView, Error> {
        let bound = self.house.journal.record(keys::backend(name)).await?.value;
        let said = self.house.complaints.by(name);
        Ok(BackendView { name: name.clone(), description, bound, found, said })
    }

    /// A person confirms that the backend under this name is to be believed, although it is another than
    /// before.
    pub async fn rebind(&self, name: &BackendName) -> Result<BackendView, Error> {
        let backend = self.catalog().backend(name)?;
        let check = backend.check().await?;
        self.house.bind(name, &backend, &check).await?;
        self.backend_view(name, Some(backend.describe()), Ok(check)).await
    }

    /// Compares records, backends, this node and its neighbours, and mends what can be mended safely.
    pub async fn doctor(&self, wish: &ExamineHouse) -> Result<Vec<Finding>, Error> {
        doctor::examine(&self.house, wish).await
    }

    /// Rebuilds the records of what is ours and no record knows. `tell` hears how far it is.
    pub async fn recover(
        &self,
        wish: &RecoverRecords,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Vec<Finding>, Error> {
        recover::recover(&self.house, wish, tell).await
    }

    /// Takes down what is over: idle mounts, dead holders, settled tombstones. The daemon calls it every few
    /// seconds.
    pub async fn tidy(&self) -> Result<(), Error> {
        reconcile::tidy(&self.house).await
    }

    /// Looks whether this node's mounts still reach their bytes. The daemon calls it every half a minute.
    pub async fn watch(&self) -> Result<(), Error> {
        watch::watch(&self.house).await
    }

    /// Asks the backends how their volumes are. The daemon calls it every half a minute.
    pub async fn consult(&self) -> Result<(), Error> {
        consult::consult(&self.house).await
    }

    /// What keeps a volume of this node waiting, where its device does not answer now.
    #[must_use]
    pub fn stalled(&self, id: VolumeId) -> Option<String> {
        self.house.stalls.of(id)
    }

    /// Numbers for the metrics page and for `kato node inspect`.
    pub async fn gauges(&self) -> Result<Gauges, Error> {
        self.house.gauges().await
    }

    /// Whether the records can be read: the whole of being alive.
    pub async fn is_alive(&self) -> Result<(), Error> {
        match self.house.records_answer().await {
            // A daemon that is ended because others are away is of use to nobody.
            Err(_) if self.house.replica.is_some() => Ok(()),
            answer => answer,
        }
    }

    /// Starts no more steps, and lets those in flight end for so long; then they are dropped, which is what a crash does
    /// to them. Touches no mount.
    pub async fn stop(&self, patience: Duration) {
        self.house.stopping.cancel();
        self.house.tasks.close();
        let clock = &self.house.ports.clock;
        tokio::select! {
            () = self.house.tasks.wait() => return,
            () = clock.sleep_until(clock.now().plus(patience)) => {}
        }
        self.house.abandoning.cancel();
        self.house.tasks.wait().await;
    }

    /// Says to the others that this node stops for a while, and that what it has mounted goes on.
    pub async fn say_away(&self) {
        self.house.say_away().await;
    }

    /// Whether other daemons share the records.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.house.fellows.is_some()
    }

    /// The hosts that the records know.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.house.journal.all::<Node>(keys::NODES).await
    }

    /// What is known of all hosts, and who holds what there.
    pub async fn node_views(&self) -> Result<Vec<NodeView>, Error> {
        self.house.node_views().await
    }

    /// Lets nothing new be mounted on a host, or lets it again.
    pub async fn drain(&self, id: &NodeId, drained: bool) -> Result<Outcome<NodeView>, Error> {
        self.house.drain(id, drained).await
    }

    /// A person made sure that a host is down, and does not write to anything any more.
    pub async fn confirm_down(&self, id: &NodeId) -> Result<Outcome<NodeView>, Error> {
        self.house.confirm_down(id).await
    }

    /// What this host is called.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        self.house.node()
    }

    /// The id of this set of records.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.house.cluster
    }

    /// The time that deadlines are counted in.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.house.ports.clock
    }

    /// The machine, for reads that no record answers (usage, health).
    #[must_use]
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.house.ports.host
    }

    /// What is configured now.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.house.catalog()
    }

    /// Takes a new configuration; work in flight ends as it began.
    pub fn set_catalog(&self, catalog: Catalog) {
        *self.house.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
        self.house.trusted.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The id of this set of records: the journal's, else the configured one, else a fresh one, recorded first.
async fn cluster(
    known: Option<ClusterId>,
    journal: &Journal,
    ports: &Ports,
    config: &Config,
) -> Result<ClusterId, Error> {
    match (known, config.cluster) {
        (Some(known), Some(wanted)) if known != wanted => Err(Error::precondition(format!(
            "the journal belongs to cluster {known}, but this data folder to cluster {wanted}: put the right one in its \
             place, or remove the folder's marker if the journal is right"
        ))),
        (Some(known), _) => Ok(known),
        (None, wanted) => {
            let id = wanted.unwrap_or_else(|| ClusterId(ports.ids.next()));
            let mut change = Change::default();
            change.guard_absent(keys::cluster());
            change.put(keys::cluster(), &id);
            journal.commit(change, Durability::Durable).await?;
            Ok(id)
        }
    }
}

/// A backend as configured, remembered and found.
#[derive(Clone, Debug)]
pub struct BackendView {
    /// What the operator calls it.
    pub name: BackendName,
    /// What it says of itself; nothing when it could not be loaded.
    pub description: Option<Description>,
    /// What it was when it was first used.
    pub bound: Option<BackendRecord>,
    /// What it is now; an error says why it cannot be used.
    pub found: Result<Check, Error>,
    /// What it said of its volumes' health; nothing while it was never asked, or cannot say.
    pub said: Option<Consultation>,
}

/// Something that does not fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A stable word. Of both: `orphan`, `unmarked`, `unreachable`. Of the doctor: `retained`, `lost`, `found-again`,
    /// `missing-mount`, `stale-mount`, `stale-device`, `lost-mount`, `same-name`, `stuck`. Of a recovery:
    /// `recovered`, `missing`, `nameless`, `foreign`, `dump`.
    pub code: &'static str,
    /// What it is about.
    pub subject: String,
    /// What does not fit, and what to do.
    pub message: String,
    /// Whether `--fix` would mend it.
    pub fixable: bool,
    /// Whether it was mended just now.
    pub fixed: bool,
}

impl fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator").field("config", &self.house.config).finish_non_exhaustive()
    }
}
