//! Asking a backend about all that is pending at once.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{
    Error,
    ports::Clock,
    testing::{Fault, Verb},
};

use super::{Teller, name};
use crate::crash::town::{Nature, Town};

/// One life of the hall over a backend that can be asked so.
fn polled<F: Future<Output = ()>>(life: impl FnOnce(Arc<Teller>) -> F) {
    Town::new(Nature { polls: true, ..Nature::PLAIN }).live(life);
}

#[test]
fn two_hundred_waits_are_asked_about_in_a_few_calls() {
    polled(|house| async move {
        for _ in 0..200 {
            house.backend.lock().unwrap().fault(Verb::Create, Fault::Pending(5));
        }
        let before = house.clock.now();
        let all = (0..200).map(|number| {
            let house = &house;
            async move { house.make(&format!("volume-{number}")).await }
        });
        futures_util::future::join_all(all).await;
        let took = house.clock.now().since(before);
        let backend = house.backend.lock().unwrap();
        assert_eq!(backend.tokens().len(), 200);
        // Each is asked for when it is wished and when it is ready, and about five times in between, which would
        // be a thousand calls by themselves.
        assert_eq!(backend.heard(Verb::Create), 400);
        assert!((10..=20).contains(&backend.heard(Verb::Poll)), "{} polls", backend.heard(Verb::Poll));
        // And not before the two seconds that the backend asked for, each time.
        assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(20), "{took:?}");
    });
}

#[test]
fn a_failed_poll_postpones_and_ends_nothing() {
    polled(|house| async move {
        house.backend.lock().unwrap().fault(Verb::Create, Fault::Pending(3));
        // It sounds final, and would take a create back.
        let refusal = Error::invalid("no such work");
        house.backend.lock().unwrap().fault(Verb::Poll, Fault::Refuse(refusal));
        house.make("db").await;
        assert_eq!(house.backend.lock().unwrap().tokens().len(), 1);
        assert_eq!(house.backend.lock().unwrap().heard(Verb::Create), 2);
    });
}

#[test]
fn a_backend_whose_polls_are_broken_is_asked_itself() {
    polled(|house| async move {
        house.make("db").await;
        for _ in 0..100 {
            let broken = Error::internal("the plugin panicked").pending();
            house.backend.lock().unwrap().fault(Verb::Poll, Fault::Refuse(broken));
        }
        house.backend.lock().unwrap().fault(Verb::Delete, Fault::Pending(2));
        // The caller may be told meanwhile; the work goes on.
        drop(house.remove("db").await);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(house.backend.lock().unwrap().tokens().is_empty());
        assert!(house.hall.inspect(&name("db")).await.is_err());
    });
}
