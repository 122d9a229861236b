//! A machine in memory. Filesystems are bytes of the backend's volumes: `FS:` and what was written since the
//! format, so that a second format, a mount of the wrong thing, or a write after an unmount shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{BackendWorld, Fuse};
use crate::{
    error::Error,
    model::{Bytes, Caller, Connection, VolumeId},
    ports::{
        blocks::Place,
        host::{
            Bind, Condition, Connections, Device, Facts, Filesystems, Grown, MountWish, MountedAt,
            Observations, Prepare, Standing, Stray, Survey, Usage,
        },
    },
};

/// What the machine has; outlives the process, but not the boot.
#[derive(Debug)]
pub struct HostWorld {
    boot: u32,
    connected: BTreeMap<VolumeId, String>,
    mounts: BTreeMap<VolumeId, String>,
    binds: BTreeMap<String, VolumeId>,
    /// Until when each is frozen.
    frozen: BTreeMap<VolumeId, Instant>,
    dead: BTreeSet<u32>,
    elsewhere: BTreeMap<VolumeId, Vec<String>>,
    broken: BTreeMap<VolumeId, String>,
    stalled: BTreeSet<VolumeId>,
    /// How large devices are, where they do not have their volume's size.
    sizes: BTreeMap<VolumeId, Bytes>,
    /// How many clients it has been; nothing while it does not tell.
    clients: Option<u32>,
    /// Files that snapshots were exported to, by their paths.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Default for HostWorld {
    fn default() -> Self {
        Self {
            boot: 1,
            connected: BTreeMap::new(),
            mounts: BTreeMap::new(),
            binds: BTreeMap::new(),
            frozen: BTreeMap::new(),
            dead: BTreeSet::new(),
            elsewhere: BTreeMap::new(),
            broken: BTreeMap::new(),
            stalled: BTreeSet::new(),
            sizes: BTreeMap::new(),
            clients: None,
            files: BTreeMap::new(),
        }
    }
}

impl HostWorld {
    /// Loses everything that a reboot loses.
    pub fn reboot(&mut self) {
        let files = std::mem::take(&mut self.files);
        *self = Self { boot: self.boot + 1, clients: self.clients, files, ..Self::default() };
    }

    /// Lets it tell who it is to the backend, another one with each connection.
    pub fn tell_clients(&mut self) {
        self.clients = Some(0);
    }

    /// The daemon is gone: the watchdogs thaw what it froze.
    pub fn thaw_all(&mut self) {
        self.frozen.clear();
    }

    /// What is mounted.
    #[must_use]
    pub fn mounts(&self) -> Vec<VolumeId> {
        self.mounts.keys().copied().collect()
    }

    /// The handles of what is mounted.
    #[must_use]
    pub fn mounted(&self) -> Vec<String> {
        self.mounts.keys().filter_map(|volume| self.connected.get(volume)).cloned().collect()
    }

    /// What is connected.
    #[must_use]
    pub fn connected(&self) -> Vec<VolumeId> {
        self.connected.keys().copied().collect()
    }

    /// The binds.
    #[must_use]
    pub fn binds(&self) -> Vec<String> {
        self.binds.keys().cloned().collect()
    }

    /// Whether something stands frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.values().any(|until| *until > Instant::now())
    }

    /// Ends a process.
    pub fn kill(&mut self, pid: u32) {
        self.dead.insert(pid);
    }

    /// Gives another mount namespace a volume's mount, or takes all such away.
    pub fn show_elsewhere(&mut self, volume: VolumeId, holders: Vec<String>) {
        self.elsewhere.insert(volume, holders);
    }

    /// Cuts a mounted volume off from its bytes, until it is unmounted.
    pub fn cut_off(&mut self, volume: VolumeId, why: &str) {
        if self.mounts.contains_key(&volume) {
            self.broken.insert(volume, why.to_owned());
        }
    }

    /// Has a volume's device show another size than its own, or its own again.
    pub fn show_size(&mut self, volume: VolumeId, size: Option<Bytes>) {
        match size {
            Some(size) => drop(self.sizes.insert(volume, size)),
            None => drop(self.sizes.remove(&volume)),
        }
    }

    /// Puts the cable back.
    pub fn put_back(&mut self, volume: VolumeId) {
        self.broken.remove(&volume);
    }

    /// Lets a volume's device not answer, or answer again.
    pub fn stall(&mut self, volume: VolumeId, stalls: bool) {
        if stalls {
            self.stalled.insert(volume);
        } else {
            self.stalled.remove(&volume);
        }
    }

    /// Ends all containers.
    pub fn end_containers(&mut self) {
        self.elsewhere.clear();
    }

    /// Unmounts behind everybody's back.
    pub fn yank(&mut self, volume: VolumeId) {
        self.mounts.remove(&volume);
    }
}

