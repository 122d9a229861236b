//! The contract's `files` for guests: finds the granted directory, and has the work done by the room `files/`,
//! which knows how. The directory is opened anew each time, so that a
//! filesystem that was mounted there since is the one that is used.

use std::{ops::Range, path::Path};

use kato_orchestrator::Error;
use rustix::fd::OwnedFd;

use crate::{
    engine::Engine,
    files::{
        beneath,
        content::{self, Piece},
        copies::What,
        extents, quota, remove, space,
    },
    guest::{Guest, Reach},
    v1::abi::kato::storage::{
        files::{self as wire, Host},
        types,
    },
};

pub(crate) use crate::files::copies::Copies;

impl Reach {
    /// Does something beneath a granted directory.
    fn beneath<T>(
        &self,
        grant: &str,
        work: impl FnOnce(OwnedFd) -> Result<T, Error>,
    ) -> Result<T, types::Error> {
        self.at(grant, |path| work(beneath::root(path)?))
    }

    /// Changes something beneath a granted directory, as one stroke to everybody else at these paths.
    fn change<T>(
        &self,
        grant: &str,
        paths: [&str; 2],
        work: impl FnOnce(&Path, OwnedFd) -> Result<T, Error>,
    ) -> Result<T, types::Error> {
        self.at(grant, |path| {
            let _turn = self.ground.turns.take(path, &paths);
            work(path, beneath::root(path)?)
        })
    }

    /// Looks at something small beneath a granted directory; whoever looks often pays for it.
    fn glance<T>(
        &self,
        grant: &str,
        work: impl FnOnce(OwnedFd) -> Result<T, Error>,
    ) -> Result<T, types::Error> {
        let path = self.ground.powers.directories.path(grant);
        path.and_then(|path| work(beneath::root(path)?)).map_err(|error| self.answer_error(&error))
    }

    /// Does something with a granted directory's path.
    fn at<T>(&self, grant: &str, work: impl FnOnce(&Path) -> Result<T, Error>) -> Result<T, types::Error> {
        let path = self.ground.powers.directories.path(grant);
        path.and_then(|path| Engine::for_guest(|| work(path))).map_err(|error| self.answer_error(&error))
    }

    /// Copies for a while.
    fn copy(&self, grant: &str, source: &str, to: &str, what: What) -> Result<bool, types::Error> {
        self.at(grant, |path| self.ground.copies.copy(path, source, to, what))
    }
}

fn page_to_wire(page: extents::Page) -> types::ExtentPage {
    let extent = |range: Range<u64>| types::Extent {
        offset_bytes: range.start,
        length_bytes: range.end - range.start,
    };
    types::ExtentPage { extents: page.extents.into_iter().map(extent).collect(), next_bytes: page.next }
}

impl Host for Guest {
    async fn traits(&mut self, grant: String) -> Result<wire::Filesystem, types::Error> {
        self.reach.beneath(&grant, |root| {
            let space::Filesystem { kind, reflink, quota } = space::filesystem(&root)?;
            Ok(wire::Filesystem { kind, reflink, quota })
        })
    }

    async fn capacity(&mut self, grant: String) -> Result<wire::Room, types::Error> {
        self.reach.beneath(&grant, |root| {
            let space::Room { total, available } = space::room(&root)?;
            Ok(wire::Room { total_bytes: total, available_bytes: available })
        })
    }

    async fn allocate(
        &mut self,
        grant: String,
        path: String,
        length: u64,
        thin: bool,
    ) -> Result<(), types::Error> {
        self.reach.change(&grant, [&path, &path], |_, root| space::allocate(root, &path, length, thin))
    }

    async fn space(&mut self, grant: String, path: String) -> Result<wire::Taken, types::Error> {
        self.reach.glance(&grant, |root| {
            let space::Taken { length, allocated } = space::taken(root, &path)?;
            Ok(wire::Taken { length_bytes: length, allocated_bytes: allocated })
        })
    }

    async fn clone_file(
        &mut self,
        grant: String,
        source: String,
        to: String,
        may_copy: bool,
    ) -> Result<bool, types::Error> {
        self.reach.copy(&grant, &source, &to, What::File { may_copy })
    }

    async fn extents(
        &mut self,
        grant: String,
        path: String,
        from: u64,
    ) -> Result<types::ExtentPage, types::Error> {
        self.reach.beneath(&grant, |root| extents::data(root, &path, from).map(page_to_wire))
    }

    async fn differences(
        &mut self,
        grant: String,
        base: String,
        path: String,
        from: u64,
    ) -> Result<types::ExtentPage, types::Error> {
        self.reach.beneath(&grant, |root| extents::differences(root, &base, &path, from).map(page_to_wire))
    }

    async fn copy_tree(&mut self, grant: String, source: String, to: String) -> Result<bool, types::Error> {
        self.reach.copy(&grant, &source, &to, What::Tree)
    }

    async fn assemble(
        &mut self,
        grant: String,
        to: String,
        by: String,
        pieces: Vec<(String, wire::Piece)>,
    ) -> Result<(), types::Error> {
        let pieces: Vec<_> = pieces
            .into_iter()
            .map(|(name, piece)| match piece {
                wire::Piece::Directory => (name, Piece::Directory),
                wire::Piece::Content(content) => (name, Piece::Content(content)),
            })
            .collect();
        self.reach.change(&grant, [&to, &by], |_, root| content::assemble(root, &to, &by, &pieces))
    }

    async fn discard(&mut self, grant: String, path: String, by: String) -> Result<bool, types::Error> {
        self.reach.change(&grant, [&path, &by], |place, root| {
            self.reach.ground.copies.give_up(place, &path);
            remove::discard(root, &path, &by)
        })
    }

    async fn remove_tree(&mut self, grant: String, path: String) -> Result<bool, types::Error> {
        self.reach.change(&grant, [&path, &path], |place, root| {
            self.reach.ground.copies.give_up(place, &path);
            remove::tree(root, &path)
        })
    }

    async fn make_directory(&mut self, grant: String, path: String) -> Result<(), types::Error> {
        self.reach.beneath(&grant, |root| content::make_directory(root, &path))
    }

    async fn rename(&mut self, grant: String, source: String, to: String) -> Result<(), types::Error> {
        self.reach.change(&grant, [&source, &to], |_, root| content::rename(root, &source, &to))
    }

    async fn write(&mut self, grant: String, path: String, content: Vec<u8>) -> Result<(), types::Error> {
        self.reach.change(&grant, [&path, &path], |_, root| content::write(root, &path, &content))
    }

    async fn read(&mut self, grant: String, path: String) -> Result<Option<Vec<u8>>, types::Error> {
        self.reach.glance(&grant, |root| content::read(root, &path))
    }

    async fn names(
        &mut self,
        grant: String,
        path: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<String>, types::Error> {
        self.reach.glance(&grant, |root| content::names(root, &path, after.as_deref(), limit))
    }

    async fn set_quota(&mut self, grant: String, path: String, limit_bytes: u64) -> Result<(), types::Error> {
        self.reach.beneath(&grant, |root| quota::set(root, &path, limit_bytes))
    }
}
