//! What becomes of calls on a disk that does not answer.

use kato_orchestrator::{Finality, Kind, model::Bytes};
use kato_plugin_host::Limits;

use super::{
    ground::{Folder, Subject},
    which,
};

#[tokio::test]
async fn a_call_on_a_disk_that_stalls_is_left_at_its_deadline_and_the_next_effect_waits_for_its_end() {
    let limits = Limits { wall_ms: 1_000, ..Limits::default() };
    let subject = Subject::within(Folder::on("ext4", &[], ""), Bytes(0), &[], limits).await;
    subject.make("before").await;
    {
        let _stalled = subject.folder().stall();
        let error = subject.create(subject.wish("db")).await.unwrap_err();
        assert_eq!((error.kind, error.finality), (Kind::Timeout, Finality::Pending), "{error}");
        assert!(error.message.contains("a disk does not answer"), "{error}");
        // Who only looks is answered, and who changes something must not meet the work that is left.
        assert!(subject.look("before").await.is_some());
        let error = subject.delete(which("before")).await.unwrap_err();
        assert_eq!((error.kind, error.finality), (Kind::Busy, Finality::Pending), "{error}");
    }
    subject.make("db").await;
    assert_eq!(subject.listed().await.len(), 2);
    for name in ["before", "db"] {
        subject.delete(which(name)).await.unwrap();
    }
    assert!(subject.is_empty(), "{:?}", subject.left());
}
