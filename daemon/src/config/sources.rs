//! Where configuration comes from, in the order in which it is laid over: what is built in, the file, the files
//! of `conf.d` beside it, the environment, the command line. This is the one place of the daemon that reads the
//! environment. What was written is checked in `keys.rs` and understood in `convert.rs`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    keys::{self, Shape},
    mistakes::{Mistake, nearest},
    tree::{self, Node, Origin, Value},
};

/// Where the file is when nobody says otherwise.
pub(crate) const FILE: &str = "/etc/kato/config.toml";

/// Where the specification lets an orchestrator say which socket is to be served.
const ENDPOINT: &str = "CSI_ENDPOINT";

/// What the environment's names begin with.
const PREFIX: &str = "KATO__";

/// Where to look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// The file; nothing for the usual one, which may be absent.
    pub(crate) file: Option<PathBuf>,
    /// `section.key=value`, from the command line.
    pub(crate) set: Vec<String>,
    /// The environment, so that a test need not change its own.
    pub(crate) environment: BTreeMap<String, String>,
}

impl Sources {
    /// This process's.
    pub(crate) fn here(file: Option<PathBuf>, set: Vec<String>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, set, environment }
    }

    /// Everything that was written, without what is built in.
    pub(crate) fn read(&self) -> (Node, Vec<Mistake>) {
        let mut tree = Node::empty();
        let mut mistakes = Vec::new();
        let main = self.file.clone().unwrap_or_else(|| PathBuf::from(FILE));
        if let Some(node) = read_file(&main, self.file.is_some(), &mut mistakes) {
            tree.lay_over(node);
        }
        for path in pieces(&main, &mut mistakes) {
            if let Some(node) = read_file(&path, true, &mut mistakes) {
                tree.lay_over(node);
            }
        }
        for (name, value) in &self.environment {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let path = rest.split("__").map(|word| word.to_lowercase().replace('_', "-")).collect::<Vec<_>>();
            lay_scalar(&mut tree, &path, value, &Origin::Environment(name.clone()), &mut mistakes);
        }
        if let Some(endpoint) = self.environment.get(ENDPOINT).filter(|endpoint| !endpoint.is_empty()) {
            lay_endpoint(&mut tree, endpoint, &mut mistakes);
        }
        for setting in &self.set {
            let origin = Origin::Flag(format!("--set {setting}"));
            match setting.split_once('=') {
                Some((key, value)) => {
                    let path = key.trim().split('.').map(str::to_owned).collect::<Vec<_>>();
                    lay_scalar(&mut tree, &path, value, &origin, &mut mistakes);
                }
                None => mistakes.push(Mistake::new(origin, "", "write it as section.key=value")),
            }
        }
        (tree, mistakes)
    }
}

/// Opens the CSI door where an orchestrator says, in the words of the specification: `unix:///csi/csi.sock`.
fn lay_endpoint(tree: &mut Node, endpoint: &str, mistakes: &mut Vec<Mistake>) {
    let origin = Origin::Environment(ENDPOINT.to_owned());
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') {
        let reason = format!("\"{endpoint}\" is no unix socket: write unix:///csi/csi.sock");
        mistakes.push(Mistake::new(origin, "csi.socket", reason));
        return;
    }
    let key = |word: &str| ["csi".to_owned(), word.to_owned()];
    tree.set(&key("socket"), Value::Text(path.to_owned()), &origin);
    tree.set(&key("enabled"), Value::Flag(true), &origin);
}

/// Puts a value that arrived as bare text where it belongs, read as its key wants it.
fn lay_scalar(tree: &mut Node, path: &[String], text: &str, origin: &Origin, mistakes: &mut Vec<Mistake>) {
    let shown = path.join(".");
    let Some((key, rest)) = key_of(path) else {
        let known = keys::all().map(|key| key.path);
        let meant = nearest(&shown, known);
        mistakes.push(Mistake::new(origin.clone(), shown, "there is no such key").meaning(meant));
        return;
    };
    let mut wrong = |reason: String| mistakes.push(Mistake::new(origin.clone(), shown.clone(), reason));
    let value = match key.shape {
        Shape::Words if !rest.is_empty() => Value::Text(text.to_owned()),
        Shape::Text | Shape::Path | Shape::Span | Shape::Size | Shape::Mode | Shape::OneOf(_) => {
            Value::Text(text.to_owned())
        }
        Shape::Flag => match text.to_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Value::Flag(true),
            "false" | "0" | "no" | "off" => Value::Flag(false),
            _ => return wrong(format!("\"{text}\" is neither true nor false")),
        },
        Shape::Count(..) => match text.trim().parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => return wrong(format!("\"{text}\" is not a whole number")),
        },
        Shape::Texts if !text.trim_start().starts_with('[') => Value::List(
            text.split(',')
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .map(|word| Node { value: Value::Text(word.to_owned()), origin: origin.clone() })
                .collect(),
        ),
        Shape::Texts | Shape::Words | Shape::Tables => match tree::parse_value(text, origin) {
            Ok(value) => value,
            Err(mistake) => return wrong(mistake.reason),
        },
    };
    tree.set(path, value, origin);
}

