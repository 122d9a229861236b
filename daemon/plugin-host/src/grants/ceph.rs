//! A granted Ceph pool: who the plugin is in the cluster, and the whole command lines that are enough to look after
//! images there. The operator writes five words instead of thirty lines, and the lines below are the ones that this
//! project answers for; whoever wants others writes them as `commands`.
//!
//! Identity, configuration file, pool and namespace are literal in every line, so a plugin can only speak of what is in
//! its pool. No line has a hole for an option or a path: `rbd --log-file` writes any file, `--conf` reads any, `import`
//! and `export` copy any. None of them shrinks an image (`--allow-shrink`), takes a blocklisting back, or touches a lock
//! of another name than ours. Every line ends: `rbd` waits for ever by default, so the cluster's answers have a limit,
//! and the program has one of its own.
//!
//! What a plugin needs to know of the grant (pool, namespace, pools for data) is added to its configuration; the key and
//! where it lies are not. The node connects images by the same grant: a connection names it by the backend's name.

use std::{collections::BTreeMap, path::PathBuf};

use kato_orchestrator::Error;
use serde::Deserialize;

use super::commands::CommandGrant;

/// A pool of a Ceph cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CephGrant {
    /// The Ceph user, without `client.`.
    pub user: String,
    /// The file with its key.
    pub keyring: PathBuf,
    /// The cluster's configuration file.
    #[serde(default = "usual_conf")]
    pub conf: PathBuf,
    /// The pool.
    pub pool: String,
    /// The namespace in it; empty for the default one.
    #[serde(default)]
    pub namespace: String,
    /// Pools in which the data of images may lie, erasure coded ones for example.
    #[serde(default)]
    pub data_pools: Vec<String>,
    /// Who runs the commands; the key has to be readable for them, and it is never root.
    #[serde(default = "nobody")]
    pub uid: u32,
    /// Their group.
    #[serde(default = "nobody")]
    pub gid: u32,
    /// Where `rbd`, `rados` and `ceph` are.
    #[serde(default = "usual_programs")]
    pub programs: PathBuf,
}

fn usual_conf() -> PathBuf {
    "/etc/ceph/ceph.conf".into()
}

fn usual_programs() -> PathBuf {
    "/usr/bin".into()
}

fn nobody() -> u32 {
    65534
}

/// How long the cluster has for each answer, in seconds. A command has a few of them.
const ANSWER: u32 = 15;

/// How long a command may take that does little, in milliseconds.
const SHORT: u64 = 60_000;

/// How long one may take that removes what an image holds.
const LONG: u64 = 110_000;

/// Which program a line is of.
#[derive(Clone, Copy)]
enum Tool {
    Rbd,
    /// `rbd`, and what it prints is for programs.
    Told,
    Rados,
    Ceph,
}

use Tool::{Ceph, Rados, Rbd, Told};

