//! What `kato deploy` prints, read as its readers do: Kubernetes' own types, a parser of YAML, one of HCL, one of JSON.
//! The default output is golden; `UPDATE_GOLDEN=1` writes it anew after a deliberate change. The image that the objects
//! name is `image`; what a volume's parameters and pods' own volumes need of a class is `classes`.

mod classes;
mod image;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Output},
};

use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, rbac::v1 as rbac, storage::v1 as storage};
use kato_tests::daemon::binary;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value as Json, json};
use yaml_rust2::{Yaml, YamlLoader};

const CLUSTER: &str = "[cluster]\nid = \"0123456789abcdef0123456789abcdef\"\n";

/// A cloud of the hostile guest's, which is honest unless it is told otherwise: it attaches, grows and takes snapshots.
fn cloud(folder: &Path) -> String {
    let component = folder.join("cloud.wasm");
    fs::write(&component, crate::sandbox::component()).unwrap();
    format!(
        "{CLUSTER}[backend.cloud]\nplugin = \"{}\"\ngrants.connections = {{ device = [\"wwid\"] }}\n\
         [class.fast]\nbackend = \"cloud\"\nfs = \"xfs\"\nretain = true\nmount-options = [\"noatime\"]\n\
         [catalog]\ndefault-class = \"fast\"\n",
        component.display()
    )
}

#[expect(clippy::disallowed_methods, reason = "the tests run the shipped program")]
fn deploy(config: &str, words: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(binary());
    command.env_clear().arg("deploy").args(words).arg("--config").arg(&file).output().unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn refused(output: &Output, code: i32) -> String {
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{told}");
    told
}

fn objects(config: &str, words: &[&str]) -> Vec<Json> {
    let list: Json =
        serde_json::from_str(&done(&deploy(config, &[&["kubernetes", "-o", "json"], words].concat())))
            .unwrap();
    list["items"].as_array().unwrap().clone()
}

fn documents(text: &str) -> Vec<Json> {
    YamlLoader::load_from_str(text).unwrap().iter().map(of_yaml).filter(|value| !value.is_null()).collect()
}

fn of_yaml(value: &Yaml) -> Json {
    match value {
        Yaml::Real(text) => json!(text.parse::<f64>().unwrap()),
        Yaml::Integer(number) => json!(number),
        Yaml::String(text) => json!(text),
        Yaml::Boolean(flag) => json!(flag),
        Yaml::Array(items) => items.iter().map(of_yaml).collect(),
        Yaml::Hash(map) => {
            map.iter().map(|(key, value)| (key.as_str().unwrap().to_owned(), of_yaml(value))).collect()
        }
        Yaml::Null => Json::Null,
        Yaml::Alias(_) | Yaml::BadValue => panic!("{value:?}"),
    }
}

fn word<'a>(object: &'a Json, path: &str) -> &'a str {
    object.pointer(path).and_then(Json::as_str).unwrap_or_default()
}

fn of_kind<'a>(objects: &'a [Json], kind: &str) -> Vec<&'a Json> {
    objects.iter().filter(|object| word(object, "/kind") == kind).collect()
}

fn one<'a>(objects: &'a [Json], kind: &str) -> &'a Json {
    let all = of_kind(objects, kind);
    assert_eq!(all.len(), 1, "{kind}");
    all[0]
}

fn golden(name: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, now).unwrap();
    }
    assert!(
        now == fs::read_to_string(&path).unwrap_or_default(),
        "{name} changed: run with UPDATE_GOLDEN=1 and look"
    );
}

