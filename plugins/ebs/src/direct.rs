//! The EBS direct APIs, as calls: snapshots as blocks of half a MiB that are listed, fetched and sent. Where blocks are,
//! and the beginning and the end of writing, goes through this component as everything else does; the blocks themselves
//! the host fetches and sends (`blocks.rs`), and only the requests for them are spelt here.
//!
//! Tokens of pages and blocks end after a while. So none is kept beyond the call: who goes on later lists again, from a
//! block's number on. A page may have no blocks, and another follow.

use kato_plugin_sdk::{
    digests::base64,
    http::{Request, Response, Transport},
    transfers::{Fetching, Outcome, Sending},
    types::{Error, Extent},
};
use serde_json::{Value, json};

use crate::{
    api::Cloud,
    error::{PAGE_TOKEN, Refusal},
};

/// The only size that blocks have.
pub(crate) const BLOCK: u32 = 524_288;
/// The same, where bytes are counted.
pub(crate) const BLOCK_BYTES: u64 = BLOCK as u64;
/// How many blocks are on a page at least, and at most.
const LEAST: u64 = 100;
pub(crate) const MOST: u64 = 10_000;
/// How many pages belong to one list at most: those without any blocks count.
const PAGES: usize = 200;
/// How long an open snapshot waits for blocks and its completion, in minutes: the longest that there is.
const TIMEOUT_MIN: u64 = 4_320;
/// How many blocks one call moves at most: 32 MiB.
const AT_ONCE: u64 = 64;
/// The number of the last block that there can be.
const LAST: u64 = 0x7fff_ffff;

/// A block that is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) index: u64,
    /// By it the block is fetched, if it is there.
    pub(crate) token: Option<String>,
}

/// Blocks of a snapshot in ascending order, page by page.
#[derive(Debug)]
pub(crate) struct Listing<'a, T> {
    cloud: &'a Cloud<T>,
    action: &'static str,
    path: String,
    /// What is listed, in the answer.
    list: &'static str,
    /// By what name a block's token goes there.
    token: &'static str,
    /// Where the next page begins, and the token of it if there is one.
    pub(crate) from: u64,
    next: Option<String>,
    pub(crate) over: bool,
    pages: usize,
}

impl<'a, T: Transport> Listing<'a, T> {
    /// The blocks of a snapshot that are there, from this one on, about so many on a page.
    pub(crate) fn of(cloud: &'a Cloud<T>, snapshot: &str, from: u64, page: u64) -> Self {
        Self {
            cloud,
            action: "ListSnapshotBlocks",
            path: format!("/snapshots/{snapshot}/blocks?maxResults={}", page.clamp(LEAST, MOST)),
            list: "Blocks",
            token: "BlockToken",
            from,
            next: None,
            over: false,
            pages: 0,
        }
    }

    /// Those that differ from an earlier snapshot.
    pub(crate) fn since(cloud: &'a Cloud<T>, base: &str, snapshot: &str, from: u64) -> Self {
        Self {
            action: "ListChangedBlocks",
            path: format!("/snapshots/{snapshot}/changedblocks?maxResults={MOST}&firstSnapshotId={base}"),
            list: "ChangedBlocks",
            token: "SecondBlockToken",
            ..Self::of(cloud, snapshot, from, MOST)
        }
    }

    /// The next page; nothing at the end.
    pub(crate) fn page(&mut self) -> Result<Option<Vec<Block>>, Error> {
        if self.over {
            return Ok(None);
        }
        if self.pages == PAGES {
            return Err(Error::unavailable(format!("{} goes on for more than {PAGES} pages", self.action)));
        }
        self.pages += 1;
        let answer = match self.ask() {
            Err(refusal) if self.next.is_some() && refusal.is(&[PAGE_TOKEN]) => {
                self.next = None;
                self.ask()?
            }
            answer => answer?,
        };
        let blocks = self.read(&answer).ok_or_else(|| unread(self.action, answer.to_string().as_bytes()))?;
        if let Some(last) = blocks.last() {
            self.from = last.index + 1;
        }
        self.next = text(&answer, "NextToken").map(str::to_owned);
        self.over = self.next.is_none();
        Ok(Some(blocks))
    }

    fn ask(&self) -> Result<Value, Refusal> {
        let page = match &self.next {
            Some(next) => format!("pageToken={}", encoded(next)),
            None => format!("startingBlockIndex={}", self.from),
        };
        let request = Request::get(format!("{}{}&{page}", self.cloud.config.ebs, self.path));
        self.cloud.direct(self.action, &request)
    }

