//! The node itself: which of its rooms does what, where, and with how much patience. Directories are handled
//! on threads of this process (`local.rs`), everything that has a device by workers (`worker.rs`). Nothing is
//! remembered that the kernel cannot be asked for, except who is frozen, which volumes are directories, and
//! whose a disk was that has only a name (`connect/device/notes.rs`); each is found out anew when it is not known.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes as Buffer;
use kato_orchestrator::{
    Error, Kind,
    model::{Bytes, Caller, Connection, VolumeId},
    ports::{
        backend::Blankness,
        blocks::{Blocks, Export, ExportPage, Place},
        extents::Extent,
        host::{
            Bind, Condition, Connections, Device, Facts, Filesystems, Grown, MountWish, MountedAt,
            Observations, Prepare, Standing, Stray, Survey, Usage,
        },
    },
};

use tokio::task::JoinSet;

use crate::{
    Accounts, Config,
    command::Programs,
    connect::{Connected, Way},
    errno::failed,
    health,
    local::{self, DirectoryMount, Elsewhere, Threads},
    mount::{self, Options},
    survey,
    task::{Answer, Job, Task},
    worker::{Pool, Worker},
};

/// A Linux machine.
pub struct LinuxHost {
    config: Config,
    pool: Arc<Pool>,
    threads: Threads,
    elsewhere: Elsewhere,
    /// Volumes that we have mounted as directories since we began: a hint that saves asking a worker.
    directories: Mutex<HashSet<VolumeId>>,
    /// Who this node is at its backends: it may hear of another while it stands.
    accounts: RwLock<Accounts>,
    /// Those who hold a freeze.
    freezes: Mutex<HashMap<VolumeId, Worker>>,
}

impl fmt::Debug for LinuxHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinuxHost").field("config", &self.config).finish_non_exhaustive()
    }
}

impl LinuxHost {
    /// Makes the node's folders, lets go on what an earlier daemon left frozen, and is ready.
    pub async fn open(mut config: Config) -> Result<Self, Error> {
        let wanted = config.clone();
        config = blocking(move || {
            let mut config = wanted;
            let locks = config.root.join("locks");
            std::fs::create_dir_all(&locks)
                .map_err(|error| failed(format_args!("make {}", locks.display()), error))?;
            mount::prepare_folder(&config.mounts())?;
            // mountinfo tells real paths, and ours are compared with them.
            config.root = real(&config.root)?;
            if let crate::Layout::Names(folder) = &mut config.layout {
                *folder = real(folder)?;
            }
            // One that is not there now may be mounted later, under the name that it has.
            config.granted =
                config.granted.iter().map(|folder| real(folder).unwrap_or_else(|_| folder.clone())).collect();
            Ok(config)
        })
        .await?;
        let accounts = std::mem::take(&mut config.accounts);
        let host = Self {
            pool: Pool::new(config.worker.clone(), config.workers),
            config,
            threads: Threads::default(),
            elsewhere: Elsewhere::default(),
            directories: Mutex::default(),
            accounts: RwLock::new(accounts),
            freezes: Mutex::default(),
        };
        host.thaw_what_was_left().await?;
        Ok(host)
    }

    /// Thaws every filesystem of ours. One that stalls is thawed in its own time.
    async fn thaw_what_was_left(&self) -> Result<(), Error> {
        let folders = self.config.folders();
        let staged = blocking(move || survey::mounts(&folders)).await?;
        let mut thawing = JoinSet::new();
        for mount in staged.into_iter().filter(|mount| mount.is_whole) {
            let job = self.job(mount.volume, false, Task::Thaw { path: PathBuf::from(&mount.path) });
            let (pool, patience) = (Arc::clone(&self.pool), self.config.patience);
            thawing.spawn(async move {
                let subject = mount.volume.map_or_else(|| mount.path.clone(), |volume| volume.to_string());
                if let Err(error) = pool.run(subject, job, patience).await {
                    tracing::warn!(path = mount.path, %error, "could not see to it that a volume is not frozen");
                }
            });
        }
        let limit = self.config.patience.min(Duration::from_secs(5));
        let all = async { while thawing.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, all).await.is_err() {
            thawing.detach_all();
            tracing::warn!("went on without knowing that no volume is frozen");
        }
        Ok(())
    }

    /// Where a volume may be mounted: where it is mounted now, and where it was before the layout was changed.
    fn places(&self, volume: VolumeId, name: &str) -> Vec<PathBuf> {
        let mut places = vec![self.config.mounts().join(self.config.segment(volume, name))];
        let by_id = self.config.root.join("mounts").join(volume.to_string());
        if !places.contains(&by_id) {
            places.push(by_id);
        }
        places
    }

