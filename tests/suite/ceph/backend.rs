//! The backend suite, asked of the `rbd` plugin and a real cluster: every fact in a namespace of its own.

use std::sync::Arc;

use kato_tests::ceph::Cluster;

use crate::backend::{every_fact, ground::Subject};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fact_of_the_backend_suite_holds_in_a_real_cluster() {
    let cluster = &Arc::new(Cluster::start());
    every_fact(async |fact: &str| {
        let namespace = fact.replace('_', "-");
        Subject::images_in_ceph(cluster, &namespace).await
    })
    .await;
}
