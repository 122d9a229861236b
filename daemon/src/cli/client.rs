//! The daemon, from the outside: one request over its admin socket, one answer. A command asks little and then
//! ends, so each request has a connection of its own and the thread simply waits.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::{net::UnixStream, runtime::Runtime};
use tokio_util::task::TaskTracker;

use super::exit::{Exit, Failure};

/// The daemon behind a socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    runtime: Runtime,
    tasks: TaskTracker,
    /// How long the daemon is asked to wait for a wish.
    timeout: Option<Duration>,
}

impl Client {
    pub(crate) fn new(socket: PathBuf, timeout: Option<Duration>) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket, runtime, tasks: TaskTracker::new(), timeout })
    }

    /// Reads something.
    pub(crate) fn get(&self, path: &str) -> Result<Json, Failure> {
        self.json(Method::GET, path, Bytes::new())
    }

    /// Reads something that is of use only at once.
    pub(crate) fn get_within(&self, path: &str, patience: Duration) -> Result<Json, Failure> {
        self.runtime.block_on(async {
            let read = async {
                let response = self.ask(Method::GET, path, Bytes::new()).await?;
                let body = response.into_body().collect().await.map_err(|error| self.cut(&error))?.to_bytes();
                serde_json::from_slice(&body).map_err(|error| self.nonsense(&error))
            };
            tokio::time::timeout(patience, read)
                .await
                .map_err(|_| Failure::new(Exit::Timeout, "the daemon did not answer at once"))?
        })
    }

    /// Reads all pages of a list.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Json>, Failure> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = match &after {
                Some(after) => self.get(&format!("{path}?after={}", encode(after)))?,
                None => self.get(path)?,
            };
            if let Some(Json::Array(items)) = page.get("items") {
                all.extend(items.iter().cloned());
            }
            match page.get("next").and_then(Json::as_str) {
                Some(next) => after = Some(next.to_owned()),
                None => return Ok(all),
            }
        }
    }

    /// Asks for something to be done.
    pub(crate) fn post(&self, path: &str, body: &Json) -> Result<Json, Failure> {
        self.json(Method::POST, &self.patient(path), Bytes::from(body.to_string()))
    }

    /// Asks for something to be done, and waits no longer than this for it.
    pub(crate) fn post_within(&self, path: &str, body: &Json, wait: Duration) -> Result<Json, Failure> {
        let path = format!("{path}?timeout_ms={}", wait.as_millis());
        self.json(Method::POST, &path, Bytes::from(body.to_string()))
    }

    /// How long the daemon is to be waited for, where somebody said so.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Sends bytes.
    pub(crate) fn send(&self, path: &str, body: Vec<u8>) -> Result<Json, Failure> {
        self.json(Method::POST, path, Bytes::from(body))
    }

    /// Asks for something to be gone.
    pub(crate) fn delete(&self, path: &str) -> Result<Json, Failure> {
        self.json(Method::DELETE, &self.patient(path), Bytes::new())
    }

    /// Reads bytes.
    pub(crate) fn fetch(&self, path: &str) -> Result<Bytes, Failure> {
        self.runtime.block_on(async {
            let response = self.ask(Method::GET, path, Bytes::new()).await?;
            Ok(response.into_body().collect().await.map_err(|error| self.cut(&error))?.to_bytes())
        })
    }

    /// Reads lines of JSON as they come, until there are no more or `each` has seen enough.
    pub(crate) fn follow(
        &self,
        path: &str,
        each: impl FnMut(Json) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.lines(Method::GET, path, Bytes::new(), each)
    }

    /// Asks for something to be done, and reads how it goes.
    pub(crate) fn watch_done(
        &self,
        path: &str,
        body: &Json,
        each: impl FnMut(Json) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.lines(Method::POST, path, Bytes::from(body.to_string()), each)
    }

    fn lines(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        mut each: impl FnMut(Json) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let mut body = self.ask(method, path, body).await?.into_body();
            let mut kept: Vec<u8> = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.cut(&error))?;
                kept.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                while let Some(end) = kept.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = kept.drain(..=end).collect();
                    if !line.trim_ascii().is_empty() {
                        each(serde_json::from_slice(&line).map_err(|error| self.nonsense(&error))?)?;
                    }
                }
            }
            Ok(())
        })
    }

    fn patient(&self, path: &str) -> String {
        let mark = if path.contains('?') { '&' } else { '?' };
        match self.timeout {
            Some(timeout) => format!("{path}{mark}timeout_ms={}", timeout.as_millis()),
            None => path.to_owned(),
        }
    }

    fn json(&self, method: Method, path: &str, body: Bytes) -> Result<Json, Failure> {
        self.runtime.block_on(async {
            let response = self.ask(method, path, body).await?;
            let body = response.into_body().collect().await.map_err(|error| self.cut(&error))?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| self.nonsense(&error))
        })
    }

    /// One request; what is no success is already a failure.
    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| unreachable(&self.socket, &error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.cut(&error))?;
        // The connection is driven by the runtime of this one command, and ends with it.
        self.tasks.spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "kato")
            .header(header::USER_AGENT, concat!("kato/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| Failure::usage(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| self.cut(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let body = response.into_body().collect().await.map_err(|error| self.cut(&error))?.to_bytes();
        match serde_json::from_slice(&body) {
            Ok(problem) => Err(Failure::of_problem(&problem)),
            Err(error) => Err(self.nonsense(&error)),
        }
    }

    fn cut(&self, error: &hyper::Error) -> Failure {
        Failure::new(
            Exit::Unreachable,
            format!("the daemon at {} did not answer: {error}", self.socket.display()),
        )
        .next("what was asked may or may not have been heard: look before you ask again")
    }

    fn nonsense(&self, error: &serde_json::Error) -> Failure {
        let socket = self.socket.display();
        Failure::new(Exit::Failure, format!("what answers at {socket} is no Káto daemon: {error}"))
            .next("name the right socket with --socket")
    }
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let place = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::Permission, format!("you may not use the daemon's socket {place}"))
                .next("use sudo, or have admin.group in the configuration name a group of yours")
        }
        io::ErrorKind::NotFound => Failure::new(Exit::Unreachable, format!("there is no daemon at {place}"))
            .next("start it with `systemctl start kato`, or name its socket with --socket"),
        _ => Failure::new(Exit::Unreachable, format!("the daemon at {place} cannot be reached: {error}"))
            .next("see `systemctl status kato`"),
    }
}

/// A name as a part of a path or of a query.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_part_of_a_path() {
        assert_eq!(encode("a/../b c"), "a%2F%2E%2E%2Fb%20c");
        assert_eq!(encode("ü"), "%C3%BC");
    }
}
