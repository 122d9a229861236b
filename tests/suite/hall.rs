//! The hall's laws, one fact a test, against the fakes of its ports. What happens to mounts that break is
//! `hall/health.rs`, what is taken from nodes that do not answer is `hall/fencing.rs`, what backends say of their volumes
//! is `hall/consult.rs`, changing parameters is `hall/modify.rs`, asking about what is pending is `hall/polls.rs`, groups of
//! snapshots are `hall/groups.rs`, where snapshots hold data `hall/extents.rs`, `hall/sizes.rs` what shows a size that
//! is not the volume's, and `hall/refusals.rs` is what becomes of deletes that a backend refuses.

mod consult;
mod extents;
mod fencing;
mod groups;
mod health;
mod modify;
mod polls;
mod recovery;
mod refusals;
mod sizes;

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{
    Error, Kind, Outcome,
    model::{Bytes, Caller, CapacityRange, FsState, FsType, MountState, SnapshotName, Target, VolumeState},
    ops::{
        Access, CreateSnapshot, CreateVolume, DeleteSnapshot, DeleteVolume, ExamineHouse, GrowVolume,
        MountVolume, Reach, SourceName, UnmountVolume, VolumeView,
    },
    ports::{Clock, backend::Cutting},
    testing::{Fault, Verb},
};

use crate::crash::town::{Nature, Teller, Town, holder, name};

/// One life of the hall over fresh worlds.
fn hall<F: Future<Output = ()>>(life: impl FnOnce(Arc<Teller>) -> F) {
    Town::new(Nature::PLAIN).live(life);
}

fn mount_of(volume: &str, by: &str) -> MountVolume {
    MountVolume {
        volume: name(volume).into(),
        access: Access::default(),
        holder: holder(by),
        counts: true,
        caller: None,
        target: Target::Shared,
        read_only: false,
        implicit: None,
    }
}

impl Teller {
    async fn make(&self, volume: &str) -> VolumeView {
        self.hall.create(&self.context(), CreateVolume::named(name(volume))).await.unwrap().into_inner()
    }

    async fn try_make(&self, volume: &str) -> Result<VolumeView, Error> {
        let made = self.hall.create(&self.context(), CreateVolume::named(name(volume))).await;
        made.map(Outcome::into_inner)
    }

    async fn take(&self, volume: &str, by: &str) -> Result<String, Error> {
        self.hall.mount(&self.context(), mount_of(volume, by)).await.map(|outcome| outcome.into_inner().path)
    }

    async fn give(&self, volume: &str, by: &str) -> Outcome<()> {
        let wish = UnmountVolume { volume: name(volume).into(), holder: holder(by), all: false };
        self.hall.unmount(&self.context(), wish).await.unwrap()
    }

    async fn remove(&self, volume: &str) -> Result<Outcome<()>, Error> {
        self.hall.delete(&self.context(), DeleteVolume { volume: name(volume).into(), forget: false }).await
    }

    async fn see(&self, volume: &str) -> VolumeView {
        self.hall.inspect(&name(volume)).await.unwrap()
    }

    async fn cut(&self, snapshot: &str, volume: &str) -> Result<(), Error> {
        let wish = CreateSnapshot {
            name: SnapshotName::parse(snapshot).unwrap(),
            volume: name(volume).into(),
            parameters: Default::default(),
            labels: Default::default(),
            until_ready: true,
        };
        self.hall.create_snapshot(&self.context(), wish).await.map(drop)
    }
}

#[test]
fn a_volume_is_made_once_and_found_then() {
    hall(|house| async move {
        assert!(matches!(
            house.hall.create(&house.context(), CreateVolume::named(name("db"))).await,
            Ok(Outcome::Changed(_))
        ));
        assert!(matches!(
            house.hall.create(&house.context(), CreateVolume::named(name("db"))).await,
            Ok(Outcome::Unchanged(_))
        ));
    });
}

#[test]
fn another_wish_under_the_same_name_is_refused_with_the_difference() {
    hall(|house| async move {
        house.make("db").await;
        for (wish, word) in [
            (
                CreateVolume {
                    size: CapacityRange::at_least(Bytes(1 << 40)),
                    ..CreateVolume::named(name("db"))
                },
                "size",
            ),
            (CreateVolume { fs: Some(FsType::Xfs), ..CreateVolume::named(name("db")) }, "filesystem"),
        ] {
            let wish = CreateVolume { exact: true, ..wish };
            let error = house.hall.create(&house.context(), wish).await.unwrap_err();
            assert_eq!(error.kind, Kind::AlreadyExists);
            assert!(error.message.contains(word), "{error}");
        }
    });
}

