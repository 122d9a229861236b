//! Between the contract's words and what lies in the data folder.

use kato_plugin_sdk::{
    capacity::{self, Limits, spell},
    health::Condition,
    types::{Beneath, CapacityRange, Connection, Error, Snapshot, Volume},
};

use crate::{
    api::Thing,
    config::{Config, Parameters},
    error,
    layout::{Kind, Place, Shelf},
};

/// The grant that holds everything.
pub(crate) const GRANT: &str = "data";
/// The smallest image.
pub(crate) const MIN_SIZE: u64 = 1 << 20;
/// Sizes are multiples of this.
pub(crate) const STEP: u64 = 4096;

/// What a new volume is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    /// Zero for a directory without a limit.
    pub(crate) size: u64,
    pub(crate) thin: bool,
}

/// Decides what a volume is to be that is made from nothing, or from this.
pub(crate) fn shape(
    config: &Config,
    parameters: Parameters,
    asked: &CapacityRange,
    source: Option<&Thing>,
) -> Result<Shape, Error> {
    let kind = kind(parameters, asked, source)?;
    let limits = Limits { min: MIN_SIZE, max: None, step: STEP, default: config.default_size };
    let least = source.map_or(0, Thing::size);
    if kind == Kind::Directory && !capacity::asked(asked) && least == 0 {
        return Ok(Shape { kind, size: 0, thin: false });
    }
    let range = CapacityRange { required_bytes: asked.required_bytes.max(least), ..*asked };
    if let Some(limit) = range.limit_bytes.filter(|limit| *limit < least) {
        return Err(Error::out_of_range(format!(
            "a copy is at least as large as its source, {}, and {} is the limit that was given",
            spell(least),
            spell(limit)
        )));
    }
    Ok(Shape { kind, size: limits.choose(&range)?, thin: parameters.thin })
}

fn kind(parameters: Parameters, asked: &CapacityRange, source: Option<&Thing>) -> Result<Kind, Error> {
    match (source.map(|source| source.meta.kind), parameters.kind) {
        (None, Some(kind)) => Ok(kind),
        (None, None) if capacity::asked(asked) || parameters.thin => Ok(Kind::Image),
        (None, None) => Ok(Kind::Directory),
        (Some(source), Some(kind)) if source != kind => Err(Error::invalid(format!(
            "a copy of one kind cannot be of another: the source is a {}, and kind={} was asked for",
            source.word(),
            kind.word()
        ))),
        (Some(Kind::Directory), _) if parameters.thin => {
            Err(Error::invalid("the source is a directory, and thin is for images: leave thin out"))
        }
        (Some(kind), _) => Ok(kind),
    }
}

/// Whether the volume that is there is what is wished for.
pub(crate) fn satisfies(
    thing: &Thing,
    parameters: Parameters,
    asked: &CapacityRange,
    source: Option<&str>,
) -> Result<(), Error> {
    let other = |why: &str| Err(error::other_wish(&thing.place, why));
    if thing.damaged {
        return Err(error::broken(&thing.place, "its description (meta) cannot be read"));
    }
    if thing.meta.source.as_deref() != source {
        return other("it has another source");
    }
    let kind = match (parameters.kind, source) {
        (Some(kind), _) => Some(kind),
        (None, Some(_)) => None,
        (None, None) => Some(kind(parameters, asked, None)?),
    };
    if kind.is_some_and(|kind| kind != thing.meta.kind) {
        return other(&format!("it is of kind={}", thing.meta.kind.word()));
    }
    if parameters.thin != thing.meta.thin {
        return other(&format!("it has thin={}", thing.meta.thin));
    }
    if !capacity::admits(asked, thing.size()) {
        return other(&format!("its size is {}", spell(thing.size())));
    }
    Ok(())
}

