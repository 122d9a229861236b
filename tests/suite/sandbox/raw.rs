//! Attacks below the language: what passes the canonical ABI is checked by the machine that runs the guest, and
//! ends the call like any other fault.

use kato_orchestrator::Kind;

use super::{Sandbox, assert_open};

#[tokio::test]
async fn what_is_no_text_and_no_handle_ends_the_call() {
    let sandbox = Sandbox::new();
    for (how, words) in [
        ("handle-no-text", ["plugin failed", "utf-8"]),
        ("error-no-text", ["plugin failed", "utf-8"]),
        ("log-no-text", ["plugin failed", "utf-8"]),
        ("far-text", ["plugin failed", "out of bounds"]),
        ("many-handles", ["plugin failed", "at once"]),
        ("drop-twice", ["plugin failed", "handle"]),
        ("use-after-drop", ["plugin failed", "handle"]),
        ("forged-handle", ["plugin failed", "handle"]),
    ] {
        let error = sandbox.attack("raw", how, "").await.map(drop).unwrap_err();
        assert_open(&error, &words);
        assert_eq!(error.kind, Kind::Internal, "{how}: {error}");
    }
    sandbox.neighbour_is_well().await;
}