#[test]
fn a_refused_create_leaves_neither_record_nor_name() {
    hall(|house| async move {
        let refusal = Error::exhausted("the backend is full");
        house.backend.lock().unwrap().fault(Verb::Create, Fault::Refuse(refusal));
        let error = house.hall.create(&house.context(), CreateVolume::named(name("db"))).await.unwrap_err();
        assert_eq!(error.kind, Kind::Exhausted);
        assert_eq!(house.hall.inspect(&name("db")).await.unwrap_err().kind, Kind::NotFound);
        house.make("db").await;
    });
}

#[test]
fn a_create_whose_answer_was_lost_finds_what_it_made() {
    hall(|house| async move {
        let lost = Error::unavailable("the connection was cut").pending();
        house.backend.lock().unwrap().fault(Verb::Create, Fault::LoseAnswer(lost));
        house.make("db").await;
        assert_eq!(house.backend.lock().unwrap().tokens().len(), 1);
    });
}

#[test]
fn a_burnt_token_raises_the_generation() {
    hall(|house| async move {
        let burnt = Error::precondition("the token is bound to a deleted volume").token_burnt();
        house.backend.lock().unwrap().fault(Verb::Create, Fault::Refuse(burnt));
        assert_eq!(house.make("db").await.volume.generation, 1);
    });
}

#[test]
fn what_was_under_way_for_a_burnt_token_is_not_asked_about_with_the_next() {
    hall(|house| async move {
        let bell = Arc::new(tokio::sync::Notify::new());
        let burnt = Error::internal("what was being made has failed").token_burnt();
        for fault in [Fault::Pending(1), Fault::Refuse(burnt), Fault::Until(Arc::clone(&bell))] {
            house.backend.lock().unwrap().fault(Verb::Create, fault);
        }
        let look = async {
            while house.backend.lock().unwrap().heard(Verb::Create) < 3 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let intent = house.hall.inspect(&name("db")).await.unwrap().volume.intent.unwrap();
            assert_eq!((intent.resume, intent.note), (None, None));
            bell.notify_one();
        };
        let (made, ()) = tokio::join!(house.try_make("db"), look);
        assert_eq!(made.unwrap().volume.generation, 1);
    });
}

#[test]
fn delete_reverses_a_stuck_create() {
    hall(|house| async move {
        for _ in 0..1_000 {
            let fault = Fault::Refuse(Error::unavailable("no answer").pending());
            house.backend.lock().unwrap().fault(Verb::Create, fault);
        }
        let (made, removed) = tokio::join!(house.try_make("db"), async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            house.remove("db").await
        });
        assert!(made.is_err());
        assert!(matches!(removed, Ok(Outcome::Changed(()))));
        assert!(house.hall.inspect(&name("db")).await.is_err());
    });
}

#[test]
fn an_unheard_create_is_looked_for_until_the_backend_has_settled() {
    hall(|house| async move {
        for _ in 0..1_000 {
            let fault = Fault::Refuse(Error::unavailable("no answer").pending());
            house.backend.lock().unwrap().fault(Verb::Create, fault);
        }
        let (_, removed) = tokio::join!(house.try_make("db"), async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            house.remove("db").await
        });
        removed.unwrap();
        assert_eq!(house.hall.gauges().await.unwrap().tombstones, 1);
        house.hall.tidy().await.unwrap();
        assert_eq!(house.hall.gauges().await.unwrap().tombstones, 1, "not before it has settled");
        tokio::time::sleep(Duration::from_secs(31)).await;
        house.hall.tidy().await.unwrap();
        assert_eq!(house.hall.gauges().await.unwrap().tombstones, 0);
    });
}

#[test]
fn second_holder_reuses_the_mount() {
    hall(|house| async move {
        house.make("db").await;
        let (one, two) = tokio::join!(house.take("db", "one"), house.take("db", "two"));
        assert_eq!(one.unwrap(), two.unwrap());
        let view = house.see("db").await;
        assert_eq!((view.mounts.len(), view.publications.len()), (1, 2));
        house.give("db", "one").await;
        assert_eq!(
            house.see("db").await.mounts.first().map(|mount| mount.state.clone()),
            Some(MountState::Mounted)
        );
        house.give("db", "two").await;
        assert!(house.see("db").await.mounts.is_empty());
    });
}

#[test]
fn a_holder_that_is_told_twice_gives_back_twice() {
    hall(|house| async move {
        house.make("db").await;
        house.take("db", "one").await.unwrap();
        house.take("db", "one").await.unwrap();
        house.give("db", "one").await;
        assert_eq!(
            house.see("db").await.publications.len(),
            1,
            "docker cp must not unmount a running container"
        );
        house.give("db", "one").await;
        assert!(house.see("db").await.publications.is_empty());
        assert_eq!(house.give("db", "one").await, Outcome::Unchanged(()));
    });
}

