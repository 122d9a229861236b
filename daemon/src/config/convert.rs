//! What the written values mean together: names are parsed, references looked up, and what contradicts itself
//! is refused. Shapes were checked before (`keys.rs`), so a value of the wrong shape is quietly taken for
//! its default here: its mistake is already told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kato_node::{IscsiDriver, RbdDriver};
use kato_orchestrator::{
    Error,
    model::{BackendName, Class, ClassName, DataRoot, FsType, NodeId},
};

use super::{
    Admin, Config, Docker, Folders, Layout, Limits, Log, LogFormat, NodeConfig, Store, StoreKind, Tcp,
    backends, csi, etcd,
    mistakes::{Mistake, nearest},
    scope::Scope,
    tree::{self, Node, Origin, Value},
};

/// Understands a checked tree. Nothing only when there is nothing sensible to go on with.
pub(crate) fn config(written: Node, mistakes: &mut Vec<Mistake>) -> Option<Config> {
    let folders = folders(&Scope::root(&written));
    let mut tree = match Scope::root(&written).section("catalog").flag("embedded") {
        true => built_in(&written, &folders.data, mistakes),
        false => Node::empty(),
    };
    tree.lay_over(written.clone());
    let root = Scope::root(&tree);

    let backends = named(&root, "backend", BackendName::parse, mistakes, backends::backend);
    let mut classes = named(&root, "class", ClassName::parse, mistakes, class);
    for (name, class) in &classes {
        if !backends.contains_key(&class.backend) && root.at(&["backend", class.backend.as_str()]).is_none() {
            let scope = root.section("class").section(name.as_str());
            let meant = nearest(class.backend.as_str(), backends.keys().map(BackendName::as_str));
            mistakes.push(
                scope.mistake("backend", format!("there is no backend \"{}\"", class.backend)).meaning(meant),
            );
        }
    }
    let known = |classes: &BTreeMap<ClassName, Class>, name: &str| {
        ClassName::parse(name).ok().filter(|name| classes.contains_key(name))
    };
    let catalog = root.section("catalog");
    let default_class = match catalog.text("default-class") {
        Some(name) => known(&classes, &name).or_else(|| {
            let meant = nearest(&name, classes.keys().map(ClassName::as_str));
            mistakes.push(
                catalog.mistake("default-class", format!("there is no class \"{name}\"")).meaning(meant),
            );
            None
        }),
        None => known(&classes, "default"),
    };
    let door = root.section("docker");
    let anonymous_class = match door.text("anonymous").as_deref() {
        None | Some("deny") => None,
        Some(name) => known(&classes, name).or_else(|| {
            let words = classes.keys().map(ClassName::as_str).chain(["deny"]);
            let meant = nearest(name, words);
            mistakes.push(
                door.mistake("anonymous", format!("there is no class \"{name}\", and it is not \"deny\""))
                    .meaning(meant),
            );
            None
        }),
    };
    if let Some(class) = anonymous_class.as_ref().and_then(|name| classes.get_mut(name)) {
        class.anonymous = true;
    }

    // All of them before any is given up on, so that all mistakes are told.
    let (store, node) = (store(&root, mistakes), node(&root, &folders, mistakes));
    let (docker, admin) = (docker(&root, mistakes), admin(&root, &folders, mistakes));
    let log = log(&root, mistakes);
    let cluster = csi::cluster(&root, mistakes);
    let csi = csi::csi(&root, backends.keys(), mistakes);
    Some(Config {
        store,
        node: node?,
        cluster,
        docker,
        csi,
        admin,
        log,
        limits: limits(&root),
        folders,
        classes,
        default_class,
        anonymous_class,
        backends,
        written: tree,
    })
}

