//! Stories of nodes that are let in and out by the backend, with a mount or because somebody asked.

use kato_orchestrator::{
    Error,
    model::Purpose,
    ops::Access,
    testing::{Fault, Verb},
};

use super::{ATTACHES, FENCES, FENCES_BESIDE, stories};
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

    taken_from_a_node_that_does_not_answer(FENCES) => |teller| {
        teller.create("db").await;
        teller.attach_to("db", "far").await;
        teller.fault(Verb::Fence, Fault::LoseAnswer(Error::timeout("no answer").pending()));
        teller.fault(Verb::Fence, Fault::Pending(2));
        teller.fault(Verb::Detach, Fault::LoseAnswer(Error::timeout("no answer").pending()));
        teller.detach_from("db", "far").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
    }

    taken_from_a_node_that_cannot_be_cut_off(FENCES) => |teller| {
        teller.create("db").await;
        teller.attach_to("db", "far").await;
        for _ in 0..2 {
            let unproven = Error::precondition("the machine may still run");
            teller.fault(Verb::Fence, Fault::Refuse(unproven));
            teller.detach_from("db", "far").await;
            teller.mount("db", "one").await;
        }
        teller.stop("far");
        teller.detach_from("db", "far").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
    }

    taken_from_this_node_by_another(FENCES_BESIDE) => |teller| {
        teller.create("db").await;
        teller.attach("db").await;
        teller.mount_as("db", "/staged", Access { purpose: Purpose::Stage, ..Access::default() }).await;
        teller.mount_as("db", "/pods/1", Access { staged_by: Some(holder("/staged")), ..Access::default() }).await;
        teller.write("db", "bytes");
        teller.taken_by_the_neighbour("db").await;
        teller.attach("db").await;
        teller.mount_as("db", "/staged", Access { purpose: Purpose::Stage, ..Access::default() }).await;
        teller.write("db", "more");
        teller.unmount("db", "/staged").await;
        teller.detach("db").await;
    }

    deleted_after_it_was_taken_from_this_node(FENCES_BESIDE) => |teller| {
        teller.create("db").await;
        teller.attach("db").await;
        teller.mount_as("db", "/pods/1", Access::default()).await;
        teller.taken_by_the_neighbour("db").await;
        teller.delete("db").await;
        teller.create("db").await;
        teller.mount("db", "one").await;
    }
}
