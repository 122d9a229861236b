//! What every call goes through, so that a service's method is one line:
//!
//! ```ignore
//! async fn delete_volume(&self, request: Request<DeleteVolumeRequest>) -> Answer<DeleteVolumeResponse> {
//!     self.door.call(request, delete_volume).await
//! }
//!
//! async fn delete_volume(door: Arc<Door>, ctx: Context, request: DeleteVolumeRequest)
//!     -> Result<DeleteVolumeResponse, Error>
//! {
//!     door.orchestrator.delete(&ctx, convert::delete_from_wire(&request)?).await?;
//!     Ok(DeleteVolumeResponse {})
//! }
//! ```
//!
//! In this order: a span is opened, the request is checked (`check.rs`), it takes off beside equal calls only
//! (`flight.rs`), waits for a seat, is carried out, its answer is checked, and its error becomes a status
//! (`error.rs`). All of that is done by a task of its own, which outlives a client that goes away or cancels: the hall
//! is told (`Context::abandoned`), withdraws or finishes what was wished, and a repeat shares the result.

mod stream;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kato_orchestrator::{Error, Kind, Orchestrator, ops::Context};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};
use tracing::{Instrument, Span, field::Empty};

use crate::{
    capabilities::Claims,
    check::{Asked, Checked},
    config::Config,
    error,
    flight::{Flight, Flights, Key, Likeness},
    metric,
    operation::Operation,
};

pub(crate) use self::stream::{Messages, Outlet};

/// How much longer than the hall this room waits, in case the hall does not keep its deadline.
const GRACE: Duration = Duration::from_secs(5);

/// What a service's method answers.
pub(crate) type Answer<T> = Result<Response<T>, Status>;

/// What every call needs.
pub(crate) struct Door {
    pub(crate) orchestrator: Arc<Orchestrator>,
    pub(crate) config: Config,
    requests: AtomicU64,
    flights: Arc<Flights>,
    seats: Semaphore,
    streams: Semaphore,
    tasks: TaskTracker,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Door {
    pub(crate) fn new(orchestrator: Arc<Orchestrator>, config: Config) -> Self {
        let seats = Semaphore::new(config.calls.clamp(1, Semaphore::MAX_PERMITS));
        let (requests, streams) = (AtomicU64::new(1), Semaphore::new(stream::AT_ONCE));
        let (flights, tasks) = (Arc::default(), TaskTracker::new());
        Self { orchestrator, config, requests, flights, seats, streams, tasks }
    }

    /// Returns when no call is under way any more.
    pub(crate) async fn empty(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Turns away who asks for what we do not claim.
    fn offers(&self, operation: Operation) -> Result<(), Status> {
        let catalog = self.orchestrator.catalog();
        let Some(missing) = Claims::of(&self.config, &catalog).missing(operation) else { return Ok(()) };
        let broken: Vec<_> = catalog.broken.keys().collect();
        let refused = error::not_offered(operation, missing, &broken);
        metric::served(&self.config.name, operation, refused.code(), Duration::ZERO);
        Err(refused)
    }

    /// Has a call carried out.
    pub(crate) async fn call<R, A, W, F>(self: &Arc<Self>, request: Request<R>, work: W) -> Answer<A>
    where
        R: Asked,
        A: Checked + Send + 'static,
        W: FnOnce(Arc<Self>, Context, R) -> F + Send + 'static,
        F: Future<Output = Result<A, Error>> + Send,
    {
        self.offers(R::OPERATION)?;
        let wait = patience(request.metadata()).unwrap_or(Duration::MAX).min(self.config.wait);
        let visit = Visit::begin(self, request.get_ref(), wait);
        let gone = visit.ctx.abandoned.clone().drop_guard();
        let (operation, id) = (R::OPERATION, visit.ctx.request.clone());
        let span = visit.span.clone();
        let task = self.tasks.spawn(
            async move {
                let outcome = match visit.admit(request.get_ref(), &visit.door.seats).await {
                    Ok(_admitted) => {
                        let done =
                            work(Arc::clone(&visit.door), visit.ctx.clone(), request.into_inner()).await;
                        done.and_then(|answer| match answer.check() {
                            Ok(()) => Ok(answer),
                            Err(fault) => Err(fault.of_answer()),
                        })
                    }
                    Err(error) => Err(error),
                };
                visit.end(outcome)
            }
            .instrument(span.clone()),
        );
        let answered = timeout(wait.saturating_add(GRACE), task).await;
        // Whoever asked is answered now, and so has not gone.
        drop(gone.disarm());
        let broken = match answered {
            Ok(Ok(outcome)) => return outcome.map(Response::new),
            Ok(Err(panic)) => Error::internal("the call broke off inside of kato").caused_by(panic),
            Err(_) => Error::timeout(format!("it took longer than {} s", wait.as_secs())),
        };
        let broken = broken.pending();
        span.in_scope(|| log(operation, &broken));
        Err(error::to_wire(operation, &broken, &id))
    }
}

/// One call, from its arrival to its end.
struct Visit {
    door: Arc<Door>,
    operation: Operation,
    ctx: Context,
    span: Span,
    started: Instant,
}

/// What a call holds while it is worked on.
struct Admitted<'a> {
    _flight: Option<Flight>,
    _seat: Option<tokio::sync::SemaphorePermit<'a>>,
}

impl Visit {
    fn begin<R: Asked>(door: &Arc<Door>, request: &R, wait: Duration) -> Self {
        let id = format!("csi-{}", door.requests.fetch_add(1, Ordering::Relaxed));
        let span = tracing::info_span!(
            "request",
            request.id = id,
            door = "csi",
            op = R::OPERATION.op(),
            volume.id = Empty,
            volume.name = Empty,
            holder = Empty,
        );
        if let Some(volume) = request.volume().filter(|volume| !volume.is_empty()) {
            span.record("volume.id", volume);
        }
        match request.key() {
            Some(Key::VolumeName(name)) => drop(span.record("volume.name", name)),
            Some(Key::Target(path)) => drop(span.record("holder", path)),
            _ => {}
        }
        let ctx = Context::new(id, "csi", door.orchestrator.clock().now().plus(wait));
        Self { door: Arc::clone(door), operation: R::OPERATION, ctx, span, started: Instant::now() }
    }