/// The lines, by the names that a plugin knows them by. `{P}` is the pool with its namespace, `{IN}` the same as
/// options; the rest are holes of the guest's.
const LINES: &[(&str, Tool, u64, &str)] = &[
    ("rbd-create", Rbd, SHORT, "create {P}/{image} --size {size:bytes}B --image-feature {FEATURES}"),
    (
        "rbd-create-in",
        Rbd,
        SHORT,
        "create {P}/{image} --size {size:bytes}B --image-feature {FEATURES} --data-pool {DATA}",
    ),
    ("rbd-clone", Rbd, SHORT, "clone {P}/{source}@{snapshot} {P}/{image} --image-feature {FEATURES}"),
    (
        "rbd-clone-in",
        Rbd,
        SHORT,
        "clone {P}/{source}@{snapshot} {P}/{image} --image-feature {FEATURES} --data-pool {DATA}",
    ),
    ("rbd-info", Told, SHORT, "info {P}/{image}"),
    ("rbd-info-by-id", Told, SHORT, "info {IN} --image-id {id}"),
    ("rbd-list", Told, SHORT, "ls {P}"),
    ("rbd-list-all", Told, SHORT, "ls -l {P}"),
    ("rbd-mark", Rbd, SHORT, "image-meta set {P}/{image} kato.mark {mark:text}"),
    ("rbd-note", Rbd, SHORT, "image-meta set {P}/{image} kato.trash-days {days:int}"),
    ("rbd-marks", Told, SHORT, "image-meta list {P}/{image}"),
    ("rbd-marks-by-id", Rados, SHORT, "listomapvals rbd_header.{id}"),
    ("rbd-mark-snapshot", Rbd, SHORT, "image-meta set {P}/{image} kato.snapshot.{snapshot} {mark:text}"),
    ("rbd-unmark-snapshot", Rbd, SHORT, "image-meta remove {P}/{image} kato.snapshot.{snapshot}"),
    ("rbd-resize", Rbd, SHORT, "resize {P}/{image} --size {size:bytes}B --no-progress"),
    ("rbd-remove", Rbd, LONG, "rm {P}/{image} --no-progress"),
    ("rbd-status", Told, SHORT, "status {P}/{image}"),
    ("rbd-snapshot", Rbd, SHORT, "snap create {P}/{image}@{snapshot} --no-progress"),
    ("rbd-snapshots-by-id", Told, SHORT, "snap ls {IN} --image-id {id} --all"),
    ("rbd-remove-snapshot", Rbd, LONG, "snap rm {IN} --image-id {id} --snap {snapshot} --no-progress"),
    ("rbd-diff", Told, SHORT, "diff --whole-object {P}/{image}@{snapshot}"),
    ("rbd-diff-since", Told, SHORT, "diff --whole-object --from-snap {base} {P}/{image}@{snapshot}"),
    ("rbd-trash", Rbd, SHORT, "trash mv {P}/{image}"),
    ("rbd-trash-until", Rbd, SHORT, "trash mv {P}/{image} --expires-at {date}"),
    ("rbd-trash-list", Told, SHORT, "trash ls {P} --all --long"),
    ("rbd-purge", Rbd, LONG, "trash rm {IN} --image-id {id} --no-progress"),
    ("rbd-restore", Rbd, SHORT, "trash restore {IN} --image-id {id} --image {image}"),
    // Not `rbd lock add`: on an image with exclusive-lock that keeps the image's own user from writing.
    (
        "rbd-claim",
        Rados,
        SHORT,
        "lock get rbd_id.{image} kato --lock-cookie {node} --lock-type {type:exclusive|shared}",
    ),
    ("rbd-claims", Rados, SHORT, "lock info rbd_id.{image} kato --format json"),
    ("rbd-unclaim", Rados, SHORT, "lock break rbd_id.{image} kato {locker} --lock-cookie {node}"),
    ("ceph-map", Ceph, SHORT, "osd dump"),
    ("ceph-df", Ceph, SHORT, "df detail"),
    ("ceph-mgr", Ceph, SHORT, "mgr dump"),
    // Ten years. Without an expiry it lasts an hour, and nobody may take one back while a lost client may still run.
    ("ceph-blocklist", Ceph, SHORT, "osd blocklist add {client} 315360000"),
    ("ceph-blocklisted", Ceph, SHORT, "osd blocklist ls"),
    ("ceph-flatten", Ceph, SHORT, "rbd task add flatten {P}/{image}"),
];

/// The sets of features that an image can have.
const FEATURES: &str =
    "{features:layering,exclusive-lock,object-map,fast-diff,deep-flatten|layering,exclusive-lock|layering}";

