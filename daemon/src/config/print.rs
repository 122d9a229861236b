//! The configuration as text: the default file with every key explained, what is in force with the place where
//! it was written, and the JSON schema for editors. All three are read from `keys.rs`.

use serde_json::{Value as Json, json};

use super::{
    Config,
    keys::{self, Key, SECTIONS, Shape},
    tree::{self, Node, Origin, Value},
};

/// The file with every key, each commented out at its default.
pub(crate) fn default_file() -> String {
    let mut text = String::from(
        "# The configuration of the Káto storage daemon. Every line is a comment that says what is in force without\n\
         # it. Pieces in conf.d/*.toml beside this file are laid over it, then the environment\n\
         # (KATO__NODE__ID for node.id), then the command line. `kato config check` tells every mistake.\n",
    );
    for (section, doc) in SECTIONS {
        let example = match *section {
            "class.*" => "class.fast",
            "backend.*" => "backend.fast",
            section => section,
        };
        let header = if *section == example { "" } else { "# " };
        text.push('\n');
        text += &comment(doc);
        text += &format!("{header}[{example}]\n");
        let mut table = String::new();
        for key in keys::all().filter(|key| key.path.starts_with(&format!("{section}."))) {
            let rest = key.path.get(section.len() + 1..).unwrap_or_default().replace('*', "NAME");
            if key.shape == Shape::Tables {
                text.push('\n');
                text += &comment(key.doc);
                text += &format!("# [[{example}.{rest}]]\n");
                continue;
            }
            // What belongs to an entry of a list is written as one path, so that the list's header holds for it.
            let (parent, word) = match rest.split_once(".[].") {
                Some((list, word)) => (format!("{list}.[]"), word),
                None => rest
                    .rsplit_once('.')
                    .map_or((String::new(), rest.as_str()), |(parent, word)| (parent.to_owned(), word)),
            };
            if parent != table && !parent.is_empty() && !parent.ends_with(".[]") {
                text += &format!("\n# [{example}.{parent}]\n");
            }
            table = parent;
            text += &comment(key.doc);
            text += &format!("# {word} = {}\n", example_of(key));
        }
    }
    text
}

/// A sentence as comment lines.
fn comment(words: &str) -> String {
    let mut text = String::from("#");
    let mut width = 1;
    for word in words.split(' ') {
        let length = word.chars().count() + 1;
        if width + length > 100 {
            text += "\n#";
            width = 1;
        }
        text.push(' ');
        text += word;
        width += length;
    }
    text.push('\n');
    text
}

/// What a key may look like when nothing is in force without it.
fn example_of(key: &Key) -> String {
    if !key.default.is_empty() {
        return key.default.to_owned();
    }
    match key.shape {
        Shape::Text => "\"\"".to_owned(),
        Shape::Path => "\"/path\"".to_owned(),
        Shape::Flag => "false".to_owned(),
        Shape::Count(least, _) => least.to_string(),
        Shape::Span => "\"30s\"".to_owned(),
        Shape::Size => "\"10GiB\"".to_owned(),
        Shape::Mode if key.path.starts_with("admin.") => "\"0600\"".to_owned(),
        Shape::Mode => "\"0755\"".to_owned(),
        Shape::OneOf(words) => format!("\"{}\"", words.first().copied().unwrap_or_default()),
        Shape::Texts | Shape::Tables => "[]".to_owned(),
        Shape::Words => "{}".to_owned(),
    }
}

/// One line of what is in force.
struct Line {
    path: Vec<String>,
    value: String,
    origin: Origin,
}

/// What was written, or with `effective` everything that is in force, each with its place.
pub(crate) fn show(config: &Config, effective: bool) -> String {
    let mut lines = Vec::new();
    collect(&config.written, &mut Vec::new(), effective, &mut lines);
    if effective {
        defaults(&config.written, &mut lines);
    }
    lines.sort_by_key(|line| rank(&line.path));
    let mut text = String::new();
    let mut section: Option<&[String]> = None;
    for line in &lines {
        let Some((word, parent)) = line.path.split_last() else { continue };
        if section != Some(parent) {
            let gap = if section.is_some() { "\n" } else { "" };
            text +=
                &format!("{gap}[{}]\n", parent.iter().map(|word| bare(word)).collect::<Vec<_>>().join("."));
            section = Some(parent);
        }
        text += &format!("{} = {}  # {}\n", bare(word), line.value, line.origin);
    }
    text
}

