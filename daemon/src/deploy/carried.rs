//! The operator's configuration as the containers are to have it: what was written, without what is of this host
//! alone, with the CSI door in the place of Docker's. What it refers to on this host (files with secrets, authorities,
//! variables) cannot travel in it: each reference is turned to where a Secret will be mounted, and is told, so that the
//! operator can make that Secret. Nothing secret is ever read here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use super::{FILES, SEAL};
use crate::{
    cli::{Exit, Failure},
    config::{Config, Node, Origin, Value as Written, print::is_secret},
};

/// Something that a configuration refers to and that has to be given to the containers beside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reference {
    /// A file of this host, by the key that it has in the Secret.
    File { key: String, path: PathBuf },
    /// A variable of the daemon's environment.
    Variable(String),
}

impl Reference {
    /// The key in the Secret.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::File { key, .. } => key,
            Self::Variable(name) => name,
        }
    }
}

/// A configuration that can travel.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Carried {
    table: Table,
    pub(crate) references: Vec<Reference>,
}

/// What is only true of this host, or is the deployment's to say.
const LEFT_BEHIND: &[&[&str]] = &[
    &["docker"],
    &["admin"],
    &["node", "id"],
    &["node", "initiator"],
    &["csi", "enabled"],
    &["csi", "socket"],
    &["csi", "role"],
    &["csi", "seal"],
];

impl Carried {
    /// What was written of the configuration, about these backends and classes.
    pub(super) fn new(
        config: &Config,
        backends: &BTreeSet<String>,
        classes: &BTreeSet<String>,
    ) -> Result<Self, Failure> {
        let mut table = match written(&config.written) {
            Some(Value::Table(table)) => table,
            _ => Table::new(),
        };
        for path in LEFT_BEHIND {
            take(&mut table, path);
        }
        retain(&mut table, "backend", backends);
        retain(&mut table, "class", classes);
        if !config.default_class.as_ref().is_none_or(|name| classes.contains(name.as_str())) {
            take(&mut table, &["catalog", "default-class"]);
        }
        let mut carried = Self { table, references: Vec::new() };
        carried.put(&["docker", "enabled"], false);
        carried.put(&["csi", "seal", "file"], SEAL);
        if !backends.contains("local") {
            carried.put(&["catalog", "embedded"], false);
        }
        let mut found = References::default();
        if let Some(backends) = carried.table.get_mut("backend") {
            found.turn(backends)?;
        }
        carried.references = found.all();
        Ok(carried)
    }

    /// Writes a value, unless the operator has.
    pub(super) fn default_to(&mut self, path: &[&str], value: impl Into<Value>) {
        if !self.has(path) {
            self.put(path, value);
        }
    }

    fn has(&self, path: &[&str]) -> bool {
        let Some((last, above)) = path.split_last() else { return false };
        above
            .iter()
            .try_fold(&self.table, |table, word| table.get(*word)?.as_table())
            .is_some_and(|table| table.contains_key(*last))
    }

    /// Writes a value.
    pub(super) fn put(&mut self, path: &[&str], value: impl Into<Value>) {
        put(&mut self.table, path, value.into());
    }

    /// The file that the daemon in the container reads.
    pub(crate) fn text(&self) -> String {
        // A table of texts, numbers and tables is always TOML.
        toml::to_string(&self.table).unwrap_or_default()
    }