    /// The blocks of an answer. What is not listed reads as zeroes, so nothing is taken for a list that does not look like
    /// one: it tells the size of blocks, they are in order, and none lies before where it begins.
    fn read(&self, answer: &Value) -> Option<Vec<Block>> {
        if answer.get("BlockSize")?.as_u64() != Some(BLOCK_BYTES) {
            return None;
        }
        let mut least = self.from;
        let mut blocks = Vec::new();
        for one in answer.get(self.list)?.as_array()? {
            let index = one.get("BlockIndex")?.as_u64().filter(|index| (least..=LAST).contains(index))?;
            least = index + 1;
            blocks.push(Block { index, token: text(one, self.token).map(str::to_owned) });
        }
        Some(blocks)
    }
}

/// A snapshot to be written.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) token: &'a str,
    pub(crate) description: String,
    pub(crate) gib: u64,
    /// What it is equal to, but for what is written; it decides on the encryption then.
    pub(crate) parent: Option<&'a str>,
    /// Whether it is encrypted, and with which key where that is told by its ARN.
    pub(crate) encrypted: Option<bool>,
    pub(crate) key: Option<&'a str>,
    pub(crate) tags: &'a [(String, String)],
}

/// A snapshot that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) id: String,
    pub(crate) state: String,
}

impl<T: Transport> Cloud<T> {
    /// Starts a snapshot; the same one for the same token, as long as EBS knows it.
    pub(crate) fn start(&self, start: &Start<'_>) -> Result<Started, Refusal> {
        const ACTION: &str = "StartSnapshot";
        let tags: Vec<_> =
            start.tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
        let mut body = json!({
            "ClientToken": start.token,
            "Description": start.description,
            "VolumeSize": start.gib,
            "Timeout": TIMEOUT_MIN,
            "Tags": tags,
        });
        if let Some(body) = body.as_object_mut() {
            let mut say = |name: &str, value: Option<Value>| {
                body.extend(value.map(|value| (name.to_owned(), value)));
            };
            say("ParentSnapshotId", start.parent.map(Value::from));
            say("Encrypted", start.encrypted.filter(|_| start.parent.is_none()).map(Value::from));
            say("KmsKeyArn", start.key.filter(|_| start.parent.is_none()).map(Value::from));
        }
        let request = Request::new("POST", format!("{}/snapshots", self.config.ebs))
            .body("application/json", body.to_string())
            .idempotent();
        let answer = self.direct(ACTION, &request)?;
        let id = text(&answer, "SnapshotId").map(str::to_owned);
        let id = id.ok_or_else(|| Refusal::unclear(unread(ACTION, answer.to_string().as_bytes())))?;
        Ok(Started { id, state: text(&answer, "Status").unwrap_or("pending").to_owned() })
    }

    /// Ends the writing of a snapshot. Its state.
    pub(crate) fn complete(&self, id: &str, blocks: u64, digest: &[u8]) -> Result<String, Refusal> {
        let request = Request::new("POST", format!("{}/snapshots/completion/{id}", self.config.ebs))
            .header("x-amz-ChangedBlocksCount", blocks.to_string())
            .header("x-amz-Checksum", base64(digest))
            .header("x-amz-Checksum-Algorithm", "SHA256")
            .header("x-amz-Checksum-Aggregation-Method", "LINEAR")
            .idempotent();
        let answer = self.direct("CompleteSnapshot", &request)?;
        Ok(text(&answer, "Status").unwrap_or("pending").to_owned())
    }

    /// How a block is fetched.
    pub(crate) fn fetching(&self, snapshot: &str, index: u64, token: &str) -> Fetching {
        let url = self.block(snapshot, index);
        Fetching {
            url: format!("{url}?blockToken={}", encoded(token)),
            headers: Vec::new(),
            offset_bytes: index * BLOCK_BYTES,
            length_bytes: BLOCK,
            digest_header: Some("x-amz-checksum".to_owned()),
        }
    }

    /// How a block is sent. Its bytes are not signed: their digest is, in its header.
    pub(crate) fn sending(&self, snapshot: &str, index: u64) -> Sending {
        let headers = [
            ("x-amz-data-length", BLOCK.to_string()),
            ("x-amz-checksum-algorithm", "SHA256".to_owned()),
            ("x-amz-content-sha256", "UNSIGNED-PAYLOAD".to_owned()),
        ];
        Sending {
            method: "PUT".to_owned(),
            url: self.block(snapshot, index),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            offset_bytes: index * BLOCK_BYTES,
            length_bytes: BLOCK,
            digest_header: Some("x-amz-checksum".to_owned()),
        }
    }

    fn block(&self, snapshot: &str, index: u64) -> String {
        format!("{}/snapshots/{snapshot}/blocks/{index}", self.config.ebs)
    }