/// The form in which each kind of configuration is deployed.
fn forms(folder: &Path) -> [(&'static str, String); 2] {
    [("node", CLUSTER.to_owned()), ("controller", cloud(folder))]
}

#[test]
fn the_default_output_is_golden_and_the_same_every_time() {
    let now = done(&deploy(CLUSTER, &["kubernetes"]));
    assert_eq!(now, done(&deploy(CLUSTER, &["kubernetes"])));
    golden("deploy.kubernetes.yaml", &now);
    golden("deploy.nomad.hcl", &done(&deploy(CLUSTER, &["nomad"])));
    golden("deploy.mesos.json", &done(&deploy(CLUSTER, &["mesos"])));
    let folder = tempfile::tempdir().unwrap();
    // The component's digest and path are no part of what is golden, so the configuration is left out.
    let mut shared = objects(&cloud(folder.path()), &["--tls", "cert-manager"]);
    shared.retain(|object| word(object, "/kind") != "ConfigMap");
    let annotations = "/spec/template/metadata/annotations/kato.storage~1configuration";
    for object in &mut shared {
        if let Some(digest) = object.pointer_mut(annotations) {
            *digest = json!("0");
        }
    }
    golden("deploy.kubernetes.shared.json", &(serde_json::to_string_pretty(&shared).unwrap() + "\n"));
}

#[test]
fn what_people_read_and_what_programs_read_are_the_same_objects() {
    let folder = tempfile::tempdir().unwrap();
    for (form, config) in forms(folder.path()) {
        // Every certificate of ours is another one.
        let list = objects(&config, &["--tls", "cert-manager"]);
        let yaml = done(&deploy(&config, &["kubernetes", "--tls", "cert-manager"]));
        assert_eq!(documents(&yaml), list, "{form}");
        let out = folder.path().join(form);
        let folder = ["kubernetes", "--tls", "cert-manager", "--kustomize", out.to_str().unwrap()];
        done(&deploy(&config, &folder));
        let read = |name: &str| documents(&fs::read_to_string(out.join(name)).unwrap());
        let kustomization = read("kustomization.yaml").remove(0);
        let named: Vec<Json> = kustomization["resources"].as_array().unwrap().clone();
        let mut files: Vec<Json> = named.iter().flat_map(|name| read(name.as_str().unwrap())).collect();
        let mut all = list.clone();
        files.sort_by_key(Json::to_string);
        all.sort_by_key(Json::to_string);
        assert_eq!(files, all);
        let there: BTreeSet<_> =
            fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(there.len(), named.len() + 1, "{there:?}");
    }
}

/// Reads an object as Kubernetes does, and writes it again.
fn there_and_back<T: DeserializeOwned + Serialize>(object: &Json) {
    let read: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    assert_eq!(serde_json::to_value(read).unwrap(), *object, "Kubernetes would drop or change something");
}

/// An object whose type is somebody's CRD has these fields and no other.
fn has_only(object: &Json, fields: &[&str]) {
    let has: BTreeSet<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let usual = ["apiVersion", "kind", "metadata"];
    assert_eq!(has, usual.iter().chain(fields).copied().collect(), "{object}");
}

#[test]
fn every_object_survives_kubernetes_own_types() {
    let folder = tempfile::tempdir().unwrap();
    for (_, config) in forms(folder.path()) {
        let more = objects(&config, &["--tls", "cert-manager"]);
        for object in objects(&config, &[]).into_iter().chain(more) {
            let (version, kind) = (word(&object, "/apiVersion"), word(&object, "/kind"));
            match (version, kind) {
                ("v1", "Namespace") => there_and_back::<core::Namespace>(&object),
                ("v1", "ServiceAccount") => there_and_back::<core::ServiceAccount>(&object),
                ("v1", "ConfigMap") => there_and_back::<core::ConfigMap>(&object),
                ("rbac.authorization.k8s.io/v1", "ClusterRole") => {
                    there_and_back::<rbac::ClusterRole>(&object)
                }
                ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
                    there_and_back::<rbac::ClusterRoleBinding>(&object);
                }
                ("rbac.authorization.k8s.io/v1", "Role") => there_and_back::<rbac::Role>(&object),
                ("rbac.authorization.k8s.io/v1", "RoleBinding") => {
                    there_and_back::<rbac::RoleBinding>(&object)
                }
                ("storage.k8s.io/v1", "CSIDriver") => there_and_back::<storage::CSIDriver>(&object),
                ("storage.k8s.io/v1", "StorageClass") => there_and_back::<storage::StorageClass>(&object),
                ("apps/v1", "DaemonSet") => there_and_back::<apps::DaemonSet>(&object),
                ("apps/v1", "Deployment") => there_and_back::<apps::Deployment>(&object),
                ("snapshot.storage.k8s.io/v1", "VolumeSnapshotClass") => {
                    has_only(&object, &["driver", "deletionPolicy"]);
                }
                ("v1", "Service") => there_and_back::<core::Service>(&object),
                ("v1", "Secret") => there_and_back::<core::Secret>(&object),
                ("cbt.storage.k8s.io/v1beta1", "SnapshotMetadataService") => {
                    has_only(&object, &["spec"]);
                    let fields: BTreeSet<_> = object["spec"].as_object().unwrap().keys().collect();
                    assert_eq!(fields.into_iter().collect::<Vec<_>>(), ["address", "audience", "caCert"]);
                }
                ("cert-manager.io/v1", "Issuer" | "Certificate") => has_only(&object, &["spec"]),
                other => panic!("nobody checks {other:?}"),
            }
        }
    }
}

