//! Stand-ins for the host, for the tests of backends. [`MemoryFiles`] is a granted directory in memory: it keeps what
//! [`Files`] promises, and can be told to be cut off or overtaken at any call, to be slow, to be full, and to have
//! reflinks or quotas or not. [`MemoryCommands`] runs what stands in for the granted programs, and [`MemoryTransfers`]
//! moves blocks to and from what stands in for a server.
//!
//! ```
//! use kato_plugin_sdk::{files::Files, testing::{Cut, MemoryFiles}};
//!
//! let files = MemoryFiles::default();
//! files.make_directory("volumes/a").unwrap();
//! files.cut(Cut::Before(1));
//! assert!(files.write("volumes/a/mark", b"m").is_err());
//! files.mend();
//! assert_eq!(files.read("volumes/a/mark").unwrap(), None);
//! ```

mod commands;
mod extents;
mod reach;
mod transfers;

pub use commands::{Holes, MemoryCommands, Program};
pub use reach::Cut;
pub use transfers::{Answered, Arrived, MemoryTransfers, Server, stand_in_digest};

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use reach::{Meanwhile, Reach, away};

use crate::{
    files::{Files, Filesystem, Piece, Room, Taken},
    types::{Error, ExtentPage},
};

/// A granted directory in memory. Its clones are the same directory.
#[derive(Clone, Debug)]
pub struct MemoryFiles(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    nodes: BTreeMap<String, Node>,
    kind: String,
    reflink: bool,
    quota: bool,
    total: u64,
    calls: u64,
    cut: Option<Cut>,
    slices: u32,
    begun: BTreeMap<String, u32>,
    gone: bool,
    meanwhile: Option<Meanwhile>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory { quota: u64 },
    File { content: Vec<u8>, length: u64, allocated: u64 },
}

impl Default for MemoryFiles {
    /// An empty directory of 64 GiB without reflinks and quotas.
    fn default() -> Self {
        Self(Rc::new(RefCell::new(State {
            nodes: BTreeMap::new(),
            kind: "ext4".into(),
            reflink: false,
            quota: false,
            total: 64 << 30,
            calls: 0,
            cut: None,
            slices: 1,
            begun: BTreeMap::new(),
            gone: false,
            meanwhile: None,
        })))
    }
}

impl MemoryFiles {
    /// Whether files can share blocks.
    #[must_use]
    pub fn reflink(self, reflink: bool) -> Self {
        self.0.borrow_mut().reflink = reflink;
        self
    }

    /// Whether directories can be limited.
    #[must_use]
    pub fn quota(self, quota: bool) -> Self {
        self.0.borrow_mut().quota = quota;
        self
    }

    /// How large the filesystem is.
    #[must_use]
    pub fn total(self, bytes: u64) -> Self {
        self.0.borrow_mut().total = bytes;
        self
    }

    /// How many calls a removal or a copy takes.
    #[must_use]
    pub fn slices(self, slices: u32) -> Self {
        self.0.borrow_mut().slices = slices;
        self
    }

    /// Cuts the component off.
    pub fn cut(&self, cut: Cut) {
        let mut state = self.0.borrow_mut();
        state.calls = 0;
        state.cut = Some(cut);
    }

    /// Takes the cut away, and forgets copies and removals that were under way.
    pub fn mend(&self) {
        let mut state = self.0.borrow_mut();
        state.cut = None;
        state.begun.clear();
    }

    /// Lets somebody else act just before the n-th call from now.
    pub fn meanwhile(&self, call: u64, act: impl FnOnce() + 'static) {
        let mut state = self.0.borrow_mut();
        state.calls = 0;
        state.meanwhile = Some(Meanwhile(call, Box::new(act)));
    }

    /// Whether nobody acted yet who was to act meanwhile; nobody will any more.
    #[must_use]
    pub fn undisturbed(&self) -> bool {
        self.0.borrow_mut().meanwhile.take().is_some()
    }

