//! Who may do what: an account for each pod, and a role for each sidecar in it with what that sidecar's documentation
//! asks for and this deployment uses. None may read Secrets: no class refers to one, for credentials are the daemon's.

use serde_json::{Value as Json, json};

use super::{
    Object, Plan,
    sidecars::{Sidecar, workers},
};
use crate::deploy::site::Form;

const FILE: &str = "rights.yaml";

const READ: &[&str] = &["get", "list", "watch"];

/// The accounts, roles and bindings.
pub(super) fn objects(plan: &Plan<'_>) -> Vec<Object> {
    let mut objects = Vec::new();
    let who = account(plan);
    if plan.site.form == Form::Shared {
        objects.push(service_account(plan, &plan.named("controller")));
    }
    objects.push(service_account(plan, &plan.named("node")));
    for sidecar in workers(plan) {
        let name = plan.named(sidecar.name());
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": plan.meta(&name),
            "rules": cluster_rules(plan, sidecar),
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": plan.meta(&name),
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": who, "namespace": plan.wish.namespace }],
        });
        objects.extend([Object::new(FILE, role), Object::new(FILE, binding)]);
    }
    let rules = local_rules(plan);
    if !rules.is_empty() {
        let name = plan.named("sidecars");
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": plan.local(&name),
            "rules": rules,
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": plan.local(&name),
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": who, "namespace": plan.wish.namespace }],
        });
        objects.extend([Object::new(FILE, role), Object::new(FILE, binding)]);
    }
    objects
}

/// The account of the pod in which the workers are.
fn account(plan: &Plan<'_>) -> String {
    plan.named(match plan.site.form {
        Form::Shared => "controller",
        Form::NodeBound => "node",
    })
}

fn service_account(plan: &Plan<'_>, name: &str) -> Object {
    Object::new(FILE, json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": plan.local(name) }))
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Json {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

/// What a sidecar needs of the whole cluster.
fn cluster_rules(plan: &Plan<'_>, sidecar: Sidecar) -> Vec<Json> {
    let site = plan.site;
    let events = rule("", &["events"], &["list", "watch", "create", "update", "patch"]);
    match sidecar {
        Sidecar::Provisioner => {
            let mut rules = vec![
                rule("", &["persistentvolumes"], &["get", "list", "watch", "create", "patch", "delete"]),
                rule("", &["persistentvolumeclaims"], &["get", "list", "watch", "update"]),
                rule("", &["nodes"], READ),
                events,
                rule("storage.k8s.io", &["storageclasses", "csinodes"], READ),
            ];
            if site.attaches() {
                // It waits with a delete until nothing is attached any more.
                rules.push(rule("storage.k8s.io", &["volumeattachments"], READ));
            }
            if site.modifies() {
                // A claim may name one when it is made.
                rules.push(rule("storage.k8s.io", &["volumeattributesclasses"], READ));
            }
            if plan.snapshots {
                rules.push(rule(
                    "snapshot.storage.k8s.io",
                    &["volumesnapshots"],
                    &["get", "list", "watch", "update"],
                ));
                rules.push(rule("snapshot.storage.k8s.io", &["volumesnapshotcontents"], &["get", "list"]));
            }
            rules
        }
        Sidecar::Attacher => vec![
            rule("", &["persistentvolumes"], &["get", "list", "watch", "patch"]),
            rule("storage.k8s.io", &["csinodes"], READ),
            rule("storage.k8s.io", &["volumeattachments"], &["get", "list", "watch", "patch"]),
            rule("storage.k8s.io", &["volumeattachments/status"], &["patch"]),
        ],
        Sidecar::Resizer => {
            let mut rules = vec![
                rule("", &["persistentvolumes"], &["get", "list", "watch", "patch"]),
                rule("", &["persistentvolumeclaims"], READ),
                rule("", &["persistentvolumeclaims/status"], &["patch"]),
                events,
                // It watches them whether or not the driver changes anything.
                rule("storage.k8s.io", &["volumeattributesclasses"], READ),
            ];
            if site.grows_offline() {
                // A volume that is in use is grown when its last pod is gone.
                rules.push(rule("", &["pods"], READ));
            }
            rules
        }
        Sidecar::Snapshotter => {
            let mut rules = vec![events];
            let mut group = |group: &str, classes: &str, contents: &str| {
                rules.push(rule(group, &[classes], READ));
                rules.push(rule(group, &[contents], &["get", "list", "watch", "update", "patch"]));
                rules.push(rule(group, &[&format!("{contents}/status")], &["update", "patch"]));
            };
            group("snapshot.storage.k8s.io", "volumesnapshotclasses", "volumesnapshotcontents");
            if site.groups() {
                group(
                    "groupsnapshot.storage.k8s.io",
                    "volumegroupsnapshotclasses",
                    "volumegroupsnapshotcontents",
                );
            }
            rules
        }
        Sidecar::SnapshotMetadata => vec![
            rule("cbt.storage.k8s.io", &["snapshotmetadataservices"], &["get"]),
            rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
            rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
            rule("snapshot.storage.k8s.io", &["volumesnapshots", "volumesnapshotcontents"], &["get", "list"]),
            // It looks there for a Secret to hand on, and finds that none is named.
            rule("snapshot.storage.k8s.io", &["volumesnapshotclasses"], &["get", "list"]),
        ],
        Sidecar::Registrar | Sidecar::LivenessProbe => Vec::new(),
    }
}

/// What they need of their own namespace: to agree on who works, and to say how much room there is.
fn local_rules(plan: &Plan<'_>) -> Vec<Json> {
    let mut rules = Vec::new();
    if plan.site.form == Form::Shared {
        let verbs = ["get", "watch", "list", "delete", "update", "create"];
        rules.push(rule("coordination.k8s.io", &["leases"], &verbs));
    }
    if plan.site.tells_capacity() {
        let verbs = ["get", "list", "watch", "create", "update", "patch", "delete"];
        rules.push(rule("storage.k8s.io", &["csistoragecapacities"], &verbs));
        // From the pod up to its owner, so that what it said goes when the deployment does.
        rules.push(rule("", &["pods"], &["get"]));
        if plan.site.form == Form::Shared {
            rules.push(rule("apps", &["replicasets"], &["get"]));
        }
    }
    rules
}
