//! Reading a checked tree: a table of it that knows its place, so that what nobody wrote is what `keys.rs` says,
//! and a mistake can name its key and line. A value of the wrong shape is taken for its default here, for its
//! mistake was told when the shapes were checked.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use kato_orchestrator::model::Bytes;

use super::{
    keys,
    mistakes::Mistake,
    tree::{self, Node, Origin, Value},
};

/// A table of the tree, with the place in `keys.rs` that it has.
pub(super) struct Scope<'a> {
    pub(super) node: Option<&'a Node>,
    pattern: Vec<String>,
    shown: String,
}

impl<'a> Scope<'a> {
    pub(super) fn root(tree: &'a Node) -> Self {
        Self { node: Some(tree), pattern: Vec::new(), shown: String::new() }
    }

    pub(super) fn at(&self, path: &[&str]) -> Option<&'a Node> {
        self.node?.at(path.iter().copied())
    }

    pub(super) fn section(&self, word: &str) -> Self {
        let mut pattern = self.pattern.clone();
        pattern.push(word.to_owned());
        Self { node: self.at(&[word]), pattern, shown: self.show(word) }
    }

    pub(super) fn show(&self, word: &str) -> String {
        if self.shown.is_empty() { word.to_owned() } else { format!("{}.{word}", self.shown) }
    }

    pub(super) fn node(&self, word: &str) -> Option<&'a Node> {
        self.at(&[word])
    }

    pub(super) fn mistake(&self, word: &str, reason: impl Into<String>) -> Mistake {
        let node = self.node(word).or(self.node);
        let origin = node.map_or(Origin::Default, |node| node.origin.clone());
        Mistake::new(origin, self.show(word), reason)
    }

    /// What was written if `read` takes it, else what `keys.rs` says, else nothing.
    pub(super) fn read<T>(&self, word: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        if let Some(value) = self.node(word).and_then(|node| read(&node.value)) {
            return Some(value);
        }
        let mut path = self.pattern.clone();
        path.push(word.to_owned());
        let default = keys::find(&path).map(|key| key.default).filter(|default| !default.is_empty())?;
        read(&tree::parse_value(default, &Origin::Default).ok()?)
    }

    pub(super) fn text(&self, word: &str) -> Option<String> {
        self.read(word, |value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    pub(super) fn required(&self, word: &str, mistakes: &mut Vec<Mistake>) -> Option<String> {
        let text = self.text(word).filter(|text| !text.is_empty());
        if text.is_none() && self.node(word).is_none_or(|node| matches!(node.value, Value::Text(_))) {
            mistakes.push(self.mistake(word, "this has to be written"));
        }
        text
    }

    pub(super) fn path(&self, word: &str) -> Option<PathBuf> {
        self.text(word).map(PathBuf::from)
    }

    pub(super) fn flag(&self, word: &str) -> bool {
        let flag = self.read(word, |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        });
        flag.unwrap_or(false)
    }

    pub(super) fn count(&self, word: &str) -> Option<i64> {
        self.read(word, |value| match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        })
    }

    pub(super) fn span(&self, word: &str) -> Duration {
        self.text(word).and_then(|text| keys::span(&text).ok()).unwrap_or_default()
    }

    pub(super) fn size(&self, word: &str) -> Option<Bytes> {
        self.read(word, |value| match value {
            Value::Text(text) => Bytes::parse(text).ok(),
            Value::Integer(number) => u64::try_from(*number).ok().filter(|size| *size > 0).map(Bytes),
            _ => None,
        })
    }

    pub(super) fn mode(&self, word: &str) -> Option<u32> {
        self.text(word).and_then(|text| keys::mode(&text))
    }

    pub(super) fn texts(&self, word: &str) -> Vec<String> {
        let texts = self.read(word, |value| match value {
            Value::List(items) => Some(items.iter().filter_map(|item| item.value.scalar()).collect()),
            _ => None,
        });
        texts.unwrap_or_default()
    }

    pub(super) fn words(&self, word: &str) -> BTreeMap<String, String> {
        let words = self.read(word, |value| match value {
            Value::Table(table) => Some(
                table.iter().filter_map(|(word, node)| Some((word.clone(), node.value.scalar()?))).collect(),
            ),
            _ => None,
        });
        words.unwrap_or_default()
    }

    pub(super) fn entries(&self, word: &str) -> Vec<Self> {
        let Some(Value::List(items)) = self.node(word).map(|node| &node.value) else { return Vec::new() };
        let entry = |(index, item): (usize, &'a Node)| {
            let mut pattern = self.pattern.clone();
            pattern.extend([word.to_owned(), "[]".to_owned()]);
            Self { node: Some(item), pattern, shown: format!("{}[{index}]", self.show(word)) }
        };
        items.iter().enumerate().map(entry).collect()
    }
}
