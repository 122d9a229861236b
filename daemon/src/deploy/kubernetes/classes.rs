//! What people name in their claims: a storage class for each class of the configuration, one for snapshots, and an
//! example of how a volume's parameters are changed.

use std::collections::BTreeMap;

use kato_orchestrator::model::Class;
use serde_json::{Map, Value as Json, json};

use super::{Object, Plan, is_label};
use crate::cli::{Exit, Failure};

const FILE: &str = "classes.yaml";

pub(super) fn objects(plan: &Plan<'_>) -> Result<Vec<Object>, Failure> {
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    let mut objects = Vec::new();
    for class in &plan.site.classes {
        let name = plan.named(&class_name(class)?);
        if let Some(other) = names.insert(name.clone(), class.name.as_str()) {
            return Err(Failure::new(
                Exit::Config,
                format!("the classes {other} and {} would both be {name} in Kubernetes", class.name),
            )
            .next("rename one of them"));
        }
        objects.push(storage_class(plan, class, &name));
    }
    if plan.snapshots {
        objects.push(snapshot_class(plan, "snapshot.storage.k8s.io/v1", "VolumeSnapshotClass"));
    }
    if plan.snapshots && plan.site.groups() {
        objects.push(snapshot_class(plan, "groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshotClass"));
    }
    objects.extend(attributes(plan));
    Ok(objects)
}

/// A class's name as Kubernetes can have it.
fn class_name(class: &Class) -> Result<String, Failure> {
    let name = class.name.as_str().to_lowercase().replace(['_', ' '], "-");
    if name.split('.').all(is_label) && name.len() <= 200 {
        return Ok(name);
    }
    Err(Failure::new(Exit::Config, format!("class {:?} cannot be a name in Kubernetes", class.name.as_str()))
        .next("use letters, digits and dashes for it, or deploy without its backend"))
}

fn storage_class(plan: &Plan<'_>, class: &Class, name: &str) -> Object {
    let mut meta = plan.meta(name);
    let is_default = plan.wish.default_class && plan.site.default_class.as_ref() == Some(&class.name);
    if let (true, Some(meta)) = (is_default, meta.as_object_mut()) {
        meta.insert(
            "annotations".to_owned(),
            json!({ "storageclass.kubernetes.io/is-default-class": "true" }),
        );
    }
    let mut body = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": meta,
        "provisioner": plan.site.driver,
        "parameters": { "class": class.name.as_str(), "csi.storage.k8s.io/fstype": class.fs.name() },
        "allowVolumeExpansion": plan.site.class_grows(class),
        "reclaimPolicy": if class.retain { "Retain" } else { "Delete" },
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    if let (false, Some(body)) = (class.mount_options.is_empty(), body.as_object_mut()) {
        body.insert("mountOptions".to_owned(), json!(class.mount_options));
    }
    Object::new(FILE, body)
        .because([("/volumeBindingMode", "A volume is made when a pod wants it, where that pod can run.")])
}

fn snapshot_class(plan: &Plan<'_>, version: &str, kind: &str) -> Object {
    let group = version.split('/').next().unwrap_or_default().replace(".k8s.io", ".kubernetes.io");
    let mut meta = plan.meta(&plan.wish.name);
    if let Some(meta) = meta.as_object_mut() {
        meta.insert("annotations".to_owned(), json!({ format!("{group}/is-default-class"): "true" }));
    }
    let body = json!({
        "apiVersion": version, "kind": kind,
        "metadata": meta,
        "driver": plan.site.driver,
        "deletionPolicy": "Delete",
    });
    Object::new(FILE, body)
}

/// An example for each backend whose volumes can be changed: every parameter that can, as it is when nobody says
/// otherwise.
fn attributes(plan: &Plan<'_>) -> Vec<Object> {
    let mut objects = Vec::new();
    if !plan.site.modifies() {
        return objects;
    }
    for (name, description) in plan.site.backends.iter().filter(|(_, it)| it.abilities.modify) {
        let mutable = description.parameters.iter().filter(|it| it.mutable && !it.default.is_empty());
        let parameters: Map<String, Json> =
            mutable.map(|it| (it.name.clone(), it.default.as_str().into())).collect();
        if parameters.is_empty() {
            continue;
        }
        let body = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass",
            "metadata": plan.meta(&plan.named(&format!("{}-usual", name.as_str().to_lowercase().replace('_', "-")))),
            "driverName": plan.site.driver,
            "parameters": parameters,
        });
        objects.push(Object::new(FILE, body).because([(
            "/parameters",
            "An example: a claim that names this class gets these; copy it under another name for other values.",
        )]));
    }
    objects
}
