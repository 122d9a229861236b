//! HTTP as the kit's models of other houses speak it: a socket that may be inside of a machine, requests that are read
//! whole, answers that may be lost on command, and the forms that stand in URLs and bodies. What is asked and answered is
//! the models' own affair.

#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a socket that cannot be had ends the test, in words, and whoever comes is answered until the runtime ends"
)]

use std::{
    fmt,
    fs::File,
    net::{SocketAddr, TcpListener},
    os::fd::AsFd as _,
    sync::OnceLock,
    thread,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sha2::{Digest as _, Sha256};

use crate::machine::Machine;

/// A request, read whole.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
    digest: OnceLock<[u8; 32]>,
}

impl Request {
    /// A header. Of several of one name, the first: no client of ours sends more.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// SHA-256 of the body, for which a large one is gone through only once.
    pub(crate) fn digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| Sha256::digest(&self.body).into())
    }

    async fn read(request: hyper::Request<Incoming>) -> Result<Self, Lost> {
        let (parts, body) = request.into_parts();
        Ok(Self {
            body: body.collect().await.map_err(|_| Lost)?.to_bytes(),
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers,
            digest: OnceLock::new(),
        })
    }
}

/// The connection ends without an answer.
#[derive(Debug)]
pub(crate) struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer is lost on command")
    }
}

impl std::error::Error for Lost {}

/// A socket on this address, inside of a machine where one is named. Port 0 is any that is free.
pub(crate) fn listen(machine: Option<&Machine>, address: SocketAddr) -> TcpListener {
    let net = machine.map(|machine| machine.path("/proc/1/ns/net"));
    let bind = move || {
        if let Some(net) = net {
            let net = File::open(net).expect("the machine's network");
            // Only this thread moves, and it ends; the socket stays where it was made.
            move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("a machine whose network can be entered");
        }
        TcpListener::bind(address).expect("a socket on the loopback")
    };
    thread::spawn(bind).join().expect("a socket")
}

/// Answers whoever comes, until the runtime ends.
pub(crate) async fn serve<A>(listener: TcpListener, answer: A)
where
    A: Answering + Clone + Send + Sync + 'static,
{
    listener.set_nonblocking(true).expect("a socket that does not block");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket of the runtime's");
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).ok();
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer.clone();
                async move { answer.answer(Request::read(request).await?).await }
            });
            // Who goes away in the middle, or is sent away on command, is none of our business.
            http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

/// Who answers.
pub(crate) trait Answering {
    fn answer(&self, request: Request) -> impl Future<Output = Result<Response<Full<Bytes>>, Lost>> + Send;
}

/// The names and values of a form, in its order.
pub(crate) fn pairs(form: &str) -> Vec<(String, String)> {
    let parts = form.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).unwrap_or(0);
                let (high, low) = (digit(), digit());
                u8::try_from(high * 16 + low).unwrap_or(0)
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