/// What is in force as JSON, without places.
pub(crate) fn show_json(config: &Config, effective: bool) -> Json {
    let mut lines = Vec::new();
    collect(&config.written, &mut Vec::new(), effective, &mut lines);
    if effective {
        defaults(&config.written, &mut lines);
    }
    let mut tree = Node::empty();
    for line in &lines {
        if let Ok(value) = tree::parse_value(&line.value, &line.origin) {
            tree.set(&line.path, value, &line.origin);
        }
    }
    tree::json(&tree)
}

fn rank(path: &[String]) -> (usize, Vec<String>, String) {
    let first = path.first().map_or("", String::as_str);
    let at = SECTIONS.iter().position(|(section, _)| section.split('.').next() == Some(first));
    let (parent, word) = path.split_last().map_or((&[][..], ""), |(word, parent)| (parent, word.as_str()));
    (at.unwrap_or(SECTIONS.len()), parent.to_vec(), word.to_owned())
}

fn collect(node: &Node, path: &mut Vec<String>, built_in: bool, lines: &mut Vec<Line>) {
    let Some(table) = node.table() else { return };
    for (word, child) in table {
        path.push(word.clone());
        let is_leaf = keys::find(path).is_some() || !matches!(child.value, Value::Table(_));
        if !is_leaf {
            collect(child, path, built_in, lines);
        } else if built_in || child.origin != Origin::Default {
            lines.push(Line {
                path: path.clone(),
                value: literal(child, word),
                origin: child.origin.clone(),
            });
        }
        path.pop();
    }
}

/// What nobody wrote and is in force all the same.
fn defaults(tree: &Node, lines: &mut Vec<Line>) {
    let plain = |key: &&Key| !key.path.contains("[]") && key.path.matches('*').count() < 2;
    for key in keys::all().filter(|key| !key.default.is_empty()).filter(plain) {
        let mut segments = key.path.split('.');
        let paths: Vec<Vec<String>> = match key.path.split_once(".*.") {
            Some((section, rest)) => {
                let names = tree.at([section]).and_then(Node::table);
                let names = names.into_iter().flat_map(|table| table.keys());
                names
                    .map(|name| {
                        let head = [section.to_owned(), name.clone()];
                        head.into_iter().chain(rest.split('.').map(str::to_owned)).collect()
                    })
                    .collect()
            }
            None => vec![segments.by_ref().map(str::to_owned).collect()],
        };
        for path in paths {
            if tree.at(path.iter().map(String::as_str)).is_none() {
                lines.push(Line { path, value: key.default.to_owned(), origin: Origin::Default });
            }
        }
    }
}

fn bare(word: &str) -> String {
    let plain =
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if plain { word.to_owned() } else { toml::Value::String(word.to_owned()).to_string() }
}

/// A value as TOML on one line. What a plugin's configuration calls a secret is not shown.
fn literal(node: &Node, word: &str) -> String {
    match &node.value {
        Value::Text(_) if is_secret(word) => "\"(not shown)\"".to_owned(),
        Value::Text(text) => toml::Value::String(text.clone()).to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => toml::Value::Float(*number).to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| literal(item, word)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) if table.is_empty() => "{}".to_owned(),
        Value::Table(table) => {
            let entries: Vec<String> = table
                .iter()
                .map(|(word, item)| format!("{} = {}", bare(word), literal(item, word)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

/// Whether a word of a plugin's configuration is the name of a secret.
pub(crate) fn is_secret(word: &str) -> bool {
    let word = word.to_lowercase();
    let refers = ["file", "environment", "name", "id"].iter().any(|end| word.ends_with(end));
    !refers
        && ["secret", "password", "token", "apikey", "api-key", "private"]
            .iter()
            .any(|part| word.contains(part))
}

/// A JSON schema of the file, for editors.
pub(crate) fn schema() -> Json {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Káto storage daemon",
        "type": "object",
        "additionalProperties": false,
        "properties": {},
    });
    for (section, doc) in SECTIONS {
        if let Some(place) = place(&mut root, section) {
            place.insert("description".to_owned(), Json::from(*doc));
        }
    }
    for key in keys::all() {
        if let Some(place) = place(&mut root, key.path) {
            for (word, value) in shape_schema(key).as_object().into_iter().flatten() {
                place.insert(word.clone(), value.clone());
            }
            place.insert("description".to_owned(), Json::from(key.doc));
            let default = tree::parse_value(key.default, &Origin::Default);
            if let Ok(value) = default {
                let node = Node { value, origin: Origin::Default };
                place.insert("default".to_owned(), tree::json(&node));
            }
        }
    }
    root
}

/// The schema at a path, made on the way.
fn place<'a>(root: &'a mut Json, path: &str) -> Option<&'a mut serde_json::Map<String, Json>> {
    let mut schema = root;
    for word in path.split('.') {
        let object = schema.as_object_mut()?;
        if word == "[]" {
            schema = object.entry("items").or_insert_with(|| json!({}));
            continue;
        }
        object.entry("type").or_insert_with(|| json!("object"));
        if word == "*" {
            schema = object.entry("additionalProperties").or_insert_with(|| json!({}));
        } else {
            object.entry("additionalProperties").or_insert_with(|| json!(false));
            let properties = object.entry("properties").or_insert_with(|| json!({}));
            schema = properties.as_object_mut()?.entry(word).or_insert_with(|| json!({}));
        }
    }
    schema.as_object_mut()
}

