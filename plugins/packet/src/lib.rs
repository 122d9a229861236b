//! Volumes of Packet's block storage: a REST API that makes them and lets machines in, and iSCSI that carries the bytes.
//! This file is the component's face, one line for each function of the contract; what they do is `make.rs`, `clones.rs`,
//! `volumes.rs`, `attachments.rs` and `snapshots.rs`, and for all that waits `poll.rs`.
//!
//! It is written to be copied. Every operation looks at what is there, decides, and takes one step; nothing is remembered
//! between calls but what is written at the cloud itself (`marks.rs`). So whatever was cut off is gone on with by asking
//! again. The API is `api.rs` and what it answers `answers.rs`, the one table of its errors is `error.rs`. There is no
//! credential here: the host adds the token to each request.

mod answers;
mod api;
mod attachments;
mod clones;
mod config;
mod convert;
mod error;
mod json;
mod make;
mod marks;
mod poll;
mod snapshots;
#[cfg(test)]
mod tests;
mod volumes;

use kato_plugin_sdk as sdk;
use sdk::{
    attachments::{Attaching, Detaching},
    fencing::Fenced,
    grow::Grown,
    identity::{Blankness, Description, Growing, Status},
    modify::Modified,
    polling::{Asking, Standing},
    snapshots::{CutAnswer, Deleting},
    types::{
        CapacityRange, Configuration, Cutting, Error, Node, Pair, Snapshot, SnapshotPage, Volume, VolumePage,
        Which,
    },
    volumes::{Created, Deleted},
};

use crate::{api::Cloud, config::Config};

type Resume = Option<Vec<u8>>;

/// The component.
#[derive(Debug)]
struct Packet;

#[cfg(target_family = "wasm")]
use sdk::http::Wasi as Wire;

/// Outside of a component there is nobody to ask.
#[cfg(not(target_family = "wasm"))]
#[derive(Debug)]
struct Wire;

#[cfg(not(target_family = "wasm"))]
impl sdk::http::Transport for Wire {
    fn send(&self, _: &sdk::http::Request) -> Result<sdk::http::Response, Error> {
        Err(Error::unavailable("there is no host"))
    }
}

/// The API, as it is configured.
fn cloud(configuration: &Configuration) -> Result<Cloud<Wire>, Error> {
    Ok(Cloud::new(Wire, Config::read(configuration)?, api::now()))
}

impl sdk::identity::Guest for Packet {
    fn describe(configuration: Configuration) -> Result<Description, Error> {
        describe(&configuration)
    }

    fn check(configuration: Configuration) -> Result<Status, Error> {
        volumes::check(&cloud(&configuration)?)
    }
}

impl sdk::volumes::Guest for Packet {
    fn create(config: Configuration, wish: sdk::volumes::Wish, resume: Resume) -> Result<Created, Error> {
        make::create(&cloud(&config)?, &wish, resume.as_deref())
    }

    fn delete(config: Configuration, which: Which, _: Resume) -> Result<Deleted, Error> {
        volumes::delete(&cloud(&config)?, &which)
    }

    fn inspect(config: Configuration, which: Vec<Which>) -> Result<Vec<Option<Volume>>, Error> {
        volumes::inspect(&cloud(&config)?, &which)
    }

    fn list(config: Configuration, page: Option<String>) -> Result<VolumePage, Error> {
        volumes::list(&cloud(&config)?, page.as_deref())
    }

    fn remark(config: Configuration, which: Which, mark: String) -> Result<(), Error> {
        volumes::remark(&cloud(&config)?, &which, &mark)
    }
}

impl sdk::grow::Guest for Packet {
    fn grow(config: Configuration, which: Which, size: CapacityRange, _: Resume) -> Result<Grown, Error> {
        volumes::grow(&cloud(&config)?, &which, &size)
    }
}

impl sdk::modify::Guest for Packet {
    fn modify(
        config: Configuration,
        which: Which,
        parameters: Vec<Pair>,
        _: Resume,
    ) -> Result<Modified, Error> {
        volumes::modify(&cloud(&config)?, &which, &parameters)
    }
}

impl sdk::attachments::Guest for Packet {
    fn attach(
        config: Configuration,
        which: Which,
        node: Node,
        _: bool,
        _: Resume,
    ) -> Result<Attaching, Error> {
        attachments::attach(&cloud(&config)?, &which, &node)
    }

    fn detach(config: Configuration, which: Which, node: Node, _: Resume) -> Result<Detaching, Error> {
        attachments::detach(&cloud(&config)?, &which, &node)
    }
}

impl sdk::fencing::Guest for Packet {
    fn fence(
        config: Configuration,
        which: Which,
        node: Node,
        _: Vec<String>,
        _: Resume,
    ) -> Result<Fenced, Error> {
        attachments::fence(&cloud(&config)?, &which, &node)
    }
}

impl sdk::snapshots::Guest for Packet {
    fn how(config: Configuration, volume: Which) -> Result<Cutting, Error> {
        volumes::how(&cloud(&config)?, &volume)
    }

    fn cut(config: Configuration, wish: sdk::snapshots::Wish, _: Resume) -> Result<CutAnswer, Error> {
        snapshots::cut(&cloud(&config)?, &wish)
    }

    fn delete(config: Configuration, which: Which, _: Resume) -> Result<Deleting, Error> {
        snapshots::delete(&cloud(&config)?, &which)
    }

    fn inspect(config: Configuration, which: Vec<Which>) -> Result<Vec<Option<Snapshot>>, Error> {
        snapshots::inspect(&cloud(&config)?, &which)
    }

    fn list(config: Configuration, page: Option<String>) -> Result<SnapshotPage, Error> {
        snapshots::list(&cloud(&config)?, page.as_deref())
    }
}

impl sdk::clone::Guest for Packet {
    fn how(config: Configuration, source: Which) -> Result<Cutting, Error> {
        volumes::how(&cloud(&config)?, &source)
    }
}

impl sdk::polling::Guest for Packet {
    fn poll(config: Configuration, askings: Vec<Asking>) -> Result<Vec<Standing>, Error> {
        poll::poll(&cloud(&config)?, &askings)
    }
}

sdk::export!(Packet with grow, modify, attachments, fencing, snapshots, clone, polling);

fn describe(configuration: &Configuration) -> Result<Description, Error> {
    let config = Config::read(configuration)?;
    Ok(Description {
        name: env!("CARGO_PKG_NAME").trim_start_matches("kato-plugin-").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: env!("CARGO_PKG_DESCRIPTION").into(),
        min_size_bytes: config.sizes.min,
        max_size_bytes: config.sizes.max.unwrap_or_default(),
        size_step_bytes: config.sizes.step,
        // A request that nobody waits for any more has arrived by then, and what it made is to be seen.
        settle_ms: 60_000,
        blank: Blankness::Zeroes,
        parameters: config::parameters(&config),
        grow: Some(if config.grows_attached { Growing::Online } else { Growing::Offline }),
        snapshots: true,
        clone: true,
        // Nobody says what becomes of snapshots when their volume goes.
        snapshot_needs_volume: true,
        clone_needs_source: false,
    })
}
