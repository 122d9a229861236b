//! Stories of volumes themselves: how they come to be, change and go, whatever the backend does to the wish.

use std::time::Duration;

use kato_orchestrator::{
    Error,
    testing::{Fault, Verb},
};

use super::{POLLED, stories};

stories! {
    create => |teller| {
        teller.create("db").await;
        teller.create("db").await;
    }

    refused_create => |teller| {
        teller.fault(Verb::Create, Fault::Refuse(Error::exhausted("the backend is full")));
        teller.create("db").await;
        teller.create("db").await;
    }

    unheard_create => |teller| {
        for _ in 0..2 {
            teller.fault(Verb::Create, Fault::LoseAnswer(Error::unavailable("the connection was cut").pending()));
        }
        tokio::join!(teller.create("db"), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            teller.delete("db").await;
        });
        teller.create("db").await;
    }

    late_create => |teller| {
        teller.fault(Verb::Create, Fault::Late(Duration::from_secs(20)));
        teller.fault(Verb::Create, Fault::Refuse(Error::exhausted("the backend is full")));
        teller.create("db").await;
        teller.create("db").await;
    }

    pending_create => |teller| {
        teller.fault(Verb::Create, Fault::Pending(3));
        teller.create("db").await;
    }

    polled_work(POLLED) => |teller| {
        teller.fault(Verb::Create, Fault::Pending(3));
        teller.fault(Verb::Poll, Fault::Refuse(Error::unavailable("the backend does not answer")));
        teller.fault(Verb::Attach, Fault::Pending(2));
        teller.fault(Verb::Cut, Fault::Pending(3));
        teller.fault(Verb::Detach, Fault::Pending(2));
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        tokio::join!(teller.snapshot("monday", "db"), teller.create("other"));
        teller.unmount("db", "one").await;
        teller.fault(Verb::Delete, Fault::Pending(3));
        teller.delete("other").await;
    }

    grow => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.grow("db", 3).await;
        teller.unmount("db", "one").await;
        teller.grow("db", 4).await;
    }

    modify => |teller| {
        teller.create("db").await;
        teller.modify("db", "fast").await;
        teller.fault(Verb::Modify, Fault::LoseAnswer(Error::unavailable("the connection was cut").pending()));
        teller.modify("db", "slow").await;
        teller.fault(Verb::Modify, Fault::Pending(2));
        teller.modify("db", "fast").await;
        teller.fault(Verb::Modify, Fault::Refuse(Error::invalid("there is no such tier")));
        teller.modify("db", "golden").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
    }

    delete => |teller| {
        teller.create("db").await;
        teller.delete("db").await;
        teller.create("db").await;
        teller.delete("db").await;
    }
}
