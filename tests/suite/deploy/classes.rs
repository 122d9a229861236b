//! What only some classes need: a class of attributes for each backend whose parameters can be changed, and the driver's
//! word that pods may bring volumes of their own where a class allows that.

use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttributesClass};
use serde_json::json;

use super::{CLUSTER, cloud, deploy, documents, done, objects, of_kind, one, there_and_back, word};

#[test]
fn what_can_be_changed_of_a_volume_is_a_class_that_a_claim_can_name() {
    let folder = tempfile::tempdir().unwrap();
    let plain = cloud(folder.path());
    assert!(of_kind(&objects(&plain, &[]), "VolumeAttributesClass").is_empty(), "nothing can be changed");
    let changed = "configuration = { mutable = \"iops=3000 tier=usual none=\" }\n";
    let config = plain.replacen("grants.connections", &format!("{changed}grants.connections"), 1);
    for words in [&[][..], &["--name", "mine"]] {
        let all = objects(&config, words);
        let class = one(&all, "VolumeAttributesClass");
        there_and_back::<VolumeAttributesClass>(class);
        assert_eq!(word(class, "/driverName"), word(one(&all, "CSIDriver"), "/metadata/name"));
        // A parameter without a default is left out: nobody could say what it is when nobody says anything.
        assert_eq!(class["parameters"], json!({ "iops": "3000", "tier": "usual" }));
        assert!(word(class, "/metadata/name").ends_with("cloud-usual"), "{class}");
    }
    // Whoever carries out the change may read what is asked for.
    let all = objects(&config, &[]);
    for role in ["kato-csi-provisioner", "kato-csi-resizer"] {
        let roles = of_kind(&all, "ClusterRole");
        let role = roles.iter().find(|it| word(it, "/metadata/name") == role).unwrap();
        assert!(role["rules"].to_string().contains("volumeattributesclasses"), "{role}");
    }
    let yaml = documents(&done(&deploy(&config, &["kubernetes", "--tls", "cert-manager"])));
    assert_eq!(one(&yaml, "VolumeAttributesClass"), one(&all, "VolumeAttributesClass"));
}

#[test]
fn pods_bring_volumes_of_their_own_only_where_a_class_allows_it() {
    let modes = |config: &str| {
        let all = objects(config, &[]);
        let driver = one(&all, "CSIDriver");
        there_and_back::<CSIDriver>(driver);
        driver["spec"]["volumeLifecycleModes"].clone()
    };
    let class = |flag: &str| format!("{CLUSTER}[class.pods]\nbackend = \"local\"\n{flag}");
    assert_eq!(modes(&class("")), json!(["Persistent"]));
    assert_eq!(modes(&class("inline = false\n")), json!(["Persistent"]));
    assert_eq!(modes(&class("inline = true\n")), json!(["Persistent", "Ephemeral"]));
    // One class that allows it is enough, whatever the others say.
    let two = format!("{}[class.others]\nbackend = \"local\"\n", class("inline = true\n"));
    assert_eq!(modes(&two), json!(["Persistent", "Ephemeral"]));

    let folder = tempfile::tempdir().unwrap();
    let shared = cloud(folder.path());
    assert_eq!(modes(&shared), json!(["Persistent"]));
    let shared = shared.replacen("retain = true", "retain = true\ninline = true", 1);
    assert_eq!(modes(&shared), json!(["Persistent", "Ephemeral"]));
    // Who a volume is for is told to the daemon, which has no other way to know the pod.
    assert_eq!(one(&objects(&shared, &[]), "CSIDriver")["spec"]["podInfoOnMount"], true);
}
