//! Asking the backends how their volumes are: a disk that degrades, a copy that is missing. The node sees what does
//! not reach its bytes (`watch.rs`); this is what only the backend can know.
//!
//! It is told and forbids nothing. What was said is kept in memory, as each life of the daemon asks anew; a request
//! reads it there and never waits for a backend. A round asks about so many volumes and the next one goes on where it
//! ended, so that a large house is no burden to its backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tracing::warn;

use crate::{
    error::Error,
    house::House,
    model::{BackendName, Timestamp, Volume, VolumeId, VolumeName, VolumeState},
    ports::backend::Health,
    records::{self, keys},
    steps::backend::which,
};

/// How many volumes a round asks about.
const ROUND: usize = 1_000;

/// How many a backend is asked about at once, by the contract.
const AT_ONCE: usize = 100;

/// How many backends are asked side by side.
const ABREAST: usize = 4;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What backends complained of, and when each was heard.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    /// The name after which the next round begins.
    after: Option<String>,
    volumes: BTreeMap<VolumeId, (BackendName, VolumeName, Health)>,
    backends: BTreeMap<BackendName, Result<Timestamp, String>>,
}

/// What a backend said of its volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consultation {
    /// When it was heard last, or why it could not be.
    pub heard: Result<Timestamp, String>,
    /// Which volumes it complained of.
    pub complaints: Vec<(VolumeName, Health)>,
}

impl Complaints {
    /// What a volume's backend complains of.
    pub(crate) fn of(&self, id: VolumeId) -> Option<Health> {
        self.all().volumes.get(&id).map(|(_, _, health)| health.clone())
    }

    /// What a backend said; nothing if it was never asked.
    pub(crate) fn by(&self, backend: &BackendName) -> Option<Consultation> {
        let all = self.all();
        let heard = all.backends.get(backend)?.clone();
        let complaints = all.volumes.values().filter(|(by, ..)| by == backend);
        Some(Consultation {
            heard,
            complaints: complaints.map(|(_, name, health)| (name.clone(), health.clone())).collect(),
        })
    }

    /// How many volumes are complained of.
    pub(crate) fn count(&self) -> usize {
        self.all().volumes.len()
    }

    fn all(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, backend: &BackendName, volumes: &[Volume], answers: Vec<Health>, now: Timestamp) {
        let mut all = self.all();
        for (volume, health) in volumes.iter().zip(answers) {
            if health.reason.is_empty() {
                all.volumes.remove(&volume.id);
            } else {
                all.volumes.insert(volume.id, (backend.clone(), volume.name.clone(), health));
            }
        }
        all.backends.insert(backend.clone(), Ok(now));
    }

    /// What a backend said before it fell silent is no news any more.
    fn unheard(&self, backend: &BackendName, why: &Error) {
        let mut all = self.all();
        all.volumes.retain(|_, (by, ..)| by != backend);
        all.backends.insert(backend.clone(), Err(why.message.clone()));
    }

    fn forget_others(&self, able: &BTreeSet<BackendName>) {
        let mut all = self.all();
        all.volumes.retain(|_, (by, ..)| able.contains(by));
        all.backends.retain(|by, _| able.contains(by));
    }
}

/// Asks about the next volumes.
pub(crate) async fn consult(house: &Arc<House>) -> Result<(), Error> {
    let catalog = house.catalog();
    let able = catalog.backends.iter().filter(|(_, backend)| backend.describe().abilities.health);
    let able: BTreeSet<BackendName> = able.map(|(name, _)| name.clone()).collect();
    house.complaints.forget_others(&able);
    if able.is_empty() {
        return Ok(());
    }
    forget_the_gone(house).await?;
    let mut by_backend: BTreeMap<BackendName, Vec<Volume>> = BTreeMap::new();
    for volume in next_round(house).await? {
        if volume.state == VolumeState::Ready && able.contains(&volume.backend) {
            by_backend.entry(volume.backend.clone()).or_default().push(volume);
        }
    }
    stream::iter(by_backend)
        .for_each_concurrent(ABREAST, |(name, volumes)| async move { ask(house, &name, &volumes).await })
        .await;
    Ok(())
}

/// What was complained of and has been removed since.
async fn forget_the_gone(house: &House) -> Result<(), Error> {
    let ids: Vec<VolumeId> = house.complaints.all().volumes.keys().copied().collect();
    for id in ids {
        if house.journal.family(id).await?.value.volume.is_none() {
            house.complaints.all().volumes.remove(&id);
        }
    }
    Ok(())
}

async fn next_round(house: &House) -> Result<Vec<Volume>, Error> {
    let after = house.complaints.all().after.clone();
    let entries = house.journal.page(keys::VOLUME_NAMES, after.as_deref(), ROUND).await?;
    let last = entries.last().filter(|_| entries.len() == ROUND).map(|entry| entry.key.clone());
    house.complaints.all().after = last;
    let mut volumes = Vec::with_capacity(entries.len());
    for entry in &entries {
        volumes.extend(house.journal.family(records::decode(entry)?).await?.value.volume);
    }
    Ok(volumes)
}

async fn ask(house: &House, name: &BackendName, volumes: &[Volume]) {
    for some in volumes.chunks(AT_ONCE) {
        let asked = async {
            let backend = house.backend(name).await?;
            let extras = backend.extras().ok_or_else(|| Error::unsupported("it cannot say"))?;
            let answers = extras.health(some.iter().map(|volume| which(house, volume)).collect()).await?;
            match answers.len() == some.len() {
                true => Ok(answers),
                false => {
                    Err(Error::internal("it answered about another number of volumes than it was asked"))
                }
            }
        };
        let answer = tokio::select! {
            answer = asked => answer,
            () = house.ports.clock.sleep_until(house.now().plus(PATIENCE)) => {
                Err(Error::timeout(format!("it did not say within {} s how its volumes are", PATIENCE.as_secs())))
            }
            () = house.stopping.cancelled() => return,
        };
        match answer {
            Ok(answers) => house.complaints.heard(name, some, answers, house.now()),
            Err(error) => {
                warn!(backend = %name, error = %error, "could not ask a backend how its volumes are, trying again later");
                house.complaints.unheard(name, &error);
                return;
            }
        }
    }
}
