//! HTTP to the operator's granted addresses. The host decides where a request may go and signs it on its way
//! out: a backend holds no credential and sets no `authorization` header.
//!
//! [`Client`] sends a request again where that is safe and soon over; whatever takes longer goes back to the
//! host as an error that says when to come again. Logic that is to be tested takes a [`Transport`].
//!
//! ```
//! use kato_plugin_sdk::{
//!     http::{Client, Request, Response, Transport},
//!     types::Error,
//! };
//!
//! struct Canned(u16);
//!
//! impl Transport for Canned {
//!     fn send(&self, _: &Request) -> Result<Response, Error> {
//!         Ok(Response { status: self.0, headers: vec![("retry-after".into(), "7".into())], body: Vec::new() })
//!     }
//! }
//!
//! let refusal = Client::over(Canned(429)).send(&Request::get("https://api.example.com/volumes")).unwrap_err();
//! assert_eq!(refusal.retry_after_ms, Some(7_000));
//! ```

use crate::types::{Error, ErrorKind};

/// How often a request is sent at most.
const ATTEMPTS: u32 = 3;
/// The wait before the second time; it doubles.
const WAIT_MS: u64 = 200;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// All of it, with scheme and host.
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Empty for none.
    pub body: Vec<u8>,
    /// Whether sending it twice does what sending it once does.
    pub idempotent: bool,
}

impl Request {
    /// A request that only reads.
    #[must_use]
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url).idempotent()
    }

    /// A request of this method, that is sent once.
    #[must_use]
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            idempotent: false,
        }
    }

    /// The same request, which may be sent again: it carries a token, or changes nothing the second time.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// The same request with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// The same request with a body of this type.
    #[must_use]
    pub fn body(self, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self.header("content-type", kind) }
    }

    /// The same request with a form for its body, the fields in this order.
    ///
    /// ```
    /// let request = kato_plugin_sdk::http::Request::new("POST", "https://api.example.com/");
    /// assert_eq!(request.form([("Name", "a b"), ("Tag.1", "x/y")]).body, b"Name=a%20b&Tag.1=x%2Fy");
    /// ```
    #[must_use]
    pub fn form<'a>(self, fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut form = String::new();
        for (name, value) in fields {
            if !form.is_empty() {
                form.push('&');
            }
            encode(&mut form, name);
            form.push('=');
            encode(&mut form, value);
        }
        self.body("application/x-www-form-urlencoded; charset=utf-8", form)
    }
}

