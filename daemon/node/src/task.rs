//! What the daemon says to a worker and what it hears: one [`Job`], then any number of [`Word`]s of which the
//! last is the answer. Each is JSON behind its length, on a socket. Both ends are the same program, so this is
//! no promise to anybody; it only may not be misread by a worker of the daemon's last version, which ends
//! when its socket closes. Doing a job is `work.rs`, waiting for it is `worker.rs`.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes as Buffer;
use kato_orchestrator::{
    Error, Finality, Kind,
    model::{Bytes, DataRoot, VolumeId},
    ports::host::{Condition, Usage},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    command::Programs,
    connect::{Connected, Way},
};

/// Longer words than this are nonsense.
const LIMIT: usize = 4 << 20;

/// One thing to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// For which volume, in hex.
    pub(crate) volume: Option<String>,
    /// The file that is locked meanwhile, where the task changes something.
    pub(crate) lock: Option<PathBuf>,
    /// How long to wait for that lock.
    pub(crate) patience: Duration,
    /// How long a program may take that reads the whole device.
    pub(crate) long_patience: Duration,
    /// Where programs are.
    pub(crate) programs: Programs,
    /// What to do.
    pub(crate) task: Task,
    /// How many bytes for it follow behind these words, which are them.
    pub(crate) load: u64,
    #[serde(skip)]
    pub(crate) bytes: Vec<Buffer>,
}

/// What a worker can do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    Connect { way: Way, read_only: bool },
    Disconnect { way: Way },
    Rescan { way: Way, size: u64 },
    Format { way: Way, fs: String, zeroes: bool, resumed: bool, size: u64 },
    Mount { way: Way, options: Vec<String>, read_only: bool, root: Root, place: PathBuf, size: u64 },
    Unmount { way: Way, places: Vec<PathBuf> },
    Bind(crate::bind::Path),
    Unbind(crate::bind::Path),
    Hold { path: PathBuf, at_most: Duration, worker: Vec<OsString> },
    Watch { path: PathBuf, at_most: Duration },
    Thaw { path: PathBuf },
    Grow { path: PathBuf, dev: PathBuf },
    Usage { path: PathBuf },
    Health { way: Way, path: PathBuf, read_only: bool },
    Holders { path: PathBuf },
    Devices { granted: Vec<PathBuf>, servers: PathBuf },
    ReadBlocks { way: Way, extents: Vec<(u64, u64)> },
    WriteBlocks { way: Way, blocks: Vec<(u64, u64)> },
    CopyBlocks { from: (String, Way), to: Way, extents: Vec<(u64, u64)>, skip_zeroes: bool },
    FlushBlocks { way: Way },
    LookAtExport { path: PathBuf },
    ReadExport { path: PathBuf, from: u64 },
    UnmountStray { folders: Vec<PathBuf>, path: PathBuf },
    FreeStray { granted: Vec<PathBuf>, servers: PathBuf, path: PathBuf },
}

/// A `DataRoot` on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Root {
    directory: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Held(bool),
    Connected(Connected),
    Size(u64),
    Mounted {
        connected: Connected,
        fs_behind: bool,
    },
    Grown {
        needs_unmount: bool,
    },
    Usage {
        total: u64,
        used: u64,
        available: u64,
        inodes: u64,
        inodes_used: u64,
    },
    Health(Found),
    Names(Vec<String>),
    Devices(Vec<(Option<String>, String, String)>),
    Export {
        head: crate::export::Head,
        begin: u64,
        length: u64,
    },
    /// So many bytes follow behind these words, which are them.
    Blocks {
        /// What they are of, and where to go on, where that was not known before.
        pieces: Vec<(u64, u64)>,
        next: Option<u64>,
        load: u64,
        #[serde(skip)]
        bytes: Buffer,
    },
}

/// A `Condition` on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Found {
    Well,
    Missing,
    Broken(String),
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// It begins something that may take this much longer.
    Patience(Duration),
    /// It is done.
    Answer(Answer),
    /// It could not.
    Failed { kind: String, pending: bool, message: String },
}

impl Job {
    /// A job that is nobody's and locks nothing.
    pub(crate) fn bare(task: Task) -> Self {
        Self {
            volume: None,
            lock: None,
            patience: Duration::ZERO,
            long_patience: Duration::ZERO,
            programs: Programs::default(),
            task,
            load: 0,
            bytes: Vec::new(),
        }
    }

    /// Whose it is.
    pub(crate) fn volume(&self) -> Result<VolumeId, Error> {
        self.volume
            .as_deref()
            .and_then(VolumeId::parse)
            .ok_or_else(|| Error::internal("a worker was given a task without its volume"))
    }
}

