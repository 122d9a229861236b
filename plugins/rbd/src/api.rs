//! The granted command lines, as calls. Every look is one command and its answer as a value; every change is one
//! command, whose caller says which numbers it expects besides success.
//!
//! That something is absent is a claim to be proven: `rbd` ends with 2 as well where its key, the pool or the namespace
//! is missing. So the first 2 of a call is believed only once some command about this pool has succeeded, if need be
//! one that lists it. A change that came too late asks how full the pools are, because a full pool does not refuse a
//! write: it keeps it waiting.

use std::cell::Cell;

use kato_plugin_sdk::{
    commands::Commands,
    types::{Error, ErrorKind},
};
use serde_json::Value;

use crate::{
    answers::{self, Claims, Cut, Fill, Image, Listed, Map, Trashed},
    config::Config,
    error::{self, ABSENT, Ended, HOLDS_SNAPSHOTS, LATE, THERE, WATCHED},
    marks::Marks,
    names::Token,
};

type Holes<'a> = &'a [(&'a str, &'a str)];

/// The granted pool, for one call of the host's.
#[derive(Debug)]
pub(crate) struct Pool<C> {
    commands: C,
    pub(crate) config: Config,
    /// Whether the pool answered in this call.
    proven: Cell<bool>,
}

impl<C: Commands> Pool<C> {
    pub(crate) fn new(commands: C, config: Config) -> Self {
        Self { commands, config, proven: Cell::new(false) }
    }

    /// Runs a command. What it says of absence is proven.
    pub(crate) fn run(&self, command: &'static str, holes: Holes<'_>) -> Result<Ended, Error> {
        let ended = Ended::of(command, self.commands.run(command, holes)?);
        if command.starts_with("rbd-") {
            match ended.errno {
                0 | WATCHED | THERE | HOLDS_SNAPSHOTS => self.proven.set(true),
                ABSENT if !self.proven.get() => self.prove()?,
                _ => {}
            }
        }
        Ok(ended)
    }

    /// Answers only if the pool does.
    pub(crate) fn prove(&self) -> Result<(), Error> {
        let ended = Ended::of("rbd-list", self.commands.run("rbd-list", &[])?);
        match ended.errno {
            0 => {
                self.proven.set(true);
                Ok(())
            }
            ABSENT => {
                let mut error = ended.error(&format!(
                    "the pool {} cannot be looked into: it, its namespace, or the file with the user's key is not there",
                    self.place()
                ));
                error.kind = ErrorKind::Unavailable;
                Err(error)
            }
            _ => Err(ended.error(&format!("looking into the pool {}", self.place()))),
        }
    }

    /// The pool, with its namespace.
    pub(crate) fn place(&self) -> String {
        let Config { pool, namespace, .. } = &self.config;
        if namespace.is_empty() { pool.clone() } else { format!("{pool}/{namespace}") }
    }

    /// Asks for something that can be absent.
    fn look<T>(
        &self,
        command: &'static str,
        holes: Holes<'_>,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let ended = self.run(command, holes)?;
        match ended.errno {
            0 => {
                // `ceph osd blocklist ls` says a second value, which is empty.
                let mut values = serde_json::Deserializer::from_str(&ended.stdout).into_iter::<Value>();
                let found = values.next().and_then(Result::ok).as_ref().and_then(read);
                found.map(Some).ok_or_else(|| error::unread(command, &ended.stdout))
            }
            ABSENT => Ok(None),
            _ => Err(ended.error(&format!("looking into the pool {} ({command})", self.place()))),
        }
    }

    /// Asks for something that is always there.
    fn ask<T>(&self, command: &'static str, read: impl FnOnce(&Value) -> Option<T>) -> Result<T, Error> {
        self.look(command, &[], read)?
            .ok_or_else(|| Error::unavailable(format!("the cluster does not know what {command} asks for")))
    }

    pub(crate) fn image(&self, name: &str) -> Result<Option<Image>, Error> {
        self.look("rbd-info", &[("image", name)], answers::image)
    }

    /// The image with this id, in the trash or not.
    pub(crate) fn image_by_id(&self, id: &str) -> Result<Option<Image>, Error> {
        self.look("rbd-info-by-id", &[("id", id)], answers::image)
    }

    pub(crate) fn marks(&self, name: &str) -> Result<Option<Marks>, Error> {
        let ended = self.run("rbd-marks", &[("image", name)])?;
        match ended.errno {
            0 if ended.stdout.trim().is_empty() => Ok(Some(Marks::default())),
            0 => {
                let value = serde_json::from_str(&ended.stdout).ok();
                let marks = value.as_ref().and_then(answers::marks);
                marks.map(Some).ok_or_else(|| error::unread("rbd-marks", &ended.stdout))
            }
            ABSENT => Ok(None),
            _ => Err(ended.error(&format!("reading what is written on the image {name}"))),
        }
    }

