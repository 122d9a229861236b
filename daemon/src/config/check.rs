//! Names and shapes: whether every key that was written is one, and every value what its key wants. What the
//! values mean together is `convert.rs`.

use kato_orchestrator::model::Bytes;

use super::{
    keys::{self, Key, Shape, find, is_section, mode, span},
    mistakes::{Mistake, nearest},
    tree::{Node, Value},
};

/// Checks names and shapes of everything that was written.
pub(crate) fn check(tree: &Node, mistakes: &mut Vec<Mistake>) {
    check_table(tree, &mut Vec::new(), "", mistakes);
}

fn check_table(node: &Node, pattern: &mut Vec<String>, shown: &str, mistakes: &mut Vec<Mistake>) {
    let Some(table) = node.table() else { return };
    for (word, child) in table {
        let path = match shown {
            "" => word.clone(),
            shown => format!("{shown}.{word}"),
        };
        pattern.push(word.clone());
        if let Some(key) = find(pattern) {
            check_value(key, child, pattern, &path, mistakes);
        } else if is_section(pattern) {
            match &child.value {
                Value::Table(_) => check_table(child, pattern, &path, mistakes),
                other => mistakes.push(Mistake::new(
                    child.origin.clone(),
                    path,
                    format!("this is a section, not {}: write [{}]", other.kind(), pattern.join(".")),
                )),
            }
        } else {
            pattern.pop();
            let meant = meant(word, pattern);
            mistakes.push(Mistake::new(child.origin.clone(), path, "there is no such key").meaning(meant));
            continue;
        }
        pattern.pop();
    }
}

/// The key that was probably meant: one of this table, or one of that name elsewhere.
fn meant(word: &str, table: &[String]) -> Option<String> {
    let beside = keys::all().filter_map(|key| {
        let mut segments = key.path.split('.');
        table
            .iter()
            .all(|word| segments.next().is_some_and(|segment| segment == "*" || segment == word))
            .then(|| segments.next())
            .flatten()
    });
    nearest(word, beside).or_else(|| {
        let spelt = word.replace('_', "-");
        keys::all()
            .find(|key| key.path.rsplit('.').next() == Some(spelt.as_str()))
            .map(|key| key.path.replace('*', "NAME"))
    })
}

fn check_value(key: &Key, node: &Node, pattern: &mut Vec<String>, shown: &str, mistakes: &mut Vec<Mistake>) {
    let mut wrong = |reason: String| mistakes.push(Mistake::new(node.origin.clone(), shown, reason));
    match (key.shape, &node.value) {
        (Shape::Tables, Value::List(items)) => {
            for (index, item) in items.iter().enumerate() {
                let shown = format!("{shown}[{index}]");
                if matches!(item.value, Value::Table(_)) {
                    pattern.push("[]".to_owned());
                    check_table(item, pattern, &shown, mistakes);
                    pattern.pop();
                } else {
                    mistakes.push(Mistake::new(
                        item.origin.clone(),
                        shown,
                        format!("this has to be a table, not {}", item.value.kind()),
                    ));
                }
            }
        }
        (Shape::Texts, Value::List(items)) => {
            if items.iter().any(|item| !matches!(item.value, Value::Text(_))) {
                wrong("every entry has to be text".to_owned());
            }
        }
        (Shape::Words, Value::Table(table)) => {
            for (word, child) in table {
                if child.value.scalar().is_none() {
                    mistakes.push(Mistake::new(
                        child.origin.clone(),
                        format!("{shown}.{word}"),
                        format!("this has to be text or a number, not {}", child.value.kind()),
                    ));
                }
            }
        }
        (Shape::Flag, Value::Flag(_)) | (Shape::Text, Value::Text(_)) => {}
        (Shape::Path, Value::Text(text)) => {
            if !text.starts_with('/') {
                wrong(format!("\"{text}\" is not a path from the root: begin it with /"));
            } else if text.split('/').any(|part| part == "..") {
                wrong(format!("\"{text}\" goes up by \"..\": write where it is"));
            }
        }
        (Shape::Count(least, most), Value::Integer(number)) => {
            if !(least..=most).contains(number) {
                wrong(format!("{number} is out of range: it may be {least} to {most}"));
            }
        }
        (Shape::Span, Value::Text(text)) => {
            if let Err(why) = span(text) {
                wrong(why);
            }
        }
        (Shape::Size, Value::Text(text)) => {
            if let Err(error) = Bytes::parse(text) {
                wrong(error.message);
            }
        }
        (Shape::Size, Value::Integer(number)) => {
            if *number <= 0 {
                wrong(format!("{number} is no size"));
            }
        }
        (Shape::Mode, Value::Text(text)) => {
            if mode(text).is_none() {
                wrong(format!("\"{text}\" is not a mode: write it in octal, for example \"0750\""));
            }
        }
        (Shape::OneOf(words), Value::Text(text)) => {
            if !words.contains(&text.as_str()) {
                let list = words.join(", ");
                let meant = nearest(text, words.iter().copied());
                mistakes.push(
                    Mistake::new(node.origin.clone(), shown, format!("\"{text}\" is none of {list}"))
                        .meaning(meant),
                );
            }
        }
        (shape, other) => wrong(format!("this has to be {}, not {}", shape.describe(), other.kind())),
    }
}
