//! Lives of pods as a real kubelet, the real sidecars and a real swarm drove them: who called what, in which order, over
//! which connection, with which deadline and how often (`tests/golden/csi`, recorded against another driver). Each story is
//! told to our door, with our ids where theirs were, and has to end as it did there: every call answered, nothing left.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kato_store::MemoryStore;
use kato_tests::csi::Caller;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions, prost::Message as _,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::ground::{House, Plan, Reach};
use crate::host::ground::Ground;

/// A line of a story.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Call(Call),
    Down { event: String },
}

#[derive(Deserialize)]
struct Call {
    conn: u64,
    method: String,
    deadline_s: Option<f64>,
    request: Value,
    #[serde(default)]
    response: Value,
}

/// Whoever tells a story, and what theirs is called here.
struct Teller<'g> {
    ground: &'g Ground,
    pool: DescriptorPool,
    house: Option<House>,
    reach: Option<Reach>,
    /// Whether volumes are staged: whoever hears that they are not calls no NodeStageVolume.
    stage: bool,
    store: Arc<MemoryStore>,
    callers: HashMap<u64, Caller>,
    /// Ids of theirs, and what they are here.
    ids: BTreeMap<String, String>,
    /// Contexts of volumes: theirs, and ours.
    contexts: BTreeMap<String, (Value, Value)>,
    publish_context: Value,
    calls: usize,
}

