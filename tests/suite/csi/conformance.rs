//! What a third party would ask of us: every method of the protocol is asked once, in the order of a volume's life. What we claim
//! has to work, what we do not claim has to be refused by its name, and together the houses here claim everything that
//! a version of the protocol has, but for what we never claim.
//!
//! A line is a call, with `$words` for what earlier answers told. Which capability stands behind which method is
//! written here once more, after the specification, and not asked of the door.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use kato_orchestrator::Role;
use kato_tests::csi::Caller;
use serde_json::{Value, json};
use tonic::Code;

use super::{
    described::Described,
    ground::{House, MIB, Plan, Reach},
};
use crate::host::ground::Ground;

/// What each method needs to be claimed; nothing where its service always has it. Those of a service that is not there at all are
/// refused as well.
const METHODS: &[(&str, Option<&str>)] = &[
    ("Identity/GetPluginInfo", None),
    ("Identity/GetPluginCapabilities", None),
    ("Identity/Probe", None),
    ("Controller/CreateVolume", Some("controller CREATE_DELETE_VOLUME")),
    ("Controller/DeleteVolume", Some("controller CREATE_DELETE_VOLUME")),
    ("Controller/ControllerPublishVolume", Some("controller PUBLISH_UNPUBLISH_VOLUME")),
    // What was made before the door was configured otherwise is taken down all the same, here and below.
    ("Controller/ControllerUnpublishVolume", None),
    ("Controller/ValidateVolumeCapabilities", Some("plugin CONTROLLER_SERVICE")),
    ("Controller/ListVolumes", Some("controller LIST_VOLUMES")),
    ("Controller/GetCapacity", Some("controller GET_CAPACITY")),
    ("Controller/ControllerGetCapabilities", Some("plugin CONTROLLER_SERVICE")),
    ("Controller/CreateSnapshot", Some("controller CREATE_DELETE_SNAPSHOT")),
    ("Controller/DeleteSnapshot", None),
    ("Controller/ListSnapshots", Some("controller LIST_SNAPSHOTS")),
    ("Controller/GetSnapshot", Some("controller GET_SNAPSHOT")),
    ("Controller/ControllerExpandVolume", Some("controller EXPAND_VOLUME")),
    ("Controller/ControllerGetVolume", Some("controller GET_VOLUME")),
    ("Controller/ControllerModifyVolume", Some("controller MODIFY_VOLUME")),
    ("Controller/ControllerGetVolumeHealth", Some("controller GET_VOLUME_HEALTH")),
    ("Controller/ControllerListVolumeHealth", Some("controller LIST_VOLUME_HEALTH")),
    ("GroupController/GroupControllerGetCapabilities", Some("plugin GROUP_CONTROLLER_SERVICE")),
    ("GroupController/CreateVolumeGroupSnapshot", Some("group CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT")),
    ("GroupController/DeleteVolumeGroupSnapshot", None),
    ("GroupController/GetVolumeGroupSnapshot", Some("group CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT")),
    ("SnapshotMetadata/GetMetadataAllocated", Some("plugin SNAPSHOT_METADATA_SERVICE")),
    ("SnapshotMetadata/GetMetadataDelta", Some("plugin SNAPSHOT_METADATA_SERVICE")),
    ("Node/NodeStageVolume", Some("node STAGE_UNSTAGE_VOLUME")),
    ("Node/NodeUnstageVolume", None),
    ("Node/NodePublishVolume", None),
    ("Node/NodeUnpublishVolume", None),
    ("Node/NodeGetVolumeStats", Some("node GET_VOLUME_STATS")),
    ("Node/NodeExpandVolume", Some("node EXPAND_VOLUME")),
    ("Node/NodeGetCapabilities", None),
    ("Node/NodeGetInfo", None),
    ("Node/NodeGetVolumeHealth", Some("node GET_VOLUME_HEALTH")),
    ("Node/NodeGetStorageHealth", Some("node GET_STORAGE_HEALTH")),
];

