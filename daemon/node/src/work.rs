//! What a worker does: one function per task, in plain blocking code. Nothing here remembers anything; each
//! task looks at the world first, so that it can be repeated. While a task changes a volume it holds that
//! volume's lock, and so do the programs that it runs: a worker that outlived its daemon, or an mkfs that
//! outlived its worker, keeps everybody else away until it is gone.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kato_orchestrator::{
    Error,
    model::{Bytes, DataRoot, FsType, VolumeId},
    ports::host::Grown,
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, major, makedev, minor},
    io::Errno,
};

use crate::{
    blocks, check,
    command::Programs,
    connect::{Connected, Way},
    errno::failed,
    export, format, freeze, grow, health, holders,
    mount::{self, Options},
    root,
    signature::{Ext, Signature},
    stray,
    task::{self, Answer, Job, Task, Word},
    usage,
};

/// How much of an exported snapshot is read at once.
const EXPORT: usize = 8 << 20;

/// Does a job. Longer work asks for patience first.
pub(crate) fn perform(mut job: Job, daemon: &mut UnixStream) -> Result<Answer, Error> {
    let lock = job.lock.as_deref().map(|path| Lock::take(path, job.patience / 2)).transpose()?;
    if let Some(lock) = &lock {
        job.programs.keep(&lock.file);
    }
    if lock.as_ref().is_some_and(|lock| lock.waited) {
        tell(daemon, job.patience)?;
    }
    let volume = job.volume();
    let mut desk = Desk { programs: &job.programs, long_patience: job.long_patience, daemon };
    match job.task {
        Task::Connect { way, read_only } => {
            way.connect(volume?, read_only, desk.programs).map(Answer::Connected)
        }
        Task::Disconnect { way } => way.disconnect(volume?, desk.programs).map(|()| Answer::Done),
        Task::Rescan { way, size } => {
            way.rescan(volume?, Bytes(size), desk.programs).map(|size| Answer::Size(size.0))
        }
        Task::Format { way, fs, zeroes, resumed, size } => {
            let (device, _held) = way.bring_whole(volume?, false, Bytes(size), desk.programs)?;
            let wish = format::Wish { fs: FsType::parse(&fs)?, zeroes, resumed };
            desk.ask_patience()?;
            format::make(&device, wish, desk.programs).map(|()| Answer::Done)
        }
        Task::Mount { way, options, read_only, root, place, size } => {
            let options = Options::parse(&options, read_only)?;
            mount_volume(volume?, &way, options, &root.into(), (&place, Bytes(size)), &mut desk)
        }
        Task::Unmount { way, places } => unmount_volume(volume?, &way, &places, desk.programs),
        Task::Bind(path) => path.make().map(|()| Answer::Done),
        Task::Unbind(path) => path.take_away().map(|()| Answer::Done),
        Task::Hold { path, at_most, worker } => {
            freeze::hold(&path, at_most, &worker, desk.daemon).map(Answer::Held)
        }
        Task::Watch { path, at_most } => freeze::watch(&path, at_most, desk.daemon).map(|()| Answer::Done),
        Task::Thaw { path } => freeze::thaw(&path).map(|()| Answer::Done),
        Task::Grow { path, dev } => grow::mounted(&path, &dev)
            .map(|grown| Answer::Grown { needs_unmount: grown == Grown::NeedsUnmount }),
        Task::Usage { path } => usage::of(&path).map(Answer::from),
        Task::Health { way, path, read_only } => health::of_device(volume?, &way, &path, read_only)
            .map(|condition| Answer::Health(condition.into())),
        Task::Holders { path } => holders::of_mount(&path).map(Answer::Names),
        Task::UnmountStray { folders, path } => stray::unmount(&folders, &path).map(|()| Answer::Done),
        Task::FreeStray { granted, servers, path } => {
            stray::free(&granted, &servers, &path).map(|()| Answer::Done)
        }
        Task::Devices { granted, servers } => stray::devices(&granted, &servers).map(Answer::Devices),
        Task::ReadBlocks { way, extents } => {
            let (device, _held) = way.bring_whole(volume?, true, Bytes(0), desk.programs)?;
            let bytes = blocks::read(&device, &extents)?;
            Ok(Answer::blocks(Vec::new(), None, bytes))
        }
        Task::WriteBlocks { way, blocks } => {
            let (device, _held) = way.bring_whole(volume?, false, Bytes(0), desk.programs)?;
            let bytes = job.bytes.first().map(|bytes| &bytes[..]).unwrap_or_default();
            blocks::write(&device, &blocks, bytes).map(|()| Answer::Done)
        }
        Task::CopyBlocks { from: (id, from), to, extents, skip_zeroes } => {
            let id = VolumeId::parse(&id).ok_or_else(|| Error::internal("a worker was given no source"))?;
            let (from, _from_held) = from.bring_whole(id, true, Bytes(0), desk.programs)?;
            let (to, _to_held) = to.bring_whole(volume?, false, Bytes(0), desk.programs)?;
            blocks::copy(&from, &to, &extents, skip_zeroes).map(Answer::Size)
        }
        Task::LookAtExport { path } => {
            let (head, begin) = export::head(&path)?;
            let length = std::fs::metadata(&path)
                .map_err(|error| failed(format_args!("look at {}", path.display()), error))?
                .len();
            Ok(Answer::Export { head, begin, length })
        }
        Task::ReadExport { path, from } => {
            let page = export::page(&path, from, EXPORT)?;
            Ok(Answer::blocks(page.pieces, page.next, page.bytes))
        }
        Task::FlushBlocks { way } => {
            let (device, _held) = way.bring_whole(volume?, false, Bytes(0), desk.programs)?;
            blocks::flush(&device).map(|()| Answer::Done)
        }
    }
}

