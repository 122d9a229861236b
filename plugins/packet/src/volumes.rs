//! The operations on volumes that are there. How one comes to be is `make.rs`.

use kato_plugin_sdk::{
    grow::Grown,
    http::Transport,
    identity::Status,
    log,
    modify::Modified,
    types::{CapacityRange, Cutting, Error, ErrorKind, Pair, Volume, VolumePage, Which},
    volumes::Deleted,
};
use serde_json::{Map, Value, json};

use crate::{
    answers::{self, Policy},
    api::{self, Cloud},
    clones,
    config::{GIB, Parameters},
    convert,
    marks::{self, Label},
    poll::{making, pending},
};

/// How many volumes are told on a page.
const PAGE: usize = 500;

/// Whether the project can be used.
pub(crate) fn check<T: Transport>(cloud: &Cloud<T>) -> Result<Status, Error> {
    let project = &cloud.config.project;
    cloud.get(&format!("/projects/{project}/storage?per_page=1"))?;
    Ok(Status { fingerprint: format!("project {project}"), note: String::new() })
}

/// The volume that is meant, of all that there are.
pub(crate) fn pick<'a>(
    all: &'a [answers::Volume],
    which: &Which,
) -> Result<Option<&'a answers::Volume>, Error> {
    let Some(id) = marks::volume_id(which)? else {
        return Ok(api::of_token(all, &which.token).first().copied());
    };
    api::checked(all.iter().find(|volume| volume.id == id), which)
}

/// Looks at volumes.
pub(crate) fn inspect<T: Transport>(cloud: &Cloud<T>, which: &[Which]) -> Result<Vec<Option<Volume>>, Error> {
    let all = cloud.volumes()?;
    let told = |which| Ok(pick(&all, which)?.map(|volume| convert::volume(&cloud.config, volume)));
    which.iter().map(told).collect()
}

/// A page of all volumes that are ours: the whole list is read for each, as that alone is sure to have all of them.
pub(crate) fn list<T: Transport>(cloud: &Cloud<T>, page: Option<&str>) -> Result<VolumePage, Error> {
    let mut all = cloud.volumes()?;
    all.retain(|volume| volume.token().is_some());
    let (some, next) = paged(&all, page, PAGE);
    Ok(VolumePage { items: some.iter().map(|volume| convert::volume(&cloud.config, volume)).collect(), next })
}

/// The volumes behind the last one of the page before, and where the page after them begins.
pub(crate) fn paged<'a>(
    all: &'a [answers::Volume],
    after: Option<&str>,
    most: usize,
) -> (&'a [answers::Volume], Option<String>) {
    let start = all.partition_point(|volume| after.is_some_and(|after| volume.id.as_str() <= after));
    let rest = all.get(start..).unwrap_or_default();
    match rest.split_at_checked(most) {
        Some((some, rest)) if !rest.is_empty() => (some, some.last().map(|volume| volume.id.clone())),
        _ => (rest, None),
    }
}

/// Writes a new mark.
pub(crate) fn remark<T: Transport>(cloud: &Cloud<T>, which: &Which, mark: &str) -> Result<(), Error> {
    let volume = cloud.found(which)?;
    match volume.label {
        Some(label) if label.mark != mark => {
            cloud.label(&volume.id, &Label { mark: mark.to_owned(), ..label })
        }
        _ => Ok(()),
    }
}

/// How a volume has to be held while it is cut or cloned: not at all, if it is there.
pub(crate) fn how<T: Transport>(cloud: &Cloud<T>, which: &Which) -> Result<Cutting, Error> {
    cloud.found(which).map(|_| Cutting::Instant)
}

/// Deletes a volume, and what else came of the requests for it.
pub(crate) fn delete<T: Transport>(cloud: &Cloud<T>, which: &Which) -> Result<Deleted, Error> {
    let all = cloud.volumes()?;
    pick(&all, which)?;
    let mut doomed = api::of_token(&all, &which.token);
    if let Some(id) = marks::volume_id(which)? {
        // Another one that was made to its end is somebody else's.
        doomed.retain(|volume| volume.id == id || !volume.is_whole());
    }
    let whole: Vec<_> = doomed.iter().filter(|one| one.is_whole()).map(|one| one.id.as_str()).collect();
    if whole.len() > 1 {
        return Err(Error::precondition(format!(
            "the volumes {} all have the token {}, and nobody can tell which of them is meant: write another description \
             on those that others made",
            whole.join(", "),
            which.token
        )));
    }
    let cloning = all.iter().find_map(|source| Some((source, source.notes.doing_for(&which.token)?)));
    let mut may_come = false;
    if let Some((source, doing)) = cloning {
        match clones::newer(source, &all, doing).as_slice() {
            [one] => doomed.push(one),
            [] => may_come = doomed.is_empty() && doing.may_come(cloud.now),
            several => {
                for one in several {
                    log::warn(format!(
                        "{} is a clone of {}: look whether anybody needs it",
                        one.id, source.id
                    ));
                }
            }
        }
    }
    for volume in &doomed {
        remove(cloud, volume)?;
    }
    // A clone that is still to come is found by whoever asks again.
    if !may_come {
        clones::forget(cloud, &all, &which.token)?;
    }
    Ok(Deleted::Done)
}

