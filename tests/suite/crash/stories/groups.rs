//! Groups of snapshots against stops. Two volumes belong together: their container writes to the first, and only then to
//! the second. So of two snapshots of one moment the first holds as much as the second, or one write more; anything
//! else, after whatever stop, is a group of two moments.

use std::{collections::BTreeMap, time::Duration};

use kato_orchestrator::{
    Error, SnapshotMark,
    model::{BackendName, GroupId, GroupName, GroupRef, Snapshot},
    ops::{CreateGroup, DeleteGroup},
    ports::backend::Cutting,
    testing::{BackendWorld, Fault, Verb},
};

use super::stories;
use crate::crash::town::{Nature, Teller, name};

const BOUND: Nature = Nature { bound: true, ..Nature::PLAIN };
const COPIES: Nature = Nature { cutting: Cutting::Copy, ..BOUND };

/// Whether every group that is there is whole, and of one moment.
pub(in crate::crash) fn judge(backend: &BackendWorld, snapshots: &[Snapshot], what: &str) {
    let mut found: BTreeMap<GroupId, BTreeMap<u8, Vec<u8>>> = BTreeMap::new();
    for (mark, bytes) in backend.snapshots() {
        let Some(place) = SnapshotMark::decode(&mark).unwrap().group else { continue };
        let group = found.entry(place.group).or_default();
        group.insert(place.index, bytes);
        let recorded =
            snapshots.iter().filter(|one| one.group.as_ref().is_some_and(|of| of.group == place.group));
        assert_eq!(recorded.count(), usize::from(place.of), "{what}: a group is there in part");
    }
    let count = |bytes: &[u8], mark: u8| bytes.iter().filter(|byte| **byte == mark).count();
    for members in found.values() {
        let [first, second] =
            [members.get(&0), members.get(&1)].map(|bytes| bytes.map_or(&[][..], Vec::as_slice));
        assert!(
            count(first, b'~') == count(second, b'~')
                && (0..=1).contains(&count(first, b'#').wrapping_sub(count(second, b'#'))),
            "{what}: a group of two moments: {:?} and {:?}",
            String::from_utf8_lossy(first),
            String::from_utf8_lossy(second)
        );
    }
}

/// Ends the life of every group.
pub(in crate::crash) async fn end_all(teller: &Teller) {
    for snapshot in teller.hall.list_snapshots(None, 1_000).await.unwrap().items {
        if let Some(place) = snapshot.group {
            let wish = DeleteGroup {
                group: GroupRef::Id(snapshot.backend, place.group),
                members: Default::default(),
            };
            drop(teller.hall.delete_group(&teller.context(), wish).await);
        }
    }
}

impl Teller {
    async fn two_volumes(&self) {
        for volume in ["data", "log"] {
            self.create(volume).await;
            self.mount(volume, "container").await;
        }
    }

    async fn group(&self, group: &str) -> Option<GroupId> {
        let wish = CreateGroup {
            name: GroupName::parse(group).unwrap(),
            volumes: vec![name("log").into(), name("data").into()],
            parameters: Default::default(),
            labels: Default::default(),
        };
        let view = self.hall.create_group(&self.context(), wish).await.ok()?.into_inner();
        assert_eq!(view.snapshots.len(), 2);
        self.note(|said| {
            said.snapshots.extend(view.snapshots.iter().map(|one| one.name.as_str().to_owned()))
        });
        Some(view.id)
    }

    async fn delete_group(&self, group: GroupId) {
        self.note(|said| said.snapshots.clear());
        let wish = DeleteGroup {
            group: GroupRef::Id(BackendName::parse("fake").unwrap(), group),
            members: Default::default(),
        };
        drop(self.hall.delete_group(&self.context(), wish).await);
    }

    /// The container writes while something is done.
    async fn while_it_writes<T>(&self, work: impl Future<Output = T>) -> T {
        let writer = async {
            loop {
                self.write_in_order().await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        tokio::select! {
            done = work => done,
            () = writer => unreachable!("it writes for ever"),
        }
    }

    /// Which of two volumes is the first is told by their ids, as it is in a group.
    async fn write_in_order(&self) {
        let mut ids = Vec::new();
        for volume in ["data", "log"] {
            let Ok(view) = self.hall.inspect(&name(volume)).await else { return };
            ids.push(view.volume.id);
        }
        ids.sort();
        for id in ids {
            while !self.fuse.is_blown() {
                match self.host.write(id, "#") {
                    Err(error) if error.kind == kato_orchestrator::Kind::Busy => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    // Before the mount and after the last holder nobody writes.
                    _ => break,
                }
            }
        }
    }
}

stories! {
    group_of_instants(BOUND) => |teller| {
        teller.two_volumes().await;
        teller.fault(Verb::Cut, Fault::Pending(2));
        teller.fault(Verb::Cut, Fault::Pending(3));
        teller.while_it_writes(teller.group("nightly")).await;
        let group = teller.while_it_writes(teller.group("nightly")).await;
        if let Some(group) = group {
            teller.fault(Verb::DeleteSnapshot, Fault::Pending(2));
            teller.delete_group(group).await;
        }
    }

    group_by_copies(COPIES) => |teller| {
        teller.two_volumes().await;
        teller.fault(Verb::Cut, Fault::Pending(2));
        teller.while_it_writes(teller.group("nightly")).await;
    }

    group_slower_than_a_freeze(BOUND) => |teller| {
        teller.two_volumes().await;
        teller.fault(Verb::Cut, Fault::Pending(2));
        teller.fault(Verb::Cut, Fault::Pending(9));
        teller.while_it_writes(teller.group("nightly")).await;
    }

    group_that_is_refused_half_way(BOUND) => |teller| {
        teller.two_volumes().await;
        teller.fault(Verb::Cut, Fault::Pending(1));
        teller.fault(Verb::Cut, Fault::Refuse(Error::exhausted("the backend is full")));
        teller.while_it_writes(teller.group("nightly")).await;
        teller.while_it_writes(teller.group("nightly")).await;
    }

    group_whose_cut_comes_late(BOUND) => |teller| {
        teller.two_volumes().await;
        teller.fault(Verb::Cut, Fault::Late(Duration::from_secs(20)));
        teller.fault(Verb::Cut, Fault::Refuse(Error::exhausted("the backend is full")));
        teller.while_it_writes(teller.group("nightly")).await;
        teller.while_it_writes(teller.group("nightly")).await;
    }

    delete_against_a_group(BOUND) => |teller| {
        teller.two_volumes().await;
        for volume in ["data", "log"] {
            teller.unmount(volume, "container").await;
        }
        teller.fault(Verb::Cut, Fault::Pending(2));
        tokio::join!(teller.group("nightly"), teller.delete("data"));
    }
}
