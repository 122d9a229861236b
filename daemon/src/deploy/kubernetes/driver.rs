//! What Kubernetes is told of the driver. Each field is set on purpose: where nobody says anything, the default is some
//! older driver's habit, and most of them cannot be changed afterwards.

use serde_json::json;

use super::{Object, Plan};
use crate::yaml::Remark;

pub(super) fn driver(plan: &Plan<'_>) -> Object {
    let site = plan.site;
    let inline = !site.inline.is_empty();
    let mut modes = vec!["Persistent"];
    if inline {
        modes.push("Ephemeral");
    }
    let mut body = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
        "metadata": plan.meta(&site.driver),
        "spec": {
            "attachRequired": site.attaches(),
            "podInfoOnMount": true,
            "fsGroupPolicy": "File",
            "seLinuxMount": true,
            "storageCapacity": site.tells_capacity(),
            "requiresRepublish": false,
            "tokenRequests": [],
            "volumeLifecycleModes": modes,
        },
    });
    if site.attaches()
        && let Some(spec) = body.pointer_mut("/spec").and_then(|spec| spec.as_object_mut())
    {
        spec.insert("nodeAllocatableUpdatePeriodSeconds".to_owned(), 60.into());
    }
    Object::new("driver.yaml", body).because([
        attach(site.attaches()),
        capacity(site.tells_capacity()),
        modes_of(inline),
        (
            "/spec/fsGroupPolicy",
            "The kubelet gives a volume its group, whatever filesystem it has and however it may be accessed.",
        ),
        (
            "/spec/nodeAllocatableUpdatePeriodSeconds",
            "How many volumes a node has room for changes with what else is attached to it, so the kubelet asks again.",
        ),
        ("/spec/podInfoOnMount", "Who a volume is for is told to the daemon, for its records and its messages."),
        ("/spec/requiresRepublish", "A mount stays as it was made: nothing in it has to be renewed."),
        (
            "/spec/seLinuxMount",
            "A context is mounted with, so that no file has to be relabelled: each volume is a filesystem of its own.",
        ),
        ("/spec/tokenRequests", "The daemon acts by its own credentials and by no pod's."),
    ])
}

fn attach(needed: bool) -> Remark {
    let why = match needed {
        true => "A node has to be attached before it reaches a volume; the attacher asks for it.",
        false => {
            "Every node that may use a volume reaches it as it is: no attacher, and nothing to wait for."
        }
    };
    ("/spec/attachRequired", why)
}

fn capacity(told: bool) -> Remark {
    let why = match told {
        true => "The scheduler looks for a node with room enough, from what the provisioner is told.",
        false => "No backend tells how much room it has, so the scheduler must not wait to be told.",
    };
    ("/spec/storageCapacity", why)
}

fn modes_of(inline: bool) -> Remark {
    let why = match inline {
        true => "A class of the configuration allows volumes that live and die with one pod.",
        false => "No class allows volumes that are written in a pod: any pod's author could name any class.",
    };
    ("/spec/volumeLifecycleModes", why)
}
