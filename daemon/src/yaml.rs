//! Values as YAML: block style, keys in the order of the alphabet, and in quotes every text that could be read
//! as something else. A text of several lines stands as a block. A remark is a comment above the key that it is
//! about, named by its JSON pointer.

use serde_json::Value as Json;

/// Why a value is what it is: where it is, as a JSON pointer, and the reason in a sentence or two.
pub(crate) type Remark = (&'static str, &'static str);

/// How long a line with a remark may be.
const WIDTH: usize = 110;

/// A value as YAML.
pub(crate) fn yaml(value: &Json) -> String {
    remarked(value, &[])
}

/// A value as YAML, with what is to be said about it.
pub(crate) fn remarked(value: &Json, remarks: &[Remark]) -> String {
    let mut page = Page { text: String::new(), remarks };
    match value {
        Json::Object(map) if !map.is_empty() => page.map(map, 0, ""),
        Json::Array(items) if !items.is_empty() => page.list(items, 0, ""),
        scalar => page.line(0, &plain(scalar)),
    }
    page.text
}

struct Page<'a> {
    text: String,
    remarks: &'a [Remark],
}

impl Page<'_> {
    fn map(&mut self, map: &serde_json::Map<String, Json>, depth: usize, path: &str) {
        for (at, (key, value)) in map.iter().enumerate() {
            let path = format!("{path}/{}", escaped(key));
            // The first key of a list's entry stands behind its dash, and its remark above that.
            if at > 0 || !self.text.ends_with("- ") {
                self.remark(&path, depth);
                self.indent(depth);
            }
            self.text.push_str(&quoted(key));
            self.value(value, depth, &path);
        }
    }

    fn value(&mut self, value: &Json, depth: usize, path: &str) {
        match value {
            Json::Object(map) if !map.is_empty() => {
                self.text.push_str(":\n");
                self.map(map, depth + 1, path);
            }
            Json::Array(items) if !items.is_empty() => {
                self.text.push_str(":\n");
                self.list(items, depth, path);
            }
            Json::String(text) if is_block(text) => {
                self.text.push_str(": |\n");
                for line in text.lines() {
                    if line.is_empty() {
                        self.text.push('\n');
                    } else {
                        self.line(depth + 1, line);
                    }
                }
            }
            scalar => {
                self.text.push_str(": ");
                self.line(0, &plain(scalar));
            }
        }
    }

    fn list(&mut self, items: &[Json], depth: usize, path: &str) {
        for (at, item) in items.iter().enumerate() {
            let path = format!("{path}/{at}");
            self.remark(&path, depth);
            if let Some(first) = item.as_object().and_then(|map| map.keys().next()) {
                self.remark(&format!("{path}/{}", escaped(first)), depth);
            }
            self.indent(depth);
            self.text.push_str("- ");
            match item {
                Json::Object(map) if !map.is_empty() => self.map(map, depth + 1, &path),
                Json::Array(inner) if !inner.is_empty() => {
                    self.text.push('\n');
                    self.list(inner, depth + 1, &path);
                }
                scalar => self.line(0, &plain(scalar)),
            }
        }
    }

    fn remark(&mut self, path: &str, depth: usize) {
        for (_, why) in self.remarks.iter().filter(|(at, _)| *at == path) {
            for line in folded(why, WIDTH.saturating_sub(2 * depth)) {
                self.line(depth, &format!("# {line}"));
            }
        }
    }

    fn indent(&mut self, depth: usize) {
        self.text.push_str(&"  ".repeat(depth));
    }

    fn line(&mut self, depth: usize, line: &str) {
        self.indent(depth);
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// A key as it is spelled in a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Words in lines of at most so many letters.
pub(crate) fn folded(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Whether a text is read back as it was when it stands as a block: whole lines, none of which begins or ends
/// with something that a reader would take for layout.
fn is_block(text: &str) -> bool {
    let odd = |line: &str| line.ends_with([' ', '\t']) || line.chars().any(char::is_control);
    text.len() > 1
        && text.ends_with('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n', '\t'])
        && !text.lines().any(odd)
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => quoted(text),
        Json::Object(_) => "{}".to_owned(),
        Json::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// A text, quoted as JSON quotes it (which YAML reads) unless nobody could take it for anything else.
fn quoted(text: &str) -> String {
    let plain = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    let lower = text.to_ascii_lowercase();
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&lower.as_str());
    if plain && !word { text.to_owned() } else { Json::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_is_read_as_it_was_meant() {
        let value = json!({
            "name": "no", "size": 5, "path": "/a/b", "empty": [], "text": "a: b # c",
            "holders": [{ "holder": "x", "count": 1 }, { "holder": "123" }],
            "labels": { "a b": "c" }, "list": ["one", "2"],
        });
        let expected = "empty: []\nholders:\n- count: 1\n  holder: x\n- holder: \"123\"\nlabels:\n  \"a b\": c\n\
                        list:\n- one\n- \"2\"\nname: \"no\"\npath: /a/b\nsize: 5\ntext: \"a: b # c\"\n";
        assert_eq!(yaml(&value), expected);
    }

    #[test]
    fn a_text_of_several_lines_is_a_block_unless_a_reader_would_change_it() {
        assert_eq!(yaml(&json!({ "a": { "b": "x\n\n  y = 1\n" } })), "a:\n  b: |\n    x\n\n      y = 1\n");
        for odd in ["x", "x\ny", "x\n\n", " x\n", "x \ny\n", "x\ry\n", "\n"] {
            assert_eq!(yaml(&json!({ "a": odd })), format!("a: {}\n", quoted(odd)));
        }
    }

    #[test]
    fn remarks_stand_above_what_they_are_about() {
        let value = json!({ "spec": { "a": true, "list": [{ "x": 1 }, 2] } });
        let told = remarked(
            &value,
            &[("/spec/a", "Because."), ("/spec/list/0/x", "First."), ("/spec/list/1", "Last.")],
        );
        let expected = "spec:\n  # Because.\n  a: true\n  list:\n  # First.\n  - x: 1\n  # Last.\n  - 2\n";
        assert_eq!(told, expected);
        assert_eq!(folded("one two three", 7), ["one two", "three"]);
    }
}
