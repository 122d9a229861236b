//! What was written, before anybody asks what it means: a tree of values that each remember where they were
//! written, so that a mistake can be shown with its file and line. Later layers are laid over earlier ones,
//! table by table; a list is replaced as a whole. Which keys exist is `keys.rs`, what they mean `convert.rs`.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use serde_json::Value as Json;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::mistakes::Mistake;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nowhere: it is what we chose.
    Default,
    /// In a file, on a line.
    File(Arc<Path>, usize),
    /// In this environment variable.
    Environment(String),
    /// On the command line.
    Flag(String),
}

impl Origin {
    /// What is read first comes first.
    pub(crate) fn order(&self) -> (u8, String, usize) {
        match self {
            Self::Default => (0, String::new(), 0),
            Self::File(path, line) => (1, path.display().to_string(), *line),
            Self::Environment(name) => (2, name.clone(), 0),
            Self::Flag(flag) => (3, flag.clone(), 0),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "command line {flag}"),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// A value as TOML knows them. Dates are no values of ours.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Value {
    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a fraction",
            Self::Flag(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// A scalar as text.
    pub(crate) fn scalar(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Integer(number) => Some(number.to_string()),
            Self::Float(number) => Some(number.to_string()),
            Self::Flag(flag) => Some(flag.to_string()),
            Self::List(_) | Self::Table(_) => None,
        }
    }
}

impl Node {
    /// A table with nothing in it.
    pub(crate) fn empty() -> Self {
        Self { value: Value::Table(BTreeMap::new()), origin: Origin::Default }
    }

    /// What is at this path of keys.
    pub(crate) fn at<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Self> {
        let mut node = self;
        for key in path {
            node = node.table()?.get(key)?;
        }
        Some(node)
    }

    /// Its entries, if it is a table.
    pub(crate) fn table(&self) -> Option<&BTreeMap<String, Self>> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Lays another tree over this one.
    pub(crate) fn lay_over(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Table(below), Value::Table(above)) => {
                for (key, node) in above {
                    match below.get_mut(&key) {
                        Some(there) => there.lay_over(node),
                        None => {
                            below.insert(key, node);
                        }
                    }
                }
                if self.origin == Origin::Default {
                    self.origin = over.origin;
                }
            }
            (value, above) => {
                *value = above;
                self.origin = over.origin;
            }
        }
    }

    /// Takes these sections from another tree, and leaves the rest.
    pub(crate) fn replace(&mut self, from: &Self, sections: &[&str]) {
        for section in sections {
            self.put(&[section], from.at([*section]).cloned());
        }
    }

    /// Puts something at this path, or takes away what is there.
    pub(crate) fn put(&mut self, path: &[&str], node: Option<Self>) {
        let Some((word, rest)) = path.split_first() else { return };
        let Value::Table(table) = &mut self.value else { return };
        if !rest.is_empty() {
            table.entry((*word).to_owned()).or_insert_with(Self::empty).put(rest, node);
            return;
        }
        match node {
            Some(node) => table.insert((*word).to_owned(), node),
            None => table.remove(*word),
        };
    }

    /// Writes a value at this path, making the tables on the way.
    pub(crate) fn set(&mut self, path: &[String], value: Value, origin: &Origin) {
        let mut node = Self { value, origin: origin.clone() };
        for key in path.iter().rev() {
            node =
                Self { value: Value::Table(BTreeMap::from([(key.clone(), node)])), origin: origin.clone() };
        }
        self.lay_over(node);
    }
}

/// Reads a file's text. What cannot be read is a mistake; the rest is read all the same.
pub(crate) fn parse(text: &str, path: &Arc<Path>) -> (Node, Vec<Mistake>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let lines = Lines { text, path };
    let mut mistakes: Vec<Mistake> = errors
        .into_iter()
        .map(|error| {
            let at = error.span().map_or(0, |span| span.start);
            Mistake::new(lines.origin(at), "", format!("this is not TOML: {}", error.message()))
        })
        .collect();
    let node = lines.table(table.get_ref(), Origin::File(Arc::clone(path), 0), &mut mistakes);
    (node, mistakes)
}

