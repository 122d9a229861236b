//! Copies that go on between a guest's calls. A call with a deadline cannot copy a terabyte; so the copy is
//! made by a thread of the host's in `.kato-copies/` of the granted directory, where no guest looks, and each
//! call waits a moment for it. Only a call that finds it whole renames it to where it was wanted: a copy that
//! nobody asks for any more can finish and still not appear behind anybody's back.
//!
//! A copy that nobody asked for in a while is given up; what an earlier process left is removed before the
//! first copy into a directory. All backends share one register, because they may share a directory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kato_orchestrator::{Error, Kind};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Mode, OFlags, RenameFlags, fstat, mkdirat, renameat_with, statat},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{
    beneath::{self, failed},
    remove,
    tree::Copying,
};
use crate::manifest::hex;

/// Where copies are made.
const WORKSHOP: &str = ".kato-copies";
/// How long a call waits for a copy.
const WAIT: Duration = Duration::from_millis(1500);
/// How long a copy goes on without being asked for.
const PATIENCE: Duration = Duration::from_secs(900);
/// How many copies go on at once.
const AT_ONCE: usize = 8;

/// What is copied, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Tree,
    File { may_copy: bool },
}

/// All copies that go on.
#[derive(Debug, Default)]
pub(crate) struct Copies(Mutex<Register>);

#[derive(Debug, Default)]
struct Register {
    jobs: BTreeMap<(PathBuf, String), Arc<Job>>,
    swept: Vec<PathBuf>,
}

#[derive(Debug)]
struct Job {
    source: String,
    what: What,
    stop: AtomicBool,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    asked: Instant,
    outcome: Option<Result<(), Error>>,
}

