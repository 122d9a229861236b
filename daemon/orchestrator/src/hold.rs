//! Holding a volume still while a snapshot of it is cut or a copy of it is made.
//!
//! While it is held nobody here takes a step on it (the claims of the volume and of the volume on this node),
//! and where it is mounted its filesystem is frozen. A watchdog outside of this process thaws it after the
//! limit; [`Held::release`] then says so. After a crash the start thaws every mount of this node.
//!
//! *Instants and copies.* A backend that cuts at one instant may be asked again later, and the volume goes on
//! meanwhile: whenever the instant comes, it is one. A backend that copies is asked until it is done while the
//! volume stands still without a break, because a copy whose source moved is torn and looks like a whole one.
//! So a copy is believed only if this very process saw the volume stand still from before the first call until
//! after the last. That a copy was begun is recorded first ([`Intent::copying`]); whoever finds that mark did
//! not see the end of it, and throws away what there is before beginning anew.
//!
//! *Several at one moment.* Cut one after the other, instants are several moments, unless nobody writes from before
//! the first until after the last: so a group of volumes is held as for a copy, however its backend cuts. They are
//! taken in the order of their ids, by everybody, so that two groups never wait for each other.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tracing::warn;

use crate::{
    drivers::Subject,
    error::Error,
    house::House,
    model::{Intent, MountState, Timestamp, VolumeId},
    ports::{
        backend::{Cutting, Effect, Pending},
        store::Claim,
    },
};

/// A volume that has to stand still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub(crate) volume: VolumeId,
    pub(crate) cutting: Cutting,
}

/// Something that is cut or copied from volumes that stand still.
#[async_trait]
pub(crate) trait Copying: Sync {
    /// What comes of it.
    type Made: Send;

    /// How its sources have to be held, in the order of their ids.
    async fn how(&self) -> Result<Vec<Holding>, Error>;

    /// Asks the backend for it.
    async fn ask(&self, resume: Option<Vec<u8>>) -> Result<Effect<Self::Made>, Error>;

    /// Asks the backend to remove whatever there is of it.
    async fn discard(&self, resume: Option<Vec<u8>>) -> Result<Effect<()>, Error>;

    /// Records durably that a copy is begun.
    async fn begin(&self) -> Result<(), Error>;

    /// Notes how far a copy is; answers whether it is still wished.
    async fn goes_on(&self, pending: &Pending) -> Result<bool, Error>;
}

/// What became of it.
pub(crate) enum Copied<T> {
    /// It is there, and its source was held still for so long where it had to be.
    Done(T, Option<Duration>),
    /// The instant has not come yet.
    Later(Pending),
    /// Nobody wishes it any more. The record knows what may be there of it.
    Unwanted,
}

/// Asks for something whose sources have to stand still meanwhile.
pub(crate) async fn copy<C: Copying>(
    house: &Arc<House>,
    intent: Option<&Intent>,
    wish: &C,
) -> Result<Copied<C::Made>, Error> {
    let unseen = intent.is_some_and(|intent| intent.copying);
    if unseen {
        throw_away(house, wish).await?;
    }
    let sources = wish.how().await?;
    let held = all_still(house, &sources).await?;
    if let [Holding { cutting: Cutting::Instant, volume }] = sources.as_slice() {
        let resume = intent.filter(|_| !unseen).and_then(|intent| intent.resume.clone());
        let answer = wish.ask(resume).await;
        if !release(house, held).await? {
            warn!(volume.id = %volume, "the filesystem did not stand still for as long as the cut took: it is as after a crash");
        }
        return Ok(match answer? {
            Effect::Done(made) => Copied::Done(made, None),
            Effect::Pending(pending) => Copied::Later(pending),
        });
    }
    let answer = match wish.begin().await {
        Ok(()) => until_done(house, held.iter().filter_map(|held| held.until).min(), wish).await,
        Err(error) => Err(error),
    };
    let since = held.iter().filter_map(|held| held.since).min();
    let held_still = since.map(|since| house.now().since(since));
    let stood_still = release(house, held).await?;
    match answer? {
        Copied::Done(made, _) if stood_still => Ok(Copied::Done(made, held_still)),
        Copied::Unwanted => Ok(Copied::Unwanted),
        Copied::Done(..) | Copied::Later(_) => {
            throw_away(house, wish).await?;
            Err(Error::precondition(format!(
                "copying it took longer than the {} seconds that a filesystem may be held frozen, so somebody may \
                 have written meanwhile: do it while the volume is not mounted, or raise node.freeze-limit",
                house.config.freeze_limit.as_secs()
            )))
        }
    }
}

/// Asks for a copy until it is whole, nobody wishes it, or the volume cannot be held any longer (`Later`).
async fn until_done<C: Copying>(
    house: &House,
    until: Option<Timestamp>,
    wish: &C,
) -> Result<Copied<C::Made>, Error> {
    let mut resume = None;
    loop {
        let pending = match wish.ask(resume).await? {
            Effect::Done(made) => return Ok(Copied::Done(made, None)),
            Effect::Pending(pending) => pending,
        };
        if !wish.goes_on(&pending).await? {
            return Ok(Copied::Unwanted);
        }
        let next = house.now().plus(pending.retry_after);
        if until.is_some_and(|until| next > until) {
            return Ok(Copied::Later(pending));
        }
        pause(house, next).await?;
        resume = Some(pending.resume);
    }
}

