//! Requests of guests by `wasi:http`. Every request is checked against the grants before anything is sent
//! (`grants/http.rs`), its host's name is resolved here, the address is checked, and that very address is
//! connected to. The authoriser puts the credential on last; a guest can neither set nor see it, also not in an
//! answer that repeats it (`http/answer.rs`): such a request asks for an answer that is not compressed, which
//! could not be looked through.
//!
//! Connections are kept in one pool per backend, so that backends share none and a loaded-again plugin
//! starts afresh. Nothing follows a redirect: a guest that does so sends another request, which is checked
//! like any other. The request's body is read to its end before the request leaves, because a guest that is
//! still writing would take a refusal for a broken connection.

mod answer;

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header, request::Parts, uri::Scheme};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        self, ResponseFuture,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use kato_orchestrator::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error as WasiError, ForbiddenHeaderFilter, RequestOptions, WasiBody,
    WasiHttpHooks,
};

use crate::{
    grants::{
        credentials::Secrets,
        denied,
        http::{Rule, Rules, target},
        leaks::Evident,
        way::{Proxy, Way},
    },
    guest::{Ground, Notes},
    text,
};

/// How long a name may take to resolve, and a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the first byte of an answer may take.
const FIRST_BYTE: Duration = Duration::from_secs(60);
/// The longest answer of a proxy that is asked for a tunnel.
const ANSWER: usize = 16 << 10;
/// The largest body of a request.
const BODY: usize = 32 << 20;

type Pool = legacy::Client<HttpsConnector<Connector>, Full<Bytes>>;

/// The pooled connections of one backend, one pool for each way that its requests take.
#[derive(Clone, Debug)]
pub(crate) struct Client(Vec<Pool>);

impl Client {
    /// A client behind these grants.
    pub(crate) fn new(rules: &Arc<Rules>) -> Result<Self, Error> {
        if rules.is_empty() {
            return Ok(Self(Vec::new()));
        }
        rules.ways.iter().map(|way| Self::pool(rules, way)).collect::<Result<_, _>>().map(Self)
    }

    /// Sends a request by one of the ways; nothing if there is no such way.
    pub(crate) fn request(&self, way: usize, request: Request<Full<Bytes>>) -> Option<ResponseFuture> {
        Some(self.0.get(way)?.request(request))
    }

    fn pool(rules: &Arc<Rules>, way: &Way) -> Result<Pool, Error> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(way)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector { rules: Arc::clone(rules), proxy: way.proxy.clone() });
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(16)
            .pool_timer(TokioTimer::new())
            .retry_canceled_requests(false)
            .http1_max_buf_size(64 << 10)
            .build(connector);
        Ok(pool)
    }
}

/// TLS with the roots of a way, and ring for arithmetic whatever else is linked.
fn tls(way: &Way) -> Result<rustls::ClientConfig, Error> {
    let roots = way.roots()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::internal("TLS could not be set up").caused_by(error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The requests of one call.
pub(crate) struct Outgoing {
    ground: Arc<Ground>,
    notes: Arc<Notes>,
}

impl Outgoing {
    pub(crate) fn new(ground: Arc<Ground>, notes: Arc<Notes>) -> Self {
        Self { ground, notes }
    }
}

/// The end of a request's sending, which the pool takes care of.
type Sent = Box<dyn Future<Output = Result<(), WasiError>> + Send>;

impl WasiHttpHooks for Outgoing {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        let own = self.ground.powers.http.own_headers();
        Arc::new(move |name| forbidden(name) || own.contains(name))
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Sent,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Sent), WasiError>> + Send> {
        let (ground, notes) = (Arc::clone(&self.ground), Arc::clone(&self.notes));
        Box::new(async move {
            let first_byte = options
                .and_then(|options| options.first_byte_timeout)
                .map_or(FIRST_BYTE, |wait| wait.min(FIRST_BYTE));
            let response = send(&ground, &notes, request, first_byte).await?;
            let done: Sent = Box::new(async { Ok(()) });
            Ok((response, done))
        })
    }
}

/// Headers that say who vouches for a request: the authoriser's to set.
fn forbidden(name: &HeaderName) -> bool {
    DEFAULT_FORBIDDEN_HEADERS.contains(name)
        || [header::AUTHORIZATION, header::COOKIE, header::FORWARDED].contains(name)
        || name.as_str().starts_with("x-forwarded-")
}

/// Whether a guest may put this header on a request.
pub(super) fn may_carry(ground: &Ground, name: &HeaderName) -> bool {
    !forbidden(name) && !ground.powers.http.own_headers().contains(name)
}

async fn send(
    ground: &Ground,
    notes: &Notes,
    request: Request<WasiBody>,
    first_byte: Duration,
) -> Result<Response<WasiBody>, WasiError> {
    let (parts, body) = request.into_parts();
    // The body is drained even if the request is refused: the guest is still writing it.
    let body = Limited::new(body, BODY).collect().await;
    let body = match body {
        Ok(body) => body.to_bytes(),
        Err(_too_large) => {
            allowed(ground, &parts).map_err(|error| refused(ground, notes, error))?;
            return Err(WasiError::HttpRequestBodySize(None));
        }
    };
    let answer = exchange(ground, notes, parts, body, first_byte).await?;
    Ok(answer::readable(answer.response, ground.limits.response(), answer.secrets))
}

/// What a server answered, as it answered it.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    /// What is struck out of it before a guest reads it.
    pub(crate) secrets: Evident,
}

