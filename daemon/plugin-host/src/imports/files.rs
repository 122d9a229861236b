//! The contract's `files` for guests: finds the granted directory, and has the work done beside the guests'
//! threads by the room `files/`, which knows how. The directory is opened anew each time, so that a
//! filesystem that was mounted there since is the one that is used.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use kato_orchestrator::Error;
use rustix::fd::OwnedFd;

use crate::{
    engine::Engine,
    files::{
        beneath,
        content::{self, Piece},
        copies::What,
        quota, remove, space,
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
    async fn beneath<T: Send + 'static>(
        &self,
        grant: &str,
        work: impl FnOnce(OwnedFd) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, types::Error> {
        self.at(grant, move |path| work(beneath::root(&path)?)).await
    }

    /// Changes something beneath a granted directory, as one stroke to everybody else at these paths.
    async fn change<T: Send + 'static>(
        &self,
        grant: &str,
        paths: [String; 2],
        work: impl FnOnce(&Path, OwnedFd, &[String; 2]) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, types::Error> {
        let turns = Arc::clone(&self.ground.turns);
        self.at(grant, move |path| {
            let [one, other] = &paths;
            let _turn = turns.take(&path, &[one, other]);
            work(&path, beneath::root(&path)?, &paths)
        })
        .await
    }

    /// Looks at something small beneath a granted directory.
    fn glance<T>(
        &self,
        grant: &str,
        work: impl FnOnce(OwnedFd) -> Result<T, Error>,
    ) -> Result<T, types::Error> {
        let path = self.ground.powers.directories.path(grant);
        let outcome = path.and_then(|path| Engine::in_place(|| work(beneath::root(path)?)));
        outcome.map_err(|error| self.answer_error(&error))
    }

    /// Does something with a granted directory's path.
    async fn at<T: Send + 'static>(
        &self,
        grant: &str,
        work: impl FnOnce(PathBuf) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, types::Error> {
        let outcome = match self.ground.powers.directories.path(grant) {
            Ok(path) => {
                let path = path.to_owned();
                let (_waiting, working) = self.ground.strays.begin();
                let work = move || {
                    let _working = working;
                    work(path)
                };
                let ended = self.ground.engine.block(work).await;
                ended.unwrap_or_else(|error| Err(Error::internal("the file work failed").caused_by(error)))
            }
            Err(refusal) => Err(refusal),
        };
        outcome.map_err(|error| self.answer_error(&error))
    }

    /// Copies for a while.
    async fn copy(&self, grant: &str, source: String, to: String, what: What) -> Result<bool, types::Error> {
        let copies = Arc::clone(&self.ground.copies);
        self.at(grant, move |path| copies.copy(&path, &source, &to, what)).await
    }
}

impl Host for Guest {
    async fn traits(&mut self, grant: String) -> Result<wire::Filesystem, types::Error> {
        self.reach
            .beneath(&grant, |root| {
                let space::Filesystem { kind, reflink, quota } = space::filesystem(&root)?;
                Ok(wire::Filesystem { kind, reflink, quota })
            })
            .await
    }

    async fn capacity(&mut self, grant: String) -> Result<wire::Room, types::Error> {
        self.reach
            .beneath(&grant, |root| {
                let space::Room { total, available } = space::room(&root)?;
                Ok(wire::Room { total_bytes: total, available_bytes: available })
            })
            .await
    }

    async fn allocate(
        &mut self,
        grant: String,
        path: String,
        length: u64,
        thin: bool,
    ) -> Result<(), types::Error> {
        let paths = [path.clone(), path];
        self.reach
            .change(&grant, paths, move |_, root, [path, _]| space::allocate(root, path, length, thin))
            .await
    }

    async fn space(&mut self, grant: String, path: String) -> Result<wire::Taken, types::Error> {
        self.reach.glance(&grant, move |root| {
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
        self.reach.copy(&grant, source, to, What::File { may_copy }).await
    }

    async fn copy_tree(&mut self, grant: String, source: String, to: String) -> Result<bool, types::Error> {
        self.reach.copy(&grant, source, to, What::Tree).await
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
        self.reach
            .change(&grant, [to, by], move |_, root, [to, by]| content::assemble(root, to, by, &pieces))
            .await
    }

    async fn discard(&mut self, grant: String, path: String, by: String) -> Result<bool, types::Error> {
        let copies = Arc::clone(&self.reach.ground.copies);
        self.reach
            .change(&grant, [path, by], move |place, root, [path, by]| {
                copies.give_up(place, path);
                remove::discard(root, path, by)
            })
            .await
    }

    async fn remove_tree(&mut self, grant: String, path: String) -> Result<bool, types::Error> {
        let copies = Arc::clone(&self.reach.ground.copies);
        self.reach
            .change(&grant, [path.clone(), path], move |place, root, [path, _]| {
                copies.give_up(place, path);
                remove::tree(root, path)
            })
            .await
    }

    async fn make_directory(&mut self, grant: String, path: String) -> Result<(), types::Error> {
        self.reach.beneath(&grant, move |root| content::make_directory(root, &path)).await
    }

    async fn rename(&mut self, grant: String, source: String, to: String) -> Result<(), types::Error> {
        self.reach
            .change(&grant, [source, to], |_, root, [source, to]| content::rename(root, source, to))
            .await
    }

    async fn write(&mut self, grant: String, path: String, content: Vec<u8>) -> Result<(), types::Error> {
        let paths = [path.clone(), path];
        self.reach.change(&grant, paths, move |_, root, [path, _]| content::write(root, path, &content)).await
    }

    async fn read(&mut self, grant: String, path: String) -> Result<Option<Vec<u8>>, types::Error> {
        self.reach.glance(&grant, move |root| content::read(root, &path))
    }

    async fn names(
        &mut self,
        grant: String,
        path: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<String>, types::Error> {
        self.reach.glance(&grant, move |root| content::names(root, &path, after.as_deref(), limit))
    }

    async fn set_quota(&mut self, grant: String, path: String, limit_bytes: u64) -> Result<(), types::Error> {
        self.reach.beneath(&grant, move |root| quota::set(root, &path, limit_bytes)).await
    }
}
