//! This node against records: mounts and devices, in both directions.

use std::{collections::BTreeMap, sync::Arc};

use tracing::info;

use super::{backends::Listed, finding};
use crate::{
    drivers::Subject,
    error::Error,
    family::Family,
    hall::Finding,
    house::House,
    model::{BackendName, Intent, MountState, SnapshotId, Timestamp, VolumeId, VolumeName},
    ops::{mount::stand_on, unmount::take_down},
    ports::{
        host::{Stray, Survey},
        store::Durability,
    },
    reconcile::mounts_here,
    records::keys,
};

pub(super) async fn against_records(
    house: &Arc<House>,
    listed: &Listed,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let survey = house.ports.host.survey().await?;
    for id in mounts_here(house).await? {
        missing(house, id, &survey, fix, findings).await?;
        lost(house, id, findings).await?;
    }
    for (id, stale) in stale(survey) {
        match id {
            Some(id) => stands(house, id, stale, listed, fix, findings).await?,
            None => unknown(house, stale, listed, fix, findings).await?,
        }
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

/// What this node lost and could not take down yet.
async fn lost(house: &House, id: VolumeId, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let family = house.journal.family(id).await?.value;
    let Some(lost) = family.lost.get(house.node()) else { return Ok(()) };
    let failure = lost.intent.as_ref().and_then(|intent| intent.last_error.as_ref());
    let why = failure.map_or_else(|| "it is being taken down".to_owned(), |failure| failure.message.clone());
    findings.push(finding(
        "lost-mount",
        format!("volume {}", lost.name),
        format!(
            "it was taken from this node at {}, and what is left of it here is not gone yet: {why}",
            lost.since
        ),
        false,
    ));
    Ok(())
}

/// What stands here although no record says so.
async fn stands(
    house: &Arc<House>,
    id: VolumeId,
    stale: Stale,
    listed: &Listed,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let family = house.journal.family(id).await?.value;
    // The records of now, not of before the survey: whatever is on its way has a mount record.
    if family.has_on(house.node()) {
        return Ok(());
    }
    // Somebody copies into it, or reads a snapshot, and lets go of that by himself.
    let is_filled = family.volume.as_ref().is_some_and(|volume| volume.filling.is_some());
    if is_filled || house.journal.snapshot(SnapshotId(id.0)).await?.value.is_some() {
        return Ok(());
    }
    let mut elsewhere = Vec::new();
    for path in &stale.paths {
        elsewhere.extend(house.ports.host.holders(id, path).await?);
    }
    let remedy = Remedy::of(&family, listed, &elsewhere);
    let whose = called(&family, id);
    let told = |what: &str, by_hand: &str| {
        let by_hand = if remedy.mends() || !elsewhere.is_empty() {
            String::new()
        } else {
            format!(" (by hand: `{by_hand}`)")
        };
        format!("{what}, and no record says so: {}{by_hand}", remedy.tell(listed, &elsewhere))
    };
    let mut found = Vec::new();
    for path in &stale.paths {
        let message = told(&format!("{whose} is mounted there"), &format!("umount {path}"));
        found.push(finding("stale-mount", path.clone(), message, remedy.mends()));
    }
    for (device, over) in &stale.devices {
        let message =
            told(&format!("{whose} is connected as it, over {over}"), &format!("losetup -d {device}"));
        found.push(finding("stale-device", device.clone(), message, remedy.mends()));
    }
    if fix {
        match remedy {
            Remedy::Record => {
                let now = house.now();
                correct(house, id, |family| take_what_stands_down(house, family, now)).await?;
                for one in &mut found {
                    one.fixed = true;
                }
            }
            Remedy::Remove => remove(house, Some(id), &stale, &mut found).await?,
            Remedy::Recover | Remedy::Ask | Remedy::Wait => {}
        }
    }
    findings.extend(found);
    Ok(())
}

/// What can be done about something that stands without a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// Its volume is known: it is recorded as what is to go, and the driver takes it down.
    Record,
    /// Nobody knows it, and nobody has it: the node takes it down.
    Remove,
    /// A recovery makes it known, with whoever has it.
    Recover,
    /// A backend that may know it could not be asked.
    Ask,
    /// Nobody knows it, and somebody has it.
    Wait,
}

impl Remedy {
    fn of(family: &Family, listed: &Listed, elsewhere: &[String]) -> Self {
        match &family.volume {
            // Where a node has to be attached, only a record that the backend answered says how to disconnect.
            Some(volume) if elsewhere.is_empty() && volume.connection.is_some() => Self::Record,
            None if !listed.knows(family.id) => match Self::of_nobody(listed) {
                Self::Remove if !elsewhere.is_empty() => Self::Wait,
                remedy => remedy,
            },
            Some(_) | None => Self::Recover,
        }
    }

    fn of_nobody(listed: &Listed) -> Self {
        if listed.unheard.is_empty() { Self::Remove } else { Self::Ask }
    }

    fn mends(self) -> bool {
        matches!(self, Self::Record | Self::Remove)
    }

    fn tell(self, listed: &Listed, elsewhere: &[String]) -> String {
        match self {
            Self::Record => "nobody else has it: --fix takes it down".to_owned(),
            Self::Remove => {
                "no backend knows it either, and nobody has it: --fix takes it down, and leaves what is \
                             behind it as it is"
                    .to_owned()
            }
            Self::Recover if elsewhere.is_empty() => "`kato recover --scan` makes that known".to_owned(),
            Self::Recover => {
                format!("{} has it: `kato recover --scan` makes that known", elsewhere.join(", "))
            }
            Self::Wait => format!(
                "no backend knows it either, and {} has it: stop that, then --fix takes it down",
                elsewhere.join(", ")
            ),
            Self::Ask => {
                let names: Vec<&str> = listed.unheard.iter().map(BackendName::as_str).collect();
                format!(
                    "it may be a volume of {}, which cannot be asked: see to that first",
                    names.join(" or ")
                )
            }
        }
    }
}

/// Has the node take down what nobody knows. What it refuses stays, and says why.
async fn remove(
    house: &House,
    id: Option<VolumeId>,
    stale: &Stale,
    found: &mut [Finding],
) -> Result<(), Error> {
    let mut claims = Vec::new();
    if let Some(id) = id {
        let subject = Subject::Volume(id).to_string();
        claims.push(house.ports.store.claim(&subject).await?);
        claims.push(house.ports.store.claim(&format!("{subject}/{}", house.node())).await?);
        // A recovery may have made it known since.
        let family = house.journal.family(id).await?.value;
        if family.volume.is_some() || family.has_on(house.node()) {
            return Ok(());
        }
    }
    let mounts = stale.paths.iter().cloned().map(Stray::Mount);
    let devices = stale.devices.iter().map(|(device, _)| Stray::Device(device.clone()));
    for (stray, one) in mounts.chain(devices).zip(found) {
        match house.ports.host.remove_stray(id, &stray).await {
            Ok(()) => {
                info!(?stray, "took down what stood without a record");
                one.fixed = true;
            }
            Err(error) => one.message.push_str(&format!("; it could not be taken down: {}", error.message)),
        }
    }
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
async fn unknown(
    house: &Arc<House>,
    stale: Stale,
    listed: &Listed,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    for path in stale.paths {
        // Where places are called by names, the name says whose it is.
        let name = path.rsplit('/').next().and_then(|name| VolumeName::parse(name).ok());
        let id = match &name {
            Some(name) => house.journal.record::<VolumeId>(keys::volume_name(name)).await?.value,
            None => None,
        };
        if let Some(id) = id
            && house.journal.family(id).await?.value.has_on(house.node())
        {
            continue;
        }
        let remedy = match id.is_some() || listed.knows_place(&path) {
            true => Remedy::Recover,
            false => Remedy::of_nobody(listed),
        };
        let mut one = finding("stale-mount", path.clone(), String::new(), remedy.mends());
        one.message = format!(
            "it is mounted in our folder, and no record says so: {}{}",
            remedy.tell(listed, &[]),
            if remedy.mends() { String::new() } else { format!(" (by hand: `umount {path}`)") }
        );
        if fix && remedy == Remedy::Remove {
            let alone = Stale { paths: vec![path], devices: Vec::new() };
            remove(house, None, &alone, std::slice::from_mut(&mut one)).await?;
        }
        findings.push(one);
    }
    for (device, over) in stale.devices {
        let remedy = if listed.has(&over) { Remedy::Recover } else { Remedy::of_nobody(listed) };
        let mut one = finding("stale-device", device.clone(), String::new(), remedy.mends());
        one.message = format!(
            "it stands over {over}, and nothing says for which volume: {}{}",
            remedy.tell(listed, &[]),
            if remedy.mends() { String::new() } else { format!(" (by hand: `losetup -d {device}`)") }
        );
        if fix && remedy == Remedy::Remove {
            let alone = Stale { paths: Vec::new(), devices: vec![(device, over)] };
            remove(house, None, &alone, std::slice::from_mut(&mut one)).await?;
        }
        findings.push(one);
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