#[test]
fn names_are_unique_and_whatever_is_referred_to_is_there() {
    let folder = tempfile::tempdir().unwrap();
    for (form, config) in forms(folder.path()) {
        let all = objects(&config, &["--name", "mine", "--namespace", "storage"]);
        let mut seen = BTreeSet::new();
        for object in &all {
            let name =
                (word(object, "/kind"), word(object, "/metadata/namespace"), word(object, "/metadata/name"));
            assert!(seen.insert(name), "{name:?} is there twice");
            assert!(matches!(name.1, "" | "storage"), "{name:?}");
        }
        let has = |kind: &str, name: &str| seen.iter().any(|known| known.0 == kind && known.2 == name);
        for binding in of_kind(&all, "ClusterRoleBinding").into_iter().chain(of_kind(&all, "RoleBinding")) {
            assert!(has(word(binding, "/roleRef/kind"), word(binding, "/roleRef/name")), "{binding}");
            assert!(has("ServiceAccount", word(binding, "/subjects/0/name")), "{binding}");
        }
        for workload in of_kind(&all, "DaemonSet").into_iter().chain(of_kind(&all, "Deployment")) {
            let pod = &workload["spec"]["template"]["spec"];
            assert!(has("ServiceAccount", word(pod, "/serviceAccountName")), "{form}");
            assert_eq!(
                workload["spec"]["selector"]["matchLabels"],
                workload["spec"]["template"]["metadata"]["labels"]
            );
            let mut volumes = BTreeSet::new();
            for volume in pod["volumes"].as_array().unwrap() {
                assert!(volumes.insert(word(volume, "/name")), "{volume}");
                let config = word(volume, "/configMap/name");
                assert!(config.is_empty() || has("ConfigMap", config), "{volume}");
            }
            let mounts = pod["containers"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|it| it["volumeMounts"].as_array().unwrap());
            let mounted: BTreeSet<&str> = mounts.map(|mount| word(mount, "/name")).collect();
            assert_eq!(mounted, volumes, "a volume that nobody mounts, or a mount of none");
        }
    }
}

/// The sidecars of a pod, without the daemon.
fn sidecars(workload: &Json) -> BTreeSet<&str> {
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    containers.iter().map(|it| word(it, "/name")).filter(|name| *name != "kato").collect()
}

