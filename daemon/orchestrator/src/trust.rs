//! Whether a backend is the one that we know. A backend under the same name that is another one (an unmounted
//! folder, a different account) would call everything absent; no record goes because such a one says so.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use crate::{
    error::{Error, Kind},
    house::House,
    journal::Change,
    model::{BackendName, BackendRecord, Timestamp},
    ports::{
        backend::{Backend, Check},
        store::Durability,
    },
    records::keys,
};

/// For so long a check is believed.
const BELIEVED: Duration = Duration::from_secs(5);

/// When a backend's last check ended, and why it failed if it did. Whoever wants to know meanwhile waits: a check is
/// as dear as a few calls, and many want one at the same moment.
pub(crate) type LastCheck = tokio::sync::Mutex<Option<(Timestamp, Option<(Kind, String)>)>>;

impl House {
    /// The backend of that name, checked lately to be the one that we know.
    pub(crate) async fn backend(&self, name: &BackendName) -> Result<Arc<dyn Backend>, Error> {
        let backend = self.catalog().backend(name).map_err(Error::pending)?;
        if self.is_trusted(name) {
            return Ok(backend);
        }
        let asked = self.now();
        let turn = {
            let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(checks.entry(name.clone()).or_default())
        };
        let mut last = turn.lock().await;
        if self.is_trusted(name) {
            return Ok(backend);
        }
        if let Some((ended, Some((kind, why)))) = last.as_ref()
            && *ended > asked
        {
            return Err(Error::new(*kind, why.clone()).pending());
        }
        let outcome = self.check(name, &backend).await;
        *last = Some((self.now(), outcome.as_ref().err().map(|error| (error.kind, error.message.clone()))));
        outcome.map_err(Error::pending)?;
        Ok(backend)
    }

    fn is_trusted(&self, name: &BackendName) -> bool {
        let now = self.now();
        let trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        trusted.get(name).is_some_and(|when| now.since(*when) < BELIEVED)
    }

    /// Asks a backend what it is and compares. The first time, it is remembered.
    pub(crate) async fn check(&self, name: &BackendName, backend: &Arc<dyn Backend>) -> Result<Check, Error> {
        let check = backend.check().await?;
        let seen = self.journal.record::<BackendRecord>(keys::backend(name)).await?;
        match &seen.value {
            Some(known) if known.fingerprint == check.fingerprint => {}
            Some(known) => {
                return Err(Error::unavailable(format!(
                    "this is not the backend that is known under the name: it was {:?} and is now {:?}. Is a folder not \
                     mounted, or an account changed? If it is right, say `kato backend rebind {name}`",
                    known.fingerprint.0, check.fingerprint.0
                ))
                .about(format!("backend {name}")));
            }
            None => self.bind(name, backend, &check).await?,
        }
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), self.now());
        Ok(check)
    }

    /// Remembers what a backend is.
    pub(crate) async fn bind(
        &self,
        name: &BackendName,
        backend: &Arc<dyn Backend>,
        check: &Check,
    ) -> Result<(), Error> {
        let mut change = Change::default();
        change.put(
            keys::backend(name),
            &BackendRecord {
                name: name.clone(),
                fingerprint: check.fingerprint.clone(),
                plugin: backend.describe().plugin,
                bound: self.now(),
            },
        );
        self.journal.commit(change, Durability::Durable).await
    }
}