    /// Tells the node who it is at its backends from now on.
    pub fn know(&self, accounts: Accounts) {
        *self.accounts.write().unwrap_or_else(PoisonError::into_inner) = accounts;
    }

    fn way(&self, connection: &Connection) -> Result<Way, Error> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        Way::of(connection, &self.config, &accounts)
    }

    fn job(&self, volume: Option<VolumeId>, is_locked: bool, task: Task) -> Job {
        let lock = |volume: VolumeId| self.config.root.join("locks").join(volume.to_string());
        Job {
            volume: volume.map(|volume| volume.to_string()),
            lock: volume.filter(|_| is_locked).map(lock),
            patience: self.config.patience,
            long_patience: self.config.long_patience,
            programs: Programs::within(self.config.programs.clone()),
            task,
            load: 0,
            bytes: Vec::new(),
        }
    }

    /// Has a worker change a volume.
    async fn change(&self, volume: VolumeId, task: Task) -> Result<Answer, Error> {
        self.pool.run(volume.to_string(), self.job(Some(volume), true, task), self.config.patience).await
    }

    /// Has a worker move bytes for a volume, which may take as long as reading a whole device.
    async fn move_for(&self, volume: VolumeId, job: Job) -> Result<Answer, Error> {
        self.pool.run(volume.to_string(), job, self.config.long_patience).await
    }

    /// Has a worker look at something.
    async fn look(&self, subject: String, task: Task) -> Result<Answer, Error> {
        self.pool.run(subject, self.job(None, false, task), self.config.patience).await
    }

    /// Does something for a directory volume on a thread of ours.
    async fn nearby<T: Send + 'static>(
        &self,
        volume: VolumeId,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.threads.run(self.pool.tasks(), volume, self.config.patience, work).await
    }

    async fn mount_directory(&self, wish: &MountWish, root: &str, path: &str) -> Result<MountedAt, Error> {
        let options = Options::parse(&wish.options, wish.read_only)?;
        let place = self.place(wish);
        let device = Device { path: join(root, path), size: None, client: None };
        let mounted = mounted_at(&place, wish, device, false);
        let directory =
            DirectoryMount { root: root.into(), path: path.into(), options, data: wish.root.clone(), place };
        self.nearby(wish.volume, move || directory.make()).await?;
        self.directories().insert(wish.volume);
        Ok(mounted)
    }

    fn place(&self, wish: &MountWish) -> PathBuf {
        self.config.mounts().join(self.config.segment(wish.volume, &wish.name))
    }

    fn directories(&self) -> MutexGuard<'_, HashSet<VolumeId>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn freezes(&self) -> MutexGuard<'_, HashMap<VolumeId, Worker>> {
        self.freezes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a freeze that we hold: whether it held until now, or nothing if there was none.
    async fn release(&self, volume: VolumeId) -> Result<Option<bool>, Error> {
        let Some(mut holder) = self.freezes().remove(&volume) else { return Ok(None) };
        let said = holder.say_over().await;
        let heard = tokio::time::timeout(self.config.patience, holder.hear()).await;
        if said.is_err() {
            tracing::warn!(volume.id = %volume, "a freeze had ended by itself before it was to end");
        }
        let outcome = match heard {
            Ok(Ok(word)) => match word.answer() {
                Ok(Answer::Held(until_now)) => Ok(Some(until_now)),
                Ok(other) => Err(other.unexpected()),
                Err(error) => Err(error),
            },
            // It died; its watchdog has thawed.
            Ok(Err(_)) => Ok(Some(false)),
            Err(_) => {
                holder.kill();
                Err(Error::timeout("the volume's device does not answer a thaw").pending())
            }
        };
        self.pool.tasks().spawn(holder.gone());
        outcome
    }
}

#[async_trait]
impl Connections for LinuxHost {
    async fn connect(
        &self,
        volume: VolumeId,
        connection: &Connection,
        read_only: bool,
    ) -> Result<Device, Error> {
        if let Connection::Directory { root, path } = connection {
            let (folder, beneath) = (PathBuf::from(root), PathBuf::from(path));
            self.nearby(volume, move || local::check(&folder, &beneath)).await?;
            return Ok(Device { path: join(root, path), size: None, client: None });
        }
        match self.change(volume, Task::Connect { way: self.way(connection)?, read_only }).await? {
            Answer::Connected(connected) => Ok(connected.into()),
            other => Err(other.unexpected()),
        }
    }

