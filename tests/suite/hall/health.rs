//! Mounts that do not reach their bytes any more: told, refused to whoever is new, left to those who have them,
//! and made again when they have left, or by force.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{
    Error, Gauges, Kind, Outcome,
    model::{Dependant, MountState, Target, VolumeId},
    ops::{CreateVolume, MountVolume, RepairVolume, SourceName, VolumeView},
    ports::backend::Cutting,
};

use super::{Nature, Teller, Town, mount_of, name, wait_tidily};

impl Teller {
    /// Cuts a volume off and lets the house see it.
    async fn break_mount(&self, id: VolumeId) {
        self.machine.lock().unwrap().cut_off(id, "its device is gone");
        self.hall.watch().await.unwrap();
    }

    async fn mend(&self, volume: &str, force: bool) -> Result<Outcome<VolumeView>, Error> {
        self.hall.repair(&self.context(), RepairVolume { name: name(volume), force }).await
    }

    async fn state(&self, volume: &str) -> Option<MountState> {
        self.see(volume).await.mounts.first().map(|mount| mount.state.clone())
    }

    fn mounted(&self) -> Vec<VolumeId> {
        self.machine.lock().unwrap().mounts()
    }
}

fn hall<F: Future<Output = ()>>(life: impl FnOnce(Arc<Teller>) -> F) {
    Town::new(Nature::PLAIN).live(life);
}

fn broken() -> Option<MountState> {
    Some(MountState::Broken("its device is gone".into()))
}

#[test]
fn a_mount_that_broke_is_told_everywhere_and_refused_to_whoever_is_new() {
    hall(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "c0ffee").await.unwrap();
        house.hall.watch().await.unwrap();
        assert_eq!(house.state("db").await, Some(MountState::Mounted));
        house.break_mount(id).await;
        assert_eq!(house.state("db").await, broken());
        for _ in 0..2 {
            let refusal = house.take("db", "another").await.unwrap_err();
            assert_eq!(refusal.kind, Kind::Precondition);
            for word in ["its device is gone", "c0ffee", "kato volume repair"] {
                assert!(refusal.message.contains(word), "{word}: {refusal}");
            }
        }
        let why = house.hall.why(&name("db")).await.unwrap();
        assert!(why.waits.iter().any(|line| line.contains("its device is gone")), "{:?}", why.waits);
        let gauges = house.hall.gauges().await.unwrap();
        assert_eq!((Gauges::sum(&gauges.mounts), gauges.broken(), gauges.intents), (1, 1, 0));
    });
}

#[test]
fn nothing_is_unmounted_under_a_holder_and_the_last_one_leaves_room_for_a_new_mount() {
    hall(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.take("db", "two").await.unwrap();
        house.host.write(id, "rows").unwrap();
        house.break_mount(id).await;
        house.give("db", "one").await;
        wait_tidily(&house, 600).await;
        assert_eq!((house.state("db").await, house.mounted()), (broken(), vec![id]));
        house.give("db", "two").await;
        assert!(house.mounted().is_empty(), "with the last holder it is taken down");
        assert!(house.see("db").await.mounts.is_empty());
        house.take("db", "three").await.unwrap();
        house.host.write(id, ", more").unwrap();
        assert_eq!(house.host.read(id).unwrap(), "FS:rows, more");
    });
}

#[test]
fn a_mount_that_breaks_while_nobody_holds_it_is_taken_down_at_once() {
    Town::new(Nature { attaches: true, ..Nature::PLAIN }).live(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.break_mount(id).await;
        house.mend("db", true).await.unwrap();
        assert!(house.see("db").await.publications.is_empty());
        house.break_mount(id).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let view = house.see("db").await;
        assert!(view.mounts.is_empty() && view.attachments.is_empty(), "{view:#?}");
        assert_eq!(house.backend.lock().unwrap().attachments(), 0, "it is attached afresh, too");
        house.take("db", "two").await.unwrap();
        house.host.write(id, "rows").unwrap();
    });
}

#[test]
fn a_mount_that_meets_a_broken_one_without_holders_waits_for_its_end_and_gets_a_new_one() {
    hall(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.machine.lock().unwrap().show_elsewhere(id, vec!["9 (postgres)".into()]);
        house.break_mount(id).await;
        house.give("db", "one").await;
        assert_eq!(
            house.state("db").await,
            broken(),
            "it is still mounted elsewhere, and nobody turns it around"
        );
        let refusal = house.take("db", "two").await.unwrap_err();
        assert!(refusal.kind == Kind::InUse && refusal.message.contains("9 (postgres)"), "{refusal}");
        house.machine.lock().unwrap().show_elsewhere(id, Vec::new());
        house.take("db", "two").await.unwrap();
        house.host.write(id, "rows").unwrap();
        assert_eq!(house.state("db").await, Some(MountState::Mounted));
    });
}

#[test]
fn a_cable_that_is_put_back_makes_its_mount_well_again() {
    hall(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.break_mount(id).await;
        house.machine.lock().unwrap().put_back(id);
        house.hall.watch().await.unwrap();
        assert_eq!(house.state("db").await, Some(MountState::Mounted));
        house.take("db", "two").await.unwrap();
    });
}

#[test]
fn a_mount_that_somebody_took_away_is_made_again_for_its_holders() {
    hall(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.machine.lock().unwrap().yank(id);
        house.hall.watch().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((house.state("db").await, house.mounted()), (Some(MountState::Mounted), vec![id]));
        assert_eq!(house.see("db").await.publications.len(), 1);
    });
}