/// Removes what there is of a copy that cannot be believed.
async fn throw_away<C: Copying>(house: &House, wish: &C) -> Result<(), Error> {
    let mut resume = None;
    while let Effect::Pending(pending) = wish.discard(resume).await.map_err(Error::pending)? {
        pause(house, house.now().plus(pending.retry_after)).await?;
        resume = Some(pending.resume);
    }
    Ok(())
}

/// Sleeps, unless the daemon stops: then whoever starts next throws the copy away.
async fn pause(house: &House, until: Timestamp) -> Result<(), Error> {
    tokio::select! {
        () = house.ports.clock.sleep_until(until) => Ok(()),
        () = house.stopping.cancelled() => {
            Err(Error::unavailable("the daemon is stopping: the copy is made anew when it is back").pending())
        }
    }
}

/// A volume that is held still.
struct Held {
    volume: VolumeId,
    frozen: Option<String>,
    /// Since when it is frozen.
    since: Option<Timestamp>,
    /// Until when, where a watchdog lets it go then.
    until: Option<Timestamp>,
    _claims: [Box<dyn Claim>; 2],
}

/// Holds volumes as still as their backend needs it: all of them, or none.
async fn all_still(house: &Arc<House>, sources: &[Holding]) -> Result<Vec<Held>, Error> {
    let mut held = Vec::with_capacity(sources.len());
    for source in sources {
        match still(house, source.volume, source.cutting).await {
            Ok(one) => held.push(one),
            Err(error) => {
                release(house, held).await?;
                return Err(error);
            }
        }
    }
    Ok(held)
}

/// Lets volumes go, all of them whatever becomes of one, and answers whether they stood still until now.
async fn release(house: &House, held: Vec<Held>) -> Result<bool, Error> {
    let mut stood_still = Ok(true);
    for one in held {
        let thawed = match &one.frozen {
            Some(path) => house.ports.host.thaw(one.volume, path).await.map_err(Error::pending),
            None => Ok(true),
        };
        stood_still = stood_still.and_then(|still| thawed.map(|thawed| still && thawed));
    }
    stood_still
}

/// Holds a volume as still as its backend needs it.
async fn still(house: &Arc<House>, volume: VolumeId, cutting: Cutting) -> Result<Held, Error> {
    let store = &house.ports.store;
    let subject = Subject::Volume(volume).to_string();
    let claims = [
        store.claim(&subject).await.map_err(Error::pending)?,
        store.claim(&format!("{subject}/{}", house.node())).await.map_err(Error::pending)?,
    ];
    let family = house.journal.family(volume).await.map_err(Error::pending)?.value;
    let name = family.volume.as_ref().map(|volume| volume.name.to_string()).unwrap_or_default();
    if cutting == Cutting::Unmounted && !(family.mounts.is_empty() && family.publications.is_empty()) {
        return Err(Error::precondition(format!(
            "it can only be copied while nobody has it mounted, and it is held by {}: stop those first, or use a class \
             whose volumes are images",
            family.holders_text()
        ))
        .about(format!("volume {name}")));
    }
    if let Some(other) = family.mounts.keys().find(|node| *node != house.node())
        && cutting == Cutting::Copy
    {
        return Err(Error::precondition(format!(
            "it is mounted on {other}: cut it there, or unmount it first"
        ))
        .about(format!("volume {name}")));
    }
    if let Some(node) = family.lost_and_attached().filter(|_| cutting != Cutting::Instant) {
        return Err(Error::busy(format!(
            "it is being taken from {node}, which may still write to it until then"
        ))
        .about(format!("volume {name}")));
    }
    // What cannot be frozen may be written while it is copied.
    if let Some(MountState::Broken(why)) = family.mounts.get(house.node()).map(|mount| &mount.state)
        && cutting == Cutting::Copy
    {
        return Err(Error::precondition(format!(
            "the mount of the volume {name} is broken ({why}), so it cannot be held still: repair it first, with \
             `kato volume repair {name}`"
        )));
    }
    if let Some(mount) = family.mounts.get(house.node())
        && mount.raw
        && cutting == Cutting::Copy
    {
        return Err(Error::precondition(
            "its device itself is in use, so nothing can hold it still while it is copied: stop what uses it first",
        )
        .about(format!("volume {name}")));
    }
    let path = family
        .mounts
        .get(house.node())
        .filter(|mount| mount.state == MountState::Mounted && !mount.read_only)
        .and_then(|mount| mount.path.clone());
    let since = path.as_ref().map(|_| house.now());
    let until = since.map(|since| since.plus(house.config.freeze_limit));
    if let Some(path) = &path {
        house.ports.host.freeze(volume, path, house.config.freeze_limit).await.map_err(Error::pending)?;
    }
    Ok(Held { volume, frozen: path, since, until, _claims: claims })
}