/// What a task needs besides its words.
struct Desk<'a> {
    programs: &'a Programs,
    long_patience: Duration,
    daemon: &'a mut UnixStream,
}

impl Desk<'_> {
    fn ask_patience(&mut self) -> Result<(), Error> {
        tell(self.daemon, self.long_patience)
    }
}

/// Asks the daemon to go on waiting.
fn tell(daemon: &mut UnixStream, patience: Duration) -> Result<(), Error> {
    task::send(daemon, &Word::Patience(patience)).map_err(|error| failed("talk to the daemon", error))
}

/// Mounts a volume at its place, or finds it there.
fn mount_volume(
    volume: VolumeId,
    way: &Way,
    options: Options,
    root: &DataRoot,
    (place, size_at_least): (&Path, Bytes),
    desk: &mut Desk<'_>,
) -> Result<Answer, Error> {
    let (point, _) = mount::open_place(place)?;
    let stat = mount::look(point.as_fd())?;
    if mount::is_mount_root(&stat) {
        let path = way.find(volume)?.ok_or_else(|| mount::occupied(place))?;
        let client = way.client(volume, options.read_only, desk.programs)?;
        let connected = Connected { size: size(&path)?, path, client };
        if numbers(&connected.path)? != makedev(stat.stx_dev_major, stat.stx_dev_minor) {
            return Err(mount::occupied(place));
        }
        return found_mounted(connected, &point, &options, root, place);
    }
    let (connected, _held) = way.connect_whole(volume, options.read_only, size_at_least, desk.programs)?;
    let mounted = mount_nowhere(&connected.path, options.clone(), desk)?;
    way.require_mounted(mounted.as_fd(), &connected.path)?;
    let top = grow::open_root(&mounted)?;
    root::make(top.as_fd(), root, options.read_only)?;
    let fs_behind = !options.read_only && grow_if_behind(&top, &connected.path)?;
    mount::place(mounted.as_fd(), point.as_fd())?;
    Ok(Answer::Mounted { connected, fs_behind })
}

fn found_mounted(
    connected: Connected,
    point: &OwnedFd,
    options: &Options,
    root: &DataRoot,
    place: &Path,
) -> Result<Answer, Error> {
    let top = grow::open_root(point)?;
    mount::require_same_access(&top, options.read_only, place)?;
    root::make(top.as_fd(), root, options.read_only)?;
    let fs_behind = grow::is_behind(&top, &connected.path)?;
    Ok(Answer::Mounted { connected, fs_behind })
}

/// Grows what can be grown while it is mounted; whether something is left for later.
fn grow_if_behind(top: &File, device: &Path) -> Result<bool, Error> {
    if !grow::is_behind(top, device)? {
        return Ok(false);
    }
    Ok(grow::grow_open(top, device)? == Grown::NeedsUnmount)
}

