//! Changing a volume that is there: its size, its type, how quick it is. EC2 makes one change after the other, and only
//! so many a day: what it refuses is told with when to come again, and that is read from its answer and from the last
//! change, never counted here. What is being optimised can be used, so that is the end of waiting.

use kato_plugin_sdk::{
    capacity::spell,
    grow::Grown,
    http::Transport,
    modify::Modified,
    types::{CapacityRange, Error, Pair, Pending, Which},
};

use crate::{
    answers::{Change, Disk},
    api::{Call, Cloud},
    config::Changes,
    error::{self, MODIFYING, NO_VOLUME, STATE, TOO_OFTEN},
    kind::{GIB, Kind},
    make::UNSEEN_MS,
    resume::{Doing, Work},
};

/// When to come again while a change is being carried out, while it is optimised, and when there were too many.
const SOON_MS: u64 = 15_000;
const OPTIMIZING_MS: u64 = 5 * 60_000;
const TOO_OFTEN_MS: u64 = 30 * 60_000;
/// How long a change that failed rests.
const FAILED_MS: u64 = 60_000;

/// What a volume is to be.
#[derive(Debug, Default)]
struct Target {
    gib: Option<u64>,
    changes: Changes,
}

impl Target {
    fn is_met(&self, gib: u64, kind: &str, iops: Option<u64>, throughput: Option<u64>) -> bool {
        let Changes { kind: asked, iops: asked_iops, throughput: asked_throughput } = self.changes;
        self.gib.is_none_or(|asked| gib >= asked)
            && asked.is_none_or(|asked| asked.name == kind)
            && (asked_iops.is_none() || asked_iops == iops)
            && (asked_throughput.is_none() || asked_throughput == throughput)
    }

    fn is_met_by(&self, disk: &Disk) -> bool {
        self.is_met(disk.gib, &disk.kind, disk.iops, disk.throughput)
    }

    fn is_aim_of(&self, change: &Change) -> bool {
        self.is_met(change.gib.unwrap_or_default(), &change.kind, change.iops, change.throughput)
    }
}

/// How far a change is.
#[derive(Debug)]
enum Going {
    /// The size, now.
    Done(u64),
    Pending(Pending),
}

/// Makes a volume larger; the answer is its size then.
pub(crate) fn grow<T: Transport>(
    cloud: &Cloud<T>,
    which: &Which,
    asked: &CapacityRange,
    work: Option<Work>,
) -> Result<Grown, Error> {
    let disk = cloud.find(which)?.ok_or_else(|| error::no_volume(&which.token))?;
    if asked.required_bytes <= disk.bytes() {
        return Ok(Grown::Done(disk.bytes()));
    }
    let gib = asked.required_bytes.div_ceil(GIB);
    if let Some(limit) = asked.limit_bytes.filter(|limit| gib.saturating_mul(GIB) > *limit) {
        return Err(Error::out_of_range(format!(
            "the volume {} would be {gib} GiB large, and {} is the limit that was given",
            disk.id,
            spell(limit)
        )));
    }
    if let Some(kind) = Kind::of(&disk.kind) {
        kind.check(gib, None, None)?;
    }
    let target = Target { gib: Some(gib), ..Target::default() };
    Ok(match change(cloud, &disk, &target, work)? {
        Going::Done(gib) => Grown::Done(gib.saturating_mul(GIB)),
        Going::Pending(pending) => Grown::Pending(pending),
    })
}

/// Changes the parameters of a volume.
pub(crate) fn modify<T: Transport>(
    cloud: &Cloud<T>,
    which: &Which,
    parameters: &[Pair],
    work: Option<Work>,
) -> Result<Modified, Error> {
    let changes = Changes::read(parameters)?;
    let disk = cloud.find(which)?.ok_or_else(|| error::no_volume(&which.token))?;
    let target = Target { gib: None, changes };
    if let Some(kind) = changes.kind.or_else(|| Kind::of(&disk.kind)) {
        kind.check(disk.gib, changes.iops, changes.throughput)
            .map_err(|error| Error::invalid(error.message))?;
        let had = Kind::of(&disk.kind).is_some_and(Kind::takes_iops);
        if kind.needs_iops() && changes.iops.is_none() && !had {
            return Err(Error::invalid(format!("`iops` is missing: volumes of type {} need it", kind.name)));
        }
    }
    if disk.multi_attach && changes.kind.is_some_and(|kind| !kind.shared) {
        return Err(Error::invalid("a volume with multi-attach has to be of type io1 or io2"));
    }
    if target.is_met_by(&disk) {
        return Ok(Modified::Done);
    }
    Ok(match change(cloud, &disk, &target, work)? {
        Going::Done(_) => Modified::Done,
        Going::Pending(pending) => Modified::Pending(pending),
    })
}

