//! Snapshots, and volumes from them. What their blocks are is `direct.rs`.

use super::*;

#[test]
fn a_moment_is_fixed_at_once_and_ready_later() {
    let backend = Backend::new();
    let volume = backend.create(&wish("kato-v")).unwrap();
    backend.ec2.borrow_mut().unseen = 0;
    backend.asked();
    let now = backend.ec2.borrow().now;
    let snapshot = backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    assert_eq!((snapshot.ready, snapshot.cut_ms), (false, Some(now)));
    assert_eq!(
        backend.asked(),
        ["DescribeSnapshots", "DescribeVolumes", "CreateSnapshot", "DescribeSnapshots"]
    );
    assert_eq!((snapshot.volume.as_deref(), snapshot.size_bytes), (Some(volume.handle.as_str()), 5 * GIB));
    assert_eq!((snapshot.mark.as_str(), snapshot.token.as_deref()), ("mark of kato-s", Some("kato-s")));
    backend.pass(5_000);
    assert_eq!(backend.snapshot(which("kato-s")), Some(Snapshot { ready: true, ..snapshot.clone() }));
    assert_eq!(backend.cut(&cut_of("kato-s", "kato-v")).unwrap().handle, snapshot.handle);
    assert_eq!(kind(backend.cut(&cut_of("kato-t", "kato-x"))), ErrorKind::NotFound);
    backend.create(&wish("kato-w")).unwrap();
    let other = Cut { volume: named("kato-w", &backend.id("kato-w")), ..cut_of("kato-s", "kato-w") };
    assert_eq!(kind(backend.cut(&other)), ErrorKind::AlreadyExists);
}

#[test]
fn nobody_hears_of_a_snapshot_before_it_is_to_be_seen() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    let now = backend.ec2.borrow().now;
    let snapshot = backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    assert_eq!(snapshot.cut_ms, Some(now));
    assert!(backend.ec2.borrow().now >= now + 3_000);
    assert!(backend.snapshot(named("kato-s", &snapshot.handle)).is_some());
}

#[test]
fn what_was_cut_twice_is_one_snapshot_in_the_end() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    let wish = cut_of("kato-s", "kato-v");
    let cut = |resume: Option<&[u8]>| crate::snapshots::cut(&backend.cloud(), &wish, work(resume)).unwrap();
    let CutAnswer::Pending(about) = cut(None) else { panic!("it is recorded before it is cut") };
    assert_eq!((about.retry_after_ms, backend.ec2.borrow().snapshots.len()), (0, 0));
    let CutAnswer::Pending(_) = cut(Some(&about.resume)) else { panic!("it is not to be seen yet") };
    // The daemon dies before it hears that, and is there again a second later, with what it recorded before.
    let first = backend.ec2.borrow().snapshots.keys().next().cloned().unwrap();
    backend.pass(1_000);
    let CutAnswer::Pending(mut pending) = cut(Some(&about.resume)) else { panic!("nobody can be sure") };
    assert_eq!(backend.ec2.borrow().snapshots.len(), 2);
    let snapshot = loop {
        backend.pass(pending.retry_after_ms);
        match cut(Some(&pending.resume)) {
            CutAnswer::Done(snapshot) => break snapshot,
            CutAnswer::Pending(still) => pending = still,
        }
    };
    assert_eq!(snapshot.handle, first);
    assert_eq!(backend.ec2.borrow().snapshots.keys().collect::<Vec<_>>(), [&first]);
}

#[test]
fn a_snapshot_that_is_not_to_be_seen_for_too_long_is_cut_anew() {
    let backend = Backend::new();
    let volume = backend.create(&wish("kato-v")).unwrap();
    let cut =
        |token| backend.cut(&Cut { volume: named("kato-v", &volume.handle), ..cut_of(token, "kato-v") });
    let first = backend.ec2.borrow().now;
    backend.ec2.borrow_mut().unseen = 40_000;
    assert_eq!(cut("kato-s").unwrap().cut_ms, Some(first));
    backend.ec2.borrow_mut().unseen = 400_000;
    assert_eq!(kind(cut("kato-t")), ErrorKind::Unavailable);
    assert!(backend.ec2.borrow().snapshots.len() <= 2, "those that went unseen are deleted");
}

