//! Where snapshots hold data and differ: of which files the host is asked, and which are refused.

use kato_plugin_sdk::types::ExtentPage;

use super::*;
use crate::extents;

const KIB: u64 = 1024;

fn written(backend: &Backend, token: &str, blocks: &[u64]) {
    let last = blocks.iter().max().map_or(0, |block| block + 1);
    let mut bytes = vec![0; usize::try_from(last * 4 * KIB).unwrap()];
    for block in blocks {
        bytes[usize::try_from(block * 4 * KIB).unwrap()] = 1;
    }
    backend.files().poke(&format!("volumes/{token}/image"), &bytes);
}

/// The pages from an offset on, one after the other, as the blocks that they begin at and how long they are.
fn told(ask: impl Fn(u64) -> Result<ExtentPage, Error>, mut from: u64) -> Result<Vec<(u64, u64)>, Error> {
    let mut all = Vec::new();
    loop {
        let page = ask(from)?;
        all.extend(page.extents.iter().map(|extent| (extent.offset_bytes / KIB, extent.length_bytes / KIB)));
        match page.next_bytes {
            Some(next) => from = next,
            None => return Ok(all),
        }
    }
}

#[test]
fn the_blocks_of_an_image_are_told_from_any_offset_on() {
    let backend = Backend::new(MemoryFiles::default());
    backend.create(&thin("a", 4 * MIB)).unwrap();
    written(&backend, "a", &[0, 3, 4, 9, 20]);
    backend.cut(&snapshot("one", "a")).unwrap();
    let allocated = |from| told(|from| extents::allocated(&backend.folder, &which("one"), from), from);
    assert_eq!(allocated(0).unwrap(), [(0, 4), (12, 8), (36, 4), (80, 4)]);
    assert_eq!(allocated(14 * KIB).unwrap(), [(14, 6), (36, 4), (80, 4)]);
    assert_eq!(allocated(4 * MIB).unwrap(), []);
    assert_eq!(allocated(4 * MIB + 1).unwrap_err().kind, ErrorKind::OutOfRange);

    written(&backend, "a", &[0, 3, 4, 11]);
    backend.cut(&snapshot("two", "a")).unwrap();
    let changed = |base: &str, from| {
        told(|from| extents::changed(&backend.folder, &which(base), &which("two"), from), from)
    };
    assert_eq!(changed("one", 0).unwrap(), [(36, 4), (44, 4), (80, 4)]);
    assert_eq!(changed("one", 40 * KIB).unwrap(), [(44, 4), (80, 4)]);
    assert_eq!(changed("two", 0).unwrap(), []);
    assert_eq!(changed("one", 4 * MIB + 1).unwrap_err().kind, ErrorKind::OutOfRange);
    assert_eq!(changed("none", 0).unwrap_err().kind, ErrorKind::NotFound);
    backend.delete("a").unwrap();
    assert_eq!(changed("one", 0).unwrap(), [(36, 4), (44, 4), (80, 4)], "its volume is not needed");
}

#[test]
fn a_grown_volume_differs_where_it_was_not_before() {
    let backend = Backend::new(MemoryFiles::default());
    backend.create(&thin("a", MIB)).unwrap();
    backend.cut(&snapshot("one", "a")).unwrap();
    backend.grow("a", 2 * MIB).unwrap();
    written(&backend, "a", &[300]);
    backend.cut(&snapshot("two", "a")).unwrap();
    let changed =
        |from| told(|from| extents::changed(&backend.folder, &which("one"), &which("two"), from), from);
    assert_eq!(changed(0).unwrap(), [(1200, 4)]);
    assert_eq!(changed(2 * MIB).unwrap(), []);
}

#[test]
fn what_has_no_blocks_and_what_does_not_belong_together_is_refused() {
    let backend = Backend::new(MemoryFiles::default());
    for token in ["a", "b"] {
        backend.create(&thin(token, MIB)).unwrap();
        backend.cut(&snapshot(&format!("of-{token}"), token)).unwrap();
    }
    backend.create(&wish("d")).unwrap();
    backend.cut(&snapshot("of-d", "d")).unwrap();
    let allocated = |token: &str| extents::allocated(&backend.folder, &which(token), 0).unwrap_err();
    let changed = |base: &str, token: &str| {
        extents::changed(&backend.folder, &which(base), &which(token), 0).unwrap_err()
    };
    let directory = allocated("of-d");
    assert!(directory.kind == ErrorKind::Unsupported && directory.message.contains("directory"));
    assert_eq!(changed("of-d", "of-a").kind, ErrorKind::Unsupported);
    assert_eq!(changed("of-a", "of-d").kind, ErrorKind::Unsupported);
    let two = changed("of-a", "of-b");
    assert!(two.kind == ErrorKind::InvalidArgument && two.message.contains("two volumes"), "{two:?}");
    assert_eq!(allocated("a").kind, ErrorKind::NotFound, "a volume is no snapshot");
    backend.files().harm("snapshots/of-b/meta", None);
    assert_eq!(changed("of-a", "of-b").kind, ErrorKind::Precondition, "nobody knows of which volume it is");
    backend.files().harm("snapshots/of-a/image", Some(100));
    assert_eq!(allocated("of-a").kind, ErrorKind::Precondition, "bytes are missing");
}