    /// Lets in what keeps the rules, contradicts nothing that is under way, and finds a seat in time.
    async fn admit<'s, R: Asked>(&self, request: &R, seats: &'s Semaphore) -> Result<Admitted<'s>, Error> {
        request.check().map_err(|fault| fault.of_request())?;
        beneath(&self.door.config, &request.paths())?;
        let flight = match request.key() {
            Some(key) => {
                let likeness = Likeness::of(R::OPERATION, &request.encode_to_vec());
                Some(self.door.flights.begin(key, likeness)?)
            }
            None => None,
        };
        if R::OPERATION.is_greeting() {
            return Ok(Admitted { _flight: flight, _seat: None });
        }
        let clock = self.door.orchestrator.clock();
        let seat = tokio::select! {
            biased;
            seat = seats.acquire() => seat.ok(),
            () = clock.sleep_until(self.ctx.deadline) => {
                return Err(Error::timeout("too many calls are under way, and none ended in time: try again"));
            }
            () = self.ctx.abandoned.cancelled() => {
                return Err(Error::timeout("whoever asked has hung up before it was begun"));
            }
        };
        Ok(Admitted { _flight: flight, _seat: seat })
    }

    fn end<A>(&self, outcome: Result<A, Error>) -> Result<A, Status> {
        let outcome = outcome.map_err(|error| {
            log(self.operation, &error);
            error::to_wire(self.operation, &error, &self.ctx.request)
        });
        let code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
        metric::served(&self.door.config.name, self.operation, code, self.started.elapsed());
        outcome
    }
}

/// How long the client waits, less a little: an answer that crosses its deadline is lost.
fn patience(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    let wait = match unit {
        "H" => Duration::from_secs(amount.saturating_mul(3600)),
        "M" => Duration::from_secs(amount.saturating_mul(60)),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    };
    Some(wait.saturating_sub((wait / 10).min(Duration::from_millis(500))))
}

/// Whether all of these places are where the operator lets them be. That no link leads out of there is seen where
/// they are touched, on the node.
fn beneath(config: &Config, paths: &[&str]) -> Result<(), Error> {
    let allowed = |path: &&&str| config.roots.iter().any(|root| Path::new(path).starts_with(root));
    let stray =
        paths.iter().filter(|path| !path.is_empty() && !config.roots.is_empty()).find(|path| !allowed(path));
    match stray {
        None => Ok(()),
        Some(path) => Err(Error::invalid(
            "the path lies outside of the folders that the configuration allows (csi.roots): choose one beneath them",
        )
        .about(format!("path {path}"))),
    }
}

fn log(operation: Operation, error: &Error) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let kind = error.kind.name();
    match error.kind {
        Kind::Internal => tracing::error!(kind, cause, "{error}"),
        // These are asked again and again until they are answered.
        Kind::Busy | Kind::Timeout => tracing::debug!(kind, cause, "{error}"),
        _ if operation.is_greeting() => tracing::debug!(kind, cause, "{error}"),
        _ => tracing::warn!(kind, cause, "{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::SealKey;

    fn timeout_of(text: &str) -> Option<Duration> {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        patience(&metadata)
    }

    #[test]
    fn a_client_is_answered_a_little_before_it_gives_up() {
        assert_eq!(timeout_of("15S"), Some(Duration::from_millis(14_500)));
        assert_eq!(timeout_of("1m"), Some(Duration::from_micros(900)));
        assert_eq!(timeout_of("99999999H").map(|wait| wait.as_secs() / 3600), Some(99_999_998));
        for wrong in ["", "S", "15", "-1S", "999999999S", "15X", "1.5S"] {
            assert_eq!(timeout_of(wrong), None, "{wrong}");
        }
        assert_eq!(patience(&MetadataMap::new()), None);
    }

    #[test]
    fn paths_lie_beneath_the_roots_if_there_are_any() {
        let mut config = Config::new(SealKey::new([7; 32]).unwrap());
        assert!(beneath(&config, &["/anywhere"]).is_ok());
        config.roots = vec!["/var/lib/kubelet".into()];
        assert!(beneath(&config, &["/var/lib/kubelet/pods/x", "", "/var/lib/kubelet"]).is_ok());
        for stray in ["/etc", "/var/lib/kubelet2/x", "/var/lib"] {
            let refused = beneath(&config, &["/var/lib/kubelet/a", stray]).unwrap_err();
            assert!(refused.subject.contains(stray) && refused.message.contains("csi.roots"));
        }
    }
}
