//! The operations on volumes. Each begins by looking what is there, because each may be a repetition.

use kato_plugin_sdk::{
    capacity::spell,
    files::Files,
    grow::Grown,
    health::Condition,
    modify::Modified,
    room::Room,
    types::{CapacityRange, Cutting, Error, Pair, Volume, VolumePage, Which},
    volumes::{Created, Deleted, Origin, Wish},
};

use crate::{
    api::{Folder, Thing},
    config::{self, Config, Parameters},
    convert::{self, STEP, Shape},
    error,
    layout::{Kind, Meta, Place, Shelf},
    make::{self, New, Progress},
};

/// Makes a volume.
pub(crate) fn create<F: Files>(
    folder: &Folder<F>,
    config: &Config,
    wish: &Wish,
    resume: Option<&[u8]>,
) -> Result<Created, Error> {
    let place = Place::new(Shelf::Volumes, &wish.token)?;
    convert::mark(&place, &wish.mark)?;
    let parameters = Parameters::read(&wish.parameters)?;
    let origin = match &wish.source {
        None => None,
        Some(Origin::Snapshot(which)) => Some((Shelf::Snapshots, which)),
        Some(Origin::Volume(which)) => Some((Shelf::Volumes, which)),
    };
    let from = origin
        .map(|(shelf, which)| Place::of(shelf, which).map(|place| format!("{}/{}", shelf.one(), place.token)))
        .transpose()?;

    folder.known()?;
    if let Some(thing) = folder.find(&place)? {
        convert::satisfies(&thing, parameters, &wish.size, from.as_deref())?;
        return Ok(match make::settle(folder, &place, resume)? {
            Progress::Done => Created::Done(convert::volume(&thing)),
            Progress::Pending(pending) => Created::Pending(pending),
        });
    }
    let made = make::attempt(folder, &place, resume, |attempt| {
        let source = origin.map(|(shelf, which)| folder.get(shelf, which)).transpose()?;
        let shape = convert::shape(config, parameters, &wish.size, source.as_ref())?;
        let may_copy = possible(folder, config, shape, source.as_ref())?;
        let meta = Meta {
            kind: shape.kind,
            size: shape.size,
            thin: shape.thin,
            source: from.clone(),
            name: wish.name.clone(),
        };
        let source = source.as_ref();
        make::make(
            folder,
            &New { place: &place, meta: &meta, mark: &wish.mark, source, may_copy, allocated: !shape.thin },
            attempt,
        )
    });
    match made? {
        Progress::Pending(pending) => Ok(Created::Pending(pending)),
        Progress::Done => {
            let thing = folder
                .find(&place)?
                .ok_or_else(|| Error::busy("the volume was deleted while it was made"))?;
            convert::satisfies(&thing, parameters, &wish.size, from.as_deref())?;
            Ok(Created::Done(convert::volume(&thing)))
        }
    }
}

/// Refuses what cannot be made here, with the reason. Answers whether its source may be copied where its blocks
/// cannot be shared.
fn possible<F: Files>(
    folder: &Folder<F>,
    config: &Config,
    shape: Shape,
    source: Option<&Thing>,
) -> Result<bool, Error> {
    let mut may_copy = true;
    if let Some(source) = source {
        source.whole()?;
        // A snapshot is copied whatever it takes: whoever could cut it must be able to use it.
        if source.place.shelf == Shelf::Volumes {
            may_copy = holding(folder, config, source)? != Cutting::Instant;
        }
    }
    match shape.kind {
        Kind::Directory if shape.size > 0 => limitable(folder),
        Kind::Directory => Ok(()),
        Kind::Image => {
            fits(folder, config, shape.size.saturating_sub(source.map_or(0, Thing::size)), shape.thin)
        }
    }
    .map(|()| may_copy)
}

/// Deletes a volume, and whatever was half-made under its token.
pub(crate) fn delete<F: Files>(folder: &Folder<F>, which: &Which) -> Result<Deleted, Error> {
    let place = Place::of(Shelf::Volumes, which)?;
    folder.known()?;
    match make::remove(folder, &place)? {
        Progress::Done => Ok(Deleted::Done),
        Progress::Pending(pending) => Ok(Deleted::Pending(pending)),
    }
}