/// A volume, as the host sees it.
pub(crate) fn volume(thing: &Thing) -> Volume {
    let (kind, place) = (thing.meta.kind, &thing.place);
    let beneath = Beneath { grant: GRANT.into(), path: place.content(kind) };
    Volume {
        handle: place.handle(kind),
        size_bytes: thing.size(),
        mark: thing.mark.clone(),
        token: Some(place.token.to_string()),
        connection: Some(match kind {
            Kind::Directory => Connection::Directory(beneath),
            Kind::Image => Connection::File(beneath),
        }),
        attached: None,
        topology: Vec::new(),
        parameters: None,
    }
}

/// What we call the volume that a snapshot is of: it is of the snapshot's own kind.
fn volume_handle(source: &str, kind: Kind) -> Option<String> {
    let token = source.strip_prefix(Shelf::Volumes.one())?.strip_prefix('/')?;
    Place::new(Shelf::Volumes, token).ok().map(|place| place.handle(kind))
}

/// A snapshot, as the host sees it.
pub(crate) fn snapshot(thing: &Thing) -> Snapshot {
    Snapshot {
        handle: thing.place.handle(thing.meta.kind),
        volume: thing.meta.source.as_deref().and_then(|source| volume_handle(source, thing.meta.kind)),
        size_bytes: thing.size(),
        cut_ms: None,
        ready: true,
        mark: thing.mark.clone(),
        token: Some(thing.place.token.to_string()),
    }
}

/// How a volume feels: what is there of it (`names`), and what is free in the folder.
pub(crate) fn condition(thing: Option<&Thing>, names: &[String], available: u64) -> Condition {
    let told = |reason: &str, message: String, severe| Condition { reason: reason.into(), message, severe };
    let Some(thing) = thing else {
        return told("VolumeMissing", "the data folder holds no such volume".into(), true);
    };
    let path = thing.place.content(thing.meta.kind);
    let (length, taken) = thing.image.unwrap_or_default();
    match thing.meta.kind {
        Kind::Directory if !names.iter().any(|name| name == Kind::Directory.content()) => told(
            "DirectoryMissing",
            format!("{path} is gone from the data folder: restore it from a backup"),
            true,
        ),
        Kind::Image if thing.image.is_none() => told(
            "ImageMissing",
            format!("{path} is gone from the data folder: restore it from a backup"),
            true,
        ),
        Kind::Image if length < thing.meta.size => told(
            "ImageShort",
            format!(
                "{path} is {} long and was {}: do not write to it, restore it from a backup",
                spell(length),
                spell(thing.meta.size)
            ),
            true,
        ),
        _ if thing.damaged => told(
            "DescriptionDamaged",
            format!(
                "{} cannot be read; the volume works, but its size and source are not known",
                thing.place.meta()
            ),
            false,
        ),
        Kind::Image if length.saturating_sub(taken) > available => told(
            "RoomShort",
            format!(
                "the volume may still take {}, and the data folder has only {} free: make room before it is full",
                spell(length.saturating_sub(taken)),
                spell(available)
            ),
            false,
        ),
        _ => told("", String::new(), false),
    }
}

/// A mark that can be kept.
pub(crate) fn mark(place: &Place, mark: &str) -> Result<(), Error> {
    if mark.len() <= 200 && mark.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the mark of the {} {} has to be printable ASCII of at most 200 bytes",
        place.shelf.one(),
        place.token
    )))
}

/// How much an image may still take of the folder: an allocated one what is free and not promised, a thin one
/// what the overcommit leaves.
pub(crate) fn available(config: &Config, room: (kato_plugin_sdk::files::Room, u64), thin: bool) -> u64 {
    let (room, promised) = room;
    if !thin {
        return room.available_bytes.saturating_sub(promised);
    }
    let most = u128::from(room.total_bytes) * u128::from(config.overcommit) / 100;
    let taken = room.total_bytes.saturating_sub(room.available_bytes).saturating_add(promised);
    u64::try_from(most.saturating_sub(u128::from(taken))).unwrap_or(u64::MAX)
}
