//! What a teller can do to the hall. It notes what was answered, because that is what has to hold.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{
    Error, Kind, Outcome,
    model::{Bytes, Caller, CapacityRange, ClassName, Keeping, NodeId, SnapshotName, Target},
    ops::{
        Access, AttachVolume, AttachedVolume, CopyVolume, CreateSnapshot, CreateVolume, DeleteSnapshot,
        DeleteVolume, DetachVolume, GrowVolume, ModifyVolume, MountVolume, NodeAddress, Reach, RepairVolume,
        SourceName, UnmountVolume,
    },
    testing::{Fault, Verb},
};

use super::town::{Teller, holder, name};

pub(crate) fn machine(node: &str) -> NodeAddress {
    NodeAddress { id: NodeId::parse(node).unwrap(), names: Default::default() }
}

impl Teller {
    pub(super) async fn modify(&self, volume: &str, tier: &str) {
        let parameters = [("tier".to_owned(), tier.to_owned())].into();
        drop(
            self.hall.modify(&self.context(), ModifyVolume { volume: name(volume).into(), parameters }).await,
        );
    }

    /// Cuts the volume's mount off from its bytes, and lets the house see it.
    pub(super) async fn cut_off(&self, volume: &str) {
        if let Ok(view) = self.hall.inspect(&name(volume)).await
            && !self.fuse.is_blown()
        {
            self.machine.lock().unwrap().cut_off(view.volume.id, "the fake device is gone");
        }
        self.hall.watch().await.unwrap();
    }

    pub(super) async fn repair(&self, volume: &str, force: bool) {
        if force {
            self.may_lose(volume).await;
        }
        drop(self.hall.repair(&self.context(), RepairVolume { name: name(volume), force }).await);
    }

    pub(crate) fn fault(&self, verb: Verb, fault: Fault) {
        self.backend.lock().unwrap().fault(verb, fault);
    }

    /// The same of the other backend.
    pub(crate) fn fault_far(&self, verb: Verb, fault: Fault) {
        self.far.lock().unwrap().fault(verb, fault);
    }

