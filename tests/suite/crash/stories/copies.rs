//! Stories of snapshots and clones, and of sources that move meanwhile.

use std::time::Duration;

use kato_orchestrator::{
    Error,
    model::SnapshotName,
    ops::SourceName,
    testing::{Fault, Verb},
};

use super::{COPIES, COPIES_UNMOUNTED, stories};
use crate::crash::town::name;

stories! {
    late_cut => |teller| {
        teller.create("db").await;
        teller.use_once("db").await;
        teller.fault(Verb::Cut, Fault::Late(Duration::from_secs(20)));
        teller.fault(Verb::Cut, Fault::Refuse(Error::exhausted("the backend is full")));
        teller.snapshot("monday", "db").await;
        teller.snapshot("monday", "db").await;
    }

    snapshot => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.snapshot("monday", "db").await;
        teller.create_from("copy", SourceName::Snapshot(SnapshotName::parse("monday").unwrap().into())).await;
        teller.mount("copy", "one").await;
        teller.delete_snapshot("monday").await;
    }

    clone => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.create_from("copy", SourceName::Volume(name("db").into())).await;
        teller.mount("copy", "two").await;
        teller.write("copy", "own");
    }

    snapshot_by_copy(COPIES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.fault(Verb::Cut, Fault::Pending(3));
        teller.while_written("db", teller.snapshot("monday", "db")).await;
        teller.delete_snapshot("monday").await;
        teller.while_written("db", teller.snapshot("tuesday", "db")).await;
    }

    snapshot_slower_than_a_freeze(COPIES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.fault(Verb::Cut, Fault::Pending(9));
        teller.while_written("db", teller.snapshot("monday", "db")).await;
    }

    clone_by_copy(COPIES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.fault(Verb::Create, Fault::Pending(3));
        teller.while_written("db", teller.create_from("copy", SourceName::Volume(name("db").into()))).await;
        teller.has_made("copy");
        teller.mount("copy", "two").await;
    }

    clone_of_what_is_unmounted(COPIES_UNMOUNTED) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.unmount("db", "one").await;
        teller.fault(Verb::Create, Fault::Pending(9));
        tokio::join!(teller.create_from("copy", SourceName::Volume(name("db").into())), async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            teller.mount("db", "two").await;
            teller.write("db", "more");
        });
        teller.has_made("copy");
        teller.fault(Verb::Create, Fault::Pending(9));
        tokio::join!(teller.create_from("other", SourceName::Volume(name("copy").into())), async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            teller.delete("other").await;
        });
    }
}