#[test]
fn only_sidecars_whose_ability_is_there_are_written_and_in_the_pod_where_they_work() {
    let bound = objects(CLUSTER, &[]);
    assert!(of_kind(&bound, "Deployment").is_empty(), "nothing is left for a controller to do");
    let always = ["csi-node-driver-registrar", "livenessprobe"];
    let node = one(&bound, "DaemonSet");
    assert_eq!(sidecars(node), always.into_iter().chain(["csi-provisioner", "csi-snapshotter"]).collect());
    let text = node.to_string();
    assert!(text.contains("--node-deployment=true") && !text.contains("--leader-election"), "{text}");
    assert_eq!(one(&bound, "CSIDriver")["spec"]["attachRequired"], false);
    let without = objects(CLUSTER, &["--no-snapshots"]);
    assert!(!json!(without).to_string().contains("snapshot"), "{}", json!(without));

    let folder = tempfile::tempdir().unwrap();
    let shared = objects(&cloud(folder.path()), &[]);
    let controller = one(&shared, "Deployment");
    let workers = [
        "livenessprobe",
        "csi-provisioner",
        "csi-attacher",
        "csi-resizer",
        "csi-snapshotter",
        "csi-snapshot-metadata",
    ];
    assert_eq!(sidecars(controller), workers.into());
    let without = objects(&cloud(folder.path()), &["--no-snapshots"]);
    assert!(!json!(without).to_string().contains("snapshot"), "{}", json!(without));
    assert_eq!(sidecars(one(&shared, "DaemonSet")), always.into());
    assert!(controller.to_string().contains("--leader-election=true"));
    let driver = &one(&shared, "CSIDriver")["spec"];
    assert_eq!((&driver["attachRequired"], &driver["storageCapacity"]), (&json!(true), &json!(false)));
    let class = one(&shared, "StorageClass");
    assert_eq!(
        (&class["allowVolumeExpansion"], &class["reclaimPolicy"], &class["mountOptions"]),
        (&json!(true), &json!("Retain"), &json!(["noatime"]))
    );
    assert_eq!(class["parameters"], json!({ "class": "fast", "csi.storage.k8s.io/fstype": "xfs" }));
    assert_eq!(class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"], "true");
}

/// Each field is set, or is one that only a newer Kubernetes than the oldest that we are for would know.
#[test]
fn every_field_of_the_driver_is_set_on_purpose() {
    let all = storage::CSIDriverSpec {
        attach_required: Some(true),
        fs_group_policy: Some(String::new()),
        node_allocatable_update_period_seconds: Some(1),
        pod_info_on_mount: Some(true),
        prevent_pod_scheduling_if_missing: Some(true),
        requires_republish: Some(true),
        se_linux_mount: Some(true),
        service_account_token_in_secrets: Some(true),
        storage_capacity: Some(true),
        token_requests: Some(Vec::new()),
        volume_lifecycle_modes: Some(Vec::new()),
    };
    let all = serde_json::to_value(all).unwrap();
    let newer = ["preventPodSchedulingIfMissing", "serviceAccountTokenInSecrets"];
    let fields: BTreeSet<&str> =
        all.as_object().unwrap().keys().map(String::as_str).filter(|field| !newer.contains(field)).collect();
    let folder = tempfile::tempdir().unwrap();
    let set = objects(&cloud(folder.path()), &[]);
    let set: BTreeSet<&str> =
        one(&set, "CSIDriver")["spec"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(set, fields);
}

/// A right: the group, the resource and the verbs.
type Right = (&'static str, &'static str, &'static str);

/// What each sidecar's documentation asks for. A right that begins with `attach?` is needed where nodes are attached, and volumes
/// of this cloud's are changed.
const RIGHTS: &[(&str, &[Right])] = &[
    (
        "csi-provisioner",
        &[
            ("", "persistentvolumes", "get list watch create patch delete"),
            ("", "persistentvolumeclaims", "get list watch update"),
            ("", "nodes", "get list watch"),
            ("", "events", "list watch create update patch"),
            ("storage.k8s.io", "storageclasses", "get list watch"),
            ("storage.k8s.io", "csinodes", "get list watch"),
            ("storage.k8s.io", "volumeattachments", "attach? get list watch"),
            ("storage.k8s.io", "volumeattributesclasses", "attach? get list watch"),
            ("snapshot.storage.k8s.io", "volumesnapshots", "get list watch update"),
            ("snapshot.storage.k8s.io", "volumesnapshotcontents", "get list"),
        ],
    ),
    (
        "csi-attacher",
        &[
            ("", "persistentvolumes", "get list watch patch"),
            ("storage.k8s.io", "csinodes", "get list watch"),
            ("storage.k8s.io", "volumeattachments", "get list watch patch"),
            ("storage.k8s.io", "volumeattachments/status", "patch"),
        ],
    ),
    (
        "csi-resizer",
        &[
            ("", "persistentvolumes", "get list watch patch"),
            ("", "persistentvolumeclaims", "get list watch"),
            ("", "persistentvolumeclaims/status", "patch"),
            ("", "events", "list watch create update patch"),
            ("storage.k8s.io", "volumeattributesclasses", "get list watch"),
        ],
    ),
    (
        "csi-snapshotter",
        &[
            ("", "events", "list watch create update patch"),
            ("snapshot.storage.k8s.io", "volumesnapshotclasses", "get list watch"),
            ("snapshot.storage.k8s.io", "volumesnapshotcontents", "get list watch update patch"),
            ("snapshot.storage.k8s.io", "volumesnapshotcontents/status", "update patch"),
        ],
    ),
    (
        "csi-snapshot-metadata",
        &[
            ("cbt.storage.k8s.io", "snapshotmetadataservices", "get"),
            ("authentication.k8s.io", "tokenreviews", "create"),
            ("authorization.k8s.io", "subjectaccessreviews", "create"),
            ("snapshot.storage.k8s.io", "volumesnapshots", "get list"),
            ("snapshot.storage.k8s.io", "volumesnapshotcontents", "get list"),
            ("snapshot.storage.k8s.io", "volumesnapshotclasses", "get list"),
        ],
    ),
];

#[test]
fn nobody_may_do_more_than_a_sidecar_of_the_pod_needs() {
    let folder = tempfile::tempdir().unwrap();
    for (form, config) in forms(folder.path()) {
        let all = objects(&config, &[]);
        let workload = one(&all, if form == "node" { "DaemonSet" } else { "Deployment" });
        let pod = &workload["spec"]["template"]["spec"];
        let asking: BTreeSet<String> = sidecars(workload)
            .into_iter()
            .filter(|name| !matches!(*name, "livenessprobe" | "csi-node-driver-registrar"))
            .map(|name| format!("kato-{name}"))
            .collect();
        let roles = of_kind(&all, "ClusterRole");
        assert_eq!(
            roles.iter().map(|role| word(role, "/metadata/name").to_owned()).collect::<BTreeSet<_>>(),
            asking
        );
        for role in roles {
            let sidecar = word(role, "/metadata/name").trim_start_matches("kato-").to_owned();
            let expected: BTreeSet<String> = RIGHTS
                .iter()
                .filter(|(name, _)| *name == sidecar)
                .flat_map(|(_, rights)| rights.iter())
                .filter_map(|(group, resource, verbs)| {
                    let verbs = match verbs.strip_prefix("attach? ") {
                        Some(_) if form == "node" => return None,
                        Some(verbs) => verbs,
                        None => verbs,
                    };
                    Some(format!("{group} {resource}: {verbs}"))
                })
                .collect();
            assert_eq!(rights(role), expected, "{sidecar} in {form}");
        }
        for binding in of_kind(&all, "ClusterRoleBinding").into_iter().chain(of_kind(&all, "RoleBinding")) {
            assert_eq!(binding["subjects"][0]["name"], pod["serviceAccountName"], "{binding}");
        }
        let local = rights(one(&all, "Role"));
        let leases = "coordination.k8s.io leases: get watch list delete update create".to_owned();
        assert_eq!(local.contains(&leases), form == "controller", "{local:?}");
        assert!(!json!(of_kind(&all, "ClusterRole")).to_string().contains("secrets"));
    }
}

fn rights(role: &Json) -> BTreeSet<String> {
    let words = |rule: &Json, field: &str| {
        rule[field]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for resource in words(rule, "resources") {
            let line =
                format!("{} {resource}: {}", words(rule, "apiGroups")[0], words(rule, "verbs").join(" "));
            assert!(all.insert(line), "{rule}");
        }
    }
    all
}

#[test]
fn secrets_are_referred_to_and_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("cloud token");
    fs::write(&token, "hunter2").unwrap();
    let config = format!(
        "{}[[backend.cloud.grants.http]]\nurl = \"https://cloud.example\"\nca = \"/etc/ssl/ours.pem\"\n\
         authoriser = {{ bearer = {{ secret = {{ file = \"{}\" }} }} }}\n\
         [[backend.cloud.grants.http]]\nurl = \"https://other.example\"\n\
         authoriser = {{ bearer = {{ secret = {{ env = \"TOKEN\" }} }} }}\n",
        cloud(folder.path()),
        token.display()
    );
    let output = deploy(&config, &["kubernetes"]);
    let text = done(&output);
    assert!(!text.contains("hunter2"));
    let all = documents(&text);
    assert_eq!(
        word(one(&all, "Secret"), "/metadata/name"),
        "kato-snapshot-metadata",
        "the certificate alone"
    );
    let carried = word(one(&all, "ConfigMap"), "/data/config.toml").to_owned();
    assert!(
        carried.contains("/etc/kato-files/cloud-token") && carried.contains("/etc/kato-files/ours.pem"),
        "{carried}"
    );
    assert!(!carried.contains(&token.display().to_string()), "{carried}");
    let told = String::from_utf8(output.stderr).unwrap();
    for needed in
        ["create secret generic kato-seal", "--from-file=cloud-token=", "--from-literal=TOKEN=\"$TOKEN\""]
    {
        assert!(told.contains(needed), "{needed} is not in {told}");
    }
    for kind in ["DaemonSet", "Deployment"] {
        let environment = one(&all, kind)["spec"]["template"]["spec"]["containers"][0]["env"].to_string();
        assert!(
            environment.contains("\"secretKeyRef\":{\"key\":\"TOKEN\",\"name\":\"kato-files\"}"),
            "{environment}"
        );
    }
    let jobs = nomad(&config);
    assert!(jobs.values().all(|job| !job.contains("hunter2")));

    let credential = config.replace("env = \"TOKEN\"", "credential = \"token\"");
    assert!(refused(&deploy(&credential, &["kubernetes"]), 78).contains("systemd"));
    let named = format!("{CLUSTER}[backend.local]\nconfiguration = {{ password = \"hunter2\" }}\n");
    assert!(!refused(&deploy(&named, &["kubernetes"]), 78).contains("hunter2"));
}

/// What stands in base64 in the data of the certificate's Secret.
fn kept(objects: &[Json], key: &str) -> String {
    one(objects, "Secret")["data"][key].as_str().unwrap().to_owned()
}

#[test]
fn the_certificate_for_lists_of_changed_blocks_is_kept_while_it_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = cloud(folder.path());
    let output = deploy(&cloud, &["kubernetes"]);
    let (text, told) = (done(&output), String::from_utf8(output.stderr).unwrap());
    let first = documents(&text);
    let service = one(&first, "SnapshotMetadataService");
    assert_eq!(service["spec"]["caCert"], kept(&first, "ca.crt"));
    assert_eq!(service["spec"]["address"], "kato-snapshot-metadata.kato:6443");
    assert_eq!(service["metadata"]["name"], "kato.storage");
    let pod = &one(&first, "Deployment")["spec"]["template"];
    assert!(
        pod["metadata"]["annotations"]["kato.storage/certificate"].is_string(),
        "another one is another pod"
    );
    assert!(pod["spec"]["volumes"].to_string().contains("\"secretName\":\"kato-snapshot-metadata\""));
    let key = kept(&first, "tls.key");
    assert_eq!(text.matches(&key).count(), 1, "the key is in the Secret and nowhere else");
    assert!(!told.contains(&key) && told.contains("--tls-secret"), "{told}");

    // Handed in as it was printed here, or as kubectl prints it, it is kept to the letter.
    assert_ne!(kept(&objects(&cloud, &[]), "tls.key"), key);
    let file = folder.path().join("earlier");
    let secret = serde_json::to_string_pretty(one(&first, "Secret")).unwrap();
    for printed in [&text, &secret] {
        fs::write(&file, printed).unwrap();
        let again = done(&deploy(&cloud, &["kubernetes", "--tls-secret", file.to_str().unwrap()]));
        assert!(again == text, "something changed");
    }
    // For another name it is of no use.
    let words = ["--tls-secret", file.to_str().unwrap(), "--namespace", "storage"];
    assert_ne!(kept(&objects(&cloud, &words), "tls.key"), key);
    fs::write(&file, "kind: Secret\n").unwrap();
    let told = refused(&deploy(&cloud, &["kubernetes", "--tls-secret", file.to_str().unwrap()]), 64);
    assert!(told.contains("no Secret"), "{told}");
}

#[test]
fn a_folder_of_objects_keeps_its_certificate_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (cloud, out) = (cloud(folder.path()), folder.path().join("out"));
    let words = ["kubernetes", "--kustomize", out.to_str().unwrap()];
    done(&deploy(&cloud, &words));
    let all = || -> BTreeMap<_, _> {
        let entries = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
    };
    let first = all();
    let secret = out.join("certificate.yaml");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    let key = kept(&documents(&first[&secret]), "tls.key");
    assert_eq!(first.values().filter(|text| text.contains(&key)).count(), 1);
    done(&deploy(&cloud, &words));
    assert!(all() == first, "the second time something changed");
}

