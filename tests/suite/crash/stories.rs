//! What is done to the hall while it is stopped: one story for each verb, and the ones in which a delete meets
//! another wish. Each notes what was answered, because that is what has to hold.

use std::{pin::Pin, sync::Arc, time::Duration};

use kato_orchestrator::{
    Error, Kind,
    model::{Bytes, Caller, CapacityRange, Keeping, Purpose, SnapshotName, Target},
    ops::{
        Access, AttachVolume, CreateSnapshot, CreateVolume, DeleteSnapshot, DeleteVolume, DetachVolume,
        GrowVolume, ModifyVolume, MountVolume, NodeAddress, Reach, RepairVolume, SourceName, UnmountVolume,
    },
    ports::backend::Cutting,
    testing::{Fault, Verb},
};

use super::town::{Nature, Teller, holder, name};

type Told = Pin<Box<dyn Future<Output = ()>>>;

const ATTACHES: Nature = Nature { attaches: true, ..Nature::PLAIN };
const POLLED: Nature = Nature { attaches: true, polls: true, ..Nature::PLAIN };
const COPIES: Nature = Nature { cutting: Cutting::Copy, ..Nature::PLAIN };
const COPIES_UNMOUNTED: Nature = Nature { cutting: Cutting::Unmounted, ..Nature::PLAIN };

pub(super) struct Story {
    pub(super) name: &'static str,
    pub(super) nature: Nature,
    pub(super) tell: fn(Arc<Teller>) -> Told,
}

macro_rules! stories {
    ($($name:ident $(($nature:expr))? => |$teller:ident| $tell:block)*) => {
        pub(super) struct Stories { $(pub(super) $name: Story),* }

        pub(super) static STORIES: Stories = Stories { $($name: Story {
            name: stringify!($name),
            nature: { let nature = Nature::PLAIN; $(let nature = { let _ = nature; $nature };)? nature },
            tell: |$teller| Box::pin(async move { $tell }),
        }),* };
    };
}

