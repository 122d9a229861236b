//! Where snapshots hold data: what `rbd diff` tells, put together and in pages, and what cannot be read.

use kato_plugin_sdk::{
    snapshot_data::Way,
    types::{Connection, ExtentPage},
};

use super::*;
use crate::extents;

fn pages(ask: impl Fn(u64) -> Result<ExtentPage, Error>) -> Vec<(u64, u64)> {
    let (mut told, mut from) = (Vec::new(), 0);
    loop {
        let page = ask(from).unwrap();
        told.extend(page.extents.iter().map(|one| (one.offset_bytes, one.length_bytes)));
        match page.next_bytes {
            Some(next) => from = next,
            None => return told,
        }
    }
}

fn written() -> Backend {
    let backend = Backend::new();
    backend.create(&sized("kato-a", 40 * MIB)).unwrap();
    backend.ceph.borrow_mut().image("kato-a").touched = true;
    backend.cut(&cut_of("kato-m", "kato-a")).unwrap();
    backend.cut(&cut_of("kato-n", "kato-a")).unwrap();
    backend
}

#[test]
fn objects_that_touch_are_one_extent_and_what_was_let_go_has_changed() {
    let backend = written();
    let all = pages(|from| extents::allocated(&backend.pool(), &which("kato-m"), from));
    assert_eq!(all, [(0, 40 * MIB)]);
    let rest = extents::allocated(&backend.pool(), &which("kato-m"), 7 * MIB).unwrap();
    assert_eq!((rest.extents[0].offset_bytes, rest.extents[0].length_bytes), (7 * MIB, 33 * MIB));
    let changed = pages(|from| extents::changed(&backend.pool(), &which("kato-m"), &which("kato-n"), from));
    assert_eq!(changed, [(0, 40 * MIB)], "the first object is no more, and reads as zeroes");
}

#[test]
fn a_node_reads_a_snapshot_as_that_and_not_as_its_image() {
    let backend = written();
    let Way::Node(Connection::Rbd(at)) = extents::reach(&backend.pool(), &which("kato-m")).unwrap() else {
        panic!("another way")
    };
    assert_eq!(
        (at.pool.as_str(), at.image.as_str(), at.snapshot.as_deref()),
        ("kato", "kato-a", Some("kato-m"))
    );
}

#[test]
fn what_lies_in_the_trash_or_belongs_to_another_volume_says_so() {
    let backend = written();
    backend.create(&sized("kato-b", 4 * MIB)).unwrap();
    backend.cut(&cut_of("kato-o", "kato-b")).unwrap();
    let refusal = extents::changed(&backend.pool(), &which("kato-m"), &which("kato-o"), 0).unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::InvalidArgument);
    backend.delete(&which("kato-a")).unwrap();
    let refusal = extents::reach(&backend.pool(), &which("kato-m")).unwrap_err();
    assert!(refusal.kind == ErrorKind::Precondition && refusal.message.contains("trash"), "{refusal:?}");
    assert_eq!(extents::reach(&backend.pool(), &which("kato-x")).unwrap_err().kind, ErrorKind::NotFound);
}
