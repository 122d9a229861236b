//! Who gets a volume, and beside whom: the specification's answers to a controller's publish and unpublish, its tables of
//! NodePublishVolume (the same target or another, the same words or others) for every access mode, and volumes that
//! several nodes have at once.

use std::{collections::BTreeMap, path::Path};

use kato_csi::protocol::{
    ControllerGetVolumeRequest, Volume, VolumeCapability, volume_capability::access_mode::Mode,
};
use kato_orchestrator::{
    Error, Role,
    testing::{FakeBackend, Fault, Verb},
};
use tonic::{Code, Status};

use super::{
    fakes::{Scene, attachment, code, until},
    ground::{House, mounted, publication, usual, wish},
};

/// An id like those that we give, of nothing.
const NOTHING: &str = "fake/img/kato-aaaaaaaaaaaaaaaaaaaaaaaaaa";

async fn volume(house: &House, capability: &VolumeCapability) -> Volume {
    let mut request = wish("db", 64);
    request.volume_capabilities = vec![capability.clone()];
    house.create(request).await.unwrap()
}

/// Which nodes a volume is said to be published to.
async fn nodes(house: &House, volume: &Volume) -> Vec<String> {
    let request = ControllerGetVolumeRequest { volume_id: volume.volume_id.clone() };
    let told = house.clients.controller.clone().controller_get_volume(request).await.unwrap();
    told.into_inner().status.unwrap().published_node_ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_published_once_to_one_node_and_the_refusal_names_it() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    let volume = volume(&house, &usual()).await;
    let ask = |node: &str, readonly: bool| {
        let mut request = attachment(&volume, node, usual());
        request.readonly = readonly;
        house.attach(request)
    };
    let context = ask("node-1", false).await.unwrap();
    assert_eq!(ask("node-1", false).await.unwrap(), context);
    assert_eq!(scene.world().heard(Verb::Attach), 1, "what is attached is attached");

    let other_way = ask("node-1", true).await.unwrap_err();
    assert_eq!(other_way.code(), Code::AlreadyExists, "{other_way:?}");
    let elsewhere = ask("node-2", false).await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::FailedPrecondition, "{elsewhere:?}");
    assert!(elsewhere.message().contains("node-1"), "{elsewhere:?}");
    assert_eq!(nodes(&house, &volume).await, ["node-1"]);

    house.detach(&volume.volume_id, "node-1").await.unwrap();
    ask("node-2", true).await.unwrap();
    assert_eq!(code(&ask("node-2", false).await), Code::AlreadyExists);
    // Without a node it is taken from all of them; this backend does not say who has it, and the records do.
    house.detach(&volume.volume_id, "").await.unwrap();
    assert_eq!((nodes(&house, &volume).await.len(), scene.has()), (0, [1, 0, 0]));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_is_not_published_and_is_unpublished_already() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    let volume = volume(&house, &usual()).await;
    for id in [NOTHING, "no such thing"] {
        let unknown = Volume { volume_id: id.into(), ..Volume::default() };
        let refused = house.attach(attachment(&unknown, "here", usual())).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{id}: {refused:?}");
    }
    // What we would have written otherwise is no node of ours.
    let refused = house.attach(attachment(&volume, "a node", usual())).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    for id in [NOTHING, "no such thing", &volume.volume_id] {
        for node in ["here", "never-seen", "a node", ""] {
            house.detach(id, node).await.unwrap_or_else(|status| panic!("{id} {node}: {status:?}"));
        }
    }
    assert_eq!(scene.has(), [1, 0, 0]);
    // What was deleted while it was being forgotten is unpublished as well.
    house.delete(&volume.volume_id).await.unwrap();
    house.detach(&volume.volume_id, "here").await.unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_full_is_told_so_and_another_one_gets_the_volume() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    let volume = volume(&house, &usual()).await;
    scene.fault(Verb::Attach, Fault::Refuse(Error::exhausted("node-1 has as many as it can")));
    let refused = house.attach(attachment(&volume, "node-1", usual())).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    until("node-1 is let go", async || nodes(&house, &volume).await.is_empty()).await;
    house.attach(attachment(&volume, "node-2", usual())).await.unwrap();
    assert_eq!((nodes(&house, &volume).await, scene.has()), (vec!["node-2".into()], [1, 0, 1]));
    house.close().await;
}

