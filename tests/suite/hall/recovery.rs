//! Records that were lost and are rebuilt, and what the doctor finds: against the fakes, one fact a test.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{
    Finding, Kind, Mark,
    model::{
        BackendName, CapacityRange, Class, ClusterId, FsState, MountState, SnapshotName, Token, VolumeId,
        VolumeName, VolumeState,
    },
    ops::{CreateVolume, DeleteSnapshot, Dump, ExamineHouse, Neighbour, RecoverRecords, SourceName},
    ports::{
        backend::{Create, Effect, Which},
        host::{Filesystems, MountWish},
    },
};

use super::{hall, wait_tidily};
use crate::crash::town::{Nature, Teller, Town, name};

impl Teller {
    async fn recover(&self, wish: RecoverRecords) -> Vec<Finding> {
        self.hall.recover(&wish, &|_| {}).await.unwrap()
    }

    async fn recover_all(&self) -> Vec<Finding> {
        self.recover(RecoverRecords::default()).await
    }

    async fn examine(&self, fix: bool) -> Vec<Finding> {
        self.hall.doctor(&ExamineHouse { fix, ..ExamineHouse::default() }).await.unwrap()
    }

    async fn snapshot_names(&self) -> Vec<String> {
        let all = self.hall.list_snapshots(None, 100).await.unwrap().items;
        all.into_iter().map(|snapshot| snapshot.name.as_str().to_owned()).collect()
    }

    async fn names(&self) -> Vec<String> {
        let all = self.hall.names(None, 100).await.unwrap().items;
        all.into_iter().map(|name| name.as_str().to_owned()).collect()
    }
}

/// What was found, as codes and subjects.
fn told(findings: &[Finding]) -> Vec<(&str, &str)> {
    findings.iter().map(|finding| (finding.code, finding.subject.as_str())).collect()
}

/// A town whose records are gone, and that had a mounted volume with something in it.
fn bereft() -> Town {
    let mut town = Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.host.write(id, "rows").unwrap();
    });
    town.lose_records();
    town
}

#[test]
fn records_are_rebuilt_from_the_backend_alone() {
    let mut town = Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.host.write(id, "rows").unwrap();
        house.give("db", "one").await;
    });
    town.lose_records();
    town.live(|house| async move {
        assert!(house.hall.inspect(&name("db")).await.is_err());
        assert_eq!(house.examine(false).await[0].code, "orphan");
        assert_eq!(told(&house.recover_all().await), [("recovered", "volume db")]);
        let view = house.see("db").await;
        assert_eq!((view.volume.state, view.publications.len()), (VolumeState::Ready, 0));
        house.take("db", "two").await.unwrap();
        assert_eq!(house.host.read(view.volume.id).unwrap(), "FS:rows");
        assert_eq!(house.recover_all().await, [], "repeating it finds nothing more to do");
    });
    town.converges("after a recovery");
}

#[test]
fn snapshots_are_rebuilt_with_their_names_and_can_be_used_and_removed() {
    let mut town = Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.host.write(id, "rows").unwrap();
        house.cut("before", "db").await.unwrap();
        house.cut("of one that is gone", "db").await.unwrap();
        house.give("db", "one").await;
    });
    town.lose_records();
    town.live(|house| async move {
        let found = house.examine(false).await;
        assert_eq!(found.iter().filter(|finding| finding.code == "orphan").count(), 3, "{found:#?}");
        house.recover_all().await;
        assert_eq!(house.snapshot_names().await, ["before", "of one that is gone"]);
        let snapshot = SnapshotName::parse("before").unwrap();
        assert_eq!(house.hall.inspect_snapshot(&snapshot).await.unwrap().volume_name, name("db"));
        let source = Some(SourceName::Snapshot(snapshot.clone().into()));
        let wish = CreateVolume { source, ..CreateVolume::named(name("copy")) };
        let copy = house.hall.create(&house.context(), wish).await.unwrap().into_inner();
        house.take("copy", "two").await.unwrap();
        assert_eq!(house.host.read(copy.volume.id).unwrap(), "FS:rows", "a copy was formatted");
        let wish = DeleteSnapshot { snapshot: snapshot.into() };
        house.hall.delete_snapshot(&house.context(), wish).await.unwrap();
        assert_eq!(house.examine(false).await, []);
    });
}