#[test]
fn whoever_makes_the_certificate_it_is_known_before_readers_are_sent_there() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = cloud(folder.path());
    let none = objects(&cloud, &["--tls", "none"]);
    assert!(!json!(none).to_string().contains("snapshot-metadata"), "{}", json!(none));

    let managed = objects(&cloud, &["--tls", "cert-manager"]);
    assert!(
        of_kind(&managed, "Secret").is_empty() && of_kind(&managed, "SnapshotMetadataService").is_empty()
    );
    assert_eq!((of_kind(&managed, "Issuer").len(), of_kind(&managed, "Certificate").len()), (2, 2));
    let file = folder.path().join("secret");
    fs::write(&file, done(&deploy(&cloud, &["kubernetes"]))).unwrap();
    let ours = documents(&fs::read_to_string(&file).unwrap());
    let words = ["--tls", "cert-manager", "--tls-secret", file.to_str().unwrap()];
    let managed = objects(&cloud, &words);
    assert!(of_kind(&managed, "Secret").is_empty(), "cert-manager's own is left alone");
    assert_eq!(one(&managed, "SnapshotMetadataService")["spec"]["caCert"], kept(&ours, "ca.crt"));

    let bound = deploy(CLUSTER, &["kubernetes"]);
    assert!(!done(&bound).contains("SnapshotMetadataService"), "a node's snapshots are reached there alone");
    assert!(String::from_utf8(bound.stderr).unwrap().contains("one address for a driver"));
}

