//! What a controller does that is told to take a volume from a node: it is the caller's decision, and two writers are
//! nobody's. The controller forgets everything before each call, so that nothing but the backend knows who is attached.

use kato_csi::protocol::Volume;
use tonic::Code;

use super::{
    ground::{Proof, Reach, wish},
    lost::{attach, controller, detach},
};
use crate::host::ground::Ground;

/// A volume that a machine uses, and will go on to.
async fn used(ground: &Ground, reach: &Reach, node: &str) -> Volume {
    let volume = controller(ground, reach).await.create(wish("pvc-1", 64)).await.unwrap();
    attach(&controller(ground, reach).await, &volume, node).await.unwrap();
    reach.users().active.insert(node.into());
    volume
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_cut_off_and_the_volume_moves() {
    let ground = Ground::new();
    let reach = Reach::fencing(Proof::Sure);
    let volume = used(&ground, &reach, "node-1").await;
    for _ in 0..2 {
        detach(&controller(&ground, &reach).await, &volume.volume_id, "node-1").await.unwrap();
        assert!(reach.nodes().is_empty() && reach.users().active.is_empty());
    }
    assert_eq!(reach.users().fenced, ["node-1", "node-1"], "whoever knows nothing asks each time");
    attach(&controller(&ground, &reach).await, &volume, "node-2").await.unwrap();
    assert_eq!(reach.nodes(), ["node-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_be_cut_off_is_waited_for() {
    let ground = Ground::new();
    for reach in [Reach::fencing(Proof::Lacking), Reach::default()] {
        let volume = used(&ground, &reach, "node-1").await;
        for _ in 0..2 {
            let house = controller(&ground, &reach).await;
            let lasts = detach(&house, &volume.volume_id, "node-1").await.unwrap_err();
            assert_eq!(lasts.code(), Code::Aborted, "{lasts}");
            assert!(lasts.message().contains("machine node-1 has it in use"), "{lasts}");
            let elsewhere = attach(&house, &volume, "node-2").await.unwrap_err();
            assert_eq!(elsewhere.code(), Code::FailedPrecondition, "{elsewhere}");
            assert!(elsewhere.message().contains("node-1"), "{elsewhere}");
        }
        reach.users().active.clear();
        let house = controller(&ground, &reach).await;
        detach(&house, &volume.volume_id, "node-1").await.unwrap();
        attach(&house, &volume, "node-2").await.unwrap();
        detach(&house, &volume.volume_id, "node-2").await.unwrap();
        house.delete(&volume.volume_id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_node_it_is_taken_from_whoever_has_it() {
    let ground = Ground::new();
    let reach = Reach::fencing(Proof::Sure);
    let volume = used(&ground, &reach, "node-1").await;
    for _ in 0..2 {
        detach(&controller(&ground, &reach).await, &volume.volume_id, "").await.unwrap();
        assert!(reach.nodes().is_empty() && reach.users().active.is_empty());
    }
}