#[test]
fn what_stands_mounted_keeps_its_mount_and_is_held_by_somebody_until_nobody_has_it() {
    let town = &bereft();
    town.live(|house| async move {
        let id = town.machine().lock().unwrap().mounts()[0];
        town.machine().lock().unwrap().show_elsewhere(id, vec!["9 (postgres)".into()]);
        assert_eq!(told(&house.recover_all().await), [("recovered", "volume db")]);
        let view = house.see("db").await;
        assert_eq!(view.volume.id, id);
        assert!(view.publications.len() == 1 && view.publications[0].is_unknown(), "{view:#?}");
        let error = house.remove("db").await.unwrap_err();
        assert_eq!(error.kind, Kind::InUse);
        assert!(error.message.contains("somebody unknown"), "{error}");
        let why = house.hall.why(&name("db")).await.unwrap();
        assert!(why.holders[0].contains("records were rebuilt"), "{:?}", why.holders);

        wait_tidily(&house, 3_600).await;
        assert_eq!(house.see("db").await.mounts[0].state, MountState::Mounted);
        assert_eq!(town.machine().lock().unwrap().mounts(), [id], "it was unmounted under its holder");
        assert_eq!(house.host.read(id).unwrap(), "FS:rows");

        // A holder that is known comes and goes, and takes nothing with it.
        house.take("db", "two").await.unwrap();
        house.give("db", "two").await;
        assert_eq!(house.remove("db").await.unwrap_err().kind, Kind::InUse);

        town.machine().lock().unwrap().show_elsewhere(id, Vec::new());
        wait_tidily(&house, 540).await;
        assert_eq!(house.see("db").await.publications.len(), 1, "not before ten minutes");
        wait_tidily(&house, 240).await;
        assert_eq!(house.see("db").await.publications, []);
        house.remove("db").await.unwrap();
    });
    town.converges("after a holder that was unknown");
}

#[test]
fn a_mount_is_recovered_by_its_driver_where_nodes_have_to_be_attached() {
    let mut town = Town::new(Nature { attaches: true, ..Nature::PLAIN });
    town.live(|house| async move {
        house.make("db").await;
        house.take("db", "one").await.unwrap();
    });
    town.lose_records();
    town.live(|house| async move {
        house.recover_all().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let view = house.see("db").await;
        assert_eq!(view.mounts[0].state, MountState::Mounted, "{view:#?}");
        assert!(view.attachments[0].connection.is_some());
        wait_tidily(&house, 1_200).await;
        house.remove("db").await.unwrap();
    });
    town.converges("after a recovery with attachments");
}

#[test]
fn a_restart_does_not_forget_that_somebody_may_hold_a_volume() {
    let town = &bereft();
    town.live(|house| async move {
        house.recover_all().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    let id = town.machine().lock().unwrap().mounts()[0];
    town.machine().lock().unwrap().show_elsewhere(id, vec!["9 (postgres)".into()]);
    town.live(|house| async move {
        wait_tidily(&house, 3_600).await;
        assert_eq!(house.remove("db").await.unwrap_err().kind, Kind::InUse);
    });
}

#[test]
fn a_dump_gives_back_what_a_mark_has_no_room_for_and_nothing_that_is_not_there() {
    let mut town = Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let labels = [("team".to_owned(), "web".to_owned())].into();
        let wish = CreateVolume { labels, ..CreateVolume::named(name("db")) };
        house.hall.create(&house.context(), wish).await.unwrap();
        house.take("db", "one").await.unwrap();
        house.make("removed since").await;
    });
    let dump = town.dump();
    town.live(|house| async move {
        house.remove("removed since").await.unwrap();
    });
    town.lose_records();
    town.live(|house| async move {
        let wish = RecoverRecords { dumps: vec![dump.clone()], ..RecoverRecords::default() };
        let found = house.recover(wish.clone()).await;
        assert_eq!(told(&found), [("recovered", "volume db"), ("missing", "volume removed since")]);
        let view = house.see("db").await;
        assert_eq!(view.volume.labels["team"], "web");
        let holders: Vec<&str> = view.publications.iter().map(|one| one.holder.as_str()).collect();
        assert_eq!(holders, ["(unknown)", "one"]);
        assert!(view.publications.iter().all(|one| one.doubtful_since.is_some()), "{view:#?}");
        assert_eq!(house.names().await, ["db"], "a volume was invented");
        assert_eq!(told(&house.recover(wish).await), [("missing", "volume removed since")]);
    });
}

