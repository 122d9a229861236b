//! The backend suite, asked of the `packet` plugin: every fact in a project of its own, over a target of its own.

use crate::backend::{every_fact, ground::Subject};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fact_of_the_backend_suite_holds_at_packets() {
    every_fact(async |_: &str| Subject::volumes_of_packet().await).await;
}
