//! What goes by way of the trash, and snapshots, which make that necessary.

use super::*;

#[test]
fn a_snapshot_takes_three_commands_and_outlives_its_volume() {
    let backend = Backend::new();
    backend.create(&sized("kato-a", 4 * MIB)).unwrap();
    let (cut, taken) = backend.taken(|backend| backend.cut(&cut_of("kato-m", "kato-a")).unwrap());
    assert_eq!(taken, ["rbd-snapshot", "rbd-mark-snapshot", "rbd-info"]);
    backend.grow("kato-a", at_least(8 * MIB)).unwrap();
    assert_eq!(backend.cut(&cut_of("kato-m", "kato-a")).unwrap(), cut);
    assert_eq!((cut.size_bytes, cut.volume.as_deref()), (4 * MIB, Some("kato-a")));

    backend.delete(&by("kato-a", "kato-a")).unwrap();
    assert_eq!((backend.names(), backend.trash()), (vec![], vec!["kato-a".to_owned()]));
    assert_eq!(backend.inspect("kato-a"), None);
    for which in [by("kato-m", &cut.handle), which("kato-m")] {
        let seen = backend.snapshot(which).unwrap();
        assert_eq!(
            (seen.mark.as_str(), seen.size_bytes, seen.handle == cut.handle),
            ("mark of kato-m", 4 * MIB, true)
        );
    }
    assert_eq!(backend.snapshots().len(), 1);
    assert_eq!(kind(backend.cut(&cut_of("kato-n", "kato-a"))), ErrorKind::NotFound);

    backend.delete_snapshot(&by("kato-m", &cut.handle)).unwrap();
    assert!(backend.ceph.borrow().images.is_empty());
    assert_eq!(backend.snapshot(by("kato-m", &cut.handle)), None);
    assert_eq!(backend.snapshot(which("kato-m")), None);
    backend.delete_snapshot(&by("kato-m", &cut.handle)).unwrap();
    backend.delete_snapshot(&which("kato-m")).unwrap();
}

#[test]
fn a_snapshot_of_a_volume_that_is_there_goes_without_a_look_at_the_trash() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    let cut = backend.cut(&cut_of("kato-m", "kato-a")).unwrap();
    let listed = backend.snapshots();
    assert_eq!(
        (listed.len(), listed[0].mark.as_str(), listed[0].volume.as_deref()),
        (1, "mark of kato-m", Some("kato-a"))
    );
    let ((), taken) = backend.taken(|backend| backend.delete_snapshot(&by("kato-m", &cut.handle)).unwrap());
    assert_eq!(taken, ["rbd-info-by-id", "rbd-unmark-snapshot", "rbd-remove-snapshot"]);
    assert_eq!(backend.ceph.borrow_mut().image("kato-a").meta.len(), 1);
}

#[test]
fn a_volume_is_made_of_a_snapshot_in_the_trash() {
    let backend = Backend::new();
    backend.create(&with("kato-s", &[("trash-days", "7")])).unwrap();
    let cut = backend.cut(&cut_of("kato-m", "kato-s")).unwrap();
    backend.delete(&by("kato-s", "kato-s+7")).unwrap();
    let wish = from_snapshot("kato-a", by("kato-m", &cut.handle));
    let made = backend.create(&wish).unwrap();
    assert_eq!((backend.names(), backend.trash().len()), (vec!["kato-a".to_owned()], 1));
    assert_eq!(backend.create(&wish).unwrap(), made);
    // Its days begin anew, and are not over at once.
    assert!(backend.ceph.borrow().images.values().all(|image| image.trash.as_deref() != Some("")));
    let again = backend.create(&from_snapshot("kato-b", which("kato-m"))).unwrap();
    assert_eq!(again.size_bytes, GIB);
    assert_eq!(backend.snapshots().len(), 1);
    backend.delete_snapshot(&by("kato-m", &cut.handle)).unwrap();
    for image in backend.ceph.borrow_mut().images.values_mut().filter(|image| image.trash.is_some()) {
        image.trash = Some(String::new());
    }
    backend.delete(&which("kato-a")).unwrap();
    assert_eq!(backend.trash().len(), 1);
    backend.delete(&which("kato-b")).unwrap();
    assert!(backend.ceph.borrow().images.is_empty());
}

#[test]
fn a_deleted_volume_is_kept_as_long_as_its_class_says() {
    let backend = Backend::new();
    backend.create(&with("kato-a", &[("trash-days", "7")])).unwrap();
    let ((), taken) = backend.taken(|backend| backend.delete(&by("kato-a", "kato-a+7")).unwrap());
    assert_eq!(taken, ["rbd-info", "rbd-status", "rbd-trash-until", "rbd-trash-list"]);
    backend.delete(&which("kato-b")).unwrap();
    assert_eq!(backend.trash(), ["kato-a"]);
    for image in backend.ceph.borrow_mut().images.values_mut() {
        image.trash = Some(String::new());
    }
    backend.delete(&which("kato-b")).unwrap();
    assert!(backend.trash().is_empty());
}