impl Job {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it ended, for at most so long.
    fn wait(&self, longest: Duration) -> Option<Result<(), Error>> {
        let state = self.state();
        let (state, _timed_out) = self
            .ended
            .wait_timeout_while(state, longest, |state| state.outcome.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.outcome.clone()
    }

    fn give_up(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Copies {
    /// Begins a copy or goes on waiting for it. False means call again.
    pub(crate) fn copy(
        self: &Arc<Self>,
        path: &Path,
        source: &str,
        to: &str,
        what: What,
    ) -> Result<bool, Error> {
        let root = beneath::root(path)?;
        let (place, name) = beneath::parent(&root, to)?;
        match statat(&place, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Err(failed(to, Errno::EXIST)),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(to, error)),
        }
        let key = (path.to_owned(), to.to_owned());
        let Some(job) = self.job(&root, &key, source, what)? else { return Ok(false) };
        let Some(outcome) = job.wait(WAIT) else { return Ok(false) };
        self.register().jobs.remove(&key);
        let workshop = workshop(&root)?;
        let made = made(to);
        let placed = outcome.and_then(|()| {
            renameat_with(&workshop, &made, &place, name, RenameFlags::NOREPLACE)
                .map_err(|error| failed(to, error))
        });
        if let Err(error) = placed {
            let _left = remove::now(&workshop, &made);
            return Err(error);
        }
        beneath::flush(&place, to)?;
        beneath::flush(&workshop, to)?;
        Ok(true)
    }

    /// Gives up the copies to this path and beneath it, and waits for them to end.
    pub(crate) fn give_up(&self, path: &Path, to: &str) {
        let beneath = format!("{to}/");
        let mut given_up = Vec::new();
        self.register().jobs.retain(|(root, target), job| {
            let hit = root == path && (target == to || target.starts_with(&beneath));
            if hit {
                given_up.push((target.clone(), Arc::clone(job)));
            }
            !hit
        });
        for (target, job) in given_up {
            job.give_up();
            while job.wait(WAIT).is_none() {}
            // What it made is hidden; what cannot be removed now is swept by the next process.
            let _left = beneath::root(path)
                .and_then(|root| workshop(&root))
                .and_then(|workshop| remove::now(&workshop, &made(&target)));
        }
    }

    fn job(
        self: &Arc<Self>,
        root: &OwnedFd,
        key: &(PathBuf, String),
        source: &str,
        what: What,
    ) -> Result<Option<Arc<Job>>, Error> {
        let mut register = self.register();
        if let Some(job) = register.jobs.get(key) {
            if job.source == source && job.what == what {
                job.state().asked = Instant::now();
                return Ok(Some(Arc::clone(job)));
            }
            // The same target with another source: the earlier wish is over.
            drop(register);
            self.give_up(&key.0, &key.1);
            register = self.register();
        }
        register.tidy();
        if register.jobs.len() >= AT_ONCE {
            return Ok(None);
        }
        let from = opened(root, source, what)?;
        let workshop = workshop(root)?;
        if !register.swept.contains(&key.0) {
            if register.jobs.keys().all(|(other, _)| *other != key.0) {
                sweep(&workshop)?;
            }
            register.swept.push(key.0.clone());
        }
        let job = Arc::new(Job {
            source: source.to_owned(),
            what,
            stop: AtomicBool::new(false),
            state: Mutex::new(State { asked: Instant::now(), outcome: None }),
            ended: Condvar::new(),
        });
        let (own, made) = (Arc::clone(&job), made(&key.1));
        std::thread::Builder::new()
            .name("kato-copy".into())
            .spawn(move || own.run(from, workshop, &made))
            .map_err(|error| {
                Error::unavailable("a thread for the copy could not be started").caused_by(error)
            })?;
        register.jobs.insert(key.clone(), Arc::clone(&job));
        Ok(Some(job))
    }

    fn register(&self) -> std::sync::MutexGuard<'_, Register> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Register {
    /// Gives up what nobody asks for any more.
    fn tidy(&mut self) {
        self.jobs.retain(|(path, to), job| {
            let (forgotten, ended) = {
                let state = job.state();
                (state.asked.elapsed() > PATIENCE, state.outcome.is_some())
            };
            if forgotten {
                job.give_up();
            }
            if forgotten && ended {
                let _left = beneath::root(path)
                    .and_then(|root| workshop(&root))
                    .and_then(|workshop| remove::now(&workshop, &made(to)));
            }
            !(forgotten && ended)
        });
    }
}

impl Job {
    fn run(&self, from: OwnedFd, workshop: OwnedFd, name: &str) {
        let copying = Copying { path: &self.source, stop: &self.stop };
        let outcome = remove::now(&workshop, name).and_then(|()| match self.what {
            What::Tree => copying.tree(&from, &workshop, name),
            What::File { may_copy } => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let failed = |error| failed(&self.source, error);
                let file = beneath::step(&workshop, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
                copying.contents(&from, &file, may_copy)?;
                let stat = fstat(&from).map_err(failed)?;
                copying.attributes(&from, &file, &stat)?;
                beneath::flush(&file, &self.source)
            }
        });
        if outcome.is_err() {
            let _left = remove::now(&workshop, name);
        }
        // Before anybody hears of the end: they may want to unmount.
        drop((from, workshop));
        self.state().outcome = Some(outcome);
        self.ended.notify_all();
    }
}

fn opened(root: &OwnedFd, source: &str, what: What) -> Result<OwnedFd, Error> {
    match what {
        What::Tree => beneath::open(root, source, OFlags::RDONLY | OFlags::DIRECTORY),
        What::File { .. } => {
            let file = beneath::open(root, source, OFlags::RDONLY | OFlags::NONBLOCK)?;
            let stat = fstat(&file).map_err(|error| failed(source, error))?;
            if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile {
                Ok(file)
            } else {
                Err(Error::new(Kind::Precondition, format!("{source:?} is no regular file")))
            }
        }
    }
}

/// The name of a copy while it is made.
fn made(to: &str) -> String {
    hex(&Sha256::digest(to.as_bytes())).chars().take(32).collect()
}

fn workshop(root: impl AsFd) -> Result<OwnedFd, Error> {
    let place = beneath::itself(root)?;
    match mkdirat(&place, WORKSHOP, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed(WORKSHOP, error)),
    }
    beneath::step(&place, WORKSHOP, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| failed(WORKSHOP, error))
}

/// Removes what an earlier process left.
fn sweep(workshop: &OwnedFd) -> Result<(), Error> {
    let failed = |error| failed(WORKSHOP, error);
    for entry in rustix::fs::Dir::read_from(workshop).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_str().unwrap_or(".");
        if !matches!(name, "." | "..") {
            remove::now(workshop, name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(copies: &Arc<Copies>, path: &Path, source: &str, to: &str, what: What) -> Result<(), Error> {
        while !copies.copy(path, source, to, what)? {}
        Ok(())
    }

    #[test]
    fn a_copy_appears_whole_and_only_once() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("a")).unwrap();
        std::fs::write(temp.path().join("a/f"), "x").unwrap();
        std::fs::create_dir_all(temp.path().join(".kato-copies/left")).unwrap();
        let copies = Arc::new(Copies::default());
        finish(&copies, temp.path(), "a", "b", What::Tree).unwrap();
        assert_eq!(std::fs::read(temp.path().join("b/f")).unwrap(), b"x");
        finish(&copies, temp.path(), "a/f", "g", What::File { may_copy: true }).unwrap();
        assert_eq!(std::fs::read(temp.path().join("g")).unwrap(), b"x");
        assert_eq!(std::fs::read_dir(temp.path().join(".kato-copies")).unwrap().count(), 0);
        let again = finish(&copies, temp.path(), "a", "b", What::Tree).unwrap_err();
        assert_eq!(again.kind, Kind::AlreadyExists);
        let missing = finish(&copies, temp.path(), "no", "c", What::Tree).unwrap_err();
        assert_eq!(missing.kind, Kind::NotFound);
        copies.give_up(temp.path(), "b");
        assert!(copies.register().jobs.is_empty());
    }

    #[test]
    fn a_copy_that_is_given_up_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("a")).unwrap();
        for number in 0..50 {
            std::fs::write(temp.path().join(format!("a/{number}")), vec![1; 1 << 16]).unwrap();
        }
        let copies = Arc::new(Copies::default());
        let root = beneath::root(temp.path()).unwrap();
        let key = (temp.path().to_owned(), "b".to_owned());
        copies.job(&root, &key, "a", What::Tree).unwrap().unwrap();
        copies.give_up(temp.path(), "b");
        assert!(!temp.path().join("b").exists());
        assert_eq!(std::fs::read_dir(temp.path().join(".kato-copies")).unwrap().count(), 0);
    }
}