#[test]
fn an_older_dump_is_asked_only_for_what_the_newest_does_not_know() {
    let mut town = Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let labels = [("age".to_owned(), "old".to_owned())].into();
        house
            .hall
            .create(&house.context(), CreateVolume { labels, ..CreateVolume::named(name("old")) })
            .await
            .unwrap();
        house.make("removed").await;
    });
    let older = town.dump();
    town.live(|house| async move {
        house.remove("removed").await.unwrap();
    });
    town.lose_records();
    // A dump of the first day after the loss knows next to nothing.
    town.live(|house| async move {
        house.make("new").await;
    });
    let newest = town.dump();
    town.live(|house| async move {
        let wish = RecoverRecords { dumps: vec![newest, older], ..RecoverRecords::default() };
        assert_eq!(told(&house.recover(wish).await), [("recovered", "volume old")]);
        assert_eq!(house.see("old").await.volume.labels["age"], "old");
    });
}

#[test]
fn a_dump_of_another_cluster_is_not_used() {
    let mut town = Town::new(Nature::PLAIN);
    town.live(|house| async move {
        house.make("db").await;
    });
    let Dump { name: called, mut records } = town.dump();
    records.retain(|entry| !entry.key.starts_with("meta/"));
    town.lose_records();
    town.live(|house| async move {
        let dumps = vec![Dump { name: called, records }];
        let found = house.recover(RecoverRecords { dumps, ..RecoverRecords::default() }).await;
        assert_eq!(told(&found), [("dump", "dump of the test"), ("recovered", "volume db")]);
    });
}

#[test]
fn the_mark_of_another_cluster_is_never_touched() {
    let mut town = Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let volume = house.make("db").await.volume;
        let backend = house.hall.catalog().backend(&BackendName::parse("fake").unwrap()).unwrap();
        let mark = Mark { cluster: ClusterId(0xbad), ..Mark::of(&volume, house.hall.cluster()) };
        let which = Which { token: volume.token(house.hall.cluster()), handle: volume.handle };
        backend.remark(which, mark.encode()).await.unwrap();
    });
    town.lose_records();
    town.live(|house| async move {
        assert_eq!(told(&house.recover_all().await), [("foreign", "backend fake")]);
        assert_eq!(house.names().await, Vec::<String>::new());
        assert_eq!(house.examine(true).await, []);
        assert_eq!(house.backend.lock().unwrap().tokens().len(), 1);
    });
}

#[test]
fn a_rehearsal_tells_everything_and_does_nothing() {
    let town = &bereft();
    town.live(|house| async move {
        let wish = RecoverRecords { dry_run: true, ..RecoverRecords::default() };
        let found = house.recover(wish).await;
        assert_eq!(told(&found), [("recovered", "volume db")]);
        assert!(!found[0].fixed && found[0].fixable);
        assert_eq!(house.names().await, Vec::<String>::new());
    });
    assert!(town.dump().records.iter().all(|entry| !entry.key.starts_with("v/")), "something was written");
}

#[test]
fn a_name_that_was_too_long_for_its_mark_is_believed_when_it_fits() {
    let mut town = Town::new(Nature::PLAIN);
    let long = "ü".repeat(60);
    let long = &long;
    town.live(|house| async move {
        house.make(long).await;
    });
    town.lose_records();
    town.live(|house| async move {
        let with = |names: &[&str]| RecoverRecords {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            ..RecoverRecords::default()
        };
        assert_eq!(house.recover(with(&[])).await[0].code, "nameless");
        assert_eq!(house.recover(with(&["db", "a\0b"])).await[0].code, "nameless");
        assert_eq!(house.recover(with(&["db", long])).await[0].code, "recovered");
        house.remove(long).await.unwrap();
        assert_eq!(house.backend.lock().unwrap().tokens(), [], "its token was another one");
    });
}

