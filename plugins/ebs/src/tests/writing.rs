//! Snapshots that are made out of bytes.

use kato_plugin_sdk::{
    snapshot_writing::{Begun, Completing, Wish as Writing},
    testing::{Cut as CutOff, MemoryTransfers, stand_in_digest},
    types::Extent,
};

use super::{
    direct::Fault::{self, Damaged, Lost, Refused},
    *,
};
use crate::{blocks, direct::BLOCK_BYTES, writing};

const BLOCKS: [(u64, u8); 3] = [(0, 7), (3, 0), (2_047, 9)];
const AGAIN: Fault = Refused(500, "InternalServerException", "");
const LATER: Fault = Refused(400, "ConcurrentLimitExceededException", "");
const ZERO: [u8; 32] = [0; 32];

fn seed(token: &str) -> Writing {
    Writing {
        token: token.into(),
        mark: "s1:c0:s7:v7:2:ext4:fast:data:00".into(),
        name: "data".into(),
        size_bytes: GIB - 1,
        base: None,
        parameters: Vec::new(),
    }
}

fn region() -> Backend {
    let backend = Backend::new();
    backend.ec2.borrow_mut().unseen = 0;
    backend
}

fn fail(backend: &Backend, faults: &[(&'static str, Fault)]) {
    backend.ec2.borrow_mut().direct.faults = faults.to_vec();
}

impl Backend {
    fn begin(&self, wish: &Writing) -> Result<String, Error> {
        let Begun { handle, block_bytes } = writing::begin(&self.cloud(), wish)?;
        assert_eq!(block_bytes, 524_288);
        Ok(handle)
    }

    /// Writes blocks; how many requests it took in each round.
    fn write(&self, id: &str, blocks: &[(u64, u8)]) -> Result<Vec<usize>, Error> {
        let bytes =
            blocks.iter().map(|(index, byte)| (index * BLOCK_BYTES, vec![*byte; BLOCK_BYTES as usize]));
        let transfers = MemoryTransfers::writing(self.ec2.clone(), bytes.collect());
        let extent = |index| Extent { offset_bytes: index * BLOCK_BYTES, length_bytes: BLOCK_BYTES };
        let extents: Vec<_> = blocks.iter().map(|(index, _)| extent(*index)).collect();
        blocks::write(&self.cloud(), &transfers, &named("kato-w", id), &extents)?;
        Ok(transfers.requests())
    }

    fn complete(&self, id: &str, count: u64, digest: [u8; 32]) -> Result<Snapshot, Error> {
        let mut resume: Option<Vec<u8>> = None;
        for _ in 0..100 {
            let which = named("kato-w", id);
            match writing::complete(&self.cloud(), &which, count, &digest, work(resume.as_deref()))? {
                Completing::Done(snapshot) => return Ok(snapshot),
                Completing::Pending(pending) => {
                    self.pass(pending.retry_after_ms);
                    resume = Some(pending.resume);
                }
            }
        }
        Err(Error::internal("it never ends"))
    }

    fn is_open(&self, id: &str) -> bool {
        self.ec2.borrow().snapshots[id].open
    }

    fn starts(&self) -> usize {
        self.ec2.borrow().direct.asked.iter().filter(|asked| **asked == "StartSnapshot").count()
    }
}

/// The digest over the digests of blocks.
fn digest(blocks: &[(u64, u8)]) -> [u8; 32] {
    let each = blocks.iter().flat_map(|(_, byte)| stand_in_digest(&vec![*byte; BLOCK_BYTES as usize]));
    stand_in_digest(&each.collect::<Vec<_>>())
}

#[test]
fn bytes_become_a_snapshot() {
    let backend = region().with("tags", "team=blue");
    let id = backend.begin(&seed("kato-w")).unwrap();
    let asked = backend.ec2.borrow().direct.started.clone();
    assert_eq!((&asked["VolumeSize"], &asked["ClientToken"]), (&1.into(), &"kato-w".into()));
    assert_eq!(asked["Description"], "Kato kato-w");
    let tags = &backend.ec2.borrow().snapshots[&id].tags.clone();
    let expected = [("kato-token", "kato-w"), ("Name", "data"), ("kato-cluster", "c0"), ("team", "blue")];
    assert!(expected.iter().all(|(key, value)| tags[*key] == *value), "{tags:?}");
    assert_eq!(backend.write(&id, &BLOCKS).unwrap(), [3]);
    let snapshot = backend.complete(&id, 3, digest(&BLOCKS)).unwrap();
    assert_eq!(
        (snapshot.handle.as_str(), snapshot.ready, snapshot.volume.clone()),
        (id.as_str(), true, None)
    );
    assert_eq!(snapshot.size_bytes, GIB);
    let there: Vec<_> = backend.ec2.borrow().direct.blocks[&id].there.clone().into_iter().collect();
    assert_eq!(there, BLOCKS);
    assert_eq!(backend.complete(&id, 3, digest(&BLOCKS)).unwrap(), snapshot);
    assert_eq!(backend.create(&from_snapshot("kato-v", "kato-w")).unwrap().size_bytes, 5 * GIB);
}

#[test]
fn beginning_again_is_going_on() {
    let backend = Backend::new();
    let id = backend.begin(&seed("kato-w")).unwrap();
    // It is not to be seen yet, and the client token knows it.
    assert_eq!(backend.begin(&seed("kato-w")).unwrap(), id);
    backend.pass(5_000);
    assert_eq!(backend.begin(&seed("kato-w")).unwrap(), id);
    assert_eq!((backend.starts(), backend.ec2.borrow().snapshots.len()), (2, 1));
    fail(&backend, &[("StartSnapshot", Lost)]);
    let other = backend.begin(&seed("kato-x")).unwrap();
    assert_ne!(other, id);
    assert_eq!(backend.ec2.borrow().snapshots.len(), 2);
}

#[test]
fn a_token_that_was_used_up_is_burnt() {
    let backend = region();
    let id = backend.begin(&seed("kato-w")).unwrap();
    for wish in [Writing { size_bytes: 2 * GIB, ..seed("kato-w") }, seed("kato-w")] {
        if wish.size_bytes < GIB {
            backend.write(&id, &BLOCKS).unwrap();
            backend.complete(&id, 3, digest(&BLOCKS)).unwrap();
        }
        assert_eq!(kind(backend.begin(&wish)), ErrorKind::TokenBurnt);
    }
    backend.ec2.borrow_mut().snapshots.get_mut(&id).unwrap().state = "error";
    assert_eq!(kind(backend.begin(&seed("kato-w"))), ErrorKind::TokenBurnt);
    assert!(backend.ec2.borrow().snapshots.is_empty(), "what failed goes");
    // Nobody sees it, and the token belongs to something else.
    let other = Writing { name: "other".into(), ..seed("kato-w") };
    assert_eq!(kind(backend.begin(&other)), ErrorKind::TokenBurnt);
    let known = r#"{"SnapshotId":"snap-01","Status":"completed"}"#;
    fail(&backend, &[("StartSnapshot", Fault::Other(known))]);
    assert_eq!(kind(backend.begin(&seed("kato-w"))), ErrorKind::TokenBurnt);
    // Nor does the client token bring back what was deleted: it takes no blocks.
    assert_eq!(backend.begin(&seed("kato-w")).unwrap(), id);
    assert_eq!(kind(backend.write(&id, &BLOCKS)), ErrorKind::NotFound);
    assert_eq!(kind(backend.complete(&id, 0, ZERO)), ErrorKind::NotFound);
}

#[test]
fn on_a_base_only_what_differs_is_written() {
    let backend = region();
    let id = backend.begin(&seed("kato-w")).unwrap();
    let encrypted = pairs(&[("encrypted", "true"), ("kms-key", "arn:aws:kms:eu-test-1:1:key/k")]);
    let wish = |parameters: &[Pair]| Writing {
        base: Some(named("kato-w", &id)),
        parameters: parameters.to_vec(),
        ..seed("kato-x")
    };
    assert_eq!(kind(backend.begin(&wish(&encrypted))), ErrorKind::Busy);
    backend.write(&id, &BLOCKS).unwrap();
    backend.complete(&id, 3, digest(&BLOCKS)).unwrap();
    let next = backend.begin(&wish(&encrypted)).unwrap();
    assert_eq!(backend.ec2.borrow().direct.started["ParentSnapshotId"], id);
    backend
        .ec2
        .borrow_mut()
        .snapshots
        .get_mut(&next)
        .unwrap()
        .tags
        .insert("kato-token".into(), "kato-w".into());
    backend.write(&next, &[(3, 5)]).unwrap();
    backend.complete(&next, 1, digest(&[(3, 5)])).unwrap();
    let there: Vec<_> = backend.ec2.borrow().direct.blocks[&next].there.clone().into_iter().collect();
    assert_eq!(there, [(0, 7), (3, 5), (2_047, 9)]);
    backend.begin(&Writing { base: None, parameters: encrypted, ..seed("kato-y") }).unwrap();
    let started = backend.ec2.borrow().direct.started.clone();
    assert_eq!((&started["Encrypted"], started["KmsKeyArn"].is_string()), (&true.into(), true));
    let gone = Writing { base: Some(which("kato-none")), ..seed("kato-z") };
    assert_eq!(kind(backend.begin(&gone)), ErrorKind::NotFound);
}

#[test]
fn what_fails_on_its_way_is_sent_again_and_nothing_else() {
    for faults in [
        &[AGAIN][..],
        &[Lost],
        &[Damaged],
        &[LATER],
        &[Refused(400, "ValidationException", "CONFLICTING_BLOCK_UPDATE")],
    ] {
        let backend = region();
        let id = backend.begin(&seed("kato-w")).unwrap();
        fail(&backend, &faults.iter().map(|fault| ("PutSnapshotBlock", *fault)).collect::<Vec<_>>());
        assert_eq!(backend.write(&id, &BLOCKS).unwrap(), [3, 1], "{faults:?}");
        backend.complete(&id, 3, digest(&BLOCKS)).unwrap();
    }
    let backend = region();
    let id = backend.begin(&seed("kato-w")).unwrap();
    fail(&backend, &[("PutSnapshotBlock", LATER); 2]);
    assert_eq!(kind(backend.write(&id, &BLOCKS)), ErrorKind::Throttled);
    fail(&backend, &[("PutSnapshotBlock", AGAIN); 9]);
    assert_eq!(kind(backend.write(&id, &BLOCKS)), ErrorKind::Unavailable);
    fail(&backend, &[("PutSnapshotBlock", Damaged); 9]);
    assert_eq!(kind(backend.write(&id, &BLOCKS)), ErrorKind::Unavailable);
    fail(&backend, &[]);
    assert_eq!(kind(backend.write(&id, &[(2_048, 1)])), ErrorKind::InvalidArgument);
}

#[test]
fn what_is_not_open_takes_no_blocks() {
    let backend = region();
    let id = backend.begin(&seed("kato-w")).unwrap();
    // EC2 says that it is open: EBS knows better soon.
    fail(&backend, &[("PutSnapshotBlock", Refused(404, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND"))]);
    assert_eq!(kind(backend.write(&id, &BLOCKS)), ErrorKind::Unavailable);
    let ended = |state| {
        let mut ec2 = backend.ec2.borrow_mut();
        let snapshot = ec2.snapshots.get_mut(&id).unwrap();
        (snapshot.state, snapshot.open) = (state, false);
    };
    ended("completed");
    assert_eq!(kind(backend.write(&id, &BLOCKS)), ErrorKind::NotFound);
    ended("error");
    let error = backend.write(&id, &BLOCKS).unwrap_err();
    assert!(error.kind == ErrorKind::NotFound && error.message.contains("it timed out"), "{error:?}");
    assert!(backend.ec2.borrow().snapshots.is_empty(), "what failed goes");
    assert_eq!(kind(backend.complete(&id, 0, ZERO)), ErrorKind::NotFound);
    assert_eq!(kind(backend.write(&id, &BLOCKS)), ErrorKind::NotFound);
}

#[test]
fn a_count_or_a_digest_of_other_blocks_completes_nothing() {
    let backend = region();
    let id = backend.begin(&seed("kato-w")).unwrap();
    backend.write(&id, &BLOCKS).unwrap();
    // A block that is written again counts once.
    backend.write(&id, &BLOCKS[..1]).unwrap();
    for (count, digest) in [(2, digest(&BLOCKS)), (3, ZERO), (4, digest(&BLOCKS))] {
        let error = backend.complete(&id, count, digest).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error:?}");
        assert!(backend.is_open(&id));
    }
    let short = writing::complete(&backend.cloud(), &named("kato-w", &id), 3, &[0; 31], None);
    assert_eq!(kind(short), ErrorKind::InvalidArgument);
    backend.complete(&id, 3, digest(&BLOCKS)).unwrap();
}

#[test]
fn a_completion_that_fails_afterwards_has_to_be_begun_anew() {
    let backend = region();
    let id = backend.begin(&seed("kato-w")).unwrap();
    backend.write(&id, &BLOCKS).unwrap();
    backend.ec2.borrow_mut().failing = true;
    let error = backend.complete(&id, 3, digest(&BLOCKS)).unwrap_err();
    assert!(error.kind == ErrorKind::NotFound && error.message.contains("it timed out"), "{error:?}");
    assert!(backend.ec2.borrow().snapshots.is_empty(), "what failed goes");
}

#[test]
fn a_completion_whose_answer_was_lost_is_one() {
    // What was lost is sent again, and refused then: it is not open any more.
    for lost in 1..=3 {
        let backend = region();
        let id = backend.begin(&seed("kato-w")).unwrap();
        backend.write(&id, &BLOCKS).unwrap();
        fail(&backend, &vec![("CompleteSnapshot", Lost); lost]);
        let mut ended = backend.complete(&id, 3, digest(&BLOCKS));
        if lost == 3 {
            assert_eq!(kind(ended), ErrorKind::Unavailable);
            ended = backend.complete(&id, 3, digest(&BLOCKS));
        }
        let snapshot = ended.unwrap();
        assert!(snapshot.ready, "{lost}");
    }
    let backend = region();
    let id = backend.begin(&seed("kato-w")).unwrap();
    fail(&backend, &[("CompleteSnapshot", LATER)]);
    assert_eq!(kind(backend.complete(&id, 0, stand_in_digest(&[]))), ErrorKind::Throttled);
    assert!(backend.complete(&id, 0, stand_in_digest(&[])).unwrap().ready, "one without blocks is one");
}

#[test]
fn an_open_snapshot_can_be_deleted() {
    let backend = region();
    let id = backend.begin(&seed("kato-w")).unwrap();
    backend.write(&id, &BLOCKS).unwrap();
    assert!(!backend.snapshot(which("kato-w")).unwrap().ready);
    backend.delete_snapshot(&which("kato-w")).unwrap();
    assert!(backend.ec2.borrow().snapshots.is_empty());
    backend.delete_snapshot(&named("kato-w", &id)).unwrap();
}

/// A host that records how far it came, and is cut off at each request.
#[test]
fn whatever_is_cut_off_one_snapshot_is_made_and_a_delete_leaves_none() {
    let tell = |backend: &Backend, handle: &mut Option<String>, written: &mut bool| {
        let id = match handle {
            Some(id) => id,
            None => handle.insert(backend.begin(&seed("kato-w"))?),
        };
        if !*written {
            backend.write(id, &BLOCKS)?;
            *written = true;
        }
        backend.complete(id, 3, digest(&BLOCKS))
    };
    for cut in [CutOff::Before, CutOff::After] {
        for request in 1.. {
            let backend = Backend::new();
            let (mut handle, mut written) = (None, false);
            backend.wire.cut(Some(cut(request)));
            let first = tell(&backend, &mut handle, &mut written);
            let ended = backend.wire.sent() < request;
            backend.wire.cut(None);
            assert!(first.is_ok() == ended, "{:?}: {first:?}", cut(request));
            let snapshot = tell(&backend, &mut handle, &mut written).unwrap();
            assert!(snapshot.ready, "{:?}", cut(request));
            let made: Vec<_> = backend.ec2.borrow().snapshots.keys().cloned().collect();
            assert_eq!(made, [snapshot.handle], "{:?}", cut(request));
            backend.delete_snapshot(&which("kato-w")).unwrap();
            assert!(backend.ec2.borrow().snapshots.is_empty());
            if ended {
                assert!(request > 4, "nothing was cut");
                break;
            }
        }
    }
}
