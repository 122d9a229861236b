//! Clones and snapshots: what is made without a token, and found all the same.

use super::*;

fn source(backend: &Backend, token: &str) -> (String, String) {
    backend.api.borrow().disks[&backend.id(token)].source.clone().unwrap()
}

#[test]
fn a_clone_is_the_volume_or_its_snapshot_and_grown_where_more_is_asked_for() {
    for inherits in [true, false] {
        let backend = Backend::new();
        backend.api.borrow_mut().inherits = inherits;
        let v = backend.create(&of("kato-v", &[("plan", "storage_2")])).unwrap().handle;
        let snapshot = backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
        assert_eq!(
            (snapshot.size_bytes, snapshot.ready, snapshot.volume.as_deref()),
            (20 * GIB, true, Some(v.as_str()))
        );
        let wish = Wish { size: at_least(30 * GIB), ..copy("kato-a", Origin::Snapshot(which("kato-s"))) };
        let volume = backend.create(&wish).unwrap();
        assert_eq!((volume.size_bytes, volume.mark.as_str()), (30 * GIB, "mark of kato-a <&\">"));
        let (from, moment) = source(&backend, "kato-a");
        assert_eq!((from, moment), (v.clone(), backend.api.borrow().disks[&v].snapshots[0].1.clone()));
        // What is not asked for is as it was, and a smaller one is as large.
        let small = Wish { size: at_least(0), ..copy("kato-b", Origin::Volume(named("kato-v", &v))) };
        let volume = backend.create(&small).unwrap();
        assert_eq!((volume.size_bytes, volume.parameters.unwrap()[0].1.as_str()), (20 * GIB, "storage_2"));
        assert_eq!(source(&backend, "kato-b"), (v.clone(), String::new()));
        assert_eq!(backend.snapshot(which("kato-s")), Some(snapshot));
        // One that is made is not changed any more by asking again.
        let changed = Wish { parameters: pairs(&[("plan", "storage_1")]), ..small };
        assert_eq!(kind(backend.create(&changed)), ErrorKind::AlreadyExists);
        // Nor are the source's snapshots the clone's.
        assert_eq!(snapshots::list(&backend.cloud(), None).unwrap().items.len(), 1);
    }
}

#[test]
fn a_clone_that_cannot_be_is_not_begun() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    let limit = CapacityRange { required_bytes: 0, limit_bytes: Some(15 * GIB) };
    for (wish, refused) in [
        (copy("kato-a", Origin::Volume(which("kato-x"))), ErrorKind::NotFound),
        (copy("kato-a", Origin::Snapshot(which("kato-x"))), ErrorKind::NotFound),
        (Wish { size: limit, ..copy("kato-a", Origin::Snapshot(which("kato-s"))) }, ErrorKind::OutOfRange),
        (
            Wish {
                parameters: pairs(&[("facility", "tst2")]),
                ..copy("kato-a", Origin::Volume(which("kato-v")))
            },
            ErrorKind::Precondition,
        ),
    ] {
        assert_eq!(kind(backend.create(&wish)), refused, "{wish:?}");
    }
    make::create(&backend.cloud(), &wish("kato-w"), None).unwrap();
    assert_eq!(kind(backend.create(&copy("kato-a", Origin::Volume(which("kato-w"))))), ErrorKind::Busy);
    let before = backend.state();
    backend.api.borrow_mut().meetings = vec![("POST", "/clone", Meet::Refused(422, "no"))];
    let wish = copy("kato-a", Origin::Volume(which("kato-v")));
    assert_eq!(kind(backend.create(&wish)), ErrorKind::InvalidArgument);
    assert_eq!(backend.state(), before);
    backend.api.borrow_mut().forgets = true;
    assert_eq!(kind(backend.create(&wish)), ErrorKind::Unsupported);
    assert_eq!(backend.state(), before);
}

#[test]
fn a_clone_whose_answer_was_lost_is_found_among_others() {
    for inherits in [true, false] {
        let backend = Backend::new();
        backend.api.borrow_mut().inherits = inherits;
        let v = backend.create(&wish("kato-v")).unwrap().handle;
        // Somebody cloned it before, at the portal.
        let older = backend.api.borrow_mut().clone_of(&v, "");
        backend.api.borrow_mut().foreign("orders-db");
        backend.api.borrow_mut().meetings = vec![("POST", "/clone", Meet::Late(5_000))];
        let volume = backend.create(&copy("kato-a", Origin::Volume(which("kato-v")))).unwrap();
        assert!(volume.handle != older && backend.state().len() == 4);
        assert_eq!(backend.asked().iter().filter(|asked| asked.ends_with("/clone")).count(), 1);
        // It never comes, and is asked for again.
        backend.api.borrow_mut().meetings = vec![("POST", "/clone", Meet::Late(u64::MAX / 2))];
        backend.create(&copy("kato-b", Origin::Volume(which("kato-v")))).unwrap();
        assert_eq!(backend.state().len(), 5);
    }
}

