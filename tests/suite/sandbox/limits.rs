//! What a guest may take: computing, memory, stack, time, room in the log and in answers.

use std::time::Duration;

use kato_orchestrator::{Kind, ports::backend::Effect};
use kato_plugin_host::Limits;

use super::{Sandbox, assert_open, create, quick, token, wish};

#[tokio::test]
async fn an_endless_loop_is_stopped_soon_after_its_budget() {
    let sandbox = Sandbox::new();
    let backend = sandbox.hostile("loop").await;
    let before = sandbox.host.computed();
    let error = create(&*backend).await.unwrap_err();
    let spent = sandbox.host.computed() - before;
    assert_open(&error, &["computed for more than 300 ms", "cpu_ms"]);
    assert_eq!(error.kind, Kind::Timeout);
    // CPU time, not the clock on the wall: the machine may be busy with others.
    assert!(spent >= Duration::from_millis(300) && spent < Duration::from_millis(400), "{spent:?}");
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn neighbours_answer_while_loops_run() {
    let sandbox = Sandbox::new();
    let long = Limits { cpu_ms: 1500, wall_ms: 120_000, ..quick() };
    let backend = sandbox.load("hostile", &[("behave", "loop")], "", long).await.unwrap();
    let neighbour = sandbox.load("neighbour", &[("behave", "honest")], "", quick()).await.unwrap();
    let loops = async {
        let [one, two, three, four] = [(); 4].map(|()| create(&*backend));
        tokio::join!(one, two, three, four)
    };
    let work = async {
        let mut answers = 0;
        for _ in 0..50 {
            create(&*neighbour).await.unwrap();
            answers += 1;
        }
        answers
    };
    tokio::pin!(loops);
    // All fifty answers come before the first loop has spent its budget.
    tokio::select! {
        biased;
        answers = work => assert_eq!(answers, 50),
        _ = &mut loops => panic!("the loops ended before their neighbour had fifty answers"),
    }
    let (one, two, three, four) = loops.await;
    for error in [one, two, three, four] {
        assert_open(&error.unwrap_err(), &["computed for more than 1500 ms"]);
    }
}

#[tokio::test]
async fn waiting_costs_no_computing_but_has_a_deadline() {
    let sandbox = Sandbox::new();
    let limits = Limits { cpu_ms: 100, wall_ms: 600, ..Limits::default() };
    let backend = sandbox.load("hostile", &[("behave", "wait")], "", limits).await.unwrap();
    let error = create(&*backend).await.unwrap_err();
    assert_open(&error, &["did not answer within 600 ms", "wall_ms"]);
    assert_eq!(error.kind, Kind::Timeout);
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn a_guest_that_lives_by_the_clock_is_charged_for_looking_and_cut_off_from_waiting() {
    let sandbox = Sandbox::new();
    for (argument, kind, words) in [
        ("spin", Kind::Timeout, ["computed for more than 300 ms", "cpu_ms"]),
        ("beat", Kind::Timeout, ["stopped", "its limit"]),
        ("far", Kind::Timeout, ["did not answer within 2000 ms", "wall_ms"]),
        ("many", Kind::Internal, ["plugin failed", "at once"]),
    ] {
        let limits = Limits { cpu_ms: 300, wall_ms: 2_000, ..Limits::default() };
        let behave = [("behave", "clock"), ("argument", argument)];
        let backend = sandbox.load("hostile", &behave, "", limits).await.unwrap();
        let error = create(&*backend).await.unwrap_err();
        assert_open(&error, &words);
        assert_eq!(error.kind, kind, "{argument}: {error}");
        sandbox.neighbour_is_well().await;
    }
}

#[tokio::test]
async fn a_guest_that_breaks_is_told_apart_by_how() {
    let sandbox = Sandbox::new();
    for (behave, words) in [
        ("recurse", ["recursed", "stack"]),
        ("overrun", ["outside of its memory", "stack"]),
        ("memory", ["MiB of memory", "its limit is 64 MiB"]),
        ("panic", ["panicked", "the sky is falling"]),
        ("exit", ["exit", "plugin failed"]),
    ] {
        let backend = sandbox.hostile(behave).await;
        let error = create(&*backend).await.unwrap_err();
        assert_open(&error, &words);
        assert_eq!(error.kind, Kind::Internal, "{behave}");
    }
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn answers_that_are_too_large_are_not_taken() {
    let sandbox = Sandbox::new();
    for behave in ["string", "items", "long-page"] {
        let backend = sandbox.hostile(behave).await;
        let error = match behave {
            "long-page" => backend.list(None).await.map(|_| ()).unwrap_err(),
            _ => create(&*backend).await.map(|_| ()).unwrap_err(),
        };
        assert_open(&error, &["plugin failed"]);
        assert!(error.message.len() < 1000, "{error}");
    }
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn a_flood_of_output_is_harmless() {
    let sandbox = Sandbox::new();
    for behave in ["flood", "print"] {
        let long = Limits { cpu_ms: 20_000, wall_ms: 60_000, ..Limits::default() };
        let backend = sandbox.load("hostile", &[("behave", behave)], "", long).await.unwrap();
        create(&*backend).await.unwrap();
    }
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn a_backend_that_keeps_breaking_is_left_alone() {
    let sandbox = Sandbox::new();
    let backend = sandbox.hostile("panic").await;
    for _ in 0..5 {
        assert_open(&create(&*backend).await.unwrap_err(), &["panicked"]);
    }
    let error = create(&*backend).await.unwrap_err();
    assert_open(&error, &["5 times in a row", "left alone", "the sky is falling"]);
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.retry_after.is_some());
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn pending_work_is_bounded_and_its_note_is_clean() {
    let sandbox = Sandbox::new();
    let error = sandbox.attack("resume", "4097", "").await.map(drop).unwrap_err();
    assert_open(&error, &["`resume` is 4097 bytes long", "4096 are allowed"]);
    let behave = [("behave", "resume"), ("argument", "4096")];
    let longest = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
    match longest.create(wish(token())).await.unwrap() {
        Effect::Pending(pending) => assert_eq!(pending.resume.len(), 4096),
        Effect::Done(made) => panic!("{made:?}"),
    }
    match sandbox.hostile("for-ever").await.create(wish(token())).await.unwrap() {
        Effect::Pending(pending) => {
            assert_eq!((pending.resume, pending.note.as_str()), (vec![7], "soon[5m"));
            assert_eq!(pending.retry_after, Duration::from_secs(3600));
        }
        Effect::Done(made) => panic!("{made:?}"),
    }
}
