//! The watch over this node's mounts: whether each still reaches its bytes.
//!
//! A mount that does not is *broken*, and says why. Nothing is unmounted under a holder: those who have it keep
//! it, whoever is new is refused and told who they are. With the last of them it is taken down by the volume's
//! driver, and the next mount makes it again, checked and mended; `kato volume repair` does both at once. A
//! broken mount that is found well again while somebody holds it (a cable that was put back) is well again, and
//! one that somebody unmounted by hand is made again where it was.
//!
//! A look happens under the volume's claim on this node, so it never meets a mount on its way up or down. It is
//! patient, but not without end: a device that does not answer makes the volume *stalled*, which is told and
//! forbids nothing, for its data path waits as well and may go on. Stalls are not recorded: they are a matter
//! of seconds, and each life of the daemon finds them anew.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tracing::{error, info, warn};

use crate::{
    drivers::Subject,
    error::{Error, Kind},
    family::Family,
    house::House,
    model::{Intent, MountState, NodeId, VolumeId},
    ops::unmount::take_down,
    ports::{
        host::{Condition, Standing},
        store::{Claim, Durability},
    },
    reconcile::mounts_here,
};

/// How many mounts are looked at at once: few enough to leave the node room for whatever stalls.
const ABREAST: usize = 8;

/// How long a look waits for a step that is at work on the volume. The step sees for itself.
const COURTESY: Duration = Duration::from_secs(1);

/// How long a look may take, whatever the node's own patience.
const PATIENCE: Duration = Duration::from_secs(60);

/// Volumes whose device does not answer, and what was said.
#[derive(Debug, Default)]
pub(crate) struct Stalls(Mutex<BTreeMap<VolumeId, String>>);

impl Stalls {
    /// What keeps a volume of this node waiting, if anything does.
    pub(crate) fn of(&self, id: VolumeId) -> Option<String> {
        self.all().get(&id).cloned()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all().len()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<VolumeId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at every mount of this node.
pub(crate) async fn watch(house: &Arc<House>) -> Result<(), Error> {
    let ids = mounts_here(house).await?;
    house.stalls.all().retain(|id, _| ids.contains(id));
    stream::iter(ids)
        .for_each_concurrent(ABREAST, |id| async move {
            if let Err(error) = look(house, id).await {
                warn!(volume.id = %id, error = %error, "could not look at a mount, trying again later");
            }
        })
        .await;
    Ok(())
}

async fn look(house: &Arc<House>, id: VolumeId) -> Result<(), Error> {
    let Some(_claim) = claim(house, id).await? else { return Ok(()) };
    let family = house.journal.family(id).await?.value;
    let Some(standing) = standing(&family, house.node()) else {
        house.stalls.all().remove(&id);
        return Ok(());
    };
    let looked = tokio::select! {
        looked = house.ports.host.health(&standing) => looked,
        () = house.ports.clock.sleep_until(house.now().plus(PATIENCE)) => {
            Err(Error::timeout("the volume's device does not answer"))
        }
    };
    match looked {
        Ok(condition) => {
            if house.stalls.all().remove(&id).is_some() {
                info!(volume.id = %id, "a stalled volume answers again");
            }
            record(house, &standing, &condition).await
        }
        Err(stall) if stall.kind == Kind::Timeout => {
            if house.stalls.all().insert(id, stall.message.clone()).is_none() {
                warn!(volume.id = %id, error = %stall, "a volume is stalled");
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The claim of the volume's steps on this node; nothing while one of them is taken.
async fn claim(house: &House, id: VolumeId) -> Result<Option<Box<dyn Claim>>, Error> {
    let key = format!("{}/{}", Subject::Volume(id), house.node());
    tokio::select! {
        claim = house.ports.store.claim(&key) => claim.map(Some),
        () = house.ports.clock.sleep_until(house.now().plus(COURTESY)) => Ok(None),
    }
}

/// The mount as the records have it, if there is one to look at.
fn standing(family: &Family, node: &NodeId) -> Option<Standing> {
    let mount = family.mounts.get(node)?;
    if !matches!(mount.state, MountState::Mounted | MountState::Broken(_)) {
        return None;
    }
    let options = &family.volume.as_ref()?.filesystem.mount_options;
    let is_read_only =
        options.iter().flat_map(|option| option.split(',')).any(|option| option.trim() == "ro");
    Some(Standing {
        volume: family.id,
        path: mount.path.clone()?,
        connection: family.attachments.get(node)?.connection.clone()?,
        read_only: mount.read_only || is_read_only,
    })
}

/// What a look changed.
enum Change {
    Nothing,
    Broke,
    Vanished,
    Recovered,
}

async fn record(house: &Arc<House>, seen: &Standing, condition: &Condition) -> Result<(), Error> {
    let (node, now) = (house.node().clone(), house.now());
    let (family, change) = house
        .journal
        .edit_family(seen.volume, Durability::Lazy, |family, change| {
            let stands = family.stands(&node);
            let Some(mount) = family.mounts.get_mut(&node) else { return Ok(Change::Nothing) };
            let changed = match (&mount.state, condition) {
                (MountState::Mounted, Condition::Broken(why)) => {
                    mount.state = MountState::Broken(why.clone());
                    mount.intent = None;
                    if family.holders(&node).next().is_none() {
                        take_down(family, &node, now);
                    }
                    Change::Broke
                }
                (MountState::Mounted | MountState::Broken(_), Condition::Missing) if stands => {
                    mount.state = MountState::Mounting;
                    mount.intent = Some(Intent::new(now));
                    Change::Vanished
                }
                (MountState::Broken(_), Condition::Well) if stands => {
                    mount.state = MountState::Mounted;
                    Change::Recovered
                }
                _ => return Ok(Change::Nothing),
            };
            // A full disk is no reason to believe in a mount that is broken.
            change.frees_space();
            Ok(changed)
        })
        .await?;
    let name = family.volume.as_ref().map(|volume| volume.name.to_string()).unwrap_or_default();
    match (change, condition) {
        (Change::Broke, Condition::Broken(why)) => {
            metrics::counter!("kato_mounts_broke_total").increment(1);
            error!(volume.id = %seen.volume, volume.name = name, why, holders = family.holders_text(), "a mount broke");
        }
        (Change::Vanished, _) => {
            warn!(volume.id = %seen.volume, volume.name = name, path = seen.path, "a mount was taken away and is made again");
        }
        (Change::Recovered, _) => {
            info!(volume.id = %seen.volume, volume.name = name, "a broken mount reaches its bytes again");
        }
        _ => return Ok(()),
    }
    house.ring(Subject::Volume(seen.volume), false);
    Ok(())
}