#[test]
fn a_volume_from_a_snapshot_is_at_least_as_large() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    backend.ec2.borrow_mut().unseen = 0;
    backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    assert_eq!(kind(backend.create(&from_snapshot("kato-a", "kato-s"))), ErrorKind::Busy);
    backend.pass(5_000);
    let small = Wish { size: at_least(GIB), ..from_snapshot("kato-a", "kato-s") };
    assert_eq!(backend.create(&small).unwrap().size_bytes, 5 * GIB);
    let large = Wish { size: at_least(9 * GIB), ..from_snapshot("kato-b", "kato-s") };
    assert_eq!(backend.create(&large).unwrap().size_bytes, 9 * GIB);
    assert_eq!(kind(backend.create(&wish("kato-a"))), ErrorKind::AlreadyExists);
    assert_eq!(kind(backend.create(&from_snapshot("kato-c", "kato-x"))), ErrorKind::NotFound);
    let copy = Wish { source: Some(Origin::Volume(which("kato-v"))), ..wish("kato-d") };
    assert_eq!(kind(backend.create(&copy)), ErrorKind::Unsupported);
}

#[test]
fn a_volume_is_found_again_when_its_snapshot_is_gone() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    backend.pass(60_000);
    let made = backend.create(&from_snapshot("kato-a", "kato-s")).unwrap();
    backend.delete_snapshot(&which("kato-s")).unwrap();
    assert_eq!(backend.create(&from_snapshot("kato-a", "kato-s")).unwrap().handle, made.handle);
    assert_eq!(kind(backend.create(&from_snapshot("kato-b", "kato-s"))), ErrorKind::NotFound);
    // What was made from nothing or from another one is none of it.
    assert_eq!(kind(backend.create(&from_snapshot("kato-v", "kato-s"))), ErrorKind::NotFound);
}

#[test]
fn fast_restore_is_for_who_asks() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    let fast = pairs(&[("fast-restore", "true")]);
    let snapshot = backend.cut(&Cut { parameters: fast.clone(), ..cut_of("kato-s", "kato-v") }).unwrap();
    assert_eq!(backend.ec2.borrow().fast, [(snapshot.handle, "eu-test-1a".into())]);
    backend.cut(&cut_of("kato-t", "kato-v")).unwrap();
    backend.pass(10_000);
    backend.create(&Wish { parameters: fast, ..from_snapshot("kato-a", "kato-t") }).unwrap();
    backend.create(&from_snapshot("kato-b", "kato-t")).unwrap();
    assert_eq!(backend.ec2.borrow().fast.len(), 2);
}

#[test]
fn a_snapshot_that_failed_is_cut_anew() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    let failed = backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    backend.ec2.borrow_mut().snapshots.get_mut(&failed.handle).unwrap().state = "error";
    backend.pass(10_000);
    assert!(!backend.snapshot(named("kato-s", &failed.handle)).unwrap().ready);
    assert_ne!(backend.cut(&cut_of("kato-s", "kato-v")).unwrap().handle, failed.handle);
    assert_eq!(backend.ec2.borrow().snapshots.len(), 1);
}

#[test]
fn a_delete_takes_all_of_its_token_and_no_copies_of_others() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    let first = backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    // Another, of a daemon that knew nothing of the first while that was not to be seen.
    backend.pass(1);
    let twin = backend.ec2.borrow_mut().twin(&first.handle);
    let second = Snapshot { handle: twin, ..first.clone() };
    assert_eq!(backend.snapshot(which("kato-s")).unwrap().handle, first.handle);
    assert_eq!(kind(backend.delete_snapshot(&named("kato-t", &first.handle))), ErrorKind::Precondition);
    // Somebody's backup copied the tags.
    let ec2 = &backend.ec2;
    let form = [("VolumeId", "vol-00ff"), ("Description", "a backup")];
    ec2.borrow_mut().copy_snapshot(&first.handle, "snap-00ff", &form);
    let listed = crate::snapshots::list(&backend.cloud(), None).unwrap().items;
    assert_eq!(listed.len(), 2);
    backend.delete_snapshot(&named("kato-s", &second.handle)).unwrap();
    assert_eq!(ec2.borrow().snapshots.keys().collect::<Vec<_>>(), ["snap-00ff"]);
    backend.delete_snapshot(&which("kato-s")).unwrap();
    backend.delete_snapshot(&named("kato-s", &second.handle)).unwrap();
}

#[test]
fn a_snapshot_that_an_image_needs_stays() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    let snapshot = backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    backend.ec2.borrow_mut().refusals = vec![("DeleteSnapshot", 400, "InvalidSnapshot.InUse")];
    assert_eq!(kind(backend.delete_snapshot(&named("kato-s", &snapshot.handle))), ErrorKind::InUse);
    assert_eq!(
        crate::snapshots::how(&backend.cloud(), &which("kato-v")).unwrap(),
        kato_plugin_sdk::types::Cutting::Instant
    );
}