/// What a version of the protocol has and we never claim: kubelet's own way with groups is better than ours could be, and
/// our snapshots can be had wherever their volumes can.
const NEVER: &[&str] =
    &["node VOLUME_MOUNT_GROUP", "plugin SNAPSHOT_ACCESSIBILITY_CONSTRAINTS", "expansion OFFLINE"];

/// A call.
struct Line {
    method: &'static str,
    request: Value,
    /// What it shows to be true beside what its method needs. Not called where that is not claimed.
    uses: Vec<&'static str>,
    /// How it is refused where that is not claimed, if it is called all the same.
    refused: Option<Code>,
    shows: fn(&Value, &Words) -> bool,
    /// Words, and where in the answer they are told.
    learns: Vec<(&'static str, &'static str)>,
    /// Words that hold once it succeeded.
    then: Vec<(&'static str, Value)>,
}

type Words = BTreeMap<&'static str, Value>;

fn call(method: &'static str, request: Value) -> Line {
    Line {
        method,
        request,
        uses: Vec::new(),
        refused: None,
        shows: |_, _| true,
        learns: Vec::new(),
        then: Vec::new(),
    }
}

impl Line {
    fn uses(mut self, capability: &'static str) -> Self {
        self.uses.push(capability);
        self
    }

    fn or_is(mut self, code: Code) -> Self {
        self.refused = Some(code);
        self
    }

    fn shows(mut self, shows: fn(&Value, &Words) -> bool) -> Self {
        self.shows = shows;
        self
    }

    fn learns(mut self, word: &'static str, pointer: &'static str) -> Self {
        self.learns.push((word, pointer));
        self
    }

