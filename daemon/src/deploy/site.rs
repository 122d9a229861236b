//! What is to be deployed, before anybody asks for whom: which backends and classes, what they can do together, and
//! on which machines the work has to be done.
//!
//! **One driver works one way.** Volumes of a backend that lives on a node (directories and images of that host) can
//! only be made and deleted by that node's daemon, so the sidecars that ask for it run on every node and each looks
//! after its own; volumes of all others are made by a controller, whichever node they are for. Under one driver name
//! both would answer for each other's volumes, and take "I do not know it" for "it is gone". So a mixture is refused,
//! with the two commands that deploy it as two drivers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use kato_orchestrator::{
    model::{BackendName, Class, ClassName},
    ports::{
        Ids,
        backend::{Description, Growing},
    },
};

use super::{
    abilities,
    carried::{Carried, Reference},
};
use crate::{
    catalog::granted,
    cli::{Exit, Failure},
    clock::{RandomIds, hex},
    config::{Backend, Config, Node, Origin, Plugin, Value},
};

/// What the driver is called when nobody names it.
const DRIVER: &str = "kato.storage";

/// Where the work on volumes is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// By a controller, for all nodes.
    Shared,
    /// By each node, for itself.
    NodeBound,
}

/// What is to be deployed.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) driver: String,
    pub(crate) form: Form,
    pub(crate) backends: BTreeMap<BackendName, Description>,
    pub(crate) classes: Vec<Class>,
    pub(crate) default_class: Option<ClassName>,
    /// Whether a node reaches volumes over its network, which then has to outlive the daemon.
    pub(crate) network: bool,
    /// Whether backends run programs of their own.
    pub(crate) commands: bool,
    /// The daemon's own folder, and the one of its sockets.
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    /// Folders that backends were granted outside of the daemon's own.
    pub(crate) granted: BTreeSet<PathBuf>,
    /// What the pods read.
    pub(crate) configuration: Carried,
    /// Classes whose volumes may be made for one pod alone.
    pub(crate) inline: BTreeSet<ClassName>,
    /// What the operator should know.
    pub(crate) notes: Vec<String>,
}

impl Site {
    /// Derives it from a configuration. Without names it is about every backend that was written, or about the
    /// built-in one if none was.
    pub(crate) fn of(config: &Config, named: &[String]) -> Result<Self, Failure> {
        let names = chosen(config, named)?;
        cluster_id(config)?;
        installable(config, &names)?;
        let of_ours = |class: &&Class| names.contains(&class.backend);
        let classes: Vec<Class> = config.classes.values().filter(of_ours).cloned().collect();
        let words = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect::<BTreeSet<_>>();
        let configuration = Carried::new(
            config,
            &words(&mut names.iter().map(BackendName::as_str)),
            &words(&mut classes.iter().map(|class| class.name.as_str())),
        )?;
        let backends = abilities::learn(config, &names)?;
        let form = form(config, &backends)?;
        let mut notes = Vec::new();
        for class in config.classes.values().filter(|class| !names.contains(&class.backend)) {
            if is_written(config.written.at(["class", class.name.as_str()])) {
                notes.push(format!(
                    "class {} is of backend {}, which is not deployed here",
                    class.name, class.backend
                ));
            }
        }
        for name in &names {
            notes.extend(config.backends.get(name).and_then(|backend| plugin_note(name, backend)));
        }
        if config.written.at(["node", "topology"]).is_some_and(|node| is_written(Some(node))) {
            notes.push("node.topology is the same for every node that reads this configuration".to_owned());
        }
        let of =
            |test: fn(&Backend) -> bool| names.iter().filter_map(|name| config.backends.get(name)).any(test);
        let mut ours = config.clone();
        ours.backends.retain(|name, _| names.contains(name));
        Ok(Self {
            driver: text(config, &["csi", "name"]).unwrap_or_else(|| DRIVER.to_owned()),
            form,
            backends,
            inline: classes
                .iter()
                .map(|class| class.name.clone())
                .filter(|name| allows_inline(config, name))
                .collect(),
            default_class: config
                .default_class
                .clone()
                .filter(|name| classes.iter().any(|class| class.name == *name)),
            classes,
            network: of(|backend| !network_kinds(backend).is_empty()),
            commands: of(|backend| !backend.grants.commands.is_empty()),
            granted: granted(&ours)
                .into_iter()
                .filter(|path| !path.starts_with(&config.folders.data))
                .collect(),
            data: config.folders.data.clone(),
            run: config.folders.run.clone(),
            configuration,
            notes,
        })
    }

