//! What a backend refuses to delete stays, whatever it would say later: whoever heard the refusal may use it on.

use std::time::Duration;

use kato_orchestrator::{
    Error, Kind,
    model::{NodeId, SnapshotName, SnapshotState, VolumeState},
    ops::{AttachVolume, DeleteSnapshot, NodeAddress},
    testing::{Fault, Verb},
};

use super::hall;
use crate::crash::town::{Nature, Town, name};

#[test]
fn a_volume_whose_delete_was_refused_is_kept_and_goes_with_the_next_delete_alone() {
    hall(|house| async move {
        house.make("db").await;
        house.take("db", "one").await.unwrap();
        house.give("db", "one").await;
        house.fault(Verb::Delete, Fault::Refuse(Error::in_use("a clone needs it")));
        let refused = house.remove("db").await.unwrap_err();
        assert_eq!((refused.kind, refused.is_final()), (Kind::InUse, true), "{refused}");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(house.see("db").await.volume.state, VolumeState::Ready);
        house.take("db", "two").await.unwrap();
        house.give("db", "two").await;
        house.remove("db").await.unwrap();
        assert!(house.backend.lock().unwrap().tokens().is_empty());
    });
}

#[test]
fn a_delete_that_only_has_to_wait_goes_on() {
    hall(|house| async move {
        house.make("db").await;
        house.fault(Verb::Delete, Fault::Refuse(Error::unavailable("the backend does not answer")));
        drop(house.remove("db").await);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(house.backend.lock().unwrap().tokens().is_empty());
    });
}

#[test]
fn a_create_that_is_reversed_is_reversed_whatever_its_backend_says_first() {
    hall(|house| async move {
        house.fault(Verb::Create, Fault::LoseAnswer(Error::unavailable("the connection was cut").pending()));
        house.fault(Verb::Create, Fault::Refuse(Error::exhausted("full")));
        house.fault(Verb::Delete, Fault::Refuse(Error::in_use("it is being made")));
        house.try_make("db").await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert!(house.backend.lock().unwrap().tokens().is_empty());
    });
}

#[test]
fn a_snapshot_whose_delete_was_refused_is_kept() {
    hall(|house| async move {
        house.make("db").await;
        house.take("db", "one").await.unwrap();
        house.cut("monday", "db").await.unwrap();
        let delete = || {
            let wish = DeleteSnapshot { snapshot: SnapshotName::parse("monday").unwrap().into() };
            let house = &house;
            async move { house.hall.delete_snapshot(&house.context(), wish).await }
        };
        house.fault(Verb::DeleteSnapshot, Fault::Refuse(Error::in_use("a clone needs it")));
        assert_eq!(delete().await.unwrap_err().kind, Kind::InUse);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let kept = house.hall.inspect_snapshot(&SnapshotName::parse("monday").unwrap()).await.unwrap();
        assert_eq!(kept.state, SnapshotState::Ready);
        delete().await.unwrap();
        assert!(house.hall.inspect_snapshot(&kept.name).await.is_err());
    });
}

#[test]
fn what_lies_on_one_node_is_attached_to_no_other() {
    Town::new(Nature { bound: true, ..Nature::PLAIN }).live(|house| async move {
        house.make("db").await;
        let (here, there) = (house.hall.node().clone(), NodeId::parse("nobody").unwrap());
        let attach = |node: NodeId| AttachVolume {
            volume: name("db").into(),
            node: NodeAddress { id: node, names: Default::default() },
            read_only: false,
            many: false,
        };
        let ctx = house.context();
        let refused = house.hall.attach(&ctx, attach(there)).await.unwrap_err();
        assert_eq!((refused.kind, refused.is_final()), (Kind::Precondition, true), "{refused}");
        assert!(refused.message.contains(here.as_str()), "{refused}");
        house.hall.attach(&ctx, attach(here)).await.unwrap();
        assert!(house.see("db").await.attachments.len() == 1);
    });
}