#[test]
fn a_holder_without_an_id_does_not_count() {
    hall(|house| async move {
        house.make("db").await;
        let wish = || MountVolume { counts: false, ..mount_of("db", "anybody") };
        for _ in 0..3 {
            house.hall.mount(&house.context(), wish()).await.unwrap();
        }
        house.give("db", "anybody").await;
        assert!(house.see("db").await.publications.is_empty());
    });
}

#[test]
fn a_new_life_of_the_caller_begins_its_count_anew() {
    let town = &Town::new(Nature::PLAIN);
    town.live(|house| async move {
        house.make("db").await;
        let wish = |pid| MountVolume { caller: Some(Caller { pid, started: 1 }), ..mount_of("db", "one") };
        for _ in 0..3 {
            house.hall.mount(&house.context(), wish(7)).await.unwrap();
        }
        town.machine().lock().unwrap().kill(7);
        house.hall.mount(&house.context(), wish(8)).await.unwrap();
        assert_eq!(house.see("db").await.publications.first().map(|one| one.count), Some(1));
    });
}

#[test]
fn a_mount_that_is_given_up_leaves_no_holder_and_no_mount() {
    Town::new(Nature { attaches: true, ..Nature::PLAIN }).live(|house| async move {
        house.make("db").await;
        for _ in 0..1_000 {
            let fault = Fault::Refuse(Error::unavailable("no answer").pending());
            house.backend.lock().unwrap().fault(Verb::Attach, fault);
        }
        let error = house.take("db", "one").await.unwrap_err();
        assert_eq!(error.kind, Kind::Timeout);
        assert!(house.see("db").await.publications.is_empty());
        for _ in 0..30 {
            house.hall.tidy().await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let view = house.see("db").await;
        assert!(view.mounts.is_empty() && view.attachments.is_empty(), "{view:#?}");
        house.remove("db").await.unwrap();
    });
}

#[test]
fn a_volume_in_use_is_not_deleted_and_the_holder_is_named() {
    hall(|house| async move {
        house.make("db").await;
        house.take("db", "c0ffee").await.unwrap();
        let error = house.remove("db").await.unwrap_err();
        assert_eq!(error.kind, Kind::InUse);
        assert!(error.message.contains("c0ffee"), "{error}");
        house.give("db", "c0ffee").await;
        house.remove("db").await.unwrap();
        assert!(matches!(house.remove("db").await, Ok(Outcome::Unchanged(()))));
    });
}

#[test]
fn a_volume_is_formatted_once_and_its_bytes_outlive_remounts() {
    hall(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        assert_eq!(house.see("db").await.volume.filesystem.state, FsState::Formatted);
        house.host.write(id, "rows").unwrap();
        house.give("db", "one").await;
        house.take("db", "two").await.unwrap();
        assert_eq!(house.host.read(id).unwrap(), "FS:rows");
    });
}

#[test]
fn a_grow_in_its_cool_down_traps_nobody() {
    hall(|house| async move {
        house.make("db").await;
        for _ in 0..1_000 {
            let fault = Fault::Refuse(Error::unavailable("one modification in six hours").pending());
            house.backend.lock().unwrap().fault(Verb::Grow, fault);
        }
        let size = CapacityRange::at_least(Bytes(3 << 30));
        let grown = house
            .hall
            .grow(&house.context(), GrowVolume { volume: name("db").into(), size, reach: Reach::Everywhere })
            .await;
        assert_eq!(grown.unwrap_err().kind, Kind::Timeout);
        house.take("db", "one").await.unwrap();
        house.give("db", "one").await;
        house.remove("db").await.unwrap();
    });
}

#[test]
fn a_refused_grow_sets_the_wish_back() {
    hall(|house| async move {
        house.make("db").await;
        house.backend.lock().unwrap().fault(Verb::Grow, Fault::Refuse(Error::out_of_range("too large")));
        let size = CapacityRange::at_least(Bytes(3 << 30));
        let error = house
            .hall
            .grow(&house.context(), GrowVolume { volume: name("db").into(), size, reach: Reach::Everywhere })
            .await
            .unwrap_err();
        assert_eq!(error.kind, Kind::OutOfRange);
        assert!(!house.see("db").await.volume.wants_growth());
    });
}

