//! The socket: how it is made, who is at its other end and whether still, and how long one may take to send a
//! request.
//!
//! The socket is given mode 0600 before it listens: at no moment can anybody but root connect, whatever the umask. Nothing
//! else is made in its folder, which CSI forbids. One that is there is replaced only after a refused connect, so that a
//! second daemon cannot take the first one's place.

use std::{
    fs,
    future::Future,
    io,
    os::{
        fd::AsFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
            net,
        },
    },
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use kato_orchestrator::Error;
use rustix::{
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, listen as listen_on, socket_with},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{UnixListener, UnixStream},
    time::{Sleep, sleep},
};

/// How many may wait to be accepted; the kernel has a limit of its own below which it stays.
const BACKLOG: i32 = 4096;

/// What systemd tells a service that it started for a socket: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Whom the sockets are for.
    pub pid: String,
    /// How many there are, from descriptor 3 on.
    pub count: String,
    /// What the units call them, separated by colons.
    pub names: String,
}

impl Passed {
    /// The descriptor of that name, if one was passed to this process.
    fn find(&self, name: &str, pid: &str) -> Option<i32> {
        let count: usize = self.count.parse().ok().filter(|_| self.pid == pid)?;
        let index = self.names.split(':').take(count).position(|passed| passed == name)?;
        i32::try_from(index).ok()?.checked_add(3)
    }
}

/// The listening socket: the one that systemd passed under this name, or our own at this path.
pub fn listen(path: &Path, passed: &Passed, name: &str) -> Result<UnixListener, Error> {
    open(path, passed, name, Folder::Ours)
}

/// The same, in a folder that others may write to: what containers of one pod share is open to each of them.
pub fn listen_anywhere(path: &Path, passed: &Passed, name: &str) -> Result<UnixListener, Error> {
    open(path, passed, name, Folder::Shared)
}

/// What is known of the folder that a socket is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Folder {
    Ours,
    Shared,
}

fn open(path: &Path, passed: &Passed, name: &str, place: Folder) -> Result<UnixListener, Error> {
    let listener = match passed.find(name, &getpid().as_raw_nonzero().to_string()) {
        Some(descriptor) => {
            take(descriptor).map_err(|error| broken(path, "cannot be taken from systemd", error))?
        }
        None => bind(path, place)?,
    };
    listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .map_err(|error| broken(path, "cannot be used", error))
}

/// Our own copy of a descriptor that was passed to this process. Asking for it through a pidfd needs no trust in
/// what the environment says: a number that is none of ours is an error.
fn take(descriptor: i32) -> io::Result<net::UnixListener> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    let taken = pidfd_getfd(this, descriptor, PidfdGetfdFlags::empty())?;
    Ok(net::UnixListener::from(taken))
}

fn broken(path: &Path, what: &str, error: io::Error) -> Error {
    Error::unavailable(format!("it {what}: {error}"))
        .about(format!("socket {}", path.display()))
        .caused_by(error)
}

fn bind(path: &Path, shared: Folder) -> Result<net::UnixListener, Error> {
    let subject = format!("socket {}", path.display());
    let (Some(folder), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid("the path names no file in a directory").about(subject));
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|error| broken(path, "has no directory", error))?;
    let place = fs::metadata(folder).map_err(|error| broken(path, "has no directory", error))?;
    let own = rustix::process::geteuid().as_raw();
    let open = (place.uid() != own && place.uid() != 0) || place.mode() & 0o022 != 0;
    if open && shared == Folder::Shared {
        tracing::warn!(folder = %folder.display(), "others may write to the folder of the socket");
    } else if open {
        return Err(Error::permission_denied(format!(
            "others than root may write to {}: anybody could take the socket's place. Make it root's, mode 0755",
            folder.display()
        ))
        .about(subject));
    }
    refuse_taken(path, &subject)?;
    bind_quietly(path).map_err(|error| broken(path, "cannot be made", error))
}

/// Binds, and listens once nobody else can connect.
fn bind_quietly(path: &Path) -> io::Result<net::UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen_on(&socket, BACKLOG)?;
    Ok(net::UnixListener::from(socket))
}

