//! etcd's messages, generated from `proto/etcd.proto` by `build.rs`, and which call each of them is. Only the files
//! of this folder name them.

#[allow(
    missing_debug_implementations,
    unreachable_pub,
    unused_lifetimes,
    elided_lifetimes_in_paths,
    dead_code,
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::or_fun_call,
    clippy::large_futures,
    clippy::redundant_clone,
    clippy::cast_lossless,
    reason = "this is a generator's code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}

pub(crate) use generated::*;

/// A request that has one answer.
pub(crate) trait Call: prost::Message + Clone + 'static {
    /// What answers it.
    type Answer: prost::Message + Default + 'static;
    /// What it is called on the wire.
    const PATH: &'static str;
    /// Whether its answer's revision is that of the whole cluster, and not of the member that was asked.
    const OF_THE_CLUSTER: bool;

    /// Where the answer comes from.
    fn header(answer: &Self::Answer) -> Option<&ResponseHeader>;
}

macro_rules! calls {
    ($($request:ty => $answer:ty, $path:literal, $of_the_cluster:literal;)*) => {
        $(impl Call for $request {
            type Answer = $answer;
            const PATH: &'static str = concat!("/etcdserverpb.", $path);
            const OF_THE_CLUSTER: bool = $of_the_cluster;

            fn header(answer: &Self::Answer) -> Option<&ResponseHeader> {
                answer.header.as_ref()
            }
        })*
    };
}

calls! {
    RangeRequest => RangeResponse, "KV/Range", true;
    PutRequest => PutResponse, "KV/Put", true;
    DeleteRangeRequest => DeleteRangeResponse, "KV/DeleteRange", true;
    TxnRequest => TxnResponse, "KV/Txn", true;
    CompactionRequest => CompactionResponse, "KV/Compact", false;
    LeaseGrantRequest => LeaseGrantResponse, "Lease/LeaseGrant", false;
    LeaseRevokeRequest => LeaseRevokeResponse, "Lease/LeaseRevoke", false;
    LeaseTimeToLiveRequest => LeaseTimeToLiveResponse, "Lease/LeaseTimeToLive", false;
    // Of a stream, whose first answer is the one.
    LeaseKeepAliveRequest => LeaseKeepAliveResponse, "Lease/LeaseKeepAlive", false;
    AuthenticateRequest => AuthenticateResponse, "Auth/Authenticate", false;
}

/// The stream of changes.
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// A range that has all keys that begin so.
pub(crate) fn all_that_begin(with: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut end = with.to_vec();
    // No prefix of ours ends in the highest byte.
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    (with.to_vec(), end)
}

/// An operation of a transaction.
pub(crate) fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// etcd's revisions are signed and never negative.
pub(crate) fn revision(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The other way.
pub(crate) fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