/// Goes on with a change, or begins it.
fn change<T: Transport>(
    cloud: &Cloud<T>,
    disk: &Disk,
    target: &Target,
    work: Option<Work>,
) -> Result<Going, Error> {
    let Some(work) = work.filter(|work| work.doing == Doing::Changing && work.id == disk.id) else {
        return ask(cloud, disk, target);
    };
    let rested = cloud.now.saturating_sub(work.last);
    match cloud.last_change(&disk.id)? {
        Some(change) if target.is_aim_of(&change) && change.is_in_effect() => {
            Ok(Going::Done(change.gib.unwrap_or(disk.gib)))
        }
        Some(change) if change.state == "modifying" => Ok(Going::Pending(waiting(cloud, &work, &change))),
        Some(change) if change.state == "failed" && target.is_aim_of(&change) && rested < FAILED_MS => Err(
            Error::unavailable(format!("EC2 could not change the volume {}: {}", disk.id, change.message))
                .retry_after_ms(FAILED_MS - rested),
        ),
        // It was asked for a moment ago, and is not to be seen yet.
        None if rested < UNSEEN_MS => {
            Ok(Going::Pending(work.pending(cloud.now, format!("{} is about to be changed", disk.id))))
        }
        _ => ask(cloud, disk, target),
    }
}

fn ask<T: Transport>(cloud: &Cloud<T>, disk: &Disk, target: &Target) -> Result<Going, Error> {
    let call = Call::change("ModifyVolume")
        .with("VolumeId", &disk.id)
        .with_some("Size", target.gib)
        .with_some("VolumeType", target.changes.kind.map(|kind| kind.name))
        .with_some("Iops", target.changes.iops)
        .with_some("Throughput", target.changes.throughput);
    let work = Work::new(Doing::Changing, &disk.id, cloud.now);
    match cloud.ask(&call) {
        Ok(element) => match element.child("volumeModification").and_then(Change::read) {
            Some(change) if change.is_in_effect() => Ok(Going::Done(change.gib.unwrap_or(disk.gib))),
            Some(change) => Ok(Going::Pending(waiting(cloud, &work, &change))),
            None => Ok(Going::Pending(work.pending(cloud.now, format!("{} is being changed", disk.id)))),
        },
        Err(refusal) if refusal.is(&[MODIFYING, TOO_OFTEN, STATE]) => {
            let last = cloud.last_change(&disk.id)?;
            let aim = last.as_ref().is_some_and(|change| target.is_aim_of(change));
            let (wait, why) = match &last {
                // Somebody asked for the same, or we did and never heard.
                Some(change) if aim && change.state == "modifying" => {
                    return Ok(Going::Pending(waiting(cloud, &work, change)));
                }
                Some(change) if aim && change.is_in_effect() => {
                    return Ok(Going::Done(change.gib.unwrap_or(disk.gib)));
                }
                Some(change) if change.state == "modifying" => (SOON_MS, "another change of it is under way"),
                Some(change) if change.state == "optimizing" => {
                    (OPTIMIZING_MS, "its last change is still being optimised, which may take hours")
                }
                _ if refusal.is(&[STATE]) => (SOON_MS, "it cannot be changed in its state"),
                _ => (TOO_OFTEN_MS, "it was changed too often lately"),
            };
            let text =
                format!("the volume {} cannot be changed now: {why} ({})", disk.id, refusal.error.message);
            Err(Error::unavailable(text).detail(refusal.error.detail).retry_after_ms(wait))
        }
        Err(refusal) if refusal.is(&[NO_VOLUME]) => Err(error::no_volume(disk.token())),
        Err(refusal) => Err(refusal.error),
    }
}

fn waiting<T>(cloud: &Cloud<T>, work: &Work, change: &Change) -> Pending {
    work.pending(cloud.now, format!("{} is being changed, {} % done", change.volume, change.progress))
}