/// Looks at volumes.
pub(crate) fn inspect<F: Files>(folder: &Folder<F>, which: &[Which]) -> Result<Vec<Option<Volume>>, Error> {
    let things = folder.inspect(Shelf::Volumes, which)?;
    Ok(things.iter().map(|thing| thing.as_ref().map(convert::volume)).collect())
}

/// A page of all volumes.
pub(crate) fn list<F: Files>(folder: &Folder<F>, page: Option<&str>) -> Result<VolumePage, Error> {
    let (things, next) = folder.list(Shelf::Volumes, page)?;
    Ok(VolumePage { items: things.iter().map(convert::volume).collect(), next })
}

/// Writes a new mark.
pub(crate) fn remark<F: Files>(folder: &Folder<F>, which: &Which, mark: &str) -> Result<(), Error> {
    let place = Place::of(Shelf::Volumes, which)?;
    convert::mark(&place, mark)?;
    let thing = folder.get(Shelf::Volumes, which)?;
    if thing.mark == mark {
        return Ok(());
    }
    folder.0.write(&place.mark(), mark.as_bytes()).map_err(error::at("marking the volume"))
}

/// Makes a volume larger; the answer is its size then.
pub(crate) fn grow<F: Files>(
    folder: &Folder<F>,
    config: &Config,
    which: &Which,
    asked: &CapacityRange,
) -> Result<Grown, Error> {
    let thing = folder.get(Shelf::Volumes, which)?;
    let (place, old) = (&thing.place, thing.size());
    thing.whole()?;
    if thing.damaged {
        return Err(error::broken(place, "its description (meta) cannot be read"));
    }
    if old == 0 {
        return Err(Error::precondition(format!(
            "the volume {} is a directory without a size: there is nothing to grow",
            place.token
        )));
    }
    let size = if asked.required_bytes <= old {
        old
    } else {
        asked.required_bytes.checked_next_multiple_of(STEP).unwrap_or(u64::MAX)
    };
    if let Some(limit) = asked.limit_bytes.filter(|limit| size > *limit) {
        return Err(Error::out_of_range(format!(
            "the volume {} would be {} large, and {} is the limit that was given",
            place.token,
            spell(size),
            spell(limit)
        )));
    }
    if size > old {
        match thing.meta.kind {
            Kind::Image => {
                fits(folder, config, size - old, thing.meta.thin)?;
                let image = place.content(Kind::Image);
                folder.0.allocate(&image, size, thing.meta.thin).map_err(error::at("growing the image"))?;
            }
            Kind::Directory => {
                limitable(folder)?;
                let tree = place.content(Kind::Directory);
                folder.0.set_quota(&tree, size).map_err(error::at("growing the directory"))?;
            }
        }
    }
    // Also where the image grew in an earlier call that was cut off before it came to this.
    if size > thing.meta.size {
        let meta = Meta { size, ..thing.meta.clone() };
        folder.0.write(&place.meta(), &meta.encode()).map_err(error::at("noting the new size"))?;
    }
    Ok(Grown::Done(size))
}

/// Makes an image thin, or gives it all its blocks, while it is used as well.
pub(crate) fn modify<F: Files>(
    folder: &Folder<F>,
    which: &Which,
    parameters: &[Pair],
) -> Result<Modified, Error> {
    let wanted = config::thin(parameters)?;
    let thing = folder.get(Shelf::Volumes, which)?;
    let place = &thing.place;
    let Some(thin) = wanted else { return Ok(Modified::Done) };
    thing.whole()?;
    if thing.damaged {
        return Err(error::broken(place, "its description (meta) cannot be read"));
    }
    if thing.meta.kind == Kind::Directory {
        return Err(Error::invalid(format!(
            "the volume {} is a directory, and thin is for images: it takes what is written into it anyway",
            place.token
        )));
    }
    // Also where it is called so already: a trim may have made holes in it.
    if !thin {
        let (length, taken) = thing.image.unwrap_or_default();
        let (room, promised) = folder.room()?;
        let holes = length.saturating_sub(taken);
        if room.available_bytes < promised.max(holes) {
            return Err(Error::exhausted(format!(
                "the volume {} would take {} more at once, and of the {} that are free {} are promised to thin volumes: \
                 delete something, or enlarge the data folder",
                place.token,
                spell(holes),
                spell(room.available_bytes),
                spell(promised)
            )));
        }
        let image = place.content(Kind::Image);
        folder.0.allocate(&image, thing.size(), false).map_err(error::at("allocating the image"))?;
    }
    if thing.meta.thin != thin {
        let meta = Meta { thin, ..thing.meta.clone() };
        folder.0.write(&place.meta(), &meta.encode()).map_err(error::at("noting that it is thin or not"))?;
    }
    Ok(Modified::Done)
}

