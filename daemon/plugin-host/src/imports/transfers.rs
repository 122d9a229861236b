//! Blocks on their way between a backend's own API and the hall. The guest names requests, each for a part of what its
//! call is about; they are checked and signed like every other (`http.rs`), many are under way at once, and their
//! bodies never enter the guest: in and out of it a block would be copied four times, and hashed at a fifth of the speed.
//!
//! What was fetched is believed only when it is as long as it was to be, and of the digest that the answer tells.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, request::Parts};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use kato_orchestrator::{
    Error,
    ports::{blocks::Digest, extents::Extent},
};
use sha2::{Digest as _, Sha256};

use super::http::{Answer, exchange, may_carry};
use crate::{
    grants::{credentials::base64, denied},
    guest::{Guest, Reach},
    v1::abi::kato::storage::{
        transfers::{Fetching, Host, Outcome, Sending},
        types,
    },
};

/// How many requests of one call are under way at once.
const AT_ONCE: usize = 16;

/// The most requests of one call.
const REQUESTS: usize = 4096;

/// The most of an answer that the guest gets to read.
const TOLD: usize = 64 << 10;

/// How long an answer may take to begin, and a body to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a call moves.
#[derive(Debug)]
pub(crate) enum Freight {
    /// What is to be fetched, and what came.
    In { wanted: Vec<Extent>, came: Mutex<BTreeMap<u64, Bytes>> },
    /// What is to be sent, and the digests of what arrived.
    Out { blocks: BTreeMap<u64, Bytes>, arrived: Mutex<BTreeMap<u64, Digest>> },
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Freight {
    /// What was asked for, in its order, with zeroes where nothing was fetched.
    pub(crate) fn unloaded(&self) -> Vec<(u64, Bytes)> {
        let Self::In { wanted, came } = self else { return Vec::new() };
        let came = held(came);
        let mut pieces = Vec::new();
        for extent in wanted {
            let (mut at, end) = (extent.offset.0, extent.offset.0.saturating_add(extent.length.0));
            for (offset, bytes) in came.range(at..end) {
                gap(&mut pieces, at, *offset);
                pieces.push((*offset, bytes.clone()));
                at = offset.saturating_add(length(bytes));
            }
            gap(&mut pieces, at, end);
        }
        pieces
    }

    /// The digests of all blocks, in the order of their places; nothing where one did not arrive.
    pub(crate) fn digests(&self) -> Option<Vec<Digest>> {
        let Self::Out { blocks, arrived } = self else { return None };
        let arrived = held(arrived);
        blocks.keys().map(|offset| arrived.get(offset).copied()).collect()
    }

    /// Whether a part that a guest names is one of what its call is about, and was not fetched before.
    fn admits(&self, offset: u64, length: u64) -> bool {
        let Self::In { wanted, came } = self else { return false };
        let end = offset.saturating_add(length);
        let inside = wanted.iter().any(|extent| {
            extent.offset.0 <= offset && end <= extent.offset.0.saturating_add(extent.length.0)
        });
        let before =
            held(came).range(..end).next_back().map(|(at, bytes)| at.saturating_add(self::length(bytes)));
        length > 0 && inside && before.is_none_or(|before| before <= offset)
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn gap(pieces: &mut Vec<(u64, Bytes)>, from: u64, to: u64) {
    if from < to {
        let length = usize::try_from(to - from).unwrap_or(usize::MAX);
        pieces.push((from, Bytes::from(vec![0; length])));
    }
}

impl Host for Guest {
    async fn fetch(&mut self, requests: Vec<Fetching>) -> Result<Vec<Outcome>, types::Error> {
        self.reach.fetch(requests).await.map_err(|error| self.reach.answer_error(&error))
    }

    async fn send(&mut self, requests: Vec<Sending>) -> Result<Vec<Outcome>, types::Error> {
        self.reach.send(requests).await.map_err(|error| self.reach.answer_error(&error))
    }
}

impl Reach {
    async fn fetch(&self, requests: Vec<Fetching>) -> Result<Vec<Outcome>, Error> {
        let freight = self.freight()?;
        counted(requests.len())?;
        let mut work = Vec::with_capacity(requests.len());
        for request in requests {
            let parts = self.parts("GET", &request.url, &request.headers, None)?;
            work.push((parts, request));
        }
        let outcomes = stream::iter(work)
            .map(|(parts, request)| async move {
                if !freight.admits(request.offset_bytes, u64::from(request.length_bytes)) {
                    return Err(Error::invalid(format!(
                        "{} bytes at {} are none of what is to be read, or were fetched already",
                        request.length_bytes, request.offset_bytes
                    )));
                }
                self.fetch_one(freight, parts, request).await
            })
            .buffered(AT_ONCE)
            .collect::<Vec<_>>();
        outcomes.await.into_iter().collect()
    }

    async fn fetch_one(&self, freight: &Freight, parts: Parts, wish: Fetching) -> Result<Outcome, Error> {
        let Some(response) = self.ask(parts, Bytes::new()).await? else { return Ok(nothing()) };
        if !response.response.status().is_success() {
            return Ok(told(response).await);
        }
        let wanted = usize::try_from(wish.length_bytes).unwrap_or(usize::MAX);
        let told_digest = wish
            .digest_header
            .as_ref()
            .and_then(|name| response.response.headers().get(name.as_str()))
            .map(|value| value.as_bytes().to_vec());
        let headers = told_headers(&response);
        let status = response.response.status().as_u16();
        let Some(bytes) = body(response.response, wanted).await else { return Ok(nothing()) };
        let is_right = told_digest.is_none_or(|told| base64(&Sha256::digest(&bytes)).as_bytes() == told);
        if bytes.len() != wanted || !is_right {
            tracing::warn!(
                backend = %self.ground.backend,
                offset = wish.offset_bytes,
                length = bytes.len(),
                "a block came damaged, and is not used"
            );
            return Ok(nothing());
        }
        if let Freight::In { came, .. } = freight {
            held(came).insert(wish.offset_bytes, bytes);
        }
        Ok(Outcome { status, headers, body: Vec::new() })
    }

    async fn send(&self, requests: Vec<Sending>) -> Result<Vec<Outcome>, Error> {
        let freight = self.freight()?;
        let Freight::Out { blocks, .. } = freight else {
            return Err(Error::precondition("this call is not one that sends blocks"));
        };
        counted(requests.len())?;
        let mut work = Vec::with_capacity(requests.len());
        for request in requests {
            let block = blocks
                .get(&request.offset_bytes)
                .filter(|block| u64::from(request.length_bytes) == length(block));
            let block = block.cloned().ok_or_else(|| {
                Error::invalid(format!(
                    "{} bytes at {} are no block of what is to be written",
                    request.length_bytes, request.offset_bytes
                ))
            })?;
            work.push((request, block));
        }
        let outcomes = stream::iter(work)
            .map(|(request, block)| self.send_one(freight, request, block))
            .buffered(AT_ONCE)
            .collect::<Vec<_>>();
        outcomes.await.into_iter().collect()
    }

    async fn send_one(&self, freight: &Freight, wish: Sending, block: Bytes) -> Result<Outcome, Error> {
        let digest: Digest = Sha256::digest(&block).into();
        let spelled = base64(&digest);
        let header = wish.digest_header.as_deref().map(|name| (name, spelled.as_str()));
        let parts = self.parts(&wish.method, &wish.url, &wish.headers, header)?;
        let Some(response) = self.ask(parts, block).await? else { return Ok(nothing()) };
        if response.response.status().is_success()
            && let Freight::Out { arrived, .. } = freight
        {
            held(arrived).insert(wish.offset_bytes, digest);
        }
        Ok(told(response).await)
    }

    fn freight(&self) -> Result<&Freight, Error> {
        self.freight.as_deref().ok_or_else(|| {
            Error::precondition("blocks are moved only by the calls that read and write snapshots")
        })
    }

    /// A request as the guest names it, without what is the authoriser's to set.
    fn parts(
        &self,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        more: Option<(&str, &str)>,
    ) -> Result<Parts, Error> {
        let wrong = |what: &str| Error::invalid(format!("a request for a block has no valid {what}"));
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| wrong("method"))?;
        let uri: Uri = url.parse().map_err(|_| wrong("URL"))?;
        let mut request = Request::builder().method(method).uri(uri);
        let given = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in given.chain(more) {
            let name = HeaderName::try_from(name).map_err(|_| wrong("header"))?;
            if !may_carry(&self.ground, &name) {
                return Err(denied(format!(
                    "a request for a block carries the header {name}, which is the host's to set"
                )));
            }
            request = request.header(name, HeaderValue::try_from(value).map_err(|_| wrong("header"))?);
        }
        Ok(request.body(()).map_err(|_| wrong("URL"))?.into_parts().0)
    }

    /// Asks; nothing where no answer came.
    async fn ask(&self, parts: Parts, body: Bytes) -> Result<Option<Answer>, Error> {
        match exchange(&self.ground, &self.notes, parts, body, PATIENCE).await {
            Ok(answer) => Ok(Some(answer)),
            Err(_) => match self.notes.denial() {
                Some(denial) => Err(denial),
                None => Ok(None),
            },
        }
    }
}

fn counted(requests: usize) -> Result<(), Error> {
    match requests <= REQUESTS {
        true => Ok(()),
        false => {
            Err(Error::invalid(format!("{requests} requests are too many for one call: {REQUESTS} at most")))
        }
    }
}

fn nothing() -> Outcome {
    Outcome { status: 0, headers: Vec::new(), body: Vec::new() }
}

/// All of a body that is no longer than it is to be.
async fn body(response: Response<Incoming>, longest: usize) -> Option<Bytes> {
    let mut bytes = BytesMut::with_capacity(longest);
    let mut body = Limited::new(response.into_body(), longest);
    let whole = async {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.ok()?.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        Some(())
    };
    tokio::time::timeout(PATIENCE, whole).await.ok()??;
    Some(bytes.freeze())
}

/// What an answer says, for the guest.
async fn told(answer: Answer) -> Outcome {
    let headers = told_headers(&answer);
    let status = answer.response.status().as_u16();
    let mut bytes = body(answer.response, TOLD).await.unwrap_or_default().to_vec();
    answer.secrets.strike(&mut bytes);
    Outcome { status, headers, body: bytes }
}

fn told_headers(answer: &Answer) -> Vec<(String, String)> {
    let struck = |value: &HeaderValue| {
        let mut bytes = value.as_bytes().to_vec();
        answer.secrets.strike(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let headers = answer.response.headers().iter();
    headers.map(|(name, value)| (name.as_str().to_owned(), struck(value))).collect()
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::model::Bytes as Size;

    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset: Size(offset), length: Size(length) }
    }

    #[test]
    fn what_was_not_fetched_reads_as_zeroes() {
        let came = [(4, Bytes::from_static(b"abcd")), (12, Bytes::from_static(b"wxyz"))];
        let freight = Freight::In {
            wanted: vec![extent(0, 10), extent(12, 4)],
            came: Mutex::new(came.into_iter().collect()),
        };
        let zeroes = |length| Bytes::from(vec![0; length]);
        assert_eq!(
            freight.unloaded(),
            [
                (0, zeroes(4)),
                (4, Bytes::from_static(b"abcd")),
                (8, zeroes(2)),
                (12, Bytes::from_static(b"wxyz"))
            ]
        );
    }

    #[test]
    fn a_guest_fetches_what_its_call_is_about_and_nothing_twice() {
        let came = [(4, Bytes::from_static(b"abcd"))];
        let freight =
            Freight::In { wanted: vec![extent(0, 12)], came: Mutex::new(came.into_iter().collect()) };
        assert!(freight.admits(0, 4) && freight.admits(8, 4));
        for (offset, length) in [(8, 5), (4, 4), (2, 4), (7, 1), (8, 0), (12, 1), (u64::MAX, 2)] {
            assert!(!freight.admits(offset, length), "{offset} {length}");
        }
    }

    #[test]
    fn a_block_that_did_not_arrive_has_no_digest() {
        let blocks = [(0, Bytes::from_static(b"a")), (4, Bytes::from_static(b"b"))];
        let freight = Freight::Out { blocks: blocks.into_iter().collect(), arrived: Mutex::default() };
        if let Freight::Out { arrived, .. } = &freight {
            held(arrived).insert(0, [1; 32]);
            assert_eq!(freight.digests(), None);
            held(arrived).insert(4, [2; 32]);
        }
        assert_eq!(freight.digests(), Some(vec![[1; 32], [2; 32]]));
    }
}