/// Everything but letters, digits and `-._~` as `%XX`: a form's server reads `%20` as well as `+`.
fn encode(form: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            form.push(char::from(byte));
        } else {
            form.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// A response, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What carries requests. An error says that nobody knows whether the request arrived.
pub trait Transport {
    /// Sends one, once.
    fn send(&self, request: &Request) -> Result<Response, Error>;

    /// Waits a moment before the next one.
    fn wait(&self, ms: u64) {
        let _ = ms;
    }
}

/// Sends requests, and again where that is safe.
#[derive(Clone, Copy, Debug)]
pub struct Client<T> {
    transport: T,
}

impl<T: Transport> Client<T> {
    /// A client over this transport.
    pub fn over(transport: T) -> Self {
        Self { transport }
    }

    /// The response, whose status the caller judges; except for those that only say "not now": 429 is
    /// `throttled`, 502, 503 and 504 are `unavailable`, with what `retry-after` says.
    pub fn send(&self, request: &Request) -> Result<Response, Error> {
        let mut wait = WAIT_MS;
        for _ in 1..ATTEMPTS {
            match self.once(request) {
                // What asks for fewer calls gets none at once.
                Err(error) if request.idempotent && error.kind == ErrorKind::Unavailable => {
                    if error.retry_after_ms.is_some_and(|asked| asked > wait) {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
            self.transport.wait(wait);
            wait *= 2;
        }
        self.once(request)
    }

    fn once(&self, request: &Request) -> Result<Response, Error> {
        let response = self.transport.send(request)?;
        let kind = match response.status {
            429 => ErrorKind::Throttled,
            502..=504 => ErrorKind::Unavailable,
            _ => return Ok(response),
        };
        let mut error = Error::new(kind, format!("{} answered {}", host(&request.url), response.status));
        error.detail =
            String::from_utf8_lossy(response.body.get(..500).unwrap_or(&response.body)).into_owned();
        // A date is not worth a clock here: the host waits as it sees fit.
        let seconds = response.header("retry-after").and_then(|text| text.trim().parse::<u64>().ok());
        error.retry_after_ms = seconds.map(|seconds| seconds.saturating_mul(1000));
        Err(error)
    }
}

/// The host of a URL; its path and query may say more than an error should.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

#[cfg(target_family = "wasm")]
pub use self::wasi::Wasi;

#[cfg(target_family = "wasm")]
mod wasi {
    use wstd::{
        http::{Body, Client, Method},
        runtime::block_on,
        time::Duration,
    };

    use super::{Request, Response, Transport, host};
    use crate::types::Error;

    /// How long a server may take to accept, and to begin its answer.
    const CONNECT_S: u64 = 10;
    const ANSWER_S: u64 = 60;

    /// Requests through the host.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Wasi;

    impl Transport for Wasi {
        fn send(&self, request: &Request) -> Result<Response, Error> {
            let lost = |error: wstd::http::Error| {
                let message = format!("{} cannot be reached: {error}", host(&request.url));
                Error::unavailable(message).detail(format!("{error:?}"))
            };
            let mut builder = wstd::http::Request::builder().uri(&request.url).method(
                Method::from_bytes(request.method.as_bytes())
                    .map_err(|error| Error::internal(format!("the method {:?}: {error}", request.method)))?,
            );
            for (name, value) in &request.headers {
                builder = builder.header(name, value);
            }
            let wire = builder.body(Body::from(request.body.clone())).map_err(|error| {
                Error::internal(format!("the request to {}: {error}", host(&request.url)))
            })?;
            let mut client = Client::new();
            client.set_connect_timeout(Duration::from_secs(CONNECT_S));
            client.set_first_byte_timeout(Duration::from_secs(ANSWER_S));
            block_on(async {
                let mut wire = client.send(wire).await.map_err(lost)?;
                let headers = wire.headers().iter();
                let headers = headers
                    .map(|(name, value)| {
                        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                    })
                    .collect();
                let status = wire.status().as_u16();
                let body = wire.body_mut().contents().await.map_err(lost)?.to_vec();
                Ok(Response { status, headers, body })
            })
        }

        fn wait(&self, ms: u64) {
            // A sleep is begun, and not only waited for, within the runtime.
            block_on(async { wstd::task::sleep(Duration::from_millis(ms)).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Answers one after the other, and notes the waits.
    #[derive(Default)]
    struct Script {
        answers: RefCell<Vec<Result<u16, Error>>>,
        waits: RefCell<Vec<u64>>,
    }

    impl Transport for &Script {
        fn send(&self, _: &Request) -> Result<Response, Error> {
            let status = self.answers.borrow_mut().remove(0)?;
            Ok(Response { status, headers: Vec::new(), body: b"said".to_vec() })
        }

        fn wait(&self, ms: u64) {
            self.waits.borrow_mut().push(ms);
        }
    }

    fn told(request: &Request, answers: &[Result<u16, Error>]) -> (Result<u16, ErrorKind>, usize, Vec<u64>) {
        let script = Script { answers: answers.to_vec().into(), ..Script::default() };
        let answer = Client::over(&script).send(request);
        let left = script.answers.borrow().len();
        (answer.map(|r| r.status).map_err(|e| e.kind), left, script.waits.into_inner())
    }

    #[test]
    fn what_passes_is_tried_again_and_what_does_not_is_told() {
        let get = Request::get("https://x/y");
        let lost = || Err(Error::unavailable("lost"));
        assert_eq!(told(&get, &[lost(), Ok(503), Ok(200)]), (Ok(200), 0, vec![200, 400]));
        assert_eq!(told(&get, &[Ok(503), Ok(503), Ok(503), Ok(200)]).0, Err(ErrorKind::Unavailable));
        for status in [200, 400, 404, 409, 500] {
            assert_eq!(told(&get, &[Ok(status), Ok(200)]), (Ok(status), 1, vec![]));
        }
        assert_eq!(told(&get, &[Ok(429), Ok(200)]), (Err(ErrorKind::Throttled), 1, vec![]));
        assert_eq!(told(&get, &[Err(Error::permission_denied("no")), Ok(200)]).1, 1);
    }

    #[test]
    fn what_is_not_idempotent_is_sent_once() {
        let post = Request::new("POST", "https://x/y").body("text/plain", "a");
        assert_eq!(told(&post, &[Ok(503), Ok(200)]), (Err(ErrorKind::Unavailable), 1, vec![]));
        assert_eq!(told(&post.idempotent(), &[Ok(503), Ok(200)]), (Ok(200), 0, vec![200]));
    }

    #[test]
    fn an_error_names_the_host_and_not_the_path() {
        let error = Client::over(&Script { answers: vec![Ok(429)].into(), ..Script::default() })
            .send(&Request::get("https://api.example.com:8443/secret?token=1"));
        let error = error.unwrap_err();
        assert_eq!(
            (error.message.as_str(), error.detail.as_str()),
            ("api.example.com:8443 answered 429", "said")
        );
    }
}