/// Reads one value, as an environment variable or a flag carries it.
pub(crate) fn parse_value(text: &str, origin: &Origin) -> Result<Value, Mistake> {
    let path: Arc<Path> = Arc::from(Path::new(""));
    let wrong = |why: String| Mistake::new(origin.clone(), "", format!("this is not a TOML value: {why}"));
    let value = DeValue::parse(text).map_err(|error| wrong(error.message().to_owned()))?;
    let mut mistakes = Vec::new();
    let node = Lines { text, path: &path }.node(&value, &mut mistakes);
    match mistakes.into_iter().next() {
        Some(mistake) => Err(wrong(mistake.reason)),
        None => Ok(settle(node, origin).value),
    }
}

/// The same tree, all written in one place.
fn settle(node: Node, origin: &Origin) -> Node {
    let value = match node.value {
        Value::List(items) => Value::List(items.into_iter().map(|item| settle(item, origin)).collect()),
        Value::Table(table) => {
            Value::Table(table.into_iter().map(|(key, item)| (key, settle(item, origin))).collect())
        }
        scalar => scalar,
    };
    Node { value, origin: origin.clone() }
}

/// A tree as JSON.
pub(crate) fn json(node: &Node) -> Json {
    match &node.value {
        Value::Text(text) => Json::from(text.as_str()),
        Value::Integer(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::Flag(flag) => Json::from(*flag),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Table(table) => table.iter().map(|(key, node)| (key.clone(), json(node))).collect(),
    }
}

struct Lines<'a> {
    text: &'a str,
    path: &'a Arc<Path>,
}

impl Lines<'_> {
    fn origin(&self, at: usize) -> Origin {
        let line = self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        Origin::File(Arc::clone(self.path), line)
    }

    fn table(&self, table: &DeTable<'_>, origin: Origin, mistakes: &mut Vec<Mistake>) -> Node {
        let entries = table.iter().map(|(key, value)| {
            let mut node = self.node(value, mistakes);
            // A table's own span is its header; what a person looks for is the line of the key.
            if !matches!(node.value, Value::Table(_)) {
                node.origin = self.origin(key.span().start);
            }
            (key.get_ref().to_string(), node)
        });
        let entries: BTreeMap<String, Node> = entries.collect();
        Node { value: Value::Table(entries), origin }
    }

    fn node(&self, value: &Spanned<DeValue<'_>>, mistakes: &mut Vec<Mistake>) -> Node {
        let origin = self.origin(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => {
                    mistakes.push(Mistake::new(
                        origin.clone(),
                        "",
                        format!("the number {} is too large", number.as_str()),
                    ));
                    Value::Integer(0)
                }
            },
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Datetime(moment) => Value::Text(moment.to_string()),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item, mistakes)).collect())
            }
            DeValue::Table(table) => return self.table(table, origin, mistakes),
        };
        Node { value, origin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_and_keep_their_origin() {
        let one: Arc<Path> = Arc::from(Path::new("one"));
        let two: Arc<Path> = Arc::from(Path::new("two"));
        let (mut below, _) = parse("[a]\nx = 1\ny = [1, 2]\n", &one);
        let (above, _) = parse("[a]\n\ny = [3]\n", &two);
        below.lay_over(above);
        assert_eq!(below.at(["a", "x"]).unwrap().origin, Origin::File(one, 2));
        let y = below.at(["a", "y"]).unwrap();
        assert_eq!(y.origin, Origin::File(two, 3));
        assert!(matches!(&y.value, Value::List(items) if items.len() == 1));
    }

    #[test]
    fn every_line_that_is_not_toml_is_named() {
        let path: Arc<Path> = Arc::from(Path::new("file"));
        let (_, mistakes) = parse("a = \n[b]\nc = \"x\nd = 1\n", &path);
        let lines: Vec<String> = mistakes.iter().map(|mistake| mistake.origin.to_string()).collect();
        assert!(lines.contains(&"file:1".to_owned()) && lines.contains(&"file:3".to_owned()), "{lines:?}");
    }
}
