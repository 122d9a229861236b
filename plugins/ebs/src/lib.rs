//! Volumes of Amazon EBS. This file is the component's face, one line for each function of the contract; what they do is
//! `make.rs` and `volumes.rs`, `change.rs`, `attachments.rs`, `snapshots.rs`, and for all that waits `poll.rs`. The bytes
//! of snapshots are `extents.rs`, `blocks.rs` and `writing.rs`.
//!
//! It speaks EC2's Query API (`api.rs`) and reads what EC2 answers (`xml.rs`, `answers.rs`); the EBS direct APIs are
//! `direct.rs`, and the one table of both sides' errors is `error.rs`. It holds no credential: the host signs each request for the region that was granted. What takes a while
//! is kept in `resume.rs`' words, and what lies in EC2 is told apart by `tags.rs`.

mod answers;
mod api;
mod attachments;
mod blocks;
mod change;
mod clock;
mod config;
mod convert;
mod devices;
mod direct;
mod error;
mod extents;
mod kind;
mod make;
mod poll;
mod resume;
mod snapshots;
mod tags;
#[cfg(test)]
mod tests;
mod volumes;
mod writing;
mod xml;

use kato_plugin_sdk as sdk;
use sdk::{
    attachments::{Attaching, Detaching},
    fencing::Fenced,
    grow::Grown,
    health::Condition,
    http::Transport,
    identity::{Blankness, Description, Growing, Status},
    modify::Modified,
    polling::{Asking, Standing},
    room::Room,
    snapshot_data::Way,
    snapshot_writing::{Begun, Completing},
    transfers::Granted,
    types::{
        CapacityRange, Configuration, Cutting, Error, Extent, ExtentPage, Node, Pair, Snapshot, SnapshotPage,
        Volume, VolumePage, Which,
    },
};

use crate::{api::Cloud, config::Config, kind::GIB, resume::work};

type Resume = Option<Vec<u8>>;

/// The component.
#[derive(Debug)]
struct Ebs;

#[cfg(target_family = "wasm")]
use sdk::http::Wasi as Wire;

/// Outside of a component there is nobody to ask.
#[cfg(not(target_family = "wasm"))]
#[derive(Debug)]
struct Wire;

#[cfg(not(target_family = "wasm"))]
impl Transport for Wire {
    fn send(&self, _: &sdk::http::Request) -> Result<sdk::http::Response, Error> {
        Err(Error::unavailable("there is no host"))
    }
}

/// EC2 in the granted region.
fn cloud(configuration: &Configuration) -> Result<Cloud<Wire>, Error> {
    Ok(Cloud::new(Wire, Config::granted(configuration)?, clock::now()))
}

impl sdk::identity::Guest for Ebs {
    fn describe(configuration: Configuration) -> Result<Description, Error> {
        describe(&configuration)
    }

    fn check(configuration: Configuration) -> Result<Status, Error> {
        check(&cloud(&configuration)?)
    }
}

impl sdk::volumes::Guest for Ebs {
    fn create(
        configuration: Configuration,
        wish: sdk::volumes::Wish,
        resume: Resume,
    ) -> Result<sdk::volumes::Created, Error> {
        make::create(&cloud(&configuration)?, &wish, work(resume.as_deref()))
    }

    fn delete(configuration: Configuration, which: Which, _: Resume) -> Result<sdk::volumes::Deleted, Error> {
        volumes::delete(&cloud(&configuration)?, &which)
    }

    fn inspect(configuration: Configuration, which: Vec<Which>) -> Result<Vec<Option<Volume>>, Error> {
        volumes::inspect(&cloud(&configuration)?, &which)
    }

    fn list(configuration: Configuration, page: Option<String>) -> Result<VolumePage, Error> {
        volumes::list(&cloud(&configuration)?, page.as_deref())
    }

    fn remark(configuration: Configuration, which: Which, mark: String) -> Result<(), Error> {
        volumes::remark(&cloud(&configuration)?, &which, &mark)
    }
}

impl sdk::grow::Guest for Ebs {
    fn grow(
        configuration: Configuration,
        which: Which,
        size: CapacityRange,
        resume: Resume,
    ) -> Result<Grown, Error> {
        change::grow(&cloud(&configuration)?, &which, &size, work(resume.as_deref()))
    }
}

impl sdk::modify::Guest for Ebs {
    fn modify(
        configuration: Configuration,
        which: Which,
        parameters: Vec<Pair>,
        resume: Resume,
    ) -> Result<Modified, Error> {
        change::modify(&cloud(&configuration)?, &which, &parameters, work(resume.as_deref()))
    }
}

impl sdk::attachments::Guest for Ebs {
    fn attach(
        configuration: Configuration,
        which: Which,
        node: Node,
        _read_only: bool,
        resume: Resume,
    ) -> Result<Attaching, Error> {
        attachments::attach(&cloud(&configuration)?, &which, &node, work(resume.as_deref()))
    }

    fn detach(
        configuration: Configuration,
        which: Which,
        node: Node,
        resume: Resume,
    ) -> Result<Detaching, Error> {
        attachments::detach(&cloud(&configuration)?, &which, &node, work(resume.as_deref()))
    }
}