/// The key that a path names, and what is left of the path for a table of the operator's own words.
fn key_of(path: &[String]) -> Option<(&'static keys::Key, &[String])> {
    if let Some(key) = keys::find(path) {
        return Some((key, &[]));
    }
    (1..path.len()).rev().find_map(|length| {
        let (head, rest) = path.split_at_checked(length)?;
        let key = keys::find(head)?;
        (key.shape == Shape::Words).then_some((key, rest))
    })
}

fn read_file(path: &Path, must_exist: bool, mistakes: &mut Vec<Mistake>) -> Option<Node> {
    let shared: Arc<Path> = Arc::from(path);
    let origin = Origin::File(Arc::clone(&shared), 0);
    match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => {
                let (node, more) = tree::parse(&text, &shared);
                mistakes.extend(more);
                Some(node)
            }
            Err(_) => {
                mistakes.push(Mistake::new(origin, "", "this is not a text file"));
                None
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => None,
        Err(error) => {
            mistakes.push(Mistake::new(origin, "", format!("this file cannot be read: {error}")));
            None
        }
    }
}

/// The files of `conf.d` beside the main file, in the order of their names.
fn pieces(main: &Path, mistakes: &mut Vec<Mistake>) -> Vec<PathBuf> {
    let folder = main.with_file_name("conf.d");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let origin = Origin::File(Arc::from(folder.as_path()), 0);
            mistakes.push(Mistake::new(origin, "", format!("this folder cannot be read: {error}")));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(folder: &Path, set: &[&str], environment: &[(&str, &str)]) -> Sources {
        Sources {
            file: Some(folder.join("config.toml")),
            set: set.iter().map(|text| (*text).to_owned()).collect(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn flags_win_over_environment_over_pieces_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        fs::write(folder.path().join("config.toml"), "[node]\nid = \"file\"\n[log]\nlevel = \"warn\"\n")
            .unwrap();
        fs::write(folder.path().join("conf.d/10.toml"), "[node]\nid = \"ten\"\n").unwrap();
        fs::write(folder.path().join("conf.d/20.toml"), "[node]\nid = \"twenty\"\n").unwrap();
        fs::write(folder.path().join("conf.d/30.txt"), "not read").unwrap();
        let id = |set: &[&str], environment: &[(&str, &str)]| {
            let (tree, mistakes) = sources(folder.path(), set, environment).read();
            assert!(mistakes.is_empty(), "{mistakes:?}");
            tree.at(["node", "id"]).unwrap().value.scalar().unwrap()
        };
        assert_eq!(id(&[], &[]), "twenty");
        assert_eq!(id(&[], &[("KATO__NODE__ID", "environment")]), "environment");
        assert_eq!(id(&["node.id=flag"], &[("KATO__NODE__ID", "environment")]), "flag");
    }

    #[test]
    fn the_environment_is_read_as_its_key_wants_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.toml"), "").unwrap();
        let (tree, mistakes) = sources(
            folder.path(),
            &["class.fast.parameters.kind=image"],
            &[
                ("KATO__DOCKER__ENABLED", "no"),
                ("KATO__NODE__REAP_AFTER", "5m"),
                ("KATO__CLASS__FAST__MOUNT_OPTIONS", "noatime, discard"),
                ("KATO__LIMITS__THREADS", "two"),
                ("KATO__NODE__IDD", "x"),
            ],
        )
        .read();
        assert!(matches!(tree.at(["docker", "enabled"]).unwrap().value, Value::Flag(false)));
        assert_eq!(tree.at(["node", "reap-after"]).unwrap().value.scalar().unwrap(), "5m");
        assert!(
            matches!(&tree.at(["class", "fast", "mount-options"]).unwrap().value, Value::List(list) if list.len() == 2)
        );
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "environment KATO__LIMITS__THREADS: limits.threads: \"two\" is not a whole number",
                "environment KATO__NODE__IDD: node.idd: there is no such key; did you mean \"node.id\"?",
            ]
        );
    }
}