/// Sends a request for a guest: checked against its grants, vouched for, by the grant's way. What went wrong is noted
/// for the call's finality. The answer is the server's own; a guest may read it without `secrets` only.
pub(crate) async fn exchange(
    ground: &Ground,
    notes: &Notes,
    mut parts: Parts,
    body: Bytes,
    first_byte: Duration,
) -> Result<Answer, WasiError> {
    let rules = &ground.powers.http;
    let rule = allowed(ground, &parts).map_err(|error| refused(ground, notes, error))?;
    let Some(way) = rules.ways.get(rule.way) else { return Err(WasiError::HttpRequestDenied) };
    let mut secrets = None;
    if let Some(authoriser) = &rule.authoriser {
        authoriser.allow(&parts, &body).map_err(|error| refused(ground, notes, error))?;
        secrets = authoriser.sign(&mut parts, &body, &rules.secrets, way).await.map_err(|mut error| {
            error.message = rules.secrets.redact(error.message);
            tracing::error!(backend = %ground.backend, error = %error, "a credential could not be used");
            notes.denied(&error);
            WasiError::InternalError(Some(error.message))
        })?;
    }
    let proxy = way.proxy.as_ref();
    if let Some(proxy) = proxy.filter(|_| parts.uri.scheme() == Some(&Scheme::HTTP)) {
        // A tunnel is asked for with the credential; a request that the proxy reads carries it itself.
        match proxy.credential(&rules.secrets).await {
            Ok(None) => {}
            Ok(Some(credential)) => {
                parts.headers.insert(header::PROXY_AUTHORIZATION, credential);
            }
            Err(error) => {
                notes.denied(&error);
                return Err(WasiError::InternalError(Some(error.message)));
            }
        }
    }
    if rule.authoriser.is_some() || proxy.is_some() {
        parts.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    let reads = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    parts.headers.remove(header::CONTENT_LENGTH);
    let request = Request::from_parts(parts, Full::new(body));
    let Some(sent) = ground.client.request(rule.way, request) else {
        return Err(WasiError::HttpRequestDenied);
    };
    let response = match timeout(first_byte, sent).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            if let Some(denial) = denial(&error) {
                return Err(refused(ground, notes, denial));
            }
            // A connection that was never made carried nothing.
            if !reads && !error.is_connect() {
                notes.uncertain();
            }
            tracing::debug!(backend = %ground.backend, error = ?error, "a plugin's request failed");
            return Err(if error.is_connect() {
                connect_error(&error)
            } else {
                WasiError::ConnectionTerminated
            });
        }
        Err(_late) => {
            if !reads {
                notes.uncertain();
            }
            return Err(WasiError::ConnectionReadTimeout);
        }
    };
    if response.status().is_server_error() && !reads {
        notes.uncertain();
    }
    Ok(Answer { response, secrets: rules.secrets.evident().and(secrets) })
}

/// The grant that allows a request, or why none does.
fn allowed<'a>(ground: &'a Ground, parts: &Parts) -> Result<&'a Rule, Error> {
    let rules = &ground.powers.http;
    carries_none(parts, &rules.secrets)?;
    rules.check(&parts.method, &parts.uri)
}

/// Notes that a request was refused.
fn refused(ground: &Ground, notes: &Notes, mut error: Error) -> WasiError {
    error.message = ground.powers.http.secrets.redact(error.message);
    notes.denied(&error);
    tracing::warn!(backend = %ground.backend, error = %error, "a plugin's request was denied");
    WasiError::HttpRequestDenied
}

/// Whether a guest's request is free of credentials: it would carry them to another server, and into logs.
fn carries_none(parts: &Parts, secrets: &Secrets) -> Result<(), Error> {
    let mut texts =
        parts.headers.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
    if secrets.are_in(parts.uri.to_string().as_bytes()) || texts.any(|text| secrets.are_in(text)) {
        return Err(denied(
            "a request is refused: its URL or one of its headers holds a credential of this backend's, which a \
             server must have repeated to the plugin",
        ));
    }
    Ok(())
}

/// The refusal of an address, deep in a client's error.
fn denial(error: &legacy::Error) -> Option<Error> {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Refused::Denied(denial)) = error.downcast_ref() {
            return Some(denial.clone());
        }
        source = error.source();
    }
    None
}

fn connect_error(error: &legacy::Error) -> WasiError {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = source {
        match error.downcast_ref().and_then(of_tls) {
            Some(rustls::Error::InvalidCertificate(_)) => return WasiError::TlsCertificateError,
            Some(_) => return WasiError::TlsProtocolError,
            None => {}
        }
        match error.downcast_ref() {
            Some(Refused::Late) => return WasiError::ConnectionTimeout,
            Some(Refused::Unknown(_)) => return WasiError::DnsError { rcode: None, info_code: None },
            Some(Refused::Denied(_) | Refused::Failed(_)) | None => {}
        }
        source = error.source();
    }
    WasiError::ConnectionRefused
}

