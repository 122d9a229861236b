//! The way in: HTTP/1.1 over a unix socket, read as raw bytes. It opens the span, sets the deadline, finds the
//! operation, and answers with a JSON object whatever happens, except where no answer is the only true one
//! (`error.rs` says when).
//!
//! An operation that was begun goes on when its client goes away: the hall withdraws or finishes what was
//! wished, and a client that comes back shares the result. The hall is told at once, because who has hung up
//! cannot be told that it holds something: dockerd gives up after two minutes and never unmounts.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kato_orchestrator::{Error, Kind, Orchestrator, ops::Context};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    config::Config,
    error::{self, Refusal},
    handlers::{self, Operation},
    metric,
    protocol::{Answer, CONTENT_TYPE},
    socket::{Line, Patient, Peer},
};

/// The largest request that is read. dockerd's are a few hundred bytes.
const BODY_LIMIT: usize = 1 << 20;

/// The largest head of a request.
const HEAD_LIMIT: usize = 64 << 10;

/// How much longer than the hall this room waits, in case the hall does not keep its deadline.
const GRACE: Duration = Duration::from_secs(5);

/// What every request needs.
pub(crate) struct Door {
    pub(crate) orchestrator: Arc<Orchestrator>,
    pub(crate) config: Config,
    pub(crate) requests: AtomicU64,
    driver: String,
    tasks: TaskTracker,
}

/// Serves until `shutdown`, then answers what was begun and returns.
pub async fn serve(
    listener: UnixListener,
    orchestrator: Arc<Orchestrator>,
    config: Config,
    shutdown: CancellationToken,
) {
    let driver = config.driver();
    let tasks = TaskTracker::new();
    let door =
        Arc::new(Door { orchestrator, config, requests: AtomicU64::new(1), driver, tasks: tasks.clone() });
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(connection(Arc::clone(&door), stream, shutdown.clone()));
            }
            Err(error) => {
                // Out of descriptors, mostly: the connection waits in the socket until there are some.
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(door: Arc<Door>, stream: UnixStream, shutdown: CancellationToken) {
    let peer = Peer::of(&stream);
    let line = match Line::of(&stream) {
        Ok(line) => Arc::new(line),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be served");
            return;
        }
    };
    let (stream, turn) = Patient::new(stream, door.config.request_wait());
    let service = service_fn(|request| {
        let (door, turn, line) = (Arc::clone(&door), Arc::clone(&turn), Arc::clone(&line));
        async move {
            turn.serve();
            let response = respond(&door, peer, &line, request).await;
            turn.rest();
            response
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_LIMIT)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// There is no true answer: the connection is closed, which dockerd takes for "not now".
#[derive(Debug)]
struct Unanswered;

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed without an answer, because none is known to be true")
    }
}

impl std::error::Error for Unanswered {}

async fn respond(
    door: &Arc<Door>,
    peer: Peer,
    line: &Line,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Unanswered> {
    let path = request.uri().path();
    let Some(operation) = Operation::ALL.into_iter().find(|operation| operation.path() == path) else {
        let words = format!("{path:?} is nothing that a Docker volume plugin is asked");
        return Ok(plain(StatusCode::NOT_FOUND, &Answer::failure(words), true));
    };
    if request.method() != Method::POST {
        let words = format!("{path} takes POST only");
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, &Answer::failure(words), true);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    let started = Instant::now();
    let body = match body(request.into_body(), door.config.request_wait()).await {
        Ok(body) => body,
        Err((status, words)) => {
            metric::served(&door.driver, operation.path(), Some(Kind::InvalidArgument), started.elapsed());
            return Ok(plain(status, &Answer::failure(words), true));
        }
    };
    let id = door.next_request();
    let span = tracing::info_span!(
        "request",
        request.id = id,
        door = "docker",
        op = operation.op(),
        volume.name = tracing::field::Empty,
        holder = tracing::field::Empty,
    );
    let outcome = carry_out(door, operation, peer, line, id.clone(), body).instrument(span.clone()).await;
    let failure = outcome.as_ref().err().map(|refusal| refusal.error().kind);
    metric::served(&door.driver, operation.path(), failure, started.elapsed());
    match outcome {
        Ok(answer) => Ok(plain(StatusCode::OK, &answer, false)),
        Err(Refusal::Told(error)) => {
            span.in_scope(|| log(operation, &error));
            // Docker reads `Err` whatever the status; podman only where it is not 200, and takes all else for done.
            let words = Answer::failure(error::to_wire(&error, &id));
            Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, &words, false))
        }
        Err(Refusal::Silent(error)) => {
            span.in_scope(|| {
                tracing::warn!(
                    kind = error.kind.name(),
                    cause = cause(&error),
                    "{error}: closed without an answer"
                );
            });
            Err(Unanswered)
        }
    }
}

/// Has a request carried out by a task of its own, which outlives a client that goes away.
async fn carry_out(
    door: &Arc<Door>,
    operation: Operation,
    peer: Peer,
    line: &Line,
    id: String,
    body: Bytes,
) -> Result<Answer, Refusal> {
    let wait = operation.wait(&door.config);
    let deadline = door.orchestrator.clock().now().plus(wait);
    let ctx = Context::new(id, "docker", deadline);
    let abandoned = ctx.abandoned.clone();
    let work = {
        let door = Arc::clone(door);
        async move { handlers::answer(operation, &door, &ctx, &peer, &body).await }
    };
    let task = door.tasks.spawn(work.in_current_span());
    let mut answered = std::pin::pin!(timeout(wait.saturating_add(GRACE), task));
    let answered = tokio::select! {
        answered = answered.as_mut() => answered,
        () = line.hung_up() => {
            abandoned.cancel();
            answered.await
        }
    };
    match answered {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(broken)) => {
            Err(operation.refusal(Error::internal("the request broke off inside of kato").caused_by(broken)))
        }
        Err(_) => Err(operation.refusal(Error::timeout(format!("it took longer than {} s", wait.as_secs())))),
    }
}

/// The whole body, or why not. What is too large is refused unread.
async fn body(body: Incoming, patience: Duration) -> Result<Bytes, (StatusCode, String)> {
    let too_large =
        || (StatusCode::PAYLOAD_TOO_LARGE, format!("the request is larger than {BODY_LIMIT} bytes"));
    if body.size_hint().lower() > BODY_LIMIT as u64 {
        return Err(too_large());
    }
    match timeout(patience, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the request could not be read: {error}"))),
        Err(_) => Err((
            StatusCode::REQUEST_TIMEOUT,
            format!("the request did not arrive within {} s", patience.as_secs()),
        )),
    }
}

fn plain(status: StatusCode, answer: &Answer, last: bool) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.to_wire())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if last {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn log(operation: Operation, error: &Error) {
    let (kind, cause) = (error.kind.name(), cause(error));
    match (operation, error.kind) {
        // dockerd asks for every volume before it makes it.
        (Operation::Get, Kind::NotFound) => tracing::debug!(kind, cause, "{error}"),
        (_, Kind::Internal) => tracing::error!(kind, cause, "{error}"),
        _ => tracing::warn!(kind, cause, "{error}"),
    }
}

/// What is behind an error, for the log alone.
fn cause(error: &Error) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}
