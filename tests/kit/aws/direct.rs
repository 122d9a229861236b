//! The EBS direct APIs: a snapshot's blocks are listed, read, compared, and put together. A list gives a token for each
//! block, without which there is no reading it; tokens are of this snapshot and this block, and expire. A page may be empty
//! and have a successor all the same.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Shared,
    blocks::{Blocks, Checksum},
    error::Exception,
    fault::Fault,
    ground::BLOCK,
    server::Answer,
    sigv4::hex,
    world::{GIB, Snapshot, SnapshotState, Tags, Token, World},
};
use crate::http::{Request, pairs};

/// How long a token of a block is good for, and one of a page.
const BLOCK_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const PAGE_LIFE: Duration = Duration::from_secs(60 * 60);

/// How often a page is empty.
const EMPTY: f64 = 0.1;

/// What is asked for, of which snapshot.
#[derive(Debug)]
pub(super) enum Call {
    Start,
    Put { snapshot: String, index: String },
    Complete { snapshot: String },
    List { snapshot: String, page: Page },
    Changed { snapshot: String, first: String, page: Page },
    Get { snapshot: String, index: String, token: String },
}

/// Which blocks of a list.
#[derive(Debug)]
pub(super) struct Page {
    token: Option<String>,
    most: Option<String>,
    start: Option<String>,
}

impl Call {
    /// What a request asks for, if it asks this service.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let parameters = pairs(&request.query);
        let text =
            |name: &str| parameters.iter().find(|(named, _)| named == name).map(|(_, value)| value.clone());
        let page =
            || Page { token: text("pageToken"), most: text("maxResults"), start: text("startingBlockIndex") };
        let path: Vec<_> = request.path.trim_matches('/').split('/').collect();
        let owned = |text: &str| text.to_owned();
        Some(match (request.method.as_str(), path.as_slice()) {
            ("POST", ["snapshots"]) => Self::Start,
            ("PUT", ["snapshots", snapshot, "blocks", index]) => {
                Self::Put { snapshot: owned(snapshot), index: owned(index) }
            }
            ("POST", ["snapshots", "completion", snapshot]) => Self::Complete { snapshot: owned(snapshot) },
            ("GET", ["snapshots", snapshot, "blocks"]) => {
                Self::List { snapshot: owned(snapshot), page: page() }
            }
            ("GET", ["snapshots", snapshot, "changedblocks"]) => Self::Changed {
                snapshot: owned(snapshot),
                first: text("firstSnapshotId").unwrap_or_default(),
                page: page(),
            },
            ("GET", ["snapshots", snapshot, "blocks", index]) => Self::Get {
                snapshot: owned(snapshot),
                index: owned(index),
                token: text("blockToken").unwrap_or_default(),
            },
            _ => return None,
        })
    }

    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::Start => "StartSnapshot",
            Self::Put { .. } => "PutSnapshotBlock",
            Self::Complete { .. } => "CompleteSnapshot",
            Self::List { .. } => "ListSnapshotBlocks",
            Self::Changed { .. } => "ListChangedBlocks",
            Self::Get { .. } => "GetSnapshotBlock",
        }
    }

    pub(super) fn has_token(&self) -> bool {
        match self {
            Self::List { page, .. } | Self::Changed { page, .. } => page.token.is_some(),
            Self::Get { .. } => true,
            Self::Start | Self::Put { .. } | Self::Complete { .. } => false,
        }
    }

    /// How it is told that the call's token has expired.
    pub(super) fn expired(&self) -> Exception {
        let (reason, what) = match self {
            Self::Get { .. } => ("INVALID_BLOCK_TOKEN", "block"),
            _ => ("INVALID_PAGE_TOKEN", "page"),
        };
        Exception::validation(reason, format!("The {what} token has expired."))
    }
}

