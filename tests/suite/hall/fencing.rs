//! Volumes that are taken from nodes. One that answers is asked, one that may still write is cut off first, and what a node
//! loses that way it takes down itself when it is back. Two daemons have the same records here, each with a machine of
//! its own; `there` does not answer for as long as nobody calls it.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{
    Error, Kind, Orchestrator,
    model::{AttachmentState, Fence, LostMount, Target},
    ops::{AttachVolume, DetachVolume, ExamineHouse, MountVolume, UnmountVolume, VolumeView},
    testing::{Fault, Verb},
};

use super::mount_of;
use crate::crash::{
    telling::machine,
    town::{Nature, Teller, Town, holder, name},
};

const BESIDE: Nature = Nature { attaches: true, fences: true, neighbour: true, ..Nature::PLAIN };

impl Teller {
    fn neighbour(&self) -> &Arc<Orchestrator> {
        self.there.as_ref().unwrap()
    }

    async fn let_reach(&self, volume: &str, node: &str) {
        let wish =
            AttachVolume { volume: name(volume).into(), node: machine(node), read_only: false, many: false };
        self.hall.attach(&self.context(), wish).await.unwrap();
    }

    async fn take_from(&self, volume: &str, node: Option<&str>) -> Result<(), Error> {
        let wish = DetachVolume { volume: name(volume).into(), node: node.map(machine) };
        self.hall.detach(&self.context(), wish).await.map(drop)
    }

    /// A volume that is in use on the other machine.
    async fn used_there(&self, volume: &str) {
        self.make(volume).await;
        self.let_reach(volume, "there").await;
        let wish = MountVolume { target: Target::Path("/pods/1".into()), ..mount_of(volume, "one") };
        self.neighbour().mount(&self.context(), wish).await.unwrap();
    }

    async fn lost(&self, volume: &str) -> Vec<LostMount> {
        self.see(volume).await.lost
    }

    fn fenced(&self) -> Vec<String> {
        self.backend.lock().unwrap().fenced().to_vec()
    }

    fn may_fail(&self, verb: Verb, fault: Fault) {
        self.backend.lock().unwrap().fault(verb, fault);
    }

    fn nobody_trespassed(&self) {
        assert_eq!(self.backend.lock().unwrap().trespasses(), [""; 0]);
    }
}

fn unproven() -> Fault {
    Fault::Refuse(Error::precondition("the machine may still run").pending())
}

#[test]
fn a_node_that_does_not_answer_is_cut_off_and_the_volume_moves() {
    let town = &Town::new(BESIDE);
    town.live(|house| async move {
        house.used_there("db").await;
        let refused = house.take("db", "two").await.unwrap_err();
        assert_eq!(refused.kind, Kind::InUse);
        assert!(refused.message.contains("node there"), "{refused}");

        house.take_from("db", Some("there")).await.unwrap();
        assert_eq!(house.fenced(), ["there"]);
        let view = house.see("db").await;
        assert!(view.attachments.is_empty() && view.mounts.is_empty() && view.publications.is_empty());
        let [lost] = view.lost.as_slice() else { panic!("{view:#?}") };
        assert_eq!((lost.mount.node.as_str(), lost.holders.len()), ("there", 1));
        house.take("db", "two").await.unwrap();
        house.host.write(view.volume.id, "rows").unwrap();
        house.nobody_trespassed();
        assert_eq!(
            town.machine_there().lock().unwrap().binds(),
            ["/pods/1"],
            "nobody is there to take it down"
        );
    });
}

#[test]
fn a_node_that_is_back_takes_down_what_it_lost_before_it_has_it_anew() {
    let town = &Town::new(BESIDE);
    town.live(|house| async move {
        house.used_there("db").await;
        house.take_from("db", Some("there")).await.unwrap();
        house.let_reach("db", "there").await;
        let lost = town.machine_there();
        let volume = house.see("db").await.volume.id;
        lost.lock().unwrap().show_elsewhere(volume, vec!["9 (postgres)".into()]);
        let refused = house.neighbour().mount(&house.context(), mount_of("db", "two")).await.unwrap_err();
        assert_eq!(refused.kind, Kind::InUse, "a container has what was lost");
        assert!(refused.message.contains("postgres"), "{refused}");
        let found = house.neighbour().doctor(&ExamineHouse::default()).await.unwrap();
        let found = found.iter().find(|finding| finding.code == "lost-mount").unwrap();
        assert!(found.message.contains("postgres"), "{found:?}");
        let why = house.neighbour().why(&name("db")).await.unwrap();
        assert!(why.waits.iter().any(|wait| wait.contains("taken from this node")), "{:?}", why.waits);

        lost.lock().unwrap().end_containers();
        house.neighbour().mount(&house.context(), mount_of("db", "two")).await.unwrap();
        assert!(house.lost("db").await.is_empty());
        assert!(lost.lock().unwrap().binds().is_empty());
        house.nobody_trespassed();
        let wish = UnmountVolume { volume: name("db").into(), holder: holder("two"), all: true };
        house.neighbour().unmount(&house.context(), wish).await.unwrap();
        house.take_from("db", Some("there")).await.unwrap();
        assert_eq!(house.fenced(), ["there"], "it let go by itself the second time");
    });
}

