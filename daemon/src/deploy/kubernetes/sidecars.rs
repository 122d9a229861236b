//! Kubernetes' own programs that run beside the daemon: which, in which version, and how they are started. Each exits
//! at once when the driver lacks the capability that it is for, so a sidecar stands here only with the ability that it
//! needs. There is none that watches the health of volumes: it needs a capability that CSI 1.13 took away.

use serde_json::{Value as Json, json};

use super::{Plan, pods};
use crate::deploy::site::Form;

/// A sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sidecar {
    Provisioner,
    Attacher,
    Resizer,
    Snapshotter,
    SnapshotMetadata,
    Registrar,
    LivenessProbe,
}

/// The programs, by the names of their images, in the versions that this release was written for.
const VERSIONS: [(Sidecar, &str, &str); 7] = [
    (Sidecar::Provisioner, "csi-provisioner", "v6.3.0"),
    (Sidecar::Attacher, "csi-attacher", "v4.12.0"),
    (Sidecar::Resizer, "csi-resizer", "v2.2.1"),
    (Sidecar::Snapshotter, "csi-snapshotter", "v8.6.0"),
    (Sidecar::SnapshotMetadata, "csi-snapshot-metadata", "v1.1.0"),
    (Sidecar::Registrar, "csi-node-driver-registrar", "v2.17.0"),
    (Sidecar::LivenessProbe, "livenessprobe", "v2.19.0"),
];

impl Sidecar {
    /// Its image's name, and what its objects are called.
    pub(super) fn name(self) -> &'static str {
        VERSIONS.iter().find(|(sidecar, ..)| *sidecar == self).map_or("", |(_, name, _)| name)
    }

    fn version(self) -> &'static str {
        VERSIONS.iter().find(|(sidecar, ..)| *sidecar == self).map_or("", |(.., version)| version)
    }
}

/// Those that ask for work on volumes. In which pod they are, the form says.
pub(super) fn workers(plan: &Plan<'_>) -> Vec<Sidecar> {
    let site = plan.site;
    let all = [
        (Sidecar::Provisioner, true),
        (Sidecar::Attacher, site.attaches()),
        (Sidecar::Resizer, site.grows() || site.modifies()),
        (Sidecar::Snapshotter, plan.snapshots),
        (Sidecar::SnapshotMetadata, plan.blocks),
    ];
    all.into_iter().filter(|(_, wanted)| *wanted).map(|(sidecar, _)| sidecar).collect()
}

/// The container of a sidecar.
pub(super) fn container(plan: &Plan<'_>, sidecar: Sidecar) -> Json {
    let mut mounts = vec![json!({ "name": "socket", "mountPath": "/csi" })];
    let mut body = json!({
        "name": sidecar.name(),
        "image": format!("{}/{}:{}", plan.wish.registry, sidecar.name(), sidecar.version()),
        "imagePullPolicy": "IfNotPresent",
        "args": arguments(plan, sidecar),
        "resources": { "requests": { "cpu": "10m", "memory": "32Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            // The daemon's socket is root's alone.
            "runAsUser": 0,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    let Some(fields) = body.as_object_mut() else { return body };
    match sidecar {
        Sidecar::Registrar => mounts.push(json!({ "name": "registration", "mountPath": "/registration" })),
        Sidecar::SnapshotMetadata => {
            mounts.push(json!({ "name": "certificate", "mountPath": "/certificate", "readOnly": true }));
            fields.insert(
                "ports".to_owned(),
                json!([{ "name": "blocks", "containerPort": 50051, "protocol": "TCP" }]),
            );
        }
        _ => {}
    }
    let environment = environment(plan, sidecar);
    if !environment.is_empty() {
        fields.insert("env".to_owned(), environment.into());
    }
    fields.insert("volumeMounts".to_owned(), mounts.into());
    body
}

fn arguments(plan: &Plan<'_>, sidecar: Sidecar) -> Vec<String> {
    let site = plan.site;
    let bound = site.form == Form::NodeBound;
    let mut words: Vec<String> = vec!["--csi-address=/csi/csi.sock".to_owned()];
    let mut say = |word: &str| words.push(word.to_owned());
    let elects = !matches!(sidecar, Sidecar::Registrar | Sidecar::LivenessProbe | Sidecar::SnapshotMetadata);
    match (elects, bound) {
        (true, false) => say("--leader-election=true"),
        (true, true) => say("--node-deployment=true"),
        _ => {}
    }
    if elects && sidecar != Sidecar::Snapshotter {
        // The daemon answers within `csi.wait` that it is at work, and is asked again; the snapshotter waits a minute
        // by itself.
        say("--timeout=15s");
    }
    match sidecar {
        Sidecar::Provisioner => {
            say("--extra-create-metadata=true");
            if bound {
                say("--immediate-topology=false");
            }
            say("--strict-topology=true");
            if site.tells_capacity() {
                say("--enable-capacity=true");
                // What owns the pod owns what the pod says of capacity: the DaemonSet, or the Deployment by its
                // ReplicaSet.
                say(if bound { "--capacity-ownerref-level=1" } else { "--capacity-ownerref-level=2" });
            }
        }
        Sidecar::Resizer => {
            if !site.grows_offline() {
                say("--handle-volume-inuse-error=false");
            }
        }
        Sidecar::Snapshotter => {
            say(if site.groups() {
                "--feature-gates=CSIVolumeGroupSnapshot=true"
            } else {
                "--feature-gates=CSIVolumeGroupSnapshot=false"
            });
        }
        Sidecar::SnapshotMetadata => {
            say("--tls-cert=/certificate/tls.crt");
            say("--tls-key=/certificate/tls.key");
        }
        Sidecar::Registrar => {
            say(&format!("--kubelet-registration-path={}/csi.sock", pods::plugin_folder(plan)));
        }
        Sidecar::LivenessProbe => {
            say(&format!("--http-endpoint=:{}", pods::HEALTH));
            say("--probe-timeout=5s");
        }
        Sidecar::Attacher => {}
    }
    words
}

fn environment(plan: &Plan<'_>, sidecar: Sidecar) -> Vec<Json> {
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let bound = plan.site.form == Form::NodeBound;
    let mut environment = Vec::new();
    if bound && matches!(sidecar, Sidecar::Provisioner | Sidecar::Snapshotter) {
        environment.push(field("NODE_NAME", "spec.nodeName"));
    }
    if sidecar == Sidecar::Provisioner && plan.site.tells_capacity() {
        environment.push(field("NAMESPACE", "metadata.namespace"));
        environment.push(field("POD_NAME", "metadata.name"));
    }
    environment
}