fn refuse_taken(path: &Path, subject: &str) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(broken(path, "cannot be looked at", error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(
                Error::precondition("something that is no socket is there: move it away").about(subject)
            );
        }
        Ok(_) => {}
    }
    match net::UnixStream::connect(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Err(error) => Err(broken(path, "is there and does not tell whether it is in use", error)),
        Ok(_) => Err(Error::precondition(
            "another process serves there: stop it first, or give this daemon another socket",
        )
        .about(subject)),
    }
}

/// The process at the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Zero when it cannot be seen from here, as from inside of a managed plugin.
    pub(crate) pid: u32,
    /// In the kernel's ticks since boot.
    pub(crate) started: u64,
}

impl Peer {
    /// Who connected.
    pub(crate) fn of(stream: &UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|cred| cred.pid()).and_then(|pid| u32::try_from(pid).ok());
        let stat = pid.filter(|pid| *pid > 0).and_then(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat")).ok().map(|stat| (pid, started(&stat)))
        });
        match stat {
            Some((pid, Some(started))) => Self { pid, started },
            Some((_, None)) | None => Self::default(),
        }
    }
}

/// The 22nd field of `/proc/PID/stat`. The second is a program's name in parentheses and may hold anything.
fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A second descriptor of a connection, by which a request that takes long sees whether anybody still waits.
/// Reading would not tell: a client that has only said that it will say no more is still there to listen.
#[derive(Debug)]
pub(crate) struct Line(UnixStream);

impl Line {
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let twin = net::UnixStream::from(stream.as_fd().try_clone_to_owned()?);
        UnixStream::from_std(twin).map(Self)
    }

    /// Returns when the other end is closed.
    pub(crate) async fn hung_up(&self) {
        while let Ok(ready) = self.0.ready(Interest::WRITABLE).await {
            if ready.is_write_closed() {
                return;
            }
            // It can be written to, which tells nothing: wait for the next thing that happens.
            let nothing: io::Result<()> =
                self.0.try_io(Interest::WRITABLE, || Err(io::ErrorKind::WouldBlock.into()));
            drop(nothing);
        }
        // Nobody knows any more: then it is as if everybody stayed.
        std::future::pending::<()>().await;
    }
}

/// A connection on which a request that was begun has to arrive in time, while one on which nothing was said
/// may stay as long as it likes: dockerd keeps its connections for ever, and would lose the body of a request
/// that crosses our closing.
#[derive(Debug)]
pub(crate) struct Patient {
    stream: UnixStream,
    patience: Duration,
    turn: Arc<Turn>,
    /// Runs since the first byte of the request that is awaited in this turn.
    timer: Option<(u64, Pin<Box<Sleep>>)>,
}

/// Whose turn it is on a connection: odd while a request is served, even while the next one is awaited.
#[derive(Debug, Default)]
pub(crate) struct Turn(AtomicU64);

impl Turn {
    /// The head of a request has arrived.
    pub(crate) fn serve(&self) {
        self.0.fetch_or(1, Ordering::AcqRel);
    }