#[test]
fn what_a_node_lost_goes_without_anybody_asking_for_it() {
    let town = &Town::new(BESIDE);
    town.live(|house| async move {
        house.used_there("db").await;
        house.take_from("db", Some("there")).await.unwrap();
        house.neighbour().tidy().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(house.lost("db").await.is_empty());
        assert!(town.machine_there().lock().unwrap().connected().is_empty());
    });
}

#[test]
fn of_what_was_lost_nothing_is_left_after_a_boot() {
    let town = &Town::new(BESIDE);
    town.live(|house| async move {
        house.used_there("db").await;
        house.take_from("db", Some("there")).await.unwrap();
        town.machine_there().lock().unwrap().reboot();
        town.neighbour(&Arc::default(), &house.clock).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(house.lost("db").await.is_empty());
    });
}

#[test]
fn a_lost_mount_outlives_its_volume_and_keeps_nothing() {
    let town = &Town::new(BESIDE);
    town.live(|house| async move {
        house.used_there("db").await;
        house.take_from("db", Some("there")).await.unwrap();
        house.remove("db").await.unwrap();
        assert!(house.backend.lock().unwrap().tokens().is_empty());
        house.make("db").await;
        assert!(house.lost("db").await.is_empty(), "it is another volume's");
        assert_eq!(town.machine_there().lock().unwrap().mounts().len(), 1);
        town.neighbour(&Arc::default(), &house.clock).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let there = town.machine_there().lock().unwrap();
        assert!(there.mounts().is_empty() && there.connected().is_empty() && there.binds().is_empty());
    });
}

#[test]
fn nobody_has_the_volume_while_a_node_is_being_cut_off() {
    Town::new(BESIDE).live(|house| async move {
        house.used_there("db").await;
        house.may_fail(Verb::Fence, Fault::Pending(80));
        let late = house.take_from("db", Some("there")).await.unwrap_err();
        assert_eq!((late.kind, late.is_final()), (Kind::Timeout, false));
        assert_eq!(house.backend.lock().unwrap().heard(Verb::Detach), 0);
        assert_eq!(house.take("db", "two").await.unwrap_err().kind, Kind::InUse);
        let why = house.hall.why(&name("db")).await.unwrap();
        assert!(why.waits.iter().any(|wait| wait.contains("cut there off first")), "{:?}", why.waits);
        house.take_from("db", Some("there")).await.unwrap();
        house.take("db", "two").await.unwrap();
        house.nobody_trespassed();
    });
}

#[test]
fn a_node_that_cannot_be_cut_off_is_waited_for_and_never_passed_over() {
    Town::new(BESIDE).live(|house| async move {
        house.used_there("db").await;
        for _ in 0..2 {
            house.may_fail(Verb::Fence, unproven());
            let busy = house.take_from("db", Some("there")).await.unwrap_err();
            assert_eq!((busy.kind, busy.is_final()), (Kind::Busy, false), "{busy}");
            assert!(busy.message.contains("there uses it still"), "{busy}");
            let attachment = house.see("db").await.attachments.remove(0);
            assert_eq!((attachment.state, attachment.fence), (AttachmentState::Detaching, Fence::Unproven));
        }
        assert_eq!(house.backend.lock().unwrap().heard(Verb::Fence), 2, "it is asked again with each wish");
        assert_eq!(house.take("db", "two").await.unwrap_err().kind, Kind::InUse);
        // It is back, and lets go by itself.
        house.neighbour().tidy().await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(house.see("db").await.attachments.is_empty());
        house.take("db", "two").await.unwrap();
        assert!(house.fenced().is_empty());
        house.nobody_trespassed();
    });
}

#[test]
fn a_backend_that_only_fences_lets_go_of_nothing_without_proof() {
    Town::new(Nature { attaches: false, ..BESIDE }).live(|house| async move {
        house.used_there("db").await;
        house.may_fail(Verb::Fence, unproven());
        let busy = house.take_from("db", Some("there")).await.unwrap_err();
        assert_eq!((busy.kind, busy.is_final()), (Kind::Busy, false), "{busy}");
        assert_eq!(house.see("db").await.attachments.len(), 1);
        house.take_from("db", Some("there")).await.unwrap();
        assert_eq!(house.fenced(), ["there"]);
        house.take("db", "two").await.unwrap();
        house.nobody_trespassed();
    });
}

