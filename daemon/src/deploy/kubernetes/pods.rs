//! What runs: the daemon on every node with the kubelet's registrar, and beside it, or in a controller of its own, the
//! sidecars that ask for work. A node's pod comes and goes without any mount taking notice: it mounts into the host's
//! own folders, and what it starts for a mount is started among the host's processes.

use serde_json::{Map, Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{
    Object, Plan,
    blocks::{self, Tls},
    sidecars::{self, Sidecar, workers},
};
use crate::{
    deploy::{FILES, SEAL, carried::Reference, site::Form},
    yaml::Remark,
};

/// Where the probes ask whether the daemon is well.
pub(super) const HEALTH: u16 = 9808;

/// Where the configuration is in the container: the daemon looks there by itself.
const CONFIGURATION: &str = "/etc/kato";

/// Where the kubelet looks for the driver's socket.
pub(super) fn plugin_folder(plan: &Plan<'_>) -> String {
    format!("{}/plugins/{}", plan.wish.kubelet, plan.site.driver)
}

pub(super) fn objects(plan: &Plan<'_>) -> Vec<Object> {
    let mut objects = Vec::new();
    if plan.site.form == Form::Shared {
        objects.push(controller(plan));
    }
    objects.push(node(plan));
    if plan.blocks {
        objects.extend(blocks::objects(plan));
    }
    objects
}

/// A folder of the container: what it is called, where it is, and where it comes from.
struct Place {
    name: String,
    path: String,
    source: Json,
    /// `None`, or how mounts travel between the container and the host.
    propagation: Option<&'static str>,
    read_only: bool,
}

impl Place {
    fn of(name: &str, path: impl Into<String>, source: Json) -> Self {
        Self { name: name.to_owned(), path: path.into(), source, propagation: None, read_only: false }
    }

    /// A folder of the host at its own path.
    fn host(name: &str, path: impl Into<String>, kind: &str) -> Self {
        let path = path.into();
        let source = json!({ "hostPath": { "path": path, "type": kind } });
        Self::of(name, path, source)
    }

    fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    fn shared(mut self) -> Self {
        self.propagation = Some("Bidirectional");
        self
    }

    fn mount(&self) -> Json {
        let mut mount = Map::new();
        mount.insert("name".to_owned(), self.name.as_str().into());
        mount.insert("mountPath".to_owned(), self.path.as_str().into());
        if let Some(propagation) = self.propagation {
            mount.insert("mountPropagation".to_owned(), propagation.into());
        }
        if self.read_only {
            mount.insert("readOnly".to_owned(), true.into());
        }
        mount.into()
    }

    fn volume(&self) -> Json {
        let mut volume = self.source.clone();
        if let Some(fields) = volume.as_object_mut() {
            fields.insert("name".to_owned(), self.name.as_str().into());
        }
        volume
    }
}

/// What the daemon reads, wherever it runs.
fn given(plan: &Plan<'_>) -> Vec<Place> {
    let folder = SEAL.rsplit_once('/').map_or(SEAL, |(folder, _)| folder);
    let secret = |name: String| json!({ "secret": { "secretName": name, "defaultMode": 0o400 } });
    let mut places = vec![
        Place::of("configuration", CONFIGURATION, json!({ "configMap": { "name": plan.named("config") } }))
            .read_only(),
        Place::of("seal", folder, secret(plan.named("seal"))).read_only(),
    ];
    if plan.site.references().iter().any(|reference| matches!(reference, Reference::File { .. })) {
        places.push(Place::of("files", FILES, secret(plan.named("files"))).read_only());
    }
    places
}

/// The daemon's container.
fn daemon(plan: &Plan<'_>, role: &str, security: &Json, places: &[Place]) -> Json {
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut environment = vec![
        json!({ "name": "CSI_ENDPOINT", "value": "unix:///csi/csi.sock" }),
        // The pod of a controller has no node that matters.
        field("KATO__NODE__ID", if role == "controller" { "metadata.name" } else { "spec.nodeName" }),
    ];
    for reference in plan.site.references() {
        if let Reference::Variable(name) = reference {
            let from = json!({ "secretKeyRef": { "name": plan.named("files"), "key": reference.key() } });
            environment.push(json!({ "name": name, "valueFrom": from }));
        }
    }
    let probe = |period: u32, failures: u32| {
        json!({
            "httpGet": { "path": "/healthz", "port": "health" },
            "periodSeconds": period, "timeoutSeconds": 6, "failureThreshold": failures,
        })
    };
    json!({
        "name": "kato",
        "image": plan.wish.image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["serve", "--role", role],
        "env": environment,
        "ports": [{ "name": "health", "containerPort": HEALTH, "protocol": "TCP" }],
        "startupProbe": probe(5, 60),
        "readinessProbe": probe(10, 3),
        "livenessProbe": probe(15, 6),
        "resources": { "requests": { "cpu": "20m", "memory": "64Mi" } },
        "securityContext": security,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": places.iter().map(Place::mount).collect::<Vec<_>>(),
    })
}

/// What the pods of both kinds have alike.
fn template(plan: &Plan<'_>, component: &str, spec: Json) -> Json {
    let mut annotations = json!({
        "kubectl.kubernetes.io/default-container": "kato",
        "kato.storage/configuration": plan.site.configuration.digest(),
    });
    if let (Tls::Ours(certificate), Some(annotations)) = (&plan.wish.tls, annotations.as_object_mut())
        && plan.blocks
    {
        // The sidecar reads its certificate when it starts, so another certificate is another pod.
        annotations.insert("kato.storage/certificate".to_owned(), digest(&certificate.chain).into());
    }
    json!({ "metadata": { "labels": plan.labels_of(component), "annotations": annotations }, "spec": spec })
}

/// So much of a text's digest that two are told apart.
fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

const DIGEST: Remark = (
    "/spec/template/metadata/annotations/kato.storage~1configuration",
    "What a driver can do is asked once by each sidecar, so another configuration is another pod.",
);

fn node(plan: &Plan<'_>) -> Object {
    let site = plan.site;
    let bound = site.form == Form::NodeBound;
    let text = |path: &std::path::Path| path.display().to_string();
    let folder = plugin_folder(plan);
    let mut places = vec![
        Place::of("socket", "/csi", json!({ "hostPath": { "path": folder, "type": "DirectoryOrCreate" } })),
        Place::host("kubelet", plan.wish.kubelet.as_str(), "Directory").shared(),
        Place::host("data", text(&site.data), "DirectoryOrCreate").shared(),
        Place::host("run", text(&site.run), "DirectoryOrCreate"),
        Place::host("dev", "/dev", "Directory"),
        Place::host("udev", "/run/udev", "DirectoryOrCreate").read_only(),
    ];
    for (at, path) in site.granted.iter().enumerate() {
        places.push(Place::host(&format!("granted-{at}"), text(path), "Directory"));
    }
    places.extend(given(plan));
    let role = if bound { "all" } else { "node" };
    let mut containers = vec![
        daemon(plan, role, &json!({ "privileged": true }), &places),
        sidecars::container(plan, Sidecar::Registrar),
        sidecars::container(plan, Sidecar::LivenessProbe),
    ];
    if bound {
        containers.extend(workers(plan).into_iter().map(|sidecar| sidecars::container(plan, sidecar)));
    }
    let mut volumes: Vec<Json> = places.iter().map(Place::volume).collect();
    let registry = json!({ "path": format!("{}/plugins_registry", plan.wish.kubelet), "type": "Directory" });
    volumes.push(json!({ "name": "registration", "hostPath": registry }));
    let mut spec = json!({
        "serviceAccountName": plan.named("node"),
        "automountServiceAccountToken": bound,
        "priorityClassName": "system-node-critical",
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "tolerations": [{ "operator": "Exists" }],
        "hostPID": true,
        "securityContext": { "seLinuxOptions": { "type": "spc_t" } },
        "terminationGracePeriodSeconds": 30,
        "containers": containers,
        "volumes": volumes,
    });
    if let (true, Some(fields)) = (site.network, spec.as_object_mut()) {
        fields.insert("hostNetwork".to_owned(), true.into());
        fields.insert("dnsPolicy".to_owned(), "ClusterFirstWithHostNet".into());
    }
    let body = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": plan.local(&plan.named("node")),
        "spec": {
            "selector": { "matchLabels": plan.labels_of("node") },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "10%" } },
            "template": template(plan, "node", spec),
        },
    });
    Object::new("node.yaml", body).because([
        DIGEST,
        (
            "/spec/template/spec/automountServiceAccountToken",
            "Neither the daemon nor the registrar asks the cluster anything; a sidecar that does has this account's rights.",
        ),
        (
            "/spec/template/spec/hostNetwork",
            "A volume that is reached over the network outlives the pod, and so must the network that it was reached by.",
        ),
        (
            "/spec/template/spec/hostPID",
            "The daemon sees who still has a volume, whatever pod that is in, and leaves its own programs with the host.",
        ),
        (
            "/spec/template/spec/securityContext",
            "Where SELinux is on, only this lets the sidecars reach the socket of a privileged container.",
        ),
        (
            "/spec/template/spec/terminationGracePeriodSeconds",
            "The daemon needs a few seconds. It leaves every mount as it is.",
        ),
        ("/spec/template/spec/tolerations", "A pod can have volumes wherever it is let in."),
        (
            "/spec/template/spec/containers/0/startupProbe",
            "A large journal takes a while to open, and is not opened faster by killing the daemon.",
        ),
        (
            "/spec/updateStrategy",
            "Few nodes at once: while the daemon is away nothing new is mounted, and nothing that is there is touched.",
        ),
    ])
}

