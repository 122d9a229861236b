//! The EBS direct APIs in memory, over the snapshots of the EC2 in memory. They have what makes the real ones hard: lists
//! come in pages, some of them empty; tokens end; requests are throttled, fail, or come back damaged; a client token stays
//! bound to what it made; the number of the blocks and the digest over their digests are verified. A block is one byte,
//! half a MiB long.

use std::collections::{BTreeMap, BTreeSet};

use kato_plugin_sdk::{
    digests::base64,
    testing::{Answered, Arrived, Server, stand_in_digest},
};
use serde_json::{Value, json};

use super::fake::{Ec2, Snapshot};
use crate::direct::BLOCK;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// It is refused: status, exception, reason.
    Refused(u16, &'static str, &'static str),
    /// It is carried out, and the answer is lost.
    Lost,
    /// Its bytes are damaged on their way.
    Damaged,
    /// Something else answers.
    Other(&'static str),
}

/// The blocks of a snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    /// All of them.
    pub(super) there: BTreeMap<u64, u8>,
    /// The digests of those that were written to it.
    written: BTreeMap<u64, [u8; 32]>,
    /// The snapshot that its lineage began with.
    lineage: String,
}

#[derive(Debug, Default)]
pub(super) struct Direct {
    pub(super) blocks: BTreeMap<String, Blocks>,
    tokens: BTreeMap<String, (Value, Value)>,
    /// Tokens of pages and blocks of another age have ended.
    pub(super) age: u64,
    /// How many blocks are on a page; zero for as many as are asked for.
    pub(super) page: usize,
    /// Whether each page is followed by an empty one.
    pub(super) empty: bool,
    /// What goes wrong with the next requests of an action, one after the other.
    pub(super) faults: Vec<(&'static str, Fault)>,
    /// What was asked for, in order.
    pub(super) asked: Vec<&'static str>,
    /// The body of the last start.
    pub(super) started: Value,
}

type Refused = (u16, &'static str, &'static str);

const VALUE: Refused = (400, "ValidationException", "INVALID_PARAMETER_VALUE");
const NOT_FOUND: Refused = (404, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND");
const NOT_SO: Refused = (400, "ValidationException", "INVALID_SNAPSHOT_ID");

impl Server for Ec2 {
    fn answer(&mut self, arrived: &Arrived) -> Option<Answered> {
        self.answer_direct(arrived)
    }
}

impl Ec2 {
    pub(super) fn answer_direct(&mut self, arrived: &Arrived) -> Option<Answered> {
        self.settle();
        let rest = arrived.url.strip_prefix("http://ebs.test/snapshots").unwrap();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let query: BTreeMap<_, _> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let parts: Vec<_> = path.split('/').skip(1).collect();
        let action = match (arrived.method.as_str(), parts.as_slice()) {
            ("POST", []) => "StartSnapshot",
            ("POST", ["completion", _]) => "CompleteSnapshot",
            ("GET", [_, "blocks"]) => "ListSnapshotBlocks",
            ("GET", [_, "changedblocks"]) => "ListChangedBlocks",
            ("GET", [_, "blocks", _]) => "GetSnapshotBlock",
            ("PUT", [_, "blocks", _]) => "PutSnapshotBlock",
            other => panic!("{other:?}"),
        };
        self.direct.asked.push(action);
        let fault = self.direct.faults.iter().position(|fault| fault.0 == action);
        let fault = fault.map(|at| self.direct.faults.remove(at).1);
        if let Some(Fault::Refused(status, exception, reason)) = fault {
            return Some(refused((status, exception, reason)));
        }
        if let Some(Fault::Other(body)) = fault {
            return Some(Answered { status: 200, headers: Vec::new(), body: body.into() });
        }
        let answer = match action {
            "StartSnapshot" => self.start(arrived),
            "CompleteSnapshot" => self.complete(arrived, parts[1]),
            "GetSnapshotBlock" => self.get(parts[0], parts[2], query["blockToken"]),
            "PutSnapshotBlock" => {
                self.put(arrived, parts[0], parts[2], matches!(fault, Some(Fault::Damaged)))
            }
            _ => self.list_blocks(parts[0], &query),
        };
        let mut answered = answer.unwrap_or_else(refused);
        match fault {
            Some(Fault::Lost) => return None,
            Some(Fault::Damaged) if action == "GetSnapshotBlock" => answered.body[7] ^= 1,
            _ => {}
        }
        Some(answered)
    }

    /// Gives a snapshot these blocks.
    pub(super) fn fill(&mut self, id: &str, lineage: &str, there: &[(u64, u8)]) {
        let blocks =
            Blocks { there: there.iter().copied().collect(), lineage: lineage.into(), ..Blocks::default() };
        self.direct.blocks.insert(id.into(), blocks);
    }

    fn completed(&self, id: &str) -> Result<&Blocks, Refused> {
        let snapshot = self.snapshots.get(id).ok_or(NOT_FOUND)?;
        if snapshot.state == "completed" { Ok(&self.direct.blocks[id]) } else { Err(NOT_SO) }
    }

    fn list_blocks(&self, id: &str, query: &BTreeMap<&str, &str>) -> Result<Answered, Refused> {
        let second = self.completed(id)?;
        let (name, indexes, first) = match query.get("firstSnapshotId") {
            None => ("Blocks", second.there.keys().copied().collect::<BTreeSet<_>>(), None),
            Some(first) => {
                let first = self.completed(first)?;
                if first.lineage != second.lineage {
                    return Err((400, "ValidationException", "UNRELATED_SNAPSHOTS"));
                }
                let indexes = first.there.keys().chain(second.there.keys());
                let differs = |index: &&u64| first.there.get(index) != second.there.get(index);
                ("ChangedBlocks", indexes.filter(differs).copied().collect(), Some(first))
            }
        };
        let age = self.direct.age;
        let (from, empty) = match query.get("pageToken") {
            None => (query["startingBlockIndex"].parse().unwrap(), false),
            Some(token) => {
                let token =
                    token.strip_suffix("%3D").ok_or((400, "ValidationException", "INVALID_PAGE_TOKEN"))?;
                let parts: Vec<u64> = token.split('A').map(|part| part.parse().unwrap()).collect();
                if parts[0] != age {
                    return Err((400, "ValidationException", "INVALID_PAGE_TOKEN"));
                }
                (parts[1], parts[2] == 1)
            }
        };
        let most: usize = query["maxResults"].parse().unwrap();
        assert!((100..=10_000).contains(&most));
        let most = if self.direct.page == 0 { most } else { self.direct.page };
        let most = if empty { 0 } else { most };
        let page: Vec<u64> = indexes.range(from..).take(most).copied().collect();
        let next = page.last().map_or(from, |last| last + 1);
        let more = indexes.range(next..).next().is_some();
        let of = |index: u64, of: &str| format!("{of}{age}A{index}+/=");
        let listed = page.iter().map(|index| {
            let mut block = json!({ "BlockIndex": index });
            if first.is_none() {
                block["BlockToken"] = of(*index, id).into();
            } else if second.there.contains_key(index) {
                block["SecondBlockToken"] = of(*index, id).into();
            }
            block
        });
        let mut answer =
            json!({ "BlockSize": BLOCK, "VolumeSize": self.snapshots[id].gib, "ExpiryTime": 1.5 });
        answer[name] = listed.collect();
        if more {
            let empty = u8::from(self.direct.empty && !empty);
            answer["NextToken"] = format!("{age}A{next}A{empty}=").into();
        }
        Ok(answered(200, &answer))
    }

    fn get(&self, id: &str, index: &str, token: &str) -> Result<Answered, Refused> {
        let blocks = self.completed(id)?;
        let age = self.direct.age;
        if token != format!("{id}{age}A{index}%2B%2F%3D") {
            return Err((400, "ValidationException", "INVALID_BLOCK_TOKEN"));
        }
        let body = vec![blocks.there[&index.parse().unwrap()]; BLOCK as usize];
        let headers = vec![("x-amz-Checksum".to_owned(), base64(&stand_in_digest(&body)))];
        Ok(Answered { status: 200, headers, body })
    }

    fn start(&mut self, arrived: &Arrived) -> Result<Answered, Refused> {
        let asked: Value = serde_json::from_slice(&arrived.body).unwrap();
        self.direct.started = asked.clone();
        let token = asked["ClientToken"].as_str().unwrap().to_owned();
        if let Some((known, answer)) = self.direct.tokens.get(&token) {
            return if *known == asked {
                Ok(answered(201, answer))
            } else {
                Err((409, "ConflictException", ""))
            };
        }
        assert!(asked["Timeout"] == 4_320 && asked["VolumeSize"].as_u64().unwrap() > 0, "{asked}");
        let id = self.id("snap");
        let blocks = match asked["ParentSnapshotId"].as_str() {
            None => Blocks { lineage: id.clone(), ..Blocks::default() },
            Some(_) if asked.get("Encrypted").is_some() => return Err(VALUE),
            Some(parent) => Blocks { written: BTreeMap::new(), ..self.completed(parent)?.clone() },
        };
        let tags = asked["Tags"].as_array().unwrap().iter();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let snapshot = Snapshot {
            volume: "vol-ffffffff".into(),
            gib: asked["VolumeSize"].as_u64().unwrap(),
            made: self.now,
            state: "pending",
            description: word(&asked["Description"]),
            tags: tags.map(|tag| (word(&tag["Key"]), word(&tag["Value"]))).collect(),
            open: true,
        };
        let answer = json!({ "SnapshotId": id, "Status": "pending", "BlockSize": BLOCK });
        self.snapshots.insert(id.clone(), snapshot);
        self.direct.blocks.insert(id, blocks);
        self.direct.tokens.insert(token, (asked, answer.clone()));
        Ok(answered(201, &answer))
    }

    fn put(&mut self, arrived: &Arrived, id: &str, index: &str, damaged: bool) -> Result<Answered, Refused> {
        let snapshot = self.snapshots.get(id).ok_or(NOT_FOUND)?;
        if !snapshot.open {
            return Err(NOT_SO);
        }
        assert_eq!(arrived.header("x-amz-data-length"), Some("524288"));
        assert_eq!(arrived.header("x-amz-checksum-algorithm"), Some("SHA256"));
        assert_eq!(arrived.header("x-amz-content-sha256"), Some("UNSIGNED-PAYLOAD"));
        let (index, digest): (u64, _) = (index.parse().unwrap(), stand_in_digest(&arrived.body));
        if index >= snapshot.gib * 2048 {
            return Err(VALUE);
        }
        assert_eq!(arrived.body.len(), BLOCK as usize);
        if damaged || arrived.header("x-amz-checksum") != Some(&base64(&digest)) {
            return Err((400, "ValidationException", "INVALID_BLOCK"));
        }
        assert!(arrived.body == vec![arrived.body[0]; BLOCK as usize]);
        let blocks = self.direct.blocks.get_mut(id).unwrap();
        blocks.there.insert(index, arrived.body[0]);
        blocks.written.insert(index, digest);
        Ok(Answered { status: 201, headers: Vec::new(), body: Vec::new() })
    }

    fn complete(&mut self, arrived: &Arrived, id: &str) -> Result<Answered, Refused> {
        let now = self.now;
        let snapshot = self.snapshots.get_mut(id).ok_or(NOT_FOUND)?;
        // Other than the model that answers it again: whoever asks twice has to bear either.
        if !snapshot.open {
            return Err(NOT_SO);
        }
        let written = &self.direct.blocks[id].written;
        let digest = stand_in_digest(&written.values().flatten().copied().collect::<Vec<u8>>());
        assert_eq!(arrived.header("x-amz-checksum-algorithm"), Some("SHA256"));
        assert_eq!(arrived.header("x-amz-checksum-aggregation-method"), Some("LINEAR"));
        if arrived.header("x-amz-changedblockscount") != Some(&written.len().to_string())
            || arrived.header("x-amz-checksum") != Some(&base64(&digest))
        {
            return Err(VALUE);
        }
        (snapshot.open, snapshot.made) = (false, now);
        Ok(answered(202, &json!({ "Status": "pending" })))
    }
}

fn answered(status: u16, body: &Value) -> Answered {
    Answered { status, headers: Vec::new(), body: body.to_string().into_bytes() }
}

fn refused((status, exception, reason): Refused) -> Answered {
    let mut body = json!({ "Message": "no" });
    if !reason.is_empty() {
        body["Reason"] = reason.into();
    }
    let headers = vec![("x-amzn-errortype".to_owned(), format!("{exception}:http://ebs/"))];
    Answered { headers, ..answered(status, &body) }
}