#[test]
fn of_two_clones_that_nobody_can_tell_apart_none_is_taken() {
    let backend = Backend::new();
    let v = backend.create(&wish("kato-v")).unwrap().handle;
    backend.wire.cut(Some(kato_plugin_sdk::testing::Cut::After(3)));
    let wish = copy("kato-a", Origin::Volume(which("kato-v")));
    make::create(&backend.cloud(), &wish, None).unwrap();
    backend.wire.cut(None);
    let other = backend.api.borrow_mut().clone_of(&v, "");
    let error = backend.create(&wish).unwrap_err();
    assert!(error.kind == ErrorKind::Busy && error.message.contains(&other), "{error:?}");
    // Who deletes it is asked again as long as it may still come, and then it is given up.
    for _ in 0..2 {
        backend.delete(&which("kato-a")).unwrap();
        backend.pass(60_000);
    }
    assert_eq!(backend.state().len(), 3);
    backend.create(&wish).unwrap();
}

#[test]
fn copies_of_one_volume_wait_for_one_another() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    backend.api.borrow_mut().meetings = vec![("POST", "/clone", Meet::Late(5_000))];
    let first = copy("kato-a", Origin::Volume(which("kato-v")));
    make::create(&backend.cloud(), &first, None).unwrap();
    let answer = snapshots::cut(&backend.cloud(), &cut_of("kato-s", "kato-v")).unwrap();
    assert!(matches!(answer, CutAnswer::Pending(pending) if pending.note.contains("kato-a")));
    let second = copy("kato-b", Origin::Volume(which("kato-v")));
    assert!(matches!(make::create(&backend.cloud(), &second, None).unwrap(), Created::Pending(_)));
    backend.create(&first).unwrap();
    backend.create(&second).unwrap();
    backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    assert_eq!(backend.state().len(), 3);
    // One that nobody comes back for is given up in the end.
    backend.api.borrow_mut().meetings = vec![("POST", "/clone", Meet::Late(u64::MAX / 2))];
    make::create(&backend.cloud(), &copy("kato-c", Origin::Volume(which("kato-v"))), None).unwrap();
    backend.pass(3_600_000);
    backend.cut(&cut_of("kato-t", "kato-v")).unwrap();
}

#[test]
fn a_snapshot_is_cut_once_and_told_by_volume_and_id() {
    let backend = Backend::new();
    let v = backend.create(&wish("kato-v")).unwrap().handle;
    let snapshot = backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    assert_eq!(backend.cut(&cut_of("kato-s", "kato-v")).unwrap(), snapshot);
    assert!(snapshot.handle.starts_with(&v) && snapshot.handle.len() <= 100);
    assert_eq!((snapshot.mark.as_str(), snapshot.token.as_deref()), ("mark of kato-s", Some("kato-s")));
    assert_eq!(snapshot.cut_ms.unwrap() / 1_000, 1_551_679_200 + backend.api.borrow().now / 1_000);
    assert_eq!(backend.snapshot(named("kato-s", &snapshot.handle)), Some(snapshot.clone()));
    assert_eq!(kind(backend.cut(&cut_of("kato-t", "kato-x"))), ErrorKind::NotFound);
    backend.create(&wish("kato-w")).unwrap();
    assert_eq!(kind(backend.cut(&cut_of("kato-s", "kato-w"))), ErrorKind::AlreadyExists);
    let odd = Cut { parameters: pairs(&[("fast", "true")]), ..cut_of("kato-t", "kato-v") };
    assert_eq!(kind(backend.cut(&odd)), ErrorKind::InvalidArgument);
    for handle in [snapshot.handle.as_str(), "a", "a/b/c", "../x"] {
        assert_eq!(
            kind(backend.delete_snapshot(&named("kato-t", handle))),
            ErrorKind::Precondition,
            "{handle}"
        );
    }
    backend.delete_snapshot(&named("kato-s", &snapshot.handle)).unwrap();
    backend.delete_snapshot(&named("kato-s", &snapshot.handle)).unwrap();
    assert_eq!(backend.snapshot(which("kato-s")), None);
    // The token can be used again, and what is gone is forgotten.
    backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    let disk = backend.api.borrow().disks[&v].clone();
    assert_eq!(disk.customdata["kato"]["snapshots"].as_object().unwrap().len(), 1);
}