#[test]
fn a_volume_that_was_asked_for_again_before_the_recovery_is_found_with_its_data() {
    let mut town = Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        house.host.write(id, "rows").unwrap();
        house.give("db", "one").await;
    });
    town.lose_records();
    town.live(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "two").await.unwrap();
        assert_eq!(house.host.read(id).unwrap(), "FS:rows", "what was there was formatted");
        house.give("db", "two").await;
        assert_eq!(house.recover_all().await, []);
        assert_eq!(house.examine(false).await, []);
    });
}

#[test]
fn what_is_not_blank_is_refused_at_every_try() {
    hall(|house| async move {
        let volume = house.make("db").await.volume;
        let handle = volume.handle.unwrap();
        house.backend.lock().unwrap().bytes(handle.as_str()).unwrap().extend_from_slice(b"FS:");
        for holder in ["one", "two"] {
            // A filesystem that nobody has written to: what a make that was cut off may leave, and this is none.
            let error = house.take("db", holder).await.unwrap_err();
            assert!(error.message.contains("not blank"), "{error}");
            assert_eq!(house.see("db").await.volume.filesystem.state, FsState::Blank);
        }
    });
}

#[test]
fn a_name_that_somebody_else_has_by_now_is_left_to_a_person() {
    let town = Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let volume = house.make("db").await.volume;
        let backend = house.hall.catalog().backend(&BackendName::parse("fake").unwrap()).unwrap();
        // Another attempt at the same name, of which only the backend knows.
        let mark = Mark { generation: 7, id: VolumeId(7), ..Mark::of(&volume, house.hall.cluster()) };
        let create = Create {
            token: Token::derive(house.hall.cluster(), "volume", "db", 7),
            mark: mark.encode(),
            name: "db".into(),
            size: CapacityRange::ANY,
            parameters: Default::default(),
            source: None,
            topology: Vec::new(),
            resume: None,
        };
        backend.create(create).await.unwrap();
        assert_eq!(told(&house.recover_all().await), [("orphan", "volume db")]);
        assert_eq!(house.see("db").await.volume.generation, 0);
        house.remove("db").await.unwrap();
        assert_eq!(told(&house.recover_all().await), [("recovered", "volume db")]);
        assert_eq!(house.see("db").await.volume.generation, 7);
    });
}

#[test]
fn a_recovery_that_is_cut_anywhere_is_repeated_and_loses_nothing() {
    for cut in 0.. {
        let mut town = Town::new(Nature::PLAIN);
        town.live(|house| async move {
            for volume in ["db", "files"] {
                let id = house.make(volume).await.volume.id;
                house.take(volume, "one").await.unwrap();
                house.host.write(id, "rows").unwrap();
            }
            house.cut("snap", "db").await.unwrap();
        });
        town.lose_records();
        let was_cut = town.cut_short(cut, |house| async move {
            house.recover_all().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        town.crash(kato_store::LazyFate::Dropped);
        town.live(|house| async move {
            house.recover_all().await;
            assert_eq!(house.names().await, ["db", "files"], "cut at {cut}");
            assert_eq!(house.snapshot_names().await, ["snap"], "cut at {cut}");
            for volume in ["db", "files"] {
                assert_eq!(house.remove(volume).await.unwrap_err().kind, Kind::InUse, "cut at {cut}");
            }
        });
        town.converges(&format!("a recovery cut at {cut}"));
        if !was_cut {
            assert!(cut > 10, "a recovery has more than {cut} instants");
            return;
        }
    }
}

#[test]
fn what_stands_without_a_record_is_taken_down_by_the_doctor_when_nobody_else_has_it() {
    let town = &Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let volume = house.make("db").await.volume;
        house.take("db", "one").await.unwrap();
        house.give("db", "one").await;
        let wish = MountWish {
            volume: volume.id,
            name: "db".into(),
            connection: volume.connection.clone().unwrap(),
            options: Vec::new(),
            read_only: false,
            root: volume.filesystem.root.clone(),
            size: volume.actual.unwrap_or_default(),
        };
        house.host.mount(&wish).await.unwrap();
        town.machine().lock().unwrap().show_elsewhere(volume.id, vec!["9 (postgres)".into()]);
        let found = house.examine(true).await;
        assert_eq!(found.iter().map(|one| one.code).collect::<Vec<_>>(), ["stale-mount", "stale-device"]);
        assert!(found.iter().all(|one| !one.fixed && !one.fixable), "{found:#?}");
        assert!(found[0].message.contains("postgres"), "{found:#?}");
        town.machine().lock().unwrap().show_elsewhere(volume.id, Vec::new());
        assert!(house.examine(false).await.iter().all(|one| !one.fixed && one.fixable));
        assert!(house.examine(true).await.iter().all(|one| one.fixed));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(town.machine().lock().unwrap().mounts(), []);
        assert_eq!(house.examine(false).await, []);
    });
}

