//! What can be asked, and what each question is to the hall: one command, one call. Get, List and Path only
//! read, because dockerd begins everything that it does with a Get.

use std::{sync::atomic::Ordering, time::Duration};

use kato_orchestrator::{
    Error, Outcome,
    ops::{Context, DeleteVolume},
};
use serde::de::DeserializeOwned;

use crate::{
    config::{Config, Scope},
    convert,
    error::{self, Refusal},
    protocol::{self, Answer, Capabilities, CreateRequest, HolderRequest, NameEntry, NameRequest},
    server::Door,
    socket::Peer,
};

/// How many names are read from the records at a time.
const PAGE: usize = 1000;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Activate,
    Capabilities,
    Create,
    Remove,
    Mount,
    Unmount,
    Path,
    Get,
    List,
}

impl Operation {
    pub(crate) const ALL: [Self; 9] = [
        Self::Activate,
        Self::Capabilities,
        Self::Create,
        Self::Remove,
        Self::Mount,
        Self::Unmount,
        Self::Path,
        Self::Get,
        Self::List,
    ];

    /// Where it is asked.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Activate => "/Plugin.Activate",
            Self::Capabilities => "/VolumeDriver.Capabilities",
            Self::Create => "/VolumeDriver.Create",
            Self::Remove => "/VolumeDriver.Remove",
            Self::Mount => "/VolumeDriver.Mount",
            Self::Unmount => "/VolumeDriver.Unmount",
            Self::Path => "/VolumeDriver.Path",
            Self::Get => "/VolumeDriver.Get",
            Self::List => "/VolumeDriver.List",
        }
    }

    /// What the log calls it.
    pub(crate) fn op(self) -> &'static str {
        match self {
            Self::Activate => "activate",
            Self::Capabilities => "capabilities",
            Self::Create => "create",
            Self::Remove => "remove",
            Self::Mount => "mount",
            Self::Unmount => "unmount",
            Self::Path => "path",
            Self::Get => "get",
            Self::List => "list",
        }
    }

    /// How long it may take: a little less than dockerd waits, because dockerd undoes nothing when it gives up.
    pub(crate) fn wait(self, config: &Config) -> Duration {
        match self {
            Self::Create | Self::Mount => config.mount_wait(),
            Self::Activate
            | Self::Capabilities
            | Self::Remove
            | Self::Unmount
            | Self::Path
            | Self::Get
            | Self::List => config.call_wait(),
        }
    }

    /// What to do with an error that this room itself made.
    pub(crate) fn refusal(self, error: Error) -> Refusal {
        match self {
            Self::Get => error::of_get(error),
            Self::Activate
            | Self::Capabilities
            | Self::Create
            | Self::Remove
            | Self::Mount
            | Self::Unmount
            | Self::Path
            | Self::List => Refusal::Told(error),
        }
    }
}

/// Carries out one request.
pub(crate) async fn answer(
    operation: Operation,
    door: &Door,
    ctx: &Context,
    peer: &Peer,
    body: &[u8],
) -> Result<Answer, Refusal> {
    match operation {
        Operation::Activate => Ok(Answer { implements: Some(["VolumeDriver"]), ..Answer::default() }),
        Operation::Capabilities => Ok(capabilities(door)),
        Operation::Create => create(door, ctx, body).await,
        Operation::Remove => remove(door, ctx, body).await,
        Operation::Mount => mount(door, ctx, peer, body).await,
        Operation::Unmount => unmount(door, ctx, body).await,
        Operation::Path => path(door, body).await,
        Operation::Get => get(door, body).await,
        Operation::List => list(door).await,
    }
}

fn capabilities(door: &Door) -> Answer {
    let scope = match door.config.scope {
        Scope::Local => "local",
        Scope::Global => "global",
    };
    Answer { capabilities: Some(Capabilities { scope }), ..Answer::default() }
}