impl CephGrant {
    /// The names of the lines.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let has_data = !self.data_pools.is_empty();
        LINES.iter().filter(move |(.., line)| has_data || !line.contains("{DATA}")).map(|(name, ..)| *name)
    }

    /// The lines, with everything in its place that is not the plugin's to say.
    pub(crate) fn lines(&self) -> Result<BTreeMap<String, CommandGrant>, Error> {
        self.check()?;
        let place = self.place();
        let within = match self.namespace.as_str() {
            "" => format!("--pool {}", self.pool),
            namespace => format!("--pool {} --namespace {namespace}", self.pool),
        };
        let data = format!("{{data-pool:{}}}", self.one_of_data_pools());
        let filled = |line: &str| {
            line.replace("{P}", &place)
                .replace("{IN}", &within)
                .replace("{FEATURES}", FEATURES)
                .replace("{DATA}", &data)
        };
        let names: Vec<_> = self.names().collect();
        let granted = LINES.iter().filter(|(name, ..)| names.contains(name));
        Ok(granted
            .map(|(name, tool, timeout_ms, line)| {
                let line = format!("{} {}", self.beginning(*tool, &within), filled(line));
                let (uid, gid, timeout_ms) = (self.uid, self.gid, *timeout_ms);
                ((*name).to_owned(), CommandGrant { line, uid, gid, timeout_ms, writable: false })
            })
            .collect())
    }

    /// What the plugin is told of the grant.
    pub(crate) fn told(&self) -> BTreeMap<String, String> {
        let mut words = BTreeMap::from([("pool".to_owned(), self.pool.clone())]);
        if !self.namespace.is_empty() {
            words.insert("namespace".to_owned(), self.namespace.clone());
        }
        if !self.data_pools.is_empty() {
            words.insert("data-pools".to_owned(), self.data_pools.join(","));
        }
        words
    }

    fn place(&self) -> String {
        match self.namespace.as_str() {
            "" => self.pool.clone(),
            namespace => format!("{}/{namespace}", self.pool),
        }
    }

    /// One of the pools, in the form of a hole: a list of one says its word twice.
    fn one_of_data_pools(&self) -> String {
        match self.data_pools.as_slice() {
            [only] => format!("{only}|{only}"),
            pools => pools.join("|"),
        }
    }

    fn beginning(&self, tool: Tool, within: &str) -> String {
        let program = |name: &str| self.programs.join(name).display().to_string();
        let who = format!(
            "--conf {} --id {} --keyring {} --log-file /dev/null",
            self.conf.display(),
            self.user,
            self.keyring.display()
        );
        let limits = format!(
            "--rados_osd_op_timeout {ANSWER} --rados_mon_op_timeout {ANSWER} --client_mount_timeout {ANSWER}"
        );
        match tool {
            Rbd => format!("{} {who} {limits} --rbd_default_clone_format 2", program("rbd")),
            Told => format!("{} {who} {limits} --format json", program("rbd")),
            Rados => format!("{} {who} {limits} {within}", program("rados")),
            Ceph => format!("{} {who} --connect-timeout {ANSWER} --format json", program("ceph")),
        }
    }

    /// What is written becomes part of command lines, so it has to be words.
    fn check(&self) -> Result<(), Error> {
        let mut mistakes = Vec::new();
        let names = [("user", &self.user), ("pool", &self.pool)];
        let spaces = [("namespace", &self.namespace)].into_iter().filter(|(_, value)| !value.is_empty());
        let data = self.data_pools.iter().map(|pool| ("data-pools", pool));
        for (word, value) in names.into_iter().chain(spaces).chain(data) {
            if !is_word(value) {
                mistakes.push(format!(
                    "`{word}` is {value:?}: it takes letters, digits, '.', '_' and '-', and does not begin with a dash"
                ));
            }
        }
        for (word, path) in [("keyring", &self.keyring), ("conf", &self.conf), ("programs", &self.programs)] {
            let text = path.to_str().unwrap_or_default();
            if !text.starts_with('/') || text.contains(|c: char| c.is_whitespace() || matches!(c, '{' | '}'))
            {
                mistakes.push(format!(
                    "`{word}` is {path:?}: it takes a path from the root, without spaces and braces"
                ));
            }
        }
        if self.uid == 0 || self.gid == 0 {
            mistakes.push(
                "commands must not run as root: give the uid and gid of a user that may read the key".into(),
            );
        }
        if mistakes.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("the grant of a Ceph pool: {}", mistakes.join("; "))))
    }
}