#[test]
fn a_snapshot_keeps_its_moment_and_outlives_its_volume() {
    hall(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.host.write(id, "before").unwrap();
        house.cut("monday", "db").await.unwrap();
        house.host.write(id, "after").unwrap();
        house.give("db", "one").await;
        house.remove("db").await.unwrap();

        let source = Some(SourceName::Snapshot(SnapshotName::parse("monday").unwrap().into()));
        let wish = CreateVolume { source, ..CreateVolume::named(name("copy")) };
        let copy = house.hall.create(&house.context(), wish).await.unwrap().into_inner();
        house.take("copy", "one").await.unwrap();
        assert_eq!(house.host.read(copy.volume.id).unwrap(), "FS:before");
        let wish = DeleteSnapshot { snapshot: SnapshotName::parse("monday").unwrap().into() };
        house.hall.delete_snapshot(&house.context(), wish).await.unwrap();
    });
}

#[test]
fn another_backend_under_the_same_name_is_not_believed() {
    hall(|house| async move {
        house.make("db").await;
        house.backend.lock().unwrap().become_another("an unmounted folder");
        tokio::time::sleep(Duration::from_secs(10)).await;
        let removed = house.remove("db").await.unwrap_err();
        assert_eq!(removed.kind, Kind::Timeout);
        assert_eq!(house.see("db").await.volume.state, VolumeState::Deleting, "the record stays");
        house.backend.lock().unwrap().become_another("");
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(house.hall.inspect(&name("db")).await.is_err());
    });
}

#[test]
fn a_volume_that_its_backend_lost_is_reported_and_never_made_anew() {
    hall(|house| async move {
        let volume = house.make("db").await.volume;
        let token = volume.token(house.hall.cluster());
        house.backend.lock().unwrap().lose(&token);
        let error = house.take("db", "one").await.unwrap_err();
        assert_eq!(error.kind, Kind::Precondition);
        assert_eq!(house.see("db").await.volume.state, VolumeState::Lost);
        house.make("db").await;
        assert!(house.backend.lock().unwrap().tokens().is_empty(), "it was made anew");
        assert!(
            house
                .hall
                .doctor(&ExamineHouse::default())
                .await
                .unwrap()
                .iter()
                .any(|finding| finding.code == "lost")
        );
        house.remove("db").await.unwrap();
    });
}

#[test]
fn a_holder_whose_process_is_gone_is_reaped_when_nobody_else_has_its_path() {
    let town = &Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let id = house.make("db").await.volume.id;
        let wish = MountVolume { caller: Some(Caller { pid: 7, started: 1 }), ..mount_of("db", "one") };
        house.hall.mount(&house.context(), wish).await.unwrap();
        house.take("db", "without a process").await.unwrap();
        town.machine().lock().unwrap().kill(7);
        town.machine().lock().unwrap().show_elsewhere(id, vec!["9 (postgres)".into()]);
        wait_tidily(&house, 1_800).await;
        assert_eq!(house.see("db").await.publications.len(), 2, "a container still has it");
        town.machine().lock().unwrap().show_elsewhere(id, Vec::new());
        wait_tidily(&house, 540).await;
        assert_eq!(house.see("db").await.publications.len(), 2, "not before ten minutes");
        wait_tidily(&house, 120).await;
        let view = house.see("db").await;
        assert_eq!(view.publications.len(), 1, "{view:#?}");
    });
}

async fn wait_tidily(house: &Teller, seconds: u64) {
    let end = house.clock.now().plus(Duration::from_secs(seconds));
    while house.clock.now() < end {
        tokio::time::sleep(Duration::from_secs(5)).await;
        house.hall.tidy().await.unwrap();
    }
}

#[test]
fn a_mount_that_was_taken_away_behind_our_back_comes_back_with_the_next_start() {
    let town = &Town::new(Nature::PLAIN);
    town.live(|house| async move {
        house.make("db").await;
        house.take("db", "one").await.unwrap();
    });
    let mounted = town.machine().lock().unwrap().mounts();
    town.machine().lock().unwrap().yank(mounted[0]);
    town.live(|house| async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(house.see("db").await.mounts[0].state, MountState::Mounted);
        assert_eq!(town.machine().lock().unwrap().mounts(), mounted);
    });
}

#[test]
fn two_hundred_volumes_are_worked_on_side_by_side() {
    hall(|house| async move {
        for _ in 0..200 {
            house.backend.lock().unwrap().fault(Verb::Create, Fault::Pending(5));
        }
        let before = house.clock.now();
        let all = (0..200).map(|number| {
            let house = &house;
            async move { house.make(&format!("volume-{number}")).await }
        });
        futures_util::future::join_all(all).await;
        // Each takes five rounds of two seconds; one after the other they would take over half an hour.
        assert!(house.clock.now().since(before) < Duration::from_secs(30));
        assert_eq!(house.hall.gauges().await.unwrap().volumes[1], ("ready", 200));
    });
}