stories! {
    create => |teller| {
        teller.create("db").await;
        teller.create("db").await;
    }

    refused_create => |teller| {
        teller.fault(Verb::Create, Fault::Refuse(Error::exhausted("the backend is full")));
        teller.create("db").await;
        teller.create("db").await;
    }

    unheard_create => |teller| {
        for _ in 0..2 {
            teller.fault(Verb::Create, Fault::LoseAnswer(Error::unavailable("the connection was cut").pending()));
        }
        tokio::join!(teller.create("db"), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            teller.delete("db").await;
        });
        teller.create("db").await;
    }

    late_create => |teller| {
        teller.fault(Verb::Create, Fault::Late(Duration::from_secs(20)));
        teller.fault(Verb::Create, Fault::Refuse(Error::exhausted("the backend is full")));
        teller.create("db").await;
        teller.create("db").await;
    }

    late_cut => |teller| {
        teller.create("db").await;
        teller.use_once("db").await;
        teller.fault(Verb::Cut, Fault::Late(Duration::from_secs(20)));
        teller.fault(Verb::Cut, Fault::Refuse(Error::exhausted("the backend is full")));
        teller.snapshot("monday", "db").await;
        teller.snapshot("monday", "db").await;
    }

    pending_create => |teller| {
        teller.fault(Verb::Create, Fault::Pending(3));
        teller.create("db").await;
    }

    polled_work(POLLED) => |teller| {
        teller.fault(Verb::Create, Fault::Pending(3));
        teller.fault(Verb::Poll, Fault::Refuse(Error::unavailable("the backend does not answer")));
        teller.fault(Verb::Attach, Fault::Pending(2));
        teller.fault(Verb::Cut, Fault::Pending(3));
        teller.fault(Verb::Detach, Fault::Pending(2));
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        tokio::join!(teller.snapshot("monday", "db"), teller.create("other"));
        teller.unmount("db", "one").await;
        teller.fault(Verb::Delete, Fault::Pending(3));
        teller.delete("other").await;
    }

    mount_by_two_holders => |teller| {
        teller.create("db").await;
        tokio::join!(teller.mount("db", "one"), teller.mount("db", "two"));
        teller.write("db", "bytes");
        teller.unmount("db", "one").await;
        teller.mount("db", "three").await;
        teller.write("db", "more");
    }

    mount_given_up(ATTACHES) => |teller| {
        teller.create("db").await;
        for _ in 0..40 {
            teller.fault(Verb::Attach, Fault::Refuse(Error::unavailable("the backend does not answer").pending()));
        }
        teller.mount("db", "one").await;
    }

    bound_mount => |teller| {
        teller.create("db").await;
        teller.mount_at("db", "one", "/pods/1").await;
        teller.mount_at("db", "two", "/pods/2").await;
        teller.write("db", "bytes");
        teller.unmount("db", "one").await;
        teller.unmount("db", "two").await;
    }

    grow => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.grow("db", 3).await;
        teller.unmount("db", "one").await;
        teller.grow("db", 4).await;
    }

    snapshot => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.snapshot("monday", "db").await;
        teller.create_from("copy", SourceName::Snapshot(SnapshotName::parse("monday").unwrap().into())).await;
        teller.mount("copy", "one").await;
        teller.delete_snapshot("monday").await;
    }

    clone => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.create_from("copy", SourceName::Volume(name("db").into())).await;
        teller.mount("copy", "two").await;
        teller.write("copy", "own");
    }

    snapshot_by_copy(COPIES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.fault(Verb::Cut, Fault::Pending(3));
        teller.while_written("db", teller.snapshot("monday", "db")).await;
        teller.delete_snapshot("monday").await;
        teller.while_written("db", teller.snapshot("tuesday", "db")).await;
    }

    snapshot_slower_than_a_freeze(COPIES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.fault(Verb::Cut, Fault::Pending(9));
        teller.while_written("db", teller.snapshot("monday", "db")).await;
    }

    clone_by_copy(COPIES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.fault(Verb::Create, Fault::Pending(3));
        teller.while_written("db", teller.create_from("copy", SourceName::Volume(name("db").into()))).await;
        teller.has_made("copy");
        teller.mount("copy", "two").await;
    }

    clone_of_what_is_unmounted(COPIES_UNMOUNTED) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.unmount("db", "one").await;
        teller.fault(Verb::Create, Fault::Pending(9));
        tokio::join!(teller.create_from("copy", SourceName::Volume(name("db").into())), async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            teller.mount("db", "two").await;
            teller.write("db", "more");
        });
        teller.has_made("copy");
        teller.fault(Verb::Create, Fault::Pending(9));
        tokio::join!(teller.create_from("other", SourceName::Volume(name("copy").into())), async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            teller.delete("other").await;
        });
    }

    unmount => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.mount("db", "one").await;
        teller.unmount("db", "one").await;
        teller.unmount("db", "one").await;
        teller.mount("db", "two").await;
        teller.unmount("db", "two").await;
    }

    delete => |teller| {
        teller.create("db").await;
        teller.delete("db").await;
        teller.create("db").await;
        teller.delete("db").await;
    }

    attached_life(ATTACHES) => |teller| {
        teller.fault(Verb::Attach, Fault::Pending(2));
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
        teller.fault(Verb::Detach, Fault::LoseAnswer(Error::timeout("no answer").pending()));
        teller.unmount("db", "one").await;
        teller.mount("db", "two").await;
        teller.unmount("db", "two").await;
        teller.delete("db").await;
    }

    asked_attachment(ATTACHES) => |teller| {
        teller.create("db").await;
        teller.fault(Verb::Attach, Fault::Pending(2));
        teller.attach("db").await;
        teller.mount_as("db", "/staged", Access { purpose: Purpose::Stage, ..Access::default() }).await;
        let published = Access { staged_by: Some(holder("/staged")), ..Access::default() };
        teller.mount_as("db", "/pods/1", published).await;
        teller.write("db", "bytes");
        teller.unmount("db", "/pods/1").await;
        teller.unmount("db", "/staged").await;
        teller.fault(Verb::Detach, Fault::LoseAnswer(Error::timeout("no answer").pending()));
        teller.detach("db").await;
        tokio::join!(teller.attach("db"), teller.delete("db"));
        teller.detach("db").await;
        teller.delete("db").await;
    }

    refused_attachment(ATTACHES) => |teller| {
        teller.create("db").await;
        teller.fault(Verb::Attach, Fault::LoseAnswer(Error::exhausted("no slot is free")));
        teller.attach("db").await;
        teller.delete("db").await;
    }

    raw_life => |teller| {
        teller.create("db").await;
        let raw = || Access { raw: true, ..Access::default() };
        teller.mount_as("db", "/pods/1", raw()).await;
        teller.mount_as("db", "/pods/2", raw()).await;
        teller.grow("db", 3).await;
        teller.unmount("db", "/pods/1").await;
        teller.unmount("db", "/pods/2").await;
        teller.delete("db").await;
    }

    inline_life => |teller| {
        teller.bring_about("pod", "/pods/1").await;
        teller.write("pod", "bytes");
        teller.note(|said| {
            said.volumes.remove("pod");
            said.written.remove("pod");
        });
        teller.unmount("pod", "/pods/1").await;
        teller.bring_about("pod", "/pods/2").await;
    }

    delete_against_mount => |teller| {
        teller.create("db").await;
        tokio::join!(teller.delete("db"), teller.mount("db", "one"));
        teller.unmount("db", "one").await;
        tokio::join!(teller.mount("db", "two"), teller.delete("db"));
    }

    delete_against_snapshot => |teller| {
        teller.create("db").await;
        teller.use_once("db").await;
        tokio::join!(teller.snapshot("monday", "db"), teller.delete("db"));
        tokio::join!(teller.delete_snapshot("monday"), teller.delete("db"));
    }

    delete_against_clone => |teller| {
        teller.create("db").await;
        teller.use_once("db").await;
        tokio::join!(teller.create_from("copy", SourceName::Volume(name("db").into())), teller.delete("db"));
        tokio::join!(teller.delete("copy"), teller.delete("db"));
    }

    delete_against_unmount => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        tokio::join!(teller.unmount("db", "one"), teller.delete("db"));
        teller.delete("db").await;
    }

    delete_against_attach(ATTACHES) => |teller| {
        teller.create("db").await;
        teller.fault(Verb::Attach, Fault::Pending(3));
        tokio::join!(teller.mount("db", "one"), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            teller.delete("db").await;
        });
        teller.unmount("db", "one").await;
        teller.delete("db").await;
    }

    delete_against_bind => |teller| {
        teller.create("db").await;
        tokio::join!(teller.mount_at("db", "one", "/pods/1"), teller.delete("db"));
        teller.unmount("db", "one").await;
        tokio::join!(teller.delete("db"), teller.mount_at("db", "two", "/pods/2"));
    }

    delete_against_grow => |teller| {
        teller.create("db").await;
        teller.fault(Verb::Grow, Fault::Pending(5));
        tokio::join!(teller.grow("db", 2), teller.delete("db"));
    }

    delete_against_create => |teller| {
        teller.fault(Verb::Create, Fault::Pending(5));
        tokio::join!(teller.create("db"), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            teller.delete("db").await;
        });
        teller.create("db").await;
    }

    modify => |teller| {
        teller.create("db").await;
        teller.modify("db", "fast").await;
        teller.fault(Verb::Modify, Fault::LoseAnswer(Error::unavailable("the connection was cut").pending()));
        teller.modify("db", "slow").await;
        teller.fault(Verb::Modify, Fault::Pending(2));
        teller.modify("db", "fast").await;
        teller.fault(Verb::Modify, Fault::Refuse(Error::invalid("there is no such tier")));
        teller.modify("db", "golden").await;
        teller.mount("db", "one").await;
        teller.write("db", "bytes");
    }

    delete_against_modify => |teller| {
        teller.create("db").await;
        teller.fault(Verb::Modify, Fault::Pending(5));
        tokio::join!(teller.modify("db", "fast"), teller.delete("db"));
    }

    repair => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.mount("db", "two").await;
        teller.write("db", "bytes");
        teller.cut_off("db").await;
        teller.mount("db", "three").await;
        teller.repair("db", false).await;
        teller.unmount("db", "one").await;
        teller.unmount("db", "two").await;
        teller.mount("db", "three").await;
        teller.write("db", "more");
    }

    repair_by_force(ATTACHES) => |teller| {
        teller.create("db").await;
        teller.mount("db", "one").await;
        teller.mount_at("db", "two", "/pods/2").await;
        teller.write("db", "bytes");
        teller.cut_off("db").await;
        teller.repair("db", true).await;
        teller.mount("db", "three").await;
        teller.write("db", "more");
        teller.unmount("db", "three").await;
    }
}

