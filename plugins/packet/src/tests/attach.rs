//! Attaching, detaching and fencing. The API here lets everybody in, as the real one does.

use super::{fake::short, *};

fn holders(backend: &Backend, token: &str) -> Vec<String> {
    backend.api.borrow().disks[&backend.id(token)]
        .attachments
        .iter()
        .map(|(_, machine)| machine.clone())
        .collect()
}

#[test]
fn a_volume_is_attached_once_and_its_way_is_told() {
    let backend = Backend::new();
    let id = backend.create(&wish("kato-a")).unwrap().handle;
    let way = backend.attach("kato-a", NODE).unwrap();
    assert_eq!(way.portals, ["10.144.40.17:3260", "10.144.56.17:3260"]);
    assert_eq!((way.lun, way.iqn.ends_with(short(&id))), (0, true));
    assert_eq!(way.multipath, Some(format!("volume-{}", short(&id))));
    assert_eq!(way.initiator, Some(format!("iqn.2019-03.net.packet:device.{NODE}")));
    backend.asked();
    assert_eq!(backend.attach("kato-a", NODE).unwrap(), way);
    assert!(backend.asked().iter().all(|asked| asked.starts_with("GET")));
    assert_eq!(backend.inspect(which("kato-a")).unwrap().attached, Some(vec![NODE.into()]));
    let elsewhere = backend.with("portal-port", "860");
    assert_eq!(elsewhere.attach("kato-a", NODE).unwrap().portals[0], "10.144.40.17:860");
}

#[test]
fn a_second_machine_is_never_let_in() {
    for plain in [false, true] {
        let backend = Backend::new();
        let id = backend.create(&wish("kato-a")).unwrap().handle;
        backend.api.borrow_mut().plain = plain;
        backend.attach("kato-a", OTHER).unwrap();
        let error = backend.attach("kato-a", NODE).unwrap_err();
        assert!(error.kind == ErrorKind::InUse && error.message.contains(OTHER), "{error:?}");
        let by_handle = attachments::attach(&backend.cloud(), &named("kato-a", &id), &machine(NODE));
        assert_eq!(kind(by_handle), ErrorKind::InUse);
        assert_eq!(holders(&backend, "kato-a"), [OTHER]);
    }
}

#[test]
fn of_two_that_come_at_once_the_later_one_goes() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.api.borrow_mut().behind = Some(("POST", "/attachments", |api| {
        let disk = api.disks.values_mut().next().unwrap();
        disk.attachments.push(("at-2".into(), OTHER.into()));
    }));
    assert_eq!(kind(backend.attach("kato-a", NODE)), ErrorKind::InUse);
    assert_eq!(holders(&backend, "kato-a"), [OTHER]);
    // And one that was there before the other came stays, but is not told the way.
    let id = backend.id("kato-a");
    backend.api.borrow_mut().disks.get_mut(&id).unwrap().attachments.push(("at-3".into(), NODE.into()));
    assert_eq!(kind(backend.attach("kato-a", NODE)), ErrorKind::InUse);
    assert_eq!(holders(&backend, "kato-a").len(), 2);
}

#[test]
fn attached_already_is_attached() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.api.borrow_mut().behind = Some(("GET", "/storage/", |api| {
        let disk = api.disks.values_mut().next().unwrap();
        disk.attachments.push(("at-2".into(), NODE.into()));
    }));
    backend.attach("kato-a", NODE).unwrap();
    assert_eq!(holders(&backend, "kato-a"), [NODE]);
}

#[test]
fn the_metadata_service_tells_the_way_where_the_api_does_not() {
    let backend = Backend::new();
    let id = backend.create(&wish("kato-a")).unwrap().handle;
    backend.api.borrow_mut().tells = false;
    let error = backend.attach("kato-a", NODE).unwrap_err();
    assert!(error.kind == ErrorKind::Precondition && error.message.contains("`metadata-url`"), "{error:?}");
    assert!(holders(&backend, "kato-a").is_empty());
    let backend = backend.with("metadata-url", "http://metadata.test/metadata");
    backend.api.borrow_mut().here = NODE.into();
    // It catches up after a while.
    let waiting = attachments::attach(&backend.cloud(), &which("kato-a"), &machine(NODE)).unwrap();
    assert!(matches!(waiting, Attaching::Pending(pending) if pending.note.contains("metadata")));
    backend.api.borrow_mut().known.insert(id);
    let way = backend.attach("kato-a", NODE).unwrap();
    assert_eq!(
        (way.portals.len(), way.initiator.as_deref()),
        (2, Some("iqn.2019-03.net.packet:device.here"))
    );
    backend.api.borrow_mut().here = OTHER.into();
    assert_eq!(kind(backend.attach("kato-a", NODE)), ErrorKind::Precondition);
}

