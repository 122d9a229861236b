//! How a volume comes to be.
//!
//! The creation token is the request's client token, so EC2 itself makes one volume however often it is asked. That is
//! true for some hours only, so whoever asks looks first whether there is one that carries the token. A look may be some
//! seconds behind: that nothing is seen means nothing by itself. Where it matters (the token is used up, or a quota is)
//! it is looked for a while before anything is concluded.
//!
//! ```text
//! look ── there and good ─► is it what is wished? ─► done, or pending while it is being made
//!   │ └── in error ──► delete it ──► token-burnt
//!   └── nothing ──► CreateVolume ─┬─ made ──► pending ── available ──► done
//!                                 ├─ token or quota used up ──► pending ── seen after all ──► as above
//!                                 │                                     └── for long not ──► refused
//!                                 └─ no answer ──► unavailable: the host asks again, from the top
//! ```

use kato_plugin_sdk::{
    http::Transport,
    log,
    types::{CapacityRange, Error, ErrorKind, Which},
    volumes::{Created, Origin, Wish},
};

use crate::{
    answers::{Disk, Shot},
    api::{Call, Cloud},
    config::Parameters,
    convert,
    error::{self, MISMATCH, NO_VOLUME},
    kind::GIB,
    resume::{Doing, Work},
    snapshots, tags,
};

/// How long something that was made may not be seen.
pub(crate) const UNSEEN_MS: u64 = 20_000;
/// How long something that EC2 told the id of may not be seen: to take it for gone is to make another.
pub(crate) const GONE_MS: u64 = 60_000;

/// A volume to be made.
#[derive(Debug)]
pub(crate) struct New<'a> {
    pub(crate) token: &'a str,
    pub(crate) parameters: Parameters,
    pub(crate) size: &'a CapacityRange,
    /// The zones that it may lie in, the best first.
    pub(crate) zones: Vec<&'a str>,
    /// What it is made from; empty for nothing.
    pub(crate) snapshot: String,
}

/// Makes a volume.
pub(crate) fn create<T: Transport>(
    cloud: &Cloud<T>,
    wish: &Wish,
    work: Option<Work>,
) -> Result<Created, Error> {
    let parameters = Parameters::read(&wish.parameters)?;
    let shot = match &wish.source {
        None => None,
        Some(Origin::Snapshot(which)) => match source(cloud, which) {
            Err(error) if error.kind == ErrorKind::NotFound => {
                return before(cloud, wish, parameters, which, error);
            }
            shot => Some(shot?),
        },
        Some(Origin::Volume(_)) => {
            return Err(Error::unsupported(
                "a volume cannot be made from a volume here: cut a snapshot, and make it from that",
            ));
        }
    };
    let new = New {
        token: &wish.token,
        parameters,
        size: &wish.size,
        zones: zones(cloud, wish),
        snapshot: shot.as_ref().map(|shot| shot.id.clone()).unwrap_or_default(),
    };
    match work {
        Some(work) if work.doing == Doing::Making => made(cloud, &new, work),
        work => found(cloud, &new, wish, shot.as_ref(), work),
    }
}

/// Whether it was made before its source went, which it needs no longer.
fn before<T: Transport>(
    cloud: &Cloud<T>,
    wish: &Wish,
    parameters: Parameters,
    from: &Which,
    gone: Error,
) -> Result<Created, Error> {
    let disks = cloud.disks_of(&[&wish.token])?;
    match disks.first() {
        Some(disk) if disk.is_good() && !disk.snapshot.is_empty() => {
            let snapshot = from.handle.clone().unwrap_or_else(|| disk.snapshot.clone());
            let zones = zones(cloud, wish);
            answer(
                cloud,
                &New { token: &wish.token, parameters, size: &wish.size, zones, snapshot },
                disk,
                None,
            )
        }
        _ => Err(gone),
    }
}

