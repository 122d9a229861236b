//! Stories of nodes that are let in and out by the backend, with a mount or because somebody asked.

use kato_orchestrator::{
    Error,
    model::Purpose,
    ops::Access,
    testing::{Fault, Verb},
};

use super::{ATTACHES, stories};
use crate::crash::town::holder;

stories! {
    attached_life(ATTACHES) => |teller| {
        teller.fault(Verb::Attach, Fault::Pending(2));
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.fault(Verb::Detach, Fault::LoseAnswer(Error::timeout("no answer").pending()));
        teller.unmount("db", "one").await;
        teller.mount("db", "two").await;
        teller.unmount("db", "two").await;
        teller.delete("db").await;
    }

    asked_attachment(ATTACHES) => |teller| {
        teller.create("db").await;
        teller.fault(Verb::Attach, Fault::Pending(2));
        teller.attach("db").await;
        teller.mount_as("db", "/staged", Access { purpose: Purpose::Stage, ..Access::default() }).await;
        let published = Access { staged_by: Some(holder("/staged")), ..Access::default() };
        teller.mount_as("db", "/pods/1", published).await;
        teller.write("db", "bytes");
        teller.unmount("db", "/pods/1").await;
        teller.unmount("db", "/staged").await;
        teller.fault(Verb::Detach, Fault::LoseAnswer(Error::timeout("no answer").pending()));
        teller.detach("db").await;
        tokio::join!(teller.attach("db"), teller.delete("db"));
        teller.detach("db").await;
        teller.delete("db").await;
    }

    refused_attachment(ATTACHES) => |teller| {
        teller.create("db").await;
        teller.fault(Verb::Attach, Fault::LoseAnswer(Error::exhausted("no slot is free")));
        teller.attach("db").await;
        teller.delete("db").await;
    }
}