    /// How many calls there were since the last cut, or in all.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.0.borrow().calls
    }

    /// Swaps everything for an empty directory, as an unmounted filesystem does, and back again.
    pub fn unmount(&self, away: &mut BTreeMap<String, Vec<u8>>) {
        let mut state = self.0.borrow_mut();
        let taken = std::mem::take(&mut state.nodes);
        for (path, content) in std::mem::take(away) {
            let node = match path.strip_suffix('/') {
                Some(_) => Node::Directory { quota: 0 },
                None => {
                    let length = content.len() as u64;
                    Node::File { content, length, allocated: length }
                }
            };
            state.nodes.insert(path.trim_end_matches('/').to_owned(), node);
        }
        for (path, node) in taken {
            match node {
                Node::Directory { .. } => away.insert(format!("{path}/"), Vec::new()),
                Node::File { content, .. } => away.insert(path, content),
            };
        }
    }

    /// Whether the directory itself can be reached.
    pub fn missing(&self, gone: bool) {
        self.0.borrow_mut().gone = gone;
    }

    /// All paths, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.0.borrow().nodes.keys().cloned().collect()
    }

    /// Puts bytes at the beginning of a file, as somebody who has it mounted would.
    pub fn poke(&self, path: &str, bytes: &[u8]) {
        let mut state = self.0.borrow_mut();
        let node = state.nodes.entry(path.to_owned()).or_insert_with(|| Node::File {
            content: Vec::new(),
            length: 0,
            allocated: 0,
        });
        if let Node::File { content, length, allocated } = node {
            *content = bytes.to_vec();
            *length = (*length).max(bytes.len() as u64);
            *allocated = (*allocated).max(bytes.len() as u64);
        }
    }

    /// The bytes at the beginning of a file.
    #[must_use]
    pub fn peek(&self, path: &str) -> Option<Vec<u8>> {
        match self.0.borrow().nodes.get(path) {
            Some(Node::File { content, .. }) => Some(content.clone()),
            _ => None,
        }
    }

    /// Takes something away behind the backend's back, or shortens a file.
    pub fn harm(&self, path: &str, length: Option<u64>) {
        let mut state = self.0.borrow_mut();
        match (state.nodes.get_mut(path), length) {
            (Some(Node::File { length, .. }), Some(short)) => *length = short,
            _ => state.remove(path),
        }
    }

    /// The limit of a directory.
    #[must_use]
    pub fn limit(&self, path: &str) -> Option<u64> {
        match self.0.borrow().nodes.get(path) {
            Some(Node::Directory { quota }) => Some(*quota),
            _ => None,
        }
    }

    /// Does an effect as far as it gets: `half` and then `rest`.
    fn effect<T>(
        &self,
        half: impl FnOnce(&mut State) -> Result<(), Error>,
        rest: impl FnOnce(&mut State) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let other = {
            let mut state = self.0.borrow_mut();
            let next = state.calls + 1;
            state.meanwhile.take_if(|meanwhile| meanwhile.0 == next)
        };
        if let Some(Meanwhile(_, act)) = other {
            act();
        }
        let state = &mut *self.0.borrow_mut();
        let reach = state.reach();
        if state.gone {
            return Err(Error::unavailable("the granted directory is not there"));
        }
        if reach == Reach::Nothing {
            return Err(away());
        }
        half(state)?;
        if reach == Reach::Half {
            return Err(away());
        }
        let answer = rest(state)?;
        if reach == Reach::Unheard { Err(away()) } else { Ok(answer) }
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> Result<T, Error>) -> Result<T, Error> {
        self.effect(|_| Ok(()), |state| look(state))
    }
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

impl State {
    fn reach(&mut self) -> Reach {
        self.calls += 1;
        Reach::of(self.cut, self.calls)
    }

    fn beneath(&self, path: &str) -> Vec<String> {
        let inside = format!("{path}/");
        self.nodes.keys().filter(|node| *node == path || node.starts_with(&inside)).cloned().collect()
    }

    fn remove(&mut self, path: &str) {
        for node in self.beneath(path) {
            self.nodes.remove(&node);
        }
    }

    fn vacant(&self, path: &str) -> Result<(), Error> {
        if self.nodes.contains_key(path) {
            return Err(Error::already_exists(format!("{path} is there")));
        }
        match parent(path) {
            Some(parent) if !matches!(self.nodes.get(parent), Some(Node::Directory { .. })) => {
                Err(Error::not_found(format!("{parent} is not there")))
            }
            _ => Ok(()),
        }
    }