fn controller(plan: &Plan<'_>) -> Object {
    let site = plan.site;
    let text = |path: &std::path::Path| path.display().to_string();
    let nothing = || json!({ "emptyDir": {} });
    let mut places = vec![
        Place::of("socket", "/csi", nothing()),
        Place::of("data", text(&site.data), nothing()),
        Place::of("run", text(&site.run), nothing()),
        Place::of("tmp", "/tmp", nothing()),
    ];
    places.extend(given(plan));
    // What a granted command is run with: as somebody else, where nothing can be written.
    let powers: &[&str] = if site.commands { &["KILL", "SETGID", "SETUID", "SYS_ADMIN"] } else { &[] };
    let security = json!({
        "allowPrivilegeEscalation": site.commands,
        "capabilities": { "drop": ["ALL"], "add": powers },
        "readOnlyRootFilesystem": true,
        "runAsUser": 0,
    });
    let mut containers = vec![
        daemon(plan, "controller", &security, &places),
        sidecars::container(plan, Sidecar::LivenessProbe),
    ];
    containers.extend(workers(plan).into_iter().map(|sidecar| sidecars::container(plan, sidecar)));
    let mut volumes: Vec<Json> = places.iter().map(Place::volume).collect();
    if plan.blocks {
        let secret = json!({ "secretName": plan.named("snapshot-metadata"), "defaultMode": 0o400 });
        volumes.push(json!({ "name": "certificate", "secret": secret }));
    }
    let apart = json!({
        "weight": 100,
        "podAffinityTerm": {
            "labelSelector": { "matchLabels": plan.labels_of("controller") },
            "topologyKey": "kubernetes.io/hostname",
        },
    });
    let spec = json!({
        "serviceAccountName": plan.named("controller"),
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [apart] } },
        "terminationGracePeriodSeconds": 30,
        "containers": containers,
        "volumes": volumes,
    });
    let body = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": plan.local(&plan.named("controller")),
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": plan.labels_of("controller") },
            "template": template(plan, "controller", spec),
        },
    });
    Object::new("controller.yaml", body).because([
        DIGEST,
        ("/spec/replicas", "The sidecars choose which of them works; the daemon beside it answers."),
        (
            "/spec/template/spec/volumes/1",
            "A cache: what there is, the backends know, and what was asked for, Kubernetes asks again.",
        ),
    ])
}