/// What TLS said, which clients wrap more than once.
fn of_tls(error: &std::io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| of_tls(inner.downcast_ref()?))
}

/// Why no connection was made.
#[derive(Debug)]
enum Refused {
    Denied(Error),
    Unknown(std::io::Error),
    Failed(std::io::Error),
    Late,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(error) => write!(f, "{error}"),
            Self::Unknown(error) => write!(f, "the host's name could not be resolved: {error}"),
            Self::Failed(error) => write!(f, "the host could not be reached: {error}"),
            Self::Late => f.write_str("the host could not be reached in time"),
        }
    }
}

impl StdError for Refused {}

/// Makes connections to addresses that were checked, or to the proxy that stands for them.
#[derive(Clone)]
struct Connector {
    rules: Arc<Rules>,
    proxy: Option<Arc<Proxy>>,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = Refused;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Refused>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (rules, proxy) = (Arc::clone(&self.rules), self.proxy.clone());
        Box::pin(async move {
            let connected = async {
                match proxy {
                    Some(proxy) => through(&rules, &proxy, &uri).await,
                    None => connect(&rules, &uri).await,
                }
            };
            timeout(CONNECT, connected).await.unwrap_or(Err(Refused::Late))
        })
    }
}

async fn connect(rules: &Rules, uri: &Uri) -> Result<Stream, Refused> {
    let (tls, host, port) = target(uri).map_err(Refused::Denied)?;
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    // The system's resolver also reads decimal, octal and shortened forms: what comes out is what counts.
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((literal, port)).await.map_err(Refused::Unknown)?.collect();
    let mut last = Refused::Unknown(std::io::Error::other("it has no address"));
    for address in addresses {
        if let Err(denial) = rules.address(tls, &host, port, address.ip()) {
            if !matches!(last, Refused::Failed(_)) {
                last = Refused::Denied(denied(denial.message));
            }
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Small requests should not wait for their predecessors' acknowledgement.
                let _unsupported = stream.set_nodelay(true);
                return Ok(Stream { io: TokioIo::new(stream), proxied: false });
            }
            Err(error) => last = Refused::Failed(error),
        }
    }
    Err(last)
}

/// A connection to a proxy: for a plain request itself, for an encrypted one a tunnel in it.
async fn through(rules: &Rules, proxy: &Proxy, uri: &Uri) -> Result<Stream, Refused> {
    let (tls, host, port) = target(uri).map_err(Refused::Denied)?;
    if is_number(&host) {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        for address in tokio::net::lookup_host((literal, port)).await.map_err(Refused::Unknown)? {
            let allowed = rules.address(tls, &host, port, address.ip());
            allowed.map_err(|denial| Refused::Denied(denied(denial.message)))?;
        }
    }
    let mut stream = TcpStream::connect((proxy.host.as_str(), proxy.port)).await.map_err(Refused::Failed)?;
    let _unsupported = stream.set_nodelay(true);
    if tls {
        tunnel(&mut stream, rules, proxy, &format!("{host}:{port}")).await?;
    }
    Ok(Stream { io: TokioIo::new(stream), proxied: !tls })
}

/// Whether a host is an address, in any of the forms that resolvers read as one.
fn is_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    host.starts_with('[') || last.starts_with(|first: char| first.is_ascii_digit())
}

/// Asks a proxy to connect us to a server.
async fn tunnel(stream: &mut TcpStream, rules: &Rules, proxy: &Proxy, to: &str) -> Result<(), Refused> {
    let mut ask = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n").into_bytes();
    if let Some(credential) = proxy.credential(&rules.secrets).await.map_err(Refused::Denied)? {
        ask.extend(b"proxy-authorization: ");
        ask.extend(credential.as_bytes());
        ask.extend(b"\r\n");
    }
    ask.extend(b"\r\n");
    stream.write_all(&ask).await.map_err(Refused::Failed)?;
    let mut heard = Vec::new();
    // Byte by byte: what follows the answer belongs to the server.
    while !heard.ends_with(b"\r\n\r\n") {
        if heard.len() > ANSWER {
            return Err(Refused::Failed(std::io::Error::other("the proxy's answer does not end")));
        }
        heard.push(stream.read_u8().await.map_err(Refused::Failed)?);
    }
    let line = String::from_utf8_lossy(heard.split(|byte| *byte == b'\r').next().unwrap_or_default());
    let mut words = line.split(' ');
    let spoken = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    if spoken && words.next().is_some_and(|status| status.len() == 3 && status.starts_with('2')) {
        return Ok(());
    }
    let why = format!(
        "the proxy {}:{} refused a tunnel to {to}: {}",
        proxy.host,
        proxy.port,
        text::line(&line, 100)
    );
    Err(Refused::Denied(denied(why)))
}

/// A connection to an address that was checked, or to a proxy.
struct Stream {
    io: TokioIo<TcpStream>,
    /// Whether whole requests are written to it.
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
