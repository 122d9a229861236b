//! Stories of copies from one backend to another: written by this node, or by calls, and the next one of what has changed.

use kato_orchestrator::{
    Error,
    testing::{Fault, Verb},
};

use super::{MOVES, MOVES_BETWEEN_CALLS, MOVES_BY_CALLS, MOVES_FROM_CALLS, stories};

stories! {
    move_by_this_node(MOVES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes of a database");
        teller.copy("db", "copy", false).await;
        teller.has_made("copy");
        teller.mount("copy", "two").await;
    }

    move_by_calls(MOVES_BY_CALLS) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes of a database");
        teller.fault_far(Verb::Complete, Fault::Pending(2));
        teller.copy("db", "copy", false).await;
        teller.has_made("copy");
    }

    move_between_calls(MOVES_BETWEEN_CALLS) => |teller| {
        teller.create("db").await;
        teller.use_once("db").await;
        teller.copy("db", "copy", false).await;
        teller.has_made("copy");
        teller.delete("copy").await;
    }

    move_from_calls(MOVES_FROM_CALLS) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes of a database");
        teller.copy("db", "copy", false).await;
        teller.has_made("copy");
    }

    move_what_changed(MOVES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "monday");
        teller.copy("db", "first", true).await;
        teller.write("db", "tuesday");
        teller.copy("db", "second", true).await;
        teller.has_made("second");
    }

    move_what_changed_by_calls(MOVES_BY_CALLS) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "monday");
        teller.copy("db", "first", true).await;
        teller.write("db", "tuesday");
        teller.copy("db", "second", false).await;
        teller.has_made("second");
    }

    move_whose_time_is_over(MOVES_BY_CALLS) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes of a database");
        teller.fault_far(Verb::Write, Fault::LoseAnswer(Error::unavailable("the answer is lost").pending()));
        tokio::join!(teller.copy("db", "copy", false), async {
            tokio::task::yield_now().await;
            teller.far.lock().unwrap().expire();
        });
        teller.has_made("copy");
    }

    move_that_is_not_wanted_any_more(MOVES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes of a database");
        teller.fault_far(Verb::Attach, Fault::Pending(3));
        tokio::join!(teller.copy("db", "copy", false), async {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            teller.delete("copy").await;
        });
    }
}
