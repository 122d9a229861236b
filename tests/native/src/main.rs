//! Moves a file into a snapshot of EBS, and a snapshot into a file:
//!
//! ```text
//! native-ebs put ENDPOINT FILE             prints the snapshot's id
//! native-ebs get ENDPOINT SNAPSHOT FILE
//! ```
//!
//! It does what the house does with the same bytes and no more: blocks that hold data, 16 of them under way at once, each
//! with its digest, and what was fetched is on the disk when it ends. Keys come from the environment.

use std::{env, error::Error, fs::File, os::unix::fs::FileExt as _, sync::Arc};

use aws_sdk_ebs::{
    Client, Config,
    config::{Credentials, Region},
    primitives::ByteStream,
    types::{ChecksumAggregationMethod, ChecksumAlgorithm},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustix::fs::{SeekFrom, seek};
use sha2::{Digest as _, Sha256};

const BLOCK: u64 = 512 << 10;
const AT_ONCE: usize = 16;
const GIB: u64 = 1 << 30;

type Fallible<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Fallible {
    let words: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["put", endpoint, file] => put(&client(endpoint)?, file).await,
        ["get", endpoint, snapshot, file] => get(&client(endpoint)?, snapshot, file).await,
        _ => Err("native-ebs put ENDPOINT FILE, or native-ebs get ENDPOINT SNAPSHOT FILE".into()),
    }
}

fn client(endpoint: &str) -> Fallible<Client> {
    let keys = Credentials::new(
        env::var("AWS_ACCESS_KEY_ID")?,
        env::var("AWS_SECRET_ACCESS_KEY")?,
        None,
        None,
        "environment",
    );
    let config = Config::builder()
        .behavior_version_latest()
        .region(Region::new(env::var("AWS_REGION")?))
        .endpoint_url(endpoint)
        .credentials_provider(keys)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Ok(Client::from_conf(config))
}

async fn put(client: &Client, path: &str) -> Fallible {
    let file = Arc::new(File::open(path)?);
    let gib = i64::try_from(file.metadata()?.len().div_ceil(GIB))?;
    let begun = client.start_snapshot().volume_size(gib).send().await?;
    let snapshot = begun.snapshot_id().ok_or("a snapshot without an id")?.to_owned();
    let blocks = allocated(&file)?;
    let mut digests: Vec<_> = stream::iter(blocks)
        .map(|index| put_block(client, &snapshot, &file, index))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    digests.retain(Option::is_some);
    let mut whole = Sha256::new();
    digests.iter().flatten().for_each(|digest| whole.update(digest));
    client
        .complete_snapshot()
        .snapshot_id(&snapshot)
        .changed_blocks_count(i32::try_from(digests.len())?)
        .checksum(BASE64_STANDARD.encode(whole.finalize()))
        .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
        .checksum_aggregation_method(ChecksumAggregationMethod::ChecksumAggregationLinear)
        .send()
        .await?;
    println!("{snapshot}");
    Ok(())
}

/// Puts a block and answers its digest; nothing for one of zeroes.
async fn put_block(
    client: &Client,
    snapshot: &str,
    file: &Arc<File>,
    index: u64,
) -> Fallible<Option<[u8; 32]>> {
    let file = Arc::clone(file);
    let read = tokio::task::spawn_blocking(move || -> Fallible<Option<(Vec<u8>, [u8; 32])>> {
        let mut bytes = vec![0; usize::try_from(BLOCK)?];
        file.read_exact_at(&mut bytes, index * BLOCK)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let digest = Sha256::digest(&bytes).into();
        Ok(Some((bytes, digest)))
    });
    let Some((bytes, digest)) = read.await?? else { return Ok(None) };
    client
        .put_snapshot_block()
        .snapshot_id(snapshot)
        .block_index(i32::try_from(index)?)
        .data_length(i32::try_from(BLOCK)?)
        .checksum(BASE64_STANDARD.encode(digest))
        .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
        .block_data(ByteStream::from(bytes))
        .send()
        .await?;
    Ok(Some(digest))
}

async fn get(client: &Client, snapshot: &str, path: &str) -> Fallible {
    let (mut blocks, mut page, mut gib) = (Vec::new(), None, 0);
    loop {
        let listed = client.list_snapshot_blocks().snapshot_id(snapshot).set_next_token(page).send().await?;
        gib = listed.volume_size().unwrap_or(gib);
        for block in listed.blocks() {
            let index = block.block_index().ok_or("a block without a place")?;
            blocks.push((index, block.block_token().ok_or("a block without a token")?.to_owned()));
        }
        page = listed.next_token().map(str::to_owned);
        if page.is_none() {
            break;
        }
    }
    let file = Arc::new(File::options().create_new(true).read(true).write(true).open(path)?);
    file.set_len(u64::try_from(gib)? * GIB)?;
    stream::iter(blocks)
        .map(|(index, token)| get_block(client, snapshot, &file, index, token))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    tokio::task::spawn_blocking(move || file.sync_all()).await??;
    Ok(())
}

async fn get_block(client: &Client, snapshot: &str, file: &Arc<File>, index: i32, token: String) -> Fallible {
    let came = client
        .get_snapshot_block()
        .snapshot_id(snapshot)
        .block_index(index)
        .block_token(token)
        .send()
        .await?;
    let told = came.checksum().ok_or("a block without a checksum")?.to_owned();
    let bytes = came.block_data.collect().await?.into_bytes();
    let file = Arc::clone(file);
    tokio::task::spawn_blocking(move || -> Fallible {
        if BASE64_STANDARD.encode(Sha256::digest(&bytes)) != told {
            return Err("a block came damaged".into());
        }
        file.write_all_at(&bytes, u64::try_from(index)? * BLOCK)?;
        Ok(())
    })
    .await?
}

/// The blocks in which something was written.
fn allocated(file: &File) -> Fallible<Vec<u64>> {
    let (mut blocks, mut at) = (Vec::new(), 0);
    let end = file.metadata()?.len();
    while at < end {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?;
        for index in start / BLOCK..at.div_ceil(BLOCK) {
            if blocks.last() != Some(&index) {
                blocks.push(index);
            }
        }
    }
    Ok(blocks)
}