#[test]
fn a_machine_that_is_none_is_refused() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    for name in ["", "web 1", "../x"] {
        assert_eq!(kind(backend.attach("kato-a", name)), ErrorKind::InvalidArgument, "{name}");
        assert_eq!(kind(backend.detach("kato-a", name)), ErrorKind::InvalidArgument, "{name}");
        assert_eq!(kind(backend.fence("kato-a", name)), ErrorKind::InvalidArgument, "{name}");
    }
    assert_eq!(kind(backend.attach("kato-a", "web-1")), ErrorKind::Precondition);
    assert_eq!(kind(backend.attach("kato-x", NODE)), ErrorKind::NotFound);
}

#[test]
fn a_session_is_waited_for_and_what_is_not_attached_is_detached() {
    let backend = Backend::new();
    let id = backend.create(&wish("kato-a")).unwrap().handle;
    backend.attach("kato-a", NODE).unwrap();
    backend.api.borrow_mut().sessions.insert((id, NODE.into()));
    let waiting = attachments::detach(&backend.cloud(), &which("kato-a"), &machine(NODE)).unwrap();
    assert!(matches!(waiting, Detaching::Pending(pending) if pending.note.contains("session")));
    backend.detach("kato-a", OTHER).unwrap();
    assert_eq!(holders(&backend, "kato-a"), [NODE]);
    backend.api.borrow_mut().sessions.clear();
    backend.detach("kato-a", NODE).unwrap();
    backend.detach("kato-a", NODE).unwrap();
    backend.detach("kato-x", NODE).unwrap();
    let gone = attachments::detach(&backend.cloud(), &named("kato-x", "ffff"), &machine(NODE)).unwrap();
    assert_eq!((gone, holders(&backend, "kato-a").len()), (Detaching::Done, 0));
}

#[test]
fn a_machine_is_fenced_where_it_is_known_to_be_off_and_never_by_detaching_alone() {
    for (state, refused) in [
        ("active", Some(ErrorKind::Precondition)),
        ("failed", Some(ErrorKind::Precondition)),
        ("powering_off", Some(ErrorKind::Unavailable)),
        ("inactive", None),
    ] {
        let backend = Backend::new();
        backend.create(&wish("kato-a")).unwrap();
        backend.attach("kato-a", NODE).unwrap();
        backend.api.borrow_mut().machines.insert(NODE.into(), state);
        let answer = backend.fence("kato-a", NODE);
        assert_eq!(answer.as_ref().err().map(|error| error.kind), refused, "{state}: {answer:?}");
        // It may be started again.
        assert_eq!(holders(&backend, "kato-a").len(), usize::from(refused.is_some()), "{state}");
        backend.fence("kato-a", OTHER).unwrap();
        backend.fence("kato-x", NODE).unwrap();
    }
    let backend = Backend::new();
    let id = backend.create(&wish("kato-a")).unwrap().handle;
    // One of the two is behind.
    backend.api.borrow_mut().behind = Some(("GET", "/storage/", |api| {
        api.disks.values_mut().next().unwrap().attachments.push(("at-1".into(), NODE.into()));
    }));
    assert_eq!(
        kind(attachments::fence(&backend.cloud(), &named("kato-a", &id), &machine(NODE))),
        ErrorKind::Precondition
    );
    backend.api.borrow_mut().meetings = vec![("GET", "/devices", Meet::Page(404)); 3];
    assert_eq!(kind(backend.fence("kato-a", NODE)), ErrorKind::Unavailable);
    backend.api.borrow_mut().meetings.clear();
    backend.api.borrow_mut().machines.remove(NODE);
    backend.fence("kato-a", NODE).unwrap();
}