    /// The same of an image in the trash.
    pub(crate) fn marks_by_id(&self, id: &str) -> Result<Option<Marks>, Error> {
        let ended = self.run("rbd-marks-by-id", &[("id", id)])?;
        match ended.errno {
            0 => Ok(Some(answers::dumped_marks(&ended.stdout))),
            ABSENT => Ok(None),
            _ => Err(ended.error(&format!("reading what is written on the image with the id {id}"))),
        }
    }

    /// The names of all images, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = self.ask("rbd-list", answers::names)?;
        names.sort_unstable();
        Ok(names)
    }

    /// All images and their snapshots. It opens each of them.
    pub(crate) fn all(&self) -> Result<Vec<Listed>, Error> {
        self.ask("rbd-list-all", answers::all)
    }

    /// The images in the trash, sorted by id.
    pub(crate) fn trash(&self) -> Result<Vec<Trashed>, Error> {
        let mut trash = self.ask("rbd-trash-list", answers::trash)?;
        trash.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        Ok(trash)
    }

    /// The snapshots of the image with this id, in the trash or not; those that were deleted are among them while
    /// clones need them.
    pub(crate) fn cuts(&self, id: &str) -> Result<Option<Vec<Cut>>, Error> {
        self.look("rbd-snapshots-by-id", &[("id", id)], answers::cuts)
    }

    pub(crate) fn watchers(&self, name: &str) -> Result<Option<Vec<String>>, Error> {
        self.look("rbd-status", &[("image", name)], answers::watchers)
    }

    pub(crate) fn claims(&self, name: &str) -> Result<Option<Claims>, Error> {
        self.look("rbd-claims", &[("image", name)], answers::claims)
    }

    /// The addresses that images are opened from by the cluster itself.
    pub(crate) fn mgr_clients(&self) -> Result<Vec<String>, Error> {
        self.ask("ceph-mgr", answers::mgr_clients)
    }

    /// Who is kept out of the cluster, and until when.
    pub(crate) fn blocklisted(&self) -> Result<Vec<(String, String)>, Error> {
        self.ask("ceph-blocklisted", answers::blocklisted)
    }

    /// Which cluster this is, and its pools by name.
    pub(crate) fn map(&self) -> Result<Map, Error> {
        self.ask("ceph-map", answers::map)
    }

    /// How full a pool is; nothing where the cluster has none of this name.
    pub(crate) fn fill(&self, pool: &str) -> Result<Option<Fill>, Error> {
        self.ask("ceph-df", |value| answers::fill(value, pool))
    }

    /// Changes something. The answer is zero, or one of the numbers that are fine as well.
    pub(crate) fn change(
        &self,
        command: &'static str,
        holes: Holes<'_>,
        fine: &[i32],
        doing: &str,
    ) -> Result<i32, Error> {
        let ended = self.run(command, holes)?;
        if ended.errno == 0 || fine.contains(&ended.errno) {
            return Ok(ended.errno);
        }
        let error = ended.error(doing);
        Err(if ended.errno == LATE { self.why_late(error) } else { error })
    }

    /// A change that came too late, if the reason is that a pool is full.
    fn why_late(&self, late: Error) -> Error {
        for pool in self.config.pools() {
            if let Ok(Some(fill)) = self.fill(pool)
                && fill.available == 0
            {
                let message = format!(
                    "{}; the pool {pool} is full, or its quota is used up: delete something, add storage, or raise the \
                     quota",
                    late.message
                );
                return Error::exhausted(message).detail(late.detail);
            }
        }
        late
    }

    /// Removes an image, or the rest of one; true where it was there.
    pub(crate) fn remove(&self, name: &str, doing: &str) -> Result<bool, Error> {
        Ok(self.change("rbd-remove", &[("image", name)], &[ABSENT], doing)? == 0)
    }

    pub(crate) fn note(&self, token: &Token, days: u64) -> Result<(), Error> {
        let holes = [("image", token.as_str()), ("days", &days.to_string())];
        self.change("rbd-note", &holes, &[], &format!("noting how long the volume {token} is kept")).map(drop)
    }

    pub(crate) fn mark(&self, token: &Token, mark: &str) -> Result<i32, Error> {
        let holes = [("image", token.as_str()), ("mark", mark)];
        self.change("rbd-mark", &holes, &[ABSENT], &format!("marking the volume {token}"))
    }

    pub(crate) fn resize(&self, token: &Token, size: u64) -> Result<(), Error> {
        let holes = [("image", token.as_str()), ("size", &size.to_string())];
        let doing = format!("growing the volume {token}");
        // Another size is refused as well as the same one: who grew it meanwhile is seen at the next look.
        let refused = self.change("rbd-resize", &holes, &[error::INVALID], &doing)? != 0;
        if refused && self.image(token.as_str())?.is_none_or(|image| image.size < size) {
            return Err(Error::internal(format!("{doing}: the image cannot be made {size} bytes large")));
        }
        Ok(())
    }
}