/// What is there without being written. A backend `local` that is somebody else's plugin gets none of it:
/// nobody granted that one our folder.
fn built_in(written: &Node, data: &Path, mistakes: &mut Vec<Mistake>) -> Node {
    let ours = written
        .at(["backend", "local", "plugin"])
        .is_none_or(|node| node.value.scalar().as_deref() == Some("local"));
    let volumes = toml::Value::String(data.join("volumes").display().to_string());
    let backend = format!(
        "[backend.local]\nplugin = \"local\"\n\
         [backend.local.grants]\n\
         directories = {{ data = {volumes} }}\n\
         connections = {{ directory = true, file = true }}\n"
    );
    let classes = "[class.default]\nbackend = \"local\"\n\
         [class.ext4]\nbackend = \"local\"\nfs = \"ext4\"\ndefault-size = \"1GiB\"\n\
         parameters = { kind = \"image\" }\n\
         [class.xfs]\nbackend = \"local\"\nfs = \"xfs\"\ndefault-size = \"1GiB\"\n\
         parameters = { kind = \"image\" }\n";
    let text = if ours { format!("{backend}{classes}") } else { classes.to_owned() };
    let path: Arc<Path> = Arc::from(Path::new("built in"));
    let (node, wrong) = tree::parse(&text, &path);
    mistakes.extend(wrong);
    unplace(node)
}

/// The same tree, as something that nobody wrote.
fn unplace(node: Node) -> Node {
    let value = match node.value {
        Value::Table(table) => {
            Value::Table(table.into_iter().map(|(key, node)| (key, unplace(node))).collect())
        }
        Value::List(items) => Value::List(items.into_iter().map(unplace).collect()),
        scalar => scalar,
    };
    Node { value, origin: Origin::Default }
}

fn folders(root: &Scope<'_>) -> Folders {
    let scope = root.section("folders");
    Folders {
        data: scope.path("data").unwrap_or_else(|| PathBuf::from("/var/lib/kato")),
        run: scope.path("run").unwrap_or_else(|| PathBuf::from("/run/kato")),
        require_mount: scope.flag("require-mount"),
    }
}