/// A machine in memory.
#[derive(Clone, Debug)]
pub struct FakeHost {
    world: Arc<Mutex<HostWorld>>,
    backend: Arc<Mutex<BackendWorld>>,
    /// Other backends that it reaches.
    beside: Vec<Arc<Mutex<BackendWorld>>>,
    node: &'static str,
    pub(super) fuse: Arc<Fuse>,
}

impl FakeHost {
    /// A machine over these worlds, which the backend knows as `here`.
    #[must_use]
    pub fn new(world: Arc<Mutex<HostWorld>>, backend: Arc<Mutex<BackendWorld>>, fuse: Arc<Fuse>) -> Self {
        Self { world, backend, beside: Vec::new(), node: "here", fuse }
    }

    /// The same, and it reaches another backend too.
    #[must_use]
    pub fn beside(mut self, backend: Arc<Mutex<BackendWorld>>) -> Self {
        self.beside.push(backend);
        self
    }

    /// The same under another name.
    #[must_use]
    pub fn called(mut self, node: &'static str) -> Self {
        self.node = node;
        self
    }

    pub(super) fn world(&self) -> MutexGuard<'_, HostWorld> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bytes<T>(
        &self,
        handle: &str,
        act: impl FnOnce(&mut Vec<u8>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for backend in std::iter::once(&self.backend).chain(&self.beside) {
            let mut backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(bytes) = backend.bytes(handle) {
                return act(bytes);
            }
        }
        Err(Error::not_found("there is nothing at the end of the connection"))
    }

    /// An error for what is read or written without being connected.
    pub(super) fn require_connected(&self, place: &Place) -> Result<(), Error> {
        let world = self.world();
        match world.connected.contains_key(&place.id) {
            true => Ok(()),
            false => Err(Error::internal("it was used before it was connected")),
        }
    }

    fn require_size(&self, volume: VolumeId, wanted: Bytes) -> Result<(), Error> {
        match self.world().sizes.get(&volume) {
            Some(shown) if *shown < wanted => {
                Err(Error::unavailable(format!("the device shows {shown}, and {wanted} is expected")))
            }
            _ => Ok(()),
        }
    }

    /// Appends to the filesystem of a mounted volume, as a container would. A frozen one takes nothing.
    pub fn write(&self, volume: VolumeId, text: &str) -> Result<(), Error> {
        let handle = {
            let world = self.world();
            if !world.mounts.contains_key(&volume) {
                return Err(Error::not_found("not mounted"));
            }
            if world.frozen.get(&volume).is_some_and(|until| *until > Instant::now()) {
                return Err(Error::busy("frozen"));
            }
            if let Some(why) = world.broken.get(&volume) {
                return Err(Error::unavailable(why.clone()));
            }
            world.connected.get(&volume).cloned().unwrap_or_default()
        };
        self.write_as_myself(&handle)?;
        self.bytes(&handle, |bytes| {
            bytes.extend_from_slice(text.as_bytes());
            Ok(())
        })
    }

    fn write_as_myself(&self, handle: &str) -> Result<(), Error> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner).reach.write(handle, self.node)
    }

    /// Gives containers a volume, each in a mount namespace of its own, or takes it away from them.
    pub fn show_elsewhere(&self, volume: VolumeId, containers: Vec<String>) {
        self.world().show_elsewhere(volume, containers);
    }

    /// What the filesystem of a mounted volume holds.
    pub fn read(&self, volume: VolumeId) -> Result<String, Error> {
        let handle = self.world().connected.get(&volume).cloned().unwrap_or_default();
        self.bytes(&handle, |bytes| Ok(String::from_utf8_lossy(bytes).into_owned()))
    }
}