async fn publish(
    house: &House,
    volume: &Volume,
    target: &str,
    capability: &VolumeCapability,
    readonly: bool,
) -> Code {
    let mut request = publication(volume, Path::new("/fake/staged"), Path::new(target), capability);
    request.readonly = readonly;
    code(&house.clients.node.clone().node_publish_volume(request).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_publication_is_answered_as_the_specification_s_tables_have_it() {
    let (one, other) = ("/fake/pods/one", "/fake/pods/other");
    for (mode, beside) in [
        (Mode::SingleNodeWriter, Code::FailedPrecondition),
        (Mode::SingleNodeSingleWriter, Code::FailedPrecondition),
        (Mode::SingleNodeMultiWriter, Code::Ok),
        (Mode::MultiNodeSingleWriter, Code::Ok),
        (Mode::MultiNodeMultiWriter, Code::Ok),
    ] {
        let scene = Scene::default();
        let house = scene.open(FakeBackend::shared).await;
        let capability = mounted("ext4", mode);
        let volume = volume(&house, &capability).await;
        let staged = Path::new("/fake/staged");
        house.stage(&volume, staged, &capability, &BTreeMap::new()).await.unwrap();
        let ask = |target, readonly| publish(&house, &volume, target, &capability, readonly);
        assert_eq!(ask(one, false).await, Code::Ok, "{mode:?}");
        assert_eq!(ask(one, false).await, Code::Ok, "{mode:?}: the same target and the same words");
        assert_eq!(ask(one, true).await, Code::AlreadyExists, "{mode:?}: the same target, other words");
        assert_eq!(ask(other, false).await, beside, "{mode:?}: another target, the same words");
        if beside == Code::Ok {
            house.unpublish(&volume.volume_id, Path::new(other)).await.unwrap();
        }
        assert_eq!(ask(other, true).await, beside, "{mode:?}: another target, other words");
        // Whoever was refused is not there, and whoever had it has it.
        let held: Vec<_> = house.hall.list(None, 10).await.unwrap().items.remove(0).publications;
        assert_eq!(held.len(), if beside == Code::Ok { 3 } else { 2 }, "{mode:?}: {held:#?}");
        assert_eq!(ask(one, false).await, Code::Ok, "{mode:?}");
        for target in [one, other] {
            house.unpublish(&volume.volume_id, Path::new(target)).await.unwrap();
        }
        assert_eq!(ask(other, true).await, Code::Ok, "{mode:?}: it is free again");
        house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_it_alone_gets_it_beside_nobody() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    let volume = volume(&house, &usual()).await;
    house.stage(&volume, Path::new("/fake/staged"), &usual(), &BTreeMap::new()).await.unwrap();
    let (alone, many) = (mounted("ext4", Mode::SingleNodeSingleWriter), usual());
    for (first, second) in [(&alone, &many), (&many, &alone), (&alone, &alone)] {
        assert_eq!(publish(&house, &volume, "/fake/pods/one", first, false).await, Code::Ok);
        let refused = publish(&house, &volume, "/fake/pods/two", second, false).await;
        assert_eq!(refused, Code::FailedPrecondition);
        if first != second {
            let other = publish(&house, &volume, "/fake/pods/one", second, false).await;
            assert_eq!(other, Code::AlreadyExists, "the same target in another mode");
        }
        house.unpublish(&volume.volume_id, Path::new("/fake/pods/one")).await.unwrap();
    }
    house.close().await;
}

/// A controller and two nodes that share nothing but the backend, and who reads only.
struct Apart {
    scene: Scene,
    controller: House,
    nodes: [(&'static str, House); 2],
}

impl Apart {
    async fn over(change: impl Fn(FakeBackend) -> FakeBackend) -> Self {
        let scene = Scene { role: Role::Controller, node: "controller", ..Scene::default() };
        let controller = scene.open(&change).await;
        let here = scene.beside("here", Role::Node).open(&change).await;
        let there = scene.beside("there", Role::Node).open(&change).await;
        Self { scene, controller, nodes: [("here", here), ("there", there)] }
    }

    async fn attach(
        &self,
        volume: &Volume,
        node: &str,
        capability: &VolumeCapability,
        readonly: bool,
    ) -> Result<BTreeMap<String, String>, Status> {
        let mut request = attachment(volume, node, capability.clone());
        request.readonly = readonly;
        self.controller.attach(request).await
    }

    async fn close(self) {
        let [(_, here), (_, there)] = self.nodes;
        for house in [self.controller, here, there] {
            house.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_have_a_shared_volume_at_once_in_each_mode_of_many() {
    for (mode, second_reads) in [
        (Mode::MultiNodeReaderOnly, false),
        (Mode::MultiNodeSingleWriter, true),
        (Mode::MultiNodeMultiWriter, false),
    ] {
        let apart = Apart::over(FakeBackend::shared).await;
        let capability = mounted("ext4", mode);
        let volume = volume(&apart.controller, &capability).await;
        let id = &volume.volume_id;
        let (first, second) = tokio::join!(
            apart.attach(&volume, "here", &capability, false),
            apart.attach(&volume, "there", &capability, second_reads),
        );
        let contexts = [first.unwrap(), second.unwrap()];
        assert_eq!(nodes(&apart.controller, &volume).await, ["here", "there"], "{mode:?}");
        // Another one that would have it for itself alone gets nothing.
        let refused = apart.attach(&volume, "elsewhere", &usual(), false).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{mode:?}: {refused:?}");
        assert!(refused.message().contains("here"), "{mode:?}: {refused:?}");

        // One after the other, as the first makes the filesystem that the second finds.
        for ((_, house), context) in apart.nodes.iter().zip(&contexts) {
            house.stage(&volume, Path::new("/fake/staged"), &capability, context).await.unwrap();
        }
        let target = Path::new("/fake/pods/one");
        let request = |readonly, context: &BTreeMap<String, String>| {
            let mut request = publication(&volume, Path::new("/fake/staged"), target, &capability);
            (request.readonly, request.publish_context) = (readonly, context.clone());
            request
        };
        let [(_, here), (_, there)] = &apart.nodes;
        let (mut on_here, mut on_there) = (here.clients.node.clone(), there.clients.node.clone());
        let (first, second) = tokio::join!(
            on_here.node_publish_volume(request(false, &contexts[0])),
            on_there.node_publish_volume(request(second_reads, &contexts[1])),
        );
        assert!(first.is_ok() && second.is_ok(), "{mode:?}: {first:?} {second:?}");
        let handle = id.trim_start_matches("fake/");
        assert_eq!(apart.scene.world().bytes(handle).unwrap(), b"FS:", "{mode:?}: it was formatted twice");
        assert_eq!(code(&apart.controller.delete(id).await), Code::FailedPrecondition, "{mode:?}");

        for (name, house) in &apart.nodes {
            house.unpublish(id, target).await.unwrap();
            house.unstage(id, Path::new("/fake/staged")).await.unwrap();
            apart.controller.detach(id, name).await.unwrap();
            assert!(house.hall.list(None, 10).await.unwrap().items.is_empty(), "{mode:?}: {name} keeps it");
        }
        apart.controller.delete(id).await.unwrap();
        assert_eq!(apart.scene.has(), [0, 0, 0], "{mode:?}");
        apart.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_is_taken_from_a_shared_volume_and_the_other_keeps_it() {
    let apart = Apart::over(FakeBackend::shared).await;
    let capability = mounted("ext4", Mode::MultiNodeMultiWriter);
    let volume = volume(&apart.controller, &capability).await;
    for node in ["here", "there"] {
        apart.attach(&volume, node, &capability, false).await.unwrap();
    }
    for _ in 0..2 {
        apart.controller.detach(&volume.volume_id, "there").await.unwrap();
        assert_eq!(nodes(&apart.controller, &volume).await, ["here"]);
    }
    assert_eq!(apart.scene.has(), [1, 0, 1]);
    apart.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_one_node_is_made_for_no_mode_of_many() {
    let scene = Scene::default();
    let house = scene.open(|backend| backend).await;
    for mode in [Mode::MultiNodeReaderOnly, Mode::MultiNodeSingleWriter, Mode::MultiNodeMultiWriter] {
        let mut request = wish("db", 64);
        request.volume_capabilities = vec![mounted("ext4", mode)];
        assert_eq!(code(&house.create(request).await), Code::InvalidArgument, "{mode:?}");
    }
    let volume = volume(&house, &usual()).await;
    house.attach(attachment(&volume, "node-1", usual())).await.unwrap();
    // A caller that says otherwise afterwards gets it to no second node.
    let many = mounted("ext4", Mode::MultiNodeMultiWriter);
    let refused = house.attach(attachment(&volume, "node-2", many)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("node-1"), "{refused:?}");
    until("node-2 is let go", async || nodes(&house, &volume).await == ["node-1"]).await;
    house.close().await;
}
