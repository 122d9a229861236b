//! Compares what the records say with what the backends, this node and its neighbours have.
//!
//! **What is mended, and why that is safe.** Every remedy only corrects records and lets the everyday drivers do
//! the rest, with all their checks:
//!
//! - `missing-mount`: the records say mounted, the machine does not. It is wished anew; the driver finds it or
//!   makes it. Nothing is taken away.
//! - `stale-mount`, `stale-device` of a volume that has a record, while no other mount namespace has it: the record
//!   says that it is to be taken down. The driver unmounts and disconnects as after any last holder, and the kernel
//!   refuses what is still in use.
//! - `stale-mount`, `stale-device` of nobody: no record knows it, every backend was asked and none lists what it could
//!   be of, and nobody has it: no open file, no other mount, no other namespace. The node takes it down under the claims
//!   of its volume, after it has looked once more. The bytes behind it stay where they are.
//! - `found-again`: a volume counts as lost, and its backend, being the one we know, has it. It is ready again.
//!
//! Everything else is left to a person, because a guess could cost data: what a backend lists and no record knows is a
//! volume whose record was lost (`kato recover --scan` gives both back, with what stands of it), what a backend has lost
//! may come back, and what carries no mark is not ours to touch.

mod backends;
mod node;

use std::{collections::BTreeSet, sync::Arc};

pub(crate) use self::backends::{all_of, shots_of};
use crate::{
    error::Error,
    hall::Finding,
    house::House,
    model::{Volume, VolumeId},
    ops::{ExamineHouse, Neighbour},
    records::{self, keys},
};

/// Everything that does not fit together; with `fix`, what can be mended safely is.
pub(crate) async fn examine(house: &Arc<House>, wish: &ExamineHouse) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let volumes = volumes(house).await?;
    let listed = backends::against_records(house, &volumes, wish.fix, &mut findings).await?;
    node::against_records(house, &listed, wish.fix, &mut findings).await?;
    neighbours_against_records(&volumes, &wish.neighbours, &mut findings);
    stuck(house, &mut findings).await?;
    let orphans = findings.iter().filter(|finding| finding.code == "orphan").count();
    metrics::gauge!("kato_orphans").set(f64::from(u32::try_from(orphans).unwrap_or(u32::MAX)));
    Ok(findings)
}

pub(crate) fn finding(code: &'static str, subject: String, message: String, fixable: bool) -> Finding {
    Finding { code, subject, message, fixable, fixed: false }
}

/// Every volume there is a record of.
async fn volumes(house: &House) -> Result<Vec<Volume>, Error> {
    let mut all = Vec::new();
    for entry in house.journal.page(keys::VOLUME_NAMES, None, usize::MAX).await? {
        all.extend(house.journal.family(records::decode(&entry)?).await?.value.volume);
    }
    Ok(all)
}

/// Volumes that another driver has under the same name: Docker's names are unique across drivers, so it refuses ours.
fn neighbours_against_records(volumes: &[Volume], neighbours: &[Neighbour], findings: &mut Vec<Finding>) {
    let ours: BTreeSet<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
    for Neighbour { name, driver } in neighbours.iter().filter(|one| ours.contains(one.name.as_str())) {
        findings.push(finding(
            "same-name",
            format!("volume {name}"),
            format!(
                "Docker has a volume of this name under its driver {driver:?}: it refuses this one, and gives the other to \
                 containers that name no driver. See what is in it; then remove it with `docker volume rm`, or copy this \
                 one to another name (`kato volume create --from-volume`)"
            ),
            false,
        ));
    }
}

/// Volumes whose work has failed for a while.
async fn stuck(house: &Arc<House>, findings: &mut Vec<Finding>) -> Result<(), Error> {
    for segment in house.journal.segments(keys::WORK_VOLUMES).await? {
        let Some(id) = VolumeId::parse(&segment) else { continue };
        let family = house.journal.family(id).await?.value;
        let Some(volume) = &family.volume else { continue };
        let worst = crate::drive::intents(&family)
            .filter(|intent| intent.attempts >= 3)
            .max_by_key(|one| one.attempts);
        if let Some(failure) = worst.and_then(|intent| intent.last_error.as_ref()) {
            findings.push(finding(
                "stuck",
                format!("volume {}", volume.name),
                format!("{} (`kato volume why {}` tells more)", failure.message, volume.name),
                false,
            ));
        }
    }
    Ok(())
}
