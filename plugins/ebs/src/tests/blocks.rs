//! Where snapshots hold data and differ, and their bytes on the way to the host.

use kato_plugin_sdk::{
    snapshot_data::Way,
    testing::MemoryTransfers,
    types::{Extent, ExtentPage},
};

use super::{
    direct::Fault::{self, Damaged, Lost, Refused},
    *,
};
use crate::{blocks, direct::BLOCK_BYTES, extents};

const AGAIN: Fault = Refused(500, "InternalServerException", "");
const LATER: Fault = Refused(400, "RequestThrottledException", "RESOURCE_LEVEL_THROTTLE");
const STALE: Fault = Refused(400, "ValidationException", "INVALID_BLOCK_TOKEN");

/// A region with a snapshot of 5 GiB that is ready and has these blocks.
fn with_blocks(there: &[(u64, u8)]) -> (Backend, Which) {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    let which = snapshot(&backend, "kato-s", "a", there);
    (backend, which)
}

fn snapshot(backend: &Backend, token: &str, lineage: &str, there: &[(u64, u8)]) -> Which {
    let id = backend.cut(&cut_of(token, "kato-v")).unwrap().handle;
    backend.ec2.borrow_mut().fill(&id, lineage, there);
    backend.pass(10_000);
    backend.asked();
    named(token, &id)
}

