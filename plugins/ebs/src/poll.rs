//! How much work stands, for few requests: one look at up to a hundred volumes, one at their changes, and none for what
//! only waits. It decides nothing: who is ready is asked again as an effect, which looks for itself.

use std::collections::BTreeSet;

use kato_plugin_sdk::{
    http::Transport,
    polling::{Asking, Standing},
    types::Error,
};

use crate::{
    answers::{Change, Disk},
    api::Cloud,
    attachments::{HELP_MS, STUCK_MS},
    error,
    make::UNSEEN_MS,
    resume::{Doing, Work},
};

/// How often we look for something that is not to be seen.
const LOOK_MS: u64 = 5_000;

/// How this work stands.
pub(crate) fn poll<T: Transport>(cloud: &Cloud<T>, askings: &[Asking]) -> Result<Vec<Standing>, Error> {
    if askings.len() > 100 {
        return Err(error::too_many("pieces of work", askings.len()));
    }
    let works: Vec<_> = askings.iter().map(|asking| Work::read(&asking.resume)).collect();
    let ids = |changing: bool| -> Vec<&str> {
        let works = works.iter().flatten();
        let works = works.filter(|work| !matches!(work.doing, Doing::Cutting | Doing::Completing));
        let works = works.filter(|work| (work.doing == Doing::Changing) == changing);
        let ids: BTreeSet<_> = works.map(|work| work.id.as_str()).filter(|id| !id.is_empty()).collect();
        ids.into_iter().collect()
    };
    let (disks, changes) = (cloud.disks(&ids(false))?, cloud.changes(&ids(true))?);
    let standing = |(asking, work): (&Asking, &Option<Work>)| {
        let Some(work) = work else { return Standing::Ready };
        let disk = disks.iter().find(|disk| disk.id == work.id);
        let change = changes.iter().find(|change| change.volume == work.id);
        match goes_on(work, asking.node.as_deref(), cloud.now, disk, change) {
            Some(note) => Standing::Still(work.pending(cloud.now, note)),
            None => Standing::Ready,
        }
    };
    Ok(askings.iter().zip(&works).map(standing).collect())
}

/// What is going on; nothing where the effect is to be asked.
fn goes_on(
    work: &Work,
    node: Option<&str>,
    now: u64,
    disk: Option<&Disk>,
    change: Option<&Change>,
) -> Option<String> {
    let (waited, idle) = (now.saturating_sub(work.since), now.saturating_sub(work.last));
    let attached = node.and_then(|node| disk.and_then(|disk| disk.attached_to(node)));
    let note = |text: &str| Some(format!("{} {text}", work.id));
    match (work.doing, attached.map(|one| one.state.as_str())) {
        (Doing::Making, _) => match disk {
            Some(disk) if disk.state == "creating" => note("is being made"),
            Some(_) => None,
            None => (waited < UNSEEN_MS).then(|| format!("{} is not to be seen yet", work.id)),
        },
        (Doing::Cutting, _) if work.id.is_empty() => {
            (waited > idle && idle < LOOK_MS).then(|| "looking whether it was cut".to_owned())
        }
        (Doing::Cutting, _) => (waited < UNSEEN_MS).then(|| format!("{} may not be the only one", work.id)),
        (Doing::Doubting | Doing::Refused, _) => {
            (idle < LOOK_MS).then(|| "looking whether it is there".to_owned())
        }
        (Doing::Changing, _) => match change {
            Some(change) if change.state == "modifying" => {
                Some(format!("{} is being changed, {} % done", work.id, change.progress))
            }
            Some(_) => None,
            None => (idle < LOOK_MS).then(|| format!("{} is about to be changed", work.id)),
        },
        (Doing::Attaching, Some("attaching")) => {
            (waited < STUCK_MS).then(|| format!("{} is attaching", work.id))
        }
        (Doing::Attaching, Some("detaching" | "busy")) => note("is still being detached"),
        (Doing::Attaching, Some(_)) => None,
        (Doing::Attaching, None) => {
            let elsewhere = disk.is_some_and(|disk| disk.held().next().is_some() && !disk.multi_attach);
            (!elsewhere && waited < UNSEEN_MS).then(|| format!("{} is about to be attached", work.id))
        }
        (Doing::Undoing, Some(_)) => note("is taken back, to be attached under another name"),
        (Doing::Detaching | Doing::Forcing, Some("attached" | "attaching")) => {
            (idle < UNSEEN_MS).then(|| format!("{} is being detached", work.id))
        }
        (Doing::Detaching | Doing::Forcing, Some(_)) => {
            (waited < STUCK_MS || idle < HELP_MS).then(|| format!("{} is being detached", work.id))
        }
        (Doing::Fencing, Some(_)) => (idle < LOOK_MS).then(|| format!("{} is being taken away", work.id)),
        (Doing::Undoing | Doing::Detaching | Doing::Forcing | Doing::Fencing, None)
        | (Doing::Completing, _) => None,
    }
}