    fn any(&self, test: impl Fn(&Description) -> bool) -> bool {
        self.backends.values().any(test)
    }

    /// Whether we have to be asked when a node gets a volume and when it is taken from it: to attach it, or to cut a
    /// node off.
    pub(crate) fn attaches(&self) -> bool {
        self.any(|it| it.abilities.attachments || it.abilities.fence)
    }

    pub(crate) fn snapshots(&self) -> bool {
        self.any(|it| it.abilities.snapshots)
    }

    /// Whether the snapshotter can ask for groups. Of volumes that lie on one node it cannot: it has no way of asking the
    /// daemon of that node, although that one cuts them.
    pub(crate) fn groups(&self) -> bool {
        self.any(|it| it.abilities.groups)
    }

    pub(crate) fn tells_capacity(&self) -> bool {
        self.any(|it| it.abilities.capacity)
    }

    /// Whether somebody outside of the daemon can ask for growth. On each node apart nobody can yet: the resizer has
    /// no way of looking after the volumes of its own node only, and would be told by all other nodes that they do not
    /// know the volume, which it takes for the end of the matter.
    pub(crate) fn grows(&self) -> bool {
        self.form == Form::Shared && self.any(|it| it.abilities.grow.is_some())
    }

    /// Whether a volume may have to be put down before it can grow.
    pub(crate) fn grows_offline(&self) -> bool {
        self.any(|it| it.abilities.grow == Some(Growing::Offline))
    }

    /// Whether parameters can be changed; by the resizer too, and so with its limits.
    pub(crate) fn modifies(&self) -> bool {
        self.form == Form::Shared && self.any(|it| it.abilities.modify)
    }

    /// Whether blocks can be listed for all nodes by one service: a snapshot that lies on one node could only be read
    /// there.
    pub(crate) fn lists_blocks(&self) -> bool {
        self.form == Form::Shared && self.tells_blocks()
    }

    /// Whether blocks are listed at all.
    pub(crate) fn tells_blocks(&self) -> bool {
        self.any(|it| it.abilities.extents)
    }

    /// Whether a class's volumes can be grown by who asks for it.
    pub(crate) fn class_grows(&self, class: &Class) -> bool {
        self.grows() && self.backends.get(&class.backend).is_some_and(|it| it.abilities.grow.is_some())
    }

    pub(crate) fn references(&self) -> &[Reference] {
        &self.configuration.references
    }
}

/// The backends that this is about.
fn chosen(config: &Config, named: &[String]) -> Result<Vec<BackendName>, Failure> {
    let mut names = Vec::new();
    for name in named {
        match config.backends.keys().find(|known| known.as_str() == name) {
            Some(known) => names.push(known.clone()),
            None => {
                let known: Vec<&str> = config.backends.keys().map(BackendName::as_str).collect();
                return Err(Failure::new(Exit::NotFound, format!("there is no backend {name:?}"))
                    .next(format!("the configuration has {}", known.join(", "))));
            }
        }
    }
    if named.is_empty() {
        let written = |name: &&BackendName| is_written(config.written.at(["backend", name.as_str()]));
        names = config.backends.keys().filter(written).cloned().collect();
        if names.is_empty() {
            names = config.backends.keys().cloned().collect();
        }
    }
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(Failure::new(
            Exit::Config,
            "the configuration has no backend: there is nothing to deploy",
        ));
    }
    Ok(names)
}

