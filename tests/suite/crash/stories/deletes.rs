//! Stories in which a delete meets another wish.

use std::time::Duration;

use kato_orchestrator::{
    ops::SourceName,
    testing::{Fault, Verb},
};

use super::{ATTACHES, stories};
use crate::crash::town::name;

stories! {
    delete_against_mount => |teller| {
        teller.create("db").await;
        tokio::join!(teller.delete("db"), teller.mount("db", "one"));
        teller.unmount("db", "one").await;
        tokio::join!(teller.mount("db", "two"), teller.delete("db"));
    }

    delete_against_snapshot => |teller| {
        teller.create("db").await;
        teller.use_once("db").await;
        tokio::join!(teller.snapshot("monday", "db"), teller.delete("db"));
        tokio::join!(teller.delete_snapshot("monday"), teller.delete("db"));
    }

    delete_against_clone => |teller| {
        teller.create("db").await;
        teller.use_once("db").await;
        tokio::join!(teller.create_from("copy", SourceName::Volume(name("db").into())), teller.delete("db"));
        tokio::join!(teller.delete("copy"), teller.delete("db"));
    }

    delete_against_unmount => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        tokio::join!(teller.unmount("db", "one"), teller.delete("db"));
        teller.delete("db").await;
    }

    delete_against_attach(ATTACHES) => |teller| {
        teller.create("db").await;
        teller.fault(Verb::Attach, Fault::Pending(3));
        tokio::join!(teller.mount("db", "one"), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            teller.delete("db").await;
        });
        teller.unmount("db", "one").await;
        teller.delete("db").await;
    }

    delete_against_bind => |teller| {
        teller.create("db").await;
        tokio::join!(teller.mount_at("db", "one", "/pods/1"), teller.delete("db"));
        teller.unmount("db", "one").await;
        tokio::join!(teller.delete("db"), teller.mount_at("db", "two", "/pods/2"));
    }

    delete_against_grow => |teller| {
        teller.create("db").await;
        teller.fault(Verb::Grow, Fault::Pending(5));
        tokio::join!(teller.grow("db", 2), teller.delete("db"));
    }

    delete_against_create => |teller| {
        teller.fault(Verb::Create, Fault::Pending(5));
        tokio::join!(teller.create("db"), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            teller.delete("db").await;
        });
        teller.create("db").await;
    }

    delete_against_modify => |teller| {
        teller.create("db").await;
        teller.fault(Verb::Modify, Fault::Pending(5));
        tokio::join!(teller.modify("db", "fast"), teller.delete("db"));
    }
}
