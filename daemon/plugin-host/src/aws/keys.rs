//! The credentials of one backend, kept as long as they are good. They are replaced some minutes before they end,
//! by one caller at a time; who comes meanwhile goes on with what there is. What could not be had is not asked for
//! again at once: a failure is remembered for a moment, so that many callers do not wait for it one after the other.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_types::sdk_config::SharedTimeSource;
use kato_orchestrator::Error;

use crate::grants::leaks::Known;

/// How long before their end credentials are replaced.
const EARLY: Duration = Duration::from_secs(300);
/// How long before their end they are not used any more: a request has to arrive, too.
const LAST: Duration = Duration::from_secs(10);
/// How long credentials without an end are used before their source is looked at again, for an operator may have
/// written others there.
const REREAD: Duration = Duration::from_secs(60);
/// How long a failure is remembered.
const PAUSE: Duration = Duration::from_secs(5);

/// Where credentials come from.
#[async_trait]
pub(crate) trait Source: Send + Sync {
    /// Fetches them.
    async fn load(&self) -> Result<Credentials, Error>;
}

/// Credentials, and when there have to be others.
pub(crate) struct Keys {
    source: Box<dyn Source>,
    clock: SharedTimeSource,
    known: Known,
    held: Mutex<Held>,
    /// Had by who fetches.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    credentials: Option<Credentials>,
    /// When they are to be replaced.
    until: Option<SystemTime>,
    /// Why they could not be, and how long that is believed.
    failed: Option<(SystemTime, Error)>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Held {
    fn fresh(&self, now: SystemTime) -> Option<Credentials> {
        self.credentials.clone().filter(|_| self.until.is_some_and(|until| now < until))
    }

    /// Credentials that the service still takes.
    fn usable(&self, now: SystemTime) -> Option<Credentials> {
        let good = |credentials: &Credentials| credentials.expiry().is_none_or(|end| now + LAST < end);
        self.credentials.clone().filter(good)
    }
}

impl Keys {
    pub(crate) fn new(source: impl Source + 'static, clock: SharedTimeSource, known: &Known) -> Self {
        let (held, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { source: Box::new(source), clock, known: known.clone(), held, turn }
    }

    /// The moment that requests are signed for.
    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Credentials to sign with.
    pub(super) async fn get(&self) -> Result<Credentials, Error> {
        let now = self.now();
        let (fresh, usable) = {
            let held = self.held();
            (held.fresh(now), held.usable(now))
        };
        if let Some(fresh) = fresh {
            return Ok(fresh);
        }
        let _turn = match (self.turn.try_lock(), usable) {
            (Ok(turn), _) => turn,
            (Err(_somebody_fetches), Some(usable)) => return Ok(usable),
            (Err(_somebody_fetches), None) => self.turn.lock().await,
        };
        let now = self.now();
        {
            let held = self.held();
            if let Some(fresh) = held.fresh(now) {
                return Ok(fresh);
            }
            if let Some((_, error)) = held.failed.as_ref().filter(|(until, _)| now < *until) {
                return held.usable(now).ok_or_else(|| error.clone());
            }
        }
        let loaded = self.source.load().await.and_then(|credentials| self.check(credentials));
        let mut held = self.held();
        match loaded {
            Ok((credentials, until)) => {
                *held = Held { credentials: Some(credentials.clone()), until: Some(until), failed: None };
                Ok(credentials)
            }
            Err(error) => {
                held.failed = Some((self.now() + PAUSE, error.clone()));
                let usable = held.usable(self.now()).ok_or_else(|| error.clone());
                drop(held);
                if usable.is_ok() {
                    tracing::warn!(error = %error, "credentials for AWS could not be renewed, and the old ones are used until they end");
                }
                usable
            }
        }
    }

    /// Credentials with the moment in which they are to be replaced; from now on they are looked for in all that
    /// guests see and say.
    fn check(&self, credentials: Credentials) -> Result<(Credentials, SystemTime), Error> {
        let token = credentials.session_token();
        for secret in [Some(credentials.access_key_id()), Some(credentials.secret_access_key()), token] {
            self.known.remember(secret.unwrap_or_default());
        }
        let now = self.now();
        let until = match credentials.expiry() {
            None => now + REREAD,
            Some(end) => {
                let left = end.duration_since(now).ok().filter(|left| *left > LAST).ok_or_else(|| {
                    Error::unavailable(
                        "the credentials for AWS that were fetched have ended already: check this host's clock",
                    )
                })?;
                end - EARLY.min(left / 2)
            }
        };
        Ok((credentials, until))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering::SeqCst},
        },
        time::UNIX_EPOCH,
    };

    use aws_types::sdk_config::TimeSource;
    use tokio::sync::Semaphore;

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Turned(Arc<AtomicU64>);

    impl TimeSource for Turned {
        fn now(&self) -> SystemTime {
            UNIX_EPOCH + Duration::from_secs(self.0.load(SeqCst))
        }
    }

    /// Gives numbered credentials for so many seconds, when it is let.
    struct Numbered {
        clock: Turned,
        lasting: Option<u64>,
        given: Arc<AtomicU64>,
        broken: Arc<AtomicU64>,
        gate: Arc<Semaphore>,
    }

