//! What this node knows of the cluster: which one it is, and how far it has come. An etcd that was set back, restored
//! from a backup of yesterday, answers as if nothing had happened, and every volume made since is unknown to it; on
//! such records volumes would be made twice and mounted twice. So each answer is compared, and what we know is kept
//! on disk for the next start:
//!
//! ```text
//! {"cluster":"…","house":"…","revision":77,"witness":"…","written":75}
//! ```
//!
//! *Cluster* is etcd's own id, *house* ours (`house.rs`), *revision* the highest that was seen. A store that was set
//! back may have been written to since and be further on than we ever were: therefore the *witness*, a key that we
//! wrote last at revision *written*, has to be there still, as new as that.
//!
//! The file may be behind by a moment ([`Mark::keep`] is called once a second), the memory never is. Whoever is
//! found out stays refused, by this process and the next ones, until `kato recover --scan` has looked at what is
//! really there ([`EtcdStore::accept`](super::EtcdStore::accept)).

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use kato_orchestrator::Error;
use serde_json::{Value, json};

use super::wire::{ResponseHeader, revision};
use crate::place;

/// What is known, in memory.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    cluster: Option<u64>,
    revision: u64,
    refused: Option<Error>,
}

impl Known {
    /// As it was kept by the last process.
    pub(crate) fn of(mark: Option<&Mark>) -> Self {
        let seen =
            mark.map(|mark| Seen { cluster: Some(mark.cluster), revision: mark.revision, refused: None });
        Self(Mutex::new(seen.unwrap_or_default()))
    }

    /// The highest revision that was seen.
    pub(crate) fn seen(&self) -> u64 {
        self.lock().revision
    }

    /// Which cluster it is, once one has answered.
    pub(crate) fn cluster(&self) -> Option<u64> {
        self.lock().cluster
    }