impl Word {
    /// What it means for whoever waits for the last word.
    pub(crate) fn answer(self) -> Result<Answer, Error> {
        match self {
            Self::Answer(answer) => Ok(answer),
            Self::Patience(_) => Err(Error::internal("a worker had no last word")),
            Self::Failed { kind, pending, message } => {
                let error = Error::new(Kind::from_name(&kind).unwrap_or(Kind::Internal), message);
                Err(if pending { error.pending() } else { error })
            }
        }
    }
}

impl From<Result<Answer, Error>> for Word {
    fn from(outcome: Result<Answer, Error>) -> Self {
        match outcome {
            Ok(answer) => Self::Answer(answer),
            Err(error) => Self::Failed {
                kind: error.kind.name().to_owned(),
                pending: error.finality == Finality::Pending,
                message: error.message,
            },
        }
    }
}

impl From<&DataRoot> for Root {
    fn from(root: &DataRoot) -> Self {
        Self { directory: root.directory.clone(), uid: root.uid, gid: root.gid, mode: root.mode }
    }
}

impl From<Root> for DataRoot {
    fn from(root: Root) -> Self {
        Self { directory: root.directory, uid: root.uid, gid: root.gid, mode: root.mode }
    }
}

impl From<Condition> for Found {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Well => Self::Well,
            Condition::Missing => Self::Missing,
            Condition::Broken(why) => Self::Broken(why),
        }
    }
}

impl From<Found> for Condition {
    fn from(found: Found) -> Self {
        match found {
            Found::Well => Self::Well,
            Found::Missing => Self::Missing,
            Found::Broken(why) => Self::Broken(why),
        }
    }
}

impl From<Usage> for Answer {
    fn from(usage: Usage) -> Self {
        Self::Usage {
            total: usage.total.0,
            used: usage.used.0,
            available: usage.available.0,
            inodes: usage.inodes,
            inodes_used: usage.inodes_used,
        }
    }
}

impl Answer {
    /// Bytes that follow behind the words.
    pub(crate) fn blocks(pieces: Vec<(u64, u64)>, next: Option<u64>, bytes: Vec<u8>) -> Self {
        Self::Blocks {
            pieces,
            next,
            load: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            bytes: bytes.into(),
        }
    }

    /// A usage, if it is one.
    pub(crate) fn usage(self) -> Result<Usage, Error> {
        match self {
            Self::Usage { total, used, available, inodes, inodes_used } => Ok(Usage {
                total: Bytes(total),
                used: Bytes(used),
                available: Bytes(available),
                inodes,
                inodes_used,
            }),
            other => Err(other.unexpected()),
        }
    }

    /// The complaint about an answer to another question.
    pub(crate) fn unexpected(&self) -> Error {
        Error::internal(format!("a worker answered something else: {self:?}"))
    }
}

/// One message as bytes: its length, then itself.
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(body);
    Ok(bytes)
}

/// How long the message behind this length is.
pub(crate) fn length(header: [u8; 4]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_be_bytes(header)).map_err(io::Error::other)?;
    if length > LIMIT { Err(io::Error::other("a message of a worker is too long")) } else { Ok(length) }
}

/// Says something, waiting until it is heard.
pub(crate) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(message)?)
}

/// Says something and the bytes that belong to it.
pub(crate) fn send_with_load(to: &mut impl Write, word: &Word) -> io::Result<()> {
    send(to, word)?;
    match word {
        Word::Answer(Answer::Blocks { bytes, .. }) => to.write_all(bytes),
        _ => Ok(()),
    }
}

/// Hears a job and the bytes that belong to it.
pub(crate) fn receive_job(from: &mut impl Read) -> io::Result<Job> {
    let mut job: Job = receive(from)?;
    if job.load > 0 {
        let mut bytes = vec![0; load(job.load)?];
        from.read_exact(&mut bytes)?;
        job.bytes = vec![bytes.into()];
    }
    Ok(job)
}

/// How many bytes follow.
pub(crate) fn load(length: u64) -> io::Result<usize> {
    let most = kato_orchestrator::ports::blocks::AT_ONCE.0;
    match usize::try_from(length) {
        Ok(count) if length <= most => Ok(count),
        _ => Err(io::Error::other("more bytes than are moved at once")),
    }
}

/// Hears something, waiting for it.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut header = [0; 4];
    from.read_exact(&mut header)?;
    let mut body = vec![0; length(header)?];
    from.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_and_finality_on_its_way() {
        let word = Word::from(Err(Error::in_use("held by 7 (postgres)").pending()));
        let mut wire = Vec::new();
        send(&mut wire, &word).unwrap();
        let error = receive::<Word>(&mut wire.as_slice()).unwrap().answer().unwrap_err();
        assert_eq!((error.kind, error.finality), (Kind::InUse, Finality::Pending));
        assert_eq!(error.message, "held by 7 (postgres)");
    }

    #[test]
    fn a_length_beyond_reason_is_refused() {
        assert!(length(u32::MAX.to_be_bytes()).is_err());
    }
}
