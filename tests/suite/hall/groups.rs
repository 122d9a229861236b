//! Groups of snapshots: found again by their name, by their id, and by nothing but what their backend keeps. That they are
//! of one moment, and whole or not there, whatever stops is `crash/groups.rs`.

use std::{collections::BTreeSet, sync::Arc};

use kato_orchestrator::{
    Error, Kind, Outcome,
    model::{BackendName, GroupName, GroupRef, Snapshot},
    ops::{CreateGroup, DeleteGroup, DeleteSnapshot, DeleteVolume, GroupView},
    ports::backend::Cutting,
    testing::{Fault, Verb},
};

use kato_store::LazyFate;

use crate::crash::town::{Nature, Teller, Town, name};

const BOUND: Nature = Nature { bound: true, ..Nature::PLAIN };

fn id(view: &GroupView) -> GroupRef {
    GroupRef::Id(backend(), view.id)
}

fn backend() -> BackendName {
    BackendName::parse("fake").unwrap()
}

impl Teller {
    async fn three(&self) {
        for volume in ["a", "b", "c"] {
            self.make(volume).await;
            self.take(volume, "one").await.unwrap();
        }
    }

    async fn together(&self, group: &str, volumes: &[&str]) -> Result<Outcome<GroupView>, Error> {
        let wish = CreateGroup {
            name: GroupName::parse(group).unwrap(),
            volumes: volumes.iter().map(|volume| name(volume).into()).collect(),
            parameters: Default::default(),
            labels: Default::default(),
        };
        self.hall.create_group(&self.context(), wish).await
    }

    async fn part(
        &self,
        view: &GroupView,
        members: BTreeSet<kato_orchestrator::model::Handle>,
    ) -> Result<Outcome<()>, Error> {
        let wish = DeleteGroup { group: id(view), members };
        self.hall.delete_group(&self.context(), wish).await
    }

    async fn all(&self) -> Vec<Snapshot> {
        self.hall.list_snapshots(None, 100).await.unwrap().items
    }
}

fn house<F: Future<Output = ()>>(life: impl FnOnce(Arc<Teller>) -> F) {
    Town::new(BOUND).live(life);
}

#[test]
fn a_group_is_cut_once_and_another_wish_under_its_name_is_refused() {
    house(|house| async move {
        house.three().await;
        let Outcome::Changed(view) = house.together("nightly", &["b", "a"]).await.unwrap() else { panic!() };
        assert_eq!(view.snapshots.len(), 2);
        assert!(
            matches!(house.together("nightly", &["a", "b"]).await.unwrap(), Outcome::Unchanged(again) if again == view)
        );
        for others in [&["a", "b", "c"][..], &["a", "c"], &["a"]] {
            assert_eq!(house.together("nightly", others).await.unwrap_err().kind, Kind::AlreadyExists);
        }
        assert_eq!(house.hall.find_group(&id(&view)).await.unwrap(), view);
        assert_eq!(house.all().await.len(), 2);
    });
}

#[test]
fn what_cannot_be_cut_together_is_refused_and_leaves_nothing() {
    house(|house| async move {
        house.three().await;
        assert_eq!(house.together("g", &[]).await.unwrap_err().kind, Kind::InvalidArgument);
        assert_eq!(house.together("g", &["a", "a"]).await.unwrap_err().kind, Kind::InvalidArgument);
        assert_eq!(house.together("g", &["a", "nobody"]).await.unwrap_err().kind, Kind::NotFound);
        house.make("blank").await;
        let blank = house.together("g", &["a", "blank"]).await.unwrap_err();
        assert_eq!(blank.kind, Kind::Precondition);
        assert!(blank.subject.contains("blank"), "{blank}");
        house.fault(Verb::Cut, Fault::Pending(1));
        house.fault(Verb::Cut, Fault::Refuse(Error::exhausted("the backend is full")));
        let full = house.together("g", &["a", "b"]).await.unwrap_err();
        assert_eq!(full.kind, Kind::Exhausted);
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        assert!(house.all().await.is_empty());
        assert_eq!(house.backend.lock().unwrap().tokens().len(), 4, "four volumes and nothing else");
        assert_eq!(house.together("g", &["a", "b"]).await.unwrap().into_inner().snapshots.len(), 2);
    });
    Town::new(Nature::PLAIN).live(|house| async move {
        house.three().await;
        let refused = house.together("g", &["a", "b"]).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Unsupported);
        assert!(refused.message.contains("fake"), "{refused}");
    });
}

#[test]
fn a_member_goes_with_its_group_and_a_group_with_all_its_members() {
    house(|house| async move {
        house.three().await;
        let view = house.together("nightly", &["a", "b"]).await.unwrap().into_inner();
        let member = view.snapshots[0].name.clone();
        let alone = DeleteSnapshot { snapshot: member.into() };
        let refused = house.hall.delete_snapshot(&house.context(), alone).await.unwrap_err();
        assert_eq!(refused.kind, Kind::InvalidArgument);
        assert!(refused.message.contains("kato group rm"), "{refused}");
        let handles: Vec<_> = view.snapshots.iter().filter_map(|one| one.handle.clone()).collect();
        let some = house.part(&view, BTreeSet::from([handles[0].clone()])).await.unwrap_err();
        assert_eq!(some.kind, Kind::InvalidArgument);
        // Its volumes may go before it.
        house.give("a", "one").await;
        house
            .hall
            .delete(&house.context(), DeleteVolume { volume: name("a").into(), forget: false })
            .await
            .unwrap();
        assert!(matches!(
            house.part(&view, handles.into_iter().collect()).await.unwrap(),
            Outcome::Changed(())
        ));
        assert!(matches!(house.part(&view, BTreeSet::new()).await.unwrap(), Outcome::Unchanged(())));
        assert!(house.all().await.is_empty());
        assert_eq!(house.hall.find_group(&id(&view)).await.unwrap_err().kind, Kind::NotFound);
    });
}