/// Does what is asked for.
pub(super) fn answer(
    shared: &Shared,
    request: &Request,
    call: &Call,
    fault: Option<&Fault>,
) -> Result<Answer, Exception> {
    match call {
        Call::Start => start(&mut settled(shared), &request.body),
        Call::Put { snapshot, index } => put(shared, request, snapshot, index, fault),
        Call::Complete { snapshot } => complete(&mut settled(shared), request, snapshot, fault),
        Call::List { snapshot, page } => {
            let (blocks, size) = readable(&settled(shared), snapshot)?;
            let all = blocks.allocated().map_err(Exception::internal)?;
            let world = &mut *shared.world();
            let (indexes, next) = world.page_of(page, &all, snapshot)?;
            let listed = indexes.iter().map(
                |index| json!({ "BlockIndex": index, "BlockToken": world.block_token(snapshot, *index) }),
            );
            let listed: Value = listed.collect();
            Ok(world.list("Blocks", listed, size, next))
        }
        Call::Changed { snapshot, first, page } => changed(shared, snapshot, first, page),
        Call::Get { snapshot, index, token } => get(shared, snapshot, index, token, fault),
    }
}

fn settled(shared: &Shared) -> std::sync::MutexGuard<'_, World> {
    let mut world = shared.world();
    world.settle();
    world
}

fn start(world: &mut World, body: &[u8]) -> Result<Answer, Exception> {
    let wrong = |what: &str| Exception::validation("INVALID_PARAMETER_VALUE", what);
    let asked: Value = serde_json::from_slice(body).map_err(|error| wrong(&error.to_string()))?;
    let text = |name: &str| asked[name].as_str().map(str::to_owned);
    let token = text("ClientToken");
    let mut fingerprint: Vec<_> = asked
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.to_string()))
        .collect();
    fingerprint.retain(|(name, _)| name != "ClientToken");
    let token = token.map(|token| format!("StartSnapshot/{token}"));
    if let Some(known) = token.as_ref().and_then(|token| world.tokens.get(token)) {
        if known.asked != fingerprint {
            let why = "The request uses the same client token as a previous, but non-identical request.";
            return Err(Exception::new(409, "ConflictException", why));
        }
        let body = serde_json::from_str(&known.answer).map_err(Exception::internal)?;
        return Ok(Answer::json(201, &body));
    }
    let size = asked["VolumeSize"].as_u64().filter(|size| (1..=65_536).contains(size)).ok_or_else(|| {
        Exception::validation("INVALID_VOLUME_SIZE", "VolumeSize has to be from 1 to 65536 GiB.")
    })?;
    let minutes = asked["Timeout"].as_u64().unwrap_or(60);
    if !(10..=4320).contains(&minutes) {
        return Err(wrong("Timeout has to be from 10 to 4320 minutes."));
    }
    let (encrypted, parent) = (asked["Encrypted"].as_bool(), text("ParentSnapshotId"));
    if encrypted.is_some() && parent.is_some() {
        return Err(wrong("Encrypted cannot be specified together with ParentSnapshotId."));
    }
    let id = world.id("snap");
    let name = world.file_name(&id);
    let (file, lineage, of_parent) = match &parent {
        None => (world.ground.empty(&name, size * GIB), id.clone(), None),
        Some(parent) => {
            let parent = completed(world, parent)?;
            if parent.size > size {
                return Err(Exception::validation("INVALID_VOLUME_SIZE", "The parent snapshot is larger."));
            }
            let file = world.ground.copy(&name, &parent.blocks.file, size * GIB);
            (file, parent.lineage.clone(), Some((parent.encrypted, parent.key.clone())))
        }
    };
    let (of_parent_encrypted, of_parent_key) = of_parent.unwrap_or_default();
    let tags: Tags = asked["Tags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|tag| {
            Some((tag["Key"].as_str()?.to_owned(), tag["Value"].as_str().unwrap_or_default().to_owned()))
        })
        .collect();
    let now = world.now();
    let snapshot = Snapshot {
        volume: "vol-ffffffff".to_owned(),
        size,
        parent,
        lineage,
        tags,
        description: text("Description").unwrap_or_default(),
        encrypted: encrypted.unwrap_or(of_parent_encrypted),
        key: text("KmsKeyArn").or(of_parent_key),
        started: now,
        state: SnapshotState::Open { patience: Duration::from_secs(minutes * 60), last: now },
        blocks: Arc::new(Blocks::of(file.map_err(Exception::internal)?)),
    };
    let mut said = json!({
        "SnapshotId": id,
        "OwnerId": super::ACCOUNT,
        "Status": "pending",
        "StartTime": world.clock.seconds(now),
        "VolumeSize": size,
        "BlockSize": BLOCK,
        "Description": snapshot.description,
        "Tags": asked["Tags"].as_array().cloned().unwrap_or_default(),
    });
    for (name, value) in [("ParentSnapshotId", &snapshot.parent), ("KmsKeyArn", &snapshot.key)] {
        if let Some(value) = value {
            said[name] = value.as_str().into();
        }
    }
    if let Some(token) = token {
        world.tokens.insert(token, Token { asked: fingerprint, answer: said.to_string() });
    }
    world.snapshots.insert(id, snapshot);
    Ok(Answer::json(201, &said))
}