    async fn disconnect(&self, volume: VolumeId, connection: &Connection) -> Result<(), Error> {
        if let Connection::Directory { .. } = connection {
            return Ok(());
        }
        self.change(volume, Task::Disconnect { way: self.way(connection)? }).await.map(drop)
    }

    async fn rescan(&self, volume: VolumeId, connection: &Connection, size: Bytes) -> Result<Bytes, Error> {
        if let Connection::Directory { .. } = connection {
            return Ok(size);
        }
        match self.change(volume, Task::Rescan { way: self.way(connection)?, size: size.0 }).await? {
            Answer::Size(size) => Ok(Bytes(size)),
            other => Err(other.unexpected()),
        }
    }
}

#[async_trait]
impl Blocks for LinuxHost {
    async fn read_blocks(&self, from: &Place, extents: Vec<Extent>) -> Result<Vec<Buffer>, Error> {
        let task = Task::ReadBlocks { way: self.way(&from.connection)?, extents: numbers(&extents) };
        let job = self.job(Some(from.id), false, task);
        match self.pool.run(from.id.to_string(), job, self.config.long_patience).await? {
            Answer::Blocks { bytes, .. } => {
                let apart = apart(&numbers(&extents), bytes)?;
                Ok(apart.into_iter().map(|(_, bytes)| bytes).collect())
            }
            other => Err(other.unexpected()),
        }
    }

    async fn write_blocks(&self, to: &Place, blocks: Vec<(Bytes, Buffer)>) -> Result<(), Error> {
        let length = |bytes: &Buffer| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let places = blocks.iter().map(|(offset, bytes)| (offset.0, length(bytes))).collect();
        let task = Task::WriteBlocks { way: self.way(&to.connection)?, blocks: places };
        let load = blocks.iter().map(|(_, bytes)| length(bytes)).sum();
        let bytes = blocks.into_iter().map(|(_, bytes)| bytes).collect();
        self.move_for(to.id, Job { load, bytes, ..self.job(Some(to.id), true, task) }).await.map(drop)
    }

    async fn copy_blocks(
        &self,
        from: &Place,
        to: &Place,
        extents: Vec<Extent>,
        skip_zeroes: bool,
    ) -> Result<Bytes, Error> {
        let task = Task::CopyBlocks {
            from: (from.id.to_string(), self.way(&from.connection)?),
            to: self.way(&to.connection)?,
            extents: numbers(&extents),
            skip_zeroes,
        };
        match self.move_for(to.id, self.job(Some(to.id), true, task)).await? {
            Answer::Size(written) => Ok(Bytes(written)),
            other => Err(other.unexpected()),
        }
    }

    async fn look_at_export(&self, path: &str) -> Result<Export, Error> {
        match self.look(path.to_owned(), Task::LookAtExport { path: absolute(path)? }).await? {
            Answer::Export { head, begin, length } => Ok(Export {
                size: Bytes(head.size_bytes),
                fs: kato_orchestrator::model::FsType::parse(&head.fs)?,
                directory: head.directory,
                begin: Bytes(begin),
                length: Bytes(length),
            }),
            other => Err(other.unexpected()),
        }
    }

    async fn read_export(&self, path: &str, from: Bytes) -> Result<ExportPage, Error> {
        match self.look(path.to_owned(), Task::ReadExport { path: absolute(path)?, from: from.0 }).await? {
            Answer::Blocks { pieces, next, bytes, .. } => {
                Ok(ExportPage { blocks: apart(&pieces, bytes)?, next: next.map(Bytes) })
            }
            other => Err(other.unexpected()),
        }
    }

    async fn flush_blocks(&self, to: &Place) -> Result<(), Error> {
        let task = Task::FlushBlocks { way: self.way(&to.connection)? };
        self.move_for(to.id, self.job(Some(to.id), true, task)).await.map(drop)
    }
}

/// The bytes of these pieces, which stand one behind the other.
fn apart(pieces: &[(u64, u64)], mut bytes: Buffer) -> Result<Vec<(Bytes, Buffer)>, Error> {
    let cut = pieces.iter().map(|(offset, length)| {
        let length = usize::try_from(*length).unwrap_or(usize::MAX);
        match length <= bytes.len() {
            true => Ok((Bytes(*offset), bytes.split_to(length))),
            false => Err(Error::internal("a worker read less than it was to")),
        }
    });
    cut.collect()
}

fn numbers(extents: &[Extent]) -> Vec<(u64, u64)> {
    extents.iter().map(|extent| (extent.offset.0, extent.length.0)).collect()
}