    /// What tells one such file from another.
    pub(crate) fn digest(&self) -> String {
        let digest = Sha256::digest(self.text());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What somebody wrote, without what is so by itself.
fn written(node: &Node) -> Option<Value> {
    Some(match &node.value {
        Written::Table(table) => {
            let entries: Table =
                table.iter().filter_map(|(word, node)| Some((word.clone(), written(node)?))).collect();
            if entries.is_empty() && !(table.is_empty() && node.origin != Origin::Default) {
                return None;
            }
            Value::Table(entries)
        }
        _ if node.origin == Origin::Default => return None,
        Written::Text(text) => Value::String(text.clone()),
        Written::Integer(number) => Value::Integer(*number),
        Written::Float(number) => Value::Float(*number),
        Written::Flag(flag) => Value::Boolean(*flag),
        Written::List(items) => Value::Array(items.iter().filter_map(written).collect()),
    })
}

fn put(table: &mut Table, path: &[&str], value: Value) {
    let Some((word, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        table.insert((*word).to_owned(), value);
        return;
    }
    let below = table.entry((*word).to_owned()).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(below) = below {
        put(below, rest, value);
    }
}

fn take(table: &mut Table, path: &[&str]) {
    let Some((word, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        table.remove(*word);
    } else if let Some(Value::Table(below)) = table.get_mut(*word) {
        take(below, rest);
        if below.is_empty() {
            table.remove(*word);
        }
    }
}

fn retain(table: &mut Table, section: &str, names: &BTreeSet<String>) {
    if let Some(Value::Table(entries)) = table.get_mut(section) {
        entries.retain(|name, _| names.contains(name));
        if entries.is_empty() {
            table.remove(section);
        }
    }
}

/// The references of a configuration, by the keys that they get.
#[derive(Default)]
struct References {
    files: BTreeMap<PathBuf, String>,
    variables: BTreeSet<String>,
}

impl References {
    /// Turns every reference in a value to where it will be.
    fn turn(&mut self, value: &mut Value) -> Result<(), Failure> {
        match value {
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.turn(item)),
            Value::Table(table) => {
                table.iter_mut().try_for_each(|(word, value)| match (word.as_str(), value) {
                    ("ca", Value::String(path)) => {
                        *path = self.file(path);
                        Ok(())
                    }
                    ("secret", Value::Table(secret)) => self.secret(secret),
                    ("configuration", value) => told(value),
                    (_, value) => self.turn(value),
                })
            }
            _ => Ok(()),
        }
    }

    fn secret(&mut self, secret: &mut Table) -> Result<(), Failure> {
        if let Some(Value::String(path)) = secret.get_mut("file") {
            *path = self.file(path);
        }
        if let Some(Value::String(name)) = secret.get("env") {
            self.variables.insert(name.clone());
        }
        match secret.get("credential") {
            Some(name) => Err(Failure::new(
                Exit::Config,
                format!("the secret {name} is a credential of systemd's, which no container gets"),
            )
            .next("write `secret.file` for it, in a configuration for this cluster")),
            None => Ok(()),
        }
    }

    /// Where the file of this path will be.
    fn file(&mut self, path: &str) -> String {
        let path = PathBuf::from(path);
        let key = match self.files.get(&path) {
            Some(key) => key.clone(),
            None => {
                let key = self.unused(&path);
                self.files.insert(path, key.clone());
                key
            }
        };
        format!("{FILES}/{key}")
    }

    /// A key for a file that no other has: its name, as far as a key can say it.
    fn unused(&self, path: &std::path::Path) -> String {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name: String = name.chars().map(|c| if fits(c) { c } else { '-' }).collect();
        let taken = |key: &String| self.files.values().any(|other| other == key);
        let numbered = (2..).map(|number| format!("{number}-{name}"));
        std::iter::once(name.clone()).chain(numbered).find(|key| !taken(key)).unwrap_or(name)
    }

    fn all(self) -> Vec<Reference> {
        let files = self.files.into_iter().map(|(path, key)| Reference::File { key, path });
        let mut all: Vec<Reference> =
            files.chain(self.variables.into_iter().map(Reference::Variable)).collect();
        all.sort();
        all
    }
}

/// What a plugin is told is its own language, in which nothing is a reference. That no secret is in it is the
/// operator's promise; one that is called a secret is not passed on.
fn told(value: &Value) -> Result<(), Failure> {
    let words = value.as_table().into_iter().flat_map(Table::keys);
    match words.into_iter().find(|word| is_secret(word)) {
        Some(word) => Err(Failure::new(
            Exit::Config,
            format!("a plugin's configuration has {word:?}, which is called a secret: it would be there for everybody to read"),
        )
        .next("let an authoriser of the grants put it on requests, and take it out of the configuration")),
        None => Ok(()),
    }
}