#[test]
fn a_group_whose_delete_was_refused_is_kept_whole() {
    house(|house| async move {
        house.three().await;
        let view = house.together("nightly", &["a", "b"]).await.unwrap().into_inner();
        house.fault(Verb::DeleteSnapshot, Fault::Refuse(Error::in_use("a clone needs it")));
        assert_eq!(house.part(&view, BTreeSet::new()).await.unwrap_err().kind, Kind::InUse);
        tokio::time::sleep(std::time::Duration::from_secs(600)).await;
        assert_eq!(house.hall.find_group(&id(&view)).await.unwrap(), view);
        house.part(&view, BTreeSet::new()).await.unwrap();
        assert!(house.all().await.is_empty());
    });
}

#[test]
fn a_house_that_has_lost_its_records_finds_its_groups_by_name_and_by_id() {
    let mut town = Town::new(BOUND);
    let told = Arc::new(std::sync::Mutex::new(None));
    let tell = Arc::clone(&told);
    town.live(|house| async move {
        house.three().await;
        *tell.lock().unwrap() = Some(house.together("nightly", &["a", "b"]).await.unwrap().into_inner());
        for volume in ["a", "b", "c"] {
            house.give(volume, "one").await;
        }
    });
    let view: GroupView = told.lock().unwrap().clone().unwrap();
    let ids =
        |view: &GroupView| view.snapshots.iter().map(|one| (one.id, one.handle.clone())).collect::<Vec<_>>();
    for lost in ["by id", "by name", "another wish"] {
        town.lose_records();
        let view = &view;
        town.live(|house| async move {
            let handle = |volume: usize| view.snapshots[volume].volume_handle.clone().unwrap();
            let volumes = |count: usize| {
                (0..count)
                    .map(|number| kato_orchestrator::model::VolumeRef::Handle(backend(), handle(number)))
                    .collect::<Vec<_>>()
            };
            let wish = |count| CreateGroup {
                name: GroupName::parse("nightly").unwrap(),
                volumes: volumes(count),
                parameters: Default::default(),
                labels: Default::default(),
            };
            match lost {
                "by id" => {
                    let found = house.hall.find_group(&id(&view)).await.unwrap();
                    assert_eq!(ids(&found), ids(view));
                }
                "by name" => {
                    let found = house.hall.create_group(&house.context(), wish(2)).await.unwrap();
                    assert!(
                        matches!(&found, Outcome::Unchanged(found) if ids(found) == ids(view)),
                        "{found:?}"
                    );
                }
                _ => {
                    let refused = house.hall.create_group(&house.context(), wish(1)).await.unwrap_err();
                    assert_eq!(refused.kind, Kind::AlreadyExists);
                }
            }
        });
    }
    town.lose_records();
    town.live(|house| async move {
        house.part(&view, BTreeSet::new()).await.unwrap();
        assert!(house.backend.lock().unwrap().snapshots().is_empty());
    });
}

#[test]
fn what_an_attempt_left_that_nobody_remembers_is_thrown_away_and_what_was_whole_once_is_not() {
    let mut town = (0..500)
        .map(|cut| {
            let mut town = Town::new(BOUND);
            town.cut_short(cut, |house| async move {
                house.three().await;
                house.together("nightly", &["a", "b"]).await.unwrap();
            });
            town.crash(LazyFate::Kept);
            town
        })
        .find(|town| town.backend().lock().unwrap().snapshots().len() == 1)
        .expect("there is a moment between the two");
    town.lose_records();
    town.machine().lock().unwrap().reboot();
    town.live(|house| async move {
        let handles: Vec<_> = house.hall.list(None, 10).await.unwrap().items;
        assert!(handles.is_empty());
        house.hall.recover(&Default::default(), &|_| {}).await.unwrap();
        let view = house.together("nightly", &["a", "b"]).await.unwrap().into_inner();
        assert_eq!(house.backend.lock().unwrap().snapshots().len(), 2);
        // Somebody takes the first away at the backend: what was whole once is not cut anew under the same name.
        house.backend.lock().unwrap().lose_snapshot(view.snapshots[0].handle.as_ref().unwrap().as_str());
    });
    town.lose_records();
    town.live(|house| async move {
        house.hall.recover(&Default::default(), &|_| {}).await.unwrap();
        let refused = house.together("nightly", &["a", "b"]).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Precondition, "{refused}");
        assert_eq!(house.backend.lock().unwrap().snapshots().len(), 1);
    });
}

#[test]
fn a_group_that_a_freeze_is_too_short_for_is_refused_and_thrown_away() {
    Town::new(Nature { cutting: Cutting::Copy, ..BOUND }).live(|house| async move {
        house.three().await;
        house.fault(Verb::Cut, Fault::Pending(9));
        house.fault(Verb::Cut, Fault::Pending(9));
        let refused = house.together("nightly", &["a", "b"]).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Precondition, "{refused}");
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        assert!(house.backend.lock().unwrap().snapshots().is_empty());
    });
}