#[async_trait]
impl Filesystems for LinuxHost {
    async fn format(&self, volume: VolumeId, connection: &Connection, how: &Prepare) -> Result<(), Error> {
        let task = Task::Format {
            way: self.way(connection)?,
            fs: how.fs.name().to_owned(),
            zeroes: how.blank == Blankness::Zeroes,
            resumed: how.resumed,
            size: how.size.0,
        };
        self.change(volume, task).await.map(drop)
    }

    async fn mount(&self, wish: &MountWish) -> Result<MountedAt, Error> {
        if let Some(name) = &wish.root.directory {
            kato_orchestrator::model::DataRoot::check_directory(name)?;
        }
        if let Connection::Directory { root, path } = &wish.connection {
            return self.mount_directory(wish, root, path).await;
        }
        let place = self.place(wish);
        let task = Task::Mount {
            way: self.way(&wish.connection)?,
            options: wish.options.clone(),
            read_only: wish.read_only,
            root: (&wish.root).into(),
            place: place.clone(),
            size: wish.size.0,
        };
        match self.change(wish.volume, task).await? {
            Answer::Mounted { connected, fs_behind } => {
                Ok(mounted_at(&place, wish, connected.into(), fs_behind))
            }
            other => Err(other.unexpected()),
        }
    }

    async fn unmount(&self, volume: VolumeId, name: &str, connection: &Connection) -> Result<(), Error> {
        let places = self.places(volume, name);
        if let Connection::Directory { path, .. } = connection {
            let ours = places.clone();
            self.nearby(volume, move || local::take_down(&ours)).await?;
            let namespaces = self.elsewhere.see().await?;
            local::held_by_nobody(&namespaces, Path::new(path), &places)?;
            self.directories().remove(&volume);
            return Ok(());
        }
        let way = self.way(connection)?;
        // A frozen filesystem cannot be unmounted by anybody.
        self.release(volume).await?;
        self.change(volume, Task::Unmount { way, places }).await.map(drop)
    }

    async fn remove_stray(&self, volume: Option<VolumeId>, stray: &Stray) -> Result<(), Error> {
        let (Stray::Mount(path) | Stray::Device(path)) = stray;
        let path = absolute(path)?;
        let task = match stray {
            Stray::Mount(_) => Task::UnmountStray { folders: self.config.folders(), path },
            Stray::Device(_) => Task::FreeStray {
                granted: self.config.granted.clone(),
                servers: self.config.servers().folder,
                path,
            },
        };
        let subject = volume.map_or_else(|| "stray".to_owned(), |volume| volume.to_string());
        self.pool.run(subject, self.job(volume, volume.is_some(), task), self.config.patience).await?;
        if let Some(volume) = volume {
            self.directories().remove(&volume);
        }
        Ok(())
    }

    async fn bind(&self, volume: VolumeId, bind: &Bind) -> Result<(), Error> {
        let path = self.bound(bind)?;
        absolute(&bind.from)?;
        if self.directories().contains(&volume) {
            return self.nearby(volume, move || path.make()).await;
        }
        self.change(volume, Task::Bind(path)).await.map(drop)
    }

    async fn unbind(&self, volume: VolumeId, bind: &Bind) -> Result<(), Error> {
        let path = self.bound(bind)?;
        if self.directories().contains(&volume) {
            return self.nearby(volume, move || path.take_away()).await;
        }
        self.change(volume, Task::Unbind(path)).await.map(drop)
    }

    async fn freeze(&self, volume: VolumeId, path: &str, at_most: Duration) -> Result<(), Error> {
        self.release(volume).await?;
        let task = Task::Hold { path: absolute(path)?, at_most, worker: self.pool.line().to_vec() };
        let mut holder = Worker::start(self.pool.line())?;
        let told = async {
            holder.say(&self.job(Some(volume), false, task)).await?;
            holder.hear().await
        };
        let told = tokio::time::timeout(self.config.patience, told).await;
        let outcome = match told {
            Ok(Ok(word)) => word.answer().map(drop),
            Ok(Err(error)) => Err(failed("hear from the holder of a freeze", error)),
            Err(_) => {
                // Its watchdog thaws what may still be frozen.
                holder.kill();
                Err(Error::timeout("the volume's device does not answer a freeze").pending())
            }
        };
        if outcome.is_ok() {
            self.freezes().insert(volume, holder);
        } else {
            self.pool.tasks().spawn(holder.gone());
        }
        outcome
    }