    /// Sends a request, and again where that is safe.
    fn direct(&self, action: &str, request: &Request) -> Result<Value, Refusal> {
        self.attempts(request.idempotent, || {
            let Response { status, headers, body } = self.send(request)?;
            if !(200..300).contains(&status) {
                return Err(refusal(action, status, &headers, &body));
            }
            serde_json::from_slice(&body).map_err(|_| Refusal::unclear(unread(action, &body)))
        })
    }
}

/// What became of a request for a block that is no success.
pub(crate) fn refused(action: &str, outcome: &Outcome) -> Refusal {
    match outcome.status {
        0 => Refusal::unclear(Error::unavailable(format!(
            "{action}: no answer came, or not the bytes that their checksum is of"
        ))),
        status => refusal(action, status, &outcome.headers, &outcome.body),
    }
}

/// An exception: its name stands in a header, with an address behind it in some, or in the body.
fn refusal(action: &str, status: u16, headers: &[(String, String)], body: &[u8]) -> Refusal {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let header = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-amzn-errortype"));
    let name = header.map(|(_, name)| name.as_str()).or_else(|| text(&said, "__type"));
    let name = name.or_else(|| text(&said, "code")).unwrap_or_default();
    let name = name.split(':').next().unwrap_or_default();
    let name = name.rsplit('#').next().unwrap_or_default();
    let message = text(&said, "Message").or_else(|| text(&said, "message"));
    let message = message.map_or_else(|| format!("it answered {status}"), str::to_owned);
    let reason = text(&said, "Reason").unwrap_or_default();
    Refusal::of_direct(action, status, name, reason, &message)
}

/// The blocks that these extents are made of, in ascending order. They are whole blocks, and none is there twice.
pub(crate) fn blocks(extents: &[Extent]) -> Result<Vec<u64>, Error> {
    let mut blocks = Vec::new();
    for extent in extents {
        let Extent { offset_bytes, length_bytes } = *extent;
        let end = offset_bytes.saturating_add(length_bytes).div_ceil(BLOCK_BYTES);
        if offset_bytes % BLOCK_BYTES != 0 || length_bytes % BLOCK_BYTES != 0 || end > LAST + 1 {
            return Err(Error::invalid(format!(
                "the {length_bytes} bytes from {offset_bytes} on are no whole blocks of {BLOCK} bytes"
            )));
        }
        if length_bytes / BLOCK_BYTES + blocks.len() as u64 > AT_ONCE {
            return Err(Error::invalid(format!("more than {AT_ONCE} blocks are asked for at once")));
        }
        blocks.extend(offset_bytes / BLOCK_BYTES..end);
    }
    let asked = blocks.len();
    blocks.sort_unstable();
    blocks.dedup();
    match blocks.len() == asked {
        true => Ok(blocks),
        false => Err(Error::invalid("extents that overlap are asked for")),
    }
}

fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// A value of a query: everything but letters and digits is escaped.
fn encoded(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(letter).collect()
}

fn unread(action: &str, answer: &[u8]) -> Error {
    let start = answer.get(..300).unwrap_or(answer);
    Error::internal(format!(
        "EBS' answer to {action} cannot be read: is the endpoint one of the EBS direct APIs?"
    ))
    .detail(String::from_utf8_lossy(start).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset_bytes: offset * BLOCK_BYTES, length_bytes: length * BLOCK_BYTES }
    }

    #[test]
    fn extents_are_whole_blocks_and_each_is_there_once() {
        assert_eq!(blocks(&[extent(7, 1), extent(2, 2)]).unwrap(), [2, 3, 7]);
        assert!(blocks(&[extent(2, 2), extent(3, 1)]).is_err());
        assert!(blocks(&[extent(0, 64)]).is_ok() && blocks(&[extent(0, 64), extent(99, 1)]).is_err());
        for (offset_bytes, length_bytes) in [(1, BLOCK_BYTES), (0, 1), (u64::MAX - 1, BLOCK_BYTES)] {
            assert!(blocks(&[Extent { offset_bytes, length_bytes }]).is_err());
        }
    }

    #[test]
    fn tokens_are_escaped_in_queries() {
        assert_eq!(encoded("aZ0+/="), "aZ0%2B%2F%3D");
    }

    #[test]
    fn an_exception_is_named_in_a_header_or_in_the_body() {
        let named = vec![("x-amzn-ErrorType".to_owned(), "ConflictException:http://ebs/".to_owned())];
        let empty = Vec::new();
        for (headers, body) in [
            (&named, "{}"),
            (&empty, r#"{"__type":"com.amazonaws.ebs#ConflictException","message":"no"}"#),
            (&empty, r#"{"code":"ConflictException"}"#),
        ] {
            assert!(
                refusal("StartSnapshot", 409, headers, body.as_bytes()).is(&["ConflictException"]),
                "{body}"
            );
        }
    }
}