fn put(
    shared: &Shared,
    request: &Request,
    snapshot: &str,
    index: &str,
    fault: Option<&Fault>,
) -> Result<Answer, Exception> {
    let wrong = |what: &str| Exception::validation("INVALID_PARAMETER_VALUE", what);
    let bad = |what: &str| Exception::validation("INVALID_BLOCK", what);
    let index: u32 = index.parse().map_err(|_| wrong("The block index is no number."))?;
    let length = BLOCK.to_string();
    if request.header("x-amz-data-length") != Some(&length)
        || request.header("content-length") != Some(&length)
    {
        return Err(bad("The data of a block is of 524288 bytes, and its length is told."));
    }
    if request.header("x-amz-checksum-algorithm") != Some("SHA256") {
        return Err(wrong("The checksum's algorithm has to be SHA256."));
    }
    let checksum: Checksum = request.digest();
    let told = request.header("x-amz-checksum");
    if told != Some(&BASE64.encode(checksum)) || fault == Some(&Fault::WrongChecksum) {
        return Err(bad("The checksum is not that of the data that was received."));
    }
    let (blocks, size) = {
        let world = &mut *settled(shared);
        let now = world.now();
        let found = world.snapshots.get_mut(snapshot).ok_or_else(|| Exception::no_snapshot(snapshot))?;
        let SnapshotState::Open { last, .. } = &mut found.state else {
            let why = format!("The snapshot {snapshot} is {} and takes no blocks.", found.status());
            return Err(Exception::validation("INVALID_SNAPSHOT_ID", why));
        };
        *last = now;
        (Arc::clone(&found.blocks), found.size)
    };
    if u64::from(index) >= size * GIB / BLOCK {
        return Err(wrong("The block lies behind the end of the volume."));
    }
    blocks.put(index, &request.body, checksum).map_err(Exception::internal)?;
    let headers =
        vec![("x-amz-checksum", BASE64.encode(checksum)), ("x-amz-checksum-algorithm", "SHA256".to_owned())];
    Ok(Answer::empty(201, headers))
}

