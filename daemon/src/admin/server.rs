//! The way in: who may ask, by when all of a request has to be there, how many are worked on at once (who sends
//! slowly keeps nobody out), and a span for each. The unix socket trusts whoever its
//! mode lets in. TCP trusts nobody: every request carries the token, names us by a name that is ours, and comes
//! from no web page of somebody else's (a browser on this host reaches loopback addresses too).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::{MatchedPath, Request},
    http::{HeaderMap, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use kato_docker_plugin::{Passed, listen};
use kato_orchestrator::{Error, Orchestrator, ports::Clock};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use super::{
    error::Problem,
    routes::{self, RequestId},
};
use crate::{
    config::{Admin, Tcp},
    journal::Journal,
    plugins::{COMPONENT_LIMIT, Plugins},
    reload::Reloader,
    telemetry::Metrics,
};

/// How long a client may take to send a head.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// How long a client may take to send the rest.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// The same for a component, which is large.
const COMPONENT_PATIENCE: Duration = Duration::from_secs(60);

/// The largest body but a component; usual ones are a few hundred bytes.
const BODY_LIMIT: usize = 1 << 20;

/// How many components may arrive at once: each is kept in memory until it is whole.
const COMPONENTS: usize = 2;

/// What every request may need.
pub(crate) struct Door {
    pub(crate) hall: Arc<Orchestrator>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) topology: BTreeMap<String, String>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) reloader: Arc<Reloader>,
    pub(crate) metrics: Metrics,
    /// dockerd's own socket, and what it calls us.
    pub(crate) engine: PathBuf,
    pub(crate) driver: String,
    pub(crate) wait: Duration,
    pub(crate) requests: usize,
    pub(crate) shutdown: CancellationToken,
}

/// The sockets, bound before anything is behind them: who connects meanwhile is kept waiting, not refused.
#[derive(Debug)]
pub(crate) struct Doorway {
    unix: UnixListener,
    tcp: Option<(TcpListener, Arc<Guard>)>,
}

impl Doorway {
    /// Binds what is configured.
    pub(crate) async fn bind(config: &Admin, passed: &Passed) -> Result<Self, Error> {
        let unix = listen(&config.socket, passed, "admin")?;
        let about = |error: Error| error.about(format!("socket {}", config.socket.display()));
        admit(&config.socket, config).map_err(about)?;
        let tcp = match &config.tcp {
            Some(tcp) => {
                let about = |error: Error| error.about(format!("admin.tcp {}", tcp.address));
                let guard = Guard::new(tcp).map_err(about)?;
                let listener = TcpListener::bind(tcp.address).await.map_err(|error| {
                    about(Error::unavailable(format!("it cannot be listened on: {error}")).caused_by(error))
                })?;
                Some((listener, Arc::new(guard)))
            }
            None => None,
        };
        Ok(Self { unix, tcp })
    }
}

/// Lets the configured group in. The socket was made for its owner alone, so nobody else came before.
fn admit(socket: &Path, config: &Admin) -> Result<(), Error> {
    let failed = |error: std::io::Error| {
        Error::unavailable(format!("its mode or group cannot be set: {error}")).caused_by(error)
    };
    if let Some(name) = &config.group {
        chown(socket, None, Some(group(name)?)).map_err(failed)?;
    }
    fs::set_permissions(socket, fs::Permissions::from_mode(config.mode)).map_err(failed)
}

/// A group's number, from its name in /etc/group or as it is.
fn group(name: &str) -> Result<u32, Error> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let groups = fs::read_to_string("/etc/group").map_err(|error| {
        Error::unavailable(format!("/etc/group cannot be read: {error}")).caused_by(error)
    })?;
    let number = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.ok_or_else(|| {
        Error::precondition(format!(
            "there is no group {name:?} on this host: `groupadd {name}`, or name another"
        ))
    })
}

/// Who may ask over TCP.
#[derive(Debug)]
struct Guard {
    token: Token,
    hosts: BTreeSet<String>,
}