/// Where it may lie: the places that are wished for, or where the operator says.
fn zones<'a, T>(cloud: &'a Cloud<T>, wish: &'a Wish) -> Vec<&'a str> {
    let zones: Vec<_> = wish.topology.iter().filter_map(|place| convert::zone(place)).collect();
    match cloud.config.zone.as_str() {
        zone if zones.is_empty() && !zone.is_empty() => vec![zone],
        _ => zones,
    }
}

/// The snapshot that it is made from.
fn source<T: Transport>(cloud: &Cloud<T>, which: &Which) -> Result<Shot, Error> {
    let shot = snapshots::find(cloud, which)?.ok_or_else(|| error::no_snapshot(&which.token))?;
    match shot.state.as_str() {
        "completed" => Ok(shot),
        "error" => {
            Err(Error::precondition(format!("the snapshot {} failed: nothing can be made from it", shot.id)))
        }
        state => {
            Err(Error::busy(format!("the snapshot {} is {state}: nothing can be made from it yet", shot.id)))
        }
    }
}

/// What the token finds, and what follows from it.
fn found<T: Transport>(
    cloud: &Cloud<T>,
    new: &New<'_>,
    wish: &Wish,
    shot: Option<&Shot>,
    work: Option<Work>,
) -> Result<Created, Error> {
    let disks = cloud.disks_of(&[new.token])?;
    match disks.first() {
        Some(disk) if disk.is_good() => return answer(cloud, new, disk, work),
        Some(disk) => return failed(cloud, new, disk),
        None => {}
    }
    let Some(work) = work else { return ask(cloud, new, wish, shot) };
    if cloud.now.saturating_sub(work.since) < UNSEEN_MS {
        let work = Work { last: cloud.now, ..work };
        return Ok(Created::Pending(work.pending(cloud.now, "looking whether it is there already")));
    }
    match work.doing {
        Doing::Doubting => Err(burnt(new, "it was used for a volume that is gone")),
        // It is surely not there, so this time a refusal is one.
        Doing::Refused => match ask(cloud, new, wish, shot)? {
            Created::Pending(pending)
                if Work::read(&pending.resume).is_some_and(|now| now.doing == work.doing) =>
            {
                Err(Error::exhausted(pending.note))
            }
            answer => Ok(answer),
        },
        _ => ask(cloud, new, wish, shot),
    }
}

/// Asks for it.
fn ask<T: Transport>(
    cloud: &Cloud<T>,
    new: &New<'_>,
    wish: &Wish,
    shot: Option<&Shot>,
) -> Result<Created, Error> {
    let Some(zone) = new.zones.first() else {
        return Err(Error::invalid(
            "nobody says in which zone the volume is to be: write `zone` into the backend's configuration, or into \
             `node.topology` on each node",
        ));
    };
    let asked = &new.parameters;
    let least = shot.map_or(0, |shot| shot.gib.saturating_mul(GIB));
    let range = CapacityRange { required_bytes: new.size.required_bytes.max(least), ..*new.size };
    let size = asked.kind.limits(cloud.config.default_size).choose(&range)?;
    asked.kind.check(size / GIB, asked.iops, asked.throughput)?;
    if let Some(shot) = shot.filter(|_| asked.fast_restore) {
        snapshots::restore_fast(cloud, &shot.id, zone)?;
    }
    let more: Vec<_> = asked.tags.iter().chain(&cloud.config.tags).cloned().collect();
    let call = Call::change("CreateVolume")
        .idempotent()
        .with("ClientToken", new.token)
        .with("AvailabilityZone", zone)
        .with("Size", size / GIB)
        .with("VolumeType", asked.kind.name)
        .with_some("SnapshotId", shot.map(|shot| shot.id.as_str()))
        .with_some("Iops", asked.iops)
        .with_some("Throughput", asked.throughput)
        .with_some("Encrypted", asked.encrypted)
        .with_some("KmsKeyId", Some(&asked.kms_key).filter(|key| !key.is_empty()))
        .with_some("MultiAttachEnabled", asked.multi_attach.then_some(true))
        .tagged("volume", &tags::of(new.token, &wish.mark, &wish.name, &more));
    let doubt =
        |doing, note: String| Ok(Created::Pending(Work::new(doing, "", cloud.now).pending(cloud.now, note)));
    match cloud.ask(&call) {
        Ok(element) => {
            let disk = Disk::read(&element)
                .ok_or_else(|| Error::internal("EC2's answer to CreateVolume cannot be read"))?;
            // A token that is bound to a volume that went is answered with that volume.
            if disk.is_good() { answer(cloud, new, &disk, None) } else { failed(cloud, new, &disk) }
        }
        Err(refusal) if refusal.is(&[MISMATCH]) => doubt(
            Doing::Doubting,
            "EC2 says that this token was used for another volume: looking for that".to_owned(),
        ),
        Err(refusal) if refusal.is_quota() => doubt(Doing::Refused, refusal.error.message),
        Err(refusal) => Err(refusal.error),
    }
}