    fn then(mut self, word: &'static str, value: Value) -> Self {
        self.then.push((word, value));
        self
    }
}

/// A volume's life with everything that can be asked.
fn life(ground: &Ground) -> Vec<Line> {
    let path = |word: &str| json!(ground.path(word).display().to_string());
    let (staged, one, two) = (path("staged"), path("pods/one"), path("pods/two"));
    // One that grows while it is mounted on every machine.
    let usual = json!({
        "mount": { "fs_type": "xfs" }, "access_mode": { "mode": "SINGLE_NODE_MULTI_WRITER" },
    });
    let size = |mib: i64| json!({ "required_bytes": (mib * MIB).to_string() });
    let class = json!({ "class": "xfs" });
    let publish = |target: &Value, readonly: bool| {
        json!({
            "volume_id": "$volume", "publish_context": "$publish", "staging_target_path": "$staged", "target_path": target,
            "volume_capability": usual, "volume_context": "$context", "readonly": readonly,
        })
    };
    let stage = || {
        let request = json!({
            "volume_id": "$volume", "publish_context": "$publish", "staging_target_path": staged,
            "volume_capability": usual, "volume_context": "$context",
        });
        call("Node/NodeStageVolume", request).then("$staged", staged.clone())
    };
    let attach = |readonly: bool| {
        json!({
            "volume_id": "$volume", "node_id": "$node", "volume_capability": usual, "readonly": readonly,
            "volume_context": "$context",
        })
    };
    let cut = |name: &str| json!({ "source_volume_id": "$volume", "name": name });
    let made = |name: &str, source: Value| {
        json!({
            "name": name, "capacity_range": size(320), "volume_capabilities": [usual], "parameters": class,
            "volume_content_source": source,
        })
    };
    vec![
        call("Identity/GetPluginInfo", json!({})).shows(|told, _| told["name"] == "kato.storage"),
        call("Identity/GetPluginCapabilities", json!({})),
        call("Identity/Probe", json!({})).shows(|told, _| told["ready"] == true),
        call("Controller/ControllerGetCapabilities", json!({})),
        call("GroupController/GroupControllerGetCapabilities", json!({})),
        call("Node/NodeGetCapabilities", json!({})),
        call("Node/NodeGetInfo", json!({}))
            .uses("plugin VOLUME_ACCESSIBILITY_CONSTRAINTS")
            .shows(|told, _| told.pointer("/accessible_topology/segments").is_some())
            .learns("$node", "/node_id")
            .learns("$here", "/accessible_topology"),
        call("Controller/GetCapacity", json!({ "volume_capabilities": [usual] }))
            .shows(|told, _| number(&told["available_capacity"]) > MIB),
        call(
            "Controller/CreateVolume",
            json!({
                "name": "conformance", "capacity_range": size(320), "volume_capabilities": [usual],
                "parameters": class, "accessibility_requirements": { "requisite": ["$here"], "preferred": ["$here"] },
            }),
        )
        .learns("$volume", "/volume/volume_id")
        .learns("$context", "/volume/volume_context"),
        call(
            "Controller/ValidateVolumeCapabilities",
            json!({
                "volume_id": "$volume", "volume_capabilities": [usual], "volume_context": "$context",
            }),
        )
        .shows(|told, _| told.get("confirmed").is_some()),
        call("Controller/ControllerGetVolume", json!({ "volume_id": "$volume" }))
            .shows(|told, words| told["volume"]["volume_id"] == words["$volume"]),
        call("Controller/ListVolumes", json!({ "max_entries": 1 }))
            .shows(|told, words| told.pointer("/entries/0/volume/volume_id") == words.get("$volume")),
        call("Controller/ControllerPublishVolume", attach(false)).learns("$publish", "/publish_context"),
        call("Controller/ListVolumes", json!({})).uses("controller LIST_VOLUMES_PUBLISHED_NODES").shows(
            |told, words| told.pointer("/entries/0/status/published_node_ids/0") == words.get("$node"),
        ),
        stage(),
        call("Node/NodePublishVolume", publish(&one, false)),
        // A second writer on the same node.
        call("Node/NodePublishVolume", publish(&two, false))
            .uses("node SINGLE_NODE_MULTI_WRITER")
            .uses("controller SINGLE_NODE_MULTI_WRITER"),
        call("Node/NodeGetVolumeStats", json!({ "volume_id": "$volume", "volume_path": one }))
            .shows(|told, _| told["usage"].as_array().is_some_and(|usage| usage.len() == 2)),
        call(
            "Node/NodeGetVolumeHealth",
            json!({ "volume_id": "$volume", "volume_publish_path": one, "staging_target_path": "$staged" }),
        )
        .shows(|told, _| told["volume_health"].get("health_statuses").is_none()),
        call("Node/NodeGetStorageHealth", json!({})).shows(|told, _| told.get("backend_health").is_none()),
        call("Controller/ControllerGetVolumeHealth", json!({ "volume_id": "$volume" }))
            .shows(|told, words| told["volume_health"]["volume_id"] == words["$volume"]),
        call("Controller/ControllerListVolumeHealth", json!({})),
        call("Controller/CreateSnapshot", cut("monday"))
            .shows(|told, _| told["snapshot"]["ready_to_use"] == true)
            .learns("$monday", "/snapshot/snapshot_id"),
        call("Controller/CreateSnapshot", cut("tuesday")).learns("$tuesday", "/snapshot/snapshot_id"),
        call("Controller/GetSnapshot", json!({ "snapshot_id": "$monday" }))
            .shows(|told, words| told["snapshot"]["source_volume_id"] == words["$volume"]),
        call("Controller/ListSnapshots", json!({ "source_volume_id": "$volume" }))
            .shows(|told, _| told["entries"].as_array().is_some_and(|entries| entries.len() == 2)),
        call("SnapshotMetadata/GetMetadataAllocated", json!({ "snapshot_id": "$monday" }))
            .shows(|told, _| told["block_metadata"].as_array().is_some_and(|blocks| !blocks.is_empty())),
        call(
            "SnapshotMetadata/GetMetadataDelta",
            json!({ "base_snapshot_id": "$monday", "target_snapshot_id": "$tuesday" }),
        ),
        call(
            "GroupController/CreateVolumeGroupSnapshot",
            json!({ "name": "all", "source_volume_ids": ["$volume"] }),
        )
        .learns("$group", "/group_snapshot/group_snapshot_id")
        .learns("$member", "/group_snapshot/snapshots/0/snapshot_id"),
        call(
            "GroupController/GetVolumeGroupSnapshot",
            json!({ "group_snapshot_id": "$group", "snapshot_ids": ["$member"] }),
        )
        .shows(|told, words| told.pointer("/group_snapshot/group_snapshot_id") == words.get("$group")),
        call(
            "GroupController/DeleteVolumeGroupSnapshot",
            json!({ "group_snapshot_id": "$group", "snapshot_ids": ["$member"] }),
        ),
        call(
            "Controller/CreateVolume",
            made("restored", json!({ "snapshot": { "snapshot_id": "$monday" } })),
        )
        .uses("controller CREATE_DELETE_SNAPSHOT")
        .learns("$restored", "/volume/volume_id"),
        call("Controller/CreateVolume", made("copy", json!({ "volume": { "volume_id": "$volume" } })))
            .uses("controller CLONE_VOLUME")
            .or_is(Code::InvalidArgument)
            .learns("$copy", "/volume/volume_id"),
        call(
            "Controller/ControllerExpandVolume",
            json!({ "volume_id": "$volume", "capacity_range": size(384) }),
        )
        .shows(|told, _| told["node_expansion_required"] == true),
        // While it is in use.
        call(
            "Node/NodeExpandVolume",
            json!({ "volume_id": "$volume", "volume_path": one, "capacity_range": size(384) }),
        )
        .uses("expansion ONLINE")
        .shows(|told, _| number(&told["capacity_bytes"]) == 384 * MIB),
        call(
            "Controller/ControllerModifyVolume",
            json!({ "volume_id": "$volume", "mutable_parameters": { "thin": "true" } }),
        ),
        call("Controller/DeleteSnapshot", json!({ "snapshot_id": "$monday" })),
        call("Controller/DeleteSnapshot", json!({ "snapshot_id": "$tuesday" })),
        call("Node/NodeUnpublishVolume", json!({ "volume_id": "$volume", "target_path": two })),
        call("Node/NodeUnpublishVolume", json!({ "volume_id": "$volume", "target_path": one })),
        call("Node/NodeUnstageVolume", json!({ "volume_id": "$volume", "staging_target_path": staged })),
        call("Controller/ControllerUnpublishVolume", json!({ "volume_id": "$volume", "node_id": "$node" })),
        call("Controller/ControllerPublishVolume", attach(true))
            .uses("controller PUBLISH_READONLY")
            .learns("$publish", "/publish_context"),
        stage(),
        call("Node/NodePublishVolume", publish(&one, true))
            .uses("controller PUBLISH_READONLY")
            .or_is(Code::Ok),
        call("Node/NodeUnpublishVolume", json!({ "volume_id": "$volume", "target_path": one })),
        call("Node/NodeUnstageVolume", json!({ "volume_id": "$volume", "staging_target_path": staged })),
        call("Controller/ControllerUnpublishVolume", json!({ "volume_id": "$volume" })),
        call("Controller/DeleteVolume", json!({ "volume_id": "$copy" })).uses("controller CLONE_VOLUME"),
        call("Controller/DeleteVolume", json!({ "volume_id": "$restored" }))
            .uses("controller CREATE_DELETE_SNAPSHOT"),
        call("Controller/DeleteVolume", json!({ "volume_id": "$volume" })),
    ]
}

/// A number as JSON has it.
fn number(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_i64()).unwrap_or_default()
}

