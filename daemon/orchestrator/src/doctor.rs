//! Compares what the records say with what the backends and this node have, and rebuilds records from marks.
//! A mark of another cluster is never touched.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Catalog,
    drivers::Subject,
    error::Error,
    hall::Finding,
    house::House,
    mark::Mark,
    model::{
        BackendName, CapacityRange, Connection, Filesystem, FsState, MountState, Volume, VolumeId,
        VolumeName, VolumeState, Wanted,
    },
    ports::{Backend, backend::Made, store::Durability},
    records::{self, keys},
};

/// Everything that does not fit together; with `fix`, what can be mended safely is.
pub(crate) async fn examine(house: &Arc<House>, fix: bool) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let catalog = house.catalog();
    for (name, backend) in &catalog.backends {
        backend_against_records(house, name, backend, &mut findings).await?;
    }
    for (name, why) in &catalog.broken {
        findings.push(finding(
            "unreachable",
            format!("backend {name}"),
            format!("it cannot be used: {why}"),
            false,
        ));
    }
    node_against_records(house, fix, &mut findings).await?;
    stuck(house, &mut findings).await?;
    Ok(findings)
}

fn finding(code: &'static str, subject: String, message: String, fixable: bool) -> Finding {
    Finding { code, subject, message, fixable, fixed: false }
}

/// All that a backend lists.
async fn all_of(backend: &Arc<dyn Backend>) -> Result<Vec<Made>, Error> {
    let mut all = Vec::new();
    let mut page = None;
    loop {
        let next = backend.list(page).await?;
        all.extend(next.items);
        match next.next {
            Some(token) => page = Some(token),
            None => return Ok(all),
        }
    }
}

async fn backend_against_records(
    house: &Arc<House>,
    name: &BackendName,
    backend: &Arc<dyn Backend>,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    if let Err(error) = house.check(name, backend).await {
        findings.push(finding("unreachable", format!("backend {name}"), error.message, false));
        return Ok(());
    }
    let listed = match all_of(backend).await {
        Ok(listed) => listed,
        Err(error) => {
            findings.push(finding("unreachable", format!("backend {name}"), error.message, false));
            return Ok(());
        }
    };
    let mut there = BTreeSet::new();
    for made in &listed {
        there.insert(made.handle.clone());
        match Mark::decode(&made.mark) {
            Ok(mark) if mark.cluster != house.cluster => {}
            Ok(mark) => {
                if house.journal.family(mark.id).await?.value.volume.is_none() {
                    findings.push(finding(
                        "orphan",
                        format!("{name}/{}", made.handle),
                        format!(
                            "{} of ours that no record knows{}: `kato recover --scan` takes it back",
                            made.size,
                            mark.name.map(|name| format!(", once the volume {name}")).unwrap_or_default()
                        ),
                        false,
                    ));
                }
            }
            Err(_) => findings.push(finding(
                "unmarked",
                format!("{name}/{}", made.handle),
                "it carries no mark of ours, or a damaged one: see whose it is, and remove it by hand".into(),
                false,
            )),
        }
    }
    for volume in volumes(house).await? {
        let gone = volume.handle.as_ref().is_some_and(|handle| !there.contains(handle));
        if volume.backend == *name && matches!(volume.state, VolumeState::Ready | VolumeState::Lost) && gone {
            findings.push(finding(
                "lost",
                format!("volume {}", volume.name),
                format!(
                    "the backend {name} does not have it any more: bring it back there, or remove the record with \
                     `kato volume rm --forget {}`",
                    volume.name
                ),
                false,
            ));
        }
    }
    Ok(())
}

/// Every volume there is a record of.
async fn volumes(house: &House) -> Result<Vec<Volume>, Error> {
    let mut all = Vec::new();
    for entry in house.journal.page(keys::VOLUME_NAMES, None, usize::MAX).await? {
        all.extend(house.journal.family(records::decode(&entry)?).await?.value.volume);
    }
    Ok(all)
}

