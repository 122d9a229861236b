//! This node against records: mounts and devices, in both directions.

use std::{collections::BTreeMap, sync::Arc};

use super::finding;
use crate::{
    drivers::Subject,
    error::Error,
    family::Family,
    hall::Finding,
    house::House,
    model::{Intent, MountState, Timestamp, VolumeId, VolumeName},
    ops::{mount::stand_on, unmount::take_down},
    ports::{host::Survey, store::Durability},
    reconcile::mounts_here,
    records::keys,
};

pub(super) async fn against_records(
    house: &Arc<House>,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let survey = house.ports.host.survey().await?;
    for id in mounts_here(house).await? {
        missing(house, id, &survey, fix, findings).await?;
    }
    for (id, stale) in stale(survey) {
        stands(house, id, stale, fix, findings).await?;
    }
    Ok(())
}

/// What stands here of one volume, or of nobody knows whom.
#[derive(Default)]
struct Stale {
    paths: Vec<String>,
    devices: Vec<(String, String)>,
}

fn stale(survey: Survey) -> BTreeMap<Option<VolumeId>, Stale> {
    let mut all: BTreeMap<Option<VolumeId>, Stale> = BTreeMap::new();
    for (id, path) in survey.mounts {
        all.entry(id).or_default().paths.push(path);
    }
    for (id, device, over) in survey.devices {
        all.entry(id).or_default().devices.push((device, over));
    }
    all
}

/// A mount that the records know and the machine does not show.
async fn missing(
    house: &Arc<House>,
    id: VolumeId,
    survey: &Survey,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let family = house.journal.family(id).await?.value;
    let Some(mount) = family.mounts.get(house.node()) else { return Ok(()) };
    let shown = survey.mounts.iter().any(|(_, path)| mount.path.as_ref() == Some(path));
    if mount.state != MountState::Mounted || shown {
        return Ok(());
    }
    let mut one = finding(
        "missing-mount",
        called(&family, id),
        "the records say that it is mounted, the machine does not: it is mounted again at the next start, or now \
         with --fix"
            .into(),
        true,
    );
    if fix {
        let now = house.now();
        correct(house, id, |family| {
            if let Some(mount) = family.mounts.get_mut(house.node())
                && mount.state == MountState::Mounted
            {
                mount.state = MountState::Mounting;
                mount.intent = Some(Intent::new(now));
            }
        })
        .await?;
        one.fixed = true;
    }
    findings.push(one);
    Ok(())
}

/// What stands here although no record says so.
async fn stands(
    house: &Arc<House>,
    id: Option<VolumeId>,
    stale: Stale,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let family = match id {
        Some(id) => house.journal.family(id).await?.value,
        None => return unknown(house, stale, findings).await,
    };
    // The records of now, not of before the survey: whatever is on its way has a mount record.
    if family.mounts.contains_key(house.node()) {
        return Ok(());
    }
    let mut elsewhere = Vec::new();
    for path in &stale.paths {
        elsewhere.extend(house.ports.host.holders(family.id, path).await?);
    }
    let known = family.volume.is_some();
    // Where a node has to be attached, only a record that the backend answered says how to disconnect.
    let reachable = family.volume.as_ref().is_some_and(|volume| volume.connection.is_some());
    let mends = reachable && elsewhere.is_empty();
    let remedy = match (known, elsewhere.is_empty()) {
        (true, true) if mends => "nobody else has it: --fix takes it down".to_owned(),
        (true, true) => "`kato recover --scan` makes that known".to_owned(),
        (true, false) => {
            format!("{} has it: `kato recover --scan` makes that known", elsewhere.join(", "))
        }
        (false, true) => {
            "its record may have been lost: try `kato recover --scan` first, and take it down by hand if that does not \
             know it either"
                .to_owned()
        }
        (false, false) => format!(
            "{} has it, and its record was lost: `kato recover --scan` takes it back",
            elsewhere.join(", ")
        ),
    };
    let whose = called(&family, family.id);
    let by_hand = |command: String| match mends || !elsewhere.is_empty() {
        true => String::new(),
        false => format!(" (by hand: `{command}`)"),
    };
    let mut found = Vec::new();
    for path in &stale.paths {
        let message = format!(
            "{whose} is mounted there, and no record says so: {remedy}{}",
            by_hand(format!("umount {path}"))
        );
        found.push(finding("stale-mount", path.clone(), message, mends));
    }
    for (device, over) in &stale.devices {
        let message = format!(
            "{whose} is connected as it, over {over}, and no record says so: {remedy}{}",
            by_hand(format!("losetup -d {device}"))
        );
        found.push(finding("stale-device", device.clone(), message, mends));
    }
    if fix && mends {
        let now = house.now();
        correct(house, family.id, |family| take_what_stands_down(house, family, now)).await?;
        for one in &mut found {
            one.fixed = true;
        }
    }
    findings.extend(found);
    Ok(())
}

/// Records what stands, as something that is to go: the driver takes it from there.
fn take_what_stands_down(house: &House, family: &mut Family, now: Timestamp) {
    if family.volume.is_none() || family.mounts.contains_key(house.node()) {
        return;
    }
    stand_on(family, house.node(), false, &house.boot_id, now);
    take_down(family, house.node(), now);
}

/// What stands at a place, or on a device, that does not say whose it is.
async fn unknown(house: &Arc<House>, stale: Stale, findings: &mut Vec<Finding>) -> Result<(), Error> {
    for path in stale.paths {
        // Where places are called by names, the name says whose it is.
        let name = path.rsplit('/').next().and_then(|name| VolumeName::parse(name).ok());
        let id = match &name {
            Some(name) => house.journal.record::<VolumeId>(keys::volume_name(name)).await?.value,
            None => None,
        };
        if let Some(id) = id
            && house.journal.family(id).await?.value.mounts.contains_key(house.node())
        {
            continue;
        }
        let message = format!(
            "it is mounted in our folder, and no record says so: if it was a volume whose record was lost, \
             `kato recover --scan` takes it back; else `umount {path}` when nothing uses it"
        );
        findings.push(finding("stale-mount", path, message, false));
    }
    for (device, over) in stale.devices {
        let message = format!(
            "it stands over {over}, and nothing says for which volume: `losetup -d {device}` when nothing uses it"
        );
        findings.push(finding("stale-device", device, message, false));
    }
    Ok(())
}

fn called(family: &Family, id: VolumeId) -> String {
    family.volume.as_ref().map_or_else(|| format!("volume {id}"), |volume| format!("volume {}", volume.name))
}

async fn correct(
    house: &Arc<House>,
    id: VolumeId,
    mut edit: impl FnMut(&mut Family) + Send,
) -> Result<(), Error> {
    house
        .journal
        .edit_family(id, Durability::Durable, |family, _| {
            edit(family);
            Ok(())
        })
        .await?;
    house.ring(Subject::Volume(id), true);
    Ok(())
}
