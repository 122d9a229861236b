//! Turns at paths. Two calls of guests may work on the same volume at once (two hosts' wishes, a repeated
//! call); each operation of this room is one stroke to the others: while `assemble` puts a directory together,
//! nobody may `discard` it under its hands and let it appear half empty. So an operation that changes a tree
//! takes its turn at the paths that it names, and waits while another works at one of them, above or below.
//!
//! Another process on the same directory is not held by this. What it could do is bounded by the renames:
//! a directory appears once, and never over another.

use std::{
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, PoisonError},
};

/// The paths that are worked at.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    taken: Mutex<Vec<PathBuf>>,
    freed: Condvar,
}

/// A turn at some paths, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    paths: Vec<PathBuf>,
}

impl Turns {
    /// Waits for a turn at all of these paths beneath a root: at all of them at once, so that nobody waits in
    /// a circle.
    pub(crate) fn take(&self, root: &Path, paths: &[&str]) -> Turn<'_> {
        let paths: Vec<PathBuf> = paths.iter().map(|path| root.join(path.trim_start_matches('/'))).collect();
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = self
            .freed
            .wait_while(taken, |taken| taken.iter().any(|other| paths.iter().any(|path| touch(path, other))))
            .unwrap_or_else(PoisonError::into_inner);
        taken.extend(paths.iter().cloned());
        Turn { turns: self, paths }
    }
}

/// Whether work at one of these is work at the other.
fn touch(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut taken = self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for path in &self.paths {
            if let Some(place) = taken.iter().position(|other| other == path) {
                taken.swap_remove(place);
            }
        }
        self.turns.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn work_at_one_path_waits_and_at_another_does_not() {
        let turns = Turns::default();
        let root = Path::new("/r");
        let first = turns.take(root, &["a/x", "b"]);
        let beside = turns.take(root, &["a/y", "bb"]);
        let count = AtomicU32::new(0);
        thread::scope(|scope| {
            for path in ["a/x", "a", "b/c", "b"] {
                let (turns, count) = (&turns, &count);
                scope.spawn(move || {
                    let _turn = turns.take(root, &[path]);
                    count.fetch_add(1, Ordering::Relaxed);
                });
            }
            assert_eq!(count.load(Ordering::Relaxed), 0);
            drop(first);
            drop(beside);
        });
        assert_eq!(count.load(Ordering::Relaxed), 4);
        assert!(turns.taken.lock().unwrap().is_empty());
    }
}
