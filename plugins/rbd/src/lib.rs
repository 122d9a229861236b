//! Volumes as images in a Ceph pool. This file is the component's face, one line for each function of the contract; what
//! they do is `volumes.rs` (how one is made: `make.rs`), `snapshots.rs` and `attachments.rs`, and what goes by way of
//! the trash is `trash.rs`.
//!
//! It speaks no Ceph: it fills the holes of the command lines that the host grants with a pool (`api.rs`), and reads
//! what the programs answer (`answers.rs`). Who it is in the cluster, and in which pool, is not its to say. Names are
//! `names.rs`, and what is written on images is `marks.rs`.

mod answers;
mod api;
mod attachments;
mod clock;
mod config;
mod convert;
mod error;
mod extents;
mod make;
mod marks;
mod names;
mod snapshots;
#[cfg(test)]
mod tests;
mod trash;
mod volumes;

use kato_plugin_sdk as sdk;
use sdk::{
    attachments::{Attaching, Detaching},
    commands::{Commands, Granted},
    fencing::Fenced,
    grow::Grown,
    identity::{Blankness, Description, Growing, Status},
    room::Room,
    snapshot_data::Way,
    types::{
        CapacityRange, Configuration, Cutting, Error, Extent, ExtentPage, Node, Pair, Snapshot, SnapshotPage,
        Volume, VolumePage, Which,
    },
};

use crate::{answers::Map, api::Pool, config::Config};

type Resume = Option<Vec<u8>>;

/// The component.
#[derive(Debug)]
struct Rbd;

/// The pool that is granted.
fn pool(configuration: &Configuration) -> Result<Pool<Granted>, Error> {
    Ok(Pool::new(Granted, Config::granted(configuration)?))
}

impl sdk::identity::Guest for Rbd {
    fn describe(configuration: Configuration) -> Result<Description, Error> {
        describe(&configuration)
    }

    fn check(configuration: Configuration) -> Result<Status, Error> {
        check(&pool(&configuration)?)
    }
}

impl sdk::volumes::Guest for Rbd {
    fn create(
        configuration: Configuration,
        wish: sdk::volumes::Wish,
        _: Resume,
    ) -> Result<sdk::volumes::Created, Error> {
        volumes::create(&pool(&configuration)?, &wish)
    }

    fn delete(
        configuration: Configuration,
        which: Which,
        resume: Resume,
    ) -> Result<sdk::volumes::Deleted, Error> {
        volumes::delete(&pool(&configuration)?, &which, resume.as_deref())
    }

    fn inspect(configuration: Configuration, which: Vec<Which>) -> Result<Vec<Option<Volume>>, Error> {
        volumes::inspect(&pool(&configuration)?, &which)
    }

    fn list(configuration: Configuration, page: Option<String>) -> Result<VolumePage, Error> {
        volumes::list(&pool(&configuration)?, page.as_deref())
    }

    fn remark(configuration: Configuration, which: Which, mark: String) -> Result<(), Error> {
        volumes::remark(&pool(&configuration)?, &which, &mark)
    }
}

impl sdk::grow::Guest for Rbd {
    fn grow(
        configuration: Configuration,
        which: Which,
        size: CapacityRange,
        _: Resume,
    ) -> Result<Grown, Error> {
        volumes::grow(&pool(&configuration)?, &which, &size)
    }
}

impl sdk::attachments::Guest for Rbd {
    fn attach(
        configuration: Configuration,
        which: Which,
        node: Node,
        read_only: bool,
        _: Resume,
    ) -> Result<Attaching, Error> {
        attachments::attach(&pool(&configuration)?, &which, &node, read_only)
    }

    fn detach(configuration: Configuration, which: Which, node: Node, _: Resume) -> Result<Detaching, Error> {
        attachments::detach(&pool(&configuration)?, &which, &node)
    }
}

impl sdk::fencing::Guest for Rbd {
    fn fence(
        configuration: Configuration,
        which: Which,
        node: Node,
        clients: Vec<String>,
        _: Resume,
    ) -> Result<Fenced, Error> {
        attachments::fence(&pool(&configuration)?, &which, &node, &clients)
    }
}

