//! How a volume comes to be. How one is copied that is there is `clones.rs`.
//!
//! The API makes one volume for each request that it hears, so whoever asks looks first whether there is one with the
//! token, and waits with asking again as long as a request that was lost may still come true. Should there be two in the
//! end, the first one counts and the other goes, unless somebody has it.
//!
//! ```text
//! look ── there ──► is it what is wished? ── active ──► its id is written on it ──► done
//!   └── nothing ──► POST ─┬─ answered ──► pending
//!                         └─ lost ──► pending, and looked for: there after all, or asked again after a while
//! ```

use kato_plugin_sdk::{
    http::Transport,
    log,
    types::{CapacityRange, Error},
    volumes::{Created, Wish},
};
use serde_json::json;

use crate::{
    answers::Volume,
    api::{self, Cloud},
    clones,
    config::{GIB, Parameters},
    convert, error,
    json::id,
    marks::{Label, SETTLE_MS},
    poll::{making, pending, word},
    volumes,
};

/// Makes a volume.
pub(crate) fn create<T: Transport>(
    cloud: &Cloud<T>,
    wish: &Wish,
    resume: Option<&[u8]>,
) -> Result<Created, Error> {
    let asked = Parameters::read(&wish.parameters)?;
    let places = places(cloud, wish, &asked)?;
    let all = cloud.volumes()?;
    let found = api::of_token(&all, &wish.token);
    let Some((volume, twins)) = found.split_first() else {
        return match &wish.source {
            None => ask(cloud, wish, &asked, &places, resume),
            Some(origin) => clones::ask(cloud, wish, &places, &all, origin),
        };
    };
    if !volume.is_active() {
        return Ok(Created::Pending(making(&volume.id, &volume.state)));
    }
    // A clone begins as its source was. What is not whole is nobody's yet, and can be changed.
    let size = volume.gib.saturating_mul(GIB);
    if wish.source.is_some() && !volume.is_whole() {
        let larger = CapacityRange { required_bytes: wish.size.required_bytes.max(size), ..wish.size };
        let gib = cloud.config.sizes.choose(&larger)? / GIB;
        if volumes::change(cloud, volume, Some(gib), &asked)? {
            return Ok(Created::Pending(making(&volume.id, "being made what is asked for")));
        }
    }
    satisfies(wish, &asked, &places, volume)?;
    if !volume.is_whole() {
        let label = volume.label.clone().unwrap_or_else(|| Label::new(&wish.token, &wish.mark, &wish.name));
        cloud.label(&volume.id, &Label { id: volume.id.clone(), ..label })?;
    }
    remove_twins(cloud, volume, twins)?;
    clones::forget(cloud, &all, &wish.token)?;
    Ok(Created::Done(convert::volume(&cloud.config, volume)))
}

/// The facilities that it may lie in, the best first.
fn places<'a, T>(cloud: &'a Cloud<T>, wish: &'a Wish, asked: &'a Parameters) -> Result<Vec<&'a str>, Error> {
    let mut places = convert::facilities(&cloud.config, &wish.topology);
    if let Some(facility) = asked.facility.as_deref() {
        if !places.is_empty() && !places.contains(&facility) {
            return Err(Error::invalid(format!(
                "`facility` is {facility}, and the volume has to be used in {}",
                places.join(" or ")
            )));
        }
        places = vec![facility];
    }
    if places.is_empty() && !cloud.config.facility.is_empty() {
        places.push(&cloud.config.facility);
    }
    if places.is_empty() {
        return Err(Error::invalid(
            "nobody says in which facility the volume is to be: write `facility` into the backend's configuration, or \
             into `node.topology` on each node",
        ));
    }
    Ok(places)
}

/// Asks for one that is empty.
fn ask<T: Transport>(
    cloud: &Cloud<T>,
    wish: &Wish,
    asked: &Parameters,
    places: &[&str],
    resume: Option<&[u8]>,
) -> Result<Created, Error> {
    let lost = |since: u64| {
        pending(format!("asking {since}"), "looking whether it is there: that is not told at once")
    };
    let since = resume.and_then(|resume| word(resume, "asking")).and_then(|since| since.parse::<u64>().ok());
    if let Some(since) = since.filter(|since| cloud.now < since.saturating_add(SETTLE_MS)) {
        return Ok(Created::Pending(lost(since)));
    }
    // One that was answered for may be seen some time later.
    if resume.is_some_and(|resume| word(resume, "making").is_some()) {
        return Ok(Created::Pending(lost(cloud.now)));
    }
    let mut body = json!({
        "description": Label::new(&wish.token, &wish.mark, &wish.name).spell(),
        "facility": places.first(),
        "plan": asked.plan.as_ref().unwrap_or(&cloud.config.plan),
        "size": cloud.config.sizes.choose(&wish.size)? / GIB,
        "billing_cycle": asked.billing_cycle.as_ref().unwrap_or(&cloud.config.billing_cycle),
    });
    if let (Some(policies), Some(body)) = (&asked.policies, body.as_object_mut()) {
        let policies: Vec<_> = policies.iter().map(volumes::policy).collect();
        body.insert("snapshot_policies".into(), policies.into());
    }
    match cloud.post(&format!("/projects/{}/storage", cloud.config.project), &body) {
        Ok(answer) => Ok(Created::Pending(making(&id(&answer), "being made"))),
        Err(refusal) if refusal.is_unclear() => Ok(Created::Pending(lost(cloud.now))),
        Err(refusal) => Err(refusal.error),
    }
}

/// Whether it is what is wished.
fn satisfies(wish: &Wish, asked: &Parameters, places: &[&str], volume: &Volume) -> Result<(), Error> {
    let differs = |why: String| Err(error::other_wish(&wish.token, &volume.id, &why));
    if !kato_plugin_sdk::capacity::admits(&wish.size, volume.gib.saturating_mul(GIB)) {
        return differs(format!("it is {} GiB large", volume.gib));
    }
    if !volume.facility.iter().any(|word| places.contains(&word.as_str())) {
        return differs(format!("it lies in {}", convert::told(&volume.facility)));
    }
    if asked.plan.as_ref().is_some_and(|plan| !volume.plan.contains(plan)) {
        return differs(format!("its plan is {}", convert::told(&volume.plan)));
    }
    Ok(())
}

/// Removes what else came of a request whose answer was lost. What was made to its end, or is attached, somebody may have.
fn remove_twins<T: Transport>(cloud: &Cloud<T>, volume: &Volume, twins: &[&Volume]) -> Result<(), Error> {
    for twin in twins {
        if twin.is_whole() || !twin.attachments.is_empty() {
            log::warn(format!(
                "the volume {} has the token of {}: look whether anybody needs it",
                twin.id, volume.id
            ));
            continue;
        }
        log::warn(format!("{} was made twice: {} is the second one and goes", volume.id, twin.id));
        volumes::remove(cloud, twin)?;
    }
    Ok(())
}