#[test]
fn a_device_that_does_not_answer_is_told_and_forbids_nothing() {
    hall(|house| async move {
        let id = house.make("slow").await.volume.id;
        house.take("slow", "one").await.unwrap();
        let other = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.machine.lock().unwrap().stall(id, true);
        house.break_mount(other).await;
        assert_eq!(house.state("db").await, broken(), "a stalled volume hides no other");
        assert_eq!(house.hall.gauges().await.unwrap().mounts_stalled, 1);
        let why = house.hall.why(&name("slow")).await.unwrap();
        assert!(why.waits.iter().any(|line| line.contains("does not answer")), "{:?}", why.waits);
        house.take("slow", "two").await.unwrap();
        house.machine.lock().unwrap().stall(id, false);
        house.hall.watch().await.unwrap();
        assert_eq!(house.hall.gauges().await.unwrap().mounts_stalled, 0);
        assert!(house.hall.why(&name("slow")).await.unwrap().waits.is_empty());
    });
}

#[test]
fn a_repair_takes_a_mount_from_its_holders_only_by_force() {
    hall(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        let bound = MountVolume { target: Target::Path("/pods/2".into()), ..mount_of("db", "two") };
        house.hall.mount(&house.context(), bound).await.unwrap();
        assert!(matches!(house.mend("db", true).await, Ok(Outcome::Unchanged(_))), "it is well");
        assert_eq!(house.see("db").await.publications.len(), 2);
        house.host.write(id, "rows").unwrap();
        house.break_mount(id).await;
        let refusal = house.mend("db", false).await.unwrap_err();
        for word in ["one", "two", "--force"] {
            assert!(refusal.message.contains(word), "{word}: {refusal}");
        }
        assert_eq!(house.mounted(), [id]);
        let view = house.mend("db", true).await.unwrap().into_inner();
        assert_eq!(view.mounts.first().map(|mount| mount.state.clone()), Some(MountState::Mounted));
        assert!(view.publications.is_empty(), "{view:#?}");
        assert!(house.machine.lock().unwrap().binds().is_empty());
        assert_eq!(house.host.read(id).unwrap(), "FS:rows");
        // What nobody wants goes after a while, as ever.
        wait_tidily(&house, 120).await;
        assert!(house.mounted().is_empty());
        assert!(matches!(house.mend("db", false).await, Ok(Outcome::Unchanged(_))));
        assert_eq!(house.mend("never", false).await.unwrap_err().kind, Kind::NotFound);
    });
}

#[test]
fn a_repair_by_force_waits_for_whoever_the_kernel_still_shows() {
    hall(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.machine.lock().unwrap().show_elsewhere(id, vec!["9 (postgres)".into()]);
        house.break_mount(id).await;
        let refusal = house.mend("db", true).await.unwrap_err();
        assert!(refusal.kind == Kind::InUse && refusal.message.contains("9 (postgres)"), "{refusal}");
        house.machine.lock().unwrap().show_elsewhere(id, Vec::new());
        wait_tidily(&house, 120).await;
        assert!(house.mounted().is_empty(), "it went on by itself when the process was gone");
    });
}

#[test]
fn who_hangs_up_while_a_mount_is_made_holds_nothing() {
    Town::new(Nature { attaches: true, ..Nature::PLAIN }).live(|house| async move {
        house.make("db").await;
        for _ in 0..3 {
            let fault = kato_orchestrator::testing::Fault::Pending(2);
            house.backend.lock().unwrap().fault(kato_orchestrator::testing::Verb::Attach, fault);
        }
        let ctx = house.context();
        let (answer, ()) = tokio::join!(house.hall.mount(&ctx, mount_of("db", "one")), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ctx.abandoned.cancel();
        });
        assert_eq!(answer.unwrap_err().kind, Kind::Timeout);
        assert!(house.see("db").await.publications.is_empty());
        // The next one finds what was made meanwhile.
        house.take("db", "two").await.unwrap();
    });
}

#[test]
fn a_broken_mount_is_neither_copied_nor_cut_and_the_refusal_says_why() {
    Town::new(Nature { cutting: Cutting::Copy, ..Nature::PLAIN }).live(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.host.write(id, "rows").unwrap();
        house.break_mount(id).await;
        let copy = || CreateVolume {
            source: Some(SourceName::Volume(name("db").into())),
            ..CreateVolume::named(name("copy"))
        };
        for refusal in [
            house.cut("monday", "db").await.unwrap_err(),
            house.hall.create(&house.context(), copy()).await.unwrap_err(),
        ] {
            assert_eq!(refusal.kind, Kind::Precondition, "{refusal}");
            for word in ["the volume db", "its device is gone", "kato volume repair db"] {
                assert!(refusal.to_string().contains(word), "{word}: {refusal}");
            }
        }
        assert_eq!(house.backend.lock().unwrap().tokens().len(), 1, "something was begun");
        assert!(house.hall.list_snapshots(None, 10).await.unwrap().items.is_empty());
        assert!(
            house.see("db").await.volume.dependants.iter().all(|one| matches!(one, Dependant::Attachment(_)))
        );
        house.mend("db", true).await.unwrap();
        house.cut("monday", "db").await.unwrap();
        house.hall.create(&house.context(), copy()).await.unwrap();
    });
}