    #[async_trait]
    impl Source for Numbered {
        async fn load(&self) -> Result<Credentials, Error> {
            self.gate.acquire().await.unwrap().forget();
            let number = self.given.fetch_add(1, SeqCst);
            if self.broken.load(SeqCst) > 0 {
                return Err(Error::unavailable(format!("broken {number}")));
            }
            let end = self.lasting.map(|lasting| self.clock.now() + Duration::from_secs(lasting));
            Ok(Credentials::new(format!("ID-{number}"), "secret-secret", None, end, "test"))
        }
    }

    struct Ground {
        clock: Turned,
        given: Arc<AtomicU64>,
        broken: Arc<AtomicU64>,
        gate: Arc<Semaphore>,
        known: Known,
        keys: Arc<Keys>,
    }

    fn ground(lasting: Option<u64>) -> Ground {
        let (clock, known) = (Turned::default(), Known::default());
        let (given, broken) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let gate = Arc::new(Semaphore::new(100));
        let source = Numbered {
            clock: clock.clone(),
            lasting,
            given: Arc::clone(&given),
            broken: Arc::clone(&broken),
            gate: Arc::clone(&gate),
        };
        let keys = Arc::new(Keys::new(source, SharedTimeSource::new(clock.clone()), &known));
        Ground { clock, given, broken, gate, known, keys }
    }

    impl Ground {
        async fn at(&self, seconds: u64) -> Result<String, String> {
            self.clock.0.store(seconds, SeqCst);
            self.keys.get().await.map(|found| found.access_key_id().to_owned()).map_err(|error| error.message)
        }
    }

    #[tokio::test]
    async fn credentials_are_replaced_before_they_end() {
        let ground = ground(Some(3600));
        assert_eq!(ground.at(0).await.unwrap(), "ID-0");
        assert_eq!(ground.at(3299).await.unwrap(), "ID-0");
        assert_eq!(ground.at(3300).await.unwrap(), "ID-1");
        assert_eq!(ground.at(3301).await.unwrap(), "ID-1");
        assert_eq!(ground.given.load(SeqCst), 2);
        assert!(ground.known.is_in(b"secret-secret"));
        assert!(!format!("{:?}", ground.keys).contains("secret"));
    }

    #[tokio::test]
    async fn credentials_of_a_short_life_are_not_fetched_for_every_request() {
        let ground = ground(Some(120));
        assert_eq!(ground.at(0).await.unwrap(), "ID-0");
        assert_eq!(ground.at(59).await.unwrap(), "ID-0");
        assert_eq!(ground.at(60).await.unwrap(), "ID-1");
    }

    #[tokio::test]
    async fn credentials_without_an_end_are_looked_for_again() {
        let ground = ground(None);
        assert_eq!(ground.at(0).await.unwrap(), "ID-0");
        assert_eq!(ground.at(59).await.unwrap(), "ID-0");
        assert_eq!(ground.at(60).await.unwrap(), "ID-1");
    }

    #[tokio::test]
    async fn old_ones_are_used_to_their_end_while_there_are_no_others() {
        let ground = ground(Some(3600));
        ground.at(0).await.unwrap();
        ground.broken.store(1, SeqCst);
        assert_eq!(ground.at(3300).await.unwrap(), "ID-0");
        assert_eq!(ground.at(3304).await.unwrap(), "ID-0");
        assert_eq!(ground.given.load(SeqCst), 2, "a failure is remembered");
        assert_eq!(ground.at(3589).await.unwrap(), "ID-0");
        assert_eq!(ground.at(3590).await.unwrap_err(), "broken 2", "the failure of a second ago");
        assert_eq!(ground.at(3600).await.unwrap_err(), "broken 3");
        ground.broken.store(0, SeqCst);
        assert_eq!(ground.at(3604).await.unwrap_err(), "broken 3");
        assert_eq!(ground.at(3605).await.unwrap(), "ID-4");
    }

    #[tokio::test]
    async fn one_fetches_and_nobody_waits_who_need_not() {
        let ground = ground(Some(3600));
        ground.gate.forget_permits(100);
        let ask = || {
            let keys = Arc::clone(&ground.keys);
            async move { keys.get().await.unwrap().access_key_id().to_owned() }
        };
        // Without any, all wait for the one who fetches.
        let (all, ()) = tokio::join!(futures_util::future::join_all([ask(), ask(), ask()]), async {
            tokio::task::yield_now().await;
            ground.gate.add_permits(1);
        });
        assert_eq!(all, ["ID-0", "ID-0", "ID-0"]);
        // With old ones, only who fetches waits.
        ground.clock.0.store(3400, SeqCst);
        let (fetched, ()) = tokio::join!(ask(), async {
            tokio::task::yield_now().await;
            assert_eq!(ask().await, "ID-0");
            ground.gate.add_permits(1);
        });
        assert_eq!((fetched.as_str(), ground.given.load(SeqCst)), ("ID-1", 2));
    }

    #[tokio::test]
    async fn what_has_ended_already_is_no_credential() {
        let told = ground(Some(5)).at(1_000_000).await.unwrap_err();
        assert!(told.contains("clock"), "{told}");
    }
}