async fn create(door: &Door, ctx: &Context, body: &[u8]) -> Result<Answer, Refusal> {
    let request: CreateRequest = read(body)?;
    let wish = convert::create_from_wire(&request, &door.orchestrator.catalog())?;
    note(&wish.name);
    let outcome = door.orchestrator.create(ctx, wish).await?;
    if matches!(outcome, Outcome::Changed(_)) {
        tracing::info!("volume was created");
    }
    Ok(Answer::default())
}

async fn remove(door: &Door, ctx: &Context, body: &[u8]) -> Result<Answer, Refusal> {
    let request: NameRequest = read(body)?;
    let name = convert::name_from_wire(&request.name)?;
    note(&name);
    let outcome = door.orchestrator.delete(ctx, DeleteVolume { volume: name.into(), forget: false }).await?;
    if matches!(outcome, Outcome::Changed(())) {
        tracing::info!("volume was removed");
    }
    Ok(Answer::default())
}

async fn mount(door: &Door, ctx: &Context, peer: &Peer, body: &[u8]) -> Result<Answer, Refusal> {
    let request: HolderRequest = read(body)?;
    let wish = convert::mount_from_wire(&request, peer, &door.config, &door.orchestrator.catalog())?;
    note(&wish.volume);
    tracing::Span::current().record("holder", wish.holder.as_str());
    let mounted = door.orchestrator.mount(ctx, wish).await?.into_inner();
    // Docker would bind whatever stands here: an empty path becomes the container's own bundle.
    if !mounted.path.starts_with('/') {
        return Err(Error::internal(format!(
            "the volume is mounted at {:?}, which is no path",
            mounted.path
        ))
        .about(format!("volume {}", request.name))
        .into());
    }
    tracing::info!(path = mounted.path, "volume was mounted");
    Ok(Answer { mountpoint: Some(mounted.path), ..Answer::default() })
}

async fn unmount(door: &Door, ctx: &Context, body: &[u8]) -> Result<Answer, Refusal> {
    let request: HolderRequest = read(body)?;
    let wish = convert::unmount_from_wire(&request)?;
    note(&wish.volume);
    tracing::Span::current().record("holder", wish.holder.as_str());
    if matches!(door.orchestrator.unmount(ctx, wish).await?, Outcome::Changed(())) {
        tracing::info!("volume was given back");
    }
    Ok(Answer::default())
}

async fn path(door: &Door, body: &[u8]) -> Result<Answer, Refusal> {
    let request: NameRequest = read(body)?;
    let name = convert::name_from_wire(&request.name)?;
    note(&name);
    let view = door.orchestrator.inspect(&name).await?;
    let path = view.path_on(door.orchestrator.node()).unwrap_or_default();
    Ok(Answer { mountpoint: Some(path), ..Answer::default() })
}

async fn get(door: &Door, body: &[u8]) -> Result<Answer, Refusal> {
    // A repeat of a Get that was cut off comes without a body: any answer would say that there is no volume.
    if body.is_empty() {
        return Err(Refusal::Silent(Error::unavailable("a get came without a name, as repeated ones do")));
    }
    let request: NameRequest = read(body)?;
    let name = convert::name_from_wire(&request.name)?;
    note(&name);
    let view = door.orchestrator.inspect(&name).await.map_err(error::of_get)?;
    let volume = convert::volume_to_wire(&request.name, &view, door.orchestrator.node());
    Ok(Answer { volume: Some(volume), ..Answer::default() })
}

async fn list(door: &Door) -> Result<Answer, Refusal> {
    let mut volumes = Vec::new();
    let mut after = None;
    loop {
        let page = door.orchestrator.names(after.as_deref(), PAGE).await?;
        volumes.extend(page.items.iter().map(|name| NameEntry { name: name.as_str().to_owned() }));
        after = page.next;
        if after.is_none() {
            return Ok(Answer { volumes: Some(volumes), ..Answer::default() });
        }
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    protocol::from_wire(body).map_err(Error::invalid)
}

fn note(name: &impl std::fmt::Display) {
    tracing::Span::current().record("volume.name", tracing::field::display(name));
}

impl Door {
    /// What the log calls the next request.
    pub(crate) fn next_request(&self) -> String {
        format!("docker-{}", self.requests.fetch_add(1, Ordering::Relaxed))
    }
}