#[test]
fn snapshots_of_policies_are_never_ours() {
    let backend = Backend::new();
    let v = backend.create(&of("kato-v", &[("snapshot-policies", "1min:3")])).unwrap().handle;
    let policies = backend.api.borrow_mut().snapshot(&v);
    let ours = backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    assert!(!ours.handle.ends_with(&policies));
    let told = snapshots::list(&backend.cloud(), None).unwrap().items;
    assert_eq!(told, [ours]);
    let handle = format!("{v}/{policies}");
    for token in ["kato-s", "kato-t"] {
        assert_eq!(kind(backend.delete_snapshot(&named(token, &handle))), ErrorKind::Precondition);
    }
    // One that a policy cuts at the same time makes it impossible to tell, and then neither is taken.
    backend.api.borrow_mut().behind = Some(("POST", "/snapshots", |api| {
        let volume = api.disks.keys().next().cloned().unwrap();
        api.snapshot(&volume);
    }));
    let second = backend.cut(&cut_of("kato-t", "kato-v")).unwrap();
    let there: Vec<_> = backend.api.borrow().disks[&v].snapshots.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(there.len(), 5);
    assert!(second.handle.ends_with(there.last().unwrap()));
    for token in ["kato-s", "kato-t"] {
        backend.delete_snapshot(&which(token)).unwrap();
    }
    assert_eq!(backend.api.borrow().disks[&v].snapshots.len(), 3);
    // Nor is one taken where an answer was lost.
    backend.api.borrow_mut().meetings = vec![("POST", "/snapshots", Meet::Late(u64::MAX / 2))];
    backend.api.borrow_mut().behind = Some(("GET", "/projects", |api| {
        let volume = api.disks.keys().next().cloned().unwrap();
        api.snapshot(&volume);
    }));
    snapshots::cut(&backend.cloud(), &cut_of("kato-u", "kato-v")).unwrap();
    backend.api.borrow_mut().snapshot(&v);
    backend.delete_snapshot(&which("kato-u")).unwrap();
    assert_eq!(backend.api.borrow().disks[&v].snapshots.len(), 5);
}

#[test]
fn a_cut_whose_answer_was_lost_is_found_or_cut_again() {
    let backend = Backend::new();
    let v = backend.create(&wish("kato-v")).unwrap().handle;
    let by_hand = backend.api.borrow_mut().snapshot(&v);
    for (token, late, posts) in [("kato-s", 5_000, 1), ("kato-t", u64::MAX / 2, 2)] {
        backend.api.borrow_mut().meetings = vec![("POST", "/snapshots", Meet::Late(late))];
        backend.asked();
        let snapshot = backend.cut(&cut_of(token, "kato-v")).unwrap();
        assert!(!snapshot.handle.ends_with(&by_hand));
        let asked = backend.asked();
        let asked = asked.iter().filter(|asked| asked.starts_with("POST"));
        assert_eq!(asked.count(), posts);
    }
    assert_eq!(backend.api.borrow().disks[&v].snapshots.len(), 3);
}

#[test]
fn a_copy_that_comes_after_it_was_deleted_goes_by_deleting_again() {
    let backend = Backend::new();
    backend.create(&wish("kato-v")).unwrap();
    let before = backend.state();
    backend.api.borrow_mut().meetings = vec![("POST", "/snapshots", Meet::Late(5_000))];
    snapshots::cut(&backend.cloud(), &cut_of("kato-s", "kato-v")).unwrap();
    backend.delete_snapshot(&which("kato-s")).unwrap();
    backend.pass(5_000);
    backend.delete_snapshot(&which("kato-s")).unwrap();
    assert_eq!(backend.state(), before);
    backend.api.borrow_mut().meetings = vec![("POST", "/clone", Meet::Late(5_000))];
    make::create(&backend.cloud(), &copy("kato-a", Origin::Volume(which("kato-v"))), None).unwrap();
    backend.delete(&which("kato-a")).unwrap();
    backend.pass(5_000);
    backend.delete(&which("kato-a")).unwrap();
    assert_eq!(backend.state(), before);
    // And what never comes is forgotten in the end.
    backend.api.borrow_mut().meetings = vec![("POST", "/clone", Meet::Late(u64::MAX / 2))];
    make::create(&backend.cloud(), &copy("kato-a", Origin::Volume(which("kato-v"))), None).unwrap();
    backend.pass(60_000);
    backend.delete(&which("kato-a")).unwrap();
    assert_eq!(backend.state(), before);
}

#[test]
fn what_others_write_beside_our_notes_stays() {
    let backend = Backend::new();
    let v = backend.create(&wish("kato-v")).unwrap().handle;
    backend.api.borrow_mut().disks.get_mut(&v).unwrap().customdata = serde_json::json!({ "theirs": [1] });
    backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    backend.create(&copy("kato-a", Origin::Volume(which("kato-v")))).unwrap();
    let disk = backend.api.borrow().disks[&v].clone();
    assert_eq!(disk.customdata["theirs"], serde_json::json!([1]));
}

#[test]
fn a_cloud_that_cuts_none_on_request_says_what_to_do() {
    for status in [404, 405] {
        let backend = Backend::new();
        backend.create(&wish("kato-v")).unwrap();
        let before = backend.state();
        backend.api.borrow_mut().meetings =
            vec![("POST", "/snapshots", Meet::Refused(status, "no such thing"))];
        let error = backend.cut(&cut_of("kato-s", "kato-v")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains("policies"), "{error:?}");
        assert_eq!(backend.state(), before);
    }
}
