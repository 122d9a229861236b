//! What the API answers, and what others answer in its place.

use kato_plugin_sdk::http::Response;
use serde_json::json;

use super::{fake::reply, *};
use crate::error::Refusal;

#[test]
fn every_status_has_its_kind() {
    for (method, status, expected) in [
        ("GET", 401, ErrorKind::PermissionDenied),
        ("GET", 403, ErrorKind::PermissionDenied),
        ("DELETE", 404, ErrorKind::NotFound),
        ("POST", 405, ErrorKind::Unsupported),
        ("POST", 409, ErrorKind::Busy),
        ("POST", 422, ErrorKind::InvalidArgument),
        ("DELETE", 422, ErrorKind::Busy),
        ("GET", 418, ErrorKind::Internal),
        ("POST", 500, ErrorKind::Unavailable),
    ] {
        for body in [json!({ "errors": ["one", "two"] }), json!({ "error": "one; two" })] {
            let error = Refusal::of(method, "/storage/x?page=1", &reply(status, &body)).error;
            assert_eq!(error.kind, expected, "{method} {status}");
            assert!(error.message.contains("one; two") && !error.message.contains("page"), "{error:?}");
        }
    }
}

#[test]
fn not_found_is_believed_from_the_api_alone() {
    let own = reply(404, &json!({ "errors": ["Not found"] }));
    let unnumbered = Response { headers: own.headers[..1].to_vec(), ..own.clone() };
    let typeless = Response { headers: own.headers[1..].to_vec(), ..own.clone() };
    let silent = reply(404, &json!({ "message": "no route" }));
    for (response, expected) in [
        (own, ErrorKind::NotFound),
        (unnumbered, ErrorKind::Unavailable),
        (typeless, ErrorKind::Unavailable),
        (silent, ErrorKind::Unavailable),
    ] {
        assert_eq!(Refusal::of("GET", "/storage/x", &response).error.kind, expected, "{response:?}");
    }
    let backend = Backend::new();
    let id = backend.create(&wish("kato-a")).unwrap().handle;
    let page = |method, part| backend.api.borrow_mut().meetings = vec![(method, part, Meet::Page(404)); 3];
    page("DELETE", "/storage/");
    assert_eq!(kind(backend.delete(&which("kato-a"))), ErrorKind::Unavailable);
    page("GET", "/storage/");
    let detached = attachments::detach(&backend.cloud(), &named("kato-a", &id), &machine(NODE));
    assert_eq!(kind(detached), ErrorKind::Unavailable);
    page("GET", "/projects/");
    assert_eq!(kind(volumes::inspect(&backend.cloud(), &[which("kato-a")])), ErrorKind::Unavailable);
}

#[test]
fn a_page_is_no_answer_whatever_its_status() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    for status in [200, 403, 502] {
        backend.api.borrow_mut().meetings = vec![("DELETE", "/storage/", Meet::Page(status)); 3];
        assert_eq!(kind(backend.delete(&which("kato-a"))), ErrorKind::Unavailable, "{status}");
        // Whether a volume was made then nobody knows.
        backend.api.borrow_mut().meetings = vec![("POST", "/storage", Meet::Page(status))];
        backend.create(&wish(&format!("kato-{status}"))).unwrap();
    }
    assert_eq!(backend.state().len(), 4);
}

#[test]
fn what_passes_is_tried_again() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.api.borrow_mut().meetings =
        vec![("GET", "/projects", Meet::Page(502)), ("DELETE", "/storage/", Meet::Page(503))];
    backend.delete(&which("kato-a")).unwrap();
    assert!(backend.state().is_empty());
}

#[test]
fn who_asks_too_often_is_told_until_when_to_wait() {
    let backend = Backend::new();
    backend.api.borrow_mut().meetings = vec![("GET", "/projects", Meet::Refused(429, "slow down"))];
    let error = backend.create(&wish("kato-a")).unwrap_err();
    assert_eq!((error.kind, error.retry_after_ms), (ErrorKind::Throttled, Some(17_000)));
    // Who is refused so has made nothing, and asks again without a pause of its own.
    backend.api.borrow_mut().meetings = vec![("POST", "/projects", Meet::Refused(429, "slow down"))];
    assert_eq!(kind(backend.create(&wish("kato-a"))), ErrorKind::Throttled);
    assert!(backend.state().is_empty());
}

