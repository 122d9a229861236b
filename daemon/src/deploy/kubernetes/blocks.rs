//! The service that tells readers which blocks of a snapshot changed: how they find it, and by which certificate they
//! know that it is the one. Only for drivers whose controllers can be asked for every volume: Kubernetes has one address
//! for a driver, and a snapshot that lies on a node can only be read there.

use serde_json::{Value as Json, json};

use super::{Object, Plan, certificate::Certificate};
use crate::deploy::base64;

/// The file with what is private.
pub(crate) const SECRET: &str = "certificate.yaml";

/// Who makes the certificate.
#[derive(Clone, Debug)]
pub(crate) enum Tls {
    /// Nobody: no blocks are listed.
    Nobody,
    /// The operator, and this is its authority in PEM.
    Operator(String),
    /// We.
    Ours(Certificate),
    /// cert-manager; its authority, once that is there.
    CertManager(Option<String>),
}

impl Tls {
    pub(super) fn is_made(&self) -> bool {
        !matches!(self, Self::Nobody)
    }

    /// By whom the certificate is known, in PEM.
    pub(super) fn authority(&self) -> Option<&str> {
        match self {
            Self::Nobody => None,
            Self::Operator(authority) => Some(authority),
            Self::Ours(certificate) => Some(&certificate.authorities),
            Self::CertManager(authority) => authority.as_deref(),
        }
    }
}

/// What the service's certificate is for.
pub(crate) fn names(name: &str, namespace: &str) -> Vec<String> {
    let service = format!("{name}-snapshot-metadata");
    ["", ".svc"].map(|end| format!("{service}.{namespace}{end}")).to_vec()
}

/// What is printed for it.
pub(super) fn objects(plan: &Plan<'_>) -> Vec<Object> {
    let name = plan.named("snapshot-metadata");
    let mut objects = match &plan.wish.tls {
        Tls::Ours(certificate) => vec![secret(plan, certificate)],
        Tls::CertManager(_) => issued(plan),
        Tls::Nobody | Tls::Operator(_) => Vec::new(),
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": plan.local(&name),
        "spec": {
            "selector": plan.labels_of("controller"),
            "ports": [{ "name": "blocks", "port": 6443, "protocol": "TCP", "targetPort": "blocks" }],
        },
    });
    objects.push(Object::new("blocks.yaml", service));
    if let Some(authority) = plan.wish.tls.authority() {
        let known = json!({
            "apiVersion": "cbt.storage.k8s.io/v1beta1", "kind": "SnapshotMetadataService",
            "metadata": plan.meta(&plan.site.driver),
            "spec": {
                "address": format!("{name}.{}:6443", plan.wish.namespace),
                "audience": name,
                "caCert": base64::encode(authority.as_bytes()),
            },
        });
        objects.push(Object::new("blocks.yaml", known).because([
            (
                "/spec/address",
                "One for the whole driver: whichever controller is asked can answer for every volume.",
            ),
            (
                "/spec/caCert",
                "While the certificate is being replaced, the authority of the one before as well.",
            ),
        ]));
    }
    objects
}

fn secret(plan: &Plan<'_>, certificate: &Certificate) -> Object {
    let text = |pem: &str| base64::encode(pem.as_bytes());
    let body = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": plan.local(&plan.named("snapshot-metadata")),
        "type": "kubernetes.io/tls",
        "data": {
            "ca.crt": text(&certificate.authorities),
            "tls.crt": text(&certificate.chain),
            "tls.key": text(&certificate.key),
        },
    });
    Object::new(SECRET, body).because([(
        "/data",
        "Made by `kato deploy`, which keeps it until a third of its life is left. Whoever reads this can pass for the service.",
    )])
}

/// What cert-manager is asked for: an authority, and a certificate that it signs.
fn issued(plan: &Plan<'_>) -> Vec<Object> {
    let name = plan.named("snapshot-metadata");
    let (root, issuer) = (plan.named("snapshot-metadata-root"), plan.named("snapshot-metadata-authority"));
    let object = |kind: &str, name: &str, spec: Json| {
        json!({
            "apiVersion": "cert-manager.io/v1", "kind": kind, "metadata": plan.local(name), "spec": spec,
        })
    };
    let by = |name: &str| json!({ "kind": "Issuer", "name": name });
    let key = json!({ "algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always" });
    let authority = json!({
        "isCA": true,
        "commonName": issuer,
        "secretName": issuer,
        "duration": "87600h",
        "privateKey": { "algorithm": "ECDSA", "size": 256 },
        "issuerRef": by(&root),
    });
    let own = json!({
        "secretName": name,
        "duration": "8760h",
        "renewBefore": "2920h",
        "dnsNames": names(&plan.wish.name, &plan.wish.namespace),
        "usages": ["digital signature", "server auth"],
        "privateKey": key,
        "issuerRef": by(&issuer),
    });
    vec![
        Object::new("blocks.yaml", object("Issuer", &root, json!({ "selfSigned": {} }))),
        Object::new("blocks.yaml", object("Certificate", &issuer, authority)).because([(
            "/spec/duration",
            "Readers know the service by this one, whose text stands in the SnapshotMetadataService: it lives for ten years.",
        )]),
        Object::new("blocks.yaml", object("Issuer", &issuer, json!({ "ca": { "secretName": issuer } }))),
        Object::new("blocks.yaml", object("Certificate", &name, own)),
    ]
}

/// What has to be there besides, and what to do later.
pub(super) fn needs(plan: &Plan<'_>) -> Vec<String> {
    if plan.snapshots && plan.site.tells_blocks() && !plan.site.lists_blocks() {
        return vec![
            "Lists of changed blocks are told by each node's daemon alone: Kubernetes has one address for a driver, which \
             cannot lead to the node that a snapshot lies on."
                .to_owned(),
        ];
    }
    if !plan.blocks {
        return Vec::new();
    }
    let (name, namespace) = (plan.named("snapshot-metadata"), &plan.wish.namespace);
    let get = format!("kubectl -n {namespace} get secret {name} -o yaml");
    let crd = "The CRD of SnapshotMetadataService (cbt.storage.k8s.io).".to_owned();
    match &plan.wish.tls {
        Tls::Nobody => Vec::new(),
        Tls::Operator(_) => vec![
            crd,
            format!(
                "The certificate that --snapshot-metadata-ca is of, for {}: kubectl -n {namespace} create secret tls \
                 {name} --cert=tls.crt --key=tls.key",
                names(&plan.wish.name, namespace).join(" and ")
            ),
        ],
        Tls::Ours(_) => vec![
            crd,
            format!(
                "The Secret {name} is among the objects: keep what was printed to yourself. Its certificate is good for \
                 a year. Whenever this is printed again, hand it in by --tls-secret FILE (what `{get}` prints): it is \
                 kept until a third of its life is left and replaced then, without a moment in which readers do not \
                 trust it."
            ),
        ],
        Tls::CertManager(authority) => {
            let mut needs = vec![
                crd,
                format!(
                    "cert-manager. It renews the certificate after eight months; the sidecar reads it when it starts, so \
                     restart it then: kubectl -n {namespace} rollout restart deployment {}",
                    plan.named("controller")
                ),
            ];
            if authority.is_none() {
                needs.push(format!(
                    "When cert-manager has made the certificate, this command once more with --tls-secret FILE (what \
                     `{get}` prints): only then it is known by which authority readers know the service, and there is a \
                     SnapshotMetadataService. cert-manager itself writes that into no object of this kind."
                ));
            }
            needs
        }
    }
}
