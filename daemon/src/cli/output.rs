//! What a command prints. Data goes to standard output and nothing else does; a table for people, or the
//! daemon's own words as JSON, as YAML, or as bare names for scripts.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value as Json;

use super::exit::Failure;
use crate::config::environment;

/// In which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns for people.
    Wide,
    /// The daemon's words as they are.
    Json,
    /// The same, easier on the eye.
    Yaml,
    /// One name a line.
    Name,
}

/// Where output goes.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) headers: bool,
    bold: bool,
}

/// A column: its title and what it says of a thing.
pub(crate) struct Column {
    title: &'static str,
    wide: bool,
    cell: fn(&Json) -> String,
}

/// A column that is always shown.
pub(crate) const fn column(title: &'static str, cell: fn(&Json) -> String) -> Column {
    Column { title, wide: false, cell }
}

/// A column that only the wide table has room for.
pub(crate) const fn wide(title: &'static str, cell: fn(&Json) -> String) -> Column {
    Column { title, wide: true, cell }
}

impl Output {
    pub(crate) fn new(format: Format, quiet: bool, no_headers: bool) -> Self {
        let format = if quiet { Format::Name } else { format };
        let bold = io::stdout().is_terminal() && !environment::no_color();
        Self { format, headers: !no_headers, bold }
    }

    /// Prints a list.
    pub(crate) fn list(&self, items: &[Json], columns: &[Column]) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Wide => self.text(&self.table(items, columns)),
            Format::Json => self.text(&pretty(&Json::from(items))),
            Format::Yaml => self.text(&yaml(&Json::from(items))),
            Format::Name => self.text(&names(items)),
        }
    }

    /// Prints one thing, or several as a list.
    pub(crate) fn things(&self, mut items: Vec<Json>) -> Result<(), Failure> {
        match (self.format, items.len()) {
            (Format::Name, _) => self.text(&names(&items)),
            (Format::Json, 1) => self.text(&pretty(&items.remove(0))),
            (Format::Json, _) => self.text(&pretty(&Json::from(items))),
            (Format::Table | Format::Wide | Format::Yaml, 1) => self.text(&yaml(&items.remove(0))),
            (Format::Table | Format::Wide | Format::Yaml, _) => self.text(&yaml(&Json::from(items))),
        }
    }

    /// Prints bytes as they are.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Prints bytes as they are.
    #[expect(clippy::unused_self, reason = "printing is this type's alone")]
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    fn table(&self, items: &[Json], columns: &[Column]) -> String {
        let shown: Vec<&Column> =
            columns.iter().filter(|column| self.format == Format::Wide || !column.wide).collect();
        let rows: Vec<Vec<String>> = items
            .iter()
            .map(|item| shown.iter().map(|column| printable(&(column.cell)(item))).collect())
            .collect();
        let mut widths: Vec<usize> =
            shown.iter().map(|column| if self.headers { column.title.len() } else { 0 }).collect();
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        if self.headers {
            let titles: Vec<String> = shown.iter().map(|column| column.title.to_owned()).collect();
            let line = aligned(&titles, &widths);
            if self.bold {
                text += &format!("\u{1b}[1m{line}\u{1b}[0m\n");
            } else {
                text += &format!("{line}\n");
            }
        }
        for row in &rows {
            text += &format!("{}\n", aligned(row, &widths));
        }
        text
    }
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line += &format!("{cell:<width$}   ");
    }
    line.trim_end().to_owned()
}

/// A name may hold anything; a terminal must not be told to do things by one.
fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn names(items: &[Json]) -> String {
    items.iter().fold(String::new(), |text, item| text + &printable(&word(item, "name")) + "\n")
}

fn pretty(value: &Json) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// A field as text; empty if there is none.
pub(crate) fn word(item: &Json, field: &str) -> String {
    match item.get(field) {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A value as YAML: block style, and every text that could be read as something else in quotes.
pub(crate) fn yaml(value: &Json) -> String {
    let mut text = String::new();
    match value {
        Json::Object(map) if !map.is_empty() => yaml_map(map, 0, &mut text),
        Json::Array(items) if !items.is_empty() => yaml_list(items, 0, &mut text),
        scalar => text += &format!("{}\n", yaml_scalar(scalar)),
    }
    text
}

fn yaml_map(map: &serde_json::Map<String, Json>, depth: usize, text: &mut String) {
    for (at, (key, value)) in map.iter().enumerate() {
        // The first key of a list's entry stands behind its dash.
        if at > 0 || !text.ends_with("- ") {
            text.push_str(&"  ".repeat(depth));
        }
        text.push_str(&yaml_text(key));
        yaml_value(value, depth, text);
    }
}

fn yaml_value(value: &Json, depth: usize, text: &mut String) {
    match value {
        Json::Object(map) if !map.is_empty() => {
            text.push_str(":\n");
            yaml_map(map, depth + 1, text);
        }
        Json::Array(items) if !items.is_empty() => {
            text.push_str(":\n");
            yaml_list(items, depth, text);
        }
        scalar => {
            *text += &format!(": {}\n", yaml_scalar(scalar));
        }
    }
}

fn yaml_list(items: &[Json], depth: usize, text: &mut String) {
    for item in items {
        text.push_str(&"  ".repeat(depth));
        text.push_str("- ");
        match item {
            Json::Object(map) if !map.is_empty() => yaml_map(map, depth + 1, text),
            Json::Array(inner) if !inner.is_empty() => {
                text.push('\n');
                yaml_list(inner, depth + 1, text);
            }
            scalar => {
                *text += &format!("{}\n", yaml_scalar(scalar));
            }
        }
    }
}

fn yaml_scalar(value: &Json) -> String {
    match value {
        Json::String(text) => yaml_text(text),
        Json::Object(_) => "{}".to_owned(),
        Json::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

/// A text, quoted as JSON quotes it (which YAML reads) unless nobody could take it for anything else.
fn yaml_text(text: &str) -> String {
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

    const COLUMNS: &[Column] =
        &[column("NAME", |item| word(item, "name")), wide("ID", |item| word(item, "id"))];

    fn output(format: Format, headers: bool) -> Output {
        Output { format, headers, bold: false }
    }

    #[test]
    fn tables_line_up_and_hide_what_a_terminal_would_obey() {
        let items = [json!({ "name": "a\u{1b}[2J", "id": 1 }), json!({ "name": "long-name" })];
        assert_eq!(output(Format::Table, true).table(&items, COLUMNS), "NAME\na\u{fffd}[2J\nlong-name\n");
        let wide = output(Format::Wide, false).table(&items, COLUMNS);
        assert_eq!(wide, "a\u{fffd}[2J       1\nlong-name   -\n");
    }

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
}