fn complete(
    world: &mut World,
    request: &Request,
    snapshot: &str,
    fault: Option<&Fault>,
) -> Result<Answer, Exception> {
    let wrong = |what: String| Exception::validation("INVALID_PARAMETER_VALUE", what);
    let (now, wait) = (world.now(), world.wait());
    let found = world.snapshots.get_mut(snapshot).ok_or_else(|| Exception::no_snapshot(snapshot))?;
    let (count, sum) = found.blocks.sum();
    let told = request.header("x-amz-changedblockscount").and_then(|text| text.parse().ok());
    if told != Some(count) {
        return Err(wrong(format!(
            "{count} blocks were written, and not as many as ChangedBlocksCount tells."
        )));
    }
    if let Some(told) = request.header("x-amz-checksum") {
        let how =
            (request.header("x-amz-checksum-algorithm"), request.header("x-amz-checksum-aggregation-method"));
        if how != (Some("SHA256"), Some("LINEAR")) {
            return Err(wrong(
                "A checksum has the algorithm SHA256 and the aggregation method LINEAR.".to_owned(),
            ));
        }
        if told != BASE64.encode(sum) {
            return Err(wrong("The checksum is not that of the checksums of the blocks.".to_owned()));
        }
    }
    match found.state {
        SnapshotState::Open { .. } => {
            found.state = SnapshotState::Pending(now + wait, fault == Some(&Fault::FailsLater));
        }
        SnapshotState::Error => {
            let why = format!("The snapshot {snapshot} is in the state error.");
            return Err(Exception::validation("INVALID_SNAPSHOT_ID", why));
        }
        // It was told before, and the answer was lost.
        SnapshotState::Pending(..) | SnapshotState::Completed(_) => {}
    }
    Ok(Answer::json(202, &json!({ "Status": found.status() })))
}

fn changed(shared: &Shared, snapshot: &str, first: &str, page: &Page) -> Result<Answer, Exception> {
    if first.is_empty() {
        return Err(Exception::validation("INVALID_PARAMETER_VALUE", "FirstSnapshotId is missing."));
    }
    let (older, newer, size) = {
        let world = settled(shared);
        let (before, after) = (completed(&world, first)?, completed(&world, snapshot)?);
        if before.lineage != after.lineage {
            let why = format!("The snapshots {first} and {snapshot} are not of the same volume.");
            return Err(Exception::validation("UNRELATED_SNAPSHOTS", why));
        }
        (Arc::clone(&before.blocks), Arc::clone(&after.blocks), after.size)
    };
    let all = newer.changed_since(&older).map_err(Exception::internal)?;
    let (before, after) =
        (older.allocated().map_err(Exception::internal)?, newer.allocated().map_err(Exception::internal)?);
    let world = &mut *shared.world();
    let (indexes, next) = world.page_of(page, &all, &format!("{first}>{snapshot}"))?;
    let listed = indexes.iter().map(|index| {
        let mut block = json!({ "BlockIndex": index });
        for (name, of, blocks) in
            [("FirstBlockToken", first, &before), ("SecondBlockToken", snapshot, &after)]
        {
            if blocks.binary_search(index).is_ok() {
                block[name] = world.block_token(of, *index).into();
            }
        }
        block
    });
    let listed: Value = listed.collect();
    Ok(world.list("ChangedBlocks", listed, size, next))
}

fn get(
    shared: &Shared,
    snapshot: &str,
    index: &str,
    token: &str,
    fault: Option<&Fault>,
) -> Result<Answer, Exception> {
    let number: u32 = index
        .parse()
        .map_err(|_| Exception::validation("INVALID_PARAMETER_VALUE", "The block index is no number."))?;
    let blocks = {
        let world = settled(shared);
        let (blocks, _) = readable(&world, snapshot)?;
        world.check_token("block", &format!("{snapshot}/{number}"), token)?;
        blocks
    };
    let (mut bytes, checksum) = blocks.read(number).map_err(Exception::internal)?;
    if fault == Some(&Fault::WrongChecksum)
        && let Some(first) = bytes.first_mut()
    {
        *first ^= 1;
    }
    let headers = vec![
        ("content-type", "application/octet-stream".to_owned()),
        ("x-amz-data-length", BLOCK.to_string()),
        ("x-amz-checksum", BASE64.encode(checksum)),
        ("x-amz-checksum-algorithm", "SHA256".to_owned()),
    ];
    Ok(Answer::bytes(headers, bytes))
}

/// A snapshot whose blocks do not change any more.
fn completed<'w>(world: &'w World, id: &str) -> Result<&'w Snapshot, Exception> {
    let snapshot = world.snapshots.get(id).ok_or_else(|| Exception::no_snapshot(id))?;
    if matches!(snapshot.state, SnapshotState::Completed(_)) {
        return Ok(snapshot);
    }
    let why = format!("The snapshot {id} is in the state {}, and not completed.", snapshot.status());
    Err(Exception::validation("INVALID_SNAPSHOT_ID", why))
}