#[test]
fn a_backend_without_a_say_waits_for_the_node_itself() {
    let town = &Town::new(Nature { attaches: false, fences: false, ..BESIDE });
    town.live(|house| async move {
        house.used_there("db").await;
        let late = house.take_from("db", Some("there")).await.unwrap_err();
        assert_eq!((late.kind, late.is_final()), (Kind::Timeout, false));
        let view = house.see("db").await;
        assert_eq!((view.mounts.len(), view.lost.len()), (1, 0));
        assert_eq!(house.take("db", "two").await.unwrap_err().kind, Kind::InUse);
        house.nobody_trespassed();
    });
}

#[test]
fn a_node_that_is_known_to_have_let_go_is_detached_and_not_cut_off() {
    Town::new(BESIDE).live(|house| async move {
        house.used_there("db").await;
        let wish = UnmountVolume { volume: name("db").into(), holder: holder("one"), all: true };
        house.neighbour().unmount(&house.context(), wish).await.unwrap();
        house.take_from("db", Some("there")).await.unwrap();
        assert!(house.fenced().is_empty());
        assert!(house.see("db").await.attachments.is_empty());
    });
}

#[test]
fn of_a_node_that_keeps_its_records_elsewhere_nothing_is_believed() {
    Town::new(BESIDE).live(|house| async move {
        house.make("db").await;
        house.let_reach("db", "far").await;
        house.take_from("db", Some("far")).await.unwrap();
        assert_eq!(house.fenced(), ["far"]);
        // Not even that it was never attached.
        house.take_from("db", Some("further")).await.unwrap();
        assert_eq!(house.fenced(), ["far", "further"]);
    });
}

#[test]
fn a_node_that_answers_is_asked_and_its_holders_are_named() {
    Town::new(BESIDE).live(|house| async move {
        house.make("db").await;
        house.let_reach("db", "here").await;
        house.take("db", "c0ffee").await.unwrap();
        for node in [Some("here"), None] {
            let refused = house.take_from("db", node).await.unwrap_err();
            assert_eq!((refused.kind, refused.is_final()), (Kind::InUse, true));
            assert!(refused.message.contains("c0ffee"), "{refused}");
        }
        house.give("db", "c0ffee").await;
        house.take_from("db", Some("here")).await.unwrap();
        assert!(house.fenced().is_empty());
    });
}

#[test]
fn without_a_node_it_is_taken_from_all() {
    Town::new(BESIDE).live(|house| async move {
        house.used_there("db").await;
        house.take_from("db", None).await.unwrap();
        assert_eq!(house.fenced(), ["there"]);
        assert_eq!(house.lost("db").await.len(), 1);
        house.take_from("db", None).await.unwrap();
        house.take("db", "two").await.unwrap();
        house.nobody_trespassed();
    });
}

/// Whose volume tells who it is to the backend.
const ALONE: Nature = Nature { attaches: true, fences: true, ..Nature::PLAIN };

#[test]
fn a_client_that_ended_without_a_word_is_cut_off_before_the_next_one_begins() {
    Town::new(ALONE).live(|house| async move {
        house.machine.lock().unwrap().tell_clients();
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        let client = |view: VolumeView| view.attachments.first().and_then(|one| one.client.clone());
        assert_eq!(client(house.see("db").await).as_deref(), Some("here/1"));
        house.machine.lock().unwrap().cut_off(id, "its server ended");
        house.hall.watch().await.unwrap();
        house.give("db", "one").await;
        house.take("db", "two").await.unwrap();
        assert_eq!(house.backend.lock().unwrap().fenced_clients(), ["here/1"]);
        assert_eq!(client(house.see("db").await).as_deref(), Some("here/2"), "it comes as another one");
        house.host.write(id, "rows").unwrap();
        house.give("db", "two").await;
        assert_eq!(
            house.backend.lock().unwrap().fenced_clients().len(),
            1,
            "who ends in order is left alone"
        );
    });
}

#[test]
fn the_client_of_an_earlier_boot_is_cut_off() {
    let mut town = Town::new(ALONE);
    town.live(|house| async move {
        house.machine.lock().unwrap().tell_clients();
        house.make("db").await;
        house.take("db", "one").await.unwrap();
    });
    town.reboot();
    town.live(|house| async move {
        house.take("db", "two").await.unwrap();
        assert_eq!(house.backend.lock().unwrap().fenced_clients(), ["here/1"]);
        house.nobody_trespassed();
    });
}
