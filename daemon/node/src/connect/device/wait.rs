//! Waiting for a disk: until something changes among the device nodes, and then looking again. A container may be
//! told nothing of that, and a link may be made in a folder that was not there before, so a slow tick looks, too.

use std::{mem::MaybeUninit, os::fd::OwnedFd, path::PathBuf, time::Duration};

use kato_orchestrator::{Error, Kind};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, WatchFlags},
    time::{ClockId, clock_gettime},
};

/// How often is looked though nothing was told.
const TICK: Duration = Duration::from_millis(500);

/// How long is waited for the rest, once something was told: nodes and links come in swarms.
const SWARM: Duration = Duration::from_millis(20);

/// Looks until something is found, or until the time is over: then the last answer is the answer. Only what is
/// unavailable is looked for again.
pub(super) fn until<T>(
    folders: &[PathBuf],
    patience: Duration,
    mut look: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut watch = None;
    let end = now() + patience;
    loop {
        match look() {
            Err(error) if error.kind == Kind::Unavailable && now() < end => {}
            outcome => return outcome,
        }
        // Nearly always it is here. What came between the look and the watch is found by looking at once.
        let Some(watching) = &watch else {
            watch = Some(Watch::over(folders));
            continue;
        };
        watching.wait(TICK.min(end.saturating_sub(now())));
    }
}

/// What tells of changes among device nodes; nothing where the kernel has no more watches to give.
struct Watch(Option<OwnedFd>);

impl Watch {
    fn over(folders: &[PathBuf]) -> Self {
        let Ok(watch) = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) else {
            return Self(None);
        };
        let changes = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::ATTRIB;
        for folder in folders {
            // The folder of links is made with the first link: the tick sees to that.
            if let Err(error) = inotify::add_watch(&watch, folder, changes) {
                tracing::debug!(folder = %folder.display(), %error, "could not watch a folder of devices");
            }
        }
        Self(Some(watch))
    }

    /// Returns when something changed, or when the time is over.
    fn wait(&self, at_most: Duration) {
        let limit = Timespec::try_from(at_most).ok();
        let Some(watch) = &self.0 else { return std::thread::sleep(at_most) };
        match poll(&mut [PollFd::new(watch, PollFlags::IN)], limit.as_ref()) {
            Ok(0) => {}
            Ok(_) => {
                std::thread::sleep(SWARM);
                let mut memory = [MaybeUninit::uninit(); 4096];
                let mut told = inotify::Reader::new(watch, &mut memory);
                while told.next().is_ok() {}
            }
            Err(_) => std::thread::sleep(at_most),
        }
    }
}

/// The time since the machine began.
fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_among_the_nodes_ends_a_wait() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::over(&[folder.path().to_owned(), folder.path().join("not/there")]);
        let (begun, most) = (now(), Duration::from_secs(60));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                std::fs::write(folder.path().join("nvme1n1"), "").unwrap();
            });
            watch.wait(most);
        });
        assert!(now() - begun < most / 2);
        // What was told is told once.
        let begun = now();
        watch.wait(Duration::from_millis(100));
        assert!(now() - begun >= Duration::from_millis(90));
    }

    #[test]
    fn only_what_is_unavailable_is_looked_for_again() {
        let mut looks = 0;
        let outcome = until::<()>(&[], Duration::from_secs(60), || {
            looks += 1;
            Err(if looks < 3 { Error::unavailable("not yet") } else { Error::precondition("no") })
        });
        assert_eq!((outcome.unwrap_err().kind, looks), (Kind::Precondition, 3));
    }
}