#[test]
fn the_configuration_in_the_cluster_is_one_that_the_daemon_takes() {
    let folder = tempfile::tempdir().unwrap();
    for (form, config) in forms(folder.path()) {
        let config =
            format!("{config}[docker]\nsocket = \"/elsewhere/x.sock\"\n[node]\nid = \"this-host\"\n");
        let all = objects(&config, &["--log-level", "debug"]);
        let carried = word(one(&all, "ConfigMap"), "/data/config.toml");
        for gone in ["elsewhere", "this-host"] {
            assert!(!carried.contains(gone), "{form}: {carried}");
        }
        let file = folder.path().join("carried.toml");
        fs::write(&file, carried).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the tests run the shipped program")]
        let checked =
            Command::new(binary()).args(["config", "check", "--config"]).arg(&file).output().unwrap();
        assert!(checked.status.success(), "{form}: {}", String::from_utf8_lossy(&checked.stderr));
        let parsed: toml::Table = carried.parse().unwrap();
        assert_eq!(parsed["log"]["level"].as_str(), Some("debug"));
        assert_eq!(parsed["docker"]["enabled"].as_bool(), Some(false));
    }
}

#[test]
fn what_cannot_work_is_refused_with_what_to_do() {
    let id = |told: &str| told.split('"').find(|word| word.len() == 32).unwrap().to_owned();
    let (first, second) = (refused(&deploy("", &["kubernetes"]), 78), refused(&deploy("", &["nomad"]), 78));
    assert!(first.contains("cluster.id") && id(&first) != id(&second), "{first}");
    // The one that was printed is taken.
    done(&deploy(&format!("[cluster]\nid = \"{}\"\n", id(&first)), &["kubernetes"]));

    let folder = tempfile::tempdir().unwrap();
    let cloud = cloud(folder.path());
    let mixed = format!("{cloud}[backend.local]\nplugin = \"local\"\n");
    let told = refused(&deploy(&mixed, &["kubernetes"]), 78);
    assert!(told.contains("--backend cloud") && told.contains("--backend local --name kato-local"), "{told}");
    assert_eq!(of_kind(&objects(&mixed, &["--backend", "local"]), "Deployment").len(), 0);
    assert_eq!(of_kind(&objects(&mixed, &["--backend", "cloud"]), "Deployment").len(), 1);
    // A class that is left out is said so, and its configuration stays behind.
    let output = deploy(&format!("{cloud}[class.scratch]\nbackend = \"local\"\n"), &["kubernetes"]);
    assert!(
        !done(&output).contains("scratch")
            || String::from_utf8_lossy(&output.stderr).contains("class scratch")
    );

    assert!(refused(&deploy(CLUSTER, &["kubernetes", "--backend", "nobody"]), 3).contains("local"));
    assert!(refused(&deploy(CLUSTER, &["kubernetes", "--name", "No Name"]), 64).contains("--name"));
    assert!(refused(&deploy(CLUSTER, &["kubernetes", "--kubelet", "relative"]), 64).contains("--kubelet"));
    let clash = format!("{CLUSTER}[class.a_b]\nbackend = \"local\"\n[class.a-b]\nbackend = \"local\"\n");
    assert!(refused(&deploy(&clash, &["kubernetes"]), 78).contains("kato-a-b"));
}