    /// The answer is made: the next request may begin whenever it likes.
    pub(crate) fn rest(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Patient {
    pub(crate) fn new(stream: UnixStream, patience: Duration) -> (Self, Arc<Turn>) {
        let turn = Arc::<Turn>::default();
        (Self { stream, patience, turn: Arc::clone(&turn), timer: None }, turn)
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let now = this.turn.now();
        if this.timer.as_ref().is_some_and(|(since, _)| *since != now) {
            this.timer = None;
        }
        if now % 2 == 1 {
            return read;
        }
        if read.is_ready() {
            if buf.filled().len() > before && this.timer.is_none() {
                this.timer = Some((now, Box::pin(sleep(this.patience))));
            }
            return read;
        }
        match &mut this.timer {
            Some((_, timer)) => timer.as_mut().poll(cx).map(|()| {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the head of the request did not arrive in time"))
            }),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_start_time_is_read_past_any_program_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        for name in ["kato", "a) R 1", "x y", "((", ""] {
            assert_eq!(started(&format!("42 ({name}) {fields}")), Some(4711), "{name}");
        }
        assert_eq!(started("42 kato"), None);
    }

    #[test]
    fn nothing_is_made_beside_the_socket_and_a_dead_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        for _ in 0..2 {
            let listener = bind(&path, Folder::Ours).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            let names: Vec<_> =
                fs::read_dir(folder.path()).unwrap().flatten().map(|one| one.file_name()).collect();
            assert_eq!(names, ["csi.sock"]);
            assert!(net::UnixStream::connect(&path).is_ok());
            assert!(bind(&path, Folder::Ours).is_err(), "a living one was replaced");
            drop(listener);
        }
    }

    #[test]
    fn a_passed_socket_is_found_by_its_name_and_only_by_its_process() {
        let passed = Passed { pid: "7".into(), count: "2".into(), names: "csi:docker:admin".into() };
        assert_eq!(passed.find("csi", "7"), Some(3));
        assert_eq!(passed.find("docker", "7"), Some(4));
        assert_eq!(passed.find("admin", "7"), None);
        assert_eq!(passed.find("docker", "8"), None);
        assert_eq!(Passed::default().find("docker", ""), None);
    }

    #[test]
    fn a_passed_socket_is_taken_by_its_number_and_no_other_number_is() {
        use std::os::fd::AsRawFd;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let passed = net::UnixListener::bind(&path).unwrap();
        let taken = take(passed.as_raw_fd()).unwrap();
        drop(passed);
        let client = net::UnixStream::connect(&path).unwrap();
        assert!(taken.accept().is_ok());
        drop(client);
        assert!(take(1 << 20).is_err());
    }

    #[tokio::test]
    async fn a_socket_is_for_its_owner_alone_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugins/kato.sock");
        let first = listen(&path, &Passed::default(), "docker").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        let taken = listen(&path, &Passed::default(), "docker").unwrap_err();
        assert!(taken.message.contains("another process"), "{taken}");

        drop(first);
        assert!(path.exists());
        let second = listen(&path, &Passed::default(), "docker").unwrap();
        let (client, accepted) = tokio::join!(UnixStream::connect(&path), second.accept());
        let peer = Peer::of(&accepted.unwrap().0);
        assert_eq!(peer.pid, std::process::id());
        assert!(peer.started > 0);
        drop(client);
        let left: Vec<_> =
            fs::read_dir(path.parent().unwrap()).unwrap().map(|it| it.unwrap().path()).collect();
        assert_eq!(left, [path]);
    }

    #[tokio::test]
    async fn what_is_no_socket_and_what_others_may_replace_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kato.sock");
        fs::write(&path, "mine").unwrap();
        assert!(listen(&path, &Passed::default(), "docker").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");

        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = listen(&folder.path().join("other.sock"), &Passed::default(), "docker").unwrap_err();
        assert!(error.message.contains("0755"), "{error}");
    }

    /// Whether a read waits, and whether it waits for a limited time only.
    async fn waits(patient: &mut Patient) -> (bool, bool) {
        let mut bytes = [0; 16];
        let mut buffer = ReadBuf::new(&mut bytes);
        let waits = std::future::poll_fn(|cx| {
            Poll::Ready(Pin::new(&mut *patient).poll_read(cx, &mut buffer).is_pending())
        })
        .await;
        (waits, patient.timer.is_some())
    }

    #[tokio::test]
    async fn silence_is_allowed_and_a_head_that_dribbles_is_not() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (mut patient, turn) = Patient::new(server, Duration::from_millis(1));
        let mut buffer = [0; 16];
        assert_eq!(waits(&mut patient).await, (true, false), "silence has an end");

        client.write_all(b"POST").await.unwrap();
        assert_eq!(patient.read(&mut buffer).await.unwrap(), 4);
        turn.serve();
        assert_eq!(waits(&mut patient).await, (true, false), "serving has an end");
        turn.rest();
        assert_eq!(waits(&mut patient).await, (true, false), "resting has an end");

        client.write_all(b"PO").await.unwrap();
        assert_eq!(patient.read(&mut buffer).await.unwrap(), 2);
        turn.serve();
        turn.rest();
        assert_eq!(waits(&mut patient).await, (true, false), "the last request's time runs on");

        client.write_all(b"PO").await.unwrap();
        assert_eq!(patient.read(&mut buffer).await.unwrap(), 2);
        let error = patient.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
