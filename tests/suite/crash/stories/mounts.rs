//! Stories of those who hold a volume on this node, and of mounts that break below them.

use kato_orchestrator::{
    Error,
    ops::Access,
    testing::{Fault, Verb},
};

use super::{ATTACHES, stories};

stories! {
    mount_by_two_holders => |teller| {
        teller.create("db").await;
        tokio::join!(teller.mount("db", "one"), teller.mount("db", "two"));
        teller.write("db", "bytes");
        teller.unmount("db", "one").await;
        teller.mount("db", "three").await;
        teller.write("db", "more");
    }

    mount_given_up(ATTACHES) => |teller| {
        teller.create("db").await;
        for _ in 0..40 {
            teller.fault(Verb::Attach, Fault::Refuse(Error::unavailable("the backend does not answer").pending()));
        }
        teller.mount("db", "one").await;
    }

    bound_mount => |teller| {
        teller.create("db").await;
        teller.mount_at("db", "one", "/pods/1").await;
        teller.mount_at("db", "two", "/pods/2").await;
        teller.write("db", "bytes");
        teller.unmount("db", "one").await;
        teller.unmount("db", "two").await;
    }

    unmount => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.mount("db", "one").await;
        teller.unmount("db", "one").await;
        teller.unmount("db", "one").await;
        teller.mount("db", "two").await;
        teller.unmount("db", "two").await;
    }

    raw_life => |teller| {
        teller.create("db").await;
        let raw = || Access { raw: true, ..Access::default() };
        teller.mount_as("db", "/pods/1", raw()).await;
        teller.mount_as("db", "/pods/2", raw()).await;
        teller.grow("db", 3).await;
        teller.unmount("db", "/pods/1").await;
        teller.unmount("db", "/pods/2").await;
        teller.delete("db").await;
    }

    inline_life => |teller| {
        teller.bring_about("pod", "/pods/1").await;
        teller.write("pod", "bytes");
        teller.note(|said| {
            said.volumes.remove("pod");
            said.written.remove("pod");
        });
        teller.unmount("pod", "/pods/1").await;
        teller.bring_about("pod", "/pods/2").await;
    }

    repair => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.mount("db", "two").await;
        teller.write("db", "bytes");
        teller.cut_off("db").await;
        teller.mount("db", "three").await;
        teller.repair("db", false).await;
        teller.unmount("db", "one").await;
        teller.unmount("db", "two").await;
        teller.mount("db", "three").await;
        teller.write("db", "more");
    }

    repair_by_force(ATTACHES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.mount_at("db", "two", "/pods/2").await;
        teller.write("db", "bytes");
        teller.cut_off("db").await;
        teller.repair("db", true).await;
        teller.mount("db", "three").await;
        teller.write("db", "more");
        teller.unmount("db", "three").await;
    }
}