    fn copy(&mut self, source: &str, to: &str) {
        for node in self.beneath(source) {
            if let (Some(copy), Some(rest)) = (self.nodes.get(&node).cloned(), node.strip_prefix(source)) {
                self.nodes.insert(format!("{to}{rest}"), copy);
            }
        }
    }

    fn rename(&mut self, source: &str, to: &str) -> Result<(), Error> {
        if !self.nodes.contains_key(source) {
            return Err(Error::not_found(format!("{source} is not there")));
        }
        self.vacant(to)?;
        self.copy(source, to);
        self.remove(source);
        Ok(())
    }

    fn used(&self) -> u64 {
        let mut used = 0;
        for node in self.nodes.values() {
            if let Node::File { allocated, .. } = node {
                used += allocated;
            }
        }
        used
    }

    /// Whether this was the last slice of a piece of work.
    fn finished(&mut self, work: String) -> bool {
        let done = self.begun.entry(work.clone()).or_default();
        *done += 1;
        if *done < self.slices {
            return false;
        }
        self.begun.remove(&work);
        true
    }
}

impl Files for MemoryFiles {
    fn traits(&self) -> Result<Filesystem, Error> {
        self.look(|state| {
            Ok(Filesystem { kind: state.kind.clone(), reflink: state.reflink, quota: state.quota })
        })
    }

    fn capacity(&self) -> Result<Room, Error> {
        self.look(|state| {
            let available_bytes = state.total.saturating_sub(state.used());
            Ok(Room { total_bytes: state.total, available_bytes })
        })
    }

    fn allocate(&self, path: &str, length: u64, thin: bool) -> Result<(), Error> {
        self.effect(
            |_| Ok(()),
            |state| {
                let available = state.total.saturating_sub(state.used());
                let (content, old, had) = match state.nodes.get(path) {
                    Some(Node::File { content, length, allocated }) => (content.clone(), *length, *allocated),
                    Some(Node::Directory { .. }) => return Err(Error::invalid(format!("{path} is no file"))),
                    None => {
                        state.vacant(path)?;
                        (Vec::new(), 0, 0)
                    }
                };
                let length = length.max(old);
                let allocated = if thin { had } else { length.max(had) };
                if allocated - had > available {
                    return Err(Error::exhausted("no space left on device"));
                }
                state.nodes.insert(path.to_owned(), Node::File { content, length, allocated });
                Ok(())
            },
        )
    }

    fn space(&self, path: &str) -> Result<Taken, Error> {
        self.look(|state| match state.nodes.get(path) {
            Some(Node::File { length, allocated, .. }) => {
                Ok(Taken { length_bytes: *length, allocated_bytes: *allocated })
            }
            _ => Err(Error::not_found(format!("{path} is no file"))),
        })
    }

    fn clone_file(&self, source: &str, to: &str, may_copy: bool) -> Result<bool, Error> {
        self.effect(
            |_| Ok(()),
            |state| {
                if !state.nodes.contains_key(source) {
                    return Err(Error::not_found(format!("{source} is not there")));
                }
                state.vacant(to)?;
                if !state.reflink {
                    if !may_copy {
                        return Err(Error::unsupported("blocks cannot be shared here"));
                    }
                    if !state.finished(format!("clone {to}")) {
                        return Ok(false);
                    }
                }
                state.copy(source, to);
                Ok(true)
            },
        )
    }

    fn extents(&self, path: &str, from: u64) -> Result<ExtentPage, Error> {
        self.look(|state| Ok(extents::page(&[], state.file(path)?, from)))
    }

    fn differences(&self, base: &str, path: &str, from: u64) -> Result<ExtentPage, Error> {
        self.look(|state| Ok(extents::page(state.file(base)?.0, state.file(path)?, from)))
    }

    fn copy_tree(&self, source: &str, to: &str) -> Result<bool, Error> {
        self.effect(
            |_| Ok(()),
            |state| {
                if !state.nodes.contains_key(source) {
                    return Err(Error::not_found(format!("{source} is not there")));
                }
                state.vacant(to)?;
                if !state.finished(format!("copy {to}")) {
                    return Ok(false);
                }
                state.copy(source, to);
                Ok(true)
            },
        )
    }