fn fail(backend: &Backend, faults: &[(&'static str, Fault)]) {
    backend.ec2.borrow_mut().direct.faults = faults.to_vec();
}

/// What was asked of the EBS direct APIs since this was asked last.
fn asked(backend: &Backend, action: &str) -> usize {
    let mut ec2 = backend.ec2.borrow_mut();
    std::mem::take(&mut ec2.direct.asked).into_iter().filter(|asked| *asked == action).count()
}

/// Extents, in blocks.
fn told(page: &ExtentPage) -> Vec<(u64, u64)> {
    let blocks = |bytes: u64| {
        assert_eq!(bytes % BLOCK_BYTES, 0);
        bytes / BLOCK_BYTES
    };
    page.extents.iter().map(|one| (blocks(one.offset_bytes), blocks(one.length_bytes))).collect()
}

/// All pages from the beginning on.
fn all(mut ask: impl FnMut(u64) -> Result<ExtentPage, Error>) -> (Vec<(u64, u64)>, usize) {
    let (mut found, mut pages, mut from) = (Vec::new(), 0, 0);
    loop {
        let page = ask(from).unwrap();
        assert!(page.extents.len() <= 10_000);
        found.extend(told(&page));
        pages += 1;
        match page.next_bytes {
            Some(next) => {
                let last = page.extents.last().map_or(0, |last| last.offset_bytes + last.length_bytes);
                assert!(next > from && next >= last);
                from = next;
            }
            None => return (found, pages),
        }
    }
}

fn extents_of(parts: &[(u64, u64)]) -> Vec<Extent> {
    let extent = |(from, count): &(u64, u64)| Extent {
        offset_bytes: from * BLOCK_BYTES,
        length_bytes: count * BLOCK_BYTES,
    };
    parts.iter().map(extent).collect()
}

/// Reads these parts, in blocks: what came, and how many requests there were in each round.
fn read(
    backend: &Backend,
    which: &Which,
    parts: &[(u64, u64)],
) -> (Result<Vec<(u64, u8)>, Error>, Vec<usize>) {
    let extents = extents_of(parts);
    let asked: Vec<_> = extents.iter().map(|one| (one.offset_bytes, one.length_bytes)).collect();
    let transfers = MemoryTransfers::reading(backend.ec2.clone(), &asked);
    let ended = blocks::read(&backend.cloud(), &transfers, which, &extents);
    let came = transfers.bytes().into_iter().map(|(offset, bytes)| {
        assert!(bytes == vec![bytes[0]; BLOCK_BYTES as usize]);
        (offset / BLOCK_BYTES, bytes[0])
    });
    (ended.map(|()| came.collect()), transfers.requests())
}

#[test]
fn blocks_that_touch_are_one_extent() {
    let (backend, which) = with_blocks(&[(0, 1), (1, 1), (4, 1), (10_239, 1), (10_240, 1)]);
    let page = extents::allocated(&backend.cloud(), &which, 0).unwrap();
    // The last block lies behind the end.
    assert_eq!((told(&page), page.next_bytes), (vec![(0, 2), (4, 1), (10_239, 1)], None));
    let page = extents::allocated(&backend.cloud(), &which, BLOCK_BYTES + 512).unwrap();
    let first = Extent { offset_bytes: BLOCK_BYTES + 512, length_bytes: BLOCK_BYTES - 512 };
    assert_eq!((page.extents.len(), page.extents[0]), (3, first));
    assert!(extents::allocated(&backend.cloud(), &which, 5 * GIB).unwrap().extents.is_empty());
    assert_eq!(extents::reach(&backend.cloud(), &which).unwrap(), Way::Calls(524_288));
}

#[test]
fn a_list_of_many_and_of_empty_pages_is_told_to_its_end() {
    let there: Vec<_> = (0..9_000).filter(|index| index % 90 < 60).map(|index| (index, 1)).collect();
    let (backend, which) = with_blocks(&there);
    let ask = |from| extents::allocated(&backend.cloud(), &which, from);
    let (whole, pages) = all(ask);
    assert_eq!((whole.len(), pages, asked(&backend, "ListSnapshotBlocks")), (100, 1, 1));
    backend.ec2.borrow_mut().direct.page = 50;
    let joined = |parts: Vec<(u64, u64)>| {
        let blocks: Vec<_> = parts.into_iter().flat_map(|(from, count)| from..from + count).collect();
        assert!(blocks.is_sorted_by(|one, next| one < next));
        blocks
    };
    let whole = joined(whole);
    let (parts, pages) = all(ask);
    assert_eq!((joined(parts), pages, asked(&backend, "ListSnapshotBlocks")), (whole.clone(), 12, 120));
    backend.ec2.borrow_mut().direct.empty = true;
    assert_eq!(joined(all(ask).0), whole);
    asked(&backend, "");
    // The token of a page ends between two.
    fail(&backend, &[("ListSnapshotBlocks", Lost)]);
    backend.ec2.borrow_mut().direct.faults.push(("ListSnapshotBlocks", AGAIN));
    assert_eq!(joined(all(ask).0), whole);
    let cloud = backend.cloud();
    let mut listing = crate::direct::Listing::of(&cloud, which.handle.as_deref().unwrap(), 0, 100);
    let mut found = 0;
    while let Some(page) = listing.page().unwrap() {
        found += page.len();
        backend.ec2.borrow_mut().direct.age += 1;
    }
    assert_eq!(found, whole.len());
}

#[test]
fn more_extents_than_a_page_has_are_told_in_two() {
    let there: Vec<_> = (0..10_240).filter(|index| index % 2 == 0).map(|index| (index, 1)).collect();
    let (backend, which) = with_blocks(&there);
    backend.ec2.borrow_mut().snapshots.get_mut(which.handle.as_deref().unwrap()).unwrap().gib = 50;
    let there: Vec<_> = (0..20_004).filter(|index| index % 2 == 1).map(|index| (index, 1)).collect();
    backend.ec2.borrow_mut().fill(which.handle.as_deref().unwrap(), "a", &there);
    let page = extents::allocated(&backend.cloud(), &which, 0).unwrap();
    assert_eq!((page.extents.len(), page.next_bytes), (10_000, Some(20_001 * BLOCK_BYTES)));
    let (found, pages) = all(|from| extents::allocated(&backend.cloud(), &which, from));
    assert_eq!((found.len(), pages), (10_002, 2));
}

#[test]
fn a_block_that_only_one_of_two_has_is_changed() {
    let (backend, base) = with_blocks(&[(0, 1), (1, 1), (5, 1)]);
    let later = snapshot(&backend, "kato-t", "a", &[(0, 1), (1, 2), (9, 1)]);
    let changed = |base: &Which, which: &Which| {
        extents::changed(&backend.cloud(), base, which, 0).map(|page| told(&page))
    };
    assert_eq!(changed(&base, &later).unwrap(), [(1, 1), (5, 1), (9, 1)]);
    assert_eq!(changed(&later, &base).unwrap(), [(1, 1), (5, 1), (9, 1)]);
    assert_eq!(changed(&later, &later).unwrap(), []);
    assert_eq!(asked(&backend, "ListChangedBlocks"), 2);
    let other = snapshot(&backend, "kato-u", "b", &[]);
    assert_eq!(kind(changed(&base, &other)), ErrorKind::InvalidArgument);
    assert_eq!(kind(changed(&base, &which("kato-x"))), ErrorKind::NotFound);
}

#[test]
fn what_is_not_ready_is_waited_for() {
    let (backend, which) = with_blocks(&[(0, 1)]);
    let id = which.handle.clone().unwrap();
    let state = |state, open| {
        let mut ec2 = backend.ec2.borrow_mut();
        let snapshot = ec2.snapshots.get_mut(&id).unwrap();
        (snapshot.state, snapshot.open) = (state, open);
    };
    state("pending", true);
    assert_eq!(kind(extents::allocated(&backend.cloud(), &which, 0)), ErrorKind::Busy);
    state("error", false);
    let error = extents::allocated(&backend.cloud(), &which, 0).unwrap_err();
    assert!(error.kind == ErrorKind::Precondition && error.message.contains("it timed out"), "{error:?}");
    let other = named("kato-x", &id);
    assert_eq!(kind(extents::allocated(&backend.cloud(), &other, 0)), ErrorKind::Precondition);
    assert_eq!(kind(extents::reach(&backend.cloud(), &super::which("kato-x"))), ErrorKind::NotFound);
}

#[test]
fn what_is_not_listed_reads_as_zeroes_and_is_not_fetched() {
    let (backend, which) = with_blocks(&[(0, 1), (2, 2), (3, 3), (5_000, 4), (6_000, 5)]);
    let (came, requests) = read(&backend, &which, &[(0, 3), (100, 20), (5_000, 1)]);
    assert_eq!((came.unwrap(), requests), (vec![(0, 1), (2, 2), (5_000, 4)], vec![3]));
    // Two that lie far from each other are listed by themselves.
    assert_eq!(asked(&backend, "ListSnapshotBlocks"), 2);
    let (came, requests) = read(&backend, &super::which("kato-s"), &[(7, 9)]);
    assert_eq!((came.unwrap(), requests), (vec![], vec![]));
    assert_eq!(read(&backend, &which, &[]).0.unwrap(), []);
    for wrong in [&[(0, 65)][..], &[(0, 2), (1, 1)]] {
        assert_eq!(kind(read(&backend, &which, wrong).0), ErrorKind::InvalidArgument);
    }
}

#[test]
fn what_fails_on_its_way_is_fetched_again_and_nothing_else() {
    let there: Vec<_> = (0..9).map(|index| (index, 1)).collect();
    for faults in [&[Damaged][..], &[AGAIN], &[Lost], &[LATER], &[Damaged, Lost, AGAIN, LATER]] {
        let (backend, which) = with_blocks(&there);
        fail(&backend, &faults.iter().map(|fault| ("GetSnapshotBlock", *fault)).collect::<Vec<_>>());
        let (came, requests) = read(&backend, &which, &[(0, 9)]);
        assert_eq!((came.unwrap(), requests), (there.clone(), vec![9, faults.len()]), "{faults:?}");
    }
}

#[test]
fn what_fails_again_and_again_is_never_a_success() {
    let (backend, which) = with_blocks(&[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]);
    for (fault, kind) in [(Damaged, ErrorKind::Unavailable), (AGAIN, ErrorKind::Unavailable)] {
        // One block of five fails in every round.
        fail(&backend, &[("GetSnapshotBlock", fault); 3]);
        let (came, requests) = read(&backend, &which, &[(0, 1)]);
        let error = came.unwrap_err();
        assert_eq!((error.kind, requests), (kind, vec![1, 1, 1]), "{fault:?}");
        assert!(error.message.contains("1 of 1 blocks"), "{}", error.message);
    }
    for (fault, kind) in [
        (Refused(404, "ResourceNotFoundException", "SNAPSHOT_NOT_FOUND"), ErrorKind::NotFound),
        (Refused(403, "AccessDeniedException", "UNAUTHORIZED_ACCOUNT"), ErrorKind::PermissionDenied),
        (Refused(403, "AccessDeniedException", "DEPENDENCY_ACCESS_DENIED"), ErrorKind::PermissionDenied),
        (Refused(402, "ServiceQuotaExceededException", ""), ErrorKind::Exhausted),
    ] {
        fail(&backend, &[("GetSnapshotBlock", fault)]);
        let (came, requests) = read(&backend, &which, &[(0, 5)]);
        let error = came.unwrap_err();
        assert_eq!((error.kind, requests), (kind, vec![5]), "{fault:?}");
        assert!(error.message.contains("GetSnapshotBlock"), "{}", error.message);
    }
}

#[test]
fn who_is_throttled_comes_again_later() {
    let (backend, which) = with_blocks(&[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]);
    fail(&backend, &[("GetSnapshotBlock", LATER); 3]);
    let (came, requests) = read(&backend, &which, &[(0, 5)]);
    let error = came.unwrap_err();
    assert_eq!((error.kind, error.retry_after_ms, requests), (ErrorKind::Throttled, Some(2_000), vec![5]));
    fail(&backend, &[("ListSnapshotBlocks", LATER)]);
    assert_eq!(kind(read(&backend, &which, &[(0, 5)]).0), ErrorKind::Throttled);
}

#[test]
fn blocks_whose_tokens_ended_are_listed_again() {
    let there: Vec<_> = (0..9).map(|index| (index, 1)).collect();
    let (backend, which) = with_blocks(&there);
    fail(&backend, &[("GetSnapshotBlock", STALE), ("GetSnapshotBlock", STALE)]);
    let (came, requests) = read(&backend, &which, &[(0, 9)]);
    assert_eq!((came.unwrap(), requests), (there, vec![9, 2]));
    assert_eq!(asked(&backend, "ListSnapshotBlocks"), 2);
}

#[test]
fn what_does_not_look_like_a_list_is_not_taken_for_an_empty_one() {
    let (backend, which) = with_blocks(&[(0, 1)]);
    for body in ["", "{}", r#"{"BlockSize":524288}"#, r#"{"BlockSize":512,"Blocks":[]}"#] {
        fail(&backend, &[("ListSnapshotBlocks", Fault::Other(body))]);
        assert_eq!(kind(read(&backend, &which, &[(0, 1)]).0), ErrorKind::Internal, "{body}");
        fail(&backend, &[("ListSnapshotBlocks", Fault::Other(body))]);
        assert_eq!(kind(extents::allocated(&backend.cloud(), &which, 0)), ErrorKind::Internal, "{body}");
    }
    for body in [
        r#"{"BlockSize":524288,"Blocks":[{"BlockIndex":3,"BlockToken":"a"},{"BlockIndex":2,"BlockToken":"a"}]}"#,
        r#"{"BlockSize":524288,"Blocks":[{"BlockIndex":"3","BlockToken":"a"}]}"#,
        r#"{"BlockSize":524288,"Blocks":[{"BlockIndex":0}]}"#,
    ] {
        fail(&backend, &[("ListSnapshotBlocks", Fault::Other(body))]);
        assert_eq!(kind(read(&backend, &which, &[(0, 4)]).0), ErrorKind::Internal, "{body}");
    }
}

#[test]
fn thirty_two_mib_take_one_list_and_their_blocks() {
    let there: Vec<_> = (0..2_048).map(|index| (index, 1)).collect();
    let (backend, which) = with_blocks(&there);
    asked(&backend, "");
    for part in 0..4 {
        read(&backend, &which, &[(part * 64, 64)]).0.unwrap();
    }
    let ec2 = backend.ec2.borrow();
    let count = |action| ec2.direct.asked.iter().filter(|asked| **asked == action).count();
    assert_eq!((count("ListSnapshotBlocks"), count("GetSnapshotBlock")), (4, 256));
    assert!(ec2.asked.is_empty(), "EC2 is not asked for each part: {:?}", ec2.asked);
}
