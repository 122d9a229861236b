//! Every key that the configuration knows, once: its shape, what it is when nobody writes it, and what it
//! does in a sentence. Checking, the environment's names, the default file and the JSON schema are all read
//! from this table, so none of them can disagree. What the values mean together is `convert.rs`.
//!
//! In a path, `*` is a name that the operator gives and `[]` an entry of a list.

mod backends;

use std::time::Duration;

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Any text.
    Text,
    /// A path from the root.
    Path,
    /// True or false.
    Flag,
    /// A whole number within.
    Count(i64, i64),
    /// A time such as `30s` or `10m`.
    Span,
    /// A size such as `1GiB`.
    Size,
    /// The mode of a file, in octal: `"0750"`.
    Mode,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of texts.
    Texts,
    /// A table of texts; numbers and true or false are taken as they are written.
    Words,
    /// A list of tables, whose keys are listed beneath.
    Tables,
}

/// A key of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// Where it is.
    pub(crate) path: &'static str,
    /// What it may be.
    pub(crate) shape: Shape,
    /// What it is when nobody writes it, as TOML; empty when it then is nothing.
    pub(crate) default: &'static str,
    /// What it does.
    pub(crate) doc: &'static str,
}

const fn key(path: &'static str, shape: Shape, default: &'static str, doc: &'static str) -> Key {
    Key { path, shape, default, doc }
}

use Shape::{Count, Flag, Mode, OneOf, Path, Size, Span, Text, Texts, Words};

/// What each section is for, in the order in which people read them.
pub(crate) const SECTIONS: &[(&str, &str)] = &[
    ("folders", "Where the daemon keeps what is its own."),
    ("store", "The journal: every volume is a record in it before it is anything else."),
    ("cluster", "What several daemons without common records share."),
    ("node", "This host."),
    ("docker", "The door for Docker, Podman and everything that speaks Docker's volume plugin protocol."),
    ("csi", "The door for Kubernetes, Nomad, Mesos and Swarm: the Container Storage Interface."),
    ("admin", "The door for `kato` itself and for the metrics."),
    ("log", "What is told on standard error."),
    ("limits", "How much of the machine the daemon and its plugins may take."),
    ("catalog", "Which classes there are without any being written."),
    ("class.*", "A class is a recipe for volumes. `[class.fast]` makes the class \"fast\"."),
    ("backend.*", "A backend is a plugin with its configuration and what it is granted."),
];

/// Every key.
pub(crate) fn all() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().chain(backends::KEYS)
}