async fn node_against_records(
    house: &Arc<House>,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let survey = house.ports.host.survey().await?;
    let mut known = BTreeSet::new();
    let mut mounted = BTreeSet::new();
    for id in crate::reconcile::mounts_here(house).await? {
        let family = house.journal.family(id).await?.value;
        let Some(mount) = family.mounts.get(house.node()) else { continue };
        known.insert(id);
        let shown = survey.mounts.iter().any(|(_, path)| mount.path.as_ref() == Some(path));
        if mount.state == MountState::Mounted && !shown {
            mounted.insert(id);
        }
    }
    for id in mounted {
        let mut one = finding(
            "missing-mount",
            format!("volume {id}"),
            "the records say that it is mounted, the machine does not: it is mounted again at the next start"
                .into(),
            true,
        );
        if fix {
            remount(house, id).await?;
            one.fixed = true;
        }
        findings.push(one);
    }
    for (id, path) in &survey.mounts {
        if !id.is_some_and(|id| known.contains(&id)) {
            findings.push(finding(
                "stale-mount",
                path.clone(),
                "it is mounted in our folder, but no record knows it: `umount` it when nothing uses it"
                    .into(),
                false,
            ));
        }
    }
    for (id, device, over) in &survey.devices {
        if !id.is_some_and(|id| known.contains(&id)) {
            findings.push(finding(
                "stale-device",
                device.clone(),
                format!("it stands over {over}, but no record knows it: `losetup -d {device}` when nothing uses it"),
                false,
            ));
        }
    }
    Ok(())
}

async fn remount(house: &Arc<House>, id: VolumeId) -> Result<(), Error> {
    let now = house.now();
    house
        .journal
        .edit_family(id, Durability::Durable, |family, _| {
            if let Some(mount) = family.mounts.get_mut(house.node())
                && mount.state == MountState::Mounted
            {
                mount.state = MountState::Mounting;
                mount.intent = Some(crate::model::Intent::new(now));
            }
            Ok(())
        })
        .await?;
    house.ring(Subject::Volume(id), true);
    Ok(())
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

/// Makes records for the volumes of ours that a backend has and no record knows.
pub(crate) async fn recover(house: &Arc<House>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let catalog = house.catalog();
    for (name, backend) in &catalog.backends {
        house.check(name, backend).await?;
        for made in all_of(backend).await? {
            let Ok(mark) = Mark::decode(&made.mark) else { continue };
            if mark.cluster != house.cluster || house.journal.family(mark.id).await?.value.volume.is_some() {
                continue;
            }
            let volume = rebuilt(house, &catalog, name, &made, &mark)?;
            findings.push(adopt(house, volume).await?);
        }
    }
    Ok(findings)
}

/// The record that a mark stands for.
fn rebuilt(
    house: &House,
    catalog: &Catalog,
    backend: &BackendName,
    made: &Made,
    mark: &Mark,
) -> Result<Volume, Error> {
    let class = catalog.classes.get(&mark.class);
    let directory = made.connection.as_ref().is_some_and(Connection::is_directory);
    let parameters =
        made.parameters.clone().or_else(|| class.map(|class| class.parameters.clone())).unwrap_or_default();
    Ok(Volume {
        id: mark.id,
        name: match &mark.name {
            Some(name) => name.clone(),
            None => VolumeName::parse(&format!("recovered-{}", mark.id))?,
        },
        class: mark.class.clone(),
        backend: backend.clone(),
        generation: mark.generation,
        wanted: Wanted { size: CapacityRange::at_least(made.size), parameters: parameters.clone() },
        actual: Some(made.size),
        actual_parameters: parameters,
        source: None,
        handle: Some(made.handle.clone()),
        connection: made.connection.clone(),
        topology: made.topology.clone(),
        state: VolumeState::Ready,
        filesystem: Filesystem {
            fs: mark.fs,
            state: if mark.formatted || directory { FsState::Formatted } else { FsState::Blank },
            mount_options: class.map(|class| class.mount_options.clone()).unwrap_or_default(),
            root: class.map(|class| class.root.clone()).unwrap_or_default(),
        },
        dependants: BTreeSet::new(),
        labels: Default::default(),
        created: house.now(),
        intent: None,
    })
}

async fn adopt(house: &House, volume: Volume) -> Result<Finding, Error> {
    let subject = format!("volume {}", volume.name);
    if house.journal.volume_id(&volume.name).await?.is_some() {
        return Ok(finding(
            "orphan",
            subject,
            format!("the backend has {} too, but another volume has the name now", volume.id),
            false,
        ));
    }
    house
        .journal
        .edit_family(volume.id, Durability::Durable, |family, change| {
            let name = keys::volume_name(&volume.name);
            change.guard_absent(name.clone());
            change.put(name, &volume.id);
            family.volume = Some(volume.clone());
            Ok(())
        })
        .await?;
    let mut found =
        finding("recovered", subject, format!("its record was made again from {}", volume.backend), true);
    found.fixed = true;
    Ok(found)
}