/// Who asks: of a controller and of a node, which may be one.
struct Asker<'h> {
    described: Described,
    controller: &'h House,
    node: &'h House,
    claimed: BTreeSet<String>,
    shown: BTreeSet<String>,
    refused: BTreeSet<String>,
    words: Words,
}

impl<'h> Asker<'h> {
    /// Hears what is claimed.
    async fn hear(controller: &'h House, node: &'h House) -> Self {
        let mut this = Self {
            described: Described::csi(),
            controller,
            node,
            claimed: BTreeSet::new(),
            shown: BTreeSet::new(),
            refused: BTreeSet::new(),
            words: Words::new(),
        };
        for (service, method) in [
            ("plugin", "Identity/GetPluginCapabilities"),
            ("controller", "Controller/ControllerGetCapabilities"),
            ("group", "GroupController/GroupControllerGetCapabilities"),
            ("node", "Node/NodeGetCapabilities"),
        ] {
            let Ok(told) = this.ask(method, &json!({})).await else { continue };
            for capability in told["capabilities"].as_array().into_iter().flatten() {
                let kinds = [
                    (service, "/rpc/type"),
                    (service, "/service/type"),
                    ("expansion", "/volume_expansion/type"),
                ];
                for (service, pointer) in kinds {
                    if let Some(name) = capability.pointer(pointer).and_then(Value::as_str) {
                        assert!(this.claimed.insert(format!("{service} {name}")), "{name} is claimed twice");
                    }
                }
            }
        }
        this
    }