/// All but those of backends.
const KEYS: &[Key] = &[
    key(
        "folders.data",
        Path,
        "\"/var/lib/kato\"",
        "The journal, installed plugins and, unless a backend says otherwise, the volumes. Only root may enter it.",
    ),
    key("folders.run", Path, "\"/run/kato\"", "Sockets and what need not survive a reboot."),
    key(
        "folders.require-mount",
        Flag,
        "false",
        "Refuse to start unless the data folder is on a mounted filesystem of its own. Set it when the data folder is on a disk of its own, so that a missing disk is not taken for an empty one.",
    ),
    key(
        "store.kind",
        OneOf(&["sled", "memory", "etcd"]),
        "\"sled\"",
        "\"sled\" keeps the records on this host's disk, \"etcd\" where several hosts share them. \"memory\" forgets everything at the end and is for tests.",
    ),
    key(
        "store.dumps",
        Count(0, 365),
        "7",
        "How many daily dumps of the records are kept under the data folder; 0 for none.",
    ),
    key(
        "store.etcd.endpoints",
        Texts,
        "[]",
        "The members of etcd, such as [\"https://10.0.0.1:2379\", \"https://10.0.0.2:2379\"]; one that is away is left for the next. Version 3.4 or later.",
    ),
    key(
        "store.etcd.prefix",
        Text,
        "\"kato/\"",
        "What all keys in etcd begin with: hosts with the same prefix are one house, others may share the cluster.",
    ),
    key(
        "store.etcd.user",
        Text,
        "",
        "Who the daemon is to etcd, where etcd has users; it needs `readwrite` beneath the prefix.",
    ),
    key(
        "store.etcd.keep-history",
        Span,
        "\"10m\"",
        "How far back etcd remembers; older values are compacted away, of the whole cluster. \"0s\" leaves that to others, such as etcd's --auto-compaction-retention.",
    ),
    key(
        "store.etcd.patience",
        Span,
        "\"20s\"",
        "How long a request waits for an etcd that is away before it is answered with an error.",
    ),
    key(
        "store.etcd.lease",
        Span,
        "\"15s\"",
        "How long a host that is not heard is believed to live. After that the others fence it before they take what it has.",
    ),
    key(
        "store.etcd.away",
        Span,
        "\"10m\"",
        "How long a host whose daemon was stopped on purpose may take to come back before the others fence it.",
    ),
    key("store.etcd.tls.ca", Path, "", "Who signed the members' certificates, in PEM; needed for https."),
    key("store.etcd.tls.cert", Path, "", "This host's own certificate, where etcd wants one, in PEM."),
    key("store.etcd.tls.key", Path, "", "The key of that certificate, in PEM."),
    key("store.etcd.password.file", Path, "", "The file with the user's password."),
    key("store.etcd.password.env", Text, "", "The same, from a variable of the daemon's environment."),
    key(
        "store.etcd.password.credential",
        Text,
        "",
        "The same, from a credential that systemd gives to the daemon (`LoadCredential=`), by its name.",
    ),
    key(
        "cluster.id",
        Text,
        "",
        "32 hex digits that every daemon of one cluster has; when nothing is written, the data folder's own id is the cluster's.",
    ),
    key(
        "node.id",
        Text,
        "",
        "What this host is called among the others; its host name when nothing is written.",
    ),
    key("node.topology", Words, "{}", "Where this host is, for example { zone = \"a\" }."),
    key(
        "node.names",
        Words,
        "{}",
        "What backends call this host where that is not node.id, for example { ebs = \"i-0123\" }.",
    ),
    key("node.volumes", Path, "", "Where volumes are mounted; `<data>/mnt` when nothing is written."),
    key(
        "node.layout",
        OneOf(&["ids", "names"]),
        "\"ids\"",
        "Whether mounts are called by the volume's id or by its name. \"names\" is for programs that build the path themselves.",
    ),
    key(
        "node.reap-after",
        Span,
        "\"10m\"",
        "How long a holder has to look dead before its mount is taken back.",
    ),
    key(
        "node.idle-grace",
        Span,
        "\"30s\"",
        "How long a mount that nobody holds is kept, in case somebody wants it again.",
    ),
    key("node.freeze-limit", Span, "\"10s\"", "How long a filesystem may be held still for a snapshot."),
    key(
        "node.rbd",
        Texts,
        "[\"krbd\", \"nbd\", \"qemu\"]",
        "How images in Ceph are connected: the first of these that works here. krbd and nbd need a module of the kernel's, qemu needs qemu-storage-daemon. `kato node inspect` tells what this host lacks.",
    ),
    key(
        "node.iscsi",
        Texts,
        "[\"open-iscsi\", \"qemu\"]",
        "How units behind iSCSI portals are connected: the first of these that works here. open-iscsi needs a module of the kernel's, qemu needs qemu-storage-daemon.",
    ),
    key(
        "node.initiator",
        Text,
        "",
        "What this host is called among iSCSI's initiators; when nothing is written, what /etc/iscsi/initiatorname.iscsi says, or else a name that is made of node.id.",
    ),
    key(
        "node.servers",
        OneOf(&["host", "here"]),
        "\"host\"",
        "Where servers of block devices may run: among the host's processes only, or where the daemon is. A container's end would end them, and cut volumes off.",
    ),
    key(
        "node.dev",
        Path,
        "\"/dev\"",
        "Where this host's device nodes are, for finding disks that a backend attaches. Only a daemon in a container that has them elsewhere needs it.",
    ),
    key(
        "node.sys",
        Path,
        "\"/sys\"",
        "Where this host's sysfs is, for the same: what it says of a disk is believed, and its name is not.",
    ),
    key("docker.enabled", Flag, "true", "Whether the door is open."),
    key(
        "docker.socket",
        Path,
        "\"/run/docker/plugins/kato.sock\"",
        "Where Docker finds it; the file's name is the driver's name.",
    ),
    key(
        "docker.scope",
        OneOf(&["auto", "local", "global"]),
        "\"auto\"",
        "What Docker is told: \"global\" makes Swarm take a volume for the same on every host. \"auto\" is global where hosts share their records (store.kind = \"etcd\"), and else local.",
    ),
    key(
        "docker.implicit",
        Flag,
        "true",
        "Whether mounting a volume that does not exist makes it, as `docker run -v` expects.",
    ),
    key(
        "docker.anonymous",
        Text,
        "\"deny\"",
        "The class of volumes that Docker names with 64 hex digits, or \"deny\". Nothing in Docker removes them reliably.",
    ),
    key(
        "docker.engine",
        Path,
        "\"/run/docker.sock\"",
        "Docker's own socket, which only `kato doctor` asks: for volumes of the same name under another driver.",
    ),
    key("csi.enabled", Flag, "false", "Whether the door is open. The variable CSI_ENDPOINT opens it too."),
    key(
        "csi.socket",
        Path,
        "\"/run/kato/csi.sock\"",
        "Where kubelet and the sidecars find it. CSI_ENDPOINT=unix:///csi/csi.sock wins over what is written here.",
    ),
    key(
        "csi.role",
        OneOf(&["all", "controller", "node"]),
        "\"all\"",
        "\"controller\" serves what can be done from anywhere, \"node\" what has to be done on this host.",
    ),
    key(
        "csi.name",
        Text,
        "\"kato.storage\"",
        "What the driver is called, in the form of a domain name; keys of topology begin with it.",
    ),
    key(
        "csi.stage",
        Flag,
        "true",
        "Whether volumes are staged before they are published, as Kubernetes expects; Swarm's way is without.",
    ),
    key(
        "csi.roots",
        Texts,
        "[]",
        "Folders under which staging and target paths have to lie, such as \"/var/lib/kubelet\"; anywhere when there is none.",
    ),
    key(
        "csi.wait",
        Span,
        "\"8s\"",
        "How long a call waits for its wish before it answers that it is under way; sidecars give up after 15 s.",
    ),
    key("csi.calls", Count(1, 65_536), "256", "Calls that are worked on at once; the others wait."),
    key(
        "csi.seal.file",
        Path,
        "",
        "The file with the key that contexts are sealed with, the same for every process of the cluster: 32 bytes or more. With the role \"all\" one is made in the data folder when nothing is written.",
    ),
    key("csi.seal.env", Text, "", "The same, from a variable of the daemon's environment."),
    key(
        "csi.seal.credential",
        Text,
        "",
        "The same, from a credential that systemd gives to the daemon (`LoadCredential=`), by its name.",
    ),
    key(
        "admin.socket",
        Path,
        "",
        "Where the command line finds the daemon; `<run>/admin.sock` when nothing is written.",
    ),
    key("admin.mode", Mode, "", "The socket's mode; \"0600\", or \"0660\" with a group."),
    key("admin.group", Text, "", "The group whose members may use the socket. They can delete every volume."),
    key(
        "admin.tcp",
        Text,
        "",
        "Also listen on this address and port. Only a loopback address is taken, for there is no TLS here: put a proxy before it.",
    ),
    key(
        "admin.token-file",
        Path,
        "",
        "A file with the token that every request over TCP has to carry; at least 16 characters, readable by root only.",
    ),
    key(
        "admin.hosts",
        Texts,
        "[]",
        "Names besides the address itself that requests over TCP may call us by.",
    ),
    key(
        "log.level",
        Text,
        "\"info\"",
        "error, warn, info, debug or trace, or filters such as \"info,kato_node=debug\".",
    ),
    key(
        "log.format",
        OneOf(&["auto", "json", "text"]),
        "\"auto\"",
        "\"auto\" is text for a terminal and JSON for everything else.",
    ),
    key("limits.threads", Count(0, 256), "0", "Threads that serve requests; 0 for one per core, at most 8."),
    key("limits.requests", Count(1, 4096), "64", "Requests to the admin door that are worked on at once."),
    key(
        "limits.wait",
        Span,
        "\"110s\"",
        "How long the admin door waits for a wish before it answers that it is under way.",
    ),
    key("limits.tidy-every", Span, "\"5s\"", "How often what is over is taken down."),
    key(
        "limits.watch-every",
        Span,
        "\"30s\"",
        "How often each mount is asked whether it still reaches its bytes.",
    ),
    key(
        "catalog.embedded",
        Flag,
        "true",
        "Whether the backend \"local\" and the classes \"default\", \"ext4\" and \"xfs\" are there without being written. What is written under their names is laid over them.",
    ),
    key(
        "catalog.default-class",
        Text,
        "",
        "The class of wishes that name none; \"default\" if there is one.",
    ),
    key("class.*.backend", Text, "\"local\"", "Where its volumes live."),
    key(
        "class.*.parameters",
        Words,
        "{}",
        "What the backend is told for each of its volumes; `kato backend inspect` lists what it understands.",
    ),
    key(
        "class.*.fs",
        OneOf(&["ext4", "xfs"]),
        "\"ext4\"",
        "What is made on a blank device; directories have no filesystem of their own.",
    ),
    key("class.*.mount-options", Texts, "[]", "Options of every mount; nosuid and nodev are always set."),
    key(
        "class.*.default-size",
        Size,
        "",
        "What a volume gets whose caller names no size; the backend chooses when nothing is written.",
    ),
    key("class.*.max-size", Size, "", "The largest that a caller may ask for."),
    key("class.*.uid", Count(0, 4_294_967_294), "", "Who owns what a container finds, set once."),
    key("class.*.gid", Count(0, 4_294_967_294), "", "The same for the group."),
    key(
        "class.*.mode",
        Mode,
        "",
        "The mode of what a container finds, set once; \"0755\" when nothing is written.",
    ),
    key(
        "class.*.data-root",
        Text,
        "\"data\"",
        "The directory of the filesystem that a container gets; \"/\" for the filesystem itself, lost+found and all.",
    ),
    key("class.*.retain", Flag, "false", "Whether deleting a volume leaves its data with the backend."),
    key(
        "class.*.inline",
        Flag,
        "false",
        "Whether any pod may bring volumes of it about that live and die with the pod (Kubernetes' ephemeral inline volumes). Whoever may write a pod may then use up its room.",
    ),
];