impl sdk::snapshots::Guest for Rbd {
    fn how(configuration: Configuration, volume: Which) -> Result<Cutting, Error> {
        volumes::how(&pool(&configuration)?, &volume)
    }

    fn cut(
        configuration: Configuration,
        wish: sdk::snapshots::Wish,
        _: Resume,
    ) -> Result<sdk::snapshots::CutAnswer, Error> {
        snapshots::cut(&pool(&configuration)?, &wish)
    }

    fn delete(
        configuration: Configuration,
        which: Which,
        _: Resume,
    ) -> Result<sdk::snapshots::Deleting, Error> {
        snapshots::delete(&pool(&configuration)?, &which)
    }

    fn inspect(configuration: Configuration, which: Vec<Which>) -> Result<Vec<Option<Snapshot>>, Error> {
        snapshots::inspect(&pool(&configuration)?, &which)
    }

    fn list(configuration: Configuration, page: Option<String>) -> Result<SnapshotPage, Error> {
        snapshots::list(&pool(&configuration)?, page.as_deref())
    }
}

impl sdk::extents::Guest for Rbd {
    fn allocated(configuration: Configuration, snapshot: Which, from: u64) -> Result<ExtentPage, Error> {
        extents::allocated(&pool(&configuration)?, &snapshot, from)
    }

    fn changed(
        configuration: Configuration,
        base: Which,
        snapshot: Which,
        from: u64,
    ) -> Result<ExtentPage, Error> {
        extents::changed(&pool(&configuration)?, &base, &snapshot, from)
    }
}

impl sdk::snapshot_data::Guest for Rbd {
    fn reach(configuration: Configuration, snapshot: Which) -> Result<Way, Error> {
        extents::reach(&pool(&configuration)?, &snapshot)
    }

    fn read(_: Configuration, _: Which, _: Vec<Extent>) -> Result<(), Error> {
        Err(Error::unsupported("a node reads snapshots of images by itself"))
    }
}

impl sdk::clone::Guest for Rbd {
    fn how(configuration: Configuration, source: Which) -> Result<Cutting, Error> {
        volumes::how(&pool(&configuration)?, &source)
    }
}

impl sdk::room::Guest for Rbd {
    fn capacity(configuration: Configuration, parameters: Vec<Pair>, _: Vec<Pair>) -> Result<Room, Error> {
        volumes::room(&pool(&configuration)?, &parameters)
    }
}

sdk::export!(Rbd with grow, attachments, fencing, snapshots, extents, snapshot_data, clone, capacity);

fn describe(configuration: &Configuration) -> Result<Description, Error> {
    let config = Config::read(configuration)?;
    Ok(Description {
        name: env!("CARGO_PKG_NAME").trim_start_matches("kato-plugin-").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "Images in a Ceph pool".into(),
        min_size_bytes: config::STEP,
        max_size_bytes: 0,
        size_step_bytes: config::STEP,
        // A command that nobody waits for any more is killed; what it sent to the cluster before is done by then.
        settle_ms: 60_000,
        blank: Blankness::Zeroes,
        parameters: config::parameters(&config),
        grow: Some(Growing::Online),
        snapshots: true,
        clone: true,
        snapshot_needs_volume: false,
        clone_needs_source: false,
    })
}

fn check<C: Commands>(pool: &Pool<C>) -> Result<Status, Error> {
    let Map { fsid, pools } = pool.map()?;
    let Config { pool: name, namespace, .. } = &pool.config;
    let missing = |name: &str| format!("the cluster has no pool {name}: make it, or correct the grant");
    let id = pools.get(name).ok_or_else(|| Error::unavailable(missing(name)))?;
    pool.prove()?;
    let mut fingerprint = format!("fsid {fsid}, pool {name} ({id})");
    if !namespace.is_empty() {
        fingerprint.push_str(&format!(", namespace {namespace}"));
    }
    let absent = pool.config.data_pools.iter().filter(|data| !pools.contains_key(*data));
    let notes: Vec<_> = absent.map(|data| missing(data)).collect();
    Ok(Status { fingerprint, note: notes.join("; ") })
}
