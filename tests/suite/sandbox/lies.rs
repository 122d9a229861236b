//! What a guest answers: nothing of it is believed that can be checked.

use kato_orchestrator::{
    Kind,
    model::{Bytes, CapacityRange, Handle, Token},
    ports::backend::{Create, Cut, Effect, Which},
};

use super::{Sandbox, assert_open, create, quick, token, wish};

#[tokio::test]
async fn answers_that_do_not_fit_the_question_are_refused() {
    let sandbox = Sandbox::new();
    for (behave, word) in [
        ("long-handle", "a handle is 101 bytes long"),
        ("control-handle", "control character"),
        ("small", "asked for 1MiB to 2MiB"),
        ("large", "larger than any"),
        ("other-token", "somebody-elses"),
    ] {
        let error = create(&*sandbox.hostile(behave).await).await.unwrap_err();
        assert_open(&error, &["answered nonsense", word]);
        assert_eq!(error.kind, Kind::Internal);
    }
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn one_handle_for_two_volumes_is_noticed() {
    let sandbox = Sandbox::new();
    let behave = [("behave", "same-handle"), ("present", "yes")];
    let backend = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
    create(&*backend).await.unwrap();
    create(&*backend).await.unwrap();
    let error = backend.create(wish(Token::parse("token-2").unwrap())).await.map(|_| ()).unwrap_err();
    assert_open(&error, &["the-one-volume", "token-1", "token-2"]);
}

#[tokio::test]
async fn one_way_to_the_bytes_for_two_volumes_is_noticed() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.data().join("volume")).unwrap();
    let behave = [("behave", "directory"), ("argument", "volume"), ("present", "yes")];
    let grants = "connections = { directory = true }";
    let backend = sandbox.load("hostile", &behave, grants, quick()).await.unwrap();
    create(&*backend).await.unwrap();
    create(&*backend).await.unwrap();
    let error = backend.create(wish(Token::parse("token-2").unwrap())).await.map(|_| ()).unwrap_err();
    assert_open(&error, &["the connection", "volume", "to two volumes", "token-1", "token-2"]);
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn the_resume_of_one_volume_makes_no_other() {
    let sandbox = Sandbox::new();
    for (argument, words) in [
        ("", ["asked for the token token-2", "of the token token-1"]),
        // One that does not say whose it is gives itself away by the handle.
        ("silent", ["the handle vol-token-1 to two volumes", "token-1 and token-2"]),
    ] {
        let behave = [("behave", "replay"), ("argument", argument), ("present", "yes")];
        let backend = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
        let Effect::Pending(pending) = backend.create(wish(token())).await.unwrap() else {
            panic!("it was to take a while");
        };
        let replayed = Some(pending.resume);
        let first = Create { resume: replayed.clone(), ..wish(token()) };
        assert!(matches!(backend.create(first.clone()).await.unwrap(), Effect::Done(_)));
        // Asked for the same again, it may answer the same again.
        assert!(matches!(backend.create(first).await.unwrap(), Effect::Done(_)));
        let second = Create { resume: replayed, ..wish(Token::parse("token-2").unwrap()) };
        let error = backend.create(second).await.map(drop).unwrap_err();
        assert_open(&error, &words);
    }
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn somebody_elses_volume_is_not_taken_for_ours() {
    let sandbox = Sandbox::new();
    let behave = [("behave", "honest"), ("present", "other")];
    let backend = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
    let error = backend.inspect(vec![Which { token: token(), handle: None }]).await.unwrap_err();
    assert_open(&error, &["another-token"]);
    let behave = [("behave", "honest"), ("present", "yes")];
    let backend = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
    let handle = Some(Handle::parse("vol-of-mine").unwrap());
    let error = backend.inspect(vec![Which { token: token(), handle }]).await.unwrap_err();
    assert_open(&error, &["vol-of-mine"]);
}

#[tokio::test]
async fn lists_end_and_answer_every_question() {
    let sandbox = Sandbox::new();
    let backend = sandbox.hostile("endless").await;
    let page = backend.list(None).await.unwrap();
    let error = backend.list(page.next).await.map(|_| ()).unwrap_err();
    assert_open(&error, &["the next page is the one that was asked for"]);
    let backend = sandbox.hostile("short").await;
    let error = backend.inspect(vec![Which { token: token(), handle: None }]).await.unwrap_err();
    assert_open(&error, &["asked for 1 things and answered 0"]);
}

#[tokio::test]
async fn a_volume_that_did_not_grow_did_not_grow() {
    let sandbox = Sandbox::new();
    let backend = sandbox.hostile("shrink").await;
    let size = CapacityRange::at_least(Bytes(1 << 30));
    let grow = backend.grow().unwrap();
    let error = grow.grow(Which { token: token(), handle: None }, size, None).await.map(|_| ()).unwrap_err();
    assert_open(&error, &["asked to grow to 1GiB", "grew to 1B"]);
}

#[tokio::test]
async fn extents_are_believed_only_if_they_can_be_true() {
    let sandbox = Sandbox::new();
    let which = || Which { token: token(), handle: None };
    for (page, word) in [
        ("100+50 120+10", "begins at 120, before 150"),
        ("100+50 90+5", "begins at 90"),
        ("5+5", "before 10"),
        ("100+0", "0 bytes at 100"),
        ("1000+1025", "none of a snapshot of 2000 bytes"),
        ("18446744073709551615+2", "none of a snapshot"),
        ("10", "the next page begins at 10"),
        ("100+50 149", "the next page begins at 149"),
        ("2001", "the next page begins at 2001"),
        ("x10001", "10001 extents"),
    ] {
        let behave = [("argument", page)];
        let backend = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
        let extents = backend.extents().unwrap();
        let error = extents.allocated(which(), Bytes(2000), Bytes(10)).await.unwrap_err();
        assert_open(&error, &["answered nonsense", word]);
        let error = extents.changed(which(), which(), Bytes(2000), Bytes(10)).await.unwrap_err();
        assert_open(&error, &["answered nonsense", word]);
    }
    let behave = [("argument", "10+5 20+1980 2000")];
    let backend = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
    let page = backend.extents().unwrap().allocated(which(), Bytes(2000), Bytes(10)).await.unwrap();
    assert_eq!((page.extents.len(), page.next), (2, Some(Bytes(2000))));
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn a_refusal_is_final_only_when_nothing_is_there() {
    let sandbox = Sandbox::new();
    for (argument, kind) in [
        ("invalid", Kind::InvalidArgument),
        ("exists", Kind::AlreadyExists),
        ("exhausted", Kind::Exhausted),
        ("burnt", Kind::Precondition),
        ("busy", Kind::Busy),
        ("unavailable", Kind::Unavailable),
        ("internal", Kind::Internal),
    ] {
        for present in ["no", "yes", "other"] {
            let behave = [("behave", "refuse"), ("argument", argument), ("present", present)];
            let backend = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
            let error = create(&*backend).await.unwrap_err();
            let passes = matches!(argument, "busy" | "unavailable" | "internal");
            assert_eq!(error.kind, kind);
            assert_eq!(error.is_final(), present == "no" && !passes, "{argument}, present: {present}");
            assert_eq!(error.token_burnt, argument == "burnt");
        }
    }
}

#[tokio::test]
async fn a_refusal_that_nobody_can_check_stays_open() {
    let sandbox = Sandbox::new();
    let backend = sandbox.hostile("blind").await;
    let error = backend.inspect(vec![Which { token: token(), handle: None }]).await.unwrap_err();
    assert_open(&error, &["the cloud is down"]);
    let behave = [("behave", "keep"), ("present", "yes")];
    let keeper = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
    let which = Which { token: token(), handle: None };
    let refused = keeper.delete(which.clone(), None).await.map(|_| ()).unwrap_err();
    assert!(refused.is_final() && refused.kind == Kind::InUse, "it is there and stays: {refused}");
    let gone = sandbox.hostile("keep").await;
    let refused = gone.delete(which, None).await.map(|_| ()).unwrap_err();
    assert!(!refused.is_final(), "it is refused and yet it is gone: {refused}");
}

#[tokio::test]
async fn a_refused_snapshot_is_looked_for() {
    let sandbox = Sandbox::new();
    let backend = sandbox.hostile("honest").await;
    let cut = Cut {
        token: Token::parse("snap-1").unwrap(),
        mark: String::new(),
        name: "s".into(),
        volume: Which { token: token(), handle: None },
        parameters: std::collections::BTreeMap::new(),
        resume: None,
    };
    let refused = backend.snapshots().unwrap().cut(cut).await.map(|_| ()).unwrap_err();
    assert!(refused.is_final() && refused.kind == Kind::Exhausted, "{refused}");
}