fn nomad(config: &str) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    done(&deploy(config, &["nomad", "--folder", folder.path().to_str().unwrap()]));
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
    };
    fs::read_dir(folder.path()).unwrap().map(read).collect()
}

#[test]
fn jobs_are_hcl_with_the_plugin_that_each_is() {
    let folder = tempfile::tempdir().unwrap();
    for (form, config) in forms(folder.path()) {
        // What the operator writes is told apart from what Nomad fills in.
        let config = format!(
            "{config}[class.odd]\nbackend = \"{}\"\nparameters = {{ x = \"${{a}} %{{b}}\" }}\n",
            if form == "node" { "local" } else { "cloud" }
        );
        let files = nomad(&config);
        let mut plugins = BTreeSet::new();
        for (name, text) in &files {
            let body: Json = hcl::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
            if name == "volume.hcl" {
                assert_eq!((word(&body, "/type"), word(&body, "/plugin_id")), ("csi", "kato"));
                continue;
            }
            let job = name.trim_end_matches(".nomad.hcl");
            let task = &body["job"][job]["group"]["kato"]["task"]["kato"];
            let plugin = &task["csi_plugin"];
            assert_eq!((word(plugin, "/id"), word(plugin, "/mount_dir")), ("kato", "/csi"), "{body}");
            plugins.insert((
                body["job"][job]["type"].as_str().unwrap().to_owned(),
                word(plugin, "/type").to_owned(),
            ));
            assert_eq!(word(task, "/env/CSI_ENDPOINT"), "unix:///csi/csi.sock");
            assert!(text.contains("$${a} %%{b}"), "{text}");
        }
        let pair = |job: &str, plugin: &str| (job.to_owned(), plugin.to_owned());
        let expected: BTreeSet<_> = if form == "node" {
            [pair("system", "monolith")].into()
        } else {
            [pair("system", "node"), pair("service", "controller")].into()
        };
        assert_eq!(plugins, expected);
    }
}

#[test]
fn an_agent_finds_the_socket_and_marathon_names_the_plugin() {
    let pages: Json =
        serde_json::from_str(&done(&deploy(CLUSTER, &["mesos", "--csi-socket", "/run/x.sock"]))).unwrap();
    let (agent, app) = (&pages["agent.json"], &pages["marathon.json"]);
    assert_eq!(
        agent["endpoints"],
        json!([{ "csi_service": "NODE_SERVICE", "endpoint": "unix:///run/x.sock" }])
    );
    let external = &app["container"]["volumes"][0]["external"];
    assert_eq!(external["options"]["pluginName"], agent["type"]);
    assert_eq!((word(external, "/provider"), agent["target_path_exists"].as_bool()), ("csi", Some(false)));
    let folder = tempfile::tempdir().unwrap();
    done(&deploy(CLUSTER, &["mesos", "--folder", folder.path().to_str().unwrap()]));
    let file = fs::read_to_string(folder.path().join("agent.json")).unwrap();
    assert_eq!(serde_json::from_str::<Json>(&file).unwrap()["type"], "kato.storage");
}
