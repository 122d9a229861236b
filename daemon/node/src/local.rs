//! Directory volumes, in the daemon's own process: they lie on the host's own disk, and a thousand of them
//! come and go in a second, so a mount is the fewest calls that do it safely and reads no mountinfo. A granted
//! directory that stalls all the same (somebody granted a network mount) costs one thread for each of its
//! volumes and no more: a volume whose last call has not returned answers `Timeout`.

use std::{
    collections::HashSet,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kato_orchestrator::{
    Error,
    model::{DataRoot, VolumeId},
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    connect::directory,
    holders::{self, Namespace},
    mount::{self, Options},
    root,
};

/// A directory that is to be mounted.
#[derive(Debug)]
pub(crate) struct DirectoryMount {
    pub(crate) root: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) options: Options,
    pub(crate) data: DataRoot,
    pub(crate) place: PathBuf,
}

impl DirectoryMount {
    /// Mounts it, or finds it mounted.
    pub(crate) fn make(&self) -> Result<(), Error> {
        if let Some((name, _)) = self.options.filesystem.first() {
            return Err(Error::invalid(format!(
                "the mount option {name} belongs to a filesystem, and this volume is a directory: leave it out of \
                 the class"
            )));
        }
        let source = directory::open(&self.root, &self.path)?;
        root::make(source.as_fd(), &self.data, false)?;
        let (point, is_fresh) = mount::open_place(&self.place)?;
        if !is_fresh && mount::is_mount_root(&mount::look(point.as_fd())?) {
            if !directory::is_same(source.as_fd(), point.as_fd())? {
                return Err(mount::occupied(&self.place));
            }
            return mount::require_same_access(&point, self.options.read_only, &self.place);
        }
        let tree = mount::clone_of(source.as_fd(), self.options.attributes)?;
        mount::place(tree.as_fd(), point.as_fd())
    }
}

/// Unmounts a directory volume from its places.
pub(crate) fn take_down(places: &[PathBuf]) -> Result<(), Error> {
    places.iter().try_for_each(|place| {
        mount::take_down(place)?;
        mount::remove_place(place)
    })
}

/// Refuses while another mount namespace has a directory. No kernel counts such mounts, as it does those of a
/// device; and a directory that is removed takes the files of a running container with it.
pub(crate) fn held_by_nobody(namespaces: &[Namespace], path: &Path, places: &[PathBuf]) -> Result<(), Error> {
    for place in places {
        let found = holders::of_directory(namespaces, path, place);
        if !found.is_empty() {
            return Err(Error::in_use(holders::in_use("the volume's directory is still mounted", &found)));
        }
    }
    Ok(())
}

/// The other mount namespaces of this machine. Reading them takes milliseconds, so whoever asks while somebody
/// reads waits for the next reading, and shares it with all who came meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere {
    asked: AtomicU64,
    latest: tokio::sync::Mutex<Reading>,
}

/// What was read, and how many had asked when the reading began.
#[derive(Debug, Default)]
struct Reading {
    covers: u64,
    namespaces: Arc<Vec<Namespace>>,
}

impl Elsewhere {
    /// The namespaces as they are at some moment after this call.
    pub(crate) async fn see(&self) -> Result<Arc<Vec<Namespace>>, Error> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst);
        let mut latest = self.latest.lock().await;
        if latest.covers <= mine {
            let covers = self.asked.load(Ordering::SeqCst);
            let namespaces = tokio::task::spawn_blocking(holders::namespaces).await.map_err(|error| {
                Error::internal("a thread of the node was lost").caused_by(error).pending()
            })??;
            *latest = Reading { covers, namespaces: Arc::new(namespaces) };
        }
        Ok(Arc::clone(&latest.namespaces))
    }
}

/// Whether a directory is there and can be mounted.
pub(crate) fn check(root: &Path, path: &Path) -> Result<(), Error> {
    directory::open(root, path).map(drop)
}

/// How many of these calls run at once: they wait for each other in the kernel anyway, and more threads only
/// add switching between them.
const ABREAST: usize = 8;

/// Threads for calls that usually return at once.
#[derive(Debug)]
pub(crate) struct Threads {
    slow: Arc<Mutex<HashSet<VolumeId>>>,
    slots: Semaphore,
}

impl Default for Threads {
    fn default() -> Self {
        Self { slow: Arc::default(), slots: Semaphore::new(ABREAST) }
    }
}

impl Threads {
    /// Does something for a volume on a thread, within the deadline.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        tasks: &TaskTracker,
        volume: VolumeId,
        patience: Duration,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if lock(&self.slow).contains(&volume) {
            return Err(stalled());
        }
        let Ok(Ok(_slot)) = tokio::time::timeout(patience, self.slots.acquire()).await else {
            return Err(Error::busy("the directories of other volumes keep this node busy: try again"));
        };
        // Whoever stops waiting, or waits too long, gives the slot back: one that stalls takes none.
        let mut thread = tokio::task::spawn_blocking(work);
        if let Ok(joined) = tokio::time::timeout(patience, &mut thread).await {
            return joined.map_err(|error| {
                Error::internal("a thread of the node was lost").caused_by(error).pending()
            })?;
        }
        lock(&self.slow).insert(volume);
        let slow = Arc::clone(&self.slow);
        tasks.spawn(async move {
            // Whatever it says now, nobody waits for it.
            drop(thread.await);
            lock(&slow).remove(&volume);
        });
        tracing::error!(volume.id = %volume, "a granted directory did not answer in time");
        Err(stalled())
    }
}

fn stalled() -> Error {
    Error::timeout("the granted directory of this volume does not answer: see to its disk or server")
        .pending()
}

fn lock(slow: &Mutex<HashSet<VolumeId>>) -> std::sync::MutexGuard<'_, HashSet<VolumeId>> {
    slow.lock().unwrap_or_else(PoisonError::into_inner)
}