/// One that EC2 told the id of.
fn made<T: Transport>(cloud: &Cloud<T>, new: &New<'_>, work: Work) -> Result<Created, Error> {
    match cloud.disk(&work.id)? {
        Some(disk) if disk.token() != new.token => Err(error::not_the_tokens("volume", &disk.id, new.token)),
        Some(disk) if disk.is_good() => answer(cloud, new, &disk, Some(work)),
        Some(disk) => failed(cloud, new, &disk),
        None if cloud.now.saturating_sub(work.since) < GONE_MS => {
            let note = format!("{} is not to be seen yet", work.id);
            Ok(Created::Pending(work.pending(cloud.now, note)))
        }
        // Whatever is not seen, EC2 itself knows whether it has it.
        None => {
            discard(cloud, &work.id)?;
            Err(unusable(new, &work.id, "vanished"))
        }
    }
}

/// One that is there.
fn answer<T: Transport>(
    cloud: &Cloud<T>,
    new: &New<'_>,
    disk: &Disk,
    work: Option<Work>,
) -> Result<Created, Error> {
    convert::satisfies(new, disk)?;
    if disk.state == "creating" {
        let work = work.filter(|work| work.doing == Doing::Making);
        let work = work.unwrap_or_else(|| Work::new(Doing::Making, &disk.id, cloud.now));
        return Ok(Created::Pending(work.pending(cloud.now, format!("{} is being made", disk.id))));
    }
    Ok(Created::Done(convert::volume(disk, false)))
}

/// One that failed, or is on its way out: what is left of it goes, and its token with it.
fn failed<T: Transport>(cloud: &Cloud<T>, new: &New<'_>, disk: &Disk) -> Result<Created, Error> {
    if disk.is_there() {
        log::warn(format!("the volume {} is in error and is deleted", disk.id));
        discard(cloud, &disk.id)?;
    }
    Err(unusable(new, &disk.id, "failed"))
}

fn discard<T: Transport>(cloud: &Cloud<T>, id: &str) -> Result<(), Error> {
    match cloud.ask(&Call::change("DeleteVolume").idempotent().with("VolumeId", id)) {
        Err(refusal) if !refusal.is(&[NO_VOLUME]) => Err(refusal.error),
        _ => Ok(()),
    }
}

/// A volume that never was one. EC2 looks at the key only after it answered, so another attempt with a key that cannot be
/// used would end as this one.
fn unusable(new: &New<'_>, id: &str, how: &str) -> Error {
    if new.parameters.kms_key.is_empty() {
        return burnt(new, &format!("its volume {id} {how}"));
    }
    Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "the volume {id} {how} as it was made: check that the key {} exists, is enabled and in this region, and that \
             the daemon's role may use it (kms:CreateGrant, kms:GenerateDataKeyWithoutPlaintext, kms:DescribeKey)",
            new.parameters.kms_key
        ),
    )
}

fn burnt(new: &New<'_>, why: &str) -> Error {
    Error::token_burnt(format!("the token {} can make no volume any more: {why}", new.token))
}