    async fn ask(&self, method: &str, request: &Value) -> Result<Value, tonic::Status> {
        let path = format!("/csi.v1.{method}");
        let bytes = self.described.encode(&path, request);
        let house = if method.starts_with("Node/") { self.node } else { self.controller };
        let caller: Caller = house.door.caller().await;
        Ok(self.described.decode(&path, &caller.ask(&path, &bytes, None).await?))
    }

    /// A request with the words' meanings in it; fields of which nobody has told anything yet are left out.
    fn meaning(&self, value: &Value) -> Option<Value> {
        Some(match value {
            Value::String(text) if text.starts_with('$') => self.words.get(text.as_str())?.clone(),
            Value::Array(all) => all.iter().filter_map(|one| self.meaning(one)).collect(),
            Value::Object(fields) => {
                let told = fields.iter().filter_map(|(key, value)| Some((key.clone(), self.meaning(value)?)));
                Value::Object(told.collect())
            }
            other => other.clone(),
        })
    }

    async fn walk(&mut self, lines: Vec<Line>) {
        for line in lines {
            let (_, needs) = METHODS.iter().find(|(method, _)| *method == line.method).unwrap();
            let lacks = |capability: &&str| !self.claimed.contains(*capability);
            let withheld = needs.filter(lacks);
            let unused = line.uses.iter().copied().find(lacks);
            if withheld.is_none() && unused.is_some() && line.refused.is_none() {
                continue;
            }
            let request = self.meaning(&line.request).unwrap();
            // What never came about has no id, and nobody takes it down.
            let nameless = line
                .request
                .as_object()
                .unwrap()
                .keys()
                .any(|key| key.ends_with("_id") && request.get(key).is_none());
            if withheld.is_none() && nameless {
                continue;
            }
            let answer = self.ask(line.method, &request).await;
            match (withheld, unused.and(line.refused)) {
                (Some(capability), _) => {
                    let status = answer.expect_err(line.method);
                    assert_eq!(status.code(), Code::Unimplemented, "{}: {status:?}", line.method);
                    // A service that this role has not at all has no words for it.
                    let (_, name) = capability.split_once(' ').unwrap();
                    let words = status.message();
                    assert!(words.is_empty() || words.contains(name), "{}: {status:?}", line.method);
                    self.refused.insert(line.method.into());
                }
                (None, Some(code)) if code != Code::Ok => {
                    let status = answer.expect_err(line.method);
                    assert_eq!(status.code(), code, "{}: {status:?}", line.method);
                }
                (None, _) => {
                    let told =
                        answer.unwrap_or_else(|status| panic!("{} {request}: {status:?}", line.method));
                    assert!((line.shows)(&told, &self.words), "{} {request}: {told}", line.method);
                    for (word, pointer) in line.learns {
                        if let Some(value) = told.pointer(pointer) {
                            self.words.insert(word, value.clone());
                        }
                    }
                    self.words.extend(line.then);
                    if unused.is_none() {
                        self.shown
                            .extend(needs.iter().chain(&line.uses).map(|&capability| capability.to_owned()));
                    }
                }
            }
        }
        let unseen: Vec<_> = self.claimed.difference(&self.shown).collect();
        assert!(unseen.is_empty(), "claimed and not tried: {unseen:?}");
    }
}