#[test]
fn a_sweep_leaves_foreign_things_and_ends() {
    let backend = Backend::new();
    for number in 0..20 {
        let image = fake::Image {
            name: format!("kato-{number}"),
            trash: Some(String::new()),
            ..fake::Image::default()
        };
        backend.ceph.borrow_mut().images.insert(format!("{number:x}"), image);
    }
    let foreign = fake::Image { name: "mine".into(), trash: Some(String::new()), ..fake::Image::default() };
    backend.ceph.borrow_mut().images.insert("abc".into(), foreign);
    let ((), taken) = backend.taken(|backend| backend.delete(&which("kato-x")).unwrap());
    assert_eq!(taken.iter().filter(|name| *name == "rbd-purge").count(), 8);
    assert_eq!(backend.trash().len(), 13);
    backend.delete(&which("kato-x")).unwrap();
    backend.delete(&which("kato-x")).unwrap();
    assert_eq!(backend.trash(), ["mine"]);
}

#[test]
fn a_sweep_that_fails_keeps_no_volume_from_being_deleted() {
    let backend = Backend::new();
    backend.create(&with("kato-a", &[("trash-days", "7")])).unwrap();
    backend.ceph.borrow_mut().broken.extend([("rbd-trash-list", 5), ("rbd-list-all", 5)]);
    backend.delete(&by("kato-a", "kato-a+7")).unwrap();
    backend.delete(&by("kato-a", "kato-a+7")).unwrap();
}

#[test]
fn a_large_image_goes_in_slices() {
    let backend = Backend::new();
    backend.create(&sized("kato-a", 200 * GIB)).unwrap();
    let pool = backend.pool();
    let Deleted::Pending(pending) = volumes::delete(&pool, &which("kato-a"), None).unwrap() else {
        panic!("it is to take a while")
    };
    assert_eq!(backend.trash(), ["kato-a"]);
    backend.ceph.borrow_mut().broken.insert("rbd-purge", 110);
    let again = volumes::delete(&pool, &which("kato-a"), Some(&pending.resume)).unwrap();
    assert!(matches!(again, Deleted::Pending(again) if again.resume == pending.resume));
    backend.ceph.borrow_mut().broken.clear();
    assert_eq!(volumes::delete(&pool, &which("kato-a"), Some(&pending.resume)).unwrap(), Deleted::Done);
    assert!(backend.ceph.borrow().images.is_empty());
}

#[test]
fn what_is_open_is_not_deleted() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.create(&wish("kato-s")).unwrap();
    backend.cut(&cut_of("kato-m", "kato-s")).unwrap();
    for name in ["kato-a", "kato-s"] {
        backend.ceph.borrow_mut().image(name).watchers.push("10.0.0.1:0/7".into());
        let error = backend.delete(&which(name)).unwrap_err();
        assert!(error.kind == ErrorKind::InUse && error.message.contains("10.0.0.1:0/7"), "{error:?}");
        backend.ceph.borrow_mut().image(name).watchers = vec!["127.0.0.1:0/99".into()];
        assert_eq!(kind(backend.delete(&which(name))), ErrorKind::Busy);
    }
    assert_eq!(backend.names().len(), 2);
}

#[test]
fn a_clone_without_a_mark_that_was_written_to_is_left_to_a_person() {
    let backend = Backend::new();
    backend.create(&wish("kato-s")).unwrap();
    backend.create(&from_volume("kato-a", "kato-s")).unwrap();
    backend.ceph.borrow_mut().image("kato-a").meta.clear();
    backend.ceph.borrow_mut().image("kato-a").touched = true;
    assert_eq!(kind(backend.create(&from_volume("kato-a", "kato-s"))), ErrorKind::Precondition);
    assert!(backend.names().contains(&"kato-a".to_owned()));
}

#[test]
fn snapshots_have_no_parameters_and_pages_have_an_end() {
    let backend = Backend::new();
    let wish = snapshots_wish::Wish { parameters: pairs(&[("a", "b")]), ..cut_of("kato-m", "kato-a") };
    assert_eq!(kind(backend.cut(&wish)), ErrorKind::InvalidArgument);
    for number in 0..40 {
        let (volume, cut) = (format!("kato-{number:02}"), format!("kato-m{number:02}"));
        backend.create(&sized(&volume, MIB)).unwrap();
        backend.cut(&cut_of(&cut, &volume)).unwrap();
        if number % 2 == 0 {
            backend.delete(&which(&volume)).unwrap();
        }
    }
    let mut handles: Vec<_> = backend.snapshots().into_iter().map(|snapshot| snapshot.handle).collect();
    handles.dedup();
    assert_eq!(handles.len(), 40);
}