pub(super) fn handle(connection: &Connection) -> Result<String, Error> {
    match connection {
        Connection::File { path, .. } => Ok(path.clone()),
        other => Err(Error::unsupported(format!("the fake machine cannot connect {}", other.kind()))),
    }
}

#[async_trait]
impl Connections for FakeHost {
    async fn connect(&self, volume: VolumeId, connection: &Connection, _: bool) -> Result<Device, Error> {
        self.fuse.pass().await;
        let handle = handle(connection)?;
        self.bytes(&handle, |_| Ok(()))?;
        if self.world().connected.insert(volume, handle.clone()).is_none() {
            let mut backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
            backend.reach.enter(&handle, self.node);
            drop(backend);
            let mut world = self.world();
            world.clients = world.clients.map(|clients| clients + 1);
        }
        let client = self.world().clients.map(|client| format!("{}/{client}", self.node));
        self.fuse.pass().await;
        let size = self.world().sizes.get(&volume).copied();
        Ok(Device { path: format!("/dev/fake-{volume}"), size, client })
    }

    async fn disconnect(&self, volume: VolumeId, _: &Connection) -> Result<(), Error> {
        self.fuse.pass().await;
        if let Some(handle) = self.world().connected.remove(&volume) {
            let mut backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
            backend.reach.leave(&handle, self.node);
        }
        self.fuse.pass().await;
        Ok(())
    }

    async fn rescan(&self, _: VolumeId, _: &Connection, size: Bytes) -> Result<Bytes, Error> {
        self.fuse.pass().await;
        Ok(size)
    }
}

#[async_trait]
impl Filesystems for FakeHost {
    async fn format(&self, volume: VolumeId, connection: &Connection, how: &Prepare) -> Result<(), Error> {
        self.connect(volume, connection, false).await?;
        self.require_size(volume, how.size)?;
        self.write_as_myself(&handle(connection)?)?;
        self.bytes(&handle(connection)?, |bytes| {
            if !bytes.is_empty() && (bytes.starts_with(b"FS:") && bytes.len() > 3 || !how.resumed) {
                return Err(Error::precondition("the volume is not blank"));
            }
            *bytes = b"half of a filesystem".to_vec();
            Ok(())
        })?;
        self.fuse.pass().await;
        self.write_as_myself(&handle(connection)?)?;
        self.bytes(&handle(connection)?, |bytes| {
            *bytes = b"FS:".to_vec();
            Ok(())
        })?;
        self.fuse.pass().await;
        Ok(())
    }

    async fn mount(&self, wish: &MountWish) -> Result<MountedAt, Error> {
        let device = self.connect(wish.volume, &wish.connection, wish.read_only).await?;
        self.require_size(wish.volume, wish.size)?;
        self.write_as_myself(&handle(&wish.connection)?)?;
        self.bytes(&handle(&wish.connection)?, |bytes| match bytes.starts_with(b"FS:") {
            true => Ok(()),
            false => Err(Error::precondition("there is no filesystem")),
        })?;
        let path = format!("/fake/mounts/{}", wish.volume);
        self.world().mounts.insert(wish.volume, path.clone());
        self.fuse.pass().await;
        Ok(MountedAt { data: format!("{path}/data"), path, device, fs_behind: false })
    }

    async fn unmount(&self, volume: VolumeId, _: &str, connection: &Connection) -> Result<(), Error> {
        self.fuse.pass().await;
        {
            let mut world = self.world();
            if world.binds.values().any(|bound| *bound == volume) {
                return Err(Error::in_use("it is still bound"));
            }
            if let Some(holder) = world.elsewhere.get(&volume).and_then(|holders| holders.first()) {
                return Err(Error::in_use(format!("its device is still mounted: held by {holder}")));
            }
            world.broken.remove(&volume);
            world.mounts.remove(&volume);
        }
        self.disconnect(volume, connection).await
    }

