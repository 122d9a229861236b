//! Attaching, detaching and fencing, and what does not end of it.

use super::*;

fn device(backend: &Backend, token: &str) -> (String, &'static str) {
    let id = backend.id(token);
    let ec2 = backend.ec2.borrow();
    let one = &ec2.volumes[&id].attachments[0];
    (one.device.clone(), one.state)
}

#[test]
fn a_volume_is_attached_once_and_told_by_id_and_name() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    let id = backend.id("kato-a");
    let value = backend.attach("kato-a", &node(MACHINE)).unwrap();
    assert_eq!(value, format!("{id}:{}", device(&backend, "kato-a").0));
    backend.asked();
    assert_eq!(backend.attach("kato-a", &node(MACHINE)).unwrap(), value);
    assert!(!backend.asked().contains(&"AttachVolume".to_owned()));
    assert_eq!(backend.inspect(which("kato-a")).unwrap().attached, Some(vec![MACHINE.into()]));
    let error = backend.attach("kato-a", &node("i-0b")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InUse);
    assert!(error.message.contains(MACHINE), "{}", error.message);
}

#[test]
fn a_shared_volume_is_attached_to_several() {
    let backend = Backend::new();
    let parameters = [("type", "io2"), ("iops", "100"), ("multi-attach", "true")];
    backend.create(&of("kato-a", &parameters)).unwrap();
    backend.attach("kato-a", &node(MACHINE)).unwrap();
    backend.attach("kato-a", &node("i-0b")).unwrap();
    backend.detach("kato-a", &node(MACHINE)).unwrap();
    assert_eq!(backend.inspect(which("kato-a")).unwrap().attached, Some(vec!["i-0b".into()]));
}

#[test]
fn a_name_that_is_in_use_or_failed_is_not_chosen() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.attach("kato-a", &node(MACHINE)).unwrap();
    let (first, _) = device(&backend, "kato-a");
    backend.detach("kato-a", &node(MACHINE)).unwrap();
    for avoiding in [
        Node { used_devices: vec![first.clone()], ..node(MACHINE) },
        Node { bad_devices: vec![first.clone()], ..node(MACHINE) },
    ] {
        backend.attach("kato-a", &avoiding).unwrap();
        assert_ne!(device(&backend, "kato-a").0, first);
        backend.detach("kato-a", &avoiding).unwrap();
    }
    // Another volume's, which took it a moment before.
    for code in ["InvalidDevice.InUse", "InvalidParameterValue"] {
        backend.ec2.borrow_mut().refusals = vec![("AttachVolume", 400, code)];
        backend.attach("kato-a", &node(MACHINE)).unwrap();
        assert_ne!(device(&backend, "kato-a").0, first);
        backend.detach("kato-a", &node(MACHINE)).unwrap();
    }
    backend.ec2.borrow_mut().refusals = vec![("AttachVolume", 400, "InvalidParameterValue"); 3];
    assert_eq!(kind(backend.attach("kato-a", &node(MACHINE))), ErrorKind::InvalidArgument);
}

#[test]
fn one_that_never_ends_is_taken_back_and_tried_under_another_name() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.attach("kato-a", &node(MACHINE)).unwrap();
    let (first, _) = device(&backend, "kato-a");
    backend.detach("kato-a", &node(MACHINE)).unwrap();
    backend.ec2.borrow_mut().stuck = vec![first.clone()];
    let began = backend.ec2.borrow().now;
    backend.asked();
    backend.attach("kato-a", &node(MACHINE)).unwrap();
    let took = backend.ec2.borrow().now - began;
    assert!((90_000..120_000).contains(&took), "{took}");
    let (second, state) = device(&backend, "kato-a");
    assert!(second != first && state == "attached", "{second} {state}");
    let asked = backend.asked();
    let count = |action: &str| asked.iter().filter(|asked| *asked == action).count();
    assert_eq!((count("AttachVolume"), count("DetachVolume")), (2, 1), "{asked:?}");
}