fn store(root: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Store {
    let scope = root.section("store");
    let kind = match scope.text("kind").as_deref() {
        Some("memory") => StoreKind::Memory,
        Some("etcd") => StoreKind::Etcd,
        _ => StoreKind::Sled,
    };
    let etcd = etcd::etcd(&scope.section("etcd"), mistakes);
    if kind == StoreKind::Etcd && etcd.is_none() {
        let reason =
            "\"etcd\" needs store.etcd.endpoints, the members of etcd, such as [\"http://127.0.0.1:2379\"]";
        mistakes.push(scope.mistake("kind", reason));
    }
    Store { kind, dumps: usize::try_from(scope.count("dumps").unwrap_or(0)).unwrap_or(0), etcd }
}

fn node(root: &Scope<'_>, folders: &Folders, mistakes: &mut Vec<Mistake>) -> Option<NodeConfig> {
    let scope = root.section("node");
    let id =
        scope.text("id").unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let id = match NodeId::parse(&id) {
        Ok(id) => id,
        Err(error) => {
            mistakes.push(scope.mistake("id", error.message));
            return None;
        }
    };
    let mut names = BTreeMap::new();
    for (backend, name) in scope.words("names") {
        match BackendName::parse(&backend) {
            Ok(backend) if !name.is_empty() => drop(names.insert(backend, name)),
            Ok(_) => mistakes.push(
                scope.mistake("names", format!("the backend {backend} calls no host by an empty name")),
            ),
            Err(error) => mistakes.push(scope.mistake("names", error.message)),
        }
    }
    Some(NodeConfig {
        id,
        topology: scope.words("topology"),
        names,
        volumes: scope.path("volumes").unwrap_or_else(|| folders.data.join("mnt")),
        layout: match scope.text("layout").as_deref() {
            Some("names") => Layout::Names,
            _ => Layout::Ids,
        },
        reap_after: scope.span("reap-after"),
        idle_grace: scope.span("idle-grace"),
        freeze_limit: scope.span("freeze-limit"),
        rbd: rbd(&scope, mistakes),
        iscsi: iscsi(&scope, mistakes),
        initiator: initiator(&scope, mistakes),
        servers_here: scope.text("servers").as_deref() == Some("here"),
        dev: scope.path("dev").unwrap_or_default(),
        sys: scope.path("sys").unwrap_or_default(),
    })
}

fn rbd(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Vec<RbdDriver> {
    let written = scope.texts("rbd");
    let known = |word: &String| RbdDriver::ALL.into_iter().find(|driver| driver.name() == word);
    for word in written.iter().filter(|word| known(word).is_none()) {
        let reason = format!(
            "\"{word}\" is no way to connect an image: write krbd, nbd and qemu in the order of trying"
        );
        mistakes.push(scope.mistake("rbd", reason));
    }
    written.iter().filter_map(known).collect()
}

fn iscsi(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Vec<IscsiDriver> {
    let written = scope.texts("iscsi");
    let known = |word: &String| IscsiDriver::ALL.into_iter().find(|driver| driver.name() == word);
    for word in written.iter().filter(|word| known(word).is_none()) {
        let reason = format!(
            "\"{word}\" is no way to connect a unit: write open-iscsi and qemu in the order of trying"
        );
        mistakes.push(scope.mistake("iscsi", reason));
    }
    written.iter().filter_map(known).collect()
}

fn initiator(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<String> {
    let written = scope.text("initiator").filter(|name| !name.is_empty())?;
    if !kato_node::is_initiator(&written) {
        let reason = format!(
            "\"{written}\" is no initiator's name: one looks like iqn.2026-01.com.example:host, in small letters, digits, \
             dots, dashes and colons, of 223 bytes at most"
        );
        mistakes.push(scope.mistake("initiator", reason));
    }
    Some(written)
}

fn docker(root: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Docker {
    let scope = root.section("docker");
    let socket = scope.path("socket").unwrap_or_default();
    check_socket(&scope, "socket", &socket, mistakes);
    if socket.extension().is_none_or(|extension| extension != "sock") {
        mistakes.push(scope.mistake("socket", "Docker only finds sockets whose names end in .sock"));
    }
    Docker {
        enabled: scope.flag("enabled"),
        socket,
        global: match scope.text("scope").as_deref() {
            Some("global") => true,
            Some("local") => false,
            // Whoever shares records has the same volumes on every host.
            _ => root.section("store").text("kind").as_deref() == Some("etcd"),
        },
        implicit: scope.flag("implicit"),
        engine: scope.path("engine").unwrap_or_default(),
    }
}

/// The kernel takes at most 107 bytes for a socket's path, and says nothing helpful about longer ones.
pub(super) fn check_socket(scope: &Scope<'_>, word: &str, path: &Path, mistakes: &mut Vec<Mistake>) {
    let length = path.as_os_str().len();
    if length > 107 {
        mistakes.push(scope.mistake(
            word,
            format!("the path {} is {length} bytes long: a socket's may have 107 at most", path.display()),
        ));
    }
}

fn admin(root: &Scope<'_>, folders: &Folders, mistakes: &mut Vec<Mistake>) -> Admin {
    let scope = root.section("admin");
    let socket = scope.path("socket").unwrap_or_else(|| folders.run.join("admin.sock"));
    check_socket(&scope, "socket", &socket, mistakes);
    let group = scope.text("group");
    let mode = scope.mode("mode").unwrap_or_else(|| if group.is_some() { 0o660 } else { 0o600 });
    if mode & 0o007 != 0 {
        mistakes.push(
            scope.mistake("mode", "this lets everybody on this host delete every volume: use 0600 or 0660"),
        );
    } else if mode & 0o070 != 0 && group.is_none() {
        mistakes
            .push(scope.mistake("mode", "this lets a group in, but no group is named: write admin.group"));
    }
    let token_file = scope.path("token-file");
    let tcp = scope.text("tcp").and_then(|text| match text.parse::<SocketAddr>() {
        Ok(address) if !address.ip().is_loopback() => {
            mistakes.push(scope.mistake(
                "tcp",
                format!("{text} is not a loopback address: use 127.0.0.1 and a proxy with TLS before it"),
            ));
            None
        }
        Ok(address) => match &token_file {
            Some(token_file) => Some(Tcp {
                address,
                token_file: token_file.clone(),
                hosts: scope.texts("hosts").into_iter().collect::<BTreeSet<_>>(),
            }),
            None => {
                mistakes.push(scope.mistake("tcp", "a token is needed for TCP: write admin.token-file"));
                None
            }
        },
        Err(_) => {
            mistakes.push(
                scope.mistake("tcp", format!("\"{text}\" is not an address and port such as 127.0.0.1:7878")),
            );
            None
        }
    });
    Admin { socket, mode, group, tcp }
}

fn log(root: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Log {
    let scope = root.section("log");
    let level = scope.text("level").unwrap_or_default();
    let words = ["error", "warn", "info", "debug", "trace", "off"];
    // A word alone would be taken for the name of a module, of which everything is told and of all others nothing.
    let stray = level.split(',').map(str::trim).find(|part| !part.contains('=') && !words.contains(part));
    if let Some(stray) = stray {
        let reason = format!("\"{stray}\" is no level: use error, warn, info, debug, trace or off");
        mistakes.push(scope.mistake("level", reason).meaning(nearest(stray, words)));
    } else if let Err(error) = level.parse::<tracing_subscriber::filter::Targets>() {
        mistakes.push(scope.mistake("level", format!("\"{level}\" is no level and no filter: {error}")));
    }
    Log {
        level,
        format: match scope.text("format").as_deref() {
            Some("json") => LogFormat::Json,
            Some("text") => LogFormat::Text,
            _ => LogFormat::Auto,
        },
    }
}

fn limits(root: &Scope<'_>) -> Limits {
    let scope = root.section("limits");
    let count = |word: &str| scope.count(word).and_then(|count| usize::try_from(count).ok());
    Limits {
        threads: count("threads").filter(|threads| *threads > 0),
        requests: count("requests").unwrap_or(64),
        wait: scope.span("wait"),
        tidy_every: scope.span("tidy-every").max(Duration::from_millis(100)),
        watch_every: scope.span("watch-every").max(Duration::from_millis(100)),
    }
}

/// The tables of an operator's own names beneath a section.
fn named<N: Ord, T>(
    root: &Scope<'_>,
    section: &str,
    parse: impl Fn(&str) -> Result<N, Error>,
    mistakes: &mut Vec<Mistake>,
    understand: impl Fn(&str, &Scope<'_>, &mut Vec<Mistake>) -> Option<T>,
) -> BTreeMap<N, T> {
    let all = root.section(section);
    let names: Vec<String> =
        all.node.and_then(Node::table).map(|table| table.keys().cloned().collect()).unwrap_or_default();
    let mut found = BTreeMap::new();
    for name in names {
        let scope = all.section(&name);
        match parse(&name) {
            Ok(parsed) => {
                if let Some(value) = understand(&name, &scope, mistakes) {
                    found.insert(parsed, value);
                }
            }
            Err(error) => mistakes.push(all.mistake(&name, error.message)),
        }
    }
    found
}

fn class(name: &str, scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<Class> {
    let backend = match BackendName::parse(&scope.text("backend").unwrap_or_default()) {
        Ok(backend) => backend,
        Err(error) => {
            mistakes.push(scope.mistake("backend", error.message));
            return None;
        }
    };
    let (default_size, max_size) = (scope.size("default-size"), scope.size("max-size"));
    if let (Some(default), Some(max)) = (default_size, max_size)
        && default > max
    {
        mistakes.push(scope.mistake(
            "default-size",
            format!("the default, {default}, is larger than the largest allowed, {max}"),
        ));
    }
    let directory = scope.text("data-root").unwrap_or_default();
    let directory = match directory.as_str() {
        "" | "/" => None,
        word => match DataRoot::check_directory(word) {
            Ok(()) => Some(word.to_owned()),
            Err(error) => {
                mistakes.push(scope.mistake("data-root", error.message));
                None
            }
        },
    };
    let id = |word: &str| scope.count(word).and_then(|id| u32::try_from(id).ok());
    Some(Class {
        name: ClassName::parse(name).ok()?,
        backend,
        parameters: scope.words("parameters"),
        fs: scope.text("fs").and_then(|fs| FsType::parse(&fs).ok()).unwrap_or(FsType::Ext4),
        mount_options: scope.texts("mount-options"),
        default_size: default_size.unwrap_or_default(),
        max_size,
        root: DataRoot { directory, uid: id("uid"), gid: id("gid"), mode: scope.mode("mode") },
        anonymous: false,
        retain: scope.flag("retain"),
        inline: scope.flag("inline"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::config::{Sources, load};

    fn told(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        let sources = Sources { file: Some(file), set: Vec::new(), environment: BTreeMap::new() };
        let place = format!("{}/", folder.path().display());
        match load(&sources) {
            Ok(_) => Vec::new(),
            Err(mistakes) => {
                mistakes.0.iter().map(|mistake| mistake.to_string().replace(&place, "")).collect()
            }
        }
    }

    #[test]
    fn nothing_written_is_a_configuration() {
        assert!(told("").is_empty());
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let told = told(
            "[node]\nidd = \"x\"\nreap-after = 5\n\n[docker]\nscope = \"globl\"\nanonymous = \"xsf\"\n\n\
             [class.fast]\nbackend = \"lcal\"\ndefault-size = \"5GiB\"\nmax-size = \"1GiB\"\n\n\
             [csi]\nrole = \"nod\"\n\n[store]\nkind = \"etcd\"\n\n[admin]\ntcp = \"0.0.0.0:80\"\nmode = \"0666\"\n",
        );
        let expected = [
            "c.toml:2: node.idd: there is no such key; did you mean \"id\"?",
            "c.toml:3: node.reap-after: this has to be a time with its unit as text, for example \"30s\", not an integer",
            "c.toml:6: docker.scope: \"globl\" is none of auto, local, global; did you mean \"global\"?",
            "c.toml:7: docker.anonymous: there is no class \"xsf\", and it is not \"deny\"; did you mean \"xfs\"?",
            "c.toml:10: class.fast.backend: there is no backend \"lcal\"; did you mean \"local\"?",
            "c.toml:11: class.fast.default-size: the default, 5GiB, is larger than the largest allowed, 1GiB",
            "c.toml:15: csi.role: \"nod\" is none of all, controller, node; did you mean \"node\"?",
            "c.toml:18: store.kind: \"etcd\" needs store.etcd.endpoints, the members of etcd, such as \
             [\"http://127.0.0.1:2379\"]",
        ];
        for line in expected {
            assert!(told.iter().any(|mistake| mistake == line), "{line} is not in {told:#?}");
        }
        assert!(told.iter().any(|mistake| mistake.starts_with("c.toml:21: admin.tcp")), "{told:#?}");
    }

    #[test]
    fn a_foreign_plugin_named_local_is_granted_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "[backend.local]\nplugin = \"/somebody/elses.wasm\"\n").unwrap();
        let sources = Sources { file: Some(file), set: Vec::new(), environment: BTreeMap::new() };
        let config = load(&sources).unwrap();
        let backend = config.backends.values().next().unwrap();
        assert!(backend.grants.directories.is_empty() && !backend.grants.connections.file);
    }

    #[test]
    fn secrets_are_named_and_never_written() {
        let told = told(
            "[backend.x]\nplugin = \"local\"\n[[backend.x.grants.http]]\nurl = \"https://x\"\n\
             authoriser = { bearer = { secret = { text = \"hunter2\" } } }\n",
        );
        assert!(told.iter().all(|mistake| !mistake.contains("hunter2")), "{told:?}");
        assert!(told.iter().any(|mistake| mistake.contains("the secret is nowhere")), "{told:?}");
        let twice = self::told(
            "[backend.x]\nplugin = \"local\"\n[[backend.x.grants.http]]\nurl = \"https://x\"\n\
             authoriser = { bearer = { secret = { file = \"/x\", credential = \"x\" } } }\n",
        );
        assert!(twice.iter().any(|mistake| mistake.contains("in two places")), "{twice:?}");
    }
}
