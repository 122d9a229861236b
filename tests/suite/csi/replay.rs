//! Lives of pods as a real kubelet, the real sidecars and a real swarm drove them: who called what, in which order, over
//! which connection, with which deadline and how often (`tests/golden/csi`, recorded against another driver). Each story is
//! told to our door, with our ids where theirs were, and has to end as it did there: every call answered, nothing left. Where
//! their driver was slow ours is, and where theirs knew no volume any more ours has to do better.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kato_store::MemoryStore;
use kato_tests::csi::Caller;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tonic::Code;

use super::{
    described::Described,
    ground::{Gate, House, Plan, Reach, grows_mounted_ext4, usual, wish},
};
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
    ended: Option<Ended>,
}

/// How a call ended there that was not answered with success.
#[derive(Clone, Copy, Deserialize)]
enum Ended {
    /// The caller's patience did.
    #[serde(rename = "given up")]
    GivenUp,
    /// The same was under way.
    #[serde(rename = "ABORTED")]
    Aborted,
    /// Their driver did not know the volume.
    #[serde(rename = "NOT_FOUND")]
    NotFound,
    /// Something between failed, which is not between here.
    #[serde(rename = "INTERNAL once", alias = "ABORTED once")]
    FailedOnce,
}

/// Whoever tells a story, and what theirs is called here.
struct Teller<'g> {
    ground: &'g Ground,
    described: Described,
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
    /// What a slow driver's work waits for.
    gate: Gate,
    /// What is refused here though it was not there: whose volume is still in use.
    in_use: usize,
    calls: usize,
}

impl<'g> Teller<'g> {
    async fn new(ground: &'g Ground, reach: Option<Reach>, stage: bool) -> Self {
        let mut this = Self {
            ground,
            described: Described::csi(),
            house: None,
            reach,
            stage,
            store: Arc::new(MemoryStore::new()),
            callers: HashMap::new(),
            ids: BTreeMap::new(),
            contexts: BTreeMap::new(),
            publish_context: json!({}),
            gate: Gate::default(),
            in_use: 0,
            calls: 0,
        };
        this.open().await;
        this
    }

    async fn open(&mut self) {
        let store = Arc::clone(&self.store);
        let (attached, gate) = (self.reach.clone(), self.gate.clone());
        let plan = Plan { attached, store, stage: self.stage, gate, ..Plan::all(self.ground) };
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
        let method = call.method.rsplit('/').next().unwrap();
        if !self.stage && method == "NodeStageVolume" {
            return;
        }
        let request = self.ours(&call.request);
        self.make_room(method, &request);
        let bytes = self.described.encode(&call.method, &request);
        if !self.callers.contains_key(&call.conn) {
            let caller = self.house.as_ref().unwrap().door.caller().await;
            self.callers.insert(call.conn, caller);
        }
        let slow = matches!(call.ended, Some(Ended::GivenUp | Ended::Aborted));
        if slow || matches!(method, "CreateVolume" | "NodeStageVolume") {
            self.gate.set(!slow);
        }
        let deadline = match slow {
            true => Some(Duration::from_millis(300)),
            false => call.deadline_s.map(Duration::from_secs_f64),
        };
        let answer = self.callers[&call.conn].ask(&call.method, &bytes, deadline).await;
        self.calls += 1;
        match answer {
            Ok(bytes) if !slow => self.learn(&call, &self.described.decode(&call.method, &bytes)),
            Err(status) if slow => {
                // Its outcome is open, so nothing may be heard that is final.
                let open = [Code::Aborted, Code::DeadlineExceeded, Code::Cancelled, Code::Unavailable];
                assert!(open.contains(&status.code()), "{}: {status:?}", call.method);
            }
            // A mounted ext4 grows only where the kernel is asked by somebody with the right to.
            Err(status) if method == "NodeExpandVolume" && !grows_mounted_ext4() => {
                assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            }
            Err(status) if status.code() == Code::FailedPrecondition && method == "DeleteVolume" => {
                self.in_use += 1;
            }
            answer => panic!("{} {request}: {answer:?}", call.method),
        }
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

    /// A volume that was in use once.
    async fn used(&self, name: &str) -> String {
        let house = self.house.as_ref().unwrap();
        let volume = house.create(wish(name, 64)).await.unwrap();
        let staged = self.ground.path(name);
        fs::create_dir_all(&staged).unwrap();
        house.stage(&volume, &staged, &usual(), &BTreeMap::new()).await.unwrap();
        house.unstage(&volume.volume_id, &staged).await.unwrap();
        volume.volume_id
    }

    /// Everything that was told is over: no volume, no mount, no device.
    async fn end(self, calls: usize) {
        assert_eq!((self.calls, self.in_use), (calls, 0));
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
    a_driver_that_is_slow_and_whose_callers_give_up: "slow-driver", 62, None, true;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_volumes_that_nobody_knows_any_more_can_go() {
    let ground = Ground::new();
    let mut teller = Teller::new(&ground, None, true).await;
    // The volume that they copied is older than the story.
    let source = teller.used("source").await;
    teller.ids.insert("fdc90712-e548-11f1-b7a7-367672d3427f".into(), source.clone());
    teller.tell("unknown-volumes").await;
    // Theirs was deleted under its pod, which could not be ended after that. Ours was in use, both times; then it is unpublished
    // with every other call, and what kubelet would have gone on with is done here.
    assert_eq!(std::mem::take(&mut teller.in_use), 2);
    let house = teller.house.as_ref().unwrap();
    let copy = teller.ids["ff7595dd-e548-11f1-b7a7-367672d3427f"].clone();
    let staged = ground.path("kubelet").join(
        "plugins/kubernetes.io/csi/kato.storage/\
         d09abe3c5962bd4aacc82d716e7a5cbdcb331f9a3d96b0664d7e3443b803b5f0/globalmount",
    );
    house.unstage(&copy, &staged).await.unwrap();
    for volume in [copy, source] {
        house.delete(&volume).await.unwrap();
    }
    teller.end(20).await;
}