/// Checks, mends and grows offline what may be touched, then mounts it nowhere yet.
fn mount_nowhere(device: &Path, mut options: Options, desk: &mut Desk<'_>) -> Result<OwnedFd, Error> {
    match format::probe(device)? {
        Some(Signature::Ext(ext)) => {
            // Another namespace may still have it mounted: then it is alive, and nothing is done beneath it.
            if !check::is_in_use(device)? {
                if options.read_only && ext.needs_recovery {
                    return Err(unclean(device));
                }
                if !options.read_only {
                    mend_and_grow(device, ext, desk)?;
                }
            }
            mount::filesystem("ext4", device, &options)
        }
        Some(Signature::Xfs(_)) => {
            // Two copies of one filesystem carry the same UUID, and may be mounted side by side.
            if !options.filesystem.iter().any(|(name, _)| name == "nouuid") {
                options.filesystem.push(("nouuid".to_owned(), None));
            }
            mount::filesystem("xfs", device, &options).map_err(|refusal| {
                desk.ask_patience()
                    .map_or_else(|error| error, |()| check::explain_xfs(device, refusal, desk.programs))
            })
        }
        Some(Signature::Foreign(name)) => Err(Error::precondition(format!(
            "{} holds {name}: only ext4 and xfs can be mounted",
            device.display()
        ))),
        None => Err(Error::precondition(format!(
            "{} holds no filesystem: it was never formatted, or its first blocks are lost",
            device.display()
        ))),
    }
}

/// Brings an ext filesystem that nobody has mounted in order, and to the size of its device.
fn mend_and_grow(device: &Path, mut ext: Ext, desk: &mut Desk<'_>) -> Result<(), Error> {
    if check::needs_check(&ext) {
        desk.ask_patience()?;
        check::ext(device, false, desk.programs)?;
        // The journal may have held another size.
        let Some(Signature::Ext(mended)) = format::probe(device)? else { return Ok(()) };
        ext = mended;
    }
    if grow::is_ext_behind(device, &ext)? {
        desk.ask_patience()?;
        grow::offline(device, desk.programs)?;
    }
    Ok(())
}

fn unclean(device: &Path) -> Error {
    Error::precondition(format!(
        "the filesystem on {} was not unmounted in order, and mending it means writing: mount the volume \
         read-write once",
        device.display()
    ))
}

/// Unmounts every place of a volume, then takes the device away unless somebody else has it.
fn unmount_volume(
    volume: VolumeId,
    way: &Way,
    places: &[PathBuf],
    programs: &Programs,
) -> Result<Answer, Error> {
    for place in places {
        mount::take_down(place)?;
    }
    way.disconnect(volume, programs)?;
    for place in places {
        mount::remove_place(place)?;
    }
    Ok(Answer::Done)
}

fn size(device: &Path) -> Result<u64, Error> {
    crate::connect::size_of_device(&crate::connect::open_device(device)?)
}

fn numbers(device: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::stat(device)
        .map_err(|error| failed(format_args!("look at {}", device.display()), error))?;
    Ok(makedev(major(stat.st_rdev), minor(stat.st_rdev)))
}

/// A volume's lock: a file that is locked while somebody changes the volume, and removed afterwards.
struct Lock {
    path: PathBuf,
    /// Whether somebody else had it first.
    waited: bool,
    file: Arc<File>,
}

impl Lock {
    fn take(path: &Path, patience: Duration) -> Result<Self, Error> {
        let what = |error| failed(format_args!("lock {}", path.display()), error);
        let pause = Duration::from_millis(50);
        let mut waited = Duration::ZERO;
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).map_err(what)?);
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Whoever had it before may have removed it after we opened it.
                Ok(()) if is_still(path, &file) => {
                    let (path, file) = (path.to_owned(), Arc::new(file));
                    return Ok(Self { path, waited: !waited.is_zero(), file });
                }
                Ok(()) => continue,
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(what(error)),
            }
            if waited >= patience {
                return Err(Error::timeout(
                    "an earlier attempt at this volume has not ended: its worker, or a program that it started, \
                     still waits for the device",
                )
                .pending());
            }
            std::thread::sleep(pause);
            waited += pause;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A file that stays is only a file.
        if let Err(error) = rustix::fs::unlink(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "left a lock file behind");
        }
    }
}

fn is_still(path: &Path, file: &File) -> bool {
    match (rustix::fs::stat(path), rustix::fs::fstat(file)) {
        (Ok(there), Ok(here)) => (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino),
        _ => false,
    }
}