fn is_word(text: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=100).contains(&text.len()) && text.bytes().all(safe) && !text.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::commands::Lines;

    fn grant() -> CephGrant {
        toml::from_str(
            "user = \"kato\"\nkeyring = \"/k\"\npool = \"p\"\nnamespace = \"n\"\ndata_pools = [\"ec\"]",
        )
        .unwrap()
    }

    fn filled(grant: &CephGrant, name: &str, holes: &[(&str, &str)]) -> Result<Vec<String>, Error> {
        let lines = grant.lines().unwrap();
        let asks: Vec<String> = lines.keys().cloned().collect();
        let lines = Lines::new(&asks, &lines, &mut |error| panic!("{error}"));
        let holes: Vec<_> = holes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        lines.line(name)?.fill(&holes)
    }

    #[test]
    fn identity_and_place_are_in_every_line_and_no_hole_can_change_them() {
        let grant = grant();
        let lines = grant.lines().unwrap();
        assert_eq!(lines.len(), LINES.len());
        for (name, line) in &lines {
            for literal in ["--id kato", "--keyring /k", "--conf /etc/ceph/ceph.conf"] {
                assert!(line.line.contains(literal), "{name}: {}", line.line);
            }
            assert!(!line.line.contains("allow-shrink") && line.uid == 65534, "{name}");
        }
        let create =
            [("image", "kato-a"), ("size", "1048576"), ("features", "layering"), ("data-pool", "ec")];
        let words = filled(&grant, "rbd-create-in", &create).unwrap().join(" ");
        assert!(
            words.ends_with("create p/n/kato-a --size 1048576B --image-feature layering --data-pool ec"),
            "{words}"
        );
        for (hole, value) in
            [("image", "a/b"), ("image", "a@s"), ("features", "journaling"), ("data-pool", "rbd")]
        {
            let mut wrong = create;
            for pair in wrong.iter_mut().filter(|pair| pair.0 == hole) {
                pair.1 = value;
            }
            assert!(filled(&grant, "rbd-create-in", &wrong).is_err(), "{hole} = {value}");
        }
    }

    #[test]
    fn only_a_client_with_its_nonce_can_be_blocklisted() {
        let fill = |client: &str| filled(&grant(), "ceph-blocklist", &[("client", client)]);
        for good in ["10.0.0.1:0/773356962", "[fe80::1]:6800/12"] {
            fill(good).unwrap();
        }
        for bad in ["10.0.0.1", "10.0.0.1:0", "10.0.0.1:0/0", "10.0.0.0/8", "", "a b:0/1", "--x:0/1", ":0/1"]
        {
            assert!(fill(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn without_pools_for_data_nothing_is_granted_about_them() {
        let mut grant = grant();
        grant.data_pools.clear();
        assert!(grant.names().all(|name| !name.ends_with("-in")));
        assert_eq!(grant.told().get("data-pools"), None);
        grant.data_pools = vec!["a".into(), "b".into()];
        assert_eq!(grant.told()["data-pools"], "a,b");
        let clone = [
            ("source", "x"),
            ("snapshot", "s"),
            ("image", "y"),
            ("features", "layering"),
            ("data-pool", "b"),
        ];
        filled(&grant, "rbd-clone-in", &clone).unwrap();
    }

    #[test]
    fn what_is_no_word_is_refused_all_at_once() {
        let wrong = CephGrant {
            user: "a b".into(),
            pool: "-p".into(),
            keyring: "k".into(),
            conf: "/a b".into(),
            uid: 0,
            ..grant()
        };
        let message = wrong.lines().unwrap_err().message;
        for word in ["`user`", "`pool`", "`keyring`", "`conf`", "root"] {
            assert!(message.contains(word), "{message}");
        }
    }
}