#[test]
fn a_machine_takes_only_so_many() {
    let backend = Backend::new().with("attach-limit", "2");
    for token in ["kato-a", "kato-b"] {
        backend.create(&wish(token)).unwrap();
    }
    backend.attach("kato-a", &node(MACHINE)).unwrap();
    assert_eq!(kind(backend.attach("kato-b", &node(MACHINE))), ErrorKind::Exhausted);
    backend.ec2.borrow_mut().refusals = vec![("AttachVolume", 400, "AttachmentLimitExceeded")];
    let error = backend.attach("kato-b", &node("i-0b")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.message.contains("i-0b") && error.message.contains("another machine"), "{}", error.message);
}

#[test]
fn a_node_that_is_no_machine_is_refused() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    for name in ["web-1", "i-", "i-0g", ""] {
        assert_eq!(kind(backend.attach("kato-a", &node(name))), ErrorKind::InvalidArgument, "{name}");
        assert_eq!(kind(backend.fence("kato-a", &node(name))), ErrorKind::InvalidArgument, "{name}");
    }
    assert_eq!(kind(backend.attach("kato-a", &node("i-0f"))), ErrorKind::Precondition);
    assert_eq!(kind(backend.attach("kato-x", &node(MACHINE))), ErrorKind::NotFound);
}

#[test]
fn what_is_not_attached_is_detached() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.detach("kato-a", &node(MACHINE)).unwrap();
    backend.detach("kato-x", &node(MACHINE)).unwrap();
    let gone = attachments::detach(&backend.cloud(), &named("kato-x", "vol-deadbeef"), &node(MACHINE), None);
    assert_eq!(gone.unwrap(), Detaching::Done);
    backend.attach("kato-a", &node(MACHINE)).unwrap();
    backend.detach("kato-a", &node("i-0b")).unwrap();
    assert_eq!(device(&backend, "kato-a").1, "attached");
    backend.ec2.borrow_mut().machines.remove(MACHINE);
    backend.detach("kato-a", &node(MACHINE)).unwrap();
    assert_eq!(backend.inspect(which("kato-a")).unwrap().attached, Some(vec![]));
}

#[test]
fn a_detachment_is_forced_only_by_policy_and_on_a_machine_that_is_stopped() {
    for (policy, state, freed) in [
        ("never", "running", false),
        ("never", "stopped", false),
        ("stopped", "running", false),
        ("stopped", "stopping", false),
        ("stopped", "stopped", true),
    ] {
        let backend = Backend::new().with("forced-detach", policy);
        backend.create(&wish("kato-a")).unwrap();
        backend.attach("kato-a", &node(MACHINE)).unwrap();
        backend.ec2.borrow_mut().jammed = true;
        backend.ec2.borrow_mut().machines.insert(MACHINE.into(), state);
        backend.asked();
        assert_eq!(backend.detach("kato-a", &node(MACHINE)).is_ok(), freed, "{policy} {state}");
        // It goes on for ten minutes: a look a beat, and help every half minute.
        assert!(backend.asked().len() < 400);
    }
}

#[test]
fn a_machine_is_fenced_where_it_is_known_not_to_write() {
    for (state, done) in [
        ("running", Some(ErrorKind::Precondition)),
        ("pending", Some(ErrorKind::Precondition)),
        ("stopping", Some(ErrorKind::Unavailable)),
        ("stopped", None),
        ("terminated", None),
    ] {
        let backend = Backend::new();
        backend.create(&wish("kato-a")).unwrap();
        backend.attach("kato-a", &node(MACHINE)).unwrap();
        backend.ec2.borrow_mut().machines.insert(MACHINE.into(), state);
        let answer = backend.fence("kato-a", &node(MACHINE));
        assert_eq!(answer.as_ref().err().map(|error| error.kind), done, "{state}: {answer:?}");
        if state == "stopped" {
            // It may be started again.
            assert_eq!(backend.inspect(which("kato-a")).unwrap().attached, Some(vec![]));
        }
        backend.fence("kato-a", &node("i-0b")).unwrap();
        backend.fence("kato-x", &node(MACHINE)).unwrap();
    }
    // A machine that nobody knows proves nothing while the volume says that it is attached to it.
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.attach("kato-a", &node(MACHINE)).unwrap();
    backend.ec2.borrow_mut().machines.remove(MACHINE);
    assert_eq!(kind(backend.fence("kato-a", &node(MACHINE))), ErrorKind::Precondition);
}
