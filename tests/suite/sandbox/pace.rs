//! How fast a backend is called, and by how many at once.

use std::time::Duration;

use kato_orchestrator::{Kind, model::Token, ports::backend::Which};
use kato_plugin_host::Limits;
use tokio::time::Instant;

use super::{Sandbox, assert_open, create, quick, token, wish};

fn which() -> Vec<Which> {
    vec![Which { token: token(), handle: None }]
}

#[tokio::test]
async fn a_throttled_backend_is_unavailable_and_says_when() {
    let sandbox = Sandbox::new();
    let backend = sandbox.hostile("throttle").await;
    let error = create(&*backend).await.unwrap_err();
    assert_open(&error, &["slow down"]);
    assert_eq!((error.kind, error.retry_after), (Kind::Unavailable, Some(Duration::from_millis(50))));
}

#[tokio::test]
async fn nothing_is_changed_before_the_time_that_the_backend_named_and_reading_goes_on() {
    let sandbox = Sandbox::new();
    let behave = [("behave", "throttle"), ("argument", "1500"), ("present", "yes")];
    let backend = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
    create(&*backend).await.unwrap_err();
    let throttled = Instant::now();
    let second = create(&*backend);
    tokio::pin!(second);
    for _ in 0..5 {
        // Reads have a bucket of their own, which nobody throttled.
        tokio::select! {
            biased;
            found = backend.inspect(which()) => assert!(found.unwrap()[0].is_some()),
            _ = &mut second => panic!("it was asked again after {:?}", throttled.elapsed()),
        }
    }
    second.await.unwrap_err();
    assert!(throttled.elapsed() >= Duration::from_millis(1400), "{:?}", throttled.elapsed());
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn calls_that_change_something_leave_the_slots_of_reading_free() {
    let sandbox = Sandbox::new();
    let limits = Limits { calls: 1, reads: 1, wall_ms: 3_000, ..quick() };
    let behave = [("behave", "wait"), ("present", "yes")];
    let backend = sandbox.load("hostile", &behave, "", limits).await.unwrap();
    let (first, second) = (create(&*backend), backend.create(wish(Token::parse("token-2").unwrap())));
    let reading = async {
        // The only slot for changes is taken by now, or is about to be.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut found = 0;
        for _ in 0..5 {
            found += backend.inspect(which()).await.unwrap().iter().flatten().count();
        }
        (found, Instant::now())
    };
    let waiting = async { (tokio::join!(first, second), Instant::now()) };
    let ((found, read), ((first, second), ended)) = tokio::join!(reading, waiting);
    assert!(found == 5 && read < ended, "reading waited for the changes");
    let (first, second) = (first.map(drop).unwrap_err(), second.map(drop).unwrap_err());
    for error in [&first, &second] {
        assert_open(error, &[]);
    }
    // One of them had the slot and ran into its deadline; the other waited for it as long.
    let mut kinds = [first.kind, second.kind];
    kinds.sort_by_key(|kind| *kind == Kind::Busy);
    assert!(kinds == [Kind::Timeout, Kind::Busy] || kinds == [Kind::Timeout, Kind::Timeout], "{kinds:?}");
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn a_backend_finds_room_however_many_others_wait() {
    let sandbox = Sandbox::new();
    let limits = Limits { wall_ms: 8_000, ..quick() };
    let mut hostile = Vec::new();
    for number in 0..6 {
        let name = format!("hostile-{number}");
        hostile.push(sandbox.load(&name, &[("behave", "wait")], "", limits.clone()).await.unwrap());
    }
    // Twelve at once of each are more than there is room for in the whole daemon.
    let calls = hostile.iter().flat_map(|backend| (0..12).map(|_| create(&**backend)));
    let waiting = futures_util::future::join_all(calls);
    tokio::pin!(waiting);
    let neighbour = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sandbox.neighbour_is_well().await;
    };
    tokio::select! {
        biased;
        () = neighbour => {}
        _ = &mut waiting => panic!("the neighbour had to wait for all of them"),
    }
    for ended in waiting.await {
        assert!(ended.is_err());
    }
}
