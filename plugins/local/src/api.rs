//! The data folder: what is there, and whether it is the folder that we know. Every look answers "nothing"
//! only when it has seen the marker as well, for behind an unmounted data folder everything seems absent. How
//! things are made and removed is `make.rs`.

use std::hash::{BuildHasher, RandomState};

use kato_plugin_sdk::{
    files::{Files, Room},
    types::{Error, ErrorKind, Which},
};

use crate::{
    error,
    layout::{COMING, Kind, MARKER, Meta, NEW_MARKER, Place, Shelf},
};

/// How many are asked for, or listed, at once.
const PAGE: u32 = 100;

/// The data folder.
#[derive(Debug)]
pub(crate) struct Folder<F>(pub(crate) F);

/// A volume or a snapshot that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thing {
    pub(crate) place: Place,
    pub(crate) meta: Meta,
    /// Whether `meta` could not be read and what is known was seen from the outside.
    pub(crate) damaged: bool,
    pub(crate) mark: String,
    /// Of an image: how long the file is, and what it takes. Nothing for a directory, or when it is gone.
    pub(crate) image: Option<(u64, u64)>,
}

impl Thing {
    /// How large it is. An image that was cut short is still as large as it ought to be: it is broken, and not
    /// in need of growing.
    pub(crate) fn size(&self) -> u64 {
        self.meta.size.max(self.image.map_or(0, |(length, _)| length))
    }

    /// An error if its bytes are not all there.
    pub(crate) fn whole(&self) -> Result<(), Error> {
        match (self.meta.kind, self.image) {
            (Kind::Image, None) => Err(error::broken(&self.place, "its image is gone")),
            (Kind::Image, Some((length, _))) if length < self.meta.size => {
                Err(error::broken(&self.place, "its image is shorter than it was"))
            }
            _ => Ok(()),
        }
    }
}

impl<F: Files> Folder<F> {
    /// What the folder is: made once, where there is nothing of ours.
    pub(crate) fn fingerprint(&self) -> Result<String, Error> {
        if let Some(fingerprint) = self.marker()? {
            return Ok(fingerprint);
        }
        for shelf in [Shelf::Volumes, Shelf::Snapshots] {
            if !self.0.names(shelf.path(), None, 1).map_err(error::at("looking for volumes"))?.is_empty() {
                return Err(error::marker_lost());
            }
        }
        for folder in [Shelf::Volumes.path(), Shelf::Snapshots.path(), COMING] {
            self.0.make_directory(folder).map_err(error::at("preparing the data folder"))?;
        }
        // A name of its own and a rename that replaces nothing: of two who do this at once, one wins, and both
        // read what the winner wrote.
        let text = format!("kato-local 1 {:016x}{:016x}\n", random(), random());
        self.0.write(NEW_MARKER, text.as_bytes()).map_err(error::at("writing the marker"))?;
        match self.0.rename(NEW_MARKER, MARKER) {
            Err(error) if !matches!(error.kind, ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
                Err(error::at("writing the marker")(error))
            }
            _ => self.marker()?.ok_or_else(error::no_marker),
        }
    }