impl sdk::fencing::Guest for Ebs {
    fn fence(
        configuration: Configuration,
        which: Which,
        node: Node,
        _: Vec<String>,
        _: Resume,
    ) -> Result<Fenced, Error> {
        attachments::fence(&cloud(&configuration)?, &which, &node)
    }
}

impl sdk::snapshots::Guest for Ebs {
    fn how(configuration: Configuration, volume: Which) -> Result<Cutting, Error> {
        snapshots::how(&cloud(&configuration)?, &volume)
    }

    fn cut(
        configuration: Configuration,
        wish: sdk::snapshots::Wish,
        resume: Resume,
    ) -> Result<sdk::snapshots::CutAnswer, Error> {
        snapshots::cut(&cloud(&configuration)?, &wish, work(resume.as_deref()))
    }

    fn delete(
        configuration: Configuration,
        which: Which,
        _: Resume,
    ) -> Result<sdk::snapshots::Deleting, Error> {
        snapshots::delete(&cloud(&configuration)?, &which)
    }

    fn inspect(configuration: Configuration, which: Vec<Which>) -> Result<Vec<Option<Snapshot>>, Error> {
        snapshots::inspect(&cloud(&configuration)?, &which)
    }

    fn list(configuration: Configuration, page: Option<String>) -> Result<SnapshotPage, Error> {
        snapshots::list(&cloud(&configuration)?, page.as_deref())
    }
}

impl sdk::extents::Guest for Ebs {
    fn allocated(configuration: Configuration, snapshot: Which, from: u64) -> Result<ExtentPage, Error> {
        extents::allocated(&cloud(&configuration)?, &snapshot, from)
    }

    fn changed(
        configuration: Configuration,
        base: Which,
        snapshot: Which,
        from: u64,
    ) -> Result<ExtentPage, Error> {
        extents::changed(&cloud(&configuration)?, &base, &snapshot, from)
    }
}

impl sdk::snapshot_data::Guest for Ebs {
    fn reach(configuration: Configuration, snapshot: Which) -> Result<Way, Error> {
        extents::reach(&cloud(&configuration)?, &snapshot)
    }

    fn read(configuration: Configuration, snapshot: Which, extents: Vec<Extent>) -> Result<(), Error> {
        blocks::read(&cloud(&configuration)?, &Granted, &snapshot, &extents)
    }
}

impl sdk::snapshot_writing::Guest for Ebs {
    fn begin(configuration: Configuration, wish: sdk::snapshot_writing::Wish) -> Result<Begun, Error> {
        writing::begin(&cloud(&configuration)?, &wish)
    }

    fn write(configuration: Configuration, snapshot: Which, extents: Vec<Extent>) -> Result<(), Error> {
        blocks::write(&cloud(&configuration)?, &Granted, &snapshot, &extents)
    }

    fn complete(
        configuration: Configuration,
        snapshot: Which,
        blocks: u64,
        digest: Vec<u8>,
        resume: Resume,
    ) -> Result<Completing, Error> {
        writing::complete(&cloud(&configuration)?, &snapshot, blocks, &digest, work(resume.as_deref()))
    }
}

impl sdk::polling::Guest for Ebs {
    fn poll(configuration: Configuration, askings: Vec<Asking>) -> Result<Vec<Standing>, Error> {
        poll::poll(&cloud(&configuration)?, &askings)
    }
}

impl sdk::health::Guest for Ebs {
    fn health(configuration: Configuration, which: Vec<Which>) -> Result<Vec<Condition>, Error> {
        volumes::health(&cloud(&configuration)?, &which)
    }
}

impl sdk::room::Guest for Ebs {
    fn capacity(_: Configuration, parameters: Vec<Pair>, _: Vec<Pair>) -> Result<Room, Error> {
        volumes::room(&parameters)
    }
}

sdk::export!(
    Ebs with grow, modify, attachments, fencing, snapshots, extents, snapshot_data, snapshot_writing, polling, health,
    capacity
);

fn describe(configuration: &Configuration) -> Result<Description, Error> {
    Config::read(configuration)?;
    Ok(Description {
        name: env!("CARGO_PKG_NAME").trim_start_matches("kato-plugin-").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "Volumes of Amazon EBS".into(),
        min_size_bytes: GIB,
        max_size_bytes: 65_536 * GIB,
        size_step_bytes: GIB,
        // A request that nobody waits for any more has arrived by then, and what it made is to be seen.
        settle_ms: 60_000,
        blank: Blankness::Zeroes,
        parameters: config::parameters(),
        grow: Some(Growing::Online),
        snapshots: true,
        clone: false,
        snapshot_needs_volume: false,
        clone_needs_source: false,
    })
}

fn check<T: Transport>(cloud: &Cloud<T>) -> Result<Status, Error> {
    let region = &cloud.config.region;
    match cloud.account()? {
        Some(account) => {
            Ok(Status { fingerprint: format!("account {account}, region {region}"), note: String::new() })
        }
        None => Err(Error::unavailable(format!(
            "the account has no machine and none of our snapshots in {region}, so nobody can tell which account it is: start the \
             first node, or correct the grant's region"
        ))),
    }
}
