//! What is to be written, as one transaction of etcd's.
//!
//! etcd takes 128 operations in a transaction (of conditions, of effects, and of looks on failure, each) and 1.5 MiB
//! in a request, unless its operator said otherwise. A batch may have 256 KiB (`committer.rs`), so bytes are never
//! short; operations are: a group of 24 snapshots changes some 170 keys at once, and a node with a few hundred
//! holders lets go of all of them in one batch. Such a draft goes *deep*: a transaction may hold transactions, each
//! with its own allowance (what is left of the 128), 64 times 64 in all. Effects are simply spread over them. Conditions
//! are too, and each inner transaction whose conditions do not hold has, as its other branch, a look at a revision that
//! will never be: etcd examines all branches that it is going to take before it takes the first, and refuses the whole
//! with *future revision*. So it stays one stroke: everything or nothing.

use kato_orchestrator::Error;
use prost::Message as _;

use super::wire::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    op,
    request_op::Request,
    signed,
};

/// How many operations etcd takes in one transaction.
const OPERATIONS: usize = 128;
/// How many bytes it takes in one request, but for what it wraps it in.
const BYTES: usize = (1536 << 10) - (4 << 10);

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The key was written last at this revision; at 0, there is none.
    Written(Vec<u8>, u64),
    /// The key has been there since this revision.
    Created(Vec<u8>, u64),
    /// No key of this range is newer.
    NoneNewer((Vec<u8>, Vec<u8>), u64),
}

impl Condition {
    fn compare(&self) -> Compare {
        let of = |key: &[u8], target: CompareTarget, union| Compare {
            result: CompareResult::Equal.into(),
            target: target.into(),
            key: key.to_vec(),
            target_union: Some(union),
            range_end: Vec::new(),
        };
        match self {
            Self::Written(key, at) => of(key, CompareTarget::Mod, TargetUnion::ModRevision(signed(*at))),
            Self::Created(key, at) => {
                of(key, CompareTarget::Create, TargetUnion::CreateRevision(signed(*at)))
            }
            Self::NoneNewer((from, end), than) => Compare {
                result: CompareResult::Less.into(),
                range_end: end.clone(),
                ..of(from, CompareTarget::Mod, TargetUnion::ModRevision(signed(than.saturating_add(1))))
            },
        }
    }

    /// What has to be read to see whether it holds.
    pub(crate) fn look(&self) -> RangeRequest {
        match self {
            Self::Written(key, _) | Self::Created(key, _) => {
                RangeRequest { key: key.clone(), keys_only: true, ..RangeRequest::default() }
            }
            Self::NoneNewer((from, end), _) => RangeRequest {
                key: from.clone(),
                range_end: end.clone(),
                keys_only: true,
                ..RangeRequest::default()
            },
        }
    }

    /// Whether it holds of what was read.
    pub(crate) fn holds(&self, found: &[KeyValue]) -> bool {
        let first = found.first();
        match self {
            Self::Written(_, at) => first.map_or(0, |found| found.mod_revision) == signed(*at),
            Self::Created(_, at) => first.map_or(0, |found| found.create_revision) == signed(*at),
            Self::NoneNewer(_, than) => found.iter().all(|found| found.mod_revision <= signed(*than)),
        }
    }
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A key is written, under a lease (0 for none).
    Put(Vec<u8>, Vec<u8>, i64),
    /// A key goes.
    Remove(Vec<u8>),
    /// Keys of a range go.
    RemoveAll(Vec<u8>, Vec<u8>),
    /// Something is read, after all that.
    Look(Box<RangeRequest>),
}

impl Effect {
    fn op(&self) -> RequestOp {
        op(match self {
            Self::Put(key, value, lease) => {
                Request::RequestPut(PutRequest { key: key.clone(), value: value.clone(), lease: *lease })
            }
            Self::Remove(key) => {
                Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone(), range_end: Vec::new() })
            }
            Self::RemoveAll(from, end) => {
                Request::RequestDeleteRange(DeleteRangeRequest { key: from.clone(), range_end: end.clone() })
            }
            Self::Look(look) => Request::RequestRange((**look).clone()),
        })
    }
}

/// Conditions and effects, in one stroke.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) effects: Vec<Effect>,
}

/// A draft as etcd takes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Written {
    pub(crate) request: TxnRequest,
    /// Whether it holds transactions; then its refusal tells nothing of which condition it was.
    pub(crate) deep: bool,
}

