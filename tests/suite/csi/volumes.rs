//! What a controller is asked about volumes: the same wish again, another one under the same name, sizes to the byte,
//! places, lists by pages, capacity, parameters, and what no backend can do.

use std::collections::BTreeMap;

use kato_csi::protocol::{
    CapacityRange, ControllerGetVolumeHealthRequest, ControllerGetVolumeRequest,
    ControllerListVolumeHealthRequest, ControllerModifyVolumeRequest, ControllerUnpublishVolumeRequest,
    CreateVolumeRequest, GetCapacityRequest, ListVolumesRequest, Topology, TopologyRequirement,
    ValidateVolumeCapabilitiesRequest, VolumeContentSource,
    controller_service_capability::rpc::Type as Controls, volume_capability::access_mode::Mode,
    volume_content_source,
};
use tonic::Code;

use super::ground::{MIB, Plan, device, mounted, usual, wish};
use crate::host::ground::Ground;

fn words(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_wish_is_the_same_volume_and_another_is_refused() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    assert_eq!(house.create(wish("pvc-1", 64)).await.unwrap(), volume);
    // What is large enough, and not too large, is what was wished.
    let mut smaller = wish("pvc-1", 32);
    assert_eq!(house.create(smaller.clone()).await.unwrap(), volume);
    smaller.capacity_range = Some(CapacityRange { required_bytes: 32 * MIB, limit_bytes: 48 * MIB });
    let mut class = wish("pvc-1", 64);
    class.parameters = words(&[("class", "xfs")]);
    let mut filesystem = wish("pvc-1", 64);
    filesystem.volume_capabilities = vec![mounted("xfs", Mode::SingleNodeWriter)];
    let mut parameter = wish("pvc-1", 64);
    parameter.parameters = words(&[("thin", "true")]);
    let mut many = wish("pvc-1", 64);
    many.volume_capabilities = vec![mounted("ext4", Mode::MultiNodeMultiWriter)];
    let mut elsewhere = wish("pvc-1", 64);
    let there = Topology { segments: words(&[("kato.storage/node", "there")]) };
    elsewhere.accessibility_requirements =
        Some(TopologyRequirement { requisite: vec![there], preferred: Vec::new() });
    for other in [wish("pvc-1", 65), smaller, class, filesystem, parameter, many, elsewhere] {
        let refused = house.create(other.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused} {other:?}");
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_any_text_and_no_path() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let names =
        ["../../../etc/x", "a/b", "🦀 \"'\t\r\n ü", ".", "..", "عربي", &"ü".repeat(64), &"x".repeat(128)];
    for name in names {
        let volume = house.create(wish(name, 1)).await.unwrap();
        assert!(volume.volume_id.len() <= 128 && volume.volume_id.is_ascii(), "{}", volume.volume_id);
        assert_eq!(house.create(wish(name, 1)).await.unwrap(), volume);
        house.delete(&volume.volume_id).await.unwrap();
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_kept_to_the_byte_or_refused() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let of = |required, limit| {
        let mut request = wish(&format!("{required}-{limit}"), 0);
        request.capacity_range = Some(CapacityRange { required_bytes: required, limit_bytes: limit });
        request
    };
    let exact = house.create(of(8 * MIB, 8 * MIB)).await.unwrap();
    assert_eq!(exact.capacity_bytes, 8 * MIB);
    let odd = house.create(of(8 * MIB + 1, 0)).await.unwrap();
    assert!(odd.capacity_bytes > 8 * MIB, "{}", odd.capacity_bytes);
    for (required, limit) in [(8 * MIB + 1, 8 * MIB + 1), (1, 2), (2 << 40, 0)] {
        let refused = house.create(of(required, limit)).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{required} {limit}: {refused}");
    }
    let mut small = of(16 * MIB, 16 * MIB);
    small.volume_capabilities = vec![mounted("xfs", Mode::SingleNodeWriter)];
    let refused = house.create(small).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_another_place_is_told_to_ask_there() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let at = |name: &str, places: &[&[(&str, &str)]]| {
        let places: Vec<_> = places.iter().map(|place| Topology { segments: words(place) }).collect();
        CreateVolumeRequest {
            accessibility_requirements: Some(TopologyRequirement {
                requisite: places,
                preferred: Vec::new(),
            }),
            ..wish(name, 1)
        }
    };
    let here = at(
        "here",
        &[&[("kato.storage/node", "there")], &[("kato.storage/node", "here"), ("kato.storage/zone", "a")]],
    );
    assert_eq!(
        house.create(here).await.unwrap().accessible_topology[0].segments["kato.storage/node"],
        "here"
    );
    for key in ["kato.storage/node", "KATO.storage/Node"] {
        let refused = house.create(at("there", &[&[(key, "there")]])).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("here"), "{refused}");
    }
    // Somebody else's keys are nobody's business here.
    house.create(at("others", &[&[("topology.example.com/zone", "x")]])).await.unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_on_another_node_is_not_taken_for_deleted() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let id = house.create(wish("pvc-1", 1)).await.unwrap().volume_id;
    let elsewhere = id.replace("@here/", "@there/");
    let refused = house.delete(&elsewhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("there"), "{refused}");
    house.delete(&id).await.unwrap();
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_said_by_name() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let mut many = wish("many", 1);
    many.volume_capabilities = vec![mounted("ext4", Mode::MultiNodeMultiWriter)];
    let mut kind = wish("fs", 1);
    kind.volume_capabilities = vec![mounted("ntfs", Mode::SingleNodeWriter)];
    let mut both = wish("both", 1);
    both.volume_capabilities =
        vec![mounted("ext4", Mode::SingleNodeWriter), mounted("xfs", Mode::SingleNodeWriter)];
    let mut parameter = wish("parameter", 1);
    parameter.parameters = words(&[("iops", "3000")]);
    for (request, code, word) in [
        (many, Code::InvalidArgument, "local"),
        (kind, Code::InvalidArgument, "ntfs"),
        (both, Code::InvalidArgument, "xfs"),
        (parameter, Code::InvalidArgument, "iops"),
    ] {
        let refused = house.create(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(word), "{refused}");
    }
    let mut class = wish("class", 1);
    class.parameters = words(&[("class", "gold")]);
    assert!(house.create(class).await.unwrap_err().message().contains("gold"));
    let source = |source| VolumeContentSource { r#type: Some(source) };
    let snapshot_id = "local/image/kato-aaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned();
    let mut missing = wish("missing", 1);
    missing.volume_content_source =
        Some(source(volume_content_source::Type::Snapshot(volume_content_source::SnapshotSource {
            snapshot_id,
        })));
    assert_eq!(house.create(missing).await.unwrap_err().code(), Code::NotFound);
    assert!(house.hall.list(None, 10).await.unwrap().items.is_empty(), "something was half made");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_notes_are_labels_and_no_parameters() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let mut request = wish("pvc-1", 64);
    request.volume_capabilities = vec![mounted("", Mode::SingleNodeMultiWriter)];
    request.parameters = words(&[
        ("csi.storage.k8s.io/pvc/name", "data"),
        ("csi.storage.k8s.io/pvc/namespace", "shop"),
        ("csi.storage.k8s.io/fstype", "ext4"),
        ("csi.storage.k8s.io/something-new", "x"),
        ("class", "default"),
    ]);
    let volume = house.create(request.clone()).await.unwrap();
    assert_eq!(house.create(request).await.unwrap(), volume);
    let view = house.hall.list(None, 10).await.unwrap().items.pop().unwrap().volume;
    assert_eq!(view.labels["csi.storage.k8s.io/pvc/namespace"], "shop");
    assert_eq!(view.labels.len(), 2);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_go_on_where_they_stopped_whatever_happens_meanwhile() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let mut made = Vec::new();
    for number in 0..7 {
        made.push(house.create(wish(&format!("v{number}"), 1)).await.unwrap().volume_id);
    }
    let page = |max_entries, starting_token: String| {
        let mut controller = house.clients.controller.clone();
        async move { controller.list_volumes(ListVolumesRequest { max_entries, starting_token }).await }
    };
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let answer = page(2, token.clone()).await.unwrap().into_inner();
        assert!(answer.entries.len() <= 2 && answer.next_token.len() <= 128);
        let ids: Vec<String> =
            answer.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect();
        if seen.is_empty() {
            // The last that was told goes: its token still says where to go on.
            house.delete(&ids[1]).await.unwrap();
        }
        seen.extend(ids);
        if answer.next_token.is_empty() {
            break;
        }
        token = answer.next_token;
    }
    made.sort();
    seen.sort();
    assert_eq!(seen, made);
    // All that was left to tell goes: then there is nothing more.
    let first = page(4, String::new()).await.unwrap().into_inner();
    let told: Vec<_> = first.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id).collect();
    for id in made.iter().filter(|id| !told.contains(id)) {
        house.delete(id).await.unwrap();
    }
    let rest = page(4, first.next_token).await.unwrap().into_inner();
    assert_eq!((rest.entries.len(), rest.next_token.as_str()), (0, ""));
    for number in 0..2 {
        house.create(wish(&format!("w{number}"), 1)).await.unwrap();
    }
    assert_eq!(page(0, String::new()).await.unwrap().into_inner().entries.len(), 6);
    let beheaded = token.split_at(1).1;
    for wrong in ["x", "v", beheaded, &"y".repeat(200)] {
        assert_eq!(page(2, wrong.to_owned()).await.unwrap_err().code(), Code::Aborted, "{wrong}");
    }
    let health = ControllerListVolumeHealthRequest { max_entries: 4, ..Default::default() };
    let health =
        house.clients.controller.clone().controller_list_volume_health(health).await.unwrap().into_inner();
    assert_eq!((health.entries.len(), health.next_token.is_empty()), (4, false));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_confirmed_only_as_what_it_is() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    let ask = |change: &dyn Fn(&mut ValidateVolumeCapabilitiesRequest)| {
        let mut request = ValidateVolumeCapabilitiesRequest {
            volume_id: volume.volume_id.clone(),
            volume_context: volume.volume_context.clone(),
            volume_capabilities: vec![usual()],
            parameters: words(&[("class", "default")]),
            ..ValidateVolumeCapabilitiesRequest::default()
        };
        change(&mut request);
        let mut controller = house.clients.controller.clone();
        async move { controller.validate_volume_capabilities(request).await }
    };
    let answer = ask(&|_| ()).await.unwrap().into_inner();
    let confirmed = answer.confirmed.unwrap();
    assert_eq!(confirmed.volume_context, volume.volume_context);
    assert_eq!(
        (confirmed.volume_capabilities, confirmed.parameters),
        (vec![usual()], words(&[("class", "default")]))
    );
    let changes: [&dyn Fn(&mut ValidateVolumeCapabilitiesRequest); 4] = [
        &|request| request.volume_capabilities.push(mounted("ext4", Mode::MultiNodeReaderOnly)),
        &|request| request.parameters = words(&[("class", "xfs")]),
        &|request| request.parameters = words(&[("kind", "directory")]),
        &|request| drop(request.volume_context.insert("kato.storage/class".into(), "xfs".into())),
    ];
    for change in changes {
        let answer = ask(change).await.unwrap().into_inner();
        assert!(answer.confirmed.is_none() && !answer.message.is_empty(), "{answer:?}");
    }
    ask(&|request| request.volume_capabilities = vec![device(Mode::SingleNodeWriter)]).await.unwrap();
    let unknown = ask(&|request| request.volume_id = "local/image/kato-b".into()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "{unknown}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_told_for_a_class_and_a_place() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let ask = |class: &str, place: &[(&str, &str)]| {
        let request = GetCapacityRequest {
            volume_capabilities: vec![usual()],
            parameters: words(&[("class", class)]),
            accessible_topology: (!place.is_empty()).then(|| Topology { segments: words(place) }),
        };
        let mut controller = house.clients.controller.clone();
        async move { controller.get_capacity(request).await }
    };
    let here = ask("default", &[("kato.storage/node", "here")]).await.unwrap().into_inner();
    assert!(here.available_capacity > 0);
    assert_eq!((here.minimum_volume_size, here.maximum_volume_size), (Some(MIB), Some(1 << 40)));
    let there = ask("default", &[("kato.storage/node", "there")]).await.unwrap().into_inner();
    assert_eq!(there.available_capacity, 0);
    assert_eq!(ask("gold", &[]).await.unwrap_err().code(), Code::InvalidArgument);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_volume_is_told_with_its_health_and_changed_by_name() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let volume = house.create(wish("pvc-1", 64)).await.unwrap();
    let mut controller = house.clients.controller.clone();
    let request = ControllerGetVolumeRequest { volume_id: volume.volume_id.clone() };
    let told = controller.controller_get_volume(request).await.unwrap().into_inner();
    assert_eq!(told.volume.unwrap(), volume);
    assert_eq!(told.status.unwrap().published_node_ids, Vec::<String>::new());
    let request =
        ControllerGetVolumeHealthRequest { volume_id: volume.volume_id.clone(), ..Default::default() };
    let health = controller.controller_get_volume_health(request).await.unwrap().into_inner();
    assert_eq!(health.volume_health.unwrap().health_statuses, vec![]);
    let change = |parameters: &[(&str, &str)]| ControllerModifyVolumeRequest {
        volume_id: volume.volume_id.clone(),
        mutable_parameters: words(parameters),
        ..Default::default()
    };
    controller.controller_modify_volume(change(&[])).await.unwrap();
    let refused = controller.controller_modify_volume(change(&[("iops", "1")])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    // Nothing is attached here, and what is not attached is detached.
    for node_id in ["here", "", "no,node"] {
        let request = ControllerUnpublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            node_id: node_id.into(),
            ..Default::default()
        };
        controller.controller_unpublish_volume(request).await.unwrap();
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_claimed_is_what_the_backends_can_do() {
    let ground = Ground::new();
    let house = Plan::all(&ground).open().await;
    let mut controller = house.clients.controller.clone();
    let claims =
        controller.controller_get_capabilities(kato_csi::protocol::ControllerGetCapabilitiesRequest {});
    let claims: Vec<Controls> = (claims.await.unwrap().into_inner().capabilities.into_iter())
        .map(|claim| match claim.r#type.unwrap() {
            kato_csi::protocol::controller_service_capability::Type::Rpc(rpc) => rpc.r#type(),
        })
        .collect();
    for claim in [
        Controls::CreateDeleteVolume,
        Controls::ListVolumes,
        Controls::GetCapacity,
        Controls::CloneVolume,
        Controls::ExpandVolume,
        Controls::ModifyVolume,
    ] {
        assert!(claims.contains(&claim), "{claim:?}");
    }
    // The volumes of a host need no attaching.
    assert!(!claims.contains(&Controls::PublishUnpublishVolume), "{claims:?}");
    house.close().await;
}
