//! Holding all writes of a volume for the moment of a snapshot. A filesystem that stays frozen stops its
//! containers, so two processes hold it, and either thaws when the other dies:
//!
//! ```text
//! daemon ──socket── holder (freezes, waits for the word) ──socket── watchdog (has the mount open)
//! ```
//!
//! The holder thaws on the daemon's word, when the daemon's end of the socket closes, when the watchdog dies,
//! and after the limit. The watchdog thaws when the holder dies without having said that it is over. A freeze
//! counts once, so a second thaw does nothing. Only whole filesystems of ours are frozen: freezing a directory
//! would stop the host's own disk.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use kato_orchestrator::Error;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::{
    command,
    errno::{failed, is},
    holders, kernel,
    task::{self, Answer, Job, Task},
};

/// What the holder says to its watchdog when the filesystem goes on, and what the daemon says to its holder.
const OVER: u8 = b'.';

/// The holder's work: answers once it is frozen, and again once it is thawed, with whether it was held until
/// the daemon's word.
pub(crate) fn hold(
    path: &Path,
    at_most: Duration,
    worker: &[OsString],
    daemon: &mut UnixStream,
) -> Result<bool, Error> {
    let filesystem = open_whole(path)?;
    let (mut child, mut watchdog) =
        command::start_watchdog(worker).map_err(|error| failed("start the watchdog of a freeze", error))?;
    let job = Job::bare(Task::Watch { path: path.to_owned(), at_most });
    task::send(&mut watchdog, &job).map_err(|error| failed("talk to the watchdog", error))?;
    // It answers when it has the mount open: from then on its thaw needs nothing that could fail.
    task::receive::<task::Word>(&mut watchdog)
        .map_err(|error| failed("hear from the watchdog", error))?
        .answer()?;
    let frozen = match kernel::freeze(filesystem.as_fd()) {
        Ok(()) => Ok(()),
        // Held already, by an earlier wish: this one holds it on.
        Err(error) if is(&error, Errno::BUSY) => Ok(()),
        Err(error) => Err(failed(format_args!("freeze {}", path.display()), error)),
    };
    let told = match &frozen {
        Ok(()) => task::send(daemon, &task::Word::from(Ok(Answer::Done))),
        Err(_) => Ok(()),
    };
    let was_told = frozen.is_ok() && told.is_ok() && hears_the_word(daemon, &watchdog, at_most);
    let thawed = thaw_open(&filesystem, path);
    let said = watchdog.write_all(&[OVER]);
    drop(watchdog);
    let ended = child.wait();
    if let Some(error) = said.err().or_else(|| ended.err()) {
        tracing::debug!(%error, "the watchdog of a freeze was gone before its end");
    }
    frozen?;
    Ok(thawed? && was_told)
}

/// The watchdog's work: thaws unless the holder says that it did.
pub(crate) fn watch(path: &Path, at_most: Duration, holder: &mut UnixStream) -> Result<(), Error> {
    let filesystem = open_whole(path)?;
    task::send(holder, &task::Word::from(Ok(Answer::Done)))
        .map_err(|error| failed("talk to the holder of a freeze", error))?;
    // The holder has its own limit, which comes first.
    wait_for(&[holder.as_fd()], at_most.saturating_add(Duration::from_secs(1)));
    if heard_the_word(holder) {
        return Ok(());
    }
    thaw_open(&filesystem, path).map(drop)
}

/// Lets the writes of a mounted filesystem go on. One that is not frozen is thawed.
pub(crate) fn thaw(path: &Path) -> Result<(), Error> {
    thaw_open(&open_whole(path)?, path).map(drop)
}

/// The daemon's word to the holder.
pub(crate) fn word() -> [u8; 1] {
    [OVER]
}

/// Thaws, and tells whether it was frozen.
fn thaw_open(filesystem: &File, path: &Path) -> Result<bool, Error> {
    match kernel::thaw(filesystem.as_fd()) {
        Ok(()) => Ok(true),
        Err(error) if is(&error, Errno::INVAL) => Ok(false),
        Err(error) => Err(failed(format_args!("thaw {}", path.display()), error)),
    }
}

/// Opens the root of a mount that is a whole filesystem and not the host's.
fn open_whole(path: &Path) -> Result<File, Error> {
    let entry = holders::at(path)?
        .ok_or_else(|| Error::precondition(format!("nothing is mounted at {}", path.display())))?;
    let host = holders::at(Path::new("/"))?.map(|root| root.device);
    if entry.root != "/" || host == Some(entry.device) || !entry.is_of_a_device() {
        return Err(Error::unsupported(format!(
            "{} is a directory of the host's own filesystem, which cannot be frozen without stopping the host",
            path.display()
        )));
    }
    File::open(path).map_err(|error| failed(format_args!("open {}", path.display()), error))
}

/// Waits for the daemon's word, which may never come.
fn hears_the_word(daemon: &mut UnixStream, watchdog: &UnixStream, at_most: Duration) -> bool {
    wait_for(&[daemon.as_fd(), watchdog.as_fd()], at_most);
    heard_the_word(daemon)
}

/// Whether the word is there by now.
fn heard_the_word(from: &mut UnixStream) -> bool {
    if from.set_nonblocking(true).is_err() {
        return false;
    }
    let mut word = [0];
    let heard = matches!(from.read(&mut word), Ok(1)) && word == [OVER];
    from.set_nonblocking(false).is_ok() && heard
}

/// Returns when one of them says something or closes, or when the time is over.
fn wait_for(descriptors: &[std::os::fd::BorrowedFd<'_>], at_most: Duration) {
    let mut watched: Vec<PollFd<'_>> =
        descriptors.iter().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN)).collect();
    let limit = Timespec::try_from(at_most).ok();
    if let Err(error) = poll(&mut watched, limit.as_ref()) {
        // Then it is thawed at once, which is the safe side.
        tracing::warn!(error = %io::Error::from(error), "could not wait during a freeze");
    }
}