fn readable(world: &World, id: &str) -> Result<(Arc<Blocks>, u64), Exception> {
    completed(world, id).map(|snapshot| (Arc::clone(&snapshot.blocks), snapshot.size))
}

impl World {
    /// The blocks of a page, and the token of the next.
    fn page_of(
        &mut self,
        page: &Page,
        all: &[u32],
        of: &str,
    ) -> Result<(Vec<u32>, Option<String>), Exception> {
        let wrong = |what: &str| Exception::validation("INVALID_PARAMETER_VALUE", what);
        let number = |text: &Option<String>| text.as_deref().map(str::parse::<u32>).transpose();
        let most = number(&page.most).map_err(|_| wrong("MaxResults is no number."))?.unwrap_or(10_000);
        if !(100..=10_000).contains(&most) {
            return Err(wrong("MaxResults has to be from 100 to 10000."));
        }
        let start = number(&page.start).map_err(|_| wrong("StartingBlockIndex is no number."))?.unwrap_or(0);
        let from = match &page.token {
            None => start,
            Some(token) => {
                let at = self.check_token("page", of, token)?;
                at.parse().map_err(|_| wrong("The page token is of no page."))?
            }
        };
        let behind = all.partition_point(|index| *index < from);
        let rest = all.get(behind..).unwrap_or_default();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let count = if !rest.is_empty() && self.chance.happens(EMPTY) { 0 } else { most.min(rest.len()) };
        let (indexes, more) = rest.split_at(count);
        let next = more.first().map(|index| self.token("page", of, &index.to_string(), PAGE_LIFE));
        Ok((indexes.to_vec(), next))
    }

    fn list(&self, name: &str, listed: Value, size: u64, next: Option<String>) -> Answer {
        let expiry = self.clock.seconds(self.now() + BLOCK_LIFE);
        let mut body = json!({ name: listed, "ExpiryTime": expiry, "VolumeSize": size, "BlockSize": BLOCK });
        if let Some(next) = next {
            body["NextToken"] = next.into();
        }
        Answer::json(200, &body)
    }

    fn block_token(&self, snapshot: &str, index: u32) -> String {
        self.token("block", &format!("{snapshot}/{index}"), "", BLOCK_LIFE)
    }

    /// A token that says what it is for, and that nobody else can make.
    fn token(&self, what: &str, of: &str, at: &str, life: Duration) -> String {
        let text = format!("{what} {of} {at} {}", (self.now() + life).as_millis());
        BASE64.encode(format!("{text} {}", self.seal(&text)))
    }

    /// Answers what the token leads to.
    fn check_token(&self, what: &str, of: &str, token: &str) -> Result<String, Exception> {
        let reason = if what == "page" { "INVALID_PAGE_TOKEN" } else { "INVALID_BLOCK_TOKEN" };
        let invalid = || Exception::validation(reason, format!("The {what} token is not valid."));
        let bytes = BASE64.decode(token).map_err(|_| invalid())?;
        let text = String::from_utf8(bytes).map_err(|_| invalid())?;
        let (said, seal) = text.rsplit_once(' ').ok_or_else(invalid)?;
        let [kind, whose, at, until] =
            said.split(' ').collect::<Vec<_>>().try_into().map_err(|_| invalid())?;
        if seal != self.seal(said) || kind != what || whose != of {
            return Err(invalid());
        }
        if until.parse::<u128>().map_err(|_| invalid())? < self.now().as_millis() {
            return Err(Exception::validation(reason, format!("The {what} token has expired.")));
        }
        Ok(at.to_owned())
    }

    fn seal(&self, text: &str) -> String {
        hex(&Sha256::digest(format!("{} {text}", self.site.seed))).chars().take(16).collect()
    }
}
