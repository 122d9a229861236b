//! Growing and modifying, and EC2's patience with it.

use super::*;

#[test]
fn a_volume_grows_in_whole_gib_and_never_shrinks() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    assert_eq!(backend.grow("kato-a", at_least(7 * GIB + 1)).unwrap(), 8 * GIB);
    backend.asked();
    assert_eq!(backend.grow("kato-a", at_least(6 * GIB)).unwrap(), 8 * GIB);
    assert_eq!(backend.asked(), ["DescribeVolumes"]);
    let narrow = CapacityRange { required_bytes: 9 * GIB + 1, limit_bytes: Some(10 * GIB - 1) };
    assert_eq!(kind(backend.grow("kato-a", narrow)), ErrorKind::OutOfRange);
    assert_eq!(kind(backend.grow("kato-a", at_least(70_000 * GIB))), ErrorKind::OutOfRange);
    assert_eq!(kind(backend.grow("kato-x", at_least(GIB))), ErrorKind::NotFound);
}

#[test]
fn a_change_too_many_says_when_to_come_again() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.grow("kato-a", at_least(6 * GIB)).unwrap();
    let id = backend.id("kato-a");
    for (state, least) in [("optimizing", 60_000), ("completed", 600_000)] {
        backend.ec2.borrow_mut().changes.get_mut(&id).unwrap().state = state;
        let error = backend.grow("kato-a", at_least(7 * GIB)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{state}");
        assert!(error.retry_after_ms.is_some_and(|wait| wait >= least), "{state}: {error:?}");
    }
    backend.ec2.borrow_mut().changes.clear();
    assert_eq!(backend.grow("kato-a", at_least(7 * GIB)).unwrap(), 7 * GIB);
}

#[test]
fn who_wants_what_is_under_way_waits_for_it() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    let grow = |gib| crate::change::grow(&backend.cloud(), &which("kato-a"), &at_least(gib * GIB), None);
    assert!(matches!(grow(9).unwrap(), Grown::Pending(_)));
    assert!(matches!(grow(8).unwrap(), Grown::Pending(_)));
    let error = grow(10).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.retry_after_ms.is_some());
    assert_eq!(backend.grow("kato-a", at_least(8 * GIB)).unwrap(), 9 * GIB);
}

#[test]
fn a_change_that_failed_is_told_and_tried_again() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    let grow = |resume: Option<&[u8]>| {
        crate::change::grow(&backend.cloud(), &which("kato-a"), &at_least(9 * GIB), work(resume))
    };
    let Grown::Pending(pending) = grow(None).unwrap() else { panic!("it takes four seconds") };
    let id = backend.id("kato-a");
    backend.ec2.borrow_mut().changes.get_mut(&id).unwrap().state = "failed";
    let error = grow(Some(&pending.resume)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    backend.pass(error.retry_after_ms.unwrap());
    assert!(matches!(grow(Some(&pending.resume)).unwrap(), Grown::Pending(_)));
    assert_eq!(backend.grow("kato-a", at_least(9 * GIB)).unwrap(), 9 * GIB);
}

#[test]
fn type_and_speed_are_changed_and_nothing_else_is() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.modify("kato-a", &[("iops", "4000"), ("throughput", "250")]).unwrap();
    backend.asked();
    backend.modify("kato-a", &[("iops", "4000")]).unwrap();
    assert_eq!(backend.asked(), ["DescribeVolumes"]);
    backend.ec2.borrow_mut().changes.clear();
    backend.modify("kato-a", &[("type", "io2"), ("iops", "500")]).unwrap();
    let told = backend.inspect(which("kato-a")).unwrap().parameters.unwrap();
    assert_eq!(told, pairs(&[("type", "io2"), ("iops", "500")]));
    for wrong in [
        &[("encrypted", "true")][..],
        &[("iops", "1")],
        &[("throughput", "200")],
        &[("type", "st1")],
        &[("type", "gp9")],
    ] {
        assert_eq!(kind(backend.modify("kato-a", wrong)), ErrorKind::InvalidArgument, "{wrong:?}");
    }
}
