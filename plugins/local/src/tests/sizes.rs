//! How large things are, what they may grow to, and what of them can be changed.

use super::*;

#[test]
fn an_image_is_made_thin_and_given_its_blocks_again() {
    let backend = Backend::new(MemoryFiles::default().total(32 * MIB));
    let taken =
        |token: &str| backend.files().space(&format!("volumes/{token}/image")).unwrap().allocated_bytes;
    backend.create(&thin("a", 20 * MIB)).unwrap();
    assert_eq!(taken("a"), 0);
    for _ in 0..2 {
        backend.modify("a", &[("thin", "false")]).unwrap();
        assert_eq!(taken("a"), 20 * MIB);
    }
    assert_eq!(kind(backend.create(&thin("a", 20 * MIB))), ErrorKind::AlreadyExists, "it is thin no more");
    backend.modify("a", &[("thin", "true")]).unwrap();
    backend.create(&thin("a", 20 * MIB)).unwrap();
    backend.modify("a", &[]).unwrap();

    // What is promised to others is not given away.
    backend.create(&thin("b", 11 * MIB)).unwrap();
    backend.create(&thin("c", 11 * MIB)).unwrap();
    let refusal = backend.modify("b", &[("thin", "false")]).unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Exhausted, "{}", refusal.message);
    assert_eq!(taken("b"), 0);
    backend.delete("c").unwrap();
    backend.modify("b", &[("thin", "false")]).unwrap();
}

#[test]
fn nothing_else_of_a_volume_can_be_changed() {
    let backend = Backend::new(MemoryFiles::default());
    backend.create(&wish("a")).unwrap();
    for parameters in [&[("kind", "image")], &[("thin", "true")], &[("size", "1")], &[("thin", "perhaps")]] {
        assert_eq!(kind(backend.modify("a", parameters)), ErrorKind::InvalidArgument, "{parameters:?}");
    }
    assert_eq!(kind(backend.modify("b", &[("thin", "true")])), ErrorKind::NotFound);
}

#[test]
fn growing_never_shrinks_and_keeps_to_the_limit() {
    let backend = Backend::new(MemoryFiles::default());
    backend.create(&image("a", 8 * MIB)).unwrap();
    assert_eq!(backend.grow("a", 4 * MIB).unwrap(), 8 * MIB);
    assert_eq!(backend.grow("a", 9 * MIB + 1).unwrap(), 9 * MIB + 4096);
    assert_eq!(backend.grow("a", 0).unwrap(), 9 * MIB + 4096);
    assert_eq!(backend.files().space("volumes/a/image").unwrap().length_bytes, 9 * MIB + 4096);
    let narrow = CapacityRange { required_bytes: 20 * MIB, limit_bytes: Some(10 * MIB) };
    let answer = volumes::grow(&backend.folder, &backend.config, &which("a"), &narrow);
    assert_eq!(kind(answer), ErrorKind::OutOfRange);
    backend.create(&wish("d")).unwrap();
    assert_eq!(kind(backend.grow("d", MIB)), ErrorKind::Precondition);
    assert_eq!(kind(backend.grow("x", MIB)), ErrorKind::NotFound);
}

#[test]
fn a_directory_has_a_size_only_where_it_can_be_limited() {
    let sized = Wish { parameters: pairs(&[("kind", "directory")]), ..image("a", 8 * MIB) };
    let plain = Backend::new(MemoryFiles::default());
    let refusal = plain.create(&sized).unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::InvalidArgument);
    assert!(refusal.message.contains("kind=image"), "{}", refusal.message);
    assert_eq!(plain.inspect(&["a"]), [None]);

    let backend = Backend::new(MemoryFiles::default().quota(true));
    assert_eq!(backend.create(&sized).unwrap().size_bytes, 8 * MIB);
    assert_eq!(backend.files().limit("volumes/a/tree"), Some(8 * MIB));
    assert_eq!(backend.grow("a", 16 * MIB).unwrap(), 16 * MIB);
    assert_eq!(backend.files().limit("volumes/a/tree"), Some(16 * MIB));
    let copy = backend.create(&from_volume("b", "a")).unwrap();
    assert_eq!((copy.size_bytes, backend.files().limit("volumes/b/tree")), (16 * MIB, Some(16 * MIB)));
}

#[test]
fn an_image_that_does_not_fit_leaves_nothing_behind() {
    let backend = Backend::new(MemoryFiles::default().total(GIB));
    let paths = backend.files().paths();
    let refusal = backend.create(&image("a", 2 * GIB)).unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Exhausted);
    assert!(refusal.message.contains("thin"), "{}", refusal.message);
    assert_eq!(backend.files().paths(), paths);
    backend.create(&image("a", GIB / 2)).unwrap();
    assert_eq!(kind(backend.grow("a", 2 * GIB)), ErrorKind::Exhausted);
    assert_eq!(backend.inspect(&["a"])[0].as_ref().unwrap().size_bytes, GIB / 2);
}

#[test]
fn thin_images_promise_no_more_than_the_overcommit() {
    let backend = Backend::with(MemoryFiles::default().total(10 * GIB), &[("overcommit", "1.5")]);
    backend.create(&thin("a", 8 * GIB)).unwrap();
    assert!(backend.room(&[]) < 2 * GIB && backend.room(&[]) > 2 * GIB - MIB);
    let thin_room = backend.room(&[("thin", "true")]);
    assert!(thin_room < 7 * GIB && thin_room > 7 * GIB - MIB);
    // What was promised to the thin one is not given to an allocated one.
    assert_eq!(kind(backend.create(&image("b", 3 * GIB))), ErrorKind::Exhausted);
    backend.create(&thin("c", 6 * GIB)).unwrap();
    assert_eq!(kind(backend.create(&thin("d", GIB))), ErrorKind::Exhausted);
    assert_eq!(kind(backend.grow("c", 8 * GIB)), ErrorKind::Exhausted);
    backend.delete("a").unwrap();
    backend.create(&thin("d", GIB)).unwrap();
}
