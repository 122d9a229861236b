//! Volumes in a directory of the host: plain directories, or images with a filesystem of their own. This file
//! is the component's face, one line for each function of the contract; what they do is `volumes.rs`,
//! `snapshots.rs` and `extents.rs`, how a thing comes and goes `make.rs`, where it lies `layout.rs`.
//!
//! It has no filesystem of WASI's: all work on files goes through the host's interface `files`, beneath the
//! granted directory `data`.

mod api;
mod config;
mod convert;
mod error;
mod extents;
mod layout;
mod make;
mod snapshots;
#[cfg(test)]
mod tests;
mod volumes;

use kato_plugin_sdk as sdk;
use sdk::{
    capacity::spell,
    files::{Files, Granted},
    grow::Grown,
    health::Condition,
    identity::{Blankness, Description, Growing, Status},
    modify::Modified,
    room::Room,
    snapshot_data::Way,
    types::{
        CapacityRange, Configuration, Cutting, Error, Extent, ExtentPage, Pair, Snapshot, SnapshotPage,
        Volume, VolumePage, Which,
    },
};

use crate::{api::Folder, config::Config};

type Resume = Option<Vec<u8>>;

/// The component.
#[derive(Debug)]
struct Local;

const DATA: Folder<Granted> = Folder(Granted(convert::GRANT));

impl sdk::identity::Guest for Local {
    fn describe(configuration: Configuration) -> Result<Description, Error> {
        describe(&configuration)
    }

    fn check(configuration: Configuration) -> Result<Status, Error> {
        check(&DATA, &Config::read(&configuration)?)
    }
}

impl sdk::volumes::Guest for Local {
    fn create(
        configuration: Configuration,
        wish: sdk::volumes::Wish,
        resume: Resume,
    ) -> Result<sdk::volumes::Created, Error> {
        volumes::create(&DATA, &Config::read(&configuration)?, &wish, resume.as_deref())
    }

    fn delete(_: Configuration, which: Which, _: Resume) -> Result<sdk::volumes::Deleted, Error> {
        volumes::delete(&DATA, &which)
    }

    fn inspect(_: Configuration, which: Vec<Which>) -> Result<Vec<Option<Volume>>, Error> {
        volumes::inspect(&DATA, &which)
    }

    fn list(_: Configuration, page: Option<String>) -> Result<VolumePage, Error> {
        volumes::list(&DATA, page.as_deref())
    }

    fn remark(_: Configuration, which: Which, mark: String) -> Result<(), Error> {
        volumes::remark(&DATA, &which, &mark)
    }
}

impl sdk::grow::Guest for Local {
    fn grow(
        configuration: Configuration,
        which: Which,
        size: CapacityRange,
        _: Resume,
    ) -> Result<Grown, Error> {
        volumes::grow(&DATA, &Config::read(&configuration)?, &which, &size)
    }
}

impl sdk::snapshots::Guest for Local {
    fn how(configuration: Configuration, volume: Which) -> Result<Cutting, Error> {
        volumes::how(&DATA, &Config::read(&configuration)?, &volume)
    }

    fn cut(
        configuration: Configuration,
        wish: sdk::snapshots::Wish,
        resume: Resume,
    ) -> Result<sdk::snapshots::CutAnswer, Error> {
        snapshots::cut(&DATA, &Config::read(&configuration)?, &wish, resume.as_deref())
    }

    fn delete(_: Configuration, which: Which, _: Resume) -> Result<sdk::snapshots::Deleting, Error> {
        snapshots::delete(&DATA, &which)
    }

    fn inspect(_: Configuration, which: Vec<Which>) -> Result<Vec<Option<Snapshot>>, Error> {
        snapshots::inspect(&DATA, &which)
    }

    fn list(_: Configuration, page: Option<String>) -> Result<SnapshotPage, Error> {
        snapshots::list(&DATA, page.as_deref())
    }
}

impl sdk::extents::Guest for Local {
    fn allocated(_: Configuration, snapshot: Which, from: u64) -> Result<ExtentPage, Error> {
        extents::allocated(&DATA, &snapshot, from)
    }

    fn changed(_: Configuration, base: Which, snapshot: Which, from: u64) -> Result<ExtentPage, Error> {
        extents::changed(&DATA, &base, &snapshot, from)
    }
}

impl sdk::snapshot_data::Guest for Local {
    fn reach(_: Configuration, snapshot: Which) -> Result<Way, Error> {
        extents::reach(&DATA, &snapshot)
    }

    fn read(_: Configuration, _: Which, _: Vec<Extent>) -> Result<(), Error> {
        Err(Error::unsupported("a node reads snapshots of images by itself"))
    }
}

impl sdk::clone::Guest for Local {
    fn how(configuration: Configuration, source: Which) -> Result<Cutting, Error> {
        volumes::how(&DATA, &Config::read(&configuration)?, &source)
    }
}

impl sdk::modify::Guest for Local {
    fn modify(_: Configuration, which: Which, parameters: Vec<Pair>, _: Resume) -> Result<Modified, Error> {
        volumes::modify(&DATA, &which, &parameters)
    }
}

impl sdk::health::Guest for Local {
    fn health(_: Configuration, which: Vec<Which>) -> Result<Vec<Condition>, Error> {
        volumes::health(&DATA, &which)
    }
}

impl sdk::room::Guest for Local {
    fn capacity(configuration: Configuration, parameters: Vec<Pair>, _: Vec<Pair>) -> Result<Room, Error> {
        volumes::room(&DATA, &Config::read(&configuration)?, &parameters)
    }
}

sdk::export!(Local with grow, snapshots, extents, snapshot_data, clone, modify, health, capacity);

fn describe(configuration: &Configuration) -> Result<Description, Error> {
    Config::read(configuration)?;
    Ok(Description {
        name: env!("CARGO_PKG_NAME").trim_start_matches("kato-plugin-").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "Directories and images in a directory of the host".into(),
        min_size_bytes: convert::MIN_SIZE,
        max_size_bytes: 0,
        size_step_bytes: convert::STEP,
        // The host may finish a call on files whose component was stopped at its deadline.
        settle_ms: 30_000,
        blank: Blankness::Zeroes,
        parameters: config::parameters(),
        grow: Some(Growing::Online),
        snapshots: true,
        clone: true,
        snapshot_needs_volume: false,
        clone_needs_source: false,
    })
}

fn check<F: Files>(folder: &Folder<F>, config: &Config) -> Result<Status, Error> {
    let filesystem = folder.0.traits().map_err(error::at("looking at the data folder"))?;
    if let Some(wanted) = config.filesystem.filter(|wanted| *wanted != filesystem.kind) {
        return Err(Error::unavailable(format!(
            "the data folder lies on {}, and the configuration says filesystem = {wanted}: it is probably not mounted",
            filesystem.kind
        )));
    }
    let note = if filesystem.reflink {
        String::new()
    } else {
        format!(
            "the data folder lies on {}, which cannot share blocks: snapshots and clones of images are copies, of at \
             most {}",
            filesystem.kind,
            spell(config.copy_limit)
        )
    };
    Ok(Status { fingerprint: folder.fingerprint()?, note })
}
