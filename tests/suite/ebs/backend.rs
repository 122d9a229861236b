//! The backend suite, asked of the `ebs` plugin: every fact in an account of its own.

use crate::backend::{every_fact, ground::Subject};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fact_of_the_backend_suite_holds_in_amazons_house() {
    every_fact(async |_: &str| Subject::volumes_of_ebs().await).await;
}