/// A text that never prints.
struct Token(Vec<u8>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl Token {
    fn read(path: &Path) -> Result<Self, Error> {
        let refused = |why: String| Error::precondition(format!("the token file {} {why}", path.display()));
        let found = fs::metadata(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
        if found.mode() & 0o077 != 0 {
            return Err(refused(format!("can be read by others: `chmod 0600 {}`", path.display())));
        }
        let bytes = fs::read(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
        let token = bytes.trim_ascii();
        if token.len() < 16 {
            return Err(refused(
                "holds less than 16 characters: write more, for example of `openssl rand -hex 32`".to_owned(),
            ));
        }
        Ok(Self(token.to_vec()))
    }

    /// Compares in a time that tells nothing about where two texts differ.
    fn is(&self, other: &[u8]) -> bool {
        let mut differs = u8::from(self.0.len() != other.len());
        for (at, byte) in self.0.iter().enumerate() {
            differs |= byte ^ other.get(at).copied().unwrap_or(!byte);
        }
        std::hint::black_box(differs) == 0
    }
}

impl Guard {
    fn new(tcp: &Tcp) -> Result<Self, Error> {
        let mut hosts = tcp.hosts.clone();
        hosts.insert(tcp.address.to_string());
        hosts.insert(format!("localhost:{}", tcp.address.port()));
        Ok(Self { token: Token::read(&tcp.token_file)?, hosts })
    }

    fn admits(&self, headers: &HeaderMap) -> Result<(), Error> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        if !self.hosts.contains(host) {
            return Err(Error::permission_denied(format!(
                "{host:?} is no name of this daemon: see admin.hosts"
            )));
        }
        if let Some(origin) = text(header::ORIGIN) {
            let name = origin.split_once("://").map_or(origin, |(_, name)| name);
            if !self.hosts.contains(name) {
                return Err(Error::permission_denied("a web page of another host may not ask here"));
            }
        }
        let token = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        match token {
            Some(token) if self.token.is(token.trim().as_bytes()) => Ok(()),
            Some(_) => Err(Error::permission_denied("the token is not the one of this daemon")),
            None => Err(Error::permission_denied("a token is needed: send `Authorization: Bearer …`")),
        }
    }
}

/// Serves until the door's shutdown, then answers what was begun and returns.
pub(crate) async fn serve(doorway: Doorway, door: Arc<Door>) {
    let tasks = TaskTracker::new();
    let slots =
        Arc::new(Slots { work: Semaphore::new(door.requests), components: Semaphore::new(COMPONENTS) });
    let counter = Arc::new(AtomicU64::new(1));
    let unix = layered(&door, &slots, &counter, None);
    let tcp = doorway.tcp.map(|(listener, guard)| (listener, layered(&door, &slots, &counter, Some(guard))));
    loop {
        tokio::select! {
            () = door.shutdown.cancelled() => break,
            accepted = doorway.unix.accept() => match accepted {
                Ok((stream, _)) => {
                    tasks.spawn(connection(stream, unix.clone(), door.shutdown.clone()));
                }
                Err(error) => refuse_to_spin(&error).await,
            },
            accepted = accept(tcp.as_ref()) => match accepted {
                Ok((stream, router)) => {
                    tasks.spawn(connection(stream, router, door.shutdown.clone()));
                }
                Err(error) => refuse_to_spin(&error).await,
            },
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn accept(tcp: Option<&(TcpListener, Router)>) -> std::io::Result<(tokio::net::TcpStream, Router)> {
    match tcp {
        Some((listener, router)) => Ok((listener.accept().await?.0, router.clone())),
        None => std::future::pending().await,
    }
}

/// Out of descriptors, mostly: the connection waits in the socket until there are some.
async fn refuse_to_spin(error: &std::io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    shutdown: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
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

/// Places for requests.
struct Slots {
    /// That are worked on.
    work: Semaphore,
    /// For components that arrive.
    components: Semaphore,
}

/// The routes behind a guard, limits and a span.
fn layered(
    door: &Arc<Door>,
    slots: &Arc<Slots>,
    counter: &Arc<AtomicU64>,
    guard: Option<Arc<Guard>>,
) -> Router {
    let (slots, counter, shutdown) = (Arc::clone(slots), Arc::clone(counter), door.shutdown.clone());
    routes::router(Arc::clone(door)).layer(middleware::from_fn(move |request: Request, next: Next| {
        let (slots, counter, guard) = (Arc::clone(&slots), Arc::clone(&counter), guard.clone());
        let shutdown = shutdown.clone();
        async move {
            if let Some(Err(error)) = guard.as_deref().map(|guard| guard.admits(request.headers())) {
                tracing::warn!(%error, "a request over TCP was refused");
                return Problem(error).into_response();
            }
            let whole = tokio::select! {
                whole = arrived(request, &slots) => whole,
                () = shutdown.cancelled() => Err(Error::unavailable("the daemon is stopping: try again when it is back")),
            };
            match whole {
                Ok(request) => one(request, next, &slots, &counter).await,
                Err(error) => ([(header::CONNECTION, "close")], Problem(error)).into_response(),
            }
        }
    }))
}

/// The request when all of it is there, or why it is not.
async fn arrived(request: Request, slots: &Slots) -> Result<Request, Error> {
    let (head, body) = request.into_parts();
    let path = head.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let component = head.method == Method::POST && path == Some(routes::COMPONENTS);
    let (limit, patience) = match component {
        true => (COMPONENT_LIMIT, COMPONENT_PATIENCE),
        false => (BODY_LIMIT, BODY_PATIENCE),
    };
    let too_large = || Error::out_of_range(format!("the request is larger than {limit} bytes"));
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let _place = match component.then(|| slots.components.try_acquire()) {
        Some(Err(_)) => {
            return Err(Error::unavailable("other components are being sent: try again in a moment"));
        }
        place => place,
    };
    match timeout(patience, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(Request::from_parts(head, Body::from(collected.to_bytes()))),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Error::invalid(format!("the request could not be read: {error}"))),
        Err(_) => Err(Error::invalid(format!("the request did not arrive within {} s", patience.as_secs()))),
    }
}

async fn one(mut request: Request, next: Next, slots: &Slots, counter: &AtomicU64) -> Response {
    let Ok(_slot) = slots.work.try_acquire() else {
        return Problem(Error::unavailable("too many requests are being worked on: try again in a moment"))
            .into_response();
    };
    let id = format!("a{}", counter.fetch_add(1, Ordering::Relaxed));
    let path = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().to_string();
    let span = tracing::info_span!("request", request.id = %id, door = "admin", op = %format_args!("{method} {path}"));
    request.extensions_mut().insert(RequestId(id));
    let began = Instant::now();
    let response = next.run(request).instrument(span).await;
    Metrics::served(&method, &path, response.status().as_u16(), began.elapsed());
    response
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn guard(folder: &Path) -> Guard {
        let token_file = folder.join("token");
        fs::write(&token_file, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600)).unwrap();
        let address = "127.0.0.1:7878".parse().unwrap();
        Guard::new(&Tcp { address, token_file, hosts: BTreeSet::from(["kato.test".to_owned()]) }).unwrap()
    }

    fn headers(words: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        words.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_the_token_under_a_name_of_ours_and_from_no_foreign_page_is_admitted() {
        let folder = tempfile::tempdir().unwrap();
        let guard = guard(folder.path());
        let token = (header::AUTHORIZATION, "Bearer 0123456789abcdef");
        let host = (header::HOST, "127.0.0.1:7878");
        assert!(guard.admits(&headers(&[host.clone(), token.clone()])).is_ok());
        assert!(guard.admits(&headers(&[(header::HOST, "kato.test"), token.clone()])).is_ok());
        let own = (header::ORIGIN, "http://localhost:7878");
        assert!(guard.admits(&headers(&[host.clone(), token.clone(), own])).is_ok());
        for refused in [
            vec![token.clone()],
            vec![(header::HOST, "evil.test"), token.clone()],
            vec![host.clone()],
            vec![host.clone(), (header::AUTHORIZATION, "Bearer 0123456789abcdeF")],
            vec![host.clone(), (header::AUTHORIZATION, "Bearer 0123456789abcde")],
            vec![host.clone(), (header::AUTHORIZATION, "Bearer 0123456789abcdef0")],
            vec![host.clone(), token.clone(), (header::ORIGIN, "https://evil.test")],
            vec![host, token, (header::ORIGIN, "null")],
        ] {
            assert!(guard.admits(&headers(&refused)).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_token_that_others_can_read_or_guess_is_refused_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "0123456789abcdef").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Token::read(&file).unwrap_err().message.contains("chmod"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(!format!("{:?}", Token::read(&file).unwrap()).contains("0123"));
        fs::write(&file, "short").unwrap();
        assert!(Token::read(&file).is_err());
    }
}