    fn marker(&self) -> Result<Option<String>, Error> {
        let Some(text) = self.0.read(MARKER).map_err(error::at("reading the marker"))? else {
            return Ok(None);
        };
        let id =
            std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().strip_prefix("kato-local 1 "));
        match id {
            Some(id)
                if id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) =>
            {
                Ok(Some(format!("local/{id}")))
            }
            _ => Err(error::marker_broken()),
        }
    }

    /// An error if this is not a folder that we know.
    pub(crate) fn known(&self) -> Result<(), Error> {
        self.marker()?.map(drop).ok_or_else(error::no_marker)
    }

    /// The thing in this place; nothing if there is none, which the caller believes only of a known folder.
    pub(crate) fn find(&self, place: &Place) -> Result<Option<Thing>, Error> {
        let Some(thing) = self.look(place)? else { return Ok(None) };
        // What comes or goes while it is being looked at seems to lack a part.
        let torn = thing.damaged
            || thing.mark.is_empty()
            || (thing.meta.kind == Kind::Image && thing.image.is_none());
        if torn { self.look(place) } else { Ok(Some(thing)) }
    }

    fn look(&self, place: &Place) -> Result<Option<Thing>, Error> {
        let doing = || format!("looking at the {} {}", place.shelf.one(), place.token);
        let read = self.0.read(&place.meta()).map_err(error::at(doing()))?;
        let (meta, damaged) = match read.as_deref().and_then(Meta::decode) {
            Some(meta) => (meta, false),
            None => {
                let names = self.0.names(&place.path(), None, PAGE).map_err(error::at(doing()))?;
                let kind = [Kind::Image, Kind::Directory]
                    .into_iter()
                    .find(|kind| names.iter().any(|name| name == kind.content()));
                match kind {
                    Some(kind) => {
                        (Meta { kind, size: 0, thin: false, source: None, name: String::new() }, true)
                    }
                    None if names.is_empty() => return Ok(None),
                    None => return Err(error::in_the_way(place)),
                }
            }
        };
        let mark = self.0.read(&place.mark()).map_err(error::at(doing()))?.unwrap_or_default();
        let image = match meta.kind {
            Kind::Directory => None,
            Kind::Image => match self.0.space(&place.content(Kind::Image)) {
                Ok(taken) => Some((taken.length_bytes, taken.allocated_bytes)),
                Err(error) if error.kind == ErrorKind::NotFound => None,
                Err(error) => return Err(error::at(doing())(error)),
            },
        };
        let mark = String::from_utf8(mark).unwrap_or_default();
        Ok(Some(Thing { place: place.clone(), meta, damaged, mark, image }))
    }

    /// The thing that is meant; nothing if it is surely not there.
    pub(crate) fn find_which(&self, shelf: Shelf, which: &Which) -> Result<Option<Thing>, Error> {
        let place = Place::of(shelf, which)?;
        let Some(thing) = self.find(&place)? else {
            self.known()?;
            return Ok(None);
        };
        match &which.handle {
            Some(handle) if *handle != place.handle(thing.meta.kind) => Err(Error::precondition(format!(
                "the {} with the token {} is {}, not {handle}",
                shelf.one(),
                place.token,
                place.handle(thing.meta.kind)
            ))),
            _ => Ok(Some(thing)),
        }
    }

    /// The thing that is meant, which has to be there.
    pub(crate) fn get(&self, shelf: Shelf, which: &Which) -> Result<Thing, Error> {
        let place = Place::of(shelf, which)?;
        self.find_which(shelf, which)?.ok_or_else(|| error::not_found(&place))
    }

    /// Several things, in the order of the question.
    pub(crate) fn inspect(&self, shelf: Shelf, which: &[Which]) -> Result<Vec<Option<Thing>>, Error> {
        if which.len() > PAGE as usize {
            return Err(error::too_many(shelf, which.len()));
        }
        which.iter().map(|which| self.find_which(shelf, which)).collect()
    }

    /// A page of things in the order of their tokens, and where the next page begins. It begins after a name and
    /// not after a number, so that nothing is passed over when others are deleted meanwhile.
    pub(crate) fn list(
        &self,
        shelf: Shelf,
        page: Option<&str>,
    ) -> Result<(Vec<Thing>, Option<String>), Error> {
        let mut after =
            page.map(|page| Place::new(shelf, page).map(|place| place.token.to_string())).transpose()?;
        loop {
            let names = self
                .0
                .names(shelf.path(), after.as_deref(), PAGE)
                .map_err(error::at(format!("listing {}", shelf.path())))?;
            let full = names.len() >= PAGE as usize;
            after = names.last().cloned();
            let mut things = Vec::with_capacity(names.len());
            for name in names.iter().filter(|name| !name.starts_with('.')) {
                // Whatever else lies there is none of ours.
                if let Ok(place) = Place::new(shelf, name) {
                    things.extend(self.find(&place)?);
                }
            }
            // A page of nothing but half-made and half-gone things says nothing; those come first in the order.
            if !things.is_empty() || !full {
                self.known()?;
                return Ok((things, after.filter(|_| full)));
            }
        }
    }

    /// How full the folder is, and what thin images may still take of what is free.
    pub(crate) fn room(&self) -> Result<(Room, u64), Error> {
        let mut promised: u64 = 0;
        let mut after = None;
        loop {
            let names = self
                .0
                .names(Shelf::Volumes.path(), after.as_deref(), PAGE)
                .map_err(error::at("summing up the volumes"))?;
            for name in names.iter().filter(|name| !name.starts_with('.')) {
                let Ok(place) = Place::new(Shelf::Volumes, name) else { continue };
                match self.0.space(&place.content(Kind::Image)) {
                    Ok(taken) => promised += taken.length_bytes.saturating_sub(taken.allocated_bytes),
                    Err(error) if error.kind == ErrorKind::NotFound => {}
                    Err(error) => return Err(error::at("summing up the volumes")(error)),
                }
            }
            after = names.last().cloned();
            if names.len() < PAGE as usize {
                let room = self.0.capacity().map_err(error::at("asking how full the data folder is"))?;
                return Ok((room, promised));
            }
        }
    }
}

/// What a fresh hasher is seeded with comes from the host's random numbers: enough to tell folders and attempts
/// apart.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(MARKER)
}