#[test]
fn a_mount_that_the_machine_lost_is_made_again_by_the_doctor() {
    let town = &Town::new(Nature::PLAIN);
    town.live(|house| async move {
        let id = house.make("db").await.volume.id;
        house.take("db", "one").await.unwrap();
        town.machine().lock().unwrap().yank(id);
        assert_eq!(house.examine(false).await[0].code, "missing-mount");
        assert!(house.examine(true).await[0].fixed);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(town.machine().lock().unwrap().mounts(), [id]);
        assert_eq!(house.examine(false).await, []);
    });
}

#[test]
fn a_lost_snapshot_is_told_and_a_volume_that_came_back_is_used_again() {
    hall(|house| async move {
        let volume = house.make("db").await.volume;
        house.take("db", "first").await.unwrap();
        house.give("db", "first").await;
        house.cut("snap", "db").await.unwrap();
        let snapshot = house.hall.inspect_snapshot(&SnapshotName::parse("snap").unwrap()).await.unwrap();
        house.backend.lock().unwrap().lose(&snapshot.token(house.hall.cluster()));
        assert_eq!(told(&house.examine(true).await), [("lost", "snapshot snap")]);

        let token = volume.token(house.hall.cluster());
        house.backend.lock().unwrap().lose(&token);
        assert!(house.take("db", "one").await.is_err());
        assert_eq!(house.see("db").await.volume.state, VolumeState::Lost);
        let backend = house.hall.catalog().backend(&volume.backend).unwrap();
        let create = Create {
            token,
            mark: Mark::of(&volume, house.hall.cluster()).encode(),
            name: "db".into(),
            size: volume.wanted.size,
            parameters: Default::default(),
            source: None,
            topology: Vec::new(),
            resume: None,
        };
        let made = backend.create(create).await.unwrap();
        let Effect::Done(made) = made else { panic!("{made:?}") };
        // With the filesystem that it had.
        house.backend.lock().unwrap().bytes(made.handle.as_str()).unwrap().extend_from_slice(b"FS:");
        let found = house.examine(true).await;
        assert!(found.iter().any(|one| one.code == "found-again" && one.fixed), "{found:#?}");
        house.take("db", "one").await.unwrap();
    });
}

#[test]
fn what_a_class_retains_is_told_apart_from_what_was_lost_and_can_be_taken_back() {
    hall(|house| async move {
        let mut catalog = (*house.hall.catalog()).clone();
        for class in catalog.classes.values_mut() {
            *class = Arc::new(Class { retain: true, ..(**class).clone() });
        }
        house.hall.set_catalog(catalog);
        house.make("db").await;
        house.remove("db").await.unwrap();
        let found = house.examine(true).await;
        assert_eq!((found.len(), found[0].code), (1, "retained"), "{found:#?}");
        assert_eq!(told(&house.recover_all().await), [("recovered", "volume db")]);
    });
}