#[test]
fn requests_with_the_same_goal_share_one_answer() {
    hall(|house| async move {
        house.backend.lock().unwrap().fault(Verb::Create, Fault::Pending(3));
        let all = futures_util::future::join_all((0..50).map(|_| house.make("db"))).await;
        assert!(all.iter().all(|view| view.volume.id == all[0].volume.id));
        assert_eq!(house.backend.lock().unwrap().tokens().len(), 1);
    });
}

#[test]
fn pages_of_names_survive_a_delete_between_them() {
    hall(|house| async move {
        for number in 0..25 {
            house.make(&format!("v{number:02}")).await;
        }
        let first = house.hall.names(None, 10).await.unwrap();
        house.remove("v09").await.unwrap();
        house.remove("v10").await.unwrap();
        let second = house.hall.names(first.next.as_deref(), 10).await.unwrap();
        assert_eq!(second.items.first().map(|name| name.as_str().to_owned()), Some("v11".into()));
    });
}

#[test]
fn a_name_is_never_a_path_or_a_key() {
    hall(|house| async move {
        for odd in ["../../etc", "a/b", "v/x", "ü 🦀", "%2F", "a%00", "-rf", "."] {
            let view = house.make(odd).await;
            assert_eq!(house.see(odd).await.volume.id, view.volume.id);
        }
        assert_eq!(house.hall.names(None, 100).await.unwrap().items.len(), 8);
    });
}

#[test]
fn a_stop_does_not_wait_for_a_backend_that_hangs_and_the_next_start_asks_it_again() {
    let town = &Town::new(Nature::PLAIN);
    town.live(|house| async move {
        house.make("before").await;
        house.backend.lock().unwrap().fault(Verb::Create, Fault::Hang);
        let stop = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let begun = tokio::time::Instant::now();
            house.hall.stop(Duration::from_secs(3)).await;
            begun.elapsed()
        };
        let (asked, took) = tokio::join!(house.try_make("db"), stop);
        assert!(asked.unwrap_err().message.contains("stopping"));
        assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(4), "{took:?}");
        assert_eq!(house.backend.lock().unwrap().tokens().len(), 1);
    });
    town.live(|house| async move {
        house.make("db").await;
        assert_eq!(house.backend.lock().unwrap().tokens().len(), 2);
        let begun = tokio::time::Instant::now();
        house.hall.stop(Duration::from_secs(3)).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "nothing was in flight");
    });
}

#[test]
fn a_copy_tells_for_how_long_its_source_had_to_stand_still() {
    Town::new(Nature { cutting: Cutting::Copy, ..Nature::PLAIN }).live(|house| async move {
        let snapshot = async |name: &str| {
            house.hall.inspect_snapshot(&SnapshotName::parse(name).unwrap()).await.unwrap()
        };
        house.make("db").await;
        house.take("db", "one").await.unwrap();
        house.backend.lock().unwrap().fault(Verb::Cut, Fault::Pending(2));
        house.cut("mounted", "db").await.unwrap();
        let held = snapshot("mounted").await.held_still.unwrap();
        assert!(held >= Duration::from_secs(2) && held < Duration::from_secs(10), "{held:?}");
        let copy = CreateVolume {
            source: Some(SourceName::Volume(name("db").into())),
            ..CreateVolume::named(name("copy"))
        };
        let made = house.hall.create(&house.context(), copy).await.unwrap().into_inner();
        assert!(made.volume.held_still.is_some());
        house.give("db", "one").await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        house.hall.tidy().await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(house.see("db").await.mounts.is_empty());
        house.cut("unmounted", "db").await.unwrap();
        assert_eq!(snapshot("unmounted").await.held_still, None);
    });
}

#[test]
fn a_holder_whose_process_cannot_be_seen_is_never_reaped() {
    let town = &Town::new(Nature::PLAIN);
    town.live(|house| async move {
        house.make("db").await;
        for (by, pid) in [("unseen", 0), ("seen", 7)] {
            let wish = MountVolume { caller: Some(Caller { pid, started: 1 }), ..mount_of("db", by) };
            house.hall.mount(&house.context(), wish).await.unwrap();
        }
    });
    // Both are doubtful after a start, and no other namespace shows either.
    town.live(|house| async move {
        house.machine.lock().unwrap().kill(7);
        wait_tidily(&house, 3_600).await;
        let holders: Vec<_> = house.see("db").await.publications;
        assert_eq!(holders.iter().map(|one| one.holder.as_str()).collect::<Vec<_>>(), ["unseen"]);
    });
}