/// The key at this path of written words; names stand for `*`, entries for `[]`.
pub(crate) fn find(path: &[String]) -> Option<&'static Key> {
    all().find(|key| {
        let mut segments = key.path.split('.');
        path.iter().all(|word| segments.next().is_some_and(|segment| segment == "*" || segment == word))
            && segments.next().is_none()
    })
}

/// Whether some key is at or beneath this path.
pub(crate) fn is_section(path: &[String]) -> bool {
    all().any(|key| {
        let mut segments = key.path.split('.');
        path.iter().all(|word| segments.next().is_some_and(|segment| segment == "*" || segment == word))
            && segments.next().is_some()
    })
}

impl Shape {
    /// What is wanted, for people.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Path => "a path from the root, as text".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Count(least, most) => format!("a whole number from {least} to {most}"),
            Self::Span => "a time with its unit as text, for example \"30s\"".to_owned(),
            Self::Size => "a size as text, for example \"10GiB\"".to_owned(),
            Self::Mode => "a mode in octal as text, for example \"0750\"".to_owned(),
            Self::OneOf(words) => format!("one of {}, as text", words.join(", ")),
            Self::Texts => "a list of texts".to_owned(),
            Self::Words => "a table of texts".to_owned(),
            Self::Tables => "a list of tables".to_owned(),
        }
    }
}

/// Reads a time: `500ms`, `30s`, `10m`, `2h`, `1d`.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("\"{text}\" is not a time: write a number and ms, s, m, h or d, for example \"30s\"");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(millis)
        .filter(|millis| *millis <= 365 * 86_400_000)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("\"{text}\" is longer than a year"))
}

/// Reads a mode in octal.
pub(crate) fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    ((3..=4).contains(&digits.len()))
        .then(|| u32::from_str_radix(digits, 8).ok())
        .flatten()
        .filter(|mode| *mode <= 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_listed_twice_and_each_has_its_section() {
        let keys: Vec<_> = all().collect();
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[at + 1..].iter().any(|other| other.path == key.path), "{}", key.path);
            assert!(
                SECTIONS.iter().any(|(section, _)| key.path.starts_with(&format!("{section}."))),
                "{}",
                key.path
            );
        }
    }

    #[test]
    fn times_read_as_people_write_them() {
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["", "10", "s", "-1s", "1 fortnight", "400d"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