/// Removes one, if nothing keeps it.
pub(crate) fn remove<T: Transport>(cloud: &Cloud<T>, volume: &answers::Volume) -> Result<(), Error> {
    let id = &volume.id;
    if let Some(devices) = volume.others("") {
        return Err(Error::in_use(format!("the volume {id} is attached to {devices}: detach it first")));
    }
    if volume.locked {
        let text = format!("the volume {id} was locked by somebody: unlock it at the cloud, and it goes");
        return Err(Error::precondition(text));
    }
    let ours = |shot: &answers::Shot| volume.notes.snapshots.contains_key(&shot.id);
    if !volume.notes.snapshots.is_empty() && cloud.shots(id)?.iter().any(ours) {
        return Err(Error::in_use(format!(
            "the volume {id} has snapshots, which may go with it: delete them first"
        )));
    }
    match cloud.delete(&format!("/storage/{id}")) {
        Err(refusal) if !refusal.is(ErrorKind::NotFound) => Err(refusal.error),
        _ => Ok(()),
    }
}

/// Makes a volume larger, which has to be detached for it at most clouds.
pub(crate) fn grow<T: Transport>(
    cloud: &Cloud<T>,
    which: &Which,
    asked: &CapacityRange,
) -> Result<Grown, Error> {
    let volume = cloud.found(which)?;
    let size = volume.gib.saturating_mul(GIB);
    if asked.required_bytes <= size {
        return Ok(Grown::Done(size));
    }
    if !volume.is_active() {
        return Ok(Grown::Pending(making(&volume.id, &volume.state)));
    }
    change(cloud, &volume, Some(cloud.config.sizes.choose(asked)? / GIB), &Parameters::default())?;
    match cloud.found(which)?.gib.saturating_mul(GIB) {
        size if asked.required_bytes <= size => Ok(Grown::Done(size)),
        _ => Ok(Grown::Pending(pending("growing", format!("the volume {} is being grown", volume.id)))),
    }
}

/// Changes the parameters of a volume.
pub(crate) fn modify<T: Transport>(
    cloud: &Cloud<T>,
    which: &Which,
    parameters: &[Pair],
) -> Result<Modified, Error> {
    let asked = Parameters::changes(parameters)?;
    let volume = cloud.found(which)?;
    if !volume.is_active() {
        return Ok(Modified::Pending(making(&volume.id, &volume.state)));
    }
    change(cloud, &volume, None, &asked)?;
    Ok(Modified::Done)
}

/// Changes what differs from what is asked for; answers whether anything did.
pub(crate) fn change<T: Transport>(
    cloud: &Cloud<T>,
    volume: &answers::Volume,
    gib: Option<u64>,
    asked: &Parameters,
) -> Result<bool, Error> {
    let id = &volume.id;
    let mut body = Map::new();
    if let Some(gib) = gib.filter(|gib| *gib > volume.gib) {
        body.insert("size".into(), gib.into());
    }
    if let Some(plan) = asked.plan.as_ref().filter(|plan| !volume.plan.contains(plan)) {
        body.insert("plan_id".into(), plan.as_str().into());
    }
    let detached =
        body.contains_key("plan_id") || (body.contains_key("size") && !cloud.config.grows_attached);
    if let Some(devices) = volume.others("").filter(|_| detached) {
        return Err(Error::in_use(format!(
            "the volume {id} is attached to {devices}, and changes size and plan only while it is detached"
        )));
    }
    if let Some(cycle) = asked.billing_cycle.as_ref().filter(|cycle| **cycle != volume.billing_cycle) {
        body.insert("billing_cycle".into(), cycle.as_str().into());
    }
    let mut changed = !body.is_empty();
    if changed {
        cloud.patch(&format!("/storage/{id}"), &Value::Object(body))?;
    }
    if let Some(wanted) = &asked.policies {
        if volume.policies.iter().any(|policy| policy.frequency.is_empty()) {
            let text = format!("the cloud does not tell what the policies of {id} are: change them there");
            return Err(Error::unsupported(text));
        }
        // Those that are there once and wanted stay.
        let mut missing: Vec<_> = wanted.iter().collect();
        for policy in &volume.policies {
            match missing.iter().position(|one| one.spell() == policy.spell()) {
                Some(at) => drop(missing.remove(at)),
                None => match cloud.delete(&format!("/storage/snapshot-policies/{}", policy.id)) {
                    Err(refusal) if !refusal.is(ErrorKind::NotFound) => return Err(refusal.error),
                    _ => changed = true,
                },
            }
        }
        for policy in missing {
            let Policy { frequency, count, .. } = policy;
            let query = format!("snapshot_frequency={frequency}&snapshot_count={count}");
            cloud.post(&format!("/storage/{id}/snapshot-policies?{query}"), &self::policy(policy))?;
            changed = true;
        }
    }
    Ok(changed)
}

/// A policy, as the API is told it.
pub(crate) fn policy(policy: &Policy) -> Value {
    json!({ "snapshot_frequency": policy.frequency, "snapshot_count": policy.count })
}