#[test]
fn a_volume_of_the_same_name_under_another_driver_is_told() {
    hall(|house| async move {
        house.make("db").await;
        let neighbour =
            |name: &str| Neighbour { name: VolumeName::parse(name).unwrap(), driver: "local".into() };
        let neighbours = vec![neighbour("db"), neighbour("other")];
        let found = house.hall.doctor(&ExamineHouse { fix: true, neighbours }).await.unwrap();
        assert_eq!(told(&found), [("same-name", "volume db")]);
        assert!(found[0].message.contains("\"local\""), "{found:#?}");
    });
}

#[test]
fn the_numbers_follow_every_change_and_count_by_states() {
    hall(|house| async move {
        let mut numbers = house.hall.gauges().await.unwrap();
        assert_eq!(numbers.volumes, [("creating", 0), ("ready", 0), ("deleting", 0), ("lost", 0)]);
        for number in 0..3 {
            house.make(&format!("v{number}")).await;
        }
        let token = house.see("v0").await.volume.token(house.hall.cluster());
        house.take("v1", "one").await.unwrap();
        house.cut("snap", "v1").await.unwrap();
        house.backend.lock().unwrap().lose(&token);
        assert!(house.take("v0", "one").await.is_err());
        numbers = house.hall.gauges().await.unwrap();
        assert_eq!(numbers.volumes, [("creating", 0), ("ready", 2), ("deleting", 0), ("lost", 1)]);
        assert_eq!(numbers.snapshots[2], ("ready", 1));
        assert_eq!(numbers.mounts[1], ("mounted", 1));
        house.give("v1", "one").await;
        house.remove("v2").await.unwrap();
        // More than the store remembers: everything is counted anew.
        for number in 0..3_000 {
            house.make(&format!("more {number}")).await;
        }
        numbers = house.hall.gauges().await.unwrap();
        assert_eq!(numbers.volumes[1], ("ready", 3_001));
        assert_eq!(numbers.mounts[1], ("mounted", 0));
        assert_eq!(numbers.volumes.iter().map(|(_, count)| count).sum::<u64>(), 3_002);
    });
}

/// What is said of what stands here.
fn of_what_stands(findings: &[Finding]) -> Vec<&Finding> {
    let stands: Vec<_> = findings.iter().filter(|one| one.code.starts_with("stale")).collect();
    assert_eq!(stands.iter().map(|one| one.code).collect::<Vec<_>>(), ["stale-mount", "stale-device"]);
    stands
}

#[test]
fn what_neither_a_record_nor_a_backend_knows_is_taken_down_by_the_doctor_when_nobody_has_it() {
    let town = &bereft();
    town.live(|house| async move {
        let id = town.machine().lock().unwrap().mounts()[0];
        let stands = || {
            let machine = town.machine().lock().unwrap();
            (machine.mounts(), machine.connected())
        };
        let left_alone = async |why: &str| {
            let found = house.examine(true).await;
            for one in of_what_stands(&found) {
                assert!(!one.fixable && !one.fixed && one.message.contains(why), "{why}: {one:?}");
            }
            assert_eq!(stands(), (vec![id], vec![id]), "{why}");
        };
        left_alone("recover --scan").await;
        let token = house.backend.lock().unwrap().tokens().remove(0);
        house.backend.lock().unwrap().lose(&token);
        town.machine().lock().unwrap().show_elsewhere(id, vec!["9 (postgres)".into()]);
        left_alone("postgres").await;
        town.machine().lock().unwrap().show_elsewhere(id, Vec::new());
        house.backend.lock().unwrap().become_another("a stranger");
        left_alone("cannot be asked").await;
        house.backend.lock().unwrap().become_another("");

        let found = house.examine(false).await;
        assert!(of_what_stands(&found).iter().all(|one| one.fixable && !one.fixed), "{found:#?}");
        assert_eq!(stands(), (vec![id], vec![id]), "nothing was asked for");
        let found = house.examine(true).await;
        assert!(of_what_stands(&found).iter().all(|one| one.fixed), "{found:#?}");
        assert_eq!(stands(), (Vec::new(), Vec::new()));
        assert_eq!(house.examine(false).await, []);
    });
}