    /// Whether the cluster was found to be another one.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.lock().refused.clone().map_or(Ok(()), Err)
    }

    /// Refuses the cluster from now on.
    pub(crate) fn refuse(&self, error: Error) -> Error {
        let mut seen = self.lock();
        if seen.refused.is_none() {
            tracing::error!(%error, "the records in etcd are not the ones that this node knows");
        }
        seen.refused.get_or_insert(error).clone()
    }

    /// Forgets what was known: a person decided.
    pub(crate) fn forget(&self) {
        *self.lock() = Seen::default();
    }

    /// Looks at where an answer comes from. One that is of the whole cluster must not be older than what had been seen
    /// when it was asked for.
    pub(crate) fn admit(&self, header: Option<&ResponseHeader>, floor: Option<u64>) -> Result<(), Error> {
        let Some(header) = header else { return self.check() };
        let now = revision(header.revision);
        let mut seen = self.lock();
        if let Some(error) = &seen.refused {
            return Err(error.clone());
        }
        let cluster = *seen.cluster.get_or_insert(header.cluster_id);
        if cluster != header.cluster_id {
            drop(seen);
            return Err(self.refuse(other_cluster(cluster, header.cluster_id)));
        }
        match floor {
            Some(floor) if now < floor => {
                drop(seen);
                Err(self.refuse(set_back(now, floor)))
            }
            Some(_) => {
                seen.revision = seen.revision.max(now);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to do about records that are not the known ones.
const REMEDY: &str = "Nothing is read or written, and containers go on. If etcd was restored on purpose, `kato recover \
                      --scan` on each node joins what the nodes and the backends know; else let store.etcd.endpoints \
                      lead to the right cluster";

fn other_cluster(known: u64, found: u64) -> Error {
    Error::precondition(format!(
        "etcd is cluster {found:016x}, and this node knows cluster {known:016x}: it is another one, or one that was \
         restored from a backup. {REMEDY}"
    ))
}

fn set_back(now: u64, floor: u64) -> Error {
    Error::precondition(format!(
        "etcd is at revision {now}, and this node has seen revision {floor}: it was restored from a backup that is older \
         than what this node knows. {REMEDY}"
    ))
}

/// The error of a store that lacks what this node wrote.
pub(crate) fn witness_gone(written: u64) -> Error {
    Error::precondition(format!(
        "etcd lacks what this node wrote at revision {written}: it was restored from a backup that is older than that. \
         {REMEDY}"
    ))
}

/// The error of a store that was begun anew by somebody else.
pub(crate) fn other_house(known: &str, found: &str) -> Error {
    Error::precondition(format!(
        "the records in etcd are of house {found}, and this node knows house {known}: they were recovered or made anew by \
         another node, or lie beneath another prefix. {REMEDY}"
    ))
}

/// What is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) cluster: u64,
    pub(crate) house: String,
    pub(crate) revision: u64,
    /// The key that was written last, and when.
    pub(crate) witness: Option<(String, u64)>,
}

impl Mark {
    /// Reads it. One that cannot be read is an error: without it anything would be believed.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Error> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(place::unusable(path, error)),
        };
        Self::parse(&text).map(Some).ok_or_else(|| {
            Error::internal(format!(
                "{} does not say which etcd this node knows: restore it; or, when you are certain that etcd was not set \
                 back, remove it",
                path.display()
            ))
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let number = |word: &str| value.get(word).and_then(Value::as_u64);
        let witness = value.get("witness").and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            cluster: u64::from_str_radix(value.get("cluster")?.as_str()?, 16).ok()?,
            house: value.get("house")?.as_str()?.to_owned(),
            revision: number("revision")?,
            witness: witness.zip(number("written")),
        })
    }

    /// Writes it, whole or not at all.
    pub(crate) fn keep(&self, path: &Path) -> Result<(), Error> {
        /// A store that is being closed and the next one may keep theirs at the same time.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut value = json!({
            "cluster": format!("{:016x}", self.cluster), "house": self.house, "revision": self.revision,
        });
        if let (Some((key, written)), Some(object)) = (&self.witness, value.as_object_mut()) {
            object.insert("witness".to_owned(), json!(key));
            object.insert("written".to_owned(), json!(written));
        }
        let new: PathBuf = path.with_extension("new");
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder).map_err(|error| place::unusable(folder, error))?;
        let written = File::create(&new).and_then(|mut file| {
            writeln!(file, "{value}")?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&new, path)).map_err(|error| place::unusable(path, error))?;
        place::sync_folder(folder)
    }

    /// Removes it.
    pub(crate) fn remove(path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(place::unusable(path, error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cluster: u64, revision: i64) -> ResponseHeader {
        ResponseHeader { cluster_id: cluster, revision, ..ResponseHeader::default() }
    }

    #[test]
    fn a_cluster_that_was_set_back_is_refused_for_good() {
        let known = Known::default();
        known.admit(Some(&header(7, 10)), Some(0)).unwrap();
        // A member that is behind may answer for itself, and an answer to an older question may be older.
        known.admit(Some(&header(7, 3)), None).unwrap();
        known.admit(Some(&header(7, 12)), Some(10)).unwrap();
        known.admit(Some(&header(7, 11)), Some(10)).unwrap();
        assert_eq!(known.seen(), 12);
        let error = known.admit(Some(&header(7, 11)), Some(12)).unwrap_err();
        assert!(error.message.contains("kato recover --scan"), "{error}");
        assert!(known.admit(Some(&header(7, 99)), Some(12)).is_err() && known.check().is_err());
        known.forget();
        known.admit(Some(&header(8, 1)), Some(0)).unwrap();
    }

    #[test]
    fn another_cluster_is_refused() {
        let mark = Mark { cluster: 7, house: "h".into(), revision: 10, witness: None };
        let known = Known::of(Some(&mark));
        assert!(known.admit(Some(&header(8, 100)), None).is_err());
    }

    #[test]
    fn a_mark_is_read_as_it_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store/etcd");
        assert_eq!(Mark::read(&path).unwrap(), None);
        for witness in [None, Some(("kato/t/a".to_owned(), 9))] {
            let mark = Mark { cluster: u64::MAX, house: "0a".into(), revision: 10, witness };
            mark.keep(&path).unwrap();
            assert_eq!(Mark::read(&path).unwrap(), Some(mark));
        }
        fs::write(&path, "{}").unwrap();
        assert!(Mark::read(&path).is_err());
    }
}