fn pool() -> DescriptorPool {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../csi/proto");
    let files = protox::compile([folder.join("csi.proto")], [&folder]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

impl<'g> Teller<'g> {
    async fn new(ground: &'g Ground, reach: Option<Reach>, stage: bool) -> Self {
        let mut this = Self {
            ground,
            pool: pool(),
            house: None,
            reach,
            stage,
            store: Arc::new(MemoryStore::new()),
            callers: HashMap::new(),
            ids: BTreeMap::new(),
            contexts: BTreeMap::new(),
            publish_context: json!({}),
            calls: 0,
        };
        this.open().await;
        this
    }

    async fn open(&mut self) {
        let store = Arc::clone(&self.store);
        let plan = Plan { attached: self.reach.clone(), store, stage: self.stage, ..Plan::all(self.ground) };
        self.house = Some(plan.open().await);
    }

    async fn tell(&mut self, story: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/csi/{story}.jsonl"));
        for line in fs::read_to_string(path).unwrap().lines() {
            match serde_json::from_str(line).unwrap() {
                Line::Call(call) => self.call(call).await,
                Line::Down { event } => {
                    assert_eq!(event, "down");
                    // Nobody is told of a restart, and nobody asks for anything: what is mounted stays.
                    self.callers.clear();
                    if let Some(house) = self.house.take() {
                        house.close().await;
                    }
                    self.open().await;
                }
            }
        }
    }

    async fn call(&mut self, call: Call) {
        let (service, method) = call.method.trim_start_matches('/').split_once('/').unwrap();
        if !self.stage && method == "NodeStageVolume" {
            return;
        }
        let service = self.pool.get_service_by_name(service).unwrap();
        let method: MethodDescriptor = service.methods().find(|one| one.name() == method).unwrap();
        let request = self.ours(&call.request);
        self.make_room(method.name(), &request);
        let message = DynamicMessage::deserialize(method.input(), request.clone());
        let bytes = message.unwrap_or_else(|error| panic!("{}: {error}", call.request)).encode_to_vec();
        if !self.callers.contains_key(&call.conn) {
            let caller = self.house.as_ref().unwrap().door.caller().await;
            self.callers.insert(call.conn, caller);
        }
        let deadline = call.deadline_s.map(Duration::from_secs_f64);
        let answer = self.callers[&call.conn].ask(&call.method, &bytes, deadline).await;
        let bytes = answer.unwrap_or_else(|status| panic!("{} {request}: {status:?}", call.method));
        let answer = DynamicMessage::decode(method.output(), bytes.as_slice()).unwrap();
        let names = SerializeOptions::new().use_proto_field_name(true);
        let told = answer.serialize_with_options(serde_json::value::Serializer, &names).unwrap();
        self.learn(&call, &told);
        self.calls += 1;
    }

    /// Their words, with our names in them.
    fn ours(&self, theirs: &Value) -> Value {
        match theirs {
            Value::String(text) => json!(self.place(self.ids.get(text).unwrap_or(text))),
            Value::Array(all) => all.iter().map(|one| self.ours(one)).collect(),
            Value::Object(map) => {
                let mut ours = Map::new();
                for (key, value) in map {
                    let value = match key.as_str() {
                        "volume_context" => self.context(map, value),
                        "publish_context" => self.publish_context.clone(),
                        // A parameter of the other driver's.
                        "tier" => continue,
                        _ => self.ours(value),
                    };
                    ours.insert(key.clone(), value);
                }
                // What they had nothing to say in is not empty here.
                if let Some(id) = map.get("volume_id").and_then(Value::as_str)
                    && map.contains_key("volume_capability")
                    && !map.contains_key("capacity_range")
                {
                    ours.entry("volume_context").or_insert_with(|| self.context(map, &json!({})));
                    if map.contains_key("staging_target_path") && self.contexts.contains_key(id) {
                        ours.insert("publish_context".into(), self.publish_context.clone());
                    }
                }
                Value::Object(ours)
            }
            other => other.clone(),
        }
    }

    /// What a volume carries: ours, and what was added on the way there.
    fn context(&self, request: &Map<String, Value>, theirs: &Value) -> Value {
        let id = request.get("volume_id").and_then(Value::as_str).unwrap_or_default();
        let Some((before, ours)) = self.contexts.get(id) else {
            let mut context = theirs.clone();
            if context.get("csi.storage.k8s.io/ephemeral").is_some() {
                // Whoever wrote the pod names a class that allows it.
                context["class"] = json!("pods");
            }
            return context;
        };
        let mut context = ours.as_object().cloned().unwrap_or_default();
        for (key, value) in theirs.as_object().into_iter().flatten() {
            if before.get(key).is_none() {
                context.insert(key.clone(), value.clone());
            }
        }
        Value::Object(context)
    }

    fn place(&self, text: &str) -> String {
        let root = self.ground.path("kubelet").display().to_string();
        match text.strip_prefix("/data/") {
            Some(rest) => format!("{root}/data/{rest}"),
            None => text.replace("KUBELET", &root),
        }
    }

    /// Kubelet makes the folders of what it asks for.
    fn make_room(&self, method: &str, request: &Value) {
        let path = |key: &str| request.get(key).and_then(Value::as_str).map(PathBuf::from);
        match method {
            "NodeStageVolume" => fs::create_dir_all(path("staging_target_path").unwrap()).unwrap(),
            "NodePublishVolume" => {
                fs::create_dir_all(path("target_path").unwrap().parent().unwrap()).unwrap()
            }
            _ => {}
        }
    }

    fn learn(&mut self, call: &Call, told: &Value) {
        let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
        for path in ["/volume/volume_id", "/snapshot/snapshot_id"] {
            if let (Some(theirs), Some(ours)) = (text(&call.response, path), text(told, path)) {
                self.ids.insert(theirs.clone(), ours);
                let before = call.response.pointer("/volume/volume_context").cloned().unwrap_or_default();
                let ours = told.pointer("/volume/volume_context").cloned().unwrap_or_default();
                self.contexts.insert(theirs, (before, ours));
            }
        }
        if let Some(context) = told.get("publish_context") {
            self.publish_context = context.clone();
        }
    }

    /// Everything that was told is over: no volume, no mount, no device.
    async fn end(self, calls: usize) {
        assert_eq!(self.calls, calls);
        let house = self.house.unwrap();
        let left = house.hall.list(None, 10).await.unwrap().items;
        assert!(left.is_empty(), "{left:?}");
        assert!(house.hall.list_snapshots(None, 10).await.unwrap().items.is_empty());
        assert!(self.ground.loops().is_empty(), "{:?}", self.ground.loops());
        let kubelet = self.ground.path("kubelet").display().to_string();
        assert!(self.ground.mounts().iter().all(|mount| !mount.starts_with(&kubelet)));
        assert!(self.reach.is_none_or(|reach| reach.nodes().is_empty()));
        house.close().await;
    }
}

macro_rules! stories {
    ($($name:ident: $story:literal, $calls:literal, $reach:expr, $stage:literal;)*) => { $(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let ground = Ground::new();
            let mut teller = Teller::new(&ground, $reach, $stage).await;
            teller.tell($story).await;
            teller.end($calls).await;
        }
    )* };
}

stories! {
    the_start_of_everything: "startup", 23, None, true;
    a_claim_and_a_pod: "pvc-pod", 16, None, true;
    a_claim_that_has_to_be_attached: "attach", 39, Some(Reach::default()), true;
    two_pods_on_one_claim: "two-pods", 20, None, true;
    a_claim_that_grows: "expand", 20, None, true;
    a_snapshot_a_restore_and_a_copy: "snapshot-restore", 43, None, true;
    a_device: "block", 10, None, true;
    an_inline_volume: "inline", 4, None, true;
    a_driver_that_is_killed_twice: "driver-restart", 18, None, true;
    a_cluster_volume_of_swarm: "swarm", 13, None, false;
}
