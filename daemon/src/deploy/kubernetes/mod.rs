//! Kubernetes: a driver's objects, each with the reason for what is not plain in it. `pods.rs` has what runs,
//! `sidecars.rs` which of Kubernetes' own programs run beside it and what they may do (`rights.rs`), `blocks.rs` how the
//! lists of changed blocks are found and trusted, `classes.rs` what
//! people name in their claims, `driver.rs` what Kubernetes is told of the driver.

pub(crate) mod blocks;
pub(crate) mod certificate;
mod classes;
mod driver;
mod pods;
mod rights;
mod sidecars;

use kato_orchestrator::ports::backend::Growing;
use serde_json::{Value as Json, json};

use super::{File, Site, carried::Reference, site::Form};
use crate::{
    cli::{Exit, Failure},
    yaml::{Remark, folded, remarked, yaml},
};

/// What the operator decides besides the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// What every object's name begins with.
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) image: String,
    /// Where the sidecars' images are.
    pub(crate) registry: String,
    /// The kubelet's folder.
    pub(crate) kubelet: String,
    pub(crate) log_level: Option<String>,
    /// Whether snapshots are offered; as the backends can when nobody says.
    pub(crate) snapshots: Option<bool>,
    /// Whether the default class becomes the cluster's.
    pub(crate) default_class: bool,
    /// Who makes the certificate of the service that lists blocks.
    pub(crate) tls: blocks::Tls,
}

/// An object, the file that it is in, and why it is as it is.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) file: &'static str,
    pub(crate) body: Json,
    pub(crate) remarks: Vec<Remark>,
}

impl Object {
    fn new(file: &'static str, body: Json) -> Self {
        Self { file, body, remarks: Vec::new() }
    }

    fn because(mut self, remarks: impl IntoIterator<Item = Remark>) -> Self {
        self.remarks.extend(remarks);
        self
    }

    /// What it is, as kubectl names it.
    pub(crate) fn name(&self) -> String {
        let word = |path: &str| self.body.pointer(path).and_then(Json::as_str).unwrap_or_default();
        format!("{}/{}", word("/kind").to_lowercase(), word("/metadata/name"))
    }
}

/// A driver's objects, and what has to be there besides them.
#[derive(Clone, Debug)]
pub(crate) struct Driver {
    pub(crate) objects: Vec<Object>,
    pub(crate) needs: Vec<String>,
}

/// What all files need to know.
struct Plan<'a> {
    site: &'a Site,
    wish: &'a Wish,
    snapshots: bool,
    /// Whether blocks are served: the backend can, and there is a certificate for it.
    blocks: bool,
}

impl Plan<'_> {
    fn named(&self, what: &str) -> String {
        format!("{}-{what}", self.wish.name)
    }

    fn labels(&self) -> Json {
        json!({ "app.kubernetes.io/name": "kato", "app.kubernetes.io/instance": self.wish.name })
    }

    fn labels_of(&self, component: &str) -> Json {
        json!({
            "app.kubernetes.io/name": "kato",
            "app.kubernetes.io/instance": self.wish.name,
            "app.kubernetes.io/component": component,
        })
    }

    /// The head of an object of the cluster's.
    fn meta(&self, name: &str) -> Json {
        json!({ "name": name, "labels": self.labels() })
    }

    /// The head of an object in the driver's namespace.
    fn local(&self, name: &str) -> Json {
        json!({ "name": name, "namespace": self.wish.namespace, "labels": self.labels() })
    }
}

/// Writes a driver.
pub(crate) fn driver(mut site: Site, wish: &Wish) -> Result<Driver, Failure> {
    check(&site, wish)?;
    if let Some(level) = &wish.log_level {
        site.configuration.put(&["log", "level"], level.as_str());
    }
    // A caller names any path; the kubelet names none but its own.
    site.configuration.default_to(&["csi", "roots"], vec![toml::Value::from(wish.kubelet.as_str())]);
    let snapshots = wish.snapshots.unwrap_or_else(|| site.snapshots());
    let plan =
        Plan { snapshots, blocks: snapshots && site.lists_blocks() && wish.tls.is_made(), site: &site, wish };
    let mut objects = vec![namespace(&plan)];
    objects.extend(rights::objects(&plan));
    objects.extend([configuration(&plan), driver::driver(&plan)]);
    objects.extend(classes::objects(&plan)?);
    objects.extend(pods::objects(&plan));
    Ok(Driver { objects, needs: needs(&plan) })
}

/// Refuses what would be refused by Kubernetes, or mean something else than it says.
fn check(site: &Site, wish: &Wish) -> Result<(), Failure> {
    for (flag, word) in [("--name", &wish.name), ("--namespace", &wish.namespace)] {
        if !is_label(word) || word.len() > 40 {
            return Err(Failure::usage(format!(
                "{flag} {word:?} cannot be part of a name in Kubernetes: use at most 40 of a-z, 0-9 and -"
            )));
        }
    }
    if site.driver.len() > 63 || !site.driver.split('.').all(is_label) {
        return Err(Failure::new(Exit::Config, format!("csi.name {:?} is no name of a driver", site.driver))
            .next("use at most 63 letters, in the form of a domain: kato.storage"));
    }
    if !wish.kubelet.starts_with('/') || wish.kubelet.ends_with('/') {
        return Err(Failure::usage(format!(
            "--kubelet {:?} is no folder's path from the root",
            wish.kubelet
        )));
    }
    if wish.snapshots == Some(true) && !site.snapshots() {
        let names: Vec<&str> = site.backends.keys().map(|name| name.as_str()).collect();
        return Err(Failure::usage(format!("--snapshots: no backend takes any ({})", names.join(", "))));
    }
    Ok(())
}