    async fn remove_stray(&self, volume: Option<VolumeId>, stray: &Stray) -> Result<(), Error> {
        self.fuse.pass().await;
        let Some(volume) = volume else { return Err(Error::precondition("the fake machine knows them all")) };
        {
            let mut world = self.world();
            if let Some(holder) = world.elsewhere.get(&volume).and_then(|holders| holders.first()) {
                return Err(Error::in_use(format!("it is still mounted: held by {holder}")));
            }
            match stray {
                Stray::Mount(_) => drop(world.mounts.remove(&volume)),
                Stray::Device(device) if world.mounts.contains_key(&volume) => {
                    return Err(Error::in_use(format!("{device} is still mounted")));
                }
                Stray::Device(_) => {
                    if let Some(handle) = world.connected.remove(&volume) {
                        let mut backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
                        backend.reach.leave(&handle, self.node);
                    }
                }
            }
        }
        self.fuse.pass().await;
        Ok(())
    }

    async fn bind(&self, volume: VolumeId, bind: &Bind) -> Result<(), Error> {
        self.fuse.pass().await;
        {
            let mut world = self.world();
            let there = match bind.device {
                true => world.connected.contains_key(&volume),
                false => world.mounts.contains_key(&volume),
            };
            if !there {
                return Err(Error::internal("bound before it was mounted"));
            }
            if world.binds.get(&bind.to).is_some_and(|other| *other != volume) {
                return Err(Error::precondition("another volume is bound there"));
            }
            world.binds.insert(bind.to.clone(), volume);
        }
        self.fuse.pass().await;
        Ok(())
    }

    async fn unbind(&self, volume: VolumeId, bind: &Bind) -> Result<(), Error> {
        self.fuse.pass().await;
        self.world().binds.retain(|at, bound| *at != bind.to || *bound != volume);
        self.fuse.pass().await;
        Ok(())
    }

    async fn freeze(&self, volume: VolumeId, _: &str, at_most: Duration) -> Result<(), Error> {
        self.fuse.pass().await;
        self.world().frozen.insert(volume, Instant::now() + at_most);
        self.fuse.pass().await;
        Ok(())
    }

    async fn thaw(&self, volume: VolumeId, _: &str) -> Result<bool, Error> {
        self.fuse.pass().await;
        Ok(self.world().frozen.remove(&volume).is_some_and(|until| until > Instant::now()))
    }

    async fn grow(&self, _: VolumeId, _: &str) -> Result<Grown, Error> {
        self.fuse.pass().await;
        Ok(Grown::Done)
    }
}

#[async_trait]
impl Observations for FakeHost {
    async fn facts(&self) -> Result<Facts, Error> {
        Ok(Facts {
            boot_id: format!("boot-{}", self.world().boot),
            hostname: "fake".into(),
            identities: Vec::new(),
            connectors: Vec::new(),
        })
    }

    async fn survey(&self) -> Result<Survey, Error> {
        let world = self.world();
        Ok(Survey {
            mounts: world.mounts.iter().map(|(id, path)| (Some(*id), path.clone())).collect(),
            devices: world
                .connected
                .iter()
                .map(|(id, at)| (Some(*id), format!("/dev/fake-{id}"), at.clone()))
                .collect(),
        })
    }

    async fn usage(&self, _: &str) -> Result<Usage, Error> {
        Ok(Usage::default())
    }

    async fn health(&self, mount: &Standing) -> Result<Condition, Error> {
        self.fuse.pass().await;
        let world = self.world();
        if world.stalled.contains(&mount.volume) {
            return Err(Error::timeout("the fake device does not answer"));
        }
        if world.mounts.get(&mount.volume) != Some(&mount.path) {
            return Ok(Condition::Missing);
        }
        Ok(world.broken.get(&mount.volume).cloned().map_or(Condition::Well, Condition::Broken))
    }

    async fn holders(&self, volume: VolumeId, _: &str) -> Result<Vec<String>, Error> {
        Ok(self.world().elsewhere.get(&volume).cloned().unwrap_or_default())
    }

    async fn alive(&self, caller: &Caller) -> bool {
        !self.world().dead.contains(&caller.pid)
    }
}