fn shape_schema(key: &Key) -> Json {
    match key.shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Path => json!({ "type": "string", "pattern": "^/" }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Count(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::Span => json!({ "type": "string", "pattern": "^[0-9]+ *(ms|s|m|min|h|d)$" }),
        Shape::Size => json!({ "type": ["string", "integer"] }),
        Shape::Mode => json!({ "type": "string", "pattern": "^(0o)?[0-7]{3,4}$" }),
        Shape::OneOf(words) => json!({ "type": "string", "enum": words }),
        Shape::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::Words => {
            json!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
        }
        Shape::Tables => json!({ "type": "array" }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Sources, load};

    /// Takes the comment signs off every line that is a key or a header.
    fn uncommented() -> String {
        default_file()
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest)
                    if rest.starts_with('[')
                        || rest.split_once(" = ").is_some_and(|(word, _)| !word.contains(' ')) =>
                {
                    rest
                }
                _ => line,
            })
            .fold(String::new(), |text, line| text + line + "\n")
    }

    #[test]
    fn the_default_file_changes_nothing_and_names_every_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, default_file()).unwrap();
        let sources = Sources { file: Some(file), set: Vec::new(), environment: BTreeMap::new() };
        let config = load(&sources).unwrap();
        assert!(show(&config, false).is_empty(), "{}", show(&config, false));
        let text = uncommented();
        let parsed: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
        let example =
            |section: &str| parsed[section]["fast"].as_table().unwrap().keys().cloned().collect::<Vec<_>>();
        assert!(example("class").contains(&"retain".to_owned()));
        assert!(example("backend").contains(&"grants".to_owned()));
        for key in keys::all() {
            let word = key.path.rsplit('.').next().unwrap();
            assert!(text.contains(word), "{}", key.path);
        }
    }

    #[test]
    fn what_is_in_force_is_itself_a_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "[node]\nid = \"one\"\ntopology = { zone = \"a b\" }\n").unwrap();
        let read = |file: &std::path::Path| {
            let sources =
                Sources { file: Some(file.to_owned()), set: Vec::new(), environment: BTreeMap::new() };
            load(&sources).unwrap()
        };
        let first = read(&file);
        let shown = show(&first, true);
        assert!(shown.contains("id = \"one\"  # ") && shown.contains(":2\n"), "{shown}");
        let again = folder.path().join("again.toml");
        std::fs::write(&again, &shown).unwrap();
        let second = read(&again);
        assert_eq!((first.node, first.docker, first.admin), (second.node, second.docker, second.admin));
        assert_eq!(first.classes, second.classes);
        assert_eq!(format!("{:?}", first.backends), format!("{:?}", second.backends));
    }

    #[test]
    fn secrets_in_a_plugins_configuration_are_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "[backend.x]\nplugin = \"local\"\nconfiguration = { password = \"hunter2\", token-file = \"/t\" }\n").unwrap();
        let sources = Sources { file: Some(file), set: Vec::new(), environment: BTreeMap::new() };
        let config = load(&sources).unwrap();
        for text in [show(&config, true), show_json(&config, true).to_string()] {
            assert!(!text.contains("hunter2") && text.contains("/t"), "{text}");
        }
    }
}