impl Draft {
    /// Whether it needs room.
    pub(crate) fn writes(&self) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::Put(..)))
    }

    /// The draft with a receipt: one more condition and one more effect, both the first of their kind.
    pub(crate) fn with(&self, condition: Condition, effect: Effect) -> Self {
        Self {
            conditions: [vec![condition], self.conditions.clone()].concat(),
            effects: [vec![effect], self.effects.clone()].concat(),
        }
    }

    /// As etcd takes it.
    pub(crate) fn written(&self) -> Result<Written, Error> {
        let most = self.conditions.len().max(self.effects.len());
        let written = if most <= OPERATIONS {
            Written { request: self.flat(), deep: false }
        } else {
            Written { request: self.deep()?, deep: true }
        };
        let bytes = written.request.encoded_len();
        if bytes > BYTES {
            return Err(Error::out_of_range(format!(
                "one change takes {bytes} bytes and etcd takes at most {BYTES} in one request: change fewer records at a \
                 time"
            )));
        }
        Ok(written)
    }

    /// Looks at what the conditions are about, so many at once.
    pub(crate) fn looks(&self) -> impl Iterator<Item = TxnRequest> {
        self.conditions.chunks(OPERATIONS).map(|conditions| TxnRequest {
            success: conditions.iter().map(|condition| op(Request::RequestRange(condition.look()))).collect(),
            ..TxnRequest::default()
        })
    }

    fn flat(&self) -> TxnRequest {
        let look = |condition: &Condition| op(Request::RequestRange(condition.look()));
        TxnRequest {
            compare: self.conditions.iter().map(Condition::compare).collect(),
            success: self.effects.iter().map(Effect::op).collect(),
            failure: self.conditions.iter().map(look).collect(),
        }
    }

    /// The first condition is asked in front of everything, so that its failure is told apart.
    fn deep(&self) -> Result<TxnRequest, Error> {
        let (first, conditions) = self.conditions.split_at(self.conditions.len().min(1));
        let pieces = |each: usize| conditions.len().div_ceil(each) + self.effects.len().div_ceil(each);
        let each = (1..OPERATIONS).rev().find(|each| pieces(*each) + each <= OPERATIONS).ok_or_else(|| {
            Error::out_of_range(format!(
                "one change has {} conditions and {} effects, and etcd takes at most {OPERATIONS} operations in one \
                 transaction and as many transactions in one another, some 4,000 in all: change fewer records at a time",
                self.conditions.len(),
                self.effects.len()
            ))
        })?;
        let never = |about: &Condition| {
            let look = RangeRequest { revision: i64::MAX, ..about.look() };
            op(Request::RequestRange(look))
        };
        let examined = conditions.chunks(each).map(|piece| TxnRequest {
            compare: piece.iter().map(Condition::compare).collect(),
            success: Vec::new(),
            failure: piece.iter().take(1).map(never).collect(),
        });
        let done = self.effects.chunks(each).map(|piece| TxnRequest {
            success: piece.iter().map(Effect::op).collect(),
            ..TxnRequest::default()
        });
        Ok(TxnRequest {
            compare: first.iter().map(Condition::compare).collect(),
            success: examined.chain(done).map(|inner| op(Request::RequestTxn(inner))).collect(),
            failure: first.iter().map(|first| op(Request::RequestRange(first.look()))).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(conditions: usize, effects: usize) -> Draft {
        Draft {
            conditions: (0..conditions)
                .map(|n| Condition::Written(format!("c{n}").into_bytes(), 1))
                .collect(),
            effects: (0..effects).map(|n| Effect::Remove(format!("e{n}").into_bytes())).collect(),
        }
    }

    /// What etcd counts: at each depth the longest list, and what is within has the rest.
    fn counts(txn: &TxnRequest, left: usize) -> bool {
        let most = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
        most <= left
            && txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
                Some(Request::RequestTxn(inner)) => counts(inner, left - most),
                _ => true,
            })
    }

    #[test]
    fn every_draft_that_is_taken_is_within_etcds_limits() {
        for (conditions, effects) in
            [(0, 0), (1, 1), (128, 128), (129, 1), (1, 129), (200, 170), (2000, 2000)]
        {
            let written = draft(conditions, effects).written().unwrap();
            assert!(counts(&written.request, OPERATIONS), "{conditions} and {effects}");
            assert_eq!(written.deep, conditions > 128 || effects > 128);
        }
        let error = draft(3000, 3000).written().unwrap_err();
        assert!(error.message.contains("128 operations"), "{error}");
    }

    #[test]
    fn what_is_too_long_is_refused_with_the_limit() {
        let value = vec![0; 1 << 20];
        let effects =
            vec![Effect::Put(b"a".to_vec(), value.clone(), 0), Effect::Put(b"b".to_vec(), value, 0)];
        let error = Draft { effects, ..Draft::default() }.written().unwrap_err();
        assert!(error.message.contains("1568768"), "{error}");
    }
}