/// How all of them work, which has to be one way.
fn form(config: &Config, backends: &BTreeMap<BackendName, Description>) -> Result<Form, Failure> {
    let bound = |name: &&BackendName| {
        let attaches = backends.get(name).is_some_and(|it| it.abilities.attachments);
        !attaches && config.backends.get(name).is_some_and(lives_on_a_node)
    };
    let (bound, shared): (Vec<&BackendName>, Vec<&BackendName>) = backends.keys().partition(bound);
    match (bound.is_empty(), shared.is_empty()) {
        (true, _) => Ok(Form::Shared),
        (_, true) => Ok(Form::NodeBound),
        (false, false) => {
            let flags = |names: &[&BackendName]| {
                names.iter().map(|name| format!("--backend {name}")).collect::<Vec<_>>().join(" ")
            };
            let list =
                |names: &[&BackendName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(Failure::new(
                Exit::Config,
                format!(
                    "the volumes of {} live on a node and those of {} do not: one driver cannot look after both",
                    list(&bound),
                    list(&shared)
                ),
            )
            .next(format!(
                "deploy them as two:\n        {}\n        {} --name kato-local --set csi.name=local.{DRIVER} \\\n          \
                 --set folders.data=/var/lib/kato-local --set folders.run=/run/kato-local",
                flags(&shared),
                flags(&bound)
            )))
        }
    }
}

/// Whether a backend's volumes are directories and files of one host. One that names something that several of them
/// reach is not bound to any.
fn lives_on_a_node(backend: &Backend) -> bool {
    let connections = &backend.grants.connections;
    let of_this_host = connections.directory || connections.file;
    of_this_host && connections.device.is_empty() && network_kinds(backend).is_empty()
}

/// What a node reaches over its network.
fn network_kinds(backend: &Backend) -> Vec<&'static str> {
    let connections = &backend.grants.connections;
    let kinds = [
        ("rbd", backend.grants.ceph.is_some()),
        ("iscsi", connections.iscsi.is_some()),
        ("nbd", !connections.nbd.is_empty()),
        ("nfs", !connections.nfs.is_empty()),
    ];
    kinds.into_iter().filter(|(_, granted)| *granted).map(|(kind, _)| kind).collect()
}

/// Whether a pod's author may name this class for a volume that lives and dies with the pod. Any of them can, so
/// nothing but the operator's own word allows it.
fn allows_inline(config: &Config, class: &ClassName) -> bool {
    let flag = config.written.at(["class", class.as_str(), "inline"]);
    flag.is_some_and(|node| matches!(node.value, Value::Flag(true)))
}

/// The containers of all nodes have to agree on who they are: creation tokens are derived from it.
fn cluster_id(config: &Config) -> Result<String, Failure> {
    if let Some(id) = text(config, &["cluster", "id"]) {
        return Ok(id);
    }
    Err(Failure::new(
        Exit::Config,
        "the configuration has no cluster.id: without one, a container that is started anew would be another cluster, \
         and would not know its volumes again",
    )
    .next(format!("write a new one, once and for all:\n\n[cluster]\nid = \"{}\"\n", hex(RandomIds::new()?.next()))))
}

/// Where a plugin's component has to be.
fn plugin_note(name: &BackendName, backend: &Backend) -> Option<String> {
    match &backend.plugin {
        Plugin::Embedded(_) => None,
        Plugin::File(path, _) => Some(format!(
            "backend {name} is made of {}, which the image has to hold: `cargo xtask image --plugin {}`",
            path.display(),
            path.display()
        )),
        Plugin::Digest(_) => None,
    }
}

/// A plugin that was installed is in the data folder of this host, and of no other.
fn installable(config: &Config, names: &[BackendName]) -> Result<(), Failure> {
    let here = |name: &&BackendName| {
        config.backends.get(name).is_some_and(|backend| matches!(backend.plugin, Plugin::Digest(_)))
    };
    match names.iter().find(here) {
        Some(name) => Err(Failure::new(
            Exit::Config,
            format!("backend {name} is made of a plugin that was installed on this host alone"),
        )
        .next("name the component's file, and build it into the image: `cargo xtask image --plugin FILE`")),
        None => Ok(()),
    }
}

fn text(config: &Config, path: &[&str]) -> Option<String> {
    config.written.at(path.iter().copied())?.value.scalar().filter(|text| !text.is_empty())
}

/// Whether anything at or beneath a place was written by somebody.
fn is_written(node: Option<&Node>) -> bool {
    let Some(node) = node else { return false };
    match node.table() {
        Some(table) => table.values().any(|node| is_written(Some(node))),
        None => node.origin != Origin::Default,
    }
}