    async fn thaw(&self, volume: VolumeId, path: &str) -> Result<bool, Error> {
        if let Some(until_now) = self.release(volume).await? {
            return Ok(until_now);
        }
        // Whoever froze it, it was not us: so nobody knows how long it was held.
        match self.look(volume.to_string(), Task::Thaw { path: absolute(path)? }).await {
            // Nothing is mounted there, or a directory is: neither is ever frozen.
            Err(error) if matches!(error.kind, Kind::Precondition | Kind::Unsupported) => Ok(false),
            other => other.map(|_| false),
        }
    }

    async fn grow(&self, volume: VolumeId, path: &str) -> Result<Grown, Error> {
        match self.change(volume, Task::Grow { path: absolute(path)?, dev: self.config.dev.clone() }).await? {
            Answer::Grown { needs_unmount: true } => Ok(Grown::NeedsUnmount),
            Answer::Grown { needs_unmount: false } => Ok(Grown::Done),
            other => Err(other.unexpected()),
        }
    }
}

#[async_trait]
impl Observations for LinuxHost {
    async fn facts(&self) -> Result<Facts, Error> {
        let config = self.config.clone();
        blocking(move || survey::facts(&config)).await
    }

    async fn survey(&self) -> Result<Survey, Error> {
        let folders = self.config.folders();
        let mounts = blocking(move || survey::mounts(&folders)).await?;
        let (granted, servers) = (self.config.granted.clone(), self.config.servers().folder);
        let task = Task::Devices { granted, servers };
        survey::join(mounts, self.look("survey".to_owned(), task).await?)
    }

    async fn usage(&self, path: &str) -> Result<Usage, Error> {
        self.look(path.to_owned(), Task::Usage { path: absolute(path)? }).await?.usage()
    }

    async fn health(&self, mount: &Standing) -> Result<Condition, Error> {
        let (path, read_only) = (absolute(&mount.path)?, mount.read_only);
        if let Connection::Directory { root, path: beneath } = &mount.connection {
            let (root, beneath) = (PathBuf::from(root), PathBuf::from(beneath));
            return self
                .nearby(mount.volume, move || health::of_directory(&root, &beneath, &path, read_only))
                .await;
        }
        let task = Task::Health { way: self.way(&mount.connection)?, path, read_only };
        let subject = mount.volume.to_string();
        match self.pool.run(subject, self.job(Some(mount.volume), false, task), self.config.patience).await? {
            Answer::Health(found) => Ok(found.into()),
            other => Err(other.unexpected()),
        }
    }

    async fn holders(&self, volume: VolumeId, path: &str) -> Result<Vec<String>, Error> {
        match self.look(volume.to_string(), Task::Holders { path: absolute(path)? }).await? {
            Answer::Names(names) => Ok(names),
            other => Err(other.unexpected()),
        }
    }

    async fn alive(&self, caller: &Caller) -> bool {
        let caller = caller.clone();
        tokio::task::spawn_blocking(move || survey::is_alive(&caller)).await.unwrap_or(true)
    }
}

impl From<Connected> for Device {
    fn from(connected: Connected) -> Self {
        Self {
            path: connected.path.display().to_string(),
            size: Some(Bytes(connected.size)),
            client: connected.client,
        }
    }
}

fn mounted_at(place: &Path, wish: &MountWish, device: Device, fs_behind: bool) -> MountedAt {
    let data = wish.root.directory.as_ref().map_or_else(|| place.to_owned(), |name| place.join(name));
    MountedAt { path: place.display().to_string(), data: data.display().to_string(), device, fs_behind }
}

fn join(root: &str, path: &str) -> String {
    Path::new(root).join(path).display().to_string()
}

impl LinuxHost {
    /// What is bound, and where to. Nothing is said of what when nobody knows.
    fn bound(&self, bind: &Bind) -> Result<crate::bind::Path, Error> {
        let from = match bind.from.as_str() {
            "" => PathBuf::new(),
            from => absolute(from)?,
        };
        Ok(crate::bind::Path {
            from,
            to: absolute(&bind.to)?,
            read_only: bind.read_only,
            device: bind.device,
            group: bind.group,
            roots: self.config.roots.clone(),
        })
    }
}

fn absolute(path: &str) -> Result<PathBuf, Error> {
    let path = Path::new(path);
    let is_plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if path.is_absolute() && is_plain && path != Path::new("/") {
        return Ok(path.to_owned());
    }
    Err(Error::invalid(format!("the path {path:?} has to be absolute, without .., and not the root")))
}

fn real(path: &Path) -> Result<PathBuf, Error> {
    path.canonicalize().map_err(|error| failed(format_args!("find {}", path.display()), error))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("a thread of the node was lost").caused_by(error))?
}