#[test]
fn a_project_of_many_pages_is_read_to_its_end() {
    let backend = Backend::new();
    backend.api.borrow_mut().page = 10;
    let tokens: Vec<_> = (0..25).map(|n| format!("kato-{n}")).collect();
    for token in &tokens {
        backend.create(&wish(token)).unwrap();
        backend.api.borrow_mut().foreign("orders-db");
    }
    let asked: Vec<_> = tokens.iter().map(|token| which(token)).collect();
    let told = volumes::inspect(&backend.cloud(), &asked).unwrap();
    assert!(
        told.iter()
            .zip(&tokens)
            .all(|(volume, token)| volume.as_ref().unwrap().token.as_ref() == Some(token))
    );
    // One that goes while the pages are read shifts the others.
    backend.api.borrow_mut().behind = Some(("GET", "/projects", |api| {
        let foreign = api.disks.iter().find(|(_, disk)| disk.description == "orders-db").unwrap().0.clone();
        api.disks.remove(&foreign);
    }));
    assert_eq!(volumes::inspect(&backend.cloud(), &asked).unwrap(), told);
    assert_eq!(backend.create(&wish("kato-7")).unwrap().token.as_deref(), Some("kato-7"));
}

#[test]
fn lists_go_on_behind_what_was_told_last() {
    let backend = Backend::new();
    let all: Vec<_> = (0..5).map(|n| backend.create(&wish(&format!("kato-{n}"))).unwrap().handle).collect();
    let volumes = backend.cloud().volumes().unwrap();
    let mut told = Vec::new();
    let mut page = None;
    loop {
        let (some, next) = volumes::paged(&volumes, page.as_deref(), 2);
        assert!((1..=2).contains(&some.len()));
        told.extend(some.iter().map(|volume| volume.id.clone()));
        page = next;
        if page.is_none() {
            break;
        }
    }
    told.sort();
    let mut all = all;
    all.sort();
    assert_eq!(told, all);
    let list = volumes::list(&backend.cloud(), None).unwrap();
    assert_eq!((list.items.len(), list.next), (5, None));
    assert_eq!(volumes::paged(&[], None, 2).1, None);
}

#[test]
fn a_server_that_tells_references_only_is_understood() {
    let backend = Backend::new();
    backend.api.borrow_mut().plain = true;
    let parameters = pairs(&[("facility", "77c1d3e0"), ("snapshot-policies", "1day:7")]);
    let volume = backend.create(&Wish { parameters, ..wish("kato-a") }).unwrap();
    assert_eq!(volume.topology[0].1, "77c1d3e0");
    let way = backend.attach("kato-a", NODE).unwrap();
    assert_eq!(way.initiator, None);
    // What a list does not tell is not guessed.
    assert_eq!(backend.inspect(which("kato-a")).unwrap().attached, None);
    assert_eq!(kind(backend.delete(&which("kato-a"))), ErrorKind::InUse);
    backend.detach("kato-a", NODE).unwrap();
    assert_eq!(kind(backend.modify("kato-a", &[("snapshot-policies", "")])), ErrorKind::Unsupported);
    backend.delete(&which("kato-a")).unwrap();
}

#[test]
fn many_waits_are_one_list() {
    let backend = Backend::new();
    let mut askings = Vec::new();
    for n in 0..100 {
        let token = format!("kato-{n}");
        let Created::Pending(pending) = make::create(&backend.cloud(), &wish(&token), None).unwrap() else {
            panic!("it takes four seconds")
        };
        askings.push(Asking { verb: Verb::Create, which: which(&token), node: None, resume: pending.resume });
    }
    backend.asked();
    let still = poll::poll(&backend.cloud(), &askings).unwrap();
    assert!(still.iter().all(|standing| matches!(standing, Standing::Still(_))));
    assert_eq!(backend.asked().len(), 1);
    backend.pass(4_000);
    let ready = poll::poll(&backend.cloud(), &askings).unwrap();
    assert!(ready.iter().all(|standing| *standing == Standing::Ready));
    backend.asked();
    askings.iter_mut().for_each(|asking| asking.resume = b"something else".to_vec());
    assert_eq!(poll::poll(&backend.cloud(), &askings).unwrap()[7], Standing::Ready);
    assert!(backend.asked().is_empty());
}