impl Teller {
    async fn modify(&self, volume: &str, tier: &str) {
        let parameters = [("tier".to_owned(), tier.to_owned())].into();
        drop(
            self.hall.modify(&self.context(), ModifyVolume { volume: name(volume).into(), parameters }).await,
        );
    }

    /// Cuts the volume's mount off from its bytes, and lets the house see it.
    async fn cut_off(&self, volume: &str) {
        if let Ok(view) = self.hall.inspect(&name(volume)).await
            && !self.fuse.is_blown()
        {
            self.machine.lock().unwrap().cut_off(view.volume.id, "the fake device is gone");
        }
        self.hall.watch().await.unwrap();
    }

    async fn repair(&self, volume: &str, force: bool) {
        if force {
            // Whoever held it may lose it from now on.
            self.note(|said| {
                let held = said.holders.iter().filter(|(of, _)| of == volume).cloned().collect::<Vec<_>>();
                said.released.extend(held);
            });
            self.show_containers(volume).await;
        }
        drop(self.hall.repair(&self.context(), RepairVolume { name: name(volume), force }).await);
    }

    pub(crate) fn fault(&self, verb: Verb, fault: Fault) {
        self.backend.lock().unwrap().fault(verb, fault);
    }

    /// Does something while a container writes twice a second.
    async fn while_written(&self, volume: &str, work: impl Future<Output = ()>) {
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

    async fn create_from(&self, volume: &str, source: SourceName) {
        let wish = CreateVolume { source: Some(source), ..CreateVolume::named(name(volume)) };
        if self.hall.create(&self.context(), wish).await.is_ok() {
            self.created(volume);
        }
    }

    /// Mounts a volume for the first time, which makes its filesystem.
    async fn use_once(&self, volume: &str) {
        self.mount(volume, "first").await;
        self.unmount(volume, "first").await;
    }

    /// Fails a story that did not do what it is to tell of.
    fn has_made(&self, volume: &str) {
        let made = self.said.lock().unwrap().volumes.contains(volume);
        assert!(made || self.fuse.is_blown(), "{volume} was not made");
    }

    fn created(&self, volume: &str) {
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

    async fn mount_at(&self, volume: &str, by: &str, path: &str) {
        self.mount_to(volume, by, Target::Path(path.into())).await;
    }

    async fn mount_to(&self, volume: &str, by: &str, target: Target) {
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
    async fn attach(&self, volume: &str) {
        let wish =
            AttachVolume { volume: name(volume).into(), node: self.here(), read_only: false, many: false };
        drop(self.hall.attach(&self.context(), wish).await);
    }

    async fn detach(&self, volume: &str) {
        let wish = DetachVolume { volume: name(volume).into(), node: Some(self.here()) };
        drop(self.hall.detach(&self.context(), wish).await);
    }

    fn here(&self) -> NodeAddress {
        NodeAddress { id: self.hall.node().clone(), names: Default::default() }
    }

    /// Takes a volume at a path, as a caller of the CSI door does.
    async fn mount_as(&self, volume: &str, path: &str, access: Access) {
        self.hold(volume, path, access, None).await;
    }

    /// Takes a volume that is made for this path alone.
    async fn bring_about(&self, volume: &str, path: &str) {
        let create = CreateVolume { keeping: Keeping::Ephemeral, ..CreateVolume::named(name(volume)) };
        self.hold(volume, path, Access::default(), Some(Box::new(create))).await;
    }

    async fn hold(&self, volume: &str, path: &str, access: Access, implicit: Option<Box<CreateVolume>>) {
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
    async fn show_containers(&self, volume: &str) {
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

    fn write(&self, volume: &str, text: &str) {
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

    async fn grow(&self, volume: &str, gib: u64) {
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

    async fn snapshot(&self, snapshot: &str, volume: &str) {
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

    async fn delete_snapshot(&self, snapshot: &str) {
        self.note(|said| {
            said.snapshots.remove(snapshot);
        });
        let name = SnapshotName::parse(snapshot).unwrap();
        drop(self.hall.delete_snapshot(&self.context(), DeleteSnapshot { snapshot: name.into() }).await);
    }
}