/// Walks through a life before these doors; answers what was claimed, and which methods were refused.
async fn live(
    ground: &Ground,
    controller: House,
    node: Option<House>,
) -> (BTreeSet<String>, BTreeSet<String>) {
    for folder in ["staged", "pods"] {
        fs::create_dir_all(ground.path(folder)).unwrap();
    }
    let mut asker = Asker::hear(&controller, node.as_ref().unwrap_or(&controller)).await;
    asker.walk(life(ground)).await;
    let (claimed, refused) = (asker.claimed, asker.refused);
    assert!(controller.hall.list(None, 10).await.unwrap().items.is_empty());
    assert!(ground.loops().is_empty(), "{:?}", ground.loops());
    if let Some(node) = node {
        node.close().await;
    }
    controller.close().await;
    (claimed, refused)
}

#[test]
fn every_method_of_the_protocol_is_asked() {
    let ground = Ground::new();
    let asked: BTreeSet<_> = life(&ground).iter().map(|line| line.method.to_owned()).collect();
    let known: BTreeSet<_> = METHODS.iter().map(|(method, _)| (*method).to_owned()).collect();
    let all: BTreeSet<_> = Described::csi().methods().collect();
    assert_eq!(known, all);
    assert_eq!(asked, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_can_be_claimed_is_claimed_by_somebody_and_works() {
    let (ground, attached, split) = (Ground::new(), Ground::new(), Ground::new());
    let mut claimed = live(&ground, Plan::all(&ground).open().await, None).await.0;
    let plan = Plan { attached: Some(Reach::default()), ..Plan::all(&attached) };
    claimed.extend(live(&attached, plan.open().await, None).await.0);
    // Controllers and nodes that share nothing.
    let reach = Reach::default();
    let part = |role, node| Plan { role, node, attached: Some(reach.clone()), ..Plan::all(&split) };
    let controller = part(Role::Controller, "above").open().await;
    claimed.extend(live(&split, controller, Some(part(Role::Node, "here").open().await)).await.0);

    let described = Described::csi();
    let mut all = BTreeSet::new();
    for (service, name) in [
        ("plugin", "PluginCapability.Service.Type"),
        ("expansion", "PluginCapability.VolumeExpansion.Type"),
        ("controller", "ControllerServiceCapability.RPC.Type"),
        ("group", "GroupControllerServiceCapability.RPC.Type"),
        ("node", "NodeServiceCapability.RPC.Type"),
    ] {
        let values = described.values(&format!("csi.v1.{name}"));
        all.extend(
            values.into_iter().filter(|value| value != "UNKNOWN").map(|value| format!("{service} {value}")),
        );
    }
    let never: BTreeSet<_> = NEVER.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(all.difference(&claimed).cloned().collect::<BTreeSet<_>>(), never);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_backend_can_is_refused_by_its_name() {
    let ground = Ground::new();
    let plan = Plan { bare: true, stage: false, ..Plan::all(&ground) };
    let (claimed, refused) = live(&ground, plan.open().await, None).await;
    let optional: BTreeSet<_> =
        METHODS.iter().filter(|(_, needs)| needs.is_some_and(|needs| !claimed.contains(needs))).collect();
    assert_eq!(refused.len(), optional.len());
    assert_eq!(refused.len(), 16, "{refused:?}");
}