    /// Does something while a container writes twice a second.
    pub(super) async fn while_written(&self, volume: &str, work: impl Future<Output = ()>) {
        let writer = async {
            loop {
                self.write(volume, ".");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = writer => {}
        }
    }

    pub(super) async fn create(&self, volume: &str) {
        self.note(|said| {
            said.deleted.remove(volume);
        });
        if self.hall.create(&self.context(), CreateVolume::named(name(volume))).await.is_ok() {
            self.created(volume);
        }
    }

    pub(super) async fn create_from(&self, volume: &str, source: SourceName) {
        let wish = CreateVolume { source: Some(source), ..CreateVolume::named(name(volume)) };
        if self.hall.create(&self.context(), wish).await.is_ok() {
            self.created(volume);
        }
    }

    /// Copies a volume to the other backend, and holds the copy to what was in it.
    pub(super) async fn copy(&self, volume: &str, to: &str, keep: bool) {
        let text = self.said.lock().unwrap().written.get(volume).cloned();
        let wish = CopyVolume {
            source: name(volume).into(),
            name: name(to),
            class: ClassName::parse("far").unwrap(),
            size: CapacityRange::ANY,
            parameters: Default::default(),
            labels: Default::default(),
            keep,
        };
        if self.hall.copy(&self.context(), wish).await.is_ok() {
            self.created(to);
            self.note(|said| said.written.extend(text.map(|text| (to.to_owned(), text))));
        }
    }

    /// Mounts a volume for the first time, which makes its filesystem.
    pub(super) async fn use_once(&self, volume: &str) {
        self.mount(volume, "first").await;
        self.unmount(volume, "first").await;
    }

    /// Fails a story that did not do what it is to tell of.
    pub(super) fn has_made(&self, volume: &str) {
        let made = self.said.lock().unwrap().volumes.contains(volume);
        assert!(made || self.fuse.is_blown(), "{volume} was not made");
    }

    pub(super) fn created(&self, volume: &str) {
        self.note(|said| {
            said.volumes.insert(volume.into());
        });
    }

    pub(super) async fn delete(&self, volume: &str) {
        // From the moment of asking nothing is promised any more.
        self.note(|said| {
            said.volumes.remove(volume);
        });
        let there = self.hall.inspect(&name(volume)).await.is_ok();
        match self
            .hall
            .delete(&self.context(), DeleteVolume { volume: name(volume).into(), forget: false })
            .await
        {
            Ok(_) => self.note(|said| {
                said.volumes.remove(volume);
                said.deleted.insert(volume.into());
                said.written.remove(volume);
            }),
            Err(_) if there => {}
            Err(error) => panic!("deleting what is not there: {error}"),
        }
    }

    pub(super) async fn mount(&self, volume: &str, by: &str) {
        self.mount_to(volume, by, Target::Shared).await;
    }

    pub(super) async fn mount_at(&self, volume: &str, by: &str, path: &str) {
        self.mount_to(volume, by, Target::Path(path.into())).await;
    }

    pub(super) async fn mount_to(&self, volume: &str, by: &str, target: Target) {
        let wish = MountVolume {
            volume: name(volume).into(),
            access: Access::default(),
            holder: holder(by),
            counts: true,
            caller: Some(Caller { pid: 7, started: 7 }),
            target,
            read_only: false,
            implicit: None,
        };
        if self.hall.mount(&self.context(), wish).await.is_ok() {
            self.note(|said| {
                said.released.remove(&(volume.into(), by.into()));
                said.holders.insert((volume.into(), by.into()));
            });
            self.show_containers(volume).await;
        }
    }

    /// Lets this node reach a volume, as a controller does.
    pub(super) async fn attach(&self, volume: &str) {
        drop(self.let_in(volume, "here").await);
    }

    /// Lets another machine reach a volume, which then uses it whatever happens to it.
    pub(super) async fn attach_to(&self, volume: &str, node: &str) {
        if let Ok(attached) = self.let_in(volume, node).await
            && !self.fuse.is_blown()
            && let Some(handle) = attached.into_inner().volume.handle
        {
            self.backend.lock().unwrap().go_on(&handle, node);
        }
    }

    async fn let_in(&self, volume: &str, node: &str) -> Result<Outcome<AttachedVolume>, Error> {
        let wish =
            AttachVolume { volume: name(volume).into(), node: machine(node), read_only: false, many: false };
        self.hall.attach(&self.context(), wish).await
    }

    pub(super) async fn detach(&self, volume: &str) {
        self.detach_from(volume, "here").await;
    }

    pub(super) async fn detach_from(&self, volume: &str, node: &str) {
        let wish = DetachVolume { volume: name(volume).into(), node: Some(machine(node)) };
        drop(self.hall.detach(&self.context(), wish).await);
    }

    /// Stops a machine.
    pub(super) fn stop(&self, node: &str) {
        if !self.fuse.is_blown() {
            self.backend.lock().unwrap().stop(node);
        }
    }

    /// The other daemon takes a volume from this node, as of one that does not answer; then this one is back.
    pub(super) async fn taken_by_the_neighbour(&self, volume: &str) {
        self.may_lose(volume).await;
        let wish = DetachVolume { volume: name(volume).into(), node: Some(machine("here")) };
        drop(self.there.as_ref().unwrap().detach(&self.context(), wish).await);
        self.hall.tidy().await.unwrap();
    }

    /// Whoever holds a volume may lose it from now on.
    async fn may_lose(&self, volume: &str) {
        self.note(|said| {
            let held = said.holders.iter().filter(|(of, _)| of == volume).cloned().collect::<Vec<_>>();
            said.released.extend(held);
        });
        self.show_containers(volume).await;
    }

    /// Takes a volume at a path, as a caller of the CSI door does.
    pub(super) async fn mount_as(&self, volume: &str, path: &str, access: Access) {
        self.hold(volume, path, access, None).await;
    }

    /// Takes a volume that is made for this path alone.
    pub(super) async fn bring_about(&self, volume: &str, path: &str) {
        let create = CreateVolume { keeping: Keeping::Ephemeral, ..CreateVolume::named(name(volume)) };
        self.hold(volume, path, Access::default(), Some(Box::new(create))).await;
    }

    pub(super) async fn hold(
        &self,
        volume: &str,
        path: &str,
        access: Access,
        implicit: Option<Box<CreateVolume>>,
    ) {
        let wish = MountVolume {
            volume: name(volume).into(),
            access,
            holder: holder(path),
            counts: false,
            caller: None,
            target: Target::Path(path.into()),
            read_only: false,
            implicit,
        };
        if self.hall.mount(&self.context(), wish).await.is_ok() {
            self.note(|said| {
                said.volumes.insert(volume.into());
                said.released.remove(&(volume.into(), path.into()));
                said.holders.insert((volume.into(), path.into()));
            });
            self.show_containers(volume).await;
        }
    }

    /// Who was told that it holds a volume starts a container with it; who asked to leave has ended it before.
    pub(super) async fn show_containers(&self, volume: &str) {
        let Ok(view) = self.hall.inspect(&name(volume)).await else { return };
        let said = self.said.lock().unwrap();
        let here = said.holders.difference(&said.released).filter(|(of, _)| of == volume);
        self.host.show_elsewhere(view.volume.id, here.map(|(_, by)| by.clone()).collect());
    }

    pub(super) async fn unmount(&self, volume: &str, by: &str) {
        let key = (volume.to_owned(), by.to_owned());
        // Once it asked to leave, the holder may be gone at any time, or not: it is owed nothing but an answer.
        self.note(|said| {
            said.released.insert(key.clone());
        });
        self.show_containers(volume).await;
        let wish = UnmountVolume { volume: name(volume).into(), holder: holder(by), all: false };
        self.hall.unmount(&self.context(), wish).await.unwrap();
        if let Ok(view) = self.hall.inspect(&name(volume)).await
            && view.publications.iter().any(|one| one.holder.as_str() == by)
        {
            self.note(|said| {
                said.released.remove(&key);
            });
            self.show_containers(volume).await;
        }
    }

    pub(super) fn write(&self, volume: &str, text: &str) {
        let said = Arc::clone(&self.said);
        let held = said.lock().unwrap().holders.iter().any(|(of, _)| of == volume);
        if !held || self.fuse.is_blown() {
            return;
        }
        let ids = futures_util::FutureExt::now_or_never(self.hall.inspect(&name(volume)));
        let Some(Ok(view)) = ids else { return };
        if view.publications.is_empty() {
            return;
        }
        match self.host.write(view.volume.id, text) {
            // It is frozen: the container would wait.
            Err(error) if error.kind == Kind::Busy => return,
            written => written.unwrap(),
        }
        self.note(|said| {
            said.written.entry(volume.into()).or_default().push_str(text);
        });
    }

    pub(super) async fn grow(&self, volume: &str, gib: u64) {
        let size = CapacityRange::at_least(Bytes(gib << 30));
        drop(
            self.hall
                .grow(
                    &self.context(),
                    GrowVolume { volume: name(volume).into(), size, reach: Reach::Everywhere },
                )
                .await,
        );
    }

    pub(super) async fn snapshot(&self, snapshot: &str, volume: &str) {
        let wish = CreateSnapshot {
            name: SnapshotName::parse(snapshot).unwrap(),
            volume: name(volume).into(),
            parameters: Default::default(),
            labels: Default::default(),
            until_ready: true,
        };
        if self.hall.create_snapshot(&self.context(), wish).await.is_ok() {
            self.note(|said| {
                said.snapshots.insert(snapshot.into());
            });
        }
    }

    pub(super) async fn delete_snapshot(&self, snapshot: &str) {
        self.note(|said| {
            said.snapshots.remove(snapshot);
        });
        let name = SnapshotName::parse(snapshot).unwrap();
        drop(self.hall.delete_snapshot(&self.context(), DeleteSnapshot { snapshot: name.into() }).await);
    }
}