/// How a volume has to be held while it is copied.
pub(crate) fn how<F: Files>(folder: &Folder<F>, config: &Config, which: &Which) -> Result<Cutting, Error> {
    let thing = folder.get(Shelf::Volumes, which)?;
    thing.whole()?;
    holding(folder, config, &thing)
}

/// The same of a volume that was found; one that cannot be copied is refused with the reason.
pub(crate) fn holding<F: Files>(
    folder: &Folder<F>,
    config: &Config,
    thing: &Thing,
) -> Result<Cutting, Error> {
    if thing.meta.kind == Kind::Directory {
        return Ok(Cutting::Unmounted);
    }
    let filesystem = folder.0.traits().map_err(error::at("looking at the data folder"))?;
    if filesystem.reflink {
        return Ok(Cutting::Instant);
    }
    if thing.size() <= config.copy_limit {
        return Ok(Cutting::Copy);
    }
    Err(Error::precondition(format!(
        "the volume {} is {} large, and the data folder lies on {}, which cannot share blocks: up to {} are copied; \
         raise copy-limit, or use a data folder on xfs or btrfs",
        thing.place.token,
        spell(thing.size()),
        filesystem.kind,
        spell(config.copy_limit)
    )))
}

/// How volumes feel.
pub(crate) fn health<F: Files>(folder: &Folder<F>, which: &[Which]) -> Result<Vec<Condition>, Error> {
    let things = folder.inspect(Shelf::Volumes, which)?;
    let room = folder.0.capacity().map_err(error::at("asking how full the data folder is"))?;
    things
        .iter()
        .map(|thing| {
            let names = match thing {
                Some(thing) => {
                    folder.0.names(&thing.place.path(), None, 10).map_err(error::at("looking at a volume"))?
                }
                None => Vec::new(),
            };
            Ok(convert::condition(thing.as_ref(), &names, room.available_bytes))
        })
        .collect()
}

/// How much room there is for volumes with these parameters.
pub(crate) fn room<F: Files>(
    folder: &Folder<F>,
    config: &Config,
    parameters: &[Pair],
) -> Result<Room, Error> {
    let parameters = Parameters::read(parameters)?;
    folder.known()?;
    let room = folder.room()?;
    let total_bytes = Some(room.0.total_bytes);
    let available_bytes = convert::available(config, room, parameters.thin);
    Ok(Room { available_bytes, total_bytes })
}

/// Refuses an image for which there is no room, or for which others were promised the room.
fn fits<F: Files>(folder: &Folder<F>, config: &Config, extra: u64, thin: bool) -> Result<(), Error> {
    let room = folder.room()?;
    let promised = room.1;
    let available = convert::available(config, room, thin);
    if extra <= available {
        return Ok(());
    }
    Err(Error::exhausted(format!(
        "{} more are asked for, and the data folder has room for {} ({} of it are promised to thin volumes): delete \
         something, enlarge it{}",
        spell(extra),
        spell(available),
        spell(promised),
        if thin { ", or raise overcommit" } else { ", or ask for thin=true" }
    )))
}

/// Refuses a size for a directory where directories cannot be limited.
fn limitable<F: Files>(folder: &Folder<F>) -> Result<(), Error> {
    let filesystem = folder.0.traits().map_err(error::at("looking at the data folder"))?;
    if filesystem.quota {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a directory cannot be limited to a size here: the data folder lies on {} without project quotas; ask for \
         kind=image, leave the size out, or mount the data folder with prjquota",
        filesystem.kind
    )))
}