/// Whether a word can stand in a name: letters, digits, and dashes between them.
fn is_label(word: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !word.is_empty() && word.bytes().all(fits) && !word.starts_with('-') && !word.ends_with('-')
}

fn namespace(plan: &Plan<'_>) -> Object {
    let mut labels = plan.labels();
    if let Some(labels) = labels.as_object_mut() {
        labels.insert("pod-security.kubernetes.io/enforce".to_owned(), "privileged".into());
    }
    let body = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": plan.wish.namespace, "labels": labels },
    });
    Object::new("namespace.yaml", body).because([(
        "/metadata/labels/pod-security.kubernetes.io~1enforce",
        "The node's daemon mounts filesystems for other pods, which no lesser level lets it.",
    )])
}

fn configuration(plan: &Plan<'_>) -> Object {
    let body = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": plan.local(&plan.named("config")),
        "data": { "config.toml": plan.site.configuration.text() },
    });
    Object::new("configuration.yaml", body).because([(
        "/data/config.toml",
        "What was written on the host where this was printed, and nothing secret.",
    )])
}

/// What has to be there before the objects are, each with the command that makes it.
fn needs(plan: &Plan<'_>) -> Vec<String> {
    let Wish { namespace, .. } = plan.wish;
    let create = format!("kubectl -n {namespace} create secret generic");
    let mut needs = vec![
        "Kubernetes 1.34 or newer.".to_owned(),
        format!(
            "The key that seals what travels with a volume, made once and kept: {create} {} \
             --from-literal=key=\"$(openssl rand -hex 32)\"",
            plan.named("seal")
        ),
    ];
    if !plan.site.references().is_empty() {
        let words: Vec<String> = plan
            .site
            .references()
            .iter()
            .map(|reference| match reference {
                Reference::File { key, path } => format!("--from-file={key}={}", path.display()),
                Reference::Variable(name) => format!("--from-literal={name}=\"${name}\""),
            })
            .collect();
        needs.push(format!(
            "What the configuration refers to: {create} {} {}",
            plan.named("files"),
            words.join(" ")
        ));
    }
    if plan.snapshots {
        let how = match plan.site.form {
            Form::Shared => "",
            Form::NodeBound => {
                ", started with --enable-distributed-snapshotting=true because each node takes its own"
            }
        };
        needs.push(format!(
            "The cluster's snapshot controller and its CRDs (snapshot.storage.k8s.io), which belong to no driver{how}."
        ));
    }
    if plan.snapshots && plan.site.groups() {
        needs.push("The CRDs of group snapshots (groupsnapshot.storage.k8s.io).".to_owned());
    }
    needs.extend(blocks::needs(plan));
    if plan.site.form == Form::NodeBound && plan.site.any_grows() {
        needs.push(
            "Volumes that live on a node are grown by `kato volume grow` on that node: Kubernetes' resizer cannot tell \
             them apart by their node, so their classes do not offer it."
                .to_owned(),
        );
    }
    needs.extend(plan.site.notes.iter().map(|note| format!("Note that {note}.")));
    needs
}

impl Site {
    fn any_grows(&self) -> bool {
        let grows = |growing: Option<Growing>| growing.is_some();
        self.backends.values().any(|it| grows(it.abilities.grow))
    }
}

impl Driver {
    /// What a reader should know first, as comments.
    fn head(&self) -> String {
        let mut text = format!(
            "# Káto storage {}, written by `kato deploy kubernetes` from the configuration.\n# Before it is applied:\n",
            env!("CARGO_PKG_VERSION")
        );
        for need in &self.needs {
            for (at, line) in folded(need, 106).iter().enumerate() {
                text += &format!("# {} {line}\n", if at == 0 { "-" } else { " " });
            }
        }
        text
    }

    /// Everything, as one file of several documents.
    pub(crate) fn documents(&self) -> String {
        let mut text = self.head();
        for object in &self.objects {
            text += "---\n";
            text += &remarked(&object.body, &object.remarks);
        }
        text
    }

    /// Everything, as one object.
    pub(crate) fn list(&self) -> Json {
        let items: Vec<&Json> = self.objects.iter().map(|object| &object.body).collect();
        json!({ "apiVersion": "v1", "kind": "List", "items": items })
    }

    /// The same objects in files, and the one by which kustomize finds them.
    pub(crate) fn kustomization(&self) -> Vec<File> {
        let mut files: Vec<File> = Vec::new();
        for object in &self.objects {
            let text = remarked(&object.body, &object.remarks);
            match files.iter_mut().find(|file| file.name == object.file) {
                Some(file) => file.text += &format!("---\n{text}"),
                None => files.push(File { name: object.file.to_owned(), text }),
            }
        }
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let body = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": names,
        });
        let text = self.head() + &yaml(&body);
        files.push(File { name: "kustomization.yaml".to_owned(), text });
        files
    }
}