    fn assemble(&self, to: &str, by: &str, pieces: &[(String, Piece)]) -> Result<(), Error> {
        self.effect(
            |state| {
                state.vacant(to)?;
                state.vacant(by)?;
                state.nodes.insert(by.to_owned(), Node::Directory { quota: 0 });
                for (name, piece) in pieces {
                    let node = match piece {
                        Piece::Directory => Node::Directory { quota: 0 },
                        Piece::Content(content) => {
                            let length = content.len() as u64;
                            Node::File { content: content.clone(), length, allocated: length }
                        }
                    };
                    state.nodes.insert(format!("{by}/{name}"), node);
                }
                Ok(())
            },
            |state| state.rename(by, to),
        )
    }

    fn discard(&self, path: &str, by: &str) -> Result<bool, Error> {
        self.effect(
            |state| {
                if state.nodes.contains_key(path) {
                    state.remove(by);
                    state.rename(path, by)?;
                }
                Ok(())
            },
            |state| {
                if !state.nodes.contains_key(by) {
                    return Ok(true);
                }
                let last = state.finished(format!("discard {by}"));
                if last {
                    state.remove(by);
                }
                Ok(last)
            },
        )
    }

    fn remove_tree(&self, path: &str) -> Result<bool, Error> {
        self.effect(
            |_| Ok(()),
            |state| {
                if !state.nodes.contains_key(path) {
                    return Ok(true);
                }
                let last = state.finished(format!("remove {path}"));
                if last {
                    state.remove(path);
                }
                Ok(last)
            },
        )
    }

    fn make_directory(&self, path: &str) -> Result<(), Error> {
        let steps: BTreeSet<String> = path
            .match_indices('/')
            .filter_map(|(at, _)| path.get(..at))
            .chain([path])
            .map(str::to_owned)
            .collect();
        self.effect(
            |_| Ok(()),
            |state| {
                for step in steps {
                    match state.nodes.get(&step) {
                        None => {
                            state.nodes.insert(step, Node::Directory { quota: 0 });
                        }
                        Some(Node::Directory { .. }) => {}
                        Some(Node::File { .. }) => {
                            return Err(Error::already_exists(format!("{step} is a file")));
                        }
                    }
                }
                Ok(())
            },
        )
    }

    fn rename(&self, source: &str, to: &str) -> Result<(), Error> {
        self.effect(|_| Ok(()), |state| state.rename(source, to))
    }

    fn write(&self, path: &str, content: &[u8]) -> Result<(), Error> {
        self.effect(
            |_| Ok(()),
            |state| {
                state.nodes.remove(path);
                state.vacant(path)?;
                let length = content.len() as u64;
                let node = Node::File { content: content.to_vec(), length, allocated: length };
                state.nodes.insert(path.to_owned(), node);
                Ok(())
            },
        )
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        self.look(|state| match state.nodes.get(path) {
            Some(Node::File { content, .. }) => Ok(Some(content.clone())),
            Some(Node::Directory { .. }) => Err(Error::invalid(format!("{path} is a directory"))),
            None => Ok(None),
        })
    }

    fn names(&self, path: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, Error> {
        let inside = format!("{path}/");
        self.look(|state| {
            let mut names: Vec<_> = state
                .nodes
                .keys()
                .filter_map(|node| node.strip_prefix(&inside))
                .filter(|name| !name.contains('/') && after.is_none_or(|after| *name > after))
                .map(str::to_owned)
                .collect();
            names.sort();
            names.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            Ok(names)
        })
    }

    fn set_quota(&self, path: &str, limit: u64) -> Result<(), Error> {
        self.effect(
            |_| Ok(()),
            |state| match state.nodes.get_mut(path) {
                _ if !state.quota => Err(Error::unsupported("there are no project quotas here")),
                Some(Node::Directory { quota }) => {
                    *quota = limit;
                    Ok(())
                }
                _ => Err(Error::not_found(format!("{path} is no directory"))),
            },
        )
    }
}
