//! Where the images of snapshots hold data, and where they differ. The host looks; here is decided of which files.

use kato_plugin_sdk::{
    files::Files,
    snapshot_data::Way,
    types::{Beneath, Connection, Error, ExtentPage, Which},
};

use crate::{
    api::{Folder, Thing},
    convert, error,
    layout::{Kind, Shelf},
};

/// How a node comes to the bytes.
pub(crate) fn reach<F: Files>(folder: &Folder<F>, snapshot: &Which) -> Result<Way, Error> {
    let thing = image(folder, snapshot)?;
    let path = thing.place.content(Kind::Image);
    Ok(Way::Node(Connection::File(Beneath { grant: convert::GRANT.into(), path })))
}

/// Where a snapshot holds data.
pub(crate) fn allocated<F: Files>(
    folder: &Folder<F>,
    snapshot: &Which,
    from: u64,
) -> Result<ExtentPage, Error> {
    let thing = image(folder, snapshot)?;
    within(&thing, from)?;
    let page = folder.0.extents(&thing.place.content(Kind::Image), from);
    page.map_err(error::at(format!("looking where the snapshot {} holds data", thing.place.token)))
}

/// Where a snapshot differs from another one of the same volume.
pub(crate) fn changed<F: Files>(
    folder: &Folder<F>,
    base: &Which,
    snapshot: &Which,
    from: u64,
) -> Result<ExtentPage, Error> {
    let (base, thing) = (image(folder, base)?, image(folder, snapshot)?);
    match (&base.meta.source, &thing.meta.source) {
        (Some(one), Some(other)) if one == other => {}
        (Some(one), Some(other)) => {
            return Err(Error::invalid(format!(
                "the snapshots are of two volumes, {one} and {other}: name two of one volume"
            )));
        }
        (None, _) => return Err(error::broken(&base.place, "nothing tells of which volume it is")),
        (_, None) => return Err(error::broken(&thing.place, "nothing tells of which volume it is")),
    }
    within(&thing, from)?;
    let (old, new) = (base.place.content(Kind::Image), thing.place.content(Kind::Image));
    let page = folder.0.differences(&old, &new, from);
    page.map_err(error::at(format!("comparing the snapshots {} and {}", base.place.token, thing.place.token)))
}

/// The snapshot that is meant, which has to be an image and all there.
fn image<F: Files>(folder: &Folder<F>, which: &Which) -> Result<Thing, Error> {
    let thing = folder.get(Shelf::Snapshots, which)?;
    if thing.meta.kind == Kind::Directory {
        return Err(Error::unsupported(format!(
            "the snapshot {} is one of a directory, and only images have blocks: copy its files",
            thing.place.token
        )));
    }
    thing.whole()?;
    Ok(thing)
}

fn within(thing: &Thing, from: u64) -> Result<(), Error> {
    if from <= thing.size() {
        return Ok(());
    }
    Err(Error::out_of_range(format!(
        "the snapshot {} is {} bytes long, and {from} lies beyond",
        thing.place.token,
        thing.size()
    )))
}
